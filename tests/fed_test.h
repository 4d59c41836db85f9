/* fed_test.h - what the tests of runtime/fed share: a small layout, random clients. */
#ifndef HN_FED_TEST_H
#define HN_FED_TEST_H
#include <algorithm>

#include "hn_test.h"
#include "runtime/fed/hn_fed.h"

struct Layout {
    hn_fed_layout l = {};
    Layout() = default;
    Layout(const Layout &) = delete;
    ~Layout() { hn_fed_layout_free(&l); }
    void add(const char *name, std::vector<int64_t> dim, hn_fed_role role = HN_FED_VALUE)
    {
        EXPECT_HN_OK(hn_fed_layout_add(&l, name, (int)dim.size(), dim.data(), role));
    }
    size_t n() const { return (size_t)l.n; }
    size_t values() const { return (size_t)l.values; }
    /* A tensor's part of a payload. */
    std::vector<float> part(const float *payload, const char *name) const
    {
        const hn_fed_tensor *t = hn_fed_layout_find(&l, name);
        EXPECT_NE(t, nullptr) << name;
        return {payload + t->first, payload + t->first + t->n};
    }
};

/* Every role, a tensor longer than a chunk of the server, one of a single element; 5237 elements,
 * 5227 values. */
inline void fill_small(Layout &l)
{
    l.add("conv.weight", {8, 3, 3, 3});
    l.add("bn.running_mean", {8}, HN_FED_BUFFER);
    l.add("bn.batches", {}, HN_FED_COUNTER);
    l.add("fc.weight", {10, 500});
    l.add("scale", {});
    l.add("fc.bias", {10});
    l.add("bn.other", {1}, HN_FED_BUFFER);
}

/* Normal values of that deviation around `center` (0 where it is empty); counters are whole. */
inline std::vector<float> random_payload(const Layout &l, unsigned seed, float deviation = 1,
                                         const std::vector<float> &center = {})
{
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0, deviation);
    std::vector<float> v(l.n());
    for (size_t i = 0; i < v.size(); i++) v[i] = normal(rng) + (center.empty() ? 0 : center[i]);
    for (int64_t i = 0; i < l.l.count; i++)
        for (int64_t j = 0; j < l.l.tensor[i].n && l.l.tensor[i].role == HN_FED_COUNTER; j++)
            v[(size_t)(l.l.tensor[i].first + j)] = (float)(rng() % 1000);
    return v;
}

/* One client's update of a round, with its memory. */
struct Client {
    int64_t client = 0, samples = 1;
    float loss = 1;
    std::vector<float> value, fisher;
    hn_fed_update update(int64_t round) const
    {
        return {.client = client,
                .round = round,
                .samples = samples,
                .loss = loss,
                .value = value.data(),
                .fisher = fisher.empty() ? nullptr : fisher.data()};
    }
};

/* K clients around a model: a function of (seed, round). */
inline std::vector<Client> random_clients(const Layout &l, const std::vector<float> &model,
                                          unsigned seed, int64_t round, int count = 5,
                                          bool fisher = false)
{
    std::vector<Client> c((size_t)count);
    for (int k = 0; k < count; k++) {
        const unsigned s = seed * 1000003u + (unsigned)round * 101u + (unsigned)k;
        Client &x = c[(size_t)k];
        x.client = 3 * k + 1;
        x.samples = 50 + (int64_t)(s * 2654435761u % 300);
        x.loss = 1.0f / (float)round + 0.01f * (float)k;
        x.value = random_payload(l, s, 0.1f, model);
        if (!fisher) continue;
        x.fisher = random_payload(l, s + 7);
        x.fisher.resize(l.values());
        for (float &h : x.fisher) h = h * h;
    }
    return c;
}

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

inline hn_fed_round_report run_round(hn_fed_server *s, int64_t round,
                                     const std::vector<Client> &clients)
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
inline std::vector<std::vector<float>> run(const Layout &l, const hn_fed_server_options &o,
                                           int rounds, int per_round = 5,
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
inline std::vector<float> plain_average(const Layout &l, const std::vector<Client> &clients)
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
#endif
