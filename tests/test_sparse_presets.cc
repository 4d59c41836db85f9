/* runtime/train/sparse_presets.h: every preset parses, means what its source says, and gives way to
 * what the user has given. */
#include "runtime/train/sparse_presets.h"

#include <set>

#include "hn_test.h"
#include "runtime/base/alloc.h"

namespace {

/* A trainer's config: the knobs behind other things, and options of every run. */
struct Config {
    const char *preset;
    hn_sparse_knobs sparse;
    double lr, beta2;
};

std::vector<hn_option> table()
{
    int64_t n = 0;
    const hn_option *rows = hn_sparse_rows(&n);
    std::vector<hn_option> t(rows, rows + n);
    for (auto &row : t) row.offset += offsetof(Config, sparse);
    t.push_back({"preset", HN_OPT_TEXT, offsetof(Config, preset), "absd", 0, 0, nullptr, "set"});
    t.push_back({"lr", HN_OPT_REAL, offsetof(Config, lr), "1e-3", 0, 1, nullptr, "rate"});
    t.push_back({"beta2", HN_OPT_REAL, offsetof(Config, beta2), "0.999", 0, 1, nullptr, "decay"});
    return t;
}

struct Parsed {
    Config c = {};
    hn_options_store *store = nullptr;
    hn_status st;
    explicit Parsed(std::vector<std::string> words)
    {
        const auto t = table();
        std::vector<char *> argv = {(char *)"program"};
        for (auto &w : words) argv.push_back(w.data());
        st = hn_options_parse(t.data(), t.size(), (int)argv.size(), argv.data(), &c, &store);
        if (st == HN_OK) st = hn_sparse_preset_apply(c.preset, t.data(), t.size(), store, &c);
    }
    ~Parsed() { hn_options_free(store); }
    hn_sparse_rules rules(int64_t steps = 2000, int64_t samples = 16) const
    {
        hn_sparse_rules r = {};
        EXPECT_HN_OK(hn_sparse_rules_of(&c.sparse, steps, samples, &r)) << c.preset;
        return r;
    }
};

/* Prints them, too. Field by field the same as a user's `--option=value` of every row of the
 * preset. */
TEST(SparsePresets, AreWhatAUserCouldType)
{
    const auto t = table();
    for (int64_t i = 0; i < hn_sparse_preset_count(); i++) {
        const hn_sparse_preset *p = hn_sparse_preset_at(i);
        std::vector<std::string> words;
        std::set<std::string> seen;
        for (int64_t k = 0; k < p->n; k++) {
            words.push_back(std::string("--") + p->value[k].option + "=" + p->value[k].value);
            EXPECT_TRUE(seen.insert(p->value[k].option).second) << words.back();
            EXPECT_NE(std::strstr(p->value[k].source, "spec/sparse.md"), nullptr);
        }
        Parsed typed(words), preset({std::string("--preset=") + p->name});
        ASSERT_HN_OK(typed.st) << p->name;
        ASSERT_HN_OK(preset.st) << p->name;
        typed.c.preset = preset.c.preset;
        char *a = nullptr, *b = nullptr;
        ASSERT_HN_OK(hn_options_yaml(t.data(), t.size(), &typed.c, &a));
        ASSERT_HN_OK(hn_options_yaml(t.data(), t.size(), &preset.c, &b));
        EXPECT_STREQ(a, b) << p->name;
        std::printf("%s: %s\n", p->name, p->summary);
        for (int64_t k = 0; k < p->n; k++)
            std::printf("  %-15s %-8s %s\n", p->value[k].option, p->value[k].value,
                        p->value[k].source);
        if (p->differs != nullptr) std::printf("  differs: %s\n", p->differs);
        (void)preset.rules();
        hn_free(a);
        hn_free(b);
    }
}

TEST(SparsePresets, TheDefaultIsStaticSelectionByGradients)
{
    Parsed p({});
    ASSERT_HN_OK(p.st);
    const hn_sparse_rules r = p.rules();
    EXPECT_EQ(r.score, HN_BY_GRADIENT);
    EXPECT_TRUE(r.schedule.fixed);
    EXPECT_EQ(r.schedule.first, 32);
    EXPECT_EQ(r.schedule.window, 8);
    EXPECT_EQ(r.schedule.score_share, 0.5);
    EXPECT_EQ(r.budget.budget.kind, HN_BUDGET_LORA);
    EXPECT_EQ(r.budget.floor, 0.25);
    EXPECT_EQ(r.budget.ceiling, 4);
    EXPECT_EQ(r.change.hysteresis, 1.2);
    EXPECT_EQ(r.change.protect, 200);
    EXPECT_EQ(p.c.sparse.candidates, 2);
    Parsed d({"--preset=absd-dynamic"});
    EXPECT_FALSE(d.rules().schedule.fixed);
}

TEST(SparsePresets, MeanWhatTheirSourcesSay)
{
    hn_sparse_rules r = Parsed({"--preset=sift"}).rules();
    EXPECT_EQ(r.score, HN_BY_ABS);
    EXPECT_EQ(r.schedule.first, 1);
    EXPECT_EQ(r.schedule.score_share, 1);
    EXPECT_TRUE(r.budget.each);
    EXPECT_EQ(r.budget.budget.amount, 0.05);

    r = Parsed({"--preset=fish"}).rules(2000, 48);
    EXPECT_EQ(r.schedule.first, 22); /* 1024 / 48, rounded up */
    EXPECT_EQ(r.budget.ceiling, 0);
    EXPECT_EQ(r.budget.floor, 0);

    r = Parsed({"--preset=spiel-ag"}).rules(1000);
    EXPECT_EQ(r.first, HN_BY_RANDOM);
    EXPECT_EQ(r.score, HN_BY_GRADIENT);
    EXPECT_EQ(r.schedule.first, 0);
    EXPECT_EQ(hn_select_at(&r.schedule, 0).phase, HN_SELECT_SCORE);
    EXPECT_EQ(hn_select_at(&r.schedule, 1).phase, HN_SELECT_WINDOW);
    EXPECT_EQ(hn_select_at(&r.schedule, 4).rate, 1);
    EXPECT_DOUBLE_EQ(hn_select_at(&r.schedule, 24).rate, 0.2 * (1 - 25.0 / 1000));
    EXPECT_EQ(r.change.protect, 0);
    EXPECT_TRUE(r.change.each);

    const Parsed smt({"--preset=smt"});
    r = smt.rules();
    EXPECT_EQ(hn_select_before(&r.schedule, 0).phase, HN_SELECT_WINDOW);
    EXPECT_TRUE(hn_select_before(&r.schedule, 99).change);
    EXPECT_EQ(smt.c.beta2, 0.95);

    r = Parsed({"--preset=lift"}).rules();
    EXPECT_EQ(r.lift_rank, 128);
    EXPECT_TRUE(r.refill);
    EXPECT_EQ(r.schedule.first, 0);
    EXPECT_EQ(hn_select_at(&r.schedule, 399).rate, 1);
    EXPECT_TRUE(hn_select_at(&r.schedule, 399).change);
    EXPECT_EQ(hn_select_at(&r.schedule, 398).phase, HN_SELECT_NONE);

    const Parsed rosa({"--preset=rosa"});
    EXPECT_EQ(rosa.c.sparse.lora_rank, 16);
    EXPECT_EQ(rosa.c.sparse.lora_steps, 64);
    EXPECT_EQ(rosa.rules().score, HN_BY_FISHER);
    EXPECT_EQ(Parsed({"--preset=shira"}).rules().budget.share, HN_SHARE_LORA);
    EXPECT_EQ(Parsed({"--preset=s2ft"}).rules().score, HN_BY_COUPLED);
    EXPECT_EQ(Parsed({"--preset=diablo"}).rules().budget.budget.amount, 1.0 / 64);
}

TEST(SparsePresets, GiveWayToWhatTheUserHasGiven)
{
    Parsed p({"--budget=2%", "--preset=sift", "--block=4x4", "--lr=0.5"});
    ASSERT_HN_OK(p.st);
    EXPECT_STREQ(p.c.sparse.budget, "2%");
    EXPECT_STREQ(p.c.sparse.block, "4x4");
    EXPECT_STREQ(p.c.sparse.score, "abs");
    EXPECT_EQ(p.c.lr, 0.5);
    Parsed same({"--preset=sift", "--select-batches=32"}); /* even to the default */
    EXPECT_EQ(same.c.sparse.batches, 32);
    Parsed unknown({"--preset=sieve"});
    EXPECT_EQ(unknown.st, HN_ERR_ARG);
    EXPECT_NE(std::strstr(hn_last_error(), "absd|absd-dynamic|sift|fish|spiel-ag|smt|shira|lift"),
              nullptr);
    int64_t n = 0;
    const hn_option *rows = hn_sparse_rows(&n);
    hn_sparse_knobs k = {};
    EXPECT_HN_FAIL(hn_sparse_preset_apply("smt", rows, (size_t)n, nullptr, &k), HN_ERR_ARG,
                   "--preset smt sets --beta2");
}

TEST(SparsePresets, RefuseWhatHasNoMeaning)
{
    const auto refused = [](std::vector<std::string> words, const char *part) {
        Parsed p(std::move(words));
        ASSERT_HN_OK(p.st);
        hn_sparse_rules r = {};
        EXPECT_HN_FAIL(hn_sparse_rules_of(&p.c.sparse, 2000, 16, &r), HN_ERR_ARG, part);
    };
    refused({"--budget=0"}, "budget '0'");
    refused({"--score=random", "--static=off"}, "--score random never changes");
    refused({"--block=coupled"}, "go together");
    refused({"--block=coupled", "--score=coupled"}, "--scope matrix");
    refused({"--score=lift", "--budget=1%"}, "--lift-rank");
    refused({"--lift-gamma=1", "--budget=1%"}, "--lift-rank");
    refused({"--lora-steps=3"}, "--lora-rank");
    refused({"--static=off", "--select-every=4"}, "window of 8");
    refused({"--select-batches=1"}, "one batch");
}

TEST(SparsePresets, SomeOptionsAreWithoutEffectBesideOthers)
{
    const auto idle = [](std::vector<std::string> words, const char *option) -> std::string {
        Parsed p(std::move(words));
        const char *reason = hn_sparse_idle(&p.c.sparse, option);
        return reason ? reason : "";
    };
    for (const char *option : {"seed-moments", "select-every", "on-drop", "hysteresis"}) {
        EXPECT_NE(idle({}, option).find("--static on"), std::string::npos) << option;
        EXPECT_NE(idle({"--preset=smt"}, option).find("--static on"), std::string::npos) << option;
        EXPECT_EQ(idle({"--static=off"}, option), "") << option;
        EXPECT_EQ(idle({"--preset=spiel-ag"}, option), "") << option;
    }
    for (const char *option : {"select-batches", "budget", "start", "static"})
        EXPECT_EQ(idle({}, option), "") << option;
    EXPECT_EQ(idle({"--static=off", "--score=fisher"}, "seed-moments"),
              "this --score sums no gradients");
    EXPECT_EQ(idle({"--preset=lift"}, "seed-moments"), "this --score sums no gradients");
    EXPECT_NE(idle({"--preset=lift"}, "drop"), "");
    EXPECT_EQ(idle({"--preset=lift"}, "on-drop"), "");
}

TEST(SparsePresets, BlocksOfAMatrix)
{
    hn_block_shape s = {};
    ASSERT_HN_OK(hn_sparse_block_of("auto", 5000000, "w", 64, 32, false, &s));
    EXPECT_EQ(s.br, 16);
    ASSERT_HN_OK(hn_sparse_block_of("auto", 5000000000, "w", 64, 32, false, &s));
    EXPECT_EQ(s.bc, 32);
    ASSERT_HN_OK(hn_sparse_block_of("128x128", 1, "w", 256, 128, false, &s));
    EXPECT_EQ(s.br * s.bc, 128 * 128);
    ASSERT_HN_OK(hn_sparse_block_of("coupled", 1, "w", 64, 32, true, &s));
    EXPECT_EQ(s.br, 64);
    EXPECT_EQ(s.bc, 1);
    ASSERT_HN_OK(hn_sparse_block_of("coupled", 1, "w", 64, 32, false, &s));
    EXPECT_EQ(s.br, 1);
    EXPECT_EQ(s.bc, 32);
    EXPECT_HN_FAIL(hn_sparse_block_of("64x64", 1, "layer.w", 64, 32, false, &s), HN_ERR_SHAPE,
                   "layer.w");
}

} // namespace
