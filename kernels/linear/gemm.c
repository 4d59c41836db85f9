#include "kernels/linear/gemm.h"

#include <cblas.h>
#include <string.h>

#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

/* OpenBLAS itself stays on one thread up to this many multiply-adds; above it, it would start
 * its own threads (and cut in its own way) were it called outside a parallel region. */
#define SINGLE_THREAD_MAX 262144

typedef struct {
    int64_t rows, cols; /* of a tile */
    int64_t down, across;
} tiling;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* About 16 tiles along the longer side, at least 64 long so that packing the other operand for
 * each of them stays cheap, and 1024 along the shorter. */
static tiling cut(int64_t m, int64_t n)
{
    const int64_t longer = m > n ? m : n, part = ceil_div(ceil_div(longer, 16), 16) * 16;
    const int64_t side = part > 64 ? part : 64;
    tiling t = {.rows = m >= n ? side : 1024, .cols = m >= n ? 1024 : side};
    t.down = ceil_div(m, t.rows);
    t.across = ceil_div(n, t.cols);
    return t;
}

/* c[0..n) of one row; the row of A lies ld_a apart when it is a column of a stored A. */
static void vector_tile(const hn_gemm_args *g, int64_t n, const float *a, const float *b, float *c)
{
    const int64_t rows = g->trans_b ? n : g->k, cols = g->trans_b ? g->k : n;
    if (g->beta == 0.0f) memset(c, 0, (size_t)n * sizeof *c); /* what is there may be NaN */
    cblas_sgemv(CblasRowMajor, g->trans_b ? CblasNoTrans : CblasTrans, (blasint)rows, (blasint)cols,
                g->alpha, b, (blasint)g->ld_b, a, g->trans_a ? (blasint)g->ld_a : 1,
                g->beta == 0.0f ? 1.0f : g->beta, c, 1);
}

static void run_tile(const hn_gemm_args *g, const tiling *t, int64_t index)
{
    const int64_t per_batch = t->down * t->across, z = index / per_batch;
    const int64_t i = index % per_batch / t->across * t->rows, j = index % t->across * t->cols;
    const int64_t m = g->m - i < t->rows ? g->m - i : t->rows;
    const int64_t n = g->n - j < t->cols ? g->n - j : t->cols;
    const float *const a = g->a + z * g->stride_a + (g->trans_a ? i : i * g->ld_a);
    const float *const b = g->b + z * g->stride_b + (g->trans_b ? j * g->ld_b : j);
    float *const c = g->c + z * g->stride_c + i * g->ld_c + j;
    if (g->m == 1) /* decoding: a product by a vector needs no packing of B */
        vector_tile(g, n, a, b, c);
    else
        cblas_sgemm(CblasRowMajor, g->trans_a ? CblasTrans : CblasNoTrans,
                    g->trans_b ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)g->k,
                    g->alpha, a, (blasint)g->ld_a, b, (blasint)g->ld_b, g->beta, c,
                    (blasint)g->ld_c);
    if (g->bias == NULL) return;
    const float *const bias = g->bias + z * g->stride_bias + j;
    for (int64_t r = 0; r < m; r++)
#pragma omp simd
        for (int64_t k = 0; k < n; k++) c[r * g->ld_c + k] += bias[k];
}

void hn_blas_one_thread(void)
{
    if (openblas_get_parallel() == OPENBLAS_THREAD && openblas_get_num_threads() != 1)
        openblas_set_num_threads(1);
}

void hn_gemm(const hn_gemm_args *g)
{
    const tiling t = cut(g->m, g->n);
    const int64_t batch = g->batch > 1 ? g->batch : 1, tiles = batch * t.down * t.across;
    hn_blas_one_thread();
    const bool large =
        (double)batch * (double)g->m * (double)g->n * (double)g->k > SINGLE_THREAD_MAX;
#pragma omp parallel for schedule(static) if (large)
    for (int64_t index = 0; index < tiles; index++) run_tile(g, &t, index);
}

hn_operand hn_operand_f32(const void *p, hn_dtype t, int64_t batch, int64_t stride, int64_t rows,
                          int64_t cols, int64_t ld, float *buffer)
{
    if (t == HN_F32) return (hn_operand){p, ld, stride};
#pragma omp parallel for schedule(static) if (batch * rows * cols > HN_OMP_MIN)
    for (int64_t i = 0; i < batch * rows; i++)
        hn_to_f32(p, t, i / rows * stride + i % rows * ld, cols, buffer + i * cols);
    return (hn_operand){buffer, cols, rows * cols};
}

void hn_matrix_from_f32(const float *src, int64_t rows, int64_t cols, void *dst, hn_dtype t,
                        int64_t ld)
{
#pragma omp parallel for schedule(static) if (rows * cols > HN_OMP_MIN)
    for (int64_t i = 0; i < rows; i++) hn_from_f32(src + i * cols, cols, dst, t, i * ld);
}
