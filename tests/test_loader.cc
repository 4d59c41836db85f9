/* runtime/data/loader: batches, order, sharding, resume, evaluation, prefetch. */
#include <set>
#include <thread>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/data/loader.h"

namespace {

/* Samples whose words are their own index: any token in a batch tells where it comes from. */
struct Dataset {
    std::vector<int32_t> word;
    std::vector<int64_t> offset = {0};
    hn_dataset *d = nullptr;
    explicit Dataset(const std::vector<int64_t> &lengths, bool continues = false, int untrained = 0)
    {
        for (int64_t n : lengths) {
            for (int64_t i = 0; i < n; i++)
                word.push_back(hn_word_make((int32_t)word.size(), i >= untrained));
            offset.push_back((int64_t)word.size());
        }
        EXPECT_HN_OK(hn_dataset_from_words(word.data(), offset.data(), (int64_t)lengths.size(),
                                           continues, &d));
    }
    Dataset(const Dataset &) = delete;
    ~Dataset() { hn_dataset_free(d); }
};

std::vector<int64_t> random_lengths(int n, int64_t most, unsigned seed)
{
    std::mt19937 rng(seed);
    std::vector<int64_t> v;
    for (int i = 0; i < n; i++) v.push_back(2 + (int64_t)(rng() % (unsigned)most));
    return v;
}

hn_loader_options options(int64_t rows, int64_t seq_len)
{
    hn_loader_options o = {};
    o.batch_rows = rows;
    o.seq_len = seq_len;
    o.seed = 11;
    o.shuffle = o.packing = true;
    o.pad_id = 99;
    return o;
}

struct Batch {
    std::vector<int32_t> tokens, labels, positions, seq_offsets;
    int64_t n_seqs = 0, n_trained = 0, n_tokens = 0;
    bool operator==(const Batch &) const = default;
};

Batch copy(const hn_loader *l, const hn_batch &b)
{
    const hn_loader_options *o = hn_loader_settings(l);
    const size_t n = (size_t)(o->batch_rows * o->seq_len);
    const size_t seqs = (size_t)(b.max_seqs ? b.max_seqs : o->max_seqs);
    Batch c;
    c.tokens.assign(b.tokens, b.tokens + n);
    c.labels.assign(b.labels, b.labels + n);
    c.positions.assign(b.positions, b.positions + n);
    c.seq_offsets.assign(b.seq_offsets, b.seq_offsets + seqs + 1);
    c.n_seqs = b.n_seqs, c.n_trained = b.n_trained, c.n_tokens = b.n_tokens;
    return c;
}

struct Loader {
    hn_loader *l = nullptr;
    hn_status status;
    Loader(const Dataset &d, const hn_loader_options &o) { status = hn_loader_open(d.d, &o, &l); }
    Loader(const Loader &) = delete;
    ~Loader() { hn_loader_free(l); }
    Batch at(int64_t m) const
    {
        const hn_loader_options *o = hn_loader_settings(l);
        const size_t n = (size_t)(o->batch_rows * o->seq_len);
        GuardedArray<int32_t> t(n), y(n), p(n), s((size_t)o->max_seqs + 1);
        hn_batch b = {};
        b.tokens = t.data(), b.labels = y.data(), b.positions = p.data(), b.seq_offsets = s.data();
        EXPECT_HN_OK(hn_loader_fill(l, m, &b));
        t.host(), y.host(), p.host(), s.host();
        return copy(l, b);
    }
};

/* Labels of the first n rows of training, row after row. */
std::vector<int32_t> labels_of(const std::vector<Batch> &v)
{
    std::vector<int32_t> all;
    for (const Batch &b : v) all.insert(all.end(), b.labels.begin(), b.labels.end());
    return all;
}

TEST(Loader, BatchIsWhatTheContractSays)
{
    const Dataset d(random_lengths(200, 30, 1), false, 3);
    const Loader l(d, options(4, 50));
    ASSERT_HN_OK(l.status);
    const std::set<int64_t> begins(d.offset.begin(), d.offset.end());
    for (int64_t m = 0; m < 40; m++) {
        const Batch b = l.at(m);
        int64_t trained = 0, tokens = 0;
        ASSERT_EQ(b.seq_offsets[0], 0);
        EXPECT_GT(b.n_trained, 0);
        for (int64_t s = 0; s < b.n_seqs; s++) {
            const int32_t from = b.seq_offsets[(size_t)s], to = b.seq_offsets[(size_t)s + 1];
            ASSERT_LT(from, to);
            EXPECT_EQ(from / 50, (to - 1) / 50) << "a sequence lies in one row";
            const bool padding = b.tokens[(size_t)from] == 99 && b.labels[(size_t)from] == -100 &&
                                 begins.count(99) == 0;
            for (int32_t i = from; i < to; i++) {
                const int32_t t = b.tokens[(size_t)i], y = b.labels[(size_t)i];
                EXPECT_EQ(b.positions[(size_t)i], i - from);
                if (padding) continue;
                EXPECT_EQ(t, b.tokens[(size_t)from] + (i - from));
                const int32_t target = d.word[(size_t)t + 1];
                EXPECT_EQ(y, target < 0 ? -100 : target);
                EXPECT_EQ(begins.count(t + 1), 0u) << "target of another sample";
            }
            for (int32_t i = from; i < to; i++) trained += b.labels[(size_t)i] != -100;
            tokens += padding ? 0 : to - from;
        }
        for (size_t s = (size_t)b.n_seqs; s < b.seq_offsets.size(); s++)
            EXPECT_EQ(b.seq_offsets[s], 200);
        EXPECT_EQ(trained, b.n_trained);
        EXPECT_EQ(tokens, b.n_tokens);
    }
}

TEST(Loader, EpochHoldsEachTrainedTokenOnce)
{
    const Dataset d(random_lengths(300, 40, 2), true);
    const Loader l(d, options(1, 32));
    ASSERT_HN_OK(l.status);
    const int64_t rows = hn_loader_rows_per_epoch(l.l);
    std::vector<std::vector<int32_t>> epochs;
    for (int64_t e = 0; e < 3; e++) {
        std::vector<int32_t> seen;
        for (int64_t m = e * rows; m < (e + 1) * rows; m++)
            for (int32_t y : l.at(m).labels)
                if (y != -100) seen.push_back(y);
        epochs.push_back(seen);
        EXPECT_EQ((int64_t)seen.size(), hn_loader_stats(l.l)->trained);
        const std::set<int32_t> distinct(seen.begin(), seen.end());
        EXPECT_EQ(distinct.size(), seen.size());
        for (int64_t at : d.offset) EXPECT_EQ(distinct.count((int32_t)at), 0u);
        EXPECT_EQ(distinct.size(), d.word.size() - d.offset.size() + 1);
    }
    EXPECT_NE(epochs[0], epochs[1]) << "each epoch has its own order";
    EXPECT_NE(epochs[1], epochs[2]);
}

TEST(Loader, EveryNumberOfRowsIsPermuted)
{
    for (int n = 1; n < 70; n++) {
        const Dataset d(std::vector<int64_t>((size_t)n, 5));
        const Loader l(d, options(1, 4));
        ASSERT_HN_OK(l.status);
        ASSERT_EQ(hn_loader_rows_per_epoch(l.l), n);
        for (int64_t e = 0; e < 2; e++) {
            std::set<int32_t> first;
            for (int64_t m = 0; m < n; m++) first.insert(l.at(e * n + m).tokens[0]);
            EXPECT_EQ(first.size(), (size_t)n);
        }
    }
}

TEST(Loader, ShuffleHasNoBias)
{
    const int n = 40, epochs = 1000;
    const Dataset d(std::vector<int64_t>((size_t)n, 5));
    const Loader l(d, options(1, 4));
    hn_batch b = {};
    ASSERT_HN_OK(hn_batch_make(l.l, 0, &b));
    std::vector<double> mean((size_t)n);
    for (int64_t m = 0; m < n * epochs; m++) {
        ASSERT_HN_OK(hn_loader_fill(l.l, m, &b));
        mean[(size_t)(b.tokens[0] / 5)] += (double)(m % n) / epochs;
    }
    /* a mean of 1000 uniform places of 0..39 has a standard error of 0.365 */
    for (double v : mean) EXPECT_NEAR(v, 19.5, 5 * 0.365);
    hn_batch_free(&b);
}

TEST(Loader, EightRowsOnceAreOneRowEightTimes)
{
    const Dataset d(random_lengths(300, 40, 3));
    const Loader one(d, options(1, 64)), eight(d, options(8, 64));
    for (int64_t step = 0; step < 30; step++) {
        std::vector<Batch> rows;
        int64_t trained = 0;
        for (int64_t i = 0; i < 8; i++) {
            rows.push_back(one.at(step * 8 + i));
            trained += rows.back().n_trained;
        }
        const Batch whole = eight.at(step);
        EXPECT_EQ(labels_of(rows), whole.labels);
        EXPECT_EQ(trained, whole.n_trained);
    }
}

TEST(Loader, RanksPartitionTheRows)
{
    const Dataset d(random_lengths(300, 40, 4));
    const Loader alone(d, options(6, 64));
    hn_loader_options o = options(2, 64);
    o.world = 3;
    std::vector<std::unique_ptr<Loader>> rank;
    for (o.rank = 0; o.rank < 3; o.rank++) rank.push_back(std::make_unique<Loader>(d, o));
    for (int64_t m = 0; m < 40; m++) {
        std::vector<Batch> parts;
        for (const auto &r : rank) parts.push_back(r->at(m));
        EXPECT_EQ(labels_of(parts), alone.at(m).labels);
    }
}

TEST(Loader, PositionNeedsNoReplay)
{
    const Dataset d(random_lengths(100, 40, 5));
    const Loader a(d, options(3, 64)), b(d, options(3, 64));
    std::vector<Batch> played;
    for (int64_t m = 0; m < 60; m++) played.push_back(a.at(m));
    for (int64_t m : {59, 0, 31, 12}) EXPECT_TRUE(b.at(m) == played[(size_t)m]);
}

TEST(Loader, LastBatchOfAnEpochGoesOnInTheNext)
{
    const Dataset d(std::vector<int64_t>(10, 5));
    const Loader l(d, options(4, 4));
    EXPECT_EQ(hn_loader_batches_per_epoch(l.l, 0), 3); /* begin at rows 0, 4, 8 */
    EXPECT_EQ(hn_loader_batches_per_epoch(l.l, 1), 2); /* at 12, 16 */
    EXPECT_DOUBLE_EQ(hn_loader_epoch_at(l.l, 5), 2.0);
    for (int64_t m = 0; m < 10; m++) EXPECT_EQ(l.at(m).n_tokens, 16);
}

TEST(LoaderOnce, GivesTheWholeSetInOrderAndPads)
{
    const Dataset d(std::vector<int64_t>(10, 5));
    hn_loader_options o = options(4, 4);
    o.once = true;
    o.shuffle = o.packing = false;
    const Loader l(d, o);
    ASSERT_EQ(hn_loader_batches_per_epoch(l.l, 0), 3);
    EXPECT_EQ(hn_loader_batches_per_epoch(l.l, 1), 0);
    int32_t next = 0;
    int64_t trained = 0;
    for (int64_t m = 0; m < 3; m++) {
        const Batch b = l.at(m);
        trained += b.n_trained;
        for (size_t i = 0; i < 16; i++)
            if (m < 2 || i < 8) {
                EXPECT_EQ(b.tokens[i], next++);
                next += next % 5 == 4; /* the last token of a sample is a target only */
            } else {
                EXPECT_EQ(b.tokens[i], 99);
                EXPECT_EQ(b.labels[i], -100);
            }
    }
    EXPECT_EQ(trained, 40);
    const Batch behind = l.at(3);
    EXPECT_EQ(behind.n_trained + behind.n_tokens, 0);
    EXPECT_EQ(behind.n_seqs, 4);
}

TEST(Loader, MoreRoomForSequencesChangesNothingElse)
{
    const Dataset d(random_lengths(100, 20, 6));
    const Loader l(d, options(2, 64));
    hn_batch b = {};
    ASSERT_HN_OK(hn_batch_make(l.l, hn_loader_max_seqs(l.l) + 7, &b));
    ASSERT_HN_OK(hn_loader_fill(l.l, 3, &b));
    Batch wide = copy(l.l, b), narrow = l.at(3);
    for (int i = 0; i < 7; i++) narrow.seq_offsets.push_back(128);
    EXPECT_TRUE(wide == narrow);
    b.max_seqs = hn_loader_max_seqs(l.l) - 1;
    EXPECT_HN_FAIL(hn_loader_fill(l.l, 3, &b), HN_ERR_ARG, "room for");
    hn_batch_free(&b);
}

TEST(Loader, LimitOnSequencesHolds)
{
    const Dataset d(random_lengths(300, 6, 7));
    hn_loader_options o = options(2, 64);
    o.max_seqs = 9; /* 4 a row */
    const Loader l(d, o);
    ASSERT_HN_OK(l.status);
    for (int64_t m = 0; m < 50; m++) EXPECT_LE(l.at(m).n_seqs, 8);
}

TEST(Loader, RejectsBadOptions)
{
    const Dataset d({5});
    hn_loader_options o = options(0, 4);
    EXPECT_HN_FAIL(Loader(d, o).status, HN_ERR_ARG, "batch of 0 rows");
    o = options(1 << 20, 1 << 12);
    EXPECT_HN_FAIL(Loader(d, o).status, HN_ERR_ARG, "product below 2^31");
    o = options(1, 4);
    o.world = 2, o.rank = 2;
    EXPECT_HN_FAIL(Loader(d, o).status, HN_ERR_ARG, "rank 2 of 2");
    o = options(4, 4);
    o.max_seqs = 7;
    EXPECT_HN_FAIL(Loader(d, o).status, HN_ERR_ARG, "max_seqs 7");
    const Loader l(d, options(1, 4));
    hn_batch b = {};
    EXPECT_HN_FAIL(hn_loader_fill(l.l, -1, &b), HN_ERR_ARG, "micro-batch -1");
    EXPECT_HN_FAIL(hn_loader_fill(l.l, INT64_MAX, &b), HN_ERR_ARG, "micro-batch");
    const int32_t masked[] = {~1, ~2};
    const int64_t offset[] = {0, 2};
    hn_dataset *none = nullptr;
    EXPECT_HN_FAIL(hn_dataset_from_words(masked, offset, 1, false, &none), HN_ERR_FORMAT,
                   "no trained tokens");
}

TEST(Loader, FillingAllocatesNothing)
{
    const Dataset d(random_lengths(100, 40, 8));
    const Loader l(d, options(4, 64));
    hn_batch b = {};
    ASSERT_HN_OK(hn_batch_make(l.l, 0, &b));
    const uint64_t before = hn_alloc_calls();
    for (int64_t m = 0; m < 100; m++) ASSERT_HN_OK(hn_loader_fill(l.l, m, &b)); /* many epochs */
    EXPECT_EQ(hn_alloc_calls(), before);
    hn_batch_free(&b);
}

TEST(Loader, EveryFailedAllocationIsReported)
{
    const Dataset d(random_lengths(100, 40, 8));
    for (uint64_t nth = 1;; nth++) {
        hn_batch b = {};
        hn_alloc_fail_at(nth);
        const Loader l(d, options(4, 64));
        const hn_status st = l.status ? l.status : hn_batch_make(l.l, 0, &b);
        hn_alloc_fail_at(0);
        hn_batch_free(&b);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY);
        ASSERT_LT(nth, 100u);
    }
}

class PrefetchDepth : public ::testing::TestWithParam<int> {};

TEST_P(PrefetchDepth, GivesWhatFillGives)
{
    const Dataset d(random_lengths(100, 40, 9));
    const Loader l(d, options(2, 64));
    const int depth = GetParam();
    std::vector<hn_batch> ring((size_t)depth);
    for (hn_batch &b : ring) ASSERT_HN_OK(hn_batch_make(l.l, 0, &b));
    hn_prefetch *p = nullptr;
    ASSERT_HN_OK(hn_prefetch_start(l.l, 5, {}, 60, ring.data(), depth, &p));
    const hn_batch *b = nullptr;
    const uint64_t before = hn_alloc_calls();
    std::vector<Batch> got;
    for (int64_t m = 0; m < 60; m++) {
        ASSERT_HN_OK(hn_prefetch_next(p, &b));
        ASSERT_NE(b, nullptr);
        if (m % 7 == 0) std::this_thread::yield();
        got.push_back(copy(l.l, *b));
    }
    EXPECT_EQ(hn_alloc_calls(), before);
    for (int i = 0; i < 2; i++) {
        ASSERT_HN_OK(hn_prefetch_next(p, &b));
        EXPECT_EQ(b, nullptr);
    }
    hn_prefetch_stop(p);
    for (int64_t m = 0; m < 60; m++) EXPECT_TRUE(got[(size_t)m] == l.at(5 + m));
    for (hn_batch &e : ring) hn_batch_free(&e);
}

INSTANTIATE_TEST_SUITE_P(Depths, PrefetchDepth, ::testing::Values(2, 3, 8));

TEST(Prefetch, GivesARankItsShareOfEveryStep)
{
    const Dataset d(random_lengths(100, 40, 9));
    const Loader l(d, options(2, 64));
    std::vector<hn_batch> ring(3);
    for (hn_batch &b : ring) ASSERT_HN_OK(hn_batch_make(l.l, 0, &b));
    for (int64_t rank = 0; rank < 3; rank++) {
        hn_prefetch *p = nullptr;
        ASSERT_HN_OK(hn_prefetch_start(l.l, 10, {rank, 3, 5}, -1, ring.data(), 3, &p));
        for (int64_t step = 2; step < 6; step++)
            for (int64_t k = rank; k < 5; k += 3) {
                const hn_batch *b = nullptr;
                ASSERT_HN_OK(hn_prefetch_next(p, &b));
                EXPECT_TRUE(copy(l.l, *b) == l.at(step * 5 + k)) << step << " " << k;
            }
        hn_prefetch_stop(p);
    }
    for (hn_batch &e : ring) hn_batch_free(&e);
}

TEST(Prefetch, StopsAtAnyMomentAndReportsErrors)
{
    const Dataset d(random_lengths(100, 40, 9));
    const Loader l(d, options(2, 64));
    hn_batch ring[3] = {};
    for (hn_batch &b : ring) ASSERT_HN_OK(hn_batch_make(l.l, 0, &b));
    for (int taken = 0; taken < 6; taken++) {
        hn_prefetch *p = nullptr;
        const hn_batch *b = nullptr;
        ASSERT_HN_OK(hn_prefetch_start(l.l, 0, {}, -1, ring, 3, &p));
        for (int i = 0; i < taken; i++) ASSERT_HN_OK(hn_prefetch_next(p, &b));
        hn_prefetch_stop(p);
    }
    hn_prefetch *p = nullptr;
    const hn_batch *b = nullptr;
    ring[1].max_seqs = 1;
    ASSERT_HN_OK(hn_prefetch_start(l.l, 0, {}, -1, ring, 3, &p));
    ASSERT_HN_OK(hn_prefetch_next(p, &b));
    EXPECT_HN_FAIL(hn_prefetch_next(p, &b), HN_ERR_ARG, "ERR_ARG: batch has room for 1 sequences");
    hn_prefetch_stop(p);
    EXPECT_HN_FAIL(hn_prefetch_start(l.l, 0, {}, -1, ring, 1, &p), HN_ERR_ARG, "1 buffers");
    for (hn_batch &e : ring) hn_batch_free(&e);
    hn_prefetch_stop(nullptr);
}

} // namespace
