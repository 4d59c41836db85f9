/* Gradients as nodes: walks the forward nodes from last to first and lets each operation's rule
 * append the nodes that turn the gradients of its outputs into those of its inputs. */
#include "runtime/base/alloc.h"
#include "runtime/graph/graph_impl.h"

static hn_tensor **grad_slot(hn_graph *g, const hn_tensor *t)
{
    if (t->mem == HN_MEM_TRANSIENT && hn_root((hn_tensor *)(size_t)t)->mem == HN_MEM_TRANSIENT)
        return t->index < g->n_grads ? &g->grad[t->index] : NULL;
    for (int64_t i = 0; i < g->leaves.n; i++)
        if (g->leaves.item[i] == t) return &g->leaf_grads.item[i];
    return NULL;
}

hn_tensor *hn_graph_grad(const hn_graph *g, const hn_tensor *t)
{
    if (t->grad != NULL) return t->grad;
    if (g->grad == NULL) return NULL;
    hn_tensor *const *slot = grad_slot((hn_graph *)(size_t)g, t);
    return slot ? *slot : NULL;
}

static hn_status set_grad(hn_graph *g, hn_tensor *t, hn_tensor *d)
{
    hn_tensor **slot = grad_slot(g, t);
    if (slot != NULL) {
        *slot = d;
        return HN_OK;
    }
    HN_TRY(hn_list_add(&g->leaves, t));
    return hn_list_add(&g->leaf_grads, d);
}

/* A fresh tensor of zeros. */
static hn_status zeros(hn_graph *g, const char *name, const hn_type *type, hn_tensor **out)
{
    HN_TRY(hn_graph_tensor(g, name, type, out));
    return hn_emit(g, HN_OP_ZERO, name, out, NULL, NULL);
}

/* Adds a contribution to the gradient of t. Buffers are changed in place; other sums are fresh
 * tensors, because a rule may hand the same gradient tensor to several inputs. */
static hn_status add_grad(hn_graph *g, const char *name, hn_tensor *t, hn_tensor *d)
{
    hn_tensor *sum = hn_graph_grad(g, t);
    if (sum == NULL) return set_grad(g, t, d);
    hn_tensor *in[] = {sum, d};
    if (t->grad != NULL) return hn_emit(g, HN_OP_ACCUMULATE, name, in, NULL, NULL);
    HN_TRY(hn_emit(g, HN_OP_ADD, name, in, NULL, &sum));
    return set_grad(g, t, sum);
}

/* ---- gradients of views ----
 *
 * Views have gradients of their own until the node that makes their base is reached; then these are
 * joined into the gradient of the base. Where the views are disjoint, the tensors that hold the
 * gradients become columns of it themselves, so that the operations which make them write there:
 *
 *   y = [ q | k | v ]      dy = [ dq | dk | dv ]      no copy, no zeros
 *
 * A view of all columns, under other axes perhaps, is one of them that covers dy alone. Where it is
 * not alone, or its last axis is another one (hn_tensor.flat), its gradient is seen as that of the
 * base and added to what there is.
 */

/* Of a view whose gradient is to be joined: views of parameters have added into the buffer. */
static hn_tensor *view_grad(const hn_graph *g, const hn_tensor *view)
{
    return view->grad != NULL ? NULL : hn_graph_grad(g, view);
}

static int64_t first_column(const hn_tensor *view)
{
    return (int64_t)(view->offset / hn_dtype_size(view->type.dtype));
}

/* The next view of base with a gradient, from column `from` on: the one that begins first. */
static hn_tensor *next_view(const hn_graph *g, const hn_tensor *base, int64_t from)
{
    hn_tensor *best = NULL;
    for (int64_t i = 0; i < g->n_grads; i++) {
        hn_tensor *v = g->tensors.item[i];
        if (v->base != base || first_column(v) < from || view_grad(g, v) == NULL) continue;
        if (best == NULL || first_column(v) < first_column(best)) best = v;
    }
    return best;
}

/* Whether no column belongs to two views with a gradient. */
static bool disjoint(const hn_graph *g, const hn_tensor *base)
{
    int64_t columns = 0, end = 0;
    for (int64_t i = 0; i < g->n_grads; i++) {
        const hn_tensor *v = g->tensors.item[i];
        if (v->base == base && view_grad(g, v)) columns += hn_type_cols(&v->type);
    }
    int64_t covered = 0; /* the same views from left to right: a hidden one is missing here */
    for (hn_tensor *v = next_view(g, base, 0); v != NULL; v = next_view(g, base, end)) {
        end = first_column(v) + hn_type_cols(&v->type);
        covered += hn_type_cols(&v->type);
    }
    return covered == columns;
}

/* Whether the memory of d may become columns of another tensor: a node of backward makes it, and
 * nothing else has been decided about where it lies. */
static bool can_move(const hn_graph *g, const hn_tensor *d, hn_dtype dtype)
{
    return d->mem == HN_MEM_TRANSIENT && d->base == NULL && !d->has_columns && !d->keep &&
           d->index >= g->n_grads && d->type.ndim >= 2 && d->type.dtype == dtype;
}

static hn_status zero_columns(hn_graph *g, hn_tensor *t, int64_t first, int64_t end)
{
    hn_tensor *v;
    if (first == end) return HN_OK;
    HN_TRY(hn_view_columns(g, t, first, end - first, &v));
    return hn_emit(g, HN_OP_ZERO, t->name, &v, NULL, NULL);
}

/* The gradient of base from those of its disjoint views. */
static hn_status put_side_by_side(hn_graph *g, hn_tensor *base, hn_tensor **out)
{
    int64_t end = 0;
    HN_TRY(hn_graph_tensor(g, base->name, &base->type, out));
    for (hn_tensor *v = next_view(g, base, 0); v != NULL; v = next_view(g, base, end)) {
        hn_tensor *d = hn_graph_grad(g, v), *at;
        HN_TRY(zero_columns(g, *out, end, first_column(v)));
        end = first_column(v) + hn_type_cols(&v->type);
        if (can_move(g, d, base->type.dtype)) {
            d->base = *out;
            d->offset = v->offset;
            d->type.pitch = hn_type_ld(&(*out)->type);
            (*out)->has_columns = true;
            continue;
        }
        HN_TRY(hn_view_again(g, v, *out, &at));
        hn_tensor *const in[] = {d, at};
        HN_TRY(hn_emit(g, HN_OP_STORE, v->name, in, NULL, NULL));
    }
    return zero_columns(g, *out, end, hn_type_cols(&base->type));
}

/* The same where views overlap, or base itself has a gradient: a sum. */
static hn_status add_up_views(hn_graph *g, hn_tensor *base, hn_tensor **out)
{
    HN_TRY(zeros(g, base->name, &base->type, out));
    hn_tensor *own[] = {*out, hn_graph_grad(g, base)};
    if (own[1] != NULL) HN_TRY(hn_emit(g, HN_OP_ACCUMULATE, base->name, own, NULL, NULL));
    for (int64_t i = 0; i < g->n_grads; i++) {
        hn_tensor *v = g->tensors.item[i], *at;
        if (v->base != base || view_grad(g, v) == NULL) continue;
        HN_TRY(hn_view_again(g, v, *out, &at));
        hn_tensor *const in[] = {at, hn_graph_grad(g, v)};
        HN_TRY(hn_emit(g, HN_OP_ACCUMULATE, v->name, in, NULL, NULL));
    }
    return HN_OK;
}

/* The gradient of a view of all of base, under the axes of base; a copy where it has gaps. */
static hn_status under_axes_of(hn_graph *g, const hn_tensor *base, const hn_tensor *v,
                               hn_tensor **out)
{
    hn_tensor *d = view_grad(g, v), *at;
    hn_type type = base->type;
    if (hn_can_view(g, d, hn_type_cols(&type)))
        return hn_view_shape(g, d, type.ndim, type.dim, out);
    type.pitch = 0;
    HN_TRY(hn_graph_tensor(g, v->name, &type, out));
    HN_TRY(hn_view_shape(g, *out, v->type.ndim, v->type.dim, &at));
    hn_tensor *const in[] = {d, at};
    return hn_emit(g, HN_OP_STORE, v->name, in, NULL, NULL);
}

/* Views of all of base, but for one that put_side_by_side can take as it is. */
static hn_status add_whole_views(hn_graph *g, hn_tensor *base)
{
    int64_t views = 0;
    bool flat = false;
    for (int64_t i = 0; i < g->n_grads; i++) {
        const hn_tensor *v = g->tensors.item[i];
        if (v->base != base || view_grad(g, v) == NULL) continue;
        views++;
        flat |= v->flat;
    }
    if (views == 1 && !flat && hn_graph_grad(g, base) == NULL) return HN_OK;
    for (int64_t i = 0; i < g->n_grads; i++) {
        hn_tensor *v = g->tensors.item[i], *d;
        if (v->base != base || view_grad(g, v) == NULL) continue;
        if (!v->flat && hn_type_cols(&v->type) < hn_type_cols(&base->type)) continue;
        HN_TRY(under_axes_of(g, base, v, &d));
        HN_TRY(set_grad(g, v, NULL)); /* done */
        HN_TRY(add_grad(g, v->name, base, d));
    }
    return HN_OK;
}

static hn_status join_views(hn_graph *g, hn_tensor *base)
{
    hn_tensor *d;
    if (!base->has_columns || next_view(g, base, 0) == NULL) return HN_OK;
    HN_TRY(add_whole_views(g, base));
    if (next_view(g, base, 0) == NULL) return HN_OK;
    if (hn_graph_grad(g, base) == NULL && disjoint(g, base))
        HN_TRY(put_side_by_side(g, base, &d));
    else
        HN_TRY(add_up_views(g, base, &d));
    return set_grad(g, base, d);
}

/* Persistent tensors have no node that makes them. */
static hn_status join_leaves(hn_graph *g)
{
    for (int64_t i = 0; i < g->n_grads; i++) {
        hn_tensor *base = g->tensors.item[i]->base;
        if (base == NULL || !base->has_columns || base->mem == HN_MEM_TRANSIENT) continue;
        HN_TRY(join_views(g, base));
        base->has_columns = false; /* done */
    }
    return HN_OK;
}

/* The fp32 buffer into which gradients of a weight-like input are added. */
static hn_status weight_buffer(hn_graph *g, hn_tensor *t, hn_tensor **out)
{
    hn_tensor *buffer = hn_graph_grad(g, t);
    if (buffer == NULL) {
        hn_type type = t->type;
        type.dtype = HN_F32;
        HN_TRY(zeros(g, t->name, &type, &buffer));
        HN_TRY(set_grad(g, t, buffer));
    }
    *out = buffer;
    return HN_OK;
}

/* ---- matrices that are trained in blocks ---- */

static bool in_blocks(const hn_tensor *t)
{
    if (t->blocks != NULL) return true;
    for (const hn_tensor *v = t->views; v != NULL; v = v->next)
        if (v->blocks != NULL) return true;
    return false;
}

hn_status hn_grad_blocks(hn_graph *g, const char *name, const hn_tensor *w, hn_op_id op,
                         const hn_attr *attr, hn_tensor *dy, hn_tensor *x)
{
    if (w->blocks != NULL) return w->blocks->grad(w->blocks, g, name, op, attr, dy, x);
    const int64_t ld = hn_type_ld(&w->type);
    for (const hn_tensor *v = w->views; v != NULL; v = v->next) {
        const int64_t at = (int64_t)(v->offset / hn_dtype_size(v->type.dtype));
        hn_tensor *part;
        if (v->blocks == NULL) continue;
        HN_TRY(hn_view_columns(g, dy, at / ld, v->type.dim[0], &part));
        HN_TRY(v->blocks->grad(v->blocks, g, v->name, op, attr, part, x));
    }
    return HN_OK;
}

/* Where the gradient of input k, which the operation accumulates, goes. */
static hn_status leaf_grad(hn_graph *g, const hn_node *n, int k, hn_tensor **out)
{
    const hn_op_def *def = hn_op(n->op);
    hn_tensor *t = n->in[k];
    if (in_blocks(t)) {
        *out = HN_GRAD_OF_BLOCKS;
        if (def->by_blocks & HN_BIT(k)) return HN_OK;
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s (%s): %s is trained in blocks", n->name, def->name,
                       t->name);
    }
    if (t->grad != NULL || t->views == NULL) return weight_buffer(g, t, out);
    *out = HN_GRAD_OF_VIEWS;
    if (def->by_views & HN_BIT(k)) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s (%s): %s is trained view by view", n->name, def->name,
                   t->name);
}

static hn_status node_backward(hn_graph *g, const hn_node *n)
{
    const hn_op_def *def = hn_op(n->op);
    hn_tensor *dout[HN_MAX_OUT] = {0}, *din[HN_MAX_IN] = {0}, *before[HN_MAX_IN] = {0};
    bool arrived = def->loss, wanted = false;
    for (int k = 0; k < def->n_out; k++) {
        if (n->out[k] == NULL || def->alias[k] || (def->saved_out & HN_BIT(k))) continue;
        HN_TRY(join_views(g, n->out[k]));
        dout[k] = hn_graph_grad(g, n->out[k]);
        arrived |= dout[k] != NULL;
    }
    for (int k = 0; k < def->n_in; k++) wanted |= n->in[k] && n->in[k]->needs_grad;
    if (!arrived || !wanted) return HN_OK;
    if (def->grad == NULL)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s (%s) has no gradient", n->name, def->name);
    for (int k = 0; k < def->n_in; k++) {
        hn_tensor *t = n->in[k];
        if (t == NULL || !t->needs_grad) continue;
        if (def->accumulates & HN_BIT(k)) {
            HN_TRY(leaf_grad(g, n, k, &din[k]));
            continue;
        }
        din[k] = HN_NO_GRAD_YET;
        bool first_use = true; /* the same tensor twice: only one may carry the old gradient on */
        for (int j = 0; j < k; j++) first_use &= n->in[j] != t;
        if ((def->adds & HN_BIT(k)) && first_use && t->base == NULL && t->grad == NULL) {
            before[k] = hn_graph_grad(g, t);
            if (before[k] != NULL) din[k] = before[k];
        }
    }
    g->differentiated = n;
    HN_TRY(def->grad(g, n, dout, din));
    g->differentiated = NULL;
    for (int k = 0; k < def->n_in; k++) {
        hn_tensor *t = n->in[k];
        if (t == NULL || !t->needs_grad || (def->accumulates & HN_BIT(k))) continue;
        if (din[k] == NULL || din[k] == HN_NO_GRAD_YET || din[k] == before[k]) continue;
        if (before[k] != NULL) /* the rule carried the old gradient on */
            HN_TRY(set_grad(g, t, din[k]));
        else
            HN_TRY(add_grad(g, n->name, t, din[k]));
    }
    return HN_OK;
}

hn_status hn_graph_backward(hn_graph *g, int n, hn_tensor *const *y, hn_tensor *const *dy)
{
    if (!g->training) return HN_FAIL(HN_ERR_ARG, "graph %s was not recorded for training", g->name);
    const int64_t n_forward = g->n_nodes, n_tensors = g->tensors.n;
    g->in_backward = true;
    g->segment = 0;
    g->grad = hn_calloc((size_t)n_tensors + 1, sizeof(hn_tensor *));
    g->n_grads = n_tensors;
    if (g->grad == NULL) return HN_FAIL(HN_ERR_MEMORY, "gradient table of graph %s", g->name);
    for (int i = 0; i < n; i++) HN_TRY(add_grad(g, y[i]->name, y[i], dy[i]));
    for (int64_t i = n_forward - 1; i >= 0; i--) HN_TRY(node_backward(g, g->node[i]));
    return join_leaves(g);
}
