/* sum, y, rstd = add_rmsnorm(x, res?, gain); sum is absent without res. The mathematics is in
 * kernels/norm/add_rmsnorm.h */
#include "kernels/norm/add_rmsnorm.h"
#include "runtime/graph/op_util.h"

enum { X, RES, GAIN }; /* inputs */
enum { SUM, Y, RSTD }; /* outputs */
enum { DX, DGAIN };    /* outputs of the backward node */

static int64_t heads_of(const hn_node *n)
{
    return n->attr.norm.heads > 1 ? n->attr.norm.heads : 1;
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *x = &n->in[X]->type, *gain = &n->in[GAIN]->type;
    const int64_t heads = heads_of(n);
    if (!hn_is_matrix(x, x) || !hn_is_real(gain) || gain->ndim != 1 ||
        hn_type_cols(x) != heads * gain->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "x [rows, heads * cols] and gain [cols], f32 or bf16");
    if (n->in[RES] && !hn_type_same(&n->in[RES]->type, x))
        return HN_FAIL(HN_ERR_SHAPE, "x and res are of different types");
    out[Y] = hn_type_2d(x->dtype, hn_type_rows(x), hn_type_cols(x));
    if (n->in[RES]) out[SUM] = out[Y];
    out[RSTD] = hn_type_1d(HN_F32, hn_type_rows(x) * heads);
    return HN_OK;
}

/* dx is the gradient of x and of res alike. Without res, what has gathered for x so far takes the
 * place of dsum and is added on the way. */
static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    const bool has_res = n->in[RES] != NULL;
    hn_tensor *const so_far = din[X] ? hn_gathered(din[X]) : NULL;
    hn_tensor *const dsum = has_res ? dout[SUM] : so_far;
    hn_tensor *dx = dsum;
    if (dout[Y] != NULL) {
        hn_tensor *const in[] = {
            has_res ? n->out[SUM] : n->in[X], n->in[GAIN], n->out[RSTD], dout[Y], dsum, din[GAIN]};
        hn_tensor *out[3];
        HN_TRY(hn_emit(g, HN_OP_ADD_RMSNORM_BWD, n->name, in, &n->attr, out));
        dx = out[DX];
    }
    if (has_res && din[RES]) din[RES] = dx;
    if (din[X] == NULL) return HN_OK;
    din[X] = dx;
    if (!has_res || so_far == NULL) return HN_OK;
    hn_tensor *const both[] = {so_far, dx};
    return hn_emit(g, HN_OP_ADD, n->name, both, NULL, &din[X]);
}

static hn_add_rmsnorm_args args_of(const hn_node *n)
{
    const hn_tensor *x = n->in[X], *res = n->in[RES], *sum = n->out[SUM], *y = n->out[Y];
    const hn_tensor *gain = n->in[GAIN];
    return (hn_add_rmsnorm_args){
        .x = x->data,
        .res = res ? res->data : NULL,
        .gain = gain->data,
        .sum = sum ? sum->data : NULL,
        .y = y->data,
        .rstd = n->out[RSTD]->data,
        .rows = hn_type_rows(&x->type),
        .heads = heads_of(n),
        .cols = gain->type.dim[0],
        .ld_x = hn_type_ld(&x->type),
        .ld_res = res ? hn_type_ld(&res->type) : 0,
        .ld_sum = sum ? hn_type_ld(&sum->type) : 0,
        .ld_y = hn_type_ld(&y->type),
        .replicas = hn_replicas_of(gain),
        .gain_stride = hn_replica_stride(gain),
        .dtype = x->type.dtype,
        .gain_dtype = gain->type.dtype,
        .eps = n->attr.norm.eps,
        .gain_offset = n->attr.norm.gain_offset,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_add_rmsnorm_args a = args_of(n);
    return x->twin ? hn_add_rmsnorm_fwd_cpu(&a) : hn_add_rmsnorm_fwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_add_rmsnorm_args a = args_of(n);
    return hn_add_rmsnorm_fwd_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 6}}, {HN_F32, 2, {3, 6}, 8}, {HN_F32, 1, {6}}},
     .attr = {.norm = {.eps = 1e-5f}}},
    {.in = {{HN_F32, 2, {2, 12}}, {.ndim = 0}, {HN_F32, 1, {4}}},
     .attr = {.norm = {.eps = 1e-6f, .gain_offset = 1.0f, .heads = 3}}},
    {.in = {{HN_BF16, 2, {70, 33}}, {HN_BF16, 2, {70, 33}}, {HN_BF16, 1, {33}}},
     .attr = {.norm = {.eps = 1e-5f}}},
    {.in = {{HN_BF16, 2, {3, 600}}, {.ndim = 0}, {HN_F32, 1, {600}}},
     .attr = {.norm = {.eps = 1e-5f}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_add_rmsnorm = {
    .name = "add_rmsnorm",
    .n_in = 3,
    .n_out = 3,
    .optional = HN_BIT(RES),
    .reuse = HN_REUSE(SUM, RES) | HN_REUSE(SUM, X),
    .saved_out = HN_BIT(RSTD),
    .replicas = true,
    .infer = infer,
    .grad = grad,
    .accumulates = HN_BIT(GAIN),
    .adds = HN_BIT(X),
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
