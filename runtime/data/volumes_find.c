/* Which files of a folder or a list are volumes, and which are their labels. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
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

/* Takes the paths over.
 * image    [f->channels]
 * label    NULL: no memory, unless there are none */
static hn_status add(hn_volume_files *f, char *const *image, char *label, bool labelled,
                     const char *site)
{
    hn_status st = HN_OK;
    for (int32_t c = 0; c < f->channels; c++) {
        const hn_status added = hn_paths_add(&f->image, image[c]);
        if (st == HN_OK) st = added;
    }
    const hn_status last = labelled ? hn_paths_add(&f->label, label) : HN_OK;
    HN_TRY(st);
    HN_TRY(last);
    return hn_paths_add(&f->site, hn_strdup(site));
}

/* ---- channels ---- */

static bool is_channel(const char *name, size_t n)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "-_.";
    const size_t seg = strlen(SEG) - 1;
    return n > 0 && n < HN_VOLUME_CHANNEL_NAME && strspn(name, letters) >= n &&
           (n < seg || strncmp(name + n - seg, SEG + 1, seg) != 0);
}

hn_status hn_volume_channels_parse(const char *text, hn_volume_channels *out)
{
    hn_volume_channels c = {0};
    for (const char *at = text; *text != '\0'; at++) {
        const size_t n = strcspn(at, ",");
        if (!is_channel(at, n))
            return HN_FAIL(HN_ERR_ARG,
                           "channels '%s': names like t1,t1ce,t2,flair, of at most %d letters, "
                           "digits, '-', '_' and '.', that do not end in seg",
                           text, HN_VOLUME_CHANNEL_NAME - 1);
        if (c.n == HN_VOLUME_CHANNELS)
            return HN_FAIL(HN_ERR_ARG, "channels '%s': more than %d", text, HN_VOLUME_CHANNELS);
        memcpy(c.name[c.n], at, n);
        for (int32_t i = 0; i < c.n; i++)
            if (strcmp(c.name[i], c.name[c.n]) == 0)
                return HN_FAIL(HN_ERR_ARG, "channels '%s': %s twice", text, c.name[i]);
        c.n++;
        at += n;
        if (*at == '\0') break;
    }
    *out = c;
    return HN_OK;
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

/* Whether the first `stem` bytes of a name are <something>_<channel>. */
static bool has_channel(const char *name, size_t stem, const char *channel)
{
    const size_t n = strlen(channel);
    return stem > n + 1 && name[stem - n - 1] == '_' && strncmp(name + stem - n, channel, n) == 0;
}

char *hn_volume_name(const char *path, const hn_volume_channels *channels)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const size_t stem = stem_of(name), n = stem > 0 ? stem : strlen(name);
    const bool named = channels->n > 0 && has_channel(name, n, channels->name[0]);
    return hn_strndup(name, named ? n - strlen(channels->name[0]) - 1 : n);
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
        char *const image[] = {hn_asprintf("%s/%s", o->data, name)};
        HN_TRY(add(out, image, label ? hn_asprintf("%s/%s", folder, label) : NULL, !o->unlabelled,
                   ""));
    }
    return HN_OK;
}

/* Bytes of a name in front of its channel, of several that fit the longest; 0: it has none. */
static size_t subject_of(const hn_volume_channels *c, const char *name)
{
    const size_t stem = stem_of(name);
    size_t n = 0;
    for (int32_t i = 0; i < c->n; i++) {
        const size_t rest = stem - strlen(c->name[i]) - 1;
        if (has_channel(name, stem, c->name[i]) && (n == 0 || rest < n)) n = rest;
    }
    return n;
}

/* Names of volumes of which there is a channel, each once, sorted. */
static hn_status list_subjects(const hn_volume_channels *c, const hn_paths *names, hn_paths *out)
{
    hn_paths all = {0};
    hn_status st = HN_OK;
    for (int64_t i = 0; st == HN_OK && i < names->n; i++) {
        const size_t n = subject_of(c, names->path[i]);
        if (n > 0) st = hn_paths_add(&all, hn_strndup(names->path[i], n));
    }
    hn_paths_sort(&all);
    for (int64_t i = 0; st == HN_OK && i < all.n; i++)
        if (i == 0 || strcmp(all.path[i], all.path[i - 1]) != 0)
            st = hn_paths_add(out, hn_strdup(all.path[i]));
    hn_paths_free(&all);
    return st;
}

/* Labels beside volumes that are not there. */
static hn_status check_segs(const hn_volume_options *o, const hn_paths *names,
                            const hn_paths *subjects)
{
    for (int64_t i = 0; i < names->n; i++) {
        const char *name = names->path[i];
        const size_t stem = stem_of(name);
        if (!is_seg(name, stem)) continue;
        const size_t n = stem - strlen(SEG);
        int64_t k = 0;
        while (k < subjects->n &&
               (strlen(subjects->path[k]) != n || strncmp(subjects->path[k], name, n) != 0))
            k++;
        if (k == subjects->n)
            return HN_FAIL(HN_ERR_ARG, "%s/%s: labels without their volume", o->data, name);
    }
    return HN_OK;
}

static hn_status add_subject(const hn_volume_options *o, const hn_paths *names,
                             const hn_paths *labels, const char *subject, hn_volume_files *out)
{
    const bool beside = o->labels == NULL && !o->unlabelled;
    const char *folder = o->labels ? o->labels : o->data, *tail = beside ? SEG : "";
    const char *file[HN_VOLUME_CHANNELS], *label = NULL;
    char *image[HN_VOLUME_CHANNELS], channel[HN_VOLUME_CHANNEL_NAME + 1];
    for (int32_t c = 0; c < out->channels; c++) {
        snprintf(channel, sizeof channel, "_%s", o->channels.name[c]);
        HN_TRY(file_of(o->data, names, subject, strlen(subject), channel, &file[c]));
        if (file[c] == NULL)
            return HN_FAIL(HN_ERR_ARG, "%s: %s has no channel %s (%s%s.nii[.gz])", o->data, subject,
                           o->channels.name[c], subject, channel);
    }
    if (!o->unlabelled) HN_TRY(file_of(folder, labels, subject, strlen(subject), tail, &label));
    if (!o->unlabelled && label == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s/%s: its labels %s%s.nii[.gz] are not in %s", o->data,
                       subject, subject, tail, folder);
    for (int32_t c = 0; c < out->channels; c++) image[c] = hn_asprintf("%s/%s", o->data, file[c]);
    return add(out, image, label ? hn_asprintf("%s/%s", folder, label) : NULL, !o->unlabelled, "");
}

/* The same where files are channels. */
static hn_status find_channels(const hn_volume_options *o, const hn_paths *names,
                               const hn_paths *labels, hn_volume_files *out)
{
    hn_paths subjects = {0};
    hn_status st = list_subjects(&o->channels, names, &subjects);
    if (st == HN_OK && o->labels == NULL && !o->unlabelled) st = check_segs(o, names, &subjects);
    if (st == HN_OK && subjects.n == 0)
        st = HN_FAIL(HN_ERR_ARG, "%s: no volume that has a channel %s (NAME_%s.nii[.gz])", o->data,
                     o->channels.name[0], o->channels.name[0]);
    for (int64_t i = 0; st == HN_OK && i < subjects.n; i++)
        st = add_subject(o, names, labels, subjects.path[i], out);
    hn_paths_free(&subjects);
    return st;
}

static hn_status find_in_folder(const hn_volume_options *o, hn_volume_files *out)
{
    hn_paths names = {0}, labels = {0};
    hn_status st = hn_paths_list(o->data, false, &names);
    if (st == HN_OK && o->labels != NULL) st = hn_paths_list(o->labels, false, &labels);
    if (st == HN_OK)
        st = (o->channels.n > 0 ? find_channels : find_pairs)(o, &names,
                                                              o->labels ? &labels : &names, out);
    if (st == HN_OK && out->image.n == 0)
        st = HN_FAIL(HN_ERR_ARG, "%s: no .nii, .nii.gz or .hdr file", o->data);
    hn_paths_free(&names);
    hn_paths_free(&labels);
    return st;
}

/* ---- lists ---- */

enum { MAX_LIST_BYTES = 64 << 20, MOST_FIELDS = HN_VOLUME_CHANNELS + 2 };

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
    const int images = out->channels, labels = images, site_at = images + 1;
    const char *field[MOST_FIELDS] = {NULL};
    char *image[HN_VOLUME_CHANNELS];
    size_t length[MOST_FIELDS] = {0};
    int fields = 0;
    for (size_t from = 0, i = 0; i <= n; i++) {
        if (i < n && line[i] != part) continue;
        if (fields == images + 2)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s:%" PRId64 ": more than %d image(s) (one for each channel), labels, "
                           "site",
                           o->data, number, images);
        field[fields] = line + from;
        length[fields++] = i - from;
        from = i + 1;
    }
    for (int c = 0; c < images; c++)
        if (length[c] == 0)
            return HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": no image%s%s", o->data, number,
                           o->channels.n > 0 ? " of channel " : "",
                           o->channels.n > 0 ? o->channels.name[c] : "");
    if (!o->unlabelled && length[labels] == 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": no labels", o->data, number);
    char *site = hn_strndup(field[site_at] ? field[site_at] : "", length[site_at]);
    if (site == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    for (int c = 0; c < images; c++) image[c] = path_of(o->data, field[c], length[c]);
    const hn_status st =
        add(out, image, o->unlabelled ? NULL : path_of(o->data, field[labels], length[labels]),
            !o->unlabelled, site);
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
    if (o->channels.n > 0)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: one file has no channels to be named; a folder or a list has them",
                       o->data);
    if (!o->unlabelled && o->labels == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: the file of its labels must be named, too", o->data);
    char *const image[] = {hn_strdup(o->data)};
    return add(out, image, o->labels ? hn_strdup(o->labels) : NULL, !o->unlabelled, "");
}

hn_status hn_volume_files_find(const hn_volume_options *o, hn_volume_files *out)
{
    hn_volume_files f = {.channels = o->channels.n > 0 ? o->channels.n : 1};
    const hn_status st = find(o, &f);
    if (st == HN_OK)
        *out = f;
    else
        hn_volume_files_free(&f);
    return st;
}
