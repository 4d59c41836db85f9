/* y = conv2d(x, w, bias?); the mathematics is in kernels/conv/conv2d.h */
#include <inttypes.h>

#include "runtime/graph/conv2d_choice.h"
#include "runtime/graph/op_conv2d.h"

enum { X, W, BIAS }; /* inputs */
enum { Y };          /* outputs */

static hn_conv2d_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *w = n->in[W], *bias = n->in[BIAS], *y = n->out[Y];
    const int64_t replicas = hn_replicas_of(w);
    return (hn_conv2d_args){
        .x = x->data,
        .w = w->data,
        .bias = bias ? bias->data : NULL,
        .y = y->data,
        .shape = hn_conv2d_shape_of(&n->attr, &x->type, hn_type_cols(&y->type)),
        .ld_x = hn_type_ld(&x->type),
        .ld_w = hn_type_ld(&w->type),
        .ld_y = hn_type_ld(&y->type),
        .replicas = replicas ? replicas : hn_replicas_of(bias),
        .w_stride = hn_replica_stride(w),
        .bias_stride = bias ? hn_replica_stride(bias) : 0,
        .dtype = x->type.dtype,
        .bias_dtype = bias ? bias->type.dtype : x->type.dtype,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type, *w = &n->in[W]->type;
    if (!hn_is_image(x) || !hn_is_matrix(w, x) || w->ndim != 2)
        return HN_FAIL(HN_ERR_SHAPE, "x [n, h, w, in] and w [out, kh kw in/groups] of one dtype, "
                                     "f32 or bf16");
    const hn_conv2d_shape s = hn_conv2d_shape_of(&n->attr, x, w->dim[0]);
    HN_TRY(hn_conv2d_check_shape("conv2d", &s));
    if (w->dim[1] != hn_conv2d_taps(&s))
        return HN_FAIL(HN_ERR_SHAPE,
                       "w has %" PRId64 " columns, a kernel of %" PRId64 " x %" PRId64
                       " over %" PRId64 " channels has %" PRId64,
                       w->dim[1], s.kh, s.kw, s.in / s.groups, hn_conv2d_taps(&s));
    if (n->in[BIAS] &&
        (!hn_is_real(&n->in[BIAS]->type) || hn_type_elements(&n->in[BIAS]->type) != s.out))
        return HN_FAIL(HN_ERR_SHAPE, "bias [out], f32 or bf16");
    out[Y] = hn_type_image(x->dtype, s.n, hn_conv2d_out_h(&s), hn_conv2d_out_w(&s), s.out);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    if (din[X]) {
        hn_tensor *const in[] = {dout[Y], n->in[W], hn_gathered(din[X])};
        hn_attr attr = n->attr;
        attr.conv.h = n->in[X]->type.dim[1];
        attr.conv.w = n->in[X]->type.dim[2];
        HN_TRY(hn_emit(g, HN_OP_CONV2D_DX, n->name, in, &attr, &din[X]));
    }
    if (din[W] == HN_GRAD_OF_BLOCKS) {
        HN_TRY(hn_grad_blocks(g, n->name, n->in[W], HN_OP_CONV2D_DW, &n->attr, dout[Y], n->in[X]));
    } else if (din[W]) {
        hn_tensor *const in[] = {dout[Y], n->in[X], din[W]};
        HN_TRY(hn_emit(g, HN_OP_CONV2D_DW, n->name, in, &n->attr, NULL));
    }
    if (din[BIAS]) {
        hn_tensor *const in[] = {dout[Y], din[BIAS]};
        HN_TRY(hn_emit(g, HN_OP_LINEAR_DB, n->name, in, NULL, NULL));
    }
    return HN_OK;
}

static hn_status prepare(hn_node *n, hn_device *device)
{
    static const char some; /* the plan has no memory yet: an operand is there, or not */
    hn_conv2d_args a = args_of(n);
    hn_conv2d_cudnn *c;
    size_t bytes = 0;
    if (n->in[BIAS] != NULL) a.bias = &some;
    HN_TRY(hn_conv2d_library(n, device, &a.shape, &c));
    if (c == NULL) return HN_OK;
    const hn_status st = hn_conv2d_cudnn_plan_fwd(c, &a, &bytes);
    return hn_conv2d_settle(n, c, st, bytes);
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    if (n->attr.conv.impl == HN_CONV2D_CUDNN) return n->attr.conv.library_scratch;
    const hn_conv2d_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_conv2d_fwd_cuda_scratch(&a)
                                    : hn_conv2d_fwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_conv2d_args a = args_of(n);
    return x->twin ? hn_conv2d_fwd_cpu(&a) : hn_conv2d_fwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_conv2d_args a = args_of(n);
    if (n->attr.conv.impl == HN_CONV2D_CUDNN)
        return hn_conv2d_cudnn_fwd(x->conv2d, &a, x->scratch, x->stream);
    return hn_conv2d_fwd_cuda(&a, x->gemm, x->scratch, x->stream);
}

/* A usual kernel; a stride that leaves pixels over; a kernel that is not square, with dilation;
 * patches that do not overlap; one pixel, also with a stride; groups; depthwise. */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 4, {2, 5, 4, 3}, 4}, {HN_F32, 2, {4, 27}, 28}, {HN_F32, 1, {4}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .pad = 1}}},
    {.in = {{HN_F32, 4, {1, 6, 7, 2}}, {HN_F32, 2, {3, 18}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .stride = 2, .pad = 1}}},
    {.in = {{HN_F32, 4, {1, 6, 5, 2}}, {HN_F32, 2, {2, 12}}, {HN_F32, 1, {2}}},
     .attr = {.conv = {.kh = 2, .kw = 3, .stride = 1, .pad = 2, .dilation = 2}}},
    {.in = {{HN_F32, 4, {2, 4, 4, 3}}, {HN_F32, 2, {5, 12}}, {HN_F32, 1, {5}}},
     .attr = {.conv = {.kh = 2, .kw = 2, .stride = 2}}},
    {.in = {{HN_F32, 4, {2, 3, 3, 5}, 8}, {HN_F32, 2, {4, 5}}},
     .attr = {.conv = {.kh = 1, .kw = 1}}},
    {.in = {{HN_F32, 4, {1, 5, 4, 4}}, {HN_F32, 2, {3, 4}}},
     .attr = {.conv = {.kh = 1, .kw = 1, .stride = 3}}},
    {.in = {{HN_F32, 4, {1, 4, 4, 4}}, {HN_F32, 2, {6, 18}}, {HN_F32, 1, {6}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .pad = 1, .groups = 2}}},
    {.in = {{HN_F32, 4, {2, 5, 5, 6}, 8}, {HN_F32, 2, {6, 9}}, {HN_F32, 1, {6}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .pad = 1, .groups = 6}}},
    {.in = {{HN_F32, 4, {1, 6, 5, 3}}, {HN_F32, 2, {3, 6}}},
     .attr = {.conv = {.kh = 3, .kw = 2, .stride = 2, .pad = 1, .dilation = 2, .groups = 3}}},
    {.in = {{HN_BF16, 4, {3, 9, 10, 16}}, {HN_BF16, 2, {24, 144}}, {HN_BF16, 1, {24}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .stride = 2, .pad = 1}}},
    {.in = {{HN_BF16, 4, {2, 7, 6, 5}}, {HN_BF16, 2, {17, 5}, 8}, {HN_F32, 1, {17}}},
     .attr = {.conv = {.kh = 1, .kw = 1}}},
    {.in = {{HN_BF16, 4, {2, 9, 8, 40}}, {HN_BF16, 2, {40, 9}}, {HN_F32, 1, {40}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .pad = 1, .groups = 40}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_conv2d = {
    .name = "conv2d",
    .n_in = 3,
    .n_out = 1,
    .optional = HN_BIT(BIAS),
    .replicas = true,
    .infer = infer,
    .grad = grad,
    .accumulates = HN_BIT(W) | HN_BIT(BIAS),
    .adds = HN_BIT(X),
    .by_blocks = HN_BIT(W),
    .prepare = prepare,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
