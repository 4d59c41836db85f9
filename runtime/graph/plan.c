#include "runtime/graph/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/graph_impl.h"

enum { BLOCK_ALIGN = 256 };

static hn_status prepare_nodes(const hn_graph *g, hn_device_kind device)
{
    for (int64_t i = 0; i < g->n_nodes; i++) {
        hn_node *n = g->node[i];
        const hn_op_def *def = hn_op(n->op);
        if ((device == HN_DEVICE_CUDA ? def->run_cuda : def->run_cpu) == NULL)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: operation %s has no %s function", n->name,
                           def->name, device == HN_DEVICE_CUDA ? "CUDA" : "CPU");
        n->scratch = def->scratch ? def->scratch(n, device) : 0;
    }
    return HN_OK;
}

hn_status hn_plan_build(hn_program *p, const hn_plan_options *o)
{
    if (p->planned) return HN_FAIL(HN_ERR_ARG, "the program is planned already");
    p->device = o->device;
    p->guard_bytes = o->guard_bytes;
    for (int64_t i = 0; i < p->n_graphs; i++) {
        hn_graph *g = p->graph[i];
        hn_pass_dead_nodes(g);
        HN_TRY(hn_pass_recompute(g));
        HN_TRY(prepare_nodes(g, o->device));
        HN_TRY(hn_place(g, o->guard_bytes));
        if (g->transient_bytes > p->transient_bytes) p->transient_bytes = g->transient_bytes;
    }
    p->planned = true;
    return HN_OK;
}

static bool has_replicas(hn_mem m) { return m >= HN_MEM_TRAINED && m <= HN_MEM_MOMENT2; }

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
        if (p->graph[i]->transient_bytes == p->transient_bytes && out->widest_graph == NULL)
            out->widest_graph = p->graph[i]->name;
    }
}

char *hn_plan_text(const hn_program *p)
{
    hn_plan_sizes s;
    hn_plan_sizes_of(p, &s);
    char text[2048];
    size_t at = 0;
    for (int m = 0; m < HN_MEM_COUNT && at < sizeof text; m++) {
        if (s.class_bytes[m] == 0) continue;
        char note[96] = "";
        if (m == HN_MEM_TRANSIENT)
            snprintf(note, sizeof note, "  (largest in graph '%s')", s.widest_graph);
        at += (size_t)snprintf(text + at, sizeof text - at, "  %-22s %10.4f GiB%s\n",
                               hn_mem_name((hn_mem)m), (double)s.class_bytes[m] / 0x1p30, note);
    }
    return hn_asprintf("memory plan: %" PRId64 " operations in %" PRId64 " graphs\n%s"
                       "  %-22s %10.4f GiB\n",
                       s.n_nodes, p->n_graphs, text, "total", (double)s.total_bytes / 0x1p30);
}

static void bind(hn_program *p, hn_tensor *t)
{
    hn_tensor *root = hn_root(t);
    unsigned char *data = p->memory[root->mem] + root->offset;
    for (const hn_tensor *v = t; v->base != NULL; v = v->base) data += v->offset;
    t->data = data;
}

hn_status hn_plan_allocate(hn_program *p)
{
    if (!p->planned) return HN_FAIL(HN_ERR_ARG, "hn_plan_build comes first");
    if (p->device != HN_DEVICE_CPU)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "this build has memory for the CPU only");
    for (int m = 0; m < HN_MEM_COUNT; m++) {
        const size_t bytes = block_bytes(p, m);
        if (bytes == 0 || p->memory[m] != NULL) continue;
        p->memory[m] = hn_aligned_alloc(BLOCK_ALIGN, bytes);
        if (p->memory[m] == NULL)
            return HN_FAIL(HN_ERR_MEMORY, "%.3f GiB for %s", (double)bytes / 0x1p30,
                           hn_mem_name((hn_mem)m));
        memset(p->memory[m], m == HN_MEM_TRANSIENT && p->guard_bytes ? 0xff : 0, bytes);
    }
    for (int m = 0; m < HN_MEM_COUNT; m++)
        for (int64_t i = 0; i < p->class_list[m].n; i++) bind(p, p->class_list[m].item[i]);
    for (int64_t k = 0; k < p->n_graphs; k++)
        for (int64_t i = 0; i < p->graph[k]->tensors.n; i++) bind(p, p->graph[k]->tensors.item[i]);
    return HN_OK;
}
