/* dx = conv3d_dx(dy, w, dx_so_far?); the mathematics is in kernels/conv/conv3d.h */
#include "runtime/graph/op_conv3d.h"

enum { DY, W, SO_FAR }; /* inputs */
enum { DX };            /* outputs */

static hn_conv3d_dx_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *w = n->in[W], *so_far = n->in[SO_FAR], *dx = n->out[DX];
    return (hn_conv3d_dx_args){
        .dy = dy->data,
        .w = w->data,
        .add = so_far ? so_far->data : NULL,
        .dx = dx->data,
        .shape = hn_conv3d_shape_of(&n->attr, &dx->type, hn_type_cols(&dy->type)),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_w = hn_type_ld(&w->type),
        .ld_add = so_far ? hn_type_ld(&so_far->type) : 0,
        .ld_dx = hn_type_ld(&dx->type),
        .replicas = hn_replicas_of(w),
        .w_stride = hn_replica_stride(w),
        .dtype = dy->type.dtype,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *dy = &n->in[DY]->type, *w = &n->in[W]->type;
    const hn_attr *a = &n->attr;
    if (!hn_is_volume(dy) || !hn_is_matrix(w, dy) || w->ndim != 2 || dy->dim[4] != w->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "dy [n, out_d, out_h, out_w, out] and w [out, kd kh kw in] of "
                                     "one dtype, f32 or bf16");
    const int64_t taps = a->conv3d.kd * a->conv3d.kh * a->conv3d.kw;
    out[DX] = hn_type_volume(dy->dtype, dy->dim[0], a->conv3d.d, a->conv3d.h, a->conv3d.w,
                             taps > 0 ? w->dim[1] / taps : 0);
    const hn_conv3d_shape s = hn_conv3d_shape_of(a, &out[DX], w->dim[0]);
    HN_TRY(hn_conv3d_check_shape("conv3d_dx", &s));
    if (w->dim[1] != hn_conv3d_taps(&s) || !hn_conv3d_makes(&s, dy))
        return HN_FAIL(HN_ERR_SHAPE, "dy is not what forward makes of dx");
    if (n->in[SO_FAR] && !hn_type_same(&n->in[SO_FAR]->type, &out[DX]))
        return HN_FAIL(HN_ERR_SHAPE, "the gradient so far is not shaped like dx");
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_conv3d_dx_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_conv3d_dx_cuda_scratch(&a) : hn_conv3d_dx_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_conv3d_dx_args a = args_of(n);
    return x->twin ? hn_conv3d_dx_cpu(&a) : hn_conv3d_dx_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_conv3d_dx_args a = args_of(n);
    return hn_conv3d_dx_cuda(&a, x->gemm, x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 5, {2, 3, 4, 3, 4}}, {HN_F32, 2, {4, 81}, 84}, {HN_F32, 5, {2, 3, 4, 3, 3}, 4}},
     .attr = {.conv3d = {.kd = 3, .kh = 3, .kw = 3, .pad = 1, .d = 3, .h = 4, .w = 3}}},
    {.in = {{HN_F32, 5, {1, 3, 3, 3, 3}}, {HN_F32, 2, {3, 36}}},
     .attr = {.conv3d = {.kd = 2, .kh = 3, .kw = 3, .stride = 2, .pad = 1, .d = 4, .h = 5, .w = 6}}},
    {.in = {{HN_BF16, 5, {2, 5, 6, 9, 7}}, {HN_BF16, 2, {7, 135}}, {HN_BF16, 5, {2, 5, 6, 9, 5}}},
     .attr = {.conv3d = {.kd = 3, .kh = 3, .kw = 3, .pad = 4, .dilation = 4, .d = 5, .h = 6, .w = 9}}},
    {.in = {{HN_BF16, 5, {1, 2, 3, 3, 72}}, {HN_BF16, 2, {72, 1080}}},
     .attr = {.conv3d = {.kd = 3, .kh = 3, .kw = 3, .stride = 2, .pad = 1, .d = 4, .h = 5, .w = 6}}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_conv3d_dx = {
    .name = "conv3d_dx",
    .n_in = 3,
    .n_out = 1,
    .optional = HN_BIT(SO_FAR),
    .reuse = HN_REUSE(DX, SO_FAR),
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
