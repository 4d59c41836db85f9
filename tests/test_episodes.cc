/* runtime/data/episodes: formulas of Meta-Dataset by hand, what an episode may hold, how often it
 * holds it, refusals; Omniglot. */
#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <thread>

#include "image_test.h"
#include "runtime/base/label.h"
#include "runtime/data/episodes.h"

namespace {

using I64 = std::vector<int64_t>;

struct Source {
    hn_episode_source *s = nullptr;
    hn_status status;
    explicit Source(const hn_image_set *images, const std::string &name = "small",
                    const std::vector<int32_t> &classes = {}, const hn_class_groups *g = nullptr)
    {
        status =
            hn_episode_source_make(images, name.c_str(), classes.empty() ? nullptr : classes.data(),
                                   (int32_t)classes.size(), g, &s);
    }
    Source(const Source &) = delete;
    ~Source() { hn_episode_source_free(s); }
};

struct Sampler {
    hn_episode_sampler *s = nullptr;
    hn_episode e = {};
    hn_status status;
    Sampler(const hn_episode_source *source, const hn_episode_options &o)
    {
        status = hn_episode_sampler_make(source, &o, &s);
        if (status != HN_OK) return;
        const hn_episode_sizes z = sizes();
        EXPECT_HN_OK(hn_episode_make(z.way, z.support, z.query, &e));
    }
    Sampler(const Sampler &) = delete;
    ~Sampler()
    {
        hn_episode_sampler_free(s);
        hn_episode_free(&e);
    }
    hn_episode_sizes sizes() const { return hn_episode_sampler_sizes(s); }
    const hn_episode &draw(int64_t number)
    {
        EXPECT_HN_OK(hn_episode_draw(s, number, &e));
        return e;
    }
};

/* Images of these classes: n[c] of class c, in an order that is not that of the classes. */
std::vector<int32_t> labels_with(const std::vector<int> &n)
{
    std::vector<int32_t> l;
    for (int round = 0, more = 1; more > 0; round++) {
        more = 0;
        for (size_t c = 0; c < n.size(); c++)
            if (round < n[c]) l.push_back((int32_t)c), more++;
    }
    return l;
}

hn_episode_options fixed(int64_t way, int64_t shot, int64_t query, uint64_t seed = 0)
{
    hn_episode_options o = {};
    o.rule = HN_EPISODE_FIXED;
    o.way_min = way, o.shot_min = shot, o.query = query, o.seed = seed;
    return o;
}

hn_episode_options meta(uint64_t seed = 0)
{
    hn_episode_options o = {};
    o.rule = HN_EPISODE_META, o.seed = seed;
    return o;
}

/* All of an episode, padding included. */
std::vector<int32_t> all_of(const hn_episode &e)
{
    std::vector<int32_t> v = {e.way, e.n_support, e.n_query};
    v.insert(v.end(), e.support, e.support + e.max_support);
    v.insert(v.end(), e.support_label, e.support_label + e.max_support);
    v.insert(v.end(), e.query, e.query + e.max_query);
    v.insert(v.end(), e.query_label, e.query_label + e.max_query);
    v.insert(v.end(), e.classes, e.classes + e.max_way);
    return v;
}

/* What every episode promises. */
void expect_whole(const hn_episode &e, const hn_images *v)
{
    std::set<int32_t> images, classes(e.classes, e.classes + e.way);
    EXPECT_EQ(classes.size(), (size_t)e.way);
    for (int32_t i = 0; i < e.n_support + e.n_query; i++) {
        const bool s = i < e.n_support;
        const int32_t at = s ? i : i - e.n_support;
        const int32_t image = s ? e.support[at] : e.query[at];
        const int32_t label = s ? e.support_label[at] : e.query_label[at];
        ASSERT_TRUE(image >= 0 && image < v->count && label >= 0 && label < e.way);
        EXPECT_TRUE(images.insert(image).second) << "image " << image << " is twice in an episode";
        EXPECT_EQ(v->label[image], e.classes[label]);
    }
    for (int32_t i = e.n_support; i < e.max_support; i++)
        EXPECT_TRUE(e.support[i] == -1 && e.support_label[i] == HN_LABEL_IGNORED);
    for (int32_t i = e.n_query; i < e.max_query; i++)
        EXPECT_TRUE(e.query[i] == -1 && e.query_label[i] == HN_LABEL_IGNORED);
    for (int32_t k = e.way; k < e.max_way; k++) EXPECT_EQ(e.classes[k], -1);
}

std::vector<int> count_labels(const int32_t *label, int32_t n, int32_t way)
{
    std::vector<int> c((size_t)way, 0);
    for (int32_t i = 0; i < n; i++) c[(size_t)label[i]]++;
    return c;
}

/* Pearson's statistic against equal shares; its mean is cells - 1. */
double chi2(const std::map<std::vector<int>, int> &seen, size_t cells)
{
    double n = 0, sum = 0;
    for (const auto &[key, count] : seen) n += count;
    for (const auto &[key, count] : seen) sum += (double)count * count;
    return sum * (double)cells / n - n;
}

// ---- Meta-Dataset's formulas ----

TEST(MetaFormulas, QueriesAreHalfOfTheSmallestClassAtMost)
{
    const I64 n = {20, 20, 20, 20, 20}, small = {40, 7, 30, 90, 12};
    EXPECT_EQ(hn_meta_query(n.data(), 5, 10), 10);
    EXPECT_EQ(hn_meta_query(small.data(), 5, 10), 3);
    EXPECT_EQ(hn_meta_query(small.data(), 5, 2), 2);
    const I64 two = {2, 100};
    EXPECT_EQ(hn_meta_query(two.data(), 2, 10), 1);
}

TEST(MetaFormulas, SupportIsASumOfSharesWithALimit)
{
    const I64 n(5, 20);
    EXPECT_EQ(hn_meta_support(n.data(), 5, 10, 0.0, 500), 5);     /* 5 floor(0 + 1) */
    EXPECT_EQ(hn_meta_support(n.data(), 5, 10, 0.55, 500), 30);   /* 5 floor(5.5 + 1) */
    EXPECT_EQ(hn_meta_support(n.data(), 5, 10, 0x1p-1, 500), 30); /* 5 floor(5 + 1) */
    EXPECT_EQ(hn_meta_support(n.data(), 5, 10, 1 - 0x1p-53, 500), 50);
    const I64 many(50, 1300);
    EXPECT_EQ(hn_meta_support(many.data(), 50, 10, 0.04, 500), 250); /* 50 floor(4 + 1), 100 each */
    EXPECT_EQ(hn_meta_support(many.data(), 50, 10, 0.5, 500), 500);
    EXPECT_EQ(hn_meta_support(many.data(), 50, 10, 0.5, 120), 120);
    const I64 mixed = {12, 60, 300}; /* less 5: 7, 55, 100 */
    EXPECT_EQ(hn_meta_support(mixed.data(), 3, 5, 0.3, 500), 3 + 17 + 31);
    /* 64 (1 - 2^-53) + 1 is rounded to 65: there are 64 */
    const I64 edge = {74};
    EXPECT_EQ(hn_meta_support(edge.data(), 1, 10, 1 - 0x1p-53, 500), 64);
}

TEST(MetaFormulas, ShotsFollowTheSizesAndTheWeights)
{
    const I64 n(5, 20);
    const std::vector<double> even(5, 0.0);
    I64 k(5);
    hn_meta_shots(n.data(), even.data(), 5, 10, 30, k.data());
    EXPECT_EQ(k, I64({6, 6, 6, 6, 6})); /* floor(25 / 5) + 1 */
    hn_meta_shots(n.data(), even.data(), 5, 10, 5, k.data());
    EXPECT_EQ(k, I64(5, 1));
    /* n e^a = 20, 20, 15 of 55 */
    const I64 m = {10, 20, 30};
    const std::vector<double> a = {std::log(2.0), 0.0, std::log(0.5)};
    k.resize(3);
    hn_meta_shots(m.data(), a.data(), 3, 5, 15, k.data()); /* 12 R = 4.36, 4.36, 3.27 */
    EXPECT_EQ(k, I64({5, 5, 4}));
    hn_meta_shots(m.data(), a.data(), 3, 5, 30, k.data()); /* 27 R = 9.8, 9.8, 7.4; 10 - 5 left */
    EXPECT_EQ(k, I64({5, 10, 8}));
}

// ---- fixed ----

TEST(Episodes, HoldWhatTheyPromise)
{
    SmallSet set(labels_with({9, 12, 30, 8, 8, 40, 11}), 7);
    Source d(set);
    ASSERT_HN_OK(d.status);
    hn_episode_options o = fixed(2, 1, 3);
    o.way_max = 5, o.shot_max = 4;
    Sampler p(d.s, o);
    ASSERT_HN_OK(p.status);
    EXPECT_EQ(p.sizes().way, 5);
    EXPECT_EQ(p.sizes().support, 20);
    EXPECT_EQ(p.sizes().query, 15);
    for (int64_t i = 0; i < 300; i++) {
        const hn_episode &e = p.draw(i);
        expect_whole(e, hn_image_set_view(set));
        EXPECT_EQ(e.number, i);
        EXPECT_EQ(e.n_query, 3 * e.way);
        EXPECT_EQ(e.n_support % e.way, 0);
        const auto shots = count_labels(e.support_label, e.n_support, e.way);
        EXPECT_EQ(shots, std::vector<int>((size_t)e.way, e.n_support / e.way));
        EXPECT_EQ(count_labels(e.query_label, e.n_query, e.way),
                  std::vector<int>((size_t)e.way, 3));
        EXPECT_TRUE(std::is_sorted(e.support_label, e.support_label + e.n_support));
    }
}

TEST(Episodes, DependOnSeedNameAndNumberAlone)
{
    SmallSet set(labels_with(std::vector<int>(12, 20)), 12);
    Source d(set), twin(set), renamed(set, "other");
    Source turned(set, "small", {11, 3, 5, 0, 1, 2, 4, 6, 7, 8, 9, 10});
    Sampler p(d.s, fixed(5, 2, 3)), q(twin.s, fixed(5, 2, 3)), other(renamed.s, fixed(5, 2, 3));
    Sampler seed(d.s, fixed(5, 2, 3, 1)), order(turned.s, fixed(5, 2, 3));
    std::vector<std::vector<int32_t>> first;
    for (int64_t i = 0; i < 100; i++) first.push_back(all_of(p.draw(i)));
    for (int64_t i = 99; i >= 0; i--) { /* backwards, by another sampler, other lists of classes */
        EXPECT_EQ(all_of(q.draw(i)), first[(size_t)i]);
        EXPECT_EQ(all_of(order.draw(i)), first[(size_t)i]);
        EXPECT_NE(all_of(other.draw(i)), first[(size_t)i]);
        EXPECT_NE(all_of(seed.draw(i)), first[(size_t)i]);
    }
    EXPECT_EQ(std::set<std::vector<int32_t>>(first.begin(), first.end()).size(), 100u);
    EXPECT_STREQ(hn_episode_sampler_digest(p.s), hn_episode_sampler_digest(order.s));
    EXPECT_STRNE(hn_episode_sampler_digest(p.s), hn_episode_sampler_digest(seed.s));
    EXPECT_STRNE(hn_episode_sampler_digest(p.s), hn_episode_sampler_digest(other.s));
    Sampler last(d.s, fixed(5, 2, 3));
    EXPECT_NE(all_of(last.draw(0xffffffff)), first[0]);
    EXPECT_STREQ(hn_episode_sampler_text(p.s), "small: 5-way 2-shot, 3 queries a class, seed 0");
}

TEST(Episodes, AreTheSameInThreads)
{
    SmallSet set(labels_with(std::vector<int>(12, 20)), 12);
    Source d(set);
    Sampler p(d.s, fixed(4, 3, 2));
    std::vector<std::vector<int32_t>> one(64), many(64);
    for (size_t i = 0; i < one.size(); i++) one[i] = all_of(p.draw((int64_t)i));
    std::vector<std::thread> threads;
    for (size_t t = 0; t < 4; t++)
        threads.emplace_back([&, t] {
            hn_episode e = {};
            EXPECT_HN_OK(hn_episode_make(4, 12, 8, &e));
            for (size_t i = t; i < many.size(); i += 4) {
                EXPECT_HN_OK(hn_episode_draw(p.s, (int64_t)i, &e));
                many[i] = all_of(e);
            }
            hn_episode_free(&e);
        });
    for (std::thread &t : threads) t.join();
    EXPECT_EQ(one, many);
}

/* Statistics of 20,000 episodes with a fixed seed: the bounds are 99.9 % points of chi-square. */
TEST(Episodes, DrawEverythingEquallyOften)
{
    enum { N = 20000 };
    SmallSet set(labels_with({6, 6, 6, 6, 6}), 5);
    Source d(set);
    hn_episode_options o = fixed(2, 1, 1, 7);
    o.way_max = 4, o.shot_max = 3;
    Sampler p(d.s, o);
    std::map<std::vector<int>, int> ways, shots, pairs, image, question, two;
    for (int64_t i = 0; i < N; i++) {
        const hn_episode &e = p.draw(i);
        ways[{e.way}]++;
        shots[{e.n_support / e.way}]++;
        pairs[{e.classes[0], e.classes[1]}]++;
        image[{e.support[0]}]++;
        question[{e.query[e.n_query - 1]}]++;
        if (e.classes[0] == 2) two[{e.support[0], e.query[0]}]++;
    }
    EXPECT_EQ(ways.size(), 3u);
    EXPECT_EQ(shots.size(), 3u);
    EXPECT_EQ(pairs.size(), 20u); /* ordered */
    EXPECT_EQ(image.size(), 30u);
    EXPECT_EQ(question.size(), 30u);
    EXPECT_EQ(two.size(), 30u); /* ordered pairs of 6 */
    EXPECT_LT(chi2(ways, 3), 13.8);
    EXPECT_LT(chi2(shots, 3), 13.8);
    EXPECT_LT(chi2(pairs, 20), 43.8);
    EXPECT_LT(chi2(image, 30), 58.3);
    EXPECT_LT(chi2(question, 30), 58.3);
    EXPECT_LT(chi2(two, 30), 58.3);
}

/* All images of a class are drawn: every order of them, equally often. */
TEST(Episodes, DrawEveryOrder)
{
    SmallSet set(labels_with({4, 4}), 2);
    Source d(set);
    Sampler p(d.s, fixed(2, 3, 1, 3));
    std::map<std::vector<int>, int> orders;
    for (int64_t i = 0; i < 12000; i++) {
        const hn_episode &e = p.draw(i);
        if (e.classes[0] == 0) orders[{e.support[0], e.support[1], e.support[2], e.query[0]}]++;
    }
    EXPECT_EQ(orders.size(), 24u);
    EXPECT_LT(chi2(orders, 24), 49.7);
}

TEST(Episodes, OfCdfsl)
{
    SmallSet set(labels_with(std::vector<int>(7, 40)), 7);
    Source d(set, "isic");
    hn_episode_options o = {};
    o.rule = HN_EPISODE_CDFSL, o.shot_min = 20;
    Sampler p(d.s, o), same(d.s, fixed(5, 20, 15));
    ASSERT_HN_OK(p.status);
    EXPECT_EQ(p.sizes().support, 100);
    EXPECT_EQ(p.sizes().query, 75);
    EXPECT_EQ(all_of(p.draw(5)), all_of(same.draw(5)));
    EXPECT_STREQ(hn_episode_sampler_text(p.s),
                 "isic: CDFSL, 5-way 20-shot, 15 queries a class, seed 0");
    EXPECT_STREQ(hn_episode_sampler_digest(p.s), hn_episode_sampler_digest(same.s));
    o.shot_min = 50;
    EXPECT_HN_FAIL(Sampler(d.s, o).status, HN_ERR_ARG, "has 40 image(s), fewer than 50");
    o.way_min = 5;
    EXPECT_HN_FAIL(Sampler(d.s, o).status, HN_ERR_ARG, "those of the rule 'cdfsl'");
}

TEST(Episodes, KeepToLimits)
{
    SmallSet set(labels_with(std::vector<int>(10, 30)), 10);
    Source d(set);
    hn_episode_options o = fixed(2, 1, 2);
    o.way_max = 10, o.shot_max = 8;
    o.max_way = 8, o.max_support = 24, o.max_query = 16;
    Sampler p(d.s, o);
    ASSERT_HN_OK(p.status);
    EXPECT_EQ(p.sizes().way, 8);
    EXPECT_EQ(p.sizes().support, 24);
    EXPECT_EQ(p.sizes().query, 16);
    int64_t most = 0;
    std::set<int> shots_of_two;
    for (int64_t i = 0; i < 500; i++) {
        const hn_episode &e = p.draw(i);
        expect_whole(e, hn_image_set_view(set));
        EXPECT_LE(e.way, 8);
        EXPECT_LE(e.n_support, 24);
        most = std::max<int64_t>(most, e.n_support);
        if (e.way == 2) shots_of_two.insert(e.n_support / 2);
    }
    EXPECT_EQ(most, 24);
    EXPECT_EQ(shots_of_two.size(), 8u); /* a limit for 8 ways is none for 2 */
    EXPECT_NE(std::string(hn_episode_sampler_text(p.s))
                  .find("2..8-way 1..8-shot, 2 queries a class, limited to 8 ways, 24 support and "
                        "16 query images"),
              std::string::npos);
    o.max_query = 15;
    EXPECT_HN_FAIL(Sampler(d.s, o).status, HN_ERR_ARG, "8 ways of 2 queries do not fit into 15");
    o.max_query = 0, o.max_support = 7;
    EXPECT_HN_FAIL(Sampler(d.s, o).status, HN_ERR_ARG, "8 ways of 1 shot(s) do not fit into 7");
    o.max_support = 0, o.max_way = 1;
    EXPECT_HN_FAIL(Sampler(d.s, o).status, HN_ERR_ARG, "2-way episodes do not fit into 1 ways");
    o.max_way = -1;
    EXPECT_HN_FAIL(Sampler(d.s, o).status, HN_ERR_ARG, "below 0");
}

TEST(Episodes, RefuseWhatTheDataCannotGive)
{
    SmallSet set(labels_with({20, 20, 4, 20}), 5, {"cat", "dog", "emu", "fox", "gnu"});
    Source d(set), cats(set, "cats", {0});
    EXPECT_HN_FAIL(Sampler(d.s, fixed(5, 1, 1)).status, HN_ERR_ARG,
                   "5-way episodes, but it has 4 classes"); /* no gnu has an image */
    EXPECT_HN_FAIL(Sampler(d.s, fixed(2, 2, 3)).status, HN_ERR_ARG,
                   "class 'emu' has 4 image(s), fewer than 2 for the support and 3 as queries");
    EXPECT_HN_OK(Sampler(d.s, fixed(4, 1, 3)).status);
    EXPECT_HN_FAIL(Sampler(cats.s, fixed(2, 1, 1)).status, HN_ERR_ARG, "one class only ('cat')");
    EXPECT_HN_FAIL(Sampler(cats.s, meta()).status, HN_ERR_ARG, "one class only ('cat')");
    EXPECT_HN_FAIL(Sampler(d.s, meta()).status, HN_ERR_ARG, "5 ways at least; it has 4 classes");
    for (const hn_episode_options &o : {fixed(1, 1, 1), fixed(2, 0, 1), fixed(2, 1, 0)})
        EXPECT_HN_FAIL(Sampler(d.s, o).status, HN_ERR_ARG, "at least 2 ways, 1 shot and 1 query");
    hn_episode_options o = fixed(3, 1, 1);
    o.way_max = 2;
    EXPECT_HN_FAIL(Sampler(d.s, o).status, HN_ERR_ARG, "ranges that rise");
    o = meta();
    o.shot_min = 1;
    EXPECT_HN_FAIL(Sampler(d.s, o).status, HN_ERR_ARG, "and so are shots");
    o.rule = HN_EPISODE_RULE_COUNT;
    EXPECT_HN_FAIL(Sampler(d.s, o).status, HN_ERR_ARG, "rule 3 of episodes");
    Sampler p(d.s, fixed(2, 1, 1));
    EXPECT_HN_FAIL(hn_episode_draw(p.s, -1, &p.e), HN_ERR_ARG, "episode -1: 0..4294967295");
    EXPECT_HN_FAIL(hn_episode_draw(p.s, INT64_C(1) << 32, &p.e), HN_ERR_ARG, "0..4294967295");
    hn_episode small = {};
    ASSERT_HN_OK(hn_episode_make(2, 1, 2, &small));
    EXPECT_HN_FAIL(hn_episode_draw(p.s, 0, &small), HN_ERR_ARG, "there is room for 2, 1 and 2");
    hn_episode_free(&small);
    EXPECT_HN_FAIL(hn_episode_make(2, -1, 2, &small), HN_ERR_ARG, "-1 support");
}

TEST(Episodes, RefuseListsOfClassesThatAreNone)
{
    SmallSet set(labels_with({2, 2}), 3, {"cat", "dog", "emu"});
    EXPECT_HN_FAIL(Source(set, "d", {0, 3}).status, HN_ERR_ARG, "d: class 3 is not in small");
    EXPECT_HN_FAIL(Source(set, "d", {0, -1}).status, HN_ERR_ARG, "class -1");
    EXPECT_HN_FAIL(Source(set, "d", {1, 1}).status, HN_ERR_ARG, "class 'dog' is named twice");
    EXPECT_HN_FAIL(Source(set, "d", {0, 2}).status, HN_ERR_ARG, "class 'emu' has no image");
    hn_episode_source *s = nullptr;
    const int32_t none = 0;
    EXPECT_HN_FAIL(hn_episode_source_make(set, "d", &none, 0, nullptr, &s), HN_ERR_ARG,
                   "not a single class");
    hn_class_groups g = {};
    g.n_classes = 2;
    EXPECT_HN_FAIL(hn_episode_source_make(set, "d", nullptr, 0, &g, &s), HN_ERR_ARG,
                   "groups of 2 classes for the 3");
    EXPECT_EQ(s, nullptr);
}

// ---- Meta-Dataset ----

TEST(MetaEpisodes, FollowTheirFormulas)
{
    std::vector<int> n;
    for (int c = 0; c < 60; c++) n.push_back(12 + 5 * c);
    SmallSet set(labels_with(n), 60);
    Source d(set);
    Sampler p(d.s, meta(1));
    ASSERT_HN_OK(p.status);
    EXPECT_EQ(p.sizes().way, 50);
    EXPECT_EQ(p.sizes().support, 500);
    EXPECT_EQ(p.sizes().query, 500);
    std::map<std::vector<int>, int> ways;
    std::set<int> supports;
    for (int64_t i = 0; i < 2000; i++) {
        const hn_episode &e = p.draw(i);
        if (i < 200) expect_whole(e, hn_image_set_view(set));
        ways[{e.way}]++;
        supports.insert(e.n_support);
        int least = 1 << 30;
        for (int32_t k = 0; k < e.way; k++) least = std::min(least, n[(size_t)e.classes[k]]);
        const int q = std::min(10, least / 2);
        ASSERT_EQ(count_labels(e.query_label, e.n_query, e.way),
                  std::vector<int>((size_t)e.way, q));
        ASSERT_TRUE(e.n_support >= e.way && e.n_support <= 500);
        for (int k : count_labels(e.support_label, e.n_support, e.way)) ASSERT_GE(k, 1);
    }
    EXPECT_EQ(ways.size(), 46u);
    EXPECT_LT(chi2(ways, 46), 80.1);
    EXPECT_GT(supports.size(), 200u);
    EXPECT_GE(*supports.rbegin(), 490);
}

/* beta and the weights, seen through episodes of classes of one size: with n = 1000 the share is
 * 100, N = way floor(100 beta + 1) up to 500, and k_c ~ e^a_c. */
TEST(MetaEpisodes, DrawBetaAndWeightsUniformly)
{
    enum { N = 4000 };
    SmallSet set(labels_with(std::vector<int>(5, 1000)), 5);
    Source d(set);
    Sampler p(d.s, meta(2));
    std::map<std::vector<int>, int> tenths, ratios;
    for (int64_t i = 0; i < N; i++) {
        const hn_episode &e = p.draw(i);
        ASSERT_EQ(e.way, 5);
        /* the five floors take 2.5 of N on average, 4 at most */
        tenths[{std::min((e.n_support + 2) / 50, 9)}]++;
        const auto k = count_labels(e.support_label, e.n_support, 5);
        if (e.n_support < 400) continue;
        /* ln(k_0 / k_1) is the difference of two uniforms: triangular on (-ln 4, ln 4) */
        const double r = std::log((double)k[0] / k[1]) / std::log(4.0);
        EXPECT_LT(std::fabs(r), 1.03);
        const double cdf = r < 0 ? (1 + r) * (1 + r) / 2 : 1 - (1 - r) * (1 - r) / 2;
        ratios[{std::clamp((int)(8 * cdf), 0, 7)}]++;
    }
    EXPECT_EQ(tenths.size(), 10u);
    EXPECT_LT(chi2(tenths, 10), 27.9);
    EXPECT_EQ(ratios.size(), 8u);
    EXPECT_LT(chi2(ratios, 8), 24.3);
}

TEST(MetaEpisodes, TakeTheClassesOfOneGroup)
{
    const char *names[] = {"a/1", "a/2", "a/3", "a/4", "a/5", "a/6", "b/1", "b/2",
                           "c/1", "c/2", "c/3", "c/4", "c/5", "c/6", "c/7", "c/8"};
    SmallSet set(labels_with(std::vector<int>(16, 20)), 16,
                 std::vector<const char *>(names, names + 16));
    hn_class_groups g = {};
    ASSERT_HN_OK(hn_class_groups_make(set, &g));
    Source d(set, "alphabets", {}, &g), plain(set, "alphabets");
    Sampler p(d.s, meta(4)), q(plain.s, meta(4));
    ASSERT_HN_OK(p.status);
    EXPECT_EQ(p.sizes().way, 8);
    EXPECT_EQ(p.sizes().support, 8 * 19);
    EXPECT_EQ(p.sizes().query, 80);
    EXPECT_EQ(q.sizes().way, 16);
    std::map<std::vector<int>, int> groups, ways_of_c;
    for (int64_t i = 0; i < 3000; i++) {
        const hn_episode &e = p.draw(i);
        const int32_t of = g.of_class[e.classes[0]];
        for (int32_t k = 0; k < e.way; k++) ASSERT_EQ(g.of_class[e.classes[k]], of);
        EXPECT_EQ(e.n_query, 10 * e.way);
        EXPECT_LE(e.n_support, 10 * e.way);
        groups[{of}]++;
        if (of == 2) ways_of_c[{e.way}]++;
    }
    EXPECT_EQ(groups.size(), 2u);
    EXPECT_EQ(groups.count({1}), 0u);
    EXPECT_LT(chi2(groups, 2), 10.9);
    EXPECT_EQ(ways_of_c.size(), 4u); /* 5..8 */
    EXPECT_LT(chi2(ways_of_c, 4), 16.3);
    Lines l;
    hn_episode_sampler_report(p.s, &l.log);
    EXPECT_TRUE(l.has("! ")) << l.text;
    EXPECT_TRUE(l.has("alphabets: 2 of its 16 classes are in no episode")) << l.text;
    EXPECT_TRUE(l.has("group 'b' has 2 class(es), fewer than 5: it is left out")) << l.text;
    EXPECT_TRUE(l.has("alphabets: Meta-Dataset's episodes, 5..8-way out of one group, seed 4"));
    EXPECT_STRNE(hn_episode_source_digest(d.s), hn_episode_source_digest(plain.s));
    Source few(set, "few", {0, 1, 2, 3, 6, 7}, &g);
    EXPECT_HN_FAIL(Sampler(few.s, meta()).status, HN_ERR_ARG, "and no group of as many");
    hn_class_groups_free(&g);
}

TEST(MetaEpisodes, KeepToLimits)
{
    SmallSet set(labels_with(std::vector<int>(60, 40)), 60);
    Source d(set);
    hn_episode_options o = meta();
    o.max_way = 20, o.max_support = 100, o.max_query = 100;
    Sampler p(d.s, o);
    ASSERT_HN_OK(p.status);
    EXPECT_EQ(p.sizes().way, 20);
    EXPECT_EQ(p.sizes().support, 100);
    EXPECT_EQ(p.sizes().query, 100);
    std::set<int> ways;
    for (int64_t i = 0; i < 300; i++) {
        const hn_episode &e = p.draw(i);
        expect_whole(e, hn_image_set_view(set));
        ways.insert(e.way);
        EXPECT_EQ(e.n_query, e.way * std::min(10, 100 / e.way));
    }
    EXPECT_EQ(*ways.begin(), 5);
    EXPECT_EQ(*ways.rbegin(), 20);
    EXPECT_NE(std::string(hn_episode_sampler_text(p.s))
                  .find("5..20-way, limited to 20 ways, 100 support and 100 query images"),
              std::string::npos)
        << hn_episode_sampler_text(p.s);
    o.max_way = 4;
    EXPECT_HN_FAIL(Sampler(d.s, o).status, HN_ERR_ARG, "do not fit into the limits: 4 ways");
    SmallSet single(labels_with({5, 5, 5, 5, 5, 1}), 6);
    Source lonely(single);
    EXPECT_HN_FAIL(Sampler(lonely.s, meta()).status, HN_ERR_ARG, "class '5' has a single image");
}

// ---- data sets as they come ----

TEST(EpisodesOfFolders, WithAndWithoutParts)
{
    namespace fs = std::filesystem;
    const auto fill = [](const std::string &folder, int n) {
        fs::create_directories(folder);
        for (int i = 0; i < n; i++)
            fs::copy_file("tests/fixtures/images/rgb8.png",
                          folder + "/" + std::to_string(i) + ".png");
    };
    TempDir flat, same, other;
    for (const char *c : {"ant", "bee", "cat"}) {
        fill(flat / c, 3);
        fill(same / ("train/" + std::string(c)), 3);
        fill(same / ("test/" + std::string(c)), 2);
        fill(other / ("train/" + std::string(c)), 3);
    }
    for (const char *c : {"dog", "emu"}) fill(other / ("test/" + std::string(c)), 4);

    ImageSets a(flat.str()); /* classes right in the folder */
    ASSERT_HN_OK(a.status);
    Source d(a.train, "flat");
    Sampler p(d.s, fixed(3, 1, 2));
    ASSERT_HN_OK(p.status);
    expect_whole(p.draw(0), a.t());

    ImageSets b(same.str()); /* the same classes in train and test: pooled */
    ASSERT_HN_OK(b.status);
    hn_image_set *pool = nullptr;
    const hn_image_set *both[] = {b.train, b.eval};
    ASSERT_HN_OK(hn_image_sets_pool(both, 2, &pool));
    Source e(pool, "same");
    Sampler q(e.s, fixed(3, 3, 2)); /* more than either part has of a class */
    ASSERT_HN_OK(q.status);
    expect_whole(q.draw(0), hn_image_set_view(pool));
    hn_image_set_free(pool);

    /* other classes in each: joined, and the split is that of the folders */
    EXPECT_HN_FAIL(ImageSets(other.str()).status, HN_ERR_FORMAT, "is not in the training data");
    ImageSets c(other / "train" + "+" + (other / "test"));
    ASSERT_HN_OK(c.status);
    hn_class_split_options so = {};
    so.rule = HN_CLASS_SPLIT_PARTS;
    hn_class_split split = {};
    ASSERT_HN_OK(hn_class_split_make(c.train, &so, &split));
    hn_episode_source *test = nullptr;
    ASSERT_HN_OK(hn_episode_source_of_part(c.train, "other", &split, HN_PART_TEST, nullptr, &test));
    EXPECT_STREQ(hn_episode_source_name(test), "other/test");
    const int32_t *classes = nullptr;
    EXPECT_EQ(hn_episode_source_classes(test, &classes), 2);
    EXPECT_STREQ(c.t()->class_name[classes[0]], "dog");
    Sampler r(test, fixed(2, 1, 3));
    ASSERT_HN_OK(r.status);
    expect_whole(r.draw(0), c.t());
    hn_episode_source *none = nullptr;
    EXPECT_HN_FAIL(
        hn_episode_source_of_part(c.train, "other", &split, HN_PART_VALID, nullptr, &none),
        HN_ERR_ARG, "the split has no class for 'valid'");
    hn_episode_source_free(test);
    hn_class_split_free(&split);
}

TEST(EpisodesOfOmniglot, AreOfOneAlphabet)
{
    HN_NEED_DATA(folder, "omniglot");
    ImageSets s(folder);
    ASSERT_HN_OK(s.status);
    hn_class_groups g = {};
    ASSERT_HN_OK(hn_class_groups_make(s.train, &g));
    EXPECT_EQ(g.n, 8);
    Source d(s.train, "omniglot", {}, &g);
    Sampler p(d.s, meta());
    ASSERT_HN_OK(p.status);
    std::set<int32_t> alphabets;
    for (int64_t i = 0; i < 100; i++) {
        const hn_episode &e = p.draw(i);
        expect_whole(e, s.t());
        EXPECT_EQ(e.n_query, 10 * e.way); /* 20 drawings each */
        EXPECT_LE(e.n_support, 10 * e.way);
        for (int32_t k = 1; k < e.way; k++)
            EXPECT_EQ(g.of_class[e.classes[k]], g.of_class[e.classes[0]]);
        alphabets.insert(g.of_class[e.classes[0]]);
    }
    EXPECT_EQ(alphabets.size(), 8u);
    hn_class_groups_free(&g);
}

} // namespace
