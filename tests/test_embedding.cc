/* kernels/embed: rows by number, and the gradient of the table. */
#include "kernel_test.h"
#include "kernels/embed/embedding.h"
#include "onnx_vectors.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    hn_dtype dtype;
    int64_t rows, vocab, dim, replicas;
};

class Embedding : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    const int64_t g = s.replicas ? s.replicas : 1;
    Matrix w{s.dtype, g *s.vocab, s.dim}, y{s.dtype, s.rows, s.dim}, dy{s.dtype, s.rows, s.dim, 1};
    std::vector<int32_t> id;

    void SetUp() override
    {
        w.normal(1), dy.normal(2);
        std::mt19937 rng(3);
        for (int64_t i = 0; i < s.rows; i++) /* half of them the last row: much to add up */
            id.push_back((int32_t)(i % 2 ? s.vocab - 1 : (int64_t)(rng() % (uint64_t)s.vocab)));
    }
    hn_embedding_args fwd(Matrix &to)
    {
        return {id.data(), w.data(), to.data(),  s.rows,           s.vocab, s.dim,
                w.ld(),    to.ld(),  s.replicas, s.vocab * w.ld(), s.dtype};
    }
    hn_embedding_dw_args back(Matrix &to)
    {
        return {id.data(), dy.data(),  to.f32(),          s.rows, s.vocab, s.dim, dy.ld(),
                to.ld(),   s.replicas, s.vocab * to.ld(), s.dtype};
    }
};

TEST_P(Embedding, FastEqualsTwin)
{
    Matrix got(s.dtype, s.rows, s.dim);
    const auto a = fwd(y), b = fwd(got);
    ASSERT_HN_OK(hn_embedding_fwd_cpu(&a));
    ASSERT_HN_OK(hn_embedding_fwd_fast(&b));
    EXPECT_TRUE(same_bits(got.values(), y.values()));
}

TEST_P(Embedding, GradientEqualsTwinBitForBitOnAnyThreads)
{
    Matrix want(HN_F32, g * s.vocab, s.dim);
    want.normal(4);
    const auto a = back(want);
    ASSERT_HN_OK(hn_embedding_dw_cpu(&a));
    for (const int threads : {1, 2, 3}) {
        Matrix got(HN_F32, g * s.vocab, s.dim);
        got.normal(4);
        const auto b = back(got);
        on_threads(threads, [&] { EXPECT_HN_OK(hn_embedding_dw_fast(&b)); });
        EXPECT_TRUE(same_bits(got.values(), want.values())); /* one order of additions */
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Embedding,
                         ::testing::Values(Shape{HN_F32, 1, 1, 1, 0}, Shape{HN_F32, 7, 5, 65, 0},
                                           Shape{HN_F32, 300, 11, 130, 0},
                                           Shape{HN_F32, 12, 4, 9, 3}, Shape{HN_BF16, 7, 5, 65, 0},
                                           Shape{HN_BF16, 300, 3, 64, 2}),
                         [](const auto &i) {
                             return case_name("r", i.param.rows, "_d", i.param.dim, "_g",
                                              i.param.replicas, i.param.dtype);
                         });

TEST(EmbeddingTwin, MatchesHandComputedValues)
{
    const float w[] = {1, 2, 3, 4, 5, 6}, dy[] = {1, 1, 2, 2, 4, 4};
    const int32_t id[] = {2, 0, 2};
    float y[6], dw[6] = {0, 0, 10, 10, 0, 0};
    hn_embedding_args a = {};
    a.id = id, a.w = w, a.y = y, a.rows = a.vocab = 3, a.dim = a.ld_w = a.ld_y = 2;
    ASSERT_HN_OK(hn_embedding_fwd_cpu(&a));
    EXPECT_EQ(std::vector<float>(y, y + 6), (std::vector<float>{5, 6, 1, 2, 5, 6}));
    hn_embedding_dw_args b = {};
    b.id = id, b.dy = dy, b.dw = dw, b.rows = b.vocab = 3, b.dim = b.ld_dy = b.ld_dw = 2;
    ASSERT_HN_OK(hn_embedding_dw_cpu(&b));
    EXPECT_EQ(std::vector<float>(dw, dw + 6), (std::vector<float>{2, 2, 10, 10, 5, 5}));
}

TEST(EmbeddingCheck, NamesRowAndIdAndWritesNothing)
{
    Matrix w(HN_F32, 4, 3), y(HN_F32, 2, 3), dw(HN_F32, 4, 3);
    w.normal(1);
    int32_t id[] = {3, 4};
    hn_embedding_args a = {};
    a.id = id, a.w = w.data(), a.y = y.data(), a.rows = 2, a.vocab = 4, a.dim = 3;
    a.ld_w = w.ld(), a.ld_y = y.ld();
    EXPECT_HN_FAIL(hn_embedding_fwd_fast(&a), HN_ERR_ARG, "id 4 in row 1 is not in [0, 4)");
    EXPECT_HN_FAIL(hn_embedding_fwd_cpu(&a), HN_ERR_ARG, "id 4 in row 1");
    for (const float v : y.values()) EXPECT_TRUE(std::isnan(v));
    id[0] = -1;
    hn_embedding_dw_args b = {};
    b.id = id, b.dy = w.data(), b.dw = dw.f32(), b.rows = 2, b.vocab = 4, b.dim = 3;
    b.ld_dy = w.ld(), b.ld_dw = dw.ld();
    EXPECT_HN_FAIL(hn_embedding_dw_fast(&b), HN_ERR_ARG, "id -1 in row 0");
    for (const float v : dw.values()) EXPECT_TRUE(std::isnan(v));
    id[0] = id[1] = 0;
    EXPECT_HN_OK(hn_embedding_check(&a));
    EXPECT_HN_OK(hn_embedding_dw_check(&b));
    a.id = nullptr;
    EXPECT_HN_FAIL(hn_embedding_check(&a), HN_ERR_ARG, "id is NULL");
    a.id = id, a.dim = 0;
    EXPECT_HN_FAIL(hn_embedding_check(&a), HN_ERR_SHAPE, "[4, 0]");
    a.dim = 3, a.dtype = HN_U8;
    EXPECT_HN_FAIL(hn_embedding_check(&a), HN_ERR_UNSUPPORTED, "u8");
    b.replicas = 2;
    EXPECT_HN_FAIL(hn_embedding_dw_check(&b), HN_ERR_SHAPE, "replicas of dw");
    b.replicas = 3;
    EXPECT_HN_FAIL(hn_embedding_dw_check(&b), HN_ERR_SHAPE, "2 rows do not split");
}

/* Axis 0 gathers rows (what lies behind the axis is one row); axis 1 of a matrix gathers rows of
 * its transpose. test_gather_1 gathers inside a 4-D tensor: per first index, rows again. Negative
 * indices count from the end in ONNX: our ids may not be negative, so the test adds the length. */
TEST(EmbeddingOnnx, GatherVectors)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    const int n = onnx::each(dir, "Gather", [](const onnx::Case &c) {
        const onnx::Tensor &data = *c.in(0);
        const int64_t axis = c.integer("axis", 0);
        int64_t outer = 1, inner = 1;
        for (int k = 0; k < (int)data.shape.size(); k++)
            (k < axis ? outer : inner) *= k == axis ? 1 : data.dim(k);
        const int64_t vocab = data.dim((int)axis);
        std::vector<int32_t> id = c.in(1)->i32();
        for (auto &i : id) i += i < 0 ? (int32_t)vocab : 0;
        const auto w = data.f32();
        std::vector<float> got;
        for (int64_t o = 0; o < outer; o++) {
            std::vector<float> y(id.size() * (size_t)inner);
            hn_embedding_args a = {};
            a.id = id.data(), a.w = w.data() + o * vocab * inner, a.y = y.data();
            a.rows = (int64_t)id.size(), a.vocab = vocab, a.dim = a.ld_w = a.ld_y = inner;
            ASSERT_HN_OK(hn_embedding_fwd_fast(&a));
            got.insert(got.end(), y.begin(), y.end());
        }
        EXPECT_TRUE(same_bits(got, c.out(0)->f32()));
    });
    EXPECT_EQ(n, 4);
}

#ifdef HONE_CUDA
struct CudaShape {
    Shape s;
    int64_t gap; /* elements between rows */
};

class EmbeddingCuda : public ::testing::TestWithParam<CudaShape> {
  protected:
    const Shape s = GetParam().s;
    const int64_t gap = GetParam().gap, g = s.replicas ? s.replicas : 1;
    std::vector<int32_t> id;

    void SetUp() override
    {
        std::mt19937 rng(3);
        for (int64_t i = 0; i < s.rows; i++) /* half of them the last row: much to add up */
            id.push_back((int32_t)(i % 2 ? s.vocab - 1 : (int64_t)(rng() % (uint64_t)s.vocab)));
    }
    template <class M, class I>
    hn_embedding_args fwd(I &ids, M &w, M &to)
    {
        return {ids.data(), w.data(), to.data(),  s.rows,           s.vocab, s.dim,
                w.ld(),     to.ld(),  s.replicas, s.vocab * w.ld(), s.dtype};
    }
    template <class M, class I>
    hn_embedding_dw_args back(I &ids, M &dy, M &to)
    {
        return {ids.data(), dy.data(),  to.f32(),          s.rows, s.vocab, s.dim, dy.ld(),
                to.ld(),    s.replicas, s.vocab * to.ld(), s.dtype};
    }
};

TEST_P(EmbeddingCuda, CudaEqualsCpuAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    Matrix w(s.dtype, g * s.vocab, s.dim, gap), y(s.dtype, s.rows, s.dim, gap);
    DeviceMatrix dw(s.dtype, g * s.vocab, s.dim, gap), dy(s.dtype, s.rows, s.dim, gap);
    DeviceMatrix again(s.dtype, s.rows, s.dim, gap);
    DeviceArray<int32_t> ids(id);
    w.normal(1), dw.normal(1);
    const auto a = fwd(id, w, y);
    const auto b = fwd(ids, dw, dy), c = fwd(ids, dw, again);
    ASSERT_HN_OK(hn_embedding_fwd_cpu(&a));
    ASSERT_HN_OK(hn_embedding_fwd_cuda(&b, nullptr));
    EXPECT_TRUE(same_bits(dy.values(), y.values()));
    run_captured([&](hn_stream stream) { ASSERT_HN_OK(hn_embedding_fwd_cuda(&c, stream)); });
    EXPECT_TRUE(same_bits(again.values(), y.values()));
}

/* One order of additions: no room to differ. */
TEST_P(EmbeddingCuda, CudaGradientEqualsTwinBitForBit)
{
    HN_NEED_CUDA();
    Matrix dy(s.dtype, s.rows, s.dim, gap), want(HN_F32, g * s.vocab, s.dim, gap);
    DeviceMatrix ddy(s.dtype, s.rows, s.dim, gap), got(HN_F32, g * s.vocab, s.dim, gap);
    DeviceArray<int32_t> ids(id);
    dy.normal(2), ddy.normal(2), want.normal(4), got.normal(4);
    const auto a = back(id, dy, want);
    const auto b = back(ids, ddy, got);
    DeviceArray<unsigned char> scratch(hn_embedding_dw_cuda_scratch(&b));
    ASSERT_HN_OK(hn_embedding_dw_cpu(&a));
    ASSERT_HN_OK(hn_embedding_dw_cuda(&b, scratch.data(), nullptr));
    EXPECT_TRUE(same_bits(got.values(), want.values()));
    got.normal(4);
    run_captured(
        [&](hn_stream stream) { ASSERT_HN_OK(hn_embedding_dw_cuda(&b, scratch.data(), stream)); });
    EXPECT_TRUE(same_bits(got.values(), want.values()));
    (void)scratch.host();
    EXPECT_TRUE(same_bits(ids.host(), id));
}

/* Smallest; one, two and three digits of ids; one and several tiles of rows, the last part-filled;
 * columns beyond one block; aligned and unaligned; replicas. */
INSTANTIATE_TEST_SUITE_P(
    Shapes, EmbeddingCuda,
    ::testing::Values(CudaShape{{HN_F32, 1, 1, 1, 0}, 0}, CudaShape{{HN_F32, 7, 5, 65, 0}, 3},
                      CudaShape{{HN_F32, 513, 300, 9, 0}, 3}, CudaShape{{HN_F32, 12, 4, 8, 3}, 0},
                      CudaShape{{HN_F32, 33, 7, 1030, 0}, 2}, CudaShape{{HN_BF16, 7, 5, 65, 0}, 7},
                      CudaShape{{HN_BF16, 1500, 70000, 3, 0}, 1},
                      CudaShape{{HN_BF16, 1200, 3, 64, 2}, 8},
                      CudaShape{{HN_F32, 40, 9, 2056, 0}, 8},
                      CudaShape{{HN_BF16, 530, 40, 2048, 0}, 0}),
    [](const auto &i) {
        const Shape &s = i.param.s;
        return case_name("r", s.rows, "_v", s.vocab, "_d", s.dim, "_gap", i.param.gap, "_g",
                         s.replicas, s.dtype);
    });

TEST(EmbeddingCudaCheck, NeedsIdsAndScratch)
{
    float f[8] = {};
    hn_embedding_dw_args b = {};
    b.dy = f, b.dw = f + 4, b.rows = 1, b.vocab = 2, b.dim = b.ld_dy = b.ld_dw = 2;
    EXPECT_HN_FAIL(hn_embedding_dw_cuda(&b, f, nullptr), HN_ERR_ARG, "id is NULL");
    const int32_t id = 0;
    b.id = &id;
    EXPECT_HN_FAIL(hn_embedding_dw_cuda(&b, nullptr, nullptr), HN_ERR_ARG, "scratch is NULL");
}
#endif

} // namespace
