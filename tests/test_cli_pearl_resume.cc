/* Runs of hone-pearl that were stopped or killed, or go task by task: the bits of one in a piece.
 */
#include "pearl_test.h"

namespace {

/* Task 1: 6 steps; then 3 of the probe and 4 of the factors each. */
TEST(CliPearlResume, ContinuesInsideProbeAndFactorsBitForBit)
{
    const PearlPlace w;
    for (const int steps : {8, 11}) {
        const Words run = steps == 8 ? w.vit() : w.resnet();
        const std::string name = std::to_string(steps), whole = "whole" + name;
        expect_done(w.run(run + w.to(whole)));
        const Ran first = w.run(run + w.to(name) + Words{"--stop-after-steps", name});
        expect_done(first);
        EXPECT_TRUE(contains(first.out, "stopped by --stop-after-steps")) << first.out;
        const Ran then = w.run(run + w.to(name) + Words{"--resume", "auto"});
        expect_done(then);
        const char *phase =
            steps == 8 ? "probe continued at step 2" : "factors continued at step 2";
        EXPECT_TRUE(contains(then.err, phase)) << then.err;
        EXPECT_TRUE(kept(w, name) == kept(w, whole)) << "stopped after " << steps << " steps";
    }
}

/* Killed at some step, and asked to stop at some other. */
TEST(CliPearlResume, AKilledRunContinuesBitForBit)
{
    const PearlPlace w;
    const Words run = PearlPlace::without(w.vit(), "--epochs") +
                      Words{"--epochs", "12", "--save-every", "3", "--log-every", "1"};
    expect_done(w.run(run + w.to("whole")));
    const Words on = run + w.to("killed") + Words{"--resume", "auto"};
    for (const int number : {SIGKILL, SIGINT}) {
        Program p(on, w / "home");
        ASSERT_TRUE(
            p.says(number == SIGKILL ? "task 2/3 factors step 7" : "task 3/3 probe step 2"));
        p.kill(number);
        const Ran r = p.wait();
        EXPECT_EQ(r.signal, number == SIGKILL ? SIGKILL : 0);
        if (number == SIGINT) {
            EXPECT_TRUE(contains(r.out, "stopped by SIGINT")) << r.out;
        }
    }
    expect_done(w.run(on));
    EXPECT_TRUE(kept(w, "killed") == kept(w, "whole"));
}

/* All tasks in one call, or a call each. */
TEST(CliPearlResume, TaskByTaskIsTheSameRun)
{
    const PearlPlace w;
    expect_done(w.run(w.vit() + w.to("whole")));
    expect_done(w.run(w.vit() + w.to("parts") + Words{"--stop-after", "1"}));
    expect_done(w.run(w.vit() + w.to("parts") + Words{"--start-from", "2", "--stop-after", "2"}));
    expect_done(w.run({"hone-pearl", "train", "--config", w / "parts/run.yaml", "--resume",
                       w / "parts", "--start-from", "3"}));
    EXPECT_TRUE(kept(w, "parts") == kept(w, "whole"));
}

} // namespace
