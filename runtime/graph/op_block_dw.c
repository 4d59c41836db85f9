/* grad[chosen blocks] += linear_dw(dy, x), in place; the mathematics is in
 * kernels/sparse/block_dw.h */
#include "kernels/sparse/block_dw.h"
#include "runtime/graph/op_sparse.h"

enum { DY, X, SPANS, BLOCK, TILE_FIRST, GRAD }; /* inputs; the only output is GRAD */

static hn_block_dw_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *x = n->in[X], *tiles = n->in[TILE_FIRST];
    return (hn_block_dw_args){
        .dy = dy->data,
        .x = x->data,
        .span = hn_sparse_span_of(n, n->in[SPANS]),
        .block = n->in[BLOCK]->data,
        .tile_first = tiles ? tiles->data : NULL,
        .grad = n->in[GRAD]->data,
        .rows = hn_type_rows(&dy->type),
        .in = hn_type_cols(&x->type),
        .out = hn_type_cols(&dy->type),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_x = hn_type_ld(&x->type),
        .shape = hn_sparse_shape_of(n),
        .capacity = n->attr.sparse.capacity,
        .blocks = n->in[BLOCK]->type.dim[0],
        .values = n->in[GRAD]->type.dim[0],
        .dtype = dy->type.dtype,
        .alpha = n->attr.sparse.alpha,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *dy = &n->in[DY]->type, *x = &n->in[X]->type;
    if (!hn_is_matrix(dy, dy) || !hn_is_matrix(x, dy) || hn_type_rows(dy) != hn_type_rows(x))
        return HN_FAIL(HN_ERR_SHAPE, "dy [rows, out] and x [rows, in] of one dtype, f32 or bf16");
    HN_TRY(hn_sparse_infer_values(n->in[GRAD]));
    return hn_sparse_infer(n, n->in[SPANS], n->in[BLOCK], n->in[TILE_FIRST], true, hn_type_cols(dy),
                           hn_type_cols(x));
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_block_dw_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_block_dw_cuda_scratch(&a) : hn_block_dw_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_block_dw_args a = args_of(n);
    return x->twin ? hn_block_dw_cpu(&a) : hn_block_dw_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_block_dw_args a = args_of(n);
    return hn_block_dw_cuda(&a, x->gemm, x->scratch, x->stream);
}

static bool fill(const hn_node *n, int k, void *data)
{
    const int64_t out = hn_type_cols(&n->in[DY]->type), in = hn_type_cols(&n->in[X]->type);
    if (k == SPANS) hn_sparse_fill_spans(n, n->in[SPANS], data);
    if (k == BLOCK) hn_sparse_fill_blocks(n, n->in[BLOCK], out, in, data);
    if (k == TILE_FIRST) hn_sparse_fill_tiles(n, out, in, data);
    return k == SPANS || k == BLOCK || k == TILE_FIRST;
}

/* clang-format off */
#define POOL(blocks, values) {HN_U8, 1, {48}}, {HN_I32, 1, {blocks}}, {0}, {HN_F32, 1, {values}}
#define TILED(blocks, tiles, values) \
    {HN_U8, 1, {48}}, {HN_I32, 1, {blocks}}, {HN_I32, 1, {(tiles) + 1}}, {HN_F32, 1, {values}}
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {5, 6}, 8}, {HN_F32, 2, {5, 7}}, TILED(12, 1, 17)}, /* elements */
     .attr = {.sparse = {.index = 1, .br = 1, .bc = 1, .capacity = 9, .alpha = 0.5f}}},
    {.in = {{HN_BF16, 2, {70, 140}}, {HN_BF16, 2, {70, 264}}, TILED(600, 6, 600)},
     .attr = {.sparse = {.index = 2, .br = 1, .bc = 1, .capacity = 590}}},
    {.in = {{HN_BF16, 2, {40, 36}}, {HN_BF16, 2, {40, 20}}, TILED(50, 1, 730)}, /* many of them */
     .attr = {.sparse = {.br = 4, .bc = 4, .capacity = 43}}},
    {.in = {{HN_F32, 2, {9, 144}}, {HN_F32, 2, {9, 136}, 140}, TILED(30, 4, 400)},
     .attr = {.sparse = {.br = 4, .bc = 4, .capacity = 20}}},
    {.in = {{HN_BF16, 2, {33, 144}}, {HN_BF16, 2, {33, 160}}, TILED(12, 4, 2600)},
     .attr = {.sparse = {.br = 16, .bc = 16, .capacity = 10}}},
    {.in = {{HN_BF16, 2, {70, 64}, 66}, {HN_BF16, 2, {70, 96}}, TILED(8, 1, 5130)},
     .attr = {.sparse = {.br = 32, .bc = 32, .capacity = 5}}},
    {.in = {{HN_BF16, 2, {65, 192}}, {HN_BF16, 2, {65, 128}}, TILED(7, 2, 16390)},
     .attr = {.sparse = {.br = 64, .bc = 64, .capacity = 4, .alpha = 2.0f}}},
    {.in = {{HN_BF16, 2, {100, 256}}, {HN_BF16, 2, {100, 384}}, POOL(8, 65541)},
     .attr = {.sparse = {.br = 128, .bc = 128, .capacity = 5}}},
    {.in = {{HN_BF16, 2, {37, 256}}, {HN_BF16, 2, {37, 512}}, POOL(5, 131077)},
     .attr = {.sparse = {.br = 256, .bc = 256, .capacity = 2}}},
    {.in = {{HN_BF16, 2, {37, 24}}, {HN_BF16, 2, {37, 200}}, POOL(9, 1405)}, /* rows */
     .attr = {.sparse = {.br = 1, .bc = 200, .capacity = 7}}},
    {.in = {{HN_F32, 2, {12, 70}}, {HN_F32, 2, {12, 40}}, POOL(9, 495)}, /* columns */
     .attr = {.sparse = {.br = 70, .bc = 1, .capacity = 7}}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_block_dw = {
    .name = "block_dw",
    .n_in = 6,
    .n_out = 1,
    .optional = HN_BIT(TILE_FIRST),
    .alias = {1 + GRAD},
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
