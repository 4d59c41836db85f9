/* hyperflow_values.h - values of networks on the host; for the files hyperflow_*.c only. */
#ifndef HN_HYPERFLOW_VALUES_H
#define HN_HYPERFLOW_VALUES_H
#include "runtime/train/hyperflow_impl.h"
#include "runtime/train/pearl_values.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Adds all parameters of a model but those of its head. */
HN_NODISCARD hn_status hn_hf_values(const hn_model *m, uint64_t seed, hn_values *out);
/* The backbone's own biases, [D]; hn_free it. */
HN_NODISCARD hn_status hn_hf_theta0(const hn_hyperflow *r, float **out);
/* Adds the vectors that theta [D] is in, whole: what it does not hold is as the model has it. */
HN_NODISCARD hn_status hn_hf_biases(const hn_theta *t, const float *theta, const hn_values *model,
                                    hn_values *out);

#ifdef __cplusplus
}
#endif
#endif
