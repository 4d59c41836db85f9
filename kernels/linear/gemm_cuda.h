/* gemm_cuda.h - matrix products on the GPU through cuBLASLt.
 *
 *   C = alpha op(A) op(B) + beta C0 + bias      op(X) = X or its transpose; row-major
 *
 * Each shape has one plan: the stored one, or cuBLASLt's heuristic's first choice among algorithms
 * that give the same bits on every run (no atomics, partial sums in fp32). Never a timing.
 * The library is opened at run time (libcublasLt), so that programs start without it.
 */
#ifndef HN_GEMM_CUDA_H
#define HN_GEMM_CUDA_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"
#include "runtime/base/stream.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_gemm_cuda hn_gemm_cuda; /* library, handle, plans; for one device */

enum { HN_GEMM_WORKSPACE = 32 << 20 };

/* Errors  HN_ERR_UNSUPPORTED: libcublasLt is not there, or too old: names what was looked for */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_gemm_cuda_open(hn_gemm_cuda **out);
HN_CUDA_FUNCTION void hn_gemm_cuda_close(hn_gemm_cuda *g); /* accepts NULL */
/* Device memory of HN_GEMM_WORKSPACE bytes, 256-byte aligned; the caller keeps it alive. */
HN_CUDA_FUNCTION void hn_gemm_cuda_workspace(hn_gemm_cuda *g, void *workspace);

#ifdef __cplusplus
}
#endif
#endif
