/* Adapters of image classifiers: what PEFT writes gives PEFT's logits, and comes back as it was;
 * which layers are adapted by default. */
#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/file/safetensors.h"
#include "runtime/graph/tensor.h"
#include "runtime/model/model.h"
#include "runtime/train/classifier_job.h"
#include "runtime/train/lora_hook.h"

namespace {

const std::string folder = "tests/fixtures/peft_resnet";

std::vector<uint8_t> bytes_of(const hn_st_file *f, const char *name)
{
    const hn_st_tensor *t = hn_st_find(f, name);
    const auto *p = (const uint8_t *)t->data;
    return {p, p + t->n_bytes};
}

/* The fixture's model with its adapter, ready to be asked for logits. */
class Adapted : public testing::Test {
  protected:
    hn_model model = {};
    hn_peft_adapter adapter = {};
    hn_classifier_job job = {};
    hn_engine *engine = nullptr;

    void SetUp() override
    {
        ASSERT_HN_OK(hn_model_open((folder + "/base").c_str(), "f32", nullptr, &model));
        ASSERT_HN_OK(hn_peft_load(folder.c_str(), &adapter));
        const hn_adapt adapt = hn_lora_hook(&adapter.config);
        hn_classifier_options c = {};
        c.config = &model.vision;
        c.dtype = HN_F32;
        c.probe_images = 4;
        hn_classifier_job_init(&job, &c);
        hn_engine_options o = {};
        o.job = &job.job;
        o.adapt = &adapt;
        o.dtype = HN_F32;
        ASSERT_HN_OK(hn_engine_new(&o, &engine));
        ASSERT_HN_OK(hn_engine_allocate(engine));
        ASSERT_HN_OK(hn_model_load(&model, hn_engine_params(engine), 0));
    }
    void TearDown() override
    {
        hn_engine_free(engine);
        hn_peft_clear(&adapter);
        hn_model_close(&model);
    }
};

TEST_F(Adapted, LogitsAreThoseOfPeft)
{
    hn_st_file *golden = nullptr;
    ASSERT_HN_OK(hn_st_open((folder + "/golden.safetensors").c_str(), &golden));
    const auto pixels = bytes_of(golden, "pixels");
    std::vector<float> want(12), got(12), plain(12);
    ASSERT_HN_OK(hn_st_convert(hn_st_find(golden, "logits"), HN_F32, want.data()));
    hn_st_close(golden);
    const hn_tensor *logits;
    ASSERT_HN_OK(hn_lora_set(hn_engine_params(engine), &adapter, folder.c_str()));
    ASSERT_HN_OK(hn_classifier_outputs(&job, engine, pixels.data(), 4, &logits, nullptr));
    ASSERT_HN_OK(hn_tensor_get(logits, got.data()));
    EXPECT_LT(max_abs(got, want), 1e-4); /* a few layers of fp32 in another order */
    /* without B and the head of the adapter they are others */
    for (int64_t i = 0; i < adapter.n; i++)
        std::fill_n(adapter.modules[i].b, adapter.modules[i].out * adapter.modules[i].r, 0.0f);
    ASSERT_HN_OK(hn_lora_set(hn_engine_params(engine), &adapter, folder.c_str()));
    ASSERT_HN_OK(hn_classifier_outputs(&job, engine, pixels.data(), 4, &logits, nullptr));
    ASSERT_HN_OK(hn_tensor_get(logits, plain.data()));
    EXPECT_GT(max_abs(plain, want), 1e-2);
}

TEST_F(Adapted, GoesOutAsItCameIn)
{
    const hn_params *p = hn_engine_params(engine);
    ASSERT_HN_OK(hn_lora_set(p, &adapter, folder.c_str()));
    hn_peft_adapter out = {};
    ASSERT_HN_OK(hn_lora_get(p, &adapter.config, &out));
    EXPECT_EQ(out.n, 5);
    EXPECT_EQ(out.n_saved, 2);
    TempDir t;
    ASSERT_HN_OK(hn_peft_save((t / "a").c_str(), &out, HN_F32));
    hn_lora_release(&out);
    hn_st_file *mine = nullptr, *theirs = nullptr;
    ASSERT_HN_OK(hn_st_open((t / "a/adapter_model.safetensors").c_str(), &mine));
    ASSERT_HN_OK(hn_st_open((folder + "/adapter_model.safetensors").c_str(), &theirs));
    ASSERT_EQ(hn_st_count(mine), hn_st_count(theirs));
    for (int64_t i = 0; i < hn_st_count(mine); i++) {
        const hn_st_tensor *a = hn_st_at(mine, i), *b = hn_st_find(theirs, a->name);
        ASSERT_NE(b, nullptr) << a->name;
        ASSERT_EQ(a->ndim, b->ndim) << a->name;
        for (int k = 0; k < a->ndim; k++) EXPECT_EQ(a->dim[k], b->dim[k]) << a->name;
        EXPECT_EQ(bytes_of(mine, a->name), bytes_of(theirs, a->name)) << a->name;
    }
    hn_st_close(mine);
    hn_st_close(theirs);
}

TEST_F(Adapted, RefusesAnAdapterThatDoesNotFit)
{
    const hn_params *p = hn_engine_params(engine);
    adapter.saved[0].dim[0]++; /* the bias of the head */
    EXPECT_HN_FAIL(hn_lora_set(p, &adapter, "here"), HN_ERR_SHAPE, "classifier.1.bias");
    adapter.saved[0].dim[0]--;
    adapter.n_saved--;
    EXPECT_HN_FAIL(hn_lora_set(p, &adapter, "here"), HN_ERR_FORMAT, "classifier.1.weight");
    adapter.n_saved++;
    adapter.modules[0].kh = adapter.modules[0].kw = 0; /* of a linear layer */
    EXPECT_HN_FAIL(hn_lora_set(p, &adapter, "here"), HN_ERR_SHAPE, "kernel 0 x 0");
    adapter.modules[0].kh = adapter.modules[0].kw = 3;
}

/* ---- all-linear ---- */

std::vector<std::string> every_layer(const std::string &path)
{
    hn_model m = {};
    hn_names names = {};
    std::vector<std::string> out;
    EXPECT_HN_OK(hn_model_open(path.c_str(), "f32", nullptr, &m));
    EXPECT_HN_OK(hn_lora_every_layer(&m, &names));
    for (int64_t i = 0; i < names.n; i++) out.push_back(names.items[i]);
    hn_names_clear(&names);
    hn_model_close(&m);
    return out;
}

using Names = std::vector<std::string>;

/* The ends tell the layers apart from the stem, the head and everything that is no layer. */
TEST(EveryLayer, HasTheShortestEndsThatNothingElseHas)
{
    EXPECT_EQ(every_layer("tests/fixtures/models/llama"),
              (Names{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}));
    EXPECT_EQ(every_layer("vit-tiny-cifar"),
              (Names{"qkv", "attn.proj", "fc1", "fc2"})); /* patch_embed.proj is not one */
    EXPECT_EQ(every_layer("resnet18"),
              (Names{"0.conv1", "conv2", "1.conv1", "downsample.0"})); /* conv1 is the stem */
    EXPECT_EQ(every_layer("mnist-cnn"), (Names{"conv2", "fc1"}));
    EXPECT_EQ(every_layer(folder + "/base"),
              (Names{"0.convolution", "1.convolution", "shortcut.convolution"}));
}

/* Of the pairs only the pointwise convolutions: PEFT forms updates of grouped ones otherwise. */
TEST(EveryLayer, LeavesOutConvolutionsInGroups)
{
    hn_model m = {};
    hn_params *p = nullptr;
    hn_peft_config c = {};
    ASSERT_HN_OK(hn_model_open("separable-cifar", "f32", nullptr, &m));
    ASSERT_HN_OK(hn_lora_every_layer(&m, &c.targets.list));
    ASSERT_HN_OK(hn_params_new(nullptr, &p));
    ASSERT_HN_OK(hn_model_declare(&m, p));
    int64_t n = 0, grouped = 0;
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        bool matches = false;
        EXPECT_HN_OK(hn_peft_matches(&c, l->module, &matches));
        n += matches;
        grouped += l->groups > 1;
        EXPECT_EQ(matches, i > 0 && l->groups <= 1 && std::string(l->module) != "linear")
            << l->module;
    }
    EXPECT_EQ(n, 13);
    EXPECT_EQ(grouped, 13);
    EXPECT_HN_OK(hn_lora_check_layers(p, &c));
    hn_names_clear(&c.targets.list);
    ASSERT_HN_OK(hn_names_add(&c.targets.list, hn_params_linear_at(p, 1)->module));
    EXPECT_HN_FAIL(hn_lora_check_layers(p, &c), HN_ERR_UNSUPPORTED, "in 32 groups");
    hn_peft_config_clear(&c);
    hn_params_free(p);
    hn_model_close(&m);
}

TEST(EveryLayer, TheHeadIsTrainedWholeOrHasAPairNotBoth)
{
    hn_model m = {};
    hn_peft_config c = {};
    ASSERT_HN_OK(hn_model_open("resnet18", "f32", nullptr, &m));
    ASSERT_HN_OK(hn_names_add(&c.targets.list, "conv2"));
    ASSERT_HN_OK(hn_lora_save_head(&m, "--targets", &c));
    ASSERT_HN_OK(hn_lora_save_head(&m, "--targets", &c)); /* once is enough */
    EXPECT_EQ(c.saved.n, 1);
    EXPECT_STREQ(c.saved.items[0], "fc");
    hn_names_clear(&c.saved);
    ASSERT_HN_OK(hn_names_add(&c.targets.list, "fc"));
    EXPECT_HN_FAIL(hn_lora_save_head(&m, "--targets", &c), HN_ERR_ARG, "--targets: the head, fc");
    hn_peft_config_clear(&c);
    hn_model_close(&m);
}

} // namespace
