/* graph_test.h - a program on the CPU and short ways to fill, plan and run its graphs. */
#ifndef HN_GRAPH_TEST_H
#define HN_GRAPH_TEST_H
#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/base/convert.h"
#include "runtime/graph/plan.h"
#include "runtime/graph/run.h"
#include "runtime/graph/tensor.h"

inline hn_type f32_2d(int64_t rows, int64_t cols) { return {HN_F32, 2, {rows, cols}, 0, 0}; }

class Graph : public ::testing::Test {
  protected:
    hn_program *p = nullptr;
    hn_step_block step = {};

    void SetUp() override { ASSERT_HN_OK(hn_program_new(1, &p)); }
    void TearDown() override { hn_program_free(p); }

    hn_graph *graph(const char *name, bool training)
    {
        hn_graph *g = nullptr;
        EXPECT_HN_OK(hn_graph_new(p, name, training, &g));
        return g;
    }
    hn_tensor *input(const char *name, int64_t rows, int64_t cols, bool needs_grad = false)
    {
        hn_tensor *t = nullptr;
        const hn_type type = f32_2d(rows, cols);
        EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, name, &type, &t));
        if (t) t->needs_grad = needs_grad;
        return t;
    }
    hn_tensor *emit(hn_graph *g, hn_op_id op, std::vector<hn_tensor *> in, float factor = 1)
    {
        hn_tensor *out[HN_MAX_OUT] = {};
        hn_attr attr = {};
        attr.scale.factor = factor;
        EXPECT_HN_OK(hn_emit(g, op, "node", in.data(), &attr, out));
        return out[0];
    }
    void plan(size_t guard = 0)
    {
        const hn_plan_options o = {.guard_bytes = guard};
        ASSERT_HN_OK(hn_plan_build(p, &o));
        ASSERT_HN_OK(hn_plan_allocate(p));
    }
    hn_status run(hn_graph *g, bool check = false)
    {
        const hn_run_options o = {.step = &step, .twin = false, .check = check};
        return hn_graph_run(g, &o);
    }
    static float &at(hn_tensor *t, int64_t i, int64_t j)
    {
        return ((float *)t->data)[i * hn_type_ld(&t->type) + j];
    }
};

#endif
