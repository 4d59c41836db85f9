/* Steps that gather for a selection of blocks: runtime/adapt/sparse.h says what is gathered. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/train/engine_impl.h"

/* ---- recording ---- */

static hn_status record_norm(hn_engine *e, hn_graph *g, hn_tensor *grad)
{
    hn_tensor *in[] = {grad, hn_params_flat(e->params)->count, e->step};
    return hn_emit(g, HN_OP_GRAD_NORM, "grad_norm", in, NULL, NULL);
}

/* By what the update will scale, before it does. */
static hn_status record_window_norm(hn_engine *e, hn_graph *g)
{
    const int64_t n = hn_params_flat(e->params)->n;
    hn_tensor *grad;
    HN_TRY(hn_program_range(e->program, HN_MEM_GRAD, "window gradients", HN_F32, 0, n, &grad));
    return record_norm(e, g, grad);
}

static hn_status record(hn_engine *e, hn_gather what, int64_t group, const hn_job_sums *sums,
                        hn_engine_gathering *out)
{
    const hn_job_pass pass = hn_engine_pass(e);
    hn_sparse *s = hn_params_sparse(e->params);
    const char *kind = what == HN_GATHER_WINDOW ? "window" : "score";
    char name[64];
    hn_sparse_record(s, what, group, sums->count);
    snprintf(name, sizeof name, "%s %" PRId64, kind, group);
    HN_TRY(hn_graph_new(e->program, name, true, &out->micro));
    HN_TRY(e->o.job->loss(e->o.job, &pass, out->micro, sums));
    HN_TRY(hn_graph_backward(out->micro, 0, NULL, NULL));
    if (what == HN_GATHER_SCORES && e->o.sparse.select_memory == 0) return HN_OK;
    snprintf(name, sizeof name, "%s end %" PRId64, kind, group);
    HN_TRY(hn_graph_new(e->program, name, false, &out->end));
    hn_tensor *shared, *gathered;
    HN_TRY(hn_sparse_record_gathered(s, out->end, what, group, &gathered));
    HN_TRY(hn_engine_sums(e, what == HN_GATHER_WINDOW, &shared));
    HN_TRY(hn_engine_record_shared(e, out->end, shared, gathered));
    if (what == HN_GATHER_WINDOW) HN_TRY(record_window_norm(e, out->end));
    HN_TRY(hn_sparse_record_end(s, out->end, what, group));
    return hn_engine_record_unshared(e, out->end, shared);
}

hn_status hn_engine_record_gathering(hn_engine *e, const hn_job_sums *sums)
{
    hn_sparse *s = hn_params_sparse(e->params);
    const int64_t groups = s ? hn_sparse_groups(s) : 0;
    memset(e->scores, 0, sizeof e->scores); /* of an earlier plan */
    e->window = (hn_engine_gathering){NULL};
    e->discard = NULL;
    if (hn_engine_ranks(e) > 1 && groups > 0 && e->o.sparse.select_memory == 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "scores of blocks on %" PRId64
                       " ranks want memory for dense gradients, to add them up",
                       hn_engine_ranks(e));
    for (int64_t k = 0; k < groups; k++)
        HN_TRY(record(e, HN_GATHER_SCORES, k, sums, &e->scores[k]));
    if (s == NULL || !hn_sparse_watches(s)) return HN_OK;
    return record(e, HN_GATHER_WINDOW, 0, sums, &e->window);
}

hn_status hn_engine_record_discard(hn_engine *e, hn_tensor *grad)
{
    HN_TRY(hn_graph_new(e->program, "discard", false, &e->discard));
    HN_TRY(hn_engine_record_sums(e, e->discard));
    HN_TRY(record_norm(e, e->discard, grad));
    HN_TRY(hn_engine_record_zero(e->discard, grad));
    return hn_engine_record_zero(e->discard, hn_params_flat(e->params)->count);
}

/* Giving it back behind a first selection would leave the peak of the run as it is: that is inside
 * the selection, which runs forward and backward like a step. */
void hn_engine_selection_text(const hn_engine *e, char *text, size_t size)
{
    const hn_sparse *s = hn_params_sparse(e->params);
    const size_t bytes = s ? hn_sparse_selection_bytes(s) : 0;
    text[0] = '\0';
    if (bytes == 0) return;
    snprintf(text, size, "selection of blocks: %.4f GiB of the tables%s\n", (double)bytes / 0x1p30,
             e->o.sparse.once ? ", once, before training; it stays: the peak is there" : "");
}

/* ---- steps ---- */

static int64_t group_of(const hn_engine *e)
{
    hn_sparse *s = hn_params_sparse(e->params);
    return hn_sparse_progress_of(s)->score_steps % hn_sparse_groups(s);
}

static const hn_engine_gathering *gathering(const hn_engine *e)
{
    return e->gather == HN_GATHER_WINDOW ? &e->window : &e->scores[group_of(e)];
}

hn_status hn_engine_gather(hn_engine *e, hn_gather what)
{
    if ((what == HN_GATHER_WINDOW && e->window.micro == NULL) ||
        (what == HN_GATHER_SCORES && e->scores[0].micro == NULL))
        return HN_FAIL(HN_ERR_ARG,
                       "%s of blocks are to be gathered, but the engine selects none "
                       "by them while it trains",
                       what == HN_GATHER_WINDOW ? "gradients" : "scores");
    e->wanted = what;
    return HN_OK;
}

hn_status hn_engine_gathering_micro(const hn_engine *e, int64_t index, const hn_graph **out)
{
    *out = gathering(e)->micro;
    if (e->gather == HN_GATHER_WINDOW || e->o.sparse.select_memory > 0 || index == 0) return HN_OK;
    return HN_FAIL(HN_ERR_ARG,
                   "scores of micro-batch %" PRId64
                   " of a step: without memory for dense gradients a step has one",
                   index);
}

const hn_graph *hn_engine_gathering_end(const hn_engine *e)
{
    return e->gather == HN_GATHER_NOTHING ? NULL : gathering(e)->end;
}

void hn_engine_count_gathered(hn_engine *e)
{
    if (e->gather == HN_GATHER_NOTHING) return;
    hn_sparse_progress *p = hn_sparse_progress_of(hn_params_sparse(e->params));
    if (e->gather == HN_GATHER_WINDOW)
        p->window_steps++;
    else
        p->score_steps++;
    e->gather = HN_GATHER_NOTHING;
}
