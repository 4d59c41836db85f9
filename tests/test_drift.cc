/* Drift networks: configurations, forward and backward beside PyTorch, and what the network does
 * not see: the order of images, the padding behind them, other tasks of the batch. */
#include <cmath>

#include "kernels/hyperflow/support_context.h"
#include "model_test.h"
#include "runtime/model/drift.h"

namespace {

/* As in tests/golden/make_drift_golden.py. */
hn_drift_config small()
{
    return {.tokens = 5,
            .token_width = 4,
            .features = 3,
            .width = 16,
            .blocks = 2,
            .heads = 2,
            .intermediate = 24,
            .queries = 4,
            .time = 8,
            .norm_eps = 1e-6};
}

TEST(DriftConfig, ReadsWhatItHasWritten)
{
    const hn_drift_config c = hn_drift_config_default(24, 192, 512);
    json_t *j = hn_drift_config_json(&c);
    ASSERT_NE(j, nullptr);
    hn_drift_config back = {};
    ASSERT_HN_OK(hn_drift_config_read(j, "here", &back));
    EXPECT_EQ(std::memcmp(&back, &c, sizeof c), 0);
    json_decref(j);
}

TEST(DriftConfig, RefusesByName)
{
    const hn_drift_config c = small();
    const auto with = [&](auto change, hn_status code, const char *text) {
        json_t *j = hn_drift_config_json(&c);
        hn_drift_config out = {};
        change(j);
        EXPECT_HN_FAIL(hn_drift_config_read(j, "a.json", &out), code, text);
        json_decref(j);
    };
    const auto set = [](const char *key, int64_t v) {
        return [=](json_t *j) { json_object_set_new(j, key, json_integer(v)); };
    };
    with(set("depth", 3), HN_ERR_FORMAT, "a.json: there is no key \"depth\"");
    with(set("version", 2), HN_ERR_UNSUPPORTED, "version 2");
    with(set("heads", 3), HN_ERR_SHAPE, "width 16 is no multiple of 8 and of heads 3");
    with(set("time", 7), HN_ERR_SHAPE, "time 7 is odd");
    with(set("blocks", 0), HN_ERR_FORMAT, "blocks");
    with([](json_t *j) { json_object_del(j, "queries"); }, HN_ERR_FORMAT, "queries");
    with([](json_t *j) { json_object_set_new(j, "norm_eps", json_real(0)); }, HN_ERR_SHAPE,
         "norm_eps 0");
    with([](json_t *j) { json_object_set_new(j, "model_type", json_string("vit")); },
         HN_ERR_UNSUPPORTED, "model_type \"vit\"");
}

TEST(DriftConfig, HasTheParametersOfTheSpecification)
{
    const auto count = [](hn_drift_config c) {
        ModelRun m(true);
        EXPECT_HN_OK(hn_drift_declare(&c, m.params));
        return hn_params_total(m.params);
    };
    hn_drift_config c1 = hn_drift_config_default(24, 384, 512); /* C1: about 15 M, 0.5 GFLOP */
    c1.width = 384, c1.heads = 6, c1.intermediate = 1536;
    EXPECT_NEAR((double)count(c1), 15e6, 1.2e6);
    const hn_drift_rows one = {.tasks = 1, .support = 25, .points = 1};
    EXPECT_NEAR(hn_drift_slope_flops(&c1, &one), 0.5e9, 0.1e9);
}

/* What support_context.h says, in double. */
std::vector<float> contexts(const hn_drift_config &c, const std::vector<float> &f,
                            const std::vector<int32_t> &label, int64_t tasks)
{
    const int64_t n = (int64_t)label.size() / tasks, d = c.features;
    const int64_t cols = hn_support_context_cols(d);
    std::vector<float> u((size_t)(tasks * n * cols));
    for (int64_t r = 0; r < tasks * n; r++) {
        if (label[(size_t)r] == HN_LABEL_IGNORED) continue;
        std::vector<double> sum((size_t)d);
        int64_t same = 0;
        for (int64_t s = r / n * n; s < r / n * n + n; s++) {
            if (label[(size_t)s] != label[(size_t)r]) continue;
            for (int64_t k = 0; k < d; k++) sum[(size_t)k] += (double)f[(size_t)(s * d + k)];
            same++;
        }
        for (int64_t k = 0; k < d; k++) {
            u[(size_t)(r * cols + k)] = f[(size_t)(r * d + k)];
            u[(size_t)(r * cols + d + k)] = (float)(sum[(size_t)k] / (double)same);
        }
        u[(size_t)(r * cols + 2 * d)] = (float)std::log((double)same);
    }
    return u;
}

/* A network on the device of HONE_TEST_DEVICE. */
class Drift : public ModelRun {
  public:
    const hn_drift_config c;
    const hn_drift_rows rows;
    hn_drift_tables tables = {};
    hn_tensor *context, *offsets, *sinusoids, *z, *dslope = nullptr, *slope = nullptr;
    hn_drift_task task = {};
    hn_graph *g = nullptr;

    Drift(const hn_drift_config &config, hn_drift_rows r, bool training, bool one_time = false)
        : ModelRun(training), c(config), rows(r)
    {
        EXPECT_HN_OK(hn_drift_declare(&c, params));
        create();
        EXPECT_HN_OK(hn_drift_tables_new(&c, program, HN_F32, &rows, &tables));
        const int64_t points = r.tasks * r.points;
        const hn_type type = hn_type_2d(HN_F32, points * c.tokens, c.token_width);
        context = input("context", hn_type_2d(HN_F32, r.tasks * r.support,
                                              hn_support_context_cols(c.features)));
        offsets = input("offsets", hn_type_1d(HN_I32, 2 * r.tasks + 1));
        sinusoids = input("times", hn_type_2d(HN_F32, one_time ? 1 : points, c.time));
        z = input("z", type);
        g = graph("slope", training);
        const hn_drift_build b = {
            .config = &c, .params = params, .tables = &tables, .attention = HN_ATTENTION_OWN};
        hn_tensor *time = nullptr;
        EXPECT_HN_OK(hn_drift_task_of(&b, g, context, offsets, &task));
        EXPECT_HN_OK(hn_drift_times(&b, g, sinusoids, &time));
        EXPECT_HN_OK(hn_drift_slope(&b, g, &task, z, time, &slope));
        hn_graph_keep(slope);
        if (training) {
            dslope = input("dslope", type);
            EXPECT_HN_OK(hn_graph_backward(g, 1, &slope, &dslope));
        }
        plan(64);
        EXPECT_HN_OK(hn_drift_tables_fill(&c, &tables));
    }
    /* times: one a point, or one. */
    void fill(const std::vector<float> &f, const std::vector<int32_t> &label,
              const std::vector<int32_t> &images, const std::vector<float> &points,
              const std::vector<float> &times)
    {
        std::vector<int32_t> at((size_t)(2 * rows.tasks + 1));
        std::vector<float> row((size_t)(c.time * (int64_t)times.size()));
        hn_drift_support_offsets(&rows, images.data(), at.data());
        for (size_t i = 0; i < times.size(); i++)
            hn_drift_time_row(&c, (double)times[i], &row[i * (size_t)c.time]);
        ASSERT_HN_OK(hn_tensor_set(context, contexts(c, f, label, rows.tasks).data()));
        ASSERT_HN_OK(hn_tensor_write(offsets, 0, at.data(), at.size() * sizeof at[0]));
        ASSERT_HN_OK(hn_tensor_set(sinusoids, row.data()));
        ASSERT_HN_OK(hn_tensor_set(z, points.data()));
    }
    std::vector<float> values(const hn_tensor *t) const
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        return v;
    }
    std::vector<float> slopes()
    {
        run(g);
        return values(slope);
    }
};

struct Numbers {
    const StFile file{"tests/fixtures/golden/drift.safetensors"};
    const std::vector<float> features = file.floats("features"), z = file.floats("z"),
                             t = file.floats("t"), slope = file.floats("slope"),
                             dslope = file.floats("dslope");
    const std::vector<int32_t> labels = file.ints("labels"), images = file.ints("images");
};

constexpr hn_drift_rows kRows = {.tasks = 2, .support = 6, .points = 3};

/* fp32 sums in other orders; gradients are of the largest layers' size. */
TEST(Drift, MatchesPyTorchForwardAndBackward)
{
    const Numbers n;
    Drift m(small(), kRows, true);
    m.load(n.file);
    m.fill(n.features, n.labels, n.images, n.z, n.t);
    ASSERT_HN_OK(hn_tensor_set(m.dslope, n.dslope.data()));
    EXPECT_LT(rel_l2(m.slopes(), n.slope), 2e-5);
    for (int64_t i = 0; i < hn_params_count(m.params); i++) {
        const hn_param *q = hn_params_at(m.params, i);
        std::vector<float> got((size_t)hn_param_values(q));
        ASSERT_HN_OK(hn_param_read(q, q->grad, got.data()));
        EXPECT_LT(rel_l2(got, n.file.floats(std::string("grad:") + q->name)), 5e-5) << q->name;
    }
}

/* Every point has the time of the one: the form that integrates, against the one that trains. */
TEST(Drift, OneTimeForAllIsThatTimeForEach)
{
    const Numbers n;
    hn_drift_rows rows = kRows;
    rows.points = 1;
    Drift each(small(), rows, false), one(small(), rows, false, true);
    const std::vector<float> z(n.z.begin(), n.z.begin() + 2 * 5 * 4);
    for (Drift *m : {&each, &one}) m->load(n.file);
    each.fill(n.features, n.labels, n.images, z, {n.t[0], n.t[0]});
    one.fill(n.features, n.labels, n.images, z, {n.t[0]});
    EXPECT_LT(rel_l2(one.slopes(), each.slopes()), 1e-6); /* time + pooled, pooled + time */
}

TEST(Drift, BeginsWithoutASlope)
{
    const Numbers n;
    Drift m(small(), kRows, false);
    for (int64_t i = 0; i < hn_params_count(m.params); i++)
        ASSERT_HN_OK(hn_param_init(hn_params_at(m.params, i), 3));
    m.fill(n.features, n.labels, n.images, n.z, n.t);
    EXPECT_EQ(m.slopes(), std::vector<float>(n.slope.size()));
}

/* Names of classes: the same bits (the context has none). Order of the images: sums of attention
 * and of class means are in another order. */
TEST(Drift, DoesNotSeeNamesOfClassesOrTheOrderOfImages)
{
    const Numbers n;
    Drift m(small(), kRows, false);
    m.load(n.file);
    m.fill(n.features, n.labels, n.images, n.z, n.t);
    const auto want = m.slopes();
    auto labels = n.labels;
    for (auto &v : labels)
        if (v >= 0) v = (v + 1) % 3;
    m.fill(n.features, labels, n.images, n.z, n.t);
    EXPECT_EQ(m.slopes(), want);
    auto features = n.features;
    labels = n.labels;
    const size_t order[] = {3, 0, 5, 1, 4, 2}; /* of task 0 */
    for (size_t i = 0; i < 6; i++) {
        labels[i] = n.labels[order[i]];
        for (size_t k = 0; k < 3; k++) features[3 * i + k] = n.features[3 * order[i] + k];
    }
    m.fill(features, labels, n.images, n.z, n.t);
    EXPECT_LT(rel_l2(m.slopes(), want), 1e-6);
}

TEST(Drift, APointDependsOnItsOwnTaskAlone)
{
    const Numbers n;
    Drift both(small(), kRows, false), alone(small(), {1, 6, 1}, false);
    for (Drift *m : {&both, &alone}) m->load(n.file);
    both.fill(n.features, n.labels, n.images, n.z, n.t);
    const auto all = both.slopes();
    const size_t numbers = 5 * 4, rows = 6 * 3;
    for (const size_t point : {0, 4}) {
        const size_t e = point / 3;
        auto features = std::vector<float>(&n.features[e * rows], &n.features[e * rows] + rows);
        const std::vector<int32_t> label(&n.labels[e * 6], &n.labels[e * 6] + 6);
        for (size_t i = 3 * (size_t)n.images[e]; i < rows; i++) features[i] = 1e6f; /* padding */
        const std::vector<float> z(&n.z[point * numbers], &n.z[point * numbers] + numbers);
        alone.fill(features, label, {n.images[e]}, z, {n.t[point]});
        const std::vector<float> want(&all[point * numbers], &all[point * numbers] + numbers);
        EXPECT_LT(rel_l2(alone.slopes(), want), 1e-6) << point;
    }
}

TEST(Drift, RefusesWhatDoesNotFit)
{
    const hn_drift_config c = small();
    ModelRun m(false);
    hn_drift_tables t = {};
    const auto refused = [&](hn_drift_rows r, const char *text) {
        EXPECT_HN_FAIL(hn_drift_tables_new(&c, m.program, HN_F32, &r, &t), HN_ERR_SHAPE, text);
    };
    refused({0, 6, 1}, "0 tasks");
    refused({1, 5000, 1}, "5000 support rows");
    refused({1 << 20, 6, 1 << 20}, "too many");
}

} // namespace
