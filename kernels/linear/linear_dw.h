/* linear_dw.h - the gradients of a linear layer's parameters, added to what is there.
 *
 *   dw[o,k] += alpha * sum_i dy[i,o] x'[i,k]     x' = x, or dropout(x) where drop.p > 0
 *   db[o]   += alpha * sum_i dy[i,o]
 *
 * but for n_still columns of db from `still` on, which stay as they are.
 *
 * The mask of x' is made again from the key of the forward operation, and x' is rounded to the
 * dtype of x, so that it is the very operand that forward used (kernels/random/dropout.h).
 *
 * Shapes     dy [rows, out]; x [rows, in]; dw [out, in]; db [out]. Row-major, rows lie ld_*
 *            elements apart. With `replicas` = G > 1 the rows are G equal groups in order, and
 *            group g adds to the dw and db that start dw_stride and db_stride elements after
 *            those of group g - 1.
 * Precision  dy and x both f32 or both bf16; dw and db f32; fp32 arithmetic and sums.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment.
 * Aliasing   none.
 * Repeats    bit for bit on one machine: the sums run in a fixed order, no atomics; fast: also
 *            for any number of threads.
 * CUDA       dw by cuBLASLt (kernels/linear/gemm_cuda.h) straight into dw, or, of a small bf16 dw
 *            over many rows, in pieces of the rows that are added up in order; x' is made in the
 *            scratch. db: sums over runs of rows, then over the runs in order.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_LINEAR_DW_H
#define HN_LINEAR_DW_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/linear/gemm_cuda.h"
#include "kernels/random/dropout.h"
#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *dy; /* in     [rows, out] */
    const void *x;  /* in     [rows, in] */
    float *dw;      /* in/out [replicas][out, in] */
    int64_t rows, in, out;
    int64_t ld_dy, ld_x, ld_dw;
    int64_t replicas; /* 0: no replica axis */
    int64_t dw_stride;
    hn_dtype dtype;      /* of dy and x */
    float alpha;         /* 0: not given, 1 */
    hn_dropout_key drop; /* of x; p = 0: none */
} hn_linear_dw_args;

HN_NODISCARD hn_status hn_linear_dw_check(const hn_linear_dw_args *a);
HN_NODISCARD hn_status hn_linear_dw_cpu(const hn_linear_dw_args *a);
/* scratch: hn_linear_dw_fast_scratch bytes, float-aligned; may be NULL when that is 0. */
size_t hn_linear_dw_fast_scratch(const hn_linear_dw_args *a);
HN_NODISCARD hn_status hn_linear_dw_fast(const hn_linear_dw_args *a, void *scratch);
/* scratch: that many bytes, 64-byte aligned; for x' and for pieces. */
HN_CUDA_FUNCTION size_t hn_linear_dw_cuda_scratch(const hn_linear_dw_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_linear_dw_cuda(const hn_linear_dw_args *a,
                                                          hn_gemm_cuda *gemm, void *scratch,
                                                          hn_stream stream);

typedef struct {
    const void *dy; /* in     [rows, out] */
    float *db;      /* in/out [replicas][out] */
    int64_t rows, out;
    int64_t ld_dy;
    int64_t replicas; /* 0: no replica axis */
    int64_t db_stride;
    hn_dtype dtype;         /* of dy */
    float alpha;            /* 0: not given, 1 */
    int64_t still, n_still; /* columns that get nothing */
} hn_linear_db_args;

static inline bool hn_linear_db_is_still(const hn_linear_db_args *a, int64_t o)
{
    return o >= a->still && o < a->still + a->n_still;
}

HN_NODISCARD hn_status hn_linear_db_check(const hn_linear_db_args *a);
HN_NODISCARD hn_status hn_linear_db_cpu(const hn_linear_db_args *a);
HN_NODISCARD hn_status hn_linear_db_fast(const hn_linear_db_args *a);
/* scratch: that many bytes, float-aligned. */
HN_CUDA_FUNCTION size_t hn_linear_db_cuda_scratch(const hn_linear_db_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_linear_db_cuda(const hn_linear_db_args *a, void *scratch,
                                                          hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
