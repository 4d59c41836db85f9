/* kernels/hyperflow/modulate: hand values, PyTorch's numbers, against layer_norm, the twin and
 * finite differences (by the registry), every overlap, repeatability, errors. */
#include "kernels/hyperflow/modulate.h"

#include "golden_test.h"
#include "kernel_test.h"
#include "kernels/norm/layer_norm.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    hn_dtype dtype;
    int64_t groups, rows, cols, gap; /* rows of a group; gap: elements between rows */
    bool res, norm;
};

std::string name_of(const Shape &s)
{
    return case_name("e", s.groups, "_r", s.rows, "_c", s.cols, "_gap", s.gap,
                     (s.res ? "_res" : "_plain"), (s.norm ? "" : "_unnormed"), s.dtype);
}

/* Operands on the host or on the device, with the same values. scale and shift lie in one matrix,
 * whose halves begin on 16 bytes where cols is a multiple of 8. */
template <class M>
struct Operands {
    const Shape s;
    const int64_t n = s.groups * s.rows;
    M x{s.dtype, n, s.cols, s.gap}, res{s.dtype, n, s.cols, s.gap};
    M sum{s.dtype, n, s.cols, s.gap}, y{s.dtype, n, s.cols, s.gap};
    M dy{s.dtype, n, s.cols, s.gap}, dsum{s.dtype, n, s.cols, s.gap};
    M dx{s.dtype, n, s.cols, s.gap}, both{s.dtype, s.groups, 2 * s.cols, s.gap};
    M dscale{s.dtype, s.groups, s.cols, s.gap}, dshift{s.dtype, s.groups, s.cols, s.gap};
    M mean{HN_F32, 1, n, 0}, rstd{HN_F32, 1, n, 0};

    explicit Operands(const Shape &shape) : s(shape)
    {
        x.normal(1, 0.5f), res.normal(2), both.normal(3, 0, 0.3f), dy.normal(5), dsum.normal(6);
    }
    void *shift() { return (char *)both.data() + (size_t)s.cols * hn_dtype_size(s.dtype); }
    hn_modulate_args fwd()
    {
        hn_modulate_args a = {};
        a.x = x.data(), a.scale = both.data(), a.shift = shift(), a.y = y.data();
        if (s.res) a.res = res.data(), a.sum = sum.data();
        if (s.norm) a.mean = mean.f32(), a.rstd = rstd.f32(), a.eps = 1e-5f;
        a.rows = n, a.cols = s.cols, a.groups = s.groups, a.dtype = s.dtype;
        a.ld_x = x.ld(), a.ld_res = res.ld(), a.ld_sum = sum.ld(), a.ld_y = y.ld();
        a.ld_scale = a.ld_shift = both.ld();
        return a;
    }
    hn_modulate_bwd_args back()
    {
        hn_modulate_bwd_args a = {};
        a.sum = s.res ? sum.data() : x.data(), a.scale = both.data(), a.dy = dy.data();
        a.dx = dx.data(), a.dscale = dscale.data(), a.dshift = dshift.data();
        if (s.norm) a.mean = mean.f32(), a.rstd = rstd.f32();
        if (s.res) a.dsum = dsum.data();
        a.rows = n, a.cols = s.cols, a.groups = s.groups, a.dtype = s.dtype;
        a.ld_sum = s.res ? sum.ld() : x.ld(), a.ld_scale = both.ld(), a.ld_dy = dy.ld();
        a.ld_dsum = dsum.ld(), a.ld_dx = dx.ld(), a.ld_dscale = dscale.ld();
        a.ld_dshift = dshift.ld();
        return a;
    }
    std::vector<std::vector<float>> results()
    {
        std::vector<std::vector<float>> all = {y.values(), dx.values(), dscale.values(),
                                               dshift.values()};
        if (s.norm) all.push_back(mean.values()), all.push_back(rstd.values());
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

/* Of one column all of z cancels: a mean half an ulp off is 1 / sqrt(eps) times as much there. */
void expect_near(const Shape &s, const std::vector<std::vector<float>> &got,
                 const std::vector<std::vector<float>> &want)
{
    ASSERT_EQ(got.size(), want.size());
    for (size_t k = 0; k < got.size(); k++)
        EXPECT_LT(rel_l2(got[k], want[k]), s.cols == 1 ? 1e-2 : 2 * tolerance(s.dtype))
            << "result " << k;
}

class Modulate : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
};

void twin(Host &o)
{
    const auto a = o.fwd();
    ASSERT_HN_OK(hn_modulate_fwd_cpu(&a));
    const auto b = o.back();
    ASSERT_HN_OK(hn_modulate_bwd_cpu(&b));
}

TEST_P(Modulate, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Host want(s);
    twin(want);
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 3}) {
        Host o(s);
        on_threads(threads, [&] {
            const auto a = o.fwd();
            EXPECT_HN_OK(hn_modulate_fwd_fast(&a));
            const auto b = o.back();
            EXPECT_HN_OK(hn_modulate_bwd_fast(&b));
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
        EXPECT_TRUE(same_bits(p.dscale.values(), o.dscale.values())) << k;
        EXPECT_TRUE(same_bits(p.dshift.values(), o.dshift.values())) << k;
    }
    Operands<M> p(s);
    forward(p.fwd());
    auto dx = p.back(), params = p.back();
    dx.dscale = dx.dshift = nullptr;
    backward(dx);
    EXPECT_TRUE(same_bits(p.dx.values(), o.dx.values()));
    params.dx = nullptr;
    backward(params);
    EXPECT_TRUE(same_bits(p.dscale.values(), o.dscale.values()));
    EXPECT_TRUE(same_bits(p.dshift.values(), o.dshift.values()));
}

TEST_P(Modulate, OutputsMayLieOnInputsAndGradientsMayBeLeftOut)
{
    expect_in_place_and_alone<Matrix>(
        s, [](const hn_modulate_args &a) { ASSERT_HN_OK(hn_modulate_fwd_cpu(&a)); },
        [](const hn_modulate_bwd_args &a) { ASSERT_HN_OK(hn_modulate_bwd_cpu(&a)); });
    expect_in_place_and_alone<Matrix>(
        s, [](const hn_modulate_args &a) { ASSERT_HN_OK(hn_modulate_fwd_fast(&a)); },
        [](const hn_modulate_bwd_args &a) { ASSERT_HN_OK(hn_modulate_bwd_fast(&a)); });
}

/* Smallest; odd widths; 1, 2 and 4 pieces a lane, whole and in part; wider; groups of one row and
 * of more rows than a block has warps; without residual, normalisation or both. */
const Shape kShapes[] = {
    {HN_F32, 1, 1, 1, 0, true, true},     {HN_F32, 3, 2, 33, 2, true, true},
    {HN_F32, 2, 9, 256, 0, false, true},  {HN_F32, 5, 1, 40, 8, true, false},
    {HN_F32, 2, 3, 1032, 0, true, true},  {HN_F32, 2, 24, 520, 8, true, true},
    {HN_BF16, 4, 24, 256, 0, true, true}, {HN_BF16, 3, 5, 33, 7, false, true},
    {HN_BF16, 2, 17, 192, 8, true, true}, {HN_BF16, 3, 4, 384, 0, false, true},
    {HN_BF16, 2, 9, 1024, 0, true, true}, {HN_BF16, 2, 3, 2056, 0, true, true},
    {HN_BF16, 3, 2, 64, 0, false, false}, {HN_BF16, 2, 3, 1030, 1, false, true},
    {HN_BF16, 2, 11, 600, 0, true, false}};

INSTANTIATE_TEST_SUITE_P(Shapes, Modulate, ::testing::ValuesIn(kShapes),
                         [](const auto &i) { return name_of(i.param); });

TEST(ModulateTwin, MatchesHandComputedRow)
{
    /* the sum is 1, 3, 1, 3: mean 2, deviation 1 */
    const float x[] = {1, 1, 1, 1}, res[] = {0, 2, 0, 2}, scale[] = {1, 1, 0, -1};
    const float shift[] = {0, 0, 5, 7};
    float sum[4], y[4], mean, rstd;
    hn_modulate_args a = {};
    a.x = x, a.res = res, a.scale = scale, a.shift = shift, a.sum = sum, a.y = y, a.mean = &mean;
    a.rstd = &rstd, a.eps = 1e-20f, a.rows = a.groups = 1;
    a.cols = a.ld_x = a.ld_res = a.ld_scale = a.ld_shift = a.ld_sum = a.ld_y = 4;
    ASSERT_HN_OK(hn_modulate_fwd_cpu(&a));
    EXPECT_EQ(mean, 2);
    EXPECT_EQ(rstd, 1);
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{-2, 2, 4, 7}));

    /* h = {2, 0, 0, 0}, z = {-1, 1, -1, 1}: mean(h) = 0.5, mean(h z) = -0.5 */
    const float dy[] = {1, 0, 0, 1}, dsum[] = {1, 1, 1, 1};
    float dx[4], dscale[4], dshift[4];
    hn_modulate_bwd_args b = {};
    b.sum = sum, b.scale = scale, b.mean = &mean, b.rstd = &rstd, b.dy = dy, b.dsum = dsum;
    b.dx = dx, b.dscale = dscale, b.dshift = dshift, b.rows = b.groups = 1;
    b.cols = b.ld_sum = b.ld_scale = b.ld_dy = b.ld_dsum = b.ld_dx = b.ld_dscale = 4;
    b.ld_dshift = 4;
    ASSERT_HN_OK(hn_modulate_bwd_cpu(&b));
    EXPECT_EQ(std::vector<float>(dx, dx + 4), (std::vector<float>{2, 1, 0, 1}));
    EXPECT_EQ(std::vector<float>(dscale, dscale + 4), (std::vector<float>{-1, 0, 0, 1}));
    EXPECT_EQ(std::vector<float>(dshift, dshift + 4), (std::vector<float>{1, 0, 0, 1}));

    /* without a normalisation: y = sum (1 + scale) + shift, dx = dy (1 + scale) + dsum */
    a.eps = 0, a.mean = a.rstd = nullptr, b.mean = b.rstd = nullptr;
    ASSERT_HN_OK(hn_modulate_fwd_cpu(&a));
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{2, 6, 6, 7}));
    ASSERT_HN_OK(hn_modulate_bwd_cpu(&b));
    EXPECT_EQ(std::vector<float>(dx, dx + 4), (std::vector<float>{3, 1, 1, 1}));
    EXPECT_EQ(std::vector<float>(dscale, dscale + 4), (std::vector<float>{1, 0, 0, 3}));
}

/* A layer normalisation whose groups have gains 1 + scale of their own (which PyTorch's numbers
 * test), is the same. */
TEST(ModulateTwin, IsALayerNormWithGainsOfTheGroups)
{
    const Shape s = {HN_F32, 3, 4, 20, 1, true, true};
    Host o(s), l(s);
    twin(o);
    const auto both = l.both.values();
    Matrix gain(HN_F32, 3, 20), bias(HN_F32, 3, 20), dgain(HN_F32, 3, 20), dbias(HN_F32, 3, 20);
    for (int64_t e = 0; e < 3; e++)
        for (int64_t j = 0; j < 20; j++) {
            gain.set(e, j, 1 + both[(size_t)(e * 40 + j)]);
            bias.set(e, j, both[(size_t)(e * 40 + 20 + j)]);
            dgain.set(e, j, 0), dbias.set(e, j, 0);
        }
    hn_layer_norm_args a = {};
    a.x = l.x.data(), a.res = l.res.data(), a.sum = l.sum.data(), a.y = l.y.data();
    a.gain = gain.data(), a.bias = bias.data(), a.mean = l.mean.f32(), a.rstd = l.rstd.f32();
    a.rows = 12, a.cols = 20, a.ld_x = a.ld_res = a.ld_sum = a.ld_y = l.x.ld(), a.replicas = 3;
    a.gain_stride = a.bias_stride = gain.ld(), a.eps = 1e-5f;
    ASSERT_HN_OK(hn_layer_norm_fwd_cpu(&a));
    hn_layer_norm_bwd_args b = {};
    b.sum = l.sum.data(), b.gain = gain.data(), b.mean = a.mean, b.rstd = a.rstd;
    b.dy = l.dy.data(), b.dsum = l.dsum.data(), b.dx = l.dx.data(), b.dgain = dgain.f32();
    b.dbias = dbias.f32(), b.rows = 12, b.cols = 20, b.replicas = 3, b.gain_stride = gain.ld();
    b.ld_sum = b.ld_dy = b.ld_dsum = b.ld_dx = l.x.ld();
    b.dgain_stride = b.dbias_stride = dgain.ld();
    ASSERT_HN_OK(hn_layer_norm_bwd_cpu(&b));
    EXPECT_LT(rel_l2(o.y.values(), l.y.values()), 1e-6);
    EXPECT_LT(rel_l2(o.dx.values(), l.dx.values()), 1e-6);
    EXPECT_LT(rel_l2(o.dscale.values(), dgain.values()), 1e-6);
    EXPECT_LT(rel_l2(o.dshift.values(), dbias.values()), 1e-6);
}

TEST(ModulateTwin, EqualsPyTorch)
{
    const Golden file = Golden::load("tests/golden/modulate.json");
    const Golden list = file["modulate"];
    ASSERT_EQ(list.size(), 2u);
    for (size_t i = 0; i < list.size(); i++)
        for (const bool is_fast : {false, true}) {
            const Golden c = list.at(i);
            const float eps = c["eps"].number();
            const int64_t groups = c["groups"].integer(), cols = c["cols"].integer();
            Host o({HN_F32, groups, c["rows"].integer(), cols, 1, true, eps > 0});
            o.x.assign(c["x"].numbers()), o.res.assign(c["res"].numbers());
            o.dy.assign(c["dy"].numbers()), o.dsum.assign(c["dsum"].numbers());
            const auto scale = c["scale"].numbers(), shift = c["shift"].numbers();
            for (int64_t e = 0; e < groups; e++)
                for (int64_t j = 0; j < cols; j++) {
                    o.both.set(e, j, scale[(size_t)(e * cols + j)]);
                    o.both.set(e, cols + j, shift[(size_t)(e * cols + j)]);
                }
            auto a = o.fwd();
            a.eps = eps;
            const auto b = o.back();
            ASSERT_HN_OK(is_fast ? hn_modulate_fwd_fast(&a) : hn_modulate_fwd_cpu(&a));
            ASSERT_HN_OK(is_fast ? hn_modulate_bwd_fast(&b) : hn_modulate_bwd_cpu(&b));
            EXPECT_LT(rel_l2(o.sum.values(), c["sum"].numbers()), 1e-6);
            EXPECT_LT(rel_l2(o.y.values(), c["y"].numbers()), 1e-6);
            EXPECT_LT(rel_l2(o.dx.values(), c["dx"].numbers()), 1e-6);
            EXPECT_LT(rel_l2(o.dscale.values(), c["dscale"].numbers()), 1e-6);
            EXPECT_LT(rel_l2(o.dshift.values(), c["dshift"].numbers()), 1e-6);
        }
}

TEST(ModulateCheck, NamesWhatIsWrong)
{
    Host o({HN_F32, 2, 3, 8, 0, true, true});
    const auto with = [&](auto change) {
        hn_modulate_args a = o.fwd();
        change(a);
        return hn_modulate_check(&a);
    };
    EXPECT_HN_OK(with([](auto &) {}));
    EXPECT_HN_FAIL(hn_modulate_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &a) { a.x = nullptr; }), HN_ERR_ARG, "x is NULL");
    EXPECT_HN_FAIL(with([](auto &a) { a.shift = nullptr; }), HN_ERR_ARG, "shift is NULL");
    EXPECT_HN_FAIL(with([](auto &a) { a.groups = 4; }), HN_ERR_SHAPE, "6 rows are no 4 equal");
    EXPECT_HN_FAIL(with([](auto &a) { a.groups = 0; }), HN_ERR_SHAPE, "groups");
    EXPECT_HN_FAIL(with([](auto &a) { a.eps = -1; }), HN_ERR_ARG, "eps -1");
    EXPECT_HN_FAIL(with([](auto &a) { a.eps = 0; }), HN_ERR_ARG, "with eps 0");
    EXPECT_HN_FAIL(with([](auto &a) { a.res = nullptr; }), HN_ERR_ARG, "res and sum");
    EXPECT_HN_FAIL(with([](auto &a) { a.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    EXPECT_HN_FAIL(with([](auto &a) { a.sum = (void *)a.x, a.ld_sum = 9; }), HN_ERR_ARG, "9");
    const auto back = [&](auto change) {
        hn_modulate_bwd_args a = o.back();
        change(a);
        return hn_modulate_bwd_check(&a);
    };
    EXPECT_HN_OK(back([](auto &) {}));
    EXPECT_HN_FAIL(back([](auto &a) { a.mean = nullptr; }), HN_ERR_ARG, "mean and rstd");
    EXPECT_HN_FAIL(back([](auto &a) { a.dshift = nullptr; }), HN_ERR_ARG, "dscale and dshift");
    EXPECT_HN_FAIL(back([](auto &a) { a.dx = a.dscale = a.dshift = nullptr; }), HN_ERR_ARG,
                   "none of");
    EXPECT_HN_FAIL(back([](auto &a) { a.ld_dscale = 7; }), HN_ERR_SHAPE, "dscale");
}

#ifdef HONE_CUDA

void fwd_cuda(const hn_modulate_args &a) { ASSERT_HN_OK(hn_modulate_fwd_cuda(&a, nullptr)); }
void bwd_cuda(const hn_modulate_bwd_args &a) { ASSERT_HN_OK(hn_modulate_bwd_cuda(&a, nullptr)); }

class ModulateCuda : public Modulate {};

TEST_P(ModulateCuda, MatchesCpuRepeatsAndRunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    Host want(s);
    twin(want);
    Operands<DeviceMatrix> o(s), again(s);
    fwd_cuda(o.fwd());
    bwd_cuda(o.back());
    expect_near(s, o.results(), want.results());
    run_captured([&](hn_stream stream) {
        const auto a = again.fwd();
        EXPECT_HN_OK(hn_modulate_fwd_cuda(&a, stream));
        const auto b = again.back();
        EXPECT_HN_OK(hn_modulate_bwd_cuda(&b, stream));
    });
    expect_same(again.results(), o.results());
}

TEST_P(ModulateCuda, OutputsMayLieOnInputsAndGradientsMayBeLeftOut)
{
    HN_NEED_CUDA();
    expect_in_place_and_alone<DeviceMatrix>(s, fwd_cuda, bwd_cuda);
}

INSTANTIATE_TEST_SUITE_P(Shapes, ModulateCuda, ::testing::ValuesIn(kShapes),
                         [](const auto &i) { return name_of(i.param); });
#endif

} // namespace
