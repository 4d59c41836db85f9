/* One read of dw. Square blocks of 4 to 256: a block of threads takes kColumns columns, four
 * neighbours a thread; its kLanes rows of threads go down the same block where it is tall (64 or
 * more), else each down one of its own. A thread adds up its columns, then threads of a block meet:
 * by shuffles in a warp, by shared memory beyond, in a fixed order. Elements, rows and columns have
 * kernels of their own. */
#include "kernels/sparse/block_score.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 256; /* of a block of threads */
constexpr int kAcross = kColumns / 4, kLanes = kThreads / kAcross;
constexpr int kTall = 64;              /* rows of a block that the lanes share */
constexpr int kLeastGroup = kTall / 4; /* threads of such a block in a warp */
constexpr int64_t kMaxBlocks = 1 << 20;

__device__ __forceinline__ float scale_of(const hn_block_score_args &a)
{
    const double count = a.count != nullptr ? (double)a.count[0] : 1.0;
    return (float)(count != 0.0 ? 1.0 / count : 0.0);
}

template <hn_score_kind kKind>
__device__ __forceinline__ float score(float dw, float scale)
{
    const float g = dw * scale;
    return kKind == HN_SCORE_SQUARE ? g * g : fabsf(g);
}

__device__ __forceinline__ void put(const hn_block_score_args &a, int64_t b, float sum)
{
    const float mean = sum / (float)(a.shape.br * a.shape.bc);
    a.f[b] = a.accumulate ? a.f[b] + mean : mean;
}

__device__ __forceinline__ float4 load_four(const float *p, bool wide)
{
    if (wide) return *reinterpret_cast<const float4 *>(p);
    return {p[0], p[1], p[2], p[3]};
}

/* kShared: the lanes go down the same block. Strips of blocks in the grid's first axis, columns in
 * the second. */
template <hn_score_kind kKind, bool kShared>
__global__ void __launch_bounds__(kThreads) square_kernel(const hn_block_score_args a, bool wide)
{
    __shared__ float part[kThreads / kLeastGroup];
    const int across = threadIdx.x % kAcross, lane = threadIdx.x / kAcross;
    const int width = (int)a.shape.bc / 4; /* threads of a block side by side, 1 to 64 */
    const int64_t strip = kShared ? blockIdx.x : (int64_t)blockIdx.x * kLanes + lane;
    const int64_t col = (int64_t)blockIdx.y * kColumns + 4 * across;
    const bool inside = col < a.in && strip < a.out / a.shape.br;
    const float scale = scale_of(a);
    float4 sum = {};
    if (inside) {
        const float *dw = a.dw + strip * a.shape.br * a.ld_dw + col;
        constexpr int kStep = kShared ? kLanes : 1;
#pragma unroll 8
        for (int i = kShared ? lane : 0; i < (int)a.shape.br; i += kStep) {
            const float4 four = load_four(dw + i * a.ld_dw, wide);
            sum.x += score<kKind>(four.x, scale);
            sum.y += score<kKind>(four.y, scale);
            sum.z += score<kKind>(four.z, scale);
            sum.w += score<kKind>(four.w, scale);
        }
    }
    float all = (sum.x + sum.y) + (sum.z + sum.w);
    for (int d = (width < 32 ? width : 32) / 2; d > 0; d /= 2)
        all += __shfl_xor_sync(0xffffffffu, all, d);
    const int64_t b = strip * (a.in / a.shape.bc) + col / a.shape.bc;
    if (!kShared) {
        if (inside && across % width == 0) put(a, b, all);
        return;
    }
    /* Four lanes, and two warps side by side where a block is 256 columns wide. */
    const int group = width < 32 ? width : 32, groups = kAcross / group; /* of a lane */
    if (across % group == 0) part[lane * groups + across / group] = all;
    __syncthreads();
    if (!inside || lane > 0 || across % width != 0) return;
    float total = 0.0f;
    for (int l = 0; l < kLanes; l++)
        for (int g = 0; g < width / group; g++) total += part[l * groups + across / group + g];
    put(a, b, total);
}

/* Blocks of one element. */
template <hn_score_kind kKind, int kWidth>
__global__ void __launch_bounds__(kThreads)
    element_kernel(const hn_block_score_args a, const hn_spans s, int64_t first_row)
{
    const float scale = scale_of(a);
    for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < s.n; i += gridDim.x * kThreads) {
        const hn_span_at at = hn_span_place(s, i);
        const int64_t row = first_row + at.row, col = (int64_t)at.span * kWidth, n = a.in - col;
        float dw[kWidth], f[kWidth] = {};
        hn_load_span<kWidth>(a.dw + row * a.ld_dw + col, n, dw);
        if (a.accumulate) hn_load_span<kWidth>(a.f + row * a.in + col, n, f);
#pragma unroll
        for (int k = 0; k < kWidth; k++) f[k] += score<kKind>(dw[k], scale);
        hn_store_span<kWidth>(a.f + row * a.in + col, n, f);
    }
}

/* Whole rows: one a block of threads. */
template <hn_score_kind kKind>
__global__ void __launch_bounds__(kThreads) row_kernel(const hn_block_score_args a, bool wide)
{
    const float scale = scale_of(a);
    for (int64_t row = blockIdx.x; row < a.out; row += gridDim.x) {
        const float *const dw = a.dw + row * a.ld_dw;
        float sum = 0.0f;
#pragma unroll 4
        for (int64_t j = 4 * threadIdx.x; j + 4 <= a.in; j += 4 * kThreads) {
            const float4 four = load_four(dw + j, wide);
            sum += (score<kKind>(four.x, scale) + score<kKind>(four.y, scale)) +
                   (score<kKind>(four.z, scale) + score<kKind>(four.w, scale));
        }
        const int64_t rest = a.in / 4 * 4 + threadIdx.x;
        if (rest < a.in) sum += score<kKind>(dw[rest], scale);
        sum = hn_block_sum<kThreads>(sum);
        if (threadIdx.x == 0) put(a, row, sum);
    }
}

constexpr int kColumnThreads = 1024, kColumnLanes = kColumnThreads / 32;

/* Whole columns: 32 a block of threads, a warp a row. */
template <hn_score_kind kKind>
__global__ void __launch_bounds__(kColumnThreads) column_kernel(const hn_block_score_args a)
{
    __shared__ float part[kColumnLanes][32];
    const int own = threadIdx.x % 32, lane = threadIdx.x / 32;
    const int64_t col = (int64_t)blockIdx.x * 32 + own;
    const float scale = scale_of(a);
    float sum = 0.0f;
    if (col < a.in) {
#pragma unroll 8
        for (int64_t i = lane; i < a.out; i += kColumnLanes)
            sum += score<kKind>(a.dw[i * a.ld_dw + col], scale);
    }
    part[lane][own] = sum;
    __syncthreads();
    if (lane > 0 || col >= a.in) return;
    for (int l = 1; l < kColumnLanes; l++) sum += part[l][own];
    put(a, col, sum);
}

template <hn_score_kind kKind, int kWidth>
void launch_elements(const hn_block_score_args *a, cudaStream_t stream)
{
    const int64_t spans = (a->in + kWidth - 1) / kWidth;
    for (int64_t row = 0; row < a->out; row += hn_band_rows(spans)) {
        const hn_spans s = hn_spans_of(a->out - row, spans);
        element_kernel<kKind, kWidth>
            <<<hn_grid(s.n, kThreads, kMaxBlocks), kThreads, 0, stream>>>(*a, s, row);
    }
}

template <hn_score_kind kKind>
hn_status launch(const hn_block_score_args *a, cudaStream_t stream)
{
    const bool wide = (uintptr_t)a->dw % 16 == 0 && a->ld_dw % 4 == 0;
    const int64_t br = a->shape.br, bc = a->shape.bc;
    if (br == 1 && bc == 1) {
        if (hn_vectors_fit(a->dw, a->ld_dw, HN_F32) && hn_vectors_fit(a->f, a->in, HN_F32))
            launch_elements<kKind, HN_VEC>(a, stream);
        else
            launch_elements<kKind, 1>(a, stream);
    } else if (bc == a->in && br == 1) {
        row_kernel<kKind><<<hn_grid(a->out, 1, kMaxBlocks), kThreads, 0, stream>>>(*a, wide);
    } else if (br == a->out && bc == 1) {
        const unsigned grid = hn_grid(a->in, 32, INT32_MAX);
        column_kernel<kKind><<<grid, kColumnThreads, 0, stream>>>(*a);
    } else {
        const int64_t strips = a->out / br, columns = (a->in + kColumns - 1) / kColumns;
        const bool shared = br >= kTall;
        if (columns > 65535)
            return HN_FAIL(HN_ERR_SHAPE, "block_score: %lld columns", (long long)a->in);
        const dim3 grid(hn_grid(strips, shared ? 1 : kLanes, INT32_MAX), (unsigned)columns);
        if (shared)
            square_kernel<kKind, true><<<grid, kThreads, 0, stream>>>(*a, wide);
        else
            square_kernel<kKind, false><<<grid, kThreads, 0, stream>>>(*a, wide);
    }
    return HN_CUDA_LAUNCHED("block_score");
}

} // namespace

hn_status hn_block_score_cuda(const hn_block_score_args *a, hn_stream stream)
{
    HN_TRY(hn_block_score_check(a));
    return a->kind == HN_SCORE_SQUARE ? launch<HN_SCORE_SQUARE>(a, stream)
                                      : launch<HN_SCORE_ABS>(a, stream);
}
