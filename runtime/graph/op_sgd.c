/* master, grad, momentum, work = sgd(master, grad, momentum?, work?), in place; the mathematics is
 * in kernels/optim/sgd.h. grad may be longer than master: what lies behind (the token count) is
 * zeroed with it. */
#include "kernels/optim/sgd.h"
#include "runtime/graph/op.h"

enum { MASTER, GRAD, MOMENTUM, WORK }; /* inputs, and outputs */

static hn_sgd_args args_of(const hn_node *n, const hn_exec *x)
{
    const hn_type *master = &n->in[MASTER]->type;
    return (hn_sgd_args){
        .p = n->in[MASTER]->data,
        .grad = n->in[GRAD]->data,
        .buf = n->in[MOMENTUM] ? n->in[MOMENTUM]->data : NULL,
        .work = n->in[WORK] ? n->in[WORK]->data : NULL,
        .step = x->step,
        .n = hn_type_elements(master),
        .n_zero = hn_type_elements(&n->in[GRAD]->type),
        .replicas = master->replicas,
        .stride = hn_replica_stride(n->in[MASTER]),
        .grad_stride = hn_replica_stride(n->in[GRAD]),
        .step_stride = master->replicas > 1,
        .momentum = n->attr.sgd.momentum,
        .weight_decay = n->attr.sgd.weight_decay,
        .lr_scale = n->attr.sgd.lr_scale,
        .nesterov = n->attr.sgd.nesterov,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *master = &n->in[MASTER]->type, *grad = &n->in[GRAD]->type;
    const hn_tensor *momentum = n->in[MOMENTUM], *work = n->in[WORK];
    if (master->dtype != HN_F32 || grad->dtype != HN_F32 || (work && work->type.dtype != HN_BF16))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "master, grad and momentum are f32, work is bf16");
    if (master->ndim != 1 || (momentum && !hn_type_same(master, &momentum->type)) ||
        hn_type_elements(grad) < hn_type_elements(master) || grad->replicas != master->replicas ||
        (work && hn_type_elements(&work->type) != hn_type_elements(master)))
        return HN_FAIL(HN_ERR_SHAPE, "master, momentum and work are [n], grad is [n] or longer");
    if (n->attr.sgd.momentum > 0.0f && momentum == NULL)
        return HN_FAIL(HN_ERR_ARG, "momentum %g needs its operand", (double)n->attr.sgd.momentum);
    return HN_OK;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_sgd_args a = args_of(n, x);
    return x->twin ? hn_sgd_cpu(&a) : hn_sgd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_sgd_args a = args_of(n, x);
    return hn_sgd_cuda(&a, x->stream);
}

/* The decayed range and the rest. */
static hn_status run_many_cuda(hn_node *const *n, int64_t count, hn_exec *x)
{
    hn_sgd_args a[HN_OPTIM_MANY];
    for (int64_t done = 0, now; done < count; done += now) {
        now = count - done < HN_OPTIM_MANY ? count - done : HN_OPTIM_MANY;
        for (int64_t i = 0; i < now; i++) a[i] = args_of(n[done + i], x);
        HN_TRY(hn_sgd_many_cuda(a, now, x->stream));
    }
    return HN_OK;
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 1, {37}}, {HN_F32, 1, {38}}},
     .attr.sgd = {.weight_decay = 0.1f}},
    {.in = {{HN_F32, 1, {5000}}, {HN_F32, 1, {5000}}, {HN_F32, 1, {5000}}, {HN_BF16, 1, {5000}}},
     .attr.sgd = {.momentum = 0.9f, .lr_scale = 0.5f, .nesterov = true}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_sgd = {
    .name = "sgd",
    .n_in = 4,
    .n_out = 4,
    .optional = HN_BIT(MOMENTUM) | HN_BIT(WORK),
    .alias = {1 + MASTER, 1 + GRAD, 1 + MOMENTUM, 1 + WORK},
    .replicas = true,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .run_many_cuda = run_many_cuda,
    .samples = samples,
};
