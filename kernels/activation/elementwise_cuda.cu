/* A thread takes 8 neighbouring values of a row (1 where alignment forbids 16-byte accesses): it
 * reads all its inputs, then writes, so that outputs may lie on inputs. */
#include "kernels/activation/elementwise.h"

#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 20; /* then each thread takes several spans */

struct Add {
    __device__ float operator()(float a, float b) const { return a + b; }
};
struct Mul {
    __device__ float operator()(float a, float b) const { return a * b; }
};

template <class T, int kWidth, class Op>
__global__ void __launch_bounds__(kThreads)
    binary_kernel(const T *a, const T *b, T *y, int64_t rows, int64_t cols, int64_t ld_a,
                  int64_t ld_b, int64_t ld_y, Op op)
{
    const int64_t spans = (cols + kWidth - 1) / kWidth, step = (int64_t)gridDim.x * kThreads;
    for (int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x; i < rows * spans; i += step) {
        const int64_t row = i / spans, col = i % spans * kWidth, n = cols - col;
        float u[kWidth], v[kWidth];
        hn_load_span<kWidth>(a + row * ld_a + col, n, u);
        hn_load_span<kWidth>(b + row * ld_b + col, n, v);
#pragma unroll
        for (int k = 0; k < kWidth; k++) u[k] = op(u[k], v[k]);
        hn_store_span<kWidth>(y + row * ld_y + col, n, u);
    }
}

/* y = factor * a in another type; factor 1 changes no bit of a number. */
template <class T, class U, int kWidth>
__global__ void __launch_bounds__(kThreads)
    scale_kernel(const T *a, U *y, int64_t rows, int64_t cols, int64_t ld_a, int64_t ld_y,
                 float factor)
{
    const int64_t spans = (cols + kWidth - 1) / kWidth, step = (int64_t)gridDim.x * kThreads;
    for (int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x; i < rows * spans; i += step) {
        const int64_t row = i / spans, col = i % spans * kWidth, n = cols - col;
        float u[kWidth];
        hn_load_span<kWidth>(a + row * ld_a + col, n, u);
#pragma unroll
        for (int k = 0; k < kWidth; k++) u[k] *= factor;
        hn_store_span<kWidth>(y + row * ld_y + col, n, u);
    }
}

unsigned blocks(int64_t rows, int64_t cols, int64_t width)
{
    return hn_grid(rows * ((cols + width - 1) / width), kThreads, kMaxBlocks);
}

template <class T, int kWidth, class Op>
void launch_binary(const hn_binary_args *a, cudaStream_t stream, Op op)
{
    binary_kernel<T, kWidth><<<blocks(a->rows, a->cols, kWidth), kThreads, 0, stream>>>(
        (const T *)a->a, (const T *)a->b, (T *)a->y, a->rows, a->cols, a->ld_a, a->ld_b, a->ld_y,
        op);
}

template <class Op>
hn_status binary(const hn_binary_args *a, cudaStream_t stream, Op op)
{
    HN_TRY(hn_binary_check(a));
    if (hn_vectors_fit(a->a, a->ld_a, a->dtype) && hn_vectors_fit(a->b, a->ld_b, a->dtype) &&
        hn_vectors_fit(a->y, a->ld_y, a->dtype))
        HN_CUDA_REAL(a->dtype, T, launch_binary<T, HN_VEC>(a, stream, op));
    else
        HN_CUDA_REAL(a->dtype, T, launch_binary<T, 1>(a, stream, op));
    return HN_OK;
}

template <class T, class U>
void launch_scale(const hn_cast_args *a, float factor, cudaStream_t stream)
{
    const bool wide =
        hn_vectors_fit(a->a, a->ld_a, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->y_dtype);
    const T *const from = (const T *)a->a;
    U *const to = (U *)a->y;
    if (wide)
        scale_kernel<T, U, HN_VEC><<<blocks(a->rows, a->cols, HN_VEC), kThreads, 0, stream>>>(
            from, to, a->rows, a->cols, a->ld_a, a->ld_y, factor);
    else
        scale_kernel<T, U, 1><<<blocks(a->rows, a->cols, 1), kThreads, 0, stream>>>(
            from, to, a->rows, a->cols, a->ld_a, a->ld_y, factor);
}

template <class T>
void launch_cast(const hn_cast_args *a, cudaStream_t stream)
{
    if (a->y_dtype == HN_F16)
        launch_scale<T, __half>(a, 1.0f, stream);
    else
        HN_CUDA_REAL(a->y_dtype, U, launch_scale<T, U>(a, 1.0f, stream));
}

/* ---- many casts in one launch ---- */

constexpr int64_t kSpan = 8 * kThreads; /* elements of a block: a span of 8 a thread */

struct Cast {
    const float *a;
    void *y;
    int32_t rows, cols, ld_a, ld_y;
    uint32_t end;  /* blocks of this one and those before it */
    uint32_t wide; /* 16-byte accesses are allowed */
};

/* A kernel's arguments are at most 4 KiB: the whole list travels with the launch. */
struct Casts {
    int n;
    Cast cast[HN_CAST_MANY];
};
static_assert(sizeof(Casts) <= 4096, "arguments of a launch");

template <class U, int kWidth>
__device__ __forceinline__ void cast_block(const Cast &c, int64_t block)
{
    const int64_t spans = (c.cols + kWidth - 1) / kWidth;
    constexpr int64_t kSpans = kSpan / kWidth; /* of a block */
    for (int64_t i = threadIdx.x; i < kSpans; i += kThreads) {
        const int64_t at = block * kSpans + i, row = at / spans, col = at % spans * kWidth;
        if (row >= c.rows) return;
        float u[kWidth];
        hn_load_span<kWidth>(c.a + row * c.ld_a + col, c.cols - col, u);
        hn_store_span<kWidth>(static_cast<U *>(c.y) + row * c.ld_y + col, c.cols - col, u);
    }
}

template <class U>
__global__ void __launch_bounds__(kThreads) cast_many_kernel(const __grid_constant__ Casts casts)
{
    int low = 0, high = casts.n - 1; /* the first one whose end is behind this block */
    while (low < high) {
        const int middle = (low + high) / 2;
        if (casts.cast[middle].end > blockIdx.x)
            high = middle;
        else
            low = middle + 1;
    }
    const Cast &c = casts.cast[low];
    const int64_t block = blockIdx.x - (low > 0 ? casts.cast[low - 1].end : 0);
    if (c.wide)
        cast_block<U, HN_VEC>(c, block);
    else
        cast_block<U, 1>(c, block);
}

/* False where there would be too many blocks. Every dimension is below 2^31 (hn_cast_check). */
bool add_cast(const hn_cast_args *a, Casts *to)
{
    const bool wide =
        hn_vectors_fit(a->a, a->ld_a, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->y_dtype);
    const int64_t width = wide ? HN_VEC : 1, spans = a->rows * ((a->cols + width - 1) / width);
    const int64_t before = to->n > 0 ? to->cast[to->n - 1].end : 0;
    const int64_t end = before + (spans * width + kSpan - 1) / kSpan;
    if (end > INT32_MAX) return false;
    to->cast[to->n++] = {static_cast<const float *>(a->a),
                         a->y,
                         (int32_t)a->rows,
                         (int32_t)a->cols,
                         (int32_t)a->ld_a,
                         (int32_t)a->ld_y,
                         (uint32_t)end,
                         wide};
    return true;
}

/* ---- many pieces become zero in one launch ---- */

constexpr int64_t kZeroBlocks = 2048; /* of a piece: then a thread takes several words */

struct Pieces {
    hn_zero_piece piece[HN_ZERO_MANY];
};

/* A piece a row of the grid. */
__global__ void __launch_bounds__(kThreads) zero_many_kernel(const __grid_constant__ Pieces pieces)
{
    uint32_t *const p = static_cast<uint32_t *>(pieces.piece[blockIdx.y].p);
    const int64_t words = (int64_t)(pieces.piece[blockIdx.y].bytes / 4);
    const int64_t step = (int64_t)gridDim.x * kThreads;
    for (int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x; i < words; i += step) p[i] = 0;
}

} // namespace

hn_status hn_add_cuda(const hn_binary_args *a, hn_stream stream)
{
    HN_TRY(binary(a, stream, Add{}));
    return HN_CUDA_LAUNCHED("add");
}

hn_status hn_mul_cuda(const hn_binary_args *a, hn_stream stream)
{
    HN_TRY(binary(a, stream, Mul{}));
    return HN_CUDA_LAUNCHED("mul");
}

hn_status hn_scale_cuda(const hn_scale_args *a, hn_stream stream)
{
    HN_TRY(hn_scale_check(a));
    const hn_cast_args c = {a->a, a->y, a->rows, a->cols, a->ld_a, a->ld_y, a->dtype, a->dtype};
    HN_CUDA_REAL(a->dtype, T, launch_scale<T, T>(&c, a->factor, stream));
    return HN_CUDA_LAUNCHED("scale");
}

hn_status hn_cast_cuda(const hn_cast_args *a, hn_stream stream)
{
    HN_TRY(hn_cast_check(a));
    if (a->dtype == HN_F16)
        launch_cast<__half>(a, stream);
    else
        HN_CUDA_REAL(a->dtype, T, launch_cast<T>(a, stream));
    return HN_CUDA_LAUNCHED("cast");
}

hn_status hn_cast_many_cuda(const hn_cast_args *a, int64_t n, hn_stream stream)
{
    Casts casts = {};
    bool fit = true;
    if (n < 1 || n > HN_CAST_MANY)
        return HN_FAIL(HN_ERR_SHAPE, "%lld casts, 1 to %d", (long long)n, HN_CAST_MANY);
    for (int64_t i = 0; i < n; i++) {
        HN_TRY(hn_cast_check(&a[i]));
        fit = fit && a[i].dtype == HN_F32 && a[i].y_dtype == a[0].y_dtype &&
              a[i].y_dtype != HN_F16 && add_cast(&a[i], &casts);
    }
    for (int64_t i = 0; i < n && !fit; i++) HN_TRY(hn_cast_cuda(&a[i], stream));
    if (!fit) return HN_OK;
    const unsigned grid = casts.cast[n - 1].end;
    HN_CUDA_REAL(a->y_dtype, U, cast_many_kernel<U><<<grid, kThreads, 0, stream>>>(casts));
    return HN_CUDA_LAUNCHED("cast_many");
}

hn_status hn_zero_cuda(void *p, int64_t rows, size_t row_bytes, size_t pitch_bytes,
                       hn_stream stream)
{
    if (rows == 1 || row_bytes == pitch_bytes)
        return HN_CUDA(cudaMemsetAsync(p, 0, (size_t)rows * row_bytes, stream));
    return HN_CUDA(cudaMemset2DAsync(p, pitch_bytes, 0, row_bytes, (size_t)rows, stream));
}

hn_status hn_zero_many_cuda(const hn_zero_piece *a, int64_t n, hn_stream stream)
{
    Pieces pieces = {};
    bool words = true;
    size_t most = 0;
    if (n < 1 || n > HN_ZERO_MANY)
        return HN_FAIL(HN_ERR_SHAPE, "%lld pieces, 1 to %d", (long long)n, HN_ZERO_MANY);
    for (int64_t i = 0; i < n; i++) {
        pieces.piece[i] = a[i];
        words = words && a[i].bytes % 4 == 0 && (uintptr_t)a[i].p % 4 == 0;
        if (a[i].bytes > most) most = a[i].bytes;
    }
    for (int64_t i = 0; i < n && !words; i++)
        HN_TRY(hn_zero_cuda(a[i].p, 1, a[i].bytes, 0, stream));
    if (!words) return HN_OK;
    const dim3 grid(hn_grid((int64_t)(most / 4), kThreads, kZeroBlocks), (unsigned)n);
    zero_many_kernel<<<grid, kThreads, 0, stream>>>(pieces);
    return HN_CUDA_LAUNCHED("zero_many");
}
