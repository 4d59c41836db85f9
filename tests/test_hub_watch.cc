/* runtime/comm/hub's watchdog: every way a rank can die, and who says what then. */
#include <sys/socket.h>

#include "hub_test.h"

namespace {

constexpr std::chrono::milliseconds job_beats(500); /* ten */

[[noreturn]] void hang()
{
    for (;;) pause();
}

std::string line_of(int rank, const std::string &rest)
{
    return "rank " + std::to_string(rank) + " on host" + std::to_string(rank) + " " + rest + "\n";
}

/* What survivors do while one dies. */
enum Busy { SUMS, HANGS, SHARES };

int stay_busy(hn_hub *h, Busy busy)
{
    std::vector<float> x(100000);
    if (busy == HANGS) hang();
    for (;;)
        RANK_OK(busy == SUMS ? hn_hub_sum_f32(h, x.data(), (int64_t)x.size())
                             : hn_hub_share(h, x.data(), x.size(), 1));
}

struct Death {
    int rank;
    Busy busy;
};

class HubDeath : public testing::TestWithParam<Death> {
  protected:
    /* Ranks that count themselves in and stay busy; `last` is what the dying one does instead. */
    SharedCounters in;
    void start(HubJob &job, const HubJob::Body &last)
    {
        const Death d = GetParam();
        job.start_all([=, this](hn_hub *h, int rank) {
            hn_hub_at(h, HN_HUB_AT_STEP, 120);
            in[0]++;
            return rank == d.rank ? last(h, rank) : stay_busy(h, d.busy);
        });
        ASSERT_TRUE(eventually([&] { return in[0] == job.size; }));
        std::this_thread::sleep_for(job_beats); /* the phase has come to rank 0 */
    }
    /* Everybody else says that line, once, and leaves with 1. */
    void expect_named(HubJob &job, const std::string &rest)
    {
        const int dead = GetParam().rank;
        for (int r = 0; r < job.size; r++) {
            if (r == dead) continue;
            EXPECT_EQ(job.wait(r), 1) << "rank " << r << ": " << job.log(r);
            EXPECT_EQ(job.log(r), line_of(dead, rest)) << "rank " << r;
        }
    }
};
INSTANTIATE_TEST_SUITE_P(Of, HubDeath,
                         testing::Values(Death{3, SUMS}, Death{1, SHARES}, Death{2, HANGS},
                                         Death{0, SUMS}, Death{0, HANGS}));

TEST_P(HubDeath, KilledRanksAreNamed)
{
    HubJob job(4);
    start(job, [](hn_hub *, int) -> int { hang(); });
    job.signal(GetParam().rank, SIGKILL);
    EXPECT_EQ(job.wait(GetParam().rank), -SIGKILL);
    expect_named(job, "died in phase 'step' at step 120 (connection closed)");
}

/* A stopped process keeps its connections; only its beats are missing. */
TEST_P(HubDeath, SilentRanksAreNamed)
{
    HubJob job(4);
    job.silent = 1.5;
    start(job, [](hn_hub *, int) -> int { hang(); });
    job.signal(GetParam().rank, SIGSTOP);
    expect_named(job, "died in phase 'step' at step 120 (no sign of life for 1.5 s)");
    job.signal(GetParam().rank, SIGCONT); /* it finds out, and leaves as well */
    EXPECT_EQ(job.wait(GetParam().rank), 1);
    EXPECT_NE(job.log(GetParam().rank), "");
}

TEST_P(HubDeath, ARankThatFailsGivesItsReason)
{
    HubJob job(4);
    start(job, [](hn_hub *h, int rank) {
        hn_hub_at(h, HN_HUB_AT_EVALUATE, 7);
        hn_hub_fail(h, "out of memory:\n 3 bytes");
        hn_hub_fail(h, "a second reason");
        RANK_EXPECT(hn_hub_dead(h) == nullptr && rank == hn_hub_rank(h));
        RANK_EXPECT(hn_hub_barrier(h) == HN_ERR_COMM);
        RANK_EXPECT(std::string(hn_last_text()) ==
                    "rank " + std::to_string(rank) + " has failed: out of memory:? 3 bytes");
        return 2;
    });
    expect_named(job, "failed in phase 'evaluate' at step 7: out of memory:? 3 bytes");
    EXPECT_EQ(job.wait(GetParam().rank), 2); /* its own code, and its own words */
    EXPECT_EQ(job.log(GetParam().rank), "");
}

/* Its main thread hangs, and another thread's library knows why. */
TEST_P(HubDeath, AFailedCheckIsAFailure)
{
    HubJob job(4);
    job.silent = 0.6;
    start(job, [](hn_hub *h, int) -> int {
        hn_hub_callbacks w = {};
        w.check = [](void *) { return "NCCL: unhandled system error"; };
        hn_hub_watch(h, &w);
        hang();
    });
    expect_named(job, "failed in phase 'step' at step 120: NCCL: unhandled system error");
    EXPECT_EQ(job.wait(GetParam().rank), 1);
    EXPECT_EQ(job.log(GetParam().rank),
              line_of(GetParam().rank,
                      "failed in phase 'step' at step 120: NCCL: unhandled system error"));
}

TEST_P(HubDeath, AStalledRankIsNamed)
{
    if (GetParam().busy == HANGS) return; /* all stall then: below */
    HubJob job(4);
    job.stall = 1;
    start(job, [](hn_hub *, int) -> int { hang(); });
    expect_named(job, "stalled in phase 'step' at step 120 (no progress for 1 s)");
    EXPECT_EQ(job.wait(GetParam().rank), 1); /* it beats, so it hears it */
    EXPECT_EQ(
        job.log(GetParam().rank),
        line_of(GetParam().rank, "stalled in phase 'step' at step 120 (no progress for 1 s)"));
}

TEST_P(HubDeath, ARankThatLeavesEarlyIsNamed)
{
    if (GetParam().busy == HANGS) return; /* nobody waits for it */
    HubJob job(4);
    start(job, [](hn_hub *h, int) {
        hn_hub_at(h, HN_HUB_AT_END, 121);
        return 0;
    });
    expect_named(job, "ended in phase 'end' at step 121 while others wait for it");
    EXPECT_EQ(job.wait(GetParam().rank), 0);
    EXPECT_EQ(job.log(GetParam().rank), "");
}

/* ---- stalls ---- */

TEST(HubStall, OfSeveralTheLowestStepIsNamed)
{
    HubJob job(3);
    job.stall = 1;
    job.start_all([](hn_hub *h, int rank) -> int {
        hn_hub_at(h, HN_HUB_AT_STEP, rank == 1 ? 41 : 43);
        hang();
    });
    job.expect_all(1);
    for (int r = 0; r < 3; r++)
        EXPECT_EQ(job.log(r), "rank 1 on host1 stalled in phase 'step' at step 41 (no progress for "
                              "1 s)\n");
}

TEST(HubStall, RanksAtTheSameStepAreCounted)
{
    HubJob job(3);
    job.stall = 1;
    job.start_all([](hn_hub *h, int rank) -> int {
        hn_hub_at(h, HN_HUB_AT_STEP, 5);
        if (rank != 2) hang();
        for (;;) { /* works, and is waited for by nobody */
            hn_hub_at(h, HN_HUB_AT_STEP, 6);
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
    });
    job.expect_all(1);
    EXPECT_NE(job.log(2).find("at step 5 (no progress for 1 s"), std::string::npos) << job.log(2);
    EXPECT_EQ(job.log(0), job.log(1));
}

/* Rank 0 saves for longer than the others may stall; then all go on. */
TEST(HubStall, WhoWaitsForASaveDoesNotStall)
{
    HubJob job(3);
    job.stall = 1; /* more than a busy machine keeps a message waiting */
    job.start_all([](hn_hub *h, int rank) {
        hn_hub_at(h, HN_HUB_AT_STEP, 1);
        RANK_OK(hn_hub_barrier(h));
        if (rank == 0) {
            hn_hub_at(h, HN_HUB_AT_SAVE, 1);
            std::this_thread::sleep_for(std::chrono::milliseconds(3000));
        } else if (rank == 1) { /* as one that waits inside NCCL */
            std::this_thread::sleep_for(std::chrono::milliseconds(2200));
        }
        hn_hub_at(h, HN_HUB_AT_STEP, 2);
        RANK_OK(hn_hub_barrier(h));
        return 0;
    });
    job.expect_all(0);
    for (int r = 0; r < 3; r++) EXPECT_EQ(job.log(r), "");
}

/* ---- the end of a process ---- */

TEST(HubEnd, AbortIsCalledOnceAndFreesTheMainThread)
{
    HubJob job(2);
    SharedCounters n;
    job.grace = 60; /* abort, not the timer */
    job.start_all([&](hn_hub *h, int rank) -> int {
        struct State {
            std::atomic<bool> freed{false};
            SharedCounters *n;
        } state;
        state.n = &n;
        hn_hub_callbacks w = {};
        w.context = &state;
        w.abort = [](void *p) {
            auto *s = static_cast<State *>(p);
            (*s->n)[1]++;
            s->freed = true;
        };
        hn_hub_watch(h, &w);
        n[0]++;
        if (rank == 1) hang();
        while (!state.freed) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        RANK_EXPECT(hn_hub_dead(h) != nullptr);
        hn_hub_watch(h, nullptr);
        RANK_EXPECT(hn_hub_barrier(h) == HN_ERR_COMM);
        RANK_EXPECT(std::string(hn_last_text()) == hn_hub_dead(h));
        return 42;
    });
    ASSERT_TRUE(eventually([&] { return n[0] == 2; }));
    job.signal(1, SIGKILL);
    EXPECT_EQ(job.wait(0), 42);
    EXPECT_EQ(n[1], 1);
}

/* Its log blocks for good; it leaves nevertheless. */
TEST(HubEnd, ALogThatHangsKeepsNobody)
{
    HubJob job(2);
    static const hn_log stuck = {[](void *, hn_log_level, const char *) { hang(); }, nullptr};
    job.change = [](int rank, hn_hub_options &o) {
        if (rank == 0) o.log = &stuck;
    };
    SharedCounters n;
    job.start_all([&](hn_hub *, int) -> int {
        n[0]++;
        hang();
    });
    ASSERT_TRUE(eventually([&] { return n[0] == 2; }));
    job.signal(1, SIGKILL);
    EXPECT_EQ(job.wait(0), 1);
}

TEST(HubEnd, GoodbyesAreNoDeaths)
{
    for (const int last : {0, 2}) { /* rank 0 ends last, and first */
        HubJob job(3);
        job.silent = 1;
        job.start_all([&](hn_hub *h, int rank) {
            RANK_OK(hn_hub_barrier(h));
            hn_hub_at(h, HN_HUB_AT_END, 9);
            if (rank == last) std::this_thread::sleep_for(std::chrono::milliseconds(2500));
            RANK_EXPECT(hn_hub_dead(h) == nullptr);
            return 0;
        });
        job.expect_all(0);
        for (int r = 0; r < 3; r++) EXPECT_EQ(job.log(r), "");
    }
}

TEST(HubEnd, WithoutRankZeroACollectiveFails)
{
    HubJob job(2);
    SharedCounters gone;
    job.start_all([&](hn_hub *h, int rank) {
        if (rank == 0) return 0;
        while (gone[0] == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        return hn_status_exit_code(hn_hub_barrier(h));
    });
    EXPECT_EQ(job.wait(0), 0);
    gone[0] = 1;
    EXPECT_EQ(job.wait(1), 1);
    EXPECT_EQ(job.log(1), "rank 0 on host0 ended in phase 'open' while others wait for it\n");
}

/* ---- a member that speaks nonsense ---- */

class HubNonsense : public testing::Test {
  protected:
    HubJob job{2};
    Impostor one;
    void SetUp() override
    {
        int port = 0, fd = listening(&port);
        job.change = [&](int, hn_hub_options &o) { o.file = nullptr, o.listen_fd = fd; };
        job.start(0, [](hn_hub *h, int) {
            float x[1000] = {};
            return hn_status_exit_code(hn_hub_sum_f32(h, x, 1000));
        });
        hn_socket_close(&fd);
        uint8_t start[HN_HUB_FRAME + 2 * HN_HUB_HOST_TEXT];
        ASSERT_TRUE(one.join(port));
        ASSERT_HN_OK(hn_socket_receive(one.fd, start, sizeof start, one.soon()));
    }
    void expect(const std::string &text)
    {
        EXPECT_EQ(job.wait(0), 1);
        EXPECT_NE(job.log(0).find("rank 1 on impostor died in phase 'open' (" + text),
                  std::string::npos)
            << job.log(0);
    }
};

TEST_F(HubNonsense, FramesOfNoKind)
{
    ASSERT_HN_OK(one.send(std::string(100, 'x').data(), 100));
    expect("it sends what nobody understands");
}

TEST_F(HubNonsense, FramesWithEndlessTexts)
{
    hn_hub_frame f = {HN_HUB_FAIL, 0x7fffffff, {HN_HUB_AT_STEP, false, 1, 0}};
    uint8_t bytes[HN_HUB_FRAME];
    hn_hub_frame_write(&f, bytes);
    ASSERT_HN_OK(one.send(bytes, sizeof bytes));
    expect("it sends what nobody understands");
}

TEST_F(HubNonsense, VerdictsOfARankThatIsNotZero)
{
    for (const auto kind : {HN_HUB_BEAT, HN_HUB_DEAD}) {
        const hn_hub_frame f = {kind, 0, {HN_HUB_AT_OPEN, false, -1, INT64_MAX}};
        uint8_t bytes[HN_HUB_FRAME];
        hn_hub_frame_write(&f, bytes);
        ASSERT_HN_OK(one.send(bytes, sizeof bytes));
    }
    expect("it sends what nobody understands");
}

TEST_F(HubNonsense, ADataConnectionAloneCloses)
{
    std::thread beats([&] { /* the watch connection is well */
                            const hn_hub_frame f = {HN_HUB_BEAT, 0, {HN_HUB_AT_OPEN, false, -1, 0}};
                            uint8_t bytes[HN_HUB_FRAME];
                            hn_hub_frame_write(&f, bytes);
                            while (one.send(bytes, sizeof bytes) == HN_OK)
                                std::this_thread::sleep_for(std::chrono::milliseconds(20));
    });
    hn_socket_close(&one.data);
    expect("data connection: connection closed)");
    beats.join();
}

TEST_F(HubNonsense, ACollectiveOfNoKind)
{
    std::swap(one.fd, one.data);
    ASSERT_HN_OK(one.send(std::string(HN_HUB_HEAD, 'x').data(), HN_HUB_HEAD));
    EXPECT_EQ(job.wait(0), 1); /* its caller prints hn_last_text() */
    std::swap(one.fd, one.data);
    uint8_t bytes[HN_HUB_FRAME];
    hn_hub_frame f = {};
    do { /* beats, then what rank 0 tells all */
        ASSERT_HN_OK(hn_socket_receive(one.fd, bytes, sizeof bytes, one.soon()));
        ASSERT_TRUE(hn_hub_frame_read(bytes, &f));
    } while (f.kind == HN_HUB_BEAT);
    std::string text(f.n_text, ' ');
    ASSERT_EQ(f.kind, HN_HUB_DEAD);
    ASSERT_HN_OK(hn_socket_receive(one.fd, text.data(), text.size(), one.soon()));
    EXPECT_EQ(text, "rank 0 on host0 failed in phase 'open': collective 1: rank 0 calls sum_f32 of "
                    "4000 bytes, rank 1 something that is no collective");
}

} // namespace
