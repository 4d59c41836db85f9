/* gemm.h - f32 matrix product on OpenBLAS with the same bits for any number of threads.
 *
 *   C = alpha op(A) op(B) + beta C + bias      op(X) = X or its transpose; row-major
 *
 * C is cut into tiles by its shape alone; every tile is one single-threaded call of cblas, and
 * the threads share out the tiles. A batch repeats the product at fixed distances. For the fast
 * CPU functions only: the caller has checked the arguments.
 */
#ifndef HN_GEMM_H
#define HN_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const float *a;    /* [m, k], or [k, m] with trans_a */
    const float *b;    /* [k, n], or [n, k] with trans_b */
    const float *bias; /* [n], added to every row; NULL: none */
    float *c;          /* [m, n]; not read when beta is 0 */
    int64_t m, n, k;   /* each below 2^31 */
    int64_t ld_a, ld_b, ld_c;
    bool trans_a, trans_b;
    float alpha, beta;
    int64_t batch; /* 0: 1; the distances are in elements */
    int64_t stride_a, stride_b, stride_c, stride_bias;
} hn_gemm_args;

void hn_gemm(const hn_gemm_args *g);

/* To be called before a parallel region whose threads call cblas. OpenBLAS built on OpenMP
 * notices the region by itself; the build on pthreads would start its own threads under each of
 * ours and must be told once (measured: 8 instead of 110 GFLOP/s on two cores). */
void hn_blas_one_thread(void);

/* A batch of matrices as f32: the memory itself where it is f32, else a copy without gaps in
 * `buffer`, which has room for batch * rows * cols floats. */
typedef struct {
    const float *p;
    int64_t ld, stride;
} hn_operand;

hn_operand hn_operand_f32(const void *p, hn_dtype t, int64_t batch, int64_t stride, int64_t rows,
                          int64_t cols, int64_t ld, float *buffer);

/* dst (dtype t, leading dimension ld) = src [rows, cols] without gaps, rounded. */
void hn_matrix_from_f32(const float *src, int64_t rows, int64_t cols, void *dst, hn_dtype t,
                        int64_t ld);

/* Layout of a scratch, counted in floats: the place of `count` more if they are needed. */
static inline int64_t hn_reserve(int64_t *n_floats, bool needed, int64_t count)
{
    const int64_t at = *n_floats;
    if (needed) *n_floats += count;
    return at;
}

static inline float *hn_at(void *scratch, int64_t n_floats)
{
    return scratch ? (float *)scratch + n_floats : NULL;
}

#ifdef __cplusplus
}
#endif
#endif
