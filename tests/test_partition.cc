/* runtime/data/partition and client_schedule: who has which samples, who is asked. */
#include <omp.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/data/client_schedule.h"
#include "runtime/data/partition.h"

namespace {

struct Partition {
    hn_partition p = {};
    Partition() = default;
    Partition(const Partition &) = delete;
    ~Partition() { hn_partition_free(&p); }
    std::vector<int32_t> of(int64_t c) const
    {
        return {p.index + p.first[c], p.index + p.first[c + 1]};
    }
    int64_t samples(int64_t c) const { return p.first[c + 1] - p.first[c]; }
    std::vector<int32_t> all() const { return {p.index, p.index + p.first[p.clients]}; }
};

/* n samples of `classes` classes, the labels in turns. */
std::vector<int32_t> labels_of(int64_t n, int32_t classes)
{
    std::vector<int32_t> l((size_t)n);
    for (int64_t i = 0; i < n; i++) l[(size_t)i] = (int32_t)(i % classes);
    return l;
}

hn_partition_options options(hn_partition_rule rule, int64_t clients)
{
    hn_partition_options o = {};
    o.rule = rule;
    o.clients = clients;
    o.seed = 5;
    if (rule == HN_PARTITION_SHARDS) o.shards = 2;
    if (rule == HN_PARTITION_DIRICHLET || rule == HN_PARTITION_MIXTURE ||
        rule == HN_PARTITION_QUANTITY)
        o.alpha = 0.5;
    return o;
}

hn_status make(const hn_partition_options &o, const std::vector<int32_t> &label, Partition *out,
               const std::vector<int32_t> &group = {})
{
    hn_partition_free(&out->p);
    return hn_partition_make(&o, label.data(), group.empty() ? nullptr : group.data(),
                             (int64_t)label.size(), &out->p);
}

/* Mean over clients of the share of a client's most frequent class. */
double top_share(const Partition &p, const std::vector<int32_t> &label, int32_t classes)
{
    std::vector<hn_client_samples> s((size_t)p.p.clients);
    EXPECT_HN_OK(hn_partition_count(&p.p, label.data(), classes, s.data()));
    double sum = 0;
    for (const auto &c : s) sum += (double)c.top_n / (double)c.samples;
    return sum / (double)s.size();
}

class EveryRule : public testing::TestWithParam<hn_partition_rule> {};

/* Nobody's sample twice, none lost, a client's rise; the same seed, the same bits, on any number of
 * threads; another seed, others. */
TEST_P(EveryRule, GivesEverySampleOneOwner)
{
    const auto label = labels_of(1003, 10);
    std::vector<int32_t> group(label.size());
    for (size_t i = 0; i < group.size(); i++) group[i] = (int32_t)(i * 7 % 31);
    hn_partition_options o = options(GetParam(), 12);
    Partition a, b, c;
    ASSERT_HN_OK(make(o, label, &a, group));
    ASSERT_EQ(a.p.clients, 12);
    EXPECT_EQ(a.p.first[0], 0);
    for (int64_t k = 0; k < 12; k++) {
        const auto x = a.of(k);
        EXPECT_GE(x.size(), 1u);
        EXPECT_TRUE(std::is_sorted(x.begin(), x.end()));
    }
    auto all = a.all();
    std::sort(all.begin(), all.end());
    ASSERT_EQ(all.size(), label.size());
    for (size_t i = 0; i < all.size(); i++) {
        ASSERT_EQ(all[i], (int32_t)i);
    }

    const int threads = omp_get_max_threads();
    omp_set_num_threads(threads > 1 ? 1 : 2);
    ASSERT_HN_OK(make(o, label, &b, group));
    omp_set_num_threads(threads);
    EXPECT_EQ(a.all(), b.all());
    EXPECT_EQ(std::vector<int64_t>(a.p.first, a.p.first + 13),
              std::vector<int64_t>(b.p.first, b.p.first + 13));
    o.seed = 6;
    ASSERT_HN_OK(make(o, label, &c, group));
    EXPECT_NE(a.all(), c.all());
}

TEST_P(EveryRule, LeavesOutNegativeLabels)
{
    auto label = labels_of(400, 4);
    const std::vector<int32_t> group = labels_of(400, 20);
    for (size_t i = 0; i < 40; i++) label[10 * i] = -100;
    Partition p;
    ASSERT_HN_OK(make(options(GetParam(), 5), label, &p, group));
    EXPECT_EQ(p.p.first[5], 360);
    for (const int32_t i : p.all()) {
        EXPECT_GE(label[(size_t)i], 0);
    }
}

TEST_P(EveryRule, SurvivesMemoryThatRunsOut)
{
    const auto label = labels_of(200, 4), group = labels_of(200, 20);
    const hn_partition_options o = options(GetParam(), 5);
    hn_status st = HN_ERR_MEMORY;
    uint64_t n = 1;
    for (; st != HN_OK && n < 100; n++) {
        hn_partition p = {};
        hn_alloc_fail_at(n);
        st = hn_partition_make(&o, label.data(), group.data(), 200, &p);
        hn_alloc_fail_at(0);
        if (st != HN_OK) {
            EXPECT_EQ(st, HN_ERR_MEMORY);
            EXPECT_EQ(p.index, nullptr);
        }
        hn_partition_free(&p);
    }
    EXPECT_EQ(st, HN_OK);
    EXPECT_GT(n, 4u);
}

INSTANTIATE_TEST_SUITE_P(Partition, EveryRule,
                         testing::Values(HN_PARTITION_IID, HN_PARTITION_DIRICHLET,
                                         HN_PARTITION_MIXTURE, HN_PARTITION_SHARDS,
                                         HN_PARTITION_GROUP, HN_PARTITION_QUANTITY),
                         [](const auto &i) {
                             return std::string(hn_partition_rule_name(i.param));
                         });

TEST(Partition, IidPartsDifferByOneAtMost)
{
    Partition p;
    ASSERT_HN_OK(make(options(HN_PARTITION_IID, 7), labels_of(100, 10), &p));
    int64_t with15 = 0;
    for (int64_t c = 0; c < 7; c++) {
        EXPECT_TRUE(p.samples(c) == 14 || p.samples(c) == 15);
        with15 += p.samples(c) == 15;
    }
    EXPECT_EQ(with15, 2); /* 100 = 7 * 14 + 2 */
}

/* Six samples, three labels, three clients with one shard each: each has all samples of a label. */
TEST(Partition, ShardsAreRunsOfSortedLabels)
{
    hn_partition_options o = options(HN_PARTITION_SHARDS, 3);
    o.shards = 1;
    const std::vector<int32_t> label = {2, 0, 1, 0, 2, 1};
    Partition p;
    ASSERT_HN_OK(make(o, label, &p));
    const std::set<std::vector<int32_t>> wanted = {{1, 3}, {2, 5}, {0, 4}};
    EXPECT_EQ((std::set<std::vector<int32_t>>{p.of(0), p.of(1), p.of(2)}), wanted);
}

/* McMahan's: with two shards most clients have two labels. */
TEST(Partition, TwoShardsAreTwoClassesAtMost)
{
    const auto label = labels_of(60000, 10);
    Partition p;
    ASSERT_HN_OK(make(options(HN_PARTITION_SHARDS, 100), label, &p));
    std::vector<hn_client_samples> s(100);
    ASSERT_HN_OK(hn_partition_count(&p.p, label.data(), 10, s.data()));
    for (const auto &c : s) {
        EXPECT_EQ(c.samples, 600);
        EXPECT_LE(c.classes, 2); /* 6000 of a class are 20 whole shards of 300 */
    }
}

TEST(Partition, GroupsStayTogether)
{
    const auto label = labels_of(100, 10);
    std::vector<int32_t> group(100);
    for (size_t i = 0; i < 100; i++) group[i] = (int32_t)(1000 * (i / 10)); /* holes between */
    hn_partition_options o = options(HN_PARTITION_GROUP, 0);
    Partition p;
    ASSERT_HN_OK(make(o, label, &p, group));
    ASSERT_EQ(p.p.clients, 10);
    for (int64_t c = 0; c < 10; c++) { /* in the order of the groups' own numbers */
        EXPECT_EQ(p.samples(c), 10);
        for (const int32_t i : p.of(c)) {
            EXPECT_EQ(group[(size_t)i], 1000 * c);
        }
    }
    o.clients = 4; /* 10 groups in 4 hands: 3, 3, 2, 2 */
    ASSERT_HN_OK(make(o, label, &p, group));
    std::vector<int64_t> sizes;
    for (int64_t c = 0; c < 4; c++) {
        std::set<int32_t> of;
        for (const int32_t i : p.of(c)) of.insert(group[(size_t)i]);
        EXPECT_EQ((int64_t)of.size() * 10, p.samples(c));
        sizes.push_back(p.samples(c));
    }
    EXPECT_EQ(sizes, (std::vector<int64_t>{30, 30, 20, 20}));
}

/* Dirichlet's parameter is what it says: with 0.1 a client's most frequent of ten classes has most
 * of its samples, with 100 little more than a tenth. */
TEST(Partition, SmallAlphaIsSkewedLargeAlphaIsNot)
{
    const auto label = labels_of(50000, 10);
    for (const hn_partition_rule rule : {HN_PARTITION_DIRICHLET, HN_PARTITION_MIXTURE}) {
        hn_partition_options o = options(rule, 100);
        Partition p;
        o.alpha = 0.1;
        ASSERT_HN_OK(make(o, label, &p));
        const double skewed = top_share(p, label, 10);
        o.alpha = 100;
        ASSERT_HN_OK(make(o, label, &p));
        const double even = top_share(p, label, 10);
        EXPECT_GT(skewed, 0.5) << hn_partition_rule_name(rule);
        EXPECT_LT(skewed, 0.9) << hn_partition_rule_name(rule);
        EXPECT_LT(even, 0.18) << hn_partition_rule_name(rule);
    }
}

/* A share of Dirichlet(alpha) over n has mean 1/n and variance (1/n)(1 - 1/n) / (n alpha + 1). The
 * sample variance of 20 x 50 shares lies within 15 % of it. */
TEST(Partition, DirichletSharesHaveTheirVariance)
{
    const auto label = labels_of(200000, 20);
    for (const double alpha : {0.3, 5.0}) {
        hn_partition_options o = options(HN_PARTITION_DIRICHLET, 50);
        o.alpha = alpha;
        Partition p;
        ASSERT_HN_OK(make(o, label, &p));
        std::vector<double> share(20 * 50, 0);
        for (int64_t c = 0; c < 50; c++)
            for (const int32_t i : p.of(c)) share[(size_t)(label[(size_t)i] * 50 + c)] += 1e-4;
        double var = 0;
        for (const double s : share) var += (s - 0.02) * (s - 0.02) / 1000;
        const double wanted = 0.02 * 0.98 / (50 * alpha + 1);
        EXPECT_NEAR(var / wanted, 1, 0.15) << alpha;
    }
}

TEST(Partition, MixtureHasEqualSizes)
{
    hn_partition_options o = options(HN_PARTITION_MIXTURE, 30);
    o.alpha = 0.01; /* far below: mixes underflow to single classes, which run out */
    Partition p;
    ASSERT_HN_OK(make(o, labels_of(1000, 10), &p));
    for (int64_t c = 0; c < 30; c++)
        EXPECT_TRUE(p.samples(c) == 33 || p.samples(c) == 34) << p.samples(c);
}

TEST(Partition, QuantitySkewKeepsClasses)
{
    const auto label = labels_of(50000, 5);
    Partition p;
    ASSERT_HN_OK(make(options(HN_PARTITION_QUANTITY, 20), label, &p));
    int64_t least = INT64_MAX, most = 0;
    for (int64_t c = 0; c < 20; c++) {
        least = std::min(least, p.samples(c));
        most = std::max(most, p.samples(c));
    }
    EXPECT_GT(most, 20 * least);
    std::vector<hn_client_samples> s(20);
    ASSERT_HN_OK(hn_partition_count(&p.p, label.data(), 5, s.data()));
    for (const auto &c : s)
        if (c.samples > 2000) {
            EXPECT_LT((double)c.top_n / (double)c.samples, 0.25);
        }
}

TEST(Partition, EveryClientHasTheLeastNumber)
{
    hn_partition_options o = options(HN_PARTITION_DIRICHLET, 20);
    const auto label = labels_of(5000, 10);
    Partition p, q;
    o.alpha = 0.1;
    ASSERT_HN_OK(make(o, label, &q));
    o.min_samples = 40;
    ASSERT_HN_OK(make(o, label, &p));
    int64_t least = INT64_MAX;
    for (int64_t c = 0; c < 20; c++) {
        EXPECT_GE(p.samples(c), 40);
        least = std::min(least, q.samples(c));
    }
    EXPECT_LT(least, 40); /* it had to be drawn again */
}

TEST(Partition, RefusesWhatCannotBe)
{
    const auto label = labels_of(100, 10);
    Partition p;
    auto refused = [&](hn_partition_options o, const char *part,
                       const std::vector<int32_t> &group = {}) {
        EXPECT_HN_FAIL(make(o, label, &p, group), HN_ERR_ARG, part);
        EXPECT_EQ(p.p.index, nullptr);
    };
    for (int rule = 0; rule < HN_PARTITION_COUNT; rule++)
        if (rule != HN_PARTITION_GROUP) {
            refused(options((hn_partition_rule)rule, 101), "101 clients for 100 samples");
            refused(options((hn_partition_rule)rule, 0), "option clients is 0, at least 1");
        }
    for (const hn_partition_rule rule :
         {HN_PARTITION_DIRICHLET, HN_PARTITION_MIXTURE, HN_PARTITION_QUANTITY})
        for (const double alpha : {0.0, -1.0, (double)NAN, (double)INFINITY}) {
            hn_partition_options o = options(rule, 10);
            o.alpha = alpha;
            refused(o, "option alpha");
        }
    hn_partition_options o = options(HN_PARTITION_SHARDS, 50);
    o.shards = 3;
    refused(o, "50 clients with 3 shards each for 100 samples");
    o.shards = 0;
    refused(o, "option shards is 0");
    o = options(HN_PARTITION_IID, 10);
    o.min_samples = 11;
    refused(o, "option min-samples is 11: 100 samples are too few for 10 clients");
    o = options(HN_PARTITION_DIRICHLET, 100);
    o.alpha = 0.1;
    refused(o, "(the last of 1000 draws)");
    o = options(HN_PARTITION_GROUP, 0);
    refused(o, "needs the groups");
    o.clients = 5;
    refused(o, "option clients is 5, there are 4 groups", labels_of(100, 4));
    std::vector<int32_t> uneven(100, 0);
    uneven[17] = 3;
    o.clients = 0;
    o.min_samples = 2;
    refused(o, "client 1 of 2 has 1 samples, option min-samples wants 2", uneven);
    o = options(HN_PARTITION_DIRICHLET, 10);
    EXPECT_HN_FAIL(hn_partition_make(&o, nullptr, nullptr, 100, &p.p), HN_ERR_ARG,
                   "the partition dirichlet needs labels");
}

TEST(Partition, ReportSaysWhatClientsHave)
{
    const std::vector<int32_t> label = {0, 0, 0, 1, 0, 1, 2}, group = {0, 0, 0, 0, 1, 1, 2};
    std::vector<std::string> lines;
    const hn_log log = {[](void *c, hn_log_level, const char *t) {
                            static_cast<std::vector<std::string> *>(c)->push_back(t);
                        },
                        &lines};
    Partition p;
    ASSERT_HN_OK(make(options(HN_PARTITION_GROUP, 0), label, &p, group));
    ASSERT_HN_OK(hn_partition_report(&p.p, label.data(), 3, &log));
    ASSERT_EQ(lines.size(), 3u);
    EXPECT_EQ(lines[0], "3 clients have 7 samples");
    EXPECT_EQ(lines[1], "samples a client: 1 to 4, median 2");
    /* 3/4, 1/2 and 1 of their samples */
    EXPECT_EQ(lines[2],
              "classes a client: 1 to 2 of 3, median 2; its most frequent one has 75.0 %");
    hn_client_samples s[3];
    EXPECT_HN_FAIL(hn_partition_count(&p.p, label.data(), 2, s), HN_ERR_ARG,
                   "sample 6 has the label 2 of 2 classes");
    ASSERT_HN_OK(hn_partition_count(&p.p, label.data(), 3, s));
    EXPECT_EQ(s[1].top, 0);
    EXPECT_EQ(s[1].top_n, 1);
    EXPECT_EQ(s[2].top, 2);
}

/* ---- schedule ---- */

hn_fed_schedule schedule(int64_t clients, int64_t per_round)
{
    return {.clients = clients,
            .per_round = per_round,
            .seed = 3,
            .dropout = 0,
            .late = 0,
            .late_least = 0};
}

TEST(ClientSchedule, AsksDifferentClientsUniformly)
{
    const hn_fed_schedule s = schedule(20, 5);
    std::vector<int> asked(20, 0), pairs(20 * 20, 0);
    for (int64_t round = 1; round <= 4000; round++) {
        hn_fed_call c[5];
        ASSERT_HN_OK(hn_fed_schedule_round(&s, round, c));
        for (int i = 0; i < 5; i++) {
            ASSERT_GE(c[i].client, 0);
            ASSERT_LT(c[i].client, 20);
            if (i > 0) {
                ASSERT_LT(c[i - 1].client, c[i].client);
            }
            EXPECT_EQ(c[i].fate, HN_FED_WORKS);
            EXPECT_EQ(c[i].share, 1);
            asked[(size_t)c[i].client]++;
            for (int j = 0; j < i; j++) pairs[(size_t)(c[j].client * 20 + c[i].client)]++;
        }
    }
    /* 1000 each, standard deviation 27; pairs 4000 * 20 / 380 = 210.5 each, 14 */
    for (const int n : asked) {
        EXPECT_NEAR(n, 1000, 5 * 27);
    }
    for (int a = 0; a < 20; a++)
        for (int b = a + 1; b < 20; b++) {
            EXPECT_NEAR(pairs[(size_t)(a * 20 + b)], 210.5, 5 * 14.2);
        }
}

TEST(ClientSchedule, SameRoundSameClients)
{
    hn_fed_schedule s = schedule(1000, 50);
    std::vector<hn_fed_call> a(50), b(50);
    ASSERT_HN_OK(hn_fed_schedule_round(&s, 7, a.data()));
    ASSERT_HN_OK(hn_fed_schedule_round(&s, 8, b.data()));
    auto same = [&] {
        return std::equal(a.begin(), a.end(), b.begin(),
                          [](const auto &x, const auto &y) { return x.client == y.client; });
    };
    EXPECT_FALSE(same());
    s.dropout = 0.5; /* fates do not change who is asked */
    ASSERT_HN_OK(hn_fed_schedule_round(&s, 7, b.data()));
    EXPECT_TRUE(same());
    s.seed = 4;
    ASSERT_HN_OK(hn_fed_schedule_round(&s, 7, b.data()));
    EXPECT_FALSE(same());
}

TEST(ClientSchedule, FatesHaveTheirShares)
{
    hn_fed_schedule s = schedule(100, 100);
    s.dropout = 0.2;
    s.late = 0.5;
    s.late_least = 0.25;
    int drops = 0, late = 0;
    double share = 0;
    for (int64_t round = 0; round < 100; round++) {
        std::vector<hn_fed_call> c(100);
        ASSERT_HN_OK(hn_fed_schedule_round(&s, round, c.data()));
        for (const auto &k : c) {
            if (k.fate == HN_FED_DROPS) {
                EXPECT_EQ(k.share, 0);
            }
            if (k.fate == HN_FED_WORKS) {
                EXPECT_EQ(k.share, 1);
            }
            drops += k.fate == HN_FED_DROPS;
            if (k.fate != HN_FED_LATE) continue;
            late++;
            share += k.share;
            EXPECT_GE(k.share, 0.25);
            EXPECT_LT(k.share, 1);
        }
    }
    EXPECT_NEAR(drops, 2000, 200);          /* standard deviation 40 */
    EXPECT_NEAR(late, 4000, 250);           /* 49 */
    EXPECT_NEAR(share / late, 0.625, 0.02); /* 0.0034 */
}

TEST(ClientSchedule, RefusesOptionsOutOfRange)
{
    hn_fed_call c[4];
    auto refused = [&](hn_fed_schedule s, const char *part) {
        EXPECT_HN_FAIL(hn_fed_schedule_round(&s, 1, c), HN_ERR_ARG, part);
    };
    refused(schedule(0, 1), "option clients is 0");
    refused(schedule(4, 0), "option per_round is 0");
    refused(schedule(4, 5), "option per_round is 5: 1 to 4 clients");
    hn_fed_schedule s = schedule(4, 4);
    s.dropout = 1;
    refused(s, "option dropout is 1");
    s = schedule(4, 4);
    s.late = NAN;
    refused(s, "option late is nan");
    s.late = 0.5;
    refused(s, "option late_least is 0");
}

} // namespace
