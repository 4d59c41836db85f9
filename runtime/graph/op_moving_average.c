/* a = moving_average(a, p), in place; the mathematics is in kernels/optim/moving_average.h */
#include "kernels/optim/moving_average.h"
#include "runtime/graph/op.h"

enum { A, P }; /* inputs; the only output is A */

static hn_moving_average_args args_of(const hn_node *n, const hn_exec *x)
{
    const hn_tensor *a = n->in[A], *p = n->in[P];
    return (hn_moving_average_args){
        .a = a->data,
        .p = p->data,
        .step = x->step,
        .n = hn_type_elements(&a->type),
        .replicas = a->type.replicas,
        .stride = hn_replica_stride(a),
        .step_stride = a->type.replicas > 1,
        .decay = n->attr.moving_average.decay,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *a = &n->in[A]->type, *p = &n->in[P]->type;
    if (a->dtype != HN_F32 || a->ndim != 1 || !hn_type_same(a, p))
        return HN_FAIL(HN_ERR_SHAPE, "a and p are f32 [n], both with replicas or both without");
    if (hn_replica_stride(n->in[A]) != hn_replica_stride(n->in[P]))
        return HN_FAIL(HN_ERR_SHAPE, "replicas of a and p lie apart differently");
    return HN_OK;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_moving_average_args a = args_of(n, x);
    return x->twin ? hn_moving_average_cpu(&a) : hn_moving_average_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_moving_average_args a = args_of(n, x);
    return hn_moving_average_cuda(&a, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 1, {37}}, {HN_F32, 1, {37}}}, .attr.moving_average = {.decay = 0.5f}},
    {.in = {{HN_F32, 1, {9001}}, {HN_F32, 1, {9001}}}, .attr.moving_average = {.decay = 0.999f}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_moving_average = {
    .name = "moving_average",
    .n_in = 2,
    .n_out = 1,
    .alias = {1 + A},
    .replicas = true,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
