/* runtime/fed/support: which blocks travel, as a message that somebody else wrote. */
#include <zlib.h>

#include <cstring>
#include <numeric>

#include "fed_test.h"

namespace {

struct Support {
    hn_fed_support s = {};
    Support() = default;
    Support(const Support &) = delete;
    ~Support() { hn_fed_support_free(&s); }
    hn_status add(const char *name, int64_t out, int64_t in, int64_t br, int64_t bc,
                  const std::vector<int32_t> &id)
    {
        const hn_fed_matrix m = {.name = name,
                                 .out = out,
                                 .in = in,
                                 .br = br,
                                 .bc = bc,
                                 .n = (int64_t)id.size(),
                                 .id = id.data(),
                                 .values = 0};
        return hn_fed_support_add(&s, &m);
    }
    void fill()
    {
        std::vector<int32_t> all(6);
        std::iota(all.begin(), all.end(), 0);
        ASSERT_HN_OK(add("a.weight", 8, 12, 4, 4, {0, 2, 5}));
        ASSERT_HN_OK(add("b.weight", 6, 10, 1, 10, all));
        ASSERT_HN_OK(add("c.weight", 64, 64, 1, 1, {7, 1000, 4095}));
    }
    std::string digest() const
    {
        char hex[HN_SHA256_HEX];
        EXPECT_HN_OK(hn_fed_support_digest(&s, hex));
        return hex;
    }
    std::vector<uint8_t> bytes() const
    {
        hn_fed_bytes b = {};
        EXPECT_HN_OK(hn_fed_support_encode(&s, &b));
        std::vector<uint8_t> v(b.data, b.data + b.n);
        hn_fed_bytes_free(&b);
        return v;
    }
};

TEST(FedSupport, ComesBackAsItWasSent)
{
    Support sent, back;
    sent.fill();
    EXPECT_EQ(sent.s.blocks, 12);
    EXPECT_EQ(sent.s.values, 3 * 16 + 60 + 3);
    const auto b = sent.bytes();
    /* header; per matrix a record and a name; ids: all of b's blocks take a bit each */
    EXPECT_LT(b.size(), 64u + 3 * (64 + 8) + 1 + 1 + 6);
    EXPECT_TRUE(hn_fed_is_support(b.data(), b.size()));
    ASSERT_HN_OK(hn_fed_support_decode(b.data(), b.size(), &back.s));
    ASSERT_EQ(back.s.count, 3);
    for (int64_t i = 0; i < 3; i++) {
        const hn_fed_matrix &x = sent.s.matrix[i], &y = back.s.matrix[i];
        EXPECT_STREQ(x.name, y.name);
        EXPECT_EQ(std::vector<int32_t>(x.id, x.id + x.n), std::vector<int32_t>(y.id, y.id + y.n));
        EXPECT_EQ(x.values, y.values);
        EXPECT_EQ(hn_fed_support_find(&back.s, x.name), i);
    }
    EXPECT_EQ(back.s.values, sent.s.values);
    EXPECT_EQ(sent.digest(), back.digest());
    EXPECT_EQ(hn_fed_support_find(&back.s, "d.weight"), -1);
}

TEST(FedSupport, DigestIsOfNamesShapesAndIds)
{
    std::vector<std::string> seen;
    const auto note = [&](const char *name, int64_t out, int64_t in, int64_t br, int64_t bc,
                          const std::vector<int32_t> &id) {
        Support s;
        ASSERT_HN_OK(s.add(name, out, in, br, bc, id));
        seen.push_back(s.digest());
    };
    note("a", 8, 8, 1, 1, {1, 2});
    note("b", 8, 8, 1, 1, {1, 2});
    note("a", 8, 8, 1, 1, {1, 3});
    note("a", 4, 16, 1, 1, {1, 2});
    note("a", 8, 8, 4, 4, {1, 2});
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(std::adjacent_find(seen.begin(), seen.end()), seen.end());
}

TEST(FedSupport, RefusesMatricesThatCannotBe)
{
    Support s;
    s.fill();
    EXPECT_HN_FAIL(s.add("a.weight", 8, 8, 1, 1, {0}), HN_ERR_ARG, "a.weight");
    EXPECT_HN_FAIL(s.add("", 8, 8, 1, 1, {0}), HN_ERR_ARG, "name");
    EXPECT_HN_FAIL(s.add("x", 8, 9, 4, 4, {0}), HN_ERR_ARG, "4 x 4 in [8, 9]");
    EXPECT_HN_FAIL(s.add("x", 8, 8, 4, 0, {0}), HN_ERR_ARG, "4 x 0");
    EXPECT_HN_FAIL(s.add("x", 8, 8, 4, 4, {}), HN_ERR_ARG, "0 blocks of 4");
    EXPECT_HN_FAIL(s.add("x", 8, 8, 4, 4, {0, 4}), HN_ERR_ARG, "block 4 at place 1");
    EXPECT_HN_FAIL(s.add("x", 8, 8, 4, 4, {1, 1}), HN_ERR_ARG, "ids ascend");
    EXPECT_HN_FAIL(s.add("x", INT64_MAX / 2, 4, 1, 1, {0}), HN_ERR_ARG, "x: blocks");
    EXPECT_EQ(s.s.count, 3);
}

constexpr int64_t HALF = int64_t{1} << 15, MOST = 2 * HALF * HALF; /* 2^31: one too many */

TEST(FedSupport, RefusesMoreValuesThanAPoolHas)
{
    Support s;
    ASSERT_HN_OK(s.add("a", 2 * HALF, HALF, HALF, HALF, {0}));
    EXPECT_HN_FAIL(s.add("b", HALF, HALF, HALF, HALF, {0}), HN_ERR_ARG, "b: 1 blocks beside 1073");
    EXPECT_HN_FAIL(s.add("b", MOST, 1, MOST, 1, {0}), HN_ERR_ARG, "more than 2147483647 together");
    ASSERT_HN_OK(s.add("b", MOST / 2 - 1, 1, MOST / 2 - 1, 1, {0}));
    EXPECT_HN_FAIL(s.add("c", 1, 1, 1, 1, {0}), HN_ERR_ARG, "c: 1 blocks beside 2147483647");
    /* in a message, too: the sizes of its last matrix are made larger */
    auto bytes = s.bytes();
    const size_t record = bytes.size() - 64 - 1 - 1;
    for (const size_t at : {record + 8, record + 24}) /* out, br */
        std::memcpy(bytes.data() + at, &MOST, sizeof MOST);
    uLong crc = crc32_z(0, bytes.data(), 60);
    crc = crc32_z(crc, bytes.data() + 64, bytes.size() - 64);
    const uint32_t c = (uint32_t)crc;
    std::memcpy(bytes.data() + 60, &c, 4);
    hn_fed_support out = {};
    EXPECT_HN_FAIL(hn_fed_support_decode(bytes.data(), bytes.size(), &out), HN_ERR_FORMAT,
                   "matrix 1: no name or shape");
}

/* Whatever byte is another, and wherever the message ends: nothing is taken. */
TEST(FedSupport, RefusesDamagedBytes)
{
    Support s;
    s.fill();
    const auto good = s.bytes();
    hn_fed_support out = {};
    for (size_t n = 0; n < good.size(); n++) {
        const std::vector<uint8_t> part(good.begin(), good.begin() + (long)n);
        EXPECT_HN_FAIL(hn_fed_support_decode(part.data(), n, &out), HN_ERR_FORMAT, "ids of blocks");
    }
    for (size_t i = 0; i < good.size(); i++) {
        auto bad = good;
        bad[i] ^= 0x41;
        EXPECT_HN_FAIL(hn_fed_support_decode(bad.data(), bad.size(), &out), HN_ERR_FORMAT, "");
    }
    /* and with a checksum that was made right again */
    for (size_t i = 16; i < good.size(); i++) {
        if (i >= 60 && i < 64) continue;
        auto bad = good;
        bad[i] ^= 0x41;
        uLong crc = crc32_z(0, bad.data(), 60);
        crc = crc32_z(crc, bad.data() + 64, bad.size() - 64);
        const uint32_t c = (uint32_t)crc;
        std::memcpy(bad.data() + 60, &c, 4);
        EXPECT_HN_FAIL(hn_fed_support_decode(bad.data(), bad.size(), &out), HN_ERR_FORMAT, "");
    }
    EXPECT_EQ(out.count, 0);
}

} // namespace
