/* one_gpu.h - the device of a program that works on one GPU, however many there are. */
#ifndef HN_ONE_GPU_H
#define HN_ONE_GPU_H
#include "runtime/base/log.h"
#include "runtime/base/options.h"
#include "runtime/device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The row of such a program's table; `field` is of its config, const char *. It says nothing about
 * a run, so that records leave it out. */
#define HN_ONE_GPU_ROW(field)                                                               \
    {                                                                                       \
        "gpus", field, "1", 0, 0, NULL, "1: this program works on one; --device says which" \
    }

/* gpus     the option; NULL: of a verb without
 * who      "hone-hyperflow"
 * Errors   HN_ERR_UNSUPPORTED: another number than 1 */
HN_NODISCARD hn_status hn_one_gpu_check(const char *gpus, const char *who);

/* Opens the device and says which it is, and that there are others if nobody has chosen among them.
 * spec     --device
 * Errors   those of hn_device_open */
HN_NODISCARD hn_status hn_one_gpu_open(const char *spec, const char *who, const hn_log *log,
                                       hn_device **out);

#ifdef __cplusplus
}
#endif
#endif
