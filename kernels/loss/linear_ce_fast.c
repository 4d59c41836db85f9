/* A chunk is `chunk_rows` trained rows, gathered where ignored rows lie between them (or where x
 * is bf16): logits by GEMM, softmax row by row in place of the logits, then dw and dx by GEMM.
 * A bf16 w goes by in blocks of W_BLOCK rows, converted once for the logits and once for dx, so
 * that scratch does not hold a second, fp32 head. */
#include <math.h>

#include "kernels/linear/gemm.h"
#include "kernels/loss/linear_ce.h"
#include "runtime/base/check.h"
#include "runtime/base/convert.h"
#include "runtime/base/multiversion.h"
#include "runtime/base/vecmath.h"

enum { W_BLOCK = 4096, LOGITS = 1 << 22 };

/* Pieces of the scratch; NULL where not needed. */
typedef struct {
    float *logits;  /* [chunk_rows, vocab], then dt */
    float *x;       /* [chunk_rows, dim] gathered */
    float *dx;      /* [chunk_rows, dim] before it is spread over the rows */
    float *w;       /* [W_BLOCK, dim] */
    double *loss;   /* [chunk_rows] */
    int32_t *row;   /* [chunk_rows] where the chunk's rows lie in x */
    size_t n_bytes; /* of all */
} work;

static int64_t chunk_rows_of(const hn_linear_ce_args *a)
{
    int64_t rows = a->chunk_rows;
    if (rows == 0) rows = LOGITS / a->vocab < 64 ? 64 : LOGITS / a->vocab;
    return rows < a->rows ? rows : a->rows;
}

static void *take(work *w, char *base, bool needed, int64_t n, size_t size)
{
    if (!needed) return NULL;
    void *const p = base ? base + w->n_bytes : NULL;
    w->n_bytes += ((size_t)n * size + 63) / 64 * 64;
    return p;
}

static work work_of(const hn_linear_ce_args *a, void *scratch)
{
    const int64_t rows = chunk_rows_of(a), block = a->vocab < W_BLOCK ? a->vocab : W_BLOCK;
    work w = {0};
    w.logits = take(&w, scratch, true, rows * a->vocab, sizeof(float));
    w.x = take(&w, scratch, true, rows * a->dim, sizeof(float));
    w.dx = take(&w, scratch, a->ld_dx > 0, rows * a->dim, sizeof(float));
    w.w = take(&w, scratch, a->dtype != HN_F32, block * a->dim, sizeof(float));
    w.loss = take(&w, scratch, true, rows, sizeof(double));
    w.row = take(&w, scratch, true, rows, sizeof(int32_t));
    return w;
}

size_t hn_linear_ce_fast_scratch(const hn_linear_ce_args *a) { return work_of(a, NULL).n_bytes; }

/* Rows row[0..n), or first .. first + n, of x as f32 without gaps. */
static void rows_to_f32(const void *x, hn_dtype t, const int32_t *row, int64_t first, int64_t n,
                        int64_t cols, int64_t ld, float *y)
{
#pragma omp parallel for schedule(static) if (n * cols > HN_OMP_MIN)
    for (int64_t i = 0; i < n; i++)
        hn_to_f32(x, t, (row ? row[i] : first + i) * ld, cols, y + i * cols);
}

/* Logits of one row become dt; the loss of the row. */
HN_MULTIVERSION static double softmax_row(float *restrict z, int64_t vocab, int64_t label,
                                          float softcap)
{
    if (softcap > 0.0f)
        for (int64_t n = 0; n < vocab; n++) z[n] = softcap * tanhf(z[n] / softcap);
    float most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (int64_t n = 0; n < vocab; n++) most = z[n] > most ? z[n] : most;
    const float target = z[label];
    float sum = 0.0f;
    if (softcap > 0.0f) { /* z is needed for the factor of the cap */
        for (int64_t n = 0; n < vocab; n++) sum += hn_expf(z[n] - most);
        for (int64_t n = 0; n < vocab; n++) {
            const float u = z[n] / softcap, p = hn_expf(z[n] - most) / sum;
            z[n] = (p - (n == label ? 1.0f : 0.0f)) * (1.0f - u * u);
        }
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t n = 0; n < vocab; n++) {
            z[n] = hn_expf(z[n] - most);
            sum += z[n];
        }
        const float scale = 1.0f / sum;
        for (int64_t n = 0; n < vocab; n++) z[n] *= scale;
        z[label] -= 1.0f;
    }
    return (double)most - (double)target + log((double)sum);
}

/* One GEMM with w: logits = x w^T, or dx = dt w; in blocks of w's rows where it is bf16. */
static void product_with_w(const hn_linear_ce_args *a, const work *w, hn_operand x, int64_t rows,
                           bool dx)
{
    const int64_t block = a->dtype == HN_F32 ? a->vocab : W_BLOCK;
    for (int64_t n = 0; n < a->vocab; n += block) {
        const int64_t m = a->vocab - n < block ? a->vocab - n : block;
        hn_operand part = {.p = a->w, .ld = a->ld_w};
        if (a->dtype != HN_F32) {
            rows_to_f32(a->w, a->dtype, NULL, n, m, a->dim, a->ld_w, w->w);
            part = (hn_operand){.p = w->w, .ld = a->dim};
        }
        if (dx)
            hn_gemm(&(hn_gemm_args){.a = {.p = w->logits + n, .ld = a->vocab},
                                    .b = part,
                                    .c = {.p = w->dx, .ld = a->dim},
                                    .batch = 1,
                                    .m = rows,
                                    .n = a->dim,
                                    .k = m,
                                    .alpha = 1.0f,
                                    .beta = n > 0 ? 1.0f : 0.0f});
        else
            hn_gemm(&(hn_gemm_args){.a = x,
                                    .b = part,
                                    .c = {.p = w->logits + n, .ld = a->vocab},
                                    .batch = 1,
                                    .m = rows,
                                    .n = m,
                                    .k = a->dim,
                                    .trans_b = true,
                                    .alpha = 1.0f});
    }
}

/* The next trained rows from *next on: how many; *next moves behind the last one looked at. */
static int64_t gather(const hn_linear_ce_args *a, const work *w, int64_t limit, int64_t *next)
{
    int64_t n = 0;
    for (; *next < a->rows && n < limit; ++*next)
        if (a->labels[*next] != HN_LABEL_IGNORED) w->row[n++] = (int32_t)*next;
    return n;
}

static void run_chunk(const hn_linear_ce_args *a, const work *w, int64_t n)
{
    hn_operand x = {.p = w->x, .ld = a->dim};
    if (a->dtype == HN_F32 && w->row[n - 1] - w->row[0] == n - 1) /* they lie side by side */
        x = (hn_operand){.p = (const float *)a->x + w->row[0] * a->ld_x, .ld = a->ld_x};
    else
        rows_to_f32(a->x, a->dtype, w->row, 0, n, a->dim, a->ld_x, w->x);
    product_with_w(a, w, x, n, false);
#pragma omp parallel for schedule(static) if (n * a->vocab > HN_OMP_MIN)
    for (int64_t i = 0; i < n; i++)
        w->loss[i] =
            softmax_row(w->logits + i * a->vocab, a->vocab, a->labels[w->row[i]], a->softcap);
    if (a->dw)
        hn_gemm(&(hn_gemm_args){.a = {.p = w->logits, .ld = a->vocab},
                                .b = x,
                                .c = {.p = a->dw, .ld = a->ld_dw},
                                .batch = 1,
                                .m = a->vocab,
                                .n = a->dim,
                                .k = n,
                                .trans_a = true,
                                .alpha = 1.0f,
                                .beta = 1.0f});
    if (a->dx == NULL) return;
    product_with_w(a, w, x, n, true);
#pragma omp parallel for schedule(static) if (n * a->dim > HN_OMP_MIN)
    for (int64_t i = 0; i < n; i++)
        hn_from_f32(w->dx + i * a->dim, a->dim, a->dx, a->dtype, w->row[i] * a->ld_dx);
}

/* Rows that no chunk holds. */
static void clear_ignored(const hn_linear_ce_args *a)
{
    for (int64_t i = 0; i < a->rows; i++) {
        if (a->labels[i] != HN_LABEL_IGNORED) continue;
        if (a->row_loss) a->row_loss[i] = 0.0f;
        for (int64_t k = 0; a->dx && k < a->dim; k++)
            hn_set_f32(a->dx, a->dtype, i * a->ld_dx + k, 0.0f);
    }
}

hn_status hn_linear_ce_fast(const hn_linear_ce_args *a, void *scratch)
{
    HN_TRY(hn_linear_ce_check(a));
    HN_TRY(hn_linear_ce_check_labels(a));
    HN_TRY(hn_check_pointer("linear_ce", "scratch", scratch));
    const work w = work_of(a, scratch);
    const int64_t limit = chunk_rows_of(a);
    double loss_sum = 0.0;
    int64_t trained = 0, next = 0;
    clear_ignored(a);
    for (int64_t n; (n = gather(a, &w, limit, &next)) > 0; trained += n) {
        run_chunk(a, &w, n);
        for (int64_t i = 0; i < n; i++) {
            loss_sum += w.loss[i];
            if (a->row_loss) a->row_loss[w.row[i]] = (float)w.loss[i];
        }
    }
    if (a->loss_sum) *a->loss_sum = (float)((double)*a->loss_sum + loss_sum);
    if (a->count) *a->count += (float)trained;
    return HN_OK;
}
