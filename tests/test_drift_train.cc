/* Drift networks learn trajectories: gradients of the job against finite differences, straight
 * lines are learnt and integrated, the same bits twice and behind a resume. */
#include <omp.h>

#include <filesystem>
#include <list>
#include <sstream>

#include "drift_lines_test.h"
#include "engine_test.h"
#include "runtime/base/alloc.h"
#include "runtime/train/adaptor.h"
#include "runtime/train/drift_train.h"

namespace {

/* ---- the job ---- */

class DriftJob : public ::testing::Test {
  protected:
    Lines lines{4, 2};
    hn_device *device = nullptr;
    hn_drift_job job = {};
    hn_engine *e = nullptr;
    hn_curve *curve = nullptr;
    hn_adapt adapt = {};

    void SetUp() override
    {
        omp_set_num_threads(1); /* a network of this size only waits for a second one */
        EXPECT_HN_OK(hn_device_open(test_device(), &device));
        EXPECT_HN_OK(hn_curve_make(HN_CURVE_SPLINE, kKnots, &curve));
    }
    void TearDown() override
    {
        hn_engine_free(e);
        hn_curve_free(curve);
        hn_device_close(device);
    }
    hn_drift_job_options options() { return options(lines); }
    static hn_drift_job_options options(const Lines &l)
    {
        hn_drift_job_options o = {};
        o.config = &l.c, o.data = &l.d, o.sigma = l.sigma.data();
        o.features = l.features.data(), o.feature_rows = l.feature_rows();
        o.rows = {.tasks = 3, .support = kSupport, .points = 4};
        o.dtype = HN_F32;
        return o;
    }
    /* spread: of the parameters, none of which begins as zeros. */
    void open(const hn_drift_job_options &o, float spread = 0.2f)
    {
        hn_engine_free(e);
        e = nullptr;
        adapt = {.parameter = train_all, .linear = nullptr, .context = nullptr};
        ASSERT_HN_OK(hn_drift_job_init(&job, &o));
        hn_engine_options eo = {};
        eo.device = device, eo.executor = test_executor();
        eo.job = &job.job, eo.adapt = &adapt, eo.dtype = o.dtype;
        eo.train = eo.eval = true;
        eo.optimizer.kind = HN_OPTIMIZER_ADAMW, eo.optimizer.eps = 1e-8;
        ASSERT_HN_OK(hn_engine_new(&eo, &e));
        ASSERT_HN_OK(hn_engine_allocate(e));
        std::mt19937 rng(2);
        for (int64_t i = 0; i < hn_params_count(params()); i++) {
            const hn_param *q = hn_params_at(params(), i);
            auto v = normal_f32((size_t)hn_param_values(q), (unsigned)rng(), 0, spread);
            ASSERT_HN_OK(hn_param_set(q, v.data()));
        }
    }
    hn_params *params() const { return hn_engine_params(e); }
    /* Two tasks of three places; a point of each is missing. */
    void fill()
    {
        hn_engine_input in;
        ASSERT_HN_OK(hn_engine_batch(e, &in));
        const hn_drift_batch b = hn_drift_batch_empty(&job, &in);
        for (int64_t i = 0; i < 2; i++) {
            hn_drift_put_task(&b, i, 3 - i);
            for (int64_t k = 0; k < 3; k++)
                ASSERT_HN_OK(hn_drift_put_point(&b, i, k, 2 * (3 - i) + k % 2, curve,
                                                0.1 + 0.3 * (double)k));
        }
    }
    hn_eval_sums evaluate()
    {
        hn_eval_sums s = {};
        EXPECT_HN_OK(hn_engine_eval_begin(e));
        fill();
        EXPECT_HN_OK(hn_engine_eval_batch(e));
        EXPECT_HN_OK(hn_engine_eval_sums(e, &s));
        return s;
    }
};

/* Along the gradient of every parameter; fp32 losses of about 10 leave 1e-4 of such a difference.
 */
TEST_F(DriftJob, GradientsMatchFiniteDifferences)
{
    open(options());
    ASSERT_HN_OK(hn_engine_begin(e, 0));
    fill();
    ASSERT_HN_OK(hn_engine_micro(e, 0));
    for (int64_t i = 0; i < hn_params_count(params()); i++) {
        const hn_param *q = hn_params_at(params(), i);
        const auto g = ModelRun::gradient(q);
        std::vector<float> p(g.size()), moved(g.size());
        ASSERT_HN_OK(hn_param_get(q, p.data()));
        double norm = 0, difference = 0;
        for (const float v : g) norm += (double)v * (double)v;
        norm = std::sqrt(norm);
        ASSERT_GT(norm, 1e-4) << q->name;
        const double h = 0.01;
        for (const double s : {h, -h}) {
            for (size_t k = 0; k < p.size(); k++)
                moved[k] = (float)((double)p[k] + s * (double)g[k] / norm);
            ASSERT_HN_OK(hn_param_set(q, moved.data()));
            difference += (s > 0 ? 1 : -1) * evaluate().loss;
        }
        ASSERT_HN_OK(hn_param_set(q, p.data()));
        EXPECT_NEAR(difference / (2 * h), norm, 0.02 * norm + 2e-3) << q->name;
    }
}

/* Heads of 64, which have kernels of their own on a GPU; a task without padding beside one with. */
TEST_F(DriftJob, HalfPrecisionIsNearSinglePrecision)
{
    hn_drift_config c = small_drift();
    c.width = 128, c.intermediate = 192, c.time = 16;
    const Lines wide(4, 2, c);
    std::vector<float> all[2];
    for (const bool half : {false, true}) {
        auto o = options(wide);
        o.dtype = half ? HN_BF16 : HN_F32;
        open(o, 0.08f);
        ASSERT_HN_OK(hn_engine_begin(e, 0));
        fill();
        ASSERT_HN_OK(hn_engine_micro(e, 0));
        for (int64_t i = 0; i < hn_params_count(params()); i++) {
            const auto g = ModelRun::gradient(hn_params_at(params(), i));
            all[half].insert(all[half].end(), g.begin(), g.end());
        }
    }
    EXPECT_LT(rel_l2(all[1], all[0]), 0.05); /* 2^-9 a value, through two blocks and back */
}

/* Of a drift that stands still: (end - start)^2 / sigma^2 of a line, the mean over its numbers. */
TEST_F(DriftJob, LossIsTheMeanSquareOfTheSlope)
{
    open(options());
    for (const char *name : {"drift.output.weight", "drift.output.bias"}) {
        const hn_param *q = hn_params_find(params(), name);
        const std::vector<float> zero((size_t)hn_param_values(q));
        ASSERT_HN_OK(hn_param_set(q, zero.data()));
    }
    hn_curve_free(curve);
    ASSERT_HN_OK(hn_curve_make(HN_CURVE_LINEAR, kKnots, &curve));
    double want = 0;
    const size_t numbers = (size_t)(lines.c.tokens * lines.c.token_width);
    for (const size_t a : {6, 7, 6, 4, 5, 4}) { /* as fill() has them */
        std::vector<float> k(lines.knot[a].size());
        hn_to_f32(lines.knot[a].data(), HN_F16, 0, (int64_t)k.size(), k.data());
        for (size_t j = 0; j < numbers; j++) {
            const double way = (double)(k[2 * numbers + j] - k[j]) * 0.001 / 0.01;
            want += way * way / (double)numbers;
        }
    }
    const hn_eval_sums s = evaluate();
    EXPECT_EQ(s.rows, 6);
    EXPECT_NEAR(s.loss, want, 1e-5 * want);
}

TEST_F(DriftJob, RefusesWhatDoesNotFit)
{
    const auto refused = [&](auto change, hn_status code, const char *text) {
        hn_drift_job_options o = options();
        change(o);
        EXPECT_HN_FAIL(hn_drift_job_init(&job, &o), code, text);
    };
    using O = hn_drift_job_options;
    refused([](O &o) { o.rows.support = 7; }, HN_ERR_SHAPE, "7 support rows, the data have 6");
    refused([](O &o) { o.feature_rows = 3; }, HN_ERR_ARG, "of 3 rows of features");
    refused([](O &o) { o.noise = -1; }, HN_ERR_ARG, "noise -1");
    lines.sigma[1] = 0;
    refused([](O &) {}, HN_ERR_ARG, "sigma of token 1 is 0");
}

/* ---- data out of a file of trajectories ---- */

class DriftData : public ::testing::Test {
  protected:
    TempDir dir;
    hn_trajectory_head head = {};
    hn_trajectory_writer *w = nullptr;
    hn_trajectories t = {};
    hn_drift_data d = {};
    const int64_t first[2] = {0, 100}, images[2] = {100, 50};

    void SetUp() override
    {
        head.records = 8, head.knots = 2, head.numbers = 4, head.support = 3;
        std::memset(head.layout, 'a', HN_SHA256_HEX - 1);
        std::memset(head.backbone, 'b', HN_SHA256_HEX - 1);
        std::strcpy(head.domains, "one,two");
        ASSERT_HN_OK(hn_trajectory_writer_open((dir / "t").c_str(), &head, &w));
    }
    void TearDown() override
    {
        hn_drift_data_free(&d);
        hn_trajectories_close(&t);
    }
    void put(int64_t record, int32_t domain, int64_t episode, int32_t init,
             std::vector<int32_t> image, std::vector<int32_t> label)
    {
        hn_trajectory_facts f = {};
        f.domain = domain, f.episode = episode, f.init = init, f.unit = 0.5f;
        f.images = (int32_t)image.size();
        const std::vector<float> knot(8, (float)record);
        ASSERT_HN_OK(hn_trajectory_put(w, record, &f, image.data(), label.data(), knot.data()));
    }
    hn_status make()
    {
        EXPECT_HN_OK(hn_trajectory_writer_close(w));
        EXPECT_HN_OK(hn_trajectories_open((dir / "t").c_str(), &t));
        return hn_drift_data_make(&t, first, images, 2, &d);
    }
};

TEST_F(DriftData, RecordsOfAnEpisodeAreATask)
{
    put(0, 1, 7, 0, {3, 49}, {0, 1});
    put(1, 0, 9, 1, {5, 6, 99}, {1, 0, 1});
    put(3, 1, 7, 2, {3, 49}, {0, 1});
    put(5, 0, 9, 0, {5, 6, 99}, {1, 0, 1});
    put(6, 0, 2, 0, {1}, {0});
    ASSERT_HN_OK(make());
    EXPECT_EQ(d.n, 5);
    ASSERT_EQ(d.tasks, 3);
    const auto all = [](const auto *p, int64_t n) { return std::vector<int64_t>(p, p + n); };
    EXPECT_EQ(all(d.first, 4), (std::vector<int64_t>{0, 1, 3, 5}));
    EXPECT_EQ(all(d.images, 3), (std::vector<int64_t>{1, 3, 2}));
    EXPECT_EQ(all(d.row, 9), (std::vector<int64_t>{1, 0, 0, 5, 6, 99, 103, 149, 0}));
    const int64_t none = HN_LABEL_IGNORED;
    EXPECT_EQ(all(d.label, 9), (std::vector<int64_t>{0, none, none, 1, 0, 1, 0, 1, none}));
    for (const auto &[i, record] : {std::pair<int, float>{0, 6}, {1, 1}, {2, 5}, {3, 0}, {4, 3}}) {
        float knot = 0;
        hn_to_f32(d.knot[i], HN_F16, 0, 1, &knot);
        EXPECT_EQ(knot * d.unit[i], record) << i;
    }
}

TEST_F(DriftData, RefusesImagesThatAreNotThere)
{
    put(0, 1, 7, 0, {3, 50}, {0, 1});
    EXPECT_HN_FAIL(make(), HN_ERR_FORMAT, "domain 1, episode 7: image 50, the domain has 50");
}

TEST_F(DriftData, RefusesTwoSupportSetsOfOneEpisode)
{
    put(0, 0, 7, 0, {3, 4}, {0, 1});
    put(1, 0, 7, 1, {3, 4}, {1, 0});
    EXPECT_HN_FAIL(make(), HN_ERR_FORMAT, "start 1 has another support set than start 0");
}

TEST_F(DriftData, RefusesAFileWithoutRecords) { EXPECT_HN_FAIL(make(), HN_ERR_ARG, "no record"); }

/* ---- a run ---- */

class DriftTrain : public ::testing::Test {
  protected:
    Lines lines{12, 3};
    TempDir dir;
    hn_device *device = nullptr;
    std::vector<int64_t> train, held;

    void SetUp() override
    {
        omp_set_num_threads(1); /* a network of this size only waits for a second one */
        EXPECT_HN_OK(hn_device_open(test_device(), &device));
        for (int64_t i = 0; i < lines.tasks; i++) train.push_back(i);
        held = {0, 3, 5, 7, 8};
    }
    void TearDown() override { hn_device_close(device); }
    hn_drift_train_options options(const std::string &out, int64_t steps)
    {
        hn_drift_train_options o = {};
        o.device = device, o.executor = test_executor();
        o.facts = &lines.facts, o.data = &lines.d;
        o.features = lines.features.data(), o.feature_rows = lines.feature_rows();
        o.train = train.data(), o.n_train = (int64_t)train.size();
        o.held_out = held.data(), o.n_held_out = (int64_t)held.size();
        o.data_digest = "data";
        o.curve = HN_CURVE_LINEAR;
        o.tasks = 4, o.points = 6, o.noise = 0.05f;
        o.schedule = {
            .kind = HN_SCHEDULE_COSINE, .lr = 1e-2, .min_lr = 0, .warmup = 10, .steps = steps};
        o.weight_decay = 0.01, o.max_grad_norm = 1, o.average = 0.98;
        o.dtype = HN_F32, o.seed = 3;
        o.out = paths.emplace_back(out).c_str(), o.yaml = "a: 1\n", o.keep = 2;
        return o;
    }
    std::list<std::string> paths;
    std::string folder(const char *name) const { return dir / name; }
};

TEST_F(DriftTrain, TheSameBitsTwiceAndBehindAResume)
{
    hn_drift_train_report r = {};
    for (const char *name : {"one", "two"}) {
        const auto o = options(folder(name), 14);
        ASSERT_HN_OK(hn_drift_train(&o, &r));
        EXPECT_EQ(r.step, 14);
        EXPECT_EQ(r.points, 14 * 24);
    }
    auto o = options(folder("three"), 14);
    o.stop_after = 5;
    ASSERT_HN_OK(hn_drift_train(&o, &r));
    EXPECT_EQ(r.step, 5);
    EXPECT_HN_FAIL(hn_drift_train(&o, &r), HN_ERR_ARG, "holds a run already");
    o.stop_after = 0, o.resume = true;
    auto other = o;
    other.seed = 4;
    EXPECT_HN_FAIL(hn_drift_train(&other, &r), HN_ERR_ARG, "other settings");
    ASSERT_HN_OK(hn_drift_train(&o, &r));
    EXPECT_EQ(r.points, 9 * 24);
    const std::string file = "/drift.safetensors", want = read_file(folder("one") + file);
    EXPECT_TRUE(read_file(folder("two") + file) == want);
    EXPECT_TRUE(read_file(folder("three") + file) == want);
    EXPECT_TRUE(read_file(folder("three") + "/checkpoint-14/optimizer-0.safetensors") ==
                read_file(folder("one") + "/checkpoint-14/optimizer-0.safetensors"));
}

/* Lines of metrics.csv without the last column, which is a speed. */
std::vector<std::string> measured(const std::string &folder)
{
    std::vector<std::string> lines;
    std::stringstream text(read_file(folder + "/metrics.csv"));
    for (std::string line; std::getline(text, line);)
        lines.push_back(line.substr(0, line.rfind(',')));
    return lines;
}

/* Behind step 5, and behind the last one: the evaluation that follows is left, and made first by
 * the run that goes on. */
TEST_F(DriftTrain, ASignalIsHeardInAnEvaluation)
{
    hn_drift_train_report r = {};
    auto whole = options(folder("whole"), 14);
    whole.eval_every = 5, whole.log_every = 1;
    ASSERT_HN_OK(hn_drift_train(&whole, &r));
    EXPECT_TRUE(r.finished);
    const double loss = r.held_out;
    auto o = options(folder("o"), 14);
    o.eval_every = 5, o.log_every = 1, o.resume = true;
    for (const int step : {5, 14}) {
        const std::string at = std::to_string(step), word = at + "/14";
        o.progress = signalling(word.c_str());
        ASSERT_HN_OK(hn_drift_train(&o, &r));
        fclose(o.progress);
        EXPECT_EQ(r.step, step);
        EXPECT_FALSE(r.finished);
        EXPECT_FALSE(std::filesystem::exists(folder("o/drift.safetensors")));
        const std::string state = read_file(folder(("o/checkpoint-" + at + "/state.json").c_str()));
        EXPECT_NE(state.find("evaluate_first"), std::string::npos) << state;
        EXPECT_EQ(measured(folder("o")).back().back(), ',') << "a row of a loss that was measured";
        o.progress = nullptr;
    }
    ASSERT_HN_OK(hn_drift_train(&o, &r));
    EXPECT_TRUE(r.finished);
    EXPECT_EQ(r.held_out, loss);
    for (const char *file :
         {"drift.safetensors", "checkpoint-14/optimizer-0.safetensors", "checkpoint-14/state.json"})
        EXPECT_TRUE(read_file(folder("o") + "/" + file) == read_file(folder("whole") + "/" + file))
            << file;
    EXPECT_EQ(measured(folder("o")), measured(folder("whole")));
}

/* And what has been learnt brings z where the lines end. */
TEST_F(DriftTrain, LearnsStraightLinesAndFollowsThem)
{
    hn_drift_train_report r = {};
    auto o = options(folder("run"), 400);
    ASSERT_HN_OK(hn_drift_train(&o, &r));
    EXPECT_LT(r.held_out, 0.05 * r.first);

    const StFile file(folder("run") + "/drift.safetensors");
    hn_drift_facts facts = {};
    ASSERT_HN_OK(hn_drift_facts_read(file.f, &facts));
    EXPECT_STREQ(facts.layout, "layout");
    EXPECT_STREQ(facts.encoder, "encoder");
    hn_adaptor_options ao = {};
    ao.device = device, ao.executor = test_executor(), ao.drift = &facts.config;
    ao.integrator = HN_INTEGRATE_EULER, ao.steps = 4;
    ao.episodes = lines.tasks, ao.support = kSupport, ao.dtype = HN_F32;
    hn_adaptor *a = nullptr;
    ASSERT_HN_OK(hn_adaptor_new(&ao, &a));
    ASSERT_HN_OK(hn_adaptor_allocate(a));
    ASSERT_HN_OK(hn_drift_file_load(file.f, hn_adaptor_drift(a)));
    const size_t numbers = (size_t)(lines.c.tokens * lines.c.token_width);
    const std::vector<float> theta0(numbers, 1);
    ASSERT_HN_OK(hn_adaptor_set_theta(a, theta0.data(), facts.sigma));
    hn_adaptor_batch b = {};
    ASSERT_HN_OK(hn_adaptor_batch_of(a, &b));
    std::vector<float> want;
    for (int64_t e = 0; e < lines.tasks; e++) {
        hn_adaptor_task t = {};
        t.support_label = &lines.label[(size_t)(e * kSupport)], t.features = lines.of(e);
        t.n_support = lines.images[(size_t)e];
        ASSERT_HN_OK(hn_adaptor_put(a, &b, e, &t));
        want.insert(want.end(), lines.end[(size_t)e].begin(), lines.end[(size_t)e].end());
    }
    ASSERT_HN_OK(hn_adaptor_run(a));
    std::vector<float> theta(want.size());
    ASSERT_HN_OK(hn_adaptor_theta(a, theta.data()));
    for (float &v : theta) v -= 1;
    EXPECT_LT(rel_l2(theta, want), 0.25);
    hn_adaptor_free(a);
    hn_drift_facts_free(&facts);
}

TEST_F(DriftTrain, APlanNamesWhatItTakesAndLeavesTheFolderAlone)
{
    const auto o = options(folder("plan"), 10);
    char *text = nullptr;
    ASSERT_HN_OK(hn_drift_train_plan(&o, &text));
    EXPECT_NE(std::string(text).find("averages"), std::string::npos) << text;
    hn_free(text);
    EXPECT_FALSE(std::filesystem::exists(folder("plan")));
}

TEST_F(DriftTrain, RefusesFilesThatAreDamaged)
{
    hn_drift_train_report r = {};
    const auto o = options(folder("run"), 10);
    ASSERT_HN_OK(hn_drift_train(&o, &r));
    const std::string whole = read_file(folder("run") + "/drift.safetensors");
    const auto refused = [&](const std::string &from, const std::string &to, const char *text) {
        std::string damaged = whole;
        const size_t at = damaged.find(from);
        ASSERT_NE(at, std::string::npos);
        ASSERT_EQ(from.size(), to.size());
        damaged.replace(at, from.size(), to);
        hn_st_file *f = nullptr;
        hn_drift_facts facts = {};
        ASSERT_HN_OK(hn_st_parse(damaged.data(), damaged.size(), "a.safetensors", &f));
        hn_status st = hn_drift_facts_read(f, &facts);
        EXPECT_NE(st, HN_OK);
        EXPECT_NE(std::string(hn_last_error()).find(text), std::string::npos) << hn_last_error();
        hn_st_close(f);
    };
    refused("drift.config", "drift.konfig", "have no drift.config");
    refused("\\\"blocks\\\":2", "\\\"blocks\\\":0", "blocks");
    refused("\\\"blocks\\\":2", "\\\"blocks\\\":9", "tensor drift.modulation.weight is [");
    refused("\"drift.output.bias\"", "\"drift.outpot.bias\"", "drift.output.bias is missing");
    refused("\"sigma\"", "\"sigmo\"", "sigma is missing");
}

} // namespace
