/* sum, y, mean, rstd = layer_norm(x, res?, gain, bias?); sum is absent without res. The mathematics
 * is in kernels/norm/layer_norm.h */
#include "kernels/norm/layer_norm.h"
#include "runtime/graph/op_norm.h"

enum { X, RES, GAIN, BIAS }; /* inputs */
enum { SUM, Y, MEAN, RSTD }; /* outputs */
enum { DX };                 /* outputs of the backward node */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type;
    const int64_t cols = hn_type_cols(x);
    if (!hn_is_matrix(x, x) || !hn_norm_is_param(n->in[GAIN], cols) ||
        (n->in[BIAS] && !hn_norm_is_param(n->in[BIAS], cols)))
        return HN_FAIL(HN_ERR_SHAPE, "x [..., cols], gain and bias [cols], f32 or bf16");
    if (n->in[RES] && !hn_type_same(&n->in[RES]->type, x))
        return HN_FAIL(HN_ERR_SHAPE, "x and res are of different types");
    out[Y] = hn_type_fresh(x);
    if (n->in[RES]) out[SUM] = out[Y];
    out[MEAN] = out[RSTD] = hn_type_1d(HN_F32, hn_type_rows(x));
    return HN_OK;
}

/* dx is the gradient of x and of res alike. Without res, what has gathered for x so far takes the
 * place of dsum and is added on the way. */
static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    const bool has_res = n->in[RES] != NULL;
    hn_tensor *const so_far = din[X] ? hn_gathered(din[X]) : NULL;
    hn_tensor *const dsum = has_res ? dout[SUM] : so_far;
    hn_tensor *dx = dsum;
    if (dout[Y] != NULL) {
        hn_tensor *const in[] = {has_res ? n->out[SUM] : n->in[X],
                                 n->in[GAIN],
                                 n->out[MEAN],
                                 n->out[RSTD],
                                 dout[Y],
                                 dsum,
                                 din[GAIN],
                                 din[BIAS]};
        hn_tensor *out[3];
        HN_TRY(hn_emit(g, HN_OP_LAYER_NORM_BWD, n->name, in, &n->attr, out));
        dx = out[DX];
    }
    if (has_res && din[RES]) din[RES] = dx;
    if (din[X] == NULL) return HN_OK;
    din[X] = dx;
    if (!has_res || so_far == NULL) return HN_OK;
    hn_tensor *const both[] = {so_far, dx};
    return hn_emit(g, HN_OP_ADD, n->name, both, NULL, &din[X]);
}

static hn_layer_norm_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *gain = n->in[GAIN], *bias = n->in[BIAS];
    return (hn_layer_norm_args){
        .x = x->data,
        .res = hn_norm_data(n->in[RES]),
        .gain = gain->data,
        .bias = hn_norm_data(bias),
        .sum = hn_norm_data(n->out[SUM]),
        .y = n->out[Y]->data,
        .mean = n->out[MEAN]->data,
        .rstd = n->out[RSTD]->data,
        .rows = hn_type_rows(&x->type),
        .cols = hn_type_cols(&x->type),
        .ld_x = hn_type_ld(&x->type),
        .ld_res = hn_norm_ld(n->in[RES]),
        .ld_sum = hn_norm_ld(n->out[SUM]),
        .ld_y = hn_type_ld(&n->out[Y]->type),
        .replicas = hn_norm_replicas(gain, bias, NULL),
        .gain_stride = hn_replica_stride(gain),
        .bias_stride = hn_norm_stride(bias),
        .dtype = x->type.dtype,
        .gain_dtype = gain->type.dtype,
        .bias_dtype = bias ? bias->type.dtype : HN_F32,
        .eps = n->attr.norm.eps,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_layer_norm_args a = args_of(n);
    return x->twin ? hn_layer_norm_fwd_cpu(&a) : hn_layer_norm_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_layer_norm_args a = args_of(n);
    return hn_layer_norm_fwd_cuda(&a, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 6}}, {HN_F32, 2, {3, 6}, 8}, {HN_F32, 1, {6}}, {HN_F32, 1, {6}}},
     .attr = {.norm = {.eps = 1e-5f}}},
    {.in = {{HN_F32, 3, {2, 3, 7}}, {.ndim = 0}, {HN_F32, 1, {7}}, {HN_F32, 1, {7}}},
     .attr = {.norm = {.eps = 1e-6f}}},
    {.in = {{HN_F32, 2, {2, 12}}, {.ndim = 0}, {HN_F32, 1, {12}}},
     .attr = {.norm = {.eps = 1e-12f}}},
    {.in = {{HN_BF16, 2, {70, 33}}, {HN_BF16, 2, {70, 33}}, {HN_BF16, 1, {33}}, {HN_F32, 1, {33}}},
     .attr = {.norm = {.eps = 1e-5f}}},
    {.in = {{HN_BF16, 4, {2, 3, 3, 600}}, {.ndim = 0}, {HN_F32, 1, {600}}, {HN_BF16, 1, {600}}},
     .attr = {.norm = {.eps = 1e-5f}}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_layer_norm = {
    .name = "layer_norm",
    .n_in = 4,
    .n_out = 4,
    .optional = HN_BIT(RES) | HN_BIT(BIAS),
    .reuse = HN_REUSE(SUM, RES) | HN_REUSE(SUM, X),
    .saved_out = HN_BIT(MEAN) | HN_BIT(RSTD),
    .replicas = true,
    .infer = infer,
    .grad = grad,
    .accumulates = HN_BIT(GAIN) | HN_BIT(BIAS),
    .adds = HN_BIT(X),
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
