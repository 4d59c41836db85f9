/* swiglu.h - the gated activation of llama-like decoders; forward and backward.
 *
 *   y[i,j]     = round(silu(gate[i,j]) * up[i,j])            silu(v) = v * sigmoid(v)
 *   dgate[i,j] = round(dy[i,j] * up[i,j] * (f + silu(v) * (1 - f)))      v = gate[i,j],
 *   dup[i,j]   = round(dy[i,j] * silu(v))                                f = sigmoid(v)
 * and, where it is wanted, h = y once more, with forward's bits: then nobody keeps y for backward.
 *
 * Shapes     [rows, cols], row-major, rows ld_* elements apart: gate and up may be the two halves
 *            of one buffer [rows, 2 cols], dgate and dup too.
 * Precision  all f32 or all bf16; fp32 arithmetic, one rounding. fast and CUDA: silu within
 *            4 ulp of fp32; for v below -87, where |silu| < 1.5e-36, it may become 0.
 *            CUDA in bf16: sigmoid within 2^-16 of itself and 2^-22 of 1, then the rounding to
 *            bf16 (half an ulp is 2^-9).
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment.
 * Aliasing   y may be gate or up; dgate, dup and h may each be any one of gate, up and dy, but no
 *            two the same one. In place means the same pointer and the same leading dimension.
 * Repeats    bit for bit on one machine; fast: also for any number of threads.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_SWIGLU_H
#define HN_SWIGLU_H

#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *gate; /* in  [rows, cols] */
    const void *up;   /* in  [rows, cols] */
    void *y;          /* out [rows, cols] */
    int64_t rows, cols;
    int64_t ld_gate, ld_up, ld_y;
    hn_dtype dtype;
} hn_swiglu_args;

HN_NODISCARD hn_status hn_swiglu_check(const hn_swiglu_args *a);
HN_NODISCARD hn_status hn_swiglu_fwd_cpu(const hn_swiglu_args *a);
HN_NODISCARD hn_status hn_swiglu_fwd_fast(const hn_swiglu_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_swiglu_fwd_cuda(const hn_swiglu_args *a,
                                                           hn_stream stream);

typedef struct {
    const void *gate; /* in  [rows, cols] */
    const void *up;   /* in  [rows, cols] */
    const void *dy;   /* in  [rows, cols] */
    void *dgate;      /* out [rows, cols] */
    void *dup;        /* out [rows, cols] */
    int64_t rows, cols;
    int64_t ld_gate, ld_up, ld_dy, ld_dgate, ld_dup;
    hn_dtype dtype;
    void *h; /* out [rows, cols]; NULL: not wanted */
    int64_t ld_h;
} hn_swiglu_bwd_args;

HN_NODISCARD hn_status hn_swiglu_bwd_check(const hn_swiglu_bwd_args *a);
HN_NODISCARD hn_status hn_swiglu_bwd_cpu(const hn_swiglu_bwd_args *a);
HN_NODISCARD hn_status hn_swiglu_bwd_fast(const hn_swiglu_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_swiglu_bwd_cuda(const hn_swiglu_bwd_args *a,
                                                           hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
