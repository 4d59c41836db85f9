/* Training on several ranks, as processes on the CPU: the steps of one rank, runs that are killed
 * or asked to stop, other numbers of ranks behind a resume, and what is refused. */
#include <random>

#include "cli_ranks_test.h"
#include "cli_run_test.h"
#include "file_limit.h"
#include "runtime/comm/hn_comm.h"

namespace {

void expect_close(const std::map<int, std::string> &a, const std::map<int, std::string> &b)
{
    ASSERT_EQ(a.size(), b.size());
    for (const auto &[step, value] : a)
        EXPECT_NEAR(std::stod(value), std::stod(b.at(step)), 2e-5 * std::stod(value)) << step;
}

TEST(CliRanks, TakeTheStepsOfOneRank)
{
    const Workplace w;
    const Words eval = {"--eval-split", "0.2", "--eval-every", "4"};
    expect_done(w.run(w.train("one", 8) + eval + ranks(1) + Words{"--accumulation", "4"}));
    expect_done(w.run(w.train("two", 8) + eval + ranks(2) + Words{"--accumulation", "2"}));
    const bool four = enough(4);
    if (four) expect_done(w.run(w.train("four", 8) + eval + ranks(4)));
    for (const char *name : {"loss", "eval_loss", "tokens", "grad_norm"}) {
        expect_close(column(w / "one", name), column(w / "two", name));
        if (four) expect_close(column(w / "one", name), column(w / "four", name));
    }
    const std::string many = four ? "four" : "two";
    const Words how = eval + (four ? ranks(4) : ranks(2) + Words{"--accumulation", "2"});
    expect_done(w.run(w.train("again", 8) + how));
    EXPECT_EQ(trained_bytes((w / many) + "/checkpoint-8"),
              trained_bytes((w / "again") + "/checkpoint-8"));
    EXPECT_EQ(column(w / many, "loss"), column(w / "again", "loss"));
}

TEST(CliRanks, OnlyRankZeroSpeaks)
{
    const Workplace w;
    const Words eval = {"--eval-split", "0.2", "--eval-every", "1"};
    const Ran one = w.run(w.train("one", 3) + eval + ranks(1));
    const Ran two = w.run(w.train("two", 3) + eval + ranks(2));
    expect_done(one), expect_done(two);
    EXPECT_TRUE(contains(two.err, "ranks: 2 x ")) << two.err;
    EXPECT_TRUE(contains(two.err, "2 ranks, one process each")) << two.err;
    EXPECT_TRUE(contains(two.err, "rank 0 of 2")) << two.err;
    EXPECT_FALSE(contains(two.err, "rank 1")) << two.err;
    /* it says who they are and who sums, else what one rank says */
    EXPECT_LE(lines_of(two.err).size(), lines_of(one.err).size() + 4) << two.err;
}

class CliRanksKilled : public testing::TestWithParam<int> {};

/* A rank that is killed at any moment is named, the others leave, and what is there goes on with
 * the bits of a run without a break. */
TEST_P(CliRanksKilled, IsNamedAndGoesOnBitForBit)
{
    const int n = GetParam(), last = 30;
    const Workplace w;
    if (!enough(n)) GTEST_SKIP() << "fewer than " << n << " GPUs";
    const Words how = ranks(n) + Words{"--save-every", "3", "--log-every", "1"};
    expect_done(w.run(w.train("whole", last) + how));
    std::mt19937 random((unsigned)n);
    for (int k = 0; k < 5; k++) {
        const std::string out = "o" + std::to_string(k);
        const std::string step = "step " + std::to_string(1 + random() % (last - 8)) + "/";
        const int victim = (int)(random() % (unsigned)n);
        Program p(w.train(out, last) + how, w.str());
        ASSERT_TRUE(p.says(step));
        const std::vector<pid_t> all = children_of(p.pid());
        ASSERT_EQ(all.size(), (size_t)n);
        std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
        ASSERT_EQ(kill(all[(size_t)victim], SIGKILL), 0);
        const Ran &r = p.wait();
        EXPECT_EQ(r.code, 1) << r.err;
        const std::string name = "rank " + std::to_string(victim) + " on ";
        EXPECT_TRUE(contains(r.err, name)) << r.err;
        EXPECT_TRUE(contains(r.err, "died in phase '")) << r.err;
        EXPECT_TRUE(contains(r.err, "SIGKILL")) << r.err;
        expect_done(w.run(w.train(out, last) + how + Words{"--resume", "auto"}));
        EXPECT_EQ(trained_bytes((w / out) + "/checkpoint-30"),
                  trained_bytes((w / "whole") + "/checkpoint-30"));
        EXPECT_EQ(column(w / out, "loss"), column(w / "whole", "loss"));
    }
}

INSTANTIATE_TEST_SUITE_P(Ranks, CliRanksKilled, testing::Values(2, 4));

class CliRanksSignal : public testing::TestWithParam<int> {};

/* Also where one rank alone gets it. */
TEST_P(CliRanksSignal, AllEndBehindTheSameStep)
{
    const Workplace w;
    for (const bool parent : {true, false}) {
        const std::string out = parent ? "p" : "c";
        const Words words = w.train(out, 400) + ranks(2) + Words{"--log-every", "1"};
        Program p(words, w.str());
        ASSERT_TRUE(p.says("step 5/"));
        const std::vector<pid_t> all = children_of(p.pid());
        ASSERT_EQ(all.size(), 2u);
        ASSERT_EQ(kill(parent ? p.pid() : all[1], GetParam()), 0);
        const Ran &r = p.wait();
        expect_done(r);
        EXPECT_TRUE(contains(r.out, "stopped by ")) << r.out;
        const auto folders = checkpoints_of(w / out);
        ASSERT_EQ(folders.size(), 1u);
        const int step = std::stoi(folders[0].substr(11));
        ASSERT_LT(step, 400);
        const std::string end = std::to_string(step + 3);
        expect_done(w.run(words + Words{"--resume", "auto", "--stop-after", end}));
        expect_done(w.run(w.train("whole" + out, 400) + ranks(2) + Words{"--stop-after", end}));
        EXPECT_EQ(trained_bytes((w / out) + "/checkpoint-" + end),
                  trained_bytes((w / ("whole" + out)) + "/checkpoint-" + end));
    }
}

INSTANTIATE_TEST_SUITE_P(Each, CliRanksSignal, testing::Values(SIGTERM, SIGUSR1, SIGINT));

/* A signal to one rank while blocks are chosen, and while pairs train in front of that: all leave,
 * and a run that goes on chooses the blocks of one without a break. */
TEST(CliRanks, ASignalWhileBlocksAreChosen)
{
    const Workplace w;
    const Words blocks = {"--block", "4x4", "--budget", "25%"};
    const std::map<std::string, Words> first = {
        {"b", {"--select-batches", "400"}},
        {"p", {"--select-batches", "4", "--lora-rank", "2", "--lora-steps", "400"}}};
    for (const auto &[name, words] : first) {
        const Words how = blocks + words + ranks(2);
        Program p(w.train("o" + name, 6, "hone-sparse") + how, w.str());
        ASSERT_TRUE(p.says("options, saved as"));
        const std::vector<pid_t> all = children_of(p.pid());
        ASSERT_EQ(all.size(), 2u);
        ASSERT_TRUE(catches(all[1], SIGTERM));
        ASSERT_EQ(kill(all[1], SIGTERM), 0);
        const Ran &r = p.wait();
        expect_done(r);
        EXPECT_TRUE(contains(r.out, "stopped by ")) << r.out;
        expect_done(w.run(w.train("o" + name, 6, "hone-sparse") + how + Words{"--resume", "auto"}));
        expect_done(w.run(w.train("w" + name, 6, "hone-sparse") + how));
        EXPECT_EQ(trained_bytes((w / ("o" + name)) + "/checkpoint-6"),
                  trained_bytes((w / ("w" + name)) + "/checkpoint-6"));
    }
}

/* The embedding of a character that is in one row only is no number: only the rank that has the row
 * can say what went wrong, and where; the others wait for it. */
TEST(CliRanks, NumbersThatAreNotFiniteAreNamed)
{
    enum { HIDDEN = 32, NINE = 48 }; /* of the model; of '9' in the tokenizer */
    const Workplace w;
    const std::string path = (w / "model") + "/model.safetensors";
    std::string bytes = read_file(path);
    uint64_t header;
    std::memcpy(&header, bytes.data(), sizeof header);
    const size_t name = bytes.find("model.embed_tokens.weight"),
                 at = bytes.find("offsets\":[", name);
    ASSERT_NE(at, std::string::npos);
    const size_t row = 8 + header + std::stoull(bytes.substr(at + 10)) + 4 * HIDDEN * NINE;
    const float bad = NAN;
    std::memcpy(&bytes[row], &bad, sizeof bad);
    write_file(path, bytes);
    write_file(w / "text.txt", "9" + sample_text(60));
    const Ran r = w.run(w.train("o", 30) + ranks(2) + Words{"--accumulation", "2"});
    EXPECT_EQ(r.code, 1) << r.err;
    EXPECT_TRUE(contains(r.err, "ERR_NUMERIC: step ")) << r.err;
    EXPECT_TRUE(contains(r.err, ", micro-batch ")) << r.err;
    EXPECT_FALSE(contains(r.err, "norm is not finite")) << r.err;
}

TEST(CliRanks, AnotherNumberOfThemTakesTheSameSteps)
{
    const Workplace w;
    const Words any = {"--resume", "auto", "--resume-device", "any"};
    expect_done(w.run(w.train("whole", 12) + ranks(1) + Words{"--accumulation", "2"}));
    expect_done(w.run(w.train("o", 12) + ranks(2) + Words{"--stop-after", "4"}));
    const int other = enough(4) ? 4 : 1;
    const Ran refused = w.run(w.train("o", 12) + ranks(other) + Words{"--resume", "auto"});
    EXPECT_EQ(refused.code, 2) << refused.err;
    EXPECT_TRUE(contains(refused.err, "ranks: 2")) << refused.err;
    const Ran more = w.run(w.train("o", 12) + ranks(other) + any + Words{"--stop-after", "8"});
    expect_done(more);
    EXPECT_TRUE(contains(more.err, "keeps the 2 micro-batches")) << more.err;
    expect_done(w.run(w.train("o", 12) + ranks(1) + any));
    expect_close(column(w / "whole", "loss"), column(w / "o", "loss"));
    EXPECT_EQ(column(w / "whole", "tokens"), column(w / "o", "tokens"));
}

/* Ranks with more micro-batches of a step than others, and with none. */
TEST(CliRanks, UnevenSharesTakeTheSameSteps)
{
    const Workplace w;
    for (const char *accumulation : {"3", "1"}) {
        const std::string whole = std::string("whole") + accumulation;
        const std::string out = std::string("o") + accumulation;
        const Words how = {"--accumulation", accumulation};
        expect_done(w.run(w.train(whole, 8) + how + ranks(1)));
        expect_done(w.run(w.train(out, 8) + how + ranks(1) + Words{"--stop-after", "3"}));
        const Ran on = w.run(w.train(out, 8) + how + ranks(2) +
                             Words{"--resume", "auto", "--resume-device", "any"});
        expect_done(on);
        EXPECT_TRUE(contains(on.err, std::string("keeps the ") + accumulation)) << on.err;
        for (const char *name : {"loss", "grad_norm", "tokens"})
            expect_close(column(w / whole, name), column(w / out, name));
    }
}

TEST(CliRanks, WholeModelsTakeTheStepsOfOneRank)
{
    const Workplace w;
    const Words lr = {"--lr", "1e-3"};
    expect_done(
        w.run(w.train("one", 6, "hone-full") + lr + ranks(1) + Words{"--accumulation", "2"}));
    expect_done(w.run(w.train("two", 6, "hone-full") + lr + ranks(2)));
    expect_close(column(w / "one", "loss"), column(w / "two", "loss"));
    expect_done(w.run(w.train("again", 6, "hone-full") + lr + ranks(2)));
    EXPECT_EQ(trained_bytes((w / "two") + "/checkpoint-6"),
              trained_bytes((w / "again") + "/checkpoint-6"));
}

TEST(CliRanks, JsonLinesComeFromOneRank)
{
    const Workplace w;
    const Ran r = w.run(w.train("o", 4) + ranks(2) + Words{"--log-format", "json"});
    expect_done(r);
    const auto lines = lines_of(r.out);
    ASSERT_EQ(lines.size(), 5u) << r.out; /* four steps, and the result */
    for (size_t i = 0; i < 4; i++)
        EXPECT_TRUE(contains(lines[i], "\"step\": " + std::to_string(i + 1) + ",")) << lines[i];
    EXPECT_TRUE(contains(lines[4], "\"result\"")) << lines[4];
}

/* They would be told to every rank. */
TEST(CliRanks, PlacesOfOneRankAreRefusedWhereRanksAreForked)
{
    const Workplace w;
    for (const Words &one : std::vector<Words>{
             {"--rendezvous", "tcp:127.0.0.1:1"}, {"--local-rank", "0"}, {"--local-size", "2"}})
        expect_refused(w.run(w.train("o", 2) + ranks(2) + one), 2, {one[0], "--job-rank"});
}

/* Rank 0 cannot write: it says so, and the others leave for it. */
TEST(CliRanks, ADiskThatIsFullEndsAll)
{
    const Workplace w;
    Ran r;
    {
        const FileSizeLimit limit(8192);
        r = w.run(w.train("o", 2) + ranks(2));
    }
    EXPECT_EQ(r.code, 1) << r.err;
    EXPECT_TRUE(contains(r.err, "rank 0 on ")) << r.err;
    EXPECT_TRUE(contains(r.err, "File too large")) << r.err;
    EXPECT_TRUE(contains(r.err, "in phase 'save' at step 2")) << r.err;
    EXPECT_TRUE(checkpoints_of(w / "o").empty());
}

TEST(CliRanks, ALauncherMayStartThem)
{
    const Workplace w;
    const int port = free_port();
    const Words words = w.train("o", 6) + Words{"--device", on_gpus() ? "cuda" : "cpu"};
    const auto zero = rank_of(0, 2, port, words, w), one = rank_of(1, 2, port, words, w);
    expect_done(one->wait());
    expect_done(zero->wait());
    expect_done(w.run(w.train("own", 6) + ranks(2)));
    EXPECT_EQ(trained_bytes((w / "o") + "/checkpoint-6"),
              trained_bytes((w / "own") + "/checkpoint-6"));
    const Ran both = w.run(words + Words{"--ranks", "2", "--job-rank", "0", "--job-size", "2",
                                         "--local-rank", "0", "--rendezvous", "tcp:127.0.0.1:9"});
    EXPECT_EQ(both.code, 2) << both.err;
    EXPECT_TRUE(contains(both.err, "has started 2 ranks already")) << both.err;
}

TEST(CliRanks, OthersDataAreFoundOut)
{
    const Workplace w;
    const int port = free_port();
    const Words words = w.train("o", 6) + Words{"--device", "cpu"};
    const auto zero = rank_of(0, 2, port, words, w);
    const auto one = rank_of(1, 2, port, words + Words{"--seed", "5"}, w);
    const Ran &a = zero->wait(), &b = one->wait();
    EXPECT_EQ(a.code, 2) << a.err;
    EXPECT_TRUE(contains(a.err, "rank 1 on ")) << a.err;
    EXPECT_TRUE(contains(a.err, "has other options than rank 0")) << a.err;
    EXPECT_NE(b.code, 0);
    EXPECT_FALSE(std::filesystem::exists(w / "o")) << "nothing is written";
}

/* What decides when ranks meet must be the same, or they would wait for each other. */
TEST(CliRanks, AnotherCourseIsFoundOut)
{
    const Workplace w;
    const Words words = w.train("o", 6) + Words{"--device", "cpu", "--eval-split", "0.2"};
    const std::map<std::string, Words> other = {{"--steps", {"--steps", "7"}},
                                                {"--eval-every", {"--eval-every", "2"}},
                                                {"--resume", {"--resume", "auto"}},
                                                {"options", {"--eval-split", "0.3"}}};
    for (const auto &[name, more] : other) {
        const int port = free_port();
        const auto zero = rank_of(0, 2, port, words, w), one = rank_of(1, 2, port, words + more, w);
        const Ran &a = zero->wait(), &b = one->wait();
        EXPECT_EQ(a.code, 2) << a.err;
        EXPECT_TRUE(contains(a.err, "has other " + name + " than rank 0")) << a.err;
        EXPECT_NE(b.code, 0);
    }
    const int port = free_port();
    write_file(w / "other.txt", sample_text(30));
    const Words held = w.train("o", 6) + Words{"--device", "cpu", "--eval-data"};
    const auto zero = rank_of(0, 2, port, held + Words{w / "text.txt"}, w);
    const auto one = rank_of(1, 2, port, held + Words{w / "other.txt"}, w);
    EXPECT_EQ(zero->wait().code, 2);
    EXPECT_TRUE(contains(zero->wait().err, "other held-out data than rank 0")) << zero->wait().err;
    EXPECT_NE(one->wait().code, 0);
    EXPECT_FALSE(std::filesystem::exists(w / "o")) << "nothing is written";
}

/* The rank says what is wrong, the other one who it was. */
TEST(CliRanks, DataThatOneRankDoesNotHave)
{
    const Workplace w;
    const int port = free_port();
    const Words words = w.train("o", 6) + Words{"--device", "cpu"};
    const auto zero = rank_of(0, 2, port, words, w);
    const auto one = rank_of(1, 2, port, words + Words{"--data", w / "nothing.jsonl"}, w);
    const Ran &a = zero->wait(), &b = one->wait();
    EXPECT_EQ(b.code, 2) << b.err;
    EXPECT_TRUE(contains(b.err, "nothing.jsonl")) << b.err;
    EXPECT_EQ(a.code, 1) << a.err;
    EXPECT_TRUE(contains(a.err, "rank 1 on ")) << a.err;
    EXPECT_TRUE(contains(a.err, "nothing.jsonl")) << a.err;
    EXPECT_FALSE(std::filesystem::exists(w / "o")) << "nothing is written";
}

/* For GPUs, too, of which there are fewer here. */
TEST(CliRanks, PlanAndCheckSayWhatAStepHolds)
{
    const Workplace w;
    const Words cpu = {"--device", "cpu", "--ranks", "3", "--accumulation", "2"};
    const Words sizes = {"--model", w / "model", "--seq-len", "16", "--batch-size", "2"};
    const char *three = "a step: 3 ranks x 2 micro-batches of 2 rows: 12 rows of 16 tokens";
    const Ran plan = w.run(Words{"hone-lora", "plan"} + sizes + cpu);
    const Ran check = w.run(w.base("check") + cpu);
    expect_done(plan), expect_done(check);
    EXPECT_TRUE(contains(plan.out, three)) << plan.out;
    EXPECT_TRUE(contains(check.out, three)) << check.out;
    const Ran gpus = w.run(Words{"hone-lora", "plan", "--gpus", "64"} + sizes);
    expect_done(gpus);
    EXPECT_TRUE(contains(gpus.out, "64 GPUs x 1 micro-batch of 2 rows: 128 rows")) << gpus.out;
    const Ran one = w.run(Words{"hone-lora", "plan", "--gpus", "1"} + sizes);
    EXPECT_TRUE(contains(one.out, "a step: 1 micro-batch of 2 rows: 2 rows of")) << one.out;
    EXPECT_EQ(w.run(Words{"hone-lora", "plan", "--gpus", "none"} + sizes).code, 2);
}

/* --shard-base: the run that each rank's whole base gives, uneven shares and evaluations included;
 * resumed with it and without. */
TEST(CliRanks, MayShareTheBase)
{
    const Workplace w;
    const int n = enough(3) ? 3 : 2;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    const Words how = ranks(n) + Words{"--eval-split", "0.2", "--eval-every", "2"};
    const Words shared = how + Words{"--shard-base"};
    expect_done(w.run(w.train("whole", 6) + how));
    const Ran r = w.run(w.train("shared", 6) + shared + Words{"--recompute", "on"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "frozen weights in " + std::to_string(n) + " shares")) << r.err;
    for (const char *name : {"loss", "eval_loss", "grad_norm"})
        EXPECT_EQ(column(w / "shared", name), column(w / "whole", name)) << name;
    const auto want = trained_bytes((w / "whole") + "/checkpoint-6");
    EXPECT_EQ(trained_bytes((w / "shared") + "/checkpoint-6"), want);
    EXPECT_EQ(read_file((w / "shared") + "/adapter/adapter_model.safetensors"),
              read_file((w / "whole") + "/adapter/adapter_model.safetensors"));

    const Words half = {"--stop-after", "3"}, on = {"--resume", "auto", "--stop-after", "0"};
    expect_done(w.run(w.train("on-off", 6) + shared + half));
    expect_done(w.run(w.train("on-off", 6) + how + on));
    expect_done(w.run(w.train("off-on", 6) + how + half));
    expect_done(w.run(w.train("off-on", 6) + shared + on));
    EXPECT_EQ(trained_bytes((w / "on-off") + "/checkpoint-6"), want);
    EXPECT_EQ(trained_bytes((w / "off-on") + "/checkpoint-6"), want);

    /* steps of one rank's micro-batches leave others without */
    expect_done(w.run(w.train("few", 6) + ranks(1) + Words{"--stop-after", "2"}));
    const Words few = {"--resume", w / "few/checkpoint-2", "--resume-device", "any"};
    expect_done(w.run(w.train("few-whole", 6) + ranks(n) + few));
    expect_done(w.run(w.train("few-shared", 6) + ranks(n) + few + Words{"--shard-base"}));
    EXPECT_EQ(trained_bytes((w / "few-shared") + "/checkpoint-6"),
              trained_bytes((w / "few-whole") + "/checkpoint-6"));
    EXPECT_EQ(column(w / "few-shared", "loss"), column(w / "few-whole", "loss"));
}

TEST(CliRanks, PlansAndRefusesASharedBase)
{
    const Workplace w;
    const Words cpu = {"--device", "cpu", "--ranks", "2"}, one = {"--device", "cpu"};
    const Words sizes = {"--model", w / "model", "--seq-len", "16", "--batch-size", "2"};
    const Ran plan = w.run(Words{"hone-lora", "plan", "--shard-base"} + sizes + cpu);
    expect_done(plan);
    EXPECT_TRUE(contains(plan.out, "layers' frozen weights in 2 shares")) << plan.out;
    EXPECT_TRUE(contains(plan.out, "gathered weights")) << plan.out;
    const auto refused = [&](const Words &words, const char *why) {
        const Ran r = w.run(words);
        EXPECT_EQ(r.code, 2) << r.err;
        EXPECT_TRUE(contains(r.err, why)) << r.err;
    };
    refused(Words{"hone-lora", "plan", "--shard-base"} + sizes + one, "nobody to share with");
    refused(w.train("o", 3) + one + Words{"--shard-base"}, "nobody to share with");
    refused(Words{"hone-full", "plan", "--shard-base"} + sizes + cpu, "trains every weight");
    refused(Words{"hone-sparse", "plan", "--shard-base"} + sizes + cpu, "trains blocks");
    refused(Words{"hone-lora", "plan", "--shard-base", "--model", "resnet20"} + cpu,
            "of decoders, but model resnet20");
}

TEST(CliRanks, RefusesWhatHasNoMeaning)
{
    const Workplace w;
    const Words train = w.train("o", 3);
    const auto refused = [&](const Words &more, const char *why) {
        const Ran r = w.run(train + more);
        EXPECT_EQ(r.code, 2) << r.err;
        EXPECT_TRUE(contains(r.err, why)) << r.err;
    };
    refused({"--device", "cpu", "--gpus", "2"}, "--ranks N");
    refused({"--device", "cuda", "--ranks", "2"}, "--gpus N");
    refused({"--device", "cuda:0", "--gpus", "2"}, "is one GPU");
    refused({"--gpus", "two"}, "a number from 1 on");
    refused({"--device", "cpu", "--job-rank", "1"}, "--job-size");
    refused({"--device", "cpu", "--ranks", "2", "--data", w / "nothing.jsonl"}, "nothing.jsonl");
    EXPECT_FALSE(std::filesystem::exists(w / "o"));
}

/* Batch norm has running values of each rank's own; evaluations and checkpoints are of their mean.
 */
TEST(CliRanks, ResidualNetworksAndBlocks)
{
    const Workplace w;
    write_image_set(w / "set");
    const Words images = {"hone-full",    "train", "--model",      "resnet20", "--data", w / "set",
                          "--batch-size", "4",     "--steps",      "5",        "--lr",   "1e-2",
                          "--image-size", "16",    "--eval-every", "2"};
    expect_done(w.run(images + Words{"--out", w / "a"} + ranks(2)));
    expect_done(w.run(images + Words{"--out", w / "b"} + ranks(2)));
    EXPECT_EQ(trained_bytes((w / "a") + "/checkpoint-5"),
              trained_bytes((w / "b") + "/checkpoint-5"));
    EXPECT_EQ(column(w / "a", "eval_loss"), column(w / "b", "eval_loss"));
    EXPECT_EQ(column(w / "a", "images").at(5), "40");

    const Words blocks = {"--block", "4x4", "--budget", "25%", "--select-batches", "4"};
    expect_done(
        w.run(w.train("s1", 6, "hone-sparse") + blocks + ranks(1) + Words{"--accumulation", "2"}));
    expect_done(w.run(w.train("s2", 6, "hone-sparse") + blocks + ranks(2)));
    expect_close(column(w / "s1", "loss"), column(w / "s2", "loss"));
}

} // namespace
