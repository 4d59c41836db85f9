/* Byte-pair encoding of one word.
 *
 * Symbols form a doubly linked list over the word's bytes; a heap holds every pair of neighbours
 * that can merge, lowest rank first, leftmost first among equals. A merge does not look for the
 * heap entries it makes stale: symbols only grow, so an entry is stale when one of its two symbols
 * is gone or their bytes together are no longer what they were. Each merge pushes at most two
 * entries: O(n log n), also for a word that is a whole document.
 *
 * SentencePiece's documents are one word, and a heap as long as a document misses the cache at
 * every step (0.6 MB/s on Mistral's vocabulary, 1.1 MB of English). Where no piece has the space
 * mark behind anything but another mark, no merge crosses such a place, so the word is merged part
 * by part with the same result (4 MB/s). */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

static bool before(const hn_tok_pair *a, const hn_tok_pair *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->left < b->left;
}

static hn_status heap_push(hn_tok_work *w, hn_tok_pair p)
{
    HN_TRY(hn_grow(&w->heap, &w->cap_heap, w->n_heap, sizeof *w->heap));
    int64_t i = w->n_heap++;
    for (; i > 0 && before(&p, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = p;
    return HN_OK;
}

static hn_tok_pair heap_pop(hn_tok_work *w)
{
    const hn_tok_pair top = w->heap[0], last = w->heap[--w->n_heap];
    int64_t i = 0;
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= w->n_heap) break;
        if (child + 1 < w->n_heap && before(&w->heap[child + 1], &w->heap[child])) child++;
        if (!before(&w->heap[child], &last)) break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return top;
}

static hn_status add_symbol(hn_tok_work *w, size_t at, size_t n, int32_t id, bool frozen)
{
    const int64_t i = w->n_symbols;
    HN_TRY(hn_grow(&w->symbol, &w->cap_symbols, i, sizeof *w->symbol));
    w->symbol[i] = (hn_tok_symbol){
        .at = at, .n = (uint32_t)n, .id = id, .prev = (int32_t)i - 1, .next = -1, .frozen = frozen};
    if (i > 0) w->symbol[i - 1].next = (int32_t)i;
    w->n_symbols = i + 1;
    return HN_OK;
}

/* Pushes the pair (left, its next) if it can merge. */
static hn_status offer(const hn_tokenizer *t, hn_tok_work *w, const char *s, int32_t left)
{
    if (left < 0 || w->symbol[left].next < 0) return HN_OK;
    const hn_tok_symbol *a = &w->symbol[left], *b = &w->symbol[a->next];
    hn_tok_pair p = {.left = left, .n = a->n + b->n};
    if (t->model == HN_MODEL_BPE) {
        if (!hn_merges_find(&t->merges, a->id, b->id, &p.rank, &p.id)) return HN_OK;
    } else {
        if (a->frozen || b->frozen) return HN_OK;
        p.id = hn_vocab_find(&t->vocab, s + a->at, p.n);
        if (p.id < 0) return HN_OK;
        p.rank = t->vocab.piece[p.id].rank;
        if (w->unused_cut != NULL) w->unused_cut[p.id] = (int32_t)a->n;
    }
    return heap_push(w, p);
}

static hn_status merge_all(const hn_tokenizer *t, hn_tok_work *w, const char *s)
{
    w->n_heap = 0;
    for (int64_t i = 0; i + 1 < w->n_symbols; i++) HN_TRY(offer(t, w, s, (int32_t)i));
    while (w->n_heap > 0) {
        const hn_tok_pair p = heap_pop(w);
        hn_tok_symbol *a = &w->symbol[p.left];
        if (a->n == 0 || a->next < 0) continue;
        hn_tok_symbol *b = &w->symbol[a->next];
        if (a->n + b->n != p.n) continue;
        a->n = p.n;
        a->id = p.id;
        a->next = b->next;
        if (b->next >= 0) w->symbol[b->next].prev = p.left;
        b->n = 0;
        HN_TRY(offer(t, w, s, a->prev));
        HN_TRY(offer(t, w, s, p.left));
    }
    return HN_OK;
}

void hn_bpe_find_mark(hn_tokenizer *t)
{
    const bool sp = t->sp.n_space > 0;
    const char *mark = sp ? t->sp.space : "\xe2\x96\x81";
    const size_t n = sp ? t->sp.n_space : 3;
    const hn_tok_pattern find = {.literal = (char *)(size_t)mark, .n = n};
    for (int64_t i = 0; i < t->vocab.n_ids; i++) {
        size_t len = 0, at = 0, end = 0;
        const char *s = hn_vocab_text(&t->vocab, (int32_t)i, &len);
        bool found = s != NULL, joined = true; /* joined: a mark behind marks only */
        for (size_t from = 0; found && joined; from = end) {
            if (hn_pattern_find(&find, NULL, s, len, from, &found, &at, &end) != HN_OK) return;
            joined = !found || at == from;
        }
        if (!joined) return;
    }
    memcpy(t->mark, mark, n);
    t->n_mark = n;
}

/* Whether the word can be cut before the character at s[i]. */
static bool is_cut(const hn_tokenizer *t, const char *s, size_t n, size_t i)
{
    const size_t m = t->n_mark;
    if (m == 0 || i == 0 || n - i < m || memcmp(s + i, t->mark, m) != 0) return false;
    return i < m || memcmp(s + i - m, t->mark, m) != 0;
}

/* Merges the symbols at hand, gives out their ids and starts a new part. */
static hn_status flush_ids(const hn_tokenizer *t, hn_tok_work *w, const char *s, hn_tokens *out)
{
    HN_TRY(merge_all(t, w, s));
    for (int64_t i = w->n_symbols > 0 ? 0 : -1; i >= 0; i = w->symbol[i].next)
        HN_TRY(hn_tokens_push(out, w->symbol[i].id));
    w->n_symbols = 0;
    return HN_OK;
}

hn_status hn_bpe_encode(const hn_tokenizer *t, hn_tok_work *w, const char *s, size_t n,
                        hn_tokens *out)
{
    if (t->ignore_merges) {
        const int32_t id = hn_vocab_find(&t->vocab, s, n);
        if (id >= 0) return hn_tokens_push(out, id);
    }
    w->n_symbols = 0;
    bool after_unk = false; /* the last symbol is the unknown token */
    for (size_t i = 0, len; i < n; i += len) {
        int32_t c;
        len = hn_utf8_next(s + i, n - i, &c);
        const int32_t id = hn_vocab_find(&t->vocab, s + i, len);
        bool bytes = id < 0 && t->byte_fallback;
        for (size_t k = 0; bytes && k < len; k++)
            bytes = t->vocab.byte_id[(unsigned char)s[i + k]] >= 0;
        if (id >= 0) {
            if (is_cut(t, s, n, i)) HN_TRY(flush_ids(t, w, s, out));
            HN_TRY(add_symbol(w, i, len, id, false));
        } else if (bytes) {
            for (size_t k = 0; k < len; k++)
                HN_TRY(add_symbol(w, i + k, 1, t->vocab.byte_id[(unsigned char)s[i + k]], false));
        } else if (t->unk_model >= 0) {
            if (after_unk && t->fuse_unk)
                w->symbol[w->n_symbols - 1].n += (uint32_t)len;
            else
                HN_TRY(add_symbol(w, i, len, t->unk_model, false));
        }
        after_unk = id < 0 && !bytes && t->unk_model >= 0;
    }
    return flush_ids(t, w, s, out);
}

/* Pushes a piece of SentencePiece: bytes or the unknown token (one for a run) where there is none,
 * and an unused piece as the two halves it was merged from. */
static hn_status push_piece(const hn_tokenizer *t, hn_tok_work *w, const char *s, size_t n,
                            int32_t id, hn_tokens *out)
{
    if (id >= 0 && t->vocab.piece[id].type == HN_PIECE_UNUSED && w->unused_cut != NULL &&
        w->unused_cut[id] > 0) {
        const size_t cut = (size_t)w->unused_cut[id];
        HN_TRY(push_piece(t, w, s, cut, hn_vocab_find(&t->vocab, s, cut), out));
        return push_piece(t, w, s + cut, n - cut, hn_vocab_find(&t->vocab, s + cut, n - cut), out);
    }
    if (id < 0 && t->byte_fallback) {
        for (size_t k = 0; k < n; k++)
            HN_TRY(hn_tokens_push(out, t->vocab.byte_id[(unsigned char)s[k]]));
        w->last_unk = false;
        return HN_OK;
    }
    const bool unk = id < 0;
    if (unk && w->last_unk) return HN_OK;
    w->last_unk = unk;
    return hn_tokens_push(out, unk ? t->unk_model : id);
}

static hn_status flush_pieces(const hn_tokenizer *t, hn_tok_work *w, const char *s, hn_tokens *out)
{
    if (t->model == HN_MODEL_PIECE_BPE) HN_TRY(merge_all(t, w, s));
    for (int64_t i = w->n_symbols > 0 ? 0 : -1; i >= 0; i = w->symbol[i].next) {
        const hn_tok_symbol *p = &w->symbol[i];
        HN_TRY(push_piece(t, w, s + p->at, p->n, p->id, out));
    }
    w->n_symbols = 0;
    return HN_OK;
}

hn_status hn_piece_encode(const hn_tokenizer *t, hn_tok_work *w, const char *s, size_t n,
                          hn_tokens *out)
{
    w->n_symbols = 0;
    w->last_unk = false;
    if (t->vocab.has_unused && w->unused_cut == NULL) {
        w->unused_cut = hn_calloc((size_t)t->vocab.n_ids, sizeof *w->unused_cut);
        if (w->unused_cut == NULL) return HN_FAIL(HN_ERR_MEMORY, "unused pieces");
    }
    for (size_t i = 0, len; i < n; i += len) {
        int32_t c, id = hn_matcher_at(&t->sp.user, s + i, n - i, &len);
        const bool frozen = id >= 0;
        if (!frozen) {
            len = hn_utf8_next(s + i, n - i, &c);
            id = hn_vocab_find(&t->vocab, s + i, len);
        }
        if (is_cut(t, s, n, i)) HN_TRY(flush_pieces(t, w, s, out));
        HN_TRY(add_symbol(w, i, len, id, frozen));
    }
    return flush_pieces(t, w, s, out);
}
