/* Decoding against a cache of keys and values: hand values, the general attention as reference,
 * fast against the twin, what is never read, repeatability, errors. */
#include "kernels/attention/attention_decode.h"

#include <omp.h>

#include "hn_test.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/kv_append.h"
#ifdef HONE_CUDA
#include "cuda_test.h"
#endif

namespace {

struct Shape {
    const char *name;
    std::vector<int32_t> positions;
    int64_t tokens, capacity, heads, kv_heads, head_dim, value_dim, window;
    float softcap;
    bool packed = false; /* rows of q and of the caches begin on 16 bytes */
};

std::ostream &operator<<(std::ostream &o, const Shape &s) { return o << s.name; }

template <class T>
struct Problem {
    const Shape s;
    const int64_t batch, dv, ld_q, ld_k, ld_v, ld_o;
    GuardedArray<T> q, k, v, o, new_k, new_v;

    explicit Problem(const Shape &shape)
        : s(shape), batch((int64_t)s.positions.size()), dv(s.value_dim ? s.value_dim : s.head_dim),
          ld_q(s.heads * s.head_dim + (s.packed ? 8 : 3)),
          ld_k(s.kv_heads * s.head_dim + (s.packed ? 0 : 2)),
          ld_v(s.kv_heads * dv + (s.packed ? 16 : 5)), ld_o(s.heads * dv + 1),
          q(values(batch * s.tokens * ld_q, 1)), k(values(batch * s.capacity * ld_k, 2)),
          v(values(batch * s.capacity * ld_v, 3)), o((size_t)(batch * s.tokens * ld_o)),
          new_k(values(batch * s.tokens * ld_k, 4)), new_v(values(batch * s.tokens * ld_v, 5))
    {
    }
    static std::vector<T> values(int64_t n, unsigned seed)
    {
        if constexpr (sizeof(T) == 2)
            return normal_bf16((size_t)n, seed);
        else
            return normal_f32((size_t)n, seed);
    }
    hn_attention_decode_args args()
    {
        return {.q = q.data(),
                .k_cache = k.data(),
                .v_cache = v.data(),
                .positions = s.positions.data(),
                .o = o.data(),
                .ld_q = ld_q,
                .ld_k = ld_k,
                .ld_v = ld_v,
                .ld_o = ld_o,
                .batch = batch,
                .tokens = s.tokens,
                .capacity = s.capacity,
                .heads = s.heads,
                .kv_heads = s.kv_heads,
                .head_dim = s.head_dim,
                .value_dim = s.value_dim,
                .window = s.window,
                .scale = 0.5f,
                .softcap = s.softcap,
                .dtype = sizeof(T) == 2 ? HN_BF16 : HN_F32};
    }
    hn_kv_append_args append()
    {
        return {.k = new_k.data(),
                .v = new_v.data(),
                .positions = s.positions.data(),
                .k_cache = k.data(),
                .v_cache = v.data(),
                .ld_k = ld_k,
                .ld_v = ld_v,
                .ld_k_cache = ld_k,
                .ld_v_cache = ld_v,
                .batch = batch,
                .tokens = s.tokens,
                .capacity = s.capacity,
                .k_cols = s.kv_heads * s.head_dim,
                .v_cols = s.kv_heads * dv,
                .dtype = sizeof(T) == 2 ? HN_BF16 : HN_F32};
    }
    template <class Array>
    std::vector<T> columns(Array &x)
    {
        std::vector<T> y;
        const auto all = x.host();
        for (size_t i = 0; i < all.size(); i++)
            if ((int64_t)i % ld_o < s.heads * dv)
                y.push_back(all[i]);
            else
                EXPECT_TRUE(std::isnan(as_double(all[i]))) << "wrote between rows";
        return y;
    }
    std::vector<T> columns() { return columns(o); }
    std::vector<T> twin()
    {
        const auto a = args();
        EXPECT_HN_OK(hn_attention_decode_cpu(&a));
        return columns();
    }
    std::vector<T> fast()
    {
        const auto a = args();
        GuardedArray<char> scratch(hn_attention_decode_fast_scratch(&a));
        EXPECT_HN_OK(hn_attention_decode_fast(&a, scratch.data()));
        scratch.host();
        return columns();
    }
};

class AttentionDecode : public ::testing::TestWithParam<Shape> {};

TEST_P(AttentionDecode, FastMatchesTwin)
{
    Problem<float> p(GetParam()), reference(GetParam());
    EXPECT_LT(rel_l2(p.fast(), reference.twin()), 1e-6); /* fp32 against double */
    Problem<hn_bf16> b(GetParam()), wide(GetParam());
    EXPECT_LT(rel_l2(b.fast(), wide.twin()), 1e-3); /* few values round to the other neighbour */
}

TEST_P(AttentionDecode, FastGivesTheSameBitsForAnyNumberOfThreads)
{
    Problem<float> first(GetParam());
    const auto want = first.fast();
    const int threads = omp_get_max_threads();
    for (int n : {1, 2, 3}) {
        omp_set_num_threads(n);
        Problem<float> again(GetParam());
        EXPECT_TRUE(same_bits(again.fast(), want)) << n << " threads";
    }
    omp_set_num_threads(threads);
}

/* attention.h on the visible part of the cache: a chunk of a sequence, aligned at its end. */
TEST_P(AttentionDecode, EqualsGeneralAttentionOverTheFilledPartOfTheCache)
{
    Problem<float> p(GetParam());
    const auto got = p.twin();
    const Shape &s = p.s;
    for (int64_t b = 0; b < p.batch; b++) {
        const int32_t n = s.positions[(size_t)b] + (int32_t)s.tokens;
        const int32_t q_offsets[] = {0, (int32_t)s.tokens}, kv_offsets[] = {0, n};
        const int64_t cols = s.heads * p.dv;
        std::vector<float> o((size_t)(s.tokens * cols)), lse((size_t)(s.tokens * s.heads));
        const auto d = p.args();
        hn_attention_args a = {};
        a.q = p.q.data() + b * s.tokens * p.ld_q;
        a.k = p.k.data() + b * s.capacity * p.ld_k;
        a.v = p.v.data() + b * s.capacity * p.ld_v;
        a.q_offsets = q_offsets, a.kv_offsets = kv_offsets, a.o = o.data(), a.lse = lse.data();
        a.ld_q = p.ld_q, a.ld_k = p.ld_k, a.ld_v = p.ld_v, a.ld_o = cols;
        a.q_rows = s.tokens, a.kv_rows = n, a.sequences = 1;
        a.heads = d.heads, a.kv_heads = d.kv_heads, a.head_dim = d.head_dim;
        a.value_dim = d.value_dim, a.window = d.window, a.scale = d.scale, a.softcap = d.softcap;
        a.causal = true;
        ASSERT_HN_OK(hn_attention_fwd_cpu(&a));
        const auto begin = got.begin() + b * s.tokens * cols;
        EXPECT_LT(rel_l2(std::vector<float>(begin, begin + s.tokens * cols), o), 1e-6);
    }
}

/* clang-format off */
INSTANTIATE_TEST_SUITE_P(Shapes, AttentionDecode, ::testing::Values(
    Shape{"first_token", {0}, 1, 1, 1, 1, 1, 0, 0, 0},
    Shape{"one_token", {7}, 1, 12, 4, 2, 8, 0, 0, 0},
    Shape{"batch", {0, 9, 4}, 1, 10, 4, 2, 16, 0, 0, 0},
    Shape{"a_few_tokens", {3, 0}, 4, 8, 6, 2, 5, 0, 0, 0},
    Shape{"window", {19, 2}, 2, 30, 2, 1, 8, 0, 6, 0},
    Shape{"softcap", {11}, 1, 12, 2, 2, 8, 0, 0, 2.0f},
    Shape{"values_of_another_width", {11}, 1, 12, 2, 1, 8, 12, 0, 0},
    Shape{"long_cache", {900}, 1, 1024, 8, 4, 16, 0, 0, 0}),
    [](const auto &i) { return std::string(i.param.name); });
/* clang-format on */

TEST(AttentionDecodeTwin, MatchesHandComputedToken)
{
    /* Scores log 1 and log 3 at positions 0 and 1; position 2 is not filled yet. */
    const float q = 1, k[] = {0, std::log(3.0f), NAN}, v[] = {8, 4, NAN};
    const int32_t position = 1;
    float o = NAN;
    hn_attention_decode_args a = {};
    a.q = &q, a.k_cache = k, a.v_cache = v, a.positions = &position, a.o = &o;
    a.ld_q = a.ld_k = a.ld_v = a.ld_o = a.batch = a.tokens = 1;
    a.heads = a.kv_heads = a.head_dim = 1;
    a.capacity = 3;
    a.scale = 1;
    ASSERT_HN_OK(hn_attention_decode_cpu(&a));
    EXPECT_FLOAT_EQ(o, 5);
}

TEST(AttentionDecode, NeverReadsBehindThePosition)
{
    const Shape s = {"", {5, 2}, 2, 12, 4, 2, 8, 0, 0, 0};
    Problem<float> p(s);
    const auto want = p.fast();
    for (int64_t b = 0; b < 2; b++)
        for (int64_t j = s.positions[(size_t)b] + 2; j < 12; j++) {
            for (int64_t c = 0; c < p.ld_k; c++) p.k.data()[(b * 12 + j) * p.ld_k + c] = NAN;
            for (int64_t c = 0; c < p.ld_v; c++) p.v.data()[(b * 12 + j) * p.ld_v + c] = NAN;
        }
    EXPECT_TRUE(same_bits(p.fast(), want));
    p.twin();
}

TEST(KvAppend, WritesTheRowsAtThePositionsAndNothingElse)
{
    Problem<hn_bf16> p({"", {5, 0}, 2, 9, 4, 2, 8, 6, 0, 0}), before(p.s);
    const auto a = p.append();
    ASSERT_HN_OK(hn_kv_append_cpu(&a));
    const auto check = [&](GuardedArray<hn_bf16> &cache, GuardedArray<hn_bf16> &old,
                           GuardedArray<hn_bf16> &rows, int64_t ld, int64_t cols) {
        const auto now = cache.host(), was = old.host(), added = rows.host();
        for (int64_t b = 0; b < 2; b++)
            for (int64_t j = 0; j < 9; j++)
                for (int64_t c = 0; c < ld; c++) {
                    const int64_t t = j - p.s.positions[(size_t)b];
                    const bool is_new = t >= 0 && t < 2 && c < cols;
                    ASSERT_EQ(now[(size_t)((b * 9 + j) * ld + c)].bits,
                              is_new ? added[(size_t)((b * 2 + t) * ld + c)].bits
                                     : was[(size_t)((b * 9 + j) * ld + c)].bits);
                }
    };
    check(p.k, before.k, p.new_k, p.ld_k, 16);
    check(p.v, before.v, p.new_v, p.ld_v, 12);
}

TEST(KvAppend, NamesWhatIsWrong)
{
    Problem<float> p({"", {5, 0}, 2, 9, 4, 2, 8, 6, 0, 0}), before(p.s);
    const auto fails = [&](auto change, hn_status code, const char *text) {
        auto a = p.append();
        change(a);
        EXPECT_HN_FAIL(hn_kv_append_cpu(&a), code, text);
    };
    const int32_t full[] = {0, 8}, negative[] = {-1, 0};
    fails([&](auto &a) { a.positions = full; }, HN_ERR_ARG, "batch row 1 at position 8 with 2");
    fails([&](auto &a) { a.positions = negative; }, HN_ERR_ARG, "batch row 0 at position -1");
    fails([](auto &a) { a.positions = nullptr; }, HN_ERR_ARG, "positions is NULL");
    fails([](auto &a) { a.k = nullptr; }, HN_ERR_ARG, "k is NULL");
    fails([](auto &a) { a.v_cache = nullptr; }, HN_ERR_ARG, "v_cache is NULL");
    fails([](auto &a) { a.capacity = 1; }, HN_ERR_SHAPE, "capacity 1");
    fails([](auto &a) { a.ld_v_cache = 3; }, HN_ERR_SHAPE, "leading dimension 3 of v_cache");
    fails([](auto &a) { a.dtype = HN_I32; }, HN_ERR_UNSUPPORTED, "i32");
    EXPECT_TRUE(same_bits(p.k.host(), before.k.host()));
    EXPECT_TRUE(same_bits(p.v.host(), before.v.host()));
}

TEST(AttentionDecodeCheck, NamesWhatIsWrong)
{
    Problem<float> p({"", {5, 0}, 2, 9, 4, 2, 8, 0, 0, 0});
    const auto fails = [&](auto change, hn_status code, const char *text) {
        auto a = p.args();
        char scratch[64];
        change(a);
        EXPECT_HN_FAIL(hn_attention_decode_cpu(&a), code, text);
        EXPECT_HN_FAIL(hn_attention_decode_fast(&a, scratch), code, text);
    };
    const int32_t full[] = {0, 8};
    fails([&](auto &a) { a.positions = full; }, HN_ERR_ARG, "batch row 1 at position 8 with 2");
    fails([](auto &a) { a.positions = nullptr; }, HN_ERR_ARG, "positions is NULL");
    fails([](auto &a) { a.q = nullptr; }, HN_ERR_ARG, "q is NULL");
    fails([](auto &a) { a.o = nullptr; }, HN_ERR_ARG, "o is NULL");
    fails([](auto &a) { a.batch = 0; }, HN_ERR_SHAPE, "batch 0");
    fails([](auto &a) { a.kv_heads = 3; }, HN_ERR_SHAPE, "4 heads");
    fails([](auto &a) { a.ld_k = 3; }, HN_ERR_SHAPE, "leading dimension 3 of k_cache");
    fails([](auto &a) { a.scale = NAN; }, HN_ERR_ARG, "scale");
    fails([](auto &a) { a.window = -3; }, HN_ERR_ARG, "window -3");
    fails([](auto &a) { a.dtype = HN_F16; }, HN_ERR_UNSUPPORTED, "f16");
    const auto a = p.args();
    EXPECT_HN_FAIL(hn_attention_decode_fast(&a, nullptr), HN_ERR_ARG, "scratch is NULL");
    EXPECT_TRUE(std::isnan(p.o.host()[0])); /* nothing was written */
}

#ifdef HONE_CUDA

/* The same problem in device memory. */
template <class T>
struct DeviceProblem {
    Problem<T> host;
    DeviceArray<T> q, k, v, o, new_k, new_v;
    DeviceArray<int32_t> positions;

    explicit DeviceProblem(const Shape &s)
        : host(s), q(host.q.host()), k(host.k.host()), v(host.v.host()), o(host.o.host()),
          new_k(host.new_k.host()), new_v(host.new_v.host()), positions(s.positions)
    {
    }
    hn_attention_decode_args args()
    {
        auto a = host.args();
        a.q = q.data(), a.k_cache = k.data(), a.v_cache = v.data(), a.o = o.data();
        a.positions = positions.data();
        return a;
    }
    hn_kv_append_args append()
    {
        auto a = host.append();
        a.k = new_k.data(), a.v = new_v.data(), a.k_cache = k.data(), a.v_cache = v.data();
        a.positions = positions.data();
        return a;
    }
    std::vector<T> run(bool captured = false)
    {
        const auto a = args();
        const size_t n_bytes = hn_attention_decode_cuda_scratch(&a);
        DeviceArray<char> scratch(n_bytes);
        void *const s = n_bytes ? scratch.data() : nullptr;
        if (captured)
            run_captured([&](cudaStream_t stream) {
                EXPECT_HN_OK(hn_attention_decode_cuda(&a, s, stream));
            });
        else
            EXPECT_HN_OK(hn_attention_decode_cuda(&a, s, nullptr));
        scratch.host();
        return host.columns(o);
    }
};

/* Besides the shapes above: several shares of keys, columns and heads past a block; rows of 16-byte
 * pieces with teams of 8, 16 and 32 lanes, filled and part-filled. */
class AttentionDecodeCuda : public AttentionDecode {};

TEST_P(AttentionDecodeCuda, MatchesCpu)
{
    HN_NEED_CUDA();
    DeviceProblem<float> p(GetParam());
    EXPECT_LT(rel_l2(p.run(), p.host.twin()), 3e-6); /* fp32 against double, up to 2000 terms */
    DeviceProblem<hn_bf16> b(GetParam());
    EXPECT_LT(rel_l2(b.run(), b.host.twin()), 1e-3); /* few values round to the other neighbour */
}

TEST_P(AttentionDecodeCuda, RepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    DeviceProblem<float> one(GetParam()), two(GetParam()), captured(GetParam());
    const auto want = one.run();
    EXPECT_TRUE(same_bits(two.run(), want));
    EXPECT_TRUE(same_bits(captured.run(true), want));
}

/* clang-format off */
INSTANTIATE_TEST_SUITE_P(Shapes, AttentionDecodeCuda, ::testing::Values(
    Shape{"first_token", {0}, 1, 1, 1, 1, 1, 0, 0, 0},
    Shape{"one_token", {7}, 1, 12, 4, 2, 8, 0, 0, 0},
    Shape{"batch", {0, 9, 4}, 1, 10, 4, 2, 16, 0, 0, 0},
    Shape{"a_few_tokens", {3, 0}, 4, 8, 6, 2, 5, 0, 0, 0},
    Shape{"a_tile_and_one_more", {63, 64}, 1, 70, 2, 1, 40, 0, 0, 0},
    Shape{"five_heads_a_group", {20}, 2, 30, 10, 2, 33, 0, 0, 0},
    Shape{"window", {19, 2}, 2, 30, 2, 1, 8, 0, 6, 0},
    Shape{"window_of_several_shares", {900, 3}, 2, 1000, 2, 1, 8, 0, 600, 0},
    Shape{"softcap", {11}, 1, 12, 2, 2, 8, 0, 0, 2.0f},
    Shape{"wide_values", {300}, 1, 600, 2, 1, 8, 130, 0, 0},
    Shape{"part_filled_long_cache", {0, 255, 256, 700}, 1, 1024, 8, 4, 16, 0, 0, 0},
    Shape{"as_many_shares_as_there_are", {16900, 20}, 1, 17000, 1, 1, 4, 0, 0, 0},
    Shape{"packed_first_token", {0}, 1, 8, 1, 1, 8, 0, 0, 0, true},
    Shape{"packed_64", {700, 63}, 1, 900, 8, 2, 64, 0, 0, 0, true},
    Shape{"packed_128_few_tokens", {127, 500}, 3, 520, 4, 1, 128, 0, 0, 0, true},
    Shape{"packed_256_softcap", {40}, 1, 64, 2, 1, 256, 0, 0, 3.0f, true},
    Shape{"packed_part_of_a_team", {300}, 1, 400, 10, 2, 40, 72, 0, 0, true},
    Shape{"packed_seven_heads_window", {900, 3}, 2, 1000, 7, 1, 16, 8, 600, 0, true},
    Shape{"packed_as_many_shares_as_there_are", {9000, 20}, 1, 9100, 2, 2, 8, 0, 0, 0, true},
    Shape{"packed_too_wide", {70}, 1, 80, 2, 1, 264, 0, 0, 0, true}),
    [](const auto &i) { return std::string(i.param.name); });
/* clang-format on */

TEST(AttentionDecodeCuda, BitsDoNotDependOnTheBatch)
{
    HN_NEED_CUDA();
    for (const bool packed : {false, true}) {
        const Shape s = {"", {600, 20}, 1, 700, 4, 2, 16, 0, 0, 0, packed};
        DeviceProblem<float> both(s);
        Shape first = s;
        first.positions = {600};
        DeviceProblem<float> alone(first); /* the same first rows: values of the same seeds */
        auto want = both.run();
        want.resize(want.size() / 2);
        EXPECT_TRUE(same_bits(alone.run(), want));
    }
}

TEST(AttentionDecodeCuda, NeverReadsBehindThePosition)
{
    HN_NEED_CUDA();
    for (const bool packed : {false, true}) {
        const Shape s = {"", {5, 2}, 2, 12, 4, 2, 8, 0, 0, 0, packed};
        DeviceProblem<float> p(s);
        const auto want = p.run();
        auto k = p.k.host(), v = p.v.host();
        const size_t ld_k = (size_t)p.host.ld_k, ld_v = (size_t)p.host.ld_v;
        for (size_t b = 0; b < 2; b++)
            for (size_t j = (size_t)s.positions[b] + 2; j < 12; j++) {
                for (size_t c = 0; c < ld_k; c++) k[(b * 12 + j) * ld_k + c] = NAN;
                for (size_t c = 0; c < ld_v; c++) v[(b * 12 + j) * ld_v + c] = NAN;
            }
        p.k.assign(k);
        p.v.assign(v);
        EXPECT_TRUE(same_bits(p.run(), want));
    }
}

TEST(AttentionDecodeCuda, ChecksItsArguments)
{
    Problem<float> p({"", {5}, 1, 900, 4, 2, 8, 0, 0, 0});
    auto a = p.args();
    EXPECT_HN_FAIL(hn_attention_decode_cuda(&a, nullptr, nullptr), HN_ERR_ARG, "scratch is NULL");
    a.ld_k = 3;
    EXPECT_HN_FAIL(hn_attention_decode_cuda(&a, nullptr, nullptr), HN_ERR_SHAPE, "3 of k_cache");
}

template <class T>
void check_append(const Shape &s, bool captured, bool aligned)
{
    DeviceProblem<T> p(s);
    auto on_host = p.host.append(), on_device = p.append();
    if (aligned) { /* whole 16-byte pieces: rows packed tightly */
        for (auto *a : {&on_host, &on_device}) {
            a->ld_k = a->ld_k_cache = a->k_cols;
            a->ld_v = a->ld_v_cache = a->v_cols;
        }
    }
    ASSERT_HN_OK(hn_kv_append_cpu(&on_host));
    if (captured)
        run_captured([&](cudaStream_t x) { ASSERT_HN_OK(hn_kv_append_cuda(&on_device, x)); }, 2);
    else
        ASSERT_HN_OK(hn_kv_append_cuda(&on_device, nullptr));
    EXPECT_TRUE(same_bits(p.k.host(), p.host.k.host())); /* copies: gaps and other rows as before */
    EXPECT_TRUE(same_bits(p.v.host(), p.host.v.host()));
}

TEST(KvAppendCuda, MatchesCpuAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    for (const bool captured : {false, true})
        for (const bool aligned : {false, true})
            for (const Shape &s : {Shape{"", {5, 0}, 2, 9, 4, 2, 8, 16, 0, 0},
                                   Shape{"", {3}, 1, 4, 1, 1, 1, 0, 0, 0},
                                   Shape{"", {0, 7, 2}, 33, 40, 4, 3, 40, 0, 0, 0}}) {
                check_append<float>(s, captured, aligned);
                check_append<hn_bf16>(s, captured, aligned);
            }
}

TEST(KvAppendCuda, ChecksItsArguments)
{
    Problem<float> p({"", {5}, 1, 9, 4, 2, 8, 0, 0, 0});
    auto a = p.append();
    a.k = nullptr;
    EXPECT_HN_FAIL(hn_kv_append_cuda(&a, nullptr), HN_ERR_ARG, "k is NULL");
}

#endif

} // namespace
