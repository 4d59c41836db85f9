/* few_shot_head.h - tuning a linear head on the features of one episode, the body frozen.
 *
 *   u_i = x_i / max(|x_i|, 1e-8)      z[i,c] = w_c . u_i + b_c
 *   loss = mean over support rows of log sum_c exp(z[i,c]) - z[i,y_i]
 *
 * over the classes that have support rows. It begins as the prototypes classify (proto_ce.h),
 * w_c = scale p_c / max(|p_c|, 1e-8), b_c = scale offset, and takes `steps` steps of Adam
 * (0.9, 0.999, 1e-8, no weight decay) with all support rows.
 *
 * Precision  parameters and moments fp32, sums in double, in order: the same bits everywhere that
 *            exp, log and sqrt are.
 * Errors     HN_ERR_ARG: a support label that is no class, no support; HN_ERR_MEMORY
 */
#ifndef HN_FEW_SHOT_HEAD_H
#define HN_FEW_SHOT_HEAD_H
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const float *feature;         /* in  [support + queries, width] */
    const int32_t *label;         /* in  [support]; HN_LABEL_IGNORED: padding */
    int32_t *prediction;          /* out [queries]; -1: each z is a NaN */
    double loss_first, loss_last; /* out */
    int64_t support, queries, width, ways, steps;
    double lr;
    float scale, offset;
} hn_few_shot_head;

HN_NODISCARD hn_status hn_few_shot_head_tune(hn_few_shot_head *h);

#ifdef __cplusplus
}
#endif
#endif
