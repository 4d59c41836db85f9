/* Which files of a folder, a list or a pattern hold the images. */
#define _POSIX_C_SOURCE 200809L
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/data/data_util.h"
#include "runtime/data/images_impl.h"
#include "runtime/data/source_reader.h"

/* ---- lists of paths ---- */

void hn_paths_free(hn_paths *p)
{
    for (int64_t i = 0; i < p->n; i++) hn_free(p->path[i]);
    hn_free(p->path);
    *p = (hn_paths){0};
}

hn_status hn_paths_add(hn_paths *p, char *path)
{
    hn_status st = HN_OK;
    if (path == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for a list of files");
    else
        st = hn_reserve(&p->path, &p->cap, p->n + 1, sizeof *p->path);
    if (st == HN_OK)
        p->path[p->n++] = path;
    else
        hn_free(path);
    return st;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void hn_paths_sort(hn_paths *p)
{
    if (p->n > 1) qsort(p->path, (size_t)p->n, sizeof *p->path, by_bytes);
}

static void paths_drop(hn_paths *p, int64_t i)
{
    hn_free(p->path[i]);
    memmove(p->path + i, p->path + i + 1, (size_t)(p->n - i - 1) * sizeof *p->path);
    p->n--;
}

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

hn_status hn_paths_list(const char *folder, bool folders, hn_paths *out)
{
    hn_status st = HN_OK;
    DIR *d = opendir(folder);
    if (d == NULL) return HN_FAIL(HN_ERR_IO, "open %s: %s", folder, strerror(errno));
    for (const struct dirent *e; st == HN_OK && (e = readdir(d)) != NULL;) {
        if (e->d_name[0] == '.') continue;
        char *path = hn_asprintf("%s/%s", folder, e->d_name);
        if (path == NULL)
            st = HN_FAIL(HN_ERR_MEMORY, "no memory to look into %s", folder);
        else if (is_folder(path) == folders)
            st = hn_paths_add(out, hn_strdup(e->d_name));
        hn_free(path);
    }
    closedir(d);
    hn_paths_sort(out);
    return st;
}

/* ---- names ---- */

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static bool is_bin(const char *name)
{
    return ends_with(name, ".bin") || ends_with(name, ".bin.gz");
}

static bool is_idx(const char *name)
{
    return strstr(name, "idx") != NULL || strstr(name, "ubyte") != NULL;
}

/* "images" or "labels" at `at`, as a whole word. */
static bool says(const char *name, size_t at, const char *what)
{
    const size_t n = strlen(what);
    return strlen(name) >= at && strncmp(name + at, what, n) == 0 &&
           !isalpha((unsigned char)name[at + n]) && is_idx(name);
}

/* The name begins with `word`, which ends there. */
static bool begins(const char *name, const char *word)
{
    const size_t n = strlen(word);
    return n > 0 && strncmp(name, word, n) == 0 && !isalnum((unsigned char)name[n]);
}

/* "x.gz" goes where "x" is there too. */
static void drop_packed_twins(hn_paths *p)
{
    for (int64_t i = 0; i < p->n; i++) {
        if (!ends_with(p->path[i], ".gz")) continue;
        const size_t n = strlen(p->path[i]) - 3;
        for (int64_t k = 0; k < p->n; k++)
            if (strlen(p->path[k]) == n && strncmp(p->path[k], p->path[i], n) == 0) {
                paths_drop(p, i--);
                break;
            }
    }
}

static hn_status keep_if(const hn_paths *all, bool (*keep)(const char *name, const char *word),
                         const char *word, hn_paths *out)
{
    for (int64_t i = 0; i < all->n; i++)
        if (keep(all->path[i], word)) HN_TRY(hn_paths_add(out, hn_strdup(all->path[i])));
    drop_packed_twins(out);
    return HN_OK;
}

/* ---- idx ---- */

static bool idx_images_of(const char *name, const char *word)
{
    const size_t n = strlen(word);
    return n == 0 ? says(name, 0, "images") : begins(name, word) && says(name, n + 1, "images");
}

static bool idx_labels_of(const char *name, const char *prefix)
{
    const size_t n = strlen(prefix);
    return strncmp(name, prefix, n) == 0 && says(name, n, "labels");
}

/* The labels beside a file of images: the same name up to "images". */
static hn_status find_labels(const char *folder, const char *images, char **out)
{
    hn_status st = HN_OK;
    hn_paths all = {0}, fit = {0};
    const char *at = NULL;
    for (const char *p = images; (p = strstr(p, "images")) != NULL; p++) at = p;
    char *prefix = at ? hn_strndup(images, (size_t)(at - images)) : hn_strdup("");
    if (prefix == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    } else if (at == NULL) {
        st = HN_FAIL(HN_ERR_ARG, "%s/%s: an idx file of images has \"images\" in its name", folder,
                     images);
    }
    if (st == HN_OK) st = hn_paths_list(folder, false, &all);
    if (st == HN_OK) st = keep_if(&all, idx_labels_of, prefix, &fit);
    if (st == HN_OK && fit.n == 0)
        st = HN_FAIL(HN_ERR_ARG, "%s/%s: its labels (%slabels-idx1-ubyte) are not beside it",
                     folder, images, prefix);
    if (st == HN_OK && fit.n > 1)
        st = HN_FAIL(HN_ERR_ARG, "%s: %s and %s are both labels of %s", folder, fit.path[0],
                     fit.path[1], images);
    if (st == HN_OK) {
        *out = hn_asprintf("%s/%s", folder, fit.path[0]);
        if (*out == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    }
    hn_free(prefix);
    hn_paths_free(&all);
    hn_paths_free(&fit);
    return st;
}

/* ---- CIFAR ---- */

static bool cifar_of(const char *name, const char *word)
{
    return is_bin(name) && begins(name, word);
}

/* A name's number: "data_batch_3.bin" 3, "train_2of5.bin.gz" 2 of 5; the rest of the name is the
 * same in all files of a set. */
typedef struct {
    size_t n_key;   /* characters before the number */
    int64_t number; /* -1: none */
    int64_t total;  /* 0: not said */
} file_number;

static file_number number_of(const char *name)
{
    file_number f = {.n_key = strcspn(name, "."), .number = -1};
    size_t from = f.n_key;
    while (from > 0 && isdigit((unsigned char)name[from - 1])) from--;
    if (from == f.n_key || f.n_key - from > 9) return f;
    const int64_t last = strtol(name + from, NULL, 10);
    if (from > 2 && strncmp(name + from - 2, "of", 2) == 0) {
        size_t first = from - 2;
        while (first > 0 && isdigit((unsigned char)name[first - 1])) first--;
        if (first < from - 2 && from - 2 - first <= 9)
            return (file_number){first, strtol(name + first, NULL, 10), last};
    }
    return (file_number){from, last, 0};
}

static int by_number(const void *a, const void *b)
{
    const int64_t x = number_of(*(char *const *)a).number, y = number_of(*(char *const *)b).number;
    return (x > y) - (x < y);
}

/* One file, or files numbered 1, 2, ... without a gap (or from 0). */
static hn_status settle_cifar(const char *folder, hn_paths *p)
{
    qsort(p->path, (size_t)p->n, sizeof *p->path, by_number);
    const file_number first = number_of(p->path[0]);
    bool one_set = true, no_gap = first.number == 0 || first.number == 1;
    for (int64_t i = 0; i < p->n; i++) {
        const file_number f = number_of(p->path[i]);
        one_set = one_set && f.n_key == first.n_key && f.total == first.total && f.number >= 0 &&
                  strncmp(p->path[i], p->path[0], f.n_key) == 0;
        no_gap = no_gap && f.number == first.number + i;
    }
    if (one_set && first.total > 0 && (!no_gap || first.number != 1 || p->n != first.total))
        return HN_FAIL(HN_ERR_ARG,
                       "%s: %s says %" PRId64
                       " parts, but not just these are there; name the files",
                       folder, p->path[0], first.total);
    if (p->n > 1 && (!one_set || !no_gap))
        return HN_FAIL(HN_ERR_ARG, "%s: %s and %s are not parts of one set: name the files to use",
                       folder, p->path[0], p->path[p->n - 1]);
    return HN_OK;
}

/* ---- folders ---- */

static hn_status to_paths(const char *folder, hn_paths *names)
{
    for (int64_t i = 0; i < names->n; i++) {
        char *path = hn_asprintf("%s/%s", folder, names->path[i]);
        if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a list of files");
        hn_free(names->path[i]);
        names->path[i] = path;
    }
    return HN_OK;
}

/* The files of the first word that has any. */
static hn_status first_word(const hn_paths *all, bool (*keep)(const char *name, const char *word),
                            const char *const *words, hn_paths *out)
{
    for (; *words != NULL && out->n == 0; words++) HN_TRY(keep_if(all, keep, *words, out));
    return HN_OK;
}

static hn_status find_files(const char *folder, hn_image_kind kind, const char *const *words,
                            hn_image_files *f)
{
    hn_status st = HN_OK;
    hn_paths all = {0}, idx = {0}, cifar = {0};
    HN_TRY_GOTO(st, hn_paths_list(folder, false, &all), done);
    if (kind == HN_IMAGES_AUTO || kind == HN_IMAGES_IDX)
        HN_TRY_GOTO(st, first_word(&all, idx_images_of, words, &idx), done);
    if (kind != HN_IMAGES_IDX) HN_TRY_GOTO(st, first_word(&all, cifar_of, words, &cifar), done);
    if (idx.n > 0 && cifar.n > 0) {
        st = HN_FAIL(HN_ERR_ARG, "%s: %s (idx) and %s (CIFAR) are both there: name the file to use",
                     folder, idx.path[0], cifar.path[0]);
        goto done;
    }
    if (idx.n > 1) {
        st = HN_FAIL(HN_ERR_ARG, "%s: %s and %s are both there: name the file to use", folder,
                     idx.path[0], idx.path[1]);
        goto done;
    }
    if (idx.n == 1) {
        f->kind = HN_IMAGES_IDX;
        HN_TRY_GOTO(st, find_labels(folder, idx.path[0], &f->labels), done);
        f->files = idx;
        idx = (hn_paths){0};
    } else if (cifar.n > 0) {
        f->kind = kind;
        HN_TRY_GOTO(st, settle_cifar(folder, &cifar), done);
        f->files = cifar;
        cifar = (hn_paths){0};
    }
    st = to_paths(folder, &f->files);

done:
    hn_paths_free(&all);
    hn_paths_free(&idx);
    hn_paths_free(&cifar);
    return st;
}

bool hn_images_part_word(const char *name)
{
    static const char *const words[] = {"train", "val", "valid", "validation",
                                        "eval",  "dev", "test",  NULL};
    const char *const *w = words;
    while (*w != NULL && strcmp(name, *w) != 0) w++;
    return *w != NULL;
}

/* folder/train is a part if it holds folders, and a class if it holds images.
 * Errors  HN_ERR_ARG: it holds both */
static hn_status look_into_train(const char *folder, bool *is_part)
{
    hn_status st = HN_OK;
    hn_paths below = {0}, files = {0};
    const char *image = NULL;
    char *path = hn_asprintf("%s/train", folder);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    HN_TRY_GOTO(st, hn_paths_list(path, true, &below), done);
    HN_TRY_GOTO(st, hn_paths_list(path, false, &files), done);
    for (int64_t i = 0; i < files.n && image == NULL; i++)
        if (hn_images_named(files.path[i])) image = files.path[i];
    if (below.n > 0 && image != NULL)
        st = HN_FAIL(HN_ERR_ARG,
                     "%s: folders (%s) and images (%s): with folders it is the training part of "
                     "%s, with images a class called train; name %s itself if it is the set",
                     path, below.path[0], image, folder, path);
    *is_part = image == NULL;

done:
    hn_paths_free(&below);
    hn_paths_free(&files);
    hn_free(path);
    return st;
}

/* Classes in folder/<word>; the training part may be the folder itself, where no part "train" is.
 * Errors  HN_ERR_ARG: train/ may be part or class; it is a class among such words alone */
static hn_status find_classes(const char *folder, const char *const *words, hn_image_files *f)
{
    hn_status st = HN_OK;
    hn_paths below = {0};
    bool parted = false, there = false, others = false;
    const bool training = strcmp(words[0], "train") == 0;
    const char *found = NULL;
    HN_TRY_GOTO(st, hn_paths_list(folder, true, &below), done);
    for (int64_t i = 0; i < below.n; i++) {
        others = others || !hn_images_part_word(below.path[i]);
        if (strcmp(below.path[i], "train") != 0) continue;
        there = true;
        HN_TRY_GOTO(st, look_into_train(folder, &parted), done);
    }
    for (; parted && found == NULL && *words != NULL; words++)
        for (int64_t i = 0; i < below.n; i++)
            if (strcmp(below.path[i], *words) == 0) found = below.path[i];
    if (found == NULL && (parted || !training || below.n == 0)) goto done;
    if (found == NULL && there && !others) {
        st = HN_FAIL(HN_ERR_ARG,
                     "%s/train: images, no folder of a class; a class of that name stands beside "
                     "others than parts (val, test)",
                     folder);
        goto done;
    }
    f->kind = HN_IMAGES_FOLDER;
    st = hn_paths_add(&f->files, found ? hn_asprintf("%s/%s", folder, found) : hn_strdup(folder));

done:
    hn_paths_free(&below);
    return st;
}

/* ---- lists and patterns ---- */

static hn_status add_pattern(const char *pattern, hn_paths *out)
{
    glob_t g = {0};
    const int rc = glob(pattern, 0, NULL, &g);
    hn_status st = HN_OK;
    if (rc == GLOB_NOSPACE)
        st = HN_FAIL(HN_ERR_MEMORY, "%s: no memory for a list of files", pattern);
    else if (rc != 0)
        st = HN_FAIL(HN_ERR_IO, "%s: no file fits this pattern", pattern);
    for (size_t i = 0; st == HN_OK && i < g.gl_pathc; i++)
        st = hn_paths_add(out, hn_strdup(g.gl_pathv[i]));
    globfree(&g);
    hn_paths_sort(out);
    return st;
}

static hn_status add_list(const char *list, hn_paths *out)
{
    struct stat info;
    if (stat(list, &info) == 0) return hn_paths_add(out, hn_strdup(list));
    const int why = errno;
    if (strchr(list, ',') == NULL) {
        if (strpbrk(list, "*?[") != NULL) return add_pattern(list, out);
        return HN_FAIL(HN_ERR_IO, "%s: %s", list, strerror(why));
    }
    for (const char *at = list;;) {
        const size_t n = strcspn(at, ",");
        if (n == 0) return HN_FAIL(HN_ERR_ARG, "'%s': an empty name between commas", list);
        HN_TRY(hn_paths_add(out, hn_strndup(at, n)));
        if (stat(out->path[out->n - 1], &info) != 0)
            return HN_FAIL(HN_ERR_IO, "%s: %s", out->path[out->n - 1], strerror(errno));
        if (at[n] == '\0') return HN_OK;
        at += n + 1;
    }
}

/* What a file is by its name, else by its first bytes. */
static hn_status kind_of(const char *path, hn_image_kind *kind)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    unsigned char head[4];
    size_t n = 0, got = 1;
    hn_reader *r = NULL;
    if (strstr(name, "images") != NULL && is_idx(name)) {
        *kind = HN_IMAGES_IDX;
        return HN_OK;
    }
    if (is_bin(name)) {
        *kind = HN_IMAGES_AUTO; /* one of the CIFAR kinds */
        return HN_OK;
    }
    HN_TRY(hn_reader_open(path, &r));
    hn_status st = HN_OK;
    while (st == HN_OK && n < sizeof head && got > 0) {
        st = hn_reader_read(r, head + n, sizeof head - n, &got);
        n += got;
    }
    hn_reader_close(r);
    HN_TRY(st);
    if (n < 4 || head[0] != 0 || head[1] != 0 || head[2] != 8 || (head[3] != 3 && head[3] != 4))
        return HN_FAIL(HN_ERR_ARG,
                       "%s: unknown kind of image data; known: idx files, CIFAR binaries (.bin), "
                       "folders with a sub-folder of .jpg or .png files for each class",
                       path);
    *kind = HN_IMAGES_IDX;
    return HN_OK;
}

static hn_status find_list(const char *list, hn_image_kind kind, hn_image_files *f)
{
    HN_TRY(add_list(list, &f->files));
    f->kind = kind;
    if (kind == HN_IMAGES_FOLDER) return HN_FAIL(HN_ERR_ARG, "%s: not a folder of classes", list);
    for (int64_t i = 0; i < f->files.n; i++)
        if (is_folder(f->files.path[i]))
            return HN_FAIL(HN_ERR_ARG, "%s: a folder in a list of files; use + to join data sets",
                           f->files.path[i]);
    if (kind == HN_IMAGES_AUTO) HN_TRY(kind_of(f->files.path[0], &f->kind));
    const char *path = f->files.path[0], *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    f->folder =
        slash ? hn_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : hn_strdup(".");
    if (f->folder == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    if (f->kind != HN_IMAGES_IDX) return HN_OK;
    if (f->files.n > 1)
        return HN_FAIL(HN_ERR_ARG, "%s: one idx file of images at a time; use + to join data sets",
                       list);
    return find_labels(f->folder, name, &f->labels);
}

void hn_image_files_free(hn_image_files *f)
{
    hn_paths_free(&f->files);
    hn_free(f->labels);
    hn_free(f->folder);
    *f = (hn_image_files){0};
}

hn_status hn_image_files_find(const char *data, hn_image_kind kind, const char *const *words,
                              hn_image_files *out)
{
    hn_image_files f = {0};
    hn_status st = HN_OK;
    if (!is_folder(data)) {
        st = find_list(data, kind, &f);
    } else {
        if (kind != HN_IMAGES_FOLDER) st = find_files(data, kind, words, &f);
        if (st == HN_OK && f.files.n == 0 && (kind == HN_IMAGES_AUTO || kind == HN_IMAGES_FOLDER))
            st = find_classes(data, words, &f);
        f.folder = hn_strdup(data);
        if (st == HN_OK && f.folder == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    }
    if (st == HN_OK)
        *out = f;
    else
        hn_image_files_free(&f);
    return st;
}
