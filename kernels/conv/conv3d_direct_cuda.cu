/* Few channels: a thread makes kOut channels of kVoxels voxels of the result. The filters lie in
 * shared memory as fp32, [tap][channel][kOut], where all lanes read the same four at a time; what a
 * voxel sees comes through the caches, 16 bytes of its channels at a time, as neighbouring lanes
 * have neighbouring voxels. One launch, no patches, any dilation. */
#include "kernels/conv/cuda_conv3d.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 128;
constexpr int kMostBlocks = 132 * 8;       /* of an H200; blocks load the filters once, and loop */
constexpr size_t kFilterBytes = 48u << 10; /* shared memory that needs no asking */
constexpr int64_t kMostSeen = 64, kMostMade = 32; /* channels: beyond that, products are faster */
/* Below so many voxels a thread takes one of them, so that all multiprocessors have work. */
constexpr int64_t kManyRows = 132 * 4 * kThreads * 4;

/* Channels in 16 bytes. */
template <class T>
constexpr int kChunk = 16 / (int)sizeof(T);

struct Axis {
    int32_t taps, first, step, times;
    uint32_t source;
};

template <class T>
struct Direct {
    const T *x, *w, *add;
    const void *bias;
    T *y;
    int64_t ld_x, w_o, w_tap, w_c, ld_add, ld_y;
    int64_t x_end; /* elements of x: one behind the last channel of the last voxel */
    uint32_t rows;
    int32_t in, out;
    Axis down, rows_of, across;
    hn_divisor by_w, by_h, by_d, by_in;
    uint32_t w_result, h_result, d_result;
    bool bias_is_bf16, wide_x, wide_y;
};

/* v = channels of one voxel from element `at` on, n of them or more; what lies behind them is
 * whatever is there. */
template <class T>
__device__ __forceinline__ void load_chunk(const Direct<T> &a, int64_t at, int n,
                                           float (&v)[kChunk<T>])
{
    if (a.wide_x && at + kChunk<T> <= a.x_end) {
        if constexpr (sizeof(T) == sizeof(float)) {
            const float4 f = *reinterpret_cast<const float4 *>(a.x + at);
            v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
        } else {
            hn_unpack(hn_load_pack(a.x + at), v);
        }
        return;
    }
#pragma unroll
    for (int e = 0; e < kChunk<T>; e++) v[e] = e < n ? hn_f32(a.x[at + e]) : 0.0f;
}

/* Filters first .. first + kOut, zeros where there is none. */
template <class T, int kOut>
__device__ __forceinline__ void load_filters(const Direct<T> &a, int first, float *filter)
{
    const int n = a.down.taps * a.rows_of.taps * a.across.taps * a.in * kOut;
    for (int at = threadIdx.x; at < n; at += kThreads) {
        const int o = first + at % kOut;
        const uint32_t k = (uint32_t)(at / kOut), tap = hn_divide(k, a.by_in);
        const int64_t c = k - tap * (uint32_t)a.in;
        filter[at] = o < a.out ? hn_f32(a.w[o * a.w_o + tap * a.w_tap + c * a.w_c]) : 0.0f;
    }
    __syncthreads();
}

/* to[0 .. n) = v rounded, n up to 4. */
template <class T>
__device__ __forceinline__ void store_four(T *to, int n, bool wide, const float (&v)[4])
{
    if (wide && n >= 4) {
        if constexpr (sizeof(T) == sizeof(float)) {
            *reinterpret_cast<float4 *>(to) = make_float4(v[0], v[1], v[2], v[3]);
        } else {
            const __nv_bfloat162 pair[2] = {__floats2bfloat162_rn(v[0], v[1]),
                                            __floats2bfloat162_rn(v[2], v[3])};
            uint2 word;
            memcpy(&word, pair, sizeof word);
            *reinterpret_cast<uint2 *>(to) = word;
        }
        return;
    }
#pragma unroll
    for (int e = 0; e < 4; e++)
        if (e < n) to[e] = hn_round<T>(v[e]);
}

/* y of one voxel: sums + bias (+ add). add and y may be the same memory: an element is read and
 * then written by one thread. */
template <class T, int kOut>
__device__ __forceinline__ void finish(const Direct<T> &a, uint32_t row, int first,
                                       const float (&sum)[kOut])
{
#pragma unroll
    for (int q = 0; q < kOut; q += 4) {
        const int n = a.out - first - q;
        float v[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int o = first + q + e;
            v[e] = sum[q + e];
            if (e >= n) continue;
            if (a.bias != nullptr)
                v[e] += a.bias_is_bf16 ? hn_f32(static_cast<const __nv_bfloat16 *>(a.bias)[o])
                                       : static_cast<const float *>(a.bias)[o];
            if (a.add != nullptr) v[e] += hn_f32(a.add[row * a.ld_add + o]);
        }
        store_four(a.y + row * a.ld_y + first + q, n, a.wide_y, v);
    }
}

template <class T, int kOut, int kVoxels>
__global__ void __launch_bounds__(kThreads, 4) direct_kernel(const Direct<T> a)
{
    extern __shared__ float4 shared[];
    constexpr int kQuads = kOut / 4;
    const int first = (int)blockIdx.y * kOut;
    load_filters<T, kOut>(a, first, reinterpret_cast<float *>(shared));
    constexpr uint32_t kTile = kThreads * kVoxels;
    for (uint32_t tile = blockIdx.x; (uint64_t)tile * kTile < a.rows; tile += gridDim.x) {
        /* Places of tap 0, as unsigned numbers: what lies before the volume is far behind it. And
         * the number of the voxel there, modulo 2^32. */
        uint32_t volume[kVoxels], i0[kVoxels], j0[kVoxels], k0[kVoxels];
#pragma unroll
        for (int m = 0; m < kVoxels; m++) {
            const uint32_t wanted = tile * kTile + (uint32_t)m * kThreads + threadIdx.x;
            const uint32_t row = wanted < a.rows ? wanted : a.rows - 1;
            const uint32_t line = hn_divide(row, a.by_w), plane = hn_divide(line, a.by_h);
            volume[m] = hn_divide(plane, a.by_d);
            i0[m] =
                (plane - volume[m] * a.d_result) * (uint32_t)a.down.times + (uint32_t)a.down.first;
            j0[m] =
                (line - plane * a.h_result) * (uint32_t)a.rows_of.times + (uint32_t)a.rows_of.first;
            k0[m] = (row - line * a.w_result) * (uint32_t)a.across.times + (uint32_t)a.across.first;
        }
        float sum[kVoxels][kOut] = {};
        const float4 *filter = shared;
#pragma unroll 1
        for (int r = 0; r < a.down.taps; r++)
#pragma unroll 1
            for (int s = 0; s < a.rows_of.taps; s++) {
                uint32_t from[kVoxels]; /* the line's first voxel */
                bool there[kVoxels];
#pragma unroll
                for (int m = 0; m < kVoxels; m++) {
                    const uint32_t i = i0[m] + (uint32_t)(r * a.down.step);
                    const uint32_t j = j0[m] + (uint32_t)(s * a.rows_of.step);
                    there[m] = i < a.down.source && j < a.rows_of.source;
                    from[m] =
                        ((volume[m] * a.down.source + i) * a.rows_of.source + j) * a.across.source;
                }
#pragma unroll 1
                for (int t = 0; t < a.across.taps; t++) {
#pragma unroll 1
                    for (int c = 0; c < a.in; c += kChunk<T>) {
                        float x[kVoxels][kChunk<T>] = {};
#pragma unroll
                        for (int m = 0; m < kVoxels; m++) {
                            const uint32_t k = k0[m] + (uint32_t)(t * a.across.step);
                            if (there[m] && k < a.across.source)
                                load_chunk(a, (int64_t)(from[m] + k) * a.ld_x + c, a.in - c, x[m]);
                        }
#pragma unroll
                        for (int e = 0; e < kChunk<T>; e++) {
                            if (c + e >= a.in) break;
#pragma unroll
                            for (int q = 0; q < kQuads; q++) {
                                const float4 f = filter[q];
#pragma unroll
                                for (int m = 0; m < kVoxels; m++) {
                                    sum[m][4 * q] = fmaf(x[m][e], f.x, sum[m][4 * q]);
                                    sum[m][4 * q + 1] = fmaf(x[m][e], f.y, sum[m][4 * q + 1]);
                                    sum[m][4 * q + 2] = fmaf(x[m][e], f.z, sum[m][4 * q + 2]);
                                    sum[m][4 * q + 3] = fmaf(x[m][e], f.w, sum[m][4 * q + 3]);
                                }
                            }
                            filter += kQuads;
                        }
                    }
                }
            }
#pragma unroll
        for (int m = 0; m < kVoxels; m++) {
            const uint32_t row = tile * kTile + (uint32_t)m * kThreads + threadIdx.x;
            if (row < a.rows) finish<T, kOut>(a, row, first, sum[m]);
        }
    }
}

/* ---- launcher ---- */

size_t filter_bytes(const hn_conv3d_view_ *v, int64_t filters)
{
    return (size_t)(hn_conv3d_taps_of(v) * v->channels * filters) * sizeof(float);
}

Axis axis_of(const hn_conv3d_axis_ &a)
{
    return {(int32_t)a.taps, (int32_t)a.first, (int32_t)a.step, (int32_t)a.times,
            (uint32_t)a.source};
}

template <class T, int kOut, int kVoxels>
void launch(const Direct<T> &d, const hn_conv3d_task *t, cudaStream_t stream)
{
    const dim3 grid(hn_grid(d.rows, kThreads * kVoxels, kMostBlocks),
                    (unsigned)((t->channels + kOut - 1) / kOut));
    direct_kernel<T, kOut, kVoxels><<<grid, kThreads, filter_bytes(&t->view, kOut), stream>>>(d);
}

template <class T>
void launch(const hn_conv3d_task *t, cudaStream_t stream)
{
    const hn_conv3d_view_ &v = t->view;
    Direct<T> d = {};
    d.x = static_cast<const T *>(v.p), d.ld_x = v.ld;
    d.w = static_cast<const T *>(t->w), d.w_o = t->w_o, d.w_tap = t->w_tap, d.w_c = t->w_c;
    d.bias = t->bias, d.bias_is_bf16 = t->bias_dtype == HN_BF16;
    d.add = static_cast<const T *>(t->add), d.ld_add = t->ld_add;
    d.y = static_cast<T *>(t->to), d.ld_y = t->ld_to;
    d.down = axis_of(v.axis[0]), d.rows_of = axis_of(v.axis[1]), d.across = axis_of(v.axis[2]);
    d.rows = (uint32_t)hn_conv3d_rows_of(&v, t->volumes);
    d.in = (int32_t)v.channels, d.out = (int32_t)t->channels;
    d.x_end = (t->volumes * v.axis[0].source * v.axis[1].source * v.axis[2].source - 1) * v.ld +
              v.channels;
    d.d_result = (uint32_t)v.axis[0].result, d.h_result = (uint32_t)v.axis[1].result;
    d.w_result = (uint32_t)v.axis[2].result;
    d.by_d = hn_divisor_of(v.axis[0].result), d.by_h = hn_divisor_of(v.axis[1].result);
    d.by_w = hn_divisor_of(v.axis[2].result), d.by_in = hn_divisor_of(v.channels);
    d.wide_x = hn_vectors_fit(v.p, v.ld, v.dtype);
    d.wide_y = hn_vectors_fit(t->to, t->ld_to, v.dtype);
    const bool many = d.rows >= kManyRows;
    if (d.out <= 4 || filter_bytes(&v, 8) > kFilterBytes)
        many ? launch<T, 4, 4>(d, t, stream) : launch<T, 4, 1>(d, t, stream);
    else if (d.out <= 8 || filter_bytes(&v, 16) > kFilterBytes)
        many ? launch<T, 8, 4>(d, t, stream) : launch<T, 8, 1>(d, t, stream);
    else
        many ? launch<T, 16, 2>(d, t, stream) : launch<T, 16, 1>(d, t, stream);
}

} // namespace

bool hn_conv3d_direct_fits(const hn_conv3d_task *t)
{
    const hn_conv3d_view_ *const v = &t->view;
    const bool whole = v->axis[0].over == 1 && v->axis[1].over == 1 && v->axis[2].over == 1;
    return whole && v->channels <= kMostSeen && t->channels <= kMostMade &&
           filter_bytes(v, 4) <= kFilterBytes;
}

hn_status hn_conv3d_direct(const hn_conv3d_task *t, hn_stream stream)
{
    HN_CUDA_REAL(t->view.dtype, T, launch<T>(t, stream));
    return HN_CUDA_LAUNCHED("conv3d: few channels");
}
