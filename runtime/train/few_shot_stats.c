#include "runtime/train/few_shot_stats.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>

/* Of a_i - b_i; b NULL: of a_i. Two passes: no digits are lost between large sums. */
static hn_status measure(const double *a, const double *b, int64_t n, hn_few_shot_mean *out)
{
    double sum = 0, squares = 0;
    if (a == NULL || n < 1)
        return HN_FAIL(HN_ERR_ARG, "statistics of %" PRId64 " episodes: at least one", n);
    for (int64_t i = 0; i < n; i++) {
        const double v = b != NULL ? a[i] - b[i] : a[i];
        if (!isfinite(v))
            return HN_FAIL(HN_ERR_NUMERIC, "episode %" PRId64 " has the value %g", i, v);
        sum += v;
    }
    const double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) {
        const double d = (b != NULL ? a[i] - b[i] : a[i]) - mean;
        squares += d * d;
    }
    const double sd = sqrt(squares / (double)n);
    *out = (hn_few_shot_mean){.n = n, .mean = mean, .sd = sd, .ci95 = 1.96 * sd / sqrt((double)n)};
    return HN_OK;
}

hn_status hn_few_shot_mean_of(const double *value, int64_t n, hn_few_shot_mean *out)
{
    return measure(value, NULL, n, out);
}

hn_status hn_few_shot_difference(const double *a, const double *b, int64_t n, hn_few_shot_mean *out)
{
    if (b == NULL) return HN_FAIL(HN_ERR_ARG, "a difference of one method");
    return measure(a, b, n, out);
}

bool hn_few_shot_differs(const hn_few_shot_mean *d) { return d->n > 1 && fabs(d->mean) > d->ci95; }
