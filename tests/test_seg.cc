/* Networks that segment volumes: configurations, parameter lists, and forward and backward beside
 * PyTorch, with real weights where the data is there. */
#include "kernels/activation/activation.h"
#include "model_test.h"
#include "runtime/model/seg.h"

namespace {

hn_seg_config named(const char *name)
{
    hn_seg_config c = {};
    EXPECT_HN_OK(hn_seg_config_named(name, 0, 0, &c));
    return c;
}

int64_t parameters_of(const hn_seg_config &c)
{
    ModelRun m(true);
    EXPECT_HN_OK(hn_seg_declare(&c, m.params));
    int64_t n = 0;
    for (int64_t i = 0; i < hn_params_count(m.params); i++)
        n += hn_param_values(hn_params_at(m.params, i));
    return n;
}

TEST(SegConfig, NamedNetworksHaveTheirParameters)
{
    EXPECT_EQ(parameters_of(named("unet3d-fets")), 64136);
    EXPECT_EQ(parameters_of(named("meshnet5")), 5598);
    EXPECT_EQ(parameters_of(named("meshnet20")), 87183);
    const hn_seg_config c = named("unet3d-fets");
    EXPECT_EQ(hn_seg_layers(&c), 7);
    EXPECT_EQ(hn_seg_least_side(&c), 8);
}

TEST(SegConfig, RefusesWhatDoesNotFit)
{
    hn_seg_config c = {}, good = named("unet3d-fets");
    EXPECT_HN_FAIL(hn_seg_config_named("unet", 0, 0, &c), HN_ERR_UNSUPPORTED, "unet3d-fets");
    EXPECT_HN_FAIL(hn_seg_config_named("meshnet5", 0, 17, &c), HN_ERR_SHAPE, "17 classes");
    const auto with = [&](auto change) {
        c = good;
        change(c);
        return hn_seg_config_check(&c, "here");
    };
    EXPECT_HN_FAIL(with([](auto &d) { d.unet3d.levels = 7; }), HN_ERR_SHAPE, "7 levels");
    EXPECT_HN_FAIL(with([](auto &d) { d.unet3d.width[1] = 6; }), HN_ERR_SHAPE,
                   "6 channels on level 1 do not split into 4 groups");
    EXPECT_HN_FAIL(with([](auto &d) { d.channels = 0; }), HN_ERR_SHAPE, "0 channels");
    good = named("meshnet5");
    EXPECT_HN_FAIL(with([](auto &d) { d.meshnet.kernel[2] = 2; }), HN_ERR_SHAPE, "conv2: kernel 2");
    EXPECT_HN_FAIL(with([](auto &d) { d.meshnet.width[9] = 4; }), HN_ERR_SHAPE, "4 of 3 classes");
    EXPECT_HN_FAIL(with([](auto &d) { d.meshnet.activation = HN_ACT_GELU; }), HN_ERR_UNSUPPORTED,
                   "gelu");
}

/* Adapters of such layers would have no form in files. */
TEST(SegConfig, ConvolutionsTakeNoLowRankUpdate)
{
    const auto pair = [](const void *, const char *, int64_t, int64_t, hn_lowrank *choice) {
        choice->rank = 2;
        return HN_OK;
    };
    const hn_adapt adapt = {
        .parameter = nullptr, .linear = pair, .sparse = nullptr, .context = nullptr};
    const hn_seg_config c = named("meshnet5");
    hn_params *p = nullptr;
    ASSERT_HN_OK(hn_params_new(&adapt, &p));
    EXPECT_HN_FAIL(hn_seg_declare(&c, p), HN_ERR_UNSUPPORTED,
                   "conv0: a convolution of volumes is trained as a whole or not at all");
    hn_params_free(p);
}

hn_status read_arch(const std::string &text, hn_seg_config *out)
{
    const JsonText j(text);
    return hn_seg_config_arch(j.root, "x.arch.json", 1, out);
}

TEST(SegConfig, ReadsDescriptionsOfMeshnets)
{
    hn_seg_config c = {};
    const std::string first = R"({"layer": "conv0", "kernel": 3, "dilation": 2, "out": 5})";
    const std::string second = R"({"layer": "conv1", "kernel": 1, "dilation": 1, "out": 3})";
    const std::string elu = R"({"activation": "elu"})";
    ASSERT_HN_OK(read_arch("[" + first + "," + elu + "," + second + "]", &c));
    EXPECT_EQ(c.classes, 3);
    EXPECT_EQ(c.meshnet.layers, 2);
    EXPECT_EQ(c.meshnet.dilation[0], 2);
    EXPECT_EQ(c.meshnet.activation, HN_ACT_ELU);
    EXPECT_HN_FAIL(read_arch("{}", &c), HN_ERR_FORMAT, "x.arch.json: not a list");
    EXPECT_HN_FAIL(read_arch("[]", &c), HN_ERR_UNSUPPORTED, "0 convolutions");
    EXPECT_HN_FAIL(read_arch("[" + second + "]", &c), HN_ERR_FORMAT, "conv1\" where conv0");
    EXPECT_HN_FAIL(read_arch("[" + first + "," + second + "]", &c), HN_ERR_UNSUPPORTED,
                   "2 convolutions and 0 activations");
    EXPECT_HN_FAIL(read_arch("[" + elu + "," + first + "]", &c), HN_ERR_UNSUPPORTED, "behind");
    EXPECT_HN_FAIL(read_arch(R"([{"layer": "conv0", "kernel": "3"}])", &c), HN_ERR_FORMAT,
                   "whole number \"kernel\"");
    EXPECT_HN_FAIL(read_arch("[" + first + R"(,{"activation": "tanh"}])", &c), HN_ERR_UNSUPPORTED,
                   "tanh");
}

/* Logits of one volume (or several) and, in training, the loss: cross-entropy. */
struct Segmenter : ModelRun {
    hn_seg_config c;
    hn_tensor *volumes, *logits = nullptr, *labels = nullptr, *loss = nullptr, *count = nullptr;
    hn_graph *g = nullptr;
    hn_type type;

    Segmenter(const hn_seg_config &config, std::vector<int64_t> dim, bool trained,
              int64_t recompute = 0)
        : ModelRun(trained), c(config), type{}
    {
        EXPECT_HN_OK(hn_seg_declare(&c, params));
        create();
        type = hn_type_2d(HN_F32, dim[0] * dim[1] * dim[2] * dim[3], dim[4]);
        type.ndim = 5;
        std::copy(dim.begin(), dim.end(), type.dim);
        volumes = input("volumes", type);
        g = graph("g", trained);
        const hn_seg_build b = {.config = &c, .params = params, .recompute = recompute};
        EXPECT_HN_OK(hn_seg_logits(&b, g, volumes, &logits));
        hn_graph_keep(logits);
        if (trained) add_loss();
        plan();
    }
    void add_loss()
    {
        labels = input("labels", hn_type_1d(HN_I32, hn_type_rows(&type)));
        loss = input("loss", hn_type_1d(HN_F32, 1));
        count = input("count", hn_type_1d(HN_F32, 1));
        hn_tensor *const in[] = {logits, labels, loss, count, nullptr};
        hn_tensor *out[HN_MAX_OUT];
        hn_attr attr = {};
        attr.seg_loss.w_cross = attr.seg_loss.smooth = 1;
        EXPECT_HN_OK(hn_emit(g, HN_OP_SEG_LOSS, "loss", in, &attr, out));
        EXPECT_HN_OK(hn_graph_backward(g, 0, nullptr, nullptr));
    }
};

hn_seg_config small_unet()
{
    hn_seg_config c = named("unet3d-fets");
    c.channels = 2, c.classes = 3, c.unet3d.levels = 3;
    return c;
}

TEST(SegModels, Unet3dMatchesPyTorchForwardAndBackward)
{
    const StFile f("tests/fixtures/golden/model_unet3d.safetensors");
    for (const int64_t recompute : {0, 3}) {
        Segmenter m(small_unet(), f.shape("volumes"), true, recompute);
        m.load(f);
        const auto x = f.floats("volumes");
        const auto y = f.ints("labels");
        ASSERT_HN_OK(hn_tensor_set(m.volumes, x.data()));
        ASSERT_HN_OK(hn_tensor_write(m.labels, 0, y.data(), y.size() * sizeof y[0]));
        m.run(m.g);
        EXPECT_LT(rel_l2(ModelRun::values(m.logits), f.floats("logits")), 3e-6);
        EXPECT_NEAR(ModelRun::values(m.loss)[0], f.floats("loss")[0], 1e-5);
        EXPECT_EQ(ModelRun::values(m.count)[0], 2);
        m.expect_gradients(f, "train", 1e-4); /* norms of sums that cancel */
    }
}

TEST(SegModels, RefuseVolumesThatAreTooSmall)
{
    ModelRun m(false);
    const hn_seg_config c = small_unet();
    ASSERT_HN_OK(hn_seg_declare(&c, m.params));
    m.create();
    hn_type type = hn_type_2d(HN_F32, 4 * 4 * 3, 2);
    type.ndim = 5;
    type.dim[0] = 1, type.dim[1] = type.dim[2] = 4, type.dim[3] = 3, type.dim[4] = 2;
    hn_tensor *const x = m.input("x", type);
    hn_tensor *logits;
    const hn_seg_build b = {.config = &c, .params = m.params, .recompute = 0};
    EXPECT_HN_FAIL(hn_seg_logits(&b, m.graph("g", false), x, &logits), HN_ERR_SHAPE,
                   "with sides from 4");
}

TEST(SegModels, MeshnetsWithRealWeightsMatchPyTorch)
{
    HN_NEED_DATA(dir, "meshnet-brain");
    const StFile golden("tests/fixtures/golden/model_meshnet.safetensors");
    for (const std::string name : {"meshnet5", "meshnet20"}) {
        SCOPED_TRACE(name);
        const StFile weights(dir + "/" + name + ".safetensors");
        const std::string path = dir + "/" + name + ".arch.json";
        json_t *arch = nullptr;
        hn_seg_config c = {};
        ASSERT_HN_OK(hn_json_load(path.c_str(), &arch));
        const hn_status st = hn_seg_config_arch(arch, path.c_str(), 1, &c);
        json_decref(arch);
        ASSERT_HN_OK(st);
        auto dim = golden.shape("volume");
        dim.insert(dim.begin(), 1);
        Segmenter m(c, dim, false);
        m.load(weights);
        const auto x = golden.floats("volume");
        ASSERT_HN_OK(hn_tensor_set(m.volumes, x.data()));
        m.run(m.g);
        EXPECT_LT(rel_l2(ModelRun::values(m.logits), golden.floats(name)), 2e-6);
    }
}

} // namespace
