/* Frozen values of layers that ranks share: a range (runtime/graph/shards.h) a layer. */
#include <inttypes.h>
#include <stdio.h>

#include "runtime/adapt/params_impl.h"
#include "runtime/base/alloc.h"
#include "runtime/graph/shards.h"

/* Whether q is stored in the range of its layer; its border comes with it. */
static bool is_shared(const hn_param *q)
{
    return q->layer > 0 && !q->trained && !q->given && !q->buffer;
}

static hn_status check(const hn_params *p, const hn_program *program, const hn_params_options *o)
{
    if (hn_params_in_blocks(p))
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "weights that are trained in blocks cannot be shared by ranks");
    if (hn_params_have_magnitudes(p)) /* their norms are of whole weights, in every rank's memory */
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "weights of layers with DoRA's magnitudes cannot be shared by ranks");
    if (hn_program_replicas(program) > 1)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "a base that ranks share has no replicas");
    if (o->prefix != NULL)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "parameters beside others (%s) are not shared by ranks",
                       o->prefix);
    for (int64_t i = 0; i < p->n; i++)
        if (is_shared(p->param[i])) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "no layer of the model has frozen values to share");
}

hn_status hn_shared_open(hn_params *p, hn_program *program, const hn_params_options *o)
{
    int64_t layers = 0;
    if (o->ranks <= 1) return HN_OK;
    HN_TRY(check(p, program, o));
    for (int64_t i = 0; i < p->n; i++)
        if (p->param[i]->layer > layers) layers = p->param[i]->layer;
    HN_TRY(hn_program_share(program, o->ranks, o->rank));
    p->shard = hn_calloc((size_t)layers, sizeof(hn_shard *));
    if (p->shard == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " layers", layers);
    p->n_shards = layers;
    for (int64_t k = 0; k < layers; k++) {
        char name[32];
        bool any = false; /* a layer that is trained as a whole has nothing to share */
        for (int64_t i = 0; i < p->n && !any; i++)
            any = is_shared(p->param[i]) && p->param[i]->layer == k + 1;
        snprintf(name, sizeof name, "layer %" PRId64, k);
        if (any) HN_TRY(hn_shard_new(program, name, &p->shard[k]));
    }
    return HN_OK;
}

hn_status hn_shared_tensor(hn_params *p, hn_program *program, int64_t layer, const char *name,
                           const hn_type *type, hn_tensor **out)
{
    if (layer > 0 && layer <= p->n_shards && p->shard[layer - 1] != NULL)
        return hn_shard_tensor(p->shard[layer - 1], name, type, out);
    return hn_program_tensor(program, HN_MEM_WEIGHT, name, type, out);
}

static hn_status store(hn_tensor *master, hn_tensor *value)
{
    return value->mem == HN_MEM_GATHERED ? hn_shard_store(hn_shard_of(value), master, value)
                                         : HN_OK;
}

hn_status hn_shared_close(hn_params *p)
{
    if (p->n_shards == 0) return HN_OK;
    for (int64_t i = 0; i < p->n; i++)
        if (p->param[i]->trained && p->param[i]->stack == NULL)
            HN_TRY(store(p->param[i]->master, p->param[i]->value));
    for (int64_t i = 0; i < p->n_group; i++)
        if (p->group[i]->a_master != NULL) HN_TRY(store(p->group[i]->a_master, p->group[i]->a));
    return HN_OK;
}
