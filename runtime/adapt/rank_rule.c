#include "runtime/adapt/rank_rule.h"

#include <inttypes.h>
#include <math.h>

#include "runtime/base/alloc.h"
#include "runtime/base/check.h"

enum { BISECTIONS = 20 };

/* ---- the rules ---- */

static int64_t first_reaching(const double *s, int64_t r, double share, bool squared)
{
    double total = 0.0, sum = 0.0;
    for (int64_t i = 0; i < r; i++) total += squared ? s[i] * s[i] : s[i];
    int64_t k = 0; /* not past the last value, even where both sums were rounded differently */
    for (; k < r && s[k] > 0.0 && sum < share * total; k++) sum += squared ? s[k] * s[k] : s[k];
    return k;
}

int64_t hn_rank_by_energy(const double *s, int64_t r, double energy)
{
    return first_reaching(s, r, energy, true);
}

int64_t hn_rank_by_sum(const double *s, int64_t r, double energy)
{
    return first_reaching(s, r, energy, false);
}

int64_t hn_rank_by_reference(const double *s, int64_t r, double eps, double reference)
{
    const double most = eps * eps * reference * reference;
    double tail = 0.0;
    int64_t k = r;
    for (; k > 0; k--) {
        tail += s[k - 1] * s[k - 1];
        if (tail > most) break;
    }
    return k;
}

int64_t hn_rank_break_even(int64_t m, int64_t n)
{
    const int64_t k = m * n / (m + n);
    return k > 1 ? k : 1;
}

/* ---- checks ---- */

static hn_status check_values(const double *s, int64_t r, int64_t m, int64_t n)
{
    HN_TRY(hn_check_pointer("rank", "s", s));
    const int64_t limit = (int64_t)1 << 31;
    if (m < 1 || n < 1 || m >= limit || n >= limit || r < 0 || r > (m < n ? m : n))
        return HN_FAIL(HN_ERR_SHAPE,
                       "rank: %" PRId64 " singular values of [%" PRId64 ", %" PRId64 "]", r, m, n);
    for (int64_t i = 0; i < r; i++)
        if (!isfinite(s[i]) || s[i] < 0.0 || (i > 0 && s[i] > s[i - 1]))
            return HN_FAIL(HN_ERR_ARG,
                           "rank: singular value %" PRId64 " is %g: they are finite, not negative "
                           "and never rise",
                           i, s[i]);
    return HN_OK;
}

static hn_status check_layer(hn_rank_kind kind, const hn_rank_layer *l)
{
    HN_TRY(hn_check_pointer("rank", "layer", l));
    HN_TRY(check_values(l->s, l->r, l->m, l->n));
    const bool reads = kind == HN_RANK_REFERENCE || kind == HN_RANK_BOTH;
    if (reads && !(l->reference >= 0.0 && isfinite(l->reference)))
        return HN_FAIL(HN_ERR_ARG, "rank: the norm of the reference is %g", l->reference);
    if (l->dense_from < 0)
        return HN_FAIL(HN_ERR_ARG, "rank: dense_from is %" PRId64, l->dense_from);
    return HN_OK;
}

static hn_status check_limits(const hn_rank_rule *rule)
{
    HN_TRY(hn_check_pointer("rank", "rule", rule));
    if (rule->floor != 0 && rule->floor != 1)
        return HN_FAIL(HN_ERR_ARG, "rank: the floor is %" PRId64 ", not 0 or 1", rule->floor);
    if (rule->cap < 0) return HN_FAIL(HN_ERR_ARG, "rank: the cap is %" PRId64, rule->cap);
    return HN_OK;
}

static hn_status check_energy(double energy)
{
    if (energy > 0.0 && energy <= 1.0) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "rank: T_E is %g, not in (0, 1]", energy);
}

static hn_status check_eps(double eps)
{
    if (eps >= 0.0 && isfinite(eps)) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "rank: eps is %g, not a number from 0 on", eps);
}

static hn_status check_rule(const hn_rank_rule *rule)
{
    HN_TRY(check_limits(rule));
    switch (rule->kind) {
    case HN_RANK_ENERGY:
    case HN_RANK_SUM: return check_energy(rule->energy);
    case HN_RANK_REFERENCE: return check_eps(rule->eps);
    case HN_RANK_BOTH: HN_TRY(check_energy(rule->energy)); return check_eps(rule->eps);
    }
    return HN_FAIL(HN_ERR_ARG, "rank: there is no rule %d", (int)rule->kind);
}

/* ---- the choice for a layer ---- */

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t dense_from(const hn_rank_layer *l)
{
    const int64_t even = hn_rank_break_even(l->m, l->n);
    return l->dense_from > 0 ? smaller(l->dense_from, even) : even;
}

static int64_t cost(const hn_rank_layer *l, int64_t k)
{
    return k >= dense_from(l) ? l->m * l->n : k * (l->m + l->n);
}

static hn_rank_choice choice_of(const hn_rank_layer *l, int64_t k)
{
    return (hn_rank_choice){.rank = k, .dense = k >= dense_from(l), .parameters = cost(l, k)};
}

/* k between floor and cap. */
static int64_t limited(const hn_rank_rule *rule, const hn_rank_layer *l, int64_t k)
{
    if (rule->cap > 0) k = smaller(k, rule->cap);
    return k < rule->floor ? smaller(rule->floor, l->r) : k;
}

/* The rule with its arguments as they are, also T_E = 0. */
static hn_rank_choice apply(const hn_rank_rule *rule, const hn_rank_layer *l)
{
    int64_t k = 0;
    switch (rule->kind) {
    case HN_RANK_ENERGY: k = hn_rank_by_energy(l->s, l->r, rule->energy); break;
    case HN_RANK_SUM: k = hn_rank_by_sum(l->s, l->r, rule->energy); break;
    case HN_RANK_REFERENCE: k = hn_rank_by_reference(l->s, l->r, rule->eps, l->reference); break;
    case HN_RANK_BOTH:
        k = smaller(hn_rank_by_energy(l->s, l->r, rule->energy),
                    hn_rank_by_reference(l->s, l->r, rule->eps, l->reference));
        break;
    }
    return choice_of(l, limited(rule, l, k));
}

hn_status hn_rank_choose(const hn_rank_rule *rule, const hn_rank_layer *layer, hn_rank_choice *out)
{
    HN_TRY(check_rule(rule));
    HN_TRY(check_layer(rule->kind, layer));
    *out = apply(rule, layer);
    return HN_OK;
}

/* ---- one threshold for a budget ---- */

static hn_status check_budget(hn_rank_kind kind, const hn_rank_layer *layers, int64_t n,
                              int64_t budget, const hn_rank_choice *choices)
{
    HN_TRY(hn_check_pointer("rank", "layers", layers));
    HN_TRY(hn_check_pointer("rank", "choices", choices));
    if (n < 1) return HN_FAIL(HN_ERR_SHAPE, "rank: %" PRId64 " layers", n);
    if (budget < 0) return HN_FAIL(HN_ERR_ARG, "rank: the budget is %" PRId64, budget);
    for (int64_t i = 0; i < n; i++) HN_TRY(check_layer(kind, &layers[i]));
    return HN_OK;
}

/* An eps above which every layer with a reference has rank 0. */
static double largest_eps(const hn_rank_layer *layers, int64_t n)
{
    double most = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double energy = 0.0;
        for (int64_t j = layers[i].r; j > 0; j--) energy += layers[i].s[j - 1] * layers[i].s[j - 1];
        if (layers[i].reference > 0.0) most = fmax(most, sqrt(energy) / layers[i].reference);
    }
    return most * (1.0 + 1e-9); /* above its own rounding */
}

/* The rule at place t of the search: the number of parameters never falls from t = 0 to 1. */
static hn_rank_rule rule_at(const hn_rank_rule *rule, double eps, double t)
{
    hn_rank_rule at = *rule;
    if (rule->kind == HN_RANK_REFERENCE)
        at.eps = t < 1.0 ? eps * exp2(-20.0 * t) : 0.0;
    else
        at.energy = t;
    return at;
}

static int64_t total(const hn_rank_rule *rule, const hn_rank_layer *layers, int64_t n)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++) sum += apply(rule, &layers[i]).parameters;
    return sum;
}

hn_status hn_rank_budget(const hn_rank_rule *rule, const hn_rank_layer *layers, int64_t n,
                         int64_t budget, hn_rank_choice *choices, double *threshold)
{
    HN_TRY(check_limits(rule));
    if (rule->kind == HN_RANK_BOTH)
        HN_TRY(check_eps(rule->eps));
    else if (rule->kind < HN_RANK_ENERGY || rule->kind > HN_RANK_BOTH)
        return HN_FAIL(HN_ERR_ARG, "rank: there is no rule %d", (int)rule->kind);
    HN_TRY(check_budget(rule->kind, layers, n, budget, choices));
    const double eps = rule->kind == HN_RANK_REFERENCE ? largest_eps(layers, n) : 0.0;
    double fits = 0.0, exceeds = 1.0;
    hn_rank_rule at = rule_at(rule, eps, fits);
    const int64_t least = total(&at, layers, n);
    if (least > budget)
        return HN_FAIL(HN_ERR_ARG,
                       "rank: the budget is %" PRId64
                       " parameters, the loosest rule takes %" PRId64,
                       budget, least);
    at = rule_at(rule, eps, exceeds);
    if (total(&at, layers, n) <= budget) fits = exceeds;
    for (int i = 0; i < BISECTIONS && fits < exceeds; i++) {
        const double middle = 0.5 * (fits + exceeds);
        at = rule_at(rule, eps, middle);
        if (total(&at, layers, n) <= budget)
            fits = middle;
        else
            exceeds = middle;
    }
    at = rule_at(rule, eps, fits);
    for (int64_t i = 0; i < n; i++) choices[i] = apply(&at, &layers[i]);
    if (threshold != NULL) *threshold = rule->kind == HN_RANK_REFERENCE ? at.eps : at.energy;
    return HN_OK;
}

/* ---- directions one by one ---- */

/* The layer whose next direction is worth most a parameter; -1: none is left. */
static int64_t next_layer(const hn_rank_layer *layers, const hn_rank_choice *choices,
                          const bool *done, int64_t n)
{
    int64_t best = -1;
    double most = 0.0;
    for (int64_t i = 0; i < n; i++) {
        if (done[i]) continue;
        const hn_rank_layer *const l = &layers[i];
        const double s = l->s[choices[i].rank], worth = s * s / (double)(l->m + l->n);
        if (worth > most) most = worth, best = i;
    }
    return best;
}

static bool is_full(const hn_rank_rule *rule, const hn_rank_layer *l, const hn_rank_choice *c)
{
    return c->dense || c->rank >= l->r || (rule->cap > 0 && c->rank >= rule->cap);
}

hn_status hn_rank_greedy(const hn_rank_rule *rule, const hn_rank_layer *layers, int64_t n,
                         int64_t budget, hn_rank_choice *choices)
{
    HN_TRY(check_limits(rule));
    HN_TRY(check_budget(HN_RANK_ENERGY, layers, n, budget, choices));
    int64_t spent = 0;
    for (int64_t i = 0; i < n; i++) spent += cost(&layers[i], limited(rule, &layers[i], 0));
    if (spent > budget)
        return HN_FAIL(HN_ERR_ARG,
                       "rank: the budget is %" PRId64 " parameters, the floors take %" PRId64,
                       budget, spent);
    bool *done = hn_calloc((size_t)n, sizeof *done);
    if (done == NULL) return HN_FAIL(HN_ERR_MEMORY, "rank: no memory for %" PRId64 " layers", n);
    for (int64_t i = 0; i < n; i++) {
        choices[i] = choice_of(&layers[i], limited(rule, &layers[i], 0));
        done[i] = is_full(rule, &layers[i], &choices[i]);
    }
    for (int64_t i; (i = next_layer(layers, choices, done, n)) >= 0;) {
        const hn_rank_choice more = choice_of(&layers[i], choices[i].rank + 1);
        const int64_t step = more.parameters - choices[i].parameters;
        if (spent + step > budget) {
            done[i] = true;
            continue;
        }
        spent += step;
        choices[i] = more;
        done[i] = is_full(rule, &layers[i], &more);
    }
    hn_free(done);
    return HN_OK;
}

/* ---- how near a task is to the reference ---- */

double hn_rank_effective(const double *s, int64_t r)
{
    double sum = 0.0, entropy = 0.0;
    for (int64_t i = 0; i < r; i++) sum += s[i] * s[i];
    if (!(sum > 0.0)) return 0.0;
    for (int64_t i = 0; i < r; i++) {
        const double p = s[i] * s[i] / sum;
        if (p > 0.0) entropy -= p * log(p);
    }
    return exp(entropy);
}

hn_status hn_rank_measure(const hn_rank_rule *rule, const hn_rank_proximity_args *a,
                          hn_rank_proximity *out)
{
    HN_TRY(hn_check_pointer("rank", "rule", rule));
    HN_TRY(check_energy(rule->energy));
    HN_TRY(check_eps(rule->eps));
    HN_TRY(hn_check_matrix("rank", "w", a->w, a->m, a->n, a->ld));
    HN_TRY(hn_check_matrix("rank", "w_ref", a->w_ref, a->m, a->n, a->ld_ref));
    HN_TRY(check_values(a->s, a->r, a->m, a->n));
    double task = 0.0, reference = 0.0, product = 0.0, difference = 0.0;
    for (int64_t i = 0; i < a->m; i++)
        for (int64_t j = 0; j < a->n; j++) {
            const double w = (double)a->w[i * a->ld + j];
            const double v = (double)a->w_ref[i * a->ld_ref + j];
            task += w * w;
            reference += v * v;
            product += w * v;
            difference += (w - v) * (w - v);
        }
    if (!isfinite(task) || !isfinite(reference))
        return HN_FAIL(HN_ERR_NUMERIC, "rank: the weights have a NaN or an infinity");
    hn_rank_proximity p = {.reference = sqrt(reference)};
    if (difference > 0.0) /* else 0, also of zeros */
        p.distance = reference > 0.0 ? sqrt(difference / reference) : INFINITY;
    if (task > 0.0 && reference > 0.0) p.cosine = product / (sqrt(task) * sqrt(reference));
    p.effective_rank = hn_rank_effective(a->s, a->r);
    p.k_energy = hn_rank_by_energy(a->s, a->r, rule->energy);
    p.k_reference = hn_rank_by_reference(a->s, a->r, rule->eps, p.reference);
    *out = p;
    return HN_OK;
}

/* ---- the pair ---- */

hn_status hn_rank_factors(const hn_spectrum *spectrum, int64_t k, float *b, int64_t ld_b, float *a,
                          int64_t ld_a)
{
    HN_TRY(hn_check_pointer("rank", "spectrum", spectrum));
    const int64_t m = spectrum->m, n = spectrum->n, r = spectrum->r;
    if (k < 1 || k > r)
        return HN_FAIL(HN_ERR_SHAPE, "rank: %" PRId64 " of %" PRId64 " directions", k, r);
    HN_TRY(hn_check_matrix("rank", "b", b, m, k, ld_b));
    HN_TRY(hn_check_matrix("rank", "a", a, k, n, ld_a));
    for (int64_t i = 0; i < k; i++) {
        const double root = i < spectrum->rank ? sqrt(spectrum->s[i]) : 0.0;
        for (int64_t j = 0; j < m; j++) b[j * ld_b + i] = (float)(root * spectrum->u[j * r + i]);
        for (int64_t j = 0; j < n; j++) a[i * ld_a + j] = (float)(root * spectrum->vt[i * n + j]);
    }
    return HN_OK;
}
