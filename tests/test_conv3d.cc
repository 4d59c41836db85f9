/* kernels/conv: the convolution of volumes and its gradients, by twin and fast functions, beside
 * PyTorch's values; its rows in the graph. */
#include "conv_test.h"
#include "graph_test.h"
#include "kernels/conv/conv3d.h"

namespace {

/* For conv_test.h. */
struct Functions {
    using Shape = hn_conv3d_shape;
    using Fwd = hn_conv3d_args;
    using Dx = hn_conv3d_dx_args;
    using Dw = hn_conv3d_dw_args;
    static int64_t taps(const Shape &s) { return hn_conv3d_taps(&s); }
    static int64_t rows_in(const Shape &s) { return hn_conv3d_voxels_in(&s); }
    static int64_t rows_out(const Shape &s) { return hn_conv3d_voxels_out(&s); }
    static void add_all(Fwd &) {}
    static hn_status twin(const Fwd &a) { return hn_conv3d_fwd_cpu(&a); }
    static hn_status twin(const Dx &a) { return hn_conv3d_dx_cpu(&a); }
    static hn_status twin(const Dw &a) { return hn_conv3d_dw_cpu(&a); }
    static hn_status fast(const Fwd &a)
    {
        Scratch scratch(hn_conv3d_fwd_fast_scratch(&a));
        return hn_conv3d_fwd_fast(&a, scratch.data());
    }
    static hn_status fast(const Dx &a)
    {
        Scratch scratch(hn_conv3d_dx_fast_scratch(&a));
        return hn_conv3d_dx_fast(&a, scratch.data());
    }
    static hn_status fast(const Dw &a)
    {
        Scratch scratch(hn_conv3d_dw_fast_scratch(&a));
        return hn_conv3d_dw_fast(&a, scratch.data());
    }
};
using Plain = PlainConv<Functions>;

class Conv3d : public ConvTest<Functions> {};
HN_CONV_TESTS(Conv3d)

/* Smallest; lines of one step, of one more and of several; more rows than an item has, also with
 * dilation; dilation beyond the volume; padding that is less and more than the kernel; strides that
 * leave voxels over; windows in the padding alone; one voxel; replicas. */
const ConvCase<Functions> shapes[] = {
    {HN_F32, HN_F32, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1}, 0},
    {HN_F32, HN_F32, {1, 3, 4, 16, 3, 5, 3, 3, 3, 1, 1, 1}, 0},
    {HN_F32, HN_BF16, {2, 3, 5, 17, 5, 4, 3, 3, 3, 1, 1, 1}, 0},
    {HN_F32, HN_F32, {1, 2, 70, 9, 2, 3, 3, 3, 3, 1, 1, 1}, 0},
    {HN_F32, HN_F32, {1, 3, 37, 6, 2, 3, 3, 3, 3, 1, 4, 4}, 0},
    {HN_F32, HN_F32, {1, 9, 10, 40, 5, 5, 3, 3, 3, 1, 8, 8}, 0},
    {HN_F32, HN_F32, {1, 4, 5, 6, 2, 2, 3, 3, 3, 1, 16, 16}, 0},
    {HN_F32, HN_F32, {2, 6, 7, 8, 3, 6, 3, 2, 4, 1, 0, 1}, 0},
    {HN_F32, HN_F32, {1, 4, 5, 6, 3, 2, 2, 3, 2, 1, 5, 1}, 0},
    {HN_F32, HN_F32, {2, 5, 6, 19, 4, 7, 3, 3, 3, 2, 1, 1}, 0},
    {HN_F32, HN_F32, {1, 7, 8, 9, 2, 3, 3, 2, 3, 3, 4, 2}, 0},
    {HN_F32, HN_F32, {1, 2, 3, 2, 2, 2, 3, 2, 2, 4, 3, 1}, 0},
    {HN_F32, HN_F32, {2, 4, 5, 6, 12, 9, 1, 1, 1, 1, 0, 1}, 0},
    {HN_F32, HN_F32, {1, 3, 4, 5, 33, 34, 3, 3, 3, 1, 1, 1}, 0},
    {HN_F32, HN_F32, {6, 2, 3, 4, 3, 4, 3, 3, 3, 1, 1, 1}, 3},
    {HN_BF16, HN_BF16, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1}, 0},
    {HN_BF16, HN_F32, {2, 3, 5, 17, 5, 4, 3, 3, 3, 1, 2, 2}, 0},
    {HN_BF16, HN_BF16, {1, 5, 6, 9, 4, 6, 3, 3, 3, 2, 1, 1}, 0},
    {HN_BF16, HN_F32, {4, 2, 3, 4, 3, 4, 3, 3, 3, 1, 1, 1}, 2},
};

INSTANTIATE_TEST_SUITE_P(Shapes, Conv3d, ::testing::ValuesIn(shapes), [](const auto &i) {
    const hn_conv3d_shape &s = i.param.s;
    return case_name("n", s.n, "_d", s.d, "_h", s.h, "_w", s.w, "_i", s.in, "_o", s.out, "_k", s.kd,
                     "x", s.kh, "x", s.kw, "_s", s.stride, "_p", s.pad, "_d", s.dilation, "_r",
                     i.param.replicas, i.param.dtype, i.param.bias_dtype);
});

TEST(Conv3dValues, MatchHandComputedOnes)
{
    /* planes 1 2  5 6   under a kernel of 2 x 1 x 2: front 1 10, back 100 1000
     *        3 4  7 8 */
    const Plain c = {{1, 2, 2, 2, 1, 1, 2, 1, 2, 1, 0, 1},
                     {1, 2, 3, 4, 5, 6, 7, 8},
                     {1, 10, 100, 1000},
                     {0.5f},
                     {1, 2}};
    for (const bool by_fast : {false, true}) {
        EXPECT_EQ(c.y(by_fast), (std::vector<float>{6521.5f, 8743.5f}));
        EXPECT_EQ(c.dx(by_fast), (std::vector<float>{1, 10, 2, 20, 100, 1000, 200, 2000}));
        EXPECT_EQ(c.dw(by_fast), (std::vector<float>{7, 10, 19, 22}));
    }
}

TEST(Conv3dValues, ChannelsAreLastAndPaddingIsZero)
{
    /* a line of two voxels of two channels; every second window of a kernel of three voxels */
    const Plain c = {
        {1, 1, 1, 2, 2, 1, 1, 1, 3, 2, 1, 1}, {1, 2, 3, 4}, {1, 2, 3, 4, 5, 6}, {}, {10}};
    /* padding of the other axes: planes and rows of zeros, of which every second is made */
    for (const bool by_fast : {false, true}) {
        const auto y = c.y(by_fast);
        ASSERT_EQ(y.size(), 4u); /* (1 + 2 - 1) / 2 + 1 planes and rows, one column */
        EXPECT_EQ(y, (std::vector<float>{0, 0, 0, 0}));
    }
    const Plain d = {
        {1, 1, 1, 3, 2, 1, 1, 1, 2, 1, 0, 2}, {1, 2, 3, 4, 5, 6}, {1, 10, 100, 1000}, {}, {3}};
    for (const bool by_fast : {false, true}) {
        EXPECT_EQ(d.y(by_fast), (std::vector<float>{6521}));
        EXPECT_EQ(d.dx(by_fast), (std::vector<float>{3, 30, 0, 0, 300, 3000}));
        EXPECT_EQ(d.dw(by_fast), (std::vector<float>{3, 6, 15, 18}));
    }
}

TEST(Conv3dReplicas, EqualSeparateCalls)
{
    const hn_conv3d_shape s = {6, 2, 4, 3, 4, 5, 3, 3, 3, 2, 1, 1};
    hn_conv3d_shape of_one = s;
    of_one.n = 2;
    const int64_t taps = hn_conv3d_taps(&s), voxels = hn_conv3d_voxels_in(&of_one);
    const int64_t outs = hn_conv3d_voxels_out(&of_one);
    Matrix x(HN_F32, 3 * voxels, 4), w(HN_F32, 15, taps), y(HN_F32, 3 * outs, 5);
    Matrix one(HN_F32, outs, 5);
    x.normal(1), w.normal(2);
    hn_conv3d_args a = {};
    a.x = x.data(), a.w = w.data(), a.y = y.data(), a.shape = s, a.replicas = 3;
    a.ld_x = x.ld(), a.ld_w = w.ld(), a.ld_y = y.ld();
    for (const int64_t stride : {5 * w.ld(), (int64_t)0}) { /* own weights, and shared */
        a.w_stride = stride;
        ASSERT_HN_OK(Functions::fast(a));
        const auto together = y.values();
        for (int64_t g = 0; g < 3; g++) {
            hn_conv3d_args b = a;
            b.x = x.f32() + g * voxels * x.ld(), b.w = w.f32() + g * stride;
            b.y = one.data(), b.shape.n = 2, b.replicas = 0, b.ld_y = one.ld();
            ASSERT_HN_OK(Functions::fast(b));
            const auto v = one.values();
            EXPECT_TRUE(std::equal(v.begin(), v.end(), together.begin() + g * outs * 5));
        }
    }
}

TEST(Conv3dCheck, NamesWhatIsWrong)
{
    float f[1024] = {};
    hn_conv3d_args a = {};
    a.x = f, a.w = f + 64, a.y = f + 512, a.shape = {1, 3, 4, 3, 2, 4, 3, 3, 3, 1, 1, 1};
    a.ld_x = 2, a.ld_w = 54, a.ld_y = 4;
    EXPECT_HN_OK(hn_conv3d_check(&a));
    auto with = [&](auto change) {
        hn_conv3d_args b = a;
        change(b);
        return hn_conv3d_check(&b);
    };
    EXPECT_HN_FAIL(hn_conv3d_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.x = nullptr; }), HN_ERR_ARG, "x is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.w = nullptr; }), HN_ERR_ARG, "w is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.y = nullptr; }), HN_ERR_ARG, "y is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    EXPECT_HN_FAIL(with([&](auto &b) { b.bias = f, b.bias_dtype = HN_I32; }), HN_ERR_UNSUPPORTED,
                   "bias_dtype is i32");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_x = 1; }), HN_ERR_SHAPE, "leading dimension 1 of x");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_w = 53; }), HN_ERR_SHAPE, "53 of w must be 54");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_y = 3; }), HN_ERR_SHAPE, "leading dimension 3 of y");
    EXPECT_HN_FAIL(with([](auto &b) { b.replicas = 2; }), HN_ERR_SHAPE, "2 replicas");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.n = b.replicas = 2, b.w_stride = 215; }),
                   HN_ERR_SHAPE, "replicas of w are 215");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.d = 0; }), HN_ERR_SHAPE, "d is 0, must be 1");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.stride = 0; }), HN_ERR_SHAPE, "stride is 0");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.dilation = 0; }), HN_ERR_SHAPE, "dilation is 0");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.pad = -1; }), HN_ERR_SHAPE, "pad is -1, must be 0");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.kd = (int64_t)1 << 31; }), HN_ERR_SHAPE,
                   "kd is 2147483648");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.pad = INT32_MAX; }), HN_ERR_SHAPE,
                   "sides of 4 with padding 2147483647 are longer");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.dilation = 3; }), HN_ERR_SHAPE,
                   "a kernel of 3 x 3 x 3 with dilation 3 is larger than volumes of 3 x 4 x 3 with "
                   "padding 1");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.n = b.shape.h = 1 << 15; }), HN_ERR_SHAPE,
                   "the voxels of x, 32768 x 3 x 32768 x 3, are more than");
    EXPECT_HN_FAIL(with([](auto &b) { b.shape.pad = 1 << 10; }), HN_ERR_SHAPE, "the voxels of y");
    EXPECT_HN_FAIL(with([](auto &b) {
                       b.shape.kd = b.shape.kh = b.shape.kw = 1 << 11, b.shape.pad = 1 << 10;
                       b.shape.d = b.shape.h = b.shape.w = 1;
                   }),
                   HN_ERR_SHAPE, "the columns of w");

    hn_conv3d_dx_args d = {};
    d.dy = f, d.w = f, d.dx = f + 512, d.shape = a.shape, d.ld_dy = 4, d.ld_w = 54, d.ld_dx = 2;
    EXPECT_HN_OK(hn_conv3d_dx_check(&d));
    d.add = d.dx, d.ld_add = 3;
    EXPECT_HN_FAIL(hn_conv3d_dx_check(&d), HN_ERR_ARG, "3 and 2");
    d.add = f, d.ld_add = 1;
    EXPECT_HN_FAIL(hn_conv3d_dx_check(&d), HN_ERR_SHAPE, "of add");
    d.add = nullptr, d.ld_dy = 3;
    EXPECT_HN_FAIL(hn_conv3d_dx_check(&d), HN_ERR_SHAPE, "dy");

    hn_conv3d_dw_args e = {};
    e.dy = f, e.x = f, e.dw = f + 512, e.shape = a.shape, e.ld_dy = 4, e.ld_x = 2, e.ld_dw = 54;
    EXPECT_HN_OK(hn_conv3d_dw_check(&e));
    e.shape.n = e.replicas = 2;
    EXPECT_HN_FAIL(hn_conv3d_dw_check(&e), HN_ERR_SHAPE, "replicas of dw");
    e.replicas = 0, e.dw = nullptr;
    EXPECT_HN_FAIL(hn_conv3d_dw_check(&e), HN_ERR_ARG, "dw is NULL");
}

TEST(Conv3dCheck, MissingScratchIsAnErrorBeforeTheFirstWrite)
{
    const hn_conv3d_shape s = {1, 2, 2, 2, 2, 2, 3, 3, 3, 1, 1, 1};
    Matrix x(HN_F32, 8, 2), w(HN_F32, 2, hn_conv3d_taps(&s)), y(HN_F32, 8, 2);
    Matrix dw(HN_F32, 2, hn_conv3d_taps(&s));
    x.normal(1), w.normal(2);
    hn_conv3d_args a = {};
    a.x = x.data(), a.w = w.data(), a.y = y.data(), a.shape = s;
    a.ld_x = x.ld(), a.ld_w = w.ld(), a.ld_y = y.ld();
    EXPECT_HN_FAIL(hn_conv3d_fwd_fast(&a, nullptr), HN_ERR_ARG, "scratch");
    hn_conv3d_dx_args b = {};
    b.dy = x.data(), b.w = w.data(), b.dx = y.data(), b.shape = s;
    b.ld_dy = x.ld(), b.ld_w = w.ld(), b.ld_dx = y.ld();
    EXPECT_HN_FAIL(hn_conv3d_dx_fast(&b, nullptr), HN_ERR_ARG, "scratch");
    hn_conv3d_dw_args c = {};
    c.dy = x.data(), c.x = x.data(), c.dw = dw.f32(), c.shape = s;
    c.ld_dy = c.ld_x = x.ld(), c.ld_dw = dw.ld();
    EXPECT_HN_FAIL(hn_conv3d_dw_fast(&c, nullptr), HN_ERR_ARG, "scratch");
    for (const float v : y.values()) EXPECT_TRUE(std::isnan(v));
    for (const float v : dw.values()) EXPECT_TRUE(std::isnan(v));
}

/* The scratch of a whole head at one voxel a millimetre is a few lines a thread. */
TEST(Conv3dScratch, DoesNotGrowWithTheVolume)
{
    hn_conv3d_args a = {};
    a.shape = {1, 8, 256, 256, 5, 5, 3, 3, 3, 1, 16, 16};
    const size_t few = hn_conv3d_fwd_fast_scratch(&a);
    a.shape.d = 256;
    EXPECT_EQ(hn_conv3d_fwd_fast_scratch(&a), few);
    EXPECT_LT(few, (size_t)omp_get_max_threads() << 18);
}

/* ---- PyTorch ---- */

TEST(Conv3dGolden, MatchesPyTorch)
{
    expect_golden_convolutions<Functions>("tests/fixtures/golden/conv3d.safetensors", 8);
}

/* ---- rows of the graph ---- */

class Conv3dGraph : public Graph {
  protected:
    hn_tensor *tensor(hn_mem mem, const char *name, const hn_type &type, bool needs_grad = false)
    {
        hn_tensor *t = nullptr;
        EXPECT_HN_OK(hn_program_tensor(p, mem, name, &type, &t));
        if (t) t->needs_grad = needs_grad;
        return t;
    }
    static hn_attr attr_of(int64_t kernel, int64_t stride, int64_t pad)
    {
        hn_attr attr = {};
        attr.conv3d.kd = attr.conv3d.kh = attr.conv3d.kw = kernel;
        attr.conv3d.stride = stride, attr.conv3d.pad = pad;
        return attr;
    }
};

TEST_F(Conv3dGraph, RefusesWhatDoesNotFit)
{
    hn_graph *g = graph("g", false);
    hn_tensor *x = tensor(HN_MEM_INPUT, "x", {HN_F32, 5, {2, 4, 6, 5, 4}});
    hn_tensor *image = tensor(HN_MEM_INPUT, "image", {HN_F32, 4, {2, 6, 5, 4}});
    hn_tensor *w = tensor(HN_MEM_WEIGHT, "w", {HN_F32, 2, {8, 108}});
    hn_tensor *wb = tensor(HN_MEM_WEIGHT, "wb", {HN_BF16, 2, {8, 108}});
    hn_tensor *bias = tensor(HN_MEM_WEIGHT, "bias", {HN_F32, 1, {7}});
    hn_tensor *out[HN_MAX_OUT] = {};
    auto emit_conv = [&](hn_tensor *a, hn_tensor *b, hn_tensor *c, const hn_attr &attr) {
        hn_tensor *const in[] = {a, b, c};
        return hn_emit(g, HN_OP_CONV3D, "conv0", in, &attr, out);
    };
    EXPECT_HN_FAIL(emit_conv(image, w, nullptr, attr_of(3, 1, 1)), HN_ERR_SHAPE, "conv0");
    EXPECT_HN_FAIL(emit_conv(x, wb, nullptr, attr_of(3, 1, 1)), HN_ERR_SHAPE, "one dtype");
    EXPECT_HN_FAIL(emit_conv(x, w, bias, attr_of(3, 1, 1)), HN_ERR_SHAPE, "bias [out]");
    EXPECT_HN_FAIL(emit_conv(x, w, nullptr, attr_of(2, 1, 1)), HN_ERR_SHAPE,
                   "w has 108 columns, a kernel of 2 x 2 x 2 over 4 channels has 32");
    EXPECT_HN_FAIL(emit_conv(x, w, nullptr, attr_of(0, 1, 1)), HN_ERR_SHAPE, "kd is 0");
    EXPECT_HN_FAIL(emit_conv(x, w, nullptr, attr_of(7, 1, 0)), HN_ERR_SHAPE, "is larger than");
    ASSERT_HN_OK(emit_conv(x, w, nullptr, attr_of(3, 2, 1)));
    char text[64];
    EXPECT_STREQ(hn_type_text(&out[0]->type, text, sizeof text), "f32[2, 2, 3, 3, 8]");

    hn_tensor *const in[] = {out[0], w, nullptr};
    hn_attr attr = attr_of(3, 2, 1);
    attr.conv3d.d = 4, attr.conv3d.h = 8, attr.conv3d.w = 5;
    EXPECT_HN_FAIL(hn_emit(g, HN_OP_CONV3D_DX, "dx", in, &attr, out), HN_ERR_SHAPE, "forward");
    attr.conv3d.h = 6;
    ASSERT_HN_OK(hn_emit(g, HN_OP_CONV3D_DX, "dx", in, &attr, out));
    EXPECT_TRUE(hn_type_same(&out[0]->type, &x->type));
}

} // namespace
