/* Networks with batch norm on several ranks, whose running values each rank has for itself: runs
 * that stop outside their schedule go on bit for bit, with --zero 1, too. */
#include "cli_ranks_test.h"
#include "cli_run_test.h"

namespace {

namespace fs = std::filesystem;

const char *const kOwn = "/buffers.safetensors";
const Words on = {"--resume", "auto"}, any = {"--resume-device", "any"};

/* The rate stays as it is, so that a run of fewer steps is the beginning of a longer one. */
Words network(const Workplace &w, const std::string &out, int steps)
{
    if (!fs::exists(w / "set")) write_image_set(w / "set");
    return {"hone-full",    "train",
            "--model",      "resnet20",
            "--data",       w / "set",
            "--batch-size", "4",
            "--image-size", "16",
            "--lr",         "1e-2",
            "--schedule",   "constant",
            "--keep",       "9",
            "--result",     "last",
            "--out",        w / out,
            "--steps",      std::to_string(steps)};
}

Words stop(int step) { return {"--stop-after", std::to_string(step)}; }

std::string at(const std::string &out, int step)
{
    return out + "/checkpoint-" + std::to_string(step);
}

bool has_own(const std::string &checkpoint) { return fs::exists(checkpoint + kOwn); }

std::string result_of(const std::string &out)
{
    const std::string bytes = read_file(out + "/model/model.safetensors");
    EXPECT_GT(bytes.size(), 1000u) << out;
    return bytes;
}

/* Every file with numbers of a checkpoint. */
std::map<std::string, std::string> numbers_of(const std::string &checkpoint)
{
    auto files = listing(checkpoint);
    std::erase_if(files, [](const auto &f) { return !contains(f.first, ".safetensors"); });
    EXPECT_GE(files.size(), 2u) << checkpoint;
    return files;
}

void expect_same(const std::string &got, const std::string &want, int step)
{
    EXPECT_TRUE(result_of(got) == result_of(want)) << got;
    EXPECT_TRUE(numbers_of(at(got, step)) == numbers_of(at(want, step))) << got;
    EXPECT_EQ(column(got, "loss"), column(want, "loss"));
}

using How = std::tuple<int, bool>; /* ranks; with --zero 1 */

class CliNormRanks : public testing::TestWithParam<How> {
  protected:
    Words how() const
    {
        const auto [n, zero] = GetParam();
        return ranks(n) + (zero ? Words{"--zero", "1"} : Words{});
    }
    bool there() const { return enough(std::get<0>(GetParam())); }
};

/* The two stops are outside the schedule, what is between and behind is in it. */
TEST_P(CliNormRanks, StopOutsideTheScheduleAndGoOnBitForBit)
{
    const Workplace w;
    if (!there()) GTEST_SKIP() << "too few GPUs";
    const Words saved = how() + Words{"--save-every", "4"};
    expect_done(w.run(network(w, "whole", 7) + saved));
    for (const int step : {2, 5}) {
        expect_done(w.run(network(w, "o", 7) + saved + on + stop(step)));
        EXPECT_TRUE(has_own(at(w / "o", step)));
    }
    expect_done(w.run(network(w, "o", 7) + saved + on));
    expect_same(w / "o", w / "whole", 7);
    EXPECT_TRUE(numbers_of(at(w / "o", 4)) == numbers_of(at(w / "whole", 4)));
    for (const char *out : {"o", "whole"})
        for (const int step : {4, 7}) EXPECT_FALSE(has_own(at(w / out, step))) << out << step;
}

/* Evaluations take the mean as well: a stop behind one is in the schedule, whether it was better,
 * as with the small rate, or not. */
TEST_P(CliNormRanks, StopBetweenEvaluations)
{
    const Workplace w;
    if (!there()) GTEST_SKIP() << "too few GPUs";
    for (const std::string lr : {"1e-2", "1e-4"}) {
        const std::string o = "o" + lr, whole = "whole" + lr;
        const Words evaluated = how() + Words{"--eval-every", "2", "--lr", lr};
        expect_done(w.run(network(w, whole, 7) + evaluated));
        for (const int step : {1, 2, 3, 4}) {
            const Ran r = w.run(network(w, o, 7) + evaluated + on + stop(step));
            expect_done(r);
            if (step == 2) {
                EXPECT_EQ(contains(r.err, "best so far"), lr == "1e-4") << r.err;
            }
            EXPECT_EQ(has_own(at(w / o, step)), step % 2 == 1) << step;
        }
        expect_done(w.run(network(w, o, 7) + evaluated + on));
        expect_same(w / o, w / whole, 7);
        EXPECT_EQ(column(w / o, "eval_loss"), column(w / whole, "eval_loss"));
    }
}

INSTANTIATE_TEST_SUITE_P(Ranks, CliNormRanks,
                         testing::Values(How{2, false}, How{2, true}, How{4, false}));

/* Steps of three micro-batches, and of one, which leaves rank 1 with old values. */
TEST(CliNormRanks, UnevenSharesGoOnBitForBit)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    for (const bool zero : {false, true})
        for (const std::string accumulation : {"3", "1"}) {
            const std::string name = accumulation + (zero ? "z" : "");
            const Words steps = {"--accumulation", accumulation}, first = ranks(1) + stop(1);
            const Words from = {"--resume", at(w / ("one" + name), 1)};
            const Words two = steps + ranks(2) + any + (zero ? Words{"--zero", "1"} : Words{});
            const std::string o = "o" + name, whole = "whole" + name;
            expect_done(w.run(network(w, "one" + name, 6) + steps + first));
            expect_done(w.run(network(w, whole, 6) + two + from));
            expect_done(w.run(network(w, o, 6) + two + from + stop(3)));
            EXPECT_TRUE(has_own(at(w / o, 3)));
            EXPECT_FALSE(has_own(at(w / ("one" + name), 1))) << "one rank has nothing beside";
            expect_done(w.run(network(w, o, 6) + two + on));
            expect_same(w / o, w / whole, 6);
        }
}

/* The checkpoint itself is one of the mean: a run that was to end there has the same, exported from
 * it or resumed to no further step. In another folder it is written as it was. */
TEST(CliNormRanks, TheCheckpointOfAStopIsThatOfAnEnd)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    expect_done(w.run(network(w, "end", 3) + ranks(2)));
    expect_done(w.run(network(w, "o", 6) + ranks(2) + stop(3)));
    EXPECT_TRUE(trained_bytes(at(w / "o", 3)) == trained_bytes(at(w / "end", 3)));

    const Words from = {"--resume", at(w / "o", 3)};
    expect_done(w.run(network(w, "again", 6) + ranks(2) + from + stop(3)));
    EXPECT_TRUE(numbers_of(at(w / "again", 3)) == numbers_of(at(w / "o", 3)));
    expect_done(w.run(network(w, "ends", 3) + ranks(2) + from));
    EXPECT_TRUE(numbers_of(at(w / "ends", 3)) == numbers_of(at(w / "end", 3)));
    const std::string model = result_of(w / "end");
    EXPECT_TRUE(result_of(w / "ends") == model);

    expect_done(w.run({"hone-full", "export", "--model", "resnet20", "--image-size", "16",
                       "--checkpoint", at(w / "o", 3), "--to", w / "x"}));
    EXPECT_TRUE(read_file(w / "x/model.safetensors") == model);
    expect_done(w.run(network(w, "o", 3) + ranks(2) + on));
    EXPECT_TRUE(result_of(w / "o") == model);
}

/* A run that ends where it was stopped, now that it has less patience, has the mean, too. */
TEST(CliNormRanks, PatienceMayEndARunAtAStop)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    const Words words = network(w, "o", 6) + ranks(2) + Words{"--eval-every", "2"};
    expect_done(w.run(words + stop(3)));
    EXPECT_TRUE(has_own(at(w / "o", 3)));
    expect_done(w.run({"hone-full", "export", "--model", "resnet20", "--image-size", "16",
                       "--checkpoint", at(w / "o", 3), "--to", w / "x"}));
    expect_done(w.run(words + on + Words{"--patience", "1"}));
    EXPECT_TRUE(result_of(w / "o") == read_file(w / "x/model.safetensors"));
    EXPECT_EQ(checkpoints_of(w / "o"), (Words{"checkpoint-3"}));
}

/* A run that makes the evaluation of a stop first saves outside its schedule, and goes on: what it
 * saves then is without those values, whatever schedule others that go on from there have. */
TEST(CliNormRanks, ALaterSaveHasNothingOfAnEarlierOne)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    const Words saved = ranks(2) + Words{"--save-every", "4"};
    expect_done(w.run(network(w, "o", 7) + saved + stop(3)));
    replace_in_file(at(w / "o", 3) + "/state.json", "{", "{\"evaluate_first\": true,");
    complete_again(at(w / "o", 3), 3);
    const Ran r = w.run(network(w, "o", 7) + saved + on);
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "step 3: held-out loss")) << r.err;
    EXPECT_TRUE(has_own(at(w / "o", 3)));
    for (const int step : {4, 7}) EXPECT_FALSE(has_own(at(w / "o", step))) << step;
    expect_done(w.run(network(w, "p", 7) + ranks(2) + Words{"--resume", at(w / "o", 4)}));
    EXPECT_TRUE(result_of(w / "p") == result_of(w / "o"));
    EXPECT_TRUE(numbers_of(at(w / "p", 7)) == numbers_of(at(w / "o", 7)));
}

/* A signal to one rank, wherever it comes. */
TEST(CliNormRanks, AStopBySignalGoesOnBitForBit)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    const Words words = network(w, "o", 400) + ranks(2) + Words{"--log-every", "1"};
    Program p(words, w.str());
    ASSERT_TRUE(p.says("step 3/"));
    const std::vector<pid_t> all = children_of(p.pid());
    ASSERT_EQ(all.size(), 2u);
    ASSERT_EQ(kill(all[1], SIGTERM), 0);
    expect_done(p.wait());
    const auto folders = checkpoints_of(w / "o");
    ASSERT_EQ(folders.size(), 1u);
    const int step = std::stoi(folders[0].substr(11)), end = step + 3;
    ASSERT_LT(step, 400);
    EXPECT_TRUE(has_own(at(w / "o", step)));
    expect_done(w.run(words + on + stop(end)));
    expect_done(w.run(network(w, "whole", 400) + ranks(2) + stop(end)));
    EXPECT_TRUE(numbers_of(at(w / "o", end)) == numbers_of(at(w / "whole", end)));
}

/* Another number of ranks has the mean, weighed by micro-batches: the one that the parameters of
 * the checkpoint hold. */
TEST(CliNormRanks, OthersGoOnWithTheMean)
{
    const Workplace w;
    if (!enough(2)) GTEST_SKIP() << "fewer than 2 GPUs";
    const Words steps = {"--accumulation", "3"};
    expect_done(w.run(network(w, "one", 6) + steps + ranks(1) + stop(1)));
    expect_done(w.run(network(w, "o", 6) + steps + ranks(2) + any + stop(3) +
                      Words{"--resume", at(w / "one", 1)}));
    fs::create_directory(w / "mean");
    fs::copy(at(w / "o", 3), at(w / "mean", 3));
    ASSERT_TRUE(fs::remove(at(w / "mean", 3) + kOwn));
    complete_again(at(w / "mean", 3), 3);
    for (const int n : {1, 3}) {
        if (!enough(n)) continue;
        const std::string name = std::to_string(n);
        for (const std::string from : {"o", "mean"}) {
            const Words resume = {"--resume", at(w / from, 3)};
            const Words words = network(w, from + name, 6) + steps + ranks(n);
            const Ran refused = w.run(words + resume);
            EXPECT_EQ(refused.code, 2) << refused.err;
            EXPECT_TRUE(contains(refused.err, "--resume-device any")) << refused.err;
            expect_done(w.run(words + resume + any));
        }
        expect_same(w / ("o" + name), w / ("mean" + name), 6);
    }
}

/* Files that are whole, but not of this run. */
TEST(CliNormRanks, RunningValuesThatDoNotBelongAreNamed)
{
    const Workplace w;
    const Words two = {"--device", "cpu", "--ranks", "2"};
    expect_done(w.run(network(w, "o", 6) + two + stop(3)));
    const std::string folder = at(w / "o", 3), path = folder + kOwn;
    hn_st_file *f = nullptr;
    ASSERT_HN_OK(hn_st_open(path.c_str(), &f));
    const hn_st_tensor *own = hn_st_find(f, "buffers");
    ASSERT_NE(own, nullptr);
    ASSERT_EQ(hn_st_count(f), 1);
    ASSERT_EQ(own->ndim, 2);
    ASSERT_EQ(own->dim[0], 2);
    const int64_t n = own->dim[1];
    hn_st_close(f);
    const std::string bytes = read_file(path);

    const auto refused = [&](const std::string &why) {
        complete_again(folder, 3);
        for (const Words &words :
             {two, two + Words{"--zero", "1"} + any, Words{"--device", "cpu"} + any}) {
            const Ran r = w.run(network(w, "x", 6) + words + Words{"--resume", folder});
            EXPECT_EQ(r.code, 2) << r.err;
            EXPECT_TRUE(contains(r.err, "ERR_FORMAT: " + path + ": " + why)) << r.err;
        }
        EXPECT_FALSE(fs::exists(w / "x"));
    };
    const auto write = [&](const char *name, hn_st_dtype dtype, std::vector<int64_t> dim,
                           int n_tensors = 1) {
        size_t size = 4;
        for (const int64_t d : dim) size *= (size_t)d;
        const std::vector<char> zeros(size);
        hn_st_entry e[2] = {};
        for (hn_st_entry &one : e) {
            one.name = &one == e ? name : "more";
            one.dtype = dtype;
            one.ndim = (int)dim.size();
            std::copy(dim.begin(), dim.end(), one.dim);
            one.data = zeros.data();
        }
        ASSERT_HN_OK(hn_st_save(path.c_str(), e, n_tensors, nullptr, 0, nullptr, nullptr));
    };
    const std::string kind = "not one tensor 'buffers', F32 [ranks, values]";
    const auto other = [&](int64_t has) {
        return std::to_string(has) + " running values of each rank, the model has " +
               std::to_string(n);
    };
    write("buffers", HN_ST_F32, {2, n + 1});
    refused(other(n + 1));
    write("buffers", HN_ST_F32, {2, n - 1});
    refused(other(n - 1));
    write("buffers", HN_ST_F32, {2, 0});
    refused(other(0));
    write("buffers", HN_ST_F32, {n, 2}); /* as many values */
    refused(other(2));
    write("buffers", HN_ST_F32, {1, n});
    refused("of 1 ranks, but several are 2 to 4096");
    write("buffers", HN_ST_F32, {0, n});
    refused("of 0 ranks");
    write("buffers", HN_ST_F32, {4097, n});
    refused("of 4097 ranks");
    write("buffers", HN_ST_I32, {2, n});
    refused(kind);
    write("buffers", HN_ST_F32, {2 * n});
    refused(kind);
    write("buffers", HN_ST_F32, {2, n, 1});
    refused(kind);
    write("buffers", HN_ST_F32, {2, n}, 2);
    refused(kind);
    write("running", HN_ST_F32, {2, n});
    refused(kind);
    write_file(path, bytes.substr(0, bytes.size() - 4));
    refused("the tensors end at ");
    write_file(path, "");
    refused("0 bytes");

    write_file(path, bytes);
    complete_again(folder, 3);
    expect_done(w.run(network(w, "o", 6) + two + on));
}

} // namespace
