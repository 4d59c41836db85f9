/* runtime/data: readers (plain, gzip, byte order mark), rows of text and JSON, splits. */
#include <sys/stat.h>
#include <zlib.h>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/data/source.h"
#include "runtime/data/source_reader.h"

namespace {

std::string gzip(const std::string &s)
{
    z_stream z = {};
    EXPECT_EQ(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    std::string out(deflateBound(&z, s.size()) + 64, '\0');
    z.next_in = (Bytef *)s.data();
    z.avail_in = (uInt)s.size();
    z.next_out = (Bytef *)out.data();
    z.avail_out = (uInt)out.size();
    EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
    out.resize(z.total_out);
    deflateEnd(&z);
    return out;
}

std::string read_all(hn_reader *r, size_t step)
{
    std::string s, part(step, '\0');
    for (size_t got = 1; got > 0;) {
        if (hn_reader_read(r, part.data(), step, &got) != HN_OK) return "FAILED";
        s.append(part, 0, got);
    }
    return s;
}

struct Row {
    std::string text;
    int64_t line;
    bool first, last, ends;
};

std::vector<Row> rows_of(hn_source *s)
{
    std::vector<Row> v;
    for (hn_row r;;) {
        EXPECT_HN_OK(hn_source_next(s, &r));
        if (r.text == nullptr) return v;
        v.push_back({std::string(r.text, r.n_bytes), r.line, r.first, r.last, r.ends});
    }
}

class Memory {
  public:
    hn_source *s = nullptr;
    hn_status status;
    std::string data;
    Memory(const char *name, const std::string &bytes, hn_source_limits limits = {}) : data(bytes)
    {
        status = hn_source_open_memory(name, data.data(), data.size(), &limits, &s);
    }
    Memory(const Memory &) = delete;
    ~Memory() { hn_source_close(s); }
    std::vector<std::string> texts()
    {
        std::vector<std::string> v;
        for (const Row &r : rows_of(s)) v.push_back(r.text);
        return v;
    }
};

using Texts = std::vector<std::string>;

TEST(Reader, GivesTheSameBytesWhateverTheStep)
{
    std::string text;
    for (int i = 0; i < 40000; i++) text += "line " + std::to_string(i * 7919 % 1000) + "\n";
    const std::string packed = gzip(text),
                      two = gzip(text.substr(0, 1000)) + gzip(text.substr(1000));
    const std::string *const all[] = {&text, &packed, &two};
    for (const std::string *data : all)
        for (size_t step : {1ul, 2ul, 3ul, 4096ul, 1000000ul}) {
            if (step < 4 && data != &two) continue; /* byte by byte is slow */
            hn_reader *r = nullptr;
            ASSERT_HN_OK(hn_reader_open_memory(data->data(), data->size(), "x.jsonl", &r));
            EXPECT_TRUE(read_all(r, step) == text);
            hn_reader_close(r);
        }
}

TEST(Reader, SkipsAByteOrderMarkAlsoInsideGzip)
{
    for (const std::string &data :
         {std::string("\xef\xbb\xbfhi"), gzip("\xef\xbb\xbfhi"), std::string("hi")}) {
        hn_reader *r = nullptr;
        ASSERT_HN_OK(hn_reader_open_memory(data.data(), data.size(), "x", &r));
        EXPECT_EQ(read_all(r, 100), "hi");
        hn_reader_close(r);
    }
}

TEST(Reader, DamagedGzipIsRefused)
{
    const std::string good = gzip(std::string(100000, 'x') + "the end");
    hn_reader *r = nullptr;
    EXPECT_HN_FAIL(hn_reader_open_memory("plain", 5, "a.txt.gz", &r), HN_ERR_FORMAT,
                   "a.txt.gz: not gzip data");
    std::string cut = good.substr(0, good.size() - 5), junk = good + "junk", flip = good;
    flip[good.size() - 6] ^= 1; /* the stored checksum */
    for (const std::string *bad : {&cut, &junk, &flip}) {
        r = nullptr;
        hn_status st = hn_reader_open_memory(bad->data(), bad->size(), "a.gz", &r);
        char to[1 << 16];
        for (size_t got = 1; st == HN_OK && got > 0;) st = hn_reader_read(r, to, sizeof to, &got);
        EXPECT_HN_FAIL(st, HN_ERR_FORMAT, "a.gz: ");
        hn_reader_close(r);
    }
}

TEST(Reader, WantsARegularFile)
{
    TempDir dir;
    hn_reader *r = nullptr;
    EXPECT_HN_FAIL(hn_reader_open((dir / "none.txt").c_str(), &r), HN_ERR_IO, "none.txt");
    EXPECT_HN_FAIL(hn_reader_open(dir.str().c_str(), &r), HN_ERR_IO, "not a regular file");
    ASSERT_EQ(mkfifo((dir / "pipe.txt").c_str(), 0600), 0);
    EXPECT_HN_FAIL(hn_reader_open((dir / "pipe.txt").c_str(), &r), HN_ERR_IO, "not a regular file");
}

TEST(SourceLines, SkipsBlankLinesAndCountsAll)
{
    Memory m("a.jsonl", "\xef\xbb\xbf{\"a\":1}\r\n\n  \t\r\n{\"b\":2}\n{\"c\":3}");
    ASSERT_HN_OK(m.status);
    EXPECT_EQ(hn_source_about(m.s)->n_units, 3);
    const std::vector<Row> v = rows_of(m.s);
    ASSERT_EQ(v.size(), 3u);
    EXPECT_EQ(v[1].text, "{\"b\":2}");
    EXPECT_EQ(v[0].line, 1);
    EXPECT_EQ(v[1].line, 4);
    EXPECT_EQ(v[2].line, 5);
    EXPECT_EQ(v[2].text, "{\"c\":3}");
}

TEST(SourceLines, LongRowIsRefusedWithItsLine)
{
    const std::string row = "{\"text\":\"" + std::string(1 << 20, 'x') + "\"}\n";
    const hn_source_limits limits = {.piece_bytes = 0, .max_row_bytes = 1 << 20};
    Memory ok("a.jsonl", "{}\n" + row);
    EXPECT_HN_OK(ok.status);
    EXPECT_EQ(hn_source_about(ok.s)->n_units, 2);
    Memory bad("a.jsonl", "{}\n" + row, limits);
    EXPECT_HN_FAIL(bad.status, HN_ERR_FORMAT, "a.jsonl:2: row above the limit of 1048576 bytes");
    Memory array("a.json", "[{},\n" + row + "]", limits);
    EXPECT_HN_FAIL(array.status, HN_ERR_FORMAT, "a.json:2: row above the limit of 1048576 bytes");
}

TEST(SourceArray, ElementsAreRows)
{
    Memory m("a.json", " \n[ {\"a\": \"x]}\\\"\"},\n\n {\"b\": [1, {\"c\": 2}]} ]\n ");
    ASSERT_HN_OK(m.status);
    const std::vector<Row> v = rows_of(m.s);
    ASSERT_EQ(v.size(), 2u);
    EXPECT_EQ(v[0].text, "{\"a\": \"x]}\\\"\"}");
    EXPECT_EQ(v[0].line, 2);
    EXPECT_EQ(v[1].text, "{\"b\": [1, {\"c\": 2}]}");
    EXPECT_EQ(v[1].line, 4);
    Memory empty("a.json", "[]");
    EXPECT_HN_OK(empty.status);
    EXPECT_EQ(hn_source_about(empty.s)->n_units, 0);
    Memory lines("a.json", "{\"a\":1}\n{\"a\":2}\n");
    EXPECT_HN_OK(lines.status);
    EXPECT_EQ(hn_source_about(lines.s)->n_units, 2);
}

TEST(SourceArray, LongElementArrivesWhole)
{
    const std::string big = "{\"t\":\"" + std::string(300000, '{') + "\\\\\"}";
    Memory m("a.json", "[" + big + "," + big + "]");
    ASSERT_HN_OK(m.status);
    EXPECT_TRUE(m.texts() == (Texts{big, big}));
}

TEST(SourceArray, BrokenArraysNameTheLine)
{
    const struct {
        const char *text, *error;
    } cases[] = {{"[{},\n{}", "a.json:2: the array does not end"},
                 {"[{},\n]", "a.json:2: element of the array is not an object"},
                 {"[,{}]", "a.json:1: element of the array is not an object"},
                 {"[{}\n\n{}]", "a.json:3: expected ',' or ']'"},
                 {"[{}]\n[", "a.json:2: text behind the array"},
                 {"[1]", "a.json:1: element of the array is not an object"},
                 {"[\n{\"a\": [1", "a.json:2: the object that begins here does not end"}};
    for (const auto &c : cases) {
        Memory m("a.json", c.text);
        EXPECT_HN_FAIL(m.status, HN_ERR_FORMAT, c.error);
    }
}

TEST(SourceText, CrLfBecomesLfAcrossReads)
{
    std::string crlf, lf;
    for (int i = 0; i < 30000; i++) { /* 64 KiB reads end between CR and LF somewhere */
        const std::string word(1 + (size_t)(i % 3), 'a');
        crlf += word + "\r\n";
        lf += word + "\n";
    }
    Memory m("a.txt", crlf + "\r\r\nend\r");
    ASSERT_HN_OK(m.status);
    EXPECT_TRUE(m.texts() == Texts{lf + "\r\nend\r"});
    EXPECT_EQ(hn_source_about(m.s)->n_units, (int64_t)lf.size() + 6);
}

TEST(SourceText, PiecesEndBehindLinesAndJoinToTheDocument)
{
    std::string text;
    for (int i = 0; i < 200; i++) text += "line number " + std::to_string(i) + "\n";
    const hn_source_limits limits = {.piece_bytes = 100, .max_row_bytes = 0};
    Memory m("a.txt", text, limits);
    ASSERT_HN_OK(m.status);
    const std::vector<Row> v = rows_of(m.s);
    std::string joined;
    int64_t line = 1;
    for (size_t i = 0; i < v.size(); i++) {
        EXPECT_EQ(v[i].first, i == 0);
        EXPECT_EQ(v[i].last, i + 1 == v.size());
        EXPECT_EQ(v[i].ends, i + 1 == v.size());
        EXPECT_EQ(v[i].text.back(), '\n');
        EXPECT_LE(v[i].text.size(), 100u);
        EXPECT_EQ(v[i].line, line);
        line += std::count(v[i].text.begin(), v[i].text.end(), '\n');
        joined += v[i].text;
    }
    EXPECT_EQ(joined, text);
    std::string letters; /* no line end, no space: whole characters */
    for (int i = 0; i < 100; i++) letters += "\xe2\x82\xac";
    Memory euro("a.txt", letters, limits);
    ASSERT_HN_OK(euro.status);
    EXPECT_EQ(euro.texts()[0].size(), 99u);
}

TEST(SourceText, RefusesWhatIsNotText)
{
    const std::pair<std::string, const char *> cases[] = {
        {std::string("ab\nc\0d", 6), "a.txt:2: byte 0x00"},
        {"x\n\ny\xffz", "a.txt:3: byte 0xff"},
        {"x\xe2\x82", "a.txt:1: byte 0xe2"}};
    for (const auto &c : cases) {
        Memory m("a.txt", c.first);
        EXPECT_HN_FAIL(m.status, HN_ERR_FORMAT, c.second);
    }
}

TEST(SourceSplit, TextIsCutAtALineEnd)
{
    const std::string text = "0123456\n89\nbcdefghijklmno\nqrst"; /* 30 bytes */
    Memory m("a.txt", text);
    ASSERT_HN_OK(m.status);
    for (double share = 0.05; share < 0.95; share += 0.05) {
        int64_t cut = 0;
        if (share < 0.12) { /* the last line has no end of its own */
            EXPECT_HN_FAIL(hn_source_split(m.s, share, &cut), HN_ERR_FORMAT, "cannot be split");
            continue;
        }
        ASSERT_HN_OK(hn_source_split(m.s, share, &cut));
        EXPECT_EQ(text[(size_t)cut - 1], '\n');
        EXPECT_GE(cut, 30 - (int64_t)std::floor(30 * share + 0.5));
        ASSERT_HN_OK(hn_source_select(m.s, 0, cut));
        const std::vector<Row> head = rows_of(m.s);
        ASSERT_HN_OK(hn_source_select(m.s, cut, 30));
        const std::vector<Row> tail = rows_of(m.s);
        ASSERT_EQ(head.size(), 1u);
        ASSERT_EQ(tail.size(), 1u);
        EXPECT_EQ(head[0].text + tail[0].text, text);
        EXPECT_TRUE(head[0].first && head[0].last && !head[0].ends);
        EXPECT_TRUE(tail[0].first && tail[0].last && tail[0].ends);
        EXPECT_EQ(tail[0].line, 1 + std::count(text.begin(), text.begin() + cut, '\n'));
    }
}

TEST(SourceSplit, EveryCutOfManyDocumentsKeepsAllText)
{
    TempDir dir;
    const Texts docs = {"aaa\nbb\n", "", "cc\nddd", "e\n"};
    std::string list, all;
    for (size_t i = 0; i < docs.size(); i++) {
        const std::string path = dir / (std::to_string(i) + ".txt");
        write_file(path, docs[i]);
        list += (i ? "," : "") + path;
        all += docs[i];
    }
    const hn_source_limits limits = {.piece_bytes = 64, .max_row_bytes = 0};
    hn_source *s = nullptr;
    ASSERT_HN_OK(hn_source_open(list.c_str(), &limits, &s));
    const int64_t n = hn_source_about(s)->n_units;
    EXPECT_EQ(n, (int64_t)all.size());
    for (int64_t cut = 0; cut <= n; cut++) {
        std::string joined;
        ASSERT_HN_OK(hn_source_select(s, 0, cut));
        for (const Row &r : rows_of(s)) joined += r.text;
        EXPECT_EQ((int64_t)joined.size(), cut);
        ASSERT_HN_OK(hn_source_select(s, cut, n));
        for (const Row &r : rows_of(s)) joined += r.text;
        EXPECT_EQ(joined, all);
    }
    hn_source_close(s);
}

TEST(SourceSplit, RowsAreCutByNumber)
{
    std::string text;
    for (int i = 0; i < 10; i++) text += "{\"i\":" + std::to_string(i) + "}\n";
    Memory m("a.jsonl", text);
    int64_t cut = 0;
    ASSERT_HN_OK(hn_source_split(m.s, 0.25, &cut));
    EXPECT_EQ(cut, 7);
    ASSERT_HN_OK(hn_source_select(m.s, cut, 10));
    EXPECT_EQ(m.texts(), (Texts{"{\"i\":7}", "{\"i\":8}", "{\"i\":9}"}));
    EXPECT_HN_FAIL(hn_source_split(m.s, 0.01, &cut), HN_ERR_FORMAT, "neither part is empty");
    EXPECT_HN_FAIL(hn_source_split(m.s, 1.5, &cut), HN_ERR_ARG, "between 0 and 1");
}

TEST(SourceFiles, NamesWhatItCannotTake)
{
    TempDir dir;
    hn_source *s = nullptr;
    write_file(dir / "a.txt", "x");
    write_file(dir / "b.jsonl", "{}");
    EXPECT_HN_FAIL(hn_source_open("data.parquet", nullptr, &s), HN_ERR_ARG, "data.parquet");
    EXPECT_HN_FAIL(hn_source_open((dir / "a.txt" + "," + (dir / "b.jsonl")).c_str(), nullptr, &s),
                   HN_ERR_ARG, "cannot be mixed");
    EXPECT_HN_FAIL(hn_source_open((dir / "a.txt" + ",").c_str(), nullptr, &s), HN_ERR_ARG,
                   "empty name");
    EXPECT_HN_FAIL(hn_source_open((dir / "gone.jsonl").c_str(), nullptr, &s), HN_ERR_IO,
                   "gone.jsonl");
    write_file(dir / "with,comma.jsonl", "{}\n{}");
    ASSERT_HN_OK(hn_source_open((dir / "with,comma.jsonl").c_str(), nullptr, &s));
    EXPECT_EQ(hn_source_about(s)->n_units, 2);
    hn_source_close(s);
}

TEST(SourceFiles, FolderGivesOneFileOrAnError)
{
    TempDir dir;
    const char *const names[] = {"valid", "eval", nullptr};
    char *path = nullptr;
    ASSERT_HN_OK(hn_source_find(dir.str().c_str(), names, &path));
    EXPECT_EQ(path, nullptr);
    write_file(dir / "eval.txt.gz", gzip("x"));
    ASSERT_HN_OK(hn_source_find(dir.str().c_str(), names, &path));
    EXPECT_STREQ(path, (dir / "eval.txt.gz").c_str());
    hn_free(path);
    write_file(dir / "valid.jsonl", "{}");
    EXPECT_HN_FAIL(hn_source_find(dir.str().c_str(), names, &path), HN_ERR_ARG, "are both there");
}

TEST(SourceFiles, DigestFollowsTheBytesNotTheName)
{
    TempDir dir;
    auto digest = [&](const std::string &list) {
        hn_source *s = nullptr;
        EXPECT_HN_OK(hn_source_open(list.c_str(), nullptr, &s));
        const std::string d = s ? hn_source_about(s)->digest : "";
        hn_source_close(s);
        return d;
    };
    write_file(dir / "a.txt", "ab\n");
    write_file(dir / "b.txt", "c\n");
    write_file(dir / "c.txt.gz", gzip("ab\n"));
    write_file(dir / "d.txt", "ab\nc\n");
    EXPECT_EQ(digest(dir / "a.txt"), digest(dir / "c.txt.gz"));
    EXPECT_NE(digest(dir / "a.txt"), digest(dir / "b.txt"));
    EXPECT_NE(digest(dir / "a.txt" + "," + (dir / "b.txt")), digest(dir / "d.txt"));
}

TEST(SourceFiles, ChangeBetweenTheTwoReadsIsNoticed)
{
    TempDir dir;
    write_file(dir / "a.txt", "one\ntwo\n");
    hn_source *s = nullptr;
    ASSERT_HN_OK(hn_source_open((dir / "a.txt").c_str(), nullptr, &s));
    write_file(dir / "a.txt", "one\n");
    hn_row r;
    ASSERT_HN_OK(hn_source_next(s, &r));
    EXPECT_HN_FAIL(hn_source_next(s, &r), HN_ERR_FORMAT, "changed while it was read");
    hn_source_close(s);
}

TEST(SourceFiles, EveryFailedAllocationIsReported)
{
    const std::string text = gzip("{\"a\":1}\n{\"b\":2}\n");
    for (uint64_t nth = 1;; nth++) {
        hn_alloc_fail_at(nth);
        hn_source *s = nullptr;
        const hn_status st =
            hn_source_open_memory("a.jsonl.gz", text.data(), text.size(), nullptr, &s);
        hn_alloc_fail_at(0);
        hn_source_close(s);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        ASSERT_LT(nth, 100u);
    }
}

} // namespace
