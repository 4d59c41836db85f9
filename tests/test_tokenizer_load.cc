/* Where a tokenizer's files are found, what the files beside it change, what is refused. */
#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/data/tokenizer_impl.h"
#include "tokenizer_test.h"

namespace {

const std::string kDir = "tests/fixtures/tokenizers/";
const char *const kText = "Hello world, we'll see 12345 Größe 日本語 😀\n\n  x";

void copy(const std::string &fixture, const std::string &to)
{
    write_file(to, read_file(kDir + fixture));
}

/* BPE over a few letters: a b ab <unk>, then what the test adds. */
std::string small_json(const std::string &more = "")
{
    return R"({"version":"1.0","model":{"type":"BPE","unk_token":"<unk>","vocab":)"
           R"({"<unk>":0,"a":1,"b":2,"ab":3},"merges":["a b"]})" +
           more + "}";
}

hn_status parse(const std::string &json, hn_tokenizer **out)
{
    return hn_tok_parse_json(json.data(), json.size(), "small.json", out);
}

void expect_refused(const std::string &json, hn_status code, const char *part)
{
    hn_tokenizer *t = nullptr;
    EXPECT_HN_FAIL(parse(json, &t), code, part);
    EXPECT_HN_FAIL(parse(json, &t), code, "small.json");
    EXPECT_EQ(t, nullptr);
}

/* ---- bytes of the binary formats ---- */

template <class T>
std::string raw(T v)
{
    return {reinterpret_cast<const char *>(&v), sizeof v};
}
std::string gguf_text(const std::string &s) { return raw<uint64_t>(s.size()) + s; }

/* Builds the key-value part of a GGUF file. */
class Gguf {
    std::string body_;
    uint64_t n_ = 0;

    Gguf &key(const std::string &name, uint32_t type, const std::string &value)
    {
        body_ += gguf_text("tokenizer.ggml." + name) + raw(type) + value;
        n_++;
        return *this;
    }

  public:
    Gguf &text(const std::string &name, const std::string &v) { return key(name, 8, gguf_text(v)); }
    Gguf &u32(const std::string &name, uint32_t v) { return key(name, 4, raw(v)); }
    Gguf &flag(const std::string &name, bool v) { return key(name, 7, std::string(1, (char)v)); }
    Gguf &texts(const std::string &name, const std::vector<std::string> &v)
    {
        std::string s = raw<uint32_t>(8) + raw<uint64_t>(v.size());
        for (const auto &e : v) s += gguf_text(e);
        return key(name, 9, s);
    }
    template <class T>
    Gguf &numbers(const std::string &name, uint32_t type, const std::vector<T> &v)
    {
        std::string s = raw(type) + raw<uint64_t>(v.size());
        for (const T e : v) s += raw(e);
        return key(name, 9, s);
    }
    std::string file(uint32_t version = 3) const
    {
        return "GGUF" + raw(version) + raw<uint64_t>(0) + raw(n_) + body_;
    }
};

hn_status parse_gguf(const std::string &bytes, hn_tokenizer **out)
{
    size_t used = 0;
    return hn_tok_parse_gguf((const unsigned char *)bytes.data(), bytes.size(), "x.gguf", &used,
                             out);
}

void expect_gguf_refused(const std::string &bytes, hn_status code, const char *part)
{
    hn_tokenizer *t = nullptr;
    EXPECT_HN_FAIL(parse_gguf(bytes, &t), code, part);
    EXPECT_EQ(t, nullptr);
}

/* The vocabulary and merges of a byte-level fixture. */
struct Bpe {
    std::vector<std::string> tokens, merges;
    std::vector<int32_t> types;

    explicit Bpe(const std::string &fixture)
    {
        json_t *j = nullptr;
        EXPECT_HN_OK(hn_json_load((kDir + fixture).c_str(), &j));
        const json_t *model = json_object_get(j, "model"), *list = json_object_get(model, "merges");
        const char *piece;
        json_t *id;
        json_object_foreach(json_object_get(model, "vocab"), piece, id) set(piece, id, 1);
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *m = json_array_get(list, i);
            merges.push_back(std::string(json_string_value(json_array_get(m, 0))) + " " +
                             json_string_value(json_array_get(m, 1)));
        }
        const json_t *added = json_object_get(j, "added_tokens");
        for (size_t i = 0; i < json_array_size(added); i++) {
            const json_t *a = json_array_get(added, i);
            set(json_string_value(json_object_get(a, "content")), json_object_get(a, "id"), 3);
        }
        json_decref(j);
    }
    void set(const char *piece, const json_t *id, int32_t type)
    {
        const size_t i = (size_t)json_integer_value(id);
        if (tokens.size() <= i) tokens.resize(i + 1), types.resize(i + 1, 1);
        tokens[i] = piece;
        types[i] = type;
    }
    Gguf gguf(const std::string &pre) const
    {
        Gguf g;
        g.text("model", "gpt2").text("pre", pre).texts("tokens", tokens).texts("merges", merges);
        return g.numbers("token_type", 5, types);
    }
    std::string vocab() const
    {
        json_t *j = json_object();
        for (size_t i = 0; i < tokens.size(); i++)
            json_object_set_new(j, tokens[i].c_str(), json_integer((json_int_t)i));
        char *s = json_dumps(j, 0);
        const std::string text = s;
        free(s);
        json_decref(j);
        return text;
    }
    std::string merge_lines() const
    {
        std::string s = "#version: 0.2\n";
        for (const auto &m : merges) s += m + "\n";
        return s;
    }
};

/* ---- folders ---- */

TEST(TokenizerFolder, TakesTokenizerJsonBeforeTheOthers)
{
    TempDir dir;
    copy("sp_char.model", dir / "other.model");
    const int64_t n_char = hn_tokenizer_vocab_size(Tokenizer(dir.str()).get());
    copy("sp_bpe.model", dir / "tokenizer.model");
    const int64_t n_model = hn_tokenizer_vocab_size(Tokenizer(dir.str()).get());
    copy("llama2.json", dir / "tokenizer.json");
    const Tokenizer t(dir.str());
    EXPECT_NE(n_char, n_model);
    EXPECT_NE(std::string(hn_tokenizer_source(t.get())).find("tokenizer.json (BPE)"),
              std::string::npos);
}

TEST(TokenizerFolder, TwoCandidatesAreAnErrorThatNamesThem)
{
    TempDir dir;
    copy("sp_char.model", dir / "a.model");
    copy("sp_bpe.model", dir / "b.model");
    hn_tokenizer *t = nullptr;
    EXPECT_HN_FAIL(hn_tokenizer_load(dir.str().c_str(), &t), HN_ERR_FORMAT, "a.model");
    EXPECT_HN_FAIL(hn_tokenizer_load(dir.str().c_str(), &t), HN_ERR_FORMAT, "b.model");
}

TEST(TokenizerFolder, NothingToFindSaysWhatWasLookedFor)
{
    TempDir dir;
    hn_tokenizer *t = nullptr;
    EXPECT_HN_FAIL(hn_tokenizer_load(dir.str().c_str(), &t), HN_ERR_IO, "tok*.bin");
    EXPECT_HN_FAIL(hn_tokenizer_load((dir / "none").c_str(), &t), HN_ERR_IO, "No such file");
    write_file(dir / "x.txt", "what is this");
    EXPECT_HN_FAIL(hn_tokenizer_load((dir / "x.txt").c_str(), &t), HN_ERR_FORMAT,
                   "not a tokenizer");
}

/* ---- the same vocabulary in several formats ---- */

TEST(TokenizerFormats, GgufAndVocabFilesGiveTheIdsOfTokenizerJson)
{
    const struct {
        const char *fixture, *pre;
    } cases[] = {{"gpt2.json", "gpt-2"}, {"llama3.json", "llama-bpe"}, {"qwen2.json", "qwen2"}};
    for (const auto &c : cases) {
        const Tokenizer json(kDir + c.fixture);
        const Bpe bpe(c.fixture);
        hn_tokenizer *t = nullptr;
        ASSERT_HN_OK(parse_gguf(bpe.gguf(c.pre).file(), &t));
        ASSERT_HN_OK(hn_tok_seal(t, ""));
        const Tokenizer gguf(t);
        for (const unsigned flags : {0u, (unsigned)HN_TOK_PARSE_SPECIAL}) {
            EXPECT_EQ(gguf.encode(kText, flags), json.encode(kText, flags)) << c.pre;
            EXPECT_EQ(gguf.encode("a<|endoftext|> b", flags),
                      json.encode("a<|endoftext|> b", flags));
        }
        EXPECT_EQ(gguf.decode(gguf.encode(kText)), kText);
    }
    TempDir dir;
    const Bpe bpe("gpt2.json");
    write_file(dir / "vocab.json", bpe.vocab());
    write_file(dir / "merges.txt", bpe.merge_lines());
    EXPECT_EQ(Tokenizer(dir.str()).encode(kText), Tokenizer(kDir + "gpt2.json").encode(kText));
    EXPECT_EQ(Tokenizer(dir / "merges.txt").encode(kText),
              Tokenizer(kDir + "gpt2.json").encode(kText));
}

TEST(TokenizerFormats, VocabFilesFollowTheTokenizerClass)
{
    TempDir dir;
    const Bpe bpe("qwen2.json");
    write_file(dir / "vocab.json", bpe.vocab());
    write_file(dir / "merges.txt", bpe.merge_lines());
    write_file(dir / "tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
    EXPECT_EQ(Tokenizer(dir.str()).encode(kText), Tokenizer(kDir + "qwen2.json").encode(kText));
    write_file(dir / "tokenizer_config.json", R"({"tokenizer_class": "BartTokenizer"})");
    hn_tokenizer *t = nullptr;
    EXPECT_HN_FAIL(hn_tokenizer_load(dir.str().c_str(), &t), HN_ERR_UNSUPPORTED, "BartTokenizer");
}

TEST(TokenizerFormats, Llama2cMergesByScore)
{
    std::string s = raw<int32_t>(9);
    auto piece = [&](const char *text, float score) {
        s += raw(score) + raw<int32_t>((int32_t)strlen(text)) + text;
    };
    piece("<unk>", 0), piece("\n<s>\n", 0), piece("\n</s>\n", 0);
    piece(" ", -1), piece("a", -2), piece("b", -3), piece("ab", -1), piece(" a", 0), piece("bb", 1);
    TempDir dir;
    write_file(dir / "tok9.bin", s);
    const Tokenizer t(dir.str());
    EXPECT_EQ(t.encode("ab"), (std::vector<int32_t>{7, 5}));  /* " a" beats "ab" */
    EXPECT_EQ(t.encode("abb"), (std::vector<int32_t>{7, 8})); /* "bb" first */
    EXPECT_EQ(t.encode("b", HN_TOK_ADD_SPECIAL), (std::vector<int32_t>{1, 3, 5}));
    EXPECT_EQ(t.encode("a\n\nb"), (std::vector<int32_t>{7, 0, 5})); /* one <unk> for a run */
    EXPECT_EQ(t.encode("</s>", HN_TOK_PARSE_SPECIAL), (std::vector<int32_t>{2}));
    EXPECT_EQ(t.decode({1, 7, 5, 2}, true), "ab");
    EXPECT_EQ(t.decode({1, 7, 5, 2}), "<s>ab</s>");
    EXPECT_STREQ(hn_tokenizer_piece(t.get(), 7), " a");
    hn_tokenizer *bad = nullptr;
    write_file(dir / "tok9.bin", s + "x");
    EXPECT_HN_FAIL(hn_tokenizer_load(dir.str().c_str(), &bad), HN_ERR_FORMAT, "head of token 9");
    write_file(dir / "tok9.bin", s.substr(0, s.size() - 1));
    EXPECT_HN_FAIL(hn_tokenizer_load(dir.str().c_str(), &bad), HN_ERR_FORMAT, "token 8 of 2 bytes");
}

/* ---- settings beside ---- */

TEST(TokenizerSettings, ConfigNamesBosAndEosAndWhenTheyAreAdded)
{
    TempDir dir;
    copy("llama2.json", dir / "tokenizer.json"); /* its template: <s> A </s> */
    auto ends = [&](const char *config) {
        write_file(dir / "tokenizer_config.json", config);
        const auto ids = Tokenizer(dir.str()).encode("Hello", HN_TOK_ADD_SPECIAL);
        return std::pair(ids.front() == 1, ids.back() == 2);
    };
    const std::string names =
        R"("bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false})";
    EXPECT_EQ(ends(("{" + names + "}").c_str()), std::pair(true, true));
    EXPECT_EQ(ends(("{" + names + R"(, "add_eos_token": false})").c_str()), std::pair(true, false));
    EXPECT_EQ(ends(("{" + names + R"(, "add_bos_token": false})").c_str()), std::pair(false, true));
    copy("mistral.json", dir / "tokenizer.json"); /* <s> A */
    EXPECT_EQ(ends(("{" + names + R"(, "add_bos_token": true})").c_str()), std::pair(true, false));
    EXPECT_EQ(ends(("{" + names + R"(, "add_eos_token": true})").c_str()), std::pair(true, true));
    const Tokenizer t(dir.str());
    EXPECT_EQ(hn_tokenizer_bos(t.get()), 1);
    EXPECT_EQ(hn_tokenizer_eos(t.get()), 2);
    EXPECT_EQ(hn_tokenizer_unk(t.get()), 0);
}

TEST(TokenizerSettings, IdsComeFromTheModelsConfigLast)
{
    TempDir dir;
    copy("mistral.json", dir / "tokenizer.json");
    write_file(dir / "config.json", R"({"bos_token_id": 1, "eos_token_id": 5})");
    EXPECT_EQ(hn_tokenizer_eos(Tokenizer(dir.str()).get()), 5);
    write_file(dir / "generation_config.json", R"({"eos_token_id": [2, 5]})");
    EXPECT_EQ(hn_tokenizer_eos(Tokenizer(dir.str()).get()), 2);
    EXPECT_EQ(hn_tokenizer_bos(Tokenizer(dir.str()).get()), 1);
    write_file(dir / "special_tokens_map.json", R"({"eos_token": "<s>"})");
    EXPECT_EQ(hn_tokenizer_eos(Tokenizer(dir.str()).get()), 1);
}

TEST(TokenizerSettings, BosNullMeansNone)
{
    TempDir dir;
    copy("mistral.json", dir / "tokenizer.json");
    write_file(dir / "config.json", R"({"bos_token_id": 1, "eos_token_id": 2})");
    write_file(dir / "tokenizer_config.json", R"({"bos_token": null})");
    EXPECT_EQ(hn_tokenizer_bos(Tokenizer(dir.str()).get()), -1);
    EXPECT_EQ(hn_tokenizer_eos(Tokenizer(dir.str()).get()), 2);
    std::filesystem::remove(dir / "tokenizer.json");
    copy("sp_bpe.model", dir / "tokenizer.model");
    const Tokenizer t(dir.str());
    EXPECT_EQ(t.encode("a", HN_TOK_ADD_SPECIAL), t.encode("a"));
}

TEST(TokenizerSettings, AddedTokensBesideAModelFile)
{
    TempDir dir;
    copy("sp_bpe.model", dir / "tokenizer.model");
    const Tokenizer plain(dir.str());
    const auto n = (int32_t)hn_tokenizer_vocab_size(plain.get());
    write_file(dir / "added_tokens.json", R"({"<extra>": )" + std::to_string(n) + "}");
    write_file(dir / "tokenizer_config.json",
               R"({"added_tokens_decoder": {")" + std::to_string(n + 1) +
                   R"(": {"content": "<end>", "special": true}}, "eos_token": "<end>"})");
    const Tokenizer t(dir.str());
    EXPECT_EQ(hn_tokenizer_vocab_size(t.get()), n + 2);
    EXPECT_EQ(hn_tokenizer_eos(t.get()), n + 1);
    EXPECT_TRUE(hn_tokenizer_is_special(t.get(), n + 1));
    EXPECT_FALSE(hn_tokenizer_is_special(t.get(), n));
    EXPECT_EQ(hn_tokenizer_find(t.get(), "<extra>"), n);
    const auto ids = t.encode("a<extra>b<end>");
    EXPECT_EQ(std::count(ids.begin(), ids.end(), n), 1);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), n + 1), 0);
    EXPECT_EQ(t.encode("<end>", HN_TOK_PARSE_SPECIAL), (std::vector<int32_t>{n + 1}));
    EXPECT_STRNE(hn_tokenizer_digest(t.get()), hn_tokenizer_digest(plain.get()));
}

TEST(TokenizerSettings, ContradictionsAreErrors)
{
    TempDir dir;
    copy("mistral.json", dir / "tokenizer.json");
    hn_tokenizer *t = nullptr;
    const auto fails = [&](const char *name, const char *text, const char *part) {
        write_file(dir / name, text);
        EXPECT_HN_FAIL(hn_tokenizer_load(dir.str().c_str(), &t), HN_ERR_FORMAT, part);
        std::filesystem::remove(dir / name);
    };
    fails("tokenizer_config.json", R"({"eos_token": "<gone>"})", "eos_token '<gone>'");
    fails("tokenizer_config.json", R"({"eos_token": 7})", "'eos_token' is not a token");
    fails("tokenizer_config.json", R"({"add_bos_token": 1})", "add_bos_token");
    fails("tokenizer_config.json", R"({"add_eos_token": true})", "no eos token");
    fails("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "y"}}})", "'x'");
    fails("tokenizer_config.json", R"({"added_tokens_decoder": {"3": {"content": "<s>"}}})",
          "must be 1");
    fails("tokenizer_config.json", R"({"added_tokens_decoder": {"3": {"content": "new"}}})",
          "used twice");
    fails("tokenizer_config.json", R"([1])", "not a JSON object");
    fails("added_tokens.json", R"({"<s>": "1"})", "not an integer");
    fails("config.json", R"({"eos_token_id": 99999})", "eos_token_id");
    fails("generation_config.json", R"({"bos_token_id": "1"})", "bos_token_id");
}

TEST(TokenizerSettings, DigestFollowsFilesAndSettingsNotPlaces)
{
    TempDir a, b;
    copy("mistral.json", a / "tokenizer.json");
    copy("mistral.json", b / "tokenizer.json");
    const std::string first = hn_tokenizer_digest(Tokenizer(a.str()).get());
    EXPECT_EQ(first.size(), 64u);
    write_file(b / "config.json", R"({"hidden_size": 4})");
    EXPECT_EQ(first, hn_tokenizer_digest(Tokenizer(b.str()).get()));
    write_file(b / "config.json", R"({"eos_token_id": 2})");
    EXPECT_NE(first, hn_tokenizer_digest(Tokenizer(b.str()).get()));
    copy("gemma.json", a / "tokenizer.json");
    EXPECT_NE(first, hn_tokenizer_digest(Tokenizer(a.str()).get()));
}

/* ---- refusals ---- */

TEST(TokenizerJson, UnknownComponentsAreRefusedByName)
{
    const std::pair<const char *, const char *> cases[] = {
        {R"(,"normalizer":{"type":"BertNormalizer"})", "normalizer 'BertNormalizer'"},
        {R"(,"normalizer":{"type":"Sequence","normalizers":[{"type":"Precompiled"}]})",
         "normalizer 'Precompiled'"},
        {R"(,"pre_tokenizer":{"type":"UnicodeScripts"})", "pre_tokenizer 'UnicodeScripts'"},
        {R"(,"post_processor":{"type":"Other"})", "post_processor 'Other'"},
        {R"(,"decoder":{"type":"WordPiece"})", "decoder 'WordPiece'"},
        {R"(,"decoder":{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]})",
         "ByteFallback behind Fuse"},
        {R"(,"pre_tokenizer":{"type":"Split","pattern":{"String":""},"behavior":"Isolated"})",
         "empty"},
    };
    for (const auto &[more, part] : cases)
        expect_refused(small_json(more), HN_ERR_UNSUPPORTED, part);
}

TEST(TokenizerRegex, ConstructsOfAnotherMeaningAreRefused)
{
    const std::pair<const char *, const char *> cases[] = {
        {"\\h+", "\\h"},
        {"a\\b", "\\b"},
        {"\\Ka", "\\K"},
        {"a{1,2}+", "+ behind {}"},
        {"a{,2}", "{,n}"},
        {"(*COMMIT)a", "group"},
        {"(?m:a)", "group"},
        {"(?<n>a)", "group"},
        {"[a[b]]", "class inside"},
        {"[a&&b]", "&&"},
        {"[]a]", "class"},
        {"[\\W]", "\\W"},
        {"\\u12", "hex digits"},
        {"a\\", "backslash"},
        {"", "empty"},
        {"\\p{L", "{ without }"},
    };
    hn_regex *re = nullptr;
    for (const auto &[pattern, part] : cases)
        EXPECT_HN_FAIL(hn_regex_make(pattern, strlen(pattern), "x", &re), HN_ERR_UNSUPPORTED, part);
    for (const char *bad : {"(", "a)", "[a", "*", "\\p{Nowhere}", "(?<=a+)b"})
        EXPECT_HN_FAIL(hn_regex_make(bad, strlen(bad), "x", &re), HN_ERR_FORMAT, bad);
    EXPECT_EQ(re, nullptr);
}

/* Exponential backtracking ends with an error instead of never. */
TEST(TokenizerRegex, TooManyStepsAreAnError)
{
    hn_regex *re = nullptr;
    hn_regex_scratch *scratch = nullptr;
    ASSERT_HN_OK(hn_regex_make("(?:a+)+$", 8, "x", &re));
    ASSERT_HN_OK(hn_regex_scratch_make(&scratch));
    const std::string text = std::string(40, 'a') + "b";
    bool found;
    size_t begin, end;
    EXPECT_HN_FAIL(hn_regex_find(re, scratch, text.data(), text.size(), 0, &found, &begin, &end),
                   HN_ERR_FORMAT, "match limit");
    hn_regex_scratch_free(scratch);
    hn_regex_free(re);
}

TEST(TokenizerJson, DamageIsNamed)
{
    const std::pair<const char *, const char *> cases[] = {
        {R"(,"normalizer":{})", "'type' is missing"},
        {R"(,"normalizer":7)", "not a JSON object"},
        {R"(,"normalizer":{"type":"Replace","pattern":{},"content":"x"})", "pattern"},
        {R"(,"normalizer":{"type":"Replace","pattern":{"String":"a"}})", "content"},
        {R"(,"normalizer":{"type":"Sequence"})", "normalizers"},
        {R"(,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"a"},"behavior":"Some"})",
         "'Some'"},
        {R"(,"pre_tokenizer":{"type":"Split","pattern":{"Regex":"a"}})", "behavior"},
        {R"(,"pre_tokenizer":{"type":"Metaspace","replacement":"ab"})", "one character"},
        {R"(,"pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"x"})", "'x'"},
        {R"(,"post_processor":{"type":"TemplateProcessing","single":[]})", "no sequence A"},
        {R"(,"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"z"}}]})",
         "'z'"},
        {R"(,"post_processor":{"type":"BertProcessing","cls":["c",99],"sep":["s",1]})", "99"},
        {R"(,"decoder":{"type":"Strip","content":" ","start":-1,"stop":0})", "start"},
        {R"(,"added_tokens":[{"content":"x"}])", "'id' is missing"},
        {R"(,"added_tokens":[{"id":4,"content":""}])", "no content"},
        {R"(,"added_tokens":[{"id":5,"content":"x"}])", "has id 5, it must be 4"},
        {R"(,"added_tokens":[{"id":2,"content":"a"}])", "has id 2, it must be 1"},
        {R"(,"added_tokens":{})", "added_tokens is not a list"},
    };
    for (const auto &[more, part] : cases) expect_refused(small_json(more), HN_ERR_FORMAT, part);
    expect_refused("{}", HN_ERR_FORMAT, "model");
    expect_refused(R"({"version":"2.0","model":{}})", HN_ERR_UNSUPPORTED, "'2.0'");
    expect_refused(R"({"model":{"type":"WordPiece"}})", HN_ERR_UNSUPPORTED, "'WordPiece'");
    expect_refused(R"({"model":{"type":"BPE","vocab":{"a":-1},"merges":[]}})", HN_ERR_FORMAT, "-1");
    expect_refused(R"({"model":{"type":"BPE","vocab":{"a":16777216},"merges":[]}})", HN_ERR_FORMAT,
                   "16777216");
    expect_refused(R"({"model":{"type":"BPE","vocab":{"a":1,"b":1},"merges":[]}})", HN_ERR_FORMAT,
                   "twice");
    expect_refused(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a a"]}})", HN_ERR_FORMAT,
                   "merge 0");
    expect_refused(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a"]}})", HN_ERR_FORMAT,
                   "two tokens");
    expect_refused(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[],"dropout":0.1}})",
                   HN_ERR_UNSUPPORTED, "dropout");
    expect_refused(
        R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[],"end_of_word_suffix":"</w>"}})",
        HN_ERR_UNSUPPORTED, "end_of_word_suffix");
    expect_refused(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"u"}})",
                   HN_ERR_FORMAT, "unk_token 'u'");
    expect_refused(R"({"model":{"type":"Unigram","vocab":[["a"]],"unk_id":0}})", HN_ERR_FORMAT,
                   "vocab[0]");
    expect_refused(R"({"model":{"type":"Unigram","vocab":[["a",1]],"unk_id":1}})", HN_ERR_FORMAT,
                   "unk_id");
}

TEST(TokenizerGguf, DamageIsNamed)
{
    const Bpe bpe("gpt2.json");
    const std::string good = bpe.gguf("gpt-2").file();
    expect_gguf_refused("GGUX", HN_ERR_FORMAT, "not a GGUF file");
    expect_gguf_refused(bpe.gguf("gpt-2").file(1), HN_ERR_UNSUPPORTED, "version 1");
    expect_gguf_refused(bpe.gguf("tekken-9").file(), HN_ERR_UNSUPPORTED, "'tekken-9'");
    expect_gguf_refused(Gguf().text("model", "bert").file(), HN_ERR_UNSUPPORTED, "'bert'");
    expect_gguf_refused(Gguf().file(), HN_ERR_FORMAT, "tokenizer.ggml.model is missing");
    expect_gguf_refused(Gguf().u32("model", 1).file(), HN_ERR_FORMAT, "wrong type");
    expect_gguf_refused(Gguf().text("model", "llama").texts("tokens", {"a"}).file(), HN_ERR_FORMAT,
                        "scores");
    expect_gguf_refused(bpe.gguf("gpt-2").text("model", "x").file(), HN_ERR_FORMAT, "twice");
    expect_gguf_refused(bpe.gguf("gpt-2").u32("bos_token_id", 9999).file(), HN_ERR_FORMAT, "9999");
    Gguf short_types;
    short_types.text("model", "llama").texts("tokens", {"a", "b"});
    short_types.numbers<float>("scores", 6, {0, 0}).numbers<int32_t>("token_type", 5, {1});
    expect_gguf_refused(short_types.file(), HN_ERR_FORMAT, "token_type");
    for (size_t n = 0; n < good.size(); n += 1 + good.size() / 300) {
        hn_tokenizer *t = nullptr;
        EXPECT_EQ(parse_gguf(good.substr(0, n), &t), HN_ERR_FORMAT) << n;
    }
}

TEST(TokenizerSentencePiece, DamageIsNamed)
{
    const std::string good = read_file(kDir + "sp_bpe.model");
    const auto parse_sp = [](const std::string &s, hn_tokenizer **t) {
        return hn_tok_parse_sp((const unsigned char *)s.data(), s.size(), "x.model", t);
    };
    hn_tokenizer *t = nullptr;
    EXPECT_HN_FAIL(parse_sp("", &t), HN_ERR_FORMAT, "empty file");
    EXPECT_HN_FAIL(parse_sp("\x0a\x05\x0a", &t), HN_ERR_FORMAT, "over the end");
    EXPECT_HN_FAIL(parse_sp(std::string("\x0a\x02\x0a\x00", 4), &t), HN_ERR_FORMAT, "empty piece");
    EXPECT_HN_FAIL(parse_sp("\x0a\x03\x0a\x01\xff", &t), HN_ERR_FORMAT, "not valid UTF-8");
    EXPECT_HN_FAIL(parse_sp("\x0a\x03\x0a\x01z", &t), HN_ERR_FORMAT, "no unknown piece");
    EXPECT_HN_FAIL(parse_sp("\x08\x01\x0b", &t), HN_ERR_FORMAT, "wrong type");
    EXPECT_HN_FAIL(parse_sp("\x12\x02\x18\x03", &t), HN_ERR_UNSUPPORTED, "model type 3");
    EXPECT_HN_FAIL(parse_sp("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", &t), HN_ERR_FORMAT,
                   "64 bits");
    for (size_t n = 0; n < good.size(); n += 1 + good.size() / 300)
        if (parse_sp(good.substr(0, n), &t) == HN_OK) { /* cut between two fields */
            hn_tokenizer_free(t);
            t = nullptr;
        }
    EXPECT_EQ(t, nullptr);
}

/* ---- memory ---- */

/* Every allocation fails once: an error comes back, nothing leaks (ASAN), nothing half-made. */
TEST(TokenizerMemory, EveryFailedAllocationIsReported)
{
    TempDir dir;
    write_file(
        dir / "tokenizer.json",
        small_json(
            R"(,"normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},)"
            R"({"type":"Replace","pattern":{"Regex":"x+"},"content":"y"}]},)"
            R"("pre_tokenizer":{"type":"Metaspace","replacement":"_"},)"
            R"("decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":)"
            R"({"String":"_"},"content":" "},{"type":"Fuse"}]},)"
            R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":)"
            R"({"id":"<s>"}},{"Sequence":{"id":"A"}}],"special_tokens":{"<s>":{"ids":[4]}}},)"
            R"("added_tokens":[{"id":4,"content":"<s>","special":true}])"));
    write_file(dir / "tokenizer_config.json", R"({"bos_token":"<s>","add_bos_token":true})");
    for (const std::string &path : {dir.str(), kDir + "sp_char.model"}) {
        int failures = 0;
        for (uint64_t nth = 1;; nth++) {
            hn_tokenizer *t = nullptr;
            hn_tokens ids = {};
            hn_text text = {};
            const uint64_t before = hn_alloc_calls();
            hn_alloc_fail_at(nth);
            hn_status st = hn_tokenizer_load(path.c_str(), &t);
            EXPECT_EQ(t == nullptr, st != HN_OK);
            if (st == HN_OK) st = hn_tokenizer_encode(t, "ab éxx ba", 10, HN_TOK_ADD_SPECIAL, &ids);
            if (st == HN_OK) st = hn_tokenizer_decode(t, ids.id, ids.n, true, &text);
            const bool reached = hn_alloc_calls() - before >= nth;
            hn_alloc_fail_at(0);
            EXPECT_TRUE(st == HN_OK || st == HN_ERR_MEMORY) << hn_last_error();
            failures += st != HN_OK;
            hn_tokens_free(&ids);
            hn_text_free(&text);
            hn_tokenizer_free(t);
            if (!reached) break;
        }
        EXPECT_GT(failures, 20);
    }
}

} // namespace
