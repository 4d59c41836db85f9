/* The ONNX Attention vectors that the operations express.
 *
 * Batches become packed sequences, [batch, heads, tokens, width] becomes [tokens, heads * width],
 * a past is put before the new keys. ONNX aligns the causal mask at the first new key; ours aligns
 * at the last key: keys that no query would see are cut off. With nonpad_kv_seqlen both align at
 * the end. float16 vectors run in fp32.
 *
 * Of 76 vectors 33 have no mask operand and are compared in full but for qk_matmul_output (one
 * vector; scores are never kept). The other 43 have an attn_mask, which the operations do not take
 * (masks come from offsets, causal and window): of these the 19 with a past still test kv_append.
 */
#include "hn_test.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/attention_decode.h"
#include "kernels/attention/kv_append.h"
#include "onnx_vectors.h"

namespace {

enum { Q, K, V, MASK, PAST_K, PAST_V, KV_LENGTHS };

/* An operand as rows of all heads: [batch][tokens][heads * width]. */
struct Rows {
    int64_t batch = 0, tokens = 0, heads = 0, width = 0;
    std::vector<float> x;
    float *at(int64_t b, int64_t t) { return x.data() + (b * tokens + t) * heads * width; }
};

Rows rows_of(const onnx::Tensor &t, int64_t heads)
{
    Rows r;
    r.batch = t.dim(0);
    if (t.shape.size() == 3) {
        r.tokens = t.dim(1), r.heads = heads, r.width = t.dim(2) / heads;
        r.x = t.f32();
        return r;
    }
    r.heads = t.dim(1), r.tokens = t.dim(2), r.width = t.dim(3);
    r.x.resize(t.values.size());
    size_t i = 0;
    for (int64_t b = 0; b < r.batch; b++)
        for (int64_t h = 0; h < r.heads; h++)
            for (int64_t k = 0; k < r.tokens; k++)
                for (int64_t c = 0; c < r.width; c++)
                    r.at(b, k)[h * r.width + c] = (float)t.values[i++];
    return r;
}

/* New rows behind the past, through kv_append into a cache that just holds both. */
void append(const onnx::Case &c, Rows *k, Rows *v)
{
    Rows past_k = rows_of(*c.in(PAST_K), 0), past_v = rows_of(*c.in(PAST_V), 0);
    Rows *const all[] = {k, v};
    Rows *const past[] = {&past_k, &past_v};
    Rows cache[2];
    for (int i = 0; i < 2; i++) {
        cache[i] = *all[i];
        cache[i].tokens += past[i]->tokens;
        cache[i].x.assign(
            (size_t)(cache[i].batch * cache[i].tokens * cache[i].heads * cache[i].width), NAN);
        for (int64_t b = 0; b < k->batch; b++)
            std::copy_n(past[i]->at(b, 0), past[i]->tokens * past[i]->heads * past[i]->width,
                        cache[i].at(b, 0));
    }
    const std::vector<int32_t> positions((size_t)k->batch, (int32_t)past_k.tokens);
    hn_kv_append_args a = {};
    a.k = k->x.data(), a.v = v->x.data(), a.positions = positions.data();
    a.k_cache = cache[0].x.data(), a.v_cache = cache[1].x.data();
    a.k_cols = a.ld_k = a.ld_k_cache = k->heads * k->width;
    a.v_cols = a.ld_v = a.ld_v_cache = v->heads * v->width;
    a.batch = k->batch, a.tokens = k->tokens, a.capacity = cache[0].tokens;
    ASSERT_HN_OK(hn_kv_append_cpu(&a));
    EXPECT_TRUE(same_bits(cache[0].x, rows_of(*c.out(1), 0).x)) << "present_key";
    EXPECT_TRUE(same_bits(cache[1].x, rows_of(*c.out(2), 0).x)) << "present_value";
    *k = cache[0];
    *v = cache[1];
}

double tolerance(const onnx::Case &c) { return c.in(Q)->dtype == "F16" ? 1e-3 : 2e-6; }

/* Causal vectors whose queries are the last tokens: decoding must give the same. */
void compare_decode(const onnx::Case &c, Rows *q, Rows *k, Rows *v,
                    const std::vector<int64_t> &lengths, float scale, float softcap)
{
    std::vector<int32_t> positions;
    for (const int64_t n : lengths) {
        if (n < q->tokens) return; /* queries before the first key */
        positions.push_back((int32_t)(n - q->tokens));
    }
    std::vector<float> o((size_t)(q->batch * q->tokens * q->heads * v->width));
    hn_attention_decode_args a = {};
    a.q = q->x.data(), a.k_cache = k->x.data(), a.v_cache = v->x.data();
    a.positions = positions.data(), a.o = o.data();
    a.ld_q = q->heads * q->width, a.ld_k = k->heads * k->width, a.ld_v = v->heads * v->width;
    a.ld_o = q->heads * v->width;
    a.batch = q->batch, a.tokens = q->tokens, a.capacity = k->tokens;
    a.heads = q->heads, a.kv_heads = k->heads, a.head_dim = q->width, a.value_dim = v->width;
    a.scale = scale, a.softcap = softcap;
    GuardedArray<char> scratch(hn_attention_decode_fast_scratch(&a));
    ASSERT_HN_OK(hn_attention_decode_fast(&a, scratch.data()));
    EXPECT_LT(max_abs(o, rows_of(*c.out(0), q->heads).x), tolerance(c)) << "decode";
}

void compare(const onnx::Case &c)
{
    Rows q = rows_of(*c.in(Q), c.integer("q_num_heads", 0));
    Rows k = rows_of(*c.in(K), c.integer("kv_num_heads", 0));
    Rows v = rows_of(*c.in(V), c.integer("kv_num_heads", 0));
    int64_t seen = q.tokens; /* keys up to the last query's own */
    if (c.in(PAST_K)) {
        seen += c.in(PAST_K)->dim(2);
        append(c, &k, &v);
    }
    if (c.in(MASK)) return;
    const bool causal = c.integer("is_causal", 0) != 0;
    const float scale = (float)c.number("scale", 1 / std::sqrt((double)q.width));
    const float softcap = (float)c.number("softcap", 0);
    std::vector<int64_t> lengths((size_t)q.batch, causal && seen < k.tokens ? seen : k.tokens);
    for (int64_t b = 0; c.in(KV_LENGTHS) && b < q.batch; b++)
        lengths[(size_t)b] = (int64_t)c.in(KV_LENGTHS)->values[(size_t)b];
    std::vector<int32_t> q_offsets = {0}, kv_offsets = {0};
    std::vector<float> packed_k, packed_v;
    for (int64_t b = 0; b < q.batch; b++) {
        const int64_t n = lengths[(size_t)b];
        packed_k.insert(packed_k.end(), k.at(b, 0), k.at(b, 0) + n * k.heads * k.width);
        packed_v.insert(packed_v.end(), v.at(b, 0), v.at(b, 0) + n * v.heads * v.width);
        q_offsets.push_back(q_offsets.back() + (int32_t)q.tokens);
        kv_offsets.push_back(kv_offsets.back() + (int32_t)n);
    }
    std::vector<float> o((size_t)(q.batch * q.tokens * q.heads * v.width));
    std::vector<float> lse((size_t)(q.batch * q.tokens * q.heads));
    hn_attention_args a = {};
    a.q = q.x.data(), a.k = packed_k.data(), a.v = packed_v.data();
    a.q_offsets = q_offsets.data(), a.kv_offsets = kv_offsets.data();
    a.o = o.data(), a.lse = lse.data();
    a.ld_q = q.heads * q.width, a.ld_k = k.heads * k.width, a.ld_v = v.heads * v.width;
    a.ld_o = q.heads * v.width;
    a.q_rows = q_offsets.back(), a.kv_rows = kv_offsets.back(), a.sequences = q.batch;
    a.heads = q.heads, a.kv_heads = k.heads, a.head_dim = q.width, a.value_dim = v.width;
    a.scale = scale, a.softcap = softcap, a.causal = causal;
    const auto want = rows_of(*c.out(0), q.heads).x;
    ASSERT_HN_OK(hn_attention_fwd_cpu(&a));
    EXPECT_LT(max_abs(o, want), tolerance(c)) << "twin";
    GuardedArray<char> scratch(hn_attention_fwd_fast_scratch(&a));
    ASSERT_HN_OK(hn_attention_fwd_fast(&a, scratch.data()));
    EXPECT_LT(max_abs(o, want), tolerance(c)) << "fast";
    if (causal) compare_decode(c, &q, &k, &v, lengths, scale, softcap);
}

TEST(AttentionOnnx, VectorsWithoutMasksMatch)
{
    HN_NEED_DATA(dir, "onnx-op-vectors");
    int without_mask = 0, with_past = 0;
    EXPECT_EQ(onnx::each(dir, "Attention",
                         [&](const onnx::Case &c) {
                             without_mask += c.in(MASK) == nullptr;
                             with_past += c.in(MASK) && c.in(PAST_K);
                             compare(c);
                         }),
              76);
    EXPECT_EQ(without_mask, 33);
    EXPECT_EQ(with_past, 19);
}

} // namespace
