/* runtime/comm/launch: ranks on one host as real processes, how they end, who hears of it.
 *
 * Every launch happens in a process of its own. It and its ranks leave with _exit, and what they
 * have to say is in files of the test's folder. */
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <set>
#include <thread>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/comm/hn_comm.h"
#include "runtime/device/device.h"

namespace {

using Body = std::function<int(int rank)>;

/* True once `done` is, within a minute: tests wait for something to be so, never for a time. */
bool soon(const std::function<bool()> &done)
{
    for (int i = 0; i < 6000; i++) {
        if (done()) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
}

/* A file that is there only when it is whole. */
void publish(const std::string &path, const std::string &text)
{
    write_file(path + ".part", text);
    std::filesystem::rename(path + ".part", path);
}

void log_line(void *context, hn_log_level, const char *text)
{
    std::ofstream(*static_cast<std::string *>(context), std::ios::app) << text << "\n";
}

class Launch {
  public:
    TempDir dir;
    pid_t pid = -1;
    int n = 0;

    /* before: what the launching process does first */
    Launch(int ranks, const Body &body, double leave_s = 0, double kill_s = 0,
           const std::function<void()> &before = {})
        : n(ranks)
    {
        prctl(PR_SET_CHILD_SUBREAPER, 1); /* ranks whose parent has gone come here */
        fflush(nullptr);                  /* or the launch writes the test's own lines once more */
        pid = fork();
        if (pid != 0) return;
        setpgid(0, 0);
        std::string path = dir / "log";
        const hn_log log = {log_line, &path};
        const hn_launch_options o = {ranks, leave_s, kill_s, &log};
        hn_launched l = {};
        if (before) before();
        if (hn_launch(&o, &l) != HN_OK) {
            rlimit files = {}; /* one test takes them away */
            getrlimit(RLIMIT_NOFILE, &files);
            files.rlim_cur = files.rlim_max;
            setrlimit(RLIMIT_NOFILE, &files);
            write_file(dir / "failed", hn_last_error());
            _exit(100);
        }
        if (!l.is_rank) _exit(l.exit_code);
        const int code = body(l.rank);
        _exit(code);
    }
    ~Launch()
    {
        if (pid > 0) kill(pid, SIGKILL);
        if (pid > 0) waitpid(pid, nullptr, 0);
    }

    /* The exit code of the launching process, 1000 + signal if one ended it. */
    int wait()
    {
        int status = 0;
        EXPECT_EQ(waitpid(pid, &status, 0), pid);
        pid = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    }
    std::string said() { return read_file(dir / "log"); }
    std::string failure() { return read_file(dir / "failed"); }

    /* In a rank: says that it is ready, and with which process. */
    void ready(int rank)
    {
        publish(dir / ("ready-" + std::to_string(rank)), std::to_string(getpid()));
    }
    /* In the test: the ranks' processes, once all are ready. */
    std::vector<pid_t> ranks()
    {
        std::vector<pid_t> all;
        for (int i = 0; i < n; i++) {
            const std::string path = dir / ("ready-" + std::to_string(i));
            EXPECT_TRUE(soon([&] { return std::filesystem::exists(path); })) << failure();
            all.push_back((pid_t)std::atoi(read_file(path).c_str()));
        }
        return all;
    }
};

[[noreturn]] void sleep_forever()
{
    for (;;) pause();
}

sigset_t set_of(std::initializer_list<int> numbers)
{
    sigset_t s;
    sigemptyset(&s);
    for (int number : numbers) sigaddset(&s, number);
    return s;
}

/* ---- what the ranks are told ---- */

/* 0 if the rank finds in its environment what it should; others are numbers of the failed check. */
int check_place(int rank, int n, hn_ranks *r)
{
    if (hn_ranks_find(nullptr, nullptr, nullptr, r) != HN_OK) return 11;
    if (r->launcher != HN_LAUNCHER_FLAGS || r->rank != rank || r->size != n) return 12;
    if (r->local_rank != rank || r->local_size != n || !r->local) return 13;
    if (strlen(r->secret) != 32 || r->job[0] == 0) return 14;
    if (strncmp(r->address, "127.0.0.1:", 10) != 0) return 15;
    if ((r->listen_fd != 0) != (rank == 0)) return 16;
    return 0;
}

int connect_to(const char *address)
{
    sockaddr_in a = {};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)std::atoi(std::strchr(address, ':') + 1));
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    return connect(fd, (const sockaddr *)&a, sizeof a) == 0 ? fd : -1;
}

TEST(Launch, RanksKnowTheirPlaceAndRankZeroListens)
{
    const Body body = [](int rank) {
        hn_ranks r = {};
        const int wrong = check_place(rank, 4, &r);
        if (wrong != 0) return wrong;
        char text = (char)('0' + rank);
        if (rank != 0) {
            const int fd = connect_to(r.address);
            return fd >= 0 && write(fd, &text, 1) == 1 ? 0 : 20;
        }
        std::set<char> came;
        for (int i = 1; i < 4; i++) {
            const int fd = accept(r.listen_fd, nullptr, nullptr);
            if (fd < 0 || read(fd, &text, 1) != 1) return 21;
            came.insert(text);
        }
        return came == std::set<char>{'1', '2', '3'} ? 0 : 22;
    };
    Launch l(4, body);
    EXPECT_EQ(l.wait(), 0) << l.failure();
    EXPECT_EQ(l.said(), "");
}

TEST(Launch, OneRankIsPossible)
{
    Launch l(1, [](int rank) { return rank == 0 ? 0 : 9; });
    EXPECT_EQ(l.wait(), 0) << l.failure();
}

/* The launching process must not keep the port open: who comes when rank 0 has gone is refused. */
TEST(Launch, NobodyListensWhenRankZeroHasGone)
{
    TempDir shared;
    const Body body = [&](int rank) {
        hn_ranks r = {};
        if (check_place(rank, 2, &r) != 0) return 9;
        if (rank == 0) return 0;
        return soon([&] { return connect_to(r.address) < 0; }) ? 0 : 10;
    };
    Launch l(2, body);
    EXPECT_EQ(l.wait(), 0);
}

TEST(Launch, EveryLaunchHasItsOwnSecretAndIdentity)
{
    std::set<std::string> secrets, jobs;
    for (int i = 0; i < 3; i++) {
        TempDir d;
        Launch l(2, [&](int rank) {
            hn_ranks r = {};
            if (check_place(rank, 2, &r) != 0) return 9;
            write_file(d / std::to_string(rank), std::string(r.secret) + " " + r.job);
            return 0;
        });
        ASSERT_EQ(l.wait(), 0);
        EXPECT_EQ(read_file(d / "0"), read_file(d / "1"));
        std::istringstream both(read_file(d / "0"));
        std::string secret, job;
        both >> secret >> job;
        secrets.insert(secret), jobs.insert(job);
    }
    EXPECT_EQ(secrets.size(), 3u);
    EXPECT_EQ(jobs.size(), 3u);
}

TEST(Launch, TheSocketIsNoStandardStream)
{
    Launch l(
        2,
        [](int rank) {
            hn_ranks r = {};
            return check_place(rank, 2, &r) != 0 ? 9 : rank == 0 && r.listen_fd < 3 ? 10 : 0;
        },
        0, 0, [] { close(0), close(1), close(2); });
    EXPECT_EQ(l.wait(), 0);
}

TEST(Launch, WhatWaitsInABufferIsWrittenOnce)
{
    TempDir d;
    const std::string path = d / "out";
    Launch l(
        3,
        [](int) {
            fflush(stdout);
            return 0;
        },
        0, 0,
        [&] {
            if (freopen(path.c_str(), "w", stdout) == nullptr) _exit(99);
            printf("once");
        });
    EXPECT_EQ(l.wait(), 0);
    EXPECT_EQ(read_file(path), "once");
}

/* ---- how they end ---- */

/* Bad input of one rank makes the others fail: it is what the code says. */
TEST(LaunchEnd, TheExitCodesOfRanksBecomeOne)
{
    const struct {
        std::vector<int> codes;
        int expected;
    } rows[] = {{{0, 0, 0}, 0}, {{2, 2}, 2},    {{0, 2}, 2}, {{1, 0}, 1},
                {{2, 1}, 2},    {{1, 2, 0}, 2}, {{0, 7}, 1}};
    for (const auto &row : rows) {
        Launch l((int)row.codes.size(), [&](int rank) { return row.codes[(size_t)rank]; });
        EXPECT_EQ(l.wait(), row.expected);
        EXPECT_EQ(l.said(), "") << "ranks that leave by themselves have spoken for themselves";
    }
}

TEST(LaunchEnd, ARankThatEndsWellEndsNobodyElse)
{
    TempDir d;
    Launch l(
        2,
        [&](int rank) {
            if (rank == 0) return 0;
            return soon([&] { return std::filesystem::exists(d / "go"); }) ? 0 : 9;
        },
        0.01, 0.02);
    std::this_thread::sleep_for(std::chrono::milliseconds(200)); /* ten times the limits */
    write_file(d / "go", "");
    EXPECT_EQ(l.wait(), 0);
    EXPECT_EQ(l.said(), "");
}

TEST(LaunchEnd, AKilledRankIsNamedAndTheOthersAreEnded)
{
    Launch l(
        3,
        [&](int rank) -> int {
            l.ready(rank);
            sleep_forever();
        },
        0.05, 60);
    const auto ranks = l.ranks();
    ASSERT_EQ(kill(ranks[1], SIGKILL), 0);
    EXPECT_EQ(l.wait(), 1);
    EXPECT_NE(l.said().find("rank 1 of 3 (process " + std::to_string(ranks[1]) +
                            ") was ended by SIGKILL"),
              std::string::npos)
        << l.said();
    EXPECT_NE(l.said().find("2 ranks are still there"), std::string::npos) << l.said();
    EXPECT_NE(l.said().find("after rank 1 failed: SIGTERM"), std::string::npos) << l.said();
    EXPECT_EQ(l.said().find("rank 0 of"), std::string::npos) << "ended from here: no news";
}

TEST(LaunchEnd, ACrashIsNamed)
{
    Launch l(
        2,
        [&](int rank) -> int {
            const rlimit none = {0, 0};
            setrlimit(RLIMIT_CORE, &none);
            signal(SIGSEGV, SIG_DFL); /* no sanitizer's */
            if (rank == 1) raise(SIGSEGV);
            return 0;
        },
        0.05, 60);
    EXPECT_EQ(l.wait(), 1);
    EXPECT_NE(l.said().find("was ended by SIGSEGV"), std::string::npos) << l.said();
}

TEST(LaunchEnd, OthersMayLeaveByThemselves)
{
    Launch l(3, [&](int rank) {
        const sigset_t term = set_of({SIGTERM});
        sigprocmask(SIG_BLOCK, &term, nullptr);
        if (rank == 2) raise(SIGKILL);
        const timespec t = {0, 200000000};
        return sigtimedwait(&term, nullptr, &t) == SIGTERM ? 9 : 1; /* no SIGTERM so soon */
    });
    EXPECT_EQ(l.wait(), 1);
    EXPECT_EQ(l.said().find("SIGTERM"), std::string::npos) << l.said();
}

TEST(LaunchEnd, BadInputOfOneRankStaysBadInput)
{
    Launch l(
        3,
        [&](int rank) -> int {
            if (rank == 1) return 2;
            sleep_forever();
        },
        0.05, 60);
    EXPECT_EQ(l.wait(), 2);
}

TEST(LaunchEnd, ADeathIsNoBadInput)
{
    Launch l(2, [](int rank) {
        if (rank == 1) raise(SIGKILL);
        return 2;
    });
    EXPECT_EQ(l.wait(), 1);
    EXPECT_NE(l.said().find("rank 1 of 2"), std::string::npos) << l.said();
}

TEST(LaunchEnd, WhoIgnoresSigtermIsKilled)
{
    Launch l(
        3,
        [&](int rank) -> int {
            signal(SIGTERM, SIG_IGN);
            l.ready(rank);
            if (rank == 0)
                return soon([&] { return std::filesystem::exists(l.dir / "ready-2"); }) ? 1 : 9;
            sleep_forever();
        },
        0.05, 0.1);
    const auto ranks = l.ranks();
    EXPECT_EQ(l.wait(), 1);
    EXPECT_NE(l.said().find("failed: SIGKILL"), std::string::npos) << l.said();
    for (pid_t p : ranks) EXPECT_EQ(kill(p, 0), -1);
}

TEST(LaunchEnd, AStoppedRankIsEndedToo)
{
    Launch l(
        2,
        [&](int rank) -> int {
            l.ready(rank);
            if (rank == 0) sleep_forever();
            raise(SIGSTOP);
            return 9;
        },
        0.05, 20);
    const auto ranks = l.ranks();
    kill(ranks[0], SIGKILL);
    EXPECT_EQ(l.wait(), 1);
    EXPECT_NE(l.said().find("failed: SIGTERM"), std::string::npos) << l.said();
    EXPECT_EQ(l.said().find("failed: SIGKILL"), std::string::npos) << "it was not continued";
}

TEST(LaunchEnd, RanksGoWithAParentThatIsKilled)
{
    Launch l(3, [&](int rank) -> int {
        signal(SIGTERM, SIG_IGN);
        l.ready(rank);
        sleep_forever();
    });
    const auto ranks = l.ranks();
    kill(l.pid, SIGKILL);
    EXPECT_EQ(l.wait(), 1000 + SIGKILL);
    for (pid_t p : ranks) {
        int status = 0;
        ASSERT_EQ(waitpid(p, &status, 0), p); /* the test is their parent now */
        EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
}

TEST(LaunchEnd, ACallerThatIgnoresItsChildrenSeesThemAllTheSame)
{
    Launch l(
        2, [](int rank) { return rank == 1 ? 2 : 0; }, 0, 0, [] { signal(SIGCHLD, SIG_IGN); });
    EXPECT_EQ(l.wait(), 2);
}

/* ---- signals ---- */

class LaunchSignal : public testing::TestWithParam<int> {};

/* Sent to the process, and to its group as a terminal does: each rank gets it once, from its
 * parent.
 */
TEST_P(LaunchSignal, GoesToEveryRankOnce)
{
    const int number = GetParam();
    for (const bool group : {false, true}) {
        Launch l(3, [&](int rank) {
            const sigset_t both = set_of({number, SIGWINCH});
            sigprocmask(SIG_BLOCK, &both, nullptr);
            int first = 0, second = 0;
            l.ready(rank);
            if (sigwait(&both, &first) != 0 || first != number) return 9;
            publish(l.dir / ("got-" + std::to_string(rank)), "");
            if (!soon([&] { return std::filesystem::exists(l.dir / "end"); })) return 10;
            raise(SIGWINCH); /* the highest number: a second one would come before it */
            return sigwait(&both, &second) == 0 && second == SIGWINCH ? 0 : 11;
        });
        const auto got = [&](int rank) {
            return std::filesystem::exists(l.dir / ("got-" + std::to_string(rank)));
        };
        l.ranks();
        kill(l.pid, SIGSTOP); /* as long as it hands nothing on, nothing may come */
        ASSERT_EQ(kill(group ? -l.pid : l.pid, number), 0);
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
        for (int i = 0; i < 3; i++) EXPECT_FALSE(got(i));
        kill(l.pid, SIGCONT);
        for (int i = 0; i < 3; i++) EXPECT_TRUE(soon([&] { return got(i); }));
        publish(l.dir / "end", "");
        EXPECT_EQ(l.wait(), 0) << (group ? "to the group" : "to the process");
    }
}

INSTANTIATE_TEST_SUITE_P(All, LaunchSignal,
                         testing::Values(SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2));

TEST(LaunchSignals, RanksThatKnowNoSignalEndByItAndSoSaysTheCode)
{
    Launch l(2, [&](int rank) -> int {
        l.ready(rank);
        sleep_forever();
    });
    l.ranks();
    kill(l.pid, SIGTERM);
    EXPECT_EQ(l.wait(), 128 + SIGTERM);
    EXPECT_EQ(l.said(), "");
}

TEST(LaunchSignals, WhatIsIgnoredIsNotHandedOn)
{
    Launch l(
        2,
        [&](int rank) {
            const sigset_t both = set_of({SIGHUP, SIGTERM});
            int first = 0;
            signal(SIGHUP, SIG_DFL);
            sigprocmask(SIG_BLOCK, &both, nullptr);
            l.ready(rank);
            return sigwait(&both, &first) == 0 && first == SIGTERM ? 0 : 9; /* HUP is the lower */
        },
        0, 0, [] { signal(SIGHUP, SIG_IGN); });
    l.ranks();
    kill(l.pid, SIGHUP);
    kill(l.pid, SIGTERM);
    EXPECT_EQ(l.wait(), 0);
}

TEST(LaunchSignals, RanksStopAndGoOnWithTheirParent)
{
    Launch l(2, [&](int rank) -> int {
        l.ready(rank);
        sleep_forever();
    });
    const auto ranks = l.ranks();
    const auto state = [](pid_t p) {
        const std::string stat = read_file("/proc/" + std::to_string(p) + "/stat");
        return stat.substr(stat.rfind(')') + 2, 1);
    };
    kill(l.pid, SIGTSTP);
    EXPECT_TRUE(soon([&] { return state(l.pid) == "T"; }));
    for (pid_t p : ranks) EXPECT_TRUE(soon([&] { return state(p) == "T"; }));
    kill(l.pid, SIGCONT);
    for (pid_t p : ranks) EXPECT_TRUE(soon([&] { return state(p) == "S"; }));
    kill(l.pid, SIGTERM);
    EXPECT_EQ(l.wait(), 128 + SIGTERM);
}

TEST(LaunchSignals, TheCallerHasItsOwnBackAfterwards)
{
    TempDir d;
    const pid_t pid = fork();
    if (pid == 0) {
        const hn_launch_options o = {2, 0, 0, nullptr};
        hn_launched l = {};
        sigset_t mask;
        struct sigaction chld = {};
        const sigset_t usr2 = set_of({SIGUSR2});
        sigprocmask(SIG_SETMASK, &usr2, nullptr);
        signal(SIGCHLD, SIG_IGN);
        const bool ran = hn_launch(&o, &l) == HN_OK;
        sigprocmask(SIG_SETMASK, nullptr, &mask);
        sigaction(SIGCHLD, nullptr, &chld);
        const bool same = sigismember(&mask, SIGUSR2) == 1 && sigismember(&mask, SIGTERM) == 0 &&
                          sigismember(&mask, SIGCHLD) == 0 && chld.sa_handler == SIG_IGN;
        if (ran && l.is_rank) _exit(same ? 0 : 3); /* and so have the ranks */
        const bool clean = getenv("HONE_RANK") == nullptr && getenv("HONE_RANKS") == nullptr &&
                           getenv("HONE_RENDEZVOUS_SECRET") == nullptr;
        _exit(ran && same && clean ? l.exit_code : 4);
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

/* ---- errors ---- */

TEST(LaunchErrors, OptionsAreChecked)
{
    const struct {
        int n;
        double leave_s, kill_s;
        const char *part;
    } rows[] = {
        {0, 0, 0, "0 ranks: 1 to 4096"}, {-1, 0, 0, "-1 ranks"},
        {4097, 0, 0, "4097 ranks"},      {2, 5, 1, "SIGTERM after 5 s, SIGKILL after 1 s"},
        {2, -1, 1, "launch: SIGTERM"},   {2, NAN, 1, "launch: SIGTERM"},
        {2, 1, 1e9, "launch: SIGTERM"},
    };
    for (const auto &row : rows) {
        const hn_launch_options o = {row.n, row.leave_s, row.kill_s, nullptr};
        hn_launched l = {};
        l.rank = -7;
        EXPECT_HN_FAIL(hn_launch(&o, &l), HN_ERR_ARG, row.part);
        EXPECT_EQ(l.rank, -7);
    }
}

TEST(LaunchErrors, AProcessWithThreadsMayNotFork)
{
    Launch l(
        2, [](int) { return 0; }, 0, 0, [] { std::thread(sleep_forever).detach(); });
    EXPECT_EQ(l.wait(), 100);
    EXPECT_NE(l.failure().find("2 threads run already"), std::string::npos) << l.failure();
}

TEST(LaunchErrors, NoDescriptorsNoMemory)
{
    Launch files(
        2, [](int) { return 0; }, 0, 0,
        [] {
            rlimit few = {};
            const int next = dup(0);
            close(next);
            getrlimit(RLIMIT_NOFILE, &few);
            few.rlim_cur = (rlim_t)next;
            if (setrlimit(RLIMIT_NOFILE, &few) != 0) _exit(99);
        });
    EXPECT_EQ(files.wait(), 100);
    EXPECT_NE(files.failure().find("ERR_COMM: a port of the loopback interface"), std::string::npos)
        << files.failure();
    Launch memory(
        2, [](int) { return 0; }, 0, 0, [] { hn_alloc_fail_at(1); });
    EXPECT_EQ(memory.wait(), 100);
    EXPECT_NE(memory.failure().find("ERR_MEMORY"), std::string::npos) << memory.failure();
}

/* ---- how many GPUs there are ---- */

TEST(LaunchCount, SaysHowManyOrWhyNone)
{
    int n = -1;
    char why[256] = "?";
    ASSERT_HN_OK(hn_launch_count_devices(&n, why, sizeof why));
    ASSERT_GE(n, 0);
    EXPECT_EQ(n == 0, why[0] != '\0') << why;
#ifndef HONE_CUDA
    EXPECT_EQ(n, 0);
    EXPECT_STREQ(why, "this build has no CUDA code");
#endif
    EXPECT_HN_OK(hn_launch_count_devices(&n, nullptr, 0));
}

#ifdef HONE_CUDA
/* Counting leaves this process without CUDA: its ranks can open a GPU each. */
TEST(LaunchCountCuda, RanksOpenTheGpusThatWereCounted)
{
    int n = 0;
    ASSERT_HN_OK(hn_launch_count_devices(&n, nullptr, 0));
    if (n == 0) { /* HN_NEED_CUDA() would call CUDA here */
        ASSERT_EQ(std::getenv("HN_REQUIRE_GPU"), nullptr) << "no CUDA device";
        GTEST_SKIP() << "no CUDA device";
    }
    Launch l(n, [&](int rank) {
        const std::string spec = "cuda:" + std::to_string(rank);
        hn_device *d = nullptr;
        if (hn_device_open(spec.c_str(), &d) != HN_OK) return 9;
        hn_device_close(d);
        return 0;
    });
    EXPECT_EQ(l.wait(), 0);
}
#endif

} // namespace
