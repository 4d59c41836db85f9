/* AdamW, SGD, gradient norm and the sum of squares below it: hand values, fast against the twin,
 * what a skipped step leaves alone, replicas, repeatability, errors, ONNX vectors. */
#include <omp.h>

#include <algorithm>

#include "hn_test.h"
#include "kernels/optim/adamw.h"
#include "kernels/optim/grad_norm.h"
#include "kernels/optim/sgd.h"
#include "kernels/reduce/sum_squares.h"
#include "onnx_vectors.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

hn_step_block step_block(float lr, float grad_scale)
{
    hn_step_block s = {};
    s.lr = lr;
    s.bias_correction1 = 0.271f; /* step 3 of beta 0.9, 0.999 */
    s.bias_correction2 = 0.002997f;
    s.grad_scale = grad_scale;
    return s;
}

struct Range {
    int64_t n, replicas;
    const int64_t stride, grad_stride;
    GuardedArray<float> p, grad, m, v;
    GuardedArray<hn_bf16> work;
    std::vector<hn_step_block> step;

    /* aligned: every replica begins on 16 bytes */
    explicit Range(int64_t count, int64_t g = 1, bool aligned = false)
        : n(count), replicas(g), stride(aligned ? (n + 7) / 8 * 8 : n + 6),
          grad_stride(aligned ? (n + 8) / 8 * 8 : n + 9), p(random(1, 1)),
          grad(normal_f32((size_t)(g * grad_stride), 2, 0, 8)), m(random(3, 0.1f)),
          v(random(4, 0.1f)), work((size_t)(g * stride)), step((size_t)g, step_block(0.01f, 0.125f))
    {
        for (size_t i = 0; i < v.size(); i++) v.data()[i] = std::fabs(v.data()[i]);
    }
    std::vector<float> random(unsigned seed, float sd) const
    {
        return normal_f32((size_t)(replicas * stride), seed, 0, sd);
    }
    template <class A>
    void common(A &a)
    {
        a.p = p.data(), a.grad = grad.data(), a.work = work.data(), a.step = step.data();
        a.n = n, a.n_zero = n + 1, a.replicas = replicas;
        a.stride = stride, a.grad_stride = grad_stride, a.step_stride = replicas > 1;
        a.weight_decay = 0.1f;
    }
    hn_adamw_args adamw()
    {
        hn_adamw_args a = {};
        common(a);
        a.m = m.data(), a.v = v.data();
        a.beta1 = 0.9f, a.beta2 = 0.999f, a.eps = 1e-8f;
        return a;
    }
    hn_sgd_args sgd(float momentum, bool nesterov)
    {
        hn_sgd_args a = {};
        common(a);
        a.buf = m.data();
        a.momentum = momentum, a.nesterov = nesterov;
        return a;
    }
    bool operator==(Range &r)
    {
        return same_bits(p.host(), r.p.host()) && same_bits(m.host(), r.m.host()) &&
               same_bits(v.host(), r.v.host()) && same_bits(work.host(), r.work.host()) &&
               same_bits(grad.host(), r.grad.host());
    }
};

/* Runs two ways on equal ranges and compares them. */
template <class Twin, class Fast>
void expect_close(int64_t n, int64_t replicas, Twin twin, Fast fast)
{
    Range a(n, replicas), b(n, replicas), c(n, replicas), before(n, replicas);
    twin(a);
    fast(b);
    const int threads = omp_get_max_threads();
    omp_set_num_threads(threads == 1 ? 2 : 1);
    fast(c);
    omp_set_num_threads(threads);
    EXPECT_TRUE(b == c); /* for any number of threads */
    EXPECT_LT(rel_l2(b.p.host(), a.p.host()), 2e-7);
    EXPECT_LT(rel_l2(b.m.host(), a.m.host()), 2e-7);
    EXPECT_LT(rel_l2(b.v.host(), a.v.host()), 2e-7);
    EXPECT_TRUE(same_bits(a.grad.host(), b.grad.host()));
    const auto p = b.p.host(), old = before.p.host(), grad = b.grad.host();
    const auto work = b.work.host();
    for (int64_t r = 0; r < replicas; r++) {
        for (int64_t i = 0; i < b.stride; i++) {
            const size_t k = (size_t)(r * b.stride + i);
            if (i < n)
                ASSERT_EQ(work[k].bits, hn_bf16_from_f32(p[k]).bits);
            else
                ASSERT_EQ(p[k], old[k]) << "wrote between replicas";
        }
        for (int64_t i = 0; i < b.grad_stride; i++)
            ASSERT_EQ(grad[(size_t)(r * b.grad_stride + i)] == 0, i <= n) << i;
    }
}

class Optim : public ::testing::TestWithParam<std::pair<int64_t, int64_t>> {};

TEST_P(Optim, AdamwFastMatchesTwin)
{
    expect_close(
        GetParam().first, GetParam().second,
        [](Range &r) {
            const auto a = r.adamw();
            EXPECT_HN_OK(hn_adamw_cpu(&a));
        },
        [](Range &r) {
            const auto a = r.adamw();
            EXPECT_HN_OK(hn_adamw_fast(&a));
        });
}

TEST_P(Optim, SgdFastMatchesTwin)
{
    for (const auto &[momentum, nesterov] :
         {std::pair(0.0f, false), std::pair(0.9f, false), std::pair(0.9f, true)})
        expect_close(
            GetParam().first, GetParam().second,
            [&](Range &r) {
                const auto a = r.sgd(momentum, nesterov);
                EXPECT_HN_OK(hn_sgd_cpu(&a));
            },
            [&](Range &r) {
                const auto a = r.sgd(momentum, nesterov);
                EXPECT_HN_OK(hn_sgd_fast(&a));
            });
}

/* One element, part of a vector, one past a block of 4096, enough for several threads; replicas. */
INSTANTIATE_TEST_SUITE_P(
    Sizes, Optim,
    ::testing::Values(std::pair<int64_t, int64_t>{1, 1}, std::pair<int64_t, int64_t>{37, 1},
                      std::pair<int64_t, int64_t>{4097, 1}, std::pair<int64_t, int64_t>{20011, 1},
                      std::pair<int64_t, int64_t>{13, 3}),
    [](const auto &i) {
        return "n" + std::to_string(i.param.first) + "_g" + std::to_string(i.param.second);
    });

TEST(AdamwTwin, MatchesHandComputedStep)
{
    /* g = 4 * 0.5 = 2; lr 0.1; decay 0.5: p 1 -> 0.95; m 0 -> 0.5, /0.25 = 2; v 1 -> 2.5,
     * /0.625 = 4; so p = 0.95 - 0.1 * 2 / (2 + 1) */
    float p = 1, grad[2] = {4, 9}, m = 0, v = 1;
    hn_step_block step = step_block(0.1f, 0.5f);
    step.bias_correction1 = 0.25f;
    step.bias_correction2 = 0.625f;
    hn_adamw_args a = {};
    a.p = &p, a.grad = grad, a.m = &m, a.v = &v, a.step = &step;
    a.n = a.n_zero = 1;
    a.beta1 = 0.75f, a.beta2 = 0.5f, a.eps = 1, a.weight_decay = 0.5f;
    ASSERT_HN_OK(hn_adamw_cpu(&a));
    EXPECT_FLOAT_EQ(m, 0.5f);
    EXPECT_FLOAT_EQ(v, 2.5f);
    EXPECT_FLOAT_EQ(p, 0.95f - 0.2f / 3);
    EXPECT_EQ(grad[0], 0);
    EXPECT_EQ(grad[1], 9);
}

TEST(SgdTwin, MatchesHandComputedSteps)
{
    float p = 1, grad = 4, buf = 3;
    const hn_step_block step = step_block(0.1f, 0.5f);
    hn_sgd_args a = {};
    a.p = &p, a.grad = &grad, a.buf = &buf, a.step = &step;
    a.n = 1;
    a.momentum = 0.5f, a.weight_decay = 1;
    ASSERT_HN_OK(hn_sgd_cpu(&a)); /* g = 2 + 1, buf = 1.5 + 3 */
    EXPECT_FLOAT_EQ(buf, 4.5f);
    EXPECT_FLOAT_EQ(p, 1 - 0.45f);
    EXPECT_EQ(grad, 4); /* n_zero 0 keeps it */
    p = 1, buf = 3, a.nesterov = true;
    ASSERT_HN_OK(hn_sgd_cpu(&a)); /* u = 3 + 0.5 * 4.5 */
    EXPECT_FLOAT_EQ(p, 1 - 0.525f);
    p = 1, a.momentum = 0, a.nesterov = false, a.buf = nullptr;
    ASSERT_HN_OK(hn_sgd_cpu(&a));
    EXPECT_FLOAT_EQ(p, 1 - 0.3f);
}

TEST(Optim, SkippedAndFrozenReplicasKeepTheirValuesButLoseTheGradient)
{
    for (int way = 0; way < 4; way++) {
        Range r(9, 2), before(9, 2);
        r.step[0].grad_scale = 0;
        r.step[1].frozen = 1;
        r.grad.data()[3] = NAN;
        const auto a = r.adamw();
        const auto s = r.sgd(0.9f, true);
        ASSERT_HN_OK(way == 0   ? hn_adamw_cpu(&a)
                     : way == 1 ? hn_adamw_fast(&a)
                     : way == 2 ? hn_sgd_cpu(&s)
                                : hn_sgd_fast(&s));
        EXPECT_TRUE(same_bits(r.p.host(), before.p.host()));
        EXPECT_TRUE(same_bits(r.m.host(), before.m.host()));
        EXPECT_TRUE(same_bits(r.v.host(), before.v.host()));
        EXPECT_TRUE(same_bits(r.work.host(), before.work.host()));
        const auto grad = r.grad.host();
        for (int64_t g = 0; g < 2; g++)
            for (int64_t i = 0; i < 10; i++)
                EXPECT_EQ(grad[(size_t)(g * r.grad_stride + i)], 0) << g;
    }
}

TEST(Optim, LrScaleMultipliesTheRate)
{
    Range a(33), b(33);
    a.step[0].lr = 0.02f;
    auto x = a.adamw(), y = b.adamw();
    y.lr_scale = 2;
    ASSERT_HN_OK(hn_adamw_fast(&x));
    ASSERT_HN_OK(hn_adamw_fast(&y));
    EXPECT_TRUE(a == b);
}

TEST(OptimCheck, NamesWhatIsWrong)
{
    Range r(5, 2);
    const auto adamw = [&](auto change, hn_status code, const char *text) {
        auto a = r.adamw();
        change(a);
        EXPECT_HN_FAIL(hn_adamw_cpu(&a), code, text);
        EXPECT_HN_FAIL(hn_adamw_fast(&a), code, text);
    };
    const auto sgd = [&](auto change, hn_status code, const char *text) {
        auto a = r.sgd(0.9f, true);
        change(a);
        EXPECT_HN_FAIL(hn_sgd_cpu(&a), code, text);
        EXPECT_HN_FAIL(hn_sgd_fast(&a), code, text);
    };
    adamw([](auto &a) { a.m = nullptr; }, HN_ERR_ARG, "m is NULL");
    adamw([](auto &a) { a.v = nullptr; }, HN_ERR_ARG, "v is NULL");
    adamw([](auto &a) { a.beta2 = 1; }, HN_ERR_ARG, "betas 0.9 and 1");
    adamw([](auto &a) { a.eps = 0; }, HN_ERR_ARG, "eps 0");
    sgd([](auto &a) { a.buf = nullptr; }, HN_ERR_ARG, "buf is NULL");
    sgd([](auto &a) { a.momentum = 0; }, HN_ERR_ARG, "nesterov needs momentum");
    sgd([](auto &a) { a.momentum = -1; }, HN_ERR_ARG, "momentum -1");
    const auto both = [&](auto change, hn_status code, const char *text) {
        adamw(change, code, text);
        sgd(change, code, text);
    };
    both([](auto &a) { a.p = nullptr; }, HN_ERR_ARG, "p is NULL");
    both([](auto &a) { a.grad = nullptr; }, HN_ERR_ARG, "grad is NULL");
    both([](auto &a) { a.step = nullptr; }, HN_ERR_ARG, "step is NULL");
    both([](auto &a) { a.n = 0; }, HN_ERR_SHAPE, "0 elements");
    both([](auto &a) { a.n_zero = 4; }, HN_ERR_SHAPE, "n_zero 4");
    both([](auto &a) { a.stride = 4; }, HN_ERR_SHAPE, "4 elements apart");
    both([](auto &a) { a.grad_stride = 5; }, HN_ERR_SHAPE, "grad");
    both([](auto &a) { a.step_stride = 2; }, HN_ERR_ARG, "step_stride 2");
    both([](auto &a) { a.weight_decay = -1; }, HN_ERR_ARG, "weight_decay -1");
    both([](auto &a) { a.lr_scale = INFINITY; }, HN_ERR_ARG, "lr_scale inf");
    Range untouched(5, 2);
    EXPECT_TRUE(r == untouched);
}

TEST(SumSquares, FastMatchesTwinWithTheSameBitsForAnyNumberOfThreads)
{
    for (const int64_t n : {0, 1, 7, 8, 8191, 8192, 8193, 100003}) {
        const auto x = normal_f32((size_t)n + 1, 5);
        std::vector<double> partial((size_t)hn_sum_squares_blocks(n));
        const double want = hn_sum_squares_cpu(x.data(), n);
        const double got = hn_sum_squares_fast(x.data(), n, partial.data());
        EXPECT_NEAR(got, want, 1e-12 * want);
        const int threads = omp_get_max_threads();
        for (int t : {1, 2, 5}) {
            omp_set_num_threads(t);
            EXPECT_EQ(hn_sum_squares_fast(x.data(), n, partial.data()), got);
        }
        omp_set_num_threads(threads);
    }
}

/* grad_norm on [3, 4, count 2]: norm 5 / 2. */
hn_step_block norm_of(std::vector<float> grad, float max_norm, bool fast)
{
    hn_step_block step = {};
    step.max_norm = max_norm;
    hn_grad_norm_args a = {};
    a.grad = grad.data(), a.count = grad.data() + grad.size() - 1, a.step = &step;
    a.n = (int64_t)grad.size() - 1;
    std::vector<double> scratch(hn_grad_norm_fast_scratch(&a) / sizeof(double));
    EXPECT_HN_OK(fast ? hn_grad_norm_fast(&a, scratch.data()) : hn_grad_norm_cpu(&a));
    return step;
}

TEST(GradNorm, DividesByTheCountAndClips)
{
    for (const bool fast : {false, true}) {
        auto s = norm_of({3, 4, 2}, 0, fast);
        EXPECT_FLOAT_EQ(s.grad_norm, 2.5f);
        EXPECT_FLOAT_EQ(s.grad_scale, 0.5f);
        EXPECT_EQ(s.skipped, HN_STEP_DONE);
        s = norm_of({3, 4, 2}, 1, fast);
        EXPECT_FLOAT_EQ(s.grad_norm, 2.5f);
        EXPECT_FLOAT_EQ(s.grad_scale, (float)(0.5 / (2.5 + 1e-6)));
        EXPECT_FLOAT_EQ(norm_of({3, 4, 2}, 3, fast).grad_scale, 0.5f);
        EXPECT_FLOAT_EQ(norm_of({0, 0, 2}, 1, fast).grad_scale, 0.5f);
        EXPECT_FLOAT_EQ(norm_of({1e30f, 1e30f, 1}, 1, fast).grad_norm, 1.41421356e30f);
    }
}

TEST(GradNorm, SkipsWhatIsNotFiniteAndWhatIsEmpty)
{
    for (const bool fast : {false, true}) {
        for (const float bad : {NAN, INFINITY, -INFINITY}) {
            const auto s = norm_of({3, bad, 2}, 1, fast);
            EXPECT_EQ(s.skipped, HN_STEP_NONFINITE);
            EXPECT_EQ(s.grad_scale, 0);
            EXPECT_FALSE(std::isfinite(s.grad_norm));
            EXPECT_EQ(norm_of({3, 4, bad}, 1, fast).skipped, HN_STEP_NONFINITE);
        }
        const auto s = norm_of({0, 0, 0}, 1, fast);
        EXPECT_EQ(s.skipped, HN_STEP_EMPTY);
        EXPECT_EQ(s.grad_scale, 0);
        EXPECT_EQ(s.grad_norm, 0);
        EXPECT_EQ(norm_of({3, 4, -2}, 1, fast).skipped, HN_STEP_NONFINITE);
    }
}

TEST(GradNorm, TreatsReplicasOneByOne)
{
    const std::vector<float> grad = {3, 4, 2, -1, 6, 8, 5, -1, 0, NAN, 1, -1};
    std::vector<hn_step_block> step(3);
    hn_grad_norm_args a = {};
    a.grad = grad.data(), a.count = grad.data() + 2, a.step = step.data();
    a.n = 2, a.replicas = 3, a.grad_stride = a.count_stride = 4;
    ASSERT_HN_OK(hn_grad_norm_cpu(&a));
    EXPECT_FLOAT_EQ(step[0].grad_norm, 2.5f);
    EXPECT_FLOAT_EQ(step[1].grad_norm, 2.0f);
    EXPECT_EQ(step[1].skipped, HN_STEP_DONE);
    EXPECT_EQ(step[2].skipped, HN_STEP_NONFINITE);
}

TEST(GradNorm, NamesWhatIsWrong)
{
    const std::vector<float> grad = {3, 4, 2};
    hn_step_block step = {};
    hn_grad_norm_args good = {};
    good.grad = grad.data(), good.count = grad.data() + 2, good.step = &step;
    good.n = 2;
    const auto fails = [&](auto change, hn_status code, const char *text) {
        auto a = good;
        double scratch[1];
        change(a);
        EXPECT_HN_FAIL(hn_grad_norm_cpu(&a), code, text);
        EXPECT_HN_FAIL(hn_grad_norm_fast(&a, scratch), code, text);
    };
    fails([](auto &a) { a.grad = nullptr; }, HN_ERR_ARG, "grad is NULL");
    fails([](auto &a) { a.count = nullptr; }, HN_ERR_ARG, "count is NULL");
    fails([](auto &a) { a.step = nullptr; }, HN_ERR_ARG, "step is NULL");
    fails([](auto &a) { a.n = 0; }, HN_ERR_SHAPE, "0 elements");
    fails([](auto &a) { a.replicas = 2; }, HN_ERR_SHAPE, "grad");
    EXPECT_HN_FAIL(hn_grad_norm_fast(&good, nullptr), HN_ERR_ARG, "scratch is NULL");
    EXPECT_EQ(step.grad_scale, 0);
}

/* The ONNX optimizers add norm_coefficient * x to the gradient (coupled, unlike AdamW): the test
 * does that. Tensors of one vector are laid side by side in one range. */
struct OnnxState {
    double rate;
    int64_t t;
    std::vector<float> x, g, first, second;
    std::vector<double> want_x, want_first, want_second;
};

void append(std::vector<float> &to, const onnx::Tensor &t)
{
    to.insert(to.end(), t.values.begin(), t.values.end());
}

OnnxState onnx_state(const onnx::Case &c, int states)
{
    OnnxState s = {c.in(0)->values[0], (int64_t)c.in(1)->values[0], {}, {}, {}, {}, {}, {}, {}};
    const size_t n = (c.inputs.size() - 2) / (size_t)(2 + states); /* tensors */
    for (size_t k = 0; k < n; k++) {
        append(s.x, *c.in(2 + k));
        append(s.g, *c.in(2 + n + k));
        append(s.first, *c.in(2 + 2 * n + k));
        if (states == 2) append(s.second, *c.in(2 + 3 * n + k));
    }
    std::vector<double> *const want[] = {&s.want_x, &s.want_first, &s.want_second};
    for (size_t k = 0; k < c.outputs.size(); k++)
        want[k / n]->insert(want[k / n]->end(), c.out(k)->values.begin(), c.out(k)->values.end());
    for (size_t i = 0; i < s.x.size(); i++)
        s.g[i] += (float)c.number("norm_coefficient", 0) * s.x[i];
    return s;
}

TEST(AdamwOnnx, Adam)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    EXPECT_EQ(onnx::each(dir, "Adam",
                         [](const onnx::Case &c) {
                             OnnxState s = onnx_state(c, 2);
                             const double alpha = c.number("alpha", 0.9);
                             const double beta = c.number("beta", 0.999);
                             hn_step_block step = {};
                             step.lr = (float)s.rate;
                             step.grad_scale = 1;
                             /* at t = 0 the rate is not corrected */
                             step.bias_correction1 =
                                 s.t ? (float)(1 - std::pow(alpha, (double)s.t)) : 1;
                             step.bias_correction2 =
                                 s.t ? (float)(1 - std::pow(beta, (double)s.t)) : 1;
                             hn_adamw_args a = {};
                             a.p = s.x.data(), a.grad = s.g.data();
                             a.m = s.first.data(), a.v = s.second.data(), a.step = &step;
                             a.n = (int64_t)s.x.size();
                             a.beta1 = (float)alpha, a.beta2 = (float)beta;
                             a.eps = (float)c.number("epsilon", 0);
                             ASSERT_HN_OK(hn_adamw_fast(&a));
                             EXPECT_LT(max_abs(s.x, s.want_x), 1e-6);
                             EXPECT_LT(max_abs(s.first, s.want_first), 1e-6);
                             EXPECT_LT(max_abs(s.second, s.want_second), 1e-6);
                         }),
              2);
}

/* ONNX Momentum: v = alpha v + beta' g with beta' = beta, but 1 at t = 0; standard x -= r v,
 * nesterov x -= r (g + alpha v). beta' has no place in sgd (dampening 0): standard vectors work
 * with beta' * g as the gradient; nesterov needs beta' = 1, which the one vector has. */
TEST(SgdOnnx, Momentum)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    EXPECT_EQ(onnx::each(dir, "Momentum",
                         [](const onnx::Case &c) {
                             OnnxState s = onnx_state(c, 1);
                             const bool nesterov = c.text("mode", "") == "nesterov";
                             const double beta = s.t > 0 ? c.number("beta", 1) : 1;
                             ASSERT_TRUE(!nesterov || beta == 1);
                             hn_step_block step = {};
                             step.lr = (float)s.rate;
                             step.grad_scale = (float)beta;
                             hn_sgd_args a = {};
                             a.p = s.x.data(), a.grad = s.g.data(), a.buf = s.first.data();
                             a.step = &step;
                             a.n = (int64_t)s.x.size();
                             a.momentum = (float)c.number("alpha", 0);
                             a.nesterov = nesterov;
                             ASSERT_HN_OK(hn_sgd_fast(&a));
                             EXPECT_LT(max_abs(s.x, s.want_x), 1e-6);
                             EXPECT_LT(max_abs(s.first, s.want_first), 1e-6);
                         }),
              3);
}

/* ReduceSumSquare and ReduceL2: one call for each kept index; the reduced axis is gathered. */
void compare_reduction(const std::string &dir, const char *op, int count)
{
    EXPECT_EQ(onnx::each(dir, op,
                         [](const onnx::Case &c) {
                             const auto &x = *c.in(0);
                             const auto &axes = c.in(1)->values;
                             const int rank = (int)x.shape.size();
                             std::vector<bool> reduced((size_t)rank, axes.empty());
                             for (const double a : axes)
                                 reduced[(size_t)(a < 0 ? a + rank : a)] = true;
                             std::vector<std::vector<float>> groups(c.out(0)->values.size());
                             for (size_t i = 0; i < x.values.size(); i++) {
                                 size_t rest = i, at = 0, width = 1;
                                 for (int k = rank - 1; k >= 0; k--) {
                                     const size_t n = (size_t)x.dim(k), index = rest % n;
                                     rest /= n;
                                     if (reduced[(size_t)k]) continue;
                                     at += index * width;
                                     width *= n;
                                 }
                                 groups[at].push_back((float)x.values[i]);
                             }
                             for (size_t k = 0; k < groups.size(); k++) {
                                 double partial;
                                 double y = hn_sum_squares_fast(
                                     groups[k].data(), (int64_t)groups[k].size(), &partial);
                                 if (c.op == "ReduceL2") y = std::sqrt(y);
                                 const double want = c.out(0)->values[k];
                                 EXPECT_NEAR(y, want, 1e-6 * (1 + want));
                             }
                         }),
              count);
}

TEST(SumSquaresOnnx, ReduceSumSquare)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    compare_reduction(dir, "ReduceSumSquare", 9);
}

TEST(SumSquaresOnnx, ReduceL2)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    compare_reduction(dir, "ReduceL2", 9);
}

#ifdef HONE_CUDA
/* A Range in device memory. */
struct DeviceRange {
    Range &r;
    DeviceArray<float> p{r.p.host()}, grad{r.grad.host()}, m{r.m.host()}, v{r.v.host()};
    DeviceArray<hn_bf16> work{r.work.host()};
    DeviceArray<hn_step_block> step{r.step};

    explicit DeviceRange(Range &host) : r(host) {}
    hn_adamw_args adamw()
    {
        hn_adamw_args a = r.adamw();
        a.p = p.data(), a.grad = grad.data(), a.m = m.data(), a.v = v.data();
        a.work = work.data(), a.step = step.data();
        return a;
    }
    hn_sgd_args sgd(float momentum, bool nesterov)
    {
        hn_sgd_args a = r.sgd(momentum, nesterov);
        a.p = p.data(), a.grad = grad.data(), a.buf = m.data();
        a.work = work.data(), a.step = step.data();
        return a;
    }
};

struct CudaRange {
    int64_t n, replicas;
    bool aligned;
};

/* A handful of fp32 roundings, in one element at the least, against double rounded once. */
void expect_near(DeviceRange &d, Range &h)
{
    const auto p = d.p.host();
    const auto work = d.work.host();
    EXPECT_LT(rel_l2(p, h.p.host()), 5e-7);
    EXPECT_LT(rel_l2(d.m.host(), h.m.host()), 5e-7);
    EXPECT_LT(rel_l2(d.v.host(), h.v.host()), 5e-7);
    EXPECT_TRUE(same_bits(d.grad.host(), h.grad.host()));
    for (int64_t r = 0; r < h.replicas; r++)
        for (int64_t i = 0; i < h.stride; i++) {
            const size_t k = (size_t)(r * h.stride + i);
            if (i < h.n)
                ASSERT_EQ(work[k].bits, hn_bf16_from_f32(p[k]).bits);
            else
                ASSERT_EQ(work[k].bits, 0xffff) << "wrote between replicas";
        }
}

bool operator==(DeviceRange &a, DeviceRange &b)
{
    return same_bits(a.p.host(), b.p.host()) && same_bits(a.m.host(), b.m.host()) &&
           same_bits(a.v.host(), b.v.host()) && same_bits(a.work.host(), b.work.host()) &&
           same_bits(a.grad.host(), b.grad.host());
}

class OptimCuda : public ::testing::TestWithParam<CudaRange> {
  protected:
    const CudaRange c = GetParam();
    /* twin on the host against cuda, twice, once captured */
    template <class Twin, class Cuda>
    void compare(Twin twin, Cuda cuda)
    {
        Range start(c.n, c.replicas, c.aligned), h(c.n, c.replicas, c.aligned);
        DeviceRange a(start), b(start);
        twin(h);
        cuda(a, nullptr);
        expect_near(a, h);
        run_captured([&](hn_stream stream) { cuda(b, stream); });
        EXPECT_TRUE(a == b);
    }
};

TEST_P(OptimCuda, CudaAdamwMatchesCpu)
{
    HN_NEED_CUDA();
    compare(
        [](Range &r) {
            const auto a = r.adamw();
            ASSERT_HN_OK(hn_adamw_cpu(&a));
        },
        [](DeviceRange &r, hn_stream stream) {
            const auto a = r.adamw();
            ASSERT_HN_OK(hn_adamw_cuda(&a, stream));
        });
}

TEST_P(OptimCuda, CudaSgdMatchesCpu)
{
    HN_NEED_CUDA();
    for (const auto &[momentum, nesterov] :
         {std::pair(0.0f, false), std::pair(0.9f, false), std::pair(0.9f, true)})
        compare(
            [&](Range &r) {
                const auto a = r.sgd(momentum, nesterov);
                ASSERT_HN_OK(hn_sgd_cpu(&a));
            },
            [&](DeviceRange &r, hn_stream stream) {
                const auto a = r.sgd(momentum, nesterov);
                ASSERT_HN_OK(hn_sgd_cuda(&a, stream));
            });
}

INSTANTIATE_TEST_SUITE_P(Ranges, OptimCuda,
                         ::testing::Values(CudaRange{1, 1, false}, CudaRange{13, 1, false},
                                           CudaRange{2049, 1, false}, CudaRange{37, 3, false},
                                           CudaRange{37, 3, true}, CudaRange{4096, 2, true}),
                         [](const auto &i) {
                             return case_name("n", i.param.n, "_g", i.param.replicas,
                                              (i.param.aligned ? "_aligned" : "_apart"));
                         });

TEST(OptimCudaSkip, SkippedAndFrozenReplicasKeepTheirValuesButLoseTheGradient)
{
    HN_NEED_CUDA();
    for (const bool adamw : {false, true}) {
        Range start(9, 2);
        start.step[0].grad_scale = 0;
        start.step[1].frozen = 1;
        start.grad.data()[3] = NAN;
        DeviceRange d(start);
        const auto a = d.adamw();
        const auto s = d.sgd(0.9f, true);
        ASSERT_HN_OK(adamw ? hn_adamw_cuda(&a, nullptr) : hn_sgd_cuda(&s, nullptr));
        EXPECT_TRUE(same_bits(d.p.host(), start.p.host()));
        EXPECT_TRUE(same_bits(d.m.host(), start.m.host()));
        EXPECT_TRUE(same_bits(d.v.host(), start.v.host()));
        EXPECT_TRUE(same_bits(d.work.host(), start.work.host()));
        const auto grad = d.grad.host();
        for (int64_t g = 0; g < 2; g++)
            for (int64_t i = 0; i < 10; i++)
                EXPECT_EQ(grad[(size_t)(g * start.grad_stride + i)], 0) << g;
    }
}

/* Ranges of several lengths and replicas in one launch, each with its own decay; the last one is
 * not aligned. */
TEST(OptimCudaMany, EqualsUpdatesOneByOne)
{
    HN_NEED_CUDA();
    Range start[] = {Range(5000), Range(13), Range(37, 3, true), Range(21, 2)};
    static_assert(std::size(start) == HN_OPTIM_MANY);
    for (const bool adamw : {false, true})
        for (int64_t n = 1; n <= HN_OPTIM_MANY; n++) {
            std::vector<std::unique_ptr<DeviceRange>> one, many;
            std::vector<hn_adamw_args> a;
            std::vector<hn_sgd_args> s;
            for (int64_t i = 0; i < n; i++) {
                one.push_back(std::make_unique<DeviceRange>(start[i]));
                many.push_back(std::make_unique<DeviceRange>(start[i]));
                auto x = one[(size_t)i]->adamw();
                auto y = one[(size_t)i]->sgd(0.9f, true);
                x.weight_decay = y.weight_decay = 0.1f * (float)i;
                ASSERT_HN_OK(adamw ? hn_adamw_cuda(&x, nullptr) : hn_sgd_cuda(&y, nullptr));
                a.push_back(many[(size_t)i]->adamw());
                s.push_back(many[(size_t)i]->sgd(0.9f, true));
                a.back().weight_decay = s.back().weight_decay = 0.1f * (float)i;
            }
            run_captured([&](hn_stream stream) {
                ASSERT_HN_OK(adamw ? hn_adamw_many_cuda(a.data(), n, stream)
                                   : hn_sgd_many_cuda(s.data(), n, stream));
            });
            for (size_t i = 0; i < (size_t)n; i++) EXPECT_TRUE(*one[i] == *many[i]) << i;
        }
}

TEST(OptimCudaMany, NamesWhatIsWrong)
{
    EXPECT_HN_FAIL(hn_sgd_many_cuda(nullptr, 0, nullptr), HN_ERR_SHAPE, "sgd: 0 ranges, 1 to 4");
    EXPECT_HN_FAIL(hn_adamw_many_cuda(nullptr, HN_OPTIM_MANY + 1, nullptr), HN_ERR_SHAPE,
                   "adamw: 5 ranges");
}

/* The graph itself puts the step block in place that its update must read. */
TEST(OptimCudaReplay, ReadsTheStepBlockWhenItRuns)
{
    HN_NEED_CUDA();
    Range start(33), later(33);
    later.step[0].lr = 0.05f;
    DeviceRange a(start), want(later);
    auto x = a.adamw(), y = want.adamw();
    x.n_zero = y.n_zero = 0; /* grad is kept */
    run_captured([&](hn_stream stream) {
        ASSERT_EQ(cudaMemcpyAsync(a.step.data(), want.step.data(), sizeof(hn_step_block),
                                  cudaMemcpyDeviceToDevice, stream),
                  cudaSuccess);
        ASSERT_HN_OK(hn_adamw_cuda(&x, stream));
    });
    ASSERT_HN_OK(hn_adamw_cuda(&y, nullptr));
    EXPECT_TRUE(a == want);
    EXPECT_TRUE(same_bits(a.grad.host(), start.grad.host()));
}

/* As norm_of, on the device. */
std::vector<hn_step_block> norms_of(const std::vector<float> &grad, int64_t replicas,
                                    float max_norm, bool cuda, bool captured = false)
{
    std::vector<hn_step_block> step((size_t)replicas);
    for (auto &s : step) s.max_norm = max_norm, s.seed = 77;
    hn_grad_norm_args a = {};
    a.n = (int64_t)grad.size() / replicas - 1, a.replicas = replicas;
    a.grad_stride = a.count_stride = a.n + 1;
    if (!cuda) {
        a.grad = grad.data(), a.count = grad.data() + a.n, a.step = step.data();
        EXPECT_HN_OK(hn_grad_norm_cpu(&a));
        return step;
    }
    DeviceArray<float> d(grad);
    DeviceArray<hn_step_block> blocks(step);
    DeviceArray<unsigned char> scratch(hn_grad_norm_cuda_scratch(&a));
    a.grad = d.data(), a.count = d.data() + a.n, a.step = blocks.data();
    const auto run = [&](hn_stream s) { EXPECT_HN_OK(hn_grad_norm_cuda(&a, scratch.data(), s)); };
    if (captured)
        run_captured(run, 2);
    else
        run(nullptr);
    (void)scratch.host();
    return blocks.host();
}

TEST(GradNormCuda, CudaMatchesCpuAndRepeatsBitForBit)
{
    HN_NEED_CUDA();
    for (const int64_t replicas : {1, 3})
        for (const int64_t n : {1, 7, 255, 8192, 8193, 16383, 100003})
            for (const float max_norm : {0.0f, 0.5f}) {
                auto grad = normal_f32((size_t)(replicas * (n + 1)), 5);
                for (int64_t r = 0; r < replicas; r++)
                    grad[(size_t)(r * (n + 1) + n)] = (float)(3 + r);
                const auto want = norms_of(grad, replicas, max_norm, false);
                const auto got = norms_of(grad, replicas, max_norm, true);
                for (size_t r = 0; r < (size_t)replicas; r++) {
                    /* sums in double in another order, then one rounding */
                    EXPECT_FLOAT_EQ(got[r].grad_norm, want[r].grad_norm);
                    EXPECT_FLOAT_EQ(got[r].grad_scale, want[r].grad_scale);
                    EXPECT_EQ(got[r].skipped, HN_STEP_DONE);
                    EXPECT_EQ(got[r].seed, 77u);
                    EXPECT_EQ(got[r].arrived, 0u); /* ready for the next step */
                }
                EXPECT_TRUE(same_bits(norms_of(grad, replicas, max_norm, true, true), got));
            }
}

TEST(GradNormCuda, SkipsWhatIsNotFiniteAndWhatIsEmpty)
{
    HN_NEED_CUDA();
    const auto norm = [](std::vector<float> grad) { return norms_of(grad, 1, 1, true)[0]; };
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
        const auto s = norm({3, bad, 2});
        EXPECT_EQ(s.skipped, HN_STEP_NONFINITE);
        EXPECT_EQ(s.grad_scale, 0);
        EXPECT_FALSE(std::isfinite(s.grad_norm));
        EXPECT_EQ(norm({3, 4, bad}).skipped, HN_STEP_NONFINITE);
    }
    const auto s = norm({0, 0, 0});
    EXPECT_EQ(s.skipped, HN_STEP_EMPTY);
    EXPECT_EQ(s.grad_scale, 0);
    EXPECT_EQ(s.grad_norm, 0);
    EXPECT_EQ(norm({3, 4, -2}).skipped, HN_STEP_NONFINITE);
}
#endif

} // namespace
