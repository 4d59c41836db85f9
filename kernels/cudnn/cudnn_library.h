/* cudnn_library.h - cuDNN, opened at run time (libcudnn.so.9) so that programs start without it.
 *
 * One handle serves attention (kernels/attention/attention_cudnn.h) and convolutions
 * (kernels/conv/conv2d_cudnn.h). cuDNN is told arithmetic as a graph of operations and has a plan
 * made of it, which is slow; each of the two keeps its plans by shape.
 */
#ifndef HN_CUDNN_LIBRARY_H
#define HN_CUDNN_LIBRARY_H
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_cudnn hn_cudnn; /* library and handle, for the current device */

/* Errors  HN_ERR_UNSUPPORTED: cuDNN is not there, too old, or does not start: says which;
 *         HN_ERR_MEMORY */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_cudnn_open(hn_cudnn **out);
/* Accepts NULL. Behind the objects that were opened on it. */
HN_CUDA_FUNCTION void hn_cudnn_close(hn_cudnn *c);
/* "9.19.0" */
HN_CUDA_FUNCTION const char *hn_cudnn_version(const hn_cudnn *c);

#ifdef __cplusplus
}
#endif
#endif
