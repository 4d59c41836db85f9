/* cuda_client_cnn.h - client_cnn_cuda.cu's first half: a client in shared memory, its images, and
 * the convolutions forward (for that file only).
 */
#ifndef HN_CUDA_CLIENT_CNN_H
#define HN_CUDA_CLIENT_CNN_H
#include <cuda_pipeline.h>

#include "kernels/client/client_cnn_plan.h"
#include "runtime/base/cuda_math.h"

namespace hn_client_cnn_cuda_ {

constexpr int kThreads = HN_CLIENT_THREADS, kWarps = kThreads / 32;
constexpr int kRows = HN_CLIENT_CNN_BATCH, kLd = HN_CLIENT_LD, kSteps = HN_CLIENT_CNN_STEPS;
constexpr int kWindow = 2; /* of the pool, and its stride */
static_assert(kRows == 32, "a lane a row");

/* A step of the net. Places are offsets in shared memory, in floats. */
struct Step {
    int32_t in_h, in_w, in_c, h, w, out_c;
    int32_t cells, quads, size; /* h w, out_c / 4, weights */
    int32_t weight, bias, grad, map, choice, alive;
    hn_divisor by_cells, by_w;
    int64_t at_weight, at_bias; /* in the values */
};

struct Client {
    Step step[kSteps];
    int32_t steps, features, hidden, classes, image_pixels, image_channels, image_bytes;
    int32_t chunk, batch;
    int32_t fc1_w, fc1_b, fc2_w, fc2_b, x, grad, grad_end, scratch, scratch_end, rows, bytes,
        pixels;
    bool words; /* images begin on 4 bytes and end there */
    hn_divisor by_pixels;
    int64_t at_fc1_w, at_fc1_b, at_fc2_w, at_fc2_b;
    float factor[HN_CLIENT_CNN_CHANNELS], shift[HN_CLIENT_CNN_CHANNELS];
    float mu, weight_decay;
    const float *start;
    float *values;
    const uint8_t *images;
    const int32_t *labels, *row_numbers, *client_steps, *loss_from;
    const float *lr;
    float *loss;
    int32_t *status;
    int64_t count, n, max_steps, start_stride, values_stride, lr_stride;
};

/* The numbers of the images of a step and of the next one. */
struct Rows {
    int32_t row[2][kRows];
    int32_t next[kRows]; /* row numbers as they come */
    int32_t label[kRows];
    float loss[kRows];
    int32_t used[2]; /* rows up to the last image */
    int32_t images[2];
    double sum; /* of the images that count, and how many they are */
    int64_t losses;
    int32_t steps; /* of the client; here, to save a register */
};
static_assert(sizeof(Rows) <= sizeof(float) * HN_CLIENT_ROW_WORDS, "as planned");

extern __shared__ float4 shared4[];

/* threadIdx.x, behind the compiler's back: else what each phase computes from it is kept in
 * registers through all the others. */
__device__ __forceinline__ int32_t thread(void)
{
    int32_t t = (int32_t)threadIdx.x;
    asm volatile("" : "+r"(t));
    return t;
}

__device__ __forceinline__ float *shared(int32_t at)
{
    return reinterpret_cast<float *>(shared4) + at;
}
__device__ __forceinline__ float4 *shared_quads(int32_t at) { return shared4 + at / 4; }
__device__ __forceinline__ uint8_t *shared_bytes(int32_t at)
{
    return reinterpret_cast<uint8_t *>(shared(at));
}
__device__ __forceinline__ Rows *shared_rows(const Client &a)
{
    return reinterpret_cast<Rows *>(shared(a.rows));
}

__device__ __forceinline__ float fma4(float4 a, float4 b, float sum)
{
    sum = fmaf(a.x, b.x, sum);
    sum = fmaf(a.y, b.y, sum);
    sum = fmaf(a.z, b.z, sum);
    return fmaf(a.w, b.w, sum);
}

__device__ __forceinline__ void axpy4(float a, float4 x, float4 &y)
{
    y.x = fmaf(a, x.x, y.x);
    y.y = fmaf(a, x.y, y.y);
    y.z = fmaf(a, x.z, y.z);
    y.w = fmaf(a, x.w, y.w);
}

__device__ __forceinline__ float part(float4 v, int k)
{
    return k == 0 ? v.x : k == 1 ? v.y : k == 2 ? v.z : v.w;
}

/* ---- the order of weights: shared memory and values ---- */

/* Where element e of a step's weights as they lie in shared memory is in the values. */
template <int K>
__device__ __forceinline__ int32_t weight_place(const Step &s, bool first, int32_t e)
{
    if (first) { /* [channel][tap][filter] */
        const int32_t o = e % s.out_c, rest = e / s.out_c;
        return (o * (K * K) + rest % (K * K)) * s.in_c + rest / (K * K);
    }
    const int32_t c = e % 4, tap = e / 4 % (K * K), rest = e / (4 * K * K); /* [o][quad][tap][4] */
    const int32_t quads = s.in_c / 4;
    return (rest / quads * (K * K) + tap) * s.in_c + rest % quads * 4 + c;
}

/* visit(shared memory, values) for every trained value, by some thread each. */
template <int K, class Visit>
__device__ __forceinline__ void for_all_values(const Client &a, Visit visit)
{
    const int tid = thread();
    for (int l = 0; l < a.steps; l++) {
        const Step &s = a.step[l];
        for (int e = tid; e < s.size; e += kThreads)
            visit(shared(s.weight)[e], s.at_weight + weight_place<K>(s, l == 0, e));
        for (int e = tid; e < s.out_c; e += kThreads) visit(shared(s.bias)[e], s.at_bias + e);
    }
    for (int e = tid; e < a.hidden * a.features; e += kThreads)
        visit(shared(a.fc1_w)[e], a.at_fc1_w + e);
    for (int e = tid; e < a.hidden; e += kThreads) visit(shared(a.fc1_b)[e], a.at_fc1_b + e);
    for (int e = tid; e < a.classes * a.hidden; e += kThreads)
        visit(shared(a.fc2_w)[e], a.at_fc2_w + e);
    for (int e = tid; e < a.classes; e += kThreads) visit(shared(a.fc2_b)[e], a.at_fc2_b + e);
}

/* ---- images ---- */

/* Images first .. first+n-1 of a step begin to come into `bytes`. */
static __device__ void fetch(const Client &a, const int32_t *row, int32_t first, int32_t n)
{
    uint8_t *const to = shared_bytes(a.bytes);
    for (int32_t s = 0; s < n; s++) {
        const int32_t image = row[first + s];
        const uint8_t *const from = a.images + (int64_t)image * a.image_bytes;
        uint8_t *const at = to + s * a.image_bytes;
        if (image >= 0 && a.words) {
            for (int32_t e = 4 * thread(); e < a.image_bytes; e += 4 * kThreads)
                __pipeline_memcpy_async(at + e, from + e, 4);
        } else {
            for (int32_t e = thread(); e < a.image_bytes; e += kThreads)
                at[e] = image >= 0 ? from[e] : 0;
        }
    }
    __pipeline_commit();
}

/* `bytes` of n images, when they are there, to `pixels`. */
static __device__ void normalise(const Client &a, int32_t n)
{
    __pipeline_wait_prior(0);
    __syncthreads();
    const uint8_t *const from = shared_bytes(a.bytes);
    float *const to = shared(a.pixels);
    for (int32_t i = thread(); i < n * a.image_pixels; i += kThreads) {
        const int32_t s = (int32_t)hn_divide((uint32_t)i, a.by_pixels);
        const int32_t at = i + s * (a.image_channels - 1) * a.image_pixels;
        for (int32_t c = 0; c < a.image_channels; c++)
            to[at + c * a.image_pixels] =
                fmaf((float)from[i * a.image_channels + c], a.factor[c], a.shift[c]);
    }
    __syncthreads();
}

/* ---- steps of the net, forward ---- */

/* A pooled output: quad q of cell p of image s is shared4[base + s image + q quad + p cell].
 * Offsets, not pointers: of those the compiler would lose that they are shared memory. */
struct Pooled {
    int32_t base, choice;
    int32_t alive; /* -1: of the last step, whose consumer sees it in the values */
    int32_t image, quad, cell;
};

__device__ __forceinline__ Pooled pooled_of(const Client &a, int l, int32_t first)
{
    const Step &s = a.step[l];
    if (l + 1 < a.steps)
        return {s.map / 4, 4 * s.choice, 4 * s.alive, s.quads * s.cells, s.cells, 1};
    return {(a.x + first * a.features) / 4,
            4 * s.choice + first * s.quads * s.cells,
            -1,
            a.features / 4,
            1,
            s.quads};
}

/* Maximum and relu of a window [row, column] for four filters. */
__device__ __forceinline__ void pool(const Pooled &y, int32_t at, int32_t flat,
                                     const float (&v)[4][4])
{
    float best[4];
    uint32_t choice = 0, alive = 0;
#pragma unroll
    for (int o = 0; o < 4; o++) {
        uint32_t place = 0;
        best[o] = v[0][o];
#pragma unroll
        for (uint32_t k = 1; k < 4; k++)
            if (v[k][o] > best[o] || isnan(v[k][o])) {
                best[o] = v[k][o];
                place = k;
            }
        best[o] = best[o] <= 0.0f ? 0.0f : best[o];
        choice |= place << 2 * o;
        alive |= (uint32_t)(best[o] > 0.0f) << o;
    }
    shared4[y.base + at] = make_float4(best[0], best[1], best[2], best[3]);
    shared_bytes(0)[y.choice + flat] = (uint8_t)choice;
    if (y.alive >= 0) shared_bytes(0)[y.alive + flat] = (uint8_t)alive;
}

/* A thread makes four filters of a pool cell at a time. */
struct Task {
    int32_t quad, image, cell, row, column;
};

__device__ __forceinline__ Task task_of(const Step &s, int32_t t, int32_t n)
{
    const int32_t all = n * s.cells, quad = t / all, i = t - quad * all;
    const int32_t image = (int32_t)hn_divide((uint32_t)i, s.by_cells), cell = i - image * s.cells;
    const int32_t row = (int32_t)hn_divide((uint32_t)cell, s.by_w);
    return {quad, image, cell, row, cell - row * s.w};
}

/* The first step: pixels are read one by one, weights of four filters together. */
template <int K, bool kPad>
__device__ void first_fwd(const Step &s, int32_t pad, int32_t pixels, int32_t n, const Pooled &y)
{
    constexpr int kSide = K + 1;
    const float4 *const weight = shared_quads(s.weight);
    for (int32_t t = thread(); t < n * s.cells * s.quads; t += kThreads) {
        const Task k = task_of(s, t, n);
        const int32_t top = kWindow * k.row - pad, left = kWindow * k.column - pad;
        const float4 bias = shared_quads(s.bias)[k.quad];
        float sum[4][4];
#pragma unroll
        for (int w = 0; w < 4; w++)
            sum[w][0] = bias.x, sum[w][1] = bias.y, sum[w][2] = bias.z, sum[w][3] = bias.w;
        for (int32_t c = 0; c < s.in_c; c++) {
            const float *const from =
                shared(pixels) + ((k.image * s.in_c + c) * s.in_h + top) * s.in_w + left;
            const float4 *const w = weight + c * (K * K) * s.quads + k.quad;
#pragma unroll(K == 3 && !kPad ? 3 : 1)
            for (int u = 0; u < K; u++) {
                float x[2][kSide];
#pragma unroll
                for (int i = 0; i < 2; i++)
#pragma unroll
                    for (int j = 0; j < kSide; j++) {
                        const bool inside = !kPad || ((uint32_t)(top + u + i) < (uint32_t)s.in_h &&
                                                      (uint32_t)(left + j) < (uint32_t)s.in_w);
                        x[i][j] = inside ? from[(u + i) * s.in_w + j] : 0.0f;
                    }
#pragma unroll
                for (int v = 0; v < K; v++) {
                    const float4 f = w[(u * K + v) * s.quads];
#pragma unroll
                    for (int at = 0; at < 4; at++) {
                        const float p = x[at / 2][v + at % 2];
                        sum[at][0] = fmaf(p, f.x, sum[at][0]);
                        sum[at][1] = fmaf(p, f.y, sum[at][1]);
                        sum[at][2] = fmaf(p, f.z, sum[at][2]);
                        sum[at][3] = fmaf(p, f.w, sum[at][3]);
                    }
                }
            }
        }
        pool(y, k.image * y.image + k.quad * y.quad + k.cell * y.cell,
             (k.image * s.quads + k.quad) * s.cells + k.cell, sum);
    }
}

/* The others: four channels of a pixel together. Two rows of the input are in registers. */
template <int K, bool kPad>
__device__ void next_fwd(const Step &s, int32_t pad, int32_t map, int32_t n, const Pooled &y)
{
    constexpr int kSide = K + 1;
    const int32_t in_quads = s.in_c / 4, plane = s.in_h * s.in_w;
    for (int32_t t = thread(); t < n * s.cells * s.quads; t += kThreads) {
        const Task k = task_of(s, t, n);
        const int32_t top = kWindow * k.row - pad, left = kWindow * k.column - pad;
        const float4 bias = shared_quads(s.bias)[k.quad];
        float sum[4][4];
#pragma unroll
        for (int w = 0; w < 4; w++)
            sum[w][0] = bias.x, sum[w][1] = bias.y, sum[w][2] = bias.z, sum[w][3] = bias.w;
#pragma unroll 1
        for (int32_t c = 0; c < in_quads; c++) {
            const float4 *const from =
                shared_quads(map) + (k.image * in_quads + c) * plane + top * s.in_w + left;
            const float4 *const w = shared_quads(s.weight) + (4 * k.quad * in_quads + c) * (K * K);
#pragma unroll(K == 3 && !kPad ? 3 : 1)
            for (int u = 0; u < K; u++) {
                float4 x[2][kSide];
#pragma unroll
                for (int i = 0; i < 2; i++)
#pragma unroll
                    for (int j = 0; j < kSide; j++) {
                        const bool inside = !kPad || ((uint32_t)(top + u + i) < (uint32_t)s.in_h &&
                                                      (uint32_t)(left + j) < (uint32_t)s.in_w);
                        x[i][j] = inside ? from[(u + i) * s.in_w + j]
                                         : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                    }
#pragma unroll
                for (int v = 0; v < K; v++) {
#pragma unroll
                    for (int o = 0; o < 4; o++) {
                        const float4 f = w[o * in_quads * (K * K) + u * K + v];
#pragma unroll
                        for (int at = 0; at < 4; at++)
                            sum[at][o] = fma4(x[at / 2][v + at % 2], f, sum[at][o]);
                    }
                }
            }
        }
        pool(y, k.image * y.image + k.quad * y.quad + k.cell * y.cell,
             (k.image * s.quads + k.quad) * s.cells + k.cell, sum);
    }
}

/* Steps 0 .. end-1 of n images from image `first` of the batch on. */
template <int K, bool kPad>
__device__ void convolve(const Client &a, int32_t pad, int end, int32_t first, int32_t n)
{
    for (int l = 0; l < end; l++) {
        const Pooled y = pooled_of(a, l, first);
        if (l == 0)
            first_fwd<K, kPad>(a.step[0], pad, a.pixels, n, y);
        else
            next_fwd<K, kPad>(a.step[l], pad, a.step[l - 1].map, n, y);
        __syncthreads();
    }
}

} // namespace hn_client_cnn_cuda_
#endif
