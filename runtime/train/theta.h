/* theta.h - the biases that an episode adapts, as one vector of fp32 numbers.
 *
 * A token is `width` numbers, the width of the vision transformer; D = tokens * width. Block by
 * block, in the order in which they are used:
 *
 *   qv      b_q, b_v                                                      2 tokens a block
 *   biases  norm1, b_q, b_v, proj, norm2, fc1 (several tokens), fc2       all but the key's
 *
 * The key's bias changes no attention (softmax removes what it adds), its gradient is round-off,
 * and Adam would make steps of that: it stays. Of files that hold q, k and v as one vector a part
 * of that is trained (hn_adapt.still).
 */
#ifndef HN_THETA_H
#define HN_THETA_H
#include "runtime/base/save.h"
#include "runtime/model/vision.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_THETA_QV, HN_THETA_BIASES } hn_theta_set;
#define HN_THETA_SETS "qv|biases" /* in that order */

/* Elements first .. first+n-1 of a vector of the model: n / width tokens. */
typedef hn_vit_bias_place hn_theta_part;

typedef struct {
    int64_t width, tokens, count; /* count: D */
    int64_t n_parts;
    hn_theta_part *part;
    char digest[HN_SHA256_HEX]; /* of all of this: which number is which bias */
} hn_theta;

/* Zero before the first use.
 * Errors  HN_ERR_ARG: no vision transformer; HN_ERR_UNSUPPORTED: no biases of q and v, or a hidden
 *         layer of no whole tokens; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_theta_make(const hn_vision_config *c, hn_theta_set set, hn_theta *out);
void hn_theta_free(hn_theta *t); /* accepts an empty one */

/* Hooks that train theta, or say that it is given, and freeze everything else; t must outlive
 * them. */
hn_adapt hn_theta_trained(const hn_theta *t);
hn_adapt hn_theta_given(const hn_theta *t);

/* Of replica g: theta [D] out of the parameters, and into them (trained or given ones). set writes
 * working copies, too, and leaves the key's part as it is.
 * Errors: HN_ERR_ARG where p lacks a vector, those of runtime/graph/tensor.h */
HN_NODISCARD hn_status hn_theta_get(const hn_theta *t, const hn_params *p, int64_t g, float *theta);
HN_NODISCARD hn_status hn_theta_set_replica(const hn_theta *t, const hn_params *p, int64_t g,
                                            const float *theta);

/* Records into g: the given vectors become theta, a tensor [replicas tokens, width] whose rows lie
 * without gaps. Before hn_plan_build. Errors: those of hn_emit and hn_view_shape */
HN_NODISCARD hn_status hn_theta_store(const hn_theta *t, const hn_params *p, hn_graph *g,
                                      hn_tensor *theta);

/* The first part of theta [D] with a number that is not finite; NULL: all are. */
const hn_theta_part *hn_theta_not_finite(const hn_theta *t, const float *theta);

/* theta += scale sigma[token] normal(token, column), keyed by seed alone: the noise of a start.
 * sigma  [tokens]; NULL: 1 */
void hn_theta_add_noise(const hn_theta *t, uint64_t seed, float scale, const float *sigma,
                        float *theta);

#ifdef __cplusplus
}
#endif
#endif
