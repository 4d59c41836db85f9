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

hn_status hn_few_shot_over_domains(const hn_few_shot_mean *of, int64_t domains,
                                   hn_few_shot_mean *out)
{
    hn_few_shot_mean m = {0};
    double intervals = 0, squares = 0;
    if (of == NULL || domains < 1)
        return HN_FAIL(HN_ERR_ARG, "statistics of %" PRId64 " domains: at least one", domains);
    for (int64_t k = 0; k < domains; k++) {
        if (of[k].n < 2)
            return HN_FAIL(HN_ERR_ARG, "domain %" PRId64 " has %" PRId64 " episodes: no interval",
                           k, of[k].n);
        m.n += of[k].n;
        m.mean += of[k].mean;
        squares += of[k].sd * of[k].sd;
        intervals += of[k].ci95 * of[k].ci95;
    }
    m.mean /= (double)domains;
    m.sd = sqrt(squares / (double)domains);
    m.ci95 = sqrt(intervals) / (double)domains;
    if (!isfinite(m.mean) || !isfinite(m.ci95))
        return HN_FAIL(HN_ERR_NUMERIC, "%" PRId64 " domains: no finite mean", domains);
    *out = m;
    return HN_OK;
}

bool hn_few_shot_differs(const hn_few_shot_mean *d) { return d->n > 1 && fabs(d->mean) > d->ci95; }
