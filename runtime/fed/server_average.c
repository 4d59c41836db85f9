/* The aggregate a of one chunk: mean, median, trimmed mean; the sums of Fisher diagonals. */
#include <omp.h>
#include <string.h>

#include "runtime/base/multiversion.h"
#include "runtime/fed/server_impl.h"

/* sum += w x. The product of a number of samples below 2^29 and an fp32 is exact in fp64, so that
 * a fused multiply-add has the same bits. */
HN_MULTIVERSION static void add_scaled(double *sum, double w, const float *x, int n)
{
    for (int j = 0; j < n; j++) sum[j] += w * (double)x[j];
}

/* Adding 0 makes -0 to 0: methods whose correction is nothing then give a, bit for bit. */
static void round_once(const double *x, int n, float *out)
{
    for (int j = 0; j < n; j++) out[j] = (float)x[j] + 0.0f;
}

static void weighted_mean(const hn_fed_pass *p, const hn_fed_chunk *c, hn_fed_sums *sums)
{
    const hn_fed_server *s = p->s;
    memset(sums->mean, 0, (size_t)c->n * sizeof *sums->mean);
    for (int64_t k = 0; k < s->n_updates; k++)
        add_scaled(sums->mean, (double)s->update[k].samples, s->update[k].value + c->first, c->n);
    for (int j = 0; j < c->n; j++) sums->mean[j] /= p->samples;
    round_once(sums->mean, c->n, s->a + c->first);
}

static void largest(const hn_fed_pass *p, const hn_fed_chunk *c)
{
    const hn_fed_server *s = p->s;
    float *a = s->a + c->first;
    memcpy(a, s->update[0].value + c->first, (size_t)c->n * sizeof *a);
    for (int64_t k = 1; k < s->n_updates; k++) {
        const float *x = s->update[k].value + c->first;
        for (int j = 0; j < c->n; j++) a[j] = x[j] > a[j] ? x[j] : a[j];
    }
}

/* The smaller of each pair to low, the larger to high. */
HN_MULTIVERSION static void exchange(float *low, float *high, int n)
{
    for (int j = 0; j < n; j++) {
        const float x = low[j], y = high[j];
        low[j] = y < x ? y : x;
        high[j] = y < x ? x : y;
    }
}

/* Sorts the columns of v [rows, HN_FED_SORT] by odd-even transposition: rows (rows - 1) / 2
 * exchanges of neighbours without a branch, each of n elements at once. */
static void sort_columns(float *v, int64_t rows, int n)
{
    for (int64_t round = 0; round < rows; round++)
        for (int64_t r = round % 2; r + 1 < rows; r += 2)
            exchange(v + r * HN_FED_SORT, v + (r + 1) * HN_FED_SORT, n);
}

/* The mean of what is left of the sorted clients without `cut` at either end. */
static void sorted_mean(const hn_fed_pass *p, const hn_fed_chunk *c, int64_t cut, hn_fed_sums *sums)
{
    const hn_fed_server *s = p->s;
    const int64_t rows = s->n_updates;
    float *v = p->sorted + (int64_t)omp_get_thread_num() * rows * HN_FED_SORT;
    for (int first = 0; first < c->n; first += HN_FED_SORT) {
        const int n = c->n - first < HN_FED_SORT ? c->n - first : HN_FED_SORT;
        double *mean = sums->mean + first;
        for (int64_t k = 0; k < rows; k++)
            memcpy(v + k * HN_FED_SORT, s->update[k].value + c->first + first,
                   (size_t)n * sizeof *v);
        sort_columns(v, rows, n);
        memset(mean, 0, (size_t)n * sizeof *mean);
        for (int64_t k = cut; k < rows - cut; k++) add_scaled(mean, 1, v + k * HN_FED_SORT, n);
        for (int j = 0; j < n; j++) mean[j] /= (double)(rows - 2 * cut);
        round_once(mean, n, s->a + c->first + first);
    }
}

/* floor(trim rows), also where the product of a decimal like 0.29 falls just below its integer; at
 * least one is left. */
static int64_t trimmed(double trim, int64_t rows)
{
    const int64_t cut = (int64_t)(trim * (double)rows + 1e-9), most = (rows - 1) / 2;
    return cut < most ? cut : most;
}

void hn_fed_average(const hn_fed_pass *p, const hn_fed_chunk *c, hn_fed_sums *sums)
{
    const hn_fed_server *s = p->s;
    const int64_t k = s->n_updates;
    if (s->l->tensor[c->tensor].role == HN_FED_COUNTER)
        largest(p, c);
    else if (s->o.method == HN_FED_MEDIAN)
        sorted_mean(p, c, (k - 1) / 2, sums);
    else if (s->o.method == HN_FED_TRIMMED_MEAN)
        sorted_mean(p, c, trimmed(s->o.trim, k), sums);
    else
        weighted_mean(p, c, sums);
}

void hn_fed_average_fisher(const hn_fed_pass *p, const hn_fed_chunk *c, int64_t value,
                           hn_fed_sums *sums)
{
    const hn_fed_server *s = p->s;
    memset(sums->fisher, 0, (size_t)c->n * sizeof *sums->fisher);
    memset(sums->fisher_theta, 0, (size_t)c->n * sizeof *sums->fisher_theta);
    for (int64_t k = 0; k < s->n_updates; k++) {
        const double w = (double)s->update[k].samples;
        const float *x = s->update[k].value + c->first, *h = s->update[k].fisher + value;
        for (int j = 0; j < c->n; j++) {
            sums->fisher[j] += w * (double)h[j];
            sums->fisher_theta[j] += w * (double)h[j] * (double)x[j];
        }
    }
    for (int j = 0; j < c->n; j++) {
        sums->fisher[j] /= p->samples;
        sums->fisher_theta[j] /= p->samples;
    }
}
