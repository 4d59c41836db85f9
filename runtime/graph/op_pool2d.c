/* y, ~index = pool2d(x), attr.pool, where relu may follow maxima; index, of these, is there in
 * training graphs. Means over the
 * whole image (size 0) give y [n, c]. The mathematics is in kernels/conv/pool2d.h */
#include "kernels/conv/pool2d.h"
#include "runtime/graph/op_util.h"

enum { X };        /* inputs */
enum { Y, INDEX }; /* outputs */

static int64_t stride_of(const hn_attr *a)
{
    return a->pool.stride > 0 ? a->pool.stride : a->pool.size;
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type;
    const hn_attr *a = &n->attr;
    if (!hn_is_image(x)) return HN_FAIL(HN_ERR_SHAPE, "x [n, h, w, c], f32 or bf16");
    if (a->pool.size == 0) {
        if (a->pool.kind != HN_POOL_AVG)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "over whole images there are means only");
        out[Y] = hn_type_2d(x->dtype, x->dim[0], x->dim[3]);
        return HN_OK;
    }
    if (a->pool.size < 0 || a->pool.stride < 0 || a->pool.pad < 0 || 2 * a->pool.pad > a->pool.size)
        return HN_FAIL(HN_ERR_SHAPE,
                       "size and stride are negative, or pad is not 0 to half of size");
    const int64_t h = hn_pool2d_out(x->dim[1], a->pool.size, stride_of(a), a->pool.pad);
    const int64_t w = hn_pool2d_out(x->dim[2], a->pool.size, stride_of(a), a->pool.pad);
    if (h < 1 || w < 1) return HN_FAIL(HN_ERR_SHAPE, "the window is larger than the image");
    out[Y] = hn_type_image(x->dtype, x->dim[0], h, w, x->dim[3]);
    if (a->pool.kind == HN_POOL_MAX && hn_graph_training(n->graph))
        out[INDEX] = hn_type_image(HN_U8, x->dim[0], h, w, x->dim[3]);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    hn_tensor *const in[] = {dout[Y], n->out[INDEX]};
    hn_attr attr = n->attr;
    if (din[X] == NULL) return HN_OK;
    attr.pool.h = n->in[X]->type.dim[1];
    attr.pool.w = n->in[X]->type.dim[2];
    return hn_emit(g, HN_OP_POOL2D_BWD, n->name, in, &attr, &din[X]);
}

static hn_pool2d_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *y = n->out[Y], *index = n->out[INDEX];
    const bool image = n->attr.pool.size == 0;
    return (hn_pool2d_args){
        .s = {.n = x->type.dim[0],
              .h = x->type.dim[1],
              .w = x->type.dim[2],
              .c = x->type.dim[3],
              .out_h = image ? 1 : y->type.dim[1],
              .out_w = image ? 1 : y->type.dim[2],
              .size = n->attr.pool.size,
              .stride = stride_of(&n->attr),
              .pad = n->attr.pool.pad,
              .kind = n->attr.pool.kind,
              .count_include_pad = n->attr.pool.count_include_pad,
              .relu = n->attr.pool.relu,
              .dtype = x->type.dtype},
        .x = x->data,
        .y = y->data,
        .index = index ? index->data : NULL,
        .ld_x = hn_type_ld(&x->type),
        .ld_y = hn_type_ld(&y->type),
        .ld_index = index ? hn_type_ld(&index->type) : 0,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_pool2d_args a = args_of(n);
    return x->twin ? hn_pool2d_fwd_cpu(&a) : hn_pool2d_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_pool2d_args a = args_of(n);
    return hn_pool2d_fwd_cuda(&a, x->stream);
}

/* Maxima have kinks where two values meet: all values differ by 0.1 or more. 37 divides no size of
 * a sample. */
static bool fill(const hn_node *n, int k, void *data)
{
    const hn_type *t = &n->in[k]->type;
    const int64_t cols = hn_type_cols(t), count = hn_type_elements(t);
    if (n->attr.pool.kind != HN_POOL_MAX || t->dtype != HN_F32) return false;
    for (int64_t i = 0; i < count; i++)
        ((float *)data)[i / cols * hn_type_ld(t) + i % cols] =
            0.1f * (float)(37 * i % count) - 0.05f * (float)count;
    return true;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 4, {2, 4, 4, 3}}}, .attr = {.pool = {.kind = HN_POOL_MAX, .size = 2}}},
    {.in = {{HN_F32, 4, {1, 5, 7, 3}, 5}},
     .attr = {.pool = {.kind = HN_POOL_MAX, .size = 3, .stride = 2, .pad = 1}}},
    {.in = {{HN_F32, 4, {1, 5, 5, 3}, 4}},
     .attr = {.pool = {.kind = HN_POOL_MAX, .size = 2, .relu = true}}},
    {.in = {{HN_F32, 4, {2, 5, 4, 3}, 4}},
     .attr = {.pool = {.kind = HN_POOL_AVG, .size = 3, .stride = 1, .pad = 1}}},
    {.in = {{HN_F32, 4, {2, 5, 4, 3}, 4}},
     .attr = {.pool = {.kind = HN_POOL_AVG,
                       .size = 3,
                       .stride = 2,
                       .pad = 1,
                       .count_include_pad = true}}},
    {.in = {{HN_F32, 4, {2, 3, 5, 7}}}, .attr = {.pool = {.kind = HN_POOL_AVG}}},
    {.in = {{HN_BF16, 4, {2, 7, 6, 24}}},
     .attr = {.pool = {.kind = HN_POOL_MAX, .size = 3, .stride = 2, .pad = 1}}},
    {.in = {{HN_BF16, 4, {2, 6, 6, 24}}},
     .attr = {.pool = {.kind = HN_POOL_MAX, .size = 2, .relu = true}}},
    {.in = {{HN_BF16, 4, {2, 7, 6, 19}, 24}}, .attr = {.pool = {.kind = HN_POOL_AVG, .size = 2}}},
    {.in = {{HN_BF16, 4, {2, 7, 7, 600}}}, .attr = {.pool = {.kind = HN_POOL_AVG}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_pool2d = {
    .name = "pool2d",
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
