/* From the weights of a probe to the ranks of a task and the pairs that begin its training. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/pearl_impl.h"

/* Spectra of all layers; `memory` is the device's, for one Delta. */
typedef struct {
    hn_pearl *r;
    hn_spectrum_solver *solver;
    void *memory;
    float *delta;
    hn_spectrum *spectrum; /* [layers] */
} spectra;

static int64_t largest_layer(const hn_pearl *r)
{
    int64_t most = 1;
    for (int64_t i = 0; i < r->n_layers; i++)
        if (r->layer[i].m * r->layer[i].n > most) most = r->layer[i].m * r->layer[i].n;
    return most;
}

static void spectra_close(spectra *s)
{
    for (int64_t i = 0; s->spectrum && i < s->r->n_layers; i++) hn_spectrum_free(&s->spectrum[i]);
    hn_free(s->spectrum);
    hn_free(s->delta);
    if (s->memory) hn_device_release(s->r->device, s->memory);
    hn_spectrum_close(s->solver);
}

static hn_status spectra_open(hn_pearl *r, spectra *s)
{
    const size_t bytes = (size_t)largest_layer(r) * sizeof(float);
    *s = (spectra){.r = r,
                   .delta = hn_malloc(bytes),
                   .spectrum = hn_calloc((size_t)r->n_layers, sizeof *s->spectrum)};
    if (s->delta == NULL || s->spectrum == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for the displacement of a layer", bytes);
    HN_TRY(hn_spectrum_open(r->device, &s->solver));
    if (hn_device_kind_of(r->device) == HN_DEVICE_CPU) return HN_OK;
    return hn_device_alloc(r->device, bytes, &s->memory);
}

static hn_status spectrum_of(spectra *s, int64_t layer, const float *base, const float *weights)
{
    const hn_pearl_layer *l = &s->r->layer[layer];
    const int64_t n = l->m * l->n;
    for (int64_t i = 0; i < n; i++) s->delta[i] = weights[i] - base[i];
    if (s->memory)
        HN_TRY(hn_device_write(s->r->device, s->memory, s->delta, (size_t)n * sizeof(float)));
    const hn_spectrum_args a = {
        .delta = s->memory ? s->memory : s->delta, .m = l->m, .n = l->n, .ld = l->n};
    return hn_spectrum_of(s->solver, &a, &s->spectrum[layer]);
}

/* What is to be told of a layer: its spectrum, and how far it has moved. */
static hn_status measure_layer(spectra *s, int64_t layer, const float *base, const float *weights,
                               hn_pearl_rank *out)
{
    const hn_pearl_layer *l = &s->r->layer[layer];
    const hn_spectrum *x = &s->spectrum[layer];
    hn_free(out->s);
    out->s = hn_malloc((size_t)x->r * sizeof *out->s);
    if (out->s == NULL) return HN_FAIL(HN_ERR_MEMORY, "spectrum of %s", l->module);
    memcpy(out->s, x->s, (size_t)x->r * sizeof *out->s);
    out->r = x->r;
    const hn_rank_proximity_args a = {.w = weights,
                                      .w_ref = base,
                                      .m = l->m,
                                      .n = l->n,
                                      .ld = l->n,
                                      .ld_ref = l->n,
                                      .s = out->s,
                                      .r = out->r};
    return hn_rank_measure(&s->r->rule, &a, &out->near);
}

static hn_status measure_all(spectra *s, const hn_values *base, const hn_values *weights,
                             hn_pearl_record *record)
{
    const hn_pearl *r = s->r;
    if (record->rank == NULL) record->rank = hn_calloc((size_t)r->n_layers, sizeof *record->rank);
    if (record->rank == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "ranks of %" PRId64 " layers", r->n_layers);
    for (int64_t i = 0; i < r->n_layers; i++) {
        const char *name = r->layer[i].weight;
        const float *from = hn_values_find(base, name)->v, *to = hn_values_find(weights, name)->v;
        HN_TRY(spectrum_of(s, i, from, to));
        HN_TRY(measure_layer(s, i, from, to, &record->rank[i]));
    }
    return HN_OK;
}

/* ---- the choice ---- */

static hn_rank_layer layer_of(const hn_pearl_layer *l, const hn_pearl_rank *k)
{
    return (hn_rank_layer){.s = k->s,
                           .r = k->r,
                           .m = l->m,
                           .n = l->n,
                           .reference = k->near.reference,
                           .dense_from = l->dense_from};
}

static hn_status choose_budget(const hn_pearl *r, const hn_rank_layer *layers, hn_rank_choice *to,
                               double *threshold)
{
    const bool greedy = strcmp(r->c->allocator, "greedy") == 0;
    const hn_status st =
        greedy ? hn_rank_greedy(&r->rule, layers, r->n_layers, r->c->budget, to)
               : hn_rank_budget(&r->rule, layers, r->n_layers, r->c->budget, to, threshold);
    if (st != HN_ERR_ARG) return st;
    return HN_FAIL(st, "--budget %" PRId64 ": %s", r->c->budget, hn_last_text());
}

static hn_status choose(const hn_pearl *r, hn_pearl_record *record)
{
    const size_t n = (size_t)r->n_layers;
    hn_rank_layer *layers = hn_calloc(n, sizeof *layers);
    hn_rank_choice *choice = hn_calloc(n, sizeof *choice);
    hn_status st = layers && choice ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "choice of %zu ranks", n);
    record->threshold = NAN;
    for (size_t i = 0; st == HN_OK && i < n; i++) {
        layers[i] = layer_of(&r->layer[i], &record->rank[i]);
        if (r->c->budget == 0) st = hn_rank_choose(&r->rule, &layers[i], &choice[i]);
    }
    if (st == HN_OK && r->c->budget > 0) st = choose_budget(r, layers, choice, &record->threshold);
    for (size_t i = 0; st == HN_OK && i < n; i++) record->rank[i].choice = choice[i];
    hn_free(layers);
    hn_free(choice);
    return st;
}

/* ---- pairs ---- */

/* A pair of so many directions, of zeros, with the shapes of PEFT. */
static hn_status add_pair(const hn_pearl_layer *l, const hn_value *weight, int64_t k, hn_values *to,
                          float **b, float **a)
{
    int64_t dim[HN_PARAM_DIMS] = {k, l->n, 1, 1};
    hn_value *v = NULL;
    for (int i = 1; i < weight->ndim; i++) dim[i] = weight->dim[i];
    HN_TRY(hn_values_add(to, l->a, weight->ndim, dim, &v));
    *a = v->v;
    const int64_t dim_b[HN_PARAM_DIMS] = {l->m, k, 1, 1};
    HN_TRY(hn_values_add(to, l->b, weight->ndim, dim_b, &v));
    *b = v->v;
    return HN_OK;
}

static hn_status pair_of(const hn_pearl_layer *l, const hn_value *weight, const hn_spectrum *s,
                         int64_t k, hn_values *to)
{
    float *a, *b;
    HN_TRY(add_pair(l, weight, k, to, &b, &a));
    return hn_rank_factors(s, k, b, k, a, l->n);
}

hn_status hn_pearl_ranks(hn_pearl *r, const hn_values *base, const hn_values *probe,
                         hn_pearl_record *record, hn_values *factors)
{
    spectra s = {.r = r};
    hn_status st = spectra_open(r, &s);
    if (st == HN_OK) st = measure_all(&s, base, probe, record);
    if (st == HN_OK) st = choose(r, record);
    const bool from_probe = strcmp(r->c->init, "svd") == 0;
    for (int64_t i = 0; st == HN_OK && from_probe && i < r->n_layers; i++) {
        const hn_rank_choice *c = &record->rank[i].choice;
        const int64_t k = c->rank < s.spectrum[i].rank ? c->rank : s.spectrum[i].rank;
        if (c->dense || k == 0) continue;
        st = pair_of(&r->layer[i], hn_values_find(base, r->layer[i].weight), &s.spectrum[i], k,
                     factors);
    }
    spectra_close(&s);
    return st;
}

/* The rule with the threshold that a budget came to. */
static hn_rank_rule settled_rule(const hn_pearl *r, const hn_pearl_record *record)
{
    hn_rank_rule rule = r->rule;
    if (isnan(record->threshold)) return rule;
    if (rule.kind == HN_RANK_REFERENCE)
        rule.eps = record->threshold;
    else
        rule.energy = record->threshold > 0 ? record->threshold : 1e-9;
    return rule;
}

static hn_status truncate_layer(const hn_pearl *r, const hn_value *weight, int64_t layer,
                                hn_pearl_record *record)
{
    const hn_pearl_layer *l = &r->layer[layer];
    hn_rank_choice *c = &record->rank[layer].choice;
    const hn_value *a = hn_values_find(&record->delta, l->a);
    const hn_value *b = hn_values_find(&record->delta, l->b);
    hn_spectrum s = {0};
    if (a == NULL || b == NULL) return HN_OK;
    const int64_t k = a->dim[0];
    const hn_spectrum_product_args args = {
        .b = b->v, .a = a->v, .m = l->m, .n = l->n, .k = k, .ld_b = k, .ld_a = l->n};
    const hn_rank_rule rule = settled_rule(r, record);
    hn_status st = hn_spectrum_of_product(&args, &s);
    hn_rank_choice cut = *c;
    if (st == HN_OK) {
        hn_rank_layer with = layer_of(l, &record->rank[layer]);
        with.s = s.s;
        with.r = s.r;
        st = hn_rank_choose(&rule, &with, &cut);
    }
    if (st == HN_OK && !cut.dense && cut.rank < k) {
        *c = cut;
        hn_values_drop(&record->delta, l->a);
        hn_values_drop(&record->delta, l->b);
        if (cut.rank > 0) st = pair_of(l, weight, &s, cut.rank, &record->delta);
    }
    hn_spectrum_free(&s);
    return st;
}

hn_status hn_pearl_truncate(hn_pearl *r, const hn_values *base, hn_pearl_record *record)
{
    for (int64_t i = 0; i < r->n_layers; i++)
        HN_TRY(truncate_layer(r, hn_values_find(base, r->layer[i].weight), i, record));
    return HN_OK;
}

/* ---- one rank for all ---- */

hn_status hn_pearl_fixed_ranks(hn_pearl *r, hn_pearl_record *record)
{
    const int64_t k = r->c->rank;
    int64_t most = 0;
    record->threshold = NAN;
    record->rank = hn_calloc((size_t)r->n_layers, sizeof *record->rank);
    if (record->rank == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "ranks of %" PRId64 " layers", r->n_layers);
    for (int64_t i = 0; i < r->n_layers; i++) {
        const hn_pearl_layer *l = &r->layer[i];
        const int64_t least = l->m < l->n ? l->m : l->n, even = hn_rank_break_even(l->m, l->n);
        const int64_t from = l->dense_from > 0 && l->dense_from < even ? l->dense_from : even;
        const bool dense = k >= from;
        if (least > most) most = least;
        record->rank[i].choice = (hn_rank_choice){
            .rank = k, .dense = dense, .parameters = dense ? l->m * l->n : k * (l->m + l->n)};
    }
    if (k > most)
        return HN_FAIL(HN_ERR_ARG, "--rank %" PRId64 ": no layer has more than %" PRId64, k, most);
    return HN_OK;
}

hn_status hn_pearl_measure(hn_pearl *r, const hn_values *base, hn_pearl_record *record)
{
    spectra s = {.r = r};
    hn_values body = {0};
    hn_status st = hn_values_overlay(&body, base);
    if (st == HN_OK) st = hn_pearl_merge(r, &record->delta, &body);
    if (st == HN_OK) st = spectra_open(r, &s);
    if (st == HN_OK) st = measure_all(&s, base, &body, record);
    spectra_close(&s);
    hn_values_free(&body);
    return st;
}

/* ---- the nearest network ---- */

static double distance(const hn_pearl *r, const hn_values *from, const hn_values *to)
{
    double moved = 0, size = 0;
    for (int64_t i = 0; i < r->n_layers; i++) {
        const hn_value *a = hn_values_find(from, r->layer[i].weight);
        const hn_value *b = hn_values_find(to, r->layer[i].weight);
        for (int64_t j = 0; j < a->n; j++) {
            const double x = (double)b->v[j] - (double)a->v[j];
            moved += x * x;
            size += (double)a->v[j] * (double)a->v[j];
        }
    }
    return size > 0 ? moved / size : INFINITY;
}

hn_status hn_pearl_nearest(hn_pearl *r, const hn_values *probe, int64_t *base)
{
    double least = INFINITY;
    *base = 0;
    for (int t = 0; t <= r->done; t++) {
        hn_values body = {0};
        const hn_status st = hn_pearl_network(r, t, &body);
        const double d = st == HN_OK ? distance(r, &body, probe) : 0;
        hn_values_free(&body);
        HN_TRY(st);
        if (d >= least) continue;
        least = d;
        *base = t;
    }
    return HN_OK;
}
