#include "runtime/train/sparse_state.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"

/* ---- ids and changes ---- */

/* One row: blocks that are trained with their change, or those that are kept with W there.
 * at  room for the values */
static hn_status save_matrix(const hn_sparse *s, int64_t i, bool kept, hn_pack_writer *w, float *at,
                             int64_t *n)
{
    const hn_sparse_matrix *m = hn_sparse_at(s, i);
    const int64_t count =
        kept ? hn_sparse_kept_count(s, i) : hn_sparse_count(s, HN_BLOCKS_TRAINED, i);
    const int32_t *id = kept ? hn_sparse_kept_ids(s, i) : hn_sparse_ids(s, HN_BLOCKS_TRAINED, i);
    const hn_pack_matrix pack = {
        .name = (char *)(size_t)m->name,
        .out = m->out,
        .in = m->in,
        .br = m->shape.br,
        .bc = m->shape.bc,
        .n = count,
        .id = (int32_t *)(size_t)id,
        .delta = at,
        .set = kept,
    };
    *n = count * m->values;
    if (kept && count == 0) return HN_OK;
    HN_TRY(kept ? hn_sparse_kept_values(s, i, at) : hn_sparse_get(s, HN_SPARSE_DELTA, i, at));
    return hn_pack_add(w, &pack, kept ? m->w->type.dtype : HN_F32);
}

/* Rows of kept blocks come first: changes are added to them. */
hn_status hn_sparse_save_delta(const hn_sparse *s, hn_pack_writer *w, float **values)
{
    *values = NULL;
    if (s == NULL) return HN_OK;
    const int64_t matrices = hn_sparse_matrices(s);
    int64_t room = hn_sparse_pool_values(s), n;
    for (int64_t i = 0; i < matrices; i++)
        room += hn_sparse_kept_count(s, i) * hn_sparse_at(s, i)->values;
    float *all = hn_malloc((size_t)room * sizeof *all), *at = all;
    if (all == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of blocks", room);
    hn_status st = HN_OK;
    for (int64_t k = 0; st == HN_OK && k < 2 * matrices; k++) {
        st = save_matrix(s, k % matrices, k < matrices, w, at, &n);
        at += n;
    }
    if (st != HN_OK)
        hn_free(all);
    else
        *values = all;
    return st;
}

/* Rows of blocks, as they are read. */
typedef struct {
    const hn_st_file *file;
    const hn_params *params;
    hn_pack_matrix *matrix, *kept; /* [matrices of the pool] by their number there */
    bool *there;                   /* of matrix */
} reading;

/* Where nothing is trained: W with its change. */
static hn_status apply(const hn_params *p, const hn_pack_matrix *m, const char *where)
{
    const hn_param *q = hn_params_find(p, m->name);
    if (q == NULL || q->ndim != 2 || q->dim[0] != m->out || q->dim[1] != m->in || q->trained)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: blocks of %s [%" PRId64 ", %" PRId64 "], which the model has not",
                       where, m->name, m->out, m->in);
    float *w = hn_malloc((size_t)(m->out * m->in) * sizeof *w);
    if (w == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", m->name);
    hn_status st = hn_tensor_get(q->value, w);
    if (st == HN_OK) {
        hn_pack_apply(m, w);
        st = hn_tensor_set(q->value, w);
    }
    hn_free(w);
    return st;
}

static hn_status take_row(reading *r, const json_t *row)
{
    hn_sparse *s = hn_params_sparse(r->params);
    const char *where = hn_st_where(r->file);
    hn_pack_matrix m = {0};
    HN_TRY(hn_pack_read(r->file, row, &m));
    hn_status st = HN_OK;
    if (s == NULL) {
        st = apply(r->params, &m, where);
        hn_pack_matrix_free(&m);
        return st;
    }
    const int64_t i = hn_sparse_find(s, m.name);
    const hn_sparse_matrix *to = i < 0 ? NULL : hn_sparse_at(s, i);
    const bool twice = to && (m.set ? r->kept[i].name != NULL : r->there[i]);
    if (to == NULL || to->out != m.out || to->in != m.in || twice)
        st = HN_FAIL(HN_ERR_FORMAT,
                     "%s: blocks of %s [%" PRId64 ", %" PRId64 "], of which this run trains none",
                     where, m.name, m.out, m.in);
    else if (to->shape.br != m.br || to->shape.bc != m.bc)
        st = HN_FAIL(HN_ERR_FORMAT,
                     "%s: blocks of %" PRId64 " x %" PRId64 " of %s, this run has %" PRId64
                     " x %" PRId64,
                     where, m.br, m.bc, m.name, to->shape.br, to->shape.bc);
    if (st != HN_OK) {
        hn_pack_matrix_free(&m);
        return st;
    }
    *(m.set ? &r->kept[i] : &r->matrix[i]) = m;
    r->there[i] |= !m.set;
    return HN_OK;
}

/* The lists of all matrices as a support, then their changes. */
static hn_status set_support(const reading *r, hn_sparse *s)
{
    const int64_t n = hn_sparse_matrices(s);
    int64_t blocks = 0;
    hn_status st = HN_OK;
    for (int64_t i = 0; i < n; i++) {
        if (!r->there[i])
            return HN_FAIL(HN_ERR_FORMAT, "%s: no blocks of %s", hn_st_where(r->file),
                           hn_sparse_at(s, i)->name);
        blocks += r->matrix[i].n;
    }
    int64_t *first = hn_calloc((size_t)n + 1, sizeof *first);
    int32_t *id = hn_malloc((size_t)(blocks + 1) * sizeof *id);
    if (first == NULL || id == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " blocks", blocks);
        goto done;
    }
    for (int64_t i = 0; i < n; i++) {
        const hn_pack_matrix *m = &r->matrix[i];
        if (m->n > 0) memcpy(id + first[i], m->id, (size_t)m->n * sizeof *id);
        first[i + 1] = first[i] + m->n;
    }
    const hn_block_lists lists = {first, id};
    HN_TRY_GOTO(st, hn_sparse_revert(s), done); /* nothing of an earlier support stays */
    for (int64_t i = 0; i < n; i++)
        if (r->kept[i].n > 0)
            HN_TRY_GOTO(st, hn_sparse_set_kept(s, i, r->kept[i].id, r->kept[i].n, r->kept[i].delta),
                        done);
    HN_TRY_GOTO(st, hn_sparse_select(s, &lists, NULL, false), done);
    for (int64_t i = 0; i < n; i++)
        HN_TRY_GOTO(st, hn_sparse_set(s, HN_SPARSE_DELTA, i, r->matrix[i].delta), done);
    st = hn_sparse_store(s);

done:
    hn_free(first);
    hn_free(id);
    return st;
}

hn_status hn_sparse_load_delta(const hn_st_file *f, json_t *rows, const hn_params *p, int64_t *n)
{
    hn_sparse *s = hn_params_sparse(p);
    const int64_t matrices = s ? hn_sparse_matrices(s) : 0;
    reading r = {.file = f, .params = p};
    hn_status st = HN_OK;
    *n = 0;
    r.matrix = hn_calloc((size_t)matrices + 1, sizeof *r.matrix);
    r.there = hn_calloc((size_t)matrices + 1, sizeof *r.there);
    r.kept = hn_calloc((size_t)matrices + 1, sizeof *r.kept);
    if (r.matrix == NULL || r.kept == NULL || r.there == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " matrices", matrices);
        goto done;
    }
    for (size_t k = 0; k < json_array_size(rows);) {
        const json_t *row = json_array_get(rows, k);
        if (!hn_pack_is_row(row)) {
            k++;
            continue;
        }
        HN_TRY_GOTO(st, take_row(&r, row), done);
        json_array_remove(rows, k);
        (*n)++;
    }
    if (s != NULL) st = set_support(&r, s);

done:
    for (int64_t i = 0; r.matrix && i < matrices; i++) hn_pack_matrix_free(&r.matrix[i]);
    for (int64_t i = 0; r.kept && i < matrices; i++) hn_pack_matrix_free(&r.kept[i]);
    hn_free(r.kept);
    hn_free(r.matrix);
    hn_free(r.there);
    return st;
}

/* ---- moments, ages, and what a selection has gathered ---- */

static const char progress_name[] = "sparse.progress";

/* What is stored of a matrix besides its change, as f32. */
static const struct {
    hn_sparse_part part;
    const char *suffix;
    bool gathered;
} parts[] = {{HN_SPARSE_MOMENT1, "sparse_m", false},
             {HN_SPARSE_MOMENT2, "sparse_v", false},
             {HN_SPARSE_SUM, "window_sum", true},
             {HN_SPARSE_WATCHED_SUM, "watched_sum", true},
             {HN_SPARSE_WATCHED_SQUARE, "watched_square", true}};
enum { N_PARTS = sizeof parts / sizeof *parts };

void hn_sparse_entries_free(hn_sparse_entries *e)
{
    hn_free(e->entry);
    hn_arena_free(&e->arena);
    *e = (hn_sparse_entries){0};
}

/* An entry [rows, cols] (cols 0: [rows]) with memory for its values. */
static hn_status add(hn_sparse_entries *e, const char *weight, const char *suffix,
                     hn_st_dtype dtype, int64_t rows, int64_t cols, void *values)
{
    const int64_t n = rows * (cols ? cols : 1);
    const size_t bytes = (size_t)n * (size_t)hn_st_dtype_bits(dtype) / 8;
    const char *name = hn_arena_text(&e->arena, "%s.%s", weight, suffix);
    void *data = hn_arena_take(&e->arena, bytes + 1);
    if (name == NULL || data == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", weight);
    HN_TRY(hn_grow(&e->entry, &e->cap, e->n, sizeof *e->entry));
    e->entry[e->n++] = (hn_st_entry){
        .name = name, .dtype = dtype, .ndim = cols ? 2 : 1, .dim = {rows, cols}, .data = data};
    *(void **)values = data;
    return HN_OK;
}

static hn_status save_ages(const hn_sparse *s, int64_t i, hn_sparse_entries *e)
{
    const int64_t n = hn_sparse_count(s, HN_BLOCKS_TRAINED, i);
    int32_t *wide;
    HN_TRY(add(e, hn_sparse_at(s, i)->name, "sparse_age", HN_ST_I32, n, 0, &wide));
    uint16_t *age = hn_arena_take(&e->arena, (size_t)n * sizeof *age + 1);
    if (age == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for ages");
    HN_TRY(hn_sparse_get_ages(s, i, age));
    for (int64_t k = 0; k < n; k++) wide[k] = age[k];
    return HN_OK;
}

static hn_status save_gathered(const hn_sparse *s, int64_t i, hn_sparse_entries *e)
{
    const hn_sparse_matrix *m = hn_sparse_at(s, i);
    const int64_t watched = hn_sparse_count(s, HN_BLOCKS_WATCHED, i);
    int32_t *ids;
    float *sums;
    int64_t n;
    HN_TRY(add(e, m->name, "score_ids", HN_ST_I32, m->kept, 0, &ids));
    HN_TRY(add(e, m->name, "score_sums", HN_ST_F32, m->kept, 0, &sums));
    HN_TRY(hn_sparse_scores(s, i, ids, sums, &n));
    e->entry[e->n - 1].dim[0] = e->entry[e->n - 2].dim[0] = n;
    HN_TRY(add(e, m->name, "watched_ids", HN_ST_I32, watched, 0, &ids));
    if (watched > 0)
        memcpy(ids, hn_sparse_ids(s, HN_BLOCKS_WATCHED, i), (size_t)watched * sizeof *ids);
    return HN_OK;
}

/* Whether a selection is under way. */
static bool is_selecting(const hn_sparse *s)
{
    const hn_sparse_progress *p = hn_sparse_progress_of((hn_sparse *)(size_t)s);
    bool watches = p->score_steps > 0 || p->window_steps > 0;
    for (int64_t i = 0; i < hn_sparse_matrices(s); i++)
        watches |= hn_sparse_count(s, HN_BLOCKS_WATCHED, i) > 0;
    return watches;
}

/* Whether part k is in a checkpoint. */
static bool is_saved(const hn_sparse *s, int k, bool selecting)
{
    return parts[k].gathered ? selecting && hn_sparse_has(s, parts[k].part) : true;
}

hn_status hn_sparse_save_moments(const hn_sparse *s, hn_sparse_entries *e)
{
    if (s == NULL) return HN_OK;
    const bool selecting = is_selecting(s);
    for (int64_t i = 0; i < hn_sparse_matrices(s); i++) {
        const hn_sparse_matrix *m = hn_sparse_at(s, i);
        for (int k = 0; k < N_PARTS; k++) {
            const int64_t n = hn_sparse_count(s, hn_sparse_set_of(parts[k].part), i);
            float *values;
            if (!is_saved(s, k, selecting)) continue;
            HN_TRY(add(e, m->name, parts[k].suffix, HN_ST_F32, n, m->values, &values));
            HN_TRY(hn_sparse_get(s, parts[k].part, i, values));
        }
        HN_TRY(save_ages(s, i, e));
        if (selecting) HN_TRY(save_gathered(s, i, e));
    }
    if (!selecting) return HN_OK;
    const hn_sparse_progress *p = hn_sparse_progress_of((hn_sparse *)(size_t)s);
    int64_t *steps;
    HN_TRY(add(e, "sparse", "progress", HN_ST_I64, 2, 0, &steps));
    steps[0] = p->score_steps;
    steps[1] = p->window_steps;
    return HN_OK;
}

/* *out: new values of a tensor [rows, cols] (cols 0: [rows]); rows -1: as many as there are, which
 * *n receives. */
static hn_status read_values(const hn_st_file *f, const char *weight, const char *suffix,
                             hn_dtype to, int64_t rows, int64_t cols, int64_t *n, void *out)
{
    char *name = hn_asprintf("%s.%s", weight, suffix);
    if (name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", weight);
    const hn_st_tensor *t = hn_st_find(f, name);
    hn_status st = HN_OK;
    void *values = NULL;
    if (t == NULL)
        st = HN_FAIL(HN_ERR_FORMAT, "%s: tensor %s is missing", hn_st_where(f), name);
    else if (t->dtype != hn_st_dtype_of(to) || t->ndim != (cols ? 2 : 1) ||
             (rows >= 0 && t->dim[0] != rows) || (cols && t->dim[1] != cols))
        st =
            HN_FAIL(HN_ERR_FORMAT, "%s: tensor %s has another shape or type", hn_st_where(f), name);
    if (st == HN_OK) {
        *n = t->dim[0];
        values = hn_malloc((size_t)hn_st_elements(t) * hn_dtype_size(to) + 1);
        if (values == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for %s", name);
    }
    if (st == HN_OK) st = hn_st_convert(t, to, values);
    if (st != HN_OK)
        hn_free(values);
    else
        *(void **)out = values;
    hn_free(name);
    return st;
}

static hn_status load_part(const hn_st_file *f, hn_sparse *s, int64_t i, int k)
{
    const hn_sparse_matrix *m = hn_sparse_at(s, i);
    int64_t n = hn_sparse_count(s, hn_sparse_set_of(parts[k].part), i);
    float *values;
    HN_TRY(read_values(f, m->name, parts[k].suffix, HN_F32, n, m->values, &n, &values));
    const hn_status st = hn_sparse_set(s, parts[k].part, i, values);
    hn_free(values);
    return st;
}

static hn_status load_ages(const hn_st_file *f, hn_sparse *s, int64_t i)
{
    const hn_sparse_matrix *m = hn_sparse_at(s, i);
    int64_t n = hn_sparse_count(s, HN_BLOCKS_TRAINED, i);
    int32_t *wide;
    hn_status st = HN_OK;
    HN_TRY(read_values(f, m->name, "sparse_age", HN_I32, n, 0, &n, &wide));
    uint16_t *age = hn_malloc((size_t)n * sizeof *age + 1);
    if (age == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for ages");
    for (int64_t k = 0; st == HN_OK && k < n; k++) {
        if (wide[k] < 0 || wide[k] > UINT16_MAX)
            st = HN_FAIL(HN_ERR_FORMAT, "%s: age %" PRId32 " of a block of %s", hn_st_where(f),
                         wide[k], m->name);
        else
            age[k] = (uint16_t)wide[k];
    }
    if (st == HN_OK) st = hn_sparse_set_ages(s, i, age);
    hn_free(age);
    hn_free(wide);
    return st;
}

static hn_status load_scores(const hn_st_file *f, hn_sparse *s, int64_t i)
{
    const hn_sparse_matrix *m = hn_sparse_at(s, i);
    int64_t n;
    int32_t *ids = NULL;
    float *sums = NULL;
    HN_TRY(read_values(f, m->name, "score_ids", HN_I32, -1, 0, &n, &ids));
    hn_status st = read_values(f, m->name, "score_sums", HN_F32, n, 0, &n, &sums);
    if (st == HN_OK) st = hn_sparse_set_scores(s, i, ids, sums, n);
    hn_free(ids);
    hn_free(sums);
    return st;
}

static hn_status load_watched(const hn_st_file *f, hn_sparse *s)
{
    const int64_t matrices = hn_sparse_matrices(s);
    int32_t *all = NULL;
    int64_t cap = 0;
    hn_status st = HN_OK;
    int64_t *first = hn_calloc((size_t)matrices + 1, sizeof *first);
    if (first == NULL) return HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " matrices", matrices);
    for (int64_t i = 0; i < matrices; i++) {
        int32_t *ids;
        int64_t n;
        HN_TRY_GOTO(
            st, read_values(f, hn_sparse_at(s, i)->name, "watched_ids", HN_I32, -1, 0, &n, &ids),
            done);
        first[i + 1] = first[i] + n;
        for (int64_t k = 0; st == HN_OK && k < n; k++) {
            st = hn_grow(&all, &cap, first[i] + k, sizeof *all);
            if (st == HN_OK) all[first[i] + k] = ids[k];
        }
        hn_free(ids);
        if (st != HN_OK) goto done;
    }
    const hn_block_lists lists = {first, all};
    if (hn_sparse_watches(s) || first[matrices] > 0) st = hn_sparse_watch(s, &lists);

done:
    hn_free(all);
    hn_free(first);
    return st;
}

hn_status hn_sparse_load_moments(const hn_st_file *f, hn_sparse *s)
{
    if (s == NULL) return HN_OK;
    const bool selecting = hn_st_find(f, progress_name) != NULL;
    if (selecting) {
        HN_TRY(hn_sparse_begin(s));
        HN_TRY(load_watched(f, s));
    }
    for (int64_t i = 0; i < hn_sparse_matrices(s); i++) {
        for (int k = 0; k < N_PARTS; k++)
            if (is_saved(s, k, selecting)) HN_TRY(load_part(f, s, i, k));
        HN_TRY(load_ages(f, s, i));
        if (selecting) HN_TRY(load_scores(f, s, i));
    }
    if (!selecting) return HN_OK;
    int64_t *steps, n;
    HN_TRY(read_values(f, "sparse", "progress", HN_I64, 2, 0, &n, &steps));
    const hn_sparse_progress p = {steps[0], steps[1]};
    hn_free(steps);
    if (p.score_steps < 0 || p.score_steps > INT32_MAX || p.window_steps < 0 ||
        p.window_steps > INT32_MAX)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s: %" PRId64 " and %" PRId64 " batches", hn_st_where(f),
                       progress_name, p.score_steps, p.window_steps);
    *hn_sparse_progress_of(s) = p;
    return HN_OK;
}
