#define _POSIX_C_SOURCE 200809L
#include "runtime/train/team.h"

#include <inttypes.h>
#include <omp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/train/signals.h"

static bool is(const char *text, const char *what) { return strcmp(text, what) == 0; }

static bool given(const hn_team_request *q, const char *option)
{
    return q->given != NULL && hn_options_given(q->given, option);
}

/* ---- which rank this is ---- */

static hn_status find(hn_team *t)
{
    const hn_team_options *c = t->request.options;
    const hn_ranks_request q = {.rank = c->rank,
                                .size = c->size,
                                .local_rank = c->local_rank,
                                .local_size = c->local_size,
                                .rendezvous = c->rendezvous};
    return hn_ranks_find(&q, NULL, NULL, &t->ranks);
}

/* --gpus; 0: all. */
static hn_status wanted_gpus(const hn_team_options *c, int *out)
{
    char *end = NULL;
    *out = 0;
    if (is(c->gpus, "all")) return HN_OK;
    const long n = strtol(c->gpus, &end, 10);
    if (c->gpus[0] < '0' || c->gpus[0] > '9' || *end != '\0' || n < 1 || n > HN_RANKS_MAX)
        return HN_FAIL(HN_ERR_ARG, "--gpus %s: 'all', or a number from 1 on", c->gpus);
    *out = (int)n;
    return HN_OK;
}

/* How many ranks the options want; 0: as many as there are GPUs. */
static hn_status wanted_ranks(const hn_team_request *q, int *out)
{
    const hn_team_options *c = q->options;
    const char *device = q->device;
    const bool gpus = given(q, "gpus");
    int asked;
    *out = 1;
    HN_TRY(wanted_gpus(c, &asked));
    if (is(device, "cpu")) {
        if (gpus)
            return HN_FAIL(HN_ERR_ARG, "--gpus %s: of --device cuda; on the CPU it is --ranks N",
                           c->gpus);
        *out = (int)c->ranks;
        return HN_OK;
    }
    if (c->ranks > 1)
        return HN_FAIL(HN_ERR_ARG, "--ranks %" PRId64 ": of --device cpu; on GPUs it is --gpus N",
                       c->ranks);
    if (strncmp(device, "cuda:", 5) == 0) {
        if (asked > 1)
            return HN_FAIL(HN_ERR_ARG, "--gpus %s: --device %s is one GPU", c->gpus, device);
        return HN_OK;
    }
    *out = asked;
    return HN_OK;
}

/* How many ranks to fork. */
static hn_status own_ranks(const hn_team_request *q, int *out)
{
    char why[256] = "";
    int asked, there = 0;
    HN_TRY(wanted_ranks(q, &asked));
    *out = asked > 0 ? asked : 1;
    if (asked == 1 || is(q->device, "cpu")) return HN_OK;
    const hn_status st = hn_launch_count_devices(&there, why, sizeof why);
    if (st != HN_OK && asked == 0) return HN_OK; /* whoever opens the device says why */
    HN_TRY(st);
    if (asked > there)
        return HN_FAIL(HN_ERR_ARG, "--gpus %d: %d visible%s%s", asked, there, why[0] ? "; " : "",
                       why);
    if (asked == 0 && there > 0) *out = there;
    return HN_OK;
}

hn_status hn_team_plan(const hn_team_request *q, int *out)
{
    HN_TRY(wanted_ranks(q, out));
    if (*out == 0 && (hn_launch_count_devices(out, NULL, 0) != HN_OK || *out < 1)) *out = 1;
    return HN_OK;
}

static void say(void *context, hn_log_level level, const char *text)
{
    const hn_team *t = context;
    if (hn_team_alone(t) || hn_team_leads(t))
        fprintf(stderr, "%s%s\n", level == HN_LOG_WARN ? "warning: " : "", text);
    else if (level == HN_LOG_WARN)
        fprintf(stderr, "rank %d on %s: %s\n", t->ranks.rank, t->place.host, text);
}

static void say_nothing(void *context, hn_log_level level, const char *text)
{
    (void)context, (void)level, (void)text;
}

/* The GPU of a rank among several; else the device of the options. */
static hn_status choose_device(hn_team *t)
{
    const char *device = t->request.device;
    int visible = 0, index = 0;
    char why[256];
    if (hn_team_alone(t) || is(device, "cpu")) return HN_OK;
    if (strncmp(device, "cuda:", 5) == 0)
        return HN_FAIL(HN_ERR_ARG, "--device %s: each of %d ranks takes the GPU of its number",
                       device, t->ranks.size);
    HN_TRY(hn_device_count(&visible, why, sizeof why));
    if (visible == 0) return HN_OK; /* auto: the CPU; cuda: whoever opens it says why */
    HN_TRY(hn_ranks_device(&t->ranks, visible, &index));
    snprintf(t->place.device, sizeof t->place.device, "cuda:%d", index);
    return HN_OK;
}

/* Ranks that share a host share its cores, unless somebody has said how many threads each has. */
static void share_cores(const hn_team *t)
{
    const int n = t->ranks.local_size > 0 ? t->ranks.local_size : 1;
    const int cores = omp_get_num_procs();
    if (n == 1 || t->request.threads > 0 || getenv("OMP_NUM_THREADS")) return;
    omp_set_num_threads(cores / n > 0 ? cores / n : 1);
}

static void name_host(hn_team *t)
{
    if (t->ranks.host[0] != '\0')
        snprintf(t->place.host, sizeof t->place.host, "%s", t->ranks.host);
    else if (gethostname(t->place.host, sizeof t->place.host) != 0)
        snprintf(t->place.host, sizeof t->place.host, "?");
    t->place.host[sizeof t->place.host - 1] = '\0';
}

/* What says where one rank of many is would be told to each of the forked ones. */
static hn_status check_forked(const hn_team_request *q)
{
    static const char *const of_one[] = {"rendezvous", "local-rank", "local-size"};
    for (size_t i = 0; i < sizeof of_one / sizeof *of_one; i++)
        if (given(q, of_one[i]))
            return HN_FAIL(HN_ERR_ARG,
                           "--%s: for ranks that were started one by one (--job-rank, --job-size), "
                           "these are started here",
                           of_one[i]);
    return HN_OK;
}

hn_status hn_team_start(hn_team *t, const hn_team_request *q, hn_log *log, bool *go_on,
                        int *exit_code)
{
    t->request = *q;
    t->log = log;
    *go_on = true;
    HN_TRY(find(t));
    if (t->ranks.launcher == HN_LAUNCHER_NONE) {
        hn_launched l = {.is_rank = true};
        int n;
        HN_TRY(own_ranks(q, &n));
        if (n > 1) {
            HN_TRY(check_forked(q));
            HN_TRY(hn_launch(&(hn_launch_options){.n = n, .log = log}, &l));
            *go_on = l.is_rank;
            *exit_code = l.exit_code;
            if (!l.is_rank) return HN_OK;
            HN_TRY(find(t));
        }
    } else if (given(q, "gpus") || given(q, "ranks")) {
        name_host(t);
        return HN_FAIL(HN_ERR_ARG, "--gpus and --ranks: %s has started %d ranks already",
                       hn_launcher_name(t->ranks.launcher), t->ranks.size);
    }
    if (hn_team_alone(t)) return HN_OK;
    name_host(t);
    t->own_log = (hn_log){.line = say, .context = t};
    if (!hn_team_leads(t)) *log = (hn_log){.line = say_nothing};
    return choose_device(t);
}

/* ---- together ---- */

hn_status hn_team_join(hn_team *t)
{
    hn_hub_options o = {0};
    char text[HN_RANKS_TEXT];
    if (hn_team_alone(t)) return HN_OK;
    share_cores(t);
    hn_comm_hub_options(&t->ranks, &o);
    o.host = t->place.host;
    o.stall_s = t->request.options->stall_timeout > 0 ? t->request.options->stall_timeout : -1;
    o.log = &t->own_log;
    hn_ranks_text(&t->ranks, text);
    hn_info(t->log, "%d ranks, one process each: %s", t->ranks.size, text);
    t->ranks.listen_fd = 0; /* the hub's */
    return hn_hub_open(&o, &t->hub);
}

enum { KIND_TEXT = 64 };

/* "NVIDIA H200" of "cuda:0, NVIDIA H200, ..."; "CPU". */
static void kind_of_device(const hn_device *d, char kind[KIND_TEXT])
{
    const char *text = strstr(hn_device_text(d), ", ");
    const bool gpu = hn_device_kind_of(d) == HN_DEVICE_CUDA && text != NULL;
    memset(kind, 0, KIND_TEXT);
    if (gpu)
        snprintf(kind, KIND_TEXT, "%.*s", (int)strcspn(text + 2, ","), text + 2);
    else
        snprintf(kind, KIND_TEXT, "CPU");
}

/* "4 x NVIDIA H200 on gnode7, 4 x NVIDIA H200 on gnode8": neighbours that are alike in one. */
static void tell_devices(const hn_team *t, const char (*kind)[KIND_TEXT])
{
    char text[1024] = "";
    size_t at = 0;
    for (int r = 0, n; r < t->ranks.size && at < sizeof text; r += n) {
        const char *host = hn_hub_host(t->hub, r);
        for (n = 1; r + n < t->ranks.size; n++)
            if (strcmp(kind[r + n], kind[r]) != 0 || strcmp(hn_hub_host(t->hub, r + n), host) != 0)
                break;
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%d x %s on %s", r > 0 ? ", " : "", n,
                               kind[r], host);
    }
    if (t->comm != NULL)
        hn_info(t->log, "ranks: %s; sums over them by %s", text,
                hn_comm_collectives(t->comm)->text);
    else
        hn_info(t->log, "ranks: %s", text);
}

static hn_status compare_devices(hn_team *t, hn_device *d)
{
    char kind[KIND_TEXT], (*all)[KIND_TEXT] = hn_calloc((size_t)t->ranks.size, sizeof *all);
    if (all == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %d ranks", t->ranks.size);
    kind_of_device(d, kind);
    const hn_status st = hn_hub_gather(t->hub, kind, KIND_TEXT, all);
    if (st == HN_OK) tell_devices(t, (const char(*)[KIND_TEXT])all);
    hn_free(all);
    return st;
}

hn_status hn_team_devices(hn_team *t, hn_device *d)
{
    if (hn_team_alone(t)) return HN_OK;
    HN_TRY(hn_comm_open(t->hub, d, &t->comm));
    return compare_devices(t, d);
}

hn_status hn_team_places(hn_team *t, hn_device *d)
{
    if (hn_team_alone(t)) return HN_OK;
    HN_TRY(hn_comm_check(t->hub, d));
    return compare_devices(t, d);
}

void hn_team_leave(hn_team *t, hn_status st)
{
    if (t->hub != NULL && st != HN_OK && hn_hub_dead(t->hub) == NULL)
        hn_hub_fail(t->hub, hn_last_text());
    t->together = st == HN_OK;
}

void hn_team_say_error(const hn_team *t, hn_status st, const char *program, const char *verb)
{
    if (st == HN_ERR_COMM && hn_hub_dead(t->hub) != NULL) return;
    if (hn_team_alone(t))
        fprintf(stderr, "%s %s: %s\n", program, verb, hn_last_error());
    else /* in one call: others write, too */
        fprintf(stderr, "rank %d on %s: %s %s: %s\n", t->ranks.rank, t->place.host, program, verb,
                hn_last_error());
}

void hn_team_devices_close(hn_team *t, hn_status st)
{
    hn_team_leave(t, st);
    hn_comm_close(t->comm, t->together);
    t->comm = NULL;
}

void hn_team_close(hn_team *t)
{
    hn_comm_close(t->comm, t->together);
    hn_hub_close(t->hub);
    *t = (hn_team){0};
}

void hn_team_at(const hn_team *t, hn_hub_phase phase, int64_t step)
{
    if (t->hub != NULL) hn_hub_at(t->hub, phase, step);
}

hn_status hn_team_wait(const hn_team *t) { return t->hub ? hn_hub_barrier(t->hub) : HN_OK; }

hn_status hn_team_in_turn(const hn_team *t, hn_status (*work)(void *context), void *context)
{
    const bool first = hn_team_alone(t) || t->ranks.local_rank == 0;
    if (first) HN_TRY(work(context));
    HN_TRY(hn_team_wait(t));
    return first ? HN_OK : work(context);
}

hn_status hn_team_share_text(const hn_team *t, char **text)
{
    int64_t n = *text && hn_team_leads(t) ? (int64_t)strlen(*text) + 1 : 0;
    if (t->hub == NULL) return HN_OK;
    HN_TRY(hn_hub_share(t->hub, &n, sizeof n, 0));
    if (!hn_team_leads(t)) {
        hn_free(*text);
        *text = n > 0 ? hn_calloc((size_t)n, 1) : NULL;
        if (n > 0 && *text == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " bytes of text", n);
    }
    return n > 0 ? hn_hub_share(t->hub, *text, (size_t)n, 0) : HN_OK;
}

hn_status hn_team_same(const hn_team *t, const char *what, const char *value)
{
    enum { BYTES = SHA256_DIGEST_LENGTH };
    unsigned char own[BYTES];
    if (t->hub == NULL) return HN_OK;
    unsigned char *all = hn_malloc((size_t)t->ranks.size * BYTES);
    if (all == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to compare %d ranks", t->ranks.size);
    SHA256((const unsigned char *)value, strlen(value), own);
    hn_status st = hn_hub_gather(t->hub, own, BYTES, all);
    for (int r = 1; st == HN_OK && r < t->ranks.size; r++)
        if (memcmp(all, all + (size_t)r * BYTES, BYTES) != 0)
            st = HN_FAIL(HN_ERR_ARG, "rank %d on %s has other %s than rank 0 on %s", r,
                         hn_hub_host(t->hub, r), what, hn_hub_host(t->hub, 0));
    hn_free(all);
    return st;
}

bool hn_team_stops(const hn_team *t, const hn_step_report *r)
{
    return hn_team_alone(t) ? hn_signals_caught() != 0 : r->stop > 0;
}

/* How many parts come before the next agreement, when `every` of them took mean_s. */
static int64_t next_interval(int64_t every, double mean_s)
{
    const double wanted_s = 0.25, most = 2 * (double)every;
    const double fit = mean_s > 0 ? (double)every * wanted_s / mean_s : most;
    return fit < 1 ? 1 : (int64_t)(fit < most ? fit : most);
}

hn_status hn_team_asked(const hn_team *t, hn_team_looks *l, bool *asked)
{
    *asked = false;
    if (t->hub == NULL) {
        *asked = hn_signals_caught() != 0;
        return HN_OK;
    }
    if (l->every > 0 && ++l->waited < l->every) return HN_OK;
    const double own_s = l->every > 0 ? (double)(hn_clock_ns() - l->last_ns) * 1e-9 : 0;
    double sum[] = {hn_signals_caught() != 0, own_s};
    HN_TRY(hn_hub_sum_f64(t->hub, sum, 2));
    *asked = sum[0] > 0;
    /* out of the sum alone, which has the same bits on all ranks: so has the number */
    l->every = next_interval(l->every, sum[1] / (double)t->ranks.size);
    l->waited = 0;
    l->last_ns = hn_clock_ns();
    return HN_OK;
}

hn_share hn_team_share(const hn_team *t, int64_t per_step)
{
    return (hn_share){.rank = t->ranks.rank, .ranks = hn_team_size(t), .per_step = per_step};
}
