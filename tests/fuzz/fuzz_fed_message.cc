/* Any bytes as a message of federated learning. What a lucky forger could get right is made right
 * (name, layout, lengths, checksum), so that the bodies are reached. */
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "runtime/fed/message.h"

static hn_fed_layout make_layout()
{
    hn_fed_layout l = {};
    const int64_t weight[] = {5, 9}, mean[] = {3};
    if (hn_fed_layout_add(&l, "weight", 2, weight, HN_FED_VALUE) != HN_OK ||
        hn_fed_layout_add(&l, "mean", 1, mean, HN_FED_BUFFER) != HN_OK ||
        hn_fed_layout_add(&l, "count", 0, nullptr, HN_FED_COUNTER) != HN_OK ||
        hn_fed_layout_add(&l, "bias", 1, mean, HN_FED_VALUE) != HN_OK)
        std::abort();
    return l;
}

static void decode(const hn_fed_layout *l, const std::vector<uint8_t> &bytes, bool fisher)
{
    const std::vector<float> base((size_t)l->n, 1);
    std::vector<float> value((size_t)l->n, NAN), h((size_t)l->values, NAN);
    hn_fed_head head = {};
    if (hn_fed_decode(l, bytes.data(), bytes.size(), HN_FED_UPDATE, -1, base.data(), &head,
                      value.data(), fisher ? h.data() : nullptr) != HN_OK)
        return;
    for (const float v : value)
        if (!std::isfinite(v)) std::abort();
    for (const float v : h)
        if (fisher && !(v >= 0 && std::isfinite(v))) std::abort();
    if (head.samples < 1 || head.client < 0 || head.round < 0) std::abort();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const hn_fed_layout layout = make_layout();
    std::vector<uint8_t> bytes(data, data + size);
    decode(&layout, bytes, false);
    if (size < HN_FED_HEADER_BYTES) return 0;
    /* the header of a sound message, but for the fields of its encoding */
    const std::vector<float> zero((size_t)layout.n, 0);
    hn_fed_bytes model = {};
    if (hn_fed_encode_model(&layout, 0, zero.data(), HN_FED_F32, &model) != HN_OK) std::abort();
    const int64_t body = (int64_t)size - HN_FED_HEADER_BYTES;
    std::memcpy(bytes.data(), model.data, 12);
    std::memcpy(bytes.data() + 56, model.data + 56, 48);
    std::memcpy(bytes.data() + 112, &body, sizeof body);
    hn_fed_bytes_free(&model);
    hn_fed_bytes raw = {bytes.data(), bytes.size(), bytes.size()};
    hn_fed_seal(&raw);
    decode(&layout, bytes, false);
    decode(&layout, bytes, true);
    return 0;
}
