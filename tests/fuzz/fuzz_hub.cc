/* Any bytes as what ranks send each other: hello, answer, frame, head, address, rendezvous file. */
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unistd.h>
#include <vector>

#include "runtime/comm/hub_impl.h"

static bool one_line(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20) return false;
    return true;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static hn_hub_key key = [] {
        hn_hub_key k;
        if (hn_hub_key_make("job", "secret", &k) != HN_OK) std::abort();
        return k;
    }();
    std::vector<uint8_t> bytes(data, data + size);
    bytes.resize(size < 512 ? 512 : size); /* the fixed lengths read zeros behind */
    const uint8_t *b = bytes.data();

    const uint8_t greeting[HN_HUB_GREETING] = {};
    hn_hub_hello hello = {};
    if (hn_hub_hello_read(&key, greeting, b, &hello) == HN_HUB_PEER_OK) std::abort(); /* forged */
    char text[HN_HUB_ANSWER_TEXT];
    const auto kind = hn_hub_answer_read(&key, b, b, text);
    if (kind == HN_HUB_PEER_OK || kind == HN_HUB_PEER_REFUSED) std::abort();

    hn_hub_frame f = {};
    uint8_t again[HN_HUB_FRAME];
    if (hn_hub_frame_read(b, &f)) {
        hn_hub_frame_write(&f, again);
        if (std::memcmp(again, b, sizeof again) != 0) std::abort(); /* one spelling for each */
    }
    hn_hub_head h = {};
    if (hn_hub_head_read(b, &h)) {
        hn_hub_head_write(&h, again);
        if (std::memcmp(again, b, sizeof again) != 0) std::abort();
    }

    const std::string address(data, data + size);
    hn_socket_target t;
    if (hn_socket_target_read(address.c_str(), &t) == HN_OK && std::atoi(t.port) < 1) std::abort();

    /* a file of this job, then anything */
    static const std::string path = "/tmp/fuzz_hub-" + std::to_string(getpid());
    char head[128];
    int n = std::snprintf(head, sizeof head, "hone-hub 1\n");
    if (hn_hub_key_tag(&key, head + n) != HN_OK) std::abort();
    n += 64;
    head[n++] = '\n';
    FILE *file = std::fopen(path.c_str(), "wb");
    if (file == nullptr) std::abort();
    std::fwrite(head, 1, (size_t)n, file);
    std::fwrite(data, 1, size, file);
    std::fclose(file);
    hn_hub_places p = {};
    if (hn_hub_file_read(path.c_str(), &key, &p) == HN_OK)
        for (int i = 0; i < p.n; i++)
            if (p.place[i].host[0] == '\0' || std::strlen(p.place[i].port) > 5) std::abort();
    unlink(path.c_str());

    hn_hub_one_line(reinterpret_cast<char *>((bytes.back() = 0, bytes.data())));
    if (!one_line(reinterpret_cast<char *>(bytes.data()))) std::abort();
    return 0;
}
