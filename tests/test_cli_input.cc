/* Bad input to the programs: one line that names it, exit code 2, nothing changed on disk. */
#include "cli_test.h"
#include "file_limit.h"

namespace {

/* Runs and expects an error that leaves every file of the workplace as it was. */
void expect_untouched(const Workplace &w, const Words &words, const Words &parts, int code = 2)
{
    const auto before = listing(w.str());
    const Ran r = w.run(words);
    expect_refused(r, code, parts);
    const auto after = listing(w.str());
    for (const auto &[name, content] : after)
        EXPECT_TRUE(before.count(name)) << name << " has appeared";
    for (const auto &[name, content] : before) /* .lock names the last process */
        EXPECT_TRUE(after.count(name) && (contains(name, ".lock") || after.at(name) == content))
            << name << " has changed";
}

/* Rewrites the model's weights: `change` may drop an entry (false) or alter it. */
template <class F>
void rewrite_weights(const std::string &path, F change)
{
    hn_st_file *f = nullptr;
    ASSERT_HN_OK(hn_st_open(path.c_str(), &f));
    std::vector<hn_st_entry> entries;
    for (int64_t i = 0; i < hn_st_count(f); i++) {
        const hn_st_tensor *t = hn_st_at(f, i);
        hn_st_entry e = {};
        e.name = t->name;
        e.dtype = t->dtype;
        e.ndim = t->ndim;
        for (int d = 0; d < t->ndim; d++) e.dim[d] = t->dim[d];
        e.data = t->data;
        if (change(e)) entries.push_back(e);
    }
    const std::string other = path + ".new";
    EXPECT_HN_OK(hn_st_save(other.c_str(), entries.data(), (int64_t)entries.size(), nullptr, 0,
                            nullptr, nullptr));
    hn_st_close(f);
    std::filesystem::rename(other, path);
}

/* ---- options ---- */

TEST(CliOptions, UnknownVerbIsNamedWithTheNearest)
{
    const Workplace w;
    const Ran r = w.run({"hone-lora", "trian", "--model", w / "model"});
    EXPECT_EQ(r.code, 2);
    EXPECT_EQ(lines_of(r.err).size(), 1u) << r.err;
    EXPECT_TRUE(contains(r.err, "no verb 'trian', did you mean 'train'")) << r.err;
}

TEST(CliOptions, UnknownMethodIsNamed)
{
    const Workplace w;
    const Ran r = w.run({"hone", "lola", "train"});
    EXPECT_EQ(r.code, 2);
    EXPECT_EQ(lines_of(r.err).size(), 1u) << r.err;
    EXPECT_TRUE(contains(r.err, "no method 'lola', did you mean 'lora'")) << r.err;
}

TEST(CliOptions, NothingAtAllPrintsTheUsage)
{
    const Workplace w;
    for (const char *program : {"hone", "hone-lora", "hone-full"}) {
        const Ran r = w.run({program});
        EXPECT_EQ(r.code, 2);
        EXPECT_TRUE(contains(r.err, "usage: ")) << r.err;
    }
}

TEST(CliOptions, UnknownOptionIsNamedWithTheNearest)
{
    const Workplace w;
    expect_untouched(w, w.train("o", 2) + Words{"--ranck", "4"}, {"'ranck'", "'rank'"});
    expect_untouched(w, w.train("o", 2) + Words{"rannk=4"}, {"'rannk'", "'rank'"});
    expect_untouched(w, w.train("o", 2, "hone-full") + Words{"--rank", "4"}, {"'rank'"});
}

TEST(CliOptions, UnknownConfigKeyIsNamedWithItsLine)
{
    const Workplace w;
    write_file(w / "run.yaml", "steps: 2\n# comment\nbatch_sizes: 3\n");
    expect_untouched(w, w.train("o", 2) + Words{"--config", w / "run.yaml"},
                     {"run.yaml:3", "'batch_sizes'", "'batch-size'"});
    write_file(w / "run.yaml", "steps: 2\nlr: [1\n");
    expect_untouched(w, w.train("o", 2) + Words{"--config", w / "run.yaml"}, {"run.yaml:"});
    expect_untouched(w, w.train("o", 2) + Words{"--config", w / "none.yaml"}, {"none.yaml"});
}

TEST(CliOptions, ValuesOutOfRangeAreNamedWithTheLimit)
{
    const Workplace w;
    expect_untouched(w, w.train("o", 2) + Words{"--batch-size", "0"},
                     {"--batch-size", "0", "1 to"});
    expect_untouched(w, w.train("o", 2) + Words{"--lr", "-1"}, {"--lr", "-1", "0 to"});
    expect_untouched(w, w.train("o", 2) + Words{"--lr", "nan"}, {"--lr", "'nan'"});
    expect_untouched(w, w.train("o", 2) + Words{"--steps", "2.5"}, {"--steps", "'2.5'"});
    expect_untouched(w, w.train("o", 2) + Words{"--schedule", "cosin"},
                     {"--schedule", "'cosin'", "cosine"});
    expect_untouched(w, w.train("o", 2) + Words{"--steps"}, {"--steps needs a value"});
    expect_untouched(w, w.train("o", 2) + Words{"--warmup-steps", "3"}, {"--warmup-steps 3", "2"});
    expect_untouched(w, w.base("train") + Words{"--out", w / "o", "--epochs", "0"}, {"--epochs 0"});
    expect_untouched(w, w.train("o", 2) + Words{"--dropout", "1"}, {"--dropout", "0.99"});
    expect_untouched(w, w.train("o", 2) + Words{"--device", "gpu"}, {"device 'gpu'", "cuda:N"});
    expect_untouched(w, w.train("o", 2) + Words{"--device", "cuda:1x"}, {"device 'cuda:1x'"});
    expect_untouched(w, w.train("o", 2) + Words{"--device", "cpu", "--executor", "cuda"},
                     {"executor cuda needs a GPU"});
    for (const char *attention : {"cudnn", "fast"})
        expect_untouched(w, w.train("o", 2) + Words{"--device", "cpu", "--attention", attention},
                         {"needs a GPU", "--attention auto or hone"});
}

TEST(CliOptions, WhatWouldBeWithoutEffectIsRefused)
{
    const Workplace w;
    expect_untouched(w, w.train("o", 2) + Words{"--resume-device", "any"},
                     {"--resume-device any", "--resume"});
    expect_untouched(w, w.train("o", 2) + Words{"--min-lr", "0.02"},
                     {"--min-lr 0.02", "--lr 0.01"});
    expect_untouched(w, w.train("o", 2) + Words{"--nesterov"}, {"--nesterov", "sgd"});
    expect_untouched(w,
                     w.train("o", 2) + Words{"--nesterov", "--optimizer", "sgd", "--momentum", "0"},
                     {"--nesterov", "--momentum 0"});
    expect_untouched(w, w.train("o", 2) + Words{"--patience", "2"}, {"--patience 2", "held out"});
    expect_untouched(w, w.train("o", 2) + Words{"--eval-every", "1"},
                     {"--eval-every 1", "held out"});
    expect_untouched(w, w.base("check") + Words{"--nesterov"}, {"--nesterov", "sgd"});
    expect_untouched(w, w.base("check") + Words{"--patience", "2"}, {"--patience 2", "held out"});
    expect_untouched(w, {"hone-lora", "plan", "--model", w / "model", "--min-lr", "1"},
                     {"--min-lr 1", "--lr 0.0002"});
}

TEST(CliOptions, RequiredOptionsAreAskedFor)
{
    const Workplace w;
    expect_untouched(w, {"hone-lora", "train", "--data", w / "text.txt"}, {"--model is missing"});
    expect_untouched(w, {"hone-lora", "train", "--model", w / "model"}, {"--data is missing"});
    expect_untouched(w, {"hone-lora", "export", "--model", w / "model", "--to", w / "x"},
                     {"--checkpoint is missing"});
    expect_untouched(w, {"hone-lora", "info"}, {"--path is missing"});
}

/* ---- models ---- */

TEST(CliModel, MissingFolderAndFiles)
{
    const Workplace w;
    Words words = w.train("o", 2);
    words[3] = w / "nowhere";
    expect_untouched(w, words, {w / "nowhere"});
    std::filesystem::remove((w / "model") + "/config.json");
    expect_untouched(w, w.train("o", 2), {"model/config.json"});
}

TEST(CliModel, AFolderInThePlaceOfAFile)
{
    const Workplace w;
    for (const char *name : {"tokenizer.json", "model.safetensors", "config.json"}) {
        std::filesystem::remove((w / "model") + "/" + name);
        std::filesystem::create_directory((w / "model") + "/" + name);
        expect_untouched(w, w.train("o", 2), {"model"});
    }
}

TEST(CliModel, MissingTensorIsNamed)
{
    const Workplace w;
    rewrite_weights((w / "model") + "/model.safetensors", [](hn_st_entry &e) {
        return std::string(e.name) != "model.layers.1.mlp.up_proj.weight";
    });
    for (const char *program : {"hone-lora", "hone-full"})
        expect_untouched(w, w.train("o", 2, program),
                         {"model", "model.layers.1.mlp.up_proj.weight is missing"});
    expect_untouched(w, w.base("eval"), {"model.layers.1.mlp.up_proj.weight is missing"});
    expect_untouched(w, w.base("check"), {"model.layers.1.mlp.up_proj.weight is missing"});
    expect_untouched(w, {"hone-lora", "generate", "--model", w / "model"},
                     {"model.layers.1.mlp.up_proj.weight is missing"});
}

TEST(CliModel, WrongShapeIsNamedWithBoth)
{
    const Workplace w;
    rewrite_weights((w / "model") + "/model.safetensors", [](hn_st_entry &e) {
        if (std::string(e.name) == "model.layers.0.self_attn.k_proj.weight") e.dim[0] /= 2;
        return true;
    });
    expect_untouched(
        w, w.train("o", 2),
        {"model.safetensors", "model.layers.0.self_attn.k_proj.weight", "[8, 32]", "[16, 32]"});
}

TEST(CliModel, DamagedSafetensorsIsNamed)
{
    const Workplace w;
    const std::string path = (w / "model") + "/model.safetensors";
    const std::string whole = read_file(path);
    write_file(path, whole.substr(0, whole.size() - 100));
    expect_untouched(w, w.train("o", 2), {"model.safetensors"});
    write_file(path, std::string("\xff\xff\xff\xff\xff\xff\xff\x7f", 8) + whole.substr(8));
    expect_untouched(w, w.train("o", 2), {"model.safetensors"});
    write_file(path, "");
    expect_untouched(w, w.train("o", 2), {"model.safetensors"});
}

TEST(CliModel, PickleOnlyIsRefusedWithTheWayOut)
{
    const Workplace w;
    std::filesystem::rename((w / "model") + "/model.safetensors",
                            (w / "model") + "/pytorch_model.bin");
    expect_untouched(w, w.train("o", 2), {"pytorch_model.bin", "pickle"});
}

TEST(CliModel, UnknownModelTypeIsNamed)
{
    const Workplace w;
    replace_in_file((w / "model") + "/config.json", "\"model_type\": \"llama\"",
                    "\"model_type\": \"gru9\"");
    expect_untouched(w, w.train("o", 2), {"config.json", "gru9"});
}

TEST(CliModel, BrokenConfigIsNamedWithItsPlace)
{
    const Workplace w;
    const std::string path = (w / "model") + "/config.json", whole = read_file(path);
    replace_in_file(path, "\"hidden_size\": 32", "\"hidden_size\": 0");
    expect_untouched(w, w.train("o", 2), {"config.json", "hidden_size"});
    write_file(path, whole.substr(0, whole.size() / 2));
    expect_untouched(w, w.train("o", 2), {"config.json"});
}

TEST(CliModel, AnEmptyConfigAndRopeSettingsThatAreNoneAreRefused)
{
    const Workplace w;
    const std::string path = (w / "model") + "/config.json", whole = read_file(path);
    write_file(path, "");
    expect_untouched(w, w.train("o", 2), {"config.json", "it is empty"});
    write_file(path, whole);
    replace_in_file(path, "\"rope_scaling\": {", "\"rope_scaling\": \"yarn\", \"none\": {");
    expect_untouched(w, w.train("o", 2), {"config.json", "'rope_scaling' is not a JSON object"});
    write_file(path, "{\"rope_parameters\": [1]," + whole.substr(whole.find('{') + 1));
    expect_untouched(w, w.train("o", 2), {"config.json", "'rope_parameters' is not a JSON object"});
    write_file(path, whole);
    expect_done(w.run(w.train("o", 2)));
}

TEST(CliModel, SequencesLongerThanItsPositionsAreRefused)
{
    const Workplace w;
    for (const char *verb : {"train", "check", "eval", "plan"}) {
        Words words = {"hone-lora", verb, "--model", w / "model", "--seq-len", "129"};
        if (std::string(verb) != "plan") words = words + Words{"--data", w / "text.txt"};
        if (std::string(verb) == "train") words = words + Words{"--out", w / "o"};
        expect_untouched(w, words, {"--seq-len 129", "128"});
    }
    expect_untouched(w,
                     {"hone-lora", "generate", "--model", w / "model", "--prompt", "abc",
                      "--max-new-tokens", "126"},
                     {"129", "128"});
}

TEST(CliModel, TokenizerLargerThanTheVocabularyIsRefused)
{
    const Workplace w;
    write_file((w / "model") + "/tokenizer.json",
               char_tokenizer(" abcdefghijklmnopqrstuvwxyz.,!?'-:;\n0123456789ABCDEFGHIJKLMNOP"));
    expect_untouched(w, w.train("o", 2), {"tokenizer.json", "65", "64"});
    expect_untouched(w, w.base("eval"), {"tokenizer.json", "65", "64"});
}

TEST(CliModel, NoTokenizerIsRefused)
{
    const Workplace w;
    std::filesystem::remove((w / "model") + "/tokenizer.json");
    expect_untouched(w, w.train("o", 2), {"model"});
    expect_untouched(w, w.train("o", 2) + Words{"--tokenizer", w / "none.json"}, {"none.json"});
}

/* ---- data ---- */

TEST(CliData, MissingUnreadableOrEmpty)
{
    const Workplace w;
    const auto with = [&](const std::string &data) {
        Words words = w.train("o", 2);
        words[5] = data;
        return words;
    };
    expect_untouched(w, with(w / "none.txt"), {"none.txt"});
    write_file(w / "empty.txt", "");
    expect_untouched(w, with(w / "empty.txt"), {"empty.txt"});
    write_file(w / "empty.jsonl", "\n\n");
    expect_untouched(w, with(w / "empty.jsonl"), {"empty.jsonl"});
    if (geteuid() != 0) {
        write_file(w / "closed.txt", "text");
        std::filesystem::permissions(w / "closed.txt", std::filesystem::perms::none);
        expect_untouched(w, with(w / "closed.txt"), {"closed.txt", "Permission denied"});
    }
    std::filesystem::create_directory(w / "bare");
    expect_untouched(w, with(w / "bare"), {"bare"});
    expect_untouched(w, w.train("o", 2) + Words{"--eval-data", w / "none.txt"}, {"none.txt"});
}

TEST(CliData, BrokenRowIsNamedWithItsNumber)
{
    const Workplace w;
    Words words = w.train("o", 2);
    words[5] = w / "rows.jsonl";
    write_file(w / "rows.jsonl", "{\"text\": \"a\"}\n{\"text\": 3}\n");
    expect_untouched(w, words, {"rows.jsonl", "2"});
    write_file(w / "rows.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"\n");
    expect_untouched(w, words, {"rows.jsonl", "2"});
    write_file(w / "rows.jsonl", "{\"txet\": \"a\"}\n");
    expect_untouched(w, words, {"rows.jsonl", "txet"});
}

TEST(CliData, AllLabelsMaskedIsRefused)
{
    const Workplace w;
    Words words = w.train("o", 2);
    words[5] = w / "rows.jsonl";
    write_file(w / "rows.jsonl", "{\"prompt\": \"a very long question that fills the whole row\", "
                                 "\"completion\": \"\"}\n");
    expect_untouched(w, words, {"rows.jsonl"});
    write_file(w / "rows.jsonl", "{\"input_ids\": [5, 6, 7], \"labels\": [-100, -100, -100]}\n");
    expect_untouched(w, words, {"rows.jsonl"});
}

/* What is masked only because rows are cut at seq-len is caught, too. */
TEST(CliData, PromptsLongerThanTheRowAreRefused)
{
    const Workplace w;
    Words words = w.train("o", 2) + Words{"--packing=off"};
    words[5] = w / "rows.jsonl";
    write_file(w / "rows.jsonl", "{\"prompt\": \"a very long question that fills the whole row\", "
                                 "\"completion\": \"yes\"}\n");
    expect_untouched(w, words, {"rows.jsonl"});
}

TEST(CliData, TokenIdsBeyondTheVocabularyAreRefused)
{
    const Workplace w;
    Words words = w.train("o", 2);
    words[5] = w / "rows.jsonl";
    write_file(w / "rows.jsonl", "{\"input_ids\": [5, 6, 64]}\n");
    expect_untouched(w, words, {"rows.jsonl:1", "input_ids[2]", "0..60"});
}

/* ---- LoRA ---- */

TEST(CliLora, RankAboveBothWidthsIsRefused)
{
    const Workplace w;
    expect_untouched(w, w.train("o", 2) + Words{"--rank", "64"}, {"64", "_proj"});
}

TEST(CliLora, TargetsThatMatchNothingAreNamed)
{
    const Workplace w;
    expect_untouched(w, w.train("o", 2) + Words{"--targets", "c_attn"}, {"c_attn"});
    expect_untouched(w, w.train("o", 2) + Words{"--targets", "q_proj,c_attn"}, {"c_attn"});
}

TEST(CliLora, ExclusionsThatMatchNothingAreNamed)
{
    const Workplace w;
    expect_untouched(w, w.train("o", 2) + Words{"--exclude", "lm_heat"}, {"--exclude", "lm_heat"});
}

TEST(CliLora, AdapterOfAnotherModelIsRefused)
{
    const Workplace w;
    const std::string adapter = "tests/fixtures/peft_babyllama_r4";
    expect_untouched(w, w.train("o", 2) + Words{"--adapter", adapter}, {"peft_babyllama_r4"});
    expect_untouched(w, w.base("eval") + Words{"--adapter", adapter}, {"peft_babyllama_r4"});
    expect_untouched(w, {"hone-lora", "generate", "--model", w / "model", "--adapter", adapter},
                     {"peft_babyllama_r4"});
}

TEST(CliLora, AdapterDecidesAboutItsShape)
{
    const Workplace w;
    expect_done(w.run(w.train("first", 1)));
    const std::string adapter = (w / "first") + "/adapter";
    expect_untouched(w, w.train("o", 2) + Words{"--adapter", adapter, "--rank", "4"}, {"--rank"});
    expect_untouched(w, w.train("o", 2, "hone-full") + Words{"--adapter", adapter},
                     {"--adapter", "merge"});
    expect_untouched(w, w.train("o", 2) + Words{"--adapter", (w / "first") + "/checkpoint-1"},
                     {"checkpoint-1 is a checkpoint", "export"});
    std::filesystem::resize_file(adapter + "/adapter_model.safetensors", 200);
    expect_untouched(w, w.train("o", 2) + Words{"--adapter", adapter},
                     {"adapter_model.safetensors"});
    std::filesystem::remove(adapter + "/adapter_config.json");
    expect_untouched(w, w.train("o", 2) + Words{"--adapter", adapter}, {"adapter_config.json"});
}

/* ---- out folder, resume, export ---- */

TEST(CliOut, ARunIsNotOverwritten)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 2)));
    expect_untouched(w, w.train("o", 2), {w / "o", "step 2", "--resume"});
}

TEST(CliOut, AFolderInUseIsRefused)
{
    const Workplace w;
    Program first(w.train("o", 1000000) + Words{"--log-every", "1"}, w.str());
    ASSERT_TRUE(first.says("step 1/"));
    const Ran r = w.run(w.train("o", 2));
    expect_refused(r, 2, {w / "o", "in use by process"});
    first.kill(SIGTERM);
    expect_done(first.wait());
}

TEST(CliOut, APathThatIsNoFolderIsRefused)
{
    const Workplace w;
    write_file(w / "o", "a file");
    expect_untouched(w, w.train("o", 2), {w / "o"});
    expect_untouched(w, w.train("o/below", 2), {w / "o"});
}

TEST(CliResume, OtherSettingsOrDataAreRefused)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 4) + Words{"--stop-after", "2"}));
    const Words again = w.train("o", 4) + Words{"--resume", "auto"};
    expect_untouched(w, again + Words{"--rank", "4"}, {"settings", "rank: 16", "rank: 4"});
    expect_untouched(w, again + Words{"--seed", "4"}, {"settings", "seed: 0", "seed: 4"});
    expect_untouched(w, again + Words{"--batch-size", "1"}, {"settings", "batch-size"});
    const std::string text = read_file(w / "text.txt");
    write_file(w / "text.txt", text + "more");
    expect_untouched(w, again, {"data set"});
    write_file(w / "text.txt", text);
    rewrite_weights((w / "model") + "/model.safetensors", [](hn_st_entry &e) {
        static const std::vector<float> zeros(64 * 32);
        if (std::string(e.name) == "lm_head.weight") e.data = zeros.data();
        return true;
    });
    expect_untouched(w, again, {"base model"});
}

TEST(CliResume, IsRefusedWithoutAFolder)
{
    const Workplace w;
    expect_untouched(w, w.base("train") + Words{"--steps", "2", "--resume", "auto"}, {"--out"});
    expect_untouched(w, w.train("o", 2) + Words{"--resume", w / "none"}, {w / "none"});
}

TEST(CliResume, AnotherRunsFolderIsNotMixedIn)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 4) + Words{"--save-every", "2"}));
    expect_done(w.run(w.train("p", 4) + Words{"--stop-after", "2"}));
    for (const char *from : {"o/checkpoint-2", "p/checkpoint-2"})
        expect_untouched(w, w.train("o", 4) + Words{"--resume", w / from}, {w / "o", "step 4"});
}

/* Damage is noticed: a checkpoint that is named is refused, nothing is created. */
TEST(CliResume, ADamagedCheckpointIsNamed)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 4) + Words{"--stop-after", "2"}));
    const std::string checkpoint = (w / "o") + "/checkpoint-2";
    std::string bytes = read_file(checkpoint + "/delta.safetensors");
    bytes.back() ^= 1;
    write_file(checkpoint + "/delta.safetensors", bytes);
    expect_untouched(w, w.train("other", 4) + Words{"--resume", checkpoint},
                     {"checkpoint-2", "delta.safetensors"});
    expect_untouched(w,
                     {"hone-lora", "export", "--model", w / "model", "--checkpoint", checkpoint,
                      "--to", w / "x"},
                     {"checkpoint-2", "delta.safetensors"});
    expect_untouched(w, {"hone-lora", "info", "--path", checkpoint}, {"delta.safetensors"});
}

TEST(CliResume, ACheckpointOfTheOtherMethodIsRefused)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 4) + Words{"--stop-after", "2"}));
    expect_untouched(
        w, w.train("other", 4, "hone-full") + Words{"--resume", (w / "o") + "/checkpoint-2"},
        {"method", "lora", "full"});
}

TEST(CliExport, RefusesWhatItCannotWrite)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 2)));
    const Words words = {"hone-lora", "export", "--model", w / "model", "--checkpoint", w / "o"};
    expect_untouched(w, words + Words{"--to", w / "model"}, {w / "model", "exists"});
    expect_untouched(w,
                     {"hone-lora", "export", "--model", w / "model", "--checkpoint", w / "none",
                      "--to", w / "x"},
                     {w / "none"});
    expect_untouched(w,
                     {"hone-lora", "export", "--model", w / "model", "--checkpoint", w / "model",
                      "--to", w / "x"},
                     {w / "model", "checkpoint"});
}

/* ---- a disk that is full ---- */

TEST(CliDisk, FullAtTheFirstCheckpointNamesTheFile)
{
    const Workplace w;
    Ran r;
    {
        const FileSizeLimit limit(8192);
        r = w.run(w.train("o", 2));
    }
    expect_refused(r, 1, {w / "o", "checkpoint-2", "File too large"});
    for (const auto &[name, content] : listing(w / "o"))
        EXPECT_FALSE(contains(name, "checkpoint")) << name;
}

TEST(CliDisk, FullLaterLeavesTheOlderCheckpoint)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 8) + Words{"--stop-after", "2"}));
    const std::string checkpoint = (w / "o") + "/checkpoint-2";
    const auto before = listing(checkpoint);
    {
        const FileSizeLimit limit(8192);
        expect_refused(w.run(w.train("o", 8) + Words{"--resume", "auto"}), 1,
                       {"checkpoint-8", "File too large"});
    }
    EXPECT_EQ(listing(checkpoint), before);
    expect_done(w.run(w.train("o", 8) + Words{"--resume", "auto"}));
}

TEST(CliDisk, FullWhileExportingLeavesNothing)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 2)));
    const FileSizeLimit limit(8192);
    for (const char *kind : {"peft", "merged"})
        expect_untouched(w,
                         {"hone-lora", "export", "--model", w / "model", "--checkpoint", w / "o",
                          "--to", w / "x", "--kind", kind},
                         {"File too large"}, 1);
}

/* What is printed does not go into the run's files, though they would get the numbers of the
 * streams. */
TEST(CliDisk, ClosedStreamsStayClosed)
{
    const Workplace w;
    expect_done(w.run(w.train("open", 2)));
    for (const std::string closed : {"2>&-", ">&- 2>&-", "<&- >&- 2>&-"}) {
        std::filesystem::remove_all(w / "o");
        std::string line = "HOME='" + w.str() + "' XDG_CACHE_HOME='" + w.str() +
                           "/.cache' OMP_NUM_THREADS=1 \"${HONE_BIN:-build}\"/hone-lora";
        const Words words = with_device(w.train("o", 2));
        for (size_t i = 1; i < words.size(); i++) line += " '" + words[i] + "'";
        const int status = std::system((line + " " + closed).c_str());
        ASSERT_TRUE(WIFEXITED(status));
        EXPECT_EQ(WEXITSTATUS(status), closed == "2>&-" ? 0 : 1) << closed;
        const auto files = listing(w / "o"), want = listing(w / "open");
        for (const char *name : {".lock", "metrics.csv", "metrics.jsonl"}) {
            EXPECT_FALSE(contains(files.at(name), "memory plan")) << closed << " " << name;
            EXPECT_FALSE(contains(files.at(name), "options, saved")) << closed << " " << name;
            EXPECT_EQ(lines_of(files.at(name)).size(), lines_of(want.at(name)).size()) << closed;
        }
        EXPECT_EQ(files.at("adapter/adapter_model.safetensors"),
                  want.at("adapter/adapter_model.safetensors"));
    }
}

TEST(CliDisk, FullStandardOutputIsReported)
{
    const Workplace w;
    expect_refused(w.run({"hone-lora", "info", "--path", w / "model"}, "/dev/full"), 1,
                   {"standard output"});
    expect_refused(w.run({"hone-lora", "generate", "--model", w / "model"}, "/dev/full"), 1, {});
    for (const Words &words : std::vector<Words>{{"hone-lora", "--help"},
                                                 {"hone-lora", "train", "--help"},
                                                 {"hone-fedref", "--help"},
                                                 {"hone-fedref", "train", "--help"},
                                                 {"hone", "--help"},
                                                 {"hone", "--version"}})
        expect_refused(w.run(words, "/dev/full"), 1, {"standard output"});
}

} // namespace
