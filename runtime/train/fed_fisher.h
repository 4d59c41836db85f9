/* fed_fisher.h - how firmly a client's images hold its values: the diagonal of the empirical Fisher
 * information, h = mean over images of (d log p(label | image) / d value)^2, at the values behind
 * its last step. Image by image, as they are (no augmentation), batch norm by its running values.
 * The images are the first ones in the order of the task's epoch 0. What fedref-v3 with `fisher`
 * weighs clients by (runtime/fed/server.h). */
#ifndef HN_FED_FISHER_H
#define HN_FED_FISHER_H
#include "runtime/train/fed_sim.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_fed_fisher hn_fed_fisher;

/* o      as of the simulation; local.fisher_images is what is read of what clients do
 * Errors those of hn_engine_new and hn_model_load */
HN_NODISCARD hn_status hn_fed_fisher_new(const hn_fed_sim_options *o, hn_fed_fisher **out);
void hn_fed_fisher_free(hn_fed_fisher *f); /* accepts NULL */

/* value   in [values that travel]
 * h       out: of the trained ones, in their order (the layout's `values`) */
HN_NODISCARD hn_status hn_fed_fisher_of(hn_fed_fisher *f, const hn_fed_task *t, const float *value,
                                        float *h);

#ifdef __cplusplus
}
#endif
#endif
