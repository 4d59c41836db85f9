/* The engine's anchor against steps by hand: elastic weight consolidation, FedProx, and the Fisher
 * that it gathers. */
#include "classifier_test.h"

namespace {

constexpr float kWeight = 0.5f;

class EngineAnchor : public ::testing::Test {
  protected:
    const hn_vision_config c = small_model("mnist-cnn");
    const StripedImages images{c, 16, 1};

    /* Plain SGD: what a step does to p is its gradient. */
    void open(Classifier &m, hn_anchor anchor)
    {
        m.o.optimizer = {.kind = HN_OPTIMIZER_SGD};
        m.o.anchor = anchor;
        m.open();
    }
    /* Reference and Fisher: anything, in the order of files. */
    static std::vector<float> reference(const hn_param *q)
    {
        return normal_f32((size_t)hn_param_values(q), (unsigned)q->key, 0, 0.3f);
    }
    static std::vector<float> fisher(const hn_param *q)
    {
        auto f = normal_f32((size_t)hn_param_values(q), (unsigned)q->key + 1);
        for (float &v : f) v *= v;
        return f;
    }
    template <class Fn>
    static void each(const Classifier &m, Fn fn)
    {
        for (int64_t i = 0; i < hn_params_count(m.params()); i++)
            if (hn_params_at(m.params(), i)->trained) fn(hn_params_at(m.params(), i));
    }
};

/* p' = p - lr (g / count + weight F (p - ref)), and the norm is that of what is in brackets. */
TEST_F(EngineAnchor, AStepIsTheOneByHand)
{
    const float lr = 0.1f;
    for (const bool with_fisher : {false, true}) {
        Classifier plain(c, images), m(c, images);
        open(plain, {});
        open(m, {.weight = kWeight, .fisher = with_fisher});
        plain.accumulate(images, 0, 6);
        std::vector<double> want, moved;
        double norm = 0;
        each(m, [&](const hn_param *q) {
            const auto p = m.value(q), ref = reference(q), f = fisher(q);
            const auto g = plain.gradient(q->name);
            ASSERT_HN_OK(
                hn_engine_anchor_set(m.e, q, ref.data(), with_fisher ? f.data() : nullptr));
            for (size_t k = 0; k < p.size(); k++) {
                const double pull = (double)kWeight * (with_fisher ? (double)f[k] : 1) *
                                    ((double)p[k] - (double)ref[k]);
                const double d = (double)g[k] / 6 + pull;
                want.push_back((double)lr * d);
                norm += d * d;
            }
        });
        std::vector<float> before, after;
        each(m, [&](const hn_param *q) {
            const auto p = m.value(q);
            before.insert(before.end(), p.begin(), p.end());
        });
        const hn_step_report with = m.step(images, 0, 0, 6, (double)lr);
        hn_step_report without = {};
        ASSERT_HN_OK(hn_engine_update(plain.e, (double)lr, &without));
        after = m.everything();
        for (size_t k = 0; k < after.size(); k++)
            moved.push_back((double)before[k] - (double)after[k]);
        EXPECT_LT(rel_l2(moved, want), 1e-6);
        EXPECT_NEAR(with.grad_norm, std::sqrt(norm), 1e-6 * std::sqrt(norm));
        EXPECT_EQ(with.loss, without.loss); /* without the penalty */
        EXPECT_EQ(with.tokens, 6);
    }
}

/* At its reference, whatever the Fisher, and with a Fisher of zeros, the anchor holds nothing: also
 * a proof that reference, Fisher and values lie alike. */
TEST_F(EngineAnchor, PullsOnlyWhatHasMovedAndCounts)
{
    Classifier plain(c, images), at_home(c, images), unimportant(c, images);
    open(plain, {});
    open(at_home, {.weight = kWeight, .fisher = true});
    open(unimportant, {.weight = kWeight, .fisher = true});
    each(at_home, [&](const hn_param *q) {
        const auto p = at_home.value(q), f = fisher(q), r = reference(q);
        ASSERT_HN_OK(hn_engine_anchor_set(at_home.e, q, p.data(), f.data()));
        q = hn_params_find(unimportant.params(), q->name);
        ASSERT_HN_OK(hn_engine_anchor_set(unimportant.e, q, r.data(), nullptr));
    });
    for (Classifier *m : {&plain, &at_home, &unimportant}) m->step(images, 0, 0, 8);
    EXPECT_EQ(at_home.everything(), plain.everything());
    EXPECT_EQ(unimportant.everything(), plain.everything());
}

/* Three images one by one, then two together: count (sum / count)^2. */
TEST_F(EngineAnchor, TheFisherIsTheSumOfSquaredGradients)
{
    for (const int64_t batch : {1, 2}) {
        Classifier m(c, images, batch);
        open(m, {.weight = 0, .fisher = true});
        std::vector<double> want(m.everything().size());
        for (int64_t k = 0; k < 3; k++) {
            m.accumulate(images, k * batch, batch);
            const auto g = m.gradients();
            for (size_t i = 0; i < g.size(); i++)
                want[i] += (double)g[i] * (double)g[i] / (double)batch;
            ASSERT_HN_OK(hn_engine_square(m.e));
            EXPECT_EQ(m.gradients(), std::vector<float>(g.size()));
        }
        std::vector<float> got;
        each(m, [&](const hn_param *q) {
            std::vector<float> f((size_t)hn_param_values(q));
            ASSERT_HN_OK(hn_engine_anchor_get(m.e, q, nullptr, f.data()));
            got.insert(got.end(), f.begin(), f.end());
        });
        EXPECT_LT(rel_l2(got, want), 1e-6);
        hn_step_report r = {}; /* nothing is left for an update */
        ASSERT_HN_OK(hn_engine_update(m.e, 1, &r));
        EXPECT_EQ(r.skipped, HN_STEP_EMPTY);
    }
}

TEST_F(EngineAnchor, KeepsWhatIsWrittenAndAnEmptyRunChangesNothing)
{
    Classifier m(c, images);
    open(m, {.weight = kWeight, .fisher = true});
    each(m, [&](const hn_param *q) {
        const auto r = reference(q), f = fisher(q);
        ASSERT_HN_OK(hn_engine_anchor_set(m.e, q, r.data(), f.data()));
    });
    ASSERT_HN_OK(hn_engine_run_empty(m.e));
    each(m, [&](const hn_param *q) {
        std::vector<float> r((size_t)hn_param_values(q)), f(r);
        ASSERT_HN_OK(hn_engine_anchor_get(m.e, q, r.data(), f.data()));
        EXPECT_EQ(r, reference(q)) << q->name;
        EXPECT_EQ(f, fisher(q)) << q->name;
    });
}

TEST_F(EngineAnchor, RefusesWhatIsNotThere)
{
    Classifier off(c, images), prox(c, images), part(c, images);
    float v[4096];
    open(off, {});
    open(prox, {.weight = kWeight, .fisher = false});
    const hn_param *q = hn_params_find(off.params(), "fc2.bias");
    EXPECT_HN_FAIL(hn_engine_square(off.e), HN_ERR_ARG, "no anchor with a Fisher");
    EXPECT_HN_FAIL(hn_engine_square(prox.e), HN_ERR_ARG, "no anchor with a Fisher");
    EXPECT_HN_FAIL(hn_engine_anchor_get(off.e, q, v, nullptr), HN_ERR_ARG,
                   "fc2.bias: the engine's anchor has no such tensor");
    q = hn_params_find(prox.params(), "fc2.bias");
    EXPECT_HN_OK(hn_engine_anchor_get(prox.e, q, v, nullptr));
    EXPECT_HN_FAIL(hn_engine_anchor_get(prox.e, q, nullptr, v), HN_ERR_ARG, "no such tensor");
    part.adapt.parameter = [](const void *, const char *name) {
        return std::string(name) == "fc2.bias" ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
    };
    open(part, {.weight = kWeight, .fisher = false});
    EXPECT_HN_FAIL(
        hn_engine_anchor_set(part.e, hn_params_find(part.params(), "fc2.weight"), v, nullptr),
        HN_ERR_ARG, "fc2.weight: not trained");
    Classifier negative(c, images);
    hn_classifier_job_init(&negative.job, &negative.co);
    negative.o.job = &negative.job.job;
    negative.o.adapt = &negative.adapt;
    negative.o.anchor.weight = -1;
    EXPECT_HN_FAIL(hn_engine_new(&negative.o, &negative.e), HN_ERR_ARG, "anchor: weight -1");
}

} // namespace
