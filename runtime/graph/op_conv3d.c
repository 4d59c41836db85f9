/* y = conv3d(x, w, bias?); the mathematics is in kernels/conv/conv3d.h */
#include <inttypes.h>

#include "runtime/graph/op_conv3d.h"

enum { X, W, BIAS }; /* inputs */
enum { Y };          /* outputs */

static hn_conv3d_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *w = n->in[W], *bias = n->in[BIAS], *y = n->out[Y];
    const int64_t replicas = hn_replicas_of(w);
    return (hn_conv3d_args){
        .x = x->data,
        .w = w->data,
        .bias = bias ? bias->data : NULL,
        .y = y->data,
        .shape = hn_conv3d_shape_of(&n->attr, &x->type, hn_type_cols(&y->type)),
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
    if (!hn_is_volume(x) || !hn_is_matrix(w, x) || w->ndim != 2)
        return HN_FAIL(HN_ERR_SHAPE, "x [n, d, h, w, in] and w [out, kd kh kw in] of one dtype, "
                                     "f32 or bf16");
    const hn_conv3d_shape s = hn_conv3d_shape_of(&n->attr, x, w->dim[0]);
    HN_TRY(hn_conv3d_check_shape("conv3d", &s));
    if (w->dim[1] != hn_conv3d_taps(&s))
        return HN_FAIL(HN_ERR_SHAPE,
                       "w has %" PRId64 " columns, a kernel of %" PRId64 " x %" PRId64 " x %" PRId64
                       " over %" PRId64 " channels has %" PRId64,
                       w->dim[1], s.kd, s.kh, s.kw, s.in, hn_conv3d_taps(&s));
    if (n->in[BIAS] &&
        (!hn_is_real(&n->in[BIAS]->type) || hn_type_elements(&n->in[BIAS]->type) != s.out))
        return HN_FAIL(HN_ERR_SHAPE, "bias [out], f32 or bf16");
    out[Y] = hn_type_volume(x->dtype, s.n, hn_conv3d_out_d(&s), hn_conv3d_out_h(&s),
                            hn_conv3d_out_w(&s), s.out);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    if (din[X]) {
        hn_tensor *const in[] = {dout[Y], n->in[W], hn_gathered(din[X])};
        hn_attr attr = n->attr;
        attr.conv3d.d = n->in[X]->type.dim[1];
        attr.conv3d.h = n->in[X]->type.dim[2];
        attr.conv3d.w = n->in[X]->type.dim[3];
        HN_TRY(hn_emit(g, HN_OP_CONV3D_DX, n->name, in, &attr, &din[X]));
    }
    if (din[W]) {
        hn_tensor *const in[] = {dout[Y], n->in[X], din[W]};
        HN_TRY(hn_emit(g, HN_OP_CONV3D_DW, n->name, in, &n->attr, NULL));
    }
    if (din[BIAS]) {
        hn_tensor *const in[] = {dout[Y], din[BIAS]};
        HN_TRY(hn_emit(g, HN_OP_LINEAR_DB, n->name, in, NULL, NULL));
    }
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_conv3d_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_conv3d_fwd_cuda_scratch(&a)
                                    : hn_conv3d_fwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_conv3d_args a = args_of(n);
    return x->twin ? hn_conv3d_fwd_cpu(&a) : hn_conv3d_fwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_conv3d_args a = args_of(n);
    return hn_conv3d_fwd_cuda(&a, x->gemm, x->scratch, x->stream);
}

/* A usual kernel; dilation; a stride that leaves voxels over; a kernel that is no cube; one voxel;
 * more channels than the direct kernels take. */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 5, {2, 3, 4, 3, 3}, 4}, {HN_F32, 2, {4, 81}, 84}, {HN_F32, 1, {4}}},
     .attr = {.conv3d = {.kd = 3, .kh = 3, .kw = 3, .pad = 1}}},
    {.in = {{HN_F32, 5, {1, 3, 5, 4, 2}}, {HN_F32, 2, {3, 54}}},
     .attr = {.conv3d = {.kd = 3, .kh = 3, .kw = 3, .pad = 2, .dilation = 2}}},
    {.in = {{HN_F32, 5, {1, 4, 5, 6, 2}}, {HN_F32, 2, {3, 36}}, {HN_F32, 1, {3}}},
     .attr = {.conv3d = {.kd = 2, .kh = 3, .kw = 3, .stride = 2, .pad = 1}}},
    {.in = {{HN_F32, 5, {2, 3, 2, 3, 5}, 8}, {HN_F32, 2, {4, 5}}, {HN_F32, 1, {4}}},
     .attr = {.conv3d = {.kd = 1, .kh = 1, .kw = 1}}},
    {.in = {{HN_BF16, 5, {2, 5, 6, 9, 5}, 8}, {HN_BF16, 2, {7, 135}}, {HN_F32, 1, {7}}},
     .attr = {.conv3d = {.kd = 3, .kh = 3, .kw = 3, .pad = 4, .dilation = 4}}},
    {.in = {{HN_BF16, 5, {1, 4, 5, 6, 40}}, {HN_BF16, 2, {72, 1080}}, {HN_BF16, 1, {72}}},
     .attr = {.conv3d = {.kd = 3, .kh = 3, .kw = 3, .stride = 2, .pad = 1}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_conv3d = {
    .name = "conv3d",
    .n_in = 3,
    .n_out = 1,
    .optional = HN_BIT(BIAS),
    .infer = infer,
    .grad = grad,
    .accumulates = HN_BIT(W) | HN_BIT(BIAS),
    .adds = HN_BIT(X),
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
