/* runtime/data: token cache and data sets: masks, end tokens, threads, cache files, splits, errors.
 */
#include <sys/stat.h>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/data/dataset.h"

namespace {

std::string utf8(unsigned code) /* below U+0800 */
{
    if (code < 0x80) return std::string(1, (char)code);
    return std::string{(char)(0xc0 | code >> 6), (char)(0x80 | (code & 0x3f))};
}

/* How byte-level BPE spells a byte. */
std::string byte_piece(unsigned byte)
{
    auto printable = [](unsigned b) {
        return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    };
    if (printable(byte)) return utf8(byte);
    unsigned n = 0;
    for (unsigned b = 0; b < byte; b++) n += !printable(b);
    return utf8(256 + n);
}

constexpr int32_t kBos = 259, kEos = 260;

/* Byte-level BPE with the merges t h, th e; BOS added in front. */
struct Tokenizer {
    TempDir dir;
    hn_tokenizer *t = nullptr;
    Tokenizer()
    {
        json_t *vocab = json_object();
        for (unsigned b = 0; b < 256; b++)
            json_object_set_new(vocab, byte_piece(b).c_str(), json_integer(b));
        const char *const more[] = {"th", "the", "zz", "<bos>", "<eos>"};
        for (int i = 0; i < 5; i++) json_object_set_new(vocab, more[i], json_integer(256 + i));
        EXPECT_HN_OK(hn_json_save((dir / "vocab.json").c_str(), vocab, false));
        json_decref(vocab);
        write_file(dir / "merges.txt", "#version: 0.2\nt h\nth e\nz z\n");
        write_file(dir / "tokenizer_config.json",
                   R"({"bos_token":"<bos>","eos_token":"<eos>","add_bos_token":true})");
        EXPECT_HN_OK(hn_tokenizer_load(dir.str().c_str(), &t));
    }
    ~Tokenizer() { hn_tokenizer_free(t); }
    std::string text(const std::vector<int32_t> &ids) const
    {
        hn_text s = {};
        EXPECT_HN_OK(hn_tokenizer_decode(t, ids.data(), (int64_t)ids.size(), true, &s));
        const std::string out = s.s ? std::string(s.s, s.n) : "";
        hn_text_free(&s);
        return out;
    }
};

struct Log {
    std::string text;
    hn_log log = {say, this};
    static void say(void *context, hn_log_level level, const char *line)
    {
        ((Log *)context)->text += (level == HN_LOG_WARN ? "W " : "I ") + std::string(line) + "\n";
    }
    bool has(const char *part) const { return text.find(part) != std::string::npos; }
};

/* Words of a sample as (id, trained). */
std::vector<int32_t> words(const hn_dataset *d, int64_t i)
{
    const hn_token_cache *c = hn_dataset_tokens(d);
    return {c->word + c->offset[i], c->word + c->offset[i + 1]};
}

std::vector<int32_t> all_words(const hn_dataset *d)
{
    const hn_token_cache *c = hn_dataset_tokens(d);
    return {c->word, c->word + c->n_words};
}

std::vector<int32_t> trained(const std::vector<int32_t> &w)
{
    std::vector<int32_t> ids;
    for (int32_t v : w)
        if (v >= 0) ids.push_back(v);
    return ids;
}

class DatasetTest : public ::testing::Test {
  protected:
    TempDir dir;
    Tokenizer tok;
    Log log;
    hn_dataset_options o = {};
    hn_dataset *d = nullptr, *e = nullptr;
    std::string path;

    void SetUp() override
    {
        o.cache_dir = "off";
        o.log = &log.log;
        o.threads = 2;
    }
    void TearDown() override { clear(); }
    void clear()
    {
        hn_dataset_free(d);
        hn_dataset_free(e);
        d = e = nullptr;
    }
    hn_status open(const std::string &name, const std::string &bytes)
    {
        path = dir / name;
        write_file(path, bytes);
        o.data = path.c_str();
        return reopen();
    }
    hn_status reopen()
    {
        clear();
        return hn_dataset_open(&o, tok.t, &d, &e);
    }
};

using Ids = std::vector<int32_t>;

TEST_F(DatasetTest, TextTrainsEveryTokenButTheFirst)
{
    ASSERT_HN_OK(open("a.txt", "the hat"));
    EXPECT_EQ(all_words(d), (Ids{~kBos, 257, ' ', 'h', 'a', 't', kEos}));
    EXPECT_EQ(hn_dataset_stats(d)->trained, 6);
    EXPECT_EQ(e, nullptr);
    ASSERT_HN_OK(open("a.jsonl", "{\"text\":\"ab\"}\n{\"text\":\"\"}\n{\"text\":\"c\"}\n"));
    ASSERT_EQ(hn_dataset_stats(d)->samples, 2);
    EXPECT_EQ(words(d, 0), (Ids{~kBos, 'a', 'b', kEos}));
    EXPECT_EQ(words(d, 1), (Ids{~kBos, 'c', kEos}));
    EXPECT_EQ(hn_dataset_stats(d)->dropped_empty, 1);
    EXPECT_TRUE(hn_dataset_continues(d));
}

TEST_F(DatasetTest, WithoutBosTheFirstTokenIsStillNoTarget)
{
    write_file(tok.dir / "tokenizer_config.json", "{}");
    hn_tokenizer_free(tok.t);
    tok.t = nullptr;
    ASSERT_HN_OK(hn_tokenizer_load(tok.dir.str().c_str(), &tok.t));
    ASSERT_HN_OK(open("a.txt", "abc"));
    EXPECT_EQ(all_words(d), (Ids{~'a', 'b', 'c'}));
}

TEST_F(DatasetTest, CompletionAndEosAreTrained)
{
    ASSERT_HN_OK(open("a.jsonl", "{\"prompt\":\"Q: 1\\n\",\"completion\":\"A the\"}\n"));
    EXPECT_EQ(all_words(d), (Ids{~kBos, ~'Q', ~':', ~' ', ~'1', ~'\n', 'A', ' ', 257, kEos}));
    EXPECT_FALSE(hn_dataset_continues(d));
    o.train_on_prompt = true;
    ASSERT_HN_OK(reopen());
    EXPECT_EQ(trained(all_words(d)).size(), 9u);
}

TEST_F(DatasetTest, TokenAcrossTheBoundaryIsTrainedAndCounted)
{
    ASSERT_HN_OK(open("a.jsonl", "{\"prompt\":\"a t\",\"completion\":\"he\"}\n"));
    EXPECT_EQ(all_words(d), (Ids{~kBos, ~'a', ~' ', 257, kEos}));
    EXPECT_EQ(hn_dataset_stats(d)->joined, 1);
    hn_dataset_report(d, &log.log);
    EXPECT_TRUE(log.has("W   in 1 rows the prompt's last token"));
}

TEST_F(DatasetTest, SpecialTokensInTheDataCountOnlyWhenAskedFor)
{
    ASSERT_HN_OK(open("a.jsonl", "{\"text\":\"a<eos>\"}"));
    EXPECT_EQ(all_words(d), (Ids{~kBos, 'a', '<', 'e', 'o', 's', '>', kEos}));
    o.parse_special = true;
    ASSERT_HN_OK(reopen());
    EXPECT_EQ(all_words(d), (Ids{~kBos, 'a', kEos})) << "and no second EOS behind it";
}

TEST_F(DatasetTest, PretokenisedRowsKeepTheirLabels)
{
    ASSERT_HN_OK(open("a.jsonl", "{\"input_ids\":[5,6,7],\"labels\":[5,-100,7]}\n"
                                 "{\"input_ids\":[8],\"labels\":[8]}\n"
                                 "{\"input_ids\":[8,9],\"labels\":[-100,-100]}\n"
                                 "{\"input_ids\":[]}\n{\"input_ids\":[1,2]}\n"));
    ASSERT_EQ(hn_dataset_stats(d)->samples, 2);
    EXPECT_EQ(words(d, 0), (Ids{~5, ~6, 7})) << "no BOS or EOS is added";
    EXPECT_EQ(words(d, 1), (Ids{~1, 2}));
    EXPECT_EQ(hn_dataset_stats(d)->dropped_masked, 2);
    EXPECT_EQ(hn_dataset_stats(d)->dropped_empty, 1);
    EXPECT_EQ(hn_dataset_stats(d)->rows, 5);
}

TEST_F(DatasetTest, AlpacaTrainsTheOutput)
{
    HN_NEED_DATA(data, "instruct-1100/instruction-data.json");
    o.data = data.c_str();
    ASSERT_HN_OK(reopen());
    EXPECT_TRUE(log.has("1100 rows, format alpaca (as the first 100 show)")) << log.text;
    json_t *rows = nullptr;
    ASSERT_HN_OK(hn_json_load(data.c_str(), &rows));
    int64_t sample = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const char *output = json_string_value(json_object_get(json_array_get(rows, i), "output"));
        if (*output == '\0') continue;
        const Ids w = words(d, sample++);
        const Ids ids = trained(w);
        EXPECT_EQ(tok.text(ids), output);
        EXPECT_EQ(ids.back(), kEos);
        Ids whole;
        for (int32_t v : w) whole.push_back(hn_word_id(v));
        EXPECT_EQ(tok.text(whole).find("Below is an instruction that describes a task"), 0u);
    }
    EXPECT_EQ(sample, hn_dataset_stats(d)->samples);
    json_decref(rows);
}

TEST_F(DatasetTest, PreferenceDataAreRefusedButMayBeReadAsAlpaca)
{
    HN_NEED_DATA(data, "instruct-1100/instruction-data-with-preference.json");
    o.data = data.c_str();
    EXPECT_HN_FAIL(reopen(), HN_ERR_UNSUPPORTED, "format preference need a chat template");
    o.format.format = HN_DATA_ALPACA;
    EXPECT_HN_OK(reopen());
}

TEST_F(DatasetTest, Gsm8kThroughNamedColumns)
{
    HN_NEED_DATA(data, "gsm8k/test.jsonl.gz");
    o.data = data.c_str();
    EXPECT_HN_FAIL(reopen(), HN_ERR_FORMAT, "keys question, answer fit no known format");
    o.format.prompt_key = "question";
    o.format.completion_key = "answer";
    o.format.separator = "\n";
    ASSERT_HN_OK(reopen());
    EXPECT_EQ(hn_dataset_stats(d)->samples, 1319);
    EXPECT_EQ(hn_dataset_stats(d)->joined, 0);
    const std::string first = tok.text(trained(words(d, 0)));
    EXPECT_EQ(first.find("Janet sells 16 - 3 - 4"), 0u);
    EXPECT_EQ(first.substr(first.size() - 7), "#### 18");
}

TEST_F(DatasetTest, NewlineIsUnknownToBabyllamaAndCheckSaysSo)
{
    HN_NEED_DATA(data, "tinyshakespeare/input.txt");
    HN_NEED_DATA(model, "babyllama-char105/tok105.model");
    hn_tokenizer *t = nullptr;
    ASSERT_HN_OK(hn_tokenizer_load(model.c_str(), &t));
    o.data = data.c_str();
    o.eval_split = 0.1;
    ASSERT_HN_OK(hn_dataset_open(&o, t, &d, &e));
    const std::string text = read_file(data);
    const int64_t lines = std::count(text.begin(), text.end(), '\n');
    const hn_token_stats *a = hn_dataset_stats(d), *b = hn_dataset_stats(e);
    EXPECT_EQ(a->unk_char[0], '\n');
    EXPECT_EQ(a->unk_kinds, 1);
    EXPECT_EQ(a->unk_count[0] + b->unk_count[0], lines);
    hn_dataset_report(d, &log.log);
    EXPECT_TRUE(log.has("<unk>: the vocabulary lacks 1 character(s) of these data: newline x "))
        << log.text;
    /* the held-out part is the last tenth of the bytes, from a line's start */
    EXPECT_NEAR((double)b->tokens / (double)(a->tokens + b->tokens), 0.1, 0.001);
    EXPECT_EQ(a->tokens, a->trained + 1);
    hn_tokenizer_free(t);
}

TEST_F(DatasetTest, EndTokenThatIsAlsoNamedUnknownIsNotCounted)
{
    write_file(tok.dir / "tokenizer_config.json",
               R"({"bos_token":"<bos>","eos_token":"<eos>","unk_token":"<eos>"})");
    hn_tokenizer_free(tok.t);
    tok.t = nullptr;
    ASSERT_HN_OK(hn_tokenizer_load(tok.dir.str().c_str(), &tok.t));
    ASSERT_EQ(hn_tokenizer_unk(tok.t), kEos);
    for (const char *row : {"{\"text\":\"ab<eos>\"}", "{\"input_ids\":[5,260]}"})
        for (bool parse : {false, true}) {
            o.parse_special = parse;
            ASSERT_HN_OK(open("a.jsonl", row));
            EXPECT_EQ(hn_dataset_tokens(d)->word[hn_dataset_tokens(d)->n_words - 1], kEos);
            EXPECT_EQ(hn_dataset_stats(d)->unk, 0);
        }
}

TEST_F(DatasetTest, ResultDoesNotDependOnThreads)
{
    std::string rows, text;
    for (int i = 0; i < 2500; i++) {
        rows += "{\"prompt\":\"the question " + std::to_string(i) + " is\",\"completion\":\"" +
                std::string((size_t)(i * 37 % 41), "thezz \n"[i % 5]) + "\"}\n";
        text += "the line " + std::to_string(i * 7919) + " \xc3\xa9\n";
    }
    o.limits.piece_bytes = 4096;
    const std::pair<const char *, const std::string *> files[] = {{"a.jsonl", &rows},
                                                                  {"a.txt", &text}};
    for (const auto &f : files) {
        Ids expected;
        hn_token_stats stats = {};
        for (int threads : {1, 2, 7}) {
            o.threads = threads;
            ASSERT_HN_OK(open(f.first, *f.second));
            if (threads == 1) expected = all_words(d), stats = *hn_dataset_stats(d);
            EXPECT_TRUE(all_words(d) == expected);
            EXPECT_EQ(std::memcmp(&stats, hn_dataset_stats(d), sizeof stats), 0);
        }
    }
}

TEST_F(DatasetTest, FirstBadRowIsTheOneReported)
{
    std::string rows;
    for (int i = 0; i < 5000; i++)
        rows += i == 3111 || i == 4222 ? "{\"text\":1}\n" : "{\"text\":\"the fine\"}\n";
    for (int threads : {1, 2, 5}) {
        o.threads = threads;
        EXPECT_HN_FAIL(open("a.jsonl", rows), HN_ERR_FORMAT,
                       "a.jsonl:3112: key 'text' is not a string");
    }
    o.threads = 1000;
    EXPECT_HN_FAIL(open("a.jsonl", rows), HN_ERR_ARG, "1000 tokenizer threads");
}

TEST_F(DatasetTest, ProgressReachesTheEnd)
{
    struct Told {
        int64_t rows = 0;
        double share = 0;
    } told;
    o.tell = [](void *context, const hn_data_progress *p) {
        Told *t = (Told *)context;
        EXPECT_GE(p->rows, t->rows);
        t->rows = p->rows, t->share = p->share;
    };
    o.tell_context = &told;
    std::string rows;
    for (int i = 0; i < 3000; i++) rows += "{\"text\":\"abc\"}\n";
    ASSERT_HN_OK(open("a.jsonl", rows));
    EXPECT_EQ(told.rows, 3000);
    EXPECT_EQ(told.share, 1.0);
}

TEST_F(DatasetTest, LengthsAreMeasured)
{
    std::string rows; /* lengths 3 .. 102 with BOS and EOS */
    for (int i = 1; i <= 100; i++)
        rows += "{\"text\":\"" + std::string((size_t)(i * 37 % 101), 'a') + "\"}\n";
    ASSERT_HN_OK(open("a.jsonl", rows));
    const hn_token_stats *s = hn_dataset_stats(d);
    EXPECT_EQ(s->token_min, 3);
    EXPECT_EQ(s->token_median, 52);
    EXPECT_EQ(s->token_p95, 98);
    EXPECT_EQ(s->token_max, 102);
    EXPECT_EQ(s->tokens, 100 * 105 / 2);
    EXPECT_EQ(s->trained, s->tokens - 100);
}

/* ---- held-out data ---- */

TEST_F(DatasetTest, SplitTextBeginsAndEndsAsDocumentsDo)
{
    o.eval_split = 0.5;
    ASSERT_HN_OK(open("a.txt", "ab\ncd\nef\n"));
    ASSERT_NE(e, nullptr);
    EXPECT_EQ(all_words(d), (Ids{~kBos, 'a', 'b', '\n', 'c', 'd', '\n'})) << "no EOS at the cut";
    EXPECT_EQ(all_words(e), (Ids{~kBos, 'e', 'f', '\n', kEos}));
    EXPECT_STRNE(hn_dataset_digest(d), hn_dataset_digest(e));
}

TEST_F(DatasetTest, SplitOfRowsIsAPartition)
{
    std::string rows;
    for (int i = 0; i < 10; i++) rows += "{\"text\":\"" + std::string(1, (char)('a' + i)) + "\"}\n";
    o.eval_split = 0.2;
    ASSERT_HN_OK(open("a.jsonl", rows));
    EXPECT_EQ(hn_dataset_stats(d)->samples, 8);
    EXPECT_EQ(hn_dataset_stats(e)->samples, 2);
    EXPECT_EQ(words(e, 0), (Ids{~kBos, 'i', kEos}));
}

TEST_F(DatasetTest, FolderHoldsTrainAndValid)
{
    write_file(dir / "train.jsonl", "{\"text\":\"a\"}");
    write_file(dir / "validation.txt", "b");
    const std::string folder = dir.str(), train = dir / "train.jsonl";
    o.data = folder.c_str();
    ASSERT_HN_OK(reopen());
    EXPECT_EQ(all_words(d), (Ids{~kBos, 'a', kEos}));
    ASSERT_NE(e, nullptr);
    EXPECT_EQ(all_words(e), (Ids{~kBos, 'b', kEos}));
    o.eval_data = train.c_str();
    ASSERT_HN_OK(reopen());
    EXPECT_EQ(all_words(e), all_words(d));
    EXPECT_TRUE(log.has("validation.txt is not used"));
    o.eval_split = 0.5;
    EXPECT_HN_FAIL(reopen(), HN_ERR_ARG, "exclude each other");
    o.eval_split = 0;
    o.eval_data = folder.c_str();
    EXPECT_HN_FAIL(reopen(), HN_ERR_ARG, "is a folder");
    std::filesystem::remove(train);
    o.eval_data = nullptr;
    EXPECT_HN_FAIL(reopen(), HN_ERR_IO, "no train.jsonl");
}

TEST_F(DatasetTest, OnlyWhatIsWantedIsOpened)
{
    write_file(dir / "train.jsonl", "{\"text\":\"a\"}");
    write_file(dir / "valid.jsonl", "{\"text\":\"b\"}");
    const std::string folder = dir.str();
    o.data = folder.c_str();
    ASSERT_HN_OK(hn_dataset_open(&o, tok.t, nullptr, &e));
    EXPECT_EQ(all_words(e), (Ids{~kBos, 'b', kEos}));
    ASSERT_HN_OK(hn_dataset_open(&o, tok.t, &d, nullptr));
    EXPECT_EQ(all_words(d), (Ids{~kBos, 'a', kEos}));
}

/* ---- errors ---- */

TEST_F(DatasetTest, NothingToTrainOnIsAnError)
{
    for (const char *name : {"a.txt", "a.jsonl", "a.json"})
        EXPECT_HN_FAIL(open(name, ""), HN_ERR_FORMAT, "no rows");
    EXPECT_HN_FAIL(open("a.json", "[]"), HN_ERR_FORMAT, "no rows");
    EXPECT_HN_FAIL(open("a.jsonl", "{\"text\":\"\"}"), HN_ERR_FORMAT, "no trained tokens");
    EXPECT_HN_FAIL(open("a.jsonl", "{\"input_ids\":[1,2],\"labels\":[-100,-100]}"), HN_ERR_FORMAT,
                   "no trained tokens: of 1 rows 0 are empty and 1 have every label masked");
    EXPECT_EQ(hn_status_exit_code(HN_ERR_FORMAT), 2);
    EXPECT_HN_FAIL(open("a.jsonl", "{\"prompt\":\"a\",\"completion\":\"\"}"), HN_ERR_FORMAT,
                   "no trained tokens");
    o.data = nullptr;
    EXPECT_HN_FAIL(reopen(), HN_ERR_ARG, "no data file");
    o.data = "/nowhere/x.jsonl";
    EXPECT_HN_FAIL(reopen(), HN_ERR_IO, "/nowhere/x.jsonl");
    EXPECT_EQ(d, nullptr);
}

TEST_F(DatasetTest, FailureLeavesNoFileBehind)
{
    const std::string cache = dir / "cache";
    o.cache_dir = cache.c_str();
    EXPECT_EQ(open("a.jsonl", "{\"text\":\"a\"}\n{\"text\":2}\n"), HN_ERR_FORMAT);
    EXPECT_EQ(open("a.jsonl", "{\"text\":\"\"}\n"), HN_ERR_FORMAT);
    EXPECT_TRUE(std::filesystem::is_empty(cache));
}

TEST_F(DatasetTest, EveryFailedAllocationIsReported)
{
    const std::string cache = dir / "cache";
    o.threads = 1;
    for (const char *where : {"off", cache.c_str()}) {
        o.cache_dir = where;
        o.eval_split = 0.4;
        ASSERT_HN_OK(open("a.jsonl", "{\"text\":\"the a\"}\n{\"text\":\"b\"}\n{\"text\":\"c\"}\n"));
        for (uint64_t nth = 1;; nth++) {
            clear();
            std::filesystem::remove_all(cache);
            hn_alloc_fail_at(nth);
            const hn_status st = hn_dataset_open(&o, tok.t, &d, &e);
            hn_alloc_fail_at(0);
            if (st == HN_OK) break;
            ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
            ASSERT_EQ(d, nullptr);
            ASSERT_LT(nth, 1000u);
        }
    }
}

/* ---- cache files ---- */

class TokenCache : public DatasetTest {
  protected:
    std::string cache;
    void SetUp() override
    {
        DatasetTest::SetUp();
        cache = dir / "cache";
        o.cache_dir = cache.c_str();
    }
    std::vector<std::string> files() const
    {
        std::vector<std::string> v;
        for (const auto &f : std::filesystem::directory_iterator(cache)) v.push_back(f.path());
        return v;
    }
};

TEST_F(TokenCache, SecondOpenReadsTheFile)
{
    ASSERT_HN_OK(open("a.jsonl", "{\"text\":\"the\"}\n{\"text\":\"xy\"}\n"));
    const Ids built = all_words(d);
    const hn_token_stats stats = *hn_dataset_stats(d);
    ASSERT_EQ(files().size(), 1u);
    const std::string bytes = read_file(files()[0]);
    EXPECT_NE(files()[0].find(hn_dataset_digest(d)), std::string::npos);
    log.text.clear();
    ASSERT_HN_OK(reopen());
    EXPECT_TRUE(log.has("tokens of ")) << log.text;
    EXPECT_TRUE(log.has(": from "));
    EXPECT_EQ(all_words(d), built);
    EXPECT_EQ(std::memcmp(&stats, hn_dataset_stats(d), sizeof stats), 0);
    ASSERT_HN_OK(hn_remove_tree(cache.c_str()));
    o.threads = 5;
    ASSERT_HN_OK(open("other_name.jsonl", "{\"text\":\"the\"}\n{\"text\":\"xy\"}\n"));
    EXPECT_TRUE(read_file(files()[0]) == bytes) << "same data, same bytes";
}

TEST_F(TokenCache, DamagedFileIsBuiltAgain)
{
    ASSERT_HN_OK(open("a.jsonl", "{\"text\":\"the\"}\n{\"text\":\"xyz\"}\n"));
    const Ids built = all_words(d);
    const std::string file = files()[0], good = read_file(file);
    std::vector<std::string> damaged = {"", good.substr(0, good.size() - 5), good + "x"};
    for (size_t i = 0; i < good.size(); i += 13) {
        damaged.push_back(good);
        damaged.back()[i] ^= 0x40;
    }
    for (const std::string &bad : damaged) {
        clear();
        write_file(file, bad);
        log.text.clear();
        ASSERT_HN_OK(reopen());
        EXPECT_TRUE(log.has("W token cache is built again")) << log.text;
        EXPECT_EQ(all_words(d), built);
        EXPECT_TRUE(read_file(file) == good);
    }
}

TEST_F(TokenCache, ForgedCountsAndOffsetsAreRefused)
{
    ASSERT_HN_OK(open("a.jsonl", "{\"text\":\"the\"}\n{\"text\":\"xyz\"}\n"));
    const std::string file = files()[0], good = read_file(file), key = hn_dataset_digest(d);
    clear();
    const size_t end = good.size() - 144, n_words = 8, offsets = 16 + n_words * 4;
    auto load = [&](size_t at, int64_t value, size_t size) {
        std::string bad = good;
        std::memcpy(bad.data() + at, &value, size);
        char hex[HN_SHA256_HEX];
        EXPECT_HN_OK(hn_sha256(bad.data(), bad.size() - 64, hex));
        std::memcpy(bad.data() + bad.size() - 64, hex, 64); /* the forger knows SHA-256 */
        write_file(file, bad);
        hn_token_cache c = {};
        const hn_status st = hn_token_cache_load(file.c_str(), key.c_str(), 261, &c);
        hn_token_cache_free(&c);
        return st;
    };
    EXPECT_HN_OK(load(16, ~INT64_C(7), 4));
    EXPECT_HN_FAIL(load(16, 261, 4), HN_ERR_FORMAT, "token 0 is 261");
    EXPECT_HN_FAIL(load(16, ~INT64_C(261), 4), HN_ERR_FORMAT, "token 0 is 261");
    EXPECT_HN_FAIL(load(offsets, 1, 8), HN_ERR_FORMAT, "do not span");
    EXPECT_HN_FAIL(load(offsets + 8, 0, 8), HN_ERR_FORMAT, "offset of sample 0");
    EXPECT_HN_FAIL(load(offsets + 8, 99, 8), HN_ERR_FORMAT, "offset of sample 1");
    for (int64_t n : {INT64_C(-1), INT64_C(0), INT64_C(9), INT64_MAX, INT64_MAX / 4})
        EXPECT_HN_FAIL(load(end, n, 8), HN_ERR_FORMAT, "do not fit");
    EXPECT_HN_FAIL(load(end + 8, INT64_MAX / 8, 8), HN_ERR_FORMAT, "do not fit");
    EXPECT_HN_FAIL(load(0, 0, 1), HN_ERR_FORMAT, "not a token file");
    hn_token_cache c = {};
    EXPECT_HN_FAIL(hn_token_cache_load((dir / "none").c_str(), key.c_str(), 261, &c), HN_ERR_IO,
                   "none");
    write_file(file, "");
    EXPECT_HN_FAIL(hn_token_cache_load(file.c_str(), key.c_str(), 261, &c), HN_ERR_FORMAT,
                   "not a token file");
}

TEST_F(TokenCache, KeyFollowsEverythingThatDecidesAboutTokens)
{
    const std::string rows = "{\"prompt\":\"a\",\"completion\":\"b\",\"text\":\"c\"}\n"
                             "{\"prompt\":\"d\",\"completion\":\"e\",\"text\":\"f\"}\n";
    std::vector<std::string> keys;
    auto add = [&] {
        ASSERT_HN_OK(open("a.jsonl", rows));
        for (const std::string &k : keys) EXPECT_NE(k, hn_dataset_digest(d));
        keys.push_back(hn_dataset_digest(d));
    };
    add();
    o.train_on_prompt = true, add();
    o.parse_special = true, add();
    o.format.separator = " ", add();
    o.format.prompt_key = "text", add();
    o.format.separator = nullptr, add();
    o.eval_split = 0.5, add();
    o.format = {}, o.format.format = HN_DATA_TEXT, add();
    o.limits.piece_bytes = 100, add();
    write_file(tok.dir / "merges.txt", "#version: 0.2\nt h\nth e\n");
    hn_tokenizer_free(tok.t);
    tok.t = nullptr;
    ASSERT_HN_OK(hn_tokenizer_load(tok.dir.str().c_str(), &tok.t));
    add();
    EXPECT_EQ(keys.size(), 10u);
}

TEST_F(TokenCache, FolderThatWasNamedMustBeWritable)
{
    write_file(dir / "file", "");
    const std::string bad = dir / "file/below";
    o.cache_dir = bad.c_str();
    EXPECT_HN_FAIL(open("a.txt", "abc"), HN_ERR_IO, "file");
    o.cache_dir = nullptr; /* the default may fail: tokens in memory, said aloud */
    setenv("XDG_CACHE_HOME", bad.c_str(), 1);
    EXPECT_HN_OK(reopen());
    EXPECT_TRUE(log.has("W tokens are kept in memory: create folder ")) << log.text;
    setenv("XDG_CACHE_HOME", cache.c_str(), 1);
    EXPECT_HN_OK(reopen());
    EXPECT_TRUE(std::filesystem::exists(cache + "/hone"));
    unsetenv("XDG_CACHE_HOME");
}

} // namespace
