/* modulate.h - scale and shift of the rows of an episode, behind a layer normalisation that has no
 * gain and bias of its own; forward and backward. adaLN of Peebles and Xie, "Scalable Diffusion
 * Models with Transformers" (DiT, 2023), `modulate`.
 *
 * Rows fall into `groups` equal runs; e = i / (rows / groups):
 *
 *   sum[i,j] = round(x[i,j] + res[i,j])                          (without res: sum is x)
 *   mean[i]  = mean_j(sum[i,j])    rstd[i] = 1 / sqrt(mean_j((sum[i,j] - mean[i])^2) + eps)
 *   z[i,j]   = (sum[i,j] - mean[i]) * rstd[i]                    (eps 0: z is sum, no statistics)
 *   y[i,j]   = round(z[i,j] * (1 + scale[e,j]) + shift[e,j])
 *
 * Backward, with h[i,j] = dy[i,j] * (1 + scale[e,j]):
 *   dx[i,j]     = round(rstd[i] * (h[i,j] - mean_k(h[i,k]) - z[i,j] mean_k(h[i,k] z[i,k]))
 *                       + dsum[i,j])                             (eps 0: round(h + dsum))
 *   dscale[e,j] = round(sum_{i of e} dy[i,j] * z[i,j])
 *   dshift[e,j] = round(sum_{i of e} dy[i,j])
 * dx is the gradient of x and of res alike; dsum is the gradient that reaches sum from elsewhere.
 *
 * Shapes     [rows, cols] and, for scale, shift and their gradients, [groups, cols], rows ld_*
 *            elements apart: scale and shift may be columns of one matrix. mean, rstd [rows].
 * Precision  x, res, sum, y, scale, shift and all gradients of one dtype, f32 or bf16; statistics
 *            f32; fp32 arithmetic and sums (the twin in double). sum is rounded before its mean is
 *            taken. Deviations are summed about the mean, with a correction for its own rounding.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment; eps 0 or positive.
 * Aliasing   forward: sum may be res or x; without res, y may be x. Backward: dx may be dy, dsum
 *            or sum. In place means the same pointer and the same leading dimension. No other
 *            overlap.
 * Repeats    bit for bit on one machine, fast also for any number of threads. CUDA: the order of
 *            sums depends on shapes, and on whether every operand is aligned for 16-byte accesses.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_MODULATE_H
#define HN_MODULATE_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *x;     /* in  [rows, cols] */
    const void *res;   /* in  same shape, the residual stream; NULL: none */
    const void *scale; /* in  [groups, cols] */
    const void *shift; /* in  [groups, cols] */
    void *sum;         /* out same shape as x, new residual stream; NULL exactly when res is */
    void *y;           /* out same shape */
    float *mean;       /* out [rows], kept for backward */
    float *rstd;       /* out [rows]; both NULL: not wanted, or eps is 0 */
    int64_t rows, cols, groups;
    int64_t ld_x, ld_res, ld_scale, ld_shift, ld_sum, ld_y;
    hn_dtype dtype;
    float eps; /* 1e-6 (DiT); 0: no normalisation */
} hn_modulate_args;

HN_NODISCARD hn_status hn_modulate_check(const hn_modulate_args *a);
HN_NODISCARD hn_status hn_modulate_fwd_cpu(const hn_modulate_args *a);
HN_NODISCARD hn_status hn_modulate_fwd_fast(const hn_modulate_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_modulate_fwd_cuda(const hn_modulate_args *a,
                                                             hn_stream stream);

typedef struct {
    const void *sum;   /* in  [rows, cols] as forward wrote it (x where there was no res) */
    const void *scale; /* in  [groups, cols] */
    const float *mean; /* in  [rows] */
    const float *rstd; /* in  [rows]; both NULL: forward had eps 0 */
    const void *dy;    /* in  same shape as sum */
    const void *dsum;  /* in  same shape; NULL: nothing else reads sum */
    void *dx;          /* out same shape; NULL: not wanted */
    void *dscale;      /* out [groups, cols] */
    void *dshift;      /* out [groups, cols]; both NULL: not wanted */
    int64_t rows, cols, groups;
    int64_t ld_sum, ld_scale, ld_dy, ld_dsum, ld_dx, ld_dscale, ld_dshift;
    hn_dtype dtype;
} hn_modulate_bwd_args;

HN_NODISCARD hn_status hn_modulate_bwd_check(const hn_modulate_bwd_args *a);
HN_NODISCARD hn_status hn_modulate_bwd_cpu(const hn_modulate_bwd_args *a);
HN_NODISCARD hn_status hn_modulate_bwd_fast(const hn_modulate_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_modulate_bwd_cuda(const hn_modulate_bwd_args *a,
                                                             hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
