/* channel_norm.h - the inside of batch_norm and group_norm: normalisation over pixels and a group
 * of channels, image by image. Batch normalisation is one image that holds all pixels of the batch,
 * with one channel a group.
 *
 *   x [images * pixels, cols]    unit = image * groups + group    mean, rstd [units]
 *
 * The pixels of an image fall into runs, by shapes alone. A run has sums of each column; the sums
 * of a unit add its columns, run after run, in an order that is fixed:
 *
 *   moments  of each (image, run, column): about a value near the mean, so that nothing cancels
 *   units    mean and rstd (backward: the two means that dx needs)
 *   apply    y, or dx
 *
 * Callers have checked the arguments: batch_norm.h and group_norm.h say what is in and out.
 */
#ifndef HN_CHANNEL_NORM_H
#define HN_CHANNEL_NORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/norm/batch_norm.h"
#include "kernels/norm/group_norm.h"
#include "runtime/base/dtype.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *x, *res, *gain, *bias; /* res NULL: none */
    void *y;
    float *mean, *rstd;
    float *running_mean, *running_var; /* NULL: none */
    int64_t images, pixels, cols, groups;
    int64_t ld_x, ld_res, ld_y;
    int64_t replicas, gain_stride, bias_stride;
    hn_dtype dtype, gain_dtype, bias_dtype;
    float eps, momentum;
    bool frozen, relu;
} hn_channel_norm;

typedef struct {
    const void *x, *y, *gain, *bias; /* y or bias with relu; bias: the same in all images */
    const float *mean, *rstd;
    const void *dy;
    void *dx, *dres;      /* NULL: not wanted */
    float *dgain, *dbias; /* NULL: not wanted */
    int64_t images, pixels, cols, groups;
    int64_t ld_x, ld_y, ld_dy, ld_dx, ld_dres;
    int64_t replicas, gain_stride, dgain_stride, dbias_stride;
    hn_dtype dtype, gain_dtype, bias_dtype;
    bool frozen; /* mean and rstd are constants */
} hn_channel_norm_bwd;

hn_channel_norm hn_channel_norm_of_batch(const hn_batch_norm_args *a);
hn_channel_norm_bwd hn_channel_norm_bwd_of_batch(const hn_batch_norm_bwd_args *a);
hn_channel_norm hn_channel_norm_of_group(const hn_group_norm_args *a);
hn_channel_norm_bwd hn_channel_norm_bwd_of_group(const hn_group_norm_bwd_args *a);

/* Whether backward needs the sums over an image: only then it needs scratch. */
static inline bool hn_channel_norm_has_sums(const hn_channel_norm_bwd *a)
{
    return a->dgain != NULL || a->dbias != NULL || (a->dx != NULL && !a->frozen);
}

size_t hn_channel_norm_fast_scratch(const hn_channel_norm *a);
void hn_channel_norm_fast(const hn_channel_norm *a, void *scratch);
size_t hn_channel_norm_bwd_fast_scratch(const hn_channel_norm_bwd *a);
void hn_channel_norm_bwd_fast(const hn_channel_norm_bwd *a, void *scratch);

/* In builds with CUDA. */
size_t hn_channel_norm_cuda_scratch(const hn_channel_norm *a);
HN_NODISCARD hn_status hn_channel_norm_cuda(const hn_channel_norm *a, void *scratch,
                                            hn_stream stream);
size_t hn_channel_norm_bwd_cuda_scratch(const hn_channel_norm_bwd *a);
HN_NODISCARD hn_status hn_channel_norm_bwd_cuda(const hn_channel_norm_bwd *a, void *scratch,
                                                hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
