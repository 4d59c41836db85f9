/* eval: every method on the same test episodes of every domain, a cell each. Ranks make a cell
 * together: the groups of its episodes are shared, rank 0 writes it. */
#include "runtime/train/hyperflow_eval.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/file/folder.h"
#include "runtime/train/signals.h"

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

enum { WORD = 128 };

/* ---- one cell ---- */

hn_status hn_hf_take_accuracy(void *context, int64_t i, const hn_few_shot_result *t)
{
    hn_hf_scores *s = context;
    if (t->queries < 1)
        return HN_FAIL(HN_ERR_ARG, "episode %" PRId64 ": no query counts", s->first + i);
    s->accuracy[s->first + i] = (double)t->hits / (double)t->queries;
    s->skipped += t->skipped;
    return HN_OK;
}

static hn_tune_set set_of(const hn_hyperflow *r, const char *method)
{
    static const struct {
        const char *method;
        hn_tune_set set;
    } sets[] = {{"direct", HN_TUNE_NONE},
                {"head", HN_TUNE_HEAD},
                {"ln", HN_TUNE_LN},
                {"lora", HN_TUNE_LORA},
                {"full", HN_TUNE_FULL}};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if (is(sets[i].method, method)) return sets[i].set;
    return hn_hf_theta_set(r); /* bias */
}

static hn_status rates_of(const hn_hyperflow *r, hn_tune_set set, hn_hf_choice *choice)
{
    const bool wide = set == HN_TUNE_FULL;
    double rate[HN_HYPERFLOW_CHOICES];
    int n;
    *choice = (hn_hf_choice){.what = "lr"};
    if (set == HN_TUNE_NONE) return HN_OK;
    HN_TRY(hn_hyperflow_numbers(wide ? r->c->full_rates : r->c->rates,
                                wide ? "full-rates" : "rates", 1e-9, 1, rate, &n));
    choice->value[choice->n++] = 0; /* direct transfer is always a candidate */
    for (int i = 0; i < n; i++) choice->value[choice->n++] = rate[i];
    return HN_OK;
}

static hn_status test_episodes(const hn_hf_eval *e, hn_few_shot_tuner *t, double lr,
                               hn_hf_scores *s)
{
    const hn_hyperflow *r = e->r;
    const int64_t most = hn_few_shot_tuner_at_once(t), total = hn_hf_bench_episodes(r, &e->bench);
    hn_few_shot_task *task = hn_calloc((size_t)most, sizeof *task);
    hn_status st = task ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "a batch of %" PRId64 " episodes", most);
    for (s->first = 0; s->first < total && st == HN_OK; s->first += most) {
        const int64_t n = total - s->first < most ? total - s->first : most;
        hn_episode *episode = NULL;
        if (!hn_hyperflow_is_own(r, s->first / most)) continue;
        hn_few_shot_tuner_at(t, HN_HUB_AT_EVALUATE, s->first);
        st = hn_hf_draw_tests(&e->bench, s->first, n, &episode);
        for (int64_t i = 0; st == HN_OK && i < n; i++)
            task[i] =
                (hn_few_shot_task){.episode = &episode[i],
                                   .lr = lr,
                                   .seed = hn_hf_seed(r, e->target->name, "test", 0, s->first + i)};
        if (st == HN_OK) st = hn_few_shot_tune(t, task, n, hn_hf_take_accuracy, s);
        hn_hf_episodes_free(episode, n);
        if (st == HN_OK) hn_hf_eval_show(e, s->first + n);
    }
    hn_free(task);
    s->stopped = st == HN_ERR_STOPPED; /* all hear of it: hn_hf_gather */
    return s->stopped ? HN_OK : st;
}

hn_status hn_hf_gather(hn_hf_eval *e, hn_hf_scores *s, double *seconds)
{
    double facts[] = {*seconds, (double)s->skipped, s->stopped};
    HN_TRY(hn_hyperflow_total(e->r, facts, 3));
    if (facts[2] > 0) return HN_FAIL(HN_ERR_STOPPED, "%s: asked to stop", e->what);
    *seconds = facts[0];
    s->skipped = (int64_t)facts[1];
    return hn_hyperflow_total(e->r, e->accuracy, hn_hf_bench_episodes(e->r, &e->bench));
}

static hn_status tuned_cell(hn_hf_eval *e, const char *method, hn_hf_cell *cell)
{
    const hn_hyperflow *r = e->r;
    const hn_tune_set set = set_of(r, method);
    hn_few_shot_tuner *t = NULL;
    hn_few_shot_tune_options o = hn_hf_tune_options(r, &e->bench, set);
    o.together = true;
    o.stop = hn_signals_caught;
    hn_hf_scores scores = {.accuracy = e->accuracy};
    if (set == HN_TUNE_LORA) {
        o.rank = r->c->lora_rank;
        if (o.at_once < 2) o.at_once = 2;
    }
    hn_status st = rates_of(r, set, &cell->choice);
    if (st == HN_OK) st = hn_few_shot_tuner_new(&o, &t);
    if (st == HN_OK) st = hn_few_shot_tuner_open(t);
    if (st == HN_OK && cell->choice.n > 0) st = hn_hf_choose_with(r, &e->bench, t, &cell->choice);
    const int64_t begun = hn_clock_ns();
    if (st == HN_OK)
        st = test_episodes(e, t, cell->choice.n > 0 ? cell->choice.value[cell->choice.best] : 0,
                           &scores);
    cell->seconds = (double)(hn_clock_ns() - begun) * 1e-9;
    if (st == HN_OK) st = hn_hf_gather(e, &scores, &cell->seconds);
    if (st == HN_OK && scores.skipped > 0)
        hn_warn(&r->log, "%s on %s: %" PRId64 " steps were no numbers and changed nothing", method,
                e->target->name, scores.skipped);
    if (t != NULL) cell->planned_bytes = hn_few_shot_tuner_bytes(t);
    hn_few_shot_tuner_free(t);
    return st;
}

static bool integrates(const char *method) { return strncmp(method, "hyperflow", 9) == 0; }

/* What decides a cell besides the run's own settings. */
static hn_status settings_of(const hn_hf_eval *e, const char *method, char **out)
{
    const hn_hyperflow_config *c = e->r->c;
    const char *test = hn_hf_bench_digest(&e->bench),
               *valid = hn_episode_sampler_digest(e->bench.valid);
    *out = hn_asprintf("base: %s\ntest: %s\nvalidation: %s\ntest-episodes: %" PRId64,
                       e->r->base_digest, test, valid, hn_hf_bench_episodes(e->r, &e->bench));
    char *more = NULL;
    if (*out != NULL && is(method, "full"))
        more = hn_asprintf("%s\nfull-rates: %s", *out, c->full_rates.joined);
    else if (*out != NULL && is(method, "lora"))
        more = hn_asprintf("%s\nlora-rank: %" PRId64, *out, c->lora_rank);
    else if (*out != NULL && integrates(method))
        more = hn_asprintf("%s\nstops: %s\nintegration: %s %" PRId64 "\ndrift: %s", *out,
                           c->stops.joined, c->integrator, c->integration_steps,
                           hn_hf_drift_digest(e->drift));
    else
        return *out ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a cell's settings");
    hn_free(*out);
    *out = more;
    return more ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a cell's settings");
}

/* What a cell's file calls a method: with what is not the default of an integration. */
void hn_hf_label(const hn_hyperflow *r, const char *method, char label[HN_HF_LABEL])
{
    const hn_hyperflow_config *c = r->c;
    snprintf(label, HN_HF_LABEL, "%s", method);
    if (!integrates(method) && !is(method, "descent")) return;
    size_t at = strlen(label);
    if (!is(c->drift, "drift"))
        at += (size_t)snprintf(label + at, HN_HF_LABEL - at, "@%.40s", c->drift);
    if ((!is(c->integrator, "euler") || c->integration_steps != 10) && at < HN_HF_LABEL)
        snprintf(label + at, HN_HF_LABEL - at, "@%s%" PRId64, c->integrator, c->integration_steps);
}

static hn_status measure(hn_hf_eval *e, const char *method, const char *path, const char *settings)
{
    hn_hyperflow *r = e->r;
    char label[HN_HF_LABEL];
    hn_few_shot_mean m;
    hn_hf_label(r, method, label);
    hn_hf_cell cell = {.label = label,
                       .domain = e->target->name,
                       .settings = settings,
                       .sampler = hn_hf_bench_text(&e->bench),
                       .digest = hn_hf_bench_digest(&e->bench),
                       .device = hn_device_text(r->device),
                       .in_domain = e->bench.domain->trains && e->target->part == HN_HF_TEST,
                       .accuracy = e->accuracy,
                       .episodes = hn_hf_bench_episodes(r, &e->bench)};
    snprintf(e->what, sizeof e->what, "%s on %s", label, e->target->name);
    memset(e->accuracy, 0, (size_t)cell.episodes * sizeof *e->accuracy);
    hn_hyperflow_at(r, HN_HUB_AT_EVALUATE, 0);
    HN_TRY(integrates(method) ? hn_hf_drift_cell(e, method, &cell) : tuned_cell(e, method, &cell));
    if (hn_hyperflow_leads(r)) HN_TRY(hn_hf_cell_save(path, &cell));
    HN_TRY(hn_few_shot_mean_of(cell.accuracy, cell.episodes, &m));
    char line[sizeof e->what + 64];
    snprintf(line, sizeof line, "%s: %.2f +- %.2f %%", e->what, 100 * m.mean, 100 * m.ci95);
    hn_progress_say(&r->progress, line);
    e->here++;
    return HN_OK;
}

/* Asks before every cell, so that what is there is kept. Rank 0 looks for all. */
static hn_status cell(hn_hf_eval *e, const char *method)
{
    char label[HN_HF_LABEL], *path = NULL, *settings = NULL;
    bool there = false;
    hn_hf_label(e->r, method, label);
    HN_TRY(hn_hf_cell_path(e->r, label, e->target->name, &path));
    hn_status st = settings_of(e, method, &settings);
    if (st == HN_OK) st = hn_team_same(e->r->call->team, "settings of a cell", settings);
    if (st == HN_OK && hn_hyperflow_leads(e->r)) st = hn_hf_cell_there(path, settings, &there);
    if (st == HN_OK) st = hn_hyperflow_share(e->r, &there, sizeof there);
    if (st == HN_OK && !there) st = hn_hyperflow_ask(e->r, e->here);
    if (st == HN_OK && !there && !e->r->stopped) st = measure(e, method, path, settings);
    if (st == HN_ERR_STOPPED) { /* on all ranks; the cell has not been written */
        e->r->stopped = true;
        st = HN_OK;
    }
    e->done++;
    hn_free(settings);
    hn_free(path);
    return st;
}

/* ---- all of them ---- */

static bool wanted(const hn_hyperflow *r, const hn_hf_target *t)
{
    char word[WORD];
    int64_t i = 0;
    for (; hn_text_list_item(r->c->only, i, word, sizeof word) >= 0; i++)
        if (hn_hf_target_of(r, word) == t) return true;
    return i == 0;
}

static hn_status check_only(const hn_hyperflow *r)
{
    char word[WORD];
    for (int64_t i = 0; hn_text_list_item(r->c->only, i, word, sizeof word) >= 0; i++) {
        if (hn_hf_target_of(r, word) == NULL)
            return HN_FAIL(HN_ERR_ARG, "--only: no domain '%s' among --test-domains", word);
    }
    return r->n_targets > 0 ? HN_OK
                            : HN_FAIL(HN_ERR_ARG, "--test-domains: what is to be measured on");
}

void hn_hf_eval_show(const hn_hf_eval *e, int64_t episodes)
{
    /* a cell counts as much as the others, however many episodes it has */
    const int64_t total = e->r->c->test_episodes, all = hn_hf_bench_episodes(e->r, &e->bench);
    hn_progress_update(&e->r->progress, e->done * total + episodes * total / all, 0, e->what);
}

static hn_status target_cells(hn_hf_eval *e)
{
    char method[WORD];
    hn_hyperflow *r = e->r;
    const hn_hf_domain *d = &r->domain[e->target->domain];
    HN_TRY(hn_hf_bench_open(r, d, e->target->part, HN_HF_VALID, &e->bench));
    hn_status st = HN_OK;
    for (int64_t i = 0; st == HN_OK && !r->stopped; i++) {
        if (hn_text_list_item(r->c->methods, i, method, sizeof method) < 0) break;
        if (!is(method, "descent")) st = cell(e, method);
    }
    hn_hf_bench_close(&e->bench);
    return st;
}

static bool has_method(const hn_hyperflow *r, const char *prefix)
{
    char method[WORD];
    for (int64_t i = 0; hn_text_list_item(r->c->methods, i, method, sizeof method) >= 0; i++)
        if (strncmp(method, prefix, strlen(prefix)) == 0) return true;
    return false;
}

static hn_status all_cells(hn_hf_eval *e)
{
    hn_hyperflow *r = e->r;
    char word[WORD];
    int64_t methods = 0, targets = 0;
    while (hn_text_list_item(r->c->methods, methods, word, sizeof word) >= 0) methods++;
    for (int64_t i = 0; i < r->n_targets; i++) targets += wanted(r, &r->target[i]);
    hn_hyperflow_progress(r, &r->progress, "episode", NULL, 0,
                          methods * targets * r->c->test_episodes);
    hn_status st = HN_OK;
    for (int64_t i = 0; i < r->n_targets && st == HN_OK && !r->stopped; i++) {
        e->target = &r->target[i];
        if (wanted(r, e->target)) st = target_cells(e);
    }
    const bool descent = has_method(r, "descent") && hn_hyperflow_leads(r);
    hn_hyperflow_at(r, HN_HUB_AT_END, -1); /* what is left is rank 0's */
    if (st == HN_OK && !r->stopped && descent) st = hn_hf_descent(e);
    if (st == HN_ERR_STOPPED) {
        r->stopped = true;
        st = HN_OK;
    }
    hn_progress_end(&r->progress);
    return st;
}

static hn_status eval(hn_hyperflow *r)
{
    hn_hf_eval e = {.r = r};
    char *cells = NULL;
    HN_TRY(check_only(r));
    HN_TRY(hn_hyperflow_folder_read(r, true));
    HN_TRY(hn_hyperflow_path(r, "cells", &cells));
    hn_status st = hn_hyperflow_leads(r) ? hn_make_dirs(cells) : HN_OK;
    const int64_t runs = r->runs ? hn_omniglot_runs_count(r->runs) : 0,
                  most = runs > r->c->test_episodes ? runs : r->c->test_episodes;
    hn_free(cells);
    e.accuracy = hn_calloc((size_t)most, sizeof *e.accuracy);
    if (st == HN_OK && e.accuracy == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " episodes", most);
    if (st == HN_OK && (has_method(r, "hyperflow") || has_method(r, "descent")))
        st = hn_hf_drift_open(r, &e.drift);
    if (st == HN_OK && !r->stopped) st = all_cells(&e);
    hn_hf_drift_close(e.drift);
    hn_free(e.accuracy);
    HN_TRY(st);
    if (!hn_hyperflow_leads(r)) return HN_OK;
    if (r->stopped)
        fprintf(r->to, "stopped; cells that are there are kept, the same command goes on\n");
    return hn_hyperflow_write_results(r);
}

hn_status hn_hyperflow_eval(const hn_verb_call *c)
{
    hn_hyperflow r;
    hn_status st = hn_hyperflow_open_ranks(c, false, &r);
    if (st == HN_OK) {
        hn_signals_watch();
        st = eval(&r);
        hn_signals_release();
    }
    hn_team_leave(c->team, st);
    hn_hyperflow_close(&r);
    return st;
}
