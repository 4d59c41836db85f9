/* Image classifiers through the programs: training, resume, evaluation, prediction, export. */
#include "cli_run_test.h"
#include "image_test.h"

namespace {

/* Images of three classes, each with stripes of its own in noise; PNG files beside. */
class ImagePlace {
    TempDir dir_;

  public:
    static std::string stripes(int label, int side, int channels, std::mt19937 &rng)
    {
        std::string s;
        for (int y = 0; y < side; y++)
            for (int x = 0; x < side; x++)
                for (int c = 0; c < channels; c++)
                    s += (char)((x + y) % 3 == label ? 170 + rng() % 60 : rng() % 100);
        return s;
    }
    /* Files of idx images [n, side, side(, channels)]; labels 0, 1, 2, 0, .. below `classes`. */
    void set(const std::string &part, uint32_t n, int classes = 3, uint32_t side = 16,
             uint32_t channels = 3) const
    {
        std::mt19937 rng(part.size() + n);
        std::string images, labels;
        for (uint32_t i = 0; i < n; i++) {
            const int label = (int)i % classes;
            images += stripes(label, (int)side, (int)channels, rng);
            labels += (char)label;
        }
        const std::vector<uint32_t> grey = {n, side, side}, colour = {n, side, side, channels};
        write_file(dir_ / (part + "-images-idx-ubyte"),
                   idx(8, channels == 1 ? grey : colour, images));
        write_file(dir_ / (part + "-labels-idx-ubyte"), idx(8, {n}, labels));
    }
    ImagePlace()
    {
        std::filesystem::create_directory(dir_ / "data");
        set("data/train", 30);
        set("data/val", 9);
        write_file(dir_ / "data/classes.txt", "cat\ndog\nhen\n");
    }
    std::string operator/(const std::string &name) const { return dir_ / name; }
    Ran run(const Words &words) const { return Program(words, dir_.str()).wait(); }
    Words base(const std::string &verb, const std::string &program, const std::string &model) const
    {
        return {program, verb, "--model", model, "--data", dir_ / "data", "--batch-size", "4"};
    }
    Words train(const std::string &out, int steps, const std::string &program,
                const std::string &model = "resnet20", bool rank = true) const
    {
        return base("train", program, model) +
               Words{"--out", dir_ / out, "--steps", std::to_string(steps), "--lr", "1e-2"} +
               (model == "resnet20" ? Words{"--image-size", "16"} : Words{}) +
               (program == "hone-lora" && rank ? Words{"--rank", "2"} : Words{});
    }
};

const std::string fixture = "tests/fixtures/peft_resnet/base"; /* a small residual network */

/* "loss 1.1  accuracy 33.33 %  images 9" without the name of the data. */
std::string figures(const Ran &r) { return r.out.substr(0, r.out.rfind("  ")); }

/* ---- training ---- */

TEST(CliImages, TrainingSaysWhatItDoesAndCountsImages)
{
    const ImagePlace w;
    const Ran r = w.run(w.train("o", 4, "hone-full") + Words{"--eval-every", "2"});
    expect_done(r);
    for (const char *part : {"3 classes: cat 10, dog 10, hen 10", "head: 3 classes", "(accuracy ",
                             "9 images)", "batch norm: by the statistics of each micro-batch",
                             "augmentation: random crop with 4 pixels around", "images/s"})
        EXPECT_TRUE(contains(r.err, part)) << part << "\n" << r.err;
    EXPECT_TRUE(contains(r.out, "hone-full predict --model ")) << r.out;
    EXPECT_EQ(column(w / "o", "images").at(4), "16");
    EXPECT_EQ(column(w / "o", "eval_accuracy").size(), 3u);
    const std::string yaml = read_file((w / "o") + "/run.yaml");
    EXPECT_FALSE(contains(yaml, "seq-len")) << yaml; /* of decoders */
    expect_done(
        w.run({"hone-full", "train", "--config", (w / "o") + "/run.yaml", "--out", w / "p"}));
    EXPECT_EQ(trained_bytes((w / "o") + "/checkpoint-4"),
              trained_bytes((w / "p") + "/checkpoint-4"));
}

class CliImagesResumed : public testing::TestWithParam<std::pair<const char *, const char *>> {};

TEST_P(CliImagesResumed, ContinuesBitForBit)
{
    const auto &[program, model] = GetParam();
    const ImagePlace w;
    const Words more = {"--eval-every", "3", "--label-smoothing", "0.1", "--accumulation", "2"};
    expect_done(w.run(w.train("whole", 6, program, model) + more));
    expect_done(w.run(w.train("parts", 6, program, model) + more + Words{"--stop-after", "3"}));
    expect_done(w.run(w.train("parts", 6, program, model) + more + Words{"--resume", "auto"}));
    EXPECT_EQ(trained_bytes((w / "parts") + "/checkpoint-6"),
              trained_bytes((w / "whole") + "/checkpoint-6"));
    for (const char *name : {"loss", "eval_loss", "eval_accuracy"})
        EXPECT_EQ(column(w / "parts", name), column(w / "whole", name)) << name;
    /* pixels that come with every batch are the same pixels */
    expect_done(w.run(w.train("streamed", 6, program, model) + more + Words{"--resident", "0"}));
    EXPECT_EQ(trained_bytes((w / "streamed") + "/checkpoint-6"),
              trained_bytes((w / "whole") + "/checkpoint-6"));
}

INSTANTIATE_TEST_SUITE_P(Programs, CliImagesResumed,
                         testing::Values(std::pair{"hone-full", "resnet20"},
                                         std::pair{"hone-lora", fixture.c_str()}));

/* ---- what comes out ---- */

/* Evaluation of the result equals the last one of the training, on other ways, too. */
TEST(CliImages, AFullResultEvaluatesAsTrainingDid)
{
    const ImagePlace w;
    expect_done(w.run(w.train("o", 4, "hone-full") + Words{"--result", "last"}));
    const std::string model = (w / "o") + "/model";
    const Ran r = w.run(w.base("eval", "hone-full", model) + Words{"--eval-data", "val"});
    expect_done(r);
    char want[64];
    std::snprintf(want, sizeof want, "loss %.6f  accuracy %.2f %%  images 9",
                  std::stod(column(w / "o", "eval_loss").at(4)),
                  100 * std::stod(column(w / "o", "eval_accuracy").at(4)));
    EXPECT_EQ(figures(r), want);
    expect_done(w.run({"hone-full", "export", "--checkpoint", w / "o", "--to", w / "x"}));
    EXPECT_EQ(read_file((w / "x") + "/model.safetensors"), read_file(model + "/model.safetensors"));
    EXPECT_EQ(read_file((w / "x") + "/config.json"), read_file(model + "/config.json"));
    const Ran info = w.run({"hone-full", "info", "--path", model});
    EXPECT_TRUE(contains(info.out, "head linear, classes 3: cat, dog, hen")) << info.out;
}

/* Pixels that are normalised by the data's own values: the result says so. */
TEST(CliImages, MeansOfTheDataGoIntoTheResult)
{
    const ImagePlace w;
    expect_done(
        w.run(w.train("o", 3, "hone-full") + Words{"--result", "last", "--mean-std", "data"}));
    const std::string model = (w / "o") + "/model";
    const Ran r = w.run(w.base("eval", "hone-full", model) + Words{"--eval-data", "val"});
    expect_done(r);
    EXPECT_NEAR(std::stod(r.out.substr(5)), std::stod(column(w / "o", "eval_loss").at(3)), 1e-6);
    const Ran info = w.run({"hone-full", "info", "--path", model});
    EXPECT_FALSE(contains(info.out, "0.485 (0.229)")) << info.out; /* those of the architecture */
    expect_done(w.run({"hone-full", "export", "--checkpoint", w / "o", "--to", w / "x"}));
    EXPECT_EQ(read_file((w / "x") + "/config.json"), read_file(model + "/config.json"));
    expect_refused(w.run(w.train("p", 1, "hone-lora", fixture) + Words{"--mean-std", "data"}), 2,
                   {"--mean-std data"});
}

class CliImagesHead : public testing::TestWithParam<const char *> {};

/* An adapter, with a head of its own or not, and the model that it is merged into. */
TEST_P(CliImagesHead, AnAdapterAndItsMergedModelEvaluateTheSame)
{
    const std::string how = GetParam();
    const ImagePlace w;
    Words more = {"--result", "last"};
    if (how == "train-head") more.push_back("--train-head");
    if (how == "new-head") more = more + Words{"--new-head", "on"};
    if (how == "classes") {
        w.set("data/train", 24, 2);
        w.set("data/val", 8, 2);
        write_file(w / "data/classes.txt", "cow\ngoat\n");
    }
    const Ran t = w.run(w.train("o", 4, "hone-lora", fixture) + more);
    expect_done(t);
    const bool fresh = how == "new-head" || how == "classes";
    EXPECT_EQ(contains(t.err, "head: a new one"), fresh) << t.err;
    const std::string adapter = (w / "o") + "/adapter";
    const bool saved = contains(read_file(adapter + "/adapter_config.json"), "\"classifier.1\"");
    EXPECT_EQ(saved, how != "kept");
    const Ran a = w.run(w.base("eval", "hone-lora", fixture) +
                        Words{"--eval-data", "val", "--adapter", adapter});
    expect_done(a);
    EXPECT_NEAR(std::stod(a.out.substr(5)), std::stod(column(w / "o", "eval_loss").at(4)), 1e-5);
    expect_done(w.run({"hone-lora", "export", "--checkpoint", w / "o", "--to", w / "p"}));
    EXPECT_EQ(read_file((w / "p") + "/adapter_model.safetensors"),
              read_file(adapter + "/adapter_model.safetensors"));
    expect_done(w.run(
        {"hone-lora", "export", "--checkpoint", w / "o", "--kind", "merged", "--to", w / "m"}));
    const Ran m = w.run(w.base("eval", "hone-lora", w / "m") + Words{"--eval-data", "val"});
    expect_done(m);
    EXPECT_NEAR(std::stod(m.out.substr(5)), std::stod(a.out.substr(5)), 1e-5);
    EXPECT_EQ(contains(read_file((w / "m") + "/config.json"), "goat"), how == "classes");
}

INSTANTIATE_TEST_SUITE_P(Heads, CliImagesHead,
                         testing::Values("kept", "train-head", "new-head", "classes"));

TEST(CliImages, TrainingGoesOnFromAnAdapterWithItsHead)
{
    const ImagePlace w;
    expect_done(w.run(w.train("o", 2, "hone-lora", fixture) + Words{"--train-head"}));
    const std::string adapter = (w / "o") + "/adapter";
    expect_done(w.run(w.train("p", 2, "hone-lora", fixture, false) + Words{"--adapter", adapter}));
    EXPECT_EQ(column(w / "p", "eval_loss").at(0), column(w / "o", "eval_loss").at(2));
    expect_refused(w.run(w.train("q", 2, "hone-lora", fixture, false) +
                         Words{"--adapter", adapter, "--train-head"}),
                   2, {"--train-head", "decided by the adapter"});
}

TEST(CliImages, PredictsFilesAndFolders)
{
    const ImagePlace w;
    const std::string images = std::filesystem::absolute("tests/fixtures/images").string();
    const Words base = {"hone-full", "predict", "--model", fixture, "--top", "2", "--images"};
    const Ran two = w.run(base + Words{images + "/rgb8.png," + images + "/grey.jpg"});
    expect_done(two);
    ASSERT_EQ(lines_of(two.out).size(), 2u) << two.out;
    EXPECT_TRUE(contains(lines_of(two.out)[0], "rgb8.png  ")) << two.out;
    double sum = 0; /* of two classes of three */
    for (const auto &word : words_of(lines_of(two.out)[0]))
        if (contains(word, ".") && !contains(word, "/")) sum += std::stod(word);
    EXPECT_GT(sum, 66);
    EXPECT_LE(sum, 100.01);
    std::filesystem::create_directory(w / "folder");
    for (const char *name : {"rgb8.png", "grey.jpg"})
        std::filesystem::copy(images + "/" + name, (w / "folder") + "/" + name);
    write_file((w / "folder") + "/notes.txt", "no image");
    const Ran folder = w.run(base + Words{w / "folder"});
    expect_done(folder);
    EXPECT_TRUE(contains(folder.out, lines_of(two.out)[0].substr(images.size() + 1))) << folder.out;
    expect_refused(w.run(base + Words{w / "data"}), 2, {"no JPEG or PNG file"});
    expect_refused(w.run(base + Words{images + "/cmyk.jpg"}), 2, {"cmyk.jpg", "CMYK"});
}

TEST(CliImages, ChecksAndPlansWithoutTraining)
{
    const ImagePlace w;
    const Ran check = w.run(w.base("check", "hone-lora", fixture) + Words{"--rank", "2"});
    expect_done(check);
    EXPECT_EQ(lines_of(check.out).size(), 2u + 4); /* what a step holds, a title, and the batch */
    EXPECT_TRUE(contains(check.out, "cat")) << check.out;
    const Ran plan = w.run({"hone-lora", "plan", "--model", "vit-tiny-cifar", "--classes", "7"});
    expect_done(plan);
    EXPECT_TRUE(contains(plan.err, "head: 7 classes")) << plan.err;
    EXPECT_TRUE(contains(plan.out, "memory plan")) << plan.out;
}

/* ---- augmentation and channels ---- */

TEST(CliImages, GreyImagesAreLeftAlone)
{
    const ImagePlace w;
    w.set("data/train", 12, 3, 28, 1);
    w.set("data/val", 6, 3, 28, 1);
    const Ran r = w.run(w.train("o", 1, "hone-full", "mnist-cnn"));
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "augmentation: none")) << r.err;
    const Ran a =
        w.run(w.train("p", 1, "hone-full", "mnist-cnn") + Words{"--augment", "crop-flip"});
    expect_done(a);
    EXPECT_NE(column(w / "o", "loss"), column(w / "p", "loss"));
}

TEST(CliImages, ChangesOfSizeAndColourAreSaid)
{
    const ImagePlace w;
    w.set("data/train", 12, 3, 20, 1);
    w.set("data/val", 6, 3, 20, 1);
    const Ran r = w.run(w.train("o", 1, "hone-full"));
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "12 image(s) were resized and cropped to 16 x 16")) << r.err;
    EXPECT_TRUE(contains(r.err, "12 image(s) are grey: three equal channels")) << r.err;
}

/* ---- what is refused ---- */

TEST(CliImagesRefuses, OptionsOfTheOtherKindOfModel)
{
    const ImagePlace w;
    const Workplace text;
    for (const char *name : {"seq-len", "data-threads"})
        expect_refused(w.run(w.train("o", 1, "hone-full") + Words{std::string("--") + name, "4"}),
                       2, {std::string("--") + name, "is an image classifier"});
    expect_refused(text.run(text.train("o", 1) + Words{"--augment", "none"}), 2,
                   {"--augment", "is a decoder"});
    expect_refused(text.run(text.train("o", 1) + Words{"--train-head"}), 2,
                   {"--train-head", "is a decoder"});
    expect_refused(w.run({"hone-full", "generate", "--model", fixture, "--prompt", "a"}), 2,
                   {"predict"});
    expect_refused(
        text.run({"hone-full", "predict", "--model", text / "model", "--images", "a.png"}), 2,
        {"generate"});
}

TEST(CliImagesRefuses, OptionsThatWouldBeWithoutEffect)
{
    const ImagePlace w;
    expect_refused(w.run(w.train("o", 1, "hone-full") + Words{"--augment", "none", "--pad", "2"}),
                   2, {"--pad"});
    expect_refused(
        w.run(w.train("o", 1, "hone-full", "vit-tiny-cifar") + Words{"--frozen-norm", "on"}), 2,
        {"no batch norm"});
    expect_refused(w.run(w.train("o", 1, "hone-full") + Words{"--new-head", "on"}), 2,
                   {"--new-head on", "random weights"});
    expect_refused(w.run(w.train("o", 1, "hone-lora", fixture) + Words{"--frozen-norm", "off"}), 2,
                   {"running statistics"});
    expect_refused(w.run(w.train("o", 1, "hone-lora", fixture) +
                         Words{"--train-head", "--targets", "classifier.1"}),
                   2, {"classifier.1", "--targets"});
    expect_refused(
        w.run(w.train("o", 1, "hone-full") + Words{"--patience", "3", "--eval-data", w / "none"}),
        2, {"none"});
}

TEST(CliImagesRefuses, DataThatDoNotFit)
{
    const ImagePlace w;
    w.set("data/val", 8, 4);
    expect_refused(w.run(w.train("o", 1, "hone-full")), 2, {"val-"});
    w.set("data/val", 9);
    w.set("data/train", 6, 3, 28, 3);
    expect_refused(w.run(w.train("o", 1, "hone-full", "mnist-cnn")), 2, {"3 channel(s)"});
    expect_refused(w.run(w.train("o", 1, "hone-full", "resnet99")), 2, {"resnet99", "resnet20"});
    write_file(w / "data/classes.txt", "cat\ndog\nh\xffn\n");
    w.set("data/train", 6);
    expect_refused(w.run(w.train("o", 1, "hone-full")), 2, {"not UTF-8"});
    w.set("data/train", 24, 4);
    write_file(w / "data/classes.txt", "cat\ndog\nhen\ncow\n");
    expect_refused(w.run(w.train("o", 1, "hone-full", fixture) + Words{"--new-head", "off"}), 2,
                   {"--new-head off", "3 classes"});
    expect_refused(w.run(w.base("eval", "hone-full", fixture)), 2, {"classes", "model has 3"});
    std::string bytes = read_file(w / "data/train-images-idx-ubyte");
    write_file(w / "data/train-images-idx-ubyte", bytes.substr(0, bytes.size() / 2));
    expect_refused(w.run(w.train("o", 1, "hone-full")), 2, {"train-images"});
    EXPECT_FALSE(std::filesystem::exists(w / "o"));
}

TEST(CliImagesRefuses, ACheckpointOfAnotherRun)
{
    const ImagePlace w;
    expect_done(w.run(w.train("o", 2, "hone-full") + Words{"--stop-after", "1"}));
    const Words resume = {"--resume", "auto"};
    expect_refused(w.run(w.train("o", 2, "hone-full") + resume + Words{"--augment", "none"}), 2,
                   {"other settings"});
    w.set("data/train", 33);
    expect_refused(w.run(w.train("o", 2, "hone-full") + resume), 2, {"another data set"});
}

/* ---- real weights ---- */

TEST(CliImagesReal, ResnetOfCifar10IsAsGoodAsItsAuthorsSay)
{
    HN_NEED_DATA(weights, "resnet-cifar10");
    HN_NEED_DATA(images, "cifar10");
    const ImagePlace w;
    const Ran r = w.run({"hone-full", "eval", "--model", "resnet20", "--weights",
                         weights + "/resnet20.safetensors", "--data", images + "/test_500.bin",
                         "--batch-size", "100"});
    expect_done(r);
    EXPECT_TRUE(contains(r.out, "accuracy 91.40 %  images 500")) << r.out;
}

} // namespace
