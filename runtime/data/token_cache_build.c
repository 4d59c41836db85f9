/* A ring of slots. The calling thread fills a slot with rows and, when all slots are in use, waits
 * for the oldest and writes its words: order comes from the ring, not from the workers.
 * Workers take filled slots in turn. */
#define _POSIX_C_SOURCE 200809L
#include "runtime/data/token_cache_build.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/data/data_util.h"
#include "runtime/data/token_cache_row.h"

enum { RANGE_BYTES = 256 << 10, RANGE_ROWS = 1024, MAX_THREADS = 256, AUTO_THREADS = 16 };

typedef enum { SLOT_FREE, SLOT_FILLED, SLOT_DONE } slot_state;

typedef struct {
    slot_state state;
    hn_row *row; /* .text is set when the range is complete: `text` moves while it grows */
    int64_t n_rows, row_cap;
    char *text;
    int64_t n_bytes, text_cap;
    hn_row_words words;
    hn_status status;
    char error[512];
} slot;

typedef struct {
    hn_row_rule rule;
    slot *slot;
    int n_slots;
    int64_t n_filled, n_taken, n_written; /* ranges, since the start */
    bool stop;
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    hn_row_encoder *encoder; /* one for each thread */
    pthread_t *thread;
    int n_threads, n_started;
} build;

typedef struct {
    build *b;
    hn_row_encoder *encoder;
} worker;

static void work_on(const build *b, hn_row_encoder *e, slot *s)
{
    s->status = HN_OK;
    s->words.n_words = s->words.n_ends = 0;
    for (int64_t i = 0; i < s->n_rows && s->status == HN_OK; i++)
        s->status = hn_row_encode(&b->rule, e, &s->row[i], &s->words);
    if (s->status != HN_OK)
        snprintf(s->error, sizeof s->error, "%s", hn_error_reason(s->status, hn_last_error()));
}

static void *run_worker(void *argument)
{
    const worker w = *(worker *)argument;
    build *b = w.b;
    hn_free(argument);
    pthread_mutex_lock(&b->mutex);
    for (;;) {
        while (!b->stop && b->n_taken == b->n_filled) pthread_cond_wait(&b->work, &b->mutex);
        if (b->stop) break;
        slot *s = &b->slot[b->n_taken++ % b->n_slots];
        pthread_mutex_unlock(&b->mutex);
        work_on(b, w.encoder, s);
        pthread_mutex_lock(&b->mutex);
        s->state = SLOT_DONE;
        pthread_cond_signal(&b->done);
    }
    pthread_mutex_unlock(&b->mutex);
    return NULL;
}

/* Reads rows into a free slot; *at_end tells that the source has no more. */
static hn_status fill(build *b, slot *s, bool *at_end)
{
    s->n_rows = s->n_bytes = 0;
    while (s->n_rows < RANGE_ROWS && s->n_bytes < RANGE_BYTES) {
        hn_row row;
        HN_TRY(hn_source_next(b->rule.job->source, &row));
        *at_end = row.text == NULL;
        if (*at_end) break;
        HN_TRY(hn_reserve(&s->row, &s->row_cap, s->n_rows + 1, sizeof *s->row));
        HN_TRY(hn_reserve(&s->text, &s->text_cap, s->n_bytes + (int64_t)row.n_bytes + 1, 1));
        memcpy(s->text + s->n_bytes, row.text, row.n_bytes);
        s->n_bytes += (int64_t)row.n_bytes;
        s->row[s->n_rows++] = row;
    }
    const char *at = s->text;
    for (int64_t i = 0; i < s->n_rows; i++) {
        s->row[i].text = at;
        at += s->row[i].n_bytes;
    }
    return HN_OK;
}

static hn_status write_words(const slot *s, hn_token_writer *w)
{
    if (s->status != HN_OK) return HN_FAIL(s->status, "%s", s->error);
    int64_t at = 0;
    for (int64_t i = 0; i < s->words.n_ends; i++) {
        HN_TRY(hn_token_writer_add(w, s->words.word + at, s->words.end[i] - at));
        HN_TRY(hn_token_writer_end_sample(w));
        at = s->words.end[i];
    }
    return s->words.n_words > at ? hn_token_writer_add(w, s->words.word + at, s->words.n_words - at)
                                 : HN_OK;
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static hn_status run(build *b, hn_token_writer *w)
{
    const hn_token_job *job = b->rule.job;
    const double start = seconds_now();
    const double total = (double)hn_source_selected(job->source);
    hn_data_progress p = {0};
    double units = 0;
    bool at_end = false;
    while (!at_end || b->n_written < b->n_filled) {
        if (!at_end && b->n_filled - b->n_written < b->n_slots) {
            slot *s = &b->slot[b->n_filled % b->n_slots];
            HN_TRY(fill(b, s, &at_end));
            pthread_mutex_lock(&b->mutex);
            s->state = SLOT_FILLED;
            b->n_filled++;
            pthread_cond_signal(&b->work);
            pthread_mutex_unlock(&b->mutex);
            continue;
        }
        slot *s = &b->slot[b->n_written % b->n_slots];
        pthread_mutex_lock(&b->mutex);
        while (s->state != SLOT_DONE) pthread_cond_wait(&b->done, &b->mutex);
        pthread_mutex_unlock(&b->mutex);
        HN_TRY(write_words(s, w));
        s->state = SLOT_FREE;
        b->n_written++;
        if (job->tell == NULL) continue;
        p.rows += s->n_rows;
        units += (double)(b->rule.is_text ? s->n_bytes : s->n_rows);
        p.share = total > 0 ? units / total : 1;
        p.seconds = seconds_now() - start;
        job->tell(job->tell_context, &p);
    }
    return HN_OK;
}

static int choose_threads(const hn_token_job *job)
{
    if (job->threads > 0) return job->threads;
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    const int64_t ranges = hn_source_about(job->source)->n_bytes / RANGE_BYTES + 1;
    int n = processors < 1 ? 1 : processors > AUTO_THREADS ? AUTO_THREADS : (int)processors;
    return ranges < n ? (int)ranges : n;
}

static hn_status start_threads(build *b)
{
    for (; b->n_started < b->n_threads; b->n_started++) {
        worker *w = hn_malloc(sizeof *w);
        if (w == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a thread", sizeof *w);
        *w = (worker){.b = b, .encoder = &b->encoder[b->n_started]};
        const int rc = pthread_create(&b->thread[b->n_started], NULL, run_worker, w);
        if (rc != 0) {
            hn_free(w);
            return HN_FAIL(HN_ERR_THREAD, "tokenizer thread %d of %d: %s", b->n_started + 1,
                           b->n_threads, strerror(rc));
        }
    }
    return HN_OK;
}

static void stop_threads(build *b)
{
    pthread_mutex_lock(&b->mutex);
    b->stop = true;
    pthread_cond_broadcast(&b->work);
    pthread_mutex_unlock(&b->mutex);
    for (int i = 0; i < b->n_started; i++) pthread_join(b->thread[i], NULL);
}

static void build_free(build *b)
{
    for (int i = 0; b->slot != NULL && i < b->n_slots; i++) {
        hn_free(b->slot[i].row);
        hn_free(b->slot[i].text);
        hn_row_words_free(&b->slot[i].words);
    }
    for (int i = 0; b->encoder != NULL && i < b->n_threads; i++)
        hn_row_encoder_free(&b->encoder[i]);
    hn_free(b->slot);
    hn_free(b->encoder);
    hn_free(b->thread);
    hn_row_rule_free(&b->rule);
}

hn_status hn_token_build(const hn_token_job *job, hn_token_writer *w, hn_token_stats *stats)
{
    if (job->threads < 0 || job->threads > MAX_THREADS)
        return HN_FAIL(HN_ERR_ARG, "%d tokenizer threads, allowed 0..%d", job->threads,
                       MAX_THREADS);
    hn_status st = HN_OK;
    build b = {.n_threads = choose_threads(job)};
    b.n_slots = 2 * b.n_threads + 1;
    pthread_mutex_init(&b.mutex, NULL);
    pthread_cond_init(&b.work, NULL);
    pthread_cond_init(&b.done, NULL);
    b.slot = hn_calloc((size_t)b.n_slots, sizeof *b.slot);
    b.encoder = hn_calloc((size_t)b.n_threads, sizeof *b.encoder);
    b.thread = hn_calloc((size_t)b.n_threads, sizeof *b.thread);
    if (b.slot == NULL || b.encoder == NULL || b.thread == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for %d tokenizer threads", b.n_threads);
        goto done;
    }
    HN_TRY_GOTO(st, hn_row_rule_make(job, &b.rule), done);
    HN_TRY_GOTO(st, hn_source_rewind(job->source), done);
    HN_TRY_GOTO(st, start_threads(&b), done);
    HN_TRY_GOTO(st, run(&b, w), done);
    stop_threads(&b);
    b.n_started = 0;
    st = hn_row_sum(b.encoder, b.n_threads, &b.rule, stats);

done:
    stop_threads(&b);
    build_free(&b);
    pthread_cond_destroy(&b.done);
    pthread_cond_destroy(&b.work);
    pthread_mutex_destroy(&b.mutex);
    return st;
}
