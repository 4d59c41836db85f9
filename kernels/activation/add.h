/* add.h - elementwise sum.
 *
 *   z[i,j] = round(a[i,j] + b[i,j])
 *
 * Shapes     [rows, cols] with leading dimensions ld_a, ld_b, ld_z >= cols, in elements.
 * Precision  f32 or bf16, one type for all three; fp32 arithmetic, rounded once.
 * Aliasing   z may be a or b (same pointer and leading dimension); no other overlap.
 * Repeats    bit for bit.
 * Cost       12 (f32) or 6 (bf16) bytes an element: bound by memory.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED, all before the first write.
 */
#ifndef HN_ADD_H
#define HN_ADD_H
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *a, *b; /* in  [rows, cols] */
    void *z;           /* out [rows, cols] */
    int64_t rows, cols, ld_a, ld_b, ld_z;
    hn_dtype dtype; /* f32 or bf16 */
} hn_add_args;

HN_NODISCARD hn_status hn_add_check(const hn_add_args *a);
/* Host pointers. One addition and one rounding: the twin is as fast as memory. */
HN_NODISCARD hn_status hn_add_cpu(const hn_add_args *a);

#ifdef __cplusplus
}
#endif
#endif
