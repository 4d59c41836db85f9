/* cli_ranks_test.h - programs that run as several ranks: how many, where, and their processes. */
#ifndef HN_CLI_RANKS_TEST_H
#define HN_CLI_RANKS_TEST_H
#include <arpa/inet.h>
#include <sys/socket.h>

#include <memory>
#include <random>

#include "cli_test.h"
#include "image_test.h"
#include "runtime/comm/hn_comm.h"

/* On the CPU, or with HONE_TEST_DEVICE=cuda on GPUs. */
inline bool on_gpus()
{
    const char *device = std::getenv("HONE_TEST_DEVICE");
    return device != nullptr && std::string(device) == "cuda";
}

inline Words ranks(int n)
{
    return {"--device", on_gpus() ? "cuda" : "cpu", on_gpus() ? "--gpus" : "--ranks",
            std::to_string(n)};
}

/* Whether there are so many GPUs, where the tests are to run there. */
inline bool enough(int n)
{
    int there = 0;
    if (!on_gpus()) return true;
    EXPECT_HN_OK(hn_launch_count_devices(&there, nullptr, 0));
    return n <= there;
}

/* Processes that the program has forked. */
inline std::vector<pid_t> children_of(pid_t parent)
{
    std::vector<pid_t> all;
    const std::string id = std::to_string(parent);
    std::istringstream s(read_file("/proc/" + id + "/task/" + id + "/children"));
    for (pid_t child; s >> child;) all.push_back(child);
    return all;
}

/* A port that was free a moment ago. */
inline int free_port()
{
    sockaddr_in a = {};
    socklen_t size = sizeof a;
    const int s = socket(AF_INET, SOCK_STREAM, 0);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(s, (sockaddr *)&a, sizeof a), 0);
    EXPECT_EQ(getsockname(s, (sockaddr *)&a, &size), 0);
    close(s);
    return ntohs(a.sin_port);
}

/* As torchrun starts them, with its variables. */
inline std::unique_ptr<Program> rank_of(int rank, int size, int port, const Words &words,
                                        const Workplace &w)
{
    const std::map<std::string, std::string> set = {
        {"RANK", std::to_string(rank)},       {"WORLD_SIZE", std::to_string(size)},
        {"LOCAL_RANK", std::to_string(rank)}, {"LOCAL_WORLD_SIZE", std::to_string(size)},
        {"MASTER_ADDR", "127.0.0.1"},         {"MASTER_PORT", std::to_string(port)},
        {"TORCHELASTIC_RUN_ID", "test"}};
    for (const auto &[name, value] : set) setenv(name.c_str(), value.c_str(), 1);
    auto p = std::make_unique<Program>(words, w.str());
    for (const auto &[name, value] : set) unsetenv(name.c_str());
    return p;
}

/* 24 and 10 images of 16 x 16 pixels, in three classes. */
inline void write_image_set(const std::string &dir)
{
    std::mt19937 rng(5);
    std::filesystem::create_directory(dir);
    for (const auto &[part, n] : {std::pair{"train", 24u}, std::pair{"val", 10u}}) {
        std::string images, labels;
        for (uint32_t i = 0; i < n; i++) {
            for (int k = 0; k < 16 * 16 * 3; k++) images += (char)(rng() % 200);
            labels += (char)(i % 3);
        }
        const std::string at = dir + "/" + part;
        write_file(at + "-images-idx-ubyte", idx(8, {n, 16, 16, 3}, images));
        write_file(at + "-labels-idx-ubyte", idx(8, {n}, labels));
    }
}

#endif
