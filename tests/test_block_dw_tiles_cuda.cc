/* kernels/sparse: squares of 1 and 4, of which CUDA chooses a way for each tile of the matrix. */
#include "block_dw_test.h"

namespace {

/* So many blocks of a tile of 128 x 128, drawn at random; -1: all. */
struct TileCount {
    int64_t tile, count;
};

/* A matrix of 4 x 9 tiles, the last ones 8 rows and 8 columns wide. 1415 blocks one by one, or 7
 * tiles as products, take as long as the whole gradient. */
struct Mask {
    const char *name;
    int64_t side;
    std::vector<TileCount> tiles;
    int64_t elsewhere; /* blocks of every tile that is not named */
    bool whole;        /* which is faster */
};

const Mask kMasks[] = {
    {"mixed", 1, {{0, 328}, {1, 329}, {2, 0}, {8, -1}, {10, -1}, {27, -1}, {35, -1}}, 3, false},
    {"alone", 1, {{13, 16384}, {14, 400}}, 0, false},
    {"threshold", 1, {{0, 328}, {20, 328}, {22, 327}, {35, 64}}, 0, false},
    {"seven",
     1,
     {{3, 500}, {4, 500}, {5, 500}, {12, 329}, {13, 329}, {14, 329}, {15, 329}},
     0,
     false},
    {"eight",
     1,
     {{3, 500}, {4, 500}, {5, 500}, {12, 329}, {13, 329}, {14, 329}, {15, 329}, {16, 329}},
     0,
     true},
    {"everywhere", 1, {{2, 0}}, 100, true},
    {"mixed4", 4, {{0, 61}, {1, 62}, {2, 0}, {8, -1}, {10, -1}, {27, -1}, {35, -1}}, 2, false},
    {"everywhere4", 4, {{2, 0}}, 30, true},
};

struct Case {
    int64_t rows;
    Mask mask;
    hn_dtype dtype = HN_BF16;
    int64_t out = 392;
};

Shape shape_of(const Case &c, int64_t count)
{
    return {c.dtype, c.rows, c.out, 1032, c.mask.side, c.mask.side, count, count};
}

/* How many blocks of the mask each tile has; all of its ids are appended. */
std::vector<int64_t> draw(const Case &c, std::vector<int32_t> *id)
{
    const Shape s = shape_of(c, 0);
    std::vector<std::vector<int32_t>> of((size_t)hn_sparse_tiles(s.out, s.in));
    std::vector<int64_t> count(of.size(), c.mask.elsewhere);
    for (int64_t i = 0; i < hn_block_total(s.block(), s.out, s.in); i++)
        of[(size_t)hn_block_tile(s.block(), s.in, i)].push_back((int32_t)i);
    for (const auto &t : c.mask.tiles) count[(size_t)t.tile] = t.count;
    std::mt19937 rng(7);
    for (size_t t = 0; t < of.size(); t++) {
        std::shuffle(of[t].begin(), of[t].end(), rng);
        const int64_t all = (int64_t)of[t].size();
        if (count[t] < 0 || count[t] > all) count[t] = all;
        id->insert(id->end(), of[t].begin(), of[t].begin() + count[t]);
    }
    std::sort(id->begin(), id->end());
    return count;
}

class BlockDwTilesCuda : public ::testing::TestWithParam<Case> {
  protected:
    const Case c = GetParam();
    std::vector<int32_t> id;
    const std::vector<int64_t> count = draw(c, &id);
    const Shape s = shape_of(c, (int64_t)id.size());
    Pool pool{s, 0, 5};
    Matrix dy{s.dtype, s.rows, s.out}, x{s.dtype, s.rows, s.in};

    void SetUp() override
    {
        HN_NEED_CUDA();
        dy.normal(1), x.normal(2), pool.set(s, id);
    }
    std::vector<float> start() const { return normal_f32((size_t)pool.values, 3); }
    hn_block_dw_args args(hn_block_dw_way way)
    {
        auto a = args_of(s, pool);
        a.way = way, a.dy = dy.data(), a.x = x.data(), a.ld_dy = dy.ld(), a.ld_x = x.ld();
        return a;
    }
    /* Of a span of `blocks`, as the CPU gives it. */
    std::vector<float> want(int64_t blocks)
    {
        auto grad = start();
        Pool first(s, 0, 5);
        std::vector<int32_t> some;
        for (int64_t i = 0; i < blocks; i++) some.push_back(pool.block[(size_t)(3 + i)]);
        std::sort(some.begin(), some.end());
        first.set(s, some);
        auto a = args_of(s, first);
        a.dy = dy.data(), a.x = x.data(), a.ld_dy = dy.ld(), a.ld_x = x.ld(), a.grad = grad.data();
        Scratch scratch(hn_block_dw_fast_scratch(&a));
        EXPECT_HN_OK(hn_block_dw_fast(&a, scratch.data()));
        return grad;
    }
    std::vector<float> got(hn_block_dw_args a, bool captured = false)
    {
        Gemm gemm;
        DeviceCopy ddy(dy, true), dx(x, true);
        DevicePool on(pool);
        on.put(&a);
        a.dy = ddy.data(), a.x = dx.data(), a.ld_dy = ddy.ld(), a.ld_x = dx.ld();
        DeviceScratch scratch(hn_block_dw_cuda_scratch(&a));
        on.grad.assign(start());
        if (captured) {
            CapturedGraph graph([&](hn_stream stream) {
                EXPECT_HN_OK(hn_block_dw_cuda(&a, gemm, scratch.data(), stream));
            });
            graph.launch();
        } else {
            EXPECT_HN_OK(hn_block_dw_cuda(&a, gemm, scratch.data(), nullptr));
        }
        return on.grad.host();
    }
};

TEST_P(BlockDwTilesCuda, EveryWayMatchesCpuAndRepeats)
{
    HN_NEED_CUDA();
    const auto expected = want(s.count);
    for (const auto way :
         {HN_BLOCK_DW_BEST, HN_BLOCK_DW_BLOCKS, HN_BLOCK_DW_TILES, HN_BLOCK_DW_WHOLE}) {
        SCOPED_TRACE((int)way);
        const auto first = got(args(way));
        /* fp32 sums in another order: of 5,000 tokens 5.3e-6 by the library's products */
        EXPECT_LT(rel_l2(first, expected), 8e-6);
        EXPECT_TRUE(same_bits(got(args(way)), first));
    }
}

/* Of one run, the bits of a value are those of the way that its tile went. */
TEST_P(BlockDwTilesCuda, EachTileGoesItsWay)
{
    HN_NEED_CUDA();
    if (s.rows > 64) GTEST_SKIP() << "of one run";
    const auto best = got(args(HN_BLOCK_DW_BEST));
    const auto blocks = got(args(HN_BLOCK_DW_BLOCKS)), tiles = got(args(HN_BLOCK_DW_TILES));
    const auto whole = got(args(HN_BLOCK_DW_WHOLE));
    const int64_t v = s.br * s.bc, above = s.br == 1 ? 328 : 61;
    bool differ = false;
    for (size_t t = 0; t < count.size(); t++) {
        const auto &from = c.mask.whole ? whole : count[t] > above ? tiles : blocks;
        const auto &other = c.mask.whole ? blocks : count[t] > above ? blocks : tiles;
        const int64_t begin = pool.span.first_value + pool.tile_first[t] * v;
        const int64_t end = pool.span.first_value + pool.tile_first[t + 1] * v;
        int64_t wrong = 0;
        for (size_t i = (size_t)begin; i < (size_t)end; i++) {
            wrong += best[i] != from[i];
            differ |= best[i] != other[i];
        }
        EXPECT_EQ(wrong, 0) << "of the " << count[t] << " blocks of tile " << t;
    }
    EXPECT_TRUE(differ) << "the ways cannot be told apart";
}

TEST_P(BlockDwTilesCuda, CapturedGraphHasTheSameBits)
{
    HN_NEED_CUDA();
    const auto a = args(HN_BLOCK_DW_BEST);
    EXPECT_TRUE(same_bits(got(a, true), got(a)));
}

/* Of a span of more blocks than there is room for, the first are taken, in the middle of a tile. */
TEST_P(BlockDwTilesCuda, ALongSpanIsCutAtTheCapacity)
{
    HN_NEED_CUDA();
    for (const auto way : {HN_BLOCK_DW_BEST, HN_BLOCK_DW_BLOCKS, HN_BLOCK_DW_TILES}) {
        SCOPED_TRACE((int)way);
        auto a = args(way);
        a.capacity = s.count * 2 / 3;
        EXPECT_LT(rel_l2(got(a), want(a.capacity)), 5e-6);
    }
}

std::vector<Case> tile_cases()
{
    std::vector<Case> cases;
    for (const auto &m : kMasks)
        for (const int64_t rows : {60, 1003}) cases.push_back({rows, m});
    cases.push_back({5000, kMasks[0]}); /* many runs */
    return cases;
}
INSTANTIATE_TEST_SUITE_P(Masks, BlockDwTilesCuda, ::testing::ValuesIn(tile_cases()),
                         [](const auto &i) {
                             return case_name(i.param.mask.name, "_r", i.param.rows);
                         });

TEST(BlockDwWayCuda, IsRefusedWhereThereIsNone)
{
    HN_NEED_CUDA();
    const struct {
        Shape s;
        bool blocks, tiles;
    } all[] = {
        {{HN_BF16, 20, 392, 1032, 1, 1, 900, 900}, true, true},
        {{HN_BF16, 20, 388, 1032, 1, 1, 900, 900}, true, false}, /* no whole pieces */
        {{HN_BF16, 20, 390, 1032, 1, 1, 900, 900}, false, false},
        {{HN_F32, 20, 392, 1032, 1, 1, 900, 900}, false, false},
        {{HN_BF16, 20, 384, 1024, 16, 16, 9, 9}, false, false},
    };
    for (const auto &t : all) {
        SCOPED_TRACE(name_of(t.s));
        Gemm gemm;
        Matrix dy(t.s.dtype, t.s.rows, t.s.out, 0), x(t.s.dtype, t.s.rows, t.s.in, 0);
        dy.normal(1), x.normal(2);
        DeviceCopy ddy(dy, true), dx(x, true);
        const Pool pool(t.s, t.s.count, 5);
        const auto before = normal_f32((size_t)pool.values, 3);
        auto expected = before;
        auto a = args_of(t.s, pool);
        a.dy = dy.data(), a.x = x.data(), a.ld_dy = dy.ld(), a.ld_x = x.ld();
        a.grad = expected.data();
        Scratch twin(hn_block_dw_fast_scratch(&a));
        ASSERT_HN_OK(hn_block_dw_fast(&a, twin.data()));
        for (const auto way :
             {HN_BLOCK_DW_BEST, HN_BLOCK_DW_BLOCKS, HN_BLOCK_DW_TILES, HN_BLOCK_DW_WHOLE}) {
            SCOPED_TRACE((int)way);
            DevicePool on(pool);
            on.grad.assign(before);
            a = args_of(t.s, pool);
            on.put(&a);
            a.way = way;
            a.dy = ddy.data(), a.x = dx.data(), a.ld_dy = ddy.ld(), a.ld_x = dx.ld();
            DeviceScratch scratch(hn_block_dw_cuda_scratch(&a));
            const bool refused =
                (way == HN_BLOCK_DW_BLOCKS && !t.blocks) || (way == HN_BLOCK_DW_TILES && !t.tiles);
            if (refused) {
                EXPECT_HN_FAIL(hn_block_dw_cuda(&a, gemm, scratch.data(), nullptr),
                               HN_ERR_UNSUPPORTED, "way");
                EXPECT_TRUE(same_bits(on.grad.host(), before));
            } else {
                ASSERT_HN_OK(hn_block_dw_cuda(&a, gemm, scratch.data(), nullptr));
                EXPECT_LT(rel_l2(on.grad.host(), expected), 5e-6);
            }
        }
    }
}

} // namespace
