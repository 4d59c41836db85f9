#include "runtime/graph/tensor.h"

#include "runtime/base/alloc.h"
#include "runtime/base/convert.h"
#include "runtime/graph/graph_impl.h"

enum { STAGE_BYTES = 16 << 20 }; /* at least a row: host memory between a device and dense values */

size_t hn_tensor_span(const hn_tensor *t)
{
    const int64_t rows = hn_type_rows(&t->type), ld = hn_type_ld(&t->type);
    return (size_t)((rows - 1) * ld + hn_type_cols(&t->type)) * hn_dtype_size(t->type.dtype);
}

hn_tensor hn_tensor_replica(const hn_tensor *t, int64_t g)
{
    hn_tensor one = *t;
    one.type.replicas = 0;
    one.data = (char *)t->data + (size_t)(g * hn_replica_stride(t)) * hn_dtype_size(t->type.dtype);
    return one;
}

/* Bytes from one replica of a class to the next: its tensors have one dtype. */
static size_t replica_bytes(const hn_program *p, hn_mem mem)
{
    if (p->class_list[mem].n == 0) return 0;
    const hn_dtype dtype = p->class_list[mem].item[0]->type.dtype;
    return (size_t)hn_program_class_elements(p, mem, dtype) * hn_dtype_size(dtype);
}

void *hn_program_replica(const hn_program *p, hn_mem mem, int64_t g, size_t *n_bytes)
{
    *n_bytes = replica_bytes(p, mem);
    return *n_bytes > 0 ? p->memory[mem] + (size_t)g * *n_bytes : NULL;
}

/* Twice as many with every copy. */
hn_status hn_program_spread(hn_program *p, hn_mem mem)
{
    const size_t bytes = replica_bytes(p, mem), all = bytes * (size_t)p->replicas;
    unsigned char *const from = p->memory[mem];
    for (size_t done = bytes; done < all; done *= 2)
        HN_TRY(hn_device_copy(p->device, from + done, from, done < all - done ? done : all - done));
    return HN_OK;
}

hn_status hn_program_clear(hn_program *p, hn_mem mem)
{
    const size_t all = replica_bytes(p, mem) * (size_t)p->replicas;
    return all > 0 ? hn_device_fill(p->device, p->memory[mem], 0, all) : HN_OK;
}

/* What no rank has all of. */
static hn_status check_whole(const hn_tensor *t)
{
    if (hn_shard_of(t) == NULL) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: this rank has a share of it, not all", t->name);
}

/* Of a tensor in a range: what of these bytes is this rank's. */
static hn_status write_share(const hn_tensor *t, size_t offset, const char *from, size_t bytes)
{
    const hn_shard *s = hn_shard_of(t);
    const size_t at = hn_shard_offset(s, t) + offset;
    size_t first = at, end = at + bytes;
    hn_shard_clip(s, &first, &end);
    if (first == end) return HN_OK;
    return hn_tensor_write(s->own, first - s->share * (size_t)t->program->share_rank,
                           from + (first - at), end - first);
}

static bool on_host(const hn_tensor *t)
{
    return hn_device_kind_of(t->program->device) == HN_DEVICE_CPU;
}

hn_status hn_tensor_write(const hn_tensor *t, size_t offset, const void *from, size_t bytes)
{
    if (hn_shard_of(t)) return write_share(t, offset, from, bytes);
    return hn_device_write(t->program->device, (char *)t->data + offset, from, bytes);
}

hn_status hn_tensor_read(const hn_tensor *t, size_t offset, void *to, size_t bytes)
{
    HN_TRY(check_whole(t));
    return hn_device_read(t->program->device, to, (const char *)t->data + offset, bytes);
}

/* The same for rows: those at the ends of the share may be in two. */
static hn_status write_share_rows(const hn_tensor *t, int64_t first, int64_t rows, const char *from,
                                  size_t from_pitch)
{
    const hn_shard *s = hn_shard_of(t);
    const size_t size = hn_dtype_size(t->type.dtype), pitch = (size_t)hn_type_ld(&t->type) * size;
    const size_t row_bytes = (size_t)hn_type_cols(&t->type) * size;
    const size_t at = hn_shard_offset(s, t), share_at = s->share * (size_t)t->program->share_rank;
    int64_t i = 0, own_first, own_rows;
    hn_tensor_own_rows(t, &own_first, &own_rows);
    if (first < own_first) i = own_first - first;
    if (first + rows > own_first + own_rows) rows = own_first + own_rows - first;
    for (int64_t n; i < rows; i += n) {
        const size_t begin = at + (size_t)(first + i) * pitch;
        size_t clip_first = begin, clip_end = begin + (size_t)(rows - i - 1) * pitch + row_bytes;
        hn_shard_clip(s, &clip_first, &clip_end);
        n = clip_first > begin || clip_end < begin + row_bytes
                ? 1
                : (int64_t)((clip_end - begin - row_bytes) / pitch) + 1; /* whole ones */
        if (n == 1)
            HN_TRY(write_share(t, (size_t)(first + i) * pitch, from + (size_t)i * from_pitch,
                               row_bytes));
        else
            HN_TRY(hn_device_write_rows(
                t->program->device, (char *)s->own->data + (begin - share_at), pitch,
                from + (size_t)i * from_pitch, from_pitch, row_bytes, (size_t)n));
    }
    return HN_OK;
}

hn_status hn_tensor_write_rows(const hn_tensor *t, int64_t first, int64_t rows, const void *from,
                               size_t from_pitch)
{
    const size_t size = hn_dtype_size(t->type.dtype), pitch = (size_t)hn_type_ld(&t->type) * size;
    const size_t row_bytes = (size_t)hn_type_cols(&t->type) * size;
    if (hn_shard_of(t)) return write_share_rows(t, first, rows, from, from_pitch);
    return hn_device_write_rows(t->program->device, (char *)t->data + (size_t)first * pitch, pitch,
                                from, from_pitch, row_bytes, (size_t)rows);
}

/* Rows that are moved at a time, and the memory for them. */
typedef struct {
    size_t row_bytes; /* padding included */
    int64_t rows;
    char *memory;
} stage;

static hn_status open_stage(const hn_tensor *t, int64_t rows, stage *s)
{
    s->row_bytes = (size_t)hn_type_ld(&t->type) * hn_dtype_size(t->type.dtype);
    s->rows = (int64_t)(STAGE_BYTES / s->row_bytes);
    if (s->rows < 1) s->rows = 1;
    if (s->rows > rows) s->rows = rows;
    s->memory = hn_calloc((size_t)s->rows, s->row_bytes);
    return s->memory ? HN_OK
                     : HN_FAIL(HN_ERR_MEMORY, "%zu bytes to move %s",
                               (size_t)s->rows * s->row_bytes, t->name);
}

/* Bytes of n rows of t that begin at row `first`: the last row of a view has no padding. */
static size_t piece_bytes(const hn_tensor *t, const stage *s, int64_t first, int64_t n)
{
    const size_t at = (size_t)first * s->row_bytes, bytes = (size_t)n * s->row_bytes;
    return at + bytes <= hn_tensor_span(t) ? bytes : hn_tensor_span(t) - at;
}

static void store_rows(const hn_type *t, char *to, int64_t rows, const float *dense)
{
    const int64_t cols = hn_type_cols(t), ld = hn_type_ld(t);
#pragma omp parallel for schedule(static) if (rows * cols > 1 << 16)
    for (int64_t i = 0; i < rows; i++) hn_from_f32(dense + i * cols, cols, to, t->dtype, i * ld);
}

hn_status hn_tensor_set_rows(const hn_tensor *t, int64_t first, int64_t rows, const float *dense)
{
    const int64_t cols = hn_type_cols(&t->type);
    stage s;
    if (on_host(t) && hn_shard_of(t) == NULL) {
        const size_t row_bytes = (size_t)hn_type_ld(&t->type) * hn_dtype_size(t->type.dtype);
        store_rows(&t->type, (char *)t->data + (size_t)first * row_bytes, rows, dense);
        return HN_OK;
    }
    HN_TRY(open_stage(t, rows, &s));
    hn_status st = HN_OK;
    for (int64_t i = 0; st == HN_OK && i < rows; i += s.rows) {
        const int64_t n = rows - i < s.rows ? rows - i : s.rows;
        store_rows(&t->type, s.memory, n, dense + i * cols);
        st = hn_tensor_write_rows(t, first + i, n, s.memory, s.row_bytes);
    }
    hn_free(s.memory);
    return st;
}

hn_status hn_tensor_set(const hn_tensor *t, const float *dense)
{
    return hn_tensor_set_rows(t, 0, hn_type_rows(&t->type), dense);
}

static void load_rows(const hn_type *t, const char *from, int64_t rows, float *dense)
{
    const int64_t cols = hn_type_cols(t), ld = hn_type_ld(t);
    for (int64_t i = 0; i < rows; i++) hn_to_f32(from, t->dtype, i * ld, cols, dense + i * cols);
}

hn_status hn_tensor_get(const hn_tensor *t, float *dense)
{
    const int64_t rows = hn_type_rows(&t->type), cols = hn_type_cols(&t->type);
    stage s;
    HN_TRY(check_whole(t));
    if (on_host(t)) {
        load_rows(&t->type, t->data, rows, dense);
        return HN_OK;
    }
    HN_TRY(open_stage(t, rows, &s));
    hn_status st = HN_OK;
    for (int64_t i = 0; st == HN_OK && i < rows; i += s.rows) {
        const int64_t n = rows - i < s.rows ? rows - i : s.rows;
        st = hn_tensor_read(t, (size_t)i * s.row_bytes, s.memory, piece_bytes(t, &s, i, n));
        if (st == HN_OK) load_rows(&t->type, s.memory, n, dense + i * cols);
    }
    hn_free(s.memory);
    return st;
}

hn_status hn_tensor_host(const hn_tensor *t, const void **data, void **copy)
{
    *copy = NULL;
    HN_TRY(check_whole(t));
    return hn_tensor_now(t, data, copy);
}

hn_status hn_tensor_now(const hn_tensor *t, const void **data, void **copy)
{
    *copy = NULL;
    *data = t->data;
    if (on_host(t)) return HN_OK;
    void *bytes = hn_malloc(hn_tensor_span(t));
    if (bytes == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a copy of %s", hn_tensor_span(t), t->name);
    const hn_status st = hn_device_read(t->program->device, bytes, t->data, hn_tensor_span(t));
    if (st != HN_OK) {
        hn_free(bytes);
        return st;
    }
    *data = *copy = bytes;
    return HN_OK;
}
