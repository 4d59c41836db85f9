/* anchor.h - a quadratic penalty that holds trained values near a reference.
 *
 *   g[i] += weight * count * F[i] * (p[i] - ref[i])
 *   loss += weight * count / 2 * sum_i F[i] (p[i] - ref[i])^2
 *
 * With F the (diagonal) Fisher information it is elastic weight consolidation (Kirkpatrick et al.,
 * 2017; square_accumulate.h makes F); without F, F[i] = 1, the proximal term of FedProx (Li et al.,
 * 2020) with mu = weight. g holds sums over rows that clipping and update divide by count: the
 * factor count makes the penalty part of the mean loss. It is read when the operation runs.
 *
 * Shapes     p, ref, fisher, grad f32 [replicas][n], replicas ..._stride elements apart; ref and
 *            fisher may be shared by all replicas (stride 0); count, loss [replicas], likewise
 *            count_stride (0: shared) and loss_stride apart.
 * Precision  fp32, rounded once or twice an element (the twin in double, rounded once); the sum in
 *            double, added to loss with one rounding.
 * Limits     n >= 1; any alignment.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads; CUDA adds in another order, fixed as well.
 * Cost       reads 16 and writes 4 bytes an element (12 and 4 without fisher).
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE before the first write.
 */
#ifndef HN_ANCHOR_H
#define HN_ANCHOR_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const float *p;      /* in  [replicas][n] trained values */
    const float *ref;    /* in  [replicas][n], or [n] for all */
    const float *fisher; /* in  [replicas][n], or [n] for all; NULL: 1 */
    const float *count;  /* in  [replicas], or [1] for all: trained rows; NULL: 1 */
    float *grad;         /* i/o [replicas][n] sums over rows */
    float *loss;         /* i/o [replicas]; NULL: not wanted */
    int64_t n;
    int64_t replicas; /* 0: 1 */
    int64_t stride, ref_stride, fisher_stride, grad_stride;
    int64_t count_stride, loss_stride;
    float weight;
} hn_anchor_args;

HN_NODISCARD hn_status hn_anchor_check(const hn_anchor_args *a);
HN_NODISCARD hn_status hn_anchor_cpu(const hn_anchor_args *a);

/* scratch: that many bytes, aligned for doubles; 0 without a loss. The count reads n, replicas and
 * whether there is a loss: loss, or loss_stride > 0 where pointers are not known yet. */
size_t hn_anchor_fast_scratch(const hn_anchor_args *a);
HN_NODISCARD hn_status hn_anchor_fast(const hn_anchor_args *a, void *scratch);

/* Device pointers. */
HN_CUDA_FUNCTION size_t hn_anchor_cuda_scratch(const hn_anchor_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_anchor_cuda(const hn_anchor_args *a, void *scratch,
                                                       hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
