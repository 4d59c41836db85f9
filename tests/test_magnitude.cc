/* DoRA's kernels: norms of updated rows, and columns scaled to magnitudes: hand values, the norms
 * of dense sums, cancellation, threads, aliasing, refusals. Gradients, fast against the twin on
 * other shapes and CUDA against both: test_registry.cc. */
#include "kernel_test.h"
#include "kernels/lora/lowrank_norm.h"
#include "kernels/lora/magnitude.h"

namespace {

/* ---- norms ---- */

struct Shape {
    hn_dtype dtype;
    int64_t out, in, rank;
};

class LowrankNorm : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    Matrix w{s.dtype, s.out, s.in}, a{s.dtype, s.rank, s.in}, b{s.dtype, s.out, s.rank, 1};
    std::vector<float> squares;

    void SetUp() override
    {
        w.normal(1), a.normal(2), b.normal(3);
        for (const double n : direct(0)) squares.push_back((float)(n * n));
    }
    /* || w + scale b a || of the dense sum, in double. */
    std::vector<double> direct(double scale)
    {
        const auto wv = w.values(), av = a.values(), bv = b.values();
        std::vector<double> norm;
        for (int64_t o = 0; o < s.out; o++) {
            double sum = 0;
            for (int64_t k = 0; k < s.in; k++) {
                double v = (double)wv[(size_t)(o * s.in + k)];
                for (int64_t r = 0; r < s.rank; r++)
                    v += scale * (double)bv[(size_t)(o * s.rank + r)] *
                         (double)av[(size_t)(r * s.in + k)];
                sum += v * v;
            }
            norm.push_back(std::sqrt(sum));
        }
        return norm;
    }
    hn_lowrank_norm_args args(float scale, float *norm)
    {
        hn_lowrank_norm_args f = {};
        f.w = w.data(), f.a = a.data(), f.b = b.data(), f.squares = squares.data(), f.norm = norm;
        f.out = s.out, f.in = s.in, f.rank = s.rank;
        f.ld_w = w.ld(), f.ld_a = a.ld(), f.ld_b = b.ld();
        f.dtype = s.dtype, f.scale = scale;
        return f;
    }
    std::vector<float> run(float scale, bool twin)
    {
        std::vector<float> norm((size_t)s.out, NAN);
        const auto f = args(scale, norm.data());
        Scratch scratch(hn_lowrank_norm_fast_scratch(&f));
        EXPECT_HN_OK(twin ? hn_lowrank_norm_cpu(&f) : hn_lowrank_norm_fast(&f, scratch.data()));
        return norm;
    }
};

TEST_P(LowrankNorm, IsThatOfTheDenseSum)
{
    for (const float scale : {0.5f, 2.0f, -1.0f}) {
        const auto want = direct((double)scale);
        const auto twin = run(scale, true), fast = run(scale, false);
        for (size_t o = 0; o < want.size(); o++) {
            EXPECT_NEAR(twin[o], want[o], 1e-6 * want[o]) << scale << ", row " << o;
            EXPECT_NEAR(fast[o], want[o], 2e-6 * want[o]) << scale << ", row " << o;
        }
    }
}

TEST_P(LowrankNorm, SameBitsOnAnyThreads)
{
    std::vector<float> first;
    for (const int threads : {1, 2, 3})
        on_threads(threads, [&] {
            const auto now = run(0.5f, false);
            if (first.empty()) first = now;
            EXPECT_TRUE(same_bits(now, first)) << threads;
        });
}

TEST_P(LowrankNorm, WithoutAnUpdateIsTheRootOfTheSquaresToTheBit)
{
    b.assign(std::vector<float>((size_t)(s.out * s.rank), 0.0f));
    std::vector<float> roots;
    for (const float v : squares) roots.push_back(std::sqrt(v));
    EXPECT_TRUE(same_bits(run(2.0f, true), roots));
    EXPECT_TRUE(same_bits(run(2.0f, false), roots));
}

INSTANTIATE_TEST_SUITE_P(Shapes, LowrankNorm,
                         ::testing::Values(Shape{HN_F32, 1, 1, 1}, Shape{HN_F32, 9, 7, 2},
                                           Shape{HN_F32, 70, 130, 16}, Shape{HN_F32, 5, 300, 65},
                                           Shape{HN_BF16, 9, 7, 2}, Shape{HN_BF16, 66, 130, 8}),
                         [](const auto &i) {
                             const Shape &s = i.param;
                             return case_name("o", s.out, "_i", s.in, "_k", s.rank, s.dtype);
                         });

/* w (1 + part) of one row of ones: what is left of it, from almost all to nothing. */
TEST(LowrankNormCancels, NormsStayRightUntilRoundingWouldBeLeft)
{
    const int64_t in = 4096;
    const std::vector<float> w(in, 1.0f), a(in, 1.0f);
    const float squares = (float)in;
    for (const double left : {0.9, 0.1, 0.01, 0.0}) {
        const float b = (float)(left - 1.0);
        float norm[2] = {NAN, NAN};
        hn_lowrank_norm_args f = {};
        f.w = w.data(), f.a = a.data(), f.b = &b, f.squares = &squares;
        f.out = f.rank = f.ld_b = 1, f.in = f.ld_w = f.ld_a = in;
        f.dtype = HN_F32, f.scale = 1;
        Scratch scratch(hn_lowrank_norm_fast_scratch(&f));
        f.norm = &norm[0];
        ASSERT_HN_OK(hn_lowrank_norm_cpu(&f));
        f.norm = &norm[1];
        ASSERT_HN_OK(hn_lowrank_norm_fast(&f, scratch.data()));
        const double whole = std::sqrt((double)in);
        for (const float n : norm) {
            if (left > 0.005) {
                EXPECT_NEAR(n, left * whole, 1e-2 * left * whole) << left;
            } else { /* 2^-16 of |w|^2 + 2 |w|^2 + |w|^2 */
                EXPECT_NEAR(n, 2 * whole / 256, 1e-5 * whole) << left;
            }
        }
    }
}

TEST(LowrankNormCancels, ARowOfZerosHasNormZeroAndNanStays)
{
    const float w[] = {0, 0, 1, NAN}, a[] = {1, 1}, b[] = {0, 1}, squares[] = {0, NAN};
    float norm[] = {-1, -1}, fast[] = {-1, -1};
    hn_lowrank_norm_args f = {};
    f.w = w, f.a = a, f.b = b, f.squares = squares, f.norm = norm;
    f.out = f.in = f.ld_w = f.ld_a = 2, f.rank = f.ld_b = 1, f.dtype = HN_F32, f.scale = 1;
    ASSERT_HN_OK(hn_lowrank_norm_cpu(&f));
    Scratch scratch(hn_lowrank_norm_fast_scratch(&f));
    f.norm = fast;
    ASSERT_HN_OK(hn_lowrank_norm_fast(&f, scratch.data()));
    EXPECT_EQ(norm[0], 0);
    EXPECT_EQ(fast[0], 0);
    EXPECT_TRUE(std::isnan(norm[1]));
    EXPECT_TRUE(std::isnan(fast[1]));
}

TEST(LowrankNormCheck, NamesWhatIsWrong)
{
    float f[64] = {};
    hn_lowrank_norm_args a = {};
    a.w = a.a = a.b = f, a.squares = f, a.norm = f + 32;
    a.out = 4, a.in = a.ld_w = a.ld_a = 3, a.rank = a.ld_b = 2, a.dtype = HN_F32, a.scale = 1;
    EXPECT_HN_OK(hn_lowrank_norm_check(&a));
    auto with = [&](auto change) {
        hn_lowrank_norm_args b = a;
        change(b);
        return hn_lowrank_norm_check(&b);
    };
    EXPECT_HN_FAIL(hn_lowrank_norm_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.w = nullptr; }), HN_ERR_ARG, "w is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.squares = nullptr; }), HN_ERR_ARG, "squares");
    EXPECT_HN_FAIL(with([](auto &b) { b.norm = nullptr; }), HN_ERR_ARG, "norm");
    EXPECT_HN_FAIL(with([](auto &b) { b.rank = 0; }), HN_ERR_SHAPE, "A is [0, 3]");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_b = 1; }), HN_ERR_SHAPE, "of B");
    EXPECT_HN_FAIL(with([](auto &b) { b.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    EXPECT_HN_FAIL(hn_lowrank_norm_fast(&a, nullptr), HN_ERR_ARG, "scratch");
}

/* ---- magnitudes ---- */

TEST(Magnitude, HandValues)
{
    /* factors 2, 1/2, and none for the column of norm 0 */
    const float z[] = {1, 2, 3, -1, 4, 5}, m[] = {4, 1, 7}, norm[] = {2, 2, 0},
                bias[] = {10, 20, 30};
    const float dy[] = {1, 2, 9, 3, -1, 9};
    float y[6], dz[6], dm[] = {100, 200, 300};
    hn_magnitude_args f = {};
    f.z = z, f.m = m, f.norm = norm, f.bias = bias, f.y = y;
    f.rows = 2, f.cols = f.ld_z = f.ld_y = 3, f.dtype = f.bias_dtype = HN_F32;
    hn_magnitude_bwd_args h = {};
    h.dy = dy, h.z = z, h.m = m, h.norm = norm, h.dz = dz, h.dm = dm;
    h.rows = 2, h.cols = h.ld_dy = h.ld_z = h.ld_dz = 3, h.dtype = HN_F32;
    for (const bool fast : {false, true}) {
        dm[0] = 100, dm[1] = 200, dm[2] = 300;
        ASSERT_HN_OK(fast ? hn_magnitude_fwd_fast(&f) : hn_magnitude_fwd_cpu(&f));
        ASSERT_HN_OK(fast ? hn_magnitude_bwd_fast(&h) : hn_magnitude_bwd_cpu(&h));
        EXPECT_EQ(std::vector<float>(y, y + 6), (std::vector<float>{12, 21, 30, 8, 22, 30}));
        EXPECT_EQ(std::vector<float>(dz, dz + 6), (std::vector<float>{2, 1, 0, 6, -0.5, 0}));
        /* (1 - 3) / 2, (4 - 4) / 2 */
        EXPECT_EQ(std::vector<float>(dm, dm + 3), (std::vector<float>{99, 200, 300}));
    }
}

class MagnitudeShapes : public ::testing::TestWithParam<Shape> { /* out: cols, in: rows */
  protected:
    const Shape s = GetParam();
    const int64_t rows = s.in, cols = s.out;
    Matrix z{s.dtype, rows, cols}, dy{s.dtype, rows, cols, 2}, bias{s.dtype, 1, cols, 0};
    const std::vector<float> m = normal_f32((size_t)cols, 4, 1, 0.3f),
                             norm = normal_f32((size_t)cols, 5, 4, 0.3f);
    std::vector<float> dm = std::vector<float>((size_t)cols, 1.0f);

    void SetUp() override { z.normal(1), dy.normal(2), bias.normal(3); }
    hn_magnitude_args fwd(Matrix &y)
    {
        hn_magnitude_args f = {};
        f.z = z.data(), f.m = m.data(), f.norm = norm.data(), f.bias = bias.data();
        f.y = y.data(), f.rows = rows, f.cols = cols, f.ld_z = z.ld(), f.ld_y = y.ld();
        f.dtype = f.bias_dtype = s.dtype;
        return f;
    }
    hn_magnitude_bwd_args bwd(Matrix &dz)
    {
        hn_magnitude_bwd_args h = {};
        h.dy = dy.data(), h.z = z.data(), h.m = m.data(), h.norm = norm.data();
        h.dz = dz.data(), h.dm = dm.data(), h.rows = rows, h.cols = cols;
        h.ld_dy = dy.ld(), h.ld_z = z.ld(), h.ld_dz = dz.ld(), h.dtype = s.dtype;
        return h;
    }
};

TEST_P(MagnitudeShapes, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Matrix y(s.dtype, rows, cols), dz(s.dtype, rows, cols);
    const auto f = fwd(y);
    const auto h = bwd(dz);
    ASSERT_HN_OK(hn_magnitude_fwd_cpu(&f));
    ASSERT_HN_OK(hn_magnitude_bwd_cpu(&h));
    const std::vector<std::vector<float>> want = {y.values(), dz.values(), dm};
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 3}) {
        dm.assign((size_t)cols, 1.0f);
        on_threads(threads, [&] {
            EXPECT_HN_OK(hn_magnitude_fwd_fast(&f));
            EXPECT_HN_OK(hn_magnitude_bwd_fast(&h));
        });
        const std::vector<std::vector<float>> now = {y.values(), dz.values(), dm};
        if (first.empty()) first = now;
        for (size_t k = 0; k < now.size(); k++) EXPECT_TRUE(same_bits(now[k], first[k])) << k;
    }
    for (size_t k = 0; k < want.size(); k++)
        EXPECT_LT(rel_l2(first[k], want[k]), k == 2 ? 3e-6 : tolerance(s.dtype)) << k;
}

TEST_P(MagnitudeShapes, OutputsMayLieOnInputs)
{
    Matrix y(s.dtype, rows, cols), dz(s.dtype, rows, cols);
    ASSERT_HN_OK(hn_magnitude_fwd_fast(std::array{fwd(y)}.data()));
    ASSERT_HN_OK(hn_magnitude_bwd_fast(std::array{bwd(dz)}.data()));
    const auto want = dm;
    for (const bool fast : {false, true})
        for (const bool on_z : {false, true}) {
            Matrix &to = on_z ? z : dy;
            dm.assign((size_t)cols, 1.0f);
            const auto h = bwd(to);
            ASSERT_HN_OK(fast ? hn_magnitude_bwd_fast(&h) : hn_magnitude_bwd_cpu(&h));
            EXPECT_TRUE(same_bits(to.values(), dz.values()));
            EXPECT_LT(rel_l2(dm, want), 3e-6);
            SetUp();
        }
    const auto f = fwd(z);
    ASSERT_HN_OK(hn_magnitude_fwd_fast(&f));
    EXPECT_TRUE(same_bits(z.values(), y.values()));
}

INSTANTIATE_TEST_SUITE_P(Shapes, MagnitudeShapes,
                         ::testing::Values(Shape{HN_F32, 1, 1, 0}, Shape{HN_F32, 70, 130, 0},
                                           Shape{HN_F32, 130, 5, 0}, Shape{HN_BF16, 9, 7, 0},
                                           Shape{HN_BF16, 72, 200, 0}),
                         [](const auto &i) {
                             return case_name("c", i.param.out, "_r", i.param.in, i.param.dtype);
                         });

TEST(MagnitudeCheck, NamesWhatIsWrong)
{
    float f[64] = {};
    hn_magnitude_args a = {};
    a.z = f, a.m = a.norm = f, a.y = f + 32, a.rows = 2, a.cols = a.ld_z = a.ld_y = 3;
    a.dtype = HN_F32;
    hn_magnitude_bwd_args b = {};
    b.dy = b.z = f, b.m = b.norm = f, b.dz = f + 32;
    b.rows = 2, b.cols = b.ld_dy = b.ld_z = b.ld_dz = 3, b.dtype = HN_F32;
    EXPECT_HN_OK(hn_magnitude_check(&a));
    EXPECT_HN_OK(hn_magnitude_bwd_check(&b));
    auto fwd = [&](auto change) {
        auto c = a;
        change(c);
        return hn_magnitude_check(&c);
    };
    auto bwd = [&](auto change) {
        auto c = b;
        change(c);
        return hn_magnitude_bwd_check(&c);
    };
    EXPECT_HN_FAIL(fwd([](auto &c) { c.m = nullptr; }), HN_ERR_ARG, "m is NULL");
    EXPECT_HN_FAIL(fwd([](auto &c) { c.norm = nullptr; }), HN_ERR_ARG, "norm is NULL");
    EXPECT_HN_FAIL(fwd([](auto &c) { c.ld_y = 2; }), HN_ERR_SHAPE, "of y");
    EXPECT_HN_FAIL(fwd([](auto &c) { c.y = (void *)(size_t)c.z, c.ld_y = 4; }), HN_ERR_ARG,
                   "3 and 4");
    EXPECT_HN_FAIL(fwd([&](auto &c) { c.bias = f, c.bias_dtype = HN_I32; }), HN_ERR_UNSUPPORTED,
                   "bias_dtype");
    EXPECT_HN_FAIL(bwd([](auto &c) { c.z = nullptr; }), HN_ERR_ARG, "z is NULL");
    EXPECT_HN_FAIL(bwd([](auto &c) { c.rows = 0; }), HN_ERR_SHAPE, "dy is [0, 3]");
    EXPECT_HN_FAIL(bwd([](auto &c) { c.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
}

} // namespace
