/* Tensor types: sizes and texts. */
#include <inttypes.h>
#include <stdio.h>

#include "runtime/graph/graph.h"

int64_t hn_type_cols(const hn_type *t) { return t->ndim > 0 ? t->dim[t->ndim - 1] : 0; }

int64_t hn_type_rows(const hn_type *t)
{
    int64_t rows = t->ndim > 0;
    for (int i = 0; i + 1 < t->ndim; i++) rows *= t->dim[i];
    return rows;
}

int64_t hn_type_ld(const hn_type *t) { return t->pitch ? t->pitch : hn_type_cols(t); }
int64_t hn_type_elements(const hn_type *t) { return hn_type_rows(t) * hn_type_cols(t); }

size_t hn_type_bytes(const hn_type *t)
{
    return (size_t)(hn_type_rows(t) * hn_type_ld(t)) * hn_dtype_size(t->dtype);
}

static int64_t replicas(const hn_type *t) { return t->replicas > 1 ? t->replicas : 1; }

bool hn_type_same(const hn_type *a, const hn_type *b)
{
    if (a->dtype != b->dtype || a->ndim != b->ndim || replicas(a) != replicas(b)) return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->dim[i] != b->dim[i]) return false;
    return true;
}

const char *hn_type_text(const hn_type *t, char *buffer, size_t size)
{
    int n = snprintf(buffer, size, "%s[", hn_dtype_name(t->dtype));
    for (int i = 0; i < t->ndim && n > 0 && (size_t)n < size; i++)
        n += snprintf(buffer + n, size - (size_t)n, "%s%" PRId64, i ? ", " : "", t->dim[i]);
    if (n > 0 && (size_t)n < size) snprintf(buffer + n, size - (size_t)n, "]");
    return buffer;
}

hn_type hn_type_2d(hn_dtype dtype, int64_t rows, int64_t cols)
{
    const int64_t step = 16 / (int64_t)hn_dtype_size(dtype);
    return (hn_type){
        .dtype = dtype, .ndim = 2, .dim = {rows, cols}, .pitch = (cols + step - 1) / step * step};
}

hn_type hn_type_1d(hn_dtype dtype, int64_t n)
{
    return (hn_type){.dtype = dtype, .ndim = 1, .dim = {n}};
}

const char *hn_mem_name(hn_mem m)
{
    static const char *const names[] = {
#define X(name, text) text,
        HN_MEM_LIST(X)
#undef X
    };
    return (unsigned)m < HN_MEM_COUNT ? names[m] : "?";
}
