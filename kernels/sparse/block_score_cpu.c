#include "kernels/sparse/block_score.h"

#include <inttypes.h>
#include <math.h>

#include "runtime/base/check.h"
#include "runtime/base/multiversion.h"

enum { COLUMNS = 256 }; /* that a thread adds up side by side, in whole blocks */

hn_status hn_block_score_check(const hn_block_score_args *a)
{
    static const char op[] = "block_score";
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_matrix(op, "dw", a->dw, a->out, a->in, a->ld_dw));
    HN_TRY(hn_check_pointer(op, "f", a->f));
    HN_TRY(hn_block_shape_check(op, a->shape, a->out, a->in));
    if ((unsigned)a->kind >= HN_SCORE_COUNT)
        return HN_FAIL(HN_ERR_ARG, "%s: kind %d is not known", op, (int)a->kind);
    return HN_OK;
}

static double scale_of(const hn_block_score_args *a)
{
    const double count = a->count ? (double)a->count[0] : 1.0;
    return count != 0.0 ? 1.0 / count : 0.0;
}

static void put(const hn_block_score_args *a, int64_t b, double sum)
{
    const double mean = sum / (double)hn_block_values(a->shape);
    a->f[b] = (float)(a->accumulate ? (double)a->f[b] + mean : mean);
}

hn_status hn_block_score_cpu(const hn_block_score_args *a)
{
    HN_TRY(hn_block_score_check(a));
    const double scale = scale_of(a);
    for (int64_t b = 0; b < hn_block_total(a->shape, a->out, a->in); b++) {
        const float *const dw =
            a->dw + hn_block_row(a->shape, a->in, b) * a->ld_dw + hn_block_col(a->shape, a->in, b);
        double sum = 0.0;
        for (int64_t i = 0; i < a->shape.br; i++)
            for (int64_t j = 0; j < a->shape.bc; j++) {
                const double g = (double)dw[i * a->ld_dw + j] * scale;
                sum += a->kind == HN_SCORE_SQUARE ? g * g : fabs(g);
            }
        put(a, b, sum);
    }
    return HN_OK;
}

/* acc[j / bc] += the values of dw[0 .. n), four sums side by side where a block is wide. */
HN_MULTIVERSION static void add_row(const float *restrict dw, int64_t n, int64_t bc, double scale,
                                    hn_score_kind kind, double *restrict acc)
{
    for (int64_t b = 0; b < n / bc; b++, dw += bc) {
        double sum[4] = {0};
        for (int64_t j = 0; j < bc; j++) {
            const double g = (double)dw[j] * scale;
            sum[j % 4] += kind == HN_SCORE_SQUARE ? g * g : fabs(g);
        }
        acc[b] += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
}

hn_status hn_block_score_fast(const hn_block_score_args *a)
{
    HN_TRY(hn_block_score_check(a));
    const int64_t bc = a->shape.bc, br = a->shape.br, across = a->in / bc;
    const int64_t step = bc < COLUMNS ? COLUMNS / bc : 1; /* blocks */
    const int64_t steps = (across + step - 1) / step;
    const double scale = scale_of(a);
#pragma omp parallel for schedule(static) if (a->out * a->in > HN_OMP_MIN)
    for (int64_t t = 0; t < a->out / br * steps; t++) {
        const int64_t row = t / steps, first = t % steps * step;
        const int64_t n = across - first < step ? across - first : step;
        double acc[COLUMNS] = {0};
        for (int64_t i = row * br; i < (row + 1) * br; i++)
            add_row(a->dw + i * a->ld_dw + first * bc, n * bc, bc, scale, a->kind, acc);
        for (int64_t b = 0; b < n; b++) put(a, row * across + first + b, acc[b]);
    }
    return HN_OK;
}
