/* Any bytes as a config file; what is accepted must come back unchanged from its run record. */
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "runtime/base/alloc.h"
#include "runtime/base/options.h"

namespace {

struct Config {
    const char *text, *word;
    int64_t whole;
    double real;
    bool flag;
    hn_text_list list;
};

#define AT(field) offsetof(Config, field)
const hn_option kTable[] = {
    HN_OPT_TITLE("All kinds"),
    {"t", HN_OPT_TEXT, AT(text), "", 0, 0, nullptr, ""},
    {"s.word", HN_OPT_TEXT, AT(word), "a", 0, 0, "a|b", ""},
    {"i", HN_OPT_INT, AT(whole), "0", -100, 1e18, nullptr, ""},
    {"s.x", HN_OPT_REAL, AT(real), "0", 0, 0, nullptr, ""},
    {"f", HN_OPT_FLAG, AT(flag), "off", 0, 0, nullptr, ""},
    {"l", HN_OPT_LIST, AT(list), "", 0, 0, nullptr, ""},
};
constexpr size_t kRows = sizeof kTable / sizeof *kTable;

hn_status parse(const void *data, size_t size, Config *c, hn_options_store **store)
{
    const int fd = memfd_create("config", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) std::abort();
    std::string path = "/proc/self/fd/" + std::to_string(fd);
    char name[] = "fuzz", option[] = "--config";
    char *argv[] = {name, option, path.data()};
    const hn_status st = hn_options_parse(kTable, kRows, 3, argv, c, store);
    close(fd);
    return st;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Config c = {}, back = {};
    hn_options_store *store = nullptr, *again = nullptr;
    char *record = nullptr, *record_again = nullptr;
    if (parse(data, size, &c, &store) != HN_OK) return 0;
    if (hn_options_yaml(kTable, kRows, &c, &record) != HN_OK) std::abort(); /* YAML gave UTF-8 */
    if (parse(record, std::strlen(record), &back, &again) != HN_OK) {
        std::fprintf(stderr, "%s\n%s", hn_last_error(), record);
        std::abort();
    }
    if (std::strcmp(c.text, back.text) != 0 || std::strcmp(c.list.joined, back.list.joined) != 0 ||
        std::memcmp(&c.real, &back.real, sizeof c.real) != 0 || c.whole != back.whole)
        std::abort();
    if (hn_options_yaml(kTable, kRows, &back, &record_again) != HN_OK ||
        std::strcmp(record, record_again) != 0)
        std::abort();
    hn_free(record), hn_free(record_again);
    hn_options_free(store), hn_options_free(again);
    return 0;
}
