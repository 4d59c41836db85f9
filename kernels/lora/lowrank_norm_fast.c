/* Both products by OpenBLAS, on f32 copies of what is bf16; then a row at a time. */
#include <math.h>

#include "kernels/linear/gemm.h"
#include "kernels/lora/lowrank_norm.h"
#include "runtime/base/check.h"

typedef struct {
    hn_matrices w, a, b;
    int64_t w_at, a_at, b_at, p_at, g_at, n; /* places in the scratch, and its size, in floats */
} layout;

static layout lay_out(const hn_lowrank_norm_args *a)
{
    layout l = {.w = hn_parameter(a->dtype, 0, 0, a->out, a->in, a->ld_w),
                .a = hn_parameter(a->dtype, 0, 0, a->rank, a->in, a->ld_a),
                .b = hn_parameter(a->dtype, 0, 0, a->out, a->rank, a->ld_b)};
    const bool copies = a->dtype != HN_F32;
    l.w_at = hn_reserve(&l.n, copies, hn_matrices_count(&l.w));
    l.a_at = hn_reserve(&l.n, copies, hn_matrices_count(&l.a));
    l.b_at = hn_reserve(&l.n, copies, hn_matrices_count(&l.b));
    l.p_at = hn_reserve(&l.n, true, a->out * a->rank);
    l.g_at = hn_reserve(&l.n, true, a->rank * a->rank);
    return l;
}

size_t hn_lowrank_norm_fast_scratch(const hn_lowrank_norm_args *a)
{
    return (size_t)lay_out(a).n * sizeof(float);
}

/* b . p, and b G b^T */
static float norm_of(const float *b, const float *p, const float *g, int64_t rank, float squares,
                     float scale)
{
    double cross = 0, own = 0;
    for (int64_t r = 0; r < rank; r++) {
        float row = 0;
        for (int64_t q = 0; q < rank; q++) row += g[r * rank + q] * b[q];
        cross += (double)b[r] * (double)p[r];
        own += (double)b[r] * (double)row;
    }
    const double s = (double)scale, w = (double)squares, x = 2 * s * cross, y = s * s * own;
    const double sum = w + x + y;
    const double least = (double)HN_LOWRANK_NORM_LEAST * (w + fabs(x) + fabs(y));
    return (float)sqrt(sum < least ? least : sum);
}

hn_status hn_lowrank_norm_fast(const hn_lowrank_norm_args *a, void *scratch)
{
    HN_TRY(hn_lowrank_norm_check(a));
    HN_TRY(hn_check_pointer("lowrank_norm", "scratch", scratch));
    const layout l = lay_out(a);
    const hn_operand w = hn_matrices_load(&l.w, a->w, hn_at(scratch, l.w_at));
    const hn_operand low = hn_matrices_load(&l.a, a->a, hn_at(scratch, l.a_at));
    const hn_operand b = hn_matrices_load(&l.b, a->b, hn_at(scratch, l.b_at));
    float *const p = hn_at(scratch, l.p_at), *const g = hn_at(scratch, l.g_at);
    const hn_gemm_args with_w = {.a = w,
                                 .b = low,
                                 .c = {p, a->rank, 0},
                                 .batch = 1,
                                 .m = a->out,
                                 .n = a->rank,
                                 .k = a->in,
                                 .trans_b = true,
                                 .alpha = 1.0f};
    const hn_gemm_args with_a = {.a = low,
                                 .b = low,
                                 .c = {g, a->rank, 0},
                                 .batch = 1,
                                 .m = a->rank,
                                 .n = a->rank,
                                 .k = a->in,
                                 .trans_b = true,
                                 .alpha = 1.0f};
    hn_gemm(&with_w);
    hn_gemm(&with_a);
#pragma omp parallel for schedule(static) if (a->out * a->rank * a->rank > 1 << 16)
    for (int64_t o = 0; o < a->out; o++)
        a->norm[o] = norm_of(b.p + o * b.ld, p + o * a->rank, g, a->rank, a->squares[o], a->scale);
    return HN_OK;
}
