/* Clients of a round on several ranks, each a process: what they give is what one rank gives. */
#include "classifier_test.h"
#include "hub_test.h"
#include "runtime/train/fed_client.h"
#include "runtime/train/fed_ranks.h"
#include "runtime/train/fed_ranks_box.h"

namespace {

/* ---- shares ---- */

std::vector<int64_t> shares(const hn_fed_shares &how, int size, const std::vector<int64_t> &steps)
{
    std::vector<hn_fed_task> task;
    for (const int64_t n : steps) task.push_back({.n = 1, .steps = n});
    std::vector<int64_t> first((size_t)size + 1, -1);
    hn_fed_ranks_split(&how, size, task.data(), (int64_t)task.size(), first.data());
    return first;
}

TEST(FedRanks, SharesHaveTheSameWork)
{
    using V = std::vector<int64_t>;
    EXPECT_EQ(shares({}, 4, V(8, 3)), (V{0, 2, 4, 6, 8}));
    EXPECT_EQ(shares({}, 2, {10, 1, 1, 1, 1, 1, 1, 1, 1, 1}), (V{0, 1, 10}));
    EXPECT_EQ(shares({.by_count = true}, 2, {10, 1, 1, 1, 1, 1, 1, 1, 1, 1}), (V{0, 5, 10}));
    EXPECT_EQ(shares({}, 4, {}), (V{0, 0, 0, 0, 0}));
    EXPECT_EQ(shares({}, 3, {5}), (V{0, 0, 1, 1}));
    EXPECT_EQ(shares({.unit = 3}, 2, V(8, 2)), (V{0, 3, 8})); /* groups of 3, 3 and 2 stay whole */
    for (const int size : {1, 2, 3, 7}) { /* never more than one more than another */
        const auto first = shares({.by_count = true}, size, V(20, 1));
        for (int r = 0; r < size; r++) {
            EXPECT_GE(first[(size_t)r + 1] - first[(size_t)r], 20 / size);
            EXPECT_LE(first[(size_t)r + 1] - first[(size_t)r], (20 + size - 1) / size);
        }
    }
}

/* ---- rounds ---- */

/* What a rank's process has: a small network, images, clients. */
struct Rank {
    hn_model model = {};
    hn_adapt adapt = {.parameter = every_parameter, .linear = nullptr, .context = nullptr};
    hn_fed_sim_options o = {};
    hn_fed_sim *sim = nullptr;
    StripedImages images;
    std::vector<std::vector<int32_t>> index;
    std::vector<hn_fed_task> task;
    std::vector<float> start;

    explicit Rank(int64_t fisher = 0)
        : model{.kind = HN_MODEL_CLASSIFIER}, images(small_model("mnist-cnn"), 40, 1)
    {
        omp_set_num_threads(1);
        model.vision = small_model("mnist-cnn");
        model.dtype = HN_F32;
        if (hn_device_open("cpu", &o.device) != HN_OK) return;
        o.executor = HN_EXECUTOR_CPU;
        o.model = &model;
        o.adapt = &adapt;
        o.images = images.view();
        o.local.batch = 4;
        o.local.optimizer.kind = HN_OPTIMIZER_SGD;
        o.local.fisher_images = fisher;
        o.seed = 3;
        o.at_once = 1;
        if (hn_fed_one_new(&o, &sim) != HN_OK) return;
        start.resize((size_t)sim->n_values);
        if (hn_fed_client_get(hn_fed_one_client(sim, 0), start.data()) != HN_OK) start.clear();
        const int32_t sizes[] = {9, 3, 14, 1, 6, 5, 2};
        int32_t first = 0;
        for (const int32_t n : sizes) {
            index.emplace_back();
            for (int32_t i = 0; i < n; i++) index.back().push_back(first + i);
            first += n;
        }
        for (size_t k = 0; k < index.size(); k++)
            task.push_back({.client = (int64_t)k,
                            .index = index[k].data(),
                            .n = sizes[k],
                            .steps = hn_fed_steps(&o.local, sizes[k], 2),
                            .lr = 0.02 * (double)(k + 1),
                            .seed = hn_fed_task_seed(9, 1, (int64_t)k)});
    }
    ~Rank()
    {
        hn_fed_sim_free(sim);
        hn_device_close(o.device);
    }
    Rank(const Rank &) = delete;
};

/* What comes of a round, by take or by prepare. */
struct Results {
    size_t n_values;
    bool fisher;
    std::vector<std::vector<float>> value;
    std::vector<float> loss;
    bool in_order = true;

    void keep(int64_t i, const hn_fed_trained *t)
    {
        std::vector<float> &v = value[(size_t)i];
        v.assign(t->value, t->value + n_values);
        if (fisher) v.insert(v.end(), t->fisher, t->fisher + n_values);
    }
};

Results round_of(hn_fed_sim *s, const Rank &r, bool prepares, bool fisher)
{
    Results got = {(size_t)s->n_values, fisher, {}, {}};
    got.value.resize(r.task.size());
    s->prepare = nullptr;
    if (prepares)
        s->prepare = [](void *c, int64_t i, const hn_fed_trained *t) {
            ((Results *)c)->keep(i, t);
        };
    const auto take = [](void *c, int64_t i, const hn_fed_trained *t) {
        Results *to = (Results *)c;
        to->in_order = to->in_order && i == (int64_t)to->loss.size();
        to->loss.push_back(t->loss);
        if (to->value[(size_t)i].empty()) to->keep(i, t);
        return HN_OK;
    };
    if (s->round(s, r.start.data(), r.task.data(), (int64_t)r.task.size(), take, &got) != HN_OK)
        got.in_order = false;
    return got;
}

struct Way {
    int size;
    bool streams, prepares;
    int64_t window, fisher;
};

class FedRanksWay : public testing::TestWithParam<Way> {};

TEST_P(FedRanksWay, HasTheBitsOfOneRank)
{
    const Way way = GetParam();
    HubJob job(way.size);
    job.start_all([&](hn_hub *h, int rank) {
        Rank r(way.fisher);
        hn_fed_sim *all = nullptr;
        RANK_EXPECT(!r.start.empty());
        const hn_fed_ranks_options o = {.hub = h,
                                        .sim = r.sim,
                                        .most = (int64_t)r.task.size(),
                                        .images = 40,
                                        .fisher = way.fisher > 0,
                                        .streams = way.streams,
                                        .window = way.window};
        RANK_OK(hn_fed_ranks_new(&o, &all));
        if (rank != 0) {
            RANK_OK(hn_fed_ranks_serve(all, [] { return 0; }));
        } else {
            Rank alone(way.fisher);
            for (int round = 0; round < 3; round++) {
                const Results want = round_of(alone.sim, alone, false, way.fisher > 0);
                const Results got = round_of(all, r, way.prepares, way.fisher > 0);
                RANK_EXPECT(got.in_order);
                RANK_EXPECT(got.loss == want.loss);
                RANK_EXPECT(got.value == want.value);
                RANK_EXPECT(hn_fed_ranks_signal(all) == 0);
                r.start = alone.start = got.value[2]; /* other values, the next time */
                r.start.resize((size_t)r.sim->n_values);
                alone.start.resize(r.start.size());
            }
            RANK_OK(hn_fed_ranks_end(all));
        }
        hn_fed_sim_free(all);
        return 0;
    });
    job.expect_all(0);
}

/* Boxes that hold one result, and all; through the hub; with what is prepared when it comes. */
INSTANTIATE_TEST_SUITE_P(Of, FedRanksWay,
                         testing::Values(Way{2, false, false, 0, 0}, Way{2, false, true, 0, 0},
                                         Way{3, false, false, 1, 0}, Way{3, false, true, 1, 0},
                                         Way{2, true, false, 0, 0}, Way{3, true, true, 0, 0},
                                         Way{9, false, true, 2, 0}, Way{2, false, true, 1, 4},
                                         Way{2, true, true, 0, 4}));

/* ---- measurements ---- */

/* A record of part k is k, the values' sum, and who made it. */
struct Record {
    double part, sum;
    int64_t rank;
};

struct Measured {
    int rank;
    int64_t n, fails; /* values; the part that fails */
    double sum;

    static hn_status set(void *c, const float *value)
    {
        Measured *m = (Measured *)c;
        m->sum = 0;
        for (int64_t i = 0; i < m->n; i++) m->sum += value[i];
        return HN_OK;
    }
    static hn_status part(void *c, int64_t k, void *record)
    {
        const Measured *m = (const Measured *)c;
        if (k == m->fails) return HN_FAIL(HN_ERR_NUMERIC, "part %d is wrong", (int)k);
        *(Record *)record = {(double)k, m->sum, m->rank};
        return HN_OK;
    }
};

struct Parts {
    int size;
    int64_t parts;
    bool streams;
};

class FedRanksParts : public testing::TestWithParam<Parts> {};

/* Between rounds, with the values of the moment: every part once, in order, by ranks in order. */
TEST_P(FedRanksParts, AreSharedAndComeInOrder)
{
    const Parts way = GetParam();
    HubJob job(way.size);
    job.start_all([&](hn_hub *h, int rank) {
        Rank r;
        hn_fed_sim *all = nullptr;
        Measured m = {rank, r.sim->n_values, -1, 0};
        const hn_fed_ranks_options o = {.hub = h,
                                        .sim = r.sim,
                                        .measurement = {.parts = way.parts,
                                                        .part_bytes = sizeof(Record),
                                                        .set = Measured::set,
                                                        .part = Measured::part,
                                                        .context = &m},
                                        .most = 7,
                                        .images = 40,
                                        .streams = way.streams};
        RANK_OK(hn_fed_ranks_new(&o, &all));
        if (rank != 0) {
            RANK_OK(hn_fed_ranks_serve(all, [] { return 0; }));
        } else {
            std::vector<float> value = r.start;
            for (int round = 1; round <= 3; round++) {
                std::vector<Record> got((size_t)way.parts, Record{-1, 0, -1});
                RANK_EXPECT(round_of(all, r, true, false).in_order);
                value[0] += 1;
                RANK_OK(hn_fed_ranks_measure(all, round, value.data(), got.data()));
                double sum = 0;
                for (const float v : value) sum += v;
                std::vector<int64_t> of_rank((size_t)way.size);
                for (size_t k = 0; k < got.size(); k++) {
                    RANK_EXPECT(got[k].part == (double)k && got[k].sum == sum);
                    RANK_EXPECT(k == 0 || got[k].rank >= got[k - 1].rank);
                    of_rank[(size_t)got[k].rank]++;
                }
                for (const int64_t n : of_rank)
                    RANK_EXPECT(n == way.parts / way.size || n == (way.parts - 1) / way.size + 1);
            }
            RANK_OK(hn_fed_ranks_end(all));
        }
        hn_fed_sim_free(all);
        return 0;
    });
    job.expect_all(0);
}

INSTANTIATE_TEST_SUITE_P(Of, FedRanksParts,
                         testing::Values(Parts{2, 1, false}, Parts{2, 8, false}, Parts{3, 8, false},
                                         Parts{3, 2, true}, Parts{2, 5, true}, Parts{9, 8, false}));

TEST(FedRanks, APartThatFailsEndsTheMeasurement)
{
    HubJob job(2);
    job.start_all([](hn_hub *h, int rank) {
        Rank r;
        hn_fed_sim *all = nullptr;
        Measured m = {rank, r.sim->n_values, 3, 0};
        const hn_fed_ranks_options o = {.hub = h,
                                        .sim = r.sim,
                                        .measurement = {.parts = 4,
                                                        .part_bytes = sizeof(Record),
                                                        .set = Measured::set,
                                                        .part = Measured::part,
                                                        .context = &m},
                                        .most = 7,
                                        .images = 40};
        std::vector<Record> got(4);
        RANK_OK(hn_fed_ranks_new(&o, &all));
        if (rank == 1) {
            RANK_EXPECT(hn_fed_ranks_serve(all, [] { return 0; }) == HN_ERR_NUMERIC);
            RANK_EXPECT(hn_fed_ranks_measure(all, 1, r.start.data(), got.data()) == HN_ERR_ARG);
            hn_hub_fail(h, "part 3 is wrong");
        } else {
            RANK_EXPECT(hn_fed_ranks_measure(all, 1, r.start.data(), got.data()) == HN_ERR_COMM);
            RANK_EXPECT(std::string(hn_last_text()).find("rank 1 on ") != std::string::npos);
            RANK_EXPECT(hn_fed_ranks_measure(all, 1, r.start.data(), got.data()) == HN_ERR_COMM);
        }
        hn_fed_sim_free(all);
        return 0;
    });
    job.expect_all(0);
}

/* Ranks with other held-out data. */
TEST(FedRanks, MeasurementsOfOtherPartsAreRefused)
{
    HubJob job(2);
    job.start_all([](hn_hub *h, int rank) {
        Rank r;
        hn_fed_sim *all = nullptr;
        Measured m = {rank, 1, -1, 0};
        const hn_fed_ranks_options o = {.hub = h,
                                        .sim = r.sim,
                                        .measurement = {.parts = 4 + rank,
                                                        .part_bytes = sizeof(Record),
                                                        .set = Measured::set,
                                                        .part = Measured::part,
                                                        .context = &m},
                                        .most = 7,
                                        .images = 40};
        RANK_EXPECT(hn_fed_ranks_new(&o, &all) == HN_ERR_SHAPE);
        RANK_EXPECT(
            std::string(hn_last_text()).find("has 5 parts of a measurement, rank 0 has 4") !=
            std::string::npos);
        return 0;
    });
    job.expect_all(0);
}

TEST(FedRanks, ASignalOfAnotherRankIsToldBehindARound)
{
    HubJob job(3);
    job.start_all([](hn_hub *h, int rank) {
        Rank r;
        hn_fed_sim *all = nullptr;
        const hn_fed_ranks_options o = {.hub = h, .sim = r.sim, .most = 7, .images = 40};
        RANK_OK(hn_fed_ranks_new(&o, &all));
        if (rank == 0) {
            RANK_EXPECT(round_of(all, r, true, false).in_order);
            RANK_EXPECT(hn_fed_ranks_signal(all) == SIGUSR1);
            RANK_OK(hn_fed_ranks_end(all));
        } else if (rank == 1) {
            RANK_OK(hn_fed_ranks_serve(all, [] { return 0; }));
        } else {
            RANK_OK(hn_fed_ranks_serve(all, [] { return (int)SIGUSR1; }));
        }
        hn_fed_sim_free(all);
        return 0;
    });
    job.expect_all(0);
}

TEST(FedRanks, RefusesWhatDoesNotFit)
{
    struct Limit {
        int64_t most, images;
        const char *says;
    };
    for (const Limit &limit : {Limit{3, 40, "7 tasks of a round, at most 3"},
                               Limit{7, 39, "40 images of a round's tasks, at most 39"}}) {
        HubJob job(2);
        job.start_all([&](hn_hub *h, int rank) {
            Rank r;
            hn_fed_sim *all = nullptr;
            const hn_fed_ranks_options o = {
                .hub = h, .sim = r.sim, .most = limit.most, .images = limit.images};
            RANK_OK(hn_fed_ranks_new(&o, &all));
            if (rank == 1) return hn_fed_ranks_serve(all, [] { return 0; }) == HN_OK ? 0 : 1;
            const auto take = [](void *, int64_t, const hn_fed_trained *) { return HN_OK; };
            RANK_EXPECT(all->round(all, r.start.data(), r.task.data(), 7, take, nullptr) ==
                        HN_ERR_ARG);
            RANK_EXPECT(std::string(hn_last_text()).find(limit.says) != std::string::npos);
            /* the ranks are not where they were */
            RANK_EXPECT(all->round(all, r.start.data(), r.task.data(), 3, take, nullptr) ==
                        HN_ERR_COMM);
            hn_fed_sim_free(all);
            RANK_OK(hn_hub_share(h, nullptr, 0, 0)); /* which is no order: rank 1 says so */
            return 0;
        });
        EXPECT_NE(job.wait(0), HubJob::kRunning);
        EXPECT_EQ(job.wait(1), 1);
    }
}

/* Rank 0 as it should not be: an order of 7 tasks with 40 images, and another share in the box. */
TEST(FedRanks, SharesThatCannotBeAreRefused)
{
    struct Share {
        int64_t first, n, n_index;
    };
    struct Task {
        int64_t client, n, steps;
        double lr;
        uint64_t seed;
    };
    struct Case {
        Share share;
        int64_t images; /* of its first task */
        const char *says;
    };
    const char *const gives = "rank 0 gives the tasks from", *const sends = "sends a task with";
    for (const Case &c :
         {Case{{0, -1, 4}, 1, gives}, Case{{0, 8, 20}, 1, gives}, Case{{5, 3, 20}, 1, gives},
          Case{{-1, 3, 20}, 1, gives}, Case{{INT64_MAX, 1, 20}, 1, gives},
          Case{{0, 3, 41}, 1, gives}, Case{{0, 3, 2}, 1, gives}, Case{{0, 3, -1}, 1, gives},
          Case{{0, 3, 20}, 21, sends}, Case{{0, 3, 20}, 0, sends}, Case{{0, 3, 20}, -1, sends}}) {
        HubJob job(2);
        job.start_all([&](hn_hub *h, int rank) {
            Rank r;
            if (rank == 1) {
                hn_fed_sim *all = nullptr;
                const hn_fed_ranks_options o = {.hub = h, .sim = r.sim, .most = 7, .images = 40};
                RANK_OK(hn_fed_ranks_new(&o, &all));
                RANK_EXPECT(hn_fed_ranks_serve(all, [] { return 0; }) == HN_ERR_COMM);
                RANK_EXPECT(std::string(hn_last_text()).find(c.says) != std::string::npos);
                hn_fed_sim_free(all);
                return 0;
            }
            const int64_t own[3] = {r.sim->n_values, 0, 0}; /* values; no measurement */
            int64_t counts[6];
            hn_fed_boxes *b = nullptr;
            const hn_fed_boxes_options o = {.hub = h,
                                            .n_values = own[0],
                                            .most = 7,
                                            .tasks = sizeof(Share) + 7 * sizeof(Task) + 40 * 4};
            RANK_OK(hn_hub_gather(h, own, sizeof own, counts));
            RANK_OK(hn_fed_boxes_new(&o, &b));
            char *const box = (char *)hn_fed_boxes_tasks(b, 1);
            const Task task = {.n = c.images, .steps = 1};
            std::memcpy(box, &c.share, sizeof c.share);
            std::memcpy(box + sizeof c.share, &task, sizeof task);
            int64_t order[4] = {1, 1, 7, 40};
            RANK_OK(hn_hub_share(h, order, sizeof order, 0));
            hn_fed_boxes_free(b);
            return 0;
        });
        job.expect_all(0);
    }
}

/* What stands in a box is believed as far as it can be. */
TEST(FedRanks, ResultsThatNobodyAskedForAreRefused)
{
    for (const bool streams : {false, true}) {
        HubJob job(2);
        job.start_all([&](hn_hub *h, int rank) {
            hn_fed_boxes *b = nullptr;
            const hn_fed_boxes_options o = {
                .hub = h, .n_values = 5, .most = 4, .window = 0, .streams = streams};
            const float value[5] = {1, 2, 3, 4, 5};
            hn_fed_trained t = {.value = value, .loss = 0.5f};
            RANK_OK(hn_fed_boxes_new(&o, &b));
            RANK_EXPECT(hn_fed_boxes_streams(b, 1) == streams);
            if (rank == 1) {
                RANK_OK(hn_fed_boxes_give(b, 1, 2, &t));
                RANK_OK(hn_fed_boxes_give(b, 1, 1, &t));
            } else {
                int64_t ready = 0;
                for (const int64_t task : {2, 3}) {
                    while (ready == 0) RANK_OK(hn_fed_boxes_ready(b, 1, 1, &ready));
                    const hn_status st = hn_fed_boxes_look(b, 1, 0, task, &t);
                    RANK_EXPECT(st == (task == 2 ? HN_OK : HN_ERR_COMM));
                    if (st == HN_OK) RANK_EXPECT(std::memcmp(t.value, value, sizeof value) == 0);
                    hn_fed_boxes_release(b, 1);
                    ready = 0;
                }
                RANK_EXPECT(std::string(hn_last_text()).find("nobody asked for") !=
                            std::string::npos);
            }
            RANK_OK(hn_hub_barrier(h));
            hn_fed_boxes_free(b);
            return 0;
        });
        job.expect_all(0);
    }
}

/* A rank that dies in a round: rank 0 does not wait for its results. */
TEST(FedRanks, ARankThatDiesEndsTheRound)
{
    for (const bool prepares : {false, true}) {
        HubJob job(3);
        job.grace = 20;
        job.start_all([&](hn_hub *h, int rank) {
            Rank r;
            hn_fed_sim *all = nullptr;
            const hn_fed_ranks_options o = {.hub = h, .sim = r.sim, .most = 7, .images = 40};
            RANK_OK(hn_fed_ranks_new(&o, &all));
            if (rank == 2) {
                int64_t order[4];
                (void)!hn_hub_share(h, order, sizeof order, 0);
                kill(getpid(), SIGKILL);
            }
            if (rank == 1) {
                const hn_status st = hn_fed_ranks_serve(all, [] { return 0; });
                return st == HN_ERR_COMM ? 1 : 9;
            }
            RANK_EXPECT(!round_of(all, r, prepares, false).in_order);
            RANK_EXPECT(hn_hub_dead(h) != nullptr);
            hn_fed_sim_free(all);
            return 1;
        });
        EXPECT_EQ(job.wait(0), 1) << job.log(0);
        EXPECT_EQ(job.wait(1), 1) << job.log(1);
        EXPECT_TRUE(job.log(0).find("rank 2 on host2 died") != std::string::npos) << job.log(0);
    }
}

} // namespace
