/* The norms as nodes: running values, segments, residuals, images, refusals. */
#include "graph_test.h"

namespace {

class GraphNorm : public Graph {
  protected:
    hn_tensor *tensor(const char *name, hn_type type, hn_mem mem = HN_MEM_INPUT)
    {
        hn_tensor *t = nullptr;
        EXPECT_HN_OK(hn_program_tensor(p, mem, name, &type, &t));
        return t;
    }
    static void fill(hn_tensor *t, unsigned seed)
    {
        const auto v = normal_f32((size_t)hn_type_elements(&t->type), seed);
        EXPECT_HN_OK(hn_tensor_set(t, v.data()));
    }
    static std::vector<float> get(const hn_tensor *t)
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        return v;
    }
    static hn_attr batch_attr()
    {
        hn_attr a = {};
        a.channel_norm.eps = 1e-5f, a.channel_norm.momentum = 0.1f;
        return a;
    }
    /* gain, bias, running_mean, running_var of n channels */
    std::vector<hn_tensor *> channels(int64_t n)
    {
        std::vector<hn_tensor *> t;
        for (const char *name : {"gain", "bias", "mean", "var"})
            t.push_back(tensor(name, hn_type_1d(HN_F32, n), HN_MEM_STATE));
        return t;
    }
};

/* A segment is computed again for backward; the batch norm in it is not. */
TEST_F(GraphNorm, RunningValuesMoveOnceInASegmentThatIsComputedAgain)
{
    hn_graph *g = graph("g", true);
    hn_tensor *x = input("x", 6, 3, true), *seed = input("seed", 6, 3), *out[HN_MAX_OUT];
    const auto c = channels(3);
    const hn_attr attr = batch_attr();
    hn_segment_begin(g);
    hn_tensor *const in[] = {emit(g, HN_OP_SCALE, {x}, 2), nullptr, c[0], c[1], c[2], c[3]};
    ASSERT_HN_OK(hn_emit(g, HN_OP_BATCH_NORM, "bn", in, &attr, out));
    hn_tensor *y = emit(g, HN_OP_MUL, {out[0], out[0]});
    hn_segment_end(g);
    y = emit(g, HN_OP_SCALE, {y}, 3);
    ASSERT_HN_OK(hn_graph_backward(g, 1, &y, &seed));
    hn_graph_keep(hn_graph_grad(g, x));
    plan();
    fill(x, 1), fill(seed, 2), fill(c[0], 3);
    ASSERT_HN_OK(run(g));
    int64_t batch_norms = 0;
    for (int64_t i = 0; i < hn_graph_nodes(g); i++)
        batch_norms += hn_graph_node(g, i)->op == HN_OP_BATCH_NORM;
    EXPECT_EQ(batch_norms, 1);
    for (int64_t j = 0; j < 3; j++) {
        float mean = 0;
        for (int64_t i = 0; i < 6; i++) mean += 2 * at(x, i, j) / 6;
        EXPECT_NEAR(at(c[2], 0, j), 0.1f * mean, 1e-6f);
    }
}

/* Without relu nothing has to be done for the gradient of res; with it, one node makes both. */
TEST_F(GraphNorm, ResidualTakesTheGradientThatReluLetThrough)
{
    for (const bool relu : {false, true}) {
        hn_program_free(p);
        ASSERT_HN_OK(hn_program_new(1, &p));
        hn_graph *g = graph("g", true);
        hn_tensor *x = input("x", 6, 3, true), *res = input("res", 6, 3, true);
        hn_tensor *seed = input("seed", 6, 3), *out[HN_MAX_OUT];
        const auto c = channels(3);
        hn_attr attr = batch_attr();
        attr.channel_norm.relu = relu;
        hn_tensor *const in[] = {x, res, c[0], c[1], c[2], c[3]};
        ASSERT_HN_OK(hn_emit(g, HN_OP_BATCH_NORM, "bn", in, &attr, out));
        hn_graph_keep(out[0]);
        ASSERT_HN_OK(hn_graph_backward(g, 1, &out[0], &seed));
        hn_tensor *dres = hn_graph_grad(g, res);
        ASSERT_NE(dres, nullptr);
        EXPECT_EQ(hn_graph_nodes(g), 2);
        EXPECT_EQ(dres == seed, !relu);
        if (!relu) continue;
        hn_graph_keep(dres);
        hn_graph_keep(hn_graph_grad(g, x));
        plan();
        fill(x, 1), fill(res, 2), fill(seed, 3), fill(c[0], 4);
        ASSERT_HN_OK(run(g));
        const auto y = get(out[0]), dy = get(seed), got = get(dres);
        for (size_t i = 0; i < y.size(); i++) EXPECT_EQ(got[i], y[i] > 0 ? dy[i] : 0);
    }
}

/* y = norm(x) + x: what has gathered for x goes in as dsum, no node adds it. */
TEST_F(GraphNorm, LayerNormAddsWhatHasGathered)
{
    hn_graph *g = graph("g", true);
    hn_tensor *x = input("x", 4, 6, true), *seed = input("seed", 4, 6), *out[HN_MAX_OUT];
    hn_tensor *gain = tensor("gain", hn_type_1d(HN_F32, 6));
    hn_attr attr = {};
    attr.norm.eps = 1e-5f;
    hn_tensor *const in[] = {x, nullptr, gain, nullptr};
    ASSERT_HN_OK(hn_emit(g, HN_OP_LAYER_NORM, "ln", in, &attr, out));
    hn_tensor *y = emit(g, HN_OP_ADD, {out[1], x});
    ASSERT_HN_OK(hn_graph_backward(g, 1, &y, &seed));
    EXPECT_EQ(hn_graph_nodes(g), 3);
    hn_tensor *dx = hn_graph_grad(g, x);
    ASSERT_NE(dx, nullptr);
    hn_graph_keep(dx);
    plan();
    fill(x, 1), fill(seed, 2);
    ASSERT_HN_OK(run(g)); /* gain 0: only the residual is left */
    EXPECT_EQ(get(dx), get(seed));
}

/* Rows of images 9 elements apart cannot become a sum whose rows are 8 apart. */
TEST_F(GraphNorm, ImagesOfDifferentPitchShareNoMemory)
{
    hn_graph *g = graph("g", false);
    hn_tensor *x = tensor("x", {HN_F32, 4, {2, 2, 2, 5}, 9}), *out[HN_MAX_OUT];
    hn_tensor *res = tensor("res", {HN_F32, 4, {2, 2, 2, 5}});
    hn_tensor *gain = tensor("gain", hn_type_1d(HN_F32, 5));
    hn_attr attr = {};
    attr.norm.eps = 1e-5f;
    hn_tensor *const in[] = {emit(g, HN_OP_ADD, {x, x}), res, gain, nullptr};
    ASSERT_HN_OK(hn_emit(g, HN_OP_LAYER_NORM, "ln", in, &attr, out));
    hn_graph_keep(out[0]);
    EXPECT_EQ(out[0]->type.ndim, 4);
    EXPECT_EQ(hn_type_ld(&out[0]->type), 8);
    plan();
    fill(x, 1), fill(res, 2);
    ASSERT_HN_OK(run(g));
    const auto sum = get(out[0]), a = get(x), b = get(res);
    for (size_t i = 0; i < sum.size(); i++) EXPECT_EQ(sum[i], a[i] + a[i] + b[i]);
}

/* A kept tensor stays as it is, also where only the last node of the graph reads it. */
TEST_F(GraphNorm, KeptTensorsAreNotTakenOverByTheLastNode)
{
    hn_graph *g = graph("g", true);
    hn_tensor *x = input("x", 4, 8, true), *seed = input("seed", 4, 8), *out[HN_MAX_OUT];
    hn_tensor *gain = tensor("gain", hn_type_1d(HN_F32, 8));
    hn_attr attr = {};
    attr.norm.eps = 1e-5f;
    hn_tensor *twice = emit(g, HN_OP_SCALE, {x}, 2);
    hn_graph_keep(twice);
    hn_tensor *const in[] = {twice, nullptr, gain, nullptr};
    ASSERT_HN_OK(hn_emit(g, HN_OP_LAYER_NORM, "ln", in, &attr, out));
    ASSERT_HN_OK(hn_graph_backward(g, 1, &out[1], &seed));
    hn_graph_keep(hn_graph_grad(g, twice));
    plan();
    fill(x, 1), fill(seed, 2), fill(gain, 3);
    ASSERT_HN_OK(run(g));
    const auto a = get(x), b = get(twice);
    for (size_t i = 0; i < a.size(); i++) EXPECT_EQ(b[i], 2 * a[i]);
}

TEST_F(GraphNorm, RefusalsSayWhy)
{
    hn_graph *g = graph("g", false);
    hn_tensor *x = input("x", 1, 3), *rows = input("rows", 2, 3);
    const auto c = channels(3);
    hn_attr attr = batch_attr();
    auto batch = [&](std::vector<hn_tensor *> in) {
        return hn_emit(g, HN_OP_BATCH_NORM, "bn", in.data(), &attr, nullptr);
    };
    EXPECT_HN_FAIL(batch({x, nullptr, c[0], c[1], c[2], c[3]}), HN_ERR_SHAPE, "bn (batch_norm): ");
    EXPECT_HN_FAIL(batch({x, nullptr, c[0], c[1], c[2], c[3]}), HN_ERR_SHAPE,
                   "more than 1 value per channel");
    EXPECT_HN_FAIL(batch({rows, x, c[0], c[1], c[2], c[3]}), HN_ERR_SHAPE, "x and res");
    EXPECT_HN_FAIL(batch({rows, nullptr, c[0], c[1], c[2], nullptr}), HN_ERR_SHAPE, "or neither");
    attr.channel_norm.frozen = true;
    EXPECT_HN_FAIL(batch({rows, nullptr, c[0], c[1], nullptr, nullptr}), HN_ERR_ARG,
                   "no running values");
    EXPECT_HN_OK(batch({x, nullptr, c[0], c[1], c[2], c[3]}));
    attr.channel_norm.groups = 2;
    hn_tensor *const in[] = {rows, c[0], c[1]};
    EXPECT_HN_FAIL(hn_emit(g, HN_OP_GROUP_NORM, "gn", in, &attr, nullptr), HN_ERR_SHAPE,
                   "3 columns do not split into 2 groups");
    attr.channel_norm.groups = 3;
    EXPECT_HN_FAIL(hn_emit(g, HN_OP_GROUP_NORM, "gn", in, &attr, nullptr), HN_ERR_SHAPE,
                   "more than 1 value per group");
}

TEST(GraphNormReplicas, BatchNormHasNone)
{
    hn_program *p = nullptr;
    hn_graph *g = nullptr;
    hn_tensor *x = nullptr, *gain = nullptr, *bias = nullptr;
    const hn_type rows = f32_2d(4, 3), column = hn_type_1d(HN_F32, 3);
    ASSERT_HN_OK(hn_program_new(2, &p));
    ASSERT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "x", &rows, &x));
    ASSERT_HN_OK(hn_program_tensor(p, HN_MEM_TRAINED, "gain", &column, &gain));
    ASSERT_HN_OK(hn_program_tensor(p, HN_MEM_TRAINED, "bias", &column, &bias));
    ASSERT_HN_OK(hn_graph_new(p, "g", true, &g));
    hn_tensor *const in[] = {x, nullptr, gain, bias, nullptr, nullptr};
    hn_attr attr = {};
    attr.channel_norm.eps = 1e-5f;
    EXPECT_HN_FAIL(hn_emit(g, HN_OP_BATCH_NORM, "bn", in, &attr, nullptr), HN_ERR_UNSUPPORTED,
                   "no replicas");
    hn_program_free(p);
}

} // namespace
