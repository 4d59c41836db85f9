/* kernels/hyperflow/curve_point: hand values, the curves of runtime/flow, fast against the twin,
 * noise, padding, repeatability, errors. */
#include "kernels/hyperflow/curve_point.h"

#include "kernel_test.h"
#include "runtime/flow/curve.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    hn_dtype dtype;
    int64_t n, knots, tokens, width, rows, gap; /* gap: elements between rows of all matrices */
    float noise;
};

std::string name_of(const Shape &s)
{
    return case_name("n", s.n, "_k", s.knots, "_s", s.tokens, "_w", s.width, "_r", s.rows, "_gap",
                     s.gap, (s.noise > 0 ? "_noise" : ""), s.dtype);
}

/* Operands on the host or on the device, with the same values; every third row is padding. */
template <class M, template <class> class A>
struct Operands {
    const Shape s;
    M knot{HN_F16, s.n *s.knots, s.tokens *s.width, s.gap};
    M unit{HN_F32, 1, s.n, 0}, weights{HN_F32, s.rows, 2 * s.knots, s.gap};
    M inv_sigma{HN_F32, 1, s.tokens, 0}, z{s.dtype, s.rows *s.tokens, s.width, s.gap};
    M dz{HN_F32, s.rows *s.tokens, s.width, s.gap};
    A<int32_t> index;
    A<hn_rng_state> state{std::vector<hn_rng_state>{{11, 3, 1000}}};

    static std::vector<int32_t> index_for(const Shape &s)
    {
        std::vector<int32_t> v;
        for (int64_t r = 0; r < s.rows; r++) v.push_back(r % 3 == 1 ? -1 : (int32_t)(r * 5 % s.n));
        return v;
    }
    explicit Operands(const Shape &shape) : s(shape), index(index_for(shape))
    {
        knot.normal(1, 0, 10), unit.normal(2, 1e-3f, 1e-4f), weights.normal(3);
        inv_sigma.normal(4, 100, 10);
    }
    hn_curve_point_args args()
    {
        hn_curve_point_args a = {};
        a.knot = (const hn_f16 *)knot.data(), a.unit = unit.f32(), a.index = index.data();
        a.weights = weights.f32(), a.inv_sigma = inv_sigma.f32(), a.z = z.data();
        a.dz = dz.f32(), a.state = state.data();
        a.n = s.n, a.knots = s.knots, a.tokens = s.tokens, a.width = s.width, a.rows = s.rows;
        a.ld_knots = knot.ld(), a.ld_weights = weights.ld(), a.ld_z = z.ld(), a.ld_dz = dz.ld();
        a.op_hash = 77, a.noise = s.noise, a.dtype = s.dtype;
        return a;
    }
};
using Host = Operands<Matrix, GuardedArray>;

class CurvePoint : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    template <class O>
    void expect_near(O &got, Host &want)
    {
        EXPECT_LT(rel_l2(got.z.values(), want.z.values()), tolerance(s.dtype));
        EXPECT_LT(rel_l2(got.dz.values(), want.dz.values()), 3e-6);
    }
};

TEST_P(CurvePoint, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Host want(s), first(s);
    const auto a = want.args(), b = first.args();
    ASSERT_HN_OK(hn_curve_point_cpu(&a));
    on_threads(1, [&] { ASSERT_HN_OK(hn_curve_point_fast(&b)); });
    expect_near(first, want);
    for (const int threads : {2, 3}) {
        Host o(s);
        const auto c = o.args();
        on_threads(threads, [&] { ASSERT_HN_OK(hn_curve_point_fast(&c)); });
        EXPECT_TRUE(same_bits(o.z.values(), first.z.values()));
        EXPECT_TRUE(same_bits(o.dz.values(), first.dz.values()));
    }
    for (int64_t i = s.tokens; i < std::min(2 * s.tokens, s.rows * s.tokens); i++) /* row 1 */
        EXPECT_EQ(want.z.values()[(size_t)(i * s.width)], 0);
}

/* Smallest; odd widths with noise that straddles its blocks; 16-byte pieces; more numbers of a row
 * than a block has threads, more columns of a token than the CPU's blocks. */
const Shape kShapes[] = {{HN_F32, 1, 2, 1, 1, 1, 0, 0},         {HN_F32, 3, 4, 3, 7, 5, 3, 0.5f},
                         {HN_F32, 2, 11, 24, 64, 4, 0, 0.05f},  {HN_F32, 2, 5, 2, 1030, 3, 1, 0.1f},
                         {HN_BF16, 3, 11, 4, 192, 7, 0, 0.05f}, {HN_BF16, 3, 6, 5, 33, 4, 2, 0},
                         {HN_BF16, 2, 51, 2, 2048, 3, 8, 0}};

INSTANTIATE_TEST_SUITE_P(Shapes, CurvePoint, ::testing::ValuesIn(kShapes),
                         [](const auto &i) { return name_of(i.param); });

using Call = hn_status (*)(const hn_curve_point_args *);

TEST(CurvePointTwin, MatchesHandComputedValues)
{
    for (const Call run : {(Call)hn_curve_point_cpu, (Call)hn_curve_point_fast}) {
        Host o({HN_F32, 2, 2, 2, 2, 3, 1, 0});
        o.knot.assign({1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 1, 2, 2, 2, 2});
        o.unit.assign({0.5f, 2}), o.inv_sigma.assign({1, 10});
        o.weights.assign({0.5f, 0.5f, -1, 1, 9, 9, 9, 9, 1, 0.25f, 0, 3});
        ASSERT_EQ(o.index.host(), (std::vector<int32_t>{0, -1, 0}));
        o.index.data()[2] = 1;
        auto a = o.args();
        ASSERT_HN_OK(run(&a));
        EXPECT_EQ(o.z.values(), (std::vector<float>{1.5f, 2, 25, 30, 0, 0, 0, 0, 1, 3, 10, 30}));
        EXPECT_EQ(o.dz.values(), (std::vector<float>{2, 2, 20, 20, 0, 0, 0, 0, 12, 12, 120, 120}));
        a.dz = nullptr;
        EXPECT_HN_OK(run(&a));
    }
}

/* The rows of runtime/flow/curve.h: a spline through knots of a straight line is that line. */
TEST(CurvePointTwin, TakesTheWeightsOfACurve)
{
    Host o({HN_F32, 1, 11, 1, 2, 4, 0, 0});
    std::vector<float> knots, rows;
    for (int k = 0; k <= 10; k++) knots.push_back((float)k), knots.push_back(-2 * (float)k);
    hn_curve *c = nullptr;
    ASSERT_HN_OK(hn_curve_make(HN_CURVE_SPLINE, 11, &c));
    const double times[] = {0, 0.33, 0.5, 1};
    for (const double t : times) {
        std::vector<float> row(22);
        ASSERT_HN_OK(hn_curve_row(c, t, row.data()));
        rows.insert(rows.end(), row.begin(), row.end());
    }
    hn_curve_free(c);
    o.knot.assign(knots), o.weights.assign(rows), o.unit.assign({0.5f}), o.inv_sigma.assign({4});
    o.index.data()[1] = 0;
    const auto a = o.args();
    ASSERT_HN_OK(hn_curve_point_cpu(&a));
    const auto z = o.z.values(), dz = o.dz.values();
    for (size_t r = 0; r < 4; r++) {
        EXPECT_NEAR(z[2 * r], 20 * times[r], 1e-5);
        EXPECT_NEAR(z[2 * r + 1], -40 * times[r], 1e-5);
        EXPECT_NEAR(dz[2 * r], 20, 1e-4);
    }
}

/* Knots whose weights are both 0 are not read: NaN there reaches nothing. */
TEST(CurvePointTwin, LeavesOutKnotsWithoutWeight)
{
    for (const Call run : {(Call)hn_curve_point_cpu, (Call)hn_curve_point_fast}) {
        Host o({HN_F32, 1, 3, 1, 2, 1, 0, 0});
        o.knot.assign({1, 2, NAN, NAN, 3, 4}), o.unit.assign({1}), o.inv_sigma.assign({1});
        o.weights.assign({0.5f, 0, 0.5f, -1, 0, 1});
        const auto a = o.args();
        ASSERT_HN_OK(run(&a));
        EXPECT_EQ(o.z.values(), (std::vector<float>{2, 3}));
    }
}

/* Moments of the noise: of 40,000 numbers the mean within 5 / sqrt(n), the square within
 * 5 sqrt(2 / n), and no correlation of the members of a pair. The rows of a batch are counted from
 * row_offset on; another step, another noise. */
TEST(CurvePointNoise, IsNormalAndKeyedByTheRow)
{
    const Shape s = {HN_F32, 1, 2, 2, 1000, 20, 0, 1};
    Host o(s);
    std::fill_n(o.index.data(), s.rows, 0);
    o.weights.assign(std::vector<float>((size_t)(4 * s.rows)));
    auto a = o.args();
    ASSERT_HN_OK(hn_curve_point_fast(&a));
    const auto z = o.z.values();
    double mean = 0, square = 0, pair = 0, far = 0;
    for (size_t i = 0; i < z.size(); i++) {
        const double v = (double)z[i];
        mean += v, square += v * v, far += std::fabs(v) > 2;
        if (i % 2 == 1) pair += v * (double)z[i - 1];
    }
    const double n = (double)z.size();
    EXPECT_LT(std::fabs(mean / n), 5 / std::sqrt(n));
    EXPECT_LT(std::fabs(square / n - 1), 5 * std::sqrt(2 / n));
    EXPECT_LT(std::fabs(pair / (n / 2)), 5 / std::sqrt(n / 2));
    EXPECT_NEAR(far / n, 0.0455, 5 * std::sqrt(0.0455 / n));
    for (const float v : o.dz.values()) ASSERT_EQ(v, 0); /* of the point alone */

    Host moved(s);
    std::fill_n(moved.index.data(), s.rows, 0);
    moved.weights.assign(std::vector<float>((size_t)(4 * s.rows)));
    moved.state.data()->row_offset += 4;
    const auto b = moved.args();
    ASSERT_HN_OK(hn_curve_point_fast(&b));
    const auto y = moved.z.values();
    EXPECT_TRUE(std::equal(y.begin(), y.end() - 8000, z.begin() + 8000));
    moved.state.data()->step++;
    ASSERT_HN_OK(hn_curve_point_fast(&b));
    EXPECT_FALSE(same_bits(moved.z.values(), y));
}

TEST(CurvePointCheck, NamesWhatIsWrong)
{
    Host o({HN_F32, 3, 4, 2, 8, 5, 0, 0.1f});
    const auto with = [&](auto change) {
        hn_curve_point_args a = o.args();
        change(a);
        return hn_curve_point_cpu(&a);
    };
    EXPECT_HN_OK(with([](auto &) {}));
    EXPECT_HN_FAIL(with([](auto &a) { a.unit = nullptr; }), HN_ERR_ARG, "unit is NULL");
    EXPECT_HN_FAIL(with([](auto &a) { a.state = nullptr; }), HN_ERR_ARG, "without random state");
    EXPECT_HN_FAIL(with([](auto &a) { a.noise = NAN; }), HN_ERR_ARG, "noise");
    EXPECT_HN_FAIL(with([](auto &a) { a.knots = 1; }), HN_ERR_UNSUPPORTED, "1 knots");
    EXPECT_HN_FAIL(with([](auto &a) { a.ld_knots = 15; }), HN_ERR_SHAPE, "knots");
    EXPECT_HN_FAIL(with([](auto &a) { a.ld_weights = 7; }), HN_ERR_SHAPE, "weights");
    EXPECT_HN_FAIL(with([](auto &a) { a.width = (int64_t)1 << 40; }), HN_ERR_SHAPE, "tokens");
    o.index.data()[4] = 3;
    EXPECT_HN_FAIL(with([](auto &) {}), HN_ERR_ARG, "row 4 is of trajectory 3 of 3");
}

#ifdef HONE_CUDA

class CurvePointCuda : public CurvePoint {};

TEST_P(CurvePointCuda, MatchesCpuRepeatsAndRunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    Host want(s);
    const auto a = want.args();
    ASSERT_HN_OK(hn_curve_point_cpu(&a));
    Operands<DeviceMatrix, DeviceArray> o(s), again(s);
    const auto b = o.args(), c = again.args();
    ASSERT_HN_OK(hn_curve_point_cuda(&b, nullptr));
    expect_near(o, want);
    run_captured([&](hn_stream stream) { EXPECT_HN_OK(hn_curve_point_cuda(&c, stream)); });
    EXPECT_TRUE(same_bits(again.z.values(), o.z.values()));
    EXPECT_TRUE(same_bits(again.dz.values(), o.dz.values()));
}

TEST(CurvePointCudaIndex, BehindTheLastMakesNaN)
{
    HN_NEED_CUDA();
    Operands<DeviceMatrix, DeviceArray> o({HN_F32, 2, 3, 1, 8, 2, 0, 0});
    o.index.assign({2, -7});
    const auto a = o.args();
    ASSERT_HN_OK(hn_curve_point_cuda(&a, nullptr));
    const auto z = o.z.values();
    for (size_t i = 0; i < 8; i++) EXPECT_TRUE(std::isnan(z[i]) && z[8 + i] == 0);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CurvePointCuda, ::testing::ValuesIn(kShapes),
                         [](const auto &i) { return name_of(i.param); });
#endif

} // namespace
