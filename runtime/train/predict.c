/* `predict`: the most probable classes of image files. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "runtime/base/alloc.h"
#include "runtime/base/mapfile.h"
#include "runtime/data/image_decode.h"
#include "runtime/file/folder.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/verbs.h"

enum { MOST_IMAGES = 32 }; /* at a time */

typedef struct {
    int32_t id;
    float p;
} guess;

/* ---- files ---- */

static bool is_image(const char *name)
{
    static const char *const ends[] = {".jpg", ".jpeg", ".png"};
    const char *dot = strrchr(name, '.');
    for (int i = 0; dot != NULL && i < 3; i++)
        if (strcasecmp(dot, ends[i]) == 0) return name[0] != '.';
    return false;
}

static hn_status add_folder(const char *folder, hn_names *out)
{
    char **names = NULL;
    int64_t n = 0;
    hn_status st = hn_folder_names(folder, &names, &n);
    for (int64_t i = 0; st == HN_OK && i < n; i++) {
        if (!is_image(names[i])) continue;
        char *path = hn_asprintf("%s/%s", folder, names[i]);
        st = path ? hn_names_add(out, path) : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", folder);
        hn_free(path);
    }
    hn_folder_names_free(names, n);
    return st;
}

static hn_status list_files(hn_text_list from, hn_names *out)
{
    char path[4096];
    for (int64_t i = 0;; i++) {
        const int64_t n = hn_text_list_item(from, i, path, sizeof path);
        if (n < 0) break;
        if (n >= (int64_t)sizeof path)
            return HN_FAIL(HN_ERR_ARG, "--images: a path of %" PRId64 " bytes", n);
        HN_TRY(hn_is_folder(path) ? add_folder(path, out) : hn_names_add(out, path));
    }
    return out->n > 0 ? HN_OK
                      : HN_FAIL(HN_ERR_ARG, "--images %s: no JPEG or PNG file there", from.joined);
}

/* One file as the model reads images. pixel: [image, image, channels] */
static hn_status decode(const hn_vision_config *v, const char *path, const hn_mapfile *map,
                        uint8_t *pixel)
{
    hn_image_info info;
    const int c = (int)v->channels;
    HN_TRY(hn_image_probe(map->data, map->size, path, 0, &info));
    uint8_t *whole = hn_malloc((size_t)(info.h * info.w * c));
    if (whole == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the pixels of %s", path);
    hn_status st = hn_image_decode(map->data, map->size, path, &info, c, whole);
    if (st == HN_OK) st = hn_image_resize_crop(whole, info.h, info.w, c, v->image, v->image, pixel);
    hn_free(whole);
    return st;
}

static hn_status read_image(const hn_vision_config *v, const char *path, uint8_t *pixel)
{
    hn_mapfile map = {0};
    HN_TRY(hn_mapfile_open(path, &map));
    const hn_status st = decode(v, path, &map, pixel);
    hn_mapfile_close(&map);
    return st;
}

/* ---- probabilities ---- */

static int by_probability(const void *a, const void *b)
{
    const guess *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

/* Softmax of one image's logits, the most probable class first. */
static void rank(const float *logit, int64_t n, guess *out)
{
    float most = logit[0];
    double sum = 0;
    for (int64_t i = 1; i < n; i++) most = logit[i] > most ? logit[i] : most;
    for (int64_t i = 0; i < n; i++) sum += exp((double)(logit[i] - most));
    for (int64_t i = 0; i < n; i++)
        out[i] = (guess){(int32_t)i, (float)(exp((double)(logit[i] - most)) / sum)};
    qsort(out, (size_t)n, sizeof *out, by_probability);
}

static void print_class(FILE *to, const hn_session *s, int32_t id)
{
    const char *name = hn_model_class(&s->model, id);
    if (name != NULL)
        fputs(name, to);
    else
        fprintf(to, "%" PRId32, id);
}

/* "cat.png  tabby  81.20 %   (tabby 81.20 %, ...)": one line a file. */
static void print_image(FILE *to, const hn_session *s, const char *path, const guess *g)
{
    const int64_t classes = s->model.vision.classes;
    fprintf(to, "%s  ", path);
    for (int64_t i = 0; i < s->run->top && i < classes; i++) {
        fputs(i ? ", " : "", to);
        print_class(to, s, g[i].id);
        fprintf(to, " %.2f %%", 100 * (double)g[i].p);
    }
    fputc('\n', to);
}

/* ---- the verb ---- */

typedef struct {
    uint8_t *pixel; /* [MOST_IMAGES] images */
    float *logits;  /* [MOST_IMAGES, classes] */
    guess *guess;   /* [classes] */
} buffers;

/* Files first .. first + n - 1. */
static hn_status predict(hn_session *s, FILE *to, const hn_names *files, int64_t first, int64_t n,
                         const buffers *b)
{
    const hn_vision_config *v = &s->model.vision;
    const int64_t size = v->image * v->image * v->channels;
    const hn_tensor *logits;
    for (int64_t i = 0; i < n; i++)
        HN_TRY(read_image(v, files->items[first + i], b->pixel + i * size));
    HN_TRY(hn_classifier_outputs(&s->images.job, s->engine, b->pixel, n, &logits, NULL));
    HN_TRY(hn_tensor_get(logits, b->logits));
    for (int64_t i = 0; i < n; i++) {
        rank(b->logits + i * v->classes, v->classes, b->guess);
        print_image(to, s, files->items[first + i], b->guess);
    }
    return HN_OK;
}

static hn_status predict_all(hn_session *s, FILE *to, const hn_names *files)
{
    const hn_vision_config *v = &s->model.vision;
    const int64_t size = v->image * v->image * v->channels, most = s->images.probe_images;
    buffers b = {hn_malloc((size_t)(most * size)),
                 hn_malloc((size_t)(most * v->classes) * sizeof(float)),
                 hn_malloc((size_t)v->classes * sizeof(guess))};
    hn_status st = HN_OK;
    if (b.pixel == NULL || b.logits == NULL || b.guess == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " images", most);
    for (int64_t i = 0; st == HN_OK && i < files->n; i += most)
        st = predict(s, to, files, i, files->n - i < most ? files->n - i : most, &b);
    hn_free(b.pixel);
    hn_free(b.logits);
    hn_free(b.guess);
    return st;
}

hn_status hn_verb_predict(hn_session *s, FILE *to)
{
    hn_names files = {0};
    hn_status st = hn_session_machine(s, false);
    if (st == HN_OK) st = hn_session_model(s, false);
    if (st == HN_OK && !hn_session_has_images(s))
        st = HN_FAIL(HN_ERR_ARG, "model %s is a decoder: it sees no images; 'generate' writes text",
                     s->run->model);
    if (st == HN_OK) st = list_files(s->run->images, &files);
    s->images.probe_images = files.n < MOST_IMAGES ? files.n : MOST_IMAGES;
    if (st == HN_OK) st = hn_session_plan(s, false, true);
    if (st == HN_OK) st = hn_session_load(s);
    if (st == HN_OK) st = predict_all(s, to, &files);
    hn_names_clear(&files);
    return st;
}
