/* kernels/loss: losses of segmentations. */
#include "kernel_test.h"
#include "kernels/loss/seg_loss.h"
#include "volume_golden.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Case {
    int64_t images, voxels, classes, gap;
    hn_dtype dtype;
    hn_seg_terms terms;
};

std::vector<int32_t> labels_of(const Case &c)
{
    std::vector<int32_t> y((size_t)(c.images * c.voxels));
    for (size_t i = 0; i < y.size(); i++) {
        y[i] = i % 7 == 3 ? HN_LABEL_IGNORED : (int32_t)((int64_t)i * 5 / 3 % c.classes);
        if ((int64_t)i >= (c.images - 1) * c.voxels && c.images > 1) y[i] = HN_LABEL_IGNORED;
    }
    return y;
}

/* What a call makes; the last image of several has no labels. */
struct Result {
    std::vector<float> sums = {10, 20, 30}, dlogits;
    std::vector<int32_t> prediction;
};

hn_seg_loss_args args_of(const Case &c)
{
    hn_seg_loss_args a = {};
    a.images = c.images, a.voxels = c.voxels, a.classes = c.classes;
    a.terms = c.terms, a.dtype = c.dtype;
    return a;
}

Result run(const Case &c, bool fast)
{
    Result r;
    Matrix z(c.dtype, c.images * c.voxels, c.classes, c.gap);
    Matrix d(c.dtype, c.images * c.voxels, c.classes, c.gap + 1);
    const auto labels = labels_of(c);
    r.prediction.resize(labels.size(), -1);
    z.normal(1, 0, 2);
    hn_seg_loss_args a = args_of(c);
    a.logits = z.data(), a.labels = labels.data(), a.ld_logits = z.ld();
    a.loss_sum = &r.sums[0], a.count = &r.sums[1], a.hits = &r.sums[2];
    a.dlogits = d.data(), a.ld_dlogits = d.ld(), a.prediction = r.prediction.data();
    Scratch scratch(hn_seg_loss_fast_scratch(&a));
    EXPECT_HN_OK(fast ? hn_seg_loss_fast(&a, scratch.data()) : hn_seg_loss_cpu(&a));
    r.dlogits = d.values();
    return r;
}

/* Sums of fp32 terms; gradients of bf16 have one rounding. */
void expect_close(const Result &got, const Result &want, const Case &c)
{
    for (size_t k = 0; k < 3; k++) EXPECT_NEAR(got.sums[k], want.sums[k], 2e-5) << k;
    EXPECT_EQ(got.prediction, want.prediction);
    EXPECT_LT(rel_l2(got.dlogits, want.dlogits), c.dtype == HN_F32 ? 5e-6 : 3e-3);
}

std::vector<Case> cases()
{
    std::vector<Case> all;
    const hn_seg_terms dice_focal = {1, 1, 0, 1e-5f, 0.1f, 4.5f}, dice_cross = {1, 0, 1, 1, 0, 0};
    const hn_seg_terms every = {0.5f, 2, 0.25f, 1e-3f, 0.25f, 2};
    for (const hn_dtype t : {HN_F32, HN_BF16})
        for (const hn_seg_terms &terms : {dice_focal, dice_cross, every})
            for (const Case &c : {Case{1, 1, 2, 0, t, terms}, Case{2, 37, 4, 4, t, terms},
                                  Case{3, 4500, 3, 1, t, terms}, Case{1, 9001, 16, 0, t, terms}})
                all.push_back(c);
    return all;
}

class SegLoss : public ::testing::TestWithParam<Case> {};

TEST_P(SegLoss, FastMatchesTwinWithTheSameBitsOnAnyThreads)
{
    const Result want = run(GetParam(), false), first = run(GetParam(), true);
    expect_close(first, want, GetParam());
    for (const int threads : {1, 3}) {
        Result now;
        on_threads(threads, [&] { now = run(GetParam(), true); });
        EXPECT_TRUE(same_bits(now.sums, first.sums));
        EXPECT_TRUE(same_bits(now.dlogits, first.dlogits));
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SegLoss, ::testing::ValuesIn(cases()), [](const auto &i) {
    const Case &c = i.param;
    return case_name("i", c.images, "_v", c.voxels, "_c", c.classes,
                     c.terms.w_cross == 0   ? "_focal"
                     : c.terms.w_focal == 0 ? "_cross"
                                            : "_all",
                     c.dtype);
});

/* Two voxels, two classes, probabilities 3/4 and 1/4: D = (2 * 0.75 + 1) / (1 + 1 + 1). */
TEST(SegLossValues, MatchHandComputedOnes)
{
    const float three = std::log(3.0f), logits[] = {three, 0, 0, three};
    const int32_t labels[] = {0, 1};
    for (const bool fast : {false, true}) {
        float loss = 0, count = 0, hits = 0, d[4];
        hn_seg_loss_args a = {};
        a.logits = logits, a.labels = labels, a.dlogits = d;
        a.loss_sum = &loss, a.count = &count, a.hits = &hits;
        a.images = 1, a.voxels = a.classes = a.ld_logits = a.ld_dlogits = 2;
        a.terms = {1, 0, 0, 1, 0, 0};
        Scratch scratch(hn_seg_loss_fast_scratch(&a));
        auto call = [&] {
            return fast ? hn_seg_loss_fast(&a, scratch.data()) : hn_seg_loss_cpu(&a);
        };
        ASSERT_HN_OK(call());
        EXPECT_NEAR(loss, 1 - 2.5 / 3, 1e-6);
        EXPECT_EQ(count, 1);
        EXPECT_EQ(hits, 1);
        /* dL/dp = 1/2 (2.5/9 - 2/3 t); dz = p (dL/dp - mean) with p 3/4, 1/4: -1/16 */
        EXPECT_NEAR(d[0], -0.0625, 1e-6);
        EXPECT_NEAR(d[1], 0.0625, 1e-6);
        a.terms = {0, 0, 1, 1, 0, 0};
        loss = 0;
        ASSERT_HN_OK(call());
        EXPECT_NEAR(loss, std::log(4.0 / 3), 1e-6);
        EXPECT_NEAR(d[0], -0.125, 1e-6);
        /* gamma 0: weights are 1, each class has the mean over its voxels: log 4/3 where t is 1
         * (u = log 3), log 2 where it is 0 (u = 0) */
        a.terms = {0, 1, 0, 1, 0.25f, 0};
        loss = 0;
        ASSERT_HN_OK(call());
        EXPECT_NEAR(loss, 0.25 * std::log(4.0 / 3) + 0.75 * std::log(2.0), 1e-6);
        EXPECT_NEAR(d[0], -0.25 * 0.25 / 2, 1e-6);
        EXPECT_NEAR(d[1], 0.75 * 0.5 / 2, 1e-6);
    }
}

TEST(SegLossGolden, MatchesPyTorch)
{
    const VolumeGolden g;
    int n = 0;
    for (; g.has("seg." + std::to_string(n) + ".loss"); n++) {
        const std::string k = "seg." + std::to_string(n) + ".";
        SCOPED_TRACE(k);
        const auto v = g.whole(k + "shape"), y = g.whole(k + "labels");
        const auto t = g.floats(k + "terms"), z = g.floats(k + "logits");
        const std::vector<int32_t> labels(y.begin(), y.end());
        for (const bool fast : {false, true}) {
            std::vector<float> d(z.size());
            float loss = 0;
            hn_seg_loss_args a = {};
            a.logits = z.data(), a.labels = labels.data(), a.dlogits = d.data(), a.loss_sum = &loss;
            a.images = v[0], a.voxels = v[1], a.classes = a.ld_logits = a.ld_dlogits = v[2];
            a.terms = {t[0], t[1], t[2], t[3], t[4], t[5]};
            Scratch scratch(hn_seg_loss_fast_scratch(&a));
            ASSERT_HN_OK(fast ? hn_seg_loss_fast(&a, scratch.data()) : hn_seg_loss_cpu(&a));
            EXPECT_NEAR(loss, g.floats(k + "loss")[0], 1e-6 * loss);
            EXPECT_LT(rel_l2(d, g.floats(k + "dlogits")), 2e-6);
        }
    }
    EXPECT_EQ(n, 3);
}

TEST(SegLossCheck, NamesWhatIsWrong)
{
    float f[32] = {};
    int32_t labels[] = {0, 1, 2, HN_LABEL_IGNORED};
    hn_seg_loss_args a = {};
    a.logits = f, a.labels = labels, a.images = 2, a.voxels = 2, a.classes = a.ld_logits = 3;
    a.terms = {1, 1, 0, 1e-5f, 0.1f, 4.5f};
    EXPECT_HN_OK(hn_seg_loss_check(&a));
    auto with = [&](auto change) {
        hn_seg_loss_args b = a;
        change(b);
        return hn_seg_loss_check(&b);
    };
    EXPECT_HN_FAIL(hn_seg_loss_check(nullptr), HN_ERR_ARG, "args");
    EXPECT_HN_FAIL(with([](auto &b) { b.classes = 17; }), HN_ERR_SHAPE, "17 classes");
    EXPECT_HN_FAIL(with([](auto &b) { b.voxels = 0; }), HN_ERR_SHAPE, "2 images of 0 voxels");
    EXPECT_HN_FAIL(with([](auto &b) { b.terms.smooth = 0; }), HN_ERR_ARG, "smooth 0 must be");
    EXPECT_HN_FAIL(with([](auto &b) { b.terms.alpha = 1.5f; }), HN_ERR_ARG, "alpha 1.5");
    EXPECT_HN_FAIL(with([](auto &b) { b.terms.gamma = NAN; }), HN_ERR_ARG, "gamma nan");
    EXPECT_HN_FAIL(with([](auto &b) { b.terms.w_dice = INFINITY; }), HN_ERR_ARG, "weights inf");
    EXPECT_HN_FAIL(with([](auto &b) { b.labels = nullptr; }), HN_ERR_ARG, "labels is NULL");
    EXPECT_HN_FAIL(with([](auto &b) { b.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    labels[2] = 3;
    EXPECT_HN_FAIL(hn_seg_loss_cpu(&a), HN_ERR_ARG, "label 3 of voxel 2 is none of 3 classes");
    EXPECT_HN_FAIL(hn_seg_loss_fast(&a, nullptr), HN_ERR_ARG, "scratch");
}

#ifdef HONE_CUDA
/* times: captured and replayed so often; 0: as it comes */
Result run_cuda(const Case &c, bool captured)
{
    Result r;
    DeviceMatrix z(c.dtype, c.images * c.voxels, c.classes, c.gap);
    DeviceMatrix d(c.dtype, c.images * c.voxels, c.classes, c.gap + 1);
    DeviceArray<int32_t> labels(labels_of(c)), prediction((size_t)(c.images * c.voxels));
    DeviceArray<float> sums(r.sums);
    z.normal(1, 0, 2);
    hn_seg_loss_args a = args_of(c);
    a.logits = z.data(), a.labels = labels.data(), a.ld_logits = z.ld();
    a.loss_sum = sums.data(), a.count = sums.data() + 1, a.hits = sums.data() + 2;
    a.dlogits = d.data(), a.ld_dlogits = d.ld(), a.prediction = prediction.data();
    DeviceArray<unsigned char> scratch(hn_seg_loss_cuda_scratch(&a));
    auto call = [&](hn_stream s) { EXPECT_HN_OK(hn_seg_loss_cuda(&a, scratch.data(), s)); };
    if (captured)
        run_captured(call);
    else
        call(nullptr);
    (void)scratch.host();
    r.sums = sums.host(), r.dlogits = d.values(), r.prediction = prediction.host();
    return r;
}

TEST_P(SegLoss, CudaMatchesCpuAndRepeats)
{
    HN_NEED_CUDA();
    const Result want = run(GetParam(), false), first = run_cuda(GetParam(), false);
    expect_close(first, want, GetParam());
    for (const bool captured : {false, true}) {
        const Result now = run_cuda(GetParam(), captured);
        EXPECT_TRUE(same_bits(now.sums, first.sums));
        EXPECT_TRUE(same_bits(now.dlogits, first.dlogits));
    }
}

TEST(SegLossCuda, ALabelThatIsNoClassGivesNan)
{
    HN_NEED_CUDA();
    DeviceMatrix z(HN_F32, 2, 3);
    z.normal(1);
    DeviceArray<int32_t> labels(std::vector<int32_t>{0, 3});
    DeviceArray<float> loss(std::vector<float>{0});
    hn_seg_loss_args a = {};
    a.logits = z.data(), a.labels = labels.data(), a.ld_logits = z.ld(), a.loss_sum = loss.data();
    a.images = 1, a.voxels = 2, a.classes = 3, a.terms = {1, 0, 0, 1, 0, 0};
    DeviceArray<unsigned char> scratch(hn_seg_loss_cuda_scratch(&a));
    ASSERT_HN_OK(hn_seg_loss_cuda(&a, scratch.data(), nullptr));
    EXPECT_TRUE(std::isnan(loss.host()[0]));
}
#endif

} // namespace
