/* partition.h - which samples of a set each client has.
 *
 * A pure function of labels, groups and options; indices of a client rise, every used sample has
 * one owner. Samples with a negative label (or group, where groups decide) belong to nobody.
 *
 * iid        a random permutation, cut into parts whose sizes differ by at most one
 * dirichlet  for every class, shares of the clients from Dirichlet(alpha); its samples, in random
 *            order, are cut at floor(cumulated share x samples of the class). Small alpha: few
 *            classes a client, and sizes that differ. Yurochkin et al. 2019 (ICML); Li et al. 2022
 *            (ICDE)
 * mixture    for every client a mix of classes from Dirichlet(alpha x classes x share of the class
 *            in the data), and equal sizes: clients in turns draw samples from their mix without
 *            replacement. A class that has run out is left out of the mix; when all of a client's
 *            have, it draws by what is left of each class. Hsu, Qi and Brown 2019
 * shards     sorted by label (then by index), cut into clients x shards parts whose sizes differ by
 *            at most one; each client gets `shards` of them at random. McMahan et al. 2017
 * group      a client has all samples of one group (writer, site, file); with fewer clients than
 *            groups the groups, in random order, are dealt round
 * quantity   random samples; shares of the whole from Dirichlet(alpha): sizes differ, classes do
 *            not
 *
 * Draws     dirichlet and quantity are drawn again, up to 1000 times, until every client has
 *           min_samples. Gamma draws: Marsaglia and Tsang 2000, in double, for alpha < 1 in
 *           logarithms (no underflow to 0 / 0). Numbers from rng.h: the same bits everywhere, as
 *           far as log, exp and cos of the C library are the same.
 * Errors    HN_ERR_ARG: clients below 1 or above the samples (shards: clients x shards above them;
 *           group: clients above the groups that have samples), alpha not above 0, a client (named)
 *           with fewer than min_samples, labels or groups missing; HN_ERR_MEMORY
 */
#ifndef HN_PARTITION_H
#define HN_PARTITION_H
#include <stdint.h>

#include "runtime/base/log.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* clang-format off */
#define HN_PARTITION_LIST(X)  \
    X(IID,       "iid")       \
    X(DIRICHLET, "dirichlet") \
    X(MIXTURE,   "mixture")   \
    X(SHARDS,    "shards")    \
    X(GROUP,     "group")     \
    X(QUANTITY,  "quantity")

typedef enum {
#define X(id, name) HN_PARTITION_##id,
    HN_PARTITION_LIST(X)
#undef X
    HN_PARTITION_COUNT
} hn_partition_rule;
/* clang-format on */

const char *hn_partition_rule_name(hn_partition_rule r); /* "dirichlet"; "?" when out of range */

typedef struct {
    hn_partition_rule rule;
    int64_t clients; /* group: 0 means one for each group that has samples */
    uint64_t seed;
    double alpha;        /* dirichlet, mixture, quantity: above 0 */
    int64_t shards;      /* shards: parts a client, at least 1 */
    int64_t min_samples; /* every client has at least these; 0 is read as 1 */
} hn_partition_options;

/* Zero before the first use. Client c has index[first[c] .. first[c + 1]). */
typedef struct {
    int64_t clients;
    int64_t *first; /* [clients + 1] */
    int32_t *index; /* [first[clients]] */
} hn_partition;

/* label    [n] or NULL; dirichlet, mixture and shards need them
 * group    [n] or NULL; group needs them */
HN_NODISCARD hn_status hn_partition_make(const hn_partition_options *o, const int32_t *label,
                                         const int32_t *group, int64_t n, hn_partition *out);
void hn_partition_free(hn_partition *p); /* accepts an empty one */

/* What a client has: the table that a program prints. */
typedef struct {
    int64_t samples;
    int32_t classes; /* different labels */
    int32_t top;     /* the label it has most of, the lowest of equals; -1 without labels */
    int64_t top_n;   /* samples of that label */
} hn_client_samples;
/* label    [n] as in hn_partition_make, or NULL
 * classes  labels are below it
 * out      [clients]
 * Errors   HN_ERR_ARG: a label at or above classes; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_partition_count(const hn_partition *p, const int32_t *label,
                                          int32_t classes, hn_client_samples *out);
/* The same in three lines: clients and samples; least, median and most samples a client; least,
 * median and most classes, and the mean share of a client's most frequent one. */
HN_NODISCARD hn_status hn_partition_report(const hn_partition *p, const int32_t *label,
                                           int32_t classes, const hn_log *log);

#ifdef __cplusplus
}
#endif
#endif
