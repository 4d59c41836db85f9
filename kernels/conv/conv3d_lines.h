/* conv3d_lines.h - what a line of voxels sees of a volume, for the sources of conv3d.
 *
 * A view: along each axis, place u of the result looks through tap r at place (u times + first + r
 * step) / over of the source, where that is whole and inside. Forward and the weight gradient look
 * at x from the voxels of y, the input gradient at dy from the voxels of dx.
 *
 * Lines: for one line of the result, all that its voxels see, as one array of floats for each tap
 * and channel, in the order of w's columns. Arrays of taps of one row are windows of the same
 * memory where neighbours see neighbours. Rows of the source stay as long as no other one needs
 * their place, so that the next line finds most of them.
 */
#ifndef HN_CONV3D_LINES_H
#define HN_CONV3D_LINES_H
#include <stdbool.h>

#include "kernels/conv/conv3d.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t result, source; /* places */
    int64_t taps;
    int64_t times, over, first, step;
} hn_conv3d_axis_;

typedef struct {
    hn_conv3d_axis_ axis[3]; /* planes, rows, columns */
    const void *p;           /* the source, volumes [planes, rows, columns, channels] */
    hn_dtype dtype;
    int64_t ld, channels;
} hn_conv3d_view_;

/* The place of the source, or -1. */
static inline int64_t hn_conv3d_place_(const hn_conv3d_axis_ *a, int64_t u, int64_t r)
{
    const int64_t at = u * a->times + a->first + r * a->step;
    return at < 0 || at % a->over != 0 || at / a->over >= a->source ? -1 : at / a->over;
}

/* x from the voxels of y; dy from the voxels of dx. */
hn_conv3d_view_ hn_conv3d_view_x_(const hn_conv3d_shape *s, const void *x, hn_dtype t, int64_t ld);
hn_conv3d_view_ hn_conv3d_view_dy_(const hn_conv3d_shape *s, const void *dy, hn_dtype t,
                                   int64_t ld);

/* Those of one replica: its volumes, and voxels, lie behind those of the one before. */
static inline hn_conv3d_shape hn_conv3d_one_replica_(const hn_conv3d_shape *s, int64_t replicas)
{
    hn_conv3d_shape one = *s;
    if (replicas > 1) one.n /= replicas;
    return one;
}

/* Floats in a line of the result: its columns, rounded up to what loops take at a time. */
enum { HN_CONV3D_STEP = 16 };
static inline int64_t hn_conv3d_width_(const hn_conv3d_view_ *v)
{
    return (v->axis[2].result + HN_CONV3D_STEP - 1) / HN_CONV3D_STEP * HN_CONV3D_STEP;
}

typedef struct {
    const hn_conv3d_view_ *view;
    bool windows;        /* taps of a row share memory */
    int64_t low, length; /* place of a row's first float, and floats of a row's channel */
    int64_t row_floats;
    int64_t count;       /* arrays: taps channels, rounded up to 2 by zeros */
    const float **array; /* [count] */
    int64_t *held;       /* [kd kh] the row that lies there, -1: none */
    float *rows, *zeros;
} hn_conv3d_lines_;

/* Bytes of the memory that hn_conv3d_lines_start_ lays out, a multiple of 64. */
size_t hn_conv3d_lines_bytes_(const hn_conv3d_view_ *v);
hn_conv3d_lines_ hn_conv3d_lines_start_(const hn_conv3d_view_ *v, void *memory);

/* Lines of a result, numbered plane by plane; within a plane so that neighbours see the same rows,
 * whatever the dilation is. */
typedef struct {
    int64_t volume, plane, row;
} hn_conv3d_line_;
hn_conv3d_line_ hn_conv3d_line_at_(const hn_conv3d_view_ *v, int64_t number);
/* Its first voxel among all of the result. */
static inline int64_t hn_conv3d_line_voxel_(const hn_conv3d_view_ *v, const hn_conv3d_line_ *l)
{
    return ((l->volume * v->axis[0].result + l->plane) * v->axis[1].result + l->row) *
           v->axis[2].result;
}

/* Sets array[0 .. count) for that line. */
void hn_conv3d_lines_see_(hn_conv3d_lines_ *s, const hn_conv3d_line_ *l);

/* to[c][0 .. n) = channel c of the n voxels from `at` on, channels `length` floats apart. */
void hn_conv3d_planes_(const void *p, hn_dtype t, int64_t at, int64_t ld, int64_t n,
                       int64_t channels, float *to, int64_t length);

#ifdef __cplusplus
}
#endif
#endif
