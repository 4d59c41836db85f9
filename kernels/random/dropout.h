/* dropout.h - dropout whose mask is a function of seed, step, operation, row and column.
 *
 *   keep(i,j) = hn_rng_u32(rng, row_offset + i, j) >= hn_rng_drop_threshold(p)
 *   y[i,j]    = keep(i,j) ? round(x[i,j] * float(1 / (1 - p))) : 0
 *   with rng  = hn_rng_make(seed, step, op_hash)
 *
 * Backward is the same call on dy: the mask is computed again, never stored.
 *
 * Shapes     [rows, cols], row-major; rows ld_x and ld_y elements apart.
 * Precision  f32 or bf16 in and out; one fp32 product, rounded once. p = 0 copies the bits.
 * Limits     0 <= p < 1; rows, cols, ld_x, ld_y below 2^31; any width and alignment.
 * Aliasing   y may be x with the same leading dimension; no other overlap.
 * Repeats    bit for bit everywhere: twin, fast, CUDA, any number of threads, any cut of the rows.
 * Random     seed, step and row_offset are read through `state` when the operation runs, so they
 *            may change between runs of a recorded plan. CUDA: state is device memory.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_DROPOUT_H
#define HN_DROPOUT_H

#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/rng.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const hn_rng_state *state; /* in; may be NULL when p is 0 */
    uint64_t op_hash;          /* hn_hash_name of the operation's stable name */
    double p;                  /* share of the elements that is dropped; 0: no dropout */
} hn_dropout_key;

typedef struct {
    const void *x; /* in  [rows, cols] */
    void *y;       /* out [rows, cols] */
    int64_t rows, cols;
    int64_t ld_x, ld_y;
    hn_dtype dtype; /* of x and y */
    hn_dropout_key key;
} hn_dropout_args;

HN_NODISCARD hn_status hn_dropout_check(const hn_dropout_args *a);
HN_NODISCARD hn_status hn_dropout_cpu(const hn_dropout_args *a);
HN_NODISCARD hn_status hn_dropout_fast(const hn_dropout_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_dropout_cuda(const hn_dropout_args *a, hn_stream stream);

/* For operations that drop one of their operands on the way (linear_dw, lowrank_linear). */

/* HN_ERR_ARG unless 0 <= p < 1 and there is a state where p > 0. */
HN_NODISCARD hn_status hn_dropout_check_key(const char *op, const hn_dropout_key *key);

/* What the key says at this moment, in the form that the element functions want. */
typedef struct {
    hn_rng rng;
    uint64_t row0; /* the global row of row 0 */
    uint32_t threshold;
    float scale; /* 1 / (1 - p) */
} hn_dropout_now;

hn_dropout_now hn_dropout_read(const hn_dropout_key *key);

/* x, dropped and scaled but not rounded to a storage type (twins). */
static inline float hn_dropout_element(const hn_dropout_now *d, int64_t row, int64_t col, float x)
{
    const uint32_t word = hn_rng_u32(d->rng, d->row0 + (uint64_t)row, (uint32_t)col);
    return word >= d->threshold ? x * d->scale : 0.0f;
}

/* y[0..n) from x[0..n), which are columns col.. of a row; col is a multiple of 4; y may be x. */
void hn_dropout_span(const hn_dropout_now *d, int64_t row, int64_t col, int64_t n, const float *x,
                     float *y);

/* y[rows, cols] f32 without gaps = x of dtype `t` (f32 or bf16), dropped and rounded to `t`.
 * Parallel; no overlap. */
void hn_dropout_matrix_f32(const hn_dropout_key *key, const void *x, hn_dtype t, int64_t rows,
                           int64_t cols, int64_t ld_x, float *y);

#ifdef __cplusplus
}
#endif
#endif
