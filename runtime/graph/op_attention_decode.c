/* o = attention_decode(q, k_cache, v_cache, positions); the mathematics is in
 * kernels/attention/attention_decode.h. Batch entries follow each other in the caches' rows. */
#include "kernels/attention/attention_decode.h"
#include "runtime/graph/op.h"

enum { Q, K_CACHE, V_CACHE, POSITIONS }; /* inputs */
enum { O };                              /* outputs */

static hn_attention_decode_args args_of(const hn_node *n)
{
    const hn_type *q = &n->in[Q]->type, *k = &n->in[K_CACHE]->type, *v = &n->in[V_CACHE]->type;
    const int64_t batch = hn_type_elements(&n->in[POSITIONS]->type);
    return (hn_attention_decode_args){
        .q = n->in[Q]->data,
        .k_cache = n->in[K_CACHE]->data,
        .v_cache = n->in[V_CACHE]->data,
        .positions = n->in[POSITIONS]->data,
        .o = n->out[O]->data,
        .ld_q = hn_type_ld(q),
        .ld_k = hn_type_ld(k),
        .ld_v = hn_type_ld(v),
        .ld_o = hn_type_ld(&n->out[O]->type),
        .batch = batch,
        .tokens = hn_type_rows(q) / batch,
        .capacity = hn_type_rows(k) / batch,
        .heads = n->attr.attention.heads,
        .kv_heads = n->attr.attention.kv_heads,
        .head_dim = n->attr.attention.head_dim,
        .value_dim = hn_type_cols(v) / n->attr.attention.kv_heads,
        .window = n->attr.attention.window,
        .scale = n->attr.attention.scale,
        .softcap = n->attr.attention.softcap,
        .dtype = q->dtype,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *q = &n->in[Q]->type, *k = &n->in[K_CACHE]->type, *v = &n->in[V_CACHE]->type;
    const hn_type *p = &n->in[POSITIONS]->type;
    const int64_t heads = n->attr.attention.heads, kv_heads = n->attr.attention.kv_heads;
    const int64_t d = n->attr.attention.head_dim, batch = hn_type_elements(p);
    if (heads < 1 || kv_heads < 1 || heads % kv_heads != 0 || d < 1)
        return HN_FAIL(HN_ERR_SHAPE, "heads %d, kv_heads %d, head_dim %d", (int)heads,
                       (int)kv_heads, (int)d);
    if ((q->dtype != HN_F32 && q->dtype != HN_BF16) || k->dtype != q->dtype ||
        v->dtype != q->dtype || p->dtype != HN_I32)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "q and caches all f32 or all bf16, positions i32");
    if (q->ndim != 2 || q->dim[1] != heads * d || hn_type_cols(k) != kv_heads * d ||
        hn_type_cols(v) % kv_heads != 0 || hn_type_rows(v) != hn_type_rows(k) ||
        q->dim[0] % batch != 0 || hn_type_rows(k) % batch != 0)
        return HN_FAIL(HN_ERR_SHAPE, "q [batch * tokens, heads * head_dim], caches [batch, "
                                     "capacity, kv_heads * head_dim], positions [batch] do not "
                                     "fit together");
    out[O] = hn_type_2d(q->dtype, q->dim[0], hn_type_cols(v) / kv_heads * heads);
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_attention_decode_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_attention_decode_cuda_scratch(&a)
                                    : hn_attention_decode_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_attention_decode_args a = args_of(n);
    return x->twin ? hn_attention_decode_cpu(&a) : hn_attention_decode_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_attention_decode_args a = args_of(n);
    return hn_attention_decode_cuda(&a, x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {4, 16}}, {HN_F32, 3, {2, 6, 8}}, {HN_F32, 3, {2, 6, 8}},
            {HN_I32, 1, {2}}},
     .attr.attention = {.heads = 4, .kv_heads = 2, .head_dim = 4, .scale = 0.5f}},
    {.in = {{HN_BF16, 2, {1, 6}, 7}, {HN_BF16, 2, {9, 3}}, {HN_BF16, 2, {9, 5}, 8},
            {HN_I32, 1, {1}}},
     .attr.attention = {.heads = 2, .kv_heads = 1, .head_dim = 3, .scale = 0.5f, .window = 2,
                        .softcap = 3.0f}},
    {.in = {{0}}},
};
/* clang-format on */

static bool fill(const hn_node *n, int k, void *data)
{
    if (k != POSITIONS) return false;
    for (int64_t b = 0; b < hn_type_elements(&n->in[k]->type); b++)
        ((int32_t *)data)[b] = (int32_t)(3 - b);
    return true;
}

const hn_op_def hn_op_attention_decode = {
    .name = "attention_decode",
    .n_in = 4,
    .n_out = 1,
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
