/* Products of OpenBLAS, on f32 copies of what is bf16. */
#include "kernels/linear/gemm.h"
#include "kernels/lora/lowrank_weight.h"
#include "runtime/base/check.h"

static hn_matrices matrix(hn_dtype t, int64_t rows, int64_t cols, int64_t ld)
{
    return hn_parameter(t, 0, 0, rows, cols, ld);
}

typedef struct {
    hn_matrices a, b, y;
    int64_t a_at, b_at, y_at, n; /* places in the scratch, and its size, in floats */
} layout;

static layout forward_layout(const hn_lowrank_weight_args *a)
{
    layout l = {.a = matrix(a->dtype, a->rank, a->in, a->ld_a),
                .b = matrix(a->dtype, a->out, a->rank, a->ld_b),
                .y = matrix(a->dtype, a->out, a->in, a->ld_y)};
    const bool copies = a->dtype != HN_F32;
    l.a_at = hn_reserve(&l.n, copies, hn_matrices_count(&l.a));
    l.b_at = hn_reserve(&l.n, copies, hn_matrices_count(&l.b));
    l.y_at = hn_reserve(&l.n, copies, hn_matrices_count(&l.y));
    return l;
}

size_t hn_lowrank_weight_fwd_fast_scratch(const hn_lowrank_weight_args *a)
{
    return (size_t)forward_layout(a).n * sizeof(float);
}

hn_status hn_lowrank_weight_fwd_fast(const hn_lowrank_weight_args *a, void *scratch)
{
    HN_TRY(hn_lowrank_weight_check(a));
    const layout l = forward_layout(a);
    if (l.n > 0) HN_TRY(hn_check_pointer("lowrank_weight", "scratch", scratch));
    const hn_gemm_args g = {
        .a = hn_matrices_load(&l.b, a->b, hn_at(scratch, l.b_at)),
        .b = hn_matrices_load(&l.a, a->a, hn_at(scratch, l.a_at)),
        .c = hn_matrices_begin(&l.y, a->y, hn_at(scratch, l.y_at), a->w, a->ld_w),
        .batch = 1,
        .m = a->out,
        .n = a->in,
        .k = a->rank,
        .alpha = a->scale,
        .beta = 1.0f};
    hn_gemm(&g);
    hn_matrices_end(&l.y, g.c, a->y);
    return HN_OK;
}

static layout backward_layout(const hn_lowrank_weight_bwd_args *a)
{
    layout l = {.a = matrix(a->dtype, a->rank, a->in, a->ld_a),
                .b = matrix(a->dtype, a->out, a->rank, a->ld_b)};
    const bool copies = a->dtype != HN_F32;
    l.a_at = hn_reserve(&l.n, copies, hn_matrices_count(&l.a));
    l.b_at = hn_reserve(&l.n, copies, hn_matrices_count(&l.b));
    return l;
}

size_t hn_lowrank_weight_bwd_fast_scratch(const hn_lowrank_weight_bwd_args *a)
{
    return (size_t)backward_layout(a).n * sizeof(float);
}

hn_status hn_lowrank_weight_bwd_fast(const hn_lowrank_weight_bwd_args *a, void *scratch)
{
    HN_TRY(hn_lowrank_weight_bwd_check(a));
    const layout l = backward_layout(a);
    if (l.n > 0) HN_TRY(hn_check_pointer("lowrank_weight_bwd", "scratch", scratch));
    const hn_operand dy = {a->dy, a->ld_dy, 0};
    const hn_gemm_args da = {.a = hn_matrices_load(&l.b, a->b, hn_at(scratch, l.b_at)),
                             .b = dy,
                             .c = {a->da, a->ld_da, 0},
                             .batch = 1,
                             .m = a->rank,
                             .n = a->in,
                             .k = a->out,
                             .trans_a = true,
                             .alpha = a->scale,
                             .beta = 1.0f};
    const hn_gemm_args db = {.a = dy,
                             .b = hn_matrices_load(&l.a, a->a, hn_at(scratch, l.a_at)),
                             .c = {a->db, a->ld_db, 0},
                             .batch = 1,
                             .m = a->out,
                             .n = a->rank,
                             .k = a->in,
                             .trans_b = true,
                             .alpha = a->scale,
                             .beta = 1.0f};
    if (a->da != NULL) hn_gemm(&da);
    if (a->db != NULL) hn_gemm(&db);
    return HN_OK;
}
