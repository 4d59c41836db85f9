/* Two products after each other, the second added to the first by beta = 1; with dropout the
 * operand (forward) or the product (backward) of the low-rank branch is masked in the scratch.
 * Where A and B border w, s or ds is copied behind the rows of x or dy: one product does both. */
#include "kernels/linear/linear.h"
#include "kernels/lora/lowrank_linear.h"
#include "kernels/random/cuda_dropout.h"
#include "runtime/base/check.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1ll << 20; /* blocks loop over what is left */

/* dx = round(dx + mask' * low), four columns (one Philox block) a thread. */
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_masked_kernel(const float *low, int64_t ld_low, hn_dropout_launch key, T *dx, int64_t ld_dx,
                      int64_t rows, int64_t cols)
{
    const hn_dropout_now now = hn_dropout_begin(key);
    const int64_t quads = (cols + 3) / 4, n = rows * quads;
    for (int64_t q = (int64_t)blockIdx.x * kThreads + threadIdx.x; q < n;
         q += (int64_t)gridDim.x * kThreads) {
        const int64_t i = q / quads, block = q % quads;
        float mask[4];
        hn_dropout_mask4(now, i, block, mask);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int64_t col = block * 4 + j;
            if (col >= cols || mask[j] == 0.0f) continue;
            T *const at = dx + i * ld_dx + col;
            *at = hn_round<T>(hn_f32(*at) + mask[j] * low[i * ld_low + col]);
        }
    }
}

template <class T>
void add_masked(const hn_lowrank_linear_dx_args *a, const float *low, cudaStream_t stream)
{
    const int64_t n = a->rows * ((a->in + 3) / 4);
    add_masked_kernel<T><<<hn_grid(n, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
        low, hn_gemm_cuda_padded(a->in, HN_F32), hn_dropout_launch_of(&a->drop),
        static_cast<T *>(a->dx), a->ld_dx, a->rows, a->in);
}

/* to = s, in units of V. */
template <class V>
__global__ void __launch_bounds__(kThreads)
    tail_kernel(const V *s, int64_t ld_s, V *to, int64_t ld_to, int64_t rows, int64_t cols)
{
    const int64_t n = rows * cols;
    for (int64_t q = (int64_t)blockIdx.x * kThreads + threadIdx.x; q < n;
         q += (int64_t)gridDim.x * kThreads) {
        const int64_t i = q / cols, j = q % cols;
        to[i * ld_to + j] = s[i * ld_s + j];
    }
}

bool in_steps_of(size_t step, const void *p, int64_t ld, size_t size)
{
    return (uintptr_t)p % step == 0 && (size_t)ld * size % step == 0;
}

/* Copies s [rows, rank] to behind the rows of x [rows, cols]. */
template <class V>
void launch_tail(const void *s, int64_t ld_s, void *to, int64_t ld_to, int64_t rows, int64_t rank,
                 size_t size, cudaStream_t stream)
{
    const int64_t per = (int64_t)(sizeof(V) / size), cols = rank / per;
    tail_kernel<V><<<hn_grid(rows * cols, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
        static_cast<const V *>(s), ld_s / per, static_cast<V *>(to), ld_to / per, rows, cols);
}

hn_status put_behind(const void *x, int64_t cols, int64_t ld_x, const void *s, int64_t ld_s,
                     int64_t rows, int64_t rank, hn_dtype dtype, cudaStream_t stream)
{
    const size_t size = hn_dtype_size(dtype);
    void *const to = static_cast<char *>(const_cast<void *>(x)) + (size_t)cols * size;
    if (in_steps_of(sizeof(uint4), s, ld_s, size) && in_steps_of(sizeof(uint4), to, ld_x, size) &&
        (size_t)rank * size % sizeof(uint4) == 0)
        launch_tail<uint4>(s, ld_s, to, ld_x, rows, rank, size, stream);
    else if (dtype == HN_F32)
        launch_tail<uint32_t>(s, ld_s, to, ld_x, rows, rank, size, stream);
    else
        launch_tail<uint16_t>(s, ld_s, to, ld_x, rows, rank, size, stream);
    return HN_CUDA_LAUNCHED("lowrank_linear: tail");
}

const char *at(const void *p, int64_t elements, hn_dtype dtype)
{
    return static_cast<const char *>(p) + elements * (int64_t)hn_dtype_size(dtype);
}

bool is_bordered(const hn_lowrank_linear_args *a)
{
    return a->replicas <= 1 && a->x_tail >= a->rank && a->ld_b == a->ld_w &&
           a->b == at(a->w, a->in, a->dtype);
}

bool is_bordered(const hn_lowrank_linear_dx_args *a)
{
    return a->replicas <= 1 && a->dy_tail >= a->rank && a->drop.p == 0.0 && a->ld_a == a->ld_w &&
           a->a == at(a->w, a->out * a->ld_w, a->dtype);
}

/* The base layer. */
hn_linear_args base_of(const hn_lowrank_linear_args *a)
{
    hn_linear_args l = {};
    l.x = a->x, l.w = a->w, l.bias = a->bias, l.add = a->add, l.y = a->y;
    l.rows = a->rows, l.in = a->in, l.out = a->out;
    l.ld_x = a->ld_x, l.ld_w = a->ld_w, l.ld_add = a->ld_add, l.ld_y = a->ld_y;
    l.replicas = a->replicas, l.w_stride = a->w_stride, l.bias_stride = a->bias_stride;
    l.dtype = a->dtype, l.bias_dtype = a->bias_dtype;
    return l;
}

size_t dropped_bytes(const hn_lowrank_linear_args *a)
{
    if (a->drop.p == 0.0) return 0;
    return (size_t)(a->rows * hn_gemm_cuda_padded(a->in, a->dtype)) * hn_dtype_size(a->dtype);
}

/* s = scale x' A^T */
hn_status make_s(const hn_lowrank_linear_args *a, hn_gemm_cuda *gemm, void *scratch,
                 hn_stream stream)
{
    const void *x = a->x;
    int64_t ld_x = a->ld_x;
    if (a->drop.p > 0.0) {
        hn_dropout_args d = {};
        d.x = a->x, d.y = scratch, d.rows = a->rows, d.cols = a->in;
        d.ld_x = a->ld_x, d.ld_y = hn_gemm_cuda_padded(a->in, a->dtype);
        d.dtype = a->dtype, d.key = a->drop;
        HN_TRY(hn_dropout_cuda(&d, stream));
        x = scratch, ld_x = d.ld_y;
    }
    hn_gemm_cuda_args g = {};
    g.batch = a->a_stride == 0 ? 1 : hn_replica_count(a->replicas);
    g.m = a->rows / g.batch, g.n = a->rank, g.k = a->in;
    g.a = x, g.ld_a = ld_x, g.a_stride = g.m * ld_x;
    g.b = a->a, g.ld_b = a->ld_a, g.b_stride = a->a_stride, g.trans_b = true;
    g.c = a->s, g.ld_c = a->ld_s, g.c_stride = g.m * a->ld_s;
    g.dtype = g.c_dtype = a->dtype, g.alpha = a->scale;
    return hn_gemm_cuda_run(gemm, &g, stream);
}

/* ds = scale dy B */
hn_status make_ds(const hn_lowrank_linear_dx_args *a, hn_gemm_cuda *gemm, hn_stream stream)
{
    hn_gemm_cuda_args g = {};
    g.batch = a->b_stride == 0 ? 1 : hn_replica_count(a->replicas);
    g.m = a->rows / g.batch, g.n = a->rank, g.k = a->out;
    g.a = a->dy, g.ld_a = a->ld_dy, g.a_stride = g.m * a->ld_dy;
    g.b = a->b, g.ld_b = a->ld_b, g.b_stride = a->b_stride;
    g.c = a->ds, g.ld_c = a->ld_ds, g.c_stride = g.m * a->ld_ds;
    g.dtype = g.c_dtype = a->dtype, g.alpha = a->scale;
    return hn_gemm_cuda_run(gemm, &g, stream);
}

/* dx = dy w (+ add), over the first `out` columns of dy: `rank` more make it [dy | ds] [w ; A] */
hn_status make_base_dx(const hn_lowrank_linear_dx_args *a, int64_t out, hn_gemm_cuda *gemm,
                       hn_stream stream)
{
    hn_linear_dx_args l = {};
    l.dy = a->dy, l.w = a->w, l.add = a->add, l.dx = a->dx;
    l.rows = a->rows, l.in = a->in, l.out = out;
    l.ld_dy = a->ld_dy, l.ld_w = a->ld_w, l.ld_add = a->ld_add, l.ld_dx = a->ld_dx;
    l.replicas = a->replicas, l.w_stride = a->w_stride, l.dtype = a->dtype;
    return hn_linear_dx_cuda(&l, gemm, stream);
}

} // namespace

size_t hn_lowrank_linear_fwd_cuda_scratch(const hn_lowrank_linear_args *a)
{
    const hn_linear_args base = base_of(a);
    const size_t x = dropped_bytes(a), bias = hn_linear_fwd_cuda_scratch(&base);
    return x > bias ? x : bias; /* x' is done with when the base layer starts */
}

hn_status hn_lowrank_linear_fwd_cuda(const hn_lowrank_linear_args *a, hn_gemm_cuda *gemm,
                                     void *scratch, hn_stream stream)
{
    HN_TRY(hn_lowrank_linear_check(a));
    if (a->drop.p > 0.0) HN_TRY(hn_check_pointer("lowrank_linear", "scratch", scratch));
    hn_linear_args base = base_of(a);
    HN_TRY(make_s(a, gemm, scratch, stream));
    if (is_bordered(a)) {
        HN_TRY(put_behind(a->x, a->in, a->ld_x, a->s, a->ld_s, a->rows, a->rank, a->dtype, stream));
        base.in += a->rank; /* [x | s] [w | B]^T */
        return hn_linear_fwd_cuda(&base, gemm, scratch, stream);
    }
    HN_TRY(hn_linear_fwd_cuda(&base, gemm, scratch, stream));
    hn_gemm_cuda_args g = {};
    g.batch = a->b_stride == 0 ? 1 : hn_replica_count(a->replicas);
    g.m = a->rows / g.batch, g.n = a->out, g.k = a->rank;
    g.a = a->s, g.ld_a = a->ld_s, g.a_stride = g.m * a->ld_s;
    g.b = a->b, g.ld_b = a->ld_b, g.b_stride = a->b_stride, g.trans_b = true;
    g.c = a->y, g.ld_c = a->ld_y, g.c_stride = g.m * a->ld_y;
    g.dtype = g.c_dtype = a->dtype, g.alpha = g.beta = 1.0f;
    return hn_gemm_cuda_run(gemm, &g, stream);
}

size_t hn_lowrank_linear_dx_cuda_scratch(const hn_lowrank_linear_dx_args *a)
{
    if (a->drop.p == 0.0) return 0;
    return (size_t)(a->rows * hn_gemm_cuda_padded(a->in, HN_F32)) * sizeof(float);
}

hn_status hn_lowrank_linear_dx_cuda(const hn_lowrank_linear_dx_args *a, hn_gemm_cuda *gemm,
                                    void *scratch, hn_stream stream)
{
    HN_TRY(hn_lowrank_linear_dx_check(a));
    const bool masked = a->drop.p > 0.0 && a->dx != nullptr;
    if (masked) HN_TRY(hn_check_pointer("lowrank_linear_dx", "scratch", scratch));
    HN_TRY(make_ds(a, gemm, stream));
    if (a->dx == nullptr) return HN_OK;
    if (is_bordered(a)) {
        HN_TRY(put_behind(a->dy, a->out, a->ld_dy, a->ds, a->ld_ds, a->rows, a->rank, a->dtype,
                          stream));
        return make_base_dx(a, a->out + a->rank, gemm, stream);
    }
    HN_TRY(make_base_dx(a, a->out, gemm, stream));
    hn_gemm_cuda_args g = {};
    g.batch = a->a_stride == 0 ? 1 : hn_replica_count(a->replicas);
    g.m = a->rows / g.batch, g.n = a->in, g.k = a->rank;
    g.a = a->ds, g.ld_a = a->ld_ds, g.a_stride = g.m * a->ld_ds;
    g.b = a->a, g.ld_b = a->ld_a, g.b_stride = a->a_stride;
    g.c = masked ? scratch : a->dx, g.c_dtype = masked ? HN_F32 : a->dtype;
    g.ld_c = masked ? hn_gemm_cuda_padded(a->in, HN_F32) : a->ld_dx, g.c_stride = g.m * g.ld_c;
    g.dtype = a->dtype, g.alpha = 1.0f, g.beta = masked ? 0.0f : 1.0f;
    HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    if (!masked) return HN_OK;
    HN_CUDA_REAL(a->dtype, T, add_masked<T>(a, static_cast<const float *>(scratch), stream));
    return HN_CUDA_LAUNCHED("lowrank_linear_dx: add_masked");
}
