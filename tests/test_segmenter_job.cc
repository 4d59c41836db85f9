/* The segmenter as a job of the engine: it learns, repeats, leaves padding out, and gives whole
 * volumes their classes. */
#include "segmenter_test.h"

namespace {

class SegmenterModel : public testing::TestWithParam<const char *> {
  protected:
    const hn_seg_config c = small_segmenter(GetParam());
    const BallVolumes balls;
};

INSTANTIATE_TEST_SUITE_P(All, SegmenterModel, testing::Values("meshnet", "unet3d"),
                         [](const auto &p) { return std::string(p.param); });

TEST_P(SegmenterModel, LossFallsAndVoxelsComeOutRight)
{
    Segmenter m(c);
    m.open();
    PatchFeed train(balls, m), eval(balls, m, true);
    const hn_eval_sums before = eval.evaluate(m);
    double first = 0, last = 0;
    for (int64_t k = 0; k < 60; k++) {
        const hn_step_report r = train.step(m, k);
        EXPECT_EQ(r.tokens, 2); /* patches */
        if (k < 5) first += r.loss;
        if (k >= 55) last += r.loss;
    }
    const hn_eval_sums after = eval.evaluate(m);
    EXPECT_EQ(before.rows, 16); /* tiles of 8 in two volumes of 16 */
    EXPECT_EQ(after.rows, 16);
    EXPECT_LT(last, 0.6 * first);
    EXPECT_LT(after.loss, before.loss);
}

/* Three steps, on so many threads; the loss of the first one goes to *loss. */
std::vector<float> three_steps(const hn_seg_config &c, const BallVolumes &balls, int threads,
                               hn_dtype dtype = HN_F32, uint64_t seed = 5, double *loss = nullptr)
{
    Segmenter m(c);
    omp_set_num_threads(threads);
    m.o.dtype = m.so.dtype = dtype;
    m.open(seed);
    const PatchFeed train(balls, m);
    for (int64_t k = 0; k < 3; k++) {
        const hn_step_report r = train.step(m, k);
        if (loss && k == 0) *loss = r.loss;
    }
    return m.everything();
}

TEST_P(SegmenterModel, SameBitsTwiceOnAnyThreads)
{
    double f32 = 0, bf16 = 0;
    const auto want = three_steps(c, balls, 1, HN_F32, 5, &f32);
    EXPECT_TRUE(same_bits(three_steps(c, balls, 1), want));
    EXPECT_TRUE(same_bits(three_steps(c, balls, 2), want));
    EXPECT_FALSE(same_bits(three_steps(c, balls, 1, HN_F32, 6), want));
    three_steps(c, balls, 1, HN_BF16, 5, &bf16);
    EXPECT_NEAR(bf16, f32, 0.02 * f32); /* activations of 8 bits */
    EXPECT_NE(bf16, f32);
}

/* A batch of two of which one is padding, and alone. */
TEST_P(SegmenterModel, PaddingAddsNothing)
{
    Segmenter padded(c, 2), alone(c, 1);
    padded.open();
    alone.open();
    const PatchFeed a(balls, padded), b(balls, alone);
    const size_t voxels = 8 * 8 * 8;
    for (const auto &[m, feed] : {std::pair{&padded, &a}, std::pair{&alone, &b}}) {
        hn_engine_input in;
        ASSERT_HN_OK(hn_engine_batch(m->e, &in));
        m->job.job.empty(&m->job.job, in.field);
        const hn_segmenter_batch batch = hn_segmenter_batch_of(&in);
        ASSERT_HN_OK(hn_patches_draw(feed->patches, 1, 77, batch.value, batch.label, nullptr));
        EXPECT_TRUE(m == &alone || batch.label[voxels] == HN_LABEL_IGNORED);
        hn_step_report r = {};
        ASSERT_HN_OK(hn_engine_step(m->e, 0, 1e-2, &r));
        EXPECT_EQ(r.tokens, 1);
    }
    EXPECT_LT(rel_l2(padded.everything(), alone.everything()), 1e-5);
}

/* A learnt network over a volume it was not trained on, in overlapping windows. */
TEST_P(SegmenterModel, AWholeVolumeGetsItsClasses)
{
    const BallVolumes other(3);
    Segmenter m(c);
    for (int64_t &w : m.so.window) w = 12;
    m.open();
    const PatchFeed train(balls, m);
    for (int64_t k = 0; k < 150; k++) train.step(m, k);
    const hn_volume &v = other.v.volume[2];
    std::vector<uint8_t> mask(16 * 16 * 16);
    double dice[2];
    for (const bool gaussian : {false, true}) {
        const hn_segmenter_blend how = {0.5, gaussian, 0};
        ASSERT_HN_OK(hn_segmenter_volume(&m.job, m.e, v.value, v.size, &how, mask.data()));
        hn_seg_score s[3];
        ASSERT_HN_OK(hn_seg_dice(mask.data(), v.label, v.size, 3, s));
        EXPECT_GT(s[1].dice, 0.8);
        EXPECT_GT(s[2].dice, 0.8);
        dice[gaussian] = s[1].dice;
    }
    EXPECT_NEAR(dice[0], dice[1], 0.05);
}

/* What is to be learnt is in the last of three channels: patches and windows bring it there. */
TEST_P(SegmenterModel, LearnsFromTheChannelThatTells)
{
    const hn_seg_config three = small_segmenter(GetParam(), 3);
    const BallVolumes wide(3, 16, 3);
    Segmenter m(three);
    for (int64_t &w : m.so.window) w = 12;
    m.open();
    const PatchFeed train(wide, m);
    for (int64_t k = 0; k < 150; k++) train.step(m, k);
    const hn_volume &v = wide.v.volume[2];
    const hn_segmenter_blend how = {0.5, true, 0};
    std::vector<float> other(v.value, v.value + 3 * 16 * 16 * 16);
    for (size_t i = 0; i < other.size(); i += 3) std::swap(other[i], other[i + 2]);
    std::vector<uint8_t> mask(16 * 16 * 16);
    double dice[2];
    for (const bool swapped : {false, true}) {
        const float *value = swapped ? other.data() : v.value;
        ASSERT_HN_OK(hn_segmenter_volume(&m.job, m.e, value, v.size, &how, mask.data()));
        hn_seg_score s[3];
        ASSERT_HN_OK(hn_seg_dice(mask.data(), v.label, v.size, 3, s));
        dice[swapped] = (s[1].dice + s[2].dice) / 2;
    }
    EXPECT_GT(dice[0], 0.7);
    EXPECT_LT(dice[1], 0.3);
}

TEST_P(SegmenterModel, AWindowIsAskedForBeforeTheEngineIsMade)
{
    Segmenter m(c);
    m.open();
    const int64_t size[] = {4, 4, 4};
    const std::vector<float> value(64);
    const hn_segmenter_blend how = {};
    std::vector<uint8_t> mask(64);
    EXPECT_HN_FAIL(hn_segmenter_volume(&m.job, m.e, value.data(), size, &how, mask.data()),
                   HN_ERR_ARG, "without windows");
}

} // namespace
