/* t = 0, in place: gives a transient tensor its first value (padding included). */
#include <string.h>

#include "kernels/activation/elementwise.h"
#include "runtime/graph/op.h"

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    (void)x;
    const hn_tensor *t = n->out[0];
    const size_t size = hn_dtype_size(t->type.dtype), row = (size_t)hn_type_ld(&t->type) * size;
    for (int64_t i = 0; i < hn_type_rows(&t->type); i++)
        memset((char *)t->data + (size_t)i * row, 0, (size_t)hn_type_cols(&t->type) * size);
    return HN_OK;
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_tensor *t = n->out[0];
    const size_t size = hn_dtype_size(t->type.dtype);
    return hn_zero_cuda(t->data, hn_type_rows(&t->type), (size_t)hn_type_cols(&t->type) * size,
                        (size_t)hn_type_ld(&t->type) * size, x->stream);
}

static size_t bytes_of(const hn_tensor *t)
{
    return (size_t)hn_type_elements(&t->type) * hn_dtype_size(t->type.dtype);
}

static bool has_gaps(const hn_tensor *t)
{
    return hn_type_rows(&t->type) > 1 && hn_type_ld(&t->type) != hn_type_cols(&t->type);
}

/* The sums at the begin of a step. */
static hn_status run_many_cuda(hn_node *const *n, int64_t count, hn_exec *x)
{
    hn_zero_piece a[HN_ZERO_MANY];
    int64_t pieces = 0;
    for (int64_t i = 0; i < count; i++) {
        const hn_tensor *t = n[i]->out[0];
        if (has_gaps(t))
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
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .run_many_cuda = run_many_cuda,
    .samples = samples,
};
