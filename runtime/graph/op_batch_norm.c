/* y, mean, rstd, running_mean, running_var = batch_norm(x, res?, gain, bias, running_mean?,
 * running_var?), the running values in place. The mathematics is in kernels/norm/batch_norm.h.
 * It writes persistent tensors, so that a segment that is computed again keeps its results instead:
 * running values move once a run of the graph. */
#include "kernels/norm/batch_norm.h"
#include "runtime/graph/op_norm.h"

enum { X, RES, GAIN, BIAS, RUNNING_MEAN, RUNNING_VAR }; /* inputs */
enum { Y, MEAN, RSTD, MEAN_OUT, VAR_OUT };              /* outputs */
enum { DX, DRES };                                      /* outputs of the backward node */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type;
    const int64_t cols = hn_type_cols(x);
    const hn_tensor *rm = n->in[RUNNING_MEAN], *rv = n->in[RUNNING_VAR];
    if (!hn_is_matrix(x, x) || !hn_norm_is_param(n->in[GAIN], cols) ||
        !hn_norm_is_param(n->in[BIAS], cols))
        return HN_FAIL(HN_ERR_SHAPE, "x [..., cols], gain and bias [cols], f32 or bf16");
    if (n->in[RES] && !hn_type_same(&n->in[RES]->type, x))
        return HN_FAIL(HN_ERR_SHAPE, "x and res are of different types");
    if ((rm == NULL) != (rv == NULL) || !hn_norm_is_f32(rm, cols) || !hn_norm_is_f32(rv, cols))
        return HN_FAIL(HN_ERR_SHAPE, "running_mean and running_var f32 [cols], or neither");
    if (n->attr.channel_norm.frozen && rm == NULL)
        return HN_FAIL(HN_ERR_ARG, "frozen, but there are no running values");
    if (!n->attr.channel_norm.frozen && hn_type_rows(x) < 2)
        return HN_FAIL(HN_ERR_SHAPE, "expected more than 1 value per channel when training");
    if (hn_norm_replicas(n->in[GAIN], n->in[BIAS], NULL) > 1)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "batch normalisation has no replicas: every replica "
                                           "would need running values of its own");
    if (!n->attr.channel_norm.frozen && hn_program_replicas(n->in[X]->program) > 1)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "batch normalisation by the batch, whose rows belong to "
                                           "several replicas");
    out[Y] = hn_type_fresh(x);
    out[MEAN] = out[RSTD] = hn_type_1d(HN_F32, cols);
    return HN_OK;
}

/* Whether backward can do without y: in training it reads x twice anyway, frozen it may read y
 * alone. The bias outlives the graph: dx may take over memory that is given in the place of y. */
static bool goes_by_bias(const hn_node *n)
{
    return n->attr.channel_norm.relu && !n->attr.channel_norm.frozen && n->in[RES] == NULL &&
           n->in[BIAS]->mem != HN_MEM_TRANSIENT;
}

/* Without relu the gradient of res is dy itself. */
static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    const bool relu = n->attr.channel_norm.relu, wants_res = din[RES] != NULL;
    const bool by_bias = goes_by_bias(n);
    hn_attr attr = n->attr;
    if (wants_res && !relu) din[RES] = dout[Y];
    attr.channel_norm.want_dres = wants_res && relu;
    attr.channel_norm.by_bias = by_bias;
    if (!attr.channel_norm.want_dres && !din[X] && !din[GAIN] && !din[BIAS]) return HN_OK;
    hn_tensor *const mask = by_bias ? n->in[BIAS] : relu ? n->out[Y] : NULL;
    hn_tensor *const in[] = {n->in[X],     mask,    n->in[GAIN], n->out[MEAN],
                             n->out[RSTD], dout[Y], din[GAIN],   din[BIAS]};
    hn_tensor *out[4];
    HN_TRY(hn_emit(g, HN_OP_BATCH_NORM_BWD, n->name, in, &attr, out));
    if (din[X]) din[X] = out[DX];
    if (attr.channel_norm.want_dres) din[RES] = out[DRES];
    return HN_OK;
}

static hn_batch_norm_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *gain = n->in[GAIN], *bias = n->in[BIAS];
    return (hn_batch_norm_args){
        .x = x->data,
        .res = hn_norm_data(n->in[RES]),
        .gain = gain->data,
        .bias = bias->data,
        .y = n->out[Y]->data,
        .mean = n->out[MEAN]->data,
        .rstd = n->out[RSTD]->data,
        .running_mean = hn_norm_data(n->in[RUNNING_MEAN]),
        .running_var = hn_norm_data(n->in[RUNNING_VAR]),
        .rows = hn_type_rows(&x->type),
        .cols = hn_type_cols(&x->type),
        .ld_x = hn_type_ld(&x->type),
        .ld_res = hn_norm_ld(n->in[RES]),
        .ld_y = hn_type_ld(&n->out[Y]->type),
        .dtype = x->type.dtype,
        .gain_dtype = gain->type.dtype,
        .bias_dtype = bias->type.dtype,
        .eps = n->attr.channel_norm.eps,
        .momentum = n->attr.channel_norm.momentum,
        .frozen = n->attr.channel_norm.frozen,
        .relu = n->attr.channel_norm.relu,
    };
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_batch_norm_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_batch_norm_fwd_cuda_scratch(&a)
                                    : hn_batch_norm_fwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_batch_norm_args a = args_of(n);
    return x->twin ? hn_batch_norm_fwd_cpu(&a) : hn_batch_norm_fwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_batch_norm_args a = args_of(n);
    return hn_batch_norm_fwd_cuda(&a, x->scratch, x->stream);
}

/* Training, frozen, with residual and relu, with relu, without running values, images of 4 axes. */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {9, 5}, 7},
            {.ndim = 0},
            {HN_F32, 1, {5}},
            {HN_F32, 1, {5}},
            {HN_F32, 1, {5}},
            {HN_F32, 1, {5}}},
     .attr = {.channel_norm = {.eps = 1e-5f, .momentum = 0.1f}}},
    {.in = {{HN_F32, 4, {2, 2, 3, 4}},
            {HN_F32, 4, {2, 2, 3, 4}, 6},
            {HN_F32, 1, {4}},
            {HN_F32, 1, {4}},
            {HN_F32, 1, {4}},
            {HN_F32, 1, {4}}},
     .attr = {.channel_norm = {.eps = 1e-5f, .momentum = 0.25f, .relu = true}}},
    {.in = {{HN_F32, 4, {2, 3, 2, 4}, 5},
            {.ndim = 0},
            {HN_F32, 1, {4}},
            {HN_F32, 1, {4}},
            {HN_F32, 1, {4}},
            {HN_F32, 1, {4}}},
     .attr = {.channel_norm = {.eps = 1e-5f, .momentum = 0.1f, .relu = true}}},
    {.in = {{HN_F32, 2, {9, 4}},
            {HN_F32, 2, {9, 4}},
            {HN_F32, 1, {4}},
            {HN_F32, 1, {4}},
            {HN_F32, 1, {4}},
            {HN_F32, 1, {4}}},
     .attr = {.channel_norm = {.eps = 1e-5f, .frozen = true, .relu = true}}},
    {.in = {{HN_F32, 3, {3, 3, 3}},
            {HN_F32, 3, {3, 3, 3}},
            {HN_F32, 1, {3}},
            {HN_F32, 1, {3}},
            {HN_F32, 1, {3}},
            {HN_F32, 1, {3}}},
     .attr = {.channel_norm = {.eps = 1e-3f, .frozen = true}}},
    {.in = {{HN_BF16, 4, {5, 6, 7, 64}}, {.ndim = 0}, {HN_F32, 1, {64}}, {HN_F32, 1, {64}}},
     .attr = {.channel_norm = {.eps = 1e-5f}}},
    {.in = {{HN_BF16, 4, {3, 9, 9, 19}},
            {HN_BF16, 4, {3, 9, 9, 19}},
            {HN_BF16, 1, {19}},
            {HN_BF16, 1, {19}},
            {HN_F32, 1, {19}},
            {HN_F32, 1, {19}}},
     .attr = {.channel_norm = {.eps = 1e-5f, .momentum = 0.1f, .relu = true}}},
    {.in = {{HN_BF16, 2, {70, 600}},
            {.ndim = 0},
            {HN_BF16, 1, {600}},
            {HN_F32, 1, {600}},
            {HN_F32, 1, {600}},
            {HN_F32, 1, {600}}},
     .attr = {.channel_norm = {.eps = 1e-5f, .frozen = true, .relu = true}}},
    {.in = {{0}}},
};

/* Variances are positive. Behind a relu in f32, the bias keeps columns on one side of its kink, so
 * that finite differences say something. */
static bool fill(const hn_node *n, int k, void *data)
{
    const bool kink = k == BIAS && n->attr.channel_norm.relu && n->in[k]->type.dtype == HN_F32 &&
                      n->in[X]->type.dtype == HN_F32;
    if (k != RUNNING_VAR && !kink) return false;
    for (int64_t j = 0; j < hn_type_elements(&n->in[k]->type); j++)
        ((float *)data)[j] = !kink ? 0.5f + 0.25f * (float)(j % 7) : j % 2 ? -12.0f : 12.0f;
    return true;
}

const hn_op_def hn_op_batch_norm = {
    .name = "batch_norm",
    .n_in = 6,
    .n_out = 5,
    .optional = HN_BIT(RES) | HN_BIT(RUNNING_MEAN) | HN_BIT(RUNNING_VAR),
    .alias = {0, 0, 0, 1 + RUNNING_MEAN, 1 + RUNNING_VAR},
    .reuse = HN_REUSE(Y, X) | HN_REUSE(Y, RES),
    .saved_out = HN_BIT(MEAN) | HN_BIT(RSTD),
    .infer = infer,
    .grad = grad,
    .accumulates = HN_BIT(GAIN) | HN_BIT(BIAS),
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
