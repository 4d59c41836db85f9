/* master, grad, m, v, work = adamw(master, grad, m, v, work?), in place; the mathematics is in
 * kernels/optim/adamw.h. grad may be longer than master: what lies behind (the token count) is
 * zeroed with it. */
#include "kernels/optim/adamw.h"
#include "runtime/graph/op.h"

enum { MASTER, GRAD, M, V, WORK }; /* inputs, and outputs */

static hn_adamw_args args_of(const hn_node *n, const hn_exec *x)
{
    const hn_type *master = &n->in[MASTER]->type;
    return (hn_adamw_args){
        .p = n->in[MASTER]->data,
        .grad = n->in[GRAD]->data,
        .m = n->in[M]->data,
        .v = n->in[V]->data,
        .work = n->in[WORK] ? n->in[WORK]->data : NULL,
        .step = x->step,
        .n = hn_type_elements(master),
        .n_zero = hn_type_elements(&n->in[GRAD]->type),
        .replicas = master->replicas,
        .stride = hn_replica_stride(n->in[MASTER]),
        .grad_stride = hn_replica_stride(n->in[GRAD]),
        .step_stride = master->replicas > 1,
        .beta1 = n->attr.adamw.beta1,
        .beta2 = n->attr.adamw.beta2,
        .eps = n->attr.adamw.eps,
        .weight_decay = n->attr.adamw.weight_decay,
        .lr_scale = n->attr.adamw.lr_scale,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *master = &n->in[MASTER]->type, *grad = &n->in[GRAD]->type;
    const hn_tensor *work = n->in[WORK];
    if (master->dtype != HN_F32 || grad->dtype != HN_F32 || (work && work->type.dtype != HN_BF16))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "master, grad, m and v are f32, work is bf16");
    if (master->ndim != 1 || !hn_type_same(master, &n->in[M]->type) ||
        !hn_type_same(master, &n->in[V]->type) ||
        hn_type_elements(grad) < hn_type_elements(master) || grad->replicas != master->replicas ||
        (work && hn_type_elements(&work->type) != hn_type_elements(master)))
        return HN_FAIL(HN_ERR_SHAPE, "master, m, v and work are [n], grad is [n] or longer");
    return HN_OK;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_adamw_args a = args_of(n, x);
    return x->twin ? hn_adamw_cpu(&a) : hn_adamw_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_adamw_args a = args_of(n, x);
    return hn_adamw_cuda(&a, x->stream);
}

/* The decayed range and the rest. */
static hn_status run_many_cuda(hn_node *const *n, int64_t count, hn_exec *x)
{
    hn_adamw_args a[HN_OPTIM_MANY];
    for (int64_t done = 0, now; done < count; done += now) {
        now = count - done < HN_OPTIM_MANY ? count - done : HN_OPTIM_MANY;
        for (int64_t i = 0; i < now; i++) a[i] = args_of(n[done + i], x);
        HN_TRY(hn_adamw_many_cuda(a, now, x->stream));
    }
    return HN_OK;
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 1, {37}}, {HN_F32, 1, {37}}, {HN_F32, 1, {37}}, {HN_F32, 1, {37}}},
     .attr.adamw = {.beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f}},
    {.in = {{HN_F32, 1, {5000}}, {HN_F32, 1, {5001}}, {HN_F32, 1, {5000}}, {HN_F32, 1, {5000}},
            {HN_BF16, 1, {5000}}},
     .attr.adamw = {.beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-6f, .lr_scale = 2.0f}},
    {.in = {{0}}},
};
/* clang-format on */

/* Second moments are not negative. */
static bool fill(const hn_node *n, int k, void *data)
{
    if (k != V) return false;
    for (int64_t i = 0; i < hn_type_elements(&n->in[k]->type); i++)
        ((float *)data)[i] = 0.001f * (float)(1 + i % 7);
    return true;
}

const hn_op_def hn_op_adamw = {
    .name = "adamw",
    .n_in = 5,
    .n_out = 5,
    .optional = HN_BIT(WORK),
    .alias = {1 + MASTER, 1 + GRAD, 1 + M, 1 + V, 1 + WORK},
    .replicas = true,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .run_many_cuda = run_many_cuda,
    .samples = samples,
    .fill = fill,
};
