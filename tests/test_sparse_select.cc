/* runtime/train/sparse_select.h: budgets, schedule, filling, drop and grow. */
#include "runtime/train/sparse_select.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/train/sparse_order.h"

namespace {

using Ids = std::vector<int32_t>;
using Floats = std::vector<float>;

hn_select_matrix matrix(const char *name, int64_t out, int64_t in, int64_t br, int64_t bc,
                        double weight = 1)
{
    return {name, out, in, {br, bc}, weight, 0, 0, 0, 0};
}

hn_budget budget(const char *text)
{
    hn_budget b = {};
    EXPECT_HN_OK(hn_budget_parse(text, &b)) << text;
    return b;
}

struct Support : hn_support {
    Support() : hn_support{} {}
    ~Support() { hn_support_free(this); }
    Ids ids(int64_t l) const { return Ids(list[l].id, list[l].id + list[l].n); }
    Ids from(int64_t l) const { return Ids(list[l].from, list[l].from + list[l].n); }
};

/* ---- order ---- */

TEST(SparseOrder, MarksTheLargestAsASortWould)
{
    std::mt19937 rng(3);
    for (int64_t n : {1, 2, 7, 1000, 30000}) {
        Floats v((size_t)n);
        for (auto &e : v) e = (float)((int)(rng() % 97) - 48) * 0.25f; /* many ties, both signs */
        if (n > 6) v[5] = -0.0f, v[6] = INFINITY;
        std::vector<int64_t> want((size_t)n);
        std::iota(want.begin(), want.end(), 0);
        std::stable_sort(want.begin(), want.end(),
                         [&](int64_t a, int64_t b) { return v[(size_t)a] > v[(size_t)b]; });
        for (int64_t k : {(int64_t)0, (int64_t)1, n / 3, n / 2, n - 1, n}) {
            std::vector<uint8_t> mark((size_t)n, 0), expected((size_t)n, 0);
            hn_mark_largest(v.data(), n, k, 7, mark.data());
            for (int64_t i = 0; i < k; i++) expected[(size_t)want[(size_t)i]] = 7;
            EXPECT_TRUE(mark == expected) << n << " " << k;
        }
    }
}

TEST(SparseOrder, KeysAreOrderedStably)
{
    std::mt19937 rng(4);
    std::vector<uint32_t> key(5000);
    for (auto &k : key) k = rng() & 0xf00000ffu;
    Ids order(key.size()), want(key.size());
    std::iota(want.begin(), want.end(), 0);
    std::stable_sort(want.begin(), want.end(),
                     [&](int a, int b) { return key[(size_t)a] < key[(size_t)b]; });
    ASSERT_HN_OK(hn_order_by_key(key.data(), (int64_t)key.size(), order.data()));
    EXPECT_TRUE(order == want);
}

/* ---- budget ---- */

TEST(SelectBudget, ReadsItsFourSpellings)
{
    EXPECT_EQ(budget("0.25").amount, 0.25);
    EXPECT_EQ(budget("1").kind, HN_BUDGET_DENSITY);
    EXPECT_EQ(budget("2.5%").amount, 0.025);
    EXPECT_EQ(budget("lora:16").kind, HN_BUDGET_LORA);
    EXPECT_EQ(budget("values:1e6").amount, 1e6);
    EXPECT_EQ(budget("blocks:4096").kind, HN_BUDGET_BLOCKS);
    hn_budget b = {};
    for (const char *bad : {"", "0", "1.5", "-0.1", "nan", "0x1p-3", "1%%", "lora:", "lora:0",
                            "lora:1.5", "values:-3", "blocks:1e99", "rank:3", "0.1 ", "200%"})
        EXPECT_HN_FAIL(hn_budget_parse(bad, &b), HN_ERR_ARG, "budget '");
}

TEST(SelectBudget, SharesAreExactAndBySize)
{
    hn_select_matrix m[] = {matrix("a", 64, 64, 16, 16), matrix("b", 64, 192, 16, 16),
                            matrix("c", 32, 32, 16, 16)}; /* 16, 48, 4 blocks */
    const hn_budget_rule rule = {budget("blocks:17"), HN_SHARE_SIZE, false, 0.25, 4};
    int64_t k = 0;
    ASSERT_HN_OK(hn_select_budget(m, 3, &rule, &k));
    EXPECT_EQ(k, 17); /* 4, 12, 1 exactly */
    EXPECT_EQ(m[0].share, 4);
    EXPECT_EQ(m[1].share, 12);
    EXPECT_EQ(m[2].share, 1);
    EXPECT_EQ(m[0].least, 1);
    EXPECT_EQ(m[0].most, 16);
    EXPECT_EQ(m[1].least, 3);
    EXPECT_EQ(m[1].most, 48);
    EXPECT_EQ(m[2].least, 0);
    EXPECT_EQ(m[2].most, 4);
}

TEST(SelectBudget, KIsTheFloorOfTheValuesWhateverTheRemainders)
{
    std::mt19937 rng(5);
    for (int t = 0; t < 200; t++) {
        std::vector<hn_select_matrix> m;
        double all = 0;
        for (int i = 0; i < 1 + t % 9; i++) {
            m.push_back(matrix("m", 4 * (1 + rng() % 20), 4 * (1 + rng() % 20), 4, 4));
            all += (double)(m.back().out * m.back().in);
        }
        const double rho = (1 + rng() % 100) / 100.0;
        for (int rule_no = 0; rule_no < 3; rule_no++) {
            hn_budget_rule rule = {{HN_BUDGET_DENSITY, rho}, HN_SHARE_SIZE, false, 0.25, 4};
            if (rule_no > 0) rule.share = HN_SHARE_LORA;
            rule.each = rule_no == 2;
            int64_t k = 0, sum = 0;
            if (std::floor(rho * all * (1 + 1e-12)) < 16) continue;
            ASSERT_HN_OK(hn_select_budget(m.data(), (int64_t)m.size(), &rule, &k));
            EXPECT_EQ(k, (int64_t)(std::floor(rho * all * (1 + 1e-12)) / 16));
            for (const auto &e : m) {
                sum += e.share;
                EXPECT_LE(e.least, e.share);
                EXPECT_LE(e.share, e.most);
                EXPECT_LE(e.most, e.blocks);
                EXPECT_TRUE(!rule.each || e.least == e.most);
            }
            EXPECT_EQ(sum, k);
        }
    }
}

/* LoRA's shares of a wide and a small matrix: 1 (4 + 4) and 1 (4 + 60) of 72 values; the small one
 * holds 16 of the 3 (8) = 24 it would get at rank 3, so 8 more go to the other. */
TEST(SelectBudget, WhatDoesNotFitGoesToTheOthers)
{
    hn_select_matrix m[] = {matrix("small", 4, 4, 1, 1), matrix("wide", 4, 60, 1, 1)};
    const hn_budget_rule rule = {budget("lora:3"), HN_SHARE_LORA, true, 0, 0};
    int64_t k = 0;
    ASSERT_HN_OK(hn_select_budget(m, 2, &rule, &k));
    EXPECT_EQ(k, 3 * 72);
    EXPECT_EQ(m[0].share, 16);
    EXPECT_EQ(m[1].share, 200);
}

TEST(SelectBudget, BlocksOfSeveralSizesNeedFixedShares)
{
    hn_select_matrix m[] = {matrix("up", 64, 32, 1, 32), matrix("down", 32, 64, 32, 1),
                            matrix("o", 16, 64, 16, 1)};
    hn_budget_rule rule = {budget("0.1"), HN_SHARE_SIZE, false, 0.25, 4};
    int64_t k = 0;
    EXPECT_HN_FAIL(hn_select_budget(m, 3, &rule, &k), HN_ERR_ARG, "blocks of up have 32 values");
    rule.each = true;
    ASSERT_HN_OK(hn_select_budget(m, 3, &rule, &k)); /* 512 of 5120 values: 6.4, 6.4, 6.4 blocks */
    EXPECT_EQ(m[0].share + m[1].share, 13);
    EXPECT_EQ(m[2].share, 6);
    EXPECT_EQ(32 * 13 + 16 * 6, 512);
}

TEST(SelectBudget, RefusesWhatCannotBe)
{
    hn_select_matrix m[] = {matrix("a", 64, 64, 32, 32)};
    hn_budget_rule rule = {budget("0.1"), HN_SHARE_SIZE, false, 0.25, 4};
    int64_t k = -1;
    EXPECT_HN_FAIL(hn_select_budget(m, 1, &rule, &k), HN_ERR_ARG, "less than one block of 1024");
    rule.budget = budget("values:4097");
    EXPECT_HN_FAIL(hn_select_budget(m, 1, &rule, &k), HN_ERR_ARG, "the chosen matrices have 4096");
    rule.budget = budget("1");
    EXPECT_HN_FAIL(hn_select_budget(m, 0, &rule, &k), HN_ERR_ARG, "no matrix");
    rule.ceiling = 0.5;
    EXPECT_HN_FAIL(hn_select_budget(m, 1, &rule, &k), HN_ERR_ARG, "ceiling 0.5");
    rule.ceiling = 4;
    m[0].out = 63;
    EXPECT_HN_FAIL(hn_select_budget(m, 1, &rule, &k), HN_ERR_SHAPE, "63");
    m[0].out = 64;
    m[0].weight = 0;
    EXPECT_HN_FAIL(hn_select_budget(m, 1, &rule, &k), HN_ERR_ARG, "weight 0");
    EXPECT_EQ(k, -1);
}

TEST(SelectBudget, WeightsOfTypes)
{
    double w = 0;
    const char *const quarter[] = {"model.layers.0.self_attn.q_proj.weight", "k_proj",
                                   "encoder.layer.1.attention.self.query.weight"};
    for (const char *name : quarter) {
        ASSERT_HN_OK(hn_select_weight("vodu", name, &w));
        EXPECT_EQ(w, 0.25) << name;
        ASSERT_HN_OK(hn_select_weight("uniform", name, &w));
        EXPECT_EQ(w, 1);
    }
    for (const char *name :
         {"layers.0.v_proj.weight", "h.0.attn.c_attn.weight", "seq_proj.weight"}) {
        ASSERT_HN_OK(hn_select_weight("vodu", name, &w));
        EXPECT_EQ(w, 1) << name;
    }
    EXPECT_HN_FAIL(hn_select_weight("vodo", "q_proj", &w), HN_ERR_ARG, "vodo");
}

/* ---- schedule ---- */

TEST(SelectSchedule, TheDesignsDefaults)
{
    const hn_select_schedule s = {
        .steps = 2000, .first = 32, .window = 8, .score_share = 0.5, .until = 0.7, .rate = 0.2};
    ASSERT_HN_OK(hn_select_schedule_check(&s));
    EXPECT_EQ(hn_select_interval(&s), 200);
    for (int64_t b = 0; b < 32; b++) {
        const hn_select_step p = hn_select_before(&s, b);
        EXPECT_EQ(p.phase, b < 16 ? HN_SELECT_SCORE : HN_SELECT_WINDOW);
        EXPECT_EQ(p.first, b == 0 || b == 16);
        EXPECT_EQ(p.gathered, b % 16 + 1);
        EXPECT_EQ(p.change, b == 31);
    }
    std::vector<int64_t> changes;
    for (int64_t t = 0; t < 2000; t++) {
        const hn_select_step p = hn_select_at(&s, t);
        const int64_t to_go = 200 - t % 200; /* until the next multiple of S */
        const bool inside = to_go <= 8 && t < 1400;
        EXPECT_EQ(p.phase, !inside     ? HN_SELECT_NONE
                           : to_go > 4 ? HN_SELECT_SCORE
                                       : HN_SELECT_WINDOW)
            << t;
        EXPECT_EQ(p.first, inside && (to_go == 8 || to_go == 4));
        if (p.change) {
            changes.push_back(t + 1);
            EXPECT_NEAR(p.rate, 0.1 * (1 + std::cos(M_PI * (double)(t + 1) / 1400)), 1e-15);
        }
    }
    EXPECT_EQ(changes, (std::vector<int64_t>{200, 400, 600, 800, 1000, 1200, 1400}));
}

TEST(SelectSchedule, StaticLinearConstantAndAnEarlyStart)
{
    hn_select_schedule s = {.steps = 100,
                            .every = 20,
                            .start = 5,
                            .window = 5,
                            .score_share = 0.2,
                            .until = 1,
                            .rate = 0.2,
                            .first_rate = 1,
                            .decay = HN_DECAY_LINEAR};
    ASSERT_HN_OK(hn_select_schedule_check(&s));
    EXPECT_EQ(hn_select_before(&s, 0).phase, HN_SELECT_NONE);
    EXPECT_EQ(hn_select_at(&s, 0).phase, HN_SELECT_SCORE);
    EXPECT_EQ(hn_select_at(&s, 1).phase, HN_SELECT_WINDOW);
    EXPECT_TRUE(hn_select_at(&s, 1).first);
    EXPECT_EQ(hn_select_at(&s, 4).rate, 1);
    EXPECT_EQ(hn_select_at(&s, 4).gathered, 4);
    EXPECT_TRUE(hn_select_at(&s, 24).change);
    EXPECT_DOUBLE_EQ(hn_select_at(&s, 24).rate, 0.2 * 0.75);
    EXPECT_EQ(hn_select_at(&s, 99).phase, HN_SELECT_NONE);
    s.decay = HN_DECAY_CONSTANT;
    EXPECT_EQ(hn_select_at(&s, 64).rate, 0.2);
    s.window = 0; /* scores of the weights alone */
    EXPECT_TRUE(hn_select_at(&s, 24).change);
    EXPECT_EQ(hn_select_at(&s, 24).phase, HN_SELECT_NONE);
    s.fixed = true;
    for (int64_t t = 0; t < 100; t++) EXPECT_FALSE(hn_select_at(&s, t).change);
}

TEST(SelectSchedule, RefusesWhatHasNoMeaning)
{
    hn_select_schedule s = {.steps = 100, .every = 10, .window = 11, .until = 0.7, .rate = 0.2};
    EXPECT_HN_FAIL(hn_select_schedule_check(&s), HN_ERR_ARG, "window of 11");
    s.window = 4;
    s.rate = 1.5;
    EXPECT_HN_FAIL(hn_select_schedule_check(&s), HN_ERR_ARG, "the rate is 1.5");
    s.rate = NAN;
    EXPECT_HN_FAIL(hn_select_schedule_check(&s), HN_ERR_ARG, "the rate");
    s.rate = 0.2;
    s.score_share = 0.5;
    s.first = 1;
    EXPECT_HN_FAIL(hn_select_schedule_check(&s), HN_ERR_ARG, "one batch");
    s.steps = 0;
    EXPECT_HN_FAIL(hn_select_schedule_check(&s), HN_ERR_ARG, "0 steps");
}

/* ---- filling ---- */

/* Three matrices of 8 blocks each, 1x1. */
struct Three {
    hn_select_matrix m[3] = {matrix("a", 1, 8, 1, 1), matrix("b", 2, 4, 1, 1),
                             matrix("c", 8, 1, 1, 1)};
    int64_t k = 0;
    explicit Three(const char *text, double floor = 0.25, double ceiling = 4)
    {
        const hn_budget_rule rule = {budget(text), HN_SHARE_SIZE, false, floor, ceiling};
        EXPECT_HN_OK(hn_select_budget(m, 3, &rule, &k));
    }
};

hn_score_list list_of(const Ids &id, const Floats &score)
{
    return {id.data(), score.data(), (int64_t)id.size()};
}

TEST(SelectFill, TakesTheBestOfAllWithinTheBounds)
{
    Three t("blocks:12", 0.5, 1.5); /* shares of 4; 2 to 6 */
    const Ids all = {0, 1, 2, 3, 4, 5, 6, 7};
    const Floats a = {90, 91, 92, 93, 94, 95, 96, 97}, b = {50, 10, 40, 20, 30, 30, 30, 30},
                 c = {0, 3, 2, 1, 0, 0, 0, 0};
    const hn_score_list lists[] = {list_of(all, a), list_of(all, b), list_of(all, c)};
    Support s;
    ASSERT_HN_OK(hn_select_fill(t.m, 3, lists, nullptr, t.k, &s));
    EXPECT_EQ(s.blocks, 12);
    EXPECT_EQ(s.ids(0), (Ids{2, 3, 4, 5, 6, 7})); /* the ceiling */
    EXPECT_EQ(s.ids(1), (Ids{0, 2, 4, 5}));       /* ties: the lower id */
    EXPECT_EQ(s.ids(2), (Ids{1, 2}));             /* the floor */
    EXPECT_EQ(s.from(2), (Ids{-2, -3}));
}

TEST(SelectFill, IdsMayComeInAnyOrderAndWeightsCount)
{
    Three t("blocks:3", 0, 0);
    t.m[1].weight = 0.25;
    const Ids ia = {7, 2, 5}, ib = {3, 0}, ic = {1};
    const Floats a = {1, 1, 1}, b = {3, 8}, c = {0.5};
    const hn_score_list lists[] = {list_of(ia, a), list_of(ib, b), list_of(ic, c)};
    Support s;
    ASSERT_HN_OK(hn_select_fill(t.m, 3, lists, nullptr, 3, &s)); /* 2, then two of the ones */
    EXPECT_EQ(s.ids(0), (Ids{2, 5}));
    EXPECT_EQ(s.from(0), (Ids{-2, -3}));
    EXPECT_EQ(s.ids(1), (Ids{0}));
    EXPECT_EQ(s.from(1), (Ids{-2}));
    EXPECT_EQ(s.list[2].n, 0);
}

/* Against every admissible choice of a small case. */
TEST(SelectFill, NoOtherChoiceHasAHigherSum)
{
    std::mt19937 rng(11);
    for (int round = 0; round < 30; round++) {
        hn_select_matrix m[2] = {matrix("a", 1, 6, 1, 1), matrix("b", 1, 6, 1, 1)};
        const int64_t k = 2 + round % 8;
        for (auto &e : m) {
            e.blocks = 6;
            e.least = rng() % 2;
            e.most = 2 + rng() % 5;
        }
        if (k > m[0].most + m[1].most) continue;
        const Ids all = {0, 1, 2, 3, 4, 5};
        Floats v[2] = {normal_f32(6, (unsigned)round), normal_f32(6, 99 + (unsigned)round)};
        const hn_score_list lists[] = {list_of(all, v[0]), list_of(all, v[1])};
        Support s;
        ASSERT_HN_OK(hn_select_fill(m, 2, lists, nullptr, k, &s));
        double got = 0, best = -1e9;
        for (int l = 0; l < 2; l++)
            for (int32_t id : s.ids(l)) got += (double)v[l][(size_t)id];
        for (unsigned pick = 0; pick < 4096; pick++) {
            const int na = __builtin_popcount(pick & 63), nb = __builtin_popcount(pick >> 6);
            if (na + nb != k || na < m[0].least || nb < m[1].least || na > m[0].most ||
                nb > m[1].most)
                continue;
            double sum = 0;
            for (unsigned i = 0; i < 12; i++)
                if (pick >> i & 1) sum += (double)v[i / 6][i % 6];
            best = std::max(best, sum);
        }
        EXPECT_NEAR(got, best, 1e-9);
    }
}

TEST(SelectFill, SaysWhereSurvivorsComeFrom)
{
    Three t("blocks:3", 0, 0);
    const Ids all = {0, 1, 2, 3, 4, 5, 6, 7}, active = {6, 1}, none;
    const Floats up = {0, 1, 2, 3, 4, 5, 6, 7}, zero(8, 0.0f), keep(2, 1.0f);
    const hn_score_list lists[] = {list_of(all, up), list_of(all, zero), list_of(all, zero)};
    const hn_active_list old[] = {{active.data(), keep.data(), nullptr, nullptr, 2},
                                  {none.data(), nullptr, nullptr, nullptr, 0},
                                  {none.data(), nullptr, nullptr, nullptr, 0}};
    Support s;
    ASSERT_HN_OK(hn_select_fill(t.m, 3, lists, old, 3, &s));
    EXPECT_EQ(s.ids(0), (Ids{5, 6, 7}));
    EXPECT_EQ(s.from(0), (Ids{-6, 0, -8}));
}

TEST(SelectFill, CandidatesLeaveActiveBlocksOutAndTakeWhatThereIs)
{
    Three t("blocks:6");
    const Ids all = {0, 1, 2, 3, 4, 5, 6, 7}, active = {7, 3}, few = {2};
    const Floats up = {0, 1, 2, 3, 4, 5, 6, 7}, one = {1}, keep(2, 1.0f);
    const hn_score_list lists[] = {list_of(all, up), list_of(few, one), list_of({}, {})};
    const hn_active_list old[] = {{active.data(), keep.data(), nullptr, nullptr, 2},
                                  {nullptr, nullptr, nullptr, nullptr, 0},
                                  {nullptr, nullptr, nullptr, nullptr, 0}};
    Support s;
    ASSERT_HN_OK(hn_select_candidates(t.m, 3, lists, old, 2, nullptr, &s));
    EXPECT_EQ(s.ids(0), (Ids{0, 1, 2, 4, 5, 6}));
    EXPECT_EQ(s.ids(1), (Ids{2}));
    EXPECT_EQ(s.blocks, 7);
    const int64_t room[] = {3, 8, 0};
    ASSERT_HN_OK(hn_select_candidates(t.m, 3, lists, old, 2, room, &s));
    EXPECT_EQ(s.ids(0), (Ids{4, 5, 6}));
    EXPECT_EQ(s.ids(1), (Ids{2}));
    EXPECT_HN_FAIL(hn_select_candidates(t.m, 3, lists, old, 0, nullptr, &s), HN_ERR_ARG, "0 times");
    EXPECT_EQ(s.blocks, 4);
}

TEST(SelectFill, RefusesBadLists)
{
    Three t("blocks:6");
    Ids id = {0, 8};
    Floats v = {1, 2};
    hn_score_list lists[] = {list_of(id, v), list_of({}, {}), list_of({}, {})};
    Support s;
    EXPECT_HN_FAIL(hn_select_fill(t.m, 3, lists, nullptr, 6, &s), HN_ERR_ARG, "a: block 8");
    id = {3, 3};
    EXPECT_HN_FAIL(hn_select_fill(t.m, 3, lists, nullptr, 6, &s), HN_ERR_ARG,
                   "3 is in a list twice");
    id = {4, 3};
    v[1] = NAN;
    EXPECT_HN_FAIL(hn_select_fill(t.m, 3, lists, nullptr, 6, &s), HN_ERR_NUMERIC, "block 3");
    v[1] = 2;
    EXPECT_HN_FAIL(hn_select_fill(t.m, 3, lists, nullptr, 6, &s), HN_ERR_ARG, "allow 0 to 2");
    lists[0].n = 9;
    EXPECT_HN_FAIL(hn_select_fill(t.m, 3, lists, nullptr, 6, &s), HN_ERR_ARG, "list of 9");
    EXPECT_EQ(s.list, nullptr);
}

/* ---- drop and grow ---- */

struct Active {
    Ids id;
    Floats keep, score;
    std::vector<uint16_t> age;
    hn_active_list list() const
    {
        return {id.data(), keep.data(), score.data(), age.empty() ? nullptr : age.data(),
                (int64_t)id.size()};
    }
};

TEST(SelectChange, ReplacesTheLeastMovedWhereTheCandidateIsClearlyBetter)
{
    Three t("blocks:6", 0, 0);
    const Active a = {{5, 1, 3}, {3, 1, 2}, {1, 10, 1}, {}}, b = {{0, 7}, {0.5, 9}, {5, 5}, {}},
                 c = {{2}, {8}, {1}, {}};
    const hn_active_list old[] = {a.list(), b.list(), c.list()};
    const Ids na = {0, 7}, nb = {3}, nc = {1, 3};
    const Floats va = {7, 1}, vb = {6.1f}, vc = {13, 6.5f};
    const hn_score_list cand[] = {list_of(na, va), list_of(nb, vb), list_of(nc, vc)};
    hn_change_rule rule = {0.5, false, 1.2, 0}; /* b0 (0.5), a1 (1), a3 (2) are to go */
    Support s;
    ASSERT_HN_OK(hn_select_change(t.m, 3, old, cand, &rule, &s));
    /* b0 < c1: 13 > 6; a1 stays: 7 <= 12; a3 < a0: 7 > 1.2 */
    EXPECT_EQ(s.replaced, 2);
    EXPECT_EQ(s.held, 1);
    EXPECT_EQ(s.blocks, 6);
    EXPECT_EQ(s.ids(0), (Ids{0, 1, 5}));
    EXPECT_EQ(s.from(0), (Ids{-1, 1, 0}));
    EXPECT_EQ(s.ids(1), (Ids{7}));
    EXPECT_EQ(s.from(1), (Ids{1}));
    EXPECT_EQ(s.ids(2), (Ids{1, 2}));
    EXPECT_EQ(s.from(2), (Ids{-1, 0}));

    rule.each = true; /* floor: 1, 1, 0 */
    ASSERT_HN_OK(hn_select_change(t.m, 3, old, cand, &rule, &s));
    EXPECT_EQ(s.ids(0), (Ids{1, 3, 5})); /* 7 <= 12 */
    EXPECT_EQ(s.ids(1), (Ids{3, 7}));    /* 6.1 > 6 */
    EXPECT_EQ(s.ids(2), (Ids{2}));

    rule = {0, false, 1.2, 0};
    ASSERT_HN_OK(hn_select_change(t.m, 3, old, cand, &rule, &s));
    EXPECT_EQ(s.replaced, 0);
    EXPECT_EQ(s.from(0), (Ids{1, 2, 0}));
}

TEST(SelectChange, KeepsToFloorsAndCeilings)
{
    Three t("blocks:6", 0.5, 1.5); /* 1 to 3 of each */
    const Active a = {{0, 1, 2}, {5, 6, 7}, {0, 0, 0}, {}}, b = {{0}, {0.1f}, {0}, {}},
                 c = {{0, 1}, {1, 2}, {0, 0}, {}};
    const hn_active_list old[] = {a.list(), b.list(), c.list()};
    const Ids na = {5, 6}, nb = {4}, nc = {};
    const Floats va = {100, 90}, vb = {3}, vc = {};
    const hn_score_list cand[] = {list_of(na, va), list_of(nb, vb), list_of(nc, vc)};
    const hn_change_rule rule = {0.5, false, 1, 0}; /* b0, c0, c1 */
    Support s;
    ASSERT_HN_OK(hn_select_change(t.m, 3, old, cand, &rule, &s));
    /* a is full: its candidates may take places of a alone. b is at its floor: b4 replaces b0. c0
     * and c1 have nobody left to meet. */
    EXPECT_EQ(s.ids(0), (Ids{0, 1, 2}));
    EXPECT_EQ(s.ids(1), (Ids{4}));
    EXPECT_EQ(s.ids(2), (Ids{0, 1}));
    EXPECT_EQ(s.replaced, 1);
    EXPECT_EQ(s.held, 2);
}

TEST(SelectChange, ProtectsTheYoungAndLeavesBothAlone)
{
    Three t("blocks:3", 0, 0);
    const Active a = {{0, 1, 2}, {1, 2, 3}, {0, 0, 0}, {99, 100, 100}};
    const Active none;
    const hn_active_list old[] = {a.list(), none.list(), none.list()};
    const Ids na = {1, 2}, nb = {4};
    const Floats va = {50, 60}, vb = {1};
    const hn_score_list cand[] = {list_of(na, va), list_of(nb, vb), list_of({}, {})};
    const hn_change_rule rule = {0.4, false, 0, 100}; /* one of three; block 0 is too young */
    Support s;
    ASSERT_HN_OK(hn_select_change(t.m, 3, old, cand, &rule, &s));
    EXPECT_EQ(s.young, 1);
    EXPECT_EQ(s.ids(0), (Ids{0, 2})); /* candidates 1 and 2 are active */
    EXPECT_EQ(s.ids(1), (Ids{4}));
}

/* Bounds, sums and sources hold whatever the numbers; twice the same. */
TEST(SelectChange, ManyRandomCases)
{
    std::mt19937 rng(21);
    for (int round = 0; round < 60; round++) {
        std::vector<hn_select_matrix> m;
        for (int i = 0; i < 1 + round % 7; i++) m.push_back(matrix("m", 8, 8 + 8 * (i % 3), 1, 1));
        const hn_budget_rule rule = {budget("0.2"), HN_SHARE_SIZE, false, 0.25, 2};
        const auto n = (int64_t)m.size();
        int64_t k = 0;
        ASSERT_HN_OK(hn_select_budget(m.data(), n, &rule, &k));
        std::vector<Ids> id(m.size());
        std::vector<Floats> score(m.size());
        std::vector<hn_score_list> lists;
        for (size_t l = 0; l < m.size(); l++) {
            id[l].resize((size_t)m[l].blocks);
            std::iota(id[l].begin(), id[l].end(), 0);
            std::shuffle(id[l].begin(), id[l].end(), rng);
            score[l].resize(id[l].size());
            for (auto &v : score[l]) v = (float)(rng() % 50);
            lists.push_back(list_of(id[l], score[l]));
        }
        Support first, s, again;
        ASSERT_HN_OK(hn_select_fill(m.data(), n, lists.data(), nullptr, k, &first));
        std::vector<Active> act(m.size());
        std::vector<hn_active_list> old;
        for (size_t l = 0; l < m.size(); l++) {
            act[l].id = first.ids((int64_t)l);
            std::shuffle(act[l].id.begin(), act[l].id.end(), rng);
            for (size_t i = 0; i < act[l].id.size(); i++) {
                act[l].keep.push_back((float)(rng() % 9));
                act[l].score.push_back((float)(rng() % 40));
                act[l].age.push_back((uint16_t)(rng() % 200));
            }
            old.push_back(act[l].list());
            std::shuffle(score[l].begin(), score[l].end(), rng);
        }
        const hn_change_rule change = {0.1 * (double)(round % 11), round % 2 == 1, 1.2, 20};
        ASSERT_HN_OK(hn_select_change(m.data(), n, old.data(), lists.data(), &change, &s));
        ASSERT_HN_OK(hn_select_change(m.data(), n, old.data(), lists.data(), &change, &again));
        EXPECT_EQ(s.blocks, k);
        int64_t fresh = 0;
        for (int64_t l = 0; l < n; l++) {
            const auto &o = act[(size_t)l];
            const Ids got = s.ids(l);
            EXPECT_TRUE(std::is_sorted(got.begin(), got.end()));
            EXPECT_EQ(std::set<int32_t>(got.begin(), got.end()).size(), got.size());
            EXPECT_GE(s.list[l].n, m[(size_t)l].least);
            EXPECT_LE(s.list[l].n, m[(size_t)l].most);
            EXPECT_TRUE(!change.each || (size_t)s.list[l].n == o.id.size());
            for (size_t i = 0; i < got.size(); i++) {
                const int32_t f = s.list[l].from[i];
                const bool was = std::find(o.id.begin(), o.id.end(), got[i]) != o.id.end();
                EXPECT_EQ(f >= 0, was);
                EXPECT_EQ(f >= 0 ? o.id[(size_t)f] : id[(size_t)l][(size_t)(-1 - f)], got[i]);
                fresh += !was;
            }
            EXPECT_EQ(got, again.ids(l));
            EXPECT_EQ(s.from(l), again.from(l));
        }
        EXPECT_EQ(fresh, s.replaced);
        EXPECT_LE((double)(s.replaced + s.held), change.rate * (double)k + 1e-9);
    }
}

TEST(SelectChange, RefusesBadRules)
{
    Three t("blocks:3", 0, 0);
    Active a = {{0, 1, 2}, {1, 2, 3}, {0, 0, 0}, {}};
    const Active none;
    hn_active_list old[] = {a.list(), none.list(), none.list()};
    const hn_score_list cand[] = {list_of({}, {}), list_of({}, {}), list_of({}, {})};
    Support s;
    hn_change_rule rule = {1.5, false, 0, 0};
    EXPECT_HN_FAIL(hn_select_change(t.m, 3, old, cand, &rule, &s), HN_ERR_ARG, "rate 1.5");
    rule = {0.5, false, 1.2, 0};
    old[0].score = nullptr;
    EXPECT_HN_FAIL(hn_select_change(t.m, 3, old, cand, &rule, &s), HN_ERR_ARG, "hysteresis needs");
    rule.hysteresis = 0;
    a.keep[1] = NAN;
    EXPECT_HN_FAIL(hn_select_change(t.m, 3, old, cand, &rule, &s), HN_ERR_NUMERIC, "block 1");
}

TEST(SelectChange, LosesNothingWhenMemoryRunsOut)
{
    Three t("blocks:6", 0, 0);
    const Active a = {{5, 1, 3}, {3, 1, 2}, {1, 10, 1}, {}}, none;
    const hn_active_list old[] = {a.list(), none.list(), none.list()};
    const Ids na = {7, 0};
    const Floats va = {7, 1};
    const hn_score_list cand[] = {list_of(na, va), list_of({}, {}), list_of({}, {})};
    const hn_change_rule rule = {1, false, 0, 0};
    for (uint64_t nth = 1;; nth++) {
        Support s;
        hn_alloc_fail_at(nth);
        const hn_status st = hn_select_change(t.m, 3, old, cand, &rule, &s);
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        EXPECT_EQ(st, HN_ERR_MEMORY);
        EXPECT_EQ(s.list, nullptr);
        ASSERT_LT(nth, 200u);
    }
}

/* ---- moments ---- */

TEST(SelectMoments, MakeBiasCorrectionGiveTheMean)
{
    Floats sum = {4, -8}, square = {8, 32}, m(2), v(2);
    EXPECT_EQ(hn_select_moments(sum.data(), square.data(), 2, 4, 0.9, 0.999, m.data(), v.data()),
              4);
    const double c1 = 1 - std::pow(0.9, 4), c2 = 1 - std::pow(0.999, 4);
    EXPECT_NEAR(m[0] / c1, 1, 1e-6);
    EXPECT_NEAR(m[1] / c1, -2, 1e-6);
    EXPECT_NEAR(v[0] / c2, 2, 1e-6);
    EXPECT_NEAR(v[1] / c2, 8, 1e-6);
    EXPECT_EQ(
        hn_select_moments(sum.data(), square.data(), 2, 0, 0.9, 0.999, sum.data(), square.data()),
        0);
    EXPECT_EQ(sum, (Floats{0, 0}));
    EXPECT_EQ(
        hn_select_moments(sum.data(), square.data(), 2, 1 << 20, 0.9, 0.999, m.data(), v.data()),
        65535);
}

} // namespace
