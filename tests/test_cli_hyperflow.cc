/* hone-hyperflow: its stages, how they go on, what they choose by, bad support sets. */
#include "hyperflow_test.h"

namespace {

/* Every verdict follows from the figures beside it, and those from the cells. */
void expect_acceptance(const Json &result)
{
    std::map<int, int> rows;
    double outside = 0, inside = 0; /* one domain each: near-test, far */
    for (size_t i = 0; i < json_array_size(result.at("cells")); i++) {
        const std::string at = "cells." + std::to_string(i) + ".";
        if (result.text(at + "method") != "hyperflow") continue;
        (result.text(at + "domain") == "far" ? outside : inside) = result.number(at + "difference");
    }
    for (size_t i = 0; i < json_array_size(result.at("acceptance")); i++) {
        const std::string at = "acceptance." + std::to_string(i) + ".";
        const int number = (int)result.number(at + "number");
        const bool holds = json_is_true(result.at(at + "holds"));
        rows[number]++;
        if (json_is_null(result.at(at + "holds"))) continue;
        if (number == 1) {
            EXPECT_EQ(holds, result.number(at + "share") >= 0.8);
        } else if (number == 4) {
            EXPECT_TRUE(holds && result.number(at + "full_flops") > 0);
        } else {
            const double d = result.number(at + "difference"), ci = result.number(at + "ci95");
            EXPECT_EQ(holds, number == 2 ? d + ci >= 0 : d - ci > 0);
            if (result.text(at + "method") == "hyperflow") {
                EXPECT_NEAR(d, number == 2 ? inside : outside, 1e-12);
            }
        }
    }
    EXPECT_TRUE(rows[1] == 1 && rows[2] == 2 && rows[3] == 2 && rows[4] == 2);
}

TEST(CliHyperflow, StagesEndInPredictionsAndOneFile)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("run")));
    expect_done(w.run(w.train("run")));
    const Ran eval =
        w.run(w.eval("run", "direct,head,bias,ln,lora,full,hyperflow,hyperflow-global,descent"));
    expect_done(eval);
    EXPECT_TRUE(contains(eval.out, "hyperflow: support loss falls by")) << eval.out;
    const Json result(w / "run/result.json");
    EXPECT_EQ(json_array_size(result.at("cells")), 16u);
    EXPECT_EQ(json_array_size(result.at("descent")), 1u);
    EXPECT_TRUE(contains(eval.out, "Acceptance\n1 ")) << eval.out;
    expect_acceptance(result);
    for (const char *part : {"adapt", "full"}) {
        const std::string cost = std::string("cost.") + part;
        EXPECT_GT(Json(w / "run/cells/hyperflow.far.json").number(cost + "_bytes"), 0);
        EXPECT_GT(Json(w / "run/cells/hyperflow.far.json").number(cost + "_flops"), 0);
    }
    EXPECT_TRUE(std::filesystem::exists(w / "run/accuracy.gnuplot"));
    EXPECT_TRUE(std::filesystem::exists(w / "run/descent.gnuplot"));
    for (const std::string method : {"direct", "full", "hyperflow"}) /* paired */
        EXPECT_EQ(w.member("run/cells/" + method + ".far.json", "sampler_digest"),
                  w.member("run/cells/direct.far.json", "sampler_digest"));
    const Words to = {"--to", w / "one.safetensors"};
    expect_done(w.run(w.of("export", "run") + to));
    hn_st_file *f = nullptr;
    EXPECT_HN_OK(hn_st_open((w / "one.safetensors").c_str(), &f));
    for (const char *name :
         {"backbone.vit.layernorm.weight", "encoder.conv1.weight", "drift.input.weight", "sigma"})
        EXPECT_NE(hn_st_find(f, name), nullptr) << name;
    EXPECT_EQ(hn_st_find(f, "backbone.classifier.weight"), nullptr);
    EXPECT_NE(hn_st_metadata(f, "drift.config"), nullptr);
    hn_st_close(f);
    expect_refused(w.run(w.of("export", "run") + to), 2, {"one.safetensors", "is there"});
    const Ran info = w.run(w.of("info", "run"));
    expect_done(info);
    EXPECT_TRUE(contains(info.out, "trajectories: 24 of 24")) << info.out;
    EXPECT_TRUE(contains(info.out, "drift network drift: step 8, done")) << info.out;
}

/* Time 0 is no adaptation: the episode's accuracy is that of the cell `direct`. */
TEST(CliHyperflow, AdaptAtTimeZeroIsDirectTransfer)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("run")));
    expect_done(w.run(w.train("run")));
    expect_done(w.run(w.eval("run", "direct")));
    const Json cell(w / "run/cells/direct.far.json");
    for (const std::string episode : {"0", "4"}) {
        const Words adapt = w.of("adapt", "run") + Words{"--of", "far", "--episode", episode};
        const Ran zero = w.run(adapt + Words{"--stop", "0", "--to", w / ("zero" + episode)});
        expect_done(zero);
        char want[48];
        std::snprintf(want, sizeof want, "(%.2f %%)", 100 * cell.number("accuracy." + episode));
        EXPECT_TRUE(contains(zero.out, want)) << want << " is not in " << zero.out;
        expect_done(w.run(adapt + Words{"--stop", "1", "--to", w / ("one" + episode)}));
        EXPECT_NE(w.bytes("zero" + episode + "/delta.safetensors"),
                  w.bytes("one" + episode + "/delta.safetensors"));
        EXPECT_EQ(lines_of(w.bytes("one" + episode + "/predictions.csv")).size(), 1u + 3 * 3);
    }
}

TEST(CliHyperflow, GenerateGoesOnWithTheSameBits)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("whole")));
    const std::string want = w.bytes("whole/trajectories.bin");
    const Ran stopped = w.run(w.generate("stopped") + Words{"--stop-after", "2"});
    expect_done(stopped);
    EXPECT_TRUE(contains(stopped.out, "stopped with 8 of 24")) << stopped.out;
    EXPECT_NE(w.bytes("stopped/trajectories.bin"), want);
    expect_refused(w.run(w.generate("stopped")), 2, {"holds a run", "--resume auto"});
    expect_refused(w.run(w.train("stopped")), 2, {"8 of 24 trajectories"});
    expect_done(w.run(w.generate("stopped") + Words{"--resume", "auto"}));
    EXPECT_EQ(w.bytes("stopped/trajectories.bin"), want);
    {
        Program killed(w.generate("killed"), w / "");
        EXPECT_TRUE(killed.says("trajectory "));
        killed.kill(SIGKILL);
        killed.wait();
    }
    expect_done(w.run(w.generate("killed") + Words{"--resume", "auto"}));
    EXPECT_EQ(w.bytes("killed/trajectories.bin"), want);
    expect_refused(w.run(w.generate("killed") + Words{"--resume", "auto", "--shot", "1"}), 2,
                   {"shot: 2", "shot: 1"});
}

/* Of the line that says how long so many trajectories take; below 0: there is none. */
double seconds_said(const Ran &r, const std::string &trajectories, const std::string &rate)
{
    const std::string begin = "time: about ", end = " s for " + trajectories + " trajectories, at ";
    const size_t at = r.err.find(begin);
    if (at == std::string::npos) return -1;
    char *rest;
    const double seconds = std::strtod(r.err.c_str() + at + begin.size(), &rest);
    EXPECT_EQ(std::string(rest).rfind(end + "the rate of " + rate, 0), 0u) << r.err;
    return seconds;
}

TEST(CliHyperflow, GenerateSaysHowLongItTakes)
{
    const FlowPlace w;
    Ran r = w.run(w.generate("run") + Words{"--stop-after", "2"});
    expect_done(r);
    const std::string when = "time: measured while learning rates are chosen (6 runs of tuning";
    EXPECT_TRUE(contains(r.err, when)) << r.err;
    EXPECT_GT(seconds_said(r, "24", "this call's validation episodes"), 0);
    EXPECT_LT(r.err.find("GiB on disk"), r.err.find(when));
    EXPECT_LT(r.err.find(when), r.err.find("time: about"));
    EXPECT_LT(r.err.find("time: about"), r.err.find("trajectory 4/24"));
    /* 4 groups of the 6 are left; the rate is that of the first 2 */
    const Json pace(w / "run/pace.json");
    const double group = pace.number("seconds") / 2;
    EXPECT_GT(group, 0);
    const Words go_on = w.generate("run") + Words{"--resume", "auto", "--stop-after", "1"};
    r = w.run(go_on);
    expect_done(r);
    EXPECT_NEAR(seconds_said(r, "16", "an earlier call's trajectories"), 4 * group, 0.4 * group);
    EXPECT_FALSE(contains(r.err, when)) << r.err;
    /* nothing is known: by the first group of this call; of 3 groups 2 are left then */
    std::filesystem::remove(w / "run/pace.json");
    r = w.run(go_on);
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "time: estimated behind the first group")) << r.err;
    EXPECT_NEAR(seconds_said(r, "8", "this call's trajectories"),
                2 * Json(w / "run/pace.json").number("seconds"),
                0.2 * Json(w / "run/pace.json").number("seconds"));
    /* of another machine it says nothing, of a damaged file it is refused */
    const std::string kept = w.bytes("run/pace.json");
    write_file(w / "run/pace.json",
               R"({"format":1,"device":"abacus","ranks":1,"measured_on":"trajectories",)"
               R"("seconds":1,"work":1})");
    r = w.run(go_on);
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "time: estimated behind the first group")) << r.err;
    json_t *o = json_deep_copy(Json(w / "run/pace.json").root());
    json_object_set_new(o, "work", json_real(0));
    EXPECT_HN_OK(hn_json_save((w / "run/pace.json").c_str(), o, false));
    json_decref(o);
    expect_refused(w.run(go_on), 2, {"pace.json", "above 0"});
    write_file(w / "run/pace.json", kept);
    r = w.run(w.generate("run") + Words{"--resume", "auto"});
    expect_done(r);
    EXPECT_GT(seconds_said(r, "4", "an earlier call's trajectories"), 0);
    r = w.run(w.generate("run") + Words{"--resume", "auto"}); /* nothing is left */
    expect_done(r);
    EXPECT_FALSE(contains(r.err, "time: ")) << r.err;
}

/* Finite weights of a damaged file: what they come to is refused, and said of an evaluation. */
TEST(CliHyperflow, ANetworkThatDivergesIsNamed)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("run")));
    expect_done(w.run(w.train("run")));
    std::string bytes = w.bytes("run/drift/drift.safetensors");
    hn_st_file *f = nullptr;
    ASSERT_HN_OK(hn_st_parse(bytes.data(), bytes.size(), "drift", &f));
    for (const char *name : {"drift.output.bias", "sigma"}) { /* their product is no number */
        const hn_st_tensor *t = hn_st_find(f, name);
        ASSERT_NE(t, nullptr) << name;
        const std::vector<float> huge((size_t)hn_st_elements(t), 3e38f);
        std::memcpy(&bytes[(size_t)((const char *)t->data - bytes.data())], huge.data(),
                    huge.size() * sizeof(float));
    }
    hn_st_close(f);
    write_file(w / "run/drift/drift.safetensors", bytes);
    const Words adapt = w.of("adapt", "run") + Words{"--of", "far", "--to", w / "out"};
    expect_refused(w.run(adapt), 1, {"bias", "not finite"});
    EXPECT_FALSE(std::filesystem::exists(w / "out"));
    const Ran eval = w.run(w.eval("run", "hyperflow") + Words{"--only", "far", "--stops", "1"});
    expect_done(eval);
    EXPECT_TRUE(contains(eval.err, "hyperflow on far: integration came to")) << eval.err;
    expect_refused(w.run(w.eval("run", "descent")), 1, {"descent", "not finite"});
}

/* A full disk, a kill within a batch's writes: some of its records are there, and others are not.
 */
TEST(CliHyperflow, ABatchThatWasCutOffIsMadeAgain)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("run") + Words{"--at-once", "8"}));
    const std::string want = w.bytes("run/trajectories.bin");
    const size_t head = 4096, record = (want.size() - head) / 24;
    std::string cut = want; /* 24: 2 starts of batches of 8 and 4 */
    for (const size_t lost : {3, 4, 5, 6, 7, 10, 14, 22})
        cut.replace(head + lost * record, record, record, '\0');
    write_file(w / "run/trajectories.bin", cut);
    const Words go_on = w.generate("run") + Words{"--at-once", "8", "--resume", "auto"};
    const Ran again = w.run(go_on);
    expect_done(again);
    EXPECT_TRUE(contains(again.err, "continued with 16 of 24")) << again.err;
    EXPECT_TRUE(contains(again.err, "trajectory 24/24")) << again.err;
    EXPECT_TRUE(w.bytes("run/trajectories.bin") == want);
    const Json index(w / "run/index.json");
    EXPECT_EQ(index.number("at_once.near"), 8);
    /* as many at once as they were, whatever would fit by now */
    json_t *other = json_deep_copy(index.root());
    json_object_set_new(json_object_get(other, "at_once"), "near", json_integer(3));
    EXPECT_HN_OK(hn_json_save((w / "run/index.json").c_str(), other, false));
    json_decref(other);
    write_file(w / "run/trajectories.bin", cut);
    expect_done(w.run(go_on));
    EXPECT_EQ(Json(w / "run/index.json").number("at_once.near"), 3);
}

TEST(CliHyperflow, ANetworkKeepsItsEncoder)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("run")));
    copy_run(w, "run", "other");
    expect_done(w.run(w.train("run")));
    expect_done(w.run(w.train("other") + Words{"--encoder-epochs", "3"}));
    /* a run has one encoder: no second network is made on another one */
    for (const Words &other : {Words{"--encoder-epochs", "3"}, Words{"--encoder", "mnist-cnn"}})
        expect_refused(w.run(w.train("run") + Words{"--drift", "second"} + other), 2,
                       {"encoder/model.safetensors", other[0].substr(2) + ": ", other[1]});
    EXPECT_FALSE(std::filesystem::exists(w / "run/second"));
    expect_refused(w.run(w.train("run") + Words{"--width", "20"}), 2, {"--width 20", "8"});
    for (const std::string name : {"encoder-state", "index.json", "trajectories.bin", "a/b"})
        expect_refused(w.run(w.train("run") + Words{"--drift", name}), 2,
                       {"--drift '" + name + "'"});
    /* what is refused changes nothing */
    const std::string kept = w.bytes("run/drift/encoder.json");
    expect_refused(w.run(w.train_on("run", {"--encoder", w / "other/encoder"})), 2,
                   {"drift/encoder.json", "another encoder"});
    EXPECT_EQ(w.bytes("run/drift/encoder.json"), kept);
    expect_done(w.run(w.train("run")));
    /* nor does a file that names another one */
    write_file(w / "run/drift/encoder.json",
               R"({"path":")" + (w / "other/encoder") + R"(","weights":"","image":0,"digest":")" +
                   Json(w / "other/drift/encoder.json").text("digest") + "\"}");
    expect_refused(w.run(w.of("export", "run") + Words{"--to", w / "x"}), 2,
                   {"drift.safetensors", "another encoder"});
}

TEST(CliHyperflow, TrainAndEvalGoOnWithTheSameBits)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("whole")));
    copy_run(w, "whole", "parts");
    expect_done(w.run(w.train("whole")));
    const Ran stopped = w.run(w.train("parts") + Words{"--stop-after", "4"});
    expect_done(stopped);
    EXPECT_TRUE(contains(stopped.out, "stopped behind step 4 of 8")) << stopped.out;
    expect_refused(w.run(w.eval("parts", "hyperflow")), 2, {"drift.safetensors", "train"});
    copy_run(w, "parts", "anew"); /* the same options and data, other trajectories */
    std::filesystem::remove(w / "anew/trajectories.bin");
    write_file(w / "anew/rates.json", R"({"near":{"lr":0.004}})");
    expect_done(w.run(w.generate("anew") + Words{"--resume", "auto"}));
    expect_refused(w.run(w.train("anew")), 2, {"data"});
    const Ran ended = w.run(w.train("parts"));
    expect_done(ended);
    EXPECT_FALSE(contains(ended.out, "nan")) << ended.out;
    const Ran done = w.run(w.train("parts"));
    expect_done(done);
    EXPECT_FALSE(contains(done.out, "nan")) << done.out;
    const Ran named = w.run(w.train("parts") + Words{"--drift", "it's", "--curve", "L"});
    expect_done(named);
    EXPECT_TRUE(contains(named.out, "parts --drift it's --methods")) << named.out;
    EXPECT_EQ(w.bytes("parts/drift/drift.safetensors"), w.bytes("whole/drift/drift.safetensors"));
    EXPECT_EQ(w.bytes("parts/encoder/model.safetensors"),
              w.bytes("whole/encoder/model.safetensors"));
    expect_done(w.run(w.eval("whole", "direct,bias,hyperflow")));
    for (int i = 0; i < 6; i++)
        expect_done(w.run(w.eval("parts", "direct,bias,hyperflow") + Words{"--stop-after", "1"}));
    for (const std::string cell : {"direct.near-test", "bias.near-test", "hyperflow.near-test",
                                   "direct.far", "bias.far", "hyperflow.far"}) {
        EXPECT_EQ(w.member("parts/cells/" + cell + ".json", "accuracy"),
                  w.member("whole/cells/" + cell + ".json", "accuracy"));
        if (cell.substr(0, 6) == "direct") continue; /* without a choice */
        EXPECT_EQ(w.member("parts/cells/" + cell + ".json", "tried"),
                  w.member("whole/cells/" + cell + ".json", "tried"));
    }
    expect_done(w.run(w.eval("parts", "direct") + Words{"--only", "near:test"}));
    expect_refused(w.run(w.eval("parts", "direct") + Words{"--only", "nowhere"}), 2,
                   {"--only", "nowhere"});
    expect_done(w.run(w.eval("parts", "hyperflow") + Words{"--drift", "it's", "--only", "far"}));
    EXPECT_TRUE(contains(w.bytes("parts/accuracy.gnuplot"), "title 'hyperflow@it''s'"));
    /* what is there stays, and is not taken for another's */
    const std::string kept = w.bytes("parts/cells/bias.far.json");
    expect_done(w.run(w.eval("parts", "bias")));
    EXPECT_EQ(w.bytes("parts/cells/bias.far.json"), kept);
    expect_refused(w.run(w.eval("parts", "bias") + Words{"--test-episodes", "7"}), 2,
                   {"test-episodes: 6", "test-episodes: 7"});
}

/* Every fifth image of a class of "far" is for validation. When all others change, accuracies
 * do, but nothing of what a choice is made by. */
TEST(CliHyperflow, ChoicesDoNotLookAtTestEpisodes)
{
    FlowPlace w;
    expect_done(w.run(w.generate("run")));
    expect_done(w.run(w.train("run")));
    copy_run(w, "run", "other");
    expect_done(w.run(w.eval("run", "direct,bias,full,hyperflow") + Words{"--only", "far"}));
    std::string pixel = stripes(90, 3, 2);
    std::mt19937 rng(9);
    for (int i = 0; i < 90; i++)
        if (i / 3 % 5 != 4)
            for (int k = 0; k < 144; k++) pixel[(size_t)(144 * i + k)] = (char)rng();
    w.far(pixel);
    expect_done(w.run(w.eval("other", "direct,bias,full,hyperflow") + Words{"--only", "far"}));
    EXPECT_NE(w.member("run/cells/direct.far.json", "accuracy"),
              w.member("other/cells/direct.far.json", "accuracy"));
    for (const std::string cell : {"bias", "full", "hyperflow"})
        EXPECT_EQ(w.member("run/cells/" + cell + ".far.json", "tried"),
                  w.member("other/cells/" + cell + ".far.json", "tried"))
            << cell;
    /* no adaptation is a candidate of each, by the same episodes */
    EXPECT_EQ(Json(w / "run/cells/full.far.json").number("tried.0.accuracy"),
              Json(w / "run/cells/hyperflow.far.json").number("tried.0.accuracy"));
    EXPECT_EQ(Json(w / "run/cells/full.far.json").number("tried.0.lr"), 0);
    EXPECT_EQ(Json(w / "run/cells/hyperflow.far.json").number("tried.0.stop"), 0);
}

/* A grey PNG without compression to speak of. */
std::string grey_png(int side, const std::string &pixel)
{
    const auto be = [](uint32_t v) {
        return std::string{(char)(v >> 24), (char)(v >> 16), (char)(v >> 8), (char)v};
    };
    const auto chunk = [&](const std::string &type, const std::string &data) {
        const std::string body = type + data;
        return be((uint32_t)data.size()) + body +
               be((uint32_t)crc32(0, (const Bytef *)body.data(), (uInt)body.size()));
    };
    std::string raw;
    for (int y = 0; y < side; y++) raw += '\0' + pixel.substr((size_t)(side * y), (size_t)side);
    uLongf n = compressBound((uLong)raw.size());
    std::string packed(n, '\0');
    compress((Bytef *)packed.data(), &n, (const Bytef *)raw.data(), (uLong)raw.size());
    packed.resize(n);
    return "\x89PNG\r\n\x1a\n" +
           chunk("IHDR", be((uint32_t)side) + be((uint32_t)side) + std::string{8, 0, 0, 0, 0}) +
           chunk("IDAT", packed) + chunk("IEND", "");
}

std::string png(int side, unsigned seed)
{
    return grey_png(side, pixels((size_t)(side * side), seed));
}

void put_class(const FlowPlace &w, const std::string &set, const std::string &name, int images)
{
    std::filesystem::create_directories(w / (set + "/" + name));
    for (int i = 0; i < images; i++)
        write_file(w / (set + "/" + name + "/" + std::to_string(i) + ".png"),
                   png(12, (unsigned)(i + (int)name.size())));
}

TEST(CliHyperflow, BadSupportSetsAreNamed)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("run")));
    expect_done(w.run(w.train("run")));
    const auto adapt = [&](const std::string &set) {
        return w.run(w.of("adapt", "run") +
                     Words{"--support", w / set, "--query", w / "good/b", "--to", w / "out"});
    };
    put_class(w, "good", "a", 2), put_class(w, "good", "b", 3);
    put_class(w, "one", "a", 2);
    expect_refused(adapt("one"), 2, {"one class only", "'a'"});
    put_class(w, "empty", "a", 2), put_class(w, "empty", "b", 0), put_class(w, "empty", "c", 1);
    expect_refused(adapt("empty"), 2, {"class 'b' has no image"});
    put_class(w, "torn", "a", 2), put_class(w, "torn", "b", 2);
    write_file(w / "torn/b/1.png", png(12, 5).substr(0, 60));
    expect_refused(adapt("torn"), 2, {"torn/b/1.png"});
    put_class(w, "gone", "a", 2), put_class(w, "gone", "b", 2);
    std::filesystem::create_symlink(w / "nowhere.png", w / "gone/b/2.png");
    expect_refused(adapt("gone"), 2, {"gone/b/2.png"});
    for (int k = 0; k < 65; k++) put_class(w, "many", "k" + std::to_string(k), 1);
    expect_refused(adapt("many"), 2, {"65 classes, at most 64"});
    expect_refused(adapt("none"), 2, {"none", "no such folder"});
    const Ran good = adapt("good");
    expect_done(good);
    EXPECT_EQ(lines_of(w.bytes("out/predictions.csv")).size(), 4u);
    EXPECT_TRUE(contains(good.out, "2 classes, 5 support images")) << good.out;
    expect_refused(adapt("good"), 2, {"--to", "is there already"});
    std::filesystem::remove_all(w / "out");
    put_class(w, "good", "train", 1); /* a class like the others */
    const Ran train = adapt("good");
    expect_done(train);
    EXPECT_TRUE(contains(train.out, "3 classes, 6 support images")) << train.out;
}

/* The exported file alone does what the run does, bit for bit; damage is named. */
TEST(CliHyperflow, ApplyWithTheExportedFileIsAdapt)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("run")));
    expect_done(w.run(w.train("run")));
    const std::string file = w / "one.safetensors";
    expect_done(w.run(w.of("export", "run") + Words{"--to", file}));
    put_class(w, "set", "a", 2), put_class(w, "set", "b", 3);
    const Words set = {"--support", w / "set", "--query", w / "set/b"};
    expect_done(w.run(w.of("adapt", "run") + set + Words{"--to", w / "by-run"}));
    const Words apply = {"hone-hyperflow", "apply", "--device", test_device(), "--file"};
    std::filesystem::remove_all(w / "run");
    expect_done(w.run(apply + Words{file} + set + Words{"--to", w / "by-file"}));
    EXPECT_EQ(listing(w / "by-file"), listing(w / "by-run"));
    const std::string bytes = w.bytes("one.safetensors");
    write_file(w / "short", bytes.substr(0, bytes.size() / 2));
    expect_refused(w.run(apply + Words{w / "short"} + set + Words{"--to", w / "x"}), 2, {"short"});
    expect_refused(
        w.run(apply + Words{w / "by-file/delta.safetensors"} + set + Words{"--to", w / "x"}), 2,
        {"delta.safetensors", "export"});
    expect_refused(w.run(apply + Words{file, "--to", w / "x"}), 2, {"--support"});
    const std::string none = R"("shorter_side":"0")";
    std::string cut = bytes;
    ASSERT_NE(bytes.find(none), std::string::npos);
    cut.replace(bytes.find(none), none.size(), R"("shorter_side":"4")");
    write_file(w / "cut", cut);
    expect_refused(w.run(apply + Words{w / "cut"} + set + Words{"--to", w / "x"}), 2,
                   {"cut", "shorter_side 4", "12.."});
    for (const std::string part : {"backbone", "encoder"}) { /* put together of two runs */
        std::string mixed = bytes;
        char &digit = mixed[bytes.find("\"" + part + "\":\"") + part.size() + 4];
        digit = digit == '0' ? '1' : '0';
        write_file(w / "mixed", mixed);
        expect_refused(w.run(apply + Words{w / "mixed"} + set + Words{"--to", w / "x"}), 2,
                       {"mixed", "of another " + part});
    }
    EXPECT_FALSE(std::filesystem::exists(w / "x"));
}

/* A safetensors file whose header says `to` for every `from`. */
std::string edited(const std::string &bytes, const std::string &from, const std::string &to)
{
    uint64_t n = 0;
    std::memcpy(&n, bytes.data(), sizeof n);
    std::string header = bytes.substr(sizeof n, n);
    EXPECT_TRUE(contains(header, from)) << from;
    for (size_t at = 0; (at = header.find(from, at)) != std::string::npos; at += to.size())
        header.replace(at, from.size(), to);
    const std::string rest = bytes.substr(sizeof n + n);
    n = header.size();
    return std::string((const char *)&n, sizeof n) + header + rest;
}

/* Sizes of tens of GiB beside tensors of a few KiB: the tensor is named, and nothing is taken. */
TEST(CliHyperflow, ACarriedFileDoesNotChooseItsSizes)
{
    const FlowPlace w;
    expect_done(w.run(w.generate("run")));
    expect_done(w.run(w.train("run")));
    expect_done(w.run(w.of("export", "run") + Words{"--to", w / "one.safetensors"}));
    put_class(w, "set", "a", 2), put_class(w, "set", "b", 3);
    const std::string bytes = w.bytes("one.safetensors");
    const auto key = [](const std::string &name, const std::string &value) {
        return "\\\"" + name + "\\\":" + value;
    };
    const struct {
        std::string from, to;
        Words said;
    } hostile[] = {
        {key("width", "16"),
         key("width", "16384"),
         {"tensor drift.support.input.weight is [16, ", "drift.config says [16384, "}},
        {key("blocks", "1"), key("blocks", "256"), {"tensor drift.modulation.weight is ["}},
        {key("queries", "2"),
         key("queries", "4096"),
         {"tensor drift.support.queries is [2, 16]", "drift.config says [4096, 16]"}},
        {key("time", "128"), key("time", "4096"), {"tensor drift.time.0.weight is [16, 128]"}},
        {key("intermediate_size", "32"),
         key("intermediate_size", "1048576"),
         {"tensor backbone.vit.", "backbone.config says [1048576, 16]"}},
        {key("num_hidden_layers", "2"),
         key("num_hidden_layers", "4096"),
         {"backbone.config says 4096 layers"}},
        {key("image_size", "12"),
         key("image_size", "16384"),
         {"tensor backbone.vit.", "is [1, 10, 16]", "backbone.config says [1, 16777217, 16]"}},
        {"\"encoder.fc1.", "\"encoder.fc9.", {"tensor encoder.fc1.weight is missing"}},
        {"\"drift.output.bias\"", "\"drift.outpot.bias\"", {"tensor drift.output.bias is missing"}},
    };
    for (const auto &h : hostile) {
        write_file(w / "hostile", edited(bytes, h.from, h.to));
        expect_refused(w.run({"hone-hyperflow", "apply", "--device", test_device(), "--file",
                              w / "hostile", "--support", w / "set", "--to", w / "x"}),
                       2, Words{"hostile"} + h.said);
    }
    EXPECT_FALSE(std::filesystem::exists(w / "x"));
}

/* A list says which classes are for what; one that it leaves out is for nothing. */
TEST(CliHyperflow, ClassesMayBeSplitByAList)
{
    const FlowPlace w;
    std::string list = "# of near\n";
    for (int c = 0; c < 11; c++)
        list += (c < 4 ? "train " : c < 7 ? "valid " : "test ") + std::to_string(c) + "\n";
    write_file(w / "near.txt", list);
    const Words run = w.generate("none");
    const Words check = Words{"hone-hyperflow", "check"} + Words(run.begin() + 2, run.end() - 2) +
                        Words{"--splits"};
    const Ran r = w.run(check + Words{"near=" + (w / "near.txt")});
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "classes: train 4, valid 3, test 4")) << r.err;
    expect_refused(w.run(check + Words{"near=" + (w / "none.txt")}), 2, {"none.txt"});
    expect_refused(w.run(check + Words{"near"}), 2, {"--splits", "NAME=FILE"});
    expect_refused(w.run(check + Words{"far=" + (w / "near.txt")}), 2, {"far", "--train-domains"});
    const std::string twice = "near=" + (w / "near.txt");
    expect_refused(w.run(check + Words{twice + "," + twice}), 2, {"near is there twice"});
    write_file(w / "near.txt", list + "test 77\n");
    expect_refused(w.run(check + Words{twice}), 2, {"near.txt", "77"});
}

/* Two runs of three classes: the first of classes 0 to 2 of the drawings, which are trained on, the
 * second of classes 9 to 11; image 0 of each is its class, image 1 the query. Files are inverted.
 */
void put_runs(const FlowPlace &w, const std::string &drawings)
{
    for (int run = 0; run < 2; run++) {
        const std::string name = run == 0 ? "run01" : "run02", at = "runs/" + name;
        std::string lines;
        for (int k = 0; k < 3; k++)
            for (int i = 0; i < 2; i++) {
                const size_t image = (size_t)(12 * i + 9 * run + k);
                std::string pixel = drawings.substr(144 * image, 144);
                for (char &c : pixel) c = (char)(255 - (uint8_t)c);
                const std::string number = std::to_string(k + 1) + ".png";
                const std::string file =
                    i == 0 ? "/training/class0" + number : "/test/item0" + number;
                std::filesystem::create_directories(w / (at + (i == 0 ? "/training" : "/test")));
                write_file(w / (at + file), grey_png(12, pixel));
                if (i == 1) lines += name + file + " " + name + "/training/class0" + number + "\n";
            }
        write_file(w / (at + "/class_labels.txt"), lines);
    }
}

TEST(CliHyperflow, OneShotRunsAreADomainOfTheirOwn)
{
    FlowPlace w;
    const std::string drawings = stripes(144, 12, 1);
    std::string list;
    for (int c = 0; c < 12; c++)
        list += (c < 6 ? "train " : c < 9 ? "valid " : "test ") + std::to_string(c) + "\n";
    w.drawings(drawings);
    write_file(w / "list.txt", list);
    put_runs(w, drawings);
    const Words runs = {"--one-shot-runs", w / "runs"};
    expect_done(w.run(w.generate("other")));
    expect_refused(w.run(w.eval("other", "direct") + runs), 2, {"--one-shot-runs", "'omniglot'"});
    expect_done(
        w.run(w.generate("run") + Words{"--train-domains", "omniglot", "--test-domains", "far",
                                        "--splits", "omniglot=" + (w / "list.txt")}));
    expect_done(w.run(w.train("run")));
    const Ran eval = w.run(w.eval("run", "direct,bias,hyperflow") + runs);
    expect_done(eval);
    EXPECT_TRUE(
        contains(eval.err, "omniglot-runs: 6 of its images are of classes that are trained"))
        << eval.err;
    for (const std::string method : {"direct", "bias", "hyperflow"}) {
        const Json cell(w / ("run/cells/" + method + ".omniglot-runs.json"));
        EXPECT_EQ(cell.number("episodes"), 2);
        EXPECT_EQ(json_array_size(cell.at("accuracy")), 2u);
        EXPECT_TRUE(json_is_true(cell.at("in_domain")));
        EXPECT_EQ(cell.text("sampler_digest"),
                  Json(w / "run/cells/direct.omniglot-runs.json").text("sampler_digest"));
    }
    EXPECT_EQ(Json(w / "run/cells/direct.far.json").number("episodes"), 6);
    write_file(w / "runs/run02/test/item01.png", png(12, 5));
    expect_refused(w.run(w.eval("run", "bias") + runs), 2, {"bias.omniglot-runs.json", "test: "});
    /* of one run there is no interval, but everything else */
    std::filesystem::remove_all(w / "runs/run02");
    std::filesystem::remove_all(w / "run/cells");
    expect_done(w.run(w.eval("run", "direct,bias") + runs));
    EXPECT_EQ(Json(w / "run/cells/bias.omniglot-runs.json").number("episodes"), 1);
    EXPECT_TRUE(contains(read_file(w / "run/result.json"), "omniglot-runs"));
    std::filesystem::remove(w / "runs/run01/test/item01.png");
    expect_refused(w.run(w.eval("run", "bias") + runs), 2, {"run01", "item01.png"});
}

/* --class-images takes the first files of a folder's classes, and opens no others: a run on all of
 * them has the bits of one on a folder without the others. */
TEST(CliHyperflow, ClassImagesOfAFolderAreItsFirstFiles)
{
    const FlowPlace w;
    for (int k = 0; k < 12; k++) {
        put_class(w, "data/all", "k" + std::to_string(k), 9);
        put_class(w, "data/few", "k" + std::to_string(k), 6);
        write_file(w / ("data/all/k" + std::to_string(k) + "/8.png"), "damaged");
    }
    const auto generate = [&](const std::string &out, const std::string &set, const char *most) {
        const Words domains = {"--train-domains", "near=" + set, "--test-domains", "near:test"};
        return w.run(w.generate(out) + domains + Words{"--class-images", most});
    };
    expect_done(generate("all-6", "all", "6"));
    expect_done(generate("few-6", "few", "6"));
    expect_done(generate("few-0", "few", "0"));
    EXPECT_EQ(w.bytes("all-6/trajectories.bin"), w.bytes("few-6/trajectories.bin"));
    EXPECT_EQ(w.bytes("all-6/trajectories.bin"), w.bytes("few-0/trajectories.bin"));
    expect_refused(generate("all-0", "all", "0"), 2, {"k0/8.png"});
}

/* Its split cuts them, and Meta-Dataset knows no superclasses: episodes are of all classes. */
TEST(CliHyperflow, SuperclassesAreForHoldingOutAlone)
{
    const FlowPlace w;
    w.superclasses();
    const Words check = w.check_meta("color.json", "super", "super:test", "64/16/20");
    const Ran c = w.run(check);
    expect_done(c);
    EXPECT_TRUE(contains(c.out, "super/train: Meta-Dataset's episodes, 5..50-way,")) << c.out;
    EXPECT_TRUE(contains(c.out, "super/valid: Meta-Dataset's episodes, 5..16-way,")) << c.out;
    EXPECT_FALSE(contains(c.out, "out of one group")) << c.out;
    const Ran h = w.run(check + Words{"--hold-out", "2"});
    expect_done(h);
    EXPECT_TRUE(contains(h.out, "super/held-out: Meta-Dataset's episodes, 5-way,")) << h.out;
}

TEST(CliHyperflow, AlphabetsThatAreTooSmallAreNamed)
{
    const FlowPlace w;
    w.letters();
    const Ran c = w.run(w.check_meta("vit.json", "letters", "near", "50/50/0"));
    expect_done(c);
    for (const std::string part : {"train", "valid"})
        EXPECT_TRUE(contains(c.err, "warning: letters/" + part)) << c.err;
    EXPECT_TRUE(contains(c.err, "of its 12 classes are in no episode")) << c.err;
    EXPECT_TRUE(contains(c.err, "group 'B' has")) << c.err;
    EXPECT_FALSE(contains(c.err, "group 'A' has")) << c.err;
}

/* Meta-Dataset's images are the centres of longer ones. */
TEST(CliHyperflow, ImagesOfFoldersAreCutAsTheProtocolSays)
{
    const FlowPlace w;
    for (const std::string name : {"a", "bb", "ccc", "dddd", "eeeee"})
        put_class(w, "data/shop", name, 20);
    const Words check = w.check_meta("vit.json", "near", "shop", "50/50/0");
    const Ran c = w.run(check);
    expect_done(c);
    EXPECT_TRUE(contains(c.err, "shorter side of a folder's images becomes 14 pixels")) << c.err;
    EXPECT_TRUE(contains(c.err, "the centre of 12 is cut")) << c.err;
    EXPECT_TRUE(contains(c.out + c.err, "shop: 100 images of 12 x 12")) << c.out << c.err;
}

TEST(CliHyperflow, EpisodesOfADomainThatDoesNotTrainAreOfOneAlphabetToo)
{
    const FlowPlace w;
    w.letters();
    const Words more = {"--max-support", "100", "--max-query", "100", "--held-images", "0.3"};
    const Ran c = w.run(w.check_meta("vit.json", "near", "letters", "50/50/0") + more);
    expect_done(c);
    for (const std::string part : {"valid", "test"}) {
        const std::string text = "letters/" + part + ": Meta-Dataset's episodes, 5..20-way out of";
        EXPECT_TRUE(contains(c.out, text)) << c.out;
        EXPECT_TRUE(contains(c.err, "letters/" + part + ": 4 of its 24 classes are in no episode"))
            << c.err;
    }
}

TEST(CliHyperflow, AlphabetsMayBeFolders)
{
    const FlowPlace w;
    for (int k = 0; k < 24; k++)
        put_class(w, "data/folders", (k < 20 ? "A/" : "B/") + std::to_string(k), 10);
    const Words check = w.check_meta("vit.json", "folders", "near", "50/50/0");
    const Ran c = w.run(check);
    expect_done(c);
    EXPECT_TRUE(contains(c.out, "out of one group")) << c.out;
    EXPECT_TRUE(contains(c.err, "group 'B' has")) << c.err;
    EXPECT_FALSE(contains(c.err, "group 'A' has")) << c.err;
    expect_refused(w.run(check + Words{"--hold-out", "B"}), 2,
                   {"folders/held-out", "it has 4 classes"});
    put_class(w, "data/folders", "C", 10);
    expect_refused(w.run(check), 2, {"folders are in A and none in C"});
}

TEST(CliHyperflow, WhatMeansNothingIsRefused)
{
    const FlowPlace w;
    const Words run = w.generate("none");
    expect_refused(w.run(run + Words{"--knots", "4"}), 2, {"--knots 4", "--tune-steps 4"});
    expect_refused(w.run(run + Words{"--protocol", "cdfsl"}), 2, {"--way", "fixed"});
    expect_refused(w.run(run + Words{"--inits", "1", "--noise", "0.1"}), 2, {"--noise", "inits"});
    expect_refused(w.run(run + Words{"--trajectories", "25"}), 2, {"--trajectories 25", "2"});
    expect_refused(w.run(run + Words{"--train-domains", "nowhere"}), 2, {"nowhere"});
    expect_refused(w.run(run + Words{"--test-domains", "far:held-out"}), 2, {"far:held-out"});
    expect_refused(w.run(run + Words{"--test-domains", "near=/nowhere:test"}), 2,
                   {"near=/nowhere", "data/near"});
    expect_refused(w.run(run + Words{"--hold-out", "trees"}), 2, {"--hold-out", "trees"});
    expect_refused(w.run(run + Words{"--split", "50/60/10"}), 2, {"--split", "100"});
    expect_refused(w.run(run + Words{"--rates", "1e-3,zero"}), 2, {"--rates", "zero"});
    expect_refused(w.run(run + Words{"--model", "resnet20"}), 2, {"resnet20", "transformer"});
    expect_refused(w.run(run + Words{"--budget", "1e-9"}), 2, {"--budget"});
    expect_refused(w.run(run + Words{"--max-support", "9"}), 2, {"--max-support", "meta-dataset"});
    EXPECT_FALSE(std::filesystem::exists(w / "none"));
    const Words check(run.begin() + 2, run.end() - 2);
    const Ran c = w.run(Words{"hone-hyperflow", "check"} + check);
    expect_done(c);
    EXPECT_TRUE(contains(c.out, "24 trajectories (12 episodes, 2 starts)")) << c.out;
    const Ran p = w.run(Words{"hone-hyperflow", "plan", "--encoder", "mnist-cnn-small",
                              "--encoder-image", "12", "--width", "16"} +
                        check);
    expect_done(p);
    EXPECT_TRUE(contains(p.out, "adaptation takes")) << p.out;
}

} // namespace
