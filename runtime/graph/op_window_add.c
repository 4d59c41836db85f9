/* g, sum, square = window_add(g, sum, square?), in place, by the step block of the running step;
 * the mathematics is in kernels/sparse/window_add.h */
#include "kernels/sparse/window_add.h"
#include "runtime/graph/op_util.h"

enum { G, SUM, SQUARE }; /* inputs; outputs are the same */

static hn_window_add_args args_of(const hn_node *n, const hn_exec *x)
{
    return (hn_window_add_args){
        .g = n->in[G]->data,
        .step = x->step,
        .sum = n->in[SUM]->data,
        .square = n->in[SQUARE] ? n->in[SQUARE]->data : NULL,
        .n = n->in[G]->type.dim[0],
        .zero = n->attr.window_add.zero,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *g = &n->in[G]->type;
    const hn_tensor *square = n->in[SQUARE];
    if (g->dtype != HN_F32) return HN_FAIL(HN_ERR_UNSUPPORTED, "g, sum and square are f32");
    if (g->ndim != 1 || hn_replicas_of(n->in[G]) || !hn_type_same(g, &n->in[SUM]->type) ||
        (square && !hn_type_same(g, &square->type)))
        return HN_FAIL(HN_ERR_SHAPE, "g, sum and square are [n], without replicas");
    return HN_OK;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_window_add_args a = args_of(n, x);
    return x->twin ? hn_window_add_cpu(&a) : hn_window_add_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_window_add_args a = args_of(n, x);
    return hn_window_add_cuda(&a, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 1, {37}}, {HN_F32, 1, {37}}}},
    {.in = {{HN_F32, 1, {20011}}, {HN_F32, 1, {20011}}, {HN_F32, 1, {20011}}},
     .attr.window_add = {.zero = true}},
    {.in = {{0}}},
};
/* clang-format on */

const hn_op_def hn_op_window_add = {
    .name = "window_add",
    .n_in = 3,
    .n_out = 3,
    .optional = HN_BIT(SQUARE),
    .alias = {1 + G, 1 + SUM, 1 + SQUARE},
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
