/* gemm_cuda.h - matrix products on the GPU through cuBLASLt.
 *
 *   C = alpha op(A) op(B) + beta C0 + bias      op(X) = X or its transpose; row-major
 *
 * Each shape has one plan: the stored or offered one, or cuBLASLt's heuristic's first choice among
 * algorithms that give the same bits on every run (no atomics, partial sums in fp32). Never a
 * timing, unless hn_gemm_cuda_tune is asked for one; its findings are kept in a file and offered.
 * Shapes cuBLASLt has no algorithm for run on a plain kernel of ours, and their plan says so. The
 * library is opened at run time (libcublasLt), so that programs start without it.
 *
 * Shapes     A [m, k], or [k, m] with trans_a; B [k, n], or [n, k] with trans_b; C0, C [m, n];
 *            bias [n], added to every row. Rows lie ld_* elements apart; a batch (the replicas)
 *            repeats the product on matrices *_stride elements apart (0: the same one).
 * Precision  A and B f32 or bf16; C0, C and bias f32 or bf16; fp32 arithmetic and sums (f32 means
 *            no TF32), one rounding at the store; for some shapes cuBLASLt adds bias and C0 in a
 *            pass of their own, which rounds a bf16 product once more.
 * Limits     every dimension 1 to 2^31 - 1; any leading dimension and alignment.
 * Aliasing   C0 may be C with the same leading dimension and stride; no other overlap.
 * Repeats    bit for bit on one kind of GPU and one version of the library. The plan depends on
 *            shapes, leading dimensions, dtypes and alignment (of rows and batches, to 16 bytes).
 * Capture    may run while a stream is captured: making a plan touches no stream.
 * Threads    one thread at a time per object; one stream at a time with a workspace.
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

struct json_t; /* Jansson's json_t */

typedef struct hn_gemm_cuda hn_gemm_cuda; /* library, handle, plans; for one device */

enum { HN_GEMM_WORKSPACE = 32 << 20 }; /* bytes at most; what NVIDIA recommends for Hopper */

/* For the current device.
 * Errors  HN_ERR_UNSUPPORTED: libcublasLt is not there, or too old: names what was looked for;
 *         HN_ERR_MEMORY, HN_ERR_CUDA */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_gemm_cuda_open(hn_gemm_cuda **out);
HN_CUDA_FUNCTION void hn_gemm_cuda_close(hn_gemm_cuda *g); /* accepts NULL */
/* Device memory of so many bytes, HN_GEMM_WORKSPACE at most, 256-byte aligned, for the products
 * that come; the caller keeps it alive. Plans that are made want no more; later ones may be larger,
 * not smaller. */
HN_CUDA_FUNCTION void hn_gemm_cuda_workspace(hn_gemm_cuda *g, void *workspace, size_t bytes);
/* bf16 products that come have plans of their own that leave the other multiprocessors of the GPU
 * to what runs beside them, as far as the library can; 0: all are theirs. Those in f32 keep the one
 * plan, and so their bits. */
HN_CUDA_FUNCTION void hn_gemm_cuda_sms(hn_gemm_cuda *g, int64_t sms);

typedef struct {
    const void *a, *b; /* in  of dtype */
    const void *bias;  /* in  [n] of c_dtype; NULL: none */
    const void *c0;    /* in  of c_dtype; NULL: C itself. Not read when beta is 0 */
    void *c;           /* out of c_dtype */
    int64_t m, n, k;
    int64_t ld_a, ld_b, ld_c0, ld_c;
    int64_t batch; /* 0: 1 */
    int64_t a_stride, b_stride, bias_stride, c0_stride, c_stride;
    bool trans_a, trans_b;
    hn_dtype dtype, c_dtype;
    float alpha, beta;
} hn_gemm_cuda_args;

/* Columns of a matrix in a scratch whose rows begin on 16-byte boundaries. */
static inline int64_t hn_gemm_cuda_padded(int64_t cols, hn_dtype t)
{
    const int64_t in16 = 16 / (int64_t)hn_dtype_size(t);
    return (cols + in16 - 1) / in16 * in16;
}

/* Errors  HN_ERR_ARG (NULL, no workspace yet), HN_ERR_SHAPE, HN_ERR_UNSUPPORTED (dtype),
 *         HN_ERR_MEMORY, HN_ERR_CUDA */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_gemm_cuda_run(hn_gemm_cuda *g,
                                                         const hn_gemm_cuda_args *a,
                                                         hn_stream stream);

/* The plans in use, as an array that hn_gemm_cuda_restore takes; the caller owns *out
 * (json_decref). An entry holds the shape, the algorithm (cuBLASLt's own words, which it promises
 * to understand in the same version, and their meaning for people), library version and GPU. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_gemm_cuda_plans(const hn_gemm_cuda *g,
                                                           struct json_t **out);
/* From now on the shapes in the list run with exactly these algorithms. All or nothing.
 * where   names the list in errors
 * Errors  HN_ERR_FORMAT; HN_ERR_UNSUPPORTED: another library version or GPU (names both), or an
 *         algorithm that this library refuses or that we do not use (names the shape);
 *         HN_ERR_MEMORY */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_gemm_cuda_restore(hn_gemm_cuda *g,
                                                             const struct json_t *plans,
                                                             const char *where);
/* The same for shapes that have not come yet: where hn_gemm_cuda_run meets one of them for the
 * first time, it takes the plan from this list instead of asking the heuristic. A new list replaces
 * the one before. */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_gemm_cuda_offer(hn_gemm_cuda *g,
                                                           const struct json_t *plans,
                                                           const char *where);
/* Plans in use, and how many of them were offered. */
HN_CUDA_FUNCTION void hn_gemm_cuda_count(const hn_gemm_cuda *g, int64_t *plans, int64_t *offered);
/* What plans are good for: one kind of GPU and one version of the library. */
HN_CUDA_FUNCTION const char *hn_gemm_cuda_gpu(const hn_gemm_cuda *g);
HN_CUDA_FUNCTION int64_t hn_gemm_cuda_version(const hn_gemm_cuda *g);

typedef struct {
    int64_t m, n, k, batch;
    int64_t sms; /* of hn_gemm_cuda_sms */
    bool trans_a, trans_b, bias, adds;
    hn_dtype dtype, c_dtype;
    int64_t calls; /* so far, of hn_gemm_cuda_run */
    int tried;     /* algorithms that were timed; 0: none that repeats, or the plain kernel runs */
    double first_us, best_us; /* median time of the plan before, and of the plan now */
} hn_gemm_cuda_tuned;

/* Searches for the fastest algorithm of plan i (below hn_gemm_cuda_count) among those the library
 * suggests for it that give the same bits twice, and puts it in force: launches from now on take
 * it, captured ones do not. One that is not at least 1 % faster than the plan before changes
 * nothing. Random operands, from memory, the algorithms in turn; takes device memory for the
 * operands while it runs and waits for the stream. Not in a capture. Which algorithm wins is up to
 * the clock: what must repeat keeps the plans (hn_gemm_cuda_plans).
 * Errors  HN_ERR_ARG, HN_ERR_MEMORY, HN_ERR_CUDA */
HN_NODISCARD HN_CUDA_FUNCTION hn_status hn_gemm_cuda_tune(hn_gemm_cuda *g, int64_t i,
                                                          hn_stream stream,
                                                          hn_gemm_cuda_tuned *out);

#ifdef __cplusplus
}
#endif
#endif
