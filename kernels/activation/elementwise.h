/* elementwise.h - sums, products, scaled copies and casts of matrices.
 *
 *   add      y = round(a + b)
 *   mul      y = round(a * b)
 *   scale    y = round(factor * a)
 *   cast     y = round(a)           between any two of f32, bf16 and f16
 *
 * Shapes     [rows, cols], row-major, rows ld_* elements apart.
 * Precision  add, mul, scale: all f32 or all bf16. One fp32 operation, one rounding to nearest
 *            even; NaN stays NaN, too large becomes infinity.
 * Limits     every dimension 1 to 2^31 - 1; any width and alignment.
 * Aliasing   y may be a or b of the same dtype and the same leading dimension; no other overlap.
 * Repeats    the same bits everywhere: twin, fast, any number of threads.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_ELEMENTWISE_H
#define HN_ELEMENTWISE_H

#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"

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

#ifdef __cplusplus
}
#endif
#endif
