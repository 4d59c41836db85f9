/* Buffers of a model, kept and put back. */
#include <inttypes.h>

#include "runtime/adapt/params_impl.h"
#include "runtime/base/alloc.h"

int64_t hn_params_buffer_values(const hn_params *p)
{
    int64_t n = 0;
    for (int64_t i = 0; i < p->n; i++)
        if (p->param[i]->buffer) n += hn_param_values(p->param[i]);
    return n;
}

hn_status hn_params_get_buffers(const hn_params *p, float **out)
{
    const int64_t n = hn_params_buffer_values(p);
    int64_t at = 0;
    hn_status st = HN_OK;
    *out = NULL;
    if (n == 0) return HN_OK;
    float *copy = hn_malloc((size_t)n * sizeof *copy);
    if (copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of buffers", n);
    for (int64_t i = 0; st == HN_OK && i < p->n; i++) {
        if (!p->param[i]->buffer) continue;
        st = hn_param_get(p->param[i], copy + at);
        at += hn_param_values(p->param[i]);
    }
    if (st != HN_OK)
        hn_free(copy);
    else
        *out = copy;
    return st;
}

hn_status hn_params_put_buffers(const hn_params *p, const float *copy)
{
    for (int64_t i = 0; i < p->n; i++) {
        if (!p->param[i]->buffer) continue;
        HN_TRY(hn_param_set(p->param[i], copy));
        copy += hn_param_values(p->param[i]);
    }
    return HN_OK;
}
