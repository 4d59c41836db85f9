/* Attention as the graphs that cuDNN's matcher knows. The spelling matters: chains of pointwise
 * operations in another order, or tensors of another layout, are refused, or build and give wrong
 * numbers. Each remark "must" below was found that way.
 *
 * Sequences lie one after another ("ragged"): a tensor is [sequences, heads, longest, head_dim]
 * with an array of the element at which each sequence begins. Lengths and offsets are device
 * memory, so one plan serves every packing. Even sequences need neither, and are faster: 371
 * instead of 329 TFLOP/s forward (8 x 2048, heads of 64, cuDNN 9.19), 263 instead of 236 in the
 * deterministic backward. */
#ifdef HONE_CUDNN
#include <string.h>

#include "kernels/attention/cuda_attention_cudnn.h"

namespace {

using desc = hn_cudnn_desc;

constexpr cudnnDataType_t kF32 = CUDNN_DATA_FLOAT, kBf16 = CUDNN_DATA_BFLOAT16,
                          kI32 = CUDNN_DATA_INT32, kBool = CUDNN_DATA_BOOLEAN;

struct Builder {
    hn_cudnn_graph g;
    hn_attention_cudnn_entry *p;
    int64_t b, h, hkv, s, d;
    desc scale, minus_inf, window, length_q, length_k;
    desc q_at, k_at, o_at, row_at; /* offsets */
};

/* ---- tensors ---- */

desc supplied(Builder *x, int64_t id, desc t)
{
    x->p->id[x->p->n++] = id;
    return t;
}

desc host_scalar(Builder *x, int64_t id)
{
    const hn_dims one = {1, 1, 1, 1};
    return supplied(x, id, hn_cudnn_tensor(&x->g, id, kF32, one, one, HN_CUDNN_HOST, nullptr));
}

desc ints(Builder *x, int64_t id, int64_t n)
{
    const hn_dims dim = {n, 1, 1, 1}, one = {1, 1, 1, 1};
    return supplied(x, id, hn_cudnn_tensor(&x->g, id, kI32, dim, one, HN_CUDNN_REAL, nullptr));
}

/* First rows of the sequences, in elements of a tensor with this leading dimension. */
desc offsets(Builder *x, int64_t ld)
{
    if (x->p->key.even) return nullptr;
    const int slot = x->p->n_offsets++;
    x->p->offset_ld[slot] = ld;
    return ints(x, HN_ID_FIRST_OFFSETS + slot, x->b + 1);
}

/* Tensors that go together share an array of offsets where their leading dimensions are equal. */
desc shared_offsets(Builder *x, desc at, int64_t at_ld, int64_t ld)
{
    return ld == at_ld ? at : offsets(x, ld);
}

/* A tensor of the call, [rows, heads * head_dim]; transposed: dims and strides are swapped. */
desc matrix(Builder *x, int64_t id, cudnnDataType_t type, int64_t heads, int64_t ld, desc at,
            bool transposed = false)
{
    hn_dims dim = {x->b, heads, x->s, x->d}, stride = {x->s * ld, x->d, ld, 1};
    if (transposed) {
        dim = {x->b, heads, x->d, x->s};
        stride = {x->s * ld, x->d, 1, ld};
    }
    return supplied(x, id, hn_cudnn_tensor(&x->g, id, type, dim, stride, HN_CUDNN_REAL, at));
}

/* One fp32 number a row and head, [rows, heads]. */
desc row(Builder *x, int64_t id)
{
    const hn_dims dim = {x->b, x->h, x->s, 1}, stride = {x->s * x->h, 1, x->h, 1};
    return supplied(x, id, hn_cudnn_tensor(&x->g, id, kF32, dim, stride, HN_CUDNN_REAL, x->row_at));
}

/* Exists only inside the kernel. */
desc virtual_tensor(Builder *x, cudnnDataType_t type, int64_t rows, int64_t cols)
{
    const hn_dims dim = {x->b, x->h, rows, cols},
                  stride = {x->h * rows * cols, rows * cols, cols, 1};
    return hn_cudnn_tensor(&x->g, x->g.next_id++, type, dim, stride, HN_CUDNN_VIRTUAL, nullptr);
}

desc score(Builder *x, cudnnDataType_t type) { return virtual_tensor(x, type, x->s, x->s); }
desc row_value(Builder *x) { return virtual_tensor(x, kF32, x->s, 1); }

/* ---- operations ---- */

desc math(Builder *x, cudnnPointwiseMode_t mode, desc a, desc b, desc y)
{
    return hn_cudnn_pointwise(&x->g, mode, kF32, 0, a, b, nullptr, y);
}

desc on_scores(Builder *x, cudnnPointwiseMode_t mode, desc a, desc b)
{
    return math(x, mode, a, b, score(x, kF32));
}

desc compare(Builder *x, cudnnPointwiseMode_t mode, desc a, desc b)
{
    return hn_cudnn_pointwise(&x->g, mode, kBool, 0, a, b, nullptr, score(x, kBool));
}

desc index_of(Builder *x, int64_t axis, cudnnDataType_t type, desc t)
{
    return hn_cudnn_pointwise(&x->g, CUDNN_POINTWISE_GEN_INDEX, type, axis, t, nullptr, nullptr,
                              score(x, kI32));
}

/* t where `keep`, else -infinity */
desc select(Builder *x, desc t, desc keep)
{
    return hn_cudnn_pointwise(&x->g, CUDNN_POINTWISE_BINARY_SELECT, kF32, 0, t, x->minus_inf, keep,
                              score(x, kF32));
}

/* Rows and columns behind the end of the sequence. */
desc mask_padding(Builder *x, desc t)
{
    if (x->p->key.even) return t;
    desc i = index_of(x, 2, kI32, t), j = index_of(x, 3, kI32, t);
    i = compare(x, CUDNN_POINTWISE_CMP_LT, i, x->length_q);
    j = compare(x, CUDNN_POINTWISE_CMP_LT, j, x->length_k);
    return select(x, t, compare(x, CUDNN_POINTWISE_LOGICAL_AND, i, j));
}

/* Keys behind the query (i >= j stays), and those before the window (j + window > i stays). */
desc mask_positions(Builder *x, desc t)
{
    if (x->p->key.causal) {
        const desc i = index_of(x, 2, kF32, t), j = index_of(x, 3, kF32, t);
        t = select(x, t, compare(x, CUDNN_POINTWISE_CMP_GE, i, j));
    }
    if (x->p->key.window) {
        const desc i = index_of(x, 2, kF32, t), j = index_of(x, 3, kF32, t);
        const desc end = on_scores(x, CUDNN_POINTWISE_ADD, j, x->window);
        t = select(x, t, compare(x, CUDNN_POINTWISE_CMP_GT, end, i));
    }
    return t;
}

/* ---- the two graphs ---- */

void begin(Builder *x, const hn_attention_cudnn *c, hn_attention_cudnn_entry *p)
{
    const hn_attention_cudnn_key *const k = &p->key;
    memset(x, 0, sizeof *x);
    x->g.lib = c->lib;
    x->g.next_id = HN_ID_FIRST_VIRTUAL;
    x->p = p;
    x->b = k->sequences, x->h = k->heads, x->hkv = k->kv_heads, x->s = k->longest,
    x->d = k->head_dim;
    x->scale = host_scalar(x, HN_ID_SCALE);
    if (k->causal || !k->even) x->minus_inf = host_scalar(x, HN_ID_MINUS_INF); /* else no mask */
    if (k->window) x->window = host_scalar(x, HN_ID_WINDOW);
    if (!k->even) {
        x->length_q = ints(x, HN_ID_LENGTH_Q, x->b);
        x->length_k = ints(x, HN_ID_LENGTH_K, x->b);
    }
    x->q_at = offsets(x, k->ld_q);
    x->k_at = offsets(x, k->ld_k);
    x->o_at = offsets(x, k->ld_o);
    x->row_at = offsets(x, x->h);
}

void describe_fwd(Builder *x)
{
    const hn_attention_cudnn_key *const key = &x->p->key;
    const desc v_at = shared_offsets(x, x->k_at, key->ld_k, key->ld_v);
    const desc q = matrix(x, HN_ID_Q, kBf16, x->h, key->ld_q, x->q_at);
    const desc kt = matrix(x, HN_ID_K, kBf16, x->hkv, key->ld_k, x->k_at, true);
    const desc v = matrix(x, HN_ID_V, kBf16, x->hkv, key->ld_v, v_at);
    const desc o = matrix(x, HN_ID_O, kBf16, x->h, key->ld_o, x->o_at);
    const desc lse = row(x, HN_ID_LSE);

    desc t = hn_cudnn_matmul(&x->g, q, kt, score(x, kF32), x->length_q, x->length_k, nullptr);
    t = on_scores(x, CUDNN_POINTWISE_MUL, t, x->scale);
    t = mask_positions(x, mask_padding(x, t));
    const desc max = hn_cudnn_reduce(&x->g, CUDNN_REDUCE_TENSOR_MAX, t, row_value(x));
    t = on_scores(x, CUDNN_POINTWISE_SUB, t, max);
    t = on_scores(x, CUDNN_POINTWISE_EXP, t, nullptr);
    const desc sum = hn_cudnn_reduce(&x->g, CUDNN_REDUCE_TENSOR_ADD, t, row_value(x));
    const desc log = math(x, CUDNN_POINTWISE_LOG, sum, nullptr, row_value(x));
    (void)math(x, CUDNN_POINTWISE_ADD, max, log, lse);
    t = math(x, CUDNN_POINTWISE_DIV, t, sum, score(x, kBf16)); /* must be bf16 ahead of v */
    (void)hn_cudnn_matmul(&x->g, t, v, o, x->length_q, nullptr, x->length_k);
}

/* dk or dv: (rows, columns) of t transposed, times y, a query head; then summed over the group. */
void describe_dkv(Builder *x, desc t, desc y, desc out, int64_t head_id, int64_t ld, desc at)
{
    const hn_dims dim = {x->b, x->h, x->s, x->s},
                  stride = {x->h * x->s * x->s, x->s * x->s, 1, x->s};
    const int64_t group = x->h / x->hkv;
    const desc turned =
        hn_cudnn_tensor(&x->g, x->g.next_id++, kBf16, dim, stride, HN_CUDNN_VIRTUAL, nullptr);
    (void)hn_cudnn_reshape(&x->g, t, turned);
    if (group == 1) {
        (void)hn_cudnn_matmul(&x->g, turned, y, out, x->length_k, nullptr, x->length_q);
        return;
    }
    /* Real, so that its memory follows the rows and not sequences * longest. Offsets must be those
     * of dk, which cuDNN multiplies by the group size itself; so must the distance of its rows. */
    const desc per_head = matrix(x, head_id, kBf16, x->h, ld * group, at);
    (void)hn_cudnn_matmul(&x->g, turned, y, per_head, x->length_k, nullptr, x->length_q);
    (void)hn_cudnn_reduce(&x->g, CUDNN_REDUCE_TENSOR_ADD, per_head, out);
}

void describe_bwd(Builder *x)
{
    const hn_attention_cudnn_key *const key = &x->p->key;
    const desc v_at = shared_offsets(x, x->k_at, key->ld_k, key->ld_v);
    const desc dout_at = shared_offsets(x, x->o_at, key->ld_o, key->ld_dout);
    const desc dq_at = shared_offsets(x, x->q_at, key->ld_q, key->ld_dq);
    const desc dk_at = shared_offsets(x, x->k_at, key->ld_k, key->ld_dk);
    const desc dv_at = shared_offsets(x, x->k_at, key->ld_k, key->ld_dv);
    const desc q = matrix(x, HN_ID_Q, kBf16, x->h, key->ld_q, x->q_at);
    const desc kt = matrix(x, HN_ID_K, kBf16, x->hkv, key->ld_k, x->k_at, true);
    const desc vt = matrix(x, HN_ID_V, kBf16, x->hkv, key->ld_v, v_at, true);
    const desc o = matrix(x, HN_ID_O, kBf16, x->h, key->ld_o, x->o_at);
    const desc dout = matrix(x, HN_ID_DOUT, kBf16, x->h, key->ld_dout, dout_at);
    const desc dq = matrix(x, HN_ID_DQ, kBf16, x->h, key->ld_dq, dq_at);
    const desc dk = matrix(x, HN_ID_DK, kBf16, x->hkv, key->ld_dk, dk_at);
    const desc dv = matrix(x, HN_ID_DV, kBf16, x->hkv, key->ld_dv, dv_at);
    const desc lse = row(x, HN_ID_LSE);
    const desc one = host_scalar(x, HN_ID_ONE);

    /* sum of dout * o; a real tensor, made by a small kernel ahead of the main one. The factor one
     * must be there (in the place of a dropout scale): without it dq and dk can hold NaN. */
    const desc dot = row(x, HN_ID_DOT);
    desc t = math(x, CUDNN_POINTWISE_MUL, dout, o, virtual_tensor(x, kF32, x->s, x->d));
    t = hn_cudnn_reduce(&x->g, CUDNN_REDUCE_TENSOR_ADD, t, row_value(x));
    (void)math(x, CUDNN_POINTWISE_MUL, t, one, dot);

    /* p = exp(s - lse), masked behind the subtraction */
    t = hn_cudnn_matmul(&x->g, q, kt, score(x, kF32), x->length_q, x->length_k, nullptr);
    t = mask_padding(x, on_scores(x, CUDNN_POINTWISE_MUL, t, x->scale));
    t = mask_positions(x, on_scores(x, CUDNN_POINTWISE_SUB, t, lse));
    const desc p = on_scores(x, CUDNN_POINTWISE_EXP, t, nullptr);
    describe_dkv(x, p, dout, dv, HN_ID_DV_HEAD, key->ld_dv, dv_at);

    /* dt = scale * p (dout v^T - dot), with the scale that dq and dk want */
    t = hn_cudnn_matmul(&x->g, dout, vt, score(x, kF32), x->length_q, x->length_k, nullptr);
    t = on_scores(x, CUDNN_POINTWISE_SUB, t, dot);
    t = on_scores(x, CUDNN_POINTWISE_MUL, t, p);
    const desc dt = on_scores(x, CUDNN_POINTWISE_MUL, t, x->scale);
    describe_dkv(x, dt, q, dk, HN_ID_DK_HEAD, key->ld_dk, dk_at);

    const hn_dims dim = {x->b, x->hkv, x->s, x->d}, stride = {x->s * key->ld_k, x->d, key->ld_k, 1};
    const desc k =
        hn_cudnn_tensor(&x->g, x->g.next_id++, kBf16, dim, stride, HN_CUDNN_VIRTUAL, x->k_at);
    (void)hn_cudnn_reshape(&x->g, kt, k);
    if (key->pass == HN_CUDNN_BWD) { /* straight into dq: cuDNN stores dt and sums in order */
        (void)hn_cudnn_matmul(&x->g, dt, k, dq, x->length_q, nullptr, x->length_k);
        return;
    }
    /* Atomic sums in fp32, then narrowed. Strides and offsets must be those of dq: any other layout
     * builds and gives a wrong dq. */
    const desc sum = matrix(x, HN_ID_DQ_SUM, kF32, x->h, key->ld_dq, dq_at);
    (void)hn_cudnn_matmul(&x->g, dt, k, sum, x->length_q, nullptr, x->length_k);
    (void)math(x, CUDNN_POINTWISE_IDENTITY, sum, nullptr, dq);
}

} // namespace

hn_status hn_attention_cudnn_make(const hn_attention_cudnn *c, hn_attention_cudnn_entry *p)
{
    Builder x;
    begin(&x, c, p);
    if (p->key.pass == HN_CUDNN_FWD)
        describe_fwd(&x);
    else
        describe_bwd(&x);
    return hn_cudnn_compile(&x.g, nullptr, &p->plan, &p->workspace);
}
#endif
