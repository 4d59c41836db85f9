/* linear_ce.h - the last linear layer and the cross-entropy loss in one, by chunks of rows.
 *
 * For the trained rows i (labels[i] is not HN_LABEL_IGNORED):
 *
 *   t[i,n]    = sum_k x[i,k] w[n,k]
 *   z[i,n]    = softcap > 0 ? softcap * tanh(t[i,n] / softcap) : t[i,n]
 *   loss[i]   = log sum_n exp(z[i,n]) - z[i, labels[i]]
 *   dz[i,n]   = exp(z[i,n]) / sum_m exp(z[i,m]) - (n == labels[i])
 *   dt[i,n]   = dz[i,n] * (softcap > 0 ? 1 - (z[i,n] / softcap)^2 : 1)
 *
 *   loss_sum += sum_i loss[i]            count += number of trained rows
 *   dx[i,k]   = sum_n dt[i,n] w[n,k]     dw[n,k] += sum_i dt[i,n] x[i,k]
 *
 * Rows that are ignored have row_loss 0 and dx 0, and cost nothing: they are dropped before the
 * product, and their x is not read. Gradients are those of the sum: the division by the number of
 * trained tokens of the whole optimizer step happens in clipping and update.
 *
 * Shapes     x, dx [rows, dim]; w, dw [vocab, dim]; labels, row_loss [rows]; loss_sum, count [1].
 *            Every 2-D operand has a leading dimension in elements.
 * Precision  x, w, dx f32 or bf16; dw, loss_sum, count, row_loss f32. Logits and sums fp32 (the
 *            twin in double); the sum of one call is made in double and added to loss_sum with
 *            one rounding; dw is added to row by row (fast: chunk by chunk) in fp32. count is exact
 *            up to 2^24 rows.
 * CUDA       f32: logits, softmax and dt fp32. bf16: t is rounded to bf16 after the fp32 sum
 *            over k, and everything after it takes the rounded t; softmax and its sums fp32 (one
 *            row's in double at the end); dt is rounded to bf16 before it meets w and x. The loss
 *            is off by at most 2^-9 of the largest |t| of its row and of the target's, as in any
 *            bf16 head. dw is added to chunk by chunk in fp32. A label outside 0 .. vocab-1 gives
 *            the loss NaN.
 * Limits     rows, dim, vocab below 2^31. No more than chunk_rows x vocab logits exist at a time.
 * Aliasing   none.
 * Repeats    bit for bit, for any number of threads; chunk_rows may change the rounding.
 * Cost       2 * trained rows * vocab * dim flops for each of: loss, dx, dw. CUDA: trained rows
 *            rounded up to whole chunks, one at least, in a captured graph; all rows otherwise.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE, HN_ERR_UNSUPPORTED before the first write; the CPU
 *            functions also report a label outside 0 .. vocab-1, with its row, as HN_ERR_ARG.
 *            Where labels are in device memory the loader has checked them.
 */
#ifndef HN_LINEAR_CE_H
#define HN_LINEAR_CE_H
#include <stddef.h>
#include <stdint.h>

#include "kernels/linear/gemm_cuda.h"
#include "runtime/base/dtype.h"
#include "runtime/base/label.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const void *x;         /* in  [rows, dim] */
    const void *w;         /* in  [vocab, dim] */
    const int32_t *labels; /* in  [rows] 0 .. vocab-1, or HN_LABEL_IGNORED */
    float *loss_sum;       /* i/o [1]; NULL: not wanted */
    float *count;          /* i/o [1]; NULL: not wanted */
    void *dx;              /* out [rows, dim]; NULL: not wanted */
    float *dw;             /* i/o [vocab, dim]; NULL: not wanted */
    float *row_loss;       /* out [rows]; NULL: not wanted */
    int64_t rows, dim, vocab;
    int64_t ld_x, ld_w, ld_dx, ld_dw;
    int64_t chunk_rows; /* 0: so many that the logits take 16 MiB, at least 64; CUDA: 4096, or so
                         * many that there are 2^30 logits at most */
    float softcap;      /* 0: none */
    hn_dtype dtype;
} hn_linear_ce_args;

/* Does not read memory: labels are checked by hn_linear_ce_check_labels (host memory). */
HN_NODISCARD hn_status hn_linear_ce_check(const hn_linear_ce_args *a);
HN_NODISCARD hn_status hn_linear_ce_check_labels(const hn_linear_ce_args *a);

/* Host pointers; the definition that every other version is tested against. */
HN_NODISCARD hn_status hn_linear_ce_cpu(const hn_linear_ce_args *a);

/* Host pointers, OpenBLAS and OpenMP. scratch: that many bytes, 64-byte aligned; the count reads
 * shapes only, and takes ld_dx > 0 for "dx is wanted". */
size_t hn_linear_ce_fast_scratch(const hn_linear_ce_args *a);
HN_NODISCARD hn_status hn_linear_ce_fast(const hn_linear_ce_args *a, void *scratch);

/* Device pointers. scratch: that many bytes, 64-byte aligned; the count reads shapes only, ld_x and
 * ld_dx among them. Which rows are trained is read from labels on the device. */
HN_CUDA_FUNCTION size_t hn_linear_ce_cuda_scratch(const hn_linear_ce_args *a);
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_linear_ce_cuda(const hn_linear_ce_args *a,
                                                          hn_gemm_cuda *gemm, void *scratch,
                                                          hn_stream stream);

#ifdef __cplusplus
}
#endif
#endif
