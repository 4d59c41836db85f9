/* Configurations of vision models: names, config.json, refusals; what they declare. */
#include "model_test.h"
#include "runtime/model/gpt2.h"
#include "runtime/model/vision.h"

namespace {

hn_vision_config named(const char *name, hn_vision_override o = {})
{
    hn_vision_config c = {};
    EXPECT_HN_OK(hn_vision_config_named(name, &o, &c));
    return c;
}

hn_status read(const char *text, hn_vision_config *c, const hn_vision_override *o = nullptr)
{
    const JsonText json(text);
    return hn_vision_config_read(json.root, "config.json", nullptr, o, c);
}

struct Params {
    hn_params *p = nullptr;
    explicit Params(const hn_vision_config &c)
    {
        EXPECT_HN_OK(hn_params_new(nullptr, &p));
        EXPECT_HN_OK(hn_vision_declare(&c, p));
    }
    ~Params() { hn_params_free(p); }
    Params(const Params &) = delete;
    const hn_param *find(const char *name) const
    {
        const hn_param *q = hn_params_find(p, name);
        EXPECT_NE(q, nullptr) << name;
        return q;
    }
};

/* ---- names ---- */

/* Sizes that torchvision, timm, pytorch_resnet_cifar10 and pytorch-cifar give. */
TEST(VisionConfig, NamesHaveThePublishedNumbersOfParameters)
{
    const struct {
        const char *name;
        int64_t total, width, layers;
        const char *head;
    } cases[] = {{"resnet18", 11689512, 512, 8, "fc"},
                 {"resnet34", 21797672, 512, 16, "fc"},
                 {"resnet50", 25557032, 2048, 16, "fc"},
                 {"resnet18-cifar", 11173962, 512, 8, "fc"},
                 {"resnet34-cifar", 21282122, 512, 16, "fc"},
                 {"resnet20", 269722, 64, 9, "linear"},
                 {"resnet56", 853018, 64, 27, "linear"},
                 {"separable-cifar", 3217226, 1024, 13, "linear"},
                 {"vit_tiny_patch16_224", 5717416, 192, 12, "head"},
                 {"vit_small_patch16_224", 22050664, 384, 12, "head"},
                 {"vit_base_patch16_224", 86567656, 768, 12, "head"},
                 {"mnist-cnn-small", 27562, 64, 2, "fc2"},
                 {"femnist-cnn", 1165246, 1024, 2, "fc2"},
                 {"cinic-cnn", 620362, 256, 3, "fc2"}};
    for (const auto &k : cases) {
        const hn_vision_config c = named(k.name);
        const Params params(c);
        EXPECT_EQ(hn_params_total(params.p), k.total) << k.name;
        EXPECT_EQ(hn_vision_width(&c), k.width) << k.name;
        EXPECT_EQ(hn_vision_layers(&c), k.layers) << k.name;
        EXPECT_STREQ(hn_vision_head(&c), k.head) << k.name;
        params.find((std::string(k.head) + ".weight").c_str());
    }
    EXPECT_EQ(hn_params_total(Params(named("mnist-cnn", {.classes = 62})).p), 1165246);
}

TEST(VisionConfig, OverridesReplaceWhatTheNameSays)
{
    const auto c = named("vit_tiny_patch16_224", {.image = 96, .channels = 1, .classes = 7});
    const Params params(c);
    EXPECT_EQ(c.image, 96);
    EXPECT_FLOAT_EQ(c.mean[0], 0.5f);
    EXPECT_EQ(params.find("pos_embed")->dim[0], 37);
    EXPECT_EQ(params.find("patch_embed.proj.weight")->file_dim[1], 1);
    EXPECT_EQ(params.find("head.weight")->dim[0], 7);
    const auto grey = named("resnet18-cifar", {.channels = 1});
    EXPECT_NEAR(grey.mean[0], (0.4914 + 0.4822 + 0.4465) / 3, 1e-6);
    EXPECT_STREQ(named("resnet18.a1_in1k").architecture, "resnet18"); /* a tag names weights */
}

TEST(VisionConfig, WithoutClassesThereIsNoHead)
{
    hn_vision_config c = named("resnet18-cifar");
    c.classes = 0;
    const Params params(c);
    EXPECT_EQ(hn_params_find(params.p, "fc.weight"), nullptr);
    EXPECT_EQ(hn_params_total(params.p), 11173962 - 5130);
}

TEST(VisionConfig, RefusesWhatDoesNotFitTogether)
{
    hn_vision_config c = {};
    hn_vision_override o = {.image = 30};
    EXPECT_HN_FAIL(hn_vision_config_named("resnet19", nullptr, &c), HN_ERR_UNSUPPORTED,
                   "'resnet19' is not one of resnet18,");
    EXPECT_HN_FAIL(hn_vision_config_named("vit-tiny-cifar", &o, &c), HN_ERR_SHAPE,
                   "images of 30 pixels do not fall into patches of 4");
    o = {.image = 15};
    EXPECT_HN_FAIL(hn_vision_config_named("mnist-cnn", &o, &c), HN_ERR_SHAPE,
                   "images of 15 pixels are too small");
    o = {.channels = 5};
    EXPECT_HN_FAIL(hn_vision_config_named("resnet18", &o, &c), HN_ERR_SHAPE,
                   "images of 5 channels, 1 to 4");
    o = {.classes = -1};
    EXPECT_HN_FAIL(hn_vision_config_named("resnet18", &o, &c), HN_ERR_SHAPE, "-1 classes");
    c = named("resnet20");
    c.resnet.width[1] = 19;
    EXPECT_HN_FAIL(hn_vision_config_check(&c, "here"), HN_ERR_SHAPE,
                   "here: option-A shortcuts from 16 to 19 channels");
    c = named("resnet50");
    c.resnet.width[0] = 66;
    EXPECT_HN_FAIL(hn_vision_config_check(&c, "here"), HN_ERR_SHAPE, "66 channels");
    c = named("vit-tiny-cifar");
    c.vit.heads = 5;
    EXPECT_HN_FAIL(hn_vision_config_check(&c, "here"), HN_ERR_SHAPE, "5 heads in a width of 192");
}

/* ---- config.json ---- */

TEST(VisionConfig, ReadsVitOfHuggingFace)
{
    hn_vision_config c = {};
    ASSERT_HN_OK(read(R"({"model_type": "vit", "id2label": {"0": "a", "1": "b", "2": "c"}})", &c));
    EXPECT_EQ(c.vit.hidden, 768);
    EXPECT_EQ(c.classes, 3);
    EXPECT_DOUBLE_EQ(c.vit.ln_eps, 1e-12);
    EXPECT_STREQ(hn_vision_head(&c), "classifier");
    EXPECT_EQ(hn_params_total(Params(c).p), 86567656 - 997 * 769);
    ASSERT_HN_OK(read(R"({"model_type": "vit", "qkv_bias": false, "hidden_size": 48,
                          "num_attention_heads": 4, "image_size": [64, 64], "num_labels": 9})",
                      &c));
    const Params params(c);
    EXPECT_EQ(hn_params_find(params.p, "vit.encoder.layer.0.attention.attention.key.bias"),
              nullptr);
    EXPECT_EQ(params.find("vit.embeddings.position_embeddings")->dim[0], 17);
    EXPECT_EQ(params.find("classifier.weight")->dim[0], 9);
    ASSERT_HN_OK(read(R"({"model_type": "vit", "num_channels": 4})", &c));
    EXPECT_FLOAT_EQ(c.std[3], 0.5f);
    EXPECT_EQ(c.classes, 2); /* Transformers' default */
}

TEST(VisionConfig, ReadsResnetOfHuggingFace)
{
    hn_vision_config c = {};
    ASSERT_HN_OK(read(R"({"model_type": "resnet", "num_labels": 1000})", &c));
    EXPECT_EQ(hn_params_total(Params(c).p), 25557032);
    ASSERT_HN_OK(read(R"({"model_type": "resnet", "layer_type": "basic", "depths": [2, 2, 2, 2],
                          "hidden_sizes": [64, 128, 256, 512], "num_labels": 1000})",
                      &c));
    EXPECT_EQ(hn_params_total(Params(c).p), 11689512);
}

TEST(VisionConfig, ReadsTimm)
{
    hn_vision_config c = {};
    ASSERT_HN_OK(read(R"({"architecture": "vit_tiny_patch16_224", "num_classes": 21,
                          "global_pool": "token", "model_args": {"img_size": 64},
                          "pretrained_cfg": {"input_size": [3, 224, 224], "num_classes": 1000,
                          "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}})",
                      &c));
    EXPECT_EQ(c.classes, 21);
    EXPECT_EQ(c.image, 64);
    EXPECT_FLOAT_EQ(c.mean[2], 0.3f);
    EXPECT_FLOAT_EQ(c.std[0], 0.4f);
    const hn_vision_override o = {.classes = 5};
    ASSERT_HN_OK(read(R"({"architecture": "resnet18", "num_classes": 10})", &c, &o));
    EXPECT_EQ(c.classes, 5);
    EXPECT_FLOAT_EQ(c.mean[0], 0.485f);
}

TEST(VisionConfig, RefusesByNameWhatWouldChangeTheResult)
{
    hn_vision_config c = {};
    const struct {
        const char *text;
        hn_status code;
        const char *part;
    } cases[] = {
        {"{}", HN_ERR_FORMAT, "config.json: key 'model_type' is missing"},
        {R"({"model_type": "swin"})", HN_ERR_UNSUPPORTED, "model_type 'swin' is not one of"},
        {R"({"model_type": "vit", "hidden_act": "relu"})", HN_ERR_UNSUPPORTED,
         "hidden_act 'relu', only gelu"},
        {R"({"model_type": "vit", "hidden_dropout_prob": 0.1})", HN_ERR_UNSUPPORTED,
         "hidden_dropout_prob 0.1, only 0"},
        {R"({"model_type": "vit", "attention_probs_dropout_prob": 0.5})", HN_ERR_UNSUPPORTED,
         "attention_probs_dropout_prob"},
        {R"({"model_type": "vit", "image_size": [224, 192]})", HN_ERR_UNSUPPORTED,
         "image_size is not square"},
        {R"({"model_type": "vit", "hidden_size": "768"})", HN_ERR_FORMAT, "hidden_size"},
        {R"({"model_type": "resnet", "hidden_act": "silu"})", HN_ERR_UNSUPPORTED, "hidden_act"},
        {R"({"model_type": "resnet", "layer_type": "wide"})", HN_ERR_UNSUPPORTED,
         "layer_type 'wide'"},
        {R"({"model_type": "resnet", "depths": [1, 2], "hidden_sizes": [8, 8, 8]})",
         HN_ERR_UNSUPPORTED, "hidden_sizes names 3 stages"},
        {R"({"model_type": "resnet", "depths": [1, 0, 1, 1]})", HN_ERR_FORMAT, "depths[1]"},
        {R"({"architecture": "resnet101"})", HN_ERR_UNSUPPORTED,
         "config.json: architecture 'resnet101'"},
        {R"({"architecture": "vit_tiny_patch16_224", "global_pool": "avg"})", HN_ERR_UNSUPPORTED,
         "global_pool 'avg', only token"},
        {R"({"architecture": "resnet18", "model_args": {"block_args": {}}})", HN_ERR_UNSUPPORTED,
         "model_args.block_args"},
        {R"({"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5]}})", HN_ERR_FORMAT,
         "pretrained_cfg.mean must have 3 numbers"},
        {R"({"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 224, 192]}})",
         HN_ERR_UNSUPPORTED, "input_size"},
    };
    for (const auto &k : cases) EXPECT_HN_FAIL(read(k.text, &c), k.code, k.part);
}

TEST(Gpt2Config, ReadsBothDialectsAndRefusesTheRest)
{
    const auto read_gpt2 = [](const char *text, hn_gpt2_config *c) {
        const JsonText json(text);
        return hn_gpt2_config_read(json.root, "config.json", nullptr, c);
    };
    hn_gpt2_config c = {};
    ASSERT_HN_OK(
        read_gpt2(R"({"model_type": "gpt2", "n_inner": null, "torch_dtype": "float16"})", &c));
    EXPECT_TRUE(c.tied);
    EXPECT_EQ(c.intermediate, 3072);
    EXPECT_EQ(c.file_dtype, HN_F16);
    for (const bool bare : {false, true}) {
        hn_params *p = nullptr;
        c.bare = bare;
        ASSERT_HN_OK(hn_params_new(nullptr, &p));
        EXPECT_HN_OK(hn_gpt2_declare(&c, p));
        EXPECT_EQ(hn_params_total(p), 124439808); /* gpt2 */
        EXPECT_STREQ(hn_params_at(p, 0)->name, bare ? "wte.weight" : "transformer.wte.weight");
        EXPECT_EQ(hn_params_at(p, 4)->file_dim[0], 768) << hn_params_at(p, 4)->name;
        hn_params_free(p);
    }
    ASSERT_HN_OK(read_gpt2(R"({"model_type": "gpt-nano", "block_size": 11, "n_head": 3,
                               "n_embd": 48})",
                           &c));
    EXPECT_TRUE(c.mingpt && !c.tied);
    EXPECT_EQ(c.positions, 11);
    EXPECT_HN_FAIL(read_gpt2(R"({"model_type": "gptj"})", &c), HN_ERR_UNSUPPORTED, "'gptj'");
    EXPECT_HN_FAIL(read_gpt2(R"({"model_type": "gpt2", "n_head": 5})", &c), HN_ERR_SHAPE,
                   "n_embd 768 is no multiple of n_head 5");
    EXPECT_HN_FAIL(read_gpt2(R"({"model_type": "gpt2", "activation_function": "mish"})", &c),
                   HN_ERR_UNSUPPORTED, "activation_function 'mish'");
    EXPECT_HN_FAIL(read_gpt2(R"({"model_type": "gpt2", "add_cross_attention": true})", &c),
                   HN_ERR_UNSUPPORTED, "add_cross_attention");
    EXPECT_HN_FAIL(read_gpt2(R"({"model_type": "gpt2", "quantization_config": {}})", &c),
                   HN_ERR_UNSUPPORTED, "quantization_config");
}

/* ---- initial values ---- */

struct Moments {
    double sd, largest;
};

Moments start(const hn_vision_config &c, const char *name)
{
    ModelRun m(false);
    EXPECT_HN_OK(hn_vision_declare(&c, m.params));
    m.create();
    m.plan();
    const hn_param *q = hn_params_find(m.params, name);
    EXPECT_NE(q, nullptr) << name;
    EXPECT_HN_OK(hn_param_init(q, 7));
    double sum = 0, largest = 0;
    const auto v = m.value(name);
    for (const float x : v) {
        sum += (double)x * (double)x;
        largest = std::max(largest, std::fabs((double)x));
    }
    return {std::sqrt(sum / (double)v.size()), largest};
}

/* PyTorch's formulas; deviations of thousands of numbers lie within some percent. */
TEST(VisionStart, FollowsPyTorch)
{
    const auto r = named("resnet18-cifar");
    EXPECT_NEAR(start(r, "layer1.0.conv1.weight").sd, std::sqrt(2.0 / (64 * 9)), 1e-3);
    EXPECT_NEAR(start(r, "fc.weight").largest, 1 / std::sqrt(512.0), 1e-4);
    EXPECT_NEAR(start(r, "fc.bias").sd, 1 / std::sqrt(512.0 * 3), 2e-2);
    EXPECT_EQ(start(r, "bn1.running_var").sd, 1);
    EXPECT_EQ(start(r, "bn1.running_mean").sd, 0);
    EXPECT_NEAR(start(named("resnet20"), "layer2.0.conv1.weight").sd, std::sqrt(2.0 / (16 * 9)),
                4e-3);
    const auto s = named("separable-cifar");
    EXPECT_NEAR(start(s, "layers.12.conv1.weight").largest, 1.0 / 3, 1e-3); /* 9 taps */
    const auto v = named("vit-tiny-cifar");
    EXPECT_NEAR(start(v, "blocks.3.attn.qkv.weight").sd, 0.02, 2e-4);
    EXPECT_EQ(start(v, "blocks.3.attn.qkv.bias").sd, 0);
    EXPECT_LT(start(v, "cls_token").largest, 1e-5);
    EXPECT_NEAR(start(v, "pos_embed").sd, 0.02, 1e-3);
    EXPECT_NEAR(start(v, "patch_embed.proj.weight").largest, 1 / std::sqrt(48.0), 1e-3);
}

TEST(VisionStart, NeitherPositionsNorNormsDecay)
{
    const Params params(named("vit-tiny-cifar"));
    EXPECT_FALSE(params.find("pos_embed")->decay);
    EXPECT_FALSE(params.find("cls_token")->decay);
    EXPECT_FALSE(params.find("blocks.0.norm1.weight")->decay);
    EXPECT_TRUE(params.find("blocks.0.attn.qkv.weight")->decay);
}

/* ---- building ---- */

TEST(VisionBuild, RefusesImagesOfAnotherSizeAndMissingTables)
{
    hn_vision_config c = named("vit-tiny-cifar");
    c.vit.layers = 1;
    ModelRun m(false);
    EXPECT_HN_OK(hn_vision_declare(&c, m.params));
    m.create();
    hn_tensor *small = m.input("small", {HN_F32, 4, {2, 28, 32, 3}});
    hn_tensor *images = m.input("images", {HN_F32, 4, {2, 32, 32, 3}}), *features = nullptr;
    hn_vision_tables two = {}, three = {}, again = {};
    ASSERT_HN_OK(hn_vision_tables_new(&c, m.program, 2, &two));
    ASSERT_HN_OK(hn_vision_tables_new(&c, m.program, 3, &three));
    ASSERT_HN_OK(hn_vision_tables_new(&c, m.program, 2, &again));
    EXPECT_EQ(two.offsets, again.offsets);
    EXPECT_NE(two.offsets, three.offsets);
    hn_graph *g = m.graph("eval", false);
    hn_vision_build b = {};
    b.config = &c;
    b.params = m.params;
    EXPECT_HN_FAIL(hn_vision_features(&b, g, images, &features), HN_ERR_ARG,
                   "no tables of 2 images");
    b.tables = &three;
    EXPECT_HN_FAIL(hn_vision_features(&b, g, images, &features), HN_ERR_ARG,
                   "no tables of 2 images");
    b.tables = &two;
    EXPECT_HN_FAIL(hn_vision_features(&b, g, small, &features), HN_ERR_SHAPE,
                   "images are f32[2, 28, 32, 3], the model reads [n, 32, 32, 3]");
    EXPECT_HN_OK(hn_vision_features(&b, g, images, &features));
}

} // namespace
