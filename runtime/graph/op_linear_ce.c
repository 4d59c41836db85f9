/* loss, count, dw, dx, row_loss = linear_ce(x, w, labels, loss, count, dw?); the mathematics is in
 * kernels/loss/linear_ce.h. loss, count and dw are added to in place. dx is made here, in forward,
 * where the logits are; so is the gradient of a trained w, in the dw operand. */
#include "kernels/loss/linear_ce.h"
#include "runtime/graph/op.h"

enum { X, W, LABELS, LOSS_IN, COUNT_IN, DW_IN }; /* inputs */
enum { LOSS, COUNT, DW, DX, ROW_LOSS };          /* outputs; the first three are inputs, too */

static hn_linear_ce_args args_of(const hn_node *n)
{
    const hn_type *x = &n->in[X]->type, *w = &n->in[W]->type;
    const hn_tensor *dw = n->in[DW_IN], *dx = n->out[DX], *row_loss = n->out[ROW_LOSS];
    return (hn_linear_ce_args){
        .x = n->in[X]->data,
        .w = n->in[W]->data,
        .labels = n->in[LABELS]->data,
        .loss_sum = n->in[LOSS_IN]->data,
        .count = n->in[COUNT_IN]->data,
        .dx = dx ? dx->data : NULL,
        .dw = dw ? dw->data : NULL,
        .row_loss = row_loss ? row_loss->data : NULL,
        .rows = hn_type_rows(x),
        .dim = hn_type_cols(x),
        .vocab = hn_type_rows(w),
        .ld_x = hn_type_ld(x),
        .ld_w = hn_type_ld(w),
        .ld_dx = dx ? hn_type_ld(&dx->type) : 0,
        .ld_dw = dw ? hn_type_ld(&dw->type) : 0,
        .chunk_rows = n->attr.ce.chunk_rows,
        .softcap = n->attr.ce.softcap,
        .dtype = x->dtype,
    };
}

static bool is_f32_scalar(const hn_type *t)
{
    return t->dtype == HN_F32 && hn_type_elements(t) == 1;
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type, *w = &n->in[W]->type, *labels = &n->in[LABELS]->type;
    const hn_type *dw = n->in[DW_IN] ? &n->in[DW_IN]->type : NULL;
    if ((x->dtype != HN_F32 && x->dtype != HN_BF16) || w->dtype != x->dtype ||
        labels->dtype != HN_I32)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "x and w both f32 or both bf16, labels i32");
    if (x->ndim != 2 || w->ndim != 2 || x->dim[1] != w->dim[1] || labels->ndim != 1 ||
        labels->dim[0] != x->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "x [rows, dim], w [vocab, dim], labels [rows]");
    if (!is_f32_scalar(&n->in[LOSS_IN]->type) || !is_f32_scalar(&n->in[COUNT_IN]->type))
        return HN_FAIL(HN_ERR_SHAPE, "loss and count are f32 [1]");
    if (dw && (dw->dtype != HN_F32 || dw->ndim != 2 || dw->dim[0] != w->dim[0] ||
               dw->dim[1] != w->dim[1]))
        return HN_FAIL(HN_ERR_SHAPE, "dw is f32 and shaped like w");
    if (n->attr.ce.want_dx || (hn_graph_training(n->graph) && n->in[X]->needs_grad))
        out[DX] = hn_type_2d(x->dtype, x->dim[0], x->dim[1]);
    if (n->attr.ce.want_row_loss) out[ROW_LOSS] = hn_type_1d(HN_F32, x->dim[0]);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    (void)g;
    (void)dout;
    if (n->in[W]->needs_grad && n->in[DW_IN] == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: w is trained, so its dw operand is needed", n->name);
    if (n->in[X]->needs_grad) din[X] = n->out[DX];
    din[W] = NULL; /* forward has added it to dw */
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_linear_ce_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_linear_ce_cuda_scratch(&a) : hn_linear_ce_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_linear_ce_args a = args_of(n);
    return x->twin ? hn_linear_ce_cpu(&a) : hn_linear_ce_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_linear_ce_args a = args_of(n);
    return hn_linear_ce_cuda(&a, x->gemm, x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {6, 5}, 7}, {HN_F32, 2, {9, 5}}, {HN_I32, 1, {6}}, {HN_F32, 1, {1}},
            {HN_F32, 1, {1}}, {HN_F32, 2, {9, 5}}},
     .attr.ce = {.want_row_loss = true}},
    {.in = {{HN_F32, 2, {7, 4}}, {HN_F32, 2, {5, 4}}, {HN_I32, 1, {7}}, {HN_F32, 1, {1}},
            {HN_F32, 1, {1}}, {HN_F32, 2, {5, 4}, 6}},
     .attr.ce = {.chunk_rows = 2, .softcap = 2.0f, .want_dx = true}},
    {.in = {{HN_BF16, 2, {40, 24}}, {HN_BF16, 2, {130, 24}}, {HN_I32, 1, {40}}, {HN_F32, 1, {1}},
            {HN_F32, 1, {1}}, {HN_F32, 2, {130, 24}}},
     .attr.ce = {.chunk_rows = 16, .want_dx = true, .want_row_loss = true}},
    {.in = {{0}}},
};
/* clang-format on */

static bool fill(const hn_node *n, int k, void *data)
{
    if (k != LABELS) return false;
    const int64_t vocab = hn_type_rows(&n->in[W]->type);
    for (int64_t i = 0; i < hn_type_cols(&n->in[k]->type); i++)
        ((int32_t *)data)[i] = i % 3 == 1 ? HN_LABEL_IGNORED : (int32_t)(i * 7 % vocab);
    return true;
}

const hn_op_def hn_op_linear_ce = {
    .name = "linear_ce",
    .n_in = 6,
    .n_out = 5,
    .optional = HN_BIT(DW_IN),
    .alias = {1 + LOSS_IN, 1 + COUNT_IN, 1 + DW_IN},
    .saved_out = HN_BIT(DX) | HN_BIT(ROW_LOSS),
    .loss = true,
    .rounded_inside = HN_BIT(LOSS) | HN_BIT(DW) | HN_BIT(ROW_LOSS), /* logits, dt */
    .infer = infer,
    .grad = grad,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
    .kinks = HN_BIT(W), /* its gradient is in the dw operand: tests/test_linear_ce.cc */
};
