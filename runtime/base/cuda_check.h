/* cuda_check.h - turn a cudaError_t into an hn_status (for .cu files, runtime/device, bench). */
#ifndef HN_CUDA_CHECK_H
#define HN_CUDA_CHECK_H
#include <cuda_runtime_api.h>

#include "runtime/base/status.h"

static inline hn_status hn_cuda_status_(cudaError_t e, const char *call, const char *file, int line)
{
    if (e == cudaSuccess) return HN_OK;
    (void)cudaGetLastError(); /* a reported error must not surface again at the next check */
    return hn_fail_(e == cudaErrorMemoryAllocation ? HN_ERR_MEMORY : HN_ERR_CUDA, file, line,
                    "%s: %s", call, cudaGetErrorString(e));
}
#define HN_CUDA(call) hn_cuda_status_((call), #call, __FILE__, __LINE__)

/* At the end of a launcher: what the launches before it reported. */
#define HN_CUDA_LAUNCHED(kernel) \
    hn_cuda_status_(cudaGetLastError(), "launch of " kernel, __FILE__, __LINE__)
#endif
