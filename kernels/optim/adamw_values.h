/* adamw_values.h - the arithmetic of the fast CPU function of adamw, for adamw and sparse_adamw. */
#ifndef HN_ADAMW_VALUES_H
#define HN_ADAMW_VALUES_H
#include "kernels/optim/adamw.h"

/* Numbers of one update, ready to multiply with. */
typedef struct {
    float scale, keep, beta1, beta2, step, denominator, eps;
} hn_adamw_factors_;

/* Of the rates in *a and the step, with these bias corrections. */
hn_adamw_factors_ hn_adamw_factors_of_(const hn_adamw_args *a, const hn_step_block *s,
                                       float correction1, float correction2);

/* The ranges do not overlap. */
void hn_adamw_values_(float *p, const float *grad, float *m, float *v, int64_t n,
                      hn_adamw_factors_ f);

#endif
