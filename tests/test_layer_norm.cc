/* kernels/norm: residual add and layer normalisation. */
#include "kernels/norm/layer_norm.h"
#include "norm_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    hn_dtype dtype, param;
    int64_t rows, cols, gap, replicas; /* gap: elements between rows */
    bool res, bias;
};

std::string name_of(const Shape &s)
{
    return case_name("r", s.rows, "_c", s.cols, "_gap", s.gap, "_g", s.replicas,
                     (s.res ? "_res" : "_plain"), (s.bias ? "" : "_nobias"), s.dtype, s.param);
}

/* Operands on the host or on the device, with the same values. */
template <class M>
struct Operands {
    const Shape s;
    const int64_t g = s.replicas ? s.replicas : 1;
    M x{s.dtype, s.rows, s.cols, s.gap}, res{s.dtype, s.rows, s.cols, s.gap};
    M sum{s.dtype, s.rows, s.cols, s.gap}, y{s.dtype, s.rows, s.cols, s.gap};
    M dy{s.dtype, s.rows, s.cols, s.gap}, dsum{s.dtype, s.rows, s.cols, s.gap};
    M dx{s.dtype, s.rows, s.cols, s.gap}, gain{s.param, g, s.cols, s.gap};
    M bias{s.param, g, s.cols, s.gap}, dgain{HN_F32, g, s.cols, 5}, dbias{HN_F32, g, s.cols, 2};
    M mean{HN_F32, 1, s.rows, 0}, rstd{HN_F32, 1, s.rows, 0};

    explicit Operands(const Shape &shape) : s(shape) { fill(); }
    void fill()
    {
        x.normal(1, 0.5f), res.normal(2), gain.normal(3, 1, 0.3f), bias.normal(4), dy.normal(5);
        dsum.normal(6), dgain.normal(7), dbias.normal(8);
    }
    hn_layer_norm_args fwd()
    {
        hn_layer_norm_args a = {};
        a.x = x.data(), a.gain = gain.data(), a.y = y.data(), a.mean = mean.f32();
        a.rstd = rstd.f32();
        if (s.bias) a.bias = bias.data();
        if (s.res) a.res = res.data(), a.sum = sum.data();
        a.rows = s.rows, a.cols = s.cols;
        a.ld_x = x.ld(), a.ld_res = res.ld(), a.ld_sum = sum.ld(), a.ld_y = y.ld();
        a.replicas = s.replicas, a.gain_stride = gain.ld(), a.bias_stride = bias.ld();
        a.dtype = s.dtype, a.gain_dtype = a.bias_dtype = s.param, a.eps = 1e-5f;
        return a;
    }
    hn_layer_norm_bwd_args back()
    {
        hn_layer_norm_bwd_args a = {};
        a.sum = s.res ? sum.data() : x.data(), a.gain = gain.data(), a.mean = mean.f32();
        a.rstd = rstd.f32(), a.dy = dy.data(), a.dx = dx.data(), a.dgain = dgain.f32();
        if (s.bias) a.dbias = dbias.f32();
        if (s.res) a.dsum = dsum.data();
        a.rows = s.rows, a.cols = s.cols, a.ld_sum = s.res ? sum.ld() : x.ld(), a.ld_dy = dy.ld();
        a.ld_dsum = dsum.ld(), a.ld_dx = dx.ld(), a.replicas = s.replicas;
        a.gain_stride = gain.ld(), a.dgain_stride = dgain.ld(), a.dbias_stride = dbias.ld();
        a.dtype = s.dtype, a.gain_dtype = s.param;
        return a;
    }
    std::vector<std::vector<float>> results()
    {
        std::vector<std::vector<float>> all = {y.values(),    dx.values(),    mean.values(),
                                               rstd.values(), dgain.values(), dbias.values()};
        if (s.res) all.push_back(sum.values());
        return all;
    }
};
using Host = Operands<Matrix>;

void expect_same(const std::vector<std::vector<float>> &a, const std::vector<std::vector<float>> &b)
{
    ASSERT_EQ(a.size(), b.size());
    for (size_t k = 0; k < a.size(); k++) EXPECT_TRUE(same_bits(a[k], b[k])) << "result " << k;
}

/* y and dx as they are stored; the sum, of one add and one rounding, has the same bits. Of one
 * column all of y but the bias cancels: with a mean half an ulp off, 1 / sqrt(eps) makes 1e-5. */
void expect_near(const Shape &s, const std::vector<std::vector<float>> &got,
                 const std::vector<std::vector<float>> &want)
{
    ASSERT_EQ(got.size(), want.size());
    for (size_t k = 0; k < 6; k++) {
        const double most = k >= 2 ? 5e-6 : s.cols == 1 ? 1e-4 : tolerance(s.dtype);
        EXPECT_LT(rel_l2(got[k], want[k]), most) << "result " << k;
    }
    if (s.res) {
        EXPECT_TRUE(same_bits(got[6], want[6]));
    }
}

hn_status bwd_fast(const hn_layer_norm_bwd_args &a)
{
    Scratch scratch(hn_layer_norm_bwd_fast_scratch(&a));
    return hn_layer_norm_bwd_fast(&a, scratch.data());
}

class LayerNorm : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
};

TEST_P(LayerNorm, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Host want(s);
    const auto a = want.fwd();
    ASSERT_HN_OK(hn_layer_norm_fwd_cpu(&a));
    const auto b = want.back();
    ASSERT_HN_OK(hn_layer_norm_bwd_cpu(&b));
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 3}) {
        Host o(s);
        on_threads(threads, [&] {
            const auto c = o.fwd();
            EXPECT_HN_OK(hn_layer_norm_fwd_fast(&c));
            EXPECT_HN_OK(bwd_fast(o.back()));
        });
        if (first.empty()) first = o.results();
        expect_same(o.results(), first);
    }
    expect_near(s, first, want.results());
}

/* sum on x and on res, y on x; dx on dy, dsum and sum; each gradient by itself; no statistics. */
template <class M, class Forward, class Backward>
void expect_in_place_and_alone(const Shape &s, Forward forward, Backward backward)
{
    Operands<M> o(s);
    forward(o.fwd());
    backward(o.back());
    for (const bool on_x : {true, false}) {
        Operands<M> p(s);
        M &to = on_x ? p.x : p.res;
        if (!on_x && !s.res) continue;
        auto a = p.fwd();
        (s.res ? a.sum : a.y) = to.data();
        a.mean = a.rstd = nullptr;
        forward(a);
        EXPECT_TRUE(same_bits(to.values(), (s.res ? o.sum : o.y).values())) << on_x;
        if (s.res) {
            EXPECT_TRUE(same_bits(p.y.values(), o.y.values())) << on_x;
        }
    }
    for (int k = 0; k < 3; k++) {
        Operands<M> p(s);
        M &to = k == 0 ? p.dy : k == 1 ? p.dsum : s.res ? p.sum : p.x;
        if (k == 1 && !s.res) continue;
        forward(p.fwd());
        auto b = p.back();
        b.dx = to.data();
        backward(b);
        EXPECT_TRUE(same_bits(to.values(), o.dx.values())) << k;
        EXPECT_TRUE(same_bits(p.dgain.values(), o.dgain.values())) << k;
    }
    Operands<M> p(s);
    forward(p.fwd());
    auto dx = p.back(), gain = p.back(), bias = p.back();
    dx.dgain = dx.dbias = nullptr;
    backward(dx);
    EXPECT_TRUE(same_bits(p.dx.values(), o.dx.values()));
    gain.dx = nullptr, gain.dbias = nullptr;
    backward(gain);
    EXPECT_TRUE(same_bits(p.dgain.values(), o.dgain.values()));
    if (!s.bias) return;
    bias.dx = nullptr, bias.dgain = nullptr;
    backward(bias);
    EXPECT_TRUE(same_bits(p.dbias.values(), o.dbias.values()));
}

TEST_P(LayerNorm, OutputsMayLieOnInputsAndGradientsMayBeLeftOut)
{
    expect_in_place_and_alone<Matrix>(
        s, [](const hn_layer_norm_args &a) { ASSERT_HN_OK(hn_layer_norm_fwd_cpu(&a)); },
        [](const hn_layer_norm_bwd_args &a) { ASSERT_HN_OK(hn_layer_norm_bwd_cpu(&a)); });
    expect_in_place_and_alone<Matrix>(
        s, [](const hn_layer_norm_args &a) { ASSERT_HN_OK(hn_layer_norm_fwd_fast(&a)); },
        [](const hn_layer_norm_bwd_args &a) { ASSERT_HN_OK(bwd_fast(a)); });
}

/* Smallest, odd widths, wider than a block, replicas, many rows, without bias. */
INSTANTIATE_TEST_SUITE_P(Shapes, LayerNorm,
                         ::testing::Values(Shape{HN_F32, HN_F32, 1, 1, 0, 0, true, true},
                                           Shape{HN_F32, HN_F32, 3, 33, 2, 0, true, true},
                                           Shape{HN_F32, HN_BF16, 5, 16, 0, 0, false, false},
                                           Shape{HN_F32, HN_F32, 2, 1030, 1, 0, true, true},
                                           Shape{HN_F32, HN_F32, 300, 96, 0, 3, false, true},
                                           Shape{HN_BF16, HN_BF16, 3, 33, 7, 0, true, false},
                                           Shape{HN_BF16, HN_F32, 70, 24, 0, 2, false, true},
                                           Shape{HN_BF16, HN_BF16, 4, 1030, 2, 0, true, true}),
                         [](const auto &i) { return name_of(i.param); });

TEST(LayerNormTwin, MatchesHandComputedRow)
{
    /* the sum is 1, 3, 1, 3: mean 2, deviation 1 */
    const float x[] = {1, 1, 1, 1}, res[] = {0, 2, 0, 2}, gain[] = {2, 2, 1, 0};
    const float bias[] = {0, 0, 5, 7};
    float sum[4], y[4], mean, rstd;
    hn_layer_norm_args a = {};
    a.x = x, a.res = res, a.gain = gain, a.bias = bias, a.sum = sum, a.y = y, a.mean = &mean;
    a.rstd = &rstd, a.eps = 1e-20f, a.rows = 1;
    a.cols = a.ld_x = a.ld_res = a.ld_sum = a.ld_y = 4;
    ASSERT_HN_OK(hn_layer_norm_fwd_cpu(&a));
    EXPECT_EQ(mean, 2);
    EXPECT_EQ(rstd, 1);
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{-2, 2, 4, 7}));

    /* h = {2, 0, 0, 0}, z = {-1, 1, -1, 1}: mean(h) = 0.5, mean(h z) = -0.5 */
    const float dy[] = {1, 0, 0, 1}, dsum[] = {1, 1, 1, 1};
    float dx[4], dgain[4] = {}, dbias[] = {1, 1, 1, 1};
    hn_layer_norm_bwd_args b = {};
    b.sum = sum, b.gain = gain, b.mean = &mean, b.rstd = &rstd, b.dy = dy, b.dsum = dsum;
    b.dx = dx, b.dgain = dgain, b.dbias = dbias, b.rows = 1;
    b.cols = b.ld_sum = b.ld_dy = b.ld_dsum = b.ld_dx = 4;
    ASSERT_HN_OK(hn_layer_norm_bwd_cpu(&b));
    EXPECT_EQ(std::vector<float>(dx, dx + 4), (std::vector<float>{2, 1, 0, 1}));
    EXPECT_EQ(std::vector<float>(dgain, dgain + 4), (std::vector<float>{-1, 0, 0, 1}));
    EXPECT_EQ(std::vector<float>(dbias, dbias + 4), (std::vector<float>{2, 1, 1, 2}));
}

/* A mean of 1000 with a deviation of 0.01: sums of squares would lose all of the variance. */
template <class M, class Forward>
void expect_accurate_far_from_zero(int64_t cols, Forward forward)
{
    const Shape s = {HN_F32, HN_F32, 3, cols, 0, 0, false, true};
    Operands<M> o(s);
    const auto v = normal_f32((size_t)(s.rows * s.cols), 21, 1000, 0.01f);
    o.x.assign(v);
    forward(o.fwd());
    const auto mean = o.mean.values(), rstd = o.rstd.values();
    for (int64_t i = 0; i < s.rows; i++) {
        double sum = 0, square = 0;
        for (int64_t j = 0; j < s.cols; j++) sum += (double)v[(size_t)(i * s.cols + j)];
        sum /= (double)s.cols;
        for (int64_t j = 0; j < s.cols; j++)
            square += std::pow((double)v[(size_t)(i * s.cols + j)] - sum, 2);
        const double want = 1 / std::sqrt(square / (double)s.cols + (double)1e-5f);
        EXPECT_NEAR((double)mean[(size_t)i], sum, 6.2e-5); /* the distance of two floats */
        EXPECT_NEAR((double)rstd[(size_t)i] / want, 1, 1e-5);
    }
}

TEST(LayerNormFast, IsAccurateFarFromZero)
{
    expect_accurate_far_from_zero<Matrix>(
        1537, [](const hn_layer_norm_args &a) { ASSERT_HN_OK(hn_layer_norm_fwd_cpu(&a)); });
    expect_accurate_far_from_zero<Matrix>(
        1537, [](const hn_layer_norm_args &a) { ASSERT_HN_OK(hn_layer_norm_fwd_fast(&a)); });
}

/* PyTorch's numbers; run goes forward and backward. */
template <class M, class Run>
void expect_pytorch(Run run)
{
    for (const char *name : {"layer_gpt2", "layer_vit", "layer_plain"})
        for (const hn_dtype t : {HN_F32, HN_BF16}) {
            SCOPED_TRACE(case_name(name, t));
            const NormGolden g(name);
            const auto shape = g.values("shape"), bias = g.values("bias");
            const Shape s = {t, HN_F32, (int64_t)shape[0], (int64_t)shape[1], 0,
                             0, false,  !bias.empty()};
            Operands<M> o(s);
            const std::vector<float> zeros((size_t)s.cols);
            o.x.assign(g.values("x")), o.dy.assign(g.values("dy")), o.gain.assign(g.values("gain"));
            o.dgain.assign(zeros), o.dbias.assign(zeros);
            if (s.bias) o.bias.assign(bias);
            auto a = o.fwd();
            a.eps = g.number("eps");
            run(a, o.back());
            const double most = golden_tolerance(t);
            EXPECT_LT(rel_l2(o.y.values(), g.values("y")), most);
            EXPECT_LT(rel_l2(o.mean.values(), g.values("mean")), most);
            EXPECT_LT(rel_l2(o.rstd.values(), g.values("rstd")), most);
            EXPECT_LT(rel_l2(o.dx.values(), g.values("dx")), most);
            EXPECT_LT(rel_l2(o.dgain.values(), g.values("dgain")), most);
            if (s.bias) {
                EXPECT_LT(rel_l2(o.dbias.values(), g.values("dbias")), most);
            }
        }
}

TEST(LayerNormTwin, MatchesPyTorch)
{
    expect_pytorch<Matrix>([](const hn_layer_norm_args &a, const hn_layer_norm_bwd_args &b) {
        ASSERT_HN_OK(hn_layer_norm_fwd_cpu(&a));
        ASSERT_HN_OK(hn_layer_norm_bwd_cpu(&b));
    });
}

TEST(LayerNormFast, MatchesPyTorch)
{
    expect_pytorch<Matrix>([](const hn_layer_norm_args &a, const hn_layer_norm_bwd_args &b) {
        ASSERT_HN_OK(hn_layer_norm_fwd_fast(&a));
        ASSERT_HN_OK(bwd_fast(b));
    });
}

TEST(LayerNormCheck, NamesWhatIsWrong)
{
    float f[64] = {};
    hn_layer_norm_args a = {};
    a.x = f, a.gain = f, a.y = f + 16, a.rows = 2, a.cols = a.ld_x = a.ld_y = 4, a.eps = 1e-5f;
    EXPECT_HN_OK(hn_layer_norm_check(&a));
    auto with = [&](auto change) {
        hn_layer_norm_args b = a;
        change(b);
        return hn_layer_norm_check(&b);
    };
    EXPECT_HN_FAIL(hn_layer_norm_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.x = nullptr; }), HN_ERR_ARG, "x is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.gain = nullptr; }), HN_ERR_ARG, "gain is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.eps = 0; }), HN_ERR_ARG, "eps 0");
    EXPECT_HN_FAIL(with([&](auto &b) { b.res = f; }), HN_ERR_ARG, "res and sum");
    EXPECT_HN_FAIL(with([&](auto &b) { b.mean = f; }), HN_ERR_ARG, "mean and rstd");
    EXPECT_HN_FAIL(with([](auto &b) { b.cols = 0; }), HN_ERR_SHAPE, "[2, 0]");
    EXPECT_HN_FAIL(with([](auto &b) { b.replicas = 3; }), HN_ERR_SHAPE, "3 replicas");
    EXPECT_HN_FAIL(with([](auto &b) { b.replicas = 2, b.bias_stride = 2; }), HN_ERR_SHAPE,
                   "replicas of bias");
    EXPECT_HN_FAIL(with([](auto &b) { b.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    EXPECT_HN_FAIL(with([&](auto &b) { b.bias = f, b.bias_dtype = HN_U8; }), HN_ERR_UNSUPPORTED,
                   "bias_dtype");
    EXPECT_HN_FAIL(with([&](auto &b) { b.res = b.sum = f + 32, b.ld_res = 4, b.ld_sum = 5; }),
                   HN_ERR_ARG, "4 and 5");
    hn_layer_norm_bwd_args b = {};
    b.sum = f, b.gain = f, b.mean = f, b.rstd = f, b.dy = f, b.dx = f + 16, b.rows = 2;
    b.cols = b.ld_sum = b.ld_dy = b.ld_dx = 4;
    EXPECT_HN_OK(hn_layer_norm_bwd_check(&b));
    b.dx = nullptr;
    EXPECT_HN_FAIL(hn_layer_norm_bwd_check(&b), HN_ERR_ARG, "none of dx");
    b.dbias = f + 16, b.replicas = 2;
    EXPECT_HN_FAIL(hn_layer_norm_bwd_check(&b), HN_ERR_SHAPE, "replicas of dbias");
    b.replicas = 0;
    EXPECT_HN_FAIL(hn_layer_norm_bwd_fast(&b, nullptr), HN_ERR_ARG, "scratch");
    b.mean = nullptr;
    EXPECT_HN_FAIL(hn_layer_norm_bwd_check(&b), HN_ERR_ARG, "mean is NULL");
}

#ifdef HONE_CUDA
using Device = Operands<DeviceMatrix>;

void fwd_cuda(const hn_layer_norm_args &a) { ASSERT_HN_OK(hn_layer_norm_fwd_cuda(&a, nullptr)); }

/* Scratch of exactly the promised size, between guard bands. */
void bwd_cuda(const hn_layer_norm_bwd_args &a)
{
    const size_t bytes = hn_layer_norm_bwd_cuda_scratch(&a);
    DeviceArray<unsigned char> scratch(bytes);
    ASSERT_HN_OK(hn_layer_norm_bwd_cuda(&a, bytes ? scratch.data() : nullptr, nullptr));
    (void)scratch.host();
}

class LayerNormCuda : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
};

TEST_P(LayerNormCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    Host h(s);
    Device d(s);
    const auto a = h.fwd();
    ASSERT_HN_OK(hn_layer_norm_fwd_cpu(&a));
    const auto b = h.back();
    ASSERT_HN_OK(hn_layer_norm_bwd_cpu(&b));
    fwd_cuda(d.fwd());
    bwd_cuda(d.back());
    expect_near(s, d.results(), h.results());
}

TEST_P(LayerNormCuda, CudaOutputsMayLieOnInputsAndGradientsMayBeLeftOut)
{
    HN_NEED_CUDA();
    expect_in_place_and_alone<DeviceMatrix>(s, fwd_cuda, bwd_cuda);
}

TEST_P(LayerNormCuda, CudaRepeatsBitForBitAlsoFromACapturedGraph)
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
    DeviceArray<unsigned char> scratch(hn_layer_norm_bwd_cuda_scratch(&g));
    run_captured([&](hn_stream stream) {
        ASSERT_HN_OK(hn_layer_norm_fwd_cuda(&f, stream));
        ASSERT_HN_OK(hn_layer_norm_bwd_cuda(&g, scratch.data(), stream));
    });
    expect_same(a.results(), d.results());
}

/* Narrow rows: teams of 8, 16 and 32 lanes with 3 pieces a lane, and with 4, each at its widest,
 * one piece wider, with one step, a part of it and one row past it, and with several steps a run.
 * Then a block a row with 1 and 4 pieces, wider, unaligned and wide, several runs of rows (the last
 * one shorter), replicas (also more of them than runs), without bias and residual. */
INSTANTIATE_TEST_SUITE_P(Shapes, LayerNormCuda,
                         ::testing::Values(Shape{HN_F32, HN_F32, 1, 1, 0, 0, true, true},
                                           Shape{HN_F32, HN_F32, 9, 33, 2, 0, true, true},
                                           Shape{HN_F32, HN_BF16, 5, 16, 0, 0, false, false},
                                           Shape{HN_F32, HN_F32, 300, 96, 8, 3, true, true},
                                           Shape{HN_F32, HN_F32, 37, 256, 0, 0, true, true},
                                           Shape{HN_F32, HN_F32, 37, 264, 0, 0, true, true},
                                           Shape{HN_F32, HN_F32, 3, 257, 7, 0, true, true},
                                           Shape{HN_F32, HN_F32, 3, 1030, 1, 0, true, true},
                                           Shape{HN_F32, HN_F32, 3, 2048, 4, 3, true, true},
                                           Shape{HN_F32, HN_F32, 801, 1024, 0, 3, true, true},
                                           Shape{HN_F32, HN_F32, 5, 8192, 0, 0, true, true},
                                           Shape{HN_BF16, HN_BF16, 3, 33, 7, 0, true, false},
                                           Shape{HN_BF16, HN_F32, 70, 24, 0, 2, false, true},
                                           Shape{HN_BF16, HN_BF16, 5000, 192, 0, 0, true, true},
                                           Shape{HN_BF16, HN_F32, 2600, 200, 8, 2, true, true},
                                           Shape{HN_BF16, HN_BF16, 31, 8, 0, 0, true, true},
                                           Shape{HN_BF16, HN_F32, 32, 184, 0, 0, true, true},
                                           Shape{HN_BF16, HN_BF16, 33, 192, 0, 0, true, true},
                                           Shape{HN_BF16, HN_BF16, 33, 192, 3, 0, true, true},
                                           Shape{HN_BF16, HN_F32, 13000, 64, 0, 0, true, true},
                                           Shape{HN_F32, HN_F32, 4300, 40, 0, 0, true, true},
                                           Shape{HN_F32, HN_BF16, 400, 8, 0, 200, false, true},
                                           Shape{HN_BF16, HN_F32, 17, 200, 8, 0, true, true},
                                           Shape{HN_F32, HN_F32, 2200, 200, 0, 0, true, false},
                                           Shape{HN_BF16, HN_BF16, 5000, 384, 0, 2, true, true},
                                           Shape{HN_F32, HN_F32, 9, 392, 0, 0, true, true},
                                           Shape{HN_F32, HN_F32, 1100, 768, 0, 0, false, true},
                                           Shape{HN_BF16, HN_BF16, 7, 768, 0, 0, true, true},
                                           Shape{HN_BF16, HN_F32, 2300, 776, 0, 0, true, true},
                                           Shape{HN_BF16, HN_BF16, 9, 1024, 8, 3, true, true},
                                           Shape{HN_BF16, HN_BF16, 9, 1032, 0, 0, true, true},
                                           Shape{HN_F32, HN_BF16, 9, 1032, 0, 0, true, true},
                                           Shape{HN_BF16, HN_BF16, 1100, 768, 0, 0, true, true},
                                           Shape{HN_BF16, HN_BF16, 50, 1280, 0, 0, false, true},
                                           Shape{HN_BF16, HN_F32, 4, 2056, 0, 0, true, true},
                                           Shape{HN_BF16, HN_BF16, 3, 6144, 16, 3, true, false},
                                           Shape{HN_BF16, HN_BF16, 3, 4101, 3, 0, true, true},
                                           Shape{HN_BF16, HN_BF16, 3, 8200, 0, 0, false, true},
                                           Shape{HN_BF16, HN_BF16, 3, 8197, 2, 0, true, true}),
                         [](const auto &i) { return name_of(i.param); });

TEST(LayerNormFarCuda, CudaIsAccurateFarFromZero)
{
    HN_NEED_CUDA();
    for (const int64_t cols : {192, 768, 2048, 1537, 8200})
        expect_accurate_far_from_zero<DeviceMatrix>(cols, fwd_cuda);
}

TEST(LayerNormTorchCuda, CudaMatchesPyTorch)
{
    HN_NEED_CUDA();
    expect_pytorch<DeviceMatrix>([](const hn_layer_norm_args &a, const hn_layer_norm_bwd_args &b) {
        fwd_cuda(a);
        bwd_cuda(b);
    });
}
#endif

} // namespace
