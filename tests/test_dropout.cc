/* kernels/random: dropout. */
#include "kernel_test.h"
#include "kernels/random/dropout.h"
#include "onnx_vectors.h"

namespace {

struct Shape {
    hn_dtype dtype;
    int64_t rows, cols;
    double p;
};

hn_dropout_args args_of(Matrix &x, Matrix &y, const hn_rng_state *state, double p)
{
    return {x.data(), y.data(), x.rows(),  x.cols(),
            x.ld(),   y.ld(),   x.dtype(), {state, hn_hash_name("layers.0.drop"), p}};
}

class Dropout : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    const hn_rng_state state = {11, 5, 40};
    Matrix x{s.dtype, s.rows, s.cols}, y{s.dtype, s.rows, s.cols, 5};
    void SetUp() override { x.normal(1, 3, 0.5f); }
};

TEST_P(Dropout, FastEqualsTwinBitForBitOnAnyThreads)
{
    const auto a = args_of(x, y, &state, s.p);
    ASSERT_HN_OK(hn_dropout_cpu(&a));
    const auto want = y.values();
    for (const int threads : {1, 2, 3}) {
        Matrix got(s.dtype, s.rows, s.cols);
        const auto b = args_of(x, got, &state, s.p);
        on_threads(threads, [&] { EXPECT_HN_OK(hn_dropout_fast(&b)); });
        EXPECT_TRUE(same_bits(got.values(), want));
    }
    ASSERT_HN_OK(hn_dropout_fast(&a)); /* again, over the old result */
    EXPECT_TRUE(same_bits(y.values(), want));
}

TEST_P(Dropout, MayRunInPlace)
{
    const auto a = args_of(x, y, &state, s.p), b = args_of(x, x, &state, s.p);
    ASSERT_HN_OK(hn_dropout_fast(&a));
    ASSERT_HN_OK(hn_dropout_fast(&b));
    EXPECT_TRUE(same_bits(x.values(), y.values()));
}

TEST_P(Dropout, MaskFollowsTheGlobalRow)
{
    const auto a = args_of(x, y, &state, s.p);
    ASSERT_HN_OK(hn_dropout_fast(&a));
    const auto whole = y.values();
    for (int64_t i = 0; i < s.rows; i++) { /* row by row, as micro-batches of one */
        const hn_rng_state later = {11, 5, 40 + i};
        auto b = args_of(x, y, &later, s.p);
        b.x = (char *)x.data() + (size_t)(i * x.ld()) * hn_dtype_size(s.dtype), b.rows = 1;
        ASSERT_HN_OK(hn_dropout_fast(&b));
        const auto v = y.values();
        EXPECT_TRUE(std::equal(v.begin(), v.begin() + s.cols, whole.begin() + i * s.cols)) << i;
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Dropout,
                         ::testing::Values(Shape{HN_F32, 1, 1, 0.5}, Shape{HN_F32, 3, 31, 0.1},
                                           Shape{HN_F32, 5, 1033, 0.9}, Shape{HN_F32, 40, 512, 0.0},
                                           Shape{HN_BF16, 4, 33, 0.3}, Shape{HN_BF16, 2, 520, 0.0},
                                           Shape{HN_BF16, 40, 513, 0.5}),
                         [](const auto &i) {
                             return case_name("r", i.param.rows, "_c", i.param.cols, i.param.dtype);
                         });

TEST(DropoutTwin, MatchesItsDefinition)
{
    const hn_rng_state state = {1, 2, 3};
    Matrix x(HN_F32, 6, 9), y(HN_F32, 6, 9);
    x.normal(4);
    const auto a = args_of(x, y, &state, 0.25);
    ASSERT_HN_OK(hn_dropout_cpu(&a));
    const hn_rng r = hn_rng_make(1, 2, hn_hash_name("layers.0.drop"));
    const auto in = x.values(), out = y.values();
    for (uint32_t i = 0; i < 6; i++)
        for (uint32_t j = 0; j < 9; j++) {
            const bool keep = hn_rng_u32(r, 3 + i, j) >= 0x40000000u; /* a quarter of 2^32 */
            EXPECT_EQ(out[i * 9 + j], keep ? in[i * 9 + j] * (4.0f / 3.0f) : 0.0f);
        }
}

TEST(DropoutTwin, KeepsTheExpectedShareAndDependsOnEveryPartOfTheKey)
{
    Matrix x(HN_F32, 100, 1000), y(HN_F32, 100, 1000), z(HN_F32, 100, 1000);
    x.assign(std::vector<float>(100000, 1.0f));
    const hn_rng_state base = {1, 2, 3};
    auto a = args_of(x, y, &base, 0.1);
    ASSERT_HN_OK(hn_dropout_fast(&a));
    double sum = 0;
    for (const float v : y.values()) sum += v;
    EXPECT_NEAR(sum / 100000, 1.0, 0.006); /* five standard errors */
    const hn_rng_state others[] = {{2, 2, 3}, {1, 3, 3}, {1, 2, 4}, base};
    for (int k = 0; k < 4; k++) {
        auto b = args_of(x, z, &others[k], 0.1);
        if (k == 3) b.key.op_hash = hn_hash_name("layers.1.drop");
        ASSERT_HN_OK(hn_dropout_fast(&b));
        EXPECT_FALSE(same_bits(y.values(), z.values())) << k;
    }
}

TEST(DropoutCheck, NamesWhatIsWrong)
{
    const hn_rng_state state = {};
    Matrix x(HN_F32, 2, 3), y(HN_F32, 2, 3);
    auto a = args_of(x, y, &state, 0.5);
    EXPECT_HN_OK(hn_dropout_check(&a));
    EXPECT_HN_FAIL(hn_dropout_check(nullptr), HN_ERR_ARG, "args");
    a.key.p = 1;
    EXPECT_HN_FAIL(hn_dropout_check(&a), HN_ERR_ARG, "dropout 1 is not in [0, 1)");
    a.key.p = -0.1;
    EXPECT_HN_FAIL(hn_dropout_check(&a), HN_ERR_ARG, "-0.1");
    a.key.p = NAN;
    EXPECT_HN_FAIL(hn_dropout_check(&a), HN_ERR_ARG, "[0, 1)");
    a.key.p = 0.5, a.key.state = nullptr;
    EXPECT_HN_FAIL(hn_dropout_check(&a), HN_ERR_ARG, "without random state");
    a.key.p = 0;
    EXPECT_HN_OK(hn_dropout_check(&a));
    a.x = nullptr;
    EXPECT_HN_FAIL(hn_dropout_check(&a), HN_ERR_ARG, "x is NULL");
    a.x = a.y, a.ld_x++;
    EXPECT_HN_FAIL(hn_dropout_check(&a), HN_ERR_ARG, "in place");
    a = args_of(x, y, &state, 0.5), a.ld_y = 2;
    EXPECT_HN_FAIL(hn_dropout_check(&a), HN_ERR_SHAPE, "leading dimension 2 of y");
    a = args_of(x, y, &state, 0.5), a.dtype = HN_I32;
    EXPECT_HN_FAIL(hn_dropout_check(&a), HN_ERR_UNSUPPORTED, "i32");
}

/* Inference and ratio 0 copy. The training vectors with a ratio drop what the reference's own
 * generator says, which is not ours: there the vector's mask must only be explained by our rule,
 * zero or x / (1 - ratio), with the mask of the vector. */
TEST(DropoutOnnx, Vectors)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    int copies = 0, masks = 0;
    const int n = onnx::each(dir, "Dropout", [&](const onnx::Case &c) {
        const onnx::Tensor &x = *c.in(0), &y = *c.out(0);
        const double ratio = c.in(1) ? c.in(1)->values[0] : 0.5;
        const bool training = c.in(2) && c.in(2)->values[0] != 0;
        const auto in = x.f32(), want = y.f32();
        std::vector<float> out(in.size());
        const hn_rng_state state = {};
        hn_dropout_args a = {};
        a.x = in.data(), a.y = out.data(), a.rows = 1, a.key = {&state, 0, 0};
        a.cols = a.ld_x = a.ld_y = (int64_t)in.size();
        if (!training || ratio == 0) {
            ASSERT_HN_OK(hn_dropout_fast(&a));
            EXPECT_TRUE(same_bits(out, want));
            copies++;
            return;
        }
        const float scale = (float)(1.0 / (1.0 - (double)(float)ratio));
        for (size_t i = 0; i < in.size(); i++)
            EXPECT_NEAR(want[i], want[i] == 0 ? 0 : in[i] * scale, 1e-6 * std::fabs(want[i]));
        masks++;
    });
    EXPECT_EQ(n, 11);
    EXPECT_EQ(copies, 7);
    EXPECT_EQ(masks, 4);
}

} // namespace

#ifdef HONE_CUDA
#include "cuda_test.h"

namespace {

class DropoutCuda : public Dropout {
  protected:
    hn_dropout_args on(DeviceMatrix &from, DeviceMatrix &to, DeviceArray<hn_rng_state> &at) const
    {
        return {from.data(), to.data(), s.rows,  s.cols,
                from.ld(),   to.ld(),   s.dtype, {at.data(), hn_hash_name("layers.0.drop"), s.p}};
    }
    std::vector<float> want()
    {
        const auto a = args_of(x, y, &state, s.p);
        EXPECT_HN_OK(hn_dropout_cpu(&a));
        return y.values();
    }
};

/* Rows in quads, and rows that begin anywhere: the same product, so the same bits. */
TEST_P(DropoutCuda, CudaEqualsCpuBitForBitAndRepeats)
{
    HN_NEED_CUDA();
    DeviceArray<hn_rng_state> at(std::vector<hn_rng_state>{state});
    for (const int64_t gap : {(8 - s.cols % 8) % 8, (int64_t)3}) {
        DeviceMatrix from(s.dtype, s.rows, s.cols, gap), to(s.dtype, s.rows, s.cols, gap + 8);
        from.assign(x.values());
        const auto a = on(from, to, at);
        for (int i = 0; i < 2; i++) {
            ASSERT_HN_OK(hn_dropout_cuda(&a, nullptr));
            EXPECT_TRUE(same_bits(to.values(), want())) << gap;
        }
    }
}

TEST_P(DropoutCuda, CudaMayRunInPlace)
{
    HN_NEED_CUDA();
    DeviceArray<hn_rng_state> at(std::vector<hn_rng_state>{state});
    DeviceMatrix from(s.dtype, s.rows, s.cols);
    from.assign(x.values());
    const auto a = on(from, from, at);
    ASSERT_HN_OK(hn_dropout_cuda(&a, nullptr));
    EXPECT_TRUE(same_bits(from.values(), want()));
}

/* The state is read when the kernel runs: the graph itself writes it just before. */
TEST_P(DropoutCuda, CudaRunsFromACapturedGraphAndReadsTheStateThen)
{
    HN_NEED_CUDA();
    DeviceArray<hn_rng_state> right(std::vector<hn_rng_state>{state});
    DeviceArray<hn_rng_state> at(std::vector<hn_rng_state>{{99, 98, 97}});
    DeviceMatrix from(s.dtype, s.rows, s.cols), to(s.dtype, s.rows, s.cols);
    from.assign(x.values());
    const auto a = on(from, to, at);
    run_captured([&](hn_stream stream) {
        ASSERT_EQ(
            cudaMemcpyAsync(at.data(), right.data(), at.bytes(), cudaMemcpyDeviceToDevice, stream),
            cudaSuccess);
        ASSERT_HN_OK(hn_dropout_cuda(&a, stream));
    });
    EXPECT_TRUE(same_bits(to.values(), want()));
}

INSTANTIATE_TEST_SUITE_P(Shapes, DropoutCuda,
                         ::testing::Values(Shape{HN_F32, 1, 1, 0.5}, Shape{HN_F32, 3, 31, 0.1},
                                           Shape{HN_F32, 5, 1033, 0.9}, Shape{HN_F32, 40, 512, 0.0},
                                           Shape{HN_F32, 7, 128, 0.2}, Shape{HN_BF16, 4, 33, 0.3},
                                           Shape{HN_BF16, 2, 520, 0.0},
                                           Shape{HN_BF16, 40, 513, 0.5},
                                           Shape{HN_BF16, 16, 264, 0.1}),
                         [](const auto &i) {
                             return case_name("r", i.param.rows, "_c", i.param.cols, i.param.dtype);
                         });

} // namespace
#endif
