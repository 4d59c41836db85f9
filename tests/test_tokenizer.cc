/* runtime/data/tokenizer: real vocabularies, round trips, loading rules, errors. */
#include "hn_test.h"
#include "runtime/base/alloc.h"
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

} // namespace
