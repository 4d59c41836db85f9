/* loss, count, dy, group_loss = regression(y, target, labels?, loss, count); loss and count, [1],
 * are added to in place; dy is made here, in forward. The target gets no gradient. The mathematics
 * is in kernels/hyperflow/regression.h */
#include "kernels/hyperflow/regression.h"
#include "runtime/graph/op_util.h"

enum { Y, TARGET, LABELS, LOSS_IN, COUNT_IN }; /* inputs */
enum { LOSS, COUNT, DY, GROUP_LOSS };          /* outputs; the first two are inputs */

static int64_t groups_of(const hn_node *n)
{
    const int64_t group = n->attr.regression.group_rows;
    return hn_type_rows(&n->in[Y]->type) / (group > 0 ? group : 1);
}

static hn_regression_args args_of(const hn_node *n)
{
    const hn_type *y = &n->in[Y]->type, *target = &n->in[TARGET]->type;
    const hn_tensor *labels = n->in[LABELS], *dy = n->out[DY], *group_loss = n->out[GROUP_LOSS];
    return (hn_regression_args){
        .y = n->in[Y]->data,
        .target = n->in[TARGET]->data,
        .labels = labels ? labels->data : NULL,
        .loss_sum = n->in[LOSS_IN]->data,
        .count = n->in[COUNT_IN]->data,
        .dy = dy ? dy->data : NULL,
        .group_loss = group_loss ? group_loss->data : NULL,
        .rows = hn_type_rows(y),
        .cols = hn_type_cols(y),
        .groups = groups_of(n),
        .ld_y = hn_type_ld(y),
        .ld_target = hn_type_ld(target),
        .ld_dy = dy ? hn_type_ld(&dy->type) : 0,
        .dtype = y->dtype,
        .target_dtype = target->dtype,
    };
}

static bool is_one(const hn_type *t)
{
    return t->dtype == HN_F32 && hn_type_elements(t) == 1 && t->replicas <= 1;
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *y = &n->in[Y]->type, *target = &n->in[TARGET]->type;
    const int64_t group = n->attr.regression.group_rows, rows = hn_type_rows(y);
    if (!hn_is_matrix(y, y) || (target->dtype != y->dtype && target->dtype != HN_F32))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "y f32 or bf16, target f32 or the dtype of y");
    if (target->ndim < 2 || hn_type_rows(target) != rows || hn_type_cols(target) != hn_type_cols(y))
        return HN_FAIL(HN_ERR_SHAPE, "y and target [rows, cols]");
    if (group < 0 || (group > 0 && rows % group != 0))
        return HN_FAIL(HN_ERR_SHAPE, "the rows are no equal groups of those of a label");
    if (n->in[LABELS] && (n->in[LABELS]->type.dtype != HN_I32 ||
                          hn_type_elements(&n->in[LABELS]->type) != groups_of(n)))
        return HN_FAIL(HN_ERR_SHAPE, "labels i32, one a group of rows");
    if (!is_one(&n->in[LOSS_IN]->type) || !is_one(&n->in[COUNT_IN]->type))
        return HN_FAIL(HN_ERR_SHAPE, "loss and count are f32 [1]");
    if (n->attr.regression.want_dy || (hn_graph_training(n->graph) && n->in[Y]->needs_grad))
        out[DY] = hn_type_fresh(y);
    if (n->attr.regression.want_group_loss) out[GROUP_LOSS] = hn_type_1d(HN_F32, groups_of(n));
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    (void)g;
    (void)dout;
    if (n->in[Y]->needs_grad) din[Y] = n->out[DY];
    din[TARGET] = NULL;
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    (void)device;
    const hn_regression_args a = args_of(n);
    return hn_regression_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_regression_args a = args_of(n);
    return x->twin ? hn_regression_cpu(&a) : hn_regression_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_regression_args a = args_of(n);
    return hn_regression_cuda(&a, x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {6, 5}, 8}, {HN_F32, 2, {6, 5}}, {HN_I32, 1, {3}}, {HN_F32, 1, {1}},
            {HN_F32, 1, {1}}},
     .attr.regression = {.group_rows = 2, .want_dy = true, .want_group_loss = true}},
    {.in = {{HN_F32, 3, {2, 3, 8}}, {HN_F32, 2, {6, 8}}, {.ndim = 0}, {HN_F32, 1, {1}},
            {HN_F32, 1, {1}}}},
    {.in = {{HN_BF16, 2, {48, 600}}, {HN_F32, 2, {48, 600}}, {HN_I32, 1, {4}}, {HN_F32, 1, {1}},
            {HN_F32, 1, {1}}},
     .attr.regression = {.group_rows = 12, .want_dy = true}},
    {.in = {{HN_BF16, 2, {4, 9}}, {HN_BF16, 2, {4, 9}}, {HN_I32, 1, {4}}, {HN_F32, 1, {1}},
            {HN_F32, 1, {1}}},
     .attr.regression = {.want_dy = true, .want_group_loss = true}},
    {.in = {{0}}},
};
/* clang-format on */

static bool fill(const hn_node *n, int k, void *data)
{
    if (k != LABELS) return false;
    for (int64_t e = 0; e < groups_of(n); e++)
        ((int32_t *)data)[e] = e % 3 == 1 ? HN_LABEL_IGNORED : 0;
    return true;
}

const hn_op_def hn_op_regression = {
    .name = "regression",
    .n_in = 5,
    .n_out = 4,
    .optional = HN_BIT(LABELS),
    .alias = {1 + LOSS_IN, 1 + COUNT_IN},
    .saved_out = HN_BIT(DY) | HN_BIT(GROUP_LOSS),
    .loss = true,
    .infer = infer,
    .grad = grad,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
