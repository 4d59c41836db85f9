/* The graph core: types, names, views, gradients as nodes, dead nodes, placement, red zones. */
#include "graph_test.h"

namespace {

TEST_F(Graph, PersistentTensorsLieInOrderAndHaveOneName)
{
    hn_tensor *a = input("a", 3, 5), *b = input("b", 2, 2), *again = nullptr;
    EXPECT_EQ(a->offset, 0u);
    EXPECT_EQ(b->offset, 64u * sizeof(float)); /* the next multiple of 64 elements */
    EXPECT_EQ(hn_program_find(p, "b"), b);
    EXPECT_EQ(hn_program_find(p, "c"), nullptr);
    const hn_type type = f32_2d(1, 1);
    EXPECT_HN_FAIL(hn_program_tensor(p, HN_MEM_INPUT, "a", &type, &again), HN_ERR_ARG, "named a");
}

TEST_F(Graph, RefusesEmptyAndOverflowingTypes)
{
    hn_tensor *t = nullptr;
    hn_type type = f32_2d(0, 4);
    EXPECT_HN_FAIL(hn_program_tensor(p, HN_MEM_INPUT, "x", &type, &t), HN_ERR_SHAPE, "f32[0, 4]");
    type = f32_2d(INT64_MAX / 2, 1024);
    EXPECT_HN_FAIL(hn_program_tensor(p, HN_MEM_INPUT, "x", &type, &t), HN_ERR_SHAPE, "too large");
    type = f32_2d(2, 8);
    type.pitch = 7;
    EXPECT_HN_FAIL(hn_program_tensor(p, HN_MEM_INPUT, "x", &type, &t), HN_ERR_SHAPE, "pitch");
}

TEST_F(Graph, AFailingNodeIsNamed)
{
    hn_graph *g = graph("g", false);
    hn_tensor *in[] = {input("a", 2, 3), input("b", 2, 4)};
    EXPECT_HN_FAIL(hn_emit(g, HN_OP_ADD, "layer.7", in, nullptr, nullptr), HN_ERR_SHAPE,
                   "layer.7 (add)");
    in[1] = nullptr;
    EXPECT_HN_FAIL(hn_emit(g, HN_OP_ADD, "layer.7", in, nullptr, nullptr), HN_ERR_ARG,
                   "operand 1 is missing");
    EXPECT_EQ(hn_graph_nodes(g), 0);
}

/* y = x*w + x + x: contributions of several readers, and of one reader that reads twice, add up. */
TEST_F(Graph, GradientsOfSeveralReadersAddUp)
{
    hn_graph *g = graph("g", true);
    hn_tensor *x = input("x", 2, 3, true), *w = input("w", 2, 3, true), *seed = input("s", 2, 3);
    hn_tensor *y = emit(g, HN_OP_ADD, {emit(g, HN_OP_MUL, {x, w}), emit(g, HN_OP_ADD, {x, x})});
    ASSERT_HN_OK(hn_graph_backward(g, 1, &y, &seed));
    hn_tensor *dx = hn_graph_grad(g, x), *dw = hn_graph_grad(g, w);
    ASSERT_NE(dx, nullptr);
    ASSERT_NE(dw, nullptr);
    hn_graph_keep(dx);
    hn_graph_keep(dw);
    plan();
    for (int i = 0; i < 6; i++)
        at(x, i / 3, i % 3) = (float)i, at(w, i / 3, i % 3) = 10.0f + (float)i;
    for (int i = 0; i < 6; i++) at(seed, i / 3, i % 3) = 2;
    ASSERT_HN_OK(run(g));
    for (int i = 0; i < 6; i++) {
        EXPECT_EQ(at(dx, i / 3, i % 3), 2 * (10.0f + (float)i + 2));
        EXPECT_EQ(at(dw, i / 3, i % 3), 2 * (float)i);
    }
}

/* Two column views of one tensor: each gradient lands in its columns, the rest stays zero. */
TEST_F(Graph, GradientsOfViewsLandInTheirColumns)
{
    hn_graph *g = graph("g", true);
    hn_tensor *x = input("x", 2, 7, true), *seed = input("s", 2, 2), *left = nullptr,
              *right = nullptr;
    hn_tensor *scaled = emit(g, HN_OP_SCALE, {x}, 3);
    ASSERT_HN_OK(hn_view_columns(g, scaled, 0, 2, &left));
    ASSERT_HN_OK(hn_view_columns(g, scaled, 4, 2, &right));
    hn_tensor *y = emit(g, HN_OP_ADD, {left, emit(g, HN_OP_SCALE, {right}, 5)});
    ASSERT_HN_OK(hn_graph_backward(g, 1, &y, &seed));
    hn_tensor *dx = hn_graph_grad(g, x);
    ASSERT_NE(dx, nullptr);
    hn_graph_keep(dx);
    hn_graph_keep(y);
    plan(64);
    for (int i = 0; i < 14; i++) at(x, i / 7, i % 7) = (float)i;
    for (int i = 0; i < 4; i++) at(seed, i / 2, i % 2) = 1;
    ASSERT_HN_OK(run(g, true));
    EXPECT_EQ(at(y, 1, 1), 3 * 8.0f + 15 * 12.0f);
    const float want[] = {3, 3, 0, 0, 15, 15, 0};
    for (int i = 0; i < 14; i++) EXPECT_EQ(at(dx, i / 7, i % 7), want[i % 7]) << i;
    hn_tensor *bad = nullptr;
    EXPECT_HN_FAIL(hn_view_columns(g, scaled, 6, 2, &bad), HN_ERR_SHAPE, "columns 6..7");
}

/* Blocks of a persistent tensor under names of their own: rows, columns, blocks of blocks. */
TEST_F(Graph, ProgramViewsShareMemoryUnderTheirOwnNames)
{
    hn_tensor *all = input("all", 6, 10), *block = nullptr, *row = nullptr, *bad = nullptr;
    ASSERT_HN_OK(hn_program_view(p, "block", all, 1, 4, 2, 5, &block));
    ASSERT_HN_OK(hn_program_view(p, "row", block, 3, 1, 1, 4, &row));
    EXPECT_EQ(hn_program_find(p, "row"), row);
    EXPECT_EQ(all->views, block);
    EXPECT_EQ(block->views, row);
    EXPECT_HN_FAIL(hn_program_view(p, "row", all, 0, 1, 0, 1, &bad), HN_ERR_ARG, "named row");
    EXPECT_HN_FAIL(hn_program_view(p, "bad", block, 0, 1, 2, 4, &bad), HN_ERR_SHAPE,
                   "columns 2..5 of block");
    plan();
    const std::vector<float> ones(20, 1), twos(4, 2);
    ASSERT_HN_OK(hn_tensor_set(block, ones.data()));
    ASSERT_HN_OK(hn_tensor_set(row, twos.data()));
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 10; j++) {
            const bool in_block = i >= 1 && i < 5 && j >= 2 && j < 7;
            const float want = i == 4 && j >= 3 && j < 7 ? 2.0f : in_block ? 1.0f : 0.0f;
            EXPECT_EQ(at(all, i, j), want) << i << ", " << j;
        }
}

/* Gradients of disjoint views are written side by side; overlapping ones are added up. */
TEST_F(Graph, GradientsOfViewsAreCopiedOnlyWhereTheyHaveTo)
{
    hn_graph *graphs[2];
    hn_tensor *dx[2];
    for (const bool overlapping : {false, true}) {
        hn_graph *g = graphs[overlapping] = graph(overlapping ? "overlapping" : "disjoint", true);
        const std::string tag = overlapping ? "1" : "0";
        hn_tensor *x = input(("x" + tag).c_str(), 3, 8, true);
        hn_tensor *seed = input(("s" + tag).c_str(), 3, 4), *left = nullptr, *right = nullptr;
        hn_tensor *y = emit(g, HN_OP_SCALE, {x}, 3);
        ASSERT_HN_OK(hn_view_columns(g, y, 0, 4, &left));
        ASSERT_HN_OK(hn_view_columns(g, y, overlapping ? 2 : 4, 4, &right));
        hn_tensor *a = emit(g, HN_OP_SCALE, {left}, 5), *b = emit(g, HN_OP_SCALE, {right}, 7);
        hn_tensor *outs[] = {a, b}, *seeds[] = {seed, seed};
        const int64_t forward = hn_graph_nodes(g);
        ASSERT_HN_OK(hn_graph_backward(g, 2, outs, seeds));
        /* two scales, the scale of y; else zeros and two sums as well */
        EXPECT_EQ(hn_graph_nodes(g) - forward, overlapping ? 6 : 3);
        dx[overlapping] = hn_graph_grad(g, x);
        hn_graph_keep(dx[overlapping]);
    }
    plan(64);
    for (const char *tag : {"0", "1"}) {
        hn_tensor *seed = hn_program_find(p, (std::string("s") + tag).c_str());
        for (int i = 0; i < 12; i++) at(seed, i / 4, i % 4) = 1;
    }
    const float want[2][8] = {{15, 15, 15, 15, 21, 21, 21, 21}, {15, 15, 36, 36, 21, 21, 0, 0}};
    for (int k = 0; k < 2; k++) {
        ASSERT_HN_OK(run(graphs[k], true));
        for (int i = 0; i < 24; i++) EXPECT_EQ(at(dx[k], i / 8, i % 8), want[k][i % 8]) << i;
    }
}

/* A view that is read no more takes the result, which then lives with the other columns. */
TEST_F(Graph, OperationsWorkInPlaceOnViews)
{
    hn_graph *g = graph("g", false);
    hn_tensor *x = input("x", 3, 8), *left = nullptr, *right = nullptr;
    hn_tensor *y = emit(g, HN_OP_SCALE, {x}, 3);
    ASSERT_HN_OK(hn_view_columns(g, y, 0, 4, &left));
    ASSERT_HN_OK(hn_view_columns(g, y, 4, 4, &right));
    hn_tensor *twice = emit(g, HN_OP_SCALE, {left}, 2);
    hn_tensor *kept = emit(g, HN_OP_ADD, {twice, right});
    hn_graph_keep(kept);
    plan(64);
    for (int i = 0; i < 24; i++) at(x, i / 8, i % 8) = (float)i;
    ASSERT_HN_OK(run(g, true));
    EXPECT_EQ(twice->data, left->data);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++)
            EXPECT_EQ(at(kept, i, j), 6 * at(x, i, j) + 3 * at(x, i, j + 4));
}

/* A view that is read again keeps its values. */
TEST_F(Graph, ViewsThatAreReadLaterAreNotOverwritten)
{
    hn_graph *g = graph("g", false);
    hn_tensor *x = input("x", 3, 8), *left = nullptr;
    hn_tensor *y = emit(g, HN_OP_SCALE, {x}, 3);
    ASSERT_HN_OK(hn_view_columns(g, y, 0, 4, &left));
    hn_tensor *twice = emit(g, HN_OP_SCALE, {left}, 2);
    hn_tensor *kept = emit(g, HN_OP_ADD, {twice, left});
    hn_graph_keep(kept);
    plan(64);
    for (int i = 0; i < 24; i++) at(x, i / 8, i % 8) = (float)i;
    ASSERT_HN_OK(run(g, true));
    for (int i = 0; i < 12; i++) EXPECT_EQ(at(kept, i / 4, i % 4), 9 * at(x, i / 4, i % 4));
}

TEST_F(Graph, FrozenInputsGetNoGradientAndCostNothing)
{
    hn_graph *g = graph("g", true);
    hn_tensor *x = input("x", 2, 3, true), *frozen = input("w", 2, 3), *seed = input("s", 2, 3);
    hn_tensor *y = emit(g, HN_OP_MUL, {x, frozen});
    ASSERT_HN_OK(hn_graph_backward(g, 1, &y, &seed));
    EXPECT_EQ(hn_graph_grad(g, frozen), nullptr);
    EXPECT_NE(hn_graph_grad(g, x), nullptr);
}

/* A normed gated block with trained weights: y = down(swiglu(gate(n), up(n))), n = rmsnorm(x). The
 * outputs of norm and swiglu are kept where somebody asks for them. */
struct Block {
    hn_tensor *norm[HN_MAX_OUT] = {}, *act[HN_MAX_OUT] = {}, *w[4] = {};
    hn_graph *g = nullptr;
    std::vector<float> gradients;
    size_t bytes = 0;
    bool keeps; /* backward reads what forward has made */

    explicit Block(hn_program *p, bool keep, bool segment = false)
    {
        enum { ROWS = 40, D = 6, F = 20 };
        hn_tensor *x = nullptr, *seed = nullptr, *out[HN_MAX_OUT] = {};
        const hn_type rows = f32_2d(ROWS, D), gain = hn_type_1d(HN_F32, D);
        const hn_type up = f32_2d(F, D), down = f32_2d(D, F);
        const hn_type *types[] = {&gain, &up, &up, &down};
        const char *const names[] = {"gain", "gate", "up", "down"};
        EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "x", &rows, &x));
        EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "seed", &rows, &seed));
        for (int k = 0; k < 4; k++) {
            EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_WEIGHT, names[k], types[k], &w[k]));
            w[k]->needs_grad = true;
        }
        EXPECT_HN_OK(hn_graph_new(p, "g", true, &g));
        const hn_attr eps = {.norm = {.eps = 1e-5f}}, one = {.linear = {.alpha = 1}};
        if (segment) hn_segment_begin(g);
        hn_tensor *norm_in[] = {x, nullptr, w[0]};
        EXPECT_HN_OK(hn_emit(g, HN_OP_ADD_RMSNORM, "norm", norm_in, &eps, norm));
        hn_tensor *in[] = {norm[1], w[1], nullptr, nullptr}, *gated[2];
        EXPECT_HN_OK(hn_emit(g, HN_OP_LINEAR, "gate", in, &one, out));
        gated[0] = out[0];
        in[1] = w[2];
        EXPECT_HN_OK(hn_emit(g, HN_OP_LINEAR, "up", in, &one, out));
        gated[1] = out[0];
        EXPECT_HN_OK(hn_emit(g, HN_OP_SWIGLU, "act", gated, nullptr, act));
        in[0] = act[0];
        in[1] = w[3];
        EXPECT_HN_OK(hn_emit(g, HN_OP_LINEAR, "down", in, &one, out));
        hn_segment_end(g);
        if (keep) hn_graph_keep(norm[1]), hn_graph_keep(act[0]);
        EXPECT_HN_OK(hn_graph_backward(g, 1, out, &seed));
        for (auto *t : w) hn_graph_keep(hn_graph_grad(g, t));
        run(p, x, seed);
    }
    void run(hn_program *p, hn_tensor *x, hn_tensor *seed)
    {
        const hn_plan_options o = {.guard_bytes = 64};
        hn_plan_sizes sizes;
        hn_step_block step = {};
        ASSERT_HN_OK(hn_plan_build(p, &o));
        ASSERT_HN_OK(hn_plan_allocate(p));
        uint32_t n = 1;
        for (hn_tensor *t : {x, seed, w[0], w[1], w[2], w[3]})
            for (size_t i = 0; i < hn_type_bytes(&t->type) / sizeof(float); i++)
                ((float *)t->data)[i] =
                    (float)((n = n * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1;
        const hn_run_options run = {.step = &step, .check = true};
        ASSERT_HN_OK(hn_graph_run(g, &run));
        for (auto *t : w) {
            const hn_tensor *d = hn_graph_grad(g, t);
            for (int64_t i = 0; i < hn_type_rows(&d->type); i++)
                for (int64_t j = 0; j < hn_type_cols(&d->type); j++)
                    gradients.push_back(((float *)d->data)[i * hn_type_ld(&d->type) + j]);
        }
        hn_plan_sizes_of(p, &sizes);
        bytes = sizes.class_bytes[HN_MEM_TRANSIENT];
        keeps = false;
        for (int64_t i = 0; i < hn_graph_nodes(g); i++)
            for (const hn_tensor *t : hn_graph_node(g, i)->in)
                keeps |= hn_graph_node(g, i)->backward && t && (t == norm[1] || t == act[0]);
    }
};

/* Weight gradients wait for the node that makes their input again; the bits stay the same. */
TEST_F(Graph, WhatBackwardMakesAgainIsNotKept)
{
    hn_program *other = nullptr, *third = nullptr;
    ASSERT_HN_OK(hn_program_new(1, &other));
    ASSERT_HN_OK(hn_program_new(1, &third));
    const Block made(p, false), kept(other, true), segment(third, false, true);
    EXPECT_FALSE(made.keeps);
    EXPECT_TRUE(kept.keeps);
    EXPECT_LT(made.bytes, kept.bytes);
    EXPECT_TRUE(same_bits(made.gradients, kept.gradients));
    EXPECT_TRUE(same_bits(made.gradients, segment.gradients)); /* layers that run again: not both */
    EXPECT_EQ(hn_graph_nodes(made.g), hn_graph_nodes(kept.g));
    EXPECT_GT(hn_graph_nodes(segment.g), hn_graph_nodes(made.g));
    hn_program_free(third);
    hn_program_free(other);
}

TEST_F(Graph, NodesThatNobodyReadsAreRemoved)
{
    hn_graph *g = graph("g", false);
    hn_tensor *x = input("x", 4, 4);
    hn_tensor *kept = emit(g, HN_OP_SCALE, {emit(g, HN_OP_SCALE, {x}, 2)}, 3);
    emit(g, HN_OP_SCALE, {emit(g, HN_OP_SCALE, {kept}, 5)}, 7);
    hn_graph_keep(kept);
    EXPECT_EQ(hn_graph_nodes(g), 4);
    plan();
    EXPECT_EQ(hn_graph_nodes(g), 2);
    at(x, 3, 3) = 1;
    ASSERT_HN_OK(run(g));
    EXPECT_EQ(at(kept, 3, 3), 6);
}

/* In a random graph no two tensors that live at the same time overlap, and the values are those of
 * a plan in which nothing is shared. */
TEST_F(Graph, PlacementNeverOverlapsWhatIsAlive)
{
    hn_graph *g = graph("g", false);
    std::mt19937 rng(3);
    std::vector<hn_tensor *> small = {input("a", 5, 3)}, large = {input("b", 9, 6)};
    std::vector<double> small_value = {1.5}, large_value = {0.25};
    for (int i = 0; i < 200; i++) {
        auto &pool = rng() % 2 ? small : large;
        auto &value = &pool == &small ? small_value : large_value;
        const size_t a = rng() % pool.size(), b = rng() % pool.size();
        if (rng() % 3) {
            pool.push_back(emit(g, HN_OP_ADD, {pool[a], pool[b]}));
            value.push_back((value[a] + value[b]));
        } else {
            pool.push_back(emit(g, HN_OP_SCALE, {pool[a]}, 0.5f));
            value.push_back(value[a] * 0.5);
        }
    }
    hn_graph_keep(small.back());
    hn_graph_keep(large.back());
    plan(32);
    for (int i = 0; i < 15; i++) at(small[0], i / 3, i % 3) = 1.5f;
    for (int i = 0; i < 54; i++) at(large[0], i / 6, i % 6) = 0.25f;
    ASSERT_HN_OK(run(g, true));
    for (int i = 0; i < 15; i++)
        EXPECT_NEAR(at(small.back(), i / 3, i % 3) / small_value.back(), 1, 1e-5);
    for (int i = 0; i < 54; i++)
        EXPECT_NEAR(at(large.back(), i / 6, i % 6) / large_value.back(), 1, 1e-5);
}

/* A chain needs two buffers, and with in-place operations one. */
TEST_F(Graph, MemoryIsSharedInTime)
{
    hn_graph *g = graph("g", false);
    hn_tensor *t = input("x", 64, 64);
    for (int i = 0; i < 10; i++) t = emit(g, HN_OP_SCALE, {t}, 2);
    hn_graph_keep(t);
    plan();
    hn_plan_sizes s;
    hn_plan_sizes_of(p, &s);
    EXPECT_EQ(s.class_bytes[HN_MEM_TRANSIENT], 64u * 64 * sizeof(float));
    EXPECT_STREQ(s.widest_graph, "g");
    char *text = hn_plan_text(p);
    ASSERT_NE(text, nullptr);
    EXPECT_NE(std::strstr(text, "10 operations in 1 graphs"), nullptr) << text;
    hn_free(text);
}

TEST_F(Graph, GraphsShareTheTransientBlock)
{
    hn_graph *a = graph("narrow", false), *b = graph("wide", false);
    hn_tensor *ya = emit(a, HN_OP_SCALE, {input("x", 2, 2)}, 2);
    hn_tensor *yb = emit(b, HN_OP_SCALE, {input("z", 32, 32)}, 2);
    hn_graph_keep(ya);
    hn_graph_keep(yb);
    plan();
    hn_plan_sizes s;
    hn_plan_sizes_of(p, &s);
    EXPECT_EQ(s.class_bytes[HN_MEM_TRANSIENT], 32u * 32 * sizeof(float));
    EXPECT_STREQ(s.widest_graph, "wide");
    EXPECT_STREQ(s.widest_node, "node");
    EXPECT_EQ(ya->data, yb->data);
}

TEST_F(Graph, NothingCanBeAddedToAPlannedProgram)
{
    hn_graph *g = graph("g", false), *late = nullptr;
    hn_graph_keep(emit(g, HN_OP_SCALE, {input("x", 2, 2)}, 2));
    plan();
    hn_tensor *t = nullptr;
    const hn_type type = f32_2d(1, 1);
    EXPECT_HN_FAIL(hn_program_tensor(p, HN_MEM_INPUT, "y", &type, &t), HN_ERR_ARG, "planned");
    EXPECT_HN_FAIL(hn_graph_new(p, "h", false, &late), HN_ERR_ARG, "planned");
}

/* One line for both additions, which have one shape; times are of one run. */
TEST_F(Graph, AProfileHasALineForEachOperationAndShape)
{
    hn_graph *g = graph("g", false);
    hn_tensor *x = input("x", 2, 4), *y = emit(g, HN_OP_ADD, {x, x});
    y = emit(g, HN_OP_MUL, {emit(g, HN_OP_ADD, {y, x}), x});
    hn_graph_keep(y);
    plan();
    at(x, 0, 0) = 3;
    hn_profile *profile = nullptr;
    ASSERT_HN_OK(hn_profile_new(&profile));
    hn_run_options o = {};
    o.profile = profile;
    for (int run = 0; run < 3; run++) ASSERT_HN_OK(hn_graph_run(g, &o));
    EXPECT_EQ(at(y, 0, 0), 27);
    char *text = hn_profile_text(profile, 3);
    ASSERT_NE(text, nullptr);
    EXPECT_NE(std::strstr(text, "| add | [2, 4] [2, 4] -> [2, 4] | 2 |"), nullptr) << text;
    EXPECT_NE(std::strstr(text, "| mul | [2, 4] [2, 4] -> [2, 4] | 1 |"), nullptr) << text;
    EXPECT_EQ(std::count(text, text + std::strlen(text), '\n'), 5) << text;
    hn_free(text);
    o.check = true;
    EXPECT_HN_FAIL(hn_graph_run(g, &o), HN_ERR_ARG, "checks nothing");
    hn_profile_free(profile);
}

TEST(DeviceMarks, TimesAreOfMarksThatWereMade)
{
    hn_device *d = nullptr;
    double ms[100];
    ASSERT_HN_OK(hn_device_open(test_device(), &d));
    EXPECT_HN_FAIL(hn_device_marks(d, 0, ms), HN_ERR_ARG, "mark 0 was never made");
    for (int i = 0; i <= 100; i++) ASSERT_HN_OK(hn_device_mark(d, i));
    ASSERT_HN_OK(hn_device_marks(d, 100, ms));
    for (const double one : ms) EXPECT_TRUE(one >= 0 && one < 1e5) << one;
    ASSERT_HN_OK(hn_device_mark(d, 0)); /* anew: those of before are gone */
    EXPECT_HN_FAIL(hn_device_marks(d, 1, ms), HN_ERR_ARG, "mark 1 was never made");
    hn_device_close(d);
}

TEST(GraphReplicas, TrainedClassesHaveOneLayoutAndAStride)
{
    hn_program *p = nullptr;
    ASSERT_HN_OK(hn_program_new(3, &p));
    hn_type type = f32_2d(3, 5);
    type.pitch = 8;
    hn_tensor *w = nullptr, *dw = nullptr, *next = nullptr, *flat = nullptr;
    ASSERT_HN_OK(hn_program_tensor(p, HN_MEM_TRAINED, "w", &type, &w));
    ASSERT_HN_OK(hn_program_tensor(p, HN_MEM_GRAD, "dw", &type, &dw));
    ASSERT_HN_OK(hn_program_tensor(p, HN_MEM_TRAINED, "next", &type, &next));
    EXPECT_EQ(w->type.replicas, 3);
    EXPECT_EQ(w->offset, dw->offset);
    EXPECT_EQ(hn_program_class_elements(p, HN_MEM_TRAINED, HN_F32), 128);
    EXPECT_EQ(hn_replica_stride(w), 128);
    ASSERT_HN_OK(hn_program_range(p, HN_MEM_TRAINED, "flat", HN_F32, 0, 128, &flat));
    EXPECT_HN_FAIL(hn_program_range(p, HN_MEM_TRAINED, "far", HN_F32, 64, 128, &flat), HN_ERR_SHAPE,
                   "64..191");
    const hn_plan_options o = {.guard_bytes = 0};
    ASSERT_HN_OK(hn_plan_build(p, &o));
    hn_plan_sizes s;
    hn_plan_sizes_of(p, &s);
    EXPECT_EQ(s.class_bytes[HN_MEM_TRAINED], 3u * 128 * sizeof(float));
    ASSERT_HN_OK(hn_plan_allocate(p));
    EXPECT_EQ(flat->data, w->data);
    hn_program_free(p);
}

/* Every allocation of building, planning and running fails once; nothing leaks or crashes. */
TEST(GraphMemory, EveryFailedAllocationIsReported)
{
    for (uint64_t nth = 1;; nth++) {
        hn_alloc_fail_at(nth);
        hn_program *p = nullptr;
        hn_graph *g = nullptr;
        hn_tensor *x = nullptr, *y[HN_MAX_OUT] = {};
        const hn_type type = f32_2d(4, 4);
        hn_attr attr = {};
        attr.scale.factor = 2;
        hn_status st = hn_program_new(1, &p);
        if (st == HN_OK) st = hn_graph_new(p, "g", true, &g);
        if (st == HN_OK) st = hn_program_tensor(p, HN_MEM_INPUT, "x", &type, &x);
        if (st == HN_OK) x->needs_grad = true;
        if (st == HN_OK) st = hn_emit(g, HN_OP_SCALE, "n", &x, &attr, y);
        if (st == HN_OK) st = hn_graph_backward(g, 1, y, &x);
        if (st == HN_OK) hn_graph_keep(y[0]);
        const hn_plan_options o = {.guard_bytes = 0};
        if (st == HN_OK) st = hn_plan_build(p, &o);
        if (st == HN_OK) st = hn_plan_allocate(p);
        hn_program_free(p);
        hn_alloc_fail_at(0);
        if (st == HN_OK) {
            EXPECT_GT(nth, 5u);
            break;
        }
        ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
    }
}

} // namespace
