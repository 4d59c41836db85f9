/* Side nodes: what runs beside others never meets them in memory, is waited for in time, and
 * changes no bit. On the CPU they run in the order of the list, which is tested here;
 * test_engine_cuda.cc runs them on two streams. */
#include <algorithm>
#include <map>

#include "hn_test.h"
#include "runtime/model/model.h"
#include "runtime/train/decoder_job.h"
#include "runtime/train/lora_hook.h"

extern "C" {
#include "runtime/graph/graph_impl.h"
}

namespace {

struct Settings {
    hn_side side = HN_SIDE_ON;
    const char *dtype = "f32";
    double dropout = 0;
    hn_recompute recompute = HN_RECOMPUTE_OFF;
};

/* A small model with adapters, on the CPU. */
class Job {
    hn_peft_config peft_ = {};
    hn_adapt adapt_ = {};
    hn_device *device_ = nullptr;
    hn_model model_ = {};

  public:
    hn_engine *e = nullptr;
    hn_engine_options o = {};
    hn_decoder_options d = {};
    hn_decoder_job job = {};

    explicit Job(const Settings &s)
    {
        EXPECT_HN_OK(hn_device_open("cpu", &device_));
        EXPECT_HN_OK(hn_model_open("tests/fixtures/models/qwen3", s.dtype, nullptr, &model_));
        peft_.r = 4;
        peft_.alpha = 8;
        peft_.dropout = s.dropout;
        for (const char *name : {"q_proj", "k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
            EXPECT_HN_OK(hn_names_add(&peft_.targets.list, name));
        adapt_ = hn_lora_hook(&peft_);
        o.device = device_;
        o.executor = HN_EXECUTOR_CPU;
        d.decoder = &model_.decoder;
        o.adapt = &adapt_;
        o.dtype = model_.dtype;
        d.batch_rows = d.max_seqs = 2;
        d.seq_len = 24;
        o.train = true;
        o.recompute = s.recompute;
        o.optimizer.beta1 = 0.9;
        o.optimizer.beta2 = 0.999;
        o.optimizer.eps = 1e-8;
        o.side = s.side;
        hn_decoder_job_init(&job, &d);
        o.job = &job.job;
        EXPECT_HN_OK(hn_engine_new(&o, &e));
        if (e == nullptr) return;
        EXPECT_HN_OK(hn_engine_allocate(e));
        EXPECT_HN_OK(hn_model_load(&model_, hn_engine_params(e), 5));
    }
    ~Job()
    {
        hn_engine_free(e);
        hn_model_close(&model_);
        hn_device_close(device_);
        hn_peft_config_clear(&peft_);
    }
    Job(const Job &) = delete;
    const hn_graph *micro() const
    {
        const hn_program *p = hn_engine_program(e);
        for (int64_t i = 0; i < p->n_graphs; i++)
            if (std::strcmp(p->graph[i]->name, "micro") == 0) return p->graph[i];
        return nullptr;
    }
    std::vector<double> losses(int64_t steps)
    {
        std::vector<double> v;
        for (int64_t t = 0; t < steps; t++) {
            hn_step_report r = {};
            EXPECT_HN_OK(hn_engine_begin(e, t));
            for (int64_t a = 0; a < 2; a++) {
                hn_engine_input in;
                EXPECT_HN_OK(hn_engine_batch(e, &in));
                const hn_decoder_batch to = hn_decoder_batch_of(&in);
                for (int64_t i = 0; i < 48; i++) {
                    to.tokens[i] = (int32_t)((i * i + 7 * t + a) % model_.decoder.vocab);
                    to.labels[i] = (int32_t)((i * i + 7 * t + a + 1) % model_.decoder.vocab);
                    to.positions[i] = (int32_t)(i % 24);
                }
                for (int32_t s = 0; s < 3; s++) to.offsets[s] = 24 * s;
                EXPECT_HN_OK(hn_engine_micro(e, a));
            }
            EXPECT_HN_OK(hn_engine_update(e, 1e-2, &r));
            v.push_back(r.loss);
        }
        return v;
    }
};

struct Bytes {
    const char *first, *end;
    bool meets(const Bytes &b) const { return first < b.end && b.first < end; }
};

/* What a node reads or writes, gaps and tails between the rows left out where one is a view. */
void add(std::vector<Bytes> *to, const hn_tensor *t)
{
    if (t == nullptr) return;
    const char *const data = (const char *)t->data;
    to->push_back({data, data + hn_type_bytes(&t->type)});
}

std::vector<Bytes> written(const hn_node *n)
{
    std::vector<Bytes> v;
    for (const hn_tensor *t : n->out) add(&v, t);
    if (n->scratch > 0) {
        const char *const at =
            (const char *)n->graph->program->memory[HN_MEM_TRANSIENT] + n->scratch_at;
        v.push_back({at, at + n->scratch});
    }
    return v;
}

std::vector<Bytes> used(const hn_node *n)
{
    std::vector<Bytes> v = written(n);
    for (const hn_tensor *t : n->in) add(&v, t);
    return v;
}

bool meet(const std::vector<Bytes> &a, const std::vector<Bytes> &b)
{
    for (const Bytes &x : a)
        for (const Bytes &y : b)
            if (x.meets(y)) return true;
    return false;
}

class SideNodes : public ::testing::TestWithParam<Settings> {};

TEST_P(SideNodes, MeetNobodyInMemoryBeforeTheyAreJoined)
{
    const Job job(GetParam());
    const hn_graph *g = job.micro();
    int64_t n_side = 0, n_pairs = 0;
    for (int64_t i = 0; i < g->n_nodes; i++) {
        const hn_node *s = g->node[i];
        if (!s->side) continue;
        n_side++;
        EXPECT_STREQ(hn_op(s->op)->name, "linear_dw");
        ASSERT_GT(s->join, i);
        ASSERT_LE(s->join, g->n_nodes);
        for (int64_t j = i + 1; j < s->join; j++) {
            const hn_node *m = g->node[j];
            if (m->side) continue;
            n_pairs++;
            EXPECT_EQ(m->leaves_room, m->backward && m->of != nullptr) << j;
            EXPECT_FALSE(meet(written(s), used(m))) << s->name << " and " << m->name;
            EXPECT_FALSE(meet(used(s), written(m))) << s->name << " and " << m->name;
        }
    }
    EXPECT_EQ(n_side, 2 * 12);      /* dA and dB of six adapters in two layers */
    EXPECT_GT(n_pairs, 2 * n_side); /* there is something to look at */
}

TEST_P(SideNodes, AreWaitedForInTime)
{
    const Job job(GetParam());
    const hn_graph *g = job.micro();
    std::map<const hn_node *, int64_t> number;
    for (int64_t i = 0; i < g->n_nodes; i++) number[g->node[i]] = i;
    int64_t done = -1; /* all side nodes up to there are done */
    for (int64_t i = 0; i <= g->n_nodes; i++) {
        const hn_node *n = i < g->n_nodes ? g->node[i] : nullptr;
        const hn_node *after = n ? n->after : g->side_end;
        if (n && n->side) {
            EXPECT_EQ(after, nullptr);
            continue;
        }
        if (after) {
            EXPECT_TRUE(after->side);
            EXPECT_GE(after->mark, 0);
            EXPECT_LT(done, number[after]);
            done = number[after];
        }
        EXPECT_LT(done, i);
        for (int64_t k = done + 1; k < i; k++) {
            if (!g->node[k]->side) continue;
            EXPECT_GT(g->node[k]->join, i) << k; /* at the end nothing is left */
        }
    }
}

TEST_P(SideNodes, ChangeNoBitAndAddLittleMemory)
{
    Settings off = GetParam();
    off.side = HN_SIDE_OFF;
    Job with(GetParam()), without(off);
    EXPECT_EQ(with.losses(5), without.losses(5));
    /* never beyond the peak of what is in use; what fits under it may leave a hole, of some KiB
     * (scratch depends on the number of threads) */
    EXPECT_LE((double)with.micro()->transient_bytes,
              1.08 * (double)without.micro()->transient_bytes);
    hn_plan_sizes sizes;
    hn_plan_sizes_of(hn_engine_program(without.e), &sizes);
    EXPECT_EQ(sizes.n_side, 0);
}

/* As late as the waits allow: each just before the main node that waits for it. */
void run_late(hn_graph *g)
{
    std::vector<hn_node *> order, waiting;
    const auto flush = [&](const hn_node *until) {
        const auto end = std::find(waiting.begin(), waiting.end(), until);
        const auto behind = end == waiting.end() ? end : end + 1;
        order.insert(order.end(), waiting.begin(), behind);
        waiting.erase(waiting.begin(), behind);
    };
    for (int64_t i = 0; i < g->n_nodes; i++) {
        hn_node *n = g->node[i];
        if (n->side) {
            waiting.push_back(n);
            continue;
        }
        if (n->after) flush(n->after);
        order.push_back(n);
    }
    flush(nullptr);
    ASSERT_EQ((int64_t)order.size(), g->n_nodes);
    std::copy(order.begin(), order.end(), g->node);
}

TEST_P(SideNodes, MayRunAsLateAsTheyAreWaitedFor)
{
    Job early(GetParam()), late(GetParam());
    hn_graph *g = const_cast<hn_graph *>(late.micro());
    const std::vector<hn_node *> before(g->node, g->node + g->n_nodes);
    run_late(g);
    EXPECT_NE(before, std::vector<hn_node *>(g->node, g->node + g->n_nodes));
    EXPECT_EQ(late.losses(5), early.losses(5));
}

INSTANTIATE_TEST_SUITE_P(Jobs, SideNodes,
                         ::testing::Values(Settings{}, Settings{.dtype = "bf16"},
                                           Settings{.dropout = 0.1},
                                           Settings{.dtype = "bf16", .recompute = HN_RECOMPUTE_ON}),
                         [](const auto &i) {
                             return std::string(i.param.dtype) +
                                    (i.param.dropout > 0 ? "_dropout" : "") +
                                    (i.param.recompute == HN_RECOMPUTE_ON ? "_again" : "");
                         });

/* ---- small graphs ---- */

class SideNodesOf : public ::testing::Test {
  protected:
    hn_program *p = nullptr;
    hn_graph *g = nullptr;

    void SetUp() override
    {
        ASSERT_HN_OK(hn_program_new(1, &p));
        ASSERT_HN_OK(hn_graph_new(p, "g", false, &g));
    }
    void TearDown() override { hn_program_free(p); }
    hn_tensor *tensor(hn_mem mem, const char *name, int64_t rows, int64_t cols)
    {
        hn_tensor *t = nullptr;
        const hn_type type = {HN_F32, 2, {rows, cols}, 0, 0};
        EXPECT_HN_OK(hn_program_tensor(p, mem, name, &type, &t));
        return t;
    }
    hn_tensor *emit(hn_op_id op, const char *name, std::vector<hn_tensor *> in)
    {
        hn_tensor *out[HN_MAX_OUT] = {};
        hn_attr attr = {};
        attr.scale.factor = 1;
        EXPECT_HN_OK(hn_emit(g, op, name, in.data(), &attr, out));
        return out[0];
    }
    void plan()
    {
        const hn_plan_options o = {.side = HN_SIDE_ON};
        ASSERT_HN_OK(hn_plan_build(p, &o));
    }
    int64_t place_of(const char *name) const
    {
        for (int64_t i = 0; i < g->n_nodes; i++)
            if (std::strcmp(g->node[i]->name, name) == 0) return i;
        return -1;
    }
    const hn_node *node(const char *name) const { return g->node[place_of(name)]; }
};

TEST_F(SideNodesOf, OneBufferKeepTheirOrder)
{
    hn_tensor *x = tensor(HN_MEM_INPUT, "x", 64, 4), *dw = tensor(HN_MEM_GRAD, "dw", 4, 4);
    hn_tensor *late = emit(HN_OP_SCALE, "make late", {x});
    emit(HN_OP_LINEAR_DW, "first", {late, x, dw});
    emit(HN_OP_LINEAR_DW, "second", {x, x, dw}); /* its operands are there from the start */
    plan();
    EXPECT_TRUE(node("first")->side);
    EXPECT_TRUE(node("second")->side);
    EXPECT_LT(place_of("make late"), place_of("first"));
    EXPECT_LT(place_of("first"), place_of("second"));
}

TEST_F(SideNodesOf, ReadersOfTheSumWait)
{
    hn_tensor *x = tensor(HN_MEM_INPUT, "x", 64, 4), *dw = tensor(HN_MEM_GRAD, "dw", 4, 4);
    hn_tensor *range = nullptr;
    ASSERT_HN_OK(hn_program_range(p, HN_MEM_GRAD, "all", HN_F32, 0, 16, &range));
    emit(HN_OP_LINEAR_DW, "sum", {x, x, dw});
    hn_graph_keep(emit(HN_OP_SCALE, "beside", {x}));
    hn_graph_keep(emit(HN_OP_SCALE, "reader", {range})); /* the same bytes by another name */
    hn_graph_keep(emit(HN_OP_SCALE, "later", {x}));
    plan();
    EXPECT_EQ(node("sum")->join, place_of("reader"));
    EXPECT_EQ(node("reader")->after, node("sum"));
    EXPECT_EQ(node("later")->after, nullptr);
    EXPECT_EQ(g->side_end, nullptr);
}

/* What a side node reads is not written over in place: `y` may take over `t`, but not yet. */
TEST_F(SideNodesOf, OperandsAreNotTakenOver)
{
    hn_tensor *x = tensor(HN_MEM_INPUT, "x", 64, 4), *dw = tensor(HN_MEM_GRAD, "dw", 4, 4);
    hn_tensor *t = emit(HN_OP_SCALE, "t", {x});
    hn_graph_keep(emit(HN_OP_SCALE, "wide", {x}));
    emit(HN_OP_LINEAR_DW, "sum", {t, x, dw});
    hn_tensor *y = emit(HN_OP_SCALE, "y", {t});
    hn_graph_keep(y);
    plan();
    ASSERT_TRUE(node("sum")->side);
    const bool beside = node("sum")->join > place_of("y");
    EXPECT_EQ(y->offset != t->offset, beside);
    ASSERT_HN_OK(hn_plan_allocate(p));
}

/* Arithmetic bounds the gradient of a whole weight: it stays where it is. */
TEST_F(SideNodesOf, LargeProductsAreNone)
{
    hn_tensor *x = tensor(HN_MEM_INPUT, "x", 8, 512), *dw = tensor(HN_MEM_GRAD, "dw", 512, 512);
    emit(HN_OP_LINEAR_DW, "sum", {x, x, dw});
    plan();
    EXPECT_FALSE(node("sum")->side);
}

} // namespace
