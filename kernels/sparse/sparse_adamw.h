/* sparse_adamw.h - one AdamW update of the changes of all chosen blocks, each with its own age.
 *
 *   age[b] = min(age[b] + 1, 65535)         c1, c2 = corrections[age[b]]
 *   and then, for every value of block b, kernels/optim/adamw.h with p = delta,
 *   bias_correction1 = c1 and bias_correction2 = c2
 *
 * A block that was chosen later than others begins with its own bias correction: age is the number
 * of updates it has seen. Weight decay pulls delta to 0, so W to the frozen weights. With age =
 * step - 1 before the update, and the corrections of the step block in the table, the bits are
 * those of adamw (fast and CUDA).
 *
 * Only the used part of the pool moves: from its beginning to the end of the last span (spans have
 * no holes between them, kernels/sparse/sparse_pool.h); what lies behind is left alone. As in
 * adamw.h, with grad_scale 0 or frozen not 0 nothing but the gradient changes: it is zeroed.
 *
 * Shapes     delta, grad, m, v f32 [values], at the same places; age [blocks]; spans [matrices];
 *            sizes [matrices]: values of a block of each matrix, where they differ (rows, columns);
 *            corrections f32 [65536, 2]: row t holds 1 - beta1^t, 1 - beta2^t (row 0 is not read).
 * Precision  as adamw.h.
 * Limits     values, blocks 1 to 2^31 - 1; any alignment; no replicas.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads: element by element.
 * Cost       an element of a 1 x 1 block costs 36 bytes: four values and the age read and written.
 * CUDA       spans, sizes and ages are device memory, read when it runs; they are not checked: a
 *            promise. The step block is device memory.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE before the first write (CPU: also spans with holes or outside
 *            the pool).
 */
#ifndef HN_SPARSE_ADAMW_H
#define HN_SPARSE_ADAMW_H

#include <stdint.h>

#include "kernels/sparse/sparse_pool.h"
#include "runtime/base/step_block.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_SPARSE_AGES = 65536 };

typedef struct {
    float *delta;                /* i/o [values] changes of the chosen weights */
    float *grad;                 /* i/o [values] sums over tokens */
    float *m, *v;                /* i/o [values] first and second moments */
    uint16_t *age;               /* i/o [blocks] updates that a block has seen */
    const hn_sparse_span *spans; /* in  [matrices] */
    const int32_t *sizes;        /* in  [matrices]; NULL: block_values for all */
    const float *corrections;    /* in  [HN_SPARSE_AGES, 2] */
    const hn_step_block *step;   /* in  [1] */
    int64_t values, blocks, matrices;
    int64_t block_values; /* values of every block; 0 with sizes */
    float beta1, beta2;   /* 0 <= beta < 1 */
    float eps;            /* > 0 */
    float weight_decay;   /* >= 0 */
    float lr_scale;       /* 0: not given, 1 */
} hn_sparse_adamw_args;

/* The table of the bias corrections: made in double, rounded once, as the step block's are. */
void hn_sparse_corrections(double beta1, double beta2, float *corrections);

HN_NODISCARD hn_status hn_sparse_adamw_check(const hn_sparse_adamw_args *a);
HN_NODISCARD hn_status hn_sparse_adamw_cpu(const hn_sparse_adamw_args *a);
HN_NODISCARD hn_status hn_sparse_adamw_fast(const hn_sparse_adamw_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_sparse_adamw_cuda(const hn_sparse_adamw_args *a,
                                                             hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
