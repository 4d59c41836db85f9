/* o, lse = attention(q, k, v, q_offsets, kv_offsets?); the mathematics is in
 * kernels/attention/attention.h. attr.attention; value_dim is v's width over its heads. */
#include "kernels/attention/attention.h"
#include "runtime/graph/attention_choice.h"

enum { Q, K, V, Q_OFFSETS, KV_OFFSETS }; /* inputs */
enum { O, LSE };                         /* outputs */

static hn_attention_args args_of(const hn_node *n)
{
    const hn_type *q = &n->in[Q]->type, *k = &n->in[K]->type, *v = &n->in[V]->type;
    return (hn_attention_args){
        .q = n->in[Q]->data,
        .k = n->in[K]->data,
        .v = n->in[V]->data,
        .q_offsets = n->in[Q_OFFSETS]->data,
        .kv_offsets = n->in[KV_OFFSETS] ? n->in[KV_OFFSETS]->data : NULL,
        .o = n->out[O]->data,
        .lse = n->out[LSE]->data,
        .ld_q = hn_type_ld(q),
        .ld_k = hn_type_ld(k),
        .ld_v = hn_type_ld(v),
        .ld_o = hn_type_ld(&n->out[O]->type),
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
    const hn_type *q = &n->in[Q]->type, *k = &n->in[K]->type, *v = &n->in[V]->type;
    const hn_type *offsets = &n->in[Q_OFFSETS]->type;
    const hn_type *kv = n->in[KV_OFFSETS] ? &n->in[KV_OFFSETS]->type : offsets;
    const int64_t heads = n->attr.attention.heads, kv_heads = n->attr.attention.kv_heads;
    const int64_t d = n->attr.attention.head_dim;
    if (heads < 1 || kv_heads < 1 || heads % kv_heads != 0 || d < 1)
        return HN_FAIL(HN_ERR_SHAPE, "heads %d, kv_heads %d, head_dim %d", (int)heads,
                       (int)kv_heads, (int)d);
    if ((q->dtype != HN_F32 && q->dtype != HN_BF16) || k->dtype != q->dtype ||
        v->dtype != q->dtype || offsets->dtype != HN_I32 || kv->dtype != HN_I32)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "q, k, v all f32 or all bf16, offsets i32");
    if (q->ndim != 2 || k->ndim != 2 || v->ndim != 2 || q->dim[1] != heads * d ||
        k->dim[1] != kv_heads * d || v->dim[1] % kv_heads != 0 || v->dim[0] != k->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "q [tokens, heads * head_dim], k and v [tokens, kv_heads * "
                                     "head_dim] do not fit together");
    if (offsets->ndim != 1 || offsets->dim[0] < 2 || !hn_type_same(offsets, kv))
        return HN_FAIL(HN_ERR_SHAPE, "offsets are [sequences + 1]");
    if (n->in[KV_OFFSETS] == NULL && q->dim[0] != k->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "q and k have different rows, and kv_offsets are missing");
    out[O] = hn_type_2d(q->dtype, q->dim[0], v->dim[1] / kv_heads * heads);
    out[LSE] = (hn_type){.dtype = HN_F32, .ndim = 2, .dim = {q->dim[0], heads}};
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    hn_tensor *const in[] = {n->in[Q],    n->in[K], n->in[V],         n->out[O],
                             n->out[LSE], dout[O],  n->in[Q_OFFSETS], n->in[KV_OFFSETS]};
    hn_tensor *out[3] = {0};
    HN_TRY(hn_emit(g, HN_OP_ATTENTION_BWD, n->name, in, &n->attr, out));
    for (int k = Q; k <= V; k++)
        if (n->in[k]->needs_grad) din[k] = out[k];
    return HN_OK;
}

static hn_status prepare(hn_node *n, hn_device *device)
{
    static const int32_t some = 0; /* the plan has no memory yet: there are offsets, or not */
    hn_attention_args a = args_of(n);
    if (n->in[KV_OFFSETS] != NULL) a.kv_offsets = &some;
    return hn_attention_choose(n, device, &a, false);
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    if (hn_attention_is_cudnn(n)) return n->attr.attention.library_scratch;
    const hn_attention_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? 0 : hn_attention_fwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_attention_args a = args_of(n);
    return x->twin ? hn_attention_fwd_cpu(&a) : hn_attention_fwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_attention_args a = args_of(n);
    if (!hn_attention_is_cudnn(n)) return hn_attention_fwd_cuda(&a, x->stream);
    return hn_attention_cudnn_fwd(x->attention, &a, x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {9, 16}}, {HN_F32, 2, {9, 8}}, {HN_F32, 2, {9, 8}}, {HN_I32, 1, {4}}},
     .attr.attention = {.heads = 4, .kv_heads = 2, .head_dim = 4, .scale = 0.5f, .causal = true}},
    {.in = {{HN_F32, 2, {7, 6}, 11}, {HN_F32, 2, {7, 6}, 8}, {HN_F32, 2, {7, 4}},
            {HN_I32, 1, {3}}, {HN_I32, 1, {3}}},
     .attr.attention = {.heads = 2, .kv_heads = 2, .head_dim = 3, .scale = 0.6f, .window = 3,
                        .softcap = 2.0f, .causal = true}},
    {.in = {{HN_F32, 2, {5, 6}}, {HN_F32, 2, {5, 3}}, {HN_F32, 2, {5, 3}}, {HN_I32, 1, {2}}},
     .attr.attention = {.heads = 2, .kv_heads = 1, .head_dim = 3, .scale = 0.6f}},
    {.in = {{HN_BF16, 2, {70, 32}}, {HN_BF16, 2, {70, 16}}, {HN_BF16, 2, {70, 16}},
            {HN_I32, 1, {4}}},
     .attr.attention = {.heads = 2, .kv_heads = 1, .head_dim = 16, .scale = 0.25f, .causal = true}},
    {.in = {{0}}},
};
/* clang-format on */

/* Offsets of sequences of about equal length; the last row belongs to none. */
static bool fill(const hn_node *n, int k, void *data)
{
    if (k < Q_OFFSETS) return false;
    const int64_t sequences = hn_type_cols(&n->in[k]->type) - 1;
    const int64_t rows = hn_type_rows(&n->in[k == Q_OFFSETS ? Q : K]->type) - 1;
    for (int64_t s = 0; s <= sequences; s++) ((int32_t *)data)[s] = (int32_t)(rows * s / sequences);
    return true;
}

const hn_op_def hn_op_attention = {
    .name = "attention",
    .n_in = 5,
    .n_out = 2,
    .optional = HN_BIT(KV_OFFSETS),
    .saved_out = HN_BIT(LSE),
    .infer = infer,
    .grad = grad,
    .prepare = prepare,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
