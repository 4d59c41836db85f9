/* Whether the machine code of this build runs on the current GPU: asked before anything depends on
 * it, because the runtime itself reports it only at the first launch. */
#include "runtime/base/cuda_check.h"
#include "runtime/device/device_impl.h"

namespace {
__global__ void probe_kernel() {}
} // namespace

hn_status hn_device_probe_cuda(void)
{
    cudaFuncAttributes attributes;
    return HN_CUDA(cudaFuncGetAttributes(&attributes, probe_kernel));
}
