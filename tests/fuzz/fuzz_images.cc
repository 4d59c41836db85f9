/* Any bytes as an image file: the first byte chooses what they are taken for. What is accepted must
 * lie in its bounds (sanitizers look) and decode a second time to the same pixels. */
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "runtime/data/image_decode.h"
#include "runtime/data/images_impl.h"

namespace {

constexpr int64_t kMaxPixels = 1 << 16;

void check(bool ok)
{
    if (!ok) std::abort();
}

void fuzz_picture(const uint8_t *data, size_t n, int c)
{
    hn_image_info info = {};
    if (hn_image_probe(data, n, "fuzz", kMaxPixels, &info) != HN_OK) {
        check(std::strstr(hn_last_error(), "fuzz: ") != nullptr);
        return;
    }
    check(info.h >= 1 && info.w >= 1 && info.h * info.w <= kMaxPixels);
    check((info.c == 1 || info.c == 3) && info.orientation >= 1 && info.orientation <= 8);
    if (c == 0) c = info.c;
    std::vector<uint8_t> a((size_t)(info.h * info.w * c), 1), b(a.size(), 2), small(49 * (size_t)c);
    const hn_status st = hn_image_decode(data, n, "fuzz", &info, c, a.data());
    check((st == HN_ERR_SHAPE) == (c < info.c));
    if (st != HN_OK) return;
    check(hn_image_decode(data, n, "fuzz", &info, c, b.data()) == HN_OK);
    check(a == b);
    check(hn_image_resize_crop(a.data(), info.h, info.w, c, 9, 7, small.data()) == HN_OK);
}

void fuzz_idx(const uint8_t *data, size_t n)
{
    const hn_image_limits limits = {kMaxPixels, 0};
    hn_idx_images found = {};
    if (hn_idx_parse_images(data, n, "fuzz", &limits, &found) == HN_OK) {
        const int64_t bytes = found.count * found.h * found.w * found.c;
        check(found.pixel >= data && found.pixel + bytes == data + n);
        check(hn_idx_bytes(data, n) == n);
    }
    for (int64_t count : {(int64_t)n - 8, (int64_t)2}) {
        if (count < 1) continue;
        std::vector<int32_t> label((size_t)count);
        if (hn_idx_parse_labels(data, n, "fuzz", count, label.data()) != HN_OK)
            check(std::strstr(hn_last_error(), "fuzz: ") != nullptr);
    }
}

void fuzz_cifar(const uint8_t *data, size_t n, hn_image_kind kind)
{
    hn_image_kind found = HN_IMAGES_AUTO;
    int64_t count = 0;
    if (hn_cifar_parse(data, n, "fuzz", kind, &found, &count) != HN_OK) return;
    std::vector<int32_t> label((size_t)count);
    std::vector<uint8_t> pixel((size_t)count * 3072);
    for (bool coarse : {false, true}) {
        hn_cifar_copy(data, count, found, coarse, label.data(), pixel.data());
        const bool ten = found == HN_IMAGES_CIFAR10;
        for (int32_t y : label) check(y >= 0 && y < (ten ? 10 : coarse ? 20 : 100));
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    /* a copy of its own, so that reading past the end is seen */
    const std::vector<uint8_t> bytes(data + 1, data + size);
    const uint8_t *p = bytes.data();
    const size_t n = bytes.size();
    static const uint8_t none = 0;
    if (p == nullptr) p = &none;
    switch (data[0] % 8) {
    case 0: fuzz_picture(p, n, 0); break;
    case 1: fuzz_picture(p, n, 1); break;
    case 2: fuzz_picture(p, n, 3); break;
    case 3: fuzz_idx(p, n); break;
    case 4: fuzz_cifar(p, n, HN_IMAGES_AUTO); break;
    case 5: fuzz_cifar(p, n, HN_IMAGES_CIFAR10); break;
    case 6: fuzz_cifar(p, n, HN_IMAGES_CIFAR100); break;
    default: check(hn_exif_orientation(p, n) >= 1); break;
    }
    return 0;
}
