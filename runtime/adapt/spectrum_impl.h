/* spectrum_impl.h - between spectrum.c and spectrum_cuda.cu. */
#ifndef HN_SPECTRUM_IMPL_H
#define HN_SPECTRUM_IMPL_H
#include "runtime/adapt/spectrum.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_spectrum_cuda hn_spectrum_cuda; /* cuSOLVER, opened */

HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_spectrum_cuda_open(hn_device *d, hn_spectrum_cuda **out);
HN_CUDA_FUNCTION void hn_spectrum_cuda_close(hn_spectrum_cuda *c); /* accepts NULL */

/* Delta [m, n] seen as X [r, l]: itself, or its transpose where m > n, so that r <= l.
 * energy  out sum of the squares of X; with 0 the others stay as they are
 * q       out [r, r] row i is the i-th eigenvector of X X^T, in order of rising eigenvalues
 * p       out [r, l] q X: row i has the length s_i
 * Errors  HN_ERR_NUMERIC where the energy is not finite, or no convergence; HN_ERR_MEMORY;
 *         HN_ERR_CUDA */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_spectrum_cuda_run(hn_spectrum_cuda *c,
                                                             const hn_spectrum_args *a,
                                                             double *energy, double *q, double *p);

#ifdef __cplusplus
}
#endif
#endif
