/* Omniglot's one-shot runs as one more domain of eval: their images, with those of the validation
 * classes of domain "omniglot" behind them, so that one engine sees both. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/omniglot_runs.h"
#include "runtime/train/hyperflow_impl.h"

static const char DRAWINGS[] = "omniglot", RUNS[] = "omniglot-runs";

/* ---- images ---- */

typedef struct {
    const hn_images *runs, *drawings;
    const int32_t *classes; /* [n_classes] of the drawings, for validation */
    int32_t n_classes;
    uint8_t *pixel;
    int32_t *label;
    const char **name; /* borrowed */
    int64_t count;
} joined;

static void joined_free(joined *j)
{
    hn_free(j->pixel);
    hn_free(j->label);
    hn_free(j->name);
}

static int32_t place_of(const joined *j, int32_t class_number)
{
    for (int32_t k = 0; k < j->n_classes; k++)
        if (j->classes[k] == class_number) return k;
    return -1;
}

static hn_status join(joined *j)
{
    const hn_images *a = j->runs, *b = j->drawings;
    const size_t each = (size_t)(a->h * a->w) * (size_t)a->c, most = (size_t)(a->count + b->count),
                 classes = (size_t)a->n_classes;
    j->pixel = hn_malloc(most * each);
    j->label = hn_malloc(most * sizeof *j->label);
    j->name = hn_malloc((classes + (size_t)j->n_classes) * sizeof *j->name);
    if (j->pixel == NULL || j->label == NULL || j->name == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%s: %zu images", RUNS, most);
    memcpy(j->pixel, a->pixel, (size_t)a->count * each);
    memcpy(j->label, a->label, (size_t)a->count * sizeof *j->label);
    memcpy(j->name, a->class_name, classes * sizeof *j->name);
    for (int32_t k = 0; k < j->n_classes; k++)
        j->name[classes + (size_t)k] = b->class_name[j->classes[k]];
    j->count = a->count;
    for (int64_t i = 0; i < b->count; i++) {
        const int32_t k = place_of(j, b->label[i]);
        if (k < 0) continue;
        memcpy(j->pixel + (size_t)j->count * each, b->pixel + (size_t)i * each, each);
        j->label[j->count++] = a->n_classes + k;
    }
    return HN_OK;
}

/* ---- the domain ---- */

static hn_status validation(hn_hf_domain *d, int32_t first, int32_t n)
{
    int32_t *list = hn_malloc((size_t)n * sizeof *list);
    if (list == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: %d classes", RUNS, (int)n);
    for (int32_t k = 0; k < n; k++) list[k] = first + k;
    const hn_status st = hn_episode_source_make(d->images, "omniglot-runs/valid", list, n, NULL,
                                                &d->source[HN_HF_VALID]);
    hn_free(list);
    return st;
}

static hn_status make_domain(const hn_hf_domain *drawings, hn_hf_domain *d)
{
    joined j = {.runs = hn_image_set_view(hn_omniglot_runs_images(d->runs)),
                .drawings = hn_image_set_view(drawings->images)};
    j.n_classes = hn_episode_source_classes(drawings->source[HN_HF_VALID], &j.classes);
    if (j.runs->h != j.drawings->h || j.runs->w != j.drawings->w || j.runs->c != j.drawings->c)
        return HN_FAIL(HN_ERR_SHAPE,
                       "--one-shot-runs: images of %" PRId64 " x %" PRId64 ", those of domain %s "
                       "are %" PRId64 " x %" PRId64,
                       j.runs->h, j.runs->w, DRAWINGS, j.drawings->h, j.drawings->w);
    hn_status st = join(&j);
    if (st == HN_OK) {
        const hn_images v = {.count = j.count,
                             .h = j.runs->h,
                             .w = j.runs->w,
                             .c = j.runs->c,
                             .pixel = j.pixel,
                             .label = j.label,
                             .n_classes = j.runs->n_classes + j.n_classes,
                             .class_name = j.name};
        st = hn_image_set_make(&v, RUNS, &d->images);
    }
    if (st == HN_OK) st = validation(d, j.runs->n_classes, j.n_classes);
    joined_free(&j);
    return st;
}

/* ---- drawings that were trained on ---- */

typedef struct {
    uint64_t hash;
    int64_t image;
} key;

static int by_hash(const void *a, const void *b)
{
    const key *x = a, *y = b;
    return (x->hash > y->hash) - (x->hash < y->hash);
}

static uint64_t hash_of(const hn_images *v, int64_t i, size_t each)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    const uint8_t *p = v->pixel + (size_t)i * each;
    for (size_t k = 0; k < each; k++) h = (h ^ p[k]) * 0x100000001b3u;
    return h;
}

/* Images of the runs that are, to the pixel, images of classes of training. */
static hn_status count_trained(const hn_hf_domain *drawings, const hn_images *runs, int64_t *n)
{
    const hn_images *v = hn_image_set_view(drawings->images);
    const size_t each = (size_t)(v->h * v->w) * (size_t)v->c;
    const int32_t *classes;
    *n = 0;
    if (drawings->source[HN_HF_TRAIN] == NULL) return HN_OK;
    const int32_t n_classes = hn_episode_source_classes(drawings->source[HN_HF_TRAIN], &classes);
    bool *trained = hn_calloc((size_t)v->n_classes, sizeof *trained);
    key *known = hn_malloc((size_t)runs->count * sizeof *known);
    hn_status st = trained && known ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%s: images", RUNS);
    for (int32_t k = 0; st == HN_OK && k < n_classes; k++) trained[classes[k]] = true;
    for (int64_t i = 0; st == HN_OK && i < runs->count; i++)
        known[i] = (key){.hash = hash_of(runs, i, each), .image = i};
    if (st == HN_OK) qsort(known, (size_t)runs->count, sizeof *known, by_hash);
    for (int64_t i = 0; st == HN_OK && i < v->count; i++) {
        if (!trained[v->label[i]]) continue;
        const key want = {.hash = hash_of(v, i, each)};
        const key *at = bsearch(&want, known, (size_t)runs->count, sizeof *known, by_hash);
        if (at != NULL &&
            memcmp(runs->pixel + (size_t)at->image * each, v->pixel + (size_t)i * each, each) == 0)
            ++*n;
    }
    hn_free(trained);
    hn_free(known);
    return st;
}

/* ---- */

static const hn_hf_domain *find(const hn_hyperflow *r, const char *name)
{
    for (int64_t i = 0; i < r->n_domains; i++)
        if (strcmp(r->domain[i].name, name) == 0) return &r->domain[i];
    return NULL;
}

hn_status hn_hyperflow_one_shot(hn_hyperflow *r)
{
    const char *folder = r->c->one_shot_runs;
    int64_t trained;
    if (folder == NULL || folder[0] == '\0') return HN_OK;
    const hn_hf_domain *drawings = find(r, DRAWINGS);
    if (drawings == NULL)
        return HN_FAIL(HN_ERR_ARG,
                       "--one-shot-runs: learning rates and stop times are chosen on validation "
                       "classes of a domain '%s', and there is none",
                       DRAWINGS);
    if (find(r, RUNS) != NULL)
        return HN_FAIL(HN_ERR_ARG, "--one-shot-runs: a domain is called %s already", RUNS);
    const hn_images *v = hn_image_set_view(drawings->images);
    HN_TRY(hn_omniglot_runs_open(folder, v->h, (int)v->c, &r->runs));
    hn_hf_domain *d = &r->domain[r->n_domains++];
    strcpy(d->name, RUNS);
    d->trains = drawings->trains;
    d->runs = r->runs;
    HN_TRY(make_domain(drawings, d));
    hn_hf_target *t = &r->target[r->n_targets++];
    strcpy(t->name, RUNS);
    t->domain = d - r->domain;
    t->part = HN_HF_TEST;
    HN_TRY(count_trained(drawings, hn_image_set_view(hn_omniglot_runs_images(r->runs)), &trained));
    hn_info(&r->log, "%s: %" PRId64 " episodes", RUNS, hn_omniglot_runs_count(r->runs));
    if (trained > 0)
        hn_warn(&r->log,
                "%s: %" PRId64 " of its images are of classes that are trained on (--hold-out or "
                "--splits keeps them apart)",
                RUNS, trained);
    return HN_OK;
}
