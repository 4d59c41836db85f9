/* runtime/data/tokenizer: real vocabularies, round trips, loading rules, errors. */
#include <thread>

#include "hn_test.h"
#include "runtime/data/tokenizer_impl.h"
#include "tokenizer_test.h"

namespace {

/* .inp: texts between marker lines; .out: a line of ids for each. */
void check_vectors(const Tokenizer &t, const std::string &stem)
{
    const std::string inp = read_file(stem + ".inp"), mark = "\n__ggml_vocab_test__\n";
    std::istringstream out(read_file(stem + ".out"));
    std::string line;
    int n = 0;
    size_t at = 0;
    for (; std::getline(out, line); n++) {
        const size_t end = inp.find(mark, at);
        ASSERT_NE(end, std::string::npos);
        std::istringstream ids(line);
        const std::vector<int32_t> want{std::istream_iterator<int32_t>(ids), {}};
        const std::string text = inp.substr(at, end - at);
        EXPECT_EQ(t.encode(text), want) << "text " << n << ": '" << text << "'";
        EXPECT_EQ(t.decode(want), text);
        at = end + mark.size();
    }
    EXPECT_EQ(n, 46);
    EXPECT_EQ(inp.substr(at), ""); /* the 47th is the empty text */
    EXPECT_TRUE(t.encode("").empty());
}

TEST(TokenizerReal, Gpt2VectorsFromVocabAndMerges)
{
    HN_NEED_DATA(dir, "tokenizers/gpt2");
    const Tokenizer t(dir);
    EXPECT_EQ(hn_tokenizer_vocab_size(t.get()), 50257);
    EXPECT_EQ(hn_tokenizer_eos(t.get()), 50256);
    check_vectors(t, dir + "/ggml-vocab-gpt-2.gguf");
}

TEST(TokenizerReal, Phi3VectorsFromGguf)
{
    HN_NEED_DATA(dir, "tokenizers/phi-3");
    const Tokenizer t(dir);
    EXPECT_EQ(hn_tokenizer_bos(t.get()), 1);
    check_vectors(t, dir + "/ggml-vocab-phi-3.gguf");
}

TEST(TokenizerReal, BertGgufIsRefusedByName)
{
    HN_NEED_DATA(dir, "tokenizers/bert-bge");
    hn_tokenizer *t = nullptr;
    EXPECT_HN_FAIL(hn_tokenizer_load(dir.c_str(), &t), HN_ERR_UNSUPPORTED, "'bert'");
    EXPECT_EQ(t, nullptr);
}

TEST(TokenizerReal, Stories260kTextIsTwoHundredTokens)
{
    HN_NEED_DATA(dir, "stories260k");
    const Tokenizer t(dir);
    const std::string text = read_file(dir + "/expected_greedy_200.txt");
    const auto ids = t.encode(text, HN_TOK_ADD_SPECIAL);
    EXPECT_EQ(ids.front(), 1);
    EXPECT_NEAR((double)ids.size(), 200, 2);
    EXPECT_EQ(t.decode(ids, true), text);
    EXPECT_EQ(t.stream(ids, true), text);
}

TEST(TokenizerReal, BabyllamaIsOneTokenACharacter)
{
    HN_NEED_DATA(dir, "babyllama-char105");
    const Tokenizer t(dir);
    EXPECT_EQ(hn_tokenizer_vocab_size(t.get()), 105);
    const std::string text = "Once upon a time, there was a cat.";
    EXPECT_EQ(t.encode(text).size(), text.size() + 1); /* the mark in front */
    EXPECT_EQ(t.decode(t.encode(text)), text);
    const auto newline = t.encode("a\nb");
    ASSERT_EQ(newline.size(), 4u);
    EXPECT_EQ(newline[2], hn_tokenizer_unk(t.get()));
}

/* ---- texts and flags ---- */

const std::string kDir = "tests/fixtures/tokenizers/";

hn_tokenizer *from_json(const std::string &json)
{
    hn_tokenizer *t = nullptr;
    EXPECT_HN_OK(hn_tok_parse_json(json.data(), json.size(), "here", &t)) << json;
    if (t != nullptr) {
        EXPECT_HN_OK(hn_tok_seal(t, ""));
    }
    return t;
}

/* a b c ab abc bc, in that order of ids; bc merges before ab. */
const char kSmall[] = R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2,"ab":3,"abc":4,"bc":5},)"
                      R"("merges":[["b","c"],["a","b"],["a","bc"]]}})";

TEST(TokenizerBpe, MergesByRankThenFromTheLeft)
{
    const Tokenizer t(from_json(kSmall));
    EXPECT_EQ(t.encode("abc"), (std::vector<int32_t>{4})); /* b c, then a bc */
    EXPECT_EQ(t.encode("aab"), (std::vector<int32_t>{0, 3}));
    EXPECT_EQ(t.encode("abab"), (std::vector<int32_t>{3, 3}));
    EXPECT_EQ(t.encode("abbc"), (std::vector<int32_t>{3, 5}));
    EXPECT_EQ(t.encode("axb"), (std::vector<int32_t>{3})); /* no unknown token: x is lost */
    EXPECT_EQ(t.decode({0, 1}), "a b");                    /* no decoder: spaces between */
}

TEST(TokenizerBpe, LongWordsDoNotTakeQuadraticTime)
{
    const size_t n = 1 << 16;
    for (const char *file :
         {"llama2.json", "gpt2.json", "qwen2.json", "sp_bpe.model", "sp_unigram.model"}) {
        const Tokenizer t(kDir + file);
        for (const std::string &word :
             {std::string(n, 'a'), std::string(n, ' '), std::string(n, '!')}) {
            const auto ids = t.encode(word);
            EXPECT_LE(ids.size(), n + 1) << file;
            if (word[0] != ' ') {
                EXPECT_EQ(t.decode(ids), word) << file;
            }
        }
    }
}

/* A sealed tokenizer merges part by part where its pieces allow it. */
TEST(TokenizerBpe, PartsGiveTheIdsOfTheWholeWord)
{
    std::mt19937 rng(3);
    const char *const words[] = {" ",  "  ", "the", "a",  "é", "日本",
                                 "\n", "▁",  "def", "ab", "x", "."};
    for (const char *file : {"llama2.json", "mistral.json", "bpe_unk.json", "sp_bpe.model",
                             "sp_bpe_spaces.model", "sp_bpe_unused.model"}) {
        const Tokenizer sealed(kDir + file);
        const std::string bytes = read_file(kDir + file);
        hn_tokenizer *t = nullptr;
        if (std::string(file).find(".json") != std::string::npos)
            ASSERT_HN_OK(hn_tok_parse_json(bytes.data(), bytes.size(), file, &t));
        else
            ASSERT_HN_OK(
                hn_tok_parse_sp((const unsigned char *)bytes.data(), bytes.size(), file, &t));
        const Tokenizer whole(t);
        EXPECT_GT(sealed.get()->n_mark, 0u) << file;
        EXPECT_EQ(whole.get()->n_mark, 0u);
        for (int round = 0; round < 200; round++) {
            std::string text;
            for (int i = 0; i < 20; i++) text += words[rng() % 12];
            EXPECT_EQ(sealed.encode(text), whole.encode(text)) << file << ": '" << text << "'";
        }
    }
}

TEST(TokenizerText, BadBytesCountAsReplacementCharacters)
{
    const std::string r = "\xef\xbf\xbd";
    const std::pair<std::string, std::string> cases[] = {
        {"a\xff"
         "b",
         "a" + r + "b"},
        {"\xe2\x82", r + r}, /* cut short */
        {"\xe2\x82"
         "a",
         r + r + "a"},
        {"\xc0\x80", r + r},                 /* long form */
        {"\xed\xa0\x80", r + r + r},         /* surrogate */
        {"\xf4\x90\x80\x80", r + r + r + r}, /* above U+10FFFF */
        {"\xf0\x9f\x98\x80\x80", "\xf0\x9f\x98\x80" + r},
    };
    for (const char *file : {"gpt2.json", "llama2.json", "sp_bpe.model"}) {
        const Tokenizer t(kDir + file);
        for (const auto &[bad, fixed] : cases) EXPECT_EQ(t.encode(bad), t.encode(fixed)) << file;
        EXPECT_EQ(t.decode(t.encode("a\xff")), "a" + r);
    }
}

TEST(TokenizerText, SpecialTokensNeedTheFlag)
{
    const Tokenizer t(kDir + "llama2.json");
    const std::string text = "a</s>b";
    const auto plain = t.encode(text), parsed = t.encode(text, HN_TOK_PARSE_SPECIAL);
    EXPECT_EQ(std::count(plain.begin(), plain.end(), 2), 0);
    EXPECT_EQ(std::count(parsed.begin(), parsed.end(), 2), 1);
    const auto both = t.encode("", HN_TOK_ADD_SPECIAL);
    EXPECT_EQ(both, (std::vector<int32_t>{1, 2}));
    EXPECT_TRUE(hn_tokenizer_is_special(t.get(), 1));
    EXPECT_FALSE(hn_tokenizer_is_special(t.get(), 300));
    EXPECT_FALSE(hn_tokenizer_is_special(t.get(), -1));
}

TEST(TokenizerText, EncodeAppendsAndLeavesTheListAloneOnErrors)
{
    const Tokenizer t(kDir + "llama2.json");
    hn_tokens ids = {};
    ASSERT_HN_OK(hn_tokenizer_encode(t.get(), "a", 1, 0, &ids));
    const int64_t n = ids.n;
    ASSERT_HN_OK(hn_tokenizer_encode(t.get(), "a", 1, 0, &ids));
    EXPECT_EQ(ids.n, 2 * n);
    EXPECT_HN_FAIL(hn_tokenizer_encode(t.get(), "a", 1, 8, &ids), HN_ERR_ARG, "0x8");
    EXPECT_HN_FAIL(hn_tokenizer_encode(t.get(), "a", (size_t)2 << 30, 0, &ids), HN_ERR_ARG,
                   "2147483648");
    EXPECT_EQ(ids.n, 2 * n);
    ASSERT_HN_OK(hn_tokenizer_encode(t.get(), nullptr, 0, 0, &ids));
    EXPECT_EQ(ids.n, 2 * n);
    hn_tokens_free(&ids);
}

TEST(TokenizerText, DecodeRefusesIdsOutsideAndLeavesTheTextAlone)
{
    const Tokenizer t(kDir + "llama2.json");
    const int32_t bad[] = {300, -1}, high[] = {300, 1 << 20};
    hn_text out = {};
    ASSERT_HN_OK(hn_text_append(&out, "before", 6));
    EXPECT_HN_FAIL(hn_tokenizer_decode(t.get(), bad, 2, false, &out), HN_ERR_ARG, "id -1");
    EXPECT_HN_FAIL(hn_tokenizer_decode(t.get(), high, 2, false, &out), HN_ERR_ARG, "1048576");
    hn_detok state = {};
    EXPECT_HN_FAIL(hn_tokenizer_decode_next(t.get(), &state, -1, &out), HN_ERR_ARG, "id -1");
    EXPECT_STREQ(out.s, "before");
    EXPECT_EQ(hn_tokenizer_piece(t.get(), -1), nullptr);
    EXPECT_EQ(hn_tokenizer_find(t.get(), "no such piece"), -1);
    hn_text_free(&out);
}

/* ---- streaming ---- */

/* Random ids: whatever they are, the pieces together are the text, and every piece is valid. */
TEST(TokenizerStream, PiecesTogetherAreTheText)
{
    for (const char *file : {"gpt2.json", "sp_bpe.model", "sp_bpe_spaces.model", "sp_char.model",
                             "mistral.json", "gemma.json", "bpe_unk.json"}) {
        const Tokenizer t(kDir + file);
        const bool fallback = std::string(file).find(".json") != std::string::npos &&
                              hn_tokenizer_find(t.get(), "<0x00>") >= 0;
        std::mt19937 rng(7);
        for (int round = 0; round < 300; round++) {
            std::vector<int32_t> ids;
            for (int i = 0; i < 12; i++) {
                const auto id = (int32_t)(rng() % (unsigned)hn_tokenizer_vocab_size(t.get()));
                const char *piece = hn_tokenizer_piece(t.get(), id);
                if (piece == nullptr || (fallback && strncmp(piece, "<0x", 3) == 0)) continue;
                ids.push_back(id);
            }
            EXPECT_EQ(t.stream(ids), t.decode(ids)) << file;
            EXPECT_EQ(t.stream(ids, true), t.decode(ids, true)) << file;
            EXPECT_TRUE(hn_utf8_valid(t.decode(ids).data(), t.decode(ids).size())) << file;
        }
    }
}

TEST(TokenizerStream, HoldsBackHalfCharacters)
{
    const Tokenizer t(kDir + "mistral.json");
    const auto byte = [&](const char *name) { return hn_tokenizer_find(t.get(), name); };
    hn_detok state = {};
    hn_text out = {};
    const auto next = [&](int32_t id) {
        out.n = 0;
        EXPECT_HN_OK(hn_tokenizer_decode_next(t.get(), &state, id, &out));
        return std::string(out.s, out.n);
    };
    EXPECT_EQ(next(byte("<0xE2>")), "");
    EXPECT_EQ(next(byte("<0x82>")), "");
    EXPECT_EQ(next(byte("<0xAC>")), "€");
    EXPECT_EQ(next(byte("<0xE2>")), "");
    EXPECT_EQ(next(byte("a")), "\xef\xbf\xbd"
                               "a"); /* not a character after all */
    EXPECT_EQ(next(byte("<0xF0>")), "");
    out.n = 0;
    EXPECT_HN_OK(hn_tokenizer_decode_end(t.get(), &state, &out));
    EXPECT_STREQ(out.s, "\xef\xbf\xbd");
    EXPECT_EQ(next(byte("▁")), "") << "the state starts afresh: the first space goes";
    EXPECT_EQ(next(byte("▁")), " ");
    hn_text_free(&out);
}

TEST(TokenizerStream, DecodersOfWholeTextsAreRefused)
{
    const std::string model(kSmall, sizeof kSmall - 2);
    const Tokenizer t(from_json(model +
                                R"(,"decoder":{"type":"Sequence","decoders":[{"type":"Fuse"},)"
                                R"({"type":"Strip","content":"a","start":0,"stop":1}]}})"));
    EXPECT_EQ(t.decode({1, 0, 0}), "ba");
    hn_detok state = {};
    hn_text out = {};
    EXPECT_HN_FAIL(hn_tokenizer_decode_next(t.get(), &state, 0, &out), HN_ERR_UNSUPPORTED,
                   "step 1");
    hn_text_free(&out);
}

TEST(TokenizerThreads, SeveralEncodeAtOnce)
{
    const Tokenizer t(kDir + "llama3.json");
    std::string text;
    for (int i = 0; i < 200; i++)
        text += "Hello world " + std::to_string(i * 7919) + ", naïve 日本\n";
    const auto want = t.encode(text);
    std::vector<std::vector<int32_t>> got(4);
    std::vector<std::thread> threads;
    for (auto &g : got) threads.emplace_back([&] { g = t.encode(text); });
    for (auto &th : threads) th.join();
    for (const auto &g : got) EXPECT_EQ(g, want);
}

} // namespace
