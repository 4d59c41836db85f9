/* Which files of a folder or a list are volumes, and which are their labels. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/alloc.h"
#include "runtime/data/volumes_impl.h"

#define SEG "_seg"

void hn_volume_files_free(hn_volume_files *f)
{
    hn_paths_free(&f->image);
    hn_paths_free(&f->label);
    hn_paths_free(&f->site);
}

static hn_status add(hn_volume_files *f, char *image, char *label, bool labelled, const char *site)
{
    const hn_status a = hn_paths_add(&f->image, image);
    const hn_status b = labelled ? hn_paths_add(&f->label, label) : HN_OK;
    HN_TRY(a);
    HN_TRY(b);
    return hn_paths_add(&f->site, hn_strdup(site));
}

/* ---- names ---- */

/* Length of the name without its ending; 0 when it is no NIfTI file. An .img is opened by its .hdr.
 */
static size_t stem_of(const char *name)
{
    static const char *const endings[] = {".nii", ".nii.gz", ".hdr", ".hdr.gz"};
    const size_t n = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const size_t m = strlen(endings[i]);
        if (n > m && strcmp(name + n - m, endings[i]) == 0) return n - m;
    }
    return 0;
}

char *hn_volume_name(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const size_t n = stem_of(name);
    return hn_strndup(name, n > 0 ? n : strlen(name));
}

static bool is_seg(const char *name, size_t stem)
{
    const size_t n = strlen(SEG);
    return stem > n && strncmp(name + stem - n, SEG, n) == 0;
}

/* The file among `names` whose name without ending is stem + tail. *out is NULL when there is none.
 */
static hn_status file_of(const char *folder, const hn_paths *names, const char *name, size_t stem,
                         const char *tail, const char **out)
{
    *out = NULL;
    for (int64_t i = 0; i < names->n; i++) {
        const char *p = names->path[i];
        const size_t n = stem_of(p);
        if (n == 0 || n != stem + strlen(tail) || strncmp(p, name, stem) != 0 ||
            strncmp(p + stem, tail, strlen(tail)) != 0)
            continue;
        if (*out != NULL)
            return HN_FAIL(HN_ERR_ARG, "%s: both %s and %s: which one?", folder, *out, p);
        *out = p;
    }
    return HN_OK;
}

/* ---- folders ---- */

/* names    of the folder of the volumes; marks those of labels in a folder of their own */
static hn_status find_pairs(const hn_volume_options *o, const hn_paths *names,
                            const hn_paths *labels, hn_volume_files *out)
{
    const bool beside = o->labels == NULL && !o->unlabelled;
    const char *folder = o->labels ? o->labels : o->data, *tail = beside ? SEG : "";
    for (int64_t i = 0; i < names->n; i++) {
        const char *name = names->path[i], *label = NULL, *twin = NULL;
        const size_t stem = stem_of(name);
        if (stem == 0) continue;
        if (beside && is_seg(name, stem)) {
            HN_TRY(file_of(o->data, names, name, stem - strlen(SEG), "", &twin));
            if (twin == NULL)
                return HN_FAIL(HN_ERR_ARG, "%s/%s: labels without their volume", o->data, name);
            continue;
        }
        HN_TRY(file_of(o->data, names, name, stem, "", &twin)); /* the only one of its name */
        if (!o->unlabelled) HN_TRY(file_of(folder, labels, name, stem, tail, &label));
        if (!o->unlabelled && label == NULL)
            return HN_FAIL(HN_ERR_ARG, "%s/%s: its labels %.*s%s.nii[.gz] are not in %s", o->data,
                           name, (int)stem, name, tail, folder);
        HN_TRY(add(out, hn_asprintf("%s/%s", o->data, name),
                   label ? hn_asprintf("%s/%s", folder, label) : NULL, !o->unlabelled, ""));
    }
    return HN_OK;
}

static hn_status find_in_folder(const hn_volume_options *o, hn_volume_files *out)
{
    hn_paths names = {0}, labels = {0};
    hn_status st = hn_paths_list(o->data, false, &names);
    if (st == HN_OK && o->labels != NULL) st = hn_paths_list(o->labels, false, &labels);
    if (st == HN_OK) st = find_pairs(o, &names, o->labels ? &labels : &names, out);
    if (st == HN_OK && out->image.n == 0)
        st = HN_FAIL(HN_ERR_ARG, "%s: no .nii, .nii.gz or .hdr file", o->data);
    hn_paths_free(&names);
    hn_paths_free(&labels);
    return st;
}

/* ---- lists ---- */

enum { MAX_LIST_BYTES = 64 << 20, FIELDS = 3 };

/* A path of the list, which starts at its folder. */
static char *path_of(const char *list, const char *field, size_t n)
{
    const char *slash = strrchr(list, '/');
    if (field[0] == '/' || slash == NULL) return hn_strndup(field, n);
    return hn_asprintf("%.*s/%.*s", (int)(slash - list), list, (int)n, field);
}

static hn_status add_line(const hn_volume_options *o, int64_t number, const char *line, size_t n,
                          hn_volume_files *out)
{
    const char part = memchr(line, '\t', n) ? '\t' : ',';
    const char *field[FIELDS] = {NULL, NULL, NULL};
    size_t length[FIELDS] = {0};
    int fields = 0;
    for (size_t from = 0, i = 0; i <= n; i++) {
        if (i < n && line[i] != part) continue;
        if (fields == FIELDS)
            return HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": more than image, labels, site", o->data,
                           number);
        field[fields] = line + from;
        length[fields++] = i - from;
        from = i + 1;
    }
    if (length[0] == 0) return HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": no image", o->data, number);
    if (!o->unlabelled && length[1] == 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": no labels", o->data, number);
    char *site = hn_strndup(field[2] ? field[2] : "", length[2]);
    if (site == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    const hn_status st =
        add(out, path_of(o->data, field[0], length[0]),
            o->unlabelled ? NULL : path_of(o->data, field[1], length[1]), !o->unlabelled, site);
    hn_free(site);
    return st;
}

static hn_status find_in_list(const hn_volume_options *o, hn_volume_files *out)
{
    hn_data_bytes b = {0};
    hn_status st = hn_data_bytes_read(o->data, MAX_LIST_BYTES, &b);
    const char *text = (const char *)b.data;
    if (st == HN_OK && memchr(text, '\0', b.n_bytes) != NULL)
        st = HN_FAIL(HN_ERR_FORMAT, "%s: neither a NIfTI file nor a list of them", o->data);
    int64_t number = 0;
    for (size_t at = 0, next; st == HN_OK && at < b.n_bytes; at = next) {
        const char *end = memchr(text + at, '\n', b.n_bytes - at);
        size_t n = end ? (size_t)(end - text) - at : b.n_bytes - at;
        next = at + n + 1;
        number++;
        if (n > 0 && text[at + n - 1] == '\r') n--;
        if (n > 0 && text[at] != '#') st = add_line(o, number, text + at, n, out);
    }
    if (st == HN_OK && out->image.n == 0)
        st = HN_FAIL(HN_ERR_FORMAT, "%s: a list without volumes", o->data);
    hn_data_bytes_free(&b);
    return st;
}

/* ---- the face ---- */

static hn_status find(const hn_volume_options *o, hn_volume_files *out)
{
    struct stat info;
    if (o->data == NULL) return HN_FAIL(HN_ERR_ARG, "no volumes are named");
    if (o->unlabelled && o->labels != NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: labels for volumes without labels", o->labels);
    if (stat(o->data, &info) != 0)
        return HN_FAIL(HN_ERR_IO, "open %s: %s", o->data, strerror(errno));
    if (S_ISDIR(info.st_mode)) return find_in_folder(o, out);
    if (stem_of(o->data) == 0) {
        if (o->labels == NULL) return find_in_list(o, out);
        return HN_FAIL(HN_ERR_ARG, "%s: a list names the labels itself", o->data);
    }
    if (!o->unlabelled && o->labels == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: the file of its labels must be named, too", o->data);
    return add(out, hn_strdup(o->data), o->labels ? hn_strdup(o->labels) : NULL, !o->unlabelled,
               "");
}

hn_status hn_volume_files_find(const hn_volume_options *o, hn_volume_files *out)
{
    hn_volume_files f = {0};
    const hn_status st = find(o, &f);
    if (st == HN_OK)
        *out = f;
    else
        hn_volume_files_free(&f);
    return st;
}
