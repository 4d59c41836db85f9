/* Federated training of segmenters: clients are regions of volumes. */
#include "runtime/data/partition.h"
#include "runtime/graph/plan.h"
#include "runtime/train/fed_segment.h"
#include "segmenter_test.h"

namespace {

/* Four sites, boxes of two volumes, their last slices held out. */
class Sites : public testing::Test {
  protected:
    BallVolumes balls;
    hn_regions train = {}, eval = {};
    hn_patches *patches = nullptr;
    hn_device *device = nullptr;
    hn_seg_config c = {};
    hn_adapt adapt = {
        .parameter = every_value, .linear = nullptr, .sparse = nullptr, .context = nullptr};
    hn_fed_segment_options o = {};
    void SetUp() override
    {
        hn_regions all = {};
        const hn_site_options so = {{1, 1, 2}, 0.2f, 0.1f, 4};
        const hn_patch_options po = {{6, 6, 6}, 0.5, {0.5, 0.5, 0.5}, 0, 3};
        omp_set_num_threads(1);
        ASSERT_HN_OK(hn_regions_cut(&balls.v, &so, &all));
        ASSERT_HN_OK(hn_regions_hold_out(&all, 0.25, &train, &eval));
        hn_regions_free(&all);
        ASSERT_HN_OK(hn_patches_open(&balls.v, &train, &po, &patches));
        ASSERT_HN_OK(hn_device_open(test_device(), &device));
        c = small_segmenter("meshnet");
        o.device = device, o.executor = test_executor(), o.dtype = HN_F32;
        o.config = &c, o.adapt = &adapt;
        o.terms = {
            .w_dice = 1, .w_focal = 0, .w_cross = 1, .smooth = 1e-5f, .alpha = 0, .gamma = 0};
        o.train = patches, o.trains = true, o.per_region = 5;
        o.local.batch = 2;
        o.local.optimizer.kind = HN_OPTIMIZER_SGD;
        o.local.optimizer.momentum = 0.9;
        for (int64_t &w : o.window) w = 8;
        o.seed = 6;
    }
    ~Sites() override
    {
        hn_patches_free(patches);
        hn_device_close(device);
        hn_regions_free(&train);
        hn_regions_free(&eval);
    }
};

struct Sim {
    hn_fed_sim *s = nullptr;
    hn_fed_local local;
    hn_status status;
    explicit Sim(const hn_fed_segment_options &o) : local(o.local)
    {
        status = hn_fed_segment_new(&o, &s);
    }
    Sim(const Sim &) = delete;
    ~Sim() { hn_fed_sim_free(s); }
    const hn_params *params() const { return hn_engine_params(hn_fed_segment_engine(s)); }
    std::vector<float> values() const
    {
        std::vector<float> v((size_t)s->n_values);
        EXPECT_HN_OK(hn_fed_values_get(&local, params(), v.data()));
        return v;
    }
    void set(const std::vector<float> &v) const
    {
        EXPECT_HN_OK(hn_fed_values_set(&local, params(), v.data()));
    }
};

/* The tasks of all sites in one round. */
std::vector<hn_fed_task> tasks_of(const hn_partition &p, const hn_fed_local &l, int64_t round)
{
    std::vector<hn_fed_task> t;
    for (int64_t k = 0; k < p.clients; k++) {
        const int64_t n = p.first[k + 1] - p.first[k];
        t.push_back({k, p.index + p.first[k], n, hn_fed_steps(&l, n, 3), 0.05,
                     hn_fed_task_seed(1, round, k)});
    }
    return t;
}

class Federation {
  public:
    hn_partition p = {};
    explicit Federation(const hn_patches *patches, int64_t per_region)
    {
        std::vector<int32_t> site((size_t)hn_fed_segment_samples(patches, per_region));
        hn_fed_segment_sites(patches, per_region, site.data());
        hn_partition_options o = {};
        o.rule = HN_PARTITION_GROUP;
        EXPECT_HN_OK(hn_partition_make(&o, nullptr, site.data(), (int64_t)site.size(), &p));
    }
    ~Federation() { hn_partition_free(&p); }
    Federation(const Federation &) = delete;
    /* Values and losses of all clients. */
    std::pair<std::vector<std::vector<float>>, std::vector<float>>
    round(const Sim &sim, const hn_fed_local &l, int64_t number,
          const std::vector<float> &global) const
    {
        struct Context {
            std::vector<std::vector<float>> value;
            std::vector<float> loss;
            size_t n;
        } all = {{}, {}, global.size()};
        const auto tasks = tasks_of(p, l, number);
        EXPECT_HN_OK(sim.s->round(
            sim.s, global.data(), tasks.data(), (int64_t)tasks.size(),
            [](void *context, int64_t, const hn_fed_trained *t) {
                Context *to = (Context *)context;
                to->value.emplace_back(t->value, t->value + to->n);
                to->loss.push_back(t->loss);
                return HN_OK;
            },
            &all));
        return {all.value, all.loss};
    }
};

TEST_F(Sites, AreClientsByTheirSamples)
{
    const Federation f(patches, o.per_region);
    ASSERT_EQ(f.p.clients, 4);
    for (int64_t k = 0; k < 4; k++) {
        ASSERT_EQ(f.p.first[k + 1] - f.p.first[k], 5);
        for (int64_t i = f.p.first[k]; i < f.p.first[k + 1]; i++)
            EXPECT_EQ(train.region[f.p.index[i] / 5].site, k);
    }
}

TEST_F(Sites, AveragedTogetherTheyLearnWhatIsHeldOut)
{
    const Federation f(patches, o.per_region);
    const Sim sim(o);
    ASSERT_EQ(sim.status, HN_OK) << hn_last_error();
    std::vector<float> global = sim.values();
    const hn_segmenter_blend how = {0.5, true, 0};
    hn_fed_segment_scores before, after;
    ASSERT_HN_OK(hn_fed_segment_evaluate(sim.s, &balls.v, &eval, &how, &before));
    float first = 0, last = 0;
    for (int64_t r = 0; r < 12; r++) {
        const auto [value, loss] = f.round(sim, o.local, r, global);
        ASSERT_EQ(value.size(), 4u);
        for (size_t i = 0; i < global.size(); i++) {
            double sum = 0;
            for (const auto &v : value) sum += v[i];
            global[i] = (float)(sum / 4); /* as many samples each */
        }
        for (float l : loss) (r == 0 ? first : last) = r == 0 ? first + l : l;
    }
    sim.set(global);
    ASSERT_HN_OK(hn_fed_segment_evaluate(sim.s, &balls.v, &eval, &how, &after));
    EXPECT_LT(last, first / 4);
    EXPECT_GT(after.mean_dice, before.mean_dice + 0.2);
    EXPECT_GT(after.mean_dice, 0.6);
    EXPECT_LT(after.mean_hd95, before.mean_hd95);
    EXPECT_EQ(after.voxels, before.voxels);
    EXPECT_TRUE(std::isnan(after.hd95[0]));
}

TEST_F(Sites, TheSameTaskGivesTheSameBits)
{
    const Federation f(patches, o.per_region);
    const Sim sim(o), other(o);
    const auto global = sim.values();
    const auto a = f.round(sim, o.local, 3, global), b = f.round(sim, o.local, 3, global),
               c = f.round(other, o.local, 3, global), d = f.round(sim, o.local, 4, global);
    EXPECT_EQ(a.first, b.first);
    EXPECT_EQ(a.second, b.second);
    EXPECT_EQ(a.first, c.first);
    EXPECT_NE(a.first, d.first);
    EXPECT_NE(a.first[0], a.first[1]);
}

/* To measure takes no gradients, moments and activations of a step; the scores are the same. */
TEST_F(Sites, MeasuringTakesLessMemory)
{
    const Sim trains(o);
    o.trains = false;
    const Sim measures(o);
    ASSERT_EQ(measures.status, HN_OK) << hn_last_error();
    EXPECT_EQ(measures.values(), trains.values());
    const hn_segmenter_blend how = {0.5, true, 0};
    hn_fed_segment_scores a, b;
    ASSERT_HN_OK(hn_fed_segment_evaluate(trains.s, &balls.v, &eval, &how, &a));
    ASSERT_HN_OK(hn_fed_segment_evaluate(measures.s, &balls.v, &eval, &how, &b));
    EXPECT_EQ(a.mean_dice, b.mean_dice);
    EXPECT_EQ(a.mean_hd95, b.mean_hd95);
    hn_plan_sizes all, fewer;
    hn_plan_sizes_of(hn_engine_program(hn_fed_segment_engine(trains.s)), &all);
    hn_plan_sizes_of(hn_engine_program(hn_fed_segment_engine(measures.s)), &fewer);
    EXPECT_EQ(fewer.class_bytes[HN_MEM_GRAD] + fewer.class_bytes[HN_MEM_MOMENT1], 0u);
    EXPECT_LT(fewer.total_bytes, all.total_bytes);
    const Federation f(patches, o.per_region);
    const auto tasks = tasks_of(f.p, o.local, 0);
    const auto none = [](void *, int64_t, const hn_fed_trained *) { return HN_OK; };
    EXPECT_HN_FAIL(
        measures.s->round(measures.s, measures.values().data(), tasks.data(), 1, none, nullptr),
        HN_ERR_ARG, "only measures");
}

TEST_F(Sites, NameWhatDoesNotFit)
{
    const Sim sim(o);
    const auto global = sim.values();
    const int32_t wrong = 20;
    const hn_fed_task t = {7, &wrong, 1, 1, 0.1, 0};
    const auto none = [](void *, int64_t, const hn_fed_trained *) { return HN_OK; };
    EXPECT_HN_FAIL(sim.s->round(sim.s, global.data(), &t, 1, none, nullptr), HN_ERR_ARG,
                   "client 7: sample 20 of 20");
    o.local.smoothing = 0.1f;
    EXPECT_HN_FAIL(Sim(o).status, HN_ERR_ARG, "smoothing");
    o.local.smoothing = 0, o.local.fisher_images = 4;
    EXPECT_HN_FAIL(Sim(o).status, HN_ERR_ARG, "Fisher");
    o.local.fisher_images = 0, o.per_region = 0;
    EXPECT_HN_FAIL(Sim(o).status, HN_ERR_ARG, "0 of a region");
    o.per_region = 5, c.channels = 2;
    EXPECT_HN_FAIL(Sim(o).status, HN_ERR_SHAPE, "1 channel(s) for meshnet5, which reads 2");
    c.channels = 1;
    const BallVolumes wide(2, 16, 2);
    const hn_segmenter_blend how = {0.5, true, 0};
    hn_fed_segment_scores scores;
    EXPECT_HN_FAIL(hn_fed_segment_evaluate(sim.s, &wide.v, &wide.r, &how, &scores), HN_ERR_SHAPE,
                   "2 channel(s) for meshnet5, which reads 1");
}

} // namespace
