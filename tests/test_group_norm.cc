/* kernels/norm: group normalisation. */
#include "kernels/norm/group_norm.h"
#include "norm_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    hn_dtype dtype, param;
    int64_t images, pixels, cols, groups, gap, replicas; /* gap: elements between rows */
};

std::string name_of(const Shape &s)
{
    return case_name("n", s.images, "_p", s.pixels, "_c", s.cols, "_g", s.groups, "_gap", s.gap,
                     "_r", s.replicas, s.dtype, s.param);
}

/* Operands on the host or on the device, with the same values. */
template <class M>
struct Operands {
    const Shape s;
    const int64_t rows = s.images * s.pixels, r = s.replicas ? s.replicas : 1;
    const int64_t units = s.images * s.groups;
    M x{s.dtype, rows, s.cols, s.gap}, y{s.dtype, rows, s.cols, s.gap};
    M dy{s.dtype, rows, s.cols, s.gap}, dx{s.dtype, rows, s.cols, s.gap};
    M gain{s.param, r, s.cols, s.gap}, bias{HN_F32, r, s.cols, 1};
    M mean{HN_F32, 1, units, 0}, rstd{HN_F32, 1, units, 0};
    M dgain{HN_F32, r, s.cols, 5}, dbias{HN_F32, r, s.cols, 2};

    explicit Operands(const Shape &shape) : s(shape)
    {
        x.normal(1, 0.5f), gain.normal(3, 1, 0.3f), bias.normal(4), dy.normal(5);
        dgain.normal(7), dbias.normal(8);
    }
    hn_group_norm_args fwd()
    {
        hn_group_norm_args a = {};
        a.x = x.data(), a.gain = gain.data(), a.bias = bias.data(), a.y = y.data();
        a.mean = mean.f32(), a.rstd = rstd.f32(), a.images = s.images, a.pixels = s.pixels;
        a.cols = s.cols, a.groups = s.groups, a.ld_x = x.ld(), a.ld_y = y.ld();
        a.replicas = s.replicas, a.gain_stride = gain.ld(), a.bias_stride = bias.ld();
        a.dtype = s.dtype, a.gain_dtype = s.param, a.bias_dtype = HN_F32, a.eps = 1e-5f;
        return a;
    }
    hn_group_norm_bwd_args back()
    {
        hn_group_norm_bwd_args a = {};
        a.x = x.data(), a.gain = gain.data(), a.mean = mean.f32(), a.rstd = rstd.f32();
        a.dy = dy.data(), a.dx = dx.data(), a.dgain = dgain.f32(), a.dbias = dbias.f32();
        a.images = s.images, a.pixels = s.pixels, a.cols = s.cols, a.groups = s.groups;
        a.ld_x = x.ld(), a.ld_dy = dy.ld(), a.ld_dx = dx.ld(), a.replicas = s.replicas;
        a.gain_stride = gain.ld(), a.dgain_stride = dgain.ld(), a.dbias_stride = dbias.ld();
        a.dtype = s.dtype, a.gain_dtype = s.param;
        return a;
    }
    std::vector<std::vector<float>> results()
    {
        return {y.values(),    dx.values(),    mean.values(),
                rstd.values(), dgain.values(), dbias.values()};
    }
};
using Host = Operands<Matrix>;

void expect_same(const std::vector<std::vector<float>> &a, const std::vector<std::vector<float>> &b)
{
    ASSERT_EQ(a.size(), b.size());
    for (size_t k = 0; k < a.size(); k++) EXPECT_TRUE(same_bits(a[k], b[k])) << "result " << k;
}

/* Of two values a group all of dx cancels: an absolute bound. */
void expect_near(const Shape &s, const std::vector<std::vector<float>> &got,
                 const std::vector<std::vector<float>> &want)
{
    ASSERT_EQ(got.size(), want.size());
    for (size_t k = 0; k < got.size(); k++) {
        if (k == 1 && s.pixels * s.cols == 2 * s.groups)
            EXPECT_LT(max_abs(got[k], want[k]), 1e-5);
        else
            EXPECT_LT(rel_l2(got[k], want[k]), k < 2 ? tolerance(s.dtype) : 5e-6) << "result " << k;
    }
}

hn_status fwd_fast(const hn_group_norm_args &a)
{
    Scratch scratch(hn_group_norm_fwd_fast_scratch(&a));
    return hn_group_norm_fwd_fast(&a, scratch.data());
}

hn_status bwd_fast(const hn_group_norm_bwd_args &a)
{
    Scratch scratch(hn_group_norm_bwd_fast_scratch(&a));
    return hn_group_norm_bwd_fast(&a, scratch.data());
}

class GroupNorm : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
};

TEST_P(GroupNorm, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Host want(s);
    const auto a = want.fwd();
    ASSERT_HN_OK(hn_group_norm_fwd_cpu(&a));
    const auto b = want.back();
    ASSERT_HN_OK(hn_group_norm_bwd_cpu(&b));
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 3}) {
        Host o(s);
        on_threads(threads, [&] {
            EXPECT_HN_OK(fwd_fast(o.fwd()));
            EXPECT_HN_OK(bwd_fast(o.back()));
        });
        if (first.empty()) first = o.results();
        expect_same(o.results(), first);
    }
    expect_near(s, first, want.results());
}

/* y on x, dx on dy and on x; each gradient by itself. */
template <class M, class Forward, class Backward>
void expect_in_place_and_alone(const Shape &s, Forward forward, Backward backward)
{
    Operands<M> o(s), p(s);
    forward(o.fwd());
    backward(o.back());
    auto a = p.fwd();
    a.y = p.x.data();
    forward(a);
    EXPECT_TRUE(same_bits(p.x.values(), o.y.values()));
    for (const bool on_dy : {true, false}) {
        Operands<M> q(s);
        forward(q.fwd());
        auto b = q.back();
        b.dx = on_dy ? q.dy.data() : q.x.data();
        backward(b);
        EXPECT_TRUE(same_bits((on_dy ? q.dy : q.x).values(), o.dx.values())) << on_dy;
        EXPECT_TRUE(same_bits(q.dgain.values(), o.dgain.values())) << on_dy;
    }
    Operands<M> q(s);
    forward(q.fwd());
    auto dx = q.back(), gain = q.back(), bias = q.back();
    dx.dgain = dx.dbias = nullptr;
    backward(dx);
    EXPECT_TRUE(same_bits(q.dx.values(), o.dx.values()));
    gain.dx = nullptr, gain.dbias = nullptr;
    backward(gain);
    EXPECT_TRUE(same_bits(q.dgain.values(), o.dgain.values()));
    bias.dx = nullptr, bias.dgain = nullptr;
    backward(bias);
    EXPECT_TRUE(same_bits(q.dbias.values(), o.dbias.values()));
}

TEST_P(GroupNorm, OutputsMayLieOnInputsAndGradientsMayBeLeftOut)
{
    expect_in_place_and_alone<Matrix>(
        s, [](const hn_group_norm_args &a) { ASSERT_HN_OK(hn_group_norm_fwd_cpu(&a)); },
        [](const hn_group_norm_bwd_args &a) { ASSERT_HN_OK(hn_group_norm_bwd_cpu(&a)); });
    expect_in_place_and_alone<Matrix>(
        s, [](const hn_group_norm_args &a) { ASSERT_HN_OK(fwd_fast(a)); },
        [](const hn_group_norm_bwd_args &a) { ASSERT_HN_OK(bwd_fast(a)); });
}

/* Smallest, every channel and all channels a group, groups across blocks of columns, several runs
 * an image, more images than runs, replicas. */
INSTANTIATE_TEST_SUITE_P(Shapes, GroupNorm,
                         ::testing::Values(Shape{HN_F32, HN_F32, 1, 2, 1, 1, 0, 0},
                                           Shape{HN_F32, HN_F32, 3, 9, 6, 3, 2, 0},
                                           Shape{HN_F32, HN_BF16, 2, 49, 5, 5, 3, 0},
                                           Shape{HN_F32, HN_F32, 4, 1, 8, 1, 0, 2},
                                           Shape{HN_F32, HN_F32, 2, 200, 12, 4, 0, 0},
                                           Shape{HN_BF16, HN_BF16, 2, 36, 1026, 6, 2, 0},
                                           Shape{HN_BF16, HN_F32, 90, 4, 64, 32, 8, 3}),
                         [](const auto &i) { return name_of(i.param); });

TEST(GroupNormTwin, MatchesHandComputedGroups)
{
    /* group 0 is 1, 3, 1, 3: mean 2, deviation 1; group 1 is -4, 4: mean 0, deviation 4 */
    const float x[] = {1, 3, -4, 4, 1, 3, 4, -4}, gain[] = {1, 2, 1, 4}, bias[] = {0, 1, 0, 0};
    float y[8], mean[2], rstd[2];
    hn_group_norm_args a = {};
    a.x = x, a.gain = gain, a.bias = bias, a.y = y, a.mean = mean, a.rstd = rstd;
    a.images = 1, a.pixels = 2, a.cols = a.ld_x = a.ld_y = 4, a.groups = 2, a.eps = 1e-20f;
    ASSERT_HN_OK(hn_group_norm_fwd_cpu(&a));
    EXPECT_EQ(std::vector<float>(y, y + 8), (std::vector<float>{-1, 3, -1, 4, -1, 3, 1, -4}));
    EXPECT_EQ(std::vector<float>(mean, mean + 2), (std::vector<float>{2, 0}));
    EXPECT_EQ(std::vector<float>(rstd, rstd + 2), (std::vector<float>{1, 0.25f}));

    /* group 0: h = {1, 0; 0, 0}, mean 1/4, mean(h z) = -1/4; group 1: h = 0 */
    const float dy[] = {1, 0, 0, 0, 0, 0, 0, 0};
    float dx[8], dgain[] = {5, 5, 5, 5}, dbias[4] = {};
    hn_group_norm_bwd_args b = {};
    b.x = x, b.gain = gain, b.mean = mean, b.rstd = rstd, b.dy = dy, b.dx = dx, b.dgain = dgain;
    b.dbias = dbias, b.images = 1, b.pixels = 2, b.cols = b.ld_x = b.ld_dy = b.ld_dx = 4;
    b.groups = 2;
    ASSERT_HN_OK(hn_group_norm_bwd_cpu(&b));
    EXPECT_EQ(std::vector<float>(dx, dx + 8), (std::vector<float>{0.5f, 0, 0, 0, -0.5f, 0, 0, 0}));
    EXPECT_EQ(std::vector<float>(dgain, dgain + 4), (std::vector<float>{4, 5, 5, 5}));
    EXPECT_EQ(std::vector<float>(dbias, dbias + 4), (std::vector<float>{1, 0, 0, 0}));
}

/* PyTorch's numbers; run goes forward and backward. */
template <class M, class Run>
void expect_pytorch(Run run)
{
    for (const char *name : {"group_3", "group_1", "group_instance"})
        for (const hn_dtype t : {HN_F32, HN_BF16}) {
            SCOPED_TRACE(case_name(name, t));
            const NormGolden g(name);
            const auto shape = g.values("shape");
            const int64_t cols = (int64_t)shape[3], pixels = (int64_t)(shape[1] * shape[2]);
            const Shape s = {
                t, HN_F32, (int64_t)shape[0], pixels, cols, (int64_t)g.number("groups"), 0, 0};
            Operands<M> o(s);
            const std::vector<float> zeros((size_t)cols);
            o.x.assign(g.values("x")), o.dy.assign(g.values("dy"));
            o.gain.assign(g.values("gain")), o.bias.assign(g.values("bias"));
            o.dgain.assign(zeros), o.dbias.assign(zeros);
            auto a = o.fwd();
            a.eps = g.number("eps");
            run(a, o.back());
            const double most = golden_tolerance(t);
            EXPECT_LT(rel_l2(o.y.values(), g.values("y")), most);
            EXPECT_LT(rel_l2(o.dx.values(), g.values("dx")), most);
            EXPECT_LT(rel_l2(o.dgain.values(), g.values("dgain")), most);
            EXPECT_LT(rel_l2(o.dbias.values(), g.values("dbias")), most);
        }
}

TEST(GroupNormTwin, MatchesPyTorch)
{
    expect_pytorch<Matrix>([](const hn_group_norm_args &a, const hn_group_norm_bwd_args &b) {
        ASSERT_HN_OK(hn_group_norm_fwd_cpu(&a));
        ASSERT_HN_OK(hn_group_norm_bwd_cpu(&b));
    });
}

TEST(GroupNormFast, MatchesPyTorch)
{
    expect_pytorch<Matrix>([](const hn_group_norm_args &a, const hn_group_norm_bwd_args &b) {
        ASSERT_HN_OK(fwd_fast(a));
        ASSERT_HN_OK(bwd_fast(b));
    });
}

TEST(GroupNormCheck, NamesWhatIsWrong)
{
    float f[64] = {};
    hn_group_norm_args a = {};
    a.x = f, a.gain = f, a.bias = f, a.y = f + 16, a.mean = f + 32, a.rstd = f + 40;
    a.images = 2, a.pixels = 2, a.cols = a.ld_x = a.ld_y = 4, a.groups = 2, a.eps = 1e-5f;
    EXPECT_HN_OK(hn_group_norm_check(&a));
    auto with = [&](auto change) {
        hn_group_norm_args b = a;
        change(b);
        return hn_group_norm_check(&b);
    };
    EXPECT_HN_FAIL(hn_group_norm_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.y = nullptr; }), HN_ERR_ARG, "y is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.eps = NAN; }), HN_ERR_ARG, "eps nan");
    EXPECT_HN_FAIL(with([](auto &b) { b.images = 0; }), HN_ERR_SHAPE, "-1");
    EXPECT_HN_FAIL(with([](auto &b) { b.groups = 3; }), HN_ERR_SHAPE,
                   "4 columns do not split into 3 groups");
    EXPECT_HN_FAIL(with([](auto &b) { b.pixels = 1, b.groups = 4; }), HN_ERR_SHAPE,
                   "more than 1 value per group");
    EXPECT_HN_FAIL(with([](auto &b) { b.replicas = 3; }), HN_ERR_SHAPE, "3 replicas");
    EXPECT_HN_FAIL(with([](auto &b) { b.replicas = 2, b.bias_stride = 1; }), HN_ERR_SHAPE,
                   "replicas of bias");
    EXPECT_HN_FAIL(with([](auto &b) { b.gain_dtype = HN_I32; }), HN_ERR_UNSUPPORTED, "gain_dtype");
    EXPECT_HN_FAIL(with([&](auto &b) { b.y = f, b.ld_y = 5; }), HN_ERR_ARG, "4 and 5");
    EXPECT_HN_FAIL(hn_group_norm_fwd_fast(&a, nullptr), HN_ERR_ARG, "scratch");
    hn_group_norm_bwd_args b = {};
    b.x = f, b.gain = f, b.mean = f, b.rstd = f, b.dy = f + 16, b.dx = f + 32, b.images = 2;
    b.pixels = 2, b.groups = 2, b.cols = b.ld_x = b.ld_dy = b.ld_dx = 4;
    EXPECT_HN_OK(hn_group_norm_bwd_check(&b));
    EXPECT_HN_FAIL(hn_group_norm_bwd_fast(&b, nullptr), HN_ERR_ARG, "scratch");
    b.dx = nullptr;
    EXPECT_HN_FAIL(hn_group_norm_bwd_check(&b), HN_ERR_ARG, "none of dx");
    b.dbias = f, b.replicas = 2;
    EXPECT_HN_FAIL(hn_group_norm_bwd_check(&b), HN_ERR_SHAPE, "replicas of dbias");
    b.mean = nullptr;
    EXPECT_HN_FAIL(hn_group_norm_bwd_check(&b), HN_ERR_ARG, "mean is NULL");
}

#ifdef HONE_CUDA
using Device = Operands<DeviceMatrix>;

/* Scratch of exactly the promised size, between guard bands. */
void fwd_cuda(const hn_group_norm_args &a)
{
    DeviceArray<unsigned char> scratch(hn_group_norm_fwd_cuda_scratch(&a));
    ASSERT_HN_OK(hn_group_norm_fwd_cuda(&a, scratch.data(), nullptr));
    (void)scratch.host();
}

void bwd_cuda(const hn_group_norm_bwd_args &a)
{
    DeviceArray<unsigned char> scratch(hn_group_norm_bwd_cuda_scratch(&a));
    ASSERT_HN_OK(hn_group_norm_bwd_cuda(&a, scratch.data(), nullptr));
    (void)scratch.host();
}

class GroupNormCuda : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
};

TEST_P(GroupNormCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    Host h(s);
    Device d(s);
    const auto a = h.fwd();
    ASSERT_HN_OK(hn_group_norm_fwd_cpu(&a));
    const auto b = h.back();
    ASSERT_HN_OK(hn_group_norm_bwd_cpu(&b));
    fwd_cuda(d.fwd());
    bwd_cuda(d.back());
    expect_near(s, d.results(), h.results());
}

TEST_P(GroupNormCuda, CudaOutputsMayLieOnInputsAndGradientsMayBeLeftOut)
{
    HN_NEED_CUDA();
    expect_in_place_and_alone<DeviceMatrix>(s, fwd_cuda, bwd_cuda);
}

TEST_P(GroupNormCuda, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    Device a(s), b(s), d(s);
    for (Device *o : {&a, &b}) {
        fwd_cuda(o->fwd());
        bwd_cuda(o->back());
    }
    expect_same(a.results(), b.results());
    const auto f = d.fwd();
    const auto g = d.back();
    DeviceArray<unsigned char> one(hn_group_norm_fwd_cuda_scratch(&f));
    DeviceArray<unsigned char> two(hn_group_norm_bwd_cuda_scratch(&g));
    run_captured([&](hn_stream stream) {
        ASSERT_HN_OK(hn_group_norm_fwd_cuda(&f, one.data(), stream));
        ASSERT_HN_OK(hn_group_norm_bwd_cuda(&g, two.data(), stream));
    });
    expect_same(a.results(), d.results());
}

/* Smallest, one column a thread and 8, groups across and inside of a thread's columns, several
 * blocks of columns, several runs an image with a short last one, many images, replicas. Blocks add
 * the runs themselves, but for the last two, and in backward those of 1000 images a replica. */
INSTANTIATE_TEST_SUITE_P(Shapes, GroupNormCuda,
                         ::testing::Values(Shape{HN_F32, HN_F32, 1, 2, 1, 1, 0, 0},
                                           Shape{HN_F32, HN_F32, 3, 9, 6, 3, 2, 0},
                                           Shape{HN_F32, HN_BF16, 2, 49, 5, 5, 3, 0},
                                           Shape{HN_F32, HN_F32, 4, 1, 8, 1, 0, 2},
                                           Shape{HN_F32, HN_F32, 2, 999, 48, 12, 0, 0},
                                           Shape{HN_F32, HN_F32, 6, 64, 320, 32, 4, 3},
                                           Shape{HN_BF16, HN_BF16, 2, 36, 1026, 6, 2, 0},
                                           Shape{HN_BF16, HN_F32, 90, 4, 64, 32, 8, 3},
                                           Shape{HN_BF16, HN_BF16, 3, 3136, 64, 32, 0, 0},
                                           Shape{HN_BF16, HN_BF16, 5, 49, 512, 1, 0, 0},
                                           Shape{HN_BF16, HN_F32, 2000, 3, 16, 16, 0, 2},
                                           Shape{HN_BF16, HN_BF16, 2, 36, 2056, 1, 0, 0},
                                           Shape{HN_F32, HN_F32, 4, 5000, 66, 11, 0, 2}),
                         [](const auto &i) { return name_of(i.param); });

TEST(GroupNormTorchCuda, CudaMatchesPyTorch)
{
    HN_NEED_CUDA();
    expect_pytorch<DeviceMatrix>([](const hn_group_norm_args &a, const hn_group_norm_bwd_args &b) {
        fwd_cuda(a);
        bwd_cuda(b);
    });
}
#endif

} // namespace
