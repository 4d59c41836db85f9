/* pool3d.h - maxima over cubes of channels-last volumes, which lie side by side; forward and
 * backward.
 *
 *   y[p,q,v,c]     = max of x[p size + r, q size + s, v size + t, c],  r, s, t = 0 .. size - 1
 *   index[p,q,v,c] = (r size + s) size + t of the first maximum
 *   dx[i,j,k,c]    = dy of the cube that (i, j, k) lies in where the index says so, else 0
 *   out_d = d / size, rounded down; out_h, out_w likewise. Voxels that are left over at the far
 *   sides are in no cube.
 * PyTorch: max_pool3d(size), whose stride is the size, without padding.
 *
 * Shapes     x, dx [n, d, h, w, c], y, dy [n, out_d, out_h, out_w, c], index the same in bytes;
 *            voxels ld_* elements apart, volumes behind each other.
 * Precision  all f32 or all bf16; values are copied. A NaN is a maximum, the last one of several,
 *            and comes out as one, of which bits is not promised.
 * Limits     voxels and c 1 to 2^31 - 1; size 1 to 6, so that an index is one byte, and no longer
 *            than a side. Any width and alignment.
 * Aliasing   none.
 * Repeats    bit for bit.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype), before the first write.
 */
#ifndef HN_POOL3D_H
#define HN_POOL3D_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t n, d, h, w, c; /* of x */
    int64_t size;
} hn_pool3d_shape;

HN_NODISCARD hn_status hn_pool3d_check_shape(const char *op, const hn_pool3d_shape *s);

static inline int64_t hn_pool3d_rows_out(const hn_pool3d_shape *s)
{
    return s->n * (s->d / s->size) * (s->h / s->size) * (s->w / s->size);
}

typedef struct {
    hn_pool3d_shape s;
    const void *x;  /* in  [n, d, h, w, c] */
    void *y;        /* out [n, out_d, out_h, out_w, c] */
    uint8_t *index; /* out the same; NULL: not wanted */
    int64_t ld_x, ld_y, ld_index;
    hn_dtype dtype;
} hn_pool3d_args;

HN_NODISCARD hn_status hn_pool3d_check(const hn_pool3d_args *a);
HN_NODISCARD hn_status hn_pool3d_fwd_cpu(const hn_pool3d_args *a);
HN_NODISCARD hn_status hn_pool3d_fwd_fast(const hn_pool3d_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_pool3d_fwd_cuda(const hn_pool3d_args *a,
                                                           hn_stream stream);

typedef struct {
    hn_pool3d_shape s;
    const void *dy;       /* in  [n, out_d, out_h, out_w, c] */
    const uint8_t *index; /* in  forward's */
    void *dx;             /* out [n, d, h, w, c] */
    int64_t ld_dy, ld_index, ld_dx;
    hn_dtype dtype;
} hn_pool3d_bwd_args;

HN_NODISCARD hn_status hn_pool3d_bwd_check(const hn_pool3d_bwd_args *a);
HN_NODISCARD hn_status hn_pool3d_bwd_cpu(const hn_pool3d_bwd_args *a);
HN_NODISCARD hn_status hn_pool3d_bwd_fast(const hn_pool3d_bwd_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_pool3d_bwd_cuda(const hn_pool3d_bwd_args *a,
                                                           hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
