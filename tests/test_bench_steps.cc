/* hone-bench-step, -vision, -volumes, -clients, -drift and -comm: what their records hold, on the
 * CPU. */
#include <jansson.h>

#include <cmath>

#include "cli_test.h"

namespace {

const Words tiny_step = {"hone-bench-step",
                         "--model",
                         "bench/shapes/tiny.json",
                         "--batch",
                         "1",
                         "--length",
                         "8",
                         "--warmup",
                         "1",
                         "--steps",
                         "3",
                         "--seconds",
                         "0",
                         "--device",
                         "cpu"};

Words vision(const Words &more)
{
    return Words{"hone-bench-vision",
                 "--model",
                 "mnist-cnn",
                 "--batch",
                 "8",
                 "--images",
                 "20",
                 "--warmup",
                 "1",
                 "--steps",
                 "3",
                 "--seconds",
                 "0",
                 "--device",
                 "cpu"} +
           more;
}

Ran run(const Words &words)
{
    const TempDir home;
    return Program(words, home.str()).wait();
}

Words clients(const Words &more)
{
    return Words{"hone-bench-clients",
                 "--clients",
                 "3",
                 "--at-once",
                 "2",
                 "--batch",
                 "4",
                 "--images",
                 "6",
                 "--epochs",
                 "2",
                 "--rounds",
                 "2",
                 "--seconds",
                 "0",
                 "--device",
                 "cpu"} +
           more;
}

Words drift(const Words &more)
{
    return Words{"hone-bench-drift",
                 "--model",
                 "vit-tiny-cifar",
                 "--encoder",
                 "resnet20",
                 "--encoder-image",
                 "32",
                 "--width",
                 "64",
                 "--blocks",
                 "1",
                 "--ways",
                 "2",
                 "--shots",
                 "1",
                 "--queries",
                 "1",
                 "--warmup",
                 "1",
                 "--runs",
                 "3",
                 "--seconds",
                 "0",
                 "--device",
                 "cpu"} +
           more;
}

/* The one line that a program prints. */
class Record {
    json_t *o_;

  public:
    explicit Record(const Words &words)
    {
        const Ran r = run(words);
        expect_done(r);
        EXPECT_EQ(lines_of(r.out).size(), 1u) << r.out;
        o_ = json_loads(r.out.c_str(), 0, nullptr);
        EXPECT_NE(o_, nullptr) << r.out;
    }
    Record(const Record &) = delete;
    ~Record() { json_decref(o_); }

    double number(const char *key) const { return value(json_object_get(o_, key), key); }
    double number(const char *key, size_t i) const
    {
        return value(json_array_get(json_object_get(o_, key), i), key);
    }
    std::string text(const char *key) const
    {
        const char *s = json_string_value(json_object_get(o_, key));
        return s ? s : "";
    }

  private:
    static double value(const json_t *v, const char *key)
    {
        EXPECT_TRUE(json_is_number(v)) << key;
        return json_number_value(v);
    }
};

void expect_clock(const Record &r, const char *rate, double rows)
{
    const double seconds = r.number("seconds");
    EXPECT_EQ(r.number("steps"), 3);
    EXPECT_GT(seconds, 0);
    EXPECT_NEAR(r.number(rate) * seconds, 3 * rows, 1e-6 * rows);
    EXPECT_LE(r.number("step_ms", 0), r.number("step_ms", 1));
    EXPECT_LE(r.number("step_ms", 1), r.number("step_ms", 2));
    /* The 80th percentile of three is the longest; together they are the whole time. */
    EXPECT_LE(r.number("step_ms", 2), 1e3 * seconds);
    EXPECT_GE(3 * r.number("step_ms", 2), 1e3 * seconds * (1 - 1e-6));
    EXPECT_GE(r.number("window", 1), r.number("window", 0));
    EXPECT_EQ(r.text("executor"), "cpu");
}

TEST(BenchVision, RecordHoldsWhatRan)
{
    const Record r(vision({}));
    expect_clock(r, "images_per_s", 8);
    EXPECT_EQ(r.text("who"), "hone");
    EXPECT_EQ(r.text("model"), "mnist-cnn");
    EXPECT_EQ(r.text("dtype"), "bf16");
    EXPECT_EQ(r.number("batch"), 8);
    EXPECT_EQ(r.number("images"), 20);
    /* 32 * 25 + 32, 64 * 800 + 64, 1024 * 1024 + 1024, 10 * 1024 + 10: everything */
    EXPECT_EQ(r.number("trained"), 832 + 51264 + 1049600 + 10250);
    EXPECT_NEAR(r.number("loss_first"), std::log(10), 0.1); /* of ten classes, untrained */
}

TEST(BenchVolumes, RecordHoldsWhatRan)
{
    const Record r({"hone-bench-volumes", "--patch", "8", "--batch", "2", "--warmup", "2",
                    "--steps", "3", "--seconds", "0", "--device", "cpu"});
    expect_clock(r, "patches_per_s", 2);
    EXPECT_EQ(r.text("model"), "unet3d-fets");
    EXPECT_EQ(r.number("patch"), 8);
    EXPECT_EQ(r.number("classes"), 4);
    EXPECT_EQ(r.number("trained"), 64136);
    EXPECT_GT(r.number("loss_first"), 1); /* log 4, and most of a Dice of 1 */
}

/* Two groups, of two clients and of one; steps of 4 and of 2 images. */
TEST(BenchClients, BothSimulationsDoTheSame)
{
    const Record many(clients({})), one(clients({"--simulation", "one"}));
    for (const Record *r : {&many, &one}) {
        const double seconds = 1e-3 * (r->number("round_ms", 0) + r->number("round_ms", 2));
        EXPECT_EQ(r->text("model"), "femnist-cnn");
        EXPECT_EQ(r->number("values"), 1165246);
        EXPECT_EQ(r->number("rounds"), 2);
        EXPECT_NEAR(r->number("client_steps_per_s") * seconds, 2 * 3 * 4, 1e-3);
        EXPECT_NEAR(r->number("images_per_s") * seconds, 2 * 3 * 12, 1e-3);
        EXPECT_LE(r->number("train_share"), 1);
        EXPECT_LT(r->number("loss_first"), 1.2 * std::log(62));
    }
    EXPECT_NEAR(many.number("loss_last"), one.number("loss_last"), 1e-4);
}

/* The same clients, whoever trains them. */
TEST(BenchClients, RanksShareThem)
{
    const Words small = {"--model", "mnist-cnn-small", "--simulation"};
    for (const char *how : {"one", "block"}) {
        const Record one(clients(small + Words{how})),
            two(clients(small + Words{how, "--ranks", "2"}));
        EXPECT_EQ(one.number("ranks"), 1);
        EXPECT_EQ(two.number("ranks"), 2);
        EXPECT_EQ(two.number("loss_first"), one.number("loss_first"));
        EXPECT_EQ(two.number("loss_last"), one.number("loss_last"));
        EXPECT_LE(two.number("train_share"), 1);
    }
}

/* Processes of this machine; the sums themselves are checked by the program. */
TEST(BenchComm, RecordHoldsWhatRan)
{
    const struct {
        const char *collective, *ranks;
        double bus; /* bytes over the median, times so much */
    } cases[] = {{"all_reduce", "2", 1},
                 {"all_reduce", "3", 4.0 / 3},
                 {"reduce_scatter", "2", 0.5},
                 {"all_gather", "2", 0.5}};
    for (const auto &c : cases) {
        const Record r({"hone-bench-comm", "--device", "cpu", "--collective", c.collective,
                        "--ranks", c.ranks, "--mb", "0.12", "--seconds", "0", "--calls", "20"});
        EXPECT_EQ(r.text("bench"), c.collective);
        EXPECT_EQ(r.text("by"), "hone in rank order");
        EXPECT_EQ(r.number("ranks"), std::stod(c.ranks));
        EXPECT_NEAR(r.number("mb"), 0.12, 1e-9);
        EXPECT_EQ(r.number("calls"), 30); /* two runs of 15 */
        EXPECT_LE(r.number("us", 0), r.number("us", 1));
        EXPECT_LE(r.number("us", 1), r.number("us", 2));
        EXPECT_NEAR(r.number("alg_gb_s") * 1e3 * r.number("us", 1), 0.12e6, 10);
        EXPECT_NEAR(r.number("bus_gb_s"), c.bus * r.number("alg_gb_s"),
                    1e-4 * r.number("bus_gb_s"));
    }
}

/* As on hosts without a launcher: each process is told what it is. */
TEST(BenchComm, RanksAreStartedByHand)
{
    const TempDir dir;
    const auto rank = [&dir](const char *number) {
        return Words{"hone-bench-comm",
                     "--device",
                     "cpu",
                     "--job-rank",
                     number,
                     "--job-size",
                     "2",
                     "--local-rank",
                     number,
                     "--local-size",
                     "2",
                     "--rendezvous",
                     "file:" + (dir / "meet"),
                     "--mb",
                     "0.12",
                     "--seconds",
                     "0"};
    };
    Program second(rank("1"), dir.str());
    const Record first(rank("0"));
    const Ran other = second.wait();
    expect_done(other);
    EXPECT_EQ(other.out, "");
    EXPECT_EQ(first.number("ranks"), 2);
}

TEST(BenchComm, RefusesByName)
{
    const Ran sizes = run({"hone-bench-comm", "--device", "cpu", "--mb", "1,x"});
    EXPECT_EQ(sizes.code, 1);
    EXPECT_NE(sizes.err.find("--mb 1,x: numbers above 0"), std::string::npos) << sizes.err;
    const Ran alone = run({"hone-bench-comm", "--device", "cpu", "--ranks", "1"});
    EXPECT_EQ(alone.code, 1);
    EXPECT_NE(alone.err.find("one rank"), std::string::npos) << alone.err;
    const Ran captured = run({"hone-bench-comm", "--device", "cpu", "--captured"});
    EXPECT_EQ(captured.code, 1);
    EXPECT_NE(captured.err.find("only GPUs capture"), std::string::npos) << captured.err;
    EXPECT_EQ(lines_of(captured.err).size(), 1u) << captured.err;
}

TEST(BenchDrift, RecordsHoldWhatRan)
{
    const Record steps(drift({"--form", "train", "--episodes", "2", "--points", "3"}));
    expect_clock(steps, "points_per_s", 6);
    EXPECT_LT(steps.number("loss_last"), steps.number("loss_first"));
    const Record one(drift({"--form", "integrate", "--episodes", "2", "--steps", "1"}));
    const Record two(drift({"--form", "integrate", "--episodes", "2", "--steps", "2"}));
    const Record rk4(
        drift({"--form", "integrate", "--episodes", "2", "--steps", "1", "--integrator", "rk4"}));
    EXPECT_EQ(one.number("runs"), 3);
    EXPECT_EQ(one.number("encoder_gflop"), 0);
    EXPECT_GT(one.number("episodes_per_s"), 0);
    const double slope = two.number("drift_gflop") - one.number("drift_gflop");
    EXPECT_NEAR(rk4.number("drift_gflop") - one.number("drift_gflop"), 3 * slope, 1e-9);
    const Record whole(drift({"--form", "whole", "--episodes", "1", "--steps", "2"}));
    EXPECT_EQ(whole.number("steps"), 2);
    EXPECT_NEAR(whole.number("encoder_gflop"), 2 * 0.0816,
                1e-3); /* 40.8 M multiply-adds an image */
    EXPECT_GT(whole.number("backbone_gflop"), 0);
    const Record adapt(drift({"--form", "adapt", "--episodes", "1", "--steps", "2"}));
    EXPECT_EQ(adapt.number("encoder_gflop"), whole.number("encoder_gflop"));
    EXPECT_EQ(adapt.number("drift_gflop"), whole.number("drift_gflop"));
    EXPECT_EQ(adapt.number("backbone_gflop"), 0);
    EXPECT_GT(adapt.number("plan_gib"), 0);
    EXPECT_LT(adapt.number("plan_gib"), whole.number("plan_gib"));
    EXPECT_GT(adapt.number("run_ms", 0), 0);
    EXPECT_LE(adapt.number("run_ms", 0), adapt.number("run_ms", 2));
    expect_refused(run(drift({"--form", "whole", "--shots", "300"})), 1, {"512 images"});
}

TEST(BenchVision, LossFallsBelowThatOfGuessing)
{
    const Record r(vision(
        {"--batch", "10", "--images", "10", "--steps", "30", "--lr", "0.05", "--dtype", "f32"}));
    EXPECT_LT(r.number("loss_last"), 0.8 * std::log(10));
}

TEST(BenchVision, SameSeedSameLosses)
{
    const Record a(vision({"--augment", "crop-flip"})), b(vision({"--augment", "crop-flip"}));
    const Record other(vision({"--augment", "crop-flip", "--seed", "1"}));
    const Record plain(vision({}));
    EXPECT_EQ(a.number("loss_last"), b.number("loss_last"));
    EXPECT_NE(a.number("loss_last"), other.number("loss_last"));
    EXPECT_NE(a.number("loss_first"), plain.number("loss_first")); /* other pixels, same weights */
}

TEST(BenchVision, VisionTransformersAndAdamW)
{
    const Record r(vision({"--model", "vit-tiny-cifar", "--batch", "2", "--optimizer", "adamw",
                           "--lr", "1e-3", "--weight-decay", "0.05"}));
    expect_clock(r, "images_per_s", 2);
    EXPECT_EQ(r.text("optimizer"), "adamw");
}

TEST(BenchVision, RefusesByName)
{
    const struct {
        Words more, parts;
        int code;
    } cases[] = {
        {{"--model", "resnet-nix"}, {"resnet-nix", "resnet18-cifar"}, 1},
        {{"--optimizer", "lion"}, {"optimizer", "lion"}, 2},
        {{"--augment", "mixup"}, {"augment", "mixup"}, 2},
        {{"--batch", "0"}, {"batch"}, 2},
        {{"--tune"}, {"--tune", "cpu"}, 1},
    };
    for (const auto &c : cases) expect_refused(run(vision(c.more)), c.code, c.parts);
}

TEST(BenchVision, ProfileNamesTheOperations)
{
    const Ran r = run(vision({"--profile"}));
    expect_done(r);
    for (const char *op : {"image_prep", "conv2d", "class_ce", "sgd"})
        EXPECT_TRUE(contains(r.out, op)) << op << "\n" << r.out;
}

TEST(BenchStep, RecordHoldsWhatRan)
{
    const Record r(tiny_step);
    expect_clock(r, "tokens_per_s", 8);
    EXPECT_EQ(r.number("rank"), 16);
    EXPECT_NEAR(r.number("loss_first"), std::log(512), 0.5); /* of 512 tokens, untrained */
}

} // namespace
