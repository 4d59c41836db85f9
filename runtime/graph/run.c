#include "runtime/graph/run.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/graph_impl.h"
#include "runtime/graph/tensor.h"

const char *hn_executor_name(hn_executor x)
{
    static const char *const names[] = {"auto", "cpu", "cuda", "cuda-graph", "cuda-check"};
    return (unsigned)x < HN_EXECUTOR_COUNT ? names[x] : "?";
}

hn_executor hn_executor_of(const char *name)
{
    for (int x = 0; x < HN_EXECUTOR_COUNT; x++)
        if (strcmp(name, hn_executor_name((hn_executor)x)) == 0) return (hn_executor)x;
    return HN_EXECUTOR_AUTO;
}

hn_status hn_executor_choose(hn_executor asked, const hn_device *d, hn_executor *out)
{
    const bool gpu = d != NULL && hn_device_kind_of(d) == HN_DEVICE_CUDA;
    if (asked != HN_EXECUTOR_AUTO && gpu == (asked == HN_EXECUTOR_CPU))
        return HN_FAIL(HN_ERR_ARG, "executor %s needs %s; the device is %s",
                       hn_executor_name(asked), gpu ? "the CPU" : "a GPU",
                       d ? hn_device_text(d) : "the CPU");
    *out = asked != HN_EXECUTOR_AUTO ? asked : gpu ? HN_EXECUTOR_GRAPH : HN_EXECUTOR_CPU;
    return HN_OK;
}

static bool is_float(hn_dtype t) { return t == HN_F32 || t == HN_BF16 || t == HN_F16; }

static hn_status find_nonfinite(const hn_node *n, const hn_tensor *t, const void *data)
{
    const int64_t rows = hn_type_rows(&t->type), cols = hn_type_cols(&t->type);
    const int64_t ld = hn_type_ld(&t->type);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            const float v = hn_get_f32(data, t->type.dtype, i * ld + j);
            if (!isfinite(v))
                return HN_FAIL(HN_ERR_NUMERIC, "%s (%s%s) wrote %g at [%" PRId64 ", %" PRId64 "]",
                               n->name, hn_op(n->op)->name, n->backward ? ", backward" : "",
                               (double)v, i, j);
        }
    return HN_OK;
}

static hn_status scan(const hn_node *n, const hn_tensor *t)
{
    hn_status st = HN_OK;
    if (!is_float(t->type.dtype)) return HN_OK;
    for (int64_t g = 0; g < (t->type.replicas > 1 ? t->type.replicas : 1) && st == HN_OK; g++) {
        const hn_tensor one = hn_tensor_replica(t, g);
        const void *data;
        void *copy;
        HN_TRY(hn_tensor_now(&one, &data, &copy));
        st = find_nonfinite(n, t, data);
        hn_free(copy);
    }
    return st;
}

static bool taken_over(const hn_node *n, const hn_tensor *t)
{
    for (int j = 0; j < hn_op(n->op)->n_in; j++)
        if (n->in[j] && n->in[j]->data == t->data) return true;
    return false;
}

/* Between the rows of a view lie the values of others. */
static hn_status fill_rows(hn_device *d, const hn_tensor *t)
{
    const size_t size = hn_dtype_size(t->type.dtype), pitch = (size_t)hn_type_ld(&t->type) * size;
    if (t->base == NULL) return hn_device_fill(d, t->data, 0xff, hn_type_bytes(&t->type));
    for (int64_t i = 0; i < hn_type_rows(&t->type); i++)
        HN_TRY(hn_device_fill(d, (char *)t->data + (size_t)i * pitch, 0xff,
                              (size_t)hn_type_cols(&t->type) * size));
    return HN_OK;
}

/* Fresh outputs become NaN patterns, unless they took over an input's memory. */
static hn_status poison(const hn_node *n)
{
    const hn_op_def *def = hn_op(n->op);
    hn_device *d = n->graph->program->device;
    for (int k = 0; k < def->n_out; k++) {
        const hn_tensor *t = n->out[k];
        if (t == NULL || def->alias[k] || taken_over(n, t)) continue;
        HN_TRY(fill_rows(d, t));
    }
    return HN_OK;
}

/* Pieces are rounded up to 64 bytes; the zone starts behind that. */
static size_t zone_offset(size_t n_bytes) { return (n_bytes + 63) / 64 * 64; }

static hn_status check_zone(const hn_node *n, const char *what, const unsigned char *end,
                            size_t guard)
{
    unsigned char zone[256];
    for (size_t at = 0; at < guard; at += sizeof zone) {
        const size_t bytes = guard - at < sizeof zone ? guard - at : sizeof zone;
        HN_TRY(hn_device_read(n->graph->program->device, zone, end + at, bytes));
        for (size_t i = 0; i < bytes; i++)
            if (zone[i] != 0xff)
                return HN_FAIL(HN_ERR_ARG, "%s (%s) wrote %zu bytes behind its %s", n->name,
                               hn_op(n->op)->name, at + i, what);
    }
    return HN_OK;
}

/* The zone behind output k; NULL when there is none. */
static unsigned char *output_zone(const hn_node *n, int k)
{
    const hn_tensor *t = n->out[k];
    if (t == NULL || t->base != NULL || t->mem != HN_MEM_TRANSIENT) return NULL;
    if (taken_over(n, t)) return NULL; /* the piece may be larger than t */
    return (unsigned char *)t->data + zone_offset(hn_type_bytes(&t->type));
}

static unsigned char *scratch_zone(const hn_node *n)
{
    unsigned char *const block = n->graph->program->memory[HN_MEM_TRANSIENT];
    return n->scratch ? block + n->scratch_at + zone_offset(n->scratch) : NULL;
}

/* Before the node runs: an earlier tensor may have lain where a zone is now. */
static hn_status paint_zones(const hn_node *n, size_t guard)
{
    hn_device *d = n->graph->program->device;
    for (int k = 0; k < hn_op(n->op)->n_out; k++)
        if (output_zone(n, k)) HN_TRY(hn_device_fill(d, output_zone(n, k), 0xff, guard));
    return scratch_zone(n) ? hn_device_fill(d, scratch_zone(n), 0xff, guard) : HN_OK;
}

static hn_status check_zones(const hn_node *n, size_t guard)
{
    for (int k = 0; k < hn_op(n->op)->n_out; k++)
        if (output_zone(n, k)) HN_TRY(check_zone(n, "output", output_zone(n, k), guard));
    return scratch_zone(n) ? check_zone(n, "scratch", scratch_zone(n), guard) : HN_OK;
}

static hn_status run_node(const hn_node *n, hn_exec *x)
{
    const hn_program *p = n->graph->program;
    const hn_op_def *def = hn_op(n->op);
    x->scratch = n->scratch ? p->memory[HN_MEM_TRANSIENT] + n->scratch_at : NULL;
    const bool apart = n->side || n->leaves_room;
    if (apart) hn_device_products(p->device, n->side, p->side_sms);
    const hn_status st = x->device == HN_DEVICE_CUDA ? def->run_cuda(n, x) : def->run_cpu(n, x);
    if (apart) hn_device_products(p->device, false, 0);
    return st == HN_OK ? HN_OK : HN_FAIL(st, "%s (%s): %s", n->name, def->name, hn_last_text());
}

/* The node, or on a GPU those that it may run with; *n_nodes: how many that were. */
static hn_status run_at_once(const hn_graph *g, int64_t i, hn_exec *x, int64_t *n_nodes)
{
    const hn_node *n = g->node[i];
    const hn_op_def *def = hn_op(n->op);
    *n_nodes = 1;
    if (x->device != HN_DEVICE_CUDA || n->at_once < 2) return run_node(n, x);
    *n_nodes = n->at_once;
    x->scratch = NULL;
    const hn_status st = def->run_many_cuda(g->node + i, n->at_once, x);
    return st == HN_OK ? HN_OK : HN_FAIL(st, "%s (%s): %s", n->name, def->name, hn_last_text());
}

/* A run of side nodes, from node i on: they begin when the main stream is where it is now. */
static hn_status run_beside(const hn_graph *g, int64_t i, const hn_exec *main, int64_t *n_nodes)
{
    hn_device *d = g->program->device;
    hn_exec x = *main;
    x.stream = hn_device_side_stream(d, HN_SIDE_WORK);
    HN_TRY(hn_device_side_fork(d, HN_SIDE_WORK));
    for (*n_nodes = 0; i < g->n_nodes && g->node[i]->side; i++, ++*n_nodes) {
        HN_TRY(run_node(g->node[i], &x));
        if (g->node[i]->mark >= 0) HN_TRY(hn_device_side_mark(d, HN_SIDE_WORK, g->node[i]->mark));
    }
    return HN_OK;
}

/* The nodes that bring layers, from node i on: the same on their stream. */
static hn_status run_ahead(const hn_graph *g, int64_t i, const hn_exec *main, int64_t *n_nodes)
{
    hn_device *d = g->program->device;
    hn_exec x = *main;
    x.stream = hn_device_side_stream(d, HN_SIDE_AHEAD);
    HN_TRY(hn_device_side_fork(d, HN_SIDE_AHEAD));
    for (int64_t n, first = i; i < g->n_nodes && g->node[i]->ahead; i += n, *n_nodes = i - first) {
        HN_TRY(run_at_once(g, i, &x, &n));
        const int64_t mark = g->node[i + n - 1]->ahead_mark;
        if (mark >= 0) HN_TRY(hn_device_side_mark(d, HN_SIDE_AHEAD, g->n_marks + mark));
    }
    return HN_OK;
}

/* Every node, on a GPU on all streams; what comes behind waits for all. */
static hn_status run_all(const hn_graph *g, hn_exec *x, int (*stop)(void))
{
    hn_device *d = g->program->device;
    const bool gpu = x->device == HN_DEVICE_CUDA;
    for (int64_t i = 0, n_nodes; i < g->n_nodes; i += n_nodes) {
        const hn_node *n = g->node[i];
        if (stop && !gpu && stop() != 0)
            return HN_FAIL(HN_ERR_STOPPED, "graph %s: asked to stop in front of %s", g->name,
                           n->name);
        if (gpu && n->side) {
            HN_TRY(run_beside(g, i, x, &n_nodes));
            continue;
        }
        if (gpu && n->ahead) {
            HN_TRY(run_ahead(g, i, x, &n_nodes));
            continue;
        }
        if (gpu && n->needs) HN_TRY(hn_device_side_join(d, g->n_marks + n->needs->ahead_mark));
        if (gpu && n->after) HN_TRY(hn_device_side_join(d, n->after->mark));
        HN_TRY(run_at_once(g, i, x, &n_nodes));
    }
    if (gpu && g->side_end) HN_TRY(hn_device_side_join(d, g->side_end->mark));
    return HN_OK;
}

static hn_status run_checked(const hn_node *n, hn_exec *x)
{
    const hn_program *p = n->graph->program;
    const hn_op_def *def = hn_op(n->op);
    HN_TRY(poison(n));
    if (p->guard_bytes > 0) HN_TRY(paint_zones(n, p->guard_bytes));
    HN_TRY(run_node(n, x));
    const hn_status st = hn_device_wait(p->device); /* what the node itself did wrong shows here */
    if (st != HN_OK) return HN_FAIL(st, "%s (%s): %s", n->name, def->name, hn_last_text());
    if (p->guard_bytes > 0) HN_TRY(check_zones(n, p->guard_bytes));
    for (int k = 0; k < def->n_out; k++) /* statistics may hold infinities */
        if (n->out[k] && !(def->saved_out & HN_BIT(k))) HN_TRY(scan(n, n->out[k]));
    return HN_OK;
}

static hn_status run_compared(const hn_node *n, hn_exec *x)
{
    const hn_program *p = n->graph->program;
    const size_t blocks = (size_t)p->replicas * sizeof(hn_step_block);
    hn_twin_copies copies = {0};
    hn_status st = HN_OK;
    if (hn_op(n->op)->over_ranks) return run_checked(n, x);
    hn_step_block *step = hn_aligned_alloc(64, blocks);
    if (step == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes of step blocks", blocks);
    memset(step, 0, blocks);
    if (x->step) HN_TRY_GOTO(st, hn_device_read(p->device, step, x->step, blocks), done);
    HN_TRY_GOTO(st, hn_twin_before(n, &copies), done);
    HN_TRY_GOTO(st, run_checked(n, x), done);
    st = hn_twin_after(n, step, &copies);

done:
    hn_twin_free(&copies);
    hn_free(step);
    return st;
}

static hn_exec exec_of(const hn_program *p, hn_step_block *step)
{
    return (hn_exec){.device = hn_device_kind_of(p->device),
                     .stream = hn_device_stream(p->device),
                     .gemm = hn_device_gemm(p->device),
                     .attention = hn_device_attention(p->device),
                     .conv2d = hn_device_conv2d(p->device),
                     .collectives = hn_device_collectives(p->device),
                     .step = step};
}

static hn_status run_profiled(const hn_graph *g, hn_exec *x, hn_profile *profile)
{
    hn_device *d = g->program->device;
    double *ms = hn_calloc((size_t)g->n_nodes + 1, sizeof *ms);
    hn_status st = HN_OK;
    if (ms == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the times of graph %s", g->name);
    HN_TRY_GOTO(st, hn_device_mark(d, 0), done);
    for (int64_t i = 0, n_nodes; i < g->n_nodes;) {
        HN_TRY_GOTO(st, run_at_once(g, i, x, &n_nodes), done);
        for (; n_nodes > 0; n_nodes--) HN_TRY_GOTO(st, hn_device_mark(d, ++i), done);
    }
    HN_TRY_GOTO(st, hn_device_marks(d, g->n_nodes, ms), done);
    st = hn_profile_add(profile, g, ms);

done:
    hn_free(ms);
    return st;
}

/* From node i on. */
static hn_status run_idle(const hn_graph *g, int64_t i, hn_exec *x)
{
    for (; i < g->n_nodes; i++)
        if (g->node[i]->brings && g->node[i]->op == HN_OP_ALL_GATHER)
            HN_TRY(run_node(g->node[i], x));
    return HN_OK;
}

/* A number that is not finite ends the run, but not what other ranks wait for. */
static hn_status run_nodes(const hn_graph *g, hn_exec *x, bool compare)
{
    char why[512];
    for (int64_t i = 0; i < g->n_nodes; i++) {
        const hn_status st = compare ? run_compared(g->node[i], x) : run_checked(g->node[i], x);
        if (st != HN_ERR_NUMERIC || g->program->n_shards == 0) HN_TRY(st);
        if (st == HN_OK) continue;
        snprintf(why, sizeof why, "%s", hn_last_text());
        HN_TRY(run_idle(g, i + 1, x));
        return HN_FAIL(st, "%s", why);
    }
    return HN_OK;
}

hn_status hn_graph_run(const hn_graph *g, const hn_run_options *o)
{
    const hn_program *p = g->program;
    hn_exec x = exec_of(p, o->step);
    if (o->idle) return run_idle(g, 0, &x);
    const bool gpu = x.device == HN_DEVICE_CUDA;
    if (gpu ? o->twin : o->compare)
        return HN_FAIL(HN_ERR_ARG, "graph %s: %s", g->name,
                       gpu ? "twins run on the CPU" : "comparing with the CPU needs a GPU");
    x.twin = o->twin;
    if (o->profile) {
        if (o->check || o->compare) return HN_FAIL(HN_ERR_ARG, "a profiled run checks nothing");
        return run_profiled(g, &x, o->profile);
    }
    if (g->captured && !o->check && !o->compare) return hn_device_launch(p->device, g->captured);
    if (o->check && p->guard_bytes > 0 && p->transient_bytes > 0)
        HN_TRY(hn_device_fill(p->device, p->memory[HN_MEM_TRANSIENT], 0xff, p->transient_bytes));
    if (!o->check && !o->compare) return run_all(g, &x, o->stop);
    return run_nodes(g, &x, o->compare);
}

hn_status hn_graphs_capture(hn_graph *const *g, int n, hn_step_block *step, hn_device_graph **out)
{
    const hn_program *p = g[0]->program;
    hn_exec x = exec_of(p, step);
    hn_status st = HN_OK;
    HN_TRY(hn_device_capture_begin(p->device));
    for (int i = 0; i < n && st == HN_OK; i++) st = run_all(g[i], &x, NULL);
    if (st == HN_OK) return hn_device_capture_end(p->device, out);
    (void)!hn_device_capture_end(p->device, NULL);
    return st;
}

hn_status hn_graph_capture(hn_graph *g, hn_step_block *step)
{
    if (g->captured != NULL || g->n_nodes == 0) return HN_OK;
    return hn_graphs_capture(&g, 1, step, &g->captured);
}

void hn_graph_release(hn_graph *g)
{
    hn_device_graph_free(g->captured);
    g->captured = NULL;
}
