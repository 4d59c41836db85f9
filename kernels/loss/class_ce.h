/* class_ce.h - cross-entropy over class logits, with label smoothing and a range of classes.
 *
 * With the n columns first_class .. first_class + n - 1 of row i, written c = 0 .. n - 1, and
 * y = labels[i] - first_class; for the trained rows (labels[i] is not HN_LABEL_IGNORED):
 *
 *   p[i,c]        = exp(z[i,c]) / sum_m exp(z[i,m])
 *   loss[i]       = (1 - eps) * -log p[i,y] + eps * (1/n) sum_c -log p[i,c]
 *   dlogits[i,c]  = p[i,c] - (1 - eps) (c == y) - eps / n         0 in columns outside the range
 *   prediction[i] = first_class + the c with the largest z[i,c], the lowest of several
 *
 *   loss_sum += sum_i loss[i]   count += number of trained rows   hits += those predicted right
 *
 * torch.nn.functional.cross_entropy(logits[:, range], y, label_smoothing=eps, reduction="sum") and
 * torch.argmax. A NaN counts as the largest logit, as there. Rows that are ignored have row_loss 0
 * and dlogits 0; their prediction is made all the same. Gradients are those of the sum: the
 * division by the trained rows of the whole optimizer step happens in clipping and update.
 *
 * Shapes     logits, dlogits [rows, classes], rows ld_logits and ld_dlogits elements apart; labels,
 *            row_loss, prediction [rows]; loss_sum, count, hits [1]. With `replicas` = G > 1 the
 *            rows are G equal groups in order, each with sums of its own: loss_sum and hits [G],
 *            count [G] count_stride elements apart.
 * Precision  logits and dlogits f32 or bf16; softmax and its sums fp32 (the twin in double), the
 *            sum of a call in double, added to loss_sum with one rounding. count and hits are exact
 *            up to 2^24.
 * CUDA       the same precision, sums in another order. A label outside the range that is not
 *            HN_LABEL_IGNORED gives the loss NaN.
 * Limits     rows, classes below 2^31; any width and alignment; 0 <= eps <= 1.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads.
 * Cost       three reads of the logits, of which the first is from memory, one write.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write; the CPU functions
 *            also report a label outside the range, with its row, as HN_ERR_ARG. Where labels are
 *            in device memory the loader has checked them.
 */
#ifndef HN_CLASS_CE_H
#define HN_CLASS_CE_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/label.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *logits;    /* in  [rows, classes] */
    const int32_t *labels; /* in  [rows] a class of the range, or HN_LABEL_IGNORED */
    float *loss_sum;       /* i/o [replicas]; NULL: not wanted */
    float *count;          /* i/o [replicas]; NULL: not wanted */
    float *hits;           /* i/o [replicas]; NULL: not wanted */
    void *dlogits;         /* out [rows, classes]; NULL: not wanted */
    float *row_loss;       /* out [rows]; NULL: not wanted */
    int32_t *prediction;   /* out [rows]; NULL: not wanted */
    int64_t rows, classes;
    int64_t ld_logits, ld_dlogits;
    int64_t replicas;               /* 0: 1 */
    int64_t count_stride;           /* of replicas; else not read */
    int64_t first_class, n_classes; /* the range; n_classes 0: all from first_class on */
    float smoothing;                /* eps */
    hn_dtype dtype;                 /* of logits and dlogits */
} hn_class_ce_args;

/* Does not read memory: labels are checked by hn_class_ce_check_labels (host memory). */
HN_NODISCARD hn_status hn_class_ce_check(const hn_class_ce_args *a);
HN_NODISCARD hn_status hn_class_ce_check_labels(const hn_class_ce_args *a);

HN_NODISCARD hn_status hn_class_ce_cpu(const hn_class_ce_args *a);

/* scratch: that many bytes, 64-byte aligned; the count reads shapes only. */
size_t hn_class_ce_fast_scratch(const hn_class_ce_args *a);
HN_NODISCARD hn_status hn_class_ce_fast(const hn_class_ce_args *a, void *scratch);

/* Device pointers. */
HN_CUDA_FUNCTION size_t hn_class_ce_cuda_scratch(const hn_class_ce_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_class_ce_cuda(const hn_class_ce_args *a, void *scratch,
                                                         hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
