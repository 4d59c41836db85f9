/* scripts/tables/pearl.sh: its cells, what it runs and does not run again, and its tables. */
#include "cli_test.h"

namespace {

#define NEED_PYTHON() \
    if (system("python3 -c 'import json' 2>/dev/null") != 0) GTEST_SKIP() << "no python3"

class Tables {
    TempDir dir_;

  public:
    std::string operator/(const std::string &name) const { return dir_ / name; }
    Ran run(const std::string &arguments) const
    {
        const char *bin = std::getenv("HONE_BIN");
        const std::string program = std::string(bin ? bin : "build") + "/hone-pearl";
        Ran r;
        const int status =
            system(("scripts/tables/pearl.sh --program " + program + " --out " + (dir_ / "out") +
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

} // namespace
