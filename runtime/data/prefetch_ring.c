#include "runtime/data/prefetch_ring.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "runtime/data/data_util.h"

struct hn_ring {
    hn_ring_fill fill;
    void *context;
    int n;
    int64_t n_total; /* -1: no end */
    int64_t n_filled, n_given;
    bool stop;
    hn_status status; /* of the item behind the last that was filled */
    char error[512];
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t filled, given;
};

static bool must_wait(const hn_ring *r)
{
    const int64_t kept = r->n_given > 0 ? 1 : 0; /* still read by the caller */
    return r->n_filled - r->n_given + kept >= r->n;
}

static void *run(void *argument)
{
    hn_ring *r = argument;
    pthread_mutex_lock(&r->mutex);
    while (!r->stop && r->n_filled != r->n_total) {
        if (must_wait(r)) {
            pthread_cond_wait(&r->given, &r->mutex);
            continue;
        }
        const int64_t k = r->n_filled;
        pthread_mutex_unlock(&r->mutex);
        const hn_status st = r->fill(r->context, k, (int)(k % r->n));
        pthread_mutex_lock(&r->mutex);
        if (st != HN_OK) {
            r->status = st;
            snprintf(r->error, sizeof r->error, "%s", hn_error_reason(st, hn_last_error()));
        } else {
            r->n_filled++;
        }
        pthread_cond_signal(&r->filled);
        if (st != HN_OK) break;
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

static void ring_free(hn_ring *r)
{
    pthread_cond_destroy(&r->given);
    pthread_cond_destroy(&r->filled);
    pthread_mutex_destroy(&r->mutex);
    hn_free(r);
}

hn_status hn_ring_start(hn_ring_fill fill, void *context, int n, int64_t n_total, hn_ring **out)
{
    if (n < 2 || n_total < -1)
        return HN_FAIL(HN_ERR_ARG, "prefetch of %" PRId64 " batches through %d buffers", n_total,
                       n);
    hn_ring *r = hn_calloc(1, sizeof *r);
    if (r == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for prefetching", sizeof *r);
    r->fill = fill;
    r->context = context;
    r->n = n;
    r->n_total = n_total;
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->filled, NULL);
    pthread_cond_init(&r->given, NULL);
    const int rc = pthread_create(&r->thread, NULL, run, r);
    if (rc != 0) {
        ring_free(r);
        return HN_FAIL(HN_ERR_THREAD, "prefetch thread: %s", strerror(rc));
    }
    *out = r;
    return HN_OK;
}

hn_status hn_ring_next(hn_ring *r, int *slot)
{
    pthread_mutex_lock(&r->mutex);
    while (r->n_filled == r->n_given && r->status == HN_OK && r->n_given != r->n_total)
        pthread_cond_wait(&r->filled, &r->mutex);
    const bool ready = r->n_filled > r->n_given;
    const int at = ready ? (int)(r->n_given++ % r->n) : -1;
    const hn_status st = ready ? HN_OK : r->status;
    pthread_cond_signal(&r->given);
    pthread_mutex_unlock(&r->mutex);
    if (st != HN_OK) return HN_FAIL(st, "%s", r->error);
    *slot = at;
    return HN_OK;
}

void hn_ring_stop(hn_ring *r)
{
    if (r == NULL) return;
    pthread_mutex_lock(&r->mutex);
    r->stop = true;
    pthread_cond_signal(&r->given);
    pthread_mutex_unlock(&r->mutex);
    pthread_join(r->thread, NULL);
    ring_free(r);
}
