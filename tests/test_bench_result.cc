/* Results of hone-bench: written, read back, compared (bench/bench_result.h). */
#include <sys/wait.h>

#include <algorithm>

#include "bench/bench_result.h"
#include "hn_test.h"

namespace {

hn_bench_result result(const char *bench, int64_t rows, double p20, double p50, double p80)
{
    hn_bench_result r = {};
    snprintf(r.bench, sizeof r.bench, "%s", bench);
    snprintf(r.dtype, sizeof r.dtype, "bf16");
    snprintf(r.axis[0], sizeof r.axis[0], "rows");
    snprintf(r.axis[1], sizeof r.axis[1], "cols");
    r.n_axes = 2;
    r.size[0] = rows;
    r.size[1] = 2048;
    r.us_p20 = p20;
    r.us_p50 = p50;
    r.us_p80 = p80;
    snprintf(r.gpu, sizeof r.gpu, "one \"GPU\"");
    snprintf(r.commit, sizeof r.commit, "abc");
    return r;
}

class List {
  public:
    hn_bench_results all = {};
    List() = default;
    explicit List(const std::vector<hn_bench_result> &v)
    {
        for (const auto &r : v) EXPECT_HN_OK(hn_bench_results_add(&all, &r));
    }
    ~List() { hn_bench_results_free(&all); }
    List(const List &) = delete;
    List &operator=(const List &) = delete;
};

std::string written(const hn_bench_result &r)
{
    char *text = nullptr;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    EXPECT_HN_OK(hn_bench_result_write(&r, f));
    fclose(f);
    std::string s(text, n);
    free(text);
    return s;
}

/* What compare prints, and what it returns. */
struct Comparison {
    int64_t slower = 0, matched = 0;
    std::string text;
    Comparison(const List &old, const List &now, double threshold = 5)
    {
        char *p = nullptr;
        size_t n = 0;
        FILE *f = open_memstream(&p, &n);
        slower = hn_bench_compare(&old.all, &now.all, threshold, f, &matched);
        fclose(f);
        text.assign(p, n);
        free(p);
    }
};

std::string file_of(const std::string &text)
{
    static TempDir dir;
    static int n = 0;
    const std::string path = dir / ("results-" + std::to_string(n++) + ".jsonl");
    std::ofstream(path) << text;
    return path;
}

TEST(BenchResult, KeyNamesOperationTypeAndAxes)
{
    const auto r = result("add_rmsnorm_fwd", 16384, 1, 2, 3);
    char key[HN_BENCH_KEY];
    hn_bench_key(&r, key);
    EXPECT_STREQ(key, "add_rmsnorm_fwd bf16 rows=16384 cols=2048");
}

TEST(BenchResult, IsReadBackAsItWasWritten)
{
    auto r = result("add", 7, 1.25, 2.5, 1000.0625);
    r.gb_s = 3999.5;
    const std::string line = written(r);
    EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
    List l;
    ASSERT_HN_OK(hn_bench_results_read(file_of("\n" + line + "  \n").c_str(), &l.all));
    ASSERT_EQ(l.all.n, 1);
    const auto &got = l.all.at[0];
    EXPECT_STREQ(got.bench, "add");
    EXPECT_STREQ(got.gpu, "one \"GPU\"");
    EXPECT_STREQ(got.commit, "abc");
    EXPECT_EQ(got.n_axes, 2);
    EXPECT_EQ(got.size[0], 7);
    EXPECT_EQ(got.us_p20, 1.25);
    EXPECT_EQ(got.us_p50, 2.5);
    EXPECT_EQ(got.us_p80, 1000.0625);
}

TEST(BenchResult, DamagedFilesAreNamedWithTheirLine)
{
    const std::string good = written(result("add", 7, 1, 2, 3));
    const std::pair<std::string, const char *> cases[] = {
        {"", "holds no result"},
        {good + "{\"bench\"", ":2"},
        {"[1]\n", ":1: no JSON object"},
        {"{\"bench\": \"add\", \"dtype\": \"bf16\"}\n", "axes is no object"},
        {"{\"bench\": \"add\", \"dtype\": \"bf16\", \"axes\": {\"rows\": \"x\"}}\n", "axis 'rows'"},
        {"{\"bench\": \"add\", \"dtype\": \"bf16\", \"axes\": {\"rows\": 1}, \"us_p20\": 1, "
         "\"us_p50\": 2}\n",
         "us_p80"},
        {"{\"bench\": \"add\", \"dtype\": \"bf16\", \"axes\": {\"rows\": 1}, \"us_p20\": 3, "
         "\"us_p50\": 2, \"us_p80\": 4}\n",
         "p20 <= p50"},
        {"{\"bench\": \"add\", \"dtype\": \"bf16\", \"axes\": {\"rows\": 1}, \"us_p20\": 0, "
         "\"us_p50\": 0, \"us_p80\": 0}\n",
         "0 < p20"},
        {good + good, ":2: add bf16 rows=7 cols=2048 is there twice"},
        {"{\"bench\": \"" + std::string(100, 'x') + "\", \"dtype\": \"bf16\"}\n", "100 characters"},
    };
    for (const auto &[text, what] : cases) {
        hn_bench_results r = {};
        EXPECT_HN_FAIL(hn_bench_results_read(file_of(text).c_str(), &r), HN_ERR_FORMAT, what);
        EXPECT_EQ(r.at, nullptr);
    }
    hn_bench_results r = {};
    EXPECT_HN_FAIL(hn_bench_results_read("/nonexistent/x", &r), HN_ERR_IO, "/nonexistent/x");
}

TEST(BenchCompare, SlowerNeedsBothThresholdAndSeparateSpreads)
{
    const List old({result("add", 1, 98, 100, 102)});
    struct {
        double p20, p50, p80;
        int64_t slower;
    } const cases[] = {
        {98, 100, 102, 0},  /* the same */
        {108, 110, 112, 1}, /* 10 % and apart */
        {103, 104, 105, 0}, /* apart, but 4 % */
        {90, 110, 130, 0},  /* 10 %, but the ranges meet */
        {48, 50, 52, 0},    /* faster */
    };
    for (const auto &c : cases) {
        const Comparison got(old, List({result("add", 1, c.p20, c.p50, c.p80)}));
        EXPECT_EQ(got.slower, c.slower) << c.p50;
        EXPECT_EQ(got.matched, 1);
        EXPECT_EQ(got.text.find("SLOWER") != std::string::npos, c.slower > 0) << got.text;
        EXPECT_EQ(got.text.find("faster") != std::string::npos, c.p50 < 60) << got.text;
    }
    EXPECT_EQ(Comparison(old, List({result("add", 1, 108, 110, 112)}), 15).slower, 0);
}

TEST(BenchCompare, SaysWhatIsInOneFileOnly)
{
    const List old({result("add", 1, 1, 2, 3), result("mul", 1, 1, 2, 3)});
    const List now({result("add", 1, 1, 2, 3), result("add", 2, 1, 2, 3)});
    const Comparison c(old, now);
    EXPECT_EQ(c.matched, 1);
    EXPECT_EQ(c.slower, 0);
    EXPECT_NE(c.text.find("1 old results are not in the new"), std::string::npos) << c.text;
    EXPECT_NE(c.text.find("new\n"), std::string::npos) << c.text;
}

TEST(BenchCompare, SaysWhenTheMachinesDiffer)
{
    auto other = result("add", 1, 1, 2, 3);
    snprintf(other.gpu, sizeof other.gpu, "another");
    const List a({result("add", 1, 1, 2, 3)}), b({other});
    EXPECT_NE(Comparison(a, b).text.find("different machines"), std::string::npos);
    EXPECT_EQ(Comparison(a, a).text.find("different machines"), std::string::npos);
}

#ifdef HONE_CUDA
/* The program itself, where it needs no GPU. */
int exit_code(const std::string &arguments)
{
    const char *bin = getenv("HONE_BIN");
    const std::string command =
        std::string(bin ? bin : "build-cuda") + "/hone-bench " + arguments + " >/dev/null 2>&1";
    const int status = system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(BenchProgram, ExitCodesOfWhatNeedsNoGpu)
{
    const std::string fast = file_of(written(result("add", 1, 1, 1, 1)));
    const std::string slow = file_of(written(result("add", 1, 2, 2, 2)));
    const std::string other = file_of(written(result("mul", 1, 2, 2, 2)));
    EXPECT_EQ(exit_code("--help"), 0);
    EXPECT_EQ(exit_code("--list"), 0);
    EXPECT_EQ(exit_code("--list --filter '^rope bf16'"), 0);
    EXPECT_EQ(exit_code("--compare " + slow + " --results " + fast), 0);
    EXPECT_EQ(exit_code("--compare " + fast + " --results " + slow), 1);
    EXPECT_EQ(exit_code("--compare " + fast + " --results " + slow + " --threshold 200"), 0);
    EXPECT_EQ(exit_code("--compare " + fast + " --results " + other), 2);
    EXPECT_EQ(exit_code("--compare /nonexistent"), 2);
    EXPECT_EQ(exit_code("--results " + fast), 2);
    EXPECT_EQ(exit_code("--filter 'no such thing'"), 2);
    EXPECT_EQ(exit_code("--filter '('"), 2);
    EXPECT_EQ(exit_code("--batches 0"), 2);
    EXPECT_EQ(exit_code("--device cpu"), 1);
}
#endif

} // namespace
