/* Linear layers that share an input: stored as one, bordered, or one by one, they give the same
 * results, the same gradients, and the same parameters under the same names. */
#include "hn_test.h"
#include "runtime/adapt/params.h"
#include "runtime/graph/plan.h"
#include "runtime/graph/run.h"
#include "runtime/graph/tensor.h"

namespace {

enum Storage { PLAIN, FUSED, BORDERED, UNFORCED }; /* UNFORCED: as on the CPU */

struct Part {
    int64_t out, rank;
    float scale;
};

struct Group {
    const char *name;
    hn_dtype dtype;
    std::vector<Part> parts;
    bool bias, train_weights;
    float dropout;
    bool fuses, borders; /* what storage.c is expected to do with the group */
};

const Group setups[] = {
    {"qkv", HN_F32, {{24, 8, 2}, {8, 8, 2}, {8, 8, 2}}, false, false, 0, true, true},
    {"bias", HN_F32, {{24, 8, 2}, {8, 8, 2}, {8, 8, 2}}, true, false, 0, true, true},
    {"q_and_v", HN_F32, {{24, 4, 2}, {8, 0, 0}, {8, 4, 2}}, true, false, 0, true, true},
    {"ranks", HN_F32, {{16, 3, 0.5}, {5, 2, 0.5}}, false, false, 0, true, false},
    {"frozen", HN_F32, {{16, 0, 0}, {9, 0, 0}}, true, false, 0, true, false},
    {"wide", HN_F32, {{64, 40, 2}, {64, 40, 2}}, false, false, 0, true, false},
    {"scales", HN_F32, {{16, 8, 2}, {16, 8, 4}}, false, false, 0, false, false},
    {"dropout", HN_F32, {{16, 8, 2}, {16, 8, 2}}, false, false, 0.25f, false, false},
    {"full", HN_F32, {{16, 8, 2}, {16, 8, 2}}, true, true, 0, false, false},
    {"qkv_bf16", HN_BF16, {{24, 8, 2}, {8, 8, 2}, {8, 8, 2}}, true, false, 0, true, true},
    {"ranks_bf16", HN_BF16, {{16, 3, 0.5}, {5, 2, 0.5}}, false, false, 0, true, false},
    {"full_bf16", HN_BF16, {{16, 8, 2}, {16, 8, 2}}, true, true, 0, false, false},
};

constexpr int64_t kRows = 10, kIn = 16;
const char *const modules[] = {"m.q_proj", "m.k_proj", "m.v_proj"};

/* x -> scale -> layers -> scale -> sums of all; with gradients of everything trained and of x. */
class Model {
    const Group &s_;

    static hn_adapt_kind parameter(const void *c, const char *)
    {
        return ((const Model *)c)->s_.train_weights ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
    }
    static hn_status linear(const void *c, const char *module, int64_t, int64_t, hn_lowrank *choice)
    {
        const Group &s = ((const Model *)c)->s_;
        for (size_t k = 0; k < s.parts.size(); k++)
            if (strcmp(modules[k], module) == 0)
                *choice = {s.parts[k].rank, s.parts[k].scale, s.dropout};
        return HN_OK;
    }
    static hn_status rows(const void *, const char *, int64_t in, int64_t, hn_block_shape *choice)
    {
        *choice = {1, in};
        return HN_OK;
    }

  public:
    hn_program *p = nullptr;
    hn_params *params = nullptr;
    hn_graph *g = nullptr, *update = nullptr;
    hn_tensor *x = nullptr, *y[4] = {}, *dy[4] = {};
    hn_step_block step = {};

    /* blocks: every other row of the weights is trained */
    Model(const Group &s, Storage storage, bool recompute = false, bool blocks = false) : s_(s)
    {
        const hn_adapt adapt = {.parameter = parameter,
                                .linear = linear,
                                .sparse = blocks ? rows : nullptr,
                                .context = this};
        const int n = (int)s.parts.size();
        step.seed = 3;
        EXPECT_HN_OK(hn_program_new(1, &p));
        EXPECT_HN_OK(hn_params_new(&adapt, &params));
        for (int k = 0; k < n; k++)
            EXPECT_HN_OK(
                hn_params_linear(params, modules[k], kIn, s.parts[(size_t)k].out, s.bias, 0.3));
        if (storage != PLAIN) {
            EXPECT_HN_OK(hn_params_group(params, n, modules));
        }
        const hn_params_options o = {.dtype = s.dtype,
                                     .moments = 2,
                                     .gradients = true,
                                     .fuse = storage == UNFORCED ? HN_FUSE_WIDE : HN_FUSE_ALWAYS,
                                     .border = storage == BORDERED,
                                     .sparse = {.density = 0.75}};
        EXPECT_HN_OK(hn_params_create(params, p, &o));
        record(n, storage, recompute);
        const hn_plan_options plan = {.device = nullptr, .guard_bytes = 64};
        EXPECT_HN_OK(hn_plan_build(p, &plan));
        EXPECT_HN_OK(hn_plan_allocate(p));
        fill();
        if (blocks) choose_rows();
    }
    ~Model()
    {
        hn_params_free(params);
        hn_program_free(p);
    }
    Model(const Model &) = delete;

    void record(int n, Storage storage, bool recompute)
    {
        hn_type type = hn_type_2d(s_.dtype, kRows, kIn);
        hn_tensor *h, *layer[4], *seen[4];
        const hn_attr twice = {.scale = {.factor = 2}};
        EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "x", &type, &x));
        x->needs_grad = true;
        EXPECT_HN_OK(hn_graph_new(p, "g", true, &g));
        if (recompute) hn_segment_begin(g);
        EXPECT_HN_OK(hn_emit(g, HN_OP_SCALE, "h", &x, &twice, &h));
        for (int k = 0; storage == PLAIN && k < n; k++)
            EXPECT_HN_OK(hn_params_linear_fwd(params, g, modules[k], h, &layer[k]));
        if (storage != PLAIN) {
            EXPECT_HN_OK(hn_params_group_fwd(params, g, modules[0], h, layer));
        }
        for (int k = 0; k + 1 < n; k++) { /* read twice by one node: their gradients are sums */
            hn_tensor *const square[] = {layer[k], layer[k]};
            EXPECT_HN_OK(hn_emit(g, HN_OP_MUL, "square", square, nullptr, &seen[k]));
        }
        seen[n - 1] = layer[n - 1];
        hn_segment_end(g);
        for (int k = 0; k < n; k++) {
            EXPECT_HN_OK(hn_emit(g, HN_OP_SCALE, "y", &seen[k], &twice, &y[k]));
            hn_graph_keep(y[k]);
            const std::string name = "dy" + std::to_string(k);
            EXPECT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, name.c_str(), &y[k]->type, &dy[k]));
        }
        EXPECT_HN_OK(hn_graph_backward(g, n, y, dy));
        hn_graph_keep(hn_graph_grad(g, x));
        EXPECT_HN_OK(hn_graph_new(p, "update", false, &update));
        EXPECT_HN_OK(hn_params_refresh(params, update));
    }
    void choose_rows()
    {
        hn_sparse *b = hn_params_sparse(params);
        std::vector<int64_t> first = {0};
        std::vector<int32_t> id;
        for (int64_t i = 0; i < hn_sparse_matrices(b); i++) {
            for (int32_t k = 1; k < hn_sparse_at(b, i)->blocks; k += 2) id.push_back(k);
            first.push_back((int64_t)id.size());
        }
        const hn_block_lists lists = {first.data(), id.data()};
        EXPECT_HN_OK(hn_sparse_select(b, &lists, nullptr, false));
    }
    static void normal(const hn_tensor *t, unsigned seed)
    {
        const auto v = normal_f32((size_t)hn_type_elements(&t->type), seed);
        EXPECT_HN_OK(hn_tensor_set(t, v.data()));
    }
    void fill()
    {
        normal(x, 1);
        for (unsigned k = 0; k < s_.parts.size(); k++) normal(dy[k], 2 + k);
        for (int64_t i = 0; i < hn_params_count(params); i++) {
            hn_param q = *hn_params_at(params, i);
            q.init = HN_INIT_UNIFORM; /* biases and B are zero otherwise */
            q.init_scale = 0.5;
            EXPECT_HN_OK(hn_param_init(&q, 7));
        }
    }
    hn_status run(hn_graph *which)
    {
        const hn_run_options o = {.step = &step, .twin = false, .check = true};
        return hn_graph_run(which, &o);
    }
    static std::vector<float> get(const hn_tensor *t)
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        return v;
    }
    /* Outputs, the gradient of x, and by name every gradient of a trained parameter. */
    std::vector<std::vector<float>> results()
    {
        EXPECT_HN_OK(run(g));
        std::vector<std::vector<float>> all;
        for (size_t k = 0; k < s_.parts.size(); k++) all.push_back(get(y[k]));
        all.push_back(get(hn_graph_grad(g, x)));
        for (int64_t i = 0; i < hn_params_count(params); i++)
            if (hn_params_at(params, i)->trained) all.push_back(get(hn_params_at(params, i)->grad));
        const hn_sparse *b = hn_params_sparse(params);
        for (int64_t i = 0; b != nullptr && i < hn_sparse_matrices(b); i++) {
            const int64_t n = hn_sparse_count(b, HN_BLOCKS_TRAINED, i);
            all.emplace_back((size_t)(n * hn_sparse_at(b, i)->values));
            EXPECT_HN_OK(hn_sparse_get(b, HN_SPARSE_GRAD, i, all.back().data()));
        }
        return all;
    }
    int64_t count(hn_op_id op) const
    {
        int64_t n = 0;
        for (int64_t i = 0; i < hn_graph_nodes(g); i++) n += hn_graph_node(g, i)->op == op;
        return n;
    }
};

class Params : public ::testing::TestWithParam<size_t> {
  protected:
    const Group &s = setups[GetParam()];
    const double close = s.dtype == HN_F32 ? 2e-6 : 1e-2; /* other sums; other bf16 roundings */
};

TEST_P(Params, StorageDoesNotChangeResults)
{
    Model plain(s, PLAIN);
    const auto want = plain.results();
    for (const Storage storage : {FUSED, BORDERED})
        for (const bool recompute : {false, true}) {
            SCOPED_TRACE(std::to_string(storage) + (recompute ? " recomputed" : ""));
            Model m(s, storage, recompute);
            const auto got = m.results();
            ASSERT_EQ(got.size(), want.size());
            for (size_t k = 0; k < got.size(); k++) EXPECT_LT(rel_l2(got[k], want[k]), close) << k;
        }
}

/* Gradients of rows of the weights, besides those of low-rank pairs. */
TEST_P(Params, StorageDoesNotChangeGradientsOfBlocks)
{
    if (s.train_weights) return; /* refused: tests/test_sparse_engine.cc */
    Model plain(s, PLAIN, false, true);
    const auto want = plain.results();
    for (const Storage storage : {FUSED, BORDERED}) {
        Model m(s, storage, false, true);
        const auto got = m.results();
        ASSERT_EQ(got.size(), want.size());
        for (size_t k = 0; k < got.size(); k++) EXPECT_LT(rel_l2(got[k], want[k]), close) << k;
        EXPECT_EQ(m.count(HN_OP_BLOCK_DW), (int64_t)s.parts.size());
    }
}

TEST_P(Params, ValuesAreTheirOwnUnderEveryStorage)
{
    Model plain(s, PLAIN);
    for (const Storage storage : {FUSED, BORDERED}) {
        Model m(s, storage);
        ASSERT_HN_OK(m.run(m.g)); /* tails are written by now, parameters are not */
        ASSERT_EQ(hn_params_count(m.params), hn_params_count(plain.params));
        for (int64_t i = 0; i < hn_params_count(m.params); i++) {
            const hn_param *a = hn_params_at(plain.params, i), *b = hn_params_at(m.params, i);
            std::vector<float> va((size_t)hn_type_elements(&a->value->type)), vb = va;
            EXPECT_STREQ(a->name, b->name);
            ASSERT_HN_OK(hn_param_get(a, va.data()));
            ASSERT_HN_OK(hn_param_get(b, vb.data()));
            EXPECT_TRUE(same_bits(va, vb)) << a->name;
            EXPECT_TRUE(same_bits(Model::get(a->value), Model::get(b->value))) << a->name;
        }
    }
}

/* What an optimizer does to the masters reaches the values that graphs read. */
TEST_P(Params, RefreshCopiesMastersIntoValuesOutsideTheFlatRange)
{
    for (const Storage storage : {PLAIN, FUSED, BORDERED}) {
        Model m(s, storage);
        for (int64_t i = 0; i < hn_params_count(m.params); i++)
            if (hn_params_at(m.params, i)->trained)
                Model::normal(hn_params_at(m.params, i)->master, 50u + (unsigned)i);
        ASSERT_HN_OK(m.run(m.update));
        for (int64_t i = 0; i < hn_params_count(m.params); i++) {
            const hn_param *q = hn_params_at(m.params, i);
            if (!q->trained || q->value->mem == HN_MEM_WORK) continue; /* the update writes those */
            auto want = Model::get(q->master);
            for (float &v : want) v = hn_round_f32(s.dtype, v);
            EXPECT_TRUE(same_bits(Model::get(q->value), want)) << q->name;
        }
    }
}

/* One product for the group; gradients are written where they belong: no copies, no zeros. */
TEST_P(Params, GroupsAreOneProductWhereTheyCan)
{
    Model m(s, FUSED), bordered(s, BORDERED);
    const int64_t products = m.count(HN_OP_LINEAR) + m.count(HN_OP_LOWRANK_LINEAR);
    EXPECT_EQ(products, s.fuses ? 1 : (int64_t)s.parts.size());
    int64_t rank = 0;
    for (const Part &part : s.parts) rank += part.rank;
    Model cpu(s, UNFORCED); /* too narrow for its rank */
    if (rank > 0) {
        EXPECT_EQ(cpu.count(HN_OP_LINEAR) + cpu.count(HN_OP_LOWRANK_LINEAR),
                  (int64_t)s.parts.size());
    }
    if (!s.fuses) return;
    EXPECT_EQ(m.count(HN_OP_ZERO), 0);
    EXPECT_EQ(m.count(HN_OP_STORE), 0);
    bool tail = false;
    for (int64_t i = 0; i < hn_graph_nodes(bordered.g); i++) {
        const hn_node *n = hn_graph_node(bordered.g, i);
        if (n->op == HN_OP_LOWRANK_LINEAR || n->op == HN_OP_LOWRANK_DX)
            tail |= n->in[0]->type.tail > 0;
    }
    EXPECT_EQ(tail, s.borders);
}

INSTANTIATE_TEST_SUITE_P(Storage, Params, ::testing::Range<size_t>(0, std::size(setups)),
                         [](const auto &i) { return std::string(setups[i.param].name); });

TEST(ParamsGroup, RefusesWhatIsNotThere)
{
    hn_params *p = nullptr;
    ASSERT_HN_OK(hn_params_new(nullptr, &p));
    ASSERT_HN_OK(hn_params_linear(p, "a", 8, 8, false, 1));
    ASSERT_HN_OK(hn_params_linear(p, "b", 9, 8, false, 1));
    const char *const unknown[] = {"a", "c"}, *const widths[] = {"a", "b"};
    EXPECT_HN_FAIL(hn_params_group(p, 2, unknown), HN_ERR_ARG, "c: no such linear layer");
    EXPECT_HN_FAIL(hn_params_group(p, 2, widths), HN_ERR_SHAPE, "b reads another width than a");
    hn_params_free(p);
}

/* ---- shapes and orders of files ---- */

class ParamsFile : public ::testing::Test {
  protected:
    hn_program *program = nullptr;
    hn_params *p = nullptr;
    hn_adapt adapt = {};

    void SetUp() override
    {
        adapt.parameter = [](const void *, const char *name) {
            return std::strstr(name, "frozen") ? HN_ADAPT_FROZEN : HN_ADAPT_FULL;
        };
        ASSERT_HN_OK(hn_program_new(1, &program));
        ASSERT_HN_OK(hn_params_new(&adapt, &p));
    }
    void TearDown() override
    {
        hn_params_free(p);
        hn_program_free(program);
    }
    void create(hn_dtype dtype = HN_F32)
    {
        hn_params_options o = {};
        o.dtype = dtype;
        o.moments = 1;
        o.gradients = true;
        const hn_plan_options plan = {};
        ASSERT_HN_OK(hn_params_create(p, program, &o));
        ASSERT_HN_OK(hn_plan_build(program, &plan));
        ASSERT_HN_OK(hn_plan_allocate(program));
    }
    static std::vector<float> counted(const hn_param *q)
    {
        std::vector<float> v((size_t)hn_param_values(q));
        for (size_t i = 0; i < v.size(); i++) v[i] = (float)i;
        return v;
    }
    static std::vector<float> stored(const hn_tensor *t)
    {
        std::vector<float> v((size_t)hn_type_elements(&t->type));
        EXPECT_HN_OK(hn_tensor_get(t, v.data()));
        return v;
    }
};

TEST_F(ParamsFile, ConvolutionsAreStoredWithChannelsLast)
{
    hn_conv_shape s = {};
    s.in = 4, s.out = 2, s.kh = 1, s.kw = 3, s.groups = 2, s.bias = true;
    for (const char *name : {"conv", "frozen"}) ASSERT_HN_OK(hn_params_conv(p, name, &s));
    create();
    for (const char *name : {"conv.weight", "frozen.weight"}) {
        const hn_param *q = hn_params_find(p, name);
        ASSERT_NE(q, nullptr);
        const int64_t want[] = {2, 2, 1, 3};
        ASSERT_EQ(q->file_ndim, 4);
        for (int i = 0; i < 4; i++) EXPECT_EQ(q->file_dim[i], want[i]);
        const auto file = counted(q); /* [out, in / groups, kh, kw] */
        ASSERT_HN_OK(hn_param_set(q, file.data()));
        const std::vector<float> ohwi = {0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11};
        EXPECT_EQ(stored(q->value), ohwi) << name;
        std::vector<float> back(file.size());
        ASSERT_HN_OK(hn_param_get(q, back.data()));
        EXPECT_EQ(back, file) << name;
    }
    const hn_param *q = hn_params_find(p, "conv.weight");
    const auto file = counted(q);
    std::vector<float> back(file.size());
    ASSERT_HN_OK(hn_param_write(q, q->moment1, file.data()));
    EXPECT_EQ(stored(q->moment1), stored(q->value));
    ASSERT_HN_OK(hn_param_read(q, q->moment1, back.data()));
    EXPECT_EQ(back, file);
    EXPECT_EQ(hn_params_find(p, "conv.bias")->dim[0], 2);
    EXPECT_EQ(hn_params_linear_at(p, 0)->in, 6);
}

TEST_F(ParamsFile, TransposedAndWithLeadingOnes)
{
    const int64_t shape[] = {1, 3, 2}, wrong[] = {1, 7};
    ASSERT_HN_OK(hn_params_declare(p, "w", 3, 2, HN_INIT_ZERO, 0));
    ASSERT_HN_OK(hn_params_declare(p, "pos", 3, 2, HN_INIT_ZERO, 0));
    ASSERT_HN_OK(hn_params_file_transposed(p, "w"));
    ASSERT_HN_OK(hn_params_file_shape(p, "pos", 3, shape));
    EXPECT_HN_FAIL(hn_params_file_shape(p, "pos", 2, wrong), HN_ERR_SHAPE, "7 values in files");
    EXPECT_HN_FAIL(hn_params_file_transposed(p, "none"), HN_ERR_ARG, "no such matrix");
    create();
    const hn_param *w = hn_params_find(p, "w");
    const std::vector<float> file = {0, 1, 2, 3, 4, 5}, want = {0, 3, 1, 4, 2, 5};
    EXPECT_EQ(w->file_dim[0], 2);
    ASSERT_HN_OK(hn_param_set(w, file.data()));
    EXPECT_EQ(stored(w->value), want);
    std::vector<float> back(6);
    ASSERT_HN_OK(hn_param_get(w, back.data()));
    EXPECT_EQ(back, file);
}

/* fp32 in every run, neither trained nor counted. */
TEST_F(ParamsFile, BuffersAreNoParameters)
{
    ASSERT_HN_OK(hn_params_declare(p, "gain", 0, 4, HN_INIT_ONE, 0));
    ASSERT_HN_OK(hn_params_buffer(p, "running_var", 4, HN_INIT_ONE));
    create(HN_BF16);
    const hn_param *q = hn_params_find(p, "running_var");
    EXPECT_EQ(q->value->type.dtype, HN_F32);
    EXPECT_EQ(q->master, nullptr);
    EXPECT_EQ(hn_params_trained(p), 4);
    EXPECT_EQ(hn_params_total(p), 4);
    ASSERT_HN_OK(hn_param_init(q, 0));
    EXPECT_EQ(stored(q->value), std::vector<float>(4, 1.0f));
}

TEST_F(ParamsFile, LowRankPairsOfConvolutionsHaveTheShapesOfPeft)
{
    adapt.linear = [](const void *, const char *, int64_t in, int64_t, hn_lowrank *choice) {
        EXPECT_EQ(in, 27);
        *choice = {2, 1, 0};
        return HN_OK;
    };
    hn_params_free(p);
    ASSERT_HN_OK(hn_params_new(&adapt, &p));
    hn_conv_shape s = {};
    s.in = 3, s.out = 8, s.kh = s.kw = 3, s.groups = 1;
    ASSERT_HN_OK(hn_params_conv(p, "conv", &s));
    const int64_t a[] = {2, 3, 3, 3}, b[] = {8, 2, 1, 1};
    const hn_linear_layer *l = hn_params_linear_at(p, 0);
    for (int i = 0; i < 4; i++) EXPECT_EQ(l->a->file_dim[i], a[i]);
    for (int i = 0; i < 4; i++) EXPECT_EQ(l->b->file_dim[i], b[i]);
    EXPECT_EQ(l->a->order, HN_ORDER_TAPS);
    EXPECT_EQ(l->b->order, HN_ORDER_SAME);
    s.groups = 2;
    EXPECT_HN_FAIL(hn_params_conv(p, "grouped", &s), HN_ERR_SHAPE, "2 groups of 3 and 8");
}

/* A vector that is given: a graph writes a row for each replica, or a part of it through a view. */
TEST(ParamsGiven, GraphsWriteAValueForEachReplica)
{
    for (const hn_dtype dtype : {HN_F32, HN_BF16})
        for (const int64_t replicas : {1, 3}) {
            const auto kind = [](const void *, const char *name) {
                if (std::string(name) == "m.bias") return HN_ADAPT_GIVEN;
                return std::string(name) == "n.bias" ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
            };
            hn_device *device;
            hn_program *p;
            hn_params *params;
            hn_graph *g;
            hn_tensor *theta, *part, *whole, *pair, *x, *y, *z;
            const hn_adapt adapt = {.parameter = kind};
            const hn_params_options o = {.dtype = dtype, .moments = 2, .gradients = true};
            const hn_type rows = {.dtype = HN_F32, .ndim = 2, .dim = {2 * replicas, 8}};
            const hn_type input = hn_type_2d(dtype, 2 * replicas, 16);
            ASSERT_HN_OK(hn_program_new(replicas, &p));
            ASSERT_HN_OK(hn_params_new(&adapt, &params));
            ASSERT_HN_OK(hn_params_linear(params, "m", 16, 24, true, 0.3));
            ASSERT_HN_OK(hn_params_linear(params, "n", 24, 5, true, 0.3));
            ASSERT_HN_OK(hn_params_create(params, p, &o));
            const hn_param *m = hn_params_find(params, "m.bias"),
                           *n = hn_params_find(params, "n.bias");
            ASSERT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "theta", &rows, &theta));
            ASSERT_HN_OK(hn_program_tensor(p, HN_MEM_INPUT, "x", &input, &x));
            ASSERT_HN_OK(hn_graph_new(p, "g", false, &g));
            /* tokens 0 and 1 of a replica are its columns 0..7 and 16..23 */
            const int64_t dim[] = {replicas, 16};
            ASSERT_HN_OK(hn_view_shape(g, theta, 2, dim, &whole));
            for (int64_t k = 0; k < 2; k++) {
                const std::string name = "part" + std::to_string(k);
                ASSERT_HN_OK(hn_program_view(p, name.c_str(), m->value, 0, 1, 16 * k, 8, &part));
                ASSERT_HN_OK(hn_view_columns(g, whole, 8 * k, 8, &pair));
                hn_tensor *const in[] = {pair, part};
                ASSERT_HN_OK(hn_emit(g, HN_OP_STORE, "store", in, nullptr, nullptr));
            }
            ASSERT_HN_OK(hn_params_linear_fwd(params, g, "m", x, &y));
            ASSERT_HN_OK(hn_params_linear_fwd(params, g, "n", y, &z));
            hn_graph_keep(y);
            hn_graph_keep(z);
            ASSERT_HN_OK(hn_device_open(test_device(), &device));
            const hn_plan_options plan = {.device = device};
            ASSERT_HN_OK(hn_plan_build(p, &plan));
            ASSERT_HN_OK(hn_plan_allocate(p));
            EXPECT_EQ(hn_params_trained(params), 5);
            EXPECT_TRUE(m->given && m->master == nullptr && m->grad == nullptr);
            std::vector<float> w(24 * 16, 0.25f), bias(24), of_n(5, 2),
                in(32 * (size_t)replicas, 1);
            for (size_t i = 0; i < bias.size(); i++) bias[i] = (float)i;
            ASSERT_HN_OK(hn_param_set(hn_params_find(params, "m.weight"), w.data()));
            ASSERT_HN_OK(hn_param_set(m, bias.data()));
            ASSERT_HN_OK(hn_param_set(n, of_n.data()));
            ASSERT_HN_OK(hn_tensor_set(x, in.data()));
            std::vector<float> t(16 * (size_t)replicas);
            for (size_t i = 0; i < t.size(); i++) t[i] = 100 + (float)i;
            ASSERT_HN_OK(hn_tensor_set(theta, t.data()));
            const hn_run_options run = {};
            ASSERT_HN_OK(hn_graph_run(g, &run));
            std::vector<float> out(48 * (size_t)replicas), got(24), last(10 * (size_t)replicas);
            ASSERT_HN_OK(hn_tensor_get(y, out.data()));
            ASSERT_HN_OK(hn_tensor_get(z, last.data()));
            EXPECT_EQ(last,
                      std::vector<float>(last.size(), 2)); /* n's copies are where they were */
            for (int64_t r = 0; r < replicas; r++) {
                std::vector<float> want = bias;
                for (size_t i = 0; i < 8; i++) {
                    want[i] = t[(size_t)r * 16 + i];
                    want[16 + i] = t[(size_t)r * 16 + 8 + i];
                }
                ASSERT_HN_OK(hn_param_get_replica(m, r, got.data()));
                EXPECT_EQ(got, want) << r;
                for (size_t i = 0; i < 48; i++)
                    EXPECT_EQ(out[(size_t)r * 48 + i], 4 + want[i % 24]) << r << " " << i;
            }
            hn_params_free(params);
            hn_program_free(p);
            hn_device_close(device);
        }
}

TEST(ParamsGiven, IsAVector)
{
    hn_params *p;
    const hn_adapt adapt = {.parameter = [](const void *, const char *) { return HN_ADAPT_GIVEN; }};
    ASSERT_HN_OK(hn_params_new(&adapt, &p));
    EXPECT_HN_FAIL(hn_params_linear(p, "m", 4, 4, true, 0), HN_ERR_UNSUPPORTED,
                   "m.weight: a matrix that is given");
    hn_params_free(p);
}

/* The biases of a fused group are one tensor of the weights: not where one is given. */
TEST(ParamsGiven, KeepsItsLayerOutOfAGroup)
{
    for (const bool given : {false, true}) {
        const hn_adapt adapt = {.parameter =
                                    [](const void *c, const char *name) {
                                        return c && std::string(name) == "m.k_proj.bias"
                                                   ? HN_ADAPT_GIVEN
                                                   : HN_ADAPT_FROZEN;
                                    },
                                .context = given ? &given : nullptr};
        const hn_params_options o = {.dtype = HN_BF16, .fuse = HN_FUSE_ALWAYS};
        hn_program *program;
        hn_params *p;
        ASSERT_HN_OK(hn_program_new(1, &program));
        ASSERT_HN_OK(hn_params_new(&adapt, &p));
        for (const char *m : modules) ASSERT_HN_OK(hn_params_linear(p, m, 16, 8, true, 0.3));
        ASSERT_HN_OK(hn_params_group(p, 3, modules));
        ASSERT_HN_OK(hn_params_create(p, program, &o));
        const hn_tensor *bias = hn_params_find(p, "m.k_proj.bias")->value;
        EXPECT_EQ(bias->mem, given ? HN_MEM_WORK : HN_MEM_WEIGHT);
        EXPECT_EQ(bias->base == nullptr, given);
        hn_params_free(p);
        hn_program_free(program);
    }
}

TEST(ParamsStill, IsAPartOfTheBias)
{
    hn_params *p;
    const hn_adapt adapt = {
        .parameter = [](const void *, const char *) { return HN_ADAPT_FULL; },
        .still =
            [](const void *, const char *, int64_t, int64_t *first, int64_t *n) {
                *first = 3;
                *n = 2;
            }};
    ASSERT_HN_OK(hn_params_new(&adapt, &p));
    ASSERT_HN_OK(hn_params_linear(p, "m", 4, 5, true, 0));
    EXPECT_EQ(hn_params_find(p, "m.bias")->still, 3);
    EXPECT_EQ(hn_params_find(p, "m.bias")->n_still, 2);
    EXPECT_EQ(hn_params_find(p, "m.weight")->n_still, 0);
    EXPECT_HN_FAIL(hn_params_linear(p, "n", 4, 4, true, 0), HN_ERR_SHAPE,
                   "n.bias: 2 elements from 3 on are to stay");
    hn_params_free(p);
}

} // namespace
