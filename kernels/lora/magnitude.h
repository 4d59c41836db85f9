/* magnitude.h - the columns of a product, given the magnitudes that DoRA trains, and the gradients.
 *
 *   f[o]    = m[o] / norm[o]                 0 where norm[o] is 0
 *   y[i,o]  = round(f[o] z[i,o] + bias[o])
 *
 *   dz[i,o] = round(f[o] dy[i,o])
 *   dm[o]  += sum_i dy[i,o] z[i,o] / norm[o]    nothing where norm[o] is 0
 *
 * z is x W^T + scale x' A^T B^T (lowrank_linear.h, without a bias) and norm that of the rows of
 * W + scale B A (lowrank_norm.h), which the gradient takes for a constant. Where m is norm, f is 1
 * to the bit. A row of W that is zero and gets no update has no direction: PEFT divides 0 by 0,
 * here its y is the bias.
 *
 * Shapes     z, y, dz, dy [rows, cols]; m, norm, dm, bias [cols]. Row-major, rows lie ld_* elements
 *            apart.
 * Precision  z, y, dz and dy all f32 or all bf16, bias f32 or bf16; m, norm and dm f32; fp32
 *            arithmetic and sums.
 * Limits     rows and cols 1 to 2^31 - 1; any width and alignment.
 * Aliasing   y may be z, dz may be dy or z, with the same leading dimension; no other overlap.
 * Repeats    bit for bit on one machine: the sums run in a fixed order, no atomics; fast: also for
 *            any number of threads.
 * Cost       memory: z read and y written; dy and z read and dz written.
 * Source     Liu et al., DoRA, ICML 2024, equations 5 and 11.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_MAGNITUDE_H
#define HN_MAGNITUDE_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *z;     /* in  [rows, cols] */
    const float *m;    /* in  [cols] */
    const float *norm; /* in  [cols] */
    const void *bias;  /* in  [cols]; NULL: none */
    void *y;           /* out [rows, cols] */
    int64_t rows, cols;
    int64_t ld_z, ld_y;
    hn_dtype dtype, bias_dtype; /* bias_dtype: not looked at where there is no bias */
} hn_magnitude_args;

HN_NODISCARD hn_status hn_magnitude_check(const hn_magnitude_args *a);
HN_NODISCARD hn_status hn_magnitude_fwd_cpu(const hn_magnitude_args *a);
HN_NODISCARD hn_status hn_magnitude_fwd_fast(const hn_magnitude_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_magnitude_fwd_cuda(const hn_magnitude_args *a,
                                                              hn_stream stream);

typedef struct {
    const void *dy;    /* in  [rows, cols] */
    const void *z;     /* in  [rows, cols]; not read without dm, but its leading dimension is */
    const float *m;    /* in  [cols] */
    const float *norm; /* in  [cols] */
    void *dz;          /* out [rows, cols] */
    float *dm;         /* in/out [cols]; NULL: not wanted */
    int64_t rows, cols;
    int64_t ld_dy, ld_z, ld_dz;
    hn_dtype dtype;
} hn_magnitude_bwd_args;

HN_NODISCARD hn_status hn_magnitude_bwd_check(const hn_magnitude_bwd_args *a);
HN_NODISCARD hn_status hn_magnitude_bwd_cpu(const hn_magnitude_bwd_args *a);
HN_NODISCARD hn_status hn_magnitude_bwd_fast(const hn_magnitude_bwd_args *a);
/* scratch: that many bytes, 64-byte aligned; may be NULL without dm. */
HN_CUDA_FUNCTION size_t hn_magnitude_bwd_cuda_scratch(const hn_magnitude_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_magnitude_bwd_cuda(const hn_magnitude_bwd_args *a,
                                                              void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
