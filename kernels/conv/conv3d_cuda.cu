/* Few channels have kernels of their own (conv3d_direct*_cuda.cu). The others are matrix products
 * of patches, which are laid out in the scratch a piece at a time: of x with w, and for the
 * gradient of x of dy with w turned. Both have zeros behind their columns up to the next 16 bytes,
 * which cuBLASLt's fast kernels want. */
#include "kernels/conv/conv3d.h"

#include "kernels/conv/cuda_conv2d.h"
#include "kernels/conv/cuda_conv3d.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int64_t kMaxBlocks = 1ll << 16;   /* blocks loop over what is left */
constexpr int64_t kPieceBytes = 64ll << 20; /* of patches; a few times what L2 holds */

/* ---- patches ---- */

struct Axis {
    int32_t taps, first, step, times;
    uint32_t source, result;
    hn_divisor by_result, by_over, by_taps;
    uint32_t over;
};

Axis axis_of(const hn_conv3d_axis_ &a)
{
    Axis to = {};
    to.taps = (int32_t)a.taps, to.first = (int32_t)a.first, to.step = (int32_t)a.step;
    to.times = (int32_t)a.times, to.over = (uint32_t)a.over;
    to.source = (uint32_t)a.source, to.result = (uint32_t)a.result;
    to.by_result = hn_divisor_of(a.result), to.by_over = hn_divisor_of(a.over);
    to.by_taps = hn_divisor_of(a.taps);
    return to;
}

struct Window {
    Axis down, rows_of, across;
    int32_t channels;
    hn_divisor by_spans; /* 16-byte spans, or channels, of a voxel */
};

/* The place of the source that place u sees through tap r; -1: none. */
__device__ __forceinline__ int32_t place(const Axis &a, uint32_t u, uint32_t r)
{
    const int32_t t = (int32_t)u * a.times + a.first + (int32_t)r * a.step;
    if (t < 0) return -1;
    const uint32_t at = hn_divide((uint32_t)t, a.by_over);
    return at * a.over == (uint32_t)t && at < a.source ? (int32_t)at : -1;
}

/* A warp lays out one row of patches, lanes side by side in it; kWidth divides the channels. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    patches_kernel(const Window k, const T *__restrict__ x, int64_t ld_x, T *__restrict__ patches,
                   int64_t first, int64_t rows, int64_t ld)
{
    const uint32_t spans = (uint32_t)k.channels / kWidth;
    const uint32_t n = (uint32_t)(k.down.taps * k.rows_of.taps * k.across.taps) * spans;
    for (int64_t row = (int64_t)blockIdx.x * kWarps + threadIdx.x / 32; row < rows;
         row += (int64_t)gridDim.x * kWarps) {
        const uint32_t voxel = (uint32_t)(first + row);
        const uint32_t line = hn_divide(voxel, k.across.by_result);
        const uint32_t plane = hn_divide(line, k.rows_of.by_result);
        const uint32_t volume = hn_divide(plane, k.down.by_result);
        const uint32_t across = voxel - line * k.across.result;
        const uint32_t below = line - plane * k.rows_of.result;
        const uint32_t down = plane - volume * k.down.result;
        T *const to = patches + row * ld;
        for (uint32_t v = threadIdx.x % 32; v < n; v += 32) {
            const uint32_t tap = hn_divide(v, k.by_spans), c = (v - tap * spans) * kWidth;
            const uint32_t tap_line = hn_divide(tap, k.across.by_taps);
            const uint32_t tap_plane = hn_divide(tap_line, k.rows_of.by_taps);
            const int32_t i = place(k.down, down, tap_plane);
            const int32_t j =
                place(k.rows_of, below, tap_line - tap_plane * (uint32_t)k.rows_of.taps);
            const int32_t l = place(k.across, across, tap - tap_line * (uint32_t)k.across.taps);
            float value[kWidth] = {};
            if (i >= 0 && j >= 0 && l >= 0) {
                const int64_t from =
                    (((int64_t)volume * k.down.source + i) * k.rows_of.source + j) *
                        k.across.source +
                    l;
                hn_load_whole<kWidth>(x + from * ld_x + c, value);
            }
            hn_store_whole<kWidth>(to + (int64_t)v * kWidth,
                                   value); /* to and from fp32: the bits */
        }
        for (int64_t v = (int64_t)n * kWidth + threadIdx.x % 32; v < ld; v += 32)
            to[v] = hn_round<T>(0.0f);
    }
}

/* to[o][k] = w[o w_o + tap w_tap + c w_c] for column k = tap channels + c, zeros behind. */
template <class T>
__global__ void __launch_bounds__(kThreads)
    filters_kernel(const T *__restrict__ w, int64_t w_o, int64_t w_tap, int64_t w_c,
                   T *__restrict__ to, int64_t channels, int64_t cols, int64_t ld, int64_t n)
{
    for (int64_t at = (int64_t)blockIdx.x * kThreads + threadIdx.x; at < n;
         at += (int64_t)gridDim.x * kThreads) {
        const int64_t o = at / ld, k = at - o * ld, tap = k / channels;
        to[at] =
            k < cols ? w[o * w_o + tap * w_tap + (k - tap * channels) * w_c] : hn_round<T>(0.0f);
    }
}

template <class T>
void launch_patches(const hn_conv3d_view_ *v, int64_t first, int64_t rows, void *patches,
                    int64_t ld, cudaStream_t stream)
{
    Window k = {
        axis_of(v->axis[0]), axis_of(v->axis[1]), axis_of(v->axis[2]), (int32_t)v->channels, {}};
    const T *const x = static_cast<const T *>(v->p);
    T *const to = static_cast<T *>(patches);
    const unsigned blocks = hn_grid(rows, kWarps, kMaxBlocks);
    if (v->channels % HN_VEC == 0 && hn_vectors_fit(x, v->ld, v->dtype)) {
        k.by_spans = hn_divisor_of(v->channels / HN_VEC);
        patches_kernel<T, HN_VEC>
            <<<blocks, kThreads, 0, stream>>>(k, x, v->ld, to, first, rows, ld);
    } else {
        k.by_spans = hn_divisor_of(v->channels);
        patches_kernel<T, 1><<<blocks, kThreads, 0, stream>>>(k, x, v->ld, to, first, rows, ld);
    }
}

hn_status patches_of(const hn_conv3d_view_ *v, int64_t first, int64_t rows, void *patches,
                     int64_t ld, hn_stream stream)
{
    HN_CUDA_REAL(v->dtype, T, launch_patches<T>(v, first, rows, patches, ld, stream));
    return HN_CUDA_LAUNCHED("conv3d: patches");
}

/* ---- pieces ---- */

/* A result in pieces of its voxels. */
struct Pieces {
    int64_t rows, piece;
    int64_t cols, ld; /* of patches */
    size_t patch_bytes;
};

size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

Pieces pieces_of(const hn_conv3d_view_ *v, int64_t volumes)
{
    Pieces p = {};
    p.rows = hn_conv3d_rows_of(v, volumes);
    p.cols = hn_conv3d_taps_of(v) * v->channels;
    p.ld = hn_gemm_cuda_padded(p.cols, v->dtype);
    const int64_t fit = kPieceBytes / (p.ld * (int64_t)hn_dtype_size(v->dtype));
    p.piece = fit < 1 ? 1 : fit < p.rows ? fit : p.rows;
    p.patch_bytes = round_up((size_t)(p.piece * p.ld) * hn_dtype_size(v->dtype));
    return p;
}

const void *element(const void *p, int64_t at, hn_dtype t)
{
    return p == nullptr ? nullptr : static_cast<const char *>(p) + at * (int64_t)hn_dtype_size(t);
}

void *element(void *p, int64_t at, hn_dtype t)
{
    return static_cast<char *>(p) + at * (int64_t)hn_dtype_size(t);
}

/* ---- forward, and the gradient of x ---- */

/* Scratch: patches | filters | an f32 product, where the bias has another dtype than the result */
bool is_apart(const hn_conv3d_task *t)
{
    return t->bias != nullptr && t->bias_dtype != t->view.dtype;
}

size_t filter_bytes(const hn_conv3d_task *t, const Pieces &p)
{
    return round_up((size_t)(t->channels * p.ld) * hn_dtype_size(t->view.dtype));
}

size_t task_scratch(const hn_conv3d_task *t, bool may_be_apart)
{
    if (hn_conv3d_direct_fits(t)) return 0;
    const Pieces p = pieces_of(&t->view, t->volumes);
    const int64_t apart = may_be_apart ? p.piece * hn_gemm_cuda_padded(t->channels, HN_F32) : 0;
    return p.patch_bytes + filter_bytes(t, p) + (size_t)apart * sizeof(float);
}

template <class T>
void launch_filters(const hn_conv3d_task *t, const Pieces &p, void *to, cudaStream_t stream)
{
    const int64_t n = t->channels * p.ld;
    filters_kernel<T><<<hn_grid(n, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
        static_cast<const T *>(t->w), t->w_o, t->w_tap, t->w_c, static_cast<T *>(to),
        t->view.channels, p.cols, p.ld, n);
}

/* Voxels first .. first + rows of the result. */
hn_status run_piece(const hn_conv3d_task *t, const Pieces &p, int64_t first, int64_t rows,
                    hn_gemm_cuda *gemm, char *scratch, hn_stream stream)
{
    const hn_dtype dtype = t->view.dtype;
    const bool apart = is_apart(t);
    HN_TRY(patches_of(&t->view, first, rows, scratch, p.ld, stream));
    hn_gemm_cuda_args g = {};
    g.m = rows, g.n = t->channels, g.k = p.ld;
    g.a = scratch, g.ld_a = p.ld;
    g.b = scratch + p.patch_bytes, g.ld_b = p.ld, g.trans_b = true;
    g.c = element(t->to, first * t->ld_to, dtype), g.ld_c = t->ld_to, g.c_dtype = dtype;
    g.c0 = element(t->add, first * t->ld_add, dtype), g.ld_c0 = t->ld_add;
    g.bias = t->bias, g.dtype = dtype;
    g.alpha = 1.0f, g.beta = t->add != nullptr ? 1.0f : 0.0f;
    if (apart) { /* forward, which adds nothing else */
        g.c = scratch + p.patch_bytes + filter_bytes(t, p), g.c_dtype = HN_F32;
        g.ld_c = hn_gemm_cuda_padded(t->channels, HN_F32), g.bias = nullptr;
    }
    HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    if (!apart) return HN_OK;
    hn_conv2d_finish f = {};
    f.from = g.c, f.ld_from = g.ld_c, f.from_dtype = HN_F32;
    f.y = element(t->to, first * t->ld_to, dtype), f.ld_y = t->ld_to, f.dtype = dtype;
    f.bias = t->bias, f.bias_dtype = t->bias_dtype;
    f.rows = f.group = rows, f.cols = t->channels;
    return hn_conv2d_finish_cuda(&f, stream);
}

hn_status run_task(const char *op, const hn_conv3d_task *t, hn_gemm_cuda *gemm, void *scratch,
                   hn_stream stream)
{
    if (hn_conv3d_mma_fits(t)) return hn_conv3d_mma(t, stream);
    if (hn_conv3d_direct_fits(t)) return hn_conv3d_direct(t, stream);
    HN_TRY(hn_check_pointer(op, "scratch", scratch));
    const Pieces p = pieces_of(&t->view, t->volumes);
    char *const memory = static_cast<char *>(scratch);
    HN_CUDA_REAL(t->view.dtype, T, launch_filters<T>(t, p, memory + p.patch_bytes, stream));
    HN_TRY(HN_CUDA_LAUNCHED("conv3d: filters"));
    for (int64_t row = 0; row < p.rows; row += p.piece) {
        const int64_t rows = p.rows - row < p.piece ? p.rows - row : p.piece;
        HN_TRY(run_piece(t, p, row, rows, gemm, memory, stream));
    }
    return HN_OK;
}

/* Of replica `at`. */
hn_conv3d_task fwd_task(const hn_conv3d_args *a, int64_t at)
{
    const hn_conv3d_shape s = hn_conv3d_one_replica_(&a->shape, a->replicas);
    const int64_t x = at * hn_conv3d_voxels_in(&s), y = at * hn_conv3d_voxels_out(&s);
    hn_conv3d_task t = {};
    t.view = hn_conv3d_view_x_(&s, element(a->x, x * a->ld_x, a->dtype), a->dtype, a->ld_x);
    t.volumes = s.n, t.channels = s.out;
    t.w = element(a->w, at * a->w_stride, a->dtype);
    t.w_o = a->ld_w, t.w_tap = s.in, t.w_c = 1;
    t.bias = element(a->bias, at * a->bias_stride, a->bias_dtype), t.bias_dtype = a->bias_dtype;
    t.to = element(a->y, y * a->ld_y, a->dtype), t.ld_to = a->ld_y;
    return t;
}

hn_conv3d_task dx_task(const hn_conv3d_dx_args *a, int64_t at)
{
    const hn_conv3d_shape s = hn_conv3d_one_replica_(&a->shape, a->replicas);
    const int64_t dx = at * hn_conv3d_voxels_in(&s), dy = at * hn_conv3d_voxels_out(&s);
    hn_conv3d_task t = {};
    t.view = hn_conv3d_view_dy_(&s, element(a->dy, dy * a->ld_dy, a->dtype), a->dtype, a->ld_dy);
    t.volumes = s.n, t.channels = s.in;
    t.w = element(a->w, at * a->w_stride, a->dtype);
    t.w_o = 1, t.w_tap = s.in, t.w_c = a->ld_w;
    t.add = element(a->add, dx * a->ld_add, a->dtype), t.ld_add = a->ld_add;
    t.to = element(a->dx, dx * a->ld_dx, a->dtype), t.ld_to = a->ld_dx;
    return t;
}

} // namespace

size_t hn_conv3d_fwd_cuda_scratch(const hn_conv3d_args *a)
{
    const hn_conv3d_task t = fwd_task(a, 0);
    return task_scratch(&t, a->bias_dtype != a->dtype);
}

hn_status hn_conv3d_fwd_cuda(const hn_conv3d_args *a, hn_gemm_cuda *gemm, void *scratch,
                             hn_stream stream)
{
    HN_TRY(hn_conv3d_check(a));
    for (int64_t at = 0; at < hn_replica_count(a->replicas); at++) {
        const hn_conv3d_task t = fwd_task(a, at);
        HN_TRY(run_task("conv3d", &t, gemm, scratch, stream));
    }
    return HN_OK;
}

size_t hn_conv3d_dx_cuda_scratch(const hn_conv3d_dx_args *a)
{
    const hn_conv3d_task t = dx_task(a, 0);
    return task_scratch(&t, false);
}

hn_status hn_conv3d_dx_cuda(const hn_conv3d_dx_args *a, hn_gemm_cuda *gemm, void *scratch,
                            hn_stream stream)
{
    HN_TRY(hn_conv3d_dx_check(a));
    for (int64_t at = 0; at < hn_replica_count(a->replicas); at++) {
        const hn_conv3d_task t = dx_task(a, at);
        HN_TRY(run_task("conv3d_dx", &t, gemm, scratch, stream));
    }
    return HN_OK;
}

/* ---- gradient of w ---- */

/* Pointers may be NULL here, and turn out to be unaligned: room for either way. */
size_t hn_conv3d_dw_cuda_scratch(const hn_conv3d_dw_args *a)
{
    hn_conv3d_dw_args one = *a;
    one.shape = hn_conv3d_one_replica_(&a->shape, a->replicas);
    one.x = one.dy = nullptr;
    const hn_conv3d_view_ v = hn_conv3d_view_x_(&one.shape, nullptr, a->dtype, a->ld_x);
    const size_t least = hn_conv3d_direct_dw_fits(&one.shape)
                             ? hn_conv3d_direct_dw_scratch(&one.shape)
                             : pieces_of(&v, one.shape.n).patch_bytes;
    const size_t mma = hn_conv3d_mma_dw_fits(&one) ? hn_conv3d_mma_dw_scratch(&one.shape) : 0;
    return mma > least ? mma : least;
}

/* One replica, whose operands begin at those of a. */
static hn_status dw_by_patches(const hn_conv3d_dw_args *a, hn_gemm_cuda *gemm, void *scratch,
                               hn_stream stream)
{
    const hn_conv3d_view_ v = hn_conv3d_view_x_(&a->shape, a->x, a->dtype, a->ld_x);
    const Pieces p = pieces_of(&v, a->shape.n);
    HN_TRY(hn_check_pointer("conv3d_dw", "scratch", scratch));
    for (int64_t row = 0; row < p.rows; row += p.piece) {
        const int64_t rows = p.rows - row < p.piece ? p.rows - row : p.piece;
        HN_TRY(patches_of(&v, row, rows, scratch, p.ld, stream));
        hn_gemm_cuda_args g = {};
        g.m = a->shape.out, g.n = p.cols, g.k = rows;
        g.a = element(a->dy, row * a->ld_dy, a->dtype), g.ld_a = a->ld_dy, g.trans_a = true;
        g.b = scratch, g.ld_b = p.ld;
        g.c = a->dw, g.ld_c = a->ld_dw;
        g.dtype = a->dtype, g.c_dtype = HN_F32;
        g.alpha = g.beta = 1.0f;
        HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    }
    return HN_OK;
}

hn_status hn_conv3d_dw_cuda(const hn_conv3d_dw_args *a, hn_gemm_cuda *gemm, void *scratch,
                            hn_stream stream)
{
    HN_TRY(hn_conv3d_dw_check(a));
    hn_conv3d_dw_args one = *a;
    one.shape = hn_conv3d_one_replica_(&a->shape, a->replicas), one.replicas = 0;
    for (int64_t at = 0; at < hn_replica_count(a->replicas); at++) {
        const int64_t x = at * hn_conv3d_voxels_in(&one.shape) * a->ld_x;
        const int64_t dy = at * hn_conv3d_voxels_out(&one.shape) * a->ld_dy;
        one.x = element(a->x, x, a->dtype), one.dy = element(a->dy, dy, a->dtype);
        one.dw = a->dw + at * a->dw_stride;
        if (hn_conv3d_mma_dw_fits(&one))
            HN_TRY(hn_conv3d_mma_dw(&one, scratch, stream));
        else if (hn_conv3d_direct_dw_fits(&one.shape))
            HN_TRY(hn_conv3d_direct_dw(&one, scratch, stream));
        else
            HN_TRY(dw_by_patches(&one, gemm, scratch, stream));
    }
    return HN_OK;
}
