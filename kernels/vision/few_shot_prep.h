/* few_shot_prep.h - the batch of one step of few-shot tuning: the support images of each episode,
 * clean, and then the same images augmented, from a set of 8-bit images that lies in memory.
 *
 * Replica g, an episode, has `support` images index[g support + j]; it gets 2 support rows: row j
 * the clean image, row support + j its augmented view. The clean pixel x[r,q,k] is that of
 * image_prep with `resized`, without `train` and with centre 1, the same bits; m[r,q] is its mean
 * over the channels, M the mean of the whole clean image. The augmented one, with (r', q') =
 * (r + down, q + right), q' mirrored where the batch is flipped:
 *
 *   y[r,q,k] = (M + b) + c (m[r',q'] - M) + c s (x[r',q',k] - m[r',q'])       0 outside the image
 *
 * which is DiffAugment(types "color", "translation") of P>M>F: brightness x + b; saturation
 * (x - m) s + m; contrast (x - M) c + M, whose M saturation does not change; translation. Random
 * numbers, with w[i] = hn_rng_block(rng, row_offset + j, i) of row j, a = hn_rng_block(rng, 0, 2)
 * of the replica, rng = hn_rng_make(seed, step, key), U(x) = hn_rng_unit(x), B(x, n) =
 * floor(x n / 2^32):
 *
 *   the augmented rows are the clean ones unless U(a[0]) < augment
 *   flipped  U(a[1]) < 1/2                                  all rows of the replica, or none
 *   b = U(w[0][0]) - 1/2    s = 2 U(w[0][1])    c = U(w[0][2]) + 1/2
 *   down  = B(w[1][0], 2 t + 1) - t, t = (out_height + 4) / 8 rounded down
 *   right = the same from w[1][1] and out_width
 *
 * An index of -1 is padding: both rows are 0 and their labels HN_LABEL_IGNORED. Else both have
 * labels[g support + j], which for proto_ce makes the augmented rows the queries.
 *
 * For evaluation, S + Q clean rows a replica, use image_prep with `resized`.
 *
 * Shapes     images [count, height, width, channels], pixels ld_images elements apart; index,
 *            labels [replicas support]; y [replicas 2 support, out_height, out_width,
 *            out_channels], pixels ld_y apart, 0 in channels behind `channels`; y_labels
 *            [replicas 2 support].
 * Precision  y f32 or bf16, rounded once from fp32 fused multiply-adds. M from integer sums over
 *            the bytes, whose bilinear weights are rounded to 1/1024 for it: y stays within 2e-4
 *            of exact arithmetic.
 * Limits     channels 1 .. 4; sides of images below 4096, of y below 65536, pixels of an output
 *            image below 2^31; any alignment.
 * Aliasing   none.
 * Repeats    bit for bit everywhere: CPU, CUDA, any number of threads, any cut of the rows.
 * Random     seed, step and row_offset are read through `state` when the operation runs, one state
 *            a replica, state_stride bytes apart. CUDA: state is device memory.
 * CUDA       an index outside -1 .. count-1 is padding. Two kernels: means, then pixels.
 * Cost       y written once; the bytes of an image read three times, from memory once.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write (what clean rows
 *            share with image_prep is named as that one's); the CPU function also reports an index
 *            outside -1 .. count-1, with its row, as HN_ERR_ARG.
 */
#ifndef HN_FEW_SHOT_PREP_H
#define HN_FEW_SHOT_PREP_H
#include <stddef.h>
#include <stdint.h>

#include "kernels/vision/image_prep.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_FEW_SHOT_SIDE = 4095 };

typedef struct {
    const uint8_t *images;     /* in  [count, height, width, channels] */
    const int32_t *index;      /* in  [replicas support] image of each row; -1: padding */
    const int32_t *labels;     /* in  [replicas support]; may be NULL without y_labels */
    void *y;                   /* out [replicas 2 support, out_height, out_width, out_channels] */
    int32_t *y_labels;         /* out [replicas 2 support]; NULL: not wanted */
    const hn_rng_state *state; /* in  [replicas] */
    uint64_t key;              /* hn_hash_name of the operation's stable name */
    int64_t replicas;          /* 0: 1 */
    int64_t state_stride;      /* of replicas, in bytes */
    int64_t support;           /* rows of index, of each replica */
    int64_t count, height, width, channels, ld_images;
    int64_t out_height, out_width, out_channels, ld_y;
    float augment; /* probability, 0 .. 1; 0.9 in P>M>F */
    float mean[HN_IMAGE_CHANNELS];
    float std[HN_IMAGE_CHANNELS]; /* 0: 1 */
    hn_dtype dtype;               /* of y */
} hn_few_shot_prep_args;

/* Does not read memory: hn_few_shot_prep_check_index does (host memory). */
HN_NODISCARD hn_status hn_few_shot_prep_check(const hn_few_shot_prep_args *a);
HN_NODISCARD hn_status hn_few_shot_prep_check_index(const hn_few_shot_prep_args *a);

/* scratch: that many bytes, 64-byte aligned; the count reads shapes only. */
size_t hn_few_shot_prep_cpu_scratch(const hn_few_shot_prep_args *a);
HN_NODISCARD hn_status hn_few_shot_prep_cpu(const hn_few_shot_prep_args *a, void *scratch);

/* Device pointers. */
HN_CUDA_FUNCTION size_t hn_few_shot_prep_cuda_scratch(const hn_few_shot_prep_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_few_shot_prep_cuda(const hn_few_shot_prep_args *a,
                                                              void *scratch, hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
