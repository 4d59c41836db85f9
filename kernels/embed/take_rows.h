/* take_rows.h - every so-manieth row; forward and backward.
 *
 *   y[i]  = x[i stride + offset]                        x.reshape(rows, stride, cols)[:, offset]
 *   dx[r] = dy[(r - offset) / stride] where stride divides r - offset, else 0
 * With stride = tokens of an image and offset 0: the class tokens in front of the head.
 *
 * Shapes     y, dy [rows, cols]; x, dx [rows stride, cols], row-major, rows ld_* elements apart;
 *            0 <= offset < stride.
 * Precision  all f32 or all bf16; bits are copied.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment.
 * Aliasing   none.
 * Repeats    the same bits everywhere.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_TAKE_ROWS_H
#define HN_TAKE_ROWS_H

#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *x; /* in  [rows * stride, cols] */
    void *y;       /* out [rows, cols] */
    int64_t rows, cols, stride, offset;
    int64_t ld_x, ld_y;
    hn_dtype dtype;
} hn_take_rows_args;

HN_NODISCARD hn_status hn_take_rows_check(const hn_take_rows_args *a);
HN_NODISCARD hn_status hn_take_rows_fwd_cpu(const hn_take_rows_args *a);
HN_NODISCARD hn_status hn_take_rows_fwd_fast(const hn_take_rows_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_take_rows_fwd_cuda(const hn_take_rows_args *a,
                                                              hn_stream stream);

typedef struct {
    const void *dy; /* in  [rows, cols] */
    void *dx;       /* out [rows * stride, cols] */
    int64_t rows, cols, stride, offset;
    int64_t ld_dy, ld_dx;
    hn_dtype dtype;
} hn_take_rows_bwd_args;

HN_NODISCARD hn_status hn_take_rows_bwd_check(const hn_take_rows_bwd_args *a);
HN_NODISCARD hn_status hn_take_rows_bwd_cpu(const hn_take_rows_bwd_args *a);
HN_NODISCARD hn_status hn_take_rows_bwd_fast(const hn_take_rows_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_take_rows_bwd_cuda(const hn_take_rows_bwd_args *a,
                                                              hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
