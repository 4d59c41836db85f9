/* runtime/base/options: command line, config file, help and run record. */
#include <climits>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/base/nearest.h"
#include "runtime/base/options.h"

namespace {

struct Config {
    const char *model, *adapter, *method;
    int64_t rank, steps, seed;
    double lr, dropout, anything;
    bool deterministic, bf16;
    hn_text_list targets, pick;
};

#define AT(field) offsetof(Config, field)
const hn_option kTable[] = {
    HN_OPT_TITLE("Model"),
    {"model", HN_OPT_TEXT, AT(model), nullptr, 0, 0, nullptr, "folder with config.json"},
    {"adapter", HN_OPT_TEXT, AT(adapter), "", 0, 0, nullptr, "adapter to go on from"},
    HN_OPT_TITLE("Method"),
    {"method", HN_OPT_TEXT, AT(method), "lora", 0, 0, "lora|sparse|full", "what is trained"},
    {"lora.rank", HN_OPT_INT, AT(rank), "16", 1, 1024, nullptr, "rank of an update"},
    {"lora.dropout", HN_OPT_REAL, AT(dropout), "0", 0, 0.99, nullptr, "share of inputs dropped"},
    {"lora.targets", HN_OPT_LIST, AT(targets), "q_proj,v_proj", 0, 0, nullptr, "patterns"},
    {"max-steps", HN_OPT_INT, AT(steps), "1000", 1, 1e9, nullptr, "optimizer steps"},
    {"seed", HN_OPT_INT, AT(seed), "0", 0, 9e15, nullptr, "seed of every random choice"},
    {"lr", HN_OPT_REAL, AT(lr), "1e-4", 0, 1, nullptr, "peak learning rate"},
    {"anything", HN_OPT_REAL, AT(anything), "0", 0, 0, nullptr, "a number without limits"},
    {"deterministic", HN_OPT_FLAG, AT(deterministic), "on", 0, 0, nullptr, "same bits"},
    {"bf16", HN_OPT_FLAG, AT(bf16), "off", 0, 0, nullptr, "16-bit floats"},
    {"pick", HN_OPT_LIST, AT(pick), "", 0, 0, "red|green|blue", "colours"},
};
constexpr size_t kRows = sizeof kTable / sizeof *kTable;

/* Parses words (model=m is added unless told otherwise) and frees the store at the end. */
struct Parsed {
    Config c = {};
    hn_options_store *store = nullptr;
    hn_status status;
    explicit Parsed(std::vector<std::string> words, bool model = true)
    {
        std::vector<char *> argv = {(char *)"hone"};
        if (model) argv.push_back((char *)"model=m");
        for (auto &w : words) argv.push_back(w.data());
        status = hn_options_parse(kTable, kRows, (int)argv.size(), argv.data(), &c, &store);
        words.assign(words.size(), "overwritten"); /* nothing may point into argv */
    }
    Parsed(const Parsed &) = delete;
    ~Parsed() { hn_options_free(store); }
};

#define EXPECT_REFUSED(words, code, part) \
    EXPECT_HN_FAIL(Parsed(std::vector<std::string> words).status, code, part)

struct OptionsYaml : testing::Test {
    TempDir dir;
    const std::string path = dir / "run.yaml";
    std::vector<std::string> with(const std::string &yaml, std::vector<std::string> more = {})
    {
        write_file(path, yaml);
        more.insert(more.begin(), {"--config", path});
        return more;
    }
    void refused(const std::string &yaml, hn_status code, const std::string &part)
    {
        EXPECT_HN_FAIL(Parsed(with(yaml)).status, code, part.c_str());
    }
};

TEST(OptionsLine, DefaultsAreSet)
{
    Parsed p({});
    ASSERT_HN_OK(p.status);
    EXPECT_STREQ(p.c.model, "m");
    EXPECT_STREQ(p.c.adapter, "");
    EXPECT_STREQ(p.c.method, "lora");
    EXPECT_EQ(p.c.rank, 16);
    EXPECT_EQ(p.c.steps, 1000);
    EXPECT_EQ(p.c.lr, 1e-4);
    EXPECT_TRUE(p.c.deterministic);
    EXPECT_FALSE(p.c.bf16);
    EXPECT_STREQ(p.c.targets.joined, "q_proj,v_proj");
    EXPECT_STREQ(p.c.pick.joined, "");
    EXPECT_TRUE(hn_options_given(p.store, "model"));
    EXPECT_FALSE(hn_options_given(p.store, "lora.rank"));
    EXPECT_FALSE(hn_options_given(p.store, "no such name"));
}

TEST(OptionsLine, EverySpellingIsTaken)
{
    Parsed p({"--lora.rank", "8", "--max_steps=2e3", "lora.dropout=0.5", "--bf16",
              "--no-deterministic", "--method=full", "--anything", "-1.5", "--pick", "red, blue",
              "seed=9000000000000000", "--adapter=--odd=name"});
    ASSERT_HN_OK(p.status);
    EXPECT_EQ(p.c.rank, 8);
    EXPECT_EQ(p.c.steps, 2000);
    EXPECT_EQ(p.c.dropout, 0.5);
    EXPECT_TRUE(p.c.bf16);
    EXPECT_FALSE(p.c.deterministic);
    EXPECT_STREQ(p.c.method, "full");
    EXPECT_EQ(p.c.anything, -1.5);
    EXPECT_STREQ(p.c.pick.joined, "red,blue");
    EXPECT_EQ(p.c.seed, 9000000000000000);
    EXPECT_STREQ(p.c.adapter, "--odd=name");
    EXPECT_TRUE(hn_options_given(p.store, "max-steps"));
    EXPECT_TRUE(hn_options_given(p.store, "max_steps"));
}

TEST(OptionsLine, LastWordWins)
{
    Parsed p({"--lora.rank", "8", "lora.rank=4", "--bf16", "--bf16=off", "--pick=red", "--pick="});
    ASSERT_HN_OK(p.status);
    EXPECT_EQ(p.c.rank, 4);
    EXPECT_FALSE(p.c.bf16);
    EXPECT_STREQ(p.c.pick.joined, "");
}

TEST(OptionsLine, FlagWordsAreRead)
{
    for (const char *yes : {"on", "true", "yes", "TRUE"}) {
        Parsed p({std::string("bf16=") + yes});
        ASSERT_HN_OK(p.status);
        EXPECT_TRUE(p.c.bf16);
    }
    for (const char *no : {"off", "false", "no", "False"}) {
        Parsed p({std::string("--deterministic=") + no});
        ASSERT_HN_OK(p.status);
        EXPECT_FALSE(p.c.deterministic);
    }
    EXPECT_REFUSED(({"bf16=1"}), HN_ERR_ARG, "bf16: '1' is none of on, off");
}

TEST(OptionsLine, UnknownNamesAreRefusedWithTheNearest)
{
    EXPECT_REFUSED(({"--lora.rnak", "8"}), HN_ERR_ARG, "'lora.rnak'; did you mean 'lora.rank'?");
    EXPECT_REFUSED(({"rank=8"}), HN_ERR_ARG, "did you mean 'lora.rank'?");
    EXPECT_REFUSED(({"--max-stpes=8"}), HN_ERR_ARG, "did you mean 'max-steps'?");
    EXPECT_REFUSED(({"--quantum=8"}), HN_ERR_ARG, "no option is called 'quantum' (--help");
    EXPECT_REFUSED(({"--no-lr"}), HN_ERR_ARG, "no option is called 'no-lr'");
    EXPECT_REFUSED(({"stray"}), HN_ERR_ARG, "'stray' is neither --name nor name=value");
    EXPECT_REFUSED(({"-r", "8"}), HN_ERR_ARG, "'-r' is neither");
    EXPECT_REFUSED(({"--"}), HN_ERR_ARG, "'--' is neither");
    EXPECT_REFUSED(({"=8"}), HN_ERR_ARG, "'=8' is neither");
    EXPECT_REFUSED(({"--bf16", "on"}), HN_ERR_ARG, "'on' is neither");
}

TEST(OptionsLine, ValuesAreRequired)
{
    EXPECT_REFUSED(({"--lora.rank"}), HN_ERR_ARG, "--lora.rank needs a value");
    EXPECT_REFUSED(({"--adapter", "--bf16"}), HN_ERR_ARG, "write --adapter=--bf16");
    EXPECT_REFUSED(({"--lora.rank="}), HN_ERR_ARG, "'' is not a whole number");
    EXPECT_REFUSED(({"--config"}), HN_ERR_ARG, "--config needs a value");
    EXPECT_REFUSED(({"--config", "a", "--config=b"}), HN_ERR_ARG, "given twice: a and b");
    EXPECT_HN_FAIL(Parsed({}, false).status, HN_ERR_ARG, "--model is missing: folder with");
}

TEST(OptionsLine, IntegersAreExact)
{
    Parsed p({"max-steps=1e9", "lora.rank=2.56e2"});
    ASSERT_HN_OK(p.status);
    EXPECT_EQ(p.c.steps, 1000000000);
    EXPECT_EQ(p.c.rank, 256);
    for (const char *bad : {"1.5", "1e-1", "8 ", " 8", "0x10", "1_000", "99999999999999999999",
                            "1e300", "nan", "inf", "eight", "+-1", "1e", "--1"})
        EXPECT_REFUSED(({std::string("lora.rank=") + bad}), HN_ERR_ARG, "not a whole number");
    EXPECT_REFUSED(({"lora.rank=0"}), HN_ERR_ARG, "lora.rank: 0 is outside 1 to 1024");
    EXPECT_REFUSED(({"lora.rank=1025"}), HN_ERR_ARG, "1025 is outside");
    EXPECT_REFUSED(({"seed=-1"}), HN_ERR_ARG, "outside 0 to 9e+15");
}

TEST(OptionsLine, RealsAreFinite)
{
    Parsed p({"lr=5E-5", "anything=.25"});
    ASSERT_HN_OK(p.status);
    EXPECT_EQ(p.c.lr, 5e-5);
    EXPECT_EQ(p.c.anything, 0.25);
    for (const char *bad : {"nan", "inf", "-inf", "1e999", "1e-999", "0x1p3", "1,5", "", " 1"})
        EXPECT_REFUSED(({std::string("anything=") + bad}), HN_ERR_ARG, "not a finite decimal");
    EXPECT_REFUSED(({"lr=1.0001"}), HN_ERR_ARG, "lr: 1.0001 is outside 0 to 1");
}

TEST(OptionsLine, ChoicesAreKept)
{
    EXPECT_REFUSED(({"method=lor"}), HN_ERR_ARG, "'lor' is none of lora|sparse|full");
    EXPECT_REFUSED(({"method="}), HN_ERR_ARG, "'' is none of");
    EXPECT_REFUSED(({"pick=red,pink"}), HN_ERR_ARG, "'pink' is none of red|green|blue");
    EXPECT_REFUSED(({"lora.targets=a,,b"}), HN_ERR_ARG, "empty item in 'a,,b'");
    EXPECT_REFUSED(({"lora.targets=a,"}), HN_ERR_ARG, "empty item");
}

TEST(OptionsLine, HelpStopsReading)
{
    Parsed p({"--help", "--nonsense"}, false);
    ASSERT_HN_OK(p.status);
    EXPECT_TRUE(hn_options_help_wanted(p.store));
    EXPECT_EQ(p.c.model, nullptr);
    Parsed q({"-h"});
    ASSERT_HN_OK(q.status);
    EXPECT_TRUE(hn_options_help_wanted(q.store));
}

TEST(OptionsLine, FailureChangesNothing)
{
    Config c = {};
    c.rank = 77;
    hn_options_store *store = nullptr;
    char *argv[] = {(char *)"hone", (char *)"model=m", (char *)"lora.rank=8", (char *)"lr=2"};
    EXPECT_HN_FAIL(hn_options_parse(kTable, kRows, 4, argv, &c, &store), HN_ERR_ARG, "lr: 2");
    EXPECT_EQ(c.rank, 77);
    EXPECT_EQ(c.model, nullptr);
    EXPECT_EQ(store, nullptr);
}

TEST(OptionsLine, BadDefaultIsNamed)
{
    const hn_option row = {"x", HN_OPT_INT, 0, "12", 1, 10, nullptr, "too small a range"};
    int64_t x = 0;
    hn_options_store *store = nullptr;
    EXPECT_HN_FAIL(hn_options_parse(&row, 1, 0, nullptr, &x, &store), HN_ERR_ARG,
                   "default of x: 12 is outside 1 to 10");
}

TEST(OptionsLine, EveryFailedAllocationIsReported)
{
    TempDir dir;
    write_file(dir / "c.yaml", "lora: {rank: 4, targets: [a, b]}\n");
    for (uint64_t nth = 1; nth < 200; nth++) {
        hn_alloc_fail_at(nth);
        Parsed p({"--config", dir / "c.yaml", "--bf16"});
        hn_alloc_fail_at(0);
        if (p.status == HN_OK) {
            EXPECT_GT(nth, 15u);
            return;
        }
        EXPECT_EQ(p.status, HN_ERR_MEMORY) << hn_last_error();
        EXPECT_EQ(p.store, nullptr);
    }
    FAIL() << "never got through";
}

TEST_F(OptionsYaml, FlatAndNestedMeanTheSame)
{
    for (const char *text : {"lora.rank: 8\nlora.targets: [a, \"b c\"]\nbf16: yes\nlr: 1e-3\n",
                             "lora: {rank: 8, targets: [a, b c]}\nbf16: True\nlr: 0.001",
                             "---\nlora:\n  rank: 8\n  targets:\n  - a\n  - b c\nbf16: on\nlr: "
                             "1.0e-3 # peak\n...\n"}) {
        Parsed p(with(text));
        ASSERT_HN_OK(p.status);
        EXPECT_EQ(p.c.rank, 8);
        EXPECT_STREQ(p.c.targets.joined, "a,b c");
        EXPECT_TRUE(p.c.bf16);
        EXPECT_EQ(p.c.lr, 1e-3);
        EXPECT_TRUE(hn_options_given(p.store, "lora.rank"));
        EXPECT_FALSE(hn_options_given(p.store, "lora.dropout"));
    }
}

TEST_F(OptionsYaml, CommandLineWinsWhereverItStands)
{
    write_file(path, "max_steps: 5\nlora.rank: 8\n");
    Parsed p({"lora.rank=4", "--config", path});
    ASSERT_HN_OK(p.status);
    EXPECT_EQ(p.c.rank, 4);
    EXPECT_EQ(p.c.steps, 5);
    /* ... but what stands in the file must be valid all the same */
    EXPECT_HN_FAIL(Parsed(with("lora.rank: 0", {"lora.rank=4"})).status, HN_ERR_ARG, ":1:");
}

TEST_F(OptionsYaml, EmptyFilesSetNothing)
{
    for (const char *text : {"", "# only a comment\n", "---\n", "{}\n", "~\n"}) {
        Parsed p(with(text));
        EXPECT_HN_OK(p.status);
    }
}

TEST_F(OptionsYaml, UnknownKeysNamePlaceAndNearest)
{
    refused("lr: 1e-3\n\nlora.rnk: 8\n", HN_ERR_ARG, path + ":3: no option is called 'lora.rnk'");
    refused("lora:\n  rank: 8\n  rnak: 9\n", HN_ERR_ARG,
            ":3: no option is called 'lora.rnak'; did");
    refused("lroa: {rank: 8}\n", HN_ERR_ARG, "'lroa.rank'; did you mean 'lora.rank'?");
    refused("lroa: {}\n", HN_ERR_ARG, "no option is called 'lroa'");
    refused("seed: 1\nlora: 5\n", HN_ERR_ARG, ":2: no option is called 'lora'");
    refused(std::string(300, 'k') + ": 1\n", HN_ERR_ARG, "no option is called");
    refused("config: other.yaml\n", HN_ERR_ARG, "no option is called 'config'");
    refused("<<: {seed: 1}\n", HN_ERR_ARG, "no option is called");
}

TEST_F(OptionsYaml, DuplicateKeysAreRefused)
{
    refused("seed: 1\nlr: 0\nseed: 1\n", HN_ERR_ARG, ":3: seed is already set in line 1");
    refused("lora.rank: 1\nlora: {rank: 2}\n", HN_ERR_ARG,
            ":2: lora.rank is already set in line 1");
    refused("max-steps: 1\nmax_steps: 2\n", HN_ERR_ARG, ":2: max-steps is already set in line 1");
    refused("lora: {rank: 1}\nlora: {dropout: 0}\n", HN_ERR_ARG,
            ":2: lora is already set in line 1");
}

TEST_F(OptionsYaml, WrongTypesNameThePlace)
{
    refused("\nlora.rank: many\n", HN_ERR_ARG, path + ":2: lora.rank: 'many' is not a whole");
    refused("lora.rank: \"8\"\n", HN_ERR_ARG, ":1: lora.rank: \"8\" is a text: leave out the");
    refused("lora.rank: [8]\n", HN_ERR_ARG, ":1: lora.rank takes a single value");
    refused("lora.rank: {a: 8}\n", HN_ERR_ARG, ":1: lora.rank takes a single value");
    refused("lr: .nan\n", HN_ERR_ARG, ":1: lr: '.nan' is not a finite");
    refused("bf16: 1\n", HN_ERR_ARG, ":1: bf16: '1' is none of on");
    refused("adapter:\nseed: 1\n", HN_ERR_ARG, "adapter has no value");
    refused("seed: 1\nlr: 7\n", HN_ERR_ARG, ":2: lr: 7 is outside 0 to 1");
    refused("lora.targets: [a, [b]]\n", HN_ERR_ARG, "every item is a word");
    refused("lora.targets: [\"a,b\"]\n", HN_ERR_ARG, "every item is a word");
    refused("lora.targets: [a, ~]\n", HN_ERR_ARG, "every item is a word");
    refused("pick:\n- red\n- pink\n", HN_ERR_ARG, "'pink' is none of");
    refused("lora: {targets: {a: b}}\n", HN_ERR_ARG, "takes a single value");
    refused("[a]: 1\n", HN_ERR_ARG, "a key is the name of an option");
}

TEST_F(OptionsYaml, WhatIsNotPlainYamlIsRefused)
{
    refused("seed: &a 1\n", HN_ERR_FORMAT, ":1: anchors and aliases are not supported ('a')");
    refused("seed: 1\nlora.rank: *a\n", HN_ERR_FORMAT, ":2: anchors and aliases");
    refused("lora: &x {rank: 1}\n", HN_ERR_FORMAT, "anchors");
    refused("seed: !!int 1\n", HN_ERR_FORMAT, "tags are not supported");
    refused("- seed\n", HN_ERR_FORMAT, "a config file is one mapping");
    refused("seed\n", HN_ERR_FORMAT, "a config file is one mapping");
    refused("seed: 1\n---\nseed: 2\n", HN_ERR_FORMAT, ":2: a second document");
    refused("seed: 1\nlr 2\n", HN_ERR_FORMAT, path + ":3: column");
    refused("lora: {rank: 1\n", HN_ERR_FORMAT, "column");
    refused("adapter: \"a\\0b\"\n", HN_ERR_FORMAT, "zero byte");
    refused("adapter: \xff\xfe\n", HN_ERR_FORMAT, path);
    refused("#" + std::string(1 << 20, 'x'), HN_ERR_FORMAT, "a config file has at most 1048576");
    EXPECT_REFUSED(({"--config", dir / "none.yaml"}), HN_ERR_IO, "none.yaml");
    EXPECT_REFUSED(({"--config", dir.str()}), HN_ERR_IO, dir.str().c_str());
}

TEST_F(OptionsYaml, RunRecordReproducesEveryBit)
{
    const std::string odd = "a \"b\"\\ # ' \t\n\x01\x7f: \xc3\xa9 \xe2\x80\xa8 \xc2\x85 "
                            "\xf0\x9f\x98\x80 \xef\xbb\xbf end ";
    Parsed p({"adapter=" + odd, "anything=0.1", "lr=3.3333333333333331e-05", "--pick=blue,red",
              "lora.dropout=0.30000000000000004", "seed=8999999999999999", "--bf16",
              "lora.targets=layers.*.q_proj,~,null, x: y"});
    ASSERT_HN_OK(p.status);
    char *text = nullptr;
    ASSERT_HN_OK(hn_options_yaml(kTable, kRows, &p.c, &text));
    Parsed q(with(text), false);
    ASSERT_HN_OK(q.status);
    EXPECT_EQ(q.c.adapter, odd);
    EXPECT_STREQ(q.c.model, "m");
    EXPECT_EQ(q.c.anything, 0.1);
    EXPECT_EQ(q.c.lr, 3.3333333333333331e-05);
    EXPECT_EQ(q.c.dropout, 0.30000000000000004);
    EXPECT_EQ(q.c.seed, 8999999999999999);
    EXPECT_STREQ(q.c.targets.joined, "layers.*.q_proj,~,null,x: y");
    EXPECT_STREQ(q.c.pick.joined, "blue,red");
    EXPECT_TRUE(q.c.bf16);
    EXPECT_NE(std::strstr(text, "# Method\nmethod: \"lora\"\nlora.rank: 16\n"), nullptr) << text;
    EXPECT_NE(std::strstr(text, "anything: 0.1\n"), nullptr) << text;
    char *again = nullptr;
    ASSERT_HN_OK(hn_options_yaml(kTable, kRows, &q.c, &again));
    EXPECT_STREQ(text, again);
    hn_free(text), hn_free(again);
}

TEST_F(OptionsYaml, RunRecordKeepsExtremeNumbers)
{
    struct Numbers {
        int64_t i;
        double x;
    } n, back;
    const hn_option table[] = {
        {"i", HN_OPT_INT, offsetof(Numbers, i), "0", 0, 0, nullptr, "any integer"},
        {"x", HN_OPT_REAL, offsetof(Numbers, x), "0", 0, 0, nullptr, "any number"},
    };
    const int64_t ints[] = {INT64_MIN, INT64_MAX, -1, (1LL << 53) + 1};
    const double reals[] = {-0.0, 1.7976931348623157e308, 0x1p-1022, 1 / 3.0};
    for (int k = 0; k < 4; k++) {
        n = {ints[k], reals[k]};
        char *text = nullptr;
        ASSERT_HN_OK(hn_options_yaml(table, 2, &n, &text));
        write_file(path, text);
        hn_free(text);
        char *argv[] = {(char *)"hone", (char *)"--config", (char *)path.c_str()};
        hn_options_store *store = nullptr;
        ASSERT_HN_OK(hn_options_parse(table, 2, 3, argv, &back, &store));
        EXPECT_EQ(std::memcmp(&n, &back, sizeof n), 0) << n.i << " " << n.x;
        hn_options_free(store);
    }
}

TEST(OptionsRecord, RefusesWhatYamlCannotHold)
{
    for (const char *bad : {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\xaf", "\xf5\x80\x80\x80"}) {
        Parsed p({std::string("adapter=") + bad});
        ASSERT_HN_OK(p.status);
        char *text = nullptr;
        EXPECT_HN_FAIL(hn_options_yaml(kTable, kRows, &p.c, &text), HN_ERR_ARG, "is not UTF-8");
        EXPECT_EQ(text, nullptr);
    }
    Parsed p({});
    p.c.lr = NAN;
    char *text = nullptr;
    EXPECT_HN_FAIL(hn_options_yaml(kTable, kRows, &p.c, &text), HN_ERR_ARG, "lr: nan");
    p.c.lr = 0;
    hn_alloc_fail_at(1);
    EXPECT_EQ(hn_options_yaml(kTable, kRows, &p.c, &text), HN_ERR_MEMORY);
    hn_alloc_fail_at(0);
    EXPECT_EQ(text, nullptr);
}

TEST(OptionsHelp, NamesHeadingsRangesAndDefaults)
{
    FILE *f = std::tmpfile();
    hn_options_help(kTable, kRows, f);
    std::rewind(f);
    std::string text(8192, '\0');
    text.resize(std::fread(text.data(), 1, text.size(), f));
    std::fclose(f);
    EXPECT_EQ(text.rfind("Model\n  --model TEXT", 0), 0u) << text;
    for (const char *part : {"\nMethod\n", "(1 to 1024; default 16)", "(required)", "(not set)",
                             "--[no-]bf16", "what is trained: lora|sparse|full (default lora)",
                             "--config FILE", "(default empty)", "(default q_proj,v_proj)"})
        EXPECT_NE(text.find(part), std::string::npos) << part << " is not in:\n" << text;
    std::istringstream lines(text);
    for (std::string l; std::getline(lines, l);) EXPECT_LE(l.size(), 100u) << l;
}

TEST(TextList, ItemsComeOneByOne)
{
    char out[4] = "";
    const hn_text_list list = {"a,bcd,efgh"};
    EXPECT_EQ(hn_text_list_item(list, 0, out, sizeof out), 1);
    EXPECT_STREQ(out, "a");
    EXPECT_EQ(hn_text_list_item(list, 1, out, sizeof out), 3);
    EXPECT_STREQ(out, "bcd");
    EXPECT_EQ(hn_text_list_item(list, 2, out, sizeof out), 4); /* does not fit: unchanged */
    EXPECT_STREQ(out, "bcd");
    EXPECT_EQ(hn_text_list_item(list, 3, out, sizeof out), -1);
    EXPECT_EQ(hn_text_list_item({""}, 0, out, sizeof out), -1);
    EXPECT_EQ(hn_text_list_item({nullptr}, 0, out, sizeof out), -1);
}

TEST(Nearest, CountsEdits)
{
    EXPECT_EQ(hn_edit_distance("", ""), 0);
    EXPECT_EQ(hn_edit_distance("", "abc"), 3);
    EXPECT_EQ(hn_edit_distance("kitten", "sitting"), 3);
    EXPECT_EQ(hn_edit_distance("rank", "rnak"), 1);
    EXPECT_EQ(hn_edit_distance("max_steps", "max-steps"), 0);
    EXPECT_EQ(hn_edit_distance(std::string(65, 'a').c_str(), "a"), HN_NEAREST_MAX + 1);
    EXPECT_EQ(hn_edit_distance(std::string(64, 'a').c_str(), std::string(64, 'b').c_str()), 64);
}

TEST(Nearest, TakesTheFirstOfTheClosest)
{
    const char *const names[] = {"steps", nullptr, "stop", "lora.alpha"};
    EXPECT_STREQ(hn_nearest("step", names, 4), "steps");
    EXPECT_STREQ(hn_nearest("stopp", names, 4), "stop");
    EXPECT_STREQ(hn_nearest("alhpa", names, 4), "lora.alpha");
    EXPECT_EQ(hn_nearest("quantum", names, 4), nullptr);
    EXPECT_EQ(hn_nearest("", names, 4), nullptr);
}

} // namespace
