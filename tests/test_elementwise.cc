/* kernels/activation: sums, products, scaled copies, casts. */
#include "kernel_test.h"
#include "kernels/activation/elementwise.h"
#ifdef HONE_CUDA
#include <memory>

#include "cuda_test.h"
#endif

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

#ifdef HONE_CUDA
/* gap: elements between rows. shift: the operands begin that many columns into their matrices. */
struct CudaShape {
    hn_dtype dtype;
    int64_t rows, cols, gap, shift;
};

/* Where column `shift` of a Matrix or DeviceMatrix begins. */
template <class M>
void *at(M &m, int64_t shift)
{
    return (char *)m.data() + (size_t)shift * hn_dtype_size(m.dtype());
}

class ElementwiseCuda : public ::testing::TestWithParam<CudaShape> {
  protected:
    const CudaShape s = GetParam();
    const int64_t width = s.cols + s.shift;
    const std::vector<float> va = normal_f32((size_t)(s.rows * width), 1);
    const std::vector<float> vb = normal_f32((size_t)(s.rows * width), 2);
    template <class M>
    M matrix(hn_dtype t)
    {
        return M(t, s.rows, width, s.gap);
    }
    template <class M>
    hn_binary_args binary(M &a, M &b, M &y)
    {
        return {at(a, s.shift), at(b, s.shift), at(y, s.shift), s.rows, s.cols,
                a.ld(),         b.ld(),         y.ld(),         s.dtype};
    }
    template <class M>
    hn_scale_args scale(M &a, M &y)
    {
        return {at(a, s.shift), at(y, s.shift), s.rows, s.cols, a.ld(), y.ld(), s.dtype, 0.3f};
    }
    template <class M>
    hn_cast_args cast(M &a, M &y)
    {
        return {at(a, s.shift), at(y, s.shift), s.rows,    s.cols,
                a.ld(),         y.ld(),         a.dtype(), y.dtype()};
    }
};

/* One operation and one rounding: no room to differ. */
TEST_P(ElementwiseCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    auto a = matrix<Matrix>(s.dtype), b = matrix<Matrix>(s.dtype), y = matrix<Matrix>(s.dtype);
    auto da = matrix<DeviceMatrix>(s.dtype), db = matrix<DeviceMatrix>(s.dtype);
    auto dy = matrix<DeviceMatrix>(s.dtype);
    a.assign(va), b.assign(vb), da.assign(va), db.assign(vb);
    const auto c = binary(a, b, y), d = binary(da, db, dy);
    ASSERT_HN_OK(hn_add_cpu(&c));
    ASSERT_HN_OK(hn_add_cuda(&d, nullptr));
    EXPECT_TRUE(same_bits(dy.values(), y.values()));
    ASSERT_HN_OK(hn_mul_cpu(&c));
    ASSERT_HN_OK(hn_mul_cuda(&d, nullptr));
    EXPECT_TRUE(same_bits(dy.values(), y.values()));
    const auto e = scale(a, y), f = scale(da, dy);
    ASSERT_HN_OK(hn_scale_cpu(&e));
    ASSERT_HN_OK(hn_scale_cuda(&f, nullptr));
    EXPECT_TRUE(same_bits(dy.values(), y.values()));
}

TEST_P(ElementwiseCuda, CudaOutputMayBeEitherInput)
{
    HN_NEED_CUDA();
    auto a = matrix<DeviceMatrix>(s.dtype), b = matrix<DeviceMatrix>(s.dtype);
    auto y = matrix<DeviceMatrix>(s.dtype);
    a.assign(va), b.assign(vb), y.assign(vb);
    const auto c = binary(a, b, y);
    ASSERT_HN_OK(hn_add_cuda(&c, nullptr));
    const auto d = binary(a, b, b); /* column 0 of y and b is the same where shift leaves it */
    ASSERT_HN_OK(hn_add_cuda(&d, nullptr));
    EXPECT_TRUE(same_bits(b.values(), y.values()));
    b.assign(vb), y.assign(va);
    ASSERT_HN_OK(hn_mul_cuda(&c, nullptr));
    const auto e = binary(a, b, a);
    ASSERT_HN_OK(hn_mul_cuda(&e, nullptr));
    EXPECT_TRUE(same_bits(a.values(), y.values()));
    a.assign(va), y.assign(va);
    const auto f = scale(a, y), g = scale(a, a);
    ASSERT_HN_OK(hn_scale_cuda(&f, nullptr));
    ASSERT_HN_OK(hn_scale_cuda(&g, nullptr));
    EXPECT_TRUE(same_bits(a.values(), y.values()));
}

TEST_P(ElementwiseCuda, CudaCastsBetweenAllTypes)
{
    HN_NEED_CUDA();
    for (const hn_dtype from : {HN_F32, HN_BF16, HN_F16})
        for (const hn_dtype to : {HN_F32, HN_BF16, HN_F16}) {
            auto a = matrix<Matrix>(from), y = matrix<Matrix>(to);
            auto da = matrix<DeviceMatrix>(from), dy = matrix<DeviceMatrix>(to);
            a.assign(va), da.assign(va);
            const auto c = cast(a, y), d = cast(da, dy);
            ASSERT_HN_OK(hn_cast_cpu(&c));
            ASSERT_HN_OK(hn_cast_cuda(&d, nullptr));
            EXPECT_TRUE(same_bits(dy.values(), y.values()));
        }
}

TEST_P(ElementwiseCuda, CudaRunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    auto a = matrix<DeviceMatrix>(s.dtype), b = matrix<DeviceMatrix>(s.dtype);
    auto y = matrix<DeviceMatrix>(s.dtype), z = matrix<DeviceMatrix>(s.dtype);
    auto h = matrix<DeviceMatrix>(HN_F16), zero = matrix<DeviceMatrix>(s.dtype);
    a.assign(va), b.assign(vb), zero.assign(va);
    const auto add = binary(a, b, y);
    const auto mul = binary(y, b, z);
    const auto times = scale(z, z);
    const auto to_half = cast(z, h);
    const size_t size = hn_dtype_size(s.dtype);
    const auto all = [&](hn_stream stream) {
        ASSERT_HN_OK(hn_add_cuda(&add, stream));
        ASSERT_HN_OK(hn_mul_cuda(&mul, stream));
        ASSERT_HN_OK(hn_scale_cuda(&times, stream));
        ASSERT_HN_OK(hn_cast_cuda(&to_half, stream));
        ASSERT_HN_OK(hn_zero_cuda(zero.data(), s.rows, (size_t)width * size,
                                  (size_t)zero.ld() * size, stream));
    };
    all(nullptr);
    const auto vz = z.values(), vh = h.values();
    run_captured(all, 2);
    EXPECT_TRUE(same_bits(z.values(), vz));
    EXPECT_TRUE(same_bits(h.values(), vh));
    for (const float v : zero.values()) ASSERT_EQ(v, 0.0f); /* values() looks at the gaps */
}

/* Smallest; aligned with a part-filled span; unaligned rows; unaligned pointers; several blocks. */
INSTANTIATE_TEST_SUITE_P(
    Shapes, ElementwiseCuda,
    ::testing::Values(CudaShape{HN_F32, 1, 1, 0, 0}, CudaShape{HN_F32, 3, 13, 3, 0},
                      CudaShape{HN_F32, 5, 9, 2, 0}, CudaShape{HN_F32, 7, 31, 1, 1},
                      CudaShape{HN_F32, 40, 520, 0, 0}, CudaShape{HN_BF16, 1, 1, 0, 0},
                      CudaShape{HN_BF16, 3, 13, 3, 0}, CudaShape{HN_BF16, 5, 9, 2, 0},
                      CudaShape{HN_BF16, 7, 31, 0, 1}, CudaShape{HN_BF16, 40, 515, 5, 0}),
    [](const auto &i) {
        const CudaShape &s = i.param;
        return case_name("r", s.rows, "_c", s.cols, "_gap", s.gap, "_shift", s.shift, s.dtype);
    });

/* n casts of all kinds of shapes: one element, part-filled spans, unaligned rows, several blocks.
 */
void expect_many_equals_one_by_one(int64_t n, hn_dtype from, hn_dtype to)
{
    std::vector<std::unique_ptr<DeviceMatrix>> a, many, one;
    std::vector<hn_cast_args> args;
    for (int64_t i = 0; i < n; i++) {
        const int64_t rows = 1 + i * 7 % 40, cols = i % 4 == 0 ? 8 + i * 8 : 1 + i * 37 % 301;
        const int64_t gap = i % 4 == 0 ? 16 : i % 3;
        for (auto *v : {&a, &many, &one})
            v->push_back(std::make_unique<DeviceMatrix>(v == &a ? from : to, rows, cols, gap));
        a.back()->normal((unsigned)i);
        args.push_back({a.back()->data(), many.back()->data(), rows, cols, a.back()->ld(),
                        many.back()->ld(), from, to});
        hn_cast_args single = args.back();
        single.y = one.back()->data();
        ASSERT_HN_OK(hn_cast_cuda(&single, nullptr));
    }
    ASSERT_HN_OK(hn_cast_many_cuda(args.data(), n, nullptr));
    for (size_t i = 0; i < (size_t)n; i++) /* values() looks at gaps and guard bands */
        EXPECT_TRUE(same_bits(many[i]->values(), one[i]->values())) << i;
}

TEST(ElementwiseCudaCastMany, EqualsCastsOneByOne)
{
    HN_NEED_CUDA();
    for (const int64_t n : {(int64_t)1, (int64_t)2, (int64_t)HN_CAST_MANY})
        expect_many_equals_one_by_one(n, HN_F32, HN_BF16);
    expect_many_equals_one_by_one(9, HN_F32, HN_F32);
    expect_many_equals_one_by_one(9, HN_BF16, HN_F32); /* one by one after all */
    expect_many_equals_one_by_one(3, HN_F32, HN_F16);
}

TEST(ElementwiseCudaCastMany, RunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    DeviceMatrix a(HN_F32, 40, 129), b(HN_F32, 3, 2048, 0);
    DeviceMatrix x(HN_BF16, 40, 129), y(HN_BF16, 3, 2048, 8), x1(HN_BF16, 40, 129);
    DeviceMatrix y1(HN_BF16, 3, 2048, 8);
    a.normal(1), b.normal(2);
    const hn_cast_args first[] = {{a.data(), x.data(), 40, 129, a.ld(), x.ld(), HN_F32, HN_BF16},
                                  {b.data(), y.data(), 3, 2048, b.ld(), y.ld(), HN_F32, HN_BF16}};
    hn_cast_args again[] = {first[0], first[1]};
    again[0].y = x1.data(), again[1].y = y1.data();
    ASSERT_HN_OK(hn_cast_many_cuda(first, 2, nullptr));
    run_captured([&](hn_stream s) { ASSERT_HN_OK(hn_cast_many_cuda(again, 2, s)); }, 2);
    EXPECT_TRUE(same_bits(x.values(), x1.values()));
    EXPECT_TRUE(same_bits(y.values(), y1.values()));
}

TEST(ElementwiseCudaCastMany, NamesWhatIsWrong)
{
    DeviceArray<float> *const none = nullptr;
    const hn_cast_args a = {none, none, 1, 1, 1, 1, HN_F32, HN_BF16};
    EXPECT_HN_FAIL(hn_cast_many_cuda(&a, 0, nullptr), HN_ERR_SHAPE, "casts");
    EXPECT_HN_FAIL(hn_cast_many_cuda(&a, HN_CAST_MANY + 1, nullptr), HN_ERR_SHAPE, "casts");
    EXPECT_HN_FAIL(hn_cast_many_cuda(&a, 1, nullptr), HN_ERR_ARG, "NULL");
}

/* Words, many blocks of them, and bytes that are no words. */
TEST(ElementwiseCudaZeroMany, ZeroesEachPieceAndNothingElse)
{
    HN_NEED_CUDA();
    for (const size_t odd : {(size_t)0, (size_t)3}) {
        DeviceArray<unsigned char> one(4), many((size_t)3 << 20), some(40 + odd);
        const hn_zero_piece a[] = {{one.data(), one.bytes()},
                                   {many.data(), many.bytes() - 8},
                                   {some.data(), some.bytes()}};
        run_captured([&](hn_stream s) { ASSERT_HN_OK(hn_zero_many_cuda(a, 3, s)); }, 2);
        const auto v = many.host(); /* host() looks at the guard bands */
        EXPECT_EQ(one.host(), std::vector<unsigned char>(one.bytes()));
        EXPECT_EQ(some.host(), std::vector<unsigned char>(some.bytes()));
        EXPECT_EQ(std::count(v.begin(), v.end() - 8, 0), (ptrdiff_t)v.size() - 8);
        EXPECT_EQ(std::count(v.end() - 8, v.end(), 0xff), 8);
    }
}

TEST(ElementwiseCudaZeroMany, NamesWhatIsWrong)
{
    const hn_zero_piece a = {nullptr, 4};
    EXPECT_HN_FAIL(hn_zero_many_cuda(&a, 0, nullptr), HN_ERR_SHAPE, "0 pieces, 1 to 16");
    EXPECT_HN_FAIL(hn_zero_many_cuda(&a, HN_ZERO_MANY + 1, nullptr), HN_ERR_SHAPE, "17 pieces");
}

TEST(ElementwiseCudaCast, NaNAndInfinitySurvive)
{
    HN_NEED_CUDA();
    DeviceArray<float> in(
        std::vector<float>{NAN, std::numeric_limits<float>::infinity(), 1e30f, -0.0f});
    DeviceArray<hn_f16> half(4);
    const hn_cast_args a = {in.data(), half.data(), 1, 4, 4, 4, HN_F32, HN_F16};
    ASSERT_HN_OK(hn_cast_cuda(&a, nullptr));
    const auto h = half.host();
    EXPECT_TRUE(std::isnan(hn_f16_to_f32(h[0])));
    EXPECT_TRUE(std::isinf(hn_f16_to_f32(h[1])) && std::isinf(hn_f16_to_f32(h[2])));
    EXPECT_EQ(h[3].bits, 0x8000);
}
#endif

} // namespace
