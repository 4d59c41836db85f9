#include "runtime/data/loader.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/rng.h"
#include "runtime/data/data_util.h"
#include "runtime/data/row_order.h"

struct hn_loader {
    hn_loader_options o; /* max_seqs and world settled */
    const hn_token_cache *tokens;
    hn_packing packing;
    hn_row_order order;
};

/* ---- open ---- */

static hn_status settle(hn_loader_options *o, int64_t *seqs_per_row)
{
    if (o->world == 0) o->world = 1;
    if (o->world < 1 || o->rank < 0 || o->rank >= o->world)
        return HN_FAIL(HN_ERR_ARG, "rank %d of %d", o->rank, o->world);
    if (o->batch_rows < 1 || o->seq_len < 1 || o->seq_len > INT32_MAX / o->batch_rows)
        return HN_FAIL(HN_ERR_ARG,
                       "batch of %" PRId64 " rows of %" PRId64
                       " tokens: both at least 1, product below 2^31",
                       o->batch_rows, o->seq_len);
    if (o->max_seqs != 0 && o->max_seqs < 2 * o->batch_rows)
        return HN_FAIL(HN_ERR_ARG, "max_seqs %" PRId64 ": at least 2 a row, %" PRId64, o->max_seqs,
                       2 * o->batch_rows);
    if (o->pad_id < 0) return HN_FAIL(HN_ERR_ARG, "pad_id %d is no token", (int)o->pad_id);
    *seqs_per_row = o->max_seqs ? o->max_seqs / o->batch_rows : o->seq_len + 1;
    return HN_OK;
}

hn_status hn_loader_open(const hn_dataset *d, const hn_loader_options *o, hn_loader **out)
{
    hn_status st = HN_OK;
    int64_t seqs_per_row = 0;
    hn_loader *l = hn_calloc(1, sizeof *l);
    if (l == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a loader", sizeof *l);
    l->o = *o;
    l->tokens = hn_dataset_tokens(d);
    HN_TRY_GOTO(st, settle(&l->o, &seqs_per_row), done);
    const hn_packing_options p = {.seq_len = o->seq_len,
                                  .seqs_per_row = seqs_per_row,
                                  .packing = o->packing,
                                  .shuffle = o->shuffle,
                                  .continues = hn_dataset_continues(d),
                                  .seed = o->seed,
                                  .where = hn_dataset_name(d)};
    HN_TRY_GOTO(st, hn_packing_make(l->tokens, &p, &l->packing), done);
    if (l->o.max_seqs == 0) l->o.max_seqs = l->packing.stats.most_seqs * o->batch_rows;
    l->order = hn_row_order_make(o->seed, hn_hash_name("data.rows"), l->packing.stats.rows);
    *out = l;
    l = NULL;

done:
    hn_loader_free(l);
    return st;
}

void hn_loader_free(hn_loader *l)
{
    if (l == NULL) return;
    hn_packing_free(&l->packing);
    hn_free(l);
}

/* ---- filling ---- */

static void add_sequence(hn_batch *b, int64_t at, int64_t n)
{
    for (int64_t i = 0; i < n; i++) b->positions[at + i] = (int32_t)i;
    b->seq_offsets[b->n_seqs++] = (int32_t)at;
}

static void fill_piece(const hn_loader *l, const hn_piece *p, int64_t at, hn_batch *b)
{
    const int32_t *word = l->tokens->word + p->at;
    for (int64_t i = 0; i < p->n; i++) {
        b->tokens[at + i] = hn_word_id(word[i]);
        b->labels[at + i] = word[i + 1] < 0 ? HN_LABEL_IGNORED : word[i + 1];
    }
    add_sequence(b, at, p->n);
    b->n_trained += p->n_trained;
    b->n_tokens += p->n;
}

static void fill_padding(const hn_loader *l, int64_t at, int64_t n, hn_batch *b)
{
    for (int64_t i = 0; i < n; i++) {
        b->tokens[at + i] = l->o.pad_id;
        b->labels[at + i] = HN_LABEL_IGNORED;
    }
    if (n > 0) add_sequence(b, at, n);
}

/* Row g of training into row `line` of the batch. */
static void fill_row(const hn_loader *l, int64_t g, int64_t line, hn_batch *b)
{
    const int64_t rows = l->packing.stats.rows, end = (line + 1) * l->o.seq_len;
    int64_t at = line * l->o.seq_len;
    if (!l->o.once || g < rows) {
        const int64_t i = g % rows,
                      row = l->o.shuffle ? hn_row_order_at(&l->order, g / rows, i) : i;
        const int64_t *first = l->packing.row_first + row;
        for (int64_t k = first[0]; k < first[1]; k++) {
            fill_piece(l, &l->packing.piece[k], at, b);
            at += l->packing.piece[k].n;
        }
    }
    fill_padding(l, at, end - at, b);
}

hn_status hn_loader_fill(const hn_loader *l, int64_t micro_batch, hn_batch *b)
{
    const int64_t rows = l->o.batch_rows, world = l->o.world;
    const int64_t room = b->max_seqs ? b->max_seqs : l->o.max_seqs;
    if (micro_batch < 0 || micro_batch > INT64_MAX / rows / world - 1)
        return HN_FAIL(HN_ERR_ARG, "micro-batch %" PRId64, micro_batch);
    if (room < l->o.max_seqs)
        return HN_FAIL(HN_ERR_ARG, "batch has room for %" PRId64 " sequences, needs %" PRId64, room,
                       l->o.max_seqs);
    b->n_seqs = b->n_trained = b->n_tokens = 0;
    for (int64_t i = 0; i < rows; i++)
        fill_row(l, (micro_batch * world + l->o.rank) * rows + i, i, b);
    for (int64_t i = b->n_seqs; i <= room; i++) b->seq_offsets[i] = (int32_t)(rows * l->o.seq_len);
    return HN_OK;
}

/* ---- figures ---- */

const hn_packing_stats *hn_loader_stats(const hn_loader *l) { return &l->packing.stats; }
const hn_loader_options *hn_loader_settings(const hn_loader *l) { return &l->o; }
int64_t hn_loader_max_seqs(const hn_loader *l) { return l->o.max_seqs; }
int64_t hn_loader_rows_per_epoch(const hn_loader *l) { return l->packing.stats.rows; }

int64_t hn_loader_batches_per_epoch(const hn_loader *l, int64_t epoch)
{
    const int64_t rows = l->packing.stats.rows, step = l->o.batch_rows * l->o.world;
    if (l->o.once) return epoch == 0 ? (rows + step - 1) / step : 0;
    return ((epoch + 1) * rows + step - 1) / step - (epoch * rows + step - 1) / step;
}

double hn_loader_epoch_at(const hn_loader *l, int64_t micro_batch)
{
    return (double)micro_batch * (double)(l->o.batch_rows * l->o.world) /
           (double)l->packing.stats.rows;
}

double hn_loader_efficiency(const hn_loader *l)
{
    const hn_packing_stats *s = &l->packing.stats;
    return (double)s->inputs / ((double)s->rows * (double)l->o.seq_len);
}

void hn_loader_report(const hn_loader *l, const hn_log *log)
{
    const hn_packing_stats *s = &l->packing.stats;
    hn_info(log,
            "  %" PRId64 " rows of %" PRId64 " tokens, %.1f %% filled (packing %s), %.1f samples a "
            "row",
            s->rows, l->o.seq_len, 100 * hn_loader_efficiency(l), l->o.packing ? "on" : "off",
            (double)s->pieces / (double)s->rows);
    if (s->truncated > 0)
        hn_warn(log, "  %" PRId64 " samples are longer than seq_len %" PRId64 " and cut off there",
                s->truncated, l->o.seq_len);
    if (s->dropped > 0)
        hn_warn(log, "  %" PRId64 " samples or pieces dropped: no trained token within seq_len",
                s->dropped);
    hn_info(log,
            "  %" PRId64 " trained tokens and %" PRId64 " micro-batches of %" PRId64
            " row(s) an epoch%s",
            s->trained, hn_loader_batches_per_epoch(l, 0), l->o.batch_rows,
            l->o.world > 1 ? " and rank" : "");
}

/* ---- batches ---- */

hn_status hn_batch_make(const hn_loader *l, int64_t max_seqs, hn_batch *out)
{
    const size_t n = (size_t)(l->o.batch_rows * l->o.seq_len) * sizeof(int32_t);
    const int64_t seqs = max_seqs ? max_seqs : l->o.max_seqs;
    hn_batch b = {.tokens = hn_malloc(n),
                  .labels = hn_malloc(n),
                  .positions = hn_malloc(n),
                  .seq_offsets = hn_malloc((size_t)(seqs + 1) * sizeof(int32_t)),
                  .max_seqs = seqs};
    if (b.tokens == NULL || b.labels == NULL || b.positions == NULL || b.seq_offsets == NULL) {
        hn_batch_free(&b);
        return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a batch", 3 * n);
    }
    *out = b;
    return HN_OK;
}

void hn_batch_free(hn_batch *b)
{
    if (b == NULL) return;
    hn_free(b->tokens);
    hn_free(b->labels);
    hn_free(b->positions);
    hn_free(b->seq_offsets);
    *b = (hn_batch){0};
}
