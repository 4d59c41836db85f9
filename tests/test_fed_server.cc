/* runtime/fed/server: every method against hand values or a plain version of its formula. */
#include <omp.h>

#include <algorithm>
#include <functional>

#include "fed_test.h"
#include "runtime/base/alloc.h"

namespace {

struct Server {
    hn_fed_server *s = nullptr;
    Server() = default;
    Server(const Server &) = delete;
    ~Server() { hn_fed_server_free(s); }
    std::vector<float> values(const Layout &l) const
    {
        const float *v = hn_fed_server_values(s);
        return {v, v + l.n()};
    }
    std::vector<float> result(const Layout &l) const
    {
        const float *v = hn_fed_server_result(s);
        return {v, v + l.n()};
    }
};

hn_fed_round_report run_round(hn_fed_server *s, int64_t round, const std::vector<Client> &clients)
{
    hn_fed_round_report r = {};
    EXPECT_HN_OK(hn_fed_server_begin(s, round));
    for (const Client &c : clients) {
        const hn_fed_update u = c.update(round);
        EXPECT_HN_OK(hn_fed_server_add(s, &u));
    }
    EXPECT_HN_OK(hn_fed_server_finish(s, &r));
    return r;
}

/* The models after rounds 1 .. n; clients train around the model they were sent. */
std::vector<std::vector<float>> run(const Layout &l, const hn_fed_server_options &o, int rounds,
                                    int per_round = 5,
                                    std::vector<hn_fed_round_report> *reports = nullptr)
{
    Server s;
    std::vector<std::vector<float>> models;
    const auto start = random_payload(l, 1);
    EXPECT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    for (int r = 1; r <= rounds; r++) {
        const auto clients = random_clients(l, s.values(l), 9, r, per_round, o.fisher);
        const hn_fed_round_report report = run_round(s.s, r, clients);
        if (reports != nullptr) reports->push_back(report);
        models.push_back(s.values(l));
    }
    return models;
}

/* The weighted mean as a plain loop, in the order that the header promises. */
std::vector<float> plain_average(const Layout &l, const std::vector<Client> &clients)
{
    std::vector<float> a(l.n());
    for (size_t i = 0; i < a.size(); i++) {
        double sum = 0, n = 0;
        for (const Client &c : clients) {
            sum += (double)c.samples * (double)c.value[i];
            n += (double)c.samples;
        }
        a[i] = (float)(sum / n) + 0.0f;
    }
    for (int64_t t = 0; t < l.l.count; t++)
        for (int64_t j = 0; j < l.l.tensor[t].n && l.l.tensor[t].role == HN_FED_COUNTER; j++) {
            const size_t i = (size_t)(l.l.tensor[t].first + j);
            a[i] = clients[0].value[i];
            for (const Client &c : clients) a[i] = std::max(a[i], c.value[i]);
        }
    return a;
}

std::vector<hn_fed_method> all_methods()
{
    std::vector<hn_fed_method> m;
    for (int i = 0; i < HN_FED_METHOD_COUNT; i++) m.push_back((hn_fed_method)i);
    return m;
}

class EveryMethod : public testing::TestWithParam<hn_fed_method> {};
INSTANTIATE_TEST_SUITE_P(FedServer, EveryMethod, testing::ValuesIn(all_methods()),
                         [](const auto &i) {
                             std::string s = hn_fed_method_name(i.param);
                             std::replace(s.begin(), s.end(), '-', '_');
                             return s;
                         });

/* The same bits whatever the order of arrival and the number of threads. */
TEST_P(EveryMethod, NeitherOrderNorThreadsMatter)
{
    Layout l;
    fill_small(l);
    hn_fed_server_options o = hn_fed_server_defaults(GetParam());
    o.fisher = GetParam() == HN_FED_FEDREF_V3;
    std::vector<std::vector<float>> models;
    for (const int threads : {1, 2, 3, 5}) {
        Server s;
        const auto start = random_payload(l, 1);
        const int before = omp_get_max_threads();
        omp_set_num_threads(threads);
        ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
        for (int r = 1; r <= 6; r++) {
            auto clients = random_clients(l, s.values(l), 9, r, 5, o.fisher);
            std::shuffle(clients.begin(), clients.end(), std::mt19937((unsigned)(threads * r)));
            run_round(s.s, r, clients);
        }
        omp_set_num_threads(before);
        models.push_back(s.values(l));
        if (threads > 1) {
            EXPECT_TRUE(same_bits(models.back(), models[0])) << threads;
        }
    }
}

/* Buffers are averaged (or sorted), counters take the maximum, whatever values get. */
TEST_P(EveryMethod, NeverCorrectsBuffers)
{
    Layout l;
    fill_small(l);
    hn_fed_server_options o = hn_fed_server_defaults(GetParam());
    Server s;
    const auto start = random_payload(l, 1);
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    for (int r = 1; r <= 6; r++) {
        const auto clients = random_clients(l, s.values(l), 9, r);
        const auto a = plain_average(l, clients);
        run_round(s.s, r, clients);
        const auto got = s.values(l);
        EXPECT_EQ(l.part(got.data(), "bn.batches"), l.part(a.data(), "bn.batches"));
        if (GetParam() == HN_FED_MEDIAN || GetParam() == HN_FED_TRIMMED_MEAN) continue;
        EXPECT_EQ(l.part(got.data(), "bn.running_mean"), l.part(a.data(), "bn.running_mean"));
        EXPECT_EQ(l.part(got.data(), "bn.other"), l.part(a.data(), "bn.other"));
    }
}

TEST_P(EveryMethod, RefusesOptionsThatDoNothing)
{
    Layout l;
    fill_small(l);
    const auto start = random_payload(l, 1);
    const hn_fed_server_options good = hn_fed_server_defaults(GetParam());
    const unsigned uses = hn_fed_method_uses(GetParam());
    auto check = [&](unsigned bit, const char *name, hn_fed_server_options o) {
        hn_fed_server *s = nullptr;
        if (uses & bit) return;
        EXPECT_HN_FAIL(hn_fed_server_new(&l.l, &o, start.data(), &s), HN_ERR_ARG,
                       (std::string("option ") + name + " does nothing").c_str());
        EXPECT_EQ(s, nullptr);
    };
    hn_fed_server_options o = good;
    o.rate = 0.5;
    check(HN_FED_USES_RATE, "rate", o);
    o = good, o.beta1 = 0.5;
    check(HN_FED_USES_BETA1, "beta1", o);
    o = good, o.beta2 = 0.5;
    check(HN_FED_USES_BETA2, "beta2", o);
    o = good, o.tau = 0.5;
    check(HN_FED_USES_TAU, "tau", o);
    o = good, o.trim = 0.2;
    check(HN_FED_USES_TRIM, "trim", o);
    o = good, o.ema = 0.2;
    check(HN_FED_USES_EMA, "ema", o);
    o = good, o.p = 3;
    check(HN_FED_USES_REFERENCE, "p", o);
    o = good, o.lambda2 = 3;
    check(HN_FED_USES_REFERENCE, "lambda2", o);
    o = good, o.weights = HN_FED_WEIGHTS_UNIFORM;
    check(HN_FED_USES_REFERENCE, "weights", o);
    o = good, o.fisher = true;
    check(HN_FED_USES_FISHER, "fisher", o);
    o = good, o.loss_term = true;
    check(HN_FED_USES_V1, "loss_term", o);
    o = good, o.first_axis_bug = true;
    check(HN_FED_USES_V1, "first_axis_bug", o);
}

TEST_P(EveryMethod, SurvivesMemoryThatRunsOut)
{
    Layout l;
    fill_small(l);
    const hn_fed_server_options o = hn_fed_server_defaults(GetParam());
    const auto start = random_payload(l, 1);
    hn_status st = HN_ERR_MEMORY;
    uint64_t n = 1;
    for (; st != HN_OK && n < 100; n++) {
        hn_fed_server *s = nullptr;
        hn_alloc_fail_at(n);
        st = hn_fed_server_new(&l.l, &o, start.data(), &s);
        hn_alloc_fail_at(0);
        EXPECT_EQ(s == nullptr, st != HN_OK);
        hn_fed_server_free(s);
    }
    EXPECT_EQ(st, HN_OK);
    EXPECT_GT(n, 5u);
}

TEST_P(EveryMethod, MemoryIsWhatItSays)
{
    Layout l;
    fill_small(l);
    const hn_fed_server_options o = hn_fed_server_defaults(GetParam());
    const int64_t models = GetParam() == HN_FED_FEDAVGM || GetParam() == HN_FED_EMA ? 3
                           : hn_fed_method_uses(GetParam()) & HN_FED_USES_TAU       ? 4
                           : hn_fed_method_uses(GetParam()) & HN_FED_USES_REFERENCE ? 5
                                                                                    : 2;
    EXPECT_GE(hn_fed_server_bytes(&l.l, &o), models * 4 * l.l.n);
    EXPECT_LT(hn_fed_server_bytes(&l.l, &o), models * 4 * l.l.n + 1000);
}

/* ---- what arrives ---- */

TEST(FedServer, AverageIsByHand)
{
    Layout l;
    l.add("w", {2});
    l.add("mean", {1}, HN_FED_BUFFER);
    l.add("count", {1}, HN_FED_COUNTER);
    const hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDAVG);
    const std::vector<float> start = {1, 1, 1, 1};
    Server s;
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    EXPECT_EQ(s.values(l), start);
    std::vector<Client> c(2);
    c[0] = {.client = 4, .samples = 3, .loss = 2, .value = {2, -4, 8, 5}, .fisher = {}};
    c[1] = {.client = 2, .samples = 1, .loss = 6, .value = {6, 8, 0, 9}, .fisher = {}};
    const hn_fed_round_report r = run_round(s.s, 1, c);
    EXPECT_EQ(s.values(l), (std::vector<float>{3, -1, 6, 9}));
    EXPECT_EQ(r.round, 1);
    EXPECT_EQ(r.used, 2);
    EXPECT_EQ(r.rejected, 0);
    EXPECT_TRUE(r.changed);
    EXPECT_FALSE(r.corrected);
    EXPECT_EQ(r.samples, 4);
    EXPECT_EQ(r.loss, 3);
    EXPECT_EQ(r.update_norm, std::sqrt(8.0)); /* values only: (3, -1) - (1, 1) */
    EXPECT_EQ(r.correction_norm, 0);
    EXPECT_EQ(hn_fed_server_round(s.s), 1);
}

TEST(FedServer, EqualClientsChangeNothing)
{
    Layout l;
    fill_small(l);
    const hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDAVG);
    const auto start = random_payload(l, 1), same = random_payload(l, 2);
    Server s;
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    auto clients = random_clients(l, start, 9, 1, 7);
    for (Client &c : clients) c.value = same;
    run_round(s.s, 1, clients);
    EXPECT_EQ(s.values(l), same);
}

/* Named, counted, and the round goes on without it, not with zeros in its place. */
TEST(FedServer, RefusedClientsAreNamedAndLeftOut)
{
    Layout l;
    fill_small(l);
    const hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDREF_V3);
    const auto start = random_payload(l, 1);
    Server s;
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    auto clients = random_clients(l, start, 9, 2, 8);
    std::vector<Client> good(clients.begin() + 6, clients.end());
    const size_t bias = (size_t)hn_fed_layout_find(&l.l, "fc.bias")->first;
    clients[0].value[bias + 3] = NAN;
    clients[1].value[bias + 9] = -INFINITY;
    clients[2].loss = NAN;
    clients[3].samples = -5;
    clients[4].samples = (int64_t)1 << 40;
    clients[5].client = -1;
    ASSERT_HN_OK(hn_fed_server_begin(s.s, 2));
    auto refused = [&](const hn_fed_update &u, hn_status code, const char *part) {
        EXPECT_HN_FAIL(hn_fed_server_add(s.s, &u), code, part);
    };
    refused(clients[0].update(2), HN_ERR_NUMERIC,
            "update of client 1: fc.bias is nan at element 3 of 10");
    refused(clients[1].update(2), HN_ERR_NUMERIC,
            "update of client 4: fc.bias is -inf at element 9 of 10");
    refused(clients[2].update(2), HN_ERR_NUMERIC, "update of client 7: its loss is nan");
    refused(clients[3].update(2), HN_ERR_ARG, "update of client 10: n_k is -5");
    refused(clients[4].update(2), HN_ERR_ARG, "update of client 13: n_k is 1099511627776");
    refused(clients[5].update(2), HN_ERR_ARG, "update of client -1");
    refused(good[0].update(1), HN_ERR_ARG,
            "update of client 19: stale, of round 1, this is round 2");
    for (const Client &c : good) {
        const hn_fed_update u = c.update(2);
        EXPECT_HN_OK(hn_fed_server_add(s.s, &u));
    }
    refused(good[0].update(2), HN_ERR_ARG, "a second update of client 19 in round 2");
    hn_fed_update u = good[1].update(2);
    u.client = 99;
    u.fisher = u.value;
    refused(u, HN_ERR_ARG, "update of client 99: a Fisher diagonal is not wanted");
    hn_fed_server_reject(s.s);
    hn_fed_round_report r;
    ASSERT_HN_OK(hn_fed_server_finish(s.s, &r));
    EXPECT_EQ(r.used, 2);
    EXPECT_EQ(r.rejected, 10);
    EXPECT_EQ(s.values(l), plain_average(l, good));
}

TEST(FedServer, BelowTheQuorumNothingChanges)
{
    Layout l;
    fill_small(l);
    for (const hn_fed_method m : all_methods()) {
        hn_fed_server_options o = hn_fed_server_defaults(m);
        o.quorum = 3;
        const auto start = random_payload(l, 1);
        Server s, without;
        ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
        ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &without.s));
        for (int r = 1; r <= 9; r++) {
            const auto clients = random_clients(l, s.values(l), 9, r);
            if (r % 2 == 0) {
                const auto before = s.values(l), result = s.result(l);
                const hn_fed_round_report report = run_round(s.s, r, {clients[0], clients[1]});
                EXPECT_FALSE(report.changed);
                EXPECT_FALSE(report.corrected);
                EXPECT_EQ(report.used, 2);
                EXPECT_TRUE(same_bits(s.values(l), before));
                EXPECT_TRUE(same_bits(s.result(l), result));
            } else {
                EXPECT_TRUE(run_round(s.s, r, clients).changed);
                EXPECT_TRUE(run_round(without.s, r, clients).changed);
            }
            EXPECT_EQ(hn_fed_server_round(s.s), r);
        }
        /* the skipped rounds have left no trace */
        EXPECT_TRUE(same_bits(s.values(l), without.values(l))) << hn_fed_method_name(m);
        EXPECT_TRUE(same_bits(s.result(l), without.result(l)));
    }
}

TEST(FedServer, RoundsRise)
{
    Layout l;
    fill_small(l);
    const hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDAVG);
    const auto start = random_payload(l, 1);
    Server s;
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    EXPECT_HN_FAIL(hn_fed_server_begin(s.s, 0), HN_ERR_ARG, "round 0 after round 0");
    EXPECT_HN_FAIL(hn_fed_server_finish(s.s, nullptr), HN_ERR_ARG, "not begun");
    run_round(s.s, 4, random_clients(l, start, 9, 4));
    EXPECT_HN_FAIL(hn_fed_server_begin(s.s, 4), HN_ERR_ARG, "round 4 after round 4");
    EXPECT_HN_FAIL(hn_fed_server_finish(s.s, nullptr), HN_ERR_ARG, "not begun");
    /* a round that is begun again forgets what it was given */
    const auto clients = random_clients(l, start, 9, 5);
    const hn_fed_update u = clients[0].update(5);
    ASSERT_HN_OK(hn_fed_server_begin(s.s, 5));
    ASSERT_HN_OK(hn_fed_server_add(s.s, &u));
    run_round(s.s, 5, {clients[1], clients[2]});
    EXPECT_EQ(s.values(l), plain_average(l, {clients[1], clients[2]}));
}

TEST(FedServer, RefusesOptionsOutOfRange)
{
    Layout l, empty;
    fill_small(l);
    auto start = random_payload(l, 1);
    hn_fed_server *s = nullptr;
    auto refused = [&](hn_fed_method m, const std::function<void(hn_fed_server_options &)> &change,
                       const char *part) {
        hn_fed_server_options o = hn_fed_server_defaults(m);
        change(o);
        EXPECT_HN_FAIL(hn_fed_server_new(&l.l, &o, start.data(), &s), HN_ERR_ARG, part);
    };
    refused(
        HN_FED_FEDAVG, [](auto &o) { o.quorum = 0; }, "option quorum is 0: 1 to");
    refused(
        HN_FED_FEDADAM, [](auto &o) { o.rate = 0; }, "option rate is 0: above 0");
    refused(
        HN_FED_FEDADAM, [](auto &o) { o.beta1 = 1; }, "option beta1 is 1");
    refused(
        HN_FED_FEDYOGI, [](auto &o) { o.beta2 = -0.1; }, "option beta2 is -0.1");
    refused(
        HN_FED_FEDADAM, [](auto &o) { o.tau = 0; }, "option tau is 0");
    refused(
        HN_FED_TRIMMED_MEAN, [](auto &o) { o.trim = 0.5; }, "option trim is 0.5");
    refused(
        HN_FED_EMA, [](auto &o) { o.ema = 1; }, "option ema is 1");
    refused(
        HN_FED_FEDREF_V3, [](auto &o) { o.p = 0; }, "option p is 0: 1 to 64");
    refused(
        HN_FED_FEDREF_V3, [](auto &o) { o.p = 65; }, "option p is 65");
    refused(
        HN_FED_FEDREF_V3, [](auto &o) { o.lambda1 = -1; }, "option lambda1 is -1");
    refused(
        HN_FED_FEDREF_V3, [](auto &o) { o.lambda2 = NAN; }, "option lambda2 is nan");
    refused(
        HN_FED_FEDREF_V3, [](auto &o) { o.lambda1 = INFINITY; }, "option lambda1 is inf");
    refused(
        HN_FED_FEDREF_V3, [](auto &o) { o.growth = 0.5; }, "option growth is 0.5");
    refused(
        HN_FED_FEDREF_V3, [](auto &o) { o.every = 0; }, "option every is 0");
    refused(
        HN_FED_FEDREF_V3, [](auto &o) { o.lambda2 = 0.4; }, "lambda2 is 0.4, above its cap 0.3");
    refused(
        HN_FED_FEDREF_V2, [](auto &o) { o.weights = HN_FED_WEIGHTS_SLOT; }, "weights by slot");
    refused(
        HN_FED_FEDAVG, [](auto &o) { o.method = HN_FED_METHOD_COUNT; }, "there is no method");
    const hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDAVG);
    EXPECT_HN_FAIL(hn_fed_server_new(&empty.l, &o, start.data(), &s), HN_ERR_ARG,
                   "without tensors");
    start[7] = NAN;
    EXPECT_HN_FAIL(hn_fed_server_new(&l.l, &o, start.data(), &s), HN_ERR_NUMERIC,
                   "the first global model: conv.weight is nan at element 7");
    EXPECT_EQ(s, nullptr);
}

/* ---- moments ---- */

/* One value, m = 1, a = 3 then (from wherever it went) a = 0: written out with the formulas. */
std::vector<double> two_steps(hn_fed_server_options o)
{
    Layout l;
    l.add("w", {1});
    const std::vector<float> start = {1};
    Server s;
    EXPECT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    std::vector<double> w;
    for (int r = 1; r <= 2; r++) {
        const Client c = {
            .client = 0, .samples = 7, .loss = 1, .value = {r == 1 ? 3.0f : 0.0f}, .fisher = {}};
        EXPECT_TRUE(run_round(s.s, r, {c}).corrected);
        w.push_back((double)hn_fed_server_values(s.s)[0]);
    }
    return w;
}

TEST(FedServerMoments, FedAvgMIsByHand)
{
    hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDAVGM);
    EXPECT_EQ(o.rate, 1);
    EXPECT_EQ(o.beta1, 0.9);
    o.beta1 = 0.5;
    o.rate = 0.25;
    /* v = -2, w = 1.5; v = -1 + 1.5 = 0.5, w = 1.5 - 0.125 */
    EXPECT_EQ(two_steps(o), (std::vector<double>{1.5, 1.375}));
}

TEST(FedServerMoments, AdaptiveMethodsAreByHand)
{
    for (const hn_fed_method m : {HN_FED_FEDADAGRAD, HN_FED_FEDADAM, HN_FED_FEDYOGI}) {
        hn_fed_server_options o = hn_fed_server_defaults(m);
        EXPECT_EQ(o.rate, 0.01);
        EXPECT_EQ(o.tau, 1e-4);
        EXPECT_EQ(o.beta1, m == HN_FED_FEDADAGRAD ? 0 : 0.9);
        EXPECT_EQ(o.beta2, m == HN_FED_FEDADAGRAD ? 0 : 0.99);
        o.rate = 0.5;
        o.tau = 0.125;
        o.beta1 = 0.75;
        if (m != HN_FED_FEDADAGRAD) o.beta2 = 0.5;
        double w = 1, u = 0, v = 1.0 / 64; /* v begins as tau^2 */
        std::vector<double> wanted;
        for (const double a : {3.0, 0.0}) {
            const double d = a - w;
            u = 0.75 * u + 0.25 * d;
            if (m == HN_FED_FEDADAGRAD) v = v + d * d;
            if (m == HN_FED_FEDADAM) v = 0.5 * v + 0.5 * d * d;
            if (m == HN_FED_FEDYOGI) v = v - 0.5 * d * d * (v > d * d ? 1 : -1);
            w += 0.5 * u / (std::sqrt(v) + 0.125);
            wanted.push_back(w);
        }
        const auto got = two_steps(o);
        EXPECT_NEAR(got[0], wanted[0], 1e-7) << hn_fed_method_name(m);
        EXPECT_NEAR(got[1], wanted[1], 3e-7) << hn_fed_method_name(m); /* w and moments in fp32 */
    }
    /* the first step of FedAdam with its defaults, in numbers: u 0.2, v 0.04 + 9.9e-9 */
    EXPECT_NEAR(two_steps(hn_fed_server_defaults(HN_FED_FEDADAM))[0],
                1 + 0.01 * 0.2 / (0.2000000248 + 1e-4), 1e-7);
}

/* The released FedOpt is FedAvg (spec section 4); ours must not be. */
TEST(FedServerMoments, DifferFromFedAvgAfterOneRound)
{
    Layout l;
    fill_small(l);
    const auto average = run(l, hn_fed_server_defaults(HN_FED_FEDAVG), 1)[0];
    for (const hn_fed_method m : {HN_FED_FEDADAGRAD, HN_FED_FEDADAM, HN_FED_FEDYOGI}) {
        const auto got = run(l, hn_fed_server_defaults(m), 1)[0];
        EXPECT_GT(rel_l2(got, average), 1e-3) << hn_fed_method_name(m);
    }
    /* FedAvgM's first step is FedAvg's; the second is not */
    const auto a = run(l, hn_fed_server_defaults(HN_FED_FEDAVG), 2);
    const auto b = run(l, hn_fed_server_defaults(HN_FED_FEDAVGM), 2);
    EXPECT_LT(rel_l2(b[0], a[0]), 1e-6);
    EXPECT_GT(rel_l2(b[1], a[1]), 1e-3);
}

TEST(FedServer, ProxIsAverageOnTheServer)
{
    Layout l;
    fill_small(l);
    EXPECT_TRUE(same_bits(run(l, hn_fed_server_defaults(HN_FED_FEDPROX), 3)[2],
                          run(l, hn_fed_server_defaults(HN_FED_FEDAVG), 3)[2]));
}

TEST(FedServer, EmaIsBesideWhatClientsGet)
{
    Layout l;
    fill_small(l);
    hn_fed_server_options o = hn_fed_server_defaults(HN_FED_EMA);
    o.ema = 0.75;
    const auto start = random_payload(l, 1);
    const hn_fed_tensor *count = hn_fed_layout_find(&l.l, "bn.batches");
    Server s;
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    EXPECT_EQ(s.result(l), start);
    std::vector<float> e;
    for (int r = 1; r <= 4; r++) {
        const auto clients = random_clients(l, s.values(l), 9, r);
        const auto a = plain_average(l, clients);
        EXPECT_FALSE(run_round(s.s, r, clients).corrected);
        EXPECT_TRUE(same_bits(s.values(l), a));
        if (r == 1) e = a;
        for (size_t i = 0; r > 1 && i < e.size(); i++)
            e[i] = (float)(0.75 * (double)e[i] + 0.25 * (double)a[i]);
        e[(size_t)count->first] = a[(size_t)count->first];
        EXPECT_TRUE(same_bits(s.result(l), e));
    }
}

/* ---- sorted ---- */

std::vector<float> one_sorted_round(hn_fed_method m, double trim, std::vector<float> values)
{
    Layout l;
    l.add("w", {1});
    l.add("mean", {1}, HN_FED_BUFFER);
    hn_fed_server_options o = hn_fed_server_defaults(m);
    if (m == HN_FED_TRIMMED_MEAN) o.trim = trim;
    const std::vector<float> start = {0, 0};
    Server s;
    EXPECT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    std::vector<Client> c(values.size());
    for (size_t k = 0; k < c.size(); k++) {
        c[k].client = (int64_t)k;
        c[k].samples = 1 + (int64_t)(k * k); /* does not count */
        c[k].value = {values[k], -values[k]};
    }
    EXPECT_TRUE(run_round(s.s, 1, c).corrected);
    return s.values(l);
}

TEST(FedServerSorted, MedianIsByHand)
{
    EXPECT_EQ(one_sorted_round(HN_FED_MEDIAN, 0, {5}), (std::vector<float>{5, -5}));
    EXPECT_EQ(one_sorted_round(HN_FED_MEDIAN, 0, {9, 1}), (std::vector<float>{5, -5}));
    EXPECT_EQ(one_sorted_round(HN_FED_MEDIAN, 0, {1e30f, 2, 1}), (std::vector<float>{2, -2}));
    EXPECT_EQ(one_sorted_round(HN_FED_MEDIAN, 0, {7, -1e30f, 1, 4}),
              (std::vector<float>{2.5, -2.5}));
}

TEST(FedServerSorted, TrimmedMeanIsByHand)
{
    const std::vector<float> v = {3, 1e30f, 1, 2, -1e30f, 6};
    /* floor(0.2 6) = 1 at either end: (1 + 2 + 3 + 6) / 4 */
    EXPECT_EQ(one_sorted_round(HN_FED_TRIMMED_MEAN, 0.2, v), (std::vector<float>{3, -3}));
    /* floor(0.4 6) = 2: (2 + 3) / 2 */
    EXPECT_EQ(one_sorted_round(HN_FED_TRIMMED_MEAN, 0.4, v), (std::vector<float>{2.5, -2.5}));
    /* floor(0.1 6) = 0: the plain mean, without weights */
    EXPECT_EQ(one_sorted_round(HN_FED_TRIMMED_MEAN, 0.1, {1, 2, 6}), (std::vector<float>{3, -3}));
}

TEST(FedServerSorted, MatchesStdSort)
{
    Layout l;
    fill_small(l);
    for (const int clients : {1, 2, 3, 10, 33}) {
        const auto start = random_payload(l, 1);
        const auto c = random_clients(l, start, 9, 1, clients);
        const hn_fed_server_options o = hn_fed_server_defaults(HN_FED_MEDIAN);
        Server s;
        ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
        run_round(s.s, 1, c);
        const auto got = s.values(l);
        const size_t count = (size_t)hn_fed_layout_find(&l.l, "bn.batches")->first;
        for (size_t i = 0; i < l.n(); i++) {
            std::vector<double> v;
            for (const Client &k : c) v.push_back((double)k.value[i]);
            std::sort(v.begin(), v.end());
            const size_t h = v.size() / 2;
            const float wanted = (float)(v.size() % 2 ? v[h] : (v[h - 1] + v[h]) / 2);
            ASSERT_EQ(got[i], i == count ? (float)v.back() : wanted) << clients << " " << i;
        }
    }
}

/* ---- FedRef ---- */

hn_fed_server_options no_lambda(hn_fed_method m)
{
    hn_fed_server_options o = hn_fed_server_defaults(m);
    o.lambda1 = o.lambda2 = 0;
    o.loss_term = false;
    return o;
}

TEST(FedRef, LambdaZeroIsFedAvgBitForBit)
{
    Layout l;
    fill_small(l);
    const auto wanted = run(l, hn_fed_server_defaults(HN_FED_FEDAVG), 9);
    for (const hn_fed_method m : {HN_FED_FEDREF_V1, HN_FED_FEDREF_V2, HN_FED_FEDREF_V3}) {
        std::vector<hn_fed_round_report> reports;
        const auto got = run(l, no_lambda(m), 9, 5, &reports);
        for (size_t r = 0; r < 9; r++) {
            EXPECT_TRUE(same_bits(got[r], wanted[r])) << hn_fed_method_name(m) << " " << r + 1;
            EXPECT_EQ(reports[r].corrected, r + 1 > (m == HN_FED_FEDREF_V1 ? 4u : 3u));
            EXPECT_EQ(reports[r].correction_norm, 0);
        }
    }
}

/* Sums that round to -0, where a + 0 b would have another sign bit. */
TEST(FedRef, LambdaZeroIsFedAvgAtMinusZero)
{
    Layout l;
    l.add("w", {2});
    for (const hn_fed_method m : {HN_FED_FEDREF_V1, HN_FED_FEDREF_V2, HN_FED_FEDREF_V3}) {
        const hn_fed_server_options o = no_lambda(m), plain = hn_fed_server_defaults(HN_FED_FEDAVG);
        const std::vector<float> start = {-1, 1};
        Server s, average;
        ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
        ASSERT_HN_OK(hn_fed_server_new(&l.l, &plain, start.data(), &average.s));
        for (int r = 1; r <= 6; r++) {
            const Client c = {.client = 0,
                              .samples = 1,
                              .loss = 1,
                              .value = {-0.0f, r % 2 ? 1e-45f : -1e-45f},
                              .fisher = {}};
            const Client d = {
                .client = 1, .samples = 1, .loss = 1, .value = {-0.0f, 0.0f}, .fisher = {}};
            run_round(s.s, r, {c, d});
            run_round(average.s, r, {c, d});
            EXPECT_TRUE(same_bits(s.values(l), average.values(l)));
        }
    }
}

/* Aggregates in a plain list, and references as the spec writes them; 4p rounds, so that the ring
 * goes round. */
class Naive {
    hn_fed_server_options o_;

  public:
    std::vector<std::vector<float>> list; /* aggregates, oldest first */
    explicit Naive(const hn_fed_server_options &o) : o_(o) {}
    /* Of the p aggregates before number `end`. */
    std::vector<double> reference(size_t end) const
    {
        const size_t p = (size_t)o_.p;
        std::vector<double> r(list[0].size(), 0);
        double sum = 0;
        for (size_t j = 0; j < p; j++) {
            const double c = o_.weights == HN_FED_WEIGHTS_AGE    ? (double)(j + 1)
                             : o_.weights == HN_FED_WEIGHTS_SLOT ? (double)((end - p + j) % p + 1)
                                                                 : 1;
            sum += c;
            for (size_t i = 0; i < r.size(); i++) r[i] += c * (double)list[end - p + j][i];
        }
        for (double &x : r) x /= sum;
        return r;
    }
    double newest_weight() const
    {
        const double p = (double)o_.p;
        return o_.weights == HN_FED_WEIGHTS_AGE ? 2 / (p + 1) : 1 / p;
    }
};

void expect_close(const std::vector<float> &got, const std::vector<double> &wanted, const Layout &l)
{
    for (int64_t t = 0; t < l.l.count; t++)
        for (int64_t j = 0; j < l.l.tensor[t].n && l.l.tensor[t].role == HN_FED_VALUE; j++) {
            const size_t i = (size_t)(l.l.tensor[t].first + j);
            ASSERT_NEAR((double)got[i], wanted[i], 1.2e-7 * std::fabs(wanted[i]) + 1e-12)
                << l.l.tensor[t].name << " " << j; /* one rounding to fp32 */
        }
}

struct RefCase {
    hn_fed_method method;
    hn_fed_weights weights;
    int64_t p;
};
class FedRefList : public testing::TestWithParam<RefCase> {};
INSTANTIATE_TEST_SUITE_P(FedRef, FedRefList,
                         testing::Values(RefCase{HN_FED_FEDREF_V3, HN_FED_WEIGHTS_AGE, 3},
                                         RefCase{HN_FED_FEDREF_V3, HN_FED_WEIGHTS_UNIFORM, 5},
                                         RefCase{HN_FED_FEDREF_V3, HN_FED_WEIGHTS_AGE, 1},
                                         RefCase{HN_FED_FEDREF_V2, HN_FED_WEIGHTS_AGE, 3},
                                         RefCase{HN_FED_FEDREF_V2, HN_FED_WEIGHTS_UNIFORM, 2},
                                         RefCase{HN_FED_FEDREF_V2, HN_FED_WEIGHTS_AGE, 1}));

TEST_P(FedRefList, MatchesANaiveList)
{
    Layout l;
    fill_small(l);
    hn_fed_server_options o = hn_fed_server_defaults(GetParam().method);
    o.p = GetParam().p;
    o.weights = GetParam().weights;
    o.lambda1 = 0.25;
    o.lambda2 = 0.05;
    o.growth = 2;
    o.every = 4;
    if (o.method == HN_FED_FEDREF_V2) o.rate = 0.5;
    Naive naive(o);
    const auto start = random_payload(l, 1);
    Server s;
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    const size_t p = (size_t)o.p;
    for (int r = 1; r <= 4 * (int)p + 2; r++) {
        const auto m = s.values(l);
        const auto clients = random_clients(l, m, 9, r);
        const auto a = plain_average(l, clients);
        const size_t had = naive.list.size();
        naive.list.push_back(a);
        const hn_fed_round_report report = run_round(s.s, r, clients);
        const double l1 = o.lambda1, l2 = std::min(0.3, 0.05 * std::pow(2, r / 4));
        EXPECT_EQ(report.lambda2, l2);
        EXPECT_EQ(report.corrected, had >= p);
        if (had < p) {
            EXPECT_TRUE(same_bits(s.values(l), a));
            continue;
        }
        const auto before = naive.reference(had), now = naive.reference(had + 1);
        std::vector<double> wanted(l.n());
        for (size_t i = 0; i < wanted.size(); i++) {
            const double x = (double)a[i];
            if (o.method == HN_FED_FEDREF_V3)
                wanted[i] = (x + l1 * (double)m[i] + l2 * before[i]) / (1 + l1 + l2);
            else
                wanted[i] = x - 2 * 0.5 *
                                    (l1 * (x - (double)naive.list[had - 1][i]) +
                                     l2 * naive.newest_weight() * (now[i] - before[i]));
        }
        expect_close(s.values(l), wanted, l);
    }
}

TEST(FedRef, ScheduleOfLambda2)
{
    hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDREF_V3);
    EXPECT_EQ(hn_fed_server_lambda2(&o, 1), 0.01);
    EXPECT_EQ(hn_fed_server_lambda2(&o, 9), 0.01);
    EXPECT_EQ(hn_fed_server_lambda2(&o, 10), 0.1);
    EXPECT_EQ(hn_fed_server_lambda2(&o, 19), 0.1);
    EXPECT_EQ(hn_fed_server_lambda2(&o, 20), 0.3);
    EXPECT_EQ(hn_fed_server_lambda2(&o, INT64_MAX), 0.3);
    o.growth = 1;
    o.lambda2 = 5;
    EXPECT_EQ(hn_fed_server_lambda2(&o, 1000), 5);
    o = hn_fed_server_defaults(HN_FED_FEDREF_V1); /* 1e-6 tenfold up to 0.005 */
    EXPECT_NEAR(hn_fed_server_lambda2(&o, 30), 1e-3, 1e-18);
    EXPECT_EQ(hn_fed_server_lambda2(&o, 40), 0.005);
    o = hn_fed_server_defaults(HN_FED_FEDAVG);
    EXPECT_EQ(hn_fed_server_lambda2(&o, 10), 0);
}

/* lambda2 -> infinity: R_old, and with p = 1 that is the last aggregate; lambda1 -> infinity: m. */
TEST(FedRefV3, LimitsAreThePriors)
{
    Layout l;
    fill_small(l);
    hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDREF_V3);
    o.growth = 1;
    o.p = 1;
    o.lambda2 = 1e30;
    Server s;
    const auto start = random_payload(l, 1);
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    const auto first = random_clients(l, start, 9, 1);
    const auto a1 = plain_average(l, first);
    run_round(s.s, 1, first);
    for (int r = 2; r <= 4; r++) {
        const auto clients = random_clients(l, s.values(l), 9, r);
        const auto last = r == 2 ? a1 : std::vector<float>();
        run_round(s.s, r, clients);
        if (r == 2) {
            EXPECT_EQ(l.part(hn_fed_server_values(s.s), "fc.weight"),
                      l.part(last.data(), "fc.weight"));
        }
    }
    o.lambda2 = 0;
    o.lambda1 = 1e30;
    const auto models = run(l, o, 4);
    EXPECT_EQ(l.part(models[3].data(), "fc.weight"), l.part(models[0].data(), "fc.weight"));
}

/* theta minimises 1/2 |theta - a|^2 + lambda1/2 |theta - m|^2 + lambda2/2 |theta - R_old|^2. */
TEST(FedRefV3, GradientAtItsOutputIsZero)
{
    Layout l;
    fill_small(l);
    hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDREF_V3);
    o.lambda1 = 0.4;
    o.lambda2 = 0.3;
    Naive naive(o);
    const auto start = random_payload(l, 1);
    Server s;
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    for (int r = 1; r <= 5; r++) {
        const auto m = s.values(l);
        const auto clients = random_clients(l, m, 9, r);
        const auto a = plain_average(l, clients);
        run_round(s.s, r, clients);
        naive.list.push_back(a);
        if (r < 4) continue;
        const auto ref = naive.reference((size_t)r - 1);
        const auto theta = s.values(l);
        const hn_fed_tensor *t = hn_fed_layout_find(&l.l, "fc.weight");
        for (int64_t j = t->first; j < t->first + t->n; j++) {
            const size_t i = (size_t)j;
            const double x = (double)theta[i];
            const double g = (x - (double)a[i]) + 0.4 * (x - (double)m[i]) + 0.3 * (x - ref[i]);
            ASSERT_NEAR(g, 0, 1.7 * 6e-8 * std::fabs(x) + 1e-12); /* theta is rounded to fp32 */
        }
    }
}

TEST(FedRefV3, FisherWeighsEveryElement)
{
    Layout l;
    fill_small(l);
    hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDREF_V3);
    o.fisher = true;
    o.lambda1 = 0.125;
    o.lambda2 = 0.25;
    Naive naive(o);
    const auto start = random_payload(l, 1);
    Server s;
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    for (int r = 1; r <= 5; r++) {
        const auto m = s.values(l);
        auto clients = random_clients(l, m, 9, r, 5, true);
        for (Client &c : clients) c.fisher[0] = c.fisher[5] = 0; /* nobody has curvature there */
        const auto a = plain_average(l, clients);
        EXPECT_TRUE(run_round(s.s, r, clients).corrected);
        const size_t had = naive.list.size();
        naive.list.push_back(a);
        const auto ref = had < 3 ? std::vector<double>(l.n(), 0) : naive.reference(had);
        const double l1 = had < 3 ? 0 : 0.125, l2 = had < 3 ? 0 : 0.25;
        std::vector<double> wanted(l.n());
        for (int64_t t = 0; t < l.l.count; t++)
            for (int64_t j = 0; j < l.l.tensor[t].n && l.l.tensor[t].value >= 0; j++) {
                const size_t i = (size_t)(l.l.tensor[t].first + j);
                double n = 0, top = 0, bottom = l1 + l2;
                for (const Client &c : clients) n += (double)c.samples;
                for (const Client &c : clients) {
                    const double h =
                        (double)c.fisher[(size_t)(l.l.tensor[t].value + j)] * (double)c.samples / n;
                    top += h * (double)c.value[i];
                    bottom += h;
                }
                top += l1 * (double)m[i] + l2 * ref[i];
                wanted[i] = bottom > 0 ? top / bottom : (double)a[i];
            }
        expect_close(s.values(l), wanted, l);
    }
    auto clients = random_clients(l, start, 9, 6, 3, true);
    clients[0].fisher[8 * 27 + 17] = -1;
    clients[1].fisher.clear();
    clients[2].fisher[3] = INFINITY;
    ASSERT_HN_OK(hn_fed_server_begin(s.s, 6));
    const hn_fed_update u[] = {clients[0].update(6), clients[1].update(6), clients[2].update(6)};
    EXPECT_HN_FAIL(hn_fed_server_add(s.s, &u[0]), HN_ERR_NUMERIC,
                   "update of client 1: Fisher diagonal of fc.weight is -1 at element 17");
    EXPECT_HN_FAIL(hn_fed_server_add(s.s, &u[1]), HN_ERR_ARG,
                   "update of client 4: a Fisher diagonal is missing");
    EXPECT_HN_FAIL(hn_fed_server_add(s.s, &u[2]), HN_ERR_NUMERIC, "conv.weight is inf");
}

/* Two tensors, p = 2, four rounds of one client: everything in small whole numbers. */
class FedRefV1 : public testing::Test {
  public:
    Layout l;
    Server s;
    hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDREF_V1);
    /* W [2, 2] and b [2] */
    const std::vector<std::vector<float>> aggregates = {
        {1, 2, 3, 4, 1, 1}, {2, 2, 2, 2, 4, 7}, {3, 3, 3, 3, 1, 3}, {3, 7, 3, 3, 1, 6}};
    const std::vector<float> losses = {5, 4, 3.5, 3};

    FedRefV1()
    {
        l.add("W", {2, 2});
        l.add("b", {2});
        o.p = 2;
        o.rate = 0.5;
        o.lambda1 = 2;
        o.lambda2 = 0.25;
        o.cap = 0.25;
    }
    /* The model after the four rounds; the first three are the aggregates themselves. */
    std::vector<float> four_rounds()
    {
        const std::vector<float> start(6, 0);
        EXPECT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
        for (int r = 1; r <= 4; r++) {
            Client c;
            c.loss = losses[(size_t)r - 1];
            c.value = aggregates[(size_t)r - 1];
            const hn_fed_round_report report = run_round(s.s, r, {c});
            EXPECT_EQ(report.corrected, r == 4); /* p + 2 */
            if (r < 4) {
                EXPECT_EQ(s.values(l), aggregates[(size_t)r - 1]);
            }
        }
        return s.values(l);
    }
    /* a - rate (dF + 2 |a - a_prev| + 0.25 drift), one number a tensor */
    void expect(const std::vector<float> &got, double d_loss, double drift_w, double drift_b)
    {
        const auto &a = aggregates[3];
        const double w = 0.5 * (d_loss + 2 * 4 + 0.25 * drift_w); /* |(0, 4, 0, 0)| */
        const double b = 0.5 * (d_loss + 2 * 3 + 0.25 * drift_b); /* |(0, 3)| */
        for (size_t i = 0; i < 6; i++)
            EXPECT_FLOAT_EQ(got[i], (float)((double)a[i] - (i < 4 ? w : b))) << i;
    }
};

/* Slots: aggregate i (from 0) in slot i mod 2 with weights 1, 2. Before round 4 slot 0 holds the
 * third, slot 1 the second: R_prev = (A3 + 2 A2) / 3; after it R = (A3 + 2 A4) / 3.
 *   W: R_prev = (7, 7, 7, 7)/3, R = (9, 17, 9, 9)/3; b: R_prev = (9, 17)/3, R = (3, 15)/3
 * The bug sums R_prev over its first axis: (14, 14)/3 for both rows of W, 26/3 for both of b. */
TEST_F(FedRefV1, IsTheReleasedCode)
{
    const auto got = four_rounds();
    const double w[] = {9 - 14, 17 - 14, 9 - 14, 9 - 14}, b[] = {3 - 26, 15 - 26};
    double drift_w = 0, drift_b = 0;
    for (const double x : w) drift_w += x * x / 9;
    for (const double x : b) drift_b += x * x / 9;
    expect(got, -0.5, std::sqrt(drift_w), std::sqrt(drift_b));
}

TEST_F(FedRefV1, WithoutTheBroadcastBug)
{
    o.first_axis_bug = false;
    const auto got = four_rounds();
    const double drift_w = std::sqrt((2. * 2 + 10. * 10 + 2. * 2 + 2. * 2) / 9);
    const double drift_b = std::sqrt((6. * 6 + 2. * 2) / 9);
    expect(got, -0.5, drift_w, drift_b);
}

/* Age: R_prev = (A2 + 2 A3) / 3 = (8 8 8 8 | 6 13)/3, R = (A3 + 2 A4) / 3 as above. */
TEST_F(FedRefV1, WithWeightsByAgeAndNoLoss)
{
    o.first_axis_bug = o.loss_term = false;
    o.weights = HN_FED_WEIGHTS_AGE;
    const auto got = four_rounds();
    expect(got, 0, std::sqrt((1. + 81 + 1 + 1) / 9), std::sqrt((9. + 4) / 9));
}

/* dF is the change of the mean over clients, without weights. */
TEST_F(FedRefV1, LossTermIsTheChangeOfTheMean)
{
    o.lambda1 = o.lambda2 = 0;
    const std::vector<float> start(6, 0);
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    for (int r = 1; r <= 4; r++) {
        std::vector<Client> c(2);
        for (int k = 0; k < 2; k++) {
            c[(size_t)k].client = k;
            c[(size_t)k].samples = 1 + 8 * k;
            c[(size_t)k].loss = (float)(r * r + k);
            c[(size_t)k].value = std::vector<float>(6, 1);
        }
        run_round(s.s, r, c);
    }
    for (const float x : s.values(l)) EXPECT_EQ(x, 1 - 0.5f * 7); /* 16.5 - 9.5 */
}

TEST(FedRefV1Default, MovesWeightsByTheAuthorsRates)
{
    Layout l;
    fill_small(l);
    std::vector<hn_fed_round_report> reports;
    run(l, hn_fed_server_defaults(HN_FED_FEDREF_V1), 5, 5, &reports);
    /* the spec's size of the released correction: numerically FedAvg */
    EXPECT_GT(reports[4].correction_norm, 0);
    EXPECT_LT(reports[4].correction_norm / reports[4].update_norm, 1e-3);
}

} // namespace
