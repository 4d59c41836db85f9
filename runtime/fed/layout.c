#include "runtime/fed/layout.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"

const char *hn_fed_role_name(hn_fed_role r)
{
    static const char *const names[] = {"value", "buffer", "counter"};
    return (unsigned)r < sizeof names / sizeof *names ? names[r] : "?";
}

void hn_fed_layout_free(hn_fed_layout *l)
{
    hn_free(l->tensor);
    hn_arena_free(&l->names);
    *l = (hn_fed_layout){0};
}

const hn_fed_tensor *hn_fed_layout_find(const hn_fed_layout *l, const char *name)
{
    for (int64_t i = 0; i < l->count; i++)
        if (strcmp(l->tensor[i].name, name) == 0) return &l->tensor[i];
    return NULL;
}

const hn_fed_tensor *hn_fed_layout_at(const hn_fed_layout *l, int64_t i)
{
    int64_t low = 0, high = l->count; /* the tensor is in [low, high) */
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (l->tensor[middle].first <= i)
            low = middle;
        else
            high = middle;
    }
    return &l->tensor[low];
}

/* Elements of such a tensor; at most what is left of the largest payload. */
static hn_status elements(const hn_fed_layout *l, const char *name, int ndim, const int64_t *dim,
                          int64_t *out)
{
    int64_t n = 1, most = INT64_MAX / 64 - l->n; /* in bytes, also of a few copies: no overflow */
    if (ndim < 0 || ndim > HN_FED_MAX_DIMS)
        return HN_FAIL(HN_ERR_ARG, "tensor %s: %d dimensions, at most %d", name, ndim,
                       (int)HN_FED_MAX_DIMS);
    for (int i = 0; i < ndim; i++) {
        if (dim[i] < 1 || dim[i] > most / n)
            return HN_FAIL(HN_ERR_ARG, "tensor %s: dimension %d is %" PRId64, name, i, dim[i]);
        n *= dim[i];
    }
    *out = n;
    return HN_OK;
}

hn_status hn_fed_layout_add(hn_fed_layout *l, const char *name, int ndim, const int64_t *dim,
                            hn_fed_role role)
{
    hn_fed_tensor t = {.ndim = ndim, .first = l->n, .value = -1, .role = role};
    if (name[0] == '\0') return HN_FAIL(HN_ERR_ARG, "tensor %" PRId64 " has no name", l->count);
    if (hn_fed_layout_find(l, name) != NULL)
        return HN_FAIL(HN_ERR_ARG, "a second tensor of the name %s", name);
    HN_TRY(elements(l, name, ndim, dim, &t.n));
    for (int i = 0; i < ndim; i++) t.dim[i] = dim[i];
    HN_TRY(hn_grow(&l->tensor, &l->cap, l->count, sizeof *l->tensor));
    t.name = hn_arena_text(&l->names, "%s", name);
    if (t.name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the name of tensor %s", name);
    if (role == HN_FED_VALUE) {
        t.value = l->values;
        l->values += t.n;
    }
    l->n += t.n;
    l->tensor[l->count++] = t;
    return HN_OK;
}

hn_status hn_fed_layout_bind(hn_fed_layout *l, const char *text)
{
    const char *copy = hn_arena_text(&l->names, "%s", text);
    if (copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to bind a layout");
    l->binding = copy;
    return HN_OK;
}

/* ---- digest ---- */

typedef struct {
    char *text;
    int64_t n, cap;
} writer;

static hn_status put(writer *w, const void *bytes, size_t n)
{
    while ((size_t)(w->cap - w->n) < n) HN_TRY(hn_grow(&w->text, &w->cap, w->cap, 1));
    memcpy(w->text + w->n, bytes, n);
    w->n += (int64_t)n;
    return HN_OK;
}

static hn_status put_number(writer *w, int64_t v)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)v >> 8 * i);
    return put(w, bytes, sizeof bytes);
}

/* With its length first, so that no two layouts have the same text. */
static hn_status put_text(writer *w, const char *s)
{
    HN_TRY(put_number(w, (int64_t)strlen(s)));
    return put(w, s, strlen(s));
}

static hn_status describe(const hn_fed_layout *l, writer *w)
{
    HN_TRY(put_text(w, "hone-fed layout 1"));
    for (int64_t i = 0; i < l->count; i++) {
        const hn_fed_tensor *t = &l->tensor[i];
        HN_TRY(put_text(w, t->name));
        HN_TRY(put_text(w, hn_fed_role_name(t->role)));
        HN_TRY(put_number(w, t->ndim));
        for (int d = 0; d < t->ndim; d++) HN_TRY(put_number(w, t->dim[d]));
    }
    return put_text(w, l->binding != NULL ? l->binding : "");
}

hn_status hn_fed_layout_digest(const hn_fed_layout *l, char hex[HN_SHA256_HEX])
{
    writer w = {0};
    hn_status st = describe(l, &w);
    if (st == HN_OK) st = hn_sha256(w.text, (size_t)w.n, hex);
    hn_free(w.text);
    return st;
}

/* ---- values ---- */

/* A block at a time: whether all are finite vectorises, the index is looked for only then. */
hn_status hn_fed_layout_check(const hn_fed_layout *l, const float *v, const char *who)
{
    enum { BLOCK = 4096 };
    for (int64_t first = 0; first < l->n; first += BLOCK) {
        const int64_t end = first + BLOCK < l->n ? first + BLOCK : l->n;
        uint32_t bad = 0;
        for (int64_t i = first; i < end; i++) bad |= (uint32_t)!isfinite(v[i]);
        for (int64_t i = first; bad && i < end; i++) {
            const hn_fed_tensor *t = hn_fed_layout_at(l, i);
            if (!isfinite(v[i]))
                return HN_FAIL(HN_ERR_NUMERIC, "%s: %s is %g at element %" PRId64 " of %" PRId64,
                               who, t->name, (double)v[i], i - t->first, t->n);
        }
    }
    return HN_OK;
}
