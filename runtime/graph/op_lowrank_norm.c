/* norm = lowrank_norm(w, a, b, squares), a constant for gradients; the mathematics is in
 * kernels/lora/lowrank_norm.h */
#include "kernels/lora/lowrank_norm.h"
#include "runtime/graph/op_util.h"

enum { W, A, B, SQUARES }; /* inputs; the only output is the norm */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *w = &n->in[W]->type, *a = &n->in[A]->type, *b = &n->in[B]->type;
    const hn_type *squares = &n->in[SQUARES]->type;
    for (int k = W; k <= B; k++)
        if (!hn_is_matrix(&n->in[k]->type, w) || n->in[k]->type.ndim != 2)
            return HN_FAIL(HN_ERR_SHAPE, "w, a and b matrices of one dtype, f32 or bf16");
    if (a->dim[1] != w->dim[1] || b->dim[0] != w->dim[0] || b->dim[1] != a->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "w [out, in], a [rank, in] and b [out, rank]");
    if (squares->dtype != HN_F32 || squares->ndim != 1 || squares->dim[0] != w->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "squares f32 [out]");
    if (n->attr.linear.alpha == 0.0f) return HN_FAIL(HN_ERR_ARG, "the scale (alpha) is 0");
    out[0] = hn_type_1d(HN_F32, w->dim[0]);
    return HN_OK;
}

static hn_lowrank_norm_args args_of(const hn_node *n)
{
    const hn_tensor *w = n->in[W], *a = n->in[A], *b = n->in[B];
    return (hn_lowrank_norm_args){
        .w = w->data,
        .a = a->data,
        .b = b->data,
        .squares = n->in[SQUARES]->data,
        .norm = n->out[0]->data,
        .out = w->type.dim[0],
        .in = w->type.dim[1],
        .rank = a->type.dim[0],
        .ld_w = hn_type_ld(&w->type),
        .ld_a = hn_type_ld(&a->type),
        .ld_b = hn_type_ld(&b->type),
        .dtype = w->type.dtype,
        .scale = n->attr.linear.alpha,
    };
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_lowrank_norm_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_lowrank_norm_cuda_scratch(&a)
                                    : hn_lowrank_norm_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_lowrank_norm_args a = args_of(n);
    return x->twin ? hn_lowrank_norm_cpu(&a) : hn_lowrank_norm_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_lowrank_norm_args a = args_of(n);
    return hn_lowrank_norm_cuda(&a, x->gemm, x->scratch, x->stream);
}

/* Larger than what w holds: an update cannot cancel it. */
static bool fill(const hn_node *n, int k, void *data)
{
    if (k != SQUARES) return false;
    const hn_type *w = &n->in[W]->type;
    for (int64_t o = 0; o < w->dim[0]; o++)
        ((float *)data)[o] = (float)(4 * w->dim[1]) * (1.0f + 0.01f * (float)o);
    return true;
}

/* Ranks below and above a warp's lanes. */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 7}, 8}, {HN_F32, 2, {2, 7}}, {HN_F32, 2, {3, 2}, 4}, {HN_F32, 1, {3}}},
     .attr = {.linear = {.alpha = 0.5f}}},
    {.in = {{HN_F32, 2, {70, 33}}, {HN_F32, 2, {40, 33}}, {HN_F32, 2, {70, 40}}, {HN_F32, 1, {70}}},
     .attr = {.linear = {.alpha = 0.1f}}},
    {.in =
         {{HN_BF16, 2, {48, 64}}, {HN_BF16, 2, {8, 64}}, {HN_BF16, 2, {48, 8}}, {HN_F32, 1, {48}}},
     .attr = {.linear = {.alpha = 0.5f}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_lowrank_norm = {
    .name = "lowrank_norm",
    .n_in = 4,
    .n_out = 1,
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
