/* How many blocks each matrix gets (spec/sparse.md 6.1, 6.2). */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/sparse_select.h"

/* ---- the text ---- */

static hn_status bad_budget(const char *text)
{
    return HN_FAIL(HN_ERR_ARG,
                   "budget '%.100s': neither a share as 0.01 or 1%%, above 0 and at most 1, nor "
                   "lora:RANK, values:COUNT or blocks:COUNT",
                   text);
}

hn_status hn_budget_parse(const char *text, hn_budget *out)
{
    static const struct {
        const char *word;
        hn_budget_kind kind;
    } words[] = {
        {"lora:", HN_BUDGET_LORA}, {"values:", HN_BUDGET_VALUES}, {"blocks:", HN_BUDGET_BLOCKS}};
    hn_budget b = {.kind = HN_BUDGET_DENSITY};
    const char *number = text;
    char *end;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        const size_t n = strlen(words[i].word);
        if (strncmp(text, words[i].word, n) != 0) continue;
        b.kind = words[i].kind;
        number = text + n;
    }
    if (*number < '0' || *number > '9' || number[1] == 'x' || number[1] == 'X')
        return bad_budget(text); /* no sign, space, infinity or hexadecimal */
    errno = 0;
    b.amount = strtod(number, &end);
    if (b.kind == HN_BUDGET_DENSITY && *end == '%') {
        b.amount /= 100;
        end++;
    }
    const double most = b.kind == HN_BUDGET_DENSITY ? 1 : 9e15;
    const bool whole = b.kind == HN_BUDGET_DENSITY || b.amount == floor(b.amount);
    if (*end != '\0' || errno != 0 || !(b.amount > 0 && b.amount <= most) || !whole)
        return bad_budget(text);
    *out = b;
    return HN_OK;
}

hn_status hn_select_weight(const char *scheme, const char *name, double *out)
{
    static const char *const low[] = {"q_proj", "k_proj", "query", "key"};
    if (strcmp(scheme, "uniform") != 0 && strcmp(scheme, "vodu") != 0)
        return HN_FAIL(HN_ERR_ARG, "weights of types '%.40s': uniform or vodu", scheme);
    *out = 1;
    if (scheme[0] == 'u') return HN_OK;
    const size_t n = strlen(name);
    const size_t stem = n > 7 && strcmp(name + n - 7, ".weight") == 0 ? n - 7 : n;
    for (size_t i = 0; i < sizeof low / sizeof *low; i++) {
        const size_t k = strlen(low[i]);
        if (stem < k || strncmp(name + stem - k, low[i], k) != 0) continue;
        if (stem == k || name[stem - k - 1] == '.') *out = 0.25;
    }
    return HN_OK;
}

/* ---- shares ---- */

static double value_count(const hn_select_matrix *m) { return (double)m->out * (double)m->in; }

static double size_of(const hn_select_matrix *m) { return (double)hn_block_values(m->shape); }

static hn_status check_matrices(hn_select_matrix *m, int64_t n, const hn_budget_rule *rule)
{
    if (n < 1) return HN_FAIL(HN_ERR_ARG, "selection: there is no matrix to choose from");
    for (int64_t i = 0; i < n; i++) {
        HN_TRY(hn_block_shape_check(m[i].name, m[i].shape, m[i].out, m[i].in));
        m[i].blocks = hn_block_total(m[i].shape, m[i].out, m[i].in);
        if (!(m[i].weight > 0) || !isfinite(m[i].weight))
            return HN_FAIL(HN_ERR_ARG, "%s: its scores have the weight %g", m[i].name, m[i].weight);
        if (!rule->each && hn_block_values(m[i].shape) != hn_block_values(m[0].shape))
            return HN_FAIL(HN_ERR_ARG,
                           "blocks of %s have %" PRId64 " values, those of %s %" PRId64
                           ": give every matrix its share",
                           m[0].name, hn_block_values(m[0].shape), m[i].name,
                           hn_block_values(m[i].shape));
    }
    if (!rule->each &&
        !(rule->floor >= 0 && rule->floor <= 1 && (rule->ceiling == 0 || rule->ceiling >= 1)))
        return HN_FAIL(HN_ERR_ARG, "floor %g (0 to 1) and ceiling %g (0, or 1 and more) of a share",
                       rule->floor, rule->ceiling);
    return HN_OK;
}

/* The budget in values; whole blocks are cut out of it later. */
static hn_status budget_values(const hn_select_matrix *m, int64_t n, hn_budget b, double *out)
{
    double all = 0, sides = 0, smallest = INFINITY;
    for (int64_t i = 0; i < n; i++) {
        all += value_count(&m[i]);
        sides += (double)m[i].out + (double)m[i].in;
        if (size_of(&m[i]) < smallest) smallest = size_of(&m[i]);
        if (b.kind == HN_BUDGET_BLOCKS &&
            hn_block_values(m[i].shape) != hn_block_values(m[0].shape))
            return HN_FAIL(HN_ERR_ARG, "a budget in blocks, but they have different sizes");
    }
    double v = b.amount;
    if (b.kind == HN_BUDGET_DENSITY) v = floor(b.amount * all * (1 + 1e-12)); /* 0.29 of 100: 29 */
    if (b.kind == HN_BUDGET_BLOCKS) v = b.amount * size_of(m);
    if (b.kind == HN_BUDGET_LORA) v = b.amount * sides;
    if (v > all)
        return HN_FAIL(HN_ERR_ARG, "a budget of %.0f values, the chosen matrices have %.0f", v,
                       all);
    if (v < smallest)
        return HN_FAIL(HN_ERR_ARG, "a budget of %.0f values is less than one block of %.0f", v,
                       smallest);
    *out = v;
    return HN_OK;
}

/* x[i] = blocks of matrix i, as a real number: in proportion to weight[i], at most what there is;
 * what does not fit is spread over the others. */
static void fill_water(const hn_select_matrix *m, int64_t n, double values, const double *weight,
                       double *x)
{
    for (int64_t i = 0; i < n; i++) x[i] = -1; /* open */
    for (bool full = true; full;) {
        double open = 0, left = values;
        full = false;
        for (int64_t i = 0; i < n; i++) {
            if (x[i] < 0)
                open += weight[i];
            else
                left -= x[i] * size_of(&m[i]);
        }
        if (open == 0) return;
        for (int64_t i = 0; i < n && !full; i++) {
            if (x[i] >= 0 || left * weight[i] / open < value_count(&m[i])) continue;
            x[i] = (double)m[i].blocks;
            full = true;
        }
        if (full) continue;
        for (int64_t i = 0; i < n; i++)
            if (x[i] < 0) x[i] = left * weight[i] / open / size_of(&m[i]);
    }
}

/* Whole blocks: rounded down, then one more for the largest remainders while values are left. */
static int64_t round_shares(hn_select_matrix *m, int64_t n, double values, const double *x,
                            double *rest)
{
    int64_t k = 0;
    double left = values;
    for (int64_t i = 0; i < n; i++) {
        m[i].share = (int64_t)floor(x[i] * (1 + 1e-12));
        if (m[i].share > m[i].blocks) m[i].share = m[i].blocks;
        rest[i] = x[i] - (double)m[i].share;
        left -= (double)m[i].share * size_of(&m[i]);
        k += m[i].share;
    }
    for (;;) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++)
            if (m[i].share < m[i].blocks && size_of(&m[i]) <= left &&
                (best < 0 || rest[i] > rest[best]))
                best = i;
        if (best < 0) return k;
        m[best].share++;
        rest[best] -= 1;
        left -= size_of(&m[best]);
        k++;
    }
}

static void set_bounds(hn_select_matrix *m, const hn_budget_rule *rule, double x)
{
    m->least = m->most = m->share;
    if (rule->each) return;
    const double low = floor(rule->floor * x), high = ceil(rule->ceiling * x * (1 - 1e-12));
    if (low < (double)m->share) m->least = (int64_t)low;
    if (rule->ceiling == 0 || high >= (double)m->blocks)
        m->most = m->blocks;
    else if (high > (double)m->share)
        m->most = (int64_t)high;
}

hn_status hn_select_budget(hn_select_matrix *m, int64_t n, const hn_budget_rule *rule, int64_t *k)
{
    double values;
    HN_TRY(check_matrices(m, n, rule));
    HN_TRY(budget_values(m, n, rule->budget, &values));
    double *weight = hn_calloc(3 * (size_t)n, sizeof *weight);
    if (weight == NULL) return HN_FAIL(HN_ERR_MEMORY, "shares of %" PRId64 " matrices", n);
    double *x = weight + n, *rest = x + n;
    for (int64_t i = 0; i < n; i++)
        weight[i] =
            rule->share == HN_SHARE_SIZE ? value_count(&m[i]) : (double)m[i].out + (double)m[i].in;
    fill_water(m, n, values, weight, x);
    *k = round_shares(m, n, values, x, rest);
    for (int64_t i = 0; i < n; i++) set_bounds(&m[i], rule, x[i]);
    hn_free(weight);
    return HN_OK;
}
