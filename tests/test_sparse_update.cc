/* What happens to the pool of chosen blocks behind a gradient: sparse_adamw, block_store with keep
 * and restore; and block_score, score_merge and window_add, which choose blocks. Hand values, fast
 * against the twin, equality with adamw, edges, errors; CUDA against the CPU. */
#include <algorithm>

#include "kernel_test.h"
#include "kernels/optim/adamw.h"
#include "kernels/sparse/block_score.h"
#include "kernels/sparse/block_store.h"
#include "kernels/sparse/score_merge.h"
#include "kernels/sparse/sparse_adamw.h"
#include "kernels/sparse/window_add.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Layer {
    int64_t out, in;
    hn_block_shape shape;
    int64_t count; /* chosen blocks */
};

std::vector<int32_t> chosen_ids(const Layer &l, unsigned seed)
{
    const int64_t total = hn_block_total(l.shape, l.out, l.in);
    std::vector<int32_t> id((size_t)total);
    for (int64_t i = 0; i < total; i++) id[(size_t)i] = (int32_t)i;
    std::shuffle(id.begin(), id.end(), std::mt19937(seed));
    id.resize((size_t)l.count);
    std::sort(id.begin(), id.end());
    return id;
}

/* A pool with the blocks of several layers and `unused` blocks and values behind them, on the host;
 * weights beside it. */
struct Choice {
    const std::vector<Layer> layers;
    std::vector<hn_sparse_span> spans;
    std::vector<int32_t> block, sizes;
    int64_t used = 0;
    static constexpr int64_t kUnused = 13;

    explicit Choice(const std::vector<Layer> &l) : layers(l)
    {
        for (size_t i = 0; i < l.size(); i++) {
            const auto id = chosen_ids(l[i], 5u + (unsigned)i);
            std::vector<int32_t> order(id.size());
            std::vector<int32_t> first((size_t)hn_sparse_tiles(l[i].out, l[i].in) + 1);
            EXPECT_HN_OK(hn_sparse_order(l[i].shape, l[i].out, l[i].in, id.data(), l[i].count,
                                         hn_block_tiled(l[i].shape) ? first.data() : nullptr,
                                         order.data()));
            spans.push_back({used, (int32_t)block.size(), (int32_t)l[i].count});
            for (const int32_t o : order) block.push_back(id[(size_t)o]);
            sizes.push_back((int32_t)hn_block_values(l[i].shape));
            used += l[i].count * sizes.back();
        }
        for (int64_t i = 0; i < kUnused; i++) block.push_back(INT32_MAX);
    }
    int64_t blocks() const { return (int64_t)block.size(); }
    int64_t values() const { return used + kUnused; }
};

const std::vector<Layer> kMixed = {{9, 7, {1, 1}, 20},        {140, 136, {4, 4}, 30},
                                   {33, 48, {33, 1}, 5},      {20, 29, {1, 29}, 6},
                                   {128, 64, {16, 16}, 0},    {64, 160, {32, 32}, 7},
                                   {256, 384, {128, 128}, 3}, {300, 140, {1, 1}, 3000}};

std::vector<float> random(int64_t n, unsigned seed) { return normal_f32((size_t)n, seed); }

std::vector<unsigned char> bytes_of(const std::vector<float> &v, hn_dtype t)
{
    std::vector<unsigned char> b(v.size() * hn_dtype_size(t));
    for (size_t i = 0; i < v.size(); i++) hn_set_f32(b.data(), t, (int64_t)i, v[i]);
    return b;
}

/* ---- block_store ---- */

/* Weights [out, in] with rows 3 further apart (8 where aligned), in one array; NaN in the gaps. */
template <template <class> class Array>
struct Weights {
    const Choice &c;
    const hn_dtype dtype;
    const int64_t gap;
    std::vector<std::vector<unsigned char>> first;
    std::vector<std::unique_ptr<Array<unsigned char>>> w;
    Array<hn_sparse_span> spans;
    Array<int32_t> block;
    Array<float> delta;
    Array<unsigned char> frozen;

    /* corner: element 0 of every matrix; that of a NaN comes back with all its bits. */
    Weights(const Choice &choice, hn_dtype t, bool aligned, float corner = 1)
        : c(choice), dtype(t), gap(aligned ? 8 : 3), spans(c.spans), block(c.block),
          delta(random(c.values(), 3)),
          frozen(std::vector<unsigned char>((size_t)c.values() * hn_dtype_size(t), 0xff))
    {
        for (const auto &l : c.layers) {
            auto v = random(l.out * (l.in + gap), (unsigned)l.in);
            v[0] = corner;
            first.push_back(bytes_of(v, t));
            w.push_back(std::make_unique<Array<unsigned char>>(first.back()));
        }
    }
    hn_block_store_args args(size_t i)
    {
        const Layer &l = c.layers[i];
        hn_block_store_args a = {};
        a.w = w[i]->data(), a.span = spans.data() + i, a.block = block.data();
        a.delta = delta.data(), a.frozen = frozen.data();
        a.out = l.out, a.in = l.in, a.ld_w = l.in + gap, a.shape = l.shape;
        a.capacity =
            std::max<int64_t>(1, std::min(2 * l.count, hn_block_total(l.shape, l.out, l.in)));
        a.blocks = c.blocks(), a.values = c.values(), a.dtype = dtype;
        return a;
    }
    std::vector<hn_block_store_args> all()
    {
        std::vector<hn_block_store_args> a;
        for (size_t i = 0; i < c.layers.size(); i++) a.push_back(args(i));
        return a;
    }
};

using Host = Weights<GuardedArray>;

class BlockStore : public ::testing::TestWithParam<hn_dtype> {};

TEST_P(BlockStore, WritesFrozenPlusDeltaIntoChosenBlocksOnly)
{
    const Choice c(kMixed);
    Host h(c, GetParam(), false), fast(c, GetParam(), false);
    for (size_t i = 0; i < kMixed.size(); i++) {
        const Layer &l = kMixed[i];
        const auto a = h.args(i), b = fast.args(i);
        ASSERT_HN_OK(hn_block_keep_cpu(&a));
        ASSERT_HN_OK(hn_block_store_cpu(&a));
        ASSERT_HN_OK(hn_block_keep_cpu(&b));
        on_threads(3, [&] { EXPECT_HN_OK(hn_block_store_fast(&b)); });
        auto want = h.first[i]; /* element by element, from ids alone */
        const auto delta = h.delta.host();
        for (int64_t k = 0; k < l.count * hn_block_values(l.shape); k++) {
            const int64_t size = hn_block_values(l.shape), e = k % size;
            const int64_t id = c.block[(size_t)(c.spans[i].first_block + k / size)];
            const int64_t at = (id / (l.in / l.shape.bc) * l.shape.br + e / l.shape.bc) * a.ld_w +
                               id % (l.in / l.shape.bc) * l.shape.bc + e % l.shape.bc;
            const float before = hn_get_f32(h.first[i].data(), h.dtype, at);
            hn_set_f32(want.data(), h.dtype, at,
                       before + delta[(size_t)(c.spans[i].first_value + k)]);
        }
        EXPECT_TRUE(h.w[i]->host() == want) << i;
        EXPECT_TRUE(fast.w[i]->host() == want) << i;
    }
}

TEST_P(BlockStore, RestoreBringsTheWeightsBackBitForBit)
{
    const Choice c(kMixed);
    Host h(c, GetParam(), true, NAN);
    for (size_t i = 0; i < kMixed.size(); i++) {
        const auto a = h.args(i);
        ASSERT_HN_OK(hn_block_keep_cpu(&a));
        ASSERT_HN_OK(hn_block_store_fast(&a));
        if (kMixed[i].count > 0) {
            EXPECT_FALSE(h.w[i]->host() == h.first[i]);
        }
        ASSERT_HN_OK(hn_block_restore_cpu(&a));
        EXPECT_TRUE(h.w[i]->host() == h.first[i]) << i;
    }
}

TEST_P(BlockStore, RefusesWhatBreaksTheContract)
{
    const Choice c(kMixed);
    Host h(c, GetParam(), false);
    auto a = h.args(0);
    a.delta = nullptr;
    EXPECT_HN_FAIL(hn_block_store_cpu(&a), HN_ERR_ARG, "delta");
    EXPECT_HN_OK(hn_block_keep_cpu(&a));
    a = h.args(0), a.capacity = 64;
    EXPECT_HN_FAIL(hn_block_store_fast(&a), HN_ERR_SHAPE, "capacity of 64");
    a = h.args(0), a.dtype = HN_F16;
    EXPECT_HN_FAIL(hn_block_store_cpu(&a), HN_ERR_UNSUPPORTED, "w");
    a = h.args(0), a.shape = {2, 2};
    EXPECT_HN_FAIL(hn_block_store_cpu(&a), HN_ERR_SHAPE, "block_store");
    a = h.args(0), a.capacity = 19;
    EXPECT_HN_FAIL(hn_block_restore_cpu(&a), HN_ERR_ARG, "span of 20 blocks");
    EXPECT_TRUE(h.w[0]->host() == h.first[0]);
}

INSTANTIATE_TEST_SUITE_P(Types, BlockStore, ::testing::Values(HN_F32, HN_BF16),
                         [](const auto &i) { return std::string(hn_dtype_name(i.param)); });

/* ---- sparse_adamw ---- */

const float kBeta1 = 0.9f, kBeta2 = 0.999f;

hn_step_block step_block(uint64_t step)
{
    hn_step_block s = {};
    s.step = step, s.lr = 0.01f, s.grad_scale = 0.125f;
    s.bias_correction1 = (float)(1.0 - std::pow((double)kBeta1, (double)step));
    s.bias_correction2 = (float)(1.0 - std::pow((double)kBeta2, (double)step));
    return s;
}

std::vector<float> corrections()
{
    std::vector<float> t(2 * HN_SPARSE_AGES);
    hn_sparse_corrections(kBeta1, kBeta2, t.data());
    return t;
}

std::vector<float> positive(int64_t n, unsigned seed)
{
    auto v = random(n, seed);
    for (auto &e : v) e = 0.01f + std::fabs(e);
    return v;
}

std::vector<uint16_t> mixed_ages(int64_t n)
{
    std::vector<uint16_t> age((size_t)n);
    for (size_t i = 0; i < age.size(); i++)
        age[i] = (uint16_t)(i % 11 == 10 ? 65534 + i % 2 : i / 4 % 3 * 50);
    return age;
}

template <template <class> class Array>
struct Pool {
    const Choice &c;
    const bool uniform;
    std::vector<uint16_t> first_age;
    Array<float> delta, grad, m, v, table;
    Array<uint16_t> age;
    Array<hn_sparse_span> spans;
    Array<int32_t> sizes;
    Array<hn_step_block> step;

    Pool(const Choice &choice, const hn_step_block &s, const std::vector<uint16_t> &ages,
         bool same_size)
        : c(choice), uniform(same_size), first_age(ages), delta(random(c.values(), 1)),
          grad(random(c.values(), 2)), m(random(c.values(), 3)), v(positive(c.values(), 4)),
          table(corrections()), age(ages), spans(c.spans), sizes(c.sizes),
          step(std::vector<hn_step_block>{s})
    {
    }
    hn_sparse_adamw_args args()
    {
        hn_sparse_adamw_args a = {};
        a.delta = delta.data(), a.grad = grad.data(), a.m = m.data(), a.v = v.data();
        a.age = age.data(), a.spans = spans.data(), a.sizes = uniform ? nullptr : sizes.data();
        a.corrections = table.data(), a.step = step.data();
        a.values = c.values(), a.blocks = c.blocks(), a.matrices = (int64_t)c.spans.size();
        a.block_values = uniform ? c.sizes[0] : 0;
        a.beta1 = kBeta1, a.beta2 = kBeta2, a.eps = 1e-8f, a.weight_decay = 0.1f;
        a.lr_scale = 2.0f;
        return a;
    }
};

using HostPool = Pool<GuardedArray>;

template <class A, class B>
void expect_same_pools(A &a, B &b)
{
    EXPECT_TRUE(same_bits(a.delta.host(), b.delta.host()));
    EXPECT_TRUE(same_bits(a.grad.host(), b.grad.host()));
    EXPECT_TRUE(same_bits(a.m.host(), b.m.host()));
    EXPECT_TRUE(same_bits(a.v.host(), b.v.host()));
    EXPECT_TRUE(a.age.host() == b.age.host());
}

/* The same range by adamw, with the step block's bias corrections. */
template <template <class> class Array>
hn_adamw_args plain_adamw(Pool<Array> &p)
{
    const auto s = p.args();
    hn_adamw_args a = {};
    a.p = s.delta, a.grad = s.grad, a.m = s.m, a.v = s.v, a.step = s.step;
    a.n = a.n_zero = p.c.used;
    a.beta1 = s.beta1, a.beta2 = s.beta2, a.eps = s.eps, a.weight_decay = s.weight_decay;
    a.lr_scale = s.lr_scale;
    return a;
}

struct PoolCase {
    const char *name;
    std::vector<Layer> layers;
    bool uniform;
};

const PoolCase kPools[] = {
    {"one", {{1, 1, {1, 1}, 1}}, true},
    {"whole", {{150, 140, {1, 1}, 21000}}, true},
    {"elements", {{60, 70, {1, 1}, 1001}, {8, 8, {1, 1}, 0}, {90, 300, {1, 1}, 8003}}, true},
    {"small", {{140, 136, {4, 4}, 31}, {64, 64, {4, 4}, 200}}, true},
    {"large", {{256, 384, {128, 128}, 3}, {128, 128, {128, 128}, 1}}, true},
    {"mixed", kMixed, false},
    {"rows", {{40, 29, {1, 29}, 6}, {40, 31, {1, 31}, 0}, {9, 1003, {1, 1003}, 7}}, false},
};

class SparseAdamW : public ::testing::TestWithParam<PoolCase> {};

TEST_P(SparseAdamW, FastMatchesTwinAndLeavesTheUnusedAlone)
{
    const Choice c(GetParam().layers);
    HostPool twin(c, step_block(7), mixed_ages(c.blocks()), GetParam().uniform);
    HostPool fast(c, step_block(7), mixed_ages(c.blocks()), GetParam().uniform);
    HostPool three(c, step_block(7), mixed_ages(c.blocks()), GetParam().uniform);
    const auto before = twin.delta.host();
    const auto a = twin.args(), b = fast.args(), d = three.args();
    ASSERT_HN_OK(hn_sparse_adamw_cpu(&a));
    on_threads(1, [&] { EXPECT_HN_OK(hn_sparse_adamw_fast(&b)); });
    on_threads(3, [&] { EXPECT_HN_OK(hn_sparse_adamw_fast(&d)); });
    EXPECT_LT(rel_l2(fast.delta.host(), twin.delta.host()), 3e-7); /* fp32, value by value */
    EXPECT_LT(rel_l2(fast.m.host(), twin.m.host()), 3e-7);
    EXPECT_LT(rel_l2(fast.v.host(), twin.v.host()), 3e-7);
    EXPECT_TRUE(fast.age.host() == twin.age.host());
    expect_same_pools(fast, three);
    const auto age = fast.age.host();
    const auto delta = fast.delta.host(), grad = fast.grad.host(), start = random(c.values(), 2);
    for (int64_t b_ = 0; b_ < c.blocks(); b_++) {
        const uint16_t was = fast.first_age[(size_t)b_];
        const bool used = b_ < c.blocks() - Choice::kUnused;
        ASSERT_EQ(age[(size_t)b_], used && was < 65535 ? was + 1 : was) << b_;
    }
    for (int64_t i = 0; i < c.values(); i++) {
        ASSERT_EQ(grad[(size_t)i], i < c.used ? 0.0f : start[(size_t)i]);
        if (i >= c.used) {
            ASSERT_EQ(delta[(size_t)i], before[(size_t)i]);
        }
    }
}

/* Age step - 1 everywhere: the arithmetic of adamw, with its bias corrections. */
TEST_P(SparseAdamW, EqualAgesGiveTheBitsOfAdamw)
{
    const Choice c(GetParam().layers);
    for (const uint64_t step : {(uint64_t)1, (uint64_t)250}) {
        const std::vector<uint16_t> age((size_t)c.blocks(), (uint16_t)(step - 1));
        HostPool sparse(c, step_block(step), age, GetParam().uniform);
        HostPool dense(c, step_block(step), age, GetParam().uniform);
        const auto a = sparse.args();
        const auto b = plain_adamw(dense);
        ASSERT_HN_OK(hn_sparse_adamw_fast(&a));
        ASSERT_HN_OK(hn_adamw_fast(&b));
        EXPECT_TRUE(same_bits(sparse.delta.host(), dense.delta.host()));
        EXPECT_TRUE(same_bits(sparse.m.host(), dense.m.host()));
        EXPECT_TRUE(same_bits(sparse.v.host(), dense.v.host()));
        EXPECT_TRUE(same_bits(sparse.grad.host(), dense.grad.host()));
    }
}

TEST_P(SparseAdamW, WithoutAnUpdateOnlyTheGradientChanges)
{
    const Choice c(GetParam().layers);
    for (int frozen = 0; frozen < 2; frozen++) {
        auto s = step_block(3);
        if (frozen)
            s.frozen = 1;
        else
            s.grad_scale = 0;
        HostPool p(c, s, mixed_ages(c.blocks()), GetParam().uniform);
        const auto a = p.args();
        ASSERT_HN_OK(frozen ? hn_sparse_adamw_cpu(&a) : hn_sparse_adamw_fast(&a));
        EXPECT_TRUE(same_bits(p.delta.host(), random(c.values(), 1)));
        EXPECT_TRUE(same_bits(p.v.host(), positive(c.values(), 4)));
        EXPECT_TRUE(p.age.host() == p.first_age);
        EXPECT_EQ(p.grad.host()[0], 0.0f);
        EXPECT_EQ(p.grad.host()[(size_t)c.used - 1], 0.0f);
    }
}

INSTANTIATE_TEST_SUITE_P(Pools, SparseAdamW, ::testing::ValuesIn(kPools),
                         [](const auto &i) { return std::string(i.param.name); });

TEST(SparseAdamWTwin, MatchesHandComputedValues)
{
    /* Two blocks of one value, without decay: the first update of a block moves by lr, whatever
     * the gradient's size; a block of age 1 has the corrections of its second update. */
    const hn_sparse_span span = {0, 0, 2};
    hn_step_block s = step_block(9);
    s.lr = 0.5f, s.grad_scale = 1;
    float delta[] = {1, 1}, grad[] = {4, 4}, m[] = {0, 0.4f}, v[] = {0, 0.016f};
    uint16_t age[] = {0, 1};
    const auto table = corrections();
    hn_sparse_adamw_args a = {};
    a.delta = delta, a.grad = grad, a.m = m, a.v = v, a.age = age, a.spans = &span;
    a.corrections = table.data(), a.step = &s, a.values = a.blocks = 2, a.matrices = 1;
    a.block_values = 1, a.beta1 = kBeta1, a.beta2 = kBeta2, a.eps = 1e-8f;
    ASSERT_HN_OK(hn_sparse_adamw_cpu(&a));
    EXPECT_NEAR(delta[0], 0.5, 1e-6);
    EXPECT_NEAR(m[0], 0.4, 1e-6);
    EXPECT_NEAR(v[0], 0.016, 1e-6);
    /* m = 0.76, v = 0.031984; m / 0.19 = 4, v / 0.001999 = 16 */
    EXPECT_NEAR(delta[1], 0.5, 1e-5);
    EXPECT_EQ(age[0], 1);
    EXPECT_EQ(age[1], 2);
}

TEST(SparseAdamWTwin, RefusesWhatBreaksTheContract)
{
    const Choice c(kPools[2].layers);
    HostPool p(c, step_block(1), mixed_ages(c.blocks()), true);
    auto a = p.args();
    a.block_values = 0;
    EXPECT_HN_FAIL(hn_sparse_adamw_fast(&a), HN_ERR_ARG, "either sizes, or block_values");
    a = p.args(), a.sizes = p.sizes.data();
    EXPECT_HN_FAIL(hn_sparse_adamw_fast(&a), HN_ERR_ARG, "either sizes, or block_values");
    a = p.args(), a.beta2 = 1;
    EXPECT_HN_FAIL(hn_sparse_adamw_cpu(&a), HN_ERR_ARG, "betas");
    a = p.args(), a.values = 9000;
    EXPECT_HN_FAIL(hn_sparse_adamw_cpu(&a), HN_ERR_ARG, "span 2 ends at value 9004");
    a = p.args(), a.corrections = nullptr;
    EXPECT_HN_FAIL(hn_sparse_adamw_cpu(&a), HN_ERR_ARG, "corrections");
    p.spans.data()[2].first_value++;
    a = p.args();
    EXPECT_HN_FAIL(hn_sparse_adamw_fast(&a), HN_ERR_ARG, "value 1001 and block 1001 come next");
    EXPECT_TRUE(same_bits(p.delta.host(), random(c.values(), 1)));
}

/* ---- block_score ---- */

struct ScoreCase {
    int64_t out, in;
    hn_block_shape shape;
};

const ScoreCase kScores[] = {{1, 1, {1, 1}},        {37, 72, {1, 1}},       {8, 12, {4, 4}},
                             {148, 260, {4, 4}},    {80, 272, {16, 16}},    {96, 64, {32, 32}},
                             {192, 320, {64, 64}},  {128, 384, {128, 128}}, {512, 256, {256, 256}},
                             {13, 1029, {1, 1029}}, {270, 45, {270, 1}},    {7, 3, {1, 3}}};

template <template <class> class Array>
struct Scores {
    const ScoreCase s;
    const int64_t ld, blocks;
    Array<float> dw, count, f;

    Scores(const ScoreCase &c, int64_t gap, float rows)
        : s(c), ld(c.in + gap), blocks(hn_block_total(c.shape, c.out, c.in)),
          dw(random(c.out * ld, 8)), count(std::vector<float>{rows}), f(random(blocks, 9))
    {
    }
    hn_block_score_args args(hn_score_kind kind, bool accumulate)
    {
        hn_block_score_args a = {};
        a.dw = dw.data(), a.count = count.data(), a.f = f.data(), a.out = s.out, a.in = s.in;
        a.ld_dw = ld, a.shape = s.shape, a.kind = kind, a.accumulate = accumulate;
        return a;
    }
};

TEST(BlockScore, FastMatchesTwin)
{
    for (const auto &s : kScores)
        for (int mode = 0; mode < 4; mode++) {
            SCOPED_TRACE(case_name("", s.out, "x", s.in, " ", s.shape.br, " ", mode));
            Scores<GuardedArray> twin(s, 3, 4), fast(s, 3, 4), one(s, 3, 4);
            const auto kind = mode & 1 ? HN_SCORE_ABS : HN_SCORE_SQUARE;
            const auto a = twin.args(kind, mode & 2), b = fast.args(kind, mode & 2),
                       c = one.args(kind, mode & 2);
            ASSERT_HN_OK(hn_block_score_cpu(&a));
            on_threads(3, [&] { EXPECT_HN_OK(hn_block_score_fast(&b)); });
            on_threads(1, [&] { EXPECT_HN_OK(hn_block_score_fast(&c)); });
            EXPECT_LT(rel_l2(fast.f.host(), twin.f.host()), 1e-7); /* sums in double */
            EXPECT_TRUE(same_bits(fast.f.host(), one.f.host()));
        }
}

TEST(BlockScoreTwin, MatchesHandComputedValues)
{
    /* A row of blocks 4 x 4: twos and, in the second one, a single 8; a batch of two rows. */
    float dw[4 * 8], f[] = {10, 20};
    const float count = 2, none = 0;
    for (int i = 0; i < 32; i++) dw[i] = i % 8 < 4 ? -2.0f : 0.0f;
    dw[3 * 8 + 7] = 8;
    hn_block_score_args a = {};
    a.dw = dw, a.count = &count, a.f = f, a.out = 4, a.in = a.ld_dw = 8, a.shape = {4, 4};
    a.accumulate = true;
    ASSERT_HN_OK(hn_block_score_cpu(&a));
    EXPECT_EQ(f[0], 11.0f);
    EXPECT_EQ(f[1], 21.0f);
    a.kind = HN_SCORE_ABS, a.accumulate = false;
    ASSERT_HN_OK(hn_block_score_cpu(&a));
    EXPECT_EQ(f[0], 1.0f);
    EXPECT_EQ(f[1], 0.25f);
    a.count = &none;
    ASSERT_HN_OK(hn_block_score_fast(&a));
    EXPECT_EQ(f[0], 0.0f);
    a.kind = HN_SCORE_COUNT;
    EXPECT_HN_FAIL(hn_block_score_fast(&a), HN_ERR_ARG, "kind 2");
}

/* ---- score_merge ---- */

TEST(ScoreMergeTwin, MatchesHandComputedValues)
{
    float f[] = {1, 5, 2, 0, 3}, acc[] = {4, 1};
    int32_t ids[] = {0, 3};
    hn_score_merge_args a = {};
    a.f = f, a.ids = ids, a.acc = acc, a.blocks = 5, a.cap = 2;
    ASSERT_HN_OK(hn_score_merge_cpu(&a)); /* 5, 5, 2, 1, 3 */
    EXPECT_EQ(ids[0], 0);
    EXPECT_EQ(ids[1], 1);
    EXPECT_EQ(acc[0], 5.0f);
    EXPECT_EQ(acc[1], 5.0f);
    float next[] = {0, 0, 9, 0, 0};
    a.f = next;
    ASSERT_HN_OK(hn_score_merge_fast(&a)); /* 5, 5, 9: the second five makes room */
    EXPECT_EQ(ids[0], 0);
    EXPECT_EQ(ids[1], 2);
    EXPECT_EQ(acc[1], 9.0f);
    ids[0] = 5;
    EXPECT_HN_FAIL(hn_score_merge_fast(&a), HN_ERR_ARG, "candidate 0 is block 5 of 5");
    a.cap = 6;
    EXPECT_HN_FAIL(hn_score_merge_fast(&a), HN_ERR_SHAPE, "6 candidates of 5");
}

/* As many candidates as blocks, none at first: exact sums over all batches. */
TEST(ScoreMerge, KeepsEverythingWhereThereIsRoom)
{
    const size_t n = 700;
    std::vector<int32_t> ids(n, -1);
    std::vector<float> acc(n, 0.0f), want(n, 0.0f);
    for (unsigned batch = 0; batch < 4; batch++) {
        auto f = normal_f32(n, batch);
        for (size_t i = 0; i < n; i++) want[i] = f[i] + want[i];
        hn_score_merge_args a = {};
        a.f = f.data(), a.ids = ids.data(), a.acc = acc.data();
        a.blocks = a.cap = (int64_t)n;
        ASSERT_HN_OK(batch % 2 ? hn_score_merge_cpu(&a) : hn_score_merge_fast(&a));
    }
    EXPECT_TRUE(same_bits(acc, want));
    EXPECT_EQ(ids[n - 1], (int32_t)n - 1);
}

/* ---- window_add ---- */

TEST(WindowAddTwin, MatchesHandComputedValues)
{
    for (int fast = 0; fast < 2; fast++) {
        float g[] = {4, -8}, sum[] = {1, 1}, square[] = {0, 10};
        hn_step_block step = {};
        step.grad_scale = 0.5f;
        hn_window_add_args a = {};
        a.g = g, a.step = &step, a.sum = sum, a.square = square, a.n = 2, a.zero = true;
        ASSERT_HN_OK(fast ? hn_window_add_fast(&a) : hn_window_add_cpu(&a));
        EXPECT_EQ(sum[0], 3.0f);
        EXPECT_EQ(sum[1], -3.0f);
        EXPECT_EQ(square[0], 4.0f);
        EXPECT_EQ(square[1], 26.0f);
        EXPECT_EQ(g[0], 0.0f);
        g[1] = 6, a.zero = false, a.square = nullptr, step.grad_scale = 1;
        ASSERT_HN_OK(fast ? hn_window_add_fast(&a) : hn_window_add_cpu(&a));
        EXPECT_EQ(sum[1], 3.0f);
        EXPECT_EQ(g[1], 6.0f);
        g[0] = NAN, step.grad_scale = 0, a.zero = true; /* a step that updates nothing */
        ASSERT_HN_OK(fast ? hn_window_add_fast(&a) : hn_window_add_cpu(&a));
        EXPECT_EQ(sum[0], 3.0f);
        EXPECT_EQ(sum[1], 3.0f);
        EXPECT_EQ(g[0], 0.0f);
        a.n = 0;
        EXPECT_HN_FAIL(hn_window_add_fast(&a), HN_ERR_SHAPE, "0 elements");
        a.step = nullptr;
        EXPECT_HN_FAIL(hn_window_add_fast(&a), HN_ERR_ARG, "step");
    }
}

#ifdef HONE_CUDA
/* ---- CUDA ---- */

/* The same bits, or both NaN: which NaN a sum gives is the machine's choice. */
::testing::AssertionResult same_weights(const std::vector<unsigned char> &a,
                                        const std::vector<unsigned char> &b, hn_dtype t)
{
    const size_t size = hn_dtype_size(t);
    for (size_t i = 0; i * size < a.size(); i++) {
        if (std::memcmp(&a[i * size], &b[i * size], size) == 0) continue;
        const float u = hn_get_f32(a.data(), t, (int64_t)i),
                    v = hn_get_f32(b.data(), t, (int64_t)i);
        if (!std::isnan(u) || !std::isnan(v))
            return ::testing::AssertionFailure() << u << " and " << v << " at " << i;
    }
    return ::testing::AssertionSuccess();
}

TEST_P(BlockStore, CudaMatchesCpuInOneLaunchForAll)
{
    HN_NEED_CUDA();
    const Choice c(kMixed);
    for (int mode = 0; mode < 4; mode++) {
        const float corner = mode & 2 ? NAN : 1.0f;
        Host host(c, GetParam(), mode & 1, corner);
        Weights<DeviceArray> gpu(c, GetParam(), mode & 1, corner);
        const auto a = gpu.all();
        for (size_t i = 0; i < a.size(); i++) {
            const auto h = host.args(i);
            ASSERT_HN_OK(hn_block_keep_cpu(&h));
            ASSERT_HN_OK(hn_block_store_cpu(&h));
        }
        ASSERT_HN_OK(hn_block_keep_cuda(a.data(), (int64_t)a.size(), nullptr));
        EXPECT_TRUE(gpu.frozen.host() == host.frozen.host());
        run_captured(
            [&](hn_stream s) { EXPECT_HN_OK(hn_block_store_cuda(a.data(), (int64_t)a.size(), s)); },
            2);
        for (size_t i = 0; i < a.size(); i++)
            EXPECT_TRUE(same_weights(gpu.w[i]->host(), host.w[i]->host(), GetParam())) << i;
        ASSERT_HN_OK(hn_block_restore_cuda(a.data(), (int64_t)a.size(), nullptr));
        for (size_t i = 0; i < a.size(); i++) EXPECT_TRUE(gpu.w[i]->host() == gpu.first[i]) << i;
    }
}

/* Spans that begin on multiples of 8 values take the vector path. */
TEST_P(BlockStore, CudaMatchesCpuOnAlignedBlocks)
{
    HN_NEED_CUDA();
    const Choice c({{64, 160, {16, 16}, 9}, {16, 48, {1, 48}, 5}, {256, 384, {128, 128}, 4}});
    Host host(c, GetParam(), true);
    Weights<DeviceArray> gpu(c, GetParam(), true);
    for (size_t i = 0; i < 3; i++) {
        const auto h = host.args(i), d = gpu.args(i);
        ASSERT_HN_OK(hn_block_keep_cpu(&h));
        ASSERT_HN_OK(hn_block_store_cpu(&h));
        ASSERT_HN_OK(hn_block_keep_cuda(&d, 1, nullptr));
        ASSERT_HN_OK(hn_block_store_cuda(&d, 1, nullptr));
        EXPECT_TRUE(same_weights(gpu.w[i]->host(), host.w[i]->host(), GetParam())) << i;
    }
}

/* More matrices than a launch takes. */
TEST(BlockStoreCuda, ManyMatrices)
{
    HN_NEED_CUDA();
    const Choice c(std::vector<Layer>(2 * HN_BLOCK_STORE_MANY + 3, {12, 20, {1, 1}, 9}));
    Host host(c, HN_BF16, false);
    Weights<DeviceArray> gpu(c, HN_BF16, false);
    const auto a = gpu.all();
    ASSERT_HN_OK(hn_block_keep_cuda(a.data(), (int64_t)a.size(), nullptr));
    ASSERT_HN_OK(hn_block_store_cuda(a.data(), (int64_t)a.size(), nullptr));
    for (size_t i = 0; i < a.size(); i++) {
        const auto h = host.args(i);
        ASSERT_HN_OK(hn_block_keep_cpu(&h));
        ASSERT_HN_OK(hn_block_store_cpu(&h));
        ASSERT_TRUE(same_weights(gpu.w[i]->host(), host.w[i]->host(), HN_BF16)) << i;
    }
}

/* More chunks of values than the launch has blocks. */
TEST(BlockStoreCuda, OneLargeMatrix)
{
    HN_NEED_CUDA();
    const Choice c({{1024, 1100, {1, 1}, 700000}});
    Host host(c, HN_BF16, false);
    Weights<DeviceArray> gpu(c, HN_BF16, false);
    const auto h = host.args(0), d = gpu.args(0);
    ASSERT_HN_OK(hn_block_keep_cpu(&h));
    ASSERT_HN_OK(hn_block_store_cpu(&h));
    ASSERT_HN_OK(hn_block_keep_cuda(&d, 1, nullptr));
    ASSERT_HN_OK(hn_block_store_cuda(&d, 1, nullptr));
    EXPECT_TRUE(same_weights(gpu.w[0]->host(), host.w[0]->host(), HN_BF16));
}

TEST_P(SparseAdamW, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    const Choice c(GetParam().layers);
    HostPool host(c, step_block(7), mixed_ages(c.blocks()), GetParam().uniform);
    Pool<DeviceArray> gpu(c, step_block(7), mixed_ages(c.blocks()), GetParam().uniform);
    const auto h = host.args(), d = gpu.args();
    ASSERT_HN_OK(hn_sparse_adamw_cpu(&h));
    run_captured([&](hn_stream s) { EXPECT_HN_OK(hn_sparse_adamw_cuda(&d, s)); });
    EXPECT_LT(rel_l2(gpu.delta.host(), host.delta.host()), 3e-7); /* fp32, value by value */
    EXPECT_LT(rel_l2(gpu.m.host(), host.m.host()), 3e-7);
    EXPECT_LT(rel_l2(gpu.v.host(), host.v.host()), 3e-7);
    EXPECT_TRUE(same_bits(gpu.grad.host(), host.grad.host()));
    EXPECT_TRUE(gpu.age.host() == host.age.host());
}

/* Also at a place that is not aligned for vectors. */
TEST_P(SparseAdamW, CudaEqualAgesGiveTheBitsOfAdamw)
{
    HN_NEED_CUDA();
    const Choice c(GetParam().layers);
    const std::vector<uint16_t> age((size_t)c.blocks(), 249);
    Pool<DeviceArray> sparse(c, step_block(250), age, GetParam().uniform);
    Pool<DeviceArray> scalar(c, step_block(250), age, GetParam().uniform);
    Pool<DeviceArray> dense(c, step_block(250), age, GetParam().uniform);
    DeviceArray<uint16_t> moved((size_t)c.blocks() + 1);
    std::vector<uint16_t> shifted(1, 0);
    shifted.insert(shifted.end(), age.begin(), age.end());
    moved.assign(shifted);
    auto a = sparse.args(), b = scalar.args();
    b.age = moved.data() + 1;
    const auto d = plain_adamw(dense);
    ASSERT_HN_OK(hn_sparse_adamw_cuda(&a, nullptr));
    ASSERT_HN_OK(hn_sparse_adamw_cuda(&b, nullptr));
    ASSERT_HN_OK(hn_adamw_cuda(&d, nullptr));
    for (auto *p : {&sparse, &scalar}) {
        EXPECT_TRUE(same_bits(p->delta.host(), dense.delta.host()));
        EXPECT_TRUE(same_bits(p->m.host(), dense.m.host()));
        EXPECT_TRUE(same_bits(p->v.host(), dense.v.host()));
        EXPECT_TRUE(same_bits(p->grad.host(), dense.grad.host()));
    }
    EXPECT_EQ(moved.host()[1], 250);
    EXPECT_EQ(moved.host()[(size_t)c.blocks()], 249); /* not used */
}

TEST_P(SparseAdamW, CudaWithoutAnUpdateOnlyTheGradientChanges)
{
    HN_NEED_CUDA();
    const Choice c(GetParam().layers);
    auto s = step_block(3);
    s.frozen = 1;
    Pool<DeviceArray> p(c, s, mixed_ages(c.blocks()), GetParam().uniform);
    const auto a = p.args();
    ASSERT_HN_OK(hn_sparse_adamw_cuda(&a, nullptr));
    EXPECT_TRUE(same_bits(p.delta.host(), random(c.values(), 1)));
    EXPECT_TRUE(p.age.host() == p.first_age);
    EXPECT_EQ(p.grad.host()[(size_t)c.used - 1], 0.0f);
    EXPECT_EQ(p.grad.host()[(size_t)c.used], random(c.values(), 2)[(size_t)c.used]);
}

TEST(BlockScoreCuda, MatchesCpuAndRepeats)
{
    HN_NEED_CUDA();
    for (const auto &s : kScores)
        for (int mode = 0; mode < 8; mode++) {
            SCOPED_TRACE(case_name("", s.out, "x", s.in, " ", s.shape.br, " ", mode));
            const int64_t gap = mode & 4 ? 3 : (8 - s.in % 8) % 8;
            const auto kind = mode & 1 ? HN_SCORE_ABS : HN_SCORE_SQUARE;
            Scores<GuardedArray> host(s, gap, 4);
            Scores<DeviceArray> gpu(s, gap, 4), again(s, gap, 4);
            const auto a = host.args(kind, mode & 2), b = gpu.args(kind, mode & 2),
                       c = again.args(kind, mode & 2);
            ASSERT_HN_OK(hn_block_score_cpu(&a));
            ASSERT_HN_OK(hn_block_score_cuda(&b, nullptr));
            run_captured([&](hn_stream st) { EXPECT_HN_OK(hn_block_score_cuda(&c, st)); });
            EXPECT_LT(rel_l2(gpu.f.host(), host.f.host()), 2e-6); /* fp32 sums */
            EXPECT_TRUE(same_bits(gpu.f.host(), again.f.host()));
        }
}

TEST(ScoreMergeCuda, MatchesCpu)
{
    HN_NEED_CUDA();
    for (const size_t cap : {(size_t)1, (size_t)500, (size_t)60000}) {
        const size_t n = 60000;
        std::vector<int32_t> ids(cap, -1);
        std::vector<float> acc(cap, 0.0f);
        DeviceArray<int32_t> d_ids(ids);
        DeviceArray<float> d_acc(acc), d_f(n);
        for (unsigned batch = 0; batch < 3; batch++) {
            auto f = normal_f32(n, batch);
            d_f.assign(f);
            hn_score_merge_args a = {};
            a.f = f.data(), a.ids = ids.data(), a.acc = acc.data();
            a.blocks = (int64_t)n, a.cap = (int64_t)cap;
            ASSERT_HN_OK(hn_score_merge_cpu(&a));
            a.f = d_f.data(), a.ids = d_ids.data(), a.acc = d_acc.data();
            DeviceArray<unsigned char> scratch(hn_score_merge_cuda_scratch(&a));
            run_captured(
                [&](hn_stream s) { EXPECT_HN_OK(hn_score_merge_cuda(&a, scratch.data(), s)); });
            EXPECT_TRUE(d_ids.host() == ids);
            EXPECT_TRUE(same_bits(d_acc.host(), acc));
            EXPECT_TRUE(same_bits(d_f.host(), f));
        }
    }
}

TEST(WindowAddCuda, MatchesCpu)
{
    HN_NEED_CUDA();
    for (const size_t skip : {(size_t)0, (size_t)1}) {
        const size_t n = 20011;
        auto g = normal_f32(n, 1), sum = normal_f32(n, 2), square = normal_f32(n, 3);
        std::vector<hn_step_block> step(1);
        step[0].grad_scale = 0.3f;
        DeviceArray<float> d_g(n), d_sum(sum), d_square(square);
        DeviceArray<hn_step_block> d_step(step);
        d_g.assign(g);
        hn_window_add_args a = {}, b = {};
        a.g = g.data() + skip, a.sum = sum.data() + skip, a.square = square.data() + skip;
        a.step = step.data(), a.n = (int64_t)(n - skip), a.zero = true;
        b = a;
        b.g = d_g.data() + skip, b.sum = d_sum.data() + skip, b.square = d_square.data() + skip;
        b.step = d_step.data();
        ASSERT_HN_OK(hn_window_add_cpu(&a));
        run_captured([&](hn_stream s) { EXPECT_HN_OK(hn_window_add_cuda(&b, s)); });
        EXPECT_LT(rel_l2(d_sum.host(), sum), 2e-7);
        EXPECT_LT(rel_l2(d_square.host(), square), 2e-7);
        EXPECT_TRUE(same_bits(d_g.host(), g));
    }
}
#endif

} // namespace
