/* A thread takes some lines of the result. What a line sees lies in floats, channel by channel
 * (conv3d_lines.h), so that sums of 4 filters for 16 voxels stay in registers through all taps. The
 * input gradient is a forward pass over dy with w turned. The weight gradient has the same loads: 4
 * filters times 2 columns of w, summed over a line. Who does which lines follows from shapes alone:
 * the same bits for any number of threads. */
#include <omp.h>
#include <string.h>

#include "kernels/conv/conv3d_lines.h"
#include "runtime/base/check.h"
#include "runtime/base/multiversion.h"

enum {
    FILTERS = 4,          /* a time */
    ITEM_LINES = 32,      /* of a result; a whole number of items in a plane */
    RUNS = 32,            /* of lines, of the weight gradient; each has sums of its own ... */
    RUN_FLOATS = 1 << 24, /* ... of so many floats together, or there are fewer of them */
};

typedef float vec __attribute__((vector_size(32), aligned(4), may_alias));
enum { LANES = 8 };

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t filters_up(int64_t n) { return ceil_div(n, FILTERS) * FILTERS; }
static size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }
static size_t float_bytes(int64_t n) { return round_up((size_t)n * sizeof(float)); }

/* ---- forward, and the gradient of x ---- */

/* y[f][0 .. width) = sum_k w[k][f] x[k][0 .. width) */
HN_MULTIVERSION static void sum_line(const float *const *x, int64_t count, const float *w,
                                     int64_t width, float *restrict y)
{
    for (int64_t v = 0; v < width; v += 2 * LANES) {
        vec a0 = {0}, a1 = {0}, b0 = {0}, b1 = {0}, c0 = {0}, c1 = {0}, d0 = {0}, d1 = {0};
        for (int64_t k = 0; k < count; k++) {
            const vec lo = *(const vec *)(x[k] + v), hi = *(const vec *)(x[k] + v + LANES);
            const float *const f = w + k * FILTERS;
            a0 += lo * f[0], a1 += hi * f[0];
            b0 += lo * f[1], b1 += hi * f[1];
            c0 += lo * f[2], c1 += hi * f[2];
            d0 += lo * f[3], d1 += hi * f[3];
        }
        *(vec *)(y + v) = a0, *(vec *)(y + v + LANES) = a1;
        *(vec *)(y + width + v) = b0, *(vec *)(y + width + v + LANES) = b1;
        *(vec *)(y + 2 * width + v) = c0, *(vec *)(y + 2 * width + v + LANES) = c1;
        *(vec *)(y + 3 * width + v) = d0, *(vec *)(y + 3 * width + v + LANES) = d1;
    }
}

typedef struct {
    hn_conv3d_view_ view;
    int64_t volumes, channels; /* of the result */
    const void *add;           /* NULL: none */
    void *to;
    int64_t ld_add, ld_to;
    hn_dtype dtype;
    const float *w;    /* [channels / FILTERS][count][FILTERS], zeros where there is none */
    const float *bias; /* [channels] */
    char *threads;
    size_t thread_bytes;
} pass;

static int64_t count_of(const hn_conv3d_view_ *v)
{
    return v->axis[0].taps * v->axis[1].taps * v->axis[2].taps * v->channels;
}
static int64_t w_floats(const hn_conv3d_view_ *v, int64_t channels)
{
    return filters_up(channels) * count_of(v);
}
static size_t pass_thread_bytes(const hn_conv3d_view_ *v, int64_t channels)
{
    return hn_conv3d_lines_bytes_(v) + float_bytes(filters_up(channels) * hn_conv3d_width_(v));
}
static size_t pass_bytes(const hn_conv3d_view_ *v, int64_t channels)
{
    return float_bytes(w_floats(v, channels)) + float_bytes(channels) +
           (size_t)omp_get_max_threads() * pass_thread_bytes(v, channels);
}

/* to = round(sums + bias (+ add)) */
static void store_line(const pass *p, int64_t voxel, const float *sums)
{
    const int64_t width = hn_conv3d_width_(&p->view), n = p->view.axis[2].result;
    for (int64_t v = 0; v < n; v++)
        for (int64_t o = 0; o < p->channels; o++) {
            float y = sums[o * width + v] + p->bias[o];
            if (p->add) y += hn_get_f32(p->add, p->dtype, (voxel + v) * p->ld_add + o);
            hn_set_f32(p->to, p->dtype, (voxel + v) * p->ld_to + o, y);
        }
}

static void do_lines(const pass *p, hn_conv3d_lines_ *lines, float *sums, int64_t first,
                     int64_t end)
{
    const int64_t width = hn_conv3d_width_(&p->view), count = count_of(&p->view);
    for (int64_t at = first; at < end; at++) {
        const hn_conv3d_line_ l = hn_conv3d_line_at_(&p->view, at);
        hn_conv3d_lines_see_(lines, &l);
        for (int64_t f = 0; f < p->channels; f += FILTERS)
            sum_line(lines->array, count, p->w + f * count, width, sums + f * width);
        store_line(p, hn_conv3d_line_voxel_(&p->view, &l), sums);
    }
}

static void run_pass(const pass *p)
{
    const int64_t rows = p->view.axis[1].result, parts = ceil_div(rows, ITEM_LINES);
    const int64_t items = p->volumes * p->view.axis[0].result * parts;
    const size_t lines_bytes = hn_conv3d_lines_bytes_(&p->view);
    const bool large =
        items * ITEM_LINES * p->view.axis[2].result * count_of(&p->view) > HN_OMP_MIN;
#pragma omp parallel if (large)
    {
        char *const mine = p->threads + (size_t)omp_get_thread_num() * p->thread_bytes;
        hn_conv3d_lines_ lines = hn_conv3d_lines_start_(&p->view, mine);
        float *const sums = (float *)(void *)(mine + lines_bytes);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < items; i++) {
            const int64_t first = i / parts * rows + i % parts * ITEM_LINES;
            const int64_t end = i / parts * rows + rows;
            do_lines(p, &lines, sums, first, first + ITEM_LINES < end ? first + ITEM_LINES : end);
        }
    }
}

/* Lays out p->w, p->bias and the threads' memory. w(filter o, column k) is element w_at + o w_o +
 * k / channels w_tap + k % channels w_c. */
typedef struct {
    const void *w, *bias;
    hn_dtype dtype, bias_dtype;
    int64_t w_at, w_o, w_tap, w_c, bias_at;
} filters;

static void prepare(pass *p, const filters *f, void *scratch)
{
    const int64_t count = count_of(&p->view), channels = p->view.channels;
    float *const w = scratch;
    float *const bias =
        (float *)(void *)((char *)scratch + float_bytes(w_floats(&p->view, p->channels)));
    for (int64_t o = 0; o < filters_up(p->channels); o++)
        for (int64_t k = 0; k < count; k++)
            w[(o / FILTERS * count + k) * FILTERS + o % FILTERS] =
                o < p->channels ? hn_get_f32(f->w, f->dtype,
                                             f->w_at + o * f->w_o + k / channels * f->w_tap +
                                                 k % channels * f->w_c)
                                : 0.0f;
    for (int64_t o = 0; o < p->channels; o++)
        bias[o] = f->bias ? hn_get_f32(f->bias, f->bias_dtype, f->bias_at + o) : 0.0f;
    p->w = w;
    p->bias = bias;
    p->threads = (char *)bias + float_bytes(p->channels);
    p->thread_bytes = pass_thread_bytes(&p->view, p->channels);
}

static const void *from(const void *p, hn_dtype t, int64_t element)
{
    return p ? (const char *)p + element * (int64_t)hn_dtype_size(t) : NULL;
}

size_t hn_conv3d_fwd_fast_scratch(const hn_conv3d_args *a)
{
    const hn_conv3d_view_ v = hn_conv3d_view_x_(&a->shape, NULL, a->dtype, a->ld_x);
    return pass_bytes(&v, a->shape.out);
}

hn_status hn_conv3d_fwd_fast(const hn_conv3d_args *a, void *scratch)
{
    HN_TRY(hn_conv3d_check(a));
    HN_TRY(hn_check_pointer("conv3d", "scratch", scratch));
    const hn_conv3d_shape s = hn_conv3d_one_replica_(&a->shape, a->replicas);
    for (int64_t g = 0; g < hn_replica_count(a->replicas); g++) {
        const int64_t x = g * hn_conv3d_voxels_in(&s) * a->ld_x;
        const int64_t y = g * hn_conv3d_voxels_out(&s) * a->ld_y;
        pass p = {.view = hn_conv3d_view_x_(&s, from(a->x, a->dtype, x), a->dtype, a->ld_x),
                  .volumes = s.n,
                  .channels = s.out,
                  .to = (char *)a->y + y * (int64_t)hn_dtype_size(a->dtype),
                  .ld_to = a->ld_y,
                  .dtype = a->dtype};
        const filters f = {.w = a->w,
                           .bias = a->bias,
                           .dtype = a->dtype,
                           .bias_dtype = a->bias_dtype,
                           .w_at = g * a->w_stride,
                           .w_o = a->ld_w,
                           .w_tap = s.in,
                           .w_c = 1,
                           .bias_at = g * a->bias_stride};
        prepare(&p, &f, scratch);
        run_pass(&p);
    }
    return HN_OK;
}

size_t hn_conv3d_dx_fast_scratch(const hn_conv3d_dx_args *a)
{
    const hn_conv3d_view_ v = hn_conv3d_view_dy_(&a->shape, NULL, a->dtype, a->ld_dy);
    return pass_bytes(&v, a->shape.in);
}

hn_status hn_conv3d_dx_fast(const hn_conv3d_dx_args *a, void *scratch)
{
    HN_TRY(hn_conv3d_dx_check(a));
    HN_TRY(hn_check_pointer("conv3d_dx", "scratch", scratch));
    const hn_conv3d_shape s = hn_conv3d_one_replica_(&a->shape, a->replicas);
    for (int64_t g = 0; g < hn_replica_count(a->replicas); g++) {
        const int64_t dy = g * hn_conv3d_voxels_out(&s) * a->ld_dy;
        const int64_t voxels = g * hn_conv3d_voxels_in(&s);
        pass p = {.view = hn_conv3d_view_dy_(&s, from(a->dy, a->dtype, dy), a->dtype, a->ld_dy),
                  .volumes = s.n,
                  .channels = s.in,
                  .add = from(a->add, a->dtype, voxels * a->ld_add),
                  .to = (char *)a->dx + voxels * a->ld_dx * (int64_t)hn_dtype_size(a->dtype),
                  .ld_add = a->ld_add,
                  .ld_to = a->ld_dx,
                  .dtype = a->dtype};
        const filters f = {.w = a->w,
                           .dtype = a->dtype,
                           .w_at = g * a->w_stride,
                           .w_o = 1,
                           .w_tap = s.in,
                           .w_c = a->ld_w};
        prepare(&p, &f, scratch);
        run_pass(&p);
    }
    return HN_OK;
}

/* ---- gradient of w ---- */

HN_INLINE float lanes_sum(vec v)
{
    return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
}

/* sum[k][f] += sum_v dy[f][v] x[k][v]; count is even. */
HN_MULTIVERSION static void dot_line(const float *const *x, int64_t count, const float *dy,
                                     int64_t width, float *restrict sum)
{
    for (int64_t k = 0; k < count; k += 2) {
        vec a0 = {0}, a1 = {0}, b0 = {0}, b1 = {0}, c0 = {0}, c1 = {0}, d0 = {0}, d1 = {0};
        for (int64_t v = 0; v < width; v += LANES) {
            const vec x0 = *(const vec *)(x[k] + v), x1 = *(const vec *)(x[k + 1] + v);
            const vec a = *(const vec *)(dy + v), b = *(const vec *)(dy + width + v);
            const vec c = *(const vec *)(dy + 2 * width + v);
            const vec d = *(const vec *)(dy + 3 * width + v);
            a0 += a * x0, a1 += a * x1, b0 += b * x0, b1 += b * x1;
            c0 += c * x0, c1 += c * x1, d0 += d * x0, d1 += d * x1;
        }
        float *const s = sum + k * FILTERS;
        s[0] += lanes_sum(a0), s[1] += lanes_sum(b0), s[2] += lanes_sum(c0), s[3] += lanes_sum(d0);
        s[4] += lanes_sum(a1), s[5] += lanes_sum(b1), s[6] += lanes_sum(c1), s[7] += lanes_sum(d1);
    }
}

typedef struct {
    hn_conv3d_view_ view;
    const void *dy;
    hn_dtype dtype;
    int64_t ld_dy, out;
    int64_t lines, run, runs; /* lines of a run */
    int64_t count, sums;      /* columns of w, rounded up to 2; floats of a run's sums */
    size_t sums_bytes, thread_bytes;
} job;

static job job_of(const hn_conv3d_dw_args *a, const hn_conv3d_shape *s)
{
    job j = {.view = hn_conv3d_view_x_(s, a->x, a->dtype, a->ld_x),
             .dy = a->dy,
             .dtype = a->dtype,
             .ld_dy = a->ld_dy,
             .out = s->out};
    j.lines = s->n * j.view.axis[0].result * j.view.axis[1].result;
    j.count = (count_of(&j.view) + 1) / 2 * 2;
    j.sums = filters_up(s->out) * j.count;
    int64_t runs = RUN_FLOATS / j.sums;
    runs = runs < 1 ? 1 : runs > RUNS ? RUNS : runs;
    j.run = ceil_div(j.lines, runs);
    j.runs = ceil_div(j.lines, j.run);
    j.sums_bytes = float_bytes(j.sums);
    j.thread_bytes = hn_conv3d_lines_bytes_(&j.view) +
                     float_bytes(filters_up(s->out) * hn_conv3d_width_(&j.view));
    return j;
}

size_t hn_conv3d_dw_fast_scratch(const hn_conv3d_dw_args *a)
{
    const hn_conv3d_shape s = hn_conv3d_one_replica_(&a->shape, a->replicas);
    const job j = job_of(a, &s);
    return (size_t)j.runs * j.sums_bytes + (size_t)omp_get_max_threads() * j.thread_bytes;
}

/* sums [out / FILTERS][count][FILTERS] of one run */
static void sum_run(const job *j, int64_t run, hn_conv3d_lines_ *lines, float *dy, float *sums)
{
    const int64_t width = hn_conv3d_width_(&j->view), first = run * j->run;
    const int64_t end = first + j->run < j->lines ? first + j->run : j->lines;
    memset(sums, 0, j->sums_bytes);
    for (int64_t at = first; at < end; at++) {
        const hn_conv3d_line_ l = hn_conv3d_line_at_(&j->view, at);
        hn_conv3d_lines_see_(lines, &l);
        hn_conv3d_planes_(j->dy, j->dtype, hn_conv3d_line_voxel_(&j->view, &l), j->ld_dy,
                          j->view.axis[2].result, j->out, dy, width);
        for (int64_t f = 0; f < j->out; f += FILTERS)
            dot_line(lines->array, j->count, dy + f * width, width, sums + f * j->count);
    }
}

/* Zeros behind the columns and the filters of dy stay what they are. */
static void sum_runs(const job *j, char *sums, char *threads)
{
    const size_t lines_bytes = hn_conv3d_lines_bytes_(&j->view);
    const bool large = j->lines * j->view.axis[2].result * j->count > HN_OMP_MIN;
#pragma omp parallel if (large)
    {
        char *const mine = threads + (size_t)omp_get_thread_num() * j->thread_bytes;
        hn_conv3d_lines_ lines = hn_conv3d_lines_start_(&j->view, mine);
        float *const dy = (float *)(void *)(mine + lines_bytes);
        memset(dy, 0, j->thread_bytes - lines_bytes);
#pragma omp for schedule(dynamic)
        for (int64_t r = 0; r < j->runs; r++)
            sum_run(j, r, &lines, dy, (float *)(void *)(sums + (size_t)r * j->sums_bytes));
    }
}

hn_status hn_conv3d_dw_fast(const hn_conv3d_dw_args *a, void *scratch)
{
    HN_TRY(hn_conv3d_dw_check(a));
    HN_TRY(hn_check_pointer("conv3d_dw", "scratch", scratch));
    const hn_conv3d_shape s = hn_conv3d_one_replica_(&a->shape, a->replicas);
    job j = job_of(a, &s);
    char *const sums = scratch, *const threads = sums + (size_t)j.runs * j.sums_bytes;
    for (int64_t g = 0; g < hn_replica_count(a->replicas); g++) {
        j.view.p = from(a->x, a->dtype, g * hn_conv3d_voxels_in(&s) * a->ld_x);
        j.dy = from(a->dy, a->dtype, g * hn_conv3d_voxels_out(&s) * a->ld_dy);
        sum_runs(&j, sums, threads);
        for (int64_t o = 0; o < s.out; o++)
            for (int64_t k = 0; k < hn_conv3d_taps(&s); k++) {
                const int64_t at = (o / FILTERS * j.count + k) * FILTERS + o % FILTERS;
                float sum = 0.0f;
                for (int64_t r = 0; r < j.runs; r++)
                    sum += ((const float *)(const void *)(sums + (size_t)r * j.sums_bytes))[at];
                a->dw[g * a->dw_stride + o * a->ld_dw + k] += sum;
            }
    }
    return HN_OK;
}
