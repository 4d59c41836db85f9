/* A block takes 1024 pixels of one output image, a thread a pixel with all its channels at a time;
 * one thread draws the image's box for the block. */
#include "kernels/vision/cuda_image.h"
#include "runtime/base/check.h"

namespace {

using namespace hn_image;

constexpr int kThreads = 256;
constexpr int64_t kPixels = 4 * kThreads; /* of a block: a CIFAR image */
constexpr int64_t kMaxBlocks = INT32_MAX; /* then blocks take several pieces */

template <class T>
struct Prep {
    const uint8_t *images;
    const int32_t *labels, *index;
    T *y;
    int32_t *y_labels;
    const hn_rng_state *state;
    int64_t state_stride, group; /* rows of a replica */
    uint64_t key;
    int64_t count, ld_images, n, pieces, out_channels, ld_y;
    int32_t channels;
    uint32_t pixels; /* of an output image */
    hn_divisor by_width;
    hn_image_rule rule;
};

/* v[k] of pixel (r, q), q counted before flipping, of a crop: black outside the image. */
template <class T>
__device__ __forceinline__ void take_crop(const Prep<T> &a, const hn_image_box &b, int64_t image,
                                          int32_t r, int32_t q, float (&v)[HN_IMAGE_CHANNELS])
{
    const int32_t row = b.top + r, col = b.left + q;
    const bool inside = row >= 0 && row < a.rule.height && col >= 0 && col < a.rule.width;
    const uint8_t *const from =
        a.images + ((image * a.rule.height + row) * a.rule.width + col) * a.ld_images;
#pragma unroll
    for (int k = 0; k < HN_IMAGE_CHANNELS; k++)
        v[k] = inside && k < a.channels ? (float)from[k] : 0.0f;
}

/* The rule's address is taken: __grid_constant__ saves each thread a copy of the arguments. */
template <class T, bool kResized, bool kPacks>
__global__ void __launch_bounds__(kThreads) image_prep_kernel(const __grid_constant__ Prep<T> a)
{
    __shared__ hn_image_box box;
    for (int64_t b = blockIdx.x; b < a.n * a.pieces; b += gridDim.x) {
        const int64_t i = b / a.pieces, piece = b - i * a.pieces, image = a.index[i];
        const bool known = image >= 0 && image < a.count; /* the same for the block */
        if (threadIdx.x == 0) {
            box = a.rule.fixed;
            if (a.rule.train && known)
                box = hn_image_box_at(&a.rule, a.state, a.state_stride, a.group, a.key, i);
            if (piece == 0 && a.y_labels != nullptr)
                a.y_labels[i] = known ? a.labels[image] : HN_LABEL_IGNORED;
        }
        __syncthreads();
        const uint32_t first = (uint32_t)(piece * kPixels);
        const uint32_t end = a.pixels - first < kPixels ? a.pixels : first + (uint32_t)kPixels;
        for (uint32_t p = first + threadIdx.x; p < end; p += kThreads) {
            float v[HN_IMAGE_CHANNELS] = {};
            if (known) {
                const int32_t r = (int32_t)hn_divide(p, a.by_width);
                int32_t q = (int32_t)p - r * a.rule.out_width;
                if (box.flip) q = a.rule.out_width - 1 - q;
                if (kResized)
                    take_resized(a.images, a.ld_images, a.channels, a.rule, box, image, r, q, v);
                else
                    take_crop(a, box, image, r, q, v);
#pragma unroll
                for (int k = 0; k < HN_IMAGE_CHANNELS; k++)
                    v[k] = k < a.channels ? fmaf(v[k], a.rule.factor[k], a.rule.shift[k]) : 0.0f;
            }
            store<kPacks>(a.y + (i * a.pixels + p) * a.ld_y, a.out_channels, v);
        }
        __syncthreads(); /* before the next piece's box */
    }
}

template <class T>
void launch(const hn_image_prep_args *a, cudaStream_t stream)
{
    const int64_t pixels = a->out_height * a->out_width, pieces = (pixels + kPixels - 1) / kPixels;
    const Prep<T> prep = {a->images,
                          a->labels,
                          a->index,
                          (T *)a->y,
                          a->y_labels,
                          a->state,
                          a->state_stride,
                          a->n / hn_replica_count(a->replicas),
                          a->key,
                          a->count,
                          a->ld_images,
                          a->n,
                          pieces,
                          a->out_channels,
                          a->ld_y,
                          (int32_t)a->channels,
                          (uint32_t)pixels,
                          hn_divisor_of(a->out_width),
                          hn_image_rule_of(a)};
    const bool packs = in_packs(a->y, a->out_channels, a->ld_y, a->dtype);
    const auto kernel =
        a->resized
            ? (packs ? image_prep_kernel<T, true, true> : image_prep_kernel<T, true, false>)
            : (packs ? image_prep_kernel<T, false, true> : image_prep_kernel<T, false, false>);
    kernel<<<hn_grid(a->n * pieces, 1, kMaxBlocks), kThreads, 0, stream>>>(prep);
}

} // namespace

hn_status hn_image_prep_cuda(const hn_image_prep_args *a, hn_stream stream)
{
    HN_TRY(hn_image_prep_check(a));
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, stream));
    return HN_CUDA_LAUNCHED("image_prep");
}
