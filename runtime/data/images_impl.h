/* images_impl.h - private to images*.c: a set while it is being read. */
#ifndef HN_IMAGES_IMPL_H
#define HN_IMAGES_IMPL_H
#include <stddef.h>

#include "runtime/base/mapfile.h"
#include "runtime/base/save.h"
#include "runtime/data/images.h"

#ifdef __cplusplus
extern "C" {
#endif

struct hn_image_set {
    hn_images v;    /* what callers see; its pointers lead into the fields below */
    hn_mapfile map; /* holds the pixels, or `pixel` does */
    uint8_t *pixel;
    int32_t *label;
    char **class_name; /* NULL until it is known how many there are */
    int32_t *part_class;
    int32_t *super_of; /* [n_classes] as hn_image_set_superclasses gives them; NULL: none */
    char **super_name; /* [n_super] */
    int32_t n_super;
    char *name;
    const char *kind;
    char digest[HN_SHA256_HEX];
    bool named; /* classes have names of their own, not only numbers */
    int64_t n_skipped, n_alpha, n_deep, n_turned, n_resized;
    int64_t n_grey;     /* that got three equal channels */
    int64_t n_left_out; /* behind the first class_images of their class */
    char *first_skipped;
};

/* A list of paths. */
typedef struct {
    char **path;
    int64_t n, cap;
} hn_paths;

void hn_paths_free(hn_paths *p);
HN_NODISCARD hn_status hn_paths_add(hn_paths *p, char *path); /* takes it over; NULL: no memory */
void hn_paths_sort(hn_paths *p);                              /* by bytes */
/* Names (not paths) of a folder's files or folders that do not begin with a dot, sorted. */
HN_NODISCARD hn_status hn_paths_list(const char *folder, bool folders, hn_paths *out);

/* The bytes of a file: mapped, or decompressed when it is gzip. */
typedef struct {
    const uint8_t *data;
    size_t n_bytes;
    hn_mapfile map;
    uint8_t *owned;
} hn_data_bytes;

/* Errors  HN_ERR_IO; HN_ERR_FORMAT: damaged gzip, more than max_bytes, or more than an idx header
 * at the beginning promises: a small file cannot fill the memory */
HN_NODISCARD hn_status hn_data_bytes_read(const char *path, int64_t max_bytes, hn_data_bytes *out);
void hn_data_bytes_free(hn_data_bytes *b);

/* ---- where the files are ---- */

typedef struct {
    hn_image_kind kind; /* CIFAR: AUTO where only the contents tell which one */
    hn_paths files;     /* images of idx, records of CIFAR, or the folder of the classes */
    char *labels;       /* idx */
    char *folder;       /* where names of classes may be */
} hn_image_files;

void hn_image_files_free(hn_image_files *f);

/* The files of a part, called by one of `words` (ends with NULL); files.n is 0 when there are none.
 * data     a folder, a file, a list or a pattern; the last three are one part: `words` is not read
 * Errors   HN_ERR_ARG, HN_ERR_IO, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_image_files_find(const char *data, hn_image_kind kind,
                                           const char *const *words, hn_image_files *out);

/* ---- the kinds; `s` is empty before, and freed by the caller after an error ---- */

HN_NODISCARD hn_status hn_images_read_idx(const hn_image_files *f, const hn_image_options *o,
                                          hn_image_set *s);
HN_NODISCARD hn_status hn_images_read_cifar(const hn_image_files *f, const hn_image_options *o,
                                            hn_image_set *s);
HN_NODISCARD hn_status hn_images_read_folder(const hn_image_files *f, const hn_image_options *o,
                                             hn_image_set *s);

/* A file of this name is an image: of a kind that is read, or one that is refused. */
bool hn_images_named(const char *name);
/* A folder of this name may be a part of a set of folders: "train", "val", "test" and the like. */
bool hn_images_part_word(const char *name);

/* Parsers over memory; name is used in errors. */

typedef struct {
    int64_t count, h, w;
    int c;
    const uint8_t *pixel; /* in the file */
} hn_idx_images;

/* Bytes that the idx file that begins like this has; 0: it does not begin like one. */
uint64_t hn_idx_bytes(const uint8_t *head, size_t n_bytes);
HN_NODISCARD hn_status hn_idx_parse_images(const uint8_t *data, size_t n_bytes, const char *name,
                                           const hn_image_limits *limits, hn_idx_images *out);
/* label    out [count] */
HN_NODISCARD hn_status hn_idx_parse_labels(const uint8_t *data, size_t n_bytes, const char *name,
                                           int64_t count, int32_t *label);

/* kind     AUTO: what sizes and labels say
 * Errors   HN_ERR_FORMAT; HN_ERR_ARG: both kinds fit */
HN_NODISCARD hn_status hn_cifar_parse(const uint8_t *data, size_t n_bytes, const char *name,
                                      hn_image_kind kind, hn_image_kind *found, int64_t *count);
/* Copies checked records: labels and pixels, channels last. */
void hn_cifar_copy(const uint8_t *data, int64_t count, hn_image_kind kind, bool coarse,
                   int32_t *label, uint8_t *pixel);

/* ---- making a set ---- */

HN_NODISCARD hn_status hn_images_new(const char *name, hn_image_set **out);
/* Memory for `count` images of the size of v and their labels. */
HN_NODISCARD hn_status hn_images_room(hn_image_set *s, const hn_images *v, int64_t count);
HN_NODISCARD hn_status hn_images_copy_names(hn_image_set *s, const char *const *name, int32_t n);
HN_NODISCARD hn_status hn_images_copy_parts(hn_image_set *s, const int32_t *part_class, int n);
/* The superclasses of another set of the same classes; none where it has none. */
HN_NODISCARD hn_status hn_images_copy_superclasses(hn_image_set *s, const hn_image_set *from);
/* image_size and channels of the options. */
HN_NODISCARD hn_status hn_images_settle(hn_image_set *s, const hn_image_options *o);
/* The last step: the face's pointers and the digest. */
HN_NODISCARD hn_status hn_images_seal(hn_image_set *s);

/* Lines of the first of these files (NULL at the end) that is in the folder become the names;
 * nothing happens when there is none.
 * n        classes that there must be; 0: as many as there are lines
 * Errors   HN_ERR_FORMAT: another number, an empty or a repeated name */
HN_NODISCARD hn_status hn_images_name_classes(hn_image_set *s, const char *folder,
                                              const char *const *names, int32_t n);
/* Classes called by their numbers. */
HN_NODISCARD hn_status hn_images_number_classes(hn_image_set *s, int32_t n);
/* HN_ERR_FORMAT naming the place of the first label outside [0, n_classes). */
HN_NODISCARD hn_status hn_images_check_labels(const hn_image_set *s, const char *path);

#ifdef __cplusplus
}
#endif
#endif
