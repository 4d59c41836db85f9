/* hone-fedref when something is wrong: clients, options, and the machine under it. */
#include "cli_run_test.h"
#include "fedref_test.h"

namespace {

const Words fedavg = {"--method", "fedavg"};

/* ---- clients ---- */

TEST(CliFedrefRobust, DamagedUpdatesAreNamedAndTheRoundGoesOn)
{
    const FedPlace w;
    const Words inject = {"--inject", "nan:3@2,shape:5@2,stale:1@2,garbage:2@3,truncated:0@3"};
    for (const std::string encoding : {"f32", "bf16", "topk"}) {
        const Ran r =
            w.run(w.cnn("train", "4") + inject + Words{"--encoding", encoding} + w.to(encoding));
        expect_done(r);
        EXPECT_EQ(w.column(encoding, "used"), (std::vector<double>{8, 5, 6, 8}));
        EXPECT_EQ(w.column(encoding, "rejected"), (std::vector<double>{0, 3, 2, 0}));
        const auto lines = lines_of(read_file(w / (encoding + "/rejected.csv")));
        ASSERT_EQ(lines.size(), 6u);
        for (const auto &[line, parts] :
             std::map<size_t, Words>{{1, {"2,1,", "stale"}},
                                     {2, {"2,3,"}},
                                     {3, {"2,5,", "names, shapes or roles"}},
                                     {4, {"3,0,"}},
                                     {5, {"3,2,"}}})
            for (const auto &part : parts)
                EXPECT_TRUE(contains(lines[line], part)) << part << " is not in " << lines[line];
        EXPECT_TRUE(contains(r.err, "round 2: update of client 3 rejected")) << r.err;
        const auto clients = lines_of(read_file(w / (encoding + "/clients.csv")));
        EXPECT_TRUE(contains(clients[4], ",4,3,1,0,0,")) << clients[4]; /* asked, used, rejected */
    }
    EXPECT_TRUE(contains(read_file(w / "f32/rejected.csv"), "fc2.bias")); /* where the NaN is */
}

TEST(CliFedrefRobust, DamageToAMessageThatNobodySendsIsToldOf)
{
    const FedPlace w;
    std::string all;
    for (int k = 0; k < 8; k++) all += (k ? ",nan:" : "nan:") + std::to_string(k) + "@1";
    const Ran r = w.run(w.cnn("train", "1") + Words{"--per-round", "5", "--inject", all} +
                        Words{"--below-quorum", "skip"} + w.to("run"));
    expect_done(r);
    size_t told = 0;
    for (const auto &line : lines_of(r.err)) told += contains(line, "is not asked in round 1");
    EXPECT_EQ(told, 3u) << r.err;
    EXPECT_EQ(w.column("run", "rejected"), (std::vector<double>{5}));
}

/* Who has more steps trains first, of equals in the order of clients: neighbours in a group of
 * replicas end together. */
TEST(CliFedrefRobust, TheLongestTasksAreTheFirst)
{
    const FedPlace w;
    std::string all;
    for (int k = 0; k < 8; k++) all += (k ? ",nan:" : "nan:") + std::to_string(k) + "@1";
    expect_done(w.run(w.cnn("train", "1") +
                      Words{"--partition", "quantity", "--alpha", "0.5", "--batch-size", "4"} +
                      Words{"--inject", all, "--below-quorum", "skip"} + w.to("run")));
    const auto clients = lines_of(read_file(w / "run/clients.csv"));
    const auto lines = lines_of(read_file(w / "run/rejected.csv"));
    ASSERT_EQ(lines.size(), 9u);
    const auto column = [](const std::string &line, int k) {
        std::stringstream words(line);
        std::string word;
        while (k-- >= 0) std::getline(words, word, ',');
        return std::stoi(word);
    };
    std::vector<std::pair<int, int>> order; /* {-steps, client} */
    for (size_t i = 1; i < lines.size(); i++) {
        const int client = column(lines[i], 1);
        const int images = column(clients.at((size_t)client + 1), 1);
        order.push_back({-((images + 3) / 4), client});
    }
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end())) << testing::PrintToString(order);
    EXPECT_GT(order[7].first - order[0].first, 2) << "clients of one size show nothing";
    EXPECT_NE(order[0].second, 0);
}

/* The model of a round without client 3 is that of a round in which its update is bad. */
TEST(CliFedrefRobust, ABadUpdateChangesNothing)
{
    const FedPlace w;
    const Words one = w.cnn("train", "1") + fedavg;
    const std::string nan = w.trained("nan", one + Words{"--inject", "nan:3@1"});
    const std::string garbage = w.trained("garbage", one + Words{"--inject", "garbage:3@1"});
    EXPECT_TRUE(nan == garbage);
    EXPECT_FALSE(nan == w.trained("good", one));
}

TEST(CliFedrefRobust, BelowTheQuorumTheRunStopsWithTheStateBefore)
{
    const FedPlace w;
    const Words run = w.cnn("train", "4") + Words{"--quorum", "7", "--inject", "nan:3@3,nan:4@3"};
    expect_refused(w.run(run + w.to("run")), 1,
                   {"round 3: 6 good updates of 8", "the quorum is 7", "behind round 2"});
    const std::string before = w.model("run");
    EXPECT_TRUE(before == w.trained("two", w.cnn("train", "2") + Words{"--quorum", "7"}));
    /* going on without that round */
    const Ran r = w.run(run + w.to("run") + Words{"--resume", "auto", "--below-quorum", "skip"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "the model stays as it was")) << r.err;
    EXPECT_EQ(w.column("run", "changed"), (std::vector<double>{1, 1, 0, 1}));
    EXPECT_EQ(w.column("run", "accuracy")[2], w.column("run", "accuracy")[1]);
}

/* Nothing of the round that was given up is in the state: not in residuals, not in counts. */
TEST(CliFedrefRobust, BelowTheQuorumRoundsThatWereNotSavedYetAreKept)
{
    const FedPlace w;
    const Words topk = {"--encoding", "topk", "--topk", "0.1", "--save-every", "10"};
    const Words run = w.cnn("train", "4") + topk + Words{"--quorum", "7"};
    const Words bad = run + Words{"--inject", "nan:3@2,nan:3@4,nan:5@4"};
    expect_refused(w.run(bad + w.to("run")), 1, {"round 4: 6 good updates of 8", "behind round 3"});
    EXPECT_TRUE(std::filesystem::exists(w / "run/checkpoint-3"));
    EXPECT_EQ(w.column("run", "rejected"), (std::vector<double>{0, 1, 0}));
    EXPECT_EQ(lines_of(read_file(w / "run/rejected.csv")).size(), 2u);
    EXPECT_EQ(Json(w / "run/result.json").number("rounds_done"), 3);
    EXPECT_TRUE(contains(lines_of(read_file(w / "run/clients.csv"))[4], ",3,2,1,0,0,"));
    const Words three = w.cnn("train", "3") + topk + Words{"--quorum", "7"};
    expect_done(w.run(three + w.to("three") + Words{"--inject", "nan:3@2"}));
    for (const std::string name : {"residuals.safetensors", "fed_server.safetensors"})
        EXPECT_TRUE(read_file(w / ("run/checkpoint-3/" + name)) ==
                    read_file(w / ("three/checkpoint-3/" + name)))
            << name;
}

TEST(CliFedrefRobust, AClientThatDivergesIsRejected)
{
    const FedPlace w;
    const Ran r =
        w.run(w.cnn("train", "2") +
              Words{"--lr", "1000", "--below-quorum", "skip", "--epochs", "3"} + w.to("run"));
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "its loss is")) << r.err;
    EXPECT_GT(w.column("run", "rejected")[0], 0);
    EXPECT_EQ(w.column("run", "rejected")[0] + w.column("run", "used")[0], 8);
}

TEST(CliFedrefRobust, DropoutsAndLateClientsAreCounted)
{
    const FedPlace w;
    const Words run = w.cnn("train", "6") + fedavg +
                      Words{"--dropout", "0.3", "--late", "0.5", "--below-quorum", "skip"};
    expect_done(w.run(run + w.to("run")));
    const auto asked = w.column("run", "asked"), dropped = w.column("run", "dropped"),
               used = w.column("run", "used"), late = w.column("run", "late");
    double all_dropped = 0, all_late = 0;
    for (size_t i = 0; i < asked.size(); i++) {
        EXPECT_EQ(asked[i] - dropped[i], used[i]);
        all_dropped += dropped[i];
        all_late += late[i];
    }
    EXPECT_GT(all_dropped, 0);
    EXPECT_GT(all_late, 0);
    EXPECT_LT(all_dropped, 48);
}

/* ---- going on ---- */

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

std::string kept(const FedPlace &w, const std::string &out)
{
    std::string clients;
    for (const auto &line : lines_of(read_file(w / (out + "/clients.csv"))))
        clients += line.substr(0, line.rfind(',')) + "\n"; /* without seconds */
    return w.model(out) + w.rounds(out) + clients + read_file(w / (out + "/rejected.csv"));
}

TEST(CliFedrefRobust, AStoppedRunGoesOnBitForBit)
{
    const FedPlace w;
    expect_done(w.run(with_memory(w, "8") + w.to("whole")));
    const Ran first = w.run(with_memory(w, "8") + w.to("parts") + Words{"--stop-after", "3"});
    expect_done(first);
    EXPECT_TRUE(contains(first.out, "stopped by --stop-after behind round 3 of 8")) << first.out;
    expect_done(
        w.run({"hone-fedref", "train", "--config", w / "parts/run.yaml", "--resume", w / "parts"}));
    EXPECT_TRUE(kept(w, "parts") == kept(w, "whole"));
}

/* Groups one behind the other: the images are in one order, whatever they are. */
TEST(CliFedrefRobust, RefusesToGoOnWithOtherGroups)
{
    const FedPlace w;
    const auto write = [&](int first) {
        std::string text;
        for (int i = 0; i < 96; i++) text += i < first ? "0\n" : i < 48 ? "1\n" : "2\n";
        write_file(w / "groups", text);
    };
    Words run = w.cnn() + w.to("run") + Words{"--partition", "group", "--groups", w / "groups"};
    run[std::find(run.begin(), run.end(), "--clients") - run.begin() + 1] = "0";
    write(12);
    expect_done(w.run(run + Words{"--stop-after", "1"}));
    write(24);
    expect_refused(w.run(run + Words{"--resume", "auto"}), 2, {"index.json", "partition"});
    write(12);
    expect_done(w.run(run + Words{"--resume", "auto"}));
}

/* More rounds than there were to be. */
TEST(CliFedrefRobust, ARunCanBeMadeLonger)
{
    const FedPlace w;
    expect_done(w.run(with_memory(w, "6") + w.to("whole")));
    expect_done(w.run(with_memory(w, "4") + w.to("longer")));
    expect_done(w.run(with_memory(w, "6") + w.to("longer") + Words{"--resume", "auto"}));
    EXPECT_TRUE(kept(w, "longer") == kept(w, "whole"));
}

/* The last of four rounds is measured out of turn; the fourth of six is not. */
TEST(CliFedrefRobust, AMeasurementOutOfTurnGoesWhenARunIsMadeLonger)
{
    const FedPlace w;
    const Words every = {"--eval-every", "3", "--lr", "0.3"};
    const auto classes = [&w](const std::string &out) {
        const std::string all = read_file(w / (out + "/result.json"));
        return all.substr(all.find("\"per_class\""));
    };
    expect_done(w.run(w.cnn("train", "6") + every + w.to("whole")));
    expect_done(w.run(w.cnn("train", "4") + every + w.to("longer")));
    EXPECT_FALSE(std::isnan(w.column("longer", "accuracy")[3]));
    expect_done(w.run(w.cnn("train", "6") + every + w.to("longer") + Words{"--resume", "auto"}));
    EXPECT_TRUE(kept(w, "longer") == kept(w, "whole")) << w.rounds("longer") << w.rounds("whole");
    EXPECT_EQ(classes("longer"), classes("whole"));
}

/* Killed inside a round, behind one, and asked to stop. */
TEST(CliFedrefRobust, AKilledRunGoesOnBitForBit)
{
    const FedPlace w;
    const Words run = with_memory(w, "30") + Words{"--epochs", "4"};
    expect_done(w.run(run + w.to("whole")));
    const Words on = run + w.to("killed") + Words{"--resume", "auto"};
    for (const auto &[text, number] : std::vector<std::pair<std::string, int>>{
             {"round 3/30", SIGKILL}, {"round 11/30", SIGKILL}, {"round 17/30", SIGINT}}) {
        Program p(on, w / "home");
        ASSERT_TRUE(p.says(text));
        if (text == "round 11/30") usleep(2000); /* somewhere inside the next one */
        p.kill(number);
        const Ran r = p.wait();
        EXPECT_EQ(r.signal, number == SIGKILL ? SIGKILL : 0);
        if (number == SIGINT) {
            EXPECT_TRUE(contains(r.out, "stopped by SIGINT")) << r.out;
        }
    }
    expect_done(w.run(on));
    EXPECT_TRUE(kept(w, "killed") == kept(w, "whole"));
}

/* Between two steps of a round of seconds, of which nothing stays; whole, the round is as if it had
 * not been tried. */
TEST(CliFedrefRobust, ASignalEndsTheRound)
{
    const FedPlace w;
    for (const std::string simulate : {"one", "replicas"}) {
        const Words run = with_memory(w, "4") + Words{"--epochs", "30", "--simulate", simulate};
        expect_done(w.run(run + w.to("whole-" + simulate)));
        const Words on = run + w.to(simulate) + Words{"--resume", "auto"};
        Program p(on, w / "home");
        ASSERT_TRUE(p.says("round 1/4"));
        p.kill(SIGTERM);
        const Ran r = p.wait();
        expect_done(r);
        EXPECT_TRUE(contains(r.out, "stopped by SIGTERM behind round 1 of 4")) << r.out;
        expect_done(w.run(on));
        EXPECT_TRUE(kept(w, simulate) == kept(w, "whole-" + simulate));
    }
}

/* A state in front of the first round that says that its round is to be measured. */
TEST(CliFedrefRobust, AStateWithoutARoundHasNoneToMeasure)
{
    const FedPlace w;
    const Words run = w.cnn("train", "1") + Words{"--keep", "9"} + w.to("run");
    expect_done(w.run(run));
    const std::string first = w / "run/checkpoint-0";
    std::filesystem::remove_all(w / "run/checkpoint-1");
    replace_in_file(first + "/fedref.json", "{", "{\"unmeasured\": true,");
    complete_again(first, 0);
    expect_refused(w.run(run + Words{"--resume", "auto"}), 2,
                   {first + "/fedref.json", "'unmeasured' is true, but there is no round"});
}

TEST(CliFedrefRobust, ARunThatIsUnderWayIsReadButNotWritten)
{
    const FedPlace w;
    Program p(w.cnn("train", "1000") + w.to("run"), w / "home");
    ASSERT_TRUE(p.says("round 10/"));
    expect_refused(w.run({"hone-fedref", "report", "--run", w / "run"}), 2, {"in use by process"});
    p.kill(SIGINT);
    expect_done(p.wait());
    expect_done(w.run({"hone-fedref", "report", "--run", w / "run"}));
}

TEST(CliFedrefRobust, RefusesToGoOnWithAnotherRun)
{
    const FedPlace w;
    const Words run = w.cnn() + w.to("run"), on = {"--resume", "auto"};
    expect_done(w.run(run + Words{"--stop-after", "1"}));
    const auto before = listing(w / "run/checkpoint-1");
    const std::string index = read_file(w / "run/index.json");
    expect_refused(w.run(run), 2, {"holds a run", "--resume auto"});
    expect_refused(w.run(run + on + Words{"--lambda2", "0.2"}), 2,
                   {"index.json", "'lambda2: -1', now 'lambda2: 0.2'"});
    expect_refused(w.run(run + on + Words{"--seed", "9"}), 2, {"'seed: 0', now 'seed: 9'"});
    expect_refused(w.run(w.cnn() + Words{"--resume", w / "data"}), 2, {"there is no run"});
    EXPECT_TRUE(listing(w / "run/checkpoint-1") == before);
    EXPECT_EQ(read_file(w / "run/index.json"), index);
    /* a state that was changed does not count */
    const std::string path = w / "run/checkpoint-1/fedref.json";
    replace_in_file(path, "\"round\": 1", "\"round\": 2");
    const Ran r = w.run({"hone-fedref", "eval", "--run", w / "run"});
    EXPECT_EQ(r.code, 2);
    EXPECT_TRUE(contains(r.err, "fedref.json")) << r.err;
}

/* ---- options ---- */

void refused(const FedPlace &w, const Words &words, const Words &parts)
{
    expect_refused(w.run(words + w.to("none")), 2, parts);
    EXPECT_FALSE(std::filesystem::exists(w / "none")) << parts[0];
}

TEST(CliFedrefRobust, RefusesOptionsThatMeanNothing)
{
    const FedPlace w;
    const Words run = w.cnn();
    refused(w, run + fedavg + Words{"--lambda2", "0.1"}, {"--lambda2:", "method fedavg"});
    refused(w, run + Words{"--tau", "0.1"}, {"--tau:", "method fedref-v3"});
    refused(w, run + Words{"--first-axis-bug"}, {"--first-axis-bug:", "fedref-v3"});
    refused(w, run + Words{"--alpha", "0.1"}, {"--alpha:", "an option of dirichlet"});
    refused(w, run + Words{"--late-least", "0.5"}, {"--late-least:", "--late"});
    refused(w, run + Words{"--topk", "0.5"}, {"--topk:", "--encoding topk"});
    refused(w, run + Words{"--no-feedback"}, {"--feedback:", "f32"});
    refused(w, run + Words{"--lora-rank", "4"}, {"--lora-rank:", "--payload lora"});
    refused(w, run + Words{"--beta1", "0.5"}, {"--beta1:", "adamw"});
    refused(w, run + Words{"--pad", "2"}, {"--pad:"});
    refused(w, run + Words{"--sparse-score", "random"}, {"--sparse-score:", "--payload sparse"});
    const Words sparse = run + Words{"--payload", "sparse", "--optimizer", "adamw"};
    refused(w, sparse + Words{"--sparse-lift-rank", "4"}, {"--sparse-lift-rank:", "lift"});
    refused(w, sparse + Words{"--sparse-mask", "pack", "--sparse-budget", "1%"},
            {"--sparse-budget:", "--sparse-mask"});
    refused(w, run + Words{"--frozen-norm", "--payload", "head"}, {"--frozen-norm:"});
}

TEST(CliFedrefRobust, RefusesWhatCannotBe)
{
    const FedPlace w;
    const Words run = w.cnn();
    refused(w, run + Words{"--method", "fedprox"}, {"--mu 0", "fedavg"});
    refused(w, run + Words{"--clients", "97"}, {"97", "96"});
    refused(w, run + Words{"--per-round", "9"}, {"--per-round 9", "8 clients"});
    refused(w, run + Words{"--quorum", "9"}, {"--quorum 9"});
    refused(w, run + Words{"--lambda2", "1"}, {"cap"}); /* grows, and the cap is below */
    refused(w, run + Words{"--inject", "nan:1"}, {"--inject nan:1", "KIND:CLIENT@ROUND"});
    refused(w, run + Words{"--inject", "nan:8@1"}, {"--inject", "client 8 of 8"});
    refused(w, run + Words{"--inject", "nan:1@4"}, {"--inject", "round 4 of 3"});
    refused(w, run + Words{"--inject", "stale:1@0"}, {"--inject", "round 0 of 3"});
    refused(w, run + Words{"--lambda1", "-0.5"}, {"--lambda1 -0.5", "-1"});
    refused(w, run + Words{"--growth", "-0.001"}, {"--growth -0.001"});
    refused(w, run + Words{"--method", "ema", "--ema", "-0.9"}, {"--ema -0.9"});
    refused(w, run + Words{"--method", "fedadam", "--tau", "-0.1"}, {"--tau -0.1"});
    refused(w, run + Words{"--partition", "group"}, {"--groups"});
    refused(w, run + Words{"--model", "resnet20"}, {"--epoch-end part", "batch norm"});
    refused(w, run + Words{"--model", "tests/fixtures/models/llama"}, {"a decoder"});
    const Words sparse = run + Words{"--payload", "sparse"}, adamw = {"--optimizer", "adamw"};
    refused(w, sparse, {"--optimizer sgd", "--payload sparse", "adamw"});
    if (std::string(test_device()) == "cpu") refused(w, run + Words{"--lanes", "2"}, {"--lanes 2"});
    refused(w, run + Words{"--lanes", "2", "--simulate", "replicas"}, {"--lanes:", "one"});
    for (const char *how : {"replicas", "block"})
        refused(w, sparse + adamw + Words{"--simulate", how}, {how, "--payload sparse"});
    refused(w, sparse + adamw + Words{"--fisher"}, {"--fisher", "--payload sparse"});
    refused(w, sparse + adamw + Words{"--sparse-budget", "2"}, {"--sparse-budget 2: "});
    refused(w, sparse + adamw + Words{"--sparse-budget", "values:1"},
            {"--sparse-budget values:1: ", "less than one block"});
    refused(w, sparse + adamw + Words{"--sparse-targets", "fc2"}, {"--sparse-targets: the head"});
    refused(w, sparse + adamw + Words{"--sparse-block", "256x256"}, {"256"});
    refused(w, sparse + adamw + Words{"--sparse-mask", "no-pack"}, {"no-pack"});
    refused(w, sparse + adamw + Words{"--sparse-targets", "nothing"},
            {"--sparse-targets", "nothing"});
    refused(w, run + Words{"--payload", "lora", "--lora-targets", "nothing"},
            {"--lora-targets", "nothing"});
    std::filesystem::remove(w / "data/t10k-images-idx3-ubyte");
    std::filesystem::remove(w / "data/t10k-labels-idx1-ubyte");
    refused(w, run, {"nothing is held out"});
    EXPECT_EQ(w.run({"hone-fedref", "trian"}).code, 2);
}

} // namespace
