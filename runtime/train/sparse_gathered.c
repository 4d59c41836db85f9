/* Scores of blocks by the gradients that steps have gathered: for hone-sparse. */
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/sparse_run.h"

hn_status hn_gathered_scores(const hn_sparse_run *r, hn_scores *out)
{
    const hn_sparse *s = hn_sparse_run_blocks(r);
    hn_scores all;
    HN_TRY(hn_scores_new(r->n, &all));
    hn_status st = HN_OK;
    for (int64_t i = 0; st == HN_OK && i < r->n; i++) {
        const float steps = (float)hn_sparse_scored(s, i); /* matrices may have taken turns */
        int32_t *id;
        float *score;
        int64_t n = 0;
        st = hn_scores_room(&all, i, hn_sparse_at(s, i)->kept, &id, &score);
        if (st == HN_OK) st = hn_sparse_scores(s, i, id, score, &n);
        all.list[i].n = n;
        for (int64_t b = 0; st == HN_OK && b < n; b++) score[b] /= steps;
    }
    if (st == HN_OK)
        *out = all;
    else
        hn_scores_free(&all);
    return st;
}

/* W now at the blocks of a list, block after block. */
static hn_status weights_at(const hn_sparse_matrix *m, const int32_t *id, int64_t n, float *out)
{
    float *w = hn_malloc((size_t)(m->out * m->in) * sizeof *w);
    if (w == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the weights of %s", m->name);
    const hn_status st = hn_tensor_get(m->w, w);
    for (int64_t b = 0; st == HN_OK && b < n; b++) {
        const float *from =
            w + hn_block_row(m->shape, m->in, id[b]) * m->in + hn_block_col(m->shape, m->in, id[b]);
        for (int64_t row = 0; row < m->shape.br; row++)
            memcpy(out + b * m->values + row * m->shape.bc, from + row * m->in,
                   (size_t)m->shape.bc * sizeof *out);
    }
    hn_free(w);
    return st;
}

/* values: room for 2 n blocks */
static hn_status score_sums(const hn_sparse_run *r, hn_block_set set, int64_t i, const int32_t *id,
                            int64_t n, float *values, float *score)
{
    const hn_sparse *s = hn_sparse_run_blocks(r);
    const hn_sparse_matrix *m = hn_sparse_at(s, i);
    const hn_sparse_part part = set == HN_BLOCKS_WATCHED ? HN_SPARSE_WATCHED_SUM : HN_SPARSE_SUM;
    HN_TRY(hn_sparse_get(s, part, i, values));
    if (r->rules.score != HN_BY_SNIP) {
        hn_score_mean_abs(values, n, m->values, score);
        return HN_OK;
    }
    HN_TRY(weights_at(m, id, n, values + n * m->values));
    hn_score_product(values, values + n * m->values, n, m->values, score);
    return HN_OK;
}

hn_status hn_gathered_sums(const hn_sparse_run *r, hn_block_set set, hn_scores *out)
{
    const hn_sparse *s = hn_sparse_run_blocks(r);
    hn_scores all;
    HN_TRY(hn_scores_new(r->n, &all));
    hn_status st = HN_OK;
    for (int64_t i = 0; st == HN_OK && i < r->n; i++) {
        const int64_t n = hn_sparse_count(s, set, i), values = hn_sparse_at(s, i)->values;
        int32_t *id;
        float *score, *v = hn_malloc((size_t)(2 * n * values) * sizeof *v + 1);
        st = hn_scores_room(&all, i, n, &id, &score);
        if (st == HN_OK && v == NULL)
            st = HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of blocks", 2 * n * values);
        if (st == HN_OK && n > 0) memcpy(id, hn_sparse_ids(s, set, i), (size_t)n * sizeof *id);
        if (st == HN_OK) st = score_sums(r, set, i, id, n, v, score);
        hn_free(v);
    }
    if (st == HN_OK) st = hn_weigh_prior(r, &all);
    if (st == HN_OK)
        *out = all;
    else
        hn_scores_free(&all);
    return st;
}
