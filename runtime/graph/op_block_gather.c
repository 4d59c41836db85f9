/* grad[chosen blocks] += dw[chosen blocks], in place; the mathematics is in
 * kernels/sparse/block_gather.h */
#include "kernels/sparse/block_gather.h"
#include "runtime/graph/op_sparse.h"

enum { DW, SPANS, BLOCK, GRAD }; /* inputs; the only output is GRAD */

static hn_block_gather_args args_of(const hn_node *n)
{
    const hn_tensor *dw = n->in[DW];
    return (hn_block_gather_args){
        .dw = dw->data,
        .span = hn_sparse_span_of(n, n->in[SPANS]),
        .block = n->in[BLOCK]->data,
        .grad = n->in[GRAD]->data,
        .out = hn_type_rows(&dw->type),
        .in = hn_type_cols(&dw->type),
        .ld_dw = hn_type_ld(&dw->type),
        .shape = hn_sparse_shape_of(n),
        .capacity = n->attr.sparse.capacity,
        .blocks = n->in[BLOCK]->type.dim[0],
        .values = n->in[GRAD]->type.dim[0],
        .alpha = n->attr.sparse.alpha,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *dw = &n->in[DW]->type;
    if (dw->dtype != HN_F32 || dw->ndim != 2 || hn_replicas_of(n->in[DW]) > 1)
        return HN_FAIL(HN_ERR_SHAPE, "dw f32 [out, in]");
    HN_TRY(hn_sparse_infer_values(n->in[GRAD]));
    return hn_sparse_infer(n, n->in[SPANS], n->in[BLOCK], NULL, false, dw->dim[0], dw->dim[1]);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_block_gather_args a = args_of(n);
    return x->twin ? hn_block_gather_cpu(&a) : hn_block_gather_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_block_gather_args a = args_of(n);
    return hn_block_gather_cuda(&a, x->stream);
}

static bool fill(const hn_node *n, int k, void *data)
{
    const hn_type *dw = &n->in[DW]->type;
    if (k == SPANS) hn_sparse_fill_spans(n, n->in[SPANS], data);
    if (k == BLOCK) hn_sparse_fill_blocks(n, n->in[BLOCK], dw->dim[0], dw->dim[1], data);
    return k == SPANS || k == BLOCK;
}

/* clang-format off */
#define POOL(blocks, values) {HN_U8, 1, {48}}, {HN_I32, 1, {blocks}}, {HN_F32, 1, {values}}
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {6, 7}, 9}, POOL(12, 17)},
     .attr = {.sparse = {.index = 1, .br = 1, .bc = 1, .capacity = 9, .alpha = 0.5f}}},
    {.in = {{HN_F32, 2, {144, 136}}, POOL(30, 400)},
     .attr = {.sparse = {.br = 4, .bc = 4, .capacity = 20}}},
    {.in = {{HN_F32, 2, {128, 192}}, POOL(9, 5130)},
     .attr = {.sparse = {.index = 2, .br = 32, .bc = 32, .capacity = 6}}},
    {.in = {{HN_F32, 2, {128, 256}}, POOL(5, 32773)},
     .attr = {.sparse = {.br = 128, .bc = 128, .capacity = 2}}},
    {.in = {{HN_F32, 2, {24, 27}}, POOL(9, 200)}, /* rows: a convolution's output channels */
     .attr = {.sparse = {.br = 1, .bc = 27, .capacity = 7}}},
    {.in = {{HN_F32, 2, {70, 40}}, POOL(9, 495)},
     .attr = {.sparse = {.br = 70, .bc = 1, .capacity = 7}}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_block_gather = {
    .name = "block_gather",
    .n_in = 4,
    .n_out = 1,
    .alias = {1 + GRAD},
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
