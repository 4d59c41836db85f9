/* conv2d_cudnn.h - convolution on the GPU through cuDNN; the contract is conv2d.h's, with the
 * limits below.
 *
 * A plan is made ahead of the first call (hn_conv2d_cudnn_plan_*), which takes from a millisecond
 * to a second a shape, and found again by shape.
 *
 * Precision  bf16: fp32 arithmetic. f32: no TF32. No transforms (FFT, Winograd) in either. Bias
 *            and relu, or `add`, are a pass of their own, which rounds a bf16 sum once more; and
 *            dw of a bf16 convolution is rounded to bf16 before it is added, in fp32, to dw.
 * Limits     pointers on 16-byte boundaries, leading dimensions and strides of replicas in
 *            multiples of 16 bytes; rows * leading dimension below 2^31; no gaps between the rows
 *            of w (dw and bias may have them, and any alignment).
 * Aliasing   as in conv2d.h.
 * Repeats    bit for bit on one kind of GPU and one version of the library: engines that cuDNN
 *            calls nondeterministic are passed over.
 * Capture    fwd, dx and dw may run while a stream is captured; making a plan may not.
 * Threads    one thread at a time per object.
 */
#ifndef HN_CONV2D_CUDNN_H
#define HN_CONV2D_CUDNN_H
#include "kernels/conv/conv2d.h"
#include "kernels/cudnn/cudnn_library.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_conv2d_cudnn hn_conv2d_cudnn; /* plans; for one device */

/* lib outlives what is opened on it. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv2d_cudnn_open(hn_cudnn *lib, hn_conv2d_cudnn **out);
HN_CUDA_FUNCTION void hn_conv2d_cudnn_close(hn_conv2d_cudnn *c); /* accepts NULL */
/* "9.19.0" */
HN_CUDA_FUNCTION const char *hn_conv2d_cudnn_version(const hn_conv2d_cudnn *c);

/* Makes the plan for these shapes, leading dimensions and dtypes, unless there is one. Pointers are
 * not read and may be NULL (bias, add: NULL or not).
 *
 * scratch  bytes of device memory that a call works in
 * Errors   HN_ERR_UNSUPPORTED: outside the limits above, or cuDNN has no kernel; HN_ERR_SHAPE,
 *          HN_ERR_MEMORY */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv2d_cudnn_plan_fwd(hn_conv2d_cudnn *c,
                                                                 const hn_conv2d_args *a,
                                                                 size_t *scratch);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv2d_cudnn_plan_dx(hn_conv2d_cudnn *c,
                                                                const hn_conv2d_dx_args *a,
                                                                size_t *scratch);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv2d_cudnn_plan_dw(hn_conv2d_cudnn *c,
                                                                const hn_conv2d_dw_args *a,
                                                                size_t *scratch);

/* Device pointers; the plan has been made. scratch 64-byte aligned.
 * Errors  those of hn_conv2d_check and its like; HN_ERR_ARG: no plan; HN_ERR_ALIGN; HN_ERR_CUDA */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv2d_cudnn_fwd(hn_conv2d_cudnn *c,
                                                            const hn_conv2d_args *a, void *scratch,
                                                            hn_stream stream);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv2d_cudnn_dx(hn_conv2d_cudnn *c,
                                                           const hn_conv2d_dx_args *a,
                                                           void *scratch, hn_stream stream);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_conv2d_cudnn_dw(hn_conv2d_cudnn *c,
                                                           const hn_conv2d_dw_args *a,
                                                           void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
