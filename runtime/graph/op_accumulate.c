/* sum += x, in place; the mathematics is in kernels/activation/elementwise.h */
#include "kernels/activation/elementwise.h"
#include "runtime/graph/op.h"

enum { SUM, X }; /* inputs; the only output is SUM */

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    if (!hn_type_same(&n->in[SUM]->type, &n->in[X]->type))
        return HN_FAIL(HN_ERR_SHAPE, "sum and x are of different types");
    return HN_OK;
}

static hn_binary_args args_of(const hn_node *n)
{
    const hn_type *s = &n->in[SUM]->type;
    return (hn_binary_args){
        .a = n->in[SUM]->data,
        .b = n->in[X]->data,
        .y = n->in[SUM]->data,
        .rows = hn_type_rows(s),
        .cols = hn_type_cols(s),
        .ld_a = hn_type_ld(s),
        .ld_b = hn_type_ld(&n->in[X]->type),
        .ld_y = hn_type_ld(s),
        .dtype = s->dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_binary_args a = args_of(n);
    return x->twin ? hn_add_cpu(&a) : hn_add_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_binary_args a = args_of(n);
    return hn_add_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 5}, 8}, {HN_F32, 2, {3, 5}}}},
    {.in = {{HN_BF16, 2, {2, 9}}, {HN_BF16, 2, {2, 9}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_accumulate = {
    .name = "accumulate",
    .n_in = 2,
    .n_out = 1,
    .alias = {1 + SUM},
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
