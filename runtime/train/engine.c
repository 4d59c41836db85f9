#include "runtime/train/engine.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"

struct hn_engine {
    hn_engine_options o;
    hn_program *program;
    hn_params *params;
    hn_llama_tables tables;
    hn_tensor *step;
    hn_tensor *tokens, *labels, *positions, *offsets; /* batch */
    hn_tensor *loss, *eval_loss, *eval_count;
    hn_graph *begin, *micro, *update, *eval_begin, *eval, *logits_graph;
    struct {
        hn_tensor *tokens, *positions, *offsets, *logits;
    } logits;
    int64_t step_number; /* of the running optimizer step, from 0 */
};

void hn_engine_free(hn_engine *e)
{
    if (e == NULL) return;
    hn_params_free(e->params);
    hn_program_free(e->program);
    hn_free(e);
}

hn_program *hn_engine_program(const hn_engine *e) { return e->program; }
hn_params *hn_engine_params(const hn_engine *e) { return e->params; }

static hn_status vector(hn_engine *e, hn_mem mem, const char *name, hn_dtype dtype, int64_t n,
                        hn_tensor **out)
{
    const hn_type type = hn_type_1d(dtype, n);
    return hn_program_tensor(e->program, mem, name, &type, out);
}

static hn_llama_build builder(const hn_engine *e)
{
    return (hn_llama_build){.config = e->o.config,
                            .params = e->params,
                            .tables = &e->tables,
                            .recompute = e->o.recompute};
}

static hn_status record_zero(hn_graph *g, hn_tensor *t)
{
    return hn_emit(g, HN_OP_ZERO, t->name, &t, NULL, NULL);
}

static hn_status record_micro(hn_engine *e)
{
    const hn_llama_input in = {e->tokens, e->positions, e->offsets, NULL};
    hn_tensor *hidden, *count = hn_params_flat(e->params)->count;
    hn_llama_build b = builder(e);
    HN_TRY(hn_graph_new(e->program, "begin", false, &e->begin));
    HN_TRY(record_zero(e->begin, e->loss));
    HN_TRY(record_zero(e->begin, count));
    HN_TRY(hn_graph_new(e->program, "micro", true, &e->micro));
    HN_TRY(hn_llama_hidden(&b, e->micro, &in, &hidden));
    HN_TRY(hn_llama_loss(&b, e->micro, hidden, e->labels, e->loss, count, NULL));
    return hn_graph_backward(e->micro, 0, NULL, NULL);
}

/* The update of elements first .. first+n-1 of the flat trained range. */
static hn_status record_range(hn_engine *e, const char *name, int64_t first, int64_t n,
                              double decay)
{
    static const hn_mem mems[] = {HN_MEM_TRAINED, HN_MEM_GRAD, HN_MEM_MOMENT1, HN_MEM_MOMENT2};
    const hn_optimizer *o = &e->o.optimizer;
    const bool adamw = o->kind == HN_OPTIMIZER_ADAMW;
    hn_tensor *in[5] = {NULL};
    const int n_moments = adamw ? 2 : o->momentum > 0;
    if (n == 0) return HN_OK;
    for (int k = 0; k < 2 + n_moments; k++)
        HN_TRY(hn_program_range(e->program, mems[k], name, HN_F32, first, n, &in[k]));
    hn_tensor *work = NULL;
    if (e->o.dtype != HN_F32)
        HN_TRY(hn_program_range(e->program, HN_MEM_WORK, name, e->o.dtype, first, n, &work));
    in[adamw ? 4 : 3] = work;
    const hn_attr adamw_attr = {.adamw = {.beta1 = (float)o->beta1,
                                          .beta2 = (float)o->beta2,
                                          .eps = (float)o->eps,
                                          .weight_decay = (float)decay,
                                          .lr_scale = 1.0f}};
    const hn_attr sgd_attr = {.sgd = {.momentum = (float)o->momentum,
                                      .weight_decay = (float)decay,
                                      .lr_scale = 1.0f,
                                      .nesterov = o->nesterov}};
    return hn_emit(e->update, adamw ? HN_OP_ADAMW : HN_OP_SGD, name, in,
                   adamw ? &adamw_attr : &sgd_attr, NULL);
}

static hn_status record_update(hn_engine *e)
{
    const hn_flat *flat = hn_params_flat(e->params);
    HN_TRY(hn_graph_new(e->program, "update", false, &e->update));
    hn_tensor *grad;
    HN_TRY(hn_program_range(e->program, HN_MEM_GRAD, "all gradients", HN_F32, 0, flat->n, &grad));
    hn_tensor *in[] = {grad, flat->count, e->step};
    HN_TRY(hn_emit(e->update, HN_OP_GRAD_NORM, "grad_norm", in, NULL, NULL));
    HN_TRY(record_range(e, "decayed", 0, flat->n_decay, e->o.optimizer.weight_decay));
    return record_range(e, "not decayed", flat->n_decay, flat->n - flat->n_decay, 0);
}

static hn_status record_eval(hn_engine *e)
{
    const hn_llama_input in = {e->tokens, e->positions, e->offsets, NULL};
    const hn_llama_build b = builder(e);
    hn_tensor *hidden;
    HN_TRY(vector(e, HN_MEM_STATE, "eval_loss", HN_F32, 1, &e->eval_loss));
    HN_TRY(vector(e, HN_MEM_STATE, "eval_count", HN_F32, 1, &e->eval_count));
    HN_TRY(hn_graph_new(e->program, "eval_begin", false, &e->eval_begin));
    HN_TRY(record_zero(e->eval_begin, e->eval_loss));
    HN_TRY(record_zero(e->eval_begin, e->eval_count));
    HN_TRY(hn_graph_new(e->program, "eval", false, &e->eval));
    HN_TRY(hn_llama_hidden(&b, e->eval, &in, &hidden));
    return hn_llama_loss(&b, e->eval, hidden, e->labels, e->eval_loss, e->eval_count, NULL);
}

static hn_status record_logits(hn_engine *e)
{
    const int64_t rows = e->o.logits_rows;
    HN_TRY(vector(e, HN_MEM_INPUT, "logits.tokens", HN_I32, rows, &e->logits.tokens));
    HN_TRY(vector(e, HN_MEM_INPUT, "logits.positions", HN_I32, rows, &e->logits.positions));
    HN_TRY(vector(e, HN_MEM_INPUT, "logits.offsets", HN_I32, 2, &e->logits.offsets));
    const hn_llama_input in = {e->logits.tokens, e->logits.positions, e->logits.offsets, NULL};
    const hn_llama_build b = builder(e);
    hn_tensor *hidden;
    HN_TRY(hn_graph_new(e->program, "logits", false, &e->logits_graph));
    HN_TRY(hn_llama_hidden(&b, e->logits_graph, &in, &hidden));
    HN_TRY(hn_llama_logits(&b, e->logits_graph, hidden, &e->logits.logits));
    hn_graph_keep(e->logits.logits);
    return HN_OK;
}

static hn_status record(hn_engine *e)
{
    const hn_engine_options *o = &e->o;
    const int64_t rows = o->batch_rows * o->seq_len;
    const int64_t positions = o->seq_len > o->logits_rows ? o->seq_len : o->logits_rows;
    const bool adamw = o->optimizer.kind == HN_OPTIMIZER_ADAMW;
    HN_TRY(hn_program_new(1, &e->program));
    HN_TRY(hn_params_new(o->adapt, &e->params));
    HN_TRY(hn_llama_declare(o->config, e->params));
    if (o->train && hn_params_trained(e->params) == 0)
        return HN_FAIL(HN_ERR_ARG, "nothing to train: no parameter of the model was chosen");
    const hn_params_options po = {
        .dtype = o->dtype, .moments = adamw ? 2 : o->optimizer.momentum > 0, .gradients = o->train};
    HN_TRY(hn_params_create(e->params, e->program, &po));
    HN_TRY(hn_llama_tables_new(o->config, e->program, positions, &e->tables));
    HN_TRY(vector(e, HN_MEM_STATE, "step block", HN_U8, sizeof(hn_step_block), &e->step));
    if (rows > 0) {
        HN_TRY(vector(e, HN_MEM_STATE, "loss", HN_F32, 1, &e->loss));
        HN_TRY(vector(e, HN_MEM_INPUT, "tokens", HN_I32, rows, &e->tokens));
        HN_TRY(vector(e, HN_MEM_INPUT, "labels", HN_I32, rows, &e->labels));
        HN_TRY(vector(e, HN_MEM_INPUT, "positions", HN_I32, rows, &e->positions));
        HN_TRY(vector(e, HN_MEM_INPUT, "offsets", HN_I32, o->max_seqs + 1, &e->offsets));
        if (o->train) HN_TRY(record_micro(e));
        if (o->train) HN_TRY(record_update(e));
        if (o->eval) HN_TRY(record_eval(e));
    }
    if (o->logits_rows > 0) HN_TRY(record_logits(e));
    const hn_plan_options plan = {.device = HN_DEVICE_CPU};
    return hn_plan_build(e->program, &plan);
}

hn_status hn_engine_new(const hn_engine_options *o, hn_engine **out)
{
    hn_engine *e = hn_calloc(1, sizeof *e);
    if (e == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for an engine", sizeof *e);
    e->o = *o;
    const hn_status st = record(e);
    if (st != HN_OK)
        hn_engine_free(e);
    else
        *out = e;
    return st;
}

hn_status hn_engine_allocate(hn_engine *e)
{
    HN_TRY(hn_plan_allocate(e->program));
    hn_step_block *s = e->step->data;
    s->seed = e->o.seed;
    s->max_norm = (float)e->o.optimizer.max_grad_norm;
    return hn_llama_tables_fill(e->o.config, &e->tables);
}

hn_engine_input hn_engine_batch(const hn_engine *e)
{
    return (hn_engine_input){.tokens = e->tokens->data,
                             .labels = e->labels->data,
                             .positions = e->positions->data,
                             .offsets = e->offsets->data};
}

static hn_status run(hn_engine *e, const hn_graph *g, bool check)
{
    const hn_run_options o = {.step = e->step->data, .check = check};
    return hn_graph_run(g, &o);
}

hn_status hn_engine_begin(hn_engine *e, int64_t step)
{
    hn_step_block *s = e->step->data;
    e->step_number = step;
    s->step = (uint64_t)step + 1;
    return run(e, e->begin, false);
}

static void set_row_offset(hn_engine *e, int64_t index)
{
    hn_step_block *s = e->step->data;
    s->row_offset = index * e->o.batch_rows * e->o.seq_len;
}

hn_status hn_engine_micro(hn_engine *e, int64_t index)
{
    set_row_offset(e, index);
    return run(e, e->micro, false);
}

hn_status hn_engine_find_nonfinite(hn_engine *e, int64_t index)
{
    set_row_offset(e, index);
    return run(e, e->micro, true);
}

hn_status hn_engine_update(hn_engine *e, double lr, hn_step_report *report)
{
    hn_step_block *s = e->step->data;
    const hn_optimizer *o = &e->o.optimizer;
    const double t = (double)(e->step_number + 1);
    s->lr = (float)lr;
    s->bias_correction1 = (float)(1.0 - pow(o->beta1, t));
    s->bias_correction2 = (float)(1.0 - pow(o->beta2, t));
    const double sum = (double)*(const float *)e->loss->data;
    const double count = (double)*(const float *)hn_params_flat(e->params)->count->data;
    HN_TRY(run(e, e->update, false));
    *report = (hn_step_report){.loss = count > 0 ? sum / count : NAN,
                               .loss_sum = sum,
                               .tokens = (int64_t)count,
                               .grad_norm = (double)s->grad_norm,
                               .skipped = s->skipped};
    return HN_OK;
}

hn_status hn_engine_eval_begin(hn_engine *e) { return run(e, e->eval_begin, false); }
hn_status hn_engine_eval_batch(hn_engine *e) { return run(e, e->eval, false); }

void hn_engine_eval_sums(const hn_engine *e, double *loss_sum, int64_t *tokens)
{
    *loss_sum = (double)*(const float *)e->eval_loss->data;
    *tokens = (int64_t) * (const float *)e->eval_count->data;
}

hn_status hn_engine_logits(hn_engine *e, const int32_t *tokens, int64_t rows,
                           const hn_tensor **logits)
{
    if (rows < 1 || rows > e->o.logits_rows)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " rows of logits, 1 to %" PRId64, rows,
                       e->o.logits_rows);
    int32_t *id = e->logits.tokens->data, *position = e->logits.positions->data;
    int32_t *offset = e->logits.offsets->data;
    for (int64_t i = 0; i < e->o.logits_rows; i++) {
        id[i] = i < rows ? tokens[i] : 0;
        position[i] = i < rows ? (int32_t)i : 0;
    }
    offset[0] = 0;
    offset[1] = (int32_t)rows;
    HN_TRY(run(e, e->logits_graph, false));
    *logits = e->logits.logits;
    return HN_OK;
}
