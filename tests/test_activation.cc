/* kernels/activation: functions of one value. */
#include "kernel_test.h"
#include "kernels/activation/activation.h"
#include "vision_golden.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    int kind;
    hn_dtype dtype;
    int64_t rows, cols, gap;
};

std::string name_of(const Shape &s)
{
    return case_name(hn_activation_name(s.kind), "_r", s.rows, "_c", s.cols, "_gap", s.gap,
                     s.dtype);
}

/* Operands on the host or on the device, with the same values. */
template <class M>
struct Operands {
    const Shape s;
    M x = make(), dy = make(), y = make(), dx = make(), again = make();
    explicit Operands(const Shape &shape) : s(shape) { fill(); }
    M make() const { return M(s.dtype, s.rows, s.cols, s.gap); }
    void fill() { x.normal(1, 0, 3), dy.normal(2); }
    hn_activation_args fwd(M &to)
    {
        return {x.data(), to.data(), s.rows, s.cols, x.ld(), to.ld(), s.dtype, s.kind};
    }
    hn_activation_bwd_args back(M &of, M &to, M *y_to)
    {
        return {of.data(),
                dy.data(),
                to.data(),
                s.rows,
                s.cols,
                of.ld(),
                dy.ld(),
                to.ld(),
                s.dtype,
                s.kind,
                y_to ? y_to->data() : nullptr,
                y_to ? y_to->ld() : 0};
    }
};

using Fwd = hn_status(const hn_activation_args *);
using Bwd = hn_status(const hn_activation_bwd_args *);

void run(Operands<Matrix> &o, Fwd *fwd, Bwd *bwd)
{
    const auto a = o.fwd(o.y);
    const auto b = o.back(o.x, o.dx, &o.again);
    ASSERT_HN_OK(fwd(&a));
    ASSERT_HN_OK(bwd(&b));
}

class Activation : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
};

TEST_P(Activation, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Operands<Matrix> want(s), first(s);
    run(want, hn_activation_fwd_cpu, hn_activation_bwd_cpu);
    run(first, hn_activation_fwd_fast, hn_activation_bwd_fast);
    EXPECT_LT(rel_l2(first.y.values(), want.y.values()), tolerance(s.dtype));
    EXPECT_LT(rel_l2(first.dx.values(), want.dx.values()), tolerance(s.dtype));
    for (const int threads : {1, 2, 3}) {
        Operands<Matrix> now(s);
        on_threads(threads, [&] { run(now, hn_activation_fwd_fast, hn_activation_bwd_fast); });
        EXPECT_TRUE(same_bits(now.y.values(), first.y.values()));
        EXPECT_TRUE(same_bits(now.dx.values(), first.dx.values()));
    }
}

TEST_P(Activation, BackwardMakesForwardsBitsAgain)
{
    for (const bool fast : {false, true}) {
        Operands<Matrix> o(s);
        run(o, fast ? hn_activation_fwd_fast : hn_activation_fwd_cpu,
            fast ? hn_activation_bwd_fast : hn_activation_bwd_cpu);
        EXPECT_TRUE(same_bits(o.again.values(), o.y.values()));
    }
}

TEST_P(Activation, OutputsMayLieOnInputs)
{
    for (const bool fast : {false, true}) {
        Fwd *const fwd = fast ? hn_activation_fwd_fast : hn_activation_fwd_cpu;
        Bwd *const bwd = fast ? hn_activation_bwd_fast : hn_activation_bwd_cpu;
        Operands<Matrix> o(s), in(s);
        run(o, fwd, bwd);
        const auto a = in.fwd(in.x);
        ASSERT_HN_OK(fwd(&a));
        EXPECT_TRUE(same_bits(in.x.values(), o.y.values()));
        Matrix *const pairs[][2] = {{&in.x, &in.dy}, {&in.dy, &in.x}, {&in.x, nullptr}};
        for (const auto &p : pairs) {
            in.fill();
            const auto b = in.back(in.x, *p[0], p[1]);
            ASSERT_HN_OK(bwd(&b));
            EXPECT_TRUE(same_bits(p[0]->values(), o.dx.values()));
            EXPECT_TRUE(p[1] == nullptr || same_bits(p[1]->values(), o.y.values()));
        }
    }
}

std::vector<Shape> shapes()
{
    std::vector<Shape> all;
    for (int kind = 0; kind < HN_ACT_COUNT; kind++)
        for (const hn_dtype t : {HN_F32, HN_BF16})
            for (const Shape &s : {Shape{kind, t, 1, 1, 0}, Shape{kind, t, 3, 9, 2},
                                   Shape{kind, t, 3, 13, 3}, Shape{kind, t, 30, 1030, 2}})
                all.push_back(s);
    return all;
}

INSTANTIATE_TEST_SUITE_P(Shapes, Activation, ::testing::ValuesIn(shapes()),
                         [](const auto &i) { return name_of(i.param); });

/* Backward of RELU by y gives the bits that x gives. */
TEST(ActivationRelu, BackwardNeedsOnlyTheResult)
{
    for (const Shape &s : shapes())
        for (Bwd *const bwd : {hn_activation_bwd_cpu, hn_activation_bwd_fast}) {
            if (s.kind != HN_ACT_RELU) continue;
            Operands<Matrix> o(s);
            run(o, hn_activation_fwd_cpu, bwd);
            Matrix dx = o.make();
            const auto b = o.back(o.y, dx, nullptr);
            ASSERT_HN_OK(bwd(&b));
            EXPECT_TRUE(same_bits(dx.values(), o.dx.values()));
        }
}

/* PyTorch computes in fp32 as well: a few ulp of values up to 30; 1 - tanh^2 loses some more. */
TEST(ActivationGolden, MatchesPyTorch)
{
    for (int kind = 0; kind < HN_ACT_COUNT; kind++) {
        SCOPED_TRACE(hn_activation_name(kind));
        const GoldenCase c(std::string("act_") + hn_activation_name(kind));
        const auto x = c.floats("x"), dy = c.floats("dy");
        const int64_t n = (int64_t)x.size();
        ASSERT_GT(n, 0);
        for (const bool fast : {false, true}) {
            std::vector<float> y(x.size()), dx(x.size());
            const hn_activation_args a = {x.data(), y.data(), 1, n, n, n, HN_F32, kind};
            const hn_activation_bwd_args b = {x.data(), dy.data(), dx.data(), 1,    n,       n,
                                              n,        n,         HN_F32,    kind, nullptr, 0};
            ASSERT_HN_OK(fast ? hn_activation_fwd_fast(&a) : hn_activation_fwd_cpu(&a));
            ASSERT_HN_OK(fast ? hn_activation_bwd_fast(&b) : hn_activation_bwd_cpu(&b));
            EXPECT_LT(rel_l2(y, c.floats("y")), 3e-7);
            EXPECT_LT(max_abs(y, c.floats("y")), 2e-6);
            EXPECT_LT(max_abs(dx, c.floats("dx")), 4e-6);
        }
    }
}

TEST(ActivationTwin, MatchesHandComputedValues)
{
    const float x[] = {-2, 0, 1}, dy[] = {3, 1, 2};
    float y[3], dx[3];
    hn_activation_args a = {x, y, 1, 3, 3, 3, HN_F32, HN_ACT_RELU};
    hn_activation_bwd_args b = {x, dy, dx, 1, 3, 3, 3, 3, HN_F32, HN_ACT_RELU, nullptr, 0};
    ASSERT_HN_OK(hn_activation_fwd_cpu(&a));
    ASSERT_HN_OK(hn_activation_bwd_cpu(&b));
    EXPECT_EQ(std::vector<float>(y, y + 3), (std::vector<float>{0, 0, 1}));
    EXPECT_EQ(std::vector<float>(dx, dx + 3), (std::vector<float>{0, 0, 2}));
    a.kind = b.kind = HN_ACT_GELU;
    ASSERT_HN_OK(hn_activation_fwd_cpu(&a));
    ASSERT_HN_OK(hn_activation_bwd_cpu(&b));
    EXPECT_FLOAT_EQ(y[2], 0.84134474f);      /* P(1) */
    EXPECT_FLOAT_EQ(dx[1], 0.5f);            /* P(0) */
    EXPECT_FLOAT_EQ(dx[2], 2 * 1.0833155f);  /* P(1) + density(1) */
    EXPECT_FLOAT_EQ(y[0], -2 * 0.02275013f); /* P(-2) */
}

TEST(ActivationFast, TheNormalDistributionIsWithinItsPromise)
{
    double worst = 0;
    for (double v = -12; v < 12; v += 0.00137) {
        const float x = (float)v;
        float y;
        const hn_activation_args a = {&x, &y, 1, 1, 1, 1, HN_F32, HN_ACT_GELU};
        ASSERT_HN_OK(hn_activation_fwd_fast(&a));
        const double want = 0.5 * std::erfc(-(double)x / std::sqrt(2.0));
        worst = std::max(worst, std::fabs((double)y / (double)x - want));
    }
    EXPECT_LT(worst, 1.2e-7); /* the rounding of y comes on top */
}

/* Far from 0: no overflow inside, and NaN stays NaN. */
void expect_ends(Fwd *fwd, Bwd *bwd, int kind)
{
    const float x[] = {-1e30f, -200, 200, 1e30f, NAN}, dy[] = {1, 1, 1, 1, 1};
    float y[5], dx[5];
    const hn_activation_args a = {x, y, 1, 5, 5, 5, HN_F32, kind};
    const hn_activation_bwd_args b = {x, dy, dx, 1, 5, 5, 5, 5, HN_F32, kind, nullptr, 0};
    ASSERT_HN_OK(fwd(&a));
    ASSERT_HN_OK(bwd(&b));
    const float low = kind == HN_ACT_ELU ? -1 : 0;
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{low, low, 200, 1e30f}));
    EXPECT_EQ(std::vector<float>(dx, dx + 4), (std::vector<float>{0, 0, 1, 1}));
    EXPECT_TRUE(std::isnan(y[4]));
    EXPECT_TRUE(kind == HN_ACT_RELU || std::isnan(dx[4]));
}

TEST(ActivationEnds, StayFinite)
{
    for (int kind = 0; kind < HN_ACT_COUNT; kind++) {
        SCOPED_TRACE(hn_activation_name(kind));
        expect_ends(hn_activation_fwd_cpu, hn_activation_bwd_cpu, kind);
        expect_ends(hn_activation_fwd_fast, hn_activation_bwd_fast, kind);
    }
}

TEST(ActivationCheck, NamesWhatIsWrong)
{
    float f[32] = {};
    hn_activation_args a = {f, f + 8, 2, 3, 3, 3, HN_F32, HN_ACT_GELU};
    EXPECT_HN_OK(hn_activation_check(&a));
    EXPECT_HN_FAIL(hn_activation_check(nullptr), HN_ERR_ARG, "args");
    a.kind = HN_ACT_COUNT;
    EXPECT_HN_FAIL(hn_activation_check(&a), HN_ERR_UNSUPPORTED, "no kind 6");
    EXPECT_STREQ(hn_activation_name(a.kind), "?");
    a.kind = 0, a.ld_y = 2;
    EXPECT_HN_FAIL(hn_activation_check(&a), HN_ERR_SHAPE, "of y");
    a.ld_y = 4, a.y = f;
    EXPECT_HN_FAIL(hn_activation_check(&a), HN_ERR_ARG, "in place");
    a.dtype = HN_F16;
    EXPECT_HN_FAIL(hn_activation_check(&a), HN_ERR_UNSUPPORTED, "f16");
    hn_activation_bwd_args b = {f, f + 8, f + 16, 2, 3, 3, 3, 3, HN_F32, 0, nullptr, 0};
    EXPECT_HN_OK(hn_activation_bwd_check(&b));
    b.y = b.dx, b.ld_y = 3;
    EXPECT_HN_FAIL(hn_activation_bwd_check(&b), HN_ERR_ARG, "y lies on dx");
    b.y = f + 24, b.dy = nullptr;
    EXPECT_HN_FAIL(hn_activation_bwd_check(&b), HN_ERR_ARG, "dy is NULL");
    b.dy = f + 8, b.ld_y = 2;
    EXPECT_HN_FAIL(hn_activation_bwd_check(&b), HN_ERR_SHAPE, "of y");
    b.ld_y = 3, b.kind = -1;
    EXPECT_HN_FAIL(hn_activation_bwd_check(&b), HN_ERR_UNSUPPORTED, "no kind -1");
}

#ifdef HONE_CUDA
void run(Operands<DeviceMatrix> &o, hn_stream stream = nullptr)
{
    const auto a = o.fwd(o.y);
    const auto b = o.back(o.x, o.dx, &o.again);
    ASSERT_HN_OK(hn_activation_fwd_cuda(&a, stream));
    ASSERT_HN_OK(hn_activation_bwd_cuda(&b, stream));
}

class ActivationCuda : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
};

/* bf16: the approximations of the special function unit lie far below its rounding. */
TEST_P(ActivationCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    Operands<Matrix> h(s);
    Operands<DeviceMatrix> d(s);
    run(h, hn_activation_fwd_cpu, hn_activation_bwd_cpu);
    run(d);
    EXPECT_LT(rel_l2(d.y.values(), h.y.values()), tolerance(s.dtype));
    EXPECT_LT(rel_l2(d.dx.values(), h.dx.values()), tolerance(s.dtype));
    EXPECT_TRUE(same_bits(d.again.values(), d.y.values()));
}

TEST_P(ActivationCuda, CudaOutputsMayLieOnInputs)
{
    HN_NEED_CUDA();
    Operands<DeviceMatrix> o(s), in(s);
    run(o);
    const auto a = in.fwd(in.x);
    ASSERT_HN_OK(hn_activation_fwd_cuda(&a, nullptr));
    EXPECT_TRUE(same_bits(in.x.values(), o.y.values()));
    DeviceMatrix *const pairs[][2] = {{&in.x, &in.dy}, {&in.dy, &in.x}, {&in.x, nullptr}};
    for (const auto &p : pairs) {
        in.fill();
        const auto b = in.back(in.x, *p[0], p[1]);
        ASSERT_HN_OK(hn_activation_bwd_cuda(&b, nullptr));
        EXPECT_TRUE(same_bits(p[0]->values(), o.dx.values()));
        EXPECT_TRUE(p[1] == nullptr || same_bits(p[1]->values(), o.y.values()));
    }
}

TEST_P(ActivationCuda, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    Operands<DeviceMatrix> a(s), b(s), c(s);
    run(a);
    run(b);
    run_captured([&](hn_stream stream) { run(c, stream); });
    for (Operands<DeviceMatrix> *o : {&b, &c}) {
        EXPECT_TRUE(same_bits(o->y.values(), a.y.values()));
        EXPECT_TRUE(same_bits(o->dx.values(), a.dx.values()));
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ActivationCuda, ::testing::ValuesIn(shapes()),
                         [](const auto &i) { return name_of(i.param); });

TEST(ActivationCudaEnds, StayFinite)
{
    HN_NEED_CUDA();
    for (int kind = 0; kind < HN_ACT_COUNT; kind++)
        for (const hn_dtype t : {HN_F32, HN_BF16}) {
            SCOPED_TRACE(hn_activation_name(kind));
            DeviceMatrix x(t, 1, 4, 0), dy(t, 1, 4, 0), y(t, 1, 4, 0), dx(t, 1, 4, 0);
            x.assign({-1e30f, -200, 200, 1e30f});
            dy.assign({1, 1, 1, 1});
            const hn_activation_args a = {x.data(), y.data(), 1, 4, 4, 4, t, kind};
            const hn_activation_bwd_args b = {x.data(), dy.data(), dx.data(), 1,    4,       4,
                                              4,        4,         t,         kind, nullptr, 0};
            ASSERT_HN_OK(hn_activation_fwd_cuda(&a, nullptr));
            ASSERT_HN_OK(hn_activation_bwd_cuda(&b, nullptr));
            const auto in = x.values();
            const float low = kind == HN_ACT_ELU ? -1 : 0;
            EXPECT_EQ(y.values(), (std::vector<float>{low, low, in[2], in[3]}));
            EXPECT_EQ(dx.values(), (std::vector<float>{0, 0, 1, 1}));
        }
}
#endif

} // namespace
