#include "runtime/data/packing.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/rng.h"
#include "runtime/data/data_util.h"

/* More candidates fill rows hardly better; insertion into the sorted window stays cheap. */
enum { WINDOW = 256 };

void hn_packing_free(hn_packing *p)
{
    if (p == NULL) return;
    hn_free(p->piece);
    hn_free(p->row_first);
    *p = (hn_packing){0};
}

/* ---- pieces ---- */

typedef struct {
    hn_piece *piece;
    int64_t n, cap;
} piece_list;

static hn_status add_piece(piece_list *l, const hn_token_cache *t, int64_t at, int64_t n,
                           hn_packing_stats *s)
{
    hn_piece p = {.at = at, .n = (int32_t)n};
    for (int64_t i = at + 1; i <= at + n; i++) p.n_trained += t->word[i] >= 0;
    if (p.n_trained == 0) {
        s->dropped++;
        return HN_OK;
    }
    HN_TRY(hn_reserve(&l->piece, &l->cap, l->n + 1, sizeof *l->piece));
    l->piece[l->n++] = p;
    s->inputs += n;
    s->trained += p.n_trained;
    return HN_OK;
}

static hn_status cut_samples(const hn_token_cache *t, const hn_packing_options *o, piece_list *l,
                             hn_packing_stats *s)
{
    for (int64_t i = 0; i < t->n_samples; i++) {
        const int64_t end = t->offset[i + 1] - 1; /* behind the last input */
        int64_t at = t->offset[i];
        s->dropped += at == end;
        s->truncated += !o->continues && end - at > o->seq_len;
        while (at < end) {
            const int64_t n = end - at < o->seq_len ? end - at : o->seq_len;
            HN_TRY(add_piece(l, t, at, n, s));
            if (!o->continues) break;
            at += n;
        }
    }
    return HN_OK;
}

static void shuffle(piece_list *l, uint64_t seed)
{
    const hn_rng rng = hn_rng_make(seed, 0, hn_hash_name("data.packing"));
    for (int64_t i = l->n - 1; i > 0; i--) {
        const uint64_t k = hn_rng_below(rng, (uint64_t)i, 0, (uint64_t)i + 1);
        const hn_piece kept = l->piece[i];
        l->piece[i] = l->piece[k];
        l->piece[k] = kept;
    }
}

/* ---- rows ---- */

/* The row being filled, behind the rows that are done. */
typedef struct {
    const hn_packing_options *o;
    hn_packing *out; /* piece has room for all */
    int64_t row_cap, n_pieces, n_rows;
    int64_t seqs, room; /* of the row being filled */
} row_maker;

/* A row may not end with padding that has no sequence left for it. */
static bool fits(const row_maker *m, int64_t n)
{
    return n <= m->room && (m->seqs + 2 <= m->o->seqs_per_row ||
                            (m->seqs + 1 <= m->o->seqs_per_row && n == m->room));
}

static void put(row_maker *m, hn_piece p)
{
    m->out->piece[m->n_pieces++] = p;
    m->seqs++;
    m->room -= p.n;
}

static hn_status close_row(row_maker *m)
{
    if (m->seqs == 0) return HN_OK;
    const int64_t seqs = m->seqs + (m->room > 0);
    if (seqs > m->out->stats.most_seqs) m->out->stats.most_seqs = seqs;
    if (m->seqs > m->out->stats.most_pieces) m->out->stats.most_pieces = m->seqs;
    HN_TRY(hn_reserve(&m->out->row_first, &m->row_cap, m->n_rows + 2, sizeof(int64_t)));
    m->out->row_first[++m->n_rows] = m->n_pieces;
    m->seqs = 0;
    m->room = m->o->seq_len;
    return HN_OK;
}

static hn_status pack_in_order(row_maker *m, const piece_list *l)
{
    for (int64_t i = 0; i < l->n; i++) {
        if (!m->o->packing || !fits(m, l->piece[i].n)) HN_TRY(close_row(m));
        put(m, l->piece[i]);
    }
    return close_row(m);
}

typedef struct {
    hn_piece piece[WINDOW]; /* by length, shortest first */
    int n;
} window;

/* Number of pieces with at most `limit` inputs. */
static int count_up_to(const window *w, int64_t limit)
{
    int lo = 0, hi = w->n;
    while (lo < hi) {
        const int mid = (lo + hi) / 2;
        if (w->piece[mid].n <= limit)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void window_add(window *w, hn_piece p)
{
    const int at = count_up_to(w, p.n);
    memmove(&w->piece[at + 1], &w->piece[at], (size_t)(w->n - at) * sizeof p);
    w->piece[at] = p;
    w->n++;
}

static hn_piece window_take(window *w, int at)
{
    const hn_piece p = w->piece[at];
    w->n--;
    memmove(&w->piece[at], &w->piece[at + 1], (size_t)(w->n - at) * sizeof p);
    return p;
}

static hn_status pack_best_fit(row_maker *m, const piece_list *l)
{
    window w = {.n = 0};
    for (int64_t next = 0; next < l->n || w.n > 0;) {
        while (next < l->n && w.n < WINDOW) window_add(&w, l->piece[next++]);
        const int best = count_up_to(&w, m->room) - 1;
        if (best >= 0 && fits(m, w.piece[best].n))
            put(m, window_take(&w, best));
        else
            HN_TRY(close_row(m));
    }
    return close_row(m);
}

static hn_status make_rows(const hn_packing_options *o, const piece_list *l, hn_packing *p)
{
    row_maker m = {.o = o, .out = p, .room = o->seq_len};
    p->piece = hn_malloc((size_t)l->n * sizeof *p->piece);
    if (p->piece == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " pieces of samples", l->n);
    HN_TRY(hn_reserve(&p->row_first, &m.row_cap, 1, sizeof *p->row_first));
    p->row_first[0] = 0;
    HN_TRY(o->packing && o->shuffle ? pack_best_fit(&m, l) : pack_in_order(&m, l));
    p->stats.pieces = m.n_pieces;
    p->stats.rows = m.n_rows;
    return HN_OK;
}

hn_status hn_packing_make(const hn_token_cache *tokens, const hn_packing_options *o,
                          hn_packing *out)
{
    hn_status st = HN_OK;
    hn_packing p = {.stats.samples = tokens->n_samples};
    piece_list l = {0};
    if (o->seq_len < 1 || o->seq_len > INT32_MAX)
        return HN_FAIL(HN_ERR_ARG, "seq_len %" PRId64 ", allowed 1..2147483647", o->seq_len);
    if (o->seqs_per_row < 2)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " sequences a row: at least 2, a sample and padding",
                       o->seqs_per_row);
    HN_TRY_GOTO(st, cut_samples(tokens, o, &l, &p.stats), done);
    if (l.n == 0) {
        st = HN_FAIL(HN_ERR_FORMAT,
                     "%s: no trained tokens: none of %" PRId64
                     " samples has one among its first %" PRId64 " tokens (seq_len)",
                     o->where ? o->where : "the data", tokens->n_samples, o->seq_len + 1);
        goto done;
    }
    if (o->packing && o->shuffle) shuffle(&l, o->seed);
    HN_TRY_GOTO(st, make_rows(o, &l, &p), done);
    *out = p;
    p = (hn_packing){0};

done:
    hn_packing_free(&p);
    hn_free(l.piece);
    return st;
}
