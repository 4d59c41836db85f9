/* class_rows.h - what the losses over class logits share. For the sources of this folder only. */
#ifndef HN_CLASS_ROWS_H
#define HN_CLASS_ROWS_H
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/label.h"
#include "runtime/base/status.h"

/* Columns of a range that begins at `first`: n, or with n = 0 all from there on. */
static inline int64_t hn_class_count_(int64_t classes, int64_t first, int64_t n)
{
    return n > 0 ? n : classes - first;
}

/* HN_ERR_SHAPE unless the range holds a column, and none that is not there. */
static inline hn_status hn_class_check_range_(const char *op, const char *name, int64_t classes,
                                              int64_t first, int64_t n)
{
    const int64_t count = hn_class_count_(classes, first, n);
    if (first < 0 || n < 0 || count < 1 || first >= classes || count > classes - first)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: columns from %" PRId64 " on, %" PRId64 " of them (0: the rest), of %s "
                       "with %" PRId64,
                       op, first, n, name, classes);
    return HN_OK;
}

/* Scratch of the fast functions and of the kernels: what each row gives, summed in order. */
typedef struct {
    double *loss; /* [rows] */
    int32_t *say; /* [rows] 0: ignored, HN_ROW_TRAINED, HN_ROW_HIT added when it is one */
    size_t n_bytes;
} hn_class_rows;

enum { HN_ROW_TRAINED = 1, HN_ROW_HIT = 2 };

static inline hn_class_rows hn_class_rows_of_(int64_t rows, void *scratch)
{
    hn_class_rows w;
    w.loss = (double *)scratch;
    w.say = scratch ? (int32_t *)(void *)((double *)scratch + rows) : NULL;
    w.n_bytes = (size_t)rows * (sizeof(double) + sizeof(int32_t));
    return w;
}
#endif
