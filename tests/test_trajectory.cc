/* runtime/flow/trajectory: the file of recorded trajectories: what goes in comes out, resume behind
 * a crash, damage, another head, hostile bytes. */
#include "runtime/flow/trajectory.h"

#include <zlib.h>

#include "hn_test.h"
#include "runtime/base/label.h"

namespace {

constexpr int64_t kRecords = 5, kKnots = 3, kNumbers = 7, kSupport = 4;
constexpr size_t kHead = 4096;

hn_trajectory_head head()
{
    hn_trajectory_head h = {};
    h.records = kRecords, h.knots = kKnots, h.numbers = kNumbers, h.support = kSupport;
    std::memset(h.layout, 'a', 64), std::memset(h.backbone, '1', 64);
    std::strcpy(h.domains, "cifar100,omniglot");
    return h;
}

struct Record {
    hn_trajectory_facts facts = {};
    std::vector<int32_t> image, label;
    std::vector<float> knot;
};

/* What record i of these tests holds. */
Record make(int64_t i)
{
    Record r;
    r.facts.episode = 100 + i, r.facts.seed = 0x8000000000000001u + (uint64_t)i;
    r.facts.domain = (int32_t)(i % 2), r.facts.init = (int32_t)i;
    r.facts.unit = 1e-3f, r.facts.loss_first = 2, r.facts.loss_last = 0.5f;
    r.facts.images = (int32_t)(1 + i % kSupport);
    for (int32_t k = 0; k < r.facts.images; k++)
        r.image.push_back(10 * (int32_t)i + k), r.label.push_back(k % 2);
    r.knot = normal_f32((size_t)(kKnots * kNumbers), 40 + (unsigned)i, 0, 0.02f);
    return r;
}

struct Writer {
    hn_trajectory_writer *w = nullptr;
    explicit Writer(const std::string &path, const hn_trajectory_head &h = head())
    {
        EXPECT_HN_OK(hn_trajectory_writer_open(path.c_str(), &h, &w));
    }
    ~Writer() { close(); }
    void close()
    {
        if (w != nullptr) {
            EXPECT_HN_OK(hn_trajectory_writer_close(w));
        }
        w = nullptr;
    }
    hn_status put(int64_t i, const Record &r)
    {
        return hn_trajectory_put(w, i, &r.facts, r.image.data(), r.label.data(), r.knot.data());
    }
    hn_status put(int64_t i) { return put(i, make(i)); }
    int64_t next(int64_t from = 0)
    {
        int64_t i = -1;
        EXPECT_HN_OK(hn_trajectory_writer_next(w, from, &i));
        return i;
    }
};

struct Reader {
    hn_trajectories t = {};
    explicit Reader(const std::string &path)
    {
        EXPECT_HN_OK(hn_trajectories_open(path.c_str(), &t));
    }
    ~Reader() { hn_trajectories_close(&t); }
    std::vector<int64_t> records() const { return {t.record, t.record + t.n}; }
};

void expect_record(const hn_trajectories &t, int64_t i)
{
    const Record want = make(t.record[i]);
    hn_trajectory got;
    hn_trajectories_at(&t, i, &got);
    EXPECT_EQ(std::memcmp(&got.facts, &want.facts, sizeof want.facts), 0) << t.record[i];
    for (int64_t k = 0; k < kSupport; k++) {
        const bool there = k < want.facts.images;
        EXPECT_EQ(got.image[k], there ? want.image[(size_t)k] : -1);
        EXPECT_EQ(got.label[k], there ? want.label[(size_t)k] : HN_LABEL_IGNORED);
    }
    for (size_t k = 0; k < want.knot.size(); k++) { /* half of a unit in the last place of fp16 */
        const float v = hn_f16_to_f32(got.knot[k]) * want.facts.unit;
        EXPECT_NEAR(v, want.knot[k], 0x1p-11 * std::fabs(want.knot[k]) + 1e-9);
    }
}

void write_all(const std::string &path)
{
    Writer w(path);
    for (const int64_t i : {3, 0, 4, 1, 2}) ASSERT_HN_OK(w.put(i)); /* in any order */
}

TEST(Trajectory, ComesOutAsItWentIn)
{
    TempDir dir;
    write_all(dir / "t");
    Reader r(dir / "t");
    ASSERT_EQ(r.records(), (std::vector<int64_t>{0, 1, 2, 3, 4}));
    EXPECT_EQ(r.t.damaged, 0);
    EXPECT_STREQ(r.t.head.domains, "cifar100,omniglot");
    EXPECT_STREQ(r.t.head.layout, head().layout);
    for (int64_t i = 0; i < kRecords; i++) expect_record(r.t, i);
}

/* 48 + 4 (4 + 4) + 2 * 21 = 122: 128 bytes a record. The file has its size from the start. */
TEST(Trajectory, BudgetIsTheSizeOfTheFile)
{
    TempDir dir;
    const hn_trajectory_head h = head();
    hn_trajectory_bytes b = {};
    ASSERT_HN_OK(hn_trajectory_budget(&h, &b));
    EXPECT_EQ(b.record_bytes, 128u);
    EXPECT_EQ(b.file_bytes, kHead + 5 * 128);
    Writer w(dir / "t");
    EXPECT_EQ(std::filesystem::file_size(dir / "t"), b.file_bytes);
    /* 40,000 of 11 knots of 4,608 numbers, 250 images: 4.14 GB */
    hn_trajectory_head full = h;
    full.records = 40000, full.knots = 11, full.numbers = 4608, full.support = 250;
    ASSERT_HN_OK(hn_trajectory_budget(&full, &b));
    EXPECT_EQ(b.record_bytes, 103424u); /* 48 + 2,000 + 101,376, a multiple of 64 */
    EXPECT_EQ(b.file_bytes, kHead + 40000 * b.record_bytes);
}

TEST(Trajectory, ResumesAtTheFirstRecordThatIsNotThere)
{
    TempDir dir;
    {
        Writer w(dir / "t");
        EXPECT_EQ(w.next(), 0);
        ASSERT_HN_OK(w.put(0));
        ASSERT_HN_OK(w.put(1));
        ASSERT_HN_OK(w.put(3));
        EXPECT_EQ(w.next(), 2);
        EXPECT_EQ(w.next(3), 4);
    }
    Writer w(dir / "t");
    EXPECT_EQ(w.next(), 2);
    { /* readable while it is written */
        Reader r(dir / "t");
        EXPECT_EQ(r.records(), (std::vector<int64_t>{0, 1, 3}));
        EXPECT_EQ(r.t.damaged, 0);
    }
    ASSERT_HN_OK(w.put(2));
    ASSERT_HN_OK(w.put(4));
    EXPECT_EQ(w.next(), kRecords);
    w.close();
    Reader r(dir / "t");
    for (int64_t i = 0; i < kRecords; i++) expect_record(r.t, i);
}

/* Every byte of a record matters; one in the wrong place or of another file does not count. */
TEST(Trajectory, DamagedRecordsDoNotCountAndAreWrittenAgain)
{
    TempDir dir;
    write_all(dir / "t");
    const std::string good = read_file(dir / "t");
    for (size_t k = 0; k < 128; k++) {
        std::string bad = good;
        bad[kHead + 128 + k] ^= 0x10;
        write_file(dir / "t", bad);
        Reader r(dir / "t");
        EXPECT_EQ(r.records(), (std::vector<int64_t>{0, 2, 3, 4})) << "byte " << k;
        EXPECT_EQ(r.t.damaged, 1);
    }
    std::string swapped = good;
    std::copy_n(good.begin() + kHead, 128, swapped.begin() + kHead + 128);
    write_file(dir / "t", swapped);
    {
        Writer w(dir / "t");
        EXPECT_EQ(w.next(), 1);
        ASSERT_HN_OK(w.put(1));
        EXPECT_EQ(w.next(), kRecords);
    }
    EXPECT_EQ(read_file(dir / "t"), good);
    /* the same record under another head */
    hn_trajectory_head other = head();
    other.backbone[0] = '2';
    {
        Writer w(dir / "u", other);
        ASSERT_HN_OK(w.put(0));
    }
    std::string mixed = good;
    const std::string u = read_file(dir / "u");
    std::copy_n(u.begin() + kHead, 128, mixed.begin() + kHead);
    write_file(dir / "t", mixed);
    Reader r(dir / "t");
    EXPECT_EQ(r.records(), (std::vector<int64_t>{1, 2, 3, 4}));
}

TEST(Trajectory, FilesThatWereCutOffGetTheirRoomBack)
{
    TempDir dir;
    write_all(dir / "t");
    const std::string good = read_file(dir / "t");
    for (const size_t n : {kHead, kHead + 2 * 128, kHead + 2 * 128 + 50}) {
        write_file(dir / "t", good.substr(0, n));
        hn_trajectories t;
        EXPECT_HN_FAIL(hn_trajectories_open((dir / "t").c_str(), &t), HN_ERR_FORMAT,
                       "5 records end at 4736");
        Writer w(dir / "t");
        const int64_t whole = (int64_t)((n - kHead) / 128);
        EXPECT_EQ(w.next(), whole);
        for (int64_t i = whole; i < kRecords; i++) ASSERT_HN_OK(w.put(i));
        w.close();
        EXPECT_EQ(read_file(dir / "t"), good);
    }
    write_file(dir / "t", good + "x");
    const hn_trajectory_head h = head();
    hn_trajectory_writer *w = nullptr;
    EXPECT_HN_FAIL(hn_trajectory_writer_open((dir / "t").c_str(), &h, &w), HN_ERR_FORMAT, "4737");
}

/* Killed when the room was there, in whole or in part, and the head was not. */
TEST(Trajectory, AFileThatNeverGotItsHeadIsMadeAnew)
{
    TempDir dir;
    write_all(dir / "t");
    const std::string good = read_file(dir / "t");
    const hn_trajectory_head h = head();
    hn_trajectory_writer *none = nullptr;
    for (const size_t n : {(size_t)1, kHead - 1, kHead, kHead + 200, good.size()}) {
        write_file(dir / "t", std::string(n, '\0'));
        Writer w(dir / "t");
        EXPECT_EQ(w.next(), 0);
        for (int64_t i = 0; i < kRecords; i++) ASSERT_HN_OK(w.put(i));
        w.close();
        EXPECT_EQ(read_file(dir / "t"), good);
    }
    write_file(dir / "t", std::string(good.size() + 1, '\0')); /* not one of these */
    EXPECT_HN_FAIL(hn_trajectory_writer_open((dir / "t").c_str(), &h, &none), HN_ERR_FORMAT,
                   "not a trajectory file");
    write_file(dir / "t", std::string(kHead - 1, '\0') + "x");
    EXPECT_HN_FAIL(hn_trajectory_writer_open((dir / "t").c_str(), &h, &none), HN_ERR_FORMAT,
                   "not a trajectory file");
}

TEST(Trajectory, OverflowNamesTheRecordAndWritesNothing)
{
    TempDir dir;
    Writer w(dir / "t");
    for (const float bad : {66.0f, -66.0f, NAN, INFINITY}) { /* 66,000 units; fp16 ends at 65,504 */
        Record r = make(2);
        r.knot[kNumbers + 3] = bad;
        EXPECT_HN_FAIL(w.put(2, r), HN_ERR_ARG, "record 2, knot 1, number 3");
    }
    EXPECT_EQ(w.next(2), 2);
    Record r = make(2);
    r.knot[0] = 65.5f, r.knot[1] = 1e-9f, r.knot[2] = -0.0f; /* below half the smallest: 0 */
    ASSERT_HN_OK(w.put(2, r));
    w.close();
    Reader reader(dir / "t");
    hn_trajectory got;
    hn_trajectories_at(&reader.t, 0, &got);
    EXPECT_EQ(hn_f16_to_f32(got.knot[0]), 65504.0f);
    EXPECT_NEAR(hn_f16_to_f32(got.knot[1]), 1e-6f, 0x1p-25);
    EXPECT_EQ(got.knot[2].bits, 0x8000);
}

TEST(Trajectory, RefusesFactsThatCannotBe)
{
    TempDir dir;
    Writer w(dir / "t");
    const auto refused = [&](auto change, const char *part) {
        Record r = make(1);
        change(r);
        EXPECT_HN_FAIL(w.put(1, r), HN_ERR_ARG, part);
    };
    refused([](Record &r) { r.facts.domain = 2; }, "record 1: domain");
    refused([](Record &r) { r.facts.unit = 0; }, "unit");
    refused([](Record &r) { r.facts.loss_last = NAN; }, "support loss");
    refused([](Record &r) { r.facts.images = kSupport + 1; }, "support images");
    refused([](Record &r) { r.facts.episode = -1; }, "episode");
    refused([](Record &r) { r.image[0] = -1; }, "image -1");
    refused([](Record &r) { r.label[1] = HN_LABEL_IGNORED; }, "class -100");
    EXPECT_HN_FAIL(w.put(kRecords, make(1)), HN_ERR_ARG, "record 5 of 5");
    EXPECT_EQ(w.next(), 0);
}

TEST(Trajectory, AnotherHeadIsNamed)
{
    TempDir dir;
    write_all(dir / "t");
    const auto refused = [&](auto change, const char *part) {
        hn_trajectory_head h = head();
        change(h);
        hn_trajectory_writer *w = nullptr;
        EXPECT_HN_FAIL(hn_trajectory_writer_open((dir / "t").c_str(), &h, &w), HN_ERR_ARG, part);
    };
    refused([](auto &h) { h.records = 6; }, "has records 5, not 6");
    refused([](auto &h) { h.knots = 2; }, "has knots 3, not 2");
    refused([](auto &h) { h.numbers = 8; }, "numbers");
    refused([](auto &h) { h.support = 3; }, "support images 4, not 3");
    refused([](auto &h) { h.layout[5] = 'b'; }, "another set of biases");
    refused([](auto &h) { h.backbone[5] = 'b'; }, "another backbone");
    refused([](auto &h) { std::strcpy(h.domains, "a,b"); }, "cifar100,omniglot, not a,b");
    refused([](auto &h) { std::strcpy(h.domains, "a,,b"); }, "without a name");
    refused([](auto &h) { h.layout[5] = 'G'; }, "layout");
    refused([](auto &h) { h.records = 0; }, "number of records");
    refused([](auto &h) { h.knots = 1025; }, "1025, not 2 to 1024");
}

TEST(Trajectory, ASecondWriterIsRefused)
{
    TempDir dir;
    const hn_trajectory_head h = head();
    hn_trajectory_writer *second = nullptr;
    Writer first(dir / "t");
    EXPECT_HN_FAIL(hn_trajectory_writer_open((dir / "t").c_str(), &h, &second), HN_ERR_IO,
                   "another writer has it");
    first.close();
    Writer then(dir / "t");
}

/* Heads whose sum fits but whose numbers are hostile; sizes that are not the file's. */
TEST(Trajectory, HostileFilesAreRefused)
{
    TempDir dir;
    write_all(dir / "t");
    const std::string good = read_file(dir / "t");
    const auto refused = [&](std::string bytes, const char *part) {
        write_file(dir / "t", bytes);
        hn_trajectories t;
        EXPECT_HN_FAIL(hn_trajectories_open((dir / "t").c_str(), &t), HN_ERR_FORMAT, part);
    };
    const size_t crc_at = 16 + 4 * 8 + 128 + HN_TRAJECTORY_DOMAINS;
    const auto with = [&](size_t at, int64_t v) {
        std::string b = good;
        std::memcpy(b.data() + at, &v, 8);
        const auto crc = (uint32_t)crc32(0, (const Bytef *)b.data(), (uInt)crc_at);
        std::memcpy(b.data() + crc_at, &crc, 4);
        return b;
    };
    refused("", "0 bytes");
    refused(good.substr(0, 4095), "4095 bytes");
    refused("x" + good.substr(1), "not a trajectory file");
    std::string bad = good;
    bad[20] ^= 1;
    refused(bad, "the head is damaged");
    refused(with(16, INT64_MAX), "number of records");
    refused(with(16, -1), "number of records");
    refused(with(24, INT64_MAX / 2), "number of knots");
    refused(with(32, (int64_t)1 << 40), "numbers of a knot");
    refused(with(40, -5), "support images");
    refused(with(16, 2147483647), "2147483647 records end at");
    refused(with(32, 9), "end at");
    refused(good + std::string(64, '\0'), "4800 bytes");
}

/* A record whose sum fits and whose content is hostile does not count. */
TEST(Trajectory, HostileRecordsDoNotCount)
{
    TempDir dir;
    write_all(dir / "t");
    const std::string good = read_file(dir / "t");
    uint32_t head_crc;
    std::memcpy(&head_crc, good.data() + 16 + 4 * 8 + 128 + HN_TRAJECTORY_DOMAINS, 4);
    const auto with = [&](size_t at, auto v) {
        std::string b = good;
        char *const r = b.data() + kHead + 2 * 128;
        std::memcpy(r + at, &v, sizeof v);
        const uint64_t salt[2] = {2, head_crc};
        uLong crc = crc32(0, (const Bytef *)salt, sizeof salt);
        const auto all = (uint32_t)crc32(crc, (const Bytef *)r + 4, 124);
        std::memcpy(r, &all, 4);
        write_file(dir / "t", b);
        const auto records = Reader(dir / "t").records();
        EXPECT_EQ(Writer(dir / "t").next(), records.size() < kRecords ? 2 : kRecords);
        return records;
    };
    const std::vector<int64_t> all = {0, 1, 2, 3, 4}, rest = {0, 1, 3, 4};
    const size_t facts = 8, image = 48, knot = image + 32;
    EXPECT_EQ(with(4, (uint32_t)1), all); /* as it is */
    EXPECT_EQ(with(4, (uint32_t)2), rest);
    EXPECT_EQ(with(facts + 16, (int32_t)7), rest);      /* domain */
    EXPECT_EQ(with(facts + 24, -1.0f), rest);           /* unit */
    EXPECT_EQ(with(facts + 36, (int32_t)99), rest);     /* images */
    EXPECT_EQ(with(image, (int32_t)-4), rest);          /* an image */
    EXPECT_EQ(with(image + 12, (int32_t)4), rest);      /* one behind the last */
    EXPECT_EQ(with(knot, (uint16_t)0x7c00), rest);      /* infinity */
    EXPECT_EQ(with(knot + 40, (uint16_t)0xfe00), rest); /* NaN */
}

/* Two records of four numbers: roots of mean squares of what moved. */
TEST(Trajectory, DigestIsOfTheContent)
{
    TempDir dir;
    const auto digest = [](const std::string &path) {
        Reader r(path);
        char hex[HN_SHA256_HEX] = "";
        EXPECT_HN_OK(hn_trajectories_digest(&r.t, hex));
        return std::string(hex);
    };
    write_all(dir / "t");
    const std::string want = digest(dir / "t");
    {
        Writer w(dir / "u"); /* in another order, one of them twice */
        for (const int64_t i : {0, 1, 2, 4, 2}) ASSERT_HN_OK(w.put(i));
    }
    EXPECT_NE(digest(dir / "u"), want);
    {
        Writer w(dir / "u");
        ASSERT_HN_OK(w.put(3));
    }
    EXPECT_EQ(digest(dir / "u"), want);
    {
        Writer w(dir / "u");
        Record r = make(2);
        r.knot.back() += 0.01f;
        ASSERT_HN_OK(w.put(2, r));
    }
    EXPECT_NE(digest(dir / "u"), want);
}

TEST(Trajectory, SigmaIsTheSizeOfWhatMoved)
{
    TempDir dir;
    hn_trajectory_head h = head();
    h.records = 2, h.knots = 2, h.numbers = 4;
    {
        Writer w(dir / "t", h);
        Record r = make(0);
        r.facts.unit = 0.5f;
        r.knot = {9, 9, 9, 9, 3, 4, 0, 1};
        ASSERT_HN_OK(w.put(0, r));
        r.facts.unit = 0.25f;
        r.knot = {9, 9, 9, 9, 1, -2, 0, 3};
        ASSERT_HN_OK(w.put(1, r));
    }
    Reader r(dir / "t");
    const int64_t both[] = {0, 1};
    float sigma[4];
    ASSERT_HN_OK(hn_trajectories_sigma(&r.t, both, 2, 2, sigma));
    EXPECT_FLOAT_EQ(sigma[0], std::sqrt((9 + 16 + 1 + 4) / 4.0f));
    EXPECT_FLOAT_EQ(sigma[1], std::sqrt((1 + 9) / 4.0f));
    ASSERT_HN_OK(hn_trajectories_sigma(&r.t, both + 1, 1, 1, sigma));
    EXPECT_FLOAT_EQ(sigma[0], std::sqrt((1 + 4 + 9) / 4.0f));
    EXPECT_HN_FAIL(hn_trajectories_sigma(&r.t, both, 2, 4, sigma), HN_ERR_ARG, "token 2 moves");
    EXPECT_HN_FAIL(hn_trajectories_sigma(&r.t, both, 2, 3, sigma), HN_ERR_ARG, "no 3 tokens");
}

/* ---- writers that share a file ---- */

hn_status open_shared(const std::string &path, bool first, unsigned char mark, bool hosts,
                      hn_trajectory_writer **out)
{
    hn_trajectory_share s = {};
    s.first = first, s.hosts = hosts;
    std::memset(s.mark, mark, sizeof s.mark);
    const hn_trajectory_head h = head();
    return hn_trajectory_writer_open_shared(path.c_str(), &h, &s, out);
}

hn_status put(hn_trajectory_writer *w, int64_t i)
{
    const Record r = make(i);
    return hn_trajectory_put(w, i, &r.facts, r.image.data(), r.label.data(), r.knot.data());
}

/* The file is that of one writer, byte for byte; nobody else may write while one of them does. */
TEST(TrajectoryShared, WritersOfOneFileMakeItTogether)
{
    TempDir dir;
    const std::string path = dir / "t";
    write_all(dir / "one");
    hn_trajectory_writer *a = nullptr, *b = nullptr, *c = nullptr;
    ASSERT_HN_OK(open_shared(path, true, 7, false, &a));
    ASSERT_HN_OK(open_shared(path, false, 7, true, &b));
    ASSERT_HN_OK(hn_trajectory_writer_unmark(a));
    for (const int64_t i : {3, 0, 2}) ASSERT_HN_OK(put(a, i));
    const hn_trajectory_head h = head();
    EXPECT_HN_FAIL(hn_trajectory_writer_open(path.c_str(), &h, &c), HN_ERR_IO, "another writer");
    ASSERT_HN_OK(hn_trajectory_writer_close(a));
    EXPECT_HN_FAIL(hn_trajectory_writer_open(path.c_str(), &h, &c), HN_ERR_IO, "another writer");
    EXPECT_HN_FAIL(open_shared(path, true, 8, false, &c), HN_ERR_IO, "another writer");
    for (const int64_t i : {4, 1}) ASSERT_HN_OK(put(b, i));
    ASSERT_HN_OK(hn_trajectory_writer_close(b));
    EXPECT_EQ(read_file(path), read_file(dir / "one"));
}

/* A file with the same head in another place, as another host's disk would have it. */
TEST(TrajectoryShared, AnotherFileOfThatNameIsRefused)
{
    TempDir dir;
    write_all(dir / "other");
    hn_trajectory_writer *a = nullptr, *b = nullptr;
    ASSERT_HN_OK(open_shared(dir / "t", true, 7, false, &a));
    EXPECT_HN_FAIL(open_shared(dir / "other", false, 7, false, &b), HN_ERR_ARG,
                   "not the file of that name that rank 0 writes");
    EXPECT_HN_FAIL(open_shared(dir / "t", false, 8, false, &b), HN_ERR_ARG, "not the file");
    EXPECT_HN_FAIL(open_shared(dir / "none", false, 7, false, &b), HN_ERR_IO, "cannot open");
    EXPECT_FALSE(std::filesystem::exists(dir / "none"));
    std::filesystem::resize_file(dir / "t", 4096 + 100);
    EXPECT_HN_FAIL(open_shared(dir / "t", false, 7, false, &b), HN_ERR_FORMAT, "its records end");
    ASSERT_HN_OK(hn_trajectory_writer_close(a));
}

/* Ended between the two: whoever comes next takes the mark away. */
TEST(TrajectoryShared, AMarkThatWasLeftIsRemoved)
{
    TempDir dir;
    write_all(dir / "t");
    const std::string want = read_file(dir / "t");
    hn_trajectory_writer *a = nullptr;
    ASSERT_HN_OK(open_shared(dir / "t", true, 7, false, &a));
    ASSERT_HN_OK(hn_trajectory_writer_close(a));
    EXPECT_NE(read_file(dir / "t"), want);
    EXPECT_EQ(Reader(dir / "t").t.n, kRecords);
    Writer(dir / "t").close();
    EXPECT_EQ(read_file(dir / "t"), want);
}

} // namespace
