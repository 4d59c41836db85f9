/* dx = pool2d_bwd(dy, index?), attr.pool with h and w of dx; the mathematics is in
 * kernels/conv/pool2d.h */
#include "kernels/conv/pool2d.h"
#include "runtime/graph/op_util.h"

enum { DY, INDEX }; /* inputs */
enum { DX };        /* outputs */

static int64_t stride_of(const hn_attr *a)
{
    return a->pool.stride > 0 ? a->pool.stride : a->pool.size;
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *dy = &n->in[DY]->type;
    const hn_attr *a = &n->attr;
    const bool image = a->pool.size == 0;
    if (!hn_is_real(dy) || dy->ndim != (image ? 2 : 4) || a->pool.h < 1 || a->pool.w < 1)
        return HN_FAIL(HN_ERR_SHAPE, "dy [n, out_h, out_w, c], of means over images [n, c]; f32 or "
                                     "bf16");
    if ((a->pool.kind == HN_POOL_MAX) != (n->in[INDEX] != NULL))
        return HN_FAIL(HN_ERR_ARG, "index belongs to maxima, and they need it");
    if (n->in[INDEX]) {
        hn_type index = *dy;
        index.dtype = HN_U8;
        if (!hn_type_same(&index, &n->in[INDEX]->type))
            return HN_FAIL(HN_ERR_SHAPE, "index u8 [n, out_h, out_w, c]");
    }
    out[DX] = hn_type_image(dy->dtype, dy->dim[0], a->pool.h, a->pool.w, hn_type_cols(dy));
    return HN_OK;
}

static hn_pool2d_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *index = n->in[INDEX], *dx = n->out[DX];
    const bool image = n->attr.pool.size == 0;
    return (hn_pool2d_bwd_args){
        .s = {.n = dx->type.dim[0],
              .h = dx->type.dim[1],
              .w = dx->type.dim[2],
              .c = dx->type.dim[3],
              .out_h = image ? 1 : dy->type.dim[1],
              .out_w = image ? 1 : dy->type.dim[2],
              .size = n->attr.pool.size,
              .stride = stride_of(&n->attr),
              .pad = n->attr.pool.pad,
              .kind = n->attr.pool.kind,
              .count_include_pad = n->attr.pool.count_include_pad,
              .relu = n->attr.pool.relu,
              .dtype = dx->type.dtype},
        .dy = dy->data,
        .index = index ? index->data : NULL,
        .dx = dx->data,
        .ld_dy = hn_type_ld(&dy->type),
        .ld_index = index ? hn_type_ld(&index->type) : 0,
        .ld_dx = hn_type_ld(&dx->type),
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_pool2d_bwd_args a = args_of(n);
    return x->twin ? hn_pool2d_bwd_cpu(&a) : hn_pool2d_bwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_pool2d_bwd_args a = args_of(n);
    return hn_pool2d_bwd_cuda(&a, x->stream);
}

static bool fill(const hn_node *n, int k, void *data)
{
    const hn_type *t = &n->in[k]->type;
    if (k != INDEX) return false;
    for (int64_t i = 0; i < hn_type_rows(t) * hn_type_ld(t); i++)
        ((uint8_t *)data)[i] = (uint8_t)(5 * i % (n->attr.pool.size * n->attr.pool.size));
    return true;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 4, {2, 2, 2, 3}}, {HN_U8, 4, {2, 2, 2, 3}}},
     .attr = {.pool = {.kind = HN_POOL_MAX, .size = 2, .h = 5, .w = 4}}},
    {.in = {{HN_F32, 4, {1, 3, 4, 3}, 5}, {HN_U8, 4, {1, 3, 4, 3}, 7}},
     .attr = {.pool = {.kind = HN_POOL_MAX, .size = 3, .stride = 2, .pad = 1, .h = 5, .w = 7}}},
    {.in = {{HN_F32, 4, {2, 5, 4, 3}, 4}},
     .attr = {.pool = {.kind = HN_POOL_AVG, .size = 3, .stride = 1, .pad = 1, .h = 5, .w = 4}}},
    {.in = {{HN_F32, 2, {2, 7}}}, .attr = {.pool = {.kind = HN_POOL_AVG, .h = 3, .w = 5}}},
    {.in = {{HN_BF16, 4, {2, 4, 3, 24}}, {HN_U8, 4, {2, 4, 3, 24}}},
     .attr = {.pool = {.kind = HN_POOL_MAX, .size = 3, .stride = 2, .pad = 1, .h = 7, .w = 6}}},
    {.in = {{HN_BF16, 4, {2, 3, 3, 19}, 24}},
     .attr = {.pool = {.kind = HN_POOL_AVG, .size = 2, .h = 7, .w = 6}}},
    {.in = {{HN_BF16, 2, {2, 600}}}, .attr = {.pool = {.kind = HN_POOL_AVG, .h = 7, .w = 7}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_pool2d_bwd = {
    .name = "pool2d_bwd",
    .n_in = 2,
    .n_out = 1,
    .optional = HN_BIT(INDEX),
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
