/* Packed grouped-query attention: hand values, fast functions against the twin, finite
 * differences, masks, packing, repeatability, promised layouts and errors. */
#include "kernels/attention/attention.h"

#include <omp.h>

#include <algorithm>
#include <functional>

#include "attention_test.h"

namespace {

class Attention : public ::testing::TestWithParam<Shape> {};

TEST_P(Attention, FastMatchesTwinInF32)
{
    Problem<float> p(GetParam()), reference(GetParam());
    const auto want = reference.twin(), got = p.fast();
    /* fp32 against double: sums of up to a few hundred terms */
    EXPECT_LT(rel_l2(got.o, want.o), 2e-6);
    EXPECT_LT(max_abs(got.lse, want.lse), 3e-6);
    EXPECT_LT(rel_l2(got.dq, want.dq), 1e-5);
    EXPECT_LT(rel_l2(got.dk, want.dk), 1e-5);
    EXPECT_LT(rel_l2(got.dv, want.dv), 1e-5);
}

TEST_P(Attention, FastMatchesTwinInBf16)
{
    Problem<hn_bf16> p(GetParam()), reference(GetParam());
    const auto want = reference.twin(), got = p.fast();
    /* One rounding at the store: a few values go to the other neighbour. Backward reads o, in
     * which they differ. */
    EXPECT_LT(rel_l2(got.o, want.o), 1e-3);
    EXPECT_LT(rel_l2(got.dq, want.dq), 3e-3);
    EXPECT_LT(rel_l2(got.dk, want.dk), 3e-3);
    EXPECT_LT(rel_l2(got.dv, want.dv), 3e-3);
}

TEST_P(Attention, FastGivesTheSameBitsForAnyNumberOfThreads)
{
    Problem<float> first(GetParam());
    const auto want = first.fast();
    const int threads = omp_get_max_threads();
    for (int n : {1, 2, 3}) {
        omp_set_num_threads(n);
        Problem<float> again(GetParam());
        EXPECT_TRUE(again.fast() == want) << n << " threads";
    }
    omp_set_num_threads(threads);
}

/* clang-format off */
const Shape shapes[] = {
    {"one_token", {0, 1}, {}, 1, 1, 1, 1, 1, 0, 0, 0, true},
    {"one_head", {0, 7}, {}, 7, 7, 1, 1, 4, 0, 0, 0, true},
    {"grouped_packed", {0, 5, 5, 12, 29}, {}, 29, 29, 6, 2, 8, 0, 0, 0, true},
    {"uncovered_rows", {2, 9, 20}, {}, 24, 24, 4, 2, 16, 0, 0, 0, true},
    {"nothing_covered", {0, 0, 0}, {}, 5, 5, 2, 1, 4, 0, 0, 0, true},
    {"not_causal", {0, 13, 40}, {}, 40, 40, 2, 2, 12, 0, 0, 0, false},
    {"tile_edges", {0, 63, 127, 192, 257}, {}, 257, 257, 2, 1, 16, 0, 0, 0, true},
    {"one_long", {0, 201}, {}, 201, 201, 3, 1, 5, 0, 0, 0, true},
    {"window", {0, 90, 150}, {}, 150, 150, 2, 1, 8, 0, 17, 0, true},
    {"window_wider_than_tile", {0, 150}, {}, 150, 150, 2, 2, 8, 0, 70, 0, true},
    {"window_of_one", {0, 9}, {}, 9, 9, 2, 2, 8, 0, 1, 0, true},
    {"window_not_causal", {0, 70}, {}, 70, 70, 2, 2, 8, 0, 5, 0, false},
    {"softcap", {0, 21, 30}, {}, 30, 30, 4, 2, 8, 0, 0, 1.5f, true},
    {"softcap_window", {0, 70}, {}, 70, 70, 2, 2, 8, 0, 9, 1.5f, true},
    {"chunk_of_a_prompt", {0, 6, 13}, {0, 20, 90}, 13, 90, 4, 2, 8, 0, 0, 0, true},
    {"chunk_with_window", {0, 6, 13}, {0, 20, 90}, 15, 95, 4, 2, 8, 0, 12, 0, true},
    {"more_queries_than_keys", {0, 20}, {0, 7}, 20, 7, 2, 1, 8, 0, 0, 0, true},
    {"queries_without_keys", {0, 3, 8}, {0, 4, 4}, 8, 4, 2, 1, 8, 0, 0, 0, false},
    {"values_of_another_width", {0, 17, 31}, {}, 31, 31, 4, 2, 8, 10, 0, 0, true},
    {"wide_heads", {0, 40}, {}, 40, 40, 2, 1, 80, 130, 0, 0, true},
};
/* clang-format on */
INSTANTIATE_TEST_SUITE_P(Shapes, Attention, ::testing::ValuesIn(shapes),
                         [](const auto &i) { return std::string(i.param.name); });

TEST(AttentionTwin, MatchesHandComputedRows)
{
    /* Two tokens of width 1; scores of token 1: log 1 = 0 and log 3, so weights 1/4 and 3/4. */
    const float q[] = {0.5f, 1}, k[] = {0, std::log(3.0f)}, v[] = {8, 4};
    const int32_t offsets[] = {0, 2};
    float o[2], lse[2], dq[2], dk[2], dv[2];
    const float dout[] = {0, 1};
    hn_attention_args a = {};
    a.q = q, a.k = k, a.v = v, a.q_offsets = offsets, a.o = o, a.lse = lse;
    a.dout = dout, a.dq = dq, a.dk = dk, a.dv = dv;
    a.ld_q = a.ld_k = a.ld_v = a.ld_o = a.ld_dout = a.ld_dq = a.ld_dk = a.ld_dv = 1;
    a.q_rows = a.kv_rows = 2;
    a.sequences = a.heads = a.kv_heads = a.head_dim = 1;
    a.scale = 1;
    a.causal = true;
    ASSERT_HN_OK(hn_attention_fwd_cpu(&a));
    EXPECT_FLOAT_EQ(o[0], 8);
    EXPECT_FLOAT_EQ(o[1], 5);
    EXPECT_FLOAT_EQ(lse[0], 0);
    EXPECT_FLOAT_EQ(lse[1], std::log(4.0f));
    ASSERT_HN_OK(hn_attention_bwd_cpu(&a));
    EXPECT_FLOAT_EQ(dv[0], 0.25f);
    EXPECT_FLOAT_EQ(dv[1], 0.75f);
    EXPECT_NEAR(dk[0], 0.75f, 1e-6); /* p (v - o) q = 1/4 * 3 */
    EXPECT_NEAR(dk[1], -0.75f, 1e-6);
    EXPECT_NEAR(dq[1], -0.75f * std::log(3.0f), 1e-6);
    EXPECT_FLOAT_EQ(dq[0], 0);
}

/* sum of dout * o, by the twin. */
double loss(Problem<float> &p)
{
    const auto a = p.args();
    EXPECT_HN_OK(hn_attention_fwd_cpu(&a));
    double sum = 0;
    for (int64_t i = 0; i < p.s.q_rows; i++)
        for (int64_t c = 0; c < p.o_cols; c++)
            sum += as_double(p.o.data()[i * p.ld_o + c]) * as_double(p.dout.data()[i * p.ld_o + c]);
    return sum;
}

void check_differences(const Shape &s)
{
    SCOPED_TRACE(s.name);
    Problem<float> p(s);
    const auto a = p.args();
    ASSERT_HN_OK(hn_attention_fwd_cpu(&a));
    ASSERT_HN_OK(hn_attention_bwd_cpu(&a));
    struct Operand {
        GuardedArray<float> *x, *dx;
        int64_t rows, cols, ld;
    };
    for (const Operand &t : {Operand{&p.q, &p.dq, s.q_rows, p.q_cols, p.ld_q},
                             Operand{&p.k, &p.dk, s.kv_rows, p.k_cols, p.ld_k},
                             Operand{&p.v, &p.dvalue, s.kv_rows, p.v_cols, p.ld_v}}) {
        std::vector<double> got, want;
        for (int64_t i = 0; i < t.rows; i++)
            for (int64_t c = 0; c < t.cols; c++) {
                float &x = t.x->data()[i * t.ld + c];
                const float old = x, h = 1e-2f;
                x = old + h;
                const float up = x;
                const double above = loss(p);
                x = old - h;
                const double below = loss(p);
                want.push_back((above - below) / ((double)up - (double)x));
                x = old;
                got.push_back(as_double(t.dx->data()[i * t.ld + c]));
            }
        EXPECT_LT(rel_l2(got, want), 1e-3); /* second-order differences, h = 1e-2 */
    }
}

TEST(AttentionTwin, BackwardMatchesFiniteDifferences)
{
    check_differences({"packed", {0, 3, 7}, {}, 7, 7, 4, 2, 3, 0, 0, 0, true});
    check_differences({"capped", {0, 5}, {}, 5, 5, 2, 1, 4, 2, 3, 1.0f, true});
    check_differences({"chunk", {0, 2, 5}, {0, 4, 7}, 5, 7, 2, 1, 3, 0, 0, 0, true});
    check_differences({"full", {0, 4}, {0, 3}, 4, 3, 2, 2, 2, 0, 0, 0, false});
}

/* The mask written out: o by brute force from "may query i see key j". */
void check_mask(const Shape &s, const std::function<bool(int64_t i, int64_t j)> &sees)
{
    SCOPED_TRACE(s.name);
    Problem<float> p(s, 0);
    p.twin();
    const int64_t n = s.q_rows, d = s.head_dim;
    std::vector<double> want;
    for (int64_t i = 0; i < n; i++) {
        std::vector<double> w((size_t)n, 0);
        double sum = 0;
        for (int64_t j = 0; j < n; j++) {
            if (!sees(i, j)) continue;
            double t = 0;
            for (int64_t c = 0; c < d; c++)
                t += as_double(p.q.data()[i * d + c]) * as_double(p.k.data()[j * d + c]);
            sum += w[(size_t)j] = std::exp(t / std::sqrt((double)d));
        }
        for (int64_t c = 0; c < d; c++) {
            double o = 0;
            for (int64_t j = 0; j < n; j++)
                o += w[(size_t)j] / sum * as_double(p.v.data()[j * d + c]);
            want.push_back(o);
        }
    }
    EXPECT_LT(rel_l2(p.o.host(), want), 1e-6);
}

TEST(AttentionTwin, WindowCountsTheQueryItself)
{
    check_mask({"window", {0, 12}, {}, 12, 12, 1, 1, 4, 0, 3, 0, true},
               [](int64_t i, int64_t j) { return i - 3 < j && j <= i; });
}

TEST(AttentionTwin, SequencesDoNotSeeEachOther)
{
    check_mask({"packed", {0, 5, 12}, {}, 12, 12, 1, 1, 4, 0, 0, 0, true},
               [](int64_t i, int64_t j) { return (i < 5) == (j < 5) && j <= i; });
}

TEST(AttentionTwin, GroupedHeadsEqualRepeatedHeads)
{
    const Shape grouped = {"grouped", {0, 9}, {}, 9, 9, 4, 2, 8, 0, 0, 0, true};
    Shape repeated = grouped;
    repeated.kv_heads = 4;
    Problem<float> a(grouped, 0), b(repeated, 0);
    for (int64_t i = 0; i < 9; i++)
        for (int64_t h = 0; h < 4; h++)
            for (int64_t c = 0; c < 8; c++) {
                b.k.data()[i * 32 + h * 8 + c] = a.k.data()[i * 16 + h / 2 * 8 + c];
                b.v.data()[i * 32 + h * 8 + c] = a.v.data()[i * 16 + h / 2 * 8 + c];
            }
    const auto x = a.twin(), y = b.twin();
    EXPECT_TRUE(same_bits(x.o, y.o));
    EXPECT_TRUE(same_bits(x.dq, y.dq));
    std::vector<double> sum;
    for (int64_t i = 0; i < 9; i++)
        for (int64_t g = 0; g < 2; g++)
            for (int64_t c = 0; c < 8; c++)
                sum.push_back(as_double(y.dk[(size_t)(i * 32 + g * 16 + c)]) +
                              as_double(y.dk[(size_t)(i * 32 + g * 16 + 8 + c)]));
    EXPECT_LT(rel_l2(x.dk, sum), 1e-6);
}

TEST(AttentionFast, GivesASequenceTheSameBitsAloneAndPacked)
{
    const int64_t n = 100, before = 37;
    Problem<float> packed({"packed", {0, 37, 137, 150}, {}, 150, 150, 4, 2, 8, 0, 0, 0, true}, 0);
    Problem<float> alone({"alone", {0, 100}, {}, n, n, 4, 2, 8, 0, 0, 0, true}, 0);
    const auto copy = [&](GuardedArray<float> &to, GuardedArray<float> &from, int64_t cols) {
        std::memcpy(to.data(), from.data() + before * cols, sizeof(float) * (size_t)(n * cols));
    };
    copy(alone.q, packed.q, 32), copy(alone.dout, packed.dout, 32);
    copy(alone.k, packed.k, 16), copy(alone.v, packed.v, 16);
    const auto all = packed.fast(), one = alone.fast();
    const auto part = [&](const std::vector<float> &v, int64_t cols) {
        return std::vector<float>(v.begin() + before * cols, v.begin() + (before + n) * cols);
    };
    EXPECT_TRUE(same_bits(part(all.o, 32), one.o));
    EXPECT_TRUE(same_bits(part(all.lse, 4), one.lse));
    EXPECT_TRUE(same_bits(part(all.dq, 32), one.dq));
    EXPECT_TRUE(same_bits(part(all.dk, 16), one.dk));
    EXPECT_TRUE(same_bits(part(all.dv, 16), one.dv));
}

TEST(AttentionFast, ReadsAndWritesColumnsOfOneBuffer)
{
    const Shape s = {"fused", {0, 30, 70}, {}, 70, 70, 4, 2, 8, 0, 0, 0, true};
    Problem<float> apart(s, 0);
    const auto want = apart.fast();
    const int64_t ld = 64; /* 32 of q, 16 of k, 16 of v */
    GuardedArray<float> qkv((size_t)(70 * ld)), gradients((size_t)(70 * ld));
    for (int64_t i = 0; i < 70; i++) {
        std::memcpy(qkv.data() + i * ld, apart.q.data() + i * 32, 32 * sizeof(float));
        std::memcpy(qkv.data() + i * ld + 32, apart.k.data() + i * 16, 16 * sizeof(float));
        std::memcpy(qkv.data() + i * ld + 48, apart.v.data() + i * 16, 16 * sizeof(float));
    }
    Problem<float> p(s, 0);
    auto a = p.args();
    a.q = qkv.data(), a.k = qkv.data() + 32, a.v = qkv.data() + 48;
    a.dq = gradients.data(), a.dk = gradients.data() + 32, a.dv = gradients.data() + 48;
    a.ld_q = a.ld_k = a.ld_v = a.ld_dq = a.ld_dk = a.ld_dv = ld;
    GuardedArray<char> forward(hn_attention_fwd_fast_scratch(&a));
    GuardedArray<char> backward(hn_attention_bwd_fast_scratch(&a));
    ASSERT_HN_OK(hn_attention_fwd_fast(&a, forward.data()));
    ASSERT_HN_OK(hn_attention_bwd_fast(&a, backward.data()));
    EXPECT_TRUE(same_bits(p.o.host(), want.o));
    const auto got = gradients.host();
    for (int64_t i = 0; i < 70; i++) {
        EXPECT_EQ(std::memcmp(&got[(size_t)(i * ld)], &want.dq[(size_t)(i * 32)], 128), 0);
        EXPECT_EQ(std::memcmp(&got[(size_t)(i * ld + 32)], &want.dk[(size_t)(i * 16)], 64), 0);
        EXPECT_EQ(std::memcmp(&got[(size_t)(i * ld + 48)], &want.dv[(size_t)(i * 16)], 64), 0);
    }
}

TEST(AttentionFast, StaysFiniteForLargeScores)
{
    Problem<float> p({"large", {0, 100}, {}, 100, 100, 2, 2, 8, 0, 0, 0, true}, 0);
    for (size_t i = 0; i < p.q.size(); i++) p.q.data()[i] *= 300;
    Problem<float> reference(p.s, 0);
    std::memcpy(reference.q.data(), p.q.data(), p.q.size() * sizeof(float));
    const auto want = reference.twin(), got = p.fast();
    EXPECT_LT(rel_l2(got.o, want.o), 1e-3); /* scores near 1000 carry an error of 1e-4 */
}

TEST(AttentionFast, CarriesNaNIntoTheRowsThatSeeIt)
{
    Problem<float> p({"nan", {0, 6, 12}, {}, 12, 12, 1, 1, 4, 0, 0, 0, true}, 0);
    p.k.data()[3 * 4] = NAN;
    const auto r = p.fast();
    for (int64_t i = 0; i < 12; i++)
        EXPECT_EQ(std::isnan(r.o[(size_t)(i * 4)]), i >= 3 && i < 6) << "row " << i;
    p.k.data()[0] = NAN; /* the only key of row 0 */
    EXPECT_TRUE(std::isnan(p.fast().o[0]));
}

TEST(AttentionCheck, NamesWhatIsWrong)
{
    const Shape s = {"good", {0, 4, 6}, {}, 6, 6, 4, 2, 8, 0, 0, 0, true};
    Problem<float> p(s);
    const auto good = p.args();
    EXPECT_HN_OK(hn_attention_check(&good, true));
    const auto with = [&](auto change) {
        auto a = good;
        change(a);
        return a;
    };
    const auto fails = [&](const hn_attention_args &a, hn_status code, const char *text) {
        char scratch[64];
        EXPECT_HN_FAIL(hn_attention_fwd_cpu(&a), code, text);
        EXPECT_HN_FAIL(hn_attention_fwd_fast(&a, scratch), code, text);
        EXPECT_HN_FAIL(hn_attention_bwd_cpu(&a), code, text);
        EXPECT_HN_FAIL(hn_attention_bwd_fast(&a, scratch), code, text);
    };
    using A = hn_attention_args;
    fails(with([](A &a) { a.q = nullptr; }), HN_ERR_ARG, "q is NULL");
    fails(with([](A &a) { a.lse = nullptr; }), HN_ERR_ARG, "lse is NULL");
    fails(with([](A &a) { a.q_offsets = nullptr; }), HN_ERR_ARG, "q_offsets is NULL");
    fails(with([](A &a) { a.dtype = HN_F16; }), HN_ERR_UNSUPPORTED, "f16");
    fails(with([](A &a) { a.kv_heads = 3; }), HN_ERR_SHAPE, "4 heads");
    fails(with([](A &a) { a.head_dim = 0; }), HN_ERR_SHAPE, "head_dim 0");
    fails(with([](A &a) { a.ld_k = 7; }), HN_ERR_SHAPE, "leading dimension 7 of k");
    fails(with([](A &a) { a.q_rows = 0; }), HN_ERR_SHAPE, "q is [0, 32]");
    fails(with([](A &a) { a.sequences = 0; }), HN_ERR_SHAPE, "0 sequences");
    fails(with([](A &a) { a.scale = INFINITY; }), HN_ERR_ARG, "scale inf");
    fails(with([](A &a) { a.softcap = -1; }), HN_ERR_ARG, "softcap -1");
    fails(with([](A &a) { a.window = -1; }), HN_ERR_ARG, "window -1");
    const int32_t falling[] = {0, 4, 3}, beyond[] = {0, 4, 7}, negative[] = {-1, 4, 6};
    fails(with([&](A &a) { a.q_offsets = falling; }), HN_ERR_ARG, "q_offsets[2] = 3");
    fails(with([&](A &a) { a.q_offsets = beyond; }), HN_ERR_ARG, "q_offsets[2] = 7");
    fails(with([&](A &a) { a.q_offsets = negative; }), HN_ERR_ARG, "q_offsets[0] = -1");
    fails(with([&](A &a) { a.kv_offsets = beyond; }), HN_ERR_ARG, "kv_offsets[2] = 7");
    const auto a = with([](A &x) { x.dv = nullptr; });
    EXPECT_HN_OK(hn_attention_check(&a, false));
    EXPECT_HN_FAIL(hn_attention_check(&a, true), HN_ERR_ARG, "dv is NULL");
    EXPECT_HN_FAIL(hn_attention_fwd_fast(&good, nullptr), HN_ERR_ARG, "scratch is NULL");
    const auto o = p.o.host(); /* nothing was written */
    EXPECT_TRUE(std::all_of(o.begin(), o.end(), [](float x) { return std::isnan(x); }));
}

#ifdef HONE_CUDA

TEST_P(Attention, CudaMatchesCpuInF32)
{
    HN_NEED_CUDA();
    DeviceProblem<float> p(GetParam());
    Problem<float> reference(GetParam());
    const auto want = reference.twin(), got = p.run();
    /* fp32 against double: sums of up to a few hundred terms */
    EXPECT_LT(rel_l2(got.o, want.o), 3e-6);
    EXPECT_LT(max_abs(got.lse, want.lse), 5e-6);
    EXPECT_LT(rel_l2(got.dq, want.dq), 1e-5);
    EXPECT_LT(rel_l2(got.dk, want.dk), 1e-5);
    EXPECT_LT(rel_l2(got.dv, want.dv), 1e-5);
}

TEST_P(Attention, CudaMatchesCpuInBf16)
{
    HN_NEED_CUDA();
    DeviceProblem<hn_bf16> p(GetParam());
    Problem<hn_bf16> reference(GetParam());
    const auto want = reference.twin(), got = p.run();
    /* One rounding at the store: see FastMatchesTwinInBf16. */
    EXPECT_LT(rel_l2(got.o, want.o), 1e-3);
    EXPECT_LT(max_abs(got.lse, want.lse), 5e-6);
    EXPECT_LT(rel_l2(got.dq, want.dq), 3e-3);
    EXPECT_LT(rel_l2(got.dk, want.dk), 3e-3);
    EXPECT_LT(rel_l2(got.dv, want.dv), 3e-3);
}

TEST_P(Attention, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    DeviceProblem<float> one(GetParam()), two(GetParam()), captured(GetParam());
    const auto want = one.run();
    EXPECT_TRUE(two.run() == want);
    EXPECT_TRUE(captured.run_from_graph() == want);
}

/* bf16 heads of 64 and 128 on 16-byte boundaries: the tensor core kernels. */
constexpr int64_t kAligned = 8;
class AttentionTensorCores : public Attention {};

/* Keys with offsets of their own, though the same: not the kernel for short sequences. */
Shape of_any_length(Shape s)
{
    if (s.kv_offsets.empty()) s.kv_offsets = s.q_offsets;
    return s;
}

void check_tensor_cores(const Shape &shape)
{
    DeviceProblem<hn_bf16> p(shape, kAligned);
    Problem<hn_bf16> reference(shape, kAligned);
    const auto want = reference.twin(), got = p.run();
    /* p is rounded to bf16 (relative error up to 2^-9 a weight), so is o at the store; gradients
     * have a rounded dt and read an o that differs. */
    EXPECT_LT(rel_l2(got.o, want.o), 4e-3);
    EXPECT_LT(max_abs(got.lse, want.lse), 2e-5);
    EXPECT_LT(rel_l2(got.dq, want.dq), 1e-2);
    EXPECT_LT(rel_l2(got.dk, want.dk), 1e-2);
    EXPECT_LT(rel_l2(got.dv, want.dv), 1e-2);
}

TEST_P(AttentionTensorCores, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    check_tensor_cores(of_any_length(GetParam()));
}

/* A softcap that changes next to nothing leads sm_90 to the kernels of other GPUs. */
TEST_P(AttentionTensorCores, CudaMatchesCpuWithoutWgmma)
{
    HN_NEED_CUDA();
    Shape shape = of_any_length(GetParam());
    if (shape.softcap > 0) GTEST_SKIP() << "the same as above";
    shape.softcap = 1e3f;
    check_tensor_cores(shape);
}

TEST_P(AttentionTensorCores, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    const Shape s = of_any_length(GetParam());
    DeviceProblem<hn_bf16> one(s, kAligned), two(s, kAligned), captured(s, kAligned);
    const auto want = one.run();
    EXPECT_TRUE(two.run() == want);
    EXPECT_TRUE(captured.run_from_graph() == want);
}

/* clang-format off */
const Shape wide_shapes[] = {
    {"h64_one_token", {0, 1}, {}, 1, 1, 1, 1, 64, 0, 0, 0, true},
    {"h64_tile_edges", {0, 63, 127, 192, 257}, {}, 257, 257, 2, 1, 64, 0, 0, 0, true},
    {"h64_one_long", {0, 201}, {}, 201, 201, 2, 1, 64, 0, 0, 0, true},
    {"h64_uncovered_rows", {3, 70, 70, 90}, {}, 160, 160, 2, 2, 64, 0, 0, 0, true},
    {"h64_not_causal", {0, 70, 150}, {}, 150, 150, 2, 2, 64, 0, 0, 0, false},
    {"h64_window", {0, 150}, {}, 150, 150, 2, 1, 64, 0, 17, 0, true},
    {"h64_window_wider_than_tile", {0, 200}, {}, 200, 200, 1, 1, 64, 0, 70, 0, true},
    {"h64_window_not_causal", {0, 140}, {}, 140, 140, 1, 1, 64, 0, 5, 0, false},
    {"h64_softcap", {0, 80}, {}, 80, 80, 2, 2, 64, 0, 9, 1.5f, true},
    {"h64_chunk_of_a_prompt", {0, 6, 80}, {0, 20, 160}, 80, 160, 4, 2, 64, 0, 0, 0, true},
    {"h64_more_queries_than_keys", {0, 90}, {0, 7}, 90, 7, 2, 1, 64, 0, 0, 0, true},
    {"h64_queries_without_keys", {0, 3, 8}, {0, 4, 4}, 8, 4, 2, 1, 64, 0, 0, 0, false},
    {"h64_nothing_covered", {0, 0}, {}, 5, 5, 2, 1, 64, 0, 0, 0, true},
    {"h64_block_edges", {0, 127, 255, 384, 640}, {}, 640, 640, 1, 1, 64, 0, 0, 0, true},
    {"h64_block_edges_not_causal", {0, 129, 321}, {}, 321, 321, 1, 1, 64, 0, 0, 0, false},
    {"h64_windows_of_blocks", {0, 400}, {}, 400, 400, 2, 1, 64, 0, 129, 0, true},
    {"h64_long_chunk_of_a_prompt", {0, 70, 200}, {0, 200, 520}, 200, 520, 2, 1, 64, 0, 0, 0, true},
    {"h128_one_token", {0, 1}, {}, 1, 1, 1, 1, 128, 0, 0, 0, true},
    {"h128_tile_edges", {0, 31, 64, 128, 193}, {}, 193, 193, 2, 1, 128, 0, 0, 0, true},
    {"h128_one_long", {0, 161}, {}, 161, 161, 2, 1, 128, 0, 0, 0, true},
    {"h128_not_causal", {0, 70, 110}, {}, 112, 112, 1, 1, 128, 0, 0, 0, false},
    {"h128_window", {0, 150}, {}, 150, 150, 1, 1, 128, 0, 40, 0, true},
    {"h128_softcap", {0, 80}, {}, 80, 80, 2, 2, 128, 0, 0, 1.5f, true},
    {"h128_block_edges", {0, 127, 255, 384, 640}, {}, 640, 640, 1, 1, 128, 0, 0, 0, true},
    {"h128_block_edges_not_causal", {0, 129, 321}, {}, 321, 321, 1, 1, 128, 0, 0, 0, false},
    {"h128_windows_of_blocks", {0, 400}, {}, 400, 400, 2, 1, 128, 0, 129, 0, true},
    {"h128_uncovered_rows", {3, 70, 70, 230}, {}, 260, 260, 2, 2, 128, 0, 0, 0, true},
    {"h128_more_queries_than_keys", {0, 200}, {0, 130}, 200, 130, 2, 1, 128, 0, 0, 0, true},
    {"h128_chunk_of_a_prompt", {0, 6, 40}, {0, 20, 110}, 40, 110, 4, 2, 128, 0, 0, 0, true},
};
/* clang-format on */
INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTensorCores, ::testing::ValuesIn(wide_shapes),
                         [](const auto &i) { return std::string(i.param.name); });

/* Backward in one kernel, a head of a sequence a block. */
class AttentionShort : public Attention {};

TEST_P(AttentionShort, CudaMatchesCpu)
{
    HN_NEED_CUDA();
    DeviceProblem<hn_bf16> p(GetParam(), kAligned);
    const auto a = p.args();
    bool is_short = false;
    ASSERT_HN_OK(hn_attention_cuda_short(&a, &is_short));
    int bytes = 0; /* of shared memory: GPUs with less take other kernels for the longest */
    ASSERT_EQ(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
              cudaSuccess);
    EXPECT_TRUE(is_short || bytes < 227 * 1024);
    check_tensor_cores(GetParam());
}

TEST_P(AttentionShort, CudaRepeatsBitForBitAlsoFromACapturedGraph)
{
    HN_NEED_CUDA();
    DeviceProblem<hn_bf16> one(GetParam(), kAligned), two(GetParam(), kAligned),
        captured(GetParam(), kAligned);
    const auto want = one.run();
    EXPECT_TRUE(two.run() == want);
    EXPECT_TRUE(captured.run_from_graph() == want);
}

/* clang-format off */
const Shape short_shapes[] = {
    {"h64_one_token", {0, 1}, {}, 1, 1, 1, 1, 64, 0, 0, 0, true},
    {"h64_image", {0, 197, 394}, {}, 394, 394, 3, 3, 64, 0, 0, 0, false, 197},
    {"h64_lengths", {0, 1, 17, 34, 97, 161, 226}, {}, 226, 226, 2, 2, 64, 0, 0, 0, false, 65},
    {"h64_lengths_causal", {0, 1, 17, 34, 97, 161, 226}, {}, 226, 226, 2, 2, 64, 0, 0, 0, true},
    {"h64_longest", {0, 127, 255, 384, 639, 895}, {}, 895, 895, 1, 1, 64, 0, 0, 0, false, 256},
    {"h64_longest_causal", {0, 127, 255, 384, 639, 895}, {}, 895, 895, 1, 1, 64, 0, 0, 0, true,
     256},
    {"h64_uncovered_rows", {3, 70, 70, 90}, {}, 160, 160, 2, 2, 64, 0, 0, 0, true},
    {"h64_mostly_padding", {5, 9, 49}, {}, 400, 400, 2, 2, 64, 0, 0, 0, false, 40},
    {"h64_nothing_covered", {0, 0}, {}, 5, 5, 2, 2, 64, 0, 0, 0, true},
    {"h64_window", {0, 150}, {}, 150, 150, 2, 2, 64, 0, 17, 0, true},
    {"h64_window_of_one", {0, 33}, {}, 33, 33, 1, 1, 64, 0, 1, 0, true},
    {"h64_window_not_causal", {0, 140, 150}, {}, 150, 150, 1, 1, 64, 0, 5, 0, false},
    {"h64_window_wider_than_rows", {0, 40}, {}, 40, 40, 1, 1, 64, 0, 70, 0, false},
    {"h32_image", {0, 197, 394}, {}, 394, 394, 3, 3, 32, 0, 0, 0, false, 197},
    {"h32_lengths_causal", {2, 3, 19, 36, 99}, {}, 100, 100, 2, 2, 32, 0, 0, 0, true},
    {"h32_longest", {0, 256}, {}, 256, 256, 1, 1, 32, 0, 0, 0, true},
    {"h128_lengths", {0, 1, 17, 34, 97, 161, 226}, {}, 226, 226, 2, 2, 128, 0, 0, 0, false, 65},
    {"h128_image", {0, 197, 394}, {}, 394, 394, 2, 2, 128, 0, 0, 0, false, 197},
    {"h128_longest_causal", {3, 227, 300}, {}, 310, 310, 1, 1, 128, 0, 0, 0, true, 224},
};
/* clang-format on */
INSTANTIATE_TEST_SUITE_P(Shapes, AttentionShort, ::testing::ValuesIn(short_shapes),
                         [](const auto &i) { return std::string(i.param.name); });

/* Rows 37 .. 136 of a packed batch, and the same rows as a batch of their own. */
template <class T>
void check_alone_and_packed(int64_t d, int64_t kv_heads)
{
    const int64_t n = 100, before = 37;
    const int64_t kv = kv_heads * d;
    DeviceProblem<T> packed({"", {0, 37, 137, 150}, {}, 150, 150, 4, kv_heads, d, 0, 0, 0, true},
                            0);
    DeviceProblem<T> alone({"", {0, 100}, {}, n, n, 4, kv_heads, d, 0, 0, 0, true}, 0);
    const auto part = [&](const auto &v, int64_t cols) {
        return std::decay_t<decltype(v)>(v.begin() + before * cols,
                                         v.begin() + (before + n) * cols);
    };
    alone.q.assign(part(packed.q.host(), 4 * d));
    alone.dout.assign(part(packed.dout.host(), 4 * d));
    alone.k.assign(part(packed.k.host(), kv));
    alone.v.assign(part(packed.v.host(), kv));
    const auto all = packed.run(), one = alone.run();
    EXPECT_TRUE(same_bits(part(all.o, 4 * d), one.o));
    EXPECT_TRUE(same_bits(part(all.lse, 4), one.lse));
    EXPECT_TRUE(same_bits(part(all.dq, 4 * d), one.dq));
    EXPECT_TRUE(same_bits(part(all.dk, kv), one.dk));
    EXPECT_TRUE(same_bits(part(all.dv, kv), one.dv));
}

TEST(AttentionCuda, GivesASequenceTheSameBitsAloneAndPacked)
{
    HN_NEED_CUDA();
    check_alone_and_packed<float>(8, 2);
    check_alone_and_packed<hn_bf16>(8, 2);
    check_alone_and_packed<hn_bf16>(64, 2);
    check_alone_and_packed<hn_bf16>(64, 4); /* the kernel for short sequences */
    check_alone_and_packed<hn_bf16>(128, 2);
}

/* q, k and v, and their gradients, as columns of one buffer. */
template <class T>
void check_one_buffer(int64_t d, int64_t kv_heads)
{
    const Shape s = {"fused", {0, 30, 70}, {}, 70, 70, 4, kv_heads, d, 0, 0, 0, true};
    const int64_t k_at = 4 * d, v_at = k_at + kv_heads * d;
    DeviceProblem<T> apart(s, 0), p(s, 0);
    const auto want = apart.run();
    const auto q = p.q.host(), k = p.k.host(), v = p.v.host();
    const size_t width[] = {(size_t)(4 * d), (size_t)(kv_heads * d)}, ld = width[0] + 2 * width[1];
    std::vector<T> qkv;
    const auto add = [&](const std::vector<T> &x, size_t i, size_t cols) {
        qkv.insert(qkv.end(), x.begin() + (int64_t)(i * cols),
                   x.begin() + (int64_t)((i + 1) * cols));
    };
    for (size_t i = 0; i < 70; i++) add(q, i, width[0]), add(k, i, width[1]), add(v, i, width[1]);
    DeviceArray<T> in(qkv), out(70 * ld);
    auto a = p.args();
    a.q = in.data(), a.k = in.data() + k_at, a.v = in.data() + v_at;
    a.dq = out.data(), a.dk = out.data() + k_at, a.dv = out.data() + v_at;
    a.ld_q = a.ld_k = a.ld_v = a.ld_dq = a.ld_dk = a.ld_dv = (int64_t)ld;
    DeviceArray<char> scratch(hn_attention_bwd_cuda_scratch(&a));
    ASSERT_HN_OK(hn_attention_fwd_cuda(&a, nullptr));
    ASSERT_HN_OK(hn_attention_bwd_cuda(&a, scratch.data(), nullptr));
    EXPECT_TRUE(same_bits(p.o.host(), want.o));
    const auto got = out.host();
    for (size_t i = 0; i < 70; i++) {
        const T *row = &got[i * ld];
        EXPECT_EQ(std::memcmp(row, &want.dq[i * width[0]], width[0] * sizeof(T)), 0);
        EXPECT_EQ(std::memcmp(row + k_at, &want.dk[i * width[1]], width[1] * sizeof(T)), 0);
        EXPECT_EQ(std::memcmp(row + v_at, &want.dv[i * width[1]], width[1] * sizeof(T)), 0);
    }
}

TEST(AttentionCuda, ReadsAndWritesColumnsOfOneBuffer)
{
    HN_NEED_CUDA();
    check_one_buffer<float>(8, 2);
    check_one_buffer<hn_bf16>(64, 2);
    check_one_buffer<hn_bf16>(64, 4); /* the kernel for short sequences */
    check_one_buffer<hn_bf16>(128, 2);
}

TEST(AttentionCuda, StaysFiniteForLargeScores)
{
    HN_NEED_CUDA();
    for (const int64_t d : {8, 64}) { /* of 64: the tensor cores */
        DeviceProblem<hn_bf16> p({"large", {0, 100}, {}, 100, 100, 2, 2, d, 0, 0, 0, true}, 0);
        auto q = p.q.host();
        for (auto &x : q) x = hn_bf16_from_f32(300 * hn_bf16_to_f32(x));
        p.q.assign(q);
        std::memcpy(p.host.q.data(), q.data(), q.size() * sizeof(hn_bf16));
        /* nearly one-hot weights; scores near 1000 carry an error of 1e-4 */
        EXPECT_LT(rel_l2(p.run().o, p.host.twin().o), 4e-3);
    }
}

TEST(AttentionCuda, CarriesNaNIntoTheRowsThatSeeIt)
{
    HN_NEED_CUDA();
    for (const int64_t d : {8, 64}) {
        DeviceProblem<hn_bf16> p({"nan", {0, 6, 12}, {}, 12, 12, 1, 1, d, 0, 0, 0, true}, 0);
        auto k = p.k.host();
        k[(size_t)(3 * d)] = hn_bf16_from_f32(NAN);
        p.k.assign(k);
        const auto r = p.run();
        for (int64_t i = 0; i < 12; i++)
            EXPECT_EQ(std::isnan(as_double(r.o[(size_t)(i * d)])), i >= 3 && i < 6) << "row " << i;
        k[0] = hn_bf16_from_f32(NAN); /* the only key of row 0 */
        p.k.assign(k);
        EXPECT_TRUE(std::isnan(as_double(p.run().o[0])));
    }
}

TEST(AttentionCuda, ChecksItsArguments)
{
    Problem<float> p({"good", {0, 4, 6}, {}, 6, 6, 4, 2, 8, 0, 0, 0, true});
    auto a = p.args();
    EXPECT_HN_FAIL(hn_attention_bwd_cuda(&a, nullptr, nullptr), HN_ERR_ARG, "scratch is NULL");
    a.ld_k = 7;
    EXPECT_HN_FAIL(hn_attention_fwd_cuda(&a, nullptr), HN_ERR_SHAPE, "leading dimension 7 of k");
    EXPECT_HN_FAIL(hn_attention_bwd_cuda(&a, nullptr, nullptr), HN_ERR_SHAPE, "7 of k");
}

TEST(AttentionCuda, RunsBackwardOfShortSequencesInOneKernelWhereItFits)
{
    HN_NEED_CUDA();
    const auto runs = [](int64_t d, auto change) {
        DeviceProblem<hn_bf16> p({"", {0, 6}, {}, 6, 6, 2, 2, d, 0, 0, 0, true}, 0);
        auto a = p.args();
        bool yes = false, wgmma = false;
        change(a);
        EXPECT_HN_OK(hn_attention_cuda_short(&a, &yes));
        EXPECT_HN_OK(hn_attention_cuda_wgmma(&a, true, &wgmma));
        EXPECT_FALSE(yes && wgmma);
        return yes;
    };
    using A = hn_attention_args;
    EXPECT_TRUE(runs(32, [](A &) {}));
    EXPECT_TRUE(runs(64, [](A &) {}));
    EXPECT_TRUE(runs(128, [](A &) {}));
    EXPECT_TRUE(runs(64, [](A &a) { a.longest = 6, a.q_rows = a.kv_rows = 1000; }));
    EXPECT_FALSE(runs(64, [](A &a) { a.q_rows = a.kv_rows = 257; }));
    EXPECT_FALSE(runs(64, [](A &a) { a.longest = 257; }));
    EXPECT_FALSE(runs(128, [](A &a) { a.longest = 225; }));
    EXPECT_FALSE(runs(64, [](A &a) { a.kv_heads = 1; }));
    EXPECT_FALSE(runs(64, [](A &a) { a.kv_offsets = a.q_offsets; }));
    EXPECT_FALSE(runs(64, [](A &a) { a.kv_rows = 7; }));
    EXPECT_FALSE(runs(64, [](A &a) { a.softcap = 2; }));
    EXPECT_FALSE(runs(64, [](A &a) { a.value_dim = 32; }));
    EXPECT_FALSE(runs(64, [](A &a) { a.ld_o += 1; }));
    EXPECT_FALSE(runs(80, [](A &) {}));
    EXPECT_FALSE(runs(64, [](A &a) { a.dtype = HN_F32; }));
}

/* A build that lost its code for sm_90a would pass all other tests, slowly. */
TEST(AttentionCuda, RunsOnWgmmaWhereItFits)
{
    HN_NEED_CUDA();
    cudaDeviceProp gpu;
    ASSERT_EQ(cudaGetDeviceProperties(&gpu, 0), cudaSuccess);
    const bool hopper = gpu.major == 9;
    const auto runs = [](int64_t d, auto change) {
        DeviceProblem<hn_bf16> p({"", {0, 6}, {}, 6, 6, 2, 1, d, 0, 0, 0, true}, 0);
        auto a = p.args();
        bool yes = false;
        change(a);
        EXPECT_HN_OK(hn_attention_cuda_wgmma(&a, true, &yes));
        return yes;
    };
    using A = hn_attention_args;
    EXPECT_EQ(runs(64, [](A &) {}), hopper);
    EXPECT_EQ(runs(128, [](A &) {}), hopper);
    EXPECT_FALSE(runs(80, [](A &) {}));
    EXPECT_FALSE(runs(64, [](A &a) { a.dtype = HN_F32; }));
    EXPECT_FALSE(runs(64, [](A &a) { a.softcap = 2; }));
    EXPECT_FALSE(runs(64, [](A &a) { a.ld_k += 1; }));
}

#endif

} // namespace
