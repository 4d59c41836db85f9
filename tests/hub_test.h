/* hub_test.h - jobs of real processes for tests of runtime/comm: each rank is a fork of the test.
 */
#ifndef HN_HUB_TEST_H
#define HN_HUB_TEST_H
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "hn_test.h"
#include "runtime/base/clock.h"
#include "runtime/base/version.h"
#include "runtime/comm/hub.h"
#include "runtime/comm/hub_socket.h"
#include "runtime/comm/hub_wire.h"

/* Waits until a condition holds; a minute is for machines that do ten other things. */
inline bool eventually(const std::function<bool()> &condition, double seconds = 60)
{
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return true;
}

/* Counters that all processes of a test see. */
class SharedCounters {
    std::atomic<int> *n_;

  public:
    SharedCounters()
    {
        void *p = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        EXPECT_NE(p, MAP_FAILED);
        n_ = static_cast<std::atomic<int> *>(p);
    }
    ~SharedCounters() { munmap(n_, 4096); }
    SharedCounters(const SharedCounters &) = delete;
    std::atomic<int> &operator[](int i) { return n_[i]; }
};

/* A job of `size` ranks on this host that meets through a file. A rank is a process: body() returns
 * its exit code; a hub that does not open gives that of its status. */
class HubJob {
    TempDir dir_;
    std::vector<pid_t> pid_;
    std::vector<int> result_; /* exit code, or -signal; kRunning */

  public:
    enum { kRunning = 1000 };
    using Body = std::function<int(hn_hub *h, int rank)>;
    int size;
    double beat = 0.05, silent = 20, stall = -1, grace = 1, timeout = 60;
    std::function<void(int rank, hn_hub_options &o)> change; /* other options */
    std::function<void(int rank)> before;                    /* in the child, first of all */

    explicit HubJob(int n) : pid_((size_t)n, 0), result_((size_t)n, kRunning), size(n) {}
    HubJob(const HubJob &) = delete;
    ~HubJob()
    {
        for (int r = 0; r < (int)pid_.size(); r++)
            if (pid_[(size_t)r] > 0 && result_[(size_t)r] == kRunning) {
                kill(pid_[(size_t)r], SIGKILL);
                waitpid(pid_[(size_t)r], nullptr, 0);
            }
    }
    std::string file() const { return dir_ / "meet"; }
    std::string path(const std::string &name) const { return dir_ / name; }
    std::string log_path(int rank) const { return dir_ / ("log-" + std::to_string(rank)); }
    /* What the rank's hub had to say, and "error: ..." of what failed. */
    std::string log(int rank) const { return read_file(log_path(rank)); }
    pid_t pid(int rank) const { return pid_[(size_t)rank]; }

    static void append(void *path, hn_log_level, const char *text)
    {
        const std::string line = std::string(text) + "\n";
        const int fd = open(static_cast<const std::string *>(path)->c_str(),
                            O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd < 0 || write(fd, line.data(), line.size()) < 0) _exit(99);
        close(fd);
    }

    void start(int rank, const Body &body)
    {
        fflush(nullptr);
        const pid_t child = fork();
        ASSERT_GE(child, 0);
        if (child == 0) _exit(run(rank, body));
        pid_[(size_t)rank] = child;
    }
    void start_all(const Body &body)
    {
        for (int r = 0; r < size; r++) start(r, body);
    }
    void signal(int rank, int number) { ASSERT_EQ(kill(pid_[(size_t)rank], number), 0); }

    bool running(int rank)
    {
        int status = 0;
        const auto r = (size_t)rank;
        if (result_[r] == kRunning && waitpid(pid_[r], &status, WNOHANG) == pid_[r])
            result_[r] = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
        return result_[r] == kRunning;
    }
    /* Exit code, -signal, or kRunning after a minute. */
    int wait(int rank)
    {
        eventually([&] { return !running(rank); });
        return result_[(size_t)rank];
    }
    void expect_all(int code)
    {
        for (int r = 0; r < size; r++) EXPECT_EQ(wait(r), code) << "rank " << r << ": " << log(r);
    }

  private:
    int run(int rank, const Body &body)
    {
        const std::string meet = file(), to = log_path(rank);
        const std::string host = "host" + std::to_string(rank);
        const hn_log sink = {append, const_cast<std::string *>(&to)};
        hn_hub_options o = {};
        if (before) before(rank);
        o.rank = rank;
        o.size = size;
        o.host = host.c_str();
        o.job = "job";
        o.secret = "secret";
        o.file = meet.c_str();
        o.local = true;
        o.timeout_s = timeout;
        o.beat_s = beat;
        o.silent_s = silent;
        o.stall_s = stall;
        o.grace_s = grace;
        o.log = &sink;
        if (change) change(rank, o);
        hn_hub *h = nullptr;
        const hn_status st = hn_hub_open(&o, &h);
        if (st != HN_OK) {
            append(const_cast<std::string *>(&to), HN_LOG_WARN,
                   (std::string("error: ") + hn_last_text()).c_str());
            return hn_status_exit_code(st);
        }
        const int code = body(h, rank);
        hn_hub_close(h);
        return code;
    }
};

/* A rank of the job in its own process that speaks by hand. */
struct Impostor {
    int fd = -1, data = -1;
    hn_hub_key key = {};
    uint8_t greeting[HN_HUB_GREETING] = {}, hello[HN_HUB_HELLO] = {};
    hn_hub_hello me = {HN_HUB_DATA, 1, 2, HN_VERSION, "impostor"};

    explicit Impostor(const char *job = "job", const char *secret = "secret")
    {
        EXPECT_HN_OK(hn_hub_key_make(job, secret, &key));
    }
    Impostor(const Impostor &) = delete;
    ~Impostor()
    {
        hn_socket_close(&fd);
        hn_socket_close(&data);
    }
    int64_t soon() const { return hn_clock_ns() + 30000000000; }
    bool connect(int port)
    {
        hn_socket_close(&fd);
        return hn_socket_connect("127.0.0.1", std::to_string(port).c_str(), soon(), 5000000000,
                                 &fd) == HN_OK;
    }
    hn_status send(const void *data, size_t n) { return hn_socket_send(fd, data, n, soon()); }
    /* kind and text of the answer; STRANGER as well when none comes */
    hn_hub_peer_kind introduce(std::string *text)
    {
        uint8_t answer[HN_HUB_ANSWER];
        char why[HN_HUB_ANSWER_TEXT] = "";
        if (hn_socket_receive(fd, greeting, sizeof greeting, soon()) != HN_OK ||
            hn_hub_hello_make(&key, greeting, &me, hello) != HN_OK ||
            send(hello, sizeof hello) != HN_OK ||
            hn_socket_receive(fd, answer, sizeof answer, soon()) != HN_OK)
            return HN_HUB_PEER_STRANGER;
        const auto kind = hn_hub_answer_read(&key, hello, answer, why);
        *text = why;
        return kind;
    }
    /* Both connections; `fd` is the watch, `data` the other. */
    bool join(int port)
    {
        std::string text;
        for (const auto channel : {HN_HUB_DATA, HN_HUB_WATCH}) {
            me.channel = channel;
            if (!connect(port) || introduce(&text) != HN_HUB_PEER_OK) return false;
            if (channel == HN_HUB_DATA) std::swap(fd, data);
        }
        return true;
    }
    bool closed()
    {
        char byte;
        for (;;) {
            if (hn_socket_receive(fd, &byte, 1, soon()) != HN_OK)
                return std::string(hn_last_text()).find("in time") == std::string::npos;
        }
    }
};

/* A socket that listens on the loopback interface, as a launcher makes it. */
inline int listening(int *port, bool v6 = false)
{
    int fd = -1;
    EXPECT_HN_OK(hn_socket_listen(v6 ? "::1" : "127.0.0.1", nullptr, &fd));
    EXPECT_HN_OK(hn_socket_port(fd, port));
    return fd;
}

/* In a rank: the call works, or the process says why and leaves as a program would. */
#define RANK_OK(call)                                                \
    do {                                                             \
        const hn_status rank_ok_ = (call);                           \
        if (rank_ok_ != HN_OK) return hn_status_exit_code(rank_ok_); \
    } while (0)
#define RANK_EXPECT(condition)                                                           \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            fprintf(stderr, "%s:%d: rank expects %s\n", __FILE__, __LINE__, #condition); \
            return 77;                                                                   \
        }                                                                                \
    } while (0)

#endif
