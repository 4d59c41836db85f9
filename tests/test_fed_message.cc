/* runtime/fed/layout, compress and message: what travels, and bytes that somebody else wrote. */
#include <algorithm>
#include <functional>
#include <numeric>

#include "fed_test.h"
#include "runtime/base/alloc.h"

namespace {

struct Bytes {
    hn_fed_bytes b = {};
    Bytes() = default;
    Bytes(const Bytes &) = delete;
    ~Bytes() { hn_fed_bytes_free(&b); }
    std::vector<uint8_t> vector() const { return {b.data, b.data + b.n}; }
};

/* ---- layout ---- */

TEST(FedLayout, TensorsLieEndToEnd)
{
    Layout l;
    fill_small(l);
    EXPECT_EQ(l.l.count, 7);
    EXPECT_EQ(l.l.n, 216 + 8 + 1 + 5000 + 1 + 10 + 1);
    EXPECT_EQ(l.l.values, 216 + 5000 + 1 + 10);
    int64_t first = 0, value = 0;
    for (int64_t i = 0; i < l.l.count; i++) {
        const hn_fed_tensor &t = l.l.tensor[i];
        EXPECT_EQ(t.first, first);
        EXPECT_EQ(t.value, t.role == HN_FED_VALUE ? value : -1);
        for (const int64_t at : {first, first + t.n - 1}) EXPECT_EQ(hn_fed_layout_at(&l.l, at), &t);
        EXPECT_EQ(hn_fed_layout_find(&l.l, t.name), &t);
        first += t.n;
        if (t.role == HN_FED_VALUE) value += t.n;
    }
    EXPECT_EQ(hn_fed_layout_find(&l.l, "absent"), nullptr);
}

TEST(FedLayout, RefusesBadTensors)
{
    Layout l;
    fill_small(l);
    const int64_t ok[] = {3}, zero[] = {3, 0}, minus[] = {-1}, huge[] = {INT64_MAX / 4, 2},
                  most[] = {INT64_MAX}, seven[7] = {1, 1, 1, 1, 1, 1, 1};
    auto refused = [&](const char *name, int ndim, const int64_t *dim, const char *part) {
        EXPECT_HN_FAIL(hn_fed_layout_add(&l.l, name, ndim, dim, HN_FED_VALUE), HN_ERR_ARG, part);
    };
    refused("scale", 1, ok, "a second tensor of the name scale");
    refused("", 1, ok, "tensor 7 has no name");
    refused("x", 2, zero, "tensor x: dimension 1 is 0");
    refused("x", 1, minus, "tensor x: dimension 0 is -1");
    refused("x", 2, huge, "tensor x: dimension 0");
    refused("x", 1, most, "tensor x: dimension 0");
    refused("x", 7, seven, "tensor x: 7 dimensions, at most 6");
    refused("x", -1, nullptr, "-1 dimensions");
    EXPECT_EQ(l.l.count, 7);
}

/* Names, shapes, roles, order, binding: a change of any is another layout. */
TEST(FedLayout, DigestSeesEveryChange)
{
    std::vector<std::string> seen;
    auto digest = [&](const std::function<void(Layout &)> &fill) {
        Layout l;
        char hex[HN_SHA256_HEX];
        fill(l);
        EXPECT_HN_OK(hn_fed_layout_digest(&l.l, hex));
        seen.push_back(hex);
    };
    digest([](Layout &l) { l.add("a", {2, 3}), l.add("b", {4}); });
    digest([](Layout &l) { l.add("b", {4}), l.add("a", {2, 3}); });
    digest([](Layout &l) { l.add("a", {3, 2}), l.add("b", {4}); });
    digest([](Layout &l) { l.add("a", {6}), l.add("b", {4}); });
    digest([](Layout &l) { l.add("a", {2, 3}), l.add("c", {4}); });
    digest([](Layout &l) { l.add("a", {2, 3}), l.add("b", {4}, HN_FED_BUFFER); });
    digest([](Layout &l) { l.add("a", {2, 3}); });
    digest([](Layout &l) { l.add("a", {2, 3}), l.add("b", {4}), l.add("c", {}); });
    digest([](Layout &l) {
        l.add("a", {2, 3}), l.add("b", {4});
        EXPECT_HN_OK(hn_fed_layout_bind(&l.l, "support 1"));
    });
    digest([](Layout &l) {
        l.add("a", {2, 3}), l.add("b", {4});
        EXPECT_HN_OK(hn_fed_layout_bind(&l.l, "support 1"));
        EXPECT_HN_OK(hn_fed_layout_bind(&l.l, "support 2"));
    });
    auto sorted = seen;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(std::unique(sorted.begin(), sorted.end()), sorted.end());
    digest([](Layout &l) { l.add("a", {2, 3}), l.add("b", {4}); });
    EXPECT_EQ(seen.back(), seen.front());
}

/* ---- compression ---- */

TEST(FedCompress, TopKIsStdSortsFirst)
{
    std::mt19937 rng(3);
    std::normal_distribution<float> normal;
    for (const int n : {1, 2, 17, 1000, 5000}) {
        std::vector<float> x((size_t)n);
        for (float &v : x) v = std::round(normal(rng) * 64) / 64; /* many equal magnitudes */
        for (const int k : {1, n / 3, n - 1, n}) {
            if (k < 1) continue;
            std::vector<int32_t> order((size_t)n), id((size_t)k);
            std::iota(order.begin(), order.end(), 0);
            std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
                return std::fabs(x[(size_t)a]) > std::fabs(x[(size_t)b]);
            });
            order.resize((size_t)k);
            std::sort(order.begin(), order.end());
            std::vector<float> value((size_t)k);
            hn_fed_topk(x.data(), n, k, id.data(), value.data());
            ASSERT_EQ(id, order) << n << " " << k;
            for (size_t i = 0; i < id.size(); i++) ASSERT_EQ(value[i], x[(size_t)id[i]]);
        }
    }
}

TEST(FedCompress, TopKOfExtremes)
{
    const std::vector<float> x = {0, -0.0f, 1e-45f, -3e38f, 1e-38f, 2.5f, -2.5f, 3e38f};
    std::vector<int32_t> id(8);
    std::vector<float> value(8);
    hn_fed_topk(x.data(), 8, 1, id.data(), value.data());
    EXPECT_EQ(id[0], 3); /* of equal magnitudes the lower index */
    hn_fed_topk(x.data(), 8, 3, id.data(), value.data());
    EXPECT_EQ(std::vector<int32_t>(id.begin(), id.begin() + 3), (std::vector<int32_t>{3, 5, 7}));
    hn_fed_topk(x.data(), 8, 7, id.data(), value.data());
    EXPECT_EQ(std::vector<int32_t>(id.begin(), id.begin() + 7),
              (std::vector<int32_t>{0, 2, 3, 4, 5, 6, 7}));
}

TEST(FedCompress, Bf16RoundsToNearestEven)
{
    /* 1 + 2^-8 lies between 1 and 1 + 2^-7: to even, 1; 1 + 3 2^-8 between 1 + 2^-7 and 1 + 2^-6 */
    const std::vector<float> x = {1 + 0x1p-8f, 1 + 3 * 0x1p-8f, 1 + 0x1.02p-8f, -1 - 0x1p-8f};
    std::vector<uint16_t> bits(4);
    std::vector<float> rest(4);
    hn_fed_round_bf16(x.data(), 4, bits.data(), rest.data());
    EXPECT_EQ(bits, (std::vector<uint16_t>{0x3f80, 0x3f82, 0x3f81, 0xbf80}));
    EXPECT_EQ(rest, (std::vector<float>{0x1p-8f, -0x1p-8f, 0x1.02p-8f - 0x1p-7f, -0x1p-8f}));
}

/* ---- messages ---- */

struct Message : testing::Test {
    Layout l;
    std::vector<float> base, value, out, fisher_out;
    Client client;
    Bytes bytes;
    hn_fed_head head = {};
    Message()
    {
        fill_small(l);
        base = random_payload(l, 1);
        client = random_clients(l, base, 4, 3, 2, true)[1];
        client.client = 7;
        client.samples = 123;
        client.loss = 0.5f;
        out.assign(l.n(), NAN);
        fisher_out.assign(l.values(), NAN);
    }
    hn_status encode(hn_fed_encoding e, bool fisher, int64_t k = 0, bool with_base = true,
                     float *residual = nullptr)
    {
        const hn_fed_coding coding = {
            .encoding = e, .k = k, .base = with_base ? base.data() : nullptr, .residual = residual};
        hn_fed_update u = client.update(3);
        if (!fisher) u.fisher = nullptr;
        return hn_fed_encode_update(&l.l, &u, &coding, &bytes.b);
    }
    hn_status decode(bool fisher, int64_t round = 3, hn_fed_kind kind = HN_FED_UPDATE)
    {
        return hn_fed_decode(&l.l, bytes.b.data, bytes.b.n, kind, round, base.data(), &head,
                             out.data(), fisher ? fisher_out.data() : nullptr);
    }
    float &at(const char *name, int64_t i)
    {
        return client.value[(size_t)(hn_fed_layout_find(&l.l, name)->first + i)];
    }
    template <class T>
    void put(size_t offset, T v)
    {
        std::memcpy(bytes.b.data + offset, &v, sizeof v);
    }
};
using FedMessage = Message;

TEST_F(FedMessage, F32ComesBackBitForBit)
{
    at("fc.bias", 3) = -0.0f;
    at("fc.bias", 4) = 1e-45f;
    for (const bool fisher : {false, true}) {
        ASSERT_HN_OK(encode(HN_FED_F32, fisher));
        ASSERT_HN_OK(decode(fisher));
        EXPECT_TRUE(same_bits(out, client.value));
        if (fisher) {
            EXPECT_TRUE(same_bits(fisher_out, client.fisher));
        }
        EXPECT_EQ(head.kind, HN_FED_UPDATE);
        EXPECT_EQ(head.encoding, HN_FED_F32);
        EXPECT_FALSE(head.difference);
        EXPECT_EQ(head.fisher, fisher);
        EXPECT_EQ(head.round, 3);
        EXPECT_EQ(head.client, 7);
        EXPECT_EQ(head.samples, 123);
        EXPECT_EQ(head.loss, 0.5f);
        EXPECT_EQ(head.sent, l.l.values);
    }
}

/* The bytes by hand: a layout of a value and a counter. */
TEST(FedMessageBytes, AreThoseOfTheHeader)
{
    Layout l;
    l.add("count", {1}, HN_FED_COUNTER);
    l.add("w", {2});
    const std::vector<float> v = {5, 1.5f, -2};
    const hn_fed_update u = {
        .client = 258, .round = 3, .samples = 10, .loss = 1, .value = v.data(), .fisher = nullptr};
    const hn_fed_coding coding = {
        .encoding = HN_FED_F32, .k = 0, .base = nullptr, .residual = nullptr};
    Bytes b;
    ASSERT_HN_OK(hn_fed_encode_update(&l.l, &u, &coding, &b.b));
    std::vector<uint8_t> wanted(140, 0);
    std::memcpy(wanted.data(), "hone-fed", 8);
    wanted[8] = 1;                        /* version */
    wanted[12] = 2;                       /* update */
    wanted[24] = 3;                       /* round */
    wanted[32] = 2, wanted[33] = 1;       /* client 258 */
    wanted[40] = 10;                      /* n_k */
    wanted[50] = 0x80, wanted[51] = 0x3f; /* 1.0f */
    wanted[56] = 2;                       /* tensors */
    char hex[HN_SHA256_HEX];
    ASSERT_HN_OK(hn_fed_layout_digest(&l.l, hex));
    for (size_t i = 0; i < 32; i++)
        wanted[64 + i] = (uint8_t)std::stoi(std::string(hex + 2 * i, 2), nullptr, 16);
    wanted[96] = 3;                         /* elements */
    wanted[104] = 2;                        /* values */
    wanted[112] = 12;                       /* bytes of the body */
    wanted[130] = 0xc0, wanted[131] = 0x3f; /* values first: 1.5, -2, then the counter 5 */
    wanted[135] = 0xc0;
    wanted[138] = 0xa0, wanted[139] = 0x40;
    std::vector<uint8_t> got = b.vector();
    ASSERT_EQ(got.size(), 140u);
    /* zlib's CRC-32, bit by bit, without its own four bytes */
    uint32_t crc = ~0u;
    for (size_t i = 0; i < got.size(); i++) {
        if (i >= 124 && i < 128) continue;
        crc ^= got[i];
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    crc = ~crc;
    std::memcpy(wanted.data() + 124, &crc, 4);
    EXPECT_EQ(got, wanted);
}

TEST_F(FedMessage, LengthIsWhatItSays)
{
    for (const bool fisher : {false, true})
        for (const hn_fed_encoding e : {HN_FED_F32, HN_FED_BF16}) {
            ASSERT_HN_OK(encode(e, fisher));
            EXPECT_EQ((int64_t)bytes.b.n, hn_fed_message_bytes(&l.l, e, 0, fisher));
        }
    EXPECT_EQ(hn_fed_message_bytes(&l.l, HN_FED_F32, 0, false), 128 + 4 * 5237);
    EXPECT_EQ(hn_fed_message_bytes(&l.l, HN_FED_BF16, 0, true), 128 + 4 * 5227 + 4 * 10);
    /* topk: the bound holds, and 1 % costs about 2 % of all: 32 bits and about 8.1 an id */
    for (const int64_t k : {1, 52, 1000, 5227}) {
        ASSERT_HN_OK(encode(HN_FED_TOPK, false, k));
        EXPECT_LE((int64_t)bytes.b.n, hn_fed_message_bytes(&l.l, HN_FED_TOPK, k, false));
        if (k == 52) {
            EXPECT_NEAR((double)bytes.b.n - 128 - 8 - 40, 52 * (4 + 8.1 / 8), 8);
        }
    }
}

TEST_F(FedMessage, Bf16IsRoundedOnce)
{
    ASSERT_HN_OK(encode(HN_FED_BF16, true, 0, false));
    ASSERT_HN_OK(decode(true));
    EXPECT_FALSE(head.difference);
    for (int64_t t = 0; t < l.l.count; t++)
        for (int64_t j = 0; j < l.l.tensor[t].n; j++) {
            const size_t i = (size_t)(l.l.tensor[t].first + j);
            const float v = client.value[i];
            const float wanted = l.l.tensor[t].role == HN_FED_VALUE
                                     ? hn_bf16_to_f32(hn_bf16_from_f32(v))
                                     : v; /* counters and statistics stay whole */
            ASSERT_EQ(out[i], wanted);
        }
    for (size_t i = 0; i < fisher_out.size(); i++)
        ASSERT_EQ(fisher_out[i], hn_bf16_to_f32(hn_bf16_from_f32(client.fisher[i])));
    /* differences: far closer, 2^-9 of a step of 0.1 instead of a value of 1 */
    const double plain = rel_l2(out, client.value);
    ASSERT_HN_OK(encode(HN_FED_BF16, false));
    ASSERT_HN_OK(decode(false));
    EXPECT_TRUE(head.difference);
    EXPECT_LT(rel_l2(out, client.value), plain / 5);
    for (size_t i = 0; i < 216; i++) {
        const float d = client.value[i] - base[i];
        ASSERT_EQ(out[i], base[i] + hn_bf16_to_f32(hn_bf16_from_f32(d)));
    }
}

TEST_F(FedMessage, TopKSendsTheLargestDifferences)
{
    const int64_t k = 300;
    ASSERT_HN_OK(encode(HN_FED_TOPK, false, k));
    ASSERT_HN_OK(decode(false));
    EXPECT_EQ(head.sent, k);
    EXPECT_TRUE(head.difference);
    std::vector<float> d;
    int64_t changed = 0;
    float least = INFINITY, most = 0;
    for (int64_t t = 0; t < l.l.count; t++)
        for (int64_t j = 0; j < l.l.tensor[t].n; j++) {
            const size_t i = (size_t)(l.l.tensor[t].first + j);
            if (l.l.tensor[t].role != HN_FED_VALUE) {
                ASSERT_EQ(out[i], client.value[i]);
                continue;
            }
            const float x = client.value[i] - base[i];
            if (out[i] == base[i]) {
                most = std::max(most, std::fabs(x));
                continue;
            }
            changed++;
            least = std::min(least, std::fabs(x));
            ASSERT_EQ(out[i], base[i] + x);
        }
    EXPECT_EQ(changed, k);
    EXPECT_GE(least, most);
}

/* Over rounds nothing is lost: sent + residual is what was meant, bit for bit, in each round. */
TEST_F(FedMessage, FeedbackKeepsWhatWasNotSent)
{
    for (const hn_fed_encoding e : {HN_FED_TOPK, HN_FED_BF16}) {
        std::vector<float> residual(l.values(), 0), meant(l.values());
        double kept = 0;
        for (int round = 0; round < 6; round++) {
            client.value = random_payload(l, 70 + (unsigned)round, 0.1f, base);
            const auto before = residual;
            hn_fed_meant(&l.l, client.value.data(), base.data(), before.data(), meant.data());
            ASSERT_HN_OK(encode(e, false, 200, true, residual.data()));
            ASSERT_HN_OK(decode(false));
            for (int64_t t = 0; t < l.l.count; t++)
                for (int64_t j = 0; j < l.l.tensor[t].n; j++) {
                    const size_t i = (size_t)(l.l.tensor[t].first + j);
                    if (l.l.tensor[t].role != HN_FED_VALUE) continue;
                    const size_t v = (size_t)(l.l.tensor[t].value + j);
                    const float x = client.value[i] - base[i];
                    ASSERT_EQ(meant[v], x + before[v]);
                    const float sent = meant[v] - residual[v]; /* exact: one is zero, or bf16 */
                    ASSERT_EQ(sent + residual[v], meant[v]);
                    ASSERT_EQ(out[i], base[i] + sent);
                    kept += std::fabs((double)residual[v]);
                }
            base = out;
        }
        EXPECT_GT(kept, 0);
    }
}

/* A difference that is never among the largest of its round is sent in the end. */
TEST(FedFeedback, SmallDifferencesArriveInTheEnd)
{
    Layout l;
    l.add("w", {2});
    std::vector<float> base = {0, 0}, residual = {0, 0}, out(2);
    Bytes b;
    for (int round = 1; round <= 4; round++) {
        const std::vector<float> v = {base[0] + 1, base[1] + 0.375f};
        const hn_fed_update u = {.client = 0,
                                 .round = round,
                                 .samples = 1,
                                 .loss = 0,
                                 .value = v.data(),
                                 .fisher = nullptr};
        const hn_fed_coding c = {
            .encoding = HN_FED_TOPK, .k = 1, .base = base.data(), .residual = residual.data()};
        hn_fed_head head;
        ASSERT_HN_OK(hn_fed_encode_update(&l.l, &u, &c, &b.b));
        ASSERT_HN_OK(hn_fed_decode(&l.l, b.b.data, b.b.n, HN_FED_UPDATE, round, base.data(), &head,
                                   out.data(), nullptr));
        base = out;
    }
    /* 1, 1, then 1.125 of the small one, then 2 of the other */
    EXPECT_EQ(base, (std::vector<float>{4, 3 * 0.375f}));
    EXPECT_EQ(residual, (std::vector<float>{0, 0.375f}));
}

TEST_F(FedMessage, ModelsTravelToo)
{
    for (const hn_fed_encoding e : {HN_FED_F32, HN_FED_BF16}) {
        ASSERT_HN_OK(hn_fed_encode_model(&l.l, 4, base.data(), e, &bytes.b));
        EXPECT_EQ((int64_t)bytes.b.n, hn_fed_message_bytes(&l.l, e, 0, false));
        ASSERT_HN_OK(decode(false, 4, HN_FED_MODEL));
        EXPECT_EQ(head.client, -1);
        EXPECT_EQ(head.samples, 0);
        for (size_t i = 0; i < 216; i++)
            ASSERT_EQ(out[i],
                      e == HN_FED_F32 ? base[i] : hn_bf16_to_f32(hn_bf16_from_f32(base[i])));
        EXPECT_HN_FAIL(decode(false, 4), HN_ERR_FORMAT, "the global model: expected an update");
        EXPECT_HN_FAIL(decode(false, 5, HN_FED_MODEL), HN_ERR_ARG, "the global model: stale");
    }
    EXPECT_HN_FAIL(hn_fed_encode_model(&l.l, 4, base.data(), HN_FED_TOPK, &bytes.b), HN_ERR_ARG,
                   "not as topk");
    EXPECT_HN_FAIL(hn_fed_encode_model(&l.l, -4, base.data(), HN_FED_F32, &bytes.b), HN_ERR_ARG,
                   "round -4");
    base[2] = INFINITY;
    EXPECT_HN_FAIL(hn_fed_encode_model(&l.l, 4, base.data(), HN_FED_F32, &bytes.b), HN_ERR_NUMERIC,
                   "the global model: conv.weight is inf at element 2");
}

TEST_F(FedMessage, EncodeRefusesByName)
{
    auto check = [&](hn_status code, const char *part, hn_fed_encoding e = HN_FED_F32,
                     bool fisher = false, int64_t k = 10, bool with_base = true,
                     float *residual = nullptr) {
        EXPECT_HN_FAIL(encode(e, fisher, k, with_base, residual), code, part);
    };
    std::vector<float> residual(l.values(), 0);
    check(HN_ERR_ARG, "client 7: topk without a base", HN_FED_TOPK, false, 10, false);
    check(HN_ERR_ARG, "client 7: the 0 largest of 5227 values", HN_FED_TOPK, false, 0);
    check(HN_ERR_ARG, "client 7: the 5228 largest", HN_FED_TOPK, false, 5228);
    check(HN_ERR_UNSUPPORTED, "client 7: topk with a Fisher", HN_FED_TOPK, true);
    check(HN_ERR_ARG, "client 7: encoding 3", (hn_fed_encoding)3);
    check(HN_ERR_ARG, "a residual goes with differences", HN_FED_F32, false, 0, true,
          residual.data());
    check(HN_ERR_ARG, "a residual goes with differences", HN_FED_BF16, false, 0, false,
          residual.data());
    const float kept = at("fc.bias", 2);
    at("fc.bias", 2) = NAN;
    check(HN_ERR_NUMERIC, "update of client 7: fc.bias is nan at element 2 of 10");
    at("fc.bias", 2) = 3.4e38f; /* finite, infinite in bf16; less the base, and as a difference */
    check(HN_ERR_NUMERIC, "element 2 of fc.bias is too large to be sent", HN_FED_BF16, false, 0,
          true, residual.data());
    base[(size_t)hn_fed_layout_find(&l.l, "fc.bias")->first + 2] = -3.4e38f;
    check(HN_ERR_NUMERIC, "element 2 of fc.bias is too large to be sent", HN_FED_TOPK, false, 10,
          true, residual.data());
    EXPECT_EQ(residual, std::vector<float>(l.values(), 0)); /* untouched by what failed */
    at("fc.bias", 2) = kept;
    client.fisher[1] = -0.5f;
    check(HN_ERR_NUMERIC, "client 7: Fisher diagonal of conv.weight is -0.5 at element 1",
          HN_FED_F32, true);
    client.samples = 0;
    check(HN_ERR_ARG, "update of client 7: n_k is 0");
    client.samples = 1;
    client.loss = INFINITY;
    check(HN_ERR_NUMERIC, "update of client 7: its loss is inf");
}

/* ---- hostile bytes ---- */

TEST_F(FedMessage, DecodeRefusesByName)
{
    Layout other;
    fill_small(other);
    ASSERT_HN_OK(hn_fed_layout_bind(&other.l, "x"));
    ASSERT_HN_OK(encode(HN_FED_F32, false));
    EXPECT_HN_FAIL(decode(false, 2), HN_ERR_ARG,
                   "update of client 7: stale, of round 3, this is round 2");
    EXPECT_HN_OK(decode(false, -1));
    EXPECT_HN_FAIL(decode(true), HN_ERR_FORMAT, "update of client 7: a Fisher diagonal is missing");
    EXPECT_HN_FAIL(decode(false, 3, HN_FED_MODEL), HN_ERR_FORMAT, "expected a global model");
    EXPECT_HN_FAIL(hn_fed_decode(&other.l, bytes.b.data, bytes.b.n, HN_FED_UPDATE, 3, nullptr,
                                 &head, out.data(), nullptr),
                   HN_ERR_SHAPE, "update of client 7: names, shapes or roles");
    other.add("more", {2});
    EXPECT_HN_FAIL(hn_fed_decode(&other.l, bytes.b.data, bytes.b.n, HN_FED_UPDATE, 3, nullptr,
                                 &head, out.data(), nullptr),
                   HN_ERR_SHAPE, "7 tensors of 5237 elements, expected 8 of 5239");
    ASSERT_HN_OK(encode(HN_FED_F32, true));
    EXPECT_HN_FAIL(decode(false), HN_ERR_FORMAT, "a Fisher diagonal is not wanted");
    ASSERT_HN_OK(encode(HN_FED_TOPK, false, 9));
    EXPECT_HN_FAIL(hn_fed_decode(&l.l, bytes.b.data, bytes.b.n, HN_FED_UPDATE, 3, nullptr, &head,
                                 out.data(), nullptr),
                   HN_ERR_ARG, "a base that is not here");
}

/* Fields out of range under a checksum that is right. */
TEST_F(FedMessage, ForgedHeadersAreRefused)
{
    auto forged = [&](const char *part, size_t offset, auto v, hn_fed_encoding e = HN_FED_F32,
                      hn_status code = HN_ERR_FORMAT) {
        ASSERT_HN_OK(encode(e, false, 40));
        put(offset, v);
        hn_fed_seal(&bytes.b);
        EXPECT_HN_FAIL(decode(false), code, part);
    };
    forged("not a message", 0, 'H');
    forged("whose version is 2", 8, 2u);
    forged("whose kind is 0", 12, 0u);
    forged("whose kind is 4294967295", 12, ~0u);
    forged("whose encoding is 3", 16, 3u);
    forged("whose flags field is 4", 20, 4u);
    forged("whose flags field is 1", 20, 1u);
    forged("whose flags field is 0", 20, 0u, HN_FED_TOPK);
    forged("whose flags field is 3", 20, 3u, HN_FED_TOPK);
    forged("whose round is -1", 24, (int64_t)-1);
    forged("whose client is -2", 32, (int64_t)-2);
    forged("whose n_k is -123", 40, (int64_t)-123);
    forged("whose n_k is 0", 40, (int64_t)0);
    forged("whose n_k is 9223372036854775807", 40, INT64_MAX);
    forged("update of client 7: its loss is nan", 48, NAN, HN_FED_F32, HN_ERR_NUMERIC);
    forged("whose reserved field is 1", 52, 1u);
    forged("whose number of tensors is -1", 56, (int64_t)-1);
    forged("expected 7 of 5237", 56, (int64_t)6, HN_FED_F32, HN_ERR_SHAPE);
    forged("names, shapes or roles", 70, (uint64_t)0, HN_FED_F32, HN_ERR_SHAPE);
    forged("whose number of elements is -5", 96, (int64_t)-5);
    forged("expected 7 of 5237", 96, INT64_MAX, HN_FED_F32, HN_ERR_SHAPE);
    forged("whose number of values is -1", 104, (int64_t)-1);
    forged("5226 of 5227 values", 104, (int64_t)5226);
    forged("5228 of 5227 values", 104, (int64_t)5228, HN_FED_TOPK);
    forged("0 of 5227 values", 104, (int64_t)0, HN_FED_TOPK);
    forged("bytes for 41 ids and values", 104, (int64_t)41, HN_FED_TOPK);
    forged("bytes for 5000 ids and values", 104, (int64_t)5000, HN_FED_TOPK);
    forged("truncated", 112, INT64_MAX);
    forged("bytes left over", 112, (int64_t)0);
    forged("bytes left over", 112, INT64_MIN);
    forged("parameter is 31", 120, 31u, HN_FED_TOPK);
    forged("parameter is 5", 120, 5u);
    forged("ids and values", 128, (int64_t)-1, HN_FED_TOPK);
    forged("ids and values", 128, INT64_MAX, HN_FED_TOPK);
    forged("ids and values", 128, (int64_t)4, HN_FED_TOPK);
    forged("20908 bytes of values, expected 10454", 16, 1u); /* bf16 in the place of f32 */
    ASSERT_HN_OK(encode(HN_FED_F32, false));
    put(200, 1.0f);
    EXPECT_HN_FAIL(decode(false), HN_ERR_FORMAT, "update of client 7: bad checksum");
}

/* NaN on the wire, in each part of a body. */
TEST_F(FedMessage, NanOnTheWireIsNamed)
{
    auto forged = [&](hn_fed_encoding e, bool fisher, size_t from_end, uint32_t bits, int width,
                      const char *part) {
        ASSERT_HN_OK(encode(e, fisher, 40));
        std::memcpy(bytes.b.data + bytes.b.n - from_end, &bits, (size_t)width);
        hn_fed_seal(&bytes.b);
        EXPECT_HN_FAIL(decode(fisher), HN_ERR_NUMERIC, part);
    };
    const size_t rest = 40; /* buffers and counters */
    forged(HN_FED_F32, false, rest + 4, 0x7fc00000, 4, "fc.bias is nan at element 9");
    forged(HN_FED_F32, false, rest + 8, 0xff800000, 4, "fc.bias is -inf at element 8");
    forged(HN_FED_F32, false, 4, 0x7fc00000, 4, "bn.other is nan");
    forged(HN_FED_BF16, false, rest + 2, 0x7f80, 2, "fc.bias is inf at element 9");
    forged(HN_FED_TOPK, false, rest + 4, 0x7fc00000, 4, "update of client 7: ");
    forged(HN_FED_F32, true, 4, 0x80000001, 4, "Fisher diagonal of fc.bias is -1.4013e-45");
    forged(HN_FED_BF16, true, 2, 0x7fc0, 2, "Fisher diagonal of fc.bias is nan at element 9");
}

/* A small message of every form: each byte in each of eight other ways, each truncation, bytes
 * behind it; with the checksum as it was, always refused; with one that fits, refused or whole. */
TEST(FedMessageHostile, FlipsAndTruncations)
{
    Layout l;
    l.add("w", {3, 7});
    l.add("mean", {2}, HN_FED_BUFFER);
    l.add("b", {5});
    const auto base = random_payload(l, 1);
    const Client client = random_clients(l, base, 4, 3, 1, true)[0];
    struct Form {
        hn_fed_encoding e;
        bool fisher, difference;
    };
    for (const Form form : {Form{HN_FED_F32, false, false}, Form{HN_FED_F32, true, false},
                            Form{HN_FED_BF16, false, true}, Form{HN_FED_BF16, true, false},
                            Form{HN_FED_TOPK, false, true}}) {
        hn_fed_update u = client.update(3);
        if (!form.fisher) u.fisher = nullptr;
        const hn_fed_coding coding = {.encoding = form.e,
                                      .k = 6,
                                      .base = form.difference ? base.data() : nullptr,
                                      .residual = nullptr};
        Bytes b;
        ASSERT_HN_OK(hn_fed_encode_update(&l.l, &u, &coding, &b.b));
        const auto good = b.vector();
        /* exactly as long as they are, so that reading behind them is noticed */
        auto decode = [&](const std::vector<uint8_t> &bytes) {
            std::vector<float> out(l.n()), fisher(l.values());
            hn_fed_head head;
            const hn_status st =
                hn_fed_decode(&l.l, bytes.data(), bytes.size(), HN_FED_UPDATE, 3, base.data(),
                              &head, out.data(), form.fisher ? fisher.data() : nullptr);
            for (size_t i = 0; st == HN_OK && i < out.size(); i++)
                EXPECT_TRUE(std::isfinite(out[i]));
            return st;
        };
        ASSERT_HN_OK(decode(good));
        for (size_t i = 0; i < good.size(); i++)
            for (const int x : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
                auto bad = good;
                bad[i] = (uint8_t)(bad[i] ^ x);
                EXPECT_NE(decode(bad), HN_OK) << i;
                hn_fed_bytes raw = {bad.data(), bad.size(), bad.size()};
                hn_fed_seal(&raw);
                (void)decode(bad); /* must not crash; sanitizers watch */
            }
        for (size_t n = 0; n < good.size(); n++) {
            EXPECT_EQ(decode({good.begin(), good.begin() + (long)n}), HN_ERR_FORMAT) << n;
            if (n < HN_FED_HEADER_BYTES) continue;
            std::vector<uint8_t> cut(good.begin(), good.begin() + (long)n);
            const int64_t body = (int64_t)n - HN_FED_HEADER_BYTES;
            std::memcpy(cut.data() + 112, &body, 8); /* a header that believes it */
            hn_fed_bytes raw = {cut.data(), cut.size(), cut.size()};
            hn_fed_seal(&raw);
            EXPECT_NE(decode(cut), HN_OK) << n;
        }
        auto longer = good;
        longer.push_back(0);
        EXPECT_EQ(decode(longer), HN_ERR_FORMAT);
    }
}

TEST_F(FedMessage, PeekNamesTheClientOfADamagedBody)
{
    ASSERT_HN_OK(encode(HN_FED_F32, false));
    put(500, 17.0f);
    ASSERT_HN_OK(hn_fed_peek(bytes.b.data, bytes.b.n, &head));
    EXPECT_EQ(head.client, 7);
    EXPECT_EQ(head.round, 3);
    EXPECT_HN_FAIL(hn_fed_peek(bytes.b.data, 127, &head), HN_ERR_FORMAT, "truncated");
}

TEST_F(FedMessage, SurvivesMemoryThatRunsOut)
{
    std::vector<float> residual(l.values(), 0);
    hn_status st = HN_ERR_MEMORY;
    for (uint64_t n = 1; st != HN_OK && n < 100; n++) {
        hn_fed_bytes_free(&bytes.b);
        hn_alloc_fail_at(n);
        st = encode(HN_FED_TOPK, false, 40, true, residual.data());
        hn_alloc_fail_at(0);
        if (st != HN_OK) {
            EXPECT_EQ(residual, std::vector<float>(l.values(), 0));
        }
    }
    ASSERT_EQ(st, HN_OK);
    st = HN_ERR_MEMORY;
    for (uint64_t n = 1; st != HN_OK && n < 100; n++) {
        hn_alloc_fail_at(n);
        st = decode(false);
        hn_alloc_fail_at(0);
    }
    EXPECT_EQ(st, HN_OK);
}

/* What a server gets through messages is what it gets without them. */
TEST_F(FedMessage, AServerCannotTell)
{
    const hn_fed_server_options o = hn_fed_server_defaults(HN_FED_FEDAVG);
    const auto clients = random_clients(l, base, 4, 1, 3);
    std::vector<std::vector<float>> decoded, models;
    for (const bool by_message : {false, true}) {
        hn_fed_server *s = nullptr;
        ASSERT_HN_OK(hn_fed_server_new(&l.l, &o, base.data(), &s));
        ASSERT_HN_OK(hn_fed_server_begin(s, 1));
        decoded.assign(clients.size(), std::vector<float>(l.n()));
        for (size_t k = 0; k < clients.size(); k++) {
            hn_fed_update u = clients[k].update(1);
            const hn_fed_coding f32 = {
                .encoding = HN_FED_F32, .k = 0, .base = nullptr, .residual = nullptr};
            if (by_message) {
                ASSERT_HN_OK(hn_fed_encode_update(&l.l, &u, &f32, &bytes.b));
                ASSERT_HN_OK(hn_fed_decode(&l.l, bytes.b.data, bytes.b.n, HN_FED_UPDATE, 1, nullptr,
                                           &head, decoded[k].data(), nullptr));
                u.client = head.client;
                u.samples = head.samples;
                u.loss = head.loss;
                u.value = decoded[k].data();
            }
            ASSERT_HN_OK(hn_fed_server_add(s, &u));
        }
        ASSERT_HN_OK(hn_fed_server_finish(s, nullptr));
        models.emplace_back(hn_fed_server_values(s), hn_fed_server_values(s) + l.n());
        hn_fed_server_free(s);
    }
    EXPECT_TRUE(same_bits(models[0], models[1]));
}

} // namespace
