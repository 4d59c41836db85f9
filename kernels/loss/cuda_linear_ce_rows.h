/* cuda_linear_ce_rows.h - the inside of linear_ce on a GPU: a chunk of logits becomes losses and
 * gradients (for .cu files only). */
#ifndef HN_CUDA_LINEAR_CE_ROWS_H
#define HN_CUDA_LINEAR_CE_ROWS_H
#include "kernels/loss/linear_ce.h"

/* Row i of the chunk is trained row first + i of the call, if there are so many. */
struct hn_linear_ce_rows {
    void *logits; /* i/o [n, ld] of dtype, 16-byte aligned rows; dt afterwards if `gradient` */
    int64_t ld, vocab, n;
    const int32_t *labels; /* [rows of the call] */
    const int32_t *list;   /* rows that are trained, in order; `trained` of them */
    const int32_t *trained;
    int64_t first;
    double *loss;    /* out [rows of the call], where trained */
    float *row_loss; /* the same; NULL: not wanted */
    float softcap;
    bool gradient; /* dt is wanted; 0 in the rows behind the last trained one */
    hn_dtype dtype;
};

hn_status hn_linear_ce_rows_run(const hn_linear_ce_rows *r, hn_stream stream);
#endif
