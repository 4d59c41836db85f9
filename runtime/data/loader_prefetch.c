/* A ring of batches: the thread fills slot (n_filled % n), the caller reads slot (n_given % n).
 * The batch that was given out last stays untouched, so the thread stops one short of it. */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "runtime/data/data_util.h"
#include "runtime/data/loader.h"

struct hn_prefetch {
    const hn_loader *loader;
    hn_batch *batch;
    int n;
    int64_t first, n_total; /* n_total -1: no end */
    int64_t n_filled, n_given;
    bool stop;
    hn_status status; /* of the batch behind the last that was filled */
    char error[512];
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t filled, given;
};

static bool must_wait(const hn_prefetch *p)
{
    const int64_t kept = p->n_given > 0 ? 1 : 0; /* still read by the caller */
    return p->n_filled - p->n_given + kept >= p->n;
}

static void *run(void *argument)
{
    hn_prefetch *p = argument;
    pthread_mutex_lock(&p->mutex);
    while (!p->stop && p->n_filled != p->n_total) {
        if (must_wait(p)) {
            pthread_cond_wait(&p->given, &p->mutex);
            continue;
        }
        const int64_t k = p->n_filled;
        pthread_mutex_unlock(&p->mutex);
        const hn_status st = hn_loader_fill(p->loader, p->first + k, &p->batch[k % p->n]);
        pthread_mutex_lock(&p->mutex);
        if (st != HN_OK) {
            p->status = st;
            snprintf(p->error, sizeof p->error, "%s", hn_error_reason(st, hn_last_error()));
        } else {
            p->n_filled++;
        }
        pthread_cond_signal(&p->filled);
        if (st != HN_OK) break;
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

static void prefetch_free(hn_prefetch *p)
{
    pthread_cond_destroy(&p->given);
    pthread_cond_destroy(&p->filled);
    pthread_mutex_destroy(&p->mutex);
    hn_free(p);
}

hn_status hn_prefetch_start(const hn_loader *l, int64_t first, int64_t n_total, hn_batch *batch,
                            int n, hn_prefetch **out)
{
    if (n < 2 || n_total < -1 || first < 0)
        return HN_FAIL(HN_ERR_ARG,
                       "prefetch of %" PRId64 " batches from %" PRId64 " through %d buffers",
                       n_total, first, n);
    hn_prefetch *p = hn_calloc(1, sizeof *p);
    if (p == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for prefetching", sizeof *p);
    p->loader = l;
    p->batch = batch;
    p->n = n;
    p->first = first;
    p->n_total = n_total;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->filled, NULL);
    pthread_cond_init(&p->given, NULL);
    const int rc = pthread_create(&p->thread, NULL, run, p);
    if (rc != 0) {
        prefetch_free(p);
        return HN_FAIL(HN_ERR_THREAD, "prefetch thread: %s", strerror(rc));
    }
    *out = p;
    return HN_OK;
}

hn_status hn_prefetch_next(hn_prefetch *p, const hn_batch **out)
{
    pthread_mutex_lock(&p->mutex);
    while (p->n_filled == p->n_given && p->status == HN_OK && p->n_given != p->n_total)
        pthread_cond_wait(&p->filled, &p->mutex);
    const bool ready = p->n_filled > p->n_given;
    const hn_batch *b = ready ? &p->batch[p->n_given++ % p->n] : NULL;
    const hn_status st = ready ? HN_OK : p->status;
    pthread_cond_signal(&p->given);
    pthread_mutex_unlock(&p->mutex);
    if (st != HN_OK) return HN_FAIL(st, "%s", p->error);
    *out = b;
    return HN_OK;
}

void hn_prefetch_stop(hn_prefetch *p)
{
    if (p == NULL) return;
    pthread_mutex_lock(&p->mutex);
    p->stop = true;
    pthread_cond_signal(&p->given);
    pthread_mutex_unlock(&p->mutex);
    pthread_join(p->thread, NULL);
    prefetch_free(p);
}
