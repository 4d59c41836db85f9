/* hone-hyperflow's stages when a signal comes: where they end, what is on disk, and the same bits
 * of what goes on. */
#include "hyperflow_test.h"

namespace {

/* Starts it, and sends it a signal when it has said so. */
Ran stop_by(int signal, const FlowPlace &w, const Words &words, const std::string &said)
{
    Program stopped(words, w / "");
    EXPECT_TRUE(stopped.says(said)) << said;
    stopped.kill(signal);
    return stopped.wait();
}

/* Neither the choice of a rate nor a group is waited for; nothing is written of either. */
TEST(CliHyperflowSignals, ASignalDoesNotWaitForAGroupOnTheCpu)
{
    if (test_device() != std::string("cpu")) GTEST_SKIP() << "groups on a GPU are finished";
    const FlowPlace w;
    const Words more = {"--at-once", "8", "--tune-steps", "400", "--knots", "5"};
    const Words go_on = w.generate("o") + more + Words{"--resume", "auto"};
    expect_done(w.run(w.generate("whole") + more));
    Ran r = stop_by(SIGTERM, w, w.generate("o") + more, "trajectories: 24 of");
    expect_done(r);
    EXPECT_TRUE(contains(r.out, "stopped while learning rates were chosen")) << r.out;
    EXPECT_FALSE(std::filesystem::exists(w / "o/rates.json"));
    r = stop_by(SIGTERM, w, go_on, "trajectory 8/24");
    expect_done(r);
    EXPECT_TRUE(contains(r.out, "stopped with 8 of 24 trajectories")) << r.out;
    expect_done(w.run(go_on));
    EXPECT_TRUE(w.bytes("o/trajectories.bin") == w.bytes("whole/trajectories.bin"));
    EXPECT_EQ(w.bytes("o/rates.json"), w.bytes("whole/rates.json"));

    for (const char *stage : {"o", "whole"}) expect_done(w.run(w.train(stage)));
    const Words eval = w.eval("o", "direct,bias") + Words{"--only", "far"};
    r = stop_by(SIGTERM, w, eval, "direct on far: ");
    expect_done(r);
    EXPECT_TRUE(contains(r.out, "stopped; cells that are there are kept")) << r.out;
    EXPECT_FALSE(std::filesystem::exists(w / "o/cells/bias.far.json"));
    expect_done(w.run(eval));
    expect_done(w.run(w.eval("whole", "direct,bias") + Words{"--only", "far"}));
    for (const char *cell : {"direct", "bias"})
        EXPECT_EQ(
            Json(w / ("o/cells/" + std::string(cell) + ".far.json")).number("accuracy.3"),
            Json(w / ("whole/cells/" + std::string(cell) + ".far.json")).number("accuracy.3"));
}

/* Methods that integrate: neither the choice of a stop time, nor the tests of a cell, nor curves of
 * descent are waited for. */
TEST(CliHyperflowSignals, ASignalEndsIntegrationWithinACell)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("whole")));
    expect_done(w.run(w.train("whole")));
    copy_run(w, "whole", "o");
    const auto eval = [&](const std::string &out, const std::string &method) {
        return w.of("eval", out) +
               Words{"--methods", method, "--only", "far", "--test-episodes", "4000"};
    };
    const std::string stopped = "stopped; cells that are there are kept";
    for (const std::string method : {"hyperflow", "hyperflow-global"}) {
        const std::string cell = "/cells/" + method + ".far.json";
        const Ran r = stop_by(SIGTERM, w, eval("o", method), "episode 200/4000");
        expect_done(r);
        EXPECT_TRUE(contains(r.out, stopped)) << r.out;
        EXPECT_FALSE(contains(r.err, "episode 4000/4000")) << r.err;
        EXPECT_FALSE(std::filesystem::exists(w / ("o" + cell)));
        expect_done(w.run(eval("o", method)));
        expect_done(w.run(eval("whole", method)));
        for (const std::string part : {"accuracy", "tried", "stop"})
            EXPECT_EQ(w.member("o" + cell, part), w.member("whole" + cell, part)) << cell;
    }
    /* the stop time is chosen behind the features of the domain */
    const Words slow = {"--integration-steps", "300"};
    std::filesystem::remove_all(w / "o/features");
    Ran r = stop_by(SIGINT, w, eval("o", "hyperflow") + slow, "features, image 90/90");
    expect_done(r);
    EXPECT_TRUE(contains(r.out, stopped)) << r.out;
    EXPECT_FALSE(contains(r.err, "episode ")) << r.err;
    EXPECT_FALSE(std::filesystem::exists(w / "o/cells/hyperflow@euler300.far.json"));

    r = stop_by(SIGTERM, w, eval("o", "direct,descent") + slow, "direct on far: ");
    expect_done(r);
    EXPECT_TRUE(contains(r.out, stopped)) << r.out;
    EXPECT_FALSE(std::filesystem::exists(w / "o/cells/descent@euler300.json"));
    for (const std::string out : {"o", "whole"})
        expect_done(w.run(eval(out, "direct,descent") + slow));
    EXPECT_EQ(w.bytes("o/cells/descent@euler300.json"),
              w.bytes("whole/cells/descent@euler300.json"));
}

/* Of an encoder that reads large images, whose second batch takes long. */
TEST(CliHyperflowSignals, ASignalEndsFeaturesBetweenTwoBatches)
{
    if (test_device() != std::string("cpu")) GTEST_SKIP() << "too fast to be met there";
    const FlowPlace w;
    const Words few = {"--encoder-image", "12", "--encoder-epochs", "1", "--encoder-batch", "16"};
    expect_done(w.run(w.generate("first")));
    copy_run(w, "first", "o");
    expect_done(w.run(w.train_on("first", Words{"--encoder", "resnet20"} + few)));
    const Words train =
        w.train_on("o", {"--encoder", w / "first/encoder", "--encoder-image", "48"});
    const Ran r = stop_by(SIGTERM, w, train, "features, image 128/144");
    expect_done(r);
    EXPECT_TRUE(contains(r.out, "stopped at the features")) << r.out;
    EXPECT_FALSE(std::filesystem::exists(w / "o/features/near.safetensors"));
    EXPECT_FALSE(std::filesystem::exists(w / "o/drift"));
    expect_done(w.run(train));
}

void kill_and_go_on(const FlowPlace &w, const Words &words, const std::string &said)
{
    stop_by(SIGKILL, w, words, said);
    expect_done(w.run(words));
}

TEST(CliHyperflowSignals, KilledStagesGoOnWithTheSameBits)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("whole")));
    copy_run(w, "whole", "encoder");
    copy_run(w, "whole", "drift");
    expect_done(w.run(w.train("whole")));
    stop_by(SIGKILL, w, w.train("encoder"), "encoder epoch 1/2");
    expect_refused(w.run(w.train("encoder") + Words{"--encoder-lr", "0.9"}), 2,
                   {"safetensors", "encoder-lr: 0.05", "encoder-lr: 0.9"});
    expect_done(w.run(w.train("encoder")));
    kill_and_go_on(w, w.train("drift"), "step 4/8");
    for (const std::string run : {"encoder", "drift"})
        EXPECT_EQ(w.bytes(run + "/drift/drift.safetensors"),
                  w.bytes("whole/drift/drift.safetensors"))
            << run;
    expect_done(w.run(w.eval("whole", "direct,bias,hyperflow")));
    kill_and_go_on(w, w.eval("drift", "direct,bias,hyperflow"), "direct on near-test: ");
    for (const std::string cell : {"direct.near-test", "bias.near-test", "hyperflow.far"})
        EXPECT_EQ(w.member("drift/cells/" + cell + ".json", "accuracy"),
                  w.member("whole/cells/" + cell + ".json", "accuracy"));
}

/* In the last epoch there is no further one to be left out: the stages behind it are. */
TEST(CliHyperflowSignals, AStopInTheLastEpochOfTheEncoderStops)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("run")));
    const Words train = w.train_on("run", {"--encoder", "resnet20", "--encoder-image", "12",
                                           "--encoder-epochs", "1", "--encoder-batch", "4"});
    const Ran stopped = stop_by(SIGINT, w, train, "encoder resnet20: trained on");
    expect_done(stopped);
    EXPECT_TRUE(contains(stopped.out, "stopped at the encoder")) << stopped.out;
    EXPECT_TRUE(std::filesystem::exists(w / "run/encoder/model.safetensors"));
    EXPECT_FALSE(std::filesystem::exists(w / "run/drift"));
    expect_done(w.run(train));
}

} // namespace
