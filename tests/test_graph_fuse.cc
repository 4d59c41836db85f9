/* Passes that move work between operations: the residual into the product before its norm, s and ds
 * into what makes x and dy.  */
#include "graph_test.h"

/* graph_impl.h: plans run it for their device; here it runs for a GPU and the plan for the CPU. */
extern "C" void hn_pass_produce(hn_graph *g, hn_device_kind device);

namespace {

/* linear, then add_rmsnorm with a residual that another node makes. */
class GraphFuse : public Graph {
  protected:
    static constexpr int ROWS = 3, IN = 5, OUT = 4;
    hn_graph *g = nullptr;
    hn_tensor *x = nullptr, *w = nullptr, *r = nullptr, *gain = nullptr;
    hn_tensor *res = nullptr, *y = nullptr, *sum = nullptr, *normed = nullptr;

    hn_tensor *real(const char *name, hn_dtype dtype, int64_t rows, int64_t cols)
    {
        hn_tensor *t = nullptr;
        const hn_type type = hn_type_2d(dtype, rows, cols);
        EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, name, &type, &t));
        return t;
    }
    void inputs(hn_dtype dtype, bool training = false)
    {
        const hn_type one = hn_type_1d(dtype, OUT);
        g = graph("g", training);
        x = real("x", dtype, ROWS, IN), w = real("w", dtype, OUT, IN),
        r = real("r", dtype, ROWS, OUT);
        ASSERT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "gain", &one, &gain));
    }
    void residual() { res = emit(g, HN_OP_SCALE, {r}, 1); }
    void linear() { y = emit(g, HN_OP_LINEAR, {x, w, nullptr, nullptr}); }
    void norm()
    {
        hn_tensor *in[] = {y, res, gain}, *out[HN_MAX_OUT] = {};
        hn_attr attr = {};
        attr.norm.eps = 1e-5f;
        ASSERT_HN_OK(hn_emit(g, HN_OP_ADD_RMSNORM, "norm", in, &attr, out));
        sum = out[0], normed = out[1];
        hn_graph_keep(sum), hn_graph_keep(normed);
    }
    void fill()
    {
        for (hn_tensor *t : {x, w, r, gain}) {
            const auto v = normal_f32((size_t)hn_type_elements(&t->type), (unsigned)t->name[0]);
            ASSERT_HN_OK(hn_tensor_set(t, v.data()));
        }
    }
    static std::vector<float> get(const hn_tensor *t)
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        return v;
    }
    const hn_node *the(hn_op_id op) const
    {
        for (int64_t i = 0; i < hn_graph_nodes(g); i++)
            if (hn_graph_node(g, i)->op == op) return hn_graph_node(g, i);
        return nullptr;
    }
    bool fused() const { return the(HN_OP_LINEAR)->in[3] != nullptr; }
    /* sum = round(x w^T + res) with `roundings` in all, and its norm. */
    void expect_values(int roundings)
    {
        const auto xv = get(x), wv = get(w), rv = get(r), gv = get(gain), sv = get(sum);
        const auto nv = get(normed);
        const hn_dtype t = x->type.dtype;
        for (int i = 0; i < ROWS; i++) {
            double squares = 0;
            for (int j = 0; j < OUT; j++) {
                double v = 0;
                for (int k = 0; k < IN; k++)
                    v += (double)xv[(size_t)(i * IN + k)] * (double)wv[(size_t)(j * IN + k)];
                if (roundings > 1) v = (double)hn_round_f32(t, (float)v);
                const size_t at = (size_t)(i * OUT + j);
                EXPECT_EQ(sv[at], hn_round_f32(t, (float)(v + (double)rv[at])));
                squares += (double)sv[at] * (double)sv[at];
            }
            for (int j = 0; j < OUT; j++) {
                const size_t at = (size_t)(i * OUT + j);
                const double want =
                    (double)sv[at] / std::sqrt(squares / OUT + 1e-5) * (double)gv[(size_t)j];
                EXPECT_NEAR((double)nv[at], want, std::fabs(want) * 0x1p-8);
            }
        }
    }
};

TEST_F(GraphFuse, AProductAddsTheResidualThatItsNormWouldAdd)
{
    inputs(HN_BF16), residual(), linear(), norm();
    plan(64);
    fill();
    hn_run_options o = {.step = &step, .twin = true, .check = true};
    ASSERT_HN_OK(hn_graph_run(g, &o));
    EXPECT_TRUE(fused());
    EXPECT_EQ(the(HN_OP_LINEAR)->out[0], sum);
    EXPECT_EQ(the(HN_OP_ADD_RMSNORM)->in[0], sum);
    EXPECT_EQ(the(HN_OP_ADD_RMSNORM)->in[1], nullptr);
    expect_values(1);
    o.twin = false;
    ASSERT_HN_OK(hn_graph_run(g, &o));
    expect_values(1);
}

TEST_F(GraphFuse, NothingChangesInF32)
{
    inputs(HN_F32), residual(), linear(), norm();
    plan(64);
    EXPECT_FALSE(fused());
}

TEST_F(GraphFuse, AProductThatIsReadElsewhereStays)
{
    inputs(HN_BF16), residual(), linear(), norm();
    hn_graph_keep(emit(g, HN_OP_SCALE, {y}, 2));
    plan(64);
    fill();
    ASSERT_HN_OK(run(g, true));
    EXPECT_FALSE(fused());
    expect_values(2);
}

TEST_F(GraphFuse, AKeptProductStays)
{
    inputs(HN_BF16), residual(), linear(), norm();
    hn_graph_keep(y);
    plan(64);
    EXPECT_FALSE(fused());
}

TEST_F(GraphFuse, AResidualThatIsMadeLaterStays)
{
    inputs(HN_BF16), linear(), residual(), norm();
    plan(64);
    fill();
    ASSERT_HN_OK(run(g, true));
    EXPECT_FALSE(fused());
    expect_values(2);
}

/* Backward was recorded with the sum; it reads the same one. */
TEST_F(GraphFuse, GradientsAreThoseOfTheNormBehindTheSum)
{
    inputs(HN_BF16, true);
    x->needs_grad = r->needs_grad = true;
    residual(), linear(), norm();
    hn_tensor *seed = real("seed", HN_BF16, ROWS, OUT);
    ASSERT_HN_OK(hn_graph_backward(g, 1, &normed, &seed));
    hn_tensor *dx = hn_graph_grad(g, x), *dr = hn_graph_grad(g, r);
    hn_graph_keep(dx), hn_graph_keep(dr);
    plan(64);
    fill();
    ASSERT_HN_OK(hn_tensor_set(seed, normal_f32(ROWS * OUT, 9).data()));
    ASSERT_HN_OK(run(g, true));
    EXPECT_TRUE(fused());
    EXPECT_EQ(the(HN_OP_ADD_RMSNORM_BWD)->in[0], sum);
    const auto dsum = get(dr), wv = get(w), dxv = get(dx); /* dr is the gradient of the sum */
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < IN; k++) {
            double want = 0;
            for (int j = 0; j < OUT; j++)
                want += (double)dsum[(size_t)(i * OUT + j)] * (double)wv[(size_t)(j * IN + k)];
            EXPECT_NEAR((double)dxv[(size_t)(i * IN + k)], want, std::fabs(want) * 0x1p-8 + 1e-5);
        }
}

/* A gated block with low-rank updates, gate and up as one, bordered storage: x, A and B of both
 * layers get gradients. */
struct Gated {
    enum { ROWS = 24, D = 16, F = 40, R = 8 };
    hn_program *p = nullptr;
    hn_graph *g = nullptr;
    hn_tensor *x = nullptr, *seed = nullptr, *border[2] = {}, *y[2] = {}, *h = nullptr;
    std::vector<hn_tensor *> trained; /* and x */
    std::vector<std::vector<float>> result;

    /* keep: what is read elsewhere, 'h' or 'g' (the gradient of gate and up) */
    Gated(hn_dtype dtype, float dropout, bool pass, char keep = 0)
    {
        const hn_type rows = hn_type_2d(dtype, ROWS, D);
        EXPECT_HN_OK(hn_program_new(1, &p));
        EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "x", &rows, &x));
        EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "seed", &rows, &seed));
        EXPECT_HN_OK(hn_graph_new(p, "g", true, &g));
        x->needs_grad = true;
        trained = {x};
        y[0] = lowrank("up", x, D, 2 * F, 0, dropout);
        hn_tensor *half[3] = {}, *out[HN_MAX_OUT];
        for (int k = 0; k < 2; k++) EXPECT_HN_OK(hn_view_columns(g, y[0], k * F, F, &half[k]));
        EXPECT_HN_OK(hn_emit(g, HN_OP_SWIGLU, "act", half, nullptr, out));
        h = out[0];
        y[1] = lowrank("down", h, F, D, 1, dropout);
        hn_graph_keep(y[1]);
        EXPECT_HN_OK(hn_graph_backward(g, 1, &y[1], &seed));
        for (hn_tensor *t : trained) hn_graph_keep(hn_graph_grad(g, t));
        if (keep == 'h') hn_graph_keep(h);
        if (keep == 'g') hn_graph_keep(hn_graph_grad(g, y[0]));
        if (pass) hn_pass_produce(g, HN_DEVICE_CUDA);
        run();
    }
    ~Gated() { hn_program_free(p); }
    hn_tensor *lowrank(const std::string &name, hn_tensor *in, int cols, int rows, int at, float p_)
    {
        hn_tensor *w = nullptr, *a = nullptr, *b = nullptr, *out[HN_MAX_OUT] = {};
        const hn_type all = hn_type_2d(in->type.dtype, rows + R, cols + R);
        const auto view = [&](const char *what, int row, int n, int col, int m, hn_tensor **t) {
            EXPECT_HN_OK(hn_program_view(p, (name + what).c_str(), border[at], row, n, col, m, t));
        };
        EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_WEIGHT, name.c_str(), &all, &border[at]));
        view(".w", 0, rows, 0, cols, &w), view(".a", rows, R, 0, cols, &a);
        view(".b", 0, rows, cols, R, &b);
        a->needs_grad = b->needs_grad = true;
        trained.insert(trained.end(), {a, b});
        hn_tensor *const operands[] = {in, w, nullptr, a, b, nullptr, nullptr};
        const hn_attr attr = {.linear = {.alpha = 0.5f, .dropout = p_, .key = 3}};
        EXPECT_HN_OK(hn_emit(g, HN_OP_LOWRANK_LINEAR, name.c_str(), operands, &attr, out));
        return out[0];
    }
    void run()
    {
        const hn_plan_options o = {.guard_bytes = 64};
        hn_step_block step = {};
        ASSERT_HN_OK(hn_plan_build(p, &o));
        ASSERT_HN_OK(hn_plan_allocate(p));
        for (hn_tensor *t : {x, seed, border[0], border[1]})
            ASSERT_HN_OK(hn_tensor_set(
                t, normal_f32((size_t)hn_type_elements(&t->type), (unsigned)t->name[0]).data()));
        const hn_run_options run = {.step = &step, .check = true};
        ASSERT_HN_OK(hn_graph_run(g, &run));
        result.push_back(get(y[1]));
        for (hn_tensor *t : trained) result.push_back(get(hn_graph_grad(g, t)));
    }
    static std::vector<float> get(const hn_tensor *t)
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        return v;
    }
    /* The node `act_op` makes its output `made` for input `given` of a node `low_op`, whose output
     * `own` that was. */
    bool moved(hn_op_id act_op, int made, hn_op_id low_op, int given, int own) const
    {
        const hn_node *act = nullptr;
        bool found = false;
        for (int64_t i = 0; i < hn_graph_nodes(g); i++) {
            const hn_node *n = hn_graph_node(g, i);
            if (n->op == act_op) act = n;
            if (n->op != low_op) continue;
            EXPECT_EQ(n->in[given] == nullptr, n->out[own] != nullptr);
            found |= n->in[given] != nullptr && act != nullptr && n->in[given] == act->out[made];
        }
        EXPECT_EQ(found, act->out[made] != nullptr);
        return found;
    }
    bool s_moved() const { return moved(HN_OP_SWIGLU, 1, HN_OP_LOWRANK_LINEAR, 6, 1); }
    bool ds_moved() const { return moved(HN_OP_SWIGLU_BWD, 3, HN_OP_LOWRANK_DX, 5, 0); }
};

/* The same products in another place; ds as the sum of one half and the other, rounded once. */
TEST(GraphProduce, NodesThatMakeXAndDyMakeSAndDs)
{
    const Gated apart(HN_BF16, 0, false), moved(HN_BF16, 0, true);
    EXPECT_FALSE(apart.s_moved());
    EXPECT_FALSE(apart.ds_moved());
    EXPECT_TRUE(moved.s_moved());
    EXPECT_TRUE(moved.ds_moved());
    EXPECT_TRUE(same_bits(moved.result[0], apart.result[0]));
    for (size_t k = 1; k < apart.result.size(); k++)
        EXPECT_LT(rel_l2(moved.result[k], apart.result[k]), 3e-3) << k;
    EXPECT_EQ(hn_graph_nodes(moved.g), hn_graph_nodes(apart.g));
}

TEST(GraphProduce, NothingMovesInF32OrUnderAMask)
{
    const Gated f32(HN_F32, 0, true), masked(HN_BF16, 0.5f, true);
    for (const Gated *g : {&f32, &masked}) {
        EXPECT_FALSE(g->s_moved());
        EXPECT_FALSE(g->ds_moved());
    }
}

/* Its tail may be looked at, too. */
TEST(GraphProduce, WhatIsKeptIsLeftAlone)
{
    const Gated h(HN_BF16, 0, true, 'h'), g(HN_BF16, 0, true, 'g');
    EXPECT_FALSE(h.s_moved());
    EXPECT_TRUE(h.ds_moved());
    EXPECT_TRUE(g.s_moved());
    EXPECT_FALSE(g.ds_moved());
}

} // namespace
