/* runtime/comm/hub: ranks that meet, exchange and sum. Who dies is in test_hub_watch.cc. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <numeric>

#include "hub_test.h"
#include "runtime/base/alloc.h"

namespace {

bool has_ipv6()
{
    int fd = -1;
    const bool ok = hn_socket_listen("::1", nullptr, &fd) == HN_OK;
    hn_socket_close(&fd);
    return ok;
}

/* ---- meeting ---- */

TEST(Hub, OneRankNeedsNoNetwork)
{
    hn_hub_options o = {};
    o.size = 1;
    o.host = "here";
    hn_hub *h = nullptr;
    float x[] = {1, 2}, all[2] = {};
    double y = 3;
    ASSERT_HN_OK(hn_hub_open(&o, &h));
    EXPECT_HN_OK(hn_hub_share(h, x, sizeof x, 0));
    EXPECT_HN_OK(hn_hub_gather(h, x, sizeof x, all));
    EXPECT_HN_OK(hn_hub_barrier(h));
    EXPECT_HN_OK(hn_hub_sum_f32(h, x, 2));
    EXPECT_HN_OK(hn_hub_sum_f64(h, &y, 1));
    EXPECT_EQ(all[1], 2);
    EXPECT_EQ(x[0], 1);
    EXPECT_EQ(y, 3);
    hn_hub_at(h, HN_HUB_AT_STEP, 4);
    hn_hub_watch(h, nullptr);
    hn_hub_fail(h, "nobody hears this");
    EXPECT_EQ(hn_hub_dead(h), nullptr);
    EXPECT_STREQ(hn_hub_host(h, 0), "here");
    EXPECT_HN_FAIL(hn_hub_share(h, x, 4, 1), HN_ERR_ARG, "share from rank 1 of 1");
    EXPECT_HN_FAIL(hn_hub_sum_f32(h, x, -1), HN_ERR_ARG, "-1 values");
    hn_hub_close(h);
    hn_hub_close(nullptr);
    hn_hub_fail(nullptr, "x");
    EXPECT_EQ(hn_hub_dead(nullptr), nullptr);
}

TEST(Hub, RefusesOptionsThatMakeNoJob)
{
    hn_hub *h = nullptr;
    auto refused = [&](const std::function<void(hn_hub_options &)> &change, const char *part) {
        hn_hub_options o = {};
        o.size = 2;
        o.job = "job";
        o.address = "127.0.0.1:4000";
        change(o);
        EXPECT_HN_FAIL(hn_hub_open(&o, &h), HN_ERR_ARG, part);
        EXPECT_EQ(h, nullptr);
    };
    refused([](auto &o) { o.rank = 2; }, "rank 2 of 2");
    refused([](auto &o) { o.rank = -1; }, "rank -1 of 2");
    refused([](auto &o) { o.size = 0; }, "rank 0 of 0");
    refused([](auto &o) { o.size = 5000; }, "size <= 4096");
    refused([](auto &o) { o.address = nullptr; }, "no address and no file");
    refused([](auto &o) { o.file = "x"; }, "not both");
    refused([](auto &o) { o.job = nullptr; }, "has a name");
    refused([](auto &o) { o.job = ""; }, "has a name");
    const std::string longest(300, 'x');
    refused([&](auto &o) { o.job = longest.c_str(); }, "identity of the job: at most 255");
    refused([&](auto &o) { o.secret = longest.c_str(); }, "secret of the job: at most 255");
    refused([](auto &o) { o.silent_s = 2; }, "at least 3 beats of 1 s");
    refused([](auto &o) { o.beat_s = -1; }, "beat_s -1");
    refused([](auto &o) { o.timeout_s = NAN; }, "timeout_s nan");
    refused([](auto &o) { o.grace_s = 1e9; }, "grace_s 1e+09");
    refused([](auto &o) { o.rank = 1, o.listen_fd = dup(0); }, "only rank 0 listens");
    refused([](auto &o) { o.listen_fd = dup(0); }, "no socket that listens");
    refused([](auto &o) { o.address = ""; }, "no address and no file");
    for (const char *bad : {"host", "host:", ":80", "host:0", "host:65536", "host:80x", "::1:80",
                            "[::1]80", "[::1:80", "[]:80", "host:-1", "host:000080"})
        refused([&](auto &o) { o.address = bad; }, "address '");
}

/* Every allocation fails once; then nobody comes. No descriptor stays open, no file behind. */
TEST(Hub, AnOpenThatFailsLeavesNothing)
{
    auto descriptors = [] {
        const std::filesystem::directory_iterator all("/proc/self/fd");
        return std::distance(begin(all), end(all));
    };
    TempDir dir;
    const std::string file = dir / "meet";
    const auto before = descriptors();
    bool late = false;
    for (uint64_t nth = 1; nth < 100 && !late; nth++)
        for (const bool published : {true, false}) {
            int port = 0;
            hn_hub *h = nullptr;
            hn_hub_options o = {};
            o.size = 2;
            o.job = "job";
            o.local = true;
            o.timeout_s = 0.02;
            o.file = published ? file.c_str() : nullptr;
            o.listen_fd = listening(&port);
            hn_alloc_fail_at(nth);
            const hn_status st = hn_hub_open(&o, &h);
            hn_alloc_fail_at(0);
            late = st == HN_ERR_COMM; /* nothing was left to fail */
            EXPECT_TRUE(late || st == HN_ERR_MEMORY) << nth << ": " << hn_last_error();
            EXPECT_EQ(h, nullptr);
            EXPECT_EQ(descriptors(), before) << nth;
            EXPECT_FALSE(std::filesystem::exists(file)) << nth;
        }
    EXPECT_TRUE(late);
}

TEST(Hub, AddressesAreHostAndPort)
{
    hn_socket_target t;
    auto is = [&](const char *text, const char *host, const char *port) {
        ASSERT_HN_OK(hn_socket_target_read(text, &t));
        EXPECT_STREQ(t.host, host);
        EXPECT_STREQ(t.port, port);
    };
    is("gnode7:29501", "gnode7", "29501");
    is("10.0.0.1:1", "10.0.0.1", "1");
    is("[fd00::3]:65535", "fd00::3", "65535");
}

int knows_all(hn_hub *h, int rank)
{
    RANK_EXPECT(hn_hub_rank(h) == rank);
    for (int r = 0; r < hn_hub_size(h); r++)
        RANK_EXPECT(hn_hub_host(h, r) == "host" + std::to_string(r));
    RANK_EXPECT(std::string(hn_hub_host(h, -1)) == "?" && hn_hub_dead(h) == nullptr);
    return hn_status_exit_code(hn_hub_barrier(h));
}

class HubSizes : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, HubSizes, testing::Values(1, 2, 3, 5, 8));

TEST_P(HubSizes, RanksMeetThroughAFile)
{
    HubJob job(GetParam());
    job.start_all(knows_all);
    job.expect_all(0);
    EXPECT_FALSE(std::filesystem::exists(job.file())); /* rank 0 has cleaned up */
    for (int r = 0; r < job.size; r++) EXPECT_EQ(job.log(r), "");
}

TEST(Hub, ManyRanksComeAtOnce)
{
    HubJob job(60);
    job.start_all(knows_all);
    job.expect_all(0);
    EXPECT_EQ(job.log(0), ""); /* and nobody is turned away */
}

/* Rank 0's hard limit, behind a soft one of 50; 248 are the least for 60 ranks. */
HubJob::Body limited(HubJob *job, rlim_t hard)
{
    job->before = [hard](int rank) {
        const rlimit few = {50, hard};
        if (rank == 0 && setrlimit(RLIMIT_NOFILE, &few) != 0) _exit(99);
    };
    return knows_all;
}

TEST(Hub, DescriptorsAreTakenUpToTheHardLimit)
{
    for (const rlim_t hard : {(rlim_t)4096, (rlim_t)248}) {
        HubJob job(60);
        job.start_all(limited(&job, hard));
        job.expect_all(0);
        if (hard == 248) continue; /* one may have to come twice */
        EXPECT_EQ(job.log(0), "");
    }
    HubJob job(60);
    job.timeout = 1;
    job.start_all(limited(&job, 247));
    EXPECT_NE(job.wait(0), 0);
    EXPECT_NE(job.log(0).find("rank 0 needs 248 file descriptors, the limit is 247"),
              std::string::npos)
        << job.log(0);
}

TEST(Hub, RanksMeetAtAnAddress)
{
    for (const bool local : {true, false}) {
        int port = 0, fd = listening(&port);
        hn_socket_close(&fd); /* free now */
        const std::string address = "localhost:" + std::to_string(port);
        HubJob job(3);
        job.change = [&](int, hn_hub_options &o) {
            o.file = nullptr;
            o.address = address.c_str();
            o.local = local;
        };
        /* rank 0 comes last: the others try again */
        for (int r = 2; r >= 0; r--) job.start(r, knows_all);
        job.expect_all(0);
    }
}

TEST(Hub, RankZeroInheritsASocket)
{
    for (const bool v6 : {false, true}) {
        if (v6 && !has_ipv6()) continue;
        int port = 0, fd = listening(&port, v6);
        const std::string address = (v6 ? "[::1]:" : "127.0.0.1:") + std::to_string(port);
        HubJob job(4);
        job.change = [&](int rank, hn_hub_options &o) {
            o.file = nullptr;
            if (rank == 0)
                o.listen_fd = fd;
            else {
                o.address = address.c_str();
                close(fd);
            }
        };
        job.start_all(knows_all);
        hn_socket_close(&fd);
        job.expect_all(0);
    }
}

TEST(Hub, APortInUseIsNamed)
{
    int port = 0, fd = listening(&port);
    const std::string address = "127.0.0.1:" + std::to_string(port);
    HubJob job(2);
    job.change = [&](int, hn_hub_options &o) {
        o.file = nullptr;
        o.address = address.c_str();
    };
    job.start(0, knows_all);
    EXPECT_EQ(job.wait(0), 1);
    EXPECT_NE(job.log(0).find("port " + std::to_string(port) + ": Address already in use"),
              std::string::npos)
        << job.log(0);
    hn_socket_close(&fd);
}

TEST(Hub, MissingRanksAreNamed)
{
    HubJob job(6);
    job.timeout = 1.5;
    job.change = [](int, hn_hub_options &o) { o.report_s = 0.2; };
    for (const int r : {0, 2}) job.start(r, knows_all);
    for (const int r : {0, 2}) {
        EXPECT_EQ(job.wait(r), 1);
        EXPECT_NE(job.log(r).find("error: of 6 ranks these did not come within 1.5 s: 1, 3-5"),
                  std::string::npos)
            << job.log(r);
    }
    EXPECT_NE(job.log(0).find("waiting for ranks 1, 3-5 of 6"), std::string::npos) << job.log(0);
    EXPECT_FALSE(std::filesystem::exists(job.file()));
}

TEST(Hub, ARankThatFindsNobodySaysWhere)
{
    HubJob job(2);
    job.timeout = 1;
    job.change = [](int, hn_hub_options &o) { o.report_s = 0.2; };
    job.start(1, knows_all);
    EXPECT_EQ(job.wait(1), 1);
    EXPECT_NE(job.log(1).find("rank 1 looks for rank 0 (" + job.file()), std::string::npos);
    EXPECT_NE(job.log(1).find("error: rank 1 did not reach rank 0 (" + job.file() +
                              ") within 1 s: " + job.file() + ": No such file"),
              std::string::npos)
        << job.log(1);
}

/* ---- who does not belong ---- */

/* A job of two whose rank 0 is there; rank 1 has not come. */
class HubGate : public testing::Test {
  protected:
    HubJob job{2};
    int port = 0, fd = -1;
    void SetUp() override
    {
        fd = listening(&port);
        address_ = "127.0.0.1:" + std::to_string(port);
        job.change = [this](int rank, hn_hub_options &o) {
            o.file = nullptr;
            o.address = address_.c_str();
            if (rank == 0) o.listen_fd = fd;
        };
        job.start(0, knows_all);
        hn_socket_close(&fd);
    }
    void job_still_works()
    {
        job.start(1, knows_all);
        job.expect_all(0);
    }
    bool logged(const std::string &text) { return job.log(0).find(text) != std::string::npos; }

  private:
    std::string address_;
};

TEST_F(HubGate, StrangersAreDroppedAndNamed)
{
    std::vector<std::string> words = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                                      std::string(1 << 20, 'x'), std::string(300, '\0'), "HONEHUB1",
                                      "HON"};
    std::string hello(HN_HUB_HELLO, '\xff');
    hello.replace(0, 8, "HONEHUB1");
    words.push_back(hello);
    for (const auto &w : words) {
        Impostor stranger;
        ASSERT_TRUE(stranger.connect(port));
        (void)stranger.send(w.data(), w.size()); /* it may hang up first */
        (void)shutdown(stranger.fd, SHUT_WR);
        EXPECT_TRUE(stranger.closed());
    }
    job_still_works();
    EXPECT_TRUE(logged("127.0.0.1:")) << job.log(0);
    EXPECT_TRUE(logged("was turned away: it is no rank")) << job.log(0);
    EXPECT_TRUE(logged("was turned away: it left without a word")) << job.log(0);
    EXPECT_TRUE(logged("was turned away: it is a rank of another job")) << job.log(0);
}

TEST_F(HubGate, AHundredSilentConnectionsDoNotKeepARankOut)
{
    std::vector<std::unique_ptr<Impostor>> crowd;
    for (int i = 0; i < 100; i++) {
        crowd.push_back(std::make_unique<Impostor>());
        ASSERT_TRUE(crowd.back()->connect(port));
    }
    job_still_works();
    EXPECT_TRUE(logged("it said nothing and others wait")) << job.log(0);
    EXPECT_TRUE(logged("more that are turned away are not named")) << job.log(0);
}

TEST_F(HubGate, WrongProofsAreRefused)
{
    std::string text;
    Impostor thief("job", "guess"), lost("other job", "secret");
    ASSERT_TRUE(thief.connect(port));
    EXPECT_EQ(thief.introduce(&text), HN_HUB_PEER_SECRET);
    EXPECT_TRUE(thief.closed());
    ASSERT_TRUE(lost.connect(port));
    EXPECT_EQ(lost.introduce(&text), HN_HUB_PEER_JOB);
    /* what was heard of another rank cannot be said again */
    Impostor honest, echo;
    honest.me.rank = 1;
    ASSERT_TRUE(echo.connect(port));
    ASSERT_HN_OK(hn_socket_receive(echo.fd, echo.greeting, sizeof echo.greeting, echo.soon()));
    uint8_t other[HN_HUB_GREETING];
    ASSERT_HN_OK(hn_hub_greeting_make(other));
    ASSERT_HN_OK(hn_hub_hello_make(&honest.key, other, &honest.me, echo.hello));
    ASSERT_HN_OK(echo.send(echo.hello, sizeof echo.hello));
    EXPECT_TRUE(echo.closed());
    job_still_works();
    EXPECT_TRUE(logged("its secret differs")) << job.log(0);
    EXPECT_TRUE(logged("rank of another job")) << job.log(0);
}

TEST_F(HubGate, RanksThatDoNotFitAreToldWhy)
{
    auto refused = [&](const std::function<void(hn_hub_hello &)> &change, const std::string &why) {
        std::string text;
        Impostor i;
        change(i.me);
        ASSERT_TRUE(i.connect(port));
        EXPECT_EQ(i.introduce(&text), HN_HUB_PEER_REFUSED);
        EXPECT_NE(text.find(why), std::string::npos) << text;
        EXPECT_TRUE(i.closed());
    };
    refused([](auto &me) { me.size = 3; }, "it counts 3 ranks, rank 0 2");
    refused([](auto &me) { me.rank = 2; }, "there is no rank 2 of 2");
    refused([](auto &me) { me.rank = 0; }, "rank 0 is there already, from host0");
    refused([](auto &me) { me.channel = HN_HUB_WATCH; }, "begins with the wrong connection");
    refused([](auto &me) { strcpy(me.version, "0.0.0\n"); }, "it is hone 0.0.0?");
    /* a second rank 1 while the first has one of its two connections */
    Impostor first;
    std::string text;
    ASSERT_TRUE(first.connect(port));
    EXPECT_EQ(first.introduce(&text), HN_HUB_PEER_OK);
    EXPECT_EQ(text, "host0");
    refused([](auto &) {}, "rank 1 is there already, from impostor");
    hn_socket_close(&first.fd); /* it may come again */
    job_still_works();
    EXPECT_TRUE(logged("rank 1 on impostor (127.0.0.1:")) << job.log(0);
}

TEST(Hub, ADeathWhileOthersComeIsNamed)
{
    HubJob job(4); /* rank 3 never comes */
    int gate = 0, socket = listening(&gate);
    job.change = [&](int, hn_hub_options &o) { o.file = nullptr, o.listen_fd = socket; };
    job.start(0, knows_all);
    hn_socket_close(&socket);
    Impostor dies, stays;
    dies.me.size = stays.me.size = 4;
    stays.me.rank = 2;
    ASSERT_TRUE(dies.join(gate));
    ASSERT_TRUE(stays.join(gate));
    hn_socket_close(&dies.fd);
    EXPECT_EQ(job.wait(0), 1);
    EXPECT_NE(job.log(0).find("rank 1 on impostor died in phase 'open' (connection closed)"),
              std::string::npos)
        << job.log(0);
    uint8_t bytes[HN_HUB_FRAME];
    hn_hub_frame f;
    ASSERT_HN_OK(hn_socket_receive(stays.fd, bytes, sizeof bytes, stays.soon()));
    ASSERT_TRUE(hn_hub_frame_read(bytes, &f));
    EXPECT_EQ(f.kind, HN_HUB_DEAD);
}

TEST(Hub, ADifferentSizeOrAnUnknownRankEndsWithItsReason)
{
    HubJob job(2);
    const std::string meet = job.file();
    job.start(0, knows_all);
    HubJob other(3);
    other.change = [&](int, hn_hub_options &o) { o.file = meet.c_str(); };
    other.start(1, knows_all);
    EXPECT_EQ(other.wait(1), 2); /* at once: the input is wrong */
    EXPECT_NE(other.log(1).find("rank 0 refuses rank 1: it counts 3 ranks, rank 0 2"),
              std::string::npos)
        << other.log(1);
    job.start(1, knows_all);
    job.expect_all(0);
}

TEST(Hub, FilesOfOtherJobsAreNoAnswer)
{
    HubJob job(2), other(2);
    const std::string meet = job.file();
    other.change = [&](int, hn_hub_options &o) { o.file = meet.c_str(), o.job = "other"; };
    other.start(0, knows_all); /* it listens, and it lives */
    ASSERT_TRUE(eventually([&] { return std::filesystem::exists(meet); }));
    const std::string stale = read_file(meet);
    job.change = [](int, hn_hub_options &o) { o.report_s = 0.02; };
    job.start(1, knows_all);
    ASSERT_TRUE(eventually([&] { return job.log(1).find("of another job") != std::string::npos; }));
    for (const std::string &junk :
         {std::string("junk"), std::string(100000, 'x'), stale.substr(0, 40),
          std::string(200, '\0'), stale.substr(0, stale.size() - 1), std::string("hone-hub 1\n")}) {
        write_file(meet, junk);
        const size_t seen = job.log(1).size();
        ASSERT_TRUE(eventually([&] { return job.log(1).size() > seen; })); /* it goes on looking */
        EXPECT_TRUE(job.running(1));
    }
    job.start(0, knows_all); /* writes over it */
    job.expect_all(0);
}

/* ---- collectives ---- */

TEST_P(HubSizes, ShareGoesFromAnyRankToAll)
{
    HubJob job(GetParam());
    job.start_all([](hn_hub *h, int rank) {
        for (const size_t n : {(size_t)0, (size_t)1, (size_t)128, (size_t)3000001})
            for (int root = 0; root < hn_hub_size(h); root++) {
                std::vector<uint8_t> x(n), want(n);
                for (size_t i = 0; i < n; i++) want[i] = (uint8_t)(i * 7 + (size_t)root);
                if (rank == root) x = want;
                RANK_OK(hn_hub_share(h, x.data(), n, root));
                RANK_EXPECT(x == want);
            }
        return 0;
    });
    job.expect_all(0);
}

TEST_P(HubSizes, GatherIsInRankOrder)
{
    HubJob job(GetParam());
    job.start_all([](hn_hub *h, int rank) {
        const auto size = (size_t)hn_hub_size(h);
        for (const size_t n : {(size_t)0, (size_t)1, (size_t)100, (size_t)700001})
            for (const bool in_place : {false, true}) {
                std::vector<uint8_t> mine(n, (uint8_t)(rank + 1)), all(n * size, 0xff);
                uint8_t *own = all.data() + (size_t)rank * n;
                if (in_place) std::copy(mine.begin(), mine.end(), own);
                RANK_OK(hn_hub_gather(h, in_place ? own : mine.data(), n, all.data()));
                for (size_t i = 0; i < all.size(); i++) RANK_EXPECT(all[i] == i / n + 1);
            }
        return 0;
    });
    job.expect_all(0);
}

TEST_P(HubSizes, WhatIsPassedComesInOrderFromEachRank)
{
    HubJob job(GetParam());
    job.start_all([](hn_hub *h, int rank) {
        const size_t sizes[] = {0, 1, 4096, 3000001};
        if (rank == 0) RANK_EXPECT(hn_hub_pass(h, nullptr, 0) == HN_ERR_ARG);
        for (int turn = 0; turn < 2; turn++) {
            for (int r = hn_hub_size(h) - 1; r > 0; r--)
                for (const size_t n : sizes) {
                    std::vector<uint8_t> x(n), want(n);
                    for (size_t i = 0; i < n; i++) want[i] = (uint8_t)(i * 5 + (size_t)r + n);
                    if (rank == r) RANK_OK(hn_hub_pass(h, want.data(), n));
                    if (rank != 0) continue;
                    RANK_EXPECT(eventually([&] { return hn_hub_comes(h, r); }));
                    RANK_OK(hn_hub_fetch(h, r, x.data(), n));
                    RANK_EXPECT(x == want);
                }
            RANK_OK(hn_hub_barrier(h)); /* collectives in between are none of theirs */
        }
        return 0;
    });
    job.expect_all(0);
}

TEST(Hub, PassesThatDoNotFitNameBothRanks)
{
    HubJob job(2);
    job.start_all([](hn_hub *h, int rank) {
        char x[100] = {};
        if (rank == 1) {
            RANK_OK(hn_hub_pass(h, x, 99));
            return hn_status_exit_code(hn_hub_barrier(h));
        }
        const hn_status st = hn_hub_fetch(h, 1, x, 100);
        RANK_EXPECT(std::string(hn_last_text()) ==
                    "collective 0: rank 0 calls pass of 100 bytes from rank 1, rank 1 pass of 99 "
                    "bytes from rank 1");
        return hn_status_exit_code(st);
    });
    job.expect_all(1);
}

TEST_P(HubSizes, NobodyPassesABarrierBeforeAllHaveCome)
{
    HubJob job(GetParam());
    SharedCounters count;
    job.start_all([&](hn_hub *h, int) {
        for (int round = 1; round <= 50; round++) {
            count[0]++;
            RANK_OK(hn_hub_barrier(h));
            RANK_EXPECT(count[0] >= round * hn_hub_size(h));
        }
        return 0;
    });
    job.expect_all(0);
}

template <class T>
std::vector<T> values(int rank, size_t n)
{
    std::mt19937 rng((unsigned)rank * 977 + (unsigned)n);
    std::normal_distribution<T> d;
    std::vector<T> v(n);
    for (auto &e : v) e = d(rng) * (T)std::exp(8 * d(rng)); /* order matters */
    return v;
}

hn_status sum_of(hn_hub *h, float *x, int64_t n) { return hn_hub_sum_f32(h, x, n); }
hn_status sum_of(hn_hub *h, double *x, int64_t n) { return hn_hub_sum_f64(h, x, n); }

template <class T>
int sums_like_a_loop(hn_hub *h, int rank)
{
    const size_t chunk = (256 << 10) / sizeof(T);
    for (const size_t n : {(size_t)0, (size_t)1, (size_t)31, chunk - 1, chunk, chunk + 1, 2 * chunk,
                           5 * chunk + 77}) {
        std::vector<T> x = values<T>(rank, n), want = values<T>(0, n);
        for (int r = 1; r < hn_hub_size(h); r++) {
            const std::vector<T> y = values<T>(r, n);
            for (size_t i = 0; i < n; i++) want[i] += y[i];
        }
        RANK_OK(sum_of(h, x.data(), (int64_t)n));
        RANK_EXPECT(n == 0 || std::memcmp(x.data(), want.data(), n * sizeof(T)) == 0);
    }
    return 0;
}

TEST_P(HubSizes, SumsHaveTheBitsOfALoopOverRanks)
{
    HubJob job(GetParam());
    job.start_all([](hn_hub *h, int rank) {
        const int code = sums_like_a_loop<float>(h, rank);
        return code ? code : sums_like_a_loop<double>(h, rank);
    });
    job.expect_all(0);
}

TEST(Hub, ALargeSumStreams)
{
    HubJob job(4);
    job.start_all([](hn_hub *h, int rank) {
        std::vector<float> x((size_t)24 << 20, (float)(rank + 1)); /* 96 MB each */
        RANK_OK(hn_hub_sum_f32(h, x.data(), (int64_t)x.size()));
        for (const float v : x) RANK_EXPECT(v == 10);
        return 0;
    });
    job.expect_all(0);
}

TEST(Hub, CollectivesAllocateNothing)
{
    HubJob job(3);
    job.start_all([](hn_hub *h, int) {
        std::vector<float> x(1000000, 1), all(3000000);
        const uint64_t before = hn_alloc_calls();
        RANK_OK(hn_hub_sum_f32(h, x.data(), 1000000));
        RANK_OK(hn_hub_gather(h, x.data(), 4000000, all.data()));
        RANK_OK(hn_hub_share(h, x.data(), 4000000, 2));
        RANK_OK(hn_hub_barrier(h));
        hn_hub_at(h, HN_HUB_AT_STEP, 1);
        RANK_EXPECT(hn_alloc_calls() == before);
        return 0;
    });
    job.expect_all(0);
}

TEST(Hub, SignalsDoNotDisturbASum)
{
    HubJob job(3);
    job.before = [](int) {
        struct sigaction a = {};
        a.sa_handler = [](int) {}; /* no SA_RESTART: every call may be interrupted */
        sigaction(SIGUSR1, &a, nullptr);
        signal(SIGPIPE, SIG_DFL);
    };
    SharedCounters done;
    job.start_all([&](hn_hub *h, int rank) {
        std::vector<float> x(3000000);
        for (int k = 0; k < 20; k++) {
            std::fill(x.begin(), x.end(), (float)(rank + k));
            RANK_OK(hn_hub_sum_f32(h, x.data(), (int64_t)x.size()));
            RANK_EXPECT(x.front() == 3 + 3 * k && x.back() == 3 + 3 * k);
            if (k == 0) done[1]++;
        }
        done[0]++;
        RANK_OK(hn_hub_barrier(h));
        return 0;
    });
    ASSERT_TRUE(eventually([&] { return done[1] == 3; }));
    while (done[0] < 3) {
        for (int r = 0; r < 3; r++)
            if (job.running(r)) kill(job.pid(r), SIGUSR1);
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        if (!job.running(0)) break;
    }
    job.expect_all(0);
}

TEST(Hub, CallsThatDoNotFitNameBothRanks)
{
    struct Case {
        HubJob::Body odd;
        const char *text;
    };
    const Case cases[] = {
        {[](hn_hub *h, int) { return hn_status_exit_code(hn_hub_barrier(h)); },
         "collective 1: rank 0 calls sum_f32 of 400 bytes, rank 2 barrier"},
        {[](hn_hub *h, int) {
             float x[99] = {};
             return hn_status_exit_code(hn_hub_sum_f32(h, x, 99));
         },
         "collective 1: rank 0 calls sum_f32 of 400 bytes, rank 2 sum_f32 of 396 bytes"},
        {[](hn_hub *h, int) {
             char x[400] = {};
             return hn_status_exit_code(hn_hub_share(h, x, 400, 2));
         },
         "collective 1: rank 0 calls sum_f32 of 400 bytes, rank 2 share of 400 bytes from rank 2"},
    };
    for (const Case &c : cases) {
        HubJob job(3);
        job.start_all([&](hn_hub *h, int rank) {
            float x[100] = {};
            if (rank == 2) return c.odd(h, rank);
            const hn_status st = hn_hub_sum_f32(h, x, 100);
            if (rank == 0) RANK_EXPECT(std::string(hn_last_text()) == c.text);
            return hn_status_exit_code(st);
        });
        job.expect_all(1);
        for (const int r : {1, 2})
            EXPECT_EQ(job.log(r),
                      std::string("rank 0 on host0 failed in phase 'open': ") + c.text + "\n");
    }
}

} // namespace
