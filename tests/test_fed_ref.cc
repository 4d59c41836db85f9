/* FedRef on the server: the three variants against plain lists, limits and numbers by hand. */
#include <algorithm>

#include "fed_test.h"

namespace {

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
