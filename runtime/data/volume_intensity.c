#include <math.h>
#include <string.h>

#include "runtime/data/volumes.h"

hn_status hn_intensity_parse(const char *name, hn_intensity *out)
{
    static const char *const names[] = {"none", "minmax", "zscore", "quantile"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (hn_intensity)i;
            return HN_OK;
        }
    return HN_FAIL(HN_ERR_ARG, "preparation of intensities '%s': one of %s", name, HN_INTENSITIES);
}

static void stretch(float *value, int64_t n, float low, float high)
{
    const double range = (double)high - (double)low;
#pragma omp parallel for if (n > 65536)
    for (int64_t i = 0; i < n; i++)
        value[i] = range > 0 ? (float)(((double)value[i] - (double)low) / range) : 0;
}

static void minmax(float *value, int64_t n)
{
    float low = value[0], high = value[0];
    for (int64_t i = 1; i < n; i++) {
        if (value[i] < low) low = value[i];
        if (value[i] > high) high = value[i];
    }
    stretch(value, n, low, high);
}

/* Two passes, in order: the same bits on any number of threads. */
static void zscore(float *value, int64_t n)
{
    double sum = 0, squares = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)value[i];
        count += value[i] != 0;
    }
    if (count == 0) return;
    const double mean = sum / (double)count;
    for (int64_t i = 0; i < n; i++) {
        const double d = value[i] != 0 ? (double)value[i] - mean : 0;
        squares += d * d;
    }
    const double sd = sqrt(squares / (double)count), scale = sd > 0 ? 1 / sd : 1;
#pragma omp parallel for if (n > 65536)
    for (int64_t i = 0; i < n; i++)
        if (value[i] != 0) value[i] = (float)(((double)value[i] - mean) * scale);
}

/* ---- quantiles ---- */

/* Numbers in the order of the floats they stand for, -0 before 0. */
static uint32_t order_of(float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

static float value_of(uint32_t order)
{
    const uint32_t u = order & 0x80000000u ? order & 0x7fffffffu : ~order;
    float v;
    memcpy(&v, &u, sizeof v);
    return v;
}

enum { BITS = 11, BINS = 1 << BITS };

/* The k-th value in order, from 0, without sorting: three counts narrow its 32 bits down. */
static float kth(const float *value, int64_t n, int64_t k)
{
    uint32_t known = 0, mask = 0;
    for (int shift = 32 - BITS; mask != UINT32_MAX; shift = shift > BITS ? shift - BITS : 0) {
        int64_t count[BINS] = {0}, before = 0;
        uint32_t bin = 0;
        for (int64_t i = 0; i < n; i++) {
            const uint32_t u = order_of(value[i]);
            if ((u & mask) == known) count[u >> shift & (BINS - 1)]++;
        }
        while (before + count[bin] <= k) before += count[bin++];
        k -= before;
        known |= bin << shift;
        mask |= (uint32_t)(BINS - 1) << shift;
    }
    return value_of(known);
}

static void quantile(float *value, int64_t n)
{
    const int64_t low = (int64_t)floor(0.05 * (double)n);
    const int64_t high = (int64_t)ceil(0.95 * (double)n) - 1;
    const float q5 = kth(value, n, low), q95 = kth(value, n, high);
    stretch(value, n, q5, q95);
}

void hn_intensity_apply(hn_intensity how, float *value, int64_t n)
{
    if (n < 1) return;
    switch (how) {
    case HN_INTENSITY_NONE: return;
    case HN_INTENSITY_MINMAX: minmax(value, n); return;
    case HN_INTENSITY_ZSCORE: zscore(value, n); return;
    case HN_INTENSITY_QUANTILE: quantile(value, n); return;
    }
}
