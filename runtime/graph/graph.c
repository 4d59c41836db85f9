/* Programs, persistent tensors, graphs, nodes. */
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/graph/graph_impl.h"

enum { ALIGN_ELEMENTS = 64 };

hn_status hn_list_add(hn_tensor_list *l, hn_tensor *t)
{
    HN_TRY(hn_grow(&l->item, &l->cap, l->n, sizeof *l->item));
    l->item[l->n++] = t;
    return HN_OK;
}

hn_status hn_program_new(int64_t replicas, hn_program **out)
{
    if (replicas < 1) return HN_FAIL(HN_ERR_ARG, "%" PRId64 " replicas, at least 1", replicas);
    hn_program *p = hn_calloc(1, sizeof *p);
    if (p == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a program", sizeof *p);
    p->replicas = replicas;
    *out = p;
    return HN_OK;
}

void hn_program_free(hn_program *p)
{
    if (p == NULL) return;
    for (int m = 0; m < HN_MEM_COUNT; m++) {
        hn_free(p->class_list[m].item);
        if (p->memory[m]) hn_device_release(p->device, p->memory[m]);
    }
    for (int64_t i = 0; i < p->n_graphs; i++) {
        hn_graph *g = p->graph[i];
        hn_device_graph_free(g->captured);
        hn_free(g->node);
        hn_free(g->tensors.item);
        hn_free(g->grad);
        hn_free(g->leaves.item);
        hn_free(g->leaf_grads.item);
    }
    hn_free(p->graph);
    hn_shards_free(p);
    hn_free(p->by_name);
    hn_arena_free(&p->arena);
    hn_device_close(p->own_device);
    hn_free(p);
}

/* Slot of a name: the tensor with that name, or the free slot where it belongs. */
static int64_t slot_of(hn_tensor *const *table, int64_t n_slots, const char *name)
{
    int64_t i = (int64_t)(hn_hash_name(name) & (uint64_t)(n_slots - 1));
    while (table[i] != NULL && strcmp(table[i]->name, name) != 0) i = (i + 1) & (n_slots - 1);
    return i;
}

static hn_status add_name(hn_program *p, hn_tensor *t)
{
    if (2 * (p->n_named + 1) > p->n_slots) {
        const int64_t n = p->n_slots ? 2 * p->n_slots : 64;
        hn_tensor **table = hn_calloc((size_t)n, sizeof(hn_tensor *));
        if (table == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " names", n);
        for (int64_t i = 0; i < p->n_slots; i++)
            if (p->by_name[i]) table[slot_of(table, n, p->by_name[i]->name)] = p->by_name[i];
        hn_free(p->by_name);
        p->by_name = table;
        p->n_slots = n;
    }
    p->by_name[slot_of(p->by_name, p->n_slots, t->name)] = t;
    p->n_named++;
    return HN_OK;
}

hn_tensor *hn_program_find(const hn_program *p, const char *name)
{
    return p->n_slots ? p->by_name[slot_of(p->by_name, p->n_slots, name)] : NULL;
}

/* Rejects empty axes and sizes that overflow. */
static hn_status check_type(const char *name, const hn_type *t)
{
    int64_t rows = 1;
    bool ok = t->ndim >= 1 && t->ndim <= HN_MAX_DIM && (unsigned)t->dtype < HN_DTYPE_COUNT;
    for (int i = 0; ok && i < t->ndim; i++)
        ok =
            t->dim[i] >= 1 && (i + 1 == t->ndim || !__builtin_mul_overflow(rows, t->dim[i], &rows));
    int64_t bytes = 0;
    ok = ok && (t->pitch == 0 || t->pitch >= hn_type_cols(t)) && t->replicas >= 0 &&
         !__builtin_mul_overflow(rows, hn_type_ld(t), &bytes) &&
         !__builtin_mul_overflow(bytes, (int64_t)16 * (t->replicas > 1 ? t->replicas : 1), &bytes);
    char text[128];
    return ok ? HN_OK
              : HN_FAIL(HN_ERR_SHAPE, "%s: %s is empty, too large or has a pitch below its width",
                        name, hn_type_text(t, text, sizeof text));
}

static hn_tensor *new_tensor(hn_program *p, hn_mem mem, const char *name, const hn_type *type)
{
    hn_tensor *t = hn_arena_take(&p->arena, sizeof *t);
    char *copy = hn_arena_text(&p->arena, "%s", name);
    if (t == NULL || copy == NULL) return NULL;
    *t = (hn_tensor){.name = copy, .program = p, .type = *type, .mem = mem};
    return t;
}

static bool is_trained_class(hn_mem m) { return m >= HN_MEM_TRAINED && m <= HN_MEM_AVERAGE; }

hn_status hn_program_tensor(hn_program *p, hn_mem mem, const char *name, const hn_type *type,
                            hn_tensor **out)
{
    return hn_program_tensor_at(p, mem, name, type, &p->class_bytes[mem], out);
}

hn_status hn_program_tensor_at(hn_program *p, hn_mem mem, const char *name, const hn_type *type,
                               size_t *bytes, hn_tensor **out)
{
    if (p->planned) return HN_FAIL(HN_ERR_ARG, "%s: the program is planned already", name);
    if (hn_program_find(p, name)) return HN_FAIL(HN_ERR_ARG, "two tensors named %s", name);
    hn_type full = *type;
    if (is_trained_class(mem)) full.replicas = p->replicas;
    HN_TRY(check_type(name, &full));
    hn_tensor *t = new_tensor(p, mem, name, &full);
    if (t == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the tensor %s", name);
    const size_t align = ALIGN_ELEMENTS * hn_dtype_size(full.dtype);
    t->offset = (*bytes + align - 1) / align * align;
    t->index = p->class_list[mem].n;
    HN_TRY(hn_list_add(&p->class_list[mem], t));
    HN_TRY(add_name(p, t));
    *bytes = t->offset + hn_type_bytes(&full);
    *out = t;
    return HN_OK;
}

int64_t hn_program_class_elements(const hn_program *p, hn_mem mem, hn_dtype dtype)
{
    const size_t align = ALIGN_ELEMENTS * hn_dtype_size(dtype);
    return (int64_t)((p->class_bytes[mem] + align - 1) / align * ALIGN_ELEMENTS);
}

hn_status hn_program_range(hn_program *p, hn_mem mem, const char *name, hn_dtype dtype,
                           int64_t first, int64_t n, hn_tensor **out)
{
    hn_type type = hn_type_1d(dtype, n);
    if (is_trained_class(mem)) type.replicas = p->replicas;
    HN_TRY(check_type(name, &type));
    if (first < 0 || first + n > hn_program_class_elements(p, mem, dtype))
        return HN_FAIL(HN_ERR_SHAPE, "%s: elements %" PRId64 "..%" PRId64 " of %s are not there",
                       name, first, first + n - 1, hn_mem_name(mem));
    hn_tensor *t = new_tensor(p, mem, name, &type);
    if (t == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the tensor %s", name);
    t->offset = (size_t)first * hn_dtype_size(dtype);
    t->index = p->class_list[mem].n;
    HN_TRY(hn_list_add(&p->class_list[mem], t));
    *out = t;
    return HN_OK;
}

int64_t hn_program_replicas(const hn_program *p) { return p->replicas; }

hn_status hn_program_view(hn_program *p, const char *name, hn_tensor *base, int64_t row,
                          int64_t rows, int64_t col, int64_t cols, hn_tensor **out)
{
    const hn_type *from = &base->type;
    if (p->planned) return HN_FAIL(HN_ERR_ARG, "%s: the program is planned already", name);
    if (hn_program_find(p, name)) return HN_FAIL(HN_ERR_ARG, "two tensors named %s", name);
    if (from->ndim > 2 || row < 0 || rows < 1 || row + rows > hn_type_rows(from) || col < 0 ||
        cols < 1 || col + cols > hn_type_cols(from))
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: rows %" PRId64 "..%" PRId64 ", columns %" PRId64 "..%" PRId64
                       " of %s are not there",
                       name, row, row + rows - 1, col, col + cols - 1, base->name);
    hn_type type = *from;
    type.pitch = from->ndim == 2 ? hn_type_ld(from) : 0;
    type.tail = 0;
    type.dim[from->ndim - 1] = cols;
    if (from->ndim == 2) type.dim[0] = rows;
    hn_tensor *t = new_tensor(p, base->mem, name, &type);
    if (t == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the tensor %s", name);
    t->base = base;
    t->offset = (size_t)(row * hn_type_ld(from) + col) * hn_dtype_size(type.dtype);
    t->index = p->class_list[base->mem].n;
    HN_TRY(hn_list_add(&p->class_list[base->mem], t));
    HN_TRY(add_name(p, t));
    hn_tensor **last = &base->views; /* in order of creation */
    while (*last != NULL) last = &(*last)->next;
    *last = t;
    *out = t;
    return HN_OK;
}

int64_t hn_replica_stride(const hn_tensor *t)
{
    if (t->type.replicas <= 1) return 0;
    return hn_program_class_elements(t->program, t->mem, t->type.dtype);
}

hn_status hn_graph_new(hn_program *p, const char *name, bool training, hn_graph **out)
{
    if (p->planned) return HN_FAIL(HN_ERR_ARG, "graph %s: the program is planned already", name);
    hn_graph *g = hn_arena_take(&p->arena, sizeof *g);
    char *copy = hn_arena_text(&p->arena, "%s", name);
    if (g == NULL || copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for graph %s", name);
    HN_TRY(hn_grow(&p->graph, &p->cap_graphs, p->n_graphs, sizeof(hn_graph *)));
    *g = (hn_graph){.program = p, .name = copy, .training = training};
    p->graph[p->n_graphs++] = g;
    *out = g;
    return HN_OK;
}

hn_graph *hn_program_graph(const hn_program *p, const char *name)
{
    for (int64_t i = 0; i < p->n_graphs; i++)
        if (strcmp(p->graph[i]->name, name) == 0) return p->graph[i];
    return NULL;
}

bool hn_graph_training(const hn_graph *g) { return g->training; }
int64_t hn_graph_nodes(const hn_graph *g) { return g->n_nodes; }
hn_node *hn_graph_node(const hn_graph *g, int64_t i) { return g->node[i]; }
void hn_graph_keep(hn_tensor *t) { hn_root(t)->keep = true; }
void hn_segment_begin(hn_graph *g) { g->segment = ++g->n_segments; }
void hn_segment_end(hn_graph *g) { g->segment = 0; }

hn_status hn_graph_tensor(hn_graph *g, const char *name, const hn_type *type, hn_tensor **out)
{
    HN_TRY(check_type(name, type));
    hn_tensor *t = new_tensor(g->program, HN_MEM_TRANSIENT, name, type);
    if (t == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the tensor %s", name);
    t->index = g->tensors.n;
    HN_TRY(hn_list_add(&g->tensors, t));
    *out = t;
    return HN_OK;
}

/* Views of views of a graph have the base of the first. */
static bool is_view(const hn_graph *g, const hn_tensor *t)
{
    return t->base != NULL && t->index < g->tensors.n && g->tensors.item[t->index] == t;
}

/* offset: bytes behind the start of t. */
static hn_status make_view(hn_graph *g, hn_tensor *t, const hn_type *type, size_t offset,
                           hn_tensor **out)
{
    hn_tensor *v = NULL;
    HN_TRY(hn_graph_tensor(g, t->name, type, &v));
    const bool nested = is_view(g, t);
    v->base = nested ? t->base : t;
    v->base->has_columns = true;
    v->mem = t->mem;
    v->offset = (nested ? t->offset : 0) + offset;
    v->flat = t->flat;
    v->needs_grad = t->needs_grad;
    *out = v;
    return HN_OK;
}

hn_status hn_view_columns(hn_graph *g, hn_tensor *t, int64_t first, int64_t cols, hn_tensor **out)
{
    if (first < 0 || cols < 1 || first + cols > hn_type_cols(&t->type) || t->type.ndim < 2)
        return HN_FAIL(HN_ERR_SHAPE, "%s: columns %" PRId64 "..%" PRId64 " are not there", t->name,
                       first, first + cols - 1);
    hn_type type = t->type;
    type.dim[type.ndim - 1] = cols;
    type.pitch = hn_type_ld(&t->type);
    type.tail = 0;
    return make_view(g, t, &type, (size_t)first * hn_dtype_size(type.dtype), out);
}

hn_status hn_view_again(hn_graph *g, const hn_tensor *view, hn_tensor *base, hn_tensor **out)
{
    HN_TRY(make_view(g, base, &view->type, view->offset, out));
    (*out)->flat = view->flat;
    base->fixed_pitch |= view->flat;
    return HN_OK;
}

bool hn_can_view(const hn_graph *g, const hn_tensor *t, int64_t cols)
{
    const hn_tensor *base = is_view(g, t) ? t->base : t;
    if (cols == hn_type_cols(&t->type)) return true;
    return hn_type_elements(&t->type) == hn_type_elements(&base->type) &&
           (hn_type_rows(&t->type) == 1 || hn_type_ld(&t->type) == hn_type_cols(&t->type));
}

/* Whether the axes hold `elements`, without overflow. */
static bool holds(int ndim, const int64_t *dim, int64_t elements)
{
    for (int i = 0; i < ndim; i++) {
        if (dim[i] < 1 || elements % dim[i] != 0) return false;
        elements /= dim[i];
    }
    return elements == 1;
}

hn_status hn_view_shape(hn_graph *g, hn_tensor *t, int ndim, const int64_t *dim, hn_tensor **out)
{
    hn_type type = {.dtype = t->type.dtype, .replicas = t->type.replicas};
    hn_tensor *v, *grad = NULL;
    char from[128], to[128];
    if (ndim < 1 || ndim > HN_MAX_DIM)
        return HN_FAIL(HN_ERR_SHAPE, "%s: a view has 1 to %d axes, not %d", t->name, HN_MAX_DIM,
                       ndim);
    type.ndim = ndim;
    for (int i = 0; i < type.ndim; i++) type.dim[i] = dim[i];
    hn_type_text(&t->type, from, sizeof from);
    hn_type_text(&type, to, sizeof to);
    if (!holds(ndim, dim, hn_type_elements(&t->type)))
        return HN_FAIL(HN_ERR_SHAPE, "%s: %s has not the elements of %s", t->name, from, to);
    const bool flat = hn_type_cols(&type) != hn_type_cols(&t->type);
    if (!hn_can_view(g, t, hn_type_cols(&type)))
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %s cannot be seen as %s: its rows lie %" PRId64 " elements apart",
                       t->name, from, to, hn_type_ld(&t->type));
    if (t->needs_grad && t->grad == NULL && t->views != NULL)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: it is trained view by view", t->name);
    if (t->grad != NULL) HN_TRY(hn_view_shape(g, t->grad, ndim, dim, &grad));
    type.pitch = flat || ndim == 1 ? 0 : hn_type_ld(&t->type);
    HN_TRY(make_view(g, t, &type, 0, &v));
    v->grad = grad;
    v->flat |= flat;
    v->base->fixed_pitch |= v->flat;
    *out = v;
    return HN_OK;
}

/* Makes the outputs of a node from the inferred types. */
static hn_status make_outputs(hn_graph *g, hn_node *n, const hn_op_def *def, const hn_type *type)
{
    bool needs_grad = false;
    if (g->training && !g->in_backward && def->grad != NULL)
        for (int k = 0; k < def->n_in; k++) needs_grad |= n->in[k] && n->in[k]->needs_grad;
    for (int k = 0; k < def->n_out; k++) {
        if (def->alias[k]) {
            n->out[k] = n->in[def->alias[k] - 1];
            continue;
        }
        if (type[k].ndim == 0) continue;
        HN_TRY(hn_graph_tensor(g, n->name, &type[k], &n->out[k]));
        n->out[k]->needs_grad = needs_grad && !(def->saved_out & HN_BIT(k));
    }
    return HN_OK;
}

static hn_status check_replicas(const hn_node *n, const hn_op_def *def)
{
    for (int k = 0; k < def->n_in && !def->replicas; k++)
        if (n->in[k] != NULL && n->in[k]->type.replicas > 1)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s (%s): %s has replicas, the operation has none",
                           n->name, def->name, n->in[k]->name);
    return HN_OK;
}

hn_status hn_emit(hn_graph *g, hn_op_id op, const char *name, hn_tensor *const *in,
                  const hn_attr *attr, hn_tensor **out)
{
    const hn_op_def *def = hn_op(op);
    hn_type type[HN_MAX_OUT] = {0};
    hn_node *n = hn_arena_take(&g->program->arena, sizeof *n);
    char *copy = hn_arena_text(&g->program->arena, "%s", name);
    if (n == NULL || copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for node %s", name);
    *n = (hn_node){.op = op, .name = copy, .graph = g, .backward = g->in_backward};
    n->of = g->differentiated;
    n->segment = g->in_backward ? 0 : g->segment;
    if (attr != NULL) n->attr = *attr;
    for (int k = 0; k < def->n_in; k++) {
        n->in[k] = in[k];
        if (in[k] == NULL && !(def->optional & HN_BIT(k)))
            return HN_FAIL(HN_ERR_ARG, "%s (%s): operand %d is missing", name, def->name, k);
    }
    const hn_status st = def->infer ? def->infer(n, type) : HN_OK;
    if (st != HN_OK) return HN_FAIL(st, "%s (%s): %s", name, def->name, hn_last_error());
    HN_TRY(check_replicas(n, def));
    HN_TRY(make_outputs(g, n, def, type));
    HN_TRY(hn_grow(&g->node, &g->cap_nodes, g->n_nodes, sizeof *g->node));
    g->node[g->n_nodes++] = n;
    for (int k = 0; out != NULL && k < def->n_out; k++) out[k] = n->out[k];
    return HN_OK;
}
