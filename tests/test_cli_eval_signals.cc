/* Signals that come while held-out data are measured: the run ends between two batches, on all
 * ranks, keeps nothing of the evaluation, and goes on with it, to the bits of a run without a
 * break. */
#include <functional>

#include "cli_ranks_test.h"
#include "cli_run_test.h"
#include "pearl_test.h"
#include "runtime/train/state.h"

namespace {

std::string number(int n) { return std::to_string(n); }

/* Ranks of a run, and who gets which signal: the process that was started, which passes it on to
 * all, or a rank alone. */
struct Whom {
    int ranks = 1;
    int rank = -1; /* -1: all */
    int signal = SIGTERM;
    std::string behind = ""; /* sent when the program has said so, too */
};

constexpr int kLast = 8;

/* Batches of the evaluation take far longer than a signal. */
class EvalPlace : public Workplace {
  public:
    explicit EvalPlace(int sentences = 4000)
    {
        write_file(*this / "held.txt", sample_text(sentences));
    }

    Words how(const Whom &whom, const Words &more) const
    {
        return Words{"--eval-data",  *this / "held.txt",
                     "--eval-every", "4",
                     "--log-every",  "1",
                     "--keep",       "1"} +
               ranks(whom.ranks) + more;
    }
};

/* What the line says about where an evaluation was left: the batch; 0: it was not. */
int64_t left_in_front_of(const std::string &err, int step)
{
    const std::string line =
        "step " + number(step) + ": asked to stop in front of evaluation batch ";
    const size_t at = err.find(line);
    return at == std::string::npos ? 0 : std::stoll(err.substr(at + line.size()));
}

bool evaluates_first(const std::string &checkpoint)
{
    const Json state(checkpoint + "/state.json");
    return json_is_true(json_object_get(state.root(), "evaluate_first"));
}

/* Starts a run and stops it in the evaluation behind `step` steps, `delay` ms after it is sure that
 * they are over. goes_on: the run goes on there. False: the signal has come too late, as it may. */
bool stops_in(const Workplace &w, const Words &words, const std::string &out, int step,
              const Whom &whom, bool goes_on, int delay, int64_t *batch)
{
    Program p(words, w.str());
    EXPECT_TRUE(p.says("options, saved as"));
    const std::vector<pid_t> all =
        whom.ranks > 1 ? children_of(p.pid()) : std::vector<pid_t>{p.pid()};
    if (step > 0 && !goes_on) {
        EXPECT_TRUE(p.says("step " + number(step) + "/"));
    }
    bool there = all.size() == (size_t)whom.ranks;
    for (const pid_t one : all) there = there && catches(one, whom.signal); /* from the loop on */
    if (!there) {
        expect_done(p.wait());
        return false;
    }
    if (!whom.behind.empty()) {
        EXPECT_TRUE(p.says(whom.behind));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(delay));
    EXPECT_EQ(kill(whom.rank < 0 ? p.pid() : all.at((size_t)whom.rank), whom.signal), 0);
    const Ran &r = p.wait();
    expect_done(r);
    EXPECT_FALSE(contains(r.err, "died")) << r.err;
    *batch = left_in_front_of(r.err, step);
    if (*batch == 0) return false;
    const std::string by = whom.rank > 0           ? "a signal to another rank"
                           : whom.signal == SIGINT ? "SIGINT"
                                                   : "SIGTERM";
    EXPECT_TRUE(contains(r.out, "stopped by " + by + " at step " + number(step))) << r.out;
    EXPECT_TRUE(evaluates_first((w / out) + "/checkpoint-" + number(step)));
    EXPECT_EQ(column(w / out, "eval_loss").count(step), 0u) << "a row of what was not measured";
    return true;
}

/* Until one has come in time. in_the_middle: and not in front of the first batch. */
void stop_in(const Workplace &w, const Words &words, const std::string &out, int step,
             const Whom &whom = {}, bool in_the_middle = false)
{
    const auto all = std::filesystem::copy_options::recursive;
    const bool goes_on = std::filesystem::exists(w / out);
    int64_t batch = 0;
    if (goes_on) std::filesystem::copy(w / out, w / "before", all);
    for (int i = 0; i < 12 && !testing::Test::HasFailure(); i++) {
        const int delay = in_the_middle ? 20 * i : 0;
        const bool there = stops_in(w, words, out, step, whom, goes_on, delay, &batch);
        if (there && (!in_the_middle || batch > 1)) {
            std::filesystem::remove_all(w / "before");
            return;
        }
        std::filesystem::remove_all(w / out);
        if (goes_on) std::filesystem::copy(w / "before", w / out, all);
    }
    FAIL() << "no signal has come in the evaluation of step " << step;
}

/* Everything that two runs have measured and kept, but for times and memory. */
void expect_same_run(const std::string &a, const std::string &b, const std::string &result)
{
    for (const char *name : {"loss", "lr", "grad_norm", "tokens", "epoch", "eval_loss"})
        EXPECT_EQ(column(a, name), column(b, name)) << name;
    const auto folders = checkpoints_of(a);
    ASSERT_EQ(folders, checkpoints_of(b));
    for (const auto &folder : folders)
        for (const char *file :
             {"delta.safetensors", "optimizer-0.safetensors", "state.json", "trainer_state.json"})
            EXPECT_EQ(read_file(a + "/" + folder + "/" + file),
                      read_file(b + "/" + folder + "/" + file))
                << folder << " " << file;
    EXPECT_FALSE(result.empty() && folders.empty());
    if (result.empty()) return;
    const std::string of_a = read_file(a + "/" + result);
    EXPECT_GE(of_a.size(), 16u);
    EXPECT_EQ(of_a, read_file(b + "/" + result));
}

constexpr char kAdapter[] = "adapter/adapter_model.safetensors";

/* ---- one rank ---- */

class CliEvalSignal : public testing::TestWithParam<int> {};

/* In front of the first step, in between, behind the last one; twice in the same one. */
TEST_P(CliEvalSignal, IsNotWaitedForAndTheRunGoesOnBitForBit)
{
    const EvalPlace w;
    const int step = GetParam();
    const Words how = w.how({}, {}), on = how + Words{"--resume", "auto"};
    expect_done(w.run(w.train("whole", kLast) + how));
    stop_in(w, w.train("o", kLast) + how, "o", step, {}, true);
    EXPECT_FALSE(std::filesystem::exists((w / "o") + "/adapter"));
    stop_in(w, w.train("o", kLast) + on, "o", step, {1, -1, SIGINT});
    const Ran last = w.run(w.train("o", kLast) + on);
    expect_done(last);
    EXPECT_TRUE(contains(last.err, "step " + number(step) + ": held-out loss")) << last.err;
    expect_same_run(w / "o", w / "whole", kAdapter);
}

INSTANTIATE_TEST_SUITE_P(Steps, CliEvalSignal, testing::Values(0, 4, kLast));

/* A run that was to end there anyway has not ended before it is measured. */
TEST(CliEvalSignals, InTheEvaluationOfStopAfter)
{
    const EvalPlace w;
    const Words how = w.how({}, {}), four = {"--stop-after", "4"}, on = {"--resume", "auto"};
    expect_done(w.run(w.train("whole", kLast) + how + four));
    stop_in(w, w.train("o", kLast) + how + four, "o", 4);
    std::filesystem::copy((w / "o") + "/checkpoint-4", w / "kept");
    const Ran r = w.run(w.train("o", kLast) + how + four + on);
    expect_done(r);
    EXPECT_TRUE(contains(r.out, "stopped by --stop-after at step 4")) << r.out;
    EXPECT_FALSE(evaluates_first((w / "o") + "/checkpoint-4"));
    expect_same_run(w / "o", w / "whole", "");
    /* two ranks that would go on from the one and the other do not begin */
    const int port = free_port();
    const Words two =
        Words{"--eval-data", w / "held.txt", "--resume-device", "any", "--device", "cpu"};
    const auto zero =
        rank_of(0, 2, port, w.train("two", kLast) + two + Words{"--resume", w / "kept"}, w);
    const auto one =
        rank_of(1, 2, port,
                w.train("two", kLast) + two + Words{"--resume", (w / "o") + "/checkpoint-4"}, w);
    EXPECT_EQ(zero->wait().code, 2);
    EXPECT_NE(one->wait().code, 0);
    EXPECT_TRUE(contains(zero->wait().err, "has other step to go on from than rank 0"))
        << zero->wait().err;
    expect_done(w.run(w.train("o", kLast) + how + on));
    expect_done(w.run(w.train("whole", kLast) + how + on));
    expect_same_run(w / "o", w / "whole", kAdapter);
}

/* What is trained makes other characters less likely: the evaluation of step 4 is worse than the
 * first, and the run ends there, whether it was made at once or later. */
TEST(CliEvalSignals, PatienceCountsWhatIsMeasuredLater)
{
    const EvalPlace w;
    std::string other;
    for (int i = 0; i < 4000; i++) other += number(i) + " ABCDEFGHIJKL\n";
    write_file(w / "held.txt", other);
    const Words how = w.how({}, {"--patience", "1"});
    const Ran whole = w.run(w.train("whole", kLast) + how);
    expect_done(whole);
    ASSERT_TRUE(contains(whole.err, "no better held-out loss in 1 evaluations")) << whole.err;
    stop_in(w, w.train("o", kLast) + how, "o", 4);
    const Ran r = w.run(w.train("o", kLast) + how + Words{"--resume", "auto"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "no better held-out loss in 1 evaluations")) << r.err;
    EXPECT_TRUE(contains(r.out, "result: ")) << r.out;
    expect_same_run(w / "o", w / "whole", kAdapter);
}

/* Killed behind the evaluation, with its row written, but in front of the checkpoint that has it.
 */
TEST(CliEvalSignals, ARowThatIsThereAlreadyDoesNotComeTwice)
{
    const EvalPlace w;
    const Words how = w.how({}, {}), on = how + Words{"--resume", "auto"};
    expect_done(w.run(w.train("whole", kLast) + how));
    for (const int step : {0, 4}) {
        const std::string out = "o" + number(step), kept = w / ("kept" + number(step));
        const std::string checkpoint = (w / out) + "/checkpoint-" + number(step);
        stop_in(w, w.train(out, kLast) + how, out, step);
        std::filesystem::copy(checkpoint, kept);
        expect_done(w.run(w.train(out, kLast) + on + Words{"--stop-after", number(step + 1)}));
        ASSERT_EQ(column(w / out, "eval_loss").count(step), 1u);
        /* from the one that has it; then the other */
        std::filesystem::remove_all((w / out) + "/checkpoint-" + number(step + 1));
        const Ran r = w.run(w.train(out, kLast) + on);
        expect_done(r);
        EXPECT_FALSE(contains(r.err, "step " + number(step) + ": held-out loss")) << r.err;
        expect_same_run(w / out, w / "whole", kAdapter);
        for (const auto &folder : checkpoints_of(w / out))
            std::filesystem::remove_all((w / out) + "/" + folder);
        std::filesystem::rename(kept, checkpoint);
        expect_done(w.run(w.train(out, kLast) + on));
        expect_same_run(w / out, w / "whole", kAdapter);
        int rows = 0;
        for (const auto &line : lines_of(read_file((w / out) + "/metrics.jsonl")))
            rows +=
                contains(line, "\"step\": " + number(step) + ",") && contains(line, "eval_loss");
        EXPECT_EQ(rows, 1);
    }
}

/* ---- blocks ---- */

/* In front of the first step the blocks have been chosen, and stay, also where pairs have trained
 * before that; behind step 4 they have been chosen anew. */
TEST(CliEvalSignals, BlocksThatWereChosenInFrontOfIt)
{
    const EvalPlace w;
    const Words blocks = {"--block", "4x4", "--budget", "25%", "--select-batches", "3"};
    const Words moving = {"--preset",        "absd-dynamic",
                          "--select-every",  "4",
                          "--select-at",     "4",
                          "--select-window", "2",
                          "--select-until",  "0.9",
                          "--hysteresis",    "0",
                          "--protect=off"};
    const Words pairs = {"--lora-rank", "2", "--lora-steps", "3"};
    for (const auto &[step, more] : {std::pair{0, moving}, {4, moving}, {0, pairs}}) {
        const std::string end = number(step) + more[0], out = "o" + end, whole = "whole" + end;
        const Words how = w.how({}, blocks + more);
        const Ran straight = w.run(w.train(whole, kLast, "hone-sparse") + how);
        expect_done(straight);
        EXPECT_EQ(contains(straight.err, "selection behind step 4"), more == moving);
        Whom whom;
        whom.behind = "selection: "; /* one that is left has chosen nothing, and is made again */
        stop_in(w, w.train(out, kLast, "hone-sparse") + how, out, step, whom);
        const Ran r = w.run(w.train(out, kLast, "hone-sparse") + how + Words{"--resume", "auto"});
        expect_done(r);
        EXPECT_FALSE(contains(r.err, "selection: ")) << r.err;
        expect_same_run(w / out, w / whole, "delta/delta.safetensors");
    }
}

/* One that has its blocks and one that is to choose them are at step 0, both. */
TEST(CliEvalSignals, RanksOfWhichOneHasNoBlocksDoNotBegin)
{
    const EvalPlace w;
    const Words blocks = {"--block",          "4x4", "--budget",       "25%",
                          "--select-batches", "200", "--accumulation", "2"};
    const Words how = w.how({}, blocks);
    Whom whom;
    whom.behind = "selection: ";
    stop_in(w, w.train("has", kLast, "hone-sparse") + how, "has", 0, whom);
    Program p(w.train("none", kLast, "hone-sparse") + how, w.str());
    ASSERT_TRUE(p.says("options, saved as"));
    ASSERT_TRUE(catches(p.pid(), SIGTERM));
    p.kill(SIGTERM);
    const Ran left = p.wait();
    expect_done(left);
    ASSERT_FALSE(contains(left.err, "selection: ")) << left.err;
    const int port = free_port();
    const auto rank = [&](int k, const char *from) {
        const Words resume = {"--resume", w / (std::string(from) + "/checkpoint-0")};
        return rank_of(
            k, 2, port,
            w.train("two", kLast, "hone-sparse") + blocks + resume +
                Words{"--eval-data", w / "held.txt", "--resume-device", "any", "--device", "cpu"},
            w);
    };
    const auto zero = rank(0, "has"), one = rank(1, "none");
    EXPECT_EQ(zero->wait().code, 2);
    EXPECT_NE(one->wait().code, 0);
    EXPECT_TRUE(contains(zero->wait().err, "has other blocks than rank 0")) << zero->wait().err;
}

/* ---- ranks ---- */

class CliEvalSignalRanks : public testing::TestWithParam<std::tuple<int, int, int>> {};

/* To all of them, or to one alone: they leave together, and nobody is named. */
TEST_P(CliEvalSignalRanks, AllLeaveAndGoOnBitForBit)
{
    const auto [n, rank, step] = GetParam();
    const Whom whom = {n, rank};
    if (!enough(n)) GTEST_SKIP() << "fewer than " << n << " GPUs";
    const EvalPlace w;
    const Words how = w.how(whom, {});
    expect_done(w.run(w.train("whole", kLast) + how));
    stop_in(w, w.train("o", kLast) + how, "o", step, whom, true);
    const Ran r = w.run(w.train("o", kLast) + how + Words{"--resume", "auto"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "step " + number(step) + ": held-out loss")) << r.err;
    expect_same_run(w / "o", w / "whole", kAdapter);
}

INSTANTIATE_TEST_SUITE_P(Each, CliEvalSignalRanks,
                         testing::Values(std::tuple{2, -1, 0}, std::tuple{2, 1, 4},
                                         std::tuple{2, 0, kLast}, std::tuple{4, 2, 4},
                                         std::tuple{4, -1, kLast}));

/* Every batch wants all of them: of a base that they share, each has a part. */
TEST(CliEvalSignals, OfASharedBase)
{
    const Whom whom = {2, 1};
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    const EvalPlace w;
    const Words how = w.how(whom, {"--shard-base"});
    expect_done(w.run(w.train("whole", kLast) + how));
    stop_in(w, w.train("o", kLast) + how, "o", 4, whom);
    expect_done(w.run(w.train("o", kLast) + how + Words{"--resume", "auto"}));
    expect_same_run(w / "o", w / "whole", kAdapter);
}

/* Running values of batch norms, which ranks have each for itself, become their mean in front of an
 * evaluation, also of one that is left. */
TEST(CliEvalSignals, OfAModelWithBatchNorms)
{
    const Whom whom = {2, 1};
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    const EvalPlace w;
    write_image_set(w / "set");
    std::string images, labels;
    const uint32_t n = 900;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < 16 * 16 * 3; k++) images += (char)((i * 31 + k * 7) % 200);
        labels += (char)(i % 3);
    }
    write_file((w / "set") + "/val-images-idx-ubyte", idx(8, {n, 16, 16, 3}, images));
    write_file((w / "set") + "/val-labels-idx-ubyte", idx(8, {n}, labels));
    const auto run = [&](const std::string &out) {
        return Words{"hone-full",    "train", "--model",      "resnet20", "--data",    w / "set",
                     "--lr",         "1e-2",  "--out",        w / out,    "--steps",   "8",
                     "--batch-size", "2",     "--image-size", "16",       "--augment", "none",
                     "--eval-every", "4",     "--log-every",  "1",        "--keep",    "1"} +
               ranks(2);
    };
    expect_done(w.run(run("whole")));
    stop_in(w, run("o"), "o", 4, whom);
    expect_done(w.run(run("o") + Words{"--resume", "auto"}));
    for (const char *name : {"loss", "eval_loss", "eval_accuracy"})
        EXPECT_EQ(column(w / "o", name), column(w / "whole", name)) << name;
    EXPECT_EQ(trained_bytes((w / "o") + "/checkpoint-8"),
              trained_bytes((w / "whole") + "/checkpoint-8"));
}

/* ---- what a checkpoint says ---- */

TEST(CliEvalSignals, WhatACheckpointSaysIsChecked)
{
    const EvalPlace w(60);
    const Words how = w.how({}, {});
    expect_done(w.run(w.train("o", kLast) + how + Words{"--stop-after", "4"}));
    const std::string from = (w / "o") + "/checkpoint-4";
    EXPECT_FALSE(contains(read_file(from + "/state.json"), "evaluate_first"));
    const auto resumed = [&](const std::string &value) {
        const std::string c = (w / ("c" + value)) + "/checkpoint-4";
        std::filesystem::create_directory(w / ("c" + value));
        std::filesystem::copy(from, c);
        replace_in_file(c + "/state.json", "{", "{\"evaluate_first\": " + value + ",");
        complete_again(c, 4);
        return w.run(w.train("n" + value, kLast) + how + Words{"--resume", c});
    };
    expect_refused(resumed("1"), 2, {"state.json", "'evaluate_first' is not true or false"});
    expect_refused(
        resumed("true"), 2,
        {"state.json", "'evaluate_first' is true at step 4", "best evaluation is of step 4"});
    expect_done(resumed("false"));
    EXPECT_EQ(column(w / "nfalse", "eval_loss").count(4), 0u);
}

/* ---- hone-pearl ---- */

/* Many held-out images; the text of the signals' step, and what is said then. */
void stop_pearl(const PearlPlace &w, const Words &run, const std::string &out,
                const std::string &behind, const Whom &whom, const std::string &where)
{
    for (int i = 0; i < 12; i++) {
        Program p(run + w.to(out), w / "home");
        ASSERT_TRUE(p.says(behind));
        const std::vector<pid_t> all = children_of(p.pid());
        if (whom.rank < 0)
            kill(p.pid(), SIGTERM);
        else if (all.size() == (size_t)whom.ranks)
            kill(all[(size_t)whom.rank], SIGTERM);
        const Ran &r = p.wait();
        expect_done(r);
        EXPECT_FALSE(contains(r.err, "died")) << r.err;
        if (contains(r.err, "asked to stop in " + where)) {
            EXPECT_TRUE(contains(r.out, "stopped by ")) << r.out;
            return;
        }
        std::filesystem::remove_all(w / out);
    }
    FAIL() << "no signal has come in " << where;
}

/* "task 1/3 dense step 9/9" of what a run has said, which begins with the text. */
std::string last_step(const std::string &err, const std::string &text)
{
    const size_t at = err.find(text + "1/");
    EXPECT_NE(at, std::string::npos) << err;
    if (at == std::string::npos) return text;
    const std::string steps = number(std::stoi(err.substr(at + text.size() + 2)));
    return text + steps + "/" + steps;
}

void more_images(const PearlPlace &w, const char *part, int n)
{
    std::vector<int> labels((size_t)n);
    for (int i = 0; i < n; i++) labels[(size_t)i] = i % 6;
    write_file(w / ("data1/" + std::string(part) + "-images-idx4-ubyte"), striped(n, 1, 3));
    write_file(w / ("data1/" + std::string(part) + "-labels-idx1-ubyte"), idx_labels(labels));
}

class PearlSignals : public testing::TestWithParam<Whom> {};

TEST_P(PearlSignals, ATaskIsMeasuredAgain)
{
    const Whom whom = GetParam();
    if (!enough(whom.ranks)) GTEST_SKIP() << "fewer than " << whom.ranks << " GPUs";
    const PearlPlace w;
    more_images(w, "t10k", 12000);
    const Words run =
        PearlPlace::without(w.vit(), "--device") + ranks(whom.ranks) + Words{"--log-every", "1"};
    const Ran whole = w.run(run + w.to("whole"));
    expect_done(whole);
    stop_pearl(w, run, "o", last_step(whole.err, "task 2/3 factors step "), whom, "an evaluation");
    EXPECT_TRUE(std::filesystem::exists(w / "o/task-001/task.json"));
    EXPECT_FALSE(std::filesystem::exists(w / "o/task-002"));
    expect_done(w.run(run + w.to("o") + Words{"--resume", "auto"}));
    EXPECT_TRUE(kept(w, "o") == kept(w, "whole"));
}

TEST_P(PearlSignals, TheFisherInformationIsGatheredAgain)
{
    const Whom whom = GetParam();
    if (!enough(whom.ranks)) GTEST_SKIP() << "fewer than " << whom.ranks << " GPUs";
    const PearlPlace w;
    more_images(w, "train", 6000);
    const Words run =
        PearlPlace::without(PearlPlace::without(w.plain("ewc"), "--device"), "--epochs") +
        ranks(whom.ranks) + Words{"--epochs", "0.02", "--log-every", "1", "--ewc-images", "2000"};
    const Ran whole = w.run(run + w.to("whole"));
    expect_done(whole);
    stop_pearl(w, run, "o", last_step(whole.err, "task 1/3 dense step "), whom,
               "the Fisher information");
    expect_done(w.run(run + w.to("o") + Words{"--resume", "auto"}));
    EXPECT_TRUE(kept(w, "o") == kept(w, "whole"));
}

INSTANTIATE_TEST_SUITE_P(Ranks, PearlSignals, testing::Values(Whom{}, Whom{2, 0}, Whom{2, 1}));

} // namespace
