/* What ranks of hone-pearl have from rank 0, and what they compare. */
#include "ranks_test.h"
#include "runtime/base/alloc.h"
#include "runtime/train/pearl_impl.h"

namespace {

/* A run that is nothing but a rank. */
struct Member {
    hn_team team = {};
    hn_pearl r = {};
    explicit Member(const Rank &rank)
    {
        team.ranks.rank = rank.rank;
        team.ranks.size = rank.size;
        team.hub = rank.hub;
        r.team = &team;
    }
};

void add(hn_values *s, const char *name, const std::vector<int64_t> &dim, float first)
{
    hn_value *v = nullptr;
    ASSERT_HN_OK(hn_values_add(s, name, (int)dim.size(), dim.data(), &v));
    for (int64_t i = 0; i < v->n; i++) v->v[i] = first + (float)i;
}

TEST(PearlShare, ValuesAreRankZeros)
{
    const auto all = run_ranks("cpu", 3, [](const Rank &rank) {
        Member run(rank);
        hn_values s = {};
        if (rank.rank == 0) {
            add(&s, "l.lora_A.weight", {2, 3, 1, 1}, 1);
            add(&s, "l.lora_B.weight", {4, 2}, 20);
        } else {
            add(&s, "of another task", {5}, 7);
        }
        EXPECT_HN_OK(hn_pearl_share_values(&run.r, &s));
        EXPECT_EQ(s.n, 2);
        const hn_value *a = hn_values_find(&s, "l.lora_A.weight"),
                       *b = hn_values_find(&s, "l.lora_B.weight");
        RankResult got;
        EXPECT_TRUE(a && b);
        if (a && b) {
            EXPECT_EQ(a->ndim, 4);
            EXPECT_EQ(b->ndim, 2);
            EXPECT_EQ(a->dim[1], 3);
            got.assign(a->v, a->v + a->n);
            got.insert(got.end(), b->v, b->v + b->n);
        }
        hn_values_free(&s);
        hn_values none = {}; /* also where there is nothing */
        EXPECT_HN_OK(hn_pearl_share_values(&run.r, &none));
        EXPECT_EQ(none.n, 0);
        return got;
    });
    const RankResult want = {1, 2, 3, 4, 5, 6, 20, 21, 22, 23, 24, 25, 26, 27};
    for (const auto &got : all) EXPECT_EQ(got, want);
}

TEST(PearlShare, RanksAndFlagsAreRankZeros)
{
    const auto all = run_ranks("cpu", 2, [](const Rank &rank) {
        Member run(rank);
        hn_pearl_record record = {};
        hn_pearl_rank own[2] = {};
        run.r.n_layers = 2;
        if (rank.rank == 0) {
            own[0].choice = {3, false, 24};
            own[1].choice = {8, true, 64};
            own[1].near.distance = 0.25;
            record.rank = own;
        }
        EXPECT_HN_OK(hn_pearl_share_ranks(&run.r, &record));
        bool flag = rank.rank == 0;
        EXPECT_HN_OK(hn_pearl_share_flag(&run.r, &flag));
        const RankResult got = {
            (float)record.rank[0].choice.rank, (float)record.rank[1].choice.parameters,
            (float)record.rank[1].choice.dense, (float)record.rank[1].near.distance, (float)flag};
        if (record.rank != own) hn_free(record.rank);
        return got;
    });
    const RankResult want = {3, 64, 1, 0.25f, 1};
    for (const auto &got : all) EXPECT_EQ(got, want);
}

/* One bit of one value, a name, or an order: whose they are is said on all. */
TEST(PearlShare, OtherValuesAreNamed)
{
    run_ranks("cpu", 3, [](const Rank &rank) {
        Member run(rank);
        for (int what = 0; what < 4; what++) {
            const bool odd = rank.rank == 2 && what > 0;
            hn_values s = {}, t = {};
            add(&s, odd && what == 2 ? "other" : "w", {3}, 1);
            add(&t, "b", {2}, 0);
            if (odd && what == 1) s.item[0].v[2] = std::nextafter(s.item[0].v[2], 9.0f);
            const hn_values *const set[] = {odd && what == 3 ? &t : &s, nullptr,
                                            odd && what == 3 ? &s : &t};
            const hn_status st = hn_pearl_same_values(&run.r, "values", set, 3);
            if (what == 0) {
                EXPECT_HN_OK(st);
            } else {
                EXPECT_EQ(st, HN_ERR_NUMERIC) << what;
                EXPECT_NE(std::string(hn_last_error()).find("rank 2 on "), std::string::npos)
                    << hn_last_error();
            }
            hn_values_free(&s);
            hn_values_free(&t);
        }
        return RankResult{};
    });
}

} // namespace
