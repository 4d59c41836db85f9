/* ranks_test.h - a function on several ranks, each a process of its own.
 *
 * The test's process must not have used OpenMP or CUDA when it forks: all that computes runs in
 * ranks, a single one too. On GPUs rank r has cuda:r. */
#ifndef HN_RANKS_TEST_H
#define HN_RANKS_TEST_H
#include <arpa/inet.h>
#include <omp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>

#include "hn_test.h"
#include "runtime/comm/hn_comm.h"

/* What a rank finds. */
struct Rank {
    hn_hub *hub = nullptr;
    int rank = 0, size = 1;
    std::string device; /* "cpu", "cuda:1" */

    /* The device's collectives, until the rank is done. */
    hn_comm *join(hn_device *d) const
    {
        hn_comm *c = nullptr;
        EXPECT_HN_OK(hn_comm_open(hub, d, &c));
        return c;
    }
};

using RankResult = std::vector<float>;
using RankFunction = std::function<RankResult(const Rank &)>;

/* A listening socket on a free port of the loopback interface. */
inline int listen_on_loopback(int *port)
{
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in a = {};
    socklen_t size = sizeof a;
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(fd, (const sockaddr *)&a, sizeof a), 0);
    EXPECT_EQ(listen(fd, 64), 0);
    EXPECT_EQ(getsockname(fd, (sockaddr *)&a, &size), 0);
    *port = ntohs(a.sin_port);
    return fd;
}

/* In a child: the rank's whole life. */
inline int be_rank(int rank, int size, const std::string &kind, int listen_fd, int port,
                   const std::string &result, const RankFunction &f)
{
    const std::string address = "127.0.0.1:" + std::to_string(port);
    Rank r;
    r.rank = rank;
    r.size = size;
    r.device = kind == "cpu" ? kind : "cuda:" + std::to_string(rank);
    setenv("HONE_TEST_DEVICE", r.device.c_str(), 1);
    omp_set_num_threads(1);
    hn_hub_options o = {};
    o.rank = rank;
    o.size = size;
    o.job = "test";
    o.secret = result.c_str(); /* names the run */
    o.address = address.c_str();
    o.listen_fd = rank == 0 ? listen_fd : 0;
    o.local = true;
    o.timeout_s = 120;
    EXPECT_HN_OK(hn_hub_open(&o, &r.hub));
    if (r.hub == nullptr) return 1;
    const RankResult v = f(r);
    if (::testing::Test::HasFailure()) hn_hub_fail(r.hub, "a test failed");
    hn_hub_close(r.hub);
    std::ofstream(result + std::to_string(rank), std::ios::binary)
        .write((const char *)v.data(), (std::streamsize)(v.size() * sizeof(float)));
    return ::testing::Test::HasFailure() ? 1 : 0;
}

/* f on `size` ranks at once, on kind "cpu" or "cuda"; results in rank order. */
inline std::vector<RankResult> run_ranks(const std::string &kind, int size, const RankFunction &f)
{
    const TempDir dir;
    const std::string result = dir / "rank";
    std::vector<pid_t> child;
    int port = 0;
    const int fd = listen_on_loopback(&port);
    std::fflush(nullptr);
    for (int rank = 0; rank < size; rank++) {
        const pid_t pid = fork();
        EXPECT_GE(pid, 0);
        if (pid == 0) {
            if (rank > 0) close(fd);
            const int code = be_rank(rank, size, kind, fd, port, result, f);
            std::fflush(nullptr);
            _exit(code);
        }
        child.push_back(pid);
    }
    close(fd);
    std::vector<RankResult> all;
    for (int rank = 0; rank < size; rank++) {
        int status = 0;
        EXPECT_EQ(waitpid(child[(size_t)rank], &status, 0), child[(size_t)rank]);
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
            << "rank " << rank << " of " << size << ", status " << status;
        std::ifstream in(result + std::to_string(rank), std::ios::binary);
        const std::string bytes((std::istreambuf_iterator<char>(in)), {});
        all.emplace_back(bytes.size() / sizeof(float));
        if (!all.back().empty())
            std::memcpy(all.back().data(), bytes.data(), all.back().size() * sizeof(float));
    }
    return all;
}

/* What tests over "cpu" and "cuda" are called: gpu_test.sh looks for Cuda. */
inline std::string device_name(const ::testing::TestParamInfo<const char *> &i)
{
    return std::string(i.param) == "cpu" ? "Cpu" : "Cuda";
}

/* How many GPUs there are, asked in a process of its own, once. */
inline int count_gpus()
{
    static const int count = [] {
        int n = 0;
        return hn_launch_count_devices(&n, nullptr, 0) == HN_OK ? n : 0;
    }();
    return count;
}

/* Skips what needs more GPUs than there are. */
#define HN_NEED_RANKS(kind, n)                                                              \
    do {                                                                                    \
        const int gpus_ = std::string(kind) == "cpu" ? (n) : count_gpus();                  \
        if (gpus_ < (n)) {                                                                  \
            ASSERT_TRUE(gpus_ > 0 || std::getenv("HN_REQUIRE_GPU") == nullptr) << "no GPU"; \
            GTEST_SKIP() << "needs " << (n) << " GPUs, there are " << gpus_;                \
        }                                                                                   \
    } while (0)

#endif
