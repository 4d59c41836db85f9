/* First the mean of every support image, a block each: sums of bytes by integer weights, which are
 * the same in any order. Then a block takes 1024 pixels of one image of y, a thread a pixel with
 * all its channels at a time; one thread draws the image's view for the block. */
#include "kernels/vision/cuda_image.h"
#include "kernels/vision/few_shot_view.h"
#include "runtime/base/check.h"

namespace {

using namespace hn_image;

constexpr int kMeanThreads = 128; /* 8 pixels each of a 32 x 32 image */
constexpr int kThreads = 256;
constexpr int64_t kPixels = 4 * kThreads; /* of a block */
constexpr int64_t kMaxBlocks = INT32_MAX; /* then blocks take several pieces */

template <class T>
struct Prep {
    const uint8_t *images;
    const int32_t *index, *labels;
    T *y;
    int32_t *y_labels;
    float *means; /* [replicas support] */
    const hn_rng_state *state;
    int64_t state_stride;
    uint64_t key;
    int64_t count, ld_images, rows, support, pieces, out_channels, ld_y;
    int32_t channels;
    uint32_t pixels; /* of an output image */
    float augment, share;
    hn_divisor by_width;
    hn_image_rule rule;
};

/* weight[s]: how much of source line s of `size` the `out` lines of a resized image take. */
__device__ __forceinline__ void sum_weights(int32_t out, int32_t size, int32_t *weight)
{
    for (int32_t s = (int32_t)threadIdx.x; s < size; s += kMeanThreads) weight[s] = 0;
    __syncthreads();
    for (int32_t at = (int32_t)threadIdx.x; at < out; at += kMeanThreads) {
        const hn_image_tap tap = hn_image_tap_of(at, out, size);
        const int32_t second = hn_few_shot_weight(tap);
        atomicAdd(weight + tap.first, HN_FEW_SHOT_ONE - second);
        atomicAdd(weight + tap.second, second);
    }
    __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kMeanThreads)
    few_shot_mean_kernel(const __grid_constant__ Prep<T> a)
{
    extern __shared__ int32_t weights[];
    const int64_t i = blockIdx.x, image = a.index[i];
    if (image < 0 || image >= a.count) return; /* the same for the block */
    const hn_image_box &box = a.rule.fixed;
    int32_t *const column_weights = weights + box.height;
    sum_weights(a.rule.out_height, box.height, weights);
    sum_weights(a.rule.out_width, box.width, column_weights);
    const uint8_t *const from = a.images + image * a.rule.height * a.rule.width * a.ld_images;
    int64_t sum[HN_IMAGE_CHANNELS] = {};
    for (int32_t p = (int32_t)threadIdx.x; p < box.height * box.width; p += kMeanThreads) {
        const int32_t row = p / box.width, col = p - row * box.width;
        const int64_t weight = (int64_t)weights[row] * column_weights[col];
        const int64_t at = (int64_t)(box.top + row) * a.rule.width + box.left + col;
#pragma unroll
        for (int k = 0; k < HN_IMAGE_CHANNELS; k++)
            if (k < a.channels) sum[k] += weight * from[at * a.ld_images + k];
    }
#pragma unroll
    for (int k = 0; k < HN_IMAGE_CHANNELS; k++) sum[k] = hn_block_sum<kMeanThreads>(sum[k]);
    if (threadIdx.x == 0) a.means[i] = hn_few_shot_mean(&a.rule, a.channels, sum);
}

/* What a block needs of its row of y. */
struct Row {
    hn_few_shot_view view;
    float mean;
};

template <class T>
__device__ __forceinline__ Row row_of(const Prep<T> &a, int64_t g, int64_t j)
{
    Row row = {};
    if (j < a.support) return row; /* clean */
    const hn_rng_state *const state = hn_few_shot_state(a.state, a.state_stride, g);
    row.view = hn_few_shot_view_of(&a.rule, state, a.key, a.augment, j - a.support);
    row.mean = a.means[g * a.support + j - a.support];
    return row;
}

/* The rule's address is taken: __grid_constant__ saves each thread a copy of the arguments. */
template <class T, bool kPacks>
__global__ void __launch_bounds__(kThreads) few_shot_prep_kernel(const __grid_constant__ Prep<T> a)
{
    __shared__ Row row;
    for (int64_t b = blockIdx.x; b < a.rows * a.pieces; b += gridDim.x) {
        const int64_t i = b / a.pieces, piece = b - i * a.pieces;
        const int64_t g = i / (2 * a.support), j = i - 2 * g * a.support;
        const int64_t source = g * a.support + (j < a.support ? j : j - a.support);
        const int64_t image = a.index[source];
        const bool known = image >= 0 && image < a.count; /* the same for the block */
        if (threadIdx.x == 0) {
            if (known) row = row_of(a, g, j);
            if (piece == 0 && a.y_labels != nullptr)
                a.y_labels[i] = known ? a.labels[source] : HN_LABEL_IGNORED;
        }
        __syncthreads();
        const uint32_t first = (uint32_t)(piece * kPixels);
        const uint32_t end = a.pixels - first < kPixels ? a.pixels : first + (uint32_t)kPixels;
        for (uint32_t p = first + threadIdx.x; p < end; p += kThreads) {
            float v[HN_IMAGE_CHANNELS] = {};
            int32_t r = (int32_t)hn_divide(p, a.by_width);
            int32_t q = (int32_t)p - r * a.rule.out_width;
            if (known && (!row.view.changed || hn_few_shot_source(&a.rule, &row.view, &r, &q))) {
                take_resized(a.images, a.ld_images, a.channels, a.rule, a.rule.fixed, image, r, q,
                             v);
#pragma unroll
                for (int k = 0; k < HN_IMAGE_CHANNELS; k++)
                    v[k] = k < a.channels ? fmaf(v[k], a.rule.factor[k], a.rule.shift[k]) : 0.0f;
                if (row.view.changed)
                    hn_few_shot_colour(&row.view, row.mean, a.channels, a.share, v);
            }
            store<kPacks>(a.y + (i * a.pixels + p) * a.ld_y, a.out_channels, v);
        }
        __syncthreads(); /* before the next piece's row */
    }
}

template <class T>
void launch(const hn_few_shot_prep_args *a, void *scratch, cudaStream_t stream)
{
    const int64_t pixels = a->out_height * a->out_width, pieces = (pixels + kPixels - 1) / kPixels;
    const int64_t sources = hn_replica_count(a->replicas) * a->support;
    const Prep<T> prep = {a->images,
                          a->index,
                          a->labels,
                          (T *)a->y,
                          a->y_labels,
                          (float *)scratch,
                          a->state,
                          a->state_stride,
                          a->key,
                          a->count,
                          a->ld_images,
                          2 * sources,
                          a->support,
                          pieces,
                          a->out_channels,
                          a->ld_y,
                          (int32_t)a->channels,
                          (uint32_t)pixels,
                          a->augment,
                          1.0f / (float)a->channels,
                          hn_divisor_of(a->out_width),
                          hn_few_shot_rule_of(a)};
    const hn_image_box &box = prep.rule.fixed;
    few_shot_mean_kernel<T><<<(unsigned)sources, kMeanThreads,
                              (size_t)(box.height + box.width) * sizeof(int32_t), stream>>>(prep);
    const auto kernel = in_packs(a->y, a->out_channels, a->ld_y, a->dtype)
                            ? few_shot_prep_kernel<T, true>
                            : few_shot_prep_kernel<T, false>;
    kernel<<<hn_grid(prep.rows * pieces, 1, kMaxBlocks), kThreads, 0, stream>>>(prep);
}

} // namespace

size_t hn_few_shot_prep_cuda_scratch(const hn_few_shot_prep_args *a)
{
    return (size_t)(hn_replica_count(a->replicas) * a->support) * sizeof(float);
}

hn_status hn_few_shot_prep_cuda(const hn_few_shot_prep_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_few_shot_prep_check(a));
    HN_TRY(hn_check_pointer("few_shot_prep", "scratch", scratch));
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, scratch, stream));
    return HN_CUDA_LAUNCHED("few_shot_prep");
}
