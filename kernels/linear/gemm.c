#include "kernels/linear/gemm.h"

#include <cblas.h>
#include <string.h>

#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"

/* OpenBLAS itself stays on one thread up to this many multiply-adds; above it, it would start
 * its own threads (and cut in its own way) were it called outside a parallel region. */
enum { SINGLE_THREAD_GEMM = 262144, SINGLE_THREAD_GEMV = 8192 };

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

/* c[0..n) of the only row; A is a row, or a column whose elements lie ld apart. */
static void vector_tile(const hn_gemm_args *g, int64_t n, const float *a, const float *b, float *c)
{
    const int64_t rows = g->trans_b ? n : g->k, cols = g->trans_b ? g->k : n;
    if (g->beta == 0.0f) memset(c, 0, (size_t)n * sizeof *c); /* what is there may be NaN */
    cblas_sgemv(CblasRowMajor, g->trans_b ? CblasNoTrans : CblasTrans, (blasint)rows, (blasint)cols,
                g->alpha, b, (blasint)g->b.ld, a, g->trans_a ? (blasint)g->a.ld : 1,
                g->beta == 0.0f ? 1.0f : g->beta, c, 1);
}

static void run_tile(const hn_gemm_args *g, const tiling *t, int64_t index)
{
    const int64_t per_batch = t->down * t->across, z = index / per_batch;
    const int64_t i = index % per_batch / t->across * t->rows, j = index % t->across * t->cols;
    const int64_t m = g->m - i < t->rows ? g->m - i : t->rows;
    const int64_t n = g->n - j < t->cols ? g->n - j : t->cols;
    const float *const a = g->a.p + z * g->a.stride + (g->trans_a ? i : i * g->a.ld);
    const float *const b = g->b.p + z * g->b.stride + (g->trans_b ? j * g->b.ld : j);
    float *const c = g->c.p + z * g->c.stride + i * g->c.ld + j;
    if (g->m == 1) /* decoding: a product by a vector needs no packing of B */
        vector_tile(g, n, a, b, c);
    else
        cblas_sgemm(CblasRowMajor, g->trans_a ? CblasTrans : CblasNoTrans,
                    g->trans_b ? CblasTrans : CblasNoTrans, (blasint)m, (blasint)n, (blasint)g->k,
                    g->alpha, a, (blasint)g->a.ld, b, (blasint)g->b.ld, g->beta, c,
                    (blasint)g->c.ld);
    if (g->bias.p == NULL) return;
    const float *const bias = g->bias.p + z * g->bias.stride + j;
    for (int64_t r = 0; r < m; r++)
#pragma omp simd
        for (int64_t k = 0; k < n; k++) c[r * g->c.ld + k] += bias[k];
}

void hn_blas_one_thread(void)
{
    if (openblas_get_parallel() == OPENBLAS_THREAD && openblas_get_num_threads() != 1)
        openblas_set_num_threads(1);
}

void hn_gemm(const hn_gemm_args *g)
{
    const tiling t = cut(g->m, g->n);
    const int64_t tiles = g->batch * t.down * t.across;
    const double work = (double)g->batch * (double)g->m * (double)g->n * (double)g->k;
    const bool large = work > (g->m == 1 ? SINGLE_THREAD_GEMV : SINGLE_THREAD_GEMM);
    hn_blas_one_thread();
#pragma omp parallel for schedule(static) if (large)
    for (int64_t index = 0; index < tiles; index++) run_tile(g, &t, index);
}

hn_matrices hn_activations(hn_dtype t, int64_t rows, int64_t replicas, int64_t cols, int64_t ld)
{
    const int64_t n = hn_replica_count(replicas), group = rows / n;
    return (hn_matrices){t, n, group * ld, group, cols, ld};
}

hn_matrices hn_parameter(hn_dtype t, int64_t replicas, int64_t stride, int64_t rows, int64_t cols,
                         int64_t ld)
{
    return (hn_matrices){t, hn_replica_count(replicas), replicas > 1 ? stride : 0, rows, cols, ld};
}

static int64_t copies(const hn_matrices *m) { return m->stride != 0 ? m->batch : 1; }

int64_t hn_matrices_count(const hn_matrices *m) { return copies(m) * m->rows * m->cols; }

static int64_t row_offset(const hn_matrices *m, int64_t i)
{
    return i / m->rows * m->stride + i % m->rows * m->ld;
}

static hn_result gap_free(const hn_matrices *m, float *buffer)
{
    return (hn_result){buffer, m->cols, m->stride != 0 ? m->rows * m->cols : 0};
}

static void load_rows(const hn_matrices *m, const void *p, float *buffer)
{
    const int64_t rows = copies(m) * m->rows;
#pragma omp parallel for schedule(static) if (rows * m->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < rows; i++)
        hn_to_f32(p, m->t, row_offset(m, i), m->cols, buffer + i * m->cols);
}

hn_operand hn_matrices_load(const hn_matrices *m, const void *p, float *buffer)
{
    if (m->t == HN_F32) return (hn_operand){p, m->ld, m->stride};
    load_rows(m, p, buffer);
    const hn_result r = gap_free(m, buffer);
    return (hn_operand){r.p, r.ld, r.stride};
}

hn_result hn_matrices_begin(const hn_matrices *m, void *p, float *buffer, const void *add,
                            int64_t ld_add)
{
    const hn_result r = m->t == HN_F32 ? (hn_result){p, m->ld, m->stride} : gap_free(m, buffer);
    if (add == NULL || add == r.p) return r;
    const int64_t rows = m->batch * m->rows;
#pragma omp parallel for schedule(static) if (rows * m->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < rows; i++) hn_to_f32(add, m->t, i * ld_add, m->cols, r.p + i * r.ld);
    return r;
}

void hn_matrices_end(const hn_matrices *m, hn_result r, void *p)
{
    if (m->t == HN_F32) return;
    const int64_t rows = copies(m) * m->rows;
#pragma omp parallel for schedule(static) if (rows * m->cols > HN_OMP_MIN)
    for (int64_t i = 0; i < rows; i++)
        hn_from_f32(r.p + i * m->cols, m->cols, p, m->t, row_offset(m, i));
}
