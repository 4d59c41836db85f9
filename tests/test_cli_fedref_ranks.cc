/* hone-fedref on several ranks, as processes on the CPU: the bits of one rank, ranks that die, runs
 * that go on, and what is refused. */
#include <random>

#include "cli_ranks_test.h"
#include "fedref_test.h"

namespace {

const Words fedavg = {"--method", "fedavg"};

std::string kept(const FedPlace &w, const std::string &out)
{
    std::string clients;
    for (const auto &line : lines_of(read_file(w / (out + "/clients.csv"))))
        clients += line.substr(0, line.rfind(',')) + "\n"; /* without seconds */
    return w.model(out) + w.rounds(out) + clients + read_file(w / (out + "/rejected.csv"));
}

/* All that has a memory from round to round. */
Words with_memory(const FedPlace &w, const std::string &rounds)
{
    return w.cnn("train", rounds) + Words{"--method",   "fedref-v3",   "--lambda2",
                                          "0.1",        "--lambda1",   "0.1",
                                          "--encoding", "topk",        "--topk",
                                          "0.1",        "--per-round", "5",
                                          "--dropout",  "0.1",         "--late",
                                          "0.3",        "--inject",    "nan:3@2,nan:2@4",
                                          "--momentum", "0.9",         "--below-quorum",
                                          "skip",       "--lr-decay",  "0.9"};
}

/* Whatever is trained and sent. */
TEST(CliFedrefRanks, HaveTheBitsOfOne)
{
    const FedPlace w;
    Words small = w.cnn(); /* images of 28 x 28, as the smallest networks have them */
    small[3] = "mnist-cnn-small", small[5] = "28";
    const std::map<std::string, Words> runs = {
        {"full", w.cnn() + Words{"--partition", "dirichlet", "--alpha", "0.3"}},
        {"memory", with_memory(w, "5")},
        {"bf16", w.cnn() + Words{"--encoding", "bf16", "--down", "bf16"}},
        {"lora", w.vit() + Words{"--payload", "lora", "--lora-rank", "2"}},
        {"sparse", w.vit() + Words{"--payload", "sparse", "--optimizer", "adamw", "--lr", "1e-3"}},
        {"fisher", w.cnn() + Words{"--method", "fedref-v3", "--fisher", "--fisher-images", "4"}},
        {"block", small + Words{"--simulate", "block", "--partition", "dirichlet"}}};
    for (const auto &[name, words] : runs) {
        expect_done(w.run(words + ranks(1) + w.to(name + "1")));
        const std::string one = kept(w, name + "1");
        for (const int n : {2, 4}) {
            if (!enough(n)) continue;
            const std::string out = name + std::to_string(n);
            expect_done(w.run(words + ranks(n) + w.to(out)));
            EXPECT_TRUE(kept(w, out) == one) << out;
        }
    }
}

/* Groups as on one rank: the same bits; what is left to the program differs in rounding. */
TEST(CliFedrefRanks, ReplicasHaveTheBitsOfTheirGroups)
{
    const FedPlace w;
    const Words replicas = w.cnn() + fedavg + Words{"--simulate", "replicas"};
    const Words pairs = replicas + Words{"--at-once", "2"};
    expect_done(w.run(pairs + ranks(1) + w.to("one")));
    expect_done(w.run(replicas + ranks(1) + w.to("whole")));
    const std::string one = kept(w, "one");
    for (const int n : {2, 4}) {
        if (!enough(n)) continue;
        const std::string many = "pairs" + std::to_string(n), free = "free" + std::to_string(n);
        expect_done(w.run(pairs + ranks(n) + w.to(many)));
        EXPECT_TRUE(kept(w, many) == one) << many;
        expect_done(w.run(replicas + ranks(n) + w.to(free)));
        const auto loss = w.column(free, "client_loss"), want = w.column("whole", "client_loss");
        ASSERT_EQ(loss.size(), want.size());
        for (size_t i = 0; i < want.size(); i++) EXPECT_NEAR(loss[i], want[i], 1e-5 * want[i]) << i;
    }
}

TEST(CliFedrefRanks, OnlyRankZeroSpeaks)
{
    const FedPlace w;
    const Ran one = w.run(w.cnn() + ranks(1) + w.to("one"));
    const Ran two = w.run(w.cnn() + ranks(2) + w.to("two"));
    expect_done(one), expect_done(two);
    EXPECT_TRUE(contains(two.err, "2 ranks, one process each: rank 0 of 2")) << two.err;
    EXPECT_TRUE(contains(two.err, "ranks: 2 x ")) << two.err;
    EXPECT_FALSE(contains(two.err, "rank 1")) << two.err;
    EXPECT_LE(lines_of(two.err).size(), lines_of(one.err).size() + 2) << two.err;
    EXPECT_EQ(lines_of(two.out).size(), lines_of(one.out).size()) << two.out;
    const std::string yaml = read_file(w / "two/run.yaml");
    EXPECT_FALSE(contains(yaml, "ranks")) << yaml;
}

/* Clients that are asked: fewer than there are ranks, and none at all. */
TEST(CliFedrefRanks, MoreThanThereAreClients)
{
    const FedPlace w;
    const Words few = w.cnn("train", "6") + fedavg +
                      Words{"--per-round", "2", "--dropout", "0.5", "--below-quorum", "skip"};
    expect_done(w.run(few + ranks(1) + w.to("one")));
    expect_done(w.run(few + ranks(enough(4) ? 4 : 2) + w.to("four")));
    EXPECT_TRUE(kept(w, "four") == kept(w, "one"));
    double none = 0;
    for (const double used : w.column("one", "used")) none += used == 0;
    EXPECT_GT(none, 0);
}

class CliFedrefRanksKilled : public testing::TestWithParam<int> {};

/* A rank that is killed at any moment is named, the others leave, and the last round that was
 * complete goes on with the bits of a run without a break, on any number of ranks. */
TEST_P(CliFedrefRanksKilled, IsNamedAndGoesOnBitForBit)
{
    const int n = GetParam();
    const FedPlace w;
    if (!enough(n)) GTEST_SKIP() << "fewer than " << n << " GPUs";
    const Words run = with_memory(w, "20") + Words{"--epochs", "2"};
    expect_done(w.run(run + ranks(1) + w.to("whole")));
    const std::string whole = kept(w, "whole");
    std::mt19937 random((unsigned)n);
    for (int k = 0; k < 3; k++) {
        const std::string out = "o" + std::to_string(k);
        const std::string round = "round " + std::to_string(1 + random() % 12) + "/20";
        const int victim = k == 0 ? 0 : (int)(random() % (unsigned)n);
        Program p(run + ranks(n) + w.to(out), w / "");
        ASSERT_TRUE(p.says(round));
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
        const int other = k == 1 ? 1 : k == 2 && enough(3) ? 3 : n;
        expect_done(w.run(run + ranks(other) + w.to(out) + Words{"--resume", "auto"}));
        EXPECT_TRUE(kept(w, out) == whole) << out;
    }
}

INSTANTIATE_TEST_SUITE_P(Ranks, CliFedrefRanksKilled, testing::Values(2, 4));

/* To the process that was started, and to one rank alone. */
TEST(CliFedrefRanks, ASignalToAnyOfThemEndsBehindARound)
{
    const FedPlace w;
    const Words run = with_memory(w, "20") + Words{"--epochs", "2"};
    expect_done(w.run(run + ranks(1) + w.to("whole")));
    const std::string whole = kept(w, "whole");
    for (const auto &[out, number] :
         std::map<std::string, int>{{"parent", SIGTERM}, {"worker", SIGUSR1}, {"zero", SIGTERM}}) {
        Program p(run + ranks(2) + w.to(out), w / "");
        ASSERT_TRUE(p.says("round 4/20"));
        const std::vector<pid_t> all = children_of(p.pid());
        ASSERT_EQ(all.size(), 2u);
        ASSERT_EQ(kill(out == "parent" ? p.pid() : all[out == "worker"], number), 0);
        const Ran &r = p.wait();
        expect_done(r);
        const char *name = number == SIGTERM ? "stopped by SIGTERM" : "stopped by SIGUSR1";
        EXPECT_TRUE(contains(r.out, name)) << r.out;
        expect_done(w.run(run + ranks(2) + w.to(out) + Words{"--resume", "auto"}));
        EXPECT_TRUE(kept(w, out) == whole) << out;
    }
}

/* A rank that is stopped is named with its round, not those that wait for it. */
TEST(CliFedrefRanks, ARankThatIsSilentIsNamed)
{
    const FedPlace w;
    Program p(w.cnn("train", "100000") + ranks(2) + w.to("run") + Words{"--save-every", "100000"},
              w / "");
    ASSERT_TRUE(p.says("round 30/"));
    const std::vector<pid_t> all = children_of(p.pid());
    ASSERT_EQ(all.size(), 2u);
    std::this_thread::sleep_for(std::chrono::milliseconds(2500)); /* beats that say where it is */
    ASSERT_EQ(kill(all[1], SIGSTOP), 0);
    const Ran &r = p.wait();
    EXPECT_EQ(r.code, 1) << r.err;
    EXPECT_TRUE(contains(r.err, "rank 1 on ")) << r.err;
    EXPECT_TRUE(contains(r.err, "died in phase 'clients' at round ") ||
                contains(r.err, "died in phase 'measure' at round "))
        << r.err;
    EXPECT_TRUE(contains(r.err, "no sign of life")) << r.err;
}

TEST(CliFedrefRanks, BelowTheQuorumAllStop)
{
    const FedPlace w;
    const Words run = w.cnn("train", "4") + Words{"--quorum", "7", "--inject", "nan:3@3,nan:4@3"};
    const Ran r = w.run(run + ranks(2) + w.to("run"));
    EXPECT_EQ(r.code, 1) << r.err;
    for (const char *part : {"round 3: 6 good updates of 8", "the quorum is 7", "behind round 2"})
        EXPECT_TRUE(contains(r.err, part)) << r.err;
    EXPECT_TRUE(w.model("run") ==
                w.trained("two", w.cnn("train", "2") + ranks(1) + Words{"--quorum", "7"}));
}

TEST(CliFedrefRanks, RefuseWhatHasNoMeaning)
{
    const FedPlace w;
    const auto refused = [&](const Words &words, const Words &parts) {
        const Ran r = w.run(words + w.to("o"));
        EXPECT_EQ(r.code, 2) << r.err;
        for (const auto &part : parts) EXPECT_TRUE(contains(r.err, part)) << r.err;
    };
    refused(w.cnn() + Words{"--device", "cpu", "--gpus", "2"}, {"--ranks N"});
    refused(w.cnn() + Words{"--device", "cuda", "--ranks", "2"}, {"--gpus N"});
    refused(w.cnn() + Words{"--device", "cuda:0", "--gpus", "2"}, {"is one GPU"});
    refused(w.cnn() + Words{"--device", "cpu", "--job-rank", "1"}, {"--job-size"});
    refused(w.cnn() + ranks(2) + Words{"--lr", "-1"}, {"--lr"});
    if (!on_gpus()) refused(w.cnn() + ranks(2) + Words{"--lanes", "2"}, {"--lanes 2"});
    EXPECT_FALSE(std::filesystem::exists(w / "o"));
    const Ran eval = w.run({"hone-fedref", "eval", "--run", w / "o", "--gpus", "2"});
    EXPECT_EQ(eval.code, 2) << eval.err;
    const Ran check = w.run(w.cnn("check") + Words{"--device", "cpu", "--ranks", "3"});
    expect_done(check);
    EXPECT_TRUE(contains(check.out, "ranks: 3, which share the 8 clients of a round")) << check.out;
}

} // namespace
