/* Drift networks on several ranks: the steps of one rank, the same bits twice and behind a resume,
 * another number of ranks. */
#include "drift_lines_test.h"
#include "engine_test.h"
#include "ranks_test.h"
#include "runtime/base/alloc.h"

namespace {

class DriftRanks : public ::testing::TestWithParam<const char *> {};
INSTANTIATE_TEST_SUITE_P(On, DriftRanks, ::testing::Values("cpu", "cuda"), device_name);

/* What a run is asked for besides. */
struct How {
    std::string out;
    int64_t steps = 6, stop_after = 0;
    bool resume = false, resume_any = false;
    const char *refused = nullptr; /* part of rank 0's error */
    const char *word = nullptr;    /* rank 0's line of progress at which it gets a SIGTERM */
};

/* A rank's part of it; its values are {step, points, loss, first, held_out}. */
RankResult train(const Rank &rank, const How &how)
{
    const Lines lines(12, 3);
    hn_device *device = nullptr;
    std::vector<int64_t> train;
    const std::vector<int64_t> held = {0, 3, 5, 7, 8};
    for (int64_t i = 0; i < lines.tasks; i++) train.push_back(i);
    EXPECT_HN_OK(hn_device_open(rank.device.c_str(), &device));
    hn_comm *comm = rank.join(device);
    hn_team team = {};
    team.ranks.rank = rank.rank, team.ranks.size = rank.size;
    team.hub = rank.size > 1 ? rank.hub : nullptr;
    hn_drift_train_options o = {};
    o.team = &team, o.device = device, o.executor = HN_EXECUTOR_AUTO;
    o.facts = &lines.facts, o.data = &lines.d;
    o.features = lines.features.data(), o.feature_rows = lines.feature_rows();
    o.train = train.data(), o.n_train = (int64_t)train.size();
    o.held_out = held.data(), o.n_held_out = (int64_t)held.size();
    o.data_digest = "data";
    o.curve = HN_CURVE_LINEAR;
    o.tasks = 4, o.points = 6, o.noise = 0.05f;
    o.schedule = {
        .kind = HN_SCHEDULE_COSINE, .lr = 1e-2, .min_lr = 0, .warmup = 3, .steps = how.steps};
    o.weight_decay = 0.01, o.max_grad_norm = 1, o.average = 0.98;
    o.dtype = HN_F32, o.seed = 3;
    o.out = how.out.c_str(), o.yaml = "a: 1\n", o.keep = 2;
    o.stop_after = how.stop_after, o.resume = how.resume, o.resume_any = how.resume_any;
    o.log_every = 1;
    if (how.word && rank.rank == 0) o.progress = signalling(how.word);
    hn_drift_train_report r = {};
    const hn_status st = hn_drift_train(&o, &r);
    if (o.progress) fclose(o.progress);
    if (how.refused == nullptr) {
        EXPECT_EQ(st, HN_OK) << hn_last_error();
    } else {
        EXPECT_EQ(st, HN_ERR_ARG);
        EXPECT_NE(std::string(hn_last_error()).find(how.refused), std::string::npos)
            << hn_last_error();
    }
    hn_comm_close(comm, st == HN_OK);
    hn_device_close(device);
    return {(float)r.step, (float)r.points, (float)r.loss, (float)r.first, (float)r.held_out};
}

std::vector<RankResult> run(const char *kind, int ranks, const How &how)
{
    return run_ranks(kind, ranks, [&](const Rank &r) { return train(r, how); });
}

/* All values of a file, the names in order. */
std::vector<float> values(const std::string &path)
{
    const StFile file(path);
    std::vector<float> all;
    for (int64_t i = 0; i < hn_st_count(file.f); i++) {
        const hn_st_tensor *t = hn_st_at(file.f, i);
        const size_t at = all.size();
        all.resize(at + (size_t)hn_st_elements(t));
        EXPECT_HN_OK(hn_st_convert(t, HN_F32, &all[at]));
    }
    return all;
}

/* Noise, times and tasks are those of one rank. Four tasks on three ranks: two, two and none. */
TEST_P(DriftRanks, TakeTheStepsOfOneRank)
{
    HN_NEED_RANKS(GetParam(), 2);
    TempDir dir;
    std::vector<float> want;
    for (const int n : {1, 2, 3, 4}) {
        const bool there = std::string(GetParam()) == "cpu" || count_gpus() >= n;
        if (!there) continue;
        How how;
        how.out = dir / std::to_string(n), how.stop_after = 1;
        const auto r = run(GetParam(), n, how);
        for (const RankResult &v : r) EXPECT_EQ(v, r[0]);
        EXPECT_EQ(r[0][0], 1);
        EXPECT_EQ(r[0][1], 4 * 6);
        const auto got = values(how.out + "/checkpoint-1/delta.safetensors");
        if (n == 1) want = got;
        ASSERT_EQ(got.size(), want.size());
        EXPECT_LT(rel_l2(got, want), 1e-6) << n;
        How more;
        more.out = dir / ("more" + std::to_string(n));
        const auto all = run(GetParam(), n, more);
        static RankResult one;
        if (n == 1) one = all[0];
        for (size_t k = 0; k < one.size(); k++)
            EXPECT_NEAR(all[0][k], one[k], 1e-4 * one[k]) << n << " ranks, " << k;
    }
}

TEST_P(DriftRanks, TheSameBitsTwiceAndBehindAResume)
{
    HN_NEED_RANKS(GetParam(), 2);
    TempDir dir;
    const std::string file = "/drift.safetensors";
    How how;
    for (const char *name : {"a", "b"}) {
        how.out = dir / name;
        run(GetParam(), 2, how);
    }
    const std::string want = read_file(dir / "a" + file);
    EXPECT_FALSE(want.empty());
    EXPECT_TRUE(read_file(dir / "b" + file) == want);
    how.out = dir / "c", how.stop_after = 4;
    run(GetParam(), 2, how);
    how.stop_after = 0, how.resume = true;
    How other = how;
    other.refused = "the run has 2 ranks, here are 1; --resume-device any";
    run(GetParam(), 1, other);
    std::filesystem::copy(dir / "c", dir / "d", std::filesystem::copy_options::recursive);
    run(GetParam(), 2, how);
    EXPECT_TRUE(read_file(dir / "c" + file) == want);
    EXPECT_EQ(read_file(dir / "c/checkpoint-6/optimizer-0.safetensors"),
              read_file(dir / "a/checkpoint-6/optimizer-0.safetensors"));
    other = how;
    other.out = dir / "d", other.resume_any = true;
    run(GetParam(), 1, other);
    EXPECT_LT(rel_l2(values(dir / "d" + file), values(dir / "a" + file)), 1e-3);
}

/* All leave the evaluation behind the last step together. */
TEST_P(DriftRanks, ASignalIsHeardInAnEvaluation)
{
    HN_NEED_RANKS(GetParam(), 2);
    TempDir dir;
    const std::string file = "/drift.safetensors";
    How how;
    how.out = dir / "whole";
    run(GetParam(), 2, how);
    how.out = dir / "o", how.word = "6/6";
    run(GetParam(), 2, how);
    EXPECT_FALSE(std::filesystem::exists(dir / "o" + file));
    how.resume = true, how.word = nullptr;
    run(GetParam(), 2, how);
    for (const std::string &name : {file, std::string("/checkpoint-6/state.json")})
        EXPECT_TRUE(read_file(dir / "o" + name) == read_file(dir / "whole" + name)) << name;
}

} // namespace
