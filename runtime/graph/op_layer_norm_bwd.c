/* dx, dgain, dbias = layer_norm_bwd(sum, gain, mean, rstd, dy, dsum?, dgain?, dbias?), dgain and
 * dbias in place. The mathematics is in kernels/norm/layer_norm.h */
#include "kernels/norm/layer_norm.h"
#include "runtime/graph/op_norm.h"

enum { SUM, GAIN, MEAN, RSTD, DY, DSUM, DGAIN_IN, DBIAS_IN }; /* inputs */
enum { DX, DGAIN, DBIAS };                                    /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *sum = &n->in[SUM]->type;
    const int64_t cols = hn_type_cols(sum), rows = hn_type_rows(sum);
    if (!hn_is_matrix(sum, sum) || !hn_norm_is_param(n->in[GAIN], cols))
        return HN_FAIL(HN_ERR_SHAPE, "sum [..., cols] and gain [cols], f32 or bf16");
    if (!hn_type_same(&n->in[DY]->type, sum) ||
        (n->in[DSUM] && !hn_type_same(&n->in[DSUM]->type, sum)))
        return HN_FAIL(HN_ERR_SHAPE, "dy and dsum are not shaped like sum");
    if (!hn_norm_is_f32(n->in[MEAN], rows) || !hn_norm_is_f32(n->in[RSTD], rows))
        return HN_FAIL(HN_ERR_SHAPE, "mean and rstd f32 [rows]");
    if (!hn_norm_is_f32(n->in[DGAIN_IN], cols) || !hn_norm_is_f32(n->in[DBIAS_IN], cols))
        return HN_FAIL(HN_ERR_SHAPE, "dgain and dbias f32 [cols]");
    out[DX] = hn_type_fresh(sum);
    return HN_OK;
}

static hn_layer_norm_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *sum = n->in[SUM], *gain = n->in[GAIN], *dsum = n->in[DSUM];
    const hn_tensor *dgain = n->in[DGAIN_IN], *dbias = n->in[DBIAS_IN];
    return (hn_layer_norm_bwd_args){
        .sum = sum->data,
        .gain = gain->data,
        .mean = n->in[MEAN]->data,
        .rstd = n->in[RSTD]->data,
        .dy = n->in[DY]->data,
        .dsum = hn_norm_data(dsum),
        .dx = n->out[DX]->data,
        .dgain = hn_norm_data(dgain),
        .dbias = hn_norm_data(dbias),
        .rows = hn_type_rows(&sum->type),
        .cols = hn_type_cols(&sum->type),
        .ld_sum = hn_type_ld(&sum->type),
        .ld_dy = hn_type_ld(&n->in[DY]->type),
        .ld_dsum = hn_norm_ld(dsum),
        .ld_dx = hn_type_ld(&n->out[DX]->type),
        .replicas = hn_norm_replicas(gain, dgain, dbias),
        .gain_stride = hn_replica_stride(gain),
        .dgain_stride = hn_norm_stride(dgain),
        .dbias_stride = hn_norm_stride(dbias),
        .dtype = sum->type.dtype,
        .gain_dtype = gain->type.dtype,
    };
}

/* Pointers are not there yet when the plan asks: what is wanted shows in the operands. */
static size_t scratch(const hn_node *n, hn_device_kind device)
{
    hn_layer_norm_bwd_args a = args_of(n);
    float wanted;
    a.dgain = n->in[DGAIN_IN] ? &wanted : NULL;
    a.dbias = n->in[DBIAS_IN] ? &wanted : NULL;
    return device == HN_DEVICE_CUDA ? hn_layer_norm_bwd_cuda_scratch(&a)
                                    : hn_layer_norm_bwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_layer_norm_bwd_args a = args_of(n);
    return x->twin ? hn_layer_norm_bwd_cpu(&a) : hn_layer_norm_bwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_layer_norm_bwd_args a = args_of(n);
    return hn_layer_norm_bwd_cuda(&a, x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 6}}, {HN_F32, 1, {6}}, {HN_F32, 1, {3}}, {HN_F32, 1, {3}},
            {HN_F32, 2, {3, 6}, 8}, {HN_F32, 2, {3, 6}}, {HN_F32, 1, {6}}, {HN_F32, 1, {6}}}},
    {.in = {{HN_BF16, 3, {7, 10, 600}}, {HN_F32, 1, {600}}, {HN_F32, 1, {70}}, {HN_F32, 1, {70}},
            {HN_BF16, 3, {7, 10, 600}}, {.ndim = 0}, {HN_F32, 1, {600}}, {HN_F32, 1, {600}}}},
    {.in = {{HN_F32, 2, {40, 9}}, {HN_F32, 1, {9}}, {HN_F32, 1, {40}}, {HN_F32, 1, {40}},
            {HN_F32, 2, {40, 9}}, {.ndim = 0}, {.ndim = 0}, {HN_F32, 1, {9}}}},
    {.in = {{HN_BF16, 2, {5, 9}}, {HN_BF16, 1, {9}}, {HN_F32, 1, {5}}, {HN_F32, 1, {5}},
            {HN_BF16, 2, {5, 9}}}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_layer_norm_bwd = {
    .name = "layer_norm_bwd",
    .n_in = 8,
    .n_out = 3,
    .optional = HN_BIT(DSUM) | HN_BIT(DGAIN_IN) | HN_BIT(DBIAS_IN),
    .alias = {0, 1 + DGAIN_IN, 1 + DBIAS_IN},
    .reuse = HN_REUSE(DX, DY) | HN_REUSE(DX, DSUM) | HN_REUSE(DX, SUM),
    .replicas = true,
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
