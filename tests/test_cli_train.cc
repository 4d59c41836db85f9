/* Whole training runs: the same bits from one seed, across stops and resumption. */
#include "cli_run_test.h"
#include "runtime/file/tfevents.h"

namespace {

/* ---- train(20) = train(10) + resume ---- */

class CliResumed : public testing::TestWithParam<std::pair<const char *, Words>> {};

TEST_P(CliResumed, ContinuesBitForBit)
{
    const auto &[program, extra] = GetParam();
    const Workplace w;
    expect_done(w.run(w.train("whole", 20, program) + extra));
    const Ran first = w.run(w.train("parts", 20, program) + extra + Words{"--stop-after", "10"});
    expect_done(first);
    EXPECT_TRUE(contains(first.out, "stopped by --stop-after at step 10 of 20")) << first.out;
    EXPECT_EQ(checkpoints_of(w / "parts").front(), "checkpoint-10");
    const Ran second = w.run(w.train("parts", 20, program) + extra + Words{"--resume", "auto"});
    expect_done(second);
    EXPECT_TRUE(contains(second.err, "checkpoint-10, step 10")) << second.err;
    EXPECT_EQ(trained_bytes((w / "parts") + "/checkpoint-20"),
              trained_bytes((w / "whole") + "/checkpoint-20"));
    const auto losses = column(w / "whole", "loss");
    EXPECT_EQ(losses.size(), 20u);
    EXPECT_EQ(column(w / "parts", "loss"), losses);
    EXPECT_EQ(column(w / "parts", "lr"), column(w / "whole", "lr"));
    EXPECT_EQ(column(w / "parts", "tokens"), column(w / "whole", "tokens"));
    EXPECT_EQ(column(w / "parts", "epoch"), column(w / "whole", "epoch"));
}

INSTANTIATE_TEST_SUITE_P(
    Runs, CliResumed,
    testing::Values(
        std::pair{"hone-lora", Words{}},
        std::pair{"hone-lora", Words{"--accumulation", "2", "--dropout", "0.1", "--schedule",
                                     "cosine", "--warmup-steps", "4", "--weight-decay", "0.01"}},
        std::pair{"hone-lora", Words{"--dtype", "bf16", "--dropout", "0.1", "--recompute", "on"}},
        std::pair{"hone-lora", Words{"--eval-split", "0.1", "--eval-every", "4", "--rslora"}},
        std::pair{"hone-full", Words{"--schedule", "linear", "--weight-decay", "0.1"}},
        std::pair{"hone-full", Words{"--optimizer", "sgd", "--nesterov"}},
        std::pair{"hone-full", Words{"--optimizer", "sgd", "--momentum", "0"}},
        std::pair{"hone-full", Words{"--dtype", "bf16", "--accumulation", "2"}}));

TEST(CliResumedMore, AFinishedRunIsExportedAgainOrGoesOn)
{
    const Workplace w;
    const Words constant = {"--schedule", "constant", "--warmup-steps", "0"};
    expect_done(w.run(w.train("whole", 8) + constant));
    expect_done(w.run(w.train("o", 4) + constant));
    std::filesystem::remove_all((w / "o") + "/adapter");
    const Ran again = w.run(w.train("o", 4) + constant + Words{"--resume", "auto"});
    expect_done(again);
    EXPECT_TRUE(std::filesystem::exists((w / "o") + "/adapter/adapter_config.json"));
    expect_done(w.run(w.train("o", 8) + constant + Words{"--resume", "auto"}));
    EXPECT_EQ(trained_bytes((w / "o") + "/checkpoint-8"),
              trained_bytes((w / "whole") + "/checkpoint-8"));
    expect_refused(w.run(w.train("o", 6) + constant + Words{"--resume", "auto"}), 2,
                   {"checkpoint-8", "step 8", "6"});
}

TEST(CliResumedMore, ANamedCheckpointBeginsABranch)
{
    const Workplace w;
    expect_done(w.run(w.train("whole", 8)));
    expect_done(w.run(w.train("o", 8) + Words{"--stop-after", "4"}));
    const auto before = listing(w / "o");
    expect_done(w.run(w.train("branch", 8) + Words{"--resume", (w / "o") + "/checkpoint-4"}));
    EXPECT_EQ(listing(w / "o"), before);
    EXPECT_EQ(trained_bytes((w / "branch") + "/checkpoint-8"),
              trained_bytes((w / "whole") + "/checkpoint-8"));
}

TEST(CliResumedMore, ABranchSeeksItsOwnBest)
{
    const Workplace w;
    const Words more = {"--eval-split", "0.2",  "--eval-every", "2",
                        "--lr",         "0.05", "--schedule",   "constant"};
    expect_done(w.run(w.train("o", 20) + more + Words{"--stop-after", "14", "--keep", "20"}));
    const Ran r =
        w.run(w.train("branch", 20) + more + Words{"--resume", (w / "o") + "/checkpoint-14"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "the best is sought anew")) << r.err;
}

TEST(CliResumedMore, AutoStartsAnewWhereThereIsNothingAndSaysSo)
{
    const Workplace w;
    const Ran r = w.run(w.train("o", 2) + Words{"--resume", "auto"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "no checkpoint in " + (w / "o"))) << r.err;
}

TEST(CliResumedMore, ADamagedNewestCheckpointIsPassedOver)
{
    const Workplace w;
    expect_done(w.run(w.train("whole", 8)));
    expect_done(w.run(w.train("o", 8) + Words{"--save-every", "2", "--stop-after", "6"}));
    EXPECT_EQ(checkpoints_of(w / "o"), (Words{"checkpoint-4", "checkpoint-6"}));
    std::filesystem::resize_file((w / "o") + "/checkpoint-6/delta.safetensors", 1000);
    const Ran r = w.run(w.train("o", 8) + Words{"--save-every", "2", "--resume", "auto"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "checkpoint-4, step 4")) << r.err;
    EXPECT_TRUE(contains(r.err, "checkpoint-6")) << r.err;
    EXPECT_EQ(trained_bytes((w / "o") + "/checkpoint-8"),
              trained_bytes((w / "whole") + "/checkpoint-8"));
    EXPECT_EQ(column(w / "o", "loss"), column(w / "whole", "loss"));
}

/* ---- seeds ---- */

TEST(CliSeed, OneSeedGivesTheSameBytes)
{
    const Workplace w;
    const Words more = {"--dropout", "0.1", "--eval-split", "0.1"};
    expect_done(w.run(w.train("a", 6) + more));
    expect_done(w.run(w.train("b", 6) + more));
    expect_done(w.run(w.train("c", 6) + more + Words{"--seed", "1"}));
    expect_done(w.run(w.train("d", 6) + more + Words{"--threads", "2"}));
    expect_done(w.run(w.train("e", 6) + more + Words{"--threads", "2"}));
    EXPECT_EQ(trained_bytes((w / "d") + "/checkpoint-6"),
              trained_bytes((w / "e") + "/checkpoint-6"));
    const std::string name = "/adapter/adapter_model.safetensors";
    EXPECT_EQ(trained_bytes((w / "a") + "/checkpoint-6"),
              trained_bytes((w / "b") + "/checkpoint-6"));
    EXPECT_EQ(read_file((w / "a") + name), read_file((w / "b") + name));
    EXPECT_EQ(column(w / "a", "loss"), column(w / "b", "loss"));
    EXPECT_EQ(column(w / "a", "grad_norm"), column(w / "b", "grad_norm"));
    EXPECT_EQ(column(w / "a", "eval_loss"), column(w / "b", "eval_loss"));
    EXPECT_NE(read_file((w / "a") + name), read_file((w / "c") + name));
    EXPECT_NE(column(w / "a", "loss"), column(w / "c", "loss"));
}

TEST(CliSeed, TheRunRecordReproducesTheRun)
{
    const Workplace w;
    expect_done(w.run(w.train("a", 6) + Words{"--dropout", "0.05", "--targets", "q_proj,v_proj",
                                              "--lr", "0.0123456789", "--eval-split", "0.1"}));
    expect_done(
        w.run({"hone-lora", "train", "--config", (w / "a") + "/run.yaml", "--out", w / "b"}));
    EXPECT_EQ(trained_bytes((w / "a") + "/checkpoint-6"),
              trained_bytes((w / "b") + "/checkpoint-6"));
    EXPECT_EQ(column(w / "a", "loss"), column(w / "b", "loss"));
    for (const char *name : {"adapter_model.safetensors", "adapter_config.json"})
        EXPECT_EQ(read_file((w / "a") + "/adapter/" + name),
                  read_file((w / "b") + "/adapter/" + name));
}

TEST(CliSeed, TheRunRecordOfARunFromAnAdapterReproducesIt)
{
    const Workplace w;
    expect_done(w.run(w.train("first", 2) + Words{"--rank", "4", "--alpha", "6"}));
    const std::string adapter = (w / "first") + "/adapter";
    expect_done(w.run(w.train("a", 4) + Words{"--adapter", adapter}));
    expect_done(w.run({"hone-lora", "train", "--config", (w / "a") + "/run.yaml", "--out", w / "b",
                       "--stop-after", "2"}));
    expect_done(w.run({"hone-lora", "train", "--config", (w / "b") + "/run.yaml", "--stop-after",
                       "0", "--resume", "auto"}));
    EXPECT_EQ(trained_bytes((w / "a") + "/checkpoint-4"),
              trained_bytes((w / "b") + "/checkpoint-4"));
    expect_done(w.run({"hone-lora", "export", "--checkpoint", w / "b", "--to", w / "x"}));
    EXPECT_EQ(read_file((w / "x") + "/adapter_model.safetensors"),
              read_file((w / "a") + "/adapter/adapter_model.safetensors"));
    EXPECT_NE(read_file((w / "x") + "/adapter_model.safetensors"),
              read_file(adapter + "/adapter_model.safetensors"));
}

TEST(CliSeed, MicroBatchesAndRecomputationDoNotChangeWhatIsLearned)
{
    const Workplace w;
    expect_done(w.run(w.train("a", 6) + Words{"--batch-size=4"}));
    expect_done(w.run(w.train("b", 6) + Words{"--batch-size=1", "--accumulation", "4"}));
    expect_done(w.run(w.train("c", 6) + Words{"--batch-size=4", "--recompute=on"}));
    const auto a = column(w / "a", "loss"), b = column(w / "b", "loss");
    ASSERT_EQ(a.size(), b.size());
    for (const auto &[step, loss] : a) /* other order of the same fp32 sums */
        EXPECT_NEAR(std::stod(loss), std::stod(b.at(step)), 1e-4) << step;
    EXPECT_EQ(column(w / "c", "loss"), a);
}

/* ---- numbers that are not finite ---- */

TEST(CliNan, DivergenceStopsWithStepAndOperation)
{
    const Workplace w;
    const Words sgd = {"--optimizer",     "sgd", "--lr",       "1000",
                       "--max-grad-norm", "0",   "--schedule", "constant"};
    const Ran r = w.run(w.train("o", 50, "hone-full") + sgd + Words{"--save-every", "1"});
    expect_refused(r, 1, {"ERR_NUMERIC", "step "});
    const auto folders = checkpoints_of(w / "o");
    ASSERT_FALSE(folders.empty());
    expect_done(w.run({"hone-full", "info", "--path", (w / "o") + "/" + folders.back()}));
}

TEST(CliNan, AWeightThatIsNotANumberIsFound)
{
    const Workplace w;
    const std::string path = (w / "model") + "/model.safetensors";
    std::string bytes = read_file(path);
    const float bad = NAN;
    /* the last values of the file belong to some weight of a layer or the head */
    std::memcpy(&bytes[bytes.size() - sizeof bad], &bad, sizeof bad);
    write_file(path, bytes);
    const Ran r = w.run(w.train("o", 4));
    expect_refused(r, 1, {"ERR_NUMERIC", "step 1", "micro-batch 0"});
    EXPECT_TRUE(checkpoints_of(w / "o").empty());
    expect_refused(w.run(w.base("eval")), 1, {"ERR_NUMERIC"});
}

/* ---- evaluation, best checkpoint, early stop ---- */

TEST(CliBest, TheBestCheckpointStaysAndIsTheResult)
{
    const int last = 120;
    const Workplace w;
    /* rates that rise until they spoil the model: held-out loss falls first, then rises */
    const Words more = {"--eval-split",   "0.2", "--eval-every", "2", "--save-every", "2",
                        "--keep",         "1",   "--lr",         "1", "--schedule",   "constant",
                        "--warmup-steps", "120"};
    const Ran r = w.run(w.train("o", last) + more);
    expect_done(r);
    const auto loss = column(w / "o", "eval_loss");
    int best = 2;
    for (const auto &[step, value] : loss)
        if (step > 0 && std::stod(value) < std::stod(loss.at(best))) best = step;
    ASSERT_LT(best, last) << "the run has no overfitting to show";
    EXPECT_EQ(checkpoints_of(w / "o").size(), 2u); /* the newest and the best */
    const std::string checkpoint = (w / "o") + "/checkpoint-" + std::to_string(best);
    ASSERT_TRUE(std::filesystem::exists(checkpoint + "/COMPLETE"));
    EXPECT_TRUE(contains(r.err, "result: step " + std::to_string(best))) << r.err;
    const Words eval = w.base("eval") + Words{"--eval-split", "0.2"};
    const Ran e = w.run(eval + Words{"--adapter", (w / "o") + "/adapter"});
    expect_done(e);
    EXPECT_NEAR(std::stod(e.out.substr(e.out.find("loss ") + 5)), std::stod(loss.at(best)), 2e-6);
    expect_done(w.run(w.train("last", last) + more + Words{"--result", "last"}));
    EXPECT_NE(read_file((w / "last") + "/adapter/adapter_model.safetensors"),
              read_file((w / "o") + "/adapter/adapter_model.safetensors"));
}

TEST(CliBest, PatienceEndsTheRunAndSaysSo)
{
    const Workplace w;
    const Words more = {"--eval-split", "0.2",  "--eval-every", "2",       "--patience", "2",
                        "--lr",         "0.05", "--schedule",   "constant"};
    const Ran r = w.run(w.train("o", 400) + more);
    expect_done(r);
    const auto loss = column(w / "o", "eval_loss");
    const int end = loss.rbegin()->first;
    EXPECT_LT(end, 400);
    EXPECT_TRUE(contains(r.err, "no better held-out loss in 2 evaluations")) << r.err;
    EXPECT_TRUE(std::filesystem::exists((w / "o") + "/adapter/adapter_config.json"));
    const Ran again = w.run(w.train("o", 400) + more + Words{"--resume", "auto"});
    expect_done(again);
    EXPECT_EQ(column(w / "o", "eval_loss").rbegin()->first, end) << "it has gone on";
}

TEST(CliBest, NothingBetterThanTheStartIsSaid)
{
    const Workplace w;
    expect_done(w.run(w.train("good", 30)));
    const Ran r = w.run(w.train("o", 4) + Words{"--adapter", (w / "good") + "/adapter", "--lr", "3",
                                                "--eval-split", "0.2"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "before training")) << r.err;
}

TEST(CliKeep, TheNewestStay)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 10) + Words{"--save-every", "2", "--keep", "3"}));
    EXPECT_EQ(checkpoints_of(w / "o"), (Words{"checkpoint-10", "checkpoint-6", "checkpoint-8"}));
}

/* ---- records ---- */

TEST(CliRecords, EventsAreWholeRecords)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 3) + Words{"--eval-split", "0.1"}));
    std::string events;
    for (const auto &[name, content] : listing(w / "o"))
        if (contains(name, "tfevents")) events += content;
    size_t at = 0;
    int n = 0;
    std::string all;
    while (at + 12 <= events.size()) {
        uint64_t length;
        uint32_t crc;
        std::memcpy(&length, &events[at], 8);
        std::memcpy(&crc, &events[at + 8], 4);
        EXPECT_EQ(crc, hn_crc32c_masked(&events[at], 8));
        ASSERT_LE(at + 16 + length, events.size());
        std::memcpy(&crc, &events[at + 12 + length], 4);
        EXPECT_EQ(crc, hn_crc32c_masked(&events[at + 12], length));
        all += events.substr(at + 12, length);
        at += 16 + length;
        n++;
    }
    EXPECT_EQ(at, events.size());
    EXPECT_EQ(n, 1 + 3 + 2); /* version, steps, evaluations */
    for (const char *tag : {"brain.Event:2", "train/loss", "train/grad_norm", "train/learning_rate",
                            "eval/loss", "perf/tokens_per_s"})
        EXPECT_TRUE(contains(all, tag)) << tag;
}

TEST(CliRecords, AnEndlessRunBegins)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 1000000000) + Words{"--stop-after", "1", "--log-every", "1"}));
}

TEST(CliRecords, JsonLinesComeOnStandardOutput)
{
    const Workplace w;
    const Ran r = w.run(w.train("o", 3) + Words{"--log-format", "json", "--eval-split", "0.1"});
    expect_done(r);
    int steps = 0, evals = 0, results = 0;
    for (const auto &line : lines_of(r.out)) {
        EXPECT_EQ(line.front(), '{') << line;
        EXPECT_EQ(line.back(), '}') << line;
        steps += contains(line, "\"loss\": ");
        evals += contains(line, "\"eval_loss\": ");
        results += contains(line, "{\"result\": \"" + (w / "o") + "/adapter\"");
    }
    EXPECT_EQ(results, 1) << r.out;
    EXPECT_EQ(steps, 3);
    EXPECT_EQ(evals, 2);
    const Ran stopped = w.run(w.train("p", 3) + Words{"--log-format", "json", "--stop-after", "2"});
    expect_done(stopped);
    EXPECT_TRUE(contains(last_line(stopped.out), "{\"stopped\": \"--stop-after\", \"step\": 2"))
        << stopped.out;
}

TEST(CliRecords, TheEndSaysWhereItIsAndHowToGoOn)
{
    const Workplace w;
    const Ran r = w.run(w.train("o", 2));
    expect_done(r);
    const auto lines = lines_of(r.out);
    ASSERT_EQ(lines.size(), 3u);
    EXPECT_TRUE(contains(lines[0], (w / "o") + "/adapter"));
    EXPECT_TRUE(contains(lines[1], "hone-lora generate --model " + (w / "model")));
    EXPECT_TRUE(contains(lines[2], "hone-lora export "));
    expect_done(w.run(words_of(lines[1].substr(lines[1].find("hone-lora")))));
    Words words = words_of(lines[2].substr(lines[2].find("hone-lora")));
    words.back() = w / "merged";
    expect_done(w.run(words));
    const Ran full = w.run(w.train("f", 2, "hone-full"));
    expect_done(full);
    const std::string line = lines_of(full.out)[1];
    expect_done(w.run(words_of(line.substr(line.find("hone-full")))));
}

TEST(CliRecords, ModelAndDataAreEnough)
{
    const Workplace w;
    const Ran r = Program({"hone-lora", "train", "--model", "model", "--data", "text.txt"}, w.str(),
                          nullptr, w.str())
                      .wait();
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "options, saved as runs/hone-lora-")) << r.err;
    std::string run;
    for (const auto &e : std::filesystem::directory_iterator(w / "runs")) run = e.path().string();
    EXPECT_TRUE(std::filesystem::exists(run + "/adapter/adapter_config.json"));
    /* what was printed is the mapping that was saved */
    const size_t begin = r.err.find("{\n"), end = r.err.find("}\n", begin);
    ASSERT_NE(end, std::string::npos);
    write_file(w / "printed.yaml", r.err.substr(begin, end + 2 - begin));
    expect_done(Program({"hone-lora", "train", "--config", "printed.yaml", "--out", "again"},
                        w.str(), nullptr, w.str())
                    .wait());
    const std::string name = "/adapter/adapter_model.safetensors";
    EXPECT_EQ(read_file((w / "again") + name), read_file(run + name));
}

TEST(CliRecords, AFolderOfFilesBringsItsHeldOutPart)
{
    const Workplace w;
    std::filesystem::create_directory(w / "data");
    write_file((w / "data") + "/train.txt", sample_text(40));
    write_file((w / "data") + "/valid.txt", sample_text(10));
    Words words = w.train("o", 2);
    words[5] = w / "data";
    expect_done(w.run(words));
    EXPECT_EQ(column(w / "o", "eval_loss").size(), 2u);
}

/* ---- the token cache ---- */

TEST(CliCache, ChangesNoNumberAndSurvivesDamage)
{
    const Workplace w;
    const Words words = {"--cache-dir", w / "cache"};
    expect_done(w.run(w.train("off", 4)));
    expect_done(w.run(w.train("made", 4) + words));
    const auto files = listing(w / "cache");
    ASSERT_FALSE(files.empty());
    expect_done(w.run(w.train("used", 4) + words));
    EXPECT_EQ(listing(w / "cache"), files);
    for (const auto &[name, content] : files)
        write_file((w / "cache") + "/" + name, content.substr(0, content.size() / 2));
    expect_done(w.run(w.train("rebuilt", 4) + words));
    EXPECT_EQ(listing(w / "cache"), files);
    for (const char *out : {"made", "used", "rebuilt"})
        EXPECT_EQ(trained_bytes((w / out) + "/checkpoint-4"),
                  trained_bytes((w / "off") + "/checkpoint-4"))
            << out;
}

/* ---- bf16 ---- */

TEST(CliBf16, FollowsF32)
{
    const Workplace w;
    for (const char *program : {"hone-lora", "hone-full"}) {
        const std::string a = std::string(program) + "-f32", b = std::string(program) + "-bf16";
        expect_done(w.run(w.train(a, 8, program) + Words{"--dtype", "f32"}));
        const Ran r = w.run(w.train(b, 8, program) + Words{"--dtype", "bf16"});
        expect_done(r);
        EXPECT_TRUE(contains(r.err, "computing in bf16")) << r.err;
        const auto f32 = column(w / a, "loss"), bf16 = column(w / b, "loss");
        ASSERT_EQ(f32.size(), bf16.size());
        for (const auto &[step, loss] : f32) /* 8 bits of mantissa in every product of 2 layers */
            EXPECT_NEAR(std::stod(bf16.at(step)), std::stod(loss), 0.03 * std::stod(loss)) << step;
        EXPECT_NE(f32, bf16);
    }
}

} // namespace
