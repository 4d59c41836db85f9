/* Runs of pixels go to the threads. Within a run, columns are walked in blocks: what belongs to a
 * block's columns stays at hand while the rows pass. */
#include "kernels/norm/channel_norm.h"

#include <math.h>
#include <string.h>

#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

hn_channel_norm hn_channel_norm_of_batch(const hn_batch_norm_args *a)
{
    return (hn_channel_norm){
        .x = a->x,
        .res = a->res,
        .gain = a->gain,
        .bias = a->bias,
        .y = a->y,
        .mean = a->mean,
        .rstd = a->rstd,
        .running_mean = a->running_mean,
        .running_var = a->running_var,
        .images = 1,
        .pixels = a->rows,
        .cols = a->cols,
        .groups = a->cols,
        .ld_x = a->ld_x,
        .ld_res = a->ld_res,
        .ld_y = a->ld_y,
        .dtype = a->dtype,
        .gain_dtype = a->gain_dtype,
        .bias_dtype = a->bias_dtype,
        .eps = a->eps,
        .momentum = a->momentum,
        .frozen = a->frozen,
        .relu = a->relu,
    };
}

hn_channel_norm_bwd hn_channel_norm_bwd_of_batch(const hn_batch_norm_bwd_args *a)
{
    return (hn_channel_norm_bwd){
        .x = a->x,
        .y = a->y,
        .gain = a->gain,
        .bias = a->bias,
        .mean = a->mean,
        .rstd = a->rstd,
        .dy = a->dy,
        .dx = a->dx,
        .dres = a->dres,
        .dgain = a->dgain,
        .dbias = a->dbias,
        .images = 1,
        .pixels = a->rows,
        .cols = a->cols,
        .groups = a->cols,
        .ld_x = a->ld_x,
        .ld_y = a->ld_y,
        .ld_dy = a->ld_dy,
        .ld_dx = a->ld_dx,
        .ld_dres = a->ld_dres,
        .dtype = a->dtype,
        .gain_dtype = a->gain_dtype,
        .bias_dtype = a->bias_dtype,
        .frozen = a->frozen,
    };
}

hn_channel_norm hn_channel_norm_of_group(const hn_group_norm_args *a)
{
    return (hn_channel_norm){
        .x = a->x,
        .gain = a->gain,
        .bias = a->bias,
        .y = a->y,
        .mean = a->mean,
        .rstd = a->rstd,
        .images = a->images,
        .pixels = a->pixels,
        .cols = a->cols,
        .groups = a->groups,
        .ld_x = a->ld_x,
        .ld_y = a->ld_y,
        .replicas = a->replicas,
        .gain_stride = a->gain_stride,
        .bias_stride = a->bias_stride,
        .dtype = a->dtype,
        .gain_dtype = a->gain_dtype,
        .bias_dtype = a->bias_dtype,
        .eps = a->eps,
    };
}

hn_channel_norm_bwd hn_channel_norm_bwd_of_group(const hn_group_norm_bwd_args *a)
{
    return (hn_channel_norm_bwd){
        .x = a->x,
        .gain = a->gain,
        .mean = a->mean,
        .rstd = a->rstd,
        .dy = a->dy,
        .dx = a->dx,
        .dgain = a->dgain,
        .dbias = a->dbias,
        .images = a->images,
        .pixels = a->pixels,
        .cols = a->cols,
        .groups = a->groups,
        .ld_x = a->ld_x,
        .ld_dy = a->ld_dy,
        .ld_dx = a->ld_dx,
        .replicas = a->replicas,
        .gain_stride = a->gain_stride,
        .dgain_stride = a->dgain_stride,
        .dbias_stride = a->dbias_stride,
        .dtype = a->dtype,
        .gain_dtype = a->gain_dtype,
    };
}

/* At most PARTS runs over all images, cut by shapes alone. */
enum { PARTS = 64, RUN_MIN = 32 };

typedef struct {
    int64_t length, count; /* pixels of a run; runs of an image */
} cut;

static cut cut_of(int64_t images, int64_t pixels)
{
    const int64_t parts = images < PARTS ? PARTS / images : 1;
    const int64_t shared = (pixels + parts - 1) / parts;
    const int64_t length = shared > RUN_MIN ? shared : RUN_MIN;
    return (cut){length, (pixels + length - 1) / length};
}

/* First row of run `run` of all images, and the row behind its last one. */
static int64_t first_row(cut c, int64_t pixels, int64_t run)
{
    return run / c.count * pixels + run % c.count * c.length;
}

static int64_t end_row(cut c, int64_t pixels, int64_t run)
{
    const int64_t end = (run / c.count + 1) * pixels, last = first_row(c, pixels, run) + c.length;
    return last < end ? last : end;
}

/* v[j] = of[unit of column first + j] */
static void spread(const float *of, int64_t image, int64_t groups, int64_t cols, int64_t first,
                   int64_t n, float *v)
{
    const int64_t width = cols / groups;
    for (int64_t j = 0; j < n; j++) v[j] = of[image * groups + (first + j) / width];
}

/* ---- forward ---- */

HN_MULTIVERSION static void moments_span(const float *x, const float *shift, double *sum,
                                         double *square, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const double d = (double)(x[j] - shift[j]);
        sum[j] += d;
        square[j] += d * d;
    }
}

/* The value about which the moments of a unit are taken: its first. */
static float shift_of(const hn_channel_norm *a, int64_t image, int64_t group)
{
    return hn_get_f32(a->x, a->dtype, image * a->pixels * a->ld_x + group * (a->cols / a->groups));
}

/* partial[run][2][cols] */
static void moments(const hn_channel_norm *a, cut c, int64_t run, double *partial)
{
    float x[HN_BLOCK], shift[HN_BLOCK];
    const int64_t last = end_row(c, a->pixels, run), width = a->cols / a->groups;
    double *const sum = partial + 2 * run * a->cols, *const square = sum + a->cols;
    memset(sum, 0, 2 * (size_t)a->cols * sizeof *sum);
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        for (int64_t k = 0; k < n; k++) shift[k] = shift_of(a, run / c.count, (j + k) / width);
        for (int64_t i = first_row(c, a->pixels, run); i < last; i++)
            moments_span(hn_load_f32(a->x, a->dtype, i * a->ld_x + j, n, x), shift, sum + j,
                         square + j, n);
    }
}

static void finish_unit(const hn_channel_norm *a, cut c, int64_t unit, const double *partial)
{
    const int64_t width = a->cols / a->groups, image = unit / a->groups;
    const int64_t col = unit % a->groups * width;
    double sum = 0.0, square = 0.0;
    for (int64_t r = image * c.count; r < (image + 1) * c.count; r++)
        for (int64_t j = col; j < col + width; j++) {
            sum += partial[2 * r * a->cols + j];
            square += partial[(2 * r + 1) * a->cols + j];
        }
    const double n = (double)a->pixels * (double)width, off = sum / n;
    const double mean = (double)shift_of(a, image, unit % a->groups) + off;
    const double rest = square / n - off * off, var = rest > 0.0 ? rest : rest < 0.0 ? 0.0 : rest;
    a->mean[unit] = (float)mean;
    a->rstd[unit] = (float)(1.0 / sqrt(var + (double)a->eps));
    if (a->running_mean == NULL) return;
    const double m = (double)a->momentum;
    float *const rm = a->running_mean + unit, *const rv = a->running_var + unit;
    *rm = (float)((1.0 - m) * (double)*rm + m * mean);
    *rv = (float)((1.0 - m) * (double)*rv + m * var * n / (n - 1.0));
}

HN_MULTIVERSION static void apply_span(const float *x, const float *mean, const float *factor,
                                       const float *bias, const float *res, bool relu, float *y,
                                       int64_t n)
{
    if (res == NULL) {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) y[j] = (x[j] - mean[j]) * factor[j] + bias[j];
    } else {
#pragma omp simd
        for (int64_t j = 0; j < n; j++) y[j] = (x[j] - mean[j]) * factor[j] + bias[j] + res[j];
    }
    if (!relu) return;
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] = y[j] < 0.0f ? 0.0f : y[j];
}

static void apply(const hn_channel_norm *a, cut c, int64_t run)
{
    float b[5][HN_BLOCK], out[HN_BLOCK];
    const int64_t image = run / c.count, last = end_row(c, a->pixels, run);
    const int64_t replica = image / (a->images / hn_replica_count(a->replicas));
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        float *const mean = b[0], *const factor = b[1];
        const float *const gain =
            hn_load_f32(a->gain, a->gain_dtype, replica * a->gain_stride + j, n, b[2]);
        spread(a->mean, image, a->groups, a->cols, j, n, mean);
        spread(a->rstd, image, a->groups, a->cols, j, n, factor);
        for (int64_t k = 0; k < n; k++) factor[k] *= gain[k];
        const float *const bias =
            hn_load_f32(a->bias, a->bias_dtype, replica * a->bias_stride + j, n, b[2]);
        for (int64_t i = first_row(c, a->pixels, run); i < last; i++) {
            const float *res = NULL;
            if (a->res) res = hn_load_f32(a->res, a->dtype, i * a->ld_res + j, n, b[4]);
            float *const y = hn_target_f32(a->y, a->dtype, i * a->ld_y + j, out);
            apply_span(hn_load_f32(a->x, a->dtype, i * a->ld_x + j, n, b[3]), mean, factor, bias,
                       res, a->relu, y, n);
            hn_store_f32(y, n, a->y, a->dtype, i * a->ld_y + j);
        }
    }
}

size_t hn_channel_norm_fast_scratch(const hn_channel_norm *a)
{
    if (a->frozen) return 0;
    return (size_t)(a->images * cut_of(a->images, a->pixels).count * 2 * a->cols) * sizeof(double);
}

void hn_channel_norm_fast(const hn_channel_norm *a, void *scratch)
{
    const cut c = cut_of(a->images, a->pixels);
    const int64_t runs = a->images * c.count, units = a->images * a->groups;
    const bool large = a->images * a->pixels * a->cols > HN_OMP_MIN;
    double *const partial = scratch;
    if (a->frozen) {
        for (int64_t u = 0; u < units; u++) {
            a->mean[u] = a->running_mean[u];
            a->rstd[u] = (float)(1.0 / sqrt((double)a->running_var[u] + (double)a->eps));
        }
    } else {
#pragma omp parallel for schedule(static) if (large)
        for (int64_t run = 0; run < runs; run++) moments(a, c, run, partial);
#pragma omp parallel for schedule(static) if (large)
        for (int64_t u = 0; u < units; u++) finish_unit(a, c, u, partial);
    }
#pragma omp parallel for schedule(static) if (large)
    for (int64_t run = 0; run < runs; run++) apply(a, c, run);
}

/* ---- backward ---- */

HN_MULTIVERSION static void mask_span(const float *dy, const float *y, float *g, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) g[j] = y[j] <= 0.0f ? 0.0f : dy[j];
}

/* The same where y is known from x: what forward computes of it in apply_span. */
typedef struct {
    const float *mean, *bias; /* of a block of columns */
    float factor[HN_BLOCK], buffer[HN_BLOCK];
} gate;

/* n columns from j on. Nothing without a->bias. */
static void open_gate(gate *g, const hn_channel_norm_bwd *a, int64_t j, int64_t n,
                      const float *mean, const float *rstd)
{
    if (a->bias == NULL) return;
    const float *const gain = hn_load_f32(a->gain, a->gain_dtype, j, n, g->buffer);
    for (int64_t k = 0; k < n; k++) g->factor[k] = rstd[k] * gain[k];
    g->mean = mean;
    g->bias = hn_load_f32(a->bias, a->bias_dtype, j, n, g->buffer);
}

HN_MULTIVERSION static void gate_span(const float *dy, const float *x, const float *mean,
                                      const float *factor, const float *bias, float *g, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++)
        g[j] = (x[j] - mean[j]) * factor[j] + bias[j] <= 0.0f ? 0.0f : dy[j];
}

/* What relu let through of dy, n columns from j on of row i; b: two buffers. */
static const float *masked(const hn_channel_norm_bwd *a, const gate *by, int64_t i, int64_t j,
                           int64_t n, float (*b)[HN_BLOCK])
{
    const float *const dy = hn_load_f32(a->dy, a->dtype, i * a->ld_dy + j, n, b[0]);
    if (a->bias != NULL) {
        gate_span(dy, hn_load_f32(a->x, a->dtype, i * a->ld_x + j, n, b[1]), by->mean, by->factor,
                  by->bias, b[0], n);
        return b[0];
    }
    if (a->y == NULL) return dy;
    mask_span(dy, hn_load_f32(a->y, a->dtype, i * a->ld_y + j, n, b[1]), b[0], n);
    return b[0];
}

HN_MULTIVERSION static void sums_span(const float *g, const float *x, const float *mean,
                                      const float *rstd, double *sum, double *dot, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        sum[j] += (double)g[j];
        dot[j] += (double)(g[j] * ((x[j] - mean[j]) * rstd[j]));
    }
}

/* partial[run][2][cols]: sums of g and of g z. */
static void sums(const hn_channel_norm_bwd *a, cut c, int64_t run, double *partial)
{
    float b[5][HN_BLOCK];
    gate by;
    const int64_t image = run / c.count, last = end_row(c, a->pixels, run);
    double *const sum = partial + 2 * run * a->cols, *const dot = sum + a->cols;
    memset(sum, 0, 2 * (size_t)a->cols * sizeof *sum);
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        spread(a->mean, image, a->groups, a->cols, j, n, b[2]);
        spread(a->rstd, image, a->groups, a->cols, j, n, b[3]);
        open_gate(&by, a, j, n, b[2], b[3]);
        for (int64_t i = first_row(c, a->pixels, run); i < last; i++)
            sums_span(masked(a, &by, i, j, n, b),
                      hn_load_f32(a->x, a->dtype, i * a->ld_x + j, n, b[4]), b[2], b[3], sum + j,
                      dot + j, n);
    }
}

/* of_unit[unit][2]: means of g gain and of g gain z over the unit. */
static void average_unit(const hn_channel_norm_bwd *a, cut c, int64_t unit, const double *partial,
                         float *of_unit)
{
    const int64_t width = a->cols / a->groups, image = unit / a->groups;
    const int64_t col = unit % a->groups * width;
    const int64_t replica = image / (a->images / hn_replica_count(a->replicas));
    double sum = 0.0, dot = 0.0;
    for (int64_t r = image * c.count; r < (image + 1) * c.count; r++)
        for (int64_t j = col; j < col + width; j++) {
            const double gain =
                (double)hn_get_f32(a->gain, a->gain_dtype, replica * a->gain_stride + j);
            sum += gain * partial[2 * r * a->cols + j];
            dot += gain * partial[(2 * r + 1) * a->cols + j];
        }
    const double n = (double)a->pixels * (double)width;
    of_unit[2 * unit] = a->frozen ? 0.0f : (float)(sum / n);
    of_unit[2 * unit + 1] = a->frozen ? 0.0f : (float)(dot / n);
}

/* dgain and dbias of column j of a replica. */
static void add_column(const hn_channel_norm_bwd *a, cut c, int64_t replica, int64_t j,
                       const double *partial)
{
    const int64_t runs = a->images / hn_replica_count(a->replicas) * c.count;
    double sum = 0.0, dot = 0.0;
    for (int64_t r = replica * runs; r < (replica + 1) * runs; r++) {
        sum += partial[2 * r * a->cols + j];
        dot += partial[(2 * r + 1) * a->cols + j];
    }
    float *const dgain = a->dgain ? a->dgain + replica * a->dgain_stride + j : NULL;
    float *const dbias = a->dbias ? a->dbias + replica * a->dbias_stride + j : NULL;
    if (dgain) *dgain = (float)((double)*dgain + dot);
    if (dbias) *dbias = (float)((double)*dbias + sum);
}

HN_MULTIVERSION static void dx_span(const float *g, const float *x, const float *mean,
                                    const float *rstd, const float *gain, const float *sum,
                                    const float *dot, float *dx, int64_t n)
{
#pragma omp simd
    for (int64_t j = 0; j < n; j++)
        dx[j] = rstd[j] * (gain[j] * g[j] - sum[j] - (x[j] - mean[j]) * rstd[j] * dot[j]);
}

static void differentiate(const hn_channel_norm_bwd *a, cut c, int64_t run, const float *of_unit)
{
    float b[9][HN_BLOCK], out[HN_BLOCK];
    gate by;
    float *const mean = b[3], *const rstd = b[4], *const sum = b[5], *const dot = b[6];
    const int64_t image = run / c.count, last = end_row(c, a->pixels, run);
    const int64_t replica = image / (a->images / hn_replica_count(a->replicas));
    const int64_t width = a->cols / a->groups;
    for (int64_t j = 0; j < a->cols; j += HN_BLOCK) {
        const int64_t n = hn_block_len(j, a->cols);
        const float *const gain =
            hn_load_f32(a->gain, a->gain_dtype, replica * a->gain_stride + j, n, b[7]);
        spread(a->mean, image, a->groups, a->cols, j, n, mean);
        spread(a->rstd, image, a->groups, a->cols, j, n, rstd);
        open_gate(&by, a, j, n, mean, rstd);
        for (int64_t k = 0; k < n; k++) {
            const int64_t unit = image * a->groups + (j + k) / width;
            sum[k] = of_unit ? of_unit[2 * unit] : 0.0f;
            dot[k] = of_unit ? of_unit[2 * unit + 1] : 0.0f;
        }
        for (int64_t i = first_row(c, a->pixels, run); i < last; i++) {
            const float *g = masked(a, &by, i, j, n, b);
            if (a->dres != NULL && a->dx != NULL && g != b[0]) { /* dres may lie on dy */
                memcpy(b[8], g, (size_t)n * sizeof *g);
                g = b[8];
            }
            if (a->dx) {
                float *const dx = hn_target_f32(a->dx, a->dtype, i * a->ld_dx + j, out);
                dx_span(g, hn_load_f32(a->x, a->dtype, i * a->ld_x + j, n, b[2]), mean, rstd, gain,
                        sum, dot, dx, n);
                hn_store_f32(dx, n, a->dx, a->dtype, i * a->ld_dx + j);
            }
            if (a->dres && (a->dres != a->dy || a->y != NULL))
                hn_from_f32(g, n, a->dres, a->dtype, i * a->ld_dres + j);
        }
    }
}

size_t hn_channel_norm_bwd_fast_scratch(const hn_channel_norm_bwd *a)
{
    if (!hn_channel_norm_has_sums(a)) return 0;
    const int64_t runs = a->images * cut_of(a->images, a->pixels).count;
    return (size_t)(runs * 2 * a->cols) * sizeof(double) +
           (size_t)(a->images * a->groups * 2) * sizeof(float);
}

void hn_channel_norm_bwd_fast(const hn_channel_norm_bwd *a, void *scratch)
{
    const cut c = cut_of(a->images, a->pixels);
    const int64_t runs = a->images * c.count, units = a->images * a->groups;
    const int64_t columns = hn_replica_count(a->replicas) * a->cols;
    const bool large = a->images * a->pixels * a->cols > HN_OMP_MIN;
    double *const partial = scratch;
    float *const of_unit = scratch ? (float *)(partial + runs * 2 * a->cols) : NULL;
    if (hn_channel_norm_has_sums(a)) {
#pragma omp parallel for schedule(static) if (large)
        for (int64_t run = 0; run < runs; run++) sums(a, c, run, partial);
#pragma omp parallel for schedule(static) if (large)
        for (int64_t u = 0; u < units; u++) average_unit(a, c, u, partial, of_unit);
#pragma omp parallel for schedule(static) if (large)
        for (int64_t k = 0; k < columns; k++) add_column(a, c, k / a->cols, k % a->cols, partial);
    }
    if (a->dx == NULL && a->dres == NULL) return;
#pragma omp parallel for schedule(static) if (large)
    for (int64_t run = 0; run < runs; run++)
        differentiate(a, c, run, hn_channel_norm_has_sums(a) ? of_unit : NULL);
}
