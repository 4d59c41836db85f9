/* kernels/sparse: the pool's layout, and gradients of chosen blocks. */
#include "block_dw_test.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/linear_dw.h"
#include "kernels/sparse/block_gather.h"

namespace {

/* ---- the pool ---- */

TEST(SparsePool, BlocksStandByTilesOfOneHundredTwentyEight)
{
    /* [4, 300] in 4 x 4: tiles of columns 0, 128 and 256; ids are columns / 4. Two rows of blocks
     * would be needed for more than one row of tiles: [136, 260] has them. */
    const int32_t id[] = {0, 31, 32, 64, 65 * 31 + 1, 65 * 33 + 40};
    int32_t first[7], order[6];
    ASSERT_HN_OK(hn_sparse_order({4, 4}, 136, 260, id, 6, first, order));
    const int32_t want_first[] = {0, 3, 4, 5, 5, 6, 6}, want_order[] = {0, 1, 4, 2, 3, 5};
    EXPECT_TRUE(std::equal(first, first + 7, want_first));
    EXPECT_TRUE(std::equal(order, order + 6, want_order));
    EXPECT_EQ(hn_sparse_tiles(136, 260), 6);
    EXPECT_EQ(hn_block_tile({4, 4}, 260, 65 * 33 + 40), 4);
}

TEST(SparsePool, LargeBlocksStandById)
{
    const int32_t id[] = {1, 2, 7};
    int32_t order[3];
    ASSERT_HN_OK(hn_sparse_order({128, 128}, 512, 256, id, 3, nullptr, order));
    EXPECT_TRUE(order[0] == 0 && order[1] == 1 && order[2] == 2);
    EXPECT_EQ(hn_block_row({128, 128}, 256, 7), 384);
    EXPECT_EQ(hn_block_col({128, 128}, 256, 7), 128);
}

TEST(SparsePool, RefusesShapesAndIdsByName)
{
    int32_t order[2], first[2];
    const int32_t twice[] = {1, 1}, far[] = {0, 4};
    EXPECT_HN_FAIL(hn_block_shape_check("op", {8, 8}, 64, 64), HN_ERR_SHAPE, "8 x 8");
    EXPECT_HN_FAIL(hn_block_shape_check("op", {16, 16}, 64, 40), HN_ERR_SHAPE, "do not divide");
    EXPECT_HN_FAIL(hn_block_shape_check("op", {1, 1}, 65536, 32768), HN_ERR_SHAPE, "2147483648");
    EXPECT_HN_FAIL(hn_block_shape_check("op", {0, 0}, 64, 64), HN_ERR_SHAPE, "0 x 0");
    EXPECT_HN_OK(hn_block_shape_check("op", {1, 40}, 64, 40));
    EXPECT_HN_OK(hn_block_shape_check("op", {64, 1}, 64, 40));
    EXPECT_HN_FAIL(hn_sparse_order({1, 1}, 2, 2, twice, 2, first, order), HN_ERR_ARG, "ascend");
    EXPECT_HN_FAIL(hn_sparse_order({1, 1}, 2, 2, far, 2, first, order), HN_ERR_ARG, "id 4 at 1");
}

/* ---- block_dw on the CPU ---- */

class BlockDw : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    const Pool pool{s, s.count, 5};
    Matrix dy{s.dtype, s.rows, s.out}, x{s.dtype, s.rows, s.in};

    void SetUp() override { dy.normal(1), x.normal(2); }
    std::vector<float> start() const { return normal_f32((size_t)pool.values, 3); }
    hn_block_dw_args args(std::vector<float> &grad)
    {
        auto a = args_of(s, pool);
        a.dy = dy.data(), a.x = x.data(), a.ld_dy = dy.ld(), a.ld_x = x.ld();
        a.grad = grad.data();
        return a;
    }
    std::vector<float> twin()
    {
        auto grad = start();
        const auto a = args(grad);
        EXPECT_HN_OK(hn_block_dw_cpu(&a));
        return grad;
    }
};

TEST_P(BlockDw, TwinIsLinearDwOfTheChosenElementsBitForBit)
{
    Matrix dw(HN_F32, s.out, s.in, 1);
    const auto before = start();
    const hn_block_shape b = s.block();
    dw.assign(std::vector<float>((size_t)(s.out * s.in), 0.0f));
    const auto each = [&](auto fn) {
        for (int64_t i = 0; i < pool.span.count * b.br * b.bc; i++) {
            const int32_t id = pool.block[(size_t)(pool.span.first_block + i / (b.br * b.bc))];
            fn(pool.span.first_value + i, hn_block_row(b, s.in, id) + i % (b.br * b.bc) / b.bc,
               hn_block_col(b, s.in, id) + i % b.bc);
        }
    };
    each([&](int64_t at, int64_t i, int64_t j) { dw.set(i, j, before[(size_t)at]); });
    hn_linear_dw_args a = {};
    a.dy = dy.data(), a.x = x.data(), a.dw = dw.f32();
    a.rows = s.rows, a.in = s.in, a.out = s.out;
    a.ld_dy = dy.ld(), a.ld_x = x.ld(), a.ld_dw = dw.ld();
    a.dtype = s.dtype, a.alpha = 0.5f;
    ASSERT_HN_OK(hn_linear_dw_cpu(&a));
    const auto all = dw.values();
    auto want = before;
    each([&](int64_t at, int64_t i, int64_t j) { want[(size_t)at] = all[(size_t)(i * s.in + j)]; });
    EXPECT_TRUE(same_bits(twin(), want)); /* and what belongs to others stays */
}

TEST_P(BlockDw, FastMatchesTwinAndHasTheSameBitsOnAnyThreads)
{
    const auto want = twin(), before = start();
    std::vector<float> first;
    for (const int threads : {1, 2, 3}) {
        GuardedArray<float> grad(before);
        auto values = start();
        auto a = args(values);
        a.grad = grad.data();
        on_threads(threads, [&] {
            Scratch scratch(hn_block_dw_fast_scratch(&a));
            EXPECT_HN_OK(hn_block_dw_fast(&a, scratch.data()));
        });
        const auto got = grad.host();
        if (first.empty()) first = got;
        EXPECT_TRUE(same_bits(got, first)) << threads << " threads";
    }
    EXPECT_LT(rel_l2(first, want), tolerance(HN_F32));
    const int64_t begin = pool.span.first_value, end = begin + s.count * s.br * s.bc;
    for (int64_t i = 0; i < pool.values; i++)
        if (i < begin || i >= end) {
            EXPECT_EQ(first[(size_t)i], before[(size_t)i]) << "value " << i << " is another's";
        }
}

/* Test (e) of the specification: the same elements, as blocks and one by one. */
TEST_P(BlockDw, ElementsOneByOneAreTheSame)
{
    const auto blocks = twin(), before = start();
    Shape one = s;
    one.br = one.bc = 1, one.count = s.count * s.br * s.bc;
    one.capacity = std::max<int64_t>(one.count, 1);
    std::vector<int32_t> id;
    std::vector<std::pair<int32_t, float>> want;
    for (int64_t i = 0; i < one.count; i++) {
        const int64_t v = s.br * s.bc, b = pool.block[(size_t)(pool.span.first_block + i / v)];
        const int64_t at = (hn_block_row(s.block(), s.in, b) + i % v / s.bc) * s.in +
                           hn_block_col(s.block(), s.in, b) + i % s.bc;
        id.push_back((int32_t)at);
        const size_t value = (size_t)(pool.span.first_value + i);
        want.push_back({(int32_t)at, blocks[value] - before[value]});
    }
    std::sort(id.begin(), id.end()), std::sort(want.begin(), want.end());
    Pool elements = pool;
    elements.set(one, id);
    std::vector<float> grad((size_t)elements.values, 0.0f), expected, got;
    auto a = args_of(one, elements);
    a.dy = dy.data(), a.x = x.data(), a.ld_dy = dy.ld(), a.ld_x = x.ld(), a.grad = grad.data();
    Scratch scratch(hn_block_dw_fast_scratch(&a));
    ASSERT_HN_OK(hn_block_dw_fast(&a, scratch.data()));
    for (int64_t i = 0; i < one.count; i++) {
        const int32_t at = elements.block[(size_t)(elements.span.first_block + i)];
        const auto w = std::lower_bound(want.begin(), want.end(), std::make_pair(at, -INFINITY));
        got.push_back(grad[(size_t)(elements.span.first_value + i)]);
        expected.push_back(w->second);
    }
    EXPECT_LT(rel_l2(got, expected), tolerance(HN_F32));
}

/* No element, few in a tile (dots), many (a product of the tile); part-filled tiles at both edges;
 * every size of block; more blocks than one span holds values of a tile. */
const Shape kShapes[] = {
    {HN_F32, 1, 1, 1, 1, 1, 1, 1},           {HN_F32, 5, 7, 9, 1, 1, 0, 6},
    {HN_F32, 300, 140, 133, 1, 1, 200, 300}, {HN_BF16, 129, 64, 200, 1, 1, 9000, 12800},
    {HN_F32, 40, 132, 136, 4, 4, 37, 40},    {HN_BF16, 20, 36, 20, 4, 4, 45, 45, true},
    {HN_F32, 70, 144, 160, 16, 16, 7, 20},   {HN_F32, 33, 48, 32, 16, 16, 6, 6},
    {HN_BF16, 64, 160, 96, 32, 32, 3, 15},   {HN_F32, 10, 192, 64, 64, 64, 2, 3},
    {HN_F32, 17, 256, 128, 128, 128, 1, 2},  {HN_BF16, 9, 512, 256, 256, 256, 2, 2},
    {HN_F32, 31, 12, 200, 1, 200, 5, 6},  /* rows */
    {HN_BF16, 31, 12, 40, 1, 40, 5, 6},   /* rows of less than a tile */
    {HN_F32, 31, 130, 24, 130, 1, 5, 24}, /* columns */
};
INSTANTIATE_TEST_SUITE_P(Shapes, BlockDw, ::testing::ValuesIn(kShapes),
                         [](const auto &i) { return name_of(i.param); });

TEST(BlockDwTwin, MatchesHandComputedValues)
{
    /* dw = dy^T x: rows of dy are tokens. dw[0,1] = 1 * 5 + 3 * 7 = 26, dw[1,0] = 2 * 4 + 0 * 6 */
    const float dy[] = {1, 2, 3, 0}, x[] = {4, 5, 6, 7};
    const hn_sparse_span span = {1, 0, 2};
    const int32_t block[] = {1, 2}, tile_first[] = {0, 2};
    float grad[] = {9, 10, 20, 9};
    hn_block_dw_args a = {};
    a.dy = dy, a.x = x, a.span = &span, a.block = block, a.tile_first = tile_first, a.grad = grad;
    a.rows = a.in = a.out = a.ld_dy = a.ld_x = 2;
    a.shape = {1, 1}, a.capacity = a.blocks = 2, a.values = 4;
    ASSERT_HN_OK(hn_block_dw_cpu(&a));
    const float want[] = {9, 36, 28, 9};
    EXPECT_TRUE(std::equal(grad, grad + 4, want));
}

/* The loss sum(dy * linear(x)) is linear in w: its differences are the gradient. */
TEST(BlockDwTwin, MatchesFiniteDifferences)
{
    const Shape s = {HN_F32, 6, 8, 12, 4, 4, 3, 6};
    const Pool pool(s, s.count, 4);
    auto dy = normal_f32(6 * 8, 1), x = normal_f32(6 * 12, 2), w = normal_f32(8 * 12, 3);
    std::vector<float> grad((size_t)pool.values, 0.0f), y(6 * 8);
    auto a = args_of(s, pool);
    a.dy = dy.data(), a.x = x.data(), a.ld_dy = 8, a.ld_x = 12, a.grad = grad.data(), a.alpha = 0;
    ASSERT_HN_OK(hn_block_dw_cpu(&a));
    const auto loss = [&] {
        hn_linear_args l = {};
        l.x = x.data(), l.w = w.data(), l.y = y.data();
        l.rows = 6, l.in = l.ld_x = l.ld_w = 12, l.out = l.ld_y = 8, l.dtype = HN_F32;
        EXPECT_HN_OK(hn_linear_fwd_cpu(&l));
        return std::inner_product(y.begin(), y.end(), dy.begin(), 0.0);
    };
    for (int64_t i = 0; i < s.count * 16; i++) {
        const int32_t id = pool.block[(size_t)(pool.span.first_block + i / 16)];
        float &at = w[(size_t)((hn_block_row(s.block(), 12, id) + i % 16 / 4) * 12 +
                               hn_block_col(s.block(), 12, id) + i % 4)];
        const float old = at;
        at = old + 0.5f;
        const double up = loss();
        at = old - 0.5f;
        EXPECT_NEAR(grad[(size_t)(pool.span.first_value + i)], up - loss(), 2e-5);
        at = old;
    }
}

TEST(BlockDwCheck, RefusesWhatItCannotDo)
{
    const Shape s = {HN_F32, 3, 8, 12, 4, 4, 3, 4};
    const Pool pool(s, s.count, 4);
    std::vector<float> dy(3 * 8), x(3 * 12), grad((size_t)pool.values);
    auto good = args_of(s, pool);
    good.dy = dy.data(), good.x = x.data(), good.ld_dy = 8, good.ld_x = 12, good.grad = grad.data();
    ASSERT_HN_OK(hn_block_dw_cpu(&good));
    auto a = good;
    a.tile_first = nullptr;
    EXPECT_HN_FAIL(hn_block_dw_cpu(&a), HN_ERR_ARG, "tile_first");
    a = good, a.dtype = HN_F16;
    EXPECT_HN_FAIL(hn_block_dw_cpu(&a), HN_ERR_UNSUPPORTED, "f16");
    a = good, a.way = (hn_block_dw_way)4;
    EXPECT_HN_FAIL(hn_block_dw_cpu(&a), HN_ERR_ARG, "way 4");
    a = good, a.capacity = 7;
    EXPECT_HN_FAIL(hn_block_dw_cpu(&a), HN_ERR_SHAPE, "capacity");
    a = good, a.shape = {16, 16};
    EXPECT_HN_FAIL(hn_block_dw_cpu(&a), HN_ERR_SHAPE, "16 x 16");
    a = good, a.ld_x = 11;
    EXPECT_HN_FAIL(hn_block_dw_cpu(&a), HN_ERR_SHAPE, "x");
    a = good, a.capacity = 2;
    EXPECT_HN_FAIL(hn_block_dw_cpu(&a), HN_ERR_ARG, "span of 3 blocks");
    a = good, a.values = 7 + 3 * 16 - 1;
    EXPECT_HN_FAIL(hn_block_dw_cpu(&a), HN_ERR_ARG, "span of 3 blocks");
    auto block = pool.block;
    std::swap(block[3], block[4]);
    a = good, a.block = block.data();
    EXPECT_HN_FAIL(hn_block_dw_cpu(&a), HN_ERR_ARG, "out of order");
    block[3] = 6;
    EXPECT_HN_FAIL(hn_block_dw_cpu(&a), HN_ERR_ARG, "id 6");
    const std::vector<int32_t> first = {0, 2};
    a = good, a.tile_first = first.data();
    EXPECT_HN_FAIL(hn_block_dw_cpu(&a), HN_ERR_ARG, "tile_first");
}

/* ---- block_gather ---- */

TEST_P(BlockDw, GatherOfTheWholeGradientIsTheSame)
{
    Matrix dw(HN_F32, s.out, s.in, 2);
    dw.normal(4);
    const auto before = start(), all = dw.values();
    auto twin = before, fast = before, want = before;
    const int64_t v = s.br * s.bc;
    for (int64_t i = 0; i < s.count * v; i++) {
        const int32_t id = pool.block[(size_t)(pool.span.first_block + i / v)];
        const int64_t at = (hn_block_row(s.block(), s.in, id) + i % v / s.bc) * s.in +
                           hn_block_col(s.block(), s.in, id) + i % s.bc;
        want[(size_t)(pool.span.first_value + i)] += 0.5f * all[(size_t)at];
    }
    hn_block_gather_args a = {};
    a.dw = dw.f32(), a.span = &pool.span, a.block = pool.block.data(), a.grad = twin.data();
    a.out = s.out, a.in = s.in, a.ld_dw = dw.ld(), a.shape = s.block(), a.capacity = s.capacity;
    a.blocks = (int64_t)pool.block.size(), a.values = pool.values, a.alpha = 0.5f;
    ASSERT_HN_OK(hn_block_gather_cpu(&a));
    EXPECT_TRUE(same_bits(twin, want));
    a.grad = fast.data();
    ASSERT_HN_OK(hn_block_gather_fast(&a));
    EXPECT_TRUE(same_bits(fast, want));
    a.capacity = hn_block_total(s.block(), s.out, s.in) + 1;
    EXPECT_HN_FAIL(hn_block_gather_cpu(&a), HN_ERR_SHAPE, "capacity");
}

#ifdef HONE_CUDA
/* ---- CUDA ---- */

class BlockDwCuda : public ::testing::TestWithParam<Shape> {
  protected:
    const Shape s = GetParam();
    Matrix dy{s.dtype, s.rows, s.out}, x{s.dtype, s.rows, s.in};

    void SetUp() override
    {
        HN_NEED_CUDA();
        dy.normal(1), x.normal(2);
    }
    std::vector<float> start(const Pool &p) const { return normal_f32((size_t)p.values, 3); }
    std::vector<float> want(const Pool &pool)
    {
        auto grad = start(pool);
        auto a = args_of(s, pool);
        a.dy = dy.data(), a.x = x.data(), a.ld_dy = dy.ld(), a.ld_x = x.ld(), a.grad = grad.data();
        Scratch scratch(hn_block_dw_fast_scratch(&a)); /* checked against the twin above */
        EXPECT_HN_OK(hn_block_dw_fast(&a, scratch.data()));
        return grad;
    }
};

TEST_P(BlockDwCuda, MatchesCpuAndRepeats)
{
    HN_NEED_CUDA();
    for (const bool aligned : {true, false}) {
        SCOPED_TRACE(aligned ? "aligned" : "not aligned");
        Gemm gemm;
        DeviceCopy ddy(dy, aligned), dx(x, aligned);
        for (const int64_t count : {s.count, s.capacity, s.count / 2, (int64_t)0}) {
            SCOPED_TRACE(count);
            const Pool pool(s, count, 5);
            DevicePool on(pool);
            auto a = args_of(s, pool);
            on.put(&a);
            a.dy = ddy.data(), a.x = dx.data(), a.ld_dy = ddy.ld(), a.ld_x = dx.ld();
            DeviceScratch scratch(hn_block_dw_cuda_scratch(&a));
            on.grad.assign(start(pool));
            ASSERT_HN_OK(hn_block_dw_cuda(&a, gemm, scratch.data(), nullptr));
            const auto got = on.grad.host();
            EXPECT_LT(rel_l2(got, want(pool)), 5e-6); /* fp32 sums in another order */
            on.grad.assign(start(pool));
            ASSERT_HN_OK(hn_block_dw_cuda(&a, gemm, scratch.data(), nullptr));
            EXPECT_TRUE(same_bits(on.grad.host(), got));
        }
    }
}

/* The same bits as of plain launches; and another selection without another capture. */
TEST_P(BlockDwCuda, CapturedGraphTakesAnotherSelection)
{
    HN_NEED_CUDA();
    for (const bool aligned : {true, false}) {
        SCOPED_TRACE(aligned ? "aligned" : "not aligned");
        Gemm gemm;
        const Pool pool(s, s.count, 5);
        DeviceCopy ddy(dy, aligned), dx(x, aligned);
        DevicePool on(pool);
        auto a = args_of(s, pool);
        on.put(&a);
        a.dy = ddy.data(), a.x = dx.data(), a.ld_dy = ddy.ld(), a.ld_x = dx.ld();
        DeviceScratch scratch(hn_block_dw_cuda_scratch(&a));
        CapturedGraph graph([&](hn_stream stream) {
            EXPECT_HN_OK(hn_block_dw_cuda(&a, gemm, scratch.data(), stream));
        });
        for (const int64_t count : {s.count, s.capacity, s.count / 2, (int64_t)1, (int64_t)0}) {
            SCOPED_TRACE(count);
            const Pool other(s, count, 6);
            on.span.assign({other.span}), on.block.assign(other.block);
            if (!other.tile_first.empty()) on.tile_first.assign(other.tile_first);
            on.grad.assign(start(other));
            ASSERT_HN_OK(hn_block_dw_cuda(&a, gemm, scratch.data(), nullptr));
            const auto got = on.grad.host();
            EXPECT_LT(rel_l2(got, want(other)), 5e-6);
            on.grad.assign(start(other));
            graph.launch();
            EXPECT_TRUE(same_bits(on.grad.host(), got));
        }
    }
}

TEST_P(BlockDwCuda, AnOddFirstColumnRunsToo)
{
    HN_NEED_CUDA();
    if (s.out * s.in > 400000) GTEST_SKIP() << "one size is enough";
    Gemm gemm;
    const Pool pool(s, s.count, 5);
    /* As a view of wider rows: planned without pointers, whose alignment shows when it runs. */
    Matrix wide_dy(s.dtype, s.rows, s.out + 1, 0), wide_x(s.dtype, s.rows, s.in + 1, 0);
    const auto shift = [](Matrix &wide, Matrix &m) {
        const auto v = m.values();
        for (int64_t i = 0; i < m.rows(); i++) {
            wide.set(i, 0, 0.0f);
            for (int64_t j = 0; j < m.cols(); j++)
                wide.set(i, j + 1, v[(size_t)(i * m.cols() + j)]);
        }
    };
    shift(wide_dy, dy), shift(wide_x, x);
    DeviceCopy ddy(wide_dy, true), dx(wide_x, true);
    DevicePool on(pool);
    auto a = args_of(s, pool);
    a.ld_dy = ddy.ld(), a.ld_x = dx.ld();
    DeviceScratch scratch(hn_block_dw_cuda_scratch(&a));
    on.put(&a);
    a.dy = (char *)ddy.data() + hn_dtype_size(s.dtype);
    a.x = (char *)dx.data() + hn_dtype_size(s.dtype);
    on.grad.assign(start(pool));
    ASSERT_HN_OK(hn_block_dw_cuda(&a, gemm, scratch.data(), nullptr));
    EXPECT_LT(rel_l2(on.grad.host(), want(pool)), 5e-6);
}

TEST_P(BlockDwCuda, GatherEqualsTwinBitForBit)
{
    HN_NEED_CUDA();
    const Pool pool(s, s.count, 5);
    Matrix dw(HN_F32, s.out, s.in, 2);
    dw.normal(4);
    DeviceCopy ddw(dw, false);
    DevicePool on(pool);
    auto expected = start(pool);
    hn_block_gather_args a = {};
    a.dw = dw.f32(), a.span = &pool.span, a.block = pool.block.data(), a.grad = expected.data();
    a.out = s.out, a.in = s.in, a.ld_dw = dw.ld(), a.shape = s.block(), a.capacity = s.capacity;
    a.blocks = (int64_t)pool.block.size(), a.values = pool.values, a.alpha = 0.5f;
    ASSERT_HN_OK(hn_block_gather_cpu(&a)); /* a power of two: nothing is rounded but the sum */
    a.dw = ddw.f32(), a.ld_dw = ddw.ld();
    a.span = on.span.data(), a.block = on.block.data(), a.grad = on.grad.data();
    on.grad.assign(start(pool));
    ASSERT_HN_OK(hn_block_gather_cuda(&a, nullptr));
    EXPECT_TRUE(same_bits(on.grad.host(), expected));
}

/* Every path of block_dw_cuda.cu: tokens of part-filled steps, one run and many, edges of matrices
 * inside a tile; capacities below the whole gradient's, and above. */
const Shape kCudaShapes[] = {
    {HN_BF16, 1000, 512, 768, 128, 128, 5, 8},
    {HN_BF16, 7, 256, 384, 128, 128, 2, 2},
    {HN_BF16, 3001, 256, 512, 128, 128, 1, 3},
    {HN_BF16, 500, 512, 1024, 256, 256, 1, 2},
    {HN_BF16, 300, 256, 512, 256, 256, 2, 2}, /* the whole gradient */
    {HN_BF16, 1000, 512, 640, 64, 64, 9, 18},
    {HN_BF16, 129, 192, 320, 64, 64, 3, 3, true},
    {HN_BF16, 129, 192, 320, 64, 64, 12, 15}, /* the whole gradient */
    {HN_BF16, 1000, 512, 640, 32, 32, 20, 36},
    {HN_BF16, 65, 160, 224, 32, 32, 4, 4, true},
    {HN_BF16, 2000, 512, 640, 16, 16, 40, 70},
    {HN_BF16, 127, 144, 176, 16, 16, 5, 5},
    {HN_BF16, 100, 144, 176, 16, 16, 80, 99}, /* the whole gradient */
    {HN_BF16, 1003, 512, 768, 1, 1, 1200, 1900},
    {HN_BF16, 70, 2048, 2048, 1, 1, 13000, 14000}, /* several groups */
    {HN_BF16, 70, 2048, 2048, 1, 1, 10300, 20000, true},
    {HN_BF16, 90, 132, 10000, 1, 1, 3000, 6000}, /* four tokens at a time */
    {HN_BF16, 33, 140, 20000, 1, 1, 2000, 3000}, /* two */
    {HN_BF16, 17, 30004, 140, 1, 1, 900, 1000},  /* from device memory */
    {HN_BF16, 50, 36, 40, 1, 1, 600, 1000},      /* the whole gradient */
    {HN_BF16, 60, 35, 41, 1, 1, 6, 7},
    {HN_BF16, 515, 512, 768, 4, 4, 300, 360},
    {HN_BF16, 40, 1028, 4096, 4, 4, 3200, 3280},
    {HN_BF16, 21, 2048, 20000, 4, 4, 50, 1000}, /* two tokens at a time */
    {HN_BF16, 9, 64, 28160, 4, 4, 50, 100},     /* too wide: the whole gradient */
    {HN_BF16, 300, 128, 384, 1, 384, 7, 20},
    {HN_BF16, 300, 128, 384, 128, 1, 7, 20},
    {HN_BF16, 30, 128, 384, 128, 1, 300, 384}, /* the whole gradient */
    {HN_BF16, 31, 12, 40, 1, 40, 5, 6},
    {HN_F32, 200, 144, 160, 16, 16, 7, 20},
    {HN_F32, 100, 130, 257, 1, 1, 100, 150},
    {HN_F32, 50, 24, 200, 1, 200, 5, 6},
    {HN_F32, 50, 130, 24, 130, 1, 5, 6},
    {HN_F32, 1, 1, 1, 1, 1, 1, 1},
};
INSTANTIATE_TEST_SUITE_P(Shapes, BlockDwCuda, ::testing::ValuesIn(kCudaShapes),
                         [](const auto &i) { return name_of(i.param); });
#endif

} // namespace
