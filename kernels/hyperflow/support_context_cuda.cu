/* A block looks at all labels of an episode and links the rows of each class; then a warp takes a
 * row in turn: padding becomes 0, and the first row of a class walks the class, twice a piece of
 * the columns, and writes the mean to all of its rows. Large episodes have several blocks. */
#include "kernels/hyperflow/support_context.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBlockRows = 32; /* rows of an episode that bring it a block more */

template <class F, class U>
struct Operands {
    const F *f;
    const int32_t *labels;
    U *u;
    int64_t features, cols, ld_f, ld_u; /* cols: of u */
    int rows, parts;                    /* of an episode; blocks of an episode */
};

/* The class whose first row is j, a warp: columns 0 .. 2 F of all its rows. */
template <int kWidth, class F, class U>
__device__ void run_class(const Operands<F, U> &a, int64_t first, int j, const short *next)
{
    const int lane = (int)threadIdx.x % kWarp;
    int count = 0;
    for (int i = j; i >= 0; i = next[i]) count++; /* the same for all lanes */
    for (int64_t c = lane * kWidth; c < a.features; c += kWarp * kWidth) {
        float sum[kWidth] = {}, v[kWidth];
        for (int i = j; i >= 0; i = next[i]) {
            hn_load_whole<kWidth>(a.f + (first + i) * a.ld_f + c, v);
#pragma unroll
            for (int k = 0; k < kWidth; k++) sum[k] += v[k];
        }
#pragma unroll
        for (int k = 0; k < kWidth; k++) sum[k] /= (float)count;
        for (int i = j; i >= 0; i = next[i]) {
            U *const u = a.u + (first + i) * a.ld_u + c;
            hn_load_whole<kWidth>(a.f + (first + i) * a.ld_f + c, v);
            hn_store_whole<kWidth>(u, v);
            hn_store_whole<kWidth>(u + a.features, sum);
        }
    }
    if (lane != 0) return;
    const U size = hn_round<U>(logf((float)count));
    for (int i = j; i >= 0; i = next[i]) a.u[(first + i) * a.ld_u + 2 * a.features] = size;
}

template <int kWidth, class F, class U>
__global__ void __launch_bounds__(kThreads) context_kernel(const Operands<F, U> a)
{
    __shared__ int32_t label[HN_SUPPORT_ROWS];
    __shared__ short next[HN_SUPPORT_ROWS]; /* the next row of the class; -1: none */
    const int64_t episode = blockIdx.x / (unsigned)a.parts, first = episode * a.rows;
    const int part = (int)(blockIdx.x - episode * a.parts), lane = (int)threadIdx.x % kWarp;
    for (int i = (int)threadIdx.x; i < a.rows; i += kThreads) label[i] = a.labels[first + i];
    __syncthreads();
    for (int i = (int)threadIdx.x; i < a.rows; i += kThreads) {
        int k = i + 1;
        while (k < a.rows && label[k] != label[i]) k++;
        next[i] = (short)(k < a.rows ? k : -1);
    }
    __syncthreads();
    for (int j = part * kWarps + (int)threadIdx.x / kWarp; j < a.rows; j += a.parts * kWarps) {
        const bool padding = label[j] == HN_LABEL_IGNORED; /* the same for the warp, as below */
        U *const u = a.u + (first + j) * a.ld_u;
        for (int64_t c = (padding ? 0 : 2 * a.features + 1) + lane; c < a.cols; c += kWarp)
            u[c] = hn_round<U>(0.0f);
        int k = 0;
        while (!padding && label[k] != label[j]) k++;
        if (!padding && k == j) run_class<kWidth>(a, first, j, next);
    }
}

template <class F, class U>
void launch(const hn_support_context_args *a, cudaStream_t stream)
{
    const int64_t rows = a->rows / a->episodes, parts = (rows + kBlockRows - 1) / kBlockRows;
    const Operands<F, U> o = {
        (const F *)a->f, a->labels, (U *)a->u, a->features, hn_support_context_cols(a->features),
        a->ld_f,         a->ld_u,   (int)rows, (int)parts};
    const bool packs = a->features % HN_VEC == 0 && hn_vectors_fit(a->f, a->ld_f, a->f_dtype) &&
                       hn_vectors_fit(a->u, a->ld_u, a->u_dtype);
    const unsigned grid = hn_grid(a->episodes * parts, 1, INT32_MAX);
    if (packs)
        context_kernel<HN_VEC><<<grid, kThreads, 0, stream>>>(o);
    else
        context_kernel<1><<<grid, kThreads, 0, stream>>>(o);
}

} // namespace

hn_status hn_support_context_cuda(const hn_support_context_args *a, hn_stream stream)
{
    HN_TRY(hn_support_context_check(a));
    HN_CUDA_REAL(a->f_dtype, F, HN_CUDA_REAL(a->u_dtype, U, launch<F, U>(a, stream)));
    return HN_CUDA_LAUNCHED("support_context");
}
