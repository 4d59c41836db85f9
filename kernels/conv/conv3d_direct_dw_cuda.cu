/* Few channels, gradient of w: a block makes kCols columns (tap and channel) and kOut rows of dw
 * for voxels of y of its own, kRows at a time: what they see and their dy go to shared memory as
 * fp32, threads hold 4 x 4 sums, and teams of threads share the voxels. A second kernel adds the
 * sums of all blocks in order. */
#include "kernels/conv/cuda_conv3d.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_math.h"

namespace {

constexpr int kThreads = 256;
constexpr int kRows = 32; /* voxels of y in shared memory */
constexpr int kCols = 64;
constexpr int kMostBlocks = 132 * 4; /* of an H200 */
constexpr int64_t kLeastRows =
    8 * kRows; /* of a block: below that its sums cost more than it adds */
constexpr int64_t kMostChannels = 32;
constexpr int kSlices = kThreads / 32; /* of the blocks, that are added side by side */
static_assert(kThreads % kCols == 0 && kRows <= kThreads, "a thread loads parts of one column");

struct Axis {
    int32_t first, step, times;
    uint32_t source, result, taps;
    hn_divisor by_result, by_taps;
};

template <class T>
struct Direct {
    const T *x, *dy;
    int64_t ld_x, ld_dy;
    Axis down, rows_of, across;
    hn_divisor by_in;
    uint32_t rows, piece; /* voxels of y; of a block */
    uint32_t in, out, cols;
    float *sums; /* [pieces][column tiles][row tiles][kCols][kOut] */
};

/* What a voxel of y sees through tap 0, modulo 2^32. */
struct Origin {
    uint32_t i, j, k, voxel;
};

constexpr uint32_t kNowhere = 1u << 31; /* no step from here leads into a volume */

template <class T>
__device__ __forceinline__ Origin origin_of(const Direct<T> &a, uint32_t row, bool there)
{
    if (!there) return {kNowhere, kNowhere, kNowhere, 0};
    const uint32_t line = hn_divide(row, a.across.by_result);
    const uint32_t plane = hn_divide(line, a.rows_of.by_result);
    const uint32_t volume = hn_divide(plane, a.down.by_result);
    Origin o;
    o.i = (plane - volume * a.down.result) * (uint32_t)a.down.times + (uint32_t)a.down.first;
    o.j = (line - plane * a.rows_of.result) * (uint32_t)a.rows_of.times + (uint32_t)a.rows_of.first;
    o.k = (row - line * a.across.result) * (uint32_t)a.across.times + (uint32_t)a.across.first;
    o.voxel = ((volume * a.down.source + o.i) * a.rows_of.source + o.j) * a.across.source + o.k;
    return o;
}

/* How far a column is from tap 0, and its channel. */
struct Column {
    uint32_t i, j, k, voxel, channel;
    bool there;
};

template <class T>
__device__ __forceinline__ Column column_of(const Direct<T> &a, uint32_t col)
{
    Column c;
    c.there = col < a.cols;
    const uint32_t tap = hn_divide(col, a.by_in), line = hn_divide(tap, a.across.by_taps);
    const uint32_t plane = hn_divide(line, a.rows_of.by_taps);
    c.channel = col - tap * a.in;
    c.i = plane * (uint32_t)a.down.step;
    c.j = (line - plane * a.rows_of.taps) * (uint32_t)a.rows_of.step;
    c.k = (tap - line * a.across.taps) * (uint32_t)a.across.step;
    c.voxel = (c.i * a.rows_of.source + c.j) * a.across.source + c.k;
    return c;
}

template <class T>
__device__ __forceinline__ float seen(const Direct<T> &a, const Origin &o, const Column &c)
{
    const bool inside = c.there && o.i + c.i < a.down.source && o.j + c.j < a.rows_of.source &&
                        o.k + c.k < a.across.source;
    return inside ? hn_f32(a.x[(int64_t)(o.voxel + c.voxel) * a.ld_x + c.channel]) : 0.0f;
}

template <class T, int kOut>
__global__ void __launch_bounds__(kThreads) direct_dw_kernel(const Direct<T> a)
{
    constexpr int kTeam = kCols / 4 * (kOut / 4), kTeams = kThreads / kTeam;
    constexpr int kSums = kCols * kOut;
    static_assert(kThreads % kTeam == 0 && kRows % kTeams == 0 && kSums <= kRows * kCols, "teams");
    __shared__ __align__(16) float patch[kRows * kCols];
    __shared__ __align__(16) float dy[kRows][kOut];
    __shared__ Origin origin[kRows];
    const uint32_t first_out = blockIdx.z * kOut;
    const int team = (int)threadIdx.x / kTeam, member = (int)threadIdx.x % kTeam;
    const int col = member % (kCols / 4) * 4, out = member / (kCols / 4) * 4;
    const Column mine = column_of(a, blockIdx.y * kCols + threadIdx.x % kCols);
    const uint32_t begin = blockIdx.x * a.piece;
    const uint32_t end = a.rows - begin < a.piece ? a.rows : begin + a.piece;
    float sum[4][4] = {};
    for (uint32_t first = begin; first < end; first += kRows) {
        if (threadIdx.x < kRows)
            origin[threadIdx.x] = origin_of(a, first + threadIdx.x, first + threadIdx.x < end);
        for (int at = threadIdx.x; at < kRows * kOut; at += kThreads) {
            const uint32_t row = first + (uint32_t)(at / kOut);
            const uint32_t o = first_out + (uint32_t)(at % kOut);
            dy[at / kOut][at % kOut] =
                row < end && o < a.out ? hn_f32(a.dy[row * a.ld_dy + o]) : 0.0f;
        }
        __syncthreads();
#pragma unroll 4
        for (int r = threadIdx.x / kCols; r < kRows; r += kThreads / kCols)
            patch[r * kCols + threadIdx.x % kCols] = seen(a, origin[r], mine);
        __syncthreads();
#pragma unroll 2
        for (int r = team; r < kRows; r += kTeams) {
            const float4 x = *reinterpret_cast<const float4 *>(&patch[r * kCols + col]);
            const float4 d = *reinterpret_cast<const float4 *>(&dy[r][out]);
            const float xs[4] = {x.x, x.y, x.z, x.w}, ds[4] = {d.x, d.y, d.z, d.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] = fmaf(xs[i], ds[j], sum[i][j]);
        }
        __syncthreads();
    }
    /* Teams add up in the place of the patches, one behind the other. */
    for (int turn = 0; turn < kTeams; turn++) {
        if (team == turn)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float *const to = &patch[(col + i) * kOut + out + j];
                    *to = turn > 0 ? *to + sum[i][j] : sum[i][j];
                }
        __syncthreads();
    }
    const int64_t tile = ((int64_t)blockIdx.x * gridDim.y + blockIdx.y) * gridDim.z + blockIdx.z;
    for (int e = threadIdx.x; e < kSums; e += kThreads) a.sums[tile * kSums + e] = patch[e];
}

/* dw += the sums of all pieces: a block takes 32 of them, and a warp of it a slice of the pieces.
 */
__global__ void __launch_bounds__(kThreads)
    direct_dw_sum_kernel(const float *sums, int pieces, int64_t each, int tile_out, int out_tiles,
                         float *dw, int64_t ld_dw, int64_t out, int64_t cols)
{
    __shared__ float slice_sum[kSlices][32];
    const int lane = threadIdx.x % 32, slice = threadIdx.x / 32;
    const int64_t at = (int64_t)blockIdx.x * 32 + lane; /* each is a multiple of 32 */
    const int share = (pieces + kSlices - 1) / kSlices;
    const int end = (slice + 1) * share < pieces ? (slice + 1) * share : pieces;
    float sum = 0.0f;
#pragma unroll 8
    for (int p = slice * share; p < end; p++) sum += sums[p * each + at];
    slice_sum[slice][lane] = sum;
    __syncthreads();
    const int64_t tile = at / (kCols * tile_out), e = at % (kCols * tile_out);
    const int64_t o = tile % out_tiles * tile_out + e % tile_out;
    const int64_t col = tile / out_tiles * kCols + e / tile_out;
    if (slice > 0 || o >= out || col >= cols) return;
    for (int s = 1; s < kSlices; s++) sum += slice_sum[s][lane];
    dw[o * ld_dw + col] += sum;
}

/* ---- launcher ---- */

struct Layout {
    int64_t rows, piece, pieces; /* voxels of y, those of a piece */
    int64_t col_tiles, out_tiles, tile_out;
    int64_t each; /* floats of a piece */
};

Layout layout_of(const hn_conv3d_shape *s)
{
    Layout l = {};
    l.rows = hn_conv3d_voxels_out(s);
    l.tile_out = s->out <= 8 ? 8 : 32;
    l.out_tiles = (s->out + l.tile_out - 1) / l.tile_out;
    l.col_tiles = (hn_conv3d_taps(s) + kCols - 1) / kCols;
    l.each = l.col_tiles * l.out_tiles * kCols * l.tile_out;
    const int64_t most = (l.rows + kLeastRows - 1) / kLeastRows;
    const int64_t fill = kMostBlocks / (l.col_tiles * l.out_tiles);
    const int64_t wanted = fill < 1 ? 1 : fill < most ? fill : most;
    l.piece = (l.rows + wanted - 1) / wanted;
    l.piece = (l.piece + kRows - 1) / kRows * kRows;
    l.pieces = (l.rows + l.piece - 1) / l.piece;
    return l;
}

Axis axis_of(const hn_conv3d_axis_ &a)
{
    Axis to = {};
    to.first = (int32_t)a.first, to.step = (int32_t)a.step, to.times = (int32_t)a.times;
    to.source = (uint32_t)a.source, to.result = (uint32_t)a.result, to.taps = (uint32_t)a.taps;
    to.by_result = hn_divisor_of(a.result), to.by_taps = hn_divisor_of(a.taps);
    return to;
}

template <class T>
void launch(const hn_conv3d_dw_args *a, float *sums, cudaStream_t stream)
{
    const hn_conv3d_shape *const s = &a->shape;
    const hn_conv3d_view_ v = hn_conv3d_view_x_(s, a->x, a->dtype, a->ld_x);
    const Layout l = layout_of(s);
    Direct<T> d = {};
    d.x = static_cast<const T *>(a->x), d.ld_x = a->ld_x;
    d.dy = static_cast<const T *>(a->dy), d.ld_dy = a->ld_dy;
    d.down = axis_of(v.axis[0]), d.rows_of = axis_of(v.axis[1]), d.across = axis_of(v.axis[2]);
    d.by_in = hn_divisor_of(s->in);
    d.rows = (uint32_t)l.rows, d.piece = (uint32_t)l.piece;
    d.in = (uint32_t)s->in, d.out = (uint32_t)s->out, d.cols = (uint32_t)hn_conv3d_taps(s);
    d.sums = sums;
    const dim3 grid((unsigned)l.pieces, (unsigned)l.col_tiles, (unsigned)l.out_tiles);
    if (l.tile_out == 8)
        direct_dw_kernel<T, 8><<<grid, kThreads, 0, stream>>>(d);
    else
        direct_dw_kernel<T, 32><<<grid, kThreads, 0, stream>>>(d);
    direct_dw_sum_kernel<<<(unsigned)(l.each / 32), kThreads, 0, stream>>>(
        sums, (int)l.pieces, l.each, (int)l.tile_out, (int)l.out_tiles, a->dw, a->ld_dw, s->out,
        hn_conv3d_taps(s));
}

} // namespace

/* The columns of w are a dimension of the grid. */
bool hn_conv3d_direct_dw_fits(const hn_conv3d_shape *s)
{
    return s->in <= kMostChannels && s->out <= kMostChannels && hn_conv3d_taps(s) <= 65535 * kCols;
}

size_t hn_conv3d_direct_dw_scratch(const hn_conv3d_shape *s)
{
    const Layout l = layout_of(s);
    return (size_t)(l.pieces * l.each) * sizeof(float);
}

hn_status hn_conv3d_direct_dw(const hn_conv3d_dw_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_check_pointer("conv3d_dw", "scratch", scratch));
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, static_cast<float *>(scratch), stream));
    return HN_CUDA_LAUNCHED("conv3d_dw: few channels");
}
