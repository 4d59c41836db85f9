/* curve_point.h - points and tangents of curves through stored knots (runtime/flow/curve.h).
 *
 * Trajectory a = index[r] has `knots` = K + 1 knots of D = tokens * width fp16 numbers, in units of
 * unit[a]; the curve's weights w at the time of row r say how they mix. For token s, column c:
 *
 *   point   = unit[a] * inv_sigma[s] * sum_k w[r,k]         * knot[a,k,s,c]
 *   tangent = unit[a] * inv_sigma[s] * sum_k w[r,knots + k] * knot[a,k,s,c]
 *   z[r tokens + s, c]  = round(point + noise * normal(row_offset + r, s width + c))
 *   dz[r tokens + s, c] = tangent
 *
 * normal: the words v0 .. v3 of a Philox block (rng.h), columns 4b .. 4b + 3 of row row_offset + r,
 * make four standard normal numbers (Box, Muller, 1958): with u = float(v) 2^-32 + 2^-33,
 *   sqrt(-2 ln u0) cos(2 pi u1),  sqrt(-2 ln u0) sin(2 pi u1),  and the same of u2, u3
 * index[r] < 0: a row of padding, z and dz 0.
 *
 * Shapes     knots [n, knots, D] ld_knots elements from one knot to the next; unit [n]; index
 *            [rows]; weights [rows, 2 knots], rows ld_weights apart; inv_sigma [tokens]; z and dz
 *            [rows tokens, width], rows ld_z and ld_dz apart.
 * Precision  knots fp16, z f32 or bf16, dz and all else f32; fp32 arithmetic, knots in order (the
 *            twin in double).
 * Random     by (seed, step, op_hash, row_offset + r, s width + c), read through `state` when the
 *            operation runs; NULL where noise is 0. CUDA: state is device memory; the normal
 *            numbers agree with the CPU's to 2e-6.
 * CUDA       index is not checked: an index past n makes NaN and reads nothing.
 * Limits     knots 2 to 1024, tokens and all else below 2^31; noise >= 0; any alignment.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads.
 * Cost       reads a row's knots once, those with both weights 0 not at all.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write; the CPU functions
 *            also report an index past n, with its row, as HN_ERR_ARG.
 */
#ifndef HN_CURVE_POINT_H
#define HN_CURVE_POINT_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/rng.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_CURVE_POINT_KNOTS = 1024 }; /* most knots of a curve */

typedef struct {
    const hn_f16 *knot;        /* in  [n, knots, tokens * width] */
    const float *unit;         /* in  [n] */
    const int32_t *index;      /* in  [rows] a trajectory; negative: padding */
    const float *weights;      /* in  [rows, 2 knots] */
    const float *inv_sigma;    /* in  [tokens] */
    const hn_rng_state *state; /* in  NULL where noise is 0 */
    void *z;                   /* out [rows tokens, width] */
    float *dz;                 /* out [rows tokens, width]; NULL: not wanted */
    int64_t n, knots, tokens, width, rows;
    int64_t ld_knots, ld_weights, ld_z, ld_dz;
    uint64_t op_hash; /* hn_hash_name of the operation's stable name */
    float noise;      /* standard deviation in units of z; 0: none */
    hn_dtype dtype;   /* of z */
} hn_curve_point_args;

/* Does not read memory: the index is checked by hn_curve_point_check_index (host memory). */
HN_NODISCARD hn_status hn_curve_point_check(const hn_curve_point_args *a);
HN_NODISCARD hn_status hn_curve_point_check_index(const hn_curve_point_args *a);

HN_NODISCARD hn_status hn_curve_point_cpu(const hn_curve_point_args *a);
HN_NODISCARD hn_status hn_curve_point_fast(const hn_curve_point_args *a);
/* Device pointers. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_curve_point_cuda(const hn_curve_point_args *a,
                                                            hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
