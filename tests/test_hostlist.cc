/* runtime/comm/hostlist: SLURM's lists of hosts and of tasks. */
#include "hn_test.h"
#include "runtime/comm/hostlist.h"

namespace {

std::vector<std::string> hosts(const std::string &list)
{
    std::vector<std::string> all;
    int64_t n = -1;
    EXPECT_HN_OK(hn_hostlist_count(list.c_str(), &n)) << list;
    for (int64_t i = 0; i < n; i++) {
        char name[HN_HOSTLIST_NAME];
        EXPECT_HN_OK(hn_hostlist_name(list.c_str(), i, name)) << list << " " << i;
        all.push_back(name);
    }
    return all;
}

using Names = std::vector<std::string>;

TEST(HostList, Expands)
{
    EXPECT_EQ(hosts("login"), Names({"login"}));
    EXPECT_EQ(hosts("a,b-1.site.org,c_2"), Names({"a", "b-1.site.org", "c_2"}));
    EXPECT_EQ(hosts("gnode[10,20,25-27]"),
              Names({"gnode10", "gnode20", "gnode25", "gnode26", "gnode27"}));
    EXPECT_EQ(hosts("a[001-003]b[1-2]"),
              Names({"a001b1", "a001b2", "a002b1", "a002b2", "a003b1", "a003b2"}));
    EXPECT_EQ(hosts("n[8-11]-ib,x,[3-4]"),
              Names({"n8-ib", "n9-ib", "n10-ib", "n11-ib", "x", "3", "4"}));
    EXPECT_EQ(hosts("n[08-10,7]"), Names({"n08", "n09", "n10", "n7"}));
    EXPECT_EQ(hosts("r[1-2]s[1-2]t[0,5]").size(), 8u);
    EXPECT_EQ(hosts("r[1-2]s[1-2]t[0,5]")[5], "r2s1t5");
}

TEST(HostList, FindsANameInALongListWithoutExpandingIt)
{
    char name[HN_HOSTLIST_NAME];
    int64_t n = 0;
    ASSERT_HN_OK(hn_hostlist_count("r[1-1000]n[0001-1000]", &n));
    EXPECT_EQ(n, 1000000);
    ASSERT_HN_OK(hn_hostlist_name("r[1-1000]n[0001-1000]", 999998, name));
    EXPECT_STREQ(name, "r1000n0999");
}

TEST(HostList, RefusesWhatIsNoList)
{
    const struct {
        const char *list, *part;
    } rows[] = {
        {"", "at byte 0: a host's name"},
        {",a", "at byte 0: a host's name"},
        {"a,", "at byte 2: a host's name"},
        {"a,,b", "at byte 2: a host's name"},
        {"a[", "at byte 2: a number"},
        {"a[]", "at byte 2: a number"},
        {"a[1", "at byte 3: ',' or ']'"},
        {"a[1,]", "at byte 4: a number"},
        {"a[1-]", "at byte 4: a number"},
        {"a[-1]", "at byte 2: a number"},
        {"a[3-1]", "at byte 2: a range runs upwards"},
        {"a[1[2]]", "at byte 3: ',' or ']'"},
        {"a]", "at byte 1: no byte of a host's name"},
        {"a b", "at byte 1: no byte"},
        {"a\nb", "no byte"},
        {"(null)", "no byte"},
        {"a;reboot", "no byte"},
        {"a[0123456789]", "at most 9 digits"},
        {"a[0-999999999]", "more than 1048576"},
        {"a[0-1048575,7]", "more than 1048576"},
        {"a[1-1024]b[1-1024]c[1-2]", "more than 1048576"},
        {"a[0-1048575],b", "more than 1048576"},
    };
    for (const auto &row : rows) {
        int64_t n = -7;
        EXPECT_HN_FAIL(hn_hostlist_count(row.list, &n), HN_ERR_ARG, row.part);
        EXPECT_EQ(n, -7) << row.list;
        char name[HN_HOSTLIST_NAME] = "kept";
        EXPECT_HN_FAIL(hn_hostlist_name(row.list, 0, name), HN_ERR_ARG, row.part);
        EXPECT_STREQ(name, "kept");
    }
}

TEST(HostList, RefusesHostsThatAreNotInIt)
{
    char name[HN_HOSTLIST_NAME] = "kept";
    EXPECT_HN_FAIL(hn_hostlist_name("a[1-3]", 3, name), HN_ERR_ARG, "host 3 of 3");
    EXPECT_HN_FAIL(hn_hostlist_name("a[1-3]", -1, name), HN_ERR_ARG, "host -1 of 3");
    EXPECT_STREQ(name, "kept");
}

TEST(HostList, HoldsNamesOfUpTo253Bytes)
{
    char name[HN_HOSTLIST_NAME];
    const std::string longest(250, 'x');
    ASSERT_HN_OK(hn_hostlist_name((longest + "[100-101]").c_str(), 1, name));
    EXPECT_EQ(name, longest + "101");
    EXPECT_HN_FAIL(hn_hostlist_name((longest + "x[100-101]").c_str(), 1, name), HN_ERR_ARG,
                   "over 253 bytes");
    EXPECT_HN_FAIL(hn_hostlist_name((longest + "[10]yy").c_str(), 0, name), HN_ERR_ARG,
                   "over 253 bytes");
}

TEST(TaskCounts, AreTakenApart)
{
    const struct {
        const char *counts;
        std::vector<int64_t> each;
    } rows[] = {
        {"8", {8}},
        {"4(x2),3", {4, 4, 3}},
        {"1,2(x1),3(x3)", {1, 2, 3, 3, 3}},
        {"0,2", {0, 2}},
    };
    for (const auto &row : rows) {
        int64_t sum = 0;
        for (int64_t t : row.each) sum += t;
        for (size_t i = 0; i < row.each.size(); i++) {
            int64_t here = -1, n = -1, total = -1;
            ASSERT_HN_OK(hn_hostlist_tasks(row.counts, (int64_t)i, &here, &n, &total));
            EXPECT_EQ(here, row.each[i]) << row.counts << " " << i;
            EXPECT_EQ(n, (int64_t)row.each.size());
            EXPECT_EQ(total, sum);
        }
        int64_t here = -1;
        EXPECT_HN_FAIL(hn_hostlist_tasks(row.counts, (int64_t)row.each.size(), &here, NULL, NULL),
                       HN_ERR_ARG, "host ");
        EXPECT_EQ(here, -1);
    }
}

TEST(TaskCounts, RefusesWhatIsNoList)
{
    for (const char *counts :
         {"", ",", "4,", "x", "4(", "4(2)", "4(x)", "4(x2", "4(x0)", "-4", "4 ", "4(x2000000)",
          "2000000", "999999999(x999999999)", "0123456789"}) {
        int64_t here = -7, n = -7, total = -7;
        EXPECT_EQ(hn_hostlist_tasks(counts, 0, &here, &n, &total), HN_ERR_ARG) << counts;
        EXPECT_EQ(here, -7);
        EXPECT_EQ(n, -7);
        EXPECT_EQ(total, -7);
    }
}

} // namespace
