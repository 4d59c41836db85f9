/* runtime/base: status texts, 16-bit floats, allocator, saver, random numbers. */
#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/base/mapfile.h"
#include "runtime/base/rng.h"
#include "runtime/base/save.h"

namespace {

TEST(Status, TextNamesPlaceAndMayQuoteItself)
{
    EXPECT_HN_FAIL(HN_FAIL(HN_ERR_SHAPE, "width %d", 7), HN_ERR_SHAPE, "test_base.cc");
    EXPECT_HN_FAIL(HN_FAIL(HN_ERR_IO, "again: %s", hn_last_error()), HN_ERR_IO, "width 7");
    EXPECT_STREQ(hn_status_name(HN_ERR_SHAPE), "ERR_SHAPE");
    EXPECT_EQ(hn_status_exit_code(HN_ERR_FORMAT), 2);
    EXPECT_EQ(hn_status_exit_code(HN_ERR_NUMERIC), 1);
}

TEST(Float16, EveryPatternSurvivesARoundTrip)
{
    for (uint32_t i = 0; i < 65536; i++) {
        const hn_f16 h = {(uint16_t)i};
        const float f = hn_f16_to_f32(h);
        if (std::isnan(f))
            EXPECT_TRUE(std::isnan(hn_f16_to_f32(hn_f16_from_f32(f))));
        else
            EXPECT_EQ(hn_f16_from_f32(f).bits, i);
    }
}

TEST(Float16, RoundsToNearestEven)
{
    EXPECT_EQ(hn_f16_from_f32(2049.0f).bits, hn_f16_from_f32(2048.0f).bits);
    EXPECT_EQ(hn_f16_to_f32(hn_f16_from_f32(2051.0f)), 2052.0f);
    EXPECT_TRUE(std::isinf(hn_f16_to_f32(hn_f16_from_f32(65520.0f))));
    EXPECT_EQ(hn_f16_to_f32(hn_f16_from_f32(65519.0f)), 65504.0f);
    EXPECT_EQ(hn_f16_to_f32(hn_f16_from_f32(0x1.8p-24f)), 0x1p-23f);
}

TEST(Bf16, RoundsToNearestEven)
{
    EXPECT_EQ(hn_bf16_to_f32(hn_bf16_from_f32(257.0f)), 256.0f);
    EXPECT_EQ(hn_bf16_to_f32(hn_bf16_from_f32(259.0f)), 260.0f);
    EXPECT_TRUE(std::isnan(hn_bf16_to_f32(hn_bf16_from_f32(NAN))));
}

TEST(Alloc, FailsAtTheCallThatWasAsked)
{
    hn_alloc_fail_at(2);
    void *a = hn_malloc(8), *b = hn_malloc(8), *c = hn_malloc(8);
    EXPECT_NE(a, nullptr);
    EXPECT_EQ(b, nullptr);
    EXPECT_NE(c, nullptr);
    hn_free(a), hn_free(c);
}

/* Known answers of the Random123 distribution (kat_vectors, philox4x32-10). */
TEST(Rng, PhiloxKnownAnswers)
{
    uint32_t c[4] = {0, 0, 0, 0};
    hn_philox_(c, 0, 0);
    EXPECT_EQ(c[0], 0x6627e8d5u);
    EXPECT_EQ(c[1], 0xe169c58du);
    EXPECT_EQ(c[2], 0xbc57ac4cu);
    EXPECT_EQ(c[3], 0x9b00dbd8u);
    uint32_t d[4] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344};
    hn_philox_(d, 0xa4093822, 0x299f31d0);
    EXPECT_EQ(d[0], 0xd16cfe09u);
    EXPECT_EQ(d[1], 0x94fdccebu);
    EXPECT_EQ(d[2], 0x5001e420u);
    EXPECT_EQ(d[3], 0x24126ea1u);
}

TEST(Rng, MeanAndKeyDependence)
{
    const hn_rng r = hn_rng_make(7, 3, hn_hash_name("layer.0"));
    double sum = 0;
    for (uint32_t j = 0; j < 100000; j++) sum += (double)hn_rng_unit(hn_rng_u32(r, 5, j));
    EXPECT_NEAR(sum / 100000, 0.5, 0.005); /* five standard errors */
    EXPECT_NE(hn_rng_u32(r, 0, 0), hn_rng_u32(hn_rng_make(8, 3, hn_hash_name("layer.0")), 0, 0));
    EXPECT_NE(hn_rng_u32(r, 0, 0), hn_rng_u32(hn_rng_make(7, 4, hn_hash_name("layer.0")), 0, 0));
    EXPECT_NE(hn_rng_u32(r, 0, 0), hn_rng_u32(hn_rng_make(7, 3, hn_hash_name("layer.1")), 0, 0));
    for (uint32_t j = 0; j < 1000; j++) EXPECT_LT(hn_rng_below(r, 1, j, 7), 7u);
}

TEST(Save, CommitReplacesAndAbortLeavesAlone)
{
    TempDir t;
    const std::string path = t / "a";
    ASSERT_HN_OK(hn_save_text(path.c_str(), "old"));
    hn_saver *s = nullptr;
    ASSERT_HN_OK(hn_saver_open(path.c_str(), &s));
    ASSERT_HN_OK(hn_saver_write(s, "new", 3));
    hn_saver_abort(s);
    EXPECT_EQ(read_file(path), "old");
    ASSERT_HN_OK(hn_saver_open(path.c_str(), &s));
    ASSERT_HN_OK(hn_saver_write(s, "abc", 3));
    char hex[HN_SHA256_HEX];
    uint64_t n = 0;
    ASSERT_HN_OK(hn_saver_commit(s, &n, hex));
    EXPECT_EQ(n, 3u);
    EXPECT_STREQ(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(read_file(path), "abc");
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(t.str()), {}), 1);
}

TEST(Save, DiskFullIsReportedAndLeavesNothing)
{
    if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
    TempDir t;
    const std::string path = t / "x";
    /* The temporary name is a link to a device that is always full. */
    std::filesystem::create_symlink("/dev/full", path + ".tmp-" + std::to_string(getpid()));
    const std::string big(1 << 20, 'x');
    EXPECT_HN_FAIL(hn_save_file(path.c_str(), big.data(), big.size()), HN_ERR_WRITE, "No space");
    EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(Json, NamesLineAndKey)
{
    json_t *v = nullptr;
    EXPECT_HN_FAIL(hn_json_parse("{\"a\":1,\n\"a\":2}", 14, "c.json", &v), HN_ERR_FORMAT,
                   "c.json:2");
    ASSERT_HN_OK(hn_json_parse("{\"n\": 3, \"t\": \"x\"}", 18, "c.json", &v));
    int64_t n = 0;
    EXPECT_HN_OK(hn_json_get_i64(v, "n", "c.json", 0, 5, true, &n));
    EXPECT_EQ(n, 3);
    EXPECT_HN_FAIL(hn_json_get_i64(v, "n", "c.json", 0, 2, true, &n), HN_ERR_FORMAT, "0..2");
    EXPECT_HN_FAIL(hn_json_get_i64(v, "t", "c.json", 0, 2, true, &n), HN_ERR_FORMAT, "integer");
    EXPECT_HN_FAIL(hn_json_get_i64(v, "q", "c.json", 0, 2, true, &n), HN_ERR_FORMAT, "'q'");
    json_decref(v);
}

TEST(Mapfile, RefusesFoldersAndMissingFiles)
{
    hn_mapfile m = {};
    EXPECT_HN_FAIL(hn_mapfile_open("/tmp", &m), HN_ERR_IO, "/tmp");
    EXPECT_HN_FAIL(hn_mapfile_open("/nonexistent", &m), HN_ERR_IO, "/nonexistent");
}

} // namespace
