/* episodes.h - few-shot tasks: a few classes of a domain, some labelled images of each (support)
 * and others to be classified (query).
 *
 * Episode     number i of a sampler is a pure function of (seed, name of the domain, options, what
 *             the source holds, i): any order, any number of threads, no state. Labels 0 .. way-1
 *             are places in the episode (classes[] says which class each is). No image is twice in
 *             an episode; query images never are support images. Rows: class after class, in the
 *             order of the labels.
 *
 * fixed       way in way_min..way_max, shot (support images a class) in shot_min..shot_max, both
 *             uniform, drawn per episode; `query` images a class. Classes, then the images of each,
 *             uniform without replacement. Groups are not looked at.
 * cdfsl       fixed with 5 ways, 15 queries a class and one shot count: BSCD-FSL (Guo et al.,
 *             arXiv 1912.07200).
 * meta        Meta-Dataset (Triantafillou et al., arXiv 1903.03096; google-research/meta-dataset
 *             @1676095, data/sampling.py), variable way and shot. n_c = images of class c:
 *               way   uniform in 5..min(50, classes), classes uniform without replacement; with
 *                     groups (Omniglot: alphabets) a group uniform, then way in 5..min(50, its
 *                     classes) from its classes. A group of fewer than 5 classes is left out, and
 *                     the report says so.
 *               q     = min(10, min_c floor(n_c / 2)) queries, the same for all classes
 *               N     = min(500, sum_c floor(beta min(100, n_c - q) + 1)), beta ~ U[0, 1)
 *               R_c   = n_c e^a_c / sum_j n_j e^a_j, a_c ~ U[ln 0.5, ln 2)
 *               k_c   = min(floor(R_c (N - way)) + 1, n_c - q) support images
 *             ILSVRC's rule there (a node of WordNet) is not offered: its hierarchy is not part of
 *             a folder of images; such data draw as data without groups do.
 * Limits      max_support, max_query, max_way (0: none) let engines with a fixed number of rows
 *             hold every episode. They change what is drawn, and the text of the sampler says so:
 *               meta   50 becomes min(50, max_way, max_support, max_query), 500 becomes
 *                      min(500, max_support), 10 becomes min(10, floor(max_query / way)); a limit
 *                      below 5 is HN_ERR_ARG
 *               fixed  way_max becomes min(way_max, max_way), shot_max becomes, per episode,
 *                      min(shot_max, floor(max_support / way)); lower ends, and query, must fit
 *                      always: HN_ERR_ARG
 *
 * Errors      name the domain and the class. HN_ERR_ARG: fewer classes than ways, one class only, a
 *             class with fewer images than shot + query (fixed; meta: than 2), limits, ranges;
 *             HN_ERR_MEMORY
 */
#ifndef HN_EPISODES_H
#define HN_EPISODES_H
#include <stdint.h>

#include "runtime/base/log.h"
#include "runtime/base/save.h"
#include "runtime/base/status.h"
#include "runtime/data/class_split.h"
#include "runtime/data/images.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- an episode ---- */

/* Zero before the first use. Rows behind n_support and n_query hold image -1 and label
 * HN_LABEL_IGNORED (runtime/base/label.h), classes behind way -1. */
typedef struct {
    int64_t number;
    int32_t way, n_support, n_query;
    int32_t max_way, max_support, max_query; /* sizes of the arrays */
    int32_t *support, *support_label;        /* [max_support] image of the set, label < way */
    int32_t *query, *query_label;            /* [max_query] */
    int32_t *classes;                        /* [max_way] class of the set that label k is */
    int32_t *drawn;                          /* [max_support + max_query] of hn_episode_draw */
} hn_episode;

/* Arrays of these sizes, all padding. Errors  HN_ERR_ARG: a size below 0; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_episode_make(int64_t max_way, int64_t max_support, int64_t max_query,
                                       hn_episode *out);
void hn_episode_free(hn_episode *e); /* accepts an empty one */
void hn_episode_pad(hn_episode *e);  /* fills what lies behind way, n_support and n_query */

/* ---- a domain's classes ---- */

typedef struct hn_episode_source hn_episode_source;

/* images   must outlive the source
 * name     of the domain: part of what keys every draw, e.g. "cifar100"; not a path
 * classes  [n] numbers of the classes that belong, each once, in any order; NULL: all that have an
 *          image. The draws do not depend on their order.
 * groups   copied; NULL: none
 * Errors   HN_ERR_ARG: no classes, an unknown or repeated one, one without an image */
HN_NODISCARD hn_status hn_episode_source_make(const hn_image_set *images, const char *name,
                                              const int32_t *classes, int32_t n,
                                              const hn_class_groups *groups,
                                              hn_episode_source **out);
/* The classes of a part of a split, called "<name>/<part>". HN_ERR_ARG: the part has no class. */
HN_NODISCARD hn_status hn_episode_source_of_part(const hn_image_set *images, const char *name,
                                                 const hn_class_split *split, hn_part part,
                                                 const hn_class_groups *groups,
                                                 hn_episode_source **out);
void hn_episode_source_free(hn_episode_source *s); /* accepts NULL */

const char *hn_episode_source_name(const hn_episode_source *s);
int32_t hn_episode_source_classes(const hn_episode_source *s, const int32_t **classes); /* rising */
/* SHA-256 of the name, the digest of the images, the classes and the groups. */
const char *hn_episode_source_digest(const hn_episode_source *s);

/* ---- samplers ---- */

/* clang-format off */
#define HN_EPISODE_RULE_LIST(X) \
    X(FIXED, "fixed")           \
    X(CDFSL, "cdfsl")           \
    X(META,  "meta")

typedef enum {
#define X(id, name) HN_EPISODE_##id,
    HN_EPISODE_RULE_LIST(X)
#undef X
    HN_EPISODE_RULE_COUNT
} hn_episode_rule;
/* clang-format on */

const char *hn_episode_rule_name(hn_episode_rule r); /* "fixed"; "?" when out of range */

/* Fields that the rule does not read must be 0. */
typedef struct {
    hn_episode_rule rule;
    uint64_t seed;
    int64_t way_min, way_max;   /* fixed: at least 2; way_max 0: way_min */
    int64_t shot_min, shot_max; /* fixed, cdfsl (one count): at least 1; shot_max 0: shot_min */
    int64_t query;              /* fixed: at least 1 */
    int64_t max_way, max_support, max_query;
} hn_episode_options;

typedef struct hn_episode_sampler hn_episode_sampler;

/* source   must outlive the sampler */
HN_NODISCARD hn_status hn_episode_sampler_make(const hn_episode_source *source,
                                               const hn_episode_options *o,
                                               hn_episode_sampler **out);
void hn_episode_sampler_free(hn_episode_sampler *s); /* accepts NULL */

/* The largest way, support and query of any episode of this sampler: rows of an engine. */
typedef struct {
    int64_t way, support, query;
} hn_episode_sizes;
hn_episode_sizes hn_episode_sampler_sizes(const hn_episode_sampler *s);
/* "cifar100/test: 5-way 1-shot, 15 queries a class, seed 0": what a run record keeps. */
const char *hn_episode_sampler_text(const hn_episode_sampler *s);
/* SHA-256 of the digest of the source and of all that is drawn by: episodes i of samplers with the
 * same digest are the same. */
const char *hn_episode_sampler_digest(const hn_episode_sampler *s);

/* Episode `number`, 0 .. 2^32 - 1. Allocates nothing; any number of threads.
 * out      made with sizes not below hn_episode_sampler_sizes
 * Errors   HN_ERR_ARG: the number, too small an `out` */
HN_NODISCARD hn_status hn_episode_draw(const hn_episode_sampler *s, int64_t number,
                                       hn_episode *out);

/* ---- Meta-Dataset's formulas, for tests and for a look at a data set ---- */

/* images   [way] n_c, each at least 2 */
int64_t hn_meta_query(const int64_t *images, int64_t way, int64_t most);
/* beta     in [0, 1); most: 500, at least way */
int64_t hn_meta_support(const int64_t *images, int64_t way, int64_t query, double beta,
                        int64_t most);
/* log_weight  [way] a_c; shots out [way] k_c, whose sum is at most `support` */
void hn_meta_shots(const int64_t *images, const double *log_weight, int64_t way, int64_t query,
                   int64_t support, int64_t *shots);

/* A few lines: the sampler's text, the classes and how many images they have, groups left out. */
void hn_episode_sampler_report(const hn_episode_sampler *s, const hn_log *log);

#ifdef __cplusplus
}
#endif
#endif
