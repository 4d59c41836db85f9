/* cli_ranks_test.h - programs that run as several ranks: how many, where, and their processes. */
#ifndef HN_CLI_RANKS_TEST_H
#define HN_CLI_RANKS_TEST_H
#include "cli_test.h"
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

#endif
