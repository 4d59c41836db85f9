/* LAPACK counts columns first: a row-major Delta [m, n] is its X = Delta^T [n, m]. From X = P S Q^T
 * follows Delta = Q S P^T, and P [n, r] and Q^T [r, m] columns first are V^T [r, n] and U [m, r]
 * row by row: nothing is transposed. */
#include "runtime/adapt/spectrum.h"

#include <cblas.h>
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/linear/gemm.h"
#include "runtime/adapt/spectrum_impl.h"
#include "runtime/base/alloc.h"
#include "runtime/base/check.h"

/* Fortran: every argument by address, the lengths of texts behind them. */
void dgesdd_(const char *jobz, const blasint *m, const blasint *n, double *a, const blasint *lda,
             double *s, double *u, const blasint *ldu, double *vt, const blasint *ldvt,
             double *work, const blasint *lwork, blasint *iwork, blasint *info, size_t jobz_len);
void dgeqrf_(const blasint *m, const blasint *n, double *a, const blasint *lda, double *tau,
             double *work, const blasint *lwork, blasint *info);
void dorgqr_(const blasint *m, const blasint *n, const blasint *k, double *a, const blasint *lda,
             const double *tau, double *work, const blasint *lwork, blasint *info);

enum { MAX_R = 16384 }; /* dgesdd's workspace, 4 r^2 + 7 r numbers, is counted in 32 bits */

static const double noise = 0x1p-23; /* of s_1: see the header */

struct hn_spectrum_solver {
    hn_spectrum_cuda *cuda; /* NULL on the CPU */
};

/* ---- memory ---- */

void hn_spectrum_free(hn_spectrum *s)
{
    if (s == NULL) return;
    hn_free(s->s);
    hn_free(s->u);
    hn_free(s->vt);
    *s = (hn_spectrum){0};
}

static hn_status spectrum_alloc(int64_t m, int64_t n, int64_t r, hn_spectrum *s)
{
    *s = (hn_spectrum){.m = m, .n = n, .r = r};
    s->s = hn_calloc((size_t)r, sizeof *s->s);
    s->u = hn_calloc((size_t)m * (size_t)r, sizeof *s->u);
    s->vt = hn_calloc((size_t)r * (size_t)n, sizeof *s->vt);
    if (s->s != NULL && s->u != NULL && s->vt != NULL) return HN_OK;
    hn_spectrum_free(s);
    return HN_FAIL(HN_ERR_MEMORY, "spectrum of [%" PRId64 ", %" PRId64 "]: no memory for vectors",
                   m, n);
}

static double *numbers(size_t count, const char *what)
{
    double *p = hn_calloc(count > 0 ? count : 1, sizeof *p);
    if (p == NULL)
        (void)HN_FAIL(HN_ERR_MEMORY, "spectrum: %zu bytes for %s", count * sizeof *p, what);
    return p;
}

/* ---- shared by both devices ---- */

static hn_status check_finite(double energy)
{
    if (isfinite(energy)) return HN_OK;
    return HN_FAIL(HN_ERR_NUMERIC, "spectrum: the matrix has a NaN or an infinity");
}

/* Everything at the level of rounding becomes 0; the values fall. */
static void count_rank(hn_spectrum *s)
{
    s->rank = 0;
    while (s->rank < s->r && s->s[s->rank] > noise * s->s[0]) s->rank++;
    for (int64_t i = s->rank; i < s->r; i++) s->s[i] = 0.0;
}

static hn_status check_args(const hn_spectrum_args *a)
{
    HN_TRY(hn_check_matrix("spectrum", "delta", a->delta, a->m, a->n, a->ld));
    if (a->m > MAX_R && a->n > MAX_R)
        return HN_FAIL(HN_ERR_SHAPE,
                       "spectrum: [%" PRId64 ", %" PRId64 "]: the smaller side is at most %d", a->m,
                       a->n, MAX_R);
    return HN_OK;
}

/* ---- LAPACK ---- */

/* OpenBLAS splits its work by the number of threads, and sums change with it: what stands between
 * begin and end runs on one. Gives what end wants back. */
static int one_thread_begin(void)
{
    const int n = omp_get_max_threads();
    hn_blas_one_thread();
    omp_set_num_threads(1); /* of this thread alone; OpenBLAS on OpenMP follows it */
    return n;
}

static void one_thread_end(int n) { omp_set_num_threads(n); }

/* The thin decomposition of x, rows x cols row-major without gaps; x is lost. */
static hn_status decompose(double *x, int64_t rows, int64_t cols, double *s, double *u, double *vt)
{
    hn_status st = HN_OK;
    const blasint m = (blasint)cols, n = (blasint)rows, r = m < n ? m : n;
    blasint lwork = -1, info = 0;
    double size = 0;
    blasint *iwork = hn_calloc((size_t)r * 8, sizeof *iwork);
    double *work = NULL;
    if (iwork == NULL) return HN_FAIL(HN_ERR_MEMORY, "spectrum: no memory for %d values", (int)r);
    const int threads = one_thread_begin();
    dgesdd_("S", &m, &n, x, &m, s, vt, &m, u, &r, &size, &lwork, iwork, &info, 1);
    if (info == 0) {
        lwork = (blasint)size;
        work = numbers((size_t)lwork, "LAPACK");
        if (work == NULL) {
            st = HN_ERR_MEMORY;
            goto done;
        }
        dgesdd_("S", &m, &n, x, &m, s, vt, &m, u, &r, work, &lwork, iwork, &info, 1);
    }
    if (info != 0)
        st = HN_FAIL(HN_ERR_NUMERIC, "spectrum of [%" PRId64 ", %" PRId64 "]: dgesdd returned %d",
                     rows, cols, (int)info);
done:
    one_thread_end(threads);
    hn_free(work);
    hn_free(iwork);
    return st;
}

static hn_status run_cpu(const hn_spectrum_args *a, hn_spectrum *out)
{
    double energy = 0.0;
    double *x = numbers((size_t)a->m * (size_t)a->n, "the matrix");
    if (x == NULL) return HN_ERR_MEMORY;
    for (int64_t i = 0; i < a->m; i++)
        for (int64_t j = 0; j < a->n; j++) {
            const double v = (double)a->delta[i * a->ld + j];
            x[i * a->n + j] = v;
            energy += v * v;
        }
    hn_spectrum s = {0};
    hn_status st = check_finite(energy);
    if (st == HN_OK) st = spectrum_alloc(a->m, a->n, a->m < a->n ? a->m : a->n, &s);
    if (st == HN_OK) st = decompose(x, a->m, a->n, s.s, s.u, s.vt);
    hn_free(x);
    if (st != HN_OK) {
        hn_spectrum_free(&s);
        return st;
    }
    s.energy = energy;
    count_rank(&s);
    hn_spectrum_free(out);
    *out = s;
    return HN_OK;
}

/* ---- a GPU ---- */

/* The places of the rows in order of falling length: nearly that of the eigenvalues, backwards. */
static void sort_rows(const double *length, int64_t r, int64_t *place)
{
    for (int64_t i = 0; i < r; i++) {
        const int64_t row = r - 1 - i;
        int64_t j = i;
        for (; j > 0 && length[place[j - 1]] < length[row]; j--) place[j] = place[j - 1];
        place[j] = row;
    }
}

/* From q [r, r] and p = q X [r, l] (spectrum_impl.h): s_i = |p_i|; the vectors of the side of X's
 * rows are the rows of q, those of its columns p_i / s_i. */
static void place_vectors(const double *q, const double *p, const double *length,
                          const int64_t *place, hn_spectrum *s)
{
    const bool wide = s->m <= s->n; /* X is Delta */
    const int64_t r = s->r, l = wide ? s->n : s->m;
    for (int64_t i = 0; i < r; i++) {
        const double *const q_i = q + place[i] * r, *const p_i = p + place[i] * l;
        const double scale = i < s->rank ? 1.0 / length[place[i]] : 0.0;
        if (wide) {
            for (int64_t j = 0; j < r; j++) s->u[j * r + i] = q_i[j];
            for (int64_t j = 0; j < l; j++) s->vt[i * l + j] = scale * p_i[j];
        } else {
            for (int64_t j = 0; j < r; j++) s->vt[i * r + j] = q_i[j];
            for (int64_t j = 0; j < l; j++) s->u[j * r + i] = scale * p_i[j];
        }
    }
}

static hn_status run_cuda(hn_spectrum_cuda *c, const hn_spectrum_args *a, hn_spectrum *out)
{
    const int64_t r = a->m < a->n ? a->m : a->n, l = a->m < a->n ? a->n : a->m;
    hn_spectrum s = {0};
    hn_status st = spectrum_alloc(a->m, a->n, r, &s);
    if (st != HN_OK) return st;
    double *q = numbers((size_t)r * (size_t)r, "eigenvectors");
    double *p = q != NULL ? numbers((size_t)r * (size_t)l, "vectors") : NULL;
    double *length = p != NULL ? numbers((size_t)r, "values") : NULL;
    int64_t *place = length != NULL ? hn_calloc((size_t)r, sizeof *place) : NULL;
    if (place == NULL)
        st = length != NULL ? HN_FAIL(HN_ERR_MEMORY, "spectrum: no memory") : HN_ERR_MEMORY;
    if (st == HN_OK) st = hn_spectrum_cuda_run(c, a, &s.energy, q, p);
    if (st == HN_OK) {
        for (int64_t i = 0; i < r; i++) {
            double sum = 0.0;
            for (int64_t j = 0; j < l; j++) sum += p[i * l + j] * p[i * l + j];
            length[i] = sqrt(sum);
        }
        sort_rows(length, r, place);
        for (int64_t i = 0; i < r; i++) s.s[i] = length[place[i]];
        count_rank(&s);
        place_vectors(q, p, length, place, &s);
        hn_spectrum_free(out);
        *out = s;
        s = (hn_spectrum){0};
    }
    hn_free(q);
    hn_free(p);
    hn_free(length);
    hn_free(place);
    hn_spectrum_free(&s);
    return st;
}

/* ---- one interface ---- */

hn_status hn_spectrum_open(hn_device *d, hn_spectrum_solver **out)
{
    HN_TRY(hn_check_pointer("spectrum", "device", d));
    hn_spectrum_solver *s = hn_calloc(1, sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a solver", sizeof *s);
    if (hn_device_kind_of(d) == HN_DEVICE_CUDA) {
        const hn_status st = hn_spectrum_cuda_open(d, &s->cuda);
        if (st != HN_OK) {
            hn_free(s);
            return st;
        }
    }
    *out = s;
    return HN_OK;
}

void hn_spectrum_close(hn_spectrum_solver *s)
{
    if (s == NULL) return;
    if (s->cuda != NULL) hn_spectrum_cuda_close(s->cuda);
    hn_free(s);
}

hn_status hn_spectrum_of(hn_spectrum_solver *s, const hn_spectrum_args *a, hn_spectrum *out)
{
    HN_TRY(check_args(a));
    return s->cuda != NULL ? run_cuda(s->cuda, a, out) : run_cpu(a, out);
}

/* ---- of a product ---- */

/* QR of x [rows, cols], columns first: q [rows, min] replaces it, r [min, cols] row by row. */
static hn_status factor(double *x, int64_t rows, int64_t cols, double *r)
{
    const blasint m = (blasint)rows, n = (blasint)cols, k = m < n ? m : n;
    blasint lwork = -1, info = 0;
    double size = 0, more = 0;
    double *tau = numbers((size_t)k, "LAPACK");
    if (tau == NULL) return HN_ERR_MEMORY;
    dgeqrf_(&m, &n, x, &m, tau, &size, &lwork, &info);
    if (info == 0) dorgqr_(&m, &k, &k, x, &m, tau, &more, &lwork, &info);
    lwork = (blasint)(size > more ? size : more);
    double *work = info == 0 ? numbers((size_t)lwork, "LAPACK") : NULL;
    if (info == 0 && work == NULL) {
        hn_free(tau);
        return HN_ERR_MEMORY;
    }
    if (info == 0) dgeqrf_(&m, &n, x, &m, tau, work, &lwork, &info);
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < n; j++) r[i * n + j] = j < i ? 0.0 : x[j * m + i];
    if (info == 0) dorgqr_(&m, &k, &k, x, &m, tau, work, &lwork, &info);
    hn_free(work);
    hn_free(tau);
    if (info == 0) return HN_OK;
    return HN_FAIL(HN_ERR_NUMERIC, "spectrum: QR of [%" PRId64 ", %" PRId64 "] returned %d", rows,
                   cols, (int)info);
}

/* B = Q_b R_b, A^T = Q_a R_a, core = R_b R_a^T = U' S V'^T; so U = Q_b U', V = Q_a V'. */
typedef struct {
    double *b, *a;     /* [m, k] and [n, k], columns first: the factors, then Q_b and Q_a */
    double *r_b, *r_a; /* [k_b, k], [k_a, k] */
    double *core, *u, *vt;
} product_memory;

static void product_free(product_memory *p)
{
    hn_free(p->b), hn_free(p->a), hn_free(p->r_b), hn_free(p->r_a);
    hn_free(p->core), hn_free(p->u), hn_free(p->vt);
}

static hn_status product_alloc(const hn_spectrum_product_args *a, int64_t k_b, int64_t k_a,
                               product_memory *p)
{
    const size_t m = (size_t)a->m, n = (size_t)a->n, k = (size_t)a->k;
    const size_t rows = (size_t)k_b, cols = (size_t)k_a, r = rows < cols ? rows : cols;
    const struct {
        double **at;
        size_t count;
    } parts[] = {{&p->b, m * k},      {&p->a, n * k},          {&p->r_b, rows * k},
                 {&p->r_a, cols * k}, {&p->core, rows * cols}, {&p->u, rows * r},
                 {&p->vt, r * cols}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if ((*parts[i].at = numbers(parts[i].count, "factors")) == NULL) return HN_ERR_MEMORY;
    return HN_OK;
}

static hn_status load_factors(const hn_spectrum_product_args *a, product_memory *p)
{
    double energy = 0.0; /* of the factors: finite where all of them are */
    for (int64_t j = 0; j < a->k; j++) {
        for (int64_t i = 0; i < a->m; i++) {
            const double v = p->b[j * a->m + i] = (double)a->b[i * a->ld_b + j];
            energy += v * v;
        }
        for (int64_t i = 0; i < a->n; i++) {
            const double v = p->a[j * a->n + i] = (double)a->a[j * a->ld_a + i];
            energy += v * v;
        }
    }
    return check_finite(energy);
}

static hn_status product_run(const hn_spectrum_product_args *a, int64_t k_b, int64_t k_a,
                             product_memory *p, hn_spectrum *s)
{
    const int m = (int)a->m, n = (int)a->n, k = (int)a->k, r = (int)s->r;
    HN_TRY(load_factors(a, p));
    HN_TRY(factor(p->b, a->m, a->k, p->r_b));
    HN_TRY(factor(p->a, a->n, a->k, p->r_a));
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)k_b, (int)k_a, k, 1.0, p->r_b, k,
                p->r_a, k, 0.0, p->core, (int)k_a);
    for (int64_t i = 0; i < k_b * k_a; i++) s->energy += p->core[i] * p->core[i];
    HN_TRY(decompose(p->core, k_b, k_a, s->s, p->u, p->vt));
    /* Q_b and Q_a lie columns first, so row-major they are Q^T */
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, m, r, (int)k_b, 1.0, p->b, m, p->u, r, 0.0,
                s->u, r);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, r, n, (int)k_a, 1.0, p->vt, (int)k_a,
                p->a, n, 0.0, s->vt, n);
    return HN_OK;
}

hn_status hn_spectrum_of_product(const hn_spectrum_product_args *a, hn_spectrum *out)
{
    HN_TRY(hn_check_matrix("spectrum of a product", "b", a->b, a->m, a->k, a->ld_b));
    HN_TRY(hn_check_matrix("spectrum of a product", "a", a->a, a->k, a->n, a->ld_a));
    if (a->k > MAX_R)
        return HN_FAIL(HN_ERR_SHAPE, "spectrum of a product: k is %" PRId64 ", at most %d", a->k,
                       MAX_R);
    const int64_t k_b = a->m < a->k ? a->m : a->k, k_a = a->n < a->k ? a->n : a->k;
    product_memory p = {0};
    hn_spectrum s = {0};
    hn_status st = spectrum_alloc(a->m, a->n, k_b < k_a ? k_b : k_a, &s);
    if (st == HN_OK) st = product_alloc(a, k_b, k_a, &p);
    if (st == HN_OK) {
        const int threads = one_thread_begin();
        st = product_run(a, k_b, k_a, &p, &s);
        one_thread_end(threads);
    }
    product_free(&p);
    if (st != HN_OK) {
        hn_spectrum_free(&s);
        return st;
    }
    count_rank(&s);
    hn_spectrum_free(out);
    *out = s;
    return HN_OK;
}
