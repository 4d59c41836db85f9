/* image_loader.h - batches of image numbers (and, where wanted, pixels) out of an image set.
 *
 * Order      training visits R images an epoch, each epoch in a permutation of its own, a
 *            function of (seed, epoch): row_order.h, as rows of tokens. With shuffle off: the
 *            order of the data.
 * Epoch end  where R is no multiple of all ranks' batches. JOIN: a batch goes on in the next
 *            epoch, always full. PAD: the last batch of an epoch is filled up with padding. DROP:
 *            the images that do not fill a batch are left out of this epoch.
 * Once       (evaluation) every image once, then padding; the order is that of the data unless
 *            shuffle is on.
 * Sharding   step k has the rows k * batch * world ..; rank r takes batch of them from r * batch:
 *            batch 8x1 and 1x8 and any number of ranks see the same images in the same order.
 * Resume     the state is the micro-batch's number; nothing is replayed.
 * Row        a row's number since the start of training, first_row + i, keys what is random about
 *            it (crops, flips): with JOIN the same however the step is cut into batches and
 *            ranks.
 * Padding    number -1, label -100.
 * Pixels     a set of at most resident_bytes is for the device's memory as a whole: batches hold
 *            numbers only. A larger one is streamed: a batch holds its own pixels, and
 *            hn_image_prefetch fills it ahead.
 *
 * A loader does not change: any number of threads may fill batches. Filling allocates nothing.
 */
#ifndef HN_IMAGE_LOADER_H
#define HN_IMAGE_LOADER_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/data/images.h"
#include "runtime/data/share.h"
#include "runtime/data/task_stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_EPOCH_JOIN, HN_EPOCH_PAD, HN_EPOCH_DROP } hn_epoch_end;

typedef struct {
    int64_t batch; /* images of a micro-batch of one rank */
    uint64_t seed;
    int rank, world; /* world 0: one rank */
    bool shuffle;
    bool once;              /* evaluation; epoch_end is not read */
    hn_epoch_end epoch_end; /* zero: JOIN */
    int64_t resident_bytes; /* of the device's memory for the pixels of the set; 0: stream */
    uint32_t salt; /* number of the task: another order where images and seed are the same */
} hn_image_loader_options;

typedef struct {
    int32_t *image;    /* out [batch] number in the set, -1: padding */
    int32_t *index;    /* out [batch] where the pixels are: image number in the set when resident,
                        * row of `pixel` when streamed; -1: padding. One of the two may be NULL */
    int32_t *label;    /* out [batch], -100: padding */
    uint8_t *pixel;    /* out [batch, h, w, c] when streamed, zeros in padding; else not touched */
    int64_t n_images;  /* out: rows that are not padding */
    int64_t first_row; /* out: number of row 0 */
} hn_image_batch;

typedef struct hn_image_loader hn_image_loader;

/* s        must outlive the loader
 * view     copied; NULL: all images with the labels of the data
 * Errors   HN_ERR_ARG: also DROP with less images than a step takes; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_image_loader_open(const hn_image_set *s, const hn_image_view *view,
                                            const hn_image_loader_options *o,
                                            hn_image_loader **out);
void hn_image_loader_free(hn_image_loader *l); /* accepts NULL */

/* micro_batch  number since the start of training
 * b            arrays are the caller's
 * Errors       HN_ERR_ARG: a negative or too large number, no room for pixels */
HN_NODISCARD hn_status hn_image_loader_fill(const hn_image_loader *l, int64_t micro_batch,
                                            hn_image_batch *b);

const hn_image_loader_options *
hn_image_loader_settings(const hn_image_loader *l); /* world settled */
const hn_image_set *hn_image_loader_set(const hn_image_loader *l);
bool hn_image_loader_resident(const hn_image_loader *l);
int64_t hn_image_loader_rows(const hn_image_loader *l); /* images of an epoch: R, DROP included */
int32_t hn_image_loader_classes(const hn_image_loader *l); /* labels are below */
/* Micro-batches of this rank that begin in this epoch; once: those that cover all images. */
int64_t hn_image_loader_batches(const hn_image_loader *l, int64_t epoch);
/* Epochs that are over when micro_batch begins, as a fraction. */
double hn_image_loader_epoch_at(const hn_image_loader *l, int64_t micro_batch);

/* Arrays of the right size in host memory; hn_image_batch_free frees them. */
HN_NODISCARD hn_status hn_image_batch_make(const hn_image_loader *l, hn_image_batch *out);
void hn_image_batch_free(hn_image_batch *b); /* accepts an empty one */

/* A thread that fills batches ahead. What comes out is what hn_image_loader_fill gives. */
typedef struct hn_image_prefetch hn_image_prefetch;

/* batch    n of them (>= 2) with arrays for this loader, the caller's (pinned memory, if wanted);
 *          they belong to the thread until hn_image_prefetch_stop
 * first    number of the first micro-batch
 * share    which of them, from there on
 * n_total  micro-batches to give out; -1: no end
 * Errors   HN_ERR_ARG, HN_ERR_MEMORY, HN_ERR_THREAD */
HN_NODISCARD hn_status hn_image_prefetch_start(const hn_image_loader *l, int64_t first,
                                               hn_share share, int64_t n_total,
                                               hn_image_batch *batch, int n,
                                               hn_image_prefetch **out);
/* The next batch, valid until the next call; NULL behind the last. Allocates nothing.
 * Errors   what hn_image_loader_fill met */
HN_NODISCARD hn_status hn_image_prefetch_next(hn_image_prefetch *p, const hn_image_batch **out);
void hn_image_prefetch_stop(hn_image_prefetch *p); /* accepts NULL; waits for the thread, frees p */

#ifdef __cplusplus
}
#endif
#endif
