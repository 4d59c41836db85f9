/* A folder for each class. First the heads of all files, which settle size and channels; then one
 * array for all pixels, filled by all threads. The error reported is that of the first file in
 * order, however many threads met one. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "runtime/data/data_util.h"
#include "runtime/data/image_decode.h"
#include "runtime/data/images_impl.h"

typedef struct {
    hn_paths files;
    int64_t most; /* files of a class; 0: all */
    int64_t here; /* of the class that is being listed */
    int32_t *label;
    int64_t label_room;
    hn_image_info *info;
} listing;

typedef struct {
    int64_t at; /* INT64_MAX: none */
    hn_status status;
    char text[512];
} first_error;

static void note_error(first_error *e, int64_t at, hn_status st)
{
#pragma omp critical(hn_images_folder)
    if (at < e->at) {
        e->at = at;
        e->status = st;
        snprintf(e->text, sizeof e->text, "%s", hn_error_reason(st, hn_last_error()));
    }
}

static int64_t error_at(const first_error *e)
{
    int64_t at;
#pragma omp atomic read
    at = e->at;
    return at;
}

/* ---- names ---- */

static const char *const read_endings[] = {".jpg", ".jpeg", ".png", NULL};
static const char *const other_endings[] = {".gif", ".bmp", ".webp", ".tif",  ".tiff",
                                            ".ppm", ".pgm", ".heic", ".avif", ".jp2",
                                            ".jxl", ".npy", ".tga",  NULL};

static bool has_ending(const char *name, const char *const *endings)
{
    const char *dot = strrchr(name, '.');
    for (; dot != NULL && *endings != NULL; endings++)
        if (strcasecmp(dot, *endings) == 0) return true;
    return false;
}

bool hn_images_named(const char *name)
{
    return has_ending(name, read_endings) || has_ending(name, other_endings);
}

/* One file of a class: taken, left out behind the first ones, skipped and counted, or refused. */
static hn_status add_file(listing *l, const char *folder, const char *name, int32_t class,
                          hn_image_set *s)
{
    if (has_ending(name, other_endings))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s/%s: only JPEG and PNG images are read: convert it",
                       folder, name);
    char *path = hn_asprintf("%s/%s", folder, name);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a list of files");
    if (!has_ending(name, read_endings)) {
        if (s->n_skipped++ == 0)
            s->first_skipped = path;
        else
            hn_free(path);
        return HN_OK;
    }
    if (l->most > 0 && l->here == l->most) {
        hn_free(path);
        s->n_left_out++;
        return HN_OK;
    }
    HN_TRY(hn_paths_add(&l->files, path));
    l->here++;
    HN_TRY(hn_reserve(&l->label, &l->label_room, l->files.n, sizeof *l->label));
    l->label[l->files.n - 1] = class;
    return HN_OK;
}

static hn_status add_class(listing *l, const char *folder, int32_t class, hn_image_set *s)
{
    hn_status st = HN_OK;
    hn_paths names = {0}, below = {0};
    l->here = 0;
    HN_TRY_GOTO(st, hn_paths_list(folder, true, &below), done);
    if (below.n > 0) {
        st = HN_FAIL(HN_ERR_ARG,
                     "%s: a folder in the folder of a class (%s): images lie in "
                     "<data>/<class>/ or <data>/train/<class>/",
                     folder, below.path[0]);
        goto done;
    }
    HN_TRY_GOTO(st, hn_paths_list(folder, false, &names), done);
    for (int64_t i = 0; st == HN_OK && i < names.n; i++)
        st = add_file(l, folder, names.path[i], class, s);
    if (st == HN_OK && l->here == 0)
        st = HN_FAIL(HN_ERR_FORMAT, "%s: no .jpg, .jpeg or .png file of this class", folder);

done:
    hn_paths_free(&names);
    hn_paths_free(&below);
    return st;
}

static char *path_in(const char *folder, const char *name)
{
    return hn_asprintf("%s/%s", folder, name);
}

/* The classes in the folder of a group, as group/class; none in that of a class.
 * Errors  HN_ERR_ARG: images beside them; a group that is called like a part */
static hn_status add_names(const char *folder, const char *group, hn_paths *classes)
{
    hn_status st = HN_OK;
    hn_paths below = {0}, files = {0};
    HN_TRY_GOTO(st, hn_paths_list(folder, true, &below), done);
    if (below.n == 0) goto done;
    if (hn_images_part_word(group)) {
        st = HN_FAIL(HN_ERR_ARG,
                     "%s: classes in it, as in a part of a set (whose classes to train on are in "
                     "train/); as a group it needs another name",
                     folder);
        goto done;
    }
    HN_TRY_GOTO(st, hn_paths_list(folder, false, &files), done);
    for (int64_t i = 0; i < files.n; i++)
        if (hn_images_named(files.path[i])) {
            st = HN_FAIL(HN_ERR_ARG, "%s: folders (%s) and images (%s) in it: class or group?",
                         folder, below.path[0], files.path[i]);
            goto done;
        }
    for (int64_t i = 0; i < below.n && st == HN_OK; i++)
        st = hn_paths_add(classes, path_in(group, below.path[i]));

done:
    hn_paths_free(&below);
    hn_paths_free(&files);
    return st;
}

/* Folders that hold folders are groups: all of them are, or none; else HN_ERR_ARG. */
static hn_status open_groups(const char *folder, hn_paths *classes)
{
    hn_status st = HN_OK;
    hn_paths all = {0};
    int64_t plain = -1, group = -1;
    for (int64_t i = 0; i < classes->n && st == HN_OK; i++) {
        const int64_t before = all.n;
        char *path = path_in(folder, classes->path[i]);
        st = path ? add_names(path, classes->path[i], &all)
                  : HN_FAIL(HN_ERR_MEMORY, "no memory for a list of files");
        hn_free(path);
        int64_t *first = all.n > before ? &group : &plain;
        if (*first < 0) *first = i;
    }
    if (st == HN_OK && group >= 0 && plain >= 0)
        st = HN_FAIL(HN_ERR_ARG,
                     "%s: folders are in %s and none in %s: <group>/<class>/ holds for all classes "
                     "or for none",
                     folder, classes->path[group], classes->path[plain]);
    if (st == HN_OK && group >= 0) {
        const hn_paths outer = *classes;
        *classes = all;
        all = outer;
    }
    hn_paths_free(&all);
    return st;
}

static hn_status list_all(const char *folder, bool groups, listing *l, hn_image_set *s)
{
    hn_paths classes = {0};
    hn_status st = hn_paths_list(folder, true, &classes);
    if (st == HN_OK && groups) st = open_groups(folder, &classes);
    if (st == HN_OK && classes.n == 0)
        st = HN_FAIL(HN_ERR_FORMAT, "%s: no folder of a class", folder);
    for (int64_t i = 0; st == HN_OK && i < classes.n; i++) {
        char *path = path_in(folder, classes.path[i]);
        st = path ? add_class(l, path, (int32_t)i, s)
                  : HN_FAIL(HN_ERR_MEMORY, "no memory for a list of files");
        hn_free(path);
    }
    if (st == HN_OK && l->files.n > INT32_MAX)
        st = HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " images: at most %d", folder, l->files.n,
                     INT32_MAX);
    if (st == HN_OK) { /* the names become the classes' */
        s->class_name = classes.path;
        s->v.n_classes = (int32_t)classes.n;
        s->named = true;
    } else {
        hn_paths_free(&classes);
    }
    return st;
}

/* ---- heads ---- */

static hn_status probe_one(const char *path, int64_t max_pixels, hn_image_info *info)
{
    hn_mapfile m = {0};
    HN_TRY(hn_mapfile_open(path, &m));
    const hn_status st = hn_image_probe(m.data, m.size, path, max_pixels, info);
    hn_mapfile_close(&m);
    return st;
}

static hn_status probe_all(listing *l, const hn_image_options *o)
{
    first_error e = {.at = INT64_MAX};
    l->info = hn_calloc((size_t)l->files.n, sizeof *l->info);
    if (l->info == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the heads of images");
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < l->files.n; i++) {
        if (error_at(&e) < i) continue;
        const hn_status st = probe_one(l->files.path[i], o->limits.max_pixels, &l->info[i]);
        if (st != HN_OK) note_error(&e, i, st);
    }
    return e.at == INT64_MAX ? HN_OK : HN_FAIL(e.status, "%s", e.text);
}

/* The side of the squares that all images become, and the shorter one they are cut from; 0: as they
 * are. */
static int64_t square_of(const hn_image_options *o, int64_t *shorter)
{
    *shorter = o->folder_side ? o->folder_side : o->image_size;
    return o->folder_side ? o->folder_crop : o->image_size;
}

/* Nothing is to be done to such an image. */
static bool fits(const hn_image_info *p, int64_t square, int64_t shorter)
{
    return shorter == square && p->h == square && p->w == square;
}

/* Size and channels of the set, and what the report says. */
static hn_status settle(const listing *l, const hn_image_options *o, hn_image_set *s)
{
    const hn_image_info *first = &l->info[0];
    int64_t shorter;
    const int64_t square = square_of(o, &shorter);
    s->v.c = o->channels;
    for (int64_t i = 0; i < l->files.n; i++) {
        const hn_image_info *p = &l->info[i];
        if (square == 0 && (p->h != first->h || p->w != first->w))
            return HN_FAIL(HN_ERR_SHAPE,
                           "%s is %" PRId64 " x %" PRId64 " pixels, %s is %" PRId64 " x %" PRId64
                           ": an image size must be given that all of them become",
                           l->files.path[0], first->w, first->h, l->files.path[i], p->w, p->h);
        if (o->channels == 0 && p->c > s->v.c) s->v.c = p->c;
        s->n_alpha += p->alpha;
        s->n_deep += p->deep;
        s->n_turned += p->orientation > 1;
        s->n_resized += square > 0 && !fits(p, square, shorter);
    }
    for (int64_t i = 0; i < l->files.n; i++) s->n_grey += s->v.c == 3 && l->info[i].c == 1;
    s->v.count = l->files.n;
    s->v.h = square ? square : first->h;
    s->v.w = square ? square : first->w;
    return HN_OK;
}

/* ---- pixels ---- */

static hn_status decode_one(const char *path, const hn_image_info *info, const hn_images *v,
                            int64_t shorter, uint8_t *pixel)
{
    hn_status st = HN_OK;
    hn_mapfile m = {0};
    uint8_t *raw = NULL;
    HN_TRY(hn_mapfile_open(path, &m));
    if (shorter > 0 && !fits(info, v->h, shorter)) {
        raw = hn_malloc((size_t)(info->h * info->w * v->c));
        if (raw == NULL)
            st = HN_FAIL(HN_ERR_MEMORY, "%s: no memory for its pixels", path);
        else
            st = hn_image_decode(m.data, m.size, path, info, v->c, raw);
        if (st == HN_OK)
            st = hn_image_resize_crop(raw, info->h, info->w, v->c, shorter, v->h, pixel);
        hn_free(raw);
    } else {
        st = hn_image_decode(m.data, m.size, path, info, v->c, pixel);
    }
    hn_mapfile_close(&m);
    return st;
}

static hn_status decode_all(const listing *l, const hn_image_options *o, hn_image_set *s)
{
    first_error e = {.at = INT64_MAX};
    const hn_images *v = &s->v;
    const int64_t image = v->h * v->w * v->c;
    int64_t shorter;
    (void)square_of(o, &shorter);
    const int64_t most = o->limits.max_bytes ? o->limits.max_bytes : HN_IMAGE_MAX_BYTES;
    if (v->count > most / image)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%" PRId64 " images of %" PRId64 " x %" PRId64
                       " x %d bytes are more than the "
                       "limit of %" PRId64 " bytes: make them smaller by an image size%s%s",
                       v->count, v->h, v->w, v->c, most,
                       o->class_images_name ? ", or take fewer of each class by " : "",
                       o->class_images_name ? o->class_images_name : "");
    s->pixel = hn_malloc((size_t)(v->count * image));
    if (s->pixel == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " bytes for pixels", v->count * image);
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < v->count; i++) {
        if (error_at(&e) < i) continue;
        const hn_status st =
            decode_one(l->files.path[i], &l->info[i], v, shorter, s->pixel + i * image);
        if (st != HN_OK) note_error(&e, i, st);
    }
    s->v.pixel = s->pixel;
    return e.at == INT64_MAX ? HN_OK : HN_FAIL(e.status, "%s", e.text);
}

hn_status hn_images_read_folder(const hn_image_files *f, const hn_image_options *o, hn_image_set *s)
{
    hn_status st = HN_OK;
    listing l = {.most = o->class_images};
    s->kind = "a folder for each class";
    HN_TRY_GOTO(st, list_all(f->files.path[0], o->groups, &l, s), done);
    HN_TRY_GOTO(st, probe_all(&l, o), done);
    HN_TRY_GOTO(st, settle(&l, o, s), done);
    HN_TRY_GOTO(st, decode_all(&l, o, s), done);
    s->label = l.label;
    l.label = NULL;

done:
    hn_paths_free(&l.files);
    hn_free(l.label);
    hn_free(l.info);
    return st;
}
