/* Vision models against PyTorch: small random ones with all gradients, and the real weights. */
#include "model_test.h"
#include "runtime/model/vision.h"

namespace {

hn_vision_config named(const char *name, int64_t image, int64_t classes)
{
    const hn_vision_override o = {.image = image, .channels = 0, .classes = classes};
    hn_vision_config c = {};
    EXPECT_HN_OK(hn_vision_config_named(name, &o, &c));
    return c;
}

template <class... T>
void set(int64_t *to, T... v)
{
    const int64_t from[] = {(int64_t)v...};
    std::copy(std::begin(from), std::end(from), to);
}

/* The sizes of make_vision_golden.py. */
hn_vision_config config_of(const std::string &name, const StFile &f)
{
    hn_vision_config c = {};
    if (const char *text = hn_st_metadata(f.f, "config")) {
        const JsonText json(text);
        const hn_vision_override o = {.image = name == "resnet_hf" ? 32 : 0};
        EXPECT_HN_OK(hn_vision_config_read(json.root, name.c_str(), nullptr, &o, &c));
        return c;
    }
    if (name == "resnet_option_a") {
        c = named("resnet20", 12, 5);
        c.resnet.stem = 4;
        set(c.resnet.depth, 1, 2, 1);
        set(c.resnet.width, 4, 8, 16);
    } else if (name == "resnet_basic") {
        c = named("resnet18", 32, 5);
        c.resnet.stem = 4;
        c.resnet.stages = 3;
        set(c.resnet.depth, 1, 1, 1);
        set(c.resnet.width, 4, 8, 10);
    } else if (name == "resnet_bottleneck") {
        c = named("resnet50", 24, 5);
        c.resnet.stem = 8;
        c.resnet.stages = 2;
        set(c.resnet.depth, 1, 2);
        set(c.resnet.width, 16, 24);
    } else if (name == "separable") {
        c = named("separable-cifar", 10, 5);
        c.separable.stem = 6;
        c.separable.steps = 3;
        set(c.separable.width, 10, 8, 12);
        set(c.separable.stride, 1, 2, 1);
    } else if (name == "vit_timm") {
        c = named("vit-tiny-cifar", 12, 5);
        c.vit.hidden = 16;
        c.vit.layers = c.vit.heads = 2;
        c.vit.intermediate = 24;
    } else {
        c = named("mnist-cnn", 20, 5);
        set(c.cnn.width, 4, 8);
        c.cnn.hidden = 12;
    }
    return c;
}

/* A vision model with images, and graphs that share them. */
class Vision : public ModelRun {
  public:
    hn_vision_config c;
    hn_vision_tables tables = {};
    hn_tensor *images = nullptr, *dlogits = nullptr;
    int64_t n;

    Vision(const hn_vision_config &config, int64_t n_images, bool trained, hn_dtype dtype = HN_F32)
        : ModelRun(trained, dtype), c(config), n(n_images)
    {
        EXPECT_HN_OK(hn_vision_declare(&c, params));
        create();
        EXPECT_HN_OK(hn_vision_tables_new(&c, program, n, &tables));
        images = input("images", {dtype, 4, {n, c.image, c.image, c.channels}});
        dlogits = input("dlogits", hn_type_2d(dtype, n, c.classes));
    }
    hn_vision_build build()
    {
        hn_vision_build b = {};
        b.config = &c;
        b.params = params;
        b.tables = &tables;
        return b;
    }
    /* Forward, and backward in training graphs; the logits are kept. */
    hn_tensor *record(const hn_vision_build &b, hn_graph *g, hn_tensor **features = nullptr)
    {
        hn_tensor *f = nullptr, *logits = nullptr;
        EXPECT_HN_OK(hn_vision_features(&b, g, images, &f));
        EXPECT_HN_OK(hn_vision_logits(&b, g, f, &logits));
        hn_graph_keep(logits);
        if (features != nullptr) hn_graph_keep(*features = f);
        if (hn_graph_training(g)) {
            EXPECT_HN_OK(hn_graph_backward(g, 1, &logits, &dlogits));
        }
        return logits;
    }
    void ready(const StFile &f)
    {
        plan();
        EXPECT_HN_OK(hn_vision_tables_fill(&c, &tables));
        load(f);
    }
};

class VisionGolden : public ::testing::TestWithParam<const char *> {
  protected:
    const StFile golden{std::string("tests/fixtures/golden/model_") + GetParam() + ".safetensors"};
    const hn_vision_config config = config_of(GetParam(), golden);
    const int64_t n = golden.shape("in.images")[0];

    void inputs(Vision &m)
    {
        ASSERT_EQ(golden.shape("in.images"),
                  (std::vector<int64_t>{n, config.image, config.image, config.channels}));
        ASSERT_HN_OK(hn_tensor_set(m.images, golden.floats("in.images").data()));
        ASSERT_HN_OK(hn_tensor_set(m.dlogits, golden.floats("in.dlogits").data()));
    }
};

/* fp32 sums over a few hundred values, some layers deep. */
constexpr double kLogits = 2e-5, kGradients = 1e-4;

/* Batch norm by the running values; what runs again in backward gives the same. */
TEST_P(VisionGolden, EvaluationEqualsPyTorch)
{
    Vision m(config, n, true);
    auto b = m.build();
    hn_graph *eval = m.graph("eval", false), *frozen = m.graph("frozen", true);
    hn_graph *again = m.graph("again", true);
    hn_tensor *logits = m.record(b, eval);
    b.frozen_norm = true;
    hn_tensor *frozen_logits = m.record(b, frozen);
    b.recompute = hn_vision_layers(&config);
    hn_tensor *again_logits = m.record(b, again);
    m.ready(golden);
    inputs(m);
    const auto want = golden.floats("eval.logits");
    m.run(eval);
    EXPECT_LT(max_abs(m.values(logits), want), kLogits);
    if (m.on_cpu()) { /* the twins */
        m.run(eval, true);
        EXPECT_LT(max_abs(m.values(logits), want), kLogits);
    }
    m.run(frozen);
    EXPECT_LT(max_abs(m.values(frozen_logits), want), kLogits);
    m.expect_gradients(golden, "eval", kGradients);
    m.zero_gradients();
    m.run(again);
    EXPECT_LT(max_abs(m.values(again_logits), want), kLogits);
    m.expect_gradients(golden, "eval", kGradients);
    for (int64_t i = 0; i < hn_params_count(m.params); i++) {
        const hn_param *q = hn_params_at(m.params, i);
        if (q->buffer) {
            EXPECT_TRUE(same_bits(m.value(q->name), golden.floats(q->name))) << q->name;
        }
    }
}

/* Batch norm by the batch, whose running values move once, also where blocks run again. */
class VisionBatchNorm : public VisionGolden {};

TEST_P(VisionBatchNorm, TrainingEqualsPyTorch)
{
    for (const int64_t recompute : {(int64_t)0, hn_vision_layers(&config)}) {
        Vision m(config, n, true);
        auto b = m.build();
        b.recompute = recompute;
        hn_graph *train = m.graph("train", true);
        hn_tensor *logits = m.record(b, train);
        m.ready(golden);
        inputs(m);
        m.run(train);
        EXPECT_LT(max_abs(m.values(logits), golden.floats("train.logits")), 2 * kLogits);
        m.expect_gradients(golden, "train", 2 * kGradients);
        for (int64_t i = 0; i < hn_params_count(m.params); i++) {
            const hn_param *q = hn_params_at(m.params, i);
            if (!q->buffer) continue;
            const auto want = golden.floats(std::string("train.buffer.") + q->name);
            EXPECT_LT(max_abs(m.value(q->name), want), 1e-5) << q->name;
        }
    }
}

/* bf16: every layer rounds to 8 bits; some layers deep. */
TEST_P(VisionGolden, RunsInBf16)
{
    Vision m(config, n, false, HN_BF16);
    hn_graph *eval = m.graph("eval", false);
    hn_tensor *logits = m.record(m.build(), eval);
    m.ready(golden);
    inputs(m);
    m.run(eval);
    EXPECT_LT(rel_l2(m.values(logits), golden.floats("eval.logits")), 4e-2);
}

TEST_P(VisionGolden, BlocksAreKept)
{
    Vision m(config, n, false);
    std::vector<hn_tensor *> blocks((size_t)hn_vision_layers(&config) + 1);
    auto b = m.build();
    b.blocks = blocks.data();
    m.record(b, m.graph("eval", false));
    for (const hn_tensor *t : blocks) {
        ASSERT_NE(t, nullptr);
        EXPECT_TRUE(t->keep || t->mem == HN_MEM_INPUT) << t->name;
    }
}

INSTANTIATE_TEST_SUITE_P(Models, VisionGolden,
                         ::testing::Values("resnet_option_a", "resnet_basic", "resnet_bottleneck",
                                           "resnet_hf", "separable", "vit_timm", "vit_hf", "cnn"),
                         [](const auto &i) { return std::string(i.param); });

INSTANTIATE_TEST_SUITE_P(Models, VisionBatchNorm,
                         ::testing::Values("resnet_option_a", "resnet_basic", "resnet_bottleneck",
                                           "resnet_hf", "separable"),
                         [](const auto &i) { return std::string(i.param); });

/* ---- real weights ---- */

/* CIFAR-10's binary form: label, then planes of red, green, blue. */
struct Cifar {
    std::string bytes;
    explicit Cifar(const std::string &path) : bytes(read_file(path)) {}
    int64_t count() const { return (int64_t)bytes.size() / 3073; }
    int label(int64_t i) const { return (unsigned char)bytes[(size_t)i * 3073]; }
    /* Images first .. first+n-1, channels last, every pixel `times` x `times`. */
    std::vector<float> images(int64_t first, int64_t n, int64_t times, const float *mean,
                              const float *std) const
    {
        const int64_t side = 32 * times;
        std::vector<float> v((size_t)(n * side * side * 3));
        for (int64_t i = 0, at = 0; i < n; i++)
            for (int64_t y = 0; y < side; y++)
                for (int64_t x = 0; x < side; x++)
                    for (int64_t k = 0; k < 3; k++, at++) {
                        const int64_t from = k * 1024 + y / times * 32 + x / times;
                        const auto pixel =
                            (unsigned char)bytes[(size_t)((first + i) * 3073 + 1 + from)];
                        v[(size_t)at] = ((float)pixel / 255.0f - mean[k]) / std[k];
                    }
        return v;
    }
};

std::vector<float> raw_floats(const std::string &path)
{
    const std::string bytes = read_file(path);
    std::vector<float> v(bytes.size() / sizeof(float));
    std::memcpy(v.data(), bytes.data(), v.size() * sizeof(float));
    return v;
}

TEST(VisionReal, Resnet20OnCifar10EqualsItsReference)
{
    HN_NEED_DATA(dir, "resnet-cifar10");
    HN_NEED_DATA(file, "cifar10/test_500.bin");
    const Cifar cifar(file);
    const auto want = raw_floats(dir + "/resnet20.test_500.logits.f32");
    const int64_t batch = 100;
    Vision m(named("resnet20", 0, 0), batch, false);
    hn_graph *eval = m.graph("eval", false);
    hn_tensor *logits = m.record(m.build(), eval);
    EXPECT_EQ(hn_params_total(m.params), 269722);
    m.ready(StFile(dir + "/resnet20.safetensors"));
    ASSERT_EQ(cifar.count(), 500);
    int hits = 0;
    for (int64_t first = 0; first < 500; first += batch) {
        const auto x = cifar.images(first, batch, 1, m.c.mean, m.c.std);
        ASSERT_HN_OK(hn_tensor_set(m.images, x.data()));
        m.run(eval);
        const auto got = m.values(logits);
        const std::vector<float> part(want.begin() + first * 10,
                                      want.begin() + (first + batch) * 10);
        EXPECT_LT(max_abs(got, part), 1e-3);
        for (int64_t i = 0; i < batch; i++) {
            const auto row = got.begin() + i * 10;
            hits += std::max_element(row, row + 10) - row == cifar.label(first + i);
        }
    }
    EXPECT_EQ(hits, 457); /* 91.4 % */
}

TEST(VisionReal, VitTinyEqualsItsReferenceBlockByBlock)
{
    HN_NEED_DATA(dir, "vit-tiny-imagenet");
    HN_NEED_DATA(file, "cifar10/test_500.bin");
    const StFile golden(dir + "/golden_cifar8.safetensors");
    const int64_t n = 8, tokens = 197, d = 192;
    Vision m(named("vit_tiny_patch16_224", 0, 0), n, false);
    std::vector<hn_tensor *> blocks((size_t)hn_vision_layers(&m.c) + 1);
    auto b = m.build();
    b.blocks = blocks.data();
    hn_graph *eval = m.graph("eval", false);
    hn_tensor *features = nullptr, *logits = m.record(b, eval, &features);
    EXPECT_EQ(hn_params_total(m.params), 5717416);
    m.ready(StFile(dir + "/model.f16.safetensors"));
    const auto x = Cifar(file).images(0, n, 7, m.c.mean, m.c.std);
    ASSERT_HN_OK(hn_tensor_set(m.images, x.data()));
    m.run(eval);
    EXPECT_LT(max_abs(m.values(logits), golden.floats("logits")), 2e-3);
    EXPECT_LT(max_abs(m.values(features), golden.floats("features")), 2e-3);
    const auto want = golden.floats("cls_after_block"); /* [8, 13, 192] */
    ASSERT_EQ(blocks.size(), 13u);
    for (size_t k = 0; k < blocks.size(); k++) {
        const auto got = m.values(blocks[k]);
        const int64_t stride = k + 1 < blocks.size() ? tokens : 1;
        double worst = 0;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < d; j++)
                worst = std::max(worst,
                                 std::fabs((double)got[(size_t)(i * stride * d + j)] -
                                           (double)want[(size_t)((i * 13 + (int64_t)k) * d + j)]));
        EXPECT_LT(worst, 2e-3) << "block " << k;
    }
}

} // namespace
