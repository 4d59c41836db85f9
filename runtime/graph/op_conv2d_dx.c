/* dx = conv2d_dx(dy, w, dx_so_far?); the mathematics is in kernels/conv/conv2d.h */
#include "runtime/graph/conv2d_choice.h"
#include "runtime/graph/op_conv2d.h"

enum { DY, W, SO_FAR }; /* inputs */
enum { DX };            /* outputs */

static hn_conv2d_dx_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *w = n->in[W], *so_far = n->in[SO_FAR], *dx = n->out[DX];
    return (hn_conv2d_dx_args){
        .dy = dy->data,
        .w = w->data,
        .add = so_far ? so_far->data : NULL,
        .dx = dx->data,
        .shape = hn_conv2d_shape_of(&n->attr, &dx->type, hn_type_cols(&dy->type)),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_w = hn_type_ld(&w->type),
        .ld_add = so_far ? hn_type_ld(&so_far->type) : 0,
        .ld_dx = hn_type_ld(&dx->type),
        .replicas = hn_replicas_of(w),
        .w_stride = hn_replica_stride(w),
        .dtype = dy->type.dtype,
    };
}

/* Channels of dx: w has a column for each tap and channel of a group. */
static int64_t channels_of(const hn_attr *attr, const hn_type *w)
{
    const int64_t taps = attr->conv.kh * attr->conv.kw;
    return taps > 0 ? w->dim[1] / taps * (attr->conv.groups ? attr->conv.groups : 1) : 0;
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *dy = &n->in[DY]->type, *w = &n->in[W]->type;
    if (!hn_is_image(dy) || !hn_is_matrix(w, dy) || w->ndim != 2 || dy->dim[3] != w->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "dy [n, out_h, out_w, out] and w [out, kh kw in/groups] of "
                                     "one dtype, f32 or bf16");
    out[DX] = hn_type_image(dy->dtype, dy->dim[0], n->attr.conv.h, n->attr.conv.w,
                            channels_of(&n->attr, w));
    const hn_conv2d_shape s = hn_conv2d_shape_of(&n->attr, &out[DX], w->dim[0]);
    HN_TRY(hn_conv2d_check_shape("conv2d_dx", &s));
    if (w->dim[1] != hn_conv2d_taps(&s) || dy->dim[1] != hn_conv2d_out_h(&s) ||
        dy->dim[2] != hn_conv2d_out_w(&s))
        return HN_FAIL(HN_ERR_SHAPE, "dy is not what forward makes of dx");
    if (n->in[SO_FAR] && !hn_type_same(&n->in[SO_FAR]->type, &out[DX]))
        return HN_FAIL(HN_ERR_SHAPE, "the gradient so far is not shaped like dx");
    return HN_OK;
}

static hn_status prepare(hn_node *n, hn_device *device)
{
    static const char some; /* the plan has no memory yet: an operand is there, or not */
    hn_conv2d_dx_args a = args_of(n);
    hn_conv2d_cudnn *c;
    size_t bytes = 0;
    if (n->in[SO_FAR] != NULL) a.add = &some;
    HN_TRY(hn_conv2d_library(n, device, &a.shape, &c));
    if (c == NULL) return HN_OK;
    const hn_status st = hn_conv2d_cudnn_plan_dx(c, &a, &bytes);
    return hn_conv2d_settle(n, c, st, bytes);
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    if (n->attr.conv.impl == HN_CONV2D_CUDNN) return n->attr.conv.library_scratch;
    const hn_conv2d_dx_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_conv2d_dx_cuda_scratch(&a) : hn_conv2d_dx_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_conv2d_dx_args a = args_of(n);
    return x->twin ? hn_conv2d_dx_cpu(&a) : hn_conv2d_dx_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_conv2d_dx_args a = args_of(n);
    if (n->attr.conv.impl == HN_CONV2D_CUDNN)
        return hn_conv2d_cudnn_dx(x->conv2d, &a, x->scratch, x->stream);
    return hn_conv2d_dx_cuda(&a, x->gemm, x->scratch, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 4, {2, 5, 4, 4}}, {HN_F32, 2, {4, 27}, 28}, {HN_F32, 4, {2, 5, 4, 3}, 4}},
     .attr = {.conv = {.kh = 3, .kw = 3, .pad = 1, .h = 5, .w = 4}}},
    {.in = {{HN_F32, 4, {1, 3, 4, 3}}, {HN_F32, 2, {3, 18}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .stride = 2, .pad = 1, .h = 6, .w = 7}}},
    {.in = {{HN_F32, 4, {2, 2, 2, 3}}, {HN_F32, 2, {3, 5}}, {HN_F32, 4, {2, 5, 4, 5}, 8}},
     .attr = {.conv = {.kh = 1, .kw = 1, .stride = 3, .h = 5, .w = 4}}},
    {.in = {{HN_F32, 4, {1, 4, 4, 6}}, {HN_F32, 2, {6, 18}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .pad = 1, .groups = 2, .h = 4, .w = 4}}},
    {.in = {{HN_F32, 4, {2, 3, 3, 6}}, {HN_F32, 2, {6, 9}}, {HN_F32, 4, {2, 6, 5, 6}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .stride = 2, .pad = 1, .groups = 6, .h = 6, .w = 5}}},
    {.in = {{HN_BF16, 4, {3, 5, 5, 24}}, {HN_BF16, 2, {24, 144}}, {HN_BF16, 4, {3, 9, 10, 16}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .stride = 2, .pad = 1, .h = 9, .w = 10}}},
    {.in = {{HN_BF16, 4, {2, 9, 8, 40}}, {HN_BF16, 2, {40, 9}}, {HN_BF16, 4, {2, 9, 8, 40}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .pad = 1, .groups = 40, .h = 9, .w = 8}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_conv2d_dx = {
    .name = "conv2d_dx",
    .n_in = 3,
    .n_out = 1,
    .optional = HN_BIT(SO_FAR),
    .reuse = HN_REUSE(DX, SO_FAR),
    .replicas = true,
    .infer = infer,
    .prepare = prepare,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
