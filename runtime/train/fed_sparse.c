#include "runtime/train/fed_sparse.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"

enum { WEIGHT = HN_FED_SUPPORT_NAME + 1 };

hn_block_shape hn_fed_sparse_shape(const hn_fed_support *s, const char *module)
{
    char weight[WEIGHT];
    snprintf(weight, sizeof weight, "%s.weight", module);
    const int64_t i = hn_fed_support_find(s, weight);
    return i < 0 ? (hn_block_shape){0, 0} : (hn_block_shape){s->matrix[i].br, s->matrix[i].bc};
}

/* A matrix gets room for the most shares that any of them has. */
hn_sparse_options hn_fed_sparse_room(const hn_fed_support *s)
{
    double all = 0, ceiling = 1;
    for (int64_t i = 0; i < s->count; i++)
        all += (double)s->matrix[i].out * (double)s->matrix[i].in;
    for (int64_t i = 0; i < s->count; i++) {
        const hn_fed_matrix *m = &s->matrix[i];
        const double blocks = (double)(m->out / m->br) * (double)(m->in / m->bc);
        const double share = (double)s->values / all * blocks;
        if ((double)m->n > ceiling * share) ceiling = (double)m->n / share;
    }
    return (hn_sparse_options){.values = s->values,
                               .ceiling = ceiling * (1 + 1e-9), /* what is rounded up stays */
                               .once = true};
}

hn_status hn_fed_sparse_layout(const hn_fed_support *s, hn_fed_layout *l)
{
    for (int64_t i = 0; i < s->count; i++) {
        const hn_fed_matrix *m = &s->matrix[i];
        const int64_t dim[] = {m->n, m->br, m->bc};
        char name[WEIGHT + 8];
        snprintf(name, sizeof name, "%s.blocks", m->name);
        HN_TRY(hn_fed_layout_add(l, name, 3, dim, HN_FED_VALUE));
    }
    return HN_OK;
}

/* ---- in an engine ---- */

struct hn_fed_sparse {
    const hn_fed_support *s;
    hn_sparse *pool; /* NULL: the engine does not train */
    /* without a pool: */
    hn_tensor **w;       /* [count] weights */
    float *base, *value; /* [values] of the model; the changes */
    float *whole;        /* of the largest matrix */
};

void hn_fed_sparse_free(hn_fed_sparse *b)
{
    if (b == NULL) return;
    hn_free(b->w);
    hn_free(b->base);
    hn_free(b->value);
    hn_free(b->whole);
    hn_free(b);
}

/* The values of m's blocks out of the whole matrix, or into it as base + change. */
static void gather(const hn_fed_matrix *m, const float *w, float *value)
{
    const hn_block_shape s = {m->br, m->bc};
    for (int64_t k = 0; k < m->n; k++) {
        const float *from =
            w + hn_block_row(s, m->in, m->id[k]) * m->in + hn_block_col(s, m->in, m->id[k]);
        for (int64_t r = 0; r < m->br; r++, value += m->bc)
            memcpy(value, from + r * m->in, (size_t)m->bc * sizeof *value);
    }
}

static void scatter(const hn_fed_matrix *m, const float *base, const float *change, float *w)
{
    const hn_block_shape s = {m->br, m->bc};
    for (int64_t k = 0; k < m->n; k++) {
        float *to = w + hn_block_row(s, m->in, m->id[k]) * m->in + hn_block_col(s, m->in, m->id[k]);
        for (int64_t r = 0; r < m->br; r++)
            for (int64_t c = 0; c < m->bc; c++) to[r * m->in + c] = *base++ + *change++;
    }
}

static hn_status install(const hn_fed_support *s, hn_sparse *pool)
{
    int64_t *first = hn_calloc((size_t)s->count + 1, sizeof *first);
    int32_t *id = hn_malloc((size_t)s->blocks * sizeof *id);
    hn_status st = first && id ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " blocks", s->blocks);
    for (int64_t i = 0; st == HN_OK && i < s->count; i++) {
        memcpy(id + first[i], s->matrix[i].id, (size_t)s->matrix[i].n * sizeof *id);
        first[i + 1] = first[i] + s->matrix[i].n;
    }
    const hn_block_lists lists = {first, id};
    if (st == HN_OK) st = hn_sparse_select(pool, &lists, NULL, false);
    hn_free(first);
    hn_free(id);
    return st;
}

static hn_status remember(hn_fed_sparse *b, const hn_params *p)
{
    const hn_fed_support *s = b->s;
    int64_t most = 0;
    for (int64_t i = 0; i < s->count; i++)
        if (s->matrix[i].out * s->matrix[i].in > most) most = s->matrix[i].out * s->matrix[i].in;
    b->w = hn_calloc((size_t)s->count, sizeof *b->w);
    b->base = hn_calloc((size_t)s->values, sizeof *b->base);
    b->value = hn_calloc((size_t)s->values, sizeof *b->value);
    b->whole = hn_malloc((size_t)most * sizeof *b->whole);
    if (b->w == NULL || b->base == NULL || b->value == NULL || b->whole == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of blocks", s->values);
    int64_t at = 0;
    for (int64_t i = 0; i < s->count; i++) {
        b->w[i] = hn_params_find(p, s->matrix[i].name)->value;
        HN_TRY(hn_tensor_get(b->w[i], b->whole));
        gather(&s->matrix[i], b->whole, b->base + at);
        at += s->matrix[i].values;
    }
    return HN_OK;
}

hn_status hn_fed_sparse_check(const hn_fed_support *s, const hn_params *p)
{
    int64_t found = 0;
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        const int64_t k = hn_fed_support_find(s, l->weight->name);
        if (k < 0) continue;
        const hn_fed_matrix *m = &s->matrix[k];
        if (m->out != l->out || m->in != l->in || k != found)
            return HN_FAIL(HN_ERR_SHAPE,
                           "blocks of %s [%" PRId64 ", %" PRId64 "], the model's is [%" PRId64
                           ", %" PRId64 "], or another comes first",
                           m->name, m->out, m->in, l->out, l->in);
        found++;
    }
    if (found == s->count) return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE,
                   "blocks of %" PRId64 " matrices, the model has %" PRId64 " of them", s->count,
                   found);
}

hn_status hn_fed_sparse_new(const hn_fed_support *s, const hn_params *p, hn_fed_sparse **out)
{
    HN_TRY(hn_fed_sparse_check(s, p));
    hn_fed_sparse *b = hn_calloc(1, sizeof *b);
    if (b == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for blocks", sizeof *b);
    *b = (hn_fed_sparse){.s = s, .pool = hn_params_sparse(p)};
    const hn_status st = b->pool ? install(s, b->pool) : remember(b, p);
    if (st == HN_OK)
        *out = b;
    else
        hn_fed_sparse_free(b);
    return st;
}

hn_status hn_fed_sparse_get(const hn_fed_sparse *b, float *value)
{
    const hn_fed_support *s = b->s;
    if (b->pool == NULL) memcpy(value, b->value, (size_t)s->values * sizeof *value);
    for (int64_t i = 0; b->pool && i < s->count; i++) {
        HN_TRY(hn_sparse_get(b->pool, HN_SPARSE_DELTA, i, value));
        value += s->matrix[i].values;
    }
    return HN_OK;
}

static hn_status set_weights(hn_fed_sparse *b, const float *value)
{
    const hn_fed_support *s = b->s;
    int64_t at = 0;
    memcpy(b->value, value, (size_t)s->values * sizeof *value);
    for (int64_t i = 0; i < s->count; i++) {
        HN_TRY(hn_tensor_get(b->w[i], b->whole));
        scatter(&s->matrix[i], b->base + at, value + at, b->whole);
        HN_TRY(hn_tensor_set(b->w[i], b->whole));
        at += s->matrix[i].values;
    }
    return HN_OK;
}

hn_status hn_fed_sparse_set(hn_fed_sparse *b, const float *value)
{
    const hn_fed_support *s = b->s;
    if (b->pool == NULL) return set_weights(b, value);
    for (int64_t i = 0; i < s->count; i++) {
        HN_TRY(hn_sparse_set(b->pool, HN_SPARSE_DELTA, i, value));
        value += s->matrix[i].values;
    }
    return hn_sparse_store(b->pool);
}
