/* sum = grad_sums(grad, sum), in place: sums of squares of blocks, the first part of a norm of
 * which every rank has a share; the mathematics is in kernels/optim/grad_norm.h. sum is doubles as
 * u8. */
#include "kernels/optim/grad_norm.h"
#include "kernels/reduce/sum_squares.h"
#include "runtime/graph/op.h"

enum { GRAD, SUM }; /* inputs; the only output is SUM */

static hn_grad_sums_args args_of(const hn_node *n)
{
    return (hn_grad_sums_args){.grad = n->in[GRAD]->data,
                               .sum = n->in[SUM]->data,
                               .n = hn_type_elements(&n->in[GRAD]->type)};
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *grad = &n->in[GRAD]->type, *sum = &n->in[SUM]->type;
    (void)out;
    if (grad->dtype != HN_F32 || sum->dtype != HN_U8)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "grad is f32, sum is u8");
    if (grad->ndim != 1 ||
        hn_type_elements(sum) != hn_sum_squares_blocks(grad->dim[0]) * (int64_t)sizeof(double))
        return HN_FAIL(HN_ERR_SHAPE, "grad [n], sum: a double a block of %d", HN_SUM_BLOCK);
    return HN_OK;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_grad_sums_args a = args_of(n);
    return x->twin ? hn_grad_sums_cpu(&a) : hn_grad_sums_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_grad_sums_args a = args_of(n);
    return hn_grad_sums_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 1, {37}}, {HN_U8, 1, {8}}}},
    {.in = {{HN_F32, 1, {20000}}, {HN_U8, 1, {24}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_grad_sums = {
    .name = "grad_sums",
    .n_in = 2,
    .n_out = 1,
    .alias = {1 + SUM},
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
