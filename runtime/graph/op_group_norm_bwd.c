/* dx, dgain, dbias = group_norm_bwd(x, gain, mean, rstd, dy, dgain?, dbias?), dgain and dbias in
 * place. The mathematics is in kernels/norm/group_norm.h */
#include "kernels/norm/group_norm.h"
#include "runtime/graph/op_norm.h"

enum { X, GAIN, MEAN, RSTD, DY, DGAIN_IN, DBIAS_IN }; /* inputs */
enum { DX, DGAIN, DBIAS };                            /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type;
    const int64_t cols = hn_type_cols(x), units = x->dim[0] * n->attr.channel_norm.groups;
    if (!hn_is_matrix(x, x) || !hn_norm_is_param(n->in[GAIN], cols))
        return HN_FAIL(HN_ERR_SHAPE, "x [images, ..., cols] and gain [cols], f32 or bf16");
    if (n->attr.channel_norm.groups < 1 || cols % n->attr.channel_norm.groups != 0)
        return HN_FAIL(HN_ERR_SHAPE, "columns do not split into groups");
    if (!hn_type_same(&n->in[DY]->type, x)) return HN_FAIL(HN_ERR_SHAPE, "dy is not shaped like x");
    if (!hn_norm_is_f32(n->in[MEAN], units) || !hn_norm_is_f32(n->in[RSTD], units))
        return HN_FAIL(HN_ERR_SHAPE, "mean and rstd f32 [images * groups]");
    if (!hn_norm_is_f32(n->in[DGAIN_IN], cols) || !hn_norm_is_f32(n->in[DBIAS_IN], cols))
        return HN_FAIL(HN_ERR_SHAPE, "dgain and dbias f32 [cols]");
    out[DX] = hn_type_fresh(x);
    return HN_OK;
}

static hn_group_norm_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *gain = n->in[GAIN];
    const hn_tensor *dgain = n->in[DGAIN_IN], *dbias = n->in[DBIAS_IN];
    return (hn_group_norm_bwd_args){
        .x = x->data,
        .gain = gain->data,
        .mean = n->in[MEAN]->data,
        .rstd = n->in[RSTD]->data,
        .dy = n->in[DY]->data,
        .dx = n->out[DX]->data,
        .dgain = hn_norm_data(dgain),
        .dbias = hn_norm_data(dbias),
        .images = x->type.dim[0],
        .pixels = hn_type_rows(&x->type) / x->type.dim[0],
        .cols = hn_type_cols(&x->type),
        .groups = n->attr.channel_norm.groups,
        .ld_x = hn_type_ld(&x->type),
        .ld_dy = hn_type_ld(&n->in[DY]->type),
        .ld_dx = hn_type_ld(&n->out[DX]->type),
        .replicas = hn_norm_replicas(gain, dgain, dbias),
        .gain_stride = hn_replica_stride(gain),
        .dgain_stride = hn_norm_stride(dgain),
        .dbias_stride = hn_norm_stride(dbias),
        .dtype = x->type.dtype,
        .gain_dtype = gain->type.dtype,
    };
}

/* Pointers are not there yet when the plan asks; dx is always wanted. */
static size_t scratch(const hn_node *n, hn_device_kind device)
{
    hn_group_norm_bwd_args a = args_of(n);
    float wanted;
    a.dx = &wanted;
    return device == HN_DEVICE_CUDA ? hn_group_norm_bwd_cuda_scratch(&a)
                                    : hn_group_norm_bwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_group_norm_bwd_args a = args_of(n);
    return x->twin ? hn_group_norm_bwd_cpu(&a) : hn_group_norm_bwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_group_norm_bwd_args a = args_of(n);
    return hn_group_norm_bwd_cuda(&a, x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 3, {2, 3, 6}, 7}, {HN_F32, 1, {6}}, {HN_F32, 1, {6}}, {HN_F32, 1, {6}},
            {HN_F32, 3, {2, 3, 6}}, {HN_F32, 1, {6}}, {HN_F32, 1, {6}}},
     .attr = {.channel_norm = {.groups = 3}}},
    {.in = {{HN_BF16, 4, {3, 9, 9, 64}}, {HN_BF16, 1, {64}}, {HN_F32, 1, {48}}, {HN_F32, 1, {48}},
            {HN_BF16, 4, {3, 9, 9, 64}}, {HN_F32, 1, {64}}, {.ndim = 0}},
     .attr = {.channel_norm = {.groups = 16}}},
    {.in = {{HN_BF16, 4, {2, 6, 7, 530}}, {HN_F32, 1, {530}}, {HN_F32, 1, {10}}, {HN_F32, 1, {10}},
            {HN_BF16, 4, {2, 6, 7, 530}, 536}},
     .attr = {.channel_norm = {.groups = 5}}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_group_norm_bwd = {
    .name = "group_norm_bwd",
    .n_in = 7,
    .n_out = 3,
    .optional = HN_BIT(DGAIN_IN) | HN_BIT(DBIAS_IN),
    .alias = {0, 1 + DGAIN_IN, 1 + DBIAS_IN},
    .reuse = HN_REUSE(DX, DY) | HN_REUSE(DX, X),
    .replicas = true,
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
