/* sum, step = grad_scale(sum, count, step), in place: norm and factor from the sums of all blocks,
 * which it spoils; the mathematics is in kernels/optim/grad_norm.h. sum is doubles as u8, step the
 * step block as u8. */
#include "kernels/optim/grad_norm.h"
#include "runtime/graph/op.h"

enum { SUM, COUNT, STEP }; /* inputs; outputs are SUM and STEP */

static hn_grad_scale_args args_of(const hn_node *n)
{
    return (hn_grad_scale_args){.sum = n->in[SUM]->data,
                                .count = n->in[COUNT]->data,
                                .step = n->in[STEP]->data,
                                .blocks =
                                    hn_type_elements(&n->in[SUM]->type) / (int64_t)sizeof(double)};
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *sum = &n->in[SUM]->type, *count = &n->in[COUNT]->type;
    const hn_type *step = &n->in[STEP]->type;
    (void)out;
    if (sum->dtype != HN_U8 || count->dtype != HN_F32 || step->dtype != HN_U8)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "count is f32, sum and step are u8");
    if (sum->ndim != 1 || sum->dim[0] % (int64_t)sizeof(double) != 0 ||
        hn_type_elements(count) != 1 || hn_type_elements(step) < (int64_t)sizeof(hn_step_block))
        return HN_FAIL(HN_ERR_SHAPE, "sum: doubles, count [1], step: one step block");
    return HN_OK;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_grad_scale_args a = args_of(n);
    return x->twin ? hn_grad_scale_cpu(&a) : hn_grad_scale_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_grad_scale_args a = args_of(n);
    return hn_grad_scale_cuda(&a, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_U8, 1, {8}}, {HN_F32, 1, {1}}, {HN_U8, 1, {sizeof(hn_step_block)}}}},
    {.in = {{HN_U8, 1, {9000 * 8}}, {HN_F32, 1, {1}}, {HN_U8, 1, {sizeof(hn_step_block)}}}},
    {.in = {{0}}},
};
/* clang-format on */

static bool fill(const hn_node *n, int k, void *data)
{
    const int64_t blocks = hn_type_elements(&n->in[SUM]->type) / (int64_t)sizeof(double);
    for (int64_t b = 0; k == SUM && b < blocks; b++)
        ((double *)data)[b] = 0.25 * (double)(1 + b % 9);
    if (k == COUNT) *(float *)data = 12.0f;
    if (k == STEP) *(hn_step_block *)data = (hn_step_block){.step = 3, .max_norm = 0.25f};
    return true;
}

const hn_op_def hn_op_grad_scale = {
    .name = "grad_scale",
    .n_in = 3,
    .n_out = 2,
    .alias = {1 + SUM, 1 + STEP},
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
