/* The adaptor: a drift of zeros is direct transfer bit for bit, its integration is the host's, what
 * it writes into the backbone is what the backbone runs on, and it does not see names or order. */
#include "classifier_test.h"
#include "drift_test.h"
#include "kernels/loss/proto_ce.h"
#include "runtime/train/adaptor.h"
#include "runtime/train/few_shot_job.h"

namespace {

constexpr int64_t kTasks = 3, kWays = 3, kSupport = 8, kQueries = 6;

struct Task {
    std::vector<int32_t> support, support_label, query, query_label;
    std::vector<float> features;
};

class Adaptor : public ::testing::Test {
  protected:
    const hn_vision_config backbone = backbone_config(), encoder = small_model("resnet20", 4);
    const StripedImages images{backbone, 80, 1};
    hn_theta theta = {};
    hn_drift_config drift = {};
    hn_device *device = nullptr;
    hn_adaptor *a = nullptr;
    hn_adaptor_options o = {};
    std::vector<float> theta0, sigma;
    std::vector<Task> tasks;

    static hn_vision_config backbone_config()
    {
        hn_vision_config c = small_model("vit-tiny-cifar", 4);
        c.vit.init_range = 0.3; /* attention that is not flat */
        return c;
    }
    Adaptor()
    {
        omp_set_num_threads(1);
        EXPECT_HN_OK(hn_device_open(test_device(), &device));
        EXPECT_HN_OK(hn_theta_make(&backbone, HN_THETA_QV, &theta));
        drift = small_drift();
        drift.tokens = theta.tokens, drift.token_width = theta.width;
        drift.features = hn_vision_width(&encoder);
        theta0 = normal_f32((size_t)theta.count, 4, 0, 0.2f);
        sigma.assign((size_t)theta.tokens, 0.3f);
        sigma[1] = 0.1f;
        for (int64_t e = 0; e < kTasks; e++) tasks.push_back(task(e));
        o.device = device, o.executor = test_executor();
        o.drift = &drift, o.integrator = HN_INTEGRATE_EULER, o.steps = 3;
        o.episodes = kTasks, o.support = kSupport;
        o.dtype = HN_F32;
    }
    ~Adaptor() override
    {
        hn_adaptor_free(a);
        hn_theta_free(&theta);
        hn_device_close(device);
    }
    /* Three classes, the second task with fewer images. */
    Task task(int64_t e) const
    {
        Task t;
        const hn_images *v = images.view();
        for (int64_t i = 7 * e; (int64_t)t.query.size() < kQueries; i++) {
            const int32_t label = (v->label[i] + (int32_t)e) % 4;
            if (label >= kWays) continue;
            const bool support = (int64_t)t.support.size() < kSupport - e % 2;
            (support ? t.support : t.query).push_back((int32_t)i);
            (support ? t.support_label : t.query_label).push_back(label);
        }
        t.features = normal_f32(t.support.size() * (size_t)drift.features, (unsigned)e + 9);
        return t;
    }
    void whole()
    {
        o.encoder = &encoder, o.backbone = &backbone, o.theta = &theta, o.images = images.view();
        o.queries = kQueries, o.ways = kWays, o.scale = 10;
    }
    /* spread: of the drift's parameters; 0: as it begins, without a slope. */
    void open(float spread)
    {
        hn_adaptor_free(a);
        a = nullptr;
        ASSERT_HN_OK(hn_adaptor_new(&o, &a));
        ASSERT_HN_OK(hn_adaptor_allocate(a));
        for (const hn_params *p : {hn_adaptor_encoder(a), hn_adaptor_backbone(a)})
            for (int64_t i = 0; p && i < hn_params_count(p); i++)
                ASSERT_HN_OK(hn_param_init(hn_params_at(p, i), 6));
        load_drift(hn_adaptor_drift(a), spread);
        ASSERT_HN_OK(hn_adaptor_set_theta(a, theta0.data(), sigma.data()));
    }
    static void load_drift(const hn_params *p, float spread)
    {
        for (int64_t i = 0; p && i < hn_params_count(p); i++) {
            const hn_param *q = hn_params_at(p, i);
            const auto v = normal_f32((size_t)hn_param_values(q), (unsigned)q->key, 0, spread);
            ASSERT_HN_OK(spread > 0 ? hn_param_set(q, v.data()) : hn_param_init(q, 6));
        }
    }
    void put(const hn_adaptor_batch &b, int64_t e, const Task &t) const
    {
        const hn_adaptor_task x = {.support = t.support.data(),
                                   .support_label = t.support_label.data(),
                                   .query = t.query.data(),
                                   .query_label = t.query_label.data(),
                                   .features = o.encoder ? nullptr : t.features.data(),
                                   .n_support = (int64_t)t.support.size(),
                                   .n_query = o.backbone ? (int64_t)t.query.size() : 0};
        ASSERT_HN_OK(hn_adaptor_put(a, &b, e, &x));
    }
    std::vector<float> run(const std::vector<Task> &all)
    {
        hn_adaptor_batch b = {};
        EXPECT_HN_OK(hn_adaptor_batch_of(a, &b));
        for (size_t e = 0; e < all.size(); e++) put(b, (int64_t)e, all[e]);
        EXPECT_HN_OK(hn_adaptor_run(a));
        std::vector<float> v((size_t)(o.episodes * theta.count));
        EXPECT_HN_OK(hn_adaptor_theta(a, v.data()));
        return v;
    }
    struct Result {
        std::vector<double> loss;
        std::vector<int64_t> rows, hits;
        std::vector<int32_t> prediction;
        bool operator==(const Result &r) const
        {
            return loss == r.loss && rows == r.rows && hits == r.hits && prediction == r.prediction;
        }
    };
    static Result result(const std::vector<hn_eval_sums> &s, std::vector<int32_t> prediction)
    {
        Result r;
        for (const auto &v : s)
            r.loss.push_back(v.loss), r.rows.push_back(v.rows), r.hits.push_back(v.hits);
        r.prediction = std::move(prediction);
        return r;
    }
    Result result() const
    {
        std::vector<hn_eval_sums> s((size_t)o.episodes);
        std::vector<int32_t> prediction((size_t)(o.episodes * kQueries));
        EXPECT_HN_OK(hn_adaptor_sums(a, s.data()));
        EXPECT_HN_OK(hn_adaptor_predictions(a, prediction.data()));
        return result(s, prediction);
    }
    /* The backbone with these biases, evaluated as few-shot tuning does it. */
    Result evaluated(const std::vector<float> &biases) const
    {
        hn_few_shot_job_options jo = {};
        jo.config = &backbone, jo.images = images.view(), jo.replicas = o.episodes;
        jo.support = kSupport, jo.queries = kQueries, jo.ways = kWays, jo.scale = 10;
        jo.dtype = o.dtype;
        hn_few_shot_job job;
        EXPECT_HN_OK(hn_few_shot_job_init(&job, &jo));
        const hn_adapt given = hn_theta_given(&theta);
        hn_engine_options eo = {};
        eo.device = device, eo.executor = o.executor, eo.job = &job.job, eo.adapt = &given;
        eo.dtype = o.dtype, eo.eval = true, eo.replicas = o.episodes;
        hn_engine *e = nullptr;
        hn_engine_input in;
        EXPECT_HN_OK(hn_engine_new(&eo, &e));
        EXPECT_HN_OK(hn_engine_allocate(e));
        for (int64_t i = 0; i < hn_params_count(hn_engine_params(e)); i++)
            EXPECT_HN_OK(hn_param_init(hn_params_at(hn_engine_params(e), i), 6));
        for (int64_t g = 0; g < o.episodes; g++)
            EXPECT_HN_OK(hn_theta_set_replica(&theta, hn_engine_params(e), g,
                                              &biases[(size_t)(g * theta.count)]));
        EXPECT_HN_OK(hn_engine_eval_begin(e));
        EXPECT_HN_OK(hn_engine_batch(e, &in));
        job.job.empty(&job.job, in.field);
        const hn_few_shot_batch b = hn_few_shot_batch_of(&in);
        for (int64_t g = 0; g < o.episodes; g++) {
            const Task &t = tasks[(size_t)g];
            const int64_t at = g * (kSupport + kQueries);
            std::copy(t.support.begin(), t.support.end(), b.index + at);
            std::copy(t.support_label.begin(), t.support_label.end(), b.label + at);
            std::copy(t.query.begin(), t.query.end(), b.index + at + kSupport);
            std::copy(t.query_label.begin(), t.query_label.end(), b.label + at + kSupport);
        }
        EXPECT_HN_OK(hn_engine_eval_batch(e));
        std::vector<hn_eval_sums> s((size_t)o.episodes);
        std::vector<int32_t> prediction((size_t)(o.episodes * kQueries));
        EXPECT_HN_OK(hn_engine_eval_sums(e, s.data()));
        EXPECT_HN_OK(hn_tensor_read(job.prediction, 0, prediction.data(),
                                    prediction.size() * sizeof prediction[0]));
        hn_engine_free(e);
        return result(s, prediction);
    }
    std::vector<float> at_start() const
    {
        std::vector<float> v;
        for (int64_t e = 0; e < o.episodes; e++) v.insert(v.end(), theta0.begin(), theta0.end());
        return v;
    }
};

TEST_F(Adaptor, ADriftOfZerosIsDirectTransferBitForBit)
{
    whole();
    open(0);
    EXPECT_EQ(run(tasks), at_start());
    const Result still = result();
    EXPECT_EQ(still.rows, (std::vector<int64_t>{kQueries, kQueries, kQueries}));
    EXPECT_TRUE(still == evaluated(at_start()));
    o.steps = 0;
    open(0);
    EXPECT_EQ(run(tasks), at_start());
    EXPECT_TRUE(result() == still);
    EXPECT_EQ(hn_adaptor_flops(a).drift, 0);
}

TEST_F(Adaptor, TheBackboneRunsOnWhatTheDriftHasMade)
{
    whole();
    open(0.2f);
    const auto moved = run(tasks);
    EXPECT_GT(max_abs(moved, at_start()), 0.02);
    const Result r = result();
    EXPECT_TRUE(r == evaluated(moved));
    EXPECT_FALSE(r == evaluated(at_start()));
    const auto again = run(tasks);
    EXPECT_EQ(again, moved);
    EXPECT_TRUE(result() == r);
}

TEST_F(Adaptor, QueriesWithoutLabelsArePredicted)
{
    whole();
    open(0.2f);
    run(tasks);
    const Result r = result();
    auto unknown = tasks;
    for (auto &t : unknown)
        for (auto &v : t.query_label) v = HN_PROTO_UNLABELLED;
    run(unknown);
    const Result u = result();
    EXPECT_EQ(u.prediction, r.prediction);
    EXPECT_EQ(u.rows, std::vector<int64_t>(kTasks));
}

/* The network alone, asked once a stage by the host's integration in double: what lies between is
 * the rounding of z to fp32 in every step. */
TEST_F(Adaptor, IntegratesAsTheHostDoes)
{
    struct User {
        Drift *m;
        const std::vector<Task> *tasks;
        std::vector<float> features;
        std::vector<int32_t> labels, images;
    };
    o.steps = 4;
    const hn_drift_rows rows = {.tasks = kTasks, .support = kSupport, .points = 1};
    Drift m(drift, rows, false, true);
    load_drift(m.params, 0.2f);
    User user = {&m, &tasks, {}, {}, {}};
    for (const Task &t : tasks) {
        auto f = t.features;
        auto l = t.support_label;
        f.resize((size_t)(kSupport * drift.features));
        l.resize((size_t)kSupport, HN_LABEL_IGNORED);
        user.features.insert(user.features.end(), f.begin(), f.end());
        user.labels.insert(user.labels.end(), l.begin(), l.end());
        user.images.push_back((int32_t)t.support.size());
    }
    const auto slope = [](void *context, double t, const double *z, double *out) {
        auto *u = (User *)context;
        const size_t n = (size_t)(kTasks * u->m->c.tokens * u->m->c.token_width);
        u->m->fill(u->features, u->labels, u->images, std::vector<float>(z, z + n), {(float)t});
        const auto s = u->m->slopes();
        std::copy(s.begin(), s.end(), out);
        return HN_OK;
    };
    for (int kind = 0; kind < HN_INTEGRATE_COUNT; kind++) {
        for (const double stop : {1.0, 0.25}) {
            const auto integrator = (hn_integrator)kind;
            const size_t n = (size_t)(kTasks * theta.count);
            o.integrator = integrator;
            open(0.2f);
            ASSERT_HN_OK(hn_adaptor_set_stop(a, stop));
            std::vector<double> z(n), want(n);
            ASSERT_HN_OK(
                hn_integrate(integrator, o.steps, stop, (int64_t)n, z.data(), slope, &user));
            for (size_t i = 0; i < n; i++) {
                const size_t at = i % (size_t)theta.count;
                want[i] = (double)theta0[at] + (double)sigma[at / (size_t)theta.width] * z[i];
            }
            EXPECT_LT(rel_l2(run(tasks), want), 1e-6) << hn_integrator_of(integrator)->name;
        }
    }
}

TEST_F(Adaptor, TheStopTimeChangesBetweenRuns)
{
    open(0.2f);
    const auto one = run(tasks);
    ASSERT_HN_OK(hn_adaptor_set_stop(a, 0));
    EXPECT_EQ(run(tasks), at_start());
    ASSERT_HN_OK(hn_adaptor_set_stop(a, 1));
    EXPECT_EQ(run(tasks), one);
    EXPECT_HN_FAIL(hn_adaptor_set_stop(a, 1.5), HN_ERR_ARG, "stop time 1.5");
}

/* With the encoder, so from images on. Names: the same bits. Order: sums over images are added up
 * in another one. */
TEST_F(Adaptor, DoesNotSeeNamesOfClassesOrTheOrderOfImages)
{
    o.encoder = &encoder, o.images = images.view();
    open(0.2f);
    const auto want = run(tasks);
    auto named = tasks, ordered = tasks;
    for (Task &t : named)
        for (auto &v : t.support_label) v = (v + 2) % 3;
    EXPECT_EQ(run(named), want);
    for (Task &t : ordered) {
        std::reverse(t.support.begin(), t.support.end());
        std::reverse(t.support_label.begin(), t.support_label.end());
    }
    EXPECT_LT(rel_l2(run(ordered), want), 1e-6);
}

TEST_F(Adaptor, TasksAreAdaptedTogetherAsAlone)
{
    open(0.2f);
    const auto all = run(tasks);
    o.episodes = 1;
    open(0.2f);
    for (size_t e = 0; e < tasks.size(); e++) {
        const float *from = &all[e * (size_t)theta.count];
        const std::vector<float> want(from, from + theta.count);
        EXPECT_LT(rel_l2(run({tasks[e]}), want), 1e-6) << e;
    }
}

TEST_F(Adaptor, RunsInHalfPrecision)
{
    open(0.2f);
    const auto want = run(tasks);
    o.dtype = HN_BF16;
    open(0.2f);
    const auto got = run(tasks);
    std::vector<float> way(want), error(want);
    for (size_t i = 0; i < want.size(); i++) {
        way[i] -= at_start()[i];
        error[i] -= got[i];
    }
    EXPECT_LT(rel_l2(error, std::vector<float>(error.size())), /* |error| */
              0.05 * rel_l2(way, std::vector<float>(way.size())));
    open(0);
    EXPECT_EQ(run(tasks), at_start());
}

/* On a GPU the room for products is part of the plan, and grows when a program wants more; one that
 * was captured before goes on with what it knows. */
TEST_F(Adaptor, RoomForProductsIsWhatThePlanSays)
{
    const bool gpu = hn_device_kind_of(device) == HN_DEVICE_CUDA;
    const auto planned = [&](const hn_adaptor *of) {
        hn_plan_sizes s;
        hn_plan_sizes_of(hn_engine_program(hn_adaptor_engine(of)), &s);
        return s.workspace_bytes;
    };
    whole();
    o.workspace = HN_ADAPTOR_WORKSPACE;
    open(0.1f);
    ASSERT_EQ(planned(a), gpu ? (size_t)HN_ADAPTOR_WORKSPACE : 0);
    EXPECT_EQ(hn_device_workspace_taken(device), planned(a));
    const std::vector<float> before = run(tasks);
    hn_adaptor *small = a;
    a = nullptr;
    o.workspace = 0;
    open(0.1f);
    ASSERT_EQ(planned(a), gpu ? (size_t)HN_GEMM_WORKSPACE : 0);
    EXPECT_EQ(hn_device_workspace_taken(device), planned(a) + planned(small));
    EXPECT_LT(rel_l2(run(tasks), before), 1e-5);
    std::swap(a, small);
    EXPECT_EQ(run(tasks), before);
    hn_adaptor_free(small);
}

TEST_F(Adaptor, CountsItsProducts)
{
    whole();
    open(0);
    const hn_adaptor_cost all = hn_adaptor_flops(a);
    const hn_drift_rows rows = {.tasks = kTasks, .support = kSupport, .points = 1};
    EXPECT_EQ(all.drift,
              hn_drift_task_flops(&drift, &rows) + 3 * hn_drift_slope_flops(&drift, &rows));
    EXPECT_GT(all.encoder, 0);
    o.episodes *= 2, o.integrator = HN_INTEGRATE_MIDPOINT;
    open(0);
    const hn_adaptor_cost twice = hn_adaptor_flops(a);
    EXPECT_EQ(twice.encoder, 2 * all.encoder);
    EXPECT_EQ(twice.backbone, 2 * all.backbone);
    EXPECT_GT(twice.drift, 3 * all.drift);
}

TEST_F(Adaptor, RefusesWhatDoesNotFit)
{
    const auto refused = [&](auto change, hn_status code, const char *text) {
        const hn_adaptor_options before = o;
        change(o);
        EXPECT_HN_FAIL(hn_adaptor_new(&o, &a), code, text);
        o = before;
    };
    using O = hn_adaptor_options;
    whole();
    refused([](O &o) { o.images = nullptr; }, HN_ERR_ARG, "encoder without images");
    refused([](O &o) { o.theta = nullptr; }, HN_ERR_SHAPE, "biases are 0 tokens");
    refused([](O &o) { o.ways = 65; }, HN_ERR_SHAPE, "65 ways");
    refused([](O &o) { o.steps = -1; }, HN_ERR_ARG, "-1 steps");
    refused([](O &o) { o.episodes = 0; }, HN_ERR_SHAPE, "0 episodes");
    drift.features++;
    refused([](O &) {}, HN_ERR_SHAPE, "the encoder makes 12 features, the drift network reads 13");
    drift.features--;
    open(0);
    hn_adaptor_batch b = {};
    ASSERT_HN_OK(hn_adaptor_batch_of(a, &b));
    const Task &t = tasks[0];
    hn_adaptor_task x = {.support = t.support.data(), .support_label = t.support_label.data()};
    x.n_support = kSupport + 1;
    EXPECT_HN_FAIL(hn_adaptor_put(a, &b, 0, &x), HN_ERR_ARG, "9 support images (to 8)");
    x.n_support = kSupport, x.support = nullptr;
    EXPECT_HN_FAIL(hn_adaptor_put(a, &b, 0, &x), HN_ERR_ARG, "without images");
    EXPECT_HN_FAIL(hn_adaptor_put(a, &b, kTasks, &x), HN_ERR_ARG, "task 3 of 3");
}

} // namespace
