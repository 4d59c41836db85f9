/* Episodes as replicas: tuning lowers their loss, together they do what they do alone, the key's
 * bias stays, and a step's gradient is PyTorch's. */
#include "few_shot_test.h"
#include "runtime/base/alloc.h"
#include "runtime/base/label.h"
#include "runtime/train/few_shot_head.h"
#include "runtime/train/few_shot_job.h"
#include "runtime/train/few_shot_tune.h"

namespace {

struct Result {
    hn_few_shot_result r;
    std::vector<int32_t> prediction;
    std::vector<float> knot;
};

hn_status keep(void *context, int64_t i, const hn_few_shot_result *r);

class FewShotTune : public ::testing::Test {
  protected:
    hn_model model = {};
    hn_few_shot_tune_options o = {};
    hn_device *device = nullptr;
    const bool on_cpu = test_executor() == HN_EXECUTOR_CPU;
    StripedImages images;
    Episodes episodes;

    FewShotTune() : images(few_shot_model(), 80, 1), episodes(images, 4)
    {
        omp_set_num_threads(1);
        EXPECT_HN_OK(hn_device_open(test_device(), &device));
        model.kind = HN_MODEL_CLASSIFIER;
        model.vision = few_shot_model();
        model.dtype = HN_F32;
        model.path = (char *)"small";
        o.device = device;
        o.executor = test_executor();
        o.model = &model;
        o.images = images.view();
        o.set = HN_TUNE_QV;
        o.at_once = 3;
        o.support = kWays * kShot, o.queries = kQueries, o.ways = kWays;
        o.steps = 6;
        o.augment = 0.9f;
        o.scale = 10;
        o.seed = 7;
    }
    ~FewShotTune() override { hn_device_close(device); }

  public:
    std::vector<Result> results;
    int64_t numbers = 0; /* of knots */

  protected:
    hn_few_shot_task task(size_t episode, double lr = 0.02) const
    {
        return {.episode = &episodes.all[episode], .lr = lr, .seed = 100 + episode};
    }
    std::vector<Result> run(hn_few_shot_tuner *t, const std::vector<hn_few_shot_task> &tasks)
    {
        results.clear();
        const hn_theta *theta = hn_few_shot_tuner_theta(t);
        numbers = theta ? hn_few_shot_tuner_knots(t) * theta->count : 0;
        EXPECT_HN_OK(hn_few_shot_tune(t, tasks.data(), (int64_t)tasks.size(), keep, this));
        return results;
    }
    std::vector<Result> run(const std::vector<hn_few_shot_task> &tasks)
    {
        hn_few_shot_tuner *t = nullptr;
        EXPECT_HN_OK(hn_few_shot_tuner_new(&o, &t));
        EXPECT_HN_OK(hn_few_shot_tuner_open(t));
        const auto r = run(t, tasks);
        hn_few_shot_tuner_free(t);
        return r;
    }
};

hn_status keep(void *context, int64_t i, const hn_few_shot_result *r)
{
    auto *f = (FewShotTune *)context;
    EXPECT_EQ(i, (int64_t)f->results.size());
    Result x = {*r, {}, {}};
    if (r->prediction) x.prediction.assign(r->prediction, r->prediction + kQueries);
    if (r->knot) x.knot.assign(r->knot, r->knot + f->numbers);
    f->results.push_back(x);
    return HN_OK;
}

void expect_equal(const Result &a, const Result &b)
{
    EXPECT_EQ(a.r.loss_first, b.r.loss_first);
    EXPECT_EQ(a.r.loss_last, b.r.loss_last);
    EXPECT_EQ(a.r.hits, b.r.hits);
    EXPECT_EQ(a.prediction, b.prediction);
    EXPECT_TRUE(same_bits(a.knot, b.knot));
}

struct Way {
    hn_tune_set set;
    double lr;
};

TEST_F(FewShotTune, EverySetLowersTheSupportLoss)
{
    o.steps = 12;
    o.augment = 0;
    o.scale = 4;
    for (const Way w :
         {Way{HN_TUNE_QV, 0.05}, Way{HN_TUNE_BIASES, 0.02}, Way{HN_TUNE_LN, 0.02},
          Way{HN_TUNE_FULL, 0.005}, Way{HN_TUNE_LORA, 0.02}, Way{HN_TUNE_HEAD, 0.1}}) {
        o.set = w.set;
        o.rank = w.set == HN_TUNE_LORA ? 2 : 0;
        for (const auto &x : run({task(0, w.lr), task(1, w.lr), task(2, w.lr), task(3, w.lr)})) {
            EXPECT_LT(x.r.loss_last, x.r.loss_first) << w.set;
            EXPECT_EQ(x.r.skipped, 0);
            EXPECT_EQ(x.r.queries, kQueries);
        }
    }
}

/* In another place of the group rows are at another place of products: up to rounding. */
TEST_F(FewShotTune, TheSameBitsWhateverRunsBesides)
{
    for (const hn_dtype dtype : {HN_F32, HN_BF16}) {
        model.dtype = dtype;
        o.knot_every = 3;
        hn_few_shot_tuner *t = nullptr;
        ASSERT_HN_OK(hn_few_shot_tuner_new(&o, &t));
        ASSERT_HN_OK(hn_few_shot_tuner_open(t));
        const auto a = run(t, {task(0), task(1), task(2), task(3, 0), task(3)});
        const auto b = run(t, {task(3), task(1), task(0)});
        expect_equal(a[4], b[0]);
        expect_equal(a[1], b[1]);
        EXPECT_NEAR(a[0].r.loss_last, b[2].r.loss_last, dtype == HN_F32 ? 1e-4 : 0.1);
        EXPECT_FALSE(same_bits(a[0].knot, a[1].knot));
        EXPECT_TRUE(std::isnan(a[3].r.loss_first) && a[3].r.knot == nullptr);
        hn_few_shot_tuner_free(t);
        expect_equal(run({task(2), task(1)})[1], a[1]); /* another tuner */
    }
}

/* A third of a product may add in another order than all of it; Adam makes steps of the size of lr
 * where a gradient is next to nothing. */
TEST_F(FewShotTune, TogetherAsAlone)
{
    for (const hn_tune_set set : {HN_TUNE_QV, HN_TUNE_BIASES, HN_TUNE_FULL, HN_TUNE_LN}) {
        o.set = set;
        o.knot_every = set == HN_TUNE_QV || set == HN_TUNE_BIASES ? 2 : 0;
        o.at_once = 3;
        const auto all = run({task(0), task(1), task(2)});
        o.at_once = 1;
        for (size_t g = 0; g < 3; g++) {
            const auto one = run({task(g)});
            EXPECT_NEAR(one[0].r.loss_first, all[g].r.loss_first, 1e-5) << set;
            EXPECT_NEAR(one[0].r.loss_last, all[g].r.loss_last, on_cpu ? 2e-4 : 2e-3) << set;
            EXPECT_EQ(one[0].prediction, all[g].prediction) << set;
            if (o.knot_every) {
                EXPECT_LT(rel_l2(all[g].knot, one[0].knot), on_cpu ? 1e-3 : 2e-2) << set;
            }
        }
    }
}

TEST_F(FewShotTune, KnotsBeginAtTheModelAndLeadToTheValuesThatAnswer)
{
    o.knot_every = 2;
    o.set = HN_TUNE_BIASES;
    const auto tuned = run({task(0), task(1)});
    hn_few_shot_tuner *t = nullptr;
    o.steps = o.knot_every = 0;
    ASSERT_HN_OK(hn_few_shot_tuner_new(&o, &t));
    ASSERT_HN_OK(hn_few_shot_tuner_open(t));
    const int64_t d = hn_few_shot_tuner_theta(t)->count;
    EXPECT_EQ(d, 2 * (6 * 16 + 32)); /* norm1, q, v, proj, norm2, fc2; fc1 */
    for (size_t g = 0; g < 2; g++) {
        const auto &k = tuned[g].knot;
        EXPECT_EQ(k.size(), (size_t)(4 * d));
        for (int64_t i = 0; i < d; i++) EXPECT_EQ(k[(size_t)i], 0);
        std::vector<float> theta(k.end() - d, k.end());
        for (size_t i = 0; i < theta.size(); i++) theta[i] += hn_few_shot_tuner_theta0(t)[i];
        hn_few_shot_task x = task(g);
        x.theta = theta.data();
        const auto given = run(t, {x});
        EXPECT_EQ(given[0].prediction, tuned[g].prediction);
        EXPECT_EQ(given[0].r.hits, tuned[g].r.hits);
    }
    hn_few_shot_tuner_free(t);
}

/* Direct transfer is none, or no steps of anything. */
TEST_F(FewShotTune, WithoutStepsAllAreDirectTransfer)
{
    o.set = HN_TUNE_NONE;
    o.steps = 0;
    const auto want = run({task(0, 0), task(1, 0), task(2, 0)});
    for (const hn_tune_set set : {HN_TUNE_QV, HN_TUNE_FULL, HN_TUNE_HEAD}) {
        o.set = set;
        o.steps = 4;
        const auto got = run({task(0, 0), task(1, 0), task(2, 0)});
        for (size_t g = 0; g < 3; g++) EXPECT_EQ(got[g].prediction, want[g].prediction) << set;
    }
}

int questions, answer_at; /* a stop has no argument */

int ask(void) { return ++questions >= answer_at; }

/* In front of any operation of a step, of the evaluation before or behind it, of the queries. */
TEST_F(FewShotTune, AStopEndsAGroupOnTheCpuAndNobodyHearsOfIt)
{
    if (hn_device_kind_of(device) != HN_DEVICE_CPU) GTEST_SKIP() << "groups are finished";
    const std::vector<hn_few_shot_task> tasks = {task(0), task(1), task(2)};
    const auto want = run(tasks);
    o.stop = ask;
    questions = 0, answer_at = 1 << 30;
    const auto asked = run(tasks); /* asking changes nothing */
    for (size_t g = 0; g < 3; g++) EXPECT_EQ(asked[g].prediction, want[g].prediction);
    const int all = questions;
    ASSERT_GT(all, 6 * 10);
    for (const int at : {1, all / 3, all / 2, all}) {
        hn_few_shot_tuner *t = nullptr;
        ASSERT_HN_OK(hn_few_shot_tuner_new(&o, &t));
        ASSERT_HN_OK(hn_few_shot_tuner_open(t));
        questions = 0, answer_at = at;
        results.clear();
        EXPECT_HN_FAIL(hn_few_shot_tune(t, tasks.data(), 3, keep, this), HN_ERR_STOPPED,
                       "asked to stop");
        EXPECT_EQ(questions, at);
        EXPECT_TRUE(results.empty());
        const double lr = 0.02;
        double accuracy;
        int64_t best = -1;
        EXPECT_HN_FAIL(
            hn_few_shot_choose_lr(t, episodes.all.data(), 3, &lr, 1, 5, &accuracy, &best),
            HN_ERR_STOPPED, "asked to stop");
        EXPECT_EQ(best, -1);
        hn_few_shot_tuner_free(t);
    }
}

TEST_F(FewShotTune, TheLearningRateIsThatOfTheBestAccuracy)
{
    hn_few_shot_tuner *t = nullptr;
    ASSERT_HN_OK(hn_few_shot_tuner_new(&o, &t));
    ASSERT_HN_OK(hn_few_shot_tuner_open(t));
    const double lr[] = {0.02, 0, 0.1};
    double accuracy[3];
    int64_t best = -1;
    ASSERT_HN_OK(hn_few_shot_choose_lr(t, episodes.all.data(), 4, lr, 3, 5, accuracy, &best));
    for (size_t k = 0; k < 3; k++) {
        std::vector<hn_few_shot_task> tasks;
        for (size_t e = 0; e < 4; e++) {
            tasks.push_back(task(e, lr[k]));
            tasks.back().seed = 5 + e;
        }
        double mean = 0;
        for (const auto &x : run(t, tasks)) mean += (double)x.r.hits / kQueries / 4;
        EXPECT_NEAR(accuracy[k], mean, 1e-12);
        EXPECT_LE(accuracy[k], accuracy[best]);
        EXPECT_TRUE(accuracy[k] < accuracy[best] || lr[k] >= lr[best]);
    }
    hn_few_shot_tuner_free(t);
}

TEST_F(FewShotTune, AsManyEpisodesAsFit)
{
    const auto bytes = [&](int64_t at_once) {
        hn_few_shot_tuner *t = nullptr;
        hn_plan_sizes s = {};
        o.at_once = at_once, o.queries = 0;
        EXPECT_HN_OK(hn_few_shot_tuner_new(&o, &t));
        hn_plan_sizes_of(hn_engine_program(hn_few_shot_tuner_engine(t)), &s);
        hn_few_shot_tuner_free(t);
        return s.total_bytes;
    };
    o.set = HN_TUNE_FULL;
    const size_t one = bytes(1), two = bytes(2), four = bytes(4);
    hn_few_shot_tuner *t = nullptr;
    o.at_once = 8, o.shrink = true, o.memory = (two + four) / 2;
    ASSERT_HN_OK(hn_few_shot_tuner_new(&o, &t));
    EXPECT_EQ(hn_few_shot_tuner_at_once(t), 2);
    char *text = hn_few_shot_tuner_plan_text(t);
    EXPECT_NE(std::string(text).find("2 episodes at once\ntuning\n"), std::string::npos) << text;
    hn_free(text);
    hn_few_shot_tuner_free(t);
    o.memory = one / 2;
    EXPECT_HN_FAIL(hn_few_shot_tuner_new(&o, &t), HN_ERR_MEMORY, "not even 1 at once fit");
}

TEST_F(FewShotTune, RefusesWhatDoesNotFit)
{
    hn_few_shot_tuner *t = nullptr;
    const auto refused = [&](auto change, const char *text) {
        const hn_few_shot_tune_options before = o;
        change();
        EXPECT_HN_FAIL(hn_few_shot_tuner_new(&o, &t), HN_ERR_ARG, text);
        o = before;
    };
    refused([&] { o.rank = 2; }, "lora alone has a rank");
    refused([&] { o.set = HN_TUNE_NONE; }, "6 steps, but nothing is trained");
    refused([&] { o.knot_every = 4; }, "knots each 4 steps, of 6");
    refused([&] { o.set = HN_TUNE_LN, o.knot_every = 2; }, "qv and biases alone have them");
    refused([&] { o.steps = o.queries = 0; }, "no query rows");
    ASSERT_HN_OK(hn_few_shot_tuner_new(&o, &t));
    ASSERT_HN_OK(hn_few_shot_tuner_open(t));
    hn_episode large = episodes.all[0];
    large.n_support = kWays * kShot + 1;
    hn_few_shot_task x = {.episode = &large, .lr = 0.1};
    EXPECT_HN_FAIL(hn_few_shot_tune(t, &x, 1, keep, this), HN_ERR_ARG, "10 support");
    x.episode = &episodes.all[0];
    x.lr = -1;
    EXPECT_HN_FAIL(hn_few_shot_tune(t, &x, 1, keep, this), HN_ERR_ARG, "a learning rate of -1");
    hn_few_shot_tuner_free(t);
}

/* ---- one engine ---- */

/* A tuning job with its engine. */
class Tuning {
  public:
    hn_few_shot_job job = {};
    hn_engine *e = nullptr;

    Tuning(hn_device *device, const hn_vision_config *c, const hn_images *images, hn_adapt adapt,
           int64_t support, int64_t ways, float scale, float offset, int64_t replicas = 1)
    {
        hn_few_shot_job_options jo = {};
        jo.config = c, jo.images = images, jo.replicas = replicas;
        jo.support = support, jo.ways = ways;
        jo.scale = scale, jo.offset = offset;
        hn_engine_options o = {};
        adapt_ = adapt;
        o.device = device, o.executor = test_executor(), o.job = &job.job, o.adapt = &adapt_;
        o.train = o.eval = true, o.replicas = replicas;
        o.optimizer.beta1 = 0.9, o.optimizer.beta2 = 0.999, o.optimizer.eps = 1e-8;
        EXPECT_HN_OK(hn_few_shot_job_init(&job, &jo));
        EXPECT_HN_OK(hn_engine_new(&o, &e));
        EXPECT_HN_OK(hn_engine_allocate(e));
    }
    ~Tuning() { hn_engine_free(e); }
    Tuning(const Tuning &) = delete;
    hn_params *params() const { return hn_engine_params(e); }
    void fill(const std::vector<int32_t> &image, const std::vector<int32_t> &label) const
    {
        hn_engine_input in;
        ASSERT_HN_OK(hn_engine_batch(e, &in));
        const hn_few_shot_batch b = hn_few_shot_batch_of(&in);
        std::copy(image.begin(), image.end(), b.index);
        std::copy(label.begin(), label.end(), b.label);
    }
    std::vector<float> read(const std::string &name, bool gradient) const
    {
        const hn_param *q = hn_params_find(params(), name.c_str());
        EXPECT_NE(q, nullptr) << name;
        std::vector<float> v((size_t)hn_param_values(q));
        EXPECT_HN_OK(gradient ? hn_param_read(q, q->grad, v.data()) : hn_param_get(q, v.data()));
        return v;
    }

  private:
    hn_adapt adapt_;
};

double norm_of(const std::vector<float> &v)
{
    double sum = 0;
    for (const float x : v) sum += (double)x * (double)x;
    return std::sqrt(sum);
}

/* Where only some parameters have replicas, and where all have. */
TEST_F(FewShotTune, GradientsOfReplicasAreThoseOfEnginesOfTheirOwn)
{
    hn_theta theta = {};
    ASSERT_HN_OK(hn_theta_make(&model.vision, HN_THETA_BIASES, &theta));
    const auto norms = [](const void *, const char *name) {
        return strstr(name, "norm") ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
    };
    const hn_adapt hooks[] = {
        hn_theta_trained(&theta), {.parameter = norms}, {.parameter = every_parameter}};
    const int64_t rows = o.support;
    for (const hn_adapt &hook : hooks) {
        Tuning all(device, &model.vision, images.view(), hook, rows, kWays, 10, 0, 3);
        ASSERT_HN_OK(hn_model_load(&model, all.params(), 7));
        std::vector<int32_t> image, label;
        for (size_t g = 0; g < 3; g++) {
            const auto &ep = episodes.all[g];
            image.insert(image.end(), ep.support, ep.support + ep.n_support);
            label.insert(label.end(), ep.support_label, ep.support_label + ep.n_support);
            image.resize((g + 1) * (size_t)rows, -1);
            label.resize((g + 1) * (size_t)rows, HN_LABEL_IGNORED);
        }
        ASSERT_HN_OK(hn_engine_begin(all.e, 0));
        all.fill(image, label);
        ASSERT_HN_OK(hn_engine_micro(all.e, 0));
        for (int64_t g = 0; g < 3; g++) {
            Tuning one(device, &model.vision, images.view(), hook, rows, kWays, 10, 0);
            ASSERT_HN_OK(hn_model_load(&model, one.params(), 7));
            ASSERT_HN_OK(hn_engine_begin(one.e, 0));
            one.fill({image.begin() + g * rows, image.begin() + (g + 1) * rows},
                     {label.begin() + g * rows, label.begin() + (g + 1) * rows});
            ASSERT_HN_OK(hn_engine_micro(one.e, 0));
            std::vector<float> got, want;
            for (int64_t i = 0; i < hn_params_count(one.params()); i++) {
                const hn_param *a = hn_params_at(all.params(), i),
                               *b = hn_params_at(one.params(), i);
                if (!a->trained) continue;
                const hn_tensor replica = hn_tensor_replica(a->grad, g);
                std::vector<float> x((size_t)hn_param_values(a)), y(x.size());
                ASSERT_HN_OK(hn_param_read(a, &replica, x.data()));
                ASSERT_HN_OK(hn_param_read(b, b->grad, y.data()));
                if (norm_of(y) > 1e-3) {
                    EXPECT_LT(rel_l2(x, y), 1e-4) << a->name;
                }
                got.insert(got.end(), x.begin(), x.end());
                want.insert(want.end(), y.begin(), y.end());
            }
            EXPECT_GT(norm_of(want), 0.1);
            EXPECT_LT(rel_l2(got, want), 1e-5) << g;
        }
    }
    hn_theta_free(&theta);
}

std::vector<float> part(const std::vector<float> &qkv, size_t k)
{
    const size_t d = qkv.size() / 3;
    return {qkv.begin() + (long)(k * d), qkv.begin() + (long)((k + 1) * d)};
}

TEST_F(FewShotTune, TheKeysBiasHasRoundOffForAGradientAndStays)
{
    hn_theta theta = {};
    ASSERT_HN_OK(hn_theta_make(&model.vision, HN_THETA_QV, &theta));
    const auto &ep = episodes.all[0];
    const std::vector<int32_t> image(ep.support, ep.support + ep.n_support),
        label(ep.support_label, ep.support_label + ep.n_support);
    const std::string name = "blocks.0.attn.qkv.bias";
    std::vector<float> begin(48);
    for (size_t i = 0; i < begin.size(); i++) begin[i] = 0.1f * std::sin((float)i);
    for (const bool stays : {false, true}) {
        hn_adapt adapt = hn_theta_trained(&theta);
        if (!stays) adapt.still = nullptr;
        Tuning x(device, &model.vision, images.view(), adapt, ep.n_support, kWays, 10, 0);
        ASSERT_HN_OK(hn_model_load(&model, x.params(), 7));
        ASSERT_HN_OK(hn_param_set(hn_params_find(x.params(), name.c_str()), begin.data()));
        ASSERT_HN_OK(hn_engine_begin(x.e, 0));
        x.fill(image, label);
        ASSERT_HN_OK(hn_engine_micro(x.e, 0));
        const auto grad = x.read(name, true);
        EXPECT_GT(norm_of(part(grad, 0)), 1e-4);
        EXPECT_GT(norm_of(part(grad, 2)), 1e-4);
        if (stays)
            EXPECT_EQ(norm_of(part(grad, 1)), 0);
        else
            EXPECT_LT(norm_of(part(grad, 1)), 1e-5 * norm_of(grad));
        hn_step_report r;
        ASSERT_HN_OK(hn_engine_update(x.e, 0.01, &r));
        const auto now = x.read(name, false);
        EXPECT_EQ(same_bits(part(now, 1), part(begin, 1)), stays); /* Adam makes steps of nothing */
        EXPECT_FALSE(same_bits(part(now, 0), part(begin, 0)));
        EXPECT_FALSE(same_bits(part(now, 2), part(begin, 2)));
    }
    hn_theta_free(&theta);
}

/* b_v + delta is the projection's bias + W_o delta: rows of attention sum to 1. */
TEST_F(FewShotTune, AValueBiasIsAShiftOfTheProjection)
{
    hn_theta theta = {};
    ASSERT_HN_OK(hn_theta_make(&model.vision, HN_THETA_BIASES, &theta));
    const auto &ep = episodes.all[0];
    const std::vector<int32_t> image(ep.support, ep.support + ep.n_support),
        label(ep.support_label, ep.support_label + ep.n_support);
    double loss[3];
    for (int way = 0; way < 3; way++) {
        Tuning x(device, &model.vision, images.view(), hn_theta_trained(&theta), ep.n_support,
                 kWays, 10, 0);
        ASSERT_HN_OK(hn_model_load(&model, x.params(), 7));
        auto qkv = x.read("blocks.0.attn.qkv.bias", false);
        auto proj = x.read("blocks.0.attn.proj.bias", false);
        const auto w = x.read("blocks.0.attn.proj.weight", false);
        for (size_t i = 0; i < 16; i++) {
            const float delta = 0.3f * std::cos((float)i);
            if (way == 1) qkv[32 + i] += delta;
            for (size_t j = 0; j < 16 && way == 2; j++) proj[j] += w[j * 16 + i] * delta;
        }
        ASSERT_HN_OK(
            hn_param_set(hn_params_find(x.params(), "blocks.0.attn.qkv.bias"), qkv.data()));
        ASSERT_HN_OK(
            hn_param_set(hn_params_find(x.params(), "blocks.0.attn.proj.bias"), proj.data()));
        hn_eval_sums sums;
        ASSERT_HN_OK(hn_engine_eval_begin(x.e));
        x.fill(image, label);
        ASSERT_HN_OK(hn_engine_eval_batch(x.e));
        ASSERT_HN_OK(hn_engine_eval_sums(x.e, &sums));
        loss[way] = sums.loss;
    }
    EXPECT_NEAR(loss[1] / loss[2], 1, 1e-5);
    EXPECT_GT(std::fabs(loss[1] / loss[0] - 1), 1e-3);
    hn_theta_free(&theta);
}

/* tests/golden/make_few_shot_golden.py */
TEST_F(FewShotTune, AStepsGradientIsPyTorchs)
{
    const StFile f("tests/fixtures/golden/few_shot.safetensors");
    const auto pixels = f.values<uint8_t>("pixels", HN_U8);
    const auto labels = f.ints("labels");
    const auto n = (int64_t)labels.size();
    hn_images v = {};
    v.count = n, v.h = v.w = 8, v.c = 3, v.pixel = pixels.data(), v.label = labels.data();
    v.n_classes = kWays;
    hn_theta theta = {};
    ASSERT_HN_OK(hn_theta_make(&model.vision, HN_THETA_BIASES, &theta));
    Tuning x(device, &model.vision, &v, hn_theta_trained(&theta), n, kWays, 7, 0.25f);
    for (int64_t i = 0; i < hn_params_count(x.params()); i++) {
        const hn_param *q = hn_params_at(x.params(), i);
        ASSERT_HN_OK(hn_param_set(q, f.floats(q->name).data()));
    }
    std::vector<int32_t> image((size_t)n);
    for (size_t i = 0; i < image.size(); i++) image[i] = (int32_t)i;
    ASSERT_HN_OK(hn_engine_begin(x.e, 0));
    x.fill(image, labels);
    ASSERT_HN_OK(hn_engine_micro(x.e, 0));
    int64_t compared = 0;
    for (int64_t i = 0; i < hn_params_count(x.params()); i++) {
        const hn_param *q = hn_params_at(x.params(), i);
        if (!q->trained) continue;
        auto got = x.read(q->name, true), want = f.floats(std::string("grad.") + q->name);
        if (want.size() == 48) /* of the key PyTorch has round-off, we have 0 */
            for (size_t k = 16; k < 32; k++) {
                EXPECT_EQ(got[k], 0);
                want[k] = 0;
            }
        EXPECT_LT(rel_l2(got, want), 1e-5) << q->name;
        compared++;
    }
    EXPECT_EQ(compared, 2 * 6);
    hn_step_report r;
    ASSERT_HN_OK(hn_engine_update(x.e, 0.01, &r));
    EXPECT_NEAR(r.loss, f.floats("loss")[0], 1e-5 * r.loss);
    EXPECT_EQ(r.tokens, n);
    hn_theta_free(&theta);
}

/* ---- theta, head ---- */

TEST(FewShotTheta, TokensOfBothNamings)
{
    hn_vision_config c = small_model("vit-tiny-cifar", 4);
    c.vit.intermediate = 32;
    hn_theta t = {}, other = {};
    ASSERT_HN_OK(hn_theta_make(&c, HN_THETA_QV, &t));
    EXPECT_EQ(t.tokens, 4);
    EXPECT_EQ(t.count, 64);
    EXPECT_STREQ(t.part[3].name, "blocks.1.attn.qkv.bias");
    EXPECT_EQ(t.part[3].first, 32);
    c.names = HN_NAMES_HUGGING_FACE;
    ASSERT_HN_OK(hn_theta_make(&c, HN_THETA_QV, &other));
    EXPECT_STREQ(other.part[3].name, "vit.encoder.layer.1.attention.attention.value.bias");
    EXPECT_EQ(other.part[3].first, 0);
    EXPECT_STRNE(t.digest, other.digest);
    hn_theta_free(&other);
    ASSERT_HN_OK(hn_theta_make(&c, HN_THETA_BIASES, &other));
    EXPECT_EQ(other.tokens, 2 * 8);
    EXPECT_STREQ(other.part[5].name, "vit.encoder.layer.0.intermediate.dense.bias");
    EXPECT_EQ(other.part[5].n, 32);
    hn_theta_free(&other);
    std::vector<float> a(64, 1), b(64, 1), sigma = {1, 2, 3, 4};
    hn_theta_add_noise(&t, 5, 0.3f, sigma.data(), a.data());
    hn_theta_add_noise(&t, 5, 0.3f, nullptr, b.data());
    for (size_t i = 0; i < 64; i++) EXPECT_NEAR(a[i] - 1, sigma[i / 16] * (b[i] - 1), 1e-5) << i;
    EXPECT_NE(a[0], a[1]);
    hn_theta_free(&t);
    c.vit.intermediate = 24;
    EXPECT_HN_FAIL(hn_theta_make(&c, HN_THETA_BIASES, &t), HN_ERR_UNSUPPORTED,
                   "24 numbers, no multiple of 16");
    const hn_vision_config cnn = small_model("mnist-cnn");
    EXPECT_HN_FAIL(hn_theta_make(&cnn, HN_THETA_QV, &t), HN_ERR_ARG, "no vision transformer");
}

/* Two classes on two axes: the loss at the prototypes by hand, and lower behind the steps. */
TEST(FewShotHead, BeginsAtThePrototypesAndLearns)
{
    const std::vector<float> x = {3, 0, 0, 5, 4, 3, /* queries */ 1, 0.1f, 0.2f, 2};
    const std::vector<int32_t> y = {0, 1, HN_LABEL_IGNORED};
    int32_t prediction[2];
    hn_few_shot_head h = {};
    h.feature = x.data(), h.label = y.data(), h.prediction = prediction;
    h.support = 3, h.queries = 2, h.width = 2, h.ways = 4, h.scale = 2, h.offset = 9;
    ASSERT_HN_OK(hn_few_shot_head_tune(&h));
    EXPECT_NEAR(h.loss_first, std::log(1 + std::exp(-2.0)), 1e-6);
    EXPECT_EQ(h.loss_first, h.loss_last);
    EXPECT_EQ(prediction[0], 0);
    EXPECT_EQ(prediction[1], 1);
    h.steps = 10, h.lr = 0.1;
    ASSERT_HN_OK(hn_few_shot_head_tune(&h));
    EXPECT_LT(h.loss_last, h.loss_first - 0.05);
    std::vector<float> nan = x;
    nan[0] = nan[8] = NAN; /* the first class, and the last query */
    h.feature = nan.data(), h.steps = 0;
    ASSERT_HN_OK(hn_few_shot_head_tune(&h));
    EXPECT_EQ(prediction[0], 1);
    EXPECT_EQ(prediction[1], -1);
    const std::vector<int32_t> wrong = {0, 4, 1};
    h.label = wrong.data();
    EXPECT_HN_FAIL(hn_few_shot_head_tune(&h), HN_ERR_ARG, "support row 1: label 4");
}

} // namespace
