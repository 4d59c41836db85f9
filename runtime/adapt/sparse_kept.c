/* Blocks that are trained no more and have kept their change. */
#include <inttypes.h>
#include <string.h>

#include "runtime/adapt/sparse_impl.h"
#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"

int64_t hn_sparse_kept_count(const hn_sparse *s, int64_t i) { return s->entry[i].kept.n; }
const int32_t *hn_sparse_kept_ids(const hn_sparse *s, int64_t i) { return s->entry[i].kept.id; }

hn_status hn_sparse_keep(hn_sparse *s, int64_t i, const int32_t *id, int64_t n, const float *base)
{
    hn_sparse_entry *e = &s->entry[i];
    const int64_t size = e->m.values, most = e->kept.n + n;
    const size_t bytes = (size_t)size * sizeof(float);
    if (n == 0) return HN_OK;
    int32_t *ids = hn_malloc((size_t)most * sizeof *ids);
    float *values = hn_malloc((size_t)most * bytes);
    if (ids == NULL || values == NULL) {
        hn_free(ids);
        hn_free(values);
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of %s that are kept", most * size,
                       e->m.name);
    }
    int64_t at = 0;
    for (int64_t a = 0, b = 0; a < e->kept.n || b < n; at++) { /* two ascending lists */
        const bool old = b == n || (a < e->kept.n && e->kept.id[a] <= id[b]);
        if (old && b < n && e->kept.id[a] == id[b]) b++; /* what W had at first stays */
        ids[at] = old ? e->kept.id[a] : id[b];
        memcpy(values + at * size, old ? e->kept.base + a * size : base + b * size, bytes);
        if (old)
            a++;
        else
            b++;
    }
    hn_free(e->kept.id);
    hn_free(e->kept.base);
    e->kept.id = ids;
    e->kept.base = values;
    e->kept.n = at;
    return HN_OK;
}

/* Between W [out, in] on the host and the values of blocks. */
static void copy_blocks(const hn_sparse_matrix *m, const int32_t *id, int64_t n, float *w,
                        float *values, bool to_w)
{
    const size_t bytes = (size_t)m->shape.bc * sizeof *w;
    for (int64_t b = 0; b < n; b++) {
        float *row =
            w + hn_block_row(m->shape, m->in, id[b]) * m->in + hn_block_col(m->shape, m->in, id[b]);
        for (int64_t r = 0; r < m->shape.br; r++, row += m->in, values += m->shape.bc) {
            if (to_w)
                memcpy(row, values, bytes);
            else
                memcpy(values, row, bytes);
        }
    }
}

/* W of a matrix on the host; *w is new. */
static hn_status read_w(const hn_sparse_matrix *m, float **w)
{
    *w = hn_malloc((size_t)(m->out * m->in) * sizeof **w);
    if (*w == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", m->name);
    return hn_tensor_get(m->w, *w);
}

hn_status hn_sparse_kept_values(const hn_sparse *s, int64_t i, float *out)
{
    const hn_sparse_entry *e = &s->entry[i];
    const int32_t *id = hn_sparse_ids(s, HN_BLOCKS_TRAINED, i);
    const int64_t n = hn_sparse_count(s, HN_BLOCKS_TRAINED, i), size = e->m.values;
    float *w = NULL, *frozen = hn_malloc((size_t)(n * size) * sizeof *frozen + 1);
    hn_status st = frozen ? read_w(&e->m, &w) : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values", n);
    if (st == HN_OK) st = hn_sparse_get(s, HN_SPARSE_FROZEN, i, frozen);
    if (st == HN_OK) {
        copy_blocks(&e->m, id, n, w, frozen, true);
        copy_blocks(&e->m, e->kept.id, e->kept.n, w, out, false);
    }
    hn_free(w);
    hn_free(frozen);
    return st;
}

hn_status hn_sparse_set_kept(hn_sparse *s, int64_t i, const int32_t *id, int64_t n,
                             const float *value)
{
    const hn_sparse_matrix *m = &s->entry[i].m;
    float *w = NULL, *base = NULL;
    HN_TRY(hn_sparse_check_list(m, id, n, m->blocks));
    if (s->entry[i].kept.n > 0 || hn_sparse_count(s, HN_BLOCKS_TRAINED, i) > 0)
        return HN_FAIL(HN_ERR_ARG, "%s: blocks that are kept, beside others that are there",
                       m->name);
    hn_status st = read_w(m, &w);
    if (st == HN_OK) {
        base = hn_malloc((size_t)(n * m->values) * sizeof *base + 1);
        st = base ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values", n * m->values);
    }
    if (st == HN_OK) {
        copy_blocks(m, id, n, w, base, false);
        copy_blocks(m, id, n, w, (float *)(size_t)value, true);
        st = hn_tensor_set(m->w, w);
    }
    if (st == HN_OK) st = hn_sparse_keep(s, i, id, n, base);
    hn_free(base);
    hn_free(w);
    return st;
}

hn_status hn_sparse_forget_kept(hn_sparse *s)
{
    for (int64_t i = 0; i < s->n; i++) {
        hn_sparse_entry *e = &s->entry[i];
        float *w = NULL;
        if (e->kept.n == 0) continue;
        hn_status st = read_w(&e->m, &w);
        if (st == HN_OK) {
            copy_blocks(&e->m, e->kept.id, e->kept.n, w, e->kept.base, true);
            st = hn_tensor_set(e->m.w, w);
        }
        hn_free(w);
        HN_TRY(st);
        hn_free(e->kept.id);
        hn_free(e->kept.base);
        e->kept.id = NULL;
        e->kept.base = NULL;
        e->kept.n = 0;
    }
    return HN_OK;
}
