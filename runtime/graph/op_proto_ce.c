/* loss, count, hits, dfeatures, prediction, logits = proto_ce(features, labels, loss, count,
 * hits?); the mathematics is in kernels/loss/proto_ce.h. loss, count and hits, [1] or one a
 * replica, are added to in place; dfeatures is made here, in forward. */
#include "kernels/loss/proto_ce.h"
#include "runtime/graph/op_util.h"

enum { FEATURES, LABELS, LOSS_IN, COUNT_IN, HITS_IN };     /* inputs */
enum { LOSS, COUNT, HITS, DFEATURES, PREDICTION, LOGITS }; /* outputs; three first are inputs */

static void *data_of(const hn_tensor *t) { return t ? t->data : NULL; }

static int64_t replicas_of(const hn_node *n) { return hn_type_elements(&n->in[LOSS_IN]->type); }

static hn_proto_ce_args args_of(const hn_node *n)
{
    const hn_type *features = &n->in[FEATURES]->type;
    const hn_tensor *d = n->out[DFEATURES], *logits = n->out[LOGITS];
    const int64_t replicas = replicas_of(n), support = n->attr.proto_ce.support;
    return (hn_proto_ce_args){
        .features = n->in[FEATURES]->data,
        .labels = n->in[LABELS]->data,
        .loss_sum = n->in[LOSS_IN]->data,
        .count = n->in[COUNT_IN]->data,
        .hits = data_of(n->in[HITS_IN]),
        .dfeatures = data_of(d),
        .prediction = data_of(n->out[PREDICTION]),
        .logits = data_of(logits),
        .replicas = replicas,
        .support = support,
        .queries = hn_type_rows(features) / replicas - support,
        .width = hn_type_cols(features),
        .ways = n->attr.proto_ce.ways,
        .ld_features = hn_type_ld(features),
        .ld_dfeatures = d ? hn_type_ld(&d->type) : 0,
        .ld_logits = logits ? hn_type_ld(&logits->type) : 0,
        .count_stride = hn_replicas_of(n->in[COUNT_IN]) ? hn_replica_stride(n->in[COUNT_IN]) : 1,
        .scale = n->attr.proto_ce.scale,
        .offset = n->attr.proto_ce.offset,
        .dtype = features->dtype,
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
    const hn_type *features = &n->in[FEATURES]->type, *labels = &n->in[LABELS]->type;
    const int64_t support = n->attr.proto_ce.support, ways = n->attr.proto_ce.ways;
    if (!hn_is_real(features) || labels->dtype != HN_I32)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "features f32 or bf16, labels i32");
    const int64_t rows = hn_type_rows(features), replicas = replicas_of(n);
    if (features->ndim < 2 || labels->ndim != 1 || labels->dim[0] != rows)
        return HN_FAIL(HN_ERR_SHAPE, "features [rows, width], labels [rows]");
    if (!are_f32(&n->in[LOSS_IN]->type, replicas) || !is_count(&n->in[COUNT_IN]->type, replicas) ||
        (n->in[HITS_IN] && !are_f32(&n->in[HITS_IN]->type, replicas)))
        return HN_FAIL(HN_ERR_SHAPE, "loss, count and hits are f32 [replicas]");
    if (rows % replicas != 0)
        return HN_FAIL(HN_ERR_SHAPE, "the rows are no equal groups, one a replica");
    if (support < 1 || support >= rows / replicas)
        return HN_FAIL(HN_ERR_SHAPE, "a replica has %lld rows, %lld of them support",
                       (long long)(rows / replicas), (long long)support);
    if (ways < 1 || ways > HN_PROTO_WAYS)
        return HN_FAIL(HN_ERR_SHAPE, "%lld ways, must be 1 to %d", (long long)ways, HN_PROTO_WAYS);
    if (n->attr.proto_ce.want_dfeatures ||
        (hn_graph_training(n->graph) && n->in[FEATURES]->needs_grad))
        out[DFEATURES] = hn_type_fresh(features);
    const int64_t queries = rows - replicas * support;
    if (n->attr.proto_ce.want_prediction) out[PREDICTION] = hn_type_1d(HN_I32, queries);
    if (n->attr.proto_ce.want_logits) out[LOGITS] = hn_type_2d(HN_F32, queries, ways);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    (void)g;
    (void)dout;
    if (n->in[FEATURES]->needs_grad) din[FEATURES] = n->out[DFEATURES];
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_proto_ce_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_proto_ce_cuda_scratch(&a) : hn_proto_ce_cpu_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_proto_ce_args a = args_of(n);
    return hn_proto_ce_cpu(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_proto_ce_args a = args_of(n);
    return hn_proto_ce_cuda(&a, x->scratch, x->stream);
}

/* One episode and several; on CUDA in shared memory and (60 classes) in scratch. */
/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {14, 6}, 9}, {HN_I32, 1, {14}}, {HN_F32, 1, {1}}, {HN_F32, 1, {1}},
            {HN_F32, 1, {1}}},
     .attr.proto_ce = {.support = 7, .ways = 3, .scale = 4, .offset = 0.5f,
                       .want_prediction = true, .want_logits = true}},
    {.in = {{HN_F32, 2, {36, 5}}, {HN_I32, 1, {36}}, {HN_F32, 1, {3}}, {HN_F32, 1, {3}}},
     .attr.proto_ce = {.support = 7, .ways = 2, .scale = 2, .want_dfeatures = true}},
    {.in = {{HN_BF16, 4, {60, 1, 1, 192}}, {HN_I32, 1, {60}}, {HN_F32, 1, {2}}, {HN_F32, 1, {2}},
            {HN_F32, 1, {2}}},
     .attr.proto_ce = {.support = 20, .ways = 5, .scale = 10, .want_dfeatures = true}},
    {.in = {{HN_BF16, 2, {100, 90}}, {HN_I32, 1, {100}}, {HN_F32, 1, {1}}, {HN_F32, 1, {1}}},
     .attr.proto_ce = {.support = 80, .ways = 60, .scale = 10, .want_prediction = true}},
    {.in = {{0}}},
};
/* clang-format on */

/* Every class has support: the samples' logits are finite; padding among both kinds of rows. */
static bool fill(const hn_node *n, int k, void *data)
{
    if (k != LABELS) return false;
    const hn_proto_ce_args a = args_of(n);
    const int64_t rows = a.support + a.queries;
    for (int64_t i = 0; i < a.replicas * rows; i++) {
        const int64_t j = i % rows;
        const bool padding = j < a.support ? j >= a.ways && j % 4 == 1 : j % 5 == 3;
        ((int32_t *)data)[i] = padding ? HN_LABEL_IGNORED : (int32_t)((j + i / rows) % a.ways);
    }
    return true;
}

const hn_op_def hn_op_proto_ce = {
    .name = "proto_ce",
    .n_in = 5,
    .n_out = 6,
    .optional = HN_BIT(HITS_IN),
    .alias = {1 + LOSS_IN, 1 + COUNT_IN, 1 + HITS_IN},
    .saved_out = HN_BIT(DFEATURES) | HN_BIT(PREDICTION) | HN_BIT(LOGITS),
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
