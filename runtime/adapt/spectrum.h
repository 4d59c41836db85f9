/* spectrum.h - singular values and vectors of a matrix: what the rank rules (rank_rule.h) read.
 *
 *   Delta = U diag(s_1 >= s_2 >= ... >= 0) V^T        thin: r = min(m, n) directions
 *
 * For a task of continual learning Delta = W_probe - W_ref, a convolution as its matrix [out,
 * in k k]: PEARL (arXiv 2505.11998), sections 3.3 and 3.4 of our specification. numpy.linalg.svd
 * and torch.linalg.svd with full_matrices false give the same but for the signs of pairs u_i, v_i.
 *
 * Shapes     delta row-major [m, n], rows ld apart. min(m, n) <= 16384, max(m, n) < 2^31.
 * Precision  f32 in, fp64 inside and out. On the CPU dgesdd of the LAPACK in OpenBLAS: values to
 *            about 1e-15 of s_1, vectors orthonormal to as much. On a GPU by the eigenvectors of
 *            the smaller Gram matrix (Delta Delta^T or Delta^T Delta, summed in fp64) through
 *            cuSOLVER, the other vectors from Delta itself: values to about 1e-14 of s_1, the
 *            vectors of i and j orthogonal to about 1e-15 (s_1 / s_i) (s_1 / s_j).
 * Rank       a value at or below 2^-23 s_1 cannot be told from the rounding of f32: it and all
 *            behind it are given as 0. `rank` counts the others. Vectors from `rank` on mean
 *            nothing: on the CPU they are orthonormal, on a GPU one side of each is 0.
 * Repeats    bit for bit on one device, on the CPU for any number of threads: one matrix is one
 *            thread's work. On the CPU several threads may share a solver, each with a matrix of
 *            its own.
 * Cost       on one core 0.9 s for 512 x 4608, 0.8 s for 768 x 3072, 3 ms for 64 x 576. Takes
 *            host memory, and memory of the device, and waits: it is for the time between tasks.
 * Errors     HN_ERR_ARG, HN_ERR_SHAPE; HN_ERR_NUMERIC for a NaN or an infinity in Delta, or where
 *            the iteration does not converge; HN_ERR_MEMORY; HN_ERR_UNSUPPORTED where cuSOLVER
 *            cannot be opened; HN_ERR_CUDA.
 */
#ifndef HN_SPECTRUM_H
#define HN_SPECTRUM_H
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const float *delta; /* in  [m, n], memory of the solver's device */
    int64_t m, n, ld;
} hn_spectrum_args;

/* Host memory; zero before the first use. */
typedef struct {
    int64_t m, n;
    int64_t r;     /* min(m, n) */
    int64_t rank;  /* values that are not 0 */
    double energy; /* sum of the squares of Delta's elements: what s_i^2 must add up to */
    double *s;     /* [r] */
    double *u;     /* [m, r]: column i is u_i */
    double *vt;    /* [r, n]: row i is v_i */
} hn_spectrum;

void hn_spectrum_free(hn_spectrum *s); /* accepts NULL and an empty one */

/* Opens cuSOLVER on a GPU (libcusolver.so.12, .11, libcusolver.so, the first that the loader
 * finds), which takes some memory there; nothing on the CPU. To be closed before its device. */
typedef struct hn_spectrum_solver hn_spectrum_solver;
HN_NODISCARD hn_status hn_spectrum_open(hn_device *d, hn_spectrum_solver **out);
void hn_spectrum_close(hn_spectrum_solver *s); /* accepts NULL */

/* *out is freed first and filled; untouched after an error. */
HN_NODISCARD hn_status hn_spectrum_of(hn_spectrum_solver *s, const hn_spectrum_args *a,
                                      hn_spectrum *out);

/* The spectrum of a product of factors without the product: of B A with B [m, k] and A [k, n], by
 * QR of B and of A^T and the spectrum of a matrix k x k. Always on the CPU, in fp64. Of the
 * min(m, n, k) directions that B A can have all are given: here r = min(m, n, k). `energy` is that
 * of the small matrix. Post-truncation: choose k from these values, then hn_rank_factors. */
typedef struct {
    const float *b; /* in  [m, k] host memory */
    const float *a; /* in  [k, n] */
    int64_t m, n, k, ld_b, ld_a;
} hn_spectrum_product_args;

HN_NODISCARD hn_status hn_spectrum_of_product(const hn_spectrum_product_args *a, hn_spectrum *out);

#ifdef __cplusplus
}
#endif
#endif
