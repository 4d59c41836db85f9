/* kernels/norm: residual add and RMS normalisation. */
#include "kernel_test.h"
#include "kernels/norm/add_rmsnorm.h"
#include "onnx_vectors.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    hn_dtype dtype, gain_dtype;
    int64_t rows, heads, cols, replicas;
    bool res;
};

class AddRmsnorm : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    const int64_t g = s.replicas ? s.replicas : 1, width = s.heads * s.cols;
    Matrix x{s.dtype, s.rows, width}, res{s.dtype, s.rows, width, 1}, gain{s.gain_dtype, g, s.cols};
    Matrix dy{s.dtype, s.rows, width, 2}, dsum{s.dtype, s.rows, width, 4};
    struct Out {
        Matrix sum, y, dx, dgain;
        GuardedArray<float> rstd;
        explicit Out(const Shape &s, int64_t g)
            : sum(s.dtype, s.rows, s.heads * s.cols), y(s.dtype, s.rows, s.heads * s.cols),
              dx(s.dtype, s.rows, s.heads * s.cols), dgain(HN_F32, g, s.cols),
              rstd((size_t)(s.rows * s.heads))
        {
            dgain.normal(9);
        }
    };

    void SetUp() override
    {
        x.normal(1), res.normal(2), gain.normal(3, 1, 0.2f), dy.normal(4), dsum.normal(5);
    }
    hn_add_rmsnorm_args fwd(Out &o)
    {
        hn_add_rmsnorm_args a = {};
        a.x = x.data(), a.gain = gain.data(), a.y = o.y.data(), a.rstd = o.rstd.data();
        if (s.res) a.res = res.data(), a.sum = o.sum.data();
        a.rows = s.rows, a.heads = s.heads, a.cols = s.cols;
        a.ld_x = x.ld(), a.ld_res = res.ld(), a.ld_sum = o.sum.ld(), a.ld_y = o.y.ld();
        a.replicas = s.replicas, a.gain_stride = gain.ld();
        a.dtype = s.dtype, a.gain_dtype = s.gain_dtype, a.eps = 1e-5f, a.gain_offset = 0.5f;
        return a;
    }
    hn_add_rmsnorm_bwd_args back(Out &o)
    {
        hn_add_rmsnorm_bwd_args a = {};
        a.sum = s.res ? o.sum.data() : x.data(), a.gain = gain.data(), a.rstd = o.rstd.data();
        a.dy = dy.data(), a.dx = o.dx.data(), a.dgain = o.dgain.f32();
        if (s.res) a.dsum = dsum.data();
        a.rows = s.rows, a.heads = s.heads, a.cols = s.cols;
        a.ld_sum = s.res ? o.sum.ld() : x.ld(), a.ld_dy = dy.ld(), a.ld_dsum = dsum.ld();
        a.ld_dx = o.dx.ld(), a.replicas = s.replicas;
        a.gain_stride = gain.ld(), a.dgain_stride = o.dgain.ld();
        a.dtype = s.dtype, a.gain_dtype = s.gain_dtype, a.gain_offset = 0.5f;
        return a;
    }
    static hn_status fast(const hn_add_rmsnorm_bwd_args &a)
    {
        Scratch scratch(hn_add_rmsnorm_bwd_fast_scratch(&a));
        return hn_add_rmsnorm_bwd_fast(&a, a.dgain ? scratch.data() : nullptr);
    }
};

TEST_P(AddRmsnorm, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    Out want(s, g);
    const auto a = fwd(want);
    ASSERT_HN_OK(hn_add_rmsnorm_fwd_cpu(&a));
    const auto b = back(want);
    ASSERT_HN_OK(hn_add_rmsnorm_bwd_cpu(&b));
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 3}) {
        Out o(s, g);
        on_threads(threads, [&] {
            const auto c = fwd(o);
            EXPECT_HN_OK(hn_add_rmsnorm_fwd_fast(&c));
            EXPECT_HN_OK(fast(back(o)));
        });
        const std::vector<std::vector<float>> now = {o.y.values(), o.dx.values(), o.dgain.values(),
                                                     o.rstd.host(), o.sum.values()};
        if (first.empty()) first = now;
        for (size_t k = 0; k < 4; k++) EXPECT_TRUE(same_bits(now[k], first[k])) << k;
    }
    EXPECT_LT(rel_l2(first[0], want.y.values()), tolerance(s.dtype));
    EXPECT_LT(rel_l2(first[1], want.dx.values()), tolerance(s.dtype));
    EXPECT_LT(rel_l2(first[2], want.dgain.values()), tolerance(HN_F32));
    EXPECT_LT(rel_l2(first[3], want.rstd.host()), 1e-6);
    if (s.res) {
        EXPECT_TRUE(same_bits(first[4], want.sum.values())); /* one add, one rounding */
    }
}

TEST_P(AddRmsnorm, OutputsMayLieOnInputs)
{
    Out o(s, g), p(s, g);
    auto a = fwd(o);
    ASSERT_HN_OK(hn_add_rmsnorm_fwd_fast(&a));
    auto b = back(o);
    ASSERT_HN_OK(fast(b));
    for (Matrix *to : {&dy, &dsum}) { /* dx on dy, dx on dsum */
        if (to == &dsum && !s.res) continue;
        Out q(s, g);
        auto c = back(o);
        c.dx = to->data(), c.ld_dx = to->ld(), c.dgain = q.dgain.f32();
        ASSERT_HN_OK(fast(c));
        EXPECT_TRUE(same_bits(to->values(), o.dx.values()));
        EXPECT_TRUE(same_bits(q.dgain.values(), o.dgain.values()));
        SetUp();
    }
    if (!s.res) return;
    for (Matrix *to : {&x, &res}) { /* sum on x, sum on res */
        auto c = fwd(p);
        c.sum = to->data(), c.ld_sum = to->ld();
        ASSERT_HN_OK(hn_add_rmsnorm_fwd_fast(&c));
        EXPECT_TRUE(same_bits(to->values(), o.sum.values()));
        EXPECT_TRUE(same_bits(p.y.values(), o.y.values()));
        SetUp();
    }
}

TEST_P(AddRmsnorm, EitherGradientMayBeLeftOut)
{
    Out o(s, g), p(s, g), q(s, g);
    const auto a = fwd(o);
    ASSERT_HN_OK(hn_add_rmsnorm_fwd_fast(&a));
    auto b = back(o), c = back(o), d = back(o);
    ASSERT_HN_OK(fast(b));
    c.dx = p.dx.data(), c.dgain = nullptr;
    ASSERT_HN_OK(fast(c));
    EXPECT_TRUE(same_bits(p.dx.values(), o.dx.values()));
    d.dx = nullptr, d.dgain = q.dgain.f32();
    ASSERT_HN_OK(fast(d));
    EXPECT_TRUE(same_bits(q.dgain.values(), o.dgain.values()));
}

TEST_P(AddRmsnorm, BackwardMakesForwardsBitsAgain)
{
    for (const bool use_fast : {false, true}) {
        Out o(s, g), p(s, g);
        const auto a = fwd(o);
        const auto b = back(o);
        ASSERT_HN_OK(use_fast ? hn_add_rmsnorm_fwd_fast(&a) : hn_add_rmsnorm_fwd_cpu(&a));
        ASSERT_HN_OK(use_fast ? fast(b) : hn_add_rmsnorm_bwd_cpu(&b));
        const std::vector<float> sum = s.res ? o.sum.values() : x.values();
        Matrix at_sum(s.dtype, s.rows, width, 3), other(s.dtype, s.rows, width, 2);
        for (Matrix *to : {&p.y, &dy, &at_sum}) { /* by itself, then on an input */
            at_sum.assign(sum);
            Matrix *const dx = to == &at_sum ? &dy : to == &dy ? &at_sum : &other;
            auto c = back(o);
            c.sum = at_sum.data(), c.ld_sum = at_sum.ld(), c.dgain = p.dgain.f32();
            p.dgain.normal(9);
            c.y = to->data(), c.ld_y = to->ld(), c.dx = dx->data(), c.ld_dx = dx->ld();
            ASSERT_HN_OK(use_fast ? fast(c) : hn_add_rmsnorm_bwd_cpu(&c));
            EXPECT_TRUE(same_bits(to->values(), o.y.values()));
            EXPECT_TRUE(same_bits(dx->values(), o.dx.values()));
            EXPECT_TRUE(same_bits(p.dgain.values(), o.dgain.values()));
            SetUp();
        }
    }
}

/* Smallest, odd widths, per-head, wider than a block, replicas, many rows. */
INSTANTIATE_TEST_SUITE_P(Shapes, AddRmsnorm,
                         ::testing::Values(Shape{HN_F32, HN_F32, 1, 1, 1, 0, true},
                                           Shape{HN_F32, HN_F32, 3, 1, 33, 0, true},
                                           Shape{HN_F32, HN_BF16, 5, 4, 16, 0, false},
                                           Shape{HN_F32, HN_F32, 2, 1, 1030, 0, true},
                                           Shape{HN_F32, HN_F32, 300, 1, 96, 3, true},
                                           Shape{HN_BF16, HN_BF16, 3, 1, 33, 0, true},
                                           Shape{HN_BF16, HN_F32, 70, 3, 24, 2, false},
                                           Shape{HN_BF16, HN_BF16, 4, 1, 1030, 0, true}),
                         [](const auto &i) {
                             const Shape &s = i.param;
                             return case_name("r", s.rows, "_h", s.heads, "_c", s.cols, "_g",
                                              s.replicas, (s.res ? "_res" : "_plain"), s.dtype,
                                              s.gain_dtype);
                         });

TEST(AddRmsnormTwin, MatchesHandComputedRow)
{
    /* every sum is 3 or -3, so the root mean square is 3 */
    const float x[] = {1, 1, 1, 1}, res[] = {-4, 2, -4, 2}, gain[] = {2, 2, 2, 0};
    float sum[4], y[4], rstd;
    hn_add_rmsnorm_args a = {};
    a.x = x, a.res = res, a.gain = gain, a.sum = sum, a.y = y, a.rstd = &rstd, a.eps = 1e-20f;
    a.rows = 1, a.cols = a.ld_x = a.ld_res = a.ld_sum = a.ld_y = 4;
    ASSERT_HN_OK(hn_add_rmsnorm_fwd_cpu(&a));
    EXPECT_FLOAT_EQ(rstd, 1.0f / 3.0f);
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{-2, 2, -2, 0}));
    a.gain_offset = 1; /* gemma */
    ASSERT_HN_OK(hn_add_rmsnorm_fwd_cpu(&a));
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{-3, 3, -3, 1}));

    /* dy = {1,0,0,0}, gain 2: h = {2,0,0,0}, z = {-1,1,-1,1}, mean(h z) = -0.5 */
    const float dy[] = {1, 0, 0, 0}, dsum[] = {1, 1, 1, 1};
    float dx[4], dgain[4] = {};
    hn_add_rmsnorm_bwd_args b = {};
    b.sum = sum, b.gain = gain, b.rstd = &rstd, b.dy = dy, b.dsum = dsum, b.dx = dx;
    b.dgain = dgain, b.rows = 1, b.cols = b.ld_sum = b.ld_dy = b.ld_dsum = b.ld_dx = 4;
    ASSERT_HN_OK(hn_add_rmsnorm_bwd_cpu(&b));
    const float want[] = {1.5f, 1 + 1.0f / 6, 1 - 1.0f / 6, 1 + 1.0f / 6};
    for (int j = 0; j < 4; j++) EXPECT_NEAR(dx[j], want[j], 1e-6);
    EXPECT_FLOAT_EQ(dgain[0], -1);
    EXPECT_EQ(dgain[1], 0);
}

TEST(AddRmsnormCheck, NamesWhatIsWrong)
{
    float f[64] = {};
    hn_add_rmsnorm_args a = {};
    a.x = f, a.gain = f, a.y = f + 16, a.rows = 2, a.cols = a.ld_x = a.ld_y = 4, a.eps = 1e-5f;
    EXPECT_HN_OK(hn_add_rmsnorm_check(&a));
    auto with = [&](auto change) {
        hn_add_rmsnorm_args b = a;
        change(b);
        return hn_add_rmsnorm_check(&b);
    };
    EXPECT_HN_FAIL(hn_add_rmsnorm_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.x = nullptr; }), HN_ERR_ARG, "x is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.gain = nullptr; }), HN_ERR_ARG, "gain is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.eps = 0; }), HN_ERR_ARG, "eps 0");
    EXPECT_HN_FAIL(with([&](auto &b) { b.res = f; }), HN_ERR_ARG, "res and sum");
    EXPECT_HN_FAIL(with([](auto &b) { b.cols = 0; }), HN_ERR_SHAPE, "-1");
    EXPECT_HN_FAIL(with([](auto &b) { b.heads = 2; }), HN_ERR_SHAPE, "leading dimension 4 of x");
    EXPECT_HN_FAIL(with([](auto &b) { b.replicas = 3; }), HN_ERR_SHAPE, "3 replicas");
    EXPECT_HN_FAIL(with([](auto &b) { b.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    EXPECT_HN_FAIL(with([](auto &b) { b.gain_dtype = HN_U8; }), HN_ERR_UNSUPPORTED, "gain_dtype");
    EXPECT_HN_FAIL(with([&](auto &b) { b.res = b.sum = f + 32, b.ld_res = 4, b.ld_sum = 5; }),
                   HN_ERR_ARG, "4 and 5");
    hn_add_rmsnorm_bwd_args b = {};
    b.sum = f, b.gain = f, b.rstd = f, b.dy = f, b.dx = f + 16, b.rows = 2;
    b.cols = b.ld_sum = b.ld_dy = b.ld_dx = 4;
    EXPECT_HN_OK(hn_add_rmsnorm_bwd_check(&b));
    b.y = b.dx, b.ld_y = 4;
    EXPECT_HN_FAIL(hn_add_rmsnorm_bwd_check(&b), HN_ERR_ARG, "another place");
    b.y = nullptr;
    b.dx = nullptr;
    EXPECT_HN_FAIL(hn_add_rmsnorm_bwd_check(&b), HN_ERR_ARG, "neither");
    b.dgain = f + 16, b.replicas = 2;
    EXPECT_HN_FAIL(hn_add_rmsnorm_bwd_check(&b), HN_ERR_SHAPE, "replicas of dgain");
    b.replicas = 0;
    EXPECT_HN_FAIL(hn_add_rmsnorm_bwd_fast(&b, nullptr), HN_ERR_ARG, "scratch");
    b.rstd = nullptr;
    EXPECT_HN_FAIL(hn_add_rmsnorm_bwd_check(&b), HN_ERR_ARG, "rstd is NULL");
}

/* Normalising the axes from `axis` on makes them one row; the gain then has the row's length. */
TEST(AddRmsnormOnnx, Vectors)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    const int n = onnx::each(dir, "RMSNormalization", [](const onnx::Case &c) {
        const auto x = c.in(0)->f32(), gain = c.in(1)->f32(), want = c.out(0)->f32();
        const int64_t rank = (int64_t)c.in(0)->shape.size();
        int64_t axis = c.integer("axis", -1), cols = 1;
        if (axis < 0) axis += rank;
        for (int64_t k = axis; k < rank; k++) cols *= c.in(0)->dim((int)k);
        ASSERT_EQ((int64_t)gain.size(), cols);
        for (const bool fast : {false, true}) {
            std::vector<float> y(x.size());
            hn_add_rmsnorm_args a = {};
            a.x = x.data(), a.gain = gain.data(), a.y = y.data();
            a.rows = (int64_t)x.size() / cols, a.cols = a.ld_x = a.ld_y = cols;
            a.eps = (float)c.number("epsilon", 1e-5);
            ASSERT_HN_OK(fast ? hn_add_rmsnorm_fwd_fast(&a) : hn_add_rmsnorm_fwd_cpu(&a));
            EXPECT_LT(max_abs(y, want), 2e-6); /* values up to 5, a few fp32 roundings */
        }
    });
    EXPECT_EQ(n, 19);
}

#ifdef HONE_CUDA
struct CudaShape {
    Shape s;
    int64_t gap; /* elements between rows, of the gain too */
};

/* Operands on the host or on the device, with the same values. */
template <class M, class V>
struct Operands {
    const CudaShape c;
    const Shape s = c.s;
    const int64_t g = s.replicas ? s.replicas : 1, width = s.heads * s.cols;
    M x{s.dtype, s.rows, width, c.gap}, res{s.dtype, s.rows, width, c.gap};
    M gain{s.gain_dtype, g, s.cols, c.gap}, sum{s.dtype, s.rows, width, c.gap};
    M y{s.dtype, s.rows, width, c.gap}, dy{s.dtype, s.rows, width, c.gap};
    M dsum{s.dtype, s.rows, width, c.gap}, dx{s.dtype, s.rows, width, c.gap};
    M dgain{HN_F32, g, s.cols, c.gap};
    V rstd{(size_t)(s.rows * s.heads)};

    explicit Operands(const CudaShape &shape) : c(shape) { fill(); }
    void fill()
    {
        x.normal(1), res.normal(2), gain.normal(3, 1, 0.2f), dy.normal(4), dsum.normal(5);
        dgain.normal(9);
    }
    hn_add_rmsnorm_args fwd()
    {
        hn_add_rmsnorm_args a = {};
        a.x = x.data(), a.gain = gain.data(), a.y = y.data(), a.rstd = rstd.data();
        if (s.res) a.res = res.data(), a.sum = sum.data();
        a.rows = s.rows, a.heads = s.heads, a.cols = s.cols;
        a.ld_x = x.ld(), a.ld_res = res.ld(), a.ld_sum = sum.ld(), a.ld_y = y.ld();
        a.replicas = s.replicas, a.gain_stride = gain.ld();
        a.dtype = s.dtype, a.gain_dtype = s.gain_dtype, a.eps = 1e-5f, a.gain_offset = 0.5f;
        return a;
    }
    hn_add_rmsnorm_bwd_args back()
    {
        hn_add_rmsnorm_bwd_args a = {};
        a.sum = s.res ? sum.data() : x.data(), a.gain = gain.data(), a.rstd = rstd.data();
        a.dy = dy.data(), a.dx = dx.data(), a.dgain = dgain.f32();
        if (s.res) a.dsum = dsum.data();
        a.rows = s.rows, a.heads = s.heads, a.cols = s.cols;
        a.ld_sum = s.res ? sum.ld() : x.ld(), a.ld_dy = dy.ld(), a.ld_dsum = dsum.ld();
        a.ld_dx = dx.ld(), a.replicas = s.replicas;
        a.gain_stride = gain.ld(), a.dgain_stride = dgain.ld();
        a.dtype = s.dtype, a.gain_dtype = s.gain_dtype, a.gain_offset = 0.5f;
        return a;
    }
};
using Host = Operands<Matrix, GuardedArray<float>>;
using Device = Operands<DeviceMatrix, DeviceArray<float>>;

class AddRmsnormCuda : public ::testing::TestWithParam<CudaShape> {
  protected:
    const CudaShape c = GetParam();
    const Shape s = c.s;
    /* Scratch of exactly the promised size, between guard bands. */
    static void backward(const hn_add_rmsnorm_bwd_args &a)
    {
        DeviceArray<unsigned char> scratch(hn_add_rmsnorm_bwd_cuda_scratch(&a));
        ASSERT_HN_OK(hn_add_rmsnorm_bwd_cuda(&a, a.dgain ? scratch.data() : nullptr, nullptr));
        (void)scratch.host();
    }
    static void run(Device &d)
    {
        const auto a = d.fwd();
        ASSERT_HN_OK(hn_add_rmsnorm_fwd_cuda(&a, nullptr));
        backward(d.back());
    }
    static void expect_same(Device &a, Device &b)
    {
        if (a.s.res) {
            EXPECT_TRUE(same_bits(a.sum.values(), b.sum.values()));
        }
        EXPECT_TRUE(same_bits(a.y.values(), b.y.values()));
        EXPECT_TRUE(same_bits(a.rstd.host(), b.rstd.host()));
        EXPECT_TRUE(same_bits(a.dx.values(), b.dx.values()));
        EXPECT_TRUE(same_bits(a.dgain.values(), b.dgain.values()));
    }
};

TEST_P(AddRmsnormCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    Host h(c);
    Device d(c);
    const auto a = h.fwd();
    ASSERT_HN_OK(hn_add_rmsnorm_fwd_cpu(&a));
    const auto b = h.back();
    ASSERT_HN_OK(hn_add_rmsnorm_bwd_cpu(&b));
    run(d);
    EXPECT_LT(rel_l2(d.y.values(), h.y.values()), tolerance(s.dtype));
    /* of one column only eps survives in dx - dsum: all else cancels */
    EXPECT_LT(rel_l2(d.dx.values(), h.dx.values()), s.cols == 1 ? 2e-5 : tolerance(s.dtype));
    EXPECT_LT(rel_l2(d.dgain.values(), h.dgain.values()), tolerance(HN_F32));
    EXPECT_LT(rel_l2(d.rstd.host(), h.rstd.host()), 1e-6); /* fp32 sums against double */
    if (s.res) {
        EXPECT_TRUE(same_bits(d.sum.values(), h.sum.values())); /* one add, one rounding */
    }
}

TEST_P(AddRmsnormCuda, CudaOutputsMayLieOnInputs)
{
    HN_NEED_CUDA();
    Device o(c), d(c);
    run(o);
    run(d);
    for (DeviceMatrix *to : {&d.dy, &d.dsum}) { /* dx on dy, dx on dsum */
        if (to == &d.dsum && !s.res) continue;
        d.fill();
        auto b = d.back();
        b.dx = to->data(), b.ld_dx = to->ld();
        backward(b);
        EXPECT_TRUE(same_bits(to->values(), o.dx.values()));
        EXPECT_TRUE(same_bits(d.dgain.values(), o.dgain.values()));
    }
    for (DeviceMatrix *to : {&d.x, &d.res}) { /* sum on x, sum on res */
        if (!s.res) continue;
        d.fill();
        auto a = d.fwd();
        a.sum = to->data(), a.ld_sum = to->ld();
        ASSERT_HN_OK(hn_add_rmsnorm_fwd_cuda(&a, nullptr));
        EXPECT_TRUE(same_bits(to->values(), o.sum.values()));
        EXPECT_TRUE(same_bits(d.y.values(), o.y.values()));
    }
}

TEST_P(AddRmsnormCuda, CudaLeavesOutWhatIsNotWanted)
{
    HN_NEED_CUDA();
    Device o(c), d(c), e(c);
    run(o);
    auto a = d.fwd();
    a.rstd = nullptr;
    ASSERT_HN_OK(hn_add_rmsnorm_fwd_cuda(&a, nullptr));
    EXPECT_TRUE(same_bits(d.y.values(), o.y.values()));
    auto only_dx = o.back(), only_dgain = o.back();
    only_dx.dx = d.dx.data(), only_dx.dgain = nullptr;
    backward(only_dx);
    EXPECT_TRUE(same_bits(d.dx.values(), o.dx.values()));
    only_dgain.dx = nullptr, only_dgain.dgain = e.dgain.f32();
    backward(only_dgain);
    EXPECT_TRUE(same_bits(e.dgain.values(), o.dgain.values()));
}

TEST_P(AddRmsnormCuda, CudaBackwardMakesForwardsBitsAgain)
{
    HN_NEED_CUDA();
    Device o(c), d(c);
    run(o);
    const auto f = d.fwd();
    for (DeviceMatrix *to : {&d.y, &d.dy, s.res ? &d.sum : &d.x}) { /* by itself, on an input */
        d.fill();
        ASSERT_HN_OK(hn_add_rmsnorm_fwd_cuda(&f, nullptr));
        auto b = d.back();
        b.y = to->data(), b.ld_y = to->ld();
        if (to == &d.dy) b.dx = (void *)b.sum, b.ld_dx = b.ld_sum;
        backward(b);
        EXPECT_TRUE(same_bits(to->values(), o.y.values()));
        EXPECT_TRUE(same_bits((to != &d.dy ? d.dx : s.res ? d.sum : d.x).values(), o.dx.values()));
        EXPECT_TRUE(same_bits(d.dgain.values(), o.dgain.values()));
    }
}

TEST_P(AddRmsnormCuda, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    Device a(c), b(c), d(c);
    run(a);
    run(b);
    expect_same(b, a);
    const auto f = d.fwd();
    const auto g = d.back();
    DeviceArray<unsigned char> scratch(hn_add_rmsnorm_bwd_cuda_scratch(&g));
    run_captured([&](hn_stream stream) {
        ASSERT_HN_OK(hn_add_rmsnorm_fwd_cuda(&f, stream));
        ASSERT_HN_OK(hn_add_rmsnorm_bwd_cuda(&g, scratch.data(), stream));
    });
    expect_same(d, a);
}

/* A part of a warp or a warp a vector (aligned, unaligned, per head, part-filled), a block a vector
 * with 1, 2, 4 chunks in registers, wider, unaligned and wide, several runs of vectors (of
 * more than a step of their block, the last one shorter), replicas.
 */
INSTANTIATE_TEST_SUITE_P(Shapes, AddRmsnormCuda,
                         ::testing::Values(CudaShape{{HN_F32, HN_F32, 1, 1, 1, 0, true}, 0},
                                           CudaShape{{HN_F32, HN_F32, 9, 1, 33, 0, true}, 2},
                                           CudaShape{{HN_F32, HN_BF16, 5, 4, 16, 0, false}, 0},
                                           CudaShape{{HN_F32, HN_F32, 5, 3, 18, 0, true}, 2},
                                           CudaShape{{HN_F32, HN_F32, 3, 1, 257, 0, true}, 7},
                                           CudaShape{{HN_F32, HN_F32, 3, 1, 1030, 0, true}, 1},
                                           CudaShape{{HN_F32, HN_F32, 300, 1, 96, 3, true}, 8},
                                           CudaShape{{HN_F32, HN_F32, 2, 1, 8192, 0, true}, 0},
                                           CudaShape{{HN_BF16, HN_BF16, 3, 1, 33, 0, true}, 7},
                                           CudaShape{{HN_BF16, HN_F32, 70, 3, 24, 2, false}, 0},
                                           CudaShape{{HN_BF16, HN_BF16, 40, 5, 64, 0, false}, 8},
                                           CudaShape{{HN_F32, HN_F32, 37, 3, 128, 0, true}, 0},
                                           CudaShape{{HN_BF16, HN_BF16, 38, 3, 128, 2, true}, 8},
                                           CudaShape{{HN_BF16, HN_BF16, 5, 2, 200, 0, true}, 8},
                                           CudaShape{{HN_F32, HN_F32, 3, 1, 2048, 3, true}, 4},
                                           CudaShape{{HN_BF16, HN_BF16, 3, 1, 4096, 0, true}, 16},
                                           CudaShape{{HN_BF16, HN_BF16, 3, 1, 8192, 0, true}, 16},
                                           CudaShape{{HN_BF16, HN_F32, 3, 1, 6144, 3, true}, 8},
                                           CudaShape{{HN_BF16, HN_BF16, 4, 1, 2048, 0, true}, 0},
                                           CudaShape{{HN_BF16, HN_F32, 4, 1, 2056, 0, true}, 0},
                                           CudaShape{{HN_BF16, HN_BF16, 300, 32, 128, 0, true}, 0},
                                           CudaShape{{HN_BF16, HN_F32, 1100, 1, 264, 0, true}, 8},
                                           CudaShape{{HN_F32, HN_F32, 801, 1, 272, 3, true}, 0},
                                           CudaShape{{HN_BF16, HN_BF16, 900, 1, 2560, 0, true}, 0},
                                           CudaShape{{HN_BF16, HN_BF16, 3, 1, 4101, 0, true}, 3},
                                           CudaShape{{HN_BF16, HN_BF16, 3, 1, 8200, 0, false}, 0},
                                           CudaShape{{HN_BF16, HN_BF16, 3, 1, 8197, 0, true}, 2}),
                         [](const auto &i) {
                             const Shape &s = i.param.s;
                             return case_name("r", s.rows, "_h", s.heads, "_c", s.cols, "_gap",
                                              i.param.gap, "_g", s.replicas,
                                              (s.res ? "_res" : "_plain"), s.dtype, s.gain_dtype);
                         });
#endif

} // namespace
