/* Many short runs on one engine: clients of a round, one after the other or replica by replica. */
#include <string.h>

#include "runtime/graph/tensor.h"
#include "runtime/train/engine_impl.h"

void hn_engine_set_replicas(hn_engine *e, const hn_replica_step *r)
{
    memcpy(e->replica, r, (size_t)e->o.replicas * sizeof *r);
}

/* Of a run that has failed; their host memory is free when their steps are done. */
static hn_status drop_reports(hn_engine *e)
{
    for (; e->n_outcomes > 0; e->n_outcomes--) {
        HN_TRY(hn_device_fence_wait(e->outcome[e->first].done));
        e->first = (e->first + 1) % HN_ENGINE_AHEAD;
    }
    return HN_OK;
}

hn_status hn_engine_restart(hn_engine *e, uint64_t seed)
{
    HN_TRY(drop_reports(e));
    if (hn_params_sparse(e->params) != NULL) HN_TRY(hn_sparse_restart(hn_params_sparse(e->params)));
    for (int64_t g = 0; g < e->o.replicas; g++)
        e->replica[g] = (hn_replica_step){.seed = seed, .lr_scale = 1};
    HN_TRY(hn_program_spread(e->program, HN_MEM_TRAINED));
    HN_TRY(hn_program_spread(e->program, HN_MEM_WORK));
    HN_TRY(hn_program_clear(e->program, HN_MEM_MOMENT1));
    HN_TRY(hn_program_clear(e->program, HN_MEM_MOMENT2));
    HN_TRY(hn_program_clear(e->program, HN_MEM_AVERAGE));
    if (e->ref == NULL) return HN_OK;
    return hn_device_copy(hn_program_device(e->program), e->ref->data, e->values->data,
                          hn_type_bytes(&e->ref->type));
}
