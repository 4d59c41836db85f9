/* What runs beside, and what runs at once.
 *
 * A side node is one that leaves others room (hn_op_def.beside) and whose results nobody reads for
 * a while: the gradients of adapters, of filters over few images. It goes to the device's side
 * stream as soon as its operands are there, and the main stream goes on; at `join` the main stream
 * waits for it:
 *
 *   main   swiglu_bwd | lowrank_dx ......... | add_rmsnorm_bwd ^ lowrank_dx ... | attention_bwd
 *   side              fork: dA, dB, dB ........................^
 *
 * Until there its operands stay where they are (place.c), and nobody writes what it reads or
 * touches what it writes. The join comes as late as that, the peak of the graph without it and
 * `window` allow. Side nodes run in the order of the list: sums into one buffer keep theirs.
 *
 * What brings the weights of a layer (shards.c) has a stream of its own: it begins as soon as
 * nobody needs what lies in its place, and the main stream waits for it in front of the first node
 * that reads them:
 *
 *   main   layer 0 | layer 1 ......... ^ layer 2 ....... ^ layer 3
 *   ahead          | gather 2 .........^| gather 3 ......^
 */
#include "runtime/base/alloc.h"
#include "runtime/graph/graph_impl.h"

typedef struct {
    hn_graph *g;
    int64_t *last; /* by tensor index: the last node that uses this root, or may while it runs */
    bool *met;     /* by tensor index: an earlier node uses this root */
    size_t *live;  /* by node: bytes of what is in use there */
    size_t peak;   /* of live, before anything was made to live longer */
} lives;

/* What reads gathered weights is none: what comes to their place waits for the main stream alone.
 */
static bool is_side(const hn_node *n)
{
    const hn_op_def *def = hn_op(n->op);
    if (def->beside == NULL || !def->beside(n)) return false;
    for (int k = 0; k < HN_MAX_IN; k++)
        if (n->in[k] && hn_shard_of(n->in[k])) return false;
    return true;
}

/* ---- who may change places ---- */

/* The bytes from the first element of t to behind its last row, in its memory class. */
static void bytes_between(const hn_tensor *t, size_t *first, size_t *end)
{
    *first = t->offset;
    *end = hn_type_bytes(&t->type);
    for (; t->base != NULL; t = t->base) *first += t->base->offset;
    *end += *first;
}

/* Whether two tensors share bytes; transient ones of one root are taken to. Views of rows of one
 * persistent tensor share none, ranges of a class those of its tensors. */
static bool same_memory(hn_tensor *a, hn_tensor *b)
{
    size_t first_a, end_a, first_b, end_b;
    if (a == NULL || b == NULL || hn_root(a)->mem != hn_root(b)->mem) return false;
    if (hn_root(a)->mem == HN_MEM_TRANSIENT) return hn_root(a) == hn_root(b);
    bytes_between(a, &first_a, &end_a);
    bytes_between(b, &first_b, &end_b);
    return first_a < end_b && first_b < end_a;
}

static bool touches(const hn_node *n, hn_tensor *t)
{
    const hn_op_def *def = hn_op(n->op);
    for (int k = 0; k < def->n_in; k++)
        if (same_memory(n->in[k], t)) return true;
    for (int k = 0; k < def->n_out; k++)
        if (same_memory(n->out[k], t)) return true;
    return false;
}

static bool writes_what_touches(const hn_node *writer, const hn_node *other)
{
    for (int k = 0; k < hn_op(writer->op)->n_out; k++)
        if (writer->out[k] && touches(other, writer->out[k])) return true;
    return false;
}

/* Whether the order of the two matters. */
static bool conflict(const hn_node *a, const hn_node *b)
{
    return writes_what_touches(a, b) || writes_what_touches(b, a);
}

/* Moves each side node to where its operands are ready, behind the side nodes that are there. */
static bool hoist(hn_graph *g)
{
    bool any = false;
    for (int64_t i = 0; i < g->n_nodes; i++) {
        hn_node *n = g->node[i];
        int64_t to = i;
        n->side = is_side(n);
        if (!n->side) continue;
        any = true;
        while (to > 0 && !conflict(n, g->node[to - 1])) to--;
        while (to < i && g->node[to]->side) to++;
        for (int64_t k = i; k > to; k--) g->node[k] = g->node[k - 1];
        g->node[to] = n;
    }
    return any;
}

/* ---- ahead ---- */

/* The nodes that bring one layer, from i on. */
static int64_t bringing(const hn_graph *g, int64_t i)
{
    int64_t n = 1;
    while (i + n < g->n_nodes && g->node[i + n]->brings && g->node[i + n]->op != HN_OP_ALL_GATHER)
        n++;
    return n;
}

static bool any_conflict(const hn_graph *g, int64_t i, int64_t n, const hn_node *other)
{
    for (int64_t k = i; k < i + n; k++)
        if (conflict(g->node[k], other)) return true;
    return false;
}

/* Nodes i .. i+n-1 go to place `to`, in front of those that are there. */
static void move_up(hn_graph *g, int64_t i, int64_t n, int64_t to)
{
    for (int64_t k = 0; k < n; k++) {
        hn_node *m = g->node[i + k];
        for (int64_t j = i + k; j > to + k; j--) g->node[j] = g->node[j - 1];
        g->node[to + k] = m;
    }
}

/* The first node behind those that bring a layer which reads it waits for them. */
static void set_need(hn_graph *g, int64_t i, int64_t n, int64_t mark)
{
    hn_node *last = g->node[i + n - 1];
    last->ahead_mark = mark;
    for (int64_t k = i + n; k < g->n_nodes; k++) {
        if (g->node[k]->brings || !touches(g->node[k], g->node[i]->out[0])) continue;
        g->node[k]->needs = last; /* of two layers the later one: their stream runs in order */
        return;
    }
}

void hn_pass_ahead(hn_graph *g)
{
    int64_t marks = 0, n;
    if (g->program->n_shards == 0) return;
    for (int64_t i = 0; i < g->n_nodes; i += n) {
        int64_t to = i;
        n = 1;
        if (!g->node[i]->brings) continue;
        n = bringing(g, i);
        while (to > 0 && !g->node[to - 1]->brings && !any_conflict(g, i, n, g->node[to - 1])) to--;
        move_up(g, i, n, to);
        for (int64_t k = to; k < to + n; k++) {
            g->node[k]->ahead = true;
            g->node[k]->ahead_mark = -1;
        }
    }
    for (int64_t i = 0; i < g->n_nodes; i += n) {
        n = g->node[i]->brings ? bringing(g, i) : 1;
        if (g->node[i]->brings) set_need(g, i, n, marks++);
    }
}

/* ---- until when ---- */

static size_t bytes_of(const hn_tensor *root) { return hn_type_bytes(&root->type); }

/* The transient roots that a node uses, each once. */
static int roots_of(const hn_node *n, hn_tensor *root[HN_MAX_IN + HN_MAX_OUT])
{
    int count = 0;
    for (int k = 0; k < HN_MAX_IN + HN_MAX_OUT; k++) {
        hn_tensor *t = k < HN_MAX_IN ? n->in[k] : n->out[k - HN_MAX_IN];
        if (t == NULL || hn_root(t)->mem != HN_MEM_TRANSIENT) continue;
        int seen = 0;
        while (seen < count && root[seen] != hn_root(t)) seen++;
        if (seen == count) root[count++] = hn_root(t);
    }
    return count;
}

static void find_lives(lives *l)
{
    const hn_graph *g = l->g;
    hn_tensor *root[HN_MAX_IN + HN_MAX_OUT];
    for (int64_t i = 0; i < g->tensors.n; i++) l->last[i] = -1;
    for (int64_t i = g->n_nodes - 1; i >= 0; i--) /* backwards: the first to be met is the last */
        for (int k = roots_of(g->node[i], root) - 1; k >= 0; k--)
            if (l->last[root[k]->index] < 0)
                l->last[root[k]->index] = root[k]->keep ? g->n_nodes - 1 : i;
    size_t now = 0, then = 0; /* in use at node i; of that, no longer at node i + 1 */
    for (int64_t i = 0; i < g->n_nodes; i++, now -= then) {
        then = 0;
        for (int k = roots_of(g->node[i], root) - 1; k >= 0; k--) {
            hn_tensor *t = root[k];
            if (!l->met[t->index]) now += bytes_of(t);
            l->met[t->index] = true;
            if (l->last[t->index] == i) then += bytes_of(t);
        }
        l->live[i] = now + g->node[i]->scratch;
        if (l->live[i] > l->peak) l->peak = l->live[i];
    }
}

/* What stays in use at node j when node n is not done before it. */
static size_t kept_at(const lives *l, const hn_node *n, int64_t j)
{
    hn_tensor *root[HN_MAX_IN + HN_MAX_OUT];
    size_t bytes = n->scratch;
    for (int k = roots_of(n, root) - 1; k >= 0; k--)
        if (l->last[root[k]->index] < j) bytes += bytes_of(root[k]);
    return bytes;
}

/* How far node i may run beside what follows. */
static void find_join(lives *l, int64_t i, int window)
{
    const hn_graph *g = l->g;
    hn_node *n = g->node[i];
    hn_tensor *root[HN_MAX_IN + HN_MAX_OUT];
    int64_t j = i + 1;
    for (int beside = 0; j < g->n_nodes; j++) {
        const hn_node *m = g->node[j];
        const size_t bytes = kept_at(l, n, j);
        if (bytes > 0 && l->live[j] + bytes > l->peak) break;
        if (m->side || m->ahead) continue;
        if (beside++ == window || conflict(n, m)) break;
    }
    for (int64_t k = i + 1; k < j; k++) l->live[k] += kept_at(l, n, k);
    for (int k = roots_of(n, root) - 1; k >= 0; k--)
        if (l->last[root[k]->index] < j - 1) l->last[root[k]->index] = j - 1;
    n->join = j;
}

/* The side node that main node i has to wait for; NULL: all that are due are done, up to `reached`.
 * A wait costs time. So it is for more than what is due: for the newest one that has had half of
 * the time of that. */
static hn_node *wait_of(const hn_graph *g, int64_t i, int64_t reached)
{
    int64_t due = i - 1;
    while (due > reached && !(g->node[due]->side && g->node[due]->join <= i)) due--;
    if (due <= reached) return NULL;
    for (int64_t k = (due + i) / 2; k > due; k--)
        if (g->node[k]->side) return g->node[k];
    return g->node[due];
}

static int64_t number_of(const hn_graph *g, const hn_node *n)
{
    int64_t i = 0;
    while (g->node[i] != n) i++;
    return i;
}

/* Gives a mark to the side nodes that a main node, or the end of the graph, waits for. */
static void set_waits(hn_graph *g)
{
    int64_t newest = -1, reached = -1; /* side nodes, by number; reached: has been waited for */
    g->side_end = NULL;
    g->n_marks = 0;
    for (int64_t i = 0; i < g->n_nodes; i++) g->node[i]->mark = -1;
    for (int64_t i = 0; i < g->n_nodes; i++) {
        hn_node *n = g->node[i];
        n->after = NULL;
        if (n->side) newest = i;
        if (n->side || n->ahead) continue;
        hn_node *s = wait_of(g, i, reached);
        if (s == NULL) continue;
        n->after = s;
        s->mark = g->n_marks++;
        reached = number_of(g, s);
    }
    if (newest == reached) return;
    g->node[newest]->mark = g->n_marks++;
    g->side_end = g->node[newest];
}

/* ---- multiprocessors set aside ---- */

/* Side nodes run in backward. All of it leaves room, whether one runs beside just this node or not:
 * bits must not depend on how far memory lets them run. Not what runs again: it must come out with
 * the bits of forward. */
static void leave_room(hn_graph *g)
{
    for (int64_t i = 0; i < g->n_nodes; i++) {
        hn_node *n = g->node[i];
        n->leaves_room = n->backward && n->of != NULL && !n->side;
    }
}

bool hn_pass_side_nodes(hn_graph *g)
{
    const bool any = hoist(g);
    if (any) leave_room(g);
    return any;
}

hn_status hn_pass_joins(hn_graph *g, int window)
{
    lives l = {.g = g};
    hn_status st = HN_OK;
    l.last = hn_calloc((size_t)g->tensors.n + 1, sizeof *l.last);
    l.met = hn_calloc((size_t)g->tensors.n + 1, sizeof *l.met);
    l.live = hn_calloc((size_t)g->n_nodes + 1, sizeof *l.live);
    if (l.last == NULL || l.met == NULL || l.live == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "tables of graph %s", g->name);
        goto done;
    }
    find_lives(&l);
    for (int64_t i = 0; i < g->n_nodes; i++)
        if (g->node[i]->side) find_join(&l, i, window);
    set_waits(g);

done:
    hn_free(l.last);
    hn_free(l.met);
    hn_free(l.live);
    return st;
}

void hn_pass_one_stream(hn_graph *g)
{
    for (int64_t i = 0; i < g->n_nodes; i++) {
        hn_node *n = g->node[i];
        n->side = n->leaves_room = false;
        n->after = NULL;
    }
    g->side_end = NULL;
    g->n_marks = 0;
}

/* ---- at once ---- */

/* The nodes from i on of one operation that takes many at once, none of which needs another. */
static int64_t alike(const hn_graph *g, int64_t i)
{
    const hn_node *first = g->node[i];
    int64_t n = 1;
    if (hn_op(first->op)->run_many_cuda == NULL || first->side) return 1;
    for (; i + n < g->n_nodes; n++) {
        const hn_node *next = g->node[i + n];
        if (next->op != first->op || next->side || next->after || next->needs) return n;
        if (next->ahead != first->ahead || (first->ahead && first->ahead_mark >= 0)) return n;
        for (int64_t k = i; k < i + n; k++)
            if (conflict(g->node[k], next)) return n;
    }
    return n;
}

void hn_pass_batches(hn_graph *g)
{
    int64_t n;
    for (int64_t i = 0; i < g->n_nodes; i += n) {
        n = alike(g, i);
        g->node[i]->at_once = n;
    }
}
