/* hone-pearl on several ranks, as processes on the CPU or on GPUs: the steps of one rank, the same
 * bits twice, runs that are killed or asked to stop, other numbers of ranks, what is refused. */
#include <random>

#include "cli_ranks_test.h"
#include "pearl_test.h"

namespace {

Words on(const Words &run, int n)
{
    return PearlPlace::without(PearlPlace::without(run, "--device"), "--batch-size") +
           Words{"--batch-size", "4"} + ranks(n);
}

/* Largest difference of two files' values, relative to the largest value. */
double distance(const std::string &a, const std::string &b)
{
    hn_st_file *f = nullptr, *g = nullptr;
    EXPECT_HN_OK(hn_st_open(a.c_str(), &f));
    EXPECT_HN_OK(hn_st_open(b.c_str(), &g));
    double most = 0, apart = 0;
    EXPECT_EQ(hn_st_count(f), hn_st_count(g));
    for (int64_t i = 0; i < hn_st_count(f); i++) {
        const hn_st_tensor *x = hn_st_at(f, i), *y = hn_st_find(g, x->name);
        EXPECT_TRUE(y && hn_st_elements(x) == hn_st_elements(y)) << x->name;
        if (!y || hn_st_elements(x) != hn_st_elements(y)) continue;
        std::vector<float> u((size_t)hn_st_elements(x)), v(u.size());
        EXPECT_HN_OK(hn_st_convert(x, HN_F32, u.data()));
        EXPECT_HN_OK(hn_st_convert(y, HN_F32, v.data()));
        for (size_t j = 0; j < u.size(); j++) {
            most = std::max(most, (double)std::fabs(u[j]));
            apart = std::max(apart, (double)std::fabs(u[j] - v[j]));
        }
    }
    hn_st_close(f);
    hn_st_close(g);
    return apart / most;
}

/* The steps of one rank with as many images, every phase: a probe, ranks by it, factors. */
TEST(CliPearlRanks, TakeTheStepsOfOneRank)
{
    const PearlPlace w;
    const Words stop = {"--stop-after-steps", "1"}, sgd = {"--optimizer", "sgd"};
    const Words run = PearlPlace::without(w.vit(), "--optimizer") + sgd;
    const std::string at = "/working/task-001-dense/checkpoint-1/delta.safetensors";
    expect_done(w.run(on(run, 1) + w.to("one") + stop + Words{"--accumulation", "4"}));
    expect_done(w.run(on(run, 2) + w.to("two") + stop + Words{"--accumulation", "2"}));
    EXPECT_LT(distance(w / ("one" + at), w / ("two" + at)), 1e-6);
    if (enough(4)) {
        expect_done(w.run(on(run, 4) + w.to("four") + stop));
        EXPECT_LT(distance(w / ("one" + at), w / ("four" + at)), 1e-6);
    }
    for (const char *name : {"a", "b"})
        expect_done(w.run(on(run, name[0] == 'a' ? 1 : 2) + w.to(name) +
                          Words{"--accumulation", name[0] == 'a' ? "2" : "1"}));
    for (int t = 1; t <= 3; t++) {
        const Json one(w.record("a", t, "task.json")), two(w.record("b", t, "task.json"));
        EXPECT_EQ(one.number("steps"), two.number("steps"));
        EXPECT_EQ(two.number("step_images"), 8);
        EXPECT_EQ(one.number("ranks"), 1);
        EXPECT_EQ(two.number("ranks"), 2);
        EXPECT_LT(
            distance(w.record("a", t, "delta.safetensors"), w.record("b", t, "delta.safetensors")),
            1e-3)
            << "task " << t;
    }
}

/* Files and matrices; and one rank makes the same of held-out images, which were split in whole
 * batches. */
TEST(CliPearlRanks, TwiceTheSameBits)
{
    const PearlPlace w;
    for (const int n : {2, 4}) {
        const std::string number = std::to_string(n);
        if (!enough(n)) continue;
        for (const char *name : {"a", "b"})
            expect_done(w.run(on(w.resnet(), n) + w.to(name + number)));
        EXPECT_TRUE(kept(w, "a" + number) == kept(w, "b" + number)) << n;
    }
    const Ran eval = w.run({"hone-pearl", "eval", "--run", w / "a2"});
    expect_done(eval);
    EXPECT_TRUE(contains(eval.out, "3 of 3 tasks have the logits of the run")) << eval.out;
    EXPECT_EQ(Json(w / "a2/result.json").number("metrics.StreamForgetting"), 0);
}

/* Of every strategy, and of references, norms and rules that decide something: ranks that came to
 * two minds would be named. */
TEST(CliPearlRanks, EveryStrategyRunsAndGoesOn)
{
    const PearlPlace w;
    std::map<std::string, Words> runs = {
        {"previous", w.vit() + Words{"--ref", "previous"}},
        {"nearest", w.vit() + Words{"--ref", "nearest"}},
        {"budget", w.vit() + Words{"--budget", "900", "--allocator", "greedy"}},
        {"cut", w.vit() + Words{"--rank-rule", "both", "--eps", "0.02", "--truncate"}},
        {"zero", w.vit() + Words{"--init", "zero", "--floor", "1"}},
        {"shared", w.resnet() + Words{"--norm", "shared"}},
        {"frozen", w.resnet() + Words{"--norm", "frozen"}}};
    for (const char *s : {"lora", "head", "single", "sequential", "joint", "lwf", "ewc"})
        runs[s] = w.plain(s);
    for (const auto &[name, run] : runs) {
        const Words words = on(run, 2) + Words{"--chooser", "max-logit"};
        expect_done(w.run(words + w.to(name)));
        expect_done(w.run(words + w.to("p" + name) + Words{"--stop-after-steps", "8"}));
        expect_done(w.run(words + w.to("p" + name) + Words{"--resume", "auto"}));
        for (int t = name == "joint" ? 3 : 1; t <= 3; t++)
            EXPECT_TRUE(read_file(w.record(name, t, "delta.safetensors")) ==
                        read_file(w.record("p" + name, t, "delta.safetensors")))
                << name << " task " << t;
    }
    EXPECT_NE(kept(w, "sequential"), kept(w, "ewc"));
}

/* Its Fisher information is a sum over the ranks' images: that of one rank, but for rounding. */
TEST(CliPearlRanks, TheFisherInformationIsThatOfAllImages)
{
    const PearlPlace w;
    const Words stop = {"--stop-after", "1", "--ewc-images", "7"};
    expect_done(w.run(on(w.plain("ewc"), 1) + w.to("one") + stop + Words{"--accumulation", "2"}));
    expect_done(w.run(on(w.plain("ewc"), 2) + w.to("two") + stop));
    EXPECT_LT(distance(w.record("one", 1, "fisher.safetensors"),
                       w.record("two", 1, "fisher.safetensors")),
              1e-3);
    EXPECT_GT(read_file(w.record("two", 1, "fisher.safetensors")).size(), 1000u);
}

/* A rank that is killed is named, with its phase; the run goes on with the bits of one without a
 * break, batch norms included. */
TEST(CliPearlRanks, AKilledRankIsNamedAndTheRunGoesOn)
{
    const PearlPlace w;
    const Words run = on(PearlPlace::without(w.resnet(), "--epochs"), 2) +
                      Words{"--epochs", "12", "--save-every", "3", "--log-every", "1"};
    expect_done(w.run(run + w.to("whole")));
    std::mt19937 random(3);
    int killed = 0, place = 0;
    for (const std::string where :
         {"task 2/3 probe step 2", "task 2/3 factors step 7", "task 3/3 probe"}) {
        const std::string name = "killed" + std::to_string(place++);
        const Words out = w.to(name) + Words{"--resume", "auto"};
        for (const size_t victim : {1u, 0u}) {
            Program p(run + out, w / "home");
            if (!p.says(where)) continue; /* it had come further when the first was killed */
            const std::vector<pid_t> all = children_of(p.pid());
            ASSERT_EQ(all.size(), 2u);
            std::this_thread::sleep_for(std::chrono::microseconds(random() % 5000));
            ASSERT_EQ(kill(all[victim], SIGKILL), 0);
            const Ran &r = p.wait();
            EXPECT_EQ(r.code, 1) << r.err;
            EXPECT_TRUE(contains(r.err, "rank " + std::to_string(victim) + " on ")) << r.err;
            EXPECT_TRUE(contains(r.err, "died in phase '")) << r.err;
            killed++;
        }
        expect_done(w.run(run + out));
        EXPECT_TRUE(kept(w, name) == kept(w, "whole")) << where;
    }
    EXPECT_GE(killed, 3);
}

class CliPearlRanksSignal : public testing::TestWithParam<int> {};

/* Also where one rank alone gets it; behind the same step, with the bits of a run without it. */
TEST_P(CliPearlRanksSignal, AllEndBehindTheSameStep)
{
    const PearlPlace w;
    const Words run = on(PearlPlace::without(w.resnet(), "--epochs"), 2) +
                      Words{"--epochs", "12", "--log-every", "1"};
    const Words out = w.to("stopped") + Words{"--resume", "auto"};
    expect_done(w.run(run + w.to("whole")));
    const std::map<std::string, bool> moments = {{"task 2/3 factors step 4", true},
                                                 {"task 3/3 probe step 1", false}};
    for (const auto &[where, parent] : moments) {
        Program p(run + out, w / "home");
        ASSERT_TRUE(p.says(where));
        const std::vector<pid_t> all = children_of(p.pid());
        ASSERT_EQ(all.size(), 2u);
        ASSERT_EQ(kill(parent ? p.pid() : all[1], GetParam()), 0);
        const Ran &r = p.wait();
        expect_done(r);
        EXPECT_TRUE(contains(r.out, "stopped by ")) << r.out;
    }
    expect_done(w.run(run + out));
    EXPECT_TRUE(kept(w, "stopped") == kept(w, "whole"));
}

INSTANTIATE_TEST_SUITE_P(Each, CliPearlRanksSignal, testing::Values(SIGTERM, SIGUSR1));

/* Steps keep their images, inside a task and between two. */
TEST(CliPearlRanks, AnotherNumberOfThemIsAskedFor)
{
    const PearlPlace w;
    const Words any = {"--resume", "auto", "--resume-device", "any"};
    for (const char *run : {"vit", "resnet"}) {
        const Words words = run[0] == 'v' ? w.vit() : w.resnet();
        const std::string whole = std::string("whole") + run;
        expect_done(w.run(on(words, 2) + w.to(whole)));
        expect_done(w.run(on(words, 2) + w.to(run) + Words{"--stop-after-steps", "4"}));
        const Ran refused = w.run(on(words, 1) + w.to(run) + Words{"--resume", "auto"});
        EXPECT_EQ(refused.code, 2) << refused.err;
        EXPECT_TRUE(contains(refused.err, "ranks: 2, here are 1; --resume-device any"))
            << refused.err;
        const Ran first = w.run(on(words, 1) + w.to(run) + any + Words{"--stop-after", "2"});
        expect_done(first);
        EXPECT_TRUE(contains(first.err, "keeps the 2 micro-batches")) << first.err;
        EXPECT_TRUE(contains(first.err, "other kernels")) << first.err;
        const int many = enough(4) ? 4 : 2; /* some have no micro-batch of a step */
        expect_done(w.run(on(words, many) + w.to(run) + any));
        for (int t = 1; t <= 3; t++) {
            const Json a(w.record(whole, t, "task.json")), b(w.record(run, t, "task.json"));
            EXPECT_EQ(a.number("steps"), b.number("steps"));
            EXPECT_EQ(b.number("step_images"), 8);
        }
        if (run[0] == 'v') { /* running values of a batch norm are means over ranks */
            EXPECT_LT(distance(w.record(whole, 1, "delta.safetensors"),
                               w.record(run, 1, "delta.safetensors")),
                      1e-3);
        }
    }
}

TEST(CliPearlRanks, RankZeroSpeaksAndWrites)
{
    const PearlPlace w;
    const Ran r = w.run(on(w.plain("head"), 2) + w.to("run") +
                        Words{"--log-format", "json", "--log-every", "1", "--stop-after", "2"});
    expect_done(r);
    int steps = 0;
    for (const auto &line : lines_of(r.out)) steps += contains(line, "\"loss\"");
    EXPECT_EQ(steps, 12) << r.out; /* 6 of each task */
    EXPECT_TRUE(contains(last_line(r.out), "\"tasks_done\": 2")) << r.out;
    EXPECT_TRUE(contains(r.err, "ranks: 2 x ")) << r.err;
    EXPECT_FALSE(contains(r.err, "rank 1")) << r.err;
    const Ran check = w.run(PearlPlace::without(w.vit("check"), "--device") +
                            Words{"--device", "cpu", "--ranks", "3", "--accumulation", "2"});
    expect_done(check);
    EXPECT_TRUE(contains(check.out, "a step: 3 ranks x 2 micro-batches of 8 images: 48 images"))
        << check.out;
}

/* As torchrun starts them, with its variables. */
std::unique_ptr<Program> rank_of(int rank, const std::string &meet, const Words &words)
{
    return std::make_unique<Program>(
        PearlPlace::without(words, "--device") +
            Words{"--device", "cpu", "--job-rank", std::to_string(rank), "--job-size", "2",
                  "--local-rank", std::to_string(rank), "--rendezvous", "file:" + meet},
        meet + "-home");
}

/* What decides about numbers, or when ranks meet, must be the same. */
TEST(CliPearlRanks, OtherOptionsAreFoundOut)
{
    const PearlPlace w;
    const std::map<std::string, Words> other = {{"options", {"--label-smoothing", "0.1"}},
                                                {"model", {"--seed", "4"}},
                                                {"--save-every", {"--save-every", "2"}},
                                                {"--accumulation", {"--accumulation", "2"}},
                                                {"--resume", {"--resume", "auto"}}};
    for (const auto &[name, more] : other) {
        const std::string meet = w / ("meet" + name);
        const auto zero = rank_of(0, meet, w.vit() + w.to("none")),
                   one = rank_of(1, meet, w.vit() + w.to("none") + more);
        const Ran &a = zero->wait(), &b = one->wait();
        EXPECT_EQ(a.code, 2) << a.err;
        EXPECT_TRUE(contains(a.err, "rank 1 on ")) << a.err;
        EXPECT_TRUE(contains(a.err, "has other ")) << a.err;
        EXPECT_TRUE(contains(a.err, name == "model" ? "than rank 0" : name + " than rank 0"))
            << a.err;
        EXPECT_NE(b.code, 0);
    }
    EXPECT_FALSE(std::filesystem::exists(w / "none")) << "nothing is written";
}

TEST(CliPearlRanks, RefusesWhatHasNoMeaning)
{
    const PearlPlace w;
    const Words train = PearlPlace::without(w.vit(), "--device") + w.to("none");
    const auto refused = [&](const Words &more, const char *why) {
        const Ran r = w.run(train + more);
        EXPECT_EQ(r.code, 2) << r.err;
        EXPECT_TRUE(contains(r.err, why)) << r.err;
    };
    refused({"--device", "cpu", "--gpus", "2"}, "--ranks N");
    refused({"--device", "cuda", "--ranks", "2"}, "--gpus N");
    refused({"--device", "cuda:0", "--gpus", "2"}, "is one GPU");
    refused({"--device", "cpu", "--gpus", "two"}, "a number from 1 on");
    refused({"--device", "cpu", "--job-rank", "1"}, "--job-size");
    refused({"--device", "cpu", "--ranks", "2", "--rank", "4"}, "--rank:");
    refused({"--device", "cpu", "--ranks", "2", "--accumulation", "0"}, "accumulation");
    refused({"--device", "cpu", "--ranks", "2", "--budget", "100", "--floor", "1"}, "--budget 100");
    for (const char *verb : {"eval", "report"}) {
        const Ran r = w.run({"hone-pearl", verb, "--run", w / "none", "--gpus", "2"});
        EXPECT_EQ(r.code, 2) << r.err;
        EXPECT_TRUE(contains(r.err, "gpus")) << r.err;
    }
}

/* A run keeps the micro-batches of its steps. */
TEST(CliPearlRanks, AccumulationIsOfTheRun)
{
    const PearlPlace w;
    const Words run = on(w.vit(), 1) + w.to("run"), two = {"--accumulation", "2"};
    expect_done(w.run(run + two + Words{"--stop-after", "1"}));
    expect_refused(w.run(run + Words{"--resume", "auto"}), 2,
                   {"'accumulation: 2', now 'accumulation: 1'"});
    expect_done(w.run(run + two + Words{"--resume", "auto"}));
    EXPECT_EQ(Json(w.record("run", 3, "task.json")).number("step_images"), 8);
}

} // namespace
