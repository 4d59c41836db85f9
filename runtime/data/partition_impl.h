/* partition_impl.h - what the files of the partition share. */
#ifndef HN_PARTITION_IMPL_H
#define HN_PARTITION_IMPL_H
#include "runtime/base/rng.h"
#include "runtime/data/partition.h"

/* The samples that count, and who gets each. */
typedef struct {
    const hn_partition_options *o;
    int64_t n, clients;
    int32_t *sample; /* [n] numbers in the set, rising */
    int32_t *label;  /* [n] of sample[i], or NULL */
    int32_t *group;  /* [n] numbered 0 .. groups - 1 in the order of their own numbers, or NULL */
    int32_t classes, groups;
    int32_t *owner; /* [n] out */
    int32_t *order; /* [n] scratch */
} hn_deal;

/* partition_rules.c: owners by rule; attempt counts from 0. */
HN_NODISCARD hn_status hn_deal_iid(hn_deal *d, uint64_t attempt);
HN_NODISCARD hn_status hn_deal_dirichlet(hn_deal *d, uint64_t attempt);
HN_NODISCARD hn_status hn_deal_mixture(hn_deal *d, uint64_t attempt);
HN_NODISCARD hn_status hn_deal_shards(hn_deal *d, uint64_t attempt);
HN_NODISCARD hn_status hn_deal_group(hn_deal *d, uint64_t attempt);
HN_NODISCARD hn_status hn_deal_quantity(hn_deal *d, uint64_t attempt);

/* partition_draw.c */
/* The logarithm of a draw from Gamma(shape, 1); row names the draw. */
double hn_log_gamma_draw(hn_rng rng, uint64_t row, double shape);
/* Shares [n] from Dirichlet(shape); draws row .. row + n - 1.
 * stride   of shape: 0 where all are the same */
void hn_dirichlet_draw(hn_rng rng, uint64_t row, const double *shape, int64_t stride, int64_t n,
                       double *share);
/* In [0, 1), a multiple of 2^-53. */
double hn_unit_draw(hn_rng rng, uint64_t row, uint32_t block);
void hn_shuffle_draw(hn_rng rng, int32_t *x, int64_t n); /* Fisher and Yates */
#endif
