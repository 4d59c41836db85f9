/* The norm of a gradient of which ranks have a share each: from the sums of all blocks it is the
 * one of the whole gradient, bit for bit, wherever the shares end. */
#include "hn_test.h"
#include "kernel_test.h"
#include "kernels/optim/grad_norm.h"
#include "kernels/reduce/sum_squares.h"

#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

const hn_step_block kStep = [] {
    hn_step_block s = {};
    s.seed = 3;
    s.step = 4;
    s.lr = 0.5f;
    s.max_norm = 0.125f;
    return s;
}();

/* n values and, up to `shares` equal shares of whole blocks, zeros. */
std::vector<float> gradient(int64_t n, int64_t shares, int64_t *share)
{
    const int64_t blocks = hn_sum_squares_blocks(n);
    *share = (blocks + shares - 1) / shares * HN_SUM_BLOCK;
    std::vector<float> g = normal_f32((size_t)n, 11);
    g.resize((size_t)(shares * *share));
    return g;
}

hn_grad_norm_args whole(const float *grad, const float *count, hn_step_block *step, int64_t n)
{
    hn_grad_norm_args a = {};
    a.grad = grad, a.count = count, a.step = step, a.n = n;
    return a;
}

TEST(GradScale, IsTheNormOfTheWhole)
{
    const float count = 12;
    for (const int64_t n : {5L, 8192L, 8193L, 100000L, 70001L})
        for (const int64_t shares : {1, 2, 3, 8})
            for (const bool fast : {false, true}) {
                int64_t share;
                const auto g = gradient(n, shares, &share);
                const int64_t each = share / HN_SUM_BLOCK;
                std::vector<double> sum((size_t)(shares * each)), scratch(sum.size());
                hn_step_block want = kStep, got = kStep;
                const hn_grad_norm_args w = whole(g.data(), &count, &want, n);
                EXPECT_HN_OK(fast ? hn_grad_norm_fast(&w, scratch.data()) : hn_grad_norm_cpu(&w));
                for (int64_t r = 0; r < shares; r++) {
                    const hn_grad_sums_args a = {g.data() + r * share, &sum[(size_t)(r * each)],
                                                 share};
                    EXPECT_HN_OK(fast ? hn_grad_sums_fast(&a) : hn_grad_sums_cpu(&a));
                }
                const hn_grad_scale_args a = {sum.data(), &count, &got, shares * each};
                EXPECT_HN_OK(fast ? hn_grad_scale_fast(&a) : hn_grad_scale_cpu(&a));
                EXPECT_GT(want.grad_norm, 0);
                EXPECT_LT(want.grad_scale, 1 / count) << "clipped";
                if (fast) {
                    EXPECT_EQ(std::memcmp(&got, &want, sizeof got), 0) << n << " " << shares;
                } else { /* the twin adds one by one */
                    EXPECT_NEAR(got.grad_norm, want.grad_norm, 1e-6 * want.grad_norm);
                    EXPECT_NEAR(got.grad_scale, want.grad_scale, 1e-6 * want.grad_scale);
                }
            }
}

TEST(GradScale, SkipsWhatIsNotFiniteAndWhatIsEmpty)
{
    for (const bool fast : {false, true})
        for (const double bad : {(double)NAN, (double)INFINITY}) {
            std::vector<double> sum = {1, bad, 2};
            hn_step_block s = kStep;
            float count = 2;
            hn_grad_scale_args a = {sum.data(), &count, &s, 3};
            EXPECT_HN_OK(fast ? hn_grad_scale_fast(&a) : hn_grad_scale_cpu(&a));
            EXPECT_EQ(s.skipped, HN_STEP_NONFINITE);
            EXPECT_EQ(s.grad_scale, 0);
            sum = {0, 0, 0};
            count = 0;
            EXPECT_HN_OK(fast ? hn_grad_scale_fast(&a) : hn_grad_scale_cpu(&a));
            EXPECT_EQ(s.skipped, HN_STEP_EMPTY);
            EXPECT_EQ(s.grad_norm, 0);
        }
}

TEST(GradScale, RefusesBadArguments)
{
    float x = 1;
    double sum = 0;
    hn_step_block s = kStep;
    hn_grad_sums_args a = {&x, &sum, 0};
    EXPECT_HN_FAIL(hn_grad_sums_fast(&a), HN_ERR_SHAPE, "0 elements");
    a = {&x, nullptr, 1};
    EXPECT_HN_FAIL(hn_grad_sums_cpu(&a), HN_ERR_ARG, "sum");
    hn_grad_scale_args b = {&sum, &x, &s, 0};
    EXPECT_HN_FAIL(hn_grad_scale_fast(&b), HN_ERR_SHAPE, "0 blocks");
    b = {&sum, nullptr, &s, 1};
    EXPECT_HN_FAIL(hn_grad_scale_cpu(&b), HN_ERR_ARG, "count");
    EXPECT_EQ(std::memcmp(&s, &kStep, sizeof s), 0);
}

#ifdef HONE_CUDA
TEST(GradScaleCuda, IsTheNormOfTheWhole)
{
    HN_NEED_CUDA();
    DeviceArray<float> count(std::vector<float>{12});
    for (const int64_t n : {5L, 8193L, 100000L, 3000001L, 20000000L})
        for (const int64_t shares : {1, 3}) {
            int64_t share;
            const auto host = gradient(n, shares, &share);
            const int64_t each = share / HN_SUM_BLOCK;
            DeviceArray<float> g(host);
            DeviceArray<double> sum(std::vector<double>((size_t)(shares * each)));
            DeviceArray<hn_step_block> want(std::vector<hn_step_block>{kStep});
            DeviceArray<hn_step_block> got(std::vector<hn_step_block>{kStep});
            const hn_grad_norm_args w = whole(g.data(), count.data(), want.data(), n);
            DeviceArray<unsigned char> scratch(hn_grad_norm_cuda_scratch(&w));
            ASSERT_HN_OK(hn_grad_norm_cuda(&w, scratch.data(), nullptr));
            run_captured([&](hn_stream stream) {
                for (int64_t r = 0; r < shares; r++) {
                    const hn_grad_sums_args a = {g.data() + r * share, sum.data() + r * each,
                                                 share};
                    ASSERT_HN_OK(hn_grad_sums_cuda(&a, stream));
                }
                const hn_grad_scale_args a = {sum.data(), count.data(), got.data(), shares * each};
                ASSERT_HN_OK(hn_grad_scale_cuda(&a, stream));
            });
            const hn_step_block x = got.host()[0], y = want.host()[0];
            (void)sum.host();
            EXPECT_EQ(x.grad_norm, y.grad_norm) << n << " " << shares;
            EXPECT_EQ(x.grad_scale, y.grad_scale);
            EXPECT_EQ(x.count, y.count);
            EXPECT_EQ(x.skipped, HN_STEP_DONE);
            EXPECT_NEAR(x.grad_norm, std::sqrt(hn_sum_squares_cpu(host.data(), n)) / 12,
                        1e-6 * x.grad_norm);
        }
}
#endif

} // namespace
