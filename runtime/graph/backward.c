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

/* A fresh tensor of zeros; like a column view of it when `t` is one of `base`. */
static hn_status zeros(hn_graph *g, const char *name, const hn_type *type, hn_tensor **out)
{
    HN_TRY(hn_graph_tensor(g, name, type, out));
    return hn_emit(g, HN_OP_ZERO, name, out, NULL, NULL);
}

/* The gradient of a column view is that view of its base's gradient, zero until something is added.
 */
static hn_status view_grad(hn_graph *g, hn_tensor *view, hn_tensor **out)
{
    hn_tensor *base = view->base, *dbase = hn_graph_grad(g, base);
    if (dbase == NULL) {
        HN_TRY(zeros(g, base->name, &base->type, &dbase));
        HN_TRY(set_grad(g, base, dbase));
    }
    const int64_t first = (int64_t)(view->offset / hn_dtype_size(view->type.dtype));
    HN_TRY(hn_view_columns(g, dbase, first, hn_type_cols(&view->type), out));
    return set_grad(g, view, *out);
}

/* Adds a contribution to the gradient of t. Buffers and views are changed in place; other sums are
 * fresh tensors, because a rule may hand the same gradient tensor to several inputs. */
static hn_status add_grad(hn_graph *g, const char *name, hn_tensor *t, hn_tensor *d)
{
    hn_tensor *sum = hn_graph_grad(g, t);
    if (sum == NULL && t->base != NULL) HN_TRY(view_grad(g, t, &sum));
    if (sum == NULL) return set_grad(g, t, d);
    hn_tensor *in[] = {sum, d};
    if (t->grad != NULL || t->base != NULL)
        return hn_emit(g, HN_OP_ACCUMULATE, name, in, NULL, NULL);
    HN_TRY(hn_emit(g, HN_OP_ADD, name, in, NULL, &sum));
    return set_grad(g, t, sum);
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

static hn_status node_backward(hn_graph *g, const hn_node *n)
{
    const hn_op_def *def = hn_op(n->op);
    hn_tensor *dout[HN_MAX_OUT] = {0}, *din[HN_MAX_IN] = {0}, *before[HN_MAX_IN] = {0};
    bool arrived = def->loss, wanted = false;
    for (int k = 0; k < def->n_out; k++) {
        if (n->out[k] == NULL || def->alias[k] || (def->saved_out & HN_BIT(k))) continue;
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
            HN_TRY(weight_buffer(g, t, &din[k]));
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
    HN_TRY(def->grad(g, n, dout, din));
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
    return HN_OK;
}
