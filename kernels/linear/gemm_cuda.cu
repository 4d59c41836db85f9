/* cuBLASLt counts columns first: a row-major C = A B is its C^T = B^T A^T, so our B is its A, our A
 * its B, and every row-major [rows, cols] its [cols, rows]. Descriptors are made once a plan, so
 * that a run calls no allocator. */
#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kernels/linear/cuda_gemm_plan.h"
#include "runtime/base/alloc.h"
#include "runtime/base/check.h"

hn_status hn_gemm_lt_status_(const hn_gemm_cuda *g, cublasStatus_t s, const char *call,
                             const char *file, int line)
{
    if (s == CUBLAS_STATUS_SUCCESS) return HN_OK;
    const cudaError_t e = cudaGetLastError(); /* must not surface again at the next check */
    const bool memory = s == CUBLAS_STATUS_ALLOC_FAILED || e == cudaErrorMemoryAllocation;
    return hn_fail_(memory ? HN_ERR_MEMORY : HN_ERR_CUDA, file, line, "%s: %s%s%s", call,
                    g->lt.GetStatusString(s), e == cudaSuccess ? "" : ", ",
                    e == cudaSuccess ? "" : cudaGetErrorString(e));
}

/* ---- the library ---- */

static hn_status open_library(hn_lt *lt)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};
    char why[256] = "";
    for (const char *name : names) {
        /* never unmapped: the driver knows the kernels in it, and opening it again takes a while */
        lt->library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        if (lt->library != nullptr) break;
        const char *const text = dlerror();
        if (why[0] == '\0' && text != nullptr) strncpy(why, text, sizeof why - 1);
    }
    if (lt->library == nullptr)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "cuBLASLt cannot be opened (looked for %s, %s, %s): %s; install CUDA's "
                       "libraries or put their folder into LD_LIBRARY_PATH",
                       names[0], names[1], names[2], why);
#define X(name)                                                                            \
    lt->name = reinterpret_cast<decltype(lt->name)>(dlsym(lt->library, "cublasLt" #name)); \
    if (lt->name == nullptr)                                                               \
        return HN_FAIL(HN_ERR_UNSUPPORTED, "libcublasLt is too old: it has no cublasLt" #name);
    HN_LT_FUNCTIONS(X)
#undef X
    return HN_OK;
}

static hn_status open_handle(hn_gemm_cuda *g)
{
    int device = 0;
    cudaDeviceProp properties;
    HN_TRY(HN_CUDA(cudaGetDevice(&device)));
    HN_TRY(HN_CUDA(cudaGetDeviceProperties(&properties, device)));
    static_assert(sizeof properties.name <= sizeof g->gpu, "a GPU's name fits");
    memcpy(g->gpu, properties.name, sizeof properties.name);
    HN_TRY(HN_LT(g, Create(&g->handle)));
    g->version = (int64_t)g->lt.GetVersion();
    return HN_OK;
}

hn_status hn_gemm_cuda_open(hn_gemm_cuda **out)
{
    hn_gemm_cuda *g = static_cast<hn_gemm_cuda *>(hn_calloc(1, sizeof *g));
    if (g == nullptr) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for gemm plans", sizeof *g);
    hn_status st = open_library(&g->lt);
    if (st == HN_OK) st = open_handle(g);
    if (st != HN_OK) {
        hn_gemm_cuda_close(g);
        return st;
    }
    *out = g;
    return HN_OK;
}

void hn_gemm_cuda_close(hn_gemm_cuda *g)
{
    if (g == nullptr) return;
    for (int64_t i = 0; i < g->n_plans; i++) hn_gemm_free_plan(g, &g->plans[i]);
    hn_free(g->plans);
    hn_free(g->offers);
    if (g->handle != nullptr) (void)g->lt.Destroy(g->handle);
    if (g->lt.library != nullptr) (void)dlclose(g->lt.library);
    hn_free(g);
}

void hn_gemm_cuda_workspace(hn_gemm_cuda *g, void *workspace, size_t bytes)
{
    g->workspace = workspace;
    g->workspace_bytes = bytes;
}
void hn_gemm_cuda_sms(hn_gemm_cuda *g, int64_t sms) { g->sms = sms; }

const char *hn_gemm_cuda_gpu(const hn_gemm_cuda *g) { return g->gpu; }
int64_t hn_gemm_cuda_version(const hn_gemm_cuda *g) { return g->version; }

/* ---- plans ---- */

/* The largest power of two, at most 16, that divides the address of every row. */
static int64_t alignment(const void *p, hn_dtype t, int64_t rows, int64_t ld, int64_t stride)
{
    const uint64_t size = hn_dtype_size(t);
    uint64_t bits = 16 | (uint64_t)(uintptr_t)p | (uint64_t)stride * size;
    if (rows > 1) bits |= (uint64_t)ld * size;
    return (int64_t)(bits & (~bits + 1));
}

static hn_gemm_key key_of(const hn_gemm_cuda *g, const hn_gemm_cuda_args *a)
{
    hn_gemm_key k = {};
    k.sms = a->dtype == HN_BF16 ? g->sms : 0;
    k.m = a->m, k.n = a->n, k.k = a->k, k.batch = a->batch > 1 ? a->batch : 1;
    k.trans_a = a->trans_a, k.trans_b = a->trans_b;
    k.dtype = a->dtype, k.c_dtype = a->c_dtype;
    k.ld_a = a->ld_a, k.ld_b = a->ld_b, k.ld_c = k.ld_c0 = a->ld_c;
    if (k.batch > 1) {
        k.a_stride = a->a_stride, k.b_stride = a->b_stride, k.c_stride = k.c0_stride = a->c_stride;
        if (a->bias) k.bias_stride = a->bias_stride;
    }
    k.align_a = alignment(a->a, a->dtype, a->trans_a ? a->k : a->m, k.ld_a, k.a_stride);
    k.align_b = alignment(a->b, a->dtype, a->trans_b ? a->n : a->k, k.ld_b, k.b_stride);
    k.align_c = k.align_c0 = alignment(a->c, a->c_dtype, a->m, k.ld_c, k.c_stride);
    k.align_bias = 16;
    k.adds = a->beta != 0.0f;
    if (k.adds && a->c0 != nullptr && a->c0 != a->c) {
        k.ld_c0 = a->ld_c0, k.c0_stride = k.batch > 1 ? a->c0_stride : 0;
        k.align_c0 = alignment(a->c0, a->c_dtype, a->m, k.ld_c0, k.c0_stride);
    }
    if (a->bias != nullptr) {
        k.bias = 1;
        k.align_bias = alignment(a->bias, a->c_dtype, 1, 0, k.bias_stride);
    }
    return k;
}

const char *hn_gemm_key_text(const hn_gemm_key *k, char text[HN_GEMM_KEY_TEXT])
{
    snprintf(text, HN_GEMM_KEY_TEXT,
             "m=%" PRId64 " n=%" PRId64 " k=%" PRId64 " batch=%" PRId64 " %s to %s", k->m, k->n,
             k->k, k->batch, hn_dtype_name((hn_dtype)k->dtype),
             hn_dtype_name((hn_dtype)k->c_dtype));
    return text;
}

/* An error with the product that it befell. */
static hn_status of_product(hn_status st, const hn_gemm_key *k)
{
    char text[HN_GEMM_KEY_TEXT];
    if (st == HN_OK) return st;
    return HN_FAIL(st, "product %s: %s", hn_gemm_key_text(k, text), hn_last_text());
}

hn_gemm_plan *hn_gemm_find_plan(const hn_gemm_cuda *g, const hn_gemm_key *key)
{
    for (int64_t i = 0; i < g->n_plans; i++)
        if (memcmp(&g->plans[i].key, key, sizeof *key) == 0) return &g->plans[i];
    return nullptr;
}

hn_status hn_gemm_keep_plan(hn_gemm_cuda *g, const hn_gemm_plan *plan)
{
    hn_gemm_plan *const old = hn_gemm_find_plan(g, &plan->key);
    if (old != nullptr) {
        hn_gemm_free_plan(g, old);
        *old = *plan;
        return HN_OK;
    }
    HN_TRY(hn_grow(&g->plans, &g->cap_plans, g->n_plans, sizeof *plan));
    g->plans[g->n_plans++] = *plan;
    return HN_OK;
}

void hn_gemm_free_plan(const hn_gemm_cuda *g, hn_gemm_plan *p)
{
    if (p->desc != nullptr) (void)g->lt.MatmulDescDestroy(p->desc);
    for (cublasLtMatrixLayout_t layout : {p->a, p->b, p->c0, p->c})
        if (layout != nullptr) (void)g->lt.MatrixLayoutDestroy(layout);
    p->desc = nullptr;
    p->a = p->b = p->c0 = p->c = nullptr;
}

static cudaDataType type_of(int64_t dtype) { return dtype == HN_F32 ? CUDA_R_32F : CUDA_R_16BF; }

template <class V>
static hn_status set(const hn_gemm_cuda *g, cublasLtMatmulDesc_t desc,
                     cublasLtMatmulDescAttributes_t what, V value)
{
    return HN_LT(g, MatmulDescSetAttribute(desc, what, &value, sizeof value));
}

/* Row-major [rows, cols]. */
static hn_status make_layout(const hn_gemm_cuda *g, int64_t dtype, int64_t rows, int64_t cols,
                             int64_t ld, int64_t batch, int64_t stride, cublasLtMatrixLayout_t *out)
{
    const int32_t count = (int32_t)batch;
    HN_TRY(HN_LT(g, MatrixLayoutCreate(out, type_of(dtype), (uint64_t)cols, (uint64_t)rows, ld)));
    HN_TRY(HN_LT(g, MatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                             sizeof count)));
    return HN_LT(g, MatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                             &stride, sizeof stride));
}

hn_status hn_gemm_describe(const hn_gemm_cuda *g, hn_gemm_plan *p)
{
    const hn_gemm_key *const k = &p->key;
    HN_TRY(HN_LT(g, MatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F)));
    HN_TRY(set(g, p->desc, CUBLASLT_MATMUL_DESC_TRANSA,
               (int32_t)(k->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N)));
    HN_TRY(set(g, p->desc, CUBLASLT_MATMUL_DESC_TRANSB,
               (int32_t)(k->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N)));
    if (k->sms > 0) HN_TRY(set(g, p->desc, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, (int32_t)k->sms));
    if (k->bias) {
        HN_TRY(set(g, p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)CUBLASLT_EPILOGUE_BIAS));
        HN_TRY(set(g, p->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, (int32_t)type_of(k->c_dtype)));
        HN_TRY(set(g, p->desc, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, k->bias_stride));
        /* Choosing reads nothing through it: its value tells the alignment, that of the key. */
        HN_TRY(set(g, p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                   reinterpret_cast<const void *>((uintptr_t)k->align_bias)));
    }
    HN_TRY(make_layout(g, k->dtype, k->trans_b ? k->n : k->k, k->trans_b ? k->k : k->n, k->ld_b,
                       k->batch, k->b_stride, &p->a));
    HN_TRY(make_layout(g, k->dtype, k->trans_a ? k->k : k->m, k->trans_a ? k->m : k->k, k->ld_a,
                       k->batch, k->a_stride, &p->b));
    HN_TRY(make_layout(g, k->c_dtype, k->m, k->n, k->ld_c0, k->batch, k->c0_stride, &p->c0));
    return make_layout(g, k->c_dtype, k->m, k->n, k->ld_c, k->batch, k->c_stride, &p->c);
}

/* No sums in the output's own memory (order left to chance) or in its type (bf16). */
constexpr uint32_t kSchemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

static hn_status set_preferences(const hn_gemm_cuda *g, const hn_gemm_key *k, size_t workspace,
                                 cublasLtMatmulPreference_t preference)
{
    const uint64_t most = workspace;
    HN_TRY(HN_LT(g, MatmulPreferenceSetAttribute(
                        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most)));
    HN_TRY(HN_LT(g, MatmulPreferenceSetAttribute(preference,
                                                 CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                 &kSchemes, sizeof kSchemes)));
    const struct {
        cublasLtMatmulPreferenceAttributes_t what;
        int64_t bytes;
    } aligned[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, k->align_b},
                   {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, k->align_a},
                   {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, k->align_c0},
                   {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, k->align_c}};
    for (const auto &x : aligned) {
        const uint32_t bytes = (uint32_t)x.bytes;
        HN_TRY(HN_LT(g, MatmulPreferenceSetAttribute(preference, x.what, &bytes, sizeof bytes)));
    }
    return HN_OK;
}

/* Whether every row of every operand begins on a 16-byte boundary, as the library wants it: then a
 * refusal of the arguments is not about their places. */
static bool is_regular(const hn_gemm_key *k)
{
    const int64_t in16 = 16 / (int64_t)hn_dtype_size((hn_dtype)k->dtype);
    const int64_t out16 = 16 / (int64_t)hn_dtype_size((hn_dtype)k->c_dtype);
    for (const int64_t bytes : {k->align_a, k->align_b, k->align_bias, k->align_c0, k->align_c})
        if (bytes < 16) return false;
    return k->ld_a % in16 == 0 && k->ld_b % in16 == 0 && k->ld_c0 % out16 == 0 &&
           k->ld_c % out16 == 0 && k->n % out16 == 0 && k->k % in16 == 0;
}

hn_status hn_gemm_candidates(const hn_gemm_cuda *g, const hn_gemm_plan *p, size_t workspace,
                             int most, cublasLtMatmulHeuristicResult_t *out, int *found)
{
    cublasLtMatmulPreference_t preference = nullptr;
    int returned = 0;
    *found = 0;
    HN_TRY(HN_LT(g, MatmulPreferenceCreate(&preference)));
    hn_status st = set_preferences(g, &p->key, workspace, preference);
    if (st == HN_OK) {
        const cublasStatus_t s = g->lt.MatmulAlgoGetHeuristic(
            g->handle, p->desc, p->a, p->b, p->c0, p->c, preference, most, out, &returned);
        /* operands off their boundaries are "invalid" to it, too: those it has no algorithm for */
        const bool none = s == CUBLAS_STATUS_NOT_SUPPORTED ||
                          (s == CUBLAS_STATUS_INVALID_VALUE && !is_regular(&p->key));
        if (none)
            returned = 0;
        else
            st = hn_gemm_lt_status_(g, s, "cublasLtMatmulAlgoGetHeuristic", __FILE__, __LINE__);
    }
    (void)g->lt.MatmulPreferenceDestroy(preference);
    HN_TRY(st);
    for (int i = 0; i < returned; i++)
        if (out[i].state == CUBLAS_STATUS_SUCCESS && out[i].workspaceSize <= workspace)
            out[(*found)++] = out[i];
    return HN_OK;
}

bool hn_gemm_is_ordered(const hn_gemm_cuda *g, const cublasLtMatmulAlgo_t *algo)
{
    uint32_t scheme = 0;
    size_t written = 0;
    const cublasStatus_t s = g->lt.MatmulAlgoConfigGetAttribute(
        algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme, &written);
    return s != CUBLAS_STATUS_SUCCESS || (scheme & ~kSchemes) == 0; /* without one: no parts */
}

/* The heuristic's first choice; plan->plain when it has none. */
static hn_status choose(const hn_gemm_cuda *g, hn_gemm_plan *p)
{
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    HN_TRY(hn_gemm_candidates(g, p, g->workspace_bytes, 1, &result, &found));
    p->plain = found == 0;
    p->algo = result.algo;
    return HN_OK;
}

cublasStatus_t hn_gemm_try_algorithm(const hn_gemm_cuda *g, const hn_gemm_plan *p, size_t workspace,
                                     bool *fits)
{
    cublasLtMatmulHeuristicResult_t result = {};
    const cublasStatus_t s =
        g->lt.MatmulAlgoCheck(g->handle, p->desc, p->a, p->b, p->c0, p->c, &p->algo, &result);
    *fits = s == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= workspace;
    return s;
}

/* What was offered for the key and fits the workspace, else the heuristic's choice. */
static hn_status choose_or_take(const hn_gemm_cuda *g, hn_gemm_plan *p)
{
    for (int64_t i = 0; i < g->n_offers; i++) {
        const hn_gemm_plan *const offer = &g->offers[i];
        if (memcmp(&offer->key, &p->key, sizeof p->key) != 0) continue;
        p->offered = true;
        p->plain = offer->plain;
        p->algo = offer->algo;
        bool fits = true;
        if (!p->plain) (void)hn_gemm_try_algorithm(g, p, g->workspace_bytes, &fits);
        if (fits) return HN_OK;
        p->offered = false;
        break;
    }
    return choose(g, p);
}

static hn_status make_plan(hn_gemm_cuda *g, const hn_gemm_key *key)
{
    hn_gemm_plan plan = {};
    plan.key = *key;
    hn_status st = hn_gemm_describe(g, &plan);
    if (st == HN_OK) st = choose_or_take(g, &plan);
    if (st == HN_OK && plan.plain) {
        hn_gemm_free_plan(g, &plan);
        plan.algo = {};
    }
    if (st == HN_OK) st = hn_gemm_keep_plan(g, &plan);
    if (st != HN_OK) hn_gemm_free_plan(g, &plan);
    return st;
}

/* ---- running ---- */

static hn_status check(const hn_gemm_cuda *g, const hn_gemm_cuda_args *a)
{
    static const char op[] = "gemm";
    HN_TRY(hn_check_pointer(op, "g", g));
    HN_TRY(hn_check_pointer(op, "args", a));
    HN_TRY(hn_check_pointer(op, "workspace", g->workspace));
    HN_TRY(hn_check_float(op, "dtype", a->dtype));
    HN_TRY(hn_check_float(op, "c_dtype", a->c_dtype));
    HN_TRY(hn_check_matrix(op, "a", a->a, a->trans_a ? a->k : a->m, a->trans_a ? a->m : a->k,
                           a->ld_a));
    HN_TRY(hn_check_matrix(op, "b", a->b, a->trans_b ? a->n : a->k, a->trans_b ? a->k : a->n,
                           a->ld_b));
    HN_TRY(hn_check_matrix(op, "c", a->c, a->m, a->n, a->ld_c));
    if (a->beta == 0.0f || a->c0 == nullptr) return HN_OK;
    HN_TRY(hn_check_matrix(op, "c0", a->c0, a->m, a->n, a->ld_c0));
    return hn_check_in_place(op, a->c0, a->ld_c0, a->c, a->ld_c);
}

static hn_status call(const hn_gemm_cuda *g, const hn_gemm_plan *p, const hn_gemm_cuda_args *a,
                      hn_stream stream)
{
    if (p->plain) return hn_gemm_plain(a, stream);
    if (p->key.bias) HN_TRY(set(g, p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, a->bias));
    const void *const c0 = p->key.adds && a->c0 != nullptr ? a->c0 : a->c;
    return HN_LT(g, Matmul(g->handle, p->desc, &a->alpha, a->b, p->a, a->a, p->b, &a->beta, c0,
                           p->c0, a->c, p->c, &p->algo, g->workspace, g->workspace_bytes, stream));
}

hn_status hn_gemm_cuda_run(hn_gemm_cuda *g, const hn_gemm_cuda_args *a, hn_stream stream)
{
    HN_TRY(check(g, a));
    const hn_gemm_key key = key_of(g, a);
    hn_gemm_plan *p = hn_gemm_find_plan(g, &key);
    if (p == nullptr) {
        HN_TRY(of_product(make_plan(g, &key), &key));
        p = hn_gemm_find_plan(g, &key);
    }
    p->calls++;
    return of_product(call(g, p, a, stream), &key);
}
