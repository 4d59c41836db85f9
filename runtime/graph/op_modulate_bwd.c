/* dx, dscale, dshift = modulate_bwd(sum, scale, mean?, rstd?, dy, dsum?). The mathematics is in
 * kernels/hyperflow/modulate.h */
#include "kernels/hyperflow/modulate.h"
#include "runtime/graph/op_norm.h"

enum { SUM, SCALE, MEAN, RSTD, DY, DSUM }; /* inputs */
enum { DX, DSCALE, DSHIFT };               /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *sum = &n->in[SUM]->type, *scale = &n->in[SCALE]->type;
    const int64_t rows = hn_type_rows(sum);
    if (!hn_is_matrix(sum, sum) || !hn_is_matrix(scale, sum) ||
        hn_type_cols(scale) != hn_type_cols(sum) || rows % hn_type_rows(scale) != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "sum [groups * n, cols] and scale [groups, cols], f32 or bf16");
    if (!hn_type_same(&n->in[DY]->type, sum) ||
        (n->in[DSUM] && !hn_type_same(&n->in[DSUM]->type, sum)))
        return HN_FAIL(HN_ERR_SHAPE, "dy and dsum are not shaped like sum");
    if (!n->in[MEAN] != !n->in[RSTD] || !hn_norm_is_f32(n->in[MEAN], rows) ||
        !hn_norm_is_f32(n->in[RSTD], rows))
        return HN_FAIL(HN_ERR_SHAPE, "mean and rstd f32 [rows], both or none");
    out[DX] = hn_type_fresh(sum);
    out[DSCALE] = out[DSHIFT] = hn_type_fresh(scale);
    return HN_OK;
}

static hn_modulate_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *sum = n->in[SUM], *scale = n->in[SCALE];
    return (hn_modulate_bwd_args){
        .sum = sum->data,
        .scale = scale->data,
        .mean = hn_norm_data(n->in[MEAN]),
        .rstd = hn_norm_data(n->in[RSTD]),
        .dy = n->in[DY]->data,
        .dsum = hn_norm_data(n->in[DSUM]),
        .dx = n->out[DX]->data,
        .dscale = n->out[DSCALE]->data,
        .dshift = n->out[DSHIFT]->data,
        .rows = hn_type_rows(&sum->type),
        .cols = hn_type_cols(&sum->type),
        .groups = hn_type_rows(&scale->type),
        .ld_sum = hn_type_ld(&sum->type),
        .ld_scale = hn_type_ld(&scale->type),
        .ld_dy = hn_type_ld(&n->in[DY]->type),
        .ld_dsum = hn_norm_ld(n->in[DSUM]),
        .ld_dx = hn_type_ld(&n->out[DX]->type),
        .ld_dscale = hn_type_ld(&n->out[DSCALE]->type),
        .ld_dshift = hn_type_ld(&n->out[DSHIFT]->type),
        .dtype = sum->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_modulate_bwd_args a = args_of(n);
    return x->twin ? hn_modulate_bwd_cpu(&a) : hn_modulate_bwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_modulate_bwd_args a = args_of(n);
    return hn_modulate_bwd_cuda(&a, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {6, 5}}, {HN_F32, 2, {3, 5}, 7}, {HN_F32, 1, {6}}, {HN_F32, 1, {6}},
            {HN_F32, 2, {6, 5}}, {HN_F32, 2, {6, 5}, 6}}},
    {.in = {{HN_F32, 2, {4, 8}}, {HN_F32, 2, {2, 8}}, {.ndim = 0}, {.ndim = 0},
            {HN_F32, 2, {4, 8}, 12}}},
    {.in = {{HN_BF16, 2, {50, 256}}, {HN_BF16, 2, {2, 256}, 512}, {HN_F32, 1, {50}},
            {HN_F32, 1, {50}}, {HN_BF16, 2, {50, 256}}}},
    {.in = {{HN_BF16, 2, {6, 1030}}, {HN_BF16, 2, {2, 1030}}, {HN_F32, 1, {6}}, {HN_F32, 1, {6}},
            {HN_BF16, 2, {6, 1030}}, {HN_BF16, 2, {6, 1030}}}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_modulate_bwd = {
    .name = "modulate_bwd",
    .n_in = 6,
    .n_out = 3,
    .optional = HN_BIT(MEAN) | HN_BIT(RSTD) | HN_BIT(DSUM),
    .reuse = HN_REUSE(DX, DY) | HN_REUSE(DX, DSUM) | HN_REUSE(DX, SUM),
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
