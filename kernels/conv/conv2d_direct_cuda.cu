/* Few taps, few filters, few pixels: stems, of 3 x 3 pixels of 3 channels or 5 x 5 of one. A thread
 * keeps what a pixel of y sees of x in registers and multiplies it by kFilters filters at a time,
 * which lie in shared memory as fp32: one launch, no patches. The gradient of w: blocks sum over
 * rows of their own, a second kernel adds these sums in order. Replicas have blocks of their own.
 */
#include "kernels/conv/cuda_conv2d.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 128; /* few, so that 32 small images still reach all multiprocessors */
constexpr int kTaps = 28;     /* 3 x 3 x 3 and 5 x 5, rounded up to 4 */
constexpr int kMostOut = 64;  /* beyond that tensor cores make up for the patches */
constexpr int kFilters = 16;  /* sums of a thread; two stores of 16 bytes in bf16 */
constexpr int64_t kMostRows =
    1 << 17; /* of y, of one replica; of more, patches and a product take less time */
constexpr int64_t kMostReplicas = 65535; /* of a grid */
static_assert(kMostOut % kFilters == 0 && kFilters % HN_VEC == 0, "whole groups, whole stores");

/* x, and what pixels of y see of it. Replicas lie x_stride apart. */
template <class T>
struct Image {
    const T *x;
    int64_t ld_x, x_stride;
    uint32_t rows; /* of y, of one replica */
    int32_t h, width, out_h, out_w, in, out, kw, stride, pad, dilation, taps;
    hn_divisor by_out_w, by_out_h;
};

template <class T>
struct Direct : Image<T> {
    const T *w;
    const void *bias; /* nullptr: none */
    T *y;
    int64_t ld_w, ld_y, w_stride, bias_stride;
    bool bias_is_bf16, relu, wide;
};

/* The replica of a block. */
template <class T>
__device__ __forceinline__ Direct<T> own_part(const Direct<T> &all)
{
    Direct<T> a = all;
    const int64_t g = blockIdx.y, bias_bytes = a.bias_is_bf16 ? 2 : 4;
    a.x += g * a.x_stride, a.w += g * a.w_stride, a.y += g * a.rows * a.ld_y;
    if (a.bias != nullptr)
        a.bias = static_cast<const char *>(a.bias) + g * a.bias_stride * bias_bytes;
    return a;
}

/* w[o][tap] as filter[tap][o], with zeros where there is none; the last row is the bias. */
template <class T>
__device__ __forceinline__ void load_filters(const Direct<T> &a, float (*filter)[kMostOut])
{
    for (int o = threadIdx.x; o < kMostOut; o += kThreads) {
        const T *const w = a.w + o * a.ld_w;
#pragma unroll
        for (int t = 0; t < kTaps; t++)
            filter[t][o] = o < a.out && t < a.taps ? hn_f32(w[t]) : 0.0f;
        float bias = 0.0f;
        if (a.bias != nullptr && o < a.out)
            bias = a.bias_is_bf16 ? hn_f32(static_cast<const __nv_bfloat16 *>(a.bias)[o])
                                  : static_cast<const float *>(a.bias)[o];
        filter[kTaps][o] = bias;
    }
    __syncthreads();
}

/* What pixel `row` of y sees, in the order of w; zeros outside the image and behind the taps. */
template <class T>
__device__ __forceinline__ void load_patch(const Image<T> &a, uint32_t row, float (&v)[kTaps])
{
    const uint32_t line = hn_divide(row, a.by_out_w), image = hn_divide(line, a.by_out_h);
    /* unsigned: what lies above or to the left of the image is far behind it */
    uint32_t i = (line - image * (uint32_t)a.out_h) * (uint32_t)a.stride - (uint32_t)a.pad;
    const uint32_t j0 = (row - line * (uint32_t)a.out_w) * (uint32_t)a.stride - (uint32_t)a.pad;
    const T *const x = a.x + (int64_t)image * a.h * a.width * a.ld_x;
    uint32_t j = j0;
    int32_t column = 0, channel = 0;
#pragma unroll
    for (int t = 0; t < kTaps; t++) {
        const bool inside = t < a.taps && i < (uint32_t)a.h && j < (uint32_t)a.width;
        v[t] = inside ? hn_f32(x[((int64_t)i * a.width + j) * a.ld_x + channel]) : 0.0f;
        if (++channel < a.in) continue;
        channel = 0, j += (uint32_t)a.dilation;
        if (++column < a.kw) continue;
        column = 0, j = j0, i += (uint32_t)a.dilation;
    }
}

/* y[0 .. n) of a pixel: up to kFilters sums. */
template <class T>
__device__ __forceinline__ void store_sums(const Direct<T> &a, T *y, int n,
                                           const float (&sum)[kFilters])
{
#pragma unroll
    for (int k = 0; k < kFilters; k += HN_VEC) {
        float part[HN_VEC];
#pragma unroll
        for (int e = 0; e < HN_VEC; e++) part[e] = sum[k + e];
        if (a.wide) {
            hn_store_span<HN_VEC>(y + k, n - k, part);
            continue;
        }
#pragma unroll
        for (int e = 0; e < HN_VEC; e++)
            if (k + e < n) y[k + e] = hn_round<T>(part[e]);
    }
}

template <class T>
__global__ void __launch_bounds__(kThreads) direct_kernel(const Direct<T> all)
{
    __shared__ __align__(16) float filter[kTaps + 1][kMostOut];
    const Direct<T> a = own_part(all);
    const uint32_t row = blockIdx.x * kThreads + threadIdx.x;
    load_filters(a, filter);
    if (row >= a.rows) return;
    float v[kTaps];
    load_patch<T>(a, row, v);
#pragma unroll 1
    for (int first = 0; first < a.out; first += kFilters) {
        float sum[kFilters] = {};
#pragma unroll
        for (int t = 0; t < kTaps; t++)
#pragma unroll
            for (int k = 0; k < kFilters; k += 4) {
                const float4 f = *reinterpret_cast<const float4 *>(&filter[t][first + k]);
                sum[k] = fmaf(v[t], f.x, sum[k]);
                sum[k + 1] = fmaf(v[t], f.y, sum[k + 1]);
                sum[k + 2] = fmaf(v[t], f.z, sum[k + 2]);
                sum[k + 3] = fmaf(v[t], f.w, sum[k + 3]);
            }
#pragma unroll
        for (int k = 0; k < kFilters; k++) {
            sum[k] += filter[kTaps][first + k];
            if (a.relu && sum[k] < 0.0f) sum[k] = 0.0f; /* NaN stays */
        }
        store_sums(a, a.y + row * a.ld_y + first, a.out - first, sum);
    }
}

/* ---- gradient of w ---- */

constexpr int kDwThreads = 256;
constexpr int kDwMostBlocks = 264;         /* two a multiprocessor of an H200; all of one wave */
constexpr int kDwReplicaBlocks = 1056;     /* of replicas: the last wave is not full */
constexpr int kDwFilters = 4, kDwTaps = 7; /* of w, a thread's */
constexpr int kDwSlices = kDwThreads / 32; /* of the blocks' sums */

/* For up to kOut filters: the more, the fewer rows are in shared memory at a time. */
template <int kOut>
struct Tile {
    static constexpr int kRows = 4096 / kOut;                           /* of y */
    static constexpr int kTeam = kOut / kDwFilters * (kTaps / kDwTaps); /* threads that make w */
    static constexpr int kTeams = kDwThreads / kTeam; /* each takes some rows of a tile */
    static constexpr int kSums = kTaps * kOut;        /* of a block */
    static_assert(kTaps % kDwTaps == 0 && kDwThreads % kTeam == 0 && kRows % kTeams == 0 &&
                      kRows * kTaps >= kSums && kRows <= kDwThreads && kSums % 32 == 0,
                  "teams, and sums in the place of patches");
};
constexpr int kDwNarrow = 32; /* filters of the smaller tile */

template <class T>
struct DirectDw : Image<T> {
    const T *dy;
    int64_t ld_dy;
    uint32_t piece; /* rows of a block, whole tiles */
    bool wide;
    float *partial; /* [replicas][blocks][kTaps][kOut] */
};

/* dy and patches of the rows of a tile from `first` on; zeros where there are none. */
template <class T, int kOut>
__device__ __forceinline__ void load_tile(const DirectDw<T> &a, uint32_t first, float (*dy)[kOut],
                                          float (*patch)[kTaps])
{
    constexpr int kRows = Tile<kOut>::kRows, kSpans = kOut / HN_VEC; /* of a row of dy */
    for (int s = threadIdx.x; s < kRows * kSpans; s += kDwThreads) {
        const uint32_t row = first + (uint32_t)(s / kSpans);
        const int col = s % kSpans * HN_VEC, n = row < a.rows ? a.out - col : 0;
        const T *const from = a.dy + row * a.ld_dy + col;
        float v[HN_VEC];
        if (a.wide) {
            hn_load_span<HN_VEC>(from, n, v);
        } else {
#pragma unroll
            for (int e = 0; e < HN_VEC; e++) v[e] = e < n ? hn_f32(from[e]) : 0.0f;
        }
#pragma unroll
        for (int e = 0; e < HN_VEC; e++) dy[s / kSpans][col + e] = v[e];
    }
    if (threadIdx.x >= kRows) return;
    float v[kTaps] = {};
    if (first + threadIdx.x < a.rows) load_patch<T>(a, first + threadIdx.x, v);
#pragma unroll
    for (int t = 0; t < kTaps; t++) patch[threadIdx.x][t] = v[t];
}

/* A member's sums to those of the teams before, or in their place. */
template <int kOut>
__device__ __forceinline__ void add_sums(const float (&sum)[kDwTaps][kDwFilters], bool add,
                                         float *all)
{
#pragma unroll
    for (int t = 0; t < kDwTaps; t++)
#pragma unroll
        for (int f = 0; f < kDwFilters; f++) {
            float *const to = all + t * kOut + f;
            *to = add ? *to + sum[t][f] : sum[t][f];
        }
}

template <class T, int kOut>
__global__ void __launch_bounds__(kDwThreads, 2) direct_dw_kernel(const DirectDw<T> all)
{
    using Own = Tile<kOut>;
    __shared__ __align__(16) float dy[Own::kRows][kOut];
    __shared__ float patch[Own::kRows][kTaps];
    DirectDw<T> a = all;
    a.x += blockIdx.y * a.x_stride, a.dy += (int64_t)blockIdx.y * a.rows * a.ld_dy;
    const int team = threadIdx.x / Own::kTeam, member = threadIdx.x % Own::kTeam;
    const int filter = member % (kOut / kDwFilters) * kDwFilters;
    const int tap = member / (kOut / kDwFilters) * kDwTaps;
    const uint32_t begin = blockIdx.x * a.piece, end = begin + a.piece;
    float sum[kDwTaps][kDwFilters] = {};
    for (uint32_t first = begin; first < end && first < a.rows; first += Own::kRows) {
        load_tile<T, kOut>(a, first, dy, patch);
        __syncthreads();
#pragma unroll 4
        for (int r = team; r < Own::kRows; r += Own::kTeams) {
            const float4 d = *reinterpret_cast<const float4 *>(&dy[r][filter]);
#pragma unroll
            for (int t = 0; t < kDwTaps; t++) {
                const float x = patch[r][tap + t];
                sum[t][0] = fmaf(x, d.x, sum[t][0]);
                sum[t][1] = fmaf(x, d.y, sum[t][1]);
                sum[t][2] = fmaf(x, d.z, sum[t][2]);
                sum[t][3] = fmaf(x, d.w, sum[t][3]);
            }
        }
        __syncthreads();
    }
    float *const of_block = &patch[0][0]; /* [kTaps][kOut] now, team behind team */
    for (int turn = 0; turn < Own::kTeams; turn++) {
        if (team == turn) add_sums<kOut>(sum, turn > 0, of_block + tap * kOut + filter);
        __syncthreads();
    }
    const int64_t block = (int64_t)blockIdx.y * gridDim.x + blockIdx.x;
    for (int e = threadIdx.x; e < Own::kSums; e += kDwThreads)
        a.partial[block * Own::kSums + e] = of_block[e];
}

/* dw += the sums of all blocks: 32 of w a block of threads, which take a slice of the blocks each
 * 32 threads. */
template <int kOut>
__global__ void __launch_bounds__(kDwThreads)
    direct_dw_sum_kernel(const float *partial, int blocks, float *dw, int64_t ld_dw,
                         int64_t dw_stride, int out, int taps)
{
    __shared__ float slice_sum[kDwSlices][32];
    const int lane = threadIdx.x % 32, slice = threadIdx.x / 32;
    const int at = (int)blockIdx.x * 32 + lane, each = (blocks + kDwSlices - 1) / kDwSlices;
    const int end = (slice + 1) * each < blocks ? (slice + 1) * each : blocks;
    float sum = 0.0f;
    partial += (int64_t)blockIdx.y * blocks * Tile<kOut>::kSums;
#pragma unroll 8
    for (int b = slice * each; b < end; b++) sum += partial[(int64_t)b * Tile<kOut>::kSums + at];
    slice_sum[slice][lane] = sum;
    __syncthreads();
    const int tap = at / kOut, filter = at % kOut;
    if (slice > 0 || tap >= taps || filter >= out) return;
    for (int s = 1; s < kDwSlices; s++) sum += slice_sum[s][lane];
    dw[blockIdx.y * dw_stride + filter * ld_dw + tap] += sum;
}

/* ---- launchers ---- */

template <class T>
void set_image(const hn_conv2d_shape *s, int64_t replicas, const void *x, int64_t ld_x, Image<T> *d)
{
    const int64_t images = s->n / hn_replica_count(replicas);
    d->x = static_cast<const T *>(x), d->ld_x = ld_x;
    d->h = (int32_t)s->h, d->width = (int32_t)s->w;
    d->out_h = (int32_t)hn_conv2d_out_h(s), d->out_w = (int32_t)hn_conv2d_out_w(s);
    d->rows = (uint32_t)(images * d->out_h * d->out_w);
    d->x_stride = images * s->h * s->w * ld_x;
    d->in = (int32_t)s->in, d->out = (int32_t)s->out, d->kw = (int32_t)s->kw;
    d->stride = (int32_t)s->stride, d->pad = (int32_t)s->pad, d->dilation = (int32_t)s->dilation;
    d->taps = (int32_t)hn_conv2d_taps(s);
    d->by_out_w = hn_divisor_of(d->out_w), d->by_out_h = hn_divisor_of(d->out_h);
}

template <class T>
void launch(const hn_conv2d_args *a, cudaStream_t stream)
{
    Direct<T> d = {};
    set_image<T>(&a->shape, a->replicas, a->x, a->ld_x, &d);
    d.w_stride = a->w_stride, d.bias_stride = a->bias_stride;
    d.w = static_cast<const T *>(a->w), d.ld_w = a->ld_w;
    d.bias = a->bias, d.bias_is_bf16 = a->bias_dtype == HN_BF16, d.relu = a->relu;
    d.y = static_cast<T *>(a->y), d.ld_y = a->ld_y;
    d.wide = hn_vectors_fit(a->y, a->ld_y, a->dtype);
    const dim3 grid(hn_grid(d.rows, kThreads, INT32_MAX), (unsigned)hn_replica_count(a->replicas));
    direct_kernel<T><<<grid, kThreads, 0, stream>>>(d);
}

/* Of y, of one replica. */
int64_t rows_of(const hn_conv2d_shape *s, int64_t replicas)
{
    return s->n / hn_replica_count(replicas) * hn_conv2d_out_h(s) * hn_conv2d_out_w(s);
}

/* Rows of a block. */
int64_t dw_piece(const hn_conv2d_shape *s, int64_t replicas)
{
    const int64_t tile = s->out <= kDwNarrow ? Tile<kDwNarrow>::kRows : Tile<kMostOut>::kRows;
    const int64_t tiles = (rows_of(s, replicas) + tile - 1) / tile;
    const int64_t most =
        replicas > 1 ? (kDwReplicaBlocks + replicas - 1) / replicas : kDwMostBlocks;
    return (tiles + most - 1) / most * tile;
}

/* Of one replica. */
int64_t dw_blocks(const hn_conv2d_shape *s, int64_t replicas)
{
    const int64_t piece = dw_piece(s, replicas);
    return (rows_of(s, replicas) + piece - 1) / piece;
}

template <class T, int kOut>
void launch_dw(const hn_conv2d_dw_args *a, float *partial, cudaStream_t stream)
{
    const int blocks = (int)dw_blocks(&a->shape, a->replicas);
    const unsigned replicas = (unsigned)hn_replica_count(a->replicas);
    DirectDw<T> d = {};
    set_image<T>(&a->shape, a->replicas, a->x, a->ld_x, &d);
    d.dy = static_cast<const T *>(a->dy), d.ld_dy = a->ld_dy;
    d.piece = (uint32_t)dw_piece(&a->shape, a->replicas);
    d.wide = hn_vectors_fit(a->dy, a->ld_dy, a->dtype);
    d.partial = partial;
    direct_dw_kernel<T, kOut><<<dim3((unsigned)blocks, replicas), kDwThreads, 0, stream>>>(d);
    direct_dw_sum_kernel<kOut><<<dim3(Tile<kOut>::kSums / 32, replicas), kDwThreads, 0, stream>>>(
        partial, blocks, a->dw, a->ld_dw, a->dw_stride, d.out, d.taps);
}

template <class T>
void launch_dw(const hn_conv2d_dw_args *a, float *partial, cudaStream_t stream)
{
    if (a->shape.out <= kDwNarrow)
        launch_dw<T, kDwNarrow>(a, partial, stream);
    else
        launch_dw<T, kMostOut>(a, partial, stream);
}

} // namespace

bool hn_conv2d_direct_fits(const hn_conv2d_shape *s, int64_t replicas)
{
    return s->groups == 1 && replicas <= kMostReplicas && s->out <= kMostOut &&
           hn_conv2d_taps(s) <= kTaps && rows_of(s, replicas) <= kMostRows &&
           !hn_conv2d_is_product(s);
}

hn_status hn_conv2d_direct_fwd(const hn_conv2d_args *a, hn_stream stream)
{
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, stream));
    return HN_CUDA_LAUNCHED("conv2d: few taps");
}

size_t hn_conv2d_direct_dw_scratch(const hn_conv2d_dw_args *a)
{
    const int64_t blocks = hn_replica_count(a->replicas) * dw_blocks(&a->shape, a->replicas);
    const int64_t filters = a->shape.out <= kDwNarrow ? kDwNarrow : kMostOut;
    return (size_t)(blocks * kTaps * filters) * sizeof(float);
}

hn_status hn_conv2d_direct_dw(const hn_conv2d_dw_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_check_pointer("conv2d_dw", "scratch", scratch));
    HN_CUDA_REAL(a->dtype, T, launch_dw<T>(a, static_cast<float *>(scratch), stream));
    return HN_CUDA_LAUNCHED("conv2d_dw: few taps");
}
