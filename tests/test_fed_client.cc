/* Clients of a federated round on an engine of one replica, and what all simulations share. */
#include "classifier_test.h"
#include "runtime/base/alloc.h"
#include "runtime/file/sparse_pack.h"
#include "runtime/train/fed_client.h"
#include "runtime/train/fed_fisher.h"
#include "runtime/train/fed_sparse.h"

namespace {

constexpr float kRate = 0.05f;

class FedClient : public ::testing::Test {
  protected:
    hn_model model = {};
    hn_adapt adapt = {.parameter = every_parameter, .linear = nullptr, .context = nullptr};
    hn_fed_sim_options o = {};
    hn_device *device = nullptr;
    std::vector<int32_t> all;

    FedClient()
    {
        omp_set_num_threads(1);
        EXPECT_HN_OK(hn_device_open(test_device(), &device));
        model.kind = HN_MODEL_CLASSIFIER;
        model.vision = small_model("mnist-cnn");
        model.dtype = HN_F32;
        o.device = device;
        o.executor = test_executor();
        o.model = &model;
        o.adapt = &adapt;
        o.local.batch = 4;
        o.local.optimizer.kind = HN_OPTIMIZER_SGD;
        o.seed = 3;
        for (int32_t i = 0; i < 24; i++) all.push_back((i * 5 + 2) % 24);
    }
    ~FedClient() override { hn_device_close(device); }
    static hn_fed_task task(const std::vector<int32_t> &index, int64_t steps, int64_t client = 0)
    {
        return {.client = client,
                .index = index.data(),
                .n = (int64_t)index.size(),
                .steps = steps,
                .lr = (double)kRate,
                .seed = hn_fed_task_seed(9, 1, client)};
    }
};

/* A client, and its values. */
struct Opened {
    hn_fed_client *c = nullptr;
    explicit Opened(const hn_fed_sim_options &o, const hn_images *eval = nullptr)
    {
        EXPECT_HN_OK(hn_fed_client_new(&o, eval, &c));
    }
    ~Opened() { hn_fed_client_free(c); }
    Opened(const Opened &) = delete;
    std::vector<float> values() const
    {
        std::vector<float> v((size_t)hn_fed_client_values(c));
        EXPECT_HN_OK(hn_fed_client_get(c, v.data()));
        return v;
    }
    std::vector<float> after(const std::vector<float> &start, const hn_fed_task &t,
                             hn_fed_trained *r = nullptr) const
    {
        hn_fed_trained mine;
        EXPECT_HN_OK(hn_fed_client_set(c, start.data()));
        EXPECT_HN_OK(hn_fed_client_train(c, &t, r ? r : &mine));
        return values();
    }
};

TEST_F(FedClient, RowsOfAnEpochAreAPermutationAndThenPadding)
{
    const std::vector<int32_t> index = {7, 1, 20, 3, 11, 5, 18};
    const hn_fed_task t = task(index, 6), other = task(index, 6, 1);
    std::vector<int32_t> row(4), first, second, others;
    ASSERT_EQ(hn_fed_steps(&o.local, 7, 3), 6);
    for (int64_t step = 0; step < 4; step++) {
        EXPECT_EQ(hn_fed_rows(&o.local, &t, step, row.data()), step % 2 ? 3 : 4);
        EXPECT_EQ(row[3] == -1, step % 2 == 1);
        for (const int32_t r : row)
            if (r >= 0) (step < 2 ? first : second).push_back(r);
        hn_fed_rows(&o.local, &other, step, row.data());
        for (const int32_t r : row)
            if (r >= 0 && step < 2) others.push_back(r);
    }
    EXPECT_NE(first, second);
    EXPECT_NE(first, others);
    for (auto *epoch : {&first, &second, &others}) {
        EXPECT_TRUE(std::is_permutation(epoch->begin(), epoch->end(), index.begin(), index.end()));
    }
}

TEST_F(FedClient, JoinedEpochsFillEveryBatch)
{
    const std::vector<int32_t> index = {7, 1, 20};
    const hn_fed_task t = task(index, 6);
    std::vector<int32_t> row(4), seen;
    o.local.join = true;
    ASSERT_EQ(hn_fed_steps(&o.local, 3, 8), 6);
    for (int64_t step = 0; step < 6; step++) {
        EXPECT_EQ(hn_fed_rows(&o.local, &t, step, row.data()), 4);
        seen.insert(seen.end(), row.begin(), row.end());
    }
    for (size_t epoch = 0; epoch < 8; epoch++)
        EXPECT_TRUE(std::is_permutation(seen.begin() + (long)(3 * epoch),
                                        seen.begin() + (long)(3 * epoch + 3), index.begin()));
}

TEST_F(FedClient, SeedsOfTasksAreTheirOwn)
{
    std::vector<uint64_t> seeds;
    for (int64_t round = 0; round < 20; round++)
        for (int64_t client = 0; client < 50; client++)
            seeds.push_back(hn_fed_task_seed(0, round, client));
    std::sort(seeds.begin(), seeds.end());
    EXPECT_EQ(std::adjacent_find(seeds.begin(), seeds.end()), seeds.end());
}

/* Moments, anchor and random choices of one client are nothing to the next. */
TEST_F(FedClient, ATaskHasTheSameBitsWhateverRanBefore)
{
    const StripedImages images(model.vision, 24, 1);
    const std::vector<int32_t> few = {2, 4, 6, 8, 10};
    o.images = images.view();
    o.local.augment = {.pad = 1, .flip = 0.5f};
    for (const bool adamw : {false, true}) {
        hn_optimizer *p = &o.local.optimizer;
        *p = {.kind = adamw ? HN_OPTIMIZER_ADAMW : HN_OPTIMIZER_SGD,
              .beta1 = 0.9,
              .beta2 = 0.99,
              .eps = 1e-8,
              .momentum = 0.9};
        o.local.mu = adamw ? 0.0f : 0.3f;
        Opened used(o), fresh(o);
        const auto start = fresh.values();
        hn_fed_trained r, again;
        const auto want = fresh.after(start, task(few, 4, 7), &r);
        used.after(start, task(all, 6, 2));
        EXPECT_TRUE(same_bits(used.after(start, task(few, 4, 7), &again), want));
        EXPECT_EQ(r.loss, again.loss);
        EXPECT_FALSE(same_bits(want, used.after(start, task(few, 4, 8))));
        EXPECT_FALSE(same_bits(want, start));
    }
}

/* After one step the penalty has added mu (theta - m) to the gradient of the next one. */
TEST_F(FedClient, FedProxAddsMuTimesTheWayBack)
{
    const StripedImages images(model.vision, 24, 1);
    const float mu = 0.5f;
    o.images = images.view();
    Opened plain(o);
    o.local.mu = mu;
    Opened prox(o);
    const auto start = plain.values();
    const auto one = plain.after(start, task(all, 1)), two = plain.after(start, task(all, 2));
    EXPECT_TRUE(same_bits(prox.after(start, task(all, 1)), one));
    const auto held = prox.after(start, task(all, 2));
    std::vector<double> got, want;
    for (size_t i = 0; i < start.size(); i++) {
        got.push_back(((double)two[i] - (double)held[i]) / (double)kRate);
        want.push_back((double)mu * ((double)one[i] - (double)start[i]));
    }
    EXPECT_LT(rel_l2(got, want), 1e-3); /* differences of nearly equal fp32 */
}

/* A batch of 4 with one image and padding is a batch of one. */
TEST_F(FedClient, PaddingCountsNowhere)
{
    const StripedImages images(model.vision, 24, 1);
    const std::vector<int32_t> single = {5};
    o.images = images.view();
    Opened padded(o);
    o.local.batch = 1;
    Opened exact(o);
    const auto start = exact.values();
    hn_fed_trained a, b;
    const auto want = exact.after(start, task(single, 3), &a);
    EXPECT_LT(rel_l2(padded.after(start, task(single, 3), &b), want), 1e-6);
    EXPECT_NEAR(a.loss, b.loss, 1e-6);
}

TEST_F(FedClient, LossIsThatOfTheLastEpochImageByImage)
{
    const StripedImages images(model.vision, 24, 1);
    const std::vector<int32_t> index = {0, 1, 2, 3, 4, 5};
    o.images = images.view();
    Opened c(o);
    const auto start = c.values();
    hn_fed_task t = task(index, 4);
    hn_fed_trained both, still, first, second;
    c.after(start, t, &both);
    t.steps = 2;
    const auto middle = c.after(start, t, &first);
    EXPECT_LT(both.loss, first.loss);
    t.lr = 0; /* nothing moves: the mean of the losses of the images at `start` */
    c.after(start, t, &still);
    Opened e(o, images.view());
    double sum = 0;
    t.n = 1;
    for (const int32_t i : index) {
        t.index = &i;
        c.after(start, t, &second);
        sum += (double)second.loss;
    }
    EXPECT_NEAR(still.loss, sum / 6, 1e-5);
}

TEST_F(FedClient, EvaluatesClassByClass)
{
    const StripedImages images(model.vision, 50, 1);
    o.images = images.view();
    Opened c(o, images.view());
    std::vector<int32_t> index(50);
    for (int32_t i = 0; i < 50; i++) index[(size_t)i] = i;
    c.after(c.values(), task(index, 60));
    hn_fed_scores s = {};
    ASSERT_HN_OK(hn_fed_client_evaluate(c.c, &s));
    int64_t rows = 0, hits = 0;
    for (int64_t k = 0; k < model.vision.classes; k++) {
        const auto n = std::count(images.view()->label, images.view()->label + 50, (int32_t)k);
        EXPECT_EQ(s.class_rows[k], n);
        rows += s.class_rows[k];
        hits += s.class_hits[k];
    }
    EXPECT_EQ(rows, 50);
    EXPECT_EQ(s.hits, hits);
    EXPECT_EQ(s.accuracy, (double)hits / 50);
    EXPECT_GT(s.accuracy, 0.5); /* four classes */
    /* an engine that does not train gives the same */
    const auto v = c.values();
    o.images = nullptr;
    Opened only(o, images.view());
    hn_fed_scores t = {};
    ASSERT_HN_OK(hn_fed_client_set(only.c, v.data()));
    ASSERT_HN_OK(hn_fed_client_evaluate(only.c, &t));
    EXPECT_EQ(t.hits, s.hits);
    EXPECT_EQ(t.loss, s.loss);
    /* and so do batches of another size: all in one, and one by one */
    for (const int64_t batch : {64, 1}) {
        o.local.batch = batch;
        Opened other(o, images.view());
        ASSERT_HN_OK(hn_fed_client_set(other.c, v.data()));
        ASSERT_HN_OK(hn_fed_client_evaluate(other.c, &t));
        EXPECT_NEAR(t.loss, s.loss, 1e-6 * s.loss) << batch;
        EXPECT_EQ(t.rows, 50) << batch;
        for (int64_t k = 0; k < model.vision.classes; k++)
            EXPECT_EQ(t.class_hits[k], s.class_hits[k]) << batch << " " << k;
    }
}

TEST_F(FedClient, LayoutHasTheOrderOfTheValues)
{
    const StripedImages images(model.vision, 24, 1);
    o.images = images.view();
    Opened c(o);
    hn_fed_layout l = {};
    const hn_params *p = hn_engine_params(hn_fed_client_engine(c.c));
    ASSERT_HN_OK(hn_fed_values_layout(&o.local, p, &l));
    EXPECT_EQ(l.n, hn_fed_client_values(c.c));
    const auto v = c.values();
    for (int64_t i = 0; i < l.count; i++) {
        std::vector<float> one((size_t)l.tensor[i].n);
        ASSERT_HN_OK(hn_param_get(hn_params_find(p, l.tensor[i].name), one.data()));
        EXPECT_TRUE(std::equal(one.begin(), one.end(), v.begin() + l.tensor[i].first));
    }
    hn_fed_layout_free(&l);
}

/* What cannot change is no part of the payload, and is there all the same. */
TEST_F(FedClient, FrozenStatisticsDoNotTravel)
{
    model.vision = small_model("resnet20");
    const StripedImages images(model.vision, 24, 1);
    o.images = images.view();
    o.local.join = true;
    Opened moving(o);
    o.local.frozen_norm = true;
    Opened frozen(o, images.view());
    const hn_params *p = hn_engine_params(hn_fed_client_engine(frozen.c));
    hn_fed_layout l = {};
    ASSERT_HN_OK(hn_fed_values_layout(&o.local, p, &l));
    float *before = nullptr, *after = nullptr;
    ASSERT_HN_OK(hn_params_get_buffers(p, &before));
    int64_t buffers = 0;
    for (int64_t i = 0; i < hn_params_count(p); i++)
        if (hn_params_at(p, i)->buffer) buffers += hn_param_values(hn_params_at(p, i));
    EXPECT_GT(buffers, 0);
    EXPECT_EQ(l.n, l.values);
    EXPECT_EQ(l.n, hn_fed_client_values(frozen.c));
    EXPECT_EQ(l.n + buffers, hn_fed_client_values(moving.c));
    const auto start = frozen.values(), end = frozen.after(start, task(all, 3));
    EXPECT_FALSE(same_bits(start, end));
    ASSERT_HN_OK(hn_params_get_buffers(p, &after));
    EXPECT_EQ(memcmp(before, after, (size_t)buffers * sizeof *before), 0);
    /* whoever only evaluates has them from the model, too */
    hn_fed_scores s = {}, t = {};
    ASSERT_HN_OK(hn_fed_client_evaluate(frozen.c, &s));
    o.images = nullptr;
    Opened only(o, images.view());
    ASSERT_HN_OK(hn_fed_client_set(only.c, end.data()));
    ASSERT_HN_OK(hn_fed_client_evaluate(only.c, &t));
    EXPECT_EQ(s.loss, t.loss);
    hn_free(before);
    hn_free(after);
    hn_fed_layout_free(&l);
}

TEST_F(FedClient, OneByOneIsTheClientTaskByTask)
{
    const StripedImages images(model.vision, 24, 1);
    const std::vector<int32_t> few = {2, 4, 6};
    o.images = images.view();
    Opened c(o);
    hn_fed_sim *sim = nullptr;
    ASSERT_HN_OK(hn_fed_one_new(&o, &sim));
    const auto start = c.values();
    const hn_fed_task tasks[] = {task(all, 3, 4), task(few, 2, 6)};
    struct Got {
        std::vector<std::vector<float>> value;
        int64_t n;
    } got = {{}, sim->n_values};
    const auto take = [](void *context, int64_t i, const hn_fed_trained *t) {
        Got *g = (Got *)context;
        EXPECT_EQ(i, (int64_t)g->value.size());
        g->value.emplace_back(t->value, t->value + g->n);
        return HN_OK;
    };
    EXPECT_HN_OK(sim->round(sim, start.data(), tasks, 2, take, &got));
    ASSERT_EQ(got.value.size(), 2u);
    for (size_t i = 0; i < 2; i++) EXPECT_TRUE(same_bits(got.value[i], c.after(start, tasks[i])));
    hn_fed_sim_free(sim);
}

/* Tasks of all lengths in lanes: results in order, and the same bits as one after the other. */
TEST_F(FedClient, LanesChangeNoBit)
{
    const StripedImages images(model.vision, 24, 1);
    const std::vector<int32_t> few = {2, 4, 6};
    o.images = images.view();
    o.local.optimizer.momentum = 0.9;
    o.local.augment = {.pad = 1, .flip = 0.5f};
    std::vector<hn_fed_task> tasks;
    for (int64_t k = 0; k < 11; k++)
        tasks.push_back(k % 3 ? task(few, 1 + k % 4, k) : task(all, 12, k));
    struct Got {
        std::vector<std::vector<float>> value;
        std::vector<float> loss;
        int64_t n;
    };
    const auto run = [&](int64_t lanes) {
        std::vector<hn_device *> more((size_t)lanes - 1);
        for (auto &d : more) EXPECT_HN_OK(hn_device_open(test_device(), &d));
        o.lane = more.data();
        o.lanes = lanes;
        hn_fed_sim *sim = nullptr;
        EXPECT_HN_OK(hn_fed_one_new(&o, &sim));
        EXPECT_EQ(hn_fed_one_lanes(sim), lanes);
        std::vector<float> start((size_t)sim->n_values);
        EXPECT_HN_OK(hn_fed_client_get(hn_fed_one_client(sim, lanes - 1), start.data()));
        Got got = {{}, {}, sim->n_values};
        const auto take = [](void *context, int64_t i, const hn_fed_trained *t) {
            Got *g = (Got *)context;
            EXPECT_EQ(i, (int64_t)g->value.size());
            g->value.emplace_back(t->value, t->value + g->n);
            g->loss.push_back(t->loss);
            return HN_OK;
        };
        EXPECT_HN_OK(sim->round(sim, start.data(), tasks.data(), 11, take, &got));
        /* a round that ends early leaves nothing behind for the next one */
        EXPECT_HN_FAIL(sim->round(
                           sim, start.data(), tasks.data(), 11,
                           [](void *c, int64_t i, const hn_fed_trained *) {
                               (void)c;
                               return i == 3 ? HN_FAIL(HN_ERR_IO, "enough") : HN_OK;
                           },
                           nullptr),
                       HN_ERR_IO, "enough");
        Got again = {{}, {}, sim->n_values};
        EXPECT_HN_OK(sim->round(sim, start.data(), tasks.data(), 11, take, &again));
        for (size_t i = 0; i < 11; i++) EXPECT_TRUE(same_bits(got.value[i], again.value[i])) << i;
        hn_fed_sim_free(sim);
        for (hn_device *d : more) hn_device_close(d);
        return got;
    };
    const Got one = run(1);
    for (const int64_t lanes : {2, 3, 16}) {
        const Got many = run(lanes);
        EXPECT_TRUE(same_bits(many.loss, one.loss)) << lanes;
        for (size_t i = 0; i < 11; i++)
            EXPECT_TRUE(same_bits(many.value[i], one.value[i])) << lanes << " lanes, task " << i;
    }
}

/* Squares of the gradients of single images, which steps of rate 1 show. */
TEST_F(FedClient, FisherIsTheMeanSquareOfTheGradients)
{
    const StripedImages images(model.vision, 24, 1);
    const std::vector<int32_t> index = {3, 8, 13, 17};
    o.images = images.view();
    o.local.batch = 1;
    o.local.fisher_images = 3;
    Opened c(o);
    const auto start = c.values();
    hn_fed_fisher *f = nullptr;
    ASSERT_HN_OK(hn_fed_fisher_new(&o, &f));
    const hn_fed_task t = task(index, 1, 2);
    std::vector<float> h(start.size());
    std::vector<double> want(start.size());
    for (int repeat = 0; repeat < 2; repeat++)
        ASSERT_HN_OK(hn_fed_fisher_of(f, &t, start.data(), h.data()));
    for (int64_t i = 0; i < 3; i++) {
        int32_t image;
        hn_fed_rows(&o.local, &t, i, &image);
        hn_fed_task one = t;
        one.index = &image, one.n = 1, one.lr = 1;
        const auto after = c.after(start, one);
        for (size_t k = 0; k < start.size(); k++) {
            const double g = (double)start[k] - (double)after[k];
            want[k] += g * g / 3;
        }
    }
    EXPECT_LT(rel_l2(h, want), 1e-4); /* g is a difference of two fp32 */
    hn_fed_fisher_free(f);
}

/* ---- changes of blocks ---- */

/* Weights of two layers of the network: all of them in blocks, or dense. */
struct TwoLayers {
    hn_fed_support support = {};
    static bool has(const char *name)
    {
        return std::string(name) == "conv2.weight" || std::string(name) == "fc1.weight";
    }
    static hn_adapt_kind dense(const void *, const char *name)
    {
        return has(name) ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
    }
    static hn_status blocks(const void *context, const char *module, int64_t, int64_t,
                            hn_block_shape *choice)
    {
        *choice = hn_fed_sparse_shape((const hn_fed_support *)context, module);
        return HN_OK;
    }
    /* Every `step`th block. */
    TwoLayers(const hn_vision_config &v, int64_t side, int64_t step)
    {
        hn_params *p = nullptr;
        EXPECT_HN_OK(hn_params_new(nullptr, &p));
        EXPECT_HN_OK(hn_vision_declare(&v, p));
        for (int64_t i = 0; i < hn_params_linears(p); i++) {
            const hn_linear_layer *l = hn_params_linear_at(p, i);
            if (!has(l->weight->name)) continue;
            std::vector<int32_t> id;
            for (int64_t b = 0; b < l->out * l->in / (side * side); b += step)
                id.push_back((int32_t)b);
            const hn_fed_matrix m = {.name = l->weight->name,
                                     .out = l->out,
                                     .in = l->in,
                                     .br = side,
                                     .bc = side,
                                     .n = (int64_t)id.size(),
                                     .id = id.data(),
                                     .values = 0};
            EXPECT_HN_OK(hn_fed_support_add(&support, &m));
        }
        EXPECT_EQ(support.count, 2);
        hn_params_free(p);
    }
    ~TwoLayers() { hn_fed_support_free(&support); }
    TwoLayers(const TwoLayers &) = delete;
    hn_adapt adapt() const
    {
        return {.parameter = nullptr, .linear = nullptr, .sparse = blocks, .context = &support};
    }
};

std::vector<float> weights_of(const Opened &c)
{
    std::vector<float> all;
    for (const char *name : {"conv2.weight", "fc1.weight"}) {
        const hn_param *q = hn_params_find(hn_engine_params(hn_fed_client_engine(c.c)), name);
        std::vector<float> v((size_t)hn_param_values(q));
        EXPECT_HN_OK(hn_param_get(q, v.data()));
        all.insert(all.end(), v.begin(), v.end());
    }
    return all;
}

/* With every block of some matrices a payload of blocks is a dense one of these matrices, also held
 * back by FedProx; both are sums of the same updates, rounded at other places. */
TEST_F(FedClient, AllBlocksOfMatricesAreTheMatrices)
{
    const StripedImages images(model.vision, 24, 1);
    const TwoLayers two(model.vision, 4, 1);
    o.images = images.view();
    /* eps: gradients that are nearly 0 differ in nothing but rounding */
    o.local.optimizer = {
        .kind = HN_OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-3, .max_grad_norm = 1};
    for (const float mu : {0.0f, 0.5f}) {
        o.local.mu = mu;
        o.local.support = nullptr;
        adapt = {.parameter = TwoLayers::dense, .linear = nullptr, .context = nullptr};
        Opened dense(o);
        o.local.support = &two.support;
        adapt = two.adapt();
        Opened blocks(o);
        ASSERT_EQ(hn_fed_client_values(blocks.c), two.support.values);
        ASSERT_EQ(hn_fed_client_values(dense.c), two.support.values);
        const std::vector<float> zero((size_t)two.support.values);
        EXPECT_TRUE(same_bits(blocks.values(), zero));
        const auto before = weights_of(dense);
        EXPECT_TRUE(same_bits(before, weights_of(blocks)));
        hn_fed_task t = task(all, 5);
        t.lr = 0.01;
        hn_fed_trained a, b;
        /* a second round begins where the first one ended */
        const auto d1 = dense.after(dense.values(), t, &a), s1 = blocks.after(zero, t, &b);
        EXPECT_NEAR(a.loss, b.loss, 1e-5);
        EXPECT_LT(rel_l2(weights_of(blocks), weights_of(dense)), 1e-5);
        dense.after(d1, t);
        blocks.after(s1, t);
        const auto end = weights_of(dense);
        EXPECT_LT(rel_l2(weights_of(blocks), end), 1e-5);
        EXPECT_GT(rel_l2(end, before), 1e-2);
    }
}

/* Only the chosen blocks move; a task begins young whatever ran before; and whoever only evaluates
 * has the same network. */
TEST_F(FedClient, ChangesOfBlocksAreTheWholeOfAClient)
{
    const StripedImages images(model.vision, 24, 1);
    const TwoLayers two(model.vision, 2 * 2, 3);
    o.images = images.view();
    o.local.optimizer = {.kind = HN_OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8};
    o.local.support = &two.support;
    adapt = two.adapt();
    Opened used(o), fresh(o, images.view());
    const std::vector<float> zero((size_t)two.support.values);
    const auto before = weights_of(fresh);
    const auto one = fresh.after(zero, task(all, 3));
    used.after(zero, task(all, 6, 2));
    EXPECT_TRUE(same_bits(used.after(zero, task(all, 3)), one));
    const auto weights = weights_of(fresh);
    const size_t moved =
        (size_t)std::count_if(weights.begin(), weights.end(),
                              [&, i = (size_t)0](float w) mutable { return w != before[i++]; });
    EXPECT_GT(moved, one.size() / 2);
    EXPECT_LE(moved, one.size());
    hn_fed_scores s = {}, t = {};
    ASSERT_HN_OK(hn_fed_client_evaluate(fresh.c, &s));
    o.images = nullptr;
    Opened only(o, images.view());
    ASSERT_HN_OK(hn_fed_client_set(only.c, one.data()));
    EXPECT_TRUE(same_bits(only.values(), one));
    EXPECT_TRUE(same_bits(weights_of(only), weights));
    ASSERT_HN_OK(hn_fed_client_evaluate(only.c, &t));
    EXPECT_EQ(s.loss, t.loss);
    /* changes are not added to changes */
    ASSERT_HN_OK(hn_fed_client_set(only.c, one.data()));
    EXPECT_TRUE(same_bits(weights_of(only), weights));
    ASSERT_HN_OK(hn_fed_client_set(only.c, zero.data()));
    EXPECT_TRUE(same_bits(weights_of(only), before));
}

TEST_F(FedClient, BlocksAreChosenByTheWeights)
{
    const hn_fed_sparse_options base = {.block = "4x4",
                                        .budget = "0.25",
                                        .score = "magnitude",
                                        .lift_rank = 2,
                                        .mask = nullptr,
                                        .seed = 3};
    hn_peft_config targets = {};
    for (const char *name : {"conv2", "fc1"})
        ASSERT_HN_OK(hn_names_add(&targets.targets.list, name));
    const auto chosen = [&](const char *score, const char *budget = "0.25") {
        hn_fed_sparse_options c = base;
        c.score = score, c.budget = budget;
        hn_fed_support s = {};
        EXPECT_HN_OK(hn_fed_sparse_choose(&c, &model, &targets, &s));
        std::vector<int32_t> id;
        for (int64_t i = 0; i < s.count; i++)
            id.insert(id.end(), s.matrix[i].id, s.matrix[i].id + s.matrix[i].n);
        EXPECT_EQ((int64_t)id.size(), s.blocks);
        EXPECT_EQ(s.values, 16 * s.blocks);
        hn_fed_support_free(&s);
        return id;
    };
    const auto by_size = chosen("magnitude"), random = chosen("random"), lift = chosen("lift");
    EXPECT_EQ(by_size, chosen("magnitude"));
    EXPECT_NE(by_size, random);
    EXPECT_NE(by_size, lift);
    EXPECT_EQ(random.size(), by_size.size());
    EXPECT_GT(chosen("random", "1").size(), 3 * random.size());
    hn_fed_sparse_options c = base;
    hn_fed_support s = {};
    c.budget = "2";
    EXPECT_HN_FAIL(hn_fed_sparse_choose(&c, &model, &targets, &s), HN_ERR_ARG, "2");
    c = base, c.block = "128x128";
    EXPECT_HN_FAIL(hn_fed_sparse_choose(&c, &model, &targets, &s), HN_ERR_SHAPE, "conv2");
    c = base, c.mask = "/nonexistent/pack";
    EXPECT_HN_FAIL(hn_fed_sparse_choose(&c, &model, &targets, &s), HN_ERR_IO, "/nonexistent");
    EXPECT_EQ(s.count, 0);
    hn_peft_config_clear(&targets);
}

/* A delta pack that names its blocks: they are taken, and its changes are not. */
TEST_F(FedClient, BlocksAreThoseOfAMask)
{
    const TempDir dir;
    const std::string path = dir / "delta.safetensors";
    const std::vector<float> change(2 * 16, 1.0f);
    const hn_peft_config targets = {};
    const auto pack = [&](const char *name, int64_t out, int64_t in) {
        std::vector<int32_t> id = {1, 4};
        hn_pack_matrix m = {.name = const_cast<char *>(name),
                            .out = out,
                            .in = in,
                            .br = 4,
                            .bc = 4,
                            .n = 2,
                            .id = id.data(),
                            .delta = const_cast<float *>(change.data()),
                            .set = false};
        hn_pack_writer w = {};
        EXPECT_HN_OK(hn_pack_add(&w, &m, HN_F32));
        EXPECT_HN_OK(hn_pack_save(path.c_str(), &w, nullptr));
        hn_pack_writer_free(&w);
    };
    const hn_fed_sparse_options c = {.block = nullptr,
                                     .budget = nullptr,
                                     .score = nullptr,
                                     .lift_rank = 0,
                                     .mask = path.c_str(),
                                     .seed = 0};
    hn_fed_support s = {};
    pack("conv2.weight", 8, 36);
    ASSERT_HN_OK(hn_fed_sparse_choose(&c, &model, &targets, &s));
    ASSERT_EQ(s.count, 1);
    EXPECT_STREQ(s.matrix->name, "conv2.weight");
    EXPECT_EQ(std::vector<int32_t>(s.matrix->id, s.matrix->id + 2), (std::vector<int32_t>{1, 4}));
    hn_fed_support_free(&s);
    pack("conv2.weight", 8, 40);
    EXPECT_HN_FAIL(hn_fed_sparse_choose(&c, &model, &targets, &s), HN_ERR_SHAPE, "conv2.weight");
    pack("conv9.weight", 8, 36);
    EXPECT_HN_FAIL(hn_fed_sparse_choose(&c, &model, &targets, &s), HN_ERR_ARG, "--sparse-mask");
}

TEST_F(FedClient, RefusesByName)
{
    const StripedImages images(model.vision, 24, 1);
    const std::vector<int32_t> wrong = {24}, none;
    hn_fed_client *c = nullptr;
    hn_fed_trained r;
    hn_fed_scores s;
    EXPECT_HN_FAIL(hn_fed_client_new(&o, nullptr, &c), HN_ERR_ARG, "without images");
    o.images = images.view();
    Opened ok(o);
    hn_fed_task t = task(wrong, 1, 5);
    EXPECT_HN_FAIL(hn_fed_client_train(ok.c, &t, &r), HN_ERR_ARG, "client 5: image 24 of 24");
    t = task(none, 1, 5);
    EXPECT_HN_FAIL(hn_fed_client_train(ok.c, &t, &r), HN_ERR_ARG, "client 5: 0 images");
    EXPECT_HN_FAIL(hn_fed_client_evaluate(ok.c, &s), HN_ERR_ARG, "without held-out");
    model.vision = small_model("resnet20");
    EXPECT_HN_FAIL(hn_fed_client_new(&o, nullptr, &c), HN_ERR_UNSUPPORTED, "batch norm");
}

} // namespace
