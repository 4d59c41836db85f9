#include "runtime/comm/ranks.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/comm/hostlist.h"

enum {
    PORT_MAX = 65535,
    SLURM_PORT = 20000,     /* first of as many ports */
    SLURM_PORTS = 20000,    /* ports of jobs: below those that Linux gives out by itself */
    SLURM_STEP_PRIME = 7919 /* two steps of a job meet on different ports */
};
/* Steps from here on are no steps of srun: scripts of sbatch, shells, daemons (slurm.h). */
static const int64_t SLURM_SPECIAL_STEP = 0xfffffff0;

static const char *const LAUNCHER_NAMES[HN_LAUNCHERS] = {
#define X(name, text) text,
    HN_LAUNCHER_LIST(X)
#undef X
};

const char *hn_launcher_name(hn_launcher launcher) { return LAUNCHER_NAMES[launcher]; }

/* ---- values and their names ---- */

typedef struct {
    hn_ranks_lookup *lookup;
    void *context;
} environment;

/* What was given and under which name; value NULL: nothing. */
typedef struct {
    const char *name, *value;
} given;

static const char *process_environment(void *context, const char *name)
{
    (void)context;
    return getenv(name);
}

static given variable(const environment *e, const char *name)
{
    const char *value = e->lookup(e->context, name);
    return (given){.name = name, .value = value != NULL && value[0] != '\0' ? value : NULL};
}

static given either(given first, given second) { return first.value != NULL ? first : second; }

/* A flag, or the variable of the same meaning where it is not given. */
static given flag(const char *name, const char *value, const environment *e, const char *var)
{
    if (value != NULL && value[0] != '\0') return (given){.name = name, .value = value};
    return variable(e, var);
}

/* Digits only: no sign, no blank, nothing behind them. */
static hn_status number(given g, int64_t min, int64_t max, int64_t *out)
{
    int64_t v = 0;
    bool good = g.value[0] != '\0';
    for (const char *c = g.value; *c != '\0' && good; c++) {
        good = *c >= '0' && *c <= '9' && v <= (INT64_MAX - 9) / 10;
        if (good) v = 10 * v + (*c - '0');
    }
    if (!good || v < min || v > max)
        return HN_FAIL(HN_ERR_ARG, "%s=%.80s: a whole number from %lld to %lld belongs here",
                       g.name, g.value, (long long)min, (long long)max);
    *out = v;
    return HN_OK;
}

/* The number, or `otherwise` where none is given. */
static hn_status number_or(given g, int64_t min, int64_t max, int64_t otherwise, int64_t *out)
{
    if (g.value != NULL) return number(g, min, max, out);
    *out = otherwise;
    return HN_OK;
}

static hn_status missing(given there, const char *name)
{
    return HN_FAIL(HN_ERR_ARG, "%s=%.80s is set, but not %s", there.name, there.value, name);
}

/* Text of a result; `name` says what made it too long. */
static hn_status keep(char *to, size_t size, const char *name, const char *text)
{
    const size_t n = strlen(text);
    if (n >= size) return HN_FAIL(HN_ERR_ARG, "%s: %zu bytes, there may be %zu", name, n, size - 1);
    memcpy(to, text, n + 1);
    return HN_OK;
}

/* ---- rank and size ---- */

typedef struct {
    given rank, size, local_rank, local_size;
} place;

/* Fills r's numbers. What is missing of a pair, or does not fit, is an error. */
static hn_status take_place(const place *p, const char *local_name, hn_ranks *r)
{
    int64_t rank = 0, size = 0, local_rank = 0, local_size = 0;
    if (p->rank.value == NULL) return missing(p->size, p->rank.name);
    if (p->size.value == NULL) return missing(p->rank, p->size.name);
    HN_TRY(number(p->size, 1, HN_RANKS_MAX, &size));
    HN_TRY(number(p->rank, 0, HN_RANKS_MAX - 1, &rank));
    if (rank >= size)
        return HN_FAIL(HN_ERR_ARG, "%s=%lld, but %s=%lld: ranks count from 0", p->rank.name,
                       (long long)rank, p->size.name, (long long)size);
    if (p->local_rank.value == NULL && size > 1)
        return HN_FAIL(HN_ERR_ARG,
                       "%s=%lld, but not %s: this rank's number on its host, 0 where each host "
                       "has one",
                       p->size.name, (long long)size, local_name);
    HN_TRY(number_or(p->local_rank, 0, HN_RANKS_MAX - 1, 0, &local_rank));
    HN_TRY(number_or(p->local_size, 1, HN_RANKS_MAX, 0, &local_size));
    if (local_size > size)
        return HN_FAIL(HN_ERR_ARG, "%s=%lld, but %s=%lld", p->local_size.name,
                       (long long)local_size, p->size.name, (long long)size);
    const given limit = local_size > 0 ? p->local_size : p->size;
    if (local_rank >= (local_size > 0 ? local_size : size))
        return HN_FAIL(HN_ERR_ARG, "%s=%lld, but %s=%.80s", p->local_rank.name,
                       (long long)local_rank, limit.name, limit.value);
    r->rank = (int)rank;
    r->size = (int)size;
    r->local_rank = (int)local_rank;
    r->local_size = size == 1 ? 1 : (int)local_size;
    r->local = r->local_size == r->size;
    return HN_OK;
}

/* ---- where rank 0 listens ---- */

static bool is_host(const char *text, size_t n, bool ipv6)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";
    if (n == 0 || n > 253) return false;
    for (size_t i = 0; i < n; i++) {
        const bool more = ipv6 && (text[i] == ':' || text[i] == '%');
        if (text[i] == '\0' || (!more && strchr(plain, text[i]) == NULL)) return false;
    }
    return true;
}

/* host  with colons in it: an IPv6 address without its brackets */
static hn_status keep_address(given from, const char *host, size_t n, int64_t port, hn_ranks *r)
{
    const bool ipv6 = memchr(host, ':', n) != NULL;
    if (!is_host(host, n, ipv6))
        return HN_FAIL(HN_ERR_ARG, "%s=%.200s: no name or address of a host", from.name,
                       from.value);
    snprintf(r->address, sizeof r->address, "%s%.*s%s:%lld", ipv6 ? "[" : "", (int)n, host,
             ipv6 ? "]" : "", (long long)port);
    return HN_OK;
}

static bool is_loopback(const char *address)
{
    return strncmp(address, "127.", 4) == 0 || strncmp(address, "[::1]:", 6) == 0 ||
           strncmp(address, "localhost:", 10) == 0;
}

static hn_status not_a_rendezvous(given g)
{
    return HN_FAIL(HN_ERR_ARG,
                   "%s=%.200s: tcp:HOST:PORT, tcp:[IPV6]:PORT or file:PATH belongs here", g.name,
                   g.value);
}

static hn_status take_tcp(given g, hn_ranks *r)
{
    const char *host = g.value + strlen("tcp:"), *colon = strrchr(host, ':');
    int64_t port = 0;
    if (colon == NULL) return not_a_rendezvous(g);
    size_t n = (size_t)(colon - host);
    const bool brackets = n > 2 && host[0] == '[' && host[n - 1] == ']';
    if (brackets) host++, n -= 2;
    if (n == 0 || brackets != (memchr(host, ':', n) != NULL)) return not_a_rendezvous(g);
    if (number((given){.name = g.name, .value = colon + 1}, 1, PORT_MAX, &port) != HN_OK)
        return not_a_rendezvous(g);
    HN_TRY(keep_address(g, host, n, port, r));
    r->local = r->local && is_loopback(r->address);
    return HN_OK;
}

static hn_status take_rendezvous(given g, hn_ranks *r)
{
    if (strncmp(g.value, "tcp:", 4) == 0) return take_tcp(g, r);
    if (strncmp(g.value, "file:", 5) != 0 || g.value[5] == '\0') return not_a_rendezvous(g);
    return keep(r->file, sizeof r->file, g.name, g.value + 5);
}

static hn_status no_address(const hn_ranks *r)
{
    return HN_FAIL(HN_ERR_ARG,
                   "%s: nothing says where %d ranks meet; give --rendezvous (or "
                   "HONE_RENDEZVOUS) as tcp:HOST:PORT, the host that rank 0 runs on, or "
                   "file:PATH on a file system that all ranks see",
                   hn_launcher_name(r->launcher), r->size);
}

/* Ranks of one host need no name of it. */
static hn_status keep_master(given from, int64_t port, hn_ranks *r)
{
    static const char loopback[] = "127.0.0.1";
    const char *host = r->local ? loopback : from.value;
    return keep_address(from, host, strlen(host), port, r);
}

/* ---- the launchers ---- */

/* Each says with `launcher` whether it knows the process, fills what it knows of r, and the address
 * unless `met`: then the user has named the place. */

static hn_status find_flags(const hn_ranks_request *q, const environment *e, bool met, hn_ranks *r)
{
    const given rank = flag("--job-rank", q->rank, e, "HONE_RANK");
    const given size = flag("--job-size", q->size, e, "HONE_RANKS");
    const given fd = variable(e, "HONE_LISTEN_FD");
    if (rank.value == NULL && size.value == NULL) {
        static const char *const alone[] = {"HONE_LOCAL_RANK", "HONE_LOCAL_RANKS",
                                            "HONE_LISTEN_FD"};
        for (size_t i = 0; i < sizeof alone / sizeof *alone; i++) {
            const given g = variable(e, alone[i]);
            if (g.value != NULL) return missing(g, "HONE_RANK");
        }
        return HN_OK;
    }
    const place p = {
        .rank = rank.value != NULL ? rank : (given){"--job-rank (HONE_RANK)", NULL},
        .size = size.value != NULL ? size : (given){"--job-size (HONE_RANKS)", NULL},
        .local_rank = flag("--local-rank", q->local_rank, e, "HONE_LOCAL_RANK"),
        .local_size = flag("--local-size", q->local_size, e, "HONE_LOCAL_RANKS"),
    };
    r->launcher = HN_LAUNCHER_FLAGS;
    HN_TRY(take_place(&p, "--local-rank (HONE_LOCAL_RANK)", r));
    if (fd.value != NULL) {
        int64_t n = 0;
        HN_TRY(number(fd, 3, INT32_MAX, &n));
        if (r->rank != 0)
            return HN_FAIL(HN_ERR_ARG, "%s=%lld in rank %d: only rank 0 listens", fd.name,
                           (long long)n, r->rank);
        r->listen_fd = (int)n;
    }
    const given where = flag("--rendezvous", q->rendezvous, e, "HONE_RENDEZVOUS");
    snprintf(r->job, sizeof r->job, "flags-%.200s", where.value ? where.value : "");
    return met || r->size == 1 ? HN_OK : no_address(r);
}

static hn_status find_torchrun(const environment *e, bool met, hn_ranks *r)
{
    const given host = variable(e, "MASTER_ADDR"), port = variable(e, "MASTER_PORT");
    const given run = variable(e, "TORCHELASTIC_RUN_ID");
    const given agent = variable(e, "TORCHELASTIC_USE_AGENT_STORE");
    const place p = {
        .rank = variable(e, "RANK"),
        .size = variable(e, "WORLD_SIZE"),
        .local_rank = variable(e, "LOCAL_RANK"),
        .local_size = variable(e, "LOCAL_WORLD_SIZE"),
    };
    int64_t restarts = 0, number_of_port = 0;
    /* WORLD_SIZE alone stands in many scripts around srun: check_torch_rest looks at it */
    if (p.rank.value == NULL) return HN_OK;
    r->launcher = HN_LAUNCHER_TORCHRUN;
    HN_TRY(take_place(&p, "LOCAL_RANK", r));
    HN_TRY(number_or(variable(e, "TORCHELASTIC_RESTART_COUNT"), 0, INT32_MAX, 0, &restarts));
    r->restarts = (int)restarts;
    if (r->size == 1) return HN_OK;
    if (!met || port.value != NULL) {
        if (host.value == NULL) return missing(p.size, "MASTER_ADDR");
        if (port.value == NULL) return missing(host, "MASTER_PORT");
        const bool taken = agent.value != NULL && strcmp(agent.value, "True") == 0;
        HN_TRY(number(port, 1, taken ? PORT_MAX - 1 : PORT_MAX, &number_of_port));
        if (!met) HN_TRY(keep_master(host, number_of_port + taken, r));
    }
    snprintf(r->job, sizeof r->job, "torchrun-%.120s@%.100s:%lld-r%d", run.value ? run.value : "",
             host.value ? host.value : "", (long long)number_of_port, r->restarts);
    return HN_OK;
}

/* A step of srun with several tasks; *size 0: it is none. */
static hn_status slurm_step(const environment *e, given *rank, given *size, int64_t *step)
{
    const given id = either(variable(e, "SLURM_STEP_ID"), variable(e, "SLURM_STEPID"));
    int64_t n = 0;
    *rank = variable(e, "SLURM_PROCID");
    *size = either(variable(e, "SLURM_STEP_NUM_TASKS"),
                   either(variable(e, "SLURM_NTASKS"), variable(e, "SLURM_NPROCS")));
    if (id.value != NULL) HN_TRY(number(id, 0, UINT32_MAX, step));
    if (id.value == NULL || *step >= SLURM_SPECIAL_STEP || size->value == NULL) {
        size->value = NULL;
        return HN_OK;
    }
    HN_TRY(number(*size, 1, HN_RANKS_MAX, &n));
    if (n == 1) size->value = NULL;
    return HN_OK;
}

/* What is wrong with a list, and which variable it is. */
static hn_status in_list(given list, hn_status st)
{
    return st == HN_OK ? HN_OK : HN_FAIL(st, "%s: %s", list.name, hn_last_text());
}

/* Tasks on this host by SLURM's list, 0 where it says nothing. */
static hn_status slurm_tasks(const environment *e, int64_t nodes, int64_t size, int64_t *here)
{
    const given node = variable(e, "SLURM_NODEID");
    const given of_step = variable(e, "SLURM_STEP_TASKS_PER_NODE");
    int64_t index = 0, n = 0, total = 0, tasks = 0;
    *here = nodes == 1 ? size : 0;
    if (of_step.value == NULL || (node.value == NULL && nodes > 1)) return HN_OK;
    HN_TRY(number_or(node, 0, nodes - 1, 0, &index));
    HN_TRY(in_list(of_step, hn_hostlist_tasks(of_step.value, index, &tasks, &n, &total)));
    if (n != nodes || total != size)
        return HN_FAIL(HN_ERR_ARG, "%s=%.80s: %lld tasks on %lld hosts, the step has %lld on %lld",
                       of_step.name, of_step.value, (long long)total, (long long)n, (long long)size,
                       (long long)nodes);
    *here = tasks;
    return HN_OK;
}

static hn_status slurm_address(given list, int64_t job, int64_t step, hn_ranks *r)
{
    char first[HN_HOSTLIST_NAME];
    HN_TRY(in_list(list, hn_hostlist_name(list.value, 0, first)));
    return keep_master((given){.name = list.name, .value = first},
                       SLURM_PORT + (job + SLURM_STEP_PRIME * step) % SLURM_PORTS, r);
}

static hn_status find_slurm(const environment *e, bool met, hn_ranks *r)
{
    const given list =
        either(variable(e, "SLURM_STEP_NODELIST"),
               either(variable(e, "SLURM_JOB_NODELIST"), variable(e, "SLURM_NODELIST")));
    const given id = either(variable(e, "SLURM_JOB_ID"), variable(e, "SLURM_JOBID"));
    const given host = variable(e, "SLURMD_NODENAME");
    const given told = variable(e, "SLURM_STEP_NUM_NODES");
    place p = {.local_rank = variable(e, "SLURM_LOCALID")};
    int64_t job = 0, step = 0, restarts = 0, nodes = 0, n = 0, here = 0;
    char text[24];
    HN_TRY(slurm_step(e, &p.rank, &p.size, &step));
    if (p.size.value == NULL) return HN_OK;
    if (list.value == NULL) return missing(p.size, "SLURM_STEP_NODELIST");
    if (id.value == NULL) return missing(p.size, "SLURM_JOB_ID");
    HN_TRY(number(id, 1, UINT32_MAX, &job));
    HN_TRY(number_or(variable(e, "SLURM_RESTART_COUNT"), 0, INT32_MAX, 0, &restarts));
    HN_TRY(number(p.size, 1, HN_RANKS_MAX, &n));
    HN_TRY(in_list(list, hn_hostlist_count(list.value, &nodes)));
    if (told.value != NULL) {
        int64_t other = 0;
        HN_TRY(number(told, 1, HN_HOSTLIST_MAX, &other));
        if (other != nodes)
            return HN_FAIL(HN_ERR_ARG, "%s=%lld, but %s=%.80s has %lld hosts", told.name,
                           (long long)other, list.name, list.value, (long long)nodes);
    }
    HN_TRY(slurm_tasks(e, nodes, n, &here));
    if (here > 0) {
        snprintf(text, sizeof text, "%lld", (long long)here);
        p.local_size = (given){.name = "tasks of this host", .value = text};
    }
    r->launcher = HN_LAUNCHER_SLURM;
    HN_TRY(take_place(&p, "SLURM_LOCALID", r));
    r->restarts = (int)restarts;
    snprintf(r->host, sizeof r->host, "%s", host.value ? host.value : "");
    snprintf(r->job, sizeof r->job, "slurm-%lld.%lld-r%d", (long long)job, (long long)step,
             r->restarts);
    return met ? HN_OK : slurm_address(list, job, step, r);
}

static hn_status find_open_mpi(const environment *e, bool met, hn_ranks *r)
{
    const given job = variable(e, "PMIX_NAMESPACE"), folder = variable(e, "PMIX_SERVER_TMPDIR");
    const place p = {
        .rank = variable(e, "OMPI_COMM_WORLD_RANK"),
        .size = variable(e, "OMPI_COMM_WORLD_SIZE"),
        .local_rank = variable(e, "OMPI_COMM_WORLD_LOCAL_RANK"),
        .local_size = variable(e, "OMPI_COMM_WORLD_LOCAL_SIZE"),
    };
    if (p.rank.value == NULL && p.size.value == NULL) return HN_OK;
    r->launcher = HN_LAUNCHER_OPEN_MPI;
    HN_TRY(take_place(&p, "OMPI_COMM_WORLD_LOCAL_RANK", r));
    if (r->size == 1) return HN_OK;
    snprintf(r->job, sizeof r->job, "openmpi-%.200s", job.value ? job.value : "");
    if (met) return HN_OK;
    if (!r->local || job.value == NULL || folder.value == NULL) return no_address(r);
    if (strchr(job.value, '/') != NULL || folder.value[0] != '/' ||
        strlen(folder.value) + strlen(job.value) + 8 > sizeof r->file)
        return HN_FAIL(HN_ERR_ARG, "%s=%.80s and %s=%.80s make no path of a file", folder.name,
                       folder.value, job.name, job.value);
    snprintf(r->file, sizeof r->file, "%.800s/hone-%.200s", folder.value, job.value);
    return HN_OK;
}

static hn_status find_pmi(const environment *e, bool met, hn_ranks *r)
{
    const given job = variable(e, "PMI_JOBID");
    const place p = {
        .rank = variable(e, "PMI_RANK"),
        .size = variable(e, "PMI_SIZE"),
        .local_rank = variable(e, "MPI_LOCALRANKID"),
        .local_size = variable(e, "MPI_LOCALNRANKS"),
    };
    hn_ranks mine = *r;
    if (p.rank.value == NULL && p.size.value == NULL) return HN_OK;
    mine.launcher = HN_LAUNCHER_PMI;
    HN_TRY(take_place(&p, "MPI_LOCALRANKID", &mine));
    if (mine.size == 1) return HN_OK; /* srun gives these to every process */
    *r = mine;
    snprintf(r->job, sizeof r->job, "pmi-%.200s", job.value ? job.value : "");
    return met ? HN_OK : no_address(r);
}

/* SLURM's step is that of a daemon which has started this process by other means. */
static hn_status started_in_step(const environment *e, bool *inside)
{
    const given pmi_rank = variable(e, "PMI_RANK"), pmi_size = variable(e, "PMI_SIZE");
    given rank, size;
    int64_t step = 0;
    *inside = variable(e, "OMPI_COMM_WORLD_SIZE").value != NULL ||
              variable(e, "OMPI_COMM_WORLD_RANK").value != NULL;
    if (*inside || pmi_rank.value == NULL || pmi_size.value == NULL) return HN_OK;
    HN_TRY(slurm_step(e, &rank, &size, &step));
    *inside = size.value != NULL && rank.value != NULL &&
              (strcmp(size.value, pmi_size.value) != 0 || strcmp(rank.value, pmi_rank.value) != 0);
    return HN_OK;
}

/* Variables of torchrun that speak against what was found. */
static hn_status check_torch_rest(const environment *e, const hn_ranks *r)
{
    static const char *const names[] = {"WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
                                        "TORCHELASTIC_RUN_ID"};
    const given size = variable(e, "WORLD_SIZE");
    if (r->launcher == HN_LAUNCHER_FLAGS || r->launcher == HN_LAUNCHER_TORCHRUN) return HN_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names && r->launcher == HN_LAUNCHER_NONE; i++) {
        const given g = variable(e, names[i]);
        if (g.value != NULL) return missing(g, "RANK");
    }
    if (size.value != NULL) {
        int64_t n = 0;
        HN_TRY(number(size, 1, HN_RANKS_MAX, &n));
        if (n != r->size)
            return HN_FAIL(HN_ERR_ARG, "%s=%lld without RANK, but %s has %d ranks", size.name,
                           (long long)n, hn_launcher_name(r->launcher), r->size);
    }
    return HN_OK;
}

/* What holds whatever the launcher: identity, secret. */
static hn_status take_common(const environment *e, hn_ranks *r)
{
    const given job = variable(e, "HONE_JOB"), secret = variable(e, "HONE_RENDEZVOUS_SECRET");
    if (r->size == 1) {
        r->job[0] = r->address[0] = r->file[0] = '\0';
        r->local = true;
        return HN_OK;
    }
    if (job.value != NULL) HN_TRY(keep(r->job, sizeof r->job, job.name, job.value));
    if (secret.value == NULL) return HN_OK;
    return keep(r->secret, sizeof r->secret, secret.name, secret.value);
}

hn_status hn_ranks_find(const hn_ranks_request *request, hn_ranks_lookup *lookup, void *context,
                        hn_ranks *out)
{
    const hn_ranks_request none = {0}, *q = request != NULL ? request : &none;
    const environment e = {.lookup = lookup ? lookup : process_environment, .context = context};
    const given where = flag("--rendezvous", q->rendezvous, &e, "HONE_RENDEZVOUS");
    const bool met = where.value != NULL;
    hn_ranks r = {.size = 1, .local_size = 1, .local = true};
    bool inside = false;
    HN_TRY(find_flags(q, &e, met, &r));
    if (r.launcher == HN_LAUNCHER_NONE) HN_TRY(find_torchrun(&e, met, &r));
    if (r.launcher == HN_LAUNCHER_NONE) HN_TRY(started_in_step(&e, &inside));
    if (r.launcher == HN_LAUNCHER_NONE && !inside) HN_TRY(find_slurm(&e, met, &r));
    if (r.launcher == HN_LAUNCHER_NONE) HN_TRY(find_open_mpi(&e, met, &r));
    if (r.launcher == HN_LAUNCHER_NONE) HN_TRY(find_pmi(&e, met, &r));
    HN_TRY(check_torch_rest(&e, &r));
    if (met && r.launcher != HN_LAUNCHER_NONE) HN_TRY(take_rendezvous(where, &r));
    HN_TRY(take_common(&e, &r));
    *out = r;
    return HN_OK;
}

/* ---- what follows from it ---- */

hn_status hn_ranks_device(const hn_ranks *r, int visible, int *index)
{
    if (visible > 1 && r->local_rank >= visible)
        return HN_FAIL(HN_ERR_ARG,
                       "rank %d of %d is number %d on its host (from 0), where only %d devices "
                       "are visible",
                       r->rank, r->size, r->local_rank, visible);
    *index = visible == 1 ? 0 : r->local_rank;
    return HN_OK;
}

void hn_ranks_text(const hn_ranks *r, char out[HN_RANKS_TEXT])
{
    const char *const launcher = hn_launcher_name(r->launcher);
    const bool file = r->file[0] != '\0';
    char here[48] = "";
    if (r->local_size > 0)
        snprintf(here, sizeof here, "%d of %d", r->local_rank, r->local_size);
    else
        snprintf(here, sizeof here, "%d", r->local_rank);
    if (r->size == 1)
        snprintf(out, HN_RANKS_TEXT, "rank 0 of 1, %s", launcher);
    else
        snprintf(out, HN_RANKS_TEXT, "rank %d of %d (%s on this host), %s, %s %.250s", r->rank,
                 r->size, here, launcher, file ? "file" : "address", file ? r->file : r->address);
}

void hn_ranks_drop_local(int *argc, char **argv)
{
    static const char *const names[] = {"--local-rank=", "--local_rank="};
    int kept = 1;
    for (int i = 1; i < *argc; i++)
        if (strcmp(argv[i], "--job-rank") == 0 || strncmp(argv[i], "--job-rank=", 11) == 0) return;
    for (int i = 1; i < *argc; i++) {
        bool drop = false;
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            const size_t n = strlen(names[k]);
            const char *const value = argv[i] + n;
            drop = drop || (strncmp(argv[i], names[k], n) == 0 && value[0] != '\0' &&
                            value[strspn(value, "0123456789")] == '\0');
        }
        if (!drop) argv[kept++] = argv[i];
    }
    *argc = *argc > 0 ? kept : 0;
    argv[*argc] = NULL;
}
