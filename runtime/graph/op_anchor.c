/* grad, loss = anchor(p, ref, grad, fisher?, count?, loss?), in place; the mathematics is in
 * kernels/optim/anchor.h. grad may be longer than p (the token count lies behind). */
#include "kernels/optim/anchor.h"
#include "runtime/graph/op.h"

enum { P, REF, GRAD_IN, FISHER, COUNT, LOSS_IN }; /* inputs */
enum { GRAD, LOSS };                              /* outputs, which are inputs */

static hn_anchor_args args_of(const hn_node *n)
{
    const hn_tensor *p = n->in[P], *ref = n->in[REF], *fisher = n->in[FISHER];
    const hn_tensor *count = n->in[COUNT], *loss = n->in[LOSS_IN];
    return (hn_anchor_args){
        .p = p->data,
        .ref = ref->data,
        .fisher = fisher ? fisher->data : NULL,
        .count = count ? count->data : NULL,
        .grad = n->in[GRAD_IN]->data,
        .loss = loss ? loss->data : NULL,
        .n = hn_type_elements(&p->type),
        .replicas = p->type.replicas,
        .stride = hn_replica_stride(p),
        .ref_stride = hn_replica_stride(ref),
        .fisher_stride = fisher ? hn_replica_stride(fisher) : 0,
        .grad_stride = hn_replica_stride(n->in[GRAD_IN]),
        .count_stride = count ? hn_replica_stride(count) : 0,
        .loss_stride = loss && hn_replica_stride(loss) ? hn_replica_stride(loss) : loss != NULL,
        .weight = n->attr.anchor.weight,
    };
}

static int64_t replicas(const hn_type *t) { return t->replicas > 1 ? t->replicas : 1; }

/* An operand that is read: f32, so many elements, with p's replicas or without. */
static bool fits(const hn_tensor *t, const hn_type *p, int64_t elements)
{
    return t == NULL || (t->type.dtype == HN_F32 && hn_type_elements(&t->type) == elements &&
                         (replicas(&t->type) == 1 || replicas(&t->type) == replicas(p)));
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *p = &n->in[P]->type, *grad = &n->in[GRAD_IN]->type;
    const hn_tensor *loss = n->in[LOSS_IN];
    if (p->dtype != HN_F32 || grad->dtype != HN_F32)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "p, ref, grad and fisher are f32");
    if (p->ndim != 1 || grad->ndim != 1 || hn_type_elements(grad) < hn_type_elements(p) ||
        replicas(grad) != replicas(p) || !fits(n->in[REF], p, hn_type_elements(p)) ||
        !fits(n->in[FISHER], p, hn_type_elements(p)))
        return HN_FAIL(HN_ERR_SHAPE, "p, ref and fisher are f32 [n], grad is [n] or longer");
    if (!fits(n->in[COUNT], p, 1) || !fits(loss, p, 1) ||
        (loss && replicas(&loss->type) != replicas(p)))
        return HN_FAIL(HN_ERR_SHAPE, "count and loss are f32 [1], loss one a replica");
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_anchor_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_anchor_cuda_scratch(&a) : hn_anchor_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_anchor_args a = args_of(n);
    return x->twin ? hn_anchor_cpu(&a) : hn_anchor_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_anchor_args a = args_of(n);
    return hn_anchor_cuda(&a, x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 1, {37}}, {HN_F32, 1, {37}}, {HN_F32, 1, {38}}},
     .attr.anchor = {.weight = 0.1f}},
    {.in = {{HN_F32, 1, {9001}}, {HN_F32, 1, {9001}}, {HN_F32, 1, {9001}}, {HN_F32, 1, {9001}},
            {HN_F32, 1, {1}}, {HN_F32, 1, {1}}},
     .attr.anchor = {.weight = 0.5f}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_anchor = {
    .name = "anchor",
    .n_in = 6,
    .n_out = 2,
    .optional = HN_BIT(FISHER) | HN_BIT(COUNT) | HN_BIT(LOSS_IN),
    .alias = {1 + GRAD_IN, 1 + LOSS_IN},
    .replicas = true,
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
