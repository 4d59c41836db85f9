/* to = cast(a), in place of what `to` held: into a persistent tensor or a view; the mathematics is
 * in kernels/activation/elementwise.h. Where `to` is a vector with replicas, a has a row for each.
 */
#include "kernels/activation/elementwise.h"
#include "runtime/graph/op_util.h"

enum { A, TO }; /* inputs; the only output is TO */

static hn_status infer(const hn_node *n, hn_type *out)
{
    (void)out;
    const hn_type *a = &n->in[A]->type, *to = &n->in[TO]->type;
    const int64_t replicas = hn_replicas_of(n->in[TO]);
    const bool rows_of_vector = to->ndim == 1 && a->ndim == 2 && !hn_replicas_of(n->in[A]) &&
                                hn_type_rows(a) == (replicas ? replicas : 1) &&
                                hn_type_cols(a) == to->dim[0];
    hn_type same = *a;
    same.dtype = to->dtype;
    if (!hn_is_real(a) || !hn_is_real(to))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "a and the place it goes to are f32 or bf16");
    if (rows_of_vector) return HN_OK;
    if (replicas) return HN_FAIL(HN_ERR_SHAPE, "no row of a for each replica of a vector");
    if (!hn_type_same(&same, to) || hn_replicas_of(n->in[A]))
        return HN_FAIL(HN_ERR_SHAPE, "a and the place it goes to have other axes, or replicas");
    return HN_OK;
}

static hn_cast_args args_of(const hn_node *n)
{
    const hn_type *a = &n->in[A]->type, *to = &n->in[TO]->type;
    return (hn_cast_args){
        .a = n->in[A]->data,
        .y = n->in[TO]->data,
        .rows = hn_type_rows(a),
        .cols = hn_type_cols(a),
        .ld_a = hn_type_ld(a),
        .ld_y = hn_replicas_of(n->in[TO]) ? hn_replica_stride(n->in[TO]) : hn_type_ld(to),
        .dtype = a->dtype,
        .y_dtype = to->dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_cast_args a = args_of(n);
    return x->twin ? hn_cast_cpu(&a) : hn_cast_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_cast_args a = args_of(n);
    return hn_cast_cuda(&a, x->stream);
}

/* The copies behind an update: adapters' masters into the weights that they border. */
static hn_status run_many_cuda(hn_node *const *n, int64_t count, hn_exec *x)
{
    hn_cast_args a[HN_CAST_MANY];
    for (int64_t done = 0, now; done < count; done += now) {
        now = count - done < HN_CAST_MANY ? count - done : HN_CAST_MANY;
        for (int64_t i = 0; i < now; i++) a[i] = args_of(n[done + i]);
        HN_TRY(hn_cast_many_cuda(a, now, x->stream));
    }
    return HN_OK;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 5}, 7}, {HN_F32, 2, {3, 5}}}},
    {.in = {{HN_F32, 2, {4, 9}}, {HN_BF16, 2, {4, 9}, 16}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_store = {
    .name = "store",
    .n_in = 2,
    .n_out = 1,
    .alias = {1 + TO},
    .replicas = true,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .run_many_cuda = run_many_cuda,
    .samples = samples,
};
