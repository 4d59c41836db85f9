/* Lets operations work in place on column views, where place.c, which moves whole tensors, cannot:
 *
 *   into a view    q' = rope(q), q columns of y: q' becomes those columns of y
 *   from a view    dq = rope(dq'), dq columns of dy: dq' becomes those columns of dy
 *   side by side   [dg | du] = f([g | u], ...): the whole output becomes the whole input
 *
 * Only where the operation allows it (HN_REUSE), nobody reads the old values later, and the tensor
 * that is kept would have lived as long anyway: never more memory than without. */
#include "runtime/base/alloc.h"
#include "runtime/graph/graph_impl.h"

typedef struct {
    hn_graph *g;
    int64_t *first, *last; /* by tensor index: the nodes that touch it; first -1: none */
} lives;

/* Not of a tensor whose rows are also seen as others (hn_view_shape): columns say nothing there. */
static bool is_matrix(hn_tensor *t)
{
    return t != NULL && t->mem == HN_MEM_TRANSIENT && t->type.ndim == 2 && !hn_root(t)->fixed_pitch;
}

/* Columns of the root that t covers. */
static void columns_of(const hn_tensor *t, int64_t *first, int64_t *end)
{
    *first = 0;
    *end = hn_type_cols(&t->type);
    for (const hn_tensor *v = t; v->base != NULL; v = v->base) {
        const int64_t at = (int64_t)(v->offset / hn_dtype_size(v->type.dtype));
        *first += at;
        *end += at;
    }
}

static bool overlap(hn_tensor *a, hn_tensor *b)
{
    int64_t first_a, end_a, first_b, end_b;
    if (hn_root(a) != hn_root(b)) return false;
    columns_of(a, &first_a, &end_a);
    columns_of(b, &first_b, &end_b);
    return first_a < end_b && first_b < end_a;
}

/* First and last node that touches what overlaps t, or all of its root. */
static void life_of(const lives *l, hn_tensor *t, bool whole_root, int64_t *first, int64_t *last)
{
    *first = l->g->n_nodes;
    *last = -1;
    for (int64_t i = 0; i < l->g->tensors.n; i++) {
        hn_tensor *s = l->g->tensors.item[i];
        if (l->first[i] < 0 || s->mem != HN_MEM_TRANSIENT || hn_root(s) != hn_root(t)) continue;
        if (!whole_root && !overlap(s, t)) continue;
        if (l->first[i] < *first) *first = l->first[i];
        if (l->last[i] > *last) *last = l->last[i];
    }
}

/* Whether node n touches columns of t otherwise than through input k and output o. */
static bool touched_otherwise(const hn_node *n, hn_tensor *t, int k, int o)
{
    const hn_op_def *def = hn_op(n->op);
    for (int j = 0; j < def->n_in; j++)
        if (j != k && n->in[j] && overlap(n->in[j], t)) return true;
    for (int j = 0; j < def->n_out; j++)
        if (j != o && n->out[j] && overlap(n->out[j], t)) return true;
    return false;
}

/* A tensor whose memory is nobody else's business. */
static bool is_free(const hn_tensor *t) { return t->base == NULL && !t->keep; }

static void become_view(hn_tensor *t, hn_tensor *of)
{
    int64_t first, end;
    columns_of(of, &first, &end);
    t->base = hn_root(of);
    t->offset = (size_t)first * hn_dtype_size(t->type.dtype);
    t->base->has_columns = true;
}

static bool into_view(const lives *l, const hn_node *n, int64_t i, int k, int o)
{
    hn_tensor *in = n->in[k], *out = n->out[o];
    int64_t first, last, root_last, out_last;
    if (in->base == NULL || hn_root(in)->keep || !is_free(out)) return false;
    life_of(l, in, false, &first, &last);
    life_of(l, in, true, &first, &root_last);
    life_of(l, out, true, &first, &out_last);
    if (last > i || root_last < out_last || touched_otherwise(n, in, k, -1)) return false;
    become_view(out, in);
    return true;
}

static bool from_view(const lives *l, const hn_node *n, int64_t i, int k, int o)
{
    hn_tensor *in = n->in[k], *out = n->out[o];
    int64_t first, root_first, in_first, last;
    if (out->base == NULL || hn_root(out)->keep || !is_free(in)) return false;
    life_of(l, out, false, &first, &last);
    life_of(l, out, true, &root_first, &last);
    life_of(l, in, true, &in_first, &last);
    if (first < i || last > i || root_first > in_first || touched_otherwise(n, out, -1, o))
        return false;
    become_view(in, out);
    return true;
}

/* Every pair of an input and an output that would overlap must be allowed to. */
static bool pairs_fit(const hn_node *n, hn_tensor *from, hn_tensor *to)
{
    const hn_op_def *def = hn_op(n->op);
    for (int o = 0; o < def->n_out; o++) {
        if (!n->out[o] || hn_root(n->out[o]) != to) continue;
        int64_t first, end, first_in, end_in;
        columns_of(n->out[o], &first, &end);
        for (int k = 0; k < def->n_in; k++) {
            if (!n->in[k] || hn_root(n->in[k]) != from) continue;
            columns_of(n->in[k], &first_in, &end_in);
            if (end <= first_in || end_in <= first) continue;
            if (first != first_in || end != end_in || !(def->reuse & HN_REUSE(o, k))) return false;
        }
    }
    return true;
}

static bool side_by_side(const lives *l, const hn_node *n, int64_t i, int k, int o)
{
    hn_tensor *from = hn_root(n->in[k]), *to = hn_root(n->out[o]);
    int64_t first, last, unused;
    if (n->in[k]->base == NULL || n->out[o]->base == NULL || from == to) return false;
    if (from->keep || to->keep || !hn_type_same(&from->type, &to->type)) return false;
    life_of(l, from, true, &unused, &last);
    life_of(l, to, true, &first, &unused);
    if (last != i || first != i || !pairs_fit(n, from, to)) return false;
    become_view(to, from);
    return true;
}

static void find_lives(lives *l)
{
    hn_graph *g = l->g;
    for (int64_t i = 0; i < g->tensors.n; i++) l->first[i] = l->last[i] = -1;
    for (int64_t i = 0; i < g->n_nodes; i++) {
        const hn_node *n = g->node[i];
        hn_tensor *touched[HN_MAX_IN + HN_MAX_OUT];
        for (int k = 0; k < HN_MAX_IN; k++) touched[k] = n->in[k];
        for (int k = 0; k < HN_MAX_OUT; k++) touched[HN_MAX_IN + k] = n->out[k];
        for (int k = 0; k < HN_MAX_IN + HN_MAX_OUT; k++) {
            const hn_tensor *t = touched[k];
            if (t == NULL || t->mem != HN_MEM_TRANSIENT) continue;
            if (l->first[t->index] < 0) l->first[t->index] = i;
            l->last[t->index] = i;
        }
    }
}

static void share(const lives *l, hn_node *n, int64_t i)
{
    const hn_op_def *def = hn_op(n->op);
    for (int o = 0; o < def->n_out; o++)
        for (int k = 0; k < def->n_in; k++) {
            if (!(def->reuse & HN_REUSE(o, k)) || def->alias[o]) continue;
            if (!is_matrix(n->in[k]) || !is_matrix(n->out[o])) continue;
            if (!hn_type_same(&n->in[k]->type, &n->out[o]->type)) continue;
            if (into_view(l, n, i, k, o) || from_view(l, n, i, k, o) || side_by_side(l, n, i, k, o))
                break;
        }
}

hn_status hn_pass_in_place(hn_graph *g)
{
    bool any = false;
    for (int64_t i = 0; i < g->tensors.n; i++) any |= g->tensors.item[i]->base != NULL;
    if (!any) return HN_OK;
    const size_t n = (size_t)g->tensors.n;
    lives l = {g, hn_calloc(n, sizeof(int64_t)), hn_calloc(n, sizeof(int64_t))};
    hn_status st = HN_OK;
    if (l.first == NULL || l.last == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "tables of graph %s", g->name);
        goto done;
    }
    find_lives(&l);
    for (int64_t i = 0; i < g->n_nodes; i++) share(&l, g->node[i], i);

done:
    hn_free(l.first);
    hn_free(l.last);
    return st;
}
