#include "runtime/train/few_shot_head.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/label.h"

typedef struct {
    const hn_few_shot_head *h;
    int64_t cols;     /* width + 1: a row of w, and its b */
    float *u;         /* [support + queries, cols], the last column 1 */
    float *w, *m, *v; /* [ways, cols] */
    double *grad;     /* [ways, cols] */
    double *z;        /* [ways] */
    int64_t *rows_of; /* [ways] support rows; 0: no candidate */
    int64_t rows;     /* support rows that are no padding */
} head;

static double norm_of(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t k = 0; k < n; k++) sum += (double)x[k] * (double)x[k];
    return fmax(sqrt(sum), 1e-8);
}

static hn_status count_rows(head *d)
{
    for (int64_t i = 0; i < d->h->support; i++) {
        const int32_t y = d->h->label[i];
        if (y == HN_LABEL_IGNORED) continue;
        if (y < 0 || y >= d->h->ways)
            return HN_FAIL(HN_ERR_ARG, "support row %" PRId64 ": label %" PRId32, i, y);
        d->rows_of[y]++;
        d->rows++;
    }
    return d->rows > 0 ? HN_OK : HN_FAIL(HN_ERR_ARG, "an episode without support");
}

static void set_inputs(head *d)
{
    const int64_t n = d->h->support + d->h->queries, width = d->h->width;
    for (int64_t i = 0; i < n; i++) {
        const float *const x = d->h->feature + i * width;
        const double norm = norm_of(x, width);
        float *const u = d->u + i * d->cols;
        for (int64_t k = 0; k < width; k++) u[k] = (float)((double)x[k] / norm);
        u[width] = 1;
    }
}

/* The directions of the means of features, which are not of length 1. */
static void set_weights(head *d)
{
    const int64_t width = d->h->width;
    for (int64_t c = 0; c < d->h->ways; c++) {
        float *const w = d->w + c * d->cols;
        if (d->rows_of[c] == 0) continue;
        for (int64_t i = 0; i < d->h->support; i++)
            if (d->h->label[i] == c)
                for (int64_t k = 0; k < width; k++)
                    w[k] += d->h->feature[i * width + k] / (float)d->rows_of[c];
        const double norm = norm_of(w, width);
        for (int64_t k = 0; k < width; k++) w[k] = (float)((double)(d->h->scale * w[k]) / norm);
        w[width] = d->h->scale * d->h->offset;
    }
}

static void logits(const head *d, int64_t row)
{
    const float *const u = d->u + row * d->cols;
    for (int64_t c = 0; c < d->h->ways; c++) {
        double sum = 0;
        for (int64_t k = 0; k < d->cols && d->rows_of[c] > 0; k++)
            sum += (double)d->w[c * d->cols + k] * (double)u[k];
        d->z[c] = d->rows_of[c] > 0 ? sum : -INFINITY;
    }
}

/* The mean loss, and its gradient. */
static double pass(head *d)
{
    double loss = 0;
    memset(d->grad, 0, (size_t)(d->h->ways * d->cols) * sizeof *d->grad);
    for (int64_t i = 0; i < d->h->support; i++) {
        const int32_t y = d->h->label[i];
        double top = -INFINITY, sum = 0;
        if (y == HN_LABEL_IGNORED) continue;
        logits(d, i);
        for (int64_t c = 0; c < d->h->ways; c++) top = fmax(top, d->z[c]);
        for (int64_t c = 0; c < d->h->ways; c++) sum += exp(d->z[c] - top);
        loss += log(sum) + top - d->z[y];
        for (int64_t c = 0; c < d->h->ways; c++) {
            if (d->rows_of[c] == 0) continue;
            const double g = (exp(d->z[c] - top) / sum - (c == y)) / (double)d->rows;
            for (int64_t k = 0; k < d->cols; k++)
                d->grad[c * d->cols + k] += g * (double)d->u[i * d->cols + k];
        }
    }
    return loss / (double)d->rows;
}

static void adam(head *d, int64_t step)
{
    const double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
    const double c1 = 1 - pow(beta1, (double)step), c2 = 1 - pow(beta2, (double)step);
    for (int64_t i = 0; i < d->h->ways * d->cols; i++) {
        const double g = d->grad[i];
        d->m[i] = (float)(beta1 * (double)d->m[i] + (1 - beta1) * g);
        d->v[i] = (float)(beta2 * (double)d->v[i] + (1 - beta2) * g * g);
        d->w[i] -= (float)(d->h->lr * ((double)d->m[i] / c1) / (sqrt((double)d->v[i] / c2) + eps));
    }
}

static void predict(const head *d, int64_t query, int32_t *out)
{
    *out = -1;
    logits(d, d->h->support + query);
    for (int64_t c = 0; c < d->h->ways; c++)
        if (d->rows_of[c] > 0 && (*out < 0 ? !isnan(d->z[c]) : d->z[c] > d->z[*out]))
            *out = (int32_t)c;
}

hn_status hn_few_shot_head_tune(hn_few_shot_head *h)
{
    head d = {.h = h, .cols = h->width + 1};
    const size_t rows = (size_t)(h->support + h->queries), n = (size_t)(h->ways * d.cols);
    hn_status st = HN_OK;
    d.u = hn_calloc(rows * (size_t)d.cols, sizeof *d.u);
    d.w = hn_calloc(3 * n, sizeof *d.w);
    d.grad = hn_calloc(n, sizeof *d.grad);
    d.z = hn_calloc((size_t)h->ways, sizeof *d.z);
    d.rows_of = hn_calloc((size_t)h->ways, sizeof *d.rows_of);
    if (!d.u || !d.w || !d.grad || !d.z || !d.rows_of)
        HN_TRY_GOTO(st, HN_FAIL(HN_ERR_MEMORY, "no memory for a head of %zu values", n), done);
    d.m = d.w + n;
    d.v = d.m + n;
    HN_TRY_GOTO(st, count_rows(&d), done);
    set_inputs(&d);
    set_weights(&d);
    for (int64_t k = 0; k <= h->steps; k++) {
        const double loss = pass(&d);
        if (k == 0) h->loss_first = loss;
        h->loss_last = loss;
        if (k < h->steps) adam(&d, k + 1);
    }
    for (int64_t q = 0; q < h->queries; q++) predict(&d, q, &h->prediction[q]);

done:
    hn_free(d.u);
    hn_free(d.w);
    hn_free(d.grad);
    hn_free(d.z);
    hn_free(d.rows_of);
    return st;
}
