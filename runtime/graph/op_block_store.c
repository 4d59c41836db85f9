/* w[chosen blocks] = frozen + delta, in place; the mathematics is in kernels/sparse/block_store.h
 */
#include "kernels/sparse/block_store.h"
#include "runtime/graph/op_sparse.h"

enum { W, SPANS, BLOCK, DELTA, FROZEN }; /* inputs; the only output is W */

static hn_block_store_args args_of(const hn_node *n)
{
    const hn_tensor *w = n->in[W];
    return (hn_block_store_args){
        .w = w->data,
        .span = hn_sparse_span_of(n, n->in[SPANS]),
        .block = n->in[BLOCK]->data,
        .delta = n->in[DELTA]->data,
        .frozen = n->in[FROZEN]->data,
        .out = hn_type_rows(&w->type),
        .in = hn_type_cols(&w->type),
        .ld_w = hn_type_ld(&w->type),
        .shape = hn_sparse_shape_of(n),
        .capacity = n->attr.sparse.capacity,
        .blocks = n->in[BLOCK]->type.dim[0],
        .values = n->in[DELTA]->type.dim[0],
        .dtype = w->type.dtype,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *w = &n->in[W]->type, *frozen = &n->in[FROZEN]->type;
    if (!hn_is_real(w) || w->ndim != 2 || hn_replicas_of(n->in[W]))
        return HN_FAIL(HN_ERR_SHAPE, "w [out, in], f32 or bf16, without replicas");
    HN_TRY(hn_sparse_infer_values(n->in[DELTA]));
    if (frozen->dtype != w->dtype || frozen->ndim != 1 ||
        frozen->dim[0] != n->in[DELTA]->type.dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "frozen [pool] of w's dtype");
    return hn_sparse_infer(n, n->in[SPANS], n->in[BLOCK], NULL, false, w->dim[0], w->dim[1]);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_block_store_args a = args_of(n);
    return x->twin ? hn_block_store_cpu(&a) : hn_block_store_fast(&a);
}

/* All matrices of an update. */
static hn_status run_many_cuda(hn_node *const *n, int64_t count, hn_exec *x)
{
    hn_block_store_args a[HN_BLOCK_STORE_MANY];
    for (int64_t done = 0, now; done < count; done += now) {
        now = count - done < HN_BLOCK_STORE_MANY ? count - done : HN_BLOCK_STORE_MANY;
        for (int64_t i = 0; i < now; i++) a[i] = args_of(n[done + i]);
        HN_TRY(hn_block_store_cuda(a, now, x->stream));
    }
    return HN_OK;
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_block_store_args a = args_of(n);
    return hn_block_store_cuda(&a, 1, x->stream);
}

static bool fill(const hn_node *n, int k, void *data)
{
    const hn_type *w = &n->in[W]->type;
    if (k == SPANS) hn_sparse_fill_spans(n, n->in[SPANS], data);
    if (k == BLOCK) hn_sparse_fill_blocks(n, n->in[BLOCK], w->dim[0], w->dim[1], data);
    return k == SPANS || k == BLOCK;
}

/* clang-format off */
#define POOL(blocks, values, dtype) \
    {HN_U8, 1, {48}}, {HN_I32, 1, {blocks}}, {HN_F32, 1, {values}}, {dtype, 1, {values}}
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {6, 7}, 9}, POOL(12, 17, HN_F32)},
     .attr = {.sparse = {.index = 1, .br = 1, .bc = 1, .capacity = 9}}},
    {.in = {{HN_BF16, 2, {140, 264}}, POOL(2600, 2600, HN_BF16)},
     .attr = {.sparse = {.index = 2, .br = 1, .bc = 1, .capacity = 2590}}},
    {.in = {{HN_BF16, 2, {144, 136}}, POOL(30, 400, HN_BF16)},
     .attr = {.sparse = {.br = 4, .bc = 4, .capacity = 20}}},
    {.in = {{HN_F32, 2, {128, 192}, 196}, POOL(9, 5130, HN_F32)},
     .attr = {.sparse = {.index = 2, .br = 32, .bc = 32, .capacity = 6}}},
    {.in = {{HN_BF16, 2, {128, 256}}, POOL(5, 32773, HN_BF16)},
     .attr = {.sparse = {.br = 128, .bc = 128, .capacity = 2}}},
    {.in = {{HN_BF16, 2, {24, 27}}, POOL(9, 200, HN_BF16)}, /* rows */
     .attr = {.sparse = {.br = 1, .bc = 27, .capacity = 7}}},
    {.in = {{HN_BF16, 2, {70, 40}}, POOL(9, 495, HN_BF16)}, /* columns */
     .attr = {.sparse = {.br = 70, .bc = 1, .capacity = 7}}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_block_store = {
    .name = "block_store",
    .n_in = 5,
    .n_out = 1,
    .alias = {1 + W},
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .run_many_cuda = run_many_cuda,
    .samples = samples,
    .fill = fill,
};
