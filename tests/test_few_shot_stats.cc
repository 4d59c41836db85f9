/* runtime/train/few_shot_stats by hand. */
#include <limits>

#include "hn_test.h"
#include "runtime/train/few_shot_stats.h"

namespace {

TEST(FewShotStats, OfFourEpisodes)
{
    const double a[] = {0.2, 0.4, 0.6, 0.8}; /* deviations 0.3, 0.1, 0.1, 0.3: variance 0.05 */
    hn_few_shot_mean m = {};
    ASSERT_HN_OK(hn_few_shot_mean_of(a, 4, &m));
    EXPECT_EQ(m.n, 4);
    EXPECT_NEAR(m.mean, 0.5, 1e-15);
    EXPECT_NEAR(m.sd, std::sqrt(0.05), 1e-15);
    EXPECT_NEAR(m.ci95, 1.96 * std::sqrt(0.05) / 2, 1e-15);
}

TEST(FewShotStats, OfSixHundredAsTablesHaveThem)
{
    /* half 0.6, half 0.8: sd 0.1, 1.96 * 0.1 / sqrt(600) = 0.0080016665 */
    std::vector<double> a;
    for (int i = 0; i < 600; i++) a.push_back(i % 2 ? 0.8 : 0.6);
    hn_few_shot_mean m = {};
    ASSERT_HN_OK(hn_few_shot_mean_of(a.data(), 600, &m));
    EXPECT_NEAR(m.mean, 0.7, 1e-13);
    EXPECT_NEAR(m.ci95, 0.0080016665, 1e-9);
}

/* Episodes differ much, the methods little: pairing shows what two intervals hide. */
TEST(FewShotStats, OfDifferencesOverTheSameEpisodes)
{
    std::vector<double> a, b;
    for (int i = 0; i < 100; i++) {
        b.push_back(i / 100.0);
        a.push_back(b.back() + (i % 2 ? 0.02 : 0.01));
    }
    hn_few_shot_mean ma = {}, mb = {}, d = {};
    ASSERT_HN_OK(hn_few_shot_mean_of(a.data(), 100, &ma));
    ASSERT_HN_OK(hn_few_shot_mean_of(b.data(), 100, &mb));
    ASSERT_HN_OK(hn_few_shot_difference(a.data(), b.data(), 100, &d));
    EXPECT_LT(ma.mean - ma.ci95, mb.mean + mb.ci95);
    EXPECT_NEAR(d.mean, 0.015, 1e-12);
    EXPECT_NEAR(d.sd, 0.005, 1e-12);
    EXPECT_NEAR(d.ci95, 1.96 * 0.005 / 10, 1e-12);
    EXPECT_TRUE(hn_few_shot_differs(&d));
    std::swap(a[0], b[0]), std::swap(a, b);
    ASSERT_HN_OK(hn_few_shot_difference(a.data(), b.data(), 100, &d));
    EXPECT_LT(d.mean, 0);
    EXPECT_TRUE(hn_few_shot_differs(&d));
    const double x[] = {0.5, 0.7}, y[] = {0.7, 0.5};
    ASSERT_HN_OK(hn_few_shot_difference(x, y, 2, &d));
    EXPECT_FALSE(hn_few_shot_differs(&d));
}

/* Differences 0.1 and 0.3 of four episodes (sd 0.1, interval 0.098) and -0.1 and 0.1 of a hundred
 * (sd 0.1, interval 0.0196): domains weigh alike, episodes do not. */
TEST(FewShotStats, OverDomainsThatWeighAlike)
{
    std::vector<double> few = {0.1, 0.3, 0.1, 0.3}, many;
    for (int i = 0; i < 100; i++) many.push_back(i % 2 ? 0.1 : -0.1);
    hn_few_shot_mean d[2] = {}, m = {};
    ASSERT_HN_OK(hn_few_shot_mean_of(few.data(), 4, &d[0]));
    ASSERT_HN_OK(hn_few_shot_mean_of(many.data(), 100, &d[1]));
    EXPECT_NEAR(d[0].ci95, 0.098, 1e-12);
    EXPECT_NEAR(d[1].ci95, 0.0196, 1e-12);
    ASSERT_HN_OK(hn_few_shot_over_domains(d, 2, &m));
    EXPECT_EQ(m.n, 104);
    EXPECT_NEAR(m.mean, 0.1, 1e-15); /* of all episodes together it would be 0.0077 */
    EXPECT_NEAR(m.sd, 0.1, 1e-12);
    /* sqrt(0.098^2 + 0.0196^2) / 2 = sqrt(0.00998816) / 2 */
    EXPECT_NEAR(m.ci95, 0.0499704, 1e-7);
    EXPECT_TRUE(hn_few_shot_differs(&m));
    ASSERT_HN_OK(hn_few_shot_over_domains(&d[1], 1, &m));
    EXPECT_EQ(m.mean, d[1].mean);
    EXPECT_NEAR(m.ci95, d[1].ci95, 1e-15);
    EXPECT_FALSE(hn_few_shot_differs(&m));
    m.n = 77;
    d[1].n = 1;
    EXPECT_HN_FAIL(hn_few_shot_over_domains(d, 2, &m), HN_ERR_ARG, "domain 1 has 1");
    EXPECT_HN_FAIL(hn_few_shot_over_domains(d, 0, &m), HN_ERR_ARG, "at least one");
    EXPECT_EQ(m.n, 77);
}

/* Two passes: a small spread on a large mean is not lost. */
TEST(FewShotStats, KeepDigits)
{
    const double a[] = {1e9 + 1, 1e9 - 1};
    hn_few_shot_mean m = {};
    ASSERT_HN_OK(hn_few_shot_mean_of(a, 2, &m));
    EXPECT_EQ(m.sd, 1.0);
    ASSERT_HN_OK(hn_few_shot_mean_of(a, 1, &m));
    EXPECT_EQ(m.sd, 0.0);
    EXPECT_FALSE(hn_few_shot_differs(&m));
}

TEST(FewShotStats, RefuseWhatIsNoNumber)
{
    double a[] = {0.5, std::numeric_limits<double>::quiet_NaN()};
    const double b[] = {0.5, 0.5};
    hn_few_shot_mean m = {};
    m.n = 77;
    EXPECT_HN_FAIL(hn_few_shot_mean_of(a, 2, &m), HN_ERR_NUMERIC, "episode 1 has the value");
    EXPECT_HN_FAIL(hn_few_shot_difference(b, a, 2, &m), HN_ERR_NUMERIC, "episode 1");
    EXPECT_HN_FAIL(hn_few_shot_mean_of(a, 0, &m), HN_ERR_ARG, "at least one");
    EXPECT_HN_FAIL(hn_few_shot_mean_of(nullptr, 2, &m), HN_ERR_ARG, "at least one");
    EXPECT_HN_FAIL(hn_few_shot_difference(b, nullptr, 2, &m), HN_ERR_ARG, "of one method");
    EXPECT_EQ(m.n, 77);
}

} // namespace
