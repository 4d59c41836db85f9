/* step = grad_norm(grad, count, step), in place; the mathematics is in kernels/optim/grad_norm.h.
 * step is the step block (one a replica) as u8. */
#include "kernels/optim/grad_norm.h"
#include "runtime/graph/op.h"

enum { GRAD, COUNT, STEP }; /* inputs; the only output is STEP */

static hn_grad_norm_args args_of(const hn_node *n)
{
    const hn_tensor *grad = n->in[GRAD];
    return (hn_grad_norm_args){
        .grad = grad->data,
        .count = n->in[COUNT]->data,
        .step = n->in[STEP]->data,
        .n = hn_type_elements(&grad->type),
        .replicas = grad->type.replicas,
        .grad_stride = hn_replica_stride(grad),
        .count_stride = hn_replica_stride(n->in[COUNT]),
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *grad = &n->in[GRAD]->type, *count = &n->in[COUNT]->type;
    const hn_type *step = &n->in[STEP]->type;
    const int64_t replicas = grad->replicas > 1 ? grad->replicas : 1;
    if (grad->dtype != HN_F32 || count->dtype != HN_F32 || step->dtype != HN_U8)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "grad and count are f32, step is u8");
    if (grad->ndim != 1 || hn_type_elements(count) != 1 ||
        (count->replicas > 1 ? count->replicas : 1) != replicas ||
        hn_type_elements(step) < replicas * (int64_t)sizeof(hn_step_block))
        return HN_FAIL(HN_ERR_SHAPE, "grad [n], count [1], step: a step block a replica");
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_grad_norm_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_grad_norm_cuda_scratch(&a) : hn_grad_norm_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_grad_norm_args a = args_of(n);
    return x->twin ? hn_grad_norm_cpu(&a) : hn_grad_norm_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_grad_norm_args a = args_of(n);
    return hn_grad_norm_cuda(&a, x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 1, {37}}, {HN_F32, 1, {1}}, {HN_U8, 1, {sizeof(hn_step_block)}}}},
    {.in = {{HN_F32, 1, {20000}}, {HN_F32, 1, {1}}, {HN_U8, 1, {sizeof(hn_step_block)}}}},
    {.in = {{0}}},
};
/* clang-format on */

static bool fill(const hn_node *n, int k, void *data)
{
    (void)n;
    if (k == COUNT) *(float *)data = 12.0f;
    if (k == STEP) *(hn_step_block *)data = (hn_step_block){.step = 3, .max_norm = 0.25f};
    return k != GRAD;
}

const hn_op_def hn_op_grad_norm = {
    .name = "grad_norm",
    .n_in = 3,
    .n_out = 1,
    .alias = {1 + STEP},
    .replicas = true,
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
