/* check.h - the argument checks that the kernels' contracts share.
 *
 * Every text names the operation and the operand; nothing is written before all checks passed.
 */
#ifndef HN_CHECK_H
#define HN_CHECK_H
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* An operand [rows, cols] whose rows lie ld elements apart: HN_ERR_ARG when p is NULL,
 * HN_ERR_SHAPE unless 1 <= rows, cols and cols <= ld, all below 2^31. */
HN_NODISCARD hn_status hn_check_matrix(const char *op, const char *name, const void *p,
                                       int64_t rows, int64_t cols, int64_t ld);

/* HN_ERR_ARG when p is NULL. */
HN_NODISCARD hn_status hn_check_pointer(const char *op, const char *name, const void *p);

/* HN_ERR_UNSUPPORTED unless t is f32 or bf16. */
HN_NODISCARD hn_status hn_check_float(const char *op, const char *name, hn_dtype t);

/* 0 replicas mean that the parameter has no replica axis: one copy serves all rows. */
static inline int64_t hn_replica_count(int64_t replicas) { return replicas > 1 ? replicas : 1; }

/* HN_ERR_SHAPE unless the rows split evenly into replicas (0 counts as 1). */
HN_NODISCARD hn_status hn_check_replicas(const char *op, int64_t rows, int64_t replicas);

/* HN_ERR_SHAPE unless the distance from one replica's tensor to the next, used when there are
 * several, is at least `least` elements. A tensor that is only read may also be shared by all
 * replicas: distance 0. */
HN_NODISCARD hn_status hn_check_stride(const char *op, const char *name, int64_t replicas,
                                       int64_t stride, int64_t least);
HN_NODISCARD hn_status hn_check_read_stride(const char *op, const char *name, int64_t replicas,
                                            int64_t stride, int64_t least);

/* HN_ERR_ARG when an output lies on an input that has another leading dimension. */
HN_NODISCARD hn_status hn_check_in_place(const char *op, const void *in, int64_t ld_in,
                                         const void *out, int64_t ld_out);

#ifdef __cplusplus
}
#endif
#endif
