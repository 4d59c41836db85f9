/* hone-pearl on a stream of three tasks: what it keeps, forgets, counts. */
#include "classifier_test.h"
#include "pearl_test.h"
#include "runtime/adapt/rank_rule.h"
#include "runtime/model/model.h"

namespace {

TEST(CliPearl, ForgetsNothing)
{
    const PearlPlace w;
    expect_done(w.run(w.resnet() + w.to("run")));
    const Json result(w / "run/result.json");
    EXPECT_EQ(result.number("after_task"), 3);
    EXPECT_EQ(result.number("metrics.StreamForgetting"), 0);
    EXPECT_EQ(result.number("metrics.MaxForgetting"), 0);
    EXPECT_GT(result.number("accuracy.1.0"), 0.5); /* of two classes */
    const Json last(w.record("run", 3, "task.json"));
    for (int t = 1; t <= 3; t++) {
        const Json then(w.record("run", t, "task.json"));
        const std::string own = "logits_sha256." + std::to_string(t - 1);
        EXPECT_EQ(then.text(own), last.text(own)) << "task " << t;
    }
    for (const char *name : {"accuracy.csv", "metrics.csv", "ranks.csv", "classil-prototype.csv",
                             "classil-max-logit.csv", "run.yaml", "reference/config.json"})
        EXPECT_TRUE(std::filesystem::exists((w / "run/") + name)) << name;
    EXPECT_FALSE(std::filesystem::exists(w / "run/working"));
    const Ran eval = w.run({"hone-pearl", "eval", "--run", w / "run"});
    expect_done(eval);
    EXPECT_TRUE(contains(eval.out, "3 of 3 tasks have the logits of the run")) << eval.out;
}

/* Spectra, distances and ranks of a record belong together. */
TEST(CliPearl, RanksFollowTheRecordedSpectra)
{
    const PearlPlace w;
    expect_done(w.run(w.resnet() + w.to("run") + Words{"--stop-after", "2", "--energy", "0.8"}));
    const Json record(w.record("run", 2, "task.json"));
    const size_t layers = json_array_size(record.at("layers"));
    EXPECT_EQ(layers, 19u);
    int64_t pairs = 0;
    for (size_t i = 0; i < layers; i++) {
        const std::string at = "layers." + std::to_string(i) + ".";
        std::vector<double> s;
        double energy = 0;
        for (size_t k = 0; k < json_array_size(record.at(at + "spectrum")); k++)
            s.push_back(record.number(at + "spectrum." + std::to_string(k)));
        for (const double x : s) energy += x * x;
        const double moved = record.number(at + "distance") * record.number(at + "reference_norm");
        EXPECT_NEAR(std::sqrt(energy), moved, 1e-6 * moved) << at;
        EXPECT_GT(moved, 0) << at;
        const int64_t k = hn_rank_by_energy(s.data(), (int64_t)s.size(), 0.8);
        EXPECT_EQ(record.number(at + "rank"), (double)k) << at;
        EXPECT_FALSE(json_is_true(record.at(at + "dense"))) << at;
        pairs += k * (int64_t)(record.number(at + "rows") + record.number(at + "cols"));
    }
    EXPECT_EQ(record.number("parameters.low_rank"), (double)pairs);
}

/* The same task twice: R2 sees that nothing moves away from the reference, R1 cannot. */
TEST(CliPearl, ARepeatedTaskHasRankZeroByR2Only)
{
    const PearlPlace w;
    const Words twice = {"--tasks", "0,1/0,1", "--allow-repeats", "--probe-lr", "1e-4"};
    const Words run = PearlPlace::without(w.vit(), "--increment") + twice;
    expect_done(w.run(run + w.to("r2") + Words{"--rank-rule", "r2", "--eps", "0.1"}));
    expect_done(w.run(run + w.to("r1")));
    EXPECT_LT(Json(w / "r2/result.json").number("cell.per_task.1.mean_rank"), 0.1);
    EXPECT_GT(Json(w / "r1/result.json").number("cell.per_task.1.mean_rank"), 1);
    EXPECT_EQ(Json(w / "r2/result.json").number("cell.per_task.1.parameters.low_rank"), 0);
}

/* Two layers of four 16 x 16, a 24 x 16 and a 16 x 24 matrix; ten norm vectors of 16 values. */
TEST(CliPearl, LoraHasTheCountedParameters)
{
    const PearlPlace w;
    expect_done(w.run(w.plain("lora") + w.to("run") + Words{"--rank", "3"}));
    const Json result(w / "run/result.json");
    const std::string second = "cell.per_task.1.parameters.";
    EXPECT_EQ(result.number(second + "low_rank"), 3 * 2 * (4 * 32 + 2 * 40));
    EXPECT_EQ(result.number(second + "dense"), 0);
    EXPECT_EQ(result.number(second + "norm"), 10 * 16);
    EXPECT_EQ(result.number(second + "head"), 2 * 16 + 2);
    EXPECT_EQ(result.number(second + "total"), 1248 + 160 + 34);
    EXPECT_EQ(result.number("metrics.StreamForgetting"), 0);
    int64_t values = 0;
    hn_st_file *f = nullptr;
    ASSERT_HN_OK(hn_st_open(w.record("run", 2, "delta.safetensors").c_str(), &f));
    for (int64_t i = 0; i < hn_st_count(f); i++) values += hn_st_elements(hn_st_at(f, i));
    hn_st_close(f);
    EXPECT_EQ(values, 1248 + 160 + 34);
}

/* From the break-even on (8 for 16 x 16, 9 for 24 x 16) a layer is cheaper as it is. */
TEST(CliPearl, LargeRanksAreKeptDense)
{
    const PearlPlace w;
    expect_done(w.run(w.plain("lora") + w.to("run") + Words{"--rank", "8", "--stop-after", "2"}));
    const Json result(w / "run/result.json");
    EXPECT_EQ(result.number("cell.per_task.1.parameters.dense"), 8 * 256);
    EXPECT_EQ(result.number("cell.per_task.1.parameters.low_rank"), 4 * 8 * 40);
    expect_refused(w.run(w.plain("lora") + w.to("none") + Words{"--rank", "17"}), 2,
                   {"--rank 17", "no layer has more than 16"});
}

TEST(CliPearl, BudgetsAreKept)
{
    const PearlPlace w;
    for (const char *how : {"threshold", "greedy"}) {
        expect_done(w.run(w.vit() + w.to(how) +
                          Words{"--budget", "700", "--allocator", how, "--stop-after", "2"}));
        const Json result((w / how) + "/result.json");
        const double n = result.number("cell.per_task.1.parameters.low_rank") +
                         result.number("cell.per_task.1.parameters.dense");
        EXPECT_LE(n, 700) << how;
        EXPECT_GT(n, 400) << how;
    }
    expect_refused(w.run(w.vit() + w.to("small") + Words{"--budget", "100", "--floor", "1"}), 2,
                   {"--budget 100"});
}

TEST(CliPearl, TruncationOnlyCuts)
{
    const PearlPlace w;
    const Words r2 = {"--rank-rule", "both", "--eps", "0.02", "--energy", "0.8"};
    expect_done(w.run(w.vit() + w.to("kept") + r2));
    expect_done(w.run(w.vit() + w.to("cut") + r2 + Words{"--truncate"}));
    const std::string rank = "cell.per_task.1.mean_rank";
    const double full = Json(w / "kept/result.json").number(rank);
    EXPECT_LE(Json(w / "cut/result.json").number(rank), full);
    EXPECT_EQ(Json(w / "cut/result.json").number("metrics.StreamForgetting"), 0);
    const Json record(w.record("cut", 2, "task.json"));
    hn_st_file *f = nullptr;
    ASSERT_HN_OK(hn_st_open(w.record("cut", 2, "delta.safetensors").c_str(), &f));
    for (size_t i = 0; i < json_array_size(record.at("layers")); i++) { /* files and list agree */
        const std::string at = "layers." + std::to_string(i);
        const hn_st_tensor *a =
            hn_st_find(f, (record.text(at + ".layer") + ".lora_A.weight").c_str());
        const bool dense = json_is_true(record.at(at + ".dense"));
        EXPECT_EQ(a && !dense ? (double)a->dim[0]
                  : dense     ? -1
                              : 0,
                  dense ? -1 : record.number(at + ".rank"));
    }
    hn_st_close(f);
}

/* The exported network of a task, run by itself: the recorded logits bit for bit. */
TEST(CliPearl, ExportGivesTheTasksLogits)
{
    const PearlPlace w;
    expect_done(w.run(w.vit() + w.to("run")));
    const Words to = {"--run", w / "run", "--task", "2", "--to", w / "model"};
    expect_done(w.run(Words{"hone-pearl", "export"} + to));
    expect_refused(w.run(Words{"hone-pearl", "export"} + to), 2, {"model", "there already"});

    hn_model m = {};
    ASSERT_HN_OK(hn_model_open((w / "model").c_str(), "f32", nullptr, &m));
    EXPECT_EQ(m.vision.classes, 2);
    const StripedImages none(m.vision, 2, 1);
    Classifier c(m.vision, none);
    c.co.batch = 0;
    c.co.train = c.co.eval = nullptr;
    c.co.probe_images = 128; /* as the run evaluates */
    c.o.train = c.o.eval = false;
    c.open();
    ASSERT_HN_OK(hn_model_load(&m, c.params(), 0));
    hn_model_close(&m);

    const std::string file = read_file(w / "data1/t10k-images-idx4-ubyte");
    std::string pixel;
    int64_t n = 0;
    for (size_t i = 0; i < 36; i++) { /* classes 2 and 3 */
        if (i % 6 != 2 && i % 6 != 3) continue;
        pixel += file.substr(20 + 64 * i, 64);
        n++;
    }
    const hn_tensor *logits = nullptr, *features = nullptr;
    ASSERT_HN_OK(
        hn_classifier_outputs(&c.job, c.e, (const uint8_t *)pixel.data(), n, &logits, &features));
    const auto z = Classifier::rows(logits, n), f = Classifier::rows(features, n);
    const auto head = c.value("classifier.weight"), bias = c.value("classifier.bias");
    std::vector<float> want;
    for (size_t i = 0; i < (size_t)n; i++)
        for (size_t k = 0; k < 2; k++) {
            double sum = bias[k];
            for (size_t j = 0; j < 16; j++) sum += (double)head[k * 16 + j] * (double)f[i * 16 + j];
            want.push_back((float)sum);
            EXPECT_NEAR(sum, z[2 * i + k], 1e-5);
        }
    char hex[HN_SHA256_HEX];
    ASSERT_HN_OK(hn_sha256(want.data(), want.size() * sizeof(float), hex));
    EXPECT_EQ(Json(w.record("run", 2, "task.json")).text("logits_sha256.1"), hex);
}

} // namespace
