/* Ranges of which a rank has a share: where they lie, and where graphs gather them (shards.h). */
#include "runtime/graph/shards.h"

#include <inttypes.h>
#include <stdio.h>

#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/graph/graph_impl.h"

enum { PLACES = 2 };

/* Shares, and so the begin of every range, in bytes: 64 elements of the widest type. */
enum { SHARE_ALIGN = 256 };

/* ---- recording ---- */

hn_status hn_program_share(hn_program *p, int ranks, int rank)
{
    if (ranks < 2 || rank < 0 || rank >= ranks || p->n_shards > 0)
        return HN_FAIL(HN_ERR_ARG, "rank %d of %d that share frozen values", rank, ranks);
    p->share_ranks = ranks;
    p->share_rank = rank;
    return HN_OK;
}

hn_status hn_shard_new(hn_program *p, const char *name, hn_shard **out)
{
    if (p->share_ranks < 2) return HN_FAIL(HN_ERR_ARG, "%s: hn_program_share comes first", name);
    hn_shard *s = hn_arena_take(&p->arena, sizeof *s);
    char *copy = hn_arena_text(&p->arena, "%s", name);
    if (s == NULL || copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", name);
    HN_TRY(hn_grow(&p->shard, &p->cap_shards, p->n_shards, sizeof(hn_shard *)));
    *s = (hn_shard){.program = p, .name = copy, .number = p->n_shards};
    p->shard[p->n_shards++] = s;
    *out = s;
    return HN_OK;
}

hn_status hn_shard_tensor(hn_shard *s, const char *name, const hn_type *type, hn_tensor **out)
{
    HN_TRY(hn_program_tensor_at(s->program, HN_MEM_GATHERED, name, type, &s->bytes, out));
    (*out)->shard = s;
    return HN_OK;
}

hn_shard *hn_shard_of(const hn_tensor *t)
{
    while (t->base != NULL) t = t->base;
    return t->shard;
}

hn_status hn_shard_store(hn_shard *s, hn_tensor *from, hn_tensor *to)
{
    if (hn_shard_of(to) != s)
        return HN_FAIL(HN_ERR_ARG, "%s does not lie in %s", to->name, s->name);
    HN_TRY(hn_list_add(&s->from, from));
    return hn_list_add(&s->to, to);
}

int hn_program_share_ranks(const hn_program *p) { return p->share_ranks > 1 ? p->share_ranks : 1; }

void hn_shards_free(hn_program *p)
{
    for (int64_t i = 0; i < p->n_shards; i++) {
        hn_free(p->shard[i]->from.item);
        hn_free(p->shard[i]->to.item);
    }
    hn_free(p->shard);
}

/* ---- where they lie ---- */

static size_t share_of(const hn_shard *s)
{
    const size_t ranks = (size_t)s->program->share_ranks, each = (s->bytes + ranks - 1) / ranks;
    return (each + SHARE_ALIGN - 1) / SHARE_ALIGN * SHARE_ALIGN;
}

/* The share of this rank, and the whole in its place. */
static hn_status place(hn_shard *s, size_t at)
{
    hn_program *p = s->program;
    const hn_type own = hn_type_1d(HN_U8, (int64_t)s->share);
    const hn_type whole = hn_type_1d(HN_U8, (int64_t)s->share * p->share_ranks);
    const char *name = hn_arena_text(&p->arena, "share:%s", s->name);
    const char *all = hn_arena_text(&p->arena, "gathered:%s", s->name);
    if (name == NULL || all == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", s->name);
    HN_TRY(hn_program_tensor(p, HN_MEM_WEIGHT, name, &own, &s->own));
    HN_TRY(hn_program_tensor_at(p, HN_MEM_GATHERED, all, &whole, &at, &s->whole));
    s->whole->shard = s;
    return HN_OK;
}

hn_status hn_shards_place(hn_program *p)
{
    size_t widest = 0;
    const int64_t places = p->n_shards < PLACES ? p->n_shards : PLACES;
    for (int64_t i = 0; i < p->n_shards; i++) {
        hn_shard *s = p->shard[i];
        if (s->bytes == 0) return HN_FAIL(HN_ERR_ARG, "%s: nothing in it to share", s->name);
        s->share = share_of(s);
        const size_t bytes = s->share * (size_t)p->share_ranks;
        if (bytes > widest) widest = bytes;
    }
    for (int64_t i = 0; i < p->class_list[HN_MEM_GATHERED].n; i++) {
        hn_tensor *t = p->class_list[HN_MEM_GATHERED].item[i];
        if (t->base == NULL) t->offset += (size_t)(t->shard->number % PLACES) * widest;
    }
    for (int64_t i = 0; i < p->n_shards; i++)
        HN_TRY(place(p->shard[i], (size_t)(i % PLACES) * widest));
    p->class_bytes[HN_MEM_GATHERED] = (size_t)places * widest;
    return HN_OK;
}

size_t hn_shard_offset(const hn_shard *s, const hn_tensor *t)
{
    size_t at = t->offset;
    for (; t->base != NULL; t = t->base) at += t->base->offset;
    return at - s->whole->offset;
}

void hn_shard_clip(const hn_shard *s, size_t *first, size_t *end)
{
    const size_t begin = s->share * (size_t)s->program->share_rank;
    if (*first < begin) *first = begin;
    if (*end > begin + s->share) *end = begin + s->share;
    if (*end < *first) *end = *first;
}

void hn_tensor_own_rows(const hn_tensor *t, int64_t *first, int64_t *rows)
{
    const hn_shard *s = hn_shard_of(t);
    *first = 0;
    *rows = hn_type_rows(&t->type);
    if (s == NULL) return;
    const size_t size = hn_dtype_size(t->type.dtype), at = hn_shard_offset(s, t);
    const size_t pitch = (size_t)hn_type_ld(&t->type) * size;
    size_t begin = at, end = at + (size_t)*rows * pitch;
    hn_shard_clip(s, &begin, &end);
    *first = (int64_t)((begin - at) / pitch);
    *rows = end == begin ? 0 : (int64_t)((end - at + pitch - 1) / pitch) - *first;
}

/* ---- where graphs gather ---- */

static hn_shard *shard_of(const hn_tensor *t) { return t ? hn_shard_of(t) : NULL; }

static hn_status append(hn_graph *g, hn_node *n)
{
    HN_TRY(hn_grow(&g->node, &g->cap_nodes, g->n_nodes, sizeof *g->node));
    g->node[g->n_nodes++] = n;
    return HN_OK;
}

/* In front of a node of backward, or of forward. */
static hn_status bring(hn_graph *g, const hn_shard *s, bool backward)
{
    const int64_t first = g->n_nodes;
    hn_tensor *const gather[] = {s->own, s->whole};
    HN_TRY(hn_emit(g, HN_OP_ALL_GATHER, s->name, gather, NULL, NULL));
    for (int64_t i = 0; i < s->to.n; i++) {
        hn_tensor *const store[] = {s->from.item[i], s->to.item[i]};
        HN_TRY(hn_emit(g, HN_OP_STORE, store[1]->name, store, NULL, NULL));
    }
    for (int64_t i = first; i < g->n_nodes; i++) {
        g->node[i]->brings = true;
        g->node[i]->backward = backward;
    }
    return HN_OK;
}

/* held: what the places hold in front of node n. */
static hn_status bring_for(hn_graph *g, const hn_node *n, const hn_shard *held[PLACES])
{
    for (int pass = 0; pass < 2; pass++)
        for (int k = 0; k < HN_MAX_IN + HN_MAX_OUT; k++) {
            const hn_shard *s = shard_of(k < HN_MAX_IN ? n->in[k] : n->out[k - HN_MAX_IN]);
            if (s == NULL || held[s->number % PLACES] == s) continue;
            if (pass == 1) /* what the node needs besides has taken its place */
                return HN_FAIL(HN_ERR_UNSUPPORTED, "%s (%s) reads %s beside another layer", n->name,
                               hn_op(n->op)->name, s->name);
            HN_TRY(bring(g, s, n->backward));
            held[s->number % PLACES] = s;
        }
    return HN_OK;
}

hn_status hn_pass_shards(hn_graph *g)
{
    const hn_shard *held[PLACES] = {NULL}; /* another graph may have run in between */
    hn_node **const node = g->node;
    const int64_t n = g->n_nodes;
    hn_status st = HN_OK;
    if (g->program->n_shards == 0) return HN_OK;
    g->node = NULL;
    g->n_nodes = g->cap_nodes = 0;
    for (int64_t i = 0; i < n && st == HN_OK; i++) {
        st = bring_for(g, node[i], held);
        if (st == HN_OK) st = append(g, node[i]);
    }
    hn_free(node);
    return st;
}

int64_t hn_graph_gathers(const hn_graph *g)
{
    int64_t n = 0;
    for (int64_t i = 0; i < g->n_nodes; i++)
        n += g->node[i]->op == HN_OP_ALL_GATHER && g->node[i]->brings;
    return n;
}

uint64_t hn_program_gathers_digest(const hn_program *p)
{
    uint64_t h = 0;
    char text[64];
    for (int64_t k = 0; k < p->n_graphs; k++)
        for (int64_t i = 0; i < p->graph[k]->n_nodes; i++) {
            const hn_node *n = p->graph[k]->node[i];
            if (n->op != HN_OP_ALL_GATHER || !n->brings) continue;
            snprintf(text, sizeof text, "%" PRIx64 " %" PRId64 " %" PRId64 " %" PRId64, h, k,
                     shard_of(n->in[1])->number, n->in[0]->type.dim[0]);
            h = hn_hash_name(text);
        }
    return h;
}
