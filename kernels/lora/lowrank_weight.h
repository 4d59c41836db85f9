/* lowrank_weight.h - a weight with its low-rank update, as one matrix, and the gradient of the
 * update from that of the matrix.
 *
 *   forward   y[i,j]  = round(w[i,j] + scale * sum_r b[i,r] a[r,j])
 *   backward  da[r,j] += scale * sum_i b[i,r] dy[i,j]
 *             db[i,r] += scale * sum_j dy[i,j] a[r,j]
 *
 * For layers whose product is no plain matrix product, convolutions above all: they run on y as
 * they are, and dy is the gradient that they leave for a weight. A matrix of a small network is
 * soon made; where rows are few and matrices large, kernels/lora/lowrank_linear.h is cheaper.
 * Merging an adapter into its weight is the same sum. Source: Hu et al., LoRA, ICLR 2022,
 * equation 3.
 *
 * Shapes     w, y, dy [out, in], a, da [rank, in], b, db [out, rank]
 * Precision  w, y, a, b all f32 or all bf16; dy, da, db f32. fp32 arithmetic and sums, one rounding
 *            of y. CUDA: f32 means no TF32; the gradients are f32 products.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment.
 * Aliasing   y may be w with the same leading dimension; no other overlap.
 * Repeats    bit for bit on one machine; fast: also for any number of threads.
 * Cost       2 out in rank flops forward, twice that backward.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_LOWRANK_WEIGHT_H
#define HN_LOWRANK_WEIGHT_H
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
    const void *w, *a, *b; /* in  */
    void *y;               /* out */
    int64_t out, in, rank;
    int64_t ld_w, ld_a, ld_b, ld_y;
    hn_dtype dtype;
    float scale;
} hn_lowrank_weight_args;

HN_NODISCARD hn_status hn_lowrank_weight_check(const hn_lowrank_weight_args *a);
HN_NODISCARD hn_status hn_lowrank_weight_fwd_cpu(const hn_lowrank_weight_args *a);
/* scratch: that many bytes, float-aligned; may be NULL when that is 0. */
size_t hn_lowrank_weight_fwd_fast_scratch(const hn_lowrank_weight_args *a);
HN_NODISCARD hn_status hn_lowrank_weight_fwd_fast(const hn_lowrank_weight_args *a, void *scratch);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_lowrank_weight_fwd_cuda(const hn_lowrank_weight_args *a,
                                                                   hn_gemm_cuda *gemm,
                                                                   hn_stream stream);

typedef struct {
    const float *dy;   /* in */
    const void *a, *b; /* in, of dtype */
    float *da, *db;    /* in/out; either may be NULL: not wanted */
    int64_t out, in, rank;
    int64_t ld_dy, ld_a, ld_b, ld_da, ld_db;
    hn_dtype dtype;
    float scale;
} hn_lowrank_weight_bwd_args;

HN_NODISCARD hn_status hn_lowrank_weight_bwd_check(const hn_lowrank_weight_bwd_args *a);
HN_NODISCARD hn_status hn_lowrank_weight_bwd_cpu(const hn_lowrank_weight_bwd_args *a);
size_t hn_lowrank_weight_bwd_fast_scratch(const hn_lowrank_weight_bwd_args *a);
HN_NODISCARD hn_status hn_lowrank_weight_bwd_fast(const hn_lowrank_weight_bwd_args *a,
                                                  void *scratch);
/* scratch: a and b in f32 where they are bf16; 64-byte aligned. */
HN_CUDA_FUNCTION size_t hn_lowrank_weight_bwd_cuda_scratch(const hn_lowrank_weight_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_lowrank_weight_bwd_cuda(
    const hn_lowrank_weight_bwd_args *a, hn_gemm_cuda *gemm, void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
