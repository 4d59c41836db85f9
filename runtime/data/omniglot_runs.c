/* First the names of all files and who belongs to whom, then their pixels. */
#include "runtime/data/omniglot_runs.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/mapfile.h"
#include "runtime/data/data_util.h"
#include "runtime/data/image_decode.h"
#include "runtime/data/images_impl.h"

enum { MAX_RUNS = 99 }; /* run01 .. run99 */

typedef struct {
    int64_t first_image; /* the training images, `way` of them, then the queries */
    int32_t way, n_query, first_class;
} one_run;

struct hn_omniglot_runs {
    hn_image_set *images;
    int64_t n;
    one_run run[MAX_RUNS];
};

/* Everything that is known before a picture is read. */
typedef struct {
    hn_paths files, classes; /* classes: "run01/class01" */
    int32_t *label;          /* of each file */
    int64_t label_room;
} listing;

/* ---- names ---- */

static hn_status add_file(listing *l, const char *folder, const char *inside, int32_t label)
{
    HN_TRY(hn_paths_add(&l->files, hn_asprintf("%s/%s", folder, inside)));
    HN_TRY(hn_reserve(&l->label, &l->label_room, l->files.n, sizeof *l->label));
    l->label[l->files.n - 1] = label;
    return HN_OK;
}

static int64_t find(const hn_paths *p, const char *name)
{
    for (int64_t i = 0; i < p->n; i++)
        if (strcmp(p->path[i], name) == 0) return i;
    return -1;
}

/* The files of run<number>/<part>/, sorted. */
static hn_status list_part(const char *folder, int number, const char *part, hn_paths *out)
{
    char *path = hn_asprintf("%s/run%02d/%s", folder, number, part);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    hn_status st = hn_paths_list(path, false, out);
    if (st == HN_OK && (out->n == 0 || out->n > INT16_MAX))
        st = HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " files: 1..%d", path, out->n, INT16_MAX);
    hn_free(path);
    return st;
}

/* The place of "run<number>/<part>/<name>" among the names of this part; -1: not of that form, or
 * not there. */
static int64_t place_of(const char *text, int number, const char *part, const hn_paths *names)
{
    char begin[32];
    const int n = snprintf(begin, sizeof begin, "run%02d/%s/", number, part);
    return strncmp(text, begin, (size_t)n) == 0 ? find(names, text + n) : -1;
}

/* A line of class_labels.txt, cut at its blank: *test and *training are places in the two lists. */
static hn_status read_line(char *line, int number, const hn_paths *training, const hn_paths *tests,
                           const char *path, int64_t at, int64_t *training_at, int64_t *test_at)
{
    const size_t first = strcspn(line, " \t");
    char *second = line + first + strspn(line + first, " \t");
    second[strcspn(second, " \t")] = '\0'; /* blanks at the end */
    line[first] = '\0';
    *test_at = place_of(line, number, "test", tests);
    *training_at = place_of(second, number, "training", training);
    if (*test_at < 0 || *training_at < 0)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s:%" PRId64 ": '%.60s' '%.60s' are not run%02d/test/<a file there> and "
                       "run%02d/training/<a file there>",
                       path, at, line, second, number, number);
    return HN_OK;
}

/* The test images in the order of the lines. */
static hn_status add_tests(const char *folder, int number, const char *text, size_t n_bytes,
                           const char *path, const hn_paths *training, const hn_paths *tests,
                           int32_t first_class, listing *l)
{
    hn_status st = HN_OK;
    int64_t named = 0;
    bool *seen = hn_calloc((size_t)tests->n, sizeof *seen);
    if (seen == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for names");
    const char *at = text, *end = text + n_bytes;
    for (int64_t line_number = 1; st == HN_OK && at < end; line_number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (stop == NULL) stop = end;
        size_t n = (size_t)(stop - at);
        if (n > 0 && at[n - 1] == '\r') n--;
        char *line = hn_strndup(at, n);
        int64_t of = 0, which = 0;
        at = stop + 1;
        if (line == NULL) {
            st = HN_FAIL(HN_ERR_MEMORY, "no memory for a line");
        } else if (n > 0) {
            st = read_line(line, number, training, tests, path, line_number, &of, &which);
            if (st == HN_OK && seen[which])
                st = HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": %s stands in a line before", path,
                             line_number, line);
            if (st == HN_OK) {
                seen[which] = true;
                named++;
                st = add_file(l, folder, line, first_class + (int32_t)of);
            }
        }
        hn_free(line);
    }
    for (int64_t i = 0; st == HN_OK && named < tests->n && i < tests->n; i++)
        if (!seen[i])
            st = HN_FAIL(HN_ERR_FORMAT, "%s: no line for run%02d/test/%s", path, number,
                         tests->path[i]);
    hn_free(seen);
    return st;
}

/* "class01" of "class01.png". */
static hn_status add_training(const char *folder, int number, const hn_paths *names, listing *l)
{
    for (int64_t i = 0; i < names->n; i++) {
        char *inside = hn_asprintf("run%02d/training/%s", number, names->path[i]);
        if (inside == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
        const hn_status st = add_file(l, folder, inside, (int32_t)l->classes.n);
        hn_free(inside);
        HN_TRY(st);
        const int n = (int)strcspn(names->path[i], ".");
        HN_TRY(hn_paths_add(&l->classes, hn_asprintf("run%02d/%.*s", number, n, names->path[i])));
    }
    return HN_OK;
}

static hn_status list_run(const char *folder, int number, listing *l, one_run *run)
{
    hn_status st = HN_OK;
    hn_paths training = {0}, tests = {0};
    hn_mapfile m = {0};
    char *path = hn_asprintf("%s/run%02d/class_labels.txt", folder, number);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    run->first_image = l->files.n;
    run->first_class = (int32_t)l->classes.n;
    HN_TRY_GOTO(st, list_part(folder, number, "training", &training), done);
    HN_TRY_GOTO(st, list_part(folder, number, "test", &tests), done);
    HN_TRY_GOTO(st, hn_mapfile_open(path, &m), done);
    HN_TRY_GOTO(st, add_training(folder, number, &training, l), done);
    HN_TRY_GOTO(st,
                add_tests(folder, number, m.data ? (const char *)m.data : "", m.size, path,
                          &training, &tests, run->first_class, l),
                done);
    run->way = (int32_t)training.n;
    run->n_query = (int32_t)tests.n;

done:
    hn_mapfile_close(&m);
    hn_paths_free(&training);
    hn_paths_free(&tests);
    hn_free(path);
    return st;
}

/* How many folders run01, run02, ... there are. */
static hn_status count_runs(const char *folder, int64_t *n)
{
    hn_paths below = {0};
    HN_TRY(hn_paths_list(folder, true, &below));
    hn_status st = HN_OK;
    char name[16];
    *n = 0;
    for (int64_t i = 0; st == HN_OK && i < below.n; i++) { /* sorted */
        if (strncmp(below.path[i], "run", 3) != 0) continue;
        snprintf(name, sizeof name, "run%02d", (int)*n + 1);
        if (*n == MAX_RUNS || strcmp(below.path[i], name) != 0)
            st = HN_FAIL(HN_ERR_FORMAT, "%s: folder %s, where %s comes next (run01 to run%d)",
                         folder, below.path[i], name, MAX_RUNS);
        ++*n;
    }
    if (st == HN_OK && *n == 0)
        st =
            HN_FAIL(HN_ERR_ARG,
                    "%s: no folder run01: the one-shot runs are all_runs.zip of Omniglot, unpacked",
                    folder);
    hn_paths_free(&below);
    return st;
}

/* ---- pixels ---- */

/* Grey, size of the first image; inverted: 255 is ink. */
static hn_status decode(const char *path, const hn_images *v, uint8_t *pixel)
{
    hn_mapfile m = {0};
    hn_image_info info;
    HN_TRY(hn_mapfile_open(path, &m));
    hn_status st = hn_image_probe(m.data, m.size, path, 0, &info);
    if (st == HN_OK && (info.h != v->h || info.w != v->w))
        st = HN_FAIL(HN_ERR_SHAPE,
                     "%s is %" PRId64 " x %" PRId64 " pixels, the first image %" PRId64
                     " x %" PRId64,
                     path, info.w, info.h, v->w, v->h);
    if (st == HN_OK) st = hn_image_decode(m.data, m.size, path, &info, 1, pixel);
    for (int64_t i = 0; st == HN_OK && i < v->h * v->w; i++) pixel[i] = (uint8_t)(255 - pixel[i]);
    hn_mapfile_close(&m);
    return st;
}

static hn_status probe_first(const char *path, hn_images *v)
{
    hn_mapfile m = {0};
    hn_image_info info;
    HN_TRY(hn_mapfile_open(path, &m));
    const hn_status st = hn_image_probe(m.data, m.size, path, 0, &info);
    hn_mapfile_close(&m);
    HN_TRY(st);
    v->h = info.h;
    v->w = info.w;
    v->c = 1;
    return HN_OK;
}

static hn_status read_images(const char *folder, const listing *l, int64_t image_size, int channels,
                             hn_image_set **out)
{
    const hn_image_options o = {.image_size = image_size, .channels = channels};
    hn_images v = {.count = l->files.n};
    hn_status st = HN_OK;
    hn_image_set *s = NULL;
    HN_TRY(probe_first(l->files.path[0], &v));
    if (v.count > HN_IMAGE_MAX_BYTES / (v.h * v.w))
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " images of %" PRId64 " x %" PRId64 " pixels",
                       folder, v.count, v.w, v.h);
    HN_TRY(hn_images_new(folder, &s));
    s->kind = "Omniglot's one-shot runs";
    s->named = true;
    HN_TRY_GOTO(st, hn_images_room(s, &v, v.count), done);
    HN_TRY_GOTO(
        st, hn_images_copy_names(s, (const char *const *)l->classes.path, (int32_t)l->classes.n),
        done);
    memcpy(s->label, l->label, (size_t)v.count * sizeof *s->label);
    for (int64_t i = 0; i < v.count; i++)
        HN_TRY_GOTO(st, decode(l->files.path[i], &v, s->pixel + i * v.h * v.w), done);
    HN_TRY_GOTO(st, hn_images_settle(s, &o), done);
    HN_TRY_GOTO(st, hn_images_seal(s), done);
    *out = s;
    s = NULL;

done:
    hn_image_set_free(s);
    return st;
}

/* ---- the runs ---- */

static hn_status check_place(const char *folder, int64_t image_size, int channels)
{
    struct stat info;
    const size_t n = strlen(folder);
    if ((n > 4 && strcmp(folder + n - 4, ".zip") == 0) ||
        (stat(folder, &info) == 0 && !S_ISDIR(info.st_mode)))
        return HN_FAIL(HN_ERR_ARG,
                       "%s: not a folder: archives are not read, unpack it (unzip) and name the "
                       "folder with run01",
                       folder);
    if (image_size < 0 || image_size > HN_IMAGE_MAX_SIDE)
        return HN_FAIL(HN_ERR_ARG, "image size %" PRId64 ": 1..%d", image_size, HN_IMAGE_MAX_SIDE);
    if (channels != 0 && channels != 1 && channels != 3)
        return HN_FAIL(HN_ERR_ARG, "%d channels: 1 or 3", channels);
    return HN_OK;
}

hn_status hn_omniglot_runs_open(const char *folder, int64_t image_size, int channels,
                                hn_omniglot_runs **out)
{
    hn_status st = HN_OK;
    listing l = {0};
    HN_TRY(check_place(folder, image_size, channels));
    hn_omniglot_runs *r = hn_calloc(1, sizeof *r);
    if (r == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for one-shot runs", sizeof *r);
    HN_TRY_GOTO(st, count_runs(folder, &r->n), done);
    for (int64_t k = 0; k < r->n; k++)
        HN_TRY_GOTO(st, list_run(folder, (int)k + 1, &l, &r->run[k]), done);
    HN_TRY_GOTO(st, read_images(folder, &l, image_size, channels, &r->images), done);
    *out = r;
    r = NULL;

done:
    hn_paths_free(&l.files);
    hn_paths_free(&l.classes);
    hn_free(l.label);
    hn_omniglot_runs_free(r);
    return st;
}

void hn_omniglot_runs_free(hn_omniglot_runs *r)
{
    if (r == NULL) return;
    hn_image_set_free(r->images);
    hn_free(r);
}

int64_t hn_omniglot_runs_count(const hn_omniglot_runs *r) { return r->n; }
const hn_image_set *hn_omniglot_runs_images(const hn_omniglot_runs *r) { return r->images; }

hn_episode_sizes hn_omniglot_runs_sizes(const hn_omniglot_runs *r)
{
    hn_episode_sizes s = {0};
    for (int64_t k = 0; k < r->n; k++) {
        if (r->run[k].way > s.way) s.way = s.support = r->run[k].way;
        if (r->run[k].n_query > s.query) s.query = r->run[k].n_query;
    }
    return s;
}

hn_status hn_omniglot_runs_draw(const hn_omniglot_runs *r, int64_t number, hn_episode *out)
{
    if (number < 0 || number >= r->n)
        return HN_FAIL(HN_ERR_ARG, "one-shot run %" PRId64 " of 0..%" PRId64, number, r->n - 1);
    const one_run *run = &r->run[number];
    const int32_t *label = hn_image_set_view(r->images)->label;
    if (out->max_way < run->way || out->max_support < run->way || out->max_query < run->n_query)
        return HN_FAIL(HN_ERR_ARG, "a one-shot run of %d classes and %d queries: no room for it",
                       (int)run->way, (int)run->n_query);
    out->number = number;
    out->way = out->n_support = run->way;
    out->n_query = run->n_query;
    for (int32_t k = 0; k < run->way; k++) {
        out->support[k] = (int32_t)run->first_image + k;
        out->support_label[k] = k;
        out->classes[k] = run->first_class + k;
    }
    for (int32_t i = 0; i < run->n_query; i++) {
        out->query[i] = (int32_t)run->first_image + run->way + i;
        out->query_label[i] = label[out->query[i]] - run->first_class;
    }
    hn_episode_pad(out);
    return HN_OK;
}
