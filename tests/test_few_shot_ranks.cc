/* Tuners that ranks have together: as many episodes at once on each, one choice of a learning rate.
 */
#include "few_shot_test.h"
#include "ranks_test.h"
#include "runtime/train/few_shot_tune.h"

namespace {

class FewShotRanks : public ::testing::TestWithParam<const char *> {};
INSTANTIATE_TEST_SUITE_P(On, FewShotRanks, ::testing::Values("cpu", "cuda"), device_name);

/* Between what 2 at once take, which fit then, and 4, which do not. */
size_t memory_for_two(hn_few_shot_tune_options o)
{
    size_t sum = 0;
    o.shrink = o.together = false;
    o.queries = 0; /* each engine by itself is held to it: that of tuning is the larger one */
    for (const int64_t n : {2, 4}) {
        hn_few_shot_tuner *t = nullptr;
        o.at_once = n;
        EXPECT_HN_OK(hn_few_shot_tuner_new(&o, &t));
        sum += hn_few_shot_tuner_bytes(t) / 2;
        hn_few_shot_tuner_free(t);
    }
    return sum;
}

/* {at_once, best, accuracy of each rate}. few: this rank has memory for two only. */
RankResult choose(const Rank &rank, int64_t at_once, bool few)
{
    const hn_vision_config config = few_shot_model();
    const StripedImages images(config, 80, 1);
    const Episodes episodes(images, 4);
    hn_model model = {};
    hn_device *device = nullptr;
    EXPECT_HN_OK(hn_device_open(rank.device.c_str(), &device));
    model.kind = HN_MODEL_CLASSIFIER;
    model.vision = config;
    model.dtype = HN_F32;
    model.path = (char *)"small";
    hn_team team = {};
    team.ranks.rank = rank.rank, team.ranks.size = rank.size;
    team.hub = rank.size > 1 ? rank.hub : nullptr;
    hn_few_shot_tune_options o = {};
    o.device = device, o.executor = HN_EXECUTOR_AUTO;
    o.model = &model, o.images = images.view();
    o.set = HN_TUNE_QV, o.at_once = at_once, o.shrink = true;
    o.support = kWays * kShot, o.queries = kQueries, o.ways = kWays;
    o.steps = 6, o.augment = 0.9f, o.scale = 10, o.seed = 7;
    if (few) o.memory = memory_for_two(o);
    o.team = &team, o.together = true;
    hn_few_shot_tuner *t = nullptr;
    EXPECT_HN_OK(hn_few_shot_tuner_new(&o, &t));
    if (t == nullptr) return {};
    EXPECT_HN_OK(hn_few_shot_tuner_open(t));
    const double lr[] = {0.02, 0, 3, 1};
    double accuracy[4];
    int64_t best = -1;
    EXPECT_HN_OK(hn_few_shot_choose_lr(t, episodes.all.data(), 4, lr, 4, 5, accuracy, &best));
    RankResult r = {(float)hn_few_shot_tuner_at_once(t), (float)best};
    for (const double a : accuracy) r.push_back((float)a);
    hn_few_shot_tuner_free(t);
    hn_device_close(device);
    return r;
}

/* Groups of 3, and what is left of them: those of the rate 0 are by themselves. */
TEST_P(FewShotRanks, ChooseTheRateOfOneRank)
{
    HN_NEED_RANKS(GetParam(), 2);
    const auto run = [&](int n) {
        return run_ranks(GetParam(), n, [](const Rank &r) { return choose(r, 3, false); });
    };
    const auto one = run(1), two = run(2);
    EXPECT_EQ(two[0], one[0]);
    EXPECT_EQ(two[1], one[0]);
    EXPECT_NE(one[0][2], one[0][4]); /* there is something to choose by */
}

/* One of them has less memory. */
TEST_P(FewShotRanks, TuneAsManyAtOnceAsFitOnEach)
{
    HN_NEED_RANKS(GetParam(), 2);
    const auto run = [&](int n, int64_t at_once, int few) {
        return run_ranks(GetParam(), n,
                         [=](const Rank &r) { return choose(r, at_once, r.rank == few); });
    };
    const auto two = run(2, 4, 1);
    EXPECT_EQ(two[0][0], 2);
    EXPECT_EQ(two[0], two[1]);
    EXPECT_EQ(two[0], run(1, 2, -1)[0]);
    EXPECT_EQ(run(2, 4, 0)[1], two[0]);
}

} // namespace
