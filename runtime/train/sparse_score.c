#include "runtime/train/sparse_score.h"

#include <cblas.h>
#include <inttypes.h>
#include <math.h>
#include <omp.h>

#include "kernels/linear/gemm.h"
#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/train/sparse_order.h"

/* Fortran: every argument by address. */
void sgeqrf_(const blasint *m, const blasint *n, float *a, const blasint *lda, float *tau,
             float *work, const blasint *lwork, blasint *info);
void sorgqr_(const blasint *m, const blasint *n, const blasint *k, float *a, const blasint *lda,
             const float *tau, float *work, const blasint *lwork, blasint *info);

enum { MORE_COLUMNS = 16, POWER_ITERATIONS = 2, STRIP = 256 };

static const double prior_floor = 1e-3;

/* ---- values block after block ---- */

void hn_score_mean_abs(const float *v, int64_t n, int64_t size, float *f)
{
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n; b++) {
        double sum = 0;
        for (int64_t i = 0; i < size; i++) sum += fabs((double)v[b * size + i]);
        f[b] = (float)(sum / (double)size);
    }
}

void hn_score_norm(const float *v, int64_t n, int64_t size, float *f)
{
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n; b++) {
        double sum = 0;
        for (int64_t i = 0; i < size; i++) sum += (double)v[b * size + i] * (double)v[b * size + i];
        f[b] = (float)sqrt(sum);
    }
}

void hn_score_product(const float *v, const float *u, int64_t n, int64_t size, float *f)
{
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n; b++) {
        double sum = 0;
        for (int64_t i = 0; i < size; i++)
            sum += fabs((double)v[b * size + i] * (double)u[b * size + i]);
        f[b] = (float)(sum / (double)size);
    }
}

void hn_score_prior(const float *prior, int64_t n, double mean, double gamma, float *score)
{
    for (int64_t i = 0; i < n; i++)
        score[i] = (float)((double)score[i] *
                           pow(prior_floor + (mean > 0 ? (double)prior[i] / mean : 0), gamma));
}

/* ---- whole matrices ---- */

static hn_status check_shape(const hn_select_matrix *m)
{
    return hn_block_shape_check(m->name, m->shape, m->out, m->in);
}

/* f of the blocks in `rows` rows of w (and g; NULL: w alone), whole blocks. */
static void mean_of_blocks(hn_block_shape s, int64_t in, int64_t rows, const float *w,
                           const float *g, float *f)
{
    const int64_t across = in / s.bc, n = rows / s.br * across;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < n; b++) {
        const int64_t first = b / across * s.br * in + b % across * s.bc;
        double sum = 0;
        for (int64_t r = 0; r < s.br; r++)
            for (int64_t c = 0; c < s.bc; c++) {
                const int64_t i = first + r * in + c;
                sum += fabs(g ? (double)w[i] * (double)g[i] : (double)w[i]);
            }
        f[b] = (float)(sum / (double)hn_block_values(s));
    }
}

hn_status hn_score_magnitude(const hn_select_matrix *m, const float *w, float *f)
{
    HN_TRY(check_shape(m));
    mean_of_blocks(m->shape, m->in, m->out, w, NULL, f);
    return HN_OK;
}

hn_status hn_score_snip(const hn_select_matrix *m, const float *w, const float *g, float *f)
{
    HN_TRY(check_shape(m));
    mean_of_blocks(m->shape, m->in, m->out, w, g, f);
    return HN_OK;
}

static void fill_random(const char *name, uint64_t seed, int64_t n, float *f)
{
    const hn_rng rng = hn_rng_make(seed, 0, hn_hash_name(name));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < (n + 3) / 4; i++) {
        uint32_t word[4];
        hn_rng_block(rng, 0, (uint32_t)i, word);
        for (int64_t k = 4 * i; k < 4 * i + 4 && k < n; k++) f[k] = hn_rng_unit(word[k % 4]);
    }
}

hn_status hn_score_random(const hn_select_matrix *m, uint64_t seed, float *f)
{
    HN_TRY(check_shape(m));
    fill_random(m->name, seed, hn_block_total(m->shape, m->out, m->in), f);
    return HN_OK;
}

hn_status hn_score_diagonal(const hn_select_matrix *m, int64_t parts, float *f)
{
    HN_TRY(check_shape(m));
    const int64_t down = m->out / m->shape.br, across = m->in / m->shape.bc;
    if (parts < 1 || down % parts != 0 || across % parts != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %" PRId64 " x %" PRId64 " blocks have no diagonal of %" PRId64
                       " equal parts",
                       m->name, down, across, parts);
    for (int64_t r = 0; r < down && f != NULL; r++)
        for (int64_t c = 0; c < across; c++)
            f[r * across + c] = r / (down / parts) == c / (across / parts) ? 1.0f : 0.0f;
    return HN_OK;
}

hn_status hn_score_top(const float *f, int64_t n, int64_t k, int32_t *id, float *score)
{
    if (n < 0 || n > INT32_MAX || k < 0 || k > n)
        return HN_FAIL(HN_ERR_ARG, "the %" PRId64 " best of %" PRId64 " blocks", k, n);
    uint8_t *mark = hn_calloc((size_t)n, sizeof *mark);
    if (mark == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " blocks", n);
    hn_mark_largest(f, n, k, 1, mark);
    for (int64_t i = 0, at = 0; i < n; i++)
        if (mark[i]) {
            id[at] = (int32_t)i;
            score[at++] = f[i];
        }
    hn_free(mark);
    return HN_OK;
}

/* ---- LIFT ---- */

static void product(const float *a, bool trans_a, int64_t ld_a, const float *b, bool trans_b,
                    int64_t ld_b, int64_t m, int64_t n, int64_t k, float *c)
{
    hn_gemm(&(hn_gemm_args){.a = {.p = a, .ld = ld_a},
                            .b = {.p = b, .ld = ld_b},
                            .c = {.p = c, .ld = n},
                            .batch = 1,
                            .m = m,
                            .n = n,
                            .k = k,
                            .trans_a = trans_a,
                            .trans_b = trans_b,
                            .alpha = 1});
}

/* W_r = left right: left [out, rank] has the singular values. */
typedef struct {
    float *left, *right;
    float *sketch, *image; /* [columns, in], [columns, out] of the range finder */
} lift;

static void lift_free(lift *l)
{
    hn_free(l->left);
    hn_free(l->right);
    hn_free(l->sketch);
    hn_free(l->image);
}

/* Makes the k rows of y [k, n] orthonormal, k <= n: columns of a Fortran matrix. One thread, as the
 * sums of OpenBLAS change with their number. */
static hn_status orthonormal_rows(const char *name, float *y, int64_t k, int64_t n)
{
    const blasint rows = (blasint)n, cols = (blasint)k, room = 64 * cols;
    blasint info = 0;
    float *tau = hn_malloc((size_t)(cols + room) * sizeof *tau);
    if (tau == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: no memory for its range", name);
    const int threads = omp_get_max_threads();
    hn_blas_one_thread();
    omp_set_num_threads(1);
    sgeqrf_(&rows, &cols, y, &rows, tau, tau + cols, &room, &info);
    if (info == 0) sorgqr_(&rows, &cols, &cols, y, &rows, tau, tau + cols, &room, &info);
    omp_set_num_threads(threads);
    hn_free(tau);
    return info == 0 ? HN_OK : HN_FAIL(HN_ERR_NUMERIC, "%s: LAPACK returned %d", name, (int)info);
}

/* The rank leading directions; u is [rows, r] of s. */
static void take_leading(const hn_spectrum *s, int64_t rank, float *us, float *right)
{
    for (int64_t i = 0; i < s->m; i++)
        for (int64_t j = 0; j < rank; j++) us[i * rank + j] = (float)(s->u[i * s->r + j] * s->s[j]);
    for (int64_t i = 0; i < rank * s->n; i++) right[i] = (float)s->vt[i];
}

static hn_status run_exact(const hn_select_matrix *m, const hn_lift_args *a, lift *l)
{
    hn_spectrum s = {0};
    const hn_spectrum_args args = {.delta = a->w, .m = m->out, .n = m->in, .ld = m->in};
    HN_TRY(hn_spectrum_of(a->exact, &args, &s));
    take_leading(&s, a->rank, l->left, l->right);
    hn_spectrum_free(&s);
    return HN_OK;
}

/* q [k, out]: orthonormal rows that span nearly all of the k leading left directions. */
static hn_status find_range(const hn_select_matrix *m, const hn_lift_args *a, int64_t k, lift *l)
{
    const hn_rng rng = hn_rng_make(a->seed, 0, hn_hash_name(m->name));
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < m->in; j++) /* random signs */
            l->sketch[i * m->in + j] =
                hn_rng_u32(rng, (uint64_t)i, (uint32_t)j) >> 31 ? 1.0f : -1.0f;
    for (int pass = 0;; pass++) {
        product(l->sketch, false, m->in, a->w, true, m->in, k, m->out, m->in, l->image);
        HN_TRY(orthonormal_rows(m->name, l->image, k, m->out));
        product(l->image, false, m->out, a->w, false, m->in, k, m->in, m->out, l->sketch);
        if (pass == POWER_ITERATIONS) return HN_OK; /* sketch: Q^T W */
        HN_TRY(orthonormal_rows(m->name, l->sketch, k, m->in));
    }
}

static hn_status run_sketch(const hn_select_matrix *m, const hn_lift_args *a, int64_t k, lift *l)
{
    hn_device *d = NULL;
    hn_spectrum_solver *solver = NULL;
    hn_spectrum s = {0};
    float *us = hn_malloc((size_t)(k * a->rank) * sizeof *us);
    hn_status st = us ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%s: no memory for its range", m->name);
    if (st == HN_OK) st = find_range(m, a, k, l);
    if (st == HN_OK) st = hn_device_open("cpu", &d);
    if (st == HN_OK) st = hn_spectrum_open(d, &solver);
    const hn_spectrum_args args = {.delta = l->sketch, .m = k, .n = m->in, .ld = m->in};
    if (st == HN_OK) st = hn_spectrum_of(solver, &args, &s);
    if (st == HN_OK) {
        take_leading(&s, a->rank, us, l->right);
        product(l->image, true, m->out, us, false, a->rank, m->out, a->rank, k, l->left);
    }
    hn_spectrum_free(&s);
    hn_spectrum_close(solver);
    hn_device_close(d);
    hn_free(us);
    return st;
}

/* W_r a strip of rows at a time: at least one row of blocks. */
static hn_status score_strips(const hn_select_matrix *m, int64_t rank, const lift *l, float *f)
{
    const int64_t br = m->shape.br, strip = br >= STRIP ? br : STRIP / br * br;
    float *w = hn_malloc((size_t)(strip * m->in) * sizeof *w);
    if (w == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: no memory for a strip", m->name);
    for (int64_t row = 0; row < m->out; row += strip) {
        const int64_t rows = m->out - row < strip ? m->out - row : strip;
        product(l->left + row * rank, false, rank, l->right, false, m->in, rows, m->in, rank, w);
        mean_of_blocks(m->shape, m->in, rows, w, NULL, f + row / br * (m->in / m->shape.bc));
    }
    hn_free(w);
    return HN_OK;
}

hn_status hn_score_lift(const hn_select_matrix *m, const hn_lift_args *a, float *f)
{
    HN_TRY(check_shape(m));
    const int64_t least = m->out < m->in ? m->out : m->in;
    if (a->rank < 1 || a->rank > least)
        return HN_FAIL(HN_ERR_ARG, "%s: rank %" PRId64 " of [%" PRId64 ", %" PRId64 "]", m->name,
                       a->rank, m->out, m->in);
    int64_t k = a->exact ? 0 : a->rank + MORE_COLUMNS;
    if (k > least) k = least;
    lift l = {.left = hn_malloc((size_t)(m->out * a->rank) * sizeof *l.left),
              .right = hn_malloc((size_t)(a->rank * m->in) * sizeof *l.right),
              .sketch = hn_malloc((size_t)(k * m->in) * sizeof *l.sketch),
              .image = hn_malloc((size_t)(k * m->out) * sizeof *l.image)};
    hn_status st = HN_OK;
    if (!l.left || !l.right || !l.sketch || !l.image)
        st = HN_FAIL(HN_ERR_MEMORY, "%s: no memory for rank %" PRId64, m->name, a->rank);
    if (st == HN_OK) st = a->exact ? run_exact(m, a, &l) : run_sketch(m, a, k, &l);
    if (st == HN_OK) st = score_strips(m, a->rank, &l, f);
    lift_free(&l);
    return st;
}

/* ---- coupled rows and columns ---- */

static bool is_row(const hn_select_matrix *m) { return m->shape.br == 1 && m->shape.bc == m->in; }

static int64_t lines_of(const hn_select_matrix *m) { return is_row(m) ? m->out : m->in; }

static hn_status check_member(const char *set, int64_t units, const hn_coupled *c,
                              const hn_coupled *first)
{
    const hn_select_matrix *m = c->matrix;
    HN_TRY(check_shape(m));
    if (!is_row(m) && !(m->shape.br == m->out && m->shape.bc == 1))
        return HN_FAIL(HN_ERR_SHAPE, "%s: the blocks of %s are neither rows nor columns", set,
                       m->name);
    if (units < 1 || lines_of(m) % units != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " %s of %s are not %" PRId64 " equal units",
                       set, lines_of(m), is_row(m) ? "rows" : "columns", m->name, units);
    if ((c->w == NULL) != (first->w == NULL))
        return HN_FAIL(HN_ERR_ARG, "%s: only some of the coupled matrices have weights", set);
    return HN_OK;
}

/* sum[u] += mean |w| of the unit. line: room for lines_of values */
static hn_status add_member(const hn_coupled *c, int64_t units, double *sum)
{
    const int64_t lines = lines_of(c->matrix), width = lines / units;
    float *line = hn_malloc((size_t)lines * sizeof *line);
    if (line == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: no memory", c->matrix->name);
    const hn_status st = hn_score_magnitude(c->matrix, c->w, line);
    for (int64_t i = 0; st == HN_OK && i < lines; i++)
        sum[i / width] += (double)line[i] / (double)width;
    hn_free(line);
    return st;
}

hn_status hn_coupled_choose(const char *set, int64_t units, uint64_t seed,
                            const hn_coupled *members, int64_t n, int64_t k, int32_t *const *ids)
{
    if (n < 1 || k < 0 || k > units)
        return HN_FAIL(HN_ERR_ARG, "%s: %" PRId64 " of %" PRId64 " units in %" PRId64 " matrices",
                       set, k, units, n);
    for (int64_t i = 0; i < n; i++) HN_TRY(check_member(set, units, &members[i], &members[0]));
    hn_status st = HN_OK;
    double *sum = hn_calloc((size_t)units, sizeof *sum);
    float *score = hn_malloc((size_t)units * sizeof *score);
    uint8_t *mark = hn_calloc((size_t)units, sizeof *mark);
    if (sum == NULL || score == NULL || mark == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "%s: no memory for %" PRId64 " units", set, units);
        goto done;
    }
    if (members[0].w == NULL) {
        fill_random(set, seed, units, score);
    } else {
        for (int64_t i = 0; i < n; i++) HN_TRY_GOTO(st, add_member(&members[i], units, sum), done);
        for (int64_t u = 0; u < units; u++) score[u] = (float)sum[u];
    }
    hn_mark_largest(score, units, k, 1, mark);
    for (int64_t i = 0; i < n; i++) {
        const int64_t width = lines_of(members[i].matrix) / units;
        int64_t at = 0;
        for (int64_t line = 0; line < units * width; line++)
            if (mark[line / width]) ids[i][at++] = (int32_t)line;
    }

done:
    hn_free(sum);
    hn_free(score);
    hn_free(mark);
    return st;
}
