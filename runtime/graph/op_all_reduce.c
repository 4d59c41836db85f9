/* a, b, c = all_reduce(a, b?, c?), in place: sums over the ranks of the job
 * (runtime/device/collective.h), all operands and replicas in one call. One rank: as they are. */
#include "runtime/base/check.h"
#include "runtime/graph/graph_impl.h"
#include "runtime/graph/op_util.h"

enum { OPERANDS = 3 };

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    for (int k = 0; k < OPERANDS; k++) {
        const hn_type *t = n->in[k] ? &n->in[k]->type : NULL;
        if (t == NULL) continue;
        if (t->dtype != HN_F32) return HN_FAIL(HN_ERR_UNSUPPORTED, "operand %d is not f32", k);
        if (hn_type_rows(t) > 1 && hn_type_ld(t) != hn_type_cols(t))
            return HN_FAIL(HN_ERR_SHAPE, "operand %d has gaps between its rows", k);
    }
    return HN_OK;
}

static const hn_collectives *job_of(const hn_device *d)
{
    const hn_collectives *c = hn_device_collectives(d);
    return c != NULL && c->ranks > 1 ? c : NULL;
}

static hn_status prepare(hn_node *n, hn_device *device)
{
    const hn_collectives *c = job_of(device);
    if (c == NULL) return HN_OK;
    n->note = hn_arena_text(&n->graph->program->arena, "ranks: %d, sums by %s", c->ranks, c->text);
    return n->note ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a line of the plan");
}

static hn_status run(const hn_node *n, hn_exec *x)
{
    hn_collective_span span[OPERANDS];
    int n_spans = 0;
    if (x->collectives == NULL || x->collectives->ranks == 1) return HN_OK;
    for (int k = 0; k < OPERANDS; k++) {
        const hn_tensor *t = n->in[k];
        if (t == NULL) continue;
        span[n_spans++] = (hn_collective_span){.data = t->data,
                                               .n = hn_type_elements(&t->type),
                                               .copies = hn_replica_count(t->type.replicas),
                                               .stride = hn_replica_stride(t)};
    }
    return x->collectives->all_reduce(x->collectives->context, span, n_spans, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 1, {38}}}},
    {.in = {{HN_F32, 1, {1001}}, {HN_F32, 1, {1}}, {HN_F32, 2, {3, 4}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_all_reduce = {
    .name = "all_reduce",
    .n_in = OPERANDS,
    .n_out = OPERANDS,
    .optional = HN_BIT(1) | HN_BIT(2),
    .alias = {1, 2, 3},
    .replicas = true,
    .over_ranks = true,
    .infer = infer,
    .prepare = prepare,
    .run_cpu = run,
    .run_cuda = run,
    .samples = samples,
};
