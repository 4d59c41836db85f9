/* dx, dres, dgain, dbias = batch_norm_bwd(x, y?, gain, mean, rstd, dy, dgain?, dbias?), dgain and
 * dbias in place; y, forward's output, with relu, or bias in its place with
 * attr.channel_norm.by_bias; dres with attr.channel_norm.want_dres. The mathematics is in
 * kernels/norm/batch_norm.h */
#include "kernels/norm/batch_norm.h"
#include "runtime/graph/op_norm.h"

enum { X, Y, GAIN, MEAN, RSTD, DY, DGAIN_IN, DBIAS_IN }; /* inputs */
enum { DX, DRES, DGAIN, DBIAS };                         /* outputs */

static bool by_bias(const hn_node *n) { return n->attr.channel_norm.by_bias; }

/* The second input: y, with relu, or what stands for it. */
static bool is_mask(const hn_node *n, const hn_type *x)
{
    if (by_bias(n)) return n->in[Y] != NULL && hn_norm_is_param(n->in[Y], hn_type_cols(x));
    return n->in[Y] == NULL || hn_type_same(&n->in[Y]->type, x);
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type;
    const int64_t cols = hn_type_cols(x);
    if (!hn_is_matrix(x, x) || !hn_norm_is_param(n->in[GAIN], cols))
        return HN_FAIL(HN_ERR_SHAPE, "x [..., cols] and gain [cols], f32 or bf16");
    if (!hn_type_same(&n->in[DY]->type, x) || !is_mask(n, x))
        return HN_FAIL(HN_ERR_SHAPE, "dy and y are not shaped like x, or bias is not [cols]");
    if (!hn_norm_is_f32(n->in[MEAN], cols) || !hn_norm_is_f32(n->in[RSTD], cols) ||
        !hn_norm_is_f32(n->in[DGAIN_IN], cols) || !hn_norm_is_f32(n->in[DBIAS_IN], cols))
        return HN_FAIL(HN_ERR_SHAPE, "mean, rstd, dgain, dbias f32 [cols]");
    if (hn_norm_replicas(n->in[GAIN], n->in[DGAIN_IN], n->in[DBIAS_IN]) > 1)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "batch normalisation has no replicas");
    out[DX] = hn_type_fresh(x);
    if (n->attr.channel_norm.want_dres) out[DRES] = out[DX];
    return HN_OK;
}

static hn_batch_norm_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *gain = n->in[GAIN];
    const hn_tensor *y = by_bias(n) ? NULL : n->in[Y], *bias = by_bias(n) ? n->in[Y] : NULL;
    return (hn_batch_norm_bwd_args){
        .x = x->data,
        .y = hn_norm_data(y),
        .gain = gain->data,
        .bias = hn_norm_data(bias),
        .mean = n->in[MEAN]->data,
        .rstd = n->in[RSTD]->data,
        .dy = n->in[DY]->data,
        .dx = n->out[DX]->data,
        .dres = hn_norm_data(n->out[DRES]),
        .dgain = hn_norm_data(n->in[DGAIN_IN]),
        .dbias = hn_norm_data(n->in[DBIAS_IN]),
        .rows = hn_type_rows(&x->type),
        .cols = hn_type_cols(&x->type),
        .ld_x = hn_type_ld(&x->type),
        .ld_y = hn_norm_ld(y),
        .ld_dy = hn_type_ld(&n->in[DY]->type),
        .ld_dx = hn_type_ld(&n->out[DX]->type),
        .ld_dres = hn_norm_ld(n->out[DRES]),
        .dtype = x->type.dtype,
        .gain_dtype = gain->type.dtype,
        .bias_dtype = bias ? bias->type.dtype : HN_F32,
        .frozen = n->attr.channel_norm.frozen,
    };
}

/* Pointers are not there yet when the plan asks: what is wanted shows in the operands. */
static size_t scratch(const hn_node *n, hn_device_kind device)
{
    hn_batch_norm_bwd_args a = args_of(n);
    float wanted;
    a.dx = &wanted;
    a.dgain = n->in[DGAIN_IN] ? &wanted : NULL;
    a.dbias = n->in[DBIAS_IN] ? &wanted : NULL;
    return device == HN_DEVICE_CUDA ? hn_batch_norm_bwd_cuda_scratch(&a)
                                    : hn_batch_norm_bwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_batch_norm_bwd_args a = args_of(n);
    return x->twin ? hn_batch_norm_bwd_cpu(&a) : hn_batch_norm_bwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_batch_norm_bwd_args a = args_of(n);
    return hn_batch_norm_bwd_cuda(&a, x->scratch, x->stream);
}

/* Training, relu with the residual's gradient, relu by bias (on two cuts of the GPU's), frozen with
 * and without sums. */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {9, 5}, 7},
            {.ndim = 0},
            {HN_F32, 1, {5}},
            {HN_F32, 1, {5}},
            {HN_F32, 1, {5}},
            {HN_F32, 2, {9, 5}},
            {HN_F32, 1, {5}},
            {HN_F32, 1, {5}}}},
    {.in = {{HN_F32, 4, {2, 2, 3, 4}},
            {HN_F32, 4, {2, 2, 3, 4}, 6},
            {HN_F32, 1, {4}},
            {HN_F32, 1, {4}},
            {HN_F32, 1, {4}},
            {HN_F32, 4, {2, 2, 3, 4}},
            {HN_F32, 1, {4}},
            {.ndim = 0}},
     .attr = {.channel_norm = {.relu = true, .want_dres = true}}},
    {.in = {{HN_BF16, 4, {3, 9, 9, 64}},
            {HN_BF16, 4, {3, 9, 9, 64}},
            {HN_BF16, 1, {64}},
            {HN_F32, 1, {64}},
            {HN_F32, 1, {64}},
            {HN_BF16, 4, {3, 9, 9, 64}},
            {HN_F32, 1, {64}},
            {HN_F32, 1, {64}}},
     .attr = {.channel_norm = {.relu = true, .want_dres = true}}},
    {.in = {{HN_F32, 2, {70, 7}, 9},
            {HN_BF16, 1, {7}},
            {HN_F32, 1, {7}},
            {HN_F32, 1, {7}},
            {HN_F32, 1, {7}},
            {HN_F32, 2, {70, 7}},
            {HN_F32, 1, {7}},
            {HN_F32, 1, {7}}},
     .attr = {.channel_norm = {.relu = true, .by_bias = true}}},
    {.in = {{HN_BF16, 4, {5, 9, 9, 64}},
            {HN_F32, 1, {64}},
            {HN_BF16, 1, {64}},
            {HN_F32, 1, {64}},
            {HN_F32, 1, {64}},
            {HN_BF16, 4, {5, 9, 9, 64}},
            {HN_F32, 1, {64}},
            {HN_F32, 1, {64}}},
     .attr = {.channel_norm = {.relu = true, .by_bias = true}}},
    {.in = {{HN_BF16, 2, {70, 600}},
            {HN_BF16, 2, {70, 600}},
            {HN_F32, 1, {600}},
            {HN_F32, 1, {600}},
            {HN_F32, 1, {600}},
            {HN_BF16, 2, {70, 600}},
            {HN_F32, 1, {600}},
            {HN_F32, 1, {600}}},
     .attr = {.channel_norm = {.relu = true, .frozen = true}}},
    {.in = {{HN_F32, 2, {9, 19}},
            {HN_F32, 2, {9, 19}},
            {HN_F32, 1, {19}},
            {HN_F32, 1, {19}},
            {HN_F32, 1, {19}},
            {HN_F32, 2, {9, 19}}},
     .attr = {.channel_norm = {.relu = true, .want_dres = true, .frozen = true}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_batch_norm_bwd = {
    .name = "batch_norm_bwd",
    .n_in = 8,
    .n_out = 4,
    .optional = HN_BIT(Y) | HN_BIT(DGAIN_IN) | HN_BIT(DBIAS_IN),
    .alias = {0, 0, 1 + DGAIN_IN, 1 + DBIAS_IN},
    .reuse = HN_REUSE(DX, DY) | HN_REUSE(DX, X) | HN_REUSE(DX, Y) | HN_REUSE(DRES, DY) |
             HN_REUSE(DRES, Y),
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
