/* A weight with its low-rank update: hand values and refusals. Shapes, gradients, fast against the
 * twin and CUDA against both: test_registry.cc. */
#include "kernel_test.h"
#include "kernels/lora/lowrank_weight.h"

namespace {

TEST(LowrankWeight, HandValues)
{
    const float w[] = {1, 2, 3, 4}, a[] = {1, -1}, b[] = {2, 3}, dy[] = {1, 0, 0, 1};
    float y[4], da[] = {10, 20}, db[] = {1, 1};
    hn_lowrank_weight_args f = {};
    f.w = w, f.a = a, f.b = b, f.y = y;
    f.out = f.in = 2, f.rank = 1, f.ld_w = f.ld_a = f.ld_y = 2, f.ld_b = 1;
    f.dtype = HN_F32, f.scale = 0.5f;
    hn_lowrank_weight_bwd_args g = {};
    g.dy = dy, g.a = a, g.b = b, g.da = da, g.db = db;
    g.out = g.in = 2, g.rank = 1, g.ld_dy = g.ld_a = g.ld_da = 2, g.ld_b = g.ld_db = 1;
    g.dtype = HN_F32, g.scale = 0.5f;
    ASSERT_HN_OK(hn_lowrank_weight_fwd_cpu(&f));
    ASSERT_HN_OK(hn_lowrank_weight_bwd_cpu(&g));
    EXPECT_EQ(std::vector<float>(y, y + 4), (std::vector<float>{2, 1, 4.5, 2.5}));
    EXPECT_EQ(std::vector<float>(da, da + 2), (std::vector<float>{11, 21.5}));
    EXPECT_EQ(std::vector<float>(db, db + 2), (std::vector<float>{1.5, 0.5}));
    float y_fast[4];
    f.y = y_fast;
    ASSERT_HN_OK(hn_lowrank_weight_fwd_fast(&f, nullptr));
    EXPECT_EQ(std::vector<float>(y_fast, y_fast + 4), std::vector<float>(y, y + 4));
    f.y = nullptr;
    EXPECT_HN_FAIL(hn_lowrank_weight_fwd_cpu(&f), HN_ERR_ARG, "y");
    f.y = y, f.ld_b = 0;
    EXPECT_HN_FAIL(hn_lowrank_weight_fwd_cpu(&f), HN_ERR_SHAPE, "B");
    f.ld_b = 1, f.dtype = HN_I32;
    EXPECT_HN_FAIL(hn_lowrank_weight_fwd_cpu(&f), HN_ERR_UNSUPPORTED, "dtype");
    g.ld_da = 1;
    EXPECT_HN_FAIL(hn_lowrank_weight_bwd_cpu(&g), HN_ERR_SHAPE, "dA");
}

} // namespace
