/* Convolutions of parameters: layers with a low-rank update are the layer with W + scale B A, in
 * values and gradients, whichever way they are computed; layers behind flattened images. */
#include "model_test.h"

namespace {

struct Adapter {
    int64_t rank;
    float scale, dropout;
    bool materialise;
};

hn_status choose(const void *context, const char *, int64_t, int64_t, hn_lowrank *choice)
{
    const auto *a = (const Adapter *)context;
    *choice = {a->rank, a->scale, a->dropout, a->materialise};
    return HN_OK;
}

/* A layer of images [2, 7, 7, 5]; kernel 0: linear, of the same values as 98 rows. */
struct Layer {
    const char *name;
    int64_t kernel, stride, groups, out;
};

constexpr Layer kConv3x3 = {"conv3x3", 3, 2, 1, 6};
constexpr int64_t kImages = 2, kSize = 7, kIn = 5;

/* x -> layer -> y with gradients; everything trained. */
class Conv {
  public:
    hn_program *program = nullptr;
    hn_params *params = nullptr;
    hn_graph *g = nullptr;
    hn_tensor *x = nullptr, *y = nullptr, *dy = nullptr;
    hn_step_block step = {};
    Layer layer;

    explicit Conv(Adapter a, Layer l = kConv3x3) : layer(l)
    {
        const hn_adapt adapt = {
            .parameter = train_all, .linear = a.rank > 0 ? choose : nullptr, .context = &a};
        EXPECT_HN_OK(hn_program_new(1, &program));
        EXPECT_HN_OK(hn_params_new(&adapt, &params));
        declare();
        hn_params_options o = {.dtype = HN_F32};
        o.gradients = true;
        EXPECT_HN_OK(hn_params_create(params, program, &o));
        const hn_type images = {HN_F32, 4, {kImages, kSize, kSize, kIn}, 8};
        const hn_type rows = {HN_F32, 2, {kImages * kSize * kSize, kIn}, 8};
        EXPECT_HN_OK(hn_program_tensor(program, HN_MEM_INPUT, "x", l.kernel ? &images : &rows, &x));
        x->needs_grad = true;
        EXPECT_HN_OK(hn_graph_new(program, "g", true, &g));
        if (l.kernel > 0)
            EXPECT_HN_OK(hn_params_conv_fwd(params, g, "conv", l.stride, l.kernel / 2, x, &y));
        else
            EXPECT_HN_OK(hn_params_linear_fwd(params, g, "conv", x, &y));
        hn_graph_keep(y);
        EXPECT_HN_OK(hn_program_tensor(program, HN_MEM_INPUT, "dy", &y->type, &dy));
        EXPECT_HN_OK(hn_graph_backward(g, 1, &y, &dy));
        hn_graph_keep(hn_graph_grad(g, x));
        const hn_plan_options plan = {.guard_bytes = 256};
        EXPECT_HN_OK(hn_plan_build(program, &plan));
        EXPECT_HN_OK(hn_plan_allocate(program));
        set(x, 1);
        set(dy, 2);
        set(find("conv.weight")->value, 3);
        set(find("conv.bias")->value, 4);
        if (a.rank > 0) set(find("conv.lora_A.weight")->value, 5);
        if (a.rank > 0) set(find("conv.lora_B.weight")->value, 6);
    }
    ~Conv()
    {
        hn_params_free(params);
        hn_program_free(program);
    }
    Conv(const Conv &) = delete;
    void declare()
    {
        hn_conv_shape s = {};
        s.in = kIn, s.out = layer.out, s.kh = s.kw = layer.kernel, s.groups = layer.groups;
        s.bias = true;
        if (layer.kernel > 0)
            ASSERT_HN_OK(hn_params_conv(params, "conv", &s));
        else
            ASSERT_HN_OK(hn_params_linear(params, "conv", kIn, layer.out, true, 0));
    }
    static void set(hn_tensor *t, unsigned seed)
    {
        EXPECT_HN_OK(hn_tensor_set(t, normal_f32((size_t)hn_type_elements(&t->type), seed).data()));
    }
    const hn_param *find(const std::string &name) const
    {
        return hn_params_find(params, name.c_str());
    }
    void run()
    {
        const hn_run_options o = {.step = &step, .check = true};
        EXPECT_HN_OK(hn_graph_run(g, &o));
    }
    static std::vector<float> values(const hn_tensor *t) { return ModelRun::values(t); }
    std::vector<float> value(const char *name) const { return values(find(name)->value); }
    std::vector<float> grad(const char *name) const { return values(find(name)->grad); }
    std::vector<float> dx() const { return values(hn_graph_grad(g, x)); }
};

/* scale b c, in double: [m, k] [k, n], or the transposes that gradients take. */
std::vector<double> product(const std::vector<float> &b, const std::vector<float> &c, int64_t m,
                            int64_t k, int64_t n, double scale, bool bt = false, bool ct = false)
{
    std::vector<double> a((size_t)(m * n));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            for (int64_t r = 0; r < k; r++)
                a[(size_t)(i * n + j)] += scale * (double)b[(size_t)(bt ? r * m + i : i * k + r)] *
                                          (double)c[(size_t)(ct ? j * k + r : r * n + j)];
    return a;
}

class LowRankLayer : public ::testing::TestWithParam<Layer> {};

/* Either way of the update: fp32 sums of up to 98 products in two orders. */
TEST_P(LowRankLayer, IsTheLayerWithTheSum)
{
    const Layer l = GetParam();
    const int64_t rank = 3;
    const float scale = 0.5f;
    Conv beside({rank, scale, 0, false}, l), inside({rank, scale, 0, true}, l), dense({}, l);
    const int64_t out = l.out, in = inside.find("conv.weight")->dim[1];
    const auto a = inside.value("conv.lora_A.weight"), b = inside.value("conv.lora_B.weight");
    const auto ba = product(b, a, out, rank, in, scale);
    auto w = dense.value("conv.weight");
    for (size_t i = 0; i < w.size(); i++) w[i] += (float)ba[i];
    ASSERT_HN_OK(hn_tensor_set(dense.find("conv.weight")->value, w.data()));
    dense.run();
    const auto dw = dense.grad("conv.weight");
    const auto da = product(b, dw, rank, out, in, scale, true);
    const auto db = product(dw, a, out, in, rank, scale, false, true);
    for (Conv *c : {&beside, &inside}) {
        c->run();
        EXPECT_LT(rel_l2(Conv::values(c->y), Conv::values(dense.y)), 1e-5);
        EXPECT_LT(rel_l2(c->dx(), dense.dx()), 1e-5);
        EXPECT_LT(rel_l2(c->grad("conv.weight"), dw), 1e-5);
        EXPECT_LT(rel_l2(c->grad("conv.bias"), dense.grad("conv.bias")), 1e-5);
        EXPECT_LT(rel_l2(c->grad("conv.lora_A.weight"), da), 1e-5);
        EXPECT_LT(rel_l2(c->grad("conv.lora_B.weight"), db), 1e-5);
    }
    EXPECT_EQ(hn_graph_node(inside.g, 0)->op, HN_OP_LOWRANK_WEIGHT);
    EXPECT_EQ(hn_graph_node(beside.g, 0)->op == HN_OP_LOWRANK_WEIGHT, l.groups > 1);
}

INSTANTIATE_TEST_SUITE_P(Layers, LowRankLayer,
                         ::testing::Values(kConv3x3, Layer{"conv1x1", 1, 1, 1, 6},
                                           Layer{"depthwise", 3, 2, kIn, kIn},
                                           Layer{"linear", 0, 0, 1, 6}),
                         [](const auto &i) { return std::string(i.param.name); });

/* With dropout only the update changes: with B zero it is the convolution still. */
TEST(ParamsConv, DropoutIsOfTheUpdateAlone)
{
    Conv low({2, 1, 0.5f, false}), dense({});
    const std::vector<float> zero(low.value("conv.lora_B.weight").size());
    ASSERT_HN_OK(hn_tensor_set(low.find("conv.lora_B.weight")->value, zero.data()));
    low.run();
    dense.run();
    EXPECT_EQ(Conv::values(low.y), Conv::values(dense.y));
    Conv::set(low.find("conv.lora_B.weight")->value, 6);
    low.run();
    EXPECT_GT(rel_l2(Conv::values(low.y), Conv::values(dense.y)), 0.1);
}

TEST(ParamsConv, RefusesDropoutInFrontOfASumAndUnknownNames)
{
    for (const bool materialise : {false, true}) {
        const Adapter a = {2, 1, 0.1f, materialise};
        const hn_adapt adapt = {.parameter = nullptr, .linear = choose, .context = &a};
        hn_params *p = nullptr;
        ASSERT_HN_OK(hn_params_new(&adapt, &p));
        hn_conv_shape s = {};
        s.in = s.out = s.groups = kIn, s.kh = s.kw = 3;
        EXPECT_HN_FAIL(hn_params_conv(p, "conv", &s), HN_ERR_UNSUPPORTED,
                       "conv: dropout 0.1 in front of a low-rank update that is added to the "
                       "weight (a convolution in groups)");
        if (materialise)
            EXPECT_HN_FAIL(hn_params_linear(p, "fc", 4, 3, true, 0), HN_ERR_UNSUPPORTED,
                           "fc: dropout 0.1 in front");
        else
            EXPECT_HN_OK(hn_params_linear(p, "fc", 4, 3, true, 0));
        hn_params_free(p);
    }
    Conv c({});
    EXPECT_HN_FAIL(hn_params_conv_fwd(c.params, c.g, "none", 1, 0, c.x, &c.y), HN_ERR_ARG,
                   "none: no such convolution");
}

/* Storage that puts pairs around weights, and layers into one, leaves such layers alone. */
TEST(ParamsConv, MaterialisedLayersAreStoredByThemselves)
{
    for (const bool materialise : {false, true}) {
        const Adapter a = {8, 1, 0, materialise};
        const hn_adapt adapt = {.parameter = nullptr, .linear = choose, .context = &a};
        const char *const both[] = {"q", "k"};
        hn_program *program = nullptr;
        hn_params *p = nullptr;
        hn_graph *g = nullptr;
        hn_tensor *x = nullptr, *y[2] = {};
        ASSERT_HN_OK(hn_program_new(1, &program));
        ASSERT_HN_OK(hn_params_new(&adapt, &p));
        for (const char *name : both) ASSERT_HN_OK(hn_params_linear(p, name, 64, 64, false, 0));
        ASSERT_HN_OK(hn_params_linear(p, "out", 64, 64, false, 0));
        ASSERT_HN_OK(hn_params_group(p, 2, both));
        hn_params_options o = {.dtype = HN_BF16};
        o.fuse = HN_FUSE_ALWAYS;
        o.border = true;
        ASSERT_HN_OK(hn_params_create(p, program, &o));
        const hn_type type = hn_type_2d(HN_BF16, 4, 64);
        ASSERT_HN_OK(hn_program_tensor(program, HN_MEM_INPUT, "x", &type, &x));
        ASSERT_HN_OK(hn_graph_new(program, "g", false, &g));
        ASSERT_HN_OK(hn_params_group_fwd(p, g, "q", x, y));
        EXPECT_EQ(hn_graph_nodes(g), materialise ? 4 : 1);
        for (const char *name : {"q.weight", "out.weight"})
            EXPECT_EQ(hn_params_find(p, name)->value->base == nullptr, materialise) << name;
        hn_params_free(p);
        hn_program_free(program);
    }
}

/* Two sets of parameters in a program: the second under names of its own, as constants. */
TEST(ParamsPrefix, HoldsConstantsBesideParameters)
{
    const hn_adapt all = {.parameter = train_all, .linear = nullptr, .context = nullptr};
    hn_program *program = nullptr;
    hn_params *p = nullptr, *beside = nullptr, *trained = nullptr;
    ASSERT_HN_OK(hn_program_new(1, &program));
    hn_params_options o = {.dtype = HN_F32};
    for (hn_params **q : {&p, &trained, &beside}) {
        ASSERT_HN_OK(hn_params_new(q == &beside ? nullptr : &all, q));
        ASSERT_HN_OK(hn_params_linear(*q, "fc", 6, 2, true, 0));
        ASSERT_HN_OK(hn_params_buffer(*q, "running", 2, HN_INIT_ONE));
        if (q == &p) {
            ASSERT_HN_OK(hn_params_create(p, program, &o));
        }
    }
    EXPECT_HN_FAIL(hn_params_create(beside, program, &o), HN_ERR_ARG, "two tensors named");
    o.prefix = "copy:";
    EXPECT_HN_FAIL(hn_params_create(trained, program, &o), HN_ERR_UNSUPPORTED,
                   "parameters beside others (copy:) that are trained");
    ASSERT_HN_OK(hn_params_create(beside, program, &o));
    for (const char *name : {"copy:fc.weight", "copy:fc.bias", "copy:running"})
        EXPECT_NE(hn_program_find(program, name), nullptr) << name;
    for (hn_params *q : {p, trained, beside}) hn_params_free(q);
    hn_program_free(program);
}

/* In files a column is channel, then pixel; here pixel, then channel. */
TEST(ParamsFlattened, ColumnsOfWeightAndAAreReordered)
{
    const Adapter two = {2, 1, 0, false};
    const hn_adapt adapt = {.parameter = nullptr, .linear = choose, .context = &two};
    hn_program *program = nullptr;
    hn_params *p = nullptr;
    ASSERT_HN_OK(hn_program_new(1, &program));
    ASSERT_HN_OK(hn_params_new(&adapt, &p));
    ASSERT_HN_OK(hn_params_linear(p, "fc", 6, 2, true, 0));
    EXPECT_HN_FAIL(hn_params_file_flattened(p, "fc", 4), HN_ERR_SHAPE, "of 4 pixels");
    EXPECT_HN_FAIL(hn_params_file_flattened(p, "fc2", 3), HN_ERR_ARG, "no such linear layer");
    ASSERT_HN_OK(hn_params_file_flattened(p, "fc", 3));
    const hn_params_options o = {.dtype = HN_F32};
    const hn_plan_options plan = {};
    ASSERT_HN_OK(hn_params_create(p, program, &o));
    ASSERT_HN_OK(hn_plan_build(program, &plan));
    ASSERT_HN_OK(hn_plan_allocate(program));
    for (const char *name : {"fc.weight", "fc.lora_A.weight"}) {
        const hn_param *q = hn_params_find(p, name);
        EXPECT_EQ(q->file_ndim, 2);
        EXPECT_EQ(q->file_dim[1], 6);
        std::vector<float> file(12), back(12);
        for (size_t i = 0; i < file.size(); i++) file[i] = (float)i;
        ASSERT_HN_OK(hn_param_set(q, file.data()));
        const std::vector<float> want = {0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11};
        EXPECT_EQ(ModelRun::values(q->value), want) << name;
        ASSERT_HN_OK(hn_param_get(q, back.data()));
        EXPECT_EQ(back, file) << name;
    }
    hn_params_free(p);
    hn_program_free(program);
}

} // namespace
