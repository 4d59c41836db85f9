/* generate: trajectories of episodes of the training domains, and how they are tuned.
 *
 * Record number = init E + place of the episode among the E of all domains: the episodes from the
 * backbone first. Those say what tuning changes (sigma, a number a token), which the noise of the
 * other starts is in. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/hyperflow/support_context.h"
#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/rng.h"
#include "runtime/file/folder.h"
#include "runtime/flow/trajectory.h"
#include "runtime/train/hyperflow_tune.h"
#include "runtime/train/signals.h"

/* ---- which record is which ---- */

int64_t hn_hf_episodes(const hn_hyperflow *r) { return r->c->trajectories / r->c->inits; }

int64_t hn_hf_first_episode(const hn_hyperflow *r, int64_t domain)
{
    return hn_hf_episodes(r) * domain / r->n_train;
}

/* ---- learning rates ---- */

static hn_status rates_load(const char *path, json_t **rates)
{
    *rates = NULL;
    if (hn_is_file(path)) return hn_json_load(path, rates);
    *rates = json_object();
    return *rates ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for rates.json");
}

static hn_status rate_keep(const char *path, json_t *rates, const char *domain,
                           const hn_hf_choice *c)
{
    json_t *tried = json_array(), *one = json_object();
    bool ok = tried && one;
    for (int i = 0; ok && i < c->n; i++)
        ok = json_array_append_new(tried, json_pack("{s:f, s:f}", "lr", c->value[i], "accuracy",
                                                    c->accuracy[i])) == 0;
    ok = json_object_set_new(one, "lr", json_real(c->value[c->best])) == 0 && ok;
    ok = json_object_set_new(one, "tried", tried) == 0 && ok;
    ok = json_object_set_new(rates, domain, one) == 0 && ok;
    return ok ? hn_json_save(path, rates, false)
              : HN_FAIL(HN_ERR_MEMORY, "no memory for rates.json");
}

static hn_status choose_rate(hn_hyperflow *r, const hn_hf_domain *d, double *lr, const char *path,
                             json_t *rates)
{
    hn_hf_bench b = {0};
    hn_hf_choice choice = {.what = "lr"};
    for (int i = 0; i < r->n_rates; i++) choice.value[choice.n++] = r->rate[i];
    hn_status st = hn_hf_bench_open(r, d, HN_HF_VALID, HN_HF_VALID, &b);
    if (st == HN_OK) st = hn_hf_choose_rate(r, &b, hn_hf_theta_set(r), &choice);
    hn_hf_bench_close(&b);
    HN_TRY(st);
    *lr = choice.value[choice.best];
    hn_info(&r->log, "%s: learning rate %g, %.2f %% on validation episodes", d->name, *lr,
            100 * choice.accuracy[choice.best]);
    return rate_keep(path, rates, d->name, &choice);
}

/* lr [n_train] */
static hn_status choose_rates(hn_hyperflow *r, double *lr)
{
    char *path = NULL;
    json_t *rates = NULL;
    HN_TRY(hn_hyperflow_path(r, "rates.json", &path));
    hn_status st = rates_load(path, &rates);
    for (int64_t i = 0; i < r->n_train && st == HN_OK && !r->stopped; i++) {
        const json_t *have = json_object_get(rates, r->domain[i].name);
        if (have != NULL)
            st = hn_json_get_f64(have, "lr", path, true, &lr[i]);
        else
            st = choose_rate(r, &r->domain[i], &lr[i], path, rates);
        if (st == HN_OK && !(lr[i] > 0 && lr[i] <= 1))
            st = HN_FAIL(HN_ERR_FORMAT, "%s: %s: a learning rate of %g", path, r->domain[i].name,
                         lr[i]);
        r->stopped = hn_signals_caught() != 0;
    }
    json_decref(rates);
    hn_free(path);
    return st;
}

/* ---- trajectories ---- */

typedef struct {
    hn_hyperflow *r;
    hn_trajectory_writer *writer;
    double *lr;         /* [n_train] */
    const float *sigma; /* [tokens]; NULL: of the first starts, which have no noise */
    int64_t next;       /* first record that may be missing */
    int64_t done, here; /* records that are there; batches of this call */
    /* of the batch at hand */
    int64_t domain, init, first, n;
    hn_episode *episode;          /* [at_once] */
    hn_few_shot_task *task;       /* the same */
    float *start;                 /* [at_once D] */
    double loss_first, loss_last; /* sums of this call, for the line of progress */
    int64_t seen;
} maker;

static hn_status take(void *context, int64_t i, const hn_few_shot_result *t)
{
    maker *m = context;
    const hn_episode *e = m->task[i].episode;
    if (t->skipped > 0)
        return HN_FAIL(HN_ERR_NUMERIC,
                       "%s: episode %" PRId64 ": %" PRId64
                       " steps were no numbers; lower --rates than %g",
                       m->r->domain[m->domain].name, e->number, t->skipped, m->lr[m->domain]);
    const hn_trajectory_facts facts = {.episode = e->number,
                                       .seed = m->task[i].seed,
                                       .domain = (int32_t)m->domain,
                                       .init = (int32_t)m->init,
                                       .unit = (float)m->lr[m->domain],
                                       .loss_first = (float)t->loss_first,
                                       .loss_last = (float)t->loss_last,
                                       .images = e->n_support};
    m->loss_first += t->loss_first;
    m->loss_last += t->loss_last;
    m->seen++;
    return hn_trajectory_put(m->writer, m->first + i, &facts, e->support, e->support_label,
                             t->knot);
}

/* Task i of a batch is record first + i. */
static hn_status prepare(maker *m, const hn_hf_bench *b, const hn_few_shot_tuner *t, int64_t i)
{
    const hn_hyperflow *r = m->r;
    const int64_t count = r->theta.count, episodes = hn_hf_episodes(r);
    const int64_t number = m->first + i - m->init * episodes - hn_hf_first_episode(r, m->domain);
    HN_TRY(hn_episode_draw(b->main, number, &m->episode[i]));
    float *start = m->start + i * count;
    m->task[i] = (hn_few_shot_task){
        .episode = &m->episode[i],
        .lr = m->lr[m->domain],
        .seed = hn_hf_seed(r, r->domain[m->domain].name, "trajectory", m->init, number)};
    if (m->init == 0) return HN_OK;
    memcpy(start, hn_few_shot_tuner_theta0(t), (size_t)count * sizeof *start);
    hn_theta_add_noise(&r->theta,
                       hn_hf_seed(r, r->domain[m->domain].name, "start", m->init, number),
                       (float)r->c->noise, m->sigma, start);
    m->task[i].theta = start;
    return HN_OK;
}

static void show(maker *m)
{
    char detail[HN_HYPERFLOW_NAME + 64];
    snprintf(detail, sizeof detail, "%s  loss %.4f to %.4f", m->r->domain[m->domain].name,
             m->loss_first / (double)m->seen, m->loss_last / (double)m->seen);
    hn_progress_update(&m->r->progress, m->done, m->seen * m->r->c->tune_steps, detail);
}

/* Records of the batch at hand that are not there. */
static hn_status missing(const maker *m, int64_t *n)
{
    const int64_t end = m->first + m->n;
    *n = 0;
    for (int64_t next = m->first;; next++) {
        HN_TRY(hn_trajectory_writer_next(m->writer, next, &next));
        if (next >= end) return HN_OK;
        ++*n;
    }
}

static hn_status batch(maker *m, const hn_hf_bench *b, hn_few_shot_tuner *t)
{
    int64_t more;
    HN_TRY(missing(m, &more));
    for (int64_t i = 0; i < m->n; i++) HN_TRY(prepare(m, b, t, i));
    HN_TRY(hn_few_shot_tune(t, m->task, m->n, take, m));
    m->done += more;
    m->here++;
    show(m);
    return HN_OK;
}

static void batch_free(maker *m, int64_t n)
{
    for (int64_t i = 0; m->episode != NULL && i < n; i++) hn_episode_free(&m->episode[i]);
    hn_free(m->episode);
    hn_free(m->task);
    hn_free(m->start);
    m->episode = NULL;
    m->task = NULL;
    m->start = NULL;
}

static hn_status batch_memory(maker *m, const hn_hf_bench *b, int64_t n)
{
    m->episode = hn_calloc((size_t)n, sizeof *m->episode);
    m->task = hn_calloc((size_t)n, sizeof *m->task);
    m->start = hn_malloc((size_t)(n * m->r->theta.count) * sizeof *m->start);
    if (m->episode == NULL || m->task == NULL || m->start == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "a batch of %" PRId64 " episodes", n);
    for (int64_t i = 0; i < n; i++)
        HN_TRY(hn_episode_make(b->sizes.way, b->sizes.support, b->sizes.query, &m->episode[i]));
    return HN_OK;
}

/* Those of records first .. end - 1, of one domain and one init, that are not there. Where a batch
 * was cut off within its writes, all of it is made again: the bits of a record depend on its place
 * in the batch (few_shot_tune.h); those that are there are written once more as they are. */
static hn_status run_batches(maker *m, const hn_hf_bench *b, hn_few_shot_tuner *t, int64_t first,
                             int64_t end)
{
    const int64_t most = hn_few_shot_tuner_at_once(t);
    for (;;) {
        HN_TRY(hn_trajectory_writer_next(m->writer, m->next, &m->first));
        if (m->first >= end) return HN_OK;
        m->r->stopped = hn_hyperflow_must_stop(m->r, m->here);
        if (m->r->stopped) return HN_OK;
        m->first -= (m->first - first) % most;
        m->n = end - m->first < most ? end - m->first : most;
        HN_TRY(batch(m, b, t));
        m->next = m->first + m->n;
    }
}

/* How many episodes of a domain are tuned at once depends on the memory that is free, and the bits
 * on it: what the first batch had is in the index, and those that go on have it, too. kept 0: there
 * was none. */
static hn_status kept_at_once(const hn_hyperflow *r, const char *domain, int64_t *kept)
{
    const json_t *all = json_object_get(r->index, "at_once");
    *kept = 0;
    if (json_object_get(all, domain) == NULL) return HN_OK;
    return hn_json_get_i64(all, domain, "index.json: at_once", 1, r->c->at_once, true, kept);
}

static hn_status keep_at_once(const hn_hyperflow *r, const char *domain, int64_t n)
{
    char *path = NULL;
    json_t *all = json_object_get(r->index, "at_once");
    if (all == NULL) {
        all = json_object();
        if (json_object_set_new(r->index, "at_once", all) != 0) all = NULL;
    }
    if (json_object_set_new(all, domain, json_integer((json_int_t)n)) != 0)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for the index");
    HN_TRY(hn_hyperflow_path(r, "index.json", &path));
    const hn_status st = hn_json_save(path, r->index, false);
    hn_free(path);
    return st;
}

static hn_status same_at_once(const hn_hyperflow *r, const char *domain, int64_t kept, int64_t n)
{
    if (kept == 0) return keep_at_once(r, domain, n);
    if (kept == n) return HN_OK;
    return HN_FAIL(HN_ERR_MEMORY,
                   "%s: %" PRId64 " episodes were tuned at once so far, %" PRId64
                   " fit now, with other bits: free memory of the device",
                   domain, kept, n);
}

static hn_status with_tuner(maker *m, const hn_hf_bench *b, int64_t first, int64_t end)
{
    hn_few_shot_tuner *t = NULL;
    hn_few_shot_tune_options o = hn_hf_tune_options(m->r, b, hn_hf_theta_set(m->r));
    int64_t kept;
    HN_TRY(kept_at_once(m->r, b->domain->name, &kept));
    if (kept > 0) o.at_once = kept;
    o.queries = 0;
    o.knot_every = m->r->c->tune_steps / (m->r->c->knots - 1);
    hn_status st = hn_few_shot_tuner_new(&o, &t);
    if (st == HN_OK) st = same_at_once(m->r, b->domain->name, kept, hn_few_shot_tuner_at_once(t));
    if (st == HN_OK) st = hn_few_shot_tuner_open(t);
    if (st == HN_OK) st = batch_memory(m, b, hn_few_shot_tuner_at_once(t));
    if (st == HN_OK) st = run_batches(m, b, t, first, end);
    if (t != NULL) batch_free(m, hn_few_shot_tuner_at_once(t));
    hn_few_shot_tuner_free(t);
    return st;
}

static hn_status run_domain(maker *m)
{
    hn_hyperflow *r = m->r;
    const int64_t base = m->init * hn_hf_episodes(r);
    const int64_t first = base + hn_hf_first_episode(r, m->domain);
    const int64_t end = base + hn_hf_first_episode(r, m->domain + 1);
    hn_hf_bench b = {0};
    HN_TRY(hn_trajectory_writer_next(m->writer, first, &m->next));
    if (m->next >= end) return HN_OK; /* nothing is missing */
    hn_status st = hn_hf_bench_open(r, &r->domain[m->domain], HN_HF_TRAIN, HN_HF_TRAIN, &b);
    if (st == HN_OK) st = with_tuner(m, &b, first, end);
    hn_hf_bench_close(&b);
    return st;
}

static hn_status run_inits(maker *m, int64_t first, int64_t end)
{
    for (m->init = first; m->init < end; m->init++)
        for (m->domain = 0; m->domain < m->r->n_train; m->domain++) {
            HN_TRY(run_domain(m));
            if (m->r->stopped) return HN_OK;
        }
    return HN_OK;
}

hn_status hn_hf_sigma(const hn_hyperflow *r, const hn_trajectories *t, float *sigma)
{
    int64_t *pick = hn_malloc(((size_t)t->n + 1) * sizeof *pick), n = 0;
    if (pick == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " trajectories", t->n);
    for (int64_t i = 0; i < t->n; i++)
        if (t->record[i] < hn_hf_episodes(r)) pick[n++] = i;
    const hn_status st = hn_trajectories_sigma(t, pick, n, r->theta.tokens, sigma);
    hn_free(pick);
    return st;
}

static hn_status sigma_of_file(const hn_hyperflow *r, const char *path, float *sigma)
{
    hn_trajectories t = {0};
    HN_TRY(hn_trajectories_open(path, &t));
    const hn_status st = hn_hf_sigma(r, &t, sigma);
    hn_trajectories_close(&t);
    return st;
}

static hn_status make_all(maker *m, const char *path)
{
    hn_hyperflow *r = m->r;
    float *sigma = NULL;
    HN_TRY(run_inits(m, 0, 1));
    if (r->stopped || r->c->inits == 1) return HN_OK;
    sigma = hn_malloc((size_t)r->theta.tokens * sizeof *sigma);
    hn_status st = sigma ? sigma_of_file(r, path, sigma)
                         : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " tokens", r->theta.tokens);
    m->sigma = sigma;
    if (st == HN_OK) st = run_inits(m, 1, r->c->inits);
    hn_free(sigma);
    return st;
}

/* ---- the file ---- */

hn_status hn_hf_trajectory_head(const hn_hyperflow *r, hn_trajectory_head *h)
{
    *h = (hn_trajectory_head){.records = hn_hf_episodes(r) * r->c->inits,
                              .knots = r->c->knots,
                              .numbers = r->theta.count};
    size_t at = 0;
    for (int64_t i = 0; i < r->n_train; i++) {
        hn_episode_sampler *s = NULL;
        HN_TRY(hn_hyperflow_sampler(r, &r->domain[i], HN_HF_TRAIN, &s));
        const int64_t support = hn_episode_sampler_sizes(s).support;
        hn_episode_sampler_free(s);
        if (support > h->support) h->support = support;
        if (support > HN_SUPPORT_ROWS)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: episodes of up to %" PRId64
                           " support images; the drift network reads %d: fewer --way, --shot or "
                           "--max-support",
                           r->domain[i].name, support, HN_SUPPORT_ROWS);
        at += (size_t)snprintf(h->domains + at, sizeof h->domains - at, "%s%s", i ? "," : "",
                               r->domain[i].name);
        if (at >= sizeof h->domains)
            return HN_FAIL(HN_ERR_ARG, "--train-domains: names of more than %zu bytes",
                           sizeof h->domains);
    }
    memcpy(h->layout, r->theta.digest, sizeof h->layout);
    memcpy(h->backbone, r->base_digest, sizeof h->backbone);
    return hn_trajectory_check(h);
}

static hn_status check_budget(const hn_hyperflow *r, const hn_trajectory_head *h)
{
    hn_trajectory_bytes bytes;
    const double gib = 0x1p30;
    if (r->c->trajectories % r->c->inits != 0)
        return HN_FAIL(HN_ERR_ARG,
                       "--trajectories %" PRId64 ": a multiple of --inits %" PRId64
                       ", the starts of an episode",
                       r->c->trajectories, r->c->inits);
    if (hn_hf_episodes(r) < r->n_train)
        return HN_FAIL(HN_ERR_ARG,
                       "--trajectories %" PRId64 ": %" PRId64 " domains with %" PRId64
                       " starts an episode want more",
                       r->c->trajectories, r->n_train, r->c->inits);
    HN_TRY(hn_trajectory_budget(h, &bytes));
    hn_info(&r->log,
            "trajectories: %" PRId64 " of %" PRId64 " knots and %" PRId64
            " numbers: %.3f GiB on disk; %" PRId64 " optimizer steps of one episode",
            h->records, h->knots, h->numbers, (double)bytes.file_bytes / gib,
            h->records * r->c->tune_steps);
    if (r->c->budget > 0 && (double)bytes.file_bytes > r->c->budget * gib)
        return HN_FAIL(HN_ERR_ARG, "--budget %g GiB: the trajectories take %.3f", r->c->budget,
                       (double)bytes.file_bytes / gib);
    return HN_OK;
}

static hn_status count_done(maker *m, int64_t records)
{
    int64_t at = 0;
    for (int64_t next = 0; at < records; at = next + 1) {
        HN_TRY(hn_trajectory_writer_next(m->writer, at, &next));
        m->done += next - at;
        if (next >= records) break;
    }
    return HN_OK;
}

static hn_status run_all(hn_hyperflow *r, const hn_trajectory_head *h, const char *path, double *lr)
{
    maker m = {.r = r, .lr = lr};
    HN_TRY(hn_trajectory_writer_open(path, h, &m.writer));
    hn_status st = count_done(&m, h->records);
    if (st == HN_OK && m.done > 0)
        hn_info(&r->log, "continued with %" PRId64 " of %" PRId64 " trajectories", m.done,
                h->records);
    if (st == HN_OK) {
        hn_hyperflow_progress(&r->progress, "trajectory", "steps", m.done, h->records);
        st = make_all(&m, path);
        hn_progress_end(&r->progress);
    }
    const hn_status closed = hn_trajectory_writer_close(m.writer);
    if (st == HN_OK) st = closed;
    if (st == HN_OK && r->stopped)
        fprintf(r->to,
                "stopped with %" PRId64 " of %" PRId64
                " trajectories; continue with: hone-hyperflow generate --config %s/run.yaml "
                "--out %s --resume auto\n",
                m.done, h->records, r->out, r->out);
    else if (st == HN_OK)
        fprintf(r->to,
                "trajectories: %s (%" PRId64 ")\ntrain:        hone-hyperflow train --run %s\n",
                path, h->records, r->out);
    return st;
}

static hn_status generate(hn_hyperflow *r)
{
    hn_trajectory_head head;
    char *path = NULL;
    HN_TRY(hn_hf_trajectory_head(r, &head));
    HN_TRY(check_budget(r, &head));
    HN_TRY(hn_hyperflow_folder_open(r));
    double *lr = hn_calloc((size_t)r->n_train, sizeof *lr);
    hn_status st = lr ? hn_hyperflow_path(r, "trajectories.bin", &path)
                      : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " domains", r->n_train);
    if (st == HN_OK) st = choose_rates(r, lr);
    if (st == HN_OK && r->stopped)
        fprintf(r->to, "stopped while learning rates were chosen\n");
    else if (st == HN_OK)
        st = run_all(r, &head, path, lr);
    hn_free(path);
    hn_free(lr);
    return st;
}

hn_status hn_hyperflow_generate(const hn_verb_call *c)
{
    hn_hyperflow r;
    hn_status st = hn_hyperflow_open(c, true, &r);
    if (st == HN_OK) {
        hn_signals_watch();
        st = generate(&r);
        hn_signals_release();
    }
    hn_hyperflow_close(&r);
    return st;
}
