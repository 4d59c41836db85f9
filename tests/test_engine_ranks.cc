/* Engines on several ranks against one that runs all micro-batches itself: the same sums, the same
 * step; ranks agree bit for bit, and so do two runs. On the CPU, and on GPUs where there are
 * enough. */
#include <memory>

#include "classifier_test.h"
#include "ranks_test.h"
#include "runtime/base/alloc.h"
#include "sparse_test.h"

namespace {

struct Work {
    std::string model = "cnn"; /* decoder, resnet20 */
    hn_optimizer optimizer = {.kind = HN_OPTIMIZER_SGD,
                              .beta1 = 0.9,
                              .beta2 = 0.999,
                              .eps = 1e-8,
                              .momentum = 0,
                              .nesterov = false,
                              .weight_decay = 0,
                              .max_grad_norm = 0};
    double lr = 0.05;
    int64_t micros = 4, steps = 1; /* micros: of a step, over all ranks */
    float anchor = 0;
    int64_t replicas = 1;
    bool whole = false; /* hn_engine_step: a micro-batch a rank */
    hn_executor executor = HN_EXECUTOR_AUTO;
    int stopping = -1; /* the rank that wants to stop, at the begin of ... */
    int64_t stop_step = 0;
};

/* A small network in an engine, on the device of a rank. */
class Trainee {
  public:
    const Rank &rank;
    const Work w;
    hn_device *device = nullptr;
    hn_comm *comm = nullptr;
    hn_engine *e = nullptr;
    hn_engine_options o = {};
    /* a classifier */
    hn_vision_config config = {};
    std::unique_ptr<StripedImages> images;
    hn_classifier_options co = {};
    hn_classifier_job classifier = {};
    /* a decoder */
    hn_model model = {};
    hn_decoder_options d = {};
    hn_decoder_job decoder = {};
    hn_adapt adapt = {.parameter = every_parameter, .linear = nullptr, .context = nullptr};

    Trainee(const Rank &r, const Work &work, bool open_now = true) : rank(r), w(work)
    {
        EXPECT_HN_OK(hn_device_open(r.device.c_str(), &device));
        if (device == nullptr) return;
        comm = r.join(device);
        o.device = device;
        o.executor = w.executor;
        o.adapt = &adapt;
        o.dtype = HN_F32;
        o.train = true;
        o.replicas = w.replicas;
        o.optimizer = w.optimizer;
        o.anchor.weight = w.anchor;
        o.seed = 7;
        if (w.model == "decoder")
            settle_decoder();
        else
            settle_classifier();
        if (open_now) open();
    }
    ~Trainee()
    {
        hn_engine_free(e);
        hn_comm_close(comm, !::testing::Test::HasFailure());
        hn_model_close(&model);
        hn_device_close(device);
    }
    Trainee(const Trainee &) = delete;

    void settle_classifier()
    {
        config = small_model(w.model == "cnn" ? "mnist-cnn" : w.model);
        images = std::make_unique<StripedImages>(config, 64, 1);
        co.config = &config;
        co.batch = 4;
        co.train = images->view();
        co.augment = {.pad = 1, .flip = 0.5f, .resized = false, .scale = {}, .ratio = {}};
        co.dtype = HN_F32;
        hn_classifier_job_init(&classifier, &co);
        o.job = &classifier.job;
    }
    void settle_decoder()
    {
        EXPECT_HN_OK(hn_model_open("tests/fixtures/models/llama", "f32", nullptr, &model));
        d.decoder = &model.decoder;
        d.batch_rows = 2;
        d.seq_len = 16;
        d.max_seqs = 2;
        hn_decoder_job_init(&decoder, &d);
        o.job = &decoder.job;
    }
    void open()
    {
        ASSERT_HN_OK(hn_engine_new(&o, &e));
        ASSERT_HN_OK(hn_engine_allocate(e));
        if (w.model == "decoder") {
            ASSERT_HN_OK(hn_model_load(&model, hn_engine_params(e), 5));
        } else {
            hn_params *p = hn_engine_params(e);
            for (int64_t i = 0; i < hn_params_count(p); i++)
                ASSERT_HN_OK(hn_param_init(hn_params_at(p, i), 5));
        }
    }
    /* Micro-batches differ in how many rows count. */
    void fill(int64_t number)
    {
        hn_engine_input in;
        ASSERT_HN_OK(hn_engine_batch(e, &in));
        o.job->empty(o.job, in.field);
        if (w.model == "decoder")
            fill_decoder(hn_decoder_batch_of(&in), number);
        else
            fill_classifier(hn_classifier_batch_of(&classifier, &in), number);
    }
    void fill_classifier(const hn_classifier_batch &b, int64_t number)
    {
        const int64_t each = co.batch / (w.replicas > 1 ? w.replicas : 1);
        for (int64_t i = 0; i < co.batch; i++) {
            if (i % each > 0 && i % each >= each - number % 2) continue;
            b.index[i] = (int32_t)((number * co.batch + i) % 64);
            b.label[i] = images->view()->label[b.index[i]];
        }
    }
    void fill_decoder(const hn_decoder_batch &b, int64_t number)
    {
        const int64_t n = d.batch_rows * d.seq_len;
        for (int64_t i = 0; i < n; i++) {
            const int64_t t = number * n + i;
            b.tokens[i] = (int32_t)((t * t / 3 + t) % model.decoder.vocab);
            b.labels[i] = i % 5 == number % 5 ? -100 : (int32_t)((t + 1) % model.decoder.vocab);
            b.positions[i] = (int32_t)(i % d.seq_len);
        }
        for (int64_t s = 0; s <= d.max_seqs; s++) b.offsets[s] = (int32_t)(s * d.seq_len);
    }
    /* This rank's share of a step, without what ends it. */
    void share(int64_t step)
    {
        ASSERT_HN_OK(hn_engine_begin(e, step));
        for (int64_t i = rank.rank; i < w.micros; i += rank.size) {
            fill(step * w.micros + i);
            ASSERT_HN_OK(hn_engine_micro(e, i));
        }
    }
    std::vector<hn_step_report> step(int64_t number)
    {
        std::vector<hn_step_report> r((size_t)hn_engine_replicas(e));
        hn_engine_want_stop(e, w.stopping == rank.rank && number >= w.stop_step);
        if (w.whole) {
            fill(number * w.micros + rank.rank);
            EXPECT_HN_OK(hn_engine_step(e, number, w.lr, r.data()));
            return r;
        }
        share(number);
        EXPECT_HN_OK(hn_engine_update(e, w.lr, r.data()));
        return r;
    }
    std::vector<float> values(bool buffers = false) const
    {
        std::vector<float> all;
        hn_params *p = hn_engine_params(e);
        for (int64_t i = 0; i < hn_params_count(p); i++) {
            const hn_param *q = hn_params_at(p, i);
            if (buffers ? !q->buffer : !q->trained) continue;
            for (int64_t g = 0; g < hn_engine_replicas(e); g++) {
                std::vector<float> v((size_t)hn_param_values(q));
                EXPECT_HN_OK(buffers ? hn_param_get(q, v.data())
                                     : hn_param_get_replica(q, g, v.data()));
                all.insert(all.end(), v.begin(), v.end());
                if (buffers) break;
            }
        }
        return all;
    }
    /* All gradients and the count behind them, summed over the ranks. */
    std::vector<float> gradients() const
    {
        size_t bytes = 0;
        void *at = hn_program_replica(hn_engine_program(e), HN_MEM_GRAD, 0, &bytes);
        const hn_collectives *c = hn_comm_collectives(comm);
        const hn_collective_span span = {
            .data = (float *)at, .n = (int64_t)(bytes / sizeof(float)), .copies = 1, .stride = 0};
        EXPECT_HN_OK(c->all_reduce(c->context, &span, 1, hn_device_stream(device)));
        std::vector<float> v(bytes / sizeof(float));
        EXPECT_HN_OK(hn_device_read(device, v.data(), at, bytes));
        return v;
    }
};

enum { LOSS, TOKENS, NORM, SKIPPED, STOP, REPORT };

/* Reports of all steps and replicas, REPORT numbers each; behind them the trained values. */
RankResult train(const Rank &r, const Work &w)
{
    Trainee t(r, w);
    RankResult all;
    if (t.e == nullptr) return all;
    for (int64_t s = 0; s < w.steps; s++)
        for (const hn_step_report &x : t.step(s))
            for (const double v :
                 {x.loss_sum, (double)x.tokens, x.grad_norm, (double)x.skipped, (double)x.stop})
                all.push_back((float)v);
    EXPECT_HN_OK(hn_engine_compare_ranks(t.e, r.hub));
    const auto v = t.values();
    all.insert(all.end(), v.begin(), v.end());
    return all;
}

RankResult values_of(const RankResult &v, const Work &w)
{
    return RankResult(v.begin() + REPORT * w.steps * w.replicas, v.end());
}

class EngineRanks : public ::testing::TestWithParam<const char *> {
  protected:
    const std::string kind = GetParam();
    std::vector<RankResult> run(int size, const Work &w)
    {
        return run_ranks(kind, size, [&w](const Rank &r) { return train(r, w); });
    }
    /* Every rank has the same reports and values; those of rank 0. */
    RankResult agreed(int size, const Work &w)
    {
        const auto all = run(size, w);
        for (const RankResult &one : all)
            EXPECT_TRUE(!one.empty() && same_bits(one, all[0])) << size << " ranks";
        return all[0];
    }
    /* f32 sums in another order: 1e-6 of their norm. */
    void expect_like_one_rank(int size, const Work &w)
    {
        const RankResult want = agreed(1, w), got = agreed(size, w);
        ASSERT_EQ(got.size(), want.size());
        for (int64_t i = 0; i < w.steps * w.replicas; i++) {
            const float *g = &got[(size_t)(REPORT * i)], *x = &want[(size_t)(REPORT * i)];
            EXPECT_NEAR(g[LOSS], x[LOSS], 1e-5 * x[LOSS]) << i;
            EXPECT_EQ(g[TOKENS], x[TOKENS]) << i;
            EXPECT_NEAR(g[NORM], x[NORM], 1e-5 * x[NORM]) << i;
            EXPECT_EQ(g[SKIPPED], x[SKIPPED]) << i;
        }
        EXPECT_LT(rel_l2(values_of(got, w), values_of(want, w)), 1e-6) << size << " ranks";
    }
};

TEST_P(EngineRanks, SumTheGradientsOfAllMicroBatches)
{
    HN_NEED_RANKS(kind, 2);
    for (const std::string model : {"cnn", "decoder"}) {
        Work w;
        w.model = model;
        const auto gradients = [&w](const Rank &r) {
            Trainee t(r, w);
            if (t.e == nullptr) return RankResult();
            t.share(0);
            return t.gradients();
        };
        const auto want = run_ranks(kind, 1, gradients)[0];
        double norm = 0;
        for (const float x : want) norm += (double)x * x;
        EXPECT_GT(norm, 0.1);
        for (const int size : {2, 4}) {
            if (kind != "cpu" && count_gpus() < size) continue;
            const auto got = run_ranks(kind, size, gradients);
            for (const RankResult &one : got) {
                EXPECT_TRUE(same_bits(one, got[0]));
                EXPECT_LT(rel_l2(one, want), 1e-6) << model << " on " << size;
            }
        }
    }
}

TEST_P(EngineRanks, TakeTheStepOfOneRank)
{
    HN_NEED_RANKS(kind, 2);
    for (const std::string model : {"cnn", "decoder"}) {
        Work w;
        w.model = model;
        for (const int size : {2, 4})
            if (kind == "cpu" || count_gpus() >= size) expect_like_one_rank(size, w);
    }
}

TEST_P(EngineRanks, ClipBySumsOfAll)
{
    HN_NEED_RANKS(kind, 2);
    Work w, unclipped;
    w.optimizer.max_grad_norm = 0.1;
    w.steps = unclipped.steps = 2;
    expect_like_one_rank(2, w);
    EXPECT_FALSE(same_bits(agreed(2, w), agreed(2, unclipped)));
}

/* Where a gradient is next to nothing, AdamW turns rounding into steps of either sign. */
TEST_P(EngineRanks, AdamWDiffersByNoMoreThanItsSteps)
{
    HN_NEED_RANKS(kind, 2);
    for (const std::string model : {"cnn", "decoder"}) {
        Work w;
        w.model = model;
        w.optimizer.kind = HN_OPTIMIZER_ADAMW;
        w.lr = 1e-3;
        const auto want = values_of(agreed(1, w), w);
        for (const int size : {2, 4}) {
            if (kind != "cpu" && count_gpus() < size) continue;
            const auto got = values_of(agreed(size, w), w);
            ASSERT_EQ(got.size(), want.size());
            size_t apart = 0;
            for (size_t i = 0; i < got.size(); i++) {
                EXPECT_LE(std::fabs(got[i] - want[i]), 2.001 * w.lr) << i;
                apart += std::fabs(got[i] - want[i]) > 0.01 * w.lr;
            }
            EXPECT_LT(apart, got.size() / 50) << model << " on " << size;
        }
    }
}

TEST_P(EngineRanks, RepeatBitForBit)
{
    HN_NEED_RANKS(kind, 2);
    Work w;
    w.optimizer.kind = HN_OPTIMIZER_ADAMW;
    w.steps = 3;
    for (const int size : {2, 4})
        if (kind == "cpu" || count_gpus() >= size) {
            EXPECT_TRUE(same_bits(agreed(size, w), agreed(size, w)));
        }
}

TEST_P(EngineRanks, MayHaveUnequalShares)
{
    HN_NEED_RANKS(kind, 2);
    Work w;
    w.steps = 2;
    for (const int64_t micros : {3, 1}) { /* of 1, the second rank has none */
        w.micros = micros;
        expect_like_one_rank(2, w);
    }
}

TEST_P(EngineRanks, AWholeStepIsItsParts)
{
    HN_NEED_RANKS(kind, 2);
    Work w;
    w.micros = 2;
    w.steps = 3;
    const auto parts = agreed(2, w);
    w.whole = true;
    EXPECT_TRUE(same_bits(agreed(2, w), parts));
}

TEST_P(EngineRanks, AddThePenaltyOfAnAnchorOnce)
{
    HN_NEED_RANKS(kind, 2);
    Work w, free;
    w.anchor = 0.5f; /* its reference is 0 */
    w.steps = free.steps = 2;
    expect_like_one_rank(2, w);
    EXPECT_GT(rel_l2(agreed(2, w), agreed(2, free)), 1e-3);
}

TEST_P(EngineRanks, HaveReplicasToo)
{
    HN_NEED_RANKS(kind, 2);
    Work w;
    w.replicas = 2;
    w.steps = 2;
    expect_like_one_rank(2, w);
}

TEST_P(EngineRanks, HearOfOneThatWantsToStop)
{
    HN_NEED_RANKS(kind, 2);
    Work w;
    w.micros = 1; /* rank 1 has nothing else to say */
    w.steps = 4;
    w.stopping = 1;
    w.stop_step = 2;
    for (const bool whole : {false, true}) {
        w.whole = whole;
        w.micros = whole ? 2 : 1;
        const auto all = agreed(2, w);
        for (int64_t s = 0; s < w.steps; s++)
            EXPECT_EQ(all[(size_t)(REPORT * s + STOP)], s < w.stop_step ? 0 : 1) << s;
    }
}

TEST_P(EngineRanks, StepsAllocateNothing)
{
    HN_NEED_RANKS(kind, 2);
    run_ranks(kind, 2, [](const Rank &r) {
        Work w;
        Trainee t(r, w);
        if (t.e == nullptr) return RankResult();
        t.step(0);
        const uint64_t before = hn_alloc_calls();
        for (int64_t s = 1; s < 4; s++) t.step(s);
        EXPECT_EQ(hn_alloc_calls(), before);
        return RankResult();
    });
}

/* By the micro-batches that ranks have in a step, which may be none. */
TEST_P(EngineRanks, AverageTheBuffers)
{
    HN_NEED_RANKS(kind, 2);
    Work w;
    w.model = "resnet20";
    for (const double other : {1.0, 0.5, 0.0}) {
        const auto all = run_ranks(kind, 2, [&](const Rank &r) {
            Trainee t(r, w);
            if (t.e == nullptr) return RankResult();
            t.step(0);
            auto v = t.values(true);
            EXPECT_HN_OK(
                hn_engine_average_buffers(t.e, r.hub, r.rank == 0 ? 2 : (int64_t)(2 * other)));
            const auto mean = t.values(true);
            v.insert(v.end(), mean.begin(), mean.end());
            return v;
        });
        const size_t n = all[0].size() / 2;
        ASSERT_GT(n, 0u);
        double apart = 0;
        for (size_t i = 0; i < n; i++) {
            const double mean = ((double)all[0][i] + other * (double)all[1][i]) / (1 + other);
            apart += std::fabs(all[0][i] - all[1][i]);
            EXPECT_EQ(all[0][n + i], (float)mean) << i;
            EXPECT_EQ(all[1][n + i], (float)mean) << i;
        }
        EXPECT_GT(apart, 0.01);
    }
}

TEST_P(EngineRanks, NameThoseWhoseValuesAreOthers)
{
    HN_NEED_RANKS(kind, 2);
    const Work w;
    run_ranks(kind, 2, [&w](const Rank &r) {
        Trainee t(r, w);
        if (t.e == nullptr) return RankResult();
        EXPECT_HN_OK(hn_engine_compare_ranks(t.e, r.hub));
        const hn_param *q = hn_params_at(hn_engine_params(t.e), 0);
        std::vector<float> v((size_t)hn_param_values(q));
        EXPECT_HN_OK(hn_param_get(q, v.data()));
        if (r.rank == 1) v[0] = std::nextafterf(v[0], 9);
        EXPECT_HN_OK(hn_param_set(q, v.data()));
        EXPECT_HN_FAIL(hn_engine_compare_ranks(t.e, r.hub), HN_ERR_NUMERIC, "1 of 2 ranks");
        EXPECT_HN_FAIL(hn_engine_compare_ranks(t.e, r.hub), HN_ERR_NUMERIC, ": 1 on ");
        return RankResult();
    });
}

/* Steps of four micro-batches over the ranks that gather for a selection. */
RankResult gathered(const Rank &r, hn_gather what, bool update)
{
    SmallDecoder m;
    hn_comm *comm = r.join(m.device);
    m.o.sparse = {.density = 0.2, .candidates = 2, .squares = true, .select_memory = 12000};
    m.o.optimizer.max_grad_norm = 0.01;
    m.open(squares(4));
    const Blocks b = m.blocks();
    b.select(b.share(4, 1, 0.5));
    EXPECT_HN_OK(hn_sparse_begin(b.s));
    if (what == HN_GATHER_WINDOW) b.watch(b.share(30, 1, 0.8));
    EXPECT_HN_OK(hn_engine_gather(m.e, what));
    RankResult all;
    const int64_t steps = what == HN_GATHER_WINDOW ? 2 : hn_sparse_groups(b.s);
    EXPECT_GT(steps, 1);
    for (int64_t s = 0; s < steps; s++) {
        hn_step_report x;
        EXPECT_HN_OK(hn_engine_begin(m.e, s));
        for (int64_t i = r.rank; i < 4; i += r.size) {
            m.fill((unsigned)i);
            EXPECT_HN_OK(hn_engine_micro(m.e, i));
        }
        EXPECT_HN_OK(update ? hn_engine_update(m.e, 1e-3, &x) : hn_engine_discard(m.e, &x));
        EXPECT_EQ(x.tokens, 4 * 20);
        all.push_back((float)x.loss);
        all.push_back((float)x.grad_norm);
    }
    const auto add = [&all](const std::vector<float> &v) {
        double norm = 0;
        for (const float k : v) norm += (double)k * k;
        EXPECT_GT(norm, 0);
        all.insert(all.end(), v.begin(), v.end());
    };
    if (what == HN_GATHER_WINDOW) {
        add(b.get(HN_SPARSE_SUM));
        add(b.get(HN_SPARSE_WATCHED_SUM));
        add(b.get(HN_SPARSE_WATCHED_SQUARE));
    }
    for (int64_t i = 0; what == HN_GATHER_SCORES && i < b.n(); i++) {
        std::vector<int32_t> ids((size_t)b.at(i).kept);
        std::vector<float> sum(ids.size());
        int64_t n = 0;
        EXPECT_HN_OK(hn_sparse_scores(b.s, i, ids.data(), sum.data(), &n));
        for (const int32_t id : ids) all.push_back((float)id);
        add(sum);
    }
    if (update) add(b.get(HN_SPARSE_DELTA));
    if (update) add(b.get(HN_SPARSE_MOMENT1));
    EXPECT_HN_OK(hn_engine_compare_ranks(m.e, r.hub));
    hn_engine_free(m.e);
    m.e = nullptr;
    hn_comm_close(comm, !::testing::Test::HasFailure());
    return all;
}

TEST_P(EngineRanks, GatherSumsOfAllForASelection)
{
    HN_NEED_RANKS(kind, 2);
    for (const hn_gather what : {HN_GATHER_SCORES, HN_GATHER_WINDOW})
        for (const bool update : {false, true}) {
            const auto f = [=](const Rank &r) { return gathered(r, what, update); };
            const auto want = run_ranks(kind, 1, f)[0];
            for (const int size : {2, 4}) {
                if (kind != "cpu" && count_gpus() < size) continue;
                const auto got = run_ranks(kind, size, f);
                for (const RankResult &one : got) EXPECT_TRUE(same_bits(one, got[0]));
                EXPECT_LT(rel_l2(got[0], want), 1e-5) << what << update << size;
            }
        }
}

TEST_P(EngineRanks, RefuseScoresWithoutMemoryToAddThem)
{
    HN_NEED_RANKS(kind, 2);
    run_ranks(kind, 2, [](const Rank &r) {
        SmallDecoder m;
        hn_comm *comm = r.join(m.device);
        m.o.sparse = {.density = 0.2, .candidates = 2};
        EXPECT_HN_FAIL(m.make(squares(4)), HN_ERR_UNSUPPORTED, "scores of blocks on 2 ranks");
        hn_comm_close(comm, true);
        return RankResult();
    });
}

TEST_P(EngineRanks, PlansSayWhoSums)
{
    HN_NEED_RANKS(kind, 2);
    run_ranks(kind, 2, [this](const Rank &r) {
        Trainee t(r, Work());
        if (t.e == nullptr) return RankResult();
        char *text = hn_engine_plan_text(t.e);
        const std::string plan = text ? text : "";
        hn_free(text);
        const std::string by = kind == "cpu" ? "hone in rank order\n" : "NCCL 2.";
        EXPECT_NE(plan.find("ranks: 2, sums by " + by), std::string::npos) << plan;
        return RankResult();
    });
}

#ifdef HONE_CUDA
/* Node by node and captured: the same launches. */
TEST_P(EngineRanks, CapturedGraphsGiveTheSameBits)
{
    if (kind == "cpu") GTEST_SKIP() << "only a GPU captures graphs";
    HN_NEED_RANKS(kind, 2);
    Work w;
    w.micros = 2;
    w.steps = 3;
    w.executor = HN_EXECUTOR_NODES;
    const auto nodes = agreed(2, w);
    w.executor = HN_EXECUTOR_GRAPH;
    EXPECT_TRUE(same_bits(agreed(2, w), nodes));
    w.whole = true;
    EXPECT_TRUE(same_bits(agreed(2, w), nodes));
    w.whole = false;
    w.executor = HN_EXECUTOR_CHECK;
    EXPECT_LT(rel_l2(agreed(2, w), nodes), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Devices, EngineRanks, ::testing::Values("cpu", "cuda"), device_name);
#else
INSTANTIATE_TEST_SUITE_P(Devices, EngineRanks, ::testing::Values("cpu"), device_name);
#endif

} // namespace
