/* runtime/comm/hub on several hosts: network namespaces, joined by a cable that can be pulled. */
#include <fcntl.h>
#include <sched.h>

#include "hub_test.h"

namespace {

bool runs(const std::string &command)
{
    return std::system((command + " >/dev/null 2>&1").c_str()) == 0;
}

/* Two hosts, a at 10.213.7.1 and fd00:213::1, b at .2 and ::2. */
class HubHosts : public testing::Test {
  protected:
    const std::string id = std::to_string(getpid());
    const std::string a = "hone-a" + id, b = "hone-b" + id;
    bool made = false;
    void SetUp() override
    {
        if (geteuid() != 0) GTEST_SKIP() << "network namespaces need root";
        if (!runs("ip -V"))
            GTEST_SKIP() << "no ip: scripts/install_deps.sh --checks installs iproute2";
        made = true;
        if (!runs("ip netns add " + a)) GTEST_SKIP() << "this machine lets nobody make a namespace";
        /* Interface names have 15 bytes at most. */
        const std::string va = "ha" + id, vb = "hb" + id;
        for (const std::string &c :
             {"ip netns add " + b, "ip link add " + va + " type veth peer name " + vb,
              "ip link set " + va + " netns " + a, "ip link set " + vb + " netns " + b,
              "ip -n " + a + " link set " + va + " name cable",
              "ip -n " + b + " link set " + vb + " name cable"})
            ASSERT_TRUE(runs(c)) << c;
        int n = 1;
        for (const std::string &host : {a, b}) {
            const std::string last = std::to_string(n++);
            for (const std::string &c :
                 {"addr add 10.213.7." + last + "/24 dev cable",
                  "addr add fd00:213::" + last + "/64 dev cable nodad",
                  std::string("link set lo up"), std::string("link set cable up")})
                ASSERT_TRUE(runs("ip -n " + host + " " + c)) << c;
        }
    }
    void TearDown() override
    {
        if (!made) return;
        runs("ip netns del " + a);
        runs("ip netns del " + b);
    }
    /* Ranks 0 and 1 on host a, the others on b. */
    void place(HubJob &job)
    {
        job.before = [this](int rank) {
            const int fd = open(("/run/netns/" + (rank < 2 ? a : b)).c_str(), O_RDONLY | O_CLOEXEC);
            if (fd < 0 || setns(fd, CLONE_NEWNET) != 0) _exit(98);
            close(fd);
        };
        job.change = [](int, hn_hub_options &o) { o.local = false; };
    }
    static int sums(hn_hub *h, int rank)
    {
        std::vector<float> x(1000000, (float)(rank + 1));
        RANK_OK(hn_hub_sum_f32(h, x.data(), (int64_t)x.size()));
        RANK_EXPECT(x.front() == 10 && x.back() == 10);
        return 0;
    }
};

TEST_F(HubHosts, RanksMeetThroughASharedFile)
{
    HubJob job(4);
    place(job);
    job.start_all(sums);
    job.expect_all(0);
}

TEST_F(HubHosts, RanksMeetAtAnAddress)
{
    for (const char *address : {"10.213.7.1:29501", "[fd00:213::1]:29502"}) {
        HubJob job(4);
        place(job);
        const auto more = job.change;
        job.change = [&](int rank, hn_hub_options &o) {
            more(rank, o);
            o.file = nullptr;
            o.address = address;
        };
        job.start_all(sums);
        job.expect_all(0);
        for (int r = 0; r < 4; r++) EXPECT_EQ(job.log(r), "") << address;
    }
}

/* A job of one host is not to be seen from another. */
TEST_F(HubHosts, ALocalJobListensOnTheLoopbackInterfaceOnly)
{
    HubJob job(4);
    place(job);
    const auto far = job.before;
    job.change = [](int rank, hn_hub_options &o) {
        o.file = nullptr;
        o.address = "10.213.7.1:29503";
        o.local = rank < 2;
        if (rank >= 2) o.timeout_s = 1;
    };
    job.start(0, sums);
    job.start(3, sums);
    EXPECT_EQ(job.wait(3), 1);
    EXPECT_NE(job.log(3).find("10.213.7.1:29503: Connection refused"), std::string::npos)
        << job.log(3);
    EXPECT_TRUE(job.running(0));
}

/* The cable is pulled while all sum, and while all hang. */
TEST_F(HubHosts, AHostThatIsGoneIsNamed)
{
    for (const bool hangs : {false, true}) {
        HubJob job(4);
        SharedCounters in;
        place(job);
        job.silent = 1.5;
        job.start_all([&](hn_hub *h, int) {
            std::vector<float> x(100000);
            RANK_OK(hn_hub_barrier(h));
            hn_hub_at(h, HN_HUB_AT_STEP, 8);
            std::this_thread::sleep_for(std::chrono::milliseconds(500)); /* ten beats */
            in[0]++;
            while (hangs) pause();
            for (;;) RANK_OK(hn_hub_sum_f32(h, x.data(), (int64_t)x.size()));
        });
        ASSERT_TRUE(eventually([&] { return in[0] == 4; }));
        ASSERT_TRUE(runs("ip -n " + b + " link set cable down"));
        job.expect_all(1);
        const std::string what = "died in phase 'step' at step 8 (no sign of life for 1.5 s)\n";
        for (const int r : {0, 1}) {
            const std::string log = job.log(r);
            EXPECT_TRUE(log == "rank 2 on host2 " + what || log == "rank 3 on host3 " + what)
                << log;
        }
        EXPECT_EQ(job.log(0), job.log(1));
        for (const int r : {2, 3}) EXPECT_EQ(job.log(r), "rank 0 on host0 " + what);
        ASSERT_TRUE(runs("ip -n " + b + " link set cable up"));
    }
}

} // namespace
