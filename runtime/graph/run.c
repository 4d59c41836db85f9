#include "runtime/graph/run.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/graph/graph_impl.h"

static bool is_float(hn_dtype t) { return t == HN_F32 || t == HN_BF16 || t == HN_F16; }

static hn_status scan(const hn_node *n, const hn_tensor *t)
{
    if (!is_float(t->type.dtype)) return HN_OK;
    const int64_t rows = hn_type_rows(&t->type), cols = hn_type_cols(&t->type);
    const int64_t ld = hn_type_ld(&t->type);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            const float v = hn_get_f32(t->data, t->type.dtype, i * ld + j);
            if (!isfinite(v))
                return HN_FAIL(HN_ERR_NUMERIC, "%s (%s%s) wrote %g at [%" PRId64 ", %" PRId64 "]",
                               n->name, hn_op(n->op)->name, n->backward ? ", backward" : "",
                               (double)v, i, j);
        }
    return HN_OK;
}

/* Fresh outputs become NaN patterns, unless they took over an input's memory. */
static void poison(const hn_node *n)
{
    const hn_op_def *def = hn_op(n->op);
    for (int k = 0; k < def->n_out; k++) {
        const hn_tensor *t = n->out[k];
        if (t == NULL || def->alias[k]) continue;
        bool taken_over = false;
        for (int j = 0; j < def->n_in; j++) taken_over |= n->in[j] && n->in[j]->data == t->data;
        if (!taken_over) memset(t->data, 0xff, hn_type_bytes(&t->type));
    }
}

/* Pieces are rounded up to 64 bytes; the zone starts behind that. */
static size_t zone_offset(size_t n_bytes) { return (n_bytes + 63) / 64 * 64; }

static hn_status check_zone(const hn_node *n, const char *what, const unsigned char *end,
                            size_t guard)
{
    for (size_t i = 0; i < guard; i++)
        if (end[i] != 0xff)
            return HN_FAIL(HN_ERR_ARG, "%s (%s) wrote %zu bytes behind its %s", n->name,
                           hn_op(n->op)->name, i, what);
    return HN_OK;
}

/* The zone behind output k; NULL when there is none. */
static unsigned char *output_zone(const hn_node *n, int k)
{
    const hn_tensor *t = n->out[k];
    if (t == NULL || t->base != NULL || t->mem != HN_MEM_TRANSIENT) return NULL;
    for (int j = 0; j < hn_op(n->op)->n_in; j++) /* taken over: the piece may be larger than t */
        if (n->in[j] && n->in[j]->data == t->data) return NULL;
    return (unsigned char *)t->data + zone_offset(hn_type_bytes(&t->type));
}

static unsigned char *scratch_zone(const hn_node *n)
{
    unsigned char *const block = n->graph->program->memory[HN_MEM_TRANSIENT];
    return n->scratch ? block + n->scratch_at + zone_offset(n->scratch) : NULL;
}

/* Before the node runs: an earlier tensor may have lain where a zone is now. */
static void paint_zones(const hn_node *n, size_t guard)
{
    for (int k = 0; k < hn_op(n->op)->n_out; k++)
        if (output_zone(n, k)) memset(output_zone(n, k), 0xff, guard);
    if (scratch_zone(n)) memset(scratch_zone(n), 0xff, guard);
}

static hn_status check_zones(const hn_node *n, size_t guard)
{
    for (int k = 0; k < hn_op(n->op)->n_out; k++)
        if (output_zone(n, k)) HN_TRY(check_zone(n, "output", output_zone(n, k), guard));
    return scratch_zone(n) ? check_zone(n, "scratch", scratch_zone(n), guard) : HN_OK;
}

hn_status hn_graph_run(const hn_graph *g, const hn_run_options *o)
{
    const hn_program *p = g->program;
    unsigned char *const transient = p->memory[HN_MEM_TRANSIENT];
    hn_exec x = {.device = p->device, .step = o->step, .twin = o->twin};
    const bool zones = o->check && p->guard_bytes > 0;
    if (zones && p->transient_bytes > 0) memset(transient, 0xff, p->transient_bytes);
    for (int64_t i = 0; i < g->n_nodes; i++) {
        const hn_node *n = g->node[i];
        const hn_op_def *def = hn_op(n->op);
        x.scratch = n->scratch ? transient + n->scratch_at : NULL;
        if (o->check) poison(n);
        if (zones) paint_zones(n, p->guard_bytes);
        const hn_status st = def->run_cpu(n, &x);
        if (st != HN_OK) return HN_FAIL(st, "%s (%s): %s", n->name, def->name, hn_last_error());
        if (zones) HN_TRY(check_zones(n, p->guard_bytes));
        for (int k = 0; o->check && k < def->n_out; k++) /* statistics may hold infinities */
            if (n->out[k] && !(def->saved_out & HN_BIT(k))) HN_TRY(scan(n, n->out[k]));
    }
    return HN_OK;
}
