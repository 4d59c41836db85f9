/* One product of cuBLASLt forward, two backward: those are f32, on copies of A and B where they are
 * bf16, because the gradient of the matrix is. */
#include "kernels/activation/elementwise.h"
#include "kernels/lora/lowrank_weight.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_check.h"

hn_status hn_lowrank_weight_fwd_cuda(const hn_lowrank_weight_args *a, hn_gemm_cuda *gemm,
                                     hn_stream stream)
{
    HN_TRY(hn_lowrank_weight_check(a));
    hn_gemm_cuda_args g = {};
    g.batch = 1, g.m = a->out, g.n = a->in, g.k = a->rank;
    g.a = a->b, g.ld_a = a->ld_b;
    g.b = a->a, g.ld_b = a->ld_a;
    g.c0 = a->w == a->y ? nullptr : a->w, g.ld_c0 = a->ld_w;
    g.c = a->y, g.ld_c = a->ld_y;
    g.dtype = g.c_dtype = a->dtype, g.alpha = a->scale, g.beta = 1.0f;
    return hn_gemm_cuda_run(gemm, &g, stream);
}

namespace {

size_t copy_bytes(int64_t rows, int64_t cols)
{
    return ((size_t)(rows * cols) * sizeof(float) + 63) / 64 * 64;
}

/* A matrix in f32: itself, or a copy without gaps. */
hn_status in_f32(hn_dtype dtype, const void **p, int64_t rows, int64_t cols, int64_t *ld,
                 void *copy, hn_stream stream)
{
    if (dtype == HN_F32) return HN_OK;
    hn_cast_args c = {};
    c.a = *p, c.ld_a = *ld, c.dtype = dtype;
    c.y = copy, c.ld_y = cols, c.y_dtype = HN_F32;
    c.rows = rows, c.cols = cols;
    *p = copy, *ld = cols;
    return hn_cast_cuda(&c, stream);
}

} // namespace

size_t hn_lowrank_weight_bwd_cuda_scratch(const hn_lowrank_weight_bwd_args *a)
{
    return a->dtype == HN_F32 ? 0 : copy_bytes(a->rank, a->in) + copy_bytes(a->out, a->rank);
}

hn_status hn_lowrank_weight_bwd_cuda(const hn_lowrank_weight_bwd_args *a, hn_gemm_cuda *gemm,
                                     void *scratch, hn_stream stream)
{
    HN_TRY(hn_lowrank_weight_bwd_check(a));
    const void *low = a->a, *high = a->b;
    int64_t ld_a = a->ld_a, ld_b = a->ld_b;
    if (a->dtype != HN_F32) HN_TRY(hn_check_pointer("lowrank_weight_bwd", "scratch", scratch));
    void *const second = static_cast<char *>(scratch) + copy_bytes(a->rank, a->in);
    HN_TRY(in_f32(a->dtype, &low, a->rank, a->in, &ld_a, scratch, stream));
    HN_TRY(in_f32(a->dtype, &high, a->out, a->rank, &ld_b, second, stream));
    hn_gemm_cuda_args g = {};
    g.batch = 1, g.dtype = g.c_dtype = HN_F32, g.alpha = a->scale, g.beta = 1.0f;
    if (a->da != nullptr) {
        g.m = a->rank, g.n = a->in, g.k = a->out, g.trans_a = true;
        g.a = high, g.ld_a = ld_b, g.b = a->dy, g.ld_b = a->ld_dy;
        g.c = a->da, g.ld_c = a->ld_da;
        HN_TRY(hn_gemm_cuda_run(gemm, &g, stream));
    }
    if (a->db == nullptr) return HN_OK;
    g.m = a->out, g.n = a->rank, g.k = a->in, g.trans_a = false, g.trans_b = true;
    g.a = a->dy, g.ld_a = a->ld_dy, g.b = low, g.ld_b = ld_a;
    g.c = a->db, g.ld_c = a->ld_db;
    return hn_gemm_cuda_run(gemm, &g, stream);
}
