/* kernels/conv: the shortcut without weights of residual networks for CIFAR. */
#include "kernel_test.h"
#include "kernels/conv/shortcut_a.h"
#include "vision_golden.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Case {
    hn_dtype dtype;
    int64_t n, h, w, ci, co, stride, gap;
};

/* Operands on the host or on the device, with the same values. */
template <class M>
struct Operands {
    const hn_shortcut_a_shape s;
    const int64_t rows, out_rows;
    M x, dx, y, dy;
    explicit Operands(const Case &c)
        : s{c.n, c.h, c.w, c.ci, c.co, c.stride, c.dtype}, rows(c.n * c.h * c.w),
          out_rows(c.n * hn_shortcut_a_out(c.h, c.stride) * hn_shortcut_a_out(c.w, c.stride)),
          x(c.dtype, rows, c.ci, c.gap), dx(c.dtype, rows, c.ci, c.gap),
          y(c.dtype, out_rows, c.co, c.gap), dy(c.dtype, out_rows, c.co, c.gap)
    {
        x.normal(1), dy.normal(2);
    }
    hn_shortcut_a_args fwd() { return {s, x.data(), y.data(), x.ld(), y.ld()}; }
    hn_shortcut_a_bwd_args back() { return {s, dy.data(), dx.data(), dy.ld(), dx.ld()}; }
};

void run(Operands<Matrix> &o, bool fast)
{
    const auto a = o.fwd();
    const auto b = o.back();
    ASSERT_HN_OK(fast ? hn_shortcut_a_fwd_fast(&a) : hn_shortcut_a_fwd_cpu(&a));
    ASSERT_HN_OK(fast ? hn_shortcut_a_bwd_fast(&b) : hn_shortcut_a_bwd_cpu(&b));
}

std::vector<Case> cases()
{
    std::vector<Case> all;
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        all.push_back({t, 1, 1, 1, 1, 1, 1, 0});
        all.push_back({t, 2, 6, 4, 16, 32, 2, 0}); /* vectors; zeros are whole spans */
        all.push_back({t, 2, 5, 7, 24, 40, 2, 8});
        all.push_back({t, 2, 5, 7, 16, 24, 2, 0}); /* zeros are half a span */
        all.push_back({t, 3, 7, 5, 12, 20, 3, 1});
        all.push_back({t, 9, 16, 16, 16, 16, 1, 0});
    }
    return all;
}

std::string name_of(const Case &c)
{
    return case_name("n", c.n, "_h", c.h, "_w", c.w, "_c", c.ci, "_to_", c.co, "_s", c.stride,
                     "_gap", c.gap, c.dtype);
}

class ShortcutA : public ::testing::TestWithParam<Case> {};

TEST_P(ShortcutA, FastGivesTheBitsOfTheTwinOnAnyThreads)
{
    Operands<Matrix> want(GetParam());
    run(want, false);
    for (const int threads : {1, 2, 3}) {
        Operands<Matrix> now(GetParam());
        on_threads(threads, [&] { run(now, true); });
        EXPECT_TRUE(same_bits(now.y.values(), want.y.values()));
        EXPECT_TRUE(same_bits(now.dx.values(), want.dx.values()));
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, ShortcutA, ::testing::ValuesIn(cases()),
                         [](const auto &i) { return name_of(i.param); });

TEST(ShortcutAGolden, MatchesPyTorch)
{
    for (const char *name : {"halve", "odd", "same"}) {
        SCOPED_TRACE(name);
        const GoldenCase g(std::string("shortcut_") + name);
        const auto shape = g.numbers("shape");
        Operands<Matrix> o({HN_F32, shape[0], shape[1], shape[2], shape[3], g.number("channels"),
                            g.number("stride"), 2});
        o.x.assign(g.floats("x"));
        o.dy.assign(g.floats("dy"));
        run(o, false);
        EXPECT_EQ(o.y.values(), g.floats("y"));
        EXPECT_EQ(o.dx.values(), g.floats("dx"));
    }
}

TEST(ShortcutATwin, MatchesHandComputedValues)
{
    const float x[] = {1, 2, 3, 4, 5, 6}, dy[] = {1, 2, 3, 4, 5, 6}; /* 2 x 3, one channel to 3 */
    float y[6], dx[6];
    const hn_shortcut_a_shape s = {1, 2, 3, 1, 3, 2, HN_F32};
    const hn_shortcut_a_args a = {s, x, y, 1, 3};
    const hn_shortcut_a_bwd_args b = {s, dy, dx, 3, 1};
    ASSERT_HN_OK(hn_shortcut_a_fwd_cpu(&a));
    ASSERT_HN_OK(hn_shortcut_a_bwd_cpu(&b));
    EXPECT_EQ(std::vector<float>(y, y + 6), (std::vector<float>{0, 1, 0, 0, 3, 0}));
    EXPECT_EQ(std::vector<float>(dx, dx + 6), (std::vector<float>{2, 0, 5, 0, 0, 0}));
}

TEST(ShortcutACheck, NamesWhatIsWrong)
{
    float f[64] = {};
    hn_shortcut_a_args a = {{1, 2, 2, 2, 4, 2, HN_F32}, f, f + 32, 2, 4};
    EXPECT_HN_OK(hn_shortcut_a_check(&a));
    EXPECT_HN_FAIL(hn_shortcut_a_check(nullptr), HN_ERR_ARG, "args");
    a.s.co = 5;
    EXPECT_HN_FAIL(hn_shortcut_a_check(&a), HN_ERR_SHAPE, "from 2 to 5 channels");
    a.s.co = 1;
    EXPECT_HN_FAIL(hn_shortcut_a_check(&a), HN_ERR_SHAPE, "from 2 to 1 channels");
    a.s.co = 4, a.s.stride = 0;
    EXPECT_HN_FAIL(hn_shortcut_a_check(&a), HN_ERR_SHAPE, "stride 0");
    a.s.stride = 2, a.ld_y = 3;
    EXPECT_HN_FAIL(hn_shortcut_a_check(&a), HN_ERR_SHAPE, "of y");
    a.s.dtype = HN_F16;
    EXPECT_HN_FAIL(hn_shortcut_a_check(&a), HN_ERR_UNSUPPORTED, "f16");
    hn_shortcut_a_bwd_args b = {{1, 2, 2, 2, 4, 2, HN_F32}, f, nullptr, 4, 2};
    EXPECT_HN_FAIL(hn_shortcut_a_bwd_check(&b), HN_ERR_ARG, "dx is NULL");
    b.dx = f + 32;
    EXPECT_HN_OK(hn_shortcut_a_bwd_check(&b));
    b.ld_dy = 3;
    EXPECT_HN_FAIL(hn_shortcut_a_bwd_check(&b), HN_ERR_SHAPE, "of dy");
}

#ifdef HONE_CUDA
void run(Operands<DeviceMatrix> &o, hn_stream stream = nullptr)
{
    const auto a = o.fwd();
    const auto b = o.back();
    ASSERT_HN_OK(hn_shortcut_a_fwd_cuda(&a, stream));
    ASSERT_HN_OK(hn_shortcut_a_bwd_cuda(&b, stream));
}

class ShortcutACuda : public ::testing::TestWithParam<Case> {};

TEST_P(ShortcutACuda, CudaGivesTheBitsOfTheCpuAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    Operands<Matrix> h(GetParam());
    Operands<DeviceMatrix> d(GetParam()), c(GetParam());
    run(h, false);
    run(d);
    run_captured([&](hn_stream stream) { run(c, stream); });
    for (Operands<DeviceMatrix> *o : {&d, &c}) {
        EXPECT_TRUE(same_bits(o->y.values(), h.y.values()));
        EXPECT_TRUE(same_bits(o->dx.values(), h.dx.values()));
    }
}

INSTANTIATE_TEST_SUITE_P(Cases, ShortcutACuda, ::testing::ValuesIn(cases()),
                         [](const auto &i) { return name_of(i.param); });
#endif

} // namespace
