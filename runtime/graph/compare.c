/* A node's CPU twin on copies of what the device read: the device's outputs must agree.
 *
 * The copies are made before the node runs, because an output may take over an input's memory. */
#include <math.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/graph_impl.h"
#include "runtime/graph/tensor.h"

/* Of all replicas. */
static size_t whole_span(const hn_tensor *t)
{
    const size_t stride = (size_t)hn_replica_stride(t) * hn_dtype_size(t->type.dtype);
    return hn_tensor_span(t) + (t->type.replicas > 1 ? (size_t)(t->type.replicas - 1) * stride : 0);
}

void hn_twin_free(hn_twin_copies *c)
{
    for (int k = 0; k < HN_MAX_IN; k++) hn_free(c->in[k]);
    for (int k = 0; k < HN_MAX_OUT; k++) hn_free(c->out[k]);
    *c = (hn_twin_copies){0};
}

/* 64-byte aligned as a plan's memory. */
static hn_status copy_of(const hn_node *n, const hn_tensor *t, void **out)
{
    *out = hn_aligned_alloc(64, whole_span(t));
    return *out ? HN_OK
                : HN_FAIL(HN_ERR_MEMORY, "%s: %zu bytes for a copy of %s", n->name, whole_span(t),
                          t->name);
}

hn_status hn_twin_before(const hn_node *n, hn_twin_copies *c)
{
    const hn_op_def *def = hn_op(n->op);
    for (int k = 0; k < def->n_in; k++) {
        if (n->in[k] == NULL) continue;
        HN_TRY(copy_of(n, n->in[k], &c->in[k]));
        HN_TRY(hn_device_read(n->graph->program->device, c->in[k], n->in[k]->data,
                              whole_span(n->in[k])));
    }
    for (int k = 0; k < def->n_out; k++)
        if (n->out[k] && !def->alias[k]) HN_TRY(copy_of(n, n->out[k], &c->out[k]));
    return HN_OK;
}

static double tolerance(const hn_node *n, int k)
{
    const hn_op_def *def = hn_op(n->op);
    if (n->out[k]->type.dtype == HN_BF16) return 2e-2;
    return def->rounded_inside & HN_BIT(k) && n->in[0]->type.dtype == HN_BF16 ? 6e-3 : 1e-4;
}

/* ||got - want|| / ||want||, columns only, of one replica. */
static double difference(const hn_tensor *t, const void *got, const void *want)
{
    const int64_t rows = hn_type_rows(&t->type), cols = hn_type_cols(&t->type);
    const int64_t ld = hn_type_ld(&t->type);
    double error = 0, norm = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            const double w = (double)hn_get_f32(want, t->type.dtype, i * ld + j);
            const double d = (double)hn_get_f32(got, t->type.dtype, i * ld + j) - w;
            error += d * d;
            norm += w * w;
        }
    return error == 0 ? 0 : sqrt(error / (norm > 0 ? norm : 1));
}

/* Of numbers that may both be infinite or NaN. */
static double apart(float got, float want)
{
    if (got == want || !(isfinite(got) || isfinite(want))) return 0;
    return fabs((double)got - (double)want) / fabs((double)want);
}

/* The larger of those of scale and norm, all replicas; infinite where an update is left out on one
 * side only. */
static double difference_of_blocks(const hn_tensor *t, const hn_step_block *got,
                                   const hn_step_block *want)
{
    double most = 0;
    for (size_t i = 0; i < hn_type_bytes(&t->type) / sizeof *got; i++) {
        if (got[i].skipped != want[i].skipped) return INFINITY;
        most = fmax(most, apart(got[i].grad_scale, want[i].grad_scale));
        most = fmax(most, apart(got[i].grad_norm, want[i].grad_norm));
    }
    return most;
}

/* Whether output k is step blocks. */
static bool is_blocks(const hn_node *n, int k)
{
    return n->op == HN_OP_GRAD_NORM || (n->op == HN_OP_GRAD_SCALE && k == 1);
}

/* Of one replica of output k. */
static hn_status compare_replica(const hn_node *n, int k, const hn_tensor *t, const void *want)
{
    const void *got;
    void *copy;
    hn_status st = HN_OK;
    HN_TRY(hn_tensor_now(t, &got, &copy));
    const double d =
        is_blocks(n, k) ? difference_of_blocks(t, got, want) : difference(t, got, want);
    const double allowed = tolerance(n, k);
    if (!(d <= allowed))
        st = HN_FAIL(HN_ERR_NUMERIC,
                     "%s (%s%s): output %d on the GPU is %.3g away from the CPU's, relative to its "
                     "norm; %.0e is allowed",
                     n->name, hn_op(n->op)->name, n->backward ? ", backward" : "", k, d, allowed);
    hn_free(copy);
    return st;
}

static hn_status compare(const hn_node *n, int k, const void *want)
{
    const hn_tensor *t = n->out[k];
    const hn_dtype type = t->type.dtype;
    const size_t apart = (size_t)hn_replica_stride(t) * hn_dtype_size(type);
    if (type != HN_F32 && type != HN_BF16 && type != HN_F16 && !is_blocks(n, k)) return HN_OK;
    for (int64_t g = 0; g < (t->type.replicas > 1 ? t->type.replicas : 1); g++) {
        const hn_tensor one = hn_tensor_replica(t, g);
        HN_TRY(compare_replica(n, k, &one, (const char *)want + (size_t)g * apart));
    }
    return HN_OK;
}

hn_status hn_twin_after(const hn_node *n, hn_step_block *step, hn_twin_copies *c)
{
    const hn_op_def *def = hn_op(n->op);
    hn_tensor in[HN_MAX_IN], out[HN_MAX_OUT];
    hn_node twin = *n;
    hn_exec x = {.device = HN_DEVICE_CPU, .step = step, .twin = true};
    for (int k = 0; k < def->n_in; k++) {
        if (n->in[k] == NULL) continue;
        in[k] = *n->in[k];
        in[k].data = c->in[k];
        twin.in[k] = &in[k];
    }
    for (int k = 0; k < def->n_out; k++) {
        if (n->out[k] == NULL) continue;
        out[k] = *n->out[k];
        out[k].data = def->alias[k] ? c->in[def->alias[k] - 1] : c->out[k];
        twin.out[k] = &out[k];
    }
    HN_TRY(def->run_cpu(&twin, &x));
    for (int k = 0; k < def->n_out; k++)
        if (n->out[k]) HN_TRY(compare(n, k, out[k].data));
    return HN_OK;
}
