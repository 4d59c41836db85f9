/* A thread turns 8 neighbouring pairs of a head, or one where alignment or `interleaved` forbid
 * 16-byte accesses; further threads copy the columns that pass through. */
#include "kernels/embed/rope.h"

#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 1 << 20; /* then a thread takes several spans */

template <class T>
struct Turn {
    const T *x;
    T *y;
    const int32_t *position;
    const float *cos, *sin;
    int64_t rows, heads, head_dim, half; /* half: pairs that turn */
    int64_t ld_x, ld_y, ld_table;
    bool interleaved;
    float sign; /* -1: turn back */
};

/* Pairs k .. k + n of the head at x, y; each value is read and then written by one thread: y may
 * be x. */
template <class T, int kWidth>
__device__ __forceinline__ void turn_span(const Turn<T> &a, const T *x, T *y, int64_t table,
                                          int64_t k)
{
    const int64_t n = a.half - k;
    const int64_t first = a.interleaved ? 2 * k : k;
    const int64_t second = a.interleaved ? 2 * k + 1 : k + a.half;
    float u[kWidth], v[kWidth], c[kWidth], s[kWidth];
    hn_load_span<kWidth>(x + first, n, u);
    hn_load_span<kWidth>(x + second, n, v);
    hn_load_span<kWidth>(a.cos + table + k, n, c);
    hn_load_span<kWidth>(a.sin + table + k, n, s);
#pragma unroll
    for (int j = 0; j < kWidth; j++) {
        const float sine = a.sign * s[j], turned = u[j] * c[j] - v[j] * sine;
        v[j] = v[j] * c[j] + u[j] * sine;
        u[j] = turned;
    }
    hn_store_span<kWidth>(y + first, n, u);
    hn_store_span<kWidth>(y + second, n, v);
}

/* A head is turn_spans spans of pairs, then spans of columns that pass through. */
template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(const Turn<T> a, int64_t turn_spans, int64_t spans)
{
    const int64_t n = a.rows * a.heads * spans, step = (int64_t)gridDim.x * kThreads;
    for (int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x; i < n; i += step) {
        const int64_t head = i / spans, span = i - head * spans;
        const int64_t row = head / a.heads, col = (head - row * a.heads) * a.head_dim;
        const T *const x = a.x + row * a.ld_x + col;
        T *const y = a.y + row * a.ld_y + col;
        if (span < turn_spans) {
            turn_span<T, kWidth>(a, x, y, a.position[row] * a.ld_table, span * kWidth);
        } else {
            const int64_t at = 2 * a.half + (span - turn_spans) * kWidth;
            float u[kWidth];
            hn_load_span<kWidth>(x + at, a.head_dim - at, u);
            hn_store_span<kWidth>(y + at, a.head_dim - at, u);
        }
    }
}

template <class T, int kWidth>
void launch_width(const Turn<T> &a, cudaStream_t stream)
{
    const int64_t rest = a.x == a.y ? 0 : a.head_dim - 2 * a.half;
    const int64_t turn_spans = (a.half + kWidth - 1) / kWidth;
    const int64_t spans = turn_spans + (rest + kWidth - 1) / kWidth;
    rope_kernel<T, kWidth>
        <<<hn_grid(a.rows * a.heads * spans, kThreads, kMaxBlocks), kThreads, 0, stream>>>(
            a, turn_spans, spans);
}

template <class T>
void launch(const hn_rope_args *a, cudaStream_t stream)
{
    const int64_t half = (a->rotary_dim ? a->rotary_dim : a->head_dim) / 2;
    const Turn<T> t = {(const T *)a->x,
                       (T *)a->y,
                       a->position,
                       a->cos,
                       a->sin,
                       a->rows,
                       a->heads,
                       a->head_dim,
                       half,
                       a->ld_x,
                       a->ld_y,
                       a->ld_table,
                       a->interleaved,
                       a->inverse ? -1.0f : 1.0f};
    const bool wide =
        !a->interleaved && half % HN_VEC == 0 && a->head_dim * (int64_t)sizeof(T) % 16 == 0 &&
        hn_vectors_fit(a->x, a->ld_x, a->dtype) && hn_vectors_fit(a->y, a->ld_y, a->dtype) &&
        hn_vectors_fit(a->cos, a->ld_table, HN_F32) && hn_vectors_fit(a->sin, a->ld_table, HN_F32);
    if (wide)
        launch_width<T, HN_VEC>(t, stream);
    else
        launch_width<T, 1>(t, stream);
}

} // namespace

hn_status hn_rope_cuda(const hn_rope_args *a, hn_stream stream)
{
    HN_TRY(hn_rope_check_shapes(a));
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, stream));
    return HN_CUDA_LAUNCHED("rope");
}
