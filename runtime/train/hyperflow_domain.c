/* Domains: where their images are, and which classes, or images, are for what. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/hyperflow_impl.h"

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

const char *hn_hf_part_name(hn_hf_part p)
{
    static const char *const names[HN_HF_PARTS] = {"train", "valid", "test", "held-out"};
    return (unsigned)p < HN_HF_PARTS ? names[p] : "?";
}

void hn_hyperflow_domains_free(hn_hyperflow *r)
{
    for (int64_t i = 0; i < r->n_domains; i++) {
        hn_hf_domain *d = &r->domain[i];
        for (int p = 0; p < HN_HF_PARTS; p++) hn_episode_source_free(d->source[p]);
        hn_class_groups_free(&d->groups);
        hn_image_set_free(d->images);
        hn_free(d->path);
    }
    hn_free(r->domain);
    hn_free(r->target);
    hn_omniglot_runs_free(r->runs);
    r->runs = NULL;
    r->domain = NULL;
    r->target = NULL;
    r->n_domains = r->n_targets = 0;
}

/* ---- the lists ---- */

enum { WORD = 512 };

/* NAME, NAME=PATH, either with :PART behind. */
typedef struct {
    char text[WORD];
    const char *name, *path, *part; /* path, part: NULL where there is none */
} spec;

static hn_status parse_spec(hn_text_list list, int64_t i, const char *option, spec *s, bool *there)
{
    const int64_t n = hn_text_list_item(list, i, s->text, sizeof s->text);
    *there = n >= 0;
    if (!*there) return HN_OK;
    if (n >= WORD) return HN_FAIL(HN_ERR_ARG, "--%s: a word of %" PRId64 " bytes", option, n);
    *s = (spec){.text = "", .name = NULL};
    hn_text_list_item(list, i, s->text, sizeof s->text);
    char *part = strrchr(s->text, ':'), *path = strchr(s->text, '=');
    if (part != NULL) *part++ = '\0';
    if (path != NULL) *path++ = '\0';
    s->name = s->text;
    s->path = path;
    s->part = part;
    const size_t length = strlen(s->name);
    if (length == 0 || length >= HN_HYPERFLOW_NAME || strpbrk(s->name, "/ ,") != NULL ||
        s->name[0] == '.')
        return HN_FAIL(HN_ERR_ARG, "--%s: '%s': NAME, NAME=PATH or NAME:PART", option, s->name);
    return HN_OK;
}

static hn_hf_domain *find(const hn_hyperflow *r, const char *name)
{
    for (int64_t i = 0; i < r->n_domains; i++)
        if (is(r->domain[i].name, name)) return &r->domain[i];
    return NULL;
}

static hn_status path_of(const hn_hyperflow *r, const spec *s, char **out)
{
    const char *path = s->path ? s->path : s->name;
    const bool own = path[0] == '/' || strncmp(path, "./", 2) == 0;
    *out = own ? hn_strdup(path) : hn_asprintf("%s/%s", r->c->data, path);
    return *out ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
}

static hn_status add_domain(hn_hyperflow *r, const spec *s, bool trains)
{
    hn_hf_domain *d = &r->domain[r->n_domains];
    snprintf(d->name, sizeof d->name, "%s", s->name);
    d->trains = trains;
    r->n_domains++;
    return path_of(r, s, &d->path);
}

/* A name means the same images wherever it stands. */
static hn_status same_path(const hn_hyperflow *r, const spec *s, const hn_hf_domain *d)
{
    char *path = NULL;
    if (s->path == NULL) return HN_OK;
    HN_TRY(path_of(r, s, &path));
    const hn_status st =
        strcmp(path, d->path) == 0
            ? HN_OK
            : HN_FAIL(HN_ERR_ARG, "--test-domains %s=%s: %s is %s already; another name for it",
                      s->name, s->path, s->name, d->path);
    hn_free(path);
    return st;
}

static hn_status training_domains(hn_hyperflow *r)
{
    spec s;
    bool there;
    for (int64_t i = 0;; i++) {
        HN_TRY(parse_spec(r->c->train_domains, i, "train-domains", &s, &there));
        if (!there) break;
        if (s.part != NULL && !is(s.part, "train"))
            return HN_FAIL(HN_ERR_ARG, "--train-domains %s:%s: trajectories are of its part train",
                           s.name, s.part);
        if (find(r, s.name) != NULL)
            return HN_FAIL(HN_ERR_ARG, "--train-domains: %s is there twice", s.name);
        HN_TRY(add_domain(r, &s, true));
    }
    r->n_train = r->n_domains;
    return r->n_train > 0 ? HN_OK : HN_FAIL(HN_ERR_ARG, "--train-domains: at least one");
}

static hn_status target_part(const spec *s, const hn_hf_domain *d, hn_hf_part *part)
{
    *part = HN_HF_TEST;
    if (s->part == NULL || is(s->part, "test")) return HN_OK;
    if (!is(s->part, "held-out"))
        return HN_FAIL(HN_ERR_ARG, "--test-domains %s:%s: parts are test and held-out", s->name,
                       s->part);
    if (!d->trains)
        return HN_FAIL(HN_ERR_ARG, "--test-domains %s:held-out: %s is none of --train-domains",
                       s->name, s->name);
    *part = HN_HF_HELD;
    return HN_OK;
}

static hn_status test_domains(hn_hyperflow *r)
{
    spec s;
    bool there;
    for (int64_t i = 0;; i++) {
        HN_TRY(parse_spec(r->c->test_domains, i, "test-domains", &s, &there));
        if (!there) return HN_OK;
        if (find(r, s.name) == NULL)
            HN_TRY(add_domain(r, &s, false));
        else
            HN_TRY(same_path(r, &s, find(r, s.name)));
        hn_hf_target *t = &r->target[r->n_targets];
        const hn_hf_domain *d = find(r, s.name);
        HN_TRY(target_part(&s, d, &t->part));
        t->domain = d - r->domain;
        snprintf(t->name, sizeof t->name, "%s%s", s.name,
                 t->part == HN_HF_HELD ? "-held-out"
                 : d->trains           ? "-test"
                                       : "");
        for (int64_t k = 0; k < r->n_targets; k++)
            if (is(r->target[k].name, t->name))
                return HN_FAIL(HN_ERR_ARG, "--test-domains: %s is there twice", t->name);
        r->n_targets++;
    }
}

static int64_t length_of(hn_text_list list)
{
    char word[8];
    int64_t n = 0;
    while (hn_text_list_item(list, n, word, sizeof word) >= 0) n++;
    return n;
}

static hn_status list_domains(hn_hyperflow *r)
{
    const size_t targets = (size_t)length_of(r->c->test_domains),
                 most = targets + (size_t)length_of(r->c->train_domains);
    r->domain = hn_calloc(most + 1, sizeof *r->domain); /* and --one-shot-runs */
    r->target = hn_calloc(targets + 1, sizeof *r->target);
    if (r->domain == NULL || r->target == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "table of %zu domains", most);
    HN_TRY(training_domains(r));
    return test_domains(r);
}

/* ---- images ---- */

/* Of a path; what is held out there, with the same classes, is as good as the rest. */
typedef struct {
    hn_image_set *train, *eval; /* eval NULL: nothing is */
} both_sets;

static void both_free(both_sets *b)
{
    hn_image_set_free(b->train);
    hn_image_set_free(b->eval);
    *b = (both_sets){NULL, NULL};
}

static hn_status read_images(const hn_hyperflow *r, const hn_hf_domain *d, int64_t size,
                             both_sets *out)
{
    const hn_image_options o = {.data = d->path,
                                .image_size = size,
                                .folder_side = r->shorter_side,
                                .folder_crop = r->shorter_side ? r->model.vision.image : 0,
                                .channels = (int)r->model.vision.channels,
                                .groups = true,
                                .class_images = r->c->class_images,
                                .class_images_name = "--class-images"};
    return hn_image_sets_open(&o, &out->train, &out->eval);
}

/* Files of many sizes become squares of the side that the backbone reads. */
static hn_status open_images(const hn_hyperflow *r, const hn_hf_domain *d, both_sets *out)
{
    const int64_t side = r->model.vision.image;
    const hn_status st = read_images(r, d, 0, out);
    if (st != HN_ERR_SHAPE) return st;
    hn_info(&r->log, "%s: images of several sizes: each becomes %" PRId64 " x %" PRId64, d->name,
            side, side);
    return read_images(r, d, side, out);
}

/* Image k of a class is for validation: a share of them, evenly. */
static bool validates(double share, int64_t k)
{
    return floor((double)(k + 1) * share) > floor((double)k * share);
}

static hn_status keep_names(const hn_images *v, bool twice, char ***out)
{
    const int32_t n = v->n_classes, all = twice ? 2 * n : n;
    char **name = hn_calloc((size_t)all + 1, sizeof *name);
    bool ok = name != NULL;
    for (int32_t k = 0; ok && k < all; k++) { /* in order: free_names ends at the first NULL */
        name[k] =
            k < n ? hn_strdup(v->class_name[k]) : hn_asprintf("valid:%s", v->class_name[k - n]);
        ok = name[k] != NULL;
    }
    *out = name;
    return ok ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "names of %d classes", (int)n);
}

static void free_names(char **name)
{
    for (int64_t i = 0; name != NULL && name[i] != NULL; i++) hn_free(name[i]);
    hn_free(name);
}

typedef struct {
    hn_images v;
    uint8_t *pixel;
    int32_t *label, *seen;
    char **name;
} kept_images;

static void kept_free(kept_images *k)
{
    hn_free(k->pixel);
    hn_free(k->label);
    hn_free(k->seen);
    free_names(k->name);
}

static void keep_from(const hn_hyperflow *r, bool trains, const hn_images *v, kept_images *k)
{
    const int64_t most = r->c->class_images > 0 ? r->c->class_images : INT64_MAX;
    const size_t each = (size_t)(v->h * v->w) * (size_t)v->c;
    for (int64_t i = 0; i < v->count; i++) {
        const int32_t c = v->label[i], place = k->seen[c];
        if (place == most) continue;
        k->seen[c]++;
        memcpy(k->pixel + (size_t)k->v.count * each, v->pixel + (size_t)i * each, each);
        k->label[k->v.count++] =
            !trains && validates(r->c->held_images, place) ? v->n_classes + c : c;
    }
}

/* At most so many images of a class, whatever the files are (of folders no more are read); of a
 * domain that does not train, some as validation classes. */
static hn_status keep(const hn_hyperflow *r, const hn_hf_domain *d, const both_sets *all,
                      kept_images *k)
{
    const hn_images *v = hn_image_set_view(all->train);
    const hn_images *w = all->eval ? hn_image_set_view(all->eval) : NULL;
    const size_t each = (size_t)(v->h * v->w) * (size_t)v->c;
    const size_t count = (size_t)v->count + (w ? (size_t)w->count : 0);
    if (w != NULL && (w->h != v->h || w->w != v->w || w->n_classes != v->n_classes))
        return HN_FAIL(HN_ERR_SHAPE, "%s: what is held out has other sizes or classes", d->path);
    k->pixel = hn_malloc(count * each);
    k->label = hn_malloc(count * sizeof *k->label);
    k->seen = hn_calloc((size_t)v->n_classes, sizeof *k->seen);
    if (k->pixel == NULL || k->label == NULL || k->seen == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%s: %zu images", d->name, count);
    HN_TRY(keep_names(v, !d->trains, &k->name));
    k->v = (hn_images){.h = v->h,
                       .w = v->w,
                       .c = v->c,
                       .pixel = k->pixel,
                       .label = k->label,
                       .n_classes = d->trains ? v->n_classes : 2 * v->n_classes,
                       .class_name = (const char *const *)k->name};
    keep_from(r, d->trains, v, k);
    if (w != NULL) keep_from(r, d->trains, w, k);
    return HN_OK;
}

/* ---- classes ---- */

static hn_status shares_of(const char *text, int64_t share[HN_PART_COUNT])
{
    const char *at = text;
    int64_t sum = 0;
    for (int p = 0; p < HN_PART_COUNT; p++) {
        char *end;
        errno = 0;
        share[p] = strtol(at, &end, 10);
        if (end == at || errno != 0 || share[p] < (p == 0) || share[p] > 100 ||
            *end != (p + 1 < HN_PART_COUNT ? '/' : '\0'))
            return HN_FAIL(HN_ERR_ARG, "--split %s: TRAIN/VALID/TEST in percent, as 64/16/20",
                           text);
        sum += share[p];
        at = end + 1;
    }
    return sum <= 100 ? HN_OK : HN_FAIL(HN_ERR_ARG, "--split %s: more than 100 percent", text);
}

/* The file that --splits has for a domain; "": none. */
static hn_status split_file(const hn_hyperflow *r, const hn_hf_domain *d, char file[WORD])
{
    spec s;
    bool there = true;
    file[0] = '\0';
    for (int64_t i = 0;; i++) {
        HN_TRY(parse_spec(r->c->splits, i, "splits", &s, &there));
        if (!there) return HN_OK;
        if (is(s.name, d->name)) snprintf(file, WORD, "%s", s.path);
    }
}

/* By the seed in shares, or by a list of its own. */
static hn_status split_classes(const hn_hyperflow *r, const hn_hf_domain *d,
                               const hn_image_set *all, hn_class_split *out)
{
    char file[WORD];
    int64_t share[HN_PART_COUNT];
    const int64_t n = hn_image_set_view(all)->n_classes;
    hn_class_split_options o = {.rule = HN_CLASS_SPLIT_COUNTS, .seed = (uint64_t)r->c->seed};
    HN_TRY(split_file(r, d, file));
    if (file[0] != '\0') {
        o = (hn_class_split_options){.rule = HN_CLASS_SPLIT_FILE, .file = file};
        HN_TRY(hn_class_split_make(all, &o, out));
        hn_info(&r->log, "%s: classes by %s", d->name, file);
        return HN_OK;
    }
    HN_TRY(shares_of(r->c->split, share));
    for (int p = 0; p < HN_PART_COUNT; p++) o.count[p] = n * share[p] / 100;
    if (share[0] + share[1] + share[2] == 100) o.count[0] = n - o.count[1] - o.count[2];
    return hn_class_split_make(all, &o, out);
}

static bool held_out(const hn_hyperflow *r, const hn_hf_domain *d, int32_t class_number)
{
    char word[WORD];
    if (d->groups.n == 0) return false;
    const char *group = d->groups.name[d->groups.of_class[class_number]];
    for (int64_t i = 0; hn_text_list_item(r->c->hold_out, i, word, sizeof word) >= 0; i++)
        if (is(word, group)) return true;
    return false;
}

static hn_status part_source(const hn_hyperflow *r, hn_hf_domain *d, hn_hf_part part,
                             const int32_t *classes, int32_t n)
{
    char name[HN_HYPERFLOW_NAME + 16];
    const bool alphabets = is(r->c->protocol, "meta-dataset") && d->alphabets;
    if (n == 0) return HN_OK;
    snprintf(name, sizeof name, "%s/%s", d->name, hn_hf_part_name(part));
    return hn_episode_source_make(d->images, name, classes, n, alphabets ? &d->groups : NULL,
                                  &d->source[part]);
}

/* The groups that were held out are what is left of every part of the split. */
static hn_status split_sources(const hn_hyperflow *r, hn_hf_domain *d, const hn_class_split *split,
                               int32_t *list)
{
    const int32_t classes = hn_image_set_view(d->images)->n_classes;
    for (int p = 0; p < HN_PART_COUNT; p++) {
        int32_t n = 0;
        for (int32_t i = 0; i < split->n[p]; i++)
            if (!held_out(r, d, split->classes[p][i])) list[n++] = split->classes[p][i];
        HN_TRY(part_source(r, d, (hn_hf_part)p, list, n));
    }
    int32_t n = 0;
    for (int32_t c = 0; c < classes; c++)
        if (held_out(r, d, c)) list[n++] = c;
    return part_source(r, d, HN_HF_HELD, list, n);
}

static hn_status own_sources(const hn_hyperflow *r, hn_hf_domain *d, int32_t *list)
{
    const int32_t half = hn_image_set_view(d->images)->n_classes / 2;
    int64_t *count = hn_calloc((size_t)half * 2 + 1, sizeof *count);
    if (count == NULL) return HN_FAIL(HN_ERR_MEMORY, "classes of %s", d->name);
    hn_image_set_histogram(d->images, count);
    hn_status st = HN_OK;
    for (int side = 0; side < 2 && st == HN_OK; side++) {
        int32_t n = 0;
        for (int32_t c = 0; c < half; c++)
            if (count[side * half + c] > 0) list[n++] = side * half + c;
        st = part_source(r, d, side ? HN_HF_VALID : HN_HF_TEST, list, n);
    }
    hn_free(count);
    return st;
}

static hn_status make_sources(const hn_hyperflow *r, hn_hf_domain *d, const hn_class_split *split)
{
    const size_t classes = (size_t)hn_image_set_view(d->images)->n_classes;
    int32_t *list = hn_malloc((classes + 1) * sizeof *list);
    if (list == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: %zu classes", d->name, classes);
    const hn_status st = d->trains ? split_sources(r, d, split, list) : own_sources(r, d, list);
    hn_free(list);
    return st;
}

/* Classes n + c, those of validation of a domain that does not train, are of the group of c. */
static hn_status double_groups(hn_class_groups *g)
{
    const int32_t n = g->n_classes;
    int32_t *of = hn_malloc((size_t)n * 2 * sizeof *of);
    if (of == NULL) return HN_FAIL(HN_ERR_MEMORY, "groups of %d classes", (int)n);
    for (int32_t c = 0; c < 2 * n; c++) of[c] = g->of_class[c % n];
    hn_free(g->of_class);
    g->of_class = of;
    g->n_classes = 2 * n;
    return HN_OK;
}

/* Data without groups have none. */
static hn_status read_groups(hn_hf_domain *d, const hn_image_set *all)
{
    const hn_images *v = hn_image_set_view(all);
    const int32_t *of;
    const char *const *names;
    bool named = false;
    for (int32_t c = 0; c < v->n_classes; c++)
        named = named || strchr(v->class_name[c], '/') != NULL;
    const bool super = hn_image_set_superclasses(all, &of, &names) > 0;
    if (!named && (!super || !d->trains)) return HN_OK;
    d->alphabets = !super; /* Meta-Dataset has no superclasses: they are for --hold-out */
    HN_TRY(hn_class_groups_make(all, &d->groups));
    return d->trains ? HN_OK : double_groups(&d->groups);
}

/* Frees what was read as soon as its images are kept: sets are large. */
static hn_status make_domain(const hn_hyperflow *r, hn_hf_domain *d, both_sets *all)
{
    kept_images k = {0};
    hn_class_split split = {0};
    const bool grouped = d->trains || is(r->c->protocol, "meta-dataset");
    hn_status st = grouped ? read_groups(d, all->train) : HN_OK;
    if (st == HN_OK && d->trains) st = split_classes(r, d, all->train, &split);
    if (st == HN_OK) st = keep(r, d, all, &k);
    both_free(all);
    if (st == HN_OK) st = hn_image_set_make(&k.v, d->name, &d->images);
    kept_free(&k);
    if (st == HN_OK) st = make_sources(r, d, &split);
    hn_class_split_free(&split);
    return st;
}

static void report(const hn_hyperflow *r, const hn_hf_domain *d)
{
    char text[256];
    size_t at = 0;
    text[0] = '\0';
    for (int p = 0; p < HN_HF_PARTS; p++) {
        const int32_t *classes;
        if (d->source[p] == NULL) continue;
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s %d", at ? ", " : "",
                               hn_hf_part_name((hn_hf_part)p),
                               (int)hn_episode_source_classes(d->source[p], &classes));
    }
    const hn_images *v = hn_image_set_view(d->images);
    hn_info(&r->log, "%s: %" PRId64 " images of %" PRId64 " x %" PRId64 ", classes: %s", d->name,
            v->count, v->h, v->w, text);
}

static hn_status open_domain(const hn_hyperflow *r, hn_hf_domain *d)
{
    both_sets all = {NULL, NULL};
    hn_status st = open_images(r, d, &all);
    if (st == HN_OK) st = make_domain(r, d, &all);
    both_free(&all);
    HN_TRY(st);
    if (d->trains && d->source[HN_HF_TRAIN] == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: no class is left to train on", d->name);
    if (d->source[HN_HF_VALID] == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: no class is left for validation", d->name);
    report(r, d);
    return HN_OK;
}

/* Every list is of a domain that trains, and of one only. */
static hn_status check_splits(const hn_hyperflow *r)
{
    spec s, other;
    bool there;
    for (int64_t i = 0;; i++) {
        HN_TRY(parse_spec(r->c->splits, i, "splits", &s, &there));
        if (!there) return HN_OK;
        if (s.path == NULL || s.path[0] == '\0' || s.part != NULL)
            return HN_FAIL(HN_ERR_ARG, "--splits: '%s': NAME=FILE", s.name);
        const hn_hf_domain *d = find(r, s.name);
        if (d == NULL || !d->trains)
            return HN_FAIL(HN_ERR_ARG, "--splits: '%s' is none of --train-domains", s.name);
        for (int64_t k = 0; k < i; k++) {
            HN_TRY(parse_spec(r->c->splits, k, "splits", &other, &there));
            if (is(other.name, s.name))
                return HN_FAIL(HN_ERR_ARG, "--splits: %s is there twice", s.name);
        }
    }
}

static hn_status check_held_out(const hn_hyperflow *r)
{
    char word[WORD];
    for (int64_t i = 0; hn_text_list_item(r->c->hold_out, i, word, sizeof word) >= 0; i++) {
        bool there = false;
        for (int64_t k = 0; k < r->n_train; k++)
            for (int32_t g = 0; g < r->domain[k].groups.n; g++)
                there = there || is(r->domain[k].groups.name[g], word);
        if (!there)
            return HN_FAIL(HN_ERR_ARG, "--hold-out: no group '%s' in --train-domains", word);
    }
    return HN_OK;
}

static hn_status check_targets(const hn_hyperflow *r)
{
    for (int64_t i = 0; i < r->n_targets; i++) {
        const hn_hf_target *t = &r->target[i];
        if (r->domain[t->domain].source[t->part] == NULL)
            return HN_FAIL(HN_ERR_ARG, "--test-domains: %s has no class", t->name);
    }
    return HN_OK;
}

const hn_hf_target *hn_hf_target_of(const hn_hyperflow *r, const char *name)
{
    char text[HN_HYPERFLOW_NAME + 16];
    if (strlen(name) >= sizeof text) return NULL;
    snprintf(text, sizeof text, "%s", name);
    for (char *c = text; *c; c++)
        if (*c == ':') *c = '-';
    for (int64_t i = 0; i < r->n_targets; i++)
        if (is(r->target[i].name, text)) return &r->target[i];
    return NULL;
}

/* ---- episodes ---- */

hn_status hn_hyperflow_sampler(const hn_hyperflow *r, const hn_hf_domain *d, hn_hf_part part,
                               hn_episode_sampler **out)
{
    const hn_hyperflow_config *c = r->c;
    const int32_t *classes;
    const int64_t n = hn_episode_source_classes(d->source[part], &classes);
    hn_episode_options o = {.seed = (uint64_t)c->seed};
    if (d->runs != NULL) { /* choices for the runs are made on episodes like them */
        const int64_t way = hn_omniglot_runs_sizes(d->runs).way;
        o = (hn_episode_options){.rule = HN_EPISODE_FIXED,
                                 .seed = (uint64_t)c->seed,
                                 .way_min = way < n ? way : n,
                                 .shot_min = 1,
                                 .query = 1};
    } else if (is(c->protocol, "meta-dataset")) {
        o.rule = HN_EPISODE_META;
        o.max_support = c->max_support;
        o.max_query = c->max_query;
    } else if (is(c->protocol, "cdfsl")) {
        o.rule = HN_EPISODE_CDFSL;
        o.shot_min = c->shot;
    } else {
        const int64_t most = c->way_most > 0 ? c->way_most : c->way;
        o = (hn_episode_options){.rule = HN_EPISODE_FIXED,
                                 .seed = (uint64_t)c->seed,
                                 .way_min = c->way < n ? c->way : n,
                                 .way_max = most < n ? most : n,
                                 .shot_min = c->shot,
                                 .shot_max = c->shot_most,
                                 .query = c->query};
    }
    return hn_episode_sampler_make(d->source[part], &o, out);
}

/* Now, not after hours: whether every part that will be drawn from has episodes. */
static hn_status check_episodes(const hn_hyperflow *r, const hn_hf_domain *d, hn_hf_part part)
{
    hn_episode_sampler *s = NULL;
    const int32_t *classes;
    const int64_t n = hn_episode_source_classes(d->source[part], &classes),
                  most = r->c->way_most > 0 ? r->c->way_most : r->c->way;
    const hn_status st = hn_hyperflow_sampler(r, d, part, &s);
    if (st == HN_OK && is(r->c->protocol, "meta-dataset"))
        hn_episode_sampler_report(s, &r->log); /* which groups have too few classes */
    hn_episode_sampler_free(s);
    if (st == HN_OK && is(r->c->protocol, "fixed") && n < most)
        hn_info(&r->log, "%s/%s: episodes have %" PRId64 " classes, there are no more", d->name,
                hn_hf_part_name(part), n);
    return st;
}

hn_status hn_hyperflow_domains(hn_hyperflow *r)
{
    HN_TRY(list_domains(r));
    HN_TRY(check_splits(r));
    for (int64_t i = 0; i < r->n_domains; i++) HN_TRY(open_domain(r, &r->domain[i]));
    HN_TRY(check_held_out(r));
    HN_TRY(check_targets(r));
    for (int64_t i = 0; i < r->n_train; i++) HN_TRY(check_episodes(r, &r->domain[i], HN_HF_TRAIN));
    for (int64_t i = 0; i < r->n_domains; i++)
        HN_TRY(check_episodes(r, &r->domain[i], HN_HF_VALID));
    for (int64_t i = 0; i < r->n_targets; i++)
        HN_TRY(check_episodes(r, &r->domain[r->target[i].domain], r->target[i].part));
    return hn_hyperflow_one_shot(r);
}
