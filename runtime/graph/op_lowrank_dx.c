/* ds, dx = lowrank_dx(dy, w, a, b, dx_so_far?); the mathematics is in kernels/lora/lowrank_linear.h
 */
#include "kernels/lora/lowrank_linear.h"
#include "runtime/graph/op_util.h"

enum { DY, W, A, B, SO_FAR }; /* inputs */
enum { DS, DX };              /* outputs */

static hn_lowrank_linear_dx_args args_of(const hn_node *n, const hn_rng_state *state)
{
    const hn_tensor *dy = n->in[DY], *w = n->in[W], *a = n->in[A], *b = n->in[B];
    const hn_tensor *so_far = n->in[SO_FAR], *ds = n->out[DS], *dx = n->out[DX];
    return (hn_lowrank_linear_dx_args){
        .dy = dy->data,
        .w = w->data,
        .a = a->data,
        .b = b->data,
        .ds = ds->data,
        .add = so_far ? so_far->data : NULL,
        .dx = dx->data,
        .rows = hn_type_rows(&dy->type),
        .in = hn_type_cols(&dx->type),
        .out = hn_type_cols(&dy->type),
        .rank = hn_type_cols(&ds->type),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_w = hn_type_ld(&w->type),
        .ld_a = hn_type_ld(&a->type),
        .ld_b = hn_type_ld(&b->type),
        .ld_ds = hn_type_ld(&ds->type),
        .ld_add = so_far ? hn_type_ld(&so_far->type) : 0,
        .ld_dx = hn_type_ld(&dx->type),
        .dy_tail = dy->type.tail,
        .replicas = hn_replicas_of(a),
        .w_stride = hn_replica_stride(w),
        .a_stride = hn_replica_stride(a),
        .b_stride = hn_replica_stride(b),
        .dtype = dy->type.dtype,
        .scale = n->attr.linear.alpha,
        .drop = {state, n->attr.linear.key, (double)n->attr.linear.dropout},
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *dy = &n->in[DY]->type, *w = &n->in[W]->type;
    const hn_type *a = &n->in[A]->type, *b = &n->in[B]->type;
    if (!hn_is_matrix(dy, dy) || !hn_is_matrix(w, dy) || !hn_is_matrix(a, dy) ||
        !hn_is_matrix(b, dy) || w->ndim != 2 || a->ndim != 2 || b->ndim != 2 ||
        w->dim[0] != hn_type_cols(dy) || a->dim[1] != w->dim[1] || b->dim[0] != w->dim[0] ||
        b->dim[1] != a->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "dy [rows, out], w [out, in], a [rank, in] and b [out, rank] "
                                     "of one dtype, f32 or bf16");
    out[DS] = hn_type_2d(dy->dtype, hn_type_rows(dy), a->dim[0]);
    out[DX] = hn_type_2d(dy->dtype, hn_type_rows(dy), w->dim[1]);
    if (n->in[SO_FAR] && !hn_type_same(&n->in[SO_FAR]->type, &out[DX]))
        return HN_FAIL(HN_ERR_SHAPE, "the gradient so far is not shaped like dx");
    return HN_OK;
}

/* A below w: ds behind the rows of dy makes one product of two, but not under a mask. */
static int64_t tail(const hn_node *n, int k)
{
    const hn_tensor *w = n->in[W], *a = n->in[A];
    if (k != DY || n->attr.linear.dropout > 0) return 0;
    return hn_lies_behind(w, a, w->type.dim[0] * hn_type_ld(&w->type)) ? a->type.dim[0] : 0;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_lowrank_linear_dx_args a = args_of(n, NULL);
    return device == HN_DEVICE_CUDA ? hn_lowrank_linear_dx_cuda_scratch(&a)
                                    : hn_lowrank_linear_dx_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    hn_rng_state state;
    const hn_lowrank_linear_dx_args a = args_of(n, hn_rng_state_of(x, &state));
    return x->twin ? hn_lowrank_linear_dx_cpu(&a) : hn_lowrank_linear_dx_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    hn_rng_state state;
    const hn_lowrank_linear_dx_args a = args_of(n, hn_rng_state_of(x, &state));
    return hn_lowrank_linear_dx_cuda(&a, x->gemm, x->scratch, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {5, 3}},
            {HN_F32, 2, {3, 7}},
            {HN_F32, 2, {2, 7}, 8},
            {HN_F32, 2, {3, 2}},
            {HN_F32, 2, {5, 7}}},
     .attr = {.linear = {.alpha = 2.0f, .dropout = 0.25f, .key = 9}}},
    {.in = {{HN_BF16, 2, {33, 18}},
            {HN_BF16, 2, {18, 20}},
            {HN_BF16, 2, {4, 20}},
            {HN_BF16, 2, {18, 4}}},
     .attr = {.linear = {.alpha = 0.5f}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_lowrank_dx = {
    .name = "lowrank_dx",
    .n_in = 5,
    .n_out = 2,
    .optional = HN_BIT(SO_FAR),
    .reuse = HN_REUSE(DX, SO_FAR),
    .replicas = true,
    .infer = infer,
    .tail = tail,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
