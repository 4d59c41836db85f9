/* Many matrices in one launch, of a fixed number of thread blocks: each finds from the spans how
 * many chunks of values there are, and takes every gridDim-th. A chunk follows the order of the
 * span, 8 neighbours in a row of a block a thread where everything is aligned, else one by one,
 * neighbours in neighbouring threads. */
#include "kernels/sparse/block_store.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kSteps = 4; /* accesses of a thread to w in a chunk, all under way together */
constexpr int kPerSm = 4; /* blocks on a multiprocessor */
constexpr int kBlocks = 132 * kPerSm; /* of an H200 */

enum Action { kStore, kKeep, kRestore };

struct Matrix {
    void *w;
    uint32_t ld, across; /* of w; blocks side by side */
    uint32_t br, bc;     /* of a block */
    hn_divisor by_bc, by_across;
};

/* A kernel's arguments are at most 32764 bytes: the whole list travels with the launch. */
struct Matrices {
    const hn_sparse_span *spans; /* of all of them, in their order */
    const int32_t *block;
    const float *delta;
    void *frozen;
    int n;
    /* Beside each other because neighbouring threads read them: values of a block; and kAligned
     * where 16-byte accesses are allowed if the span begins on 8 values. */
    uint32_t size[HN_BLOCK_STORE_MANY];
    Matrix matrix[HN_BLOCK_STORE_MANY];
};
static_assert(sizeof(Matrices) <= 32764, "arguments of a launch");
static_assert(HN_BLOCK_STORE_MANY <= kThreads, "a thread a matrix");

constexpr uint32_t kAligned = 1u << 31;

__host__ __device__ constexpr int64_t chunk_of(bool wide)
{
    return kSteps * kThreads * (wide ? HN_VEC : 1);
}

/* What there is to do, in shared memory. */
struct Work {
    hn_sparse_span span[HN_BLOCK_STORE_MANY];
    uint32_t end[HN_BLOCK_STORE_MANY]; /* chunks of this matrix and those before it */
};

__device__ __forceinline__ bool is_wide(const Matrices &a, int i, const hn_sparse_span &s)
{
    return (a.size[i] & kAligned) != 0 && s.first_value % HN_VEC == 0;
}

__device__ __forceinline__ void find_work(const Matrices &a, Work *work)
{
    __shared__ uint32_t warps[kThreads / 32];
    const int i = threadIdx.x;
    uint32_t chunks = 0;
    if (i < a.n) {
        const hn_sparse_span s = a.spans[i];
        const int64_t chunk = chunk_of(is_wide(a, i, s));
        work->span[i] = s;
        chunks =
            (uint32_t)(((int64_t)s.count * (int64_t)(a.size[i] & ~kAligned) + chunk - 1) / chunk);
    }
    for (int d = 1; d < 32; d *= 2) {
        const uint32_t before = __shfl_up_sync(0xffffffffu, chunks, d);
        if (i % 32 >= d) chunks += before;
    }
    if (i % 32 == 31) warps[i / 32] = chunks;
    __syncthreads();
    for (int w = 0; w < i / 32; w++) chunks += warps[w];
    if (i < a.n) work->end[i] = chunks;
    __syncthreads();
}

/* The matrix of chunk c: the first one whose end is behind it. */
__device__ __forceinline__ int matrix_of(const Matrices &a, const Work &work, uint32_t c)
{
    int low = 0, high = a.n - 1;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (work.end[middle] > c)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

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

/* Values begin .. begin + n of a span, n from 1 to a chunk. All loads go out before the first
 * store: threads behind the end load the last values once more and store nothing. */
template <class T, Action kAction, int kWidth>
__device__ __forceinline__ void chunk(const Matrices &a, const Matrix &m, const hn_sparse_span &s,
                                      int64_t begin, uint32_t n)
{
    const int64_t values = (int64_t)m.br * m.bc, number = values > 1 ? begin / values : begin;
    const uint32_t before = (uint32_t)(begin - number * values); /* of that block */
    T *const w = static_cast<T *>(m.w);
    T *const frozen = static_cast<T *>(a.frozen) + s.first_value + begin;
    const float *const delta = a.delta + s.first_value + begin;
    int64_t place[kSteps];
    Few<T, kWidth> few[kSteps];
#pragma unroll
    for (int k = 0; k < kSteps; k++) {
        const uint32_t own = (k * kThreads + threadIdx.x) * kWidth, i = min(own, n - kWidth);
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
__global__ void __launch_bounds__(kThreads, kPerSm)
    block_store_kernel(const __grid_constant__ Matrices a)
{
    __shared__ Work work;
    find_work(a, &work);
    const uint32_t chunks = work.end[a.n - 1];
    for (uint32_t c = blockIdx.x; c < chunks; c += gridDim.x) {
        const int i = matrix_of(a, work, c);
        const Matrix &m = a.matrix[i];
        const hn_sparse_span s = work.span[i];
        const bool wide = is_wide(a, i, s);
        const int64_t most = chunk_of(wide);
        const int64_t begin = (int64_t)(c - (i > 0 ? work.end[i - 1] : 0)) * most;
        const int64_t left = (int64_t)s.count * m.br * m.bc - begin;
        const uint32_t n = (uint32_t)(left < most ? left : most);
        if (wide)
            chunk<T, kAction, HN_VEC>(a, m, s, begin, n);
        else
            chunk<T, kAction, 1>(a, m, s, begin, n);
    }
}

/* ---- launches ---- */

/* The most chunks that the span of a matrix may have. */
int64_t chunks_of(const hn_block_store_args *a)
{
    const int64_t chunk = chunk_of(false); /* the span may begin anywhere */
    return (a->capacity * hn_block_values(a->shape) + chunk - 1) / chunk;
}

void add_matrix(const hn_block_store_args *a, Matrices *to)
{
    const int64_t across = a->in / a->shape.bc;
    const bool aligned = a->shape.bc % HN_VEC == 0 && hn_vectors_fit(a->w, a->ld_w, a->dtype) &&
                         hn_vectors_fit(a->frozen, 0, a->dtype) &&
                         hn_vectors_fit(a->delta, 0, HN_F32);
    to->size[to->n] = (uint32_t)hn_block_values(a->shape) | (aligned ? kAligned : 0);
    to->matrix[to->n++] = {a->w,
                           (uint32_t)a->ld_w,
                           (uint32_t)across,
                           (uint32_t)a->shape.br,
                           (uint32_t)a->shape.bc,
                           hn_divisor_of(a->shape.bc),
                           hn_divisor_of(across)};
}

bool same_pool(const hn_block_store_args *a, const hn_block_store_args *b)
{
    return a->block == b->block && a->delta == b->delta && a->frozen == b->frozen &&
           a->dtype == b->dtype;
}

template <Action kAction>
hn_status run(const hn_block_store_args *a, int64_t n, cudaStream_t stream)
{
    for (int64_t i = 0; i < n; i++) {
        HN_TRY(hn_block_store_check(&a[i]));
        if (kAction == kStore) HN_TRY(hn_check_pointer("block_store", "delta", a[i].delta));
        if (chunks_of(&a[i]) > INT32_MAX)
            return HN_FAIL(HN_ERR_SHAPE, "block_store: a capacity of %lld blocks",
                           (long long)a[i].capacity);
    }
    for (int64_t i = 0; i < n;) {
        const hn_block_store_args *const first = &a[i];
        Matrices m = {first->span, first->block, first->delta, first->frozen, 0, {}, {}};
        int64_t chunks = 0;
        while (i < n && m.n < HN_BLOCK_STORE_MANY && same_pool(first, &a[i]) &&
               a[i].span == first->span + m.n && chunks + chunks_of(&a[i]) <= INT32_MAX) {
            chunks += chunks_of(&a[i]);
            add_matrix(&a[i++], &m);
        }
        const unsigned grid = hn_grid(chunks, 1, kBlocks);
        HN_CUDA_REAL(first->dtype, T,
                     block_store_kernel<T, kAction><<<grid, kThreads, 0, stream>>>(m));
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
