/* hone-full --zero 1: the run of whole optimizer state, bit for bit on the CPU; checkpoints of
 * shares, which any number of ranks goes on from; runs that are killed; what is refused. */
#include <random>

#include "cli_ranks_test.h"
#include "cli_run_test.h"
#include "file_limit.h"

namespace {

const Words zero = {"--zero", "1"}, any = {"--resume-device", "any"};

Words full(const Workplace &w, const std::string &out, int steps)
{
    return w.train(out, steps, "hone-full") + Words{"--lr", "1e-3", "--weight-decay", "0.1"};
}

std::string result_of(const std::string &out)
{
    const std::string bytes = read_file(out + "/model/model.safetensors");
    EXPECT_GT(bytes.size(), 1000u) << out;
    return bytes;
}

/* Every file with numbers of a checkpoint. */
std::map<std::string, std::string> shares_of(const std::string &checkpoint)
{
    std::map<std::string, std::string> files;
    for (const auto &e : std::filesystem::directory_iterator(checkpoint)) {
        const std::string name = e.path().filename().string();
        if (contains(name, ".safetensors")) files[name] = read_file(e.path().string());
    }
    return files;
}

/* On GPUs NCCL adds shares in an order of its own. */
void expect_run(const std::string &got, const std::string &want)
{
    for (const char *name : {"loss", "grad_norm"}) {
        const auto a = column(got, name), b = column(want, name);
        ASSERT_EQ(a.size(), b.size());
        for (const auto &[step, value] : a) {
            if (!on_gpus()) {
                EXPECT_EQ(value, b.at(step)) << name << " of step " << step;
            }
            EXPECT_NEAR(std::stod(value), std::stod(b.at(step)), 5e-3 * std::stod(value)) << step;
        }
    }
    if (!on_gpus()) {
        EXPECT_TRUE(result_of(got) == result_of(want)) << got;
    }
}

TEST(CliZero, IsTheRunOfWholeState)
{
    const Workplace w;
    for (const char *dtype : {"f32", "bf16"})
        for (const int n : {2, 4}) {
            if (!enough(n)) continue;
            const std::string name = dtype + std::to_string(n);
            const Words how = ranks(n) + Words{"--dtype",      dtype, "--eval-split",   "0.2",
                                               "--eval-every", "2",   "--accumulation", "2"};
            expect_done(w.run(full(w, name, 6) + how));
            const Ran r = w.run(full(w, name + "z", 6) + how + zero);
            expect_done(r);
            const std::string text = "optimizer in " + std::to_string(n) + " shares, one a rank";
            EXPECT_TRUE(contains(r.err, text)) << r.err;
            expect_run(w / (name + "z"), w / name);
            const auto files = shares_of((w / (name + "z")) + "/checkpoint-6");
            EXPECT_EQ(files.size(), 1u + (size_t)n);
            const std::string folder = (w / (name + "z")) + "/checkpoint-6";
            expect_done(w.run({"hone-full", "info", "--path", folder}));
            expect_done(w.run({"hone-full", "export", "--model", w / "model", "--checkpoint",
                               folder, "--to", w / (name + "x")}));
            EXPECT_TRUE(read_file((w / (name + "x")) + "/model.safetensors") ==
                        result_of(w / (name + "z")));
        }
}

/* The best checkpoint, which is not the last one, is the result. */
TEST(CliZero, TheBestIsTheResult)
{
    const Workplace w;
    const Words how =
        ranks(2) + Words{"--dtype",      "bf16", "--eval-split", "0.3", "--lr",       "3e-2",
                         "--eval-every", "2",    "--keep",       "1",   "--schedule", "constant"};
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    expect_done(w.run(full(w, "whole", 10) + how));
    const Ran r = w.run(full(w, "zero", 10) + how + zero);
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "the best of the run")) << r.err;
    expect_run(w / "zero", w / "whole");
}

TEST(CliZero, GoesOnBitForBitWithItAndWithout)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    for (const char *dtype : {"f32", "bf16"}) {
        const std::string d = dtype;
        const Words how = ranks(2) + Words{"--dtype", dtype};
        const Words half = {"--stop-after", "3"}, on = {"--resume", "auto", "--stop-after", "0"};
        expect_done(w.run(full(w, d + "whole", 6) + how));
        expect_done(w.run(full(w, d + "zero", 6) + how + zero));
        expect_done(w.run(full(w, d + "parts", 6) + how + zero + half));
        expect_done(w.run(full(w, d + "parts", 6) + how + zero + on));
        EXPECT_TRUE(shares_of((w / (d + "parts")) + "/checkpoint-6") ==
                    shares_of((w / (d + "zero")) + "/checkpoint-6"));
        expect_run(w / (d + "parts"), w / (d + "zero"));
        const Words also = on_gpus() ? any : Words{};
        expect_done(w.run(full(w, d + "on-off", 6) + how + zero + half));
        expect_done(w.run(full(w, d + "on-off", 6) + how + on + also));
        expect_done(w.run(full(w, d + "off-on", 6) + how + half));
        expect_done(w.run(full(w, d + "off-on", 6) + how + zero + on + also));
        expect_run(w / (d + "on-off"), w / (d + "whole"));
        expect_run(w / (d + "off-on"), w / (d + "whole"));
    }
}

/* 2, 4, 3, 1 ranks one behind the other, against the same with whole state. */
TEST(CliZero, GoesOnOnOtherRanks)
{
    const Workplace w;
    if (!enough(4)) GTEST_SKIP() << "fewer than 4 GPUs";
    for (const char *dtype : {"f32", "bf16"}) {
        const std::string z = std::string(dtype) + "zero", o = std::string(dtype) + "whole";
        int stop = 2;
        for (const int n : {2, 4, 3, 1}) {
            Words how = ranks(n) + Words{"--dtype", dtype, "--stop-after", std::to_string(stop)};
            const Words on = n > 1 ? zero : Words{};
            if (n != 2) {
                how = how + Words{"--resume", "auto"};
                const Ran r = w.run(full(w, z, 8) + how + on);
                EXPECT_EQ(r.code, 2) << r.err;
                EXPECT_TRUE(contains(r.err, "--resume-device any")) << r.err;
                how = how + any;
            }
            expect_done(w.run(full(w, z, 8) + how + on));
            expect_done(w.run(full(w, o, 8) + how));
            stop += 2;
        }
        expect_run(w / z, w / o);
    }
}

/* Convolutions are stored in another order than files have them; batch norm has buffers. */
TEST(CliZero, ImageClassifiers)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    write_image_set(w / "set");
    const Words run = {"hone-full",    "train",   "--model",      "resnet20",
                       "--data",       w / "set", "--batch-size", "4",
                       "--steps",      "6",       "--lr",         "1e-2",
                       "--image-size", "16",      "--eval-every", "2",
                       "--optimizer",  "sgd",     "--result",     "last"};
    for (const char *dtype : {"f32", "bf16"}) {
        const std::string d = dtype;
        const Words how = run + ranks(2) + Words{"--dtype", dtype};
        expect_done(w.run(how + Words{"--out", w / (d + "a")}));
        const Words b = how + zero + Words{"--out", w / (d + "b")};
        expect_done(w.run(b + Words{"--stop-after", "4"})); /* where buffers become their mean */
        expect_done(w.run(b + Words{"--resume", "auto"}));
        expect_run(w / (d + "b"), w / (d + "a"));
        const Words also = on_gpus() ? any : Words{};
        const Words c = how + Words{"--out", w / (d + "c")};
        expect_done(w.run(c + Words{"--stop-after", "4"}));
        expect_done(w.run(c + zero + also + Words{"--resume", "auto"}));
        expect_run(w / (d + "c"), w / (d + "a"));
    }
}

/* A model of random weights beside the fixture's tokenizer; its config.json. */
std::string config_beside_tokenizer(const Workplace &w, const std::string &text)
{
    std::filesystem::create_directory(w / "own");
    for (const char *name : {"tokenizer.json", "tokenizer_config.json"})
        std::filesystem::copy((w / "model/") + name, (w / "own/") + name);
    write_file(w / "own/config.json", text);
    return w / "own/config.json";
}

/* GPT-2's matrices are transposed in files. */
TEST(CliZero, TransposedFiles)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    const std::string model = config_beside_tokenizer(
        w, R"({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 64,
               "n_positions": 64, "n_embd": 36, "n_layer": 2, "n_head": 3,
               "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "resid_pdrop": 0,
               "embd_pdrop": 0, "attn_pdrop": 0, "bos_token_id": 1, "eos_token_id": 2})");
    const Words how = ranks(2) + Words{"--model", model, "--dtype", "bf16"};
    expect_done(w.run(full(w, "whole", 6) + how));
    expect_done(w.run(full(w, "zero", 6) + how + zero + Words{"--stop-after", "3"}));
    expect_done(w.run(full(w, "zero", 6) + how + zero + Words{"--resume", "auto"}));
    expect_run(w / "zero", w / "whole");
    const Words also = on_gpus() ? any : Words{};
    expect_done(w.run(full(w, "then", 6) + how + Words{"--stop-after", "3"}));
    expect_done(w.run(full(w, "then", 6) + how + zero + also + Words{"--resume", "auto"}));
    expect_run(w / "then", w / "whole");
}

/* ---- what goes wrong ---- */

bool saving(const std::string &out)
{
    std::error_code none;
    for (const auto &e : std::filesystem::directory_iterator(out, none))
        if (contains(e.path().filename().string(), ".checkpoint-")) return true;
    return false;
}

class CliZeroKilled : public testing::TestWithParam<int> {};

/* A rank that is killed while shares are written: what is complete goes on, bit for bit. */
TEST_P(CliZeroKilled, WhileSavingGoesOnBitForBit)
{
    const int n = GetParam(), last = 10;
    const Workplace w;
    if (!enough(n)) GTEST_SKIP() << "fewer than " << n << " GPUs";
    const std::string model =
        config_beside_tokenizer(/* whose shares take a while to write */
                                w,
                                R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64,
               "hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 4,
               "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64,
               "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
               "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2})");
    const Words how =
        ranks(n) + zero + Words{"--model", model, "--save-every", "1", "--log-every", "1"};
    expect_done(w.run(full(w, "whole", last) + how));
    std::mt19937 random((unsigned)n);
    int left = 0;
    for (int k = 0; k < 4; k++) {
        const std::string out = "o" + std::to_string(k);
        const std::string step = "step " + std::to_string(1 + random() % 7) + "/";
        const int victim = k % n;
        Program p(full(w, out, last) + how, w.str());
        ASSERT_TRUE(p.says(step));
        const std::vector<pid_t> all = children_of(p.pid());
        ASSERT_EQ(all.size(), (size_t)n);
        for (int i = 0; i < 100000 && !saving(w / out); i++) {
        }
        ASSERT_EQ(kill(all[(size_t)victim], SIGKILL), 0);
        const Ran &r = p.wait();
        EXPECT_EQ(r.code, 1) << r.err;
        EXPECT_TRUE(contains(r.err, "rank " + std::to_string(victim) + " on ")) << r.err;
        left += saving(w / out); /* nobody else takes away what rank 0 has begun */
        expect_done(w.run(full(w, out, last) + how + Words{"--resume", "auto"}));
        EXPECT_FALSE(saving(w / out)) << "what the killed run has left is removed";
        EXPECT_TRUE(shares_of((w / out) + "/checkpoint-10") ==
                    shares_of((w / "whole") + "/checkpoint-10"));
        EXPECT_EQ(column(w / out, "loss"), column(w / "whole", "loss"));
    }
    EXPECT_GT(left, 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, CliZeroKilled, testing::Values(2, 4));

TEST(CliZero, ADiskThatIsFullEndsAll)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    Ran r;
    {
        const FileSizeLimit limit(40000);
        r = w.run(full(w, "o", 2) + ranks(2) + zero);
    }
    EXPECT_NE(r.code, 0) << r.err;
    int named = 0; /* the other rank may fail on the folder that this one has taken away */
    for (const auto &line : lines_of(r.err))
        named += contains(line, "File too large") && line.compare(0, 5, "rank ") == 0;
    EXPECT_GE(named, 1) << r.err;
    EXPECT_TRUE(checkpoints_of(w / "o").empty());
}

TEST(CliZero, SharesThatDoNotBelongAreNamed)
{
    namespace fs = std::filesystem;
    const Workplace w;
    const Words cpu = {"--device", "cpu", "--ranks", "2"};
    expect_done(w.run(full(w, "a", 4) + cpu + zero + Words{"--stop-after", "2"}));
    expect_done(w.run(full(w, "a2", 4) + cpu + zero + Words{"--stop-after", "1"}));
    expect_done(w.run(full(w, "b", 4) + cpu + zero + Words{"--stop-after", "2", "--seed", "9"}));
    expect_done(w.run(full(w, "c", 4) +
                      Words{"--device", "cpu", "--ranks", "3", "--stop-after", "2"} + zero));
    const std::string zeroth = "/optimizer-0.safetensors", first = "/optimizer-1.safetensors";
    const auto refused = [&](const std::function<void(const std::string &)> &damage, bool again,
                             const Words &why) {
        const std::string folder = w / "damaged/checkpoint-2";
        fs::remove_all(w / "damaged");
        fs::create_directory(w / "damaged");
        fs::copy((w / "a/") + "checkpoint-2", folder);
        damage(folder);
        if (again) complete_again(folder, 2);
        for (const Words &words :
             {full(w, "on", 4) + cpu + zero + Words{"--resume", folder},
              full(w, "on", 4) + Words{"--device", "cpu", "--resume", folder} + any,
              Words{"hone-full", "export", "--model", w / "model", "--checkpoint", folder, "--to",
                    w / "x", "--device", "cpu"}}) {
            const Ran r = w.run(words);
            EXPECT_EQ(r.code, 2) << r.err;
            for (const std::string &part : why) EXPECT_TRUE(contains(r.err, part)) << r.err;
            EXPECT_FALSE(fs::exists(w / "x"));
            EXPECT_FALSE(fs::exists(w / "on/checkpoint-4"));
        }
    };
    const auto from = [&](const std::string &other, const std::string &name) {
        return [&w, other, name](const std::string &folder) {
            fs::copy((w / other) + name, folder + name, fs::copy_options::overwrite_existing);
        };
    };
    refused([&](const std::string &f) { fs::remove(f + first); }, false,
            {"optimizer-1.safetensors: listed in COMPLETE, but missing"});
    refused([&](const std::string &f) { fs::remove(f + first); }, true,
            {"optimizer-1.safetensors"});
    refused([&](const std::string &f) { fs::resize_file(f + first, 5000); }, false,
            {"optimizer-1.safetensors: 5000 bytes"});
    refused([&](const std::string &f) { fs::resize_file(f + first, 5000); }, true,
            {"optimizer-1.safetensors"});
    refused(from("b/checkpoint-2", first), false, {"SHA-256"});
    refused(from("b/checkpoint-2", first), true,
            {"optimizer-1.safetensors: a share of another run"});
    refused(from("a2/checkpoint-1", first), true,
            {"optimizer-1.safetensors: a share of step 1, the others are of 2"});
    refused(from("c/checkpoint-2", first), true,
            {"optimizer-1.safetensors: it is share 1 of 3, here belongs share 1 of 2"});
    refused(
        [&](const std::string &f) {
            fs::rename(f + zeroth, f + "/spare");
            fs::rename(f + first, f + zeroth);
            fs::rename(f + "/spare", f + first);
        },
        true, {"optimizer-0.safetensors: it is share 1 of 2, here belongs share 0 of 2"});
    refused(
        [&](const std::string &f) { /* the place of a part: where a number was, another one */
                                    std::string bytes = read_file(f + first);
                                    const size_t at = bytes.find("lm_head.weight\\\":");
                                    ASSERT_NE(at, std::string::npos);
                                    char &digit = bytes[at + std::strlen("lm_head.weight\\\":")];
                                    digit = digit == '1' ? '2' : '1';
                                    write_file(f + first, bytes);
        },
        true, {"optimizer-1.safetensors: values ", " of lm_head.weight, those from "});
    refused(from("c/checkpoint-2", "/delta.safetensors"), true, {"it is share 0 of 2"});
}

TEST(CliZero, PlansAndRefuses)
{
    const Workplace w;
    const Words cpu = {"--device", "cpu", "--ranks", "2"}, one = {"--device", "cpu"};
    const Words sizes = {"--model", w / "model", "--seq-len", "16", "--batch-size", "2"};
    for (const Words &words : {cpu, Words{"--gpus", "8"}}) {
        const Ran plan = w.run(Words{"hone-full", "plan"} + sizes + words + zero);
        expect_done(plan);
        const std::string n = words.back();
        EXPECT_TRUE(contains(plan.out, "optimizer in " + n + " shares, one a rank (ZeRO-1): "))
            << plan.out;
        EXPECT_FALSE(contains(plan.out, "--zero 1")) << plan.out;
    }
    const Ran hint = w.run(Words{"hone-full", "plan"} + sizes + cpu);
    EXPECT_TRUE(contains(hint.out, ", --zero 1")) << hint.out;
    const Ran check = w.run(w.base("check", "hone-full") + cpu + zero);
    expect_done(check);
    EXPECT_TRUE(contains(check.err, "optimizer in 2 shares")) << check.err;
    const auto refused = [&](const Words &words, const char *why) {
        const Ran r = w.run(words);
        EXPECT_EQ(r.code, 2) << r.err;
        EXPECT_TRUE(contains(r.err, why)) << r.err;
    };
    refused(full(w, "o", 3) + one + zero, "--zero 1: there is one rank");
    refused(Words{"hone-full", "plan"} + sizes + one + zero, "--zero 1: there is one rank");
    refused(full(w, "o", 3) + cpu + Words{"--zero", "2"}, "--zero");
    refused(w.train("o", 3) + cpu + zero, "--zero 1: of hone-full; what hone-lora trains");
    refused(w.train("o", 3, "hone-sparse") + cpu + zero, "what hone-sparse trains is small");
    refused(Words{"hone-pearl", "train", "--model", "resnet20", "--data", w / "none"} + zero,
            "--zero");
    refused(Words{"hone-fedref", "train", "--model", "resnet20", "--data", w / "none"} + zero,
            "--zero");
    EXPECT_FALSE(std::filesystem::exists(w / "o"));
}

} // namespace
