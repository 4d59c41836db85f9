/* dw += conv3d_dw(dy, x), in place; the mathematics is in kernels/conv/conv3d.h */
#include "runtime/graph/op_conv3d.h"

enum { DY, X, DW }; /* inputs; the only output is DW */

static hn_conv3d_dw_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *x = n->in[X], *dw = n->in[DW];
    return (hn_conv3d_dw_args){
        .dy = dy->data,
        .x = x->data,
        .dw = dw->data,
        .shape = hn_conv3d_shape_of(&n->attr, &x->type, hn_type_cols(&dy->type)),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_x = hn_type_ld(&x->type),
        .ld_dw = hn_type_ld(&dw->type),
        .replicas = hn_replicas_of(dw),
        .dw_stride = hn_replica_stride(dw),
        .dtype = dy->type.dtype,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *dy = &n->in[DY]->type, *x = &n->in[X]->type, *dw = &n->in[DW]->type;
    if (!hn_is_volume(dy) || !hn_is_volume(x) || dy->dtype != x->dtype)
        return HN_FAIL(HN_ERR_SHAPE, "dy [n, out_d, out_h, out_w, out] and x [n, d, h, w, in] of "
                                     "one dtype, f32 or bf16");
    const hn_conv3d_shape s = hn_conv3d_shape_of(&n->attr, x, dy->dim[4]);
    HN_TRY(hn_conv3d_check_shape("conv3d_dw", &s));
    if (!hn_conv3d_makes(&s, dy)) return HN_FAIL(HN_ERR_SHAPE, "dy is not what forward makes of x");
    if (dw->dtype != HN_F32 || dw->ndim != 2 || dw->dim[0] != s.out ||
        dw->dim[1] != hn_conv3d_taps(&s))
        return HN_FAIL(HN_ERR_SHAPE, "dw f32 [out, kd kh kw in]");
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_conv3d_dw_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_conv3d_dw_cuda_scratch(&a) : hn_conv3d_dw_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_conv3d_dw_args a = args_of(n);
    return x->twin ? hn_conv3d_dw_cpu(&a) : hn_conv3d_dw_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_conv3d_dw_args a = args_of(n);
    return hn_conv3d_dw_cuda(&a, x->gemm, x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 5, {2, 3, 4, 3, 4}}, {HN_F32, 5, {2, 3, 4, 3, 3}, 4}, {HN_F32, 2, {4, 81}, 84}},
     .attr = {.conv3d = {.kd = 3, .kh = 3, .kw = 3, .pad = 1}}},
    {.in = {{HN_F32, 5, {1, 3, 3, 3, 3}}, {HN_F32, 5, {1, 4, 5, 6, 2}}, {HN_F32, 2, {3, 36}}},
     .attr = {.conv3d = {.kd = 2, .kh = 3, .kw = 3, .stride = 2, .pad = 1}}},
    {.in = {{HN_BF16, 5, {2, 5, 6, 9, 7}}, {HN_BF16, 5, {2, 5, 6, 9, 5}}, {HN_F32, 2, {7, 135}}},
     .attr = {.conv3d = {.kd = 3, .kh = 3, .kw = 3, .pad = 4, .dilation = 4}}},
    {.in = {{HN_BF16, 5, {1, 2, 3, 3, 72}}, {HN_BF16, 5, {1, 4, 5, 6, 40}}, {HN_F32, 2, {72, 1080}}},
     .attr = {.conv3d = {.kd = 3, .kh = 3, .kw = 3, .stride = 2, .pad = 1}}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_conv3d_dw = {
    .name = "conv3d_dw",
    .n_in = 3,
    .n_out = 1,
    .alias = {1 + DW},
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
