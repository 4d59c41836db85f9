/* Ids and texts of the libraries that own the formats (tests/golden/make_tokenizers.py). */
#include "hn_test.h"
#include "runtime/base/json.h"
#include "runtime/data/tokenizer_impl.h"
#include "tokenizer_test.h"

namespace {

const std::string kDir = "tests/fixtures/tokenizers";

class Json {
    json_t *j_ = nullptr;

  public:
    explicit Json(const std::string &path) { EXPECT_HN_OK(hn_json_load(path.c_str(), &j_)); }
    Json(const Json &) = delete;
    ~Json() { json_decref(j_); }
    const json_t *operator[](const char *key) const { return json_object_get(j_, key); }
};

std::string text_of(const json_t *j) { return {json_string_value(j), json_string_length(j)}; }

std::vector<std::string> texts_of(const json_t *list)
{
    std::vector<std::string> v;
    for (size_t i = 0; i < json_array_size(list); i++)
        v.push_back(text_of(json_array_get(list, i)));
    return v;
}

std::vector<int32_t> ids_of(const json_t *list)
{
    std::vector<int32_t> v;
    for (size_t i = 0; i < json_array_size(list); i++)
        v.push_back((int32_t)json_integer_value(json_array_get(list, i)));
    return v;
}

/* A fixture without settings beside it. */
hn_tokenizer *load(const std::string &name)
{
    hn_tokenizer *t = nullptr;
    EXPECT_HN_OK(hn_tokenizer_load((kDir + "/" + name).c_str(), &t));
    return t;
}

void check_cases(const Tokenizer &t, const json_t *texts, const json_t *cases)
{
    ASSERT_EQ(json_array_size(texts), json_array_size(cases));
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *c = json_array_get(cases, i);
        const std::string text = text_of(json_array_get(texts, i));
        const auto plain = ids_of(json_object_get(c, "plain"));
        EXPECT_EQ(t.encode(text), plain) << "text " << i << ": '" << text << "'";
        const json_t *special = json_object_get(c, "special"),
                     *skipped = json_object_get(c, "skipped");
        if (special == nullptr) { /* SentencePiece: one kind of ids */
            EXPECT_EQ(t.decode(plain, true), text_of(skipped)) << i;
            EXPECT_EQ(t.stream(plain, true), text_of(skipped)) << i;
            continue;
        }
        const auto parsed = ids_of(json_object_get(c, "parsed"));
        EXPECT_EQ(t.encode(text, HN_TOK_ADD_SPECIAL), ids_of(special)) << i;
        EXPECT_EQ(t.encode(text, HN_TOK_PARSE_SPECIAL), parsed)
            << "text " << i << ": '" << text << "'";
        EXPECT_EQ(t.decode(parsed), text_of(json_object_get(c, "decoded"))) << i;
        if (t.streams()) {
            EXPECT_EQ(t.stream(parsed), t.decode(parsed)) << i;
        }
        EXPECT_EQ(t.decode(ids_of(special), true), text_of(skipped)) << i;
    }
}

class TokenizerGolden : public testing::TestWithParam<const char *> {};

TEST_P(TokenizerGolden, SameIdsAndTextsAsTheLibrary)
{
    const Json golden(kDir + "/golden.json");
    const Tokenizer t(load(GetParam()));
    ASSERT_TRUE(t);
    check_cases(t, golden["texts"], json_object_get(golden["files"], GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Files, TokenizerGolden,
                         testing::Values("gpt2.json", "roberta.json", "llama3.json", "qwen2.json",
                                         "qwen3_marks.json", "llama2.json", "mistral.json",
                                         "gemma.json", "bpe_unk.json", "bpe_fuse_unk.json",
                                         "unigram.json", "unigram_bytes.json", "word_level.json",
                                         "sp_bpe.model", "sp_bpe_spaces.model",
                                         "sp_bpe_unused.model", "sp_unigram.model",
                                         "sp_unigram_rules.model", "sp_unigram_unused.model",
                                         "sp_char.model"),
                         [](const auto &info) {
                             std::string s = info.param;
                             for (char &c : s)
                                 if (c == '.') c = '_';
                             return s;
                         });

TEST(TokenizerReal, MistralGivesSentencePiecesIds)
{
    HN_NEED_DATA(path, "tokenizers/mistral-v1/tokenizer.model.v1");
    const Json golden(kDir + "/golden.json");
    const Tokenizer t(path);
    EXPECT_EQ(hn_tokenizer_vocab_size(t.get()), 32000);
    check_cases(t, golden["texts"], golden["mistral"]);
}

/* A tokenizer.json with WordLevel over the given tokens and one component. */
hn_tokenizer *shell(const Json &golden, const char *part, const json_t *config)
{
    json_t *vocab = json_object();
    for (size_t i = 0; i < json_array_size(golden["tokens"]); i++)
        json_object_set_new(vocab, json_string_value(json_array_get(golden["tokens"], i)),
                            json_integer((json_int_t)i));
    json_t *j = json_pack("{s:s, s:{s:s, s:s, s:o}, s:O}", "version", "1.0", "model", "type",
                          "WordLevel", "unk_token", "a", "vocab", vocab, part, config);
    char *text = json_dumps(j, 0);
    hn_tokenizer *t = nullptr;
    EXPECT_HN_OK(hn_tok_parse_json(text, strlen(text), "shell", &t)) << text;
    free(text);
    json_decref(j);
    return t;
}

std::string name_of(const json_t *config)
{
    char *s = json_dumps(config, JSON_ENCODE_ANY);
    const std::string name = s;
    free(s);
    return name;
}

struct Work : hn_tok_work {
    Work() : hn_tok_work{} { EXPECT_HN_OK(hn_regex_scratch_make(&regex)); }
    ~Work() { hn_work_free(this); }
};

TEST(TokenizerComponents, NormalizersWriteWhatTheLibraryWrites)
{
    const Json golden(kDir + "/components.json");
    const auto texts = texts_of(golden["texts"]);
    for (size_t i = 0; i < json_array_size(golden["normalizers"]); i++) {
        const json_t *c = json_array_get(golden["normalizers"], i),
                     *config = json_object_get(c, "config");
        const Tokenizer t(shell(golden, "normalizer", config));
        for (size_t k = 0; k < texts.size(); k++) {
            Work w;
            const char *s;
            size_t n;
            bool cut;
            ASSERT_HN_OK(hn_normalize(t.get(), &w, texts[k].data(), texts[k].size(), &s, &n, &cut));
            EXPECT_EQ(std::string(s, n), text_of(json_array_get(json_object_get(c, "out"), k)))
                << name_of(config) << " on '" << texts[k] << "'";
        }
    }
}

TEST(TokenizerComponents, PreTokenizersCutWhereTheLibraryCuts)
{
    const Json golden(kDir + "/components.json");
    const auto texts = texts_of(golden["texts"]);
    for (size_t i = 0; i < json_array_size(golden["pre_tokenizers"]); i++) {
        const json_t *c = json_array_get(golden["pre_tokenizers"], i),
                     *config = json_object_get(c, "config");
        const Tokenizer t(shell(golden, "pre_tokenizer", config));
        ASSERT_TRUE(t);
        for (size_t k = 0; k < texts.size(); k++) {
            Work w;
            const char *s;
            const hn_tok_segs *segs;
            ASSERT_HN_OK(
                hn_pretokenize(t.get(), &w, texts[k].data(), texts[k].size(), true, &s, &segs));
            std::vector<std::string> got;
            for (int64_t p = 0; p < segs->n; p++) got.emplace_back(s + segs->v[p].at, segs->v[p].n);
            EXPECT_EQ(got, texts_of(json_array_get(json_object_get(c, "out"), k)))
                << name_of(config) << " on '" << texts[k] << "'";
        }
    }
}

TEST(TokenizerComponents, DecodersWriteWhatTheLibraryWrites)
{
    const Json golden(kDir + "/components.json");
    for (size_t i = 0; i < json_array_size(golden["decoders"]); i++) {
        const json_t *c = json_array_get(golden["decoders"], i),
                     *config = json_object_get(c, "config");
        const Tokenizer t(shell(golden, "decoder", config));
        for (size_t k = 0; k < json_array_size(golden["sequences"]); k++) {
            const json_t *want = json_array_get(json_object_get(c, "out"), k);
            if (json_is_null(want)) continue; /* the library panics there */
            EXPECT_EQ(t.decode(ids_of(json_array_get(golden["sequences"], k))), text_of(want))
                << name_of(config) << " on sequence " << k;
        }
    }
}

} // namespace
