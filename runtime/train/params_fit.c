#include "runtime/train/params_fit.h"

#include <inttypes.h>
#include <stdio.h>

#include "runtime/base/alloc.h"

enum { SHAPE_TEXT = 24 * HN_ST_MAX_DIMS };

/* "64, 3, 7, 7" in a caller's buffer. */
static const char *shape_text(int ndim, const int64_t *dim, char text[SHAPE_TEXT])
{
    size_t at = 0;
    text[0] = '\0';
    for (int i = 0; i < ndim && at < SHAPE_TEXT; i++)
        at += (size_t)snprintf(text + at, SHAPE_TEXT - at, "%s%" PRId64, i ? ", " : "", dim[i]);
    return text;
}

static hn_status check_one(const hn_param *q, const hn_st_file *file, const char *name,
                           const char *config)
{
    const hn_st_tensor *t = hn_st_find(file, name);
    char got[SHAPE_TEXT], want[SHAPE_TEXT];
    shape_text(q->file_ndim, q->file_dim, want);
    if (t == NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: tensor %s is missing, its %s says [%s]",
                       hn_st_where(file), name, config, want);
    bool same = t->ndim == q->file_ndim;
    for (int i = 0; same && i < q->file_ndim; i++) same = t->dim[i] == q->file_dim[i];
    if (!same)
        return HN_FAIL(HN_ERR_FORMAT, "%s: tensor %s is [%s], its %s says [%s]", hn_st_where(file),
                       name, shape_text(t->ndim, t->dim, got), config, want);
    if (t->dtype != HN_ST_F32 && t->dtype != HN_ST_F16 && t->dtype != HN_ST_BF16 &&
        t->dtype != HN_ST_F64)
        return HN_FAIL(HN_ERR_FORMAT, "%s: tensor %s is %s, no F32, F16, BF16 or F64",
                       hn_st_where(file), name, hn_st_dtype_name(t->dtype));
    return HN_OK;
}

hn_status hn_params_fit(const hn_params *p, const hn_st_file *file, const char *prefix,
                        const char *config)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        char *name = hn_asprintf("%s%s", prefix, q->name);
        if (name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
        const hn_status st = check_one(q, file, name, config);
        hn_free(name);
        HN_TRY(st);
    }
    return HN_OK;
}
