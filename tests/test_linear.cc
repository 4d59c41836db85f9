/* kernels/linear: the layer, its gradients, and the tiled product beneath them. */
#include "kernel_test.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_dw.h"
#include "onnx_vectors.h"

namespace {

struct Shape {
    hn_dtype dtype, bias_dtype;
    int64_t rows, in, out, replicas;
};

class Linear : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    const int64_t g = s.replicas ? s.replicas : 1;
    Matrix x{s.dtype, s.rows, s.in}, w{s.dtype, g *s.out, s.in}, bias{s.bias_dtype, g, s.out};
    Matrix add{s.dtype, s.rows, s.out, 5}, y{s.dtype, s.rows, s.out};
    Matrix dy{s.dtype, s.rows, s.out, 1}, dx{s.dtype, s.rows, s.in}, dadd{s.dtype, s.rows, s.in};
    hn_rng_state state = {7, 3, 1000};

    void SetUp() override
    {
        x.normal(1), w.normal(2), bias.normal(3), add.normal(4), dy.normal(5), dadd.normal(6);
    }
    hn_linear_args fwd(Matrix &to, bool full)
    {
        hn_linear_args a = {};
        a.x = x.data(), a.w = w.data(), a.y = to.data();
        if (full) a.bias = bias.data(), a.add = add.data(), a.alpha = 0.5f;
        a.rows = s.rows, a.in = s.in, a.out = s.out;
        a.ld_x = x.ld(), a.ld_w = w.ld(), a.ld_add = add.ld(), a.ld_y = to.ld();
        a.replicas = s.replicas, a.w_stride = s.out * w.ld(), a.bias_stride = bias.ld();
        a.dtype = s.dtype, a.bias_dtype = s.bias_dtype;
        return a;
    }
    hn_linear_dx_args back(Matrix &to, bool full)
    {
        hn_linear_dx_args a = {};
        a.dy = dy.data(), a.w = w.data(), a.dx = to.data();
        if (full) a.add = dadd.data(), a.alpha = 0.5f;
        a.rows = s.rows, a.in = s.in, a.out = s.out;
        a.ld_dy = dy.ld(), a.ld_w = w.ld(), a.ld_add = dadd.ld(), a.ld_dx = to.ld();
        a.replicas = s.replicas, a.w_stride = s.out * w.ld();
        a.dtype = s.dtype;
        return a;
    }
    hn_linear_dw_args weight(Matrix &to, double p)
    {
        hn_linear_dw_args a = {};
        a.dy = dy.data(), a.x = x.data(), a.dw = to.f32();
        a.rows = s.rows, a.in = s.in, a.out = s.out;
        a.ld_dy = dy.ld(), a.ld_x = x.ld(), a.ld_dw = to.ld();
        a.replicas = s.replicas, a.dw_stride = s.out * to.ld();
        a.dtype = s.dtype, a.alpha = 2.0f, a.drop = {&state, 99, p};
        return a;
    }
    hn_linear_db_args of_bias(Matrix &to)
    {
        return {dy.data(), to.f32(), s.rows, s.out, dy.ld(), s.replicas,
                to.ld(),   s.dtype,  2.0f,   0,     0};
    }
    hn_status fast(const hn_linear_args &a)
    {
        Scratch scratch(hn_linear_fwd_fast_scratch(&a));
        return hn_linear_fwd_fast(&a, scratch.data());
    }
    hn_status fast(const hn_linear_dx_args &a)
    {
        Scratch scratch(hn_linear_dx_fast_scratch(&a));
        return hn_linear_dx_fast(&a, scratch.data());
    }
    hn_status fast(const hn_linear_dw_args &a)
    {
        Scratch scratch(hn_linear_dw_fast_scratch(&a));
        return hn_linear_dw_fast(&a, scratch.data());
    }
};

TEST_P(Linear, FastMatchesTwin)
{
    for (const bool full : {false, true}) {
        Matrix want(s.dtype, s.rows, s.out), got(s.dtype, s.rows, s.out);
        const auto a = fwd(want, full), b = fwd(got, full);
        ASSERT_HN_OK(hn_linear_fwd_cpu(&a));
        ASSERT_HN_OK(fast(b));
        EXPECT_LT(rel_l2(got.values(), want.values()), tolerance(s.dtype)) << full;
    }
}

TEST_P(Linear, FastInputGradientMatchesTwin)
{
    for (const bool full : {false, true}) {
        Matrix want(s.dtype, s.rows, s.in), got(s.dtype, s.rows, s.in);
        const auto a = back(want, full), b = back(got, full);
        ASSERT_HN_OK(hn_linear_dx_cpu(&a));
        ASSERT_HN_OK(fast(b));
        EXPECT_LT(rel_l2(got.values(), want.values()), tolerance(s.dtype)) << full;
    }
}

TEST_P(Linear, FastParameterGradientsMatchTwinAndAccumulate)
{
    for (const double p : {0.0, 0.3}) {
        Matrix want(HN_F32, g * s.out, s.in), got(HN_F32, g * s.out, s.in);
        want.normal(8), got.normal(8);
        const auto a = weight(want, p), b = weight(got, p);
        ASSERT_HN_OK(hn_linear_dw_cpu(&a));
        ASSERT_HN_OK(fast(b));
        EXPECT_LT(rel_l2(got.values(), want.values()), tolerance(HN_F32)) << p;
    }
    Matrix want(HN_F32, g, s.out), got(HN_F32, g, s.out);
    want.normal(9), got.normal(9);
    const auto a = of_bias(want), b = of_bias(got);
    ASSERT_HN_OK(hn_linear_db_cpu(&a));
    ASSERT_HN_OK(hn_linear_db_fast(&b));
    EXPECT_LT(rel_l2(got.values(), want.values()), tolerance(HN_F32));
}

TEST_P(Linear, BitsDoNotDependOnThreads)
{
    std::vector<std::vector<float>> first;
    for (const int threads : {1, 2, 3}) {
        Matrix dw(HN_F32, g * s.out, s.in), db(HN_F32, g, s.out);
        dw.normal(8), db.normal(9);
        on_threads(threads, [&] {
            EXPECT_HN_OK(fast(fwd(y, true)));
            EXPECT_HN_OK(fast(back(dx, true)));
            EXPECT_HN_OK(fast(weight(dw, 0.3)));
            const auto b = of_bias(db);
            EXPECT_HN_OK(hn_linear_db_fast(&b));
        });
        const std::vector<std::vector<float>> now = {y.values(), dx.values(), dw.values(),
                                                     db.values()};
        if (first.empty()) first = now;
        for (size_t k = 0; k < now.size(); k++) EXPECT_TRUE(same_bits(now[k], first[k])) << k;
    }
}

TEST_P(Linear, OutputMayBeTheAddedOperand)
{
    ASSERT_HN_OK(fast(fwd(y, true)));
    auto a = fwd(add, true);
    ASSERT_HN_OK(fast(a));
    EXPECT_TRUE(same_bits(add.values(), y.values()));
    ASSERT_HN_OK(fast(back(dx, true)));
    auto b = back(dadd, true);
    ASSERT_HN_OK(fast(b));
    EXPECT_TRUE(same_bits(dadd.values(), dx.values()));
}

/* Smallest; odd sizes; one past the 64 and 1024 of a tile; one row (decoding); replicas. */
INSTANTIATE_TEST_SUITE_P(
    Shapes, Linear,
    ::testing::Values(Shape{HN_F32, HN_F32, 1, 1, 1, 0}, Shape{HN_F32, HN_BF16, 3, 5, 7, 0},
                      Shape{HN_F32, HN_F32, 65, 33, 130, 0}, Shape{HN_F32, HN_F32, 1, 70, 1030, 0},
                      Shape{HN_F32, HN_F32, 1030, 9, 3, 0}, Shape{HN_F32, HN_F32, 12, 20, 6, 3},
                      Shape{HN_F32, HN_F32, 300, 64, 96, 0}, Shape{HN_BF16, HN_BF16, 1, 1, 1, 0},
                      Shape{HN_BF16, HN_F32, 65, 33, 130, 0}, Shape{HN_BF16, HN_BF16, 12, 20, 6, 3},
                      Shape{HN_BF16, HN_BF16, 1, 600, 40, 0}),
    [](const auto &i) {
        const Shape &s = i.param;
        return case_name("r", s.rows, "_i", s.in, "_o", s.out, "_g", s.replicas, s.dtype,
                         s.bias_dtype);
    });

TEST(LinearTwin, MatchesHandComputedValues)
{
    const float x[] = {1, 2, 3, 4}, w[] = {1, -1, 2, 0.5f}, bias[] = {10, 20}, add[] = {1, 2, 3, 4};
    float y[4], dx[4], dw[4] = {1, 1, 1, 1}, db[2] = {5, 5};
    hn_linear_args a = {};
    a.x = x, a.w = w, a.bias = bias, a.add = add, a.y = y, a.alpha = 2;
    a.rows = a.in = a.out = a.ld_x = a.ld_w = a.ld_y = a.ld_add = 2;
    ASSERT_HN_OK(hn_linear_fwd_cpu(&a)); /* x w^T = {-1, 3, -1, 8} */
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{9, 28, 11, 40}));
    hn_linear_dx_args b = {};
    b.dy = x, b.w = w, b.dx = dx;
    b.rows = b.in = b.out = b.ld_dy = b.ld_w = b.ld_dx = 2;
    ASSERT_HN_OK(hn_linear_dx_cpu(&b));
    EXPECT_EQ(std::vector<float>(dx, dx + 4), (std::vector<float>{5, 0, 11, -1}));
    hn_linear_dw_args c = {};
    c.dy = add, c.x = x, c.dw = dw;
    c.rows = c.in = c.out = c.ld_dy = c.ld_x = c.ld_dw = 2;
    ASSERT_HN_OK(hn_linear_dw_cpu(&c)); /* {1,3;2,4} {1,2;3,4} = {10,14;14,20} */
    EXPECT_EQ(std::vector<float>(dw, dw + 4), (std::vector<float>{11, 15, 15, 21}));
    hn_linear_db_args d = {};
    d.dy = add, d.db = db, d.rows = d.out = d.ld_dy = 2;
    ASSERT_HN_OK(hn_linear_db_cpu(&d));
    EXPECT_EQ(std::vector<float>(db, db + 2), (std::vector<float>{9, 11}));
}

/* The part of a bias that is said to stay gets nothing, the rest what it gets without. */
TEST(LinearDb, StillColumnsStayBitForBit)
{
    for (const int64_t replicas : {1, 3})
        for (const bool fast : {false, true}) {
            Matrix dy(HN_BF16, 9, 130), all(HN_F32, replicas, 130), some(HN_F32, replicas, 130);
            dy.normal(1), all.normal(2), some.normal(2);
            const std::vector<float> before = some.values();
            hn_linear_db_args a = {};
            a.dy = dy.data(), a.db = all.f32(), a.rows = 9, a.out = 130, a.ld_dy = dy.ld();
            a.replicas = replicas, a.db_stride = all.ld(), a.dtype = HN_BF16;
            ASSERT_HN_OK(fast ? hn_linear_db_fast(&a) : hn_linear_db_cpu(&a));
            a.db = some.f32(), a.still = 40, a.n_still = 70;
            ASSERT_HN_OK(fast ? hn_linear_db_fast(&a) : hn_linear_db_cpu(&a));
            const std::vector<float> got = some.values(), want = all.values();
            for (size_t i = 0; i < got.size(); i++) {
                const bool still = i % 130 >= 40 && i % 130 < 110;
                EXPECT_EQ(got[i], still ? before[i] : want[i]) << i;
                EXPECT_NE(want[i], before[i]) << i;
            }
            a.still = 61;
            EXPECT_HN_FAIL(hn_linear_db_check(&a), HN_ERR_SHAPE,
                           "70 columns from 61 on stay, of 130");
        }
}

TEST(LinearReplicas, EqualSeparateCalls)
{
    Matrix x(HN_F32, 6, 5), w(HN_F32, 8, 5), y(HN_F32, 6, 4), one(HN_F32, 2, 4);
    x.normal(1), w.normal(2);
    hn_linear_args a = {};
    a.x = x.data(), a.w = w.data(), a.y = y.data();
    a.rows = 6, a.in = 5, a.out = 4, a.replicas = 3, a.w_stride = 2 * w.ld();
    a.ld_x = x.ld(), a.ld_w = w.ld(), a.ld_y = y.ld();
    EXPECT_HN_FAIL(hn_linear_fwd_fast(&a, nullptr), HN_ERR_SHAPE, "replicas of w");
    a.w_stride = 0; /* all share the first */
    ASSERT_HN_OK(hn_linear_fwd_fast(&a, nullptr));
    const auto together = y.values();
    for (int g = 0; g < 3; g++) {
        hn_linear_args b = a;
        b.x = x.f32() + 2 * g * x.ld(), b.y = one.data(), b.rows = 2, b.replicas = 0;
        b.ld_y = one.ld();
        ASSERT_HN_OK(hn_linear_fwd_fast(&b, nullptr));
        const auto v = one.values();
        EXPECT_TRUE(std::equal(v.begin(), v.end(), together.begin() + 8 * g));
    }
}

TEST(LinearCheck, NamesWhatIsWrong)
{
    float f[64] = {};
    hn_linear_args a = {};
    a.x = f, a.w = f + 16, a.y = f + 32;
    a.rows = 2, a.in = 3, a.out = 4, a.ld_x = a.ld_w = 3, a.ld_y = 4;
    EXPECT_HN_OK(hn_linear_check(&a));
    auto with = [&](auto change) {
        hn_linear_args b = a;
        change(b);
        return hn_linear_check(&b);
    };
    EXPECT_HN_FAIL(hn_linear_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.x = nullptr; }), HN_ERR_ARG, "x is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.w = nullptr; }), HN_ERR_ARG, "w is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.y = nullptr; }), HN_ERR_ARG, "y is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.rows = 0; }), HN_ERR_SHAPE, "[0, 3]");
    EXPECT_HN_FAIL(with([](auto &b) { b.in = (int64_t)1 << 31; }), HN_ERR_SHAPE, "2147483648");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_w = 2; }), HN_ERR_SHAPE, "leading dimension 2 of w");
    EXPECT_HN_FAIL(with([](auto &b) { b.replicas = 3; }), HN_ERR_SHAPE, "3 replicas");
    EXPECT_HN_FAIL(with([](auto &b) { b.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    EXPECT_HN_FAIL(with([&](auto &b) { b.bias = f, b.bias_dtype = HN_I32; }), HN_ERR_UNSUPPORTED,
                   "i32");
    EXPECT_HN_FAIL(with([&](auto &b) { b.add = b.y, b.ld_add = 8; }), HN_ERR_ARG, "8 and 4");

    hn_linear_dx_args d = {};
    d.dy = f, d.w = f, d.dx = f + 32, d.rows = 2, d.in = 3, d.out = 4;
    d.ld_dy = 4, d.ld_w = d.ld_dx = 3;
    EXPECT_HN_OK(hn_linear_dx_check(&d));
    d.ld_dy = 3;
    EXPECT_HN_FAIL(hn_linear_dx_check(&d), HN_ERR_SHAPE, "dy");

    hn_linear_dw_args e = {};
    e.dy = f, e.x = f, e.dw = f + 32, e.rows = 2, e.in = 3, e.out = 4;
    e.ld_dy = 4, e.ld_x = e.ld_dw = 3;
    EXPECT_HN_OK(hn_linear_dw_check(&e));
    e.drop.p = 0.5;
    EXPECT_HN_FAIL(hn_linear_dw_check(&e), HN_ERR_ARG, "without random state");
    e.drop.p = 1.0;
    EXPECT_HN_FAIL(hn_linear_dw_check(&e), HN_ERR_ARG, "[0, 1)");
    e.drop.p = 0, e.replicas = 2;
    EXPECT_HN_FAIL(hn_linear_dw_check(&e), HN_ERR_SHAPE, "replicas of dw");

    hn_linear_db_args h = {};
    h.dy = f, h.db = f + 32, h.rows = 2, h.out = h.ld_dy = 4;
    EXPECT_HN_OK(hn_linear_db_check(&h));
    h.db = nullptr;
    EXPECT_HN_FAIL(hn_linear_db_check(&h), HN_ERR_ARG, "db is NULL");
}

TEST(LinearCheck, MissingScratchIsAnErrorBeforeTheFirstWrite)
{
    Matrix x(HN_BF16, 2, 3), w(HN_BF16, 4, 3), y(HN_BF16, 2, 4);
    hn_linear_args a = {};
    a.x = x.data(), a.w = w.data(), a.y = y.data(), a.dtype = HN_BF16;
    a.rows = 2, a.in = 3, a.out = 4, a.ld_x = x.ld(), a.ld_w = w.ld(), a.ld_y = y.ld();
    EXPECT_HN_FAIL(hn_linear_fwd_fast(&a, nullptr), HN_ERR_ARG, "scratch");
    for (const float v : y.values()) EXPECT_TRUE(std::isnan(v));
}

/* Transposes the last two axes where the operator wants it the other way. */
std::vector<float> transposed(const std::vector<float> &v, int64_t rows, int64_t cols)
{
    std::vector<float> t(v.size());
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) t[(size_t)(j * rows + i)] = v[(size_t)(i * cols + j)];
    return t;
}

/* a [m, k] times b^T with b [n, k], plus c [m, n] (may be empty), by twin and fast function. */
std::vector<float> product(const std::vector<float> &a, const std::vector<float> &b, int64_t m,
                           int64_t k, int64_t n, float alpha, const std::vector<float> &c,
                           bool fast)
{
    std::vector<float> y((size_t)(m * n));
    hn_linear_args args = {};
    args.x = a.data(), args.w = b.data(), args.y = y.data();
    args.add = c.empty() ? nullptr : c.data();
    args.rows = m, args.in = args.ld_x = args.ld_w = k, args.out = args.ld_y = args.ld_add = n;
    args.alpha = alpha;
    EXPECT_HN_OK(fast ? hn_linear_fwd_fast(&args, nullptr) : hn_linear_fwd_cpu(&args));
    return y;
}

TEST(LinearOnnx, GemmVectors)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    const int n = onnx::each(dir, "Gemm", [](const onnx::Case &c) {
        const onnx::Tensor &a = *c.in(0), &b = *c.in(1), &y = *c.out(0);
        const bool ta = c.integer("transA", 0) != 0, tb = c.integer("transB", 0) != 0;
        const int64_t m = y.dim(0), out = y.dim(1), k = ta ? a.dim(0) : a.dim(1);
        const auto x = ta ? transposed(a.f32(), k, m) : a.f32();
        const auto w = tb ? b.f32() : transposed(b.f32(), k, out);
        std::vector<float> add;
        if (c.in(2)) { /* c is spread over y: [m, n], [1, n], [1] or one number */
            const auto v = c.in(2)->f32();
            const float beta = (float)c.number("beta", 1);
            for (int64_t i = 0; i < m * out; i++)
                add.push_back(beta * v[(size_t)(v.size() == (size_t)(m * out) ? i
                                                : v.size() == 1               ? 0
                                                                              : i % out)]);
        }
        for (const bool fast : {false, true})
            EXPECT_LT(
                max_abs(product(x, w, m, k, out, (float)c.number("alpha", 1), add, fast), y.f32()),
                2e-6); /* at most 10 terms of size 1 */
    });
    EXPECT_EQ(n, 11);
}

/* Every batch of a matrix product with its own pair of matrices; vectors become one row or column.
 */
TEST(LinearOnnx, MatMulVectors)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    const int n = onnx::each(dir, "MatMul", [](const onnx::Case &c) {
        onnx::Tensor a = *c.in(0), b = *c.in(1);
        if (a.shape.size() == 1) a.shape.insert(a.shape.begin(), 1);
        if (b.shape.size() == 1) b.shape.push_back(1);
        while (a.shape.size() < 4) a.shape.insert(a.shape.begin(), 1);
        while (b.shape.size() < 4) b.shape.insert(b.shape.begin(), 1);
        const int64_t m = a.dim(2), k = a.dim(3), out = b.dim(3);
        const auto av = a.f32(), bv = b.f32(), want = c.out(0)->f32();
        size_t at = 0;
        for (int64_t i = 0; i < std::max(a.dim(0), b.dim(0)); i++)
            for (int64_t j = 0; j < std::max(a.dim(1), b.dim(1)); j++) {
                const int64_t ka = (i % a.dim(0)) * a.dim(1) + j % a.dim(1);
                const int64_t kb = (i % b.dim(0)) * b.dim(1) + j % b.dim(1);
                const auto x = av.begin() + ka * m * k, w = bv.begin() + kb * k * out;
                const auto y = product({x, x + m * k}, transposed({w, w + k * out}, k, out), m, k,
                                       out, 1, {}, true);
                for (const float v : y) EXPECT_NEAR(v, want[at++], 2e-6);
            }
        EXPECT_EQ(at, want.size());
    });
    EXPECT_EQ(n, 7);
}

} // namespace

#ifdef HONE_CUDA
#include "gemm_cuda_test.h"

namespace {

/* The operands of Linear on the device, rows on 16-byte boundaries or not. */
struct OnDevice {
    DeviceCopy x, w, bias, add, dy, dadd;
    DeviceArray<hn_rng_state> state;
};

class LinearCuda : public Linear {
  protected:
    OnDevice copies(bool aligned)
    {
        return {{x, aligned},
                {w, aligned},
                {bias, aligned},
                {add, aligned},
                {dy, aligned},
                {dadd, aligned},
                DeviceArray<hn_rng_state>(std::vector<hn_rng_state>{state})};
    }
    hn_linear_args on(OnDevice &d, DeviceMatrix &to, bool full)
    {
        auto a = fwd(y, full);
        a.x = d.x.data(), a.w = d.w.data(), a.y = to.data();
        if (full) a.bias = d.bias.data(), a.add = d.add.data();
        a.ld_x = d.x.ld(), a.ld_w = d.w.ld(), a.ld_add = d.add.ld(), a.ld_y = to.ld();
        a.w_stride = s.out * d.w.ld(), a.bias_stride = d.bias.ld();
        return a;
    }
    hn_linear_dx_args back_on(OnDevice &d, DeviceMatrix &to, bool full)
    {
        auto a = back(dx, full);
        a.dy = d.dy.data(), a.w = d.w.data(), a.dx = to.data();
        if (full) a.add = d.dadd.data();
        a.ld_dy = d.dy.ld(), a.ld_w = d.w.ld(), a.ld_add = d.dadd.ld(), a.ld_dx = to.ld();
        a.w_stride = s.out * d.w.ld();
        return a;
    }
    hn_linear_dw_args weight_on(OnDevice &d, DeviceMatrix &to, double p)
    {
        Matrix unused(HN_F32, 1, 1);
        auto a = weight(unused, p);
        a.dy = d.dy.data(), a.x = d.x.data(), a.dw = to.f32(), a.drop.state = d.state.data();
        a.ld_dy = d.dy.ld(), a.ld_x = d.x.ld(), a.ld_dw = to.ld(), a.dw_stride = s.out * to.ld();
        return a;
    }
    hn_linear_db_args of_bias_on(OnDevice &d, DeviceMatrix &to)
    {
        return {d.dy.data(), to.f32(), s.rows, s.out, d.dy.ld(), s.replicas,
                to.ld(),     s.dtype,  2.0f,   0,     0};
    }
    /* All four functions with everything they take, scratch of the promised size. */
    struct Results {
        DeviceMatrix y, dx, dw, db;
    };
    Results fresh() const
    {
        return {{s.dtype, s.rows, s.out},
                {s.dtype, s.rows, s.in},
                {HN_F32, g * s.out, s.in},
                {HN_F32, g, s.out}};
    }
    void start(Results &r) { r.dw.normal(8), r.db.normal(9); }
    void run(hn_gemm_cuda *gemm, OnDevice &d, Results &r, void *const scratch[3], hn_stream stream)
    {
        const auto a = on(d, r.y, true);
        const auto b = back_on(d, r.dx, true);
        const auto c = weight_on(d, r.dw, 0.3);
        const auto e = of_bias_on(d, r.db);
        EXPECT_HN_OK(hn_linear_fwd_cuda(&a, gemm, scratch[0], stream));
        EXPECT_HN_OK(hn_linear_dx_cuda(&b, gemm, stream));
        EXPECT_HN_OK(hn_linear_dw_cuda(&c, gemm, scratch[1], stream));
        EXPECT_HN_OK(hn_linear_db_cuda(&e, scratch[2], stream));
    }
    struct Scratches {
        DeviceScratch y, dw, db;
        void *const all[3] = {y.data(), dw.data(), db.data()};
    };
    Scratches scratches(OnDevice &d, Results &r)
    {
        const auto a = on(d, r.y, true);
        const auto c = weight_on(d, r.dw, 0.3);
        const auto e = of_bias_on(d, r.db);
        return {DeviceScratch(hn_linear_fwd_cuda_scratch(&a)),
                DeviceScratch(hn_linear_dw_cuda_scratch(&c)),
                DeviceScratch(hn_linear_db_cuda_scratch(&e))};
    }
};

TEST_P(LinearCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    Gemm gemm;
    for (const bool aligned : {false, true})
        for (const bool full : {false, true}) {
            OnDevice d = copies(aligned);
            Matrix want(s.dtype, s.rows, s.out), want_dx(s.dtype, s.rows, s.in);
            DeviceMatrix got(s.dtype, s.rows, s.out, aligned ? aligned_gap(s.out) : 3);
            DeviceMatrix got_dx(s.dtype, s.rows, s.in, aligned ? aligned_gap(s.in) : 3);
            const auto a = fwd(want, full), b = on(d, got, full);
            DeviceScratch scratch(hn_linear_fwd_cuda_scratch(&b));
            ASSERT_HN_OK(hn_linear_fwd_cpu(&a));
            ASSERT_HN_OK(hn_linear_fwd_cuda(&b, gemm, scratch.data(), nullptr));
            /* with bias and added operand cuBLASLt may round bf16 twice */
            const double twice = full && s.dtype == HN_BF16 ? 2 : 1;
            EXPECT_LT(rel_l2(got.values(), want.values()), twice * tolerance(s.dtype))
                << aligned << full;
            const auto c = back(want_dx, full);
            const auto e = back_on(d, got_dx, full);
            ASSERT_HN_OK(hn_linear_dx_cpu(&c));
            ASSERT_HN_OK(hn_linear_dx_cuda(&e, gemm, nullptr));
            EXPECT_LT(rel_l2(got_dx.values(), want_dx.values()), tolerance(s.dtype))
                << aligned << full;
        }
}

TEST_P(LinearCuda, CudaParameterGradientsMatchCpuAndAccumulate)
{
    HN_NEED_CUDA();
    Gemm gemm;
    for (const bool aligned : {false, true}) {
        OnDevice d = copies(aligned);
        for (const double p : {0.0, 0.3}) {
            Matrix want(HN_F32, g * s.out, s.in);
            DeviceMatrix got(HN_F32, g * s.out, s.in, aligned ? aligned_gap(s.in) : 3);
            want.normal(8), got.normal(8);
            const auto a = weight(want, p);
            const auto b = weight_on(d, got, p);
            DeviceScratch scratch(hn_linear_dw_cuda_scratch(&b));
            ASSERT_HN_OK(hn_linear_dw_cpu(&a));
            ASSERT_HN_OK(hn_linear_dw_cuda(&b, gemm, scratch.data(), nullptr));
            EXPECT_LT(rel_l2(got.values(), want.values()), tolerance(HN_F32)) << aligned << p;
        }
        Matrix want(HN_F32, g, s.out);
        DeviceMatrix got(HN_F32, g, s.out);
        want.normal(9), got.normal(9);
        const auto a = of_bias(want);
        const auto b = of_bias_on(d, got);
        DeviceScratch scratch(hn_linear_db_cuda_scratch(&b));
        ASSERT_HN_OK(hn_linear_db_cpu(&a));
        ASSERT_HN_OK(hn_linear_db_cuda(&b, scratch.data(), nullptr));
        EXPECT_LT(rel_l2(got.values(), want.values()), tolerance(HN_F32)) << aligned;
    }
}

TEST_P(LinearCuda, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    Gemm gemm;
    OnDevice d = copies(true);
    Results first = fresh(), second = fresh(), replayed = fresh();
    Scratches scratch = scratches(d, first);
    start(first), start(second), start(replayed);
    run(gemm, d, first, scratch.all, nullptr);
    run(gemm, d, second, scratch.all, nullptr);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    run_captured([&](hn_stream stream) { run(gemm, d, replayed, scratch.all, stream); });
    for (Results *r : {&second, &replayed}) {
        EXPECT_TRUE(r->y.raw() == first.y.raw());
        EXPECT_TRUE(r->dx.raw() == first.dx.raw());
        EXPECT_TRUE(r->dw.raw() == first.dw.raw());
        EXPECT_TRUE(r->db.raw() == first.db.raw());
    }
}

TEST_P(LinearCuda, CudaOutputMayBeTheAddedOperand)
{
    HN_NEED_CUDA();
    Gemm gemm;
    OnDevice d = copies(false);
    DeviceMatrix to(s.dtype, s.rows, s.out), to_dx(s.dtype, s.rows, s.in);
    auto a = on(d, to, true);
    auto b = back_on(d, to_dx, true);
    DeviceScratch scratch(hn_linear_fwd_cuda_scratch(&a));
    ASSERT_HN_OK(hn_linear_fwd_cuda(&a, gemm, scratch.data(), nullptr));
    ASSERT_HN_OK(hn_linear_dx_cuda(&b, gemm, nullptr));
    a.y = d.add.data(), a.ld_y = d.add.ld();
    b.dx = d.dadd.data(), b.ld_dx = d.dadd.ld();
    ASSERT_HN_OK(hn_linear_fwd_cuda(&a, gemm, scratch.data(), nullptr));
    ASSERT_HN_OK(hn_linear_dx_cuda(&b, gemm, nullptr));
    EXPECT_EQ(d.add.values(), to.values());
    EXPECT_EQ(d.dadd.values(), to_dx.values());
}

TEST_P(LinearCuda, CudaReplicasMayShareParameters)
{
    HN_NEED_CUDA();
    if (s.replicas < 2) GTEST_SKIP() << "replicas wanted";
    Gemm gemm;
    OnDevice d = copies(true);
    for (const bool share_bias : {false, true}) {
        Matrix want(s.dtype, s.rows, s.out);
        DeviceMatrix got(s.dtype, s.rows, s.out);
        auto a = fwd(want, true);
        auto b = on(d, got, true);
        a.w_stride = b.w_stride = 0;
        if (share_bias) a.bias_stride = b.bias_stride = 0;
        DeviceScratch scratch(hn_linear_fwd_cuda_scratch(&b));
        ASSERT_HN_OK(hn_linear_fwd_cpu(&a));
        ASSERT_HN_OK(hn_linear_fwd_cuda(&b, gemm, scratch.data(), nullptr));
        EXPECT_LT(rel_l2(got.values(), want.values()), tolerance(s.dtype)) << share_bias;
    }
}

/* Column sums: fewer rows than a block has below each other, as many and one more; runs of several
 * steps, rows and all; columns of a block and one past them, a last piece that is not whole; more
 * replicas than there are blocks. */
TEST(LinearDbCuda, CudaMatchesCpuAtEveryEdge)
{
    HN_NEED_CUDA();
    const struct {
        int64_t rows, out, replicas;
    } all[] = {{1, 1, 0},      {7, 8, 0},     {8, 32, 0},      {9, 33, 0},    {31, 63, 0},
               {32, 64, 0},    {33, 65, 0},   {129, 72, 0},    {501, 100, 3}, {4097, 192, 0},
               {900, 12, 450}, {13001, 6, 0}, {63756, 8, 396}, {3, 26000, 0}};
    for (const auto &s : all)
        for (const hn_dtype t : {HN_F32, HN_BF16})
            for (const int64_t gap : {aligned_gap(s.out), aligned_gap(s.out) + 8, (int64_t)3}) {
                const int64_t g = s.replicas ? s.replicas : 1;
                Matrix dy(t, s.rows, s.out, gap), want(HN_F32, g, s.out);
                DeviceMatrix on(t, s.rows, s.out, gap), got(HN_F32, g, s.out);
                dy.normal(1), on.normal(1), want.normal(2), got.normal(2);
                hn_linear_db_args a = {dy.data(), want.f32(), s.rows,    s.out,
                                       dy.ld(),   s.replicas, want.ld(), t,
                                       0.5f,      s.out / 3,  s.out / 2};
                ASSERT_HN_OK(hn_linear_db_cpu(&a));
                a.dy = on.data(), a.db = got.f32(), a.ld_dy = on.ld(), a.db_stride = got.ld();
                DeviceScratch scratch(hn_linear_db_cuda_scratch(&a));
                ASSERT_HN_OK(hn_linear_db_cuda(&a, scratch.data(), nullptr));
                EXPECT_LT(rel_l2(got.values(), want.values()), tolerance(HN_F32))
                    << s.rows << " " << s.out << " " << s.replicas << " " << gap;
            }
}

/* As above; columns of a block, runs of rows and one past both for db; bias of the other dtype with
 * replicas; sizes of a small model; dw in pieces of the rows, ten, two and twenty. */
INSTANTIATE_TEST_SUITE_P(
    Shapes, LinearCuda,
    ::testing::Values(Shape{HN_F32, HN_F32, 1, 1, 1, 0}, Shape{HN_F32, HN_BF16, 3, 5, 7, 0},
                      Shape{HN_F32, HN_F32, 65, 33, 130, 0}, Shape{HN_F32, HN_F32, 1, 70, 1030, 0},
                      Shape{HN_F32, HN_F32, 1030, 9, 3, 0}, Shape{HN_F32, HN_F32, 12, 20, 6, 3},
                      Shape{HN_F32, HN_BF16, 12, 24, 8, 3}, Shape{HN_F32, HN_F32, 256, 64, 32, 0},
                      Shape{HN_BF16, HN_BF16, 1, 1, 1, 0}, Shape{HN_BF16, HN_F32, 65, 33, 130, 0},
                      Shape{HN_BF16, HN_BF16, 12, 20, 6, 3}, Shape{HN_BF16, HN_F32, 12, 20, 6, 3},
                      Shape{HN_BF16, HN_BF16, 1, 600, 40, 0},
                      Shape{HN_BF16, HN_BF16, 257, 64, 96, 0},
                      Shape{HN_BF16, HN_BF16, 2560, 70, 130, 0},
                      Shape{HN_BF16, HN_F32, 1030, 192, 72, 0},
                      Shape{HN_BF16, HN_BF16, 5120, 72, 72, 0}),
    [](const auto &i) {
        const Shape &s = i.param;
        return case_name("r", s.rows, "_i", s.in, "_o", s.out, "_g", s.replicas, s.dtype,
                         s.bias_dtype);
    });

TEST(LinearCudaCheck, MissingScratchIsAnErrorBeforeTheFirstWrite)
{
    HN_NEED_CUDA();
    Gemm gemm;
    DeviceMatrix x(HN_BF16, 2, 3), w(HN_BF16, 4, 3), bias(HN_F32, 1, 4), y(HN_BF16, 2, 4);
    hn_linear_args a = {};
    a.x = x.data(), a.w = w.data(), a.y = y.data(), a.dtype = HN_BF16;
    a.bias = bias.data(), a.bias_dtype = HN_F32;
    a.rows = 2, a.in = 3, a.out = 4, a.ld_x = x.ld(), a.ld_w = w.ld(), a.ld_y = y.ld();
    EXPECT_HN_FAIL(hn_linear_fwd_cuda(&a, gemm, nullptr, nullptr), HN_ERR_ARG, "scratch");
    for (const float v : y.values()) EXPECT_TRUE(std::isnan(v));
}

} // namespace
#endif
