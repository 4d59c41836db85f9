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
#include "runtime/train/signals.h"

static bool is(const char *text, const char *what) { return strcmp(text, what) == 0; }

/* ---- which rank this is ---- */

static hn_status find(hn_session *s)
{
    const hn_run_config *c = s->run;
    const hn_ranks_request q = {.rank = c->rank,
                                .size = c->size,
                                .local_rank = c->local_rank,
                                .local_size = c->local_size,
                                .rendezvous = c->rendezvous};
    return hn_ranks_find(&q, NULL, NULL, &s->ranks);
}

/* --gpus; 0: all. */
static hn_status wanted_gpus(const hn_run_config *c, int *out)
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
static hn_status wanted_ranks(const hn_session *s, int *out)
{
    const hn_run_config *c = s->run;
    const bool gpus = hn_options_given(s->given, "gpus");
    int asked;
    *out = 1;
    HN_TRY(wanted_gpus(c, &asked));
    if (is(c->device, "cpu")) {
        if (gpus)
            return HN_FAIL(HN_ERR_ARG, "--gpus %s: of --device cuda; on the CPU it is --ranks N",
                           c->gpus);
        *out = (int)c->ranks;
        return HN_OK;
    }
    if (c->ranks > 1)
        return HN_FAIL(HN_ERR_ARG, "--ranks %" PRId64 ": of --device cpu; on GPUs it is --gpus N",
                       c->ranks);
    if (strncmp(c->device, "cuda:", 5) == 0) {
        if (asked > 1)
            return HN_FAIL(HN_ERR_ARG, "--gpus %s: --device %s is one GPU", c->gpus, c->device);
        return HN_OK;
    }
    *out = asked;
    return HN_OK;
}

/* How many ranks to fork. */
static hn_status own_ranks(const hn_session *s, int *out)
{
    char why[256] = "";
    int asked, there = 0;
    HN_TRY(wanted_ranks(s, &asked));
    *out = asked > 0 ? asked : 1;
    if (asked == 1 || is(s->run->device, "cpu")) return HN_OK;
    const hn_status st = hn_launch_count_devices(&there, why, sizeof why);
    if (st != HN_OK && asked == 0) return HN_OK; /* whoever opens the device says why */
    HN_TRY(st);
    if (asked > there)
        return HN_FAIL(HN_ERR_ARG, "--gpus %d: %d visible%s%s", asked, there, why[0] ? "; " : "",
                       why);
    if (asked == 0 && there > 0) *out = there;
    return HN_OK;
}

hn_status hn_team_plan(hn_session *s, int *out)
{
    HN_TRY(wanted_ranks(s, out));
    if (*out == 0 && (hn_launch_count_devices(out, NULL, 0) != HN_OK || *out < 1)) *out = 1;
    s->per_step = s->run->accumulation * *out;
    s->planned_ranks = *out;
    return HN_OK;
}

static void say(void *context, hn_log_level level, const char *text)
{
    const hn_session *s = context;
    if (hn_team_alone(s) || hn_team_leads(s))
        fprintf(stderr, "%s%s\n", level == HN_LOG_WARN ? "warning: " : "", text);
    else if (level == HN_LOG_WARN)
        fprintf(stderr, "rank %d on %s: %s\n", s->ranks.rank, s->place.host, text);
}

static void say_nothing(void *context, hn_log_level level, const char *text)
{
    (void)context, (void)level, (void)text;
}

/* The GPU of a rank among several; else the device of the options. */
static hn_status choose_device(hn_session *s)
{
    const hn_run_config *c = s->run;
    int visible = 0, index = 0;
    char why[256];
    if (hn_team_alone(s) || is(c->device, "cpu")) return HN_OK;
    if (strncmp(c->device, "cuda:", 5) == 0)
        return HN_FAIL(HN_ERR_ARG, "--device %s: each of %d ranks takes the GPU of its number",
                       c->device, s->ranks.size);
    HN_TRY(hn_device_count(&visible, why, sizeof why));
    if (visible == 0) return HN_OK; /* auto: the CPU; cuda: whoever opens it says why */
    HN_TRY(hn_ranks_device(&s->ranks, visible, &index));
    snprintf(s->place.device, sizeof s->place.device, "cuda:%d", index);
    return HN_OK;
}

/* Ranks that share a host share its cores, unless somebody has said how many threads each has. */
static void share_cores(const hn_session *s)
{
    const int n = s->ranks.local_size > 0 ? s->ranks.local_size : 1;
    const int cores = omp_get_num_procs();
    if (n == 1 || s->run->threads > 0 || getenv("OMP_NUM_THREADS")) return;
    omp_set_num_threads(cores / n > 0 ? cores / n : 1);
}

hn_status hn_team_start(hn_session *s, bool *go_on, int *exit_code)
{
    const hn_log log = s->log;
    *go_on = true;
    HN_TRY(find(s));
    if (s->ranks.launcher == HN_LAUNCHER_NONE) {
        hn_launched l = {.is_rank = true};
        int n;
        HN_TRY(own_ranks(s, &n));
        if (n > 1) {
            HN_TRY(hn_launch(&(hn_launch_options){.n = n, .log = &log}, &l));
            *go_on = l.is_rank;
            *exit_code = l.exit_code;
            if (!l.is_rank) return HN_OK;
            HN_TRY(find(s));
        }
    } else if (hn_options_given(s->given, "gpus") || hn_options_given(s->given, "ranks")) {
        return HN_FAIL(HN_ERR_ARG, "--gpus and --ranks: %s has started %d ranks already",
                       hn_launcher_name(s->ranks.launcher), s->ranks.size);
    }
    if (hn_team_alone(s)) return HN_OK;
    if (s->ranks.host[0] != '\0')
        snprintf(s->place.host, sizeof s->place.host, "%s", s->ranks.host);
    else if (gethostname(s->place.host, sizeof s->place.host) != 0)
        snprintf(s->place.host, sizeof s->place.host, "?");
    s->place.host[sizeof s->place.host - 1] = '\0';
    s->team_log = (hn_log){.line = say, .context = s};
    if (!hn_team_leads(s)) s->log = (hn_log){.line = say_nothing};
    return choose_device(s);
}

/* ---- together ---- */

hn_status hn_team_join(hn_session *s)
{
    hn_hub_options o = {0};
    char text[HN_RANKS_TEXT];
    if (hn_team_alone(s)) return HN_OK;
    share_cores(s);
    hn_comm_hub_options(&s->ranks, &o);
    o.host = s->place.host;
    o.stall_s = s->run->stall_timeout > 0 ? s->run->stall_timeout : -1;
    o.log = &s->team_log;
    hn_ranks_text(&s->ranks, text);
    hn_info(&s->log, "%d ranks, one process each: %s", s->ranks.size, text);
    s->ranks.listen_fd = 0; /* the hub's */
    return hn_hub_open(&o, &s->hub);
}

enum { KIND_TEXT = 64 };

/* "NVIDIA H200" of "cuda:0, NVIDIA H200, ..."; "CPU". */
static void kind_of_device(const hn_session *s, char kind[KIND_TEXT])
{
    const char *text = strstr(hn_device_text(s->device), ", ");
    const bool gpu = hn_device_kind_of(s->device) == HN_DEVICE_CUDA && text != NULL;
    memset(kind, 0, KIND_TEXT);
    if (gpu)
        snprintf(kind, KIND_TEXT, "%.*s", (int)strcspn(text + 2, ","), text + 2);
    else
        snprintf(kind, KIND_TEXT, "CPU");
}

/* "4 x NVIDIA H200 on gnode7, 4 x NVIDIA H200 on gnode8": neighbours that are alike in one. */
static void tell_devices(const hn_session *s, const char (*kind)[KIND_TEXT])
{
    char text[1024] = "";
    size_t at = 0;
    for (int r = 0, n; r < s->ranks.size && at < sizeof text; r += n) {
        const char *host = hn_hub_host(s->hub, r);
        for (n = 1; r + n < s->ranks.size; n++)
            if (strcmp(kind[r + n], kind[r]) != 0 || strcmp(hn_hub_host(s->hub, r + n), host) != 0)
                break;
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%d x %s on %s", r > 0 ? ", " : "", n,
                               kind[r], host);
    }
    hn_info(&s->log, "ranks: %s; sums over them by %s", text, hn_comm_collectives(s->comm)->text);
}

hn_status hn_team_devices(hn_session *s)
{
    if (hn_team_alone(s)) return HN_OK;
    char kind[KIND_TEXT], (*all)[KIND_TEXT] = hn_calloc((size_t)s->ranks.size, sizeof *all);
    if (all == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %d ranks", s->ranks.size);
    hn_status st = hn_comm_open(s->hub, s->device, &s->comm);
    kind_of_device(s, kind);
    if (st == HN_OK) st = hn_hub_gather(s->hub, kind, KIND_TEXT, all);
    if (st == HN_OK) tell_devices(s, (const char(*)[KIND_TEXT])all);
    hn_free(all);
    return st;
}

void hn_team_leave(hn_session *s, hn_status st)
{
    if (s->hub != NULL && st != HN_OK && hn_hub_dead(s->hub) == NULL)
        hn_hub_fail(s->hub, hn_last_text());
    s->together = st == HN_OK;
}

void hn_team_say_error(const hn_session *s, hn_status st, const char *program, const char *verb)
{
    if (st == HN_ERR_COMM && hn_hub_dead(s->hub) != NULL) return;
    if (!hn_team_alone(s)) fprintf(stderr, "rank %d on %s: ", s->ranks.rank, s->place.host);
    fprintf(stderr, "%s %s: %s\n", program, verb, hn_last_error());
}

void hn_team_at(const hn_session *s, hn_hub_phase phase, int64_t step)
{
    if (s->hub != NULL) hn_hub_at(s->hub, phase, step);
}

hn_status hn_team_wait(const hn_session *s) { return s->hub ? hn_hub_barrier(s->hub) : HN_OK; }

hn_status hn_team_in_turn(hn_session *s, hn_status (*work)(hn_session *s))
{
    const bool first = hn_team_alone(s) || s->ranks.local_rank == 0;
    if (first) HN_TRY(work(s));
    HN_TRY(hn_team_wait(s));
    return first ? HN_OK : work(s);
}

hn_status hn_team_share_text(const hn_session *s, char **text)
{
    int64_t n = *text && hn_team_leads(s) ? (int64_t)strlen(*text) + 1 : 0;
    if (s->hub == NULL) return HN_OK;
    HN_TRY(hn_hub_share(s->hub, &n, sizeof n, 0));
    if (!hn_team_leads(s)) {
        hn_free(*text);
        *text = n > 0 ? hn_calloc((size_t)n, 1) : NULL;
        if (n > 0 && *text == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " bytes of text", n);
    }
    return n > 0 ? hn_hub_share(s->hub, *text, (size_t)n, 0) : HN_OK;
}

hn_status hn_team_same(const hn_session *s, const char *what, const char *value)
{
    enum { BYTES = SHA256_DIGEST_LENGTH };
    unsigned char own[BYTES];
    if (s->hub == NULL) return HN_OK;
    unsigned char *all = hn_malloc((size_t)s->ranks.size * BYTES);
    if (all == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to compare %d ranks", s->ranks.size);
    SHA256((const unsigned char *)value, strlen(value), own);
    hn_status st = hn_hub_gather(s->hub, own, BYTES, all);
    for (int r = 1; st == HN_OK && r < s->ranks.size; r++)
        if (memcmp(all, all + (size_t)r * BYTES, BYTES) != 0)
            st = HN_FAIL(HN_ERR_ARG, "rank %d on %s has other %s than rank 0 on %s", r,
                         hn_hub_host(s->hub, r), what, hn_hub_host(s->hub, 0));
    hn_free(all);
    return st;
}

bool hn_team_stops(const hn_session *s, const hn_step_report *r)
{
    return hn_team_alone(s) ? hn_signals_caught() != 0 : r->stop > 0;
}

hn_share hn_team_share(const hn_session *s)
{
    return (hn_share){
        .rank = s->ranks.rank, .ranks = hn_team_size(s), .per_step = hn_session_per_step(s)};
}
