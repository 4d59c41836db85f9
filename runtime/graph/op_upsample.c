/* y = upsample(x, skip?), the sides of skip or attr.upsample; skip of the sides of x: their
 * channels side by side. The mathematics is in kernels/vision/upsample.h */
#include "kernels/vision/upsample.h"
#include "runtime/graph/op_util.h"

enum { X, SKIP }; /* inputs */
enum { Y };       /* outputs */

static hn_upsample_shape shape_of(const hn_node *n)
{
    const hn_type *x = &n->in[X]->type, *skip = n->in[SKIP] ? &n->in[SKIP]->type : NULL;
    return (hn_upsample_shape){.n = x->dim[0],
                               .d = x->dim[1],
                               .h = x->dim[2],
                               .w = x->dim[3],
                               .c = x->dim[4],
                               .out_d = skip ? skip->dim[1] : n->attr.upsample.d,
                               .out_h = skip ? skip->dim[2] : n->attr.upsample.h,
                               .out_w = skip ? skip->dim[3] : n->attr.upsample.w};
}

static int64_t skip_channels(const hn_node *n)
{
    return n->in[SKIP] ? hn_type_cols(&n->in[SKIP]->type) : 0;
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type, *skip = n->in[SKIP] ? &n->in[SKIP]->type : NULL;
    if (!hn_is_volume(x)) return HN_FAIL(HN_ERR_SHAPE, "x [n, d, h, w, c], f32 or bf16");
    if (skip && (!hn_is_volume(skip) || skip->dtype != x->dtype || skip->dim[0] != x->dim[0]))
        return HN_FAIL(HN_ERR_SHAPE, "skip [n, d, h, w, c] of the dtype of x, as many volumes");
    const hn_upsample_shape s = shape_of(n);
    HN_TRY(hn_upsample_check_shape("upsample", &s));
    out[Y] = hn_type_volume(x->dtype, s.n, s.out_d, s.out_h, s.out_w, skip_channels(n) + s.c);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    const hn_upsample_shape s = shape_of(n);
    const int64_t c_skip = skip_channels(n);
    if (n->in[SKIP] && n->in[SKIP]->needs_grad)
        HN_TRY(hn_view_columns(g, dout[Y], 0, c_skip, &din[SKIP]));
    if (din[X] == NULL) return HN_OK;
    hn_tensor *dy = dout[Y];
    const hn_attr attr = {.upsample = {.d = s.d, .h = s.h, .w = s.w}};
    if (c_skip > 0) HN_TRY(hn_view_columns(g, dout[Y], c_skip, s.c, &dy));
    return hn_emit(g, HN_OP_UPSAMPLE_BWD, n->name, &dy, &attr, &din[X]);
}

static hn_upsample_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *skip = n->in[SKIP], *y = n->out[Y];
    return (hn_upsample_args){
        .s = shape_of(n),
        .x = x->data,
        .skip = skip ? skip->data : NULL,
        .y = y->data,
        .c_skip = skip_channels(n),
        .ld_x = hn_type_ld(&x->type),
        .ld_skip = skip ? hn_type_ld(&skip->type) : 0,
        .ld_y = hn_type_ld(&y->type),
        .dtype = x->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_upsample_args a = args_of(n);
    return x->twin ? hn_upsample_fwd_cpu(&a) : hn_upsample_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_upsample_args a = args_of(n);
    return hn_upsample_fwd_cuda(&a, x->stream);
}

/* Twice as large; what is left over at an odd side; joined only. */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 5, {2, 1, 2, 2, 3}, 4}}, .attr = {.upsample = {.d = 2, .h = 4, .w = 4}}},
    {.in = {{HN_F32, 5, {1, 1, 2, 2, 3}}, {HN_F32, 5, {1, 3, 5, 4, 2}}}},
    {.in = {{HN_F32, 5, {2, 2, 1, 3, 2}}, {HN_F32, 5, {2, 2, 1, 3, 4}}}},
    {.in = {{HN_BF16, 5, {1, 2, 3, 2, 16}}, {HN_BF16, 5, {1, 4, 6, 5, 8}}}},
    {.in = {{HN_BF16, 5, {1, 2, 3, 2, 9}}, {HN_BF16, 5, {1, 4, 7, 4, 5}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_upsample = {
    .name = "upsample",
    .n_in = 2,
    .n_out = 1,
    .optional = HN_BIT(SKIP),
    .infer = infer,
    .grad = grad,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
