/* client_cnn: PyTorch's trajectories, finite differences, clients on their own, refusals; CUDA
 * against the twin. weighted_mean: the same bits everywhere. */
#include <algorithm>

#include "golden_test.h"
#include "kernel_test.h"
#include "kernels/client/client_cnn.h"
#include "kernels/client/weighted_mean.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

/* A set of images and the clients that train on it; args() points into it. */
struct Set {
    hn_client_cnn_args a = {};
    std::vector<float> start, lr;
    std::vector<uint8_t> images;
    std::vector<int32_t> labels, rows, client_steps, loss_from;

    struct Result {
        std::vector<float> values, loss;
        std::vector<int32_t> status;
    };

    void make_images(int64_t count)
    {
        const hn_client_cnn_net &n = a.net;
        a.count = count;
        images.resize((size_t)(count * n.height * n.width * n.channels));
        for (size_t i = 0; i < images.size(); i++)
            images[i] = (uint8_t)((uint32_t)i * 2654435761u >> 24);
    }
    /* On the host; CUDA tests put device pointers over these. */
    hn_client_cnn_args args(Result &r)
    {
        r.values.assign((size_t)(a.clients * a.values_stride), NAN);
        r.loss.assign((size_t)a.clients, NAN);
        r.status.assign((size_t)a.clients, -1);
        hn_client_cnn_args to = a;
        to.start = start.data(), to.images = images.data(), to.labels = labels.data();
        to.rows = rows.data(), to.client_steps = client_steps.data();
        to.loss_from = loss_from.data(), to.lr = lr.data();
        to.values = r.values.data(), to.loss = r.loss.data(), to.status = r.status.data();
        return to;
    }
    Result run()
    {
        Result r;
        const hn_client_cnn_args to = args(r);
        EXPECT_HN_OK(hn_client_cnn_cpu(&to));
        return r;
    }
    /* Client g alone. */
    Set only(int64_t g) const
    {
        Set s = *this;
        s.a.clients = 1;
        if (a.start_stride > 0)
            s.start.erase(s.start.begin(), s.start.begin() + g * a.start_stride);
        if (a.lr_stride > 0) s.lr.erase(s.lr.begin(), s.lr.begin() + g * a.lr_stride);
        s.rows.erase(s.rows.begin(), s.rows.begin() + g * a.steps * a.batch);
        s.client_steps = {client_steps[(size_t)g]};
        s.loss_from = {loss_from[(size_t)g]};
        return s;
    }
};

/* Clients with random images, steps, and padding among the rows. */
Set random_set(const hn_client_cnn_net &net, int64_t clients, int64_t steps, int64_t batch,
               unsigned seed)
{
    Set s;
    std::mt19937 rng(seed);
    const auto below = [&](int64_t n) { return (int64_t)(rng() % (uint64_t)n); };
    s.a.net = net;
    s.a.n = hn_client_cnn_layout(&net, &s.a.at);
    s.a.clients = clients, s.a.steps = steps, s.a.batch = batch;
    s.a.values_stride = s.a.n + 3;
    s.make_images(40);
    for (int k = 0; k < 4; k++) s.a.mean[k] = 0.4f, s.a.std[k] = 0.3f;
    for (int64_t i = 0; i < s.a.count; i++) s.labels.push_back((int32_t)below(net.classes));
    for (int64_t i = 0; i < clients * steps * batch; i++)
        s.rows.push_back(below(8) == 0 ? -1 : (int32_t)below(s.a.count));
    for (int64_t g = 0; g < clients; g++) {
        s.client_steps.push_back((int32_t)(steps - g % 3 < 0 ? 0 : steps - g % 3));
        s.loss_from.push_back((int32_t)(g % 2));
    }
    s.lr.assign((size_t)steps, 0.05f);
    s.start = normal_f32((size_t)s.a.n, seed, 0, 0.15f);
    return s;
}

const hn_client_cnn_net kSmall = {14, 12, 2, 2, {4, 8}, 3, 0, 8, 5};
const hn_client_cnn_net kMnist = {28, 28, 1, 2, {8, 16}, 3, 0, 64, 10};

/* ---- the twin ---- */

class ClientCnnGolden : public testing::TestWithParam<const char *> {};

Set golden_set(const Golden &g)
{
    Set s;
    const Golden n = g["net"];
    hn_client_cnn_net &net = s.a.net;
    net.height = n["height"].integer(), net.width = n["width"].integer();
    net.channels = n["channels"].integer(), net.steps = n["steps"].integer();
    for (size_t l = 0; l < n["filters"].size(); l++) net.filters[l] = n["filters"].at(l).integer();
    net.kernel = n["kernel"].integer(), net.pad = n["pad"].integer();
    net.hidden = n["hidden"].integer(), net.classes = n["classes"].integer();
    s.a.n = s.a.values_stride = hn_client_cnn_layout(&net, &s.a.at);
    s.make_images(g["count"].integer());
    s.labels = g["labels"].integers();
    s.a.clients = 1, s.a.steps = (int64_t)g["rows"].size();
    for (size_t t = 0; t < g["rows"].size(); t++)
        for (const int32_t row : g["rows"].at(t).integers()) s.rows.push_back(row);
    s.a.batch = (int64_t)s.rows.size() / s.a.steps;
    s.client_steps = {(int32_t)s.a.steps};
    s.loss_from = {(int32_t)s.a.steps - 1};
    s.lr = g["lr"].numbers();
    s.start = g["start"].numbers();
    for (size_t k = 0; k < g["mean"].size(); k++) {
        s.a.mean[k] = g["mean"].at(k).number();
        s.a.std[k] = g["std"].at(k).number();
    }
    return s;
}

TEST_P(ClientCnnGolden, TrainsAsPyTorch)
{
    const Golden file = Golden::load("tests/golden/client_cnn.json");
    const Golden g = file[GetParam()];
    for (const char *name : {"sgd", "proximal"}) {
        SCOPED_TRACE(name);
        const Golden c = g["cases"][name];
        Set s = golden_set(g);
        ASSERT_EQ((int64_t)s.start.size(), s.a.n);
        s.a.mu = c["mu"].number(), s.a.weight_decay = c["weight_decay"].number();
        const Set::Result r = s.run();
        /* PyTorch sums in fp32: a few roundings a step. */
        EXPECT_LT(rel_l2(r.values, c["after"].numbers()), 1e-6);
        EXPECT_GT(rel_l2(r.values, s.start), 1e-2); /* it has moved */
        EXPECT_NEAR(r.loss[0], c["losses"].at(2).number(), 1e-6);
        EXPECT_EQ(r.status[0], HN_CLIENT_DONE);
    }
}

INSTANTIATE_TEST_SUITE_P(, ClientCnnGolden, testing::Values("plain", "padded", "five"),
                         [](const auto &i) { return std::string(i.param); });

/* One step with lr 1 takes the gradient away from the values. */
TEST(ClientCnn, StepIsTheSlopeOfTheLoss)
{
    Set s = random_set(kSmall, 1, 1, 5, 3);
    s.loss_from = {0};
    s.lr = {1.0f};
    const Set::Result r = s.run();
    for (unsigned k = 0; k < 4; k++) {
        const std::vector<float> d = normal_f32((size_t)s.a.n, 100 + k);
        double slope = 0, difference = 0;
        for (size_t i = 0; i < d.size(); i++)
            slope += ((double)s.start[i] - (double)r.values[i]) * (double)d[i];
        const float eps = 2e-4f;
        for (const float sign : {1.0f, -1.0f}) {
            Set moved = s;
            for (size_t i = 0; i < d.size(); i++) moved.start[i] += sign * eps * d[i];
            difference += (double)(sign * moved.run().loss[0]) / (2 * (double)eps);
        }
        /* A loss in fp32 is known to 1e-7, its difference to 5e-4. */
        EXPECT_NEAR(difference, slope, 2e-3 + 2e-3 * std::fabs(slope));
    }
}

TEST(ClientCnn, ClientsAreOnTheirOwn)
{
    Set s = random_set(kSmall, 5, 4, 6, 4);
    s.a.start_stride = s.a.n + 1;
    s.start = normal_f32((size_t)(5 * s.a.start_stride), 5, 0, 0.2f);
    s.a.lr_stride = s.a.steps + 1;
    s.lr.resize((size_t)(5 * s.a.lr_stride));
    for (size_t i = 0; i < s.lr.size(); i++) s.lr[i] = 0.01f * (float)(i % 7);
    s.a.mu = 0.1f;
    const Set::Result all = s.run();
    Set::Result one_thread;
    on_threads(1, [&] { one_thread = s.run(); });
    EXPECT_TRUE(same_bits(one_thread.values, all.values));
    for (int64_t g = 0; g < 5; g++) {
        const Set::Result one = s.only(g).run();
        EXPECT_EQ(std::memcmp(one.values.data(), all.values.data() + g * s.a.values_stride,
                              (size_t)s.a.n * sizeof(float)),
                  0);
        EXPECT_EQ(one.loss[0], all.loss[(size_t)g]);
    }
    for (size_t g = 0; g < 5; g++) /* between the clients nothing is written */
        for (size_t i = 0; i < 3; i++)
            EXPECT_TRUE(std::isnan(all.values[g * (size_t)s.a.values_stride + (size_t)s.a.n + i]));
}

TEST(ClientCnn, StepsWithoutImagesChangeNothing)
{
    Set s = random_set(kSmall, 2, 3, 4, 6);
    s.a.weight_decay = 0.1f;
    s.client_steps = {0, 3};
    std::fill(s.rows.begin() + 12, s.rows.end(), -1);
    const Set::Result r = s.run();
    for (int64_t g = 0; g < 2; g++) {
        EXPECT_EQ(std::memcmp(r.values.data() + g * s.a.values_stride, s.start.data(),
                              s.start.size() * sizeof(float)),
                  0);
        EXPECT_EQ(r.loss[(size_t)g], 0.0f);
        EXPECT_EQ(r.status[(size_t)g], HN_CLIENT_DONE);
    }
}

TEST(ClientCnn, ValuesOfNoTensorAreCopied)
{
    Set s = random_set(kSmall, 1, 2, 4, 8);
    const Set::Result dense = s.run();
    Set apart = s;
    hn_client_cnn_at &at = apart.a.at;
    for (int64_t *p : {&at.conv_w[0], &at.conv_w[1], &at.conv_b[0], &at.conv_b[1], &at.fc1_w,
                       &at.fc1_b, &at.fc2_w, &at.fc2_b})
        *p += 5;
    apart.a.n += 9, apart.a.values_stride = apart.a.n;
    apart.start.insert(apart.start.begin(), 5, 3.5f);
    apart.start.insert(apart.start.end(), 4, -1.5f);
    apart.start[2] = INFINITY; /* is not trained */
    const Set::Result r = apart.run();
    EXPECT_EQ(r.status[0], HN_CLIENT_DONE);
    EXPECT_EQ(std::memcmp(r.values.data() + 5, dense.values.data(), (size_t)s.a.n * sizeof(float)),
              0);
    for (size_t i = 0; i < 5; i++) EXPECT_EQ(r.values[i], i == 2 ? INFINITY : 3.5f);
    for (size_t i = 0; i < 4; i++) EXPECT_EQ(r.values[(size_t)apart.a.n - 1 - i], -1.5f);
}

TEST(ClientCnn, ValuesMayLieOnTheStart)
{
    Set s = random_set(kSmall, 2, 3, 4, 9);
    s.a.start_stride = s.a.values_stride = s.a.n;
    s.a.mu = 0.3f;
    s.start = normal_f32((size_t)(2 * s.a.n), 10, 0, 0.2f);
    const Set::Result apart = s.run();
    Set::Result r;
    hn_client_cnn_args a = s.args(r);
    a.values = s.start.data();
    ASSERT_HN_OK(hn_client_cnn_cpu(&a));
    EXPECT_TRUE(same_bits(s.start, apart.values));
}

TEST(ClientCnn, SaysWhichClientIsNotFinite)
{
    Set s = random_set(kSmall, 2, 2, 4, 11);
    s.client_steps = {2, 2};
    s.a.start_stride = s.a.n;
    s.start.insert(s.start.end(), s.start.begin(), s.start.begin() + s.a.n);
    s.start[(size_t)(s.a.n + s.a.at.fc1_w + 2)] = INFINITY;
    const Set::Result r = s.run();
    EXPECT_EQ(r.status[0], HN_CLIENT_DONE);
    EXPECT_EQ(r.status[1], HN_CLIENT_NONFINITE);
}

TEST(ClientCnn, SaysHowManyBytesItNeeds)
{
    /* 27,562 weights alone are 110,248 bytes; half of the batch's features 51,200. */
    EXPECT_GT(hn_client_cnn_bytes(&kMnist, 32), 161448u);
    EXPECT_HN_OK(hn_client_cnn_fits(&kMnist, 32, 232448));
    EXPECT_HN_FAIL(hn_client_cnn_fits(&kMnist, 32, 101376), HN_ERR_UNSUPPORTED, "101376");
    hn_client_cnn_net wide = kMnist;
    wide.pad = 1; /* 7 x 7 x 16 features: 200 KB of weights */
    EXPECT_HN_FAIL(hn_client_cnn_fits(&wide, 32, 232448), HN_ERR_UNSUPPORTED, "shared memory");
    wide.hidden = 32;
    EXPECT_HN_OK(hn_client_cnn_fits(&wide, 16, 232448));
    EXPECT_HN_OK(hn_client_cnn_fits(&kSmall, 32, 232448));
    EXPECT_HN_FAIL(hn_client_cnn_fits(&kSmall, 33, 232448), HN_ERR_UNSUPPORTED, "batches of 33");
}

TEST(ClientCnn, Refusals)
{
    Set s = random_set(kSmall, 2, 2, 4, 12);
    Set::Result r;
    const hn_client_cnn_args good = s.args(r);
    const auto refuses = [&](hn_status code, const char *part, auto change) {
        hn_client_cnn_args a = good;
        change(a);
        EXPECT_HN_FAIL(hn_client_cnn_cpu(&a), code, part);
    };
    using A = hn_client_cnn_args;
    EXPECT_HN_FAIL(hn_client_cnn_check(nullptr), HN_ERR_ARG, "args");
    refuses(HN_ERR_ARG, "start", [](A &a) { a.start = nullptr; });
    refuses(HN_ERR_ARG, "rows", [](A &a) { a.rows = nullptr; });
    refuses(HN_ERR_SHAPE, "batch 33", [](A &a) { a.batch = 33; });
    refuses(HN_ERR_SHAPE, "clients 0", [](A &a) { a.clients = 0; });
    refuses(HN_ERR_SHAPE, "channels 5", [](A &a) { a.net.channels = 5; });
    refuses(HN_ERR_SHAPE, "steps 5", [](A &a) { a.net.steps = 5; });
    refuses(HN_ERR_SHAPE, "too small", [](A &a) { a.net.height = 9; });
    refuses(HN_ERR_SHAPE, "classes 1", [](A &a) { a.net.classes = 1; });
    refuses(HN_ERR_UNSUPPORTED, "kernel 4", [](A &a) { a.net.kernel = 4; });
    refuses(HN_ERR_UNSUPPORTED, "pad 1", [](A &a) { a.net.kernel = 5, a.net.pad = 1; });
    refuses(HN_ERR_UNSUPPORTED, "filters 6", [](A &a) { a.net.filters[1] = 6; });
    refuses(HN_ERR_UNSUPPORTED, "hidden 10", [](A &a) { a.net.hidden = 10; });
    refuses(HN_ERR_SHAPE, "is not in the", [](A &a) { a.at.fc2_b += 1; });
    refuses(HN_ERR_SHAPE, "overlap", [](A &a) { a.at.fc2_b -= 1; });
    refuses(HN_ERR_SHAPE, "start_stride", [](A &a) { a.start_stride = a.n - 1; });
    refuses(HN_ERR_SHAPE, "values_stride", [](A &a) { a.values_stride = a.n - 1; });
    refuses(HN_ERR_SHAPE, "lr_stride", [](A &a) { a.lr_stride = 1; });
    refuses(HN_ERR_ARG, "another stride", [](A &a) { a.start = a.values; });
    refuses(HN_ERR_ARG, "mu", [](A &a) { a.mu = -1; });
    refuses(HN_ERR_ARG, "weight_decay", [](A &a) { a.weight_decay = NAN; });
    refuses(HN_ERR_ARG, "std", [](A &a) { a.std[1] = -1; });
    s.client_steps[1] = 3;
    EXPECT_HN_FAIL(hn_client_cnn_cpu(&good), HN_ERR_ARG, "client 1 has 3 steps");
    s.client_steps = {2, 2};
    s.rows[11] = 40;
    EXPECT_HN_FAIL(hn_client_cnn_cpu(&good), HN_ERR_ARG, "client 1, step 0: image 40");
    s.rows[11] = 7;
    s.labels[7] = 5;
    EXPECT_HN_FAIL(hn_client_cnn_cpu(&good), HN_ERR_ARG, "the label 5");
    EXPECT_TRUE(std::isnan(r.values[0])); /* nothing was written */
}

/* ---- weighted_mean ---- */

hn_weighted_mean_args mean_args(const std::vector<float> &x, const std::vector<double> &weight,
                                int64_t n, int64_t stride)
{
    hn_weighted_mean_args a = {};
    a.x = x.data(), a.weight = weight.data(), a.clients = (int64_t)weight.size();
    a.n = n, a.stride = stride;
    return a;
}

TEST(WeightedMean, HandValues)
{
    const std::vector<float> x = {1, 2, 9, 5, 10, 9}, base = {1, 4};
    const std::vector<double> weight = {0.25, 0.75};
    hn_weighted_mean_args a = mean_args(x, weight, 2, 3);
    std::vector<float> out(2);
    a.out = out.data();
    ASSERT_HN_OK(hn_weighted_mean_cpu(&a));
    EXPECT_EQ(out, (std::vector<float>{4, 8}));
    a.base = base.data();
    const std::vector<double> half = {0.25, 0.25};
    a.weight = half.data(); /* 1 + (0 + 4) / 4, 4 + (-2 + 6) / 4 */
    ASSERT_HN_OK(hn_weighted_mean_cpu(&a));
    EXPECT_EQ(out, (std::vector<float>{2, 5}));
}

std::vector<double> weights(size_t n)
{
    std::vector<double> w;
    for (const float v : normal_f32(n, 3)) w.push_back(0.1 + std::fabs((double)v));
    return w;
}

TEST(WeightedMean, FastHasTheBitsOfTheTwin)
{
    for (const int64_t n : {1, 511, 513, 2000}) {
        const std::vector<float> x = normal_f32((size_t)(7 * (n + 2)), 1);
        std::vector<float> base = normal_f32((size_t)n, 2);
        const std::vector<double> w = weights(7);
        for (const bool from_base : {false, true}) {
            hn_weighted_mean_args a = mean_args(x, w, n, n + 2);
            GuardedArray<float> twin((size_t)n), fast((size_t)n), serial((size_t)n);
            a.base = from_base ? base.data() : nullptr;
            a.out = twin.data();
            ASSERT_HN_OK(hn_weighted_mean_cpu(&a));
            a.out = fast.data();
            ASSERT_HN_OK(hn_weighted_mean_fast(&a));
            a.out = serial.data();
            on_threads(1, [&] { ASSERT_HN_OK(hn_weighted_mean_fast(&a)); });
            EXPECT_TRUE(same_bits(fast.host(), twin.host()));
            EXPECT_TRUE(same_bits(serial.host(), twin.host()));
            if (!from_base) continue;
            a.out = base.data(); /* out may be base */
            ASSERT_HN_OK(hn_weighted_mean_fast(&a));
            EXPECT_TRUE(same_bits(base, twin.host()));
        }
    }
}

TEST(WeightedMean, Refusals)
{
    const std::vector<float> x(6);
    const std::vector<double> w = {1, 2};
    std::vector<float> out(3);
    hn_weighted_mean_args a = mean_args(x, w, 3, 3);
    EXPECT_HN_FAIL(hn_weighted_mean_cpu(&a), HN_ERR_ARG, "out");
    a.out = out.data();
    a.stride = 2;
    EXPECT_HN_FAIL(hn_weighted_mean_fast(&a), HN_ERR_SHAPE, "x");
    a.stride = 3, a.n = 0;
    EXPECT_HN_FAIL(hn_weighted_mean_cpu(&a), HN_ERR_SHAPE, "0 values");
    a.n = 3, a.weight = nullptr;
    EXPECT_HN_FAIL(hn_weighted_mean_cpu(&a), HN_ERR_ARG, "weight");
}

#ifdef HONE_CUDA
/* ---- CUDA ---- */

/* Device copies of a set, one run after the other. */
struct DeviceSet {
    Set s;
    DeviceArray<float> start, lr, values, loss;
    DeviceArray<uint8_t> images;
    DeviceArray<int32_t> labels, rows, client_steps, loss_from, status;

    explicit DeviceSet(const Set &set)
        : s(set), start(set.start), lr(set.lr),
          values((size_t)(set.a.clients * set.a.values_stride)), loss((size_t)set.a.clients),
          images(set.images), labels(set.labels), rows(set.rows), client_steps(set.client_steps),
          loss_from(set.loss_from), status((size_t)set.a.clients)
    {
    }
    hn_client_cnn_args args()
    {
        hn_client_cnn_args a = s.a;
        a.start = start.data(), a.lr = lr.data(), a.values = values.data(), a.loss = loss.data();
        a.images = images.data(), a.labels = labels.data(), a.rows = rows.data();
        a.client_steps = client_steps.data(), a.loss_from = loss_from.data();
        a.status = status.data();
        return a;
    }
    Set::Result run()
    {
        const hn_client_cnn_args a = args();
        EXPECT_HN_OK(hn_client_cnn_cuda(&a, nullptr));
        return {values.host(), loss.host(), status.host()};
    }
};

/* The values of all clients without what lies between them. */
std::vector<float> trained(const Set &s, const Set::Result &r)
{
    std::vector<float> v;
    for (int64_t g = 0; g < s.a.clients; g++)
        v.insert(v.end(), r.values.begin() + g * s.a.values_stride,
                 r.values.begin() + g * s.a.values_stride + s.a.n);
    return v;
}

/* Runs in fp32 and in double differ by roundings, relative to how far the values have moved. */
void expect_near_twin(const Set &s, double tolerance)
{
    Set twin = s;
    const Set::Result want = twin.run();
    DeviceSet d(s);
    const Set::Result got = d.run();
    std::vector<float> moved = trained(s, got), wanted = trained(s, want);
    for (int64_t g = 0; g < s.a.clients; g++)
        for (int64_t i = 0; i < s.a.n; i++) {
            const float from = s.start[(size_t)(g * s.a.start_stride + i)];
            moved[(size_t)(g * s.a.n + i)] -= from;
            wanted[(size_t)(g * s.a.n + i)] -= from;
        }
    EXPECT_LT(rel_l2(moved, wanted), tolerance);
    EXPECT_LT(rel_l2(got.loss, want.loss), tolerance);
    EXPECT_EQ(got.status, want.status);
}

struct Family {
    const char *name;
    hn_client_cnn_net net;
    int64_t batch;
};
const Family kFamilies[] = {
    {"mnist", kMnist, 32},
    {"mnist_half", kMnist, 20},
    {"small", kSmall, 6},
    {"one_step", {9, 11, 1, 1, {4}, 3, 0, 4, 2}, 1},
    {"padded", {9, 8, 3, 3, {4, 8, 4}, 3, 1, 8, 5}, 7},
    {"padded_mnist", {28, 28, 1, 2, {8, 16}, 3, 1, 32, 10}, 16},
    {"far_padded", {8, 8, 1, 2, {8, 4}, 3, 2, 8, 5}, 9},
    {"kernel5", {17, 16, 3, 2, {8, 4}, 5, 0, 8, 5}, 6},
    {"wide", {12, 12, 4, 2, {32, 32}, 3, 0, 12, 40}, 11},
    {"odd_bytes", {15, 13, 3, 2, {4, 12}, 3, 0, 20, 7}, 5},
};

class ClientCnnCuda : public testing::TestWithParam<Family> {};

TEST_P(ClientCnnCuda, MatchesCpuAfterAStep)
{
    HN_NEED_CUDA();
    expect_near_twin(random_set(GetParam().net, 2, 1, GetParam().batch, 21), 1e-5);
}

TEST_P(ClientCnnCuda, MatchesCpuAfterSomeSteps)
{
    HN_NEED_CUDA();
    Set s = random_set(GetParam().net, 3, 5, GetParam().batch, 22);
    s.a.mu = 0.2f, s.a.weight_decay = 0.01f;
    for (int64_t i = 0; i < s.a.batch; i++) s.rows[(size_t)(s.a.batch + i)] = -1; /* a step */
    expect_near_twin(s, 1e-4);
}

INSTANTIATE_TEST_SUITE_P(, ClientCnnCuda, testing::ValuesIn(kFamilies),
                         [](const auto &i) { return std::string(i.param.name); });

TEST(ClientCnn, CudaClientsAreOnTheirOwnAndRepeat)
{
    HN_NEED_CUDA();
    Set s = random_set(kSmall, 5, 4, 6, 4);
    s.a.start_stride = s.a.n + 1;
    s.start = normal_f32((size_t)(5 * s.a.start_stride), 5, 0, 0.2f);
    s.a.lr_stride = s.a.steps + 1;
    s.lr.assign((size_t)(5 * s.a.lr_stride), 0.03f);
    s.a.mu = 0.1f;
    DeviceSet d(s);
    const Set::Result all = d.run(), again = d.run();
    EXPECT_TRUE(same_bits(all.values, again.values));
    EXPECT_TRUE(same_bits(all.loss, again.loss));
    for (int64_t g = 0; g < 5; g++) {
        DeviceSet one(s.only(g));
        const Set::Result r = one.run();
        EXPECT_EQ(std::memcmp(r.values.data(), all.values.data() + g * s.a.values_stride,
                              (size_t)s.a.n * sizeof(float)),
                  0);
        EXPECT_EQ(r.loss[0], all.loss[(size_t)g]);
    }
}

TEST(ClientCnn, CudaRunsFromACapturedGraph)
{
    HN_NEED_CUDA();
    const Set s = random_set(kSmall, 3, 4, 6, 14);
    DeviceSet d(s);
    const Set::Result direct = d.run();
    d.values.assign(std::vector<float>(d.values.bytes() / sizeof(float), NAN));
    const hn_client_cnn_args a = d.args();
    run_captured([&](cudaStream_t stream) { EXPECT_HN_OK(hn_client_cnn_cuda(&a, stream)); });
    EXPECT_TRUE(same_bits(trained(s, {d.values.host(), {}, {}}), trained(s, direct)));
}

TEST(ClientCnn, CudaValuesMayLieOnTheStart)
{
    HN_NEED_CUDA();
    Set s = random_set(kSmall, 2, 3, 4, 9);
    s.a.start_stride = s.a.values_stride = s.a.n;
    s.a.mu = 0.3f;
    s.start = normal_f32((size_t)(2 * s.a.n), 10, 0, 0.2f);
    DeviceSet d(s);
    const Set::Result apart = d.run();
    hn_client_cnn_args a = d.args();
    a.values = d.start.data();
    ASSERT_HN_OK(hn_client_cnn_cuda(&a, nullptr));
    EXPECT_TRUE(same_bits(d.start.host(), apart.values));
}

TEST(ClientCnn, CudaReportsWhatIsNotFinite)
{
    HN_NEED_CUDA();
    Set s = random_set(kSmall, 3, 2, 4, 11);
    s.client_steps = {2, 2, 2};
    s.a.start_stride = s.a.n;
    const std::vector<float> one = s.start;
    for (int g = 1; g < 3; g++) s.start.insert(s.start.end(), one.begin(), one.end());
    s.start[(size_t)(s.a.n + s.a.at.fc1_w + 2)] = INFINITY;
    s.labels.push_back(5); /* an image with a label that is none */
    s.make_images(s.a.count + 1);
    s.rows[(size_t)(2 * s.a.steps * s.a.batch)] = (int32_t)s.a.count - 1;
    DeviceSet d(s);
    const Set::Result r = d.run();
    EXPECT_EQ(r.status,
              (std::vector<int32_t>{HN_CLIENT_DONE, HN_CLIENT_NONFINITE, HN_CLIENT_NONFINITE}));
}

TEST(ClientCnn, CudaRefusesWhatDoesNotFit)
{
    HN_NEED_CUDA();
    hn_client_cnn_net net = kMnist;
    net.hidden = 512;
    DeviceSet d(random_set(net, 1, 1, 2, 13));
    const hn_client_cnn_args a = d.args();
    EXPECT_HN_FAIL(hn_client_cnn_cuda(&a, nullptr), HN_ERR_UNSUPPORTED, "bytes of shared memory");
}

TEST(WeightedMean, CudaHasTheBitsOfTheTwin)
{
    HN_NEED_CUDA();
    for (const int64_t n : {1, 513, 2000, 70000})
        for (const int64_t gap : {0, 3, 4})
            for (const bool from_base : {false, true}) {
                const std::vector<float> x = normal_f32((size_t)(11 * (n + gap)), 1);
                const std::vector<float> base = normal_f32((size_t)n, 2);
                const std::vector<double> w = weights(11);
                hn_weighted_mean_args a = mean_args(x, w, n, n + gap);
                std::vector<float> twin((size_t)n);
                a.base = from_base ? base.data() : nullptr;
                a.out = twin.data();
                ASSERT_HN_OK(hn_weighted_mean_cpu(&a));
                DeviceArray<float> dx(x), db(base), out((size_t)n);
                DeviceArray<double> weight(w);
                a.x = dx.data(), a.weight = weight.data(), a.out = out.data();
                a.base = from_base ? db.data() : nullptr;
                ASSERT_HN_OK(hn_weighted_mean_cuda(&a, nullptr));
                EXPECT_TRUE(same_bits(out.host(), twin)) << n << ", gap " << gap;
                if (!from_base) continue;
                a.out = db.data();
                ASSERT_HN_OK(hn_weighted_mean_cuda(&a, nullptr));
                EXPECT_TRUE(same_bits(db.host(), twin));
            }
}
#endif

} // namespace
