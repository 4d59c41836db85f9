/* generate: trajectories of episodes of the training domains, and how they are tuned.
 *
 * Record number = init E + place of the episode among the E of all domains: the episodes from the
 * backbone first. Those say what tuning changes (sigma, a number a token), which the noise of the
 * other starts is in.
 *
 * Records of a domain and an init fall into groups of at_once, which are tuned together; ranks make
 * one each, round by round, of those that lack a record. */
#include <inttypes.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

#include "kernels/hyperflow/support_context.h"
#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
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

/* ---- trajectories ---- */

/* Episodes that are tuned at once: records first .. first + n - 1, of one domain and one init. */
typedef struct {
    int64_t domain, init, first, n;
} group;

/* Sums over the ranks, of a round: each has made a group, or none was left for it. */
typedef struct {
    double records, loss_first, loss_last, seen;
} made;

typedef struct {
    hn_hyperflow *r;
    hn_trajectory_writer *writer;
    double *lr;             /* [n_train] */
    const float *sigma;     /* [tokens]; NULL: of the first starts, which have no noise */
    unsigned char *missing; /* [records] that nobody has made, at the start of this call */
    int64_t records, done;  /* of the file; that are there */
    int64_t here;           /* groups of this call, of every rank */
    double loss[2], seen;   /* sums of this call, for the line of progress */
    hn_hf_pace pace;        /* of the choice of rates, or of an earlier call; work 0: not known */
    hn_hf_pace own;         /* of this rank's groups of this call */
    double work;            /* of all of it, by hn_hf_group_work */
    group *list;            /* what is to be made */
    int64_t n_list;
    /* of the domain at hand */
    const hn_hf_domain *domain; /* NULL: none */
    hn_hf_bench bench;
    hn_few_shot_tuner *tuner;
    hn_episode *episode;    /* [at_once] */
    hn_few_shot_task *task; /* the same */
    float *start;           /* [at_once D] */
    /* of the group at hand */
    group at;
    made made;
} maker;

static hn_status take(void *context, int64_t i, const hn_few_shot_result *t)
{
    maker *m = context;
    const hn_episode *e = m->task[i].episode;
    if (t->skipped > 0)
        return HN_FAIL(HN_ERR_NUMERIC,
                       "%s: episode %" PRId64 ": %" PRId64
                       " steps were no numbers; lower --rates than %g",
                       m->domain->name, e->number, t->skipped, m->lr[m->at.domain]);
    const hn_trajectory_facts facts = {.episode = e->number,
                                       .seed = m->task[i].seed,
                                       .domain = (int32_t)m->at.domain,
                                       .init = (int32_t)m->at.init,
                                       .unit = (float)m->lr[m->at.domain],
                                       .loss_first = (float)t->loss_first,
                                       .loss_last = (float)t->loss_last,
                                       .images = e->n_support};
    m->made.loss_first += t->loss_first;
    m->made.loss_last += t->loss_last;
    m->made.seen++;
    m->made.records += m->missing[m->at.first + i];
    return hn_trajectory_put(m->writer, m->at.first + i, &facts, e->support, e->support_label,
                             t->knot);
}

/* Task i of a group is record first + i. */
static hn_status prepare(maker *m, int64_t i)
{
    const hn_hyperflow *r = m->r;
    const group *g = &m->at;
    const char *const name = m->domain->name;
    const int64_t count = r->theta.count, episodes = hn_hf_episodes(r);
    const int64_t number = g->first + i - g->init * episodes - hn_hf_first_episode(r, g->domain);
    HN_TRY(hn_episode_draw(m->bench.main, number, &m->episode[i]));
    float *start = m->start + i * count;
    m->task[i] = (hn_few_shot_task){.episode = &m->episode[i],
                                    .lr = m->lr[g->domain],
                                    .seed = hn_hf_seed(r, name, "trajectory", g->init, number)};
    if (g->init == 0) return HN_OK;
    memcpy(start, hn_few_shot_tuner_theta0(m->tuner), (size_t)count * sizeof *start);
    hn_theta_add_noise(&r->theta, hn_hf_seed(r, name, "start", g->init, number), (float)r->c->noise,
                       m->sigma, start);
    m->task[i].theta = start;
    return HN_OK;
}

/* ---- the tuner of a domain ---- */

/* How many episodes of a domain are tuned at once depends on the memory that is free, and the bits
 * on it: what the first batch had is in the index, and those that go on have it, too. kept 0: there
 * was none. */
static hn_status kept_at_once(const hn_hyperflow *r, const char *domain, int64_t *kept)
{
    const json_t *all = json_object_get(r->index, "at_once");
    *kept = 0;
    if (json_object_get(all, domain) == NULL) return HN_OK;
    return hn_json_get_i64(all, domain, "index.json: at_once", 1,
                           r->c->at_once > 0 ? r->c->at_once : HN_HYPERFLOW_AT_ONCE, true, kept);
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
    if (!hn_hyperflow_leads(r)) return HN_OK;
    HN_TRY(hn_hyperflow_path(r, "index.json", &path));
    const hn_status st = hn_json_save(path, r->index, false);
    hn_free(path);
    return st;
}

static hn_few_shot_tune_options options_of(const hn_hyperflow *r, const hn_hf_bench *b)
{
    hn_few_shot_tune_options o = hn_hf_tune_options(r, b, hn_hf_theta_set(r));
    o.queries = 0;
    o.stop = hn_signals_caught;
    o.knot_every = r->c->tune_steps / (r->c->knots - 1);
    return o;
}

/* So many as fit on each of the ranks. */
static hn_status plan_at_once(const hn_hyperflow *r, const hn_hf_domain *d)
{
    hn_hf_bench b = {0};
    hn_few_shot_tuner *t = NULL;
    HN_TRY(hn_hf_bench_open(r, d, HN_HF_TRAIN, HN_HF_TRAIN, &b));
    hn_few_shot_tune_options o = options_of(r, &b);
    o.together = true;
    hn_status st = hn_few_shot_tuner_new(&o, &t);
    if (st == HN_OK) st = keep_at_once(r, d->name, hn_few_shot_tuner_at_once(t));
    hn_few_shot_tuner_free(t);
    hn_hf_bench_close(&b);
    return st;
}

static bool any_missing(const maker *m, int64_t first, int64_t end)
{
    return memchr(m->missing + first, 1, (size_t)(end - first)) != NULL;
}

/* Its records of an init. */
static void range(const hn_hyperflow *r, int64_t init, int64_t domain, int64_t *first, int64_t *end)
{
    *first = init * hn_hf_episodes(r) + hn_hf_first_episode(r, domain);
    *end = init * hn_hf_episodes(r) + hn_hf_first_episode(r, domain + 1);
}

static hn_status settle_at_once(const maker *m)
{
    const hn_hyperflow *r = m->r;
    for (int64_t i = 0; i < r->n_train; i++) {
        int64_t kept, first, end;
        bool wanted = false;
        HN_TRY(kept_at_once(r, r->domain[i].name, &kept));
        for (int64_t k = 0; k < r->c->inits; k++) {
            range(r, k, i, &first, &end);
            wanted = wanted || any_missing(m, first, end);
        }
        if (kept == 0 && wanted) HN_TRY(plan_at_once(r, &r->domain[i]));
    }
    return HN_OK;
}

static void close_domain(maker *m)
{
    const int64_t n = m->tuner ? hn_few_shot_tuner_at_once(m->tuner) : 0;
    for (int64_t i = 0; m->episode != NULL && i < n; i++) hn_episode_free(&m->episode[i]);
    hn_free(m->episode);
    hn_free(m->task);
    hn_free(m->start);
    hn_few_shot_tuner_free(m->tuner);
    hn_hf_bench_close(&m->bench);
    m->episode = NULL;
    m->task = NULL;
    m->start = NULL;
    m->tuner = NULL;
    m->domain = NULL;
}

static hn_status batch_memory(maker *m)
{
    const hn_episode_sizes *z = &m->bench.sizes;
    const int64_t n = hn_few_shot_tuner_at_once(m->tuner);
    m->episode = hn_calloc((size_t)n, sizeof *m->episode);
    m->task = hn_calloc((size_t)n, sizeof *m->task);
    m->start = hn_malloc((size_t)(n * m->r->theta.count) * sizeof *m->start);
    if (m->episode == NULL || m->task == NULL || m->start == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "a batch of %" PRId64 " episodes", n);
    for (int64_t i = 0; i < n; i++)
        HN_TRY(hn_episode_make(z->way, z->support, z->query, &m->episode[i]));
    return HN_OK;
}

static hn_status open_domain(maker *m, const hn_hf_domain *d)
{
    hn_hyperflow *r = m->r;
    int64_t kept;
    close_domain(m);
    hn_hyperflow_at(r, HN_HUB_AT_LOAD, m->at.first);
    HN_TRY(hn_hf_bench_open(r, d, HN_HF_TRAIN, HN_HF_TRAIN, &m->bench));
    hn_few_shot_tune_options o = options_of(r, &m->bench);
    HN_TRY(kept_at_once(r, d->name, &kept));
    o.at_once = kept;
    HN_TRY(hn_few_shot_tuner_new(&o, &m->tuner));
    const int64_t n = hn_few_shot_tuner_at_once(m->tuner);
    if (n != kept)
        return HN_FAIL(HN_ERR_MEMORY,
                       "%s: %" PRId64 " episodes were tuned at once so far, %" PRId64
                       " fit now, with other bits: free memory of the device",
                       d->name, kept, n);
    HN_TRY(hn_few_shot_tuner_open(m->tuner));
    HN_TRY(batch_memory(m));
    m->domain = d;
    return HN_OK;
}

/* ---- groups ---- */

/* Where a group was cut off within its writes, all of it is made again: the bits of a record depend
 * on its place in the group (few_shot_tune.h); those that are there are written once more as they
 * are. */
static hn_status make_group(maker *m, const group *g)
{
    const hn_hf_domain *d = &m->r->domain[g->domain];
    m->at = *g;
    if (m->domain != d) HN_TRY(open_domain(m, d));
    hn_few_shot_tuner_at(m->tuner, HN_HUB_AT_STEP, g->first);
    const int64_t begun = hn_clock_ns();
    for (int64_t i = 0; i < g->n; i++) HN_TRY(prepare(m, i));
    HN_TRY(hn_few_shot_tune(m->tuner, m->task, g->n, take, m));
    m->own.trajectories = true;
    m->own.seconds += (double)(hn_clock_ns() - begun) * 1e-9;
    m->own.work +=
        hn_hf_group_work(m->r, hn_few_shot_tuner_at_once(m->tuner), &m->bench.sizes, false);
    return HN_OK;
}

/* The groups of inits first .. end - 1 that lack a record; a domain's stand together. */
static hn_status list_groups(maker *m, int64_t first, int64_t end)
{
    const hn_hyperflow *r = m->r;
    hn_free(m->list);
    m->n_list = 0;
    m->list = hn_malloc((size_t)m->records * sizeof *m->list);
    if (m->list == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " trajectories", m->records);
    for (int64_t domain = 0; domain < r->n_train; domain++)
        for (int64_t init = first; init < end; init++) {
            int64_t at, last, most;
            HN_TRY(kept_at_once(r, r->domain[domain].name, &most));
            range(r, init, domain, &at, &last);
            for (int64_t n; at < last && most > 0; at += n) {
                n = last - at < most ? last - at : most;
                if (any_missing(m, at, at + n)) m->list[m->n_list++] = (group){domain, init, at, n};
            }
        }
    return HN_OK;
}

static void show(maker *m, const group *last)
{
    char detail[HN_HYPERFLOW_NAME + 64];
    if (m->seen == 0) return; /* stopped within the first */
    snprintf(detail, sizeof detail, "%s  loss %.4f to %.4f", m->r->domain[last->domain].name,
             m->loss[0] / m->seen, m->loss[1] / m->seen);
    hn_progress_update(&m->r->progress, m->done, (int64_t)m->seen * m->r->c->tune_steps, detail);
}

/* Groups first, first + 1, .., one for each rank. A rank that is asked to stop within its group has
 * written nothing of it: the others still finish theirs, and all stop. */
static hn_status make_round(maker *m, int64_t first)
{
    const int64_t ranks = hn_hyperflow_ranks(m->r);
    hn_status st = HN_OK;
    m->made = (made){0};
    for (int64_t i = first; i < first + ranks && i < m->n_list; i++)
        if (hn_hyperflow_is_own(m->r, i)) st = make_group(m, &m->list[i]);
    if (st != HN_OK && st != HN_ERR_STOPPED) return st;
    double all[] = {m->made.records, m->made.loss_first, m->made.loss_last, m->made.seen,
                    st == HN_ERR_STOPPED};
    HN_TRY(hn_hyperflow_total(m->r, all, 5));
    m->r->stopped = all[4] > 0;
    m->done += (int64_t)all[0];
    m->loss[0] += all[1];
    m->loss[1] += all[2];
    m->seen += all[3];
    m->here++;
    show(m, &m->list[first]);
    return HN_OK;
}

/* ---- how long it takes ---- */

static hn_status work_of_domain(const hn_hyperflow *r, const hn_hf_domain *d, double *work)
{
    hn_episode_sampler *s = NULL;
    int64_t at_once;
    HN_TRY(kept_at_once(r, d->name, &at_once));
    HN_TRY(hn_hyperflow_sampler(r, d, HN_HF_TRAIN, &s));
    const hn_episode_sizes z = hn_episode_sampler_sizes(s);
    hn_episode_sampler_free(s);
    *work = hn_hf_group_work(r, at_once, &z, false);
    return HN_OK;
}

/* Of inits first .. end - 1, of one rank: a round takes as long as the largest of its groups.
 * each [n_train]: of a group */
static hn_status work_of_inits(maker *m, const double *each, int64_t first, int64_t end,
                               double *work)
{
    const int64_t ranks = hn_hyperflow_ranks(m->r);
    HN_TRY(list_groups(m, first, end));
    for (int64_t at = 0; at < m->n_list; at += ranks) {
        double most = 0;
        for (int64_t i = at; i < at + ranks && i < m->n_list; i++)
            most = each[m->list[i].domain] > most ? each[m->list[i].domain] : most;
        *work += most;
    }
    return HN_OK;
}

/* What this call has to do when it begins. */
static hn_status work_of_all(maker *m, double *work)
{
    const hn_hyperflow *r = m->r;
    double *each = hn_calloc((size_t)r->n_train, sizeof *each);
    hn_status st = each ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " domains", r->n_train);
    *work = 0;
    for (int64_t i = 0; st == HN_OK && i < r->n_train; i++)
        st = work_of_domain(r, &r->domain[i], &each[i]);
    if (st == HN_OK) st = work_of_inits(m, each, 0, 1, work);
    if (st == HN_OK) st = work_of_inits(m, each, 1, r->c->inits, work);
    hn_free(each);
    return st;
}

static hn_status say_time(maker *m)
{
    const hn_hyperflow *r = m->r;
    char text[HN_HF_PACE_TEXT];
    if (!hn_hyperflow_leads(r) || m->done == m->records) return HN_OK;
    HN_TRY(work_of_all(m, &m->work));
    if (m->pace.work > 0) {
        hn_hf_pace_text(&m->pace, m->work, m->records - m->done, text);
        hn_info(&r->log, "%s", text);
    } else {
        hn_info(&r->log, "time: estimated behind the first group");
    }
    return HN_OK;
}

/* Where nothing was known before. */
static void say_time_of_first(maker *m)
{
    char text[HN_HF_PACE_TEXT];
    if (m->pace.work > 0 || !(m->own.work > 0) || m->here != 1 || m->done == m->records) return;
    const double left = m->work > m->own.work ? m->work - m->own.work : 0;
    hn_hf_pace_text(&m->own, left, m->records - m->done, text);
    hn_progress_say(&m->r->progress, text);
}

/* Ranks go from round to round together, so that all of them hear of a signal to one. */
static hn_status run_inits(maker *m, int64_t first, int64_t end)
{
    HN_TRY(list_groups(m, first, end));
    for (int64_t at = 0; at < m->n_list; at += hn_hyperflow_ranks(m->r)) {
        HN_TRY(hn_hyperflow_ask(m->r, m->here));
        if (m->r->stopped) return HN_OK;
        HN_TRY(make_round(m, at));
        say_time_of_first(m);
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

/* What all ranks have written is in the file, for whoever opens it now. */
static hn_status flush_all(const maker *m)
{
    if (hn_hyperflow_ranks(m->r) == 1) return HN_OK;
    hn_hyperflow_at(m->r, HN_HUB_AT_SAVE, m->done);
    HN_TRY(hn_trajectory_writer_flush(m->writer));
    return hn_team_wait(m->r->call->team);
}

/* records of the file's first ones are whole, whoever has written them. */
static hn_status check_written(const hn_hyperflow *r, const hn_trajectories *t, const char *path,
                               int64_t records)
{
    int64_t there = 0;
    while (there < t->n && t->record[there] < records) there++;
    if (there == records || hn_hyperflow_ranks(r) == 1) return HN_OK;
    return HN_FAIL(HN_ERR_IO,
                   "%s: ranks have written %" PRId64 " records, %" PRId64
                   " are there: is it on a file system that their hosts share?",
                   path, records, there);
}

/* Rank 0 looks for all. */
static hn_status sigma_of_file(const hn_hyperflow *r, const char *path, float *sigma)
{
    hn_trajectories t = {0};
    hn_status st = HN_OK;
    if (hn_hyperflow_leads(r)) {
        HN_TRY(hn_trajectories_open(path, &t));
        st = check_written(r, &t, path, hn_hf_episodes(r));
        if (st == HN_OK) st = hn_hf_sigma(r, &t, sigma);
        hn_trajectories_close(&t);
    }
    if (st != HN_OK) return st;
    return hn_hyperflow_share(r, sigma, (size_t)r->theta.tokens * sizeof *sigma);
}

static hn_status check_all_written(const maker *m, const char *path)
{
    hn_trajectories t = {0};
    if (hn_hyperflow_ranks(m->r) == 1 || !hn_hyperflow_leads(m->r)) return HN_OK;
    HN_TRY(hn_trajectories_open(path, &t));
    const hn_status st = check_written(m->r, &t, path, m->records);
    hn_trajectories_close(&t);
    return st;
}

static hn_status make_all(maker *m, const char *path)
{
    hn_hyperflow *r = m->r;
    float *sigma = NULL;
    HN_TRY(run_inits(m, 0, 1));
    HN_TRY(flush_all(m));
    if (r->stopped || r->c->inits == 1) return HN_OK;
    sigma = hn_malloc((size_t)r->theta.tokens * sizeof *sigma);
    hn_status st = sigma ? sigma_of_file(r, path, sigma)
                         : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " tokens", r->theta.tokens);
    m->sigma = sigma;
    if (st == HN_OK) st = run_inits(m, 1, r->c->inits);
    if (st == HN_OK) st = flush_all(m);
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

static bool on_several_hosts(const hn_team *t)
{
    for (int64_t i = 1; i < hn_team_size(t); i++)
        if (strcmp(hn_hub_host(t->hub, (int)i), hn_hub_host(t->hub, 0)) != 0) return true;
    return false;
}

/* All ranks have the same file open. */
static hn_status open_writers(const hn_hyperflow *r, const hn_trajectory_head *h, const char *path,
                              hn_trajectory_writer **out)
{
    const hn_team *t = r->call->team;
    if (hn_team_alone(t)) return hn_trajectory_writer_open(path, h, out);
    hn_trajectory_share s = {.first = hn_team_leads(t), .hosts = on_several_hosts(t)};
    if (s.first && RAND_bytes(s.mark, sizeof s.mark) != 1)
        return HN_FAIL(HN_ERR_IO, "no random bytes for a mark of %s", path);
    if (s.first) HN_TRY(hn_trajectory_writer_open_shared(path, h, &s, out));
    HN_TRY(hn_hyperflow_share(r, s.mark, sizeof s.mark));
    if (!s.first) HN_TRY(hn_trajectory_writer_open_shared(path, h, &s, out));
    HN_TRY(hn_team_wait(t));
    return s.first ? hn_trajectory_writer_unmark(*out) : HN_OK;
}

/* Which records are not there, as rank 0 finds them. */
static hn_status find_missing(maker *m)
{
    memset(m->missing, 1, (size_t)m->records);
    for (int64_t at = 0, next = 0; hn_hyperflow_leads(m->r) && at < m->records; at = next + 1) {
        HN_TRY(hn_trajectory_writer_next(m->writer, at, &next));
        memset(m->missing + at, 0, (size_t)(next - at));
    }
    HN_TRY(hn_hyperflow_share(m->r, m->missing, (size_t)m->records));
    for (int64_t i = 0; i < m->records; i++) m->done += !m->missing[i];
    return HN_OK;
}

static hn_status make_missing(maker *m, const char *path)
{
    hn_hyperflow *r = m->r;
    m->missing = hn_malloc((size_t)m->records);
    if (m->missing == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " trajectories", m->records);
    HN_TRY(find_missing(m));
    if (m->done > 0)
        hn_info(&r->log, "continued with %" PRId64 " of %" PRId64 " trajectories", m->done,
                m->records);
    HN_TRY(settle_at_once(m));
    HN_TRY(say_time(m));
    hn_hyperflow_progress(r, &r->progress, "trajectory", "steps", m->done, m->records);
    const hn_status st = make_all(m, path);
    hn_progress_end(&r->progress);
    return st;
}

static void say_end(const maker *m, const char *path)
{
    const hn_hyperflow *r = m->r;
    if (r->stopped)
        fprintf(r->to,
                "stopped with %" PRId64 " of %" PRId64
                " trajectories; continue with: hone-hyperflow generate --config %s/run.yaml "
                "--out %s --resume auto\n",
                m->done, m->records, r->out, r->out);
    else
        fprintf(r->to,
                "trajectories: %s (%" PRId64 ")\ntrain:        hone-hyperflow train --run %s\n",
                path, m->records, r->out);
}

static hn_status run_all(hn_hyperflow *r, const hn_trajectory_head *h, const char *path, double *lr,
                         const hn_hf_pace *pace)
{
    maker m = {.r = r, .lr = lr, .records = h->records, .pace = *pace};
    hn_status st = open_writers(r, h, path, &m.writer);
    if (st == HN_OK) st = make_missing(&m, path);
    close_domain(&m);
    hn_free(m.missing);
    hn_free(m.list);
    const hn_status closed = m.writer ? hn_trajectory_writer_close(m.writer) : HN_OK;
    if (st == HN_OK) st = closed;
    if (st == HN_OK) st = hn_hf_pace_save(r, &m.own);
    if (st == HN_OK && !r->stopped) st = check_all_written(&m, path);
    if (st == HN_OK && hn_hyperflow_leads(r)) say_end(&m, path);
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
    hn_hf_pace pace = {0};
    if (st == HN_OK) st = hn_hf_choose_rates(r, lr, &pace);
    if (st == HN_OK && !(pace.work > 0)) st = hn_hf_pace_load(r, &pace);
    if (st == HN_OK) st = hn_hf_pace_save(r, &pace);
    if (st == HN_OK && r->stopped && hn_hyperflow_leads(r))
        fprintf(r->to, "stopped while learning rates were chosen\n");
    if (st == HN_OK && !r->stopped) st = run_all(r, &head, path, lr, &pace);
    hn_free(path);
    hn_free(lr);
    return st;
}

hn_status hn_hyperflow_generate(const hn_verb_call *c)
{
    hn_hyperflow r;
    hn_status st = hn_hyperflow_open_ranks(c, false, &r);
    if (st == HN_OK) {
        hn_signals_watch();
        st = generate(&r);
        hn_signals_release();
    }
    hn_team_leave(c->team, st);
    hn_hyperflow_close(&r);
    return st;
}
