/* Work goes by lines: the results in one row of an image, over all channels. A line is the sum of a
 * few lines of the source, each moved and multiplied channel by channel; the input gradient takes
 * dy as its source once for each remainder of a pixel by the stride (conv2d_patches.h). 16-bit
 * lines become f32 in a thread's memory first. The weight gradient sums runs of lines, then the
 * runs in order: runs follow from shapes alone, so that bits do not depend on threads. */
#include "kernels/conv/conv2d_depthwise.h"

#include <omp.h>
#include <string.h>

#include "kernels/conv/conv2d_patches.h"
#include "kernels/linear/gemm.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));
enum { LANES = 8, STEP = 4 * LANES }; /* channels in registers at a time */

static int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* A line of f32 pixels. */
typedef struct {
    float *p;
    int64_t step; /* elements from one pixel to the next */
} line;

typedef struct {
    const float *p;
    int64_t step;
} const_line;

/* Line number `index` of images with `pixels` pixels a line, in a thread's buffer where it is not
 * f32. */
static const_line load_line(const void *p, hn_dtype t, int64_t ld, int64_t index, int64_t pixels,
                            int64_t channels, float *buffer)
{
    const int64_t at = index * pixels * ld;
    if (t == HN_F32) return (const_line){(const float *)p + at, ld};
    for (int64_t i = 0; i < pixels; i++)
        hn_to_f32(p, t, at + i * ld, channels, buffer + i * channels);
    return (const_line){buffer, channels};
}

/* turned[replica][tap][channel] = w[channel][tap], as f32. */
static void turn_weights(const void *w, hn_dtype t, int64_t ld, int64_t stride, int64_t copies,
                         int64_t channels, int64_t taps, float *turned)
{
    for (int64_t copy = 0; copy < copies; copy++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t k = 0; k < taps; k++)
                turned[(copy * taps + k) * channels + c] =
                    hn_get_f32(w, t, copy * stride + c * ld + k);
}

/* ---- sums of moved lines ---- */

typedef struct {
    hn_conv2d_patches_ from; /* the source; one channel a group */
    int64_t channels;
    const float *w; /* [replicas or 1][kh kw][channels] */
    int64_t w_stride, kw;
    const float *bias; /* [replicas or 1][channels], NULL: none */
    int64_t bias_stride;
    bool relu;
    const void *add; /* like `to`, NULL: none */
    void *to;        /* images [height, width] of which the grid's positions are written: */
    int64_t ld_add, ld_to;
    int64_t height, width, first_row, first_column, step;
    int64_t replica_lines; /* of the grid */
} lines_job;

/* y += source w over the taps of one kernel row; w [taps, channels] lie w_step apart. */
HN_MULTIVERSION static void add_line(line y, const_line x, const float *w, int64_t w_step,
                                     const hn_conv2d_axis_ *a, int64_t stride, int64_t width,
                                     int64_t channels)
{
    int64_t c = 0;
    for (; c + STEP <= channels; c += STEP)
        for (int64_t q = 0; q < a->grid; q++) {
            vec *const out = (vec *)(y.p + q * y.step + c);
            vec s0 = out[0], s1 = out[1], s2 = out[2], s3 = out[3];
            for (int64_t k = 0, j = q * stride + a->first; k < a->taps; k++, j += a->step) {
                if (j < 0 || j >= width) continue;
                const vec *const v = (const vec *)(x.p + j * x.step + c);
                const vec *const m = (const vec *)(w + k * w_step + c);
                s0 += v[0] * m[0];
                s1 += v[1] * m[1];
                s2 += v[2] * m[2];
                s3 += v[3] * m[3];
            }
            out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
        }
    if (c == channels) return;
    for (int64_t q = 0; q < a->grid; q++)
        for (int64_t k = 0, j = q * stride + a->first; k < a->taps; k++, j += a->step) {
            if (j < 0 || j >= width) continue;
            for (int64_t i = c; i < channels; i++)
                y.p[q * y.step + i] += x.p[j * x.step + i] * w[k * w_step + i];
        }
}

HN_MULTIVERSION static void relu_row(float *y, int64_t n)
{
    for (int64_t c = 0; c < n; c++) y[c] = y[c] < 0.0f ? 0.0f : y[c];
}

static void run_line(const lines_job *j, int64_t index, float *buffer)
{
    const hn_conv2d_patches_ *const s = &j->from;
    const int64_t n = index / s->down.grid, u = index % s->down.grid, channels = j->channels;
    const int64_t replica = index / j->replica_lines;
    const int64_t pixel = (n * j->height + j->first_row + u * j->step) * j->width + j->first_column;
    const bool in_place = s->dtype == HN_F32;
    const line y = {in_place ? (float *)j->to + pixel * j->ld_to : buffer + s->w * channels,
                    in_place ? j->step * j->ld_to : channels};
    for (int64_t q = 0; q < s->across.grid; q++) {
        float *const at = y.p + q * y.step;
        if (j->bias)
            memcpy(at, j->bias + replica * j->bias_stride, (size_t)channels * sizeof *at);
        else if (!j->add)
            memset(at, 0, (size_t)channels * sizeof *at);
        else if (!in_place || j->add != j->to)
            hn_to_f32(j->add, s->dtype, (pixel + q * j->step) * j->ld_add, channels, at);
    }
    for (int64_t k = 0; k < s->down.taps; k++) {
        const int64_t i = u * s->stride + s->down.first + k * s->down.step;
        if (i < 0 || i >= s->h) continue;
        const const_line x = load_line(s->p, s->dtype, s->ld, n * s->h + i, s->w, channels, buffer);
        const int64_t r = s->down.kernel + k * s->down.kernel_step;
        const float *const w =
            j->w + replica * j->w_stride + (r * j->kw + s->across.kernel) * channels;
        add_line(y, x, w, s->across.kernel_step * channels, &s->across, s->stride, s->w, channels);
    }
    for (int64_t q = 0; q < s->across.grid; q++) {
        float *const at = y.p + q * y.step;
        if (j->relu) relu_row(at, channels);
        hn_store_f32(at, channels, j->to, s->dtype, (pixel + q * j->step) * j->ld_to);
    }
}

static void run_lines(const lines_job *j, int64_t n, float *threads, int64_t each)
{
    const int64_t lines = n * j->from.down.grid;
    const int64_t work = lines * j->from.across.grid * j->channels * j->from.across.taps;
#pragma omp parallel for schedule(static) if (work > HN_OMP_MIN)
    for (int64_t i = 0; i < lines; i++) run_line(j, i, threads + omp_get_thread_num() * each);
}

/* Floats of a thread: a line of the source and one of the result. */
static int64_t thread_floats(const hn_conv2d_shape *s, hn_dtype t)
{
    return t == HN_F32 ? 0 : (s->w + hn_conv2d_out_w(s)) * s->in;
}

static int64_t copies_of(int64_t replicas, int64_t stride)
{
    return stride ? hn_replica_count(replicas) : 1;
}

/* The scratch: weights, bias, threads. */
static int64_t weight_floats(const hn_conv2d_shape *s, int64_t copies)
{
    return copies * s->kh * s->kw * s->in;
}

static hn_matrices bias_of(const hn_conv2d_args *a)
{
    return hn_parameter(a->bias_dtype, a->replicas, a->bias_stride, 1, a->shape.out, a->shape.out);
}

static int64_t bias_floats(const hn_conv2d_args *a)
{
    const hn_matrices bias = bias_of(a);
    return a->bias_dtype == HN_F32 ? 0 : hn_matrices_count(&bias);
}

size_t hn_conv2d_depthwise_fwd_scratch_(const hn_conv2d_args *a)
{
    const hn_conv2d_shape *const s = &a->shape;
    return (size_t)(weight_floats(s, copies_of(a->replicas, a->w_stride)) + bias_floats(a) +
                    omp_get_max_threads() * thread_floats(s, a->dtype)) *
           sizeof(float);
}

void hn_conv2d_depthwise_fwd_(const hn_conv2d_args *a, float *scratch)
{
    const hn_conv2d_shape *const s = &a->shape;
    const int64_t copies = copies_of(a->replicas, a->w_stride), taps = s->kh * s->kw;
    const int64_t out_h = hn_conv2d_out_h(s), bias_at = weight_floats(s, copies);
    lines_job j = {.from = hn_conv2d_patches_x_(s, a->x, a->dtype, a->ld_x),
                   .channels = s->in,
                   .w = scratch,
                   .w_stride = copies > 1 ? taps * s->in : 0,
                   .kw = s->kw,
                   .relu = a->relu,
                   .to = a->y,
                   .ld_to = a->ld_y,
                   .height = out_h,
                   .width = hn_conv2d_out_w(s),
                   .step = 1,
                   .replica_lines = s->n / hn_replica_count(a->replicas) * out_h};
    turn_weights(a->w, a->dtype, a->ld_w, a->w_stride, copies, s->in, taps, scratch);
    if (a->bias) {
        const hn_matrices m = bias_of(a);
        const hn_operand bias = hn_matrices_load(&m, a->bias, scratch + bias_at);
        j.bias = bias.p, j.bias_stride = bias.stride;
    }
    run_lines(&j, s->n, scratch + bias_at + bias_floats(a), thread_floats(s, a->dtype));
}

size_t hn_conv2d_depthwise_dx_scratch_(const hn_conv2d_dx_args *a)
{
    const hn_conv2d_shape *const s = &a->shape;
    return (size_t)(weight_floats(s, copies_of(a->replicas, a->w_stride)) +
                    omp_get_max_threads() * thread_floats(s, a->dtype)) *
           sizeof(float);
}

void hn_conv2d_depthwise_dx_(const hn_conv2d_dx_args *a, float *scratch)
{
    const hn_conv2d_shape *const s = &a->shape;
    const int64_t copies = copies_of(a->replicas, a->w_stride), taps = s->kh * s->kw;
    turn_weights(a->w, a->dtype, a->ld_w, a->w_stride, copies, s->in, taps, scratch);
    for (int64_t phase = 0; phase < s->stride * s->stride; phase++) {
        const int64_t down = phase / s->stride, across = phase % s->stride;
        lines_job j = {
            .from = hn_conv2d_patches_dy_(s, a->dy, a->dtype, a->ld_dy, down, across),
            .channels = s->in,
            .w = scratch,
            .w_stride = copies > 1 ? taps * s->in : 0,
            .kw = s->kw,
            .add = a->add,
            .to = a->dx,
            .ld_add = a->ld_add,
            .ld_to = a->ld_dx,
            .height = s->h,
            .width = s->w,
            .first_row = down,
            .first_column = across,
            .step = s->stride,
        };
        j.replica_lines = s->n / hn_replica_count(a->replicas) * j.from.down.grid;
        run_lines(&j, s->n, scratch + weight_floats(s, copies), thread_floats(s, a->dtype));
    }
}

/* ---- weight gradient ---- */

enum { RUNS = 32 };

typedef struct {
    const hn_conv2d_dw_args *a;
    hn_conv2d_patches_ from;
    int64_t replicas, lines, taps; /* lines of dy a replica */
    int64_t run, runs;             /* lines of a run */
    float *sums;                   /* [replicas][runs][taps, channels] */
} dw_job;

static dw_job lay_out_dw(const hn_conv2d_dw_args *a)
{
    const hn_conv2d_shape *const s = &a->shape;
    dw_job j = {.a = a,
                .from = hn_conv2d_patches_x_(s, a->x, a->dtype, a->ld_x),
                .replicas = hn_replica_count(a->replicas),
                .taps = s->kh * s->kw};
    j.lines = s->n / j.replicas * hn_conv2d_out_h(s);
    j.run = ceil_div(j.lines, ceil_div(RUNS, j.replicas));
    j.runs = ceil_div(j.lines, j.run);
    return j;
}

static int64_t sums_floats(const dw_job *j)
{
    return j->replicas * j->runs * j->taps * j->a->shape.in;
}

size_t hn_conv2d_depthwise_dw_scratch_(const hn_conv2d_dw_args *a)
{
    const dw_job j = lay_out_dw(a);
    return (size_t)(sums_floats(&j) + omp_get_max_threads() * thread_floats(&a->shape, a->dtype)) *
           sizeof(float);
}

/* sum[c] += the products of `count` pixels of dy and x, whose pixels lie *_step apart. */
HN_MULTIVERSION static void add_products(const float *dy, int64_t dy_step, const float *x,
                                         int64_t x_step, int64_t count, int64_t channels,
                                         float *sum)
{
    int64_t c = 0;
    for (; c + STEP <= channels; c += STEP) {
        vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        for (int64_t q = 0; q < count; q++) {
            const vec *const g = (const vec *)(dy + q * dy_step + c);
            const vec *const v = (const vec *)(x + q * x_step + c);
            s0 += g[0] * v[0];
            s1 += g[1] * v[1];
            s2 += g[2] * v[2];
            s3 += g[3] * v[3];
        }
        vec *const out = (vec *)(sum + c);
        out[0] += s0, out[1] += s1, out[2] += s2, out[3] += s3;
    }
    for (int64_t q = 0; c < channels && q < count; q++)
        for (int64_t i = c; i < channels; i++) sum[i] += dy[q * dy_step + i] * x[q * x_step + i];
}

/* Adds one line of dy, number `index` of all images, to the sums [taps, channels] of its run. */
static void add_dy_line(const dw_job *j, int64_t index, float *sums, float *buffer)
{
    const hn_conv2d_dw_args *const a = j->a;
    const hn_conv2d_patches_ *const s = &j->from;
    const int64_t n = index / s->down.grid, p = index % s->down.grid, channels = a->shape.in;
    const const_line dy = load_line(a->dy, a->dtype, a->ld_dy, index, s->across.grid, channels,
                                    buffer + s->w * channels);
    for (int64_t r = 0; r < s->down.taps; r++) {
        const int64_t i = p * s->stride + s->down.first + r * s->down.step;
        if (i < 0 || i >= s->h) continue;
        const const_line x = load_line(s->p, s->dtype, s->ld, n * s->h + i, s->w, channels, buffer);
        for (int64_t t = 0; t < s->across.taps; t++) {
            const int64_t shift = s->across.first + t * s->across.step;
            const int64_t lo = shift < 0 ? ceil_div(-shift, s->stride) : 0;
            const int64_t hi =
                min_of(s->w > shift ? ceil_div(s->w - shift, s->stride) : 0, s->across.grid);
            if (lo < hi)
                add_products(dy.p + lo * dy.step, dy.step, x.p + (lo * s->stride + shift) * x.step,
                             s->stride * x.step, hi - lo, channels,
                             sums + (r * s->across.taps + t) * channels);
        }
    }
}

static void sum_run(const dw_job *j, int64_t index, float *buffer)
{
    const int64_t replica = index / j->runs, start = index % j->runs * j->run;
    const int64_t end = min_of(start + j->run, j->lines), size = j->taps * j->a->shape.in;
    float *const sums = j->sums + index * size;
    memset(sums, 0, (size_t)size * sizeof *sums);
    for (int64_t i = start; i < end; i++) add_dy_line(j, replica * j->lines + i, sums, buffer);
}

void hn_conv2d_depthwise_dw_(const hn_conv2d_dw_args *a, float *scratch)
{
    dw_job j = lay_out_dw(a);
    j.sums = scratch;
    const int64_t channels = a->shape.in, size = j.taps * channels, items = j.replicas * j.runs;
    const int64_t each = thread_floats(&a->shape, a->dtype);
    float *const threads = scratch + sums_floats(&j);
    const int64_t work = j.replicas * j.lines * j.from.across.grid * size;
#pragma omp parallel for schedule(static) if (work > HN_OMP_MIN)
    for (int64_t i = 0; i < items; i++) sum_run(&j, i, threads + omp_get_thread_num() * each);
    for (int64_t g = 0; g < j.replicas; g++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t k = 0; k < j.taps; k++) {
                float sum = 0.0f;
                for (int64_t run = 0; run < j.runs; run++)
                    sum += j.sums[(g * j.runs + run) * size + k * channels + c];
                a->dw[(j.replicas > 1 ? g * a->dw_stride : 0) + c * a->ld_dw + k] += sum;
            }
}
