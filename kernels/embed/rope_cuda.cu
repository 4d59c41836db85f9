/* A thread turns 8 neighbouring pairs (one where alignment or `interleaved` forbid 16-byte
 * accesses) of a few heads of a row: the tables, which are four times as wide as bf16, are read
 * once for all of them. Further threads copy the columns that pass through.
 *
 * All of x that a thread needs is under way before it waits for the position, which the tables'
 * address depends on: two trips to memory, one behind the other, and 128 bytes of x on the way in
 * both. 768 threads a multiprocessor: 96 KiB, where about 40 keep the memory busy.
 */
#include "kernels/embed/rope.h"

#include <type_traits>

#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 3;  /* a multiprocessor: 85 registers a thread */
constexpr int kBytes = 128; /* of x in flight, a thread: 8 loads of 16 bytes */

/* Heads of a thread: 4 in bf16, 2 in f32. */
template <class T>
constexpr int kHeads = kBytes / (2 * HN_VEC * (int)sizeof(T));

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

/* A row is `groups` times `in_group` spans; the thread of group g has the heads g, g + groups... */
struct Cut {
    hn_spans spans; /* of rows: groups * in_group */
    hn_divisor by_in_group;
    uint32_t in_group, turning; /* spans of pairs, then spans of columns that pass through */
    uint32_t groups;
};

/* kWidth values as they are stored. */
template <class T>
__device__ __forceinline__ void load(const T *p, hn_pack<T> &v)
{
    v = hn_load_pack(p);
}
template <class T>
__device__ __forceinline__ void load(const T *p, T &v)
{
    v = *p;
}
template <class T>
__device__ __forceinline__ void unpack(const hn_pack<T> &from, float (&v)[HN_VEC])
{
    hn_unpack(from, v);
}
template <class T>
__device__ __forceinline__ void unpack(T from, float (&v)[1])
{
    v[0] = hn_f32(from);
}

/* Pairs k .. k + kWidth of the heads head, head + groups...; each value is read and then written by
 * one thread: y may be x. */
template <class T, int kWidth>
__device__ __forceinline__ void turn_spans(const Turn<T> &a, int64_t row, int64_t head,
                                           int64_t groups, int64_t k)
{
    using Stored = std::conditional_t<kWidth == HN_VEC, hn_pack<T>, T>;
    const int64_t first = a.interleaved ? 2 * k : k;
    const int64_t apart = a.interleaved ? 1 : a.half; /* the second of a pair behind the first */
    const T *const x = a.x + row * a.ld_x + head * a.head_dim + first;
    T *const y = a.y + row * a.ld_y + head * a.head_dim + first;
    const int64_t step = groups * a.head_dim;
    const int64_t position = a.position[row];
    Stored from[kHeads<T>][2];
    float u[kWidth], v[kWidth], c[kWidth], s[kWidth];
#pragma unroll
    for (int h = 0; h < kHeads<T>; h++) {
        /* a head that is not there reads the first: loads without branches */
        const T *const p = x + (head + h * groups < a.heads ? h * step : 0);
        load(p, from[h][0]);
        load(p + apart, from[h][1]);
    }
    /* Keeps the compiler from waiting for the position before all loads of x are out. */
    __syncwarp(__activemask());
    const int64_t table = position * a.ld_table + k;
    hn_load_whole<kWidth>(a.cos + table, c);
    hn_load_whole<kWidth>(a.sin + table, s);
#pragma unroll
    for (int h = 0; h < kHeads<T>; h++) {
        if (h > 0 && head + h * groups >= a.heads) break;
        unpack(from[h][0], u);
        unpack(from[h][1], v);
#pragma unroll
        for (int j = 0; j < kWidth; j++) {
            const float sine = a.sign * s[j];
            const float turned = u[j] * c[j] - v[j] * sine;
            v[j] = v[j] * c[j] + u[j] * sine;
            u[j] = turned;
        }
        hn_store_whole<kWidth>(y + h * step, u);
        hn_store_whole<kWidth>(y + h * step + apart, v);
    }
}

template <class T, int kWidth>
__device__ __forceinline__ void copy_spans(const Turn<T> &a, int64_t row, int64_t head,
                                           int64_t groups, int64_t at)
{
    for (; head < a.heads; head += groups) {
        float u[kWidth];
        hn_load_span<kWidth>(a.x + row * a.ld_x + head * a.head_dim + at, a.head_dim - at, u);
        hn_store_span<kWidth>(a.y + row * a.ld_y + head * a.head_dim + at, a.head_dim - at, u);
    }
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads, kBlocks) rope_kernel(const Turn<T> a, const Cut cut)
{
    const uint32_t i = blockIdx.x * kThreads + threadIdx.x;
    if (i >= cut.spans.n) return;
    const hn_span_at at = hn_span_place(cut.spans, i);
    const uint32_t head = hn_divide(at.span, cut.by_in_group);
    const uint32_t span = at.span - head * cut.in_group;
    if (span < cut.turning)
        turn_spans<T, kWidth>(a, at.row, head, cut.groups, (int64_t)span * kWidth);
    else
        copy_spans<T, kWidth>(a, at.row, head, cut.groups,
                              2 * a.half + (int64_t)(span - cut.turning) * kWidth);
}

template <class T, int kWidth>
void launch_width(Turn<T> a, cudaStream_t stream)
{
    const int64_t rest = a.x == a.y ? 0 : a.head_dim - 2 * a.half;
    const int64_t turning = (a.half + kWidth - 1) / kWidth;
    const int64_t in_group = turning + (rest + kWidth - 1) / kWidth;
    const int64_t groups = (a.heads + kHeads<T> - 1) / kHeads<T>, spans = groups * in_group;
    while (a.rows > 0) {
        const Cut cut = {hn_spans_of(a.rows, spans), hn_divisor_of(in_group), (uint32_t)in_group,
                         (uint32_t)turning, (uint32_t)groups};
        const int64_t band = cut.spans.rows;
        rope_kernel<T, kWidth>
            <<<hn_grid(cut.spans.n, kThreads, INT32_MAX), kThreads, 0, stream>>>(a, cut);
        a.x += band * a.ld_x, a.y += band * a.ld_y, a.position += band, a.rows -= band;
    }
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
