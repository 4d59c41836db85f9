/* Passes over a recorded graph, in the order of design.md section 3. */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/graph_impl.h"

static bool writes_outside(const hn_node *n)
{
    const hn_op_def *def = hn_op(n->op);
    for (int k = 0; k < def->n_out; k++) {
        if (n->out[k] == NULL) continue;
        const hn_tensor *root = hn_root(n->out[k]);
        if (root->mem != HN_MEM_TRANSIENT || root->keep) return true;
    }
    return false;
}

/* Removes nodes whose results nobody reads: from last to first, a node lives when it writes a
 * persistent or kept tensor, or one that a living node reads. */
void hn_pass_dead_nodes(hn_graph *g)
{
    int64_t kept = g->n_nodes;
    for (int64_t i = 0; i < g->tensors.n; i++) g->tensors.item[i]->index = 0; /* 1: is read */
    for (int64_t i = g->n_nodes - 1; i >= 0; i--) {
        hn_node *n = g->node[i];
        const hn_op_def *def = hn_op(n->op);
        bool lives = writes_outside(n);
        for (int k = 0; k < def->n_out; k++)
            lives |= n->out[k] && hn_root(n->out[k])->mem == HN_MEM_TRANSIENT &&
                     hn_root(n->out[k])->index == 1;
        if (!lives) continue;
        for (int k = 0; k < def->n_in; k++)
            if (n->in[k] && hn_root(n->in[k])->mem == HN_MEM_TRANSIENT)
                hn_root(n->in[k])->index = 1;
        g->node[--kept] = n;
    }
    if (kept < g->n_nodes)
        memmove(g->node, g->node + kept, (size_t)(g->n_nodes - kept) * sizeof *g->node);
    g->n_nodes -= kept;
    for (int64_t i = 0; i < g->tensors.n; i++) g->tensors.item[i]->index = i;
}

/* Recompute of marked segments. What a segment computes and only backward reads later is computed
 * again just before backward reads it, so that it need not be kept in between:
 *
 *   forward  [ a b c ] d e ...      backward  ... [ a' b' ] uses a', b'
 *
 * Copies of a segment's nodes go before its first reader in backward; readers are redirected. What
 * a later forward node reads (the segment's result) is kept as it is. Nodes that write persistent
 * tensors are never copied. The copies write the same bits: random masks depend on names only. */
typedef struct {
    hn_graph *g;
    hn_tensor **copy; /* by tensor index: its recomputed twin */
    int64_t *maker;   /* by tensor index: node that makes it, -1: none */
    hn_node **node;   /* the new list */
    int64_t n, cap, n_tensors;
} recompute;

static hn_status append(recompute *r, hn_node *n)
{
    HN_TRY(hn_grow(&r->node, &r->cap, r->n, sizeof *r->node));
    r->node[r->n++] = n;
    return HN_OK;
}

static hn_status twin_of(recompute *r, hn_tensor *t, hn_tensor **out);

/* The same view of the base's twin. */
static hn_status twin_of_view(recompute *r, hn_tensor *t, hn_tensor **out)
{
    hn_tensor *base;
    HN_TRY(twin_of(r, t->base, &base));
    if (base == t->base) return HN_OK;
    if (r->copy[t->index] == NULL) HN_TRY(hn_view_again(r->g, t, base, &r->copy[t->index]));
    *out = r->copy[t->index];
    return HN_OK;
}

static hn_status copy_node(recompute *r, const hn_node *n)
{
    const hn_op_def *def = hn_op(n->op);
    hn_node *c = hn_arena_take(&r->g->program->arena, sizeof *c);
    if (c == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for node %s", n->name);
    *c = *n;
    c->backward = true;
    c->segment = 0;
    for (int k = 0; k < def->n_in; k++)
        if (n->in[k]) HN_TRY(twin_of(r, n->in[k], &c->in[k]));
    for (int k = 0; k < def->n_out; k++) {
        if (n->out[k] == NULL) continue;
        HN_TRY(hn_graph_tensor(r->g, n->out[k]->name, &n->out[k]->type, &c->out[k]));
        r->copy[n->out[k]->index] = c->out[k];
    }
    return append(r, c);
}

/* Whether a tensor is to be made again: transient, made inside a segment by a node that can be
 * copied, and not read by forward nodes behind the segment (marked by copy == itself). */
static bool is_recomputed(const recompute *r, const hn_tensor *t)
{
    return t->mem == HN_MEM_TRANSIENT && t->base == NULL && t->index < r->n_tensors &&
           r->maker[t->index] >= 0 && r->copy[t->index] != t;
}

static hn_status twin_of(recompute *r, hn_tensor *t, hn_tensor **out)
{
    *out = t;
    if (t->mem == HN_MEM_TRANSIENT && t->base != NULL) return twin_of_view(r, t, out);
    if (!is_recomputed(r, t)) return HN_OK;
    if (r->copy[t->index] == NULL) HN_TRY(copy_node(r, r->g->node[r->maker[t->index]]));
    *out = r->copy[t->index];
    return HN_OK;
}

/* Finds the makers inside segments and marks what later forward nodes read. */
static void find_makers(recompute *r)
{
    hn_graph *g = r->g;
    for (int64_t i = 0; i < r->n_tensors; i++) r->maker[i] = -1;
    for (int64_t i = 0; i < g->n_nodes; i++) {
        const hn_node *n = g->node[i];
        const hn_op_def *def = hn_op(n->op);
        if (n->backward) continue;
        for (int k = 0; k < def->n_in; k++) {
            hn_tensor *t = n->in[k] ? hn_root(n->in[k]) : NULL;
            if (t == NULL || t->mem != HN_MEM_TRANSIENT || r->maker[t->index] < 0) continue;
            if (g->node[r->maker[t->index]]->segment != n->segment) r->copy[t->index] = t;
        }
        if (n->segment == 0 || writes_outside(n)) continue;
        for (int k = 0; k < def->n_out; k++)
            if (n->out[k] && !def->alias[k]) r->maker[n->out[k]->index] = i;
    }
}

hn_status hn_pass_recompute(hn_graph *g)
{
    if (g->n_segments == 0 || !g->in_backward) return HN_OK;
    hn_status st = HN_OK;
    recompute r = {.g = g, .n_tensors = g->tensors.n};
    r.copy = hn_calloc((size_t)r.n_tensors, sizeof(hn_tensor *));
    r.maker = hn_calloc((size_t)r.n_tensors, sizeof(int64_t));
    if (r.copy == NULL || r.maker == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "recompute tables of graph %s", g->name);
        goto done;
    }
    find_makers(&r);
    const int64_t n_nodes = g->n_nodes;
    for (int64_t i = 0; i < n_nodes; i++) {
        hn_node *n = g->node[i];
        for (int k = 0; n->backward && k < hn_op(n->op)->n_in; k++)
            if (n->in[k]) HN_TRY_GOTO(st, twin_of(&r, n->in[k], &n->in[k]), done);
        HN_TRY_GOTO(st, append(&r, n), done);
    }
    hn_free(g->node);
    g->node = r.node;
    g->n_nodes = r.n;
    g->cap_nodes = r.cap;
    r.node = NULL;

done:
    hn_free(r.node);
    hn_free(r.copy);
    hn_free(r.maker);
    return st;
}
