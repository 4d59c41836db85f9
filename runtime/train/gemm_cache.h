/* gemm_cache.h - the file that `tune` writes: which algorithms matrix products run fastest with.
 *
 *   {"what": "hone gemm plans", "version": 1, "gpu": "NVIDIA H200", "library": 130101,
 *    "plans": [...]}                         of hn_gemm_cuda_plans (kernels/linear/gemm_cuda.h)
 *
 * Good for one kind of GPU and one version of cuBLASLt, which the default name holds as well:
 * $XDG_CACHE_HOME/hone/gemm-NVIDIA-H200-130101.json, or ~/.cache/hone/...
 */
#ifndef HN_GEMM_CACHE_H
#define HN_GEMM_CACHE_H
#include <jansson.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What an option says: a file; "auto": the default name, NULL where there is no home folder for it;
 * "off": NULL. hn_free(*out). */
HN_NODISCARD hn_status hn_gemm_cache_path(const char *option, const char *gpu, int64_t library,
                                          char **out);

/* *plans: the file's list, json_decref it; NULL when it is for another GPU or library, which *whose
 * then names ("cuBLASLt 1 on Voodoo 2"; hn_free).
 * Errors  HN_ERR_IO (also when it is missing), HN_ERR_FORMAT (of a plan only its shape is looked
 *         at: hn_gemm_cuda_offer checks the rest), HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_gemm_cache_load(const char *path, const char *gpu, int64_t library,
                                          json_t **plans, char **whose);

/* Writes `plans`, and of the list `older` (NULL: none) those of other shapes; atomically. Makes the
 * folder. */
HN_NODISCARD hn_status hn_gemm_cache_save(const char *path, const char *gpu, int64_t library,
                                          const json_t *older, const json_t *plans);

#ifdef __cplusplus
}
#endif
#endif
