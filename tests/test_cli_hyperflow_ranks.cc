/* hone-hyperflow on several ranks, as processes on the CPU or on GPUs: the bytes of one rank, other
 * numbers of ranks behind a stop, ranks that are killed, signals to one of them, what is refused.
 */
#include <random>

#include "cli_ranks_test.h"
#include "hyperflow_test.h"
#include "model_test.h"

namespace {

/* On n ranks, whatever device the words name. */
Words on(Words words, int n)
{
    for (size_t i = 0; i + 1 < words.size(); i++)
        if (words[i] == "--device") {
            words.erase(words.begin() + (long)i, words.begin() + (long)i + 2);
            break;
        }
    return words + ranks(n);
}

Words generate(const FlowPlace &w, const std::string &out, int n) { return on(w.generate(out), n); }

/* Largest difference of two files' values, relative to the largest value. */
double distance(const std::string &a, const std::string &b)
{
    const StFile f(a), g(b);
    double most = 0, apart = 0;
    EXPECT_EQ(hn_st_count(f.f), hn_st_count(g.f));
    for (int64_t i = 0; i < hn_st_count(f.f); i++) {
        const hn_st_tensor *x = hn_st_at(f.f, i), *y = hn_st_find(g.f, x->name);
        EXPECT_TRUE(y != nullptr && hn_st_elements(x) == hn_st_elements(y)) << x->name;
        if (y == nullptr || hn_st_elements(x) != hn_st_elements(y)) continue;
        std::vector<float> u((size_t)hn_st_elements(x)), v(u.size());
        EXPECT_HN_OK(hn_st_convert(x, HN_F32, u.data()));
        EXPECT_HN_OK(hn_st_convert(y, HN_F32, v.data()));
        for (size_t j = 0; j < u.size(); j++) {
            most = std::max(most, (double)std::fabs(u[j]));
            apart = std::max(apart, (double)std::fabs(u[j] - v[j]));
        }
    }
    return apart / most;
}

/* A cell but for how long it took. */
std::string cell(const std::string &path)
{
    json_t *all = json_deep_copy(Json(path).root());
    json_object_del(all, "seconds");
    char *dump = json_dumps(all, JSON_SORT_KEYS | JSON_INDENT(1));
    const std::string text = dump ? dump : "none";
    free(dump);
    json_decref(all);
    return text;
}

const char *const kFiles[] = {"/trajectories.bin", "/rates.json", "/index.json"};

/* Learning rates are chosen together, too. */
TEST(CliHyperflowRanks, TrajectoriesAreThoseOfOneRank)
{
    const FlowPlace w;
    expect_done(w.run(generate(w, "one", 1)));
    for (const int n : {2, 4}) {
        if (!enough(n)) continue;
        const std::string out = "r" + std::to_string(n);
        const Ran r = w.run(generate(w, out, n));
        expect_done(r);
        for (const char *file : kFiles)
            EXPECT_EQ(w.bytes(out + file), w.bytes("one" + std::string(file)));
        EXPECT_EQ(lines_of(r.out).size(), 2u) << "rank 0 alone: " << r.out;
        EXPECT_TRUE(contains(r.err, std::to_string(n) + " ranks, one process each")) << r.err;
        EXPECT_TRUE(contains(r.err, "trajectory 24/24")) << r.err;
        EXPECT_FALSE(contains(r.err, "rank 1")) << r.err;
    }
}

/* Two domains, so that a tuner gives way to another; more ranks than are left in a round. */
TEST(CliHyperflowRanks, AnotherNumberOfThemGoesOnWithTheSameBytes)
{
    FlowPlace w;
    w.drawings(stripes(144, 12, 3));
    const int three = enough(3) ? 3 : 2;
    const Words more = {"--resume", "auto"};
    const auto two = [&](const std::string &out, int n) {
        return generate(w, out, n) +
               Words{"--at-once", "2", "--train-domains", "near,omniglot", "--test-domains", "far"};
    };
    expect_done(w.run(two("one", 1)));
    const Ran a = w.run(two("o", 2) + Words{"--stop-after", "1"});
    expect_done(a);
    EXPECT_TRUE(contains(a.out, "stopped with 4 of 24")) << a.out;
    const Ran b = w.run(two("o", three) + more + Words{"--stop-after", "2"});
    expect_done(b);
    EXPECT_TRUE(contains(b.err, "continued with 4 of 24")) << b.err;
    expect_done(w.run(two("o", 1) + more));
    for (const char *file : kFiles)
        EXPECT_EQ(w.bytes("o" + std::string(file)), w.bytes("one" + std::string(file)));
}

TEST(CliHyperflowRanks, NetworkAndCellsAreThoseOfOneRank)
{
    const FlowPlace w;
    const std::string methods = "direct,head,bias,ln,lora,full,hyperflow,hyperflow-global,descent";
    expect_done(w.run(generate(w, "one", 1)));
    copy_run(w, "one", "two");
    copy_run(w, "one", "again");
    expect_done(w.run(on(w.train("one"), 1)));
    const Ran train = w.run(on(w.train("two"), 2));
    expect_done(train);
    EXPECT_TRUE(contains(train.err, "by rank 0 alone")) << train.err;
    EXPECT_TRUE(contains(train.out, "drift network: ")) << train.out;
    expect_done(w.run(on(w.train("again"), 2)));
    const std::string file = "/drift/drift.safetensors";
    EXPECT_EQ(w.bytes("two" + file), w.bytes("again" + file));
    EXPECT_EQ(w.bytes("one/encoder/model.safetensors"), w.bytes("two/encoder/model.safetensors"));
    EXPECT_LT(distance(w / ("one" + file), w / ("two" + file)), 1e-3); /* 8 steps of Adam */
    copy_run(w, "two", "eval");
    expect_done(w.run(on(w.eval("two", methods), 1)));
    for (const int n : {2, 4}) {
        if (!enough(n)) continue;
        const std::string out = "eval" + std::to_string(n);
        copy_run(w, "eval", out);
        const Ran eval = w.run(on(w.eval(out, methods), n));
        expect_done(eval);
        int cells = 0;
        for (const auto &f : std::filesystem::directory_iterator(w / "two/cells")) {
            const std::string name = f.path().filename();
            EXPECT_EQ(cell(w / (out + "/cells/" + name)), cell(f.path())) << name;
            cells++;
        }
        EXPECT_EQ(cells, 2 * 8 + 1);
        EXPECT_TRUE(contains(eval.out, "Acceptance\n1 ")) << eval.out;
    }
}

/* A step of two ranks is that of one, up to rounding. */
TEST(CliHyperflowRanks, ANetworkTakesTheStepOfOneRank)
{
    const FlowPlace w;
    const std::string at = "/drift/checkpoint-1/delta.safetensors";
    expect_done(w.run(generate(w, "one", 1)));
    copy_run(w, "one", "two");
    for (const int n : {1, 2})
        expect_done(w.run(on(w.train(n == 1 ? "one" : "two"), n) + Words{"--stop-after", "1"}));
    EXPECT_LT(distance(w / ("one" + at), w / ("two" + at)), 1e-6);
    const Ran refused = w.run(on(w.train("two"), 1));
    EXPECT_EQ(refused.code, 2) << refused.err;
    EXPECT_TRUE(contains(refused.err, "the run has 2 ranks, here are 1")) << refused.err;
    copy_run(w, "two", "any");
    expect_done(w.run(on(w.train("any"), 1) + Words{"--resume-device", "any"}));
    copy_run(w, "two", "whole");
    std::filesystem::remove_all(w / "whole/drift");
    expect_done(w.run(on(w.train("two"), 2)));
    expect_done(w.run(on(w.train("whole"), 2)));
    EXPECT_EQ(w.bytes("two/drift/drift.safetensors"), w.bytes("whole/drift/drift.safetensors"));
}

/* Whichever rank it is: it is named, the others leave, what was whole is kept. */
TEST(CliHyperflowRanks, AKilledRankIsNamedAndNothingIsLost)
{
    const FlowPlace w;
    std::mt19937 random(5);
    const auto words = [&](const std::string &out, int n) {
        return generate(w, out, n) + Words{"--at-once", "1", "--tune-steps", "200", "--knots", "5"};
    };
    expect_done(w.run(words("whole", 1)));
    for (int victim = 0; victim < 2; victim++) {
        const std::string out = "o" + std::to_string(victim);
        Program p(words(out, 2), w / "");
        ASSERT_TRUE(p.says("trajectory "));
        const std::vector<pid_t> all = children_of(p.pid());
        ASSERT_EQ(all.size(), 2u);
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
        ASSERT_EQ(kill(all[(size_t)victim], SIGKILL), 0);
        const Ran &r = p.wait();
        EXPECT_EQ(r.code, 1) << r.err;
        EXPECT_TRUE(contains(r.err, "rank " + std::to_string(victim) + " on ")) << r.err;
        EXPECT_TRUE(contains(r.err, "died in phase '")) << r.err;
        const Ran on = w.run(words(out, 2) + Words{"--resume", "auto"});
        expect_done(on);
        EXPECT_TRUE(contains(on.err, "continued with ")) << on.err;
        EXPECT_EQ(w.bytes(out + "/trajectories.bin"), w.bytes("whole/trajectories.bin"));
    }
}

/* All end behind the same round, or step, and go on with the same bytes. */
TEST(CliHyperflowRanks, ASignalToOneRankEndsAll)
{
    const FlowPlace w;
    const auto words = [&](const std::string &out) {
        return generate(w, out, 2) + Words{"--at-once", "1", "--tune-steps", "200", "--knots", "5"};
    };
    expect_done(w.run(words("whole")));
    Program p(words("o"), w / "");
    ASSERT_TRUE(p.says("trajectory "));
    ASSERT_EQ(kill(children_of(p.pid()).at(1), SIGTERM), 0);
    const Ran &r = p.wait();
    expect_done(r);
    EXPECT_TRUE(contains(r.out, "stopped with ")) << r.out;
    expect_done(w.run(words("o") + Words{"--resume", "auto"}));
    EXPECT_EQ(w.bytes("o/trajectories.bin"), w.bytes("whole/trajectories.bin"));

    const auto train = [&](const std::string &out) {
        return on(w.train(out), 2) + Words{"--iterations", "150",  "--log-every",      "1",
                                           "--save-every", "1000", "--encoder-epochs", "1"};
    };
    copy_run(w, "whole", "t");
    Program q(train("t"), w / "");
    ASSERT_TRUE(q.says("step 5/"));
    ASSERT_EQ(kill(children_of(q.pid()).at(1), SIGUSR1), 0);
    const Ran &s = q.wait();
    expect_done(s);
    EXPECT_TRUE(contains(s.out, "stopped behind step ")) << s.out;
    expect_done(w.run(train("t")));
    expect_done(w.run(train("whole")));
    EXPECT_EQ(w.bytes("t/drift/drift.safetensors"), w.bytes("whole/drift/drift.safetensors"));

    const auto eval = [&](const std::string &out) {
        return on(w.of("eval", out) + Words{"--methods", "hyperflow", "--only", "far",
                                            "--test-episodes", "4000", "--device", "cpu"},
                  2);
    };
    const std::string far = "/cells/hyperflow.far.json";
    Program e(eval("t"), w / "");
    ASSERT_TRUE(e.says("/4000"));
    ASSERT_EQ(kill(children_of(e.pid()).at(1), SIGTERM), 0);
    const Ran &u = e.wait();
    expect_done(u);
    EXPECT_TRUE(contains(u.out, "stopped; cells that are there are kept")) << u.out;
    EXPECT_FALSE(std::filesystem::exists(w / ("t" + far)));
    expect_done(w.run(eval("t")));
    expect_done(w.run(eval("whole")));
    EXPECT_EQ(cell(w / ("t" + far)), cell(w / ("whole" + far)));
}

/* Started one by one; what they were told differs. */
TEST(CliHyperflowRanks, OtherOptionsOrDataAreFoundOut)
{
    const FlowPlace w;
    const auto rank = [&](int r, const Words &words) {
        return std::make_unique<Program>(
            words + Words{"--device", "cpu", "--job-rank", std::to_string(r), "--job-size", "2",
                          "--local-rank", std::to_string(r), "--local-size", "2", "--rendezvous",
                          "file:" + (w / "meet")},
            w / "");
    };
    const auto refused = [&](const Words &words, const Words &more, const std::string &what) {
        const auto zero = rank(0, words), one = rank(1, words + more);
        const Ran &a = zero->wait(), &b = one->wait();
        EXPECT_EQ(a.code, 2) << a.err;
        EXPECT_TRUE(contains(a.err, "has other " + what + " than rank 0")) << a.err;
        EXPECT_NE(b.code, 0);
    };
    expect_done(w.run(generate(w, "run", 1)));
    const std::string cells = w / "run/cells";
    refused(w.eval("run", "direct"), {"--methods", "direct,bias"}, "--methods");
    refused(w.eval("run", "direct"), {"--test-episodes", "7"}, "--test-episodes");
    refused(w.eval("run", "bias"), {"--test-domains", "near:test"},
            "data, class split or test domains");
    EXPECT_TRUE(!std::filesystem::exists(cells) || std::filesystem::is_empty(cells));
    refused(w.train("run"), {"--save-every", "5"}, "steps of lines, checkpoints and the end");
    refused(w.train("run"), {"--drift-lr", "1e-2"}, "options");
    FlowPlace far;
    far.far(stripes(90, 3, 7));
    refused(w.generate("out"), {"--data", far / "data"}, "data, class split or test domains");
    EXPECT_FALSE(std::filesystem::exists(w / "out")) << "nothing is written";
    const auto zero = rank(0, w.generate("launched")), one = rank(1, w.generate("launched"));
    expect_done(zero->wait());
    expect_done(one->wait());
    if (!on_gpus()) { /* the launched ones are on the CPU */
        EXPECT_TRUE(w.bytes("launched/trajectories.bin") == w.bytes("run/trajectories.bin"));
    }
}

TEST(CliHyperflowRanks, RefusesWhatHasNoMeaning)
{
    const FlowPlace w;
    const Words run = w.generate("none");
    if (!on_gpus()) {
        expect_refused(w.run(run + Words{"--gpus", "2"}), 2, {"--gpus 2", "--ranks N"});
    }
    const Ran bad = w.run(generate(w, "none", 2) + Words{"--knots", "4"});
    EXPECT_EQ(bad.code, 2) << bad.err;
    EXPECT_TRUE(contains(bad.err, "--knots 4")) << bad.err;
    EXPECT_FALSE(std::filesystem::exists(w / "none"));
    const Words check(run.begin() + 2, run.end() - 2);
    for (const std::string verb : {"check", "plan"}) {
        const Words words = Words{"hone-hyperflow", verb} + check;
        expect_refused(w.run(words + Words{"--gpus", "2"}), 2, {"--gpus 2", "works on one GPU"});
        expect_refused(w.run(words + Words{"--gpus", "all"}), 2, {"--gpus all", "one GPU"});
    }
    expect_done(w.run(Words{"hone-hyperflow", "check", "--gpus", "1"} + check));
    expect_refused(
        w.run({"hone-hyperflow", "apply", "--file", "f", "--to", w / "t", "--gpus", "2"}), 2,
        {"--gpus 2", "one GPU"});
    expect_done(w.run(generate(w, "run", 1)));
    for (const std::string verb : {"info", "report"})
        expect_refused(w.run(w.of(verb, "run") + Words{"--gpus", "3"}), 2, {"--gpus 3"});
}

} // namespace
