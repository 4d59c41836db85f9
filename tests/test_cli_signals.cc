/* Runs that are interrupted or killed: what they leave, and that they continue bit for bit. */
#include <random>

#include "cli_run_test.h"

namespace {

class CliSignal : public testing::TestWithParam<int> {};

TEST_P(CliSignal, SavesAndContinuesBitForBit)
{
    const Workplace w;
    const Words words = w.train("o", 400) + Words{"--log-every", "1"};
    Program p(words, w.str());
    ASSERT_TRUE(p.says("step 7/"));
    p.kill(GetParam());
    const Ran &r = p.wait();
    expect_done(r);
    EXPECT_TRUE(contains(r.out, GetParam() == SIGINT ? "stopped by SIGINT" : "stopped by SIGTERM"))
        << r.out;
    const auto folders = checkpoints_of(w / "o");
    ASSERT_EQ(folders.size(), 1u);
    const int step = std::stoi(folders[0].substr(11));
    EXPECT_GE(step, 7);
    ASSERT_LT(step, 400);
    const std::string end = std::to_string(step + 3);
    const std::string told = r.out.substr(r.out.find("continue with: ") + 15);
    expect_done(w.run(words_of(told) + Words{"--stop-after", end}));
    expect_done(w.run(w.train("whole", 400) + Words{"--stop-after", end}));
    EXPECT_EQ(trained_bytes((w / "o") + "/checkpoint-" + end),
              trained_bytes((w / "whole") + "/checkpoint-" + end));
}

INSTANTIATE_TEST_SUITE_P(Both, CliSignal, testing::Values(SIGINT, SIGTERM));

TEST(CliKill, TheNewestCompleteCheckpointAlwaysLoads)
{
    const Workplace w;
    const int last = 40;
    const Words save = {"--save-every", "1", "--log-every", "1"};
    const auto start = std::chrono::steady_clock::now();
    expect_done(w.run(w.train("whole", last) + save));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const int step_us = (int)(took.count() * 1e6 / last); /* with its checkpoint */
    std::mt19937 random(7);
    int reached = 0;
    for (int kills = 0; kills < 20; kills++) {
        Program p(w.train("o", last) + save + Words{"--resume", "auto"}, w.str());
        /* some while still starting, the others at any point of a step or its checkpoint */
        if (kills % 4 != 3) p.says("step " + std::to_string(reached + 1) + "/");
        std::this_thread::sleep_for(
            std::chrono::microseconds((int)(random() % 3000) * step_us / 1000));
        p.kill(SIGKILL);
        const Ran &r = p.wait();
        EXPECT_TRUE(r.signal == SIGKILL || r.code == 0) << r.err;
        const auto folders = checkpoints_of(w / "o");
        int newest = 0;
        for (const auto &name : folders) newest = std::max(newest, std::stoi(name.substr(11)));
        EXPECT_GE(newest, reached) << "a checkpoint has gone";
        reached = newest;
        for (const auto &name : folders) {
            const std::string path = (w / "o") + "/" + name;
            if (!std::filesystem::exists(path + "/COMPLETE")) continue; /* being removed */
            expect_done(w.run({"hone-lora", "info", "--path", path}));
        }
    }
    EXPECT_GT(reached, 0);
    expect_done(w.run(w.train("o", last) + save + Words{"--resume", "auto"}));
    const std::string end = "/checkpoint-" + std::to_string(last);
    EXPECT_EQ(trained_bytes((w / "o") + end), trained_bytes((w / "whole") + end));
    EXPECT_EQ(column(w / "o", "loss"), column(w / "whole", "loss"));
    EXPECT_EQ(checkpoints_of(w / "o").size(), 2u);
    for (const auto &[name, content] : listing(w / "o"))
        EXPECT_FALSE(contains(name, ".tmp-")) << name << " was left behind";
}

} // namespace
