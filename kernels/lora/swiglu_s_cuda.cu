/* What swiglu writes is multiplied by A before it is written (cuda_row_product.h). With 64 rows a
 * block A is read 256 times 256 KB at 16384 rows of 8192, from L2, against 537 MB of gate and up.
 */
#include "kernels/activation/cuda_swiglu.h"
#include "kernels/lora/cuda_row_product.h"
#include "kernels/lora/swiglu_s.h"

namespace {

using Bf16 = __nv_bfloat16;

struct Forward {
    static constexpr int kHalves = 1;
    static constexpr bool kByColumns = false;
    struct Values {
        hn_pack<Bf16> gate[2], up[2];
    };

    const Bf16 *gate, *up;
    Bf16 *y;
    int rows, cols, ld_gate, ld_up, ld_y; /* all below 2^31 */

    __device__ __forceinline__ Values load(int row, int col) const
    {
        Values v;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int r = row + 8 * i;
            const bool there = r < rows && col < cols;
            v.gate[i] = hn_row_load_(gate + hn_row_at_(r, ld_gate, col), there);
            v.up[i] = hn_row_load_(up + hn_row_at_(r, ld_up, col), there);
        }
        return v;
    }
    /* v.gate becomes y. */
    __device__ __forceinline__ void work_out(int row, int col, Values &v) const
    {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int r = row + 8 * i;
            float g[HN_VEC], u[HN_VEC];
            hn_unpack(v.gate[i], g);
            hn_unpack(v.up[i], u);
#pragma unroll
            for (int k = 0; k < HN_VEC; k++) u[k] = hn_swiglu_of<Bf16>(g[k], u[k]);
            v.gate[i] = hn_pack_of<Bf16>(u);
            if (r < rows && col < cols) hn_store_pack(y + hn_row_at_(r, ld_y, col), v.gate[i]);
        }
    }
    static __device__ __forceinline__ const hn_pack<Bf16> (&half(const Values &v, int))[2]
    {
        return v.gate;
    }
};

Forward forward_of(const hn_swiglu_args *s)
{
    Forward f = {};
    f.gate = static_cast<const Bf16 *>(s->gate), f.ld_gate = (int)s->ld_gate;
    f.up = static_cast<const Bf16 *>(s->up), f.ld_up = (int)s->ld_up;
    f.y = static_cast<Bf16 *>(s->y), f.ld_y = (int)s->ld_y;
    f.rows = (int)s->rows, f.cols = (int)s->cols;
    return f;
}

hn_row_product product_of(const hn_swiglu_s_args *a)
{
    hn_row_product p = {};
    p.b = static_cast<const Bf16 *>(a->a), p.ld_b = (int)a->ld_a;
    p.s = static_cast<Bf16 *>(a->s), p.ld_s = (int)a->ld_s;
    if (a->tail >= a->rank) p.tail = static_cast<Bf16 *>(a->swiglu.y) + a->swiglu.cols;
    p.ld_tail = (int)a->swiglu.ld_y;
    p.rank = (int)a->rank, p.scale = a->scale;
    return p;
}

bool aligned(const void *p, int64_t ld) { return hn_vectors_fit(p, ld, HN_BF16); }

hn_status fits(const hn_swiglu_s_args *a, bool *out)
{
    const hn_swiglu_args *s = &a->swiglu;
    *out = false;
    if (s->dtype != HN_BF16 || !aligned(s->gate, s->ld_gate) || !aligned(s->up, s->ld_up) ||
        !aligned(s->y, s->ld_y) || !aligned(a->a, a->ld_a) || !aligned(a->s, a->ld_s))
        return HN_OK;
    return hn_row_product_fits_(s->rows, s->cols, a->rank, out);
}

} // namespace

hn_status hn_swiglu_s_cuda(const hn_swiglu_s_args *a, hn_gemm_cuda *gemm, hn_stream stream)
{
    bool one_kernel = false;
    HN_TRY(hn_swiglu_s_check(a));
    HN_TRY(fits(a, &one_kernel));
    if (one_kernel) return hn_row_product_(forward_of(&a->swiglu), product_of(a), stream);
    const hn_lowrank_linear_args rest = hn_swiglu_s_rest(a);
    HN_TRY(hn_swiglu_fwd_cuda(&a->swiglu, stream));
    return hn_lowrank_linear_fwd_cuda(&rest, gemm, nullptr, stream);
}
