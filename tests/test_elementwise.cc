/* kernels/activation: sums, products, scaled copies, casts. */
#include "kernel_test.h"
#include "kernels/activation/elementwise.h"

namespace {

struct Shape {
    hn_dtype dtype;
    int64_t rows, cols;
};

class Elementwise : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    Matrix a{s.dtype, s.rows, s.cols}, b{s.dtype, s.rows, s.cols, 1}, y{s.dtype, s.rows, s.cols, 2};
    void SetUp() override { a.normal(1), b.normal(2); }
    hn_binary_args binary(Matrix &to)
    {
        return {a.data(), b.data(), to.data(), s.rows, s.cols, a.ld(), b.ld(), to.ld(), s.dtype};
    }
};

/* One operation and one rounding: no room to differ. */
TEST_P(Elementwise, SumAndProductAreExact)
{
    const auto va = a.values(), vb = b.values();
    std::vector<float> sum, product, scaled;
    for (size_t i = 0; i < va.size(); i++) {
        sum.push_back(hn_round_f32(s.dtype, va[i] + vb[i]));
        product.push_back(hn_round_f32(s.dtype, va[i] * vb[i]));
        scaled.push_back(hn_round_f32(s.dtype, 0.3f * va[i]));
    }
    const auto c = binary(y);
    const hn_scale_args d = {a.data(), y.data(), s.rows, s.cols, a.ld(), y.ld(), s.dtype, 0.3f};
    for (const int threads : {1, 2}) {
        on_threads(threads, [&] {
            EXPECT_HN_OK(hn_add_cpu(&c));
            EXPECT_TRUE(same_bits(y.values(), sum));
            EXPECT_HN_OK(hn_mul_fast(&c));
            EXPECT_TRUE(same_bits(y.values(), product));
            EXPECT_HN_OK(hn_add_fast(&c));
            EXPECT_TRUE(same_bits(y.values(), sum));
            EXPECT_HN_OK(hn_mul_cpu(&c));
            EXPECT_TRUE(same_bits(y.values(), product));
            EXPECT_HN_OK(hn_scale_fast(&d));
            EXPECT_TRUE(same_bits(y.values(), scaled));
            EXPECT_HN_OK(hn_add_fast(&c));
            EXPECT_HN_OK(hn_scale_cpu(&d));
            EXPECT_TRUE(same_bits(y.values(), scaled));
        });
    }
}

TEST_P(Elementwise, OutputMayBeEitherInput)
{
    const auto c = binary(y);
    ASSERT_HN_OK(hn_mul_fast(&c));
    for (Matrix *to : {&a, &b}) {
        const auto d = binary(*to);
        ASSERT_HN_OK(hn_mul_fast(&d));
        EXPECT_TRUE(same_bits(to->values(), y.values()));
        SetUp();
    }
    const hn_scale_args d = {a.data(), y.data(), s.rows, s.cols, a.ld(), y.ld(), s.dtype, -2};
    const hn_scale_args e = {a.data(), a.data(), s.rows, s.cols, a.ld(), a.ld(), s.dtype, -2};
    ASSERT_HN_OK(hn_scale_fast(&d));
    ASSERT_HN_OK(hn_scale_fast(&e));
    EXPECT_TRUE(same_bits(a.values(), y.values()));
}

TEST_P(Elementwise, CastsRoundOnce)
{
    for (const hn_dtype to : {HN_F32, HN_BF16, HN_F16}) {
        const auto in = a.values();
        std::vector<float> want;
        for (const float v : in) want.push_back(hn_round_f32(to, v));
        for (const bool fast : {false, true}) {
            Matrix out(to, s.rows, s.cols);
            const hn_cast_args c = {a.data(), out.data(), s.rows,  s.cols,
                                    a.ld(),   out.ld(),   s.dtype, to};
            ASSERT_HN_OK(fast ? hn_cast_fast(&c) : hn_cast_cpu(&c));
            EXPECT_TRUE(same_bits(out.values(), want));
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Elementwise,
                         ::testing::Values(Shape{HN_F32, 1, 1}, Shape{HN_F32, 40, 515},
                                           Shape{HN_BF16, 3, 7}, Shape{HN_BF16, 40, 515}),
                         [](const auto &i) {
                             return case_name("r", i.param.rows, "_c", i.param.cols, i.param.dtype);
                         });

TEST(ElementwiseCast, NaNAndInfinitySurvive)
{
    const float in[] = {NAN, std::numeric_limits<float>::infinity(), 1e30f, -0.0f};
    hn_f16 half[4];
    const hn_cast_args a = {in, half, 1, 4, 4, 4, HN_F32, HN_F16};
    ASSERT_HN_OK(hn_cast_fast(&a));
    EXPECT_TRUE(std::isnan(hn_f16_to_f32(half[0])));
    EXPECT_TRUE(std::isinf(hn_f16_to_f32(half[1])) && std::isinf(hn_f16_to_f32(half[2])));
    EXPECT_EQ(half[3].bits, 0x8000);
}

TEST(ElementwiseCheck, NamesWhatIsWrong)
{
    float f[32] = {};
    hn_binary_args a = {f, f, f + 8, 2, 3, 3, 3, 3, HN_F32};
    EXPECT_HN_OK(hn_binary_check(&a));
    EXPECT_HN_FAIL(hn_binary_check(nullptr), HN_ERR_ARG, "args");
    a.b = nullptr;
    EXPECT_HN_FAIL(hn_binary_check(&a), HN_ERR_ARG, "b is NULL");
    a.b = f, a.cols = 0;
    EXPECT_HN_FAIL(hn_binary_check(&a), HN_ERR_SHAPE, "[2, 0]");
    a.cols = 3, a.y = f, a.ld_y = 4;
    EXPECT_HN_FAIL(hn_binary_check(&a), HN_ERR_ARG, "3 and 4");
    a.dtype = HN_F16;
    EXPECT_HN_FAIL(hn_binary_check(&a), HN_ERR_UNSUPPORTED, "f16");
    hn_scale_args b = {f, f + 8, 2, 3, 3, 2, HN_F32, 1};
    EXPECT_HN_FAIL(hn_scale_check(&b), HN_ERR_SHAPE, "leading dimension 2 of y");
    hn_cast_args c = {f, f + 8, 2, 3, 3, 3, HN_F32, HN_I32};
    EXPECT_HN_FAIL(hn_cast_check(&c), HN_ERR_UNSUPPORTED, "i32");
    c.y_dtype = HN_BF16;
    EXPECT_HN_OK(hn_cast_check(&c));
    c.y = f;
    EXPECT_HN_FAIL(hn_cast_check(&c), HN_ERR_ARG, "one dtype");
}

} // namespace
