/* Checkpoints of runs that train chosen blocks: what is saved and loaded goes on bit for bit. */
#include "sparse_test.h"

#include "runtime/train/state.h"

namespace {

hn_run_identity identity()
{
    hn_run_identity id = {};
    id.method = "sparse";
    id.base_path = id.base_digest = id.data_digest = id.tokenizer_digest = "none";
    id.settings = id.yaml = "";
    return id;
}

/* A run with two selections; step by step: 0, 1 train; 2, 3 score; 4, 5 a window; 6 a new support
 * out of what was gathered; then on. */
class SelectingRun {
  public:
    SmallDecoder m;
    explicit SelectingRun(const char *dtype) : m(dtype)
    {
        SparseChoice c = mixed();
        c.rank = 2;
        m.o.sparse = {.density = 0.2, .candidates = 2, .squares = true, .select_memory = 1 << 15};
        m.o.optimizer.weight_decay = 0.1;
        m.open(c);
    }
    Blocks blocks() const { return m.blocks(); }
    void start() const { blocks().select(blocks().share(4, 1, 0.5)); }
    std::pair<std::vector<int32_t>, std::vector<float>> scores(int64_t i) const
    {
        std::vector<int32_t> ids((size_t)blocks().at(i).kept);
        std::vector<float> sum(ids.size());
        int64_t n = 0;
        EXPECT_HN_OK(hn_sparse_scores(blocks().s, i, ids.data(), sum.data(), &n));
        ids.resize((size_t)n), sum.resize((size_t)n);
        return {ids, sum};
    }
    /* The best blocks by scores, about as many as the support has. */
    Lists best() const
    {
        Lists l;
        const Blocks b = blocks();
        for (int64_t i = 0; i < b.n(); i++) {
            const auto [ids, sum] = scores(i);
            std::vector<std::pair<float, int32_t>> order;
            for (size_t k = 0; k < ids.size(); k++) order.emplace_back(-sum[k], ids[k]);
            std::sort(order.begin(), order.end());
            std::vector<int32_t> list;
            for (size_t k = 0; k < std::min(order.size(), b.ids(i).size()); k++)
                list.push_back(order[k].second);
            std::sort(list.begin(), list.end());
            l.add(list);
        }
        return l;
    }
    void run(int64_t step) const
    {
        const Blocks b = blocks();
        if (step == 2) {
            ASSERT_HN_OK(hn_sparse_begin(b.s));
        }
        if (step == 4) b.watch(best());
        ASSERT_HN_OK(hn_engine_gather(m.e, step < 2 || step > 5 ? HN_GATHER_NOTHING
                                           : step < 4           ? HN_GATHER_SCORES
                                                                : HN_GATHER_WINDOW));
        if (step == 6) {
            Lists l;
            for (int64_t i = 0; i < b.n(); i++) l.add(b.ids(i, HN_BLOCKS_WATCHED));
            auto m1 = b.get(HN_SPARSE_WATCHED_SUM), m2 = b.get(HN_SPARSE_WATCHED_SQUARE);
            const std::vector<uint16_t> age(l.id.size(), 2);
            const hn_block_start start = {m1.data(), m2.data(), age.data()};
            b.select(l, false, &start);
        }
        m.step(step, 2, 1e-2);
    }
    /* Everything that a step may read. */
    std::vector<float> all() const
    {
        const Blocks b = blocks();
        std::vector<float> v = b.weights();
        for (int part = 0; part < HN_SPARSE_PART_COUNT; part++) {
            const auto p = b.get((hn_sparse_part)part);
            v.insert(v.end(), p.begin(), p.end());
        }
        for (int64_t i = 0; i < b.n(); i++) {
            const auto [ids, sum] = scores(i);
            for (const int32_t id : ids) v.push_back((float)id);
            v.insert(v.end(), sum.begin(), sum.end());
            for (const uint16_t age : b.ages(i)) v.push_back(age);
            for (const int32_t id : b.ids(i)) v.push_back((float)id);
        }
        for (int64_t i = 0; i < hn_params_count(hn_engine_params(m.e)); i++) {
            const hn_param *q = hn_params_at(hn_engine_params(m.e), i);
            if (!q->trained) continue;
            std::vector<float> w((size_t)hn_param_values(q));
            EXPECT_HN_OK(hn_param_get(q, w.data()));
            v.insert(v.end(), w.begin(), w.end());
        }
        return v;
    }
};

constexpr int64_t kSteps = 8;

/* Saved behind every step, loaded into a new engine and continued (spec 6.6 f): also between two
 * score steps, and inside a window. */
TEST(SparseCheckpoint, AContinuedRunIsTheUninterruptedOne)
{
    const hn_run_identity id = identity();
    for (const char *dtype : {"f32", "bf16"}) {
        const TempDir dir;
        SelectingRun whole(dtype);
        whole.start();
        hn_run_state state = {};
        ASSERT_HN_OK(hn_run_state_init(&state, 4));
        for (int64_t s = 0; s < kSteps; s++) {
            whole.run(s);
            state.step = s + 1;
            ASSERT_HN_OK(
                hn_state_save(dir.str().c_str(), hn_engine_params(whole.m.e), &id, &state));
        }
        const auto want = whole.all();
        for (int64_t at = 1; at < kSteps; at++) {
            const std::string from = dir / ("checkpoint-" + std::to_string(at));
            SelectingRun rest(dtype);
            ASSERT_HN_OK(hn_state_load(from.c_str(), hn_engine_params(rest.m.e), &id, 4, &state));
            ASSERT_EQ(state.step, at);
            for (int64_t s = at; s < kSteps; s++) rest.run(s);
            EXPECT_EQ(rest.all(), want) << dtype << " from step " << at;
        }
        hn_run_state_clear(&state);
    }
}

/* They choose places in tables. */
TEST(SparseCheckpoint, BatchesThatCannotBeAreRefused)
{
    const hn_run_identity id = identity();
    const TempDir dir;
    SelectingRun of("f32"), rest("f32");
    of.start();
    hn_run_state state = {};
    ASSERT_HN_OK(hn_run_state_init(&state, 4));
    for (int64_t s = 0; s < 3; s++) of.run(s);
    const int64_t past = (int64_t)INT32_MAX + 1;
    for (const hn_sparse_progress p :
         {hn_sparse_progress{-7, 1}, {1, -1}, {past, 0}, {1, INT64_MAX}}) {
        *hn_sparse_progress_of(of.blocks().s) = p;
        state.step++;
        ASSERT_HN_OK(hn_state_save(dir.str().c_str(), hn_engine_params(of.m.e), &id, &state));
        const std::string from = dir / ("checkpoint-" + std::to_string(state.step));
        hn_run_state got = {};
        ASSERT_HN_OK(hn_run_state_init(&got, 4));
        EXPECT_HN_FAIL(hn_state_load(from.c_str(), hn_engine_params(rest.m.e), &id, 4, &got),
                       HN_ERR_FORMAT, "sparse.progress");
        hn_run_state_clear(&got);
    }
    hn_run_state_clear(&state);
}

/* An engine that trains nothing gets the weights with the change. */
TEST(SparseCheckpoint, WithoutTrainingTheChangeIsInTheWeights)
{
    for (const char *dtype : {"f32", "bf16"}) {
        const TempDir dir;
        const hn_run_identity id = identity();
        SmallDecoder m(dtype), eval(dtype);
        m.o.sparse = {.density = 0.2};
        m.open(squares(4));
        const Blocks b = m.blocks();
        b.select(b.share(4, 1, 0.5));
        for (int64_t s = 0; s < 3; s++) m.step(s);
        hn_run_state state = {};
        state.step = 3;
        ASSERT_HN_OK(hn_state_save(dir.str().c_str(), hn_engine_params(m.e), &id, &state));
        eval.o.train = false;
        eval.open();
        const std::string from = dir / "checkpoint-3";
        ASSERT_HN_OK(hn_state_load_delta(from.c_str(), hn_engine_params(eval.e), id.base_digest));
        for (int64_t i = 0; i < hn_params_count(hn_engine_params(m.e)); i++) {
            const hn_param *q = hn_params_at(hn_engine_params(m.e), i);
            const hn_param *p = hn_params_find(hn_engine_params(eval.e), q->name);
            std::vector<float> w((size_t)hn_param_values(q)), v(w.size());
            ASSERT_HN_OK(hn_param_get(q, w.data()));
            ASSERT_HN_OK(hn_param_get(p, v.data()));
            EXPECT_EQ(v, w) << q->name;
        }
        SmallDecoder other(dtype);
        other.o.sparse = {.density = 0.2};
        other.open(squares(1));
        EXPECT_HN_FAIL(hn_state_load_delta(from.c_str(), hn_engine_params(other.e), id.base_digest),
                       HN_ERR_FORMAT, "blocks of 4 x 4");
        SmallDecoder fewer(dtype);
        fewer.o.sparse = {.density = 0.2};
        fewer.open({.shape = [](const std::string &name, int64_t, int64_t) {
            return name.find("q_proj") == std::string::npos ? hn_block_shape{0, 0}
                                                            : hn_block_shape{4, 4};
        }});
        EXPECT_HN_FAIL(hn_state_load_delta(from.c_str(), hn_engine_params(fewer.e), id.base_digest),
                       HN_ERR_FORMAT, "of which this run trains none");
    }
}

} // namespace
