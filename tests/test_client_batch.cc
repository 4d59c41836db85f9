/* Clients as replicas against the same clients one by one. */
#include "classifier_test.h"
#include "runtime/base/alloc.h"
#include "runtime/train/client_batch.h"
#include "runtime/train/client_block.h"
#include "runtime/train/fed_client.h"

namespace {

class ClientBatch : public ::testing::Test {
  protected:
    hn_model model = {};
    hn_adapt adapt = {.parameter = every_parameter, .linear = nullptr, .context = nullptr};
    hn_fed_sim_options o = {};
    hn_device *device = nullptr;

    ClientBatch()
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
        o.resident = 1;
        o.local.batch = 4;
        o.local.optimizer.kind = HN_OPTIMIZER_SGD;
        o.seed = 3;
        o.at_once = 3;
    }
    ~ClientBatch() override { hn_device_close(device); }
};

/* Clients of 9, 3, 14, 1 and 6 images, two epochs each: 6, 2, 8, 2 and 4 steps of up to 4. */
class Clients {
    std::vector<std::vector<int32_t>> index_;

  public:
    std::vector<hn_fed_task> task;
    explicit Clients(const hn_fed_local &l, size_t n = 5)
    {
        const int32_t sizes[] = {9, 3, 14, 1, 6};
        int32_t first = 0;
        for (size_t k = 0; k < n; k++) {
            index_.emplace_back();
            for (int32_t i = 0; i < sizes[k]; i++) index_.back().push_back(first + i);
            first += sizes[k];
        }
        for (size_t k = 0; k < n; k++)
            task.push_back({.client = (int64_t)k,
                            .index = index_[k].data(),
                            .n = sizes[k],
                            .steps = hn_fed_steps(&l, sizes[k], 2),
                            .lr = 0.02 * (double)(k + 1),
                            .seed = hn_fed_task_seed(9, 1, (int64_t)k)});
    }
};

struct Result {
    std::vector<std::vector<float>> value;
    std::vector<float> loss;
};

struct Taking {
    Result r;
    int64_t n_values;
};

Result round_of(hn_fed_sim *s, const std::vector<float> &global,
                const std::vector<hn_fed_task> &task)
{
    Taking t = {{}, s->n_values};
    const auto take = [](void *context, int64_t i, const hn_fed_trained *got) {
        Taking *to = (Taking *)context;
        EXPECT_EQ(i, (int64_t)to->r.value.size()); /* in order */
        to->r.value.emplace_back(got->value, got->value + to->n_values);
        to->r.loss.push_back(got->loss);
        EXPECT_GE(got->seconds, 0);
        return HN_OK;
    };
    EXPECT_HN_OK(s->round(s, global.data(), task.data(), (int64_t)task.size(), take, &t));
    return t.r;
}

/* Both simulations, and the values that they begin with. */
struct Both {
    hn_fed_sim *one = nullptr, *many = nullptr;
    std::vector<float> start;
    explicit Both(const hn_fed_sim_options &o)
    {
        EXPECT_HN_OK(hn_fed_one_new(&o, &one));
        EXPECT_HN_OK(hn_fed_replicas_new(&o, &many));
        EXPECT_EQ(one->n_values, many->n_values);
        start.resize((size_t)one->n_values);
        EXPECT_HN_OK(hn_fed_client_get(hn_fed_one_client(one, 0), start.data()));
    }
    ~Both()
    {
        hn_fed_sim_free(one);
        hn_fed_sim_free(many);
    }
    Both(const Both &) = delete;
};

/* Relative to how far training has moved the values. bf16: a sum in another order moves a weight by
 * a step of bf16, and training on */
void expect_close(const Result &got, const Result &want, const std::vector<float> &start,
                  double tolerance)
{
    ASSERT_EQ(got.value.size(), want.value.size());
    for (size_t k = 0; k < want.value.size(); k++) {
        double off = 0, way = 0;
        for (size_t i = 0; i < start.size(); i++) {
            const double d = (double)got.value[k][i] - (double)want.value[k][i];
            const double w = (double)want.value[k][i] - (double)start[i];
            off += d * d, way += w * w;
        }
        EXPECT_GT(way, 0) << k;
        EXPECT_LT(std::sqrt(off / way), tolerance) << k;
        EXPECT_NEAR(got.loss[k], want.loss[k], tolerance) << k;
    }
}

TEST_F(ClientBatch, IsEachClientByItself)
{
    const StripedImages images(model.vision, 40, 1);
    o.images = images.view();
    for (const float mu : {0.0f, 0.4f})
        for (const double momentum : {0.0, 0.9}) {
            o.local.mu = mu;
            o.local.optimizer.momentum = momentum;
            o.local.optimizer.weight_decay = 1e-2;
            o.local.optimizer.max_grad_norm = 1;
            o.local.augment = {.pad = 1, .flip = 0.5f};
            Both sims(o);
            const Clients clients(o.local);
            const Result got = round_of(sims.many, sims.start, clients.task);
            const Result want = round_of(sims.one, sims.start, clients.task);
            expect_close(got, want, sims.start, 1e-5);
            if (test_executor() != HN_EXECUTOR_CPU) continue;
            for (size_t k = 0; k < want.value.size(); k++) /* products add in the same order */
                EXPECT_TRUE(same_bits(got.value[k], want.value[k])) << k;
        }
}

/* Groups of as many as there are, and more; epochs joined; AdamW. */
TEST_F(ClientBatch, GroupsMayBeOfAnySize)
{
    const StripedImages images(model.vision, 40, 1);
    o.images = images.view();
    o.local.join = true;
    o.local.optimizer = {.kind = HN_OPTIMIZER_ADAMW, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-3};
    for (const int64_t at_once : {2, 5, 7}) {
        o.at_once = at_once;
        Both sims(o);
        Clients clients(o.local);
        for (hn_fed_task &t : clients.task) t.lr *= 0.1;
        expect_close(round_of(sims.many, sims.start, clients.task),
                     round_of(sims.one, sims.start, clients.task), sims.start, 1e-4);
    }
}

TEST_F(ClientBatch, TrainsAHeadOnASharedBody)
{
    const StripedImages images(model.vision, 40, 1);
    o.images = images.view();
    adapt.parameter = [](const void *, const char *name) {
        return std::string(name).substr(0, 3) == "fc2" ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
    };
    Both sims(o);
    EXPECT_EQ(sims.many->n_values, 4 * 12 + 4);
    const Clients clients(o.local);
    expect_close(round_of(sims.many, sims.start, clients.task),
                 round_of(sims.one, sims.start, clients.task), sims.start, 1e-5);
}

TEST_F(ClientBatch, ComputesInBf16)
{
    const StripedImages images(model.vision, 40, 1);
    o.images = images.view();
    model.dtype = HN_BF16;
    Both sims(o);
    const Clients clients(o.local);
    expect_close(round_of(sims.many, sims.start, clients.task),
                 round_of(sims.one, sims.start, clients.task), sims.start, 5e-2);
}

/* A round leaves nothing behind for the next: no values, moments or anchor. */
TEST_F(ClientBatch, ARoundHasTheSameBitsWhateverRanBefore)
{
    const StripedImages images(model.vision, 40, 1);
    o.images = images.view();
    o.local.mu = 0.4f;
    o.local.optimizer.momentum = 0.9;
    Both sims(o);
    const Clients clients(o.local);
    const Result want = round_of(sims.many, sims.start, clients.task);
    round_of(sims.many, want.value[2], {clients.task[4], clients.task[2]});
    const Result again = round_of(sims.many, sims.start, clients.task);
    for (size_t k = 0; k < want.value.size(); k++) {
        EXPECT_TRUE(same_bits(again.value[k], want.value[k])) << k;
        EXPECT_EQ(again.loss[k], want.loss[k]);
    }
}

/* More steps than rows are chosen for at a time. */
TEST_F(ClientBatch, TasksMayBeLong)
{
    const StripedImages images(model.vision, 40, 1);
    o.images = images.view();
    o.local.batch = 2;
    o.local.augment = {.pad = 1, .flip = 0.5f};
    Both sims(o);
    Clients clients(o.local);
    clients.task[0].steps = 35;
    clients.task[3].steps = 17;
    for (hn_fed_task &t : clients.task) t.lr *= 0.1;
    expect_close(round_of(sims.many, sims.start, clients.task),
                 round_of(sims.one, sims.start, clients.task), sims.start, 1e-5);
}

/* Five results in parts of one, two, three and all: the same bits in the same order, each prepared
 * once and before it is taken. */
TEST_F(ClientBatch, ResultsComeInPartsOfAnySize)
{
    const StripedImages images(model.vision, 40, 1);
    o.images = images.view();
    Both sims(o);
    const Clients clients(o.local);
    const Result want = round_of(sims.many, sims.start, clients.task);
    struct Parts {
        std::vector<std::vector<float>> prepared, taken;
        size_t values;
    };
    const auto prepare = [](void *context, int64_t i, const hn_fed_trained *t) {
        Parts *p = (Parts *)context;
        std::vector<float> &to = p->prepared[(size_t)i];
        to.insert(to.end(), t->value, t->value + p->values);
    };
    const auto take = [](void *context, int64_t i, const hn_fed_trained *t) {
        Parts *p = (Parts *)context;
        EXPECT_EQ(i, (int64_t)p->taken.size());
        EXPECT_EQ(p->prepared[(size_t)i].size(), p->values);
        p->taken.emplace_back(t->value, t->value + p->values);
        return HN_OK;
    };
    for (const int64_t together : {1, 2, 3, 5, 100}) {
        o.together = together;
        Both parts(o);
        parts.many->prepare = prepare;
        Parts p = {std::vector<std::vector<float>>(5), {}, sims.start.size()};
        ASSERT_HN_OK(
            parts.many->round(parts.many, sims.start.data(), clients.task.data(), 5, take, &p));
        ASSERT_EQ(p.taken.size(), 5u);
        for (size_t k = 0; k < 5; k++) {
            EXPECT_TRUE(same_bits(p.taken[k], want.value[k])) << together << " " << k;
            EXPECT_TRUE(same_bits(p.prepared[k], want.value[k])) << together << " " << k;
        }
    }
}

/* Groups of three, four and more parts, of few steps and of many: what a group gives has the bits
 * that it has in a round of its own, where nobody trains behind it. */
TEST_F(ClientBatch, ResultsAreNotTouchedByTheNextGroup)
{
    const StripedImages images(model.vision, 40, 1);
    o.images = images.view();
    o.local.mu = 0.4f;
    o.local.optimizer.momentum = 0.9;
    for (const int64_t together : {1, 2, 3}) {
        o.together = together;
        Both sims(o), alone(o);
        const Clients clients(o.local);
        std::vector<hn_fed_task> task = clients.task, extra = clients.task;
        for (hn_fed_task &t : extra) t.seed += 77, t.lr *= 0.3, t.steps = 1; /* fewer than parts */
        task.insert(task.end(), extra.begin(), extra.end());
        task.insert(task.end(), clients.task.begin(), clients.task.end());
        const Result got = round_of(sims.many, sims.start, task);
        ASSERT_EQ(got.value.size(), task.size());
        for (size_t first = 0; first < task.size(); first += 3) {
            const size_t end = std::min(first + 3, task.size());
            const Result want =
                round_of(alone.many, sims.start,
                         {task.begin() + (int64_t)first, task.begin() + (int64_t)end});
            for (size_t k = first; k < end; k++) {
                EXPECT_TRUE(same_bits(got.value[k], want.value[k - first])) << together << " " << k;
                EXPECT_EQ(got.loss[k], want.loss[k - first]) << together << " " << k;
            }
        }
    }
}

/* Groups of 8 and 4 steps: a result of the first behind each step of the second. On a GPU it
 * depends on what has come. */
TEST_F(ClientBatch, ResultsAreTakenWhileTheNextGroupTrains)
{
    if (hn_device_kind_of(device) != HN_DEVICE_CPU) GTEST_SKIP() << "of the CPU";
    const StripedImages images(model.vision, 40, 1);
    o.images = images.view();
    o.together = 1;
    Both sims(o);
    const Clients clients(o.local);
    struct Course {
        int64_t taken = 0;
        std::vector<int64_t> behind_step;
    } course;
    sims.many->moved = [](void *context) -> hn_status {
        Course *c = (Course *)context;
        c->behind_step.push_back(c->taken);
        return HN_OK;
    };
    const auto take = [](void *context, int64_t, const hn_fed_trained *) {
        ((Course *)context)->taken++;
        return HN_OK;
    };
    ASSERT_HN_OK(
        sims.many->round(sims.many, sims.start.data(), clients.task.data(), 5, take, &course));
    EXPECT_EQ(course.behind_step, (std::vector<int64_t>{0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 3}));
    EXPECT_EQ(course.taken, 5);
}

/* Only rounds of several groups take it, and only once. */
TEST_F(ClientBatch, WithoutMemoryForResultsARoundOfGroupsFails)
{
    if (hn_device_kind_of(device) != HN_DEVICE_CPU) GTEST_SKIP() << "the CPU's memory can fail";
    const StripedImages images(model.vision, 40, 1);
    o.images = images.view();
    Both sims(o);
    const Clients clients(o.local);
    EXPECT_GE(hn_fed_replicas_stage(sims.many), 3 * sizeof(float) * sims.start.size());
    const auto run = [&](int64_t n) {
        const auto take = [](void *, int64_t, const hn_fed_trained *) { return HN_OK; };
        return sims.many->round(sims.many, sims.start.data(), clients.task.data(), n, take,
                                nullptr);
    };
    const uint64_t before = hn_alloc_calls();
    EXPECT_HN_OK(run(3));
    EXPECT_EQ(hn_alloc_calls(), before);
    hn_alloc_fail_at(1);
    EXPECT_HN_FAIL(run(4), HN_ERR_MEMORY, "keeps the results of 3 clients on the device");
    hn_alloc_fail_at(0);
    EXPECT_HN_OK(run(4));
    EXPECT_EQ(hn_alloc_calls(), before + 2);
    EXPECT_HN_OK(run(5));
    EXPECT_EQ(hn_alloc_calls(), before + 2);
}

TEST_F(ClientBatch, ErrorsOfTheTakerEndTheRound)
{
    const StripedImages images(model.vision, 40, 1);
    o.images = images.view();
    Both sims(o);
    const Clients clients(o.local);
    int64_t taken = 0;
    const auto take = [](void *context, int64_t, const hn_fed_trained *) {
        return ++*(int64_t *)context == 2 ? HN_FAIL(HN_ERR_NUMERIC, "enough") : HN_OK;
    };
    EXPECT_HN_FAIL(
        sims.many->round(sims.many, sims.start.data(), clients.task.data(), 5, take, &taken),
        HN_ERR_NUMERIC, "enough");
    EXPECT_EQ(taken, 2);
    expect_close(round_of(sims.many, sims.start, clients.task),
                 round_of(sims.one, sims.start, clients.task), sims.start, 1e-5);
}

/* Pixels of 255 are more than the first convolution can take, those of 0 are nothing to it: the
 * overflow comes in the first step of three, before the epoch whose loss counts. */
TEST_F(ClientBatch, AnOverflowBeforeTheLastEpochMakesTheLossNaN)
{
    for (float &m : model.vision.mean) m = 0;
    for (float &s : model.vision.std) s = 1;
    std::vector<uint8_t> pixel(4 * 144);
    std::fill(pixel.begin(), pixel.begin() + 144, (uint8_t)255);
    const std::vector<int32_t> label = {0, 1, 2, 3};
    hn_images v = {};
    v.count = 4, v.h = v.w = 12, v.c = 1;
    v.pixel = pixel.data(), v.label = label.data(), v.n_classes = 4;
    hn_image_set *set = nullptr;
    ASSERT_HN_OK(hn_image_set_make(&v, "black and white", &set));
    o.images = hn_image_set_view(set);
    o.local.batch = 1;
    const std::vector<int32_t> index[] = {{0, 1}, {2, 3}};
    std::vector<hn_fed_task> task;
    for (int64_t k = 0; k < 2; k++)
        task.push_back(
            {.client = k, .index = index[k].data(), .n = 2, .steps = 3, .lr = 0.01, .seed = 0});
    int32_t first = -1, last = -1;
    while (first != 0 || last == 0) { /* the white one in front, and not again in the last step */
        task[0].seed++;
        hn_fed_rows(&o.local, &task[0], 0, &first);
        hn_fed_rows(&o.local, &task[0], 2, &last);
    }
    Both sims(o);
    hn_fed_sim *block = nullptr;
    o.executor = HN_EXECUTOR_AUTO;
    ASSERT_HN_OK(hn_fed_blocks_new(&o, &block));
    for (size_t i = 0; i < 4 * 9; i++) sims.start[i] = 3e38f; /* conv1.weight */
    for (hn_fed_sim *s : {sims.one, sims.many, block}) {
        const Result r = round_of(s, sims.start, task);
        ASSERT_EQ(r.loss.size(), 2u);
        EXPECT_TRUE(std::isnan(r.loss[0])) << r.loss[0];
        EXPECT_TRUE(std::isfinite(r.loss[1])) << r.loss[1];
    }
    hn_fed_sim_free(block);
    hn_image_set_free(set);
}

/* A group's results come in a few parts, and are handed over so many at a time: the bits of each
 * client by itself. */
TEST_F(ClientBatch, BlocksComeInPartsOfAnySize)
{
    const StripedImages images(model.vision, 40, 1);
    o.images = images.view();
    o.executor = HN_EXECUTOR_AUTO;
    const Clients clients(o.local);
    Result want;
    std::vector<float> start;
    for (const int64_t at_once : {1, 2, 5, 9})
        for (const int64_t together : {0, 1, 2}) {
            hn_fed_sim *block = nullptr;
            o.at_once = at_once;
            o.together = together;
            ASSERT_HN_OK(hn_fed_blocks_new(&o, &block));
            start.resize((size_t)block->n_values, 0.01f);
            std::vector<hn_fed_task> task = clients.task;
            task.insert(task.end(), clients.task.begin(), clients.task.end());
            const Result got = round_of(block, start, task);
            hn_fed_sim_free(block);
            ASSERT_EQ(got.value.size(), task.size());
            if (want.value.empty()) want = got; /* one by one */
            for (size_t k = 0; k < task.size(); k++) {
                EXPECT_TRUE(same_bits(got.value[k], want.value[k])) << at_once << " " << together;
                EXPECT_EQ(got.loss[k], want.loss[k]);
                EXPECT_TRUE(same_bits(got.value[k], got.value[k % 5]));
                EXPECT_EQ(same_bits(got.value[k], got.value[0]), k % 5 == 0) << k;
            }
        }
}

TEST_F(ClientBatch, BlocksRefuseWhatTheyWouldNotDo)
{
    const StripedImages images(model.vision, 40, 1);
    hn_fed_sim *s = nullptr;
    o.images = images.view();
    o.local.batch = 33;
    EXPECT_HN_FAIL(hn_fed_blocks_new(&o, &s), HN_ERR_UNSUPPORTED, "batches of 33");
    o.local.batch = 4;
    o.executor = HN_EXECUTOR_CHECK;
    EXPECT_HN_FAIL(hn_fed_blocks_new(&o, &s), HN_ERR_UNSUPPORTED, "cuda-check");
    o.executor = HN_EXECUTOR_AUTO;
    const hn_fed_support support = {};
    o.local.support = &support;
    EXPECT_HN_FAIL(hn_fed_blocks_new(&o, &s), HN_ERR_UNSUPPORTED, "as blocks: no blocks of");
    EXPECT_HN_FAIL(hn_fed_replicas_new(&o, &s), HN_ERR_UNSUPPORTED, "as replicas: no blocks of");
    o.local.support = nullptr;
    if (hn_device_kind_of(device) != HN_DEVICE_CUDA) return;
    o.resident = 0;
    EXPECT_HN_FAIL(hn_fed_blocks_new(&o, &s), HN_ERR_UNSUPPORTED, "--resident");
}

TEST_F(ClientBatch, RefusesByName)
{
    const StripedImages images(model.vision, 40, 1);
    hn_fed_sim *s = nullptr;
    EXPECT_HN_FAIL(hn_fed_replicas_new(&o, &s), HN_ERR_ARG, "without images");
    o.images = images.view();
    o.at_once = 1;
    EXPECT_HN_FAIL(hn_fed_replicas_new(&o, &s), HN_ERR_ARG, "1 clients at once");
    o.at_once = 2;
    Both sims(o);
    const int32_t wrong = 40;
    const hn_fed_task t = {.client = 5, .index = &wrong, .n = 1, .steps = 1, .lr = 1, .seed = 0};
    EXPECT_HN_FAIL(sims.many->round(sims.many, sims.start.data(), &t, 1, nullptr, nullptr),
                   HN_ERR_ARG, "client 5: image 40 of 40");
    model.vision = small_model("resnet20");
    EXPECT_HN_FAIL(hn_fed_replicas_new(&o, &s), HN_ERR_UNSUPPORTED, "batch norm");
    const StripedImages colours(model.vision, 40, 1);
    o.images = colours.view();
    o.local.join = true;
    EXPECT_HN_FAIL(hn_fed_replicas_new(&o, &s), HN_ERR_UNSUPPORTED,
                   "batch normalisation has no replicas");
}

} // namespace
