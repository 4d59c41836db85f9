/* dx?, =dcls, =dpos = class_token_bwd(dy, dcls?, dpos?), attr.token; dx [images * patches, dim] is
 * there with want_dx. The mathematics is in kernels/embed/class_token.h */
#include "kernels/embed/class_token.h"
#include "runtime/graph/op_util.h"

enum { DY, DCLS_IN, DPOS_IN }; /* inputs */
enum { DX, DCLS, DPOS };       /* outputs; the last two are the inputs */

static int64_t tokens_of(const hn_node *n) { return n->attr.token.patches + n->attr.token.has_cls; }

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *dy = &n->in[DY]->type;
    const hn_tensor *dcls = n->in[DCLS_IN], *dpos = n->in[DPOS_IN];
    const int64_t patches = n->attr.token.patches, dim = hn_type_cols(dy);
    if (!hn_is_matrix(dy, dy) || patches < 1 || hn_type_rows(dy) % tokens_of(n) != 0)
        return HN_FAIL(HN_ERR_SHAPE, "dy [images * tokens, dim], f32 or bf16");
    if (dcls && (!n->attr.token.has_cls || dcls->type.dtype != HN_F32 ||
                 hn_type_rows(&dcls->type) != 1 || hn_type_cols(&dcls->type) != dim))
        return HN_FAIL(HN_ERR_SHAPE, "dcls f32 [dim] of a class token");
    if (dpos && (dpos->type.dtype != HN_F32 || hn_type_rows(&dpos->type) != tokens_of(n) ||
                 hn_type_cols(&dpos->type) != dim))
        return HN_FAIL(HN_ERR_SHAPE, "dpos f32 [tokens, dim]");
    if (n->attr.token.want_dx)
        out[DX] = hn_type_2d(dy->dtype, hn_type_rows(dy) / tokens_of(n) * patches, dim);
    return HN_OK;
}

static hn_class_token_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *dcls = n->in[DCLS_IN], *dpos = n->in[DPOS_IN];
    const hn_tensor *dx = n->out[DX];
    const int64_t of_pos = hn_replicas_of(dpos), of_cls = hn_replicas_of(dcls);
    return (hn_class_token_bwd_args){
        .dy = dy->data,
        .dx = dx ? dx->data : NULL,
        .dcls = dcls ? dcls->data : NULL,
        .dpos = dpos ? dpos->data : NULL,
        .images = hn_type_rows(&dy->type) / tokens_of(n),
        .patches = n->attr.token.patches,
        .dim = hn_type_cols(&dy->type),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_dx = dx ? hn_type_ld(&dx->type) : 0,
        .ld_dpos = dpos ? hn_type_ld(&dpos->type) : 0,
        .replicas = of_pos > of_cls ? of_pos : of_cls,
        .dcls_stride = dcls ? hn_replica_stride(dcls) : 0,
        .dpos_stride = dpos ? hn_replica_stride(dpos) : 0,
        .dtype = dy->type.dtype,
        .has_cls = n->attr.token.has_cls,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_class_token_bwd_args a = args_of(n);
    return x->twin ? hn_class_token_bwd_cpu(&a) : hn_class_token_bwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_class_token_bwd_args a = args_of(n);
    return hn_class_token_bwd_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {8, 5}}, {HN_F32, 1, {5}}, {HN_F32, 2, {4, 5}, 7}},
     .attr = {.token = {.patches = 3, .has_cls = true, .want_dx = true}}},
    {.in = {{HN_F32, 2, {8, 5}, 6}, {.ndim = 0}, {HN_F32, 3, {1, 4, 5}}},
     .attr = {.token = {.patches = 4, .want_dx = true}}},
    {.in = {{HN_F32, 2, {8, 5}, 6}, {HN_F32, 3, {1, 1, 5}}},
     .attr = {.token = {.patches = 3, .has_cls = true}}},
    {.in = {{HN_BF16, 2, {8, 24}}},
     .attr = {.token = {.patches = 3, .has_cls = true, .want_dx = true}}},
    {.in = {{HN_BF16, 2, {50, 600}}, {HN_F32, 1, {600}}, {HN_F32, 2, {5, 600}}},
     .attr = {.token = {.patches = 4, .has_cls = true, .want_dx = true}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_class_token_bwd = {
    .name = "class_token_bwd",
    .n_in = 3,
    .n_out = 3,
    .optional = HN_BIT(DCLS_IN) | HN_BIT(DPOS_IN),
    .alias = {0, 1 + DCLS_IN, 1 + DPOS_IN},
    .replicas = true,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
