/* delta, grad, m, v, age = sparse_adamw(delta, grad, m, v, age, spans, corrections, sizes?), in
 * place; the mathematics is in kernels/sparse/sparse_adamw.h. age is a u8 tensor of two bytes a
 * block. */
#include "kernels/sparse/sparse_adamw.h"
#include "runtime/graph/op_sparse.h"

enum { DELTA, GRAD, M, V, AGE, SPANS, CORRECTIONS, SIZES }; /* inputs; outputs: DELTA to AGE */

static hn_sparse_adamw_args args_of(const hn_node *n, const hn_exec *x)
{
    const hn_tensor *sizes = n->in[SIZES];
    return (hn_sparse_adamw_args){
        .delta = n->in[DELTA]->data,
        .grad = n->in[GRAD]->data,
        .m = n->in[M]->data,
        .v = n->in[V]->data,
        .age = n->in[AGE]->data,
        .spans = n->in[SPANS]->data,
        .sizes = sizes ? sizes->data : NULL,
        .corrections = n->in[CORRECTIONS]->data,
        .step = x->step,
        .values = n->in[DELTA]->type.dim[0],
        .blocks = n->in[AGE]->type.dim[0] / 2,
        .matrices = n->in[SPANS]->type.dim[0] / (int64_t)sizeof(hn_sparse_span),
        .block_values = n->attr.sparse_adamw.block_values,
        .beta1 = n->attr.sparse_adamw.beta1,
        .beta2 = n->attr.sparse_adamw.beta2,
        .eps = n->attr.sparse_adamw.eps,
        .weight_decay = n->attr.sparse_adamw.weight_decay,
        .lr_scale = n->attr.sparse_adamw.lr_scale,
    };
}

static bool is_list(const hn_tensor *t, hn_dtype dtype, int64_t unit)
{
    return t->type.dtype == dtype && t->type.ndim == 1 && t->type.dim[0] % unit == 0;
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *delta = &n->in[DELTA]->type, *table = &n->in[CORRECTIONS]->type;
    const int64_t size = (int64_t)sizeof(hn_sparse_span);
    HN_TRY(hn_sparse_infer_values(n->in[DELTA]));
    if (!hn_type_same(delta, &n->in[GRAD]->type) || !hn_type_same(delta, &n->in[M]->type) ||
        !hn_type_same(delta, &n->in[V]->type))
        return HN_FAIL(HN_ERR_SHAPE, "delta, grad, m and v f32 [pool]");
    if (!is_list(n->in[AGE], HN_U8, 2) || !is_list(n->in[SPANS], HN_U8, size))
        return HN_FAIL(HN_ERR_SHAPE, "age u8 [2 blocks] and spans u8 [16 n]");
    if (table->dtype != HN_F32 || table->ndim != 2 || table->dim[0] != HN_SPARSE_AGES ||
        table->dim[1] != 2 || hn_type_ld(table) != 2)
        return HN_FAIL(HN_ERR_SHAPE, "corrections f32 [%d, 2]", (int)HN_SPARSE_AGES);
    if (n->in[SIZES] && (!is_list(n->in[SIZES], HN_I32, 1) ||
                         n->in[SIZES]->type.dim[0] != n->in[SPANS]->type.dim[0] / size))
        return HN_FAIL(HN_ERR_SHAPE, "sizes i32 [n], one a span");
    if ((n->in[SIZES] != NULL) != (n->attr.sparse_adamw.block_values == 0))
        return HN_FAIL(HN_ERR_SHAPE, "either sizes or block_values");
    return HN_OK;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_sparse_adamw_args a = args_of(n, x);
    return x->twin ? hn_sparse_adamw_cpu(&a) : hn_sparse_adamw_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_sparse_adamw_args a = args_of(n, x);
    return hn_sparse_adamw_cuda(&a, x->stream);
}

/* ---- samples: two thirds of the pool are used, by spans of unequal counts, one of them empty ----
 */

static int32_t sample_size(const hn_node *n, int64_t matrix)
{
    const int64_t values = n->attr.sparse_adamw.block_values;
    return (int32_t)(values ? values : 3 + 2 * matrix);
}

static void fill_spans(const hn_node *n, hn_sparse_span *spans)
{
    const int64_t matrices = n->in[SPANS]->type.dim[0] / (int64_t)sizeof *spans;
    int64_t value = 0, block = 0;
    for (int64_t i = 0; i < matrices; i++) {
        const int64_t share = 2 * n->in[DELTA]->type.dim[0] / (3 * matrices);
        const int64_t count = i == 1 ? 0 : share / sample_size(n, i);
        spans[i] = (hn_sparse_span){value, (int32_t)block, (int32_t)count};
        value += count * sample_size(n, i);
        block += count;
    }
}

static bool fill(const hn_node *n, int k, void *data)
{
    const int64_t elements = hn_type_elements(&n->in[k]->type);
    if (k == V) /* second moments are not negative */
        for (int64_t i = 0; i < elements; i++) ((float *)data)[i] = 0.001f * (float)(1 + i % 7);
    if (k == AGE)
        for (int64_t i = 0; i < elements / 2; i++)
            ((uint16_t *)data)[i] = (uint16_t)(i % 5 == 4 ? 65535 : i / 3 % 4 * 100);
    if (k == SPANS) fill_spans(n, data);
    if (k == SIZES)
        for (int64_t i = 0; i < elements; i++) ((int32_t *)data)[i] = sample_size(n, i);
    if (k == CORRECTIONS)
        hn_sparse_corrections(n->attr.sparse_adamw.beta1, n->attr.sparse_adamw.beta2, data);
    return k == V || k >= AGE;
}

/* clang-format off */
#define VALUES(n) {HN_F32, 1, {n}}
#define POOL(values, blocks, matrices)                                                        \
    VALUES(values), VALUES(values), VALUES(values), VALUES(values), {HN_U8, 1, {2 * (blocks)}}, \
    {HN_U8, 1, {16 * (matrices)}}, {HN_F32, 2, {HN_SPARSE_AGES, 2}}
static const hn_op_sample samples[] = {
    {.in = {POOL(37, 37, 3)},
     .attr.sparse_adamw = {.beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f,
                           .block_values = 1}},
    {.in = {POOL(30011, 30011, 3)},
     .attr.sparse_adamw = {.beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-6f, .lr_scale = 2.0f,
                           .block_values = 1}},
    {.in = {POOL(5003, 312, 4)},
     .attr.sparse_adamw = {.beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .block_values = 16}},
    {.in = {POOL(70000, 17, 2)},
     .attr.sparse_adamw = {.beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .block_values = 4096}},
    {.in = {POOL(2999, 600, 4), {HN_I32, 1, {4}}}, /* rows or columns: blocks of many sizes */
     .attr.sparse_adamw = {.beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.01f}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_sparse_adamw = {
    .name = "sparse_adamw",
    .n_in = 8,
    .n_out = 5,
    .optional = HN_BIT(SIZES),
    .alias = {1 + DELTA, 1 + GRAD, 1 + M, 1 + V, 1 + AGE},
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
