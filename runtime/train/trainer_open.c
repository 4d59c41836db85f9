/* What a run opens before its first step, and how it takes up a checkpoint. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/alloc.h"
#include "runtime/file/checkpoint.h"
#include "runtime/file/folder.h"
#include "runtime/graph/shards.h"
#include "runtime/train/option_kinds.h"
#include "runtime/train/rank_buffers.h"
#include "runtime/train/run_folder.h"
#include "runtime/train/trainer_impl.h"

/* Options that do not decide about the numbers may change between a run and its continuation. */
static bool decides(const char *line)
{
    static const char *const free_keys[] = {
        "model",         "tokenizer",  "data",    "eval-data", "cache-dir",  "data-threads",
        "out",           "resume",     "steps",   "epochs",    "stop-after", "log-every",
        "eval-every",    "save-every", "keep",    "result",    "patience",   "log-format",
        "device",        "executor",   "threads", "recompute", "memory",     "adapter",
        "resume-device", "plans",      "weights", "resident"};
    if (line[0] == '#' || line[0] == '\0') return false;
    for (size_t i = 0; i < sizeof free_keys / sizeof *free_keys; i++) {
        const size_t n = strlen(free_keys[i]);
        if (strncmp(line, free_keys[i], n) == 0 && line[n] == ':') return false;
    }
    return true;
}

static hn_status make_settings(hn_trainer *t)
{
    char *text = hn_strdup(t->yaml), *rest = NULL;
    t->settings = hn_malloc(strlen(t->yaml) + 1);
    if (text == NULL || t->settings == NULL) {
        hn_free(text);
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the settings");
    }
    size_t at = 0;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (!decides(line)) continue;
        if (at > 0) t->settings[at++] = ' ';
        memcpy(t->settings + at, line, strlen(line));
        at += strlen(line);
    }
    t->settings[at] = '\0';
    hn_free(text);
    return HN_OK;
}

static hn_status plan_steps(hn_trainer *t)
{
    const hn_run_config *c = t->c;
    HN_TRY(hn_session_steps(t->s, &t->total));
    t->last = c->stop_after > 0 && c->stop_after < t->total ? c->stop_after : t->total;
    t->schedule = (hn_schedule){
        .lr = c->lr, .min_lr = c->min_lr, .warmup = c->warmup_steps, .steps = t->total};
    if (c->warmup_steps < 0) t->schedule.warmup = t->total * 3 / 100;
    if (t->schedule.warmup > t->total)
        return HN_FAIL(HN_ERR_ARG, "--warmup-steps %" PRId64 " of %" PRId64 " steps",
                       c->warmup_steps, t->total);
    return hn_schedule_kind_of(c->schedule, &t->schedule.kind);
}

/* Entries of the log in a checkpoint; what a run of more has to say is in metrics.csv. */
static int64_t log_room(const hn_trainer *t)
{
    enum { MOST = 1000000 };
    const int64_t evals = t->c->eval_every ? t->total / t->c->eval_every : 0;
    const int64_t n = t->total / t->c->log_every + evals + 8;
    return n < MOST ? n : MOST;
}

char *hn_trainer_checkpoint(const hn_trainer *t, int64_t step)
{
    return hn_asprintf("%s/checkpoint-%" PRId64, t->out, step);
}

static bool same_folder(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* An out folder that holds a run is not touched but to continue it from its newest checkpoint. */
static hn_status refuse_older_run(const hn_trainer *t)
{
    char *newest = NULL;
    int64_t step = -1;
    if (!t->leads || strcmp(t->c->resume, "auto") == 0 || !hn_is_folder(t->out)) return HN_OK;
    HN_TRY(hn_ckpt_newest(t->out, NULL, &newest, &step));
    if (newest == NULL) return HN_OK;
    const bool continued = t->c->resume[0] != '\0' && same_folder(newest, t->c->resume);
    hn_free(newest);
    if (continued) return HN_OK;
    return HN_FAIL(HN_ERR_ARG,
                   "--out %s holds a run up to step %" PRId64
                   "; continue it with --resume auto or choose another folder",
                   t->out, step);
}

/* A branch in another folder has not the best checkpoint of the run that it comes from. */
static hn_status check_best(hn_trainer *t)
{
    if (t->state.best_step <= 0) return HN_OK;
    char *best = hn_trainer_checkpoint(t, t->state.best_step);
    if (best == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a checkpoint's path");
    if (!hn_is_folder(best)) {
        hn_info(&t->s->log, "%s, the best so far, is not there: the best is sought anew", best);
        t->state.best_step = -1;
        t->state.best_loss = NAN;
        t->state.evals_since_best = 0;
    }
    hn_free(best);
    return HN_OK;
}

/* The products go on with the algorithms they had, or the bits would change without a word. */
static hn_status take_plans(hn_trainer *t, const char *from)
{
    const hn_status st = hn_engine_use_gemm_plans(t->s->engine, t->state.gemm_plans, from);
    if (st != HN_ERR_UNSUPPORTED) return st;
    if (strcmp(t->c->resume_device, "same") == 0)
        return HN_FAIL(st, "%s; --resume-device any goes on here, with other bits", hn_last_text());
    hn_warn(&t->s->log, "%s: the run goes on with other bits than there", hn_last_text());
    return HN_OK;
}

/* In one line. */
void hn_trainer_kernels(const hn_trainer *t, char *text, size_t size)
{
    hn_plan_notes(hn_engine_program(t->s->engine), ';', text, size);
}

/* The same for the libraries' kernels, which have bits of their own in each version. */
static hn_status compare_kernels(const hn_trainer *t, const char *from)
{
    char now[4096];
    hn_trainer_kernels(t, now, sizeof now);
    if (t->state.kernels == NULL || strcmp(t->state.kernels, now) == 0) return HN_OK;
    if (strcmp(t->c->resume_device, "same") == 0)
        return HN_FAIL(
            HN_ERR_UNSUPPORTED,
            "%s ran on other kernels (%s) than this run (%s); --resume-device any goes on "
            "here, with other bits",
            from, t->state.kernels, now);
    hn_warn(&t->s->log, "%s ran on other kernels (%s): the run goes on with other bits than there",
            from, t->state.kernels);
    return HN_OK;
}

static hn_status load_state(hn_trainer *t, const char *from)
{
    HN_TRY(hn_state_load(from, hn_engine_params(t->s->engine), &t->id, log_room(t), &t->state));
    t->state.per_step = t->s->per_step;
    t->resumed = true;
    if (t->state.step > t->total)
        return HN_FAIL(HN_ERR_ARG, "%s is at step %" PRId64 ", the run is to have %" PRId64, from,
                       t->state.step, t->total);
    HN_TRY(check_best(t));
    HN_TRY(take_plans(t, from));
    HN_TRY(compare_kernels(t, from));
    t->stop_early = t->c->patience > 0 && t->state.evals_since_best >= t->c->patience;
    if (hn_trainer_in_schedule(t)) hn_rank_buffers_drop(&t->state); /* the mean */
    HN_TRY(hn_rank_buffers_put(&t->state, hn_engine_params(t->s->engine), &t->s->team,
                               t->s->per_step));
    hn_info(&t->s->log, "resumed from %s, step %" PRId64, from, t->state.step);
    return HN_OK;
}

/* Of the out folder; NULL: there is none. Rank 0 looks for all. */
static hn_status newest_of(const hn_trainer *t, const hn_log *log, char **from)
{
    *from = NULL;
    if (t->leads && hn_is_folder(t->out)) HN_TRY(hn_ckpt_newest(t->out, log, from, NULL));
    return hn_team_share_text(&t->s->team, from);
}

/* How many micro-batches a step has: so many as the run has begun with, on any number of ranks. */
static hn_status settle_per_step(hn_trainer *t)
{
    char *from = NULL;
    const int64_t fresh = t->c->accumulation * t->ranks;
    int64_t kept = 0;
    hn_status st = HN_OK;
    if (strcmp(t->c->resume, "auto") == 0)
        st = newest_of(t, NULL, &from);
    else if (t->c->resume[0] != '\0')
        from = hn_strdup(t->c->resume);
    if (st == HN_OK && from != NULL) st = hn_state_per_step(from, &kept);
    if (st == HN_OK && from != NULL && kept == 0) kept = t->c->accumulation;
    hn_free(from);
    t->s->per_step = kept > 0 ? kept : fresh;
    t->state.per_step = t->s->per_step;
    if (st == HN_OK && t->s->per_step != fresh)
        hn_info(&t->s->log,
                "a step keeps the %" PRId64 " micro-batches that the run has begun with", kept);
    return st;
}

/* --resume auto: the out folder is ours, its newest checkpoint is where we go on. */
static hn_status load_newest(hn_trainer *t)
{
    char *from = NULL;
    HN_TRY(newest_of(t, &t->s->log, &from));
    if (from == NULL) {
        hn_info(&t->s->log, "no checkpoint in %s: starting at step 0", t->out);
        return HN_OK;
    }
    const hn_status st = load_state(t, from);
    if (st == HN_OK) t->saved_step = t->state.step;
    hn_free(from);
    return st;
}

/* Removes what a process that was killed while it wrote a record has left: nobody else writes
 * here while we hold the lock. */
static hn_status sweep_records(const hn_trainer *t)
{
    static const char *const begin[] = {"metrics.csv.tmp-", "metrics.jsonl.tmp-", "run.yaml.tmp-"};
    char **names = NULL;
    int64_t n = 0;
    hn_status st = hn_folder_names(t->out, &names, &n);
    for (int64_t i = 0; st == HN_OK && i < 3 * n; i++) {
        if (strncmp(names[i / 3], begin[i % 3], strlen(begin[i % 3])) != 0) continue;
        char *path = hn_asprintf("%s/%s", t->out, names[i / 3]);
        if (path == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory to clear %s", t->out);
        if (path != NULL) remove(path);
        hn_free(path);
    }
    hn_folder_names_free(names, n);
    return st;
}

/* The run record as one YAML mapping of lines up to 100 columns. */
static hn_status print_options(const hn_trainer *t)
{
    enum { COLUMNS = 100 };
    char *text = hn_strdup(t->id.yaml), *rest = NULL, row[2 * COLUMNS] = "";
    size_t at = 0;
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to print the options");
    hn_info(&t->s->log, "options, saved as %s/run.yaml: {", t->out);
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        const size_t n = strlen(line);
        if (line[0] == '#') continue;
        if (at > 0 && at + n + 4 > COLUMNS) {
            hn_info(&t->s->log, "%s", row);
            at = 0;
        }
        if (n + 4 > sizeof row) /* a long path has a line of its own */
            hn_info(&t->s->log, "  %s,", line);
        else
            at += (size_t)snprintf(row + at, sizeof row - at, "%s%s,", at > 0 ? " " : "  ", line);
    }
    hn_info(&t->s->log, "%s }", row);
    hn_free(text);
    return HN_OK;
}

static hn_status open_records(hn_trainer *t)
{
    static const char *const text[] = {"loss",  "lr",        "grad_norm",    "tokens",
                                       "epoch", "eval_loss", "tokens_per_s", "peak_gib"};
    static const char *const images[] = {"loss",          "lr",           "grad_norm",
                                         "images",        "epoch",        "eval_loss",
                                         "eval_accuracy", "images_per_s", "peak_gib"};
    const bool has_images = hn_session_has_images(t->s);
    const char *const *columns = has_images ? images : text;
    const int n = has_images ? sizeof images / sizeof *images : sizeof text / sizeof *text;
    /* of an evaluation that comes first, a run that was killed behind it may have left the row */
    const char *anew = t->state.evaluate_first ? "eval_loss" : NULL;
    HN_TRY(sweep_records(t));
    HN_TRY(hn_metrics_open(t->out, columns, n, t->resumed ? t->state.step : -1, anew, &t->metrics));
    HN_TRY(hn_tfevents_open(t->out, &t->events));
    char *path = hn_asprintf("%s/run.yaml", t->out);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the run record's path");
    const hn_status st = hn_save_text(path, t->id.yaml);
    hn_free(path);
    return st == HN_OK ? print_options(t) : st;
}

static hn_status open_data(void *s) { return hn_session_data(s, false); }

/* An option that does not decide about the numbers, but about when the ranks meet. */
static hn_status same_number(const hn_trainer *t, const char *option, double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.17g", value);
    return hn_team_same(&t->s->team, option, text);
}

/* Before the first call that ranks make together only where their options say so. */
static hn_status compare_course(const hn_trainer *t)
{
    const hn_run_config *c = t->c;
    const bool newest = strcmp(c->resume, "auto") == 0;
    HN_TRY(hn_team_same(&t->s->team, "--resume", newest ? "auto" : c->resume[0] ? "folder" : ""));
    HN_TRY(same_number(t, "--accumulation", (double)c->accumulation));
    HN_TRY(same_number(t, "--shard-base", (double)c->shard_base));
    HN_TRY(same_number(t, "--zero", (double)c->zero));
    HN_TRY(same_number(t, "--steps", (double)c->steps));
    HN_TRY(same_number(t, "--epochs", c->epochs));
    HN_TRY(same_number(t, "--stop-after", (double)c->stop_after));
    HN_TRY(same_number(t, "--log-every", (double)c->log_every));
    HN_TRY(same_number(t, "--eval-every", (double)c->eval_every));
    HN_TRY(same_number(t, "--save-every", (double)c->save_every));
    return same_number(t, "--patience", (double)c->patience);
}

/* Ranks that read other files, or were told other things, would train nobody's model. */
static hn_status compare_ranks(const hn_trainer *t)
{
    char gathers[32]; /* ranks with another plan (less memory, say) would not meet in it */
    snprintf(gathers, sizeof gathers, "%" PRIx64,
             hn_program_gathers_digest(hn_engine_program(t->s->engine)));
    HN_TRY(hn_team_same(&t->s->team, "order of gathered layers", gathers));
    HN_TRY(hn_team_same(&t->s->team, "options", t->settings));
    HN_TRY(hn_team_same(&t->s->team, "data", t->id.data_digest));
    HN_TRY(hn_team_same(&t->s->team, "held-out data", hn_session_held_out_digest(t->s)));
    HN_TRY(hn_team_same(&t->s->team, "tokenizer", t->id.tokenizer_digest));
    return hn_team_same(&t->s->team, "model", t->id.base_digest);
}

/* Opens everything that is read; plans; takes the memory. Writes nothing but the token cache. */
static hn_status open_inputs(hn_trainer *t, const hn_option_table *table)
{
    hn_session *s = t->s;
    HN_TRY(hn_check_run_options(s));
    HN_TRY(compare_course(t));
    HN_TRY(hn_run_folder_choose(s->method->program, t->c->out, "", &t->out));
    HN_TRY(hn_team_share_text(&s->team, &t->out));
    HN_TRY(refuse_older_run(t)); /* before the data are tokenised */
    HN_TRY(hn_session_machine(s, false));
    HN_TRY(hn_team_devices(&s->team, s->device));
    HN_TRY(settle_per_step(t));
    HN_TRY(hn_session_model(s, true));
    HN_TRY(hn_record_options(s, table, &t->yaml));
    hn_team_at(&s->team, HN_HUB_AT_LOAD, -1);
    HN_TRY(hn_team_in_turn(&s->team, open_data, s));
    HN_TRY(hn_session_plan(s, true, true));
    HN_TRY(plan_steps(t));
    HN_TRY(make_settings(t));
    t->id = (hn_run_identity){.method = s->method->name,
                              .base_path = t->c->model,
                              .data_digest = hn_session_data_digest(s),
                              .tokenizer_digest = hn_session_tokenizer_digest(s),
                              .settings = t->settings,
                              .yaml = t->yaml,
                              .vision = hn_session_has_images(s) ? &s->model.vision : NULL,
                              .class_names = &s->images.classes};
    HN_TRY(hn_model_digest(&s->model, (uint64_t)t->c->seed, &t->id.base_digest));
    HN_TRY(compare_ranks(t));
    HN_TRY(hn_session_load(s));
    const int64_t per_step = t->state.per_step;
    HN_TRY(hn_run_state_init(&t->state, log_room(t)));
    t->state.per_step = per_step;
    t->state.evaluate_first = true; /* untrained; a checkpoint says for itself */
    return HN_OK;
}

/* Each has read its own checkpoint. */
static hn_status same_place(const hn_trainer *t)
{
    char text[64];
    snprintf(text, sizeof text, "%" PRId64 "%s%s", t->state.step, t->resumed ? "" : ", new",
             t->state.evaluate_first ? ", its evaluation first" : "");
    return hn_team_same(&t->s->team, "step to go on from", text);
}

hn_status hn_trainer_open(hn_trainer *t, const hn_option_table *table)
{
    const char *resume = t->c->resume;
    const bool newest = strcmp(resume, "auto") == 0;
    HN_TRY(open_inputs(t, table));
    if (resume[0] != '\0' && !newest) HN_TRY(load_state(t, resume));
    if (t->leads) HN_TRY(hn_outdir_lock(t->out, &t->lock)); /* the first thing written */
    if (newest) HN_TRY(load_newest(t));
    HN_TRY(same_place(t));
    HN_TRY(refuse_older_run(t)); /* again, now that nobody else can write */
    if (t->s->team.hub != NULL && (t->resumed || t->c->adapter[0] != '\0'))
        HN_TRY(hn_engine_compare_ranks(t->s->engine,
                                       t->s->team.hub)); /* each has read its own files */
    if (t->leads) HN_TRY(open_records(t));
    t->s->train->share = hn_team_share(&t->s->team, t->s->per_step);
    if (hn_share_own(t->s->train->share) == 0) return HN_OK; /* more ranks than micro-batches */
    return t->s->train->start(t->s->train, t->state.micro_batch);
}

void hn_trainer_close(hn_trainer *t)
{
    hn_progress_end(&t->progress);
    hn_metrics_close(t->metrics);
    hn_tfevents_close(t->events);
    hn_run_state_clear(&t->state);
    hn_outdir_unlock(t->lock);
    hn_free(t->settings);
    hn_free(t->yaml);
    hn_free(t->out);
}
