/* Collectives of the calling thread, and what goes to rank 0 alone: a star, rank 0 in the middle.
 *
 * First every rank sends a head that says which collective it means; rank 0 compares them with its
 * own and sends that back to all. So no rank goes on before all have come, and no byte moves that
 * the other side did not ask for. Then bytes move on all connections at once (`pump`): each flow
 * has a mark up to which it may send and receive, and the collective moves the marks. */
#define _POSIX_C_SOURCE 200809L
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/comm/hub_impl.h"

/* ---- moving bytes ---- */

/* One try in each direction. */
static hn_status move(hn_hub *h, hn_hub_flow *f, bool *moved)
{
    const size_t most = 1 << 20; /* a turn for everybody */
    size_t n = 0;
    if (f->out_at < f->out_ready) {
        const size_t room = f->out_ready - f->out_at;
        if (hn_socket_send_some(f->fd, f->out + f->out_at, room < most ? room : most, &n) != HN_OK)
            return hn_hub_suspect(h, f->rank, hn_last_text());
        f->out_at += n;
        *moved |= n > 0;
    }
    if (f->in_at < f->in_ready) {
        const size_t at = f->in_at % f->ring, rest = f->ring - at, room = f->in_ready - f->in_at;
        if (hn_socket_receive_some(f->fd, f->in + at, room < rest ? room : rest, &n) != HN_OK)
            return hn_hub_suspect(h, f->rank, hn_last_text());
        f->in_at += n;
        *moved |= n > 0;
    }
    return HN_OK;
}

/* Moves all bytes of the first n flows; `advance` sets their marks. */
static hn_status pump(hn_hub *h, int n, void (*advance)(void *), void *context)
{
    for (;;) {
        bool moved = false, left = false;
        nfds_t waits = 0;
        if (advance) advance(context);
        for (int i = 0; i < n; i++) {
            HN_TRY(move(h, &h->flow[i], &moved));
            left |= h->flow[i].out_at < h->flow[i].out_n || h->flow[i].in_at < h->flow[i].in_n;
        }
        if (moved) hn_hub_moved(h);
        if (!left) {
            if (advance) advance(context);
            return HN_OK;
        }
        if (moved) continue;
        for (int i = 0; i < n; i++) {
            const hn_hub_flow *f = &h->flow[i];
            const int events =
                (f->out_at < f->out_ready ? POLLOUT : 0) | (f->in_at < f->in_ready ? POLLIN : 0);
            if (events != 0)
                h->data_poll[waits++] = (struct pollfd){.fd = f->fd, .events = (short)events};
        }
        assert(waits > 0);
        if (poll(h->data_poll, waits, 1000) < 0 && errno != EINTR)
            return HN_FAIL(HN_ERR_COMM, "poll: %s", strerror(errno));
        HN_TRY(hn_hub_alive(h));
    }
}

static hn_hub_flow *flow_of(hn_hub *h, int i, int rank)
{
    h->flow[i] = (hn_hub_flow){.fd = h->peer[rank].data, .rank = rank, .ring = 1};
    return &h->flow[i];
}

static void send_all(hn_hub_flow *f, const void *data, size_t n)
{
    f->out = data;
    f->out_n = f->out_ready = n;
}

static void receive_all(hn_hub_flow *f, void *data, size_t n)
{
    f->in = data;
    f->in_n = f->in_ready = n;
    f->ring = n ? n : 1;
}

/* ---- heads ---- */

static void describe(const hn_hub_head *o, char *out, size_t n)
{
    const char *name = hn_hub_op_name(o->op);
    if (o->op == HN_HUB_BARRIER)
        snprintf(out, n, "%s", name);
    else if (o->op == HN_HUB_SHARE || o->op == HN_HUB_PASS)
        snprintf(out, n, "%s of %" PRIu64 " bytes from rank %d", name, o->n_bytes, o->root);
    else
        snprintf(out, n, "%s of %" PRIu64 " bytes", name, o->n_bytes);
}

/* The first mistake found ends the job on all ranks, with this text. */
static hn_status mismatch(hn_hub *h, int rank, const hn_hub_head *mine, const uint8_t *bytes)
{
    char text[HN_HUB_TEXT / 2], a[96], b[96] = "something that is no collective";
    hn_hub_head o;
    if (hn_hub_head_read(bytes, &o)) describe(&o, b, sizeof b);
    describe(mine, a, sizeof a);
    snprintf(text, sizeof text, "collective %" PRIu64 ": rank %d calls %s, rank %d %s",
             mine->number, h->rank, a, rank, b);
    hn_hub_fail(h, text);
    return HN_FAIL(HN_ERR_COMM, "%s", text);
}

static hn_status agree(hn_hub *h, const hn_hub_head *head)
{
    uint8_t mine[HN_HUB_HEAD], theirs[HN_HUB_HEAD];
    hn_hub_head_write(head, mine);
    if (h->rank != 0) {
        hn_hub_flow *f = flow_of(h, 0, 0);
        send_all(f, mine, sizeof mine);
        receive_all(f, theirs, sizeof theirs);
        HN_TRY(pump(h, 1, NULL, NULL));
        return memcmp(mine, theirs, sizeof mine) == 0 ? HN_OK : mismatch(h, 0, head, theirs);
    }
    const int others = h->size - 1;
    uint8_t *heads = (uint8_t *)h->stage; /* room for a chunk of each */
    for (int i = 0; i < others; i++)
        receive_all(flow_of(h, i, i + 1), heads + (size_t)i * HN_HUB_HEAD, HN_HUB_HEAD);
    HN_TRY(pump(h, others, NULL, NULL));
    for (int i = 0; i < others; i++)
        if (memcmp(mine, heads + (size_t)i * HN_HUB_HEAD, HN_HUB_HEAD) != 0)
            return mismatch(h, i + 1, head, heads + (size_t)i * HN_HUB_HEAD);
    for (int i = 0; i < others; i++) send_all(flow_of(h, i, i + 1), mine, sizeof mine);
    return pump(h, others, NULL, NULL);
}

static void set_waiting(hn_hub *h, bool waiting)
{
    pthread_mutex_lock(&h->mutex);
    h->waiting = waiting;
    h->moved_ns = hn_clock_ns();
    pthread_mutex_unlock(&h->mutex);
}

static hn_status begin(hn_hub *h, hn_hub_op op, size_t n_bytes, int root)
{
    const hn_hub_head head = {.op = op, .root = root, .number = ++h->number, .n_bytes = n_bytes};
    HN_TRY(hn_hub_alive(h));
    set_waiting(h, true);
    return agree(h, &head);
}

static hn_status end(hn_hub *h, hn_status st)
{
    set_waiting(h, false);
    return st;
}

/* ---- share, gather, barrier ---- */

typedef struct {
    hn_hub *h;
    int root;
} share_state;

/* What came from the root may go on to the others. */
static void advance_share(void *context)
{
    const share_state *s = context;
    const size_t came = s->h->flow[s->root - 1].in_at;
    for (int r = 1; r < s->h->size; r++)
        if (r != s->root) s->h->flow[r - 1].out_ready = came;
}

static hn_status share(hn_hub *h, void *data, size_t n, int root)
{
    HN_TRY(begin(h, HN_HUB_SHARE, n, root));
    if (h->rank != 0) {
        hn_hub_flow *f = flow_of(h, 0, 0);
        if (h->rank == root)
            send_all(f, data, n);
        else
            receive_all(f, data, n);
        return pump(h, 1, NULL, NULL);
    }
    share_state s = {h, root};
    for (int r = 1; r < h->size; r++) {
        hn_hub_flow *f = flow_of(h, r - 1, r);
        if (r == root)
            receive_all(f, data, n);
        else
            send_all(f, data, n);
    }
    return pump(h, h->size - 1, root ? advance_share : NULL, &s);
}

hn_status hn_hub_share(hn_hub *h, void *data, size_t n_bytes, int root)
{
    if (root < 0 || root >= h->size)
        return HN_FAIL(HN_ERR_ARG, "share from rank %d of %d", root, h->size);
    if (h->size == 1) return HN_OK;
    return end(h, share(h, data, n_bytes, root));
}

static hn_status gather(hn_hub *h, const void *mine, size_t n, char *all)
{
    const size_t own = (size_t)h->rank * n, total = (size_t)h->size * n;
    if (n > 0 && all + own != (const char *)mine) memcpy(all + own, mine, n);
    if (h->size == 1) return HN_OK;
    HN_TRY(begin(h, HN_HUB_GATHER, n, 0));
    if (h->rank != 0) {
        send_all(flow_of(h, 0, 0), all + own, n);
        HN_TRY(pump(h, 1, NULL, NULL));
        receive_all(flow_of(h, 0, 0), all, total);
        return pump(h, 1, NULL, NULL);
    }
    for (int r = 1; r < h->size; r++) receive_all(flow_of(h, r - 1, r), all + (size_t)r * n, n);
    HN_TRY(pump(h, h->size - 1, NULL, NULL));
    for (int r = 1; r < h->size; r++) send_all(flow_of(h, r - 1, r), all, total);
    return pump(h, h->size - 1, NULL, NULL);
}

hn_status hn_hub_gather(hn_hub *h, const void *mine, size_t n_bytes, void *all)
{
    if (n_bytes > SIZE_MAX / 2 / (size_t)h->size)
        return HN_FAIL(HN_ERR_ARG, "gather of %zu bytes from %d ranks", n_bytes, h->size);
    return end(h, gather(h, mine, n_bytes, all));
}

hn_status hn_hub_barrier(hn_hub *h)
{
    if (h->size == 1) return HN_OK;
    return end(h, begin(h, HN_HUB_BARRIER, 0, 0));
}

/* ---- sums ---- */

static void add_f32(void *x, const void *y, size_t n)
{
    float *a = x;
    const float *b = y;
    for (size_t i = 0; i < n; i++) a[i] += b[i];
}

static void add_f64(void *x, const void *y, size_t n)
{
    double *a = x;
    const double *b = y;
    for (size_t i = 0; i < n; i++) a[i] += b[i];
}

typedef struct {
    hn_hub *h;
    char *x;
    size_t n, size; /* bytes; bytes of a value */
    size_t done;    /* chunks that have all ranks' values */
    int next;       /* rank whose values the chunk `done` waits for */
    void (*add)(void *x, const void *y, size_t n);
} sum_state;

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Rank 0: adds what came, chunk by chunk and rank by rank. A rank may be two chunks ahead. */
static void advance_sum(void *context)
{
    sum_state *s = context;
    hn_hub *h = s->h;
    const size_t chunk = h->chunk, ring = 2 * chunk;
    while (s->done * chunk < s->n) {
        const size_t first = s->done * chunk, last = least(first + chunk, s->n);
        for (; s->next < h->size && h->flow[s->next - 1].in_at >= last; s->next++)
            s->add(s->x + first, h->flow[s->next - 1].in + first % ring, (last - first) / s->size);
        if (s->next < h->size) break;
        s->next = 1;
        s->done++;
    }
    for (int r = 1; r < h->size; r++) {
        hn_hub_flow *f = &h->flow[r - 1];
        f->out_ready = least(s->n, s->done * chunk);
        f->in_ready = least(s->n, (s->done + (s->next > r ? 1 : 0) + 2) * chunk);
    }
}

/* Others: sums take the place of values that have left. */
static void advance_own(void *context)
{
    hn_hub_flow *f = context;
    f->in_ready = f->out_at;
}

static hn_status sum(hn_hub *h, hn_hub_op op, void *x, size_t n, size_t size,
                     void (*add)(void *, const void *, size_t))
{
    HN_TRY(begin(h, op, n, 0));
    if (h->rank != 0) {
        hn_hub_flow *f = flow_of(h, 0, 0);
        send_all(f, x, n);
        receive_all(f, x, n);
        return pump(h, 1, advance_own, f);
    }
    sum_state s = {.h = h, .x = x, .n = n, .size = size, .next = 1, .add = add};
    for (int r = 1; r < h->size; r++) {
        hn_hub_flow *f = flow_of(h, r - 1, r);
        send_all(f, x, n);
        receive_all(f, h->stage + (size_t)(r - 1) * 2 * h->chunk, n);
        f->ring = 2 * h->chunk;
    }
    return pump(h, h->size - 1, advance_sum, &s);
}

static hn_status check_count(int64_t n, size_t size)
{
    if (n < 0 || (uint64_t)n > SIZE_MAX / 2 / size)
        return HN_FAIL(HN_ERR_ARG, "sum of %" PRId64 " values", n);
    return HN_OK;
}

hn_status hn_hub_sum_f32(hn_hub *h, float *x, int64_t n)
{
    HN_TRY(check_count(n, sizeof *x));
    if (h->size == 1) return HN_OK;
    return end(h, sum(h, HN_HUB_SUM_F32, x, (size_t)n * sizeof *x, sizeof *x, add_f32));
}

hn_status hn_hub_sum_f64(hn_hub *h, double *x, int64_t n)
{
    HN_TRY(check_count(n, sizeof *x));
    if (h->size == 1) return HN_OK;
    return end(h, sum(h, HN_HUB_SUM_F64, x, (size_t)n * sizeof *x, sizeof *x, add_f64));
}

/* ---- to rank 0 ---- */

static hn_status pass(hn_hub *h, const void *data, size_t n)
{
    const hn_hub_head head = {
        .op = HN_HUB_PASS, .root = h->rank, .number = h->number, .n_bytes = n};
    uint8_t bytes[HN_HUB_HEAD];
    HN_TRY(hn_hub_alive(h));
    set_waiting(h, true);
    hn_hub_head_write(&head, bytes);
    send_all(flow_of(h, 0, 0), bytes, sizeof bytes);
    HN_TRY(pump(h, 1, NULL, NULL));
    send_all(flow_of(h, 0, 0), data, n);
    return pump(h, 1, NULL, NULL);
}

hn_status hn_hub_pass(hn_hub *h, const void *data, size_t n_bytes)
{
    if (h->rank == 0) return HN_FAIL(HN_ERR_ARG, "rank 0 passes to itself");
    return end(h, pass(h, data, n_bytes));
}

static hn_status fetch(hn_hub *h, int rank, void *data, size_t n)
{
    const hn_hub_head head = {.op = HN_HUB_PASS, .root = rank, .number = h->number, .n_bytes = n};
    uint8_t mine[HN_HUB_HEAD], theirs[HN_HUB_HEAD];
    HN_TRY(hn_hub_alive(h));
    set_waiting(h, true);
    hn_hub_head_write(&head, mine);
    receive_all(flow_of(h, 0, rank), theirs, sizeof theirs);
    HN_TRY(pump(h, 1, NULL, NULL));
    if (memcmp(mine, theirs, sizeof mine) != 0) return mismatch(h, rank, &head, theirs);
    receive_all(flow_of(h, 0, rank), data, n);
    return pump(h, 1, NULL, NULL);
}

hn_status hn_hub_fetch(hn_hub *h, int rank, void *data, size_t n_bytes)
{
    if (h->rank != 0 || rank < 1 || rank >= h->size)
        return HN_FAIL(HN_ERR_ARG, "rank %d fetches from rank %d of %d", h->rank, rank, h->size);
    return end(h, fetch(h, rank, data, n_bytes));
}

bool hn_hub_comes(const hn_hub *h, int rank)
{
    struct pollfd p = {.fd = h->peer[rank].data, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}
