/* Outputs that only weight gradients read in backward are not kept for them: the node that works
 * out the gradient of the node that made them has all it needs to make them again in passing
 * (hn_op_def.again). h = silu(gate) * up and normed inputs are most of what would be kept.
 *
 *   forward   h = f(g, u)   y = h W ...          h is gone here
 *   backward  ds, dh = ...  [dA += ds' h]  dg, du = f'(g, u, dh)
 *             ds, dh = ...                 dg, du, h' = f'(g, u, dh)  [dA += ds' h']
 *
 * The readers wait until h' is there, and with them what needs what they write; where the node that
 * makes h' is among that, h is kept. Layers that are computed again anyway stay as they are. */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/graph_impl.h"

/* The bytes of t in its memory class, or of all of its root where that is transient. */
static void bytes_of(const hn_tensor *t, size_t *first, size_t *end)
{
    *first = t->offset;
    *end = hn_type_bytes(&t->type);
    for (; t->base != NULL; t = t->base) *first += t->base->offset;
    *end += *first;
}

static bool overlap(hn_tensor *a, hn_tensor *b)
{
    size_t first_a, end_a, first_b, end_b;
    hn_tensor *root_a = hn_root(a), *root_b = hn_root(b);
    if (root_a->mem != root_b->mem) return false;
    if (root_a->mem == HN_MEM_TRANSIENT) return root_a == root_b;
    bytes_of(a, &first_a, &end_a);
    bytes_of(b, &first_b, &end_b);
    return first_a < end_b && first_b < end_a;
}

static bool reads(const hn_node *n, hn_tensor *t)
{
    for (int k = 0; k < hn_op(n->op)->n_in; k++)
        if (n->in[k] && overlap(n->in[k], t)) return true;
    return false;
}

static bool writes(const hn_node *n, hn_tensor *t)
{
    for (int k = 0; k < hn_op(n->op)->n_out; k++)
        if (n->out[k] && overlap(n->out[k], t)) return true;
    return false;
}

/* Whether b may run ahead of a, which stands before it. */
static bool may_swap(const hn_node *a, const hn_node *b)
{
    const hn_op_def *def = hn_op(a->op);
    for (int k = 0; k < def->n_in; k++)
        if (a->in[k] && writes(b, a->in[k])) return false;
    for (int k = 0; k < def->n_out; k++)
        if (a->out[k] && (writes(b, a->out[k]) || reads(b, a->out[k]))) return false;
    return true;
}

/* What waits until node `maker` has run: readers of t in backward before it, and all that has to
 * stay behind one of these. false: the maker would be among them. */
static bool find_waiting(const hn_graph *g, int64_t maker, hn_tensor *t, bool *waits)
{
    int64_t first = maker;
    for (int64_t i = 0; i <= maker; i++) {
        const hn_node *n = g->node[i];
        waits[i] = n->backward && reads(n, t);
        for (int64_t j = first; j < i && !waits[i]; j++)
            waits[i] = waits[j] && !may_swap(g->node[j], n);
        if (waits[i] && i < first) first = i;
    }
    return !waits[maker];
}

/* Whether backward reads t, and everything that does can take t again from node `maker`. */
static bool can_take(const hn_graph *g, int64_t maker, hn_tensor *t, bool *waits)
{
    bool wanted = false;
    if (t->base != NULL || t->has_columns || t->keep || reads(g->node[maker], t)) return false;
    for (int64_t i = 0; i < g->n_nodes; i++) {
        const hn_node *n = g->node[i];
        if (n->backward && writes(n, t)) return false;
        wanted |= n->backward && reads(n, t);
    }
    return wanted && find_waiting(g, maker, t, waits);
}

/* Readers of t read `again`; what waits goes behind node `maker`, in its order. */
static void redirect(hn_graph *g, int64_t maker, hn_tensor *t, hn_tensor *again, const bool *waits)
{
    for (int64_t i = 0; i < g->n_nodes; i++) {
        hn_node *n = g->node[i];
        for (int k = 0; n->backward && k < hn_op(n->op)->n_in; k++)
            if (n->in[k] == t) n->in[k] = again;
    }
    for (int64_t i = maker - 1, end = maker; i >= 0; i--) {
        hn_node *n = g->node[i];
        if (!waits[i]) continue;
        memmove(&g->node[i], &g->node[i + 1], (size_t)(end - i) * sizeof *g->node);
        g->node[end--] = n;
    }
}

/* waits: room for a flag a node */
static hn_status remake(hn_graph *g, int64_t i, int k, bool *waits)
{
    hn_node *n = g->node[i];
    const hn_op_def *def = hn_op(n->op);
    hn_tensor *t = n->of->out[def->again[k] - 1];
    hn_type type[HN_MAX_OUT] = {0};
    if (n->of->segment != 0 || t == NULL || n->out[k] != NULL || !can_take(g, i, t, waits))
        return HN_OK;
    def->ask_again(&n->attr);
    HN_TRY(def->infer(n, type));
    HN_TRY(hn_graph_tensor(g, t->name, &type[k], &n->out[k]));
    redirect(g, i, t, n->out[k], waits);
    return HN_OK;
}

hn_status hn_pass_remake(hn_graph *g)
{
    hn_status st = HN_OK;
    bool *waits = hn_calloc((size_t)g->n_nodes + 1, sizeof *waits);
    if (waits == NULL) return HN_FAIL(HN_ERR_MEMORY, "tables of graph %s", g->name);
    for (int64_t i = g->n_nodes - 1; i >= 0; i--) {
        const hn_node *n = g->node[i];
        const hn_op_def *def = hn_op(n->op);
        if (n->of == NULL || def->ask_again == NULL) continue;
        for (int k = 0; k < def->n_out && st == HN_OK; k++)
            if (def->again[k] != 0) st = remake(g, i, k, waits);
    }
    hn_free(waits);
    return st;
}
