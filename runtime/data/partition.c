#include "runtime/data/partition.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/partition_impl.h"

enum { ATTEMPTS = 1000 };

static const char *const rule_names[] = {
#define X(id, name) name,
    HN_PARTITION_LIST(X)
#undef X
};

const char *hn_partition_rule_name(hn_partition_rule r)
{
    return (unsigned)r < HN_PARTITION_COUNT ? rule_names[r] : "?";
}

void hn_partition_free(hn_partition *p)
{
    hn_free(p->first);
    hn_free(p->index);
    *p = (hn_partition){0};
}

/* ---- which samples count ---- */

static bool uses_labels(hn_partition_rule r)
{
    return r == HN_PARTITION_DIRICHLET || r == HN_PARTITION_MIXTURE || r == HN_PARTITION_SHARDS;
}

static bool uses_alpha(hn_partition_rule r)
{
    return r == HN_PARTITION_DIRICHLET || r == HN_PARTITION_MIXTURE || r == HN_PARTITION_QUANTITY;
}

static bool is_drawn_again(hn_partition_rule r)
{
    return r == HN_PARTITION_DIRICHLET || r == HN_PARTITION_QUANTITY;
}

static hn_status check_options(const hn_partition_options *o, const int32_t *label,
                               const int32_t *group, int64_t n)
{
    const char *rule = hn_partition_rule_name(o->rule);
    const int64_t least = o->rule == HN_PARTITION_GROUP ? 0 : 1;
    if ((unsigned)o->rule >= HN_PARTITION_COUNT)
        return HN_FAIL(HN_ERR_ARG, "there is no partition %d", (int)o->rule);
    if (n < 0 || n > INT32_MAX) return HN_FAIL(HN_ERR_ARG, "a partition of %" PRId64 " samples", n);
    if (o->clients < least || o->clients > INT32_MAX)
        return HN_FAIL(HN_ERR_ARG, "option clients is %" PRId64 ", at least %" PRId64, o->clients,
                       least);
    if (o->min_samples < 0)
        return HN_FAIL(HN_ERR_ARG, "option min-samples is %" PRId64, o->min_samples);
    if (uses_alpha(o->rule) && !(o->alpha > 0 && isfinite(o->alpha)))
        return HN_FAIL(HN_ERR_ARG, "option alpha is %g: the partition %s needs one above 0",
                       o->alpha, rule);
    if (o->rule == HN_PARTITION_SHARDS && (o->shards < 1 || o->shards > INT32_MAX))
        return HN_FAIL(HN_ERR_ARG, "option shards is %" PRId64 ", at least 1", o->shards);
    if (uses_labels(o->rule) && label == NULL)
        return HN_FAIL(HN_ERR_ARG, "the partition %s needs labels", rule);
    if (o->rule == HN_PARTITION_GROUP && group == NULL)
        return HN_FAIL(HN_ERR_ARG, "the partition group needs the groups of the samples");
    return HN_OK;
}

static void deal_free(hn_deal *d)
{
    hn_free(d->sample);
    hn_free(d->label);
    hn_free(d->group);
    hn_free(d->owner);
    hn_free(d->order);
}

static int ascending(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Different values of x [n], ascending, to the front of `to` [n]. */
static int32_t distinct(const int32_t *x, int64_t n, int32_t *to)
{
    int32_t count = 0;
    memcpy(to, x, (size_t)n * sizeof *to);
    qsort(to, (size_t)n, sizeof *to, ascending);
    for (int64_t i = 0; i < n; i++)
        if (i == 0 || to[i] != to[count - 1]) to[count++] = to[i];
    return count;
}

/* Labels and groups get numbers without holes: what a file calls them costs no memory. */
static int32_t renumber(int32_t *x, int64_t n, int32_t *scratch)
{
    const int32_t count = distinct(x, n, scratch);
    for (int64_t i = 0; i < n; i++) {
        const int32_t *at = bsearch(&x[i], scratch, (size_t)count, sizeof *x, ascending);
        x[i] = (int32_t)(at - scratch);
    }
    return count;
}

static hn_status deal_fill(hn_deal *d, const hn_partition_options *o, const int32_t *label,
                           const int32_t *group, int64_t n)
{
    const bool by_label = uses_labels(o->rule), by_group = o->rule == HN_PARTITION_GROUP;
    const size_t bytes = (size_t)n * sizeof(int32_t);
    d->o = o;
    d->sample = hn_malloc(bytes);
    d->owner = hn_malloc(bytes);
    d->order = hn_malloc(bytes);
    if (by_label) d->label = hn_malloc(bytes);
    if (by_group) d->group = hn_malloc(bytes);
    if (d->sample == NULL || d->owner == NULL || d->order == NULL ||
        (by_label && d->label == NULL) || (by_group && d->group == NULL))
        return HN_FAIL(HN_ERR_MEMORY, "no memory for a partition of %" PRId64 " samples", n);
    for (int64_t i = 0; i < n; i++) {
        if ((label != NULL && label[i] < 0) || (by_group && group[i] < 0)) continue;
        if (by_label) d->label[d->n] = label[i];
        if (by_group) d->group[d->n] = group[i];
        d->sample[d->n++] = (int32_t)i;
    }
    if (by_label) d->classes = renumber(d->label, d->n, d->order);
    if (by_group) d->groups = renumber(d->group, d->n, d->order);
    d->clients = by_group && o->clients == 0 ? d->groups : o->clients;
    return HN_OK;
}

/* Whether there can be enough for everybody. */
static hn_status check_supply(const hn_deal *d)
{
    const hn_partition_options *o = d->o;
    const int64_t least = o->min_samples > 1 ? o->min_samples : 1;
    if (o->rule == HN_PARTITION_GROUP && d->clients > d->groups)
        return HN_FAIL(HN_ERR_ARG,
                       "option clients is %" PRId64 ", there are %d groups with samples",
                       d->clients, (int)d->groups);
    if (d->clients < 1 || d->clients > d->n)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " clients for %" PRId64 " samples", d->clients, d->n);
    if (o->rule == HN_PARTITION_SHARDS && o->shards > d->n / d->clients)
        return HN_FAIL(HN_ERR_ARG,
                       "%" PRId64 " clients with %" PRId64 " shards each for %" PRId64 " samples",
                       d->clients, o->shards, d->n);
    if (least > d->n / d->clients)
        return HN_FAIL(HN_ERR_ARG,
                       "option min-samples is %" PRId64 ": %" PRId64
                       " samples are too few for %" PRId64 " clients",
                       least, d->n, d->clients);
    return HN_OK;
}

/* ---- dealing ---- */

static hn_status deal(hn_deal *d, uint64_t attempt)
{
    switch (d->o->rule) {
    case HN_PARTITION_DIRICHLET: return hn_deal_dirichlet(d, attempt);
    case HN_PARTITION_MIXTURE: return hn_deal_mixture(d, attempt);
    case HN_PARTITION_SHARDS: return hn_deal_shards(d, attempt);
    case HN_PARTITION_GROUP: return hn_deal_group(d, attempt);
    case HN_PARTITION_QUANTITY: return hn_deal_quantity(d, attempt);
    default: return hn_deal_iid(d, attempt);
    }
}

/* first [clients + 1] from the owners; the client with the fewest samples, the first of equals. */
static int64_t fill_first(const hn_deal *d, int64_t *first)
{
    int64_t fewest = 0;
    memset(first, 0, ((size_t)d->clients + 1) * sizeof *first);
    for (int64_t i = 0; i < d->n; i++) first[d->owner[i] + 1]++;
    for (int64_t c = 1; c < d->clients; c++)
        if (first[c + 1] < first[fewest + 1]) fewest = c;
    for (int64_t c = 0; c < d->clients; c++) first[c + 1] += first[c];
    return fewest;
}

static hn_status deal_until_enough(hn_deal *d, int64_t *first)
{
    const hn_partition_options *o = d->o;
    const int64_t least = o->min_samples > 1 ? o->min_samples : 1;
    const uint64_t attempts = is_drawn_again(o->rule) ? ATTEMPTS : 1;
    int64_t client = 0;
    for (uint64_t attempt = 0; attempt < attempts; attempt++) {
        HN_TRY(deal(d, attempt));
        client = fill_first(d, first);
        if (first[client + 1] - first[client] >= least) return HN_OK;
    }
    return HN_FAIL(HN_ERR_ARG,
                   "client %" PRId64 " of %" PRId64 " has %" PRId64 " samples, option min-samples "
                   "wants %" PRId64 "%s",
                   client, d->clients, first[client + 1] - first[client], least,
                   attempts > 1 ? " (the last of 1000 draws)" : "");
}

hn_status hn_partition_make(const hn_partition_options *o, const int32_t *label,
                            const int32_t *group, int64_t n, hn_partition *out)
{
    hn_status st = HN_OK;
    hn_deal d = {0};
    hn_partition p = {0};
    HN_TRY(check_options(o, label, group, n));
    HN_TRY_GOTO(st, deal_fill(&d, o, label, group, n), done);
    HN_TRY_GOTO(st, check_supply(&d), done);
    p.clients = d.clients;
    p.first = hn_malloc(((size_t)d.clients + 1) * sizeof *p.first);
    p.index = hn_malloc((size_t)d.n * sizeof *p.index);
    if (p.first == NULL || p.index == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for a partition of %" PRId64 " samples", d.n);
        goto done;
    }
    HN_TRY_GOTO(st, deal_until_enough(&d, p.first), done);
    for (int64_t i = 0; i < d.n; i++) p.index[p.first[d.owner[i]]++] = d.sample[i];
    memmove(p.first + 1, p.first, (size_t)p.clients * sizeof *p.first);
    p.first[0] = 0;
    *out = p;
    p = (hn_partition){0};

done:
    hn_partition_free(&p);
    deal_free(&d);
    return st;
}

/* ---- what each client has ---- */

static hn_status count_client(const hn_partition *p, int64_t client, const int32_t *label,
                              int32_t classes, int64_t *count, hn_client_samples *out)
{
    hn_client_samples s = {.samples = p->first[client + 1] - p->first[client], .top = -1};
    memset(count, 0, (size_t)classes * sizeof *count);
    for (int64_t i = p->first[client]; label != NULL && i < p->first[client + 1]; i++) {
        const int32_t l = label[p->index[i]];
        if (l < 0 || l >= classes)
            return HN_FAIL(HN_ERR_ARG, "sample %d has the label %d of %d classes", (int)p->index[i],
                           (int)l, (int)classes);
        s.classes += count[l]++ == 0;
    }
    for (int32_t c = 0; label != NULL && c < classes; c++)
        if (count[c] > s.top_n) {
            s.top = c;
            s.top_n = count[c];
        }
    *out = s;
    return HN_OK;
}

hn_status hn_partition_count(const hn_partition *p, const int32_t *label, int32_t classes,
                             hn_client_samples *out)
{
    int64_t *count = hn_malloc((size_t)(classes > 0 ? classes : 0) * sizeof *count);
    if (count == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to count %d classes", (int)classes);
    hn_status st = HN_OK;
    for (int64_t c = 0; c < p->clients && st == HN_OK; c++)
        st = count_client(p, c, label, classes > 0 ? classes : 0, count, &out[c]);
    hn_free(count);
    return st;
}

static int by_samples(const void *a, const void *b)
{
    const int64_t x = ((const hn_client_samples *)a)->samples;
    const int64_t y = ((const hn_client_samples *)b)->samples;
    return (x > y) - (x < y);
}

static int by_classes(const void *a, const void *b)
{
    const int32_t x = ((const hn_client_samples *)a)->classes;
    const int32_t y = ((const hn_client_samples *)b)->classes;
    return (x > y) - (x < y);
}

/* The median of an even number is the lower one: a number of samples that some client has. */
hn_status hn_partition_report(const hn_partition *p, const int32_t *label, int32_t classes,
                              const hn_log *log)
{
    const int64_t n = p->clients, middle = (n - 1) / 2;
    double share = 0;
    hn_client_samples *s = hn_calloc((size_t)n, sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " clients", n);
    const hn_status st = hn_partition_count(p, label, classes, s);
    if (st == HN_OK) {
        for (int64_t c = 0; c < n; c++) share += (double)s[c].top_n / (double)s[c].samples;
        qsort(s, (size_t)n, sizeof *s, by_samples);
        hn_info(log, "%" PRId64 " clients have %" PRId64 " samples", n, p->first[n]);
        hn_info(log, "samples a client: %" PRId64 " to %" PRId64 ", median %" PRId64, s[0].samples,
                s[n - 1].samples, s[middle].samples);
    }
    if (st == HN_OK && label != NULL) {
        qsort(s, (size_t)n, sizeof *s, by_classes);
        hn_info(log,
                "classes a client: %d to %d of %d, median %d; its most frequent one has %.1f %%",
                (int)s[0].classes, (int)s[n - 1].classes, (int)classes, (int)s[middle].classes,
                100 * share / (double)n);
    }
    hn_free(s);
    return st;
}
