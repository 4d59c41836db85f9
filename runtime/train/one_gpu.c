#include "runtime/train/one_gpu.h"

#include <string.h>

hn_status hn_one_gpu_check(const char *gpus, const char *who)
{
    if (gpus == NULL || strcmp(gpus, "1") == 0) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "--gpus %s: %s works on one GPU; hone-lora, hone-full, "
                   "hone-sparse, hone-pearl and hone-fedref train on several",
                   gpus, who);
}

hn_status hn_one_gpu_open(const char *spec, const char *who, const hn_log *log, hn_device **out)
{
    int n = 0;
    char why[256];
    HN_TRY(hn_device_open(spec, out));
    hn_info(log, "device: %s", hn_device_text(*out));
    const bool chosen = strncmp(spec, "cuda:", 5) == 0;
    if (hn_device_kind_of(*out) != HN_DEVICE_CUDA || chosen) return HN_OK;
    HN_TRY(hn_device_count(&n, why, sizeof why));
    if (n > 1)
        hn_info(log, "%d GPUs are visible, %s works on the first; --device cuda:N says another", n,
                who);
    return HN_OK;
}
