/* FedRef: the reference over the last p aggregates, and the three corrections toward it. */
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/fed/server_impl.h"

/* Weight c of an aggregate: j-th oldest of p (from 1), number i of all (from 0). */
static double weight_of(const hn_fed_server_options *o, int64_t j, int64_t i)
{
    switch (o->weights) {
    case HN_FED_WEIGHTS_AGE: return (double)j;
    case HN_FED_WEIGHTS_SLOT: return (double)(i % o->p + 1);
    default: return 1;
    }
}

void hn_fed_ref_begin(hn_fed_pass *p)
{
    const hn_fed_server *s = p->s;
    const int64_t n = s->o.p, had = s->aggregates;
    const int64_t needed = s->o.method == HN_FED_FEDREF_V1 ? n + 1 : n;
    double old = 0, new = 0;
    p->correct = had >= needed;
    if (!p->correct) return;
    p->lambda1 = s->o.lambda1;
    p->lambda2 = hn_fed_server_lambda2(&s->o, s->open);
    for (int64_t j = 0; j < n; j++) {
        const int64_t i = had - n + j; /* number of the j-th oldest */
        p->old[j] = s->ring[i % n];
        p->c_old[j] = weight_of(&s->o, j + 1, i);
        p->c_new[j] = j == 0 ? 0 : weight_of(&s->o, j, i);
        old += p->c_old[j];
        new += p->c_new[j];
    }
    p->c_a = weight_of(&s->o, n, had);
    new += p->c_a;
    for (int64_t j = 0; j < n; j++) {
        p->c_old[j] /= old;
        p->c_new[j] /= new;
    }
    p->c_a /= new;
}

static void add_scaled(double *sum, double w, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) sum[i] += w * (double)x[i];
}

/* R_old of payload[first .. first + n), its models oldest first. */
static void reference_old(const hn_fed_pass *p, int64_t first, int64_t n, double *r)
{
    memset(r, 0, (size_t)n * sizeof *r);
    for (int64_t j = 0; j < p->s->o.p; j++) add_scaled(r, p->c_old[j], p->old[j] + first, n);
}

static void reference_new(const hn_fed_pass *p, int64_t first, int64_t n, double *r)
{
    memset(r, 0, (size_t)n * sizeof *r);
    for (int64_t j = 1; j < p->s->o.p; j++) add_scaled(r, p->c_new[j], p->old[j] + first, n);
    add_scaled(r, p->c_a, p->s->a + first, n);
}

void hn_fed_ref_v3(const hn_fed_pass *p, const hn_fed_chunk *c, const hn_fed_sums *sums)
{
    const hn_fed_server *s = p->s;
    const double l1 = p->lambda1, l2 = p->lambda2;
    const float *a = s->a + c->first;
    float *m = s->global + c->first;
    double r[HN_FED_CHUNK] = {0};
    if (p->correct) reference_old(p, c->first, c->n, r);
    for (int j = 0; j < c->n; j++) {
        const double prior = l1 * (double)m[j] + l2 * r[j];
        if (!s->o.fisher)
            m[j] = (float)(((double)a[j] + prior) / (1 + l1 + l2));
        else if (sums->fisher[j] + l1 + l2 > 0)
            m[j] = (float)((sums->fisher_theta[j] + prior) / (sums->fisher[j] + l1 + l2));
        else
            m[j] = a[j];
    }
}

void hn_fed_ref_v2(const hn_fed_pass *p, const hn_fed_chunk *c)
{
    const hn_fed_server *s = p->s;
    const float *a = s->a + c->first, *before = p->old[s->o.p - 1] + c->first;
    float *m = s->global + c->first;
    double old[HN_FED_CHUNK], new[HN_FED_CHUNK];
    reference_old(p, c->first, c->n, old);
    reference_new(p, c->first, c->n, new);
    for (int j = 0; j < c->n; j++) {
        const double step = p->lambda1 * ((double)a[j] - (double)before[j]) +
                            p->lambda2 * p->c_a * (new[j] - old[j]);
        m[j] = (float)((double)a[j] - 2 * s->o.rate * step);
    }
}

/* ---- V1: one number a tensor ---- */

static double aggregate_drift(const hn_fed_pass *p, const hn_fed_tensor *t)
{
    const float *a = p->s->a + t->first, *before = p->old[p->s->o.p - 1] + t->first;
    double sum = 0;
    for (int64_t i = 0; i < t->n; i++) {
        const double d = (double)a[i] - (double)before[i];
        sum += d * d;
    }
    return sqrt(sum);
}

/* |R_new,l - B(R_prev,l)|; old, new, column: scratch of t->n elements each. */
static double reference_drift(const hn_fed_pass *p, const hn_fed_tensor *t, double *old,
                              double *new, double *column)
{
    const bool bug = p->s->o.first_axis_bug && t->ndim > 0;
    const int64_t cols = bug ? t->n / t->dim[0] : t->n;
    double sum = 0;
    reference_old(p, t->first, t->n, old);
    reference_new(p, t->first, t->n, new);
    memset(column, 0, (size_t)cols * sizeof *column);
    for (int64_t i = 0; i < t->n; i++) column[i % cols] += old[i];
    for (int64_t i = 0; i < t->n; i++) {
        const double d = new[i] - column[i % cols];
        sum += d * d;
    }
    return sqrt(sum);
}

hn_status hn_fed_ref_v1(const hn_fed_pass *p)
{
    const hn_fed_server *s = p->s;
    const hn_fed_layout *l = s->l;
    double *scratch = hn_malloc((size_t)l->values * 3 * sizeof *scratch);
    if (scratch == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for references of fedref-v1");
        /* a tensor has one thread: the same bits on any number of them */
#pragma omp parallel for schedule(dynamic)
    for (int64_t k = 0; k < l->count; k++) {
        const hn_fed_tensor *t = &l->tensor[k];
        if (t->role != HN_FED_VALUE) continue;
        double *own = scratch + 3 * t->value;
        const double number = p->d_loss + p->lambda1 * aggregate_drift(p, t) +
                              p->lambda2 * reference_drift(p, t, own, own + t->n, own + 2 * t->n);
        for (int64_t i = t->first; i < t->first + t->n; i++)
            s->global[i] = (float)((double)s->a[i] - s->o.rate * number);
    }
    hn_free(scratch);
    return HN_OK;
}
