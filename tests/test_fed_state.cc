/* hn_fed_server_save and _load: the same bits go on, whenever it was stopped. */
#include <omp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "fed_test.h"
#include "file_limit.h"
#include "runtime/base/alloc.h"
#include "runtime/file/checkpoint.h"

namespace {

namespace fs = std::filesystem;

/* Four clients around the model that the server has. */
hn_fed_round_report next_round(const Layout &l, const Server &s, int64_t round, bool fisher = false)
{
    return run_round(s.s, round, random_clients(l, s.values(l), 9, round, 4, fisher));
}

hn_status save(const hn_fed_server *s, const std::string &out)
{
    hn_ckpt *c = nullptr;
    HN_TRY(hn_ckpt_begin(out.c_str(), hn_fed_server_round(s), &c));
    const hn_status st = hn_fed_server_save(s, c);
    if (st != HN_OK) {
        hn_ckpt_abort(c);
        return st;
    }
    return hn_ckpt_commit(c);
}

hn_status load(const Layout &l, const hn_fed_server_options &o, const std::string &dir, Server *s)
{
    return hn_fed_server_load(&l.l, &o, dir.c_str(), &s->s);
}

void start(const Layout &l, const hn_fed_server_options &o, Server *s)
{
    const auto first = random_payload(l, 1);
    ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, first.data(), &s->s));
}

/* Options with which lambda2 grows in the middle. */
hn_fed_server_options busy(hn_fed_method m)
{
    hn_fed_server_options o = hn_fed_server_defaults(m);
    o.fisher = m == HN_FED_FEDREF_V3;
    if (hn_fed_method_uses(m) & HN_FED_USES_REFERENCE) {
        o.every = 3;
        o.growth = 1.7;
        o.lambda1 = 0.1;
        if (m == HN_FED_FEDREF_V1) o.rate = 0.01;
    }
    return o;
}

class EveryMethod : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(FedState, EveryMethod, testing::Range(0, (int)HN_FED_METHOD_COUNT),
                         [](const auto &i) {
                             std::string s = hn_fed_method_name((hn_fed_method)i.param);
                             std::replace(s.begin(), s.end(), '-', '_');
                             return s;
                         });

/* Stopped in the warm-up, before and after lambda2 grows, in rings that have gone round; what goes
 * on is stopped again. */
TEST_P(EveryMethod, GoesOnWithTheSameBits)
{
    Layout l;
    fill_small(l);
    const hn_fed_server_options o = busy((hn_fed_method)GetParam());
    TempDir t;
    Server whole, part;
    start(l, o, &whole);
    start(l, o, &part);
    for (int64_t r = 1; r <= 10; r++) {
        const auto a = next_round(l, whole, r, o.fisher), b = next_round(l, part, r, o.fisher);
        EXPECT_TRUE(same_bits(part.values(l), whole.values(l))) << r;
        EXPECT_TRUE(same_bits(part.result(l), whole.result(l))) << r;
        EXPECT_EQ(a.corrected, b.corrected);
        EXPECT_EQ(a.lambda2, b.lambda2);
        EXPECT_EQ(a.correction_norm, b.correction_norm);
        if (r != 1 && r != 5 && r != 8) continue;
        ASSERT_HN_OK(save(part.s, t.str()));
        hn_fed_server_free(part.s);
        part.s = nullptr;
        ASSERT_HN_OK(load(l, o, t / ("checkpoint-" + std::to_string(r)), &part));
        EXPECT_EQ(hn_fed_server_round(part.s), r);
    }
}

TEST_P(EveryMethod, RefusesAnotherMethod)
{
    Layout l;
    fill_small(l);
    const hn_fed_server_options o = busy((hn_fed_method)GetParam());
    TempDir t;
    Server s, back;
    start(l, o, &s);
    ASSERT_HN_OK(save(s.s, t.str()));
    for (int m = 0; m < HN_FED_METHOD_COUNT; m++) {
        const std::string text = std::string("saved with the method ") +
                                 hn_fed_method_name(o.method) + ", not " +
                                 hn_fed_method_name((hn_fed_method)m);
        if (m == GetParam()) continue;
        EXPECT_HN_FAIL(load(l, busy((hn_fed_method)m), t / "checkpoint-0", &back), HN_ERR_ARG,
                       text.c_str());
        EXPECT_EQ(back.s, nullptr);
    }
}

struct Saved : testing::Test {
    Layout l;
    TempDir t;
    hn_fed_server_options o = busy(HN_FED_FEDREF_V3);
    std::string dir = t / "checkpoint-2";
    Server s, back;
    Saved()
    {
        o.fisher = false;
        fill_small(l);
        start(l, o, &s);
        next_round(l, s, 1);
        next_round(l, s, 2);
        EXPECT_HN_OK(save(s.s, t.str()));
    }
    /* Replaces a file and makes the checkpoint whole again, as one who wants to deceive would. */
    void forge(const std::string &name, const std::string &bytes)
    {
        hn_ckpt *c = nullptr;
        ASSERT_HN_OK(hn_ckpt_begin(t.str().c_str(), 2, &c));
        for (const char *file : {"fed_server.safetensors", "fed_server.json"}) {
            const char *path = nullptr;
            ASSERT_HN_OK(hn_ckpt_path(c, file, &path));
            write_file(path, name == file ? bytes : read_file(dir + "/" + file));
        }
        ASSERT_HN_OK(hn_ckpt_commit(c));
    }
    void forge_record(const std::string &from, const std::string &to)
    {
        std::string text = read_file(dir + "/fed_server.json");
        const size_t at = text.find(from);
        ASSERT_NE(at, std::string::npos) << from;
        forge("fed_server.json", text.replace(at, from.size(), to));
    }
};
using FedState = Saved;

TEST_F(FedState, RefusesOtherOptionsByName)
{
    auto refused = [&](const hn_fed_server_options &other, const char *part) {
        EXPECT_HN_FAIL(load(l, other, dir, &back), HN_ERR_ARG, part);
    };
    hn_fed_server_options x = o;
    x.lambda2 *= 1.0000000000000002;
    refused(x, "saved with another lambda2");
    x = o, x.p = 2;
    refused(x, "saved with another p");
    x = o, x.every = 4;
    refused(x, "saved with another every");
    x = o, x.weights = HN_FED_WEIGHTS_UNIFORM;
    refused(x, "saved with another weights");
    x = o, x.fisher = true;
    refused(x, "saved with another fisher");
    x = o, x.quorum = 2;
    refused(x, "saved with another quorum");
    EXPECT_HN_OK(load(l, o, dir, &back));
}

TEST_F(FedState, RefusesAnotherLayout)
{
    Layout more, renamed, bound;
    fill_small(more);
    more.add("extra", {3});
    EXPECT_HN_FAIL(load(more, o, dir, &back), HN_ERR_SHAPE,
                   "saved with another layout, 7 tensors of 5237 elements, not 8 of 5240");
    renamed.add("w", {5237});
    EXPECT_HN_FAIL(load(renamed, o, dir, &back), HN_ERR_SHAPE, "saved with another layout");
    fill_small(bound);
    ASSERT_HN_OK(hn_fed_layout_bind(&bound.l, "ids 17"));
    EXPECT_HN_FAIL(load(bound, o, dir, &back), HN_ERR_SHAPE, "saved with another layout");
}

TEST_F(FedState, IsSavedBetweenRounds)
{
    hn_ckpt *c = nullptr;
    ASSERT_HN_OK(hn_fed_server_begin(s.s, 3));
    ASSERT_HN_OK(hn_ckpt_begin(t.str().c_str(), 3, &c));
    EXPECT_HN_FAIL(hn_fed_server_save(s.s, c), HN_ERR_ARG, "not in round 3");
    hn_ckpt_abort(c);
}

/* A flipped bit anywhere in either file is noticed. */
TEST_F(FedState, DamageIsNoticed)
{
    for (const char *file : {"/fed_server.safetensors", "/fed_server.json"}) {
        const std::string good = read_file(dir + file);
        for (size_t i = 0; i < good.size(); i += 1 + good.size() / 50) {
            std::string bad = good;
            bad[i] = (char)(bad[i] ^ 4);
            write_file(dir + file, bad);
            EXPECT_HN_FAIL(load(l, o, dir, &back), HN_ERR_FORMAT, file);
        }
        write_file(dir + file, good);
    }
    EXPECT_HN_OK(load(l, o, dir, &back));
}

/* Contents that are wrong under a marker that is right. */
TEST_F(FedState, ForgedContentsAreRefused)
{
    const std::string record = read_file(dir + "/fed_server.json");
    const std::string tensors = read_file(dir + "/fed_server.safetensors");
    forge_record("\"aggregates\": 2", "\"aggregates\": 3");
    EXPECT_HN_FAIL(load(l, o, dir, &back), HN_ERR_FORMAT, "aggregates");
    forge("fed_server.json", record);
    forge_record("\"round\": 2", "\"round\": -2");
    EXPECT_HN_FAIL(load(l, o, dir, &back), HN_ERR_FORMAT, "round");
    forge("fed_server.json", record);
    forge_record("\"format\": 1", "\"format\": 2");
    EXPECT_HN_FAIL(load(l, o, dir, &back), HN_ERR_FORMAT, "format");
    forge("fed_server.json", record);
    forge_record("\"every\": 3,", "");
    EXPECT_HN_FAIL(load(l, o, dir, &back), HN_ERR_FORMAT, "no option every");
    forge("fed_server.json", "[]");
    EXPECT_HN_FAIL(load(l, o, dir, &back), HN_ERR_FORMAT, "fed_server.json");
    forge("fed_server.json", record);

    std::string bad = tensors;
    const float nan = NAN;
    bad.replace(bad.size() - 4, 4, reinterpret_cast<const char *>(&nan), 4);
    forge("fed_server.safetensors", bad);
    EXPECT_HN_FAIL(load(l, o, dir, &back), HN_ERR_NUMERIC, "fed_server.safetensors");
    bad = tensors;
    bad.replace(bad.find("aggregate.1"), 11, "aggregate.9");
    forge("fed_server.safetensors", bad);
    EXPECT_HN_FAIL(load(l, o, dir, &back), HN_ERR_FORMAT, "no tensor aggregate.1 of 5237 F32");
    EXPECT_EQ(back.s, nullptr);
}

/* The disk is full somewhere in the new checkpoint: the old one is what there is. */
TEST_F(FedState, AFullDiskLeavesTheOldState)
{
    const auto before = s.values(l);
    next_round(l, s, 3);
    for (const size_t limit : {0u, 100u, 5000u, 60000u}) {
        FileSizeLimit full(limit);
        EXPECT_EQ(save(s.s, t.str()), HN_ERR_WRITE);
    }
    char *path = nullptr;
    int64_t step = -1;
    ASSERT_HN_OK(hn_ckpt_newest(t.str().c_str(), nullptr, &path, &step));
    EXPECT_EQ(step, 2);
    ASSERT_HN_OK(load(l, o, path, &back));
    EXPECT_TRUE(same_bits(back.values(l), before));
    hn_free(path);
    EXPECT_HN_OK(save(s.s, t.str()));
}

/* A process that does nothing but rounds and saves is killed at many moments: what is found is
 * always whole, and is the state of its round. */
TEST_F(FedState, AKillAtAnyMomentLeavesAWholeState)
{
    std::vector<std::vector<float>> wanted(3);
    wanted[2] = s.values(l);
    Server ahead;
    ASSERT_HN_OK(load(l, o, dir, &ahead));
    for (int64_t r = 3; r <= 40; r++) {
        next_round(l, ahead, r);
        wanted.push_back(ahead.values(l));
    }
    int64_t last = 2;
    for (int kill_us = 500; kill_us < 500000; kill_us *= 2) {
        const pid_t child = fork();
        if (child == 0) {
            omp_set_num_threads(1); /* the parent's threads are not here */
            Server own;
            bool fine = load(l, o, dir, &own) == HN_OK;
            for (int64_t r = hn_fed_server_round(own.s) + 1; fine && r <= 40; r++) {
                next_round(l, own, r);
                fine = save(own.s, t.str()) == HN_OK;
            }
            _exit(fine ? 0 : 1);
        }
        ASSERT_GT(child, 0);
        usleep((useconds_t)kill_us);
        kill(child, SIGKILL);
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        EXPECT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        char *path = nullptr;
        int64_t step = -1;
        ASSERT_HN_OK(hn_ckpt_newest(t.str().c_str(), nullptr, &path, &step));
        ASSERT_GE(step, 2);
        Server found;
        ASSERT_HN_OK(load(l, o, path, &found));
        EXPECT_TRUE(same_bits(found.values(l), wanted[(size_t)step])) << step;
        EXPECT_GE(step, last);
        last = step;
        hn_free(path);
    }
    EXPECT_GT(last, 2);
}

TEST_F(FedState, SurvivesMemoryThatRunsOut)
{
    hn_status st = HN_ERR_MEMORY;
    for (uint64_t n = 1; st != HN_OK && n < 2000; n++) {
        Server x;
        hn_alloc_fail_at(n);
        st = load(l, o, dir, &x);
        hn_alloc_fail_at(0);
        EXPECT_EQ(x.s == nullptr, st != HN_OK);
    }
    EXPECT_EQ(st, HN_OK);
}

} // namespace
