/* runtime/train/sparse_score.h: scores of blocks by hand, against numpy-like sums, and LIFT. */
#include "runtime/train/sparse_score.h"

#include <omp.h>

#include <algorithm>
#include <iterator>
#include <numeric>

#include "hn_test.h"

namespace {

using Floats = std::vector<float>;
using Ids = std::vector<int32_t>;

hn_select_matrix matrix(const char *name, int64_t out, int64_t in, int64_t br, int64_t bc)
{
    return {name, out, in, {br, bc}, 1, 0, 0, 0, 0};
}

TEST(SparseScore, OfValuesBlockAfterBlock)
{
    const Floats v = {3, -4, 0, 1, -1, 2}, u = {1, 2, 3, 4, 5, -6};
    Floats f(2);
    hn_score_mean_abs(v.data(), 2, 3, f.data());
    EXPECT_EQ(f, (Floats{(float)(7.0 / 3), (float)(4.0 / 3)}));
    hn_score_norm(v.data(), 2, 3, f.data());
    EXPECT_EQ(f, (Floats{5, (float)std::sqrt(6.0)}));
    hn_score_product(v.data(), u.data(), 2, 3, f.data());
    EXPECT_EQ(f, (Floats{(float)(11.0 / 3), 7}));
    Floats s = {2, 3};
    hn_score_prior(v.data(), 2, 3, 2, s.data()); /* 3 / 3, -4 / 3 */
    EXPECT_NEAR(s[0], 2 * 1.001 * 1.001, 1e-6);
    hn_score_prior(v.data(), 2, 3, 0, s.data()); /* gamma 0: nothing changes */
    EXPECT_NEAR(s[0], 2 * 1.001 * 1.001, 1e-6);
}

TEST(SparseScore, OfWholeMatrices)
{
    Floats w(64 * 32), g = normal_f32(64 * 32, 2), f;
    std::iota(w.begin(), w.end(), -1000.0f);
    for (const auto &shape : {hn_block_shape{1, 1}, {4, 4}, {16, 16}, {1, 32}, {64, 1}}) {
        const auto m = matrix("w", 64, 32, shape.br, shape.bc);
        const int64_t across = 32 / shape.bc, n = 64 / shape.br * across;
        f.assign((size_t)n, NAN);
        ASSERT_HN_OK(hn_score_magnitude(&m, w.data(), f.data()));
        Floats snip((size_t)n, NAN);
        ASSERT_HN_OK(hn_score_snip(&m, w.data(), g.data(), snip.data()));
        for (int64_t b = 0; b < n; b++) {
            double a = 0, p = 0;
            for (int64_t i = 0; i < 64 * 32; i++)
                if (i / 32 / shape.br == b / across && i % 32 / shape.bc == b % across) {
                    a += std::fabs((double)w[(size_t)i]);
                    p += std::fabs((double)w[(size_t)i] * (double)g[(size_t)i]);
                }
            EXPECT_EQ(f[(size_t)b], (float)(a / (double)(shape.br * shape.bc)));
            EXPECT_EQ(snip[(size_t)b], (float)(p / (double)(shape.br * shape.bc)));
        }
    }
    const auto bad = matrix("w", 64, 32, 5, 5);
    EXPECT_HN_FAIL(hn_score_magnitude(&bad, w.data(), f.data()), HN_ERR_SHAPE, "w");
}

TEST(SparseScore, RandomDependsOnSeedNameAndBlockAlone)
{
    const auto a = matrix("a", 64, 32, 1, 1), b = matrix("b", 64, 32, 1, 1),
               small = matrix("a", 32, 32, 1, 1);
    Floats f(2048), again(2048), other(2048), fewer(1024);
    ASSERT_HN_OK(hn_score_random(&a, 7, f.data()));
    omp_set_num_threads(1);
    ASSERT_HN_OK(hn_score_random(&a, 7, again.data()));
    omp_set_num_threads(2);
    EXPECT_EQ(f, again);
    ASSERT_HN_OK(hn_score_random(&b, 7, other.data()));
    EXPECT_NE(f, other);
    ASSERT_HN_OK(hn_score_random(&a, 8, other.data()));
    EXPECT_NE(f, other);
    ASSERT_HN_OK(hn_score_random(&small, 7, fewer.data()));
    EXPECT_TRUE(std::equal(fewer.begin(), fewer.end(), f.begin()));
    EXPECT_NEAR(std::accumulate(f.begin(), f.end(), 0.0) / 2048, 0.5, 0.03);
}

TEST(SparseScore, DiagonalOfEqualParts)
{
    const auto m = matrix("w", 64, 128, 16, 16); /* 4 x 8 blocks */
    Floats f(32, NAN);
    ASSERT_HN_OK(hn_score_diagonal(&m, 4, f.data()));
    for (int b = 0; b < 32; b++) EXPECT_EQ(f[(size_t)b], b / 8 == b % 8 / 2 ? 1 : 0);
    ASSERT_HN_OK(hn_score_diagonal(&m, 2, f.data()));
    EXPECT_EQ(std::accumulate(f.begin(), f.end(), 0.0f), 16);
    EXPECT_HN_FAIL(hn_score_diagonal(&m, 8, f.data()), HN_ERR_SHAPE, "no diagonal of 8");
    EXPECT_HN_FAIL(hn_score_diagonal(&m, 0, f.data()), HN_ERR_SHAPE, "of 0");
}

TEST(SparseScore, TopIsAscendingAndTiesGoToTheLowerId)
{
    const Floats f = {1, 5, 3, 5, 5, 0};
    Ids id(3);
    Floats s(3);
    ASSERT_HN_OK(hn_score_top(f.data(), 6, 2, id.data(), s.data()));
    EXPECT_EQ(id[0], 1);
    EXPECT_EQ(id[1], 3);
    ASSERT_HN_OK(hn_score_top(f.data(), 6, 0, id.data(), s.data()));
    EXPECT_HN_FAIL(hn_score_top(f.data(), 6, 7, id.data(), s.data()), HN_ERR_ARG, "7 best of 6");
}

/* ---- LIFT ---- */

/* b a with falling singular values plus noise. */
Floats low_rank(int64_t m, int64_t n, int64_t k, unsigned seed)
{
    const Floats b = normal_f32((size_t)(m * k), seed), a = normal_f32((size_t)(k * n), seed + 1);
    Floats w = normal_f32((size_t)(m * n), seed + 2, 0, 0.05f);
    for (int64_t i = 0; i < m; i++)
        for (int64_t r = 0; r < k; r++)
            for (int64_t j = 0; j < n; j++)
                w[(size_t)(i * n + j)] +=
                    b[(size_t)(i * k + r)] * a[(size_t)(r * n + j)] / (float)(1 + r);
    return w;
}

struct Solver {
    hn_device *d = nullptr;
    hn_spectrum_solver *s = nullptr;
    Solver()
    {
        EXPECT_HN_OK(hn_device_open("cpu", &d));
        EXPECT_HN_OK(hn_spectrum_open(d, &s));
    }
    ~Solver()
    {
        hn_spectrum_close(s);
        hn_device_close(d);
    }
};

TEST(SparseLift, ARankOneMatrixByHand)
{
    Solver solver;
    const Floats w = {1, -2, 3, 4, 2, -4, 6, 8, 0, 0, 0, 0, -1, 2, -3, -4};
    const auto m = matrix("w", 4, 4, 1, 1);
    for (hn_spectrum_solver *s : {solver.s, (hn_spectrum_solver *)nullptr}) {
        const hn_lift_args a = {w.data(), 1, s, 3};
        Floats f(16);
        ASSERT_HN_OK(hn_score_lift(&m, &a, f.data()));
        for (size_t i = 0; i < 16; i++) EXPECT_NEAR(f[i], std::fabs(w[i]), 2e-5) << i;
    }
}

TEST(SparseLift, ExactIsTheTruncatedDecompositionAndTheSketchAgrees)
{
    Solver solver;
    const int64_t out = 300, in = 96, rank = 8;
    const Floats w = low_rank(out, in, 12, 4);
    hn_spectrum s = {};
    const hn_spectrum_args sa = {w.data(), out, in, in};
    ASSERT_HN_OK(hn_spectrum_of(solver.s, &sa, &s));
    std::vector<double> want((size_t)(out * in), 0);
    for (int64_t i = 0; i < out; i++)
        for (int64_t r = 0; r < rank; r++)
            for (int64_t j = 0; j < in; j++)
                want[(size_t)(i * in + j)] += s.u[i * s.r + r] * s.s[r] * s.vt[r * in + j];
    hn_spectrum_free(&s);
    for (const auto &shape : {hn_block_shape{1, 1}, {4, 4}, {300, 1}, {1, 96}}) {
        const auto m = matrix("w", out, in, shape.br, shape.bc);
        const int64_t across = in / shape.bc, n = out / shape.br * across;
        std::vector<double> mean((size_t)n, 0);
        for (int64_t i = 0; i < out * in; i++)
            mean[(size_t)(i / in / shape.br * across + i % in / shape.bc)] +=
                std::fabs(want[(size_t)i]) / (double)(shape.br * shape.bc);
        Floats exact((size_t)n), sketch((size_t)n), again((size_t)n);
        const hn_lift_args a = {w.data(), rank, solver.s, 0}, b = {w.data(), rank, nullptr, 1};
        ASSERT_HN_OK(hn_score_lift(&m, &a, exact.data()));
        EXPECT_LT(rel_l2(exact, mean), 1e-6);
        ASSERT_HN_OK(hn_score_lift(&m, &b, sketch.data()));
        EXPECT_LT(rel_l2(sketch, mean), 2e-3);
        omp_set_num_threads(1);
        ASSERT_HN_OK(hn_score_lift(&m, &b, again.data()));
        omp_set_num_threads(2);
        EXPECT_TRUE(same_bits(sketch, again));
        const int64_t k = n / 10;
        Ids ia((size_t)k), ib((size_t)k), both;
        Floats sc((size_t)k);
        ASSERT_HN_OK(hn_score_top(exact.data(), n, k, ia.data(), sc.data()));
        ASSERT_HN_OK(hn_score_top(sketch.data(), n, k, ib.data(), sc.data()));
        std::set_intersection(ia.begin(), ia.end(), ib.begin(), ib.end(), std::back_inserter(both));
        EXPECT_GE((double)both.size(), 0.99 * (double)k);
    }
}

TEST(SparseLift, RefusesARankThatThereIsNot)
{
    const Floats w(16, 1.0f);
    const auto m = matrix("w", 4, 4, 1, 1);
    Floats f(16);
    for (int64_t rank : {0, 5}) {
        const hn_lift_args a = {w.data(), rank, nullptr, 0};
        EXPECT_HN_FAIL(hn_score_lift(&m, &a, f.data()), HN_ERR_ARG, "w: rank");
    }
    const Floats zero(16, 0.0f);
    const hn_lift_args a = {zero.data(), 2, nullptr, 0};
    ASSERT_HN_OK(hn_score_lift(&m, &a, f.data()));
    EXPECT_EQ(f, zero);
}

/* ---- coupled ---- */

TEST(SparseCoupled, ChannelsOfAFeedForwardLayer)
{
    const auto up = matrix("up", 6, 4, 1, 4), gate = matrix("gate", 6, 4, 1, 4),
               down = matrix("down", 4, 6, 4, 1);
    Floats wu(24, 1), wg(24, 1), wd(24, 1);
    for (int i = 0; i < 4; i++) wu[(size_t)(2 * 4 + i)] = 9;  /* row 2 of up */
    for (int i = 0; i < 4; i++) wd[(size_t)(i * 6 + 5)] = -7; /* column 5 of down */
    const hn_coupled members[] = {{&up, wu.data()}, {&gate, wg.data()}, {&down, wd.data()}};
    Ids a(2), b(2), c(2);
    int32_t *ids[] = {a.data(), b.data(), c.data()};
    ASSERT_HN_OK(hn_coupled_choose("mlp", 6, 1, members, 3, 2, ids));
    EXPECT_EQ(a, (Ids{2, 5}));
    EXPECT_EQ(b, a);
    EXPECT_EQ(c, a);
}

TEST(SparseCoupled, HeadsWithFewerKeysAtRandom)
{
    /* 4 query heads of 2 rows in 2 groups, 2 key heads */
    const auto q = matrix("q", 8, 8, 1, 8), k = matrix("k", 4, 8, 1, 8),
               o = matrix("o", 8, 8, 8, 1);
    const hn_coupled members[] = {{&q, nullptr}, {&k, nullptr}, {&o, nullptr}};
    Ids a(4), b(2), c(4), again(4);
    int32_t *ids[] = {a.data(), b.data(), c.data()};
    ASSERT_HN_OK(hn_coupled_choose("attn.0", 2, 5, members, 3, 1, ids));
    const int32_t u = b[0] / 2;
    EXPECT_EQ(a, (Ids{4 * u, 4 * u + 1, 4 * u + 2, 4 * u + 3}));
    EXPECT_EQ(b, (Ids{2 * u, 2 * u + 1}));
    EXPECT_EQ(c, a);
    int chosen[2] = {0, 0};
    for (uint64_t seed = 0; seed < 20; seed++) {
        ASSERT_HN_OK(hn_coupled_choose("attn.0", 2, seed, members, 3, 1, ids));
        chosen[b[0] / 2]++;
    }
    EXPECT_GT(chosen[0], 0);
    EXPECT_GT(chosen[1], 0);
    EXPECT_HN_FAIL(hn_coupled_choose("attn.0", 3, 5, members, 3, 1, ids), HN_ERR_SHAPE,
                   "8 rows of q are not 3 equal units");
    EXPECT_HN_FAIL(hn_coupled_choose("attn.0", 2, 5, members, 3, 3, ids), HN_ERR_ARG, "3 of 2");
    const Floats w(64, 1.0f);
    const hn_coupled some[] = {{&q, w.data()}, {&k, nullptr}};
    EXPECT_HN_FAIL(hn_coupled_choose("attn.0", 2, 5, some, 2, 1, ids), HN_ERR_ARG, "only some");
    const auto square = matrix("s", 8, 8, 4, 4);
    const hn_coupled other[] = {{&square, nullptr}};
    EXPECT_HN_FAIL(hn_coupled_choose("attn.0", 2, 5, other, 1, 1, ids), HN_ERR_SHAPE, "neither");
}

} // namespace
