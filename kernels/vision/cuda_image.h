/* cuda_image.h - what the kernels that make batches of images share: resized pixels, and stores of
 * a pixel's channels (for .cu files of this folder only).
 */
#ifndef HN_CUDA_IMAGE_H
#define HN_CUDA_IMAGE_H
#include "kernels/vision/image_box.h"
#include "runtime/base/cuda_math.h"

namespace hn_image {

constexpr int kPack = 4; /* channels of a store of 8 or 16 bytes */

/* v[k] of pixel (r, q), q counted before flipping, of a box made as large as the output. */
static __device__ __forceinline__ void take_resized(const uint8_t *images, int64_t ld,
                                                    int32_t channels, const hn_image_rule &rule,
                                                    const hn_image_box &b, int64_t image, int32_t r,
                                                    int32_t q, float (&v)[HN_IMAGE_CHANNELS])
{
    const hn_image_tap y = hn_image_tap_of(r, rule.out_height, b.height);
    const hn_image_tap x = hn_image_tap_of(q, rule.out_width, b.width);
    const uint8_t *const base = images + image * rule.height * rule.width * ld;
    const uint8_t *const above = base + (int64_t)(b.top + y.first) * rule.width * ld;
    const uint8_t *const below = base + (int64_t)(b.top + y.second) * rule.width * ld;
    const int64_t first = (b.left + x.first) * ld;
    const int64_t second = (b.left + x.second) * ld;
#pragma unroll
    for (int k = 0; k < HN_IMAGE_CHANNELS; k++) {
        v[k] = 0.0f;
        if (k >= channels) continue;
        const float up = hn_image_mix((float)above[first + k], (float)above[second + k], x.weight);
        const float down =
            hn_image_mix((float)below[first + k], (float)below[second + k], x.weight);
        v[k] = hn_image_mix(up, down, y.weight);
    }
}

static __device__ __forceinline__ void store_pack(float *to, const float (&v)[kPack])
{
    *reinterpret_cast<float4 *>(to) = make_float4(v[0], v[1], v[2], v[3]);
}

static __device__ __forceinline__ void store_pack(__nv_bfloat16 *to, const float (&v)[kPack])
{
    const __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(v[0], v[1]),
                                    __floats2bfloat162_rn(v[2], v[3])};
    uint2 word;
    memcpy(&word, pair, sizeof word);
    *reinterpret_cast<uint2 *>(to) = word;
}

/* The channels of a pixel; those behind v are 0. */
template <bool kPacks, class T>
static __device__ __forceinline__ void store(T *to, int64_t channels, const float (&v)[kPack])
{
    static_assert((int)kPack == (int)HN_IMAGE_CHANNELS, "v is the first pack");
    if constexpr (kPacks) {
        const float zero[kPack] = {};
        store_pack(to, v);
        for (int64_t k = kPack; k < channels; k += kPack) store_pack(to + k, zero);
    } else {
#pragma unroll
        for (int k = 0; k < kPack; k++)
            if (k < channels) to[k] = hn_round<T>(v[k]);
        for (int64_t k = kPack; k < channels; k++) to[k] = hn_round<T>(0.0f);
    }
}

/* Whether stores go in packs. */
static inline bool in_packs(const void *y, int64_t channels, int64_t ld, hn_dtype t)
{
    return channels % kPack == 0 && ld % kPack == 0 &&
           (uintptr_t)y % (kPack * hn_dtype_size(t)) == 0;
}

} // namespace hn_image
#endif
