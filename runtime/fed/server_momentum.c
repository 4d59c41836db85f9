/* FedAvgM, FedAdagrad, FedAdam and FedYogi: a step along d = a - m that remembers earlier ones. */
#include <math.h>

#include "runtime/fed/server_impl.h"

void hn_fed_momentum(const hn_fed_pass *p, const hn_fed_chunk *c)
{
    const hn_fed_server *s = p->s;
    const double beta = s->o.beta1, rate = s->o.rate;
    const float *a = s->a + c->first;
    float *m = s->global + c->first, *v = s->state[0] + c->first;
    for (int j = 0; j < c->n; j++) {
        const double now = beta * (double)v[j] + ((double)m[j] - (double)a[j]);
        v[j] = (float)now;
        m[j] = (float)((double)m[j] - rate * now);
    }
}

/* The mean of squares after one more. */
static double second_moment(const hn_fed_server_options *o, double w, double square)
{
    if (o->method == HN_FED_FEDADAGRAD) return w + square;
    if (o->method == HN_FED_FEDADAM) return o->beta2 * w + (1 - o->beta2) * square;
    const double sign = w > square ? 1 : w < square ? -1 : 0;
    return w - (1 - o->beta2) * square * sign;
}

void hn_fed_adaptive(const hn_fed_pass *p, const hn_fed_chunk *c)
{
    const hn_fed_server *s = p->s;
    const hn_fed_server_options *o = &s->o;
    const float *a = s->a + c->first;
    float *m = s->global + c->first, *u = s->state[0] + c->first, *w = s->state[1] + c->first;
    for (int j = 0; j < c->n; j++) {
        const double d = (double)a[j] - (double)m[j];
        const double mean = o->beta1 * (double)u[j] + (1 - o->beta1) * d;
        const double square = second_moment(o, (double)w[j], d * d);
        u[j] = (float)mean;
        w[j] = (float)square;
        m[j] = (float)((double)m[j] + o->rate * mean / (sqrt(square) + o->tau));
    }
}
