/* Rows and columns: the chosen columns of dy (or x) side by side, one product straight into the
 * span. Blocks of 128 and 256: products of 64 rows of a block. Smaller ones, tile by tile: the
 * product of a whole tile where it holds many values, else a product a block (16 to 64) or a dot
 * product a value (1 and 4), on transposed pieces of those columns that the tile needs. What is a
 * unit of work depends on shapes and the list alone, and one thread does it. */
#include <cblas.h>
#include <omp.h>
#include <string.h>

#include "kernels/linear/gemm.h"
#include "kernels/sparse/block_dw.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

enum {
    TILE = HN_SPARSE_TILE,
    SLICE = 64, /* rows of a product of blocks of 128 and 256 */
    RUN = 128,  /* tokens of a transposed piece: two pieces of a tile are 128 KB */
    /* A tile is one product when so many times its values are all of its elements: a product
     * does about four times the arithmetic of dots, and twice that of small products. */
    DENSE_DOTS = 4,
    DENSE_BLOCKS = 2,
};

/* The operands in f32, and the places of what is made in the scratch, in floats. */
typedef struct {
    const hn_block_dw_args *a;
    hn_matrices dy, x;
    int64_t dy_at, x_at, gathered_at, threads_at, thread_floats, n;
    const float *pdy, *px;
    int64_t ld_dy, ld_x;
    float alpha;
} job;

static bool is_line(const hn_block_dw_args *a)
{
    return !hn_block_tiled(a->shape) && (a->shape.br == 1 || a->shape.bc == 1);
}

static job lay_out(const hn_block_dw_args *a)
{
    job j = {.a = a,
             .dy = hn_activations(a->dtype, a->rows, 0, a->out, a->ld_dy),
             .x = hn_activations(a->dtype, a->rows, 0, a->in, a->ld_x),
             .alpha = a->alpha == 0.0f ? 1.0f : a->alpha};
    const bool copy = a->dtype != HN_F32, line = is_line(a);
    j.dy_at = hn_reserve(&j.n, copy, hn_matrices_count(&j.dy));
    j.x_at = hn_reserve(&j.n, copy, hn_matrices_count(&j.x));
    j.gathered_at = hn_reserve(&j.n, line, a->rows * a->capacity);
    j.thread_floats = TILE * TILE + 2 * TILE * RUN;
    j.threads_at =
        hn_reserve(&j.n, hn_block_tiled(a->shape), omp_get_max_threads() * j.thread_floats);
    return j;
}

size_t hn_block_dw_fast_scratch(const hn_block_dw_args *a)
{
    return (size_t)lay_out(a).n * sizeof(float);
}

static float *grad_of(const hn_block_dw_args *a, int64_t b)
{
    return a->grad + a->span->first_value + b * hn_block_values(a->shape);
}

static int32_t id_of(const hn_block_dw_args *a, int64_t b)
{
    return a->block[a->span->first_block + b];
}

/* c[m, n] = beta c + alpha dy[:, row ..]^T x[:, col ..] */
static void product(const job *j, int64_t row, int64_t col, int64_t m, int64_t n, float alpha,
                    float beta, float *c, int64_t ld)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)m, (blasint)n,
                (blasint)j->a->rows, alpha, j->pdy + row, (blasint)j->ld_dy, j->px + col,
                (blasint)j->ld_x, beta, c, (blasint)ld);
}

/* ---- rows and columns ---- */

static void run_lines(const job *j, float *gathered)
{
    const hn_block_dw_args *const a = j->a;
    const bool rows = a->shape.br == 1;
    const float *const from = rows ? j->pdy : j->px;
    const int64_t n = a->span->count, ld = rows ? j->ld_dy : j->ld_x;
    if (n == 0) return;
#pragma omp parallel for schedule(static) if (a->rows * n > HN_OMP_MIN)
    for (int64_t t = 0; t < a->rows; t++)
        for (int64_t b = 0; b < n; b++) gathered[t * n + b] = from[t * ld + id_of(a, b)];
    const hn_gemm_args g = {.a = {gathered, n, 0},
                            .b = {rows ? j->px : j->pdy, rows ? j->ld_x : j->ld_dy, 0},
                            .c = {grad_of(a, 0), hn_block_values(a->shape), 0},
                            .batch = 1,
                            .m = n,
                            .n = hn_block_values(a->shape),
                            .k = a->rows,
                            .trans_a = true,
                            .alpha = j->alpha,
                            .beta = 1.0f};
    hn_gemm(&g);
}

/* ---- blocks of 128 and 256 ---- */

static void run_large(const job *j)
{
    const hn_block_dw_args *const a = j->a;
    const int64_t slices = a->shape.br / SLICE, n = a->span->count * slices;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        const int64_t b = i / slices, down = i % slices * SLICE, id = id_of(a, b);
        product(j, hn_block_row(a->shape, a->in, id) + down, hn_block_col(a->shape, a->in, id),
                SLICE, a->shape.bc, j->alpha, 1.0f, grad_of(a, b) + down * a->shape.bc,
                a->shape.bc);
    }
}

/* ---- tiles ---- */

typedef struct {
    int64_t row, col, rows, cols; /* in the matrix */
    int64_t first, n;             /* blocks of the span */
} tile;

static tile tile_of(const hn_block_dw_args *a, int64_t t)
{
    const int64_t across = hn_sparse_tiles_across(a->in);
    tile s = {.row = t / across * TILE, .col = t % across * TILE, .first = a->tile_first[t]};
    s.rows = a->out - s.row < TILE ? a->out - s.row : TILE;
    s.cols = a->in - s.col < TILE ? a->in - s.col : TILE;
    s.n = a->tile_first[t + 1] - s.first;
    return s;
}

static void product_and_gather(const job *j, const tile *s, float *c)
{
    const hn_block_dw_args *const a = j->a;
    product(j, s->row, s->col, s->rows, s->cols, 1.0f, 0.0f, c, TILE);
    for (int64_t b = s->first; b < s->first + s->n; b++) {
        const int64_t row = hn_block_row(a->shape, a->in, id_of(a, b)) - s->row;
        const int64_t col = hn_block_col(a->shape, a->in, id_of(a, b)) - s->col;
        float *const grad = grad_of(a, b);
        for (int64_t i = 0; i < a->shape.br; i++)
            for (int64_t k = 0; k < a->shape.bc; k++)
                grad[i * a->shape.bc + k] += j->alpha * c[(row + i) * TILE + col + k];
    }
}

static void product_a_block(const job *j, const tile *s)
{
    const hn_block_dw_args *const a = j->a;
    for (int64_t b = s->first; b < s->first + s->n; b++)
        product(j, hn_block_row(a->shape, a->in, id_of(a, b)),
                hn_block_col(a->shape, a->in, id_of(a, b)), a->shape.br, a->shape.bc, j->alpha,
                1.0f, grad_of(a, b), a->shape.bc);
}

HN_MULTIVERSION static float dot(const float *restrict p, const float *restrict q, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t < n; t++) sum += p[t] * q[t];
    return sum;
}

/* Columns of a tile that its blocks need, ascending. */
typedef struct {
    int64_t n;
    int16_t col[TILE];
} columns;

static columns columns_in_use(const bool *used)
{
    columns c = {0};
    for (int16_t i = 0; i < TILE; i++)
        if (used[i]) c.col[c.n++] = i;
    return c;
}

/* to[c] = tokens first .. first + n - 1 of column col + c, for the columns in use. */
static void transpose(const float *from, int64_t ld, int64_t first, int64_t n, int64_t col,
                      const columns *use, float *to)
{
    for (int64_t t = 0; t < n; t++) {
        const float *const row = from + (first + t) * ld + col;
        for (int64_t i = 0; i < use->n; i++) to[use->col[i] * RUN + t] = row[use->col[i]];
    }
}

static void columns_of(const hn_block_dw_args *a, const tile *s, columns *dy, columns *x)
{
    bool used_dy[TILE] = {0}, used_x[TILE] = {0};
    for (int64_t b = s->first; b < s->first + s->n; b++) {
        const int64_t row = hn_block_row(a->shape, a->in, id_of(a, b)) - s->row;
        const int64_t col = hn_block_col(a->shape, a->in, id_of(a, b)) - s->col;
        for (int64_t i = 0; i < a->shape.br; i++) used_dy[row + i] = true;
        for (int64_t i = 0; i < a->shape.bc; i++) used_x[col + i] = true;
    }
    *dy = columns_in_use(used_dy);
    *x = columns_in_use(used_x);
}

static void dot_a_value(const job *j, const tile *s, float *buffer)
{
    const hn_block_dw_args *const a = j->a;
    const int64_t bc = a->shape.bc, values = hn_block_values(a->shape);
    float *const sum = buffer, *const dy = buffer + TILE * TILE, *const x = dy + TILE * RUN;
    columns use_dy, use_x;
    columns_of(a, s, &use_dy, &use_x);
    memset(sum, 0, (size_t)(s->n * values) * sizeof *sum);
    for (int64_t first = 0; first < a->rows; first += RUN) {
        const int64_t n = a->rows - first < RUN ? a->rows - first : RUN;
        transpose(j->pdy, j->ld_dy, first, n, s->row, &use_dy, dy);
        transpose(j->px, j->ld_x, first, n, s->col, &use_x, x);
        for (int64_t b = 0; b < s->n; b++) {
            const int64_t id = id_of(a, s->first + b);
            const float *const p = dy + (hn_block_row(a->shape, a->in, id) - s->row) * RUN;
            const float *const q = x + (hn_block_col(a->shape, a->in, id) - s->col) * RUN;
            for (int64_t v = 0; v < values; v++)
                sum[b * values + v] += dot(p + v / bc * RUN, q + v % bc * RUN, n);
        }
    }
    float *const grad = grad_of(a, s->first);
    for (int64_t v = 0; v < s->n * values; v++) grad[v] += j->alpha * sum[v];
}

static void run_tile(const job *j, int64_t t, float *buffer)
{
    const tile s = tile_of(j->a, t);
    const bool dots = j->a->shape.br < 16 || j->a->shape.bc < 16;
    const int64_t worth = s.n * hn_block_values(j->a->shape) * (dots ? DENSE_DOTS : DENSE_BLOCKS);
    if (s.n == 0) return;
    if (worth >= s.rows * s.cols)
        product_and_gather(j, &s, buffer);
    else if (dots)
        dot_a_value(j, &s, buffer);
    else
        product_a_block(j, &s);
}

static void run_tiles(const job *j, float *threads)
{
    const int64_t n = hn_sparse_tiles(j->a->out, j->a->in);
#pragma omp parallel for schedule(dynamic)
    for (int64_t t = 0; t < n; t++)
        run_tile(j, t, threads + omp_get_thread_num() * j->thread_floats);
}

hn_status hn_block_dw_fast(const hn_block_dw_args *a, void *scratch)
{
    HN_TRY(hn_block_dw_check(a));
    HN_TRY(hn_sparse_span_check("block_dw", a->span, a->shape, a->out, a->in, a->capacity, a->block,
                                a->blocks, a->values, a->tile_first));
    job j = lay_out(a);
    if (j.n > 0) HN_TRY(hn_check_pointer("block_dw", "scratch", scratch));
    if (a->span->count == 0) return HN_OK;
    const hn_operand dy = hn_matrices_load(&j.dy, a->dy, hn_at(scratch, j.dy_at));
    const hn_operand x = hn_matrices_load(&j.x, a->x, hn_at(scratch, j.x_at));
    j.pdy = dy.p, j.ld_dy = dy.ld, j.px = x.p, j.ld_x = x.ld;
    hn_blas_one_thread();
    if (hn_block_tiled(a->shape))
        run_tiles(&j, hn_at(scratch, j.threads_at));
    else if (is_line(a))
        run_lines(&j, hn_at(scratch, j.gathered_at));
    else
        run_large(&j);
    return HN_OK;
}
