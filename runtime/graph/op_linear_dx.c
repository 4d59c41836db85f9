/* dx = linear_dx(dy, w, dx_so_far?); the mathematics is in kernels/linear/linear.h */
#include "kernels/linear/linear.h"
#include "runtime/graph/op_util.h"

enum { DY, W, SO_FAR }; /* inputs */
enum { DX };            /* outputs */

static hn_linear_dx_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *w = n->in[W], *so_far = n->in[SO_FAR], *dx = n->out[DX];
    return (hn_linear_dx_args){
        .dy = dy->data,
        .w = w->data,
        .add = so_far ? so_far->data : NULL,
        .dx = dx->data,
        .rows = hn_type_rows(&dy->type),
        .in = hn_type_cols(&dx->type),
        .out = hn_type_cols(&dy->type),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_w = hn_type_ld(&w->type),
        .ld_add = so_far ? hn_type_ld(&so_far->type) : 0,
        .ld_dx = hn_type_ld(&dx->type),
        .replicas = hn_replicas_of(w),
        .w_stride = hn_replica_stride(w),
        .dtype = dy->type.dtype,
        .alpha = n->attr.linear.alpha,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *dy = &n->in[DY]->type, *w = &n->in[W]->type;
    if (!hn_is_matrix(dy, dy) || !hn_is_matrix(w, dy) || w->ndim != 2 ||
        hn_type_cols(dy) != w->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "dy [rows, out] and w [out, in] of one dtype, f32 or bf16");
    out[DX] = hn_type_2d(dy->dtype, hn_type_rows(dy), w->dim[1]);
    if (n->in[SO_FAR] && !hn_type_same(&n->in[SO_FAR]->type, &out[DX]))
        return HN_FAIL(HN_ERR_SHAPE, "the gradient so far is not shaped like dx");
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_linear_dx_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? 0 : hn_linear_dx_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_linear_dx_args a = args_of(n);
    return x->twin ? hn_linear_dx_cpu(&a) : hn_linear_dx_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_linear_dx_args a = args_of(n);
    return hn_linear_dx_cuda(&a, x->gemm, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {5, 3}, 4}, {HN_F32, 2, {3, 7}, 9}}},
    {.in = {{HN_F32, 2, {1, 6}}, {HN_F32, 2, {6, 4}}, {HN_F32, 2, {1, 4}, 8}},
     .attr = {.linear = {.alpha = 0.5f}}},
    {.in = {{HN_BF16, 2, {9, 17}}, {HN_BF16, 2, {17, 33}}, {HN_BF16, 2, {9, 33}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_linear_dx = {
    .name = "linear_dx",
    .n_in = 3,
    .n_out = 1,
    .optional = HN_BIT(SO_FAR),
    .reuse = HN_REUSE(DX, SO_FAR),
    .replicas = true,
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
