/* Training of chosen blocks: their gradients, their updates, and what a selection gathers. */
#include "sparse_test.h"

#include "kernels/optim/adamw.h"
#include "runtime/base/alloc.h"
#include "runtime/base/save.h"
#include "runtime/graph/plan.h"

namespace {

void expect_near(const std::vector<float> &got, const std::vector<float> &want, double tolerance,
                 const std::string &what)
{
    ASSERT_EQ(got.size(), want.size()) << what;
    if (!got.empty()) {
        EXPECT_LT(rel_l2(got, want), tolerance) << what;
    }
}

/* The gradients of all weights, which other tests hold against PyTorch. */
std::map<std::string, std::vector<float>> dense_gradients(unsigned first, unsigned n,
                                                          const char *dtype = "f32")
{
    SmallDecoder m(dtype);
    m.adapt.parameter = every_parameter;
    m.open();
    m.accumulate(0, first, n);
    std::map<std::string, std::vector<float>> all;
    for (int64_t i = 0; i < hn_params_count(hn_engine_params(m.e)); i++) {
        const hn_param *q = hn_params_at(hn_engine_params(m.e), i);
        all[q->name] = m.gradient(q->name);
    }
    return all;
}

/* ---- gradients ---- */

TEST(SparseGradient, IsTheDenseOneAtTheBlocks)
{
    const auto want = dense_gradients(0, 2);
    for (const SparseChoice &c : {squares(1), squares(4), mixed()}) {
        SmallDecoder m;
        m.o.sparse = {.density = 0.3};
        m.open(c);
        const Blocks b = m.blocks();
        b.select(b.share(7, 1, 0.8));
        m.accumulate(0, 0, 2);
        ASSERT_GT(b.n(), 3);
        for (int64_t i = 0; i < b.n(); i++)
            expect_near(b.get(HN_SPARSE_GRAD, i), b.pick(i, b.ids(i), want.at(b.at(i).name)), 1e-5,
                        b.at(i).name);
    }
}

/* In bf16 layers that read the same input are one product, and its weight is trained by views. */
TEST(SparseGradient, OfFusedLayersIsThatOfTheLayers)
{
    const auto want = dense_gradients(0, 1);
    const SparseChoice c = squares(4);
    SmallDecoder m("bf16");
    m.o.sparse = {.density = 0.5};
    m.open(c);
    const Blocks b = m.blocks();
    b.select(b.share(3));
    const int64_t q = hn_sparse_find(b.s, "model.layers.0.self_attn.q_proj.weight");
    ASSERT_GE(q, 0);
    EXPECT_NE(b.at(q).w->base, nullptr) << "not fused: the test shows nothing";
    m.accumulate(0, 0, 1);
    for (int64_t i = 0; i < b.n(); i++)
        expect_near(b.get(HN_SPARSE_GRAD, i), b.pick(i, b.ids(i), want.at(b.at(i).name)), 0.05,
                    b.at(i).name); /* bf16: 2^-8 a rounding, a dozen of them in a row */
}

/* Central differences of the loss in single entries of delta. */
TEST(SparseGradient, EqualsFiniteDifferences)
{
    SmallDecoder m;
    m.o.sparse = {.density = 0.3};
    m.open(mixed());
    const Blocks b = m.blocks();
    b.select(b.share(5, 1, 0.8));
    m.accumulate(0, 3, 1);
    for (int64_t i = 0; i < b.n(); i++) {
        const auto g = b.get(HN_SPARSE_GRAD, i);
        auto delta = b.get(HN_SPARSE_DELTA, i);
        size_t k = 0; /* the largest: what rounding leaves of small ones says little */
        for (size_t j = 0; j < g.size(); j++)
            if (std::abs(g[j]) > std::abs(g[k])) k = j;
        double side[2];
        const float h = 2e-2f;
        for (const int sign : {0, 1}) {
            delta[k] = sign ? h : -h;
            ASSERT_HN_OK(hn_sparse_set(b.s, HN_SPARSE_DELTA, i, delta.data()));
            ASSERT_HN_OK(hn_sparse_store(b.s));
            side[sign] = m.loss(3);
        }
        delta[k] = 0;
        ASSERT_HN_OK(hn_sparse_set(b.s, HN_SPARSE_DELTA, i, delta.data()));
        ASSERT_HN_OK(hn_sparse_store(b.s));
        const double want = (side[1] - side[0]) / (2 * (double)h);
        EXPECT_NEAR((double)g[k], want, 2e-2 * std::abs(want) + 1e-3) << b.at(i).name;
    }
}

/* Convolutions (the matrix [out, kh kw in]), and a classifier's linear layers. */
TEST(SparseGradient, OfConvolutionsIsTheDenseOne)
{
    for (const std::string name : {"mnist-cnn", "resnet20", "separable-cifar", "vit-tiny-cifar"}) {
        const hn_vision_config config = small_model(name);
        const StripedImages images(config, 8, 3);
        Classifier dense(config, images), m(config, images);
        const SparseChoice c = {
            .shape = [](const std::string &, int64_t in, int64_t out) -> hn_block_shape {
                if (in % 4 == 0 && out % 4 == 0) return {4, 4};
                return in % 2 ? hn_block_shape{1, in} : hn_block_shape{1, 1};
            }};
        m.adapt = c.adapt();
        m.o.sparse = {.density = 0.4};
        dense.open();
        m.open();
        const Blocks b(m.e);
        b.select(b.share(1, 1, 0.5));
        dense.accumulate(images, 0, 8);
        m.accumulate(images, 0, 8);
        for (int64_t i = 0; i < b.n(); i++) {
            const hn_param *q = hn_params_find(dense.params(), b.at(i).name);
            std::vector<float> g((size_t)hn_param_values(q));
            ASSERT_HN_OK(hn_tensor_get(q->grad, g.data()));
            expect_near(b.get(HN_SPARSE_GRAD, i), b.pick(i, b.ids(i), g), 2e-5,
                        name + " " + b.at(i).name);
        }
    }
}

/* A list of single entries that covers the same as a list of blocks (spec 6.6 e). */
TEST(SparseGradient, EntriesAndBlocksAgree)
{
    SmallDecoder coarse, fine;
    coarse.o.sparse = fine.o.sparse = {.density = 0.3};
    coarse.open(squares(4));
    fine.open(squares(1));
    const Blocks a = coarse.blocks(), b = fine.blocks();
    a.select(a.share(9));
    Lists covering;
    std::vector<std::vector<size_t>> order;
    for (int64_t i = 0, k = 0; k < b.n(); k++) {
        std::vector<int32_t> ids;
        if (i < a.n() && std::string(a.at(i).name) == b.at(k).name) {
            const auto list = a.ids(i);
            for (size_t v = 0; v < list.size() * 16; v++)
                ids.push_back((int32_t)a.place(i, list, v));
            i++;
        }
        std::sort(ids.begin(), ids.end());
        covering.add(ids);
    }
    b.select(covering);
    for (int64_t s = 0; s < 3; s++) {
        coarse.step(s);
        fine.step(s);
    }
    for (int64_t i = 0; i < a.n(); i++)
        expect_near(a.weight(i), b.weight(hn_sparse_find(b.s, a.at(i).name)), 1e-5, a.at(i).name);
}

/* ---- updates ---- */

/* All entries one by one, without decay: AdamW on a dense change that W_0 is added to (6.6 a). The
 * same gradients on both sides; f32: bit for bit. */
TEST(SparseStep, OfAllEntriesIsDenseAdamWOfTheChange)
{
    SmallDecoder m;
    m.o.sparse = {.density = 1};
    m.open(squares(1));
    const Blocks b = m.blocks();
    b.select(b.all());
    const std::vector<float> w0 = b.weights();
    const size_t n = w0.size();
    std::vector<float> delta(n), m1(n), m2(n);
    const hn_tensor *block = hn_program_find(hn_engine_program(m.e), "step block");
    for (int64_t s = 0; s < 4; s++) {
        m.accumulate(s, (unsigned)s, 1);
        std::vector<float> grad = b.get(HN_SPARSE_GRAD);
        ASSERT_EQ(grad.size(), n);
        hn_step_report r;
        ASSERT_HN_OK(hn_engine_update(m.e, 1e-2, &r));
        hn_step_block step;
        ASSERT_HN_OK(hn_tensor_read(block, 0, &step, sizeof step));
        const hn_adamw_args a = {.p = delta.data(),
                                 .grad = grad.data(),
                                 .m = m1.data(),
                                 .v = m2.data(),
                                 .step = &step,
                                 .n = (int64_t)n,
                                 .beta1 = 0.9f,
                                 .beta2 = 0.999f,
                                 .eps = 1e-8f};
        ASSERT_HN_OK(hn_adamw_fast(&a));
        if (hn_device_kind_of(m.device) == HN_DEVICE_CPU) {
            EXPECT_EQ(b.get(HN_SPARSE_DELTA), delta) << "step " << s;
        }
        expect_near(b.get(HN_SPARSE_DELTA), delta, 1e-5, "delta");
        auto w = w0;
        const auto got = b.get(HN_SPARSE_DELTA);
        for (size_t k = 0; k < n; k++) w[k] += got[k];
        EXPECT_EQ(b.weights(), w) << "step " << s;
    }
}

TEST(SparseStep, TwoRunsAreTheSameBits)
{
    std::vector<float> run[2];
    for (auto &w : run) {
        SmallDecoder m;
        m.o.sparse = {.density = 0.2};
        m.o.optimizer.max_grad_norm = 1;
        m.open(mixed());
        const Blocks b = m.blocks();
        b.select(b.share(5, 1, 0.5));
        for (int64_t s = 0; s < 4; s++) m.step(s, 2);
        w = b.weights();
    }
    EXPECT_EQ(run[0], run[1]);
}

/* Only chosen blocks move, by round(frozen + delta), and they learn. */
TEST(SparseStep, MovesChosenBlocksAlone)
{
    for (const char *dtype : {"f32", "bf16"}) {
        SmallDecoder m(dtype);
        m.o.sparse = {.density = 0.2};
        m.open(squares(4));
        const Blocks b = m.blocks();
        const auto before = b.weights();
        b.select(b.share(2, 1, 0.7));
        const double first = m.loss(0);
        for (int64_t s = 0; s < 8; s++) {
            m.accumulate(s, 0, 1);
            ASSERT_HN_OK(hn_engine_update(m.e, 3e-2, nullptr));
            hn_step_report r;
            bool there;
            ASSERT_HN_OK(hn_engine_report(m.e, true, &there, &r));
        }
        EXPECT_LT(m.loss(0), 0.9 * first);
        size_t at = 0;
        for (int64_t i = 0; i < b.n(); i++) {
            const auto w = b.weight(i), delta = b.get(HN_SPARSE_DELTA, i),
                       frozen = b.get(HN_SPARSE_FROZEN, i);
            std::vector<float> want(before.begin() + (ptrdiff_t)at,
                                    before.begin() + (ptrdiff_t)(at + w.size()));
            const auto ids = b.ids(i);
            for (size_t k = 0; k < delta.size(); k++) {
                const float sum = frozen[k] + delta[k];
                EXPECT_EQ(frozen[k], want[b.place(i, ids, k)]);
                want[b.place(i, ids, k)] =
                    *dtype == 'b' ? hn_bf16_to_f32(hn_bf16_from_f32(sum)) : sum;
            }
            EXPECT_EQ(w, want) << dtype << " " << b.at(i).name;
            EXPECT_EQ(b.ages(i), std::vector<uint16_t>(ids.size(), 8));
            at += w.size();
        }
    }
}

/* ---- supports ---- */

/* SHA-256 of the values' bits: a zero's sign counts, too. */
static std::string digest(const std::vector<float> &values)
{
    char hex[HN_SHA256_HEX];
    EXPECT_HN_OK(hn_sha256(values.data(), values.size() * sizeof values[0], hex));
    return hex;
}

TEST(SparseSupport, RevertGivesWBackBitForBit)
{
    for (const char *dtype : {"f32", "bf16"}) {
        SmallDecoder m(dtype);
        m.o.sparse = {.density = 0.25};
        m.open(mixed());
        const Blocks b = m.blocks();
        const std::string before = digest(b.weights());
        for (unsigned round = 0; round < 3; round++) {
            b.select(b.share(10 * round, 1, 0.6));
            for (int64_t s = 0; s < 2; s++) m.step(2 * (int64_t)round + s);
            EXPECT_NE(digest(b.weights()), before);
        }
        ASSERT_HN_OK(hn_sparse_revert(b.s));
        EXPECT_EQ(digest(b.weights()), before) << dtype;
        for (int64_t i = 0; i < b.n(); i++) EXPECT_TRUE(b.ids(i).empty());
    }
}

/* Blocks that went and kept their change are in W, know what they were, and go with a revert. */
TEST(SparseSupport, RevertTakesWhatWasKeptAlongToo)
{
    for (const char *dtype : {"f32", "bf16"}) {
        SmallDecoder m(dtype), other(dtype);
        m.o.sparse = other.o.sparse = {.density = 0.25};
        m.open(mixed());
        other.open(mixed());
        const Blocks b = m.blocks(), c = other.blocks();
        const auto before = b.weights();
        for (unsigned round = 0; round < 3; round++) { /* some come back */
            b.select(b.share(10 * (round % 2), 1, 0.6), true);
            for (int64_t s = 0; s < 2; s++) m.step(2 * (int64_t)round + s);
        }
        const auto moved = b.weights();
        int64_t kept = 0;
        for (int64_t i = 0; i < b.n(); i++) { /* the same state elsewhere */
            const int64_t n = hn_sparse_kept_count(b.s, i);
            std::vector<float> w((size_t)(n * b.at(i).values));
            ASSERT_HN_OK(hn_sparse_kept_values(b.s, i, w.data()));
            ASSERT_HN_OK(hn_sparse_set_kept(c.s, i, hn_sparse_kept_ids(b.s, i), n, w.data()));
            kept += n;
        }
        EXPECT_GT(kept, 0);
        Lists now;
        for (int64_t i = 0; i < b.n(); i++) now.add(b.ids(i));
        c.select(now);
        for (int64_t i = 0; i < b.n(); i++) {
            const auto delta = b.get(HN_SPARSE_DELTA, i);
            ASSERT_HN_OK(hn_sparse_set(c.s, HN_SPARSE_DELTA, i, delta.data()));
        }
        ASSERT_HN_OK(hn_sparse_store(c.s));
        EXPECT_EQ(c.weights(), moved) << dtype;
        for (const Blocks &x : {b, c}) {
            ASSERT_HN_OK(hn_sparse_revert(x.s));
            EXPECT_EQ(x.weights(), before) << dtype;
            for (int64_t i = 0; i < x.n(); i++) EXPECT_EQ(hn_sparse_kept_count(x.s, i), 0);
        }
        const int32_t id = 0;
        std::vector<float> w((size_t)b.at(0).values);
        b.select(b.share(1));
        EXPECT_HN_FAIL(hn_sparse_set_kept(b.s, 0, &id, 1, w.data()), HN_ERR_ARG, "kept");
    }
}

struct State {
    float delta, m, v;
    uint16_t age;
};

/* By (matrix, block): the first value of each. */
std::map<std::pair<int64_t, int32_t>, State> states(const Blocks &b)
{
    std::map<std::pair<int64_t, int32_t>, State> all;
    for (int64_t i = 0; i < b.n(); i++) {
        const auto ids = b.ids(i);
        const auto d = b.get(HN_SPARSE_DELTA, i), m = b.get(HN_SPARSE_MOMENT1, i),
                   v = b.get(HN_SPARSE_MOMENT2, i);
        const auto age = b.ages(i);
        for (size_t k = 0; k < ids.size(); k++) {
            const size_t at = k * (size_t)b.at(i).values;
            all[{i, ids[k]}] = {d[at], m[at], v[at], age[k]};
        }
    }
    return all;
}

/* At a reselection blocks that stay keep everything, new ones begin as asked for, and W is that of
 * the new deltas; with keep_dropped it stays where blocks have gone. */
TEST(SparseSupport, ReselectionKeepsWhatStays)
{
    for (const bool keep : {false, true}) {
        SmallDecoder m;
        m.o.sparse = {.density = 0.3};
        m.open(mixed());
        const Blocks b = m.blocks();
        const auto base = b.weights();
        b.select(b.share(1, 1, 0.8));
        for (int64_t s = 0; s < 3; s++) m.step(s);
        const auto before = states(b);
        const auto moved = b.weights();
        Lists next;
        for (int64_t i = 0; i < b.n(); i++) { /* every other block stays, some come */
            std::set<int32_t> ids;
            const auto now = b.ids(i);
            for (size_t k = 0; k < now.size(); k += 2) ids.insert(now[k]);
            for (const int32_t id : some_ids(b.at(i).blocks, (int64_t)now.size() / 3, 77))
                ids.insert(id);
            next.add({ids.begin(), ids.end()});
        }
        size_t values = 0;
        for (int64_t i = 0; i < b.n(); i++)
            values +=
                (size_t)((next.first[(size_t)i + 1] - next.first[(size_t)i]) * b.at(i).values);
        const std::vector<float> m1(values, 0.25f), m2(values, 0.5f);
        const std::vector<uint16_t> age(next.id.size(), 4);
        const hn_block_start start = {m1.data(), m2.data(), age.data()};
        b.select(next, keep, &start);
        int stayed = 0, came = 0;
        for (const auto &[where, now] : states(b)) {
            const auto old = before.find(where);
            if (old != before.end()) {
                stayed++;
                EXPECT_EQ(now.delta, old->second.delta);
                EXPECT_EQ(now.m, old->second.m);
                EXPECT_EQ(now.v, old->second.v);
                EXPECT_EQ(now.age, old->second.age);
            } else {
                came++;
                EXPECT_EQ(now.delta, 0);
                EXPECT_EQ(now.m, 0.25f);
                EXPECT_EQ(now.v, 0.5f);
                EXPECT_EQ(now.age, 4);
            }
        }
        EXPECT_GT(stayed, 10);
        EXPECT_GT(came, 10);
        auto want = keep ? moved : base;
        size_t at = 0;
        for (int64_t i = 0; i < b.n(); i++) {
            const auto ids = b.ids(i);
            const auto delta = b.get(HN_SPARSE_DELTA, i), frozen = b.get(HN_SPARSE_FROZEN, i);
            for (size_t k = 0; k < delta.size(); k++)
                want[at + b.place(i, ids, k)] = frozen[k] + delta[k];
            at += (size_t)(b.at(i).out * b.at(i).in);
        }
        EXPECT_EQ(b.weights(), want);
        m.step(3);
        for (const auto &[where, now] : states(b)) EXPECT_EQ(now.age, before.count(where) ? 4 : 5);
    }
}

/* ---- selections ---- */

/* Scores of a step, by hand, of matrix i: blocks' means of squares of the mean gradient. */
std::vector<double> scores_of(const hn_sparse_matrix &m, const std::vector<float> &dense,
                              double count)
{
    std::vector<double> f((size_t)m.blocks);
    for (int64_t r = 0; r < m.out; r++)
        for (int64_t c = 0; c < m.in; c++) {
            const double g = (double)dense[(size_t)(r * m.in + c)] / count;
            f[(size_t)(r / m.shape.br * (m.in / m.shape.bc) + c / m.shape.bc)] +=
                g * g / (double)m.values;
        }
    return f;
}

/* Rows of an optimizer step that are trained on. */
constexpr double kCount = 20; /* of 24 tokens, every fifth has no label */

/* Two steps with scores and without updates; everything is kept, so the sums are exact. */
void score_two_steps(const SmallDecoder &m, unsigned micro_batches)
{
    ASSERT_HN_OK(hn_sparse_begin(m.blocks().s));
    ASSERT_HN_OK(hn_engine_gather(m.e, HN_GATHER_SCORES));
    for (unsigned s = 0; s < 2; s++) {
        m.accumulate(s, s * micro_batches, micro_batches);
        hn_step_report r;
        ASSERT_HN_OK(hn_engine_discard(m.e, &r));
        EXPECT_EQ(r.tokens, (int64_t)kCount * micro_batches);
        EXPECT_GT(r.grad_norm, 0);
    }
    ASSERT_HN_OK(hn_engine_gather(m.e, HN_GATHER_NOTHING));
}

TEST(SparseSelection, ScoresAreThoseOfDenseGradients)
{
    for (const unsigned micro_batches : {1u, 2u}) {
        SmallDecoder m;
        m.o.sparse = {.density = 0.6, .candidates = 4};
        if (micro_batches > 1) m.o.sparse.select_memory = 1 << 20;
        m.open(mixed());
        const Blocks b = m.blocks();
        b.select(b.share(4, 1, 0.5));
        const auto before = b.weights();
        score_two_steps(m, micro_batches);
        EXPECT_EQ(b.weights(), before);
        EXPECT_EQ(b.get(HN_SPARSE_GRAD), std::vector<float>(b.get(HN_SPARSE_GRAD).size()));
        const auto one = dense_gradients(0, micro_batches),
                   two = dense_gradients(micro_batches, micro_batches);
        for (int64_t i = 0; i < b.n(); i++) {
            const hn_sparse_matrix &x = b.at(i);
            const auto f = scores_of(x, one.at(x.name), kCount * micro_batches),
                       g = scores_of(x, two.at(x.name), kCount * micro_batches);
            ASSERT_EQ(x.kept, x.blocks);
            ASSERT_EQ(hn_sparse_scored(b.s, i), 2);
            std::vector<int32_t> ids((size_t)x.kept);
            std::vector<float> sum((size_t)x.kept);
            int64_t n;
            ASSERT_HN_OK(hn_sparse_scores(b.s, i, ids.data(), sum.data(), &n));
            ASSERT_EQ(n, x.blocks);
            for (int64_t k = 0; k < n; k++) {
                ASSERT_EQ(ids[(size_t)k], k);
                const double want = f[(size_t)k] + g[(size_t)k];
                EXPECT_NEAR((double)sum[(size_t)k], want, 1e-4 * want + 1e-12) << x.name;
            }
        }
    }
}

/* Memory for two matrices at a time: groups take turns, and each is scored as all are at once. */
TEST(SparseSelection, GroupsTakeTurns)
{
    SmallDecoder all, turns;
    all.o.sparse = {.density = 0.6, .candidates = 4, .select_memory = 1 << 20};
    turns.o.sparse = {.density = 0.6, .candidates = 4, .select_memory = 12000};
    all.open(squares(4));
    turns.open(squares(4));
    const Blocks a = all.blocks(), b = turns.blocks();
    EXPECT_EQ(hn_sparse_groups(a.s), 1);
    const int64_t groups = hn_sparse_groups(b.s);
    ASSERT_GT(groups, 2);
    for (const SmallDecoder *m : {&all, &turns}) {
        ASSERT_HN_OK(hn_sparse_begin(m->blocks().s));
        ASSERT_HN_OK(hn_engine_gather(m->e, HN_GATHER_SCORES));
        const int64_t steps = m == &all ? 1 : groups + 1;
        for (int64_t s = 0; s < steps; s++) { /* the same batches in every step */
            m->accumulate(0, 0, 2);
            hn_step_report r;
            ASSERT_HN_OK(hn_engine_discard(m->e, &r));
        }
    }
    for (int64_t i = 0; i < a.n(); i++) {
        const size_t kept = (size_t)a.at(i).kept;
        std::vector<int32_t> ids(kept), ids2(kept);
        std::vector<float> sum(kept), sum2(kept);
        int64_t n, n2;
        ASSERT_HN_OK(hn_sparse_scores(a.s, i, ids.data(), sum.data(), &n));
        ASSERT_HN_OK(hn_sparse_scores(b.s, i, ids2.data(), sum2.data(), &n2));
        const int64_t scored = hn_sparse_scored(b.s, i);
        EXPECT_TRUE(scored == 1 || scored == 2);
        EXPECT_EQ(ids, ids2);
        for (size_t k = 0; k < kept; k++) EXPECT_EQ(sum2[k], (float)scored * sum[k]);
    }
}

/* Inside normal steps: gradients of watched and of trained blocks are added up, whole batches over
 * their count, and the updates are those of steps that gather nothing. */
TEST(SparseSelection, AWindowGathersAndLeavesTheUpdateAlone)
{
    SmallDecoder plain, m;
    plain.o.sparse = m.o.sparse = {.density = 0.2, .candidates = 2, .squares = true};
    plain.open(mixed());
    m.open(mixed());
    const Blocks a = plain.blocks(), b = m.blocks();
    a.select(a.share(4, 1, 0.5));
    b.select(b.share(4, 1, 0.5));
    ASSERT_HN_OK(hn_sparse_begin(b.s));
    b.watch(b.share(30, 1, 0.8));
    ASSERT_HN_OK(hn_engine_gather(m.e, HN_GATHER_WINDOW));
    std::vector<float> trained(b.get(HN_SPARSE_SUM).size());
    for (int64_t s = 0; s < 3; s++) {
        plain.accumulate(s, (unsigned)(2 * s), 2);
        const auto g = a.get(HN_SPARSE_GRAD);
        for (size_t k = 0; k < g.size(); k++) trained[k] += g[k] / (float)(2 * kCount);
        ASSERT_HN_OK(hn_engine_update(plain.e, 0, nullptr));
        m.accumulate(s, (unsigned)(2 * s), 2);
        ASSERT_HN_OK(hn_engine_update(m.e, 0, nullptr));
    }
    EXPECT_EQ(a.get(HN_SPARSE_MOMENT1), b.get(HN_SPARSE_MOMENT1));
    expect_near(b.get(HN_SPARSE_SUM), trained, 1e-6, "trained");
    EXPECT_EQ(hn_sparse_progress_of(b.s)->window_steps, 3);
    std::map<std::string, std::vector<float>> dense[3];
    for (unsigned s = 0; s < 3; s++) dense[s] = dense_gradients(2 * s, 2);
    for (int64_t i = 0; i < b.n(); i++) {
        const auto ids = b.ids(i, HN_BLOCKS_WATCHED);
        std::vector<float> sum(ids.size() * (size_t)b.at(i).values), square(sum.size());
        for (const auto &g : dense) {
            const auto v = b.pick(i, ids, g.at(b.at(i).name));
            for (size_t k = 0; k < v.size(); k++) {
                const float mean = v[k] / (float)(2 * kCount);
                sum[k] += mean;
                square[k] += mean * mean;
            }
        }
        expect_near(b.get(HN_SPARSE_WATCHED_SUM, i), sum, 2e-5, b.at(i).name);
        expect_near(b.get(HN_SPARSE_WATCHED_SQUARE, i), square, 2e-5, b.at(i).name);
    }
}

/* Steps are clipped to another part of their gradients each: sums of the window are those of
 * clipped gradients, as the moments are. What a step without an update gathers is as it is. */
TEST(SparseSelection, AWindowIsClippedAsTheUpdateIs)
{
    SmallDecoder m;
    m.o.sparse = {.density = 0.2, .candidates = 2, .squares = true};
    m.o.optimizer.max_grad_norm = 0.01;
    m.open(mixed());
    const Blocks b = m.blocks();
    b.select(b.share(4, 1, 0.5));
    ASSERT_HN_OK(hn_sparse_begin(b.s));
    b.watch(b.share(30, 1, 0.8));
    ASSERT_HN_OK(hn_engine_gather(m.e, HN_GATHER_WINDOW));
    double scale[2];
    for (unsigned s = 0; s < 2; s++) {
        const double norm = m.step(s, 1, 0).grad_norm;
        ASSERT_GT(norm, 0.02);
        scale[s] = 0.01 / (norm + 1e-6) / kCount;
        if (s > 0) continue;
        /* first moments of trained blocks and those that a window of a step would give */
        auto moments = b.get(HN_SPARSE_SUM);
        for (float &v : moments) v *= 0.1f;
        expect_near(b.get(HN_SPARSE_MOMENT1), moments, 1e-6, "moments");
    }
    EXPECT_NE(scale[0], scale[1]);
    const auto one = dense_gradients(0, 1), two = dense_gradients(1, 1);
    for (int64_t i = 0; i < b.n(); i++) {
        const auto ids = b.ids(i, HN_BLOCKS_WATCHED);
        auto sum = b.pick(i, ids, one.at(b.at(i).name)), square = sum;
        const auto second = b.pick(i, ids, two.at(b.at(i).name));
        for (size_t k = 0; k < sum.size(); k++) {
            const double x = scale[0] * (double)sum[k], y = scale[1] * (double)second[k];
            sum[k] = (float)(x + y);
            square[k] = (float)(x * x + y * y);
        }
        expect_near(b.get(HN_SPARSE_WATCHED_SUM, i), sum, 2e-5, b.at(i).name);
        expect_near(b.get(HN_SPARSE_WATCHED_SQUARE, i), square, 2e-5, b.at(i).name);
    }
    b.watch(b.share(30, 1, 0.8)); /* anew */
    m.accumulate(2, 0);
    hn_step_report r;
    ASSERT_HN_OK(hn_engine_discard(m.e, &r));
    for (int64_t i = 0; i < b.n(); i++) {
        auto sum = b.pick(i, b.ids(i, HN_BLOCKS_WATCHED), one.at(b.at(i).name));
        for (float &v : sum) v /= (float)kCount;
        expect_near(b.get(HN_SPARSE_WATCHED_SUM, i), sum, 2e-5, b.at(i).name);
    }
}

/* Convolutions gather the same way, out of dense gradients of one layer at a time. */
TEST(SparseSelection, OfConvolutionsGathersTheSame)
{
    const hn_vision_config config = small_model("mnist-cnn");
    const StripedImages images(config, 16, 3);
    Classifier dense(config, images), m(config, images);
    const SparseChoice ones = squares(1);
    m.adapt = ones.adapt();
    m.o.sparse = {.density = 0.5, .candidates = 2};
    dense.open();
    m.open();
    const Blocks b(m.e);
    ASSERT_HN_OK(hn_sparse_begin(b.s));
    b.watch(b.share(3));
    dense.accumulate(images, 0, 8);
    for (const hn_gather what : {HN_GATHER_SCORES, HN_GATHER_WINDOW}) {
        ASSERT_HN_OK(hn_engine_gather(m.e, what));
        m.accumulate(images, 0, 8);
        hn_step_report r;
        ASSERT_HN_OK(hn_engine_discard(m.e, &r));
    }
    for (int64_t i = 0; i < b.n(); i++) {
        const hn_sparse_matrix &x = b.at(i);
        const hn_param *q = hn_params_find(dense.params(), x.name);
        std::vector<float> g((size_t)hn_param_values(q));
        ASSERT_HN_OK(hn_tensor_get(q->grad, g.data()));
        for (float &v : g) v /= 8;
        expect_near(b.get(HN_SPARSE_WATCHED_SUM, i), b.pick(i, b.ids(i, HN_BLOCKS_WATCHED), g),
                    2e-5, x.name);
        std::vector<int32_t> ids((size_t)x.kept);
        std::vector<float> sum((size_t)x.kept);
        int64_t n;
        ASSERT_HN_OK(hn_sparse_scores(b.s, i, ids.data(), sum.data(), &n));
        ASSERT_EQ(n, x.blocks);
        const auto f = scores_of(x, g, 1);
        for (size_t k = 0; k < f.size(); k++)
            EXPECT_NEAR((double)sum[k], f[k], 1e-4 * f[k] + 1e-12);
    }
}

/* A selection of one stage, or before training alone, has what it reads and no more. */
TEST(SparseSelection, TakesTheMemoryThatItReads)
{
    const auto open = [](SmallDecoder &m, hn_sparse_stages stages, bool once, bool with_squares) {
        m.o.sparse = {.density = 0.2, .candidates = 2, .stages = stages, .once = once};
        m.o.sparse.squares = with_squares;
        m.open(squares(4));
        const Blocks b = m.blocks();
        EXPECT_EQ(hn_sparse_has(b.s, HN_SPARSE_WATCHED_SQUARE), with_squares);
        return (double)hn_sparse_selection_bytes(b.s);
    };
    SmallDecoder all, once, scores, sums;
    const double most = open(all, HN_STAGES_BOTH, false, true);
    const double first = open(once, HN_STAGES_BOTH, true, false);
    const double pool = 4.0 * (double)hn_sparse_pool_values(all.blocks().s);
    EXPECT_NEAR(most - first, 3 * pool, 512); /* sums of trained blocks, squares of watched ones */
    const double by_scores = open(scores, HN_STAGES_SCORES, true, false);
    const double by_sums = open(sums, HN_STAGES_SUMS, true, false);
    EXPECT_NEAR(by_scores + by_sums, first, 512);
    EXPECT_GT(by_sums, 4 * pool);
    hn_plan_sizes a, b;
    hn_plan_sizes_of(hn_engine_program(all.e), &a);
    hn_plan_sizes_of(hn_engine_program(scores.e), &b);
    EXPECT_NEAR((double)a.class_bytes[HN_MEM_STATE] - (double)b.class_bytes[HN_MEM_STATE],
                most - by_scores, 4096); /* the tensors' alignment */

    char *text = hn_engine_plan_text(once.e);
    EXPECT_NE(std::strstr(text, "selection of blocks: 0.000"), nullptr) << text;
    EXPECT_NE(std::strstr(text, "before training"), nullptr) << text;
    hn_free(text);
    EXPECT_HN_OK(hn_sparse_begin(scores.blocks().s));
    EXPECT_HN_OK(hn_engine_gather(scores.e, HN_GATHER_SCORES));
    EXPECT_HN_FAIL(hn_engine_gather(scores.e, HN_GATHER_WINDOW), HN_ERR_ARG, "gradients of blocks");
    EXPECT_HN_OK(hn_engine_gather(sums.e, HN_GATHER_WINDOW));
    EXPECT_HN_FAIL(hn_engine_gather(sums.e, HN_GATHER_SCORES), HN_ERR_ARG, "scores of blocks");
    const Lists l = scores.blocks().share(1);
    const hn_block_lists v = l.view();
    EXPECT_HN_FAIL(hn_sparse_watch(scores.blocks().s, &v), HN_ERR_ARG, "nothing is watched");
    float value;
    EXPECT_HN_FAIL(hn_sparse_get(once.blocks().s, HN_SPARSE_SUM, 0, &value), HN_ERR_ARG,
                   "do not read");
}

/* What the MLP reads is made again in backward, also where dense gradients are scored: a selection
 * costs no activations (graph/remake.c). */
TEST(SparseSelection, TakesNoMoreActivations)
{
    const auto transient = [](double candidates, size_t memory) {
        SmallDecoder m;
        m.d.batch_rows = 32, m.d.seq_len = 64, m.d.max_seqs = 32;
        m.o.sparse = {.density = 0.1, .candidates = candidates, .select_memory = memory};
        EXPECT_HN_OK(m.make(squares(4)));
        hn_plan_sizes sizes;
        hn_plan_sizes_of(hn_engine_program(m.e), &sizes);
        return (double)sizes.class_bytes[HN_MEM_TRANSIENT];
    };
    const double without = transient(0, 0);
    EXPECT_LT(transient(2, 0), 1.02 * without);
    EXPECT_LT(transient(2, 1 << 20), 1.02 * without);
}

/* ---- refusals ---- */

TEST(SparseEngine, RefusesWhatCannotBe)
{
    const auto refused = [](hn_sparse_options o, const SparseChoice &c, hn_status code,
                            const char *text) {
        SmallDecoder m;
        m.o.sparse = o;
        EXPECT_HN_FAIL(m.make(c), code, text);
    };
    const SparseChoice eights = {.shape = [](const std::string &, int64_t, int64_t) {
        return hn_block_shape{8, 8};
    }};
    const SparseChoice wide = {.shape = [](const std::string &, int64_t, int64_t) {
        return hn_block_shape{32, 32};
    }};
    refused({.density = 0.1}, eights, HN_ERR_SHAPE, "blocks of 8 x 8");
    refused({.density = 0.1}, wide, HN_ERR_SHAPE, "do not divide");
    refused({}, squares(4), HN_ERR_ARG, "a budget of blocks");
    refused({.values = 100, .density = 0.1}, squares(4), HN_ERR_ARG, "a budget of blocks");
    refused({.density = 1e-6}, squares(4), HN_ERR_ARG, "a budget of 0 values");
    refused({.density = 1.5}, squares(4), HN_ERR_ARG, "all matrices together");
    refused({.density = 0.1, .candidates = 2, .select_memory = 100}, squares(4), HN_ERR_ARG,
            "100 bytes for dense gradients");
    SmallDecoder sgd;
    const SparseChoice fours = squares(4);
    sgd.o.sparse = {.density = 0.1};
    sgd.o.optimizer.kind = HN_OPTIMIZER_SGD;
    EXPECT_HN_FAIL(sgd.make(fours), HN_ERR_UNSUPPORTED, "AdamW alone");
    SmallDecoder twice;
    twice.o.sparse = {.density = 0.1};
    twice.adapt = fours.adapt();
    twice.adapt.parameter = every_parameter;
    EXPECT_HN_FAIL(twice.make(), HN_ERR_UNSUPPORTED, "trained as a whole");
}

TEST(SparseEngine, RefusesBadLists)
{
    SmallDecoder m;
    const SparseChoice fours = squares(4);
    m.o.sparse = {.density = 0.01};
    m.open(fours);
    const Blocks b = m.blocks();
    const auto refused = [&](const std::vector<int32_t> &ids, const char *text) {
        Lists l;
        l.add(ids);
        for (int64_t i = 1; i < b.n(); i++) l.add({});
        const hn_block_lists v = l.view();
        EXPECT_HN_FAIL(hn_sparse_select(b.s, &v, nullptr, false), HN_ERR_ARG, text);
    };
    const auto before = b.weights();
    refused({-1}, "block -1 at place 0");
    refused({1, 1}, "block 1 at place 1");
    refused({(int32_t)b.at(0).blocks}, "ids ascend");
    refused(some_ids(b.at(0).blocks, b.at(0).capacity + 1, 1), "at most");
    const Lists most = b.share(1, 1, 4);
    const hn_block_lists v = most.view();
    EXPECT_HN_FAIL(hn_sparse_select(b.s, &v, nullptr, false), HN_ERR_ARG, "there is room for");
    EXPECT_EQ(b.weights(), before);
    EXPECT_HN_FAIL(hn_engine_gather(m.e, HN_GATHER_SCORES), HN_ERR_ARG, "selects none");
    EXPECT_HN_FAIL(hn_sparse_begin(b.s), HN_ERR_ARG, "no candidates");
    SmallDecoder one;
    one.o.sparse = {.density = 0.1, .candidates = 2};
    one.open(fours);
    ASSERT_HN_OK(hn_engine_gather(one.e, HN_GATHER_SCORES));
    one.accumulate(0, 0, 1);
    one.fill(1);
    EXPECT_HN_FAIL(hn_engine_micro(one.e, 1), HN_ERR_ARG, "without memory for dense gradients");
}

} // namespace
