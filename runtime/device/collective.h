/* collective.h - what the ranks of a job compute together: sums and copies of their memory.
 *
 * Whoever connects the ranks (runtime/comm) gives a device its collectives; operations find them
 * through the device. A device without, or with ranks 1, is alone: the sum is what it has.
 *
 * Every rank makes the same calls with the same sizes in the same order, node by node or in graphs
 * that were captured. On a GPU a call enqueues on the stream, may be captured, and neither waits
 * nor allocates; on the CPU it is done when it returns.
 *
 * Repeats  the same ranks on the same machines give the same bits, and every rank the same ones.
 * Errors   HN_ERR_CUDA, HN_ERR_IO: the library's, or a rank that is gone
 */
#ifndef HN_COLLECTIVE_H
#define HN_COLLECTIVE_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

/* n values, and so many again every `stride` elements. */
typedef struct {
    float *data;            /* in, out [copies][n] */
    int64_t n;              /* > 0 */
    int64_t copies, stride; /* copies 0 or 1: one */
} hn_collective_span;

typedef struct {
    int rank, ranks;  /* 0 <= rank < ranks */
    const char *text; /* who computes them: "NCCL 2.28.9"; the bits of sums depend on it */
    void *context;    /* of the calls */

    /* Every value becomes its sum over the ranks, all spans in one call. */
    hn_status (*all_reduce)(void *context, const hn_collective_span *span, int n_spans,
                            hn_stream stream);
    /* to[i] = sum over the ranks of from[rank * n + i].
     * from  in [ranks][n]; what it holds afterwards is not specified
     * to    out [n]; may be from + rank * n, no other overlap */
    hn_status (*reduce_scatter)(void *context, float *from, float *to, int64_t n, hn_stream stream);
    /* Bytes of all ranks, in their order.
     * from  in [bytes]; may be to + rank * bytes, no other overlap
     * to    out [ranks][bytes] */
    hn_status (*all_gather)(void *context, const void *from, void *to, size_t bytes,
                            hn_stream stream);
} hn_collectives;

#ifdef __cplusplus
}
#endif
#endif
