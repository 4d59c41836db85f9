/* dw += conv2d_dw(dy, x), in place; the mathematics is in kernels/conv/conv2d.h */
#include "runtime/graph/conv2d_choice.h"
#include "runtime/graph/op_conv2d.h"

enum { DY, X, DW }; /* inputs; the only output is DW */

static hn_conv2d_dw_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *x = n->in[X], *dw = n->in[DW];
    return (hn_conv2d_dw_args){
        .dy = dy->data,
        .x = x->data,
        .dw = dw->data,
        .shape = hn_conv2d_shape_of(&n->attr, &x->type, hn_type_cols(&dy->type)),
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
    if (!hn_is_image(dy) || !hn_is_image(x) || dy->dtype != x->dtype)
        return HN_FAIL(HN_ERR_SHAPE, "dy [n, out_h, out_w, out] and x [n, h, w, in] of one dtype, "
                                     "f32 or bf16");
    const hn_conv2d_shape s = hn_conv2d_shape_of(&n->attr, x, dy->dim[3]);
    HN_TRY(hn_conv2d_check_shape("conv2d_dw", &s));
    if (dy->dim[0] != s.n || dy->dim[1] != hn_conv2d_out_h(&s) || dy->dim[2] != hn_conv2d_out_w(&s))
        return HN_FAIL(HN_ERR_SHAPE, "dy is not what forward makes of x");
    if (dw->dtype != HN_F32 || dw->ndim != 2 || dw->dim[0] != s.out ||
        dw->dim[1] != hn_conv2d_taps(&s))
        return HN_FAIL(HN_ERR_SHAPE, "dw f32 [out, kh kw in/groups]");
    return HN_OK;
}

static hn_status prepare(hn_node *n, hn_device *device)
{
    const hn_conv2d_dw_args a = args_of(n);
    hn_conv2d_cudnn *c;
    size_t bytes = 0;
    HN_TRY(hn_conv2d_library(n, device, &a.shape, &c));
    if (c == NULL) return HN_OK;
    const hn_status st = hn_conv2d_cudnn_plan_dw(c, &a, &bytes);
    return hn_conv2d_settle(n, c, st, bytes);
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    if (n->attr.conv.impl == HN_CONV2D_CUDNN) return n->attr.conv.library_scratch;
    const hn_conv2d_dw_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_conv2d_dw_cuda_scratch(&a) : hn_conv2d_dw_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_conv2d_dw_args a = args_of(n);
    return x->twin ? hn_conv2d_dw_cpu(&a) : hn_conv2d_dw_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_conv2d_dw_args a = args_of(n);
    if (n->attr.conv.impl == HN_CONV2D_CUDNN)
        return hn_conv2d_cudnn_dw(x->conv2d, &a, x->scratch, x->stream);
    return hn_conv2d_dw_cuda(&a, x->gemm, x->scratch, x->stream);
}

/* Operations of a gradient that leaves most of an H200 idle, and so does dx: 32 images of CIFAR in
 * any layer of a ResNet-18 make 2.4e9, 512 of them fill it. Through cuDNN only: products of side
 * nodes have few multiprocessors (HN_SIDE_SMS). */
enum { FEW_GFLOP = 5 };

static bool beside(const hn_node *n)
{
    const hn_type *dy = &n->in[DY]->type, *dw = &n->in[DW]->type;
    return n->attr.conv.impl == HN_CONV2D_CUDNN &&
           2.0 * (double)hn_type_rows(dy) * (double)hn_type_elements(dw) < FEW_GFLOP * 1e9;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 4, {2, 5, 4, 4}}, {HN_F32, 4, {2, 5, 4, 3}, 4}, {HN_F32, 2, {4, 27}, 28}},
     .attr = {.conv = {.kh = 3, .kw = 3, .pad = 1}}},
    {.in = {{HN_F32, 4, {1, 3, 4, 3}}, {HN_F32, 4, {1, 6, 7, 2}}, {HN_F32, 2, {3, 18}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .stride = 2, .pad = 1}}},
    {.in = {{HN_F32, 4, {3, 20, 20, 4}}, {HN_F32, 4, {3, 20, 20, 8}}, {HN_F32, 2, {4, 8}}},
     .attr = {.conv = {.kh = 1, .kw = 1}}},
    {.in = {{HN_F32, 4, {1, 4, 4, 6}}, {HN_F32, 4, {1, 4, 4, 4}}, {HN_F32, 2, {6, 18}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .pad = 1, .groups = 2}}},
    {.in = {{HN_F32, 4, {2, 3, 3, 6}}, {HN_F32, 4, {2, 6, 5, 6}, 8}, {HN_F32, 2, {6, 9}, 12}},
     .attr = {.conv = {.kh = 3, .kw = 3, .stride = 2, .pad = 1, .groups = 6}}},
    {.in = {{HN_BF16, 4, {3, 5, 5, 24}}, {HN_BF16, 4, {3, 9, 10, 16}}, {HN_F32, 2, {24, 144}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .stride = 2, .pad = 1}}},
    {.in = {{HN_BF16, 4, {2, 9, 8, 40}}, {HN_BF16, 4, {2, 9, 8, 40}}, {HN_F32, 2, {40, 9}}},
     .attr = {.conv = {.kh = 3, .kw = 3, .pad = 1, .groups = 40}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_conv2d_dw = {
    .name = "conv2d_dw",
    .n_in = 3,
    .n_out = 1,
    .alias = {1 + DW},
    .rounded_inside = HN_BIT(0), /* through cuDNN */
    .replicas = true,
    .infer = infer,
    .prepare = prepare,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .beside = beside,
    .samples = samples,
};
