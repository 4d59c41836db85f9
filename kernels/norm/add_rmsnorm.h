/* add_rmsnorm.h - residual add, then RMS normalisation; forward and backward.
 *
 *   sum[i,j] = round(x[i,j] + res[i,j])                          (without res: sum is x)
 *   rstd[i]  = 1 / sqrt(mean_j(sum[i,j]^2) + eps)
 *   y[i,j]   = round(sum[i,j] * rstd[i] * (gain_offset + gain[j]))
 *
 * Backward, with z = sum * rstd and h[i,j] = dy[i,j] * (gain_offset + gain[j]):
 *   dx[i,j]  = round(rstd[i] * (h[i,j] - z[i,j] * mean_k(h[i,k] z[i,k])) + dsum[i,j])
 *   dgain[j] += sum_i dy[i,j] * z[i,j]
 * and, where it is wanted, y once more, with forward's bits: then nobody keeps it for backward.
 * dx is the gradient of x and of res alike; dsum is the gradient that reaches sum from elsewhere.
 *
 * Shapes     row-major [rows, heads * cols], rows ld_* elements apart; each row holds `heads`
 *            vectors of cols elements that are normalised one by one (heads 1: the whole row;
 *            the query norm of qwen3: tokens, heads, head_dim). gain, dgain [cols]; rstd
 *            [rows * heads]. With `replicas` = G > 1 the rows are G equal groups in order, and
 *            gain and dgain of group g start gain_stride elements after those of group g - 1.
 * Precision  x, res, sum, y, dy, dsum, dx all f32 or all bf16; gain either (gain_dtype); rstd and
 *            dgain f32; fp32 arithmetic and sums. sum is rounded before it is squared: backward
 *            sees only the rounded sum, so both passes treat the same numbers.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment; eps > 0.
 * Aliasing   forward: sum may be res or x. Backward: dx and y may each be dy, dsum or sum, but not
 *            the same one. In place means the same pointer and the same leading dimension. No
 *            other overlap.
 * Repeats    bit for bit on one machine, fast also for any number of threads: rows are
 *            independent, and dgain adds a fixed number of partial sums in order.
 * CUDA       the order of the sum for dgain depends on shapes, and on whether every operand is
 *            aligned for 16-byte accesses.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_ADD_RMSNORM_H
#define HN_ADD_RMSNORM_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *x;    /* in  [rows, heads * cols] output of the branch */
    const void *res;  /* in  same shape, the residual stream; NULL: none */
    const void *gain; /* in  [replicas][cols] */
    void *sum;        /* out same shape as x, new residual stream; NULL exactly when res is */
    void *y;          /* out same shape */
    float *rstd;      /* out [rows * heads], kept for backward; NULL: not wanted */
    int64_t rows, heads, cols; /* heads 0: 1 */
    int64_t ld_x, ld_res, ld_sum, ld_y;
    int64_t replicas;    /* 0: no replica axis */
    int64_t gain_stride; /* 0: shared by the replicas */
    hn_dtype dtype, gain_dtype;
    float eps;         /* typically 1e-5 */
    float gain_offset; /* 0; 1 for gemma, whose files hold gain - 1 */
} hn_add_rmsnorm_args;

HN_NODISCARD hn_status hn_add_rmsnorm_check(const hn_add_rmsnorm_args *a);
HN_NODISCARD hn_status hn_add_rmsnorm_fwd_cpu(const hn_add_rmsnorm_args *a);
HN_NODISCARD hn_status hn_add_rmsnorm_fwd_fast(const hn_add_rmsnorm_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_add_rmsnorm_fwd_cuda(const hn_add_rmsnorm_args *a,
                                                                hn_stream stream);

typedef struct {
    const void *sum;   /* in  [rows, heads * cols] as forward wrote it (x where there was no res) */
    const void *gain;  /* in  [replicas][cols] */
    const float *rstd; /* in  [rows * heads] */
    const void *dy;    /* in  same shape as sum */
    const void *dsum;  /* in  same shape; NULL: nothing else reads sum */
    void *dx;          /* out same shape; NULL: not wanted */
    float *dgain;      /* in/out [replicas][cols]; NULL: not wanted */
    int64_t rows, heads, cols; /* heads 0: 1 */
    int64_t ld_sum, ld_dy, ld_dsum, ld_dx;
    int64_t replicas;                  /* 0: no replica axis */
    int64_t gain_stride, dgain_stride; /* gain_stride 0: shared by the replicas */
    hn_dtype dtype, gain_dtype;
    float gain_offset;
    void *y; /* out same shape as sum; NULL: not wanted. Goes with dx */
    int64_t ld_y;
} hn_add_rmsnorm_bwd_args;

HN_NODISCARD hn_status hn_add_rmsnorm_bwd_check(const hn_add_rmsnorm_bwd_args *a);
HN_NODISCARD hn_status hn_add_rmsnorm_bwd_cpu(const hn_add_rmsnorm_bwd_args *a);
/* scratch: hn_add_rmsnorm_bwd_fast_scratch bytes, float-aligned; NULL without dgain. */
size_t hn_add_rmsnorm_bwd_fast_scratch(const hn_add_rmsnorm_bwd_args *a);
HN_NODISCARD hn_status hn_add_rmsnorm_bwd_fast(const hn_add_rmsnorm_bwd_args *a, void *scratch);
/* scratch: hn_add_rmsnorm_bwd_cuda_scratch bytes, 64-byte aligned; NULL without dgain. */
HN_CUDA_FUNCTION size_t hn_add_rmsnorm_bwd_cuda_scratch(const hn_add_rmsnorm_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_add_rmsnorm_bwd_cuda(const hn_add_rmsnorm_bwd_args *a,
                                                                void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
