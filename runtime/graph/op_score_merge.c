/* f, ids, acc = score_merge(f, ids, acc), in place; the mathematics is in
 * kernels/sparse/score_merge.h */
#include "kernels/sparse/score_merge.h"
#include "runtime/graph/op_util.h"

enum { F, IDS, ACC }; /* inputs, and outputs */

static hn_score_merge_args args_of(const hn_node *n)
{
    return (hn_score_merge_args){
        .f = n->in[F]->data,
        .ids = n->in[IDS]->data,
        .acc = n->in[ACC]->data,
        .blocks = n->in[F]->type.dim[0],
        .cap = n->in[IDS]->type.dim[0],
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *f = &n->in[F]->type, *ids = &n->in[IDS]->type, *acc = &n->in[ACC]->type;
    if (f->dtype != HN_F32 || ids->dtype != HN_I32 || acc->dtype != HN_F32)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "f and acc are f32, ids i32");
    if (f->ndim != 1 || ids->ndim != 1 || acc->ndim != 1 || ids->dim[0] != acc->dim[0] ||
        ids->dim[0] > f->dim[0] || hn_replicas_of(n->in[F]))
        return HN_FAIL(HN_ERR_SHAPE, "f [blocks], ids and acc [cap] with cap at most blocks");
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_score_merge_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_score_merge_cuda_scratch(&a) : 0;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_score_merge_args a = args_of(n);
    return x->twin ? hn_score_merge_cpu(&a) : hn_score_merge_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_score_merge_args a = args_of(n);
    return hn_score_merge_cuda(&a, x->scratch, x->stream);
}

/* Some candidates, and places without one behind them. */
static bool fill(const hn_node *n, int k, void *data)
{
    if (k != IDS) return false;
    const int64_t cap = n->in[IDS]->type.dim[0], blocks = n->in[F]->type.dim[0];
    for (int64_t i = 0; i < cap; i++)
        ((int32_t *)data)[i] = (int32_t)(3 * i < 2 * cap ? i * blocks / cap : -1);
    return true;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 1, {9}}, {HN_I32, 1, {9}}, {HN_F32, 1, {9}}}},
    {.in = {{HN_F32, 1, {5000}}, {HN_I32, 1, {77}}, {HN_F32, 1, {77}}}},
    {.in = {{HN_F32, 1, {40000}}, {HN_I32, 1, {33000}}, {HN_F32, 1, {33000}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_score_merge = {
    .name = "score_merge",
    .n_in = 3,
    .n_out = 3,
    .alias = {1 + F, 1 + IDS, 1 + ACC},
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
