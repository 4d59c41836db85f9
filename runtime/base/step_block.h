/* step_block.h - the numbers that change from one optimizer step to the next.
 *
 * They live in one small buffer on the device. Kernels read them through a pointer
 * and never receive them as launch arguments, so a captured graph stays valid for
 * the whole run. One block serves a run; with a replica axis there is one per
 * replica. The first three fields are laid out like hn_rng_state (rng.h).
 *
 * Written by the host before a step: everything down to `frozen`. Written by the
 * device within the step: grad_scale, grad_norm, skipped, count (kernels/optim/grad_norm.h).
 */
#ifndef HN_STEP_BLOCK_H
#define HN_STEP_BLOCK_H
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Why an update was left out (hn_step_block.skipped). */
enum {
    HN_STEP_DONE = 0,      /* it was not */
    HN_STEP_NONFINITE = 1, /* the gradient holds NaN or Inf */
    HN_STEP_EMPTY = 2      /* no trained token in the whole step */
};

typedef struct __attribute__((aligned(16))) {
    uint64_t seed;           /* of every random choice of the run */
    uint64_t step;           /* optimizer step, from 1 in training */
    int64_t row_offset;      /* global row, in the optimizer step, of this micro-batch's row 0 */
    float lr;                /* learning rate of this step */
    float bias_correction1;  /* 1 - beta1^step */
    float bias_correction2;  /* 1 - beta2^step */
    float max_norm;          /* clip to this gradient norm; 0 or less: no clipping */
    int32_t decode_position; /* generation: cache position of the next token */
    int32_t frozen;          /* not 0: this replica is finished, optimizers leave it alone */
    float grad_scale;        /* clip factor / trained tokens; 0: the update is left out */
    float grad_norm;         /* ||gradient|| / trained tokens, before clipping */
    int32_t skipped;         /* HN_STEP_...: why grad_scale is 0 */
    float count;             /* trained tokens of the whole step */
    uint32_t arrived;        /* 0, but while grad_norm runs: its blocks that are done */
} hn_step_block;

#ifdef __cplusplus
}
#endif
#endif
