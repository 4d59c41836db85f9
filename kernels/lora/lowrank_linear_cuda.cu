/* Two products after each other, the second added to the first by beta = 1; with dropout the
 * operand (forward) or the product (backward) of the low-rank branch is masked in the scratch.
 * Where A and B border w, s or ds lies behind the rows of x or dy, too, and one product does both.
 * s and ds are products of cuBLASLt or, where that fits, of skinny_cuda.cu.
 */
#include "kernels/linear/linear.h"
#include "kernels/lora/cuda_skinny.h"
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

/* Copies s [rows, rank]. */
template <class V>
void launch_tail(const void *s, int64_t ld_s, void *to, int64_t ld_to, int64_t rows, int64_t rank,
                 size_t size, cudaStream_t stream)
{
    const int64_t per = (int64_t)(sizeof(V) / size), cols = rank / per;
    tail_kernel<V><<<hn_grid(rows * cols, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
        static_cast<const V *>(s), ld_s / per, static_cast<V *>(to), ld_to / per, rows, cols);
}

hn_status put_behind(const void *s, int64_t ld_s, void *to, int64_t ld_to, int64_t rows,
                     int64_t rank, hn_dtype dtype, cudaStream_t stream)
{
    const size_t size = hn_dtype_size(dtype);
    if (in_steps_of(sizeof(uint4), s, ld_s, size) && in_steps_of(sizeof(uint4), to, ld_to, size) &&
        (size_t)rank * size % sizeof(uint4) == 0)
        launch_tail<uint4>(s, ld_s, to, ld_to, rows, rank, size, stream);
    else if (dtype == HN_F32)
        launch_tail<uint32_t>(s, ld_s, to, ld_to, rows, rank, size, stream);
    else
        launch_tail<uint16_t>(s, ld_s, to, ld_to, rows, rank, size, stream);
    return HN_CUDA_LAUNCHED("lowrank_linear: tail");
}

const char *at(const void *p, int64_t elements, hn_dtype dtype)
{
    return static_cast<const char *>(p) + elements * (int64_t)hn_dtype_size(dtype);
}

/* What lies behind row 0 of x, which the caller has given as a tail to write in. */
void *tail_of(const void *x, int64_t cols, hn_dtype dtype)
{
    return const_cast<char *>(at(x, cols, dtype));
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

/* Puts s, the product of g, in its place and, where `tail` is given, behind rows, too. */
hn_status make_narrow(const hn_gemm_cuda_args *g, void *tail, int64_t ld_tail, hn_gemm_cuda *gemm,
                      hn_stream stream)
{
    if (g->dtype == HN_BF16 && g->batch == 1) {
        hn_skinny_args k = {};
        bool fits = false;
        k.x = static_cast<const __nv_bfloat16 *>(g->a), k.ld_x = g->ld_a;
        k.a = static_cast<const __nv_bfloat16 *>(g->b), k.ld_a = g->ld_b;
        k.s = static_cast<__nv_bfloat16 *>(g->c), k.ld_s = g->ld_c;
        k.tail = static_cast<__nv_bfloat16 *>(tail), k.ld_tail = ld_tail;
        k.rows = g->m, k.cols = g->k, k.rank = g->n;
        k.by_columns = !g->trans_b, k.scale = g->alpha;
        HN_TRY(hn_skinny_fits_(&k, &fits));
        if (fits) return hn_skinny_(&k, stream);
    }
    HN_TRY(hn_gemm_cuda_run(gemm, g, stream));
    if (tail == nullptr) return HN_OK;
    return put_behind(g->c, g->ld_c, tail, ld_tail, g->m, g->n, g->dtype, stream);
}

/* s = scale x' A^T, with `behind` also behind the rows of x */
hn_status make_s(const hn_lowrank_linear_args *a, bool behind, hn_gemm_cuda *gemm, void *scratch,
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
    return make_narrow(&g, behind ? tail_of(a->x, a->in, a->dtype) : nullptr, a->ld_x, gemm,
                       stream);
}

/* ds = scale dy B, with `behind` also behind the rows of dy */
hn_status make_ds(const hn_lowrank_linear_dx_args *a, bool behind, hn_gemm_cuda *gemm,
                  hn_stream stream)
{
    hn_gemm_cuda_args g = {};
    g.batch = a->b_stride == 0 ? 1 : hn_replica_count(a->replicas);
    g.m = a->rows / g.batch, g.n = a->rank, g.k = a->out;
    g.a = a->dy, g.ld_a = a->ld_dy, g.a_stride = g.m * a->ld_dy;
    g.b = a->b, g.ld_b = a->ld_b, g.b_stride = a->b_stride;
    g.c = a->ds, g.ld_c = a->ld_ds, g.c_stride = g.m * a->ld_ds;
    g.dtype = g.c_dtype = a->dtype, g.alpha = a->scale;
    return make_narrow(&g, behind ? tail_of(a->dy, a->out, a->dtype) : nullptr, a->ld_dy, gemm,
                       stream);
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
    const bool alone = a->y == nullptr && a->replicas <= 1 && a->x_tail >= a->rank;
    const bool bordered = a->y != nullptr && is_bordered(a);
    if (!a->s_given) HN_TRY(make_s(a, alone || bordered, gemm, scratch, stream));
    if (a->y == nullptr) return HN_OK;
    if (bordered) {
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
    const bool alone = a->dx == nullptr && a->replicas <= 1 && a->dy_tail >= a->rank;
    const bool bordered = a->dx != nullptr && is_bordered(a);
    if (!a->ds_given) HN_TRY(make_ds(a, alone || bordered, gemm, stream));
    if (a->dx == nullptr) return HN_OK;
    if (bordered) return make_base_dx(a, a->out + a->rank, gemm, stream);
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
