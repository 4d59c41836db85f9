/* batch_norm.h - batch normalisation of channels-last images (torch.nn.functional.batch_norm), with
 * the residual add and the relu behind it; forward and backward. Ioffe and Szegedy, 2015.
 *
 *   mean[j] = mean_i(x[i,j])    var[j] = mean_i((x[i,j] - mean[j])^2)    over all rows of the batch
 *   rstd[j] = 1 / sqrt(var[j] + eps)
 *   y[i,j]  = round(max(0, (x[i,j] - mean[j]) * rstd[j] * gain[j] + bias[j] + res[i,j]))
 *
 * max(0, .) only with `relu` (NaN stays NaN), res only where it is given. Training changes the
 * running values, where they are given, with the unbiased variance:
 *   running_mean[j] = (1 - momentum) * running_mean[j] + momentum * mean[j]
 *   running_var[j]  = (1 - momentum) * running_var[j] + momentum * var[j] * rows / (rows - 1)
 * `frozen`: mean and var are the running values, which stay as they are.
 *
 * Backward, with g[i,j] = dy[i,j] where relu let it through (y > 0), else 0, z = (x - mean) * rstd:
 *   dgain[j] += sum_i g[i,j] * z[i,j]        dbias[j] += sum_i g[i,j]
 *   dx[i,j]  = round(rstd[j] * gain[j] * (g[i,j] - mean_k(g[k,j]) - z[i,j] mean_k(g[k,j] z[k,j])))
 *   dres     = g
 * frozen: dx = round(rstd * gain * g).
 * What relu let through, y > 0, is also known from x, gain and bias where forward had no res: y
 * before it was rounded, (x - mean) * rstd * gain + bias > 0. Backward is given y or bias; bias is
 * the cheaper one, because x is read anyway.
 *
 * Shapes     row-major [rows, cols], rows ld_* elements apart: a row is a pixel, a column a
 *            channel, rows = images * height * width. gain, bias, mean, rstd, running values
 *            [cols]. No replica axis.
 * Precision  x, res, y, dy, dx, dres all f32 or all bf16; gain and bias either; the rest f32.
 *            fp32 arithmetic; sums about a value of the column, or double: accurate where the
 *            mean is large beside the deviation. mean itself is kept as f32, as PyTorch's is.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment; eps > 0; momentum 0 to 1.
 *            Training wants 2 rows at least, as PyTorch does.
 * Aliasing   forward: y may be x or res. Backward: dx may be dy, x or y; dres may be dy or y, but
 *            not where dx is. In place means the same pointer and the same leading dimension.
 * Runs once  a step: running twice (a layer that is computed again for backward) would move the
 *            running values twice. Engine: nodes that write persistent tensors are never
 *            repeated. Evaluation is `frozen`.
 * Repeats    bit for bit on one machine, fast also for any number of threads: rows fall into runs
 *            by their number alone, whose sums are added in order.
 * CUDA       the runs also depend on whether every operand is aligned for 16-byte accesses.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_BATCH_NORM_H
#define HN_BATCH_NORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *x;       /* in  [rows, cols] */
    const void *res;     /* in  same shape, added before relu; NULL: none */
    const void *gain;    /* in  [cols] */
    const void *bias;    /* in  [cols] */
    void *y;             /* out same shape as x */
    float *mean;         /* out [cols], kept for backward */
    float *rstd;         /* out [cols], kept for backward */
    float *running_mean; /* in/out [cols]; both NULL: not kept (not with frozen) */
    float *running_var;  /* in/out [cols] */
    int64_t rows, cols;
    int64_t ld_x, ld_res, ld_y;
    hn_dtype dtype, gain_dtype, bias_dtype;
    float eps;      /* typically 1e-5 */
    float momentum; /* typically 0.1: weight of the new value */
    bool frozen, relu;
} hn_batch_norm_args;

HN_NODISCARD hn_status hn_batch_norm_check(const hn_batch_norm_args *a);
HN_NODISCARD hn_status hn_batch_norm_fwd_cpu(const hn_batch_norm_args *a);
/* scratch: hn_batch_norm_fwd_fast_scratch bytes, aligned for double; NULL when frozen. */
size_t hn_batch_norm_fwd_fast_scratch(const hn_batch_norm_args *a);
HN_NODISCARD hn_status hn_batch_norm_fwd_fast(const hn_batch_norm_args *a, void *scratch);
/* scratch: hn_batch_norm_fwd_cuda_scratch bytes, 64-byte aligned; NULL when frozen. */
HN_CUDA_FUNCTION size_t hn_batch_norm_fwd_cuda_scratch(const hn_batch_norm_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_batch_norm_fwd_cuda(const hn_batch_norm_args *a,
                                                               void *scratch, hn_stream stream);

typedef struct {
    const void *x;     /* in  [rows, cols] */
    const void *y;     /* in  same shape, with relu; NULL: without, or `bias` stands for it */
    const void *gain;  /* in  [cols] */
    const void *bias;  /* in  [cols], with relu in place of y, where there is no dres; else NULL */
    const float *mean; /* in  [cols] as forward wrote them */
    const float *rstd; /* in  [cols] */
    const void *dy;    /* in  same shape as x */
    void *dx;          /* out same shape; NULL: not wanted */
    void *dres;        /* out same shape; NULL: not wanted */
    float *dgain;      /* in/out [cols]; NULL: not wanted */
    float *dbias;      /* in/out [cols]; NULL: not wanted */
    int64_t rows, cols;
    int64_t ld_x, ld_y, ld_dy, ld_dx, ld_dres;
    hn_dtype dtype, gain_dtype;
    hn_dtype bias_dtype; /* only read with bias */
    bool frozen;
} hn_batch_norm_bwd_args;

HN_NODISCARD hn_status hn_batch_norm_bwd_check(const hn_batch_norm_bwd_args *a);
HN_NODISCARD hn_status hn_batch_norm_bwd_cpu(const hn_batch_norm_bwd_args *a);
/* scratch: so many bytes, aligned for double; NULL when that is 0 (frozen, only dx and dres). */
size_t hn_batch_norm_bwd_fast_scratch(const hn_batch_norm_bwd_args *a);
HN_NODISCARD hn_status hn_batch_norm_bwd_fast(const hn_batch_norm_bwd_args *a, void *scratch);
/* The same, 64-byte aligned. */
HN_CUDA_FUNCTION size_t hn_batch_norm_bwd_cuda_scratch(const hn_batch_norm_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_batch_norm_bwd_cuda(const hn_batch_norm_bwd_args *a,
                                                               void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
