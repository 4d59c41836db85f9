/* cuda_branch.h - work that a captured graph runs only when a number on the device says so.
 *
 *   hn_cuda_branch b;
 *   HN_TRY(hn_cuda_branch_begin(&b, count, 4096, stream));  // skipped unless *count > 4096
 *   st = enqueue_work(b.body);
 *   HN_TRY(hn_cuda_branch_end(&b, st));
 *
 * While `stream` is captured, the work becomes the body of a conditional node: every launch of the
 * graph reads *value anew, on the device, after what was enqueued before begin and without a wait
 * of the host. Else, and where the driver has no conditional nodes (before CUDA 12.4), b.body is
 * `stream` itself and the work always runs: it must be right, if slow, when it was not needed.
 *
 * In the body: kernels, copies and fills on the device, other branches.
 * Cost       one launch of one thread and the node: a few microseconds.
 * Errors     HN_ERR_CUDA
 */
#ifndef HN_CUDA_BRANCH_H
#define HN_CUDA_BRANCH_H
#include <stdint.h>

#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    hn_stream body; /* enqueue here, from begin to end */
    hn_stream own;  /* a stream of the branch's own, made while capturing; else NULL */
} hn_cuda_branch;

HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_cuda_branch_begin(hn_cuda_branch *b,
                                                             const int32_t *value, int32_t above,
                                                             hn_stream stream);
/* Must follow every begin that succeeded, on the same thread. `work` is what enqueueing gave: a
 * failure is handed back. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_cuda_branch_end(hn_cuda_branch *b, hn_status work);

#ifdef __cplusplus
}
#endif
#endif
