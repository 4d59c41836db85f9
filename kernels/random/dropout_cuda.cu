/* A thread takes the four columns of one Philox block, all in one access where the rows allow. */
#include "kernels/random/cuda_dropout.h"

namespace {

constexpr int kThreads = 256;
constexpr int kVec = 4;                   /* columns a thread, words a Philox block */
constexpr int64_t kMaxBlocks = 1ll << 20; /* blocks loop over what is left */

template <class T>
struct alignas(kVec * sizeof(T)) Quad {
    T v[kVec];
};

/* Dropped elements are 0 whatever x is; a product with 0 would keep NaN and the sign. */
template <class T>
__device__ __forceinline__ T drop(T x, float mask)
{
    return hn_round<T>(mask != 0.0f ? hn_f32(x) * mask : 0.0f);
}

/* x and y may be the same memory. */
template <class T, bool kDrop, bool kQuads>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(const T *x, T *y, int64_t rows, int64_t cols, int64_t ld_x, int64_t ld_y,
                   hn_dropout_launch key)
{
    hn_dropout_now now = {};
    if (kDrop) now = hn_dropout_begin(key);
    const int64_t quads = (cols + kVec - 1) / kVec, n = rows * quads;
    for (int64_t q = (int64_t)blockIdx.x * kThreads + threadIdx.x; q < n;
         q += (int64_t)gridDim.x * kThreads) {
        const int64_t i = q / quads, block = q % quads, col = block * kVec;
        const T *const from = x + i * ld_x + col;
        T *const to = y + i * ld_y + col;
        float mask[kVec] = {1, 1, 1, 1};
        if (kDrop) hn_dropout_mask4(now, i, block, mask);
        if (kQuads && col + kVec <= cols) {
            Quad<T> v = *reinterpret_cast<const Quad<T> *>(from);
#pragma unroll
            for (int j = 0; j < kVec; j++)
                if (kDrop) v.v[j] = drop(v.v[j], mask[j]);
            *reinterpret_cast<Quad<T> *>(to) = v;
            continue;
        }
#pragma unroll
        for (int j = 0; j < kVec; j++)
            if (col + j < cols) to[j] = kDrop ? drop(from[j], mask[j]) : from[j];
    }
}

template <class T>
bool in_quads(const void *p, int64_t ld)
{
    return reinterpret_cast<uintptr_t>(p) % sizeof(Quad<T>) == 0 && ld % kVec == 0;
}

template <class T, bool kDrop>
void launch(const hn_dropout_args *a, cudaStream_t stream)
{
    const bool quads = in_quads<T>(a->x, a->ld_x) && in_quads<T>(a->y, a->ld_y);
    const auto kernel = quads ? dropout_kernel<T, kDrop, true> : dropout_kernel<T, kDrop, false>;
    const int64_t n = a->rows * ((a->cols + kVec - 1) / kVec);
    kernel<<<hn_grid(n, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
        static_cast<const T *>(a->x), static_cast<T *>(a->y), a->rows, a->cols, a->ld_x, a->ld_y,
        hn_dropout_launch_of(&a->key));
}

} // namespace

hn_status hn_dropout_cuda(const hn_dropout_args *a, hn_stream stream)
{
    HN_TRY(hn_dropout_check(a));
    if (a->key.p > 0.0)
        HN_CUDA_REAL(a->dtype, T, launch<T, true>(a, stream));
    else if (a->x != a->y)
        HN_CUDA_REAL(a->dtype, T, launch<T, false>(a, stream));
    return HN_CUDA_LAUNCHED("dropout");
}
