/* The watchdog: one thread on each rank, which never computes and never waits for long.
 *
 * It sends a beat to its peers (rank 0: all others; others: rank 0), hears theirs, and finds who is
 * dead. Rank 0 decides for all: what it finds it tells the others in a frame, the line to say
 * included. Another rank decides only about rank 0. Order at a death, so that no line is lost and
 * nothing hangs: a timer that ends the process is started; rank 0 tells the others; the line goes
 * to the log; `dead` is set; abort is called; data sockets are shut down, which wakes the main
 * thread. */
#define _GNU_SOURCE /* pipe2 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/clock.h"
#include "runtime/comm/hub_impl.h"

static const int64_t ms = 1000000;

typedef struct {
    hn_hub *h;
    int64_t next_beat, last_turn;
    int64_t check_ns; /* when `check` first complained; 0: it does not */
    char check[HN_HUB_TEXT / 2];
    bool over; /* a verdict was said or heard; nothing more to find */
} watch;

static const char *phase_text(hn_hub_phase p)
{
    static const char *const names[] = {
#define X(name, text) text,
        HN_HUB_PHASE_LIST(X)
#undef X
    };
    return (unsigned)p < HN_HUB_PHASES ? names[p] : "?";
}

/* ---- what this rank says ---- */

static hn_hub_place own_place(hn_hub *h)
{
    pthread_mutex_lock(&h->mutex);
    hn_hub_place p = {.phase = h->phase, .step = h->step, .waiting = h->waiting};
    const int64_t age = hn_clock_ns() - h->moved_ns;
    pthread_mutex_unlock(&h->mutex);
    p.age_ms = age > 0 ? age / ms : 0;
    return p;
}

static bool speaks(const hn_hub_peer *p) { return p->watch >= 0; }

static void hang_up(hn_hub_peer *p) { hn_socket_close(&p->watch); }

/* Sends what the buffer holds, as far as it goes. false: the connection is broken. */
static bool push(hn_hub_peer *p)
{
    size_t n = 0;
    if (p->n_out == 0) return true;
    if (hn_socket_send_some(p->watch, p->out, p->n_out, &n) != HN_OK) return false;
    p->n_out -= n;
    memmove(p->out, p->out + n, p->n_out);
    return true;
}

/* Beats wait for room, last words always have some: a beat leaves while the buffer is empty only.
 */
static void say(hn_hub_peer *p, hn_hub_frame_kind kind, const hn_hub_place *at, const char *text)
{
    const size_t n = text ? strnlen(text, HN_HUB_TEXT - 1) : 0;
    const hn_hub_frame f = {.kind = kind, .n_text = (uint32_t)n, .at = *at};
    if (!speaks(p) || p->n_out + HN_HUB_FRAME + n > sizeof p->out) return;
    hn_hub_frame_write(&f, p->out + p->n_out);
    if (n > 0) memcpy(p->out + p->n_out + HN_HUB_FRAME, text, n);
    p->n_out += HN_HUB_FRAME + n;
    (void)push(p); /* a broken connection is found by reading */
}

static int n_all(const hn_hub *h) { return h->rank == 0 ? h->size : 1; }

static bool is_peer(const hn_hub *h, int r) { return r != h->rank && speaks(&h->peer[r]); }

/* Waits until everything is sent, or until the peers have hung up as well. */
static void flush(hn_hub *h, bool until_closed)
{
    const int64_t until = hn_clock_ns() + HN_HUB_FLUSH_MS * ms;
    for (;;) {
        nfds_t n = 0;
        for (int r = 0; r < n_all(h); r++) {
            hn_hub_peer *p = &h->peer[r];
            if (!is_peer(h, r) || (p->n_out == 0 && !until_closed)) continue;
            h->watch_poll[n++] = (struct pollfd){
                .fd = p->watch,
                .events = (short)((p->n_out > 0 ? POLLOUT : 0) | (until_closed ? POLLIN : 0))};
        }
        const int wait = hn_poll_ms(until, 1000);
        if (n == 0 || wait == 0) return;
        if (poll(h->watch_poll, n, wait) < 0 && errno != EINTR) return;
        for (int r = 0; r < n_all(h); r++) {
            hn_hub_peer *p = &h->peer[r];
            char waste[512];
            size_t k = 0;
            if (!is_peer(h, r)) continue;
            const size_t before = p->n_out;
            bool open = push(p);
            if (open && before > 0 && p->n_out == 0 && until_closed)
                (void)shutdown(p->watch, SHUT_WR);
            if (open && until_closed)
                open = hn_socket_receive_some(p->watch, waste, sizeof waste, &k) == HN_OK;
            if (!open) hang_up(p);
        }
    }
}

/* Sends the rest, then waits for the other side to close: closing with unread bytes in the socket
 * could take back what was sent last. */
static void part(hn_hub *h)
{
    for (int r = 0; r < n_all(h); r++)
        if (is_peer(h, r) && h->peer[r].n_out == 0) (void)shutdown(h->peer[r].watch, SHUT_WR);
    flush(h, true);
    for (int r = 0; r < n_all(h); r++) hang_up(&h->peer[r]);
}

/* ---- a death ---- */

static void *leave(void *grace_ms)
{
    const intptr_t n = (intptr_t)grace_ms;
    struct timespec t = {.tv_sec = n / 1000, .tv_nsec = (n % 1000) * ms};
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
    _exit(1);
}

/* Signals are for the program's threads: here they would only interrupt. */
static int start_thread(pthread_t *t, void *(*what)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    const int rc = pthread_create(t, NULL, what, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

/* From now on the process has grace_ns left, whatever hangs. */
static void start_leaving(const hn_hub *h)
{
    pthread_t t;
    if (start_thread(&t, leave, (void *)(intptr_t)(h->grace_ns / ms)) != 0) _exit(1);
    pthread_detach(t);
}

static void wake_main(hn_hub *h)
{
    for (int r = 0; r < n_all(h); r++)
        if (h->peer[r].data >= 0) (void)shutdown(h->peer[r].data, SHUT_RDWR);
    pthread_mutex_lock(&h->mutex);
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->mutex);
}

/* line: about the dead rank, for this rank and, if it is rank 0, for all. */
static void verdict(watch *w, const char *line)
{
    hn_hub *h = w->h;
    const hn_hub_place at = own_place(h);
    w->over = true;
    pthread_mutex_lock(&h->mutex);
    const bool quiet = h->failed; /* this rank has its own error to print */
    pthread_mutex_unlock(&h->mutex);
    if (!quiet) start_leaving(h);
    if (h->rank == 0) {
        for (int r = 1; r < h->size; r++) say(&h->peer[r], HN_HUB_DEAD, &at, line);
        flush(h, false);
    }
    if (quiet) return;
    hn_warn(h->log, "%s", line);
    pthread_mutex_lock(&h->mutex);
    snprintf(h->line, sizeof h->line, "%s", line);
    h->dead = true;
    pthread_mutex_unlock(&h->mutex);
    pthread_mutex_lock(&h->calling);
    if (h->callbacks.abort) h->callbacks.abort(h->callbacks.context);
    pthread_mutex_unlock(&h->calling);
    wake_main(h);
}

/* "rank 3 on gnode7 died in phase 'step' at step 120"; verb: what it did. */
static int describe(const hn_hub *h, int rank, const hn_hub_place *at, const char *verb,
                    char line[HN_HUB_TEXT])
{
    char step[40] = "";
    const bool rounds = at->phase == HN_HUB_AT_CLIENTS || at->phase == HN_HUB_AT_MEASURE ||
                        at->phase == HN_HUB_AT_SERVER;
    if (at->step >= 0)
        snprintf(step, sizeof step, " at %s %" PRId64, rounds ? "round" : "step", at->step);
    return snprintf(line, HN_HUB_TEXT, "rank %d on %s %s in phase '%s'%s", rank, h->peer[rank].host,
                    verb, phase_text(at->phase), step);
}

static void died(watch *w, int rank, const char *verb, const char *why)
{
    char line[HN_HUB_TEXT];
    const hn_hub_place at = rank == w->h->rank ? own_place(w->h) : w->h->peer[rank].at;
    const int n = describe(w->h, rank, &at, verb, line);
    if (n < 0 || n >= HN_HUB_TEXT) return;
    snprintf(line + n, (size_t)(HN_HUB_TEXT - n), "%s%s", why[0] == ':' ? "" : " ", why);
    verdict(w, line);
}

/* ---- what peers say ---- */

static void on_frame(watch *w, int rank, const hn_hub_frame *f, char *text)
{
    hn_hub *h = w->h;
    hn_hub_peer *p = &h->peer[rank];
    char why[HN_HUB_TEXT + 2];
    hn_hub_one_line(text);
    p->heard_ns = hn_clock_ns();
    switch (f->kind) {
    case HN_HUB_BEAT: p->at = f->at; return;
    case HN_HUB_BYE:
        p->at = f->at;
        p->bye = true;
        hang_up(p);
        return;
    case HN_HUB_FAIL:
        if (h->rank != 0) break;
        p->at = f->at;
        snprintf(why, sizeof why, ": %s", text);
        hang_up(p); /* it knows */
        died(w, rank, "failed", why);
        return;
    case HN_HUB_DEAD:
        if (h->rank == 0) break;
        hang_up(p);
        verdict(w, text);
        return;
    case HN_HUB_START: break;
    }
    died(w, rank, "died", "(it sends what nobody understands)");
}

/* Reads what there is. A verdict may come of it. */
static void listen_to(watch *w, int rank)
{
    hn_hub_peer *p = &w->h->peer[rank];
    while (speaks(p) && !w->over) {
        size_t n = 0;
        if (hn_socket_receive_some(p->watch, p->in + p->n_in, sizeof p->in - p->n_in, &n) !=
            HN_OK) {
            char why[HN_HUB_TEXT];
            snprintf(why, sizeof why, "(%s)", hn_last_text());
            hang_up(p);
            died(w, rank, "died", why);
            return;
        }
        if (n == 0) return;
        p->n_in += n;
        while (speaks(p) && !w->over && p->n_in >= HN_HUB_FRAME) {
            hn_hub_frame f = {.n_text = 0};
            if (!hn_hub_frame_read(p->in, &f) || f.n_text > HN_HUB_TEXT - 1) {
                hang_up(p);
                died(w, rank, "died", "(it sends what nobody understands)");
                return;
            }
            const size_t whole = HN_HUB_FRAME + f.n_text;
            if (p->n_in < whole) break;
            char text[HN_HUB_TEXT];
            memcpy(text, p->in + HN_HUB_FRAME, f.n_text);
            text[f.n_text] = '\0';
            p->n_in -= whole;
            memmove(p->in, p->in + whole, p->n_in);
            on_frame(w, rank, &f, text);
        }
    }
}

/* ---- judging ---- */

static void judge_silence(watch *w, int64_t now)
{
    const hn_hub *h = w->h;
    for (int r = 0; r < n_all(h) && !w->over; r++) {
        if (!is_peer(h, r) || now - h->peer[r].heard_ns <= h->silent_ns) continue;
        char why[80];
        snprintf(why, sizeof why, "(no sign of life for %.3g s)", (double)h->silent_ns / 1e9);
        died(w, r, "died", why);
    }
}

typedef struct {
    hn_hub_place at;
    int64_t age_ns;
} standing;

static bool standing_of(hn_hub *h, int rank, int64_t now, standing *out)
{
    if (rank == h->rank) {
        out->at = own_place(h);
        out->age_ns = out->at.age_ms * ms;
        return true;
    }
    const hn_hub_peer *p = &h->peer[rank];
    if (!speaks(p)) return false;
    out->at = p->at;
    /* A hostile age must not overflow. */
    const int64_t age_ms =
        p->at.age_ms < INT64_MAX / (4 * ms) ? p->at.age_ms : INT64_MAX / (4 * ms);
    out->age_ns = age_ms * ms + (now - p->heard_ns);
    return true;
}

static bool is_counted(const hn_hub_place *at)
{
    return at->phase == HN_HUB_AT_STEP || at->phase == HN_HUB_AT_EVALUATE ||
           at->phase == HN_HUB_AT_CLIENTS || at->phase == HN_HUB_AT_MEASURE;
}

/* Only rank 0 sees all. Who waits in a collective is not to blame, unless all do. */
static void judge_stall(watch *w, int64_t now)
{
    hn_hub *h = w->h;
    standing s, worst = {.age_ns = -1};
    int64_t youngest_ns = INT64_MAX;
    int culprit = -1, same = 0;
    if (h->rank != 0 || h->stall_ns == 0 || w->over) return;
    bool all_wait = true;
    for (int r = 0; r < h->size; r++)
        if (standing_of(h, r, now, &s) && !s.at.waiting) {
            if (!is_counted(&s.at)) return; /* others wait for it, lawfully */
            all_wait = false;
        }
    for (int r = 0; r < h->size; r++) {
        if (!standing_of(h, r, now, &s) || s.at.waiting != all_wait || !is_counted(&s.at)) continue;
        if (s.age_ns < youngest_ns) youngest_ns = s.age_ns;
        if (culprit >= 0 && s.at.step == worst.at.step && s.age_ns > h->stall_ns &&
            worst.age_ns > h->stall_ns)
            same++;
        if (culprit < 0 || s.at.step < worst.at.step ||
            (s.at.step == worst.at.step && s.age_ns > worst.age_ns)) {
            if (culprit >= 0 && s.at.step < worst.at.step) same = 0;
            culprit = r;
            worst = s;
        }
    }
    if (culprit < 0 || worst.age_ns <= h->stall_ns) return;
    if (all_wait && youngest_ns <= h->stall_ns) return; /* it has only just been complete */
    char why[160];
    const int n = snprintf(why, sizeof why, "(no progress for %.3g s", (double)h->stall_ns / 1e9);
    if (same > 0)
        snprintf(why + n, sizeof why - (size_t)n, "; %d other%s at this step)", same,
                 same > 1 ? "s stand" : " stands");
    else
        snprintf(why + n, sizeof why - (size_t)n, ")");
    died(w, culprit, "stalled", why);
}

/* The calling thread's data connection broke: the reason comes on the watch connection, or never.
 */
static void judge_suspect(watch *w, int64_t now)
{
    hn_hub *h = w->h;
    pthread_mutex_lock(&h->mutex);
    const bool suspects = h->suspects;
    const int rank = h->suspect;
    const int64_t since = h->suspect_ns;
    char why[sizeof h->suspect_why + 32];
    snprintf(why, sizeof why, "(data connection: %s)", h->suspect_why);
    pthread_mutex_unlock(&h->mutex);
    if (!suspects || w->over) return;
    if (h->peer[rank].bye)
        died(w, rank, "ended", "while others wait for it");
    else if (now - since > HN_HUB_LINGER_MS * ms)
        died(w, rank, "died", why);
}

static void ask_check(watch *w, int64_t now)
{
    hn_hub *h = w->h;
    pthread_mutex_lock(&h->calling);
    const char *text = h->callbacks.check ? h->callbacks.check(h->callbacks.context) : NULL;
    if (text == NULL) w->check_ns = 0;
    if (text != NULL && w->check_ns == 0) {
        w->check_ns = now;
        snprintf(w->check, sizeof w->check, ": %s", text);
        hn_hub_one_line(w->check);
    }
    pthread_mutex_unlock(&h->calling);
}

static void judge_check(watch *w, int64_t now)
{
    hn_hub *h = w->h;
    if (w->check_ns == 0 || w->over || now - w->check_ns <= h->silent_ns) return;
    if (h->rank != 0) {
        const hn_hub_place at = own_place(h);
        say(&h->peer[0], HN_HUB_FAIL, &at, w->check + 2);
        flush(h, false);
    }
    died(w, h->rank, "failed", w->check);
}

/* hn_hub_fail of this rank: passes it on, once. */
static void pass_failure(watch *w)
{
    hn_hub *h = w->h;
    char why[HN_HUB_TEXT + 2];
    pthread_mutex_lock(&h->mutex);
    const bool now = h->failed && !h->said;
    snprintf(why, sizeof why, ": %s", h->why);
    pthread_mutex_unlock(&h->mutex);
    if (!now) return;
    start_leaving(h);
    if (!w->over && h->rank == 0) died(w, 0, "failed", why);
    if (!w->over && h->rank != 0) {
        const hn_hub_place at = own_place(h);
        say(&h->peer[0], HN_HUB_FAIL, &at, why + 2);
        flush(h, false);
    }
    w->over = true;
    pthread_mutex_lock(&h->mutex);
    h->said = true;
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->mutex);
}

/* ---- the thread ---- */

static void wait_for_something(watch *w)
{
    hn_hub *h = w->h;
    nfds_t n = 0;
    h->watch_poll[n++] = (struct pollfd){.fd = h->wake[0], .events = POLLIN};
    for (int r = 0; r < n_all(h); r++) {
        const hn_hub_peer *p = &h->peer[r];
        if (!is_peer(h, r)) continue;
        h->watch_poll[n++] = (struct pollfd){
            .fd = p->watch, .events = (short)(POLLIN | (p->n_out > 0 ? POLLOUT : 0))};
    }
    pthread_mutex_lock(&h->mutex);
    const bool soon = h->suspects && !h->dead;
    pthread_mutex_unlock(&h->mutex);
    (void)poll(h->watch_poll, n, hn_poll_ms(w->next_beat, soon ? 50 : 1000));
    char waste[64];
    while (read(h->wake[0], waste, sizeof waste) > 0) {
    }
}

/* If this thread itself did not run for long (the machine slept, the process was stopped), nobody
 * else's silence means anything yet. */
static void forgive(watch *w, int64_t now)
{
    hn_hub *h = w->h;
    if (now - w->last_turn > 3 * h->beat_ns + 1000 * ms || now - w->last_turn > h->silent_ns / 2)
        for (int r = 0; r < n_all(h); r++) h->peer[r].heard_ns = now;
    w->last_turn = now;
}

static void beat(watch *w, int64_t now)
{
    hn_hub *h = w->h;
    if (now < w->next_beat) return;
    w->next_beat = now + h->beat_ns;
    ask_check(w, now);
    const hn_hub_place at = own_place(h);
    for (int r = 0; r < n_all(h); r++)
        if (is_peer(h, r) && h->peer[r].n_out == 0) say(&h->peer[r], HN_HUB_BEAT, &at, NULL);
}

static void *run(void *arg)
{
    watch w = {.h = arg};
    hn_hub *h = w.h;
    bool closing = false;
    w.next_beat = w.last_turn = hn_clock_ns();
    for (int r = 0; r < n_all(h); r++) h->peer[r].heard_ns = w.last_turn;
    while (!closing && !w.over) {
        wait_for_something(&w);
        forgive(&w, hn_clock_ns());
        for (int r = 0; r < n_all(h) && !w.over; r++)
            if (is_peer(h, r)) {
                if (h->peer[r].n_out > 0) (void)push(&h->peer[r]);
                listen_to(&w, r);
            }
        pass_failure(&w);
        const int64_t now = hn_clock_ns();
        if (w.over) break;
        beat(&w, now);
        judge_suspect(&w, now);
        judge_silence(&w, now);
        judge_stall(&w, now);
        judge_check(&w, now);
        pthread_mutex_lock(&h->mutex);
        closing = h->closing;
        pthread_mutex_unlock(&h->mutex);
    }
    if (w.over) pass_failure(&w); /* nobody waits for a word that is never said */
    if (!w.over) {
        const hn_hub_place at = own_place(h);
        for (int r = 0; r < n_all(h); r++)
            if (is_peer(h, r)) say(&h->peer[r], HN_HUB_BYE, &at, NULL);
    }
    part(h);
    return NULL;
}

/* ---- the calling thread's side ---- */

void hn_hub_wake(hn_hub *h)
{
    const char byte = 0;
    if (write(h->wake[1], &byte, 1) < 0) return; /* a full pipe wakes, too */
}

hn_status hn_hub_watch_start(hn_hub *h)
{
    if (pipe2(h->wake, O_CLOEXEC | O_NONBLOCK) != 0)
        return HN_FAIL(HN_ERR_COMM, "a pipe: %s", strerror(errno));
    const int rc = start_thread(&h->thread, run, h);
    if (rc != 0) return HN_FAIL(HN_ERR_THREAD, "watchdog: %s", strerror(rc));
    h->has_thread = true;
    return HN_OK;
}

void hn_hub_watch_stop(hn_hub *h)
{
    if (!h->has_thread) return;
    pthread_mutex_lock(&h->mutex);
    h->closing = true;
    pthread_mutex_unlock(&h->mutex);
    hn_hub_wake(h);
    pthread_join(h->thread, NULL);
    h->has_thread = false;
}

hn_status hn_hub_alive(hn_hub *h)
{
    pthread_mutex_lock(&h->mutex);
    const bool dead = h->dead, failed = h->failed;
    pthread_mutex_unlock(&h->mutex);
    if (dead) return HN_FAIL(HN_ERR_COMM, "%s", h->line);
    return failed ? HN_FAIL(HN_ERR_COMM, "rank %d has failed: %s", h->rank, h->why) : HN_OK;
}

/* Waits for `*flag` (under the mutex) or a verdict, at most until a clock. */
static void wait_until(hn_hub *h, const bool *flag, int64_t until)
{
    while (!(flag && *flag) && !h->dead) {
        const int64_t left = until - hn_clock_ns();
        if (left <= 0) return;
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t); /* as the condition was made */
        const int64_t end = (int64_t)t.tv_sec * 1000 * ms + t.tv_nsec + left;
        t = (struct timespec){.tv_sec = end / (1000 * ms), .tv_nsec = end % (1000 * ms)};
        pthread_cond_timedwait(&h->changed, &h->mutex, &t);
    }
}

hn_status hn_hub_suspect(hn_hub *h, int rank, const char *why)
{
    char text[sizeof h->suspect_why];
    snprintf(text, sizeof text, "%s", why); /* hn_last_text() changes below */
    HN_TRY(hn_hub_alive(h));
    pthread_mutex_lock(&h->mutex);
    if (!h->suspects) {
        h->suspects = true;
        h->suspect = rank;
        h->suspect_ns = hn_clock_ns();
        snprintf(h->suspect_why, sizeof h->suspect_why, "%s", text);
        hn_hub_wake(h);
    }
    wait_until(h, NULL, hn_clock_ns() + 3 * HN_HUB_LINGER_MS * ms + h->silent_ns);
    pthread_mutex_unlock(&h->mutex);
    HN_TRY(hn_hub_alive(h));
    return HN_FAIL(HN_ERR_COMM, "data connection to rank %d on %s: %s", rank, h->peer[rank].host,
                   text);
}

void hn_hub_at(hn_hub *h, hn_hub_phase phase, int64_t step)
{
    pthread_mutex_lock(&h->mutex);
    h->phase = phase;
    h->step = step < 0 ? -1 : step;
    h->moved_ns = hn_clock_ns();
    pthread_mutex_unlock(&h->mutex);
}

void hn_hub_moved(hn_hub *h)
{
    pthread_mutex_lock(&h->mutex);
    h->moved_ns = hn_clock_ns();
    pthread_mutex_unlock(&h->mutex);
}

void hn_hub_fail(hn_hub *h, const char *text)
{
    if (h == NULL || !h->has_thread) return;
    pthread_mutex_lock(&h->mutex);
    if (!h->failed && !h->dead) {
        snprintf(h->why, sizeof h->why, "%s", text);
        hn_hub_one_line(h->why);
        h->failed = true;
        hn_hub_wake(h);
    }
    if (h->failed) wait_until(h, &h->said, hn_clock_ns() + HN_HUB_FLUSH_MS * ms);
    pthread_mutex_unlock(&h->mutex);
}

const char *hn_hub_dead(const hn_hub *h)
{
    if (h == NULL) return NULL;
    pthread_mutex_t *mutex = (pthread_mutex_t *)&h->mutex;
    pthread_mutex_lock(mutex);
    const bool dead = h->dead;
    pthread_mutex_unlock(mutex);
    return dead ? h->line : NULL; /* which never changes again */
}

void hn_hub_watch(hn_hub *h, const hn_hub_callbacks *w)
{
    pthread_mutex_lock(&h->calling);
    h->callbacks = w ? *w : (hn_hub_callbacks){0};
    pthread_mutex_unlock(&h->calling);
}
