/* ds of a low-rank layer is made by the node that makes dy, while it has it at hand:
 *
 *   dg, du = swiglu_bwd(g, u, dh)                       dg, du, ds = swiglu_bwd(g, u, dh, b)
 *   ds, dx = lowrank_dx([dg | du], w, a, b)      =>     dx = lowrank_dx([dg | du], w, a, b, ds)
 *
 * [dg | du], the widest tensor of a layer, is then not read for ds alone. Only in bf16 and on a
 * GPU, where that is what the product costs; f32 keeps the order of its sums. */
#include "runtime/graph/graph_impl.h"

enum { DX_DY, DX_B = 3, DX_GIVEN = 5 };     /* inputs of lowrank_dx */
enum { DX_DS };                             /* its outputs */
enum { ACT_B = 3 };                         /* inputs of swiglu_bwd */
enum { ACT_DGATE, ACT_DUP, ACT_H, ACT_DS }; /* its outputs */

static bool writes(const hn_node *n, hn_tensor *root)
{
    for (int k = 0; k < hn_op(n->op)->n_out; k++)
        if (n->out[k] != NULL && hn_root(n->out[k]) == root) return true;
    return false;
}

static bool reads(const hn_node *n, hn_tensor *root)
{
    for (int k = 0; k < hn_op(n->op)->n_in; k++)
        if (n->in[k] != NULL && hn_root(n->in[k]) == root) return true;
    return false;
}

/* Whether t is columns first .. first+cols-1 of the matrix dy, which owns its memory. */
static bool is_part(const hn_tensor *t, const hn_tensor *dy, int64_t first, int64_t cols)
{
    return t != NULL && t->base == dy && hn_type_cols(&t->type) == cols &&
           t->offset == (size_t)first * hn_dtype_size(dy->type.dtype);
}

/* Whether n writes dy as the two halves [dgate | dup], and could make ds. */
static bool makes(const hn_node *n, const hn_tensor *dy)
{
    const int64_t half = hn_type_cols(&dy->type) / 2;
    return n->op == HN_OP_SWIGLU_BWD && n->in[ACT_B] == NULL &&
           2 * half == hn_type_cols(&dy->type) && is_part(n->out[ACT_DGATE], dy, 0, half) &&
           is_part(n->out[ACT_DUP], dy, half, half);
}

/* The node in front of `end` that makes dy, if it is the only one that writes it: -1 if not. */
static int64_t maker_of(const hn_graph *g, hn_tensor *dy, int64_t end)
{
    int64_t made = -1;
    for (int64_t i = 0; i < g->n_nodes; i++) {
        if (!writes(g->node[i], dy)) continue;
        if (made >= 0 || i >= end || !makes(g->node[i], dy)) return -1;
        made = i;
    }
    return made;
}

/* A tail is for one: no other node that wants one behind the rows of dy. */
static bool shares_tail(const hn_graph *g, const hn_node *n, hn_tensor *dy)
{
    for (int64_t i = 0; i < g->n_nodes; i++)
        if (g->node[i] != n && hn_op(g->node[i]->op)->tail != NULL && reads(g->node[i], dy))
            return true;
    return false;
}

static void move_ds(hn_graph *g, int64_t at)
{
    hn_node *n = g->node[at];
    hn_tensor *dy = n->in[DX_DY], *b = n->in[DX_B];
    if (n->in[DX_GIVEN] != NULL || dy->type.dtype != HN_BF16 || n->attr.linear.dropout > 0) return;
    if (dy->base != NULL || dy->mem != HN_MEM_TRANSIENT || dy->keep || dy->type.ndim != 2) return;
    if (hn_root(b)->mem == HN_MEM_TRANSIENT || b->type.replicas > 1) return;
    const int64_t made = maker_of(g, dy, at);
    if (made < 0 || shares_tail(g, n, dy)) return;
    hn_node *act = g->node[made];
    act->in[ACT_B] = b;
    act->attr.swiglu.scale = n->attr.linear.alpha;
    act->out[ACT_DS] = n->in[DX_GIVEN] = n->out[DX_DS];
    n->out[DX_DS] = NULL;
}

void hn_pass_produce(hn_graph *g, hn_device_kind device)
{
    if (device != HN_DEVICE_CUDA) return;
    for (int64_t i = 0; i < g->n_nodes; i++)
        if (g->node[i]->op == HN_OP_LOWRANK_DX) move_ds(g, i);
}
