/* y, ~index = pool3d(x), attr.pool3d; index is there in training graphs. The mathematics is in
 * kernels/conv/pool3d.h */
#include "kernels/conv/pool3d.h"
#include "runtime/graph/op_util.h"

enum { X };        /* inputs */
enum { Y, INDEX }; /* outputs */

static hn_pool3d_shape shape_of(const hn_node *n)
{
    const hn_type *x = &n->in[X]->type;
    return (hn_pool3d_shape){x->dim[0], x->dim[1], x->dim[2],
                             x->dim[3], x->dim[4], n->attr.pool3d.size};
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type;
    if (!hn_is_volume(x)) return HN_FAIL(HN_ERR_SHAPE, "x [n, d, h, w, c], f32 or bf16");
    const hn_pool3d_shape s = shape_of(n);
    HN_TRY(hn_pool3d_check_shape("pool3d", &s));
    const int64_t d = s.d / s.size, h = s.h / s.size, w = s.w / s.size;
    out[Y] = hn_type_volume(x->dtype, s.n, d, h, w, s.c);
    if (hn_graph_training(n->graph)) out[INDEX] = hn_type_volume(HN_U8, s.n, d, h, w, s.c);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    hn_tensor *const in[] = {dout[Y], n->out[INDEX]};
    hn_attr attr = n->attr;
    if (din[X] == NULL) return HN_OK;
    attr.pool3d.d = n->in[X]->type.dim[1];
    attr.pool3d.h = n->in[X]->type.dim[2];
    attr.pool3d.w = n->in[X]->type.dim[3];
    return hn_emit(g, HN_OP_POOL3D_BWD, n->name, in, &attr, &din[X]);
}

static hn_pool3d_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *y = n->out[Y], *index = n->out[INDEX];
    return (hn_pool3d_args){
        .s = shape_of(n),
        .x = x->data,
        .y = y->data,
        .index = index ? index->data : NULL,
        .ld_x = hn_type_ld(&x->type),
        .ld_y = hn_type_ld(&y->type),
        .ld_index = index ? hn_type_ld(&index->type) : 0,
        .dtype = x->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_pool3d_args a = args_of(n);
    return x->twin ? hn_pool3d_fwd_cpu(&a) : hn_pool3d_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_pool3d_args a = args_of(n);
    return hn_pool3d_fwd_cuda(&a, x->stream);
}

/* Maxima have kinks where two values meet: all values differ by 0.1 or more. 37 divides no size of
 * a sample. */
static bool fill(const hn_node *n, int k, void *data)
{
    const hn_type *t = &n->in[k]->type;
    const int64_t cols = hn_type_cols(t), count = hn_type_elements(t);
    if (t->dtype != HN_F32) return false;
    for (int64_t i = 0; i < count; i++)
        ((float *)data)[i / cols * hn_type_ld(t) + i % cols] =
            0.1f * (float)(37 * i % count) - 0.05f * (float)count;
    return true;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 5, {2, 4, 2, 4, 3}, 4}}, .attr = {.pool3d = {.size = 2}}},
    {.in = {{HN_F32, 5, {1, 3, 5, 4, 2}}}, .attr = {.pool3d = {.size = 2}}},
    {.in = {{HN_BF16, 5, {2, 7, 6, 8, 19}, 24}}, .attr = {.pool3d = {.size = 3}}},
    {.in = {{HN_BF16, 5, {1, 4, 6, 8, 16}}}, .attr = {.pool3d = {.size = 2}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_pool3d = {
    .name = "pool3d",
    .n_in = 1,
    .n_out = 2,
    .saved_out = HN_BIT(INDEX),
    .infer = infer,
    .grad = grad,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
