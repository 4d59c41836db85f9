/* The vocabulary: pieces by id, ids by piece, and the table of merges. Both tables are open
 * addressing with at most half the slots in use. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

static uint64_t hash_bytes(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

static bool same(const hn_tok_vocab *v, int32_t id, const char *s, size_t n)
{
    const hn_tok_piece *p = &v->piece[id];
    return p->n == n && memcmp(v->bytes.s + p->at, s, n) == 0;
}

static int32_t lookup(const hn_tok_vocab *v, const hn_tok_table *t, const char *s, size_t n)
{
    if (t->n_slots == 0) return -1;
    const uint64_t mask = (uint64_t)t->n_slots - 1;
    for (uint64_t i = hash_bytes(s, n) & mask;; i = (i + 1) & mask) {
        const int32_t id = t->slot[i];
        if (id < 0 || same(v, id, s, n)) return id;
    }
}

int32_t hn_vocab_find(const hn_tok_vocab *v, const char *s, size_t n)
{
    return n <= v->max_n ? lookup(v, &v->model, s, n) : -1;
}

int32_t hn_vocab_find_any(const hn_tok_vocab *v, const char *s, size_t n)
{
    const int32_t id = hn_vocab_find(v, s, n);
    return id >= 0 ? id : lookup(v, &v->others, s, n);
}

const char *hn_vocab_text(const hn_tok_vocab *v, int32_t id, size_t *n)
{
    if (id < 0 || id >= v->n_ids || v->piece[id].at < 0) return NULL;
    if (n != NULL) *n = v->piece[id].n;
    return v->bytes.s + v->piece[id].at;
}

static void insert(const hn_tok_vocab *v, hn_tok_table *t, int32_t id)
{
    const uint64_t mask = (uint64_t)t->n_slots - 1;
    uint64_t i = hash_bytes(v->bytes.s + v->piece[id].at, v->piece[id].n) & mask;
    while (t->slot[i] >= 0) i = (i + 1) & mask;
    t->slot[i] = id;
}

static hn_status make_room(const hn_tok_vocab *v, hn_tok_table *t)
{
    if (2 * (t->n + 1) <= t->n_slots) return HN_OK;
    hn_tok_table wider = {.n_slots = t->n_slots == 0 ? 256 : t->n_slots * 2, .n = t->n};
    wider.slot = hn_malloc((size_t)wider.n_slots * sizeof *wider.slot);
    if (wider.slot == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "table of %lld pieces", (long long)wider.n_slots);
    memset(wider.slot, 0xff, (size_t)wider.n_slots * sizeof *wider.slot); /* -1 */
    for (int64_t i = 0; i < t->n_slots; i++)
        if (t->slot[i] >= 0) insert(v, &wider, t->slot[i]);
    hn_free(t->slot);
    *t = wider;
    return HN_OK;
}

void hn_vocab_limit(hn_tok_vocab *v, size_t n_file_bytes)
{
    v->id_limit = n_file_bytes > HN_TOK_MAX_IDS ? HN_TOK_MAX_IDS : (int64_t)n_file_bytes;
    if (v->id_limit < 65536) v->id_limit = 65536;
}

hn_status hn_vocab_set(hn_tok_vocab *v, int64_t id, const char *s, size_t n, int type,
                       bool of_model, const char *where)
{
    const int64_t limit = v->id_limit > 0 ? v->id_limit : HN_TOK_MAX_IDS;
    if (id < 0 || id >= limit)
        return HN_FAIL(HN_ERR_FORMAT, "%s: token id %lld is outside of 0..%lld", where,
                       (long long)id, (long long)limit - 1);
    if (n > HN_TOK_MAX_TEXT)
        return HN_FAIL(HN_ERR_FORMAT, "%s: token %lld has %zu bytes", where, (long long)id, n);
    if (!hn_utf8_valid(s, n))
        return HN_FAIL(HN_ERR_FORMAT, "%s: token %lld is not valid UTF-8", where, (long long)id);
    if (id < v->n_ids && v->piece[id].at >= 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: token id %lld is used twice: '%.40s' and '%.*s'", where,
                       (long long)id, v->bytes.s + v->piece[id].at, n < 40 ? (int)n : 40, s);
    hn_tok_table *table = of_model ? &v->model : &v->others;
    const int32_t twin = lookup(v, table, s, n);
    if (of_model && twin >= 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: tokens %d and %lld have the same text '%.*s'", where,
                       twin, (long long)id, n < 40 ? (int)n : 40, s);
    while (v->n_ids <= id) {
        HN_TRY(hn_grow(&v->piece, &v->cap_ids, v->n_ids, sizeof *v->piece));
        v->piece[v->n_ids++] = (hn_tok_piece){.at = -1};
    }
    HN_TRY(make_room(v, table));
    const size_t at = v->bytes.n;
    HN_TRY(hn_text_append(&v->bytes, s, n));
    HN_TRY(hn_text_append(&v->bytes, "", 1));
    v->piece[id] = (hn_tok_piece){.at = (int64_t)at,
                                  .n = (uint32_t)n,
                                  .shown_at = (int64_t)at,
                                  .shown_n = (uint32_t)n,
                                  .added = -1,
                                  .type = (uint8_t)type};
    v->n_pieces++;
    if (twin >= 0) return HN_OK; /* the first of equal names is found */
    insert(v, table, (int32_t)id);
    table->n++;
    if (of_model && n > v->max_n) v->max_n = (uint32_t)n;
    return HN_OK;
}

void hn_vocab_bytes(hn_tok_vocab *v, bool typed)
{
    v->all_bytes = true;
    for (int b = 0; b < 256; b++) v->byte_id[b] = -1;
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        if (!typed) v->byte_id[b] = hn_vocab_find(v, name, 6);
    }
    for (int64_t i = 0; typed && i < v->n_ids; i++) {
        const hn_tok_piece *p = &v->piece[i];
        if (p->at < 0 || p->type != HN_PIECE_BYTE || p->n != 6) continue;
        const char *s = v->bytes.s + p->at;
        char *end;
        if (s[0] != '<' || s[1] != '0' || s[2] != 'x' || s[5] != '>') continue;
        const unsigned long b = strtoul(s + 3, &end, 16);
        if (end == s + 5 && b < 256) v->byte_id[b] = (int32_t)i;
    }
    for (int b = 0; b < 256; b++) v->all_bytes = v->all_bytes && v->byte_id[b] >= 0;
}

typedef struct {
    double score;
    int32_t id;
} scored;

static int by_score(const void *a, const void *b)
{
    const double x = ((const scored *)a)->score, y = ((const scored *)b)->score;
    return x > y ? -1 : x < y;
}

hn_status hn_vocab_rank(hn_tok_vocab *v, const char *where)
{
    scored *s = hn_malloc((size_t)v->n_ids * sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "scores of %lld pieces", (long long)v->n_ids);
    hn_status st = HN_OK;
    bool any = false;
    for (int64_t i = 0; i < v->n_ids; i++) {
        const hn_tok_piece *p = &v->piece[i];
        s[i] = (scored){.score = p->at < 0 ? 0 : p->score, .id = (int32_t)i};
        if (!isfinite(s[i].score)) {
            st = HN_FAIL(HN_ERR_FORMAT, "%s: the score of token %lld is not finite", where,
                         (long long)i);
            goto done;
        }
        v->has_unused = v->has_unused || (p->at >= 0 && p->type == HN_PIECE_UNUSED);
        if (p->at < 0 || p->type != HN_PIECE_NORMAL) continue;
        if (!any || p->score < v->min_score) v->min_score = p->score;
        if (!any || p->score > v->max_score) v->max_score = p->score;
        any = true;
    }
    qsort(s, (size_t)v->n_ids, sizeof *s, by_score);
    uint32_t rank = 0;
    for (int64_t i = 0; i < v->n_ids; i++) {
        if (i > 0 && s[i].score < s[i - 1].score) rank++;
        v->piece[s[i].id].rank = rank;
    }

done:
    hn_free(s);
    return st;
}

void hn_vocab_free(hn_tok_vocab *v)
{
    hn_text_free(&v->bytes);
    hn_free(v->piece);
    hn_free(v->model.slot);
    hn_free(v->others.slot);
    *v = (hn_tok_vocab){0};
}

static uint64_t merge_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static uint64_t hash_pair(uint64_t key)
{
    key *= 0x9e3779b97f4a7c15u;
    return key ^ key >> 32;
}

hn_status hn_merges_reserve(hn_tok_merges *m, int64_t n)
{
    int64_t n_slots = 16;
    if (n > INT32_MAX) return HN_FAIL(HN_ERR_FORMAT, "%lld merges", (long long)n);
    while (n_slots < 2 * n) n_slots *= 2;
    m->key = hn_malloc((size_t)n_slots * sizeof *m->key);
    m->rank = hn_malloc((size_t)n_slots * sizeof *m->rank);
    m->id = hn_malloc((size_t)n_slots * sizeof *m->id);
    m->n_slots = n_slots;
    if (m->key == NULL || m->rank == NULL || m->id == NULL) {
        hn_merges_free(m);
        return HN_FAIL(HN_ERR_MEMORY, "table of %lld merges", (long long)n);
    }
    memset(m->key, 0xff, (size_t)n_slots * sizeof *m->key);
    return HN_OK;
}

void hn_merges_add(hn_tok_merges *m, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    const uint64_t key = merge_key(left, right), mask = (uint64_t)m->n_slots - 1;
    uint64_t i = hash_pair(key) & mask;
    while (m->key[i] != UINT64_MAX && m->key[i] != key) i = (i + 1) & mask;
    m->n += m->key[i] == UINT64_MAX;
    m->key[i] = key;
    m->rank[i] = rank;
    m->id[i] = id;
}

bool hn_merges_find(const hn_tok_merges *m, int32_t left, int32_t right, uint32_t *rank,
                    int32_t *id)
{
    if (m->n == 0) return false;
    const uint64_t key = merge_key(left, right), mask = (uint64_t)m->n_slots - 1;
    for (uint64_t i = hash_pair(key) & mask; m->key[i] != UINT64_MAX; i = (i + 1) & mask)
        if (m->key[i] == key) {
            *rank = m->rank[i];
            *id = m->id[i];
            return true;
        }
    return false;
}

void hn_merges_free(hn_tok_merges *m)
{
    hn_free(m->key);
    hn_free(m->rank);
    hn_free(m->id);
    *m = (hn_tok_merges){0};
}
