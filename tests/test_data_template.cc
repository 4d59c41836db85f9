/* runtime/data/template: detection, the Stanford prompt, errors that name file, line and key. */
#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/data/template.h"

namespace {

/* Rows of one file in memory, detected and rendered. */
struct Data {
    std::string text;
    hn_source *s = nullptr;
    hn_template t = {};
    hn_rendered r = {};
    explicit Data(const std::string &bytes, hn_template wanted = {}, const char *name = "d.jsonl")
        : text(bytes), t(wanted)
    {
        EXPECT_HN_OK(hn_source_open_memory(name, text.data(), text.size(), nullptr, &s));
    }
    Data(const Data &) = delete;
    ~Data()
    {
        hn_rendered_free(&r);
        hn_source_close(s);
    }
    hn_status settle(int64_t *n = nullptr) { return hn_template_settle(&t, s, n); }
    hn_status next()
    {
        hn_row row;
        const hn_status st = hn_source_next(s, &row);
        EXPECT_NE(row.text, nullptr);
        return st ? st : hn_template_row(&t, &row, hn_source_about(s)->is_text, 100, &r);
    }
    std::string prompt() const { return std::string(r.text, (size_t)r.n_prompt); }
    std::string rest() const
    {
        return std::string(r.text + r.n_prompt, (size_t)(r.n_bytes - r.n_prompt));
    }
};

hn_data_format detected(const std::string &rows)
{
    Data d(rows);
    EXPECT_HN_OK(d.settle());
    return d.t.format;
}

TEST(Template, DetectsByKeys)
{
    EXPECT_EQ(detected(R"({"text":"a"})"), HN_DATA_TEXT);
    EXPECT_EQ(detected(R"({"prompt":"a","completion":"b","text":"c"})"), HN_DATA_PROMPT);
    EXPECT_EQ(detected(R"({"instruction":"a","output":"b"})"), HN_DATA_ALPACA);
    EXPECT_EQ(detected(R"({"input_ids":[1,2]})"), HN_DATA_TOKENS);
    EXPECT_EQ(detected(""), HN_DATA_AUTO);
}

TEST(Template, RefusesByNameWhatNeedsAChatTemplate)
{
    const char *const rows[] = {R"({"messages":[]})", R"({"conversations":[]})",
                                R"({"prompt":"a","chosen":"b","rejected":"c"})",
                                R"({"prompt":"a","completion":"b","label":true})"};
    const char *const names[] = {"messages", "sharegpt", "preference", "preference"};
    for (int i = 0; i < 4; i++) {
        Data d(rows[i]);
        EXPECT_HN_FAIL(d.settle(), HN_ERR_UNSUPPORTED, names[i]);
        EXPECT_NE(std::strstr(hn_last_error(), "needs a chat template") ||
                      std::strstr(hn_last_error(), "need a chat template"),
                  0);
    }
    Data lists(R"({"prompt":[{"role":"user"}],"completion":"b"})");
    ASSERT_HN_OK(lists.settle());
    EXPECT_HN_FAIL(lists.next(), HN_ERR_UNSUPPORTED,
                   "d.jsonl:1: key 'prompt' is a list of messages");
}

TEST(Template, LooksAtOneHundredRowsThatMustAgree)
{
    std::string rows;
    for (int i = 0; i < 150; i++) rows += "{\"text\":\"a\"}\n";
    int64_t looked = 0;
    Data d(rows + "{\"prompt\":\"late\",\"completion\":\"\"}\n");
    ASSERT_HN_OK(d.settle(&looked));
    EXPECT_EQ(looked, 100);
    for (int i = 0; i < 150; i++) ASSERT_HN_OK(d.next());
    EXPECT_HN_FAIL(d.next(), HN_ERR_FORMAT, "d.jsonl:151: key 'text' is missing");
    Data mixed("{\"text\":\"a\"}\n\n{\"instruction\":\"a\",\"output\":\"b\"}\n");
    EXPECT_HN_FAIL(mixed.settle(), HN_ERR_FORMAT,
                   "d.jsonl:3: row looks like alpaca, but d.jsonl:1 looks like text");
    Data strange(R"({"question":"a","answer":"b"})");
    EXPECT_HN_FAIL(strange.settle(), HN_ERR_FORMAT, "d.jsonl:1: keys question, answer fit no");
}

TEST(Template, ColumnsCanBeNamed)
{
    hn_template t = {};
    t.prompt_key = "question";
    t.completion_key = "answer";
    t.separator = "\n";
    Data d("{\"question\":\"1+1?\",\"answer\":\"2\"}\n{\"question\":\"x\"}\n", t);
    t.format = HN_DATA_PROMPT;
    EXPECT_HN_FAIL(d.settle(), HN_ERR_FORMAT, "d.jsonl:2: key 'question' or 'answer' is missing");
    Data again("{\"question\":\"1+1?\",\"answer\":\"2\"}\n", t);
    ASSERT_HN_OK(again.settle());
    ASSERT_HN_OK(again.next());
    EXPECT_EQ(again.prompt(), "1+1?\n");
    EXPECT_EQ(again.rest(), "2");
}

TEST(Template, OptionsThatExcludeEachOtherAreRefused)
{
    hn_template t = {};
    t.text_key = "a";
    t.prompt_key = "b";
    Data both("{}", t);
    EXPECT_HN_FAIL(both.settle(), HN_ERR_ARG, "text_key excludes");
    hn_template u = {};
    u.format = HN_DATA_ALPACA;
    u.separator = " ";
    Data alpaca("{}", u);
    EXPECT_HN_FAIL(alpaca.settle(), HN_ERR_ARG, "do not fit format alpaca");
    Data text("hello", u, "d.txt");
    EXPECT_HN_FAIL(text.settle(), HN_ERR_ARG, ".txt file has no columns");
    u.format = HN_DATA_AUTO;
    Data late(R"({"text":"a"})", u);
    EXPECT_HN_FAIL(late.settle(), HN_ERR_ARG, "separator does not fit rows of format text");
    hn_data_format f;
    EXPECT_HN_FAIL(hn_data_format_parse("csv", &f), HN_ERR_ARG, "'csv' is unknown");
    ASSERT_HN_OK(hn_data_format_parse("alpaca", &f));
    EXPECT_EQ(f, HN_DATA_ALPACA);
}

TEST(Template, AlpacaIsTheStanfordPromptWordForWord)
{
    Data d("{\"instruction\":\"Add.\",\"input\":\"1 2\",\"output\":\"3\"}\n"
           "{\"instruction\":\"Hi\",\"input\":\"\",\"output\":\"Yo\"}\n"
           "{\"instruction\":\"Hi\",\"output\":\"Yo\"}\n"
           "{\"instruction\":\"Hi\",\"output\":\"Yo\",\"system\":\"s\"}\n"
           "{\"instruction\":\"Hi\",\"output\":\"Yo\",\"history\":[[\"a\",\"b\"]]}\n"
           "{\"instruction\":\"Hi\"}\n");
    d.t.format = HN_DATA_ALPACA;
    ASSERT_HN_OK(d.settle());
    ASSERT_HN_OK(d.next());
    EXPECT_EQ(d.prompt(),
              "Below is an instruction that describes a task, paired with an input that provides "
              "further context. Write a response that appropriately completes the request.\n\n"
              "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:");
    EXPECT_EQ(d.rest(), "3");
    for (int i = 0; i < 2; i++) {
        ASSERT_HN_OK(d.next());
        EXPECT_EQ(d.prompt(),
                  "Below is an instruction that describes a task. Write a response that "
                  "appropriately completes the request.\n\n### Instruction:\nHi\n\n### Response:");
        EXPECT_EQ(d.rest(), "Yo");
    }
    EXPECT_HN_FAIL(d.next(), HN_ERR_UNSUPPORTED, "d.jsonl:4: key 'system'");
    EXPECT_HN_FAIL(d.next(), HN_ERR_UNSUPPORTED, "d.jsonl:5: key 'history'");
    EXPECT_HN_FAIL(d.next(), HN_ERR_FORMAT, "d.jsonl:6: key 'output' is missing");
}

TEST(Template, TokensAreCheckedOneByOne)
{
    const struct {
        const char *row, *error;
    } bad[] = {
        {R"({"input_ids":[1,100]})", "input_ids[1] is not an integer in 0..99"},
        {R"({"input_ids":[-1]})", "input_ids[0]"},
        {R"({"input_ids":[1.5]})", "input_ids[0]"},
        {R"({"input_ids":"x"})", "key 'input_ids' is not a list"},
        {R"({"input_ids":[1],"labels":[1,2]})", "key 'labels' has 2 elements, input_ids has 1"},
        {R"({"input_ids":[1,2],"labels":[1,3]})", "labels[1] is neither -100 nor input_ids[1]"},
        {R"({"input_ids":[1,2],"attention_mask":[1,0]})", "attention_mask[1] is not 1"},
    };
    for (const auto &c : bad) {
        Data d(c.row);
        ASSERT_HN_OK(d.settle());
        EXPECT_HN_FAIL(d.next(), HN_ERR_FORMAT, c.error);
    }
    Data d(R"({"input_ids":[5,6,7],"labels":[-100,6,-100],"attention_mask":[1,1,1]})");
    ASSERT_HN_OK(d.settle());
    ASSERT_HN_OK(d.next());
    ASSERT_EQ(d.r.n_ids, 3);
    EXPECT_EQ(d.r.id[2], 7);
    EXPECT_EQ(d.r.trained[0] * 4 + d.r.trained[1] * 2 + d.r.trained[2], 2);
}

TEST(Template, HostileRowsEndWithOneLine)
{
    const std::string deep(100000, '[');
    const std::string rows[] = {
        "{\"text\":\"\xff\"}",          "{\"text\":\"a",     "{\"text\":\"\\ud800\"}",
        "{\"text\":1,\"text\":2}",      "{\"text\":" + deep, std::string("{\"text\":\"a\0b\"}", 14),
        "{\"text\":1e99999}",           "\"text\"",          "[]",
        "{\"text\":\"a\"}{\"text\":1}",
    };
    for (const std::string &row : rows) {
        Data d("{\"text\":\"fine\"}\n" + row + "\n");
        EXPECT_EQ(d.settle(), HN_ERR_FORMAT) << row.substr(0, 40);
        EXPECT_NE(std::strstr(hn_last_error(), "d.jsonl:2"), nullptr) << hn_last_error();
    }
    Data zero("{\"text\":\"a\\u0000b\"}");
    ASSERT_HN_OK(zero.settle());
    ASSERT_HN_OK(zero.next());
    EXPECT_EQ(zero.r.n_bytes, 3);
}

TEST(Template, EveryFailedAllocationIsReported)
{
    for (uint64_t nth = 1;; nth++) {
        Data d("{\"instruction\":\"a\",\"input\":\"b\",\"output\":\"c\"}\n");
        hn_alloc_fail_at(nth);
        hn_status st = d.settle();
        if (st == HN_OK) {
            hn_row row;
            st = hn_source_next(d.s, &row);
            if (st == HN_OK) st = hn_template_row(&d.t, &row, false, 100, &d.r);
        }
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        ASSERT_LT(nth, 100u);
    }
}

} // namespace
