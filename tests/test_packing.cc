/* runtime/data/packing: every trained token once, no row too long, nothing across samples. */
#include <map>
#include <set>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/data/packing.h"

namespace {

/* Samples of given lengths; word i is i, so a word tells where it comes from. */
struct Tokens {
    std::vector<int32_t> word;
    std::vector<int64_t> offset = {0};
    hn_token_cache c = {};
    explicit Tokens(const std::vector<int64_t> &lengths, int64_t untrained = 0)
    {
        for (int64_t n : lengths) {
            for (int64_t i = 0; i < n; i++)
                word.push_back(hn_word_make((int32_t)word.size(), i >= untrained));
            offset.push_back((int64_t)word.size());
        }
        c.word = word.data();
        c.offset = offset.data();
        c.n_words = (int64_t)word.size();
        c.n_samples = (int64_t)lengths.size();
    }
    Tokens(const Tokens &) = delete;
};

struct Packed {
    hn_packing p = {};
    hn_status status;
    hn_packing_options o;
    Packed(const Tokens &t, const hn_packing_options &options) : o(options)
    {
        status = hn_packing_make(&t.c, &o, &p);
    }
    Packed(const Packed &) = delete;
    ~Packed() { hn_packing_free(&p); }
};

hn_packing_options options(int64_t seq_len, bool packing = true, bool shuffle = true,
                           bool continues = false, int64_t seqs = 1000)
{
    hn_packing_options o = {};
    o.seq_len = seq_len;
    o.seqs_per_row = seqs;
    o.packing = packing;
    o.shuffle = shuffle;
    o.continues = continues;
    o.seed = 7;
    return o;
}

/* How often each word is predicted; checks rows, sequences and statistics on the way. */
std::map<int64_t, int> predictions(const Tokens &t, const Packed &k)
{
    std::map<int64_t, int> times;
    const hn_packing_stats &s = k.p.stats;
    int64_t inputs = 0, trained = 0, most = 0;
    EXPECT_EQ(k.p.row_first[0], 0);
    EXPECT_EQ(k.p.row_first[s.rows], s.pieces);
    for (int64_t r = 0; r < s.rows; r++) {
        int64_t n = 0, seqs = 0;
        EXPECT_LT(k.p.row_first[r], k.p.row_first[r + 1]);
        for (int64_t i = k.p.row_first[r]; i < k.p.row_first[r + 1]; i++) {
            const hn_piece &p = k.p.piece[i];
            const auto sample =
                std::upper_bound(t.offset.begin(), t.offset.end(), p.at) - t.offset.begin();
            EXPECT_LT(p.at + p.n, t.offset[(size_t)sample]); /* the target too */
            int64_t here = 0;
            for (int64_t j = p.at + 1; j <= p.at + p.n; j++)
                if (t.word[(size_t)j] >= 0) here++, times[j]++;
            EXPECT_EQ(here, p.n_trained);
            EXPECT_GT(p.n, 0);
            n += p.n;
            seqs++;
            inputs += p.n;
            trained += here;
        }
        EXPECT_LE(n, k.o.seq_len);
        seqs += n < k.o.seq_len;
        EXPECT_LE(seqs, k.o.seqs_per_row);
        most = std::max(most, seqs);
    }
    EXPECT_EQ(inputs, s.inputs);
    EXPECT_EQ(trained, s.trained);
    EXPECT_EQ(most, s.most_seqs);
    return times;
}

std::vector<int64_t> random_lengths(int n, int64_t most, unsigned seed)
{
    std::mt19937 rng(seed);
    std::vector<int64_t> v;
    for (int i = 0; i < n; i++) v.push_back(1 + (int64_t)(rng() % (unsigned)most));
    return v;
}

class PackingEveryToken : public ::testing::TestWithParam<std::tuple<bool, bool, bool, int>> {};

TEST_P(PackingEveryToken, IsPredictedExactlyOnceUnlessCutOff)
{
    const auto [packing, shuffle, continues, seqs] = GetParam();
    for (int64_t seq_len : {1, 2, 17, 64, 100, 1000}) {
        const Tokens t(random_lengths(100, 90, (unsigned)seq_len));
        const Packed k(t, options(seq_len, packing, shuffle, continues, seqs));
        ASSERT_HN_OK(k.status);
        const std::map<int64_t, int> times = predictions(t, k);
        int64_t expected = 0, longer = 0;
        for (int64_t i = 0; i < t.c.n_samples; i++) {
            const int64_t at = t.offset[(size_t)i], n = t.offset[(size_t)i + 1] - at - 1;
            const int64_t kept = continues ? n : std::min(n, seq_len);
            longer += n > seq_len;
            expected += kept;
            for (int64_t j = at + 1; j <= at + kept; j++) ASSERT_EQ(times.count(j), 1u);
        }
        EXPECT_EQ((int64_t)times.size(), expected);
        for (const auto &e : times) ASSERT_EQ(e.second, 1);
        EXPECT_EQ(k.p.stats.truncated, continues ? 0 : longer);
        EXPECT_TRUE(packing || k.p.stats.rows == k.p.stats.pieces);
    }
}

INSTANTIATE_TEST_SUITE_P(All, PackingEveryToken,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool(), ::testing::Bool(),
                                            ::testing::Values(2, 3, 1000)));

TEST(Packing, HandWorkedRows)
{
    const Tokens t({5, 4, 3, 8}); /* 4, 3, 2 and 7 inputs */
    const Packed k(t, options(7));
    ASSERT_HN_OK(k.status);
    ASSERT_EQ(k.p.stats.rows, 3); /* 7; 4 + 3; 2 */
    EXPECT_EQ(k.p.piece[0].at, 12);
    EXPECT_EQ(k.p.piece[1].at, 0);
    EXPECT_EQ(k.p.piece[2].at, 5);
    EXPECT_EQ(k.p.piece[3].at, 9);
    EXPECT_EQ(k.p.row_first[1], 1);
    EXPECT_EQ(k.p.row_first[2], 3);
    const Packed in_order(t, options(7, true, false));
    ASSERT_HN_OK(in_order.status);
    ASSERT_EQ(in_order.p.stats.rows, 3); /* 4 + 3; 2; 7 */
    EXPECT_EQ(in_order.p.row_first[1], 2);
    EXPECT_EQ(in_order.p.row_first[2], 3);
}

TEST(Packing, TextGoesOnWhereItWasCut)
{
    const Tokens t({10});
    const Packed k(t, options(4, true, false, true));
    ASSERT_HN_OK(k.status);
    ASSERT_EQ(k.p.stats.pieces, 3);
    const int64_t at[] = {0, 4, 8}, n[] = {4, 4, 1};
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(k.p.piece[i].at, at[i]);
        EXPECT_EQ(k.p.piece[i].n, n[i]);
    }
}

TEST(Packing, FillsRowsWell)
{
    const Tokens t(random_lengths(5000, 400, 3));
    const Packed k(t, options(1024));
    ASSERT_HN_OK(k.status);
    EXPECT_GT((double)k.p.stats.inputs / (double)(k.p.stats.rows * 1024), 0.99);
}

TEST(Packing, DropsWhatHasNoTrainedToken)
{
    const Tokens t({20, 9, 1, 5}, 8); /* the prompt is 8 tokens */
    const Packed k(t, options(7));
    EXPECT_HN_FAIL(k.status, HN_ERR_FORMAT, "no trained tokens");
    const Packed longer(t, options(8));
    ASSERT_HN_OK(longer.status);
    EXPECT_EQ(longer.p.stats.pieces, 2);
    EXPECT_EQ(longer.p.stats.dropped, 2);
    EXPECT_EQ(longer.p.stats.truncated, 1);
    EXPECT_EQ(longer.p.stats.trained, 2);
}

TEST(Packing, SeedDecidesAndRepeats)
{
    const Tokens t(random_lengths(300, 50, 5));
    hn_packing_options o = options(64);
    const Packed a(t, o), b(t, o);
    o.seed++;
    const Packed c(t, o);
    ASSERT_EQ(a.p.stats.pieces, b.p.stats.pieces);
    const size_t n = (size_t)a.p.stats.pieces * sizeof(hn_piece);
    EXPECT_EQ(std::memcmp(a.p.piece, b.p.piece, n), 0);
    EXPECT_NE(std::memcmp(a.p.piece, c.p.piece, n), 0);
}

TEST(Packing, RejectsImpossibleLimits)
{
    const Tokens t({5});
    EXPECT_HN_FAIL(Packed(t, options(0)).status, HN_ERR_ARG, "seq_len 0");
    EXPECT_HN_FAIL(Packed(t, options(8, true, true, true, 1)).status, HN_ERR_ARG, "at least 2");
}

TEST(Packing, EveryFailedAllocationIsReported)
{
    const Tokens t(random_lengths(300, 50, 5));
    for (uint64_t nth = 1;; nth++) {
        hn_alloc_fail_at(nth);
        const Packed k(t, options(64));
        hn_alloc_fail_at(0);
        if (k.status == HN_OK) break;
        ASSERT_EQ(k.status, HN_ERR_MEMORY);
        ASSERT_LT(nth, 100u);
    }
}

} // namespace
