/* runtime/file/safetensors: every rejection rule, round trips, the writer's bytes, conversions. */
#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/file/safetensors.h"

namespace {

/* A file from its JSON and data. */
std::string bytes_of(const std::string &json, const std::string &data = "")
{
    std::string s(8, '\0');
    for (int i = 0; i < 8; i++) s[(size_t)i] = (char)(json.size() >> 8 * i);
    return s + json + data;
}

hn_status parse(const std::string &bytes, hn_st_file **out)
{
    return hn_st_parse(bytes.data(), bytes.size(), "x.safetensors", out);
}

#define EXPECT_REJECTED(bytes, code, part)                                 \
    do {                                                                   \
        hn_st_file *rejected = nullptr;                                    \
        const std::string kept = (bytes);                                  \
        EXPECT_HN_FAIL(parse(kept, &rejected), code, part);                \
        EXPECT_NE(std::strstr(hn_last_error(), "x.safetensors"), nullptr); \
        EXPECT_EQ(rejected, nullptr);                                      \
        hn_st_close(rejected);                                             \
    } while (0)

std::string one(const std::string &dtype, const std::string &shape, const std::string &offsets)
{
    return "{\"w\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
           ",\"data_offsets\":" + offsets + "}}";
}

TEST(SafetensorsRead, RejectsAFileShorterThanItsLength)
{
    EXPECT_REJECTED("", HN_ERR_FORMAT, "0 bytes");
    EXPECT_REJECTED("1234567", HN_ERR_FORMAT, "7 bytes");
    EXPECT_REJECTED(bytes_of("{}").substr(0, 9), HN_ERR_FORMAT, "beyond the file of 9");
    EXPECT_REJECTED(std::string("\x01\xe1\xf5\x05\0\0\0\0", 8), HN_ERR_FORMAT, "100000000");
    EXPECT_REJECTED(std::string(8, '\xff') + "{}", HN_ERR_FORMAT, "at most");
}

TEST(SafetensorsRead, RejectsAHeaderThatIsNotAnObject)
{
    EXPECT_REJECTED(bytes_of(""), HN_ERR_FORMAT, "'{'");
    EXPECT_REJECTED(bytes_of(" {}"), HN_ERR_FORMAT, "'{'");
    EXPECT_REJECTED(bytes_of("[]"), HN_ERR_FORMAT, "'{'");
    EXPECT_REJECTED(bytes_of("{} x"), HN_ERR_FORMAT, "not valid JSON");
    EXPECT_REJECTED(bytes_of(std::string("{}\0", 3)), HN_ERR_FORMAT, "not valid JSON");
    EXPECT_REJECTED(bytes_of("{"), HN_ERR_FORMAT, "not valid JSON");
    EXPECT_REJECTED(bytes_of("{\"\xff\":1}"), HN_ERR_FORMAT, "not valid JSON");
    EXPECT_REJECTED(bytes_of("{\"w\":1}"), HN_ERR_FORMAT, "'w'");
    EXPECT_REJECTED(bytes_of("{\"a\\n\\u001b[2J\":1}"), HN_ERR_FORMAT, "'a??[2J'");
}

TEST(SafetensorsRead, RejectsARepeatedName)
{
    const std::string e = "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
    EXPECT_REJECTED(bytes_of("{\"w\":" + e + ",\"w\":" + e + "}"), HN_ERR_FORMAT, "duplicate");
}

TEST(SafetensorsRead, RejectsABadEntry)
{
    EXPECT_REJECTED(bytes_of("{\"w\":{\"shape\":[],\"data_offsets\":[0,0]}}"), HN_ERR_FORMAT,
                    "'dtype'");
    EXPECT_REJECTED(bytes_of(one("F33", "[]", "[0,4]"), "1234"), HN_ERR_FORMAT, "F33");
    EXPECT_REJECTED(bytes_of(one("U8", "4", "[0,4]"), "1234"), HN_ERR_FORMAT, "'shape'");
    EXPECT_REJECTED(bytes_of(one("U8", "[-4]", "[0,4]"), "1234"), HN_ERR_FORMAT, "shape[0]");
    EXPECT_REJECTED(bytes_of(one("U8", "[2,2.0]", "[0,4]"), "1234"), HN_ERR_FORMAT, "shape[1]");
    EXPECT_REJECTED(bytes_of(one("U8", "[4]", "[0]"), "1234"), HN_ERR_FORMAT, "'data_offsets'");
    EXPECT_REJECTED(bytes_of(one("U8", "[4]", "[0,4,8]"), "1234"), HN_ERR_FORMAT, "data_offsets");
    EXPECT_REJECTED(bytes_of(one("U8", "[4]", "[-1,3]"), "1234"), HN_ERR_FORMAT, "data_offsets");
    EXPECT_REJECTED(bytes_of(one("U8", "[4]", "{\"0\":0,\"1\":4}"), "1234"), HN_ERR_FORMAT,
                    "data_offsets");
    EXPECT_REJECTED(bytes_of(one("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), "1"), HN_ERR_UNSUPPORTED,
                    "9 dimensions, at most 8");
}

TEST(SafetensorsRead, RejectsHolesOverlapsAndReversedOffsets)
{
    const auto two = [](const char *a, const char *b) {
        return "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" + std::string(a) +
               "},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":" + b + "}}";
    };
    EXPECT_REJECTED(bytes_of(two("[1,3]", "[3,5]"), "12345"), HN_ERR_FORMAT, "hole");
    EXPECT_REJECTED(bytes_of(two("[0,2]", "[3,5]"), "12345"), HN_ERR_FORMAT, "hole");
    EXPECT_REJECTED(bytes_of(two("[0,2]", "[1,3]"), "123"), HN_ERR_FORMAT, "overlap");
    EXPECT_REJECTED(bytes_of(two("[0,2]", "[0,2]"), "12"), HN_ERR_FORMAT, "overlap");
    EXPECT_REJECTED(bytes_of(two("[2,0]", "[2,4]"), "1234"), HN_ERR_FORMAT, "before its begin");
}

TEST(SafetensorsRead, RejectsASizeThatTheShapeDoesNotGive)
{
    EXPECT_REJECTED(bytes_of(one("F32", "[2]", "[0,4]"), "1234"), HN_ERR_FORMAT, "need 8");
    EXPECT_REJECTED(bytes_of(one("F32", "[4294967296,4294967296]", "[0,0]")), HN_ERR_FORMAT,
                    "overflows");
    EXPECT_REJECTED(bytes_of(one("U8", "[0,4294967296,4294967296]", "[0,0]")), HN_ERR_FORMAT,
                    "overflows");
    EXPECT_REJECTED(bytes_of(one("F32", "[2305843009213693952]", "[0,0]")), HN_ERR_FORMAT,
                    "overflows");
    EXPECT_REJECTED(bytes_of(one("U8", "[18446744073709551616]", "[0,0]")), HN_ERR_FORMAT,
                    "not valid JSON");
    EXPECT_REJECTED(bytes_of(one("F4", "[3]", "[0,1]"), "1"), HN_ERR_FORMAT, "12 bits");
    EXPECT_REJECTED(bytes_of(one("F6_E2M3", "[2]", "[0,1]"), "1"), HN_ERR_FORMAT, "12 bits");
}

TEST(SafetensorsRead, RejectsDataThatDoesNotEndWithTheFile)
{
    EXPECT_REJECTED(bytes_of(one("U8", "[4]", "[0,4]"), "12345"), HN_ERR_FORMAT, "end at 4");
    EXPECT_REJECTED(bytes_of(one("U8", "[4]", "[0,4]"), "123"), HN_ERR_FORMAT, "holds 3");
    EXPECT_REJECTED(bytes_of("{}", "1"), HN_ERR_FORMAT, "holds 1");
}

TEST(SafetensorsRead, RejectsMetadataThatIsNotText)
{
    EXPECT_REJECTED(bytes_of("{\"__metadata__\":[]}"), HN_ERR_FORMAT, "__metadata__");
    EXPECT_REJECTED(bytes_of("{\"__metadata__\":{\"a\":1}}"), HN_ERR_FORMAT, "'a'");
}

TEST(SafetensorsRead, AcceptsScalarsEmptyTensorsAndTrailingSpaces)
{
    hn_st_file *f = nullptr;
    const std::string bytes =
        bytes_of("{\"z\":{\"data_offsets\":[4,6],\"dtype\":\"F6_E3M2\",\"shape\":[2,2]},"
                 "\"e\":{\"dtype\":\"I64\",\"shape\":[3,0],\"data_offsets\":[4,4]},"
                 "\"__metadata__\":{\"format\":\"pt\"},"
                 "\"s\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}   ",
                 std::string("\0\0\x80\x3f", 4) + "ab");
    /* 2x2 elements of 6 bits are 3 bytes: say so in the offsets */
    EXPECT_REJECTED(bytes, HN_ERR_FORMAT, "need 3");
    std::string good = bytes;
    good.replace(good.find("[4,6]"), 5, "[4,7]");
    good += 'c';
    ASSERT_HN_OK(parse(good, &f));
    ASSERT_EQ(hn_st_count(f), 3);
    EXPECT_STREQ(hn_st_at(f, 0)->name, "s");
    EXPECT_STREQ(hn_st_at(f, 1)->name, "e");
    EXPECT_STREQ(hn_st_at(f, 2)->name, "z");
    EXPECT_EQ(hn_st_at(f, 3), nullptr);
    EXPECT_EQ(hn_st_at(f, -1), nullptr);
    EXPECT_EQ(hn_st_elements(hn_st_find(f, "s")), 1);
    EXPECT_EQ(hn_st_elements(hn_st_find(f, "e")), 0);
    EXPECT_EQ(hn_st_find(f, "z")->n_bytes, 3u);
    EXPECT_EQ(hn_st_find(f, "nothing"), nullptr);
    EXPECT_EQ(hn_st_find(f, "__metadata__"), nullptr);
    EXPECT_STREQ(hn_st_metadata(f, "format"), "pt");
    EXPECT_EQ(hn_st_metadata(f, "other"), nullptr);
    float one_value = 0;
    EXPECT_HN_OK(hn_st_convert(hn_st_find(f, "s"), HN_F32, &one_value));
    EXPECT_EQ(one_value, 1.0f);
    hn_st_close(f);
    ASSERT_HN_OK(parse(bytes_of("{}"), &f));
    EXPECT_EQ(hn_st_count(f), 0);
    EXPECT_EQ(hn_st_find(f, "s"), nullptr);
    EXPECT_EQ(hn_st_metadata(f, "format"), nullptr);
    hn_st_close(f);
}

TEST(SafetensorsRead, NamesAMissingFile)
{
    hn_st_file *f = nullptr;
    EXPECT_HN_FAIL(hn_st_open("/nonexistent/m.safetensors", &f), HN_ERR_IO, "/nonexistent");
}

TEST(SafetensorsRead, SurvivesEveryFailedAllocation)
{
    const std::string bytes = bytes_of(one("U8", "[4]", "[0,4]"), "1234");
    for (uint64_t n = 1;; n++) {
        hn_st_file *f = nullptr;
        hn_alloc_fail_at(n);
        const hn_status st = parse(bytes, &f);
        hn_alloc_fail_at(0);
        hn_st_close(f);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY);
        ASSERT_LT(n, 50u);
    }
}

TEST(SafetensorsRead, ReadsTheGoldenModel)
{
    HN_NEED_DATA(path, "stories260k/model.safetensors");
    hn_st_file *f = nullptr;
    ASSERT_HN_OK(hn_st_open(path.c_str(), &f));
    const hn_st_tensor *t = hn_st_find(f, "model.embed_tokens.weight");
    ASSERT_NE(t, nullptr);
    EXPECT_EQ(t->ndim, 2);
    std::vector<float> v((size_t)hn_st_elements(t));
    EXPECT_HN_OK(hn_st_convert(t, HN_F32, v.data()));
    EXPECT_STREQ(hn_st_where(f), path.c_str());
    hn_st_close(f);
}

/* ---- writing ---- */

const char *const kPt[][2] = {{"format", "pt"}};

hn_st_entry entry(const char *name, hn_st_dtype t, std::vector<int64_t> dim, const void *data)
{
    hn_st_entry e = {};
    e.name = name, e.dtype = t, e.ndim = (int)dim.size(), e.data = data;
    for (size_t i = 0; i < dim.size(); i++) e.dim[i] = dim[i];
    return e;
}

/* SHA-256 of what safetensors 0.8.0 (Python) writes for the same six arrays. */
const char kPythonDigest[] = "b83b64e2811623a0ea3ec63ad0eb0ca75e2d16c1d73e351e54c1c2deefd0b36d";

TEST(SafetensorsSave, WritesTheBytesOfThePythonLibrary)
{
    TempDir dir;
    const std::string path = dir / "a.safetensors";
    const float f[4] = {1, 2, 3, 4};
    const int64_t i[2] = {-1, 5};
    const uint8_t u[3] = {1, 2, 3};
    const uint16_t h[2] = {0x3c00, 0xc000};
    const hn_st_entry entries[] = {
        entry("b", HN_ST_F32, {2, 2}, f), entry("a\"\\\n\x01/\x7f", HN_ST_U8, {3}, u),
        entry("h", HN_ST_F16, {2, 1}, h), entry("\xc3\xa9", HN_ST_F32, {}, f),
        entry("z", HN_ST_I64, {2}, i),    entry("empty", HN_ST_F32, {0, 7}, nullptr),
    };
    uint64_t n_bytes = 0;
    char hex[HN_SHA256_HEX];
    ASSERT_HN_OK(hn_st_save(path.c_str(), entries, 6, kPt, 1, &n_bytes, hex));
    const std::string got = read_file(path);
    EXPECT_EQ(got.size(), n_bytes);
    EXPECT_STREQ(hex, kPythonDigest);
    hn_st_file *file = nullptr;
    ASSERT_HN_OK(hn_st_open(path.c_str(), &file));
    EXPECT_STREQ(hn_st_at(file, 0)->name, "z");
    EXPECT_EQ(std::memcmp(hn_st_find(file, "b")->data, f, sizeof f), 0);
    for (int64_t k = 0; k < hn_st_count(file); k++) {
        const hn_st_tensor *t = hn_st_at(file, k);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(t->data) * 8 % (size_t)hn_st_dtype_bits(t->dtype),
                  0u);
    }
    hn_st_close(file);
}

TEST(SafetensorsSave, WritesAnEmptyFileAsThePythonLibraryDoes)
{
    TempDir dir;
    const std::string path = dir / "a.safetensors";
    ASSERT_HN_OK(hn_st_save(path.c_str(), nullptr, 0, nullptr, 0, nullptr, nullptr));
    EXPECT_EQ(read_file(path), bytes_of("{}      "));
    ASSERT_HN_OK(hn_st_save(path.c_str(), nullptr, 0, kPt, 1, nullptr, nullptr));
    EXPECT_EQ(read_file(path), bytes_of("{\"__metadata__\":{\"format\":\"pt\"}}"));
}

TEST(SafetensorsSave, LeavesOutThePitch)
{
    TempDir dir;
    const std::string path = dir / "a.safetensors";
    const uint8_t padded[3 * 4] = {1, 2, 3, 99, 4, 5, 6, 99, 7, 8, 9, 99};
    hn_st_entry e = entry("w", HN_ST_U8, {3, 3}, padded);
    e.pitch = 4;
    ASSERT_HN_OK(hn_st_save(path.c_str(), &e, 1, nullptr, 0, nullptr, nullptr));
    hn_st_file *f = nullptr;
    ASSERT_HN_OK(hn_st_open(path.c_str(), &f));
    EXPECT_EQ(std::memcmp(hn_st_at(f, 0)->data, "\1\2\3\4\5\6\7\10\11", 9), 0);
    hn_st_close(f);
}

TEST(SafetensorsSave, RefusesWhatTheReaderWouldRefuse)
{
    TempDir dir;
    const std::string path = dir / "a.safetensors";
    const uint8_t u[8] = {};
    const auto save = [&](const hn_st_entry &e) {
        return hn_st_save(path.c_str(), &e, 1, nullptr, 0, nullptr, nullptr);
    };
    const hn_st_entry twice[] = {entry("w", HN_ST_U8, {1}, u), entry("v", HN_ST_U8, {1}, u),
                                 entry("w", HN_ST_F32, {1}, u)};
    EXPECT_HN_FAIL(hn_st_save(path.c_str(), twice, 3, nullptr, 0, nullptr, nullptr), HN_ERR_ARG,
                   "two tensors are called 'w'");
    EXPECT_HN_FAIL(save(entry("__metadata__", HN_ST_U8, {1}, u)), HN_ERR_ARG, "__metadata__");
    EXPECT_HN_FAIL(save(entry("\xff", HN_ST_U8, {1}, u)), HN_ERR_ARG, "name of a tensor");
    EXPECT_HN_FAIL(save(entry("w", HN_ST_U8, {-1}, u)), HN_ERR_ARG, "dimension 0 is -1");
    EXPECT_HN_FAIL(save(entry("w", HN_ST_F4, {3}, u)), HN_ERR_ARG, "12 bits");
    EXPECT_HN_FAIL(save(entry("w", HN_ST_U8, {1}, nullptr)), HN_ERR_ARG, "no data");
    hn_st_entry narrow = entry("w", HN_ST_F32, {1, 2}, u);
    narrow.pitch = 4;
    EXPECT_HN_FAIL(save(narrow), HN_ERR_ARG, "pitch 4");
    const char *const metadata[][2] = {{"a", "1"}, {"a", "2"}};
    EXPECT_HN_FAIL(hn_st_save(path.c_str(), nullptr, 0, metadata, 2, nullptr, nullptr), HN_ERR_ARG,
                   "'a' twice");
    EXPECT_TRUE(std::filesystem::is_empty(dir.str()));
}

TEST(SafetensorsSave, LeavesTheOldFileWhenTheDiskIsFull)
{
    if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
    TempDir dir;
    const std::string path = dir / "a.safetensors";
    write_file(path, "old");
    std::filesystem::create_symlink("/dev/full", path + ".tmp-" + std::to_string(getpid()));
    const std::vector<float> big(1 << 18);
    const hn_st_entry e = entry("w", HN_ST_F32, {1 << 18}, big.data());
    EXPECT_HN_FAIL(hn_st_save(path.c_str(), &e, 1, kPt, 1, nullptr, nullptr), HN_ERR_WRITE,
                   "No space");
    EXPECT_EQ(read_file(path), "old");
}

TEST(SafetensorsSave, SurvivesEveryFailedAllocation)
{
    TempDir dir;
    const std::string path = dir / "a.safetensors";
    const uint8_t u[1] = {7};
    const hn_st_entry e = entry("w", HN_ST_U8, {1}, u);
    for (uint64_t n = 1;; n++) {
        hn_alloc_fail_at(n);
        const hn_status st = hn_st_save(path.c_str(), &e, 1, kPt, 1, nullptr, nullptr);
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        ASSERT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        for (const auto &left : std::filesystem::directory_iterator(dir.str()))
            ASSERT_EQ(left.path().filename(), "a.safetensors") << n;
        ASSERT_LT(n, 50u);
    }
    EXPECT_TRUE(std::filesystem::exists(path));
}

/* ---- conversion ---- */

hn_st_tensor tensor(hn_st_dtype t, int64_t n, const void *data)
{
    hn_st_tensor v = {};
    v.name = "w", v.dtype = t, v.ndim = 1, v.dim[0] = n, v.data = data;
    v.n_bytes = (size_t)(n * hn_st_dtype_bits(t) / 8);
    return v;
}

TEST(SafetensorsConvert, RoundsOnceAndReadsUnalignedData)
{
    const size_t n = 1500; /* three blocks, the last one part-filled */
    std::vector<float> x = normal_f32(n, 3);
    std::string raw(1, '?');
    raw.append(reinterpret_cast<const char *>(x.data()), n * 4);
    std::vector<hn_bf16> b(n);
    std::vector<hn_f16> h(n);
    std::vector<float> same(n), back(n);
    const hn_st_tensor t = tensor(HN_ST_F32, (int64_t)n, raw.data() + 1);
    ASSERT_HN_OK(hn_st_convert(&t, HN_F32, same.data()));
    ASSERT_HN_OK(hn_st_convert(&t, HN_BF16, b.data()));
    ASSERT_HN_OK(hn_st_convert(&t, HN_F16, h.data()));
    const hn_st_tensor tb = tensor(HN_ST_BF16, (int64_t)n, b.data());
    ASSERT_HN_OK(hn_st_convert(&tb, HN_F32, back.data()));
    for (size_t i = 0; i < n; i++) {
        ASSERT_EQ(same[i], x[i]);
        ASSERT_EQ(b[i].bits, hn_bf16_from_f32(x[i]).bits);
        ASSERT_EQ(h[i].bits, hn_f16_from_f32(x[i]).bits);
        ASSERT_EQ(back[i], hn_bf16_to_f32(b[i]));
    }
}

TEST(SafetensorsConvert, RoundsDoublesOnce)
{
    /* Just above the middle between two bf16 values: by way of a float it would round down. */
    const double d[] = {1.0 + 0x1p-8 + 0x1p-40, -(1.0 + 0x1p-8 + 0x1p-40), 1.0 + 0x1p-8, 1.0};
    hn_bf16 b[4];
    const hn_st_tensor t = tensor(HN_ST_F64, 4, d);
    ASSERT_HN_OK(hn_st_convert(&t, HN_BF16, b));
    EXPECT_EQ(hn_bf16_to_f32(b[0]), 1.0f + 0x1p-7f);
    EXPECT_EQ(hn_bf16_to_f32(b[1]), -1.0f - 0x1p-7f);
    EXPECT_EQ(hn_bf16_to_f32(b[2]), 1.0f);
    EXPECT_EQ(hn_bf16_to_f32(b[3]), 1.0f);
}

TEST(SafetensorsConvert, RefusesAFiniteValueThatBecomesInfinite)
{
    float x[] = {1, INFINITY, NAN, 65519, 65520};
    hn_f16 h[5];
    hn_st_tensor t = tensor(HN_ST_F32, 4, x);
    EXPECT_HN_OK(hn_st_convert(&t, HN_F16, h));
    EXPECT_TRUE(std::isinf(hn_f16_to_f32(h[1])));
    EXPECT_TRUE(std::isnan(hn_f16_to_f32(h[2])));
    t = tensor(HN_ST_F32, 5, x);
    EXPECT_HN_FAIL(hn_st_convert(&t, HN_F16, h), HN_ERR_NUMERIC, "'w' (F32): element 4");
    const double d[] = {1e39};
    float f;
    t = tensor(HN_ST_F64, 1, d);
    EXPECT_HN_FAIL(hn_st_convert(&t, HN_F32, &f), HN_ERR_NUMERIC, "element 0");
}

TEST(SafetensorsConvert, ChecksTheRangeOfIntegers)
{
    const int64_t big[] = {INT32_MIN, INT32_MAX, (int64_t)INT32_MAX + 1};
    int32_t i32[3];
    hn_st_tensor t = tensor(HN_ST_I64, 2, big);
    ASSERT_HN_OK(hn_st_convert(&t, HN_I32, i32));
    EXPECT_EQ(i32[0], INT32_MIN);
    t = tensor(HN_ST_I64, 3, big);
    EXPECT_HN_FAIL(hn_st_convert(&t, HN_I32, i32), HN_ERR_NUMERIC, "element 2");
    const uint64_t huge[] = {UINT64_MAX};
    int64_t i64 = 0;
    t = tensor(HN_ST_U64, 1, huge);
    EXPECT_HN_FAIL(hn_st_convert(&t, HN_I64, &i64), HN_ERR_NUMERIC, "i64");
    const int8_t negative[] = {5, -1};
    uint8_t u8[2];
    t = tensor(HN_ST_I8, 1, negative);
    EXPECT_HN_OK(hn_st_convert(&t, HN_U8, u8));
    t = tensor(HN_ST_I8, 2, negative);
    EXPECT_HN_FAIL(hn_st_convert(&t, HN_U8, u8), HN_ERR_NUMERIC, "element 1");
}

TEST(SafetensorsConvert, RefusesOtherPairs)
{
    const int32_t i = 1;
    float f = 0;
    hn_st_tensor t = tensor(HN_ST_I32, 1, &i);
    EXPECT_HN_FAIL(hn_st_convert(&t, HN_F32, &f), HN_ERR_UNSUPPORTED, "'w': no conversion");
    t = tensor(HN_ST_F8_E4M3, 1, &i);
    EXPECT_HN_FAIL(hn_st_convert(&t, HN_F32, &f), HN_ERR_UNSUPPORTED, "F8_E4M3");
    EXPECT_HN_OK(hn_st_convert(&t, HN_F8_E4M3, &f));
    t = tensor(HN_ST_F32, 1, &f);
    EXPECT_HN_FAIL(hn_st_convert(&t, HN_I32, &f), HN_ERR_UNSUPPORTED, "i32");
}

} // namespace
