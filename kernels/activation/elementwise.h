/* elementwise.h - sums, products, scaled copies and casts of matrices.
 *
 *   add      y = round(a + b)
 *   mul      y = round(a * b)
 *   scale    y = round(factor * a)
 *   cast     y = round(a)           between any two of f32, bf16 and f16
 *   zero     p = 0                  (CUDA only: bytes, whatever the type)
 *
 * Shapes     [rows, cols], row-major, rows ld_* elements apart.
 * Precision  add, mul, scale: all f32 or all bf16. One fp32 operation, one rounding to nearest
 *            even; NaN stays NaN, too large becomes infinity.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment.
 * Aliasing   y may be a or b of the same dtype and the same leading dimension; no other overlap.
 * Repeats    the same bits everywhere: twin, fast, any number of threads, CUDA; only NaNs may
 *            carry other bits on CUDA.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_ELEMENTWISE_H
#define HN_ELEMENTWISE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *a; /* in  [rows, cols] */
    const void *b; /* in  [rows, cols] */
    void *y;       /* out [rows, cols] */
    int64_t rows, cols;
    int64_t ld_a, ld_b, ld_y;
    hn_dtype dtype;
} hn_binary_args;

HN_NODISCARD hn_status hn_binary_check(const hn_binary_args *a);
HN_NODISCARD hn_status hn_add_cpu(const hn_binary_args *a);
HN_NODISCARD hn_status hn_add_fast(const hn_binary_args *a);
HN_NODISCARD hn_status hn_mul_cpu(const hn_binary_args *a);
HN_NODISCARD hn_status hn_mul_fast(const hn_binary_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_add_cuda(const hn_binary_args *a, hn_stream stream);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_mul_cuda(const hn_binary_args *a, hn_stream stream);

typedef struct {
    const void *a; /* in  [rows, cols] */
    void *y;       /* out [rows, cols] */
    int64_t rows, cols;
    int64_t ld_a, ld_y;
    hn_dtype dtype;
    float factor;
} hn_scale_args;

HN_NODISCARD hn_status hn_scale_check(const hn_scale_args *a);
HN_NODISCARD hn_status hn_scale_cpu(const hn_scale_args *a);
HN_NODISCARD hn_status hn_scale_fast(const hn_scale_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_scale_cuda(const hn_scale_args *a, hn_stream stream);

typedef struct {
    const void *a; /* in  [rows, cols] */
    void *y;       /* out [rows, cols] */
    int64_t rows, cols;
    int64_t ld_a, ld_y;
    hn_dtype dtype, y_dtype; /* of a, of y */
} hn_cast_args;

HN_NODISCARD hn_status hn_cast_check(const hn_cast_args *a);
HN_NODISCARD hn_status hn_cast_cpu(const hn_cast_args *a);
HN_NODISCARD hn_status hn_cast_fast(const hn_cast_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_cast_cuda(const hn_cast_args *a, hn_stream stream);

/* n casts, at most HN_CAST_MANY, each of its own shape: by one launch where all are from f32 to
 * one of f32 and bf16, else one by one. None may write what another one reads or writes. */
enum { HN_CAST_MANY = 96 };
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_cast_many_cuda(const hn_cast_args *a, int64_t n,
                                                          hn_stream stream);

/* Rows of row_bytes, pitch_bytes apart, become zero; the gaps between them stay. Arguments are not
 * checked. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_zero_cuda(void *p, int64_t rows, size_t row_bytes,
                                                     size_t pitch_bytes, hn_stream stream);

/* p[0 .. bytes) of each of n pieces, at most HN_ZERO_MANY, becomes zero: by one launch where all
 * are made of 4-byte words, else one by one. bytes > 0. */
enum { HN_ZERO_MANY = 16 };
typedef struct {
    void *p;
    size_t bytes;
} hn_zero_piece;
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_zero_many_cuda(const hn_zero_piece *a, int64_t n,
                                                          hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
