/* hone-lora --dora: training, resumption, files, merging, generation, and what is refused. */
#include "cli_run_test.h"
#include "image_test.h"

namespace {

/* "loss 1.1  ...": of eval. */
double loss_of(const Ran &r)
{
    expect_done(r);
    return r.out.rfind("loss ", 0) == 0 ? std::stod(r.out.substr(5)) : NAN;
}

class CliDoraResumed : public testing::TestWithParam<Words> {};

TEST_P(CliDoraResumed, ContinuesBitForBit)
{
    const Workplace w("qwen2");
    const Words more = GetParam() + Words{"--dora"};
    expect_done(w.run(w.train("whole", 12) + more));
    expect_done(w.run(w.train("parts", 12) + more + Words{"--stop-after", "6"}));
    expect_done(w.run(w.train("parts", 12) + more + Words{"--resume", "auto"}));
    const auto bytes = trained_bytes((w / "whole") + "/checkpoint-12");
    EXPECT_EQ(trained_bytes((w / "parts") + "/checkpoint-12"), bytes);
    EXPECT_EQ(column(w / "parts", "loss"), column(w / "whole", "loss"));
    const std::string &delta = bytes.at("delta.safetensors");
    EXPECT_TRUE(contains(delta, "\\\"encoding\\\":\\\"dora\\\""));
    EXPECT_TRUE(contains(delta, "model.layers.0.mlp.up_proj.lora_magnitude_vector"));
    EXPECT_FALSE(contains(delta, "\\\"encoding\\\":\\\"lowrank\\\""));
    const auto losses = column(w / "whole", "loss");
    EXPECT_LT(std::stod(losses.at(12)), std::stod(losses.at(1)) - 0.1);
    /* without magnitudes it is another set of parameters */
    expect_refused(w.run(w.train("parts", 14) + GetParam() + Words{"--resume", "auto"}), 2,
                   {"dora"});
}

INSTANTIATE_TEST_SUITE_P(Runs, CliDoraResumed,
                         testing::Values(Words{},
                                         Words{"--accumulation", "2", "--dropout", "0.1",
                                               "--weight-decay", "0.01", "--rslora"},
                                         Words{"--dtype", "bf16", "--recompute", "on"}));

TEST(CliDora, AdapterMergedModelAndGenerationAgree)
{
    for (const char *family : {"qwen2", "llama_f16"}) {
        const Workplace w(family);
        const double tolerance = std::string(family) == "llama_f16" ? 3e-3 : 1e-4;
        expect_done(w.run(w.train("o", 30) + Words{"--dora", "--rank", "4"}));
        const std::string adapter = (w / "o") + "/adapter";
        const std::string config = read_file(adapter + "/adapter_config.json");
        EXPECT_TRUE(contains(config, "\"use_dora\": true")) << config;
        const Words words = {"hone-lora", "export", "--checkpoint", w / "o"};
        expect_done(w.run(words + Words{"--to", w / "peft"}));
        expect_done(w.run(words + Words{"--to", w / "merged", "--kind", "merged"}));
        EXPECT_EQ(read_file((w / "peft") + "/adapter_model.safetensors"),
                  read_file(adapter + "/adapter_model.safetensors"));
        const double base = loss_of(w.run(w.base("eval")));
        const double tuned = loss_of(w.run(w.base("eval") + Words{"--adapter", adapter}));
        EXPECT_LT(tuned, base - 0.1);
        Words merged = w.base("eval");
        merged[3] = w / "merged";
        EXPECT_NEAR(loss_of(w.run(merged)), tuned, tolerance);
        const Ran info = w.run({"hone-lora", "info", "--path", adapter});
        expect_done(info);
        EXPECT_TRUE(contains(info.out, "PEFT DoRA adapter, rank 4")) << info.out;
        const Words text = {"hone-lora", "generate", "--prompt", "the ", "--max-new-tokens", "20"};
        const Ran one = w.run(text + Words{"--model", w / "model", "--adapter", adapter});
        expect_done(one);
        EXPECT_NE(one.out, w.run(text + Words{"--model", w / "model"}).out);
        if (tolerance < 1e-3) {
            EXPECT_EQ(w.run(text + Words{"--model", w / "merged"}).out, one.out);
        }
        /* training goes on from it, where it has ended */
        const Words more = {"--adapter", adapter};
        expect_done(w.run(w.train("more", 2) + more + Words{"--eval-split", "0.2"}));
        EXPECT_TRUE(contains(read_file((w / "more") + "/adapter/adapter_config.json"), "use_dora"));
        expect_refused(w.run(w.train("no", 2) + more + Words{"--dora"}), 2,
                       {"--dora", "decided by the adapter"});
    }
}

/* Weights that are [in, out] in files, with biases. */
TEST(CliDora, Gpt2MergesItsTransposedWeights)
{
    const Workplace w;
    write_file((w / "model") + "/config.json",
               R"({"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2,
                   "n_positions": 24, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0,
                   "bos_token_id": 1, "eos_token_id": 2})");
    Words words = w.train("full", 8, "hone-full");
    words[3] = (w / "model") + "/config.json";
    expect_done(w.run(words));
    const std::string base = (w / "full") + "/model";
    words = w.train("o", 20);
    words[3] = base;
    expect_done(w.run(words + Words{"--dora"}));
    expect_done(w.run({"hone-lora", "export", "--checkpoint", w / "o", "--kind", "merged", "--to",
                       w / "merged"}));
    Words eval = w.base("eval");
    eval[3] = base;
    const double before = loss_of(w.run(eval));
    const double tuned = loss_of(w.run(eval + Words{"--adapter", (w / "o") + "/adapter"}));
    EXPECT_LT(tuned, before);
    eval[3] = w / "merged";
    EXPECT_NEAR(loss_of(w.run(eval)), tuned, 1e-4);
}

TEST(CliDora, PlanAndCheckCountTheMagnitudes)
{
    const Workplace w;
    const Words plan = {"hone-lora", "plan", "--model", w / "model", "--seq-len", "16"};
    const Ran plain = w.run(plan), dora = w.run(plan + Words{"--dora"});
    expect_done(plain);
    expect_done(dora);
    expect_done(w.run(w.base("check") + Words{"--dora"}));
    const auto operations = [](const Ran &r) {
        const size_t at = r.out.find("memory plan: ");
        return at == std::string::npos ? -1 : std::stoi(r.out.substr(at + 13));
    };
    EXPECT_GT(operations(dora), operations(plain)) << dora.out;
}

TEST(CliDora, AdaptersThatContradictThemselvesAreRefused)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 2) + Words{"--dora"}));
    const std::string adapter = (w / "o") + "/adapter";
    const std::string path = adapter + "/adapter_config.json", config = read_file(path);
    const Words eval = w.base("eval") + Words{"--adapter", adapter};
    std::string other = config;
    other.replace(other.find("\"use_dora\": true"), 16, "\"use_dora\": false");
    write_file(path, other);
    expect_refused(w.run(eval), 2, {"adapter_model.safetensors", "belongs to DoRA"});
    expect_done(w.run(w.train("p", 2))); /* one without magnitudes that says it has some */
    write_file((w / "p") + "/adapter/adapter_config.json", config);
    expect_refused(w.run(w.base("eval") + Words{"--adapter", (w / "p") + "/adapter"}), 2,
                   {"has no lora_magnitude_vector, though use_dora is set"});
}

/* Magnitudes are summed over ranks as pairs are; their norms want whole weights. */
TEST(CliDora, RanksTrainItTogetherEachWithTheBase)
{
    const Workplace w;
    const Words cpu = {"--dora", "--device", "cpu"}, two = cpu + Words{"--ranks", "2"};
    expect_done(w.run(w.train("one", 6) + cpu + Words{"--accumulation", "2"}));
    expect_done(w.run(w.train("two", 6) + two));
    expect_done(w.run(w.train("again", 6) + two));
    const auto one = column(w / "one", "loss"), both = column(w / "two", "loss");
    ASSERT_EQ(both.size(), one.size());
    for (const auto &[step, loss] : both)
        EXPECT_NEAR(std::stod(loss), std::stod(one.at(step)), 1e-3) << step;
    EXPECT_EQ(trained_bytes((w / "two") + "/checkpoint-6"),
              trained_bytes((w / "again") + "/checkpoint-6"));
    const Ran r = w.run(w.train("no", 2) + two + Words{"--shard-base"});
    EXPECT_EQ(r.code, 2) << r.err;
    EXPECT_TRUE(contains(r.err, "with DoRA's magnitudes cannot be shared by ranks")) << r.err;
}

TEST(CliDora, ConvolutionsAreRefusedByName)
{
    const Workplace w;
    const std::string base = "tests/fixtures/peft_resnet/base";
    const Ran r = w.run({"hone-lora", "plan", "--model", base, "--dora"});
    expect_refused(r, 2, {"--dora: ", " is a convolution", "--exclude"});
}

/* The linear layers of a ViT, whose patches are a convolution that is left alone. */
TEST(CliDora, TrainsAndMergesAViT)
{
    const Workplace w;
    std::string pixels, labels;
    for (int i = 0; i < 12; i++) {
        labels += (char)(i % 3);
        for (int k = 0; k < 32 * 32 * 3; k++) pixels += (char)(i % 3 * 80 + (k * 37 + i * 11) % 50);
    }
    std::filesystem::create_directory(w / "data");
    for (const std::string part : {"train", "val"}) {
        write_file((w / "data") + "/" + part + "-images-idx-ubyte",
                   idx(8, {12, 32, 32, 3}, pixels));
        write_file((w / "data") + "/" + part + "-labels-idx-ubyte", idx(8, {12}, labels));
    }
    const Words data = {"--data", w / "data", "--batch-size", "4"};
    expect_done(
        w.run(Words{"hone-lora", "train", "--model", "vit-tiny-cifar", "--dora", "--rank", "2",
                    "--steps", "4", "--lr", "1e-2", "--result", "last", "--out", w / "o"} +
              data));
    EXPECT_TRUE(contains(read_file((w / "o") + "/adapter/adapter_config.json"), "use_dora"));
    const auto eval_loss = column(w / "o", "eval_loss");
    expect_done(w.run(
        {"hone-lora", "export", "--checkpoint", w / "o", "--kind", "merged", "--to", w / "m"}));
    const Ran m =
        w.run(Words{"hone-lora", "eval", "--model", w / "m", "--eval-data", "val"} + data);
    EXPECT_NEAR(loss_of(m), std::stod(eval_loss.at(4)), 1e-4);
}

} // namespace
