/* linear.h - the linear layer: forward, and the gradient of its input.
 *
 *   y[i,o]  = round(alpha * sum_k x[i,k] w[o,k] + bias[o])        (+ add[i,o])
 *   dx[i,k] = round(alpha * sum_o dy[i,o] w[o,k])                 (+ add[i,k])
 *
 * The gradients of w and bias are in linear_dw.h.
 *
 * Shapes     x, dx [rows, in]; y, dy [rows, out]; w [out, in]; bias [out]. Row-major, rows lie
 *            ld_* elements apart. With `replicas` = G > 1 the rows are G equal groups in order,
 *            and group g uses the w and bias that start w_stride and bias_stride elements after
 *            those of group g - 1 (0: all groups share them).
 * Precision  x, w, y (dx, dy) all f32 or all bf16, bias either; fp32 arithmetic and sums, one
 *            rounding at the store, after the last addition. f32 means no TF32.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment (fastest when rows start on
 *            16-byte boundaries).
 * Aliasing   add may be the output itself with the same leading dimension; no other overlap.
 * Repeats    bit for bit on one machine; fast: also for any number of threads.
 * Cost       2 rows in out flops. Fast, bf16: the operands are converted to f32 in the scratch.
 * CUDA       the product by cuBLASLt or, where it has no algorithm, a plain kernel
 *            (kernels/linear/gemm_cuda.h). For some shapes bias and add are a pass of their own,
 *            which rounds a bf16 product once more; a bias of another dtype than y always is one,
 *            on an f32 product.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_LINEAR_H
#define HN_LINEAR_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/linear/gemm_cuda.h"
#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *x;    /* in  [rows, in] */
    const void *w;    /* in  [replicas][out, in] */
    const void *bias; /* in  [replicas][out], NULL: none */
    const void *add;  /* in  [rows, out], NULL: none */
    void *y;          /* out [rows, out] */
    int64_t rows, in, out;
    int64_t ld_x, ld_w, ld_add, ld_y;
    int64_t replicas;              /* 0: no replica axis */
    int64_t w_stride, bias_stride; /* 0: shared by the replicas */
    hn_dtype dtype, bias_dtype;    /* bias_dtype: give dtype where there is no bias */
    float alpha;                   /* factor of the product; 0: not given, 1 */
} hn_linear_args;

HN_NODISCARD hn_status hn_linear_check(const hn_linear_args *a);
HN_NODISCARD hn_status hn_linear_fwd_cpu(const hn_linear_args *a);
/* scratch: hn_linear_fwd_fast_scratch bytes, float-aligned; may be NULL when that is 0. The size
 * follows from shapes and dtypes alone: the pointers may still be NULL. So in every operation. */
size_t hn_linear_fwd_fast_scratch(const hn_linear_args *a);
HN_NODISCARD hn_status hn_linear_fwd_fast(const hn_linear_args *a, void *scratch);
/* scratch: that many bytes, 64-byte aligned; 0 unless bias_dtype differs from dtype. */
HN_CUDA_FUNCTION size_t hn_linear_fwd_cuda_scratch(const hn_linear_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_linear_fwd_cuda(const hn_linear_args *a,
                                                           hn_gemm_cuda *gemm, void *scratch,
                                                           hn_stream stream);

typedef struct {
    const void *dy;  /* in  [rows, out] */
    const void *w;   /* in  [replicas][out, in] */
    const void *add; /* in  [rows, in], NULL: none */
    void *dx;        /* out [rows, in] */
    int64_t rows, in, out;
    int64_t ld_dy, ld_w, ld_add, ld_dx;
    int64_t replicas; /* 0: no replica axis */
    int64_t w_stride; /* 0: shared by the replicas */
    hn_dtype dtype;
    float alpha; /* 0: not given, 1 */
} hn_linear_dx_args;

HN_NODISCARD hn_status hn_linear_dx_check(const hn_linear_dx_args *a);
HN_NODISCARD hn_status hn_linear_dx_cpu(const hn_linear_dx_args *a);
size_t hn_linear_dx_fast_scratch(const hn_linear_dx_args *a);
HN_NODISCARD hn_status hn_linear_dx_fast(const hn_linear_dx_args *a, void *scratch);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_linear_dx_cuda(const hn_linear_dx_args *a,
                                                          hn_gemm_cuda *gemm, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
