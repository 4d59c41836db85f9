/* Unigram: the cut into pieces with the best sum of scores (Viterbi over the bytes).
 *
 * Unknown characters cost the smallest score minus 10. SentencePiece sums in single precision and
 * knows user-defined and unused pieces; tokenizer.json's model sums in double. Both take the first
 * of equally good cuts, shorter pieces being tried first at each place. */
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/tokenizer_impl.h"

static const double unk_penalty = 10;

static double piece_score(const hn_tokenizer *t, int32_t id, size_t n)
{
    const hn_tok_piece *p = &t->vocab.piece[id];
    if (t->model == HN_MODEL_SP_UNIGRAM && p->type == HN_PIECE_USER)
        return (double)(float)((double)n * t->vocab.max_score - 0.1);
    return p->score;
}

static void relax(const hn_tokenizer *t, hn_tok_node *node, size_t from, size_t to, int32_t id,
                  double score)
{
    double sum = node[from].best + score;
    if (t->model == HN_MODEL_SP_UNIGRAM) sum = (double)(float)sum;
    if (node[to].id >= -1 && sum <= node[to].best) return;
    node[to] = (hn_tok_node){.best = sum, .from = from, .id = id};
}

/* All pieces that begin at `from`; single: one of them is just the first character. */
static void extend(const hn_tokenizer *t, hn_tok_node *node, const char *s, size_t n, size_t from)
{
    const double unk = t->vocab.min_score - unk_penalty;
    size_t first = 0;
    bool single = false;
    for (size_t to = from; to < n && to - from < t->vocab.max_n;) {
        int32_t c;
        to += hn_utf8_next(s + to, n - to, &c);
        if (first == 0) first = to;
        const int32_t id = hn_vocab_find(&t->vocab, s + from, to - from);
        if (id < 0 || t->vocab.piece[id].type == HN_PIECE_UNUSED) continue;
        relax(t, node, from, to, id, piece_score(t, id, to - from));
        single = single || to == first;
    }
    if (first == 0) { /* an empty vocabulary has no longest piece */
        int32_t c;
        first = from + hn_utf8_next(s + from, n - from, &c);
    }
    if (!single) relax(t, node, from, first, -1, unk);
}

static hn_status push_unknown(const hn_tokenizer *t, hn_tok_work *w, const char *s, size_t n,
                              hn_tokens *out)
{
    bool bytes = t->byte_fallback;
    for (size_t k = 0; bytes && k < n; k++) bytes = t->vocab.byte_id[(unsigned char)s[k]] >= 0;
    for (size_t k = 0; bytes && k < n; k++)
        HN_TRY(hn_tokens_push(out, t->vocab.byte_id[(unsigned char)s[k]]));
    const bool fused = w->last_unk;
    w->last_unk = !bytes;
    return bytes || fused ? HN_OK : hn_tokens_push(out, t->unk_model);
}

hn_status hn_unigram_encode(const hn_tokenizer *t, hn_tok_work *w, const char *s, size_t n,
                            hn_tokens *out)
{
    if ((int64_t)n + 1 > w->cap_nodes) {
        hn_free(w->node);
        w->cap_nodes = 0;
        w->node = hn_malloc((n + 1) * sizeof *w->node);
        if (w->node == NULL) return HN_FAIL(HN_ERR_MEMORY, "lattice of %zu bytes", n);
        w->cap_nodes = (int64_t)n + 1;
    }
    hn_tok_node *node = w->node;
    for (size_t i = 0; i <= n; i++) node[i] = (hn_tok_node){.id = -2}; /* not reached */
    node[0].id = -1;
    for (size_t i = 0, len; i < n; i += len) {
        int32_t c;
        len = hn_utf8_next(s + i, n - i, &c);
        if (node[i].id >= -1) extend(t, node, s, n, i);
    }
    /* The best way back, turned round in place: `from` becomes the next place. */
    size_t to = n, next = n;
    while (to > 0) {
        const size_t from = node[to].from;
        node[to].from = next;
        next = to;
        to = from;
    }
    w->last_unk = false;
    for (size_t at = 0; at < n;) {
        const size_t end = next;
        if (node[end].id >= 0) {
            HN_TRY(hn_tokens_push(out, node[end].id));
            w->last_unk = false;
        } else {
            HN_TRY(push_unknown(t, w, s + at, end - at, out));
        }
        at = end;
        next = node[end].from;
    }
    return HN_OK;
}
