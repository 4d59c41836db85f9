/* runtime/file/checkpoint and folder: complete or not there, at whatever moment a kill comes. */
#include <sys/wait.h>
#include <unistd.h>

#include "file_limit.h"
#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/base/save.h"
#include "runtime/file/checkpoint.h"
#include "runtime/file/folder.h"

namespace {

namespace fs = std::filesystem;

/* Two files whose content tells step and version. */
hn_status write_checkpoint(const std::string &out, int64_t step, const std::string &text = "x")
{
    hn_ckpt *c = nullptr;
    HN_TRY(hn_ckpt_begin(out.c_str(), step, &c));
    for (const char *name : {"state.json", "delta.safetensors"}) {
        const char *path = nullptr;
        hn_status st = hn_ckpt_path(c, name, &path);
        if (st == HN_OK) st = hn_save_text(path, (text + name).c_str());
        if (st != HN_OK) {
            hn_ckpt_abort(c);
            return st;
        }
    }
    return hn_ckpt_commit(c);
}

std::vector<std::string> names_in(const std::string &dir)
{
    std::vector<std::string> names;
    for (const auto &e : fs::directory_iterator(dir)) names.push_back(e.path().filename());
    std::sort(names.begin(), names.end());
    return names;
}

struct Lines {
    std::vector<std::string> text;
    hn_log log{
        [](void *c, hn_log_level, const char *t) { static_cast<Lines *>(c)->text.push_back(t); },
        this};
};

/* The newest step, -1 when there is none. */
int64_t newest(const std::string &out, Lines *lines = nullptr)
{
    char *path = nullptr;
    int64_t step = -2;
    EXPECT_HN_OK(hn_ckpt_newest(out.c_str(), lines ? &lines->log : nullptr, &path, &step));
    EXPECT_EQ(path == nullptr, step == -1);
    hn_free(path);
    return step;
}

TEST(Checkpoint, CommitMakesItComplete)
{
    TempDir t;
    ASSERT_HN_OK(write_checkpoint(t.str(), 20));
    const std::string dir = t / "checkpoint-20";
    EXPECT_EQ(names_in(t.str()), std::vector<std::string>{"checkpoint-20"});
    EXPECT_EQ(names_in(dir),
              (std::vector<std::string>{"COMPLETE", "delta.safetensors", "state.json"}));
    EXPECT_HN_OK(hn_ckpt_verify(dir.c_str()));
    EXPECT_EQ(newest(t.str()), 20);
}

TEST(Checkpoint, AbortLeavesNothing)
{
    TempDir t;
    hn_ckpt *c = nullptr;
    const char *path = nullptr;
    ASSERT_HN_OK(hn_ckpt_begin(t.str().c_str(), 1, &c));
    ASSERT_HN_OK(hn_ckpt_path(c, "a", &path));
    EXPECT_NE(std::strstr(path, ".checkpoint-1.tmp-"), nullptr);
    ASSERT_HN_OK(hn_save_text(path, "x"));
    EXPECT_HN_FAIL(hn_ckpt_path(c, "../a", &path), HN_ERR_ARG, "../a");
    EXPECT_HN_FAIL(hn_ckpt_path(c, "COMPLETE", &path), HN_ERR_ARG, "COMPLETE");
    EXPECT_HN_FAIL(hn_ckpt_path(c, "", &path), HN_ERR_ARG, "''");
    hn_ckpt_abort(c);
    EXPECT_TRUE(fs::is_empty(t.str()));
    hn_ckpt_abort(nullptr);
    EXPECT_HN_FAIL(hn_ckpt_begin(t.str().c_str(), -1, &c), HN_ERR_ARG, "-1");
}

TEST(Checkpoint, ReplacesOneOfTheSameStep)
{
    TempDir t;
    ASSERT_HN_OK(write_checkpoint(t.str(), 3, "old "));
    ASSERT_HN_OK(write_checkpoint(t.str(), 3, "new "));
    EXPECT_EQ(read_file(t / "checkpoint-3/state.json"), "new state.json");
    EXPECT_EQ(names_in(t.str()).size(), 1u);
    EXPECT_EQ(newest(t.str()), 3);
}

/* A file that another process has written goes by its word, as far as that can be seen. */
TEST(Checkpoint, TakesTheWordOfOtherWriters)
{
    TempDir t;
    char hex[HN_SHA256_HEX];
    ASSERT_HN_OK(hn_sha256("share", 5, hex));
    const auto begin = [&](hn_ckpt **c) {
        const char *path = nullptr;
        ASSERT_HN_OK(hn_ckpt_begin(t.str().c_str(), 1, c));
        ASSERT_HN_OK(hn_ckpt_path(*c, "state.json", &path));
        ASSERT_HN_OK(hn_save_text(path, "x"));
    };
    hn_ckpt *c = nullptr;
    begin(&c);
    write_file(std::string(hn_ckpt_folder(c)) + "/share", "share");
    EXPECT_HN_FAIL(hn_ckpt_has(c, "../share", 5, hex), HN_ERR_ARG, "../share");
    EXPECT_HN_FAIL(hn_ckpt_has(c, "share", 5, "no digest"), HN_ERR_ARG, "no SHA-256");
    ASSERT_HN_OK(hn_ckpt_has(c, "share", 5, hex));
    ASSERT_HN_OK(hn_ckpt_commit(c));
    EXPECT_HN_OK(hn_ckpt_verify((t / "checkpoint-1").c_str()));
    EXPECT_EQ(names_in(t / "checkpoint-1"),
              (std::vector<std::string>{"COMPLETE", "share", "state.json"}));

    begin(&c); /* not there */
    ASSERT_HN_OK(hn_ckpt_has(c, "share", 5, hex));
    EXPECT_HN_FAIL(hn_ckpt_commit(c), HN_ERR_FORMAT, "/share: its writer has it");
    begin(&c); /* another size */
    write_file(std::string(hn_ckpt_folder(c)) + "/share", "shar");
    ASSERT_HN_OK(hn_ckpt_has(c, "share", 5, hex));
    EXPECT_HN_FAIL(hn_ckpt_commit(c), HN_ERR_FORMAT, "/share: 4 bytes, its writer says 5");
    EXPECT_EQ(read_file(t / "checkpoint-1/share"), "share") << "the one before is still there";
    EXPECT_EQ(names_in(t.str()).size(), 1u);

    begin(&c); /* other bytes: whoever reads it finds out */
    write_file(std::string(hn_ckpt_folder(c)) + "/share", "SHARE");
    ASSERT_HN_OK(hn_ckpt_has(c, "share", 5, hex));
    ASSERT_HN_OK(hn_ckpt_commit(c));
    EXPECT_HN_FAIL(hn_ckpt_verify((t / "checkpoint-1").c_str()), HN_ERR_FORMAT, "share: SHA-256");
}

TEST(CheckpointVerify, NamesWhatIsDamaged)
{
    const auto damaged = [](auto damage, const char *part) {
        TempDir t;
        ASSERT_HN_OK(write_checkpoint(t.str(), 1));
        const std::string dir = t / "checkpoint-1";
        damage(dir + "/");
        EXPECT_HN_FAIL(hn_ckpt_verify(dir.c_str()), HN_ERR_FORMAT, part);
    };
    damaged([](const std::string &d) { fs::remove(d + "COMPLETE"); }, "no file COMPLETE");
    damaged([](const std::string &d) { fs::remove(d + "state.json"); }, "state.json: listed in");
    damaged([](const std::string &d) { write_file(d + "extra", "x"); }, "extra: not listed");
    damaged([](const std::string &d) { fs::create_directory(d + "sub"); }, "sub: not listed");
    damaged([](const std::string &d) { write_file(d + "state.json", "short"); }, "5 bytes");
    damaged([](const std::string &d) { write_file(d + "state.json", "ystate.json"); }, "SHA-256");
    damaged([](const std::string &d) { write_file(d + "COMPLETE", "{"); }, "not valid JSON");
    damaged([](const std::string &d) { write_file(d + "COMPLETE", "[]"); }, "not a JSON object");
    damaged([](const std::string &d) { write_file(d + "COMPLETE", "{\"format\":2,\"files\":[]}"); },
            "'format' is 2");
    damaged([](const std::string &d) { write_file(d + "COMPLETE", "{\"format\":1}"); }, "'files'");
    damaged(
        [](const std::string &d) {
            write_file(d + "COMPLETE", "{\"format\":1,\"files\":[{\"name\":\"../x\",\"bytes\":0,"
                                       "\"sha256\":\"\"}]}");
        },
        "'../x' cannot be");
    damaged(
        [](const std::string &d) {
            write_file(d + "COMPLETE",
                       "{\"format\":1,\"files\":[{\"name\":\"x\",\"bytes\":-1,\"sha256\":\"\"}]}");
        },
        "'bytes' is -1");
}

TEST(CheckpointNewest, SkipsTheDamagedAndSaysWhy)
{
    TempDir t;
    Lines lines;
    EXPECT_EQ(newest(t / "missing"), -1);
    EXPECT_EQ(newest(t.str()), -1);
    for (int64_t step : {9, 10, 100, 101}) ASSERT_HN_OK(write_checkpoint(t.str(), step));
    fs::remove(t / "checkpoint-101/COMPLETE");
    write_file(t / "checkpoint-100/state.json", "?");
    fs::create_directory(t / "checkpoint-007");
    fs::create_directory(t / "checkpoint-x");
    fs::create_directory(t / "checkpoint-99999999999999999999");
    EXPECT_EQ(newest(t.str(), &lines), 10);
    ASSERT_EQ(lines.text.size(), 2u);
    EXPECT_NE(lines.text[0].find("checkpoint-101"), std::string::npos);
    EXPECT_NE(lines.text[0].find("COMPLETE"), std::string::npos);
    EXPECT_NE(lines.text[1].find("checkpoint-100/state.json"), std::string::npos);
}

TEST(CheckpointPrune, KeepsTheNewestAndTheProtected)
{
    TempDir t;
    for (int64_t step : {1, 2, 3, 10, 20}) ASSERT_HN_OK(write_checkpoint(t.str(), step));
    fs::create_directory(t / "checkpoint-4"); /* another tool's */
    ASSERT_HN_OK(hn_ckpt_prune(t.str().c_str(), 2, (t / "checkpoint-2").c_str()));
    EXPECT_EQ(names_in(t.str()), (std::vector<std::string>{"checkpoint-10", "checkpoint-2",
                                                           "checkpoint-20", "checkpoint-4"}));
    ASSERT_HN_OK(hn_ckpt_prune(t.str().c_str(), 5, nullptr));
    EXPECT_EQ(names_in(t.str()).size(), 4u);
    ASSERT_HN_OK(hn_ckpt_prune(t.str().c_str(), 1, nullptr));
    EXPECT_EQ(names_in(t.str()), (std::vector<std::string>{"checkpoint-20", "checkpoint-4"}));
    EXPECT_HN_FAIL(hn_ckpt_prune(t.str().c_str(), 0, nullptr), HN_ERR_ARG, "at least 1");
}

TEST(Checkpoint, RemovesWhatADeadProcessLeft)
{
    TempDir t;
    const pid_t dead = fork();
    if (dead == 0) _exit(0);
    ASSERT_EQ(waitpid(dead, nullptr, 0), dead);
    const std::string stale = t / (".checkpoint-5.tmp-" + std::to_string(dead));
    const std::string alive = t / (".checkpoint-6.tmp-" + std::to_string(getppid()));
    const std::string other = t / (".other.tmp-" + std::to_string(dead));
    for (const std::string &d : {stale, alive, other}) {
        fs::create_directory(d);
        write_file(d + "/state.json", "half");
    }
    ASSERT_HN_OK(write_checkpoint(t.str(), 7));
    EXPECT_FALSE(fs::exists(stale));
    EXPECT_TRUE(fs::exists(alive));
    EXPECT_TRUE(fs::exists(other));
}

/* A child writes checkpoint after checkpoint and is killed; whatever is newest must verify. */
TEST(Checkpoint, AKillLeavesACompleteOne)
{
    TempDir t;
    ASSERT_HN_OK(write_checkpoint(t.str(), 0));
    for (int round = 0; round < 5; round++) {
        const pid_t child = fork();
        if (child == 0) {
            for (int64_t step = 1;; step++)
                if (write_checkpoint(t.str(), 1 + step % 3) != HN_OK ||
                    hn_ckpt_prune(t.str().c_str(), 2, nullptr) != HN_OK)
                    _exit(1);
        }
        usleep((useconds_t)(3000 + 7000 * round));
        kill(child, SIGKILL);
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        EXPECT_TRUE(WIFSIGNALED(status)) << "the child failed by itself";
        EXPECT_GE(newest(t.str()), 0);
        ASSERT_HN_OK(write_checkpoint(t.str(), 0));
        for (const std::string &name : names_in(t.str())) EXPECT_NE(name[0], '.') << name;
    }
}

TEST(Checkpoint, DiskFullKeepsTheOldOne)
{
    TempDir t;
    ASSERT_HN_OK(write_checkpoint(t.str(), 1));
    for (const size_t room : {0, 5, 20, 60}) { /* first file, second file, COMPLETE */
        FileSizeLimit full(room);
        EXPECT_HN_FAIL(write_checkpoint(t.str(), 1, "new "), HN_ERR_WRITE, "File too large");
        EXPECT_HN_FAIL(write_checkpoint(t.str(), 2, "new "), HN_ERR_WRITE, "File too large");
    }
    EXPECT_EQ(newest(t.str()), 1);
    EXPECT_EQ(names_in(t.str()).size(), 1u);
    EXPECT_EQ(read_file(t / "checkpoint-1/state.json"), "xstate.json");
}

TEST(Checkpoint, SurvivesEveryFailedAllocation)
{
    TempDir t;
    ASSERT_HN_OK(write_checkpoint(t.str(), 1, "old "));
    for (uint64_t n = 1;; n++) {
        hn_alloc_fail_at(n);
        const hn_status st = write_checkpoint(t.str(), 1, "new ");
        hn_alloc_fail_at(0);
        EXPECT_HN_OK(hn_ckpt_verify((t / "checkpoint-1").c_str()));
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        ASSERT_LT(n, 200u);
    }
    EXPECT_EQ(read_file(t / "checkpoint-1/state.json"), "new state.json");
    for (uint64_t n = 1;; n++) {
        char *path = nullptr;
        hn_alloc_fail_at(n);
        hn_status st = hn_ckpt_newest(t.str().c_str(), nullptr, &path, nullptr);
        if (st == HN_OK) st = hn_ckpt_prune(t.str().c_str(), 1, nullptr);
        hn_alloc_fail_at(0);
        hn_free(path);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        ASSERT_LT(n, 200u);
    }
}

TEST(Outdir, OneProcessAtATime)
{
    TempDir t;
    const std::string out = t / "a/b";
    hn_outdir *first = nullptr, *second = nullptr;
    ASSERT_HN_OK(hn_outdir_lock(out.c_str(), &first));
    const std::string pid = "in use by process " + std::to_string(getpid());
    EXPECT_HN_FAIL(hn_outdir_lock(out.c_str(), &second), HN_ERR_IO, pid.c_str());
    hn_outdir_unlock(first);
    ASSERT_HN_OK(hn_outdir_lock(out.c_str(), &second));
    hn_outdir_unlock(second);
    hn_outdir_unlock(nullptr);
    write_file(t / "file", "");
    EXPECT_HN_FAIL(hn_outdir_lock((t / "file").c_str(), &first), HN_ERR_IO, "file");
}

TEST(Folder, ReplacesContentOnlyWhenAsked)
{
    TempDir t;
    hn_folder *f = nullptr;
    fs::create_directory(t / "out");
    write_file(t / "out/mine", "x");
    ASSERT_HN_OK(hn_folder_begin((t / "out/").c_str(), &f));
    write_file(std::string(hn_folder_temporary(f)) + "/new", "y");
    EXPECT_HN_FAIL(hn_folder_commit(f, false), HN_ERR_IO, "out");
    EXPECT_EQ(names_in(t.str()), std::vector<std::string>{"out"});
    EXPECT_EQ(read_file(t / "out/mine"), "x");
    ASSERT_HN_OK(hn_folder_begin((t / "out").c_str(), &f));
    write_file(std::string(hn_folder_temporary(f)) + "/new", "y");
    ASSERT_HN_OK(hn_folder_commit(f, true));
    EXPECT_EQ(names_in(t / "out"), std::vector<std::string>{"new"});
    EXPECT_EQ(names_in(t.str()), std::vector<std::string>{"out"});
}

TEST(Folder, RefusesNamesThatAreNone)
{
    TempDir t;
    hn_folder *f = nullptr;
    for (const char *name : {"/", ".", "..", "a/.."})
        EXPECT_HN_FAIL(hn_folder_begin(name, &f), HN_ERR_ARG, "name of a new folder");
    write_file(t / "file", "");
    EXPECT_HN_FAIL(hn_folder_begin((t / "file/x").c_str(), &f), HN_ERR_IO, "file");
    ASSERT_HN_OK(hn_folder_begin((t / "file").c_str(), &f));
    EXPECT_HN_FAIL(hn_folder_commit(f, true), HN_ERR_IO, "file");
    EXPECT_EQ(read_file(t / "file"), "");
}

} // namespace
