/* Memory that processes of one host share. */
#include <sys/mman.h>

#include <filesystem>

#include "hub_test.h"
#include "runtime/comm/shared_memory.h"

namespace {

class SharedMemory : public testing::Test {
  protected:
    hn_shared_memory m = {};
    hn_shared_ticket ticket = {};
    void open(size_t n_bytes) { ASSERT_HN_OK(hn_shared_memory_new(n_bytes, &m, &ticket)); }
    ~SharedMemory() override { hn_shared_memory_free(&m); }
};

/* Runs in a process of its own; its exit code. */
int in_child(const std::function<int()> &body)
{
    fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) _exit(body());
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST_F(SharedMemory, BothSidesSeeWhatTheOtherWrites)
{
    const size_t n = 3000001;
    open(n);
    auto *mine = static_cast<uint8_t *>(m.data);
    for (size_t i = 0; i < n; i++) ASSERT_EQ(mine[i], 0);
    mine[n - 1] = 7;
    EXPECT_EQ(in_child([&] {
                  hn_shared_memory own = {};
                  if (hn_shared_memory_join(&ticket, n, &own) != HN_OK) return 1;
                  auto *theirs = static_cast<uint8_t *>(own.data);
                  if (theirs[n - 1] != 7) return 2;
                  theirs[0] = 9;
                  hn_shared_memory_free(&own);
                  return own.data == nullptr ? 0 : 3;
              }),
              0);
    EXPECT_EQ(mine[0], 9);
    char a[HN_SHARED_HOST], b[HN_SHARED_HOST];
    EXPECT_HN_OK(hn_shared_host(a));
    EXPECT_HN_OK(hn_shared_host(b));
    EXPECT_EQ(std::memcmp(a, b, sizeof a), 0);
}

/* Nothing stays behind, and nobody takes pages from those who read it. */
TEST_F(SharedMemory, HasNoNameAndCannotShrink)
{
    open(1 << 20);
    EXPECT_NE(ftruncate(m.fd, 0), 0);
    EXPECT_NE(ftruncate(m.fd, 1 << 24), 0);
    std::error_code none;
    const auto path = "/proc/self/fd/" + std::to_string(m.fd);
    EXPECT_NE(std::filesystem::read_symlink(path, none).string().find("(deleted)"),
              std::string::npos);
}

/* Another process has that descriptor by now, or another size, or nothing. */
TEST_F(SharedMemory, OtherMemoryIsNotTaken)
{
    open(4096);
    hn_shared_memory own = {}, other = {};
    hn_shared_ticket wrong = ticket, second = {};
    EXPECT_HN_FAIL(hn_shared_memory_join(&ticket, 8192, &own), HN_ERR_FORMAT, "4096 bytes");
    wrong.nonce[3] ^= 1;
    EXPECT_HN_FAIL(hn_shared_memory_join(&wrong, 4096, &own), HN_ERR_FORMAT, "other memory");
    wrong = ticket, wrong.n_bytes = 8192;
    EXPECT_HN_FAIL(hn_shared_memory_join(&wrong, 8192, &own), HN_ERR_FORMAT, "other memory");
    ASSERT_HN_OK(hn_shared_memory_new(4096, &other, &second));
    wrong = ticket, wrong.fd = second.fd;
    EXPECT_HN_FAIL(hn_shared_memory_join(&wrong, 4096, &own), HN_ERR_FORMAT, "other memory");
    hn_shared_memory_free(&other);
    EXPECT_HN_FAIL(hn_shared_memory_join(&second, 4096, &own), HN_ERR_IO, "/proc/");
    const TempDir dir;
    write_file(dir / "file", std::string(8192, 'x'));
    const int file = ::open((dir / "file").c_str(), O_RDWR | O_CLOEXEC);
    wrong = ticket, wrong.fd = file;
    EXPECT_HN_FAIL(hn_shared_memory_join(&wrong, 4096, &own), HN_ERR_FORMAT, "other memory");
    close(file);
    int pipe_end[2];
    ASSERT_EQ(pipe(pipe_end), 0);
    wrong.fd = pipe_end[1];
    EXPECT_HN_FAIL(hn_shared_memory_join(&wrong, 4096, &own), HN_ERR_FORMAT, "other memory");
    close(pipe_end[0]), close(pipe_end[1]);
    wrong = {};
    EXPECT_HN_FAIL(hn_shared_memory_join(&wrong, 4096, &own), HN_ERR_FORMAT, "no ticket");
    EXPECT_EQ(own.data, nullptr);
    EXPECT_HN_FAIL(hn_shared_memory_new(0, &own, &second), HN_ERR_ARG, "0 bytes");
}

} // namespace
