/* The parts of hone-pearl that need no run: choosers of tasks, values by name. */
#include "hn_test.h"
#include "runtime/train/pearl_choose.h"
#include "runtime/train/pearl_values.h"

namespace {

int choose(hn_chooser c, const std::vector<std::vector<float>> &z)
{
    std::vector<const float *> logits;
    std::vector<int64_t> classes;
    for (const auto &row : z) {
        logits.push_back(row.data());
        classes.push_back((int64_t)row.size());
    }
    return hn_choose_task(c, logits.data(), classes.data(), (int)z.size());
}

TEST(PearlChoosers, HandMadeLogits)
{
    /* largest logit 5 in task 1; log sum exp: 5.007, ln(3 e^4.9) = 5.999 in task 2; the surest
     * softmax is that of task 0 */
    const std::vector<std::vector<float>> z = {{-9, 3}, {5, 0}, {4.9f, 4.9f, 4.9f}};
    EXPECT_EQ(choose(HN_CHOOSE_MAX_LOGIT, z), 1);
    EXPECT_EQ(choose(HN_CHOOSE_MAX_ENERGY, z), 2);
    EXPECT_EQ(choose(HN_CHOOSE_MIN_ENTROPY, z), 0);
}

TEST(PearlChoosers, TiesGoToTheEarlierTask)
{
    const std::vector<std::vector<float>> z = {{1, 2}, {2, 1}, {1, 2}};
    for (const auto c : {HN_CHOOSE_MAX_LOGIT, HN_CHOOSE_MIN_ENTROPY, HN_CHOOSE_MAX_ENERGY})
        EXPECT_EQ(choose(c, z), 0);
}

/* Entropy is a share of what so many classes can have: 0.69 nats are all of two classes, and 0.63
 * of three. */
TEST(PearlChoosers, EntropyCountsByTheNumberOfClasses)
{
    EXPECT_EQ(choose(HN_CHOOSE_MIN_ENTROPY, {{0, 0}, {0, 0, -30}}), 1);
    EXPECT_EQ(choose(HN_CHOOSE_MIN_ENTROPY, {{7}, {1, 0}}), 1); /* one class says nothing */
    EXPECT_EQ(choose(HN_CHOOSE_MIN_ENTROPY, {{7}, {8}}), 0);
}

TEST(PearlChoosers, LargeLogitsDoNotOverflow)
{
    EXPECT_EQ(choose(HN_CHOOSE_MAX_ENERGY, {{3e38f, -3e38f}, {1e38f, 0}}), 0);
    EXPECT_EQ(choose(HN_CHOOSE_MIN_ENTROPY, {{1, 0}, {3e38f, -3e38f}}), 1);
}

TEST(PearlChoosers, NearestMeanByVariance)
{
    const float f[] = {2, 0}, near_first[] = {0, 0}, near_second[] = {9, 9, 2, 1.5f};
    const float *const mean[] = {near_first, near_second};
    const int64_t classes[] = {1, 2};
    const double even[] = {1, 1}, wide[] = {100, 1};
    EXPECT_EQ(hn_choose_nearest(f, mean, classes, 2, even, 2), 1); /* 4 against 2.25 */
    EXPECT_EQ(hn_choose_nearest(f, mean, classes, 2, wide, 2), 0); /* 0.04 against 2.25 */
    const double none[] = {0, 0};
    EXPECT_EQ(hn_choose_nearest(f, mean, classes, 2, none, 2), 1);
}

TEST(PearlChoosers, Names)
{
    for (int i = 0; i < HN_CHOOSERS; i++) {
        hn_chooser c = HN_CHOOSERS;
        EXPECT_HN_OK(hn_chooser_of(hn_chooser_name((hn_chooser)i), &c));
        EXPECT_EQ((int)c, i);
    }
    hn_chooser c;
    EXPECT_HN_FAIL(hn_chooser_of("best", &c), HN_ERR_ARG, "chooser 'best'");
}

/* ---- values ---- */

class Values {
  public:
    hn_values s = {};
    ~Values() { hn_values_free(&s); }
    float *add(const char *name, int64_t m, int64_t n)
    {
        const int64_t dim[] = {m, n};
        hn_value *v = nullptr;
        EXPECT_HN_OK(hn_values_add(&s, name, 2, dim, &v));
        return v ? v->v : nullptr;
    }
};

TEST(PearlValues, PutAddsOrReplaces)
{
    Values a, b;
    a.add("w", 2, 3)[5] = 7;
    ASSERT_HN_OK(hn_values_overlay(&b.s, &a.s));
    hn_values_find(&a.s, "w")->v[5] = 8;
    EXPECT_EQ(hn_values_find(&b.s, "w")->v[5], 7); /* a copy */
    ASSERT_HN_OK(hn_values_overlay(&b.s, &a.s));
    EXPECT_EQ(hn_values_find(&b.s, "w")->v[5], 8);
    EXPECT_EQ(b.s.n, 1);
    Values c;
    c.add("w", 2, 2);
    EXPECT_HN_FAIL(hn_values_overlay(&b.s, &c.s), HN_ERR_SHAPE, "w: 4 values in the place of 6");
    const int64_t dim[] = {1};
    hn_value *v = nullptr;
    EXPECT_HN_FAIL(hn_values_add(&b.s, "w", 1, dim, &v), HN_ERR_ARG, "a second value");
}

TEST(PearlValues, DropTakesOneOut)
{
    Values a;
    for (const char *name : {"x", "y", "z"}) a.add(name, 1, 1)[0] = (float)name[0];
    hn_values_drop(&a.s, "y");
    hn_values_drop(&a.s, "not there");
    EXPECT_EQ(a.s.n, 2);
    EXPECT_EQ(hn_values_find(&a.s, "y"), nullptr);
    EXPECT_EQ(hn_values_find(&a.s, "z")->v[0], (float)'z');
}

TEST(PearlValues, ProductIsAddedRankByRank)
{
    const float b[] = {1, 2, 3, 4}, a[] = {10, 20, 30, 1, 2, 3}; /* [2, 2] [2, 3] */
    float w[] = {1, 1, 1, 0, 0, 0};
    hn_values_add_product(w, b, a, 2, 3, 2);
    const float want[] = {13, 25, 37, 34, 68, 102};
    for (int i = 0; i < 6; i++) EXPECT_EQ(w[i], want[i]);
}

TEST(PearlValues, FilesGiveThemBack)
{
    const TempDir dir;
    Values a, b;
    float *w = a.add("layer.weight", 3, 4);
    for (int i = 0; i < 12; i++) w[i] = (float)i / 7;
    a.add("norm", 1, 2)[1] = -0.0f;
    char hex[HN_SHA256_HEX];
    ASSERT_HN_OK(hn_values_save((dir / "v.safetensors").c_str(), &a.s, nullptr, 0, hex));
    ASSERT_HN_OK(hn_values_load((dir / "v.safetensors").c_str(), &b.s));
    ASSERT_EQ(b.s.n, 2);
    const hn_value *got = hn_values_find(&b.s, "layer.weight");
    ASSERT_NE(got, nullptr);
    EXPECT_EQ(got->dim[0], 3);
    EXPECT_EQ(hn_value_cols(got), 4);
    EXPECT_EQ(std::memcmp(got->v, w, 12 * sizeof *w), 0);
    EXPECT_TRUE(std::signbit(hn_values_find(&b.s, "norm")->v[1]));
}

} // namespace
