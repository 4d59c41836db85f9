/* Offline placement of one graph's transient tensors: the plan of plan.h. */
#include <stdint.h>
#include <stdlib.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/graph_impl.h"

enum { ALIGN = 64 };

typedef struct {
    int64_t first, last; /* nodes, inclusive; last < 0: unused */
    int64_t busy;        /* the last node beside which a side node uses it; -1: none */
    size_t bytes, at;
    int64_t owner; /* piece that this one was merged into; itself: none */
    int64_t id;
} piece;

typedef struct {
    hn_graph *g;
    piece *piece; /* one per transient tensor, then one per node for its scratch */
    int64_t n;
} places;

static size_t round_up(size_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

static piece *piece_of(const places *p, hn_tensor *t)
{
    hn_tensor *root = hn_root(t);
    if (root->mem != HN_MEM_TRANSIENT) return NULL;
    piece *q = &p->piece[root->index];
    while (q->owner != q->id) q = &p->piece[q->owner];
    return q;
}

/* until: the last node beside which a side node runs; of others, the node itself. */
static void touch(piece *q, int64_t node, int64_t until)
{
    if (q == NULL) return;
    if (q->last < 0) q->first = node;
    if (until > q->last) q->last = until;
    if (until > node) q->busy = until > q->busy ? until : q->busy;
}

/* Lives of all tensors and scratch areas. */
static void find_lives(places *p)
{
    hn_graph *g = p->g;
    for (int64_t i = 0; i < p->n; i++)
        p->piece[i] = (piece){.last = -1, .busy = -1, .owner = i, .id = i};
    for (int64_t i = 0; i < g->tensors.n; i++)
        p->piece[i].bytes = round_up(hn_type_bytes(&g->tensors.item[i]->type));
    for (int64_t i = 0; i < g->n_nodes; i++) {
        hn_node *n = g->node[i];
        const hn_op_def *def = hn_op(n->op);
        const int64_t until = n->side ? n->join - 1 : i;
        for (int k = 0; k < def->n_in; k++)
            if (n->in[k]) touch(piece_of(p, n->in[k]), i, until);
        for (int k = 0; k < def->n_out; k++)
            if (n->out[k]) touch(piece_of(p, n->out[k]), i, until);
        if (n->scratch > 0) {
            piece *s = &p->piece[g->tensors.n + i];
            touch(s, i, until);
            s->bytes = round_up(n->scratch);
        }
    }
    /* behind the last node, which may not take them over either */
    for (int64_t i = 0; i < g->tensors.n; i++)
        if (g->tensors.item[i]->keep && p->piece[i].last >= 0) p->piece[i].last = g->n_nodes;
}

/* Operations work in place only where rows lie equally far apart. */
static bool same_pitch(const hn_type *a, const hn_type *b)
{
    return a->ndim < 2 || b->ndim < 2 || hn_type_ld(a) == hn_type_ld(b);
}

/* Whether an earlier output of n has taken the piece: one that nobody reads dies at n as well. */
static bool is_taken(const places *p, const hn_node *n, int o, const piece *in)
{
    for (int j = 0; j < o; j++)
        if (n->out[j] && piece_of(p, n->out[j]) == in) return true;
    return false;
}

/* Lets outputs take over the memory of inputs that die at their node. */
static void merge_reused(places *p)
{
    hn_graph *g = p->g;
    for (int64_t i = 0; i < g->n_nodes; i++) {
        hn_node *n = g->node[i];
        const hn_op_def *def = hn_op(n->op);
        for (int o = 0; o < def->n_out; o++) {
            for (int k = 0; k < def->n_in; k++) {
                if (!(def->reuse & HN_REUSE(o, k)) || !n->in[k] || !n->out[o]) continue;
                if (n->in[k]->base || n->out[o]->base || def->alias[o]) continue;
                if (n->in[k]->keep) continue; /* also where its life ends with the graph's */
                if (!same_pitch(&n->in[k]->type, &n->out[o]->type)) continue;
                piece *in = piece_of(p, n->in[k]), *out = piece_of(p, n->out[o]);
                if (in == NULL || out == NULL || in == out) continue;
                if (in->last != i || out->first != i || in->bytes < out->bytes) continue;
                if (in->busy >= i) continue; /* a side node may be reading it still */
                if (is_taken(p, n, o, in)) continue;
                out->owner = in->id;
                in->last = out->last;
                in->busy = out->busy;
                break;
            }
        }
    }
}

static int larger_first(const void *a, const void *b)
{
    const piece *x = *(piece *const *)a, *y = *(piece *const *)b;
    if (x->bytes != y->bytes) return x->bytes > y->bytes ? -1 : 1;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int lower_first(const void *a, const void *b)
{
    const piece *x = *(piece *const *)a, *y = *(piece *const *)b;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Lowest address at which q fits between the placed pieces that live at the same time. */
static size_t lowest_free(piece *const *placed, int64_t n, const piece *q, piece **overlap,
                          size_t guard)
{
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++)
        if (placed[i]->first <= q->last && q->first <= placed[i]->last) overlap[m++] = placed[i];
    qsort(overlap, (size_t)m, sizeof *overlap, lower_first);
    size_t at = 0;
    for (int64_t i = 0; i < m; i++) {
        if (overlap[i]->at >= at + q->bytes + guard) break;
        const size_t end = overlap[i]->at + overlap[i]->bytes + guard;
        if (end > at) at = end;
    }
    return at;
}

/* The node at which the pieces that live take most. */
static const hn_node *fullest_node(const places *p)
{
    const hn_graph *g = p->g;
    const hn_node *best = NULL;
    size_t most = 0;
    for (int64_t i = 0; i < g->n_nodes; i++) {
        size_t bytes = 0;
        for (int64_t k = 0; k < p->n; k++) {
            const piece *q = &p->piece[k];
            if (q->owner == k && q->first <= i && i <= q->last) bytes += q->bytes;
        }
        if (bytes > most) best = g->node[i];
        if (bytes > most) most = bytes;
    }
    return best;
}

static void write_back(const places *p)
{
    hn_graph *g = p->g;
    for (int64_t i = 0; i < g->tensors.n; i++) {
        hn_tensor *t = g->tensors.item[i];
        if (t->base == NULL) t->offset = piece_of(p, t)->at;
    }
    for (int64_t i = 0; i < g->n_nodes; i++) g->node[i]->scratch_at = p->piece[g->tensors.n + i].at;
}

hn_status hn_place(hn_graph *g, size_t guard_bytes)
{
    hn_status st = HN_OK;
    places p = {.g = g, .n = g->tensors.n + g->n_nodes};
    const size_t n = (size_t)p.n + 1;
    p.piece = hn_calloc(n, sizeof *p.piece);
    piece **order = hn_calloc(n, sizeof(piece *)), **overlap = hn_calloc(n, sizeof(piece *));
    if (p.piece == NULL || order == NULL || overlap == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "placement tables of graph %s", g->name);
        goto done;
    }
    find_lives(&p);
    merge_reused(&p);
    int64_t m = 0;
    for (int64_t i = 0; i < p.n; i++)
        if (p.piece[i].owner == i && p.piece[i].last >= 0) order[m++] = &p.piece[i];
    qsort(order, (size_t)m, sizeof *order, larger_first);
    g->transient_bytes = 0;
    const size_t guard = round_up(guard_bytes);
    for (int64_t i = 0; i < m; i++) {
        order[i]->at = lowest_free(order, i, order[i], overlap, guard);
        const size_t end = order[i]->at + order[i]->bytes + guard;
        if (end > g->transient_bytes) g->transient_bytes = end;
    }
    write_back(&p);
    g->fullest = fullest_node(&p);

done:
    hn_free(p.piece);
    hn_free(order);
    hn_free(overlap);
    return st;
}
