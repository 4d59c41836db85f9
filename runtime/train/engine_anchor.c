/* The quadratic penalty of an engine, and the Fisher that it gathers. */
#include "runtime/train/engine_impl.h"

/* ---- recording ---- */

hn_status hn_engine_record_anchor(hn_engine *e, hn_tensor *grad)
{
    const hn_anchor *a = &e->o.anchor;
    const hn_flat *flat = hn_params_flat(e->params);
    e->values = e->ref = e->fisher = NULL; /* of an earlier plan */
    if (!(a->weight >= 0)) return HN_FAIL(HN_ERR_ARG, "anchor: weight %g", (double)a->weight);
    if (a->weight == 0 && !a->fisher) return HN_OK;
    if (a->fisher && e->o.replicas > 1)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "anchor: a Fisher in an engine with replicas");
    HN_TRY(
        hn_program_range(e->program, HN_MEM_TRAINED, "all values", HN_F32, 0, flat->n, &e->values));
    if (a->weight > 0)
        HN_TRY(hn_engine_vector(e, HN_MEM_STATE, "anchor.ref", HN_F32, flat->n, &e->ref));
    if (!a->fisher) return HN_OK;
    HN_TRY(hn_engine_vector(e, HN_MEM_STATE, "anchor.fisher", HN_F32, flat->n, &e->fisher));
    hn_tensor *const in[] = {e->fisher, grad, flat->count};
    const hn_attr attr = {.square_accumulate = {.keep = 1, .scale = 1}};
    HN_TRY(hn_graph_new(e->program, "square", false, &e->square));
    HN_TRY(hn_engine_record_sums(e, e->square));
    HN_TRY(hn_emit(e->square, HN_OP_SQUARE_ACCUMULATE, "square", in, &attr, NULL));
    HN_TRY(hn_engine_record_zero(e->square, grad));
    return hn_engine_record_zero(e->square, flat->count);
}

hn_status hn_engine_record_penalty(hn_engine *e, hn_tensor *grad)
{
    const hn_flat *flat = hn_params_flat(e->params);
    const hn_attr attr = {.anchor = {.weight = e->o.anchor.weight}};
    hn_tensor *const in[] = {e->values, e->ref, grad, e->fisher, flat->count, NULL};
    if (e->ref == NULL) return HN_OK;
    return hn_emit(e->update, HN_OP_ANCHOR, "anchor", in, &attr, NULL);
}

/* ---- what it holds ---- */

hn_status hn_engine_square(hn_engine *e)
{
    if (e->square == NULL)
        return HN_FAIL(HN_ERR_ARG, "squares of gradients, but the engine has no anchor with a "
                                   "Fisher, or does not train");
    e->counted = false; /* it clears the count */
    return hn_engine_run(e, e->square, false);
}

/* The part of a flat tensor that lies in it as q's values lie in the flat trained range. */
static hn_status anchor_part(const hn_engine *e, const hn_param *q, const hn_tensor *flat,
                             hn_tensor *out)
{
    if (flat == NULL || q->master == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: %s", q->name,
                       flat ? "not trained, so it has no anchor"
                            : "the engine's anchor has no such tensor");
    *out = *q->master;
    out->type.replicas = 0; /* all of them share it */
    out->data = (char *)flat->data + ((char *)q->master->data - (char *)e->values->data);
    return HN_OK;
}

hn_status hn_engine_anchor_get(const hn_engine *e, const hn_param *q, float *ref, float *fisher)
{
    hn_tensor part;
    if (ref) HN_TRY(anchor_part(e, q, e->ref, &part));
    if (ref) HN_TRY(hn_param_read(q, &part, ref));
    if (fisher) HN_TRY(anchor_part(e, q, e->fisher, &part));
    return fisher ? hn_param_read(q, &part, fisher) : HN_OK;
}

hn_status hn_engine_anchor_set(const hn_engine *e, const hn_param *q, const float *ref,
                               const float *fisher)
{
    hn_tensor part;
    if (ref) HN_TRY(anchor_part(e, q, e->ref, &part));
    if (ref) HN_TRY(hn_param_write(q, &part, ref));
    if (fisher) HN_TRY(anchor_part(e, q, e->fisher, &part));
    return fisher ? hn_param_write(q, &part, fisher) : HN_OK;
}
