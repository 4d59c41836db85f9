/* y = magnitude(z, m, norm, bias?); the norm is a constant. The mathematics is in
 * kernels/lora/magnitude.h */
#include "kernels/lora/magnitude.h"
#include "runtime/graph/op_util.h"

enum { Z, M, NORM, BIAS }; /* inputs */
enum { Y };                /* outputs */

static bool is_vector(const hn_tensor *t, int64_t cols)
{
    return t->type.dtype == HN_F32 && hn_type_elements(&t->type) == cols;
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *z = &n->in[Z]->type;
    const hn_tensor *bias = n->in[BIAS];
    const int64_t cols = hn_type_cols(z);
    if (!hn_is_matrix(z, z) || !is_vector(n->in[M], cols) || !is_vector(n->in[NORM], cols))
        return HN_FAIL(HN_ERR_SHAPE, "z [rows, cols], f32 or bf16, m and norm f32 [cols]");
    if (bias && (!hn_is_real(&bias->type) || hn_type_elements(&bias->type) != cols))
        return HN_FAIL(HN_ERR_SHAPE, "bias [cols], f32 or bf16");
    out[Y] = hn_type_fresh(z);
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    hn_tensor *const in[] = {dout[Y], n->in[Z], n->in[M], n->in[NORM], din[M]};
    hn_tensor *const db[] = {dout[Y], din[BIAS]};
    hn_tensor *out[HN_MAX_OUT];
    if (din[NORM]) din[NORM] = NULL;
    if (din[BIAS]) HN_TRY(hn_emit(g, HN_OP_LINEAR_DB, n->name, db, NULL, NULL));
    if (din[Z] == NULL && din[M] == NULL) return HN_OK;
    HN_TRY(hn_emit(g, HN_OP_MAGNITUDE_BWD, n->name, in, NULL, out));
    if (din[Z]) din[Z] = out[0];
    return HN_OK;
}

static hn_magnitude_args args_of(const hn_node *n)
{
    const hn_tensor *z = n->in[Z], *bias = n->in[BIAS];
    return (hn_magnitude_args){
        .z = z->data,
        .m = n->in[M]->data,
        .norm = n->in[NORM]->data,
        .bias = bias ? bias->data : NULL,
        .y = n->out[Y]->data,
        .rows = hn_type_rows(&z->type),
        .cols = hn_type_cols(&z->type),
        .ld_z = hn_type_ld(&z->type),
        .ld_y = hn_type_ld(&n->out[Y]->type),
        .dtype = z->type.dtype,
        .bias_dtype = bias ? bias->type.dtype : z->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_magnitude_args a = args_of(n);
    return x->twin ? hn_magnitude_fwd_cpu(&a) : hn_magnitude_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_magnitude_args a = args_of(n);
    return hn_magnitude_fwd_cuda(&a, x->stream);
}

/* Norms are not negative, and one may be 0. */
static bool fill(const hn_node *n, int k, void *data)
{
    if (k != NORM) return false;
    for (int64_t o = 0; o < hn_type_elements(&n->in[NORM]->type); o++)
        ((float *)data)[o] = o == 2 ? 0.0f : 0.5f + 0.125f * (float)(o % 9);
    return true;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {5, 7}, 8}, {HN_F32, 1, {7}}, {HN_F32, 1, {7}}, {HN_F32, 1, {7}}}},
    {.in = {{HN_F32, 2, {3, 4}}, {HN_F32, 1, {4}}, {HN_F32, 1, {4}}}},
    {.in = {{HN_BF16, 2, {130, 72}}, {HN_F32, 1, {72}}, {HN_F32, 1, {72}}, {HN_BF16, 1, {72}}}},
    {.in = {{HN_BF16, 2, {9, 17}}, {HN_F32, 1, {17}}, {HN_F32, 1, {17}}, {HN_F32, 1, {17}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_magnitude = {
    .name = "magnitude",
    .n_in = 4,
    .n_out = 1,
    .optional = HN_BIT(BIAS),
    .reuse = HN_REUSE(Y, Z),
    .infer = infer,
    .grad = grad,
    .accumulates = HN_BIT(M) | HN_BIT(BIAS),
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
    .kinks = HN_BIT(NORM),
};
