/* hone-fedref: methods, payloads, messages, results. */
#include "fedref_test.h"

namespace {

const Words fedavg = {"--method", "fedavg"};

TEST(CliFedref, LambdaZeroIsFedavgByteForByte)
{
    const FedPlace w;
    const Words run = w.cnn("train", "5") + Words{"--partition", "dirichlet", "--alpha", "0.5"};
    const Words zero = {"--lambda1", "0", "--lambda2", "0"};
    const std::string want = w.trained("avg", run + fedavg);
    EXPECT_TRUE(w.trained("v3", run + Words{"--method", "fedref-v3"} + zero) == want);
    EXPECT_TRUE(w.trained("v2", run + Words{"--method", "fedref-v2"} + zero) == want);
    EXPECT_TRUE(w.trained("v1", run + Words{"--method", "fedref-v1", "--no-loss-term"} + zero) ==
                want);
    EXPECT_FALSE(w.trained("on", run + Words{"--method", "fedref-v3", "--lambda2", "0.1"}) == want);
    const auto corrected = w.column("on", "corrected");
    EXPECT_EQ(corrected, (std::vector<double>{0, 0, 0, 1, 1})); /* p = 3 aggregates first */
}

TEST(CliFedref, FedproxAndFedadamAreNotFedavg)
{
    const FedPlace w;
    const Words run = w.cnn("train", "1");
    const std::string avg = w.trained("avg", run + fedavg);
    EXPECT_FALSE(w.trained("prox", run + Words{"--method", "fedprox", "--mu", "1"}) == avg);
    EXPECT_FALSE(w.trained("adam", run + Words{"--method", "fedadam"}) == avg);
    EXPECT_TRUE(w.trained("again", run + fedavg) == avg);
    EXPECT_FALSE(w.trained("seed", run + fedavg + Words{"--seed", "1"}) == avg);
    /* the penalty holds clients: they move less */
    EXPECT_LT(w.column("prox", "update_norm")[0], w.column("avg", "update_norm")[0]);
}

/* The values of a model's file. */
std::vector<float> values_of(const std::string &path)
{
    hn_st_file *f = nullptr;
    std::vector<float> all;
    EXPECT_HN_OK(hn_st_open(path.c_str(), &f));
    for (int64_t i = 0; f && i < hn_st_count(f); i++) {
        const hn_st_tensor *t = hn_st_at(f, i);
        std::vector<float> v((size_t)hn_st_elements(t));
        EXPECT_HN_OK(hn_st_convert(t, HN_F32, v.data()));
        all.insert(all.end(), v.begin(), v.end());
    }
    hn_st_close(f);
    return all;
}

/* Batched or one by one: the same model within the rounding of fp32. */
TEST(CliFedref, ClientsAtOnceMakeTheSameModel)
{
    const FedPlace w;
    const Words run = w.cnn("train", "2") + fedavg +
                      Words{"--partition", "dirichlet", "--alpha", "0.5",    "--momentum",
                            "0.9",         "--mu",      "0.1",     "--late", "0.4"};
    w.trained("one", run);
    w.trained("three", run + Words{"--simulate", "replicas", "--at-once", "3"});
    const auto one = values_of(w / "one-model/model.safetensors");
    EXPECT_LT(rel_l2(values_of(w / "three-model/model.safetensors"), one), 1e-4);
    EXPECT_NEAR(w.column("one", "client_loss")[1], w.column("three", "client_loss")[1], 1e-4);
}

/* And each in a block; images of 28 x 28, as the smallest networks have them. */
TEST(CliFedref, ClientsInBlocksMakeTheSameModel)
{
    const FedPlace w;
    Words run = w.cnn("train", "2");
    run[3] = "mnist-cnn-small", run[5] = "28";
    run = run + fedavg +
          Words{"--partition", "dirichlet", "--alpha", "0.5", "--late", "0.4", "--mu", "0.1"};
    w.trained("one", run);
    w.trained("block", run + Words{"--simulate", "block", "--at-once", "5"});
    const auto one = values_of(w / "one-model/model.safetensors");
    EXPECT_LT(rel_l2(values_of(w / "block-model/model.safetensors"), one), 1e-4);
    EXPECT_NEAR(w.column("one", "client_loss")[1], w.column("block", "client_loss")[1], 1e-4);
    expect_refused(w.run(run + Words{"--simulate", "block", "--momentum", "0.9"} + w.to("none")), 2,
                   {"blocks", "plain SGD"});
}

TEST(CliFedref, EveryMethodRuns)
{
    const FedPlace w;
    for (const std::string method :
         {"fedavg", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "median",
          "trimmed-mean", "ema", "fedref-v1", "fedref-v2", "fedref-v3"}) {
        const Words mu = method == "fedprox" ? Words{"--mu", "0.01"} : Words{};
        const Words run = w.cnn("train", "4") + Words{"--method", method} + mu;
        const Ran r = w.run(run + w.to(method));
        expect_done(r);
        EXPECT_EQ(w.column(method, "used"), std::vector<double>(4, 8)) << method;
        for (const double loss : w.column(method, "loss"))
            EXPECT_LT(loss, 2) << method; /* log 6 is 1.79 */
        EXPECT_EQ(Json(w / (method + "/result.json")).text("method"), method);
    }
}

/* With a Fisher diagonal the clients are weighed by it, and messages are twice as long. */
TEST(CliFedref, FisherWeighsClients)
{
    const FedPlace w;
    const Words run = w.cnn("train", "2") + Words{"--method", "fedref-v3"};
    const std::string plain = w.trained("plain", run);
    const std::string with = w.trained("fisher", run + Words{"--fisher", "--fisher-images", "4"});
    EXPECT_FALSE(with == plain);
    EXPECT_EQ(w.column("fisher", "corrected"), (std::vector<double>{1, 1}));
    EXPECT_EQ(w.column("fisher", "bytes_up")[0] - 8 * 128,
              2 * (w.column("plain", "bytes_up")[0] - 8 * 128));
    expect_refused(w.run(run + Words{"--fisher", "--simulate", "replicas"} + w.to("none")), 2,
                   {"--fisher", "--simulate one"});
}

TEST(CliFedref, BytesAreThoseOfTheMessages)
{
    const FedPlace w;
    const double values = 128906 - 4 * 1025, header = 128; /* six classes, not ten */
    expect_done(w.run(w.cnn() + fedavg + w.to("f32")));
    expect_done(
        w.run(w.cnn() + fedavg + Words{"--encoding", "bf16", "--down", "bf16"} + w.to("bf16")));
    expect_done(
        w.run(w.cnn() + fedavg + Words{"--encoding", "topk", "--topk", "0.05"} + w.to("topk")));
    EXPECT_EQ(w.column("f32", "bytes_up"), std::vector<double>(3, 8 * (4 * values + header)));
    EXPECT_EQ(w.column("f32", "bytes_down"), std::vector<double>(3, 8 * (4 * values + header)));
    EXPECT_EQ(w.column("bf16", "bytes_up"), std::vector<double>(3, 8 * (2 * values + header)));
    EXPECT_EQ(w.column("bf16", "bytes_down"), std::vector<double>(3, 8 * (2 * values + header)));
    for (const double bytes : w.column("topk", "bytes_up")) {
        EXPECT_LT(bytes, 8 * (0.05 * values * 6 + header)); /* a value and its gap */
        EXPECT_GT(bytes, 8 * 0.05 * values * 4);
    }
    const Json r(w / "topk/result.json");
    double up = 0;
    for (const double bytes : w.column("topk", "bytes_up")) up += bytes;
    EXPECT_EQ(r.number("bytes_up"), up);
    /* what was not sent is not lost: sent with the next difference, the model ends elsewhere */
    expect_done(w.run(w.cnn() + fedavg +
                      Words{"--encoding", "topk", "--topk", "0.05", "--no-feedback"} +
                      w.to("forgets")));
    EXPECT_FALSE(w.model("forgets") == w.model("topk"));
}

TEST(CliFedref, PayloadsOfPairsAndHeads)
{
    const FedPlace w;
    const Words more = {"--epochs", "2", "--optimizer", "adamw", "--lr", "0.01"};
    Words run = w.vit();
    run.erase(std::find(run.begin(), run.end(), "--lr"),
              std::find(run.begin(), run.end(), "--lr") + 2);
    run = run + more;
    std::vector<double> bytes;
    for (const Words &payload :
         {Words{"--payload", "full"}, Words{"--payload", "lora"}, Words{"--payload", "head"}}) {
        expect_done(w.run(run + payload + w.to(payload[1])));
        bytes.push_back(w.column(payload[1], "bytes_up")[0]);
        const Json r(w / (payload[1] + "/result.json"));
        EXPECT_EQ(r.number("message_bytes_up") * 8, bytes.back());
        EXPECT_FALSE(w.model(payload[1]).empty());
    }
    EXPECT_LT(bytes[1], 0.5 * bytes[0]);
    EXPECT_EQ(bytes[2], 8 * (4 * (6 * 33) + 128));
    /* the head's model is the first one but for the head; the adapter is one of PEFT's */
    expect_done(w.run(
        {"hone-fedref", "export", "--run", w / "lora", "--to", w / "adapter", "--kind", "peft"}));
    EXPECT_TRUE(std::filesystem::exists(w / "adapter/adapter_config.json"));
    expect_refused(
        w.run({"hone-fedref", "export", "--run", w / "head", "--to", w / "x", "--kind", "peft"}), 2,
        {"--kind peft", "--payload head"});
}

TEST(CliFedref, StatisticsThatStayDoNotTravel)
{
    const FedPlace w;
    const Words run =
        w.cnn("train", "1") + fedavg +
        Words{"--model", "resnet20", "--lr", "1e-4"}; /* frozen norms do not hold it */
    const auto info = [&](const std::string &name, const Words &how) {
        expect_done(w.run(run + how + w.to(name)));
        const Ran r = w.run({"hone-fedref", "info", "--run", w / name});
        EXPECT_EQ(r.code, 0) << r.err;
        return r.out;
    };
    const std::string head = info("head", {"--payload", "head"}),
                      frozen = info("frozen", {"--frozen-norm"}),
                      full = info("full", {"--epoch-end", "join"});
    EXPECT_TRUE(contains(head, "payload: 390 values")) << head; /* 6 x 64 and 6 */
    for (const auto &text : {head, frozen}) EXPECT_FALSE(contains(text, "buffer")) << text;
    EXPECT_TRUE(contains(full, "buffer")) << full;
}

/* Ids once, then changes alone: bytes, the model that comes out, and going on. */
TEST(CliFedref, PayloadOfBlocks)
{
    const FedPlace w;
    Words run = w.vit();
    const auto lr = std::find(run.begin(), run.end(), "--lr");
    run.erase(lr, lr + 2);
    run = run + Words{"--payload", "sparse",   "--optimizer", "adamw",           "--lr",
                      "0.01",      "--epochs", "2",           "--sparse-budget", "lora:2"};
    expect_done(w.run(run + w.to("run")));
    const Json r(w / "run/result.json");
    const double up = r.number("message_bytes_up"), ids = r.number("message_bytes_ids");
    EXPECT_EQ(up, 4 * r.number("payload_values") + 128);
    EXPECT_GT(ids, 64);
    EXPECT_LT(ids, up / 2);
    EXPECT_EQ(w.column("run", "bytes_up"), std::vector<double>(3, 8 * up));
    EXPECT_EQ(w.column("run", "bytes_down"), (std::vector<double>{8 * (up + ids), 8 * up, 8 * up}));
    const auto accuracy = w.column("run", "accuracy");
    EXPECT_GT(accuracy.back(), 0.25); /* six classes */
    const Ran eval = w.run({"hone-fedref", "eval", "--run", w / "run"});
    EXPECT_TRUE(contains(eval.out, ", the same")) << eval.out << eval.err;
    const Ran info = w.run({"hone-fedref", "info", "--run", w / "run"});
    EXPECT_TRUE(contains(info.out, "attn.qkv.weight.blocks") ||
                contains(info.out, "query.weight.blocks"))
        << info.out;
    EXPECT_TRUE(contains(info.out, "bytes of ids")) << info.out;
    /* the exported model is the whole one, with the changes in it */
    const std::string bytes = w.model("run");
    const Ran whole = w.run({"hone-full", "eval", "--model", w / "run-model", "--data",
                             w / "data/t10k-images-idx3-ubyte", "--device", test_device()});
    char want[32];
    std::snprintf(want, sizeof want, "%.2f %%", 100 * accuracy.back());
    EXPECT_TRUE(contains(whole.out, want)) << want << " is not in " << whole.out << whole.err;
    expect_done(w.run(run + w.to("cut") + Words{"--stop-after", "1"}));
    expect_done(w.run(run + w.to("cut") + Words{"--resume", "auto"}));
    EXPECT_TRUE(w.model("cut") == bytes);
    EXPECT_EQ(w.rounds("cut"), w.rounds("run"));
    /* other blocks, another run; bf16 with what was rounded away kept */
    expect_refused(w.run(run + w.to("cut") + Words{"--resume", "auto", "--sparse-score", "random"}),
                   2, {"sparse-score"});
    expect_done(w.run(run + w.to("random") +
                      Words{"--sparse-score", "random", "--encoding", "bf16", "--rounds", "1"}));
    EXPECT_FALSE(w.model("random") == bytes);
}

/* What is exported is what was measured. */
TEST(CliFedref, TheExportedModelHasTheAccuracyOfTheRun)
{
    const FedPlace w;
    for (const Words &payload : {Words{"--payload", "full"}, Words{"--payload", "lora"}}) {
        const std::string name = payload[1];
        w.trained(name, w.vit() + payload);
        const Ran r = w.run({"hone-full", "eval", "--model", w / (name + "-model"), "--data",
                             w / "data/t10k-images-idx3-ubyte", "--device", test_device()});
        expect_done(r);
        char want[32];
        std::snprintf(want, sizeof want, "%.2f %%", 100 * w.column(name, "accuracy").back());
        EXPECT_TRUE(contains(r.out, want)) << want << " is not in " << r.out;
    }
}

TEST(CliFedref, CheckShowsClientsBytesAndMemory)
{
    const FedPlace w;
    const Ran r = w.run(w.cnn("check") + Words{"--partition", "shards", "--per-round", "3"});
    expect_done(r);
    EXPECT_TRUE(contains(r.out, "a round: 3 of 8 clients")) << r.out;
    EXPECT_TRUE(contains(r.out, "a client sends 499352 bytes")) << r.out;
    EXPECT_TRUE(contains(r.out, "server ")) << r.out;
    EXPECT_EQ(lines_of(r.out)[1].substr(0, 16), "      0       12") << r.out;
    const Words three = w.cnn("check") + Words{"--per-round", "3", "--simulate", "replicas"};
    for (const char *at_once : {"0", "2", "3"}) { /* one group, two, one */
        const Ran check = w.run(three + Words{"--at-once", at_once});
        expect_done(check);
        const bool several = std::string(at_once) == "2";
        EXPECT_EQ(contains(check.out, " MiB, results of a group "), several) << check.out;
    }
}

/* Issue 7: a payload of rank 8 on q, k, v is at most 2 % of the dense one. */
TEST(CliFedref, PairsOfRankEightAreTwoPercentOfTheModel)
{
    const FedPlace w;
    const Words run = {"hone-fedref",  "check",    "--model",        "vit-tiny-cifar",
                       "--clients",    "10",       "--payload",      "lora",
                       "--device",     "cpu",      "--lora-targets", "attn.qkv",
                       "--data",       w / "data", "--eval-batch",   "2",
                       "--batch-size", "2"};
    const Ran r = w.run(run);
    expect_done(r);
    const size_t at = r.out.find(" %)");
    ASSERT_NE(at, std::string::npos) << r.out;
    const double share = std::stod(r.out.substr(r.out.rfind('(', at) + 1));
    EXPECT_LT(share, 2) << r.out;
    EXPECT_GT(share, 1) << r.out;
}

TEST(CliFedref, EvalReportAndInfoReadTheRun)
{
    const FedPlace w;
    expect_done(w.run(w.cnn() + Words{"--target", "0.2"} + w.to("run")));
    const Words run = {"--run", w / "run"};
    const Ran eval = w.run(Words{"hone-fedref", "eval"} + run);
    expect_done(eval);
    EXPECT_TRUE(contains(eval.out, "%, the same")) << eval.out;
    const std::string rounds = read_file(w / "run/rounds.csv");
    const std::string result = read_file(w / "run/result.json");
    std::filesystem::remove(w / "run/rounds.csv");
    const Ran report = w.run(Words{"hone-fedref", "report"} + run);
    expect_done(report);
    EXPECT_EQ(read_file(w / "run/rounds.csv"), rounds);
    EXPECT_EQ(read_file(w / "run/result.json"), result);
    EXPECT_TRUE(contains(report.out, "target:  20.00 %")) << report.out;
    const Ran info = w.run(Words{"hone-fedref", "info"} + run);
    expect_done(info);
    EXPECT_TRUE(contains(info.out, "fedref-v3 behind round 3 of 3, p 3, lambda1 0, lambda2 0.01"))
        << info.out;
    EXPECT_TRUE(contains(info.out, "conv1.weight")) << info.out;
    EXPECT_TRUE(std::filesystem::exists(w / "run/curve.gnuplot"));
}

TEST(CliFedref, TheValueOfAnotherOptionIsNotTheRun)
{
    const FedPlace w;
    expect_done(w.run(w.cnn("train", "1") + w.to("a")));
    const Words to = {"--to", w / "model"};
    expect_refused(w.run(Words{"hone-fedref", "export", "--run", w / "a", "--kind", "run"} + to), 2,
                   {"--kind", "'run'"});
    expect_done(w.run(Words{"hone-fedref", "export", "run=" + w / "a"} + to));
}

/* A head for classes that come later. */
TEST(CliFedref, AHeadMayHaveMoreClassesThanTheData)
{
    const FedPlace w;
    w.trained("run", w.cnn("train", "1") + fedavg + Words{"--classes", "9"});
    const std::string result = read_file(w / "run/result.json");
    EXPECT_TRUE(contains(result, "\"class\": \"5\"")) << result;
    EXPECT_TRUE(contains(result, "\"class\": \"8\"")) << result;
    EXPECT_FALSE(contains(result, "\"class\": \"9\"")) << result;
    EXPECT_TRUE(contains(read_file(w / "run-model/config.json"), "9"));
    expect_done(w.run({"hone-fedref", "eval", "--run", w / "run"}));
    expect_done(w.run({"hone-full", "eval", "--model", w / "run-model", "--data", w / "data",
                       "--device", test_device()}));
}

/* Images of one class say nothing, unless they are of a model for more. */
TEST(CliFedref, OneClassIsNotEnough)
{
    const FedPlace w;
    write_file(w / "data/train-labels-idx1-ubyte", idx_labels(std::vector<int>(96)));
    write_file(w / "data/t10k-labels-idx1-ubyte", idx_labels(std::vector<int>(48)));
    expect_refused(w.run(w.cnn("train", "1") + w.to("one")), 2, {w / "data", "--classes"});
    expect_refused(w.run({"hone-full", "train", "--model", "mnist-cnn", "--image-size", "16",
                          "--data", w / "data", "--out", w / "one", "--device", test_device()}),
                   2, {w / "data", "one class"});
    expect_done(w.run(w.cnn("train", "1") + w.to("two") + Words{"--classes", "2"}));
}

TEST(CliFedref, NamesOfClassesGoIntoJson)
{
    const FedPlace w;
    write_file(w / "data/classes.txt", "a\nb\nc\nd\ne\ncaf\xe9\n");
    expect_refused(w.run(w.cnn("train", "1") + w.to("run")), 2, {"class 5", "not UTF-8"});
    EXPECT_FALSE(std::filesystem::exists(w / "run"));
}

TEST(CliFedref, PathsMayHoldQuotes)
{
    const FedPlace w;
    const std::string out = "it's \"one\"";
    const Ran r = w.run(w.cnn("train", "1") + w.to(out) + Words{"--log-format", "json"});
    expect_done(r);
    write_file(w / "last.json", lines_of(r.out).back());
    const Json last(w / "last.json");
    EXPECT_EQ(last.text("result"), w / (out + "/result.json"));
    EXPECT_NEAR(last.number("accuracy"), w.column(out, "accuracy")[0], 1e-8);
    EXPECT_TRUE(contains(read_file(w / (out + "/curve.gnuplot")), "it''s \"one\"/curve.png'"));
    if (std::system("gnuplot --version > /dev/null 2>&1") == 0) {
        EXPECT_TRUE(std::filesystem::exists(w / (out + "/curve.png")));
    }
}

/* Rounds and bytes to the target, and what was forgotten, by hand from the table. */
TEST(CliFedref, ResultFollowsFromTheRounds)
{
    const FedPlace w;
    expect_done(
        w.run(w.cnn("train", "6") + Words{"--target", "0.25", "--lr", "0.3"} + w.to("run")));
    const auto accuracy = w.column("run", "accuracy"), up = w.column("run", "bytes_up"),
               down = w.column("run", "bytes_down");
    const Json r(w / "run/result.json");
    const double best = *std::max_element(accuracy.begin(), accuracy.end());
    EXPECT_NEAR(r.number("best_accuracy"), best, 1e-9);
    EXPECT_NEAR(r.number("forgetting"), best - accuracy.back(), 1e-9);
    double bytes = 0;
    for (size_t i = 0; i < accuracy.size(); i++) {
        bytes += up[i] + down[i];
        if (accuracy[i] < 0.25) continue;
        EXPECT_EQ(r.number("rounds_to_target"), (double)i + 1);
        EXPECT_EQ(r.number("bytes_to_target"), bytes);
        break;
    }
}

TEST(CliFedref, GroupsAreClients)
{
    const FedPlace w;
    std::string groups;
    for (int i = 0; i < 96; i++) groups += std::to_string(i % 3) + "\n";
    write_file(w / "groups", groups);
    Words run = w.cnn("check");
    run[std::find(run.begin(), run.end(), "--clients") - run.begin() + 1] = "0";
    const Words group = {"--partition", "group", "--groups", w / "groups"};
    const Ran r = w.run(run + group);
    expect_done(r);
    EXPECT_TRUE(contains(r.out, "a round: 3 of 3 clients")) << r.out;
    write_file(w / "groups", groups + "1\n");
    expect_refused(w.run(run + group), 2, {"--groups", "number 97", "96 images"});
    write_file(w / "groups", "0 1 x");
    expect_refused(w.run(run + group), 2, {"--groups", "number 3"});
}

/* Real digits: 1,600 images, 8 clients with skewed classes. */
TEST(CliFedref, LearnsDigits)
{
    HN_NEED_DATA(mnist, "mnist");
    const FedPlace w;
    const ImageSets all(mnist, {.image_size = 16});
    ASSERT_EQ(all.status, HN_OK) << hn_last_error();
    std::filesystem::create_directory(w / "digits");
    for (const auto &[set, name, n] :
         {std::tuple{all.train, "train", 1600u}, {all.eval, "t10k", 400u}}) {
        const hn_images *v = hn_image_set_view(set);
        const std::string pixel((const char *)v->pixel, n * 256u);
        write_file(w / (std::string("digits/") + name + "-images-idx3-ubyte"),
                   idx(8, {n, 16, 16}, pixel));
        write_file(w / (std::string("digits/") + name + "-labels-idx1-ubyte"),
                   idx_labels({v->label, v->label + n}));
    }
    Words run = w.cnn("train", "6");
    run[std::find(run.begin(), run.end(), "--data") - run.begin() + 1] = w / "digits";
    expect_done(w.run(run +
                      Words{"--partition", "dirichlet", "--alpha", "0.5", "--per-round", "5"} +
                      w.to("run")));
    EXPECT_GT(w.column("run", "accuracy").back(), 0.7);
    EXPECT_EQ(w.column("run", "asked"), std::vector<double>(6, 5));
}

} // namespace
