/* f = square_accumulate(f, grad, count?), in place; the mathematics is in
 * kernels/optim/square_accumulate.h. grad may be longer than f. */
#include "kernels/optim/square_accumulate.h"
#include "runtime/graph/op.h"

enum { F, GRAD, COUNT }; /* inputs; the only output is F */

static hn_square_accumulate_args args_of(const hn_node *n)
{
    const hn_tensor *f = n->in[F], *grad = n->in[GRAD], *count = n->in[COUNT];
    return (hn_square_accumulate_args){
        .f = f->data,
        .grad = grad->data,
        .count = count ? count->data : NULL,
        .n = hn_type_elements(&f->type),
        .replicas = f->type.replicas,
        .stride = hn_replica_stride(f),
        .grad_stride = hn_replica_stride(grad),
        .count_stride = count ? hn_replica_stride(count) : 0,
        .keep = n->attr.square_accumulate.keep,
        .scale = n->attr.square_accumulate.scale,
    };
}

static int64_t replicas(const hn_type *t) { return t->replicas > 1 ? t->replicas : 1; }

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *f = &n->in[F]->type, *grad = &n->in[GRAD]->type;
    const hn_type *count = n->in[COUNT] ? &n->in[COUNT]->type : NULL;
    if (f->dtype != HN_F32 || grad->dtype != HN_F32 || (count && count->dtype != HN_F32))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "f, grad and count are f32");
    if (f->ndim != 1 || grad->ndim != 1 || hn_type_elements(grad) < hn_type_elements(f) ||
        replicas(grad) != replicas(f))
        return HN_FAIL(HN_ERR_SHAPE, "f is [n], grad is [n] or longer");
    if (count &&
        (hn_type_elements(count) != 1 || (replicas(count) != 1 && replicas(count) != replicas(f))))
        return HN_FAIL(HN_ERR_SHAPE, "count is [1]");
    return HN_OK;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_square_accumulate_args a = args_of(n);
    return x->twin ? hn_square_accumulate_cpu(&a) : hn_square_accumulate_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_square_accumulate_args a = args_of(n);
    return hn_square_accumulate_cuda(&a, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 1, {37}}, {HN_F32, 1, {38}}},
     .attr.square_accumulate = {.keep = 0.9f, .scale = 0.25f}},
    {.in = {{HN_F32, 1, {9001}}, {HN_F32, 1, {9001}}, {HN_F32, 1, {1}}},
     .attr.square_accumulate = {.keep = 1.0f, .scale = 0.5f}},
    {.in = {{0}}},
};
/* clang-format on */

static bool fill(const hn_node *n, int k, void *data)
{
    (void)n;
    if (k == COUNT) *(float *)data = 8.0f;
    return k == COUNT;
}

const hn_op_def hn_op_square_accumulate = {
    .name = "square_accumulate",
    .n_in = 3,
    .n_out = 1,
    .optional = HN_BIT(COUNT),
    .alias = {1 + F},
    .replicas = true,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
