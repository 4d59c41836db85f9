/* loss, count, hits, dlogits, row_loss, prediction = class_ce(logits, labels, loss, count, hits?);
 * the mathematics is in kernels/loss/class_ce.h. loss, count and hits, [1] or one a replica, are
 * added to in place; dlogits is made here, in forward. */
#include "kernels/loss/class_ce.h"
#include "runtime/graph/op_util.h"

enum { LOGITS, LABELS, LOSS_IN, COUNT_IN, HITS_IN };       /* inputs */
enum { LOSS, COUNT, HITS, DLOGITS, ROW_LOSS, PREDICTION }; /* outputs; the first three are inputs */

static void *data_of(const hn_tensor *t) { return t ? t->data : NULL; }

static hn_class_ce_args args_of(const hn_node *n)
{
    const hn_type *logits = &n->in[LOGITS]->type;
    const hn_tensor *d = n->out[DLOGITS];
    return (hn_class_ce_args){
        .logits = n->in[LOGITS]->data,
        .labels = n->in[LABELS]->data,
        .loss_sum = n->in[LOSS_IN]->data,
        .count = n->in[COUNT_IN]->data,
        .hits = data_of(n->in[HITS_IN]),
        .dlogits = data_of(d),
        .row_loss = data_of(n->out[ROW_LOSS]),
        .prediction = data_of(n->out[PREDICTION]),
        .rows = hn_type_rows(logits),
        .replicas = hn_type_elements(&n->in[LOSS_IN]->type),
        .count_stride = hn_replicas_of(n->in[COUNT_IN]) ? hn_replica_stride(n->in[COUNT_IN]) : 1,
        .classes = hn_type_cols(logits),
        .ld_logits = hn_type_ld(logits),
        .ld_dlogits = d ? hn_type_ld(&d->type) : 0,
        .first_class = n->attr.class_ce.first_class,
        .n_classes = n->attr.class_ce.n_classes,
        .smoothing = n->attr.class_ce.smoothing,
        .dtype = logits->dtype,
    };
}

/* f32 [n]. */
static bool are_f32(const hn_type *t, int64_t n)
{
    return t->dtype == HN_F32 && t->ndim == 1 && t->dim[0] == n && t->replicas <= 1;
}

/* One a replica: on an axis of its own, or on the replica axis. */
static bool is_count(const hn_type *t, int64_t replicas)
{
    return t->replicas > 1
               ? t->dtype == HN_F32 && hn_type_elements(t) == 1 && t->replicas == replicas
               : are_f32(t, replicas);
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *logits = &n->in[LOGITS]->type, *labels = &n->in[LABELS]->type;
    if (!hn_is_real(logits) || labels->dtype != HN_I32)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "logits f32 or bf16, labels i32");
    if (logits->ndim < 2 || labels->ndim != 1 || labels->dim[0] != hn_type_rows(logits))
        return HN_FAIL(HN_ERR_SHAPE, "logits [rows, classes], labels [rows]");
    const int64_t replicas = hn_type_elements(&n->in[LOSS_IN]->type);
    if (!are_f32(&n->in[LOSS_IN]->type, replicas) || !is_count(&n->in[COUNT_IN]->type, replicas) ||
        (n->in[HITS_IN] && !are_f32(&n->in[HITS_IN]->type, replicas)))
        return HN_FAIL(HN_ERR_SHAPE, "loss, count and hits are f32 [replicas]");
    if (hn_type_rows(logits) % replicas != 0)
        return HN_FAIL(HN_ERR_SHAPE, "the rows are no equal groups, one a replica");
    const int64_t rows = hn_type_rows(logits), classes = hn_type_cols(logits);
    const int64_t first = n->attr.class_ce.first_class, count = n->attr.class_ce.n_classes;
    if (first < 0 || count < 0 || first >= classes || count > classes - first)
        return HN_FAIL(HN_ERR_SHAPE, "the range of classes is not in the logits");
    if (n->attr.class_ce.want_dlogits ||
        (hn_graph_training(n->graph) && n->in[LOGITS]->needs_grad)) {
        out[DLOGITS] = *logits;
        out[DLOGITS].pitch = hn_type_2d(logits->dtype, rows, classes).pitch;
        out[DLOGITS].tail = 0;
    }
    if (n->attr.class_ce.want_row_loss) out[ROW_LOSS] = hn_type_1d(HN_F32, rows);
    if (n->attr.class_ce.want_prediction) out[PREDICTION] = hn_type_1d(HN_I32, rows);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    (void)g;
    (void)dout;
    if (n->in[LOGITS]->needs_grad) din[LOGITS] = n->out[DLOGITS];
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_class_ce_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_class_ce_cuda_scratch(&a) : hn_class_ce_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_class_ce_args a = args_of(n);
    return x->twin ? hn_class_ce_cpu(&a) : hn_class_ce_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_class_ce_args a = args_of(n);
    return hn_class_ce_cuda(&a, x->scratch, x->stream);
}

/* One block, a warp a row, a block a row; smoothing and none; whole rows and ranges. */
/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {6, 10}, 13}, {HN_I32, 1, {6}}, {HN_F32, 1, {1}}, {HN_F32, 1, {1}},
            {HN_F32, 1, {1}}},
     .attr.class_ce = {.smoothing = 0.1f, .want_row_loss = true, .want_prediction = true}},
    {.in = {{HN_F32, 2, {7, 12}}, {HN_I32, 1, {7}}, {HN_F32, 1, {1}}, {HN_F32, 1, {1}}},
     .attr.class_ce = {.first_class = 4, .n_classes = 5, .want_dlogits = true}},
    {.in = {{HN_BF16, 4, {70, 1, 1, 9}, 16}, {HN_I32, 1, {70}}, {HN_F32, 1, {1}}, {HN_F32, 1, {1}},
            {HN_F32, 1, {1}}},
     .attr.class_ce = {.first_class = 2, .smoothing = 0.2f, .want_dlogits = true,
                       .want_row_loss = true}},
    {.in = {{HN_F32, 2, {6, 10}}, {HN_I32, 1, {6}}, {HN_F32, 1, {3}}, {HN_F32, 1, {3}},
            {HN_F32, 1, {3}}},
     .attr.class_ce = {.want_dlogits = true}},
    {.in = {{HN_BF16, 2, {5, 600}}, {HN_I32, 1, {5}}, {HN_F32, 1, {1}}, {HN_F32, 1, {1}}},
     .attr.class_ce = {.n_classes = 531, .smoothing = 0.1f, .want_dlogits = true}},
    {.in = {{0}}},
};
/* clang-format on */

static bool fill(const hn_node *n, int k, void *data)
{
    if (k != LABELS) return false;
    const hn_class_ce_args a = args_of(n);
    const int64_t count = a.n_classes > 0 ? a.n_classes : a.classes - a.first_class;
    for (int64_t i = 0; i < a.rows; i++)
        ((int32_t *)data)[i] =
            i % 3 == 1 ? HN_LABEL_IGNORED : (int32_t)(a.first_class + i * 7 % count);
    return true;
}

const hn_op_def hn_op_class_ce = {
    .name = "class_ce",
    .n_in = 5,
    .n_out = 6,
    .optional = HN_BIT(HITS_IN),
    .alias = {1 + LOSS_IN, 1 + COUNT_IN, 1 + HITS_IN},
    .saved_out = HN_BIT(DLOGITS) | HN_BIT(ROW_LOSS) | HN_BIT(PREDICTION),
    .loss = true,
    .replicas = true,
    .infer = infer,
    .grad = grad,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
