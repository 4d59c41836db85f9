/* What each strategy does with a task: phases, and what is kept of them. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/train/pearl_impl.h"

static hn_pearl_role role_of(const hn_pearl *r, const hn_value *v)
{
    const hn_pearl_param *p = hn_pearl_find(r, v->name);
    return p ? p->role : HN_ROLE_LAYER; /* a pair is its layer's */
}

/* Values whose role is in the set. */
static hn_status pick(const hn_pearl *r, const hn_values *from, unsigned roles, hn_values *to)
{
    for (int64_t i = 0; i < from->n; i++)
        if (roles >> role_of(r, &from->item[i]) & 1) HN_TRY(hn_values_put(to, &from->item[i]));
    return HN_OK;
}

enum {
    HEAD = 1 << HN_ROLE_HEAD,
    LAYERS = 1 << HN_ROLE_LAYER,
    NORMS = 1 << HN_ROLE_NORM | 1 << HN_ROLE_RUNNING,
    BODY = LAYERS | NORMS | 1 << HN_ROLE_OTHER
};

/* What a task keeps besides its update. */
static unsigned own_roles(const hn_pearl *r)
{
    return r->norm == HN_NORM_FROZEN ? HEAD : HEAD | NORMS;
}

static hn_phase phase_of(const hn_pearl *r, hn_phase_kind kind, int first, int end,
                         const hn_values *body)
{
    return (hn_phase){.kind = kind,
                      .first = first,
                      .end = end,
                      .epochs = r->c->epochs,
                      .lr = r->c->lr,
                      .classes = hn_pearl_classes(r, end - 1),
                      .labels = HN_LABELS_TASK,
                      .body = body};
}

/* Runs a phase of a task and notes what it took. */
static hn_status run_phase(hn_pearl *r, const hn_phase *p, hn_phase_end *end)
{
    hn_pearl_record *k = &r->record[p->end - 1];
    HN_TRY(hn_phase_run(r, p, end));
    if (r->stopped) return HN_OK;
    k->steps += end->steps;
    *(p->kind == HN_PHASE_PROBE ? &k->probe_s : &k->train_s) += end->seconds;
    return HN_OK;
}

/* ---- the reference is the network after the first task ---- */

static hn_status learn_reference(hn_pearl *r)
{
    hn_pearl_record *k = &r->record[0];
    hn_phase_end end = {0};
    const hn_phase p = phase_of(r, HN_PHASE_DENSE, 0, 1, &r->initial);
    hn_status st = run_phase(r, &p, &end);
    if (st == HN_OK && !r->stopped) {
        st = pick(r, &end.values, BODY, &r->reference);
        if (st == HN_OK) st = pick(r, &end.values, own_roles(r), &k->delta);
    }
    hn_phase_end_free(&end);
    return st;
}

/* ---- pearl, lora, head ---- */

double hn_pearl_probe_epochs(const hn_pearl *r)
{
    const double epochs = r->c->epochs;
    if (r->c->probe_epochs > 0) return r->c->probe_epochs;
    return epochs >= 10 ? 0.1 * epochs : 1;
}

static hn_status copy_choices(const hn_pearl *r, const hn_pearl_record *k, hn_rank_choice **out)
{
    hn_rank_choice *c = hn_calloc((size_t)r->n_layers, sizeof *c);
    if (c == NULL) return HN_FAIL(HN_ERR_MEMORY, "ranks of %" PRId64 " layers", r->n_layers);
    for (int64_t i = 0; i < r->n_layers; i++) c[i] = k->rank[i].choice;
    *out = c;
    return HN_OK;
}

static hn_status learn_factors(hn_pearl *r, int task, double epochs, const hn_values *body,
                               const hn_values *head, const hn_values *factors)
{
    hn_pearl_record *k = &r->record[task];
    hn_rank_choice *choice = NULL;
    hn_phase_end end = {0};
    HN_TRY(copy_choices(r, k, &choice));
    hn_phase p = phase_of(r, HN_PHASE_FACTORS, task, task + 1, body);
    p.epochs = epochs;
    p.head = head;
    p.factors = factors;
    p.choice = choice;
    hn_status st = run_phase(r, &p, &end);
    if (st == HN_OK && !r->stopped) st = pick(r, &end.values, LAYERS | own_roles(r), &k->delta);
    hn_phase_end_free(&end);
    hn_free(choice);
    return st;
}

typedef struct {
    hn_values base, probe, head, start, factors;
} pearl_task;

static hn_status run_probe(hn_pearl *r, int task, pearl_task *t)
{
    hn_phase_end end = {0};
    hn_phase p = phase_of(r, HN_PHASE_PROBE, task, task + 1, &t->base);
    p.epochs = hn_pearl_probe_epochs(r);
    if (r->c->probe_lr > 0) p.lr = r->c->probe_lr;
    HN_TRY(run_phase(r, &p, &end));
    hn_status st = HN_OK;
    if (!r->stopped) {
        st = hn_values_overlay(&t->probe, &t->base);
        if (st == HN_OK) st = pick(r, &end.values, LAYERS | NORMS, &t->probe);
        if (st == HN_OK) st = pick(r, &end.values, HEAD, &t->head);
    }
    hn_phase_end_free(&end);
    return st;
}

/* Where the factors begin: the base, with the probe's norms and those layers that stay dense. */
static hn_status make_start(const hn_pearl *r, const hn_pearl_record *k, pearl_task *t)
{
    HN_TRY(hn_values_overlay(&t->start, &t->base));
    if (strcmp(r->c->init, "zero") == 0) return HN_OK;
    HN_TRY(pick(r, &t->probe, NORMS, &t->start));
    for (int64_t i = 0; i < r->n_layers; i++)
        if (k->rank[i].choice.dense)
            HN_TRY(hn_values_put(&t->start, hn_values_find(&t->probe, r->layer[i].weight)));
    return HN_OK;
}

static hn_status choose_base(hn_pearl *r, const hn_values *probe, int64_t *base)
{
    if (hn_pearl_leads(r)) HN_TRY(hn_pearl_nearest(r, probe, base));
    return r->team->hub ? hn_hub_share(r->team->hub, base, sizeof *base, 0) : HN_OK;
}

static hn_status choose_ranks(hn_pearl *r, int task, pearl_task *t)
{
    hn_pearl_record *k = &r->record[task];
    const int64_t begun = hn_clock_ns();
    hn_team_at(r->team, HN_HUB_AT_CHOOSE, -1);
    if (r->ref == HN_REF_NEAREST) {
        HN_TRY(choose_base(r, &t->probe, &k->base));
        hn_values_free(&t->base);
        HN_TRY(hn_pearl_network(r, k->base, &t->base));
    }
    if (hn_pearl_leads(r)) HN_TRY(hn_pearl_ranks(r, &t->base, &t->probe, k, &t->factors));
    HN_TRY(hn_pearl_share_ranks(r, k));
    HN_TRY(hn_pearl_share_values(r, &t->factors));
    k->rank_s = (double)(hn_clock_ns() - begun) * 1e-9;
    return make_start(r, k, t);
}

static hn_status learn_pearl(hn_pearl *r, int task, pearl_task *t)
{
    hn_pearl_record *k = &r->record[task];
    HN_TRY(run_probe(r, task, t));
    if (r->stopped) return HN_OK;
    HN_TRY(choose_ranks(r, task, t));
    HN_TRY(learn_factors(r, task, r->c->epochs - hn_pearl_probe_epochs(r), &t->start, &t->head,
                         &t->factors));
    if (r->stopped || !r->c->truncate) return HN_OK;
    hn_team_at(r->team, HN_HUB_AT_CHOOSE, -1);
    if (hn_pearl_leads(r)) HN_TRY(hn_pearl_truncate(r, &t->base, k));
    HN_TRY(hn_pearl_share_ranks(r, k));
    return hn_pearl_share_values(r, &k->delta);
}

static hn_status learn_lora(hn_pearl *r, int task, const pearl_task *t)
{
    hn_pearl_record *k = &r->record[task];
    HN_TRY(hn_pearl_fixed_ranks(r, k));
    HN_TRY(learn_factors(r, task, r->c->epochs, &t->base, NULL, NULL));
    if (r->stopped || !hn_pearl_leads(r)) return HN_OK; /* it is for the record alone */
    hn_team_at(r->team, HN_HUB_AT_CHOOSE, -1);
    return hn_pearl_measure(r, &t->base, k);
}

static hn_status learn_head(hn_pearl *r, int task, const pearl_task *t)
{
    hn_phase_end end = {0};
    const hn_phase p = phase_of(r, HN_PHASE_HEAD, task, task + 1, &t->base);
    hn_status st = run_phase(r, &p, &end);
    if (st == HN_OK && !r->stopped) st = pick(r, &end.values, HEAD, &r->record[task].delta);
    hn_phase_end_free(&end);
    return st;
}

static hn_status learn_update(hn_pearl *r, int task)
{
    hn_pearl_record *k = &r->record[task];
    pearl_task t = {0};
    k->base = r->ref == HN_REF_PREVIOUS ? task : 0;
    hn_status st = hn_pearl_network(r, k->base, &t.base);
    if (st == HN_OK)
        st = r->strategy == HN_PEARL_PEARL  ? learn_pearl(r, task, &t)
             : r->strategy == HN_PEARL_LORA ? learn_lora(r, task, &t)
                                            : learn_head(r, task, &t);
    hn_values_free(&t.base);
    hn_values_free(&t.probe);
    hn_values_free(&t.head);
    hn_values_free(&t.start);
    hn_values_free(&t.factors);
    return st;
}

/* ---- whole networks ---- */

static hn_status learn_whole(hn_pearl *r, int first, int end)
{
    hn_pearl_record *k = &r->record[end - 1];
    const hn_values *last = first > 0 && !r->isolated ? &r->record[first - 1].delta : NULL;
    hn_values body = {0}, head = {0};
    hn_phase_end e = {0};
    hn_phase p = phase_of(r, HN_PHASE_DENSE, first, end, &body);
    if (r->strategy == HN_PEARL_JOINT || r->strategy == HN_PEARL_LWF) { /* one head for all */
        p.labels = HN_LABELS_STREAM;
        p.classes = hn_task_stream_seen(r->stream, end);
    }
    if (r->strategy == HN_PEARL_LWF && first > 0) {
        p.first_class = hn_task_stream_seen(r->stream, first);
        p.n_classes = p.classes - p.first_class;
        p.head = &head;
    }
    if (r->strategy == HN_PEARL_EWC && first > 0) p.fisher = &r->record[first - 1].fisher;
    hn_status st = pick(r, last ? last : &r->initial, BODY, &body);
    if (st == HN_OK && p.head) st = pick(r, last, HEAD, &head);
    if (st == HN_OK) st = run_phase(r, &p, &e);
    if (st == HN_OK && !r->stopped) {
        k->delta = e.values;
        e.values = (hn_values){0};
    }
    hn_phase_end_free(&e);
    hn_values_free(&body);
    hn_values_free(&head);
    return st;
}

void hn_pearl_forget_body(hn_pearl *r, int task)
{
    hn_values *d = &r->record[task].delta;
    for (int64_t i = d->n - 1; i >= 0; i--)
        if (role_of(r, &d->item[i]) != HN_ROLE_HEAD) hn_values_drop(d, d->item[i].name);
    hn_values_free(&r->record[task].fisher);
}

hn_status hn_pearl_learn(hn_pearl *r, int first, int end)
{
    hn_pearl_record *k = &r->record[end - 1];
    k->threshold = NAN;
    if (first == 0 && hn_pearl_first_is_reference(r)) return learn_reference(r);
    if (r->strategy <= HN_PEARL_HEAD) return learn_update(r, end - 1);
    HN_TRY(learn_whole(r, first, end));
    if (r->isolated || r->stopped) return HN_OK;
    const hn_values *before = first > 0 ? &r->record[first - 1].fisher : NULL;
    if (r->strategy == HN_PEARL_EWC && end < r->tasks)
        HN_TRY(hn_pearl_fisher(r, end - 1, &k->delta, before, &k->fisher));
    if (first > 0) hn_pearl_forget_body(r, first - 1);
    return HN_OK;
}
