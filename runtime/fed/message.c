#include "runtime/fed/message.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/bf16.h"
#include "runtime/fed/compress.h"
#include "runtime/fed/wire.h"
#include "runtime/file/gap_code.h"

static const char MAGIC[8] = {'h', 'o', 'n', 'e', '-', 'f', 'e', 'd'};
enum { VERSION = 1, DIFFERENCE = 1, FISHER = 2, DIGEST = HN_FED_DIGEST, WHO = 64 };

/* The first HN_FED_HEADER_BYTES bytes, as message.h draws them. */
typedef struct {
    char magic[8];
    uint32_t version, kind, encoding, flags;
    int64_t round, client, samples;
    float loss;
    uint32_t zero;
    int64_t tensors;
    uint8_t layout[DIGEST];
    int64_t elements, sent, body;
    uint32_t gap_k, crc;
} wire;
_Static_assert(sizeof(wire) == HN_FED_HEADER_BYTES, "the header has no holes");

const char *hn_fed_encoding_name(hn_fed_encoding e)
{
    static const char *const names[] = {"f32", "bf16", "topk"};
    return (unsigned)e < sizeof names / sizeof *names ? names[e] : "?";
}

void hn_fed_bytes_free(hn_fed_bytes *b)
{
    hn_free(b->data);
    *b = (hn_fed_bytes){0};
}

/* ---- what an update must be ---- */

static hn_status check_fisher(const hn_fed_layout *l, const float *fisher, const char *who)
{
    for (int64_t i = 0; i < l->count; i++) {
        const hn_fed_tensor *t = &l->tensor[i];
        if (t->role != HN_FED_VALUE) continue;
        for (int64_t j = 0; j < t->n; j++) {
            const float h = fisher[t->value + j];
            if (!(h >= 0 && isfinite(h)))
                return HN_FAIL(HN_ERR_NUMERIC,
                               "%s: Fisher diagonal of %s is %g at element %" PRId64, who, t->name,
                               (double)h, j);
        }
    }
    return HN_OK;
}

hn_status hn_fed_update_check(const hn_fed_layout *l, const hn_fed_update *u)
{
    char who[WHO];
    snprintf(who, sizeof who, "update of client %" PRId64, u->client);
    if (u->client < 0 || u->round < 0)
        return HN_FAIL(HN_ERR_ARG, "%s of round %" PRId64 ": numbers start at 0", who, u->round);
    if (u->samples < 1 || u->samples > HN_FED_MAX_SAMPLES)
        return HN_FAIL(HN_ERR_ARG, "%s: n_k is %" PRId64 ", 1 to %d", who, u->samples,
                       (int)HN_FED_MAX_SAMPLES);
    if (!isfinite(u->loss))
        return HN_FAIL(HN_ERR_NUMERIC, "%s: its loss is %g", who, (double)u->loss);
    HN_TRY(hn_fed_layout_check(l, u->value, who));
    return u->fisher != NULL ? check_fisher(l, u->fisher, who) : HN_OK;
}

/* ---- sizes ---- */

/* Bytes of the code of k ids among n, at most. */
static int64_t most_code_bytes(int64_t k, int64_t n)
{
    const int gap_k = hn_gap_k(k, n);
    return (k * (1 + gap_k) + ((n - k) >> gap_k) + 7) / 8;
}

/* Bytes of a body behind its values: buffers and counters, Fisher. */
static int64_t rest_bytes(const hn_fed_layout *l, hn_fed_encoding e, bool fisher)
{
    return 4 * (l->n - l->values) + (fisher ? (e == HN_FED_BF16 ? 2 : 4) * l->values : 0);
}

int64_t hn_fed_message_bytes(const hn_fed_layout *l, hn_fed_encoding e, int64_t k, bool fisher)
{
    const int64_t values = e == HN_FED_F32    ? 4 * l->values
                           : e == HN_FED_BF16 ? 2 * l->values
                                              : 8 + most_code_bytes(k, l->values) + 4 * k;
    return HN_FED_HEADER_BYTES + values + rest_bytes(l, e, fisher);
}

static hn_status reserve(hn_fed_bytes *b, size_t n)
{
    if (b->cap < n) {
        uint8_t *grown = hn_realloc(b->data, n);
        if (grown == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a message", n);
        b->data = grown;
        b->cap = n;
    }
    return HN_OK;
}

void hn_fed_seal(hn_fed_bytes *b)
{
    const uint32_t crc = hn_fed_checksum(b->data, b->n, offsetof(wire, crc));
    memcpy(b->data + offsetof(wire, crc), &crc, sizeof crc);
}

static hn_status raw_digest(const hn_fed_layout *l, uint8_t digest[DIGEST])
{
    char hex[HN_SHA256_HEX];
    HN_TRY(hn_fed_layout_digest(l, hex));
    hn_fed_raw_digest(hex, digest);
    return HN_OK;
}

/* ---- encode ---- */

/* Where the next bytes of a body go, or come from. */
static uint8_t *put(uint8_t *at, const void *from, int64_t n_bytes)
{
    memcpy(at, from, (size_t)n_bytes);
    return at + n_bytes;
}

/* The values of a payload, one tensor behind the other. */
static void gather_values(const hn_fed_layout *l, const float *payload, float *values)
{
    for (int64_t i = 0; i < l->count; i++) {
        const hn_fed_tensor *t = &l->tensor[i];
        if (t->role == HN_FED_VALUE)
            memcpy(values + t->value, payload + t->first, (size_t)t->n * sizeof *values);
    }
}

static uint8_t *put_f32_values(const hn_fed_layout *l, const float *payload, uint8_t *at)
{
    for (int64_t i = 0; i < l->count; i++) {
        const hn_fed_tensor *t = &l->tensor[i];
        if (t->role == HN_FED_VALUE) at = put(at, payload + t->first, 4 * t->n);
    }
    return at;
}

static uint8_t *put_rest(const hn_fed_layout *l, const float *payload, uint8_t *at)
{
    for (int64_t i = 0; i < l->count; i++) {
        const hn_fed_tensor *t = &l->tensor[i];
        if (t->role != HN_FED_VALUE) at = put(at, payload + t->first, 4 * t->n);
    }
    return at;
}

/* Rounds x [n] in blocks; residual may be x. */
static uint8_t *put_bf16(const float *x, int64_t n, uint8_t *at, float *residual)
{
    enum { BLOCK = 512 };
    uint16_t bits[BLOCK];
    for (int64_t first = 0; first < n; first += BLOCK) {
        const int64_t m = n - first < BLOCK ? n - first : BLOCK;
        hn_fed_round_bf16(x + first, m, bits, residual == NULL ? NULL : residual + first);
        at = put(at, bits, 2 * m);
    }
    return at;
}

/* Ids and values of the k largest of x [values], which becomes the residual. */
static hn_status put_topk(const hn_fed_layout *l, float *x, int64_t k, wire *head, uint8_t **at)
{
    hn_status st = HN_OK;
    uint8_t *code = NULL;
    int64_t n_code = 0;
    int32_t *id = hn_malloc((size_t)k * sizeof *id);
    float *value = hn_malloc((size_t)k * sizeof *value);
    if (id == NULL || value == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "the %" PRId64 " largest of %" PRId64 " values", k, l->values);
        goto done;
    }
    hn_fed_topk(x, l->values, k, id, value);
    head->gap_k = (uint32_t)hn_gap_k(k, l->values);
    HN_TRY_GOTO(st, hn_gap_encode(id, k, (int)head->gap_k, &code, &n_code), done);
    *at = put(*at, &n_code, sizeof n_code);
    *at = put(*at, code, n_code);
    *at = put(*at, value, 4 * k);
    hn_fed_topk_residual(x, id, k);

done:
    hn_free(code);
    hn_free(value);
    hn_free(id);
    return st;
}

/* What a subtraction, a residual or a rounding made infinite. */
static hn_status check_sent(const hn_fed_layout *l, const float *x, const char *who)
{
    for (int64_t i = 0; i < l->count; i++) {
        const hn_fed_tensor *t = &l->tensor[i];
        if (t->role != HN_FED_VALUE) continue;
        for (int64_t j = 0; j < t->n; j++)
            if (!isfinite(x[t->value + j]))
                return HN_FAIL(HN_ERR_NUMERIC,
                               "%s: element %" PRId64 " of %s is too large to be sent", who, j,
                               t->name);
    }
    return HN_OK;
}

/* The values as the coding says; meant [values] becomes the residual. */
static hn_status put_values(const hn_fed_layout *l, const float *payload, const hn_fed_coding *c,
                            const char *who, float *meant, wire *head, uint8_t **at)
{
    if (c->encoding == HN_FED_F32) {
        *at = put_f32_values(l, payload, *at);
        return HN_OK;
    }
    if (c->base != NULL)
        hn_fed_meant(l, payload, c->base, c->residual, meant);
    else
        gather_values(l, payload, meant);
    if (c->encoding == HN_FED_TOPK) {
        HN_TRY(check_sent(l, meant, who));
        return put_topk(l, meant, c->k, head, at);
    }
    *at = put_bf16(meant, l->values, *at, meant);
    return check_sent(l, meant, who); /* what was rounded to infinity leaves infinity */
}

/* head: all but what depends on the body. */
static hn_status encode(const hn_fed_layout *l, wire head, const float *payload,
                        const float *fisher, const hn_fed_coding *c, const char *who,
                        hn_fed_bytes *out)
{
    hn_status st = HN_OK;
    float *meant = NULL;
    const bool sparse = c->encoding == HN_FED_TOPK;
    const int64_t most = hn_fed_message_bytes(l, c->encoding, c->k, fisher != NULL);
    memcpy(head.magic, MAGIC, sizeof MAGIC);
    head.version = VERSION;
    head.encoding = (uint32_t)c->encoding;
    head.tensors = l->count;
    head.elements = l->n;
    head.sent = sparse ? c->k : l->values;
    HN_TRY(raw_digest(l, head.layout));
    HN_TRY(reserve(out, (size_t)most));
    if (c->encoding != HN_FED_F32) {
        meant = hn_malloc((size_t)l->values * sizeof *meant);
        if (meant == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values", l->values);
    }
    uint8_t *at = out->data + HN_FED_HEADER_BYTES;
    HN_TRY_GOTO(st, put_values(l, payload, c, who, meant, &head, &at), done);
    at = put_rest(l, payload, at);
    if (fisher != NULL && c->encoding == HN_FED_BF16)
        at = put_bf16(fisher, l->values, at, NULL);
    else if (fisher != NULL)
        at = put(at, fisher, 4 * l->values);
    head.body = at - out->data - HN_FED_HEADER_BYTES;
    memcpy(out->data, &head, sizeof head);
    out->n = HN_FED_HEADER_BYTES + (size_t)head.body;
    hn_fed_seal(out);
    if (c->residual != NULL) memcpy(c->residual, meant, (size_t)l->values * sizeof *meant);

done:
    hn_free(meant);
    return st;
}

static hn_status check_coding(const hn_fed_layout *l, const hn_fed_update *u,
                              const hn_fed_coding *c, const char *who)
{
    const bool coded = c->encoding == HN_FED_BF16 || c->encoding == HN_FED_TOPK;
    if (!coded && c->encoding != HN_FED_F32)
        return HN_FAIL(HN_ERR_ARG, "%s: encoding %d", who, (int)c->encoding);
    if (c->residual != NULL && (!coded || c->base == NULL))
        return HN_FAIL(HN_ERR_ARG, "%s: a residual goes with differences in bf16 or topk", who);
    if (c->encoding != HN_FED_TOPK) return HN_OK;
    if (c->base == NULL) return HN_FAIL(HN_ERR_ARG, "%s: topk without a base", who);
    if (c->k < 1 || c->k > l->values)
        return HN_FAIL(HN_ERR_ARG, "%s: the %" PRId64 " largest of %" PRId64 " values", who, c->k,
                       l->values);
    if (l->values > INT32_MAX)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: topk of %" PRId64 " values", who, l->values);
    if (u->fisher != NULL)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: topk with a Fisher diagonal", who);
    return HN_OK;
}

hn_status hn_fed_encode_update(const hn_fed_layout *l, const hn_fed_update *u,
                               const hn_fed_coding *coding, hn_fed_bytes *out)
{
    char who[WHO];
    snprintf(who, sizeof who, "update of client %" PRId64, u->client);
    HN_TRY(hn_fed_update_check(l, u));
    HN_TRY(check_coding(l, u, coding, who));
    const bool difference = coding->encoding != HN_FED_F32 && coding->base != NULL;
    const wire head = {.kind = HN_FED_UPDATE,
                       .flags = (difference ? DIFFERENCE : 0) | (u->fisher ? FISHER : 0),
                       .round = u->round,
                       .client = u->client,
                       .samples = u->samples,
                       .loss = u->loss};
    return encode(l, head, u->value, u->fisher, coding, who, out);
}

hn_status hn_fed_encode_model(const hn_fed_layout *l, int64_t round, const float *value,
                              hn_fed_encoding encoding, hn_fed_bytes *out)
{
    const hn_fed_coding coding = {.encoding = encoding};
    const wire head = {.kind = HN_FED_MODEL, .round = round, .client = -1};
    if (encoding != HN_FED_F32 && encoding != HN_FED_BF16)
        return HN_FAIL(HN_ERR_ARG, "a model travels as f32 or bf16, not as %s",
                       hn_fed_encoding_name(encoding));
    if (round < 0) return HN_FAIL(HN_ERR_ARG, "model of round %" PRId64, round);
    HN_TRY(hn_fed_layout_check(l, value, "the global model"));
    return encode(l, head, value, NULL, &coding, "the global model", out);
}

/* ---- decode ---- */

static hn_status bad_field(const char *what, int64_t value)
{
    return HN_FAIL(HN_ERR_FORMAT, "a message whose %s is %" PRId64, what, value);
}

/* Kinds, encodings and flags that go together. */
static hn_status check_kind(const wire *w)
{
    const bool model = w->kind == HN_FED_MODEL;
    if (!model && w->kind != HN_FED_UPDATE) return bad_field("kind", w->kind);
    if (w->encoding > HN_FED_TOPK) return bad_field("encoding", w->encoding);
    const unsigned allowed = model || w->encoding == HN_FED_F32 ? 0u : (unsigned)DIFFERENCE;
    const unsigned fisher = model || w->encoding == HN_FED_TOPK ? 0u : (unsigned)FISHER;
    const unsigned needed = w->encoding == HN_FED_TOPK ? (unsigned)DIFFERENCE : 0u;
    if ((w->flags & ~(allowed | fisher)) != 0 || (w->flags & needed) != needed)
        return bad_field("flags field", w->flags);
    if (w->gap_k > HN_GAP_MAX_K || (w->gap_k != 0 && w->encoding != HN_FED_TOPK))
        return bad_field("gap code's parameter", w->gap_k);
    return w->zero != 0 ? bad_field("reserved field", w->zero) : HN_OK;
}

static hn_status check_numbers(const wire *w)
{
    const bool model = w->kind == HN_FED_MODEL;
    if (w->round < 0) return bad_field("round", w->round);
    if (model ? w->client != -1 : w->client < 0) return bad_field("client", w->client);
    if (model ? w->samples != 0 : w->samples < 1 || w->samples > HN_FED_MAX_SAMPLES)
        return bad_field("n_k", w->samples);
    if (w->tensors < 0) return bad_field("number of tensors", w->tensors);
    if (w->elements < 0) return bad_field("number of elements", w->elements);
    if (w->sent < 0 || w->sent > w->elements) return bad_field("number of values", w->sent);
    if (!isfinite(w->loss))
        return HN_FAIL(HN_ERR_NUMERIC, "update of client %" PRId64 ": its loss is %g", w->client,
                       (double)w->loss);
    return HN_OK;
}

static hn_status read_header(const void *bytes, size_t n, wire *w)
{
    if (n < HN_FED_HEADER_BYTES)
        return HN_FAIL(HN_ERR_FORMAT, "truncated: a message of %zu bytes, its header has %d", n,
                       (int)HN_FED_HEADER_BYTES);
    memcpy(w, bytes, sizeof *w);
    if (memcmp(w->magic, MAGIC, sizeof MAGIC) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "not a message: it does not begin with hone-fed");
    if (w->version != VERSION) return bad_field("version", w->version);
    HN_TRY(check_kind(w));
    HN_TRY(check_numbers(w));
    if (w->body < 0 || (uint64_t)w->body != n - HN_FED_HEADER_BYTES)
        return HN_FAIL(HN_ERR_FORMAT,
                       "message of client %" PRId64 ": %s, it has %zu bytes, its header says %d + "
                       "%" PRId64,
                       w->client,
                       w->body < 0 || (uint64_t)w->body < n ? "bytes left over" : "truncated", n,
                       (int)HN_FED_HEADER_BYTES, w->body);
    return HN_OK;
}

static hn_fed_head head_of(const wire *w)
{
    return (hn_fed_head){.kind = (hn_fed_kind)w->kind,
                         .encoding = (hn_fed_encoding)w->encoding,
                         .difference = (w->flags & DIFFERENCE) != 0,
                         .fisher = (w->flags & FISHER) != 0,
                         .round = w->round,
                         .client = w->client,
                         .samples = w->samples,
                         .loss = w->loss,
                         .sent = w->sent};
}

hn_status hn_fed_peek(const void *bytes, size_t n, hn_fed_head *head)
{
    wire w;
    HN_TRY(read_header(bytes, n, &w));
    *head = head_of(&w);
    return HN_OK;
}

static hn_status check_layout(const hn_fed_layout *l, const wire *w, const char *who)
{
    uint8_t digest[DIGEST];
    HN_TRY(raw_digest(l, digest));
    if (w->tensors != l->count || w->elements != l->n)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: %" PRId64 " tensors of %" PRId64 " elements, expected %" PRId64
                       " of %" PRId64,
                       who, w->tensors, w->elements, l->count, l->n);
    if (memcmp(digest, w->layout, DIGEST) != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: names, shapes or roles of its tensors are others%s%s",
                       who, l->binding ? ", or they belong to something else than " : "",
                       l->binding ? l->binding : "");
    return HN_OK;
}

/* The body is as long as its parts. *code: bytes of the ids' code (topk). */
static hn_status check_body(const hn_fed_layout *l, const wire *w, const uint8_t *body,
                            const char *who, int64_t *code)
{
    const hn_fed_encoding e = (hn_fed_encoding)w->encoding;
    const int64_t there = w->body - rest_bytes(l, e, (w->flags & FISHER) != 0);
    int64_t wanted = (e == HN_FED_F32 ? 4 : 2) * l->values;
    if (e != HN_FED_TOPK && w->sent != l->values)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " of %" PRId64 " values", who, w->sent,
                       l->values);
    if (e == HN_FED_TOPK) {
        if (w->sent < 1 || w->sent > l->values || l->values > INT32_MAX)
            return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " of %" PRId64 " values", who, w->sent,
                           l->values);
        wanted = 8 + 4 * w->sent;
        if (there >= wanted) memcpy(code, body, sizeof *code);
        if (there < wanted || *code != there - wanted || w->sent > 8 * *code)
            return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " bytes for %" PRId64 " ids and values",
                           who, there, w->sent);
    } else if (there != wanted)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " bytes of values, expected %" PRId64, who,
                       there, wanted);
    return HN_OK;
}

/* base NULL: values, else differences to it. */
static void take_bf16(const uint8_t *from, const float *base, int64_t n, float *out)
{
    for (int64_t j = 0; j < n; j++) {
        hn_bf16 b;
        memcpy(&b, from + 2 * j, sizeof b);
        out[j] = base == NULL ? hn_bf16_to_f32(b) : base[j] + hn_bf16_to_f32(b);
    }
}

static const uint8_t *take_values(const hn_fed_layout *l, const uint8_t *at, int width,
                                  const float *base, float *value)
{
    for (int64_t i = 0; i < l->count; i++) {
        const hn_fed_tensor *t = &l->tensor[i];
        if (t->role != HN_FED_VALUE) continue;
        if (width == 4)
            memcpy(value + t->first, at, (size_t)t->n * 4);
        else
            take_bf16(at, base == NULL ? NULL : base + t->first, t->n, value + t->first);
        at += width * t->n;
    }
    return at;
}

/* Adds the k sent differences to the base, which value holds already. */
static hn_status take_topk(const hn_fed_layout *l, const wire *w, const uint8_t *at, int64_t n_code,
                           const char *who, float *value)
{
    int32_t *id = hn_malloc((size_t)w->sent * sizeof *id);
    if (id == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: %" PRId64 " ids", who, w->sent);
    const hn_status st = hn_gap_decode(at + 8, n_code, w->sent, l->values, (int)w->gap_k, who, id);
    const uint8_t *sent = at + 8 + n_code;
    const hn_fed_tensor *t = l->tensor; /* ids rise, so tensors do */
    for (int64_t i = 0; i < w->sent && st == HN_OK; i++) {
        float d = 0;
        memcpy(&d, sent + 4 * i, sizeof d);
        while (t->role != HN_FED_VALUE || id[i] >= t->value + t->n) t++;
        value[t->first + id[i] - t->value] += d;
    }
    hn_free(id);
    return st;
}

static const uint8_t *take_rest(const hn_fed_layout *l, const uint8_t *at, float *value)
{
    for (int64_t i = 0; i < l->count; i++) {
        const hn_fed_tensor *t = &l->tensor[i];
        if (t->role == HN_FED_VALUE) continue;
        memcpy(value + t->first, at, (size_t)t->n * 4);
        at += 4 * t->n;
    }
    return at;
}

static hn_status take_body(const hn_fed_layout *l, const wire *w, const uint8_t *at,
                           const float *base, const char *who, float *value, float *fisher)
{
    const hn_fed_encoding e = (hn_fed_encoding)w->encoding;
    int64_t n_code = 0;
    HN_TRY(check_body(l, w, at, who, &n_code));
    if (e == HN_FED_TOPK) {
        memcpy(value, base, (size_t)l->n * sizeof *value);
        HN_TRY(take_topk(l, w, at, n_code, who, value));
        at += 8 + n_code + 4 * w->sent;
    } else {
        const float *from = (w->flags & DIFFERENCE) != 0 ? base : NULL;
        at = take_values(l, at, e == HN_FED_F32 ? 4 : 2, from, value);
    }
    at = take_rest(l, at, value);
    HN_TRY(hn_fed_layout_check(l, value, who));
    if (fisher == NULL) return HN_OK;
    if (e == HN_FED_BF16)
        take_bf16(at, NULL, l->values, fisher);
    else
        memcpy(fisher, at, (size_t)l->values * sizeof *fisher);
    return check_fisher(l, fisher, who);
}

hn_status hn_fed_decode(const hn_fed_layout *l, const void *bytes, size_t n, hn_fed_kind kind,
                        int64_t round, const float *base, hn_fed_head *head, float *value,
                        float *fisher)
{
    wire w;
    char who[WHO] = "the global model";
    HN_TRY(read_header(bytes, n, &w));
    if (w.kind == HN_FED_UPDATE) snprintf(who, sizeof who, "update of client %" PRId64, w.client);
    if (hn_fed_checksum(bytes, n, offsetof(wire, crc)) != w.crc)
        return HN_FAIL(HN_ERR_FORMAT, "%s: bad checksum", who);
    if (w.kind != (uint32_t)kind)
        return HN_FAIL(HN_ERR_FORMAT, "%s: expected %s", who,
                       kind == HN_FED_MODEL ? "a global model" : "an update");
    HN_TRY(check_layout(l, &w, who));
    if (round >= 0 && w.round != round)
        return HN_FAIL(HN_ERR_ARG, "%s: stale, of round %" PRId64 ", this is round %" PRId64, who,
                       w.round, round);
    if (((w.flags & FISHER) != 0) != (fisher != NULL))
        return HN_FAIL(HN_ERR_FORMAT, "%s: a Fisher diagonal is %s", who,
                       fisher != NULL ? "missing" : "not wanted");
    if ((w.flags & DIFFERENCE) != 0 && base == NULL)
        return HN_FAIL(HN_ERR_ARG, "%s: differences to a base that is not here", who);
    HN_TRY(
        take_body(l, &w, (const uint8_t *)bytes + HN_FED_HEADER_BYTES, base, who, value, fisher));
    *head = head_of(&w);
    return HN_OK;
}
