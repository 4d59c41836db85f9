/* Optimizer state that ranks share (ZeRO stage 1) against state that each rank has whole: the same
 * bits in values, masters, moments and reports on the CPU, whatever the optimizer, on any number of
 * ranks; what the plan saves; what is refused. On GPUs, where there are enough: the same launches
 * captured, the same bits twice, and the steps of whole state up to rounding. */
#include "decoder_ranks_test.h"
#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"

namespace {

/* Rows that are padded in memory; five blocks of values, so that shares end inside of matrices. */
const char *const kLlama =
    R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 61,
        "hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 3,
        "num_attention_heads": 3, "num_key_value_heads": 3, "max_position_embeddings": 64,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2})";

const hn_optimizer kAdamW = {.kind = HN_OPTIMIZER_ADAMW,
                             .beta1 = 0.9,
                             .beta2 = 0.99,
                             .eps = 1e-8,
                             .momentum = 0,
                             .nesterov = false,
                             .weight_decay = 0.1,
                             .max_grad_norm = 0.5};
const hn_optimizer kMomentum = {.kind = HN_OPTIMIZER_SGD,
                                .beta1 = 0,
                                .beta2 = 0,
                                .eps = 0,
                                .momentum = 0.9,
                                .nesterov = true,
                                .weight_decay = 0.01,
                                .max_grad_norm = 0};
const hn_optimizer kSgd = {.kind = HN_OPTIMIZER_SGD,
                           .beta1 = 0,
                           .beta2 = 0,
                           .eps = 0,
                           .momentum = 0,
                           .nesterov = false,
                           .weight_decay = 0,
                           .max_grad_norm = 0.25};

struct Work {
    hn_dtype dtype = HN_F32;
    hn_optimizer optimizer = kAdamW;
    bool zero = false, whole = false; /* whole: hn_engine_step, a micro-batch a rank */
    hn_executor executor = HN_EXECUTOR_AUTO;
    int64_t micros = 4, steps = 3;
    int shares = 0; /* other than there are ranks */
    double lr = 1e-2;
};

hn_adapt_kind every(const void *, const char *) { return HN_ADAPT_FULL; }

class Trainee : public RankDecoder {
  public:
    const Work &w;

    Trainee(const Rank &r, const Work &work, bool allocate = true)
        : RankDecoder(r, work.dtype), w(work)
    {
        if (device == nullptr) return;
        open_model(config(kLlama));
        adapt.parameter = every;
        o.executor = w.executor;
        o.optimizer = w.optimizer;
        o.zero_ranks = w.shares ? w.shares : w.zero ? r.size : 0;
        if (allocate) open_engine();
    }
    hn_step_report step(int64_t number)
    {
        hn_step_report r = {};
        if (w.whole) {
            fill(number * w.micros + rank.rank);
            EXPECT_HN_OK(hn_engine_step(e, number, w.lr, &r));
            return r;
        }
        EXPECT_HN_OK(hn_engine_begin(e, number));
        for (int64_t i = rank.rank; i < w.micros; i += rank.size) {
            fill(number * w.micros + i);
            EXPECT_HN_OK(hn_engine_micro(e, i));
        }
        EXPECT_HN_OK(hn_engine_update(e, w.lr, &r));
        return r;
    }
    static void add_tensor(const hn_tensor *t, std::vector<float> *all)
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        all->insert(all->end(), v.begin(), v.end());
    }
    /* What graphs read, of all parameters. */
    std::vector<float> values() const
    {
        std::vector<float> all;
        hn_params *p = hn_engine_params(e);
        for (int64_t i = 0; i < hn_params_count(p); i++)
            add_tensor(hn_params_at(p, i)->value, &all);
        return all;
    }
    /* Masters and moments of all parameters; NaN where they are another rank's. */
    std::vector<float> state() const
    {
        std::vector<float> all;
        hn_params *p = hn_engine_params(e);
        const int moments = w.optimizer.kind == HN_OPTIMIZER_ADAMW ? 2 : w.optimizer.momentum > 0;
        for (int k = 0; k < 1 + moments; k++)
            for (int64_t i = 0; i < hn_params_count(p); i++) {
                const hn_param *q = hn_params_at(p, i);
                if (q->split == nullptr) {
                    add_tensor(k == 0 ? q->master : k == 1 ? q->moment1 : q->moment2, &all);
                    continue;
                }
                std::vector<float> v((size_t)hn_param_values(q), NAN);
                int64_t first, n;
                hn_param_kept(q, &first, &n);
                if (n > 0) {
                    EXPECT_HN_OK(hn_param_get_kept(q, (hn_kept)k, first, n, &v[(size_t)first]));
                }
                all.insert(all.end(), v.begin(), v.end());
            }
        return all;
    }
};

enum { LOSS, TOKENS, NORM, SKIPPED, REPORT };

/* Reports and values, which all ranks have; behind them the state. */
RankResult train(const Rank &r, const Work &w)
{
    Trainee t(r, w);
    RankResult all;
    if (t.e == nullptr) return all;
    const auto start = t.values();
    for (int64_t s = 0; s < w.steps; s++) {
        const hn_step_report x = t.step(s);
        EXPECT_EQ(x.skipped, 0) << s;
        for (const double v : {x.loss_sum, (double)x.tokens, x.grad_norm, (double)x.skipped})
            all.push_back((float)v);
    }
    EXPECT_HN_OK(hn_engine_compare_ranks(t.e, r.hub));
    const auto values = t.values(), state = t.state();
    EXPECT_GT(rel_l2(values, start), 1e-4); /* it has learned something */
    all.insert(all.end(), values.begin(), values.end());
    all.insert(all.end(), state.begin(), state.end());
    return all;
}

class EngineZero : public ::testing::TestWithParam<const char *> {
  protected:
    const std::string kind = GetParam();
    bool enough(int ranks) const { return kind == "cpu" || count_gpus() >= ranks; }
    std::vector<RankResult> run(int ranks, const Work &w)
    {
        return run_ranks(kind, ranks, [&w](const Rank &r) { return train(r, w); });
    }
    /* The shares of all ranks as one result; every value of the state is one rank's. */
    RankResult joined(int ranks, const Work &w)
    {
        const auto all = run(ranks, w);
        RankResult one = all[0];
        size_t states = 0;
        for (size_t i = 0; i < one.size(); i++) {
            int have = 0;
            for (const RankResult &r : all) {
                EXPECT_EQ(r.size(), one.size());
                if (r.size() != one.size() || std::isnan(r[i])) continue;
                have++;
                one[i] = r[i];
            }
            if (have == ranks) {
                for (const RankResult &r : all)
                    EXPECT_EQ(std::memcmp(&r[i], &one[i], sizeof(float)), 0) << i;
                EXPECT_EQ(states, 0u) << "what all have comes first";
            } else {
                EXPECT_EQ(have, 1) << i;
                states++;
            }
            if (::testing::Test::HasFailure()) return one;
        }
        EXPECT_GT(states, 0u);
        return one;
    }
};

std::string text_of(const Work &w, int ranks)
{
    return std::string(hn_dtype_name(w.dtype)) + ", optimizer " +
           std::to_string((int)w.optimizer.kind) + ", " + std::to_string(ranks) + " ranks, " +
           std::to_string(w.micros) + " micro-batches";
}

TEST_P(EngineZero, HasTheBitsOfWholeState)
{
    if (kind != "cpu") GTEST_SKIP() << "NCCL adds shares in an order of its own";
    for (const hn_dtype dtype : {HN_F32, HN_BF16})
        for (const hn_optimizer &optimizer : {kAdamW, kMomentum, kSgd})
            for (const int ranks : {2, 3, 4}) {
                Work w;
                w.dtype = dtype;
                w.optimizer = optimizer;
                w.micros = ranks == 3 ? 4 : ranks; /* uneven shares; and one each */
                const auto want = run(ranks, w)[0];
                w.zero = true;
                const auto got = joined(ranks, w);
                EXPECT_TRUE(same_bits(got, want)) << text_of(w, ranks);
            }
}

TEST_P(EngineZero, TakesTheStepsOfWholeState)
{
    HN_NEED_RANKS(kind, 2);
    for (const int ranks : {2, 4}) {
        Work w;
        if (!enough(ranks)) continue;
        w.optimizer = kMomentum; /* AdamW turns rounding into steps of either sign */
        w.optimizer.max_grad_norm = 0.5;
        const auto want = run(ranks, w)[0];
        w.zero = true;
        EXPECT_LT(rel_l2(joined(ranks, w), want), 1e-6) << ranks;
    }
}

TEST_P(EngineZero, RepeatsBitForBitAndInOneLaunch)
{
    HN_NEED_RANKS(kind, 2);
    for (const hn_dtype dtype : {HN_F32, HN_BF16}) {
        Work w;
        w.dtype = dtype;
        w.zero = true;
        w.micros = 2;
        const auto one = joined(2, w);
        EXPECT_TRUE(same_bits(joined(2, w), one));
        w.whole = true;
        EXPECT_TRUE(same_bits(joined(2, w), one));
    }
}

TEST_P(EngineZero, SkipsStepsThatAreNotFinite)
{
    HN_NEED_RANKS(kind, 2);
    Work w;
    w.zero = true;
    run_ranks(kind, 2, [&w](const Rank &r) {
        Trainee t(r, w);
        if (t.e == nullptr) return RankResult();
        t.step(0);
        const auto values = t.values(), state = t.state();
        const hn_param *q = hn_params_at(hn_engine_params(t.e), 0);
        std::vector<float> v((size_t)hn_param_values(q)), bad(v.size(), INFINITY);
        EXPECT_HN_OK(hn_param_get(q, v.data()));
        EXPECT_HN_OK(hn_param_set(q, bad.data()));
        EXPECT_EQ(t.step(1).skipped, HN_STEP_NONFINITE);
        EXPECT_HN_OK(hn_param_set(q, v.data()));
        EXPECT_TRUE(same_bits(t.values(), values));
        EXPECT_TRUE(same_bits(t.state(), state));
        EXPECT_EQ(t.step(1).skipped, HN_STEP_DONE); /* nothing of it is left in the gradients */
        EXPECT_HN_OK(hn_engine_compare_ranks(t.e, r.hub));
        return RankResult();
    });
}

TEST_P(EngineZero, StepsAllocateNothing)
{
    HN_NEED_RANKS(kind, 2);
    Work w;
    w.zero = true;
    run_ranks(kind, 2, [&w](const Rank &r) {
        Trainee t(r, w);
        if (t.e == nullptr) return RankResult();
        t.step(0);
        const uint64_t before = hn_alloc_calls();
        for (int64_t s = 1; s < 4; s++) t.step(s);
        EXPECT_EQ(hn_alloc_calls(), before);
        return RankResult();
    });
}

/* A master is a share of what a rank has, so it cannot say the whole one. */
TEST_P(EngineZero, MastersAreNobodys)
{
    HN_NEED_RANKS(kind, 2);
    run_ranks(kind, 2, [](const Rank &r) {
        Work w;
        w.zero = true;
        w.dtype = HN_BF16;
        Trainee t(r, w);
        if (t.e == nullptr) return RankResult();
        const hn_param *q = hn_params_at(hn_engine_params(t.e), 0);
        std::vector<float> v((size_t)hn_param_values(q));
        EXPECT_HN_FAIL(hn_param_get(q, v.data()), HN_ERR_UNSUPPORTED, "shared by 2 ranks");
        for (int64_t i = 0; i < hn_params_count(hn_engine_params(t.e)); i++) {
            q = hn_params_at(hn_engine_params(t.e), i);
            int64_t first, n;
            hn_param_kept(q, &first, &n);
            if (n == hn_param_values(q)) continue;
            v.resize((size_t)hn_param_values(q));
            EXPECT_HN_FAIL(hn_param_get_kept(q, HN_KEPT_MASTER, 0, hn_param_values(q), v.data()),
                           HN_ERR_ARG, "another rank's");
        }
        return RankResult();
    });
}

/* ---- plans ---- */

size_t bytes_of(const Trainee &t, hn_mem mem)
{
    hn_plan_sizes s;
    hn_plan_sizes_of(hn_engine_program(t.e), &s);
    return s.class_bytes[mem];
}

/* In a process of its own, as all that computes. */
template <class Fn>
void alone(Fn f)
{
    run_ranks("cpu", 1, [&](const Rank &) {
        f();
        return RankResult();
    });
}

TEST(EngineZeroPlan, HasAShareOfMastersAndMoments)
{
    alone([] {
        Rank nobody;
        nobody.device = "cpu";
        for (const hn_dtype dtype : {HN_F32, HN_BF16})
            for (const int ranks : {2, 5}) {
                Work w;
                w.dtype = dtype;
                Trainee whole(nobody, w, false);
                ASSERT_HN_OK(hn_engine_new(&whole.o, &whole.e));
                w.shares = ranks;
                Trainee zero(nobody, w, false);
                ASSERT_HN_OK(hn_engine_new(&zero.o, &zero.e));
                const size_t blocks = (bytes_of(whole, HN_MEM_MOMENT1) + 32767) / 32768;
                const size_t share = (blocks + (size_t)ranks - 1) / (size_t)ranks * 32768;
                const bool half = dtype == HN_BF16;
                EXPECT_EQ(bytes_of(zero, HN_MEM_MOMENT1), share);
                EXPECT_EQ(bytes_of(zero, HN_MEM_MOMENT2), share);
                EXPECT_EQ(bytes_of(zero, HN_MEM_TRAINED), half ? share : (size_t)ranks * share);
                EXPECT_EQ(bytes_of(zero, HN_MEM_WORK), half ? (size_t)ranks * share / 2 : 0);
                char *text = hn_engine_plan_text(zero.e);
                const std::string plan = text ? text : "", n = std::to_string(ranks);
                hn_free(text);
                EXPECT_NE(plan.find("optimizer in " + n + " shares, one a rank (ZeRO-1): " +
                                    (half ? "masters and moments\n" : "moments\n")),
                          std::string::npos)
                    << plan;
                EXPECT_HN_FAIL(hn_engine_allocate(zero.e), HN_ERR_ARG, "shares, on 1 ranks");
            }
    });
}

hn_status low_rank(const void *, const char *, int64_t, int64_t, hn_lowrank *choice)
{
    choice->rank = 4;
    choice->scale = 1;
    return HN_OK;
}

TEST(EngineZeroPlan, RefusesWhatItHasNoSharesOf)
{
    alone([] {
        Rank nobody;
        nobody.device = "cpu";
        Work w;
        w.shares = 2;
        const auto refused = [&](const std::function<void(Trainee &)> &change, const char *why) {
            Trainee t(nobody, w, false);
            change(t);
            EXPECT_HN_FAIL(hn_engine_new(&t.o, &t.e), HN_ERR_UNSUPPORTED, why);
        };
        refused([](Trainee &t) { t.adapt = {.parameter = nullptr, .linear = low_rank}; },
                "part of an adapter");
        refused([](Trainee &t) { t.o.replicas = 2; }, "there are replicas");
        refused([](Trainee &t) { t.o.average = 0.9; }, "averages of values");
        refused([](Trainee &t) { t.o.anchor.weight = 0.5f; }, "there is an anchor");
        refused([](Trainee &t) { t.o.anchor.fisher = true; }, "there is an anchor");
        refused([](Trainee &t) { t.o.base_shares = 2; }, "frozen values to share");
    });
}

TEST_P(EngineZero, RefusesOtherSharesThanRanks)
{
    HN_NEED_RANKS(kind, 2);
    run_ranks(kind, 2, [](const Rank &r) {
        Work w;
        w.shares = 4;
        Trainee t(r, w, false);
        EXPECT_HN_OK(hn_engine_new(&t.o, &t.e));
        EXPECT_HN_FAIL(hn_engine_allocate(t.e), HN_ERR_ARG,
                       "optimizer state in 4 shares, on 2 ranks");
        return RankResult();
    });
}

#ifdef HONE_CUDA
/* Node by node, captured, and each node beside its twin. */
TEST_P(EngineZero, CapturedGraphsGiveTheSameBits)
{
    if (kind == "cpu") GTEST_SKIP() << "only a GPU captures graphs";
    HN_NEED_RANKS(kind, 2);
    for (const hn_dtype dtype : {HN_F32, HN_BF16}) {
        Work w;
        w.dtype = dtype;
        w.zero = true;
        w.micros = 2;
        w.executor = HN_EXECUTOR_NODES;
        const auto nodes = joined(2, w);
        w.executor = HN_EXECUTOR_GRAPH;
        EXPECT_TRUE(same_bits(joined(2, w), nodes));
        w.executor = HN_EXECUTOR_CHECK;
        EXPECT_TRUE(same_bits(joined(2, w), nodes));
    }
}

INSTANTIATE_TEST_SUITE_P(Devices, EngineZero, ::testing::Values("cpu", "cuda"), device_name);
#else
INSTANTIATE_TEST_SUITE_P(Devices, EngineZero, ::testing::Values("cpu"), device_name);
#endif

} // namespace
