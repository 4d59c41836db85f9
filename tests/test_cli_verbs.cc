/* What the verbs write: text, exported models, plans, descriptions. */
#include "cli_test.h"

namespace {

double loss_of(const Ran &r)
{
    const size_t at = r.out.find("loss ");
    EXPECT_NE(at, std::string::npos) << r.out << r.err;
    return at == std::string::npos ? NAN : std::stod(r.out.substr(at + 5));
}

Words eval_words(const Workplace &w, const std::string &model)
{
    Words words = w.base("eval");
    words[3] = model;
    return words;
}

/* ---- help ---- */

TEST(CliHelp, EveryVerbHasIt)
{
    const Workplace w;
    for (const char *program : {"hone-lora", "hone-full"}) {
        const Ran all = w.run({program, "--help"});
        expect_done(all);
        for (const char *verb :
             {"train", "check", "plan", "tune", "eval", "generate", "export", "info"}) {
            EXPECT_TRUE(contains(all.out, std::string("\n  ") + verb)) << verb;
            const Ran r = w.run({program, verb, "--help"});
            expect_done(r);
            EXPECT_TRUE(contains(r.out, "--")) << r.out;
            EXPECT_EQ(r.err, "");
            for (const auto &line : lines_of(r.out)) EXPECT_LE(line.size(), 100u) << line;
        }
    }
    expect_done(w.run({"hone", "--help"}));
    EXPECT_TRUE(contains(w.run({"hone", "--version"}).out, "hone "));
}

TEST(CliHelp, HoneFindsTheTrainers)
{
    const Workplace w;
    const Ran direct = w.run({"hone-lora", "plan", "--model", w / "model"});
    const Ran through = w.run({"hone", "lora", "plan", "--model", w / "model"});
    expect_done(through);
    EXPECT_EQ(through.out, direct.out);
    EXPECT_TRUE(contains(w.run({"hone", "full", "--help"}).out, "hone-full"));
}

/* torchrun's predecessor puts it in front of everything. */
TEST(CliLocalRank, IsIgnoredWhereALauncherPutsIt)
{
    const Workplace w;
    const Ran plain = w.run({"hone-lora", "plan", "--model", w / "model"});
    expect_done(plain);
    for (const Words &words :
         {Words{"hone-lora", "--local-rank=1", "plan", "--model", w / "model"},
          Words{"hone-lora", "plan", "--model", w / "model", "--local_rank=1"},
          Words{"hone", "--local-rank=1", "lora", "plan", "--model", w / "model"}}) {
        const Ran r = w.run(words);
        expect_done(r);
        EXPECT_EQ(r.out, plain.out);
    }
    expect_done(w.run({"hone-pearl", "--local_rank=0", "--help"}));
    EXPECT_EQ(w.run({"hone-lora", "--local-rank=one", "plan"}).code, 2);
}

/* ---- plan, check, info, eval ---- */

TEST(CliPlan, TellsTheMemoryAndChangesNothing)
{
    const Workplace w;
    const auto before = listing(w.str());
    for (const char *program : {"hone-lora", "hone-full"}) {
        const Ran r = w.run({program, "plan", "--model", w / "model", "--batch-size", "64"});
        expect_done(r);
        for (const char *part :
             {"activations", "gradients", "total", "GiB", "--batch-size below 64"})
            EXPECT_TRUE(contains(r.out, part)) << part << "\n" << r.out;
    }
    EXPECT_EQ(listing(w.str()), before);
}

/* Of a budget that is too small even for that, too. */
TEST(CliPlan, LayersRunAgainWhereTheBudgetWantsIt)
{
    const Workplace w;
    const Words plan = {"hone-lora", "plan", "--model", w / "model", "--batch-size", "64"};
    Ran r = w.run(plan);
    expect_done(r);
    EXPECT_FALSE(contains(r.out, "recompute:")) << r.out;
    EXPECT_TRUE(contains(r.out, "'micro', at ")) << r.out;
    r = w.run(plan + Words{"--memory", "0.001"});
    expect_done(r);
    EXPECT_TRUE(contains(r.out, "recompute: all 2 layers\nit does not fit: there are 0.0010 GiB"))
        << r.out;
    r = w.run(plan + Words{"--memory", "0.001", "--recompute", "off"});
    EXPECT_FALSE(contains(r.out, "recompute:")) << r.out;
    EXPECT_TRUE(contains(r.out, "it does not fit")) << r.out;
    r = w.run(w.train("o", 2) + Words{"--memory", "0.0001", "--recompute", "off"});
    expect_refused(r, 1,
                   {"ERR_MEMORY", "the plan needs", "0.000 GiB may be taken", "--recompute on"});
    EXPECT_FALSE(std::filesystem::exists(w / "o"));
}

TEST(CliTune, NeedsAGpu)
{
    const Workplace w;
    const auto before = listing(w.str());
    for (const char *program : {"hone-lora", "hone-full"})
        expect_refused(w.run({program, "tune", "--model", w / "model", "--device", "cpu", "--plans",
                              w / "plans.json"}),
                       2, {"ERR_UNSUPPORTED", "matrix products of a GPU", "cpu"});
    EXPECT_EQ(listing(w.str()), before);
}

TEST(CliTune, PlansOnTheCpuAreAWarning)
{
    const Workplace w;
    const Ran r = w.run(w.base("check") + Words{"--device", "cpu", "--plans", w / "plans.json"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "plans.json has no effect on the CPU")) << r.err;
    const Ran off = w.run(w.base("check") + Words{"--device", "cpu", "--plans", "off"});
    expect_done(off);
    EXPECT_FALSE(contains(off.err, "no effect")) << off.err;
}

TEST(CliCheck, ShowsTheMaskTokenByToken)
{
    const Workplace w;
    write_file(w / "rows.jsonl", "{\"prompt\": \"abc\", \"completion\": \"de\"}\n");
    Words words = w.base("check");
    words[5] = w / "rows.jsonl";
    const auto before = listing(w.str());
    const Ran r = w.run(words);
    expect_done(r);
    EXPECT_TRUE(contains(r.out, "'a' -> -\n")) << r.out;
    EXPECT_TRUE(contains(r.out, "'b' -> -\n")) << r.out;
    EXPECT_TRUE(contains(r.out, "'c' -> 'd'\n")) << r.out;
    EXPECT_TRUE(contains(r.out, "'d' -> 'e'\n")) << r.out;
    EXPECT_TRUE(contains(r.out, "'e' -> '</s>'\n")) << r.out;
    EXPECT_TRUE(contains(r.err, "memory plan")) << r.err;
    EXPECT_EQ(listing(w.str()), before);
}

TEST(CliCheck, NamesWhatTheVocabularyLacks)
{
    HN_NEED_DATA(model, "babyllama-char105");
    HN_NEED_DATA(text, "tinyshakespeare");
    const Workplace w;
    const Ran r = w.run({"hone-lora", "check", "--model", model, "--data", text + "/input.txt",
                         "--seq-len", "64", "--batch-size", "1", "--cache-dir", "off"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "newline")) << r.err;
    EXPECT_TRUE(contains(r.err, "<unk>")) << r.err;
}

TEST(CliInfo, SaysWhatAFolderIs)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 2)));
    const std::pair<std::string, const char *> expected[] = {
        {w / "model", "LlamaForCausalLM"},
        {w / "o", "step 2"},
        {(w / "o") + "/checkpoint-2", "complete checkpoint, step 2"},
        {(w / "o") + "/adapter", "PEFT LoRA adapter, rank 16"},
        {(w / "o") + "/checkpoint-2/delta.safetensors", "safetensors, "},
        {(w / "model") + "/model.safetensors", "safetensors, "}};
    for (const auto &[path, text] : expected) {
        const Ran r = w.run({"hone-lora", "info", "--path", path});
        expect_done(r);
        EXPECT_TRUE(contains(r.out, text)) << r.out;
    }
    expect_refused(w.run({"hone-lora", "info", "--path", w / "none"}), 2, {w / "none"});
    expect_refused(w.run({"hone-lora", "info", "--path", w / "text.txt"}), 2, {"text.txt"});
}

TEST(CliEval, TakesTheHeldOutPartOrTheWholeFile)
{
    const Workplace w;
    const Ran whole = w.run(w.base("eval")),
              part = w.run(w.base("eval") + Words{"--eval-split", "0.2"});
    expect_done(whole);
    expect_done(part);
    EXPECT_NE(loss_of(whole), loss_of(part));
    /* the loss of a batch does not depend on how rows are grouped */
    EXPECT_NEAR(loss_of(w.run(w.base("eval") + Words{"--batch-size=5"})), loss_of(whole), 2e-6);
    write_file(w / "held.txt", sample_text(10));
    const Ran other = w.run(w.base("eval") + Words{"--eval-data", w / "held.txt"});
    expect_done(other);
    EXPECT_TRUE(contains(other.out, "held.txt")) << other.out;
}

/* ---- export ---- */

TEST(CliExport, PeftAndMergedGiveTheLossOfTheRun)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 12)));
    const Words words = {"hone-lora", "export", "--model", w / "model", "--checkpoint", w / "o"};
    expect_done(w.run(words + Words{"--to", w / "peft"}));
    expect_done(w.run(words + Words{"--to", w / "merged", "--kind", "merged"}));
    const double base = loss_of(w.run(w.base("eval")));
    const double adapter =
        loss_of(w.run(w.base("eval") + Words{"--adapter", (w / "o") + "/adapter"}));
    EXPECT_LT(adapter, base - 0.1);
    EXPECT_EQ(loss_of(w.run(w.base("eval") + Words{"--adapter", w / "peft"})), adapter);
    EXPECT_NEAR(loss_of(w.run(eval_words(w, w / "merged"))), adapter, 1e-4);
    for (const char *name : {"config.json", "tokenizer.json", "tokenizer_config.json"})
        EXPECT_EQ(read_file((w / "merged") + "/" + name), read_file((w / "model") + "/" + name))
            << name;
    EXPECT_EQ(read_file((w / "peft") + "/adapter_model.safetensors"),
              read_file((w / "o") + "/adapter/adapter_model.safetensors"));
    /* the adapter can be trained on */
    expect_done(w.run(w.train("more", 4) + Words{"--adapter", w / "peft"}));
}

TEST(CliExport, NeedsNothingButTheCheckpoint)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 2)));
    expect_done(w.run(
        {"hone-lora", "export", "--checkpoint", (w / "o") + "/checkpoint-2", "--to", w / "x"}));
    expect_done(w.run({"hone-lora", "export", "checkpoint=" + (w / "o"), "to=" + (w / "y")}));
    EXPECT_EQ(listing(w / "x"), listing(w / "y"));
}

TEST(CliExport, ACheckpointDoesNotFitAnotherModel)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 2)));
    std::filesystem::copy(w / "model", w / "other");
    std::string bytes = read_file((w / "other") + "/model.safetensors");
    bytes[bytes.size() - 2] ^= 1;
    write_file((w / "other") + "/model.safetensors", bytes);
    const Ran r = w.run(
        {"hone-lora", "export", "--model", w / "other", "--checkpoint", w / "o", "--to", w / "x"});
    expect_refused(r, 2, {"base model"});
    EXPECT_FALSE(std::filesystem::exists(w / "x"));
    const Ran scaled =
        w.run({"hone-lora", "export", "--alpha", "8", "--checkpoint", w / "o", "--to", w / "x"});
    expect_refused(scaled, 2, {"delta.safetensors"});
    EXPECT_FALSE(std::filesystem::exists(w / "x"));
}

TEST(CliExport, AFullModelLoadsAgain)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 12, "hone-full")));
    const double tuned = loss_of(w.run(eval_words(w, (w / "o") + "/model")));
    EXPECT_LT(tuned, loss_of(w.run(w.base("eval"))) - 0.1);
    expect_done(w.run({"hone-full", "export", "--checkpoint", w / "o", "--to", w / "x"}));
    EXPECT_EQ(read_file((w / "x") + "/model.safetensors"),
              read_file((w / "o") + "/model/model.safetensors"));
    /* the result is a model like any other */
    Words words = w.train("lora", 2);
    words[3] = w / "x";
    expect_done(w.run(words));
}

TEST(CliExport, AModelFromAConfigAndASeedTrainsAndLoads)
{
    const Workplace w;
    Words words = w.train("o", 12, "hone-full") + Words{"--seed", "3"};
    words[3] = (w / "model") + "/config.json";
    expect_done(w.run(words));
    const std::string made = (w / "o") + "/model";
    const Ran r = w.run(eval_words(w, made));
    expect_done(r);
    EXPECT_LT(loss_of(r), std::log(64.0));
    expect_done(w.run(
        {"hone-full", "generate", "--model", made, "--prompt", "the ", "--max-new-tokens", "4"}));
    words[13] = w / "again";
    expect_done(w.run(words));
    EXPECT_EQ(read_file((w / "again") + "/model/model.safetensors"),
              read_file(made + "/model.safetensors"));
}

/* Whatever the tokenizer is called, the result brings it along. */
TEST(CliExport, AModelFromAConfigTakesItsTokenizerAlong)
{
    namespace fs = std::filesystem;
    const Workplace w;
    const std::string fixtures = "tests/fixtures/tokenizers/", model = w / "model";
    fs::create_directory(w / "other");
    fs::copy(model + "/tokenizer.json", w / "my.json");
    fs::copy(fixtures + "sp_char.model", w / "other");
    replace_in_file(model + "/config.json", "\"vocab_size\": 64", "\"vocab_size\": 600");
    const std::pair<std::string, const char *> cases[] = {
        {"", "tokenizer.json"}, {w / "my.json", "tokenizer.json"}, {w / "other", "sp_char.model"}};
    int i = 0;
    for (const auto &[tokenizer, name] : cases) {
        const std::string out = "o" + std::to_string(i++);
        Words words = w.train(out, 1, "hone-full") + Words{"--tokenizer", tokenizer};
        words[3] = model + "/config.json";
        expect_done(w.run(words));
        const std::string made = (w / out) + "/model";
        EXPECT_TRUE(fs::exists(made + "/" + name)) << tokenizer;
        const Words text = {"hone-full", "generate", "--prompt", "a b", "--max-new-tokens", "9"};
        const Ran r = w.run(text + Words{"--model", made});
        expect_done(r);
        Words given = {"--model", made, "--tokenizer", tokenizer.empty() ? model : tokenizer};
        EXPECT_EQ(r.out, w.run(text + given).out);
    }
}

class CliFamily : public testing::TestWithParam<const char *> {};

TEST_P(CliFamily, TrainsExportsAndGenerates)
{
    const Workplace w(GetParam());
    /* 16 bits in the file leave 3 digits of a merged weight */
    const double tolerance = std::string(GetParam()) == "llama_f16" ? 3e-3 : 1e-4;
    expect_done(w.run(w.train("o", 8)));
    expect_done(w.run(w.train("full", 4, "hone-full")));
    const double base = loss_of(w.run(w.base("eval")));
    const double tuned =
        loss_of(w.run(w.base("eval") + Words{"--adapter", (w / "o") + "/adapter"}));
    EXPECT_LT(tuned, base);
    expect_done(w.run({"hone-lora", "export", "--checkpoint", w / "o", "--kind", "merged", "--to",
                       w / "merged"}));
    EXPECT_NEAR(loss_of(w.run(eval_words(w, w / "merged"))), tuned, tolerance);
    EXPECT_LT(loss_of(w.run(eval_words(w, (w / "full") + "/model"))), base);
    for (const char *model : {"model", "merged"}) {
        /* a text of 40 positions: beyond the windows of 8 */
        const Words words = {"hone-lora",        "generate", "--model",
                             w / model,          "--prompt", "the fox likes a hen, ",
                             "--max-new-tokens", "20",       "--ignore-eos"};
        expect_done(w.run(words));
    }
}

INSTANTIATE_TEST_SUITE_P(All, CliFamily,
                         testing::Values("llama", "llama_f16", "mistral", "qwen2", "qwen2_window",
                                         "qwen3"));

class CliGpt2 : public testing::TestWithParam<const char *> {};

/* GPT-2 of Hugging Face, whose weights are [in, out] in files, and minGPT; 24 positions, less than
 * the 32 tokens that an export compares elsewhere. */
TEST_P(CliGpt2, TrainsExportsAndGenerates)
{
    const Workplace w;
    write_file((w / "model") + "/config.json", GetParam());
    const bool transposed = contains(GetParam(), "gpt2");
    Words words = w.train("full", 12, "hone-full");
    words[3] = (w / "model") + "/config.json";
    expect_done(w.run(words));
    const std::string base = (w / "full") + "/model", adapter = (w / "lora") + "/adapter";
    words = w.train("lora", 24);
    words[3] = base;
    expect_done(w.run(words));
    const std::string config = read_file(adapter + "/adapter_config.json");
    for (const char *part : {"\"c_attn\"", "\"c_proj\"", "\"c_fc\""})
        EXPECT_TRUE(contains(config, part)) << config;
    EXPECT_EQ(contains(config, "\"fan_in_fan_out\": true"), transposed) << config;
    const double before = loss_of(w.run(eval_words(w, base)));
    const double after = loss_of(w.run(eval_words(w, base) + Words{"--adapter", adapter}));
    EXPECT_LT(before, std::log(64.0));
    EXPECT_LT(after, before);
    expect_done(w.run({"hone-lora", "export", "--checkpoint", w / "lora", "--kind", "merged",
                       "--to", w / "merged"}));
    EXPECT_NEAR(loss_of(w.run(eval_words(w, w / "merged"))), after, 1e-4);
    const Words text = {"hone-lora", "generate", "--prompt", "the fox ", "--max-new-tokens", "8"};
    const Ran one = w.run(text + Words{"--model", w / "merged"});
    expect_done(one);
    EXPECT_EQ(one.out, w.run(text + Words{"--model", base, "--adapter", adapter}).out);
}

INSTANTIATE_TEST_SUITE_P(
    Both, CliGpt2,
    testing::Values(R"({"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 2,
                        "n_head": 2, "n_positions": 24, "resid_pdrop": 0, "embd_pdrop": 0,
                        "attn_pdrop": 0, "bos_token_id": 1, "eos_token_id": 2})",
                    R"({"model_type": "gpt-nano", "vocab_size": 64, "n_embd": 32, "n_layer": 2,
                        "n_head": 2, "block_size": 24})"),
    [](const auto &i) { return contains(i.param, "gpt2") ? "gpt2" : "mingpt"; });

/* ---- generate ---- */

TEST(CliGenerate, WritesTheExpectedStory)
{
    HN_NEED_DATA(model, "stories260k");
    const Workplace w;
    const std::string expected = read_file(model + "/expected_greedy_200.txt");
    const Words words = {
        "hone-lora",     "generate", "--model",  model,         "--prompt",        "",
        "--temperature", "0",        "--device", test_device(), "--max-new-tokens"};
    const Ran r = w.run(words + Words{"200"});
    expect_done(r);
    EXPECT_EQ(r.out, expected); /* 200 tokens behind BOS */
    EXPECT_EQ(w.run(words + Words{"199"}).out, expected.substr(0, 460));
}

TEST(CliGenerate, GoesOnFromThePrompt)
{
    HN_NEED_DATA(model, "stories260k");
    const Workplace w;
    const std::string expected = read_file(model + "/expected_greedy_200.txt");
    const std::string prompt = expected.substr(0, expected.find(". ") + 1);
    const Ran r = w.run(
        {"hone-lora", "generate", "--model", model, "--prompt", prompt, "--max-new-tokens", "40"});
    expect_done(r);
    EXPECT_GT(r.out.size(), prompt.size() + 40);
    EXPECT_EQ(r.out, expected.substr(0, r.out.size())); /* prefill and decoding agree */
}

TEST(CliGenerate, SamplesTheSameFromOneSeed)
{
    const Workplace w;
    const Words words = {
        "hone-lora",        "generate", "--model",      w / "model",     "--prompt", "the ",
        "--max-new-tokens", "60",       "--ignore-eos", "--temperature", "1"};
    const Ran a = w.run(words), b = w.run(words), c = w.run(words + Words{"--seed", "1"});
    const Ran d = w.run(words + Words{"--top-k", "2"}), e = w.run(words + Words{"--top-k", "1"});
    const Ran greedy = w.run(words + Words{"--temperature", "0"});
    for (const Ran *r : {&a, &b, &c, &d, &e, &greedy}) {
        expect_done(*r);
        EXPECT_EQ(r->out.substr(0, 4), "the ");
    }
    EXPECT_EQ(a.out, b.out);
    EXPECT_NE(a.out, c.out);
    EXPECT_NE(a.out, d.out);
    EXPECT_EQ(e.out, greedy.out);
    EXPECT_EQ(w.run(words + Words{"--top-p", "1e-6"}).out, greedy.out);
}

TEST(CliGenerate, StopsAtTheEndToken)
{
    const Workplace w;
    write_file(w / "rows.jsonl", "{\"prompt\": \"a\", \"completion\": \"bc\"}\n");
    Words words = w.train("o", 60, "hone-full");
    words[5] = w / "rows.jsonl";
    expect_done(w.run(words));
    const Words generate = {"hone-full", "generate", "--model",          (w / "o") + "/model",
                            "--prompt",  "a",        "--max-new-tokens", "20"};
    const Ran r = w.run(generate);
    expect_done(r);
    EXPECT_EQ(r.out, "abc");
    EXPECT_GT(w.run(generate + Words{"--ignore-eos"}).out.size(), 3u);
}

TEST(CliGenerate, WithoutALimitItFillsThePositions)
{
    const Workplace w;
    const Ran r = w.run(
        {"hone-lora", "generate", "--model", w / "model", "--prompt", "the ", "--ignore-eos"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "124 tokens")) << r.err;
}

TEST(CliGenerate, TheAdapterOfARunIsHeard)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 60)));
    const Words words = {"hone-lora", "generate", "--model",          w / "model",
                         "--prompt",  "the ",     "--max-new-tokens", "30"};
    const Ran plain = w.run(words),
              tuned = w.run(words + Words{"--adapter", (w / "o") + "/adapter"});
    expect_done(tuned);
    EXPECT_NE(plain.out, tuned.out);
    expect_done(w.run({"hone-lora", "export", "--checkpoint", w / "o", "--to", w / "merged",
                       "--kind", "merged"}));
    Words merged = words;
    merged[3] = w / "merged";
    EXPECT_EQ(w.run(merged).out, tuned.out);
}

} // namespace
