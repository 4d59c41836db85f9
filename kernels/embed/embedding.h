/* embedding.h - rows of a table by number, and the gradient of the table.
 *
 *   y[i,j]         = w[id[i],j]
 *   dw[id[i],j]   += dy[i,j]      for i in order
 *
 * Shapes     id [rows]; y, dy [rows, dim]; w, dw [vocab, dim]. Row-major, rows ld_* elements
 *            apart. With `replicas` = G > 1 the rows are G equal groups in order, and w and dw of
 *            group g start w_stride and dw_stride elements after those of group g - 1.
 * Precision  w and y both f32 or both bf16: bits are copied. dw f32, sums in fp32.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment.
 * Aliasing   none.
 * Repeats    bit for bit, also for any number of threads: each element of dw adds its rows in
 *            their order, on CUDA too.
 * CUDA       ids are not checked: a promise of the loader.
 * Errors     HN_ERR_ARG naming row and id when an id is not in [0, vocab) (on the CPU, where the
 *            ids can be read); HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED. All before the
 *            first write.
 */
#ifndef HN_EMBEDDING_H
#define HN_EMBEDDING_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const int32_t *id; /* in  [rows], each in [0, vocab) */
    const void *w;     /* in  [replicas][vocab, dim] */
    void *y;           /* out [rows, dim] */
    int64_t rows, vocab, dim;
    int64_t ld_w, ld_y;
    int64_t replicas; /* 0: no replica axis */
    int64_t w_stride; /* 0: shared by the replicas */
    hn_dtype dtype;
} hn_embedding_args;

HN_NODISCARD hn_status hn_embedding_check(const hn_embedding_args *a);
HN_NODISCARD hn_status hn_embedding_check_shapes(const hn_embedding_args *a); /* all but the ids */
HN_NODISCARD hn_status hn_embedding_fwd_cpu(const hn_embedding_args *a);
HN_NODISCARD hn_status hn_embedding_fwd_fast(const hn_embedding_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_embedding_fwd_cuda(const hn_embedding_args *a,
                                                              hn_stream stream);

typedef struct {
    const int32_t *id; /* in     [rows], each in [0, vocab) */
    const void *dy;    /* in     [rows, dim] */
    float *dw;         /* in/out [replicas][vocab, dim] */
    int64_t rows, vocab, dim;
    int64_t ld_dy, ld_dw;
    int64_t replicas; /* 0: no replica axis */
    int64_t dw_stride;
    hn_dtype dtype; /* of dy */
} hn_embedding_dw_args;

HN_NODISCARD hn_status hn_embedding_dw_check(const hn_embedding_dw_args *a);
HN_NODISCARD hn_status hn_embedding_dw_check_shapes(const hn_embedding_dw_args *a);
HN_NODISCARD hn_status hn_embedding_dw_cpu(const hn_embedding_dw_args *a);
HN_NODISCARD hn_status hn_embedding_dw_fast(const hn_embedding_dw_args *a);
/* scratch: hn_embedding_dw_cuda_scratch bytes, aligned for int32_t. */
HN_CUDA_FUNCTION size_t hn_embedding_dw_cuda_scratch(const hn_embedding_dw_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_embedding_dw_cuda(const hn_embedding_dw_args *a,
                                                             void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
