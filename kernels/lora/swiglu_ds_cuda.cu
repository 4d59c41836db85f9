/* What swiglu_bwd writes is multiplied by B before it is written (cuda_row_product.h). With 64 rows
 * a block B is read 256 times 1 MB at 16384 rows of 2 * 8192, from L2, against 805 MB of gate, up
 * and dy. Products are 5 % of the instructions. */
#include "kernels/activation/cuda_swiglu.h"
#include "kernels/lora/cuda_row_product.h"
#include "kernels/lora/swiglu_ds.h"

namespace {

using Bf16 = __nv_bfloat16;

struct Backward {
    static constexpr int kHalves = 2;
    static constexpr bool kByColumns = true;
    struct Values {
        hn_pack<Bf16> gate[2], up[2], dy[2];
    };

    const Bf16 *gate, *up, *dy;
    Bf16 *dgate, *dup, *h;                                 /* h: nullptr: not wanted */
    int rows, cols, ld_gate, ld_up, ld_dy, ld_dgate, ld_h; /* all below 2^31 */

    __device__ __forceinline__ Values load(int row, int col) const
    {
        Values v;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int r = row + 8 * i;
            const bool there = r < rows && col < cols;
            v.gate[i] = hn_row_load_(gate + hn_row_at_(r, ld_gate, col), there);
            v.up[i] = hn_row_load_(up + hn_row_at_(r, ld_up, col), there);
            v.dy[i] = hn_row_load_(dy + hn_row_at_(r, ld_dy, col), there);
        }
        return v;
    }
    /* v.gate becomes dgate, v.up dup. */
    __device__ __forceinline__ void work_out(int row, int col, Values &v) const
    {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int r = row + 8 * i;
            float g[HN_VEC], u[HN_VEC], d[HN_VEC];
            hn_unpack(v.gate[i], g);
            hn_unpack(v.up[i], u);
            hn_unpack(v.dy[i], d);
#pragma unroll
            for (int k = 0; k < HN_VEC; k++) hn_swiglu_back<Bf16>(g[k], u[k], d[k]);
            v.gate[i] = hn_pack_of<Bf16>(u); /* hn_swiglu_back leaves dgate where up was */
            v.up[i] = hn_pack_of<Bf16>(g);
            if (r >= rows || col >= cols) continue;
            hn_store_pack(dgate + hn_row_at_(r, ld_dgate, col), v.gate[i]);
            hn_store_pack(dup + hn_row_at_(r, ld_dgate, col), v.up[i]);
            if (h != nullptr) hn_store_pack(h + hn_row_at_(r, ld_h, col), hn_pack_of<Bf16>(d));
        }
    }
    static __device__ __forceinline__ const hn_pack<Bf16> (&half(const Values &v, int n))[2]
    {
        return n == 0 ? v.gate : v.up;
    }
};

Backward backward_of(const hn_swiglu_bwd_args *s)
{
    Backward b = {};
    b.gate = static_cast<const Bf16 *>(s->gate), b.ld_gate = (int)s->ld_gate;
    b.up = static_cast<const Bf16 *>(s->up), b.ld_up = (int)s->ld_up;
    b.dy = static_cast<const Bf16 *>(s->dy), b.ld_dy = (int)s->ld_dy;
    b.dgate = static_cast<Bf16 *>(s->dgate), b.dup = static_cast<Bf16 *>(s->dup);
    b.ld_dgate = (int)s->ld_dgate;
    b.h = static_cast<Bf16 *>(s->h), b.ld_h = (int)s->ld_h;
    b.rows = (int)s->rows, b.cols = (int)s->cols;
    return b;
}

hn_row_product product_of(const hn_swiglu_ds_args *a)
{
    hn_row_product p = {};
    p.b = static_cast<const Bf16 *>(a->b), p.ld_b = (int)a->ld_b;
    p.s = static_cast<Bf16 *>(a->ds), p.ld_s = (int)a->ld_ds;
    if (a->tail >= a->rank) p.tail = static_cast<Bf16 *>(a->swiglu.dup) + a->swiglu.cols;
    p.ld_tail = (int)a->swiglu.ld_dup;
    p.rank = (int)a->rank, p.scale = a->scale;
    return p;
}

bool aligned(const void *p, int64_t ld) { return hn_vectors_fit(p, ld, HN_BF16); }

hn_status fits(const hn_swiglu_ds_args *a, bool *out)
{
    const hn_swiglu_bwd_args *s = &a->swiglu;
    *out = false;
    if (s->dtype != HN_BF16 || !aligned(s->gate, s->ld_gate) || !aligned(s->up, s->ld_up) ||
        !aligned(s->dy, s->ld_dy) || !aligned(s->dgate, s->ld_dgate) || !aligned(s->h, s->ld_h) ||
        !aligned(a->b, a->ld_b) || !aligned(a->ds, a->ld_ds))
        return HN_OK;
    return hn_row_product_fits_(s->rows, s->cols, a->rank, out);
}

/* The second half by itself: ds alone, of dy = [dgate | dup]. */
hn_lowrank_linear_dx_args rest_of(const hn_swiglu_ds_args *a)
{
    hn_lowrank_linear_dx_args l = {};
    l.dy = a->swiglu.dgate, l.ld_dy = a->swiglu.ld_dgate, l.dy_tail = a->tail;
    l.b = a->b, l.ld_b = a->ld_b, l.ds = a->ds, l.ld_ds = a->ld_ds;
    l.rows = a->swiglu.rows, l.out = 2 * a->swiglu.cols, l.rank = a->rank;
    l.dtype = a->swiglu.dtype, l.scale = a->scale;
    return l;
}

hn_status check_places(const hn_swiglu_bwd_args *s)
{
    const char *right =
        static_cast<const char *>(s->dgate) + (size_t)s->cols * hn_dtype_size(s->dtype);
    if (s->dup == right && s->ld_dup == s->ld_dgate && s->ld_dup >= 2 * s->cols) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "swiglu_ds: on CUDA dup has to lie right of dgate");
}

} // namespace

hn_status hn_swiglu_ds_cuda(const hn_swiglu_ds_args *a, hn_gemm_cuda *gemm, hn_stream stream)
{
    bool one_kernel = false;
    HN_TRY(hn_swiglu_ds_check(a));
    HN_TRY(check_places(&a->swiglu));
    HN_TRY(fits(a, &one_kernel));
    if (one_kernel) return hn_row_product_(backward_of(&a->swiglu), product_of(a), stream);
    const hn_lowrank_linear_dx_args rest = rest_of(a);
    HN_TRY(hn_swiglu_bwd_cuda(&a->swiglu, stream));
    return hn_lowrank_linear_dx_cuda(&rest, gemm, nullptr, stream);
}
