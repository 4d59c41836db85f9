/* runtime/data/image_loader: order, padding, ranks, resume, resident and streamed, prefetch; and
 * runtime/data/row_order. */
#include <algorithm>
#include <set>

#include "hn_test.h"
#include "image_test.h"
#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/data/image_loader.h"
#include "runtime/data/row_order.h"

namespace {

using Ints = std::vector<int32_t>;

constexpr size_t kImage = 2 * 3 * 3; /* bytes of an image of SmallSet */

/* n images, labels i % 3. */
std::vector<int32_t> labels(int n)
{
    std::vector<int32_t> v;
    for (int i = 0; i < n; i++) v.push_back(i % 3);
    return v;
}

hn_image_loader_options options(int64_t batch, hn_epoch_end end = HN_EPOCH_JOIN)
{
    hn_image_loader_options o = {};
    o.batch = batch;
    o.seed = 5;
    o.shuffle = true;
    o.epoch_end = end;
    o.resident_bytes = 1 << 20;
    return o;
}

struct Batch {
    Ints image, index, label;
    std::vector<uint8_t> pixel;
    int64_t n_images = 0, first_row = 0;
    bool operator==(const Batch &) const = default;
};

struct Loader {
    hn_image_loader *l = nullptr;
    hn_status status;
    Loader(const hn_image_set *s, const hn_image_loader_options &o,
           const hn_image_view *view = nullptr)
    {
        status = hn_image_loader_open(s, view, &o, &l);
    }
    Loader(const Loader &) = delete;
    ~Loader() { hn_image_loader_free(l); }
    Batch at(int64_t m) const
    {
        const auto n = (size_t)hn_image_loader_settings(l)->batch;
        const bool streamed = !hn_image_loader_resident(l);
        GuardedArray<int32_t> image(n), index(n), label(n);
        GuardedArray<uint8_t> pixel(streamed ? n * kImage : 0);
        hn_image_batch b = {};
        b.image = image.data(), b.index = index.data(), b.label = label.data();
        b.pixel = streamed ? pixel.data() : nullptr;
        EXPECT_HN_OK(hn_image_loader_fill(l, m, &b));
        return {image.host(), index.host(), label.host(), pixel.host(), b.n_images, b.first_row};
    }
    /* Image numbers of micro-batches first .. end-1, one behind the other. */
    Ints images(int64_t first, int64_t end) const
    {
        Ints all;
        for (int64_t m = first; m < end; m++) {
            const Batch b = at(m);
            all.insert(all.end(), b.image.begin(), b.image.end());
        }
        return all;
    }
};

Ints iota(int n)
{
    Ints v;
    for (int i = 0; i < n; i++) v.push_back(i);
    return v;
}

Ints sorted(Ints v)
{
    std::sort(v.begin(), v.end());
    return v;
}

TEST(RowOrder, IsAPermutationOfAnySize)
{
    for (int64_t rows : {1, 2, 3, 4, 5, 15, 16, 17, 100, 257}) {
        const hn_row_order o = hn_row_order_make(3, hn_hash_name("x"), rows);
        std::set<std::vector<int64_t>> epochs;
        for (int64_t epoch = 0; epoch < 4; epoch++) {
            std::vector<int64_t> seen;
            for (int64_t i = 0; i < rows; i++) seen.push_back(hn_row_order_at(&o, epoch, i));
            epochs.insert(seen);
            std::sort(seen.begin(), seen.end());
            for (int64_t i = 0; i < rows; i++) ASSERT_EQ(seen[(size_t)i], i) << rows;
        }
        if (rows > 10) {
            EXPECT_EQ(epochs.size(), 4u) << rows;
        }
    }
}

TEST(ImageLoader, VisitsEachImageOnceAnEpoch)
{
    const SmallSet s(labels(23), 3);
    const Loader l(s, options(23));
    ASSERT_EQ(l.status, HN_OK) << hn_last_error();
    EXPECT_EQ(hn_image_loader_rows(l.l), 23);
    EXPECT_EQ(hn_image_loader_classes(l.l), 3);
    std::set<Ints> epochs;
    for (int64_t e = 0; e < 5; e++) {
        const Ints v = l.images(e, e + 1);
        EXPECT_EQ(sorted(v), iota(23));
        epochs.insert(v);
    }
    EXPECT_EQ(epochs.size(), 5u);
    const Batch b = l.at(0);
    EXPECT_EQ(b.index, b.image);
    EXPECT_EQ(b.n_images, 23);
    for (size_t i = 0; i < 23; i++) EXPECT_EQ(b.label[i], b.image[i] % 3);
}

TEST(ImageLoader, JoinsEpochsSoThatBatchesAreFull)
{
    const SmallSet s(labels(10), 3);
    const Loader l(s, options(4)), whole(s, options(10));
    const Ints v = l.images(0, 5); /* two epochs */
    EXPECT_EQ(v, whole.images(0, 2));
    EXPECT_EQ(hn_image_loader_batches(l.l, 0), 3);
    EXPECT_EQ(hn_image_loader_batches(l.l, 1), 2);
    EXPECT_DOUBLE_EQ(hn_image_loader_epoch_at(l.l, 5), 2);
    for (int64_t m = 0; m < 5; m++) {
        EXPECT_EQ(l.at(m).n_images, 4);
        EXPECT_EQ(l.at(m).first_row, 4 * m);
    }
}

TEST(ImageLoader, PadsTheLastBatchOfAnEpoch)
{
    const SmallSet s(labels(10), 3);
    const Loader l(s, options(4, HN_EPOCH_PAD)), whole(s, options(10));
    EXPECT_EQ(hn_image_loader_batches(l.l, 0), 3);
    EXPECT_DOUBLE_EQ(hn_image_loader_epoch_at(l.l, 3), 1);
    for (int64_t e = 0; e < 3; e++) {
        Ints want = whole.images(e, e + 1);
        want.push_back(-1), want.push_back(-1);
        EXPECT_EQ(l.images(3 * e, 3 * e + 3), want);
        const Batch last = l.at(3 * e + 2);
        EXPECT_EQ(last.n_images, 2);
        EXPECT_EQ(last.label[2], -100);
        EXPECT_EQ(last.index[3], -1);
        EXPECT_EQ(last.first_row, 4 * (3 * e + 2)); /* each row of training has its own number */
    }
}

TEST(ImageLoader, DropsTheLastBatchOfAnEpoch)
{
    const SmallSet s(labels(10), 3);
    const Loader l(s, options(4, HN_EPOCH_DROP)), whole(s, options(10));
    EXPECT_EQ(hn_image_loader_batches(l.l, 7), 2);
    for (int64_t e = 0; e < 3; e++) {
        Ints want = whole.images(e, e + 1);
        want.resize(8);
        EXPECT_EQ(l.images(2 * e, 2 * e + 2), want);
    }
    EXPECT_HN_FAIL(Loader(s, options(11, HN_EPOCH_DROP)).status, HN_ERR_ARG,
                   "10 images do not fill one batch of 11");
    EXPECT_EQ(Loader(s, options(11, HN_EPOCH_PAD)).status, HN_OK);
}

TEST(ImageLoader, EvaluatesEveryImageOnceInOrder)
{
    const SmallSet s(labels(10), 3);
    hn_image_loader_options o = options(4, HN_EPOCH_DROP);
    o.once = true;
    o.shuffle = false;
    const Loader l(s, o);
    ASSERT_EQ(l.status, HN_OK) << hn_last_error();
    EXPECT_EQ(hn_image_loader_batches(l.l, 0), 3);
    EXPECT_EQ(hn_image_loader_batches(l.l, 1), 0);
    Ints want = iota(10);
    want.resize(16, -1); /* behind the end there is only padding */
    EXPECT_EQ(l.images(0, 4), want);
    EXPECT_EQ(l.at(3).n_images, 0);
}

TEST(ImageLoader, SharesRowsAmongRanks)
{
    const SmallSet s(labels(22), 3);
    for (hn_epoch_end end : {HN_EPOCH_JOIN, HN_EPOCH_PAD, HN_EPOCH_DROP}) {
        const Loader one(s, options(8, end));
        for (int world : {2, 4}) {
            Ints all;
            for (int64_t m = 0; m < 6; m++)
                for (int rank = 0; rank < world; rank++) {
                    hn_image_loader_options o = options(8 / world, end);
                    o.rank = rank, o.world = world;
                    const Loader part(s, o);
                    const Batch b = part.at(m);
                    EXPECT_EQ(b.first_row, 8 * m + rank * (8 / world));
                    all.insert(all.end(), b.image.begin(), b.image.end());
                }
            EXPECT_EQ(all, one.images(0, 6)) << world;
        }
        if (end == HN_EPOCH_JOIN) {
            EXPECT_EQ(Loader(s, options(1)).images(0, 48), one.images(0, 6));
        }
    }
}

TEST(ImageLoader, StreamsPixelsOfSetsThatAreTooLarge)
{
    const SmallSet s(labels(10), 3);
    hn_image_loader_options o = options(4, HN_EPOCH_PAD);
    const Loader resident(s, o);
    o.resident_bytes = 10 * (int64_t)kImage - 1;
    const Loader streamed(s, o);
    o.resident_bytes++;
    EXPECT_TRUE(hn_image_loader_resident(Loader(s, o).l));
    EXPECT_TRUE(hn_image_loader_resident(resident.l));
    EXPECT_FALSE(hn_image_loader_resident(streamed.l));
    for (int64_t m = 0; m < 6; m++) {
        const Batch a = resident.at(m), b = streamed.at(m);
        EXPECT_EQ(a.image, b.image);
        EXPECT_EQ(a.label, b.label);
        for (size_t i = 0; i < 4; i++) {
            const bool padding = b.image[i] < 0;
            EXPECT_EQ(b.index[i], padding ? -1 : (int32_t)i);
            for (size_t k = 0; k < kImage; k++) /* image i is full of i */
                ASSERT_EQ(b.pixel[i * kImage + k], padding ? 0 : b.image[i]);
        }
    }
    int32_t image[4], label[4];
    hn_image_batch b = {};
    b.image = image, b.label = label;
    EXPECT_HN_FAIL(hn_image_loader_fill(streamed.l, 0, &b), HN_ERR_ARG, "room for pixels");
    EXPECT_EQ(hn_image_loader_fill(resident.l, 0, &b), HN_OK); /* index is not wanted */
}

TEST(ImageLoader, KeepsToItsView)
{
    const SmallSet s(labels(12), 3);
    Ints index = {1, 4, 7, 10}, label = {0, 0, 1, 1};
    const hn_image_view view = {index.data(), label.data(), 4, 2};
    const Loader l(s, options(4), &view);
    ASSERT_EQ(l.status, HN_OK) << hn_last_error();
    index.assign(4, 99); /* it has a copy */
    EXPECT_EQ(hn_image_loader_classes(l.l), 2);
    for (int64_t m = 0; m < 3; m++) {
        const Batch b = l.at(m);
        EXPECT_EQ(sorted(b.image), (Ints{1, 4, 7, 10}));
        for (size_t i = 0; i < 4; i++) EXPECT_EQ(b.label[i], b.image[i] > 4);
    }
    EXPECT_HN_FAIL(Loader(s, options(4), &view).status, HN_ERR_ARG, "image 99 of 12");
    const hn_image_view none = {index.data(), label.data(), 0, 2};
    EXPECT_HN_FAIL(Loader(s, options(4), &none).status, HN_ERR_ARG, "no images");
}

TEST(ImageLoader, OrdersBySeedAndSalt)
{
    const SmallSet s(labels(40), 3);
    std::set<Ints> all;
    for (uint64_t seed = 0; seed < 3; seed++)
        for (uint32_t salt = 0; salt < 3; salt++) {
            hn_image_loader_options o = options(40);
            o.seed = seed, o.salt = salt;
            const Loader l(s, o), again(s, o);
            EXPECT_EQ(l.images(0, 1), again.images(0, 1));
            all.insert(l.images(0, 1));
        }
    EXPECT_EQ(all.size(), 9u);
    /* must never change: it is the order of every run that is resumed */
    const SmallSet ten(labels(10), 3);
    EXPECT_EQ(Loader(ten, options(10)).images(0, 1), (Ints{6, 8, 9, 5, 2, 0, 4, 3, 1, 7}));
}

TEST(ImageLoader, RefusesBadOptions)
{
    const SmallSet s(labels(4), 3);
    hn_image_loader_options o = options(0);
    EXPECT_HN_FAIL(Loader(s, o).status, HN_ERR_ARG, "batch of 0 images");
    o = options(1);
    o.rank = 2, o.world = 2;
    EXPECT_HN_FAIL(Loader(s, o).status, HN_ERR_ARG, "rank 2 of 2");
    const Loader l(s, options(2));
    int32_t image[2], label[2];
    hn_image_batch b = {};
    b.image = image, b.label = label;
    EXPECT_HN_FAIL(hn_image_loader_fill(l.l, -1, &b), HN_ERR_ARG, "micro-batch -1");
    EXPECT_HN_FAIL(hn_image_loader_fill(l.l, INT64_MAX, &b), HN_ERR_ARG, "micro-batch 9");
    b.label = nullptr;
    EXPECT_HN_FAIL(hn_image_loader_fill(l.l, 0, &b), HN_ERR_ARG, "numbers and labels");
}

TEST(ImagePrefetch, GivesWhatFillingGives)
{
    const SmallSet s(labels(13), 3);
    for (bool resident : {true, false}) {
        hn_image_loader_options o = options(4, HN_EPOCH_PAD);
        o.resident_bytes = resident ? 1 << 20 : 0;
        const Loader l(s, o);
        std::vector<hn_image_batch> ring(3);
        for (hn_image_batch &b : ring) ASSERT_HN_OK(hn_image_batch_make(l.l, &b));
        hn_image_prefetch *p = nullptr;
        ASSERT_HN_OK(
            hn_image_prefetch_start(l.l, 2, {}, 9, ring.data(), 3, &p)); /* a resumed run */
        const uint64_t before = hn_alloc_calls();
        for (int64_t m = 2; m < 11; m++) {
            const hn_image_batch *b = nullptr;
            ASSERT_HN_OK(hn_image_prefetch_next(p, &b));
            ASSERT_NE(b, nullptr);
            EXPECT_EQ(hn_alloc_calls(), before);
            const Batch want = l.at(m);
            EXPECT_EQ(Ints(b->image, b->image + 4), want.image);
            EXPECT_EQ(Ints(b->index, b->index + 4), want.index);
            EXPECT_EQ(Ints(b->label, b->label + 4), want.label);
            EXPECT_EQ(b->n_images, want.n_images);
            EXPECT_EQ(b->first_row, want.first_row);
            if (!resident) {
                EXPECT_EQ(std::memcmp(b->pixel, want.pixel.data(), want.pixel.size()), 0);
            }
        }
        const hn_image_batch *b = ring.data();
        ASSERT_HN_OK(hn_image_prefetch_next(p, &b));
        EXPECT_EQ(b, nullptr);
        hn_image_prefetch_stop(p);
        EXPECT_HN_FAIL(hn_image_prefetch_start(l.l, 0, {}, -1, ring.data(), 1, &p), HN_ERR_ARG,
                       "1 buffers");
        for (hn_image_batch &r : ring) hn_image_batch_free(&r);
    }
}

TEST(ImagePrefetch, GivesARankItsShareOfEveryStep)
{
    const SmallSet s(labels(13), 3);
    const Loader l(s, options(4, HN_EPOCH_PAD));
    std::vector<hn_image_batch> ring(3);
    for (hn_image_batch &b : ring) ASSERT_HN_OK(hn_image_batch_make(l.l, &b));
    for (int64_t rank = 0; rank < 2; rank++) {
        hn_image_prefetch *p = nullptr;
        ASSERT_HN_OK(hn_image_prefetch_start(l.l, 3, {rank, 2, 3}, -1, ring.data(), 3, &p));
        for (int64_t step = 1; step < 6; step++)
            for (int64_t k = rank; k < 3; k += 2) {
                const hn_image_batch *b = nullptr;
                ASSERT_HN_OK(hn_image_prefetch_next(p, &b));
                const Batch want = l.at(step * 3 + k);
                EXPECT_EQ(Ints(b->image, b->image + 4), want.image) << step << " " << k;
                EXPECT_EQ(Ints(b->label, b->label + 4), want.label);
            }
        hn_image_prefetch_stop(p);
    }
    for (hn_image_batch &r : ring) hn_image_batch_free(&r);
}

TEST(ImagePrefetch, StopsInTheMiddleAndReportsErrors)
{
    const SmallSet s(labels(13), 3);
    hn_image_loader_options o = options(4);
    o.resident_bytes = 0;
    const Loader l(s, o);
    std::vector<hn_image_batch> ring(2);
    for (hn_image_batch &b : ring) ASSERT_HN_OK(hn_image_batch_make(l.l, &b));
    hn_image_prefetch *p = nullptr;
    ASSERT_HN_OK(hn_image_prefetch_start(l.l, 0, {}, -1, ring.data(), 2, &p));
    const hn_image_batch *b = nullptr;
    ASSERT_HN_OK(hn_image_prefetch_next(p, &b));
    hn_image_prefetch_stop(p);
    ASSERT_HN_OK(hn_image_prefetch_start(l.l, INT64_MAX / 2, {}, -1, ring.data(), 2, &p));
    EXPECT_HN_FAIL(hn_image_prefetch_next(p, &b), HN_ERR_ARG, "micro-batch 4");
    hn_image_prefetch_stop(p);
    hn_image_prefetch_stop(nullptr);
    for (hn_image_batch &r : ring) hn_image_batch_free(&r);
    hn_image_batch none = {};
    for (uint64_t nth = 1; nth <= 4; nth++) {
        hn_alloc_fail_at(nth);
        EXPECT_EQ(hn_image_batch_make(l.l, &none), HN_ERR_MEMORY);
        hn_alloc_fail_at(0);
    }
    EXPECT_EQ(none.image, nullptr);
}

} // namespace
