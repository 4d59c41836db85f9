/* kernels/embed: rotary embedding and its tables. */
#include "kernel_test.h"
#include "kernels/embed/rope.h"
#include "kernels/embed/rope_table.h"
#include "onnx_vectors.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    hn_dtype dtype;
    int64_t rows, heads, head_dim, rotary_dim;
    bool interleaved;
};

class Rope : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    const int64_t width = s.heads * s.head_dim, half = s.rotary_dim / 2;
    static constexpr int64_t kPositions = 40;
    Matrix x{s.dtype, s.rows, width}, y{s.dtype, s.rows, width, 5};
    Matrix c{HN_F32, kPositions, half}, n{HN_F32, kPositions, half};
    std::vector<int32_t> position;

    void SetUp() override
    {
        hn_rope_spec spec = {};
        spec.rotary_dim = s.rotary_dim, spec.theta = 100;
        x.normal(1);
        position.clear();
        ASSERT_HN_OK(hn_rope_table(&spec, 0, kPositions, c.ld(), c.f32(), n.f32()));
        for (int64_t i = 0; i < s.rows; i++) position.push_back((int32_t)(i * 7 % kPositions));
    }
    hn_rope_args args(Matrix &from, Matrix &to, bool inverse = false)
    {
        return {from.data(), to.data(),  position.data(), c.f32(),    n.f32(),   s.rows,
                s.heads,     s.head_dim, s.rotary_dim,    kPositions, from.ld(), to.ld(),
                c.ld(),      s.dtype,    s.interleaved,   inverse};
    }
};

TEST_P(Rope, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    for (const bool inverse : {false, true}) {
        const auto a = args(x, y, inverse);
        ASSERT_HN_OK(hn_rope_cpu(&a));
        std::vector<float> first;
        for (const int threads : {1, 2, 3}) {
            Matrix got(s.dtype, s.rows, width);
            const auto b = args(x, got, inverse);
            on_threads(threads, [&] { EXPECT_HN_OK(hn_rope_fast(&b)); });
            if (first.empty()) first = got.values();
            EXPECT_TRUE(same_bits(got.values(), first));
        }
        EXPECT_LT(rel_l2(first, y.values()), s.dtype == HN_F32 ? 2e-7 : 2e-3);
    }
}

TEST_P(Rope, MayRunInPlace)
{
    const auto a = args(x, y), b = args(x, x);
    ASSERT_HN_OK(hn_rope_fast(&a));
    ASSERT_HN_OK(hn_rope_fast(&b));
    EXPECT_TRUE(same_bits(x.values(), y.values()));
    SetUp();
    ASSERT_HN_OK(hn_rope_cpu(&a));
    ASSERT_HN_OK(hn_rope_cpu(&b));
    EXPECT_TRUE(same_bits(x.values(), y.values()));
}

TEST_P(Rope, InverseTurnsBack)
{
    Matrix back(s.dtype, s.rows, width);
    const auto a = args(x, y), b = args(y, back, true);
    ASSERT_HN_OK(hn_rope_fast(&a));
    ASSERT_HN_OK(hn_rope_fast(&b));
    EXPECT_LT(rel_l2(back.values(), x.values()), s.dtype == HN_F32 ? 3e-7 : 5e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Rope,
    ::testing::Values(Shape{HN_F32, 1, 1, 2, 2, false}, Shape{HN_F32, 5, 3, 16, 16, false},
                      Shape{HN_F32, 5, 3, 7, 4, false}, Shape{HN_F32, 200, 4, 34, 34, true},
                      Shape{HN_F32, 3, 2, 1200, 1100, false}, Shape{HN_BF16, 5, 3, 16, 16, false},
                      Shape{HN_BF16, 5, 2, 9, 6, true}, Shape{HN_BF16, 3, 2, 1200, 1100, false},
                      Shape{HN_BF16, 100, 2, 1200, 1100, true}),
    [](const auto &i) {
        const Shape &s = i.param;
        return case_name("r", s.rows, "_h", s.heads, "_d", s.head_dim, "_t", s.rotary_dim,
                         (s.interleaved ? "_pairs" : "_halves"), s.dtype);
    });

TEST(RopeTwin, MatchesHandComputedTurn)
{
    /* position 1 turns pair 0 by 90 degrees and pair 1 by 180 */
    const float x[] = {1, 2, 3, 4, 9}, c[] = {1, 1, 0, -1}, s[] = {0, 0, 1, 0};
    const int32_t position[] = {1};
    float y[5];
    hn_rope_args a = {x, y, position, c, s, 1, 1, 5, 4, 2, 5, 5, 2, HN_F32, false, false};
    ASSERT_HN_OK(hn_rope_cpu(&a));
    EXPECT_EQ(std::vector<float>(y, y + 5), (std::vector<float>{-3, -2, 1, -4, 9}));
    a.interleaved = true;
    ASSERT_HN_OK(hn_rope_cpu(&a));
    EXPECT_EQ(std::vector<float>(y, y + 5), (std::vector<float>{-2, 1, -3, -4, 9}));
    a.inverse = true;
    ASSERT_HN_OK(hn_rope_cpu(&a));
    EXPECT_EQ(std::vector<float>(y, y + 5), (std::vector<float>{2, -1, -3, -4, 9}));
}

TEST(RopeCheck, NamesRowAndPositionAndWritesNothing)
{
    const float t[8] = {};
    float x[16] = {};
    Matrix y(HN_F32, 2, 8);
    int32_t position[] = {1, 2};
    hn_rope_args a = {x, y.data(), position, t,      t, 2,      2,     4,
                      0, 2,        8,        y.ld(), 2, HN_F32, false, false};
    EXPECT_HN_FAIL(hn_rope_fast(&a), HN_ERR_ARG, "position 2 in row 1 is not in [0, 2)");
    EXPECT_HN_FAIL(hn_rope_cpu(&a), HN_ERR_ARG, "position 2 in row 1");
    for (const float v : y.values()) EXPECT_TRUE(std::isnan(v));
    position[1] = -1;
    EXPECT_HN_FAIL(hn_rope_check(&a), HN_ERR_ARG, "position -1");
    position[1] = 0;
    EXPECT_HN_OK(hn_rope_check(&a));
    auto with = [&](auto change) {
        hn_rope_args b = a;
        change(b);
        return hn_rope_check(&b);
    };
    EXPECT_HN_FAIL(hn_rope_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.sin = nullptr; }), HN_ERR_ARG, "sin is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.position = nullptr; }), HN_ERR_ARG, "position is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.rotary_dim = 3; }), HN_ERR_SHAPE, "of which 3 turn");
    EXPECT_HN_FAIL(with([](auto &b) { b.rotary_dim = 6; }), HN_ERR_SHAPE, "of which 6 turn");
    EXPECT_HN_FAIL(with([](auto &b) { b.ld_table = 1; }), HN_ERR_SHAPE, "cos");
    EXPECT_HN_FAIL(with([](auto &b) { b.y = (void *)b.x; }), HN_ERR_ARG, "in place");
    EXPECT_HN_FAIL(with([](auto &b) { b.dtype = HN_I32; }), HN_ERR_UNSUPPORTED, "i32");
}

/* [batch, heads, sequence, size] becomes rows of (batch, position), heads side by side; without
 * position ids the caches [batch, sequence, size / 2] are tables whose row is the row. */
TEST(RopeOnnx, Vectors)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    const int n = onnx::each(dir, "RotaryEmbedding", [](const onnx::Case &c) {
        const onnx::Tensor &x = *c.in(0), &cosines = *c.in(1), &sines = *c.in(2);
        const bool four = x.shape.size() == 4;
        const int64_t batch = x.dim(0), heads = four ? x.dim(1) : c.integer("num_heads", 0);
        const int64_t length = four ? x.dim(2) : x.dim(1);
        const int64_t size = four ? x.dim(3) : x.dim(2) / heads, rows = batch * length;
        const auto place = [&](int64_t b, int64_t h, int64_t t) {
            return four ? ((b * heads + h) * length + t) * size
                        : ((b * length + t) * heads + h) * size;
        };
        const auto in = x.f32(), want = c.out(0)->f32(), cv = cosines.f32(), sv = sines.f32();
        std::vector<float> rows_in(in.size()), out(in.size());
        std::vector<int32_t> position;
        for (int64_t i = 0; i < rows; i++) position.push_back((int32_t)i);
        if (c.in(3)) position = c.in(3)->i32();
        for (int64_t i = 0; i < rows; i++)
            for (int64_t h = 0; h < heads; h++)
                std::copy_n(in.begin() + place(i / length, h, i % length), size,
                            rows_in.begin() + (i * heads + h) * size);
        hn_rope_args a = {};
        a.x = rows_in.data(), a.y = out.data(), a.position = position.data();
        a.cos = cv.data(), a.sin = sv.data(), a.rows = rows, a.heads = heads, a.head_dim = size;
        a.rotary_dim = c.integer("rotary_embedding_dim", 0);
        a.ld_table = cosines.dim(-1), a.n_positions = (int64_t)cv.size() / a.ld_table;
        a.ld_x = a.ld_y = heads * size, a.interleaved = c.integer("interleaved", 0) != 0;
        ASSERT_HN_OK(hn_rope_fast(&a));
        for (int64_t i = 0; i < rows; i++)
            for (int64_t h = 0; h < heads; h++)
                for (int64_t k = 0; k < size; k++)
                    EXPECT_NEAR(out[(size_t)((i * heads + h) * size + k)],
                                want[(size_t)(place(i / length, h, i % length) + k)], 1e-6);
    });
    EXPECT_EQ(n, 8);
}

hn_rope_spec spec_of(hn_rope_type type)
{
    hn_rope_spec s = {};
    s.type = type, s.rotary_dim = 8, s.theta = 10000, s.factor = 4;
    s.max_positions = 64, s.original_max_positions = 16;
    return s;
}

/* f_k = 10000^(-k/4): 1, 0.1, 0.01, 0.001 */
TEST(RopeTable, DefaultAndLinear)
{
    hn_rope_spec s = spec_of(HN_ROPE_DEFAULT);
    const double f[] = {1, 0.1, 0.01, 0.001};
    for (int k = 0; k < 4; k++) EXPECT_NEAR(hn_rope_frequency(&s, 1000, k), f[k], 1e-15);
    s.type = HN_ROPE_LINEAR;
    for (int k = 0; k < 4; k++) EXPECT_NEAR(hn_rope_frequency(&s, 1000, k), f[k] / 4, 1e-15);
    EXPECT_EQ(hn_rope_attention_factor(&s), 1.0);
    Matrix c(HN_F32, 3, 4), n(HN_F32, 3, 4);
    ASSERT_HN_OK(hn_rope_table(&s, 0, 3, c.ld(), c.f32(), n.f32()));
    EXPECT_FLOAT_EQ(c.values()[8], (float)std::cos(0.5)); /* position 2, pair 0 */
    EXPECT_FLOAT_EQ(n.values()[9], (float)std::sin(0.05));
    EXPECT_EQ(c.values()[3], 1.0f);
}

TEST(RopeTable, DynamicGrowsWithTheLength)
{
    hn_rope_spec s = spec_of(HN_ROPE_DYNAMIC);
    EXPECT_NEAR(hn_rope_frequency(&s, 64, 1), 0.1, 1e-15); /* not longer: as it was */
    /* length 128: theta * (4 * 2 - 3)^(8/6) = 10000 * 5^(4/3) = 85498.797 */
    EXPECT_NEAR(hn_rope_frequency(&s, 128, 1), std::pow(85498.797333834, -0.25), 1e-12);
    EXPECT_NEAR(hn_rope_frequency(&s, 128, 0), 1, 1e-15);
}

/* Pair that turns n times in 16 positions: 8 ln(16 / (2 pi n)) / (2 ln 10000).
 * n = 32: -1.0992 -> 0 after rounding down and clamping; n = 1: 0.40594 -> 1. */
TEST(RopeTable, YarnBlendsBetweenItsTwoPairs)
{
    hn_rope_spec s = spec_of(HN_ROPE_YARN);
    EXPECT_NEAR(hn_rope_frequency(&s, 0, 0), 1, 1e-15);
    EXPECT_NEAR(hn_rope_frequency(&s, 0, 1), 0.1 / 4, 1e-15);
    EXPECT_NEAR(hn_rope_frequency(&s, 0, 3), 0.001 / 4, 1e-15);
    EXPECT_NEAR(hn_rope_attention_factor(&s), 0.1 * std::log(4.0) + 1, 1e-15);
    s.original_max_positions = 4096, s.factor = 0; /* 64 / 4096: no stretching, factor 1/64 */
    EXPECT_EQ(hn_rope_attention_factor(&s), 1.0);
    s = spec_of(HN_ROPE_YARN);
    s.original_max_positions = 1000; /* n = 32: 0.6967 -> 0; n = 1: 2.2018 -> 3 */
    EXPECT_NEAR(hn_rope_frequency(&s, 0, 1), 0.1 / 4 / 3 + 0.1 * 2 / 3, 1e-15);
    s.no_truncate = true;
    const double low = 8 * std::log(1000 / (64 * M_PI)) / (2 * std::log(1e4));
    const double high = 8 * std::log(1000 / (2 * M_PI)) / (2 * std::log(1e4));
    const double ramp = (1 - low) / (high - low);
    EXPECT_NEAR(hn_rope_frequency(&s, 0, 1), 0.1 / 4 * ramp + 0.1 * (1 - ramp), 1e-15);
    s.mscale = 0.707, s.mscale_all_dim = 1;
    EXPECT_NEAR(hn_rope_attention_factor(&s),
                (0.0707 * std::log(4.0) + 1) / (0.1 * std::log(4.0) + 1), 1e-15);
    s.attention_factor = 1.5;
    EXPECT_EQ(hn_rope_attention_factor(&s), 1.5);
    Matrix c(HN_F32, 2, 4), n(HN_F32, 2, 4);
    ASSERT_HN_OK(hn_rope_table(&s, 0, 2, c.ld(), c.f32(), n.f32()));
    EXPECT_EQ(c.values()[0], 1.5f);
}

TEST(RopeTable, LongropeChoosesByLength)
{
    const double shorter[] = {1, 1, 2, 2}, longer[] = {1, 2, 4, 8};
    hn_rope_spec s = spec_of(HN_ROPE_LONGROPE);
    s.short_factor = shorter, s.long_factor = longer, s.factor = 0;
    EXPECT_NEAR(hn_rope_frequency(&s, 16, 2), 0.01 / 2, 1e-16);
    EXPECT_NEAR(hn_rope_frequency(&s, 17, 2), 0.01 / 4, 1e-16);
    EXPECT_NEAR(hn_rope_attention_factor(&s), std::sqrt(1 + std::log(4.0) / std::log(16.0)), 1e-15);
    Matrix a(HN_F32, 10, 4), b(HN_F32, 10, 4), sine(HN_F32, 10, 4);
    ASSERT_HN_OK(hn_rope_table(&s, 0, 10, a.ld(), a.f32(), sine.f32()));
    ASSERT_HN_OK(hn_rope_table(&s, 60, 10, b.ld(), b.f32(), sine.f32()));
    EXPECT_FALSE(same_bits(a.values(), b.values()));
}

/* Wavelengths 2 pi / f: 6.28, 62.8, 628, 6283. With length 256, low 1 and high 4: above 256
 * divided, below 64 kept (the first two). With high 8 the second lies between 32 and 256. */
TEST(RopeTable, Llama3DividesLongWavesOnly)
{
    hn_rope_spec s = spec_of(HN_ROPE_LLAMA3);
    s.original_max_positions = 256, s.low_freq_factor = 1, s.high_freq_factor = 4;
    const double want[] = {1, 0.1, 0.0025, 0.00025};
    for (int k = 0; k < 4; k++) EXPECT_NEAR(hn_rope_frequency(&s, 0, k), want[k], 1e-15);
    s.high_freq_factor = 8;
    const double smooth = (256 * 0.1 / (2 * M_PI) - 1) / 7;
    EXPECT_NEAR(hn_rope_frequency(&s, 0, 1), (1 - smooth) * 0.1 / 4 + smooth * 0.1, 1e-15);
}

TEST(RopeTable, SpecErrorsNameTheParameter)
{
    auto with = [&](hn_rope_type type, auto change) {
        hn_rope_spec s = spec_of(type);
        change(s);
        return hn_rope_check_spec(&s);
    };
    const auto nothing = [](auto &) {};
    EXPECT_HN_FAIL(hn_rope_check_spec(nullptr), HN_ERR_ARG, "spec");
    EXPECT_HN_OK(with(HN_ROPE_DYNAMIC, nothing));
    EXPECT_HN_OK(with(HN_ROPE_YARN, nothing));
    EXPECT_HN_FAIL(with(HN_ROPE_DEFAULT, [](auto &s) { s.rotary_dim = 3; }), HN_ERR_ARG, "3");
    EXPECT_HN_FAIL(with(HN_ROPE_DEFAULT, [](auto &s) { s.theta = 0; }), HN_ERR_ARG, "rope_theta");
    EXPECT_HN_FAIL(with(HN_ROPE_DEFAULT, [](auto &s) { s.theta = NAN; }), HN_ERR_ARG, "rope_theta");
    EXPECT_HN_FAIL(with(HN_ROPE_LINEAR, [](auto &s) { s.factor = 0; }), HN_ERR_ARG, "factor");
    EXPECT_HN_FAIL(with(HN_ROPE_DYNAMIC, [](auto &s) { s.rotary_dim = 2; }), HN_ERR_ARG,
                   "rotary dimension");
    EXPECT_HN_FAIL(with(HN_ROPE_DYNAMIC, [](auto &s) { s.max_positions = 0; }), HN_ERR_ARG,
                   "max_position_embeddings");
    EXPECT_HN_FAIL(with(HN_ROPE_YARN, [](auto &s) { s.beta_fast = 0.5; }), HN_ERR_ARG, "beta_fast");
    EXPECT_HN_FAIL(with(HN_ROPE_YARN, [](auto &s) { s.mscale = -1; }), HN_ERR_ARG, "mscale");
    EXPECT_HN_FAIL(with(HN_ROPE_LONGROPE, nothing), HN_ERR_ARG, "short_factor is NULL");
    const double bad[] = {1, 1, 0, 1};
    EXPECT_HN_FAIL(with(HN_ROPE_LONGROPE, [&](auto &s) { s.short_factor = s.long_factor = bad; }),
                   HN_ERR_ARG, "short_factor is 0");
    EXPECT_HN_FAIL(with(HN_ROPE_LLAMA3, nothing), HN_ERR_ARG, "low_freq_factor");
    EXPECT_HN_FAIL(
        with(HN_ROPE_LLAMA3, [](auto &s) { s.low_freq_factor = s.high_freq_factor = 2; }),
        HN_ERR_ARG, "high_freq_factor");
    EXPECT_HN_FAIL(with((hn_rope_type)17, nothing), HN_ERR_ARG, "type 17");
    const hn_rope_spec s = spec_of(HN_ROPE_DEFAULT);
    float f[4];
    EXPECT_HN_FAIL(hn_rope_table(&s, -1, 1, 4, f, f), HN_ERR_ARG, "length -1");
    EXPECT_HN_FAIL(hn_rope_table(&s, 0, 1, 3, f, f), HN_ERR_SHAPE, "leading dimension 3");
    EXPECT_HN_FAIL(hn_rope_table(&s, 0, 1, 4, f, nullptr), HN_ERR_ARG, "sin is NULL");
}

#ifdef HONE_CUDA
struct CudaShape {
    Shape s;
    int64_t gap; /* elements between rows, of the tables too */
};

class RopeCuda : public ::testing::TestWithParam<CudaShape> {
  protected:
    static constexpr int64_t kPositions = 40;
    const Shape s = GetParam().s;
    const int64_t gap = GetParam().gap, width = s.heads * s.head_dim, half = s.rotary_dim / 2;
    const std::vector<float> vx = normal_f32((size_t)(s.rows * width), 1);
    Matrix x{s.dtype, s.rows, width, gap}, y{s.dtype, s.rows, width, gap};
    Matrix c{HN_F32, kPositions, half, gap}, n{HN_F32, kPositions, half, gap};
    std::vector<int32_t> position;

    void SetUp() override
    {
        hn_rope_spec spec = {};
        spec.rotary_dim = s.rotary_dim, spec.theta = 100;
        ASSERT_HN_OK(hn_rope_table(&spec, 0, kPositions, c.ld(), c.f32(), n.f32()));
        for (int64_t i = 0; i < s.rows; i++) position.push_back((int32_t)(i * 7 % kPositions));
        x.assign(vx);
    }
    template <class M, class P>
    hn_rope_args args(M &from, M &to, P &positions, M &cosines, M &sines, bool inverse)
    {
        return {from.data(),  to.data(),  positions.data(), cosines.f32(), sines.f32(), s.rows,
                s.heads,      s.head_dim, s.rotary_dim,     kPositions,    from.ld(),   to.ld(),
                cosines.ld(), s.dtype,    s.interleaved,    inverse};
    }
};

TEST_P(RopeCuda, CudaMatchesCpuInPlaceAndCaptured)
{
    HN_NEED_CUDA();
    DeviceArray<int32_t> at(position);
    DeviceMatrix dc(HN_F32, kPositions, half, gap), dn(HN_F32, kPositions, half, gap);
    dc.assign(c.values()), dn.assign(n.values());
    for (const bool inverse : {false, true}) {
        DeviceMatrix dx(s.dtype, s.rows, width, gap), dy(s.dtype, s.rows, width, gap);
        DeviceMatrix again(s.dtype, s.rows, width, gap);
        dx.assign(vx);
        const auto a = args(x, y, position, c, n, inverse);
        const auto b = args(dx, dy, at, dc, dn, inverse);
        const auto e = args(dx, again, at, dc, dn, inverse);
        const auto in_place = args(dx, dx, at, dc, dn, inverse);
        ASSERT_HN_OK(hn_rope_cpu(&a));
        ASSERT_HN_OK(hn_rope_cuda(&b, nullptr));
        const auto got = dy.values();
        /* one fused multiply-add in fp32; bf16: some values round to the other neighbour */
        EXPECT_LT(rel_l2(got, y.values()), s.dtype == HN_F32 ? 2e-7 : 2e-3);
        run_captured([&](hn_stream stream) { ASSERT_HN_OK(hn_rope_cuda(&e, stream)); }, 2);
        EXPECT_TRUE(same_bits(again.values(), got));
        ASSERT_HN_OK(hn_rope_cuda(&in_place, nullptr));
        EXPECT_TRUE(same_bits(dx.values(), got));
    }
}

/* Smallest, 8 pairs a thread (all turn; some pass through, part-filled; heads that do not fill the
 * threads), one pair a thread. */
INSTANTIATE_TEST_SUITE_P(
    Shapes, RopeCuda,
    ::testing::Values(
        CudaShape{{HN_F32, 1, 1, 2, 2, false}, 0}, CudaShape{{HN_F32, 5, 3, 16, 16, false}, 0},
        CudaShape{{HN_F32, 5, 3, 20, 16, false}, 4}, CudaShape{{HN_F32, 5, 3, 7, 4, false}, 3},
        CudaShape{{HN_F32, 60, 4, 34, 34, true}, 1}, CudaShape{{HN_F32, 5, 2, 16, 16, false}, 1},
        CudaShape{{HN_F32, 9, 1, 16, 16, false}, 0}, CudaShape{{HN_BF16, 300, 4, 64, 64, false}, 0},
        CudaShape{{HN_BF16, 70, 40, 64, 64, false}, 64},
        CudaShape{{HN_BF16, 33, 7, 16, 16, false}, 8}, CudaShape{{HN_BF16, 9, 1, 32, 16, false}, 0},
        CudaShape{{HN_BF16, 5, 2, 40, 32, false}, 8}, CudaShape{{HN_BF16, 5, 2, 9, 6, true}, 2},
        CudaShape{{HN_BF16, 5, 3, 18, 16, false}, 2}),
    [](const auto &i) {
        const Shape &s = i.param.s;
        return case_name("r", s.rows, "_h", s.heads, "_d", s.head_dim, "_t", s.rotary_dim, "_gap",
                         i.param.gap, (s.interleaved ? "_pairs" : "_halves"), s.dtype);
    });
#endif

} // namespace
