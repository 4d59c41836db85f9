/* seg_loss.h - losses of a segmentation: soft Dice of all classes, and focal loss or cross-entropy,
 * image by image (or volume by volume).
 *
 * With p = softmax of the logits z[v] of voxel v, y = labels[v], t[v,c] = (y == c), and sums over
 * the voxels of one image that are not HN_LABEL_IGNORED, of which there are V:
 *
 *   D[c]  = (2 sum p[v,c] t[v,c] + smooth) / (sum p[v,c] + sum t[v,c] + smooth)
 *   dice  = 1/classes sum (1 - D[c]) over the classes that the image has
 *   q     = 1 / (1 + exp(u)), b = log(1 + exp(-u)) with u = z[v,c] where t[v,c] is 1, else -z[v,c]
 *   focal = sum_c  sum a[v,c] q^gamma b / max(sum q^gamma, 1e-6)
 *           with a[v,c] = alpha where t[v,c] is 1, else 1 - alpha
 *   cross = 1/V sum -log p[v,y]
 *
 *   loss_sum += sum over images of (w_dice dice + w_focal focal + w_cross cross)
 *   count    += images that have labelled voxels
 *   hits     += sum over images of the share of labelled voxels whose largest logit is that of y
 *   dlogits     the gradient of loss_sum; prediction[v] the largest logit, the lowest of several
 *
 * segmentation_models_pytorch: DiceLoss("multiclass", smooth) and FocalLoss("multiclass", alpha,
 * gamma, normalized=True, reduction="sum") of one image. Its reduction="mean" divides the focal
 * loss, which its sum of weights has normalised already, by V once more: give w_focal / V for that.
 * Ignored voxels have dlogits 0; images without labels count for nothing.
 *
 * Shapes     logits, dlogits [images voxels, classes], rows ld_* elements apart; labels, prediction
 *            [images voxels]; loss_sum, count, hits [1].
 * Precision  logits and dlogits f32 or bf16; fp32 arithmetic (the twin in double); sums of many
 *            voxels in double.
 * CUDA       a label that is no class and not HN_LABEL_IGNORED gives the loss NaN.
 * Limits     images voxels below 2^31; on CUDA at most 65535 images; classes 2 to 16; smooth > 0;
 *            0 <= alpha <= 1; gamma >= 0; weights finite. Any alignment.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads.
 * Cost       two reads of logits and labels, one write.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write; the CPU functions
 *            also report a label that is no class, with its row, as HN_ERR_ARG.
 */
#ifndef HN_SEG_LOSS_H
#define HN_SEG_LOSS_H
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/label.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_SEG_CLASSES = 16 };

/* Weights and numbers of the losses. */
typedef struct {
    float w_dice, w_focal, w_cross;
    float smooth; /* 1e-5 */
    float alpha, gamma;
} hn_seg_terms;

typedef struct {
    const void *logits;    /* in  [images voxels, classes] */
    const int32_t *labels; /* in  [images voxels] */
    float *loss_sum;       /* i/o [1]; NULL: not wanted */
    float *count;          /* i/o [1]; NULL: not wanted */
    float *hits;           /* i/o [1]; NULL: not wanted */
    void *dlogits;         /* out [images voxels, classes]; NULL: not wanted */
    int32_t *prediction;   /* out [images voxels]; NULL: not wanted */
    int64_t images, voxels, classes;
    int64_t ld_logits, ld_dlogits;
    hn_seg_terms terms;
    hn_dtype dtype; /* of logits and dlogits */
} hn_seg_loss_args;

/* Does not read memory: labels are checked by hn_seg_loss_check_labels (host memory). */
HN_NODISCARD hn_status hn_seg_loss_check(const hn_seg_loss_args *a);
HN_NODISCARD hn_status hn_seg_loss_check_labels(const hn_seg_loss_args *a);

HN_NODISCARD hn_status hn_seg_loss_cpu(const hn_seg_loss_args *a);

/* scratch: that many bytes, 64-byte aligned; the count reads shapes only. */
size_t hn_seg_loss_fast_scratch(const hn_seg_loss_args *a);
HN_NODISCARD hn_status hn_seg_loss_fast(const hn_seg_loss_args *a, void *scratch);

HN_CUDA_FUNCTION size_t hn_seg_loss_cuda_scratch(const hn_seg_loss_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_seg_loss_cuda(const hn_seg_loss_args *a, void *scratch,
                                                         hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
