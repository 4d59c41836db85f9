/* runtime/fed/server: every method against hand values or a plain version of its formula. */
#include <omp.h>

#include <algorithm>
#include <functional>

#include "fed_test.h"
#include "runtime/base/alloc.h"

namespace {

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

TEST(FedServerMoments, MomentsThatOverflowAreAnError)
{
    Layout l;
    l.add("w", {2});
    const std::vector<float> start = {0, 0};
    const Client c = {.client = 0, .samples = 1, .loss = 1, .value = {1, 1e21f}, .fisher = {}};
    for (const hn_fed_method m : {HN_FED_FEDADAGRAD, HN_FED_FEDADAM, HN_FED_FEDYOGI}) {
        const hn_fed_server_options o = hn_fed_server_defaults(m);
        Server s;
        ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
        ASSERT_HN_OK(hn_fed_server_begin(s.s, 1));
        const hn_fed_update u = c.update(1);
        ASSERT_HN_OK(hn_fed_server_add(s.s, &u));
        EXPECT_HN_FAIL(hn_fed_server_finish(s.s, nullptr), HN_ERR_NUMERIC,
                       "what the server remembers: w is inf at element 1");
    }
    hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDAVGM);
    o.rate = 1e30;
    Server s;
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, start.data(), &s.s));
    ASSERT_HN_OK(hn_fed_server_begin(s.s, 1));
    const hn_fed_update u = c.update(1);
    ASSERT_HN_OK(hn_fed_server_add(s.s, &u));
    EXPECT_HN_FAIL(hn_fed_server_finish(s.s, nullptr), HN_ERR_NUMERIC,
                   "the new global model: w is inf at element 1");
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
    /* floor(0.29 100) = 29, though 0.29 * 100 is 28.99...: 29 are huge at one end */
    std::vector<float> many(100, 1);
    std::fill(many.begin(), many.begin() + 29, 1e30f);
    EXPECT_EQ(one_sorted_round(HN_FED_TRIMMED_MEAN, 0.29, many), (std::vector<float>{1, -1}));
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

} // namespace
