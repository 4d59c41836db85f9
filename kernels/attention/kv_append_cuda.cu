/* A thread copies one 16-byte piece of a row where everything lies on such boundaries, else one
 * element; keys first, then values. */
#include "kernels/attention/kv_append.h"
#include "runtime/base/cuda_math.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 20; /* then a thread copies several pieces */

/* x [batch * tokens, cols] into its cache; all sizes in pieces of type V. */
template <class V>
struct Copy {
    const V *x;
    V *cache;
    int64_t ld_x, ld_cache, cols;
};

template <class V>
__device__ __forceinline__ void copy_piece(const Copy<V> &c, const hn_kv_append_args &a, int64_t at)
{
    const int64_t row = at / c.cols, col = at % c.cols, b = row / a.tokens;
    const int64_t position = a.positions[b] + row % a.tokens;
    if (position < 0 || position >= a.capacity) return; /* a broken promise stays in its cache */
    c.cache[(b * a.capacity + position) * c.ld_cache + col] = c.x[row * c.ld_x + col];
}

template <class V>
__global__ void __launch_bounds__(kThreads)
    kv_append(const hn_kv_append_args a, const Copy<V> k, const Copy<V> v)
{
    const int64_t rows = a.batch * a.tokens, step = (int64_t)gridDim.x * kThreads;
    for (int64_t at = blockIdx.x * (int64_t)kThreads + threadIdx.x; at < rows * (k.cols + v.cols);
         at += step) {
        if (at < rows * k.cols)
            copy_piece(k, a, at);
        else
            copy_piece(v, a, at - rows * k.cols);
    }
}

/* per: elements of the dtype in a V. */
template <class V>
Copy<V> copy_of(const void *x, void *cache, int64_t ld_x, int64_t ld_cache, int64_t cols,
                int64_t per)
{
    return {(const V *)x, (V *)cache, ld_x / per, ld_cache / per, cols / per};
}

template <class V>
void launch(const hn_kv_append_args *a, int64_t per, hn_stream stream)
{
    const Copy<V> k = copy_of<V>(a->k, a->k_cache, a->ld_k, a->ld_k_cache, a->k_cols, per);
    const Copy<V> v = copy_of<V>(a->v, a->v_cache, a->ld_v, a->ld_v_cache, a->v_cols, per);
    const unsigned grid = hn_grid(a->batch * a->tokens * (k.cols + v.cols), kThreads, kMaxBlocks);
    kv_append<V><<<grid, kThreads, 0, stream>>>(*a, k, v);
}

bool in_pieces(const hn_kv_append_args *a, int64_t per)
{
    const int64_t sizes = a->ld_k | a->ld_v | a->ld_k_cache | a->ld_v_cache | a->k_cols | a->v_cols;
    const uintptr_t pointers =
        (uintptr_t)a->k | (uintptr_t)a->v | (uintptr_t)a->k_cache | (uintptr_t)a->v_cache;
    return sizes % per == 0 && pointers % 16 == 0; /* both are powers of two */
}

} // namespace

hn_status hn_kv_append_cuda(const hn_kv_append_args *a, hn_stream stream)
{
    HN_TRY(hn_kv_append_check(a));
    const int64_t per = 16 / (int64_t)hn_dtype_size(a->dtype);
    if (in_pieces(a, per))
        launch<uint4>(a, per, stream);
    else if (a->dtype == HN_F32)
        launch<uint32_t>(a, 1, stream);
    else
        launch<uint16_t>(a, 1, stream);
    return HN_CUDA_LAUNCHED("kv_append");
}
