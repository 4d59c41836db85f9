/* kernels/conv: the convolution and its gradients, by twin and fast functions, beside PyTorch's and
 * ONNX's values; its rows in the graph. */
#include "conv_test.h"
#include "graph_test.h"
#include "kernels/conv/conv2d.h"
#include "onnx_vectors.h"

namespace {

/* For conv_test.h. */
struct Functions {
    using Shape = hn_conv2d_shape;
    using Fwd = hn_conv2d_args;
    using Dx = hn_conv2d_dx_args;
    using Dw = hn_conv2d_dw_args;
    static int64_t taps(const Shape &s) { return hn_conv2d_taps(&s); }
    static int64_t rows_in(const Shape &s) { return s.n * s.h * s.w; }
    static int64_t rows_out(const Shape &s)
    {
        return s.n * hn_conv2d_out_h(&s) * hn_conv2d_out_w(&s);
    }
    static void add_all(Fwd &a) { a.relu = true; }
    static hn_status twin(const Fwd &a) { return hn_conv2d_fwd_cpu(&a); }
    static hn_status twin(const Dx &a) { return hn_conv2d_dx_cpu(&a); }
    static hn_status twin(const Dw &a) { return hn_conv2d_dw_cpu(&a); }
    static hn_status fast(const Fwd &a)
    {
        Scratch scratch(hn_conv2d_fwd_fast_scratch(&a));
        return hn_conv2d_fwd_fast(&a, scratch.data());
    }
    static hn_status fast(const Dx &a)
    {
        Scratch scratch(hn_conv2d_dx_fast_scratch(&a));
        return hn_conv2d_dx_fast(&a, scratch.data());
    }
    static hn_status fast(const Dw &a)
    {
        Scratch scratch(hn_conv2d_dw_fast_scratch(&a));
        return hn_conv2d_dw_fast(&a, scratch.data());
    }
};
using Plain = PlainConv<Functions>;

class Conv2d : public ConvTest<Functions> {};
HN_CONV_TESTS(Conv2d)

/* Smallest; a tile of rows and one past it, parts of columns, blocks and runs of dw; what is left
 * over by strides, windows in the padding alone, taps that never meet a pixel; kernels of one
 * pixel; groups, also of one channel with two outputs; depthwise in whole registers and not;
 * replicas. */
const ConvCase<Functions> shapes[] = {
    {HN_F32, HN_F32, {1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1}, 0},
    {HN_F32, HN_F32, {1, 8, 8, 3, 5, 3, 3, 1, 1, 1, 1}, 0},
    {HN_F32, HN_BF16, {1, 5, 13, 2, 3, 3, 3, 1, 1, 1, 1}, 0},
    {HN_F32, HN_F32, {3, 15, 14, 80, 6, 3, 3, 1, 1, 1, 1}, 0},
    {HN_F32, HN_F32, {4, 17, 18, 4, 70, 3, 3, 2, 1, 1, 1}, 0},
    {HN_F32, HN_F32, {2, 9, 11, 3, 4, 5, 3, 3, 4, 2, 1}, 0},
    {HN_F32, HN_F32, {2, 12, 9, 3, 7, 4, 4, 4, 0, 1, 1}, 0},
    {HN_F32, HN_F32, {1, 3, 2, 2, 2, 2, 2, 4, 3, 1, 1}, 0},
    {HN_F32, HN_F32, {2, 7, 8, 2, 3, 3, 2, 4, 0, 2, 1}, 0},
    {HN_F32, HN_F32, {3, 16, 15, 12, 9, 1, 1, 1, 0, 1, 1}, 0},
    {HN_F32, HN_F32, {2, 9, 8, 5, 6, 1, 1, 2, 0, 1, 1}, 0},
    {HN_F32, HN_F32, {2, 6, 7, 8, 12, 3, 3, 2, 1, 1, 4}, 0},
    {HN_F32, HN_F32, {2, 6, 7, 8, 12, 1, 1, 1, 0, 1, 4}, 0},
    {HN_F32, HN_F32, {1, 6, 7, 4, 8, 3, 3, 1, 1, 1, 4}, 0},
    {HN_F32, HN_BF16, {3, 9, 10, 33, 33, 3, 3, 1, 1, 1, 33}, 0},
    {HN_F32, HN_F32, {4, 9, 10, 64, 64, 5, 3, 2, 2, 1, 64}, 0},
    {HN_F32, HN_F32, {1, 7, 9, 3, 3, 3, 3, 3, 3, 2, 3}, 0},
    {HN_F32, HN_F32, {1, 2, 2, 2, 2, 1, 2, 4, 3, 1, 2}, 0},
    {HN_F32, HN_F32, {6, 5, 4, 3, 4, 3, 3, 2, 1, 1, 1}, 3},
    {HN_F32, HN_BF16, {4, 5, 4, 4, 4, 3, 3, 1, 1, 1, 4}, 2},
    {HN_BF16, HN_BF16, {1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1}, 0},
    {HN_BF16, HN_F32, {3, 15, 14, 17, 6, 3, 3, 2, 1, 1, 1}, 0},
    {HN_BF16, HN_BF16, {3, 16, 15, 12, 9, 1, 1, 1, 0, 1, 1}, 0},
    {HN_BF16, HN_F32, {2, 6, 7, 8, 12, 3, 3, 1, 1, 1, 4}, 0},
    {HN_BF16, HN_BF16, {3, 9, 10, 33, 33, 3, 3, 2, 1, 1, 33}, 0},
    {HN_BF16, HN_F32, {6, 5, 4, 3, 4, 3, 3, 1, 1, 1, 1}, 3},
    {HN_BF16, HN_BF16, {4, 5, 4, 34, 34, 3, 3, 1, 1, 1, 34}, 2},
};

INSTANTIATE_TEST_SUITE_P(Shapes, Conv2d, ::testing::ValuesIn(shapes), [](const auto &i) {
    const hn_conv2d_shape &s = i.param.s;
    return case_name("n", s.n, "_h", s.h, "_w", s.w, "_i", s.in, "_o", s.out, "_k", s.kh, "x", s.kw,
                     "_s", s.stride, "_p", s.pad, "_d", s.dilation, "_g", s.groups, "_r",
                     i.param.replicas, i.param.dtype, i.param.bias_dtype);
});

TEST(Conv2dValues, MatchHandComputedOnes)
{
    /* 1 2 3   times 1  2   with a border of zeros, every second window:
     * 4 5 6         3 -1
     * 7 8 9 */
    Plain c = {
        {1, 3, 3, 1, 1, 2, 2, 2, 1, 1, 1}, {1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 2, 3, -1}, {}, {}};
    c.dy = {1, 10, 100, 1000};
    for (const bool by_fast : {false, true}) {
        c.bias = {}, c.all = false;
        /* {0 0; 0 1}, {0 0; 2 3}, {0 4; 0 7}, {5 6; 8 9} */
        EXPECT_EQ(c.y(by_fast), (std::vector<float>{-1, 3, 1, 32}));
        c.bias = {-2};
        c.all = true;
        EXPECT_EQ(c.y(by_fast), (std::vector<float>{0, 1, 0, 30}));
        EXPECT_EQ(c.dx(by_fast),
                  (std::vector<float>{-1, 30, -10, 200, 1000, 2000, -100, 3000, -1000}));
        EXPECT_EQ(c.dw(by_fast), (std::vector<float>{5000, 6400, 8020, 9731}));
    }
}

TEST(Conv2dValues, GroupsSeeTheirOwnChannels)
{
    /* two pixels of four channels, two groups, kernel of one pixel */
    Plain c = {
        {1, 1, 2, 4, 2, 1, 1, 1, 0, 1, 2}, {1, 2, 3, 4, 5, 6, 7, 8}, {1, 10, 100, 1000}, {}, {}};
    c.dy = {1, 2, 3, 4};
    for (const bool by_fast : {false, true}) {
        EXPECT_EQ(c.y(by_fast), (std::vector<float>{21, 4300, 65, 8700}));
        EXPECT_EQ(c.dx(by_fast), (std::vector<float>{1, 10, 200, 2000, 3, 30, 400, 4000}));
        EXPECT_EQ(c.dw(by_fast), (std::vector<float>{16, 20, 34, 40}));
    }
}

/* As in PyTorch relu keeps NaN. */
TEST(Conv2dValues, ReluKeepsNan)
{
    const Plain c = {{1, 1, 2, 1, 1, 1, 1, 1, 0, 1, 1}, {NAN, -1}, {1}, {}, {}, true};
    for (const bool by_fast : {false, true}) {
        const auto y = c.y(by_fast);
        EXPECT_TRUE(std::isnan(y[0]));
        EXPECT_EQ(y[1], 0.0f);
    }
}

TEST(Conv2dReplicas, EqualSeparateCalls)
{
    for (const int64_t groups : {1, 4}) {
        const hn_conv2d_shape s = {6, 4, 3, 4, 4, 3, 3, 2, 1, 1, groups};
        const int64_t taps = hn_conv2d_taps(&s), pixels = 4 * 3, outs = 2 * 2;
        Matrix x(HN_F32, 6 * pixels, 4), w(HN_F32, 12, taps), y(HN_F32, 6 * outs, 4);
        Matrix one(HN_F32, 2 * outs, 4);
        x.normal(1), w.normal(2);
        hn_conv2d_args a = {};
        a.x = x.data(), a.w = w.data(), a.y = y.data(), a.shape = s, a.replicas = 3;
        a.ld_x = x.ld(), a.ld_w = w.ld(), a.ld_y = y.ld();
        for (const int64_t stride : {4 * w.ld(), (int64_t)0}) { /* own weights, and shared */
            a.w_stride = stride;
            ASSERT_HN_OK(Functions::fast(a));
            const auto together = y.values();
            for (int64_t g = 0; g < 3; g++) {
                hn_conv2d_args b = a;
                b.x = x.f32() + 2 * g * pixels * x.ld(), b.w = w.f32() + g * stride;
                b.y = one.data(), b.shape.n = 2, b.replicas = 0, b.ld_y = one.ld();
                ASSERT_HN_OK(Functions::fast(b));
                const auto v = one.values();
                EXPECT_TRUE(std::equal(v.begin(), v.end(), together.begin() + g * 2 * outs * 4));
            }
        }
    }
}

TEST(Conv2dCheck, NamesWhatIsWrong)
{
    float f[256] = {};
    hn_conv2d_args a = {};
    a.x = f, a.w = f + 64, a.y = f + 128, a.shape = {1, 4, 3, 2, 4, 3, 3, 1, 1, 1, 1};
    a.ld_x = 2, a.ld_w = 18, a.ld_y = 4;
    EXPECT_HN_OK(hn_conv2d_check(&a));
    auto with = [&](auto change) {
        hn_conv2d_args b = a;
        change(b);
        return hn_conv2d_check(&b);
    };
    EXPECT_HN_FAIL(hn_conv2d_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.x = nullptr; }), HN_ERR_ARG, "x is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.w = nullptr; }), HN_ERR_ARG, "w is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.y = nullptr; }), HN_ERR_ARG, "y is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    EXPECT_HN_FAIL(with([&](auto &b) { b.bias = f, b.bias_dtype = HN_I32; }), HN_ERR_UNSUPPORTED,
                   "bias_dtype is i32");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_x = 1; }), HN_ERR_SHAPE, "leading dimension 1 of x");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_w = 17; }), HN_ERR_SHAPE, "17 of w must be 18");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_y = 3; }), HN_ERR_SHAPE, "leading dimension 3 of y");
    EXPECT_HN_FAIL(with([](auto &b) { b.replicas = 2; }), HN_ERR_SHAPE, "2 replicas");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.n = b.replicas = 2, b.w_stride = 71; }), HN_ERR_SHAPE,
                   "replicas of w are 71");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.n = 0; }), HN_ERR_SHAPE, "n is 0, must be 1");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.stride = 0; }), HN_ERR_SHAPE, "stride is 0");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.dilation = 0; }), HN_ERR_SHAPE, "dilation is 0");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.pad = -1; }), HN_ERR_SHAPE, "pad is -1, must be 0");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.kh = (int64_t)1 << 31; }), HN_ERR_SHAPE,
                   "kh is 2147483648");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.groups = 4; }), HN_ERR_SHAPE,
                   "2 and 4 channels do not split into 4 groups");
    EXPECT_HN_FAIL(
        with([](auto &b) { b.shape.dilation = 3; }), HN_ERR_SHAPE,
        "a kernel of 3 x 3 with dilation 3 is larger than images of 4 x 3 with padding 1");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.n = b.shape.h = 1 << 20; }), HN_ERR_SHAPE,
                   "the pixels of x, 1048576 x 1048576 x 3, are more than");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.pad = 1 << 17; }), HN_ERR_SHAPE, "the pixels of y");
    EXPECT_HN_FAIL(with([](auto &b) {
                       b.shape.kh = b.shape.kw = 1 << 16, b.shape.pad = 1 << 15, b.shape.h = 1;
                   }),
                   HN_ERR_SHAPE, "the columns of w");

    hn_conv2d_dx_args d = {};
    d.dy = f, d.w = f, d.dx = f + 128, d.shape = a.shape, d.ld_dy = 4, d.ld_w = 18, d.ld_dx = 2;
    EXPECT_HN_OK(hn_conv2d_dx_check(&d));
    d.add = d.dx, d.ld_add = 3;
    EXPECT_HN_FAIL(hn_conv2d_dx_check(&d), HN_ERR_ARG, "3 and 2");
    d.add = f, d.ld_add = 1;
    EXPECT_HN_FAIL(hn_conv2d_dx_check(&d), HN_ERR_SHAPE, "of add");
    d.add = nullptr, d.ld_dy = 3;
    EXPECT_HN_FAIL(hn_conv2d_dx_check(&d), HN_ERR_SHAPE, "dy");

    hn_conv2d_dw_args e = {};
    e.dy = f, e.x = f, e.dw = f + 128, e.shape = a.shape, e.ld_dy = 4, e.ld_x = 2, e.ld_dw = 18;
    EXPECT_HN_OK(hn_conv2d_dw_check(&e));
    e.shape.n = e.replicas = 2;
    EXPECT_HN_FAIL(hn_conv2d_dw_check(&e), HN_ERR_SHAPE, "replicas of dw");
    e.replicas = 0, e.dw = nullptr;
    EXPECT_HN_FAIL(hn_conv2d_dw_check(&e), HN_ERR_ARG, "dw is NULL");
}

TEST(Conv2dCheck, MissingScratchIsAnErrorBeforeTheFirstWrite)
{
    for (const int64_t groups : {1, 2}) {
        const hn_conv2d_shape s = {1, 2, 2, 2, 2, 3, 3, 1, 1, 1, groups};
        Matrix x(HN_F32, 4, 2), w(HN_F32, 2, hn_conv2d_taps(&s)), y(HN_F32, 4, 2);
        x.normal(1), w.normal(2);
        hn_conv2d_args a = {};
        a.x = x.data(), a.w = w.data(), a.y = y.data(), a.shape = s;
        a.ld_x = x.ld(), a.ld_w = w.ld(), a.ld_y = y.ld();
        EXPECT_HN_FAIL(hn_conv2d_fwd_fast(&a, nullptr), HN_ERR_ARG, "scratch");
        for (const float v : y.values()) EXPECT_TRUE(std::isnan(v));
        hn_conv2d_dx_args b = {};
        b.dy = x.data(), b.w = w.data(), b.dx = y.data(), b.shape = s;
        b.ld_dy = x.ld(), b.ld_w = w.ld(), b.ld_dx = y.ld();
        EXPECT_HN_FAIL(hn_conv2d_dx_fast(&b, nullptr), HN_ERR_ARG, "scratch");
        for (const float v : y.values()) EXPECT_TRUE(std::isnan(v));
        Matrix dw(HN_F32, 2, hn_conv2d_taps(&s));
        hn_conv2d_dw_args c = {};
        c.dy = x.data(), c.x = x.data(), c.dw = dw.f32(), c.shape = s;
        c.ld_dy = c.ld_x = x.ld(), c.ld_dw = dw.ld();
        EXPECT_HN_FAIL(hn_conv2d_dw_fast(&c, nullptr), HN_ERR_ARG, "scratch");
        for (const float v : dw.values()) EXPECT_TRUE(std::isnan(v));
    }
}

/* ---- PyTorch and ONNX ---- */

TEST(Conv2dGolden, MatchesPyTorch)
{
    expect_golden_convolutions<Functions>("tests/fixtures/golden/conv2d.safetensors", 13);
}

/* [a, b, h, w] as [a, h, w, b]. */
std::vector<float> channels_last(const onnx::Tensor &t)
{
    const int64_t planes = t.dim(0), channels = t.dim(1), pixels = t.dim(2) * t.dim(3);
    const auto v = t.f32();
    std::vector<float> to(v.size());
    for (int64_t n = 0; n < planes; n++)
        for (int64_t c = 0; c < channels; c++)
            for (int64_t i = 0; i < pixels; i++)
                to[(size_t)((n * pixels + i) * channels + c)] =
                    v[(size_t)((n * channels + c) * pixels + i)];
    return to;
}

std::vector<int64_t> list_of(const onnx::Case &c, const char *name, int64_t otherwise, size_t n)
{
    const auto v = c.integers(name);
    return v.empty() ? std::vector<int64_t>(n, otherwise) : v;
}

bool all_equal(const std::vector<int64_t> &v)
{
    return std::all_of(v.begin(), v.end(), [&](int64_t e) { return e == v[0]; });
}

TEST(Conv2dOnnx, ConvVectors)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    int ran = 0;
    onnx::each(dir, "Conv", [&](const onnx::Case &c) {
        const onnx::Tensor &x = *c.in(0), &w = *c.in(1), &y = *c.out(0);
        const auto pads = list_of(c, "pads", 0, 4), strides = list_of(c, "strides", 1, 2);
        if (!all_equal(pads) || !all_equal(strides)) return; /* one of each is what we have */
        /* SAME_LOWER of five pixels in steps of two: one in front and one behind */
        const int64_t pad = c.text("auto_pad", "") == "SAME_LOWER" ? 1 : pads[0];
        const Plain p = {{x.dim(0), x.dim(2), x.dim(3), x.dim(1), w.dim(0), w.dim(2), w.dim(3),
                          strides[0], pad, 1, 1},
                         channels_last(x),
                         channels_last(w),
                         {},
                         {}};
        for (const bool by_fast : {false, true})
            EXPECT_EQ(p.y(by_fast), channels_last(y)); /* whole numbers */
        ran++;
    });
    EXPECT_EQ(ran, 5);
}

/* A transposed convolution is the input gradient of one whose weight it is. */
TEST(Conv2dOnnx, ConvTransposeVectors)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    int ran = 0;
    onnx::each(dir, "ConvTranspose", [&](const onnx::Case &c) {
        const onnx::Tensor &x = *c.in(0), &w = *c.in(1), &y = *c.out(0);
        const auto dilations = list_of(c, "dilations", 1, 2), strides = list_of(c, "strides", 1, 2);
        if (x.shape.size() != 4 || c.has("pads") || c.has("auto_pad") || !all_equal(strides))
            return;
        Plain p = {{y.dim(0), y.dim(2), y.dim(3), y.dim(1), x.dim(1), w.dim(2), w.dim(3),
                    strides[0], 0, dilations[0], c.integer("group", 1)},
                   {},
                   channels_last(w),
                   {},
                   channels_last(x)};
        for (const bool by_fast : {false, true})
            EXPECT_LT(max_abs(p.dx(by_fast), channels_last(y)), 1e-5); /* sums up to 100 */
        ran++;
    });
    EXPECT_EQ(ran, 4);
}

/* ---- rows of the graph ---- */

class Conv2dGraph : public Graph {
  protected:
    hn_tensor *tensor(hn_mem mem, const char *name, const hn_type &type, bool needs_grad = false)
    {
        hn_tensor *t = nullptr;
        EXPECT_HN_OK(hn_program_tensor(p, mem, name, &type, &t));
        if (t) t->needs_grad = needs_grad;
        return t;
    }
    static hn_attr attr_of(int64_t kernel, int64_t stride, int64_t pad, int64_t groups = 0)
    {
        hn_attr attr = {};
        attr.conv.kh = attr.conv.kw = kernel;
        attr.conv.stride = stride, attr.conv.pad = pad, attr.conv.groups = groups;
        return attr;
    }
};

TEST_F(Conv2dGraph, RefusesWhatDoesNotFit)
{
    hn_graph *g = graph("g", false);
    hn_tensor *x = tensor(HN_MEM_INPUT, "x", {HN_F32, 4, {2, 6, 5, 4}});
    hn_tensor *flat = tensor(HN_MEM_INPUT, "flat", {HN_F32, 2, {60, 4}});
    hn_tensor *w = tensor(HN_MEM_WEIGHT, "w", {HN_F32, 2, {8, 36}});
    hn_tensor *wb = tensor(HN_MEM_WEIGHT, "wb", {HN_BF16, 2, {8, 36}});
    hn_tensor *bias = tensor(HN_MEM_WEIGHT, "bias", {HN_F32, 1, {7}});
    hn_tensor *out[HN_MAX_OUT] = {};
    auto emit_conv = [&](hn_tensor *a, hn_tensor *b, hn_tensor *c, const hn_attr &attr) {
        hn_tensor *const in[] = {a, b, c};
        return hn_emit(g, HN_OP_CONV2D, "layer1.conv", in, &attr, out);
    };
    EXPECT_HN_FAIL(emit_conv(flat, w, nullptr, attr_of(3, 1, 1)), HN_ERR_SHAPE, "layer1.conv");
    EXPECT_HN_FAIL(emit_conv(x, wb, nullptr, attr_of(3, 1, 1)), HN_ERR_SHAPE, "one dtype");
    EXPECT_HN_FAIL(emit_conv(x, w, bias, attr_of(3, 1, 1)), HN_ERR_SHAPE, "bias [out]");
    EXPECT_HN_FAIL(emit_conv(x, w, nullptr, attr_of(2, 1, 1)), HN_ERR_SHAPE,
                   "w has 36 columns, a kernel of 2 x 2 over 4 channels has 16");
    EXPECT_HN_FAIL(emit_conv(x, w, nullptr, attr_of(0, 1, 1)), HN_ERR_SHAPE, "kh is 0");
    EXPECT_HN_FAIL(emit_conv(x, w, nullptr, attr_of(3, 1, 1, 3)), HN_ERR_SHAPE, "3 groups");
    EXPECT_HN_FAIL(emit_conv(x, w, nullptr, attr_of(7, 1, 0)), HN_ERR_SHAPE, "is larger than");
    ASSERT_HN_OK(emit_conv(x, w, nullptr, attr_of(3, 2, 1)));
    char text[64];
    EXPECT_STREQ(hn_type_text(&out[0]->type, text, sizeof text), "f32[2, 3, 3, 8]");

    hn_tensor *const in[] = {out[0], w, nullptr};
    hn_attr attr = attr_of(3, 2, 1);
    attr.conv.h = 8, attr.conv.w = 5;
    EXPECT_HN_FAIL(hn_emit(g, HN_OP_CONV2D_DX, "dx", in, &attr, out), HN_ERR_SHAPE, "forward");
    attr.conv.h = 6;
    ASSERT_HN_OK(hn_emit(g, HN_OP_CONV2D_DX, "dx", in, &attr, out));
    EXPECT_TRUE(hn_type_same(&out[0]->type, &x->type));
}

/* Pixels of y keep the 16-byte steps that matrices have. */
TEST_F(Conv2dGraph, PitchOfImagesIsRoundedUp)
{
    hn_graph *g = graph("g", false);
    hn_tensor *const in[] = {tensor(HN_MEM_INPUT, "x", {HN_BF16, 4, {2, 3, 3, 4}}),
                             tensor(HN_MEM_WEIGHT, "w", {HN_BF16, 2, {5, 4}}), nullptr};
    hn_tensor *out[HN_MAX_OUT] = {};
    const hn_attr attr = attr_of(1, 1, 0);
    ASSERT_HN_OK(hn_emit(g, HN_OP_CONV2D, "c", in, &attr, out));
    EXPECT_EQ(hn_type_ld(&out[0]->type), 8);
    EXPECT_EQ(hn_type_rows(&out[0]->type), 18);
}

/* What two convolutions read gets the sum of their gradients, in images of the same axes. */
TEST_F(Conv2dGraph, GradientsOfASharedInputAreAdded)
{
    hn_graph *g = graph("g", true);
    hn_tensor *x = tensor(HN_MEM_INPUT, "x", {HN_F32, 4, {2, 4, 5, 3}}, true);
    hn_tensor *w[2], *y[2], *dy[2];
    std::vector<float> want;
    for (size_t k = 0; k < 2; k++) {
        const std::string name = std::to_string(k);
        const int64_t kernel = k ? 1 : 3;
        hn_conv2d_shape s = {2, 4, 5, 3, 4, kernel, kernel, 2, kernel / 2, 1, 1};
        w[k] = tensor(HN_MEM_INPUT, ("w" + name).c_str(), {HN_F32, 2, {4, hn_conv2d_taps(&s)}});
        hn_tensor *const in[] = {x, w[k], nullptr};
        hn_tensor *out[HN_MAX_OUT] = {};
        const hn_attr attr = attr_of(kernel, 2, kernel / 2);
        ASSERT_HN_OK(hn_emit(g, HN_OP_CONV2D, name.c_str(), in, &attr, out));
        y[k] = out[0];
        dy[k] = tensor(HN_MEM_INPUT, ("dy" + name).c_str(), y[k]->type);
        Plain c = {s, {}, normal_f32((size_t)(4 * hn_conv2d_taps(&s)), 1), {}, {}};
        c.dy = normal_f32((size_t)hn_type_elements(&y[k]->type), 2 + (unsigned)k);
        const auto dx = c.dx(false);
        want.resize(dx.size());
        for (size_t i = 0; i < dx.size(); i++) want[i] += dx[i];
    }
    ASSERT_HN_OK(hn_graph_backward(g, 2, y, dy));
    hn_tensor *dx = hn_graph_grad(g, x);
    ASSERT_NE(dx, nullptr);
    EXPECT_TRUE(hn_type_same(&dx->type, &x->type));
    hn_graph_keep(dx);
    plan();
    for (size_t k = 0; k < 2; k++) {
        const auto v = normal_f32((size_t)hn_type_elements(&w[k]->type), 1);
        const auto d = normal_f32((size_t)hn_type_elements(&dy[k]->type), 2 + (unsigned)k);
        ASSERT_HN_OK(hn_tensor_set(w[k], v.data()));
        ASSERT_HN_OK(hn_tensor_set(dy[k], d.data()));
    }
    ASSERT_HN_OK(run(g, true));
    std::vector<float> got(want.size());
    ASSERT_HN_OK(hn_tensor_get(dx, got.data()));
    EXPECT_LT(rel_l2(got, want), 1e-6); /* a few rounded sums of 16 terms */
}

/* Neither the images nor a frozen weight get a node of their own. */
TEST_F(Conv2dGraph, GradientsThatNobodyNeedsAreNotMade)
{
    for (const bool frozen : {false, true}) {
        hn_graph *g = graph(frozen ? "frozen" : "trained", true);
        const std::string name = frozen ? "b" : "a";
        hn_tensor *x = tensor(HN_MEM_INPUT, (name + "x").c_str(), {HN_F32, 4, {1, 4, 4, 2}});
        hn_tensor *w1 = tensor(HN_MEM_INPUT, (name + "1").c_str(), {HN_F32, 2, {3, 18}}, true);
        hn_tensor *w2 = tensor(HN_MEM_INPUT, (name + "2").c_str(), {HN_F32, 2, {2, 27}}, !frozen);
        hn_tensor *mid[HN_MAX_OUT] = {}, *y[HN_MAX_OUT] = {};
        const hn_attr attr = attr_of(3, 1, 1);
        hn_tensor *const first[] = {x, w1, nullptr};
        ASSERT_HN_OK(hn_emit(g, HN_OP_CONV2D, "c1", first, &attr, mid));
        hn_tensor *const second[] = {mid[0], w2, nullptr};
        ASSERT_HN_OK(hn_emit(g, HN_OP_CONV2D, "c2", second, &attr, y));
        hn_tensor *dy = tensor(HN_MEM_INPUT, (name + "dy").c_str(), y[0]->type);
        ASSERT_HN_OK(hn_graph_backward(g, 1, y, &dy));
        int dx = 0, dw = 0;
        for (int64_t i = 0; i < hn_graph_nodes(g); i++) {
            dx += hn_graph_node(g, i)->op == HN_OP_CONV2D_DX;
            dw += hn_graph_node(g, i)->op == HN_OP_CONV2D_DW;
        }
        EXPECT_EQ(dx, 1);
        EXPECT_EQ(dw, frozen ? 1 : 2);
    }
}

} // namespace
