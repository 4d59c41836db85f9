/* add_scaled: hand values of both its uses, in place, and what the contract excludes. CUDA beside
 * the twin: here and in test_registry. */
#include "kernels/hyperflow/add_scaled.h"

#include "kernel_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

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

#ifdef HONE_CUDA

struct Case {
    int64_t rows, period, cols, gap;
    hn_dtype b;
    int in_place; /* y on: 1 a, 2 b */
};

/* By the twin: vectors and gaps that forbid them, a tail, scales by row, y on a and on b. */
TEST(AddScaledCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    for (const Case c : {Case{6, 2, 13, 3, HN_F32, 0},
                         {6, 6, 13, 3, HN_BF16, 1},
                         {6, 3, 16, 0, HN_F32, 2},
                         {5, 5, 24, 1, HN_F32, 2},
                         {4, 4, 40, 8, HN_BF16, 1},
                         {4, 4, 41, 8, HN_F32, 1}}) {
        Matrix a(HN_F32, c.period, c.cols, c.gap), b(c.b, c.rows, c.cols, c.gap);
        Matrix y(HN_F32, c.rows, c.cols, c.gap), rounded(HN_BF16, c.rows, c.cols, c.gap);
        DeviceMatrix da(HN_F32, c.period, c.cols, c.gap), db(c.b, c.rows, c.cols, c.gap);
        DeviceMatrix dy(HN_F32, c.rows, c.cols, c.gap), dr(HN_BF16, c.rows, c.cols, c.gap);
        const auto va = normal_f32((size_t)(c.period * c.cols), 1);
        const auto vb = normal_f32((size_t)(c.rows * c.cols), 2);
        a.assign(va), da.assign(va);
        b.assign(vb), db.assign(vb);
        const auto s = normal_f32((size_t)c.period, 3);
        DeviceArray<float> ds(s);
        hn_add_scaled_args x = {};
        x.a = a.f32(), x.b = b.data(), x.s = s.data(), x.rounded = (hn_bf16 *)rounded.data();
        x.y = c.in_place == 1 ? a.f32() : c.in_place == 2 ? b.f32() : y.f32();
        x.rows = c.rows, x.cols = c.cols, x.period = c.period;
        x.ld_a = a.ld(), x.ld_b = b.ld(), x.ld_y = y.ld(), x.ld_rounded = rounded.ld();
        x.b_dtype = c.b, x.alpha = 0.25f;
        auto z = x;
        z.a = da.f32(), z.b = db.data(), z.s = ds.data(), z.rounded = (hn_bf16 *)dr.data();
        z.y = c.in_place == 1 ? da.f32() : c.in_place == 2 ? db.f32() : dy.f32();
        ASSERT_HN_OK(hn_add_scaled_cpu(&x));
        ASSERT_HN_OK(hn_add_scaled_cuda(&z, nullptr));
        Matrix &want = c.in_place == 1 ? a : c.in_place == 2 ? b : y;
        DeviceMatrix &got = c.in_place == 1 ? da : c.in_place == 2 ? db : dy;
        EXPECT_LT(max_abs(got.values(), want.values()), 1e-6) << c.cols;   /* fused, or not */
        EXPECT_LT(max_abs(dr.values(), rounded.values()), 0.04) << c.cols; /* one bf16 unit of 8 */
    }
}

#endif

} // namespace
