/* support_context.h - what a task encoder sees of each support image: its features, the mean of
 * its class, and how large that class is.
 *
 * The rows fall into `episodes` equal runs. For row j of an episode whose label is not
 * HN_LABEL_IGNORED, over the rows i of the same episode with the same label, n of them:
 *
 *   u[j] = [ f[j, 0 .. F),  (1 / n) sum_i f[i, 0 .. F),  log n,  0, .. 0 ]
 *
 * Rows that are ignored (padding) are 0. Labels are names only: any numbering of the classes gives
 * the same bits; another order of the images may move sums by a rounding.
 *
 * Shapes     f [rows, features], u [rows, hn_support_context_cols(features)], which is 2 F + 1
 *            rounded up to a multiple of 8 for the product behind it; rows ld_f, ld_u elements
 *            apart; labels [rows].
 * Precision  f and u f32 or bf16, each its own; sums fp32 in order of the rows (the twin in
 * double). Limits     rows of an episode up to 4096; all else below 2^31; any width and alignment.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads.
 * Cost       two reads of f, one write of u.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write.
 */
#ifndef HN_SUPPORT_CONTEXT_H
#define HN_SUPPORT_CONTEXT_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/label.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_SUPPORT_ROWS = 4096 }; /* most rows of an episode */

static inline int64_t hn_support_context_cols(int64_t features)
{
    return (2 * features + 8) / 8 * 8;
}

typedef struct {
    const void *f;         /* in  [rows, features] */
    const int32_t *labels; /* in  [rows] a class, or HN_LABEL_IGNORED */
    void *u;               /* out [rows, hn_support_context_cols(features)] */
    int64_t rows, features, episodes;
    int64_t ld_f, ld_u;
    hn_dtype f_dtype, u_dtype;
} hn_support_context_args;

HN_NODISCARD hn_status hn_support_context_check(const hn_support_context_args *a);
HN_NODISCARD hn_status hn_support_context_cpu(const hn_support_context_args *a);
HN_NODISCARD hn_status hn_support_context_fast(const hn_support_context_args *a);
/* Device pointers. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_support_context_cuda(const hn_support_context_args *a,
                                                                hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
