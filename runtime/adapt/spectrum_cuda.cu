/* The eigenvectors of the smaller Gram matrix, in fp64: G = X X^T by our own product, cuSOLVER's
 * divide and conquer, then P = Q X, whose rows are the other vectors times the singular values.
 * All of it is small beside the training of a task: the product is plain. */
#include <cuda_runtime.h>
#include <cusolverDn.h>
#include <dlfcn.h>
#include <math.h>
#include <string.h>

#include "runtime/adapt/spectrum_impl.h"
#include "runtime/base/alloc.h"
#include "runtime/base/cuda_check.h"

/* clang-format off */
#define FUNCTIONS(X)                                                     \
    X(Create) X(Destroy) X(SetStream) X(CreateParams) X(DestroyParams)   \
    X(Xsyevd_bufferSize) X(Xsyevd)
/* clang-format on */

struct hn_spectrum_cuda {
    hn_device *device;
    void *library;
#define X(name) decltype(&cusolverDn##name) name;
    FUNCTIONS(X)
#undef X
    cusolverDnHandle_t handle;
    cusolverDnParams_t params;
};

namespace {

constexpr int kTile = 16; /* outputs of a block each way, and as many steps of the sum at a time */

/* c [m, n] = sum over k of a(i, k) b(k, j), each operand with the distance of its elements in both
 * directions; sums in the order of k. */
template <class A>
__global__ void __launch_bounds__(kTile *kTile)
    product(const A *__restrict__ a, int64_t a_i, int64_t a_k, const float *__restrict__ b,
            int64_t b_k, int64_t b_j, double *__restrict__ c, int64_t m, int64_t n, int64_t k)
{
    __shared__ double part_a[kTile][kTile + 1], part_b[kTile][kTile + 1];
    const int tx = (int)threadIdx.x, ty = (int)threadIdx.y;
    const int64_t tiles = (n + kTile - 1) / kTile;
    const int64_t i0 = (int64_t)blockIdx.x / tiles * kTile,
                  j0 = (int64_t)blockIdx.x % tiles * kTile;
    /* neighbouring threads read neighbouring elements, whichever way they lie */
    const bool a_along_k = a_k == 1, b_along_k = b_k == 1;
    const int a_row = a_along_k ? ty : tx, a_step = a_along_k ? tx : ty;
    const int b_col = b_along_k ? ty : tx, b_step = b_along_k ? tx : ty;
    double sum = 0.0;
    for (int64_t k0 = 0; k0 < k; k0 += kTile) {
        const int64_t ai = i0 + a_row, ak = k0 + a_step, bj = j0 + b_col, bk = k0 + b_step;
        part_a[a_row][a_step] = ai < m && ak < k ? (double)a[ai * a_i + ak * a_k] : 0.0;
        part_b[b_step][b_col] = bj < n && bk < k ? (double)b[bk * b_k + bj * b_j] : 0.0;
        __syncthreads();
#pragma unroll
        for (int s = 0; s < kTile; s++) sum += part_a[ty][s] * part_b[s][tx];
        __syncthreads();
    }
    if (i0 + ty < m && j0 + tx < n) c[(i0 + ty) * n + j0 + tx] = sum;
}

template <class A>
hn_status launch_product(const A *a, int64_t a_i, int64_t a_k, const float *b, int64_t b_k,
                         int64_t b_j, double *c, int64_t m, int64_t n, int64_t k, hn_stream stream)
{
    const int64_t blocks = ((m + kTile - 1) / kTile) * ((n + kTile - 1) / kTile);
    if (blocks >= (int64_t)1 << 31)
        return HN_FAIL(HN_ERR_SHAPE, "spectrum: a matrix of this size does not fit into a grid");
    product<A>
        <<<(unsigned)blocks, dim3(kTile, kTile), 0, stream>>>(a, a_i, a_k, b, b_k, b_j, c, m, n, k);
    return HN_CUDA_LAUNCHED("spectrum product");
}

/* ---- cuSOLVER ---- */

hn_status solver_status(cusolverStatus_t s, const char *call)
{
    if (s == CUSOLVER_STATUS_SUCCESS) return HN_OK;
    const cudaError_t e = cudaGetLastError(); /* must not surface again at the next check */
    const bool memory = s == CUSOLVER_STATUS_ALLOC_FAILED || e == cudaErrorMemoryAllocation;
    return HN_FAIL(memory ? HN_ERR_MEMORY : HN_ERR_CUDA, "%s returned status %d%s%s", call, (int)s,
                   e == cudaSuccess ? "" : ", ", e == cudaSuccess ? "" : cudaGetErrorString(e));
}
#define SOLVER(c, call) solver_status((c)->call, "cusolverDn" #call)

hn_status open_library(hn_spectrum_cuda *c)
{
    static const char *const names[] = {"libcusolver.so.12", "libcusolver.so.11", "libcusolver.so"};
    char why[256] = "";
    for (const char *name : names) {
        /* never unmapped: the driver knows the kernels in it */
        c->library = dlopen(name, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        if (c->library != nullptr) break;
        const char *const text = dlerror();
        if (why[0] == '\0' && text != nullptr) strncpy(why, text, sizeof why - 1);
    }
    if (c->library == nullptr)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "cuSOLVER cannot be opened (looked for %s, %s, %s): %s; install CUDA's "
                       "libraries or put their folder into LD_LIBRARY_PATH",
                       names[0], names[1], names[2], why);
#define X(name)                                                                           \
    c->name = reinterpret_cast<decltype(c->name)>(dlsym(c->library, "cusolverDn" #name)); \
    if (c->name == nullptr)                                                               \
        return HN_FAIL(HN_ERR_UNSUPPORTED, "libcusolver is too old: it has no cusolverDn" #name);
    FUNCTIONS(X)
#undef X
    return HN_OK;
}

/* ---- one matrix ---- */

/* X [r, l] in Delta: element (i, j) at i * row + j * col. */
struct view {
    const float *p;
    int64_t r, l, row, col;
};

view view_of(const hn_spectrum_args *a)
{
    if (a->m <= a->n) return {a->delta, a->m, a->n, a->ld, 1};
    return {a->delta, a->n, a->m, 1, a->ld};
}

/* What a run takes on the device. */
struct memory {
    double *g;      /* [r, r] the Gram matrix, then its eigenvectors: the i-th in row i */
    double *lambda; /* [r] rising */
    double *p;      /* [r, l] */
    int *info;
    void *work; /* cuSOLVER's */
};

void release(hn_device *d, const memory *w)
{
    for (void *p : {(void *)w->g, (void *)w->lambda, (void *)w->p, (void *)w->info, w->work})
        if (p != nullptr) hn_device_release(d, p);
}

template <class T>
hn_status take(hn_device *d, int64_t count, T **out)
{
    void *p = nullptr;
    HN_TRY(hn_device_alloc(d, (size_t)count * sizeof(T), &p));
    *out = static_cast<T *>(p);
    return HN_OK;
}

/* The trace of G is the sum of the squares; a NaN or an infinity in X is on the diagonal of G. */
hn_status fetch_energy(hn_device *d, const double *g, int64_t r, double *energy)
{
    double *diagonal = static_cast<double *>(hn_calloc((size_t)r, sizeof *diagonal));
    if (diagonal == nullptr) return HN_FAIL(HN_ERR_MEMORY, "spectrum: no memory");
    const size_t one = sizeof(double), pitch = ((size_t)r + 1) * one;
    const hn_stream stream = hn_device_stream(d);
    hn_status st = HN_CUDA(cudaMemcpy2DAsync(diagonal, one, g, r > 1 ? pitch : one, one, (size_t)r,
                                             cudaMemcpyDeviceToHost, stream));
    if (st == HN_OK) st = hn_device_wait(d);
    double sum = 0.0;
    for (int64_t i = 0; i < r; i++) sum += diagonal[i];
    hn_free(diagonal);
    if (st != HN_OK) return st;
    if (!isfinite(sum))
        return HN_FAIL(HN_ERR_NUMERIC, "spectrum: the matrix has a NaN or an infinity");
    *energy = sum;
    return HN_OK;
}

/* Replaces G by its eigenvectors. G is symmetric to the last bit: its rows are its columns. */
hn_status eigenvectors(hn_spectrum_cuda *c, memory *w, int64_t r)
{
    const cusolverEigMode_t vectors = CUSOLVER_EIG_MODE_VECTOR;
    const cublasFillMode_t lower = CUBLAS_FILL_MODE_LOWER;
    size_t on_device = 0, on_host = 0;
    HN_TRY(SOLVER(c, Xsyevd_bufferSize(c->handle, c->params, vectors, lower, r, CUDA_R_64F, w->g, r,
                                       CUDA_R_64F, w->lambda, CUDA_R_64F, &on_device, &on_host)));
    HN_TRY(hn_device_alloc(c->device, on_device > 0 ? on_device : 1, &w->work));
    void *host = hn_malloc(on_host > 0 ? on_host : 1);
    if (host == nullptr) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for cuSOLVER", on_host);
    int info = 0;
    hn_status st =
        SOLVER(c, Xsyevd(c->handle, c->params, vectors, lower, r, CUDA_R_64F, w->g, r, CUDA_R_64F,
                         w->lambda, CUDA_R_64F, w->work, on_device, host, on_host, w->info));
    /* waits also after an error: the call may use the host's part until then */
    const hn_status read = hn_device_read(c->device, &info, w->info, sizeof info);
    hn_free(host);
    if (st == HN_OK) st = read;
    if (st == HN_OK && info != 0)
        st =
            HN_FAIL(HN_ERR_NUMERIC, "spectrum: cuSOLVER's eigenvalues did not converge (%d)", info);
    return st;
}

hn_status run(hn_spectrum_cuda *c, const view *x, memory *w, double *energy, double *q, double *p)
{
    hn_device *const d = c->device;
    const hn_stream stream = hn_device_stream(d);
    const int64_t r = x->r, l = x->l;
    double sum = 0.0;
    HN_TRY(take(d, r * r, &w->g));
    HN_TRY(launch_product(x->p, x->row, x->col, x->p, x->col, x->row, w->g, r, r, l, stream));
    HN_TRY(fetch_energy(d, w->g, r, &sum));
    *energy = sum;
    if (sum == 0.0) return HN_OK;
    HN_TRY(take(d, r, &w->lambda));
    HN_TRY(take(d, r * l, &w->p));
    HN_TRY(take(d, 1, &w->info));
    HN_TRY(eigenvectors(c, w, r));
    HN_TRY(launch_product(w->g, r, 1, x->p, x->row, x->col, w->p, r, l, r, stream));
    HN_TRY(hn_device_read(d, q, w->g, (size_t)(r * r) * sizeof *q));
    return hn_device_read(d, p, w->p, (size_t)(r * l) * sizeof *p);
}

} // namespace

hn_status hn_spectrum_cuda_open(hn_device *d, hn_spectrum_cuda **out)
{
    hn_spectrum_cuda *c = static_cast<hn_spectrum_cuda *>(hn_calloc(1, sizeof *c));
    if (c == nullptr) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a solver", sizeof *c);
    c->device = d;
    hn_status st = open_library(c);
    if (st == HN_OK) st = SOLVER(c, Create(&c->handle));
    if (st == HN_OK) st = SOLVER(c, CreateParams(&c->params));
    if (st == HN_OK) st = SOLVER(c, SetStream(c->handle, hn_device_stream(d)));
    if (st != HN_OK) {
        hn_spectrum_cuda_close(c);
        return st;
    }
    *out = c;
    return HN_OK;
}

void hn_spectrum_cuda_close(hn_spectrum_cuda *c)
{
    if (c == nullptr) return;
    if (c->params != nullptr) (void)c->DestroyParams(c->params);
    if (c->handle != nullptr) (void)c->Destroy(c->handle);
    if (c->library != nullptr) (void)dlclose(c->library);
    hn_free(c);
}

hn_status hn_spectrum_cuda_run(hn_spectrum_cuda *c, const hn_spectrum_args *a, double *energy,
                               double *q, double *p)
{
    const view x = view_of(a);
    memory w = {};
    hn_status st = run(c, &x, &w, energy, q, p);
    const hn_status waited = hn_device_wait(c->device); /* for whatever an error left on its way */
    if (st == HN_OK) st = waited;
    release(c->device, &w);
    return st;
}
