/* runtime/file/gap_code.h and sparse_pack.h: round trips, sizes, and hostile files. */
#include "runtime/file/sparse_pack.h"

#include <functional>
#include <memory>
#include <numeric>

#include "hn_test.h"
#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/file/gap_code.h"

namespace {

using Ids = std::vector<int32_t>;
using Bytes = std::vector<uint8_t>;

Bytes encode(const Ids &id, int k)
{
    uint8_t *bytes = nullptr;
    int64_t n = 0;
    EXPECT_HN_OK(hn_gap_encode(id.data(), (int64_t)id.size(), k, &bytes, &n));
    Bytes out(bytes, bytes + n);
    hn_free(bytes);
    return out;
}

/* Exactly as large as needed, so that a sanitizer sees a byte too far. */
hn_status decode(const Bytes &bytes, size_t n, int64_t range, int k, Ids *id)
{
    std::unique_ptr<uint8_t[]> exact(new uint8_t[bytes.size()]);
    std::copy(bytes.begin(), bytes.end(), exact.get());
    id->assign(n, -1);
    return hn_gap_decode(exact.get(), (int64_t)bytes.size(), (int64_t)n, range, k, "w", id->data());
}

TEST(GapCode, ByHand)
{
    /* gaps 0, 2, 5 with k = 1: "0 0", "10 0", "110 1" -> 0 0 1 0 0 1 1 0 1, lowest bit first */
    EXPECT_EQ(encode({0, 3, 9}, 1), (Bytes{0x64, 0x01}));
    EXPECT_EQ(encode({0, 1, 2, 3, 4, 5, 6, 7}, 0), (Bytes{0})); /* a bit each */
    EXPECT_EQ(encode({}, 5), (Bytes{}));
    EXPECT_EQ(hn_gap_k(10, 1000), 6); /* 0.69 / 0.01 = 69 */
    EXPECT_EQ(hn_gap_k(1, 1000), 9);
    EXPECT_EQ(hn_gap_k(1000, 1000), 0);
    EXPECT_EQ(hn_gap_k(0, 1000), HN_GAP_MAX_K);
    EXPECT_EQ(hn_gap_k(1, INT32_MAX), 30);
}

TEST(GapCode, RoundTripsAtEveryDensity)
{
    std::mt19937 rng(1);
    for (double density : {1e-5, 0.001, 0.01, 0.1, 0.35, 0.5, 0.9, 1.0}) {
        const int64_t range = 200000;
        std::uniform_real_distribution<double> d(0, 1);
        Ids id, back;
        for (int64_t i = 0; i < range; i++)
            if (d(rng) < density) id.push_back((int32_t)i);
        const int k = hn_gap_k((int64_t)id.size(), range);
        const Bytes bytes = encode(id, k);
        ASSERT_HN_OK(decode(bytes, id.size(), range, k, &back));
        EXPECT_TRUE(back == id);
        /* within 5 % of the entropy where that is not dominated by the last byte */
        if (density < 0.001 || density > 0.3) continue;
        const double h = -std::log2(density) - (1 - density) / density * std::log2(1 - density);
        EXPECT_LT(8.0 * (double)bytes.size() / (double)id.size(), 1.05 * h) << density;
    }
    Ids far = {0, INT32_MAX - 1}, back;
    for (int k : {20, 25, 30}) {
        ASSERT_HN_OK(decode(encode(far, k), 2, INT32_MAX, k, &back));
        EXPECT_EQ(back, far);
    }
}

TEST(GapCode, RefusesOtherBytes)
{
    const Ids id = {3, 4, 90, 91, 700};
    const Bytes good = encode(id, 4);
    Ids back;
    EXPECT_HN_FAIL(decode(good, 5, 700, 4, &back), HN_ERR_FORMAT, "id 4 of 5 is at or above 700");
    EXPECT_HN_FAIL(decode(good, 6, 1000, 4, &back), HN_ERR_FORMAT, "w: ");
    EXPECT_HN_FAIL(decode(good, 4, 1000, 4, &back), HN_ERR_FORMAT, "left over");
    Bytes longer = good;
    longer.push_back(0);
    EXPECT_HN_FAIL(decode(longer, 5, 1000, 4, &back), HN_ERR_FORMAT, "left over");
    EXPECT_HN_FAIL(decode(Bytes(good.begin(), good.end() - 1), 5, 1000, 4, &back), HN_ERR_FORMAT,
                   "ends inside id 4");
    EXPECT_HN_FAIL(decode(Bytes(100, 0xff), 1, INT32_MAX, 30, &back), HN_ERR_FORMAT, "at or above");
    EXPECT_HN_FAIL(decode({}, 1, 10, 0, &back), HN_ERR_FORMAT, "ends inside id 0");
    uint8_t *bytes = nullptr;
    int64_t n = 0;
    for (const Ids &bad : {Ids{-1}, Ids{1, 1}, Ids{5, 2}})
        EXPECT_HN_FAIL(hn_gap_encode(bad.data(), (int64_t)bad.size(), 2, &bytes, &n), HN_ERR_ARG,
                       "not above");
    EXPECT_EQ(bytes, nullptr);
}

/* Whatever bytes there are: refused, or the only code of what was read. */
TEST(GapCode, RandomBytesAreRefusedOrCanonical)
{
    std::mt19937 rng(2);
    int accepted = 0;
    for (int round = 0; round < 20000; round++) {
        Bytes bytes(rng() % 6);
        for (auto &b : bytes) b = (uint8_t)rng();
        const int k = (int)(rng() % 5);
        const size_t n = rng() % 12;
        Ids id;
        if (decode(bytes, n, 64, k, &id) != HN_OK) continue;
        accepted++;
        EXPECT_EQ(encode(id, k), bytes);
    }
    EXPECT_GT(accepted, 100);
}

/* ---- files ---- */

struct Matrix {
    std::string name;
    Ids id;
    std::vector<float> delta;
    hn_pack_matrix m;
    Matrix(std::string name_, int64_t out, int64_t in, int64_t br, int64_t bc, Ids id_,
           unsigned seed)
        : name(std::move(name_)), id(std::move(id_)),
          delta(normal_f32(id.size() * (size_t)(br * bc), seed, 0, 1e-3f))
    {
        m = {name.data(), out, in, br, bc, (int64_t)id.size(), id.data(), delta.data()};
    }
};

struct Writer : hn_pack_writer {
    Writer() : hn_pack_writer{} {}
    ~Writer() { hn_pack_writer_free(this); }
};

struct Pack : hn_pack {
    Pack() : hn_pack{} {}
    ~Pack() { hn_pack_free(this); }
};

void save(const std::string &path, std::initializer_list<const Matrix *> list, hn_dtype dtype)
{
    Writer w;
    for (const Matrix *m : list) ASSERT_HN_OK(hn_pack_add(&w, &m->m, dtype));
    json_t *manifest = json_pack("{s:s, s:{s:s}}", "kind", "sparse", "base", "name", "b");
    EXPECT_HN_OK(hn_pack_save(path.c_str(), &w, manifest));
    json_decref(manifest);
}

void expect_same(const hn_pack_matrix &got, const Matrix &want, bool rounded)
{
    EXPECT_EQ(got.name, want.name);
    EXPECT_EQ(got.out, want.m.out);
    EXPECT_EQ(got.in, want.m.in);
    EXPECT_EQ(got.br, want.m.br);
    EXPECT_EQ(got.bc, want.m.bc);
    ASSERT_EQ(got.n, want.m.n);
    EXPECT_EQ(Ids(got.id, got.id + got.n), want.id);
    for (size_t i = 0; i < want.delta.size(); i++)
        EXPECT_EQ(got.delta[i],
                  rounded ? hn_bf16_to_f32(hn_bf16_from_f32(want.delta[i])) : want.delta[i]);
}

TEST(SparsePack, RoundTripsBitForBit)
{
    TempDir dir;
    const Matrix one("layers.0.q.weight", 64, 32, 1, 1, {0, 5, 77, 2047}, 1),
        square("layers.0.v.weight", 64, 32, 16, 16, {1, 2, 7}, 2),
        rows("layers.0.up.weight", 64, 32, 1, 32, {63}, 3),
        none("layers.0.o.weight", 64, 32, 4, 4, {}, 4),
        full("layers.0.k.weight", 8, 4, 4, 4, {0, 1}, 5);
    for (hn_dtype dtype : {HN_F32, HN_BF16}) {
        const std::string path = dir / hn_dtype_name(dtype);
        save(path, {&one, &square, &rows, &none, &full}, dtype);
        Pack p;
        json_t *manifest = nullptr;
        ASSERT_HN_OK(hn_pack_load(path.c_str(), &p, &manifest));
        ASSERT_EQ(p.n, 5);
        const Matrix *const want[] = {&one, &square, &rows, &none, &full};
        for (int i = 0; i < 5; i++) expect_same(p.matrix[i], *want[i], dtype == HN_BF16);
        EXPECT_STREQ(json_string_value(json_object_get(manifest, "kind")), "sparse");
        const json_t *row = json_array_get(json_object_get(manifest, "tensors"), 0);
        EXPECT_STREQ(json_string_value(json_object_get(row, "encoding")), "sparse-add");
        row = json_array_get(json_object_get(manifest, "tensors"), 1);
        EXPECT_STREQ(json_string_value(json_object_get(row, "encoding")), "block");
        json_decref(manifest);
        save(dir / "again", {&one, &square, &rows, &none, &full}, dtype);
        EXPECT_EQ(read_file(path), read_file(dir / "again"));
    }
}

TEST(SparsePack, AppliesBlocksWhereTheyBelong)
{
    Matrix m("w", 4, 6, 2, 3, {1, 2}, 0);
    std::iota(m.delta.begin(), m.delta.end(), 1.0f);
    std::vector<float> w(24, 100.0f);
    hn_pack_apply(&m.m, w.data());
    EXPECT_EQ(w, (std::vector<float>{100, 100, 100, 101, 102, 103, 100, 100, 100, 104, 105, 106,
                                     107, 108, 109, 100, 100, 100, 110, 111, 112, 100, 100, 100}));
}

/* A matrix may have a row of values and one of changes, and no third. */
TEST(SparsePack, ValuesStandInPlaceOfWhatWasThere)
{
    TempDir dir;
    Matrix kept("w", 4, 6, 2, 3, {0, 1}, 3), one("v", 4, 6, 1, 1, {2, 23}, 4),
        change("w", 4, 6, 2, 3, {1, 2}, 5);
    kept.m.set = one.m.set = true;
    save(dir / "p", {&kept, &one, &change}, HN_F32);
    Pack p;
    json_t *manifest = nullptr;
    ASSERT_HN_OK(hn_pack_load((dir / "p").c_str(), &p, &manifest));
    ASSERT_EQ(p.n, 3);
    const Matrix *const want[] = {&kept, &one, &change};
    const char *const encoding[] = {"block-set", "sparse-set", "block"};
    std::vector<float> w(24, 100.0f);
    for (int i = 0; i < 3; i++) {
        expect_same(p.matrix[i], *want[i], false);
        EXPECT_EQ(p.matrix[i].set, i < 2);
        const json_t *row = json_array_get(json_object_get(manifest, "tensors"), (size_t)i);
        EXPECT_STREQ(json_string_value(json_object_get(row, "encoding")), encoding[i]);
        EXPECT_TRUE(hn_pack_is_row(row));
        if (i != 1) hn_pack_apply(&p.matrix[i], w.data());
    }
    json_decref(manifest);
    EXPECT_EQ(w[0], kept.delta[0]);
    EXPECT_EQ(w[3], kept.delta[6] + change.delta[0]);
    EXPECT_EQ(w[12], 100.0f + change.delta[6]);
    EXPECT_EQ(w[23], 100.0f);
}

/* spec/delta.md 4: SHiRA's 9,175,040 values of a 3B model take 105.0 MiB there, about 42 MiB here
 * and 25 MiB in bf16: the same density and 1/64 of the size. */
TEST(SparsePack, TakesWhatTheSpecificationExpects)
{
    TempDir dir;
    std::mt19937 rng(7);
    Ids id;
    for (int32_t i = 0; i < 3072 * 1024; i++)
        if (rng() % 1000 < 21) id.push_back(i);
    const Matrix m("w", 3072, 1024, 1, 1, id, 8);
    for (hn_dtype dtype : {HN_F32, HN_BF16}) {
        save(dir / "p", {&m}, dtype);
        const double bits = 8 * (double)std::filesystem::file_size(dir / "p") / (double)id.size();
        EXPECT_NEAR(bits, dtype == HN_F32 ? 39.1 : 23.1, 0.3);
    }
}

TEST(SparsePack, RefusesToWriteNonsense)
{
    Writer w;
    Matrix m("w", 64, 32, 16, 16, {1, 2, 7}, 2);
    m.m.br = 15;
    EXPECT_HN_FAIL(hn_pack_add(&w, &m.m, HN_F32), HN_ERR_ARG, "w: 3 blocks of 15 x 16");
    m.m.br = 16;
    m.id[2] = 8;
    EXPECT_HN_FAIL(hn_pack_add(&w, &m.m, HN_F32), HN_ERR_ARG, "in [64, 32]");
    m.id[2] = 2;
    EXPECT_HN_FAIL(hn_pack_add(&w, &m.m, HN_F32), HN_ERR_ARG, "id 2");
    m.id[2] = 7;
    EXPECT_HN_FAIL(hn_pack_add(&w, &m.m, HN_F16), HN_ERR_UNSUPPORTED, "f16");
    m.delta[5] = NAN;
    EXPECT_HN_FAIL(hn_pack_add(&w, &m.m, HN_F32), HN_ERR_NUMERIC, "value 5");
    m.delta[5] = 3.4e38f;
    EXPECT_HN_FAIL(hn_pack_add(&w, &m.m, HN_BF16), HN_ERR_NUMERIC, "in bf16");
}

/* A file whose row in the manifest is changed by `edit`. */
hn_status load_edited(const std::string &path, const std::function<void(json_t *)> &edit)
{
    const Matrix m("w", 64, 32, 16, 16, {1, 2, 7}, 2);
    Writer w;
    EXPECT_HN_OK(hn_pack_add(&w, &m.m, HN_F32));
    edit(json_array_get(w.tensors, 0));
    EXPECT_HN_OK(hn_pack_save(path.c_str(), &w, nullptr));
    Pack p;
    const hn_status st = hn_pack_load(path.c_str(), &p, nullptr);
    EXPECT_EQ(p.matrix == nullptr, st != HN_OK);
    return st;
}

json_t *ints(json_int_t a, json_int_t b) { return json_pack("[I, I]", a, b); }

TEST(SparsePack, RefusesHostileManifests)
{
    TempDir dir;
    const std::string path = dir / "p";
    const auto with = [&](const char *key, json_t *value) {
        return load_edited(path, [&](json_t *row) { json_object_set_new(row, key, value); });
    };
    EXPECT_HN_OK(load_edited(path, [](json_t *) {}));
    EXPECT_HN_FAIL(with("shape", ints(64, 33)), HN_ERR_FORMAT, "change of 'w': blocks of 16 x 16");
    EXPECT_HN_FAIL(with("shape", ints(INT64_MAX, INT64_MAX)), HN_ERR_FORMAT, "blocks of");
    EXPECT_HN_FAIL(with("shape", ints(INT32_MAX - 15, 1 << 30)), HN_ERR_FORMAT, "blocks of");
    EXPECT_HN_FAIL(with("shape", ints(32, 32)), HN_ERR_FORMAT, "at or above 4");
    EXPECT_HN_FAIL(with("block", ints(0, 16)), HN_ERR_FORMAT, "blocks of 0");
    EXPECT_HN_FAIL(with("block", ints(-16, 16)), HN_ERR_FORMAT, "blocks of -16");
    EXPECT_HN_FAIL(with("block", ints(32, 32)), HN_ERR_FORMAT, "'count' is 3");
    EXPECT_HN_FAIL(with("block", json_integer(16)), HN_ERR_FORMAT, "pair of integers");
    EXPECT_HN_FAIL(with("encoding", json_string("sparse-add")), HN_ERR_FORMAT, "sparse-add");
    EXPECT_HN_FAIL(with("encoding", json_string("dense")), HN_ERR_FORMAT, "'dense'");
    EXPECT_HN_FAIL(with("encoding", json_string("sparse-set")), HN_ERR_FORMAT, "'.kept_ids'");
    EXPECT_HN_FAIL(with("count", json_integer(2)), HN_ERR_FORMAT, "[2, 256]");
    EXPECT_HN_FAIL(with("count", json_integer(9)), HN_ERR_FORMAT, "'count' is 9");
    EXPECT_HN_FAIL(with("count", json_integer(-1)), HN_ERR_FORMAT, "'count'");
    EXPECT_HN_FAIL(with("gap_k", json_integer(31)), HN_ERR_FORMAT, "'gap_k' is 31");
    EXPECT_HN_FAIL(with("gap_k", json_integer(1)), HN_ERR_FORMAT, "at or above 8");
    EXPECT_HN_FAIL(with("base_name", json_string("v")), HN_ERR_FORMAT, "is not its name");
    EXPECT_HN_FAIL(with("base_name", json_integer(3)), HN_ERR_FORMAT, "'base_name'");
    EXPECT_HN_FAIL(with("parts", json_pack("[s]", "w.sparse_ids")), HN_ERR_FORMAT, "'parts'");
    EXPECT_HN_FAIL(with("parts", json_pack("[s,s]", "w.sparse_delta", "w.sparse_ids")),
                   HN_ERR_FORMAT, "'parts'");
}

TEST(SparsePack, RefusesRowsTwiceAndTensorsThatNobodyNames)
{
    TempDir dir;
    const std::string path = dir / "p";
    const Matrix m("w", 64, 32, 16, 16, {1, 2, 7}, 2), v("v", 64, 32, 16, 16, {1}, 2);
    Writer w;
    ASSERT_HN_OK(hn_pack_add(&w, &m.m, HN_F32));
    ASSERT_HN_OK(hn_pack_add(&w, &v.m, HN_F32));
    Pack p;
    json_array_set(w.tensors, 1, json_array_get(w.tensors, 0));
    ASSERT_HN_OK(hn_pack_save(path.c_str(), &w, nullptr));
    EXPECT_HN_FAIL(hn_pack_load(path.c_str(), &p, nullptr), HN_ERR_FORMAT, "two changes of 'w'");
    json_array_remove(w.tensors, 1);
    ASSERT_HN_OK(hn_pack_save(path.c_str(), &w, nullptr));
    EXPECT_HN_FAIL(hn_pack_load(path.c_str(), &p, nullptr), HN_ERR_FORMAT,
                   "4 tensors, its manifest names 2");
    json_t *manifest = json_pack("{s:i}", "format_version", 2);
    ASSERT_HN_OK(hn_pack_save(path.c_str(), &w, manifest));
    json_decref(manifest);
    EXPECT_HN_FAIL(hn_pack_load(path.c_str(), &p, nullptr), HN_ERR_FORMAT, "'format_version' is 2");
    const hn_st_entry e = {.name = "x", .dtype = HN_ST_U8, .ndim = 1, .dim = {1}, .data = "x"};
    ASSERT_HN_OK(hn_st_save(path.c_str(), &e, 1, nullptr, 0, nullptr, nullptr));
    EXPECT_HN_FAIL(hn_pack_load(path.c_str(), &p, nullptr), HN_ERR_FORMAT, "no delta.manifest");
}

/* Every flipped bit of the file, and every length of it: refused, or read as something that keeps
 * the rules (a flipped bit of a value is a value; a digest is the checkpoint's business). */
TEST(SparsePack, SurvivesFlippedBitsAndCuts)
{
    TempDir dir;
    const std::string path = dir / "p";
    const Matrix m("w", 64, 32, 4, 4, {1, 2, 7, 99}, 2), v("v", 16, 16, 1, 1, {3, 200}, 3);
    save(path, {&m, &v}, HN_BF16);
    const std::string good = read_file(path);
    int refused = 0, read = 0;
    const auto attempt = [&](const std::string &bytes) {
        write_file(path, bytes);
        Pack p;
        const hn_status st = hn_pack_load(path.c_str(), &p, nullptr);
        if (st != HN_OK) {
            refused++;
            EXPECT_TRUE(st == HN_ERR_FORMAT || st == HN_ERR_NUMERIC || st == HN_ERR_UNSUPPORTED)
                << hn_last_error();
            return;
        }
        read++;
        for (int64_t i = 0; i < p.n; i++) {
            const hn_pack_matrix &q = p.matrix[i];
            std::vector<float> w((size_t)(q.out * q.in), 0.0f);
            hn_pack_apply(&q, w.data()); /* within bounds */
            for (int64_t b = 1; b < q.n; b++) EXPECT_LT(q.id[b - 1], q.id[b]);
        }
    };
    for (size_t i = 0; i < good.size(); i++)
        for (int b = 0; b<8; b += good.size()> 800 && i > 8 ? 3 : 1) {
            std::string bytes = good;
            bytes[i] = (char)(bytes[i] ^ 1 << b);
            attempt(bytes);
        }
    EXPECT_GT(refused, 100);
    EXPECT_GT(read, 100);
    read = 0;
    for (size_t n = 0; n < good.size(); n += 7) attempt(good.substr(0, n));
    EXPECT_EQ(read, 0);
}

TEST(SparsePack, LosesNothingWhenMemoryRunsOut)
{
    TempDir dir;
    const Matrix m("w", 64, 32, 4, 4, {1, 2, 7, 99}, 2);
    for (uint64_t nth = 1;; nth++) {
        Writer w;
        Pack p;
        hn_alloc_fail_at(nth);
        hn_status st = hn_pack_add(&w, &m.m, HN_BF16);
        if (st == HN_OK) st = hn_pack_save((dir / "p").c_str(), &w, nullptr);
        if (st == HN_OK) st = hn_pack_load((dir / "p").c_str(), &p, nullptr);
        hn_alloc_fail_at(0);
        if (st == HN_OK) break;
        EXPECT_EQ(st, HN_ERR_MEMORY) << hn_last_error();
        ASSERT_LT(nth, 300u);
    }
}

} // namespace
