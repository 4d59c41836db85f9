#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/engine_impl.h"

hn_recompute hn_recompute_of(const char *name)
{
    if (name == NULL || strcmp(name, "off") == 0) return HN_RECOMPUTE_OFF;
    return strcmp(name, "on") == 0 ? HN_RECOMPUTE_ON : HN_RECOMPUTE_AUTO;
}

/* What record has made. */
static void drop_record(hn_engine *e)
{
    if (e->o.job->release) e->o.job->release(e->o.job);
    hn_params_free(e->params);
    hn_program_free(e->program);
    e->params = NULL;
    e->program = NULL;
    e->sums = NULL;
}

void hn_engine_free(hn_engine *e)
{
    if (e == NULL) return;
    if (e->pinned) { /* nothing may be on its way to or from it */
        (void)!hn_device_wait(hn_program_device(e->program));
        hn_device_release_host(hn_program_device(e->program), e->pinned);
    }
    hn_device_graph_free(e->whole);
    for (int i = 0; i < HN_ENGINE_STAGES; i++) hn_device_fence_free(e->stage[i].sent);
    for (int i = 0; i < HN_ENGINE_AHEAD; i++) hn_device_fence_free(e->outcome[i].done);
    drop_record(e);
    hn_free(e->replica);
    hn_free(e);
}

hn_program *hn_engine_program(const hn_engine *e) { return e->program; }
hn_params *hn_engine_params(const hn_engine *e) { return e->params; }
int64_t hn_engine_replicas(const hn_engine *e) { return e->o.replicas; }

hn_status hn_engine_vector(hn_engine *e, hn_mem mem, const char *name, hn_dtype dtype, int64_t n,
                           hn_tensor **out)
{
    const hn_type type = hn_type_1d(dtype, n);
    return hn_program_tensor(e->program, mem, name, &type, out);
}

static bool has_batch(const hn_engine *e) { return e->o.job->rows > 0; }

hn_job_pass hn_engine_pass(const hn_engine *e)
{
    return (hn_job_pass){.params = e->params,
                         .in = e->field,
                         .gpu = e->o.executor != HN_EXECUTOR_CPU, /* chosen by now */
                         .recompute = e->recomputed};
}

static hn_status record_micro(hn_engine *e)
{
    const hn_job_sums sums = {e->loss, hn_params_flat(e->params)->count, NULL};
    const hn_job_pass pass = hn_engine_pass(e);
    HN_TRY(hn_graph_new(e->program, "begin", false, &e->begin));
    HN_TRY(hn_engine_record_zero(e->begin, sums.loss));
    HN_TRY(hn_engine_record_zero(e->begin, sums.count));
    HN_TRY(hn_graph_new(e->program, "micro", true, &e->micro));
    HN_TRY(e->o.job->loss(e->o.job, &pass, e->micro, &sums));
    HN_TRY(hn_graph_backward(e->micro, 0, NULL, NULL));
    return hn_engine_record_gathering(e, &sums);
}

static hn_attr adamw_of(const hn_optimizer *o, double decay)
{
    return (hn_attr){.adamw = {.beta1 = (float)o->beta1,
                               .beta2 = (float)o->beta2,
                               .eps = (float)o->eps,
                               .weight_decay = (float)decay,
                               .lr_scale = 1.0f}};
}

int hn_engine_moments(const hn_engine *e)
{
    const hn_optimizer *o = &e->o.optimizer;
    return o->kind == HN_OPTIMIZER_ADAMW ? 2 : o->momentum > 0;
}

hn_status hn_engine_record_optimizer(hn_engine *e, const char *name, hn_tensor *const from[4],
                                     hn_tensor *work, double decay)
{
    const hn_optimizer *o = &e->o.optimizer;
    const bool adamw = o->kind == HN_OPTIMIZER_ADAMW;
    hn_tensor *in[5] = {NULL};
    for (int k = 0; k < 2 + hn_engine_moments(e); k++) in[k] = from[k];
    in[adamw ? 4 : 3] = work;
    const hn_attr adamw_attr = adamw_of(o, decay);
    const hn_attr sgd_attr = {.sgd = {.momentum = (float)o->momentum,
                                      .weight_decay = (float)decay,
                                      .lr_scale = 1.0f,
                                      .nesterov = o->nesterov}};
    return hn_emit(e->update, adamw ? HN_OP_ADAMW : HN_OP_SGD, name, in,
                   adamw ? &adamw_attr : &sgd_attr, NULL);
}

/* The update of elements first .. first+n-1 of the flat trained range. The last one clears the
 * count, which lies behind the gradients, with them. */
static hn_status record_range(hn_engine *e, const char *name, int64_t first, int64_t n,
                              double decay)
{
    static const hn_mem mems[] = {HN_MEM_TRAINED, HN_MEM_GRAD, HN_MEM_MOMENT1, HN_MEM_MOMENT2};
    hn_tensor *in[4] = {NULL}, *work = NULL;
    const bool last = first + n == hn_params_flat(e->params)->n;
    if (n == 0) return HN_OK;
    for (int k = 0; k < 2 + hn_engine_moments(e); k++)
        HN_TRY(hn_program_range(e->program, mems[k], name, HN_F32, first,
                                n + (last && mems[k] == HN_MEM_GRAD), &in[k]));
    if (hn_params_flat(e->params)->work)
        HN_TRY(hn_program_range(e->program, HN_MEM_WORK, name, e->o.dtype, first, n, &work));
    return hn_engine_record_optimizer(e, name, in, work, decay);
}

/* Of the values behind the update. */
static hn_status record_average(hn_engine *e)
{
    const int64_t n = hn_params_flat(e->params)->n;
    const hn_attr attr = {.moving_average = {.decay = (float)e->o.average}};
    hn_tensor *in[2];
    if (e->o.average == 0) return HN_OK;
    HN_TRY(hn_program_range(e->program, HN_MEM_AVERAGE, "averages", HN_F32, 0, n, &in[0]));
    HN_TRY(hn_program_range(e->program, HN_MEM_TRAINED, "averaged", HN_F32, 0, n, &in[1]));
    return hn_emit(e->update, HN_OP_MOVING_AVERAGE, "average", in, &attr, NULL);
}

static hn_status record_update(hn_engine *e)
{
    const hn_flat *flat = hn_params_flat(e->params);
    hn_tensor *grad;
    if (hn_params_split(e->params) != NULL) return hn_engine_record_split_update(e);
    HN_TRY(hn_program_range(e->program, HN_MEM_GRAD, "all gradients", HN_F32, 0, flat->n, &grad));
    HN_TRY(hn_engine_record_anchor(e, grad));
    HN_TRY(hn_graph_new(e->program, "update", false, &e->update));
    HN_TRY(hn_engine_record_sums(e, e->update));
    HN_TRY(hn_engine_record_penalty(e, grad));
    hn_tensor *in[] = {grad, flat->count, e->step};
    HN_TRY(hn_emit(e->update, HN_OP_GRAD_NORM, "grad_norm", in, NULL, NULL));
    HN_TRY(record_range(e, "decayed", 0, flat->n_decay, e->o.optimizer.weight_decay));
    HN_TRY(record_range(e, "not decayed", flat->n_decay, flat->n_dense - flat->n_decay, 0));
    if (hn_params_sparse(e->params) != NULL) {
        const hn_attr blocks = adamw_of(&e->o.optimizer, e->o.optimizer.weight_decay);
        HN_TRY(hn_sparse_record_update(hn_params_sparse(e->params), e->update, &blocks));
        HN_TRY(hn_engine_record_zero(e->update, flat->count));
        HN_TRY(hn_engine_record_discard(e, grad));
    }
    HN_TRY(hn_params_refresh(e->params, e->update));
    return record_average(e);
}

static hn_status record_eval(hn_engine *e)
{
    const hn_job_pass pass = hn_engine_pass(e);
    hn_job_sums *s = &e->eval_sums;
    const int64_t n = e->o.replicas;
    HN_TRY(hn_engine_vector(e, HN_MEM_STATE, "eval_loss", HN_F32, n, &s->loss));
    HN_TRY(hn_engine_vector(e, HN_MEM_STATE, "eval_count", HN_F32, n, &s->count));
    if (e->o.job->hits) HN_TRY(hn_engine_vector(e, HN_MEM_STATE, "eval_hits", HN_F32, n, &s->hits));
    HN_TRY(hn_graph_new(e->program, "eval_begin", false, &e->eval_begin));
    HN_TRY(hn_engine_record_zero(e->eval_begin, s->loss));
    HN_TRY(hn_engine_record_zero(e->eval_begin, s->count));
    if (s->hits) HN_TRY(hn_engine_record_zero(e->eval_begin, s->hits));
    HN_TRY(hn_graph_new(e->program, "eval", false, &e->eval));
    return e->o.job->loss(e->o.job, &pass, e->eval, s);
}

static hn_status record_probe(hn_engine *e)
{
    const hn_job_pass pass = hn_engine_pass(e);
    HN_TRY(hn_graph_new(e->program, "logits", false, &e->probe));
    return e->o.job->probe(e->o.job, &pass, e->probe);
}

static hn_status record_batch(hn_engine *e)
{
    const hn_job *j = e->o.job;
    for (int k = 0; k < j->n_fields; k++) {
        const hn_field *f = &j->field[k];
        HN_TRY(hn_program_tensor(e->program, HN_MEM_INPUT, f->name, &f->type, &e->field[k]));
    }
    if (e->o.train) HN_TRY(record_micro(e));
    if (e->o.train) HN_TRY(record_update(e));
    return e->o.eval ? record_eval(e) : HN_OK;
}

static hn_status check_replicas(const hn_engine *e)
{
    const int64_t n = e->o.replicas, rows = e->o.job->rows;
    if (rows % n == 0) return HN_OK;
    return HN_FAIL(
        HN_ERR_SHAPE,
        "a micro-batch of %" PRId64 " rows is no %" PRId64 " equal groups, one a replica", rows, n);
}

static hn_status record(hn_engine *e)
{
    const hn_engine_options *o = &e->o;
    const bool gpu = o->executor != HN_EXECUTOR_CPU; /* chosen by now */
    const int64_t shares = o->base_shares > 1 ? o->base_shares : 1;
    const int64_t split = o->train && o->zero_ranks > 1 ? o->zero_ranks : 1;
    HN_TRY(check_replicas(e));
    if (!(o->average >= 0 && o->average < 1))
        return HN_FAIL(HN_ERR_ARG, "average: decay %g, must be in [0, 1)", o->average);
    HN_TRY(hn_program_new(o->replicas, &e->program));
    HN_TRY(hn_params_new(o->adapt, &e->params));
    HN_TRY(o->job->declare(o->job, e->params));
    if (o->average > 0 && hn_params_in_blocks(e->params))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "average: blocks of weights are trained");
    if (o->train && hn_params_trained(e->params) == 0 && !hn_params_in_blocks(e->params))
        return HN_FAIL(HN_ERR_ARG, "nothing to train: no parameter of the model was chosen");
    const hn_params_options po = {.dtype = o->dtype,
                                  .moments = hn_engine_moments(e),
                                  .gradients = o->train,
                                  .average = o->average > 0,
                                  .fuse = hn_fuse_rule_of(o->dtype, gpu),
                                  .border = gpu && o->dtype == HN_BF16,
                                  .ranks = o->base_shares,
                                  .rank = (int)(hn_engine_rank(e) % shares),
                                  .split_ranks = (int)split,
                                  .split_rank = (int)(hn_engine_rank(e) % split),
                                  .sparse = o->sparse};
    HN_TRY(hn_params_create(e->params, e->program, &po));
    if (o->job->tables) HN_TRY(o->job->tables(o->job, e->program));
    const int64_t block = sizeof(hn_step_block);
    HN_TRY(hn_engine_vector(e, HN_MEM_INPUT, "loss", HN_F32, o->replicas, &e->loss));
    HN_TRY(hn_engine_vector(e, HN_MEM_INPUT, "step block", HN_U8, o->replicas * block, &e->step));
    HN_TRY(hn_engine_vector(e, HN_MEM_INPUT, "stop", HN_F32, 1, &e->stop));
    if (has_batch(e)) HN_TRY(record_batch(e));
    if (o->job->probe) HN_TRY(record_probe(e));
    const hn_plan_options plan = {.device = o->device,
                                  .memory = o->memory,
                                  .side = o->side,
                                  .side_sms = o->side_sms,
                                  .workspace = o->workspace};
    return hn_plan_build(e->program, &plan);
}

/* ---- how many layers run again in backward ---- */

/* The plan anew, with the first n layers running again. */
static hn_status record_with(hn_engine *e, int64_t n)
{
    if (e->program != NULL && n == e->recomputed) return HN_OK;
    drop_record(e);
    e->recomputed = n;
    return record(e);
}

/* Plan and measurement agree to 2 % of the plan; half of that is left free, so that a plan that
 * just fits does so. */
enum { MARGIN_SHARE = 100 };

static hn_status fits(const hn_engine *e, bool *out)
{
    size_t free_bytes, total_bytes;
    HN_TRY(hn_device_memory(hn_program_device(e->program), &free_bytes, &total_bytes));
    return hn_plan_fits(e->program, free_bytes / MARGIN_SHARE, out, NULL);
}

/* As few as fit; all, when even that is not enough: the one who takes the memory says so. (The last
 * layer runs again right before its own backward: in a small model that may take more than it
 * saves.) */
static hn_status record_to_fit(hn_engine *e)
{
    int64_t too_few = 0, enough = e->o.job->layers;
    bool fit;
    HN_TRY(record_with(e, 0));
    HN_TRY(fits(e, &fit));
    if (fit || !e->o.train) return HN_OK;
    HN_TRY(record_with(e, enough));
    HN_TRY(fits(e, &fit));
    if (!fit && enough > 1) {
        HN_TRY(record_with(e, enough - 1));
        HN_TRY(fits(e, &fit));
        if (fit) enough--;
    }
    while (fit && enough - too_few > 1) {
        const int64_t n = too_few + (enough - too_few) / 2;
        bool n_fit;
        HN_TRY(record_with(e, n));
        HN_TRY(fits(e, &n_fit));
        if (n_fit)
            enough = n;
        else
            too_few = n;
    }
    return record_with(e, enough);
}

static hn_status record_plan(hn_engine *e)
{
    if (e->o.recompute == HN_RECOMPUTE_AUTO) return record_to_fit(e);
    return record_with(e, e->o.recompute == HN_RECOMPUTE_ON ? e->o.job->layers : 0);
}

int64_t hn_engine_recomputed(const hn_engine *e) { return e->recomputed; }

char *hn_engine_plan_text(const hn_engine *e)
{
    char line[160] = "";
    bool fit = true;
    size_t room = 0;
    char *plan = hn_plan_text(e->program), *text = NULL;
    if (plan == NULL || hn_plan_fits(e->program, 0, &fit, &room) != HN_OK) goto done;
    if (e->recomputed > 0 && e->o.recompute == HN_RECOMPUTE_AUTO && fit)
        snprintf(line, sizeof line,
                 "recompute: %" PRId64 " of %" PRId64 " layers, to fit %.1f GiB\n", e->recomputed,
                 e->o.job->layers, (double)room / 0x1p30);
    else if (e->recomputed > 0 && e->recomputed == e->o.job->layers)
        snprintf(line, sizeof line, "recompute: all %" PRId64 " layers\n", e->recomputed);
    else if (e->recomputed > 0) /* it did fit: somebody else has taken memory since */
        snprintf(line, sizeof line, "recompute: %" PRId64 " of %" PRId64 " layers\n", e->recomputed,
                 e->o.job->layers);
    char selection[200], split[200];
    hn_engine_selection_text(e, selection, sizeof selection);
    hn_engine_split_text(e, split, sizeof split);
    text = fit ? hn_asprintf("%s%s%s%s", plan, split, selection, line)
               : hn_asprintf("%s%s%s%sit does not fit: there are %.4f GiB\n", plan, split,
                             selection, line, (double)room / 0x1p30);

done:
    hn_free(plan);
    return text;
}

hn_executor hn_engine_executor(const hn_engine *e) { return e->o.executor; }

void hn_engine_profile(hn_engine *e, hn_profile *p) { e->profile = p; }

static hn_status make_replicas(hn_engine *e)
{
    const size_t n = (size_t)e->o.replicas;
    e->replica = hn_calloc(n, sizeof *e->replica);
    if (e->replica == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %zu replicas", n);
    for (size_t g = 0; g < n; g++)
        e->replica[g] = (hn_replica_step){.seed = e->o.seed, .lr_scale = 1};
    return HN_OK;
}

hn_status hn_engine_new(const hn_engine_options *o, hn_engine **out)
{
    hn_engine *e = hn_calloc(1, sizeof *e);
    if (e == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for an engine", sizeof *e);
    e->o = *o;
    e->o.replicas = o->replicas > 1 ? o->replicas : 1;
    hn_status st = o->replicas < 0 ? HN_FAIL(HN_ERR_ARG, "%" PRId64 " replicas", o->replicas)
                                   : make_replicas(e);
    if (st == HN_OK) st = hn_executor_choose(o->executor, o->device, &e->o.executor);
    if (st == HN_OK) st = record_plan(e);
    if (st != HN_OK)
        hn_engine_free(e);
    else
        *out = e;
    return st;
}

/* ---- memory, and the first run of every variant ---- */

/* From the begin of `from` to the end of `to`, which lies behind it. */
static size_t span(const hn_tensor *from, const hn_tensor *to)
{
    return (size_t)((const char *)to->data - (const char *)from->data) + hn_type_bytes(&to->type);
}

/* From `first` to the end of the batch. */
static size_t stage_bytes(const hn_engine *e, const hn_tensor *first)
{
    const int n = has_batch(e) ? e->o.job->n_fields : 0;
    return span(first, n > 0 ? e->field[n - 1] : e->stop);
}

/* From the loss to stop, and from the step block on. */
static size_t back_bytes(const hn_engine *e) { return span(e->loss, e->stop); }
static size_t update_bytes(const hn_engine *e) { return span(e->step, e->stop); }

static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* The place of t in memory at `base` that lies as the device's does from `first` on. */
static void *place_at(void *base, const hn_tensor *first, const hn_tensor *t)
{
    return (char *)base + ((const char *)t->data - (const char *)first->data);
}

static hn_status make_fences(hn_engine *e)
{
    hn_device *d = hn_program_device(e->program);
    for (int i = 0; i < HN_ENGINE_STAGES; i++) HN_TRY(hn_device_fence_new(d, &e->stage[i].sent));
    for (int i = 0; i < HN_ENGINE_AHEAD; i++) HN_TRY(hn_device_fence_new(d, &e->outcome[i].done));
    return HN_OK;
}

static hn_status take_host_memory(hn_engine *e)
{
    const bool gpu = e->o.executor != HN_EXECUTOR_CPU;
    const size_t n = (size_t)e->o.replicas, sums = round_up(3 * n * sizeof(float));
    const size_t blocks = gpu ? round_up(update_bytes(e)) : 0;
    const size_t staged = gpu ? round_up(stage_bytes(e, e->loss)) : 0;
    const size_t back = round_up(back_bytes(e));
    HN_TRY(hn_device_alloc_host(
        hn_program_device(e->program),
        sums + HN_ENGINE_STAGES * staged + HN_ENGINE_AHEAD * (blocks + back), &e->pinned));
    char *at = (char *)e->pinned + sums;
    e->eval_loss = e->pinned;
    e->eval_count = e->eval_loss + n;
    e->eval_hits = e->eval_count + n;
    for (int i = 0; i < HN_ENGINE_STAGES; i++, at += staged) {
        hn_engine_stage *s = &e->stage[i];
        s->memory = gpu ? at : e->loss->data;
        s->step = place_at(s->memory, e->loss, e->step);
        s->stop = place_at(s->memory, e->loss, e->stop);
        for (int k = 0; has_batch(e) && k < e->o.job->n_fields; k++)
            s->batch.field[k] = place_at(s->memory, e->loss, e->field[k]);
    }
    for (int i = 0; i < HN_ENGINE_AHEAD; i++, at += blocks + back) {
        e->outcome[i].step = gpu ? (void *)at : e->step->data;
        e->outcome[i].stop = place_at(e->outcome[i].step, e->step, e->stop);
        e->outcome[i].back = at + blocks;
    }
    return make_fences(e);
}

/* Step block and stop. */
static hn_status send_update(const hn_engine *e, const hn_step_block *from)
{
    if ((const void *)from == e->step->data) return HN_OK; /* CPU: it is there already */
    return hn_device_send(hn_program_device(e->program), e->step->data, from, update_bytes(e));
}

static hn_status fetch(const hn_engine *e, const hn_tensor *t, void *to)
{
    return hn_device_fetch(hn_program_device(e->program), to, t->data, hn_type_bytes(&t->type));
}

static hn_status wait(const hn_engine *e) { return hn_device_wait(hn_program_device(e->program)); }

/* The stage in use from `first` on: the loss or the block. */
static hn_status send_stage(hn_engine *e, const hn_tensor *first)
{
    hn_engine_stage *s = &e->stage[e->now];
    if (s->memory != e->loss->data) /* CPU: it is there already */
        HN_TRY(hn_device_send(hn_program_device(e->program), first->data,
                              place_at(s->memory, e->loss, first), stage_bytes(e, first)));
    s->used = true;
    return hn_device_fence_here(s->sent);
}

hn_status hn_engine_run(hn_engine *e, const hn_graph *g, bool check)
{
    const bool compare = e->o.executor == HN_EXECUTOR_CHECK;
    const hn_run_options o = {.step = e->step->data,
                              .check = check || compare,
                              .compare = compare,
                              .stop = e->o.stop,
                              .profile = e->profile};
    return hn_graph_run(g, &o);
}

enum { N_VARIANTS = 10 + 2 * HN_SPARSE_GROUPS };

/* The graphs of a step; NULL where the engine has none. */
static void variants(const hn_engine *e, hn_graph *out[N_VARIANTS])
{
    hn_graph *const all[] = {e->begin,  e->micro,      e->window.micro, e->window.end, e->square,
                             e->update, e->eval_begin, e->eval,         e->probe,      e->discard};
    const size_t n = sizeof all / sizeof *all;
    memcpy(out, all, sizeof all);
    for (size_t k = 0; k < HN_SPARSE_GROUPS; k++) {
        out[n + 2 * k] = e->scores[k].micro;
        out[n + 2 * k + 1] = e->scores[k].end;
    }
}

hn_status hn_engine_run_empty(hn_engine *e)
{
    hn_graph *variant[N_VARIANTS];
    const hn_run_options o = {.step = e->step->data};
    float *buffers = NULL;
    variants(e, variant);
    if (has_batch(e)) {
        hn_engine_input in;
        HN_TRY(hn_engine_batch(e, &in));
        e->o.job->empty(e->o.job, in.field);
    }
    HN_TRY(send_stage(e, e->step));
    HN_TRY(hn_params_get_buffers(e->params, &buffers));
    hn_status st = HN_OK;
    for (int i = 0; i < N_VARIANTS && st == HN_OK; i++)
        if (variant[i]) st = hn_graph_run(variant[i], &o);
    if (st == HN_OK && e->whole) st = hn_device_launch(hn_program_device(e->program), e->whole);
    if (st == HN_OK) st = wait(e);
    if (st == HN_OK && buffers) st = hn_params_put_buffers(e->params, buffers);
    hn_free(buffers);
    return st;
}

/* Captured graphs run once, too: a first launch may take memory. */
static hn_status warm_up(hn_engine *e)
{
    hn_graph *variant[N_VARIANTS];
    HN_TRY(hn_engine_run_empty(e));
    if (e->o.executor != HN_EXECUTOR_GRAPH) return HN_OK;
    variants(e, variant);
    for (int i = 0; i < N_VARIANTS; i++)
        if (variant[i]) HN_TRY(hn_graph_capture(variant[i], e->step->data));
    hn_graph *const step[] = {e->micro, e->update};
    if (e->micro) HN_TRY(hn_graphs_capture(step, 2, e->step->data, &e->whole));
    return hn_engine_run_empty(e);
}

/* Blocks of all replicas: what no step changes. */
static void set_constants(const hn_engine *e, hn_step_block *s)
{
    for (int64_t g = 0; g < e->o.replicas; g++) {
        s[g].seed = e->replica[g].seed;
        s[g].max_norm = (float)e->o.optimizer.max_grad_norm;
    }
}

hn_status hn_engine_allocate(hn_engine *e)
{
    HN_TRY(hn_engine_check_shares(e));
    HN_TRY(hn_plan_allocate(e->program));
    HN_TRY(take_host_memory(e));
    for (int i = 0; i < HN_ENGINE_STAGES; i++) set_constants(e, e->stage[i].step);
    for (int i = 0; i < HN_ENGINE_AHEAD; i++) set_constants(e, e->outcome[i].step);
    if (e->o.job->fill) HN_TRY(e->o.job->fill(e->o.job));
    if (hn_params_sparse(e->params))
        HN_TRY(hn_sparse_fill(hn_params_sparse(e->params), e->o.optimizer.beta1,
                              e->o.optimizer.beta2));
    return e->o.executor == HN_EXECUTOR_CPU ? HN_OK : warm_up(e);
}

hn_status hn_engine_gemm_plans(const hn_engine *e, struct json_t **out)
{
    *out = NULL;
    if (e->o.executor == HN_EXECUTOR_CPU) return HN_OK;
    return hn_gemm_cuda_plans(hn_device_gemm(e->o.device), out);
}

hn_status hn_engine_capture_anew(hn_engine *e)
{
    hn_graph *variant[N_VARIANTS];
    if (e->o.executor == HN_EXECUTOR_CPU) return HN_OK;
    variants(e, variant);
    for (int i = 0; i < N_VARIANTS; i++)
        if (variant[i]) hn_graph_release(variant[i]);
    hn_device_graph_free(e->whole);
    e->whole = NULL;
    return warm_up(e);
}

hn_status hn_engine_use_gemm_plans(hn_engine *e, const struct json_t *plans, const char *where)
{
    json_t *now = NULL;
    const bool gpu = e->o.executor != HN_EXECUTOR_CPU;
    if (gpu != (plans != NULL))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: made on %s, this run is on %s", where,
                       plans ? "a GPU" : "the CPU", gpu ? "a GPU" : "the CPU");
    HN_TRY(hn_engine_gemm_plans(e, &now));
    const bool same = json_equal(now, plans);
    json_decref(now);
    /* ranks may differ in what they have now, but not in the sums that the first runs make */
    if (!gpu || (same && hn_engine_ranks(e) == 1)) return HN_OK;
    HN_TRY(hn_gemm_cuda_restore(hn_device_gemm(e->o.device), plans, where));
    return hn_engine_capture_anew(e);
}

/* ---- steps ---- */

hn_status hn_engine_batch(hn_engine *e, hn_engine_input *out)
{
    if (e->stage[e->now].used && e->o.executor != HN_EXECUTOR_CPU)
        e->now = (e->now + 1) % HN_ENGINE_STAGES;
    hn_engine_stage *s = &e->stage[e->now];
    if (s->used) HN_TRY(hn_device_fence_wait(s->sent));
    s->used = false;
    *out = s->batch;
    return HN_OK;
}

hn_status hn_engine_begin(hn_engine *e, int64_t step)
{
    e->step_number = step;
    e->counted = false;
    e->gather = e->wanted;
    return hn_engine_run(e, e->begin, false);
}

/* What micro-batch `index` needs to know, into the stage in use, which is free then. */
static hn_status set_micro(hn_engine *e, int64_t index)
{
    const hn_engine_stage *s = &e->stage[e->now];
    if (s->used) HN_TRY(hn_device_fence_wait(s->sent)); /* the same batch again */
    for (int64_t g = 0; g < e->o.replicas; g++) {
        s->step[g].seed = e->replica[g].seed;
        s->step[g].step = (uint64_t)e->step_number + 1;
        s->step[g].row_offset = index * (e->o.job->rows / e->o.replicas);
    }
    return HN_OK;
}

static hn_status micro(hn_engine *e, const hn_graph *g, int64_t index, bool check)
{
    HN_TRY(set_micro(e, index));
    HN_TRY(send_stage(e, e->step));
    e->counted = true;
    return hn_engine_run(e, g, check);
}

hn_status hn_engine_micro(hn_engine *e, int64_t index)
{
    const hn_graph *g = e->micro;
    if (e->gather != HN_GATHER_NOTHING) HN_TRY(hn_engine_gathering_micro(e, index, &g));
    return micro(e, g, index, false);
}

hn_status hn_engine_find_nonfinite(hn_engine *e, int64_t index)
{
    return micro(e, e->micro, index, true);
}

/* What the update needs to know. */
static void set_update(const hn_engine *e, hn_step_block *s, float *stop, double lr)
{
    const hn_optimizer *o = &e->o.optimizer;
    const double t = (double)(e->step_number + 1);
    *stop = e->want_stop;
    for (int64_t g = 0; g < e->o.replicas; g++) {
        s[g].seed = e->replica[g].seed;
        s[g].step = (uint64_t)e->step_number + 1;
        s[g].lr = (float)(lr * e->replica[g].lr_scale);
        s[g].frozen = e->replica[g].frozen;
        s[g].bias_correction1 = (float)(1.0 - pow(o->beta1, t));
        s[g].bias_correction2 = (float)(1.0 - pow(o->beta2, t));
    }
}

static hn_engine_outcome *next_outcome(hn_engine *e)
{
    return &e->outcome[(e->first + e->n_outcomes) % HN_ENGINE_AHEAD];
}

/* Behind an update. */
static hn_status fetch_report(hn_engine *e, hn_step_report *report)
{
    const hn_engine_outcome *u = next_outcome(e);
    bool there = true;
    HN_TRY(hn_device_fetch(hn_program_device(e->program), u->back, e->loss->data, back_bytes(e)));
    HN_TRY(hn_device_fence_here(u->done));
    e->n_outcomes++;
    while (report != NULL && there) HN_TRY(hn_engine_report(e, true, &there, report));
    return HN_OK;
}

static hn_status check_ahead(const hn_engine *e)
{
    if (e->n_outcomes < HN_ENGINE_AHEAD) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "the reports of %d steps have not been taken", HN_ENGINE_AHEAD);
}

/* g: what ends the step, the update or discard. */
static hn_status end_step(hn_engine *e, const hn_graph *g, double lr, hn_step_report *report)
{
    hn_step_block *step = next_outcome(e)->step;
    HN_TRY(check_ahead(e));
    set_update(e, step, next_outcome(e)->stop, lr);
    step->max_norm = g == e->update ? (float)e->o.optimizer.max_grad_norm : 0; /* as it is */
    HN_TRY(send_update(e, step));
    if (hn_engine_gathering_end(e) != NULL)
        HN_TRY(hn_engine_run(e, hn_engine_gathering_end(e), false));
    hn_engine_count_gathered(e);
    HN_TRY(hn_engine_run(e, g, false));
    e->counted = false;
    return fetch_report(e, report);
}

hn_status hn_engine_update(hn_engine *e, double lr, hn_step_report *report)
{
    return end_step(e, e->update, lr, report);
}

hn_status hn_engine_discard(hn_engine *e, hn_step_report *report)
{
    if (e->discard == NULL)
        return HN_FAIL(HN_ERR_ARG, "a step without an update, but nothing is trained in blocks");
    return end_step(e, e->discard, 0, report);
}

/* Captured, the step has no begin: a loss of 0 comes with the batch, and updates clear the count.
 */
hn_status hn_engine_step(hn_engine *e, int64_t step, double lr, hn_step_report *report)
{
    if (e->whole == NULL || e->profile != NULL || e->wanted != HN_GATHER_NOTHING) {
        HN_TRY(hn_engine_begin(e, step));
        HN_TRY(hn_engine_micro(e, hn_engine_rank(e)));
        return hn_engine_update(e, lr, report);
    }
    HN_TRY(check_ahead(e));
    if (e->counted) HN_TRY(hn_engine_begin(e, step));
    e->step_number = step;
    HN_TRY(set_micro(e, hn_engine_rank(e)));
    set_update(e, e->stage[e->now].step, e->stage[e->now].stop, lr);
    HN_TRY(send_stage(e, e->loss));
    HN_TRY(hn_device_launch(hn_program_device(e->program), e->whole));
    return fetch_report(e, report);
}

hn_status hn_engine_report(hn_engine *e, bool wait, bool *there, hn_step_report *out)
{
    const hn_engine_outcome *u = &e->outcome[e->first];
    *there = e->n_outcomes > 0;
    if (*there && wait) HN_TRY(hn_device_fence_wait(u->done));
    if (*there && !wait) HN_TRY(hn_device_fence_passed(u->done, there));
    if (!*there) return HN_OK;
    const hn_step_block *step = place_at(u->back, e->loss, e->step);
    const float *stop = place_at(u->back, e->loss, e->stop);
    for (int64_t g = 0; g < e->o.replicas; g++) {
        const double sum = (double)((const float *)(const void *)u->back)[g];
        const double count = (double)step[g].count;
        out[g] = (hn_step_report){.loss = count > 0 ? sum / count : NAN,
                                  .loss_sum = sum,
                                  .tokens = (int64_t)count,
                                  .grad_norm = (double)step[g].grad_norm,
                                  .skipped = step[g].skipped,
                                  .stop = (int)*stop};
    }
    e->first = (e->first + 1) % HN_ENGINE_AHEAD;
    e->n_outcomes--;
    return HN_OK;
}

hn_status hn_engine_eval_begin(hn_engine *e) { return hn_engine_run(e, e->eval_begin, false); }

hn_status hn_engine_eval_batch(hn_engine *e)
{
    hn_engine_stage *s = &e->stage[e->now];
    if (s->used) HN_TRY(hn_device_fence_wait(s->sent)); /* the same batch again */
    HN_TRY(send_stage(e, e->step));
    return hn_engine_run(e, e->eval, false);
}

hn_status hn_engine_eval_sums(hn_engine *e, hn_eval_sums *out)
{
    const hn_job_sums *s = &e->eval_sums;
    HN_TRY(fetch(e, s->loss, e->eval_loss));
    HN_TRY(fetch(e, s->count, e->eval_count));
    if (s->hits) HN_TRY(fetch(e, s->hits, e->eval_hits));
    HN_TRY(wait(e));
    for (int64_t g = 0; g < e->o.replicas; g++)
        out[g] = (hn_eval_sums){.loss = (double)e->eval_loss[g],
                                .rows = (int64_t)e->eval_count[g],
                                .hits = s->hits ? (int64_t)e->eval_hits[g] : 0};
    return HN_OK;
}

hn_status hn_engine_probe(hn_engine *e) { return hn_engine_run(e, e->probe, false); }
