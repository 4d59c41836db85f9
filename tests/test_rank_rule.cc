/* runtime/adapt/rank_rule.h: ranks by rule and by budget, proximity, balanced factors. */
#include "runtime/adapt/rank_rule.h"

#include <algorithm>
#include <numeric>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/base/json.h"

namespace {

using Values = std::vector<double>;

hn_rank_layer layer_of(const Values &s, int64_t m, int64_t n, double reference = 1)
{
    return {s.data(), (int64_t)s.size(), m, n, reference, 0};
}

hn_rank_rule energy(double t) { return {HN_RANK_ENERGY, t, 0, 0, 0}; }
hn_rank_rule reference(double eps) { return {HN_RANK_REFERENCE, 0, eps, 0, 0}; }

hn_rank_choice choose(const hn_rank_rule &rule, const hn_rank_layer &l)
{
    hn_rank_choice c = {-1, false, -1};
    EXPECT_HN_OK(hn_rank_choose(&rule, &l, &c));
    return c;
}

/* Falling values: exponential decay with random jumps, down to about e^-5. */
Values spectrum(int64_t r, unsigned seed, double size = 1)
{
    std::mt19937 rng(seed);
    std::uniform_real_distribution<double> d(0.01, 1);
    Values s((size_t)r);
    double at = size;
    for (auto &v : s) v = at *= 1 - std::min(0.3, 10.0 / (double)r) * d(rng);
    return s;
}

/* ---- rules by hand ---- */

/* Squares 16, 9, 4, 1: 30 in all; sums 16, 25, 29, 30. */
const Values kHand = {4, 3, 2, 1};

TEST(RankRule, ByEnergy)
{
    EXPECT_EQ(hn_rank_by_energy(kHand.data(), 4, 0), 0);
    EXPECT_EQ(hn_rank_by_energy(kHand.data(), 4, 0.5), 1);
    EXPECT_EQ(hn_rank_by_energy(kHand.data(), 4, 0.54), 2);
    EXPECT_EQ(hn_rank_by_energy(kHand.data(), 4, 0.83), 2);
    EXPECT_EQ(hn_rank_by_energy(kHand.data(), 4, 0.84), 3);
    EXPECT_EQ(hn_rank_by_energy(kHand.data(), 4, 0.97), 4);
    EXPECT_EQ(hn_rank_by_energy(kHand.data(), 4, 1), 4);
    const Values exact = {1, 1, 0, 0}; /* half is reached exactly; zeros are never taken */
    EXPECT_EQ(hn_rank_by_energy(exact.data(), 4, 0.5), 1);
    EXPECT_EQ(hn_rank_by_energy(exact.data(), 4, 1), 2);
    EXPECT_EQ(hn_rank_by_energy(nullptr, 0, 0.5), 0);
}

/* Sums 4, 7, 9, 10. */
TEST(RankRule, BySum)
{
    EXPECT_EQ(hn_rank_by_sum(kHand.data(), 4, 0.4), 1);
    EXPECT_EQ(hn_rank_by_sum(kHand.data(), 4, 0.41), 2);
    EXPECT_EQ(hn_rank_by_sum(kHand.data(), 4, 0.7), 2);
    EXPECT_EQ(hn_rank_by_sum(kHand.data(), 4, 0.95), 4);
}

/* What remains behind k: 30, 14, 5, 1, 0. */
TEST(RankRule, ByReference)
{
    EXPECT_EQ(hn_rank_by_reference(kHand.data(), 4, 0, 10), 4);
    EXPECT_EQ(hn_rank_by_reference(kHand.data(), 4, 0.09, 10), 4);
    EXPECT_EQ(hn_rank_by_reference(kHand.data(), 4, 0.11, 10), 3);
    EXPECT_EQ(hn_rank_by_reference(kHand.data(), 4, 0.2237, 10), 2);
    EXPECT_EQ(hn_rank_by_reference(kHand.data(), 4, 0.4, 10), 1);
    EXPECT_EQ(hn_rank_by_reference(kHand.data(), 4, 0.55, 10), 0);
    EXPECT_EQ(hn_rank_by_reference(kHand.data(), 4, 0.5, 0), 4); /* no reference to be near to */
    const Values tail = {2, 1, 0, 0};
    EXPECT_EQ(hn_rank_by_reference(tail.data(), 4, 0, 0), 2);
}

TEST(RankRule, BothIsTheSmaller)
{
    const auto l = layer_of(kHand, 40, 50, 10);
    hn_rank_rule both = {HN_RANK_BOTH, 0.84, 0.11, 0, 0};
    EXPECT_EQ(choose(both, l).rank, 3);
    both.eps = 0.4; /* k_R2 = 1 */
    EXPECT_EQ(choose(both, l).rank, 1);
    both.energy = 0.5, both.eps = 0; /* k_R1 = 1 */
    EXPECT_EQ(choose(both, l).rank, 1);
}

/* ---- floor, cap, dense ---- */

TEST(RankRule, BreakEvenOfKnownNetworks)
{
    const int64_t cases[][3] = {
        {64, 27, 18},     {64, 576, 57},    {128, 576, 104},  {128, 1152, 115}, {256, 1152, 209},
        {256, 2304, 230}, {512, 2304, 418}, {512, 4608, 460}, {128, 64, 42},    {256, 128, 85},
        {512, 256, 170},  {768, 768, 384},  {768, 3072, 614}, {1, 100, 1},      {1, 1, 1}};
    for (const auto &[m, n, k] : cases) EXPECT_EQ(hn_rank_break_even(m, n), k) << m << " x " << n;
}

TEST(RankRule, FloorCapAndDense)
{
    const auto l = layer_of(kHand, 40, 50, 10); /* 2000 parameters, break-even 22 */
    auto c = choose(energy(0.97), l);
    EXPECT_EQ(c.rank, 4);
    EXPECT_FALSE(c.dense);
    EXPECT_EQ(c.parameters, 4 * 90);

    hn_rank_rule rule = reference(1); /* everything is below eps: nothing to keep */
    EXPECT_EQ(choose(rule, l).rank, 0);
    EXPECT_EQ(choose(rule, l).parameters, 0);
    rule.floor = 1;
    EXPECT_EQ(choose(rule, l).rank, 1);
    EXPECT_EQ(choose(rule, l).parameters, 90);
    const Values zeros(4, 0.0);
    EXPECT_EQ(choose(rule, layer_of(zeros, 40, 50)).rank, 1);

    rule = energy(1);
    rule.cap = 2;
    EXPECT_EQ(choose(rule, l).rank, 2);

    const auto small = layer_of(kHand, 6, 4); /* break-even 2 */
    c = choose(energy(0.5), small);
    EXPECT_FALSE(c.dense);
    EXPECT_EQ(c.parameters, 10);
    c = choose(energy(0.54), small);
    EXPECT_TRUE(c.dense);
    EXPECT_EQ(c.parameters, 24);
    rule.cap = 1; /* the cap wins */
    EXPECT_FALSE(choose(rule, small).dense);

    const Values nine(9, 1.0);              /* a depthwise layer: dense above 4 */
    auto depthwise = layer_of(nine, 32, 9); /* break-even 7 */
    depthwise.dense_from = 5;
    EXPECT_FALSE(choose(energy(4.0 / 9), depthwise).dense);
    EXPECT_TRUE(choose(energy(5.0 / 9), depthwise).dense);
    depthwise.dense_from = 100;
    EXPECT_FALSE(choose(energy(6.0 / 9), depthwise).dense);
    EXPECT_TRUE(choose(energy(7.0 / 9), depthwise).dense);

    const Values one = {3};
    EXPECT_TRUE(choose(energy(0.5), layer_of(one, 1, 7)).dense);
    EXPECT_EQ(choose(energy(0.5), layer_of(one, 1, 7)).parameters, 7);
}

/* ---- what the rules promise ---- */

TEST(RankRule, IsMonotoneInItsThreshold)
{
    for (unsigned seed = 0; seed < 20; seed++) {
        const Values s = spectrum(40, seed);
        const auto l = layer_of(s, 50, 60, 2);
        int64_t by_energy = 0, by_sum = 0, by_reference = 40, parameters = 0;
        for (int i = 1; i <= 200; i++) {
            const double t = i / 200.0;
            const int64_t k = hn_rank_by_energy(s.data(), 40, t);
            EXPECT_GE(k, by_energy);
            EXPECT_GE(hn_rank_by_sum(s.data(), 40, t), by_sum);
            EXPECT_GE(hn_rank_by_sum(s.data(), 40, t), k) << "squares gather faster than sums";
            EXPECT_LE(hn_rank_by_reference(s.data(), 40, t, 2), by_reference);
            by_energy = k, by_sum = hn_rank_by_sum(s.data(), 40, t);
            by_reference = hn_rank_by_reference(s.data(), 40, t, 2);
            const int64_t cost = choose(energy(t), l).parameters;
            EXPECT_GE(cost, parameters) << "dense never costs less than the rank before it";
            parameters = cost;
        }
    }
}

/* Both thresholds hold, and not with one direction less. */
TEST(RankRule, IsTheLeastRankThatHolds)
{
    for (unsigned seed = 0; seed < 20; seed++) {
        const Values s = spectrum(30, seed);
        double all = 0;
        for (double v : s) all += v * v;
        for (const double t : {0.5, 0.8, 0.9, 0.99}) {
            const int64_t k = hn_rank_by_energy(s.data(), 30, t);
            double sum = 0;
            for (int64_t i = 0; i < k; i++) sum += s[(size_t)i] * s[(size_t)i];
            EXPECT_GE(sum, t * all);
            EXPECT_LT(sum - s[(size_t)(k - 1)] * s[(size_t)(k - 1)], t * all);
        }
        for (const double eps : {0.01, 0.05, 0.1}) {
            const int64_t k = hn_rank_by_reference(s.data(), 30, eps, 3);
            double rest = 0;
            for (int64_t i = k; i < 30; i++) rest += s[(size_t)i] * s[(size_t)i];
            EXPECT_LE(rest, eps * eps * 9);
            const double last = k > 0 ? s[(size_t)(k - 1)] : INFINITY;
            EXPECT_GT(rest + last * last, eps * eps * 9);
        }
    }
}

/* A task that is learned again moves little: the same spectrum, ten thousand times smaller. */
TEST(RankRule, ARepeatedTaskHasRankZeroByReferenceButNotByEnergy)
{
    const Values task = spectrum(40, 3), again = spectrum(40, 3, 1e-4);
    const double norm = 10;
    const auto first = layer_of(task, 64, 80, norm), second = layer_of(again, 64, 80, norm);
    EXPECT_GT(choose(reference(0.02), first).rank, 5);
    EXPECT_EQ(choose(reference(0.02), second).rank, 0);
    EXPECT_EQ(choose(energy(0.9), first).rank, choose(energy(0.9), second).rank);
    EXPECT_GT(choose(energy(0.9), second).rank, 0);
}

/* ---- budgets ---- */

struct Network {
    std::vector<Values> spectra;
    std::vector<hn_rank_layer> layers;
    std::vector<hn_rank_choice> choices;

    explicit Network(unsigned seed)
    {
        const int64_t shapes[][2] = {{64, 27}, {64, 576}, {128, 576}, {128, 64}, {32, 9}, {10, 1}};
        for (const auto &[m, n] : shapes) {
            seed = seed * 7 + 1;
            spectra.push_back(spectrum(std::min(m, n), seed, 1 + seed % 5));
        }
        for (size_t i = 0; i < spectra.size(); i++)
            layers.push_back(layer_of(spectra[i], shapes[i][0], shapes[i][1], 1 + (double)i));
        layers[4].dense_from = 5;
        choices.resize(layers.size());
    }
    int64_t n() const { return (int64_t)layers.size(); }
    int64_t parameters() const
    {
        int64_t sum = 0;
        for (const auto &c : choices) sum += c.parameters;
        return sum;
    }
    double energy() const /* of the directions taken; all of a dense layer */
    {
        double sum = 0;
        for (size_t i = 0; i < layers.size(); i++)
            for (int64_t j = 0; j < (choices[i].dense ? layers[i].r : choices[i].rank); j++)
                sum += layers[i].s[j] * layers[i].s[j];
        return sum;
    }
};

TEST(RankBudget, IsNeverExceededAndNearlySpent)
{
    for (const hn_rank_kind kind : {HN_RANK_ENERGY, HN_RANK_SUM, HN_RANK_REFERENCE, HN_RANK_BOTH}) {
        SCOPED_TRACE(kind);
        for (unsigned seed = 0; seed < 5; seed++) {
            Network net(seed);
            const hn_rank_rule rule = {kind, 0, 1e-9, 0, 0};
            int64_t before = 0;
            for (const int64_t budget : {0, 100, 1000, 5000, 20000, 60000, 100000000}) {
                double threshold = -1;
                ASSERT_HN_OK(hn_rank_budget(&rule, net.layers.data(), net.n(), budget,
                                            net.choices.data(), &threshold));
                EXPECT_LE(net.parameters(), budget);
                EXPECT_GE(net.parameters(), before);
                before = net.parameters();
                EXPECT_GE(threshold, 0);
                if (budget == 5000) {
                    EXPECT_GT(net.parameters(), 2500);
                } /* a step is 704 at most */
                /* the rule with that threshold gives the same choice */
                hn_rank_rule found = rule;
                (kind == HN_RANK_REFERENCE ? found.eps : found.energy) = threshold;
                for (size_t i = 0; i < net.layers.size() && threshold > 0; i++)
                    EXPECT_EQ(choose(found, net.layers[i]).rank, net.choices[i].rank);
            }
            for (size_t i = 0; i < net.layers.size(); i++) /* all of it */
                EXPECT_EQ(net.choices[i].rank, net.layers[i].r);
        }
    }
}

/* Two layers 10 x 10 with the squares 9, 1 and 16, 4: a direction costs 20. T_E = 0.8 takes one of
 * each (9 of 10, 16 of 20), any more takes a second. */
TEST(RankBudget, ByHand)
{
    const Values a = {3, 1}, b = {4, 2};
    const hn_rank_layer layers[] = {layer_of(a, 10, 10), layer_of(b, 10, 10)};
    hn_rank_choice c[2];
    double t = 0;
    const hn_rank_rule rule = energy(0);
    ASSERT_HN_OK(hn_rank_budget(&rule, layers, 2, 40, c, &t));
    EXPECT_NEAR(t, 0.8, 1e-6);
    EXPECT_LE(t, 0.8);
    EXPECT_EQ(c[0].rank, 1);
    EXPECT_EQ(c[1].rank, 1);
    ASSERT_HN_OK(hn_rank_budget(&rule, layers, 2, 60, c, &t));
    EXPECT_NEAR(t, 0.9, 1e-6);
    EXPECT_EQ(c[0].rank, 1);
    EXPECT_EQ(c[1].rank, 2);
    ASSERT_HN_OK(hn_rank_budget(&rule, layers, 2, 80, c, &t));
    EXPECT_EQ(t, 1);
    ASSERT_HN_OK(hn_rank_budget(&rule, layers, 2, 39, c, &t)); /* not even one of each */
    EXPECT_EQ(t, 0);
    EXPECT_EQ(c[0].rank + c[1].rank, 0);
    ASSERT_HN_OK(hn_rank_budget(&rule, layers, 2, 39, c, nullptr));
}

TEST(RankBudget, KeepsFloorAndCap)
{
    Network net(1);
    hn_rank_rule rule = energy(0);
    rule.floor = 1, rule.cap = 3;
    ASSERT_HN_OK(
        hn_rank_budget(&rule, net.layers.data(), net.n(), 2200, net.choices.data(), nullptr));
    for (const auto &c : net.choices) {
        EXPECT_GE(c.rank, 1);
        EXPECT_LE(c.rank, 3);
    }
    EXPECT_LE(net.parameters(), 2200);
    const auto before = net.choices;
    EXPECT_HN_FAIL(
        hn_rank_budget(&rule, net.layers.data(), net.n(), 500, net.choices.data(), nullptr),
        HN_ERR_ARG, "the budget is 500 parameters, the loosest rule takes 1678");
    EXPECT_HN_FAIL(hn_rank_greedy(&rule, net.layers.data(), net.n(), 500, net.choices.data()),
                   HN_ERR_ARG, "the budget is 500 parameters, the floors take 1678");
    for (size_t i = 0; i < before.size(); i++) EXPECT_EQ(net.choices[i].rank, before[i].rank);
}

/* Layers of 20 and 10 parameters a direction; squares over parameters are
 *   16/20 = 0.8, 4/20 = 0.2     and     9/10 = 0.9, 1/10 = 0.1.
 * 5 x 5 is dense from 2 directions on, 25 parameters: the second costs 15. */
TEST(RankGreedy, ByHand)
{
    const Values a = {4, 2}, b = {3, 1};
    hn_rank_layer layers[] = {layer_of(a, 10, 10), layer_of(b, 5, 5)};
    hn_rank_choice c[2];
    const hn_rank_rule rule = {};
    const int64_t expected[][3] = {{0, 0, 0},  {9, 0, 0},  {10, 0, 1}, {24, 0, 1},
                                   {25, 0, 2}, {30, 1, 1}, {44, 1, 1}, {45, 1, 2},
                                   {50, 2, 1}, {64, 2, 1}, {65, 2, 2}, {1000, 2, 2}};
    for (const auto &[budget, first, second] : expected) {
        ASSERT_HN_OK(hn_rank_greedy(&rule, layers, 2, budget, c));
        EXPECT_EQ(c[0].rank, first) << budget;
        EXPECT_EQ(c[1].rank, second) << budget;
    }
    EXPECT_TRUE(c[1].dense);
    EXPECT_EQ(c[1].parameters, 25);
}

TEST(RankGreedy, IsNeverExceededAndBeatsOneThreshold)
{
    for (unsigned seed = 0; seed < 5; seed++) {
        for (const int64_t budget : {0, 700, 1000, 5000, 20000, 60000}) {
            Network net(seed), uniform(seed);
            const hn_rank_rule rule = energy(0);
            ASSERT_HN_OK(
                hn_rank_greedy(&rule, net.layers.data(), net.n(), budget, net.choices.data()));
            EXPECT_LE(net.parameters(), budget);
            ASSERT_HN_OK(hn_rank_budget(&rule, uniform.layers.data(), net.n(), budget,
                                        uniform.choices.data(), nullptr));
            if (budget >= 1000) {
                EXPECT_GE(net.energy(), 0.98 * uniform.energy());
            }
        }
    }
}

/* Where every direction costs the same, greedy is the best there is: all choices tried. */
TEST(RankGreedy, IsOptimalForLayersOfOneSize)
{
    for (unsigned seed = 0; seed < 10; seed++) {
        std::vector<Values> spectra;
        for (unsigned i = 0; i < 3; i++) spectra.push_back(spectrum(4, seed * 3 + i, 1 + i));
        std::vector<hn_rank_layer> layers;
        for (const auto &s : spectra) layers.push_back(layer_of(s, 20, 20)); /* dense from 10 */
        for (int64_t k = 0; k <= 12; k++) {
            hn_rank_choice c[3];
            const hn_rank_rule rule = {};
            ASSERT_HN_OK(hn_rank_greedy(&rule, layers.data(), 3, 40 * k + 39, c));
            const auto sum = [&](int64_t x, int64_t y, int64_t z) {
                const int64_t ranks[] = {x, y, z};
                double e = 0;
                for (size_t i = 0; i < 3; i++)
                    for (int64_t j = 0; j < ranks[i]; j++)
                        e += spectra[i][(size_t)j] * spectra[i][(size_t)j];
                return e;
            };
            double best = 0;
            for (int64_t x = 0; x <= 4; x++)
                for (int64_t y = 0; y <= 4; y++)
                    for (int64_t z = 0; z <= 4; z++)
                        if (x + y + z <= k) best = std::max(best, sum(x, y, z));
            EXPECT_NEAR(sum(c[0].rank, c[1].rank, c[2].rank), best, 1e-12);
        }
    }
}

TEST(RankGreedy, ReportsAFailedAllocation)
{
    Network net(1);
    const hn_rank_rule rule = {};
    hn_alloc_fail_at(1);
    EXPECT_HN_FAIL(hn_rank_greedy(&rule, net.layers.data(), net.n(), 500, net.choices.data()),
                   HN_ERR_MEMORY, "6 layers");
    hn_alloc_fail_at(0);
}

/* ---- refusals ---- */

TEST(RankRule, RefusesBadArguments)
{
    const auto l = layer_of(kHand, 40, 50, 10);
    hn_rank_choice c = {7, false, 7};
    for (const double t : {0.0, -0.1, 1.1, (double)NAN}) {
        hn_rank_rule rule = energy(t);
        EXPECT_HN_FAIL(hn_rank_choose(&rule, &l, &c), HN_ERR_ARG, "T_E is");
        rule = reference(0), rule.kind = HN_RANK_BOTH, rule.energy = t;
        EXPECT_HN_FAIL(hn_rank_choose(&rule, &l, &c), HN_ERR_ARG, "T_E is");
    }
    for (const double eps : {-0.1, (double)NAN, (double)INFINITY}) {
        const hn_rank_rule rule = reference(eps);
        EXPECT_HN_FAIL(hn_rank_choose(&rule, &l, &c), HN_ERR_ARG, "eps is");
    }
    hn_rank_rule rule = energy(0.5);
    rule.floor = 2;
    EXPECT_HN_FAIL(hn_rank_choose(&rule, &l, &c), HN_ERR_ARG, "the floor is 2");
    rule = energy(0.5), rule.cap = -1;
    EXPECT_HN_FAIL(hn_rank_choose(&rule, &l, &c), HN_ERR_ARG, "the cap is -1");
    rule = energy(0.5), rule.kind = (hn_rank_kind)9;
    EXPECT_HN_FAIL(hn_rank_choose(&rule, &l, &c), HN_ERR_ARG, "no rule 9");
    EXPECT_HN_FAIL(hn_rank_budget(&rule, &l, 1, 10, &c, nullptr), HN_ERR_ARG, "no rule 9");
    rule = energy(0.5);
    for (const Values &s : {Values{1, 2}, Values{1, -1}, Values{1, NAN}, Values{INFINITY, 1}})
        for (const auto &bad : {layer_of(s, 4, 5)})
            EXPECT_HN_FAIL(hn_rank_choose(&rule, &bad, &c), HN_ERR_ARG, "singular value");
    auto bad = layer_of(kHand, 3, 50);
    EXPECT_HN_FAIL(hn_rank_choose(&rule, &bad, &c), HN_ERR_SHAPE, "4 singular values of [3, 50]");
    bad = layer_of(kHand, 40, 50, NAN), rule = reference(0.1);
    EXPECT_HN_FAIL(hn_rank_choose(&rule, &bad, &c), HN_ERR_ARG, "norm of the reference");
    bad = l, bad.dense_from = -1;
    EXPECT_HN_FAIL(hn_rank_choose(&rule, &bad, &c), HN_ERR_ARG, "dense_from is -1");
    EXPECT_HN_FAIL(hn_rank_choose(nullptr, &l, &c), HN_ERR_ARG, "rule");
    EXPECT_HN_FAIL(hn_rank_choose(&rule, nullptr, &c), HN_ERR_ARG, "layer");
    EXPECT_HN_FAIL(hn_rank_budget(&rule, &l, 0, 10, &c, nullptr), HN_ERR_SHAPE, "0 layers");
    EXPECT_HN_FAIL(hn_rank_budget(&rule, &l, 1, -1, &c, nullptr), HN_ERR_ARG, "the budget is -1");
    EXPECT_HN_FAIL(hn_rank_greedy(&rule, &l, 1, -1, &c), HN_ERR_ARG, "the budget is -1");
    EXPECT_EQ(c.rank, 7) << "untouched after errors";
}

/* ---- proximity ---- */

TEST(RankProximity, EffectiveRank)
{
    const Values one = {5, 0, 0}, equal = {2, 2, 2, 2}, zeros = {0, 0};
    EXPECT_DOUBLE_EQ(hn_rank_effective(one.data(), 3), 1);
    EXPECT_NEAR(hn_rank_effective(equal.data(), 4), 4, 1e-14);
    EXPECT_EQ(hn_rank_effective(zeros.data(), 2), 0);
    /* squares 3/4 and 1/4: exp(3/4 log 4/3 + 1/4 log 4) */
    const Values two = {std::sqrt(3), 1};
    EXPECT_NEAR(hn_rank_effective(two.data(), 2), std::pow(4.0 / 3, 0.75) * std::pow(4, 0.25),
                1e-14);
}

/* W_ref = [[3, 0], [0, 4]], W = [[3, 0], [3, 8]]: Delta = [[0, 0], [3, 4]], its only value is 5. */
TEST(RankProximity, ByHand)
{
    const float w[] = {3, 0, NAN, 3, 8, NAN}, ref[] = {3, 0, 0, 4};
    const Values s = {5, 0};
    const hn_rank_rule rule = {HN_RANK_BOTH, 0.9, 0.5, 0, 0};
    hn_rank_proximity p;
    const hn_rank_proximity_args a = {w, ref, 2, 2, 3, 2, s.data(), 2};
    ASSERT_HN_OK(hn_rank_measure(&rule, &a, &p));
    EXPECT_DOUBLE_EQ(p.reference, 5);
    EXPECT_DOUBLE_EQ(p.distance, 1);
    EXPECT_DOUBLE_EQ(p.cosine, (9 + 32) / (std::sqrt(82) * 5));
    EXPECT_DOUBLE_EQ(p.effective_rank, 1);
    EXPECT_EQ(p.k_energy, 1);
    EXPECT_EQ(p.k_reference, 1);
    hn_rank_rule loose = rule;
    loose.eps = 1;
    ASSERT_HN_OK(hn_rank_measure(&loose, &a, &p));
    EXPECT_EQ(p.k_reference, 0);
}

TEST(RankProximity, OfZerosAndOfTheReferenceItself)
{
    const float zero[] = {0, 0}, w[] = {1, 2};
    const Values none = {0}, some = {std::sqrt(5)};
    const hn_rank_rule rule = {HN_RANK_BOTH, 0.9, 0.1, 0, 0};
    hn_rank_proximity p;
    hn_rank_proximity_args a = {w, w, 1, 2, 2, 2, none.data(), 1};
    ASSERT_HN_OK(hn_rank_measure(&rule, &a, &p));
    EXPECT_EQ(p.distance, 0);
    EXPECT_DOUBLE_EQ(p.cosine, 1);
    EXPECT_EQ(p.k_energy, 0);
    a.w_ref = zero, a.s = some.data();
    ASSERT_HN_OK(hn_rank_measure(&rule, &a, &p));
    EXPECT_EQ(p.distance, INFINITY);
    EXPECT_EQ(p.cosine, 0);
    EXPECT_EQ(p.k_reference, 1);
    a.w = zero, a.s = none.data();
    ASSERT_HN_OK(hn_rank_measure(&rule, &a, &p));
    EXPECT_EQ(p.distance, 0);
    const float nan[] = {NAN, 0};
    a.w = nan;
    EXPECT_HN_FAIL(hn_rank_measure(&rule, &a, &p), HN_ERR_NUMERIC, "a NaN or an infinity");
    a.w = nullptr;
    EXPECT_HN_FAIL(hn_rank_measure(&rule, &a, &p), HN_ERR_ARG, "w");
}

/* ---- factors, and all of it beside PyTorch ---- */

class Factors : public testing::Test {
  protected:
    hn_device *device_ = nullptr;
    hn_spectrum_solver *solver_ = nullptr;
    hn_spectrum s_ = {};

    void SetUp() override
    {
        ASSERT_HN_OK(hn_device_open("cpu", &device_));
        ASSERT_HN_OK(hn_spectrum_open(device_, &solver_));
    }
    void TearDown() override
    {
        hn_spectrum_free(&s_);
        hn_spectrum_close(solver_);
        hn_device_close(device_);
    }
    void decompose(const std::vector<float> &delta, int64_t m, int64_t n)
    {
        const hn_spectrum_args a = {delta.data(), m, n, n};
        ASSERT_HN_OK(hn_spectrum_of(solver_, &a, &s_));
    }
};

double length_of(const std::vector<float> &v, size_t first, size_t count, size_t step)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += (double)v[first + i * step] * v[first + i * step];
    return std::sqrt(sum);
}

TEST_F(Factors, AreBalancedAndRebuildTheMatrix)
{
    const int64_t m = 9, n = 14;
    const auto delta = normal_f32((size_t)(m * n), 3);
    decompose(delta, m, n);
    for (const int64_t k : {1, 4, 9}) {
        const size_t ld_b = (size_t)k + 2, ld_a = (size_t)n + 3;
        GuardedArray<float> b(9 * ld_b), a((size_t)k * ld_a);
        ASSERT_HN_OK(hn_rank_factors(&s_, k, b.data(), (int64_t)ld_b, a.data(), (int64_t)ld_a));
        const auto vb = b.host(), va = a.host();
        double rest = 0, wrong = 0;
        for (int64_t i = k; i < m; i++) rest += s_.s[i] * s_.s[i];
        for (size_t i = 0; i < 9; i++)
            for (size_t j = 0; j < 14; j++) {
                double sum = 0;
                for (size_t l = 0; l < (size_t)k; l++)
                    sum += (double)vb[i * ld_b + l] * va[l * ld_a + j];
                wrong += std::pow(sum - delta[i * 14 + j], 2);
            }
        /* the best approximation of rank k; f32 rounds both factors */
        EXPECT_NEAR(std::sqrt(wrong), std::sqrt(rest), 1e-5);
        for (size_t l = 0; l < (size_t)k; l++) {
            const double root = std::sqrt(s_.s[l]);
            EXPECT_NEAR(length_of(vb, l, 9, ld_b), root, 1e-6 * root);
            EXPECT_NEAR(length_of(va, l * ld_a, 14, 1), root, 1e-6 * root);
        }
        EXPECT_TRUE(std::isnan(vb[(size_t)k])) << "gaps stay as they are";
        EXPECT_TRUE(std::isnan(va[14]));
    }
}

std::vector<double> numbers(const json_t *object, const char *key)
{
    std::vector<double> v;
    const json_t *array = json_object_get(object, key);
    for (size_t i = 0; i < json_array_size(array); i++)
        v.push_back(json_number_value(json_array_get(array, i)));
    return v;
}

double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* One case of tests/golden/rank.json. */
void expect_golden(const json_t *c, const Values &energies, const Values &eps, const hn_spectrum &s,
                   const Values &task, const Values &reference)
{
    const Values want = numbers(c, "s");
    ASSERT_EQ(s.r, (int64_t)want.size());
    for (int64_t i = 0; i < s.r; i++) EXPECT_NEAR(s.s[i], want[(size_t)i], 1e-14 * want[0]);
    EXPECT_NEAR(hn_rank_effective(s.s, s.r) / number(c, "effective_rank"), 1, 1e-12);
    const std::vector<float> w(task.begin(), task.end()), ref(reference.begin(), reference.end());
    for (size_t i = 0; i < energies.size(); i++) {
        const hn_rank_rule rule = {HN_RANK_BOTH, energies[i], eps[i % eps.size()], 0, 0};
        const hn_rank_proximity_args a = {w.data(), ref.data(), s.m, s.n, s.n, s.n, s.s, s.r};
        hn_rank_proximity p;
        ASSERT_HN_OK(hn_rank_measure(&rule, &a, &p));
        EXPECT_EQ(p.k_energy, (int64_t)numbers(c, "k_energy")[i]);
        EXPECT_EQ(p.k_reference, (int64_t)numbers(c, "k_reference")[i % eps.size()]);
        EXPECT_EQ(hn_rank_by_sum(s.s, s.r, energies[i]), (int64_t)numbers(c, "k_sum")[i]);
        EXPECT_NEAR(p.cosine, number(c, "cosine"), 1e-14);
        /* the golden one is of the difference rounded to f32: 2^-24 of weights about as large as
         * the reference's */
        EXPECT_NEAR(p.distance, number(c, "distance"), 1e-7);
    }
    for (size_t i = 0; i < json_array_size(json_object_get(c, "best")); i++) {
        const json_t *best = json_array_get(json_object_get(c, "best"), i);
        double rest = 0;
        for (int64_t j = json_integer_value(json_array_get(best, 0)); j < s.r; j++)
            rest += s.s[j] * s.s[j];
        EXPECT_NEAR(std::sqrt(rest), json_number_value(json_array_get(best, 1)), 1e-14 * want[0]);
    }
}

TEST_F(Factors, RanksAndDistancesAreThoseOfPyTorch)
{
    json_t *golden = nullptr;
    ASSERT_HN_OK(hn_json_load("tests/golden/rank.json", &golden));
    const json_t *cases = json_object_get(golden, "cases");
    ASSERT_EQ(json_array_size(cases), 4u);
    for (size_t i = 0; i < 4; i++) {
        SCOPED_TRACE(i);
        const json_t *c = json_array_get(cases, i);
        const Values task = numbers(c, "task"), reference = numbers(c, "reference");
        std::vector<float> delta;
        for (size_t j = 0; j < task.size(); j++)
            delta.push_back((float)task[j] - (float)reference[j]);
        decompose(delta, (int64_t)number(c, "m"), (int64_t)number(c, "n"));
        expect_golden(c, numbers(golden, "energies"), numbers(golden, "eps"), s_, task, reference);
    }
    json_decref(golden);
}

TEST_F(Factors, OfAZeroMatrixAreZeros)
{
    decompose(std::vector<float>(12, 0.0f), 3, 4);
    std::vector<float> b(3, NAN), a(4, NAN);
    ASSERT_HN_OK(hn_rank_factors(&s_, 1, b.data(), 1, a.data(), 4));
    EXPECT_EQ(b, std::vector<float>(3, 0.0f));
    EXPECT_EQ(a, std::vector<float>(4, 0.0f));
}

/* A pair of rank 6 whose product has energy in 2 directions only comes back as a pair of rank 2. */
TEST_F(Factors, TruncateATrainedPair)
{
    const int64_t m = 20, n = 30, k = 6;
    auto b = normal_f32((size_t)(m * k), 1);
    const auto a = normal_f32((size_t)(k * n), 2);
    for (size_t i = 0; i < (size_t)m; i++)
        for (size_t j = 2; j < (size_t)k; j++) b[i * (size_t)k + j] *= 1e-4f;
    const hn_spectrum_product_args p = {b.data(), a.data(), m, n, k, k, n};
    ASSERT_HN_OK(hn_spectrum_of_product(&p, &s_));
    const hn_rank_layer l = {s_.s, s_.r, m, n, 0, 0};
    const auto c = choose(energy(0.999), l);
    ASSERT_EQ(c.rank, 2);
    std::vector<float> b2((size_t)(m * 2)), a2((size_t)(2 * n));
    ASSERT_HN_OK(hn_rank_factors(&s_, 2, b2.data(), 2, a2.data(), n));
    std::vector<double> before, after;
    for (size_t i = 0; i < (size_t)m; i++)
        for (size_t j = 0; j < (size_t)n; j++) {
            double x = 0, y = 0;
            for (size_t q = 0; q < 6; q++) x += (double)b[i * 6 + q] * a[q * 30 + j];
            for (size_t q = 0; q < 2; q++) y += (double)b2[i * 2 + q] * a2[q * 30 + j];
            before.push_back(x), after.push_back(y);
        }
    EXPECT_LT(rel_l2(after, before), 1e-3); /* what was dropped: about 2e-4 */
}

TEST_F(Factors, RefuseBadArguments)
{
    decompose(normal_f32(12, 3), 3, 4);
    std::vector<float> b(12), a(12);
    EXPECT_HN_FAIL(hn_rank_factors(&s_, 0, b.data(), 3, a.data(), 4), HN_ERR_SHAPE,
                   "0 of 3 directions");
    EXPECT_HN_FAIL(hn_rank_factors(&s_, 4, b.data(), 4, a.data(), 4), HN_ERR_SHAPE,
                   "4 of 3 directions");
    EXPECT_HN_FAIL(hn_rank_factors(&s_, 2, b.data(), 1, a.data(), 4), HN_ERR_SHAPE, "b");
    EXPECT_HN_FAIL(hn_rank_factors(&s_, 2, b.data(), 2, nullptr, 4), HN_ERR_ARG, "a");
    EXPECT_HN_FAIL(hn_rank_factors(nullptr, 2, b.data(), 2, a.data(), 4), HN_ERR_ARG, "spectrum");
}

} // namespace
