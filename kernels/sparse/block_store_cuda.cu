/* Many matrices in one launch: a block of threads takes kChunk values that follow each other in the
 * span of one matrix, 8 neighbours in a row of a block a thread where everything is aligned, else
 * one by one, neighbours in neighbouring threads. The grid covers capacities; behind the end of a
 * span there is nothing to do. */
#include "kernels/sparse/block_store.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 8 * kThreads;

enum Action { kStore, kKeep, kRestore };

struct Matrix {
    void *w;
    const hn_sparse_span *span;
    uint32_t ld, across; /* of w; blocks side by side */
    uint32_t br, bc;     /* of a block */
    hn_divisor by_bc, by_across;
    uint32_t end;  /* thread blocks of this matrix and those before it */
    uint32_t wide; /* 16-byte accesses are allowed where the span begins on 8 values */
};

/* A kernel's arguments are at most 4 KiB: the whole list travels with the launch. */
struct Matrices {
    const int32_t *block;
    const float *delta;
    void *frozen;
    int n;
    Matrix matrix[HN_BLOCK_STORE_MANY];
};
static_assert(sizeof(Matrices) <= 4096, "arguments of a launch");

/* Where value i of a span lies in w, counted from the first value of block number `number`. */
__device__ __forceinline__ int64_t place_in_w(const Matrix &m, const int32_t *block, int64_t number,
                                              uint32_t i)
{
    const uint32_t values = m.br * m.bc, ahead = values > 1 ? i / values : i;
    const uint32_t id = (uint32_t)block[number + ahead], in_block = i - ahead * values;
    const uint32_t down = hn_divide(id, m.by_across), right = id - down * m.across;
    const uint32_t row = hn_divide(in_block, m.by_bc), col = in_block - row * m.bc;
    return ((int64_t)down * m.br + row) * m.ld + (int64_t)right * m.bc + col;
}

/* One value, or 8 neighbours, as they are stored. */
template <class T, int kWidth>
struct Few {
    hn_pack<T> v;
    __device__ __forceinline__ void load(const T *p) { v = hn_load_pack(p); }
    __device__ __forceinline__ void store(T *p) const { hn_store_pack(p, v); }
    __device__ __forceinline__ void round(const float (&f)[kWidth]) { v = hn_pack_of<T>(f); }
};

template <class T>
struct Few<T, 1> {
    T v;
    __device__ __forceinline__ void load(const T *p) { v = *p; }
    __device__ __forceinline__ void store(T *p) const { *p = v; }
    __device__ __forceinline__ void round(const float (&f)[1]) { v = hn_round<T>(f[0]); }
};

/* Values begin .. begin + n of a span, n at most kChunk. All loads go out before the first store.
 */
template <class T, Action kAction, int kWidth>
__device__ __forceinline__ void chunk(const Matrices &a, const Matrix &m, const hn_sparse_span &s,
                                      int64_t begin, int64_t n)
{
    constexpr int kSteps = HN_VEC / kWidth;
    const int64_t values = (int64_t)m.br * m.bc, number = begin / values;
    const uint32_t before = (uint32_t)(begin - number * values); /* of that block */
    T *const w = static_cast<T *>(m.w);
    T *const frozen = static_cast<T *>(a.frozen) + s.first_value + begin;
    const float *const delta = a.delta + s.first_value + begin;
    int64_t place[kSteps];
    Few<T, kWidth> few[kSteps];
#pragma unroll
    for (int k = 0; k < kSteps; k++) {
        const uint32_t i = (k * kThreads + threadIdx.x) * kWidth;
        if (i >= n) continue;
        place[k] = place_in_w(m, a.block + s.first_block, number, before + i);
        if (kAction == kStore) {
            float v[kWidth], d[kWidth];
            hn_load_whole<kWidth>(frozen + i, v);
            hn_load_whole<kWidth>(delta + i, d);
            for (int e = 0; e < kWidth; e++) v[e] += d[e];
            few[k].round(v);
        } else {
            few[k].load(kAction == kKeep ? w + place[k] : frozen + i);
        }
    }
#pragma unroll
    for (int k = 0; k < kSteps; k++) {
        const uint32_t i = (k * kThreads + threadIdx.x) * kWidth;
        if (i < n) few[k].store(kAction == kKeep ? frozen + i : w + place[k]);
    }
}

template <class T, Action kAction>
__global__ void __launch_bounds__(kThreads) block_store_kernel(const __grid_constant__ Matrices a)
{
    int low = 0, high = a.n - 1; /* the first one whose end is behind this block */
    while (low < high) {
        const int middle = (low + high) / 2;
        if (a.matrix[middle].end > blockIdx.x)
            high = middle;
        else
            low = middle + 1;
    }
    const Matrix &m = a.matrix[low];
    const hn_sparse_span s = *m.span;
    const int64_t begin = (int64_t)(blockIdx.x - (low > 0 ? a.matrix[low - 1].end : 0)) * kChunk;
    const int64_t left = (int64_t)s.count * m.br * m.bc - begin;
    if (left <= 0) return;
    const int64_t n = left < kChunk ? left : kChunk;
    if (m.wide && s.first_value % HN_VEC == 0)
        chunk<T, kAction, HN_VEC>(a, m, s, begin, n);
    else
        chunk<T, kAction, 1>(a, m, s, begin, n);
}

/* False where there would be too many thread blocks. */
bool add_matrix(const hn_block_store_args *a, Matrices *to)
{
    const int64_t across = a->in / a->shape.bc;
    const int64_t before = to->n > 0 ? to->matrix[to->n - 1].end : 0;
    const int64_t end = before + (a->capacity * hn_block_values(a->shape) + kChunk - 1) / kChunk;
    if (end > INT32_MAX) return false;
    const bool wide = a->shape.bc % HN_VEC == 0 && hn_vectors_fit(a->w, a->ld_w, a->dtype) &&
                      hn_vectors_fit(a->frozen, 0, a->dtype) && hn_vectors_fit(a->delta, 0, HN_F32);
    to->matrix[to->n++] = {a->w,
                           a->span,
                           (uint32_t)a->ld_w,
                           (uint32_t)across,
                           (uint32_t)a->shape.br,
                           (uint32_t)a->shape.bc,
                           hn_divisor_of(a->shape.bc),
                           hn_divisor_of(across),
                           (uint32_t)end,
                           wide};
    return true;
}

bool same_pool(const hn_block_store_args *a, const hn_block_store_args *b)
{
    return a->block == b->block && a->delta == b->delta && a->frozen == b->frozen &&
           a->dtype == b->dtype;
}

template <Action kAction>
void launch(const Matrices &m, hn_dtype dtype, cudaStream_t stream)
{
    const unsigned grid = m.matrix[m.n - 1].end;
    HN_CUDA_REAL(dtype, T, block_store_kernel<T, kAction><<<grid, kThreads, 0, stream>>>(m));
}

template <Action kAction>
hn_status run(const hn_block_store_args *a, int64_t n, cudaStream_t stream)
{
    for (int64_t i = 0; i < n; i++) {
        HN_TRY(hn_block_store_check(&a[i]));
        if (kAction == kStore) HN_TRY(hn_check_pointer("block_store", "delta", a[i].delta));
    }
    for (int64_t i = 0; i < n;) {
        const hn_block_store_args *const first = &a[i];
        Matrices m = {first->block, first->delta, first->frozen, 0, {}};
        while (i < n && m.n < HN_BLOCK_STORE_MANY && same_pool(first, &a[i]) &&
               add_matrix(&a[i], &m))
            i++;
        if (m.n == 0)
            return HN_FAIL(HN_ERR_SHAPE, "block_store: a capacity of %lld blocks",
                           (long long)first->capacity);
        launch<kAction>(m, first->dtype, stream);
    }
    return HN_CUDA_LAUNCHED("block_store");
}

} // namespace

hn_status hn_block_store_cuda(const hn_block_store_args *a, int64_t n, hn_stream stream)
{
    return run<kStore>(a, n, stream);
}

hn_status hn_block_keep_cuda(const hn_block_store_args *a, int64_t n, hn_stream stream)
{
    return run<kKeep>(a, n, stream);
}

hn_status hn_block_restore_cuda(const hn_block_store_args *a, int64_t n, hn_stream stream)
{
    return run<kRestore>(a, n, stream);
}
