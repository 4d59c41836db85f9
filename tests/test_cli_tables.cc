/* scripts/tables/pearl.sh, sparse.sh and fedref.sh: their cells, what they run and do not run
 * again, and their tables; hyperflow.sh: what it asks for of the paper's sets. */
#include "cli_test.h"

namespace {

#define NEED_PYTHON() \
    if (system("python3 -c 'import json' 2>/dev/null") != 0) GTEST_SKIP() << "no python3"

class Tables {
    TempDir dir_;
    std::string script_; /* "pearl", "sparse", "fedref" or "hyperflow" */

  public:
    explicit Tables(const std::string &script = "pearl") : script_(script) {}
    std::string operator/(const std::string &name) const { return dir_ / name; }
    Ran run(const std::string &arguments) const
    {
        const char *bin = std::getenv("HONE_BIN");
        const std::string folder = bin ? bin : "build";
        const std::string programs = script_ == "sparse"
                                         ? " --programs " + folder
                                         : " --program " + folder + "/hone-" + script_;
        Ran r;
        const int status =
            system(("scripts/tables/" + script_ + ".sh" + programs + " --out " + (dir_ / "out") +
                    " " + arguments + " >" + (dir_ / "stdout") + " 2>" + (dir_ / "stderr"))
                       .c_str());
        r.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        r.out = read_file(dir_ / "stdout");
        r.err = read_file(dir_ / "stderr");
        return r;
    }
};

/* Every shard has cells of its own, together all, and each says which files it reads. */
TEST(CliTables, ShardsShareTheCells)
{
    NEED_PYTHON();
    const Tables w;
    const Ran all = w.run("--list --full");
    expect_done(all);
    std::set<std::string> cells;
    for (const char *shard : {"1/3", "2/3", "3/3"}) {
        const Ran part = w.run(std::string("--list --full --shard ") + shard);
        expect_done(part);
        for (const auto &line : lines_of(part.out)) EXPECT_TRUE(cells.insert(line).second) << line;
    }
    EXPECT_EQ(cells.size(), lines_of(all.out).size());
    for (const auto &line : cells) {
        EXPECT_EQ(contains(line, "cifar100/train_1of3"), contains(line, "cifar100-")) << line;
        EXPECT_EQ(contains(line, "vit-tiny-imagenet/"), contains(line, "/vit/")) << line;
        EXPECT_EQ(contains(line, " mnist/") || contains(line, "\tmnist/"),
                  line.compare(0, 5, "mnist") == 0)
            << line;
    }
}

/* One rank and a dynamic rank of the same budget: 416 parameters a task of each. */
TEST(CliTables, RunsCellsOnceAndComparesThem)
{
    NEED_PYTHON();
    HN_NEED_DATA(mnist, "mnist");
    const Tables w;
    const std::string smoke = "--smoke --only 'tiny-vit/(lora-1|pearl-b1)-s0'";
    const Ran first = w.run(smoke + " --jobs 2");
    expect_done(first);
    EXPECT_TRUE(contains(first.out, "| 1 | 416 | 416 | ")) << first.out << first.err;
    EXPECT_TRUE(contains(first.out, "| 2 | - | - | ")) << first.out;
    const std::string cell = w / "out/mnist-5x2/tiny-vit/pearl-b1-s0";
    EXPECT_TRUE(std::filesystem::exists(cell + ".ranks.csv"));
    EXPECT_FALSE(std::filesystem::exists(cell)); /* its networks */
    const std::string json = read_file(cell + ".json");
    const Ran again = w.run(smoke);
    expect_done(again);
    EXPECT_TRUE(contains(again.err, "2 cells, 2 done before")) << again.err;
    EXPECT_EQ(again.out, first.out);
    EXPECT_EQ(read_file(cell + ".json"), json);
    const Ran other = w.run(smoke + " --epochs 2");
    EXPECT_EQ(other.code, 2);
    EXPECT_TRUE(contains(other.err, "epochs=3, not 2")) << other.err;
}

/* The others go on; tables have what there is, and say what is missing. */
TEST(CliTables, NamesCellsThatFail)
{
    NEED_PYTHON();
    HN_NEED_DATA(mnist, "mnist");
    const Tables w;
    std::filesystem::create_directories(w / "out/mnist-5x2/tiny-vit/single-s0");
    write_file(w / "out/mnist-5x2/tiny-vit/single-s0/index.json", "{}"); /* a run that is damaged */
    const Ran r = w.run("--smoke --only 'tiny-vit/(single|head)-s0'");
    EXPECT_EQ(r.code, 1);
    EXPECT_TRUE(contains(r.err, "1 failed: mnist-5x2/tiny-vit/single-s0")) << r.err;
    EXPECT_TRUE(contains(r.out, "1 of 2 cells are missing: mnist-5x2/tiny-vit/single.")) << r.out;
    EXPECT_TRUE(contains(r.out, "| single | - | - | ")) << r.out;
    EXPECT_FALSE(contains(r.out, "| head | - | ")) << r.out;
}

TEST(CliTables, RefusesWhatCannotBe)
{
    NEED_PYTHON();
    const Tables w;
    EXPECT_EQ(w.run("--full --only lora").code, 2);
    EXPECT_EQ(w.run("--shard 4/3 --list").code, 2);
    EXPECT_EQ(w.run("--list --only nothing").code, 2);
    EXPECT_EQ(system(("HONE_DATA=" + (w / "none") + " scripts/tables/pearl.sh --smoke --out " +
                      (w / "out") + " >/dev/null 2>&1")
                         .c_str()) >>
                  8,
              2);
}

TEST(CliSparseTables, ShardsShareTheCells)
{
    NEED_PYTHON();
    const Tables w("sparse");
    const Ran all = w.run("--list --full");
    expect_done(all);
    std::set<std::string> cells;
    for (const char *shard : {"1/2", "2/2"}) {
        const Ran part = w.run(std::string("--list --full --shard ") + shard);
        expect_done(part);
        for (const auto &line : lines_of(part.out)) EXPECT_TRUE(cells.insert(line).second) << line;
    }
    EXPECT_EQ(cells.size(), lines_of(all.out).size());
    for (const auto &line : cells) {
        EXPECT_EQ(contains(line, "babyllama-char105/config.json"), contains(line, "/babyllama/"));
        EXPECT_EQ(contains(line, "gsm8k/train"), line.compare(0, 5, "gsm8k") == 0) << line;
    }
}

/* LoRA of rank 2 has 11,560 values, as many whole blocks of 4 x 4 have 8 less, DoRA 3,000 more. */
TEST(CliSparseTables, RunsCellsOnceAndComparesThem)
{
    NEED_PYTHON();
    HN_NEED_DATA(shakespeare, "tinyshakespeare");
    HN_NEED_DATA(stories, "stories260k");
    const Tables w("sparse");
    const std::string smoke =
        "--smoke --seeds 0 --jobs 2 --only "
        "'stories260k/(base|full|[ld]ora-b2|absd-b2|every-5)-(lr|s)|^mem.*-5-.*on'";
    const Ran first = w.run(smoke);
    expect_done(first);
    EXPECT_TRUE(contains(first.out, "| b2 | LoRA | 11,560 | 0.0")) << first.out << first.err;
    EXPECT_TRUE(contains(first.out, "| b2 | ABSD static | 11,552 | 0.01 | ")) << first.out;
    EXPECT_TRUE(contains(first.out, "| b2 | DoRA | 14,560 | 0.0")) << first.out << first.err;
    EXPECT_TRUE(contains(first.out, "| dynamic | 4 | 0.2 | revert | ")) << first.out;
    EXPECT_TRUE(contains(first.out, "| ABSD, 32x32, 5 % | on | ")) << first.out;
    EXPECT_FALSE(contains(first.out, "cells are missing")) << first.out;
    const std::string cell = w / "out/shakespeare/stories260k/every-5-lr0.01-s0";
    EXPECT_FALSE(std::filesystem::exists(cell)); /* its checkpoints */
    const std::string json = read_file(cell + ".json");
    EXPECT_TRUE(contains(json, "\"selections\": [[4, ")) << json;
    const Ran again = w.run(smoke);
    expect_done(again);
    EXPECT_TRUE(contains(again.err, "9 cells, 9 done before")) << again.err;
    EXPECT_EQ(again.out, first.out);
    const Ran other = w.run(smoke + " --dtype bf16");
    EXPECT_EQ(other.code, 2);
    EXPECT_TRUE(contains(other.err, "dtype=f32, not bf16")) << other.err;
}

TEST(CliSparseTables, SkipsWhatNeedsAGpu)
{
    NEED_PYTHON();
    const Tables w("sparse");
    const Ran r = w.run("--device cpu --only '^step/llama-3.2-1b/block-32-s0'");
    expect_done(r);
    EXPECT_TRUE(contains(r.err, "1 skipped: ")) << r.err;
    EXPECT_TRUE(contains(r.out, "1 of 1 cells are missing: step/llama-3.2-1b/block-32.")) << r.out;
}

/* The line that begins so, or nothing. */
std::string row_of(const std::string &text, const std::string &begin)
{
    for (const auto &line : lines_of(text))
        if (line.compare(0, begin.size(), begin) == 0) return line;
    return "";
}

/* A method's runs are where its learning rate is chosen. */
TEST(CliFedrefTables, ShardsShareTheCells)
{
    NEED_PYTHON();
    const Tables w("fedref");
    const Ran all = w.run("--list --full");
    expect_done(all);
    std::set<std::string> cells;
    size_t together = 0;
    for (const char *shard : {"1/3", "2/3", "3/3"}) {
        const Ran part = w.run(std::string("--list --full --shard ") + shard);
        expect_done(part);
        for (const auto &line : lines_of(part.out)) {
            EXPECT_TRUE(cells.insert(line).second) << line;
            EXPECT_EQ(contains(line, "\tmnist/train"), line.compare(0, 5, "mnist") == 0) << line;
            EXPECT_EQ(contains(line, "vit-tiny"), contains(line, "cifar10-vit/")) << line;
            const size_t at = line.find("/run/median-s0\t");
            if (at == std::string::npos) continue;
            const std::string choice = line.substr(0, at) + "/choice/median-lr0.01-s1000\t";
            EXPECT_TRUE(contains(part.out, choice)) << line;
            together++;
        }
    }
    EXPECT_EQ(together, 11u); /* streams */
    EXPECT_EQ(cells.size(), lines_of(all.out).size());
}

/* Lambda 0 is FedAvg bit for bit; of six clients, two a round are refused, in three rounds. */
TEST(CliFedrefTables, ChoosesRatesAndComparesMethods)
{
    NEED_PYTHON();
    HN_NEED_DATA(mnist, "mnist");
    const Tables w("fedref");
    const std::string cells = "mnist-a0.5/(choice|run)/(fedavg|lambda-0)-|/fedavg-(clean|inj)",
                      smoke = "--smoke --seeds 0 --jobs 2 --only '" + cells + "' --rounds ";
    const Ran first = w.run(smoke + "2");
    expect_done(first);
    EXPECT_TRUE(contains(row_of(first.out, "| v3, lambda2 0 "), " | +0.00 | ")) << first.out;
    EXPECT_FALSE(contains(first.out, "| v3, lambda2 1 ")) << first.out;
    const std::string robust = row_of(first.out.substr(first.out.find("## Robust")), "| fedavg |");
    EXPECT_TRUE(contains(robust, " | 6 | - | - | 1 |")) << robust;
    EXPECT_TRUE(contains(first.out, "; 1 seed (0). Simulated: one; cpu")) << first.out;
    EXPECT_FALSE(contains(first.out, "cells are missing")) << first.out;
    const std::string cell = w / "out/mnist-a0.5/run/lambda-0-s0";
    EXPECT_FALSE(std::filesystem::exists(cell)); /* its states */
    const std::string json = read_file(cell + ".json");
    const Ran again = w.run(smoke + "2");
    expect_done(again);
    EXPECT_TRUE(contains(again.err, "2 cells, 2 done before")) << again.err;
    EXPECT_EQ(again.out, first.out);
    EXPECT_EQ(read_file(cell + ".json"), json);
    const Ran other = w.run(smoke + "3");
    EXPECT_EQ(other.code, 2);
    EXPECT_TRUE(contains(other.err, "rounds=2, not 3")) << other.err;
    const Ran none = w.run(smoke + "2 --list");
    EXPECT_TRUE(contains(none.err, "6 cells, 0 to run: nothing")) << none.err;
    const Ran more = w.run("--smoke --list --rounds 2 --only '^mnist-a0.5/choice/(fed|adamw)'");
    EXPECT_TRUE(contains(more.err, "to run: about ")) << more.err;
}

/* What --minutes leave is not begun, is said, and is there after the next call. A payload of blocks
 * is as large as the pairs beside it; ways of a GPU are left out without one. */
TEST(CliFedrefTables, StopsAfterMinutesAndComparesPayloads)
{
    NEED_PYTHON();
    HN_NEED_DATA(mnist, "mnist");
    const Tables w("fedref");
    const std::string smoke = "--smoke --seeds 0 --jobs 2 --rounds 1 --only "
                              "'mnist-a0.5/(choice|run)/(full|adamw)|mnist-a0.5/ways/'";
    const Ran cut = w.run(smoke + " --minutes 0.00001");
    EXPECT_EQ(cut.code, 1);
    EXPECT_TRUE(contains(cut.err, "8 not begun: --minutes are over")) << cut.err;
    EXPECT_EQ(w.run(smoke + " --minutes 0").code, 2);
    const Ran done = w.run(smoke);
    expect_done(done);
    EXPECT_TRUE(contains(done.err, "4 skipped: lanes and blocks are of a GPU")) << done.err;
    const std::string bytes = " | 5,066 | 20,392 | 18.48 | ";
    EXPECT_TRUE(contains(row_of(done.out, "| LoRA, rank 8, and the head, by adamw |"), bytes));
    EXPECT_TRUE(contains(row_of(done.out, "| blocks, as many values"), bytes)) << done.out;
    EXPECT_FALSE(contains(row_of(done.out, "| replicas of one"), " | - |")) << done.out;
    EXPECT_TRUE(contains(row_of(done.out, "| each in a block"), " | - | - | - |")) << done.out;
}

TEST(CliFedrefTables, SaysWhichCellsWaitForARate)
{
    NEED_PYTHON();
    const Tables w("fedref");
    const Ran r = w.run("--smoke --only '^mnist-a0.5/run/(median|ema)-s0'");
    EXPECT_EQ(r.code, 1);
    EXPECT_TRUE(contains(r.err, "2 cells wait for the choice of their rate")) << r.err;
    EXPECT_TRUE(contains(r.out, "2 of 2 cells are missing: mnist-a0.5/run/ema, ")) << r.out;
}

/* The images of a class that the settings of the paper's sets use, a line for each. */
std::vector<std::string> class_images_of(const Tables &w, const std::string &arguments)
{
    const std::string code =
        "import sys; sys.path.insert(0, 'scripts/tables'); import hyperflow_cells as c, types; "
        "a = types.SimpleNamespace(meta_splits=None, image=224, trajectories=9, " +
        arguments + "); [print(n, s.options.get('class-images')) for n, s in c.papers(a).items()]";
    const std::string out = w / "options";
    EXPECT_EQ(system(("python3 -B -c \"" + code + "\" >" + out).c_str()), 0);
    return lines_of(read_file(out));
}

/* Meta-Dataset draws by the sizes of the classes: all images, or a cap that was asked for. */
TEST(CliHyperflowTables, OfMetaDatasetTakeAllImagesOrAskForFewer)
{
    NEED_PYTHON();
    const Tables w("hyperflow");
    using Lines = std::vector<std::string>;
    EXPECT_EQ(class_images_of(w, "meta_dataset='m', cdfsl='c', class_images=0"),
              (Lines{"meta-dataset 0", "cdfsl-5 None", "cdfsl-20 None", "cdfsl-50 None"}));
    EXPECT_EQ(class_images_of(w, "meta_dataset='m', cdfsl='c', class_images=200"),
              (Lines{"meta-dataset 200", "cdfsl-5 200", "cdfsl-20 200", "cdfsl-50 200"}));
    EXPECT_EQ(class_images_of(w, "meta_dataset=None, cdfsl='c', class_images=0")[0],
              "cdfsl-5 None");
    const Ran r = w.run("--list --class-images 200");
    EXPECT_EQ(r.code, 2);
    EXPECT_TRUE(contains(r.err, "--class-images: of what --meta-dataset has")) << r.err;
    expect_done(w.run("--list --class-images 200 --meta-dataset " + (w / "m")));
}

TEST(CliHyperflowTables, OfMetaDatasetWantTheAlphabetsOfOmniglot)
{
    NEED_PYTHON();
    const Tables w("hyperflow");
    std::filesystem::create_directories(w / "flat/omniglot/character01");
    const Ran flat = w.run("--list --meta-dataset " + (w / "flat"));
    EXPECT_EQ(flat.code, 2);
    EXPECT_TRUE(contains(flat.err, "flat/omniglot: no folders of alphabets")) << flat.err;
    std::filesystem::create_directories(w / "whole/omniglot/Greek/character01");
    expect_done(w.run("--list --meta-dataset " + (w / "whole")));
}

} // namespace
