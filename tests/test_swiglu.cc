/* kernels/activation: SwiGLU, and the exponential under it. */
#include "kernel_test.h"
#include "kernels/activation/swiglu.h"
#include "onnx_vectors.h"
#include "runtime/base/vecmath.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    hn_dtype dtype;
    int64_t rows, cols;
};

class Swiglu : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    Matrix gate{s.dtype, s.rows, s.cols}, up{s.dtype, s.rows, s.cols, 1};
    Matrix dy{s.dtype, s.rows, s.cols, 4};
    void SetUp() override { gate.normal(1, 0, 4), up.normal(2), dy.normal(3); }
    hn_swiglu_args fwd(Matrix &y)
    {
        return {gate.data(), up.data(), y.data(), s.rows, s.cols,
                gate.ld(),   up.ld(),   y.ld(),   s.dtype};
    }
    hn_swiglu_bwd_args back(Matrix &dgate, Matrix &dup)
    {
        return {gate.data(), up.data(), dy.data(), dgate.data(), dup.data(),
                s.rows,      s.cols,    gate.ld(), up.ld(),      dy.ld(),
                dgate.ld(),  dup.ld(),  s.dtype,   nullptr,      0};
    }
};

TEST_P(Swiglu, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Matrix want(s.dtype, s.rows, s.cols), wg(s.dtype, s.rows, s.cols), wu(s.dtype, s.rows, s.cols);
    const auto a = fwd(want);
    const auto b = back(wg, wu);
    ASSERT_HN_OK(hn_swiglu_fwd_cpu(&a));
    ASSERT_HN_OK(hn_swiglu_bwd_cpu(&b));
    std::vector<float> first[3];
    for (const int threads : {1, 2, 3}) {
        Matrix y(s.dtype, s.rows, s.cols), g(s.dtype, s.rows, s.cols), u(s.dtype, s.rows, s.cols);
        const auto c = fwd(y);
        const auto d = back(g, u);
        on_threads(threads, [&] {
            EXPECT_HN_OK(hn_swiglu_fwd_fast(&c));
            EXPECT_HN_OK(hn_swiglu_bwd_fast(&d));
        });
        const std::vector<float> now[] = {y.values(), g.values(), u.values()};
        for (int k = 0; k < 3; k++) {
            if (threads == 1) first[k] = now[k];
            EXPECT_TRUE(same_bits(now[k], first[k]));
        }
    }
    EXPECT_LT(rel_l2(first[0], want.values()), tolerance(s.dtype));
    EXPECT_LT(rel_l2(first[1], wg.values()), tolerance(s.dtype));
    EXPECT_LT(rel_l2(first[2], wu.values()), tolerance(s.dtype));
}

TEST_P(Swiglu, OutputsMayLieOnInputs)
{
    Matrix y(s.dtype, s.rows, s.cols), g(s.dtype, s.rows, s.cols), u(s.dtype, s.rows, s.cols);
    const auto a = fwd(y);
    const auto b = back(g, u);
    ASSERT_HN_OK(hn_swiglu_fwd_fast(&a));
    ASSERT_HN_OK(hn_swiglu_bwd_fast(&b));
    for (const bool fast : {false, true}) {
        if (!fast) { /* what the twin itself gives without overlap */
            ASSERT_HN_OK(hn_swiglu_fwd_cpu(&a));
            ASSERT_HN_OK(hn_swiglu_bwd_cpu(&b));
        } else {
            ASSERT_HN_OK(hn_swiglu_fwd_fast(&a));
            ASSERT_HN_OK(hn_swiglu_bwd_fast(&b));
        }
        for (Matrix *to : {&gate, &up}) {
            const auto c = fwd(*to);
            ASSERT_HN_OK(fast ? hn_swiglu_fwd_fast(&c) : hn_swiglu_fwd_cpu(&c));
            EXPECT_TRUE(same_bits(to->values(), y.values()));
            SetUp();
        }
        Matrix *const pairs[][2] = {{&gate, &up}, {&up, &gate}, {&dy, &up}, {&gate, &dy}};
        for (const auto &p : pairs) {
            const auto c = back(*p[0], *p[1]);
            ASSERT_HN_OK(fast ? hn_swiglu_bwd_fast(&c) : hn_swiglu_bwd_cpu(&c));
            EXPECT_TRUE(same_bits(p[0]->values(), g.values()));
            EXPECT_TRUE(same_bits(p[1]->values(), u.values()));
            SetUp();
        }
    }
}

TEST_P(Swiglu, BackwardMakesForwardsBitsAgain)
{
    Matrix y(s.dtype, s.rows, s.cols), g(s.dtype, s.rows, s.cols), u(s.dtype, s.rows, s.cols);
    const auto a = fwd(y);
    const auto b = back(g, u);
    for (const bool fast : {false, true}) {
        ASSERT_HN_OK(fast ? hn_swiglu_fwd_fast(&a) : hn_swiglu_fwd_cpu(&a));
        ASSERT_HN_OK(fast ? hn_swiglu_bwd_fast(&b) : hn_swiglu_bwd_cpu(&b));
        Matrix h(s.dtype, s.rows, s.cols, 3), g2(s.dtype, s.rows, s.cols);
        for (Matrix *to : {&h, &dy, &gate, &up}) { /* by itself, then on an input */
            auto c = back(g2, to == &up ? gate : up);
            c.h = to->data(), c.ld_h = to->ld();
            ASSERT_HN_OK(fast ? hn_swiglu_bwd_fast(&c) : hn_swiglu_bwd_cpu(&c));
            EXPECT_TRUE(same_bits(to->values(), y.values()));
            EXPECT_TRUE(same_bits(g2.values(), g.values()));
            EXPECT_TRUE(same_bits((to == &up ? gate : up).values(), u.values()));
            SetUp();
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Swiglu,
                         ::testing::Values(Shape{HN_F32, 1, 1}, Shape{HN_F32, 3, 9},
                                           Shape{HN_F32, 30, 513}, Shape{HN_BF16, 3, 9},
                                           Shape{HN_BF16, 30, 1030}),
                         [](const auto &i) {
                             return case_name("r", i.param.rows, "_c", i.param.cols, i.param.dtype);
                         });

TEST(SwigluTwin, MatchesHandComputedValues)
{
    const float gate[] = {0, 2, -30}, up[] = {5, 3, 1}, dy[] = {1, 2, 1};
    float y[3], dgate[3], dup[3];
    const hn_swiglu_args a = {gate, up, y, 1, 3, 3, 3, 3, HN_F32};
    ASSERT_HN_OK(hn_swiglu_fwd_cpu(&a));
    EXPECT_EQ(y[0], 0);
    EXPECT_FLOAT_EQ(y[1], 5.2847824f); /* 6 / (1 + e^-2) */
    const hn_swiglu_bwd_args b = {gate, up, dy, dgate, dup,    1,       3, 3,
                                  3,    3,  3,  3,     HN_F32, nullptr, 0};
    ASSERT_HN_OK(hn_swiglu_bwd_cpu(&b));
    EXPECT_FLOAT_EQ(dgate[0], 2.5f);       /* 5 * sigmoid(0) */
    EXPECT_FLOAT_EQ(dgate[1], 6.5447062f); /* 6 (f + 2 f (1 - f)), f = 0.88079708 */
    EXPECT_FLOAT_EQ(dup[1], 3.5231883f);
    EXPECT_NEAR(dup[2], -30 * std::exp(-30.0), 1e-18);
}

TEST(SwigluFast, ExtremesStayFinite)
{
    const float gate[] = {-1e30f, -200, 200, 1e30f, -0.0f}, up[] = {1, 1, 1, 1, 1};
    float y[5];
    const hn_swiglu_args a = {gate, up, y, 1, 5, 5, 5, 5, HN_F32};
    ASSERT_HN_OK(hn_swiglu_fwd_fast(&a));
    EXPECT_EQ(std::vector<float>(y, y + 5), (std::vector<float>{0, 0, 200, 1e30f, 0}));
}

TEST(SwigluCheck, NamesWhatIsWrong)
{
    float f[32] = {};
    hn_swiglu_args a = {f, f + 8, f + 16, 2, 3, 3, 3, 3, HN_F32};
    EXPECT_HN_OK(hn_swiglu_check(&a));
    EXPECT_HN_FAIL(hn_swiglu_check(nullptr), HN_ERR_ARG, "args");
    a.up = nullptr;
    EXPECT_HN_FAIL(hn_swiglu_check(&a), HN_ERR_ARG, "up is NULL");
    a.up = f, a.ld_gate = 2;
    EXPECT_HN_FAIL(hn_swiglu_check(&a), HN_ERR_SHAPE, "gate");
    a.ld_gate = 4, a.y = f, a.gate = f;
    EXPECT_HN_FAIL(hn_swiglu_check(&a), HN_ERR_ARG, "in place");
    a.dtype = HN_I64;
    EXPECT_HN_FAIL(hn_swiglu_check(&a), HN_ERR_UNSUPPORTED, "i64");
    hn_swiglu_bwd_args b = {f, f, f, f + 8, f + 16, 2, 3, 3, 3, 3, 3, 3, HN_F32, nullptr, 0};
    EXPECT_HN_OK(hn_swiglu_bwd_check(&b));
    b.dup = b.dgate;
    EXPECT_HN_FAIL(hn_swiglu_bwd_check(&b), HN_ERR_ARG, "the same");
    b.dup = nullptr;
    EXPECT_HN_FAIL(hn_swiglu_bwd_check(&b), HN_ERR_ARG, "dup is NULL");
    b.dup = f + 16, b.h = b.dup, b.ld_h = 3;
    EXPECT_HN_FAIL(hn_swiglu_bwd_check(&b), HN_ERR_ARG, "h lies on");
    b.h = f + 24, b.ld_h = 2;
    EXPECT_HN_FAIL(hn_swiglu_bwd_check(&b), HN_ERR_SHAPE, "of h");
}

/* Swish is SwiGLU with up = 1. */
TEST(SwigluOnnx, SwishVectors)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    const int n = onnx::each(dir, "Swish", [](const onnx::Case &c) {
        ASSERT_EQ(c.number("alpha", 1), 1);
        const auto x = c.in(0)->f32();
        const std::vector<float> one(x.size(), 1.0f);
        std::vector<float> y(x.size());
        const int64_t cols = (int64_t)x.size();
        const hn_swiglu_args a = {x.data(), one.data(), y.data(), 1,     cols,
                                  cols,     cols,       cols,     HN_F32};
        ASSERT_HN_OK(hn_swiglu_fwd_fast(&a));
        EXPECT_LT(max_abs(y, c.out(0)->f32()), 3e-7);
    });
    EXPECT_EQ(n, 1);
}

TEST(Vecmath, ExpIsWithinTwoUlpAndKeepsItsEnds)
{
    double worst = 0;
    for (double x = -103; x < 88.7; x += 0.001371) {
        const float f = (float)x;
        const double want = std::exp((double)f);
        const double ulp = std::ldexp(1.0, std::max(std::ilogb(want), -126) - 23);
        worst = std::max(worst, std::fabs((double)hn_expf(f) - want) / ulp);
    }
    EXPECT_LT(worst, 2.0);
    const float inf = std::numeric_limits<float>::infinity();
    EXPECT_EQ(hn_expf(0), 1.0f);
    EXPECT_EQ(hn_expf(-inf), 0.0f);
    EXPECT_EQ(hn_expf(-1e30f), 0.0f);
    EXPECT_EQ(hn_expf(inf), inf);
    EXPECT_EQ(hn_expf(88.8f), inf);
    EXPECT_TRUE(std::isnan(hn_expf(NAN)));
    EXPECT_EQ(hn_sigmoidf(-inf), 0.0f);
    EXPECT_EQ(hn_sigmoidf(inf), 1.0f);
}

#ifdef HONE_CUDA
/* gap: elements between rows. */
struct CudaShape {
    hn_dtype dtype;
    int64_t rows, cols, gap;
};

/* Operands on the host or on the device, with the same values. */
template <class M>
struct Operands {
    const CudaShape s;
    M gate{s.dtype, s.rows, s.cols, s.gap}, up{s.dtype, s.rows, s.cols, s.gap};
    M dy{s.dtype, s.rows, s.cols, s.gap}, y{s.dtype, s.rows, s.cols, s.gap};
    M dgate{s.dtype, s.rows, s.cols, s.gap}, dup{s.dtype, s.rows, s.cols, s.gap};
    explicit Operands(const CudaShape &shape) : s(shape) { fill(); }
    void fill() { gate.normal(1, 0, 4), up.normal(2), dy.normal(3); }
    hn_swiglu_args fwd(M &to)
    {
        return {gate.data(), up.data(), to.data(), s.rows, s.cols,
                gate.ld(),   up.ld(),   to.ld(),   s.dtype};
    }
    hn_swiglu_bwd_args back(M &g, M &u)
    {
        return {gate.data(), up.data(), dy.data(), g.data(), u.data(), s.rows,  s.cols, gate.ld(),
                up.ld(),     dy.ld(),   g.ld(),    u.ld(),   s.dtype,  nullptr, 0};
    }
};

class SwigluCuda : public ::testing::TestWithParam<CudaShape> {
  protected:
    const CudaShape s = GetParam();
    static void run(Operands<DeviceMatrix> &d, hn_stream stream = nullptr)
    {
        const auto a = d.fwd(d.y);
        const auto b = d.back(d.dgate, d.dup);
        ASSERT_HN_OK(hn_swiglu_fwd_cuda(&a, stream));
        ASSERT_HN_OK(hn_swiglu_bwd_cuda(&b, stream));
    }
};

TEST_P(SwigluCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    Operands<Matrix> h(s);
    Operands<DeviceMatrix> d(s);
    const auto a = h.fwd(h.y);
    const auto b = h.back(h.dgate, h.dup);
    ASSERT_HN_OK(hn_swiglu_fwd_cpu(&a));
    ASSERT_HN_OK(hn_swiglu_bwd_cpu(&b));
    run(d);
    EXPECT_LT(rel_l2(d.y.values(), h.y.values()), tolerance(s.dtype));
    EXPECT_LT(rel_l2(d.dgate.values(), h.dgate.values()), tolerance(s.dtype));
    EXPECT_LT(rel_l2(d.dup.values(), h.dup.values()), tolerance(s.dtype));
}

TEST_P(SwigluCuda, CudaOutputsMayLieOnInputs)
{
    HN_NEED_CUDA();
    Operands<DeviceMatrix> o(s), d(s);
    run(o);
    for (DeviceMatrix *to : {&d.gate, &d.up}) {
        const auto a = d.fwd(*to);
        ASSERT_HN_OK(hn_swiglu_fwd_cuda(&a, nullptr));
        EXPECT_TRUE(same_bits(to->values(), o.y.values()));
        d.fill();
    }
    DeviceMatrix *const in[] = {&d.gate, &d.up, &d.dy};
    for (DeviceMatrix *g : in)
        for (DeviceMatrix *u : in) {
            if (g == u) continue;
            const auto a = d.back(*g, *u);
            ASSERT_HN_OK(hn_swiglu_bwd_cuda(&a, nullptr));
            EXPECT_TRUE(same_bits(g->values(), o.dgate.values()));
            EXPECT_TRUE(same_bits(u->values(), o.dup.values()));
            d.fill();
        }
}

TEST_P(SwigluCuda, CudaBackwardMakesForwardsBitsAgain)
{
    HN_NEED_CUDA();
    Operands<DeviceMatrix> o(s), d(s);
    DeviceMatrix h{s.dtype, s.rows, s.cols, s.gap};
    run(o);
    for (DeviceMatrix *to : {&h, &d.dy, &d.gate, &d.up}) { /* by itself, then on an input */
        DeviceMatrix &dup = to == &d.up ? d.gate : d.up;
        auto a = d.back(d.dgate, dup);
        a.h = to->data(), a.ld_h = to->ld();
        ASSERT_HN_OK(hn_swiglu_bwd_cuda(&a, nullptr));
        EXPECT_TRUE(same_bits(to->values(), o.y.values()));
        EXPECT_TRUE(same_bits(d.dgate.values(), o.dgate.values()));
        EXPECT_TRUE(same_bits(dup.values(), o.dup.values()));
        d.fill();
    }
}

TEST_P(SwigluCuda, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    Operands<DeviceMatrix> a(s), b(s), c(s);
    run(a);
    run(b);
    run_captured([&](hn_stream stream) { run(c, stream); });
    for (Operands<DeviceMatrix> *o : {&b, &c}) {
        EXPECT_TRUE(same_bits(o->y.values(), a.y.values()));
        EXPECT_TRUE(same_bits(o->dgate.values(), a.dgate.values()));
        EXPECT_TRUE(same_bits(o->dup.values(), a.dup.values()));
    }
}

/* Smallest; aligned with a part-filled span; unaligned rows; several blocks. */
INSTANTIATE_TEST_SUITE_P(
    Shapes, SwigluCuda,
    ::testing::Values(CudaShape{HN_F32, 1, 1, 0}, CudaShape{HN_F32, 3, 13, 3},
                      CudaShape{HN_F32, 3, 9, 2}, CudaShape{HN_F32, 30, 520, 0},
                      CudaShape{HN_BF16, 1, 1, 0}, CudaShape{HN_BF16, 3, 13, 3},
                      CudaShape{HN_BF16, 3, 9, 2}, CudaShape{HN_BF16, 30, 1030, 2}),
    [](const auto &i) {
        const CudaShape &s = i.param;
        return case_name("r", s.rows, "_c", s.cols, "_gap", s.gap, s.dtype);
    });

TEST(SwigluCudaEnds, ExtremesStayFinite)
{
    HN_NEED_CUDA();
    DeviceArray<float> gate(std::vector<float>{-1e30f, -200, 200, 1e30f, -0.0f});
    DeviceArray<float> up(std::vector<float>(5, 1.0f)), y(5);
    const hn_swiglu_args a = {gate.data(), up.data(), y.data(), 1, 5, 5, 5, 5, HN_F32};
    ASSERT_HN_OK(hn_swiglu_fwd_cuda(&a, nullptr));
    EXPECT_EQ(y.host(), (std::vector<float>{0, 0, 200, 1e30f, 0}));
}
#endif

} // namespace
