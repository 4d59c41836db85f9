/* images.h - images and their labels out of data files: the vision part of the one data loader.
 *
 * data       one of
 *   idx          (MNIST family) a file of images, uint8 [count, h, w] or [count, h, w, c], with its
 *                file of labels beside it (the same name with "labels" for "images"; uint8, int16
 *                or int32)
 *   CIFAR        binary records: CIFAR-10 1 + 3072 bytes, CIFAR-100 2 + 3072 (coarse, fine), RGB
 *                planes of 32 x 32. One file, several separated by commas (in that order), or a
 *                pattern with * (in name order). Sizes and labels tell the two kinds apart.
 *   folder       per class, with .jpg .jpeg .png files in it (image_decode.h has what is read of
 *                them); classes and files in the order of their bytes. Names that begin with a dot
 *                are skipped, other files skipped and counted; other kinds of images are refused.
 *                class_images takes the first so many images of each class (of each part); the
 *                others are not opened: neither their sizes count nor the limit of a set's bytes.
 *                With `groups`, where it is asked for, all or none of the classes lie in a folder
 *                of their group (alphabet/character/), in the order of the groups; such a class is
 *                called group/class, which hn_class_groups_make (class_split.h) reads.
 *   A folder of idx or CIFAR files is searched for the training files (train*, data_batch*, or
 *   images* without such a word); numbered CIFAR files (data_batch_1 .., train_1of3 ..) are joined
 *   in the order of their numbers. idx and CIFAR files may be .gz; where a file is there in both
 *   forms, the plain one is read.
 *   A folder of classes may hold them in train/: a train/ of folders is the training part, with
 *   other parts (val/, test/) beside it. A train/ of images is a class, and so are val/ and test/
 *   beside it; folders and images in it, or no other class beside it, is an error.
 *   A+B: two or more data sets, joined: the classes of B come behind those of A.
 * held out   eval_data: data as above, or the word of another part of the folder `data` ("test"; a
 *            path of that name is written ./test). Without it: the folder's val* (valid, eval,
 *            validation, dev) or, if there is none, its test* (t10k, test_batch). But eval_split,
 *            if it is not 0, comes before the folder's: of each class the last share, rounded to
 *            whole images, at least one stays. With A+B, eval_data is A'+B', and eval_split cuts
 *            only those that hold nothing out themselves.
 * classes    folders: their names; else the lines of a file beside the data: classes.txt
 *            (CIFAR-10 also batches.meta.txt; CIFAR-100 fine_classes.txt or fine_label_names.txt,
 *            with coarse coarse_classes.txt or coarse_label_names.txt); else their numbers. idx
 *            without names: as many classes as the largest label asks for. In A+B a name that is in
 *            both becomes "<folder>:<name>".
 *            Held-out data have the classes of the training data; folders are matched by name.
 * sizes      one for all images of a set. image_size makes every image, of whatever data, a square
 *            of that side (hn_image_resize_crop); a folder whose images differ needs it.
 * channels   those of the data: 3 if any image of a folder has colour, else 1. Asking for 3 repeats
 *            grey ones; asking for 1 of colour images is an error.
 *
 * Pixels stay in memory as bytes, channels last; a plain idx file is mapped. The same files give
 * the same set, whatever their paths, compression and the number of threads.
 *
 * Errors     name file and place. HN_ERR_IO; HN_ERR_FORMAT: damage, a label outside the classes,
 *            the name of a class that is not UTF-8, a limit; HN_ERR_ARG: nothing fits, or more
 *            than one thing; HN_ERR_SHAPE: sizes or channels that differ; HN_ERR_UNSUPPORTED;
 *            HN_ERR_MEMORY
 */
#ifndef HN_IMAGES_H
#define HN_IMAGES_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/log.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HN_IMAGE_MAX_BYTES (INT64_C(32) << 30) /* 32 GiB */
enum { HN_IMAGE_MAX_CHANNELS = 4 };

typedef enum {
    HN_IMAGES_AUTO,
    HN_IMAGES_IDX,
    HN_IMAGES_CIFAR10,
    HN_IMAGES_CIFAR100,
    HN_IMAGES_FOLDER
} hn_image_kind;

#define HN_IMAGE_KINDS "auto|idx|cifar10|cifar100|folder" /* in the order of hn_image_kind */
/* Errors  HN_ERR_ARG: not one of HN_IMAGE_KINDS */
HN_NODISCARD hn_status hn_image_kind_parse(const char *name, hn_image_kind *out);

typedef struct {
    int64_t max_pixels; /* of one image; 0: HN_IMAGE_MAX_PIXELS */
    int64_t max_bytes;  /* of a set in memory; 0: HN_IMAGE_MAX_BYTES */
} hn_image_limits;

typedef struct {
    const char *data, *eval_data; /* eval_data NULL: see above */
    double eval_split;            /* 0: see above; else between 0 and 1 */
    hn_image_kind kind;
    bool coarse;        /* CIFAR-100: the 20 coarse labels, not the 100 fine ones */
    int64_t image_size; /* side of the square that all images become; 0: as they are */
    int64_t folder_side, folder_crop; /* folders, instead of it: the shorter side of every image
                                       * becomes folder_side, and its centre of folder_crop is cut,
                                       * whatever its size was; 0: not */
    int channels;                     /* 0: those of the data; 1 or 3 */
    hn_image_limits limits;
    bool groups;                   /* folders: classes may lie in folders of their groups */
    int64_t class_images;          /* folders: images of each class at most; 0: all */
    const char *class_images_name; /* of that option where the user has it, for errors; or NULL */
} hn_image_options;

/* What a set holds; all memory is the set's. */
typedef struct {
    int64_t count, h, w;
    int c;
    const uint8_t *pixel; /* [count, h, w, c] */
    const int32_t *label; /* [count] in [0, n_classes) */
    int32_t n_classes;
    const char *const *class_name; /* [n_classes] */
    int n_parts;                   /* data sets that were joined, 1 without + */
    const int32_t *part_class;     /* [n_parts + 1] first class of each */
} hn_images;

typedef struct hn_image_set hn_image_set;

/* train    NULL: not wanted
 * eval     NULL: not wanted; *eval is NULL when nothing is held out
 * Both are changed only on success; hn_image_set_free frees them. */
HN_NODISCARD hn_status hn_image_sets_open(const hn_image_options *o, hn_image_set **train,
                                          hn_image_set **eval);
/* A set of images at hand (copied); class_name and part_class may be NULL (numbers; one part).
 * Errors  HN_ERR_SHAPE, HN_ERR_FORMAT: a label outside the classes; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_image_set_make(const hn_images *v, const char *name, hn_image_set **out);
/* The sets one behind the other (copied); all of one size.
 * Errors  HN_ERR_ARG: none; HN_ERR_SHAPE; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_image_sets_join(const hn_image_set *const *sets, int n,
                                          hn_image_set **out);
/* Sets of the same classes in the same order (a set and its held-out images), one behind the other,
 * as one set of these classes (copied).
 * Errors  HN_ERR_ARG: none, other classes; HN_ERR_SHAPE; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_image_sets_pool(const hn_image_set *const *sets, int n,
                                          hn_image_set **out);
void hn_image_set_free(hn_image_set *s); /* accepts NULL */

const hn_images *hn_image_set_view(const hn_image_set *s);
int64_t hn_image_set_bytes(const hn_image_set *s);    /* of the pixels */
const char *hn_image_set_name(const hn_image_set *s); /* "data/cifar10", "held-out 10 % of ..." */
const char *hn_image_set_kind(const hn_image_set *s); /* "CIFAR-10 binary", ... */
/* SHA-256 of sizes, class names, labels and pixels: what a resume compares. */
const char *hn_image_set_digest(const hn_image_set *s);
/* The class of that name or number; -1 if there is none. */
int32_t hn_image_set_class(const hn_image_set *s, const char *name);

enum { HN_SUPERCLASS_NONE = -1, HN_SUPERCLASS_MIXED = -2 };
/* The superclasses of the classes: CIFAR-100 with its fine labels has them in its files; joined
 * data sets (A+B) have none.
 * of_class  out [n_classes]: below the number returned; NONE: the class has no image; MIXED: its
 *           images have several
 * name      out [number returned]
 * Returns how many there are, 0: the data know none (then nothing is written) */
int32_t hn_image_set_superclasses(const hn_image_set *s, const int32_t **of_class,
                                  const char *const **name);

typedef struct {
    double mean[HN_IMAGE_MAX_CHANNELS], sd[HN_IMAGE_MAX_CHANNELS]; /* of a channel, 0..255 */
} hn_image_stats;

/* index    [n] images; NULL: all of the set (n is not read) */
void hn_image_set_stats(const hn_image_set *s, const int32_t *index, int64_t n,
                        hn_image_stats *out);
/* count    out [n_classes] */
void hn_image_set_histogram(const hn_image_set *s, int64_t *count);

/* Says in a few lines what is in the set: images, size, classes and how many images they have,
 * mean and deviation of the channels, what was skipped, dropped or turned. */
void hn_image_set_report(const hn_image_set *s, const hn_log *log);

#ifdef __cplusplus
}
#endif
#endif
