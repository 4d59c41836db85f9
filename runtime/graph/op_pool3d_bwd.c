/* dx = pool3d_bwd(dy, index), attr.pool3d; the mathematics is in kernels/conv/pool3d.h */
#include "kernels/conv/pool3d.h"
#include "runtime/graph/op_util.h"

enum { DY, INDEX }; /* inputs */
enum { DX };        /* outputs */

static hn_pool3d_shape shape_of(const hn_node *n)
{
    const hn_type *dy = &n->in[DY]->type;
    const hn_attr *a = &n->attr;
    return (hn_pool3d_shape){dy->dim[0],  a->pool3d.d, a->pool3d.h,
                             a->pool3d.w, dy->dim[4],  a->pool3d.size};
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *dy = &n->in[DY]->type, *index = &n->in[INDEX]->type;
    if (!hn_is_volume(dy)) return HN_FAIL(HN_ERR_SHAPE, "dy [n, d, h, w, c], f32 or bf16");
    const hn_pool3d_shape s = shape_of(n);
    HN_TRY(hn_pool3d_check_shape("pool3d_bwd", &s));
    if (dy->dim[1] != s.d / s.size || dy->dim[2] != s.h / s.size || dy->dim[3] != s.w / s.size)
        return HN_FAIL(HN_ERR_SHAPE, "dy is not what forward makes of dx");
    if (index->dtype != HN_U8 || index->ndim != 5 || hn_type_rows(index) != hn_type_rows(dy) ||
        hn_type_cols(index) != hn_type_cols(dy))
        return HN_FAIL(HN_ERR_SHAPE, "index u8, shaped like dy");
    out[DX] = hn_type_volume(dy->dtype, s.n, s.d, s.h, s.w, s.c);
    return HN_OK;
}

static hn_pool3d_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *index = n->in[INDEX], *dx = n->out[DX];
    return (hn_pool3d_bwd_args){
        .s = shape_of(n),
        .dy = dy->data,
        .index = index->data,
        .dx = dx->data,
        .ld_dy = hn_type_ld(&dy->type),
        .ld_index = hn_type_ld(&index->type),
        .ld_dx = hn_type_ld(&dx->type),
        .dtype = dy->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_pool3d_bwd_args a = args_of(n);
    return x->twin ? hn_pool3d_bwd_cpu(&a) : hn_pool3d_bwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_pool3d_bwd_args a = args_of(n);
    return hn_pool3d_bwd_cuda(&a, x->stream);
}

static bool fill(const hn_node *n, int k, void *data)
{
    const hn_type *t = &n->in[k]->type;
    const int64_t cols = hn_type_cols(t), places = n->attr.pool3d.size * n->attr.pool3d.size * 2;
    if (k != INDEX) return false;
    for (int64_t i = 0; i < hn_type_elements(t); i++)
        ((uint8_t *)data)[i / cols * hn_type_ld(t) + i % cols] = (uint8_t)(5 * i % places);
    return true;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 5, {1, 1, 2, 2, 3}}, {HN_U8, 5, {1, 1, 2, 2, 3}}},
     .attr = {.pool3d = {.size = 2, .d = 3, .h = 5, .w = 4}}},
    {.in = {{HN_BF16, 5, {2, 2, 2, 2, 19}, 24}, {HN_U8, 5, {2, 2, 2, 2, 19}}},
     .attr = {.pool3d = {.size = 3, .d = 7, .h = 6, .w = 8}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_pool3d_bwd = {
    .name = "pool3d_bwd",
    .n_in = 2,
    .n_out = 1,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
