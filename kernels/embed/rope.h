/* rope.h - rotary position embedding: turns pairs of columns by angles of the position.
 *
 * For row i, each head, pair k in [0, rotary_dim / 2), with c = cos[position[i], k] and
 * s = sin[position[i], k] (kernels/embed/rope_table.h makes the tables):
 *   y[a] = round(x[a] c - x[b] s)
 *   y[b] = round(x[b] c + x[a] s)
 * Columns a, b of the head are k and k + rotary_dim / 2 (Hugging Face), or 2k and 2k + 1 with
 * `interleaved`. Columns from rotary_dim on pass through. `inverse` turns back (s becomes -s):
 * that is backward.
 *
 * Shapes     x, y [rows, heads * head_dim], row-major, rows ld_* elements apart; position [rows];
 *            cos, sin [n_positions, rotary_dim / 2], rows ld_table elements apart.
 * Precision  x and y both f32 or both bf16, tables f32; fp32 arithmetic, one rounding.
 * Limits     every dimension 1 to 2^31 - 1; rotary_dim even, at most head_dim; any alignment.
 * Aliasing   y may be x with the same leading dimension; no other overlap.
 * Repeats    bit for bit on one machine; fast: also for any number of threads.
 * CUDA       positions are not checked: a promise of the loader.
 * Errors     HN_ERR_ARG naming row and position when a position is not in [0, n_positions) (on
 *            the CPU, where the positions can be read); HN_ERR_ARG, HN_ERR_SHAPE,
 *            HN_ERR_UNSUPPORTED. All before the first write.
 */
#ifndef HN_ROPE_H
#define HN_ROPE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *x;           /* in  [rows, heads * head_dim] */
    void *y;                 /* out [rows, heads * head_dim] */
    const int32_t *position; /* in  [rows] */
    const float *cos, *sin;  /* in  [n_positions, rotary_dim / 2] */
    int64_t rows, heads, head_dim;
    int64_t rotary_dim; /* 0: head_dim */
    int64_t n_positions;
    int64_t ld_x, ld_y, ld_table;
    hn_dtype dtype;
    bool interleaved, inverse;
} hn_rope_args;

HN_NODISCARD hn_status hn_rope_check(const hn_rope_args *a);
HN_NODISCARD hn_status hn_rope_check_shapes(const hn_rope_args *a); /* all but the positions */
HN_NODISCARD hn_status hn_rope_cpu(const hn_rope_args *a);
HN_NODISCARD hn_status hn_rope_fast(const hn_rope_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_rope_cuda(const hn_rope_args *a, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
