/* whole, own = reduce_scatter(whole, own), in place: of the elements of `whole`, of which every
 * rank of the job gets an equal share, own becomes the sum over the ranks
 * (runtime/device/collective.h). own may be the rank's place in whole, whose other elements are not
 * specified afterwards. */
#include <inttypes.h>

#include "runtime/graph/graph_impl.h"
#include "runtime/graph/op_util.h"

enum { WHOLE, OWN }; /* inputs, and outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *whole = &n->in[WHOLE]->type, *own = &n->in[OWN]->type;
    (void)out;
    if (whole->dtype != HN_F32 || own->dtype != HN_F32)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "f32 only");
    if (whole->ndim != 1 || own->ndim != 1 || whole->dim[0] % own->dim[0] != 0)
        return HN_FAIL(HN_ERR_SHAPE, "whole [ranks n] and own [n]");
    return HN_OK;
}

/* On the CPU the sums are those of all_reduce, bit for bit. */
static hn_status prepare(hn_node *n, hn_device *device)
{
    const hn_collectives *c = hn_device_collectives(device);
    const bool cpu = hn_device_kind_of(device) == HN_DEVICE_CPU;
    if (c == NULL || c->ranks == 1) return HN_OK;
    n->note = hn_arena_text(&n->graph->program->arena, "ranks: %d, %s by %s", c->ranks,
                            cpu ? "sums" : "sums of shares", c->text);
    return n->note ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a line of the plan");
}

static hn_status run(const hn_node *n, hn_exec *x)
{
    const int64_t own = n->in[OWN]->type.dim[0], ranks = n->in[WHOLE]->type.dim[0] / own;
    const hn_collectives *c = x->collectives;
    const int there = c ? c->ranks : 1;
    if (ranks != there)
        return HN_FAIL(HN_ERR_ARG, "shares of %" PRId64 " ranks, %d are there", ranks, there);
    if (there == 1)
        return hn_device_copy(n->graph->program->device, n->in[OWN]->data, n->in[WHOLE]->data,
                              (size_t)own * sizeof(float));
    return c->reduce_scatter(c->context, n->in[WHOLE]->data, n->in[OWN]->data, own, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 1, {38}}, {HN_F32, 1, {38}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_reduce_scatter = {
    .name = "reduce_scatter",
    .n_in = 2,
    .n_out = 2,
    .alias = {1 + WHOLE, 1 + OWN},
    .over_ranks = true,
    .infer = infer,
    .prepare = prepare,
    .run_cpu = run,
    .run_cuda = run,
    .samples = samples,
};
