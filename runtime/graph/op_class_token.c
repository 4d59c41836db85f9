/* y = class_token(x, cls?, pos); pos may have leading axes of 1, cls too; y is [n (p + has), dim].
 * The mathematics is in kernels/embed/class_token.h */
#include "kernels/embed/class_token.h"
#include "runtime/graph/op_util.h"

enum { X, CLS, POS }; /* inputs */
enum { Y };           /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type, *pos = &n->in[POS]->type;
    const hn_type *cls = n->in[CLS] ? &n->in[CLS]->type : NULL;
    const int64_t patches = hn_type_rows(pos) - (cls != NULL), dim = hn_type_cols(x);
    if (!hn_is_matrix(x, x) || !hn_is_real(pos) || hn_type_cols(pos) != dim || patches < 1 ||
        hn_type_rows(x) % patches != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "x [images * patches, dim] and pos [patches + has, dim], has 1 "
                       "with a class token, f32 or bf16");
    if (cls && (cls->dtype != pos->dtype || hn_type_rows(cls) != 1 || hn_type_cols(cls) != dim))
        return HN_FAIL(HN_ERR_SHAPE, "cls [dim] of the dtype of pos");
    out[Y] = hn_type_2d(x->dtype, hn_type_rows(x) / patches * hn_type_rows(pos), dim);
    return HN_OK;
}

static int64_t patches_of(const hn_node *n)
{
    return hn_type_rows(&n->in[POS]->type) - (n->in[CLS] != NULL);
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    const hn_type *x = &n->in[X]->type;
    hn_tensor *const in[] = {dout[Y], din[CLS], din[POS]};
    hn_tensor *out[3]; /* dx, dcls, dpos */
    hn_attr attr = {.token = {.patches = patches_of(n),
                              .has_cls = n->in[CLS] != NULL,
                              .want_dx = din[X] != NULL}};
    HN_TRY(hn_emit(g, HN_OP_CLASS_TOKEN_BWD, n->name, in, &attr, out));
    if (din[X] == NULL) return HN_OK;
    din[X] = out[0];
    return x->ndim == 2 ? HN_OK : hn_view_shape(g, out[0], x->ndim, x->dim, &din[X]);
}

static hn_class_token_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *cls = n->in[CLS], *pos = n->in[POS], *y = n->out[Y];
    const int64_t patches = patches_of(n), of_pos = hn_replicas_of(pos),
                  of_cls = hn_replicas_of(cls);
    return (hn_class_token_args){
        .x = x->data,
        .cls = cls ? cls->data : NULL,
        .pos = pos->data,
        .y = y->data,
        .images = hn_type_rows(&x->type) / patches,
        .patches = patches,
        .dim = hn_type_cols(&x->type),
        .ld_x = hn_type_ld(&x->type),
        .ld_pos = hn_type_ld(&pos->type),
        .ld_y = hn_type_ld(&y->type),
        .replicas = of_pos > of_cls ? of_pos : of_cls,
        .cls_stride = cls ? hn_replica_stride(cls) : 0,
        .pos_stride = hn_replica_stride(pos),
        .dtype = x->type.dtype,
        .param_dtype = pos->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_class_token_args a = args_of(n);
    return x->twin ? hn_class_token_fwd_cpu(&a) : hn_class_token_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_class_token_args a = args_of(n);
    return hn_class_token_fwd_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {6, 5}}, {HN_F32, 1, {5}}, {HN_F32, 2, {4, 5}, 7}}},
    {.in = {{HN_F32, 4, {2, 2, 2, 5}, 6}, {.ndim = 0}, {HN_F32, 3, {1, 4, 5}}}},
    {.in = {{HN_F32, 4, {2, 1, 3, 5}, 6}, {HN_F32, 3, {1, 1, 5}}, {HN_F32, 3, {1, 4, 5}}}},
    {.in = {{HN_BF16, 2, {40, 600}}, {HN_BF16, 1, {600}}, {HN_BF16, 2, {5, 600}}}},
    {.in = {{HN_BF16, 2, {60, 75}, 80}, {HN_F32, 1, {75}}, {HN_F32, 2, {4, 75}, 76}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_class_token = {
    .name = "class_token",
    .n_in = 3,
    .n_out = 1,
    .optional = HN_BIT(CLS),
    .replicas = true,
    .infer = infer,
    .grad = grad,
    .accumulates = HN_BIT(CLS) | HN_BIT(POS),
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
