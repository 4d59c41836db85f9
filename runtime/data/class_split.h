/* class_split.h - which classes of an image set are for training, validation and testing.
 *
 * Few-shot work learns on some classes and is judged on others. A split gives every class one part,
 * or none (its images are not used).
 *
 * Rules     counts   the classes in an order that the seed decides; the first count[TRAIN] are for
 *                    training, the next count[VALID] for validation, the next count[TEST] for
 *                    testing, the rest for nothing. CIFAR-100 as 64 / 16 / 20. The order is the
 *                    same for every choice of counts, so a smaller split lies inside a larger one.
 *           file     lines "train <name>", "valid <name>", "test <name>", the name (or number) of a
 *                    class up to the end of the line; empty lines and lines that begin with # are
 *                    skipped. A class that no line names is for nothing.
 *           groups   whole groups of classes: `valid` and `test` list groups (names or numbers,
 *                    commas between them), all others are for training. Superclasses of CIFAR-100,
 *                    alphabets of Omniglot: what is tested is further from what was learned.
 *           parts    joined data sets (A+B or A+B+C of images.h) in the order train, test, or
 *                    train, valid, test: folders of a converted data set that hold other classes
 *                    each.
 *           all      every class is for testing: a data set of which nothing is learned.
 * Errors    name the class, the group or the line. HN_ERR_ARG: more classes asked for than there
 *           are, an unknown group, one in both lists, nothing left to train on (rules that have a
 *           training part), rule and fields that do not fit together; HN_ERR_FORMAT: a line of the
 *           file, a class in two lines; HN_ERR_IO; HN_ERR_MEMORY
 */
#ifndef HN_CLASS_SPLIT_H
#define HN_CLASS_SPLIT_H
#include <stdint.h>

#include "runtime/base/log.h"
#include "runtime/base/save.h"
#include "runtime/base/status.h"
#include "runtime/data/images.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- groups of classes ---- */

/* Zero before the first use. */
typedef struct {
    int32_t n, n_classes;
    char **name;       /* [n] in the order of their first class */
    int32_t *of_class; /* [n_classes] group of each class, below n */
} hn_class_groups;

/* Superclasses where the data have them (CIFAR-100 with its fine labels), else the part of a
 * class's name before its first '/' (Omniglot: alphabet/character); 4096 at most.
 * Errors  HN_ERR_ARG: neither; a class (named) without an image, or whose images have two
 *         superclasses; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_class_groups_make(const hn_image_set *s, hn_class_groups *out);
void hn_class_groups_free(hn_class_groups *g); /* accepts an empty one */

/* ---- the split ---- */

typedef enum { HN_PART_TRAIN, HN_PART_VALID, HN_PART_TEST, HN_PART_COUNT } hn_part;
const char *hn_part_name(hn_part p); /* "train", "valid", "test"; "?" when out of range */

/* clang-format off */
#define HN_CLASS_SPLIT_LIST(X) \
    X(ALL,    "all")           \
    X(COUNTS, "counts")        \
    X(FILE,   "file")          \
    X(GROUPS, "groups")        \
    X(PARTS,  "parts")

typedef enum {
#define X(id, name) HN_CLASS_SPLIT_##id,
    HN_CLASS_SPLIT_LIST(X)
#undef X
    HN_CLASS_SPLIT_COUNT
} hn_class_split_rule;
/* clang-format on */

const char *hn_class_split_rule_name(hn_class_split_rule r); /* "counts"; "?" when out of range */

typedef struct {
    hn_class_split_rule rule;
    int64_t count[HN_PART_COUNT]; /* counts: 0 allowed for VALID and TEST */
    uint64_t seed;                /* counts */
    const char *file;             /* file */
    const char *valid, *test;     /* groups: NULL or a list */
} hn_class_split_options;

/* Zero before the first use. */
typedef struct {
    int32_t n_classes;               /* of the data */
    int8_t *part;                    /* [n_classes] an hn_part, -1: none */
    int32_t n[HN_PART_COUNT];        /* classes of a part */
    int32_t *classes[HN_PART_COUNT]; /* their numbers, rising; NULL where n is 0 */
    /* SHA-256 of the names and parts of all classes: what a run record keeps. The rule that made
     * the split does not go into it. */
    char digest[HN_SHA256_HEX];
} hn_class_split;

HN_NODISCARD hn_status hn_class_split_make(const hn_image_set *s, const hn_class_split_options *o,
                                           hn_class_split *out);
void hn_class_split_free(hn_class_split *c); /* accepts an empty one */

/* How many classes each part has, and the first names of each. */
void hn_class_split_report(const hn_class_split *c, const hn_image_set *s, const hn_log *log);

#ifdef __cplusplus
}
#endif
#endif
