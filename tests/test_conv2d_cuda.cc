/* The convolution on a GPU against the CPU twin, on our own kernels and through cuDNN: shapes,
 * repeatability, captured replay, aliasing, limits, and the choice that a plan makes. */
#include "gemm_cuda_test.h"
#include "kernels/conv/conv2d_cudnn.h"
#include "runtime/base/alloc.h"
#include "runtime/graph/plan.h"
#include "runtime/graph/run.h"
#include "runtime/graph/tensor.h"

namespace {

enum Impl { OWN, CUDNN };

/* One library of each for all tests. NULL: cuDNN is not there, and the test is skipped. */
hn_gemm_cuda *gemm()
{
    static Gemm *g = new Gemm;
    return *g;
}

hn_conv2d_cudnn *cudnn()
{
    static hn_conv2d_cudnn *c = [] {
        hn_cudnn *lib = nullptr;
        hn_conv2d_cudnn *opened = nullptr;
        if (hn_cudnn_open(&lib) != HN_OK || hn_conv2d_cudnn_open(lib, &opened) != HN_OK)
            std::printf("%s\n", hn_last_error());
        return opened;
    }();
    return c;
}

#define HN_NEED_CUDNN()                                                                  \
    HN_NEED_CUDA();                                                                      \
    if (cudnn() == nullptr) {                                                            \
        ASSERT_EQ(std::getenv("HN_REQUIRE_GPU"), nullptr) << "no cuDNN on this machine"; \
        GTEST_SKIP() << "no cuDNN on this machine";                                      \
    }

/* ---- the three passes under one name ---- */

hn_status cpu(const hn_conv2d_args &a) { return hn_conv2d_fwd_cpu(&a); }
hn_status cpu(const hn_conv2d_dx_args &a) { return hn_conv2d_dx_cpu(&a); }
hn_status cpu(const hn_conv2d_dw_args &a) { return hn_conv2d_dw_cpu(&a); }

size_t own_scratch(const hn_conv2d_args &a) { return hn_conv2d_fwd_cuda_scratch(&a); }
size_t own_scratch(const hn_conv2d_dx_args &a) { return hn_conv2d_dx_cuda_scratch(&a); }
size_t own_scratch(const hn_conv2d_dw_args &a) { return hn_conv2d_dw_cuda_scratch(&a); }

hn_status plan(const hn_conv2d_args &a, size_t *bytes)
{
    return hn_conv2d_cudnn_plan_fwd(cudnn(), &a, bytes);
}
hn_status plan(const hn_conv2d_dx_args &a, size_t *bytes)
{
    return hn_conv2d_cudnn_plan_dx(cudnn(), &a, bytes);
}
hn_status plan(const hn_conv2d_dw_args &a, size_t *bytes)
{
    return hn_conv2d_cudnn_plan_dw(cudnn(), &a, bytes);
}

hn_status own(const hn_conv2d_args &a, void *scratch, hn_stream s)
{
    return hn_conv2d_fwd_cuda(&a, gemm(), scratch, s);
}
hn_status own(const hn_conv2d_dx_args &a, void *scratch, hn_stream s)
{
    return hn_conv2d_dx_cuda(&a, gemm(), scratch, s);
}
hn_status own(const hn_conv2d_dw_args &a, void *scratch, hn_stream s)
{
    return hn_conv2d_dw_cuda(&a, gemm(), scratch, s);
}

hn_status through_cudnn(const hn_conv2d_args &a, void *scratch, hn_stream s)
{
    return hn_conv2d_cudnn_fwd(cudnn(), &a, scratch, s);
}
hn_status through_cudnn(const hn_conv2d_dx_args &a, void *scratch, hn_stream s)
{
    return hn_conv2d_cudnn_dx(cudnn(), &a, scratch, s);
}
hn_status through_cudnn(const hn_conv2d_dw_args &a, void *scratch, hn_stream s)
{
    return hn_conv2d_cudnn_dw(cudnn(), &a, scratch, s);
}

template <class Args>
size_t scratch_of(Impl impl, const Args &a)
{
    size_t bytes = 0;
    if (impl == OWN) return own_scratch(a);
    EXPECT_HN_OK(plan(a, &bytes));
    return bytes;
}

/* A call with its plan and its scratch, which holds NaN: it needs no clearing. */
template <class Args>
struct Call {
    const Impl impl;
    const Args a;
    DeviceScratch scratch;

    Call(Impl how, const Args &args) : impl(how), a(args), scratch(scratch_of(how, args)) {}
    void enqueue(hn_stream s)
    {
        if (impl == OWN)
            EXPECT_HN_OK(own(a, scratch.data(), s));
        else
            EXPECT_HN_OK(through_cudnn(a, scratch.data(), s));
    }
};

/* ---- problems ---- */

struct Shape {
    const char *name;
    hn_conv2d_shape s;
    int64_t replicas;
};

struct Case {
    Shape shape;
    Impl impl;
    hn_dtype dtype, bias_dtype;
    bool aligned; /* rows on 16-byte boundaries, w without gaps */
};

std::ostream &operator<<(std::ostream &o, const Case &c) { return o << c.shape.name; }

/* The same values on the host (M = Matrix) or on the device. */
template <class M>
struct Problem {
    const hn_conv2d_shape s;
    const hn_dtype dtype, bias_dtype;
    const int64_t replicas, g, taps, rows, out_rows;
    M x, w, bias, dy, add, y, dx, dw;

    explicit Problem(const Case &c)
        : s(c.shape.s), dtype(c.dtype), bias_dtype(c.bias_dtype), replicas(c.shape.replicas),
          g(replicas > 1 ? replicas : 1), taps(hn_conv2d_taps(&s)), rows(s.n * s.h * s.w),
          out_rows(s.n * hn_conv2d_out_h(&s) * hn_conv2d_out_w(&s)),
          x(dtype, rows, s.in, gap(c, s.in, 8)), w(dtype, g * s.out, taps, c.aligned ? 0 : 3),
          bias(bias_dtype, g, s.out), dy(dtype, out_rows, s.out, gap(c, s.out, 16)),
          add(dtype, rows, s.in, gap(c, s.in, 0)), y(dtype, out_rows, s.out, gap(c, s.out, 0)),
          dx(dtype, rows, s.in, gap(c, s.in, 0)), dw(HN_F32, g * s.out, taps)
    {
        x.normal(1), w.normal(2, 0, 0.2f), bias.normal(3), dy.normal(5), add.normal(6);
        dw.normal(8);
    }
    static int64_t gap(const Case &c, int64_t cols, int64_t more)
    {
        return c.aligned ? hn_gemm_cuda_padded(cols, HN_BF16) - cols + more : 3;
    }
    hn_conv2d_args fwd(bool full)
    {
        hn_conv2d_args a = {};
        a.x = x.data(), a.w = w.data(), a.y = y.data(), a.shape = s;
        if (full) a.bias = bias.data(), a.relu = true;
        a.ld_x = x.ld(), a.ld_w = w.ld(), a.ld_y = y.ld();
        a.replicas = replicas, a.w_stride = s.out * w.ld(), a.bias_stride = bias.ld();
        a.dtype = dtype, a.bias_dtype = full ? bias_dtype : dtype;
        return a;
    }
    hn_conv2d_dx_args back(bool full)
    {
        hn_conv2d_dx_args a = {};
        a.dy = dy.data(), a.w = w.data(), a.dx = dx.data(), a.shape = s;
        if (full) a.add = add.data();
        a.ld_dy = dy.ld(), a.ld_w = w.ld(), a.ld_add = add.ld(), a.ld_dx = dx.ld();
        a.replicas = replicas, a.w_stride = s.out * w.ld(), a.dtype = dtype;
        return a;
    }
    hn_conv2d_dx_args back_in_place()
    {
        hn_conv2d_dx_args a = back(true);
        a.dx = add.data(), a.ld_dx = a.ld_add;
        return a;
    }
    hn_conv2d_dw_args weight()
    {
        hn_conv2d_dw_args a = {};
        a.dy = dy.data(), a.x = x.data(), a.dw = dw.f32(), a.shape = s;
        a.ld_dy = dy.ld(), a.ld_x = x.ld(), a.ld_dw = dw.ld();
        a.replicas = replicas, a.dw_stride = s.out * dw.ld(), a.dtype = dtype;
        return a;
    }
};

template <class Args>
void run(Impl impl, const Args &a)
{
    Call<Args>(impl, a).enqueue(nullptr);
}

/* f32: sums of up to some thousand terms in fp32. bf16: one rounding at the store (1.7e-3 of the
 * norm), or two where bias and add are a pass of their own. */
double close(hn_dtype t) { return t == HN_F32 ? 5e-6 : 4e-3; }

class Conv2dCuda : public ::testing::TestWithParam<Case> {
  protected:
    const Impl impl = GetParam().impl;
    const hn_dtype dtype = GetParam().dtype;
    Problem<Matrix> host{GetParam()};
    /* cuDNN's gradient of w is rounded to the dtype of dy and x. */
    const double dw_close = close(impl == OWN ? HN_F32 : dtype);
};

#define HN_NEED_IMPL()              \
    HN_NEED_CUDA();                 \
    if (GetParam().impl == CUDNN) { \
        HN_NEED_CUDNN();            \
    }

TEST_P(Conv2dCuda, CudaMatchesCpu)
{
    HN_NEED_IMPL();
    Problem<DeviceMatrix> gpu(GetParam());
    for (const bool full : {false, true}) {
        SCOPED_TRACE(full ? "with bias, relu, add" : "plain");
        ASSERT_HN_OK(cpu(host.fwd(full)));
        run(impl, gpu.fwd(full));
        EXPECT_LT(rel_l2(gpu.y.values(), host.y.values()), close(dtype));
        ASSERT_HN_OK(cpu(host.back(full)));
        run(impl, gpu.back(full));
        EXPECT_LT(rel_l2(gpu.dx.values(), host.dx.values()), close(dtype));
    }
    ASSERT_HN_OK(cpu(host.weight()));
    run(impl, gpu.weight());
    EXPECT_LT(rel_l2(gpu.dw.values(), host.dw.values()), dw_close);
}

TEST_P(Conv2dCuda, CudaRepeatsBitForBit)
{
    HN_NEED_IMPL();
    std::vector<std::vector<float>> first;
    for (int i = 0; i < 3; i++) {
        Problem<DeviceMatrix> gpu(GetParam());
        run(impl, gpu.fwd(true));
        run(impl, gpu.back(true));
        run(impl, gpu.weight());
        const std::vector<std::vector<float>> now = {gpu.y.values(), gpu.dx.values(),
                                                     gpu.dw.values()};
        if (first.empty()) first = now;
        for (size_t k = 0; k < now.size(); k++) EXPECT_TRUE(same_bits(now[k], first[k])) << k;
    }
}

TEST_P(Conv2dCuda, CudaRunsFromACapturedGraph)
{
    HN_NEED_IMPL();
    Problem<DeviceMatrix> plain(GetParam()), captured(GetParam());
    run(impl, plain.fwd(true));
    run(impl, plain.back(true));
    run(impl, plain.weight());
    Call fwd(impl, captured.fwd(true));
    Call back(impl, captured.back(true));
    Call weight(impl, captured.weight());
    run_captured([&](cudaStream_t s) { fwd.enqueue(s), back.enqueue(s), weight.enqueue(s); });
    EXPECT_TRUE(same_bits(captured.y.values(), plain.y.values()));
    EXPECT_TRUE(same_bits(captured.dx.values(), plain.dx.values()));
    EXPECT_TRUE(same_bits(captured.dw.values(), plain.dw.values()));
}

TEST_P(Conv2dCuda, CudaInputGradientMayBeTheAddedOperand)
{
    HN_NEED_IMPL();
    Problem<DeviceMatrix> gpu(GetParam());
    ASSERT_HN_OK(cpu(host.back(true)));
    run(impl, gpu.back_in_place());
    EXPECT_LT(rel_l2(gpu.add.values(), host.dx.values()), close(dtype));
}

/* n, h, w, in, out, kh, kw, stride, pad, dilation, groups; replicas */
/* clang-format off */
const Shape general[] = {
    {"one", {1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1}, 0},
    {"usual", {2, 9, 7, 16, 24, 3, 3, 1, 1, 1, 1}, 0},
    {"odd_channels", {2, 6, 7, 5, 7, 3, 3, 1, 1, 1, 1}, 0},
    {"stride", {3, 8, 9, 16, 8, 3, 3, 2, 1, 1, 1}, 0},
    {"unread_pixels", {1, 7, 9, 8, 8, 2, 2, 3, 0, 1, 1}, 0},
    {"dilation", {2, 11, 10, 8, 16, 3, 2, 1, 2, 2, 1}, 0},
    {"embedding", {2, 16, 16, 3, 24, 4, 4, 4, 0, 1, 1}, 0},
    {"stem", {3, 32, 32, 3, 8, 3, 3, 1, 1, 1, 1}, 0},
    {"stem_large", {52, 31, 33, 3, 16, 7, 7, 2, 3, 1, 1}, 0},      /* threads with two rows */
    {"stem_gray", {5, 28, 28, 1, 32, 5, 5, 1, 0, 1, 1}, 0},
    {"stem_wide", {2, 9, 11, 3, 64, 3, 3, 1, 1, 1, 1}, 0},
    {"stem_odd", {1, 8, 6, 2, 45, 3, 4, 2, 1, 1, 1}, 0},
    {"stem_many", {2, 9, 8, 3, 72, 3, 3, 1, 1, 1, 1}, 0},          /* by patches */
    {"stem_dilation", {2, 11, 10, 3, 8, 3, 2, 1, 2, 2, 1}, 0},
    {"stem_replicas", {4, 6, 5, 3, 8, 5, 5, 1, 2, 1, 1}, 2},
    {"stem_gray_replicas", {6, 28, 28, 1, 32, 5, 5, 1, 0, 1, 1}, 3}, /* as they lie */
    {"stem_small_replicas", {5, 7, 6, 3, 45, 3, 3, 1, 1, 1, 1}, 5},
    {"many_taps", {1, 9, 9, 27, 4, 9, 9, 1, 4, 1, 1}, 0},          /* a row is more than a block */
    {"one_pixel", {2, 5, 6, 24, 40, 1, 1, 1, 0, 1, 1}, 0},
    {"one_pixel_stride", {2, 5, 6, 24, 40, 1, 1, 2, 0, 1, 1}, 0},
    {"one_pixel_pad", {2, 3, 3, 8, 8, 1, 1, 1, 1, 1, 1}, 0},
    {"one_pixel_groups", {2, 5, 6, 16, 24, 1, 1, 1, 0, 1, 2}, 0},
    {"groups", {2, 6, 6, 16, 32, 3, 3, 1, 1, 1, 2}, 0},
    {"odd_groups", {2, 6, 6, 9, 6, 3, 3, 1, 1, 1, 3}, 0},
    {"replicas", {4, 6, 5, 16, 8, 3, 3, 1, 1, 1, 1}, 2},
    {"replicas_odd", {6, 7, 6, 5, 7, 3, 3, 2, 1, 1, 1}, 3},
    {"replicas_groups", {4, 6, 6, 16, 32, 3, 3, 1, 1, 1, 2}, 2},   /* one by one */
    {"replicas_client", {96, 12, 12, 32, 64, 5, 5, 1, 0, 1, 1}, 3},
    {"replicas_one_pixel", {3, 6, 5, 16, 8, 1, 1, 1, 0, 1, 1}, 3},
};
const Shape pieces = {"pieces", {4, 64, 64, 128, 2, 3, 3, 1, 1, 1, 1}, 0}; /* f32 patches: 72 MiB */
const Shape depthwise[] = {
    {"depthwise", {2, 9, 8, 72, 72, 3, 3, 1, 1, 1, 72}, 0},        /* a strip and a bit */
    {"depthwise_stride", {3, 9, 10, 20, 20, 5, 5, 2, 2, 1, 20}, 0},
    {"depthwise_dilation", {2, 9, 9, 5, 5, 3, 2, 1, 2, 2, 5}, 0},
    {"depthwise_wide", {2, 14, 14, 136, 136, 7, 7, 1, 3, 1, 136}, 0},
    {"depthwise_runs", {3, 20, 20, 8, 8, 3, 3, 1, 1, 1, 8}, 0},    /* three runs of 512 rows */
    {"depthwise_replicas", {4, 6, 6, 16, 16, 3, 3, 1, 1, 1, 16}, 2},
    {"depthwise_huge", {1, 9, 9, 4, 4, 15, 15, 1, 7, 1, 4}, 0},    /* by patches */
};
/* What cuDNN takes: channels in steps of 16 bytes, so that w has no gaps. */
const Shape library[] = {
    {"usual", {2, 9, 7, 16, 24, 3, 3, 1, 1, 1, 1}, 0},
    {"wide", {4, 8, 8, 64, 128, 3, 3, 1, 1, 1, 1}, 0},
    {"stride", {3, 8, 9, 16, 8, 3, 3, 2, 1, 1, 1}, 0},
    {"unread_pixels", {1, 7, 9, 8, 8, 2, 2, 3, 0, 1, 1}, 0},
    {"dilation", {2, 11, 10, 8, 16, 3, 2, 1, 2, 2, 1}, 0},
    {"embedding", {2, 16, 16, 3, 24, 4, 4, 4, 0, 1, 1}, 0},
    {"one_pixel", {2, 5, 6, 24, 40, 1, 1, 1, 0, 1, 1}, 0},
    {"one_pixel_stride", {2, 5, 6, 24, 40, 1, 1, 2, 0, 1, 1}, 0},
    {"groups", {2, 6, 6, 16, 32, 3, 3, 1, 1, 1, 2}, 0},
    {"replicas", {4, 6, 5, 16, 8, 3, 3, 1, 1, 1, 1}, 2},
};
/* clang-format on */

std::vector<Case> cases()
{
    std::vector<Case> all = {{pieces, OWN, HN_F32, HN_F32, true}};
    for (const hn_dtype t : {HN_F32, HN_BF16}) {
        const hn_dtype other = t == HN_F32 ? HN_BF16 : HN_F32;
        for (const bool aligned : {false, true}) {
            for (const Shape &s : general) all.push_back({s, OWN, t, aligned ? t : other, aligned});
            for (const Shape &s : depthwise)
                all.push_back({s, OWN, t, aligned ? t : other, aligned});
        }
        for (const Shape &s : library) all.push_back({s, CUDNN, t, HN_F32, true});
    }
    return all;
}

INSTANTIATE_TEST_SUITE_P(Shapes, Conv2dCuda, ::testing::ValuesIn(cases()), [](const auto &i) {
    const Case &c = i.param;
    return case_name(c.shape.name, c.impl == OWN ? "" : "_cudnn", c.dtype,
                     c.impl == CUDNN || !c.aligned ? "" : "_aligned");
});

/* f32 means f32: products of TF32 would be off by 3e-4 of the whole, these are by 9e-6. At a size
 * where the library has its fast kernels to choose from. */
TEST(Conv2dCudnn, F32IsNotTf32)
{
    HN_NEED_CUDNN();
    const int64_t images = 512, side = 8, channels = 256, rows = images * side * side;
    DeviceMatrix x(HN_F32, rows, channels, 0), dy(HN_F32, rows, channels, 0);
    x.normal(1), dy.normal(2);
    const std::vector<float> zeros((size_t)(channels * 9 * channels));
    DeviceArray<float> own_dw(zeros), lib_dw(zeros);
    hn_conv2d_dw_args a = {};
    a.dy = dy.data(), a.x = x.data(), a.dw = own_dw.data(), a.dtype = HN_F32;
    a.shape = {images, side, side, channels, channels, 3, 3, 1, 1, 1, 1};
    a.ld_dy = a.ld_x = channels, a.ld_dw = 9 * channels;
    DeviceArray<char> own(own_scratch(a));
    ASSERT_HN_OK(hn_conv2d_dw_cuda(&a, gemm(), own.data(), nullptr));
    a.dw = lib_dw.data();
    size_t bytes = 0;
    ASSERT_HN_OK(plan(a, &bytes));
    DeviceArray<char> lib(bytes);
    ASSERT_HN_OK(hn_conv2d_cudnn_dw(cudnn(), &a, lib.data(), nullptr));
    EXPECT_LT(rel_l2(lib_dw.host(), own_dw.host()), 3e-5);
}

/* ---- limits ---- */

TEST(Conv2dCudnn, NamesWhatCudnnCannotDo)
{
    HN_NEED_CUDNN();
    Problem<DeviceMatrix> p({library[0], CUDNN, HN_BF16, HN_BF16, true});
    const auto good = p.fwd(false);
    const auto fails = [&](auto change, const char *text, hn_status code = HN_ERR_UNSUPPORTED) {
        auto a = good;
        size_t bytes = 7;
        change(a);
        EXPECT_HN_FAIL(plan(a, &bytes), code, text);
        EXPECT_EQ(bytes, 7u);
    };
    using A = hn_conv2d_args;
    fails([](A &a) { a.ld_x += 1; }, "of x: multiples of 16 bytes");
    fails([](A &a) { a.ld_y += 1; }, "of y: multiples of 16 bytes");
    fails([](A &a) { a.ld_w += 8; }, "no gaps");
    fails([](A &a) { a.ld_x = (int64_t)1 << 30; }, "below 2^31 elements");
    fails([](A &a) { a.replicas = 2, a.w_stride = 9; }, "one replica of w");
    fails([](A &a) { a.shape.stride = 0; }, "stride", HN_ERR_SHAPE);
    auto a = good; /* no plan */
    a.shape.pad = 2, a.shape.h = 5, a.shape.w = 3;
    DeviceArray<char> scratch(64);
    EXPECT_HN_FAIL(through_cudnn(a, scratch.data(), nullptr), HN_ERR_ARG, "no plan");
    a = good;
    a.x = (const char *)a.x + 2;
    EXPECT_HN_FAIL(through_cudnn(a, scratch.data(), nullptr), HN_ERR_ALIGN, "x = ");
}

TEST(Conv2dCuda, OwnKernelsRefuseWhatTheyCannotCount)
{
    HN_NEED_CUDA();
    float v = 0;
    hn_conv2d_args a = {};
    a.x = a.w = &v, a.y = &v;
    a.shape = {1, 1, 1, 1 << 21, 1 << 21, 41, 41, 1, 20, 1, 1 << 21};
    a.ld_x = a.ld_y = 1 << 21, a.ld_w = 41 * 41;
    EXPECT_HN_FAIL(own(a, &v, nullptr), HN_ERR_UNSUPPORTED, "larger than 2^31");
}

/* ---- few taps ---- */

/* Only the kernels of few taps, on few values: what a sanitizer goes through in a moment. */
TEST(Conv2dFewTaps, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    for (const hn_dtype t : {HN_F32, HN_BF16})
        for (const bool aligned : {false, true}) {
            const Case c = {{"", {2, 9, 8, 3, 20, 3, 3, 1, 1, 1, 1}, 0}, OWN, t, t, aligned};
            Problem<Matrix> host(c);
            Problem<DeviceMatrix> gpu(c);
            ASSERT_EQ(own_scratch(host.fwd(true)), 0u) << "by patches";
            ASSERT_HN_OK(cpu(host.fwd(true)));
            ASSERT_HN_OK(cpu(host.weight()));
            run(OWN, gpu.fwd(true));
            run(OWN, gpu.weight());
            EXPECT_LT(rel_l2(gpu.y.values(), host.y.values()), close(t));
            EXPECT_LT(rel_l2(gpu.dw.values(), host.dw.values()), close(HN_F32));
        }
}

/* Forward needs no scratch for 32 images of CIFAR and for 128; patches for more. */
TEST(Conv2dFewTaps, OnlyForFewPixels)
{
    hn_conv2d_args a = {};
    a.shape = {32, 32, 32, 3, 64, 3, 3, 1, 1, 1, 1};
    a.ld_x = 8, a.ld_w = 32, a.ld_y = 64, a.dtype = a.bias_dtype = HN_BF16;
    EXPECT_EQ(own_scratch(a), 0u);
    a.shape.n = 128;
    EXPECT_EQ(own_scratch(a), 0u);
    a.shape.n = 129;
    EXPECT_GT(own_scratch(a), 0u);
}

/* ---- the choice that a plan makes ---- */

/* One convolution over images of 8 x 8, planned and run on the device; the text of the plan. */
std::string plan_text(hn_device *d, hn_dtype dtype, int64_t in, int64_t kernel, int64_t groups,
                      hn_conv2d_impl impl, hn_status want = HN_OK)
{
    hn_program *p = nullptr;
    hn_graph *g = nullptr;
    hn_tensor *operand[3] = {nullptr}, *out[HN_MAX_OUT];
    hn_type x = hn_type_2d(dtype, 2, in);
    x.ndim = 4, x.dim[1] = x.dim[2] = 8, x.dim[3] = in;
    const hn_type w = hn_type_2d(dtype, groups > 1 ? in : 16, kernel * kernel * (in / groups));
    hn_attr attr = {};
    attr.conv.kh = attr.conv.kw = kernel, attr.conv.groups = groups, attr.conv.impl = impl;
    const hn_plan_options options = {.device = d};
    EXPECT_HN_OK(hn_program_new(1, &p));
    EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "x", &x, &operand[0]));
    EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "w", &w, &operand[1]));
    EXPECT_HN_OK(hn_graph_new(p, "g", false, &g));
    EXPECT_HN_OK(hn_emit(g, HN_OP_CONV2D, "c", operand, &attr, out));
    hn_graph_keep(out[0]);
    const hn_status st = hn_plan_build(p, &options);
    EXPECT_EQ(st, want) << hn_last_error();
    char *text = st == HN_OK ? hn_plan_text(p) : nullptr;
    const std::string got = st == HN_OK ? text : hn_last_error();
    if (st == HN_OK) {
        const hn_run_options options_of_run = {.check = true};
        EXPECT_HN_OK(hn_plan_allocate(p));
        EXPECT_HN_OK(hn_graph_run(g, &options_of_run));
    }
    hn_free(text);
    hn_program_free(p);
    return got;
}

void has(const std::string &text, const char *part)
{
    EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(Conv2dChoice, AutoTakesCudnnWhereItServesAndSaysSo)
{
    HN_NEED_CUDNN();
    hn_device *d = nullptr;
    ASSERT_HN_OK(hn_device_open("cuda", &d));
    has(plan_text(d, HN_BF16, 16, 3, 1, HN_CONV2D_AUTO), "convolution: cuDNN 9.");
    has(plan_text(d, HN_F32, 16, 3, 1, HN_CONV2D_AUTO), "convolution: cuDNN 9.");
    has(plan_text(d, HN_BF16, 16, 1, 1, HN_CONV2D_AUTO), "convolution: hone (a product");
    has(plan_text(d, HN_BF16, 16, 1, 1, HN_CONV2D_CUDNN), "convolution: cuDNN 9.");
    has(plan_text(d, HN_BF16, 16, 3, 16, HN_CONV2D_AUTO), "convolution: hone (depthwise");
    has(plan_text(d, HN_BF16, 3, 3, 1, HN_CONV2D_AUTO), "convolution: hone (few channels");
    has(plan_text(d, HN_BF16, 9, 3, 1, HN_CONV2D_AUTO), "no gaps");
    has(plan_text(d, HN_BF16, 3, 3, 1, HN_CONV2D_CUDNN, HN_ERR_UNSUPPORTED), "no gaps");
    EXPECT_EQ(plan_text(d, HN_BF16, 16, 3, 1, HN_CONV2D_OWN).find("convolution:"),
              std::string::npos);
    hn_device_close(d);
}

TEST(Conv2dChoice, CudnnByNameNeedsAGpu)
{
    hn_device *d = nullptr;
    ASSERT_HN_OK(hn_device_open("cpu", &d));
    has(plan_text(d, HN_F32, 16, 3, 1, HN_CONV2D_CUDNN, HN_ERR_UNSUPPORTED), "needs a GPU");
    EXPECT_EQ(plan_text(d, HN_F32, 16, 3, 1, HN_CONV2D_AUTO).find("convolution:"),
              std::string::npos);
    hn_device_close(d);
}

} // namespace
