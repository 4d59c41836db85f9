/* runtime/data/volume_patch and volume_window: sites, patches, tiles, windows and their blend; the
 * feed of patches. */
#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "hn_test.h"
#include "runtime/data/volume_patch.h"
#include "runtime/data/volume_window.h"
#include "runtime/train/volume_feed.h"

namespace {

using Size = std::array<int64_t, 3>;

/* Volumes whose voxel i of volume k has value 1000 k + i, in channel c 10000 c more; labelled in
 * given places. */
struct Counted {
    hn_volumes v = {};
    Counted(const Size &n, int64_t count, const std::vector<size_t> &labelled,
            const std::vector<const char *> &sites = {}, size_t channels = 1)
    {
        const size_t voxels = (size_t)(n[0] * n[1] * n[2]);
        std::vector<std::vector<float>> value((size_t)count, std::vector<float>(voxels * channels));
        std::vector<uint8_t> label(voxels);
        for (size_t i : labelled) label[i] = (uint8_t)(1 + i % 2);
        std::vector<hn_volume> all((size_t)count);
        for (size_t k = 0; k < all.size(); k++) {
            for (size_t i = 0; i < voxels * channels; i++)
                value[k][i] = (float)(1000 * k + i / channels + 10000 * (i % channels));
            all[k] = {};
            all[k].channels = (int32_t)channels;
            all[k].name = "v", all[k].site = sites.empty() ? "" : sites[k];
            all[k].value = value[k].data();
            all[k].label = label.data();
            std::copy(n.begin(), n.end(), all[k].size);
        }
        EXPECT_HN_OK(hn_volumes_make(all.data(), count, 3, &v));
    }
    Counted(const Counted &) = delete;
    ~Counted() { hn_volumes_free(&v); }
};

struct Regions {
    hn_regions r = {};
    hn_status status = HN_OK;
    explicit Regions(const hn_volumes &v) { status = hn_regions_of_volumes(&v, &r); }
    Regions(const hn_volumes &v, const hn_site_options &o) { status = hn_regions_cut(&v, &o, &r); }
    Regions() = default;
    Regions(const Regions &) = delete;
    ~Regions() { hn_regions_free(&r); }
};

struct Patches {
    hn_patches *p = nullptr;
    hn_status status;
    Patches(const hn_volumes &v, const hn_regions &r, const hn_patch_options &o)
    {
        status = hn_patches_open(&v, &r, &o, &p);
    }
    Patches(const Patches &) = delete;
    ~Patches() { hn_patches_free(p); }
};

struct Patch {
    std::vector<float> value;
    std::vector<int32_t> label;
    hn_patch_place place = {};
    Patch(const hn_patches *p, int64_t region, uint64_t row)
    {
        GuardedArray<float> v((size_t)hn_patches_values(p));
        GuardedArray<int32_t> l((size_t)hn_patches_voxels(p));
        EXPECT_HN_OK(hn_patches_draw(p, region, row, v.data(), l.data(), &place));
        value = v.host(), label = l.host();
    }
};

/* ---- sites ---- */

TEST(VolumeSites, OneForEachVolumeOrByName)
{
    const Counted plain({2, 3, 4}, 3, {}), named({2, 3, 4}, 4, {}, {"b", "a", "b", "c"}),
        mixed({2, 3, 4}, 2, {}, {"b", ""});
    const Regions r(plain.v), s(named.v), m(mixed.v);
    ASSERT_EQ(r.r.count, 3);
    EXPECT_EQ(r.r.n_sites, 3);
    EXPECT_EQ(r.r.region[2].site, 2);
    EXPECT_EQ(r.r.region[2].size[1], 3);
    EXPECT_EQ(r.r.region[2].scale[0], 1);
    EXPECT_EQ(s.r.n_sites, 3);
    EXPECT_EQ(s.r.region[2].site, 0);
    EXPECT_EQ(s.r.region[3].site, 2);
    EXPECT_HN_FAIL(m.status, HN_ERR_ARG, "has a site");
}

/* The boxes of all sites part the box of tissue: every voxel of it is in one. */
TEST(VolumeSites, BoxesPartTheTissue)
{
    const Size n = {9, 8, 11};
    const auto at = [&](int64_t x, int64_t y, int64_t z) {
        return (size_t)((x * n[1] + y) * n[2] + z);
    };
    const Counted c(n, 2, {at(1, 2, 0), at(7, 6, 9)});
    hn_site_options o = {{3, 2, 4}, 0.2f, 0.1f, 7};
    const Regions r(c.v, o);
    ASSERT_EQ(r.status, HN_OK) << hn_last_error();
    ASSERT_EQ(r.r.count, 48);
    EXPECT_EQ(r.r.n_sites, 48);
    std::map<std::array<int64_t, 4>, int> seen;
    std::set<float> scales;
    for (int64_t i = 0; i < r.r.count; i++) {
        const hn_region &p = r.r.region[i];
        EXPECT_EQ(p.site, i);
        for (int64_t x = 0; x < p.size[0]; x++)
            for (int64_t y = 0; y < p.size[1]; y++)
                for (int64_t z = 0; z < p.size[2]; z++)
                    seen[{p.volume, p.at[0] + x, p.at[1] + y, p.at[2] + z}]++;
        for (int channel = 0; channel < HN_VOLUME_CHANNELS; channel++) {
            EXPECT_GE(p.scale[channel], 0.8f);
            EXPECT_LE(p.scale[channel], 1.2f);
            EXPECT_LE(std::fabs(p.shift[channel]), 0.1f);
        }
        EXPECT_NE(p.scale[0], p.scale[1]);
        EXPECT_NE(p.shift[0], p.shift[1]);
        scales.insert(p.scale[0]);
    }
    EXPECT_EQ(seen.size(), 2u * 7 * 5 * 10);
    for (const auto &s : seen) {
        EXPECT_EQ(s.second, 1);
        EXPECT_TRUE(s.first[1] >= 1 && s.first[1] <= 7 && s.first[2] >= 2 && s.first[3] <= 9);
    }
    EXPECT_GT(scales.size(), 40u);
    const Regions again(c.v, o);
    EXPECT_EQ(std::memcmp(again.r.region, r.r.region, 48 * sizeof(hn_region)), 0);
    o.seed = 8;
    const Regions other(c.v, o);
    EXPECT_NE(other.r.region[0].scale[0], r.r.region[0].scale[0]);
    o.cuts[1] = 6;
    EXPECT_HN_FAIL(Regions(c.v, o).status, HN_ERR_SHAPE, "6 sites along axis 1 of 5");
    o.cuts[1] = 0;
    EXPECT_HN_FAIL(Regions(c.v, o).status, HN_ERR_ARG, "3 x 0 x 4");
    o.cuts[1] = 1, o.scale_spread = 1;
    EXPECT_HN_FAIL(Regions(c.v, o).status, HN_ERR_ARG, "scale by 1 +- 1");
}

TEST(VolumeSites, HeldOutEndsDoNotOverlap)
{
    const Counted c({4, 10, 7}, 1, {});
    const Regions r(c.v);
    Regions a, b;
    ASSERT_HN_OK(hn_regions_hold_out(&r.r, 0.25, &a.r, &b.r));
    EXPECT_EQ(a.r.region[0].size[1], 7); /* 2.5 are rounded to 3 */
    EXPECT_EQ(b.r.region[0].at[1], 7);
    EXPECT_EQ(b.r.region[0].size[1], 3);
    EXPECT_EQ(b.r.region[0].size[2], 7);
    EXPECT_HN_FAIL(hn_regions_hold_out(&r.r, 1, &a.r, &b.r), HN_ERR_ARG, "a share of 1");
}

/* ---- patches ---- */

TEST(VolumePatch, AreCutOutOfTheirRegion)
{
    const Size n = {6, 7, 8};
    const Counted c(n, 2, {});
    Regions r(c.v, {{1, 1, 2}, 0, 0, 0});
    hn_region &p = r.r.region[3];
    p.scale[0] = 2, p.shift[0] = -5;
    hn_patch_options o = {{3, 2, 4}, 0, {0.5, 0.5, 0.5}, 0, 11};
    const Patches s(c.v, r.r, o);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    std::set<std::array<int64_t, 3>> places;
    int flips[3] = {};
    for (uint64_t row = 0; row < 300; row++) {
        const Patch q(s.p, 3, row);
        places.insert({q.place.at[0], q.place.at[1], q.place.at[2]});
        for (int64_t i = 0; i < 24; i++) {
            const int64_t local[3] = {i / 8, i / 4 % 2, i % 4};
            int64_t at[3];
            for (int a = 0; a < 3; a++) {
                at[a] = q.place.at[a] + (q.place.flip[a] ? o.size[a] - 1 - local[a] : local[a]);
                ASSERT_TRUE(at[a] >= p.at[a] && at[a] < p.at[a] + p.size[a]);
            }
            const float v = (float)(1000 + (at[0] * n[1] + at[1]) * n[2] + at[2]);
            ASSERT_EQ(q.value[(size_t)i], 2 * v - 5);
            ASSERT_EQ(q.label[(size_t)i], 0);
        }
        for (int a = 0; a < 3; a++) flips[a] += q.place.flip[a];
    }
    EXPECT_EQ(places.size(), 4u * 6 * 1); /* every place there is */
    for (int f : flips) EXPECT_NEAR(f, 150, 40);
    const Patch a(s.p, 3, 5), b(s.p, 3, 5);
    EXPECT_EQ(a.value, b.value);
}

/* Every channel of a voxel is where the first one is, with a scanner of its own; the places are
 * those of one channel. */
TEST(VolumePatch, ChannelsComeTogether)
{
    const Size n = {6, 7, 8};
    const Counted one(n, 2, {8, 334}), c(n, 2, {8, 334}, {}, 3);
    EXPECT_EQ(c.v.channels, 3);
    EXPECT_EQ(c.v.n_bytes, 2 * 6 * 7 * 8 * (3 * 4 + 1));
    EXPECT_STRNE(c.v.digest, one.v.digest);
    Regions r(c.v, {{1, 1, 2}, 0.5f, 3, 9});
    /* longer than a region along the last axis: padding in front and behind */
    const hn_patch_options o = {{3, 2, 6}, 0.5, {0.5, 0.5, 0.5}, -7, 11};
    const Patches s(c.v, r.r, o), first(one.v, r.r, o);
    ASSERT_EQ(s.status, HN_OK) << hn_last_error();
    EXPECT_EQ(hn_patches_channels(s.p), 3);
    EXPECT_EQ(hn_patches_values(s.p), 3 * 36);
    int64_t inside = 0;
    for (int64_t region = 0; region < r.r.count; region++)
        for (uint64_t row = 0; row < 50; row++) {
            const hn_region &p = r.r.region[region];
            const Patch q(s.p, region, row), alone(first.p, region, row);
            EXPECT_EQ(q.label, alone.label);
            for (size_t i = 0; i < 36; i++) {
                EXPECT_EQ(q.value[3 * i], alone.value[i]);
                const size_t local[3] = {i / 12, i / 6 % 2, i % 6};
                int64_t at[3];
                bool here = true;
                for (int a = 0; a < 3; a++) {
                    const int64_t k = (int64_t)local[a];
                    at[a] = q.place.at[a] + (q.place.flip[a] ? o.size[a] - 1 - k : k);
                    here = here && at[a] >= p.at[a] && at[a] < p.at[a] + p.size[a];
                }
                inside += here;
                for (size_t k = 0; k < 3; k++) {
                    const float v = (float)(1000 * p.volume + (at[0] * n[1] + at[1]) * n[2] +
                                            at[2] + 10000 * (int64_t)k);
                    ASSERT_EQ(q.value[3 * i + k], here ? p.scale[k] * v + p.shift[k] : -7.0f);
                }
            }
        }
    EXPECT_GT(inside, 1000);
    /* a batch, whose second patch is padding */
    const int32_t region[] = {2, -1};
    GuardedArray<float> value(2 * 36 * 3);
    GuardedArray<int32_t> label(2 * 36);
    ASSERT_HN_OK(hn_patches_batch(s.p, region, 2, 8, value.data(), label.data()));
    const auto v = value.host();
    const auto l = label.host();
    const Patch want(s.p, 2, 8);
    EXPECT_TRUE(std::equal(want.value.begin(), want.value.end(), v.begin()));
    EXPECT_EQ(std::count(v.begin() + 108, v.end(), -7), 108);
    EXPECT_EQ(std::count(l.begin() + 36, l.end(), -100), 36);
}

TEST(VolumePatch, ForegroundIsInEveryPatchThatAsksForIt)
{
    const Size n = {12, 11, 13};
    std::vector<size_t> labelled;
    const auto index = [&](int64_t x, int64_t y, int64_t z) {
        return (size_t)((x * n[1] + y) * n[2] + z);
    };
    for (auto [x, y, z] : {Size{0, 0, 0}, Size{11, 10, 12}, Size{5, 5, 5}, Size{5, 5, 6}})
        labelled.push_back(index(x, y, z));
    const Counted c(n, 1, labelled);
    const Regions r(c.v);
    const Patches all(c.v, r.r, {{3, 3, 3}, 1, {}, 0, 3}), none(c.v, r.r, {{3, 3, 3}, 0, {}, 0, 3}),
        half(c.v, r.r, {{3, 3, 3}, 0.5, {}, 0, 3});
    EXPECT_EQ(hn_patches_foreground(all.p, 0), 4);
    std::map<size_t, int> drawn;
    int with[3] = {};
    for (uint64_t row = 0; row < 400; row++) {
        int k = 0;
        for (const Patches *p : {&all, &none, &half}) {
            const Patch q(p->p, 0, row);
            const bool has =
                std::any_of(q.label.begin(), q.label.end(), [](int l) { return l > 0; });
            with[k++] += has;
            if (p != &all) continue;
            ASSERT_TRUE(has) << row;
            for (size_t i = 0; i < q.label.size(); i++)
                if (q.label[i] > 0) drawn[(size_t)q.value[i]]++;
        }
    }
    EXPECT_EQ(with[0], 400);
    EXPECT_LT(with[1], 60);
    EXPECT_NEAR(with[2], 210, 50);
    ASSERT_EQ(drawn.size(), 4u);
    EXPECT_NEAR(drawn[0], 100, 35); /* a corner is as likely as any other voxel */
    EXPECT_NEAR(drawn[index(11, 10, 12)], 100, 35);
}

TEST(VolumePatch, ShortRegionsArePaddedOnBothSides)
{
    const Counted c({2, 5, 9}, 1, {0, 1, 2});
    Regions r(c.v);
    r.r.region[0].at[2] = 3, r.r.region[0].size[2] = 3;
    const Patches s(c.v, r.r, {{5, 5, 4}, 1, {}, -7, 3});
    const Patch q(s.p, 0, 17);
    EXPECT_EQ(q.place.at[0], -1);
    EXPECT_EQ(q.place.at[1], 0);
    EXPECT_EQ(q.place.at[2], 3);
    for (int64_t x = 0; x < 5; x++)
        for (int64_t y = 0; y < 5; y++)
            for (int64_t z = 0; z < 4; z++) {
                const size_t i = (size_t)((x * 5 + y) * 4 + z);
                const bool in = x >= 1 && x <= 2 && z < 3;
                EXPECT_EQ(q.value[i], in ? (float)(((x - 1) * 5 + y) * 9 + z + 3) : -7);
                EXPECT_EQ(q.label[i], in ? 0 : -100);
            }
}

TEST(VolumePatch, TilesHoldEveryVoxelOnce)
{
    const Size n = {7, 4, 5};
    const Counted c(n, 1, {3, 60});
    for (const Size &size : {Size{3, 2, 5}, Size{7, 4, 5}, Size{2, 9, 3}}) {
        const Regions r(c.v);
        hn_patch_options o = {{size[0], size[1], size[2]}, 0, {1, 1, 1}, 0, 3};
        const Patches s(c.v, r.r, o);
        std::map<int, int> seen;
        int labelled = 0;
        const int64_t tiles = hn_patches_tiles(s.p, 0);
        for (int64_t t = 0; t < tiles; t++) {
            std::vector<float> value((size_t)hn_patches_voxels(s.p));
            std::vector<int32_t> label(value.size());
            hn_patch_place place;
            ASSERT_HN_OK(hn_patches_tile(s.p, 0, t, value.data(), label.data(), &place));
            EXPECT_FALSE(place.flip[0]);
            for (size_t i = 0; i < value.size(); i++) {
                if (label[i] != -100) seen[(int)value[i]]++;
                labelled += label[i] > 0;
            }
        }
        EXPECT_EQ(seen.size(), 140u);
        for (const auto &p : seen) EXPECT_EQ(p.second, 1);
        EXPECT_EQ(labelled, 2);
        std::vector<float> value((size_t)hn_patches_voxels(s.p));
        EXPECT_HN_FAIL(hn_patches_tile(s.p, 0, tiles, value.data(), nullptr, nullptr), HN_ERR_ARG,
                       "tile");
        EXPECT_HN_FAIL(hn_patches_draw(s.p, 1, 0, value.data(), nullptr, nullptr), HN_ERR_ARG,
                       "region 1 of 1");
    }
}

TEST(VolumePatch, RefusesWrongOptions)
{
    const Counted c({4, 4, 4}, 1, {});
    Regions r(c.v);
    EXPECT_HN_FAIL(Patches(c.v, r.r, {{3, 0, 3}, 0, {}, 0, 0}).status, HN_ERR_ARG, "3 x 0 x 3");
    EXPECT_HN_FAIL(Patches(c.v, r.r, {{3, 3, 3}, 1.5, {}, 0, 0}).status, HN_ERR_ARG,
                   "foreground 1.5");
    EXPECT_HN_FAIL(Patches(c.v, r.r, {{3, 3, 3}, 0, {0, 0, -1}, 0, 0}).status, HN_ERR_ARG,
                   "flips 0 0 -1");
    EXPECT_HN_FAIL(Patches(c.v, r.r, {{3, 3, 3}, NAN, {}, 0, 0}).status, HN_ERR_ARG, "nan");
    r.r.region[0].at[1] = 1;
    EXPECT_HN_FAIL(Patches(c.v, r.r, {{3, 3, 3}, 0, {}, 0, 0}).status, HN_ERR_ARG,
                   "outside of its volume");
}

TEST(VolumePatch, ABatchIsItsRows)
{
    const Counted c({5, 6, 7}, 2, {8});
    const Regions r(c.v);
    const Patches s(c.v, r.r, {{3, 3, 3}, 0.5, {0.5, 0, 0.5}, -2, 3});
    const int32_t region[] = {1, -1, 0};
    GuardedArray<float> value(81);
    GuardedArray<int32_t> label(81);
    ASSERT_HN_OK(hn_patches_batch(s.p, region, 3, 40, value.data(), label.data()));
    const auto v = value.host();
    const auto l = label.host();
    for (size_t i : {0u, 2u}) {
        const Patch want(s.p, region[i], 40 + i);
        EXPECT_TRUE(std::equal(want.value.begin(), want.value.end(), v.begin() + 27 * (long)i));
        EXPECT_TRUE(std::equal(want.label.begin(), want.label.end(), l.begin() + 27 * (long)i));
    }
    EXPECT_EQ(std::count(v.begin() + 27, v.begin() + 54, -2), 27);
    EXPECT_EQ(std::count(l.begin() + 27, l.begin() + 54, -100), 27);
    const int32_t wrong = 2;
    EXPECT_HN_FAIL(hn_patches_batch(s.p, &wrong, 1, 0, value.data(), nullptr), HN_ERR_ARG,
                   "region 2 of 2");
}

/* ---- feed ---- */

struct Feed {
    hn_feed *f = nullptr;
    hn_status status;
    Feed(const hn_patches *p, const hn_volume_feed_options &o)
    {
        status = hn_volume_feed_new(p, &o, &f);
    }
    Feed(const Feed &) = delete;
    ~Feed() { hn_feed_free(f); }
};

TEST(VolumeFeed, AnEpochHasAsManyPatchesOfEveryRegion)
{
    const Counted c({4, 4, 4}, 3, {});
    const Regions r(c.v);
    const Patches s(c.v, r.r, {{2, 2, 2}, 0, {}, 0, 3});
    const Feed feed(s.p, {4, 2, 9, false}); /* batches cross the ends of epochs of 6 */
    ASSERT_EQ(feed.status, HN_OK) << hn_last_error();
    EXPECT_EQ(feed.f->rows, 6);
    std::vector<float> value(32);
    std::vector<int32_t> label(32);
    const hn_engine_input in = {{value.data(), label.data()}};
    std::vector<int> order;
    for (int64_t k = 0; k < 9; k++) {
        int64_t units = 0;
        ASSERT_HN_OK(feed.f->fill(feed.f, k, &in, &units));
        EXPECT_EQ(units, 4);
        for (size_t i = 0; i < 4; i++) {
            order.push_back((int)value[8 * i] / 1000);
            const Patch want(s.p, order.back(), (uint64_t)k * 4 + i);
            EXPECT_TRUE(
                std::equal(want.value.begin(), want.value.end(), value.begin() + 8 * (long)i));
        }
    }
    std::set<std::vector<int>> orders;
    for (size_t e = 0; e < 6; e++) {
        const std::vector<int> epoch(order.begin() + (long)e * 6, order.begin() + (long)e * 6 + 6);
        for (int region = 0; region < 3; region++)
            EXPECT_EQ(std::count(epoch.begin(), epoch.end(), region), 2);
        orders.insert(epoch);
    }
    EXPECT_GT(orders.size(), 3u);
}

TEST(VolumeFeed, EvaluationSeesEveryVoxelOnce)
{
    const Counted c({5, 4, 3}, 2, {7});
    const Regions r(c.v);
    const Patches s(c.v, r.r, {{2, 4, 2}, 0, {1, 1, 1}, 0, 3});
    const Feed feed(s.p, {5, 0, 0, true});
    ASSERT_EQ(feed.status, HN_OK) << hn_last_error();
    EXPECT_EQ(feed.f->rows, 12);
    EXPECT_EQ(hn_feed_batches(feed.f), 3);
    std::vector<float> value(80);
    std::vector<int32_t> label(80);
    const hn_engine_input in = {{value.data(), label.data()}};
    std::map<int, int> seen;
    int64_t units = 0, all = 0;
    for (int64_t k = 0; k < 3; k++, all += units) {
        ASSERT_HN_OK(feed.f->fill(feed.f, k, &in, &units));
        for (size_t i = 0; i < 80; i++)
            if (label[i] != -100) seen[(int)value[i]]++;
    }
    EXPECT_EQ(all, 12);
    EXPECT_EQ(seen.size(), 120u);
    for (const auto &p : seen) EXPECT_EQ(p.second, 1);
}

TEST(VolumeFeed, ReadsAheadTheSameBatches)
{
    const Counted c({6, 6, 6}, 2, {7, 100});
    const Regions r(c.v);
    const Patches s(c.v, r.r, {{3, 2, 4}, 0.5, {0.5, 0.5, 0.5}, 0, 3});
    const Feed feed(s.p, {3, 5, 1, false});
    ASSERT_EQ(feed.status, HN_OK) << hn_last_error();
    std::vector<float> a(72), b(72);
    std::vector<int32_t> la(72), lb(72);
    const hn_engine_input want = {{a.data(), la.data()}}, got = {{b.data(), lb.data()}};
    ASSERT_HN_OK(feed.f->start(feed.f, 2));
    for (int64_t k = 2, units = 0; k < 9; k++) {
        ASSERT_HN_OK(feed.f->fill(feed.f, k, &want, &units));
        ASSERT_HN_OK(feed.f->next(feed.f, &got));
        EXPECT_EQ(a, b);
        EXPECT_EQ(la, lb);
    }
    EXPECT_HN_FAIL(Feed(s.p, {0, 5, 1, false}).status, HN_ERR_ARG, "batches of 0 patches");
    EXPECT_HN_FAIL(Feed(s.p, {3, 0, 1, false}).status, HN_ERR_ARG, "0 patches of each of 2");
}

/* The micro-batches of all ranks, step by step, are those of one alone; from the begin of a step.
 */
TEST(VolumeFeed, SharesStepsAmongRanks)
{
    const Counted c({6, 6, 6}, 2, {7, 100});
    const Regions r(c.v);
    const Patches s(c.v, r.r, {{3, 2, 4}, 0.5, {0.5, 0.5, 0.5}, 0, 3});
    std::vector<float> a(72), b(72);
    std::vector<int32_t> la(72), lb(72);
    const hn_engine_input want = {{a.data(), la.data()}}, got = {{b.data(), lb.data()}};
    for (int64_t rank = 0; rank < 2; rank++) {
        const Feed feed(s.p, {3, 5, 1, false});
        ASSERT_EQ(feed.status, HN_OK) << hn_last_error();
        feed.f->share = {rank, 2, 3};
        ASSERT_HN_OK(feed.f->start(feed.f, 6));
        for (int64_t step = 2; step < 5; step++)
            for (int64_t k = rank, units = 0; k < 3; k += 2) {
                ASSERT_HN_OK(feed.f->fill(feed.f, step * 3 + k, &want, &units));
                ASSERT_HN_OK(feed.f->next(feed.f, &got));
                EXPECT_EQ(a, b) << "step " << step << ", micro-batch " << k;
                EXPECT_EQ(la, lb);
            }
    }
}

TEST(VolumeFeed, ReadsChannelsAhead)
{
    const Counted c({6, 6, 6}, 2, {7, 100}, {}, 2);
    const Regions r(c.v);
    const Patches s(c.v, r.r, {{3, 2, 4}, 0.5, {0.5, 0.5, 0.5}, 0, 3});
    const Feed feed(s.p, {3, 5, 1, false}), tiles(s.p, {3, 0, 0, true});
    ASSERT_EQ(feed.status, HN_OK) << hn_last_error();
    GuardedArray<float> a(144), b(144);
    GuardedArray<int32_t> la(72), lb(72);
    const hn_engine_input want = {{a.data(), la.data()}}, got = {{b.data(), lb.data()}};
    ASSERT_HN_OK(feed.f->start(feed.f, 0));
    int64_t units = 0;
    for (int64_t k = 0; k < 4; k++) {
        ASSERT_HN_OK(feed.f->fill(feed.f, k, &want, &units));
        ASSERT_HN_OK(feed.f->next(feed.f, &got));
        const auto v = a.host();
        EXPECT_EQ(v, b.host());
        for (size_t i = 0; i < 72; i++) ASSERT_EQ(v[2 * i + 1], v[2 * i] + 10000);
    }
    ASSERT_HN_OK(tiles.f->fill(tiles.f, 0, &want, &units));
    for (size_t i = 0; i < 72; i++) /* the last tiles of a line are padded */
        ASSERT_EQ(a.host()[2 * i + 1], la.host()[i] == -100 ? 0 : a.host()[2 * i] + 10000);
}

/* ---- windows ---- */

/* Two channels in windows are those of each in windows of its own. */
TEST(VolumeWindow, ChannelsAreCutTogether)
{
    const Size n = {9, 6, 11}, size = {4, 8, 5};
    const auto a = normal_f32(9 * 6 * 11, 3), b = normal_f32(9 * 6 * 11, 4);
    std::vector<float> both;
    for (size_t i = 0; i < a.size(); i++) both.push_back(a[i]), both.push_back(b[i]);
    hn_windows w;
    ASSERT_HN_OK(hn_windows_plan(n.data(), size.data(), 0.5, &w));
    for (int64_t i = 0; i < w.count; i++) {
        GuardedArray<float> first(160), second(160), cut(320);
        hn_windows_cut(&w, i, a.data(), 1, -3, first.data());
        hn_windows_cut(&w, i, b.data(), 1, -3, second.data());
        hn_windows_cut(&w, i, both.data(), 2, -3, cut.data());
        const auto got = cut.host(), x = first.host(), y = second.host();
        for (size_t k = 0; k < 160; k++) {
            ASSERT_EQ(got[2 * k], x[k]);
            ASSERT_EQ(got[2 * k + 1], y[k]);
        }
    }
}

TEST(VolumeWindow, PlacesByHand)
{
    const Size volume = {10, 5, 7}, size = {4, 5, 10};
    hn_windows w;
    ASSERT_HN_OK(hn_windows_plan(volume.data(), size.data(), 0.25, &w));
    EXPECT_EQ(w.count, 3); /* 0, 3, 6 along the first */
    int64_t at[3];
    for (int64_t i = 0; i < 3; i++) {
        hn_windows_at(&w, i, at);
        EXPECT_EQ((Size{at[0], at[1], at[2]}), (Size{3 * i, 0, -1})); /* 1 before, 2 behind */
    }
    ASSERT_HN_OK(hn_windows_plan(volume.data(), size.data(), 0, &w));
    hn_windows_at(&w, 2, at);
    EXPECT_EQ(at[0], 6); /* moved back from 8 */
    /* the padding of meshnet5's demo: (256 - n) // 2 */
    const Size mni = {197, 233, 189}, cube = {256, 256, 256};
    ASSERT_HN_OK(hn_windows_plan(mni.data(), cube.data(), 0, &w));
    hn_windows_at(&w, 0, at);
    EXPECT_EQ((Size{at[0], at[1], at[2]}), (Size{-29, -11, -33}));
    EXPECT_HN_FAIL(hn_windows_plan(volume.data(), size.data(), 1, &w), HN_ERR_ARG, "overlap by 1");
    const Size none = {4, 0, 1};
    EXPECT_HN_FAIL(hn_windows_plan(volume.data(), none.data(), 0, &w), HN_ERR_SHAPE, "axis 1");
}

/* Logits that are a function of the voxel come out as they went in, however windows overlap. */
TEST(VolumeWindow, BlendKeepsWhatWindowsAgreeOn)
{
    const Size n = {9, 6, 11}, size = {4, 8, 5};
    const auto value = normal_f32(9 * 6 * 11, 3);
    for (bool gaussian : {false, true})
        for (double overlap : {0.0, 0.5, 0.9}) {
            hn_windows w;
            ASSERT_HN_OK(hn_windows_plan(n.data(), size.data(), overlap, &w));
            hn_blend *b = nullptr;
            ASSERT_HN_OK(hn_blend_new(&w, 2, gaussian, &b));
            std::vector<uint8_t> mask(value.size());
            EXPECT_HN_FAIL(hn_blend_argmax(b, mask.data()), HN_ERR_ARG, "in no window");
            for (int64_t i = 0; i < w.count; i++) {
                GuardedArray<float> cut(4 * 8 * 5);
                hn_windows_cut(&w, i, value.data(), 1, NAN, cut.data());
                std::vector<float> logits;
                for (float v : cut.host()) logits.push_back(v), logits.push_back(0.1f);
                hn_blend_add(b, i, logits.data());
            }
            ASSERT_HN_OK(hn_blend_argmax(b, mask.data())); /* no padding got in */
            std::vector<float> logits(2 * value.size());
            ASSERT_HN_OK(hn_blend_logits(b, logits.data()));
            for (size_t i = 0; i < value.size(); i++) {
                EXPECT_NEAR(logits[2 * i], value[i], 1e-5);
                EXPECT_TRUE(mask[i] == (value[i] < 0.1f) || std::fabs(value[i] - 0.1f) < 1e-4);
            }
            hn_blend_free(b);
        }
}

TEST(VolumeWindow, GaussianByHand)
{
    const Size n = {1, 1, 6}, size = {1, 1, 4};
    hn_windows w;
    ASSERT_HN_OK(hn_windows_plan(n.data(), size.data(), 0.5, &w));
    ASSERT_EQ(w.count, 2);
    hn_blend *b = nullptr;
    ASSERT_HN_OK(hn_blend_new(&w, 1, true, &b));
    const std::vector<float> one(4, 1), five(4, 5);
    hn_blend_add(b, 0, one.data());
    hn_blend_add(b, 1, five.data());
    std::vector<float> got(6);
    ASSERT_HN_OK(hn_blend_logits(b, got.data()));
    /* sigma 0.5; places 1.5 and 0.5 from the middle: exp(-4.5), exp(-0.5) */
    const double far = std::exp(-4.5), near = std::exp(-0.5);
    EXPECT_NEAR(got[2], (near * 1 + far * 5) / (near + far), 1e-6);
    EXPECT_NEAR(got[3], (far * 1 + near * 5) / (near + far), 1e-6);
    EXPECT_EQ(got[0], 1);
    EXPECT_EQ(got[5], 5);
    const std::vector<float> nan(4, NAN);
    hn_blend_add(b, 1, nan.data());
    std::vector<uint8_t> mask(6);
    EXPECT_HN_FAIL(hn_blend_argmax(b, mask.data()), HN_ERR_NUMERIC, "4 logits");
    hn_blend_free(b);
    EXPECT_HN_FAIL(hn_blend_new(&w, 0, true, &b), HN_ERR_ARG, "0 classes");
}

TEST(VolumeWindow, EqualLogitsGiveTheLowerClass)
{
    const Size n = {1, 1, 2};
    hn_windows w;
    ASSERT_HN_OK(hn_windows_plan(n.data(), n.data(), 0, &w));
    hn_blend *b = nullptr;
    ASSERT_HN_OK(hn_blend_new(&w, 3, false, &b));
    const std::vector<float> logits = {0, 2, 2, -1, -1, -2};
    hn_blend_add(b, 0, logits.data());
    uint8_t mask[2];
    ASSERT_HN_OK(hn_blend_argmax(b, mask));
    EXPECT_EQ(mask[0], 1);
    EXPECT_EQ(mask[1], 0);
    hn_blend_free(b);
}

} // namespace
