/* eval on several ranks, as processes on the CPU or on GPUs: the values of one rank, with a base
 * that is shared, too; ranks that die, signals, ranks that were told other things; what is refused,
 * by the verbs that are one process as well. */
#include <cinttypes>

#include "cli_ranks_test.h"
#include "cli_run_test.h"

namespace {

const Words shared = {"--shard-base"};

/* Values 4 bytes each, of a tensor in the model's file. */
void change(const Workplace &w, const char *tensor, const std::function<void(float *, size_t)> &how)
{
    const std::string path = (w / "model") + "/model.safetensors";
    std::string bytes = read_file(path);
    uint64_t header, first, end;
    std::memcpy(&header, bytes.data(), sizeof header);
    const size_t at = bytes.find("offsets\":[", bytes.find(tensor));
    ASSERT_NE(at, std::string::npos);
    ASSERT_EQ(std::sscanf(&bytes[at + 10], "%" SCNu64 ",%" SCNu64, &first, &end), 2);
    std::vector<float> v((end - first) / sizeof(float));
    std::memcpy(v.data(), &bytes[8 + header + first], end - first);
    how(v.data(), v.size());
    std::memcpy(&bytes[8 + header + first], v.data(), end - first);
    write_file(path, bytes);
}

/* A model that is so sure of itself, and so wrong, that its perplexity shows every bit of the loss.
 */
void make_sure(const Workplace &w)
{
    change(w, "model.norm.weight", [](float *v, size_t n) {
        for (size_t i = 0; i < n; i++) v[i] *= 16;
    });
}

/* What it prints, which is one line. */
std::string value_of(const Ran &r)
{
    expect_done(r);
    EXPECT_EQ(lines_of(r.out).size(), 1u) << r.out;
    EXPECT_TRUE(contains(r.out, "loss ")) << r.out;
    return r.out;
}

void expect_all_bits(const std::string &value)
{
    const size_t at = value.find("perplexity ");
    ASSERT_NE(at, std::string::npos) << value;
    EXPECT_GT(std::stod(value.substr(at + 11)), 1e14) << value;
}

/* The last round of batches is not everybody's, and of few batches some ranks have none. */
TEST(CliEvalRanks, GiveTheValueOfOne)
{
    const Workplace w;
    make_sure(w);
    for (const char *dtype : {"f32", "bf16"})
        for (const char *rows : {"2", "40"}) {
            const Words words = w.base("eval") + Words{"--dtype", dtype, "--batch-size", rows};
            const std::string one = value_of(w.run(words + ranks(1)));
            expect_all_bits(one);
            for (const int n : {2, 3, 4}) {
                if (!enough(n)) continue;
                const Ran r = w.run(words + ranks(n));
                EXPECT_EQ(value_of(r), one) << n;
                const std::string all = std::to_string(n) + " ranks, one process each: rank 0 of ";
                EXPECT_EQ(r.err.rfind(all, 0), 0u) << "not the first line: " << r.err;
                EXPECT_FALSE(contains(r.err, "rank 1")) << r.err;
            }
        }
}

TEST(CliEvalRanks, GiveItWithASharedBaseAndAnAdapter)
{
    const Workplace w;
    make_sure(w);
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    expect_done(w.run(w.train("o", 3) + Words{"--result", "last"} + ranks(1)));
    const Words adapter = {"--adapter", (w / "o") + "/adapter"};
    std::set<std::string> values;
    for (const char *dtype : {"f32", "bf16"})
        for (const Words &more : {Words{}, adapter}) {
            const Words words = w.base("eval") + Words{"--dtype", dtype} + more;
            const std::string one = value_of(w.run(words + ranks(1)));
            values.insert(one);
            for (const int n : {2, 3}) {
                if (!enough(n)) continue;
                const Ran r = w.run(words + ranks(n) + shared);
                EXPECT_EQ(value_of(r), one) << n;
                EXPECT_EQ(value_of(w.run(words + ranks(n))), one) << n;
                const std::string text = "frozen weights in " + std::to_string(n) + " shares";
                EXPECT_TRUE(contains(r.err, text)) << r.err;
            }
        }
    EXPECT_EQ(values.size(), 4u) << "types or adapter make no difference";
}

/* What train with a shared base has held out, eval finds again. */
TEST(CliEvalRanks, GiveTheHeldOutLossOfTheRun)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    const Words split = {"--eval-split", "0.2"};
    const Words run = w.train("o", 4) + split + ranks(2) + shared + Words{"--result", "last"};
    expect_done(w.run(run + Words{"--log-every", "1"}));
    const double want = std::stod(column(w / "o", "eval_loss").at(4));
    const std::string got = value_of(w.run(w.base("eval") + split + ranks(2) + shared +
                                           Words{"--adapter", (w / "o") + "/adapter"}));
    /* six digits are printed; on GPUs a plan without training may have other products */
    EXPECT_NEAR(std::stod(got.substr(5)), want, on_gpus() ? 1e-4 : 1e-6);
}

/* Running values of batch norms are the same on all ranks: their mean is exact. */
TEST(CliEvalRanks, ImageClassifiersWholeModelsAndPacks)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    write_image_set(w / "set");
    const Words images = {"--data", w / "set", "--batch-size", "2", "--image-size", "16"};
    expect_done(w.run(Words{"hone-full", "train", "--model", "resnet20", "--steps", "4", "--lr",
                            "1e-2", "--out", w / "r", "--result", "last"} +
                      images + ranks(1)));
    const Words eval = {"hone-full", "eval", "--model", (w / "r") + "/model", "--eval-data", "val"};
    const std::string one = value_of(w.run(eval + images + ranks(1)));
    EXPECT_TRUE(contains(one, "images 10 ")) << one;
    for (const int n : {2, 3})
        if (enough(n)) {
            EXPECT_EQ(value_of(w.run(eval + images + ranks(n))), one) << n;
        }
    make_sure(w);
    const Words full = w.base("eval", "hone-full"), sparse = w.base("eval", "hone-sparse");
    EXPECT_EQ(value_of(w.run(full + ranks(2))), value_of(w.run(full + ranks(1))));
    expect_done(w.run(w.train("s", 3, "hone-sparse") + Words{"--block", "4x4", "--budget", "25%"} +
                      Words{"--select-batches", "2", "--result", "last"} + ranks(1)));
    const Words pack = {"--adapter", (w / "s") + "/delta"};
    const std::string packed = value_of(w.run(sparse + pack + ranks(1)));
    EXPECT_EQ(value_of(w.run(sparse + pack + ranks(2))), packed);
    EXPECT_NE(value_of(w.run(sparse + ranks(2))), packed);
}

/* The first rank tokenises, the others read what it has left. */
TEST(CliEvalRanks, LeaveNothingButTheTokenCache)
{
    const Workplace w;
    const auto before = listing(w.str());
    const Words words = w.base("eval") + ranks(enough(2) ? 2 : 1);
    value_of(w.run(words));
    EXPECT_EQ(listing(w.str()), before);
    value_of(w.run(words + Words{"--cache-dir", w / "cache"}));
    for (const auto &[name, content] : listing(w.str()))
        EXPECT_TRUE(before.count(name) || (contains(name, "cache") && !contains(name, ".tmp")))
            << name;
}

/* Seconds of work. */
Words long_run(const Workplace &w)
{
    write_file(w / "text.txt", sample_text(120000));
    return w.base("eval") + Words{"--batch-size", "1"};
}

class CliEvalRanksEnd : public testing::TestWithParam<bool> {};

/* A rank that is killed is named by the others, which leave; rank 0, too. */
TEST_P(CliEvalRanksEnd, WhoIsKilledIsNamed)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    const Words words = long_run(w) + ranks(2) + (GetParam() ? shared : Words{});
    const char *phase = on_gpus() ? "died in phase '" : "died in phase 'evaluate'";
    for (const size_t victim : {0u, 1u}) {
        bool named = false;
        /* a beat says where a rank is; while none has come, where it was */
        for (int ms = 1500; ms <= 12000 && !named; ms *= 2) {
            Program p(words, w.str());
            ASSERT_TRUE(p.says("  total "));
            const std::vector<pid_t> all = children_of(p.pid());
            ASSERT_EQ(all.size(), 2u);
            std::this_thread::sleep_for(std::chrono::milliseconds(ms));
            ASSERT_EQ(kill(all[victim], SIGKILL), 0);
            const Ran &r = p.wait();
            EXPECT_EQ(r.code, 1) << r.err;
            EXPECT_EQ(r.out, "");
            const std::string name = "rank " + std::to_string(victim) + " on ";
            EXPECT_TRUE(contains(r.err, name)) << r.err;
            named = contains(r.err, phase); /* GPUs may still be getting ready */
        }
        EXPECT_TRUE(named) << "of no run in the evaluation";
    }
}

TEST_P(CliEvalRanksEnd, ASignalEndsAll)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    const Words words = long_run(w) + ranks(2) + (GetParam() ? shared : Words{});
    Program p(words, w.str());
    ASSERT_TRUE(p.says("  total "));
    const std::vector<pid_t> all = children_of(p.pid());
    ASSERT_EQ(all.size(), 2u);
    p.kill(SIGTERM);
    const Ran &r = p.wait();
    EXPECT_EQ(r.code, 128 + SIGTERM) << r.err;
    EXPECT_EQ(r.out, "");
    for (const pid_t pid : all) EXPECT_NE(kill(pid, 0), 0) << pid;
}

INSTANTIATE_TEST_SUITE_P(Shared, CliEvalRanksEnd, testing::Bool());

/* Only rank 0 says it. */
TEST(CliEvalRanks, ALossThatIsNoNumber)
{
    const Workplace w;
    change(w, "lm_head.weight", [](float *v, size_t) { v[40] = NAN; });
    const Ran r = w.run(w.base("eval") + ranks(enough(2) ? 2 : 1));
    EXPECT_EQ(r.code, 1) << r.err;
    EXPECT_EQ(r.out, "");
    int said = 0;
    for (const auto &line : lines_of(r.err))
        said += contains(line, "hone-lora eval: ") && contains(line, "the held-out loss is nan");
    EXPECT_EQ(said, 1) << r.err;
}

/* ---- ranks of a launcher ---- */

TEST(CliEvalRanks, ALauncherMayStartThem)
{
    const Workplace w;
    make_sure(w);
    const int port = free_port();
    const Words words = w.base("eval") + Words{"--device", on_gpus() ? "cuda" : "cpu"} + shared;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    const auto zero = rank_of(0, 2, port, words, w), one = rank_of(1, 2, port, words, w);
    expect_done(one->wait());
    EXPECT_EQ(one->wait().out, "");
    EXPECT_EQ(value_of(zero->wait()), value_of(w.run(w.base("eval") + ranks(1))));
}

TEST(CliEvalRanks, WhoWasToldOtherThingsIsFoundOut)
{
    const Workplace w;
    write_file(w / "other.txt", sample_text(30));
    expect_done(w.run(w.train("o", 2) + ranks(1)));
    const std::string adapter = (w / "o") + "/adapter", other = w / "other";
    std::filesystem::copy(adapter, other);
    replace_in_file(other + "/adapter_config.json", "\"lora_alpha\": 32", "\"lora_alpha\": 16");
    std::filesystem::copy(w / "model", w / "sure");
    make_sure(w);
    const Words base = {"--device", "cpu", "--adapter", adapter};
    const std::pair<std::string, Words> all[] = {{"--shard-base", shared},
                                                 {"options", {"--batch-size", "3"}},
                                                 {"options", {"--eval-split", "0.3"}},
                                                 {"--dtype", {"--dtype", "bf16"}},
                                                 {"data", {"--data", w / "other.txt"}},
                                                 {"model", {"--model", w / "sure"}},
                                                 {"adapter", {"--adapter", other}}};
    for (const auto &[what, more] : all) {
        const int port = free_port();
        const auto zero = rank_of(0, 2, port, w.base("eval") + base, w);
        const auto one = rank_of(1, 2, port, w.base("eval") + base + more, w);
        const Ran &a = zero->wait(), &b = one->wait();
        EXPECT_EQ(a.code, 2) << a.err;
        EXPECT_TRUE(contains(a.err, "has other " + what + " than rank 0")) << a.err;
        EXPECT_NE(b.code, 0) << what;
        EXPECT_EQ(a.out + b.out, "");
    }
}

/* ---- what is refused ---- */

TEST(CliEvalRanks, RefuseWhatHasNoMeaning)
{
    const Workplace w;
    const auto refused = [&](const Words &words, const char *why) {
        const Ran r = w.run(words);
        EXPECT_EQ(r.code, 2) << r.err;
        EXPECT_EQ(r.out, "");
        EXPECT_TRUE(contains(r.err, why)) << r.err;
    };
    const Words cpu = {"--device", "cpu"}, two = cpu + Words{"--ranks", "2"};
    const Words eval = w.base("eval");
    refused(eval + cpu + shared, "--shard-base: there is one rank, nobody to share with");
    refused(w.base("eval", "hone-full") + cpu + shared, "--shard-base: of hone-lora");
    refused(w.base("eval", "hone-sparse") + two + shared, "--shard-base: a delta pack");
    refused(eval + cpu + Words{"--gpus", "2"}, "on the CPU it is --ranks N");
    refused(eval + Words{"--device", "cuda", "--ranks", "2"}, "on GPUs it is --gpus N");
    refused(eval + two + Words{"--zero", "1"}, "no option is called 'zero'");
    write_image_set(w / "set");
    refused({"hone-lora", "eval", "--model", "resnet20", "--data", w / "set", "--device", "cpu",
             "--ranks", "2", "--image-size", "16", "--shard-base"},
            "--shard-base: of decoders, but model resnet20 is an image classifier");
    expect_done(w.run(w.train("d", 2) + cpu + Words{"--dora"}));
    refused(eval + two + shared + Words{"--adapter", (w / "d") + "/adapter"},
            "with DoRA's magnitudes cannot be shared by ranks");
}

/* One line each, before anything is read. */
TEST(CliEvalRanks, VerbsOfOneProcessSayThatTheyAre)
{
    const Workplace w;
    const Words model = {"--model", w / "model"};
    const std::pair<std::string, Words> verbs[] = {
        {"generate", model},
        {"predict", model + Words{"--images", w / "none.png"}},
        {"tune", model},
        {"export", {"--checkpoint", w / "none", "--to", w / "to"}}};
    for (const auto &[verb, words] : verbs)
        for (const Words &more :
             {Words{"--gpus", "2"}, Words{"--gpus=2"}, Words{"--ranks", "2"}, shared}) {
            const Ran r = w.run(Words{"hone-lora", verb} + words + more);
            expect_refused(r, 2, {"ERR_ARG: --", ": " + verb + " is one process on one device"});
            EXPECT_EQ(lines_of(r.err).size(), 1u) << r.err;
            EXPECT_EQ(r.out, "");
        }
    const Ran r = w.run(Words{"hone-lora", "generate", "--max-new-tokens", "2", "--device", "cpu",
                              "--prompt", "ranks=2"} +
                        model);
    expect_done(r); /* that is a text */
}

/* A result of ranks none of which could hold the base goes through the host's memory. */
TEST(CliEvalRanks, ExportOnTheCpuWhatASharedBaseHasTrained)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    expect_done(w.run(w.train("o", 4) + ranks(2) + shared + Words{"--result", "last"}));
    const Words cpu = {"--device", "cpu"};
    const Words words = {"hone-lora", "export", "--checkpoint", w / "o"};
    expect_done(w.run(words + cpu + Words{"--to", w / "peft"}));
    expect_done(w.run(words + cpu + Words{"--to", w / "merged", "--kind", "merged"}));
    EXPECT_EQ(read_file((w / "peft") + "/adapter_model.safetensors"),
              read_file((w / "o") + "/adapter/adapter_model.safetensors"));
    const auto loss = [&](const Words &more) {
        return std::stod(value_of(w.run(w.base("eval") + more)).substr(5));
    };
    const double adapter = loss(cpu + Words{"--adapter", w / "peft"});
    EXPECT_LT(adapter, loss(cpu) - 0.01);
    EXPECT_NEAR(loss(cpu + Words{"--model", w / "merged"}), adapter, 1e-4);
}

} // namespace
