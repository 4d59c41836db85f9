/* Collectives of devices over ranks: hand values, in place and replica by replica, the same bits on
 * all ranks; what is refused. On the CPU, and on GPUs where there are enough. */
#include "ranks_test.h"

namespace {

/* A vector in a device's memory. */
class Memory {
    hn_device *d_;
    size_t n_;

  public:
    float *data = nullptr;
    Memory(hn_device *d, const std::vector<float> &v) : d_(d), n_(v.size())
    {
        void *p = nullptr;
        EXPECT_HN_OK(hn_device_alloc(d, n_ * sizeof(float), &p));
        data = (float *)p;
        EXPECT_HN_OK(hn_device_write(d, data, v.data(), n_ * sizeof(float)));
    }
    ~Memory() { hn_device_release(d_, data); }
    Memory(const Memory &) = delete;
    std::vector<float> get() const
    {
        std::vector<float> v(n_);
        EXPECT_HN_OK(hn_device_read(d_, v.data(), data, n_ * sizeof(float)));
        return v;
    }
};

/* A rank's device with its collectives. */
struct Joined {
    hn_device *d = nullptr;
    hn_comm *comm = nullptr;
    const hn_collectives *c = nullptr;
    explicit Joined(const Rank &r)
    {
        EXPECT_HN_OK(hn_device_open(r.device.c_str(), &d));
        comm = r.join(d);
        c = comm ? hn_comm_collectives(comm) : nullptr;
    }
    ~Joined()
    {
        hn_comm_close(comm, !::testing::Test::HasFailure());
        hn_device_close(d);
    }
    Joined(const Joined &) = delete;
    hn_stream stream() const { return hn_device_stream(d); }
};

/* Value i of rank r: sums of few of them are exact. */
float at(int rank, size_t i) { return (float)((rank + 1) * 100) + (float)(i % 64) / 64; }

class Comm : public ::testing::TestWithParam<const char *> {
  protected:
    const std::string kind = GetParam();
    void on(int size, const std::function<void(const Rank &, Joined &)> &f)
    {
        run_ranks(kind, size, [&f](const Rank &r) {
            Joined j(r);
            if (j.c != nullptr) f(r, j);
            return RankResult();
        });
    }
};

TEST_P(Comm, KnowsItsPlace)
{
    HN_NEED_RANKS(kind, 2);
    on(2, [this](const Rank &r, Joined &j) {
        EXPECT_EQ(j.c->rank, r.rank);
        EXPECT_EQ(j.c->ranks, 2);
        EXPECT_EQ(hn_device_collectives(j.d), j.c);
        EXPECT_EQ(std::string(j.c->text).rfind(kind == "cpu" ? "hone in rank order" : "NCCL 2.", 0),
                  0u)
            << j.c->text;
        hn_comm_close(j.comm, true);
        EXPECT_EQ(hn_device_collectives(j.d), nullptr);
        j.comm = nullptr;
    });
}

/* Several spans in one call, one of them with gaps between its copies. */
TEST_P(Comm, SumsSpansAndLeavesGaps)
{
    HN_NEED_RANKS(kind, 2);
    for (const int size : {2, 3}) {
        if (kind != "cpu" && count_gpus() < size) continue;
        on(size, [](const Rank &r, Joined &j) {
            std::vector<float> a(70001), b(3 * 64), one(1);
            for (size_t i = 0; i < a.size(); i++) a[i] = at(r.rank, i);
            for (size_t i = 0; i < b.size(); i++) b[i] = at(r.rank, 7 * i);
            one[0] = at(r.rank, 5);
            const Memory ma(j.d, a), mb(j.d, b), mo(j.d, one);
            const hn_collective_span span[] = {
                {.data = ma.data, .n = (int64_t)a.size(), .copies = 0, .stride = 0},
                {.data = mb.data, .n = 60, .copies = 3, .stride = 64},
                {.data = mo.data, .n = 1, .copies = 1, .stride = 0}};
            ASSERT_HN_OK(j.c->all_reduce(j.c->context, span, 3, j.stream()));
            const auto sum = [&r](size_t i) {
                float s = 0;
                for (int k = 0; k < r.size; k++) s += at(k, i);
                return s;
            };
            const auto got_a = ma.get(), got_b = mb.get();
            for (size_t i = 0; i < a.size(); i++) ASSERT_EQ(got_a[i], sum(i)) << i;
            for (size_t i = 0; i < b.size(); i++)
                ASSERT_EQ(got_b[i], i % 64 < 60 ? sum(7 * i) : at(r.rank, 7 * i)) << i;
            EXPECT_EQ(mo.get()[0], sum(5));
        });
    }
}

TEST_P(Comm, ScattersSumsAndGathersParts)
{
    HN_NEED_RANKS(kind, 2);
    for (const bool in_place : {false, true})
        on(2, [in_place](const Rank &r, Joined &j) {
            const size_t n = 1000, all = n * (size_t)r.size;
            std::vector<float> from(all);
            for (size_t i = 0; i < all; i++) from[i] = at(r.rank, i);
            const Memory mf(j.d, from), mt(j.d, std::vector<float>(n, NAN));
            float *part = in_place ? mf.data + (size_t)r.rank * n : mt.data;
            ASSERT_HN_OK(j.c->reduce_scatter(j.c->context, mf.data, part, (int64_t)n, j.stream()));
            std::vector<float> got(n);
            ASSERT_HN_OK(hn_device_read(j.d, got.data(), part, n * sizeof(float)));
            for (size_t i = 0; i < n; i++)
                ASSERT_EQ(got[i], at(0, (size_t)r.rank * n + i) + at(1, (size_t)r.rank * n + i));

            /* bytes, whatever they mean: a signalling NaN and -0 stay what they are */
            const Memory mg(j.d, std::vector<float>(all, -1.0f));
            const uint32_t odd[] = {0x7fa00001u + (uint32_t)r.rank, 0x80000000u};
            ASSERT_HN_OK(hn_device_write(j.d, part, odd, sizeof odd));
            float *mine = in_place ? mg.data + (size_t)r.rank * n : part;
            if (in_place) {
                ASSERT_HN_OK(hn_device_copy(j.d, mine, part, n * sizeof(float)));
            }
            ASSERT_HN_OK(
                j.c->all_gather(j.c->context, mine, mg.data, n * sizeof(float), j.stream()));
            const auto whole = mg.get();
            for (int k = 0; k < r.size; k++) {
                uint32_t bits[2];
                std::memcpy(bits, &whole[(size_t)k * n], sizeof bits);
                EXPECT_EQ(bits[0], 0x7fa00001u + (uint32_t)k);
                EXPECT_EQ(bits[1], 0x80000000u);
                EXPECT_EQ(whole[(size_t)k * n + n - 1],
                          at(0, (size_t)(k + 1) * n - 1) + at(1, (size_t)(k + 1) * n - 1));
            }
        });
}

TEST_P(Comm, OneRankStaysAlone)
{
    HN_NEED_RANKS(kind, 1);
    on(1, [](const Rank &, Joined &j) {
        EXPECT_EQ(j.c->ranks, 1);
        EXPECT_EQ(hn_device_collectives(j.d), nullptr);
        const Memory a(j.d, {1, 2, 3}), b(j.d, {0, 0, 0});
        const hn_collective_span span = {.data = a.data, .n = 3, .copies = 1, .stride = 0};
        ASSERT_HN_OK(j.c->all_reduce(j.c->context, &span, 1, j.stream()));
        EXPECT_EQ(a.get(), (std::vector<float>{1, 2, 3}));
        ASSERT_HN_OK(j.c->reduce_scatter(j.c->context, a.data, b.data, 3, j.stream()));
        EXPECT_EQ(b.get(), (std::vector<float>{1, 2, 3}));
        ASSERT_HN_OK(j.c->all_gather(j.c->context, a.data, a.data, 12, j.stream()));
        EXPECT_EQ(a.get(), (std::vector<float>{1, 2, 3}));
    });
}

/* The program of a rank that dies while others wait for its part. */
TEST_P(Comm, ARankThatIsGoneIsAnError)
{
    HN_NEED_RANKS(kind, 2);
    run_ranks(kind, 2, [](const Rank &r) {
        hn_device *d = nullptr;
        EXPECT_HN_OK(hn_device_open(r.device.c_str(), &d));
        hn_comm *comm = r.join(d);
        if (comm == nullptr) return RankResult();
        const hn_collectives *c = hn_comm_collectives(comm);
        if (r.rank == 0) {
            const Memory m(d, std::vector<float>(100000, 1.0f));
            const hn_collective_span span = {.data = m.data, .n = 100000, .copies = 1, .stride = 0};
            hn_status st = c->all_reduce(c->context, &span, 1, hn_device_stream(d));
            if (st == HN_OK) (void)!hn_device_wait(d); /* a GPU's host hears of it later */
            if (st == HN_OK) st = c->all_reduce(c->context, &span, 1, hn_device_stream(d));
            EXPECT_EQ(st, HN_ERR_COMM);
            EXPECT_NE(std::strstr(hn_last_error(), "rank 1"), nullptr) << hn_last_error();
        } else {
            hn_hub_fail(r.hub, "a test wants it");
        }
        hn_comm_close(comm, false);
        hn_device_close(d);
        return RankResult();
    });
}

#ifdef HONE_CUDA
TEST_P(Comm, RefusesTwoRanksOnOneGpuAndOtherDevices)
{
    if (kind == "cpu") GTEST_SKIP() << "of GPUs";
    HN_NEED_RANKS(kind, 1);
    for (const char *second : {"cuda:0", "cpu"})
        run_ranks("cpu", 2, [second](const Rank &r) {
            hn_device *d = nullptr;
            hn_comm *comm = nullptr;
            EXPECT_HN_OK(hn_device_open(r.rank == 0 ? "cuda:0" : second, &d));
            EXPECT_HN_FAIL(hn_comm_open(r.hub, d, &comm), HN_ERR_ARG,
                           std::string(second) == "cpu" ? "computes on the CPU, rank 0"
                                                        : "ranks 0 and 1");
            EXPECT_EQ(comm, nullptr);
            hn_device_close(d);
            return RankResult();
        });
}

INSTANTIATE_TEST_SUITE_P(Devices, Comm, ::testing::Values("cpu", "cuda"), device_name);
#else
INSTANTIATE_TEST_SUITE_P(Devices, Comm, ::testing::Values("cpu"), device_name);
#endif

} // namespace
