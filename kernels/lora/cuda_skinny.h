/* cuda_skinny.h - a product with few columns at the speed of memory (bf16). For the .cu files of
 * this folder only.
 *
 *   s[i,r] = round(scale * sum_k x[i,k] a[r,k])         a[k,r] with by_columns
 *
 * and, where wanted, the same values once more behind other rows.
 *
 * Precision  fp32 arithmetic and sums, one rounding.
 * Limits     see hn_skinny_fits_.
 * Aliasing   the tail may lie between the rows of x; no other overlap.
 * Repeats    bit for bit on one kind of GPU: the order of the sum depends on shapes alone.
 * Cost       rows cols bytes of x twice over, and a once a block, from L2: bound by memory.
 */
#ifndef HN_CUDA_SKINNY_H
#define HN_CUDA_SKINNY_H
#include <cuda_bf16.h>
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/base/stream.h"

typedef struct {
    const __nv_bfloat16 *x; /* in  [rows, cols] */
    const __nv_bfloat16 *a; /* in  [rank, cols], or [cols, rank] */
    __nv_bfloat16 *s;       /* out [rows, rank] */
    __nv_bfloat16 *tail;    /* out [rows, rank], s once more; NULL: not wanted */
    int64_t rows, cols, rank;
    int64_t ld_x, ld_a, ld_s, ld_tail;
    bool by_columns;
    float scale;
} hn_skinny_args;

/* Whether hn_skinny_ takes these shapes and addresses on this GPU: rank a multiple of 8 up to 64,
 * cols a multiple of 8, all rows on 16-byte boundaries, and the shared memory of an sm_90. */
HN_NODISCARD hn_status hn_skinny_fits_(const hn_skinny_args *a, bool *fits);
HN_NODISCARD hn_status hn_skinny_(const hn_skinny_args *a, hn_stream stream);
#endif
