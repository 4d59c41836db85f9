/* nccl_link.h - NCCL, opened at run time, and one communicator; for runtime/comm only.
 *
 * The library is looked for as libnccl.so.2; a build without its header has stubs that say so.
 * Calls come from one thread, but for hn_nccl_failure and hn_nccl_abort, which the watchdog's
 * thread calls. The current CUDA device is the rank's.
 */
#ifndef HN_NCCL_LINK_H
#define HN_NCCL_LINK_H
#include <stdbool.h>

#include "runtime/device/collective.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_NCCL_ID = 128, HN_GPU_ID = 16 }; /* bytes */

typedef struct hn_nccl hn_nccl;

/* Errors: HN_ERR_UNSUPPORTED says what is missing; HN_ERR_MEMORY */
HN_CUDA_FUNCTION HN_NODISCARD hn_status hn_nccl_open(hn_nccl **out);
/* Accepts NULL. orderly: all ranks call it, with no work under way; else the communicator is
 * aborted. */
HN_CUDA_FUNCTION void hn_nccl_close(hn_nccl *n, bool orderly);
HN_CUDA_FUNCTION int hn_nccl_version(const hn_nccl *n); /* 22809 for 2.28.9 */
/* Of the current GPU; the same on every host that sees it. */
HN_CUDA_FUNCTION HN_NODISCARD hn_status hn_nccl_gpu(unsigned char id[HN_GPU_ID]);

/* What rank 0 makes and shares. */
HN_CUDA_FUNCTION HN_NODISCARD hn_status hn_nccl_make_id(hn_nccl *n, unsigned char id[HN_NCCL_ID]);
/* Waits for all ranks. */
HN_CUDA_FUNCTION HN_NODISCARD hn_status hn_nccl_join(hn_nccl *n, const unsigned char id[HN_NCCL_ID],
                                                     int rank, int ranks);

/* As in hn_collectives. */
HN_CUDA_FUNCTION HN_NODISCARD hn_status hn_nccl_all_reduce(hn_nccl *n,
                                                           const hn_collective_span *span,
                                                           int n_spans, hn_stream stream);
HN_CUDA_FUNCTION HN_NODISCARD hn_status hn_nccl_reduce_scatter(hn_nccl *n, const float *from,
                                                               float *to, int64_t count,
                                                               hn_stream stream);
HN_CUDA_FUNCTION HN_NODISCARD hn_status hn_nccl_all_gather(hn_nccl *n, const void *from, void *to,
                                                           size_t bytes, hn_stream stream);

/* What went wrong while nobody asked; NULL: nothing. Valid until the next call. */
HN_CUDA_FUNCTION const char *hn_nccl_failure(hn_nccl *n);
/* Ends kernels that wait for other ranks; collectives fail from then on. */
HN_CUDA_FUNCTION void hn_nccl_abort(hn_nccl *n);

#ifdef __cplusplus
}
#endif
#endif
