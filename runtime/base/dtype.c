#include "runtime/base/dtype.h"

const char *hn_dtype_name(hn_dtype t)
{
    static const char *const names[] = {
#define X(name, text, size) text,
        HN_DTYPE_LIST(X)
#undef X
    };
    return (unsigned)t < HN_DTYPE_COUNT ? names[t] : "?";
}

size_t hn_dtype_size(hn_dtype t)
{
    static const size_t sizes[] = {
#define X(name, text, size) size,
        HN_DTYPE_LIST(X)
#undef X
    };
    return (unsigned)t < HN_DTYPE_COUNT ? sizes[t] : 0;
}
