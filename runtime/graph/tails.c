/* Room behind the rows of transient matrices for the operations that read them (plan.h).
 *
 * All matrices of one width and type get the same room, in every graph, whether their own readers
 * asked for it or another's did. So what takes over another's memory fits, and a product has the
 * same strides when a layer is run again in backward or for an evaluation: the library chooses its
 * algorithm by them, and another one would give other bits. */
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
    return t->mem == HN_MEM_TRANSIENT && t->base == NULL && t->type.ndim == 2 && !t->fixed_pitch;
}

static void widen_all(hn_program *p, hn_dtype dtype, int64_t cols, int64_t tail)
{
    for (int64_t i = 0; i < p->n_graphs; i++)
        for (int64_t j = 0; j < p->graph[i]->tensors.n; j++) {
            hn_tensor *t = p->graph[i]->tensors.item[j];
            hn_type *type = &t->type;
            if (!may_widen(t) || type->dtype != dtype || hn_type_cols(type) != cols) continue;
            if (tail <= type->tail) continue;
            type->tail = tail;
            type->pitch = (cols + tail + TAIL_PITCH - 1) / TAIL_PITCH * TAIL_PITCH;
        }
}

static void give_tails(hn_program *p, const hn_node *n)
{
    const hn_op_def *def = hn_op(n->op);
    for (int k = 0; def->tail != NULL && k < def->n_in; k++) {
        const int64_t tail = n->in[k] ? def->tail(n, k) : 0;
        if (tail == 0 || !may_widen(whole(n->in[k]))) continue;
        const hn_type *type = &whole(n->in[k])->type;
        if (tail > type->tail) widen_all(p, type->dtype, hn_type_cols(type), tail);
    }
}

static void follow_root(hn_tensor *t)
{
    if (t->mem != HN_MEM_TRANSIENT || t->base == NULL || t->flat) return;
    t->type.pitch = hn_type_ld(&hn_root(t)->type);
    if (whole(t)->base == NULL) t->type.tail = whole(t)->type.tail;
}

void hn_pass_tails(hn_program *p)
{
    for (int64_t i = 0; i < p->n_graphs; i++)
        for (int64_t j = 0; j < p->graph[i]->n_nodes; j++) give_tails(p, p->graph[i]->node[j]);
    for (int64_t i = 0; i < p->n_graphs; i++)
        for (int64_t j = 0; j < p->graph[i]->tensors.n; j++)
            follow_root(p->graph[i]->tensors.item[j]);
}
