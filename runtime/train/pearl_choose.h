/* pearl_choose.h - which task does an image belong to? From what the networks of all tasks make of
 * it, or from where its features lie.
 *
 *   max-logit    the task with the largest logit
 *   min-entropy  the task whose softmax has the least entropy
 *   max-energy   the task with the largest log sum exp of its logits
 *   prototype    the task of the class whose mean feature is nearest: the least
 *                sum_j (f_j - mean_j)^2 / (variance_j + 1e-6 mean variance), features of the
 *                reference
 *
 * Entropies are of tasks with as many classes comparable, of others not quite: min-entropy divides
 * by the logarithm of their number (a task of one class is never chosen by it unless all are).
 * Ties go to the earlier task. Sums in fp64. */
#ifndef HN_PEARL_CHOOSE_H
#define HN_PEARL_CHOOSE_H
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    HN_CHOOSE_MAX_LOGIT,
    HN_CHOOSE_MIN_ENTROPY,
    HN_CHOOSE_MAX_ENERGY,
    HN_CHOOSE_PROTOTYPE,
    HN_CHOOSERS
} hn_chooser;

const char *hn_chooser_name(hn_chooser c);
/* Errors: HN_ERR_ARG */
HN_NODISCARD hn_status hn_chooser_of(const char *name, hn_chooser *out);

/* One of the first three. logits[t] is [classes[t]], of task t's network. */
int hn_choose_task(hn_chooser c, const float *const *logits, const int64_t *classes, int tasks);

/* mean[t] is [classes[t], width]; variance [width] */
int hn_choose_nearest(const float *features, const float *const *mean, const int64_t *classes,
                      int tasks, const double *variance, int64_t width);

/* The largest; the first of equal ones. */
int64_t hn_choose_class(const float *logits, int64_t classes);

#ifdef __cplusplus
}
#endif
#endif
