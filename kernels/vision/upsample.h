/* upsample.h - volumes made larger by repeating their voxels, beside what they are joined with;
 * forward and backward.
 *
 *   y[i,j,k]  = [ skip[i,j,k] | x[f(i), f(j), f(k)] ]
 *   dx[i,j,k] = round(sum of dy[p,q,v] over the voxels that f sends to (i, j, k))
 *
 *   f(i) = i d / out_d, rounded down; f(j) and f(k) likewise
 *
 * PyTorch: interpolate(x, size, mode="nearest") and cat((skip, x), channels), as decoders of U-Nets
 * do it. Without skip: only the former; with skip of the size of x: only the latter. The gradient
 * of skip are the columns of dy that came from it.
 *
 * Shapes     x, dx [n, d, h, w, c]; skip [n, out_d, out_h, out_w, c_skip]; y [n, out_d, out_h,
 *            out_w, c_skip + c]; dy [n, out_d, out_h, out_w, c], columns of a matrix. Voxels ld_*
 *            elements apart, volumes behind each other.
 * Precision  all f32 or all bf16. Forward copies bits; backward sums in fp32, voxel by voxel, with
 *            one rounding (twin: fp64).
 * Limits     voxels and channels 1 to 2^31 - 1; d <= out_d and so on. Any width and alignment.
 * Aliasing   none.
 * Repeats    bit for bit.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_UPSAMPLE_H
#define HN_UPSAMPLE_H

#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t n, d, h, w, c;       /* of x */
    int64_t out_d, out_h, out_w; /* of y */
} hn_upsample_shape;

HN_NODISCARD hn_status hn_upsample_check_shape(const char *op, const hn_upsample_shape *s);

static inline int64_t hn_upsample_rows_in(const hn_upsample_shape *s)
{
    return s->n * s->d * s->h * s->w;
}
static inline int64_t hn_upsample_rows_out(const hn_upsample_shape *s)
{
    return s->n * s->out_d * s->out_h * s->out_w;
}
/* The first place of y that place i of x goes to; for i = size: behind the last one. */
static inline int64_t hn_upsample_first(int64_t i, int64_t size, int64_t out)
{
    return (i * out + size - 1) / size;
}

typedef struct {
    hn_upsample_shape s;
    const void *x;    /* in  [n, d, h, w, c] */
    const void *skip; /* in  [n, out_d, out_h, out_w, c_skip]; NULL: none, c_skip 0 */
    void *y;          /* out [n, out_d, out_h, out_w, c_skip + c] */
    int64_t c_skip;
    int64_t ld_x, ld_skip, ld_y;
    hn_dtype dtype;
} hn_upsample_args;

HN_NODISCARD hn_status hn_upsample_check(const hn_upsample_args *a);
HN_NODISCARD hn_status hn_upsample_fwd_cpu(const hn_upsample_args *a);
HN_NODISCARD hn_status hn_upsample_fwd_fast(const hn_upsample_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_upsample_fwd_cuda(const hn_upsample_args *a,
                                                             hn_stream stream);

typedef struct {
    hn_upsample_shape s;
    const void *dy; /* in  [n, out_d, out_h, out_w, c] */
    void *dx;       /* out [n, d, h, w, c] */
    int64_t ld_dy, ld_dx;
    hn_dtype dtype;
} hn_upsample_bwd_args;

HN_NODISCARD hn_status hn_upsample_bwd_check(const hn_upsample_bwd_args *a);
HN_NODISCARD hn_status hn_upsample_bwd_cpu(const hn_upsample_bwd_args *a);
HN_NODISCARD hn_status hn_upsample_bwd_fast(const hn_upsample_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_upsample_bwd_cuda(const hn_upsample_bwd_args *a,
                                                             hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
