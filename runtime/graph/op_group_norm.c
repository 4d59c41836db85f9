/* y, mean, rstd = group_norm(x, gain, bias), x [images, ..., cols]. The mathematics is in
 * kernels/norm/group_norm.h */
#include "kernels/norm/group_norm.h"
#include "runtime/graph/op_norm.h"

enum { X, GAIN, BIAS }; /* inputs */
enum { Y, MEAN, RSTD }; /* outputs */
enum { DX };            /* outputs of the backward node */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type;
    const int64_t cols = hn_type_cols(x), groups = n->attr.channel_norm.groups;
    if (!hn_is_matrix(x, x) || !hn_norm_is_param(n->in[GAIN], cols) ||
        !hn_norm_is_param(n->in[BIAS], cols))
        return HN_FAIL(HN_ERR_SHAPE, "x [images, ..., cols], gain and bias [cols], f32 or bf16");
    if (groups < 1 || cols % groups != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%lld columns do not split into %lld groups", (long long)cols,
                       (long long)groups);
    if (hn_type_elements(x) / x->dim[0] / groups < 2)
        return HN_FAIL(HN_ERR_SHAPE, "expected more than 1 value per group, got 1");
    out[Y] = hn_type_fresh(x);
    out[MEAN] = out[RSTD] = hn_type_1d(HN_F32, x->dim[0] * groups);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    hn_tensor *const in[] = {n->in[X], n->in[GAIN], n->out[MEAN], n->out[RSTD],
                             dout[Y],  din[GAIN],   din[BIAS]};
    hn_tensor *out[3];
    HN_TRY(hn_emit(g, HN_OP_GROUP_NORM_BWD, n->name, in, &n->attr, out));
    if (din[X]) din[X] = out[DX];
    return HN_OK;
}

static hn_group_norm_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *gain = n->in[GAIN], *bias = n->in[BIAS];
    return (hn_group_norm_args){
        .x = x->data,
        .gain = gain->data,
        .bias = bias->data,
        .y = n->out[Y]->data,
        .mean = n->out[MEAN]->data,
        .rstd = n->out[RSTD]->data,
        .images = x->type.dim[0],
        .pixels = hn_type_rows(&x->type) / x->type.dim[0],
        .cols = hn_type_cols(&x->type),
        .groups = n->attr.channel_norm.groups,
        .ld_x = hn_type_ld(&x->type),
        .ld_y = hn_type_ld(&n->out[Y]->type),
        .replicas = hn_norm_replicas(gain, bias, NULL),
        .gain_stride = hn_replica_stride(gain),
        .bias_stride = hn_replica_stride(bias),
        .dtype = x->type.dtype,
        .gain_dtype = gain->type.dtype,
        .bias_dtype = bias->type.dtype,
        .eps = n->attr.channel_norm.eps,
    };
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_group_norm_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_group_norm_fwd_cuda_scratch(&a)
                                    : hn_group_norm_fwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_group_norm_args a = args_of(n);
    return x->twin ? hn_group_norm_fwd_cpu(&a) : hn_group_norm_fwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_group_norm_args a = args_of(n);
    return hn_group_norm_fwd_cuda(&a, x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 3, {2, 3, 6}, 7}, {HN_F32, 1, {6}}, {HN_F32, 1, {6}}},
     .attr = {.channel_norm = {.eps = 1e-5f, .groups = 3}}},
    {.in = {{HN_F32, 2, {3, 6}}, {HN_F32, 1, {6}}, {HN_F32, 1, {6}}},
     .attr = {.channel_norm = {.eps = 1e-5f, .groups = 1}}},
    {.in = {{HN_F32, 4, {2, 2, 2, 4}}, {HN_F32, 1, {4}}, {HN_F32, 1, {4}}},
     .attr = {.channel_norm = {.eps = 1e-3f, .groups = 4}}},
    {.in = {{HN_BF16, 4, {3, 9, 9, 64}}, {HN_BF16, 1, {64}}, {HN_F32, 1, {64}}},
     .attr = {.channel_norm = {.eps = 1e-5f, .groups = 16}}},
    {.in = {{HN_BF16, 4, {2, 6, 7, 530}}, {HN_F32, 1, {530}}, {HN_BF16, 1, {530}}},
     .attr = {.channel_norm = {.eps = 1e-5f, .groups = 5}}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_group_norm = {
    .name = "group_norm",
    .n_in = 3,
    .n_out = 3,
    .reuse = HN_REUSE(Y, X),
    .saved_out = HN_BIT(MEAN) | HN_BIT(RSTD),
    .replicas = true,
    .infer = infer,
    .grad = grad,
    .accumulates = HN_BIT(GAIN) | HN_BIT(BIAS),
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
