/* hone-sparse: whole runs, their results, and what it refuses. */
#include "cli_run_test.h"
#include "image_test.h"

#include <numeric>

#include "runtime/file/sparse_pack.h"

namespace {

/* A quarter of the small model's values in 4 x 4 blocks, chosen from four batches. */
const Words small = {"--block", "4x4", "--budget", "25%", "--select-batches", "4"};

/* Reselections behind steps 8 and 14, out of 3 steps of scores and 3 of sums each. */
const Words moving = {"--preset",        "absd-dynamic",
                      "--select-every",  "6",
                      "--select-at",     "8",
                      "--select-window", "6",
                      "--select-until",  "0.9",
                      "--hysteresis",    "0",
                      "--protect=off"};

Words sparse(const Workplace &w, const std::string &out, int steps, const Words &more)
{
    return w.train(out, steps, "hone-sparse") + small + more;
}

double loss_of(const Ran &r)
{
    expect_done(r);
    double loss = -1;
    EXPECT_EQ(std::sscanf(r.out.c_str(), "loss %lf", &loss), 1) << r.out;
    return loss;
}

Ran evaluate(const Workplace &w, const std::string &model, const std::string &adapter = "")
{
    Words words = w.base("eval", "hone-sparse");
    words[3] = model;
    if (!adapter.empty()) words = words + Words{"--adapter", adapter};
    return w.run(words);
}

Ran to_export(const Workplace &w, const std::string &run, const std::string &kind,
              const std::string &to)
{
    return w.run(
        {"hone-sparse", "export", "--checkpoint", w / run, "--kind", kind, "--to", w / to});
}

int count(const std::string &text, const std::string &part)
{
    int n = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) n++;
    return n;
}

/* ---- verbs that train nothing ---- */

/* What they plan is the step of train: with several micro-batches whole gradients besides. */
TEST(CliSparse, PlansAndChecksAStep)
{
    const Workplace w;
    const Words model = {"--model", w / "model", "--seq-len", "16", "--batch-size", "2"};
    const Words some = small + Words{"--device", "cpu"};
    const Ran one = w.run(Words{"hone-sparse", "plan"} + model + some);
    const Ran four = w.run(Words{"hone-sparse", "plan", "--accumulation", "4"} + model + some);
    expect_done(one), expect_done(four);
    EXPECT_NE(one.out, four.out);
    const Ran checked = w.run(w.base("check", "hone-sparse") + some);
    expect_done(checked);
    EXPECT_TRUE(contains(checked.out, "token by token")) << checked.out;
}

/* ---- the same bits ---- */

class CliSparseResumed : public testing::TestWithParam<std::pair<int, Words>> {};

TEST_P(CliSparseResumed, ContinuesBitForBit)
{
    const auto &[stop, more] = GetParam();
    const Workplace w;
    const Ran whole = w.run(sparse(w, "whole", 20, more));
    expect_done(whole);
    expect_done(w.run(sparse(w, "parts", 20, more + Words{"--stop-after", std::to_string(stop)})));
    const Ran second = w.run(sparse(w, "parts", 20, more + Words{"--resume", "auto"}));
    expect_done(second);
    EXPECT_EQ(trained_bytes((w / "parts") + "/checkpoint-20"),
              trained_bytes((w / "whole") + "/checkpoint-20"));
    EXPECT_EQ(read_file((w / "parts") + "/delta/delta.safetensors"),
              read_file((w / "whole") + "/delta/delta.safetensors"));
    for (const char *name : {"loss", "grad_norm", "eval_loss"})
        EXPECT_EQ(column(w / "parts", name), column(w / "whole", name)) << name;
    EXPECT_EQ(count(whole.err, "selection: "), 1) << whole.err;
    EXPECT_EQ(count(second.err, "selection: "), 0) << second.err;
}

/* Stops: in front of a selection, inside its scores, between them and the sums, inside the sums,
 * right behind it. */
INSTANTIATE_TEST_SUITE_P(
    Runs, CliSparseResumed,
    testing::Values(
        std::pair{10, Words{}}, std::pair{1, moving}, std::pair{4, moving}, std::pair{5, moving},
        std::pair{7, moving}, std::pair{8, moving},
        std::pair{10, moving + Words{"--accumulation", "2", "--eval-split", "0.2"}},
        std::pair{12, moving + Words{"--dtype", "bf16", "--weight-decay", "0.1"}},
        std::pair{11, moving + Words{"--score", "fisher", "--drop", "change"}},
        std::pair{11, moving + Words{"--score", "snip", "--drop", "sensitivity"}},
        std::pair{10, Words{"--preset", "lift", "--block", "1x1", "--lift-rank", "4",
                            "--select-every", "4"}},
        std::pair{10, Words{"--preset", "lift", "--lift-rank", "4", "--select-every", "4",
                            "--dtype", "bf16", "--eval-split", "0.2", "--eval-every", "3"}},
        std::pair{10, Words{"--preset", "rosa", "--lora-rank", "2", "--lora-steps", "3"}}));

TEST(CliSparseSeed, OneSeedGivesTheSameBytes)
{
    const Workplace w;
    for (const char *out : {"a", "b"}) expect_done(w.run(sparse(w, out, 12, moving)));
    expect_done(w.run(sparse(w, "c", 12, moving + Words{"--seed", "1"})));
    expect_done(w.run(
        {"hone-sparse", "train", "--config", (w / "a") + "/run.yaml", "--out", w / "record"}));
    const auto a = trained_bytes((w / "a") + "/checkpoint-12");
    EXPECT_EQ(trained_bytes((w / "b") + "/checkpoint-12"), a);
    EXPECT_EQ(trained_bytes((w / "record") + "/checkpoint-12"), a);
    EXPECT_NE(trained_bytes((w / "c") + "/checkpoint-12"), a);
}

/* The blocks of a run on one thread are those on two; sums of other lengths round differently. */
TEST(CliSparseSeed, TheSelectionReadsNoDataAway)
{
    const Workplace w;
    const Words none = {"--score", "magnitude", "--scope", "matrix"};
    expect_done(w.run(sparse(w, "by-gradient", 4, {"--lr", "0", "--warmup-steps", "0"})));
    expect_done(w.run(sparse(w, "by-weight", 4, none + Words{"--lr", "0", "--warmup-steps", "0"})));
    EXPECT_EQ(column(w / "by-gradient", "loss"), column(w / "by-weight", "loss"));
    EXPECT_EQ(column(w / "by-gradient", "tokens"), column(w / "by-weight", "tokens"));
}

/* ---- what is said, and how much is trained ---- */

TEST(CliSparse, SaysWhatItChoseAndWhatChanged)
{
    const Workplace w;
    const Ran r = w.run(sparse(w, "o", 20, moving));
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "blocks by gradient of 4 batches, 2")) << r.err;
    EXPECT_TRUE(contains(r.err, "selection behind step 8: ")) << r.err;
    EXPECT_TRUE(contains(r.err, "selection behind step 14: ")) << r.err;
    EXPECT_EQ(count(r.err, "selection behind step"), 2) << r.err;
    for (const char *part : {" replaced, ", " held, ", " too young; now q_proj ", "down_proj "})
        EXPECT_TRUE(contains(r.err, part)) << part;
    EXPECT_TRUE(contains(r.out, "(delta pack)")) << r.out;
    const auto table = lines_of(read_file((w / "o") + "/support.csv"));
    ASSERT_EQ(table.size(), 15u); /* 2 layers of 7 matrices */
    EXPECT_EQ(table[1].rfind("0,self_attn.q_proj,32,32,64,", 0), 0u) << table[1];
    EXPECT_TRUE(contains(read_file((w / "o") + "/support.gnuplot"), "'mlp.up_proj' "));
    const Ran plain = w.run(w.train("p", 2, "hone-sparse") + Words{"--budget", "25%"});
    expect_done(plain); /* 40 channels are no multiple of 16 */
    EXPECT_TRUE(contains(plain.err, "blocks: 4x4, as 16x16 does not divide")) << plain.err;
}

/* A block that would have to be better by far stays; a young one stays, too. */
TEST(CliSparse, HysteresisAndProtectionHoldBlocks)
{
    const Workplace w;
    const Ran held = w.run(sparse(w, "h", 10, moving + Words{"--hysteresis", "1e6"}));
    expect_done(held);
    EXPECT_TRUE(contains(held.err, "selection behind step 8: 0 of ")) << held.err;
    const Ran young = w.run(sparse(w, "y", 20,
                                   moving + Words{"--select-every", "10", "--select-at", "8",
                                                  "--protect=on", "--seed-moments=off"}));
    expect_done(young);
    const std::string line = young.err.substr(young.err.find("selection behind step 8: "), 90);
    EXPECT_EQ(line.rfind("selection behind step 8: 0 of 216 ", 0), 0u) << line;
    EXPECT_FALSE(contains(line, " 0 too young")) << line;
}

TEST(CliSparse, LowersTheLossAndIsExportedEveryWay)
{
    const Workplace w;
    const double before = loss_of(evaluate(w, w / "model"));
    expect_done(w.run(sparse(w, "o", 30, moving)));
    const std::string pack = (w / "o") + "/delta";
    const double after = loss_of(evaluate(w, w / "model", pack));
    EXPECT_LT(after, before - 0.3);
    for (const char *kind : {"merged", "pack", "auto"}) {
        const Ran r = to_export(w, "o", kind, kind);
        expect_done(r);
        EXPECT_TRUE(contains(r.err, "read back, logits differ by 0 relative")) << r.err;
    }
    EXPECT_NEAR(loss_of(evaluate(w, w / "merged")), after, 1e-6);
    EXPECT_EQ(read_file((w / "pack") + "/delta.safetensors"),
              read_file(pack + "/delta.safetensors"));
    const Ran info = w.run({"hone-sparse", "info", "--path", pack});
    expect_done(info);
    for (const char *part : {"delta pack", "4 x 4", "model.layers.1.mlp.down_proj.weight"})
        EXPECT_TRUE(contains(info.out, part)) << info.out;
    const Words text = {"hone-sparse", "generate", "--prompt", "the fox ", "--max-new-tokens", "8"};
    const Ran one = w.run(text + Words{"--model", w / "merged"});
    expect_done(one);
    EXPECT_EQ(one.out, w.run(text + Words{"--model", w / "model", "--adapter", pack}).out);
}

TEST(CliSparse, IsExportedToShira)
{
    const Workplace w;
    const Words few = {"--block", "1x1",     "--score", "random",   "--scope",
                       "matrix",  "--share", "lora",    "--budget", "lora:2"};
    expect_done(w.run(sparse(w, "o", 6, few)));
    const Ran r = to_export(w, "o", "shira", "shira");
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "read back, logits differ by 0 relative")) << r.err;
    EXPECT_TRUE(contains(read_file((w / "shira") + "/adapter_config.json"), "SHIRA"));
    expect_done(w.run(sparse(w, "kept", 9,
                             {"--preset", "lift", "--block", "4x4", "--budget", "10%",
                              "--lift-rank", "4", "--select-every", "4"})));
    expect_refused(to_export(w, "kept", "shira", "no"), 2, {"--kind shira", "--on-drop keep"});
}

/* Weights that files have transposed: ids are those of the layer, the merged file has its own
 * order. */
TEST(CliSparse, OfTransposedWeightsIsMergedInTheOrderOfTheFile)
{
    const Workplace w;
    write_file((w / "model") + "/config.json",
               R"({"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 2,
                   "n_head": 2, "n_positions": 24, "resid_pdrop": 0, "embd_pdrop": 0,
                   "attn_pdrop": 0, "bos_token_id": 1, "eos_token_id": 2})");
    Words words = w.train("full", 2, "hone-full");
    words[3] = (w / "model") + "/config.json";
    expect_done(w.run(words));
    words = sparse(w, "o", 10, {});
    words[3] = (w / "full") + "/model";
    expect_done(w.run(words));
    const double after = loss_of(evaluate(w, words[3], (w / "o") + "/delta"));
    EXPECT_LT(after, loss_of(evaluate(w, words[3])));
    expect_done(to_export(w, "o", "merged", "merged"));
    EXPECT_NEAR(loss_of(evaluate(w, w / "merged")), after, 1e-6);
    expect_refused(to_export(w, "o", "shira", "s"), 2, {"--kind shira", "transposed"});
}

/* ---- presets ---- */

class CliSparsePreset : public testing::TestWithParam<std::pair<const char *, Words>> {};

TEST_P(CliSparsePreset, TrainsAndIsMerged)
{
    const auto &[name, more] = GetParam();
    const Workplace w;
    const Ran r =
        w.run(w.train("o", 6, "hone-sparse") +
              Words{"--preset", name, "--eval-split", "0.2", "--warmup-steps", "0"} + more);
    expect_done(r);
    EXPECT_EQ(count(r.err, "selection: "), 1) << r.err;
    const std::string pack = (w / "o") + "/delta";
    const double base = loss_of(evaluate(w, w / "model"));
    const double after = loss_of(evaluate(w, w / "model", pack));
    EXPECT_NE(after, base);
    expect_done(to_export(w, "o", "merged", "merged"));
    EXPECT_NEAR(loss_of(evaluate(w, w / "merged")), after, 1e-6);
}

INSTANTIATE_TEST_SUITE_P(
    All, CliSparsePreset,
    testing::Values(std::pair{"absd", Words{"--budget", "lora:2"}},
                    std::pair{"absd-dynamic", Words{"--budget", "lora:2", "--select-every", "4",
                                                    "--select-window", "3"}},
                    std::pair{"sift", Words{}}, std::pair{"fish", Words{"--select-samples", "8"}},
                    std::pair{"spiel-ag", Words{"--budget", "lora:2"}},
                    std::pair{"smt", Words{"--select-batches", "5"}},
                    std::pair{"shira", Words{"--budget", "lora:2"}},
                    std::pair{"lift", Words{"--budget", "lora:2", "--select-every", "3"}},
                    std::pair{"rosa", Words{"--lora-steps", "3", "--lora-rank", "2"}},
                    std::pair{"s2ft", Words{"--budget", "10%"}},
                    std::pair{"diablo", Words{"--budget", "0.125"}}),
    [](const auto &i) {
        std::string name = i.param.first;
        std::erase(name, '-');
        return name;
    });

/* Ids of the trained blocks by weight. */
std::map<std::string, std::vector<int32_t>> ids_of(const std::string &delta)
{
    std::map<std::string, std::vector<int32_t>> ids;
    hn_pack pack = {};
    EXPECT_HN_OK(hn_pack_load((delta + "/delta.safetensors").c_str(), &pack, nullptr));
    for (int64_t i = 0; i < pack.n; i++)
        ids[pack.matrix[i].name].assign(pack.matrix[i].id, pack.matrix[i].id + pack.matrix[i].n);
    hn_pack_free(&pack);
    return ids;
}

/* 4 heads of 8 rows, two of which share keys and values: rows of q, k and v, and the columns of o
 * that read them, of one head of those. */
TEST(CliSparsePresets, S2ftTakesWholeHeads)
{
    const Workplace w;
    const Words words = w.train("o", 4, "hone-sparse") + Words{"--preset", "s2ft"};
    const auto heads = [&](const std::string &out, const char *targets, const char *budget) {
        expect_done(
            w.run(words + Words{"--targets", targets, "--budget", budget, "--out", w / out}));
        return ids_of((w / out) + "/delta");
    };
    const auto lines = [](int32_t first, int32_t n) {
        std::vector<int32_t> v((size_t)n);
        std::iota(v.begin(), v.end(), first);
        return v;
    };
    const auto all = heads("all", "all-linear", "60%");
    for (const char *layer : {"model.layers.0.", "model.layers.1."}) {
        const auto of = [&](const char *name) { return all.at(layer + std::string(name)); };
        const auto v = of("self_attn.v_proj.weight");
        ASSERT_EQ(v.size(), 8u);
        const int32_t head = v[0] / 8;
        EXPECT_EQ(v, lines(8 * head, 8));
        EXPECT_EQ(of("self_attn.k_proj.weight"), v);
        EXPECT_EQ(of("self_attn.q_proj.weight"), lines(16 * head, 16));
        EXPECT_EQ(of("self_attn.o_proj.weight"), lines(16 * head, 16));
        EXPECT_EQ(of("mlp.up_proj.weight").size(), 24u); /* of 40 channels */
        EXPECT_EQ(of("mlp.down_proj.weight"), of("mlp.up_proj.weight"));
    }
    /* without keys and values a head is one of queries: 3 of 4 */
    const auto queries = heads("queries", "q_proj,o_proj", "80%");
    const auto q = queries.at("model.layers.0.self_attn.q_proj.weight");
    EXPECT_EQ(q.size(), 24u);
    EXPECT_EQ(queries.at("model.layers.0.self_attn.o_proj.weight"), q);
    for (size_t i = 0; i < q.size(); i += 8) EXPECT_EQ(q[i] % 8, 0);

    const auto refused = [&](const char *targets, const char *budget, const Words &parts) {
        expect_refused(w.run(words + Words{"--targets", targets, "--budget", budget}), 2, parts);
    };
    refused("v_proj,o_proj", "40%", {"less than one head of", "self_attn.v_proj", "2 of them"});
    refused("q_proj,v_proj", "60%", {"there is no o_proj", "self_attn.q_proj"});
    refused("o_proj", "60%", {"no layer that makes its input"});
}

TEST(CliSparsePresets, WhatTheUserGivesWins)
{
    const Workplace w;
    expect_done(w.run(w.train("o", 2, "hone-sparse") +
                      Words{"--preset", "shira", "--budget", "lora:2", "--scope", "global"}));
    const std::string yaml = read_file((w / "o") + "/run.yaml");
    for (const char *line : {"preset: \"shira\"", "score: \"random\"", "share: \"lora\"",
                             "budget: \"lora:2\"", "scope: \"global\"", "block: \"1x1\""})
        EXPECT_TRUE(contains(yaml, line)) << line << "\n" << yaml;
    for (const char *idle : {"seed-moments", "select-every", "on-drop"}) /* of reselections */
        EXPECT_FALSE(contains(yaml, idle)) << idle << "\n" << yaml;
}

/* ---- packs of other runs ---- */

TEST(CliSparsePacks, OneRunGoesOnWithAnothersPack)
{
    const Workplace w;
    expect_done(w.run(sparse(w, "first", 12, {})));
    const std::string pack = (w / "first") + "/delta";
    const Words words = w.train("second", 12, "hone-sparse") + Words{"--adapter", pack};
    const Ran r = w.run(words);
    expect_done(r);
    EXPECT_EQ(count(r.err, "selection: "), 0) << r.err;
    EXPECT_LT(loss_of(evaluate(w, w / "model", (w / "second") + "/delta")),
              loss_of(evaluate(w, w / "model", pack)));
    expect_done(to_export(w, "second", "merged", "merged"));
    EXPECT_NEAR(loss_of(evaluate(w, w / "merged")),
                loss_of(evaluate(w, w / "model", (w / "second") + "/delta")), 1e-6);
    expect_refused(w.run(words + Words{"--out", w / "x", "--budget", "10%"}), 2,
                   {"--budget", "--adapter"});
    expect_refused(w.run(w.train("no", 2, "hone-lora") + Words{"--adapter", pack}), 2,
                   {"--adapter", "adapter_config.json"});
}

TEST(CliSparsePacks, AMaskIsTheFirstSupport)
{
    const Workplace w;
    expect_done(w.run(sparse(w, "first", 4, {})));
    const Words mask = {"--mask", (w / "first") + "/delta"};
    const Ran same = w.run(sparse(w, "same", 4, mask));
    expect_done(same);
    EXPECT_TRUE(contains(same.err, "blocks by mask")) << same.err;
    EXPECT_EQ(trained_bytes((w / "same") + "/checkpoint-4"),
              trained_bytes((w / "first") + "/checkpoint-4"));
    expect_refused(w.run(sparse(w, "x", 4, mask + Words{"--budget", "10%"})), 2,
                   {"--mask", "--budget blocks:"});
    expect_refused(w.run(sparse(w, "x", 4, mask + Words{"--block", "1x1"})), 2,
                   {"--mask", "4 x 4", "1 x 1"});
    expect_refused(w.run(sparse(w, "x", 4, mask + Words{"--targets", "q_proj"})), 2,
                   {"--mask", "--targets"});
    expect_done(w.run(w.train("pairs", 2, "hone-lora")));
    expect_refused(w.run(sparse(w, "x", 4, {"--mask", (w / "pairs") + "/checkpoint-2"})), 2,
                   {"--mask", "has no blocks"});
    const Workplace other("mistral");
    expect_refused(other.run(sparse(other, "x", 4, mask)), 2, {"--mask", "of another model"});
    expect_refused(other.run(other.train("x", 2, "hone-sparse") +
                             Words{"--adapter", (w / "first") + "/delta"}),
                   2, {"another base model"});
    EXPECT_FALSE(std::filesystem::exists(w / "x"));
}

/* ---- images ---- */

TEST(CliSparseImages, TrainsAClassifierWithANewHead)
{
    TempDir dir;
    std::filesystem::create_directory(dir / "data");
    std::mt19937 rng(1);
    for (const auto &[part, n] : {std::pair{"train", 24u}, std::pair{"val", 9u}}) {
        std::string images, labels;
        for (uint32_t i = 0; i < n; i++) {
            for (int k = 0; k < 16 * 16 * 3; k++)
                images += (char)((k / 3) % 3 == (int)i % 3 ? 170 + rng() % 60 : rng() % 100);
            labels += (char)(i % 3);
        }
        write_file(dir / (std::string("data/") + part + "-images-idx-ubyte"),
                   idx(8, {n, 16, 16, 3}, images));
        write_file(dir / (std::string("data/") + part + "-labels-idx-ubyte"), idx(8, {n}, labels));
    }
    const auto run = [&](const Words &words) { return Program(words, dir.str()).wait(); };
    const Words base = {
        "--model", "tests/fixtures/peft_resnet/base", "--data", dir / "data", "--batch-size", "4"};
    const Words train =
        Words{"hone-sparse", "train"} + base +
        Words{"--steps",          "8", "--lr",       "1e-2", "--block", "1x1", "--budget", "10%",
              "--select-batches", "4", "--new-head", "on"};
    const Ran r = run(train + Words{"--out", dir / "o"});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "head: a new one for 3 classes")) << r.err;
    expect_done(run(train + Words{"--out", dir / "p", "--stop-after", "3"}));
    expect_done(run(train + Words{"--out", dir / "p", "--resume", "auto"}));
    EXPECT_EQ(trained_bytes((dir / "p") + "/checkpoint-8"),
              trained_bytes((dir / "o") + "/checkpoint-8"));
    expect_done(run({"hone-sparse", "export", "--checkpoint", dir / "o", "--kind", "merged", "--to",
                     dir / "merged"}));
    const Ran pack =
        run(Words{"hone-sparse", "eval"} + base + Words{"--adapter", (dir / "o") + "/delta"});
    Words words = Words{"hone-sparse", "eval"} + base;
    words[3] = dir / "merged";
    EXPECT_NEAR(loss_of(run(words)), loss_of(pack), 1e-5);
    expect_refused(run({"hone-sparse", "export", "--checkpoint", dir / "o", "--kind", "shira",
                        "--to", dir / "s"}),
                   2, {"--kind shira", "in another way, too"});
    /* its blocks are counted anew in every stage: layer1.0, .., layer2.0 */
    Words other = train + Words{"--out", dir / "r"};
    other[3] = "resnet20";
    other.erase(other.end() - 4, other.end() - 2); /* --new-head */
    expect_done(run(other));
    std::set<std::string> names;
    const auto table = lines_of(read_file((dir / "r") + "/support.csv"));
    for (const std::string &line : table)
        names.insert(line.substr(0, line.find(',', line.find(',') + 1)));
    EXPECT_EQ(names.size(), table.size());
    EXPECT_TRUE(names.count("layer2.0,conv1"));
}

/* ---- what is refused ---- */

TEST(CliSparseRefuses, WhatMakesNoSense)
{
    const Workplace w;
    const auto with = [&](const Words &more) {
        return w.run(w.train("o", 4, "hone-sparse") + Words{"--select-batches", "4"} + more);
    };
    const std::pair<Words, Words> cases[] = {
        {{"--budget", "0"}, {"budget '0'"}},
        {{"--budget", "0%"}, {"budget '0%'"}},
        {{"--budget", "values:0"}, {"budget 'values:0'"}},
        {{"--budget", "values:3", "--block", "4x4"}, {"3 values", "less than one block"}},
        {{"--budget", "lora:64"}, {"budget of", "the chosen matrices have"}},
        {{"--block", "64x64"}, {"model.layers.0"}},
        {{"--block", "16x16", "--budget", "25%"}, {"mlp", "16"}},
        {{"--preset", "nothing"}, {"--preset 'nothing'", "absd|absd-dynamic|sift"}},
        {{"--rank", "4"}, {"rank"}},
        {{"--train-head=on", "--budget=25%"}, {"--train-head", "image classifiers"}},
        {{"--optimizer", "sgd"}, {"--optimizer sgd", "adamw"}},
        {{"--targets", "nobody"}, {"--targets", "nobody"}},
        {{"--lora-steps", "4"}, {"--lora-steps", "--lora-rank"}},
        {{"--on-drop", "keep"}, {"--on-drop", "--static on"}},
        {{"--seed-moments=off"}, {"--seed-moments", "without effect", "--static on"}},
        {{"--preset=smt", "--seed-moments=on"}, {"--seed-moments", "--static on"}},
        {{"--static=off", "--score=fisher", "--seed-moments=on"}, {"--seed-moments", "sums no"}},
        {{"--static=off", "--score=fisher", "--drop=sensitivity"}, {"--drop sensitivity"}},
        {{"--block", "row", "--budget", "25%"}, {"values", "share"}},
        {{"--budget", "25%", "--accumulation", "2", "--select-memory", "0"}, {"--select-memory 0"}},
        {{"--budget", "25%", "--mask", w / "text.txt"}, {"text.txt"}},
        {{"--budget", "25%", "--mask", w / "nowhere"}, {"nowhere"}},
    };
    for (const auto &[given, parts] : cases) {
        SCOPED_TRACE(given[0] + " " + given.back());
        expect_refused(with(given), 2, parts);
        EXPECT_FALSE(std::filesystem::exists(w / "o")) << given[0];
    }
    expect_done(w.run(w.train("pairs", 1)));
    expect_refused(w.run({"hone-sparse", "eval", "--model", w / "model", "--data", w / "text.txt",
                          "--adapter", w / "pairs/adapter"}),
                   2, {"pairs/adapter", "no delta.safetensors", "hone-lora"});
    expect_done(with({"--budget", "25%"}));
    expect_refused(to_export(w, "o", "peft", "x"), 2, {"--kind peft", "pack, shira or merged"});
    expect_refused(with({"--budget", "20%", "--resume", "auto"}), 2, {"other settings"});
}

} // namespace
