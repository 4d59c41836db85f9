/* swiglu_ds.h - the gradient of the gated activation and, from it, ds of the layer below, which
 * made gate and up as one product [gate | up] = x [w, B A]^T.
 *
 *   dgate, dup, h = hn_swiglu_bwd                        kernels/activation/swiglu.h
 *   ds[i,r] = round(scale * (sum_j dgate[i,j] B[j,r] + sum_j dup[i,j] B[cols + j,r]))
 *
 * from the rounded dgate and dup: what hn_lowrank_linear_dx would make of dy = [dgate | dup]
 * (kernels/lora/lowrank_linear.h), which then takes it as given. dgate and dup need not be read
 * again for it.
 *
 * Shapes     as there; B [2 cols, rank], ds [rows, rank].
 * Precision  as there: all f32 or all bf16, fp32 arithmetic and sums.
 * CUDA       dup lies right of dgate: dup == dgate + cols, ld_dup == ld_dgate. In bf16, with ranks
 *            that are multiples of 8 up to 64 and everything on 16-byte boundaries, one kernel that
 *            reads and writes every value once; else the kernels of the two one after the other.
 *            Where tail >= rank ds is also written BEHIND EVERY ROW OF dup (elements cols .. cols +
 *            rank - 1).
 * Limits     every dimension 1 to 2^31 - 1; any width, rank and alignment. tail: 0, or at most what
 *            ld_dup leaves; the CPU functions do not look at it.
 * Aliasing   of dgate, dup and h as in swiglu.h; no other overlap.
 * Repeats    bit for bit on one machine; fast: also for any number of threads.
 * Cost       12 bytes per element in bf16 (with h), 4 rows cols rank flops: bound by memory.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_SWIGLU_DS_H
#define HN_SWIGLU_DS_H
#include "kernels/activation/swiglu.h"
#include "kernels/lora/lowrank_linear.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    hn_swiglu_bwd_args swiglu;
    const void *b; /* in  [2 cols, rank] */
    void *ds;      /* out [rows, rank] */
    int64_t rank, ld_b, ld_ds;
    int64_t tail; /* elements behind a row of dup to write in */
    float scale;  /* not 0 */
} hn_swiglu_ds_args;

HN_NODISCARD hn_status hn_swiglu_ds_check(const hn_swiglu_ds_args *a);
HN_NODISCARD hn_status hn_swiglu_ds_cpu(const hn_swiglu_ds_args *a);
/* scratch: hn_swiglu_ds_fast_scratch bytes, float-aligned; may be NULL when that is 0. */
size_t hn_swiglu_ds_fast_scratch(const hn_swiglu_ds_args *a);
HN_NODISCARD hn_status hn_swiglu_ds_fast(const hn_swiglu_ds_args *a, void *scratch);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_swiglu_ds_cuda(const hn_swiglu_ds_args *a,
                                                          hn_gemm_cuda *gemm, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
