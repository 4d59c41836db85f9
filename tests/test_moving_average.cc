/* Moving averages of trained values: hand values, steps that do not count, and the engine's. */
#include "kernels/optim/moving_average.h"

#include "classifier_test.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

/* d = min(decay, (s - 1) / (s + 8)). */
TEST(MovingAverage, MatchesHandComputedValues)
{
    float a[] = {8, -2, 5}, p[] = {4, 6, 5};
    hn_step_block step = {};
    hn_moving_average_args x = {};
    x.a = a, x.p = p, x.step = &step, x.n = 3, x.decay = 0.5f;
    for (const bool fast : {false, true}) {
        const auto run = fast ? hn_moving_average_fast : hn_moving_average_cpu;
        a[0] = 8, a[1] = -2, p[0] = 4, p[1] = 6;
        step.step = 1; /* d 0: the values themselves */
        ASSERT_HN_OK(run(&x));
        EXPECT_EQ(a[0], 4);
        EXPECT_EQ(a[1], 6);
        p[0] = 8, p[1] = 0;
        step.step = 4; /* d 3/12 */
        ASSERT_HN_OK(run(&x));
        EXPECT_EQ(a[0], 7);
        EXPECT_EQ(a[1], 1.5f);
        step.step = 100; /* d 0.5 */
        ASSERT_HN_OK(run(&x));
        EXPECT_EQ(a[0], 7.5f);
        EXPECT_EQ(a[1], 0.75f);
        step.skipped = HN_STEP_EMPTY;
        ASSERT_HN_OK(run(&x));
        step.skipped = 0, step.frozen = 1;
        ASSERT_HN_OK(run(&x));
        step.frozen = 0;
        EXPECT_EQ(a[0], 7.5f);
    }
    EXPECT_EQ(a[2], 5);
}

TEST(MovingAverage, ReplicasHaveTheirOwnSteps)
{
    float a[] = {1, 0, 1}, p[] = {3, 0, 3};
    hn_step_block step[2] = {};
    step[0].step = 1, step[1].step = 1, step[1].frozen = 1;
    hn_moving_average_args x = {};
    x.a = a, x.p = p, x.step = step, x.n = 1, x.decay = 0.9f;
    x.replicas = 2, x.stride = 2, x.step_stride = 1;
    ASSERT_HN_OK(hn_moving_average_fast(&x));
    EXPECT_EQ(a[0], 3);
    EXPECT_EQ(a[1], 0);
    EXPECT_EQ(a[2], 1);
}

TEST(MovingAverage, RefusesWhatTheContractExcludes)
{
    float a = 0, p = 0;
    hn_step_block step = {};
    hn_moving_average_args good = {};
    good.a = &a, good.p = &p, good.step = &step, good.n = 1, good.decay = 0.9f;
    const auto refused = [&](auto change, hn_status code, const char *part) {
        auto x = good;
        change(x);
        EXPECT_HN_FAIL(hn_moving_average_cpu(&x), code, part);
        EXPECT_HN_FAIL(hn_moving_average_fast(&x), code, part);
    };
    using A = hn_moving_average_args;
    refused([](A &x) { x.a = nullptr; }, HN_ERR_ARG, "a");
    refused([](A &x) { x.step = nullptr; }, HN_ERR_ARG, "step");
    refused([](A &x) { x.n = 0; }, HN_ERR_SHAPE, "0 elements");
    refused([](A &x) { x.decay = 1; }, HN_ERR_ARG, "decay 1");
}

class EngineAverage : public ::testing::Test {
  protected:
    const hn_vision_config c = small_model("vit-tiny-cifar");
    const StripedImages images{c, 16, 1};
    static std::vector<float> averages(const Classifier &m)
    {
        std::vector<float> all;
        for (int64_t i = 0; i < hn_params_count(m.params()); i++) {
            const hn_param *q = hn_params_at(m.params(), i);
            std::vector<float> v((size_t)hn_param_values(q));
            EXPECT_HN_OK(hn_param_read(q, q->average, v.data()));
            all.insert(all.end(), v.begin(), v.end());
        }
        return all;
    }
};

TEST_F(EngineAverage, FollowsTheSteps)
{
    Classifier m(c, images);
    m.o.average = 0.2;
    m.open();
    std::vector<double> want(m.everything().size());
    for (int64_t s = 0; s < 6; s++) {
        m.step(images, s, 0, 8);
        const double early = (double)s / (double)(s + 9), d = std::min(0.2, early);
        const auto now = m.everything();
        for (size_t i = 0; i < want.size(); i++) want[i] += (1 - d) * ((double)now[i] - want[i]);
        EXPECT_LT(rel_l2(averages(m), want), 1e-6) << s;
    }
    const auto before = averages(m);
    m.step(images, 6, 0, 0); /* no image: no update */
    ASSERT_HN_OK(hn_engine_run_empty(m.e));
    EXPECT_EQ(averages(m), before);
}

/* It reads what the update has written, and changes nothing else. */
TEST_F(EngineAverage, LeavesTrainingAsItIs)
{
    Classifier with(c, images), without(c, images);
    with.o.average = 0.9;
    for (Classifier *m : {&with, &without}) {
        m->open();
        for (int64_t s = 0; s < 3; s++) m->step(images, s, 0, 8);
    }
    EXPECT_EQ(with.everything(), without.everything());
    EXPECT_EQ(hn_params_at(without.params(), 0)->average, nullptr);
}

TEST_F(EngineAverage, RefusesADecayThatIsNone)
{
    Classifier m(c, images);
    m.o.average = 1;
    hn_classifier_job_init(&m.job, &m.co);
    m.o.adapt = &m.adapt, m.o.job = &m.job.job;
    EXPECT_HN_FAIL(hn_engine_new(&m.o, &m.e), HN_ERR_ARG, "decay 1");
}

#ifdef HONE_CUDA

/* By the twin: part of a span and more than one; replicas whose steps differ,
 * one of which is left out; strides and starts that forbid vectors; more spans than threads. */
TEST(MovingAverageCuda, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    struct Case {
        int64_t n, replicas, stride, from;
    };
    const int64_t several = 4096 * 256 + 77; /* one element a thread and a second round */
    for (const Case c : {Case{1, 1, 0, 0},
                         {13, 3, 16, 0},
                         {13, 3, 13, 0},
                         {40, 2, 48, 1},
                         {16, 1, 0, 0},
                         {several, 1, 0, 1},
                         {8 * several, 1, 0, 0}}) {
        const auto size = (size_t)(c.from + (c.replicas - 1) * c.stride + c.n);
        auto a = normal_f32(size, 1);
        const auto p = normal_f32(size, 2);
        std::vector<hn_step_block> step((size_t)c.replicas);
        for (size_t r = 0; r < step.size(); r++) step[r].step = 1 + 5 * (uint64_t)r;
        if (c.replicas > 2) step[1].skipped = HN_STEP_NONFINITE;
        DeviceArray<float> da(a), dp(p);
        DeviceArray<hn_step_block> ds(step);
        hn_moving_average_args x = {};
        x.a = a.data() + c.from, x.p = p.data() + c.from, x.step = step.data();
        x.n = c.n, x.replicas = c.replicas, x.stride = c.stride, x.step_stride = 1;
        x.decay = 0.9f;
        if (c.replicas == 1) step[0].step = 7, ds.assign(step);
        auto y = x;
        y.a = da.data() + c.from, y.p = dp.data() + c.from, y.step = ds.data();
        ASSERT_HN_OK(hn_moving_average_cpu(&x));
        ASSERT_HN_OK(hn_moving_average_cuda(&y, nullptr));
        const auto got = da.host();
        size_t wrong = 0; /* a few roundings of numbers below 12 */
        for (size_t i = 0; i < size; i++) wrong += !(std::fabs(got[i] - a[i]) <= 3e-6f);
        EXPECT_EQ(wrong, 0u) << c.n << " x " << c.replicas;
    }
}

#endif

} // namespace
