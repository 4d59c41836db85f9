/* rank_rule.h - how many singular directions of a task's displacement Delta = W_task - W_ref are
 * kept as a low-rank pair B A, a layer at a time or for a budget over all layers.
 *
 *   R1  HN_RANK_ENERGY     k = min { k : sum_{i<=k} s_i^2 >= T_E sum_i s_i^2 }
 *   R2  HN_RANK_REFERENCE  k = min { k : sum_{i>k} s_i^2 <= eps^2 |W_ref|_F^2 }
 *   L1  HN_RANK_SUM        k = min { k : sum_{i<=k} s_i >= T_E sum_i s_i }
 *       HN_RANK_BOTH       k = min(k_R1, k_R2)
 *
 * after PEARL (arXiv 2505.11998) as our specification reads it (sections 3.3 and 3.4; the paper's
 * own rule was not available to us). R1 and L1 do not change when Delta is scaled; R2 gives 0 for a
 * displacement below eps of the reference. k never exceeds the number of values that are not 0,
 * but for the floor. Behind the rule:
 *
 *   floor       0, or 1: at least one direction, even of zeros
 *   cap         k is cut down to it; 0: no cap
 *   dense       from k = dense_from on Delta is kept as it is, m n parameters. By default that is
 *               the break-even floor(m n / (m + n)) (at least 1), where a pair saves nothing any
 *               more; a layer may name a smaller k (depthwise filters: 5). A cap below it wins.
 *
 * So a layer costs k (m + n) parameters, or m n, or nothing for k = 0.
 *
 * All functions are pure: arrays in, arrays out, no memory taken but where said, the same bits
 * always. Sums are in fp64, each in one order; those behind k from the smallest value up.
 * Errors     HN_ERR_ARG: NULL, a threshold, floor or budget out of range, values that do not fall
 *            or are negative or not finite; HN_ERR_SHAPE: sizes. Nothing is written then.
 */
#ifndef HN_RANK_RULE_H
#define HN_RANK_RULE_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/adapt/spectrum.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_RANK_ENERGY, HN_RANK_REFERENCE, HN_RANK_SUM, HN_RANK_BOTH } hn_rank_kind;

typedef struct {
    hn_rank_kind kind;
    double energy; /* T_E in (0, 1]; not of R2 */
    double eps;    /* >= 0; of R2 and BOTH */
    int64_t floor; /* 0 or 1 */
    int64_t cap;   /* k_max; 0: none */
} hn_rank_rule;

typedef struct {
    const double *s;    /* [r] singular values of Delta, falling */
    int64_t r;          /* at most min(m, n) */
    int64_t m, n;       /* Delta's rows and columns */
    double reference;   /* |W_ref|_F; of R2 and BOTH */
    int64_t dense_from; /* 0: the break-even; above it nothing changes */
} hn_rank_layer;

typedef struct {
    int64_t rank; /* k, also where dense */
    bool dense;
    int64_t parameters;
} hn_rank_choice;

/* ---- the rules alone; 0 <= energy <= 1 ---- */
int64_t hn_rank_by_energy(const double *s, int64_t r, double energy);
int64_t hn_rank_by_sum(const double *s, int64_t r, double energy);
int64_t hn_rank_by_reference(const double *s, int64_t r, double eps, double reference);

int64_t hn_rank_break_even(int64_t m, int64_t n); /* max(1, floor(m n / (m + n))) */

/* ---- the choice for a layer ---- */
HN_NODISCARD hn_status hn_rank_choose(const hn_rank_rule *rule, const hn_rank_layer *layer,
                                      hn_rank_choice *out);

/* ---- for a budget of parameters over n layers ---- */

/* One threshold for all layers: the loosest with at most `budget` parameters in all, found by 20
 * bisections: T_E (rule->energy is not read) to 2^-20 of 1, for R2 eps (rule->eps is not read) as
 * the largest relative displacement of a layer, times 2^(-20 t), t to 2^-20 of 1. The number of
 * parameters never falls as T_E rises or eps falls.
 * choices    out [n]
 * threshold  out NULL, or what was found; 0 for T_E: nothing fitted but the floors
 * Errors     HN_ERR_ARG also when the floors (for BOTH and R2, what remains of them) exceed the
 *            budget */
HN_NODISCARD hn_status hn_rank_budget(const hn_rank_rule *rule, const hn_rank_layer *layers,
                                      int64_t n, int64_t budget, hn_rank_choice *choices,
                                      double *threshold);

/* Directions of all layers one by one, the largest s_i^2 / (m + n) first, as long as they fit: a
 * layer whose next direction does not fit is left as it is and others go on. The step to dense
 * costs what it adds. Of the rule only floor and cap are read.
 * Memory     n bytes. Errors also HN_ERR_MEMORY. */
HN_NODISCARD hn_status hn_rank_greedy(const hn_rank_rule *rule, const hn_rank_layer *layers,
                                      int64_t n, int64_t budget, hn_rank_choice *choices);

/* ---- how near a task is to the reference ---- */

/* exp of the entropy of s_i^2 / sum s_i^2: 1 for one direction, r for r equal ones, 0 for zeros. */
double hn_rank_effective(const double *s, int64_t r);

typedef struct {
    const float *w;     /* in [m, n] the task's weights */
    const float *w_ref; /* in [m, n] */
    int64_t m, n, ld, ld_ref;
    const double *s; /* [r] singular values of w - w_ref */
    int64_t r;
} hn_rank_proximity_args;

typedef struct {
    double reference;      /* |W_ref|_F */
    double distance;       /* d_F = |W - W_ref|_F / |W_ref|_F; infinite where only W_ref is zero */
    double cosine;         /* of both as vectors; 0 where one is zero */
    double effective_rank; /* of s */
    int64_t k_energy;      /* k_R1 and k_R2 for the rule's T_E and eps, before floor and cap */
    int64_t k_reference;
} hn_rank_proximity;

/* Of the rule T_E and eps are read, whatever its kind.
 * Errors also HN_ERR_NUMERIC: a NaN or an infinity among the weights. */
HN_NODISCARD hn_status hn_rank_measure(const hn_rank_rule *rule, const hn_rank_proximity_args *a,
                                       hn_rank_proximity *out);

/* ---- the pair ---- */

/* B = U_k diag(s)^(1/2), A = diag(s)^(1/2) V_k^T, rounded to f32: as long each as the other. Serves
 * the first k of a task and, with hn_spectrum_of_product, the truncation of a trained pair.
 * Directions from the spectrum's rank on (the floor of a displacement that is zero) become zeros in
 * both, and would stay so in training: whoever trains them writes random values into those rows of
 * A.
 * k    1 to spectrum->r
 * b    out [m, k], rows ld_b apart;  a  out [k, n], rows ld_a apart */
HN_NODISCARD hn_status hn_rank_factors(const hn_spectrum *spectrum, int64_t k, float *b,
                                       int64_t ld_b, float *a, int64_t ld_a);

#ifdef __cplusplus
}
#endif
#endif
