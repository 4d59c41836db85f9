/* y = embedding(w, id); the mathematics is in kernels/embed/embedding.h */
#include "kernels/embed/embedding.h"
#include "runtime/graph/op_util.h"

enum { W, ID }; /* inputs */
enum { Y };     /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *w = &n->in[W]->type, *id = &n->in[ID]->type;
    if (!hn_is_matrix(w, w) || w->ndim != 2 || id->dtype != HN_I32 || id->ndim != 1)
        return HN_FAIL(HN_ERR_SHAPE, "w [vocab, dim], f32 or bf16, and id i32 [rows]");
    out[Y] = hn_type_2d(w->dtype, id->dim[0], w->dim[1]);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    if (din[W] == NULL) return HN_OK;
    hn_tensor *const in[] = {dout[Y], n->in[ID], din[W]};
    return hn_emit(g, HN_OP_EMBEDDING_DW, n->name, in, NULL, NULL);
}

static hn_embedding_args args_of(const hn_node *n)
{
    const hn_tensor *w = n->in[W], *y = n->out[Y];
    return (hn_embedding_args){
        .id = n->in[ID]->data,
        .w = w->data,
        .y = y->data,
        .rows = hn_type_rows(&y->type),
        .vocab = hn_type_rows(&w->type),
        .dim = hn_type_cols(&w->type),
        .ld_w = hn_type_ld(&w->type),
        .ld_y = hn_type_ld(&y->type),
        .replicas = hn_replicas_of(w),
        .w_stride = hn_replica_stride(w),
        .dtype = w->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_embedding_args a = args_of(n);
    return x->twin ? hn_embedding_fwd_cpu(&a) : hn_embedding_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_embedding_args a = args_of(n);
    return hn_embedding_fwd_cuda(&a, x->stream);
}

/* Repeated ids, the first and the last row among them. */
static bool fill(const hn_node *n, int k, void *data)
{
    if (k != ID) return false;
    const int64_t vocab = hn_type_rows(&n->in[W]->type);
    for (int64_t i = 0; i < n->in[ID]->type.dim[0]; i++)
        ((int32_t *)data)[i] = (int32_t)(i % 3 == 0 ? vocab - 1 : i % vocab);
    return true;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {5, 7}, 8}, {HN_I32, 1, {9}}}},
    {.in = {{HN_BF16, 2, {3, 70}}, {HN_I32, 1, {40}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_embedding = {
    .name = "embedding",
    .n_in = 2,
    .n_out = 1,
    .replicas = true,
    .infer = infer,
    .grad = grad,
    .accumulates = HN_BIT(W),
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
