/* A frozen base that ranks share against one that each has: the same bits in losses, adapters,
 * evaluations and logits, whatever runs again, on whatever number of ranks; and how often it is
 * gathered. On the CPU, and on GPUs where there are enough. */
#include "decoder_ranks_test.h"
#include "runtime/base/alloc.h"
#include "runtime/graph/shards.h"
#include "runtime/graph/tensor.h"

extern "C" {
#include "runtime/graph/graph_impl.h"
}

namespace {

/* Sizes that no number of ranks divides; five layers: more than there are places. */
const char *const kLlama =
    R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 61,
        "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 5,
        "num_attention_heads": 5, "num_key_value_heads": 5, "max_position_embeddings": 64,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "attention_bias": true,
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2})";
const char *const kGpt2 =
    R"({"model_type": "gpt2", "vocab_size": 61, "n_positions": 64, "n_embd": 24, "n_layer": 3,
        "n_head": 3, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        "bos_token_id": 1, "eos_token_id": 2})";

struct Work {
    std::string model = "llama"; /* gpt2; files: the fixture, from its weights */
    hn_dtype dtype = HN_F32;
    bool shared = false, probe = true;
    hn_recompute recompute = HN_RECOMPUTE_OFF;
    hn_side side = HN_SIDE_AUTO;
    hn_executor executor = HN_EXECUTOR_AUTO;
    int64_t micros = 4, steps = 3, evals = 3, rank = 8;
    int shares = 0; /* other than there are ranks */
    bool whole = false;
    bool train = true;   /* false: an engine for evaluation alone */
    bool adapter = true; /* of one; false: everything is frozen */
};

hn_status low_rank(const void *context, const char *, int64_t, int64_t, hn_lowrank *choice)
{
    choice->rank = static_cast<const Work *>(context)->rank;
    choice->scale = 2;
    return HN_OK;
}

class Trainee : public RankDecoder {
  public:
    const Work &w;

    Trainee(const Rank &r, const Work &work, bool allocate = true)
        : RankDecoder(r, work.dtype), w(work)
    {
        if (device == nullptr) return;
        d.logits_rows = w.probe ? 8 : 0;
        open_model(w.model == "files" ? "tests/fixtures/models/llama"
                                      : config(w.model == "gpt2" ? kGpt2 : kLlama));
        if (w.adapter) adapt.linear = low_rank;
        o.train = w.train;
        adapt.context = &w;
        o.executor = w.executor;
        o.eval = true;
        o.recompute = w.recompute;
        o.side = w.side;
        o.base_shares = w.shares ? w.shares : w.shared ? r.size : 0;
        o.optimizer.beta1 = 0.9;
        o.optimizer.beta2 = 0.999;
        o.optimizer.eps = 1e-8;
        o.optimizer.max_grad_norm = 1;
        if (allocate) open();
    }

    void open()
    {
        open_engine();
        if (!::testing::Test::HasFatalFailure()) start_adapters();
    }
    /* B is not zero: an adapter that is left out shows. */
    void start_adapters()
    {
        hn_params *p = hn_engine_params(e);
        for (int64_t i = 0; i < hn_params_count(p); i++) {
            const hn_param *q = hn_params_at(p, i);
            std::vector<float> v((size_t)hn_param_values(q));
            if (!q->adapter) continue;
            for (size_t k = 0; k < v.size(); k++)
                v[k] = 0.1f * std::sin((float)(k * 7 + (size_t)i * 13));
            ASSERT_HN_OK(hn_param_set(q, v.data()));
        }
    }
    /* As many turns on every rank: with a micro-batch, or idle. */
    template <class Turn, class Idle>
    void in_turns(int64_t n, Turn turn, Idle idle)
    {
        for (int64_t first = 0; first < n; first += rank.size)
            if (first + rank.rank < n)
                turn(first + rank.rank);
            else
                EXPECT_HN_OK(idle(e));
    }
    hn_step_report step(int64_t number)
    {
        hn_step_report r = {};
        if (w.whole) {
            fill(number * w.micros + rank.rank);
            EXPECT_HN_OK(hn_engine_step(e, number, 1e-2, &r));
            return r;
        }
        EXPECT_HN_OK(hn_engine_begin(e, number));
        in_turns(
            w.micros,
            [&](int64_t i) {
                fill(number * w.micros + i);
                EXPECT_HN_OK(hn_engine_micro(e, i));
            },
            hn_engine_idle_micro);
        EXPECT_HN_OK(hn_engine_update(e, 1e-2, &r));
        return r;
    }
    double evaluate()
    {
        hn_eval_sums sums = {};
        EXPECT_HN_OK(hn_engine_eval_begin(e));
        in_turns(
            w.evals,
            [&](int64_t i) {
                fill(100 + i);
                EXPECT_HN_OK(hn_engine_eval_batch(e));
            },
            hn_engine_idle_eval_batch);
        EXPECT_HN_OK(hn_engine_eval_sums(e, &sums));
        return sums.loss;
    }
    /* Of the last rank alone. */
    std::vector<float> logits()
    {
        const int32_t tokens[] = {3, 1, 4, 1, 5};
        const hn_tensor *t = nullptr;
        if (rank.rank < rank.size - 1) {
            EXPECT_HN_OK(hn_engine_idle_probe(e));
            return {};
        }
        EXPECT_HN_OK(hn_decoder_logits(&job, e, tokens, 5, &t));
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        v.resize(5 * 61);
        return v;
    }
    std::vector<float> adapters() const
    {
        std::vector<float> all;
        hn_params *p = hn_engine_params(e);
        for (int64_t i = 0; i < hn_params_count(p); i++) {
            const hn_param *q = hn_params_at(p, i);
            std::vector<float> v((size_t)hn_param_values(q));
            if (!q->trained) continue;
            EXPECT_HN_OK(hn_param_get(q, v.data()));
            all.insert(all.end(), v.begin(), v.end());
        }
        return all;
    }
};

RankResult train(const Rank &r, const Work &w)
{
    Trainee t(r, w);
    RankResult all;
    if (t.e == nullptr) return all;
    const auto add = [&all](const std::vector<float> &v) {
        all.insert(all.end(), v.begin(), v.end());
    };
    const auto start = t.adapters();
    for (int64_t s = 0; s < w.steps; s++) {
        const hn_step_report x = t.step(s);
        EXPECT_EQ(x.skipped, 0) << s;
        add({(float)x.loss_sum, (float)x.tokens, (float)x.grad_norm});
        if (s != 1) continue;
        add({(float)t.evaluate()});
        add(t.logits());
    }
    EXPECT_HN_OK(hn_engine_compare_ranks(t.e, r.hub));
    const auto end = t.adapters();
    EXPECT_GT(rel_l2(end, start), 1e-2); /* it has learned something */
    add(end);
    return all;
}

/* Loss and logits of an engine that trains nothing. */
RankResult evaluate(const Rank &r, const Work &w)
{
    Trainee t(r, w);
    if (t.e == nullptr) return {};
    RankResult all = {(float)t.evaluate()};
    for (const float v : t.logits()) all.push_back(v);
    return all;
}

class Shards : public ::testing::TestWithParam<const char *> {
  protected:
    const std::string kind = GetParam();
    bool enough(int ranks) const { return kind == "cpu" || count_gpus() >= ranks; }
    void expect_same_bits(int ranks, Work w)
    {
        const auto work = [&w](const Rank &r) { return w.train ? train(r, w) : evaluate(r, w); };
        w.shared = false;
        const auto want = run_ranks(kind, ranks, work);
        w.shared = true;
        const auto got = run_ranks(kind, ranks, work);
        for (size_t k = 0; k < want.size(); k++) {
            ASSERT_FALSE(want[k].empty());
            EXPECT_TRUE(same_bits(got[k], want[k]))
                << w.model << ", rank " << k << " of " << ranks << ", " << hn_dtype_name(w.dtype)
                << ", recompute " << w.recompute << ", side " << w.side << ", " << w.micros
                << " micro-batches, executor " << hn_executor_name(w.executor);
        }
    }
};

TEST_P(Shards, AreTheSameBitsAsAWholeBase)
{
    HN_NEED_RANKS(kind, 2);
    for (const int ranks : {2, 3, 4})
        for (const hn_dtype dtype : {HN_F32, HN_BF16}) {
            Work w;
            w.dtype = dtype;
            if (enough(ranks)) expect_same_bits(ranks, w);
        }
}

TEST_P(Shards, OfOtherModels)
{
    HN_NEED_RANKS(kind, 2);
    for (const std::string model : {"gpt2", "files"}) {
        Work w;
        w.model = model;
        expect_same_bits(2, w);
        w.dtype = HN_BF16;
        if (enough(4)) expect_same_bits(4, w);
    }
}

TEST_P(Shards, AreGatheredForLayersThatRunAgain)
{
    HN_NEED_RANKS(kind, 2);
    for (const hn_dtype dtype : {HN_F32, HN_BF16}) {
        Work w;
        w.recompute = HN_RECOMPUTE_ON;
        w.dtype = dtype;
        expect_same_bits(2, w);
        if (enough(4)) expect_same_bits(4, w);
    }
}

TEST_P(Shards, WaitForThoseWithMoreMicroBatches)
{
    HN_NEED_RANKS(kind, 2);
    for (const int64_t micros : {1, 3, 5}) {
        Work w;
        w.micros = micros;
        expect_same_bits(2, w);
        if (enough(4)) expect_same_bits(4, w);
    }
}

TEST_P(Shards, ComeAheadOnTheSideStream)
{
    HN_NEED_RANKS(kind, 2);
    for (const hn_side side : {HN_SIDE_OFF, HN_SIDE_ON})
        for (const hn_recompute recompute : {HN_RECOMPUTE_OFF, HN_RECOMPUTE_ON}) {
            Work w;
            w.dtype = HN_BF16;
            w.side = side;
            w.recompute = recompute;
            expect_same_bits(2, w);
        }
}

TEST_P(Shards, AreThereInWholeStepsAndEveryExecutor)
{
    HN_NEED_RANKS(kind, 2);
    Work w;
    w.dtype = HN_BF16;
    w.whole = true;
    w.micros = 2;
    expect_same_bits(2, w);
    w.whole = false;
    w.micros = 4;
    if (kind == "cpu") return;
    for (const hn_executor x : {HN_EXECUTOR_NODES, HN_EXECUTOR_CHECK}) {
        w.executor = x;
        expect_same_bits(2, w);
    }
}

/* As of the verb eval: with an adapter and without, and with fewer batches than ranks. */
TEST_P(Shards, EvaluateWhereNothingIsTrained)
{
    HN_NEED_RANKS(kind, 2);
    for (const int ranks : {2, 3})
        for (const hn_dtype dtype : {HN_F32, HN_BF16})
            for (const bool adapter : {true, false}) {
                Work w;
                w.dtype = dtype;
                w.train = false;
                w.adapter = adapter;
                w.evals = adapter ? 4 : 1;
                if (enough(ranks)) expect_same_bits(ranks, w);
            }
    Work w;
    w.model = "files";
    w.dtype = HN_BF16;
    w.train = false;
    expect_same_bits(2, w);
}

/* Bytes of classes, gathers of micro and eval. */
RankResult measure(const Rank &r, const Work &w)
{
    Trainee t(r, w, false);
    hn_engine_options o = t.o;
    hn_engine *e = nullptr;
    EXPECT_HN_OK(hn_engine_new(&o, &e));
    if (e == nullptr) return {};
    hn_plan_sizes s;
    hn_plan_sizes_of(hn_engine_program(e), &s);
    char *text = hn_engine_plan_text(e);
    EXPECT_EQ(std::string(text).find("5 layers' frozen weights in 4 shares") != std::string::npos,
              w.shared)
        << text;
    hn_free(text);
    hn_engine_free(e);
    return {(float)s.class_bytes[HN_MEM_WEIGHT], (float)s.class_bytes[HN_MEM_GATHERED],
            (float)s.shares};
}

TEST_P(Shards, TakeTheirPartOfTheBytes)
{
    HN_NEED_RANKS(kind, 4);
    Work w;
    const auto whole = run_ranks(kind, 4, [&w](const Rank &r) { return measure(r, w); });
    w.shared = true;
    const auto shared = run_ranks(kind, 4, [&w](const Rank &r) { return measure(r, w); });
    /* f32: q, k, v and o with the first three's biases, gate, up, down, two norms */
    const double layer = 4.0 * (4 * 40 * 40 + 3 * 40 + 3 * 40 * 56 + 2 * 40);
    for (int r = 0; r < 4; r++) {
        const double less = (double)whole[(size_t)r][0] - (double)shared[(size_t)r][0];
        const double part = (double)shared[(size_t)r][1] / 2; /* of two places */
        EXPECT_GE(part, layer);
        EXPECT_LT(part, layer + 12 * 256 + 4 * 256); /* what aligns tensors and shares */
        EXPECT_NEAR(less, 5 * layer * 3 / 4, 5 * 12 * 256);
        EXPECT_EQ(whole[(size_t)r][1], 0);
        EXPECT_EQ(shared[(size_t)r][2], 4);
    }
}

TEST_P(Shards, AreGatheredOnceAWay)
{
    HN_NEED_RANKS(kind, 2);
    run_ranks(kind, 2, [](const Rank &r) {
        for (const hn_recompute recompute : {HN_RECOMPUTE_OFF, HN_RECOMPUTE_ON}) {
            Work w;
            w.shared = true;
            w.recompute = recompute;
            Trainee t(r, w);
            if (t.e == nullptr) return RankResult();
            std::vector<int64_t> n;
            hn_program *p = hn_engine_program(t.e);
            for (const char *name : {"begin", "micro", "update", "eval", "logits"})
                n.push_back(hn_graph_gathers(hn_program_graph(p, name)));
            /* backward finds the last two layers where forward has left them */
            EXPECT_EQ(n, (std::vector<int64_t>{0, 5 + 3, 0, 5, 5})) << recompute;
        }
        return RankResult();
    });
}

TEST_P(Shards, EndWithTheRankThatFindsANumberThatIsNotFinite)
{
    HN_NEED_RANKS(kind, 2);
    run_ranks(kind, 2, [](const Rank &r) {
        Work w;
        w.shared = true;
        Trainee t(r, w);
        if (t.e == nullptr) return RankResult();
        const hn_param *q =
            hn_params_find(hn_engine_params(t.e), "model.layers.1.mlp.up_proj.lora_A.weight");
        std::vector<float> v((size_t)hn_param_values(q), NAN);
        if (r.rank == 1) {
            EXPECT_HN_OK(hn_param_set(q, v.data()));
        }
        EXPECT_HN_OK(hn_engine_begin(t.e, 0));
        t.fill(r.rank);
        const hn_status st = hn_engine_find_nonfinite(t.e, r.rank);
        EXPECT_EQ(st, r.rank == 1 ? HN_ERR_NUMERIC : HN_OK);
        if (r.rank == 1) {
            EXPECT_NE(std::string(hn_last_error()).find("model.layers.1.mlp.up_proj"),
                      std::string::npos)
                << hn_last_error();
        }
        EXPECT_HN_OK(hn_engine_begin(t.e, 0)); /* and ranks still meet */
        t.fill(r.rank);
        EXPECT_HN_OK(hn_engine_micro(t.e, r.rank));
        return RankResult();
    });
}

TEST_P(Shards, AreRefusedWhereTheyCannotBe)
{
    HN_NEED_RANKS(kind, 2);
    run_ranks(kind, 2, [](const Rank &r) {
        Work w;
        w.shares = 3;
        Trainee t(r, w, false);
        EXPECT_HN_OK(hn_engine_new(&t.o, &t.e)); /* a plan */
        EXPECT_HN_FAIL(hn_engine_allocate(t.e), HN_ERR_ARG, "3 shares, on 2 ranks");
        hn_engine_free(t.e);
        t.e = nullptr;
        t.o.base_shares = 2;
        t.adapt.parameter = [](const void *, const char *) { return HN_ADAPT_FULL; };
        t.adapt.linear = nullptr;
        EXPECT_HN_FAIL(hn_engine_new(&t.o, &t.e), HN_ERR_UNSUPPORTED,
                       "no layer of the model has frozen values");
        t.adapt.parameter = nullptr;
        t.adapt.sparse = [](const void *, const char *, int64_t in, int64_t, hn_block_shape *b) {
            *b = {1, in};
            return HN_OK;
        };
        EXPECT_HN_FAIL(hn_engine_new(&t.o, &t.e), HN_ERR_UNSUPPORTED, "trained in blocks");
        t.adapt.sparse = nullptr;
        t.adapt.linear = low_rank;
        t.o.replicas = 2;
        EXPECT_HN_FAIL(hn_engine_new(&t.o, &t.e), HN_ERR_UNSUPPORTED, "replicas");
        return RankResult();
    });
}

/* No rank can read all of a value, and none keeps more than its share. */
TEST_P(Shards, AreNobodysWholeValues)
{
    HN_NEED_RANKS(kind, 3);
    const auto rows = run_ranks(kind, 3, [](const Rank &r) {
        Work w;
        w.shared = true;
        Trainee t(r, w);
        if (t.e == nullptr) return RankResult();
        hn_params *p = hn_engine_params(t.e);
        const hn_param *q = hn_params_find(p, "model.layers.3.mlp.up_proj.weight");
        std::vector<float> v((size_t)hn_param_values(q));
        EXPECT_HN_FAIL(hn_param_get(q, v.data()), HN_ERR_UNSUPPORTED, "a share of it");
        RankResult own;
        for (int64_t i = 0; i < hn_params_count(p); i++) {
            int64_t first, n;
            q = hn_params_at(p, i);
            hn_param_own_rows(q, &first, &n);
            own.push_back((float)first);
            own.push_back((float)(first + n));
            own.push_back(q->ndim == 2 ? (float)q->dim[0] : 1);
            own.push_back((float)(hn_shard_of(q->value) != nullptr));
        }
        return own;
    });
    int64_t split = 0;
    for (size_t i = 0; i < rows[0].size(); i += 4) {
        const float *one = &rows[0][i];
        float end = 0;
        int parts = 0;
        for (const RankResult &r : rows) {
            if (r[i] == r[i + 1]) continue;     /* has nothing of it */
            if (one[3] == 0) end = 0;           /* not shared: each has all */
            EXPECT_LE(r[i], end);               /* one behind the other; ... */
            EXPECT_GE(r[i], end - (parts > 0)); /* ... a row perhaps in two parts */
            end = r[i + 1];
            parts++;
        }
        EXPECT_EQ(end, one[2]);
        split += one[3] != 0 && parts > 1;
    }
    EXPECT_EQ(split, 2 * 5); /* where one share ends and the next begins */
}

/* Adapters that border their weights, as on a GPU: what lies in the range is their value behind
 * every gather. Losses and gradients of two passes, with other adapters in the second. */
RankResult bordered(const Rank &r, bool shared)
{
    const Work w{.dtype = HN_BF16};
    Trainee t(r, w, false); /* for model and device */
    hn_program *p = nullptr;
    hn_params *params = nullptr;
    hn_graph *g = nullptr, *update = nullptr;
    hn_llama_tables tables = {};
    hn_llama_input in = {};
    hn_tensor *labels = nullptr, *loss = nullptr, *hidden = nullptr, *step = nullptr;
    const hn_type row = hn_type_1d(HN_I32, 16), ends = hn_type_1d(HN_I32, 2);
    const hn_type one = hn_type_1d(HN_F32, 1), block = hn_type_1d(HN_U8, sizeof(hn_step_block));
    EXPECT_HN_OK(hn_program_new(1, &p));
    EXPECT_HN_OK(hn_params_new(&t.adapt, &params));
    EXPECT_HN_OK(hn_decoder_declare(&t.model.decoder, params));
    hn_params_options o = {.dtype = HN_BF16, .gradients = true};
    o.fuse = HN_FUSE_ALWAYS;
    o.border = true;
    o.ranks = shared ? r.size : 0;
    o.rank = r.rank;
    EXPECT_HN_OK(hn_params_create(params, p, &o));
    EXPECT_HN_OK(hn_decoder_tables_new(&t.model.decoder, p, 16, &tables));
    EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "tokens", &row, &in.tokens));
    EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "positions", &row, &in.positions));
    EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "labels", &row, &labels));
    EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "offsets", &ends, &in.offsets));
    EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_STATE, "loss", &one, &loss));
    EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_STATE, "step", &block, &step));
    hn_decoder_build b = {};
    b.decoder = &t.model.decoder;
    b.params = params;
    b.tables = &tables;
    b.longest = 16;
    b.loss_chunk_rows = 16;
    EXPECT_HN_OK(hn_graph_new(p, "micro", true, &g));
    EXPECT_HN_OK(hn_decoder_hidden(&b, g, &in, &hidden));
    EXPECT_HN_OK(hn_decoder_loss(&b, g, hidden, labels, loss, hn_params_flat(params)->count));
    EXPECT_HN_OK(hn_graph_backward(g, 0, nullptr, nullptr));
    EXPECT_HN_OK(hn_graph_new(p, "update", false, &update));
    EXPECT_HN_OK(hn_params_refresh(params, update));
    const hn_plan_options plan = {.device = t.device, .guard_bytes = 64};
    EXPECT_HN_OK(hn_plan_build(p, &plan));
    EXPECT_HN_OK(hn_plan_allocate(p));
    EXPECT_HN_OK(hn_decoder_tables_fill(&t.model.decoder, &tables));
    EXPECT_HN_OK(hn_model_load(&t.model, params, 5));
    EXPECT_EQ(hn_graph_nodes(update) == 0, shared);
    int32_t id[16], place[16];
    const int32_t offsets[] = {0, 16};
    for (int32_t i = 0; i < 16; i++) id[i] = (i * i + 3 * i) % 61, place[i] = i;
    EXPECT_HN_OK(hn_tensor_write(in.tokens, 0, id, sizeof id));
    EXPECT_HN_OK(hn_tensor_write(labels, 0, id, sizeof id));
    EXPECT_HN_OK(hn_tensor_write(in.positions, 0, place, sizeof place));
    EXPECT_HN_OK(hn_tensor_write(in.offsets, 0, offsets, sizeof offsets));
    RankResult all;
    const hn_run_options run = {.step = static_cast<hn_step_block *>(step->data), .check = true};
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < hn_params_count(params); i++) {
            const hn_param *q = hn_params_at(params, i);
            std::vector<float> v((size_t)hn_param_values(q));
            if (!q->adapter) continue;
            for (size_t k = 0; k < v.size(); k++)
                v[k] = 0.1f * std::sin((float)(k * 7 + (size_t)i * 13 + (size_t)pass));
            EXPECT_HN_OK(hn_tensor_set(q->master, v.data())); /* as an optimizer does */
        }
        EXPECT_HN_OK(hn_graph_run(update, &run));
        EXPECT_HN_OK(hn_graph_run(g, &run));
        std::vector<float> v(1);
        EXPECT_HN_OK(hn_tensor_get(loss, v.data()));
        all.push_back(v[0]);
        for (int64_t i = 0; i < hn_params_count(params); i++) {
            const hn_param *q = hn_params_at(params, i);
            if (!q->adapter) continue;
            v.resize((size_t)hn_param_values(q));
            EXPECT_HN_OK(hn_param_read(q, q->grad, v.data()));
            all.insert(all.end(), v.begin(), v.end());
        }
    }
    hn_params_free(params);
    hn_program_free(p);
    return all;
}

TEST_P(Shards, HoldAdaptersThatBorderTheirWeights)
{
    HN_NEED_RANKS(kind, 2);
    for (const int ranks : {2, 4}) {
        if (!enough(ranks)) continue;
        const auto whole = run_ranks(kind, ranks, [](const Rank &r) { return bordered(r, false); });
        const auto shared = run_ranks(kind, ranks, [](const Rank &r) { return bordered(r, true); });
        for (size_t k = 0; k < whole.size(); k++) {
            EXPECT_TRUE(same_bits(shared[k], whole[k])) << "rank " << k << " of " << ranks;
            EXPECT_NE(whole[k][0], whole[k][whole[k].size() / 2]); /* the second pass is another */
        }
    }
}

/* Of a plan, which needs no ranks: a gather begins behind the last node that uses its place, ahead
 * of the first that needs it, which waits for it. */
TEST(ShardsAhead, BeginWhenTheirPlaceIsFreeAndAreWaitedFor)
{
    for (const hn_recompute recompute : {HN_RECOMPUTE_OFF, HN_RECOMPUTE_ON}) {
        Work w;
        w.recompute = recompute;
        w.side = HN_SIDE_ON;
        w.shares = 2;
        const Rank alone{nullptr, 0, 1, "cpu"};
        Trainee t(alone, w, false);
        ASSERT_HN_OK(hn_engine_new(&t.o, &t.e));
        for (const char *name : {"micro", "eval", "logits"}) {
            const hn_graph *g = hn_program_graph(hn_engine_program(t.e), name);
            const hn_shard *held[2] = {nullptr, nullptr};
            const hn_node *last[2] = {nullptr, nullptr};  /* to use a place */
            const hn_node *unmet[2] = {nullptr, nullptr}; /* gathered, and nobody has waited */
            int64_t far = 0;                              /* that run beside other layers */
            for (int64_t i = 0; i < g->n_nodes; i++) {
                const hn_node *n = g->node[i];
                if (n->op == HN_OP_ALL_GATHER) {
                    const hn_shard *s = hn_shard_of(n->in[1]);
                    const int64_t at = s->number % 2;
                    EXPECT_TRUE(n->ahead);
                    EXPECT_EQ(unmet[at], nullptr) << "its place is not free";
                    held[at] = s;
                    unmet[at] = n; /* in f32 nothing is stored behind it */
                    EXPECT_GE(n->ahead_mark, 0);
                    int64_t k = i - 1; /* side nodes run beside it */
                    while (k >= 0 && (g->node[k]->side || g->node[k]->ahead)) k--;
                    EXPECT_EQ(k >= 0 ? g->node[k] : nullptr, last[at]) << n->name;
                    continue;
                }
                for (const hn_tensor *operand : n->in) {
                    const hn_shard *s = operand ? hn_shard_of(operand) : nullptr;
                    if (s == nullptr) continue;
                    const int64_t at = s->number % 2;
                    EXPECT_EQ(held[at], s) << n->name;
                    EXPECT_FALSE(n->side);
                    if (unmet[at] != nullptr) {
                        EXPECT_EQ(n->needs, unmet[at]) << n->name;
                        far += g->node[i - 1] != unmet[at];
                    }
                    unmet[at] = nullptr;
                    last[at] = n;
                }
            }
            EXPECT_EQ(far, hn_graph_gathers(g)) << name;
            EXPECT_TRUE(unmet[0] == nullptr && unmet[1] == nullptr);
        }
    }
}

#ifdef HONE_CUDA
INSTANTIATE_TEST_SUITE_P(Devices, Shards, ::testing::Values("cpu", "cuda"), device_name);
#else
INSTANTIATE_TEST_SUITE_P(Devices, Shards, ::testing::Values("cpu"), device_name);
#endif

} // namespace
