/* t = 0, in place, in all replicas: gives a transient tensor its first value (padding included). */
#include <string.h>

#include "kernels/activation/elementwise.h"
#include "runtime/base/check.h"
#include "runtime/graph/op.h"

static char *replica_of(const hn_tensor *t, int64_t g)
{
    return (char *)t->data + (size_t)(g * hn_replica_stride(t)) * hn_dtype_size(t->type.dtype);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    (void)x;
    const hn_tensor *t = n->out[0];
    const size_t size = hn_dtype_size(t->type.dtype), row = (size_t)hn_type_ld(&t->type) * size;
    for (int64_t g = 0; g < hn_replica_count(t->type.replicas); g++)
        for (int64_t i = 0; i < hn_type_rows(&t->type); i++)
            memset(replica_of(t, g) + (size_t)i * row, 0, (size_t)hn_type_cols(&t->type) * size);
    return HN_OK;
}

static hn_status zero_cuda(const hn_tensor *t, void *from, int64_t rows, int64_t cols, int64_t ld,
                           hn_stream stream)
{
    const size_t size = hn_dtype_size(t->type.dtype);
    return hn_zero_cuda(from, rows, (size_t)cols * size, (size_t)ld * size, stream);
}

static bool has_gaps(const hn_tensor *t)
{
    return hn_type_rows(&t->type) > 1 && hn_type_ld(&t->type) != hn_type_cols(&t->type);
}

/* Replicas without gaps are rows of a matrix. */
static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_tensor *t = n->out[0];
    const int64_t replicas = hn_replica_count(t->type.replicas), rows = hn_type_rows(&t->type);
    if (replicas > 1 && !has_gaps(t))
        return zero_cuda(t, t->data, replicas, hn_type_elements(&t->type), hn_replica_stride(t),
                         x->stream);
    for (int64_t g = 0; g < replicas; g++)
        HN_TRY(zero_cuda(t, replica_of(t, g), rows, hn_type_cols(&t->type), hn_type_ld(&t->type),
                         x->stream));
    return HN_OK;
}

static size_t bytes_of(const hn_tensor *t)
{
    return (size_t)hn_type_elements(&t->type) * hn_dtype_size(t->type.dtype);
}

/* The sums at the begin of a step. */
static hn_status run_many_cuda(hn_node *const *n, int64_t count, hn_exec *x)
{
    hn_zero_piece a[HN_ZERO_MANY];
    int64_t pieces = 0;
    for (int64_t i = 0; i < count; i++) {
        const hn_tensor *t = n[i]->out[0];
        if (has_gaps(t) || t->type.replicas > 1)
            HN_TRY(run_cuda(n[i], x));
        else
            a[pieces++] = (hn_zero_piece){t->data, bytes_of(t)};
        if (pieces == HN_ZERO_MANY || (pieces > 0 && i == count - 1)) {
            HN_TRY(hn_zero_many_cuda(a, pieces, x->stream));
            pieces = 0;
        }
    }
    return HN_OK;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 5}}}},
    {.in = {{HN_BF16, 2, {2, 7}, 8}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_zero = {
    .name = "zero",
    .n_in = 1,
    .n_out = 1,
    .alias = {1},
    .replicas = true,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .run_many_cuda = run_many_cuda,
    .samples = samples,
};
