/* kernels/hyperflow/regression: hand values, PyTorch's numbers, fast against the twin, padding,
 * repeatability, errors; finite differences by the registry. */
#include "kernels/hyperflow/regression.h"

#include "golden_test.h"
#include "kernel_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    hn_dtype dtype, target;
    int64_t groups, rows, cols, gap; /* rows of a group */
};

std::string name_of(const Shape &s)
{
    return case_name("e", s.groups, "_r", s.rows, "_c", s.cols, "_gap", s.gap, s.dtype, s.target);
}

using Results = std::vector<std::vector<float>>;

template <class M, template <class> class A>
struct Operands {
    const Shape s;
    const int64_t n = s.groups * s.rows;
    M y{s.dtype, n, s.cols, s.gap}, target{s.target, n, s.cols, s.gap};
    M dy{s.dtype, n, s.cols, s.gap}, group_loss{HN_F32, 1, s.groups, 0};
    A<float> loss{std::vector<float>{10}}, count{std::vector<float>{3}};
    A<int32_t> labels;

    static std::vector<int32_t> labels_for(const Shape &s)
    {
        std::vector<int32_t> v;
        for (int64_t e = 0; e < s.groups; e++) v.push_back(e % 3 == 1 ? HN_LABEL_IGNORED : 7);
        return v;
    }
    explicit Operands(const Shape &shape) : s(shape), labels(labels_for(shape))
    {
        y.normal(1, 0.3f), target.normal(2);
    }
    hn_regression_args args()
    {
        hn_regression_args a = {};
        a.y = y.data(), a.target = target.data(), a.labels = labels.data(), a.dy = dy.data();
        a.loss_sum = loss.data(), a.count = count.data(), a.group_loss = group_loss.f32();
        a.rows = n, a.cols = s.cols, a.groups = s.groups;
        a.ld_y = y.ld(), a.ld_target = target.ld(), a.ld_dy = dy.ld();
        a.dtype = s.dtype, a.target_dtype = s.target;
        return a;
    }
    Results results() { return {loss.host(), count.host(), dy.values(), group_loss.values()}; }
};
using Host = Operands<Matrix, GuardedArray>;

hn_status fast(const hn_regression_args &a)
{
    Scratch scratch(hn_regression_scratch(&a));
    return hn_regression_fast(&a, scratch.data());
}

void expect_same(const Results &a, const Results &b)
{
    for (size_t k = 0; k < a.size(); k++) EXPECT_TRUE(same_bits(a[k], b[k])) << "result " << k;
}

void expect_near(const Shape &s, const Results &got, const Results &want)
{
    EXPECT_NEAR(got[0][0], want[0][0], 2e-6 * (double)want[0][0]);
    EXPECT_EQ(got[1], want[1]);
    EXPECT_LT(rel_l2(got[2], want[2]), tolerance(s.dtype));
    EXPECT_LT(rel_l2(got[3], want[3]), 2e-6);
}

class Regression : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
};

TEST_P(Regression, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Host want(s);
    const auto a = want.args();
    ASSERT_HN_OK(hn_regression_cpu(&a));
    Results first;
    for (const int threads : {1, 2, 3}) {
        Host o(s);
        on_threads(threads, [&] { EXPECT_HN_OK(fast(o.args())); });
        if (first.empty()) first = o.results();
        expect_same(o.results(), first);
    }
    expect_near(s, first, want.results());
}

const Shape kShapes[] = {{HN_F32, HN_F32, 1, 1, 1, 0},      {HN_F32, HN_F32, 4, 3, 33, 2},
                         {HN_F32, HN_F32, 5, 24, 192, 0},   {HN_F32, HN_F32, 2, 2, 1030, 1},
                         {HN_BF16, HN_F32, 5, 24, 192, 0},  {HN_BF16, HN_F32, 3, 5, 33, 7},
                         {HN_BF16, HN_BF16, 300, 2, 64, 8}, {HN_BF16, HN_BF16, 2, 1, 9, 0}};

INSTANTIATE_TEST_SUITE_P(Shapes, Regression, ::testing::ValuesIn(kShapes),
                         [](const auto &i) { return name_of(i.param); });

/* Two groups of two rows of two, the second ignored. */
template <class Fn>
void expect_hand_values(Fn run)
{
    Host o({HN_F32, HN_F32, 2, 2, 2, 1});
    o.y.assign({1, 2, 3, 4, 5, 6, 7, 8}), o.target.assign({1, 0, 2, 7, 0, 0, 0, 0});
    ASSERT_HN_OK(run(o.args()));
    EXPECT_EQ(o.loss.host()[0], 10 + 3.5f); /* (0 + 4 + 1 + 9) / 4 */
    EXPECT_EQ(o.count.host()[0], 3 + 1);
    EXPECT_EQ(o.dy.values(), (std::vector<float>{0, 1, 0.5f, -1.5f, 0, 0, 0, 0}));
    EXPECT_EQ(o.group_loss.values(), (std::vector<float>{3.5f, 0}));

    Host alone({HN_F32, HN_F32, 2, 2, 2, 1}); /* without labels all count; no gradient, on y */
    alone.y.assign({1, 2, 3, 4, 5, 6, 7, 8}), alone.target.assign({1, 0, 2, 7, 1, 6, 7, 8});
    auto a = alone.args();
    a.labels = nullptr, a.dy = nullptr, a.group_loss = nullptr;
    ASSERT_HN_OK(run(a));
    EXPECT_EQ(alone.loss.host()[0], 10 + 3.5f + 4);
    EXPECT_EQ(alone.count.host()[0], 3 + 2);
    a.dy = alone.y.data(), a.ld_dy = alone.y.ld();
    ASSERT_HN_OK(run(a));
    EXPECT_EQ(alone.y.values(), (std::vector<float>{0, 1, 0.5f, -1.5f, 2, 0, 0, 0}));
}

TEST(RegressionTwin, MatchesHandComputedValues)
{
    expect_hand_values([](const hn_regression_args &a) { return hn_regression_cpu(&a); });
}
TEST(RegressionFast, MatchesHandComputedValues) { expect_hand_values(fast); }

TEST(RegressionTwin, EqualsPyTorch)
{
    const Golden file = Golden::load("tests/golden/modulate.json");
    const Golden c = file["regression"].at(0);
    for (const bool is_fast : {false, true}) {
        Host o(
            {HN_F32, HN_F32, c["groups"].integer(), c["rows"].integer(), c["cols"].integer(), 1});
        o.y.assign(c["y"].numbers()), o.target.assign(c["target"].numbers());
        auto a = o.args();
        a.labels = nullptr;
        ASSERT_HN_OK(is_fast ? fast(a) : hn_regression_cpu(&a));
        EXPECT_NEAR(o.loss.host()[0], 10 + c["loss"].number(), 2e-6);
        EXPECT_LT(rel_l2(o.dy.values(), c["dy"].numbers()), 1e-6);
    }
}

/* What an ignored group holds, NaN included, reaches nothing. */
TEST(RegressionTwin, PaddingMayBeAnything)
{
    for (const bool is_fast : {false, true}) {
        Host o({HN_F32, HN_F32, 2, 1, 2, 0});
        o.y.assign({1, 1, NAN, INFINITY}), o.target.assign({0, 0, NAN, 1});
        const auto a = o.args();
        ASSERT_HN_OK(is_fast ? fast(a) : hn_regression_cpu(&a));
        EXPECT_EQ(o.loss.host()[0], 11);
        EXPECT_EQ(o.dy.values(), (std::vector<float>{1, 1, 0, 0}));
    }
}

TEST(RegressionCheck, NamesWhatIsWrong)
{
    Host o({HN_F32, HN_F32, 2, 3, 4, 0});
    const auto with = [&](auto change) {
        hn_regression_args a = o.args();
        change(a);
        return hn_regression_check(&a);
    };
    EXPECT_HN_OK(with([](auto &) {}));
    EXPECT_HN_FAIL(with([](auto &a) { a.target = nullptr; }), HN_ERR_ARG, "target is NULL");
    EXPECT_HN_FAIL(with([](auto &a) { a.count = nullptr; }), HN_ERR_ARG, "count is NULL");
    EXPECT_HN_FAIL(with([](auto &a) { a.groups = 4; }), HN_ERR_SHAPE, "6 rows are no 4 equal");
    EXPECT_HN_FAIL(with([](auto &a) { a.ld_target = 3; }), HN_ERR_SHAPE, "target");
    EXPECT_HN_FAIL(with([](auto &a) { a.target_dtype = HN_BF16; }), HN_ERR_UNSUPPORTED,
                   "target bf16 of y f32");
    EXPECT_HN_FAIL(with([](auto &a) { a.dy = (void *)a.y, a.ld_dy = 5; }), HN_ERR_ARG, "5");
}

#ifdef HONE_CUDA

class RegressionCuda : public Regression {};

TEST_P(RegressionCuda, MatchesCpuRepeatsAndRunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    Host want(s);
    const auto a = want.args();
    ASSERT_HN_OK(hn_regression_cpu(&a));
    Operands<DeviceMatrix, DeviceArray> o(s), again(s);
    const auto b = o.args(), c = again.args();
    DeviceArray<unsigned char> scratch(hn_regression_scratch(&a));
    ASSERT_HN_OK(hn_regression_cuda(&b, scratch.data(), nullptr));
    expect_near(s, o.results(), want.results());
    run_captured(
        [&](hn_stream stream) { EXPECT_HN_OK(hn_regression_cuda(&c, scratch.data(), stream)); });
    expect_same(again.results(), o.results());
    (void)scratch.host();
}

INSTANTIATE_TEST_SUITE_P(Shapes, RegressionCuda, ::testing::ValuesIn(kShapes),
                         [](const auto &i) { return name_of(i.param); });
#endif

} // namespace
