/* pool2d_window.h - which pixels a window of pool2d holds, and which windows hold a pixel; for the
 * versions of pool2d only. */
#ifndef HN_POOL2D_WINDOW_H
#define HN_POOL2D_WINDOW_H
#include "kernels/conv/pool2d.h"

#ifdef __CUDACC__
#define HN_POOL2D_INLINE static __host__ __device__ __forceinline__
#else
#define HN_POOL2D_INLINE static inline
#endif

/* first .. end-1 along one axis. */
typedef struct {
    int first, end;
} hn_pool2d_range;

/* The u of a window that begins at `start` (may be negative) whose pixels lie in 0 .. length-1. */
HN_POOL2D_INLINE hn_pool2d_range hn_pool2d_inside(int start, int size, int length)
{
    const hn_pool2d_range r = {start < 0 ? -start : 0,
                               start + size > length ? length - start : size};
    return r;
}

/* The outputs along an axis whose windows hold pixel i. */
HN_POOL2D_INLINE hn_pool2d_range hn_pool2d_holding(int i, int size, int stride, int pad, int out)
{
    const int from = i + pad - size + 1; /* the first window that reaches i begins there or later */
    const int last = (i + pad) / stride + 1;
    const hn_pool2d_range r = {from <= 0 ? 0 : (from + stride - 1) / stride,
                               last < out ? last : out};
    return r;
}

#endif
