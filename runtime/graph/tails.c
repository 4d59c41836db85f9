/* Room behind the rows of transient matrices for the operations that read them (plan.h). */
#include "runtime/graph/graph_impl.h"

/* Rows with a tail begin so many elements apart, or a multiple: 128 bytes of bf16, one swizzle atom
 * of the tensor cores' loads and one line of L2. */
enum { TAIL_PITCH = 64 };

/* A view of all columns has its root's rows, tails included. */
static hn_tensor *whole(hn_tensor *t)
{
    while (t->base != NULL && t->offset == 0 && hn_type_same(&t->type, &t->base->type)) t = t->base;
    return t;
}

/* A matrix whose pitch the plan may choose. */
static bool may_widen(const hn_tensor *t)
{
    return t->mem == HN_MEM_TRANSIENT && t->base == NULL && t->type.ndim == 2;
}

static void widen(hn_tensor *t, int64_t ld)
{
    if (ld > hn_type_ld(&t->type)) t->type.pitch = (ld + TAIL_PITCH - 1) / TAIL_PITCH * TAIL_PITCH;
}

static bool give_tails(hn_node *n)
{
    const hn_op_def *def = hn_op(n->op);
    bool given = false;
    for (int k = 0; def->tail != NULL && k < def->n_in; k++) {
        const int64_t tail = n->in[k] ? def->tail(n, k) : 0;
        if (tail == 0 || !may_widen(whole(n->in[k]))) continue;
        hn_tensor *t = whole(n->in[k]);
        if (tail > t->type.tail) t->type.tail = tail;
        widen(t, hn_type_cols(&t->type) + t->type.tail);
        given = true;
    }
    return given;
}

/* Both get the wider pitch. */
static bool align(hn_tensor *a, hn_tensor *b)
{
    hn_tensor *one = hn_root(a), *other = hn_root(b);
    if (!may_widen(one) || !may_widen(other) || !hn_type_same(&one->type, &other->type))
        return false;
    if (hn_type_ld(&one->type) == hn_type_ld(&other->type)) return false;
    widen(one, hn_type_ld(&other->type));
    widen(other, hn_type_ld(&one->type));
    return true;
}

/* An output that may take over an input's memory has to have the pitch of it. So do the pairs for
 * which an operation asks, and values that are made again: products take their algorithm by pitch,
 * too, and another one would give other bits. */
static bool align_pitches(const hn_node *n)
{
    const hn_op_def *def = hn_op(n->op);
    bool changed = false;
    for (int o = 0; o < def->n_out; o++) {
        if (n->out[o] == NULL) continue;
        if (n->out[o]->again_of) changed |= align(n->out[o], n->out[o]->again_of);
        for (int k = 0; k < def->n_in; k++)
            if (n->in[k] && ((def->reuse | def->same_pitch) & HN_REUSE(o, k)))
                changed |= align(n->in[k], n->out[o]);
    }
    return changed;
}

void hn_pass_tails(hn_graph *g)
{
    bool changed = false;
    for (int64_t i = 0; i < g->n_nodes; i++) changed |= give_tails(g->node[i]);
    while (changed) {
        changed = false;
        for (int64_t i = g->n_nodes - 1; i >= 0; i--) changed |= align_pitches(g->node[i]);
    }
    for (int64_t i = 0; i < g->tensors.n; i++) {
        hn_tensor *t = g->tensors.item[i];
        if (t->mem != HN_MEM_TRANSIENT || t->base == NULL) continue;
        t->type.pitch = hn_type_ld(&hn_root(t)->type);
        if (whole(t)->base == NULL) t->type.tail = whole(t)->type.tail;
    }
}
