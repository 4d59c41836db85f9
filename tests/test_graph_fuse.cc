/* The pass that moves work between operations: the residual into the product before its norm. */
#include "graph_test.h"

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

} // namespace
