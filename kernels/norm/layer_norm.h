/* layer_norm.h - residual add, then layer normalisation (torch.nn.functional.layer_norm); forward
 * and backward. Ba, Kiros and Hinton, 2016.
 *
 *   sum[i,j] = round(x[i,j] + res[i,j])                          (without res: sum is x)
 *   mean[i]  = mean_j(sum[i,j])
 *   rstd[i]  = 1 / sqrt(mean_j((sum[i,j] - mean[i])^2) + eps)
 *   y[i,j]   = round((sum[i,j] - mean[i]) * rstd[i] * gain[j] + bias[j])
 *
 * Backward, with z = (sum - mean) * rstd and h[i,j] = dy[i,j] * gain[j]:
 *   dx[i,j]  = round(rstd[i] * (h[i,j] - mean_k(h[i,k]) - z[i,j] mean_k(h[i,k] z[i,k]))
 *                    + dsum[i,j])
 *   dgain[j] += sum_i dy[i,j] * z[i,j]        dbias[j] += sum_i dy[i,j]
 * dx is the gradient of x and of res alike; dsum is the gradient that reaches sum from elsewhere.
 *
 * Shapes     row-major [rows, cols], rows ld_* elements apart; gain, bias, dgain, dbias [cols];
 *            mean, rstd [rows]. With `replicas` = G > 1 the rows are G equal groups in order, and
 *            gain, bias, dgain, dbias of group g start *_stride elements after those of group
 *            g - 1.
 * Precision  x, res, sum, y, dy, dsum, dx all f32 or all bf16; gain and bias either; mean, rstd,
 *            dgain and dbias f32; fp32 arithmetic and sums. sum is rounded before its mean is
 *            taken: backward sees only the rounded sum, so both passes treat the same numbers.
 *            Deviations are summed about the mean, with a correction for the mean's own rounding.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment; eps > 0.
 * Aliasing   forward: sum may be res or x; without res, y may be x. Backward: dx may be dy, dsum
 *            or sum. In place means the same pointer and the same leading dimension. No other
 *            overlap.
 * Repeats    bit for bit on one machine, fast also for any number of threads: rows are
 *            independent, and dgain and dbias add a fixed number of partial sums in order.
 * CUDA       the order of sums depends on shapes, and on whether every operand is aligned for
 *            16-byte accesses.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_LAYER_NORM_H
#define HN_LAYER_NORM_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *x;    /* in  [rows, cols] output of the branch */
    const void *res;  /* in  same shape, the residual stream; NULL: none */
    const void *gain; /* in  [replicas][cols] */
    const void *bias; /* in  [replicas][cols]; NULL: none */
    void *sum;        /* out same shape as x, new residual stream; NULL exactly when res is */
    void *y;          /* out same shape */
    float *mean;      /* out [rows], kept for backward */
    float *rstd;      /* out [rows], kept for backward; both NULL: not wanted */
    int64_t rows, cols;
    int64_t ld_x, ld_res, ld_sum, ld_y;
    int64_t replicas;                 /* 0: no replica axis */
    int64_t gain_stride, bias_stride; /* 0: shared by the replicas */
    hn_dtype dtype, gain_dtype, bias_dtype;
    float eps; /* 1e-5 (GPT-2), 1e-6 (ViT), 1e-12 (BERT) */
} hn_layer_norm_args;

HN_NODISCARD hn_status hn_layer_norm_check(const hn_layer_norm_args *a);
HN_NODISCARD hn_status hn_layer_norm_fwd_cpu(const hn_layer_norm_args *a);
HN_NODISCARD hn_status hn_layer_norm_fwd_fast(const hn_layer_norm_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_layer_norm_fwd_cuda(const hn_layer_norm_args *a,
                                                               hn_stream stream);

typedef struct {
    const void *sum;   /* in  [rows, cols] as forward wrote it (x where there was no res) */
    const void *gain;  /* in  [replicas][cols] */
    const float *mean; /* in  [rows] */
    const float *rstd; /* in  [rows] */
    const void *dy;    /* in  same shape as sum */
    const void *dsum;  /* in  same shape; NULL: nothing else reads sum */
    void *dx;          /* out same shape; NULL: not wanted */
    float *dgain;      /* in/out [replicas][cols]; NULL: not wanted */
    float *dbias;      /* in/out [replicas][cols]; NULL: not wanted */
    int64_t rows, cols;
    int64_t ld_sum, ld_dy, ld_dsum, ld_dx;
    int64_t replicas;    /* 0: no replica axis */
    int64_t gain_stride; /* 0: shared by the replicas */
    int64_t dgain_stride, dbias_stride;
    hn_dtype dtype, gain_dtype;
} hn_layer_norm_bwd_args;

HN_NODISCARD hn_status hn_layer_norm_bwd_check(const hn_layer_norm_bwd_args *a);
HN_NODISCARD hn_status hn_layer_norm_bwd_cpu(const hn_layer_norm_bwd_args *a);
/* scratch: hn_layer_norm_bwd_fast_scratch bytes, float-aligned; NULL when neither dgain nor dbias
 * is wanted. */
size_t hn_layer_norm_bwd_fast_scratch(const hn_layer_norm_bwd_args *a);
HN_NODISCARD hn_status hn_layer_norm_bwd_fast(const hn_layer_norm_bwd_args *a, void *scratch);
/* The same, 64-byte aligned. */
HN_CUDA_FUNCTION size_t hn_layer_norm_bwd_cuda_scratch(const hn_layer_norm_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_layer_norm_bwd_cuda(const hn_layer_norm_bwd_args *a,
                                                               void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
