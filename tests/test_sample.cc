/* Choosing a token: argmax, temperature, top-k, top-p, repeatability, errors, ONNX ArgMax. */
#include "kernels/reduce/sample.h"

#include <algorithm>
#include <functional>

#include "hn_test.h"
#include "onnx_vectors.h"

namespace {

struct Sampler {
    std::vector<float> logits;
    hn_sample_args a = {};
    explicit Sampler(std::vector<float> z) : logits(std::move(z))
    {
        a.rows = 1;
        a.vocab = a.ld = (int64_t)logits.size();
        a.temperature = a.top_p = 1;
        a.seed = 7;
    }
    int32_t at(int32_t position)
    {
        GuardedArray<int32_t> token(1);
        GuardedArray<char> scratch(hn_sample_scratch(&a));
        a.logits = logits.data(), a.positions = &position, a.tokens = token.data();
        EXPECT_HN_OK(hn_sample(&a, scratch.data()));
        scratch.host();
        return token.host()[0];
    }
    std::vector<double> shares(int n)
    {
        std::vector<double> share(logits.size(), 0);
        for (int i = 0; i < n; i++) share[(size_t)at(i)] += 1;
        for (double &v : share) v /= n;
        return share;
    }
};

TEST(Sample, GreedyTakesTheLowestIndexAmongEquals)
{
    Sampler s({1, 3, -2, 3, 0});
    s.a.temperature = 0;
    EXPECT_EQ(s.at(0), 1);
    Sampler low({-INFINITY, -1e38f});
    low.a.temperature = 0;
    EXPECT_EQ(low.at(0), 1);
}

TEST(Sample, FollowsTheProbabilities)
{
    Sampler s({std::log(1.0f), std::log(2.0f), std::log(5.0f), -INFINITY});
    const auto p = s.shares(4000); /* standard deviation below 0.008 */
    EXPECT_NEAR(p[0], 0.125, 0.03);
    EXPECT_NEAR(p[1], 0.25, 0.03);
    EXPECT_NEAR(p[2], 0.625, 0.03);
    EXPECT_EQ(p[3], 0);
}

TEST(Sample, TemperatureSharpensAndFlattens)
{
    Sampler s({0, std::log(2.0f)});
    s.a.temperature = 0.5f; /* 1 : 4 */
    EXPECT_NEAR(s.shares(4000)[1], 0.8, 0.03);
    s.a.temperature = 1000;
    EXPECT_NEAR(s.shares(4000)[1], 0.5, 0.03);
}

TEST(Sample, TopKKeepsTheLargest)
{
    Sampler s({0, 1, 0.5f, 1, -3, 0.25f});
    s.a.top_k = 3;
    const auto p = s.shares(2000);
    for (const size_t kept : {1, 2, 3}) EXPECT_GT(p[kept], 0);
    for (const size_t cut : {0, 4, 5}) EXPECT_EQ(p[cut], 0);
    s.a.top_k = 1; /* of two equals the lower index */
    EXPECT_EQ(s.shares(50)[1], 1);
    s.a.top_k = 100; /* more than there are: all */
    EXPECT_GT(s.shares(2000)[0], 0);
}

TEST(Sample, TopKAgreesWithSortingForEveryK)
{
    for (int64_t k = 1; k <= 40; k++) {
        Sampler s(normal_f32(40, 3));
        std::vector<float> sorted = s.logits;
        std::sort(sorted.begin(), sorted.end(), std::greater<>());
        s.a.top_k = k;
        s.a.temperature = 1000; /* all that is left is about equally likely */
        for (int i = 0; i < 60; i++)
            ASSERT_GE(s.logits[(size_t)s.at(i)], sorted[(size_t)k - 1]) << "k " << k;
    }
}

TEST(Sample, TopPKeepsTheFewestThatReachIt)
{
    /* Shares 0.5, 0.3, 0.2 in an order of their own. */
    Sampler s({std::log(2.0f), std::log(5.0f), std::log(3.0f)});
    s.a.top_p = 0.45f;
    EXPECT_EQ(s.shares(200)[1], 1);
    s.a.top_p = 0.7f;
    const auto two = s.shares(4000);
    EXPECT_EQ(two[0], 0);
    EXPECT_NEAR(two[1], 0.625, 0.03);
    s.a.top_p = 0.9f;
    EXPECT_GT(s.shares(500)[0], 0);
    s.a.top_p = 1e-9f; /* one stays always */
    EXPECT_EQ(s.shares(50)[1], 1);
}

TEST(Sample, DependsOnSeedPositionAndRowOnly)
{
    Sampler s(normal_f32(50, 4, 0, 0.1f)), other = s;
    std::vector<int32_t> first, second;
    for (int i = 0; i < 30; i++) first.push_back(s.at(i));
    for (int i = 29; i >= 0; i--) second.insert(second.begin(), s.at(i));
    EXPECT_EQ(first, second);
    other.a.seed = 8;
    std::vector<int32_t> third;
    for (int i = 0; i < 30; i++) third.push_back(other.at(i));
    EXPECT_NE(first, third);
    /* Two rows at once: row 0 as alone. */
    std::vector<float> two = s.logits;
    two.insert(two.end(), s.logits.begin(), s.logits.end());
    const int32_t positions[] = {5, 5};
    int32_t tokens[2];
    hn_sample_args a = s.a;
    GuardedArray<char> scratch(hn_sample_scratch(&a));
    a.logits = two.data(), a.positions = positions, a.tokens = tokens, a.rows = 2;
    ASSERT_HN_OK(hn_sample(&a, scratch.data()));
    EXPECT_EQ(tokens[0], first[5]);
}

TEST(Sample, NamesWhatIsWrong)
{
    const auto fails = [](std::vector<float> z, auto change, hn_status code, const char *text) {
        Sampler s(std::move(z));
        const int32_t position = 0;
        int32_t token = -7;
        float scratch[16];
        s.a.logits = s.logits.data(), s.a.positions = &position, s.a.tokens = &token;
        change(s.a);
        EXPECT_HN_FAIL(hn_sample(&s.a, scratch), code, text);
        EXPECT_EQ(token, -7);
    };
    using A = hn_sample_args;
    fails(
        {1, 2}, [](A &a) { a.logits = nullptr; }, HN_ERR_ARG, "logits is NULL");
    fails(
        {1, 2}, [](A &a) { a.tokens = nullptr; }, HN_ERR_ARG, "tokens is NULL");
    fails(
        {1, 2}, [](A &a) { a.positions = nullptr; }, HN_ERR_ARG, "positions is NULL");
    fails(
        {1, 2}, [](A &a) { a.ld = 1; }, HN_ERR_SHAPE, "leading dimension 1");
    fails(
        {1, 2}, [](A &a) { a.temperature = -1; }, HN_ERR_ARG, "temperature -1");
    fails(
        {1, 2}, [](A &a) { a.top_k = -1; }, HN_ERR_ARG, "top_k -1");
    fails(
        {1, 2}, [](A &a) { a.top_p = 0; }, HN_ERR_ARG, "top_p 0");
    fails(
        {1, NAN}, [](A &) {}, HN_ERR_NUMERIC, "logit 1 of row 0 is nan");
    fails(
        {INFINITY, 1}, [](A &a) { a.temperature = 0; }, HN_ERR_NUMERIC, "logit 0 of row 0");
    fails(
        {-INFINITY, -INFINITY}, [](A &) {}, HN_ERR_NUMERIC, "all logits of row 0");
}

/* The eight vectors with select_last_index break ties the other way: they agree where there are
 * none, and are left out. */
TEST(SampleOnnx, ArgMax)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    int compared = 0;
    onnx::each(dir, "ArgMax", [&](const onnx::Case &c) {
        if (c.integer("select_last_index", 0)) return;
        const auto &x = *c.in(0);
        const int rank = (int)x.shape.size();
        const int64_t axis = (c.integer("axis", 0) + rank) % rank, n = x.dim((int)axis);
        int64_t inner = 1;
        for (int k = (int)axis + 1; k < rank; k++) inner *= x.dim(k);
        const auto &want = c.out(0)->values;
        for (int64_t i = 0; i < (int64_t)want.size(); i++) {
            std::vector<float> line;
            for (int64_t k = 0; k < n; k++)
                line.push_back((float)x.values[(size_t)((i / inner * n + k) * inner + i % inner)]);
            Sampler s(line);
            s.a.temperature = 0;
            EXPECT_EQ(s.at(0), (int32_t)want[(size_t)i]);
        }
        compared++;
    });
    EXPECT_EQ(compared, 8);
}

} // namespace
