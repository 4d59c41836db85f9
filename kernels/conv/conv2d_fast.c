/* A thread takes a tile of rows, lays out its patches a part of their columns at a time, so that
 * they stay in its cache, and multiplies them there. The input gradient is a forward pass over dy
 * for each remainder of a pixel by the stride, with the taps that meet this remainder. Tiles follow
 * from shapes alone: the same bits for any number of threads. */
#include <cblas.h>
#include <omp.h>
#include <string.h>

#include "kernels/conv/conv2d_depthwise.h"
#include "kernels/conv/conv2d_patches.h"
#include "kernels/linear/gemm.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

/* Of a tile. 256 rows: a product packs its other operand for every tile, which costs as much as 10
 * or 20 rows. 320 columns: with 256 rows 320 KiB, which the cache of a core holds beside what the
 * product packs; kernels of 3 x 3 over 64 channels and multiples of them go by in parts of 288. */
enum { MIN_ROWS = 64, MAX_ROWS = 256, MAX_COLUMNS = 320 };

/* Multiply-adds below which OpenBLAS stays on one thread by itself, so that we do, too. */
enum { SINGLE_THREAD = 8192 };

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* The rows of all replicas, cut into tiles; a tile is in one replica. */
typedef struct {
    int64_t replicas, rows, tile, tiles; /* rows and tiles of a replica */
    int64_t columns;                     /* in a part */
} cut;

static cut cut_rows(int64_t rows, int64_t replicas, int64_t columns)
{
    cut c = {.replicas = hn_replica_count(replicas)};
    c.rows = rows / c.replicas;
    const int64_t wanted = ceil_div(ceil_div(c.rows, 16), 16) * 16; /* 16 tiles or more */
    c.tile = wanted < MIN_ROWS ? MIN_ROWS : wanted > MAX_ROWS ? MAX_ROWS : wanted;
    c.tiles = ceil_div(c.rows, c.tile);
    c.columns = columns > 0 ? ceil_div(columns, ceil_div(columns, MAX_COLUMNS)) : 0;
    return c;
}

/* Floats of a thread: patches of a tile and its result, of `width` columns. */
static int64_t thread_floats(const cut *c, int64_t width) { return c->tile * (c->columns + width); }

/* A product for one tile: c = beta c + patches b. */
typedef struct {
    int64_t group, row, rows;
    const float *b; /* [columns, n], or its transpose */
    int64_t ld_b, n;
    bool trans_b;
    float beta;
    float *c;
    int64_t ld_c;
} product;

static void multiply(const hn_conv2d_patches_ *s, const product *p, int64_t part, float *panel)
{
    const int64_t columns = hn_conv2d_columns_(s);
    const bool plain = hn_conv2d_plain_(s);
    if (columns == 0 && p->beta == 0.0f)
        for (int64_t i = 0; i < p->rows; i++)
            memset(p->c + i * p->ld_c, 0, (size_t)p->n * sizeof(float));
    for (int64_t col = 0; col < columns; col += part) {
        const int64_t cols = columns - col < part ? columns - col : part;
        const float *a = panel;
        if (plain)
            a = (const float *)s->p + p->row * s->ld + p->group * s->channels + col;
        else
            hn_conv2d_gather_(s, p->group, p->row, p->rows, col, cols, panel);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, p->trans_b ? CblasTrans : CblasNoTrans,
                    (blasint)p->rows, (blasint)p->n, (blasint)cols, 1.0f, a,
                    (blasint)(plain ? s->ld : cols), p->trans_b ? p->b + col : p->b + col * p->ld_b,
                    (blasint)p->ld_b, col == 0 ? p->beta : 1.0f, p->c, (blasint)p->ld_c);
    }
}

/* ---- forward ---- */

typedef struct {
    const hn_conv2d_args *a;
    hn_conv2d_patches_ patches;
    cut cut;
    hn_matrices w, bias;
    hn_operand w_f32, bias_f32;
    int64_t width; /* of a group of y */
    int64_t w_at, bias_at, threads_at, floats;
} fwd_job;

static fwd_job lay_out_fwd(const hn_conv2d_args *a)
{
    const hn_conv2d_shape *const s = &a->shape;
    fwd_job j = {
        .a = a,
        .patches = hn_conv2d_patches_x_(s, a->x, a->dtype, a->ld_x),
        .w = hn_parameter(a->dtype, a->replicas, a->w_stride, s->out, hn_conv2d_taps(s), a->ld_w),
        .bias = hn_parameter(a->bias_dtype, a->replicas, a->bias_stride, 1, s->out, s->out),
        .width = s->out / s->groups};
    j.cut = cut_rows(s->n * hn_conv2d_out_h(s) * hn_conv2d_out_w(s), a->replicas,
                     hn_conv2d_columns_(&j.patches));
    j.w_at = hn_reserve(&j.floats, a->dtype != HN_F32, hn_matrices_count(&j.w));
    j.bias_at = hn_reserve(&j.floats, a->bias_dtype != HN_F32, hn_matrices_count(&j.bias));
    j.threads_at =
        hn_reserve(&j.floats, true, omp_get_max_threads() * thread_floats(&j.cut, j.width));
    return j;
}

size_t hn_conv2d_fwd_fast_scratch(const hn_conv2d_args *a)
{
    if (hn_conv2d_is_depthwise_(&a->shape)) return hn_conv2d_depthwise_fwd_scratch_(a);
    return (size_t)lay_out_fwd(a).floats * sizeof(float);
}

HN_MULTIVERSION static void finish_row(float *restrict y, const float *restrict bias, bool relu,
                                       int64_t n)
{
    if (bias)
        for (int64_t o = 0; o < n; o++) y[o] += bias[o];
    if (relu)
        for (int64_t o = 0; o < n; o++) y[o] = y[o] < 0.0f ? 0.0f : y[o];
}

static void fwd_tile(const fwd_job *j, int64_t index, float *panel)
{
    const hn_conv2d_args *const a = j->a;
    const int64_t groups = a->shape.groups, group = index % groups, tile = index / groups;
    const int64_t replica = tile / j->cut.tiles, start = tile % j->cut.tiles * j->cut.tile;
    const int64_t row = replica * j->cut.rows + start, rest = j->cut.rows - start;
    const int64_t at = row * a->ld_y + group * j->width;
    const bool in_y = a->dtype == HN_F32;
    const product p = {.group = group,
                       .row = row,
                       .rows = rest < j->cut.tile ? rest : j->cut.tile,
                       .b = j->w_f32.p + replica * j->w_f32.stride + group * j->width * j->w_f32.ld,
                       .ld_b = j->w_f32.ld,
                       .trans_b = true,
                       .n = j->width,
                       .c = in_y ? (float *)a->y + at : panel + j->cut.tile * j->cut.columns,
                       .ld_c = in_y ? a->ld_y : j->width};
    multiply(&j->patches, &p, j->cut.columns, panel);
    const float *const bias =
        a->bias ? j->bias_f32.p + replica * j->bias_f32.stride + group * j->width : NULL;
    for (int64_t i = 0; i < p.rows; i++) {
        float *const y = p.c + i * p.ld_c;
        if (bias || a->relu) finish_row(y, bias, a->relu, j->width);
        hn_store_f32(y, j->width, a->y, a->dtype, at + i * a->ld_y);
    }
}

hn_status hn_conv2d_fwd_fast(const hn_conv2d_args *a, void *scratch)
{
    HN_TRY(hn_conv2d_check(a));
    HN_TRY(hn_check_pointer("conv2d", "scratch", scratch));
    if (hn_conv2d_is_depthwise_(&a->shape)) {
        hn_conv2d_depthwise_fwd_(a, scratch);
        return HN_OK;
    }
    fwd_job j = lay_out_fwd(a);
    j.w_f32 = hn_matrices_load(&j.w, a->w, hn_at(scratch, j.w_at));
    if (a->bias) j.bias_f32 = hn_matrices_load(&j.bias, a->bias, hn_at(scratch, j.bias_at));
    float *const threads = hn_at(scratch, j.threads_at);
    const int64_t items = j.cut.replicas * j.cut.tiles * a->shape.groups;
    const int64_t each = thread_floats(&j.cut, j.width);
    const bool large =
        j.cut.replicas * j.cut.rows * a->shape.out * hn_conv2d_columns_(&j.patches) > SINGLE_THREAD;
    hn_blas_one_thread();
#pragma omp parallel for schedule(dynamic) if (large)
    for (int64_t i = 0; i < items; i++) fwd_tile(&j, i, threads + omp_get_thread_num() * each);
    return HN_OK;
}

/* ---- input gradient ---- */

typedef struct {
    const hn_conv2d_dx_args *a;
    int64_t down, across; /* remainders of the pixels' row and column by the stride */
    hn_conv2d_patches_ patches;
    cut cut;
    int64_t width;            /* of a group of dx */
    float *w;                 /* [copies][groups][columns, width] */
    int64_t w_stride, copies; /* elements from one replica's to the next, 0: one copy */
} dx_job;

static dx_job dx_job_of(const hn_conv2d_dx_args *a, int64_t down, int64_t across)
{
    const hn_conv2d_shape *const s = &a->shape;
    dx_job j = {.a = a,
                .down = down,
                .across = across,
                .patches = hn_conv2d_patches_dy_(s, a->dy, a->dtype, a->ld_dy, down, across),
                .width = s->in / s->groups,
                .copies = a->w_stride ? hn_replica_count(a->replicas) : 1};
    const int64_t columns = hn_conv2d_columns_(&j.patches);
    j.cut = cut_rows(s->n * j.patches.down.grid * j.patches.across.grid, a->replicas, columns);
    j.w_stride = j.copies > 1 ? columns * s->in : 0;
    return j;
}

/* The weights of all remainders in turn, then the threads; the remainder of 0 has the most pixels,
 * but another may have more columns. */
static size_t dx_weight_floats(const hn_conv2d_dx_args *a)
{
    const int64_t copies = a->w_stride ? hn_replica_count(a->replicas) : 1;
    return (size_t)(copies * a->shape.out * hn_conv2d_taps(&a->shape));
}

static int64_t dx_thread_floats(const hn_conv2d_dx_args *a)
{
    const dx_job first = dx_job_of(a, 0, 0);
    const hn_conv2d_shape *const s = &a->shape;
    const int64_t columns = s->kh * s->kw * (s->out / s->groups);
    return first.cut.tile * ((columns < MAX_COLUMNS ? columns : MAX_COLUMNS) + first.width);
}

size_t hn_conv2d_dx_fast_scratch(const hn_conv2d_dx_args *a)
{
    if (hn_conv2d_is_depthwise_(&a->shape)) return hn_conv2d_depthwise_dx_scratch_(a);
    const size_t threads = (size_t)omp_get_max_threads() * (size_t)dx_thread_floats(a);
    return (dx_weight_floats(a) + threads) * sizeof(float);
}

/* j->w row (tap, o) of a group = the tap's columns of w's row o. */
static void turn_weights(const dx_job *j)
{
    const hn_conv2d_dx_args *const a = j->a;
    const hn_conv2d_axis_ *const down = &j->patches.down, *const across = &j->patches.across;
    const int64_t taps = down->taps * across->taps, out = a->shape.out, width = j->width;
    const int64_t group_out = j->patches.channels, rows = j->copies * out * taps;
#pragma omp parallel for schedule(static) if (rows * width > HN_OMP_MIN)
    for (int64_t i = 0; i < rows; i++) {
        const int64_t o = i % group_out, tap = i / group_out % taps;
        const int64_t group = i / (group_out * taps) % a->shape.groups, copy = i / (out * taps);
        const int64_t r = down->kernel + tap / across->taps * down->kernel_step;
        const int64_t t = across->kernel + tap % across->taps * across->kernel_step;
        const int64_t from =
            copy * a->w_stride + (group * group_out + o) * a->ld_w + (r * a->shape.kw + t) * width;
        hn_to_f32(a->w, a->dtype, from, width, j->w + i * width);
    }
}

/* The pixel of dx at a position of the job's grid. */
static int64_t pixel_of(const dx_job *j, int64_t row)
{
    const hn_conv2d_shape *const s = &j->a->shape;
    const int64_t height = j->patches.down.grid, width = j->patches.across.grid;
    const int64_t n = row / width / height, u = row / width % height, v = row % width;
    return (n * s->h + j->down + u * s->stride) * s->w + j->across + v * s->stride;
}

static void dx_tile(const dx_job *j, int64_t index, float *panel)
{
    const hn_conv2d_dx_args *const a = j->a;
    const int64_t groups = a->shape.groups, group = index % groups, tile = index / groups;
    const int64_t replica = tile / j->cut.tiles, start = tile % j->cut.tiles * j->cut.tile;
    const int64_t row = replica * j->cut.rows + start, rest = j->cut.rows - start;
    const int64_t channel = group * j->width;
    const bool in_dx = a->dtype == HN_F32 && a->shape.stride == 1; /* rows are pixels in order */
    const product p = {.group = group,
                       .row = row,
                       .rows = rest < j->cut.tile ? rest : j->cut.tile,
                       .b = j->w + replica * j->w_stride +
                            group * hn_conv2d_columns_(&j->patches) * j->width,
                       .ld_b = j->width,
                       .n = j->width,
                       .beta = a->add ? 1.0f : 0.0f,
                       .c = in_dx ? (float *)a->dx + row * a->ld_dx + channel
                                  : panel + j->cut.tile * j->cut.columns,
                       .ld_c = in_dx ? a->ld_dx : j->width};
    const bool there = in_dx && a->add == a->dx;
    for (int64_t i = 0; a->add && !there && i < p.rows; i++)
        hn_to_f32(a->add, a->dtype, pixel_of(j, row + i) * a->ld_add + channel, j->width,
                  p.c + i * p.ld_c);
    multiply(&j->patches, &p, j->cut.columns, panel);
    for (int64_t i = 0; !in_dx && i < p.rows; i++)
        hn_from_f32(p.c + i * p.ld_c, j->width, a->dx, a->dtype,
                    pixel_of(j, row + i) * a->ld_dx + channel);
}

hn_status hn_conv2d_dx_fast(const hn_conv2d_dx_args *a, void *scratch)
{
    HN_TRY(hn_conv2d_dx_check(a));
    HN_TRY(hn_check_pointer("conv2d_dx", "scratch", scratch));
    if (hn_conv2d_is_depthwise_(&a->shape)) {
        hn_conv2d_depthwise_dx_(a, scratch);
        return HN_OK;
    }
    float *const threads = (float *)scratch + dx_weight_floats(a);
    const int64_t each = dx_thread_floats(a), phases = a->shape.stride * a->shape.stride;
    hn_blas_one_thread();
    for (int64_t phase = 0; phase < phases; phase++) {
        dx_job j = dx_job_of(a, phase / a->shape.stride, phase % a->shape.stride);
        j.w = scratch;
        if (j.cut.rows == 0) continue;
        turn_weights(&j);
        const int64_t items = j.cut.replicas * j.cut.tiles * a->shape.groups;
        const bool large =
            j.cut.replicas * j.cut.rows * a->shape.in * hn_conv2d_columns_(&j.patches) >
            SINGLE_THREAD;
#pragma omp parallel for schedule(dynamic) if (large)
        for (int64_t i = 0; i < items; i++) dx_tile(&j, i, threads + omp_get_thread_num() * each);
    }
    return HN_OK;
}
