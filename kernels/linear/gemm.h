/* gemm.h - f32 matrix product on OpenBLAS with the same bits for any number of threads.
 *
 *   C = alpha op(A) op(B) + beta C + bias      op(X) = X or its transpose; row-major
 *
 * C is cut into tiles by its shape alone; every tile is one single-threaded call of cblas, and
 * the threads share out the tiles. A batch (the replicas) repeats the product at fixed
 * distances. For the fast CPU functions only: the caller has checked the arguments.
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

/* A batch of f32 matrices: rows ld apart, matrices `stride` apart (0: the same one). */
typedef struct {
    const float *p;
    int64_t ld, stride;
} hn_operand;

typedef struct {
    float *p;
    int64_t ld, stride;
} hn_result;

typedef struct {
    hn_operand a;    /* [m, k], or [k, m] with trans_a */
    hn_operand b;    /* [k, n], or [n, k] with trans_b */
    hn_operand bias; /* [n], added to every row; NULL: none */
    hn_result c;     /* [m, n]; not read when beta is 0 */
    int64_t batch;   /* at least 1 */
    int64_t m, n, k; /* each below 2^31 */
    bool trans_a, trans_b;
    float alpha, beta;
} hn_gemm_args;

void hn_gemm(const hn_gemm_args *g);

/* To be called before a parallel region whose threads call cblas. OpenBLAS built on OpenMP
 * notices the region by itself; the build on pthreads would start its own threads under each of
 * ours and must be told once (measured: 8 instead of 110 GFLOP/s on two cores). */
void hn_blas_one_thread(void);

/* A batch of matrices of dtype t as hn_gemm wants them: the memory itself where t is f32, else
 * f32 without gaps in `buffer`, which has room for all elements of the batch. */
typedef struct {
    hn_dtype t;
    int64_t batch, stride; /* stride 0: one matrix serves the whole batch */
    int64_t rows, cols, ld;
} hn_matrices;

/* Activations: `rows` in all, an equal group a replica. */
hn_matrices hn_activations(hn_dtype t, int64_t rows, int64_t replicas, int64_t cols, int64_t ld);
/* A parameter [rows, cols] a replica, or (distance 0, or no replicas) one for all. */
hn_matrices hn_parameter(hn_dtype t, int64_t replicas, int64_t stride, int64_t rows, int64_t cols,
                         int64_t ld);

int64_t hn_matrices_count(const hn_matrices *m); /* elements */
hn_operand hn_matrices_load(const hn_matrices *m, const void *p, float *buffer);
/* Where to compute the activations p. `add`, unless NULL, has the same shape and dtype and rows
 * ld_add apart (it may be p): its values are there already, to be added to. */
hn_result hn_matrices_begin(const hn_matrices *m, void *p, float *buffer, const void *add,
                            int64_t ld_add);
/* Rounds what was computed into p. */
void hn_matrices_end(const hn_matrices *m, hn_result r, void *p);

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
