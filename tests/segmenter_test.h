/* segmenter_test.h - small segmenters and volumes that can be learnt, for tests of the engine. */
#ifndef HN_SEGMENTER_TEST_H
#define HN_SEGMENTER_TEST_H
#include <omp.h>

#include "engine_test.h"
#include "runtime/data/seg_metrics.h"
#include "runtime/data/volume_patch.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/segmenter_job.h"
#include "runtime/train/volume_feed.h"

/* Volumes with two kinds of balls in noise: bright ones are class 1, dark ones class 2. Of several
 * channels the last one has them, the others are noise alone. */
class BallVolumes {
  public:
    hn_volumes v = {};
    hn_regions r = {};
    explicit BallVolumes(int64_t count = 2, int64_t side = 16, size_t channels = 1)
    {
        const size_t n = (size_t)(side * side * side);
        std::vector<std::vector<float>> value((size_t)count, std::vector<float>(n * channels));
        std::vector<std::vector<uint8_t>> label((size_t)count, std::vector<uint8_t>(n));
        std::vector<hn_volume> all((size_t)count);
        for (size_t k = 0; k < all.size(); k++) {
            paint(side, (unsigned)k, value[k], label[k]);
            all[k] = {};
            all[k].name = "balls", all[k].site = "", all[k].channels = (int32_t)channels;
            all[k].value = value[k].data(), all[k].label = label[k].data();
            for (int64_t &s : all[k].size) s = side;
        }
        EXPECT_HN_OK(hn_volumes_make(all.data(), count, 3, &v));
        EXPECT_HN_OK(hn_regions_of_volumes(&v, &r));
    }
    ~BallVolumes()
    {
        hn_volumes_free(&v);
        hn_regions_free(&r);
    }
    BallVolumes(const BallVolumes &) = delete;

  private:
    static void paint(int64_t side, unsigned seed, std::vector<float> &value,
                      std::vector<uint8_t> &label)
    {
        std::mt19937 rng(seed);
        std::normal_distribution<float> noise(0, 0.2f);
        for (int ball = 0; ball < 8; ball++) {
            int64_t at[3];
            for (int64_t &a : at) a = (int64_t)(rng() % (unsigned)side);
            for (int64_t i = 0; i < (int64_t)label.size(); i++) {
                const int64_t p[3] = {i / side / side, i / side % side, i % side};
                int64_t d = 0;
                for (int a = 0; a < 3; a++) d += (p[a] - at[a]) * (p[a] - at[a]);
                if (d <= 9) label[(size_t)i] = (uint8_t)(1 + ball % 2);
            }
        }
        const float mean[] = {0, 1, -1};
        const size_t channels = value.size() / label.size();
        for (size_t i = 0; i < value.size(); i++)
            value[i] = (i % channels == channels - 1 ? mean[label[i / channels]] : 0) + noise(rng);
    }
};

/* Networks of both families for three classes, narrow and short. */
inline hn_seg_config small_segmenter(const std::string &family, int64_t channels = 1)
{
    hn_seg_config c = {};
    EXPECT_HN_OK(
        hn_seg_config_named(family == "meshnet" ? "meshnet5" : "unet3d-fets", channels, 3, &c));
    if (family == "meshnet") {
        c.meshnet.layers = 3;
        for (int i = 0; i < 3; i++) {
            c.meshnet.kernel[i] = i < 2 ? 3 : 1;
            c.meshnet.dilation[i] = i == 1 ? 2 : 1;
            c.meshnet.width[i] = i < 2 ? 6 : 3;
        }
    } else {
        c.unet3d.levels = 2;
    }
    return c;
}

inline hn_adapt_kind every_value(const void *, const char *) { return HN_ADAPT_FULL; }

/* A segmenter with its engine, on the device of HONE_TEST_DEVICE. Set options, then open(). */
class Segmenter {
  public:
    hn_seg_config c;
    hn_device *device = nullptr;
    hn_adapt adapt = {
        .parameter = every_value, .linear = nullptr, .sparse = nullptr, .context = nullptr};
    hn_engine_options o = {};
    hn_segmenter_options so = {};
    hn_segmenter_job job = {};
    hn_engine *e = nullptr;

    explicit Segmenter(const hn_seg_config &config, int64_t batch = 2, int64_t side = 8) : c(config)
    {
        omp_set_num_threads(1); /* networks of this size only wait for a second one */
        EXPECT_HN_OK(hn_device_open(test_device(), &device));
        o.device = device;
        o.executor = test_executor();
        o.dtype = so.dtype = HN_F32;
        o.train = o.eval = true;
        o.optimizer.kind = HN_OPTIMIZER_ADAMW;
        o.optimizer.beta1 = 0.9, o.optimizer.beta2 = 0.999, o.optimizer.eps = 1e-8;
        so.config = &c;
        so.batch = batch;
        so.terms = {
            .w_dice = 1, .w_focal = 0, .w_cross = 1, .smooth = 1e-5f, .alpha = 0, .gamma = 0};
        for (int64_t &s : so.patch) s = side;
    }
    ~Segmenter()
    {
        hn_engine_free(e);
        hn_device_close(device);
    }
    Segmenter(const Segmenter &) = delete;
    void open(uint64_t seed = 5)
    {
        hn_segmenter_job_init(&job, &so);
        o.adapt = &adapt;
        o.job = &job.job;
        ASSERT_HN_OK(hn_engine_new(&o, &e));
        ASSERT_HN_OK(hn_engine_allocate(e));
        for (int64_t i = 0; i < hn_params_count(params()); i++)
            ASSERT_HN_OK(hn_param_init(hn_params_at(params(), i), seed));
    }
    hn_params *params() const { return hn_engine_params(e); }
    std::vector<float> everything() const
    {
        std::vector<float> all;
        for (int64_t i = 0; i < hn_params_count(params()); i++) {
            const hn_param *q = hn_params_at(params(), i);
            std::vector<float> v((size_t)hn_param_values(q));
            EXPECT_HN_OK(hn_param_get(q, v.data()));
            all.insert(all.end(), v.begin(), v.end());
        }
        return all;
    }
};

/* Patches of volumes through the feed. */
class PatchFeed {
  public:
    hn_patches *patches = nullptr;
    hn_feed *feed = nullptr;
    PatchFeed(const BallVolumes &b, const Segmenter &m, bool once = false)
    {
        hn_patch_options o = {};
        for (int a = 0; a < 3; a++) o.size[a] = m.so.patch[a];
        o.foreground = 0.7;
        o.flip[0] = o.flip[1] = o.flip[2] = 0.5;
        o.seed = 3;
        EXPECT_HN_OK(hn_patches_open(&b.v, &b.r, &o, &patches));
        const hn_volume_feed_options f = {m.so.batch, 4, 3, once};
        EXPECT_HN_OK(hn_volume_feed_new(patches, &f, &feed));
    }
    ~PatchFeed()
    {
        hn_feed_free(feed);
        hn_patches_free(patches);
    }
    PatchFeed(const PatchFeed &) = delete;
    hn_step_report step(const Segmenter &m, int64_t number, double lr = 2e-2) const
    {
        hn_engine_input in;
        hn_step_report r = {};
        int64_t units = 0;
        EXPECT_HN_OK(hn_engine_batch(m.e, &in));
        EXPECT_HN_OK(feed->fill(feed, number, &in, &units));
        EXPECT_EQ(units, m.so.batch);
        EXPECT_HN_OK(hn_engine_step(m.e, number, lr, &r));
        return r;
    }
    hn_eval_sums evaluate(const Segmenter &m) const
    {
        hn_engine_input in;
        hn_eval_sums sums = {};
        int64_t units = 0;
        EXPECT_HN_OK(hn_engine_eval_begin(m.e));
        for (int64_t k = 0; k < hn_feed_batches(feed); k++) {
            EXPECT_HN_OK(hn_engine_batch(m.e, &in));
            EXPECT_HN_OK(feed->fill(feed, k, &in, &units));
            EXPECT_HN_OK(hn_engine_eval_batch(m.e));
        }
        EXPECT_HN_OK(hn_engine_eval_sums(m.e, &sums));
        return sums;
    }
};
#endif
