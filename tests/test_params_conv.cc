/* Convolutions of parameters: with a low-rank update they are the convolution with W + scale B A,
 * in values and gradients; layers behind flattened images. */
#include "model_test.h"

namespace {

struct Adapter {
    int64_t rank;
    float scale, dropout;
};

hn_status choose(const void *context, const char *, int64_t, int64_t, hn_lowrank *choice)
{
    const auto *a = (const Adapter *)context;
    *choice = {a->rank, a->scale, a->dropout};
    return HN_OK;
}

constexpr int64_t kImages = 2, kSize = 7, kIn = 5, kOut = 6, kTaps = 9 * kIn;

/* x -> conv -> y with gradients; everything trained. */
class Conv {
  public:
    hn_program *program = nullptr;
    hn_params *params = nullptr;
    hn_graph *g = nullptr;
    hn_tensor *x = nullptr, *y = nullptr, *dy = nullptr;
    hn_step_block step = {};
    hn_status recorded = HN_OK;

    Conv(Adapter a, int64_t groups = 1)
    {
        const hn_adapt adapt = {
            .parameter = train_all, .linear = a.rank > 0 ? choose : nullptr, .context = &a};
        EXPECT_HN_OK(hn_program_new(1, &program));
        EXPECT_HN_OK(hn_params_new(&adapt, &params));
        hn_conv_shape s = {};
        s.in = kIn, s.out = groups > 1 ? kIn : kOut, s.kh = s.kw = 3, s.groups = groups;
        s.bias = true;
        EXPECT_HN_OK(hn_params_conv(params, "conv", &s));
        hn_params_options o = {.dtype = HN_F32};
        o.gradients = true;
        EXPECT_HN_OK(hn_params_create(params, program, &o));
        const hn_type images = {HN_F32, 4, {kImages, kSize, kSize, kIn}, 8};
        EXPECT_HN_OK(hn_program_tensor(program, HN_MEM_INPUT, "x", &images, &x));
        x->needs_grad = true;
        EXPECT_HN_OK(hn_graph_new(program, "g", true, &g));
        recorded = hn_params_conv_fwd(params, g, "conv", 2, 1, x, &y);
        if (recorded != HN_OK) return;
        hn_graph_keep(y);
        EXPECT_HN_OK(hn_program_tensor(program, HN_MEM_INPUT, "dy", &y->type, &dy));
        EXPECT_HN_OK(hn_graph_backward(g, 1, &y, &dy));
        hn_graph_keep(hn_graph_grad(g, x));
        const hn_plan_options plan = {.guard_bytes = 256};
        EXPECT_HN_OK(hn_plan_build(program, &plan));
        EXPECT_HN_OK(hn_plan_allocate(program));
        set(x, 1);
        set(dy, 2);
    }
    ~Conv()
    {
        hn_params_free(params);
        hn_program_free(program);
    }
    Conv(const Conv &) = delete;
    static void set(hn_tensor *t, unsigned seed)
    {
        EXPECT_HN_OK(hn_tensor_set(t, normal_f32((size_t)hn_type_elements(&t->type), seed).data()));
    }
    const hn_param *find(const char *name) const { return hn_params_find(params, name); }
    void run()
    {
        const hn_run_options o = {.step = &step, .check = true};
        EXPECT_HN_OK(hn_graph_run(g, &o));
    }
    static std::vector<float> values(const hn_tensor *t) { return ModelRun::values(t); }
};

TEST(ParamsConv, LowRankUpdateIsTheConvolutionWithTheSum)
{
    const int64_t rank = 3;
    const float scale = 0.5f;
    Conv low({rank, scale, 0}), dense({0, 0, 0});
    for (Conv *c : {&low, &dense}) Conv::set(c->find("conv.weight")->value, 3);
    for (Conv *c : {&low, &dense}) Conv::set(c->find("conv.bias")->value, 4);
    Conv::set(low.find("conv.lora_A.weight")->value, 5);
    Conv::set(low.find("conv.lora_B.weight")->value, 6);
    const auto a = Conv::values(low.find("conv.lora_A.weight")->value);
    const auto b = Conv::values(low.find("conv.lora_B.weight")->value);
    auto w = Conv::values(dense.find("conv.weight")->value);
    for (int64_t o = 0; o < kOut; o++)
        for (int64_t k = 0; k < kTaps; k++)
            for (int64_t r = 0; r < rank; r++)
                w[(size_t)(o * kTaps + k)] +=
                    scale * b[(size_t)(o * rank + r)] * a[(size_t)(r * kTaps + k)];
    ASSERT_HN_OK(hn_tensor_set(dense.find("conv.weight")->value, w.data()));
    low.run();
    dense.run();
    /* fp32 sums of 45 products in two orders */
    EXPECT_LT(rel_l2(Conv::values(low.y), Conv::values(dense.y)), 1e-5);
    EXPECT_LT(rel_l2(Conv::values(hn_graph_grad(low.g, low.x)),
                     Conv::values(hn_graph_grad(dense.g, dense.x))),
              1e-5);
    const auto dw = Conv::values(dense.find("conv.weight")->grad);
    EXPECT_LT(rel_l2(Conv::values(low.find("conv.weight")->grad), dw), 1e-5);
    std::vector<double> da(a.size()), db(b.size());
    for (int64_t o = 0; o < kOut; o++)
        for (int64_t k = 0; k < kTaps; k++)
            for (int64_t r = 0; r < rank; r++) {
                const double g = (double)scale * (double)dw[(size_t)(o * kTaps + k)];
                da[(size_t)(r * kTaps + k)] += g * (double)b[(size_t)(o * rank + r)];
                db[(size_t)(o * rank + r)] += g * (double)a[(size_t)(r * kTaps + k)];
            }
    EXPECT_LT(rel_l2(Conv::values(low.find("conv.lora_A.weight")->grad), da), 1e-5);
    EXPECT_LT(rel_l2(Conv::values(low.find("conv.lora_B.weight")->grad), db), 1e-5);
}

/* With dropout only the update changes: with B zero it is the convolution still. */
TEST(ParamsConv, DropoutIsOfTheUpdateAlone)
{
    Conv low({2, 1, 0.5f}), dense({0, 0, 0});
    for (Conv *c : {&low, &dense}) {
        Conv::set(c->find("conv.weight")->value, 3);
        Conv::set(c->find("conv.bias")->value, 4);
    }
    Conv::set(low.find("conv.lora_A.weight")->value, 5);
    low.run();
    dense.run();
    EXPECT_EQ(Conv::values(low.y), Conv::values(dense.y));
    Conv::set(low.find("conv.lora_B.weight")->value, 6);
    low.run();
    EXPECT_GT(rel_l2(Conv::values(low.y), Conv::values(dense.y)), 0.1);
}

TEST(ParamsConv, RefusesLowRankUpdatesInGroupsAndUnknownNames)
{
    Conv groups({2, 1, 0}, kIn);
    EXPECT_EQ(groups.recorded, HN_ERR_UNSUPPORTED);
    EXPECT_NE(std::strstr(hn_last_error(), "conv: low-rank update of a convolution in groups"),
              nullptr);
    EXPECT_HN_FAIL(hn_params_conv_fwd(groups.params, groups.g, "none", 1, 0, groups.x, &groups.y),
                   HN_ERR_ARG, "none: no such convolution");
}

/* In files a column is channel, then pixel; here pixel, then channel. */
TEST(ParamsFlattened, ColumnsOfWeightAndAAreReordered)
{
    const Adapter two = {2, 1, 0};
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
