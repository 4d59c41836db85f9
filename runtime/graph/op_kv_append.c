/* k_cache, v_cache = kv_append(k_cache, v_cache, k, v, positions), in place; the mathematics is in
 * kernels/attention/kv_append.h. Batch entries follow each other in the caches' rows. */
#include "kernels/attention/kv_append.h"
#include "runtime/graph/op.h"

enum { K_CACHE, V_CACHE, K, V, POSITIONS }; /* inputs; the outputs are the caches */

static hn_kv_append_args args_of(const hn_node *n)
{
    const hn_type *kc = &n->in[K_CACHE]->type, *k = &n->in[K]->type;
    const int64_t batch = hn_type_elements(&n->in[POSITIONS]->type);
    return (hn_kv_append_args){
        .k = n->in[K]->data,
        .v = n->in[V]->data,
        .positions = n->in[POSITIONS]->data,
        .k_cache = n->in[K_CACHE]->data,
        .v_cache = n->in[V_CACHE]->data,
        .ld_k = hn_type_ld(k),
        .ld_v = hn_type_ld(&n->in[V]->type),
        .ld_k_cache = hn_type_ld(kc),
        .ld_v_cache = hn_type_ld(&n->in[V_CACHE]->type),
        .batch = batch,
        .tokens = hn_type_rows(k) / batch,
        .capacity = hn_type_rows(kc) / batch,
        .k_cols = hn_type_cols(k),
        .v_cols = hn_type_cols(&n->in[V]->type),
        .dtype = k->dtype,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *kc = &n->in[K_CACHE]->type, *vc = &n->in[V_CACHE]->type;
    const hn_type *k = &n->in[K]->type, *v = &n->in[V]->type, *p = &n->in[POSITIONS]->type;
    if (p->dtype != HN_I32 || kc->dtype != k->dtype || vc->dtype != k->dtype ||
        v->dtype != k->dtype)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "caches and rows of one type, positions i32");
    const int64_t batch = hn_type_elements(p), rows = hn_type_rows(k), keys = hn_type_rows(kc);
    if (hn_type_cols(kc) != hn_type_cols(k) || hn_type_cols(vc) != hn_type_cols(v) ||
        hn_type_rows(vc) != keys || hn_type_rows(v) != rows || rows % batch != 0 ||
        keys % batch != 0)
        return HN_FAIL(HN_ERR_SHAPE, "caches [batch, capacity, cols], k and v [batch * tokens, "
                                     "cols], positions [batch] do not fit together");
    return HN_OK;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    (void)x;
    const hn_kv_append_args a = args_of(n);
    return hn_kv_append_cpu(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_kv_append_args a = args_of(n);
    return hn_kv_append_cuda(&a, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 3, {2, 6, 8}}, {HN_F32, 3, {2, 6, 8}}, {HN_F32, 2, {4, 8}},
            {HN_F32, 2, {4, 8}, 9}, {HN_I32, 1, {2}}}},
    {.in = {{HN_BF16, 2, {5, 6}, 8}, {HN_BF16, 2, {5, 4}}, {HN_BF16, 2, {1, 6}},
            {HN_BF16, 2, {1, 4}}, {HN_I32, 1, {1}}}},
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

const hn_op_def hn_op_kv_append = {
    .name = "kv_append",
    .n_in = 5,
    .n_out = 2,
    .alias = {1 + K_CACHE, 1 + V_CACHE},
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
