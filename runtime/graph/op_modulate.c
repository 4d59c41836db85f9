/* sum, y, mean, rstd = modulate(x, res?, scale, shift); sum is absent without res, mean and rstd
 * without eps. scale and shift have a row a group. The mathematics is in
 * kernels/hyperflow/modulate.h */
#include "kernels/hyperflow/modulate.h"
#include "runtime/graph/op_norm.h"

enum { X, RES, SCALE, SHIFT }; /* inputs */
enum { SUM, Y, MEAN, RSTD };   /* outputs */
enum { DX, DSCALE, DSHIFT };   /* outputs of the backward node */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type, *scale = &n->in[SCALE]->type;
    const hn_type *shift = &n->in[SHIFT]->type;
    const int64_t cols = hn_type_cols(x), rows = hn_type_rows(x);
    if (!hn_is_matrix(x, x) || !hn_is_matrix(scale, x) || !hn_is_matrix(shift, x) ||
        hn_type_cols(scale) != cols || hn_type_cols(shift) != cols ||
        hn_type_rows(scale) != hn_type_rows(shift) || rows % hn_type_rows(scale) != 0)
        return HN_FAIL(HN_ERR_SHAPE, "x [groups * n, cols], scale and shift [groups, cols], all "
                                     "f32 or all bf16");
    if (n->in[RES] && !hn_type_same(&n->in[RES]->type, x))
        return HN_FAIL(HN_ERR_SHAPE, "x and res are of different types");
    out[Y] = hn_type_fresh(x);
    if (n->in[RES]) out[SUM] = out[Y];
    if (n->attr.modulate.eps != 0.0f) out[MEAN] = out[RSTD] = hn_type_1d(HN_F32, rows);
    return HN_OK;
}

/* dx is the gradient of x and of res alike. Without res, what has gathered for x so far takes the
 * place of dsum and is added on the way. */
static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    const bool has_res = n->in[RES] != NULL;
    hn_tensor *const so_far = din[X] ? hn_gathered(din[X]) : NULL;
    hn_tensor *const dsum = has_res ? dout[SUM] : so_far;
    hn_tensor *dx = dsum, *dscale = NULL, *dshift = NULL;
    if (dout[Y] != NULL) {
        hn_tensor *const in[] = {has_res ? n->out[SUM] : n->in[X],
                                 n->in[SCALE],
                                 n->out[MEAN],
                                 n->out[RSTD],
                                 dout[Y],
                                 dsum};
        hn_tensor *out[3];
        HN_TRY(hn_emit(g, HN_OP_MODULATE_BWD, n->name, in, &n->attr, out));
        dx = out[DX], dscale = out[DSCALE], dshift = out[DSHIFT];
    }
    if (din[SCALE]) din[SCALE] = dscale;
    if (din[SHIFT]) din[SHIFT] = dshift;
    if (has_res && din[RES]) din[RES] = dx;
    if (din[X] == NULL) return HN_OK;
    din[X] = dx;
    if (!has_res || so_far == NULL) return HN_OK;
    hn_tensor *const both[] = {so_far, dx};
    return hn_emit(g, HN_OP_ADD, n->name, both, NULL, &din[X]);
}

static hn_modulate_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X];
    return (hn_modulate_args){
        .x = x->data,
        .res = hn_norm_data(n->in[RES]),
        .scale = n->in[SCALE]->data,
        .shift = n->in[SHIFT]->data,
        .sum = hn_norm_data(n->out[SUM]),
        .y = n->out[Y]->data,
        .mean = hn_norm_data(n->out[MEAN]),
        .rstd = hn_norm_data(n->out[RSTD]),
        .rows = hn_type_rows(&x->type),
        .cols = hn_type_cols(&x->type),
        .groups = hn_type_rows(&n->in[SCALE]->type),
        .ld_x = hn_type_ld(&x->type),
        .ld_res = hn_norm_ld(n->in[RES]),
        .ld_scale = hn_type_ld(&n->in[SCALE]->type),
        .ld_shift = hn_type_ld(&n->in[SHIFT]->type),
        .ld_sum = hn_norm_ld(n->out[SUM]),
        .ld_y = hn_type_ld(&n->out[Y]->type),
        .dtype = x->type.dtype,
        .eps = n->attr.modulate.eps,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_modulate_args a = args_of(n);
    return x->twin ? hn_modulate_fwd_cpu(&a) : hn_modulate_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_modulate_args a = args_of(n);
    return hn_modulate_fwd_cuda(&a, x->stream);
}

/* With and without a residual, a normalisation; in registers and wider. */
/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {6, 5}}, {HN_F32, 2, {6, 5}, 8}, {HN_F32, 2, {3, 5}}, {HN_F32, 2, {3, 5}, 7}},
     .attr = {.modulate = {.eps = 1e-6f}}},
    {.in = {{HN_F32, 3, {2, 3, 7}}, {.ndim = 0}, {HN_F32, 2, {2, 7}}, {HN_F32, 2, {2, 7}}},
     .attr = {.modulate = {.eps = 1e-5f}}},
    {.in = {{HN_F32, 2, {6, 8}}, {.ndim = 0}, {HN_F32, 2, {2, 8}}, {HN_F32, 2, {2, 8}}}},
    {.in = {{HN_F32, 2, {3, 6}}, {HN_F32, 2, {3, 6}}, {HN_F32, 2, {3, 6}}, {HN_F32, 2, {3, 6}}}},
    {.in = {{HN_BF16, 2, {72, 256}}, {HN_BF16, 2, {72, 256}}, {HN_BF16, 2, {3, 256}, 512},
            {HN_BF16, 2, {3, 256}, 512}}, .attr = {.modulate = {.eps = 1e-6f}}},
    {.in = {{HN_BF16, 2, {6, 1030}}, {.ndim = 0}, {HN_BF16, 2, {2, 1030}}, {HN_BF16, 2, {2, 1030}}},
     .attr = {.modulate = {.eps = 1e-6f}}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_modulate = {
    .name = "modulate",
    .n_in = 4,
    .n_out = 4,
    .optional = HN_BIT(RES),
    .reuse = HN_REUSE(SUM, RES) | HN_REUSE(SUM, X),
    .saved_out = HN_BIT(MEAN) | HN_BIT(RSTD),
    .infer = infer,
    .grad = grad,
    .adds = HN_BIT(X),
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
