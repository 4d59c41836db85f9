/* Views under other axes: values, gradients, what the passes and the planner do with them. */
#include "graph_test.h"

namespace {

class GraphView : public Graph {
  protected:
    hn_tensor *tensor(const char *name, const hn_type &type, bool needs_grad = false,
                      hn_mem mem = HN_MEM_INPUT)
    {
        hn_tensor *t = nullptr;
        EXPECT_HN_OK(hn_program_tensor(p, mem, name, &type, &t));
        if (t) t->needs_grad = needs_grad;
        return t;
    }
    static hn_tensor *view(hn_graph *g, hn_tensor *t, std::vector<int64_t> dim)
    {
        hn_tensor *v = nullptr;
        EXPECT_HN_OK(hn_view_shape(g, t, (int)dim.size(), dim.data(), &v));
        return v;
    }
    /* The gradients of all y from seeds 1, 2, 3, ... times 1, 10, 100, ...; dx is kept. */
    hn_tensor *backward(hn_graph *g, hn_tensor *x, std::vector<hn_tensor *> y)
    {
        std::vector<hn_tensor *> seeds;
        for (size_t i = 0; i < y.size(); i++) {
            const std::string name = "seed" + std::to_string(i);
            seeds.push_back(tensor(name.c_str(), y[i]->type));
        }
        EXPECT_HN_OK(hn_graph_backward(g, (int)y.size(), y.data(), seeds.data()));
        for (hn_tensor *t : y) hn_graph_keep(t);
        hn_tensor *dx = hn_graph_grad(g, x);
        EXPECT_NE(dx, nullptr);
        if (dx) hn_graph_keep(dx);
        return dx;
    }
    void fill_and_run(hn_graph *g, hn_tensor *x)
    {
        plan(64);
        count_up(x, 1);
        float factor = 1;
        for (int i = 0;; i++, factor *= 10) {
            hn_tensor *seed = hn_program_find(p, ("seed" + std::to_string(i)).c_str());
            if (seed == nullptr) break;
            count_up(seed, factor);
        }
        ASSERT_HN_OK(run(g, true));
    }
    static void count_up(hn_tensor *t, float factor)
    {
        const auto v = times(hn_type_elements(&t->type), factor);
        EXPECT_HN_OK(hn_tensor_set(t, v.data()));
    }
    static std::vector<float> values(const hn_tensor *t)
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        return v;
    }
    /* factor, 2 factor, 3 factor ... */
    static std::vector<float> times(int64_t n, float factor)
    {
        std::vector<float> v((size_t)n);
        for (size_t i = 0; i < v.size(); i++) v[i] = factor * ((float)i + 1);
        return v;
    }
};

const hn_type kGapless = {HN_F32, 4, {1, 2, 3, 4}, 0, 0};
const hn_type kPitched = {HN_F32, 4, {1, 2, 3, 4}, 6, 0};

TEST_F(GraphView, TypesKeepThePitchOrNeedNone)
{
    hn_graph *g = graph("g", false);
    hn_tensor *a = tensor("a", kGapless), *b = tensor("b", kPitched), *bad = nullptr;
    const hn_tensor *rows = view(g, b, {6, 4}), *flat = view(g, a, {1, 24});
    EXPECT_EQ(hn_type_ld(&rows->type), 6);
    EXPECT_EQ(hn_type_rows(&rows->type), 6);
    EXPECT_EQ(hn_type_ld(&flat->type), 24);
    EXPECT_EQ(view(g, view(g, a, {6, 4}), {24})->base, a); /* views of views have one base */
    const int64_t row[] = {1, 24}, few[] = {5, 4}, zero[] = {0, 24}, twelve[] = {12};
    EXPECT_HN_FAIL(hn_view_shape(g, b, 2, row, &bad), HN_ERR_SHAPE,
                   "f32[1, 2, 3, 4] cannot be seen as f32[1, 24]: its rows lie 6 elements apart");
    EXPECT_HN_FAIL(hn_view_shape(g, a, 2, few, &bad), HN_ERR_SHAPE,
                   "f32[1, 2, 3, 4] has not the elements of f32[5, 4]");
    EXPECT_HN_FAIL(hn_view_shape(g, a, 2, zero, &bad), HN_ERR_SHAPE, "has not the elements");
    EXPECT_HN_FAIL(hn_view_shape(g, a, 0, row, &bad), HN_ERR_SHAPE, "1 to 6 axes, not 0");
    EXPECT_HN_FAIL(hn_view_shape(g, a, HN_MAX_DIM + 1, zero, &bad), HN_ERR_SHAPE, "not 7");
    hn_tensor *columns = nullptr;
    ASSERT_HN_OK(hn_view_columns(g, a, 1, 2, &columns)); /* of images, too */
    EXPECT_HN_FAIL(hn_view_shape(g, columns, 1, twelve, &bad), HN_ERR_SHAPE, "rows lie 4");
    EXPECT_EQ(view(g, columns, {6, 2})->offset, sizeof(float));
}

/* z = 5 view(3 x). extra: nodes of backward besides the two scales. */
struct OneView {
    hn_type x;
    std::vector<int64_t> dim;
    int64_t extra;
};

class GraphOneView : public GraphView, public ::testing::WithParamInterface<OneView> {};

TEST_P(GraphOneView, ValuesAndGradientsGoThrough)
{
    const OneView c = GetParam();
    const int64_t n = hn_type_elements(&c.x);
    hn_graph *g = graph("g", true);
    hn_tensor *x = tensor("x", c.x, true), *y = emit(g, HN_OP_SCALE, {x}, 3);
    hn_tensor *z = emit(g, HN_OP_SCALE, {view(g, y, c.dim)}, 5);
    const int64_t forward = hn_graph_nodes(g);
    hn_tensor *dx = backward(g, x, {z});
    EXPECT_EQ(hn_graph_nodes(g) - forward, 2 + c.extra);
    EXPECT_TRUE(hn_type_same(&dx->type, &x->type));
    fill_and_run(g, x);
    EXPECT_EQ(values(z), times(n, 15));
    EXPECT_EQ(values(dx), times(n, 15));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, GraphOneView,
    ::testing::Values(OneView{kGapless, {6, 4}, 0}, OneView{kPitched, {6, 4}, 0},
                      OneView{kPitched, {2, 1, 3, 4}, 0}, OneView{kGapless, {2, 12}, 0},
                      OneView{kGapless, {1, 24}, 0}, OneView{kGapless, {4, 3, 2}, 0},
                      /* the gradient has a gap of 3 behind its rows of 9: a copy */
                      OneView{{HN_F32, 4, {1, 2, 3, 3}, 0, 0}, {2, 9}, 1},
                      /* gradients of one axis are not moved: a copy */
                      OneView{{HN_F32, 2, {1, 3}, 4, 0}, {3}, 1}));

/* Two views of all rows, a flat one and the base itself: their gradients add up. */
TEST_F(GraphView, GradientsOfSeveralViewsAndTheBaseAddUp)
{
    hn_graph *g = graph("g", true);
    hn_tensor *x = tensor("x", kGapless, true), *y = emit(g, HN_OP_SCALE, {x}, 3);
    hn_tensor *a = emit(g, HN_OP_SCALE, {view(g, y, {6, 4})}, 2);
    hn_tensor *b = emit(g, HN_OP_SCALE, {view(g, y, {2, 12})}, 5);
    hn_tensor *c = emit(g, HN_OP_SCALE, {view(g, y, {6, 4})}, 7);
    hn_tensor *d = emit(g, HN_OP_SCALE, {y}, 4);
    hn_tensor *dx = backward(g, x, {a, b, c, d});
    fill_and_run(g, x);
    EXPECT_EQ(values(dx), times(24, 3 * (2 + 50 + 700 + 4000)));
    EXPECT_EQ(values(b), times(24, 15));
}

/* Columns of a view are columns of the base: side by side, no copies. */
TEST_F(GraphView, ColumnsOfAViewAreColumnsOfTheBase)
{
    hn_graph *g = graph("g", true);
    hn_tensor *x = tensor("x", kPitched, true), *y = emit(g, HN_OP_SCALE, {x}, 3);
    hn_tensor *v = view(g, y, {6, 4}), *left = nullptr, *right = nullptr;
    ASSERT_HN_OK(hn_view_columns(g, v, 0, 1, &left));
    ASSERT_HN_OK(hn_view_columns(g, v, 2, 2, &right));
    hn_tensor *a = emit(g, HN_OP_SCALE, {left}, 2), *b = emit(g, HN_OP_SCALE, {right}, 5);
    const int64_t forward = hn_graph_nodes(g);
    hn_tensor *dx = backward(g, x, {a, b});
    EXPECT_EQ(hn_graph_nodes(g) - forward, 4); /* three scales, zeros in column 1 */
    fill_and_run(g, x);
    const auto got = values(dx);
    for (size_t i = 0; i < 6; i++) {
        EXPECT_EQ(got[4 * i], 3 * 2 * ((float)i + 1));
        EXPECT_EQ(got[4 * i + 1], 0);
        EXPECT_EQ(got[4 * i + 2], 3 * 5 * 10 * (2 * (float)i + 1));
        EXPECT_EQ(got[4 * i + 3], 3 * 5 * 10 * (2 * (float)i + 2));
    }
}

/* The gradient of a persistent tensor that needs one, through a view and columns of it. */
TEST_F(GraphView, GradientsOfInputsAreJoined)
{
    hn_graph *g = graph("g", true);
    hn_tensor *x = tensor("x", kPitched, true), *left = nullptr;
    hn_tensor *v = view(g, x, {6, 4});
    ASSERT_HN_OK(hn_view_columns(g, v, 0, 2, &left));
    hn_tensor *a = emit(g, HN_OP_SCALE, {left}, 2), *b = emit(g, HN_OP_SCALE, {v}, 5);
    hn_tensor *dx = backward(g, x, {a, b});
    fill_and_run(g, x);
    const auto got = values(dx);
    for (size_t i = 0; i < 24; i++) {
        const size_t row = i / 4, col = i % 4;
        const float whole = 50 * ((float)i + 1), part = 2 * (float)(2 * row + col + 1);
        EXPECT_EQ(got[i], whole + (col < 2 ? part : 0)) << i;
    }
}

/* A trained kernel of 1 x 1 pixels, [out, 1, 1, in], is the weight of a linear layer. */
TEST_F(GraphView, GradientsOfParametersAreAddedIntoTheirBuffers)
{
    hn_graph *g = graph("g", true);
    hn_type kernel = {HN_F32, 4, {3, 1, 1, 4}, 0, 0};
    hn_tensor *x = input("x", 2, 4), *w = tensor("w", kernel, true, HN_MEM_TRAINED);
    w->grad = tensor("dw", kernel, false, HN_MEM_GRAD);
    hn_tensor *weight = view(g, w, {3, 4});
    ASSERT_NE(weight->grad, nullptr);
    hn_attr attr = {};
    attr.linear.alpha = 1;
    hn_tensor *in[HN_MAX_IN] = {x, weight}, *out[HN_MAX_OUT] = {};
    ASSERT_HN_OK(hn_emit(g, HN_OP_LINEAR, "conv", in, &attr, out));
    hn_tensor *seed = tensor("seed0", out[0]->type);
    ASSERT_HN_OK(hn_graph_backward(g, 1, out, &seed));
    EXPECT_EQ(hn_graph_grad(g, w), w->grad);
    fill_and_run(g, x);
    const auto first = values(w->grad);
    for (size_t o = 0; o < 3; o++)
        for (size_t i = 0; i < 4; i++) /* seed [2, 3] and x [2, 4] count up */
            EXPECT_EQ(first[4 * o + i], (float)((o + 1) * (i + 1) + (o + 4) * (i + 5)));
    ASSERT_HN_OK(run(g, true));
    EXPECT_EQ(values(w->grad)[0], 2 * first[0]);
}

/* A segment that runs again in backward makes its views again. */
TEST_F(GraphView, SegmentsMakeTheirViewsAgain)
{
    std::vector<float> gradient[2];
    int64_t nodes[2];
    for (const bool segment : {false, true}) {
        TearDown();
        SetUp();
        hn_graph *g = graph("g", true);
        hn_tensor *x = tensor("x", kGapless, true);
        if (segment) hn_segment_begin(g);
        hn_tensor *y = emit(g, HN_OP_SCALE, {x}, 3);
        hn_tensor *rows = view(g, y, {6, 4}), *flat = view(g, y, {2, 12});
        hn_tensor *a = emit(g, HN_OP_MUL, {rows, rows}), *b = emit(g, HN_OP_MUL, {flat, flat});
        if (segment) hn_segment_end(g);
        hn_tensor *dx =
            backward(g, x, {emit(g, HN_OP_SCALE, {a}, 1), emit(g, HN_OP_SCALE, {b}, 1)});
        fill_and_run(g, x);
        gradient[segment] = values(dx);
        nodes[segment] = hn_graph_nodes(g);
    }
    EXPECT_GT(nodes[1], nodes[0]);
    EXPECT_EQ(gradient[0], gradient[1]);
    EXPECT_EQ(gradient[0][1], 18 * 2 * (2 + 20)); /* d (3 x)^2 = 18 x, twice */
}

/* An operation may work in place on columns only where no flat view reads the tensor. */
TEST_F(GraphView, FlatViewsKeepTheirBaseFromBeingOverwritten)
{
    hn_graph *g = graph("g", false);
    hn_tensor *x = tensor("x", kGapless), *left = nullptr;
    hn_tensor *y = emit(g, HN_OP_SCALE, {view(g, x, {2, 12})}, 3);
    ASSERT_HN_OK(hn_view_columns(g, y, 0, 6, &left));
    hn_tensor *flat = view(g, y, {6, 4});
    hn_tensor *a = emit(g, HN_OP_SCALE, {left}, 2), *b = emit(g, HN_OP_SCALE, {flat}, 5);
    hn_graph_keep(a);
    hn_graph_keep(b);
    fill_and_run(g, x);
    EXPECT_EQ(values(b), times(24, 15));
    EXPECT_EQ(values(a)[6], 6 * 13);
}

/* Images with other gaps between their pixels do not take over each other's memory. */
TEST_F(GraphView, ImagesOfAnotherPitchAreNotTakenOver)
{
    hn_graph *g = graph("g", false);
    hn_tensor *x = tensor("x", kPitched);
    hn_tensor *y = emit(g, HN_OP_SCALE, {x}, 3), *z = emit(g, HN_OP_ACTIVATION, {y}, 0); /* RELU */
    EXPECT_NE(hn_type_ld(&y->type), hn_type_ld(&z->type));
    hn_graph_keep(z);
    fill_and_run(g, x);
    EXPECT_EQ(values(z), times(24, 3));
}

TEST_F(GraphView, ViewsOfWhatIsTrainedInPiecesAreRefused)
{
    hn_graph *g = graph("g", true);
    hn_tensor *w = input("w", 4, 4, true), *part = nullptr, *bad = nullptr;
    ASSERT_HN_OK(hn_program_view(p, "part", w, 0, 2, 0, 4, &part));
    const int64_t dim[] = {2, 2, 4};
    EXPECT_HN_FAIL(hn_view_shape(g, w, 3, dim, &bad), HN_ERR_UNSUPPORTED, "view by view");
    EXPECT_EQ(view(g, part, {8})->base, part);
}

} // namespace
