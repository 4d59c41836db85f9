/* lowrank_linear.h - a linear layer with a low-rank update (LoRA): forward and input gradient.
 *
 *   s[i,r]  = round(scale * sum_k x'[i,k] A[r,k])            x' = x, or dropout(x) where drop.p > 0
 *   y[i,o]  = round(sum_k x[i,k] w[o,k] + bias[o] + sum_r s[i,r] B[o,r])  (+ add[i,o])
 *
 *   ds[i,r] = round(scale * sum_o dy[i,o] B[o,r])
 *   dx[i,k] = round(sum_o dy[i,o] w[o,k] + mask'(i,k) * sum_r ds[i,r] A[r,k])  (+ add[i,k])
 *
 * x' is rounded to the dtype of x; mask' is keep / (1 - p), 1 without dropout. The mask is made
 * again from the key (kernels/random/dropout.h), never stored. s and ds are kept rounded: the
 * gradients of A and B, which read them, then treat the same numbers as y and dx do:
 *   dA += ds^T x'           hn_linear_dw with dy = ds, the same dropout key
 *   dB += dy^T s            hn_linear_dw with x = s
 * (kernels/linear/linear_dw.h); those of w and bias are the plain linear layer's. With the scale in
 * s, y is one product of [x | s] and [w | B], and dx one of [dy | ds] and w above A.
 *
 * Shapes     x, dx [rows, in]; y, dy [rows, out]; s, ds [rows, rank]; w [out, in]; bias [out];
 *            A [rank, in]; B [out, rank]. Row-major, rows lie ld_* elements apart. With
 *            `replicas` = G > 1 the rows are G equal groups in order, and w, bias, A and B of
 *            group g start *_stride elements after those of group g - 1 (0: all groups share them).
 * Precision  all f32 or all bf16, bias either; fp32 arithmetic and sums, rounded where the
 *            formulas say.
 * CUDA       y and dx are written by two products in a row: x w^T + bias (+ add), then + s B^T;
 *            dy w (+ add), then + mask' ds A. In bf16 they are rounded once more in between.
 *            Bordered storage makes one product of two, with one rounding: y = [x | s] [w | B]^T
 *            where B lies right of w (b == w + in, ld_b == ld_w) and x_tail >= rank; dx = [dy | ds]
 *            [w ; A] where A lies below w (a == w + out * ld_w, ld_a == ld_w), dy_tail >= rank and
 *            drop.p is 0, as mask' would have to fall on ds A alone. Only without replicas. s and
 *            ds are then written twice: to their own place, and BEHIND EVERY ROW OF x or dy
 *            (elements in .. in + rank - 1, out .. out + rank - 1), the last one included: whoever
 *            gives a tail promises that this memory is there and that nobody's values are in it.
 * Limits     every dimension 1 to 2^31 - 1; any width, rank and alignment.
 *            x_tail and dy_tail: 0, or at most what the leading dimension leaves. The CPU functions
 *            do not look at them.
 * Aliasing   add may be the output (y or dx) itself with the same leading dimension; no other
 *            overlap.
 * Repeats    bit for bit on one machine; fast: also for any number of threads.
 * Cost       2 rows (in out + rank (in + out)) flops each way.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_LOWRANK_LINEAR_H
#define HN_LOWRANK_LINEAR_H

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
    const void *x;    /* in  [rows, in] */
    const void *w;    /* in  [out, in], or [replicas][out, in] */
    const void *bias; /* in  [out], or [replicas][out]; NULL: none */
    const void *a;    /* in  [replicas][rank, in] */
    const void *b;    /* in  [replicas][out, rank] */
    const void *add;  /* in  [rows, out], added to y; NULL: none */
    void *y;          /* out [rows, out] */
    void *s;          /* out [rows, rank], scaled; kept for the gradient of B */
    int64_t rows, in, out, rank;
    int64_t ld_x, ld_w, ld_a, ld_b, ld_add, ld_y, ld_s;
    int64_t x_tail;                                    /* elements behind a row of x to write in */
    int64_t replicas;                                  /* 0: no replica axis */
    int64_t w_stride, bias_stride, a_stride, b_stride; /* 0: shared by the replicas */
    hn_dtype dtype, bias_dtype; /* bias_dtype: give dtype where there is no bias */
    float scale;                /* alpha / rank, or alpha / sqrt(rank); not 0 */
    hn_dropout_key drop;        /* of the low-rank branch; p = 0: none */
} hn_lowrank_linear_args;

HN_NODISCARD hn_status hn_lowrank_linear_check(const hn_lowrank_linear_args *a);
HN_NODISCARD hn_status hn_lowrank_linear_fwd_cpu(const hn_lowrank_linear_args *a);
/* scratch: hn_lowrank_linear_fwd_fast_scratch bytes, float-aligned; may be NULL when that is 0. */
size_t hn_lowrank_linear_fwd_fast_scratch(const hn_lowrank_linear_args *a);
HN_NODISCARD hn_status hn_lowrank_linear_fwd_fast(const hn_lowrank_linear_args *a, void *scratch);
/* scratch: that many bytes, 64-byte aligned; 0 without dropout and with a bias of dtype. */
HN_CUDA_FUNCTION size_t hn_lowrank_linear_fwd_cuda_scratch(const hn_lowrank_linear_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_lowrank_linear_fwd_cuda(const hn_lowrank_linear_args *a,
                                                                   hn_gemm_cuda *gemm,
                                                                   void *scratch, hn_stream stream);

typedef struct {
    const void *dy;  /* in  [rows, out] */
    const void *w;   /* in  [out, in], or [replicas][out, in]; not used without dx */
    const void *a;   /* in  [replicas][rank, in]; not used without dx */
    const void *b;   /* in  [replicas][out, rank] */
    void *ds;        /* out [rows, rank], kept for the gradient of A */
    const void *add; /* in [rows, in], added to dx; NULL: none */
    void *dx;        /* out [rows, in]; NULL: not wanted */
    int64_t rows, in, out, rank;
    int64_t ld_dy, ld_w, ld_a, ld_b, ld_ds, ld_add, ld_dx;
    int64_t dy_tail;                      /* elements behind a row of dy to write in */
    int64_t replicas;                     /* 0: no replica axis */
    int64_t w_stride, a_stride, b_stride; /* 0: shared by the replicas */
    hn_dtype dtype;
    float scale;
    hn_dropout_key drop; /* the key of forward */
} hn_lowrank_linear_dx_args;

HN_NODISCARD hn_status hn_lowrank_linear_dx_check(const hn_lowrank_linear_dx_args *a);
HN_NODISCARD hn_status hn_lowrank_linear_dx_cpu(const hn_lowrank_linear_dx_args *a);
size_t hn_lowrank_linear_dx_fast_scratch(const hn_lowrank_linear_dx_args *a);
HN_NODISCARD hn_status hn_lowrank_linear_dx_fast(const hn_lowrank_linear_dx_args *a, void *scratch);
/* scratch: that many bytes, 64-byte aligned; 0 without dropout. */
HN_CUDA_FUNCTION size_t hn_lowrank_linear_dx_cuda_scratch(const hn_lowrank_linear_dx_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_lowrank_linear_dx_cuda(
    const hn_lowrank_linear_dx_args *a, hn_gemm_cuda *gemm, void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
