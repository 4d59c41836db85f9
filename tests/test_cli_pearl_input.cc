/* What hone-pearl refuses, each with one clear line, and before it writes anything. */
#include "pearl_test.h"
#include "runtime/base/save.h"

namespace {

void refused(const PearlPlace &w, const Words &words, const Words &parts)
{
    expect_refused(w.run(words + w.to("none")), 2, parts);
    EXPECT_FALSE(std::filesystem::exists(w / "none")) << parts[0];
}

TEST(CliPearlInput, RefusesStreamsThatCannotBe)
{
    const PearlPlace w;
    const Words base = PearlPlace::without(w.vit(), "--increment");
    refused(w, base + Words{"--tasks", "0,1/2,9"}, {"9"});
    refused(w, base + Words{"--tasks", "0,1/1,2"}, {"'1'", "task"});
    refused(w, base + Words{"--increment", "4"}, {"6 classes are not 4"});
    refused(w, w.plain("joint") + Words{"--stop-after", "2"}, {"--stop-after:"});
}

TEST(CliPearlInput, RefusesDataThatDoNotFit)
{
    const PearlPlace w;
    const Words base = PearlPlace::without(w.vit(), "--data");
    refused(w, base + Words{"--data", w / "data3"}, {"channel"}); /* colour, the model reads grey */
    std::filesystem::remove(w / "data1/t10k-images-idx4-ubyte");
    std::filesystem::remove(w / "data1/t10k-labels-idx1-ubyte");
    refused(w, w.vit(), {"nothing is held out"});
    refused(w, base + Words{"--data", w / "nowhere"}, {"nowhere"});
    refused(w,
            PearlPlace::without(w.vit(), "--model") +
                Words{"--model", "tests/fixtures/models/llama"},
            {"a decoder"});
}

TEST(CliPearlInput, RefusesOptionsThatMeanNothing)
{
    const PearlPlace w;
    const Words r2 = {"--rank-rule", "r2"}, greedy = {"--budget", "900", "--allocator", "greedy"};
    refused(w, w.vit() + Words{"--rank", "4"}, {"--rank:", "strategy pearl"});
    refused(w, w.vit() + Words{"--eps", "0.1"}, {"--eps:", "r2 and both"});
    refused(w, w.vit() + r2 + Words{"--energy", "0.5"}, {"--energy:", "does not read it"});
    refused(w, w.vit() + greedy + Words{"--energy", "0.5"}, {"--energy:", "greedy"});
    refused(w, w.vit() + Words{"--allocator", "greedy"}, {"--allocator:", "--budget"});
    refused(w, w.vit() + Words{"--momentum", "0.5"}, {"--momentum:", "sgd"});
    refused(w, w.vit() + Words{"--lwf-weight", "1"}, {"--lwf-weight:"});
    refused(w, w.vit() + Words{"--pad", "2", "--augment", "none"}, {"--pad:"});
    refused(w, w.plain("sequential") + Words{"--ref", "first"}, {"--ref:"});
    refused(w, w.plain("sequential") + Words{"--chooser", "prototype"}, {"--chooser prototype"});
    refused(w, w.plain("lora") + Words{"--ref", "nearest"}, {"--ref nearest"});
    refused(w, w.vit() + Words{"--ref", "pretrained"}, {"--ref pretrained", "random weights"});
    refused(w, w.vit() + Words{"--layers", "conv"}, {"--layers conv"});
    refused(w, w.vit() + Words{"--chooser", "max-logit,max-logit"}, {"--chooser", "twice"});
    refused(w, w.vit() + Words{"--probe-epochs", "2"}, {"--epochs 2", "--probe-epochs"});
}

TEST(CliPearlInput, RefusesToGoOnWithAnotherRun)
{
    const PearlPlace w;
    const Words run = w.vit() + w.to("run"), on = {"--resume", "auto"};
    expect_done(w.run(run + Words{"--stop-after", "1"}));
    const auto before = listing(w / "run/task-001");
    const std::string index = read_file(w / "run/index.json");
    expect_refused(w.run(run), 2, {"holds a run", "--resume auto"});
    expect_refused(w.run(run + on + Words{"--label-smoothing", "0.1"}), 2,
                   {"index.json", "'label-smoothing: 0', now 'label-smoothing: 0.1'"});
    expect_refused(w.run(run + on + Words{"--seed", "9"}), 2, {"another base model"});
    expect_refused(w.run(run + on + Words{"--shuffle-classes"}), 2, {"another data or stream"});
    expect_refused(w.run(run + Words{"--start-from", "3"}), 2, {"--start-from 3", "records of 1"});
    expect_refused(w.run(run + Words{"--start-from", "1"}), 2, {"--start-from 1", "already"});
    expect_refused(w.run(run + Words{"--start-from", "4"}), 2, {"--start-from 4", "3 tasks"});
    expect_refused(w.run(w.vit() + Words{"--resume", w / "data1"}), 2, {"there is no run"});
    expect_refused(w.run(w.vit() + w.to("new") + Words{"--start-from", "2"}), 2,
                   {"--start-from 2"});
    EXPECT_TRUE(listing(w / "run/task-001") == before);
    EXPECT_EQ(read_file(w / "run/index.json"), index);
}

TEST(CliPearlInput, RefusesRecordsThatWereChanged)
{
    const PearlPlace w;
    const Words run = w.vit() + w.to("run");
    expect_done(w.run(run + Words{"--stop-after", "1"}));
    for (const char *file : {"delta.safetensors", "task.json", "prototypes.safetensors"}) {
        const std::string path = w.record("run", 1, file), good = read_file(path);
        std::string bad = good;
        bad[bad.size() - 9] = (char)(bad[bad.size() - 9] ^ 1);
        write_file(path, bad);
        for (const Words &words :
             {run + Words{"--resume", "auto"}, Words{"hone-pearl", "eval", "--run", w / "run"},
              Words{"hone-pearl", "report", "--run", w / "run"}})
            expect_refused(w.run(words), 2, {file, "not what the run has written"});
        write_file(path, good);
    }
    write_file(w / "run/reference/model.safetensors", "x");
    expect_refused(w.run(run + Words{"--resume", "auto"}), 2, {"reference/model.safetensors"});
}

/* A network that does not give the logits it was recorded with is a failure, not a number. */
TEST(CliPearlInput, NamesATaskThatIsForgotten)
{
    const PearlPlace w;
    const Words run = w.vit() + w.to("run");
    char then[HN_SHA256_HEX], now[HN_SHA256_HEX];
    const std::string record = w.record("run", 1, "task.json");
    expect_done(w.run(run + Words{"--stop-after", "1"}));
    const std::string digest = Json(record).text("logits_sha256.0");
    ASSERT_HN_OK(hn_sha256_file(record.c_str(), nullptr, then));
    replace_in_file(record, digest, std::string(64, '0'));
    ASSERT_HN_OK(hn_sha256_file(record.c_str(), nullptr, now));
    replace_in_file(w / "run/index.json", then, now);
    const Ran eval = w.run({"hone-pearl", "eval", "--run", w / "run"});
    expect_done(eval);
    EXPECT_TRUE(contains(eval.out, "0 of 1 tasks have the logits")) << eval.out;
    expect_refused(w.run(run + Words{"--resume", "auto"}), 1,
                   {"task 1: its logits after task 2", digest});
    EXPECT_FALSE(std::filesystem::exists(w / "run/task-002"));
}

/* Killed between a record and the index: the record counts. */
TEST(CliPearlInput, TakesUpARecordThatTheIndexDoesNotHave)
{
    const PearlPlace w;
    const Words run = w.vit() + w.to("run");
    expect_done(w.run(run + Words{"--stop-after", "1"}));
    const std::string index = read_file(w / "run/index.json");
    expect_done(w.run(run + Words{"--resume", "auto", "--stop-after", "2"}));
    const std::string record = read_file(w.record("run", 2, "delta.safetensors"));
    write_file(w / "run/index.json", index);
    expect_done(w.run(run + Words{"--resume", "auto"}));
    EXPECT_TRUE(read_file(w.record("run", 2, "delta.safetensors")) == record);
    EXPECT_EQ(Json(w / "run/result.json").number("after_task"), 3);
}

TEST(CliPearlInput, CheckShowsLayersAndMemory)
{
    const PearlPlace w;
    const Ran r = w.run(w.vit("check"));
    expect_done(r);
    EXPECT_TRUE(contains(r.out, "12 layers, 416 parameters per unit rank")) << r.out;
    EXPECT_TRUE(contains(r.out, "largest phase (dense)")) << r.out;
    EXPECT_TRUE(contains(r.err, "3 tasks, 6 classes")) << r.err;
    expect_refused(
        w.run({"hone-pearl", "export", "--run", w / "nowhere", "--task", "1", "--to", w / "x"}), 2,
        {"nowhere"});
    EXPECT_EQ(w.run({"hone-pearl", "trian"}).code, 2);
}

} // namespace
