/* s and ds of a low-rank layer are made by the node that makes x or dy, while it has it at hand:
 *
 *   h = swiglu(g, u)                                    h, s = swiglu(g, u, a)
 *   y, s = lowrank_linear(h, w, a, b)            =>     y = lowrank_linear(h, w, a, b, s)
 *
 *   dg, du = swiglu_bwd(g, u, dh)                       dg, du, ds = swiglu_bwd(g, u, dh, b)
 *   ds, dx = lowrank_dx([dg | du], w, a, b)      =>     dx = lowrank_dx([dg | du], w, a, b, ds)
 *
 * h and [dg | du], the widest tensors of a layer, are then not read for s and ds alone. Only in
 * bf16 and on a GPU, where that is what the products cost; f32 keeps the order of its sums. */
#include "runtime/graph/graph_impl.h"

enum { LOW_X, LOW_A = 3, LOW_GIVEN = 6 };   /* inputs of lowrank_linear */
enum { LOW_Y, LOW_S };                      /* its outputs */
enum { DX_DY, DX_B = 3, DX_GIVEN = 5 };     /* inputs of lowrank_dx */
enum { DX_DS };                             /* its outputs */
enum { FWD_A = 2 };                         /* inputs of swiglu */
enum { FWD_Y, FWD_S };                      /* its outputs */
enum { BWD_B = 3 };                         /* inputs of swiglu_bwd */
enum { BWD_DGATE, BWD_DUP, BWD_H, BWD_DS }; /* its outputs */

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

/* Whether n writes x and could make s. */
static bool makes_x(const hn_node *n, hn_tensor *x)
{
    return n->op == HN_OP_SWIGLU && n->in[FWD_A] == NULL && n->out[FWD_Y] == x;
}

/* Whether t is columns first .. first+cols-1 of dy. */
static bool is_part(const hn_tensor *t, const hn_tensor *dy, int64_t first, int64_t cols)
{
    return t != NULL && t->base == dy && hn_type_cols(&t->type) == cols &&
           t->offset == (size_t)first * hn_dtype_size(dy->type.dtype);
}

/* Whether n writes dy as the two halves [dgate | dup] and could make ds. */
static bool makes_dy(const hn_node *n, hn_tensor *dy)
{
    const int64_t half = hn_type_cols(&dy->type) / 2;
    return n->op == HN_OP_SWIGLU_BWD && n->in[BWD_B] == NULL &&
           2 * half == hn_type_cols(&dy->type) && is_part(n->out[BWD_DGATE], dy, 0, half) &&
           is_part(n->out[BWD_DUP], dy, half, half);
}

/* The node in front of `end` that makes t, if it is the only one that writes it, else NULL. */
static hn_node *maker_of(const hn_graph *g, hn_tensor *t, int64_t end,
                         bool (*makes)(const hn_node *n, hn_tensor *t))
{
    hn_node *made = NULL;
    for (int64_t i = 0; i < g->n_nodes; i++) {
        if (!writes(g->node[i], t)) continue;
        if (made != NULL || i >= end || !makes(g->node[i], t)) return NULL;
        made = g->node[i];
    }
    return made;
}

/* Whether what n makes of t, a matrix of the graph's own, and the narrow matrix w could be made
 * elsewhere. A tail is for one: no other node wants one behind the rows of t. */
static bool may_move(const hn_graph *g, const hn_node *n, hn_tensor *t, hn_tensor *w)
{
    if (t->type.dtype != HN_BF16 || n->attr.linear.dropout > 0 || t->base != NULL || t->keep ||
        t->mem != HN_MEM_TRANSIENT || t->type.ndim != 2 || hn_root(w)->mem == HN_MEM_TRANSIENT ||
        w->type.replicas > 1)
        return false;
    for (int64_t i = 0; i < g->n_nodes; i++)
        if (g->node[i] != n && hn_op(g->node[i]->op)->tail != NULL && reads(g->node[i], t))
            return false;
    return true;
}

static void move_s(hn_graph *g, int64_t at)
{
    hn_node *n = g->node[at], *act = maker_of(g, n->in[LOW_X], at, makes_x);
    if (act == NULL || n->in[LOW_GIVEN] || !may_move(g, n, n->in[LOW_X], n->in[LOW_A])) return;
    act->in[FWD_A] = n->in[LOW_A];
    act->attr.swiglu.scale = n->attr.linear.alpha;
    act->out[FWD_S] = n->in[LOW_GIVEN] = n->out[LOW_S];
    n->out[LOW_S] = NULL;
}

static void move_ds(hn_graph *g, int64_t at)
{
    hn_node *n = g->node[at], *act = maker_of(g, n->in[DX_DY], at, makes_dy);
    if (act == NULL || n->in[DX_GIVEN] || !may_move(g, n, n->in[DX_DY], n->in[DX_B])) return;
    act->in[BWD_B] = n->in[DX_B];
    act->attr.swiglu.scale = n->attr.linear.alpha;
    act->out[BWD_DS] = n->in[DX_GIVEN] = n->out[DX_DS];
    n->out[DX_DS] = NULL;
}

void hn_pass_produce(hn_graph *g, hn_device_kind device)
{
    if (device != HN_DEVICE_CUDA) return;
    for (int64_t i = 0; i < g->n_nodes; i++)
        if (g->node[i]->op == HN_OP_LOWRANK_LINEAR)
            move_s(g, i);
        else if (g->node[i]->op == HN_OP_LOWRANK_DX)
            move_ds(g, i);
}
