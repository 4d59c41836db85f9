#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/partition_impl.h"

static hn_rng rng_of(const hn_deal *d, uint64_t attempt, const char *what)
{
    return hn_rng_make(d->o->seed, attempt, hn_hash_name(what));
}

static hn_status no_memory(const hn_deal *d)
{
    return HN_FAIL(HN_ERR_MEMORY, "no memory to deal %" PRId64 " samples to %" PRId64 " clients",
                   d->n, d->clients);
}

static void fill_order(hn_deal *d)
{
    for (int64_t i = 0; i < d->n; i++) d->order[i] = (int32_t)i;
}

/* order: sorted by label, then by number; first [classes + 1]: where each class begins. */
static void order_by_label(hn_deal *d, int64_t *first)
{
    memset(first, 0, (size_t)(d->classes + 1) * sizeof *first);
    for (int64_t i = 0; i < d->n; i++) first[d->label[i] + 1]++;
    for (int32_t c = 0; c < d->classes; c++) first[c + 1] += first[c];
    for (int64_t i = 0; i < d->n; i++) d->order[first[d->label[i]]++] = (int32_t)i;
    memmove(first + 1, first, (size_t)d->classes * sizeof *first);
    first[0] = 0;
}

/* Cuts x [n] at floor(cumulated share x n). */
static void cut_by_shares(const hn_deal *d, const int32_t *x, int64_t n, const double *share)
{
    double sum = 0;
    int64_t at = 0;
    for (int64_t c = 0; c < d->clients; c++) {
        sum += share[c];
        int64_t end = c + 1 < d->clients ? (int64_t)(sum * (double)n) : n;
        if (end > n) end = n; /* shares sum to 1 up to rounding */
        for (; at < end; at++) d->owner[x[at]] = (int32_t)c;
    }
}

hn_status hn_deal_iid(hn_deal *d, uint64_t attempt)
{
    fill_order(d);
    hn_shuffle_draw(rng_of(d, attempt, "partition order"), d->order, d->n);
    for (int64_t i = 0; i < d->n; i++) d->owner[d->order[i]] = (int32_t)(i % d->clients);
    return HN_OK;
}

hn_status hn_deal_quantity(hn_deal *d, uint64_t attempt)
{
    double *share = hn_malloc((size_t)d->clients * sizeof *share);
    if (share == NULL) return no_memory(d);
    fill_order(d);
    hn_shuffle_draw(rng_of(d, attempt, "partition order"), d->order, d->n);
    hn_dirichlet_draw(rng_of(d, attempt, "partition sizes"), 0, &d->o->alpha, 0, d->clients, share);
    cut_by_shares(d, d->order, d->n, share);
    hn_free(share);
    return HN_OK;
}

hn_status hn_deal_dirichlet(hn_deal *d, uint64_t attempt)
{
    double *share = hn_malloc((size_t)d->clients * sizeof *share);
    int64_t *first = hn_malloc(((size_t)d->classes + 1) * sizeof *first);
    if (share == NULL || first == NULL) {
        hn_free(share);
        hn_free(first);
        return no_memory(d);
    }
    const hn_rng rng = rng_of(d, attempt, "partition classes");
    order_by_label(d, first);
    for (int32_t c = 0; c < d->classes; c++) {
        int32_t *x = d->order + first[c];
        const int64_t n = first[c + 1] - first[c];
        const uint64_t stream = hn_hash_name("partition order") + (uint64_t)c * 2;
        hn_shuffle_draw(hn_rng_make(d->o->seed, attempt, stream), x, n);
        hn_dirichlet_draw(rng, (uint64_t)c * (uint64_t)d->clients, &d->o->alpha, 0, d->clients,
                          share);
        cut_by_shares(d, x, n, share);
    }
    hn_free(share);
    hn_free(first);
    return HN_OK;
}

/* ---- mixture ---- */

typedef struct {
    int64_t *first; /* [classes + 1] */
    int64_t *taken; /* [classes] samples that have an owner */
    double *shape;  /* [classes] */
    double *mix;    /* [clients, classes] */
} mixture;

static int64_t left_of(const mixture *m, int32_t c)
{
    return m->first[c + 1] - m->first[c] - m->taken[c];
}

/* The class at `u` of the cumulated weights: a client's mix of the classes that are left, or, where
 * nothing of it is left, what is left of the classes. */
static int32_t class_at(const mixture *m, int32_t classes, const double *mix, double u)
{
    double sum = 0, at = 0;
    int32_t last = 0;
    for (int32_t c = 0; c < classes; c++)
        if (left_of(m, c) > 0) sum += mix[c];
    const bool by_mix = sum > 0;
    for (int32_t c = 0; c < classes && !by_mix; c++) sum += (double)left_of(m, c);
    for (int32_t c = 0; c < classes; c++) {
        const double weight = by_mix ? mix[c] : (double)left_of(m, c);
        if (left_of(m, c) == 0 || weight == 0) continue;
        last = c; /* rounding may leave u behind the last one */
        at += weight;
        if (u * sum < at) break;
    }
    return last;
}

static void draw_mixture(hn_deal *d, mixture *m, uint64_t attempt)
{
    const hn_rng mixes = rng_of(d, attempt, "partition mixes");
    const hn_rng draws = rng_of(d, attempt, "partition draws");
    order_by_label(d, m->first);
    for (int32_t c = 0; c < d->classes; c++) {
        const int64_t n = m->first[c + 1] - m->first[c];
        const uint64_t stream = hn_hash_name("partition order") + (uint64_t)c * 2;
        hn_shuffle_draw(hn_rng_make(d->o->seed, attempt, stream), d->order + m->first[c], n);
        m->shape[c] = d->o->alpha * d->classes * (double)n / (double)d->n;
        if (n == 0) m->shape[c] = d->o->alpha; /* never drawn from */
    }
    for (int64_t k = 0; k < d->clients; k++)
        hn_dirichlet_draw(mixes, (uint64_t)k * (uint64_t)d->classes, m->shape, 1, d->classes,
                          m->mix + k * d->classes);
    /* in turns, so that the last client is not left with what nobody wanted */
    for (int64_t i = 0; i < d->n; i++) {
        const int64_t client = i % d->clients;
        const int32_t c = class_at(m, d->classes, m->mix + client * d->classes,
                                   hn_unit_draw(draws, (uint64_t)i, 0));
        d->owner[d->order[m->first[c] + m->taken[c]++]] = (int32_t)client;
    }
}

hn_status hn_deal_mixture(hn_deal *d, uint64_t attempt)
{
    const size_t classes = (size_t)d->classes;
    mixture m = {.first = hn_calloc(classes + 1, sizeof *m.first),
                 .taken = hn_calloc(classes, sizeof *m.taken),
                 .shape = hn_calloc(classes, sizeof *m.shape),
                 .mix = hn_calloc((size_t)d->clients, classes * sizeof *m.mix)};
    const bool ready = m.first != NULL && m.taken != NULL && m.shape != NULL && m.mix != NULL;
    if (ready) draw_mixture(d, &m, attempt);
    hn_free(m.first);
    hn_free(m.taken);
    hn_free(m.shape);
    hn_free(m.mix);
    return ready ? HN_OK : no_memory(d);
}

/* ---- shards and groups ---- */

hn_status hn_deal_shards(hn_deal *d, uint64_t attempt)
{
    const int64_t parts = d->clients * d->o->shards;
    int32_t *part = hn_malloc((size_t)parts * sizeof *part);
    int64_t *first = hn_malloc(((size_t)d->classes + 1) * sizeof *first);
    if (part == NULL || first == NULL) {
        hn_free(part);
        hn_free(first);
        return no_memory(d);
    }
    order_by_label(d, first);
    for (int64_t i = 0; i < parts; i++) part[i] = (int32_t)i;
    hn_shuffle_draw(rng_of(d, attempt, "partition shards"), part, parts);
    for (int64_t i = 0; i < parts; i++) {
        const int64_t begin = part[i] * d->n / parts, end = (part[i] + 1) * d->n / parts;
        for (int64_t j = begin; j < end; j++) d->owner[d->order[j]] = (int32_t)(i / d->o->shards);
    }
    hn_free(part);
    hn_free(first);
    return HN_OK;
}

hn_status hn_deal_group(hn_deal *d, uint64_t attempt)
{
    int32_t *place = hn_malloc((size_t)d->groups * sizeof *place); /* of each group */
    if (place == NULL) return no_memory(d);
    for (int32_t g = 0; g < d->groups; g++) place[g] = g;
    if (d->clients < d->groups)
        hn_shuffle_draw(rng_of(d, attempt, "partition groups"), place, d->groups);
    for (int64_t i = 0; i < d->n; i++) d->owner[i] = (int32_t)(place[d->group[i]] % d->clients);
    hn_free(place);
    return HN_OK;
}
