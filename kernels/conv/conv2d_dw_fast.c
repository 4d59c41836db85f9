/* A thread owns a block of columns of dw for a run of pixels: it lays out its part of the patches
 * some pixels at a time and adds dy^T patches. Small weights have several runs, so that there is
 * work for many threads; their sums are added up in order. Blocks and runs follow from shapes
 * alone: the same bits for any number of threads. */
#include <cblas.h>
#include <omp.h>

#include "kernels/conv/conv2d_depthwise.h"
#include "kernels/conv/conv2d_patches.h"
#include "kernels/linear/gemm.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

/* Columns of a block: dy is packed once for each. Rows at a time: with 288 columns of patches
 * 576 KiB, about the cache of a core. */
enum { MAX_COLUMNS = 320, ROWS = 512, ITEMS = 16 };

/* As in conv2d_fast.c. */
enum { SINGLE_THREAD = 8192 };

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

typedef struct {
    const hn_conv2d_dw_args *a;
    hn_conv2d_patches_ patches;
    int64_t replicas, rows; /* rows of a replica */
    int64_t width;          /* of a group of dy */
    int64_t columns, block, blocks;
    int64_t run, runs; /* rows of a run */
    float *sums;       /* [runs][replicas][out, columns]; unused where there is one run */
    float *threads;
    int64_t sums_floats, thread_floats;
} job;

static job lay_out(const hn_conv2d_dw_args *a)
{
    const hn_conv2d_shape *const s = &a->shape;
    job j = {.a = a,
             .patches = hn_conv2d_patches_x_(s, a->x, a->dtype, a->ld_x),
             .replicas = hn_replica_count(a->replicas),
             .width = s->out / s->groups};
    j.rows = s->n / j.replicas * hn_conv2d_out_h(s) * hn_conv2d_out_w(s);
    j.columns = hn_conv2d_columns_(&j.patches);
    j.block = ceil_div(j.columns, ceil_div(j.columns, MAX_COLUMNS));
    j.blocks = ceil_div(j.columns, j.block);
    const int64_t wanted = ceil_div(ITEMS, j.replicas * s->groups * j.blocks);
    const int64_t chunks = ceil_div(j.rows, ROWS);
    j.run = ceil_div(chunks, wanted < chunks ? wanted : chunks) * ROWS;
    j.runs = ceil_div(j.rows, j.run);
    if (j.runs > 1) j.sums_floats = j.runs * j.replicas * s->out * j.columns;
    const int64_t rows = j.rows < ROWS ? j.rows : ROWS;
    j.thread_floats = rows * (j.block + (a->dtype == HN_F32 ? 0 : j.width));
    return j;
}

size_t hn_conv2d_dw_fast_scratch(const hn_conv2d_dw_args *a)
{
    if (hn_conv2d_is_depthwise_(&a->shape)) return hn_conv2d_depthwise_dw_scratch_(a);
    const job j = lay_out(a);
    return (size_t)(j.sums_floats + omp_get_max_threads() * j.thread_floats) * sizeof(float);
}

/* dy's rows of a group as f32. */
static hn_operand load_dy(const job *j, int64_t group, int64_t row, int64_t rows, float *buffer)
{
    const hn_conv2d_dw_args *const a = j->a;
    const int64_t at = row * a->ld_dy + group * j->width;
    if (a->dtype == HN_F32) return (hn_operand){(const float *)a->dy + at, a->ld_dy, 0};
    for (int64_t i = 0; i < rows; i++)
        hn_to_f32(a->dy, a->dtype, at + i * a->ld_dy, j->width, buffer + i * j->width);
    return (hn_operand){buffer, j->width, 0};
}

/* One block of one group for one run of one replica; blocks fastest. */
static void add_block(const job *j, int64_t index, float *panel)
{
    const hn_conv2d_dw_args *const a = j->a;
    const int64_t groups = a->shape.groups;
    const int64_t col = index % j->blocks * j->block, group = index / j->blocks % groups;
    const int64_t replica = index / (j->blocks * groups) % j->replicas;
    const int64_t run = index / (j->blocks * groups * j->replicas), start = run * j->run;
    const int64_t cols = j->columns - col < j->block ? j->columns - col : j->block;
    const int64_t rows = j->rows - start < j->run ? j->rows - start : j->run;
    const int64_t out = a->shape.out, ld = j->runs > 1 ? j->columns : a->ld_dw;
    float *const base = j->runs > 1 ? j->sums + (run * j->replicas + replica) * out * j->columns
                                    : a->dw + replica * (j->replicas > 1 ? a->dw_stride : 0);
    float *const c = base + group * j->width * ld + col;
    const bool plain = hn_conv2d_plain_(&j->patches);
    for (int64_t i = 0; i < rows; i += ROWS) {
        const int64_t n = rows - i < ROWS ? rows - i : ROWS;
        const int64_t row = replica * j->rows + start + i;
        const hn_operand dy = load_dy(j, group, row, n, panel + n * cols);
        const float *x = panel;
        if (plain)
            x = (const float *)a->x + row * a->ld_x + group * j->patches.channels + col;
        else
            hn_conv2d_gather_(&j->patches, group, row, n, col, cols, panel);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)j->width, (blasint)cols,
                    (blasint)n, 1.0f, dy.p, (blasint)dy.ld, x, (blasint)(plain ? a->ld_x : cols),
                    i == 0 && j->runs > 1 ? 0.0f : 1.0f, c, (blasint)ld);
    }
}

HN_MULTIVERSION static void add_to(const float *restrict x, int64_t n, float *restrict sum)
{
    for (int64_t k = 0; k < n; k++) sum[k] += x[k];
}

/* Row o of replica `row` / out of dw += the sums of its runs. */
static void add_runs(const job *j, int64_t row)
{
    const hn_conv2d_dw_args *const a = j->a;
    const int64_t out = a->shape.out, replica = row / out;
    float *const total = j->sums + row * j->columns;
    for (int64_t run = 1; run < j->runs; run++)
        add_to(total + run * j->replicas * out * j->columns, j->columns, total);
    add_to(total, j->columns,
           a->dw + replica * (j->replicas > 1 ? a->dw_stride : 0) + row % out * a->ld_dw);
}

hn_status hn_conv2d_dw_fast(const hn_conv2d_dw_args *a, void *scratch)
{
    HN_TRY(hn_conv2d_dw_check(a));
    HN_TRY(hn_check_pointer("conv2d_dw", "scratch", scratch));
    if (hn_conv2d_is_depthwise_(&a->shape)) {
        hn_conv2d_depthwise_dw_(a, scratch);
        return HN_OK;
    }
    job j = lay_out(a);
    j.sums = scratch;
    j.threads = j.sums + j.sums_floats;
    const int64_t items = j.runs * j.replicas * a->shape.groups * j.blocks;
    const int64_t rows = j.replicas * a->shape.out;
    const bool large = j.replicas * j.rows * a->shape.out * j.columns > SINGLE_THREAD;
    hn_blas_one_thread();
#pragma omp parallel for schedule(dynamic) if (large)
    for (int64_t i = 0; i < items; i++)
        add_block(&j, i, j.threads + omp_get_thread_num() * j.thread_floats);
    if (j.runs > 1) {
#pragma omp parallel for schedule(static) if (rows * j.columns > HN_OMP_MIN)
        for (int64_t i = 0; i < rows; i++) add_runs(&j, i);
    }
    return HN_OK;
}
