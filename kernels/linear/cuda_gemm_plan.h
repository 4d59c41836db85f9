/* cuda_gemm_plan.h - the inside of hn_gemm_cuda: the library's functions, and a plan a shape
 * (for .cu files only). */
#ifndef HN_CUDA_GEMM_PLAN_H
#define HN_CUDA_GEMM_PLAN_H
#include <cublasLt.h>

#include "kernels/linear/gemm_cuda.h"
#include "runtime/base/cuda_check.h"

/* clang-format off */
#define HN_LT_FUNCTIONS(X)                                                                 \
    X(Create) X(Destroy) X(GetVersion) X(GetStatusString)                                  \
    X(MatmulDescCreate) X(MatmulDescDestroy) X(MatmulDescSetAttribute)                     \
    X(MatrixLayoutCreate) X(MatrixLayoutDestroy) X(MatrixLayoutSetAttribute)               \
    X(MatmulPreferenceCreate) X(MatmulPreferenceDestroy) X(MatmulPreferenceSetAttribute)   \
    X(MatmulAlgoGetHeuristic) X(MatmulAlgoCheck) X(MatmulAlgoConfigGetAttribute) X(Matmul)

/* What a plan depends on. Strides are 0 without a batch, the fields of C0 those of C when it is not
 * read, `bias` and `adds` (beta is not 0) 0 or 1, align_* in bytes, at most 16. */
#define HN_GEMM_KEY(X)                                                   \
    X(m) X(n) X(k) X(batch) X(ld_a) X(ld_b) X(ld_c0) X(ld_c)             \
    X(a_stride) X(b_stride) X(bias_stride) X(c0_stride) X(c_stride)      \
    X(trans_a) X(trans_b) X(bias) X(adds)                                \
    X(align_a) X(align_b) X(align_bias) X(align_c0) X(align_c)
/* clang-format on */

struct hn_lt {
    void *library;
#define X(name) decltype(&cublasLt##name) name;
    HN_LT_FUNCTIONS(X)
#undef X
};

struct hn_gemm_key {
#define X(name) int64_t name;
    HN_GEMM_KEY(X)
#undef X
    int64_t dtype, c_dtype; /* hn_dtype */
    int64_t sms;            /* multiprocessors that it is to run on; 0: all */
};

struct hn_gemm_plan {
    hn_gemm_key key;
    bool plain;    /* no algorithm: the fields below are empty */
    bool offered;  /* it came from hn_gemm_cuda_offer */
    int64_t calls; /* of hn_gemm_cuda_run */
    cublasLtMatmulAlgo_t algo;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c0, c;
};

struct hn_gemm_cuda {
    hn_lt lt;
    cublasLtHandle_t handle;
    int64_t version; /* of the library */
    char gpu[256];
    void *workspace;
    size_t workspace_bytes;
    int64_t sms; /* for the products that come */
    hn_gemm_plan *plans;
    int64_t n_plans, cap_plans;
    hn_gemm_plan *offers; /* without descriptors: for shapes that have not come yet */
    int64_t n_offers;
};

hn_status hn_gemm_lt_status_(const hn_gemm_cuda *g, cublasStatus_t s, const char *call,
                             const char *file, int line);
#define HN_LT(g, call) hn_gemm_lt_status_((g), (g)->lt.call, "cublasLt" #call, __FILE__, __LINE__)

enum { HN_GEMM_KEY_TEXT = 256 };
/* "m=33 n=20 k=65 batch=2 f32 to f32" into text; returns it. */
const char *hn_gemm_key_text(const hn_gemm_key *k, char text[HN_GEMM_KEY_TEXT]);

/* The plan of a key, NULL when there is none. */
hn_gemm_plan *hn_gemm_find_plan(const hn_gemm_cuda *g, const hn_gemm_key *key);
/* Replaces the plan of the key, or appends; takes over its descriptors on success. */
hn_status hn_gemm_keep_plan(hn_gemm_cuda *g, const hn_gemm_plan *plan);
/* Fills in the descriptors for plan->key; after an error hn_gemm_free_plan frees what there is. */
hn_status hn_gemm_describe(const hn_gemm_cuda *g, hn_gemm_plan *plan);
void hn_gemm_free_plan(const hn_gemm_cuda *g, hn_gemm_plan *plan);

/* The heuristic's choices for a plan with descriptors, best first: at most `most`, that take no
 * more than `workspace` bytes; *found 0 where the library has no algorithm. */
hn_status hn_gemm_candidates(const hn_gemm_cuda *g, const hn_gemm_plan *plan, size_t workspace,
                             int most, cublasLtMatmulHeuristicResult_t *out, int *found);
/* Whether the library runs the plan's algorithm, within so many bytes of workspace. */
cublasStatus_t hn_gemm_try_algorithm(const hn_gemm_cuda *g, const hn_gemm_plan *plan,
                                     size_t workspace, bool *fits);
/* Whether partial sums are added up in fp32 and in order: what hn_gemm_candidates demands. */
bool hn_gemm_is_ordered(const hn_gemm_cuda *g, const cublasLtMatmulAlgo_t *algo);

/* The product without cuBLASLt: tiles of 16 x 16, fp32 sums over k in order. */
hn_status hn_gemm_plain(const hn_gemm_cuda_args *a, hn_stream stream);
#endif
