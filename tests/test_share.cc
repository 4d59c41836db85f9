/* Which micro-batches of a step a rank has. */
#include "hn_test.h"
#include "runtime/data/share.h"

namespace {

/* Numbers that ranks with these shares have of the steps from `first` on. */
std::vector<int64_t> of(const hn_share &s, int64_t first, int64_t n)
{
    std::vector<int64_t> all;
    for (int64_t k = 0; k < n; k++) all.push_back(hn_share_at(s, first, k));
    return all;
}

using Numbers = std::vector<int64_t>;

TEST(Share, OneRankHasThemAll)
{
    EXPECT_EQ(of({}, 7, 4), (Numbers{7, 8, 9, 10}));
    EXPECT_EQ(of({0, 1, 3}, 6, 4), (Numbers{6, 7, 8, 9}));
    EXPECT_EQ(hn_share_own({0, 1, 3}), 3);
    EXPECT_EQ(hn_share_own({}), 1);
}

TEST(Share, RanksTakeTurnsInEveryStep)
{
    EXPECT_EQ(of({0, 2, 4}, 8, 4), (Numbers{8, 10, 12, 14}));
    EXPECT_EQ(of({1, 2, 4}, 8, 4), (Numbers{9, 11, 13, 15}));
}

TEST(Share, UnevenOnesBeginEveryStepWithRankZero)
{
    EXPECT_EQ(hn_share_own({0, 2, 3}), 2);
    EXPECT_EQ(hn_share_own({1, 2, 3}), 1);
    EXPECT_EQ(of({0, 2, 3}, 0, 4), (Numbers{0, 2, 3, 5}));
    EXPECT_EQ(of({1, 2, 3}, 0, 3), (Numbers{1, 4, 7}));
}

TEST(Share, MoreRanksThanMicroBatches)
{
    EXPECT_EQ(hn_share_own({1, 4, 2}), 1);
    EXPECT_EQ(hn_share_own({2, 4, 2}), 0);
    EXPECT_EQ(hn_share_own({3, 4, 2}), 0);
    EXPECT_EQ(of({1, 4, 2}, 4, 3), (Numbers{5, 7, 9}));
}

TEST(Share, EveryMicroBatchHasOneRank)
{
    for (int64_t ranks = 1; ranks <= 7; ranks++)
        for (int64_t per_step = 1; per_step <= 9; per_step++) {
            Numbers all;
            for (int64_t r = 0; r < ranks; r++) {
                const hn_share s = {r, ranks, per_step};
                const Numbers own = of(s, 2 * per_step, 3 * hn_share_own(s));
                EXPECT_TRUE(std::is_sorted(own.begin(), own.end()));
                all.insert(all.end(), own.begin(), own.end());
            }
            std::sort(all.begin(), all.end());
            Numbers want;
            for (int64_t i = 0; i < 3 * per_step; i++) want.push_back(2 * per_step + i);
            EXPECT_EQ(all, want) << ranks << " ranks, " << per_step;
        }
}

} // namespace
