/* image_prep.h - a batch of augmented, normalised images, and their labels, from a set of 8-bit
 * images that lies in memory.
 *
 * Row i takes image index[i], or nothing where that is -1 (padding): then y[i] = 0 everywhere and
 * y_labels[i] = HN_LABEL_IGNORED. Else y_labels[i] = labels[index[i]], and with a box (top, left,
 * bh, bw) of the image and flip from the random numbers below, for output row r, column q:
 *
 *   q'               = flip ? out_width - 1 - q : q
 *   crop:    v[k]    = pixel (top + r, left + q'), channel k; 0, black, outside the image
 *   resized: v[k]    = bilinear at the box's (sr, sq), channel k, not rounded to 8 bits, with
 *              sr    = max(0, (r + 1/2) bh / out_height - 1/2), its rows floor(sr) and that plus 1
 *                      or the box's last, weighed by sr - floor(sr); sq from q', bw likewise
 *   y[i,r,q,k]       = (v[k] / 255 - mean[k]) / std[k]                    0 for k >= channels
 *
 * crop is torchvision's RandomCrop(out, padding=pad), RandomHorizontalFlip(flip), ToTensor,
 * Normalize; resized is RandomResizedCrop(out, scale, ratio, antialias=False) on a float tensor
 * instead of RandomCrop. Box and flip, with w[b] = hn_rng_block(rng, row_offset + i, b),
 * rng = hn_rng_make(seed, step, key), U(x) = x / 2^32, B(x, n) = floor(x n / 2^32):
 *
 *   flip     U(w[0][2]) < flip
 *   crop     top = B(w[0][0], height + 2 pad - out_height + 1) - pad, left likewise from w[0][1]
 *   resized  for t = 1 .. 10, the first whose box fits into the image:
 *              area  = height width (scale[0] + U(w[t][0]) (scale[1] - scale[0]))
 *              log a = log ratio[0] + U(w[t][1]) (log ratio[1] - log ratio[0])
 *              bw = round(sqrt(area a)), bh = round(sqrt(area / a))
 *              top = B(w[t][2], height - bh + 1), left = B(w[t][3], width - bw + 1)
 *            else the largest box in the middle whose bw / bh is in ratio[0] .. ratio[1]
 *
 * Without `train` nothing is random and nothing flipped: crop takes the middle, top =
 * (height + 2 pad - out_height) / 2 - pad rounded down; resized takes the largest box in the middle
 * shaped like the output, its sides times `centre` (224/256 is Resize(256), CenterCrop(224)).
 *
 * Shapes     images [count, height, width, channels], pixels ld_images elements apart; labels
 *            [count]; index, y_labels [n]; y [n, out_height, out_width, out_channels], pixels ld_y
 *            apart. out_channels >= channels.
 * Precision  y f32 or bf16; fp32 fused multiply-adds, v[k] * float(1 / (255 std)) - float(mean /
 *            std), rounded once; the box in double.
 * Limits     channels 1 .. 4; sides and pad below 65536, output pixels of an image below 2^31,
 *            ratio in 1/64 .. 64; any alignment.
 * Aliasing   none.
 * Repeats    bit for bit everywhere: twin, fast, CUDA, any number of threads, any cut of the rows.
 * Random     seed, step and row_offset are read through `state` when the operation runs. CUDA:
 *            state is device memory. With `replicas` = G > 1 the rows are G equal groups in order:
 *            group g has the state that lies g state_stride bytes behind the first, and its rows
 *            count from its own first one.
 * CUDA       an index outside -1 .. count-1 is padding.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write; the CPU functions
 *            also report an index outside -1 .. count-1, with its row, as HN_ERR_ARG.
 */
#ifndef HN_IMAGE_PREP_H
#define HN_IMAGE_PREP_H
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/label.h"
#include "runtime/base/rng.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_IMAGE_CHANNELS = 4 };

typedef struct {
    const uint8_t *images;     /* in  [count, height, width, channels] */
    const int32_t *labels;     /* in  [count]; may be NULL without y_labels */
    const int32_t *index;      /* in  [n] image of each row; -1: padding */
    void *y;                   /* out [n, out_height, out_width, out_channels] */
    int32_t *y_labels;         /* out [n]; NULL: not wanted */
    const hn_rng_state *state; /* in  [replicas]; may be NULL without train */
    uint64_t key;              /* hn_hash_name of the operation's stable name */
    int64_t count, height, width, channels, ld_images;
    int64_t n, out_height, out_width, out_channels, ld_y;
    int64_t replicas;     /* 0: 1 */
    int64_t state_stride; /* of replicas, in bytes */
    int64_t pad;          /* crop: black pixels on each side of an image */
    bool resized;         /* else crop */
    bool train;           /* random, else the middle */
    float flip;           /* probability, 0 .. 1 */
    float scale[2];       /* resized, train: share of the area; both 0: 0.08, 1 */
    float ratio[2];       /* resized, train: width / height; both 0: 3/4, 4/3 */
    float centre;         /* resized, not train: share of the sides, up to 1; 0: 1 */
    float mean[HN_IMAGE_CHANNELS];
    float std[HN_IMAGE_CHANNELS]; /* 0: 1 */
    hn_dtype dtype;               /* of y */
} hn_image_prep_args;

/* Does not read memory: hn_image_prep_check_index does (host memory). */
HN_NODISCARD hn_status hn_image_prep_check(const hn_image_prep_args *a);
HN_NODISCARD hn_status hn_image_prep_check_index(const hn_image_prep_args *a);
HN_NODISCARD hn_status hn_image_prep_cpu(const hn_image_prep_args *a);
HN_NODISCARD hn_status hn_image_prep_fast(const hn_image_prep_args *a);
/* Device pointers. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_image_prep_cuda(const hn_image_prep_args *a,
                                                           hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
