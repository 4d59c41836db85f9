/* Tokens of rows go to the threads, in blocks of columns: point and tangent gather over the knots
 * in the first-level cache. */
#include <string.h>

#include "kernels/hyperflow/curve_noise.h"
#include "kernels/hyperflow/curve_point.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

HN_MULTIVERSION static void add_span(const float *knot, float w, float dw, float *point,
                                     float *tangent, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        point[j] += w * knot[j];
        tangent[j] += dw * knot[j];
    }
}

HN_MULTIVERSION static void finish_span(float *point, float *tangent, float unit, float noise,
                                        const float *normal, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        point[j] = point[j] * unit + noise * normal[j];
        tangent[j] *= unit;
    }
}

/* Columns j .. j + n of a token of a row. */
static void run_span(const hn_curve_point_args *a, const hn_curve_noise *noise, int64_t r,
                     int64_t token, int64_t j, int64_t n)
{
    float point[HN_BLOCK] = {0}, tangent[HN_BLOCK] = {0}, b[HN_BLOCK], normal[HN_BLOCK] = {0};
    const float *const w = a->weights + r * a->ld_weights, *const dw = w + a->knots;
    const int64_t curve = a->index[r], row = r * a->tokens + token, d = token * a->width + j;
    for (int64_t k = 0; curve >= 0 && k < a->knots; k++) {
        if (w[k] == 0.0f && dw[k] == 0.0f) continue;
        const int64_t at = (curve * a->knots + k) * a->ld_knots + d;
        add_span(hn_load_f32(a->knot, HN_F16, at, n, b), w[k], dw[k], point, tangent, n);
    }
    if (curve >= 0) {
        if (a->noise > 0.0f) hn_curve_normals_(noise, r, d, n, normal);
        finish_span(point, tangent, a->unit[curve] * a->inv_sigma[token], a->noise, normal, n);
    }
    hn_from_f32(point, n, a->z, a->dtype, row * a->ld_z + j);
    if (a->dz) memcpy(a->dz + row * a->ld_dz + j, tangent, (size_t)n * sizeof *tangent);
}

hn_status hn_curve_point_fast(const hn_curve_point_args *a)
{
    HN_TRY(hn_curve_point_check(a));
    HN_TRY(hn_curve_point_check_index(a));
    const hn_curve_noise noise = hn_curve_noise_read_(a);
    const int64_t tokens = a->tokens, work = a->rows * tokens * a->width * a->knots;
#pragma omp parallel for schedule(static) if (work > HN_OMP_MIN)
    for (int64_t i = 0; i < a->rows * tokens; i++)
        for (int64_t j = 0; j < a->width; j += HN_BLOCK)
            run_span(a, &noise, i / tokens, i % tokens, j, hn_block_len(j, a->width));
    return HN_OK;
}
