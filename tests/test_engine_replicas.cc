/* An engine with replicas against engines of one: the same rows, the same bits; frozen ones stay;
 * what has no replicas is refused. */
#include "classifier_test.h"

namespace {

constexpr int64_t kReplicas = 3, kEach = 4;

/* Images of a replica in a step: some, and the rest of its rows padding. */
struct Rows {
    int64_t first, n;
};

class EngineReplicas : public ::testing::Test {
  protected:
    const hn_vision_config c = small_model("mnist-cnn");
    const StripedImages images{c, 64, 1};
    const bool on_cpu = test_executor() == HN_EXECUTOR_CPU;

    static void settle(Classifier &m, int64_t replicas)
    {
        m.co.stream_train = m.co.stream_eval = false;
        m.co.augment.pad = 2;
        m.co.augment.flip = 0.5f;
        m.o.optimizer.max_grad_norm = 0.5;
        m.o.replicas = replicas;
    }
    static void fill(const Classifier &m, const StripedImages &s, const std::vector<Rows> &rows)
    {
        hn_engine_input in;
        ASSERT_HN_OK(hn_engine_batch(m.e, &in));
        const hn_classifier_batch b = hn_classifier_batch_of(&m.job, &in);
        m.job.job.empty(&m.job.job, in.field);
        for (size_t g = 0; g < rows.size(); g++)
            for (int64_t i = 0; i < rows[g].n; i++) {
                const size_t row = g * (size_t)kEach + (size_t)i;
                b.index[row] = (int32_t)(rows[g].first + i);
                b.label[row] = s.view()->label[rows[g].first + i];
            }
    }
    static std::vector<float> of_replica(const Classifier &m, int64_t g)
    {
        std::vector<float> all;
        for (int64_t i = 0; i < hn_params_count(m.params()); i++) {
            const hn_param *q = hn_params_at(m.params(), i);
            std::vector<float> v((size_t)hn_param_values(q));
            EXPECT_HN_OK(hn_param_get_replica(q, g, v.data()));
            all.insert(all.end(), v.begin(), v.end());
        }
        return all;
    }
    /* On a GPU, products of another batch count may add in another order. */
    void expect_same(const std::vector<float> &got, const std::vector<float> &want) const
    {
        if (on_cpu)
            EXPECT_TRUE(same_bits(got, want));
        else
            EXPECT_LT(rel_l2(got, want), 1e-5);
    }
    /* Steps of all replicas at once, by micro and update or as one. */
    static std::vector<std::vector<hn_step_report>> run(const Classifier &m, const StripedImages &s,
                                                        const std::vector<hn_replica_step> &how,
                                                        const std::vector<std::vector<Rows>> &steps,
                                                        bool whole)
    {
        std::vector<std::vector<hn_step_report>> all;
        for (size_t k = 0; k < steps.size(); k++) {
            std::vector<hn_step_report> r(how.size());
            hn_engine_set_replicas(m.e, how.data());
            if (!whole) {
                EXPECT_HN_OK(hn_engine_begin(m.e, (int64_t)k));
            }
            fill(m, s, steps[k]);
            if (whole) {
                EXPECT_HN_OK(hn_engine_step(m.e, (int64_t)k, 0.5, r.data()));
            } else {
                EXPECT_HN_OK(hn_engine_micro(m.e, 0));
                EXPECT_HN_OK(hn_engine_update(m.e, 0.5, r.data()));
            }
            all.push_back(r);
        }
        return all;
    }
};

const std::vector<hn_replica_step> kHow = {{.seed = 11, .lr_scale = 0.1, .frozen = false},
                                           {.seed = 22, .lr_scale = 0.02, .frozen = false},
                                           {.seed = 33, .lr_scale = 0.05, .frozen = false}};
const std::vector<std::vector<Rows>> kSteps = {
    {{0, 4}, {10, 4}, {20, 3}}, {{4, 4}, {14, 4}, {24, 4}}, {{8, 2}, {18, 4}, {28, 1}}};

std::vector<std::vector<Rows>> steps_of(size_t g)
{
    std::vector<std::vector<Rows>> of;
    for (const auto &s : kSteps) of.push_back({s[g]});
    return of;
}

TEST_F(EngineReplicas, EachDoesWhatAnEngineOfItsOwnDoes)
{
    for (const hn_optimizer_kind kind : {HN_OPTIMIZER_SGD, HN_OPTIMIZER_ADAMW})
        for (const bool whole : {false, true}) {
            Classifier m(c, images, kReplicas * kEach);
            settle(m, kReplicas);
            m.o.optimizer.kind = kind;
            m.o.optimizer.momentum = 0.9;
            m.o.anchor = {.weight = 0.3f, .fisher = false};
            m.open();
            ASSERT_HN_OK(hn_engine_restart(m.e, 0)); /* the anchor is where they begin */
            EXPECT_EQ(hn_engine_replicas(m.e), kReplicas);
            const auto reports = run(m, images, kHow, kSteps, whole);
            for (size_t g = 0; g < kReplicas; g++) {
                Classifier one(c, images, kEach);
                settle(one, 1);
                one.o.optimizer = m.o.optimizer;
                one.o.anchor = m.o.anchor;
                one.open();
                ASSERT_HN_OK(hn_engine_restart(one.e, 0));
                const auto want = run(one, images, {kHow[g]}, steps_of(g), false);
                for (size_t k = 0; k < kSteps.size(); k++) {
                    const hn_step_report &a = reports[k][g], &b = want[k][0];
                    EXPECT_EQ(a.tokens, kSteps[k][g].n);
                    EXPECT_EQ(a.skipped, HN_STEP_DONE);
                    EXPECT_NEAR(a.loss, b.loss, on_cpu ? 0 : 1e-5);
                    EXPECT_NEAR(a.grad_norm, b.grad_norm, on_cpu ? 0 : 1e-5);
                }
                expect_same(of_replica(m, (int64_t)g), of_replica(one, 0));
            }
        }
}

/* A body that is frozen, and shared, with heads of their own. */
TEST_F(EngineReplicas, ShareWhatIsNotTrained)
{
    const auto head = [](const void *, const char *name) {
        return std::string(name).substr(0, 3) == "fc2" ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
    };
    Classifier m(c, images, kReplicas * kEach);
    settle(m, kReplicas);
    m.adapt.parameter = head;
    m.open();
    run(m, images, kHow, kSteps, true);
    for (size_t g = 0; g < kReplicas; g++) {
        Classifier one(c, images, kEach);
        settle(one, 1);
        one.adapt.parameter = head;
        one.open();
        run(one, images, {kHow[g]}, steps_of(g), false);
        /* the body's rows are in one product, which may add in another order than a third of it */
        EXPECT_LT(rel_l2(of_replica(m, (int64_t)g), of_replica(one, 0)), 1e-5);
    }
}

TEST_F(EngineReplicas, FrozenOnesStayBitForBitAndOthersGoOn)
{
    Classifier m(c, images, kReplicas * kEach), all(c, images, kReplicas * kEach);
    for (Classifier *k : {&m, &all}) {
        settle(*k, kReplicas);
        k->o.optimizer.kind = HN_OPTIMIZER_SGD;
        k->o.optimizer.momentum = 0.9; /* would go on moving them */
        k->o.optimizer.weight_decay = 0.1;
        k->open();
        run(*k, images, kHow, {kSteps[0]}, true);
    }
    const auto before = of_replica(m, 1), other = of_replica(m, 0);
    auto how = kHow;
    how[1].frozen = true;
    auto rows = kSteps[1];
    rows[1] = {0, 0};
    const auto reports = run(m, images, how, {rows, rows}, true);
    run(all, images, kHow, {kSteps[1], kSteps[1]}, true);
    EXPECT_TRUE(same_bits(of_replica(m, 1), before));
    EXPECT_FALSE(same_bits(of_replica(m, 0), other));
    EXPECT_TRUE(same_bits(of_replica(m, 0), of_replica(all, 0)));
    EXPECT_TRUE(same_bits(of_replica(m, 2), of_replica(all, 2)));
    EXPECT_EQ(reports[0][1].tokens, 0);
    EXPECT_TRUE(std::isnan(reports[0][1].loss));
}

/* As many steps as may be outstanding, twice. */
TEST_F(EngineReplicas, ARestartDropsReportsThatNobodyTook)
{
    Classifier m(c, images, kReplicas * kEach);
    settle(m, kReplicas);
    m.open();
    for (int repeat = 0; repeat < 2; repeat++) {
        ASSERT_HN_OK(hn_engine_restart(m.e, 1));
        hn_engine_set_replicas(m.e, kHow.data());
        for (int64_t k = 0; k < HN_ENGINE_AHEAD; k++) {
            fill(m, images, kSteps[0]);
            ASSERT_HN_OK(hn_engine_step(m.e, k, 0.5, nullptr));
        }
    }
    ASSERT_HN_OK(hn_engine_restart(m.e, 1));
    bool there = true;
    hn_step_report r[kReplicas];
    ASSERT_HN_OK(hn_engine_report(m.e, true, &there, r));
    EXPECT_FALSE(there);
}

TEST_F(EngineReplicas, RestartedAllAreLikeTheFirstWithoutMomentum)
{
    Classifier m(c, images, kReplicas * kEach);
    settle(m, kReplicas);
    m.open();
    run(m, images, kHow, kSteps, true);
    const auto first = of_replica(m, 0);
    EXPECT_FALSE(same_bits(of_replica(m, 2), first));
    ASSERT_HN_OK(hn_engine_restart(m.e, 1));
    for (int64_t g = 0; g < kReplicas; g++) EXPECT_TRUE(same_bits(of_replica(m, g), first));
    for (int64_t i = 0; i < hn_params_count(m.params()); i++) {
        const hn_param *q = hn_params_at(m.params(), i);
        for (int64_t g = 0; g < kReplicas; g++)
            for (const hn_tensor *t : {q->moment1, q->moment2}) {
                const hn_tensor one = hn_tensor_replica(t, g);
                std::vector<float> v((size_t)hn_param_values(q), 1);
                ASSERT_HN_OK(hn_param_read(q, &one, v.data()));
                EXPECT_EQ(v, std::vector<float>(v.size(), 0));
            }
    }
}

TEST_F(EngineReplicas, EvaluationSumsAreThoseOfEachReplica)
{
    Classifier m(c, images, kReplicas * kEach);
    settle(m, kReplicas);
    m.open();
    std::vector<hn_eval_sums> sums(kReplicas);
    ASSERT_HN_OK(hn_engine_eval_begin(m.e));
    for (const auto &rows : kSteps) {
        fill(m, images, rows);
        ASSERT_HN_OK(hn_engine_eval_batch(m.e));
    }
    ASSERT_HN_OK(hn_engine_eval_sums(m.e, sums.data()));
    for (size_t g = 0; g < kReplicas; g++) {
        Classifier one(c, images, kEach);
        settle(one, 1);
        one.open();
        hn_eval_sums want = {};
        ASSERT_HN_OK(hn_engine_eval_begin(one.e));
        for (const auto &rows : steps_of(g)) {
            fill(one, images, rows);
            ASSERT_HN_OK(hn_engine_eval_batch(one.e));
        }
        ASSERT_HN_OK(hn_engine_eval_sums(one.e, &want));
        EXPECT_EQ(sums[g].rows, want.rows);
        EXPECT_EQ(sums[g].hits, want.hits);
        EXPECT_NEAR(sums[g].loss, want.loss, 1e-5);
    }
}

/* A new engine of `m` fails so. */
void expect_refused(Classifier &m, hn_status status, const char *text)
{
    hn_classifier_job_init(&m.job, &m.co);
    m.o.adapt = &m.adapt;
    m.o.job = &m.job.job;
    EXPECT_HN_FAIL(hn_engine_new(&m.o, &m.e), status, text);
}

TEST_F(EngineReplicas, WhatHasNoReplicasIsRefusedByName)
{
    {
        Classifier m(c, images, 8);
        settle(m, kReplicas);
        expect_refused(m, HN_ERR_SHAPE, "8 rows is no 3 equal groups");
    }
    {
        Classifier m(c, images, 9);
        settle(m, kReplicas);
        m.o.anchor = {.weight = 1, .fisher = true};
        expect_refused(m, HN_ERR_UNSUPPORTED, "a Fisher in an engine with replicas");
    }
    {
        Classifier m(c, images, 9);
        settle(m, kReplicas);
        m.adapt.parameter = nullptr;
        m.adapt.linear = [](const void *, const char *, int64_t, int64_t, hn_lowrank *l) {
            *l = {.rank = 2, .scale = 1, .dropout = 0, .materialise = true};
            return HN_OK;
        };
        expect_refused(m, HN_ERR_UNSUPPORTED, "conv1 (lowrank_weight): ");
    }
    const hn_vision_config norm = small_model("resnet20");
    const StripedImages small(norm, 16, 1);
    Classifier m(norm, small, 9);
    settle(m, kReplicas);
    expect_refused(m, HN_ERR_UNSUPPORTED, "batch normalisation has no replicas");
}

} // namespace
