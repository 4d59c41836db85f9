/* Supports, watched blocks and values of blocks, from the host's side. */
#include <inttypes.h>
#include <string.h>

#include "kernels/sparse/block_store.h"
#include "kernels/sparse/sparse_adamw.h"
#include "runtime/adapt/sparse_impl.h"
#include "runtime/base/alloc.h"
#include "runtime/base/convert.h"
#include "runtime/graph/plan.h"
#include "runtime/graph/tensor.h"

int64_t hn_sparse_matrices(const hn_sparse *s) { return s->n; }
const hn_sparse_matrix *hn_sparse_at(const hn_sparse *s, int64_t i) { return &s->entry[i].m; }

int64_t hn_sparse_find(const hn_sparse *s, const char *name)
{
    for (int64_t i = 0; i < s->n; i++)
        if (strcmp(s->entry[i].m.name, name) == 0) return i;
    return -1;
}

int64_t hn_sparse_pool_values(const hn_sparse *s) { return s->pool[HN_BLOCKS_TRAINED].values; }

int64_t hn_sparse_count(const hn_sparse *s, hn_block_set pool, int64_t i)
{
    return s->pool[pool].span ? s->pool[pool].span[i].count : 0;
}

const int32_t *hn_sparse_ids(const hn_sparse *s, hn_block_set pool, int64_t i)
{
    const hn_block_pool *p = &s->pool[pool];
    return p->span ? p->id + p->span[i].first_block : NULL;
}

static hn_device *device_of(const hn_sparse *s) { return hn_program_device(s->program); }

/* t NULL: not there. */
static hn_status fill_bytes(const hn_sparse *s, const hn_tensor *t, int byte)
{
    if (t == NULL) return HN_OK;
    return hn_device_fill(device_of(s), t->data, byte, hn_type_bytes(&t->type));
}

static hn_status needs_candidates(const hn_sparse *s)
{
    if (s->o.candidates > 0) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "no candidates were asked for, so nothing is gathered for them");
}

/* ---- lists ---- */

hn_status hn_sparse_check_list(const hn_sparse_matrix *m, const int32_t *id, int64_t n,
                               int64_t most)
{
    if (n < 0 || n > most)
        return HN_FAIL(HN_ERR_ARG, "%s: %" PRId64 " blocks chosen, at most %" PRId64, m->name, n,
                       most);
    for (int64_t k = 0; k < n; k++)
        if (id[k] < 0 || id[k] >= m->blocks || (k > 0 && id[k] <= id[k - 1]))
            return HN_FAIL(HN_ERR_ARG,
                           "%s: block %" PRId32 " at place %" PRId64
                           " of its list: ids ascend, below %" PRId64,
                           m->name, id[k], k, m->blocks);
    return HN_OK;
}

static hn_status check_lists(const hn_sparse *s, hn_block_set pool, const hn_block_lists *l)
{
    const hn_block_pool *p = &s->pool[pool];
    int64_t blocks = 0, values = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const hn_sparse_matrix *m = &s->entry[i].m;
        const int64_t n = l->first[i + 1] - l->first[i];
        HN_TRY(hn_sparse_check_list(m, n > 0 ? l->id + l->first[i] : NULL, n,
                                    pool == HN_BLOCKS_TRAINED ? m->capacity : m->kept));
        blocks += n;
        values += n * m->values;
    }
    if (blocks <= p->blocks && values <= p->values) return HN_OK;
    return HN_FAIL(HN_ERR_ARG,
                   "%" PRId64 " blocks with %" PRId64 " values chosen, there is room for %" PRId64
                   " values",
                   blocks, values, p->values);
}

static hn_status write_tiles(hn_block_pool *p, const hn_sparse_entry *e, const int32_t *id,
                             int64_t n)
{
    const hn_sparse_matrix *m = &e->m;
    hn_tensor *t = p->tile_first[e->index];
    int32_t *order = p->order + p->span[e->index].first_block, *tiles = NULL;
    hn_status st = HN_OK;
    if (t != NULL) {
        tiles = hn_malloc(hn_type_bytes(&t->type));
        if (tiles == NULL) return HN_FAIL(HN_ERR_MEMORY, "tiles of %s", m->name);
    }
    st = hn_sparse_order(m->shape, m->out, m->in, id, n, tiles, order);
    if (st == HN_OK && t) st = hn_tensor_write(t, 0, tiles, hn_type_bytes(&t->type));
    hn_free(tiles);
    return st;
}

/* Makes checked lists those of the pool, here and on the device. `device`: memory for the ids in
 * their order there. */
static hn_status install(hn_sparse *s, hn_block_pool *p, const hn_block_lists *l, int32_t *device)
{
    int64_t block = 0, value = 0;
    for (int64_t i = 0; i < s->n; i++) {
        const int64_t n = l->first[i + 1] - l->first[i];
        p->span[i] = (hn_sparse_span){value, (int32_t)block, (int32_t)n};
        if (n > 0) memcpy(p->id + block, l->id + l->first[i], (size_t)n * sizeof *p->id);
        HN_TRY(write_tiles(p, &s->entry[i], p->id + block, n));
        for (int64_t k = 0; k < n; k++) device[block + k] = p->id[block + p->order[block + k]];
        block += n;
        value += n * s->entry[i].m.values;
    }
    HN_TRY(hn_tensor_write(p->spans, 0, p->span, (size_t)s->n * sizeof *p->span));
    return block == 0 ? HN_OK
                      : hn_tensor_write(p->block, 0, device, (size_t)block * sizeof *device);
}

/* ---- W ---- */

typedef enum { STORE, KEEP, RESTORE } copying;

static hn_status copy_here(const hn_block_store_args *a, copying what)
{
    if (what == STORE) return hn_block_store_fast(a);
    return what == KEEP ? hn_block_keep_cpu(a) : hn_block_restore_cpu(a);
}

static hn_status copy_there(const hn_block_store_args *a, int64_t n, copying what, hn_stream stream)
{
    if (what == STORE) return hn_block_store_cuda(a, n, stream);
    return what == KEEP ? hn_block_keep_cuda(a, n, stream) : hn_block_restore_cuda(a, n, stream);
}

static hn_status copy_blocks(const hn_sparse *s, copying what)
{
    const hn_block_pool *p = &s->pool[HN_BLOCKS_TRAINED];
    hn_status st = HN_OK;
    hn_block_store_args *a = hn_calloc((size_t)s->n, sizeof *a);
    if (a == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " matrices", s->n);
    for (int64_t i = 0; i < s->n; i++) {
        const hn_sparse_matrix *m = &s->entry[i].m;
        a[i] = (hn_block_store_args){.w = m->w->data,
                                     .span = (const hn_sparse_span *)p->spans->data + i,
                                     .block = p->block->data,
                                     .delta = p->part[HN_SPARSE_DELTA]->data,
                                     .frozen = p->part[HN_SPARSE_FROZEN]->data,
                                     .out = m->out,
                                     .in = m->in,
                                     .ld_w = hn_type_ld(&m->w->type),
                                     .shape = m->shape,
                                     .capacity = m->capacity,
                                     .blocks = p->blocks,
                                     .values = p->values,
                                     .dtype = m->w->type.dtype};
    }
    if (hn_device_kind_of(device_of(s)) == HN_DEVICE_CUDA) {
        st = copy_there(a, s->n, what, hn_device_stream(device_of(s)));
        if (st == HN_OK) st = hn_device_wait(device_of(s));
    } else {
        for (int64_t i = 0; i < s->n && st == HN_OK; i++) st = copy_here(&a[i], what);
    }
    hn_free(a);
    return st;
}

hn_status hn_sparse_store(hn_sparse *s) { return copy_blocks(s, STORE); }

/* ---- a new support ---- */

/* What goes with blocks from one support to the next; values in the order of the device. */
typedef struct {
    float *delta, *moment1, *moment2;
    char *frozen; /* of W's dtype; NULL: not wanted */
    uint16_t *age;
} block_values;

/* Lists as they were, and what is to be. */
typedef struct {
    hn_sparse_span *span;
    int32_t *id, *place; /* place: on the device, of a block of the old list */
    int32_t *ids;        /* new ones in the order of the device */
    block_values old, new;
} moving;

static void free_values(block_values *v)
{
    hn_free(v->delta);
    hn_free(v->moment1);
    hn_free(v->moment2);
    hn_free(v->frozen);
    hn_free(v->age);
}

static void free_moving(moving *m)
{
    hn_free(m->span);
    hn_free(m->id);
    hn_free(m->place);
    hn_free(m->ids);
    free_values(&m->old);
    free_values(&m->new);
}

static bool take_values(const hn_block_pool *p, size_t frozen, block_values *v)
{
    const size_t n = (size_t)p->values;
    v->delta = hn_calloc(n, sizeof(float));
    v->moment1 = hn_calloc(n, sizeof(float));
    v->moment2 = hn_calloc(n, sizeof(float));
    v->age = hn_calloc((size_t)p->blocks, sizeof(uint16_t));
    if (frozen) v->frozen = hn_calloc(n, frozen);
    return v->delta && v->moment1 && v->moment2 && v->age && (v->frozen || !frozen);
}

static hn_status take_moving(const hn_sparse *s, bool frozen, moving *m)
{
    const hn_block_pool *p = &s->pool[HN_BLOCKS_TRAINED];
    const size_t size = frozen ? hn_dtype_size(p->part[HN_SPARSE_FROZEN]->type.dtype) : 0;
    m->span = hn_calloc((size_t)s->n, sizeof *m->span);
    m->id = hn_calloc((size_t)p->blocks, sizeof *m->id);
    m->place = hn_calloc((size_t)p->blocks, sizeof *m->place);
    m->ids = hn_calloc((size_t)p->blocks, sizeof *m->ids);
    if (m->span && m->id && m->place && m->ids && take_values(p, size, &m->old) &&
        take_values(p, size, &m->new))
        return HN_OK;
    return HN_FAIL(HN_ERR_MEMORY, "no memory for a support of %" PRId64 " values", p->values);
}

/* Reads or writes everything of v. */
static hn_status transfer(const hn_sparse *s, block_values *v, bool write)
{
    const hn_block_pool *p = &s->pool[HN_BLOCKS_TRAINED];
    const struct {
        const hn_tensor *t;
        void *host;
    } part[] = {{p->part[HN_SPARSE_DELTA], v->delta},
                {p->part[HN_SPARSE_MOMENT1], v->moment1},
                {p->part[HN_SPARSE_MOMENT2], v->moment2},
                {s->age, v->age},
                {p->part[HN_SPARSE_FROZEN], v->frozen}};
    for (size_t k = 0; k < sizeof part / sizeof *part; k++) {
        const size_t bytes = hn_type_bytes(&part[k].t->type);
        if (part[k].host == NULL) continue;
        if (write)
            HN_TRY(hn_tensor_write(part[k].t, 0, part[k].host, bytes));
        else
            HN_TRY(hn_tensor_read(part[k].t, 0, part[k].host, bytes));
    }
    return HN_OK;
}

static hn_status remember(const hn_sparse *s, moving *m)
{
    const hn_block_pool *p = &s->pool[HN_BLOCKS_TRAINED];
    memcpy(m->span, p->span, (size_t)s->n * sizeof *m->span);
    memcpy(m->id, p->id, (size_t)p->blocks * sizeof *m->id);
    for (int64_t i = 0; i < s->n; i++) {
        const int64_t first = p->span[i].first_block;
        for (int32_t k = 0; k < p->span[i].count; k++) m->place[first + p->order[first + k]] = k;
    }
    return transfer(s, &m->old, false);
}

/* Block k of a span of v. */
static void copy_block(block_values *to, const hn_sparse_span *to_span, int64_t k,
                       const block_values *from, const hn_sparse_span *from_span, int64_t j,
                       int64_t values, size_t frozen)
{
    const int64_t at = to_span->first_value + k * values, as = from_span->first_value + j * values;
    const size_t bytes = (size_t)values * sizeof(float);
    memcpy(to->delta + at, from->delta + as, bytes);
    memcpy(to->moment1 + at, from->moment1 + as, bytes);
    memcpy(to->moment2 + at, from->moment2 + as, bytes);
    to->age[to_span->first_block + k] = from->age[from_span->first_block + j];
    if (from->frozen != NULL)
        memcpy(to->frozen + (size_t)at * frozen, from->frozen + (size_t)as * frozen,
               (size_t)values * frozen);
}

/* Block k of the new span is block `j` of the caller's list. */
static void start_block(block_values *to, const hn_sparse_span *span, int64_t k,
                        const hn_block_start *start, int64_t first_value, int64_t j, int64_t block,
                        int64_t values)
{
    const int64_t at = span->first_value + k * values, as = first_value + j * values;
    const size_t bytes = (size_t)values * sizeof(float);
    if (start->moment1) memcpy(to->moment1 + at, start->moment1 + as, bytes);
    if (start->moment2) memcpy(to->moment2 + at, start->moment2 + as, bytes);
    if (start->age) to->age[span->first_block + k] = start->age[block];
}

/* The values of matrix i under the new lists; both lists ascend. */
static void move_matrix(const hn_sparse *s, moving *m, int64_t i, const hn_block_start *start)
{
    const hn_block_pool *p = &s->pool[HN_BLOCKS_TRAINED];
    const hn_sparse_span *now = &p->span[i], *old = &m->span[i];
    const int64_t values = s->entry[i].m.values;
    const size_t frozen = hn_dtype_size(p->part[HN_SPARSE_FROZEN]->type.dtype);
    const int32_t *id = p->id + now->first_block, *before = m->id + old->first_block;
    int32_t *place = m->ids; /* of the new list; the ids have been sent */
    for (int32_t k = 0; k < now->count; k++) place[p->order[now->first_block + k]] = k;
    for (int32_t j = 0, b = 0; j < now->count; j++) {
        while (b < old->count && before[b] < id[j]) b++;
        if (b < old->count && before[b] == id[j])
            copy_block(&m->new, now, place[j], &m->old, old, m->place[old->first_block + b], values,
                       frozen);
        else if (start != NULL)
            start_block(&m->new, now, place[j], start, now->first_value, j, now->first_block + j,
                        values);
    }
}

static hn_status clear_gathered(hn_sparse *s)
{
    const hn_block_pool *trained = &s->pool[HN_BLOCKS_TRAINED];
    HN_TRY(fill_bytes(s, trained->grad, 0));
    return fill_bytes(s, trained->part[HN_SPARSE_SUM], 0);
}

/* Blocks of matrix i that are not in the new list l keep their change: hn_sparse_keep. */
static hn_status keep_matrix(hn_sparse *s, const moving *m, int64_t i, const hn_block_lists *l)
{
    const hn_sparse_span *old = &m->span[i];
    const int64_t values = s->entry[i].m.values;
    const hn_dtype dtype = s->pool[HN_BLOCKS_TRAINED].part[HN_SPARSE_FROZEN]->type.dtype;
    const int32_t *before = m->id + old->first_block, *place = m->place + old->first_block;
    int64_t n = 0, k = l->first[i];
    int32_t *id = hn_malloc((size_t)old->count * sizeof *id + 1);
    float *base = hn_malloc((size_t)(old->count * values) * sizeof *base + 1);
    hn_status st = id && base ? HN_OK
                              : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of blocks that go",
                                        old->count * values);
    for (int32_t b = 0; st == HN_OK && b < old->count; b++) {
        while (k < l->first[i + 1] && l->id[k] < before[b]) k++;
        if (k < l->first[i + 1] && l->id[k] == before[b]) continue;
        hn_to_f32(m->old.frozen, dtype, old->first_value + place[b] * values, values,
                  base + n * values);
        id[n++] = before[b];
    }
    if (st == HN_OK) st = hn_sparse_keep(s, i, id, n, base);
    hn_free(id);
    hn_free(base);
    return st;
}

/* Where W was not restored, blocks that stay keep what W had at first. */
static hn_status frozen_of_new(const hn_sparse *s, moving *m)
{
    if (m->new.frozen == NULL) return HN_OK;
    const hn_tensor *t = s->pool[HN_BLOCKS_TRAINED].part[HN_SPARSE_FROZEN];
    return hn_tensor_read(t, 0, m->new.frozen, hn_type_bytes(&t->type));
}

hn_status hn_sparse_select(hn_sparse *s, const hn_block_lists *l, const hn_block_start *start,
                           bool keep_dropped)
{
    moving m = {0};
    HN_TRY(check_lists(s, HN_BLOCKS_TRAINED, l));
    hn_status st = take_moving(s, keep_dropped, &m);
    if (st != HN_OK) goto done;
    HN_TRY_GOTO(st, remember(s, &m), done);
    if (!keep_dropped) HN_TRY_GOTO(st, copy_blocks(s, RESTORE), done);
    for (int64_t i = 0; keep_dropped && i < s->n; i++)
        HN_TRY_GOTO(st, keep_matrix(s, &m, i, l), done);
    HN_TRY_GOTO(st, install(s, &s->pool[HN_BLOCKS_TRAINED], l, m.ids), done);
    HN_TRY_GOTO(st, copy_blocks(s, KEEP), done);
    HN_TRY_GOTO(st, frozen_of_new(s, &m), done);
    for (int64_t i = 0; i < s->n; i++) move_matrix(s, &m, i, start);
    HN_TRY_GOTO(st, transfer(s, &m.new, true), done);
    HN_TRY_GOTO(st, clear_gathered(s), done);
    st = copy_blocks(s, STORE);

done:
    free_moving(&m);
    return st;
}

/* Lists without a block: zeros, [matrices + 1]. */
static hn_status no_blocks(const hn_sparse *s, int64_t **first, hn_block_lists *l)
{
    *first = hn_calloc((size_t)s->n + 1, sizeof **first);
    if (*first == NULL) return HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " matrices", s->n);
    *l = (hn_block_lists){*first, NULL};
    return HN_OK;
}

hn_status hn_sparse_revert(hn_sparse *s)
{
    int64_t *first;
    hn_block_lists none;
    HN_TRY(no_blocks(s, &first, &none));
    const hn_status st = hn_sparse_select(s, &none, NULL, false);
    hn_free(first);
    return st == HN_OK ? hn_sparse_forget_kept(s) : st;
}

hn_status hn_sparse_restart(hn_sparse *s)
{
    if (s->o.candidates > 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "an engine that restarts, with selections of blocks");
    return fill_bytes(s, s->age, 0);
}

/* ---- values ---- */

hn_block_set hn_sparse_set_of(hn_sparse_part part)
{
    return part == HN_SPARSE_WATCHED_SUM || part == HN_SPARSE_WATCHED_SQUARE ? HN_BLOCKS_WATCHED
                                                                             : HN_BLOCKS_TRAINED;
}

static hn_status part_of(const hn_sparse *s, hn_sparse_part part, const hn_tensor **t)
{
    *t = s->pool[hn_sparse_set_of(part)].part[part];
    return *t ? HN_OK
              : HN_FAIL(HN_ERR_ARG, "a sum of gradients that selections of this run do not read");
}

bool hn_sparse_has(const hn_sparse *s, hn_sparse_part part)
{
    return s->pool[hn_sparse_set_of(part)].part[part] != NULL;
}

/* Moves the blocks of a span between the order of a list and that of the device. */
static void reorder(const hn_block_pool *p, const hn_sparse_span *span, int64_t values,
                    float *device, float *list, bool to_device)
{
    const int32_t *order = p->order + span->first_block;
    const size_t bytes = (size_t)values * sizeof *list;
    for (int64_t k = 0; k < span->count; k++) {
        float *there = device + k * values, *here = list + order[k] * values;
        if (to_device)
            memcpy(there, here, bytes);
        else
            memcpy(here, there, bytes);
    }
}

hn_status hn_sparse_get(const hn_sparse *s, hn_sparse_part part, int64_t i, float *out)
{
    const hn_tensor *t;
    HN_TRY(part_of(s, part, &t));
    const hn_block_pool *p = &s->pool[hn_sparse_set_of(part)];
    const hn_sparse_span *span = &p->span[i];
    const int64_t values = s->entry[i].m.values, n = span->count * values;
    const size_t size = hn_dtype_size(t->type.dtype);
    if (n == 0) return HN_OK;
    char *bytes = hn_malloc((size_t)n * (size + sizeof(float)));
    if (bytes == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of blocks", n);
    float *dense = (float *)(void *)bytes;
    void *stored = bytes + (size_t)n * sizeof(float);
    const hn_status st =
        hn_tensor_read(t, (size_t)span->first_value * size, stored, (size_t)n * size);
    if (st == HN_OK) {
        hn_to_f32(stored, t->type.dtype, 0, n, dense);
        reorder(p, span, values, dense, out, false);
    }
    hn_free(bytes);
    return st;
}

hn_status hn_sparse_set(hn_sparse *s, hn_sparse_part part, int64_t i, const float *value)
{
    const hn_tensor *t;
    HN_TRY(part_of(s, part, &t));
    if (part == HN_SPARSE_FROZEN)
        return HN_FAIL(HN_ERR_ARG, "frozen values are those of the weight, none are taken");
    const hn_block_pool *p = &s->pool[hn_sparse_set_of(part)];
    const hn_sparse_span *span = &p->span[i];
    const int64_t values = s->entry[i].m.values, n = span->count * values;
    if (n == 0) return HN_OK;
    float *device = hn_malloc((size_t)n * sizeof *device);
    if (device == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of blocks", n);
    reorder(p, span, values, device, (float *)(size_t)value, true);
    const hn_status st = hn_tensor_write(t, (size_t)span->first_value * sizeof *device, device,
                                         (size_t)n * sizeof *device);
    hn_free(device);
    return st;
}

/* ages of one matrix, in either order */
static hn_status move_ages(const hn_sparse *s, int64_t i, uint16_t *list, bool to_device)
{
    const hn_block_pool *p = &s->pool[HN_BLOCKS_TRAINED];
    const hn_sparse_span *span = &p->span[i];
    const int32_t *order = p->order + span->first_block;
    const size_t at = (size_t)span->first_block * sizeof(uint16_t);
    const size_t bytes = (size_t)span->count * sizeof(uint16_t);
    hn_status st = HN_OK;
    if (span->count == 0) return HN_OK;
    uint16_t *device = hn_malloc(bytes);
    if (device == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for ages", bytes);
    for (int32_t k = 0; to_device && k < span->count; k++) device[k] = list[order[k]];
    if (to_device)
        st = hn_tensor_write(s->age, at, device, bytes);
    else
        st = hn_tensor_read(s->age, at, device, bytes);
    for (int32_t k = 0; !to_device && st == HN_OK && k < span->count; k++)
        list[order[k]] = device[k];
    hn_free(device);
    return st;
}

hn_status hn_sparse_get_ages(const hn_sparse *s, int64_t i, uint16_t *out)
{
    return move_ages(s, i, out, false);
}

hn_status hn_sparse_set_ages(hn_sparse *s, int64_t i, const uint16_t *age)
{
    return move_ages(s, i, (uint16_t *)(size_t)age, true);
}

/* ---- tables ---- */

static hn_status fill_sizes(hn_sparse *s)
{
    if (s->sizes == NULL) return HN_OK;
    int32_t *size = hn_malloc((size_t)s->n * sizeof *size);
    if (size == NULL) return HN_FAIL(HN_ERR_MEMORY, "sizes of %" PRId64 " blocks", s->n);
    for (int64_t i = 0; i < s->n; i++) size[i] = (int32_t)s->entry[i].m.values;
    const hn_status st = hn_tensor_write(s->sizes, 0, size, (size_t)s->n * sizeof *size);
    hn_free(size);
    return st;
}

hn_status hn_sparse_fill(hn_sparse *s, double beta1, double beta2)
{
    const size_t bytes = hn_type_bytes(&s->corrections->type);
    float *table = hn_malloc(bytes);
    if (table == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for bias corrections", bytes);
    hn_sparse_corrections(beta1, beta2, table);
    hn_status st = hn_tensor_write(s->corrections, 0, table, bytes);
    hn_free(table);
    if (st == HN_OK) st = fill_sizes(s);
    return st == HN_OK && s->o.candidates > 0 ? hn_sparse_begin(s) : st;
}

/* ---- a selection ---- */

static size_t bytes_of(const hn_tensor *t) { return t != NULL ? hn_type_bytes(&t->type) : 0; }

size_t hn_sparse_selection_bytes(const hn_sparse *s)
{
    const hn_block_pool *p = &s->pool[HN_BLOCKS_WATCHED];
    size_t n = bytes_of(p->spans) + bytes_of(p->block) + bytes_of(p->grad);
    for (int k = HN_SPARSE_SUM; k < HN_SPARSE_PART_COUNT; k++)
        n += bytes_of(s->pool[hn_sparse_set_of((hn_sparse_part)k)].part[k]);
    for (int64_t i = 0; i < s->n; i++) {
        const hn_sparse_entry *e = &s->entry[i];
        n += bytes_of(e->ids) + bytes_of(e->acc) + (p->tile_first ? bytes_of(p->tile_first[i]) : 0);
    }
    return n + bytes_of(s->dense);
}

hn_sparse_progress *hn_sparse_progress_of(hn_sparse *s) { return &s->progress; }

int64_t hn_sparse_scored(const hn_sparse *s, int64_t i)
{
    if (s->n_groups == 0) return 0;
    return (s->progress.score_steps + s->n_groups - 1 - s->entry[i].group) / s->n_groups;
}

hn_status hn_sparse_begin(hn_sparse *s)
{
    int64_t *first;
    hn_block_lists none;
    HN_TRY(needs_candidates(s));
    for (int64_t i = 0; i < s->n; i++) {
        HN_TRY(fill_bytes(s, s->entry[i].ids, 0xff)); /* -1: none */
        HN_TRY(fill_bytes(s, s->entry[i].acc, 0));
        HN_TRY(fill_bytes(s, s->entry[i].dense, 0));
    }
    s->progress = (hn_sparse_progress){0};
    if (!hn_sparse_watches(s)) return HN_OK;
    HN_TRY(no_blocks(s, &first, &none));
    const hn_status st = hn_sparse_watch(s, &none);
    hn_free(first);
    return st;
}

hn_status hn_sparse_scores(const hn_sparse *s, int64_t i, int32_t *ids, float *sum, int64_t *n)
{
    const hn_sparse_entry *e = &s->entry[i];
    HN_TRY(needs_candidates(s));
    *n = 0;
    if (e->ids == NULL) return HN_OK;
    HN_TRY(hn_tensor_read(e->ids, 0, ids, (size_t)e->m.kept * sizeof *ids));
    HN_TRY(hn_tensor_read(e->acc, 0, sum, (size_t)e->m.kept * sizeof *sum));
    for (int64_t k = 0; k < e->m.kept; k++) {
        if (ids[k] < 0) continue;
        ids[*n] = ids[k];
        sum[(*n)++] = sum[k];
    }
    return HN_OK;
}

hn_status hn_sparse_set_scores(hn_sparse *s, int64_t i, const int32_t *ids, const float *sum,
                               int64_t n)
{
    const hn_sparse_entry *e = &s->entry[i];
    HN_TRY(needs_candidates(s));
    HN_TRY(hn_sparse_check_list(&e->m, ids, n, e->ids ? e->m.kept : 0));
    HN_TRY(fill_bytes(s, e->ids, 0xff));
    HN_TRY(fill_bytes(s, e->acc, 0));
    if (n == 0) return HN_OK;
    HN_TRY(hn_tensor_write(e->ids, 0, ids, (size_t)n * sizeof *ids));
    return hn_tensor_write(e->acc, 0, sum, (size_t)n * sizeof *sum);
}

hn_status hn_sparse_watch(hn_sparse *s, const hn_block_lists *l)
{
    hn_block_pool *p = &s->pool[HN_BLOCKS_WATCHED];
    HN_TRY(needs_candidates(s));
    if (!hn_sparse_watches(s))
        return HN_FAIL(HN_ERR_ARG, "selections of this run read scores alone, nothing is watched");
    HN_TRY(check_lists(s, HN_BLOCKS_WATCHED, l));
    int32_t *ids = hn_malloc((size_t)p->blocks * sizeof *ids);
    if (ids == NULL) return HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " blocks", p->blocks);
    hn_status st = install(s, p, l, ids);
    hn_free(ids);
    HN_TRY(st);
    s->progress.window_steps = 0;
    HN_TRY(fill_bytes(s, p->grad, 0));
    HN_TRY(fill_bytes(s, p->part[HN_SPARSE_WATCHED_SUM], 0));
    HN_TRY(fill_bytes(s, p->part[HN_SPARSE_WATCHED_SQUARE], 0));
    return fill_bytes(s, s->pool[HN_BLOCKS_TRAINED].part[HN_SPARSE_SUM], 0);
}
