/* loader.h - batches out of a data set: the second half of the one dataset loader.
 *
 * Rows      of seq_len positions, made once (packing.h); R of them are an epoch.
 * Order     training is one endless sequence of rows: row g is row (g mod R) of epoch g / R, and
 * each epoch is a permutation of its own, a function of (seed, epoch). So a batch is always full;
 *           one that reaches the end of an epoch goes on in the next.
 * Sharding  micro-batch m of rank r of w takes the rows (m*w + r)*b .. + b-1: batch 8x1 and 1x8 and
 *           any number of ranks see the same rows in the same order.
 * Resume    the state is the micro-batch's number; nothing is replayed.
 * Once      (evaluation) the rows once; what is behind the last one is padding. With shuffle off
 *           rows keep the order of the data.
 * Labels    shifted here: labels[i] is the target of position i, or -100.
 * Sequences a row's samples, and its padding as one more; attention stays inside a sequence and
 *           positions start at 0 in each. Unused entries of seq_offsets repeat the end, so the
 *           sequences they make have length 0.
 *
 * A loader does not change: any number of threads may fill batches. Filling allocates nothing.
 */
#ifndef HN_LOADER_H
#define HN_LOADER_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/label.h"
#include "runtime/base/log.h"
#include "runtime/base/status.h"
#include "runtime/data/dataset.h"
#include "runtime/data/packing.h"
#include "runtime/data/share.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t batch_rows, seq_len;
    int64_t max_seqs; /* sequences of a micro-batch, padding included, at least 2 * batch_rows; a
                       * row may use max_seqs / batch_rows of them, so keep that ratio to keep the
                       * rows. 0: as many as the data need */
    uint64_t seed;
    int rank, world; /* world 0: one rank */
    bool shuffle, packing;
    bool once;      /* evaluation */
    int32_t pad_id; /* token at padding positions, any valid id */
} hn_loader_options;

typedef struct {
    int32_t *tokens;      /* [batch_rows * seq_len] */
    int32_t *labels;      /* [batch_rows * seq_len] */
    int32_t *positions;   /* [batch_rows * seq_len] from 0 in each sequence */
    int32_t *seq_offsets; /* [max_seqs + 1] first position of a sequence in the batch */
    int64_t max_seqs;     /* in: room in seq_offsets; 0: hn_loader_max_seqs */
    int64_t n_seqs;       /* out: sequences that are not empty */
    int64_t n_trained;    /* out: labels that are not -100 */
    int64_t n_tokens;     /* out: positions that are not padding */
} hn_batch;

typedef struct hn_loader hn_loader;

/* d        must outlive the loader
 * Errors   HN_ERR_ARG; HN_ERR_MEMORY; HN_ERR_FORMAT "no trained tokens" */
HN_NODISCARD hn_status hn_loader_open(const hn_dataset *d, const hn_loader_options *o,
                                      hn_loader **out);
void hn_loader_free(hn_loader *l); /* accepts NULL */

/* micro_batch  number since the start of training
 * b            the arrays are the caller's; they are unspecified after an error
 * Errors       HN_ERR_ARG: a negative or too large number, too little room for sequences */
HN_NODISCARD hn_status hn_loader_fill(const hn_loader *l, int64_t micro_batch, hn_batch *b);

const hn_packing_stats *hn_loader_stats(const hn_loader *l);
const hn_loader_options *
hn_loader_settings(const hn_loader *l); /* with max_seqs and world settled */
int64_t hn_loader_max_seqs(const hn_loader *l);
int64_t hn_loader_rows_per_epoch(const hn_loader *l);
/* Micro-batches of this rank that begin in this epoch; once: those that cover all rows. */
int64_t hn_loader_batches_per_epoch(const hn_loader *l, int64_t epoch);
/* Epochs that are over when micro_batch begins, as a fraction. */
double hn_loader_epoch_at(const hn_loader *l, int64_t micro_batch);
/* Share of an epoch's positions that are not padding. */
double hn_loader_efficiency(const hn_loader *l);
/* Rows, samples cut off or dropped, packing efficiency, micro-batches an epoch. */
void hn_loader_report(const hn_loader *l, const hn_log *log);

/* Arrays of the right size; hn_batch_free frees them. max_seqs 0: the loader's own. */
HN_NODISCARD hn_status hn_batch_make(const hn_loader *l, int64_t max_seqs, hn_batch *out);
void hn_batch_free(hn_batch *b); /* accepts an empty one */

/* A thread that fills batches ahead. What comes out is what hn_loader_fill gives. */
typedef struct hn_prefetch hn_prefetch;

/* batch    n of them (>= 2) with arrays for this loader, the caller's (pinned memory, if wanted);
 *          they belong to the thread until hn_prefetch_stop
 * first    number of the first micro-batch
 * share    which of them, from there on
 * n_total  micro-batches to give out; -1: no end
 * Errors   HN_ERR_ARG, HN_ERR_MEMORY, HN_ERR_THREAD */
HN_NODISCARD hn_status hn_prefetch_start(const hn_loader *l, int64_t first, hn_share share,
                                         int64_t n_total, hn_batch *batch, int n,
                                         hn_prefetch **out);
/* The next batch, valid until the next call; NULL behind the last. Allocates nothing.
 * Errors   what hn_loader_fill met */
HN_NODISCARD hn_status hn_prefetch_next(hn_prefetch *p, const hn_batch **out);
void hn_prefetch_stop(hn_prefetch *p); /* accepts NULL; waits for the thread, frees p */

#ifdef __cplusplus
}
#endif
#endif
