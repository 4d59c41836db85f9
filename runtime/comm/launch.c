#define _GNU_SOURCE /* prctl.h, SOCK_CLOEXEC */
#include "runtime/comm/launch.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/rand.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/comm/ranks.h"
#include "runtime/device/device.h"

enum { SECRET_BYTES = 16, FIRST_FREE_FD = 3, LEAVE_S = 10, KILL_S = 25 };

/* ---- where the ranks meet ---- */

static int listen_on(const struct sockaddr *address, socklen_t size)
{
    const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (bind(fd, address, size) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
    const int kept = errno;
    close(fd);
    errno = kept;
    return -1;
}

static bool place_of(int fd, char *text, size_t size)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } a = {0};
    socklen_t n = sizeof a;
    if (getsockname(fd, &a.any, &n) != 0) return false;
    if (a.any.sa_family == AF_INET)
        snprintf(text, size, "tcp:127.0.0.1:%d", ntohs(a.v4.sin_port));
    else
        snprintf(text, size, "tcp:[::1]:%d", ntohs(a.v6.sin6_port));
    return true;
}

/* A socket on a free port of the loopback interface. Its number is above those of standard input
 * and output, whatever the program was started with. */
static hn_status open_place(int *out, char *text, size_t size)
{
    const struct sockaddr_in v4 = {.sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int low = listen_on((const struct sockaddr *)&v4, sizeof v4);
    if (low < 0) low = listen_on((const struct sockaddr *)&v6, sizeof v6);
    const int fd = low < 0 ? -1 : fcntl(low, F_DUPFD_CLOEXEC, FIRST_FREE_FD);
    const bool good = fd >= 0 && place_of(fd, text, size);
    const hn_status st =
        good ? HN_OK
             : HN_FAIL(HN_ERR_COMM, "a port of the loopback interface for the ranks: %s",
                       strerror(errno));
    if (low >= 0) close(low);
    if (!good && fd >= 0) close(fd);
    if (good) *out = fd;
    return st;
}

/* ---- what the ranks find in their environment ---- */

static const char *const OWN_VARIABLES[] = {
    "HONE_RANK", "HONE_RANKS",      "HONE_LOCAL_RANK", "HONE_LOCAL_RANKS",
    "HONE_JOB",  "HONE_RENDEZVOUS", "HONE_LISTEN_FD",  "HONE_RENDEZVOUS_SECRET"};

static void forget_variables(void)
{
    for (size_t i = 0; i < sizeof OWN_VARIABLES / sizeof *OWN_VARIABLES; i++)
        unsetenv(OWN_VARIABLES[i]);
}

static hn_status set_number(const char *name, long long value)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", value);
    return setenv(name, text, 1) == 0 ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", name);
}

static hn_status set_text(const char *name, const char *value)
{
    return setenv(name, value, 1) == 0 ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", name);
}

/* What all ranks have in common. */
static hn_status set_job(int n, const char *place)
{
    unsigned char random[2 * SECRET_BYTES];
    char secret[2 * SECRET_BYTES + 1], job[2 * SECRET_BYTES + 32];
    if (RAND_bytes(random, sizeof random) != 1)
        return HN_FAIL(HN_ERR_IO, "no random bits for the secret of the ranks");
    for (int i = 0; i < SECRET_BYTES; i++) snprintf(secret + 2 * i, 3, "%02x", random[i]);
    int end = snprintf(job, sizeof job, "local-%ld-", (long)getpid());
    for (int i = SECRET_BYTES; i < 2 * SECRET_BYTES; i++)
        end += snprintf(job + end, 3, "%02x", random[i]);
    HN_TRY(set_number("HONE_RANKS", n));
    HN_TRY(set_number("HONE_LOCAL_RANKS", n));
    HN_TRY(set_text("HONE_JOB", job));
    HN_TRY(set_text("HONE_RENDEZVOUS", place));
    return set_text("HONE_RENDEZVOUS_SECRET", secret);
}

static hn_status set_rank(int rank, int listen_fd)
{
    HN_TRY(set_number("HONE_RANK", rank));
    HN_TRY(set_number("HONE_LOCAL_RANK", rank));
    if (rank == 0) return set_number("HONE_LISTEN_FD", listen_fd);
    unsetenv("HONE_LISTEN_FD");
    return HN_OK;
}

/* ---- signals ---- */

static const struct {
    int number;
    const char *name;
} SIGNAL_NAMES[] = {
    {SIGHUP, "SIGHUP"},   {SIGINT, "SIGINT"},   {SIGQUIT, "SIGQUIT"}, {SIGILL, "SIGILL"},
    {SIGTRAP, "SIGTRAP"}, {SIGABRT, "SIGABRT"}, {SIGBUS, "SIGBUS"},   {SIGFPE, "SIGFPE"},
    {SIGKILL, "SIGKILL"}, {SIGUSR1, "SIGUSR1"}, {SIGSEGV, "SIGSEGV"}, {SIGUSR2, "SIGUSR2"},
    {SIGPIPE, "SIGPIPE"}, {SIGALRM, "SIGALRM"}, {SIGTERM, "SIGTERM"}, {SIGXCPU, "SIGXCPU"},
    {SIGSYS, "SIGSYS"},
};

static const char *signal_name(int number, char other[24])
{
    for (size_t i = 0; i < sizeof SIGNAL_NAMES / sizeof *SIGNAL_NAMES; i++)
        if (SIGNAL_NAMES[i].number == number) return SIGNAL_NAMES[i].name;
    snprintf(other, 24, "signal %d", number);
    return other;
}

static const int FORWARDED[] = {SIGINT,  SIGTERM, SIGHUP,  SIGQUIT,
                                SIGUSR1, SIGUSR2, SIGTSTP, SIGCONT};
enum { N_FORWARDED = sizeof FORWARDED / sizeof *FORWARDED };

/* How the caller had its signals; what the ranks go on with. */
typedef struct {
    sigset_t mask;
    struct sigaction child;
    sigset_t awaited; /* blocked while the ranks run, and taken from the queue */
} signal_state;

/* What is ignored stays ignored: a blocked signal would be kept even so. */
static void hold_signals(signal_state *s)
{
    const struct sigaction plain = {.sa_handler = SIG_DFL};
    sigemptyset(&s->awaited);
    sigaddset(&s->awaited, SIGCHLD);
    for (int i = 0; i < N_FORWARDED; i++) {
        struct sigaction now;
        if (sigaction(FORWARDED[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
            sigaddset(&s->awaited, FORWARDED[i]);
    }
    sigaction(SIGCHLD, &plain, &s->child); /* ignored: children would vanish unseen */
    sigprocmask(SIG_BLOCK, &s->awaited, &s->mask);
}

static void restore_signals(const signal_state *s)
{
    sigaction(SIGCHLD, &s->child, NULL);
    sigprocmask(SIG_SETMASK, &s->mask, NULL);
}

/* ---- a rank ---- */

static void die_with(pid_t parent)
{
#ifdef __linux__
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) raise(SIGKILL); /* it died before that call */
#else
    (void)parent;
#endif
}

/* The first thing in a rank. A process group of its own, so that Ctrl-C comes once, from the
 * parent; it may still write to the terminal. */
static void begin_rank(int rank, int listen_fd, pid_t parent, const signal_state *s)
{
    die_with(parent);
    (void)setpgid(0, 0);
    signal(SIGTTOU, SIG_IGN);
    if (rank != 0) close(listen_fd);
    restore_signals(s);
}

/* ---- the process that waits ---- */

typedef struct {
    pid_t pid;
    bool gone;
    int status; /* of waitpid, once gone */
} child;

typedef struct {
    const hn_launch_options *o;
    child *of;          /* [ranks forked] */
    int n, left;        /* forked; not gone */
    uint64_t forwarded; /* bit n: signal n was handed on */
    int sent;           /* the last signal that ended those who stayed; 0 */
    int failed;         /* the first rank that failed; -1 */
    int64_t failed_ns;
} watch;

static bool was_forwarded(const watch *w, int number)
{
    return number < 64 && (w->forwarded >> number & 1) != 0;
}

static void send_all(const watch *w, int number)
{
    for (int i = 0; i < w->n; i++)
        if (!w->of[i].gone) (void)kill(w->of[i].pid, number);
}

/* Ended by a signal that came from here. */
static bool was_ended(const watch *w, int status)
{
    return WIFSIGNALED(status) &&
           (was_forwarded(w, WTERMSIG(status)) ||
            (w->sent != 0 && (WTERMSIG(status) == SIGTERM || WTERMSIG(status) == SIGKILL)));
}

static void note_end(watch *w, int rank)
{
    const int status = w->of[rank].status;
    char other[24];
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    if (w->failed < 0) {
        w->failed = rank;
        w->failed_ns = hn_clock_ns();
    }
    if (WIFSIGNALED(status) && !was_ended(w, status))
        hn_warn(w->o->log, "rank %d of %d (process %ld) was ended by %s%s", rank, w->n,
                (long)w->of[rank].pid, signal_name(WTERMSIG(status), other),
                WTERMSIG(status) == SIGKILL ? ", as when memory runs out" : "");
}

static void reap(watch *w)
{
    for (int i = 0; i < w->n; i++) {
        if (w->of[i].gone || waitpid(w->of[i].pid, &w->of[i].status, WNOHANG) <= 0) continue;
        w->of[i].gone = true;
        w->left--;
        note_end(w, i);
    }
}

/* Ends those who have stayed too long behind a failure. Returns the seconds until it is to be asked
 * again; negative: nothing to wait for. */
static double end_the_rest(watch *w)
{
    const double leave_s = w->o->leave_s > 0 ? w->o->leave_s : LEAVE_S;
    const double kill_s = w->o->kill_s > 0 ? w->o->kill_s : KILL_S;
    if (w->failed < 0 || w->left == 0) return -1;
    const double since_s = 1e-9 * (double)(hn_clock_ns() - w->failed_ns);
    const int now = since_s >= kill_s ? SIGKILL : since_s >= leave_s ? SIGTERM : 0;
    if (now != w->sent) {
        char other[24];
        hn_warn(w->o->log, "%d rank%s still there %.1f s after rank %d failed: %s", w->left,
                w->left == 1 ? " is" : "s are", since_s, w->failed, signal_name(now, other));
        w->sent = now;
        send_all(w, now);
        if (now == SIGTERM) send_all(w, SIGCONT); /* a stopped one would not see it */
    }
    return now == SIGKILL ? -1 : (now == 0 ? leave_s : kill_s) - since_s;
}

static void hand_on(watch *w, int number)
{
    w->forwarded |= (uint64_t)1 << number;
    send_all(w, number);
    if (number == SIGTSTP) raise(SIGSTOP); /* this process stops with its ranks */
}

/* Until all ranks have gone. */
static void stand_by(watch *w, const sigset_t *awaited)
{
    for (;;) {
        reap(w);
        if (w->left == 0) return;
        const double wait_s = end_the_rest(w);
        int number;
        if (wait_s < 0) {
            number = sigwaitinfo(awaited, NULL);
        } else {
            const struct timespec t = {.tv_sec = (time_t)wait_s,
                                       .tv_nsec = (long)((wait_s - (double)(time_t)wait_s) * 1e9)};
            number = sigtimedwait(awaited, NULL, &t);
        }
        if (number > 0 && number != SIGCHLD) hand_on(w, number);
    }
}

static int exit_code(const watch *w)
{
    bool bad_input = false, died = false;
    int ended = 0, worst = 0;
    for (int i = 0; i < w->n; i++) {
        const int status = w->of[i].status;
        const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        if (WIFSIGNALED(status) && was_forwarded(w, WTERMSIG(status))) ended = WTERMSIG(status);
        if (code == 0 || was_ended(w, status)) continue;
        bad_input |= code == 2;
        died |= WIFSIGNALED(status);
        worst = 1;
    }
    if (ended != 0) return 128 + ended;
    if (bad_input && !died) return 2; /* the others ended for it */
    return worst != 0 || w->failed < 0 ? worst : 1;
}

/* ---- the launch ---- */

static int count_threads(void)
{
    int n = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (tasks == NULL) return 1; /* not known */
    for (const struct dirent *d; (d = readdir(tasks)) != NULL;) n += d->d_name[0] != '.';
    closedir(tasks);
    return n;
}

static hn_status check(const hn_launch_options *o)
{
    const double leave_s = o->leave_s > 0 ? o->leave_s : LEAVE_S;
    const double kill_s = o->kill_s > 0 ? o->kill_s : KILL_S;
    if (o->n < 1 || o->n > HN_RANKS_MAX)
        return HN_FAIL(HN_ERR_ARG, "%d ranks: 1 to %d", o->n, HN_RANKS_MAX);
    if (!(o->leave_s >= 0) || !(o->kill_s >= 0) || !(kill_s >= leave_s) || kill_s > 1e6)
        return HN_FAIL(HN_ERR_ARG, "launch: SIGTERM after %g s, SIGKILL after %g s", leave_s,
                       kill_s);
    const int threads = count_threads();
    if (threads > 1)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%d threads run already: ranks start before", threads);
    return HN_OK;
}

/* One that would end this process waits. */
static bool is_asked_to_end(void)
{
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    sigset_t waiting;
    if (sigpending(&waiting) != 0) return false;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (sigismember(&waiting, ends[i]) == 1) return true;
    return false;
}

/* Forks them all, or as many as there are when a signal comes, which they get then. In a rank *rank
 * is its number, in the caller's process it stays -1. */
static hn_status fork_ranks(watch *w, int n, int listen_fd, const signal_state *s, int *rank)
{
    const pid_t parent = getpid();
    for (int i = 0; i < n && (i == 0 || !is_asked_to_end()); i++) {
        HN_TRY(set_rank(i, listen_fd));
        const pid_t pid = fork();
        if (pid == 0) {
            begin_rank(i, listen_fd, parent, s);
            *rank = i;
            return HN_OK;
        }
        if (pid < 0)
            return HN_FAIL(HN_ERR_THREAD, "process of rank %d of %d: %s", i, n, strerror(errno));
        (void)setpgid(pid, pid); /* whoever comes first */
        w->of[i] = (child){.pid = pid};
        w->n = i + 1;
        w->left++;
    }
    return HN_OK;
}

hn_status hn_launch(const hn_launch_options *o, hn_launched *out)
{
    char place[HN_RANKS_ADDRESS_TEXT];
    int listen_fd = -1, rank = -1;
    signal_state signals;
    hn_status st = HN_OK;
    HN_TRY(check(o));
    watch w = {.o = o, .failed = -1, .of = hn_calloc((size_t)o->n, sizeof(child))};
    if (w.of == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %d ranks", o->n);
    HN_TRY_GOTO(st, open_place(&listen_fd, place, sizeof place), done);
    HN_TRY_GOTO(st, set_job(o->n, place), done);
    (void)fflush(NULL); /* or every rank would write what waits in the buffers */
    hold_signals(&signals);
    st = fork_ranks(&w, o->n, listen_fd, &signals, &rank);
    if (rank >= 0) {
        hn_free(w.of);
        *out = (hn_launched){.is_rank = true, .rank = rank};
        return HN_OK;
    }
    close(listen_fd); /* when rank 0 dies nobody may listen there */
    listen_fd = -1;
    if (st != HN_OK) send_all(&w, SIGKILL);
    stand_by(&w, &signals.awaited);
    restore_signals(&signals);
    if (st == HN_OK) *out = (hn_launched){.rank = -1, .exit_code = exit_code(&w)};

done:
    forget_variables();
    if (listen_fd >= 0) close(listen_fd);
    hn_free(w.of);
    return st;
}

/* ---- how many GPUs there are ---- */

typedef struct {
    hn_status status;
    int n;
    char text[256]; /* why there are none, or what went wrong */
} counted;

static void count_here(int to)
{
    counted c = {.n = 0};
    c.status = hn_device_count(&c.n, c.text, sizeof c.text);
    if (c.status != HN_OK) snprintf(c.text, sizeof c.text, "%s", hn_last_text());
    const ssize_t written = write(to, &c, sizeof c); /* less than PIPE_BUF: at once */
    _exit(written == (ssize_t)sizeof c ? 0 : 1);
}

static bool read_whole(int from, void *to, size_t size)
{
    size_t n = 0;
    while (n < size) {
        const ssize_t got = read(from, (char *)to + n, size - n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        n += (size_t)got;
    }
    return true;
}

hn_status hn_launch_count_devices(int *n, char *why, size_t size)
{
    int ends[2], status = 0;
    counted c;
    char other[24];
    const pid_t parent = getpid();
    if (pipe2(ends, O_CLOEXEC) != 0)
        return HN_FAIL(HN_ERR_THREAD, "pipe of the process that counts GPUs: %s", strerror(errno));
    const pid_t pid = fork();
    if (pid == 0) {
        die_with(parent);
        close(ends[0]);
        count_here(ends[1]);
    }
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return HN_FAIL(HN_ERR_THREAD, "process that counts GPUs: %s", strerror(errno));
    }
    const bool whole = read_whole(ends[0], &c, sizeof c);
    close(ends[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (!whole)
        return HN_FAIL(HN_ERR_CUDA, "the process that counts GPUs was ended by %s",
                       WIFSIGNALED(status) ? signal_name(WTERMSIG(status), other) : "an error");
    if (c.status != HN_OK) return HN_FAIL(c.status, "%s", c.text);
    *n = c.n;
    snprintf(why, size, "%s", c.text);
    return HN_OK;
}
