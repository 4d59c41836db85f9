/* u = support_context(f, labels); u [rows, 2 F + 1 rounded up to a multiple of 8]. The mathematics
 * is in kernels/hyperflow/support_context.h */
#include "kernels/hyperflow/support_context.h"
#include "runtime/graph/op_util.h"

enum { F, LABELS }; /* inputs */
enum { U };         /* outputs */

static hn_support_context_args args_of(const hn_node *n)
{
    const hn_tensor *f = n->in[F], *u = n->out[U];
    const int64_t episodes = n->attr.support_context.episodes;
    return (hn_support_context_args){
        .f = f->data,
        .labels = n->in[LABELS]->data,
        .u = u->data,
        .rows = hn_type_rows(&f->type),
        .features = hn_type_cols(&f->type),
        .episodes = episodes > 0 ? episodes : 1,
        .ld_f = hn_type_ld(&f->type),
        .ld_u = hn_type_ld(&u->type),
        .f_dtype = f->type.dtype,
        .u_dtype = u->type.dtype,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *f = &n->in[F]->type, *labels = &n->in[LABELS]->type;
    const int64_t rows = hn_type_rows(f), episodes = n->attr.support_context.episodes;
    const hn_dtype to = n->attr.support_context.to;
    if (!hn_is_matrix(f, f) || labels->dtype != HN_I32 || hn_type_elements(labels) != rows)
        return HN_FAIL(HN_ERR_SHAPE, "f [rows, features] f32 or bf16, labels i32 [rows]");
    if (episodes < 0 || rows % (episodes > 0 ? episodes : 1) != 0)
        return HN_FAIL(HN_ERR_SHAPE, "the rows are no equal episodes");
    if (to != HN_F32 && to != HN_BF16)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "u is f32 or bf16, not %s", hn_dtype_name(to));
    out[U] = hn_type_2d(to, rows, hn_support_context_cols(hn_type_cols(f)));
    return HN_OK;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_support_context_args a = args_of(n);
    return x->twin ? hn_support_context_cpu(&a) : hn_support_context_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_support_context_args a = args_of(n);
    return hn_support_context_cuda(&a, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {12, 5}, 7}, {HN_I32, 1, {12}}},
     .attr.support_context = {.episodes = 3, .to = HN_F32}},
    {.in = {{HN_BF16, 2, {140, 64}}, {HN_I32, 1, {140}}},
     .attr.support_context = {.episodes = 2, .to = HN_BF16}},
    {.in = {{HN_F32, 2, {9, 520}}, {HN_I32, 1, {9}}}, .attr.support_context = {.to = HN_BF16}},
    {.in = {{0}}},
};
/* clang-format on */

static bool fill(const hn_node *n, int k, void *data)
{
    if (k != LABELS) return false;
    for (int64_t i = 0; i < hn_type_rows(&n->in[F]->type); i++)
        ((int32_t *)data)[i] = i % 4 == 3 ? HN_LABEL_IGNORED : (int32_t)(i * 5 % 3);
    return true;
}

const hn_op_def hn_op_support_context = {
    .name = "support_context",
    .n_in = 2,
    .n_out = 1,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
