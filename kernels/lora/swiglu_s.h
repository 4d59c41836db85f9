/* swiglu_s.h - the gated activation and, from it, s of the layer above, which reads it.
 *
 *   y = hn_swiglu_fwd                                    kernels/activation/swiglu.h
 *   s[i,r] = round(scale * sum_j y[i,j] A[r,j])
 *
 * from the rounded y: what hn_lowrank_linear_fwd would make of x = y without dropout
 * (kernels/lora/lowrank_linear.h), which then takes it as given. y need not be read again for it.
 *
 * Shapes     as there; A [rank, cols], s [rows, rank].
 * Precision  as there: all f32 or all bf16, fp32 arithmetic and sums.
 * CUDA       in bf16, with ranks that are multiples of 8 up to 64 and everything on 16-byte
 *            boundaries, one kernel that reads and writes every value once; else the kernels of the
 *            two one after the other. Where tail >= rank s is also written BEHIND EVERY ROW OF y
 *            (elements cols .. cols + rank - 1).
 * Limits     every dimension 1 to 2^31 - 1; any width, rank and alignment. tail: 0, or at most what
 *            ld_y leaves; the CPU functions do not look at it.
 * Aliasing   of y as in swiglu.h; no other overlap.
 * Repeats    bit for bit on one machine; fast: also for any number of threads.
 * Cost       6 bytes per element in bf16, 2 rows cols rank flops: bound by memory.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_SWIGLU_S_H
#define HN_SWIGLU_S_H
#include "kernels/activation/swiglu.h"
#include "kernels/lora/lowrank_linear.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    hn_swiglu_args swiglu;
    const void *a; /* in  [rank, cols] */
    void *s;       /* out [rows, rank] */
    int64_t rank, ld_a, ld_s;
    int64_t tail; /* elements behind a row of y to write in */
    float scale;  /* not 0 */
} hn_swiglu_s_args;

/* The second half by itself: s alone, of x = y. */
hn_lowrank_linear_args hn_swiglu_s_rest(const hn_swiglu_s_args *a);

HN_NODISCARD hn_status hn_swiglu_s_check(const hn_swiglu_s_args *a);
HN_NODISCARD hn_status hn_swiglu_s_cpu(const hn_swiglu_s_args *a);
/* scratch: hn_swiglu_s_fast_scratch bytes, float-aligned; may be NULL when that is 0. */
size_t hn_swiglu_s_fast_scratch(const hn_swiglu_s_args *a);
HN_NODISCARD hn_status hn_swiglu_s_fast(const hn_swiglu_s_args *a, void *scratch);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_swiglu_s_cuda(const hn_swiglu_s_args *a,
                                                         hn_gemm_cuda *gemm, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
