/* add_scaled: hand values of both its uses, in place, and what the contract excludes. CUDA beside
 * the twin: test_registry. */
#include "kernels/hyperflow/add_scaled.h"

#include "hn_test.h"

namespace {

using Pass = hn_status (*)(const hn_add_scaled_args *);
constexpr Pass kRuns[] = {hn_add_scaled_cpu, hn_add_scaled_fast};

TEST(AddScaled, StepsInPlaceAndRounds)
{
    for (const Pass pass : kRuns) {
        float z[] = {1, 2, 9, 4, 5, 9}; /* rows of 2, 3 apart */
        const hn_bf16 slope[] = {hn_bf16_from_f32(2), hn_bf16_from_f32(-4), hn_bf16_from_f32(1),
                                 hn_bf16_from_f32(0)};
        hn_bf16 rounded[4] = {};
        hn_add_scaled_args a = {};
        a.a = a.y = z, a.b = slope, a.rounded = rounded;
        a.rows = a.period = 2, a.cols = 2;
        a.ld_a = a.ld_y = 3, a.ld_b = a.ld_rounded = 2;
        a.b_dtype = HN_BF16, a.alpha = 0.25f;
        ASSERT_HN_OK(pass(&a));
        EXPECT_EQ(std::vector<float>(z, z + 6), (std::vector<float>{1.5f, 1, 9, 4.25f, 5, 9}));
        EXPECT_EQ(hn_bf16_to_f32(rounded[0]), 1.5f);
        EXPECT_EQ(hn_bf16_to_f32(rounded[3]), 5);
    }
}

TEST(AddScaled, MakesThetaOfEveryEpisode)
{
    for (const Pass pass : kRuns) {
        const float theta0[] = {1, 2, 3, 4}, sigma[] = {0.5f, 2};
        const float z[] = {2, 0, 1, -1, 0, 0, 0, 0}; /* two episodes of two tokens of two */
        std::vector<float> theta(8);
        hn_add_scaled_args a = {};
        a.a = theta0, a.b = z, a.s = sigma, a.y = theta.data();
        a.rows = 4, a.period = a.cols = 2;
        a.ld_a = a.ld_y = a.ld_b = 2;
        a.b_dtype = HN_F32, a.alpha = 1;
        ASSERT_HN_OK(pass(&a));
        EXPECT_EQ(theta, (std::vector<float>{2, 2, 5, 2, 1, 2, 3, 4}));
    }
}

TEST(AddScaled, RefusesWhatTheContractExcludes)
{
    float x[12] = {};
    hn_add_scaled_args good = {};
    good.a = x, good.b = x + 4, good.y = x + 8;
    good.rows = 2, good.period = 1, good.cols = 2;
    good.ld_a = good.ld_b = good.ld_y = 2;
    good.b_dtype = HN_F32, good.alpha = 1;
    const auto refused = [&](auto change, hn_status code, const char *part) {
        auto a = good;
        change(a);
        for (const Pass pass : kRuns) EXPECT_HN_FAIL(pass(&a), code, part);
    };
    using A = hn_add_scaled_args;
    refused([](A &a) { a.a = nullptr; }, HN_ERR_ARG, "a");
    refused([](A &a) { a.ld_b = 1; }, HN_ERR_SHAPE, "b");
    refused([](A &a) { a.rows = 3, a.period = 2; }, HN_ERR_SHAPE, "no multiple of the period 2");
    refused([](A &a) { a.alpha = INFINITY; }, HN_ERR_ARG, "alpha");
    refused([](A &a) { a.b_dtype = HN_F16; }, HN_ERR_UNSUPPORTED, "b");
    refused([](A &a) { a.y = (float *)a.a; }, HN_ERR_ARG, "y on a");
    refused([](A &a) { a.y = (float *)a.b, a.b_dtype = HN_BF16; }, HN_ERR_ARG, "y on b");
}

} // namespace
