/* runtime/file: metrics.csv, metrics.jsonl and TensorBoard event files. */
#include "file_limit.h"
#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/file/metrics.h"
#include "runtime/file/tfevents.h"

namespace {

namespace fs = std::filesystem;

const char *const kColumns[] = {"loss", "lr"};

TEST(Metrics, WritesTheRowsOfBothFiles)
{
    TempDir t;
    hn_metrics *m = nullptr;
    ASSERT_HN_OK(hn_metrics_open((t / "run").c_str(), kColumns, 2, -1, nullptr, &m));
    const hn_metric both[] = {{"lr", 1e-4}, {"loss", 2.5}}, nan[] = {{"loss", -NAN}},
                    inf[] = {{"loss", INFINITY}, {"lr", 12345678901.0}};
    EXPECT_HN_OK(hn_metrics_row(m, 1, both, 2));
    EXPECT_HN_OK(hn_metrics_row(m, 2, nan, 1));
    EXPECT_HN_OK(hn_metrics_row(m, 3, inf, 2));
    EXPECT_HN_OK(hn_metrics_row(m, 4, nullptr, 0));
    const hn_metric unknown[] = {{"x", 1}}, twice[] = {{"lr", 1}, {"lr", 2}};
    EXPECT_HN_FAIL(hn_metrics_row(m, 5, unknown, 1), HN_ERR_ARG, "'x' is not a column");
    EXPECT_HN_FAIL(hn_metrics_row(m, 5, twice, 2), HN_ERR_ARG, "'lr' is given twice");
    hn_metrics_close(m);
    EXPECT_EQ(read_file(t / "run/metrics.csv"),
              "step,loss,lr\n1,2.5,0.0001\n2,nan,\n3,inf,12345678901\n4,,\n");
    EXPECT_EQ(read_file(t / "run/metrics.jsonl"),
              "{\"step\": 1, \"loss\": 2.5, \"lr\": 0.0001}\n{\"step\": 2, \"loss\": null}\n"
              "{\"step\": 3, \"loss\": null, \"lr\": 12345678901}\n{\"step\": 4}\n");
}

TEST(Metrics, ResumeDropsLaterAndHalfRows)
{
    TempDir t;
    hn_metrics *m = nullptr;
    write_file(t / "metrics.csv", "step,loss,lr\n1,2,\n2,3,\n10,4,\n1");
    write_file(t / "metrics.jsonl", "{\"step\": 1}\n{\"step\": 3}\n{\"step\": 2}\nnoise\n{\"st");
    ASSERT_HN_OK(hn_metrics_open(t.str().c_str(), kColumns, 2, 2, nullptr, &m));
    EXPECT_HN_OK(hn_metrics_row(m, 3, nullptr, 0));
    hn_metrics_close(m);
    EXPECT_EQ(read_file(t / "metrics.csv"), "step,loss,lr\n1,2,\n2,3,\n3,,\n");
    EXPECT_EQ(read_file(t / "metrics.jsonl"), "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3}\n");
}

TEST(Metrics, ResumeDropsWhatComesAnew)
{
    TempDir t;
    hn_metrics *m = nullptr;
    write_file(t / "metrics.csv", "step,loss,lr\n1,,5\n2,3,\n2,,4\n2,,\n3,,1\n");
    write_file(t / "metrics.jsonl", "{\"step\": 1, \"lr\": 5}\n{\"step\": 2, \"loss\": 3}\n"
                                    "{\"step\": 2, \"lr\": null}\n{\"step\": 3}\n");
    EXPECT_HN_FAIL(hn_metrics_open(t.str().c_str(), kColumns, 2, 2, "lx", &m), HN_ERR_ARG,
                   "'lx' is not a column");
    ASSERT_HN_OK(hn_metrics_open(t.str().c_str(), kColumns, 2, 2, "lr", &m));
    hn_metrics_close(m);
    EXPECT_EQ(read_file(t / "metrics.csv"), "step,loss,lr\n1,,5\n2,3,\n2,,\n");
    EXPECT_EQ(read_file(t / "metrics.jsonl"),
              "{\"step\": 1, \"lr\": 5}\n{\"step\": 2, \"loss\": 3}\n");
    write_file(t / "metrics.csv", "step,loss,lr\n2,7,\n2,,4\n");
    ASSERT_HN_OK(hn_metrics_open(t.str().c_str(), kColumns, 2, 2, "loss", &m));
    hn_metrics_close(m);
    EXPECT_EQ(read_file(t / "metrics.csv"), "step,loss,lr\n2,,4\n");
}

TEST(Metrics, ANewRunStartsNewFiles)
{
    TempDir t;
    hn_metrics *m = nullptr;
    write_file(t / "metrics.csv", "step,other\n1,2\n");
    EXPECT_HN_FAIL(hn_metrics_open(t.str().c_str(), kColumns, 2, 5, nullptr, &m), HN_ERR_FORMAT,
                   "metrics.csv: its columns");
    EXPECT_EQ(read_file(t / "metrics.csv"), "step,other\n1,2\n");
    ASSERT_HN_OK(hn_metrics_open(t.str().c_str(), kColumns, 2, -1, nullptr, &m));
    hn_metrics_close(m);
    EXPECT_EQ(read_file(t / "metrics.csv"), "step,loss,lr\n");
    EXPECT_EQ(read_file(t / "metrics.jsonl"), "");
}

TEST(Metrics, RefusesBadColumns)
{
    TempDir t;
    hn_metrics *m = nullptr;
    for (const char *bad : {"", "a,b", "a b", "a\"", "step", "\xc3\xa9", "a\\"}) {
        EXPECT_HN_FAIL(hn_metrics_open(t.str().c_str(), &bad, 1, -1, nullptr, &m), HN_ERR_ARG, bad);
    }
    const char *const twice[] = {"a", "a"};
    EXPECT_HN_FAIL(hn_metrics_open(t.str().c_str(), twice, 2, -1, nullptr, &m), HN_ERR_ARG, "'a'");
    EXPECT_TRUE(fs::is_empty(t.str()));
}

TEST(Metrics, SurvivesEveryFailedAllocation)
{
    TempDir t;
    write_file(t / "metrics.csv", "step,loss,lr\n1,2,\n");
    write_file(t / "metrics.jsonl", "{\"step\": 1}\n");
    for (uint64_t n = 1;; n++) {
        hn_metrics *m = nullptr;
        hn_alloc_fail_at(n);
        const hn_status st = hn_metrics_open(t.str().c_str(), kColumns, 2, 1, nullptr, &m);
        hn_alloc_fail_at(0);
        hn_metrics_close(m);
        EXPECT_EQ(read_file(t / "metrics.csv"), "step,loss,lr\n1,2,\n");
        EXPECT_EQ(read_file(t / "metrics.jsonl"), "{\"step\": 1}\n");
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        ASSERT_LT(n, 100u);
    }
}

TEST(Metrics, RowsAllocateNothing)
{
    TempDir t;
    hn_metrics *m = nullptr;
    hn_tfevents *w = nullptr;
    ASSERT_HN_OK(hn_metrics_open(t.str().c_str(), kColumns, 2, -1, nullptr, &m));
    ASSERT_HN_OK(hn_tfevents_open(t.str().c_str(), &w));
    const uint64_t before = hn_alloc_calls();
    const hn_metric row[] = {{"loss", 1.5}};
    const hn_tf_scalar scalar = {"train/loss", 1.5f};
    EXPECT_HN_OK(hn_metrics_row(m, 1, row, 1));
    EXPECT_HN_OK(hn_tfevents_scalars(w, 0, 1, &scalar, 1));
    EXPECT_EQ(hn_alloc_calls(), before);
    hn_metrics_close(m);
    hn_tfevents_close(w);
}

TEST(Metrics, AFailedWriteLeavesWholeLines)
{
    TempDir t;
    hn_metrics *m = nullptr;
    ASSERT_HN_OK(hn_metrics_open(t.str().c_str(), kColumns, 2, -1, nullptr, &m));
    const hn_metric row[] = {{"loss", 1.25}, {"lr", 0.001}};
    {
        FileSizeLimit full(30); /* inside the second row */
        EXPECT_HN_OK(hn_metrics_row(m, 1, row, 0));
        EXPECT_HN_FAIL(hn_metrics_row(m, 22222222, row, 2), HN_ERR_WRITE, "metrics.csv");
    }
    EXPECT_EQ(read_file(t / "metrics.csv"), "step,loss,lr\n1,,\n");
    EXPECT_HN_OK(hn_metrics_row(m, 2, row, 1));
    hn_metrics_close(m);
    EXPECT_EQ(read_file(t / "metrics.csv"), "step,loss,lr\n1,,\n2,1.25,\n");
}

/* ---- event files ---- */

TEST(Crc32c, KnownAnswers) /* RFC 3720, B.4 */
{
    const std::string zeros(32, '\0'), ones(32, '\xff');
    EXPECT_EQ(hn_crc32c("123456789", 9), 0xe3069283u);
    EXPECT_EQ(hn_crc32c(zeros.data(), 32), 0x8a9136aau);
    EXPECT_EQ(hn_crc32c(ones.data(), 32), 0x62a8ab43u);
    EXPECT_EQ(hn_crc32c("", 0), 0u);
}

/* The payloads of a file whose lengths and CRCs are right. */
std::vector<std::string> records_of(const std::string &bytes)
{
    std::vector<std::string> records;
    for (size_t at = 0; at < bytes.size();) {
        uint64_t length = 0;
        uint32_t crc = 0;
        EXPECT_LE(at + 16, bytes.size());
        std::memcpy(&length, bytes.data() + at, 8);
        std::memcpy(&crc, bytes.data() + at + 8, 4);
        EXPECT_EQ(crc, hn_crc32c_masked(bytes.data() + at, 8));
        const std::string payload = bytes.substr(at + 12, length);
        std::memcpy(&crc, bytes.data() + at + 12 + length, 4);
        EXPECT_EQ(crc, hn_crc32c_masked(payload.data(), payload.size()));
        records.push_back(payload);
        at += 16 + length;
    }
    return records;
}

TEST(Tfevents, WritesTheRecordsThatTensorBoardReads)
{
    TempDir t;
    hn_tfevents *w = nullptr;
    ASSERT_HN_OK(hn_tfevents_open((t / "tb").c_str(), &w));
    const hn_tf_scalar two[] = {{"train/loss", 1.5f}, {"lr", -2.0f}};
    ASSERT_HN_OK(hn_tfevents_scalars(w, 1.0, 300, two, 2));
    const std::string path = hn_tfevents_path(w);
    const std::vector<std::string> r = records_of(read_file(path)); /* readable before closing */
    hn_tfevents_close(w);
    ASSERT_EQ(r.size(), 2u);
    EXPECT_EQ(r[0].substr(9), "\x1a\x0d"
                              "brain.Event:2");
    EXPECT_EQ(r[1], std::string("\x09\0\0\0\0\0\0\xf0\x3f\x10\xac\x02\x2a\x1e"
                                "\x0a\x11\x0a\x0atrain/loss\x15\0\0\xc0\x3f"
                                "\x0a\x09\x0a\x02lr\x15\0\0\0\xc0",
                                44));
    EXPECT_NE(path.find("tb/events.out.tfevents."), std::string::npos);
}

TEST(Tfevents, EveryWriterHasItsOwnFile)
{
    TempDir t;
    hn_tfevents *a = nullptr, *b = nullptr;
    ASSERT_HN_OK(hn_tfevents_open(t.str().c_str(), &a));
    ASSERT_HN_OK(hn_tfevents_open(t.str().c_str(), &b));
    EXPECT_STRNE(hn_tfevents_path(a), hn_tfevents_path(b));
    hn_tfevents_close(a);
    hn_tfevents_close(b);
    hn_tfevents_close(nullptr);
}

TEST(Tfevents, RefusesWhatDoesNotFit)
{
    TempDir t;
    hn_tfevents *w = nullptr;
    ASSERT_HN_OK(hn_tfevents_open(t.str().c_str(), &w));
    const std::string tag(201, 'x'), long_tag(200, 'y');
    const hn_tf_scalar bad = {tag.c_str(), 1}, empty = {"", 1};
    EXPECT_HN_FAIL(hn_tfevents_scalars(w, 0, 1, &bad, 1), HN_ERR_ARG, "201 bytes");
    EXPECT_HN_FAIL(hn_tfevents_scalars(w, 0, 1, &empty, 1), HN_ERR_ARG, "0 bytes");
    EXPECT_HN_FAIL(hn_tfevents_scalars(w, 0, -1, &bad, 1), HN_ERR_ARG, "step -1");
    const std::vector<hn_tf_scalar> many(400, hn_tf_scalar{long_tag.c_str(), 1});
    EXPECT_HN_FAIL(hn_tfevents_scalars(w, 0, 1, many.data(), 400), HN_ERR_ARG, "400 scalars");
    EXPECT_HN_OK(hn_tfevents_scalars(w, 0, INT64_MAX, many.data(), 300));
    EXPECT_EQ(records_of(read_file(hn_tfevents_path(w))).size(), 2u);
    hn_tfevents_close(w);
    write_file(t / "file", "");
    EXPECT_HN_FAIL(hn_tfevents_open((t / "file").c_str(), &w), HN_ERR_IO, "file");
}

TEST(Tfevents, AFailedWriteLeavesWholeRecords)
{
    TempDir t;
    hn_tfevents *w = nullptr;
    ASSERT_HN_OK(hn_tfevents_open(t.str().c_str(), &w));
    const hn_tf_scalar s = {"train/loss", 1};
    {
        FileSizeLimit full(60);
        EXPECT_HN_FAIL(hn_tfevents_scalars(w, 0, 1, &s, 1), HN_ERR_WRITE, "tfevents");
    }
    EXPECT_EQ(records_of(read_file(hn_tfevents_path(w))).size(), 1u);
    EXPECT_HN_OK(hn_tfevents_scalars(w, 0, 2, &s, 1));
    EXPECT_EQ(records_of(read_file(hn_tfevents_path(w))).size(), 2u);
    hn_tfevents_close(w);
}

TEST(Tfevents, SurvivesEveryFailedAllocation)
{
    TempDir t;
    for (uint64_t n = 1;; n++) {
        hn_tfevents *w = nullptr;
        hn_alloc_fail_at(n);
        const hn_status st = hn_tfevents_open(t.str().c_str(), &w);
        hn_alloc_fail_at(0);
        hn_tfevents_close(w);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY);
        ASSERT_LT(n, 20u);
    }
}

} // namespace
