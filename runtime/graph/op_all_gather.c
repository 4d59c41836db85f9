/* whole = all_gather(own, whole), in place: the bytes of all ranks of the job, in their order
 * (runtime/device/collective.h). own may be the rank's place in whole. Who records it: shards.c,
 * and updates of which every rank makes a share. */
#include <inttypes.h>

#include "runtime/graph/graph_impl.h"
#include "runtime/graph/op_util.h"

enum { OWN, WHOLE }; /* inputs; the only output is WHOLE */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *own = &n->in[OWN]->type, *whole = &n->in[WHOLE]->type;
    (void)out;
    if (own->dtype != HN_U8 || whole->dtype != HN_U8 || own->ndim != 1 || whole->ndim != 1 ||
        whole->dim[0] % own->dim[0] != 0)
        return HN_FAIL(HN_ERR_SHAPE, "bytes: own [n] and whole [ranks n]");
    return HN_OK;
}

static hn_status run(const hn_node *n, hn_exec *x)
{
    const int64_t bytes = n->in[OWN]->type.dim[0], ranks = n->in[WHOLE]->type.dim[0] / bytes;
    const hn_collectives *c = x->collectives;
    const int there = c ? c->ranks : 1;
    if (ranks != there)
        return HN_FAIL(HN_ERR_ARG, "shares of %" PRId64 " ranks, %d are there", ranks, there);
    if (there == 1)
        return hn_device_copy(n->graph->program->device, n->in[WHOLE]->data, n->in[OWN]->data,
                              (size_t)bytes);
    return c->all_gather(c->context, n->in[OWN]->data, n->in[WHOLE]->data, (size_t)bytes,
                         x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_U8, 1, {64}}, {HN_U8, 1, {64}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_all_gather = {
    .name = "all_gather",
    .n_in = 2,
    .n_out = 1,
    .alias = {1 + WHOLE},
    .over_ranks = true,
    .infer = infer,
    .run_cpu = run,
    .run_cuda = run,
    .samples = samples,
};
