/* A residual sum is the last thing of the linear layer before it, not the first of the norm behind:
 *
 *   y = linear(x, w)                       sum = linear(x, w) + res
 *   sum, n = add_rmsnorm(y, res)    =>     n = rmsnorm(sum)
 *
 * The product adds res on its way out, y is never written, and the norm reads one tensor and writes
 * one: half its traffic. Gradients stay as they were recorded: that of the sum is the gradient of
 * both operands either way. Only in bf16, where it saves the rounding of y; in f32 the order of the
 * additions, and so the last bit, would be another one. */
#include "runtime/graph/graph_impl.h"

enum { NORM_X, NORM_RES };                /* inputs of add_rmsnorm */
enum { NORM_SUM };                        /* outputs of add_rmsnorm */
enum { LINEAR_Y };                        /* outputs of linear and lowrank_linear */
enum { LINEAR_ADD = 3, LOWRANK_ADD = 5 }; /* their last inputs */

static hn_tensor **add_of(hn_node *n)
{
    if (n->op == HN_OP_LINEAR) return &n->in[LINEAR_ADD];
    return n->op == HN_OP_LOWRANK_LINEAR ? &n->in[LOWRANK_ADD] : NULL;
}

/* The node in front of `end` that makes t, -1: none. */
static int64_t maker_of(const hn_graph *g, const hn_tensor *t, int64_t end)
{
    for (int64_t i = end - 1; i >= 0; i--)
        for (int k = 0; k < hn_op(g->node[i]->op)->n_out; k++)
            if (g->node[i]->out[k] == t) return i;
    return -1;
}

static int64_t readers_of(const hn_graph *g, hn_tensor *t)
{
    int64_t n = 0;
    for (int64_t i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < hn_op(g->node[i]->op)->n_in; k++)
            n += g->node[i]->in[k] != NULL && hn_root(g->node[i]->in[k]) == t;
    return n;
}

static bool is_plain(const hn_tensor *t)
{
    return t->mem == HN_MEM_TRANSIENT && t->base == NULL && !t->keep && t->type.ndim == 2;
}

/* Whether nodes first .. end-1 write in the memory of t. */
static bool is_changed(const hn_graph *g, const hn_tensor *t, int64_t first, int64_t end)
{
    for (int64_t i = first; i < end; i++)
        for (int k = 0; k < hn_op(g->node[i]->op)->n_out; k++)
            if (g->node[i]->out[k] != NULL && hn_root(g->node[i]->out[k]) == t) return true;
    return false;
}

static void move_add(hn_graph *g, int64_t at)
{
    hn_node *norm = g->node[at];
    hn_tensor *y = norm->in[NORM_X], *res = norm->in[NORM_RES], *sum = norm->out[NORM_SUM];
    if (norm->backward || res == NULL || y->type.dtype != HN_BF16) return;
    if (!is_plain(y) || y->has_columns || !is_plain(res) || res == y) return;
    const int64_t made = maker_of(g, y, at);
    if (made < 0 || add_of(g->node[made]) == NULL || *add_of(g->node[made]) != NULL) return;
    if (g->node[made]->out[LINEAR_Y] != y || readers_of(g, y) != 1) return;
    if (maker_of(g, res, made) < 0 || is_changed(g, res, made, at)) return;
    *add_of(g->node[made]) = res;
    g->node[made]->out[LINEAR_Y] = sum;
    norm->in[NORM_X] = sum;
    norm->in[NORM_RES] = NULL;
    norm->out[NORM_SUM] = NULL;
}

void hn_pass_fuse(hn_graph *g)
{
    for (int64_t i = 0; i < g->n_nodes; i++)
        if (g->node[i]->op == HN_OP_ADD_RMSNORM) move_add(g, i);
}
