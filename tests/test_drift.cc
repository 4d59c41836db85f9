/* Drift networks: configurations, forward and backward beside PyTorch, and what the network does
 * not see: the order of images, the padding behind them, other tasks of the batch. */
#include "drift_test.h"

namespace {

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
    const hn_drift_config c = small_drift();
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
    Drift m(small_drift(), kRows, true);
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
    Drift each(small_drift(), rows, false), one(small_drift(), rows, false, true);
    const std::vector<float> z(n.z.begin(), n.z.begin() + 2 * 5 * 4);
    for (Drift *m : {&each, &one}) m->load(n.file);
    each.fill(n.features, n.labels, n.images, z, {n.t[0], n.t[0]});
    one.fill(n.features, n.labels, n.images, z, {n.t[0]});
    EXPECT_LT(rel_l2(one.slopes(), each.slopes()), 1e-6); /* time + pooled, pooled + time */
}

TEST(Drift, BeginsWithoutASlope)
{
    const Numbers n;
    Drift m(small_drift(), kRows, false);
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
    Drift m(small_drift(), kRows, false);
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
    Drift both(small_drift(), kRows, false), alone(small_drift(), {1, 6, 1}, false);
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
    const hn_drift_config c = small_drift();
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
