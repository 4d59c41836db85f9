/* attention_cudnn.h - attention on the GPU through cuDNN; the contract is attention.h's, with the
 * limits below.
 *
 * cuDNN has no attention function: it is told the arithmetic as a graph and compiles a kernel for
 * it. That takes 0.03 to 1.3 seconds a shape, so a plan is made ahead of the first call
 * (hn_attention_cudnn_plan) and found again by shape.
 *
 * Precision  bf16 in and out, lse f32, fp32 arithmetic; p and dt are rounded to bf16 before they
 *            meet v, dout, k and q, and with grouped heads dk and dv of each query head before they
 *            are added up over the group.
 * Limits     bf16; head_dim = value_dim, a multiple of 16 up to 128; no softcap; no key offsets of
 *            their own; a window only with a causal mask; unless `even`,
 *            ld_k = ld_v = ld_dk = ld_dv, and ld_q = ld_dq in HN_CUDNN_BWD_FAST; pointers on
 *            16-byte boundaries, leading dimensions in multiples of 8;
 *            rows * leading dimension below 2^31, of dk and dv times heads / kv_heads.
 *            `longest` is worth giving: the deterministic backward works in
 *            2 * sequences * heads * longest^2 bytes.
 * Aliasing   as in attention.h.
 * Repeats    bit for bit on one kind of GPU and one version of the library, but for dq of
 *            HN_CUDNN_BWD_FAST, which is added up in an order left to chance. Packed with others a
 *            sequence may get other bits than alone.
 * Padding    a q, k, v or dout that is NaN or Inf in a row that no sequence covers may reach the
 *            last sequence (0 * NaN).
 * Capture    fwd and bwd may run while a stream is captured; making a plan may not.
 * Threads    one thread at a time per object.
 */
#ifndef HN_ATTENTION_CUDNN_H
#define HN_ATTENTION_CUDNN_H
#include "kernels/attention/attention.h"
#include "kernels/cudnn/cudnn_library.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_attention_cudnn hn_attention_cudnn; /* plans; for one device */

typedef enum {
    HN_CUDNN_FWD,
    HN_CUDNN_BWD,      /* deterministic */
    HN_CUDNN_BWD_FAST, /* atomic sums in dq; no memory that grows with the square of a length */
} hn_cudnn_pass;

/* lib outlives what is opened on it. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_attention_cudnn_open(hn_cudnn *lib,
                                                                hn_attention_cudnn **out);
HN_CUDA_FUNCTION void hn_attention_cudnn_close(hn_attention_cudnn *c); /* accepts NULL */
/* "9.19.0" */
HN_CUDA_FUNCTION const char *hn_attention_cudnn_version(const hn_attention_cudnn *c);

/* Makes the plan for these shapes, leading dimensions and masks, unless there is one. Pointers are
 * not read and may be NULL (kv_offsets: NULL or not).
 *
 * limit    most bytes that scratch may come to
 * scratch  bytes of device memory that a call works in
 * Errors   HN_ERR_UNSUPPORTED: outside the limits above, above `limit`, or cuDNN has no kernel;
 *          HN_ERR_SHAPE, HN_ERR_MEMORY */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_attention_cudnn_plan(hn_attention_cudnn *c,
                                                                const hn_attention_args *a,
                                                                hn_cudnn_pass pass, size_t limit,
                                                                size_t *scratch);

/* Device pointers; the plan has been made. scratch 64-byte aligned.
 * Errors  those of hn_attention_check; HN_ERR_ARG: no plan; HN_ERR_ALIGN; HN_ERR_CUDA */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_attention_cudnn_fwd(hn_attention_cudnn *c,
                                                               const hn_attention_args *a,
                                                               void *scratch, hn_stream stream);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_attention_cudnn_bwd(hn_attention_cudnn *c,
                                                               const hn_attention_args *a,
                                                               hn_cudnn_pass pass, void *scratch,
                                                               hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
