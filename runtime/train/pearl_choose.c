#include "runtime/train/pearl_choose.h"

#include <math.h>
#include <string.h>

static const char *const names[HN_CHOOSERS] = {"max-logit", "min-entropy", "max-energy",
                                               "prototype"};

const char *hn_chooser_name(hn_chooser c) { return names[c]; }

hn_status hn_chooser_of(const char *name, hn_chooser *out)
{
    for (int i = 0; i < HN_CHOOSERS; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (hn_chooser)i;
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_ARG, "chooser '%s': max-logit, min-entropy, max-energy or prototype",
                   name);
}

int64_t hn_choose_class(const float *logits, int64_t classes)
{
    int64_t best = 0;
    for (int64_t k = 1; k < classes; k++)
        if (logits[k] > logits[best]) best = k;
    return best;
}

static double log_sum_exp(const float *z, int64_t n)
{
    const double top = (double)z[hn_choose_class(z, n)];
    double sum = 0;
    for (int64_t k = 0; k < n; k++) sum += exp((double)z[k] - top);
    return top + log(sum);
}

/* As a share of what n classes can have. */
static double entropy(const float *z, int64_t n)
{
    const double all = log_sum_exp(z, n);
    double sum = 0;
    if (n == 1) return 1;
    for (int64_t k = 0; k < n; k++) sum -= exp((double)z[k] - all) * ((double)z[k] - all);
    return sum / log((double)n);
}

/* How well an image fits a task: the largest is chosen. */
static double score(hn_chooser c, const float *z, int64_t n)
{
    switch (c) {
    case HN_CHOOSE_MAX_LOGIT: return (double)z[hn_choose_class(z, n)];
    case HN_CHOOSE_MIN_ENTROPY: return -entropy(z, n);
    default: return log_sum_exp(z, n);
    }
}

int hn_choose_task(hn_chooser c, const float *const *logits, const int64_t *classes, int tasks)
{
    int best = 0;
    double most = -INFINITY;
    for (int t = 0; t < tasks; t++) {
        const double s = score(c, logits[t], classes[t]);
        if (s > most) {
            most = s;
            best = t;
        }
    }
    return best;
}

int hn_choose_nearest(const float *features, const float *const *mean, const int64_t *classes,
                      int tasks, const double *variance, int64_t width)
{
    double least = INFINITY, floor = 0;
    int best = 0;
    for (int64_t j = 0; j < width; j++) floor += variance[j];
    floor = 1e-6 * floor / (double)width + 1e-30;
    for (int t = 0; t < tasks; t++)
        for (int64_t k = 0; k < classes[t]; k++) {
            double d = 0;
            for (int64_t j = 0; j < width; j++) {
                const double x = (double)features[j] - (double)mean[t][k * width + j];
                d += x * x / (variance[j] + floor);
            }
            if (d < least) {
                least = d;
                best = t;
            }
        }
    return best;
}
