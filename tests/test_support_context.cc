/* kernels/hyperflow/support_context: hand values, fast against the twin, renamed and permuted
 * classes, padding, repeatability, errors. */
#include "kernels/hyperflow/support_context.h"

#include "kernel_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    hn_dtype f, u;
    int64_t episodes, rows, features, gap; /* rows of an episode */
};

std::string name_of(const Shape &s)
{
    return case_name("e", s.episodes, "_s", s.rows, "_f", s.features, "_gap", s.gap, s.f, s.u);
}

/* Classes of unequal sizes, not in order; padding at the end of each episode. */
std::vector<int32_t> labels_for(const Shape &s)
{
    std::vector<int32_t> v;
    for (int64_t e = 0; e < s.episodes; e++)
        for (int64_t j = 0; j < s.rows; j++)
            v.push_back(j > 0 && j >= s.rows - s.rows / 5 ? HN_LABEL_IGNORED
                                                          : (int32_t)((j * j + e) % 7));
    return v;
}

template <class M, template <class> class A>
struct Operands {
    const Shape s;
    const int64_t n = s.episodes * s.rows;
    M f{s.f, n, s.features, s.gap}, u{s.u, n, hn_support_context_cols(s.features), s.gap};
    A<int32_t> labels;

    explicit Operands(const Shape &shape) : s(shape), labels(labels_for(shape)) { f.normal(1); }
    hn_support_context_args args()
    {
        hn_support_context_args a = {};
        a.f = f.data(), a.labels = labels.data(), a.u = u.data();
        a.rows = n, a.features = s.features, a.episodes = s.episodes;
        a.ld_f = f.ld(), a.ld_u = u.ld(), a.f_dtype = s.f, a.u_dtype = s.u;
        return a;
    }
};
using Host = Operands<Matrix, GuardedArray>;
using Call = hn_status (*)(const hn_support_context_args *);

class SupportContext : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
};

TEST_P(SupportContext, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Host want(s), first(s);
    const auto a = want.args(), b = first.args();
    ASSERT_HN_OK(hn_support_context_cpu(&a));
    on_threads(1, [&] { ASSERT_HN_OK(hn_support_context_fast(&b)); });
    EXPECT_LT(rel_l2(first.u.values(), want.u.values()), tolerance(s.u));
    for (const int threads : {2, 3}) {
        Host o(s);
        const auto c = o.args();
        on_threads(threads, [&] { ASSERT_HN_OK(hn_support_context_fast(&c)); });
        EXPECT_TRUE(same_bits(o.u.values(), first.u.values()));
    }
}

/* Smallest; odd widths; pieces of 16 bytes; several blocks an episode; wide. */
const Shape kShapes[] = {{HN_F32, HN_F32, 1, 1, 1, 0},      {HN_F32, HN_F32, 3, 6, 5, 2},
                         {HN_F32, HN_F32, 2, 25, 64, 0},    {HN_F32, HN_BF16, 4, 25, 512, 0},
                         {HN_BF16, HN_BF16, 2, 100, 96, 8}, {HN_BF16, HN_F32, 2, 40, 33, 1},
                         {HN_F32, HN_BF16, 1, 70, 1030, 0}};

INSTANTIATE_TEST_SUITE_P(Shapes, SupportContext, ::testing::ValuesIn(kShapes),
                         [](const auto &i) { return name_of(i.param); });

TEST(SupportContextTwin, MatchesHandComputedValues)
{
    EXPECT_EQ(hn_support_context_cols(1), 8);
    EXPECT_EQ(hn_support_context_cols(3), 8);
    EXPECT_EQ(hn_support_context_cols(4), 16);
    EXPECT_EQ(hn_support_context_cols(512), 1032);
    for (const Call run : {(Call)hn_support_context_cpu, (Call)hn_support_context_fast}) {
        Host o({HN_F32, HN_F32, 2, 3, 2, 1});
        o.f.assign({1, 2, 30, 40, 5, 6, 7, 8, NAN, NAN, 9, 9});
        std::copy_n((const int32_t[]){4, 9, 4, 4, HN_LABEL_IGNORED, 4}, 6, o.labels.data());
        const auto a = o.args();
        ASSERT_HN_OK(run(&a));
        const float ln2 = std::log(2.0f);
        const std::vector<float> want = {1, 2, 3, 4, ln2, 0, 0, 0, 30, 40, 30, 40,  0,   0, 0, 0,
                                         5, 6, 3, 4, ln2, 0, 0, 0, 7,  8,  8,  8.5, ln2, 0, 0, 0,
                                         0, 0, 0, 0, 0,   0, 0, 0, 9,  9,  8,  8.5, ln2, 0, 0, 0};
        EXPECT_LT(max_abs(o.u.values(), want), 1e-7);
    }
}

/* Labels are names: renamed, the same bits. Images in another order: the rows in that order, but
 * for the order of sums. */
TEST(SupportContextTwin, KnowsNoOrderOfClassesAndImages)
{
    const Shape s = {HN_F32, HN_F32, 1, 30, 20, 0};
    Host o(s), renamed(s), turned(s);
    for (int64_t j = 0; j < s.rows; j++)
        if (renamed.labels.data()[j] != HN_LABEL_IGNORED)
            renamed.labels.data()[j] = 1000 - 3 * renamed.labels.data()[j];
    const auto f = o.f.values();
    for (int64_t j = 0; j < s.rows; j++) {
        turned.labels.data()[j] = o.labels.data()[s.rows - 1 - j];
        for (int64_t c = 0; c < s.features; c++)
            turned.f.set(j, c, f[(size_t)((s.rows - 1 - j) * s.features + c)]);
    }
    const auto a = o.args(), b = renamed.args(), c = turned.args();
    ASSERT_HN_OK(hn_support_context_fast(&a));
    ASSERT_HN_OK(hn_support_context_fast(&b));
    ASSERT_HN_OK(hn_support_context_fast(&c));
    EXPECT_TRUE(same_bits(o.u.values(), renamed.u.values()));
    const auto u = o.u.values(), v = turned.u.values();
    const auto cols = (size_t)hn_support_context_cols(s.features), n = (size_t)s.rows;
    for (size_t j = 0; j < n; j++)
        for (size_t k = 0; k < cols; k++)
            EXPECT_NEAR(u[j * cols + k], v[(n - 1 - j) * cols + k], 1e-6);
}

TEST(SupportContextCheck, NamesWhatIsWrong)
{
    Host o({HN_F32, HN_F32, 2, 3, 8, 0});
    const auto with = [&](auto change) {
        hn_support_context_args a = o.args();
        change(a);
        return hn_support_context_check(&a);
    };
    EXPECT_HN_OK(with([](auto &) {}));
    EXPECT_HN_FAIL(with([](auto &a) { a.labels = nullptr; }), HN_ERR_ARG, "labels is NULL");
    EXPECT_HN_FAIL(with([](auto &a) { a.episodes = 4; }), HN_ERR_SHAPE, "6 rows are no 4 equal");
    EXPECT_HN_FAIL(with([](auto &a) { a.ld_u = 23; }), HN_ERR_SHAPE, "u");
    EXPECT_HN_FAIL(with([](auto &a) { a.f_dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f_dtype");
    EXPECT_HN_FAIL(with([](auto &a) { a.rows = 8194; }), HN_ERR_UNSUPPORTED, "4097 rows");
}

#ifdef HONE_CUDA

class SupportContextCuda : public SupportContext {};

TEST_P(SupportContextCuda, MatchesCpuRepeatsAndRunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    Host want(s);
    const auto a = want.args();
    ASSERT_HN_OK(hn_support_context_cpu(&a));
    Operands<DeviceMatrix, DeviceArray> o(s), again(s);
    const auto b = o.args(), c = again.args();
    ASSERT_HN_OK(hn_support_context_cuda(&b, nullptr));
    EXPECT_LT(rel_l2(o.u.values(), want.u.values()), tolerance(s.u));
    run_captured([&](hn_stream stream) { EXPECT_HN_OK(hn_support_context_cuda(&c, stream)); });
    EXPECT_TRUE(same_bits(again.u.values(), o.u.values()));
}

INSTANTIATE_TEST_SUITE_P(Shapes, SupportContextCuda, ::testing::ValuesIn(kShapes),
                         [](const auto &i) { return name_of(i.param); });
#endif

} // namespace
