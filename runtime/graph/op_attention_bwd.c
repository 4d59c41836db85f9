/* dq, dk, dv = attention_bwd(q, k, v, o, lse, dout, q_offsets, kv_offsets?); the mathematics is in
 * kernels/attention/attention.h. Operands come from the gradient rule of attention. */
#include "kernels/attention/attention.h"
#include "runtime/graph/attention_choice.h"

enum { Q, K, V, O, LSE, DOUT, Q_OFFSETS, KV_OFFSETS }; /* inputs */
enum { DQ, DK, DV };                                   /* outputs */

static hn_attention_args args_of(const hn_node *n)
{
    const hn_type *q = &n->in[Q]->type, *k = &n->in[K]->type, *v = &n->in[V]->type;
    return (hn_attention_args){
        .q = n->in[Q]->data,
        .k = n->in[K]->data,
        .v = n->in[V]->data,
        .q_offsets = n->in[Q_OFFSETS]->data,
        .kv_offsets = n->in[KV_OFFSETS] ? n->in[KV_OFFSETS]->data : NULL,
        .o = n->in[O]->data,
        .lse = n->in[LSE]->data,
        .dout = n->in[DOUT]->data,
        .dq = n->out[DQ]->data,
        .dk = n->out[DK]->data,
        .dv = n->out[DV]->data,
        .ld_q = hn_type_ld(q),
        .ld_k = hn_type_ld(k),
        .ld_v = hn_type_ld(v),
        .ld_o = hn_type_ld(&n->in[O]->type),
        .ld_dout = hn_type_ld(&n->in[DOUT]->type),
        .ld_dq = hn_type_ld(&n->out[DQ]->type),
        .ld_dk = hn_type_ld(&n->out[DK]->type),
        .ld_dv = hn_type_ld(&n->out[DV]->type),
        .q_rows = hn_type_rows(q),
        .kv_rows = hn_type_rows(k),
        .sequences = hn_type_cols(&n->in[Q_OFFSETS]->type) - 1,
        .heads = n->attr.attention.heads,
        .kv_heads = n->attr.attention.kv_heads,
        .head_dim = n->attr.attention.head_dim,
        .value_dim = hn_type_cols(v) / n->attr.attention.kv_heads,
        .window = n->attr.attention.window,
        .longest = n->attr.attention.longest,
        .even = n->attr.attention.even,
        .scale = n->attr.attention.scale,
        .softcap = n->attr.attention.softcap,
        .causal = n->attr.attention.causal,
        .dtype = q->dtype,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *o = &n->in[O]->type, *lse = &n->in[LSE]->type;
    if (!hn_type_same(o, &n->in[DOUT]->type))
        return HN_FAIL(HN_ERR_SHAPE, "o and its gradient are of different types");
    if (lse->dtype != HN_F32 || lse->ndim != 2 || lse->dim[1] != n->attr.attention.heads ||
        hn_type_ld(lse) != lse->dim[1] || lse->dim[0] != n->in[Q]->type.dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "lse is f32 [tokens, heads] without gaps");
    for (int k = Q; k <= V; k++) {
        const hn_type *t = &n->in[k]->type;
        out[k] = hn_type_2d(t->dtype, hn_type_rows(t), hn_type_cols(t));
    }
    return HN_OK;
}

static hn_status prepare(hn_node *n, hn_device *device)
{
    static const int32_t some = 0; /* the plan has no memory yet: there are offsets, or not */
    hn_attention_args a = args_of(n);
    if (n->in[KV_OFFSETS] != NULL) a.kv_offsets = &some;
    return hn_attention_choose(n, device, &a, true);
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    if (hn_attention_is_cudnn(n)) return n->attr.attention.library_scratch;
    const hn_attention_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_attention_bwd_cuda_scratch(&a)
                                    : hn_attention_bwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_attention_args a = args_of(n);
    return x->twin ? hn_attention_bwd_cpu(&a) : hn_attention_bwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_attention_args a = args_of(n);
    const bool fast = n->attr.attention.impl == HN_ATTENTION_CUDNN_FAST;
    if (!hn_attention_is_cudnn(n)) return hn_attention_bwd_cuda(&a, x->scratch, x->stream);
    return hn_attention_cudnn_bwd(x->attention, &a, fast ? HN_CUDNN_BWD_FAST : HN_CUDNN_BWD,
                                  x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {9, 16}}, {HN_F32, 2, {9, 8}}, {HN_F32, 2, {9, 8}}, {HN_F32, 2, {9, 16}},
            {HN_F32, 2, {9, 4}}, {HN_F32, 2, {9, 16}}, {HN_I32, 1, {4}}},
     .attr.attention = {.heads = 4, .kv_heads = 2, .head_dim = 4, .scale = 0.5f, .causal = true}},
    {.in = {{HN_BF16, 2, {5, 6}, 9}, {HN_BF16, 2, {5, 3}}, {HN_BF16, 2, {5, 3}},
            {HN_BF16, 2, {5, 6}}, {HN_F32, 2, {5, 2}}, {HN_BF16, 2, {5, 6}}, {HN_I32, 1, {3}},
            {HN_I32, 1, {3}}},
     .attr.attention = {.heads = 2, .kv_heads = 1, .head_dim = 3, .scale = 0.5f, .causal = true}},
    {.in = {{0}}},
};
/* clang-format on */

/* lse above every score, so that the weights of these made-up operands stay small. */
static bool fill(const hn_node *n, int k, void *data)
{
    if (k == LSE) {
        for (int64_t i = 0; i < hn_type_elements(&n->in[k]->type); i++) ((float *)data)[i] = 3.0f;
        return true;
    }
    if (k < Q_OFFSETS) return false;
    const int64_t sequences = hn_type_cols(&n->in[k]->type) - 1;
    const int64_t rows = hn_type_rows(&n->in[Q]->type);
    for (int64_t s = 0; s <= sequences; s++) ((int32_t *)data)[s] = (int32_t)(rows * s / sequences);
    return true;
}

const hn_op_def hn_op_attention_bwd = {
    .name = "attention_bwd",
    .n_in = 8,
    .n_out = 3,
    .optional = HN_BIT(KV_OFFSETS),
    .infer = infer,
    .prepare = prepare,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
