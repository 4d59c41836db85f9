/* adapt and apply: one support set, by the whole adaptor: its biases as a file, and predictions. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/base/mapfile.h"
#include "runtime/data/image_decode.h"
#include "runtime/file/folder.h"
#include "runtime/train/hyperflow_carried.h"
#include "runtime/train/hyperflow_values.h"

enum { MOST_CLASSES = 64 }; /* of an episode: kernels/loss/proto_ce.h */

/* What is adapted to: rows of one set of images, support first where they come from folders. */
typedef struct {
    hn_hyperflow *r;
    hn_hf_network network;
    hn_hf_carried carried; /* apply: where the networks are */
    double scale, offset;
    hn_images images; /* with the queries */
    uint8_t *pixel;   /* owned, where images are */
    hn_image_set *support_set;
    int32_t *support, *label, *query, *query_label; /* owned; query_label NULL: not known */
    int64_t n_support, n_query, ways;
    char **query_name;       /* [n_query] names of files; NULL of an episode */
    const char **class_name; /* [ways] */
    char *what;              /* for the delta's metadata */
    hn_adaptor *adaptor;
    float *theta;
    int32_t *prediction;
    double ms; /* of the second run */
} adapting;

static void adapting_free(adapting *a)
{
    hn_adaptor_free(a->adaptor);
    hn_hf_network_free(&a->network);
    hn_hf_carried_close(&a->carried);
    hn_image_set_free(a->support_set);
    for (int64_t i = 0; a->query_name != NULL && i < a->n_query; i++) hn_free(a->query_name[i]);
    hn_free(a->query_name);
    hn_free(a->pixel);
    hn_free(a->support);
    hn_free(a->label);
    hn_free(a->query);
    hn_free(a->query_label);
    hn_free(a->class_name);
    hn_free(a->what);
    hn_free(a->theta);
    hn_free(a->prediction);
}

/* ---- a folder for each class ---- */

static hn_status check_classes(const char *dir, const hn_image_set *s)
{
    const hn_images *v = hn_image_set_view(s);
    if (v->n_classes < 2)
        return HN_FAIL(HN_ERR_ARG,
                       "--support %s: one class only, '%s'; at least two are told apart", dir,
                       v->class_name[0]);
    if (v->n_classes > MOST_CLASSES)
        return HN_FAIL(HN_ERR_ARG, "--support %s: %d classes, at most %d", dir, (int)v->n_classes,
                       MOST_CLASSES);
    int64_t count[MOST_CLASSES];
    hn_image_set_histogram(s, count);
    for (int32_t c = 0; c < v->n_classes; c++)
        if (count[c] == 0)
            return HN_FAIL(HN_ERR_ARG, "--support %s: class '%s' has no image", dir,
                           v->class_name[c]);
    return HN_OK;
}

/* A class whose folder is empty is an error here, and nothing to the loader. */
static hn_status check_folders(const char *dir)
{
    char **names = NULL, **files = NULL;
    int64_t n = 0, m = 0, classes = 0;
    if (!hn_is_folder(dir)) return HN_FAIL(HN_ERR_ARG, "--support %s: no such folder", dir);
    HN_TRY(hn_folder_names(dir, &names, &n));
    hn_status st = HN_OK;
    for (int64_t i = 0; i < n && st == HN_OK; i++) {
        char *path = names[i][0] != '.' ? hn_asprintf("%s/%s", dir, names[i]) : NULL;
        if (path != NULL && hn_is_folder(path)) {
            classes++;
            st = hn_folder_names(path, &files, &m);
            if (st == HN_OK && m == 0)
                st = HN_FAIL(HN_ERR_ARG, "--support %s: class '%s' has no image", dir, names[i]);
            hn_folder_names_free(files, m);
            files = NULL;
        }
        hn_free(path);
    }
    hn_folder_names_free(names, n);
    HN_TRY(st);
    return classes > 0
               ? HN_OK
               : HN_FAIL(HN_ERR_ARG, "--support %s: no folders, one for each class, in it", dir);
}

static hn_status read_support(adapting *a)
{
    const hn_hyperflow *r = a->r;
    hn_image_options o = {.data = r->c->support,
                          .kind = HN_IMAGES_FOLDER,
                          .folder_side = r->shorter_side,
                          .folder_crop = r->shorter_side ? r->model.vision.image : 0,
                          .channels = (int)r->model.vision.channels};
    HN_TRY(check_folders(o.data));
    hn_status st = hn_image_sets_open(&o, &a->support_set, NULL);
    if (st == HN_ERR_SHAPE) { /* of several sizes: squares of the side that the backbone reads */
        o.image_size = r->model.vision.image;
        st = hn_image_sets_open(&o, &a->support_set, NULL);
    }
    HN_TRY(st);
    return check_classes(o.data, a->support_set);
}

/* ---- images to be classified ---- */

static bool is_image(const char *name)
{
    static const char *const ends[] = {".jpg", ".jpeg", ".png"};
    const char *dot = strrchr(name, '.');
    for (int i = 0; dot != NULL && i < 3; i++)
        if (strcasecmp(dot, ends[i]) == 0) return name[0] != '.';
    return false;
}

static hn_status list_queries(adapting *a)
{
    char **names = NULL;
    int64_t n = 0;
    const char *dir = a->r->c->query_images;
    if (dir[0] == '\0') return HN_OK;
    if (!hn_is_folder(dir)) return HN_FAIL(HN_ERR_ARG, "--query %s: no such folder", dir);
    HN_TRY(hn_folder_names(dir, &names, &n));
    a->query_name = hn_calloc((size_t)n + 1, sizeof *a->query_name);
    bool ok = a->query_name != NULL;
    for (int64_t i = 0; i < n && ok; i++)
        if (is_image(names[i])) {
            a->query_name[a->n_query] = hn_strdup(names[i]);
            ok = a->query_name[a->n_query++] != NULL;
        }
    hn_folder_names_free(names, n);
    if (!ok) return HN_FAIL(HN_ERR_MEMORY, "names of %" PRId64 " files", n);
    return a->n_query > 0 ? HN_OK : HN_FAIL(HN_ERR_ARG, "--query %s: no JPEG or PNG file", dir);
}

/* shorter: the side that the shorter one gets; 0: images of the right size stay as they are */
static hn_status decode(const hn_images *v, int64_t shorter, const char *path,
                        const hn_mapfile *map, uint8_t *pixel)
{
    hn_image_info info;
    HN_TRY(hn_image_probe(map->data, map->size, path, 0, &info));
    if (shorter == 0 && info.h == v->h && info.w == v->w)
        return hn_image_decode(map->data, map->size, path, &info, v->c, pixel);
    if (v->h != v->w)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %" PRId64 " x %" PRId64 ", the support images are %" PRId64
                       " x %" PRId64,
                       path, info.h, info.w, v->h, v->w);
    uint8_t *whole = hn_malloc((size_t)(info.h * info.w * v->c));
    if (whole == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the pixels of %s", path);
    hn_status st = hn_image_decode(map->data, map->size, path, &info, v->c, whole);
    if (st == HN_OK)
        st = hn_image_resize_crop(whole, info.h, info.w, v->c, shorter ? shorter : v->h, v->h,
                                  pixel);
    hn_free(whole);
    return st;
}

static hn_status read_query(const adapting *a, int64_t i, uint8_t *pixel)
{
    hn_mapfile map = {0};
    char *path = hn_asprintf("%s/%s", a->r->c->query_images, a->query_name[i]);
    hn_status st = path ? hn_mapfile_open(path, &map) : HN_FAIL(HN_ERR_MEMORY, "a path");
    if (st == HN_OK) {
        st = decode(&a->images, a->r->shorter_side, path, &map, pixel);
        hn_mapfile_close(&map);
    }
    hn_free(path);
    return st;
}

/* Support images, then queries, as one set. */
static hn_status from_folders(adapting *a)
{
    HN_TRY(read_support(a));
    HN_TRY(list_queries(a));
    const hn_images *v = hn_image_set_view(a->support_set);
    const size_t each = (size_t)(v->h * v->w * v->c);
    a->images = *v;
    a->images.count = v->count + a->n_query;
    a->n_support = v->count;
    a->ways = v->n_classes;
    a->pixel = hn_malloc((size_t)a->images.count * each);
    a->support = hn_calloc((size_t)v->count, sizeof *a->support);
    a->label = hn_calloc((size_t)a->images.count, sizeof *a->label);
    a->query = hn_calloc((size_t)a->n_query + 1, sizeof *a->query);
    a->class_name = hn_calloc((size_t)a->ways, sizeof *a->class_name);
    a->what = hn_asprintf("support set %s", hn_image_set_digest(a->support_set));
    if (!a->pixel || !a->support || !a->label || !a->query || !a->class_name || !a->what)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " images", a->images.count);
    memcpy(a->pixel, v->pixel, (size_t)v->count * each);
    for (int64_t i = 0; i < v->count; i++) {
        a->support[i] = (int32_t)i;
        a->label[i] = v->label[i];
    }
    for (int64_t k = 0; k < a->ways; k++) a->class_name[k] = v->class_name[k];
    for (int64_t i = 0; i < a->n_query; i++) {
        a->query[i] = (int32_t)(v->count + i);
        HN_TRY(read_query(a, i, a->pixel + (size_t)(v->count + i) * each));
    }
    a->images.pixel = a->pixel;
    a->images.label = a->label;
    return HN_OK;
}

/* ---- a test episode ---- */

static hn_status copy(const int32_t *from, int64_t n, int32_t **to)
{
    *to = hn_calloc((size_t)n + 1, sizeof **to);
    if (*to == NULL) return HN_FAIL(HN_ERR_MEMORY, "an episode");
    memcpy(*to, from, (size_t)n * sizeof **to);
    return HN_OK;
}

static hn_status take_episode(adapting *a, const hn_hf_domain *d, const hn_hf_bench *b)
{
    hn_episode *e = NULL;
    HN_TRY(hn_hf_draw(b->main, &b->sizes, a->r->c->episode, 1, &e));
    a->images = *hn_image_set_view(d->images);
    a->n_support = e->n_support;
    a->n_query = e->n_query;
    a->ways = e->way;
    a->what = hn_asprintf("%s, episode %" PRId64, hn_episode_sampler_text(b->main), e->number);
    a->class_name = hn_calloc((size_t)a->ways, sizeof *a->class_name);
    hn_status st = a->what && a->class_name ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "an episode");
    for (int64_t k = 0; k < a->ways && st == HN_OK; k++)
        a->class_name[k] = a->images.class_name[e->classes[k]];
    if (st == HN_OK) st = copy(e->support, e->n_support, &a->support);
    if (st == HN_OK) st = copy(e->support_label, e->n_support, &a->label);
    if (st == HN_OK) st = copy(e->query, e->n_query, &a->query);
    if (st == HN_OK) st = copy(e->query_label, e->n_query, &a->query_label);
    hn_hf_episodes_free(e, 1);
    return st;
}

static hn_status from_episode(adapting *a)
{
    const hn_hyperflow *r = a->r;
    const hn_hf_target *t = hn_hf_target_of(r, r->c->of);
    hn_hf_bench b = {0};
    if (t == NULL)
        return HN_FAIL(HN_ERR_ARG, "--of: no domain '%s' among --test-domains", r->c->of);
    const hn_hf_domain *d = &r->domain[t->domain];
    HN_TRY(hn_hf_bench_open(r, d, t->part, HN_HF_VALID, &b));
    const hn_status st = take_episode(a, d, &b);
    hn_hf_bench_close(&b);
    return st;
}

/* ---- adaptation ---- */

static const hn_st_file *drift_file(const adapting *a)
{
    return a->carried.file ? a->carried.file : a->network.file;
}

static hn_status load(const adapting *a, const char *prefix, const hn_model *m, const hn_params *p)
{
    if (a->carried.file != NULL) return hn_hf_carried_load(&a->carried, prefix, p);
    return hn_model_load(m, p, (uint64_t)a->r->c->seed);
}

static hn_status set_theta0(const adapting *a)
{
    const hn_hyperflow *r = a->r;
    hn_values vectors = {0};
    float *theta0 = NULL;
    hn_status st = HN_OK;
    if (a->carried.file == NULL) {
        st = hn_hf_theta0(r, &theta0);
    } else {
        theta0 = hn_malloc((size_t)r->theta.count * sizeof *theta0);
        st = theta0 ? hn_hf_carried_biases(&a->carried, &r->theta, &vectors, theta0)
                    : HN_FAIL(HN_ERR_MEMORY, "biases of the backbone");
    }
    if (st == HN_OK) st = hn_adaptor_set_theta(a->adaptor, theta0, a->network.facts.sigma);
    hn_values_free(&vectors);
    hn_free(theta0);
    return st;
}

static hn_status open_adaptor(adapting *a)
{
    const hn_hyperflow *r = a->r;
    const bool classifies = a->n_query > 0;
    const hn_adaptor_options o = {.device = r->device,
                                  .executor = hn_executor_of(r->c->executor),
                                  .drift = &a->network.facts.config,
                                  .integrator = hn_hf_integrator(r->c),
                                  .steps = r->c->integration_steps,
                                  .episodes = 1,
                                  .support = a->n_support,
                                  .encoder = &r->encoder.vision,
                                  .backbone = classifies ? &r->model.vision : NULL,
                                  .theta = &r->theta,
                                  .queries = a->n_query,
                                  .ways = classifies ? a->ways : 0,
                                  .scale = (float)a->scale,
                                  .offset = (float)a->offset,
                                  .images = &a->images,
                                  .dtype = r->model.dtype,
                                  .workspace = HN_ADAPTOR_WORKSPACE};
    HN_TRY(hn_adaptor_new(&o, &a->adaptor));
    HN_TRY(hn_adaptor_allocate(a->adaptor));
    HN_TRY(hn_drift_file_load(drift_file(a), hn_adaptor_drift(a->adaptor)));
    HN_TRY(load(a, "encoder.", &r->encoder, hn_adaptor_encoder(a->adaptor)));
    if (classifies) HN_TRY(load(a, "backbone.", &r->model, hn_adaptor_backbone(a->adaptor)));
    HN_TRY(set_theta0(a));
    return hn_adaptor_set_stop(a->adaptor, r->c->stop);
}

/* A network that was damaged, or is integrated beyond what it has learned. */
static hn_status check_theta(const adapting *a)
{
    const hn_hyperflow *r = a->r;
    const hn_theta_part *p = hn_theta_not_finite(&r->theta, a->theta);
    if (p == NULL) return HN_OK;
    return HN_FAIL(HN_ERR_NUMERIC,
                   "%s: integration (%s %" PRId64 ", stop %g) comes to numbers that are not finite",
                   p->name, r->c->integrator, r->c->integration_steps, r->c->stop);
}

/* Adapts and, where there are queries, classifies; a->ms of all but the upload. */
static hn_status run_once(adapting *a)
{
    hn_adaptor_batch b;
    const hn_adaptor_task t = {.support = a->support,
                               .support_label = a->label,
                               .query = a->query,
                               .query_label = a->query_label,
                               .n_support = a->n_support,
                               .n_query = a->n_query};
    HN_TRY(hn_adaptor_batch_of(a->adaptor, &b));
    HN_TRY(hn_adaptor_put(a->adaptor, &b, 0, &t));
    const int64_t begun = hn_clock_ns();
    HN_TRY(hn_adaptor_run(a->adaptor));
    HN_TRY(hn_adaptor_theta(a->adaptor, a->theta));
    a->ms = (double)(hn_clock_ns() - begun) * 1e-6;
    return HN_OK;
}

/* Twice, to the same bits: the first time pays for what a device loads once, the second is what an
 * episode takes. */
static hn_status run(adapting *a)
{
    a->theta = hn_malloc((size_t)a->r->theta.count * sizeof *a->theta);
    a->prediction = hn_calloc((size_t)a->n_query + 1, sizeof *a->prediction);
    if (a->theta == NULL || a->prediction == NULL) return HN_FAIL(HN_ERR_MEMORY, "results");
    for (int i = 0; i < 2; i++) HN_TRY(run_once(a));
    HN_TRY(check_theta(a));
    return a->n_query > 0 ? hn_adaptor_predictions(a->adaptor, a->prediction) : HN_OK;
}

/* ---- files ---- */

/* The backbone's vectors, as it has them. */
static hn_status base_vectors(const adapting *a, hn_values *out)
{
    const hn_hyperflow *r = a->r;
    if (a->carried.file == NULL) return hn_hf_values(&r->model, (uint64_t)r->c->seed, out);
    float *theta0 = hn_malloc((size_t)r->theta.count * sizeof *theta0);
    const hn_status st = theta0 ? hn_hf_carried_biases(&a->carried, &r->theta, out, theta0)
                                : HN_FAIL(HN_ERR_MEMORY, "biases of the backbone");
    hn_free(theta0);
    return st;
}

static hn_status save_delta(const adapting *a, const char *path)
{
    const hn_hyperflow *r = a->r;
    const bool carried = a->carried.file != NULL;
    char hex[HN_SHA256_HEX];
    hn_values model = {0}, delta = {0};
    char *settings = hn_asprintf("%s %" PRId64 ", stop %.9g", r->c->integrator,
                                 r->c->integration_steps, r->c->stop);
    hn_status st = settings ? base_vectors(a, &model) : HN_FAIL(HN_ERR_MEMORY, "settings");
    if (st == HN_OK) st = hn_hf_biases(&r->theta, a->theta, &model, &delta);
    if (st == HN_OK) {
        const char *const metadata[][2] = {
            {"format", "pt"},
            {"program", "hone-hyperflow"},
            {"base", carried ? a->carried.base : r->base_digest},
            {"drift", carried ? a->carried.drift : a->network.digest},
            {"encoder", carried ? a->carried.encoder : r->encoder_digest},
            {"episode", a->what},
            {"integration", settings}};
        st = hn_values_save(path, &delta, metadata, 7, hex);
    }
    hn_values_free(&delta);
    hn_values_free(&model);
    hn_free(settings);
    return st;
}

/* Text between quotes, with quotes in it doubled. */
static void quoted(FILE *f, const char *text)
{
    fputc('"', f);
    for (const char *c = text; *c; c++) {
        if (*c == '"') fputc('"', f);
        fputc(*c, f);
    }
    fputc('"', f);
}

static void print_rows(const adapting *a, FILE *f)
{
    fprintf(f, "query,class%s\n", a->query_label ? ",true" : "");
    for (int64_t i = 0; i < a->n_query; i++) {
        const int32_t p = a->prediction[i];
        if (a->query_name != NULL)
            quoted(f, a->query_name[i]);
        else
            fprintf(f, "%" PRId32, a->query[i]);
        fputc(',', f);
        quoted(f, p >= 0 && p < a->ways ? a->class_name[p] : "");
        if (a->query_label != NULL) {
            fputc(',', f);
            quoted(f, a->class_name[a->query_label[i]]);
        }
        fputc('\n', f);
    }
}

static hn_status save_predictions(const adapting *a, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (f == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for predictions");
    print_rows(a, f);
    const bool closed = fclose(f) == 0;
    const hn_status st =
        closed ? hn_save_text(path, text) : HN_FAIL(HN_ERR_MEMORY, "no memory for predictions");
    free(text);
    return st;
}

static hn_status save_all(const adapting *a, const char *dir)
{
    char *delta = hn_asprintf("%s/delta.safetensors", dir),
         *csv = hn_asprintf("%s/predictions.csv", dir);
    hn_status st = delta && csv ? save_delta(a, delta) : HN_FAIL(HN_ERR_MEMORY, "paths");
    if (st == HN_OK && a->n_query > 0) st = save_predictions(a, csv);
    hn_free(delta);
    hn_free(csv);
    return st;
}

static void say(const adapting *a)
{
    const hn_hyperflow *r = a->r;
    int64_t hits = 0;
    for (int64_t i = 0; a->query_label && i < a->n_query; i++)
        hits += a->prediction[i] == a->query_label[i];
    fprintf(r->to,
            "adapted: %" PRId64 " classes, %" PRId64 " support images, %" PRId64
            " biases, %.1f ms%s\n",
            a->ways, a->n_support, r->theta.count, a->ms, a->n_query ? " with queries" : "");
    if (a->query_label)
        fprintf(r->to, "queries: %" PRId64 " of %" PRId64 " right (%.2f %%)\n", hits, a->n_query,
                100 * (double)hits / (double)a->n_query);
    fprintf(r->to, "delta:   %s/delta.safetensors\n", r->c->to);
    if (a->n_query > 0) fprintf(r->to, "         %s/predictions.csv\n", r->c->to);
}

static hn_status check_to(const hn_hyperflow *r)
{
    if (hn_is_folder(r->c->to) || hn_is_file(r->c->to))
        return HN_FAIL(HN_ERR_ARG, "--to %s: is there already", r->c->to);
    return HN_OK;
}

/* With networks and images at hand. */
static hn_status adapt(adapting *a)
{
    hn_hyperflow *r = a->r;
    hn_folder *folder = NULL;
    HN_TRY(open_adaptor(a));
    HN_TRY(run(a));
    HN_TRY(hn_folder_begin(r->c->to, &folder));
    const hn_status st = save_all(a, hn_folder_temporary(folder));
    if (st != HN_OK) {
        hn_folder_abort(folder);
        return st;
    }
    HN_TRY(hn_folder_commit(folder, false));
    say(a);
    return HN_OK;
}

static hn_status adapt_in_run(adapting *a)
{
    hn_hyperflow *r = a->r;
    HN_TRY(check_to(r));
    HN_TRY(r->c->support[0] ? from_folders(a) : from_episode(a));
    HN_TRY(hn_hf_network_open(r, &a->network));
    a->scale = r->c->scale;
    a->offset = r->c->offset;
    return adapt(a);
}

hn_status hn_hyperflow_adapt(const hn_verb_call *c)
{
    hn_hyperflow r;
    adapting a = {.r = &r};
    const hn_hyperflow_config *config = c->config;
    hn_status st = hn_hyperflow_open(c, config->of[0] != '\0', &r);
    if (st == HN_OK) st = hn_hyperflow_folder_read(&r, false);
    if (st == HN_OK) st = adapt_in_run(&a);
    adapting_free(&a);
    hn_hyperflow_close(&r);
    return st;
}

static hn_status apply(adapting *a)
{
    hn_hyperflow *r = a->r;
    HN_TRY(hn_hyperflow_one_gpu(r->c));
    HN_TRY(check_to(r));
    if (r->c->support[0] == '\0')
        return HN_FAIL(HN_ERR_ARG, "--support FOLDER says what to adapt to");
    HN_TRY(hn_hf_carried_open(r, r->c->file, &a->network, &a->carried));
    HN_TRY(from_folders(a));
    a->scale = a->carried.scale;
    a->offset = a->carried.offset;
    HN_TRY(hn_hyperflow_machine(r));
    return adapt(a);
}

hn_status hn_hyperflow_apply(const hn_verb_call *c)
{
    hn_hyperflow r = {.c = c->config, .call = c, .log = c->log, .to = c->to};
    adapting a = {.r = &r};
    const hn_status st = apply(&a);
    adapting_free(&a);
    hn_hyperflow_close(&r);
    return st;
}
