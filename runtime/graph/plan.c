#include "runtime/graph/plan.h"

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/graph_impl.h"

static hn_status prepare_nodes(const hn_graph *g, hn_device *d)
{
    const hn_device_kind device = hn_device_kind_of(d);
    for (int64_t i = 0; i < g->n_nodes; i++) {
        hn_node *n = g->node[i];
        const hn_op_def *def = hn_op(n->op);
        if ((device == HN_DEVICE_CUDA ? def->run_cuda : def->run_cpu) == NULL)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: operation %s has no %s function", n->name,
                           def->name, device == HN_DEVICE_CUDA ? "CUDA" : "CPU");
        const hn_status st = def->prepare ? def->prepare(n, d) : HN_OK;
        if (st != HN_OK) return HN_FAIL(st, "%s (%s): %s", n->name, def->name, hn_last_text());
        n->scratch = def->scratch ? def->scratch(n, device) : 0;
    }
    return HN_OK;
}

/* The nodes beside which a side node may run, at first; about a layer's. */
enum { WINDOW = 12 };
/* What side nodes may add to the transient block of a graph: operands that stay longer leave holes
 * that nothing fits into. */
enum { SIDE_BYTES = 64 << 20 };

/* Places a graph, with side nodes running beside as many others as memory allows. */
static hn_status place(hn_graph *g, const hn_plan_options *o, bool side)
{
    hn_pass_one_stream(g);
    if (side) hn_pass_ahead(g);
    HN_TRY(hn_place(g, o->guard_bytes));
    const size_t alone = g->transient_bytes;
    if (!side || !hn_pass_side_nodes(g)) return HN_OK;
    for (int window = WINDOW; window > 0; window /= 2) {
        HN_TRY(hn_pass_joins(g, window));
        HN_TRY(hn_place(g, o->guard_bytes));
        if (g->transient_bytes <= alone + SIDE_BYTES) return HN_OK;
    }
    hn_pass_one_stream(g);
    return hn_place(g, o->guard_bytes);
}

hn_status hn_plan_build(hn_program *p, const hn_plan_options *o)
{
    if (p->planned) return HN_FAIL(HN_ERR_ARG, "the program is planned already");
    p->device = o->device;
    p->guard_bytes = o->guard_bytes;
    p->most_bytes = o->memory;
    p->workspace =
        o->workspace > 0 && o->workspace < HN_GEMM_WORKSPACE ? o->workspace : HN_GEMM_WORKSPACE;
    if (p->device == NULL) {
        HN_TRY(hn_device_open("cpu", &p->own_device));
        p->device = p->own_device;
    }
    const bool gpu = hn_device_kind_of(p->device) == HN_DEVICE_CUDA;
    const bool side = o->side == HN_SIDE_AUTO ? gpu : o->side == HN_SIDE_ON;
    p->side_sms = !side ? 0 : o->side == HN_SIDE_ON ? o->side_sms : HN_SIDE_SMS;
    HN_TRY(hn_shards_place(p));
    for (int64_t i = 0; i < p->n_graphs; i++) {
        hn_graph *g = p->graph[i];
        hn_pass_dead_nodes(g);
        hn_pass_fuse(g);
        HN_TRY(hn_pass_recompute(g));
        HN_TRY(hn_pass_remake(g));
        HN_TRY(hn_pass_in_place(g));
        HN_TRY(hn_pass_shards(g));
    }
    hn_pass_tails(p);
    for (int64_t i = 0; i < p->n_graphs; i++) {
        hn_graph *g = p->graph[i];
        HN_TRY(prepare_nodes(g, p->device));
        HN_TRY(place(g, o, side));
        hn_pass_batches(g);
        if (g->transient_bytes > p->transient_bytes) p->transient_bytes = g->transient_bytes;
    }
    p->planned = true;
    return HN_OK;
}

static bool has_replicas(hn_mem m) { return m >= HN_MEM_TRAINED && m <= HN_MEM_AVERAGE; }

static size_t block_bytes(const hn_program *p, int m)
{
    if (m == HN_MEM_TRANSIENT) return p->transient_bytes;
    if (p->class_list[m].n == 0) return 0;
    /* the same rounding as hn_program_class_elements, so that ranges may cover the padding */
    const size_t align = 64 * sizeof(float);
    const size_t one = (p->class_bytes[m] + align - 1) / align * align;
    return has_replicas((hn_mem)m) ? one * (size_t)p->replicas : one;
}

void hn_plan_sizes_of(const hn_program *p, hn_plan_sizes *out)
{
    *out = (hn_plan_sizes){0};
    for (int m = 0; m < HN_MEM_COUNT; m++) {
        out->class_bytes[m] = block_bytes(p, m);
        out->total_bytes += out->class_bytes[m];
    }
    for (int64_t i = 0; i < p->n_graphs; i++) {
        out->n_nodes += p->graph[i]->n_nodes;
        for (int64_t k = 0; k < p->graph[i]->n_nodes; k++)
            out->n_side += p->graph[i]->node[k]->side;
        if (p->graph[i]->transient_bytes != p->transient_bytes || out->widest_graph) continue;
        out->widest_graph = p->graph[i]->name;
        out->widest_node = p->graph[i]->fullest ? p->graph[i]->fullest->name : NULL;
    }
    if (p->device && hn_device_kind_of(p->device) == HN_DEVICE_CUDA)
        out->workspace_bytes = p->workspace * (out->n_side > 0 ? 2 : 1);
    out->total_bytes += out->workspace_bytes;
    out->shares = hn_program_share_ranks(p);
}

void hn_plan_notes(const hn_program *p, char end, char *text, size_t size)
{
    const char *said[8];
    size_t n = 0, at = 0;
    hn_plan_sizes s;
    text[0] = '\0';
    hn_plan_sizes_of(p, &s);
    if (s.n_side > 0 && p->side_sms > 0)
        at = (size_t)snprintf(text, size, "%d multiprocessors for gradients of adapters%c",
                              p->side_sms, end);
    for (int64_t k = 0; k < p->n_graphs; k++)
        for (int64_t i = 0; i < p->graph[k]->n_nodes; i++) {
            const char *note = p->graph[k]->node[i]->note;
            bool fresh = note != NULL && n < sizeof said / sizeof *said && at < size;
            for (size_t j = 0; j < n && fresh; j++) fresh = strcmp(said[j], note) != 0;
            if (!fresh) continue;
            said[n++] = note;
            at += (size_t)snprintf(text + at, size - at, "%s%c", note, end);
        }
}

char *hn_plan_text(const hn_program *p)
{
    hn_plan_sizes s;
    char notes[4096];
    hn_plan_sizes_of(p, &s);
    hn_plan_notes(p, '\n', notes, sizeof notes);
    char text[2048] = "", side[64] = "", shares[96] = "";
    size_t at = 0;
    if (s.n_side > 0) snprintf(side, sizeof side, ", %" PRId64 " on the side stream", s.n_side);
    for (int m = 0; m < HN_MEM_COUNT && at < sizeof text; m++) {
        if (s.class_bytes[m] == 0) continue;
        char note[160] = "";
        if (m == HN_MEM_TRANSIENT)
            snprintf(note, sizeof note, "  (largest in graph '%s', at %s)", s.widest_graph,
                     s.widest_node);
        at += (size_t)snprintf(text + at, sizeof text - at, "  %-22s %10.4f GiB%s\n",
                               hn_mem_name((hn_mem)m), (double)s.class_bytes[m] / 0x1p30, note);
    }
    if (s.workspace_bytes > 0 && at < sizeof text)
        snprintf(text + at, sizeof text - at, "  %-22s %10.4f GiB\n", "library workspace",
                 (double)s.workspace_bytes / 0x1p30);
    if (s.shares > 1 && at < sizeof text)
        snprintf(shares, sizeof shares,
                 "%" PRId64 " layers' frozen weights in %d shares, one a rank\n", p->n_shards,
                 s.shares);
    return hn_asprintf("memory plan: %" PRId64 " operations in %" PRId64 " graphs%s\n%s"
                       "  %-22s %10.4f GiB\n%s%s",
                       s.n_nodes, p->n_graphs, side, text, "total", (double)s.total_bytes / 0x1p30,
                       shares, notes);
}

static void bind(hn_program *p, hn_tensor *t)
{
    hn_tensor *root = hn_root(t);
    unsigned char *data = p->memory[root->mem] + root->offset;
    for (const hn_tensor *v = t; v->base != NULL; v = v->base) data += v->offset;
    t->data = data;
}

hn_status hn_plan_fits(const hn_program *p, size_t margin, bool *fits, size_t *room)
{
    hn_plan_sizes s;
    size_t free_bytes, total_bytes, limit;
    hn_plan_sizes_of(p, &s);
    HN_TRY(hn_device_memory(p->device, &free_bytes, &total_bytes));
    free_bytes += hn_device_workspace_taken(p->device); /* another program's is this one's, too */
    limit = total_bytes > 0 ? free_bytes - (margin < free_bytes ? margin : free_bytes) : SIZE_MAX;
    if (p->most_bytes > 0 && p->most_bytes < limit) limit = p->most_bytes;
    *fits = s.total_bytes <= limit;
    if (room != NULL) *room = limit == SIZE_MAX ? 0 : limit;
    return HN_OK;
}

/* Before anything is taken, so that a plan that cannot fit says so in one piece. */
static hn_status check_fits(const hn_program *p)
{
    hn_plan_sizes s;
    bool fits;
    size_t room;
    char place[448];
    HN_TRY(hn_plan_fits(p, 0, &fits, &room));
    if (fits) return HN_OK;
    hn_plan_sizes_of(p, &s);
    if (p->most_bytes > 0 && room == p->most_bytes)
        snprintf(place, sizeof place, "may be taken");
    else
        snprintf(place, sizeof place, "are free on %s", hn_device_text(p->device));
    return HN_FAIL(HN_ERR_MEMORY, "the plan needs %.3f GiB, %.3f GiB for activations; %.3f GiB %s",
                   (double)s.total_bytes / 0x1p30, (double)s.class_bytes[HN_MEM_TRANSIENT] / 0x1p30,
                   (double)room / 0x1p30, place);
}

static hn_status take_blocks(hn_program *p)
{
    for (int m = 0; m < HN_MEM_COUNT; m++) {
        const size_t bytes = block_bytes(p, m);
        void *block = NULL;
        if (bytes == 0 || p->memory[m] != NULL) continue;
        const hn_status st = hn_device_alloc(p->device, bytes, &block);
        if (st != HN_OK) return HN_FAIL(st, "%s: %s", hn_mem_name((hn_mem)m), hn_last_text());
        p->memory[m] = block;
        if (m == HN_MEM_TRANSIENT && p->guard_bytes)
            HN_TRY(hn_device_fill(p->device, block, 0xff, bytes));
    }
    hn_plan_sizes s;
    hn_plan_sizes_of(p, &s);
    return hn_device_take_workspace(p->device, p->workspace, s.n_side > 0);
}

hn_status hn_plan_allocate(hn_program *p)
{
    if (!p->planned) return HN_FAIL(HN_ERR_ARG, "hn_plan_build comes first");
    HN_TRY(check_fits(p));
    HN_TRY(take_blocks(p));
    for (int m = 0; m < HN_MEM_COUNT; m++)
        for (int64_t i = 0; i < p->class_list[m].n; i++) bind(p, p->class_list[m].item[i]);
    for (int64_t k = 0; k < p->n_graphs; k++)
        for (int64_t i = 0; i < p->graph[k]->tensors.n; i++) bind(p, p->graph[k]->tensors.item[i]);
    return hn_device_wait(p->device); /* memory is zero from here on, for every stream */
}

hn_device *hn_program_device(const hn_program *p) { return p->device; }
