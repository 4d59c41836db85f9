#include "runtime/train/drift_data.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/label.h"

/* The arrays of an hn_drift_data, while they are written. */
typedef struct {
    const hn_f16 **knot;
    float *unit;
    int64_t *first;
    int32_t *images, *row, *label;
} arrays;

/* A record on its way to its task. */
typedef struct {
    int32_t domain;
    int64_t episode, index; /* index: for hn_trajectories_at */
} place;

/* By domain and episode, in the order of the file within. */
static int in_order(const void *a, const void *b)
{
    const place *x = a, *y = b;
    if (x->domain != y->domain) return x->domain < y->domain ? -1 : 1;
    if (x->episode != y->episode) return x->episode < y->episode ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static bool same_task(const place *a, const place *b)
{
    return a->domain == b->domain && a->episode == b->episode;
}

/* In records of hn_trajectories, sorted by task; *tasks: how many. */
static hn_status sort(const hn_trajectories *t, place *p, int64_t *tasks)
{
    hn_trajectory r;
    for (int64_t i = 0; i < t->n; i++) {
        hn_trajectories_at(t, i, &r);
        p[i] = (place){r.facts.domain, r.facts.episode, i};
    }
    qsort(p, (size_t)t->n, sizeof *p, in_order);
    *tasks = t->n > 0;
    for (int64_t i = 1; i < t->n; i++) *tasks += !same_task(&p[i - 1], &p[i]);
    return t->n > 0 ? HN_OK : HN_FAIL(HN_ERR_ARG, "the file of trajectories has no record yet");
}

/* Room for n records of `tasks` tasks, in one piece. */
static hn_status take(hn_drift_data *d, arrays *a)
{
    const size_t n = (size_t)d->n, tasks = (size_t)d->tasks, rows = tasks * (size_t)d->support;
    const size_t bytes = n * sizeof *a->knot + (tasks + 1) * sizeof *a->first +
                         n * sizeof *a->unit + (tasks + 2 * rows) * sizeof *a->row;
    d->memory = hn_calloc(1, bytes);
    if (d->memory == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a table of tasks", bytes);
    a->knot = d->memory;
    a->first = (int64_t *)(void *)(a->knot + n);
    a->unit = (float *)(void *)(a->first + tasks + 1);
    a->images = (int32_t *)(void *)(a->unit + n);
    a->row = a->images + tasks;
    a->label = a->row + rows;
    d->knot = a->knot;
    d->unit = a->unit;
    d->first = a->first;
    d->images = a->images;
    d->row = a->row;
    d->label = a->label;
    return HN_OK;
}

/* The support set of task e, of its first record. */
static hn_status put_task(const hn_drift_data *d, const arrays *a, int64_t e,
                          const hn_trajectory *r, int64_t first_row, int64_t n_images)
{
    int32_t *const row = a->row + e * d->support, *const label = a->label + e * d->support;
    a->images[e] = r->facts.images;
    for (int64_t k = 0; k < d->support; k++) {
        const bool there = k < r->facts.images;
        const int64_t at = there ? r->image[k] : 0;
        if (at < 0 || at >= n_images || first_row + at > INT32_MAX)
            return HN_FAIL(HN_ERR_FORMAT,
                           "trajectories: domain %d, episode %" PRId64 ": image %" PRId64
                           ", the domain has %" PRId64,
                           (int)r->facts.domain, r->facts.episode, at, n_images);
        row[k] = there ? (int32_t)(first_row + at) : 0;
        label[k] = there ? r->label[k] : HN_LABEL_IGNORED;
    }
    return HN_OK;
}

/* Whether record r has the support set of record `head`. */
static hn_status check_same(const hn_trajectory *head, const hn_trajectory *r)
{
    const size_t bytes = (size_t)head->facts.images * sizeof *r->image;
    if (head->facts.images == r->facts.images && memcmp(head->image, r->image, bytes) == 0 &&
        memcmp(head->label, r->label, bytes) == 0)
        return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT,
                   "trajectories: domain %d, episode %" PRId64
                   ": start %d has another support set than start %d",
                   (int)r->facts.domain, r->facts.episode, (int)r->facts.init,
                   (int)head->facts.init);
}

static hn_status fill(const hn_trajectories *t, const place *p, const int64_t *first_row,
                      const int64_t *n_images, int64_t domains, const hn_drift_data *d,
                      const arrays *a)
{
    hn_trajectory head, r;
    int64_t e = -1;
    for (int64_t i = 0; i < d->n; i++) {
        const int32_t domain = p[i].domain;
        hn_trajectories_at(t, p[i].index, &r);
        if (domain < 0 || domain >= domains)
            return HN_FAIL(HN_ERR_FORMAT, "trajectories: domain %d of %" PRId64, (int)domain,
                           domains);
        if (i == 0 || !same_task(&p[i - 1], &p[i])) {
            head = r;
            a->first[++e] = i;
            HN_TRY(put_task(d, a, e, &r, first_row[domain], n_images[domain]));
        }
        HN_TRY(check_same(&head, &r));
        a->knot[i] = r.knot;
        a->unit[i] = r.facts.unit;
    }
    a->first[d->tasks] = d->n;
    return HN_OK;
}

hn_status hn_drift_data_make(const hn_trajectories *t, const int64_t *first_row,
                             const int64_t *n_images, int64_t domains, hn_drift_data *out)
{
    hn_drift_data d = {.n = t->n, .knots = t->head.knots, .support = t->head.support};
    arrays a = {0};
    place *p = hn_calloc((size_t)(t->n > 0 ? t->n : 1), sizeof *p);
    hn_status st = p ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " records to sort", t->n);
    HN_TRY_GOTO(st, st, done);
    HN_TRY_GOTO(st, sort(t, p, &d.tasks), done);
    HN_TRY_GOTO(st, take(&d, &a), done);
    HN_TRY_GOTO(st, fill(t, p, first_row, n_images, domains, &d, &a), done);
    *out = d;
    d.memory = NULL;

done:
    hn_free(d.memory);
    hn_free(p);
    return st;
}

void hn_drift_data_free(hn_drift_data *d)
{
    hn_free(d->memory);
    *d = (hn_drift_data){0};
}
