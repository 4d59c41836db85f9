/* cuda_conv2d.h - what the CUDA files of the convolution share (for .cu files only). */
#ifndef HN_CUDA_CONV2D_H
#define HN_CUDA_CONV2D_H
#include "kernels/conv/conv2d.h"
#include "runtime/base/cuda_math.h"

/* A kernel of 1 x 1 that moves by 1: the pixels of x are the rows of a matrix as they lie. */
static inline bool hn_conv2d_is_product(const hn_conv2d_shape *s)
{
    return s->kh == 1 && s->kw == 1 && s->stride == 1 && s->pad == 0;
}

/* ---- conv2d_cuda.cu ---- */

/* y = round(relu(from + bias)), a row a pixel of `rows`; relu and bias as far as they are there.
 * from may be y. group: rows of one replica */
struct hn_conv2d_finish {
    const void *from, *bias;
    void *y;
    int64_t rows, cols, group, ld_from, ld_y, bias_stride;
    hn_dtype from_dtype, bias_dtype, dtype; /* of from: dtype, or f32 */
    bool relu;
};
hn_status hn_conv2d_finish_cuda(const hn_conv2d_finish *a, hn_stream stream);
/* The same for y of a convolution, in place. */
hn_status hn_conv2d_finish_y_cuda(const hn_conv2d_args *a, hn_stream stream);

/* ---- conv2d_patches_cuda.cu ---- */

/* Patches of x, or their gradients, as matrices: a group is [rows, taps], rows ld apart, and starts
 * group_stride after the one before it; a row is a pixel of y. */
struct hn_conv2d_patches {
    hn_conv2d_shape shape; /* of all of x */
    int64_t first, rows;   /* pixels of y, of n out_h out_w */
    int64_t ld, group_stride;
    hn_dtype dtype; /* of x, add and dx */
    /* w [out, taps] of the same dtype, and where its rows go too, ld apart with zeros behind the
     * taps; NULL: nowhere. Only where patches have zeros there. */
    const void *w;
    void *padded_w;
    int64_t ld_w;
};
/* Whether rows of patches have zeros between the taps and ld; else nothing is written there. */
bool hn_conv2d_patches_are_padded(const hn_conv2d_shape *s, int64_t ld_x, hn_dtype t);
/* patches = those of x, of the same dtype */
hn_status hn_conv2d_patches_of(const hn_conv2d_patches *p, const void *x, int64_t ld_x,
                               void *patches, hn_stream stream);
/* dx[images of the patches] = round(sum of the f32 patches that read it (+ add)); `first` and
 * `rows` are whole images. dx, add: of image 0 */
hn_status hn_conv2d_patches_sum(const hn_conv2d_patches *p, const float *patches, const void *add,
                                int64_t ld_add, void *dx, int64_t ld_dx, hn_stream stream);

/* ---- conv2d_direct_cuda.cu ---- */

/* Few taps, filters and pixels a replica, of one group */
bool hn_conv2d_direct_fits(const hn_conv2d_shape *s, int64_t replicas);
hn_status hn_conv2d_direct_fwd(const hn_conv2d_args *a, hn_stream stream);
size_t hn_conv2d_direct_dw_scratch(const hn_conv2d_dw_args *a);
hn_status hn_conv2d_direct_dw(const hn_conv2d_dw_args *a, void *scratch, hn_stream stream);

/* ---- conv2d_depthwise_cuda.cu ---- */

/* groups = in = out, and a kernel of a size that the functions below can do */
bool hn_conv2d_depthwise_fits(const hn_conv2d_shape *s, int64_t replicas);
hn_status hn_conv2d_depthwise_fwd(const hn_conv2d_args *a, hn_stream stream);
hn_status hn_conv2d_depthwise_dx(const hn_conv2d_dx_args *a, hn_stream stream);
size_t hn_conv2d_depthwise_dw_scratch(const hn_conv2d_dw_args *a);
hn_status hn_conv2d_depthwise_dw(const hn_conv2d_dw_args *a, void *scratch, hn_stream stream);
#endif
