/* runtime/data/class_split: groups, every rule, hostile files; superclasses and pooled sets. */
#include <algorithm>
#include <set>

#include "image_test.h"
#include "runtime/data/class_split.h"

namespace {

struct Groups {
    hn_class_groups g = {};
    hn_status status;
    explicit Groups(const hn_image_set *s) { status = hn_class_groups_make(s, &g); }
    Groups(const Groups &) = delete;
    ~Groups() { hn_class_groups_free(&g); }
    std::vector<std::string> names() const
    {
        return std::vector<std::string>(g.name, g.name + g.n);
    }
    std::vector<int32_t> of() const
    {
        return std::vector<int32_t>(g.of_class, g.of_class + g.n_classes);
    }
};

struct Split {
    hn_class_split c = {};
    hn_status status;
    Split(const hn_image_set *s, const hn_class_split_options &o)
    {
        status = hn_class_split_make(s, &o, &c);
    }
    Split(const Split &) = delete;
    ~Split() { hn_class_split_free(&c); }
    std::vector<int> part() const { return std::vector<int>(c.part, c.part + c.n_classes); }
    std::vector<int32_t> list(int p) const
    {
        return std::vector<int32_t>(c.classes[p], c.classes[p] + c.n[p]);
    }
};

hn_class_split_options counts(int64_t train, int64_t valid, int64_t test, uint64_t seed = 0)
{
    hn_class_split_options o = {};
    o.rule = HN_CLASS_SPLIT_COUNTS;
    o.count[0] = train, o.count[1] = valid, o.count[2] = test;
    o.seed = seed;
    return o;
}

hn_class_split_options groups(const char *valid, const char *test)
{
    hn_class_split_options o = {};
    o.rule = HN_CLASS_SPLIT_GROUPS, o.valid = valid, o.test = test;
    return o;
}

/* A set with one image of each of these classes. */
struct Named {
    std::vector<int32_t> labels;
    SmallSet set;
    explicit Named(const std::vector<const char *> &names, const std::vector<int32_t> &parts = {})
        : labels(count_up(names.size())), set(labels, (int32_t)names.size(), names, parts)
    {
    }
    static std::vector<int32_t> count_up(size_t n)
    {
        std::vector<int32_t> v;
        for (size_t i = 0; i < n; i++) v.push_back((int32_t)i);
        return v;
    }
};

const std::vector<const char *> kLetters = {"greek/1", "greek/2", "latin/1",   "latin/2",
                                            "latin/3", "greek/3", "tifinagh/1"};

// ---- groups ----

TEST(ClassGroups, AreWhatStandsBeforeTheSlash)
{
    Named n(kLetters);
    Groups g(n.set);
    ASSERT_HN_OK(g.status);
    EXPECT_EQ(g.names(), (std::vector<std::string>{"greek", "latin", "tifinagh"}));
    EXPECT_EQ(g.of(), (std::vector<int32_t>{0, 0, 1, 1, 1, 0, 2}));
    Named prefix({"ab/1", "a/1", "abc/1", "a/2"}); /* one name begins like the other */
    EXPECT_EQ(Groups(prefix.set).of(), (std::vector<int32_t>{0, 1, 2, 1}));
    Named without({"greek/1", "cat"}), empty({"/1"});
    EXPECT_HN_FAIL(Groups(without.set).status, HN_ERR_ARG, "class 'cat' is in no group");
    EXPECT_HN_FAIL(Groups(empty.set).status, HN_ERR_ARG, "class '/1' is in no group");
    std::vector<std::string> many;
    std::vector<const char *> many_names;
    for (int i = 0; i < 4097; i++) many.push_back(std::to_string(i) + "/x");
    for (const std::string &s : many) many_names.push_back(s.c_str());
    Named crowd(many_names);
    EXPECT_HN_FAIL(Groups(crowd.set).status, HN_ERR_ARG, "more than 4096 groups");
}

/* CIFAR-100 records: coarse label = fine / 5 (image_test.h). */
TEST(ClassGroups, AreTheSuperclassesOfCifar100)
{
    TempDir d;
    std::vector<int> all;
    for (int i = 0; i < 100; i++) all.push_back(i);
    write_file(d / "train.bin", cifar(100, all, 1));
    write_file(d / "test.bin", cifar(100, {7, 93}, 2));
    std::string fine, coarse;
    for (int i = 0; i < 100; i++) fine += "fine" + std::to_string(i) + "\n";
    for (int i = 0; i < 20; i++) coarse += "coarse" + std::to_string(i) + "\n";
    write_file(d / "fine_classes.txt", fine);
    ImageSets numbered(d.str());
    ASSERT_HN_OK(numbered.status);
    EXPECT_EQ(Groups(numbered.train).names()[13], "13"); /* no names of superclasses are there */
    write_file(d / "coarse_classes.txt", coarse);
    ImageSets s(d.str());
    ASSERT_HN_OK(s.status);
    EXPECT_STREQ(hn_image_set_digest(s.train), hn_image_set_digest(numbered.train));
    for (const hn_image_set *set : {s.train, s.eval}) { /* held-out ones have all of them, too */
        Groups g(set);
        ASSERT_HN_OK(g.status);
        ASSERT_EQ(g.g.n, 20);
        EXPECT_EQ(g.names()[13], "coarse13");
        for (int i = 0; i < 100; i++) EXPECT_EQ(g.of()[(size_t)i], i / 5);
    }
    const hn_image_set *both[] = {s.train, s.eval};
    hn_image_set *pool = nullptr;
    ASSERT_HN_OK(hn_image_sets_pool(both, 2, &pool));
    EXPECT_EQ(Groups(pool).g.n, 20);
    hn_image_set_free(pool);
    hn_image_options o = {};
    o.eval_split = 0.5;
    write_file(d / "train.bin", cifar(100, all, 1) + cifar(100, all, 3));
    ImageSets cut(d.str(), o);
    ASSERT_HN_OK(cut.status);
    EXPECT_EQ(Groups(cut.train).g.n, 20);
    EXPECT_EQ(Groups(cut.eval).g.n, 20);
    o = {};
    o.coarse = true;
    ImageSets twenty(d.str(), o);
    ASSERT_HN_OK(twenty.status);
    EXPECT_HN_FAIL(Groups(twenty.train).status, HN_ERR_ARG, "class 'coarse0' is in no group");

    std::string damaged = cifar(100, all, 1);
    damaged[42 * 3074] = 19; /* a second superclass of class 42 ... */
    write_file(d / "train.bin", damaged + cifar(100, all, 3));
    ImageSets mixed(d.str());
    ASSERT_HN_OK(mixed.status); /* ... matters to nobody but those who ask */
    EXPECT_HN_FAIL(Groups(mixed.train).status, HN_ERR_ARG,
                   "class 'fine42' has images of several superclasses");
    all.pop_back();
    write_file(d / "train.bin", cifar(100, all, 1));
    ImageSets lacking(d.str());
    ASSERT_HN_OK(lacking.status);
    EXPECT_HN_FAIL(Groups(lacking.train).status, HN_ERR_ARG, "class 'fine99' has no image");
    /* the superclass of a class that only the other set has */
    const std::string only = d / "only.bin", train = d / "train.bin";
    write_file(only, cifar(100, {99}, 5));
    ImageSets rest(only), most(train);
    ASSERT_HN_OK(rest.status);
    ASSERT_HN_OK(most.status);
    const hn_image_set *parts[] = {most.train, rest.train}, *mix[] = {most.train, mixed.train};
    ASSERT_HN_OK(hn_image_sets_pool(parts, 2, &pool));
    EXPECT_EQ(Groups(pool).of()[99], 19);
    hn_image_set_free(pool);
    ASSERT_HN_OK(hn_image_sets_pool(mix, 2, &pool));
    EXPECT_HN_FAIL(Groups(pool).status, HN_ERR_ARG, "class 'fine42' has images of several");
    hn_image_set_free(pool);
    write_file(d / "coarse_classes.txt", "one\ntwo\n");
    EXPECT_HN_FAIL(ImageSets(d.str()).status, HN_ERR_FORMAT, "2 names of classes");
}

TEST(PooledSets, KeepClassesAndAddImages)
{
    SmallSet a({0, 1, 2}, 3, {"x", "y", "z"}), b({2, 2}, 3, {"x", "y", "z"});
    SmallSet c({0}, 3, {"x", "z", "y"}), d({0}, 2, {"x", "y"});
    const hn_image_set *ab[] = {a, b}, *ac[] = {a, c}, *ad[] = {a, d};
    hn_image_set *s = nullptr;
    ASSERT_HN_OK(hn_image_sets_pool(ab, 2, &s));
    EXPECT_EQ(labels_of(hn_image_set_view(s)), (std::vector<int32_t>{0, 1, 2, 2, 2}));
    EXPECT_EQ(names_of(hn_image_set_view(s)), (std::vector<std::string>{"x", "y", "z"}));
    EXPECT_EQ(bytes_of(hn_image_set_view(s)),
              bytes_of(hn_image_set_view(a)) + bytes_of(hn_image_set_view(b)));
    hn_image_set_free(s);
    s = nullptr;
    EXPECT_HN_FAIL(hn_image_sets_pool(ac, 2, &s), HN_ERR_ARG, "class 1 is 'y' in small and 'z' in");
    EXPECT_HN_FAIL(hn_image_sets_pool(ad, 2, &s), HN_ERR_ARG, "has 3 classes, small has 2");
    EXPECT_HN_FAIL(hn_image_sets_pool(ab, 0, &s), HN_ERR_ARG, "no image sets");
    const std::string pixel(12, 'p');
    const int32_t label[] = {0};
    hn_images v = {};
    v.count = 1, v.h = 3, v.w = 4, v.c = 1, v.n_classes = 3;
    v.pixel = (const uint8_t *)pixel.data();
    v.label = label;
    hn_image_set *wide = nullptr;
    ASSERT_HN_OK(hn_image_set_make(&v, "wide", &wide));
    const hn_image_set *aw[] = {a, wide};
    EXPECT_HN_FAIL(hn_image_sets_pool(aw, 2, &s), HN_ERR_SHAPE, "wide: images of 4 x 3 pixels");
    hn_image_set_free(wide);
    EXPECT_EQ(s, nullptr);
}

// ---- rules ----

TEST(ClassSplit, ByCountsIsAPermutationOfTheSeed)
{
    std::vector<std::string> names;
    std::vector<const char *> c;
    for (int i = 0; i < 100; i++) names.push_back("class" + std::to_string(i));
    for (const std::string &s : names) c.push_back(s.c_str());
    Named n(c);
    Split a(n.set, counts(64, 16, 20)), again(n.set, counts(64, 16, 20));
    Split other(n.set, counts(64, 16, 20, 1)), small(n.set, counts(30, 0, 0));
    ASSERT_HN_OK(a.status);
    EXPECT_EQ(a.c.n[HN_PART_TRAIN], 64);
    EXPECT_EQ(a.c.n[HN_PART_VALID], 16);
    EXPECT_EQ(a.c.n[HN_PART_TEST], 20);
    EXPECT_EQ(a.part(), again.part());
    EXPECT_NE(a.part(), other.part());
    EXPECT_STREQ(a.c.digest, again.c.digest);
    EXPECT_STRNE(a.c.digest, other.c.digest);
    std::set<int32_t> all;
    for (int p = 0; p < HN_PART_COUNT; p++)
        for (int32_t k : a.list(p)) {
            EXPECT_TRUE(all.insert(k).second);
            EXPECT_EQ(a.c.part[k], p);
        }
    EXPECT_EQ(all.size(), 100u);
    EXPECT_TRUE(std::is_sorted(a.c.classes[0], a.c.classes[0] + 64));
    EXPECT_NE(a.list(0)[63], 63); /* not simply the first 64 */
    for (int32_t k : small.list(0)) EXPECT_EQ(a.c.part[k], HN_PART_TRAIN); /* lies inside */
    EXPECT_EQ(std::count(small.c.part, small.c.part + 100, -1), 70);
    Lines l;
    hn_class_split_report(&a.c, n.set, &l.log);
    EXPECT_TRUE(l.has("64 for training, 16 for validation, 20 for testing, 0 not used")) << l.text;

    EXPECT_HN_FAIL(Split(n.set, counts(64, 17, 20)).status, HN_ERR_ARG,
                   "small has 100 classes, which cannot be split into 64");
    EXPECT_HN_FAIL(Split(n.set, counts(0, 50, 50)).status, HN_ERR_ARG, "cannot be split");
    EXPECT_HN_FAIL(Split(n.set, counts(-1, 1, 1)).status, HN_ERR_ARG, "cannot be split");
    EXPECT_HN_FAIL(Split(n.set, counts(INT64_MAX, INT64_MAX, 2)).status, HN_ERR_ARG,
                   "cannot be split");
}

/* Every class comes into every part as often as the counts say. */
TEST(ClassSplit, ByCountsTreatsClassesAlike)
{
    const int seeds = 3000;
    Named n({"a", "b", "c", "d", "e", "f"});
    double chi = 0;
    int seen[6] = {0};
    for (uint64_t seed = 0; seed < seeds; seed++) {
        Split s(n.set, counts(3, 1, 2, seed));
        for (int32_t k : s.list(HN_PART_TEST)) seen[k]++;
    }
    for (int k : seen) chi += (k - seeds / 3.0) * (k - seeds / 3.0) / (seeds / 3.0);
    EXPECT_LT(chi, 20.5); /* 99.9 % for 5 degrees of freedom */
    EXPECT_GT(chi, 0.01);
}

TEST(ClassSplit, ByFile)
{
    TempDir d;
    Named n({"cat", "dog", "red fox", "emu", "5"});
    hn_class_split_options o = {};
    o.rule = HN_CLASS_SPLIT_FILE;
    const std::string path = d / "split.txt";
    o.file = path.c_str();
    write_file(path, "# a comment\ntrain red fox\r\n\ntrain 5\nvalid cat\ntest dog");
    Split s(n.set, o);
    ASSERT_HN_OK(s.status);
    EXPECT_EQ(s.part(), (std::vector<int>{1, 2, 0, -1, 0}));
    EXPECT_EQ(s.list(HN_PART_TRAIN), (std::vector<int32_t>{2, 4}));
    write_file(path, "train 2\ntrain 4\nvalid 0\ntest 1\n"); /* the same by numbers */
    EXPECT_STREQ(Split(n.set, o).c.digest, s.c.digest);

    const struct {
        const char *text, *says;
        hn_status code;
    } bad[] = {
        {"train cat\ntrain cow\n", ":2: class 'cow' is not in small", HN_ERR_ARG},
        {"train cat\ntest cat\n", ":2: class 'cat' is in a line before: train", HN_ERR_FORMAT},
        {"training cat\n", ":1: 'training cat': a line is", HN_ERR_FORMAT},
        {"train\n", ":1: 'train': a line is", HN_ERR_FORMAT},
        {"train \n", ":1: class '' is not in", HN_ERR_ARG},
        {" train cat\n", ":1: ' train cat': a line is", HN_ERR_FORMAT},
        {"valid cat\n", "leaves no class for training", HN_ERR_ARG},
        {"", "leaves no class for training", HN_ERR_ARG}};
    for (const auto &b : bad) {
        write_file(path, b.text);
        EXPECT_HN_FAIL(Split(n.set, o).status, b.code, b.says);
    }
    write_file(path, std::string("train cat\0\n", 11));
    EXPECT_HN_FAIL(Split(n.set, o).status, HN_ERR_FORMAT, ":1: a zero byte");
    const std::string none = d / "none";
    o.file = none.c_str();
    EXPECT_HN_FAIL(Split(n.set, o).status, HN_ERR_IO, "none");
}

TEST(ClassSplit, ByGroups)
{
    Named n(kLetters);
    Split s(n.set, groups("tifinagh", "latin"));
    ASSERT_HN_OK(s.status);
    EXPECT_EQ(s.part(), (std::vector<int>{0, 0, 2, 2, 2, 0, 1}));
    EXPECT_STREQ(Split(n.set, groups("2", " 1 ")).c.digest, s.c.digest); /* by numbers */
    EXPECT_EQ(Split(n.set, groups(nullptr, "latin,tifinagh")).part(),
              (std::vector<int>{0, 0, 2, 2, 2, 0, 2}));
    EXPECT_HN_FAIL(Split(n.set, groups(nullptr, "latin,runic")).status, HN_ERR_ARG,
                   "small has no group 'runic': 3 groups, 'greek' to 'tifinagh'");
    EXPECT_HN_FAIL(Split(n.set, groups(nullptr, "lat")).status, HN_ERR_ARG, "no group 'lat'");
    EXPECT_HN_FAIL(Split(n.set, groups(nullptr, "latin,")).status, HN_ERR_ARG, "no group ''");
    EXPECT_HN_FAIL(Split(n.set, groups("latin", "latin")).status, HN_ERR_ARG,
                   "group 'latin' is named twice");
    EXPECT_HN_FAIL(Split(n.set, groups("0", "1,2")).status, HN_ERR_ARG,
                   "by groups leaves no class for training");
}

TEST(ClassSplit, ByPartsAndAll)
{
    Named two({"a", "b", "c"}, {0, 2, 3}), three({"a", "b", "c"}, {0, 1, 2, 3}), one({"a", "b"});
    hn_class_split_options o = {};
    o.rule = HN_CLASS_SPLIT_PARTS;
    EXPECT_EQ(Split(two.set, o).part(), (std::vector<int>{0, 0, 2}));
    EXPECT_EQ(Split(three.set, o).part(), (std::vector<int>{0, 1, 2}));
    EXPECT_HN_FAIL(Split(one.set, o).status, HN_ERR_ARG, "1 data set(s): parts are");
    o.rule = HN_CLASS_SPLIT_ALL;
    Split all(one.set, o);
    EXPECT_EQ(all.part(), (std::vector<int>{2, 2}));
    EXPECT_EQ(all.c.classes[HN_PART_TRAIN], nullptr);
}

TEST(ClassSplit, RefusesFieldsOfAnotherRule)
{
    Named n(kLetters);
    hn_class_split_options all = {};
    all.file = "split.txt";
    EXPECT_HN_FAIL(Split(n.set, all).status, HN_ERR_ARG, "class split by 'all'");
    hn_class_split_options o = counts(2, 1, 1);
    o.test = "latin";
    EXPECT_HN_FAIL(Split(n.set, o).status, HN_ERR_ARG, "class split by 'counts'");
    o = groups("latin", nullptr);
    o.count[0] = 1;
    EXPECT_HN_FAIL(Split(n.set, o).status, HN_ERR_ARG, "class split by 'groups'");
    EXPECT_HN_FAIL(Split(n.set, groups(nullptr, nullptr)).status, HN_ERR_ARG, "one at least");
    o = {};
    o.rule = HN_CLASS_SPLIT_FILE;
    EXPECT_HN_FAIL(Split(n.set, o).status, HN_ERR_ARG, "class split by 'file'");
    o.rule = HN_CLASS_SPLIT_COUNT;
    EXPECT_HN_FAIL(Split(n.set, o).status, HN_ERR_ARG, "rule 5");
    EXPECT_STREQ(hn_part_name(HN_PART_COUNT), "?");
    EXPECT_STREQ(hn_class_split_rule_name(HN_CLASS_SPLIT_GROUPS), "groups");
}

// ---- real data ----

TEST(RealClassSplit, OfCifar100BySuperclass)
{
    HN_NEED_DATA(folder, "cifar100");
    ImageSets s(folder);
    ASSERT_HN_OK(s.status);
    Groups g(s.train);
    ASSERT_HN_OK(g.status);
    ASSERT_EQ(g.g.n, 20);
    std::vector<int> size(20, 0);
    for (int32_t k : g.of()) size[(size_t)k]++;
    EXPECT_EQ(size, std::vector<int>(20, 5));
    const auto group = [&](const char *name) {
        return g.names()[(size_t)g.of()[(size_t)hn_image_set_class(s.train, name)]];
    };
    EXPECT_EQ(group("apple"), group("pear")); /* as the technical report lists them */
    EXPECT_EQ(group("apple"), "fruit_and_vegetables");
    EXPECT_EQ(group("willow_tree"), "trees");
    EXPECT_EQ(group("baby"), group("woman"));
    Split split(s.train, groups("trees", "people,flowers"));
    ASSERT_HN_OK(split.status);
    EXPECT_EQ(split.c.n[HN_PART_TRAIN], 85);
    EXPECT_EQ(split.c.n[HN_PART_VALID], 5);
    EXPECT_EQ(split.c.n[HN_PART_TEST], 10);
    EXPECT_EQ(split.c.part[hn_image_set_class(s.train, "orchid")], HN_PART_TEST);
    Split eval(s.eval, groups("trees", "people,flowers"));
    EXPECT_STREQ(eval.c.digest, split.c.digest);
    Split few(s.train, counts(64, 16, 20));
    EXPECT_HN_OK(few.status);
}

TEST(RealClassSplit, OfOmniglotByAlphabet)
{
    HN_NEED_DATA(folder, "omniglot");
    ImageSets s(folder);
    ASSERT_HN_OK(s.status);
    Groups g(s.train);
    ASSERT_HN_OK(g.status);
    EXPECT_EQ(g.g.n, 8);
    Split split(s.train, groups("Greek", "Balinese"));
    ASSERT_HN_OK(split.status);
    EXPECT_EQ(split.c.n[HN_PART_TEST], 24);  /* Balinese has 24 characters, */
    EXPECT_EQ(split.c.n[HN_PART_VALID], 24); /* Greek as well */
    EXPECT_EQ(split.c.n[HN_PART_TRAIN], 242 - 48);
}

} // namespace
