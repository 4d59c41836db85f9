#include "runtime/fed/support.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/fed/wire.h"
#include "runtime/file/gap_code.h"

static const char MAGIC[8] = {'h', 'o', 'n', 'e', '-', 'i', 'd', 's'};
enum { VERSION = 1, DIGEST = HN_FED_DIGEST, MOST_MATRICES = 1 << 14 };

/* The first HN_FED_SUPPORT_HEADER bytes, as support.h draws them. */
typedef struct {
    char magic[8];
    uint32_t version, matrices;
    int64_t body;
    uint8_t digest[DIGEST];
    uint32_t zero, crc;
} wire;
_Static_assert(sizeof(wire) == HN_FED_SUPPORT_HEADER, "the header has no holes");

/* In front of a matrix's name and code. */
typedef struct {
    int64_t name, out, in, br, bc, n, k, code;
} record;

void hn_fed_support_free(hn_fed_support *s)
{
    hn_free(s->matrix);
    hn_arena_free(&s->memory);
    *s = (hn_fed_support){0};
}

int64_t hn_fed_support_find(const hn_fed_support *s, const char *name)
{
    for (int64_t i = 0; i < s->count; i++)
        if (strcmp(s->matrix[i].name, name) == 0) return i;
    return -1;
}

/* ---- what a matrix must be ---- */

static bool is_shape(const hn_fed_matrix *m)
{
    return m->br >= 1 && m->bc >= 1 && m->out >= 1 && m->in >= 1 && m->out % m->br == 0 &&
           m->in % m->bc == 0 && m->in <= INT64_MAX / 64 / m->out &&
           m->out / m->br <= INT32_MAX / (m->in / m->bc);
}

static int64_t blocks_of(const hn_fed_matrix *m) { return m->out / m->br * (m->in / m->bc); }

/* Of a shape and blocks that can be: whether there is room for their values among INT32_MAX. */
static bool has_room(const hn_fed_support *s, const hn_fed_matrix *m)
{
    return m->n * m->br * m->bc <= INT32_MAX - s->values;
}

static hn_status check_matrix(const hn_fed_support *s, const hn_fed_matrix *m)
{
    const size_t length = strlen(m->name);
    if (length == 0 || length > HN_FED_SUPPORT_NAME || hn_fed_support_find(s, m->name) >= 0)
        return HN_FAIL(HN_ERR_ARG, "support: matrix '%.80s': an empty, long or second name",
                       m->name);
    if (!is_shape(m))
        return HN_FAIL(HN_ERR_ARG,
                       "support: %s: blocks of %" PRId64 " x %" PRId64 " in [%" PRId64 ", %" PRId64
                       "]",
                       m->name, m->br, m->bc, m->out, m->in);
    if (m->n < 1 || m->n > blocks_of(m))
        return HN_FAIL(HN_ERR_ARG, "support: %s: %" PRId64 " blocks of %" PRId64, m->name, m->n,
                       blocks_of(m));
    if (!has_room(s, m))
        return HN_FAIL(HN_ERR_ARG,
                       "support: %s: %" PRId64 " blocks beside %" PRId64
                       " values: more than %d together",
                       m->name, m->n, s->values, INT32_MAX);
    for (int64_t i = 0; i < m->n; i++)
        if (m->id[i] < 0 || m->id[i] >= blocks_of(m) || (i > 0 && m->id[i] <= m->id[i - 1]))
            return HN_FAIL(HN_ERR_ARG,
                           "support: %s: block %d at place %" PRId64 ": ids ascend, below %" PRId64,
                           m->name, (int)m->id[i], i, blocks_of(m));
    return HN_OK;
}

hn_status hn_fed_support_add(hn_fed_support *s, const hn_fed_matrix *m)
{
    HN_TRY(check_matrix(s, m));
    HN_TRY(hn_grow(&s->matrix, &s->cap, s->count, sizeof *s->matrix));
    const size_t bytes = (size_t)m->n * sizeof *m->id;
    hn_fed_matrix copy = *m;
    int32_t *id = hn_arena_take(&s->memory, bytes);
    copy.name = hn_arena_text(&s->memory, "%s", m->name);
    if (id == NULL || copy.name == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " blocks of %s", m->n, m->name);
    memcpy(id, m->id, bytes);
    copy.id = id;
    copy.values = m->n * m->br * m->bc;
    s->matrix[s->count++] = copy;
    s->blocks += copy.n;
    s->values += copy.values;
    return HN_OK;
}

/* ---- bytes ---- */

static hn_status put(hn_fed_bytes *b, const void *from, size_t n)
{
    if (b->cap - b->n < n) {
        const size_t cap = b->n + n > 2 * b->cap ? b->n + n : 2 * b->cap;
        uint8_t *grown = hn_realloc(b->data, cap);
        if (grown == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for ids of blocks", cap);
        b->data = grown;
        b->cap = cap;
    }
    memcpy(b->data + b->n, from, n);
    b->n += n;
    return HN_OK;
}

hn_status hn_fed_support_digest(const hn_fed_support *s, char hex[HN_SHA256_HEX])
{
    static const char title[] = "hone-fed support 1";
    hn_fed_bytes b = {0};
    hn_status st = put(&b, title, sizeof title);
    for (int64_t i = 0; st == HN_OK && i < s->count; i++) {
        const hn_fed_matrix *m = &s->matrix[i];
        const int64_t fact[] = {m->out, m->in, m->br, m->bc, m->n};
        st = put(&b, m->name, strlen(m->name) + 1);
        if (st == HN_OK) st = put(&b, fact, sizeof fact);
        if (st == HN_OK) st = put(&b, m->id, (size_t)m->n * sizeof *m->id);
    }
    if (st == HN_OK) st = hn_sha256(b.data, b.n, hex);
    hn_fed_bytes_free(&b);
    return st;
}

static hn_status raw_digest(const hn_fed_support *s, uint8_t digest[DIGEST])
{
    char hex[HN_SHA256_HEX];
    HN_TRY(hn_fed_support_digest(s, hex));
    hn_fed_raw_digest(hex, digest);
    return HN_OK;
}

static hn_status put_matrix(hn_fed_bytes *b, const hn_fed_matrix *m)
{
    uint8_t *code = NULL;
    int64_t n_code = 0;
    const int k = hn_gap_k(m->n, blocks_of(m));
    HN_TRY(hn_gap_encode(m->id, m->n, k, &code, &n_code));
    const record r = {(int64_t)strlen(m->name), m->out, m->in, m->br, m->bc, m->n, k, n_code};
    hn_status st = put(b, &r, sizeof r);
    if (st == HN_OK) st = put(b, m->name, (size_t)r.name);
    if (st == HN_OK) st = put(b, code, (size_t)n_code);
    hn_free(code);
    return st;
}

hn_status hn_fed_support_encode(const hn_fed_support *s, hn_fed_bytes *out)
{
    wire w = {.version = VERSION, .matrices = (uint32_t)s->count};
    out->n = 0;
    if (s->count > MOST_MATRICES)
        return HN_FAIL(HN_ERR_ARG, "support: %" PRId64 " matrices", s->count);
    memcpy(w.magic, MAGIC, sizeof MAGIC);
    HN_TRY(raw_digest(s, w.digest));
    HN_TRY(put(out, &w, sizeof w));
    for (int64_t i = 0; i < s->count; i++) HN_TRY(put_matrix(out, &s->matrix[i]));
    w.body = (int64_t)(out->n - sizeof w);
    memcpy(out->data, &w, sizeof w);
    w.crc = hn_fed_checksum(out->data, out->n, offsetof(wire, crc));
    memcpy(out->data, &w, sizeof w);
    return HN_OK;
}

/* ---- back ---- */

bool hn_fed_is_support(const void *bytes, size_t n)
{
    return n >= sizeof MAGIC && memcmp(bytes, MAGIC, sizeof MAGIC) == 0;
}

static hn_status check_header(const uint8_t *bytes, size_t n, wire *w)
{
    if (n < sizeof *w || !hn_fed_is_support(bytes, n))
        return HN_FAIL(HN_ERR_FORMAT, "ids of blocks: %zu bytes that are no such message", n);
    memcpy(w, bytes, sizeof *w);
    if (w->version != VERSION)
        return HN_FAIL(HN_ERR_FORMAT, "ids of blocks: version %" PRIu32 ", this is %d", w->version,
                       (int)VERSION);
    if (w->body < 0 || (uint64_t)w->body != n - sizeof *w || w->zero != 0 ||
        w->matrices > MOST_MATRICES)
        return HN_FAIL(HN_ERR_FORMAT, "ids of blocks: truncated or too long, %zu bytes", n);
    if (w->crc != hn_fed_checksum(bytes, n, offsetof(wire, crc)))
        return HN_FAIL(HN_ERR_FORMAT, "ids of blocks: bad checksum");
    return HN_OK;
}

/* One matrix from bytes[*at) on. */
static hn_status take_matrix(const uint8_t *bytes, size_t n, size_t *at, hn_fed_support *s)
{
    record r;
    char name[HN_FED_SUPPORT_NAME + 1];
    if (n - *at < sizeof r) return HN_FAIL(HN_ERR_FORMAT, "ids of blocks: end inside a matrix");
    memcpy(&r, bytes + *at, sizeof r);
    *at += sizeof r;
    if (r.name < 1 || r.name > HN_FED_SUPPORT_NAME || (uint64_t)r.name > n - *at || r.code < 0 ||
        (uint64_t)r.code > n - *at - (uint64_t)r.name || r.n < 1 || r.n > 8 * r.code || r.k < 0 ||
        r.k > HN_GAP_MAX_K)
        return HN_FAIL(HN_ERR_FORMAT, "ids of blocks: matrix %" PRId64 ": a field out of range",
                       s->count);
    memcpy(name, bytes + *at, (size_t)r.name);
    name[r.name] = '\0';
    *at += (size_t)r.name;
    hn_fed_matrix m = {.name = name, .out = r.out, .in = r.in, .br = r.br, .bc = r.bc, .n = r.n};
    if (strlen(name) != (size_t)r.name || !is_shape(&m) || m.n > blocks_of(&m) ||
        !has_room(s, &m) || hn_fed_support_find(s, name) >= 0)
        return HN_FAIL(HN_ERR_FORMAT, "ids of blocks: matrix %" PRId64 ": no name or shape",
                       s->count);
    int32_t *id = hn_malloc((size_t)m.n * sizeof *id);
    if (id == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " ids of blocks", m.n);
    hn_status st = hn_gap_decode(bytes + *at, r.code, m.n, blocks_of(&m), (int)r.k, name, id);
    *at += (size_t)r.code;
    m.id = id;
    if (st == HN_OK) st = hn_fed_support_add(s, &m);
    hn_free(id);
    return st;
}

static hn_status take_all(const uint8_t *bytes, size_t n, hn_fed_support *s)
{
    wire w;
    uint8_t digest[DIGEST];
    size_t at = sizeof w;
    HN_TRY(check_header(bytes, n, &w));
    for (uint32_t i = 0; i < w.matrices; i++) HN_TRY(take_matrix(bytes, n, &at, s));
    if (at != n) return HN_FAIL(HN_ERR_FORMAT, "ids of blocks: %zu bytes left over", n - at);
    HN_TRY(raw_digest(s, digest));
    if (memcmp(digest, w.digest, DIGEST) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "ids of blocks: their digest is another");
    return HN_OK;
}

hn_status hn_fed_support_decode(const void *bytes, size_t n, hn_fed_support *out)
{
    hn_fed_support s = {0};
    const hn_status st = take_all(bytes, n, &s);
    if (st == HN_OK)
        *out = s;
    else
        hn_fed_support_free(&s);
    return st;
}
