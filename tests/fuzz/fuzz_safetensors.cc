/* Any bytes: hn_st_parse either refuses them with a text or gives tensors that lie in them. */
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "runtime/file/model_dir.h"
#include "runtime/file/safetensors.h"

static void check(bool ok)
{
    if (!ok) std::abort();
}

static void check_tensor(const hn_st_file *f, const hn_st_tensor *t, const uint8_t *data,
                         size_t size)
{
    const auto *p = static_cast<const uint8_t *>(t->data);
    check(p >= data && p + t->n_bytes <= data + size);
    check(hn_st_find(f, t->name) == t);
    const int64_t n = hn_st_elements(t);
    check((uint64_t)n * (uint64_t)hn_st_dtype_bits(t->dtype) == (uint64_t)t->n_bytes * 8);
    std::vector<double> room((size_t)n + 1); /* wide enough for every target type */
    for (int to = 0; to < HN_DTYPE_COUNT; to++)
        if (hn_st_convert(t, (hn_dtype)to, room.data()) != HN_OK) check(*hn_last_error() != '\0');
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hn_st_file *f = nullptr;
    const hn_status st = hn_st_parse(data, size, "fuzz", &f);
    check((st == HN_OK) == (f != nullptr));
    if (f == nullptr) {
        check(std::strstr(hn_last_error(), "fuzz") != nullptr);
        return 0;
    }
    std::vector<const hn_st_tensor *> tensors;
    for (int64_t i = 0; i < hn_st_count(f); i++) {
        tensors.push_back(hn_st_at(f, i));
        check_tensor(f, tensors.back(), data, size);
    }
    hn_st_find(f, "absent");
    hn_st_metadata(f, "format");
    char hex[HN_SHA256_HEX];
    const hn_status digest = hn_tensor_tree_digest(tensors.data(), (int64_t)tensors.size(), hex);
    check(digest == HN_OK || digest == HN_ERR_FORMAT);
    hn_st_close(f);
    return 0;
}
