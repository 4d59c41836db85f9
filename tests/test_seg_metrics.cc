/* runtime/data/seg_metrics: Dice, distance transform, hd95; by hand and against brute force. */
#include <algorithm>
#include <array>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/data/nifti.h"
#include "runtime/data/seg_metrics.h"

namespace {

using Size = std::array<int64_t, 3>;
using Mm = std::array<double, 3>;

std::vector<uint8_t> random_mask(const Size &n, int classes, double share, unsigned seed)
{
    std::mt19937 rng(seed);
    std::vector<uint8_t> m((size_t)(n[0] * n[1] * n[2]));
    for (auto &v : m)
        v = std::uniform_real_distribution<>()(rng) < share
                ? (uint8_t)(1 + rng() % (unsigned)(classes - 1))
                : 0;
    return m;
}

/* Places of the voxels of a class that have a neighbour outside of it. */
std::vector<Size> surface(const std::vector<uint8_t> &m, const Size &n, int label)
{
    const auto in = [&](int64_t x, int64_t y, int64_t z) {
        return x >= 0 && y >= 0 && z >= 0 && x < n[0] && y < n[1] && z < n[2] &&
               m[(size_t)((x * n[1] + y) * n[2] + z)] == label;
    };
    std::vector<Size> out;
    for (int64_t x = 0; x < n[0]; x++)
        for (int64_t y = 0; y < n[1]; y++)
            for (int64_t z = 0; z < n[2]; z++) {
                int around = 0;
                for (int s : {-1, 1}) around += in(x + s, y, z) + in(x, y + s, z) + in(x, y, z + s);
                if (in(x, y, z) && around < 6) out.push_back({x, y, z});
            }
    return out;
}

double nearest(const Size &p, const std::vector<Size> &to, const Mm &mm)
{
    double best = INFINITY;
    for (const Size &q : to) {
        double d = 0;
        for (size_t a = 0; a < 3; a++) {
            const double step = mm[a] * (double)(p[a] - q[a]);
            d += step * step;
        }
        best = std::min(best, d);
    }
    return std::sqrt(best);
}

double hd95_by_all_pairs(const std::vector<uint8_t> &a, const std::vector<uint8_t> &b,
                         const Size &n, const Mm &mm, int label)
{
    const auto sa = surface(a, n, label), sb = surface(b, n, label);
    std::vector<double> d;
    for (const Size &p : sa) d.push_back(nearest(p, sb, mm));
    for (const Size &p : sb) d.push_back(nearest(p, sa, mm));
    std::sort(d.begin(), d.end());
    const double place = 0.95 * (double)(d.size() - 1);
    const size_t i = (size_t)place, k = std::min(i + 1, d.size() - 1);
    return d[i] + (place - (double)i) * (d[k] - d[i]);
}

TEST(SegDice, ByHand)
{
    const Size n = {1, 2, 4};
    const std::vector<uint8_t> got = {0, 1, 1, 2, 0, 1, 7, 2}, want = {0, 1, 2, 2, 1, 1, 0, 7};
    hn_seg_score s[4];
    ASSERT_HN_OK(hn_seg_dice(got.data(), want.data(), n.data(), 4, s));
    EXPECT_EQ(s[1].got, 3);
    EXPECT_EQ(s[1].want, 3);
    EXPECT_EQ(s[1].both, 2);
    EXPECT_DOUBLE_EQ(s[1].dice, 4.0 / 6);
    EXPECT_DOUBLE_EQ(s[2].dice, 2.0 / 4);
    EXPECT_DOUBLE_EQ(s[0].dice, 2.0 / 4);
    EXPECT_EQ(s[3].dice, 1); /* in neither */
    EXPECT_TRUE(std::isnan(s[1].hd95));
    EXPECT_HN_FAIL(hn_seg_dice(got.data(), want.data(), n.data(), 0, s), HN_ERR_ARG, "0 classes");
    EXPECT_HN_FAIL(hn_seg_dice(got.data(), want.data(), n.data(), 257, s), HN_ERR_ARG, "257");
}

TEST(DistanceTransform, IsThatOfAllPairs)
{
    for (const Mm &mm : {Mm{1, 1, 1}, Mm{0.5, 2, 3.7}})
        for (double share : {0.01, 0.3, 0.95})
            for (const Size &n : {Size{7, 5, 9}, Size{1, 1, 13}, Size{6, 1, 1}, Size{1, 8, 3}}) {
                const auto mask = random_mask(n, 2, share, 5);
                GuardedArray<double> out(mask.size());
                ASSERT_HN_OK(hn_distance_transform(mask.data(), n.data(), mm.data(), out.data()));
                std::vector<Size> set;
                for (size_t i = 0; i < mask.size(); i++)
                    if (mask[i])
                        set.push_back({(int64_t)i / n[2] / n[1], (int64_t)i / n[2] % n[1],
                                       (int64_t)i % n[2]});
                const auto got = out.host();
                for (size_t i = 0; i < got.size(); i++) {
                    const Size p = {(int64_t)i / n[2] / n[1], (int64_t)i / n[2] % n[1],
                                    (int64_t)i % n[2]};
                    if (set.empty())
                        EXPECT_TRUE(std::isinf(got[i]));
                    else
                        EXPECT_NEAR(std::sqrt(got[i]), nearest(p, set, mm), 1e-12);
                }
            }
}

TEST(SegMetrics, SurfacesAreThoseOfAllPairs)
{
    const Size n = {9, 8, 7};
    int compared = 0;
    for (const Mm &mm : {Mm{1, 1, 1}, Mm{2, 0.7, 3}})
        for (double share : {0.02, 0.4, 0.9})
            for (unsigned seed = 0; seed < 4; seed++) {
                const auto a = random_mask(n, 3, share, seed),
                           b = random_mask(n, 3, share, 9 + seed);
                hn_seg_score s[3];
                ASSERT_HN_OK(hn_seg_metrics(a.data(), b.data(), n.data(), mm.data(), 3, s));
                for (int c = 1; c < 3; c++) {
                    if (s[c].got == 0 || s[c].want == 0) continue;
                    EXPECT_NEAR(s[c].hd95, hd95_by_all_pairs(a, b, n, mm, c), 1e-12);
                    compared++;
                }
            }
    EXPECT_GT(compared, 40);
}

/* Two cubes of 4 voxels a side, one moved by 3 along the last axis of 2 mm: all distances are
 * known, the 95th percentile is that of the far faces. */
TEST(SegMetrics, MovedCubeByHand)
{
    const Size n = {10, 10, 12};
    const Mm mm = {1, 1, 2};
    std::vector<uint8_t> a(1200), b(1200);
    for (size_t x = 2; x < 6; x++)
        for (size_t y = 2; y < 6; y++)
            for (size_t z = 2; z < 6; z++)
                a[(x * 10 + y) * 12 + z] = b[(x * 10 + y) * 12 + z + 3] = 1;
    hn_seg_score s[2];
    ASSERT_HN_OK(hn_seg_metrics(a.data(), b.data(), n.data(), mm.data(), 2, s));
    EXPECT_DOUBLE_EQ(s[1].dice, 2.0 * 16 / 128);
    EXPECT_EQ(s[1].hd95, 6); /* 32 of 112 distances are 3 voxels of 2 mm */
    ASSERT_HN_OK(hn_seg_metrics(a.data(), a.data(), n.data(), mm.data(), 2, s));
    EXPECT_EQ(s[1].hd95, 0);
    EXPECT_EQ(s[1].dice, 1);
}

TEST(SegMetrics, EmptyMasksHaveStatedValues)
{
    const Size n = {240, 240, 155};
    const Mm mm = {1, 1, 1};
    std::vector<uint8_t> a(240 * 240 * 155), b = a;
    hn_seg_score s[2];
    a[5] = 1;
    ASSERT_HN_OK(hn_seg_metrics(a.data(), b.data(), n.data(), mm.data(), 2, s));
    EXPECT_EQ(s[1].dice, 0);
    EXPECT_NEAR(s[1].hd95, 373.12866, 1e-4);
    EXPECT_EQ(s[1].got, 1);
    EXPECT_EQ(s[1].want, 0);
    ASSERT_HN_OK(hn_seg_metrics(b.data(), b.data(), n.data(), mm.data(), 2, s));
    EXPECT_EQ(s[1].dice, 1);
    EXPECT_EQ(s[1].hd95, 0);
}

TEST(SegMetrics, RefusesSizesThatAreNone)
{
    const Mm mm = {1, 1, 1}, flat = {1, 0, 1}, wrong = {1, 1, NAN};
    const Size n = {1, 1, 1}, none = {1, 0, 1};
    const uint8_t v = 1;
    hn_seg_score s[2];
    EXPECT_HN_FAIL(hn_seg_metrics(&v, &v, none.data(), mm.data(), 2, s), HN_ERR_SHAPE, "axis 1");
    EXPECT_HN_FAIL(hn_seg_metrics(&v, &v, n.data(), flat.data(), 2, s), HN_ERR_ARG, "0 mm");
    EXPECT_HN_FAIL(hn_seg_metrics(&v, &v, n.data(), wrong.data(), 2, s), HN_ERR_ARG, "axis 2");
    for (const double far : {0.9e-6, 1.1e6, (double)INFINITY}) {
        const Mm mm_far = {1, far, 1};
        EXPECT_HN_FAIL(hn_seg_metrics(&v, &v, n.data(), mm_far.data(), 2, s), HN_ERR_ARG, "1e+06");
    }
}

TEST(SegMetrics, EveryFailingAllocationIsReported)
{
    const Size n = {5, 5, 5};
    const Mm mm = {1, 1, 1};
    const auto a = random_mask(n, 2, 0.4, 1), b = random_mask(n, 2, 0.4, 2);
    int failures = 0;
    for (uint64_t nth = 1; nth < 100; nth++, failures++) {
        hn_seg_score s[2];
        hn_alloc_fail_at(nth);
        const hn_status st = hn_seg_metrics(a.data(), b.data(), n.data(), mm.data(), 2, s);
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        EXPECT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
    }
    EXPECT_GT(failures, 8);
    EXPECT_LT(failures, 90);
}

/* meshnet5's stored segmentation (1 white, 2 grey) against the tissue labels (1 grey, 2 white). Its
 * SOURCE.md has these two figures, but for each other's tissue: 0.863 is white matter. Without the
 * exchange of 1 and 2 below, both would be under 0.1. */
TEST(SegMetrics, StoredSegmentationHasItsDice)
{
    HN_NEED_DATA(nifti, "nifti");
    HN_NEED_DATA(meshnet, "meshnet-brain");
    hn_nifti got = {}, want = {};
    ASSERT_HN_OK(hn_nifti_read((meshnet + "/meshnet5_on_mni_t1.nii.gz").c_str(), 0, 0, &got));
    ASSERT_HN_OK(hn_nifti_read((nifti + "/mni_icbm152_tissue_labels.nii.gz").c_str(), 0, 0, &want));
    const Size n = {want.info.nx, want.info.ny, want.info.nz};
    std::vector<uint8_t> a((size_t)(n[0] * n[1] * n[2])), b(a.size());
    ASSERT_HN_OK(hn_nifti_labels(&got, "got", a.data()));
    ASSERT_HN_OK(hn_nifti_labels(&want, "want", b.data()));
    hn_nifti_free(&got);
    hn_nifti_free(&want);
    hn_seg_score s[3];
    ASSERT_HN_OK(hn_seg_dice(a.data(), b.data(), n.data(), 3, s));
    EXPECT_LT(std::max(s[1].dice, s[2].dice), 0.1);
    const uint8_t exchange[3] = {0, 2, 1};
    for (auto &v : a) v = exchange[v];
    ASSERT_HN_OK(hn_seg_dice(a.data(), b.data(), n.data(), 3, s));
    EXPECT_NEAR(s[1].dice, 0.797, 5e-4); /* grey */
    EXPECT_NEAR(s[2].dice, 0.863, 5e-4); /* white */
    const Mm mm = {1, 1, 1};
    ASSERT_HN_OK(hn_seg_metrics(a.data(), b.data(), n.data(), mm.data(), 3, s));
    EXPECT_DOUBLE_EQ(s[1].hd95, std::sqrt(14.0)); /* as numpy finds by offsets */
    EXPECT_DOUBLE_EQ(s[2].hd95, std::sqrt(10.0));
}

} // namespace
