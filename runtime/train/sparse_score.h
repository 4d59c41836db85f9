/* sparse_score.h - scores of blocks on the host, for sparse_select.h.
 *
 * Of values that lie block after block, as the pool has them (n blocks of `size` values):
 *   hn_score_mean_abs   f[b] = mean |v|                 s_B of a sum of gradients (spec 6.2)
 *   hn_score_norm       f[b] = ||v||_2                  d_B of a change (6.3)
 *   hn_score_product    f[b] = mean |v u|               sensitivity |delta g|; SNIP |w g|
 * Of a whole matrix w [out, in], row-major without gaps, f [blocks] in the order of ids; they need
 * no gradient but for SNIP:
 *   hn_score_random     a number in [0, 1) from (seed, name, block)
 *   hn_score_magnitude  mean |w|                        SHiRA
 *   hn_score_snip       mean |w g|                      SHiRA
 *   hn_score_lift       mean |W_r|, W_r the nearest matrix of rank r
 *   hn_score_diagonal   1 for the blocks of the diagonal, 0 for others: DiaBlo
 *   hn_score_top        the k best of f as a list for hn_select_fill: of element mode at most
 *                       `most` of a matrix matter, and no more need to be kept
 * hn_coupled_choose     S2FT: the same channels or heads in several matrices, as lists of ids
 * hn_score_prior        score (0.001 + prior / mean)^gamma
 *
 * Precision  sums in fp64, in the order of the values, rounded once.
 * Repeats    bit for bit with any number of threads.
 * Errors     HN_ERR_SHAPE, HN_ERR_ARG naming the matrix; HN_ERR_NUMERIC, HN_ERR_MEMORY. A NaN in
 *            gives a NaN out, which the selection refuses.
 * Sources    SHiRA: Bhardwaj et al., NeurIPS 2024; LIFT: Liu et al., arXiv 2506.00772; DiaBlo:
 * arXiv 2506.03230; S2FT: Yang et al., NeurIPS 2024; SNIP: Lee et al., ICLR 2019; range finder:
 *            Halko, Martinsson and Tropp, SIAM Review 2011, algorithm 4.4.
 */
#ifndef HN_SPARSE_SCORE_H
#define HN_SPARSE_SCORE_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/adapt/spectrum.h"
#include "runtime/base/status.h"
#include "runtime/train/sparse_select.h"

#ifdef __cplusplus
extern "C" {
#endif

void hn_score_mean_abs(const float *v, int64_t n, int64_t size, float *f);
void hn_score_norm(const float *v, int64_t n, int64_t size, float *f);
void hn_score_product(const float *v, const float *u, int64_t n, int64_t size, float *f);

/* Of m its name, out, in and shape are read. */
HN_NODISCARD hn_status hn_score_random(const hn_select_matrix *m, uint64_t seed, float *f);
HN_NODISCARD hn_status hn_score_magnitude(const hn_select_matrix *m, const float *w, float *f);
HN_NODISCARD hn_status hn_score_snip(const hn_select_matrix *m, const float *w, const float *g,
                                     float *f);

typedef struct {
    const float *w; /* in [out, in] */
    int64_t rank;   /* 1..min(out, in) */
    /* NULL: two power iterations on a random sketch of rank + 16 columns, cost about
     * 12 out in (rank + 16); the blocks chosen are those of the exact one but for a few at the
     * threshold. Else a solver of the CPU: exact, cost of spectrum.h. */
    hn_spectrum_solver *exact;
    uint64_t seed; /* of the sketch */
} hn_lift_args;

HN_NODISCARD hn_status hn_score_lift(const hn_select_matrix *m, const hn_lift_args *a, float *f);

/* The matrix as a grid of parts x parts, whose diagonal is 1; the density is 1 / parts.
 * f       NULL: the shape is only looked at
 * Errors  HN_ERR_SHAPE unless parts divides the rows and the columns of blocks */
HN_NODISCARD hn_status hn_score_diagonal(const hn_select_matrix *m, int64_t parts, float *f);

/* The k best of f [n], ids ascending; of equals the lower id. id, score  out [k]; k <= n < 2^31 */
HN_NODISCARD hn_status hn_score_top(const float *f, int64_t n, int64_t k, int32_t *id,
                                    float *score);

void hn_score_prior(const float *prior, int64_t n, double mean, double gamma, float *score);

/* One matrix of a coupled set: unit u is its rows (or columns) u width .. (u + 1) width - 1. The
 * rows of up and gate and the columns of down share the channels of a feed-forward layer; the rows
 * of q, k and v and the columns of o the heads (groups of them where k and v have fewer). */
typedef struct {
    const hn_select_matrix *matrix; /* of the shape row {1, in} or column {out, 1} */
    const float *w;                 /* [out, in]; NULL: at random */
} hn_coupled;

/* k of the units, the same for all members: those of the largest sum over the members of mean |w|
 * in the unit, or at random by (seed, set, unit) where no member has w.
 * ids  out, per member [k width] ascending
 * Errors  HN_ERR_SHAPE: units do not divide the rows or columns; HN_ERR_ARG: only some have w */
HN_NODISCARD hn_status hn_coupled_choose(const char *set, int64_t units, uint64_t seed,
                                         const hn_coupled *members, int64_t n, int64_t k,
                                         int32_t *const *ids);

#ifdef __cplusplus
}
#endif
#endif
