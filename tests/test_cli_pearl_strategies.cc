/* What hone-pearl is compared with, and its references and norms. */
#include "pearl_test.h"

namespace {

TEST(CliPearlStrategies, IsolatedStrategiesForgetNothing)
{
    const PearlPlace w;
    for (const char *strategy : {"head", "single"}) {
        expect_done(w.run(w.plain(strategy) + w.to(strategy)));
        const Json result((w / strategy) + "/result.json");
        EXPECT_EQ(result.number("metrics.StreamForgetting"), 0) << strategy;
        const double own = result.number("cell.per_task.1.parameters.total"),
                     body = result.number("cell.body_parameters");
        EXPECT_EQ(own, 34 + (strategy[0] == 's' ? body : 0)) << strategy;
    }
}

TEST(CliPearlStrategies, StrategiesOfOneBodyAddAHeadATask)
{
    const PearlPlace w;
    for (const char *strategy : {"sequential", "lwf", "ewc"}) {
        expect_done(w.run(w.plain(strategy) + w.to(strategy)));
        const Json result((w / strategy) + "/result.json");
        EXPECT_EQ(result.number("cell.added_parameters"), 3 * 34) << strategy;
        EXPECT_GT(result.number("accuracy.3.2"), 0.5) << strategy;
        const Ran eval = w.run({"hone-pearl", "eval", "--run", w / strategy});
        EXPECT_TRUE(contains(eval.out, "3 of 3 tasks have the logits")) << strategy << eval.err;
    }
    /* they are not the same run */
    EXPECT_NE(kept(w, "sequential"), kept(w, "ewc"));
}

TEST(CliPearlStrategies, BaselinesContinueBitForBit)
{
    const PearlPlace w;
    for (const char *strategy : {"lwf", "ewc"}) {
        const std::string whole = strategy, parts = whole + "-parts";
        expect_done(w.run(w.plain(strategy) + w.to(whole)));
        expect_done(w.run(w.plain(strategy) + w.to(parts) + Words{"--stop-after-steps", "9"}));
        expect_done(w.run(w.plain(strategy) + w.to(parts) + Words{"--resume", "auto"}));
        for (int t = 1; t <= 3; t++)
            EXPECT_TRUE(read_file(w.record(whole, t, "delta.safetensors")) ==
                        read_file(w.record(parts, t, "delta.safetensors")))
                << strategy << " task " << t;
    }
}

TEST(CliPearlStrategies, JointLearnsAllTasksAtOnce)
{
    const PearlPlace w;
    expect_done(w.run(w.plain("joint") + w.to("run")));
    const Json result(w / "run/result.json");
    EXPECT_EQ(result.number("cell.added_parameters"), 6 * 17);
    EXPECT_TRUE(json_is_null(result.at("accuracy.1.0"))); /* there is no network after task 1 */
    for (int t = 0; t < 3; t++) EXPECT_GT(result.number("accuracy.3." + std::to_string(t)), 0.5);
    EXPECT_FALSE(std::filesystem::exists(w / "run/task-001"));
}

/* From a folder with weights: they are the reference, and the first task has an update, too. */
TEST(CliPearlStrategies, GivenWeightsAreTheReference)
{
    const PearlPlace w;
    expect_done(w.run(w.vit() + w.to("before") + Words{"--stop-after", "1"}));
    expect_done(
        w.run({"hone-pearl", "export", "--run", w / "before", "--task", "1", "--to", w / "model"}));
    write_file(w / "model/preprocessor_config.json", "{}");
    const Words given = PearlPlace::without(w.vit(), "--model") + Words{"--model", w / "model"};
    expect_done(w.run(given + w.to("run") + Words{"--stop-after", "2"}));
    const Json result(w / "run/result.json");
    EXPECT_EQ(result.text("cell.ref"), "pretrained");
    EXPECT_GT(result.number("cell.per_task.0.parameters.low_rank"), 0);
    EXPECT_EQ(result.number("metrics.StreamForgetting"), 0);
    EXPECT_TRUE(read_file(w / "before/reference/model.safetensors") ==
                read_file(w / "run/reference/model.safetensors"));
    expect_done(
        w.run({"hone-pearl", "export", "--run", w / "run", "--task", "2", "--to", w / "second"}));
    EXPECT_EQ(read_file(w / "second/preprocessor_config.json"), "{}");
}

TEST(CliPearlStrategies, LinesForMachinesAreJson)
{
    const PearlPlace w;
    const Ran r = w.run(w.plain("head") + w.to("run") +
                        Words{"--log-format", "json", "--log-every", "2", "--stop-after", "2"});
    expect_done(r);
    int steps = 0;
    for (const auto &line : lines_of(r.out)) {
        json_t *o = nullptr;
        ASSERT_HN_OK(hn_json_parse(line.data(), line.size(), "a line", &o)) << line;
        steps += json_object_get(o, "loss") != nullptr;
        json_decref(o);
    }
    EXPECT_EQ(steps, 6); /* every second of 6 steps of two tasks */
    EXPECT_TRUE(contains(last_line(r.out), "\"tasks_done\": 2")) << r.out;
}

TEST(CliPearlStrategies, ReferencesAndNorms)
{
    const PearlPlace w;
    for (const char *ref : {"previous", "nearest"}) {
        expect_done(w.run(w.vit() + w.to(ref) + Words{"--ref", ref}));
        const Json result((w / ref) + "/result.json");
        EXPECT_EQ(result.number("metrics.StreamForgetting"), 0) << ref;
        if (ref[0] == 'p') {
            EXPECT_EQ(result.number("cell.per_task.2.base"), 2);
        }
    }
    expect_done(w.run(w.resnet() + w.to("frozen") + Words{"--norm", "frozen"}));
    EXPECT_EQ(Json(w / "frozen/result.json").number("cell.per_task.2.parameters.norm"), 0);
    EXPECT_EQ(Json(w / "frozen/result.json").number("cell.per_task.2.parameters.running"), 0);
    expect_done(w.run(w.resnet() + w.to("shared") + Words{"--norm", "shared"}));
    expect_done(w.run(w.vit() + w.to("zero") + Words{"--init", "zero", "--floor", "1"}));
}

} // namespace
