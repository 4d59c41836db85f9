/* lowrank_norm.h - the norms of the rows of a weight with a low-rank update, as DoRA wants them.
 *
 *   norm[o] = || w_o + scale * b_o A ||
 *           = sqrt(squares[o] + 2 scale b_o . p_o + scale^2 b_o G b_o^T)    p = w A^T, G = A A^T
 *
 * with squares[o] = || w_o ||^2 from the caller: w is frozen, so that they are summed up once. The
 * sum of w and the update is never made: p is one thin product of w, and the rest is small.
 *
 * Cancellation  Where an update turns a row almost to zero, the three terms cancel, and what is
 *            left of them is rounding. The sum is therefore taken to be at least 2^-16 of the sum
 *            of their magnitudes: there the norm is 1/256 of what it would be without cancelling,
 *            and the rounding of fp32 sums is some per cent of it at most. A row of zeros that
 *            gets no update has norm 0. NaN stays NaN.
 * Shapes     w [out, in]; A [rank, in]; B [out, rank]; squares, norm [out]. Row-major, rows lie
 *            ld_* elements apart.
 * Precision  w, A and B all f32 or all bf16; squares and norm f32; fp32 arithmetic and sums. With
 *            B of zeros norm[o] is sqrtf(squares[o]) to the bit.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment.
 * Aliasing   none.
 * Repeats    bit for bit on one machine; fast: also for any number of threads.
 * Cost       2 out in rank + 2 rank^2 (in + out) flops, whatever the rows of the batch: beside the
 *            2 rows in out each way of the layer, rank / (2 rows) of its step.
 * Source     Liu et al., DoRA, ICML 2024, equation 5; as PEFT computes it.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_LOWRANK_NORM_H
#define HN_LOWRANK_NORM_H
#include <stddef.h>
#include <stdint.h>

#include "kernels/linear/gemm_cuda.h"
#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HN_LOWRANK_NORM_LEAST 0x1p-16f /* of the magnitudes that were added up */

typedef struct {
    const void *w;        /* in  [out, in] */
    const void *a;        /* in  [rank, in] */
    const void *b;        /* in  [out, rank] */
    const float *squares; /* in  [out], sums of squares of the rows of w */
    float *norm;          /* out [out] */
    int64_t out, in, rank;
    int64_t ld_w, ld_a, ld_b;
    hn_dtype dtype;
    float scale; /* of B A */
} hn_lowrank_norm_args;

HN_NODISCARD hn_status hn_lowrank_norm_check(const hn_lowrank_norm_args *a);
HN_NODISCARD hn_status hn_lowrank_norm_cpu(const hn_lowrank_norm_args *a);
/* scratch: that many bytes, float-aligned. */
size_t hn_lowrank_norm_fast_scratch(const hn_lowrank_norm_args *a);
HN_NODISCARD hn_status hn_lowrank_norm_fast(const hn_lowrank_norm_args *a, void *scratch);
/* scratch: that many bytes, 64-byte aligned. */
HN_CUDA_FUNCTION size_t hn_lowrank_norm_cuda_scratch(const hn_lowrank_norm_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_lowrank_norm_cuda(const hn_lowrank_norm_args *a,
                                                             hn_gemm_cuda *gemm, void *scratch,
                                                             hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
