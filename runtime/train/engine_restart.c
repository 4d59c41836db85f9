/* Many short runs on one engine: clients of a round, one after the other. */
#include "runtime/train/engine_impl.h"

static hn_status record_zeros(hn_engine *e, hn_mem mem, const char *name)
{
    const hn_flat *flat = hn_params_flat(e->params);
    hn_tensor *moment;
    HN_TRY(hn_program_range(e->program, mem, name, HN_F32, 0, flat->n, &moment));
    return hn_engine_record_zero(e->restart, moment);
}

hn_status hn_engine_record_restart(hn_engine *e)
{
    const hn_optimizer *o = &e->o.optimizer;
    const bool adamw = o->kind == HN_OPTIMIZER_ADAMW;
    hn_tensor *const in[] = {e->values, e->ref};
    e->restart = NULL; /* of an earlier plan */
    if (!e->o.restarts) return HN_OK;
    if (hn_params_sparse(e->params) != NULL)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "an engine that restarts, with blocks that are trained");
    if (!adamw && o->momentum == 0 && e->ref == NULL) return HN_OK;
    HN_TRY(hn_graph_new(e->program, "restart", false, &e->restart));
    if (adamw || o->momentum > 0) HN_TRY(record_zeros(e, HN_MEM_MOMENT1, "first moments"));
    if (adamw) HN_TRY(record_zeros(e, HN_MEM_MOMENT2, "second moments"));
    return e->ref ? hn_emit(e->restart, HN_OP_STORE, "anchor.ref", in, NULL, NULL) : HN_OK;
}

hn_status hn_engine_restart(hn_engine *e, uint64_t seed)
{
    const hn_run_options o = {.step = e->step->data};
    if (!e->o.restarts) return HN_FAIL(HN_ERR_ARG, "an engine that was not made to restart");
    if (e->n_outcomes > 0) return HN_FAIL(HN_ERR_ARG, "the reports of steps have not been taken");
    for (int i = 0; i < HN_ENGINE_STAGES; i++)
        if (e->stage[i].used) HN_TRY(hn_device_fence_wait(e->stage[i].sent));
    e->o.seed = seed;
    for (int i = 0; i < HN_ENGINE_STAGES; i++) hn_engine_set_constants(e, e->stage[i].step);
    for (int i = 0; i < HN_ENGINE_AHEAD; i++) hn_engine_set_constants(e, e->outcome[i].step);
    return e->restart ? hn_graph_run(e->restart, &o) : HN_OK;
}
