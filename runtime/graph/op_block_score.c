/* f = block_score(dw, count?, f), in place; the mathematics is in kernels/sparse/block_score.h */
#include "kernels/sparse/block_score.h"
#include "runtime/graph/op_util.h"

enum { DW, COUNT, F }; /* inputs; the only output is F */

static hn_block_shape shape_of(const hn_node *n)
{
    return (hn_block_shape){n->attr.block_score.br, n->attr.block_score.bc};
}

static hn_block_score_args args_of(const hn_node *n)
{
    const hn_type *dw = &n->in[DW]->type;
    return (hn_block_score_args){
        .dw = n->in[DW]->data,
        .count = n->in[COUNT] ? n->in[COUNT]->data : NULL,
        .f = n->in[F]->data,
        .out = hn_type_rows(dw),
        .in = hn_type_cols(dw),
        .ld_dw = hn_type_ld(dw),
        .shape = shape_of(n),
        .kind = (hn_score_kind)n->attr.block_score.kind,
        .accumulate = n->attr.block_score.accumulate,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *dw = &n->in[DW]->type, *f = &n->in[F]->type;
    const hn_tensor *count = n->in[COUNT];
    if (dw->dtype != HN_F32 || f->dtype != HN_F32 || (count && count->type.dtype != HN_F32))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "dw, count and f are f32");
    if (dw->ndim != 2 || hn_replicas_of(n->in[DW]) || hn_replicas_of(n->in[F]) ||
        (count && (hn_type_elements(&count->type) != 1 || hn_replicas_of(count))))
        return HN_FAIL(HN_ERR_SHAPE, "dw [out, in] and count [1], without replicas");
    HN_TRY(hn_block_shape_check("block_score", shape_of(n), dw->dim[0], dw->dim[1]));
    if (f->ndim != 1 || f->dim[0] != hn_block_total(shape_of(n), dw->dim[0], dw->dim[1]))
        return HN_FAIL(HN_ERR_SHAPE, "f has a score a block");
    return HN_OK;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_block_score_args a = args_of(n);
    return x->twin ? hn_block_score_cpu(&a) : hn_block_score_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_block_score_args a = args_of(n);
    return hn_block_score_cuda(&a, x->stream);
}

static bool fill(const hn_node *n, int k, void *data)
{
    (void)n;
    if (k == COUNT) *(float *)data = 8.0f;
    return k == COUNT;
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {6, 7}, 9}, {0}, {HN_F32, 1, {42}}}, .attr.block_score = {1, 1}},
    {.in = {{HN_F32, 2, {33, 72}}, {HN_F32, 1, {1}}, {HN_F32, 1, {2376}}},
     .attr.block_score = {1, 1, HN_SCORE_ABS, true}},
    {.in = {{HN_F32, 2, {144, 136}}, {HN_F32, 1, {1}}, {HN_F32, 1, {1224}}},
     .attr.block_score = {4, 4, HN_SCORE_SQUARE, true}},
    {.in = {{HN_F32, 2, {144, 272}, 273}, {0}, {HN_F32, 1, {153}}},
     .attr.block_score = {16, 16, HN_SCORE_SQUARE, false}},
    {.in = {{HN_F32, 2, {64, 96}}, {0}, {HN_F32, 1, {6}}},
     .attr.block_score = {32, 32, HN_SCORE_ABS, false}},
    {.in = {{HN_F32, 2, {192, 320}}, {0}, {HN_F32, 1, {15}}},
     .attr.block_score = {64, 64, HN_SCORE_SQUARE, true}},
    {.in = {{HN_F32, 2, {128, 384}}, {HN_F32, 1, {1}}, {HN_F32, 1, {3}}},
     .attr.block_score = {128, 128, HN_SCORE_SQUARE, false}},
    {.in = {{HN_F32, 2, {256, 512}}, {0}, {HN_F32, 1, {2}}},
     .attr.block_score = {256, 256, HN_SCORE_ABS, true}},
    {.in = {{HN_F32, 2, {24, 1027}}, {HN_F32, 1, {1}}, {HN_F32, 1, {24}}}, /* rows */
     .attr.block_score = {1, 1027, HN_SCORE_SQUARE, true}},
    {.in = {{HN_F32, 2, {270, 45}}, {0}, {HN_F32, 1, {45}}}, /* columns */
     .attr.block_score = {270, 1, HN_SCORE_SQUARE, true}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_block_score = {
    .name = "block_score",
    .n_in = 3,
    .n_out = 1,
    .optional = HN_BIT(COUNT),
    .alias = {1 + F},
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
