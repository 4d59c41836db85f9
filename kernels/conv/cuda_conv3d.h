/* cuda_conv3d.h - what the .cu files of the convolution of volumes share. */
#ifndef HN_CUDA_CONV3D_H
#define HN_CUDA_CONV3D_H
#include <stdbool.h>

#include "kernels/conv/conv3d_lines.h"

/* Forward, or the gradient of x, of one replica:
 *   to[voxel, o] = round(sum over taps and channels c of what the voxel sees
 *                        w[o w_o + tap w_tap + c w_c] + bias[o] (+ add[voxel, o])) */
struct hn_conv3d_task {
    hn_conv3d_view_ view;      /* its dtype is that of w, add and to, too */
    int64_t volumes, channels; /* of the result */
    const void *w;
    int64_t w_o, w_tap, w_c;
    const void *bias; /* nullptr: none */
    hn_dtype bias_dtype;
    const void *add; /* nullptr: none */
    void *to;
    int64_t ld_add, ld_to;
};

static inline int64_t hn_conv3d_taps_of(const hn_conv3d_view_ *v)
{
    return v->axis[0].taps * v->axis[1].taps * v->axis[2].taps;
}
/* Voxels of the result. */
static inline int64_t hn_conv3d_rows_of(const hn_conv3d_view_ *v, int64_t volumes)
{
    return volumes * v->axis[0].result * v->axis[1].result * v->axis[2].result;
}

/* ---- conv3d_direct_cuda.cu ---- */

/* Few channels, and places that need no division. */
bool hn_conv3d_direct_fits(const hn_conv3d_task *t);
hn_status hn_conv3d_direct(const hn_conv3d_task *t, hn_stream stream);

/* ---- conv3d_direct_dw_cuda.cu ---- */

bool hn_conv3d_direct_dw_fits(const hn_conv3d_shape *s);
/* One replica, whose operands begin at dy, x, dw. */
size_t hn_conv3d_direct_dw_scratch(const hn_conv3d_shape *s);
hn_status hn_conv3d_direct_dw(const hn_conv3d_dw_args *a, void *scratch, hn_stream stream);

/* ---- conv3d_mma_cuda.cu ---- */

/* Shapes that hn_conv3d_direct takes, too. */
bool hn_conv3d_mma_fits(const hn_conv3d_task *t);
hn_status hn_conv3d_mma(const hn_conv3d_task *t, hn_stream stream);

/* ---- conv3d_mma_dw_cuda.cu ---- */

/* One replica, whose operands begin at dy, x, dw (NULL: any that are aligned). */
bool hn_conv3d_mma_dw_fits(const hn_conv3d_dw_args *a);
size_t hn_conv3d_mma_dw_scratch(const hn_conv3d_shape *s);
hn_status hn_conv3d_mma_dw(const hn_conv3d_dw_args *a, void *scratch, hn_stream stream);
#endif
