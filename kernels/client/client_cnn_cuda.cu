/* One persistent block a client: weights and what a step remembers stay in shared memory from the
 * first step to the last. Only the chosen pixel of each pool window has a gradient, so backward
 * walks pool cells, a quarter of the convolutions' outputs. The last pool's output is kept for the
 * whole batch; maps before it are made again, some images at a time. Gradients of the two layers
 * are made column by column and applied at once: a thread has a column's inputs in registers, sums
 * dx with the old weight and dw together, and writes the new one.
 *
 * The net of MNIST with 8 and 16 filters of 3 x 3, 64 hidden units, batch 32 (bytes of
 * client_cnn_plan.h): 231,040 of 232,448 with 5 images at a time.
 * Multiply-adds of a step: forward 32 (48,672 + 115,200 + 26,240) = 6.1 M, maps again 1.3 M,
 * backward 32 (12,168 + 57,600 + 52,480) = 3.9 M: 11.3 M, 88 k cycles of 128. */
#include "kernels/client/cuda_client_cnn.h"

namespace {

using namespace hn_client_cnn_cuda_;

/* ---- hidden layer, classes, loss ---- */

/* hidden[j][row] = relu(fc1). Four lanes share the inputs of 4 rows, 8 apart, by 4 outputs. */
__device__ void hidden_fwd(const Client &a, int32_t used)
{
    const int lane = thread() % 4, quads = a.features / 4;
    const float4 *const x = shared_quads(a.x), *const w = shared_quads(a.fc1_w);
    for (int32_t t = thread() / 4; t < 2 * a.hidden; t += kThreads / 4) {
        const int32_t row = t % 8, j = t / 8 * 4;
        const float4 *from[4];
        float sum[4][4] = {};
#pragma unroll
        for (int i = 0; i < 4; i++) from[i] = x + min(row + 8 * i, used - 1) * quads;
#pragma unroll 2
        for (int32_t k = lane; k < quads; k += 4) {
            float4 f[4];
#pragma unroll
            for (int o = 0; o < 4; o++) f[o] = w[(j + o) * quads + k];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float4 v = from[i][k];
#pragma unroll
                for (int o = 0; o < 4; o++) sum[i][o] = fma4(v, f[o], sum[i][o]);
            }
        }
        /* Lane i ends with row i of the four. */
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int o = 0; o < 4; o++) {
                float v = sum[i][o];
                v += __shfl_xor_sync(0xffffffffu, v, 1);
                v += __shfl_xor_sync(0xffffffffu, v, 2);
                v += shared(a.fc1_b)[j + o];
                const int32_t b = row + 8 * i;
                if (lane == i)
                    shared(a.scratch)[(j + o) * kLd + b] = b < used && !(v <= 0.0f) ? v : 0.0f;
            }
    }
}

/* logits[c][row]. */
__device__ void classes_fwd(const Client &a)
{
    const float *const hidden = shared(a.scratch);
    float *const logits = shared(a.scratch) + a.hidden * kLd;
    for (int32_t t = thread(); t < a.classes * kRows; t += kThreads) {
        const int32_t c = t / kRows, row = t % kRows;
        const float *const w = shared(a.fc2_w) + c * a.hidden;
        float sum = shared(a.fc2_b)[c];
#pragma unroll 8
        for (int32_t k = 0; k < a.hidden; k++) sum = fmaf(w[k], hidden[k * kLd + row], sum);
        logits[c * kLd + row] = sum;
    }
}

/* Losses, and logits become the gradient of their mean: a warp a row. */
__device__ void classify(const Client &a, int32_t cur)
{
    Rows *const r = shared_rows(a);
    const int lane = thread() % 32;
    const float scale = 1.0f / (float)r->images[cur];
    for (int32_t row = thread() / 32; row < kRows; row += kWarps) {
        float *const z = shared(a.scratch) + a.hidden * kLd + row;
        const bool counts = row < a.batch && r->row[cur][row] >= 0;
        const int32_t label = r->label[row];
        float top = -INFINITY, sum = 0.0f;
        for (int32_t c = lane; c < a.classes; c += 32) top = fmaxf(top, z[c * kLd]);
        top = hn_warp_max(top);
        for (int32_t c = lane; c < a.classes; c += 32) sum += expf(z[c * kLd] - top);
        sum = hn_warp_sum(sum);
        if (lane == 0) {
            const bool known = label >= 0 && label < a.classes;
            r->loss[row] = !counts ? 0.0f : known ? logf(sum) + top - z[label * kLd] : NAN;
        }
        __syncwarp();
        for (int32_t c = lane; c < a.classes; c += 32) {
            const float p = expf(z[c * kLd] - top) / sum;
            z[c * kLd] = counts ? (p - (c == label ? 1.0f : 0.0f)) * scale : 0.0f;
        }
    }
}

/* ---- updates ---- */

struct Rule {
    float lr, weight_decay, mu;
};

/* The value that a client began with; read with mu only. */
__device__ __forceinline__ float start_value(const Rule &rule, const float *start)
{
    return rule.mu != 0.0f ? *start : 0.0f;
}

/* grad is whole. */
__device__ __forceinline__ float updated(float p, float grad, const Rule &rule, float start)
{
    float g = fmaf(rule.weight_decay, p, grad);
    if (rule.mu != 0.0f) g = fmaf(rule.mu, p - start, g);
    return fmaf(-rule.lr, g, p);
}

__device__ __forceinline__ void update(float &p, float grad, const Rule &rule, const float *start)
{
    p = updated(p, grad, rule, start_value(rule, start));
}

/* Backward of y = w x + b with x the output of a relu, element (row, k) at x[row by_row + k by_k],
 * which becomes its gradient. dy [out][kLd]. A thread a column k; rows in eights. */
__device__ void linear_bwd(float *x, int32_t by_row, int32_t by_k, int32_t in, const float *dy,
                           int32_t out, float *w, float *b, const Rule &rule, const float *start_w,
                           const float *start_b, int32_t used)
{
    const float4 *const d4 = reinterpret_cast<const float4 *>(dy);
    for (int32_t k = thread(); k < in; k += kThreads) {
        float *const column = x + k * by_k;
        float v[kRows], dx[kRows];
#pragma unroll
        for (int i = 0; i < kRows; i++) {
            v[i] = i < used ? column[i * by_row] : 0.0f;
            dx[i] = 0.0f;
        }
#pragma unroll 1
        for (int32_t j = 0; j < out; j++) {
            float *const at = w + j * in + k;
            const float old = *at;
            const float from = start_value(rule, start_w + (int64_t)j * in + k); /* needed late */
            float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int i = 0; i < kRows; i += 4) {
                if (i % 8 == 0 && i >= used) break; /* the same for all */
                const float4 d = d4[(j * kLd + i) / 4];
                dx[i] = fmaf(d.x, old, dx[i]);
                dx[i + 1] = fmaf(d.y, old, dx[i + 1]);
                dx[i + 2] = fmaf(d.z, old, dx[i + 2]);
                dx[i + 3] = fmaf(d.w, old, dx[i + 3]);
                sum.x = fmaf(d.x, v[i], sum.x);
                sum.y = fmaf(d.y, v[i + 1], sum.y);
                sum.z = fmaf(d.z, v[i + 2], sum.z);
                sum.w = fmaf(d.w, v[i + 3], sum.w);
            }
            *at = updated(old, (sum.x + sum.y) + (sum.z + sum.w), rule, from);
        }
        asm volatile("" : "+r"(by_row)); /* 32 places are not kept in registers until here */
#pragma unroll
        for (int i = 0; i < kRows; i++)
            if (i < used) column[i * by_row] = v[i] > 0.0f ? dx[i] : 0.0f;
    }
    /* The last threads have the fewest columns. */
    for (int32_t j = kThreads - 1 - thread(); j < out; j += kThreads) {
        float sum = 0.0f;
        for (int i = 0; i < kRows; i++) sum += dy[j * kLd + i];
        update(b[j], sum, rule, start_b + j);
    }
}

/* ---- steps of the net, backward ---- */

/* Threads are `splits` shares of the rows of cells, times the owners of the pieces of a gradient.
 * With more than 256 owners there is one share, and an owner behind the last thread is the thread's
 * next one. */
struct Share {
    int32_t splits, split, first; /* owner */
};

__device__ __forceinline__ Share share_of(int32_t owners, int32_t rows)
{
    const int32_t tid = thread();
    if (2 * owners > kThreads) return {1, 0, tid};
    return {min(kThreads / owners, rows), tid / owners, tid % owners};
}

/* Adds up the shares' pieces in order, as many at a time as scratch holds. write(where) stores the
 * pieces of the thread; all threads come here. */
template <class Write>
__device__ void add_shares(const Client &a, const Step &s, const Share &share, Write write)
{
    const int32_t n = s.size + s.out_c, sets = (a.scratch_end - a.scratch) / n;
    float *const scratch = shared(a.scratch), *const grad = shared(s.grad);
    for (int32_t base = 0; base < share.splits; base += sets) {
        const int32_t now = min(sets, share.splits - base);
        if (share.split >= base && share.split < base + now)
            write(scratch + (share.split - base) * n);
        __syncthreads();
        for (int32_t e = thread(); e < n; e += kThreads) {
            float sum = grad[e];
            for (int32_t i = 0; i < now; i++) sum += scratch[i * n + e];
            grad[e] = sum;
        }
        __syncthreads();
    }
}

/* Where an output channel's gradients and choices of a row of cells begin, and how to read them. */
struct CellRow {
    const float *dy;
    const uint8_t *choice;
    int32_t apart, shift;
};

__device__ __forceinline__ CellRow cell_row(const Step &s, const Pooled &y, int32_t image,
                                            int32_t row, int32_t o)
{
    const float4 *const from =
        shared4 + y.base + image * y.image + o / 4 * y.quad + row * s.w * y.cell;
    return {reinterpret_cast<const float *>(from) + o % 4,
            shared_bytes(0) + y.choice + (image * s.quads + o / 4) * s.cells + row * s.w,
            4 * y.cell, 2 * (o % 4)};
}

/* The first step's weights: an owner has a row of taps of one filter and channel. */
template <int K, bool kPad>
__device__ void first_dw(const Client &a, int32_t pad, int32_t n, const Pooled &y)
{
    const Step &s = a.step[0];
    const int32_t owners = s.out_c * K * s.in_c;
    const Share share = share_of(owners, n * s.h);
    float sum[K], bias = 0.0f;
    int32_t o = 0, u = 0, c = 0;
    for (int32_t owner = share.first; owner < owners && share.split < share.splits;
         owner += kThreads) {
        o = owner % s.out_c, u = owner / s.out_c % K, c = owner / s.out_c / K;
        bias = 0.0f;
#pragma unroll
        for (int v = 0; v < K; v++) sum[v] = 0.0f;
        for (int32_t r = share.split; r < n * s.h; r += share.splits) {
            const int32_t image = r / s.h, row = r - image * s.h;
            const CellRow cell = cell_row(s, y, image, row, o);
            const float *const x = shared(a.pixels) + (image * s.in_c + c) * s.in_h * s.in_w;
#pragma unroll 2
            for (int32_t q = 0; q < s.w; q++) {
                const float d = cell.dy[q * cell.apart];
                const int32_t at = cell.choice[q] >> cell.shift & 3;
                const int32_t i = kWindow * row + (at >> 1) + u - pad;
                const int32_t j = kWindow * q + (at & 1) - pad;
                bias += d;
#pragma unroll
                for (int v = 0; v < K; v++) {
                    const bool inside = !kPad || ((uint32_t)i < (uint32_t)s.in_h &&
                                                  (uint32_t)(j + v) < (uint32_t)s.in_w);
                    if (inside) sum[v] = fmaf(d, x[i * s.in_w + j + v], sum[v]);
                }
            }
        }
        if (share.splits > 1) break; /* to add_shares */
        float *const grad = shared(s.grad);
#pragma unroll
        for (int v = 0; v < K; v++) grad[((c * K + u) * K + v) * s.out_c + o] += sum[v];
        if (u == 0 && c == 0) grad[s.size + o] += bias;
    }
    if (share.splits > 1)
        add_shares(a, s, share, [&](float *to) {
#pragma unroll
            for (int v = 0; v < K; v++) to[((c * K + u) * K + v) * s.out_c + o] = sum[v];
            if (u == 0 && c == 0) to[s.size + o] = bias;
        });
    __syncthreads();
}

/* The others': an owner has a row of taps of one filter and four channels. */
template <int K, bool kPad>
__device__ void next_dw(const Client &a, int32_t pad, int l, int32_t n, const Pooled &y)
{
    const Step &s = a.step[l];
    const int32_t in_quads = s.in_c / 4, owners = s.out_c * K * in_quads;
    const Share share = share_of(owners, n * s.h);
    float4 sum[K];
    float bias = 0.0f;
    int32_t o = 0, u = 0, c = 0;
    for (int32_t owner = share.first; owner < owners && share.split < share.splits;
         owner += kThreads) {
        c = owner % in_quads, u = owner / in_quads % K, o = owner / in_quads / K;
        bias = 0.0f;
#pragma unroll
        for (int v = 0; v < K; v++) sum[v] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        for (int32_t r = share.split; r < n * s.h; r += share.splits) {
            const int32_t image = r / s.h, row = r - image * s.h;
            const CellRow cell = cell_row(s, y, image, row, o);
            const float4 *const x =
                shared_quads(a.step[l - 1].map) + (image * in_quads + c) * s.in_h * s.in_w;
#pragma unroll 2
            for (int32_t q = 0; q < s.w; q++) {
                const float d = cell.dy[q * cell.apart];
                const int32_t at = cell.choice[q] >> cell.shift & 3;
                const int32_t i = kWindow * row + (at >> 1) + u - pad;
                const int32_t j = kWindow * q + (at & 1) - pad;
                bias += d;
#pragma unroll
                for (int v = 0; v < K; v++) {
                    const bool inside = !kPad || ((uint32_t)i < (uint32_t)s.in_h &&
                                                  (uint32_t)(j + v) < (uint32_t)s.in_w);
                    if (inside) axpy4(d, x[i * s.in_w + j + v], sum[v]);
                }
            }
        }
        if (share.splits > 1) break; /* to add_shares */
        float4 *const grad = shared_quads(s.grad) + ((o * in_quads + c) * K + u) * K;
#pragma unroll
        for (int v = 0; v < K; v++) axpy4(1.0f, sum[v], grad[v]);
        if (u == 0 && c == 0) shared(s.grad)[s.size + o] += bias;
    }
    if (share.splits > 1)
        add_shares(a, s, share, [&](float *to) {
            float4 *const at = reinterpret_cast<float4 *>(to) + ((o * in_quads + c) * K + u) * K;
#pragma unroll
            for (int v = 0; v < K; v++) at[v] = sum[v];
            if (u == 0 && c == 0) to[s.size + o] = bias;
        });
    __syncthreads();
}

/* A step's input becomes its gradient. Each cell reaches (K + 1)^2 pixels of it: the lanes of a
 * warp take one each with four channels and walk the filters, whose gradients and choices are the
 * same for all of them. A warp takes a row of cells; rows that reach the same pixels take turns. */
template <int K>
__device__ void next_dx(const Client &a, int32_t pad, int l, int32_t n, const Pooled &y)
{
    constexpr int kSide = K + 1, kTurns = kSide / kWindow;
    const Step &s = a.step[l];
    const int32_t in_quads = s.in_c / 4, plane = s.in_h * s.in_w;
    const int32_t lane = thread() % 32, warp = thread() / 32;
    float4 *const dx = shared_quads(a.step[l - 1].map);
    const uint8_t *const alive = shared_bytes(a.step[l - 1].alive);
    for (int32_t e = thread(); e < n * in_quads * plane; e += kThreads)
        dx[e] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    __syncthreads();
    for (int32_t base = 0; base < kSide * kSide * in_quads; base += 32) {
        const int32_t item = base + lane, c = item % in_quads;
        const int32_t i = item / in_quads / kSide, j = item / in_quads % kSide;
        uint32_t valid = 0; /* a bit a choice: whether the filter reaches the pixel from there */
        for (int32_t at = 0; at < 4; at++)
            valid |= (uint32_t)((uint32_t)(i - at / 2) < K && (uint32_t)(j - at % 2) < K) << at;
        if (i >= kSide) valid = 0;
        const float4 *const w = shared_quads(s.weight) + c * (K * K) + i * K + j;
        for (int32_t turn = 0; turn < kTurns; turn++) {
            const int32_t rows = (s.h - turn + kTurns - 1) / kTurns;
            for (int32_t r = warp; r < n * rows; r += kWarps) {
                const int32_t image = r / rows, row = turn + kTurns * (r - image * rows);
                const int32_t y_at = kWindow * row + i - pad;
                for (int32_t q = 0; q < s.w; q++) {
                    const int32_t cell = row * s.w + q, x_at = kWindow * q + j - pad;
                    float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll 2
                    for (int32_t quad = 0; quad < s.quads; quad++) {
                        const float4 d4 =
                            shared4[y.base + image * y.image + quad * y.quad + cell * y.cell];
                        const uint32_t choice =
                            shared_bytes(0)[y.choice + (image * s.quads + quad) * s.cells + cell];
#pragma unroll
                        for (int k = 0; k < 4; k++) {
                            const float d = part(d4, k);
                            const uint32_t at = choice >> 2 * k & 3;
                            if (d != 0.0f && (valid >> at & 1)) /* d: the same for all lanes */
                                axpy4(d,
                                      w[(4 * quad + k) * in_quads * (K * K) -
                                        (int32_t)(at >> 1) * K - (int32_t)(at & 1)],
                                      sum);
                        }
                    }
                    if (valid != 0 && (uint32_t)y_at < (uint32_t)s.in_h &&
                        (uint32_t)x_at < (uint32_t)s.in_w)
                        axpy4(1.0f, sum, dx[(image * in_quads + c) * plane + y_at * s.in_w + x_at]);
                    __syncwarp(); /* the next cell reaches some of these pixels */
                }
            }
            __syncthreads();
        }
    }
    for (int32_t e = thread(); e < n * in_quads * plane; e += kThreads) {
        const float4 v = dx[e];
        const uint32_t on = alive[e];
        dx[e] = make_float4(on & 1 ? v.x : 0.0f, on & 2 ? v.y : 0.0f, on & 4 ? v.z : 0.0f,
                            on & 8 ? v.w : 0.0f);
    }
    __syncthreads();
}

/* Gradients of all convolutions from n images, whose maps are there. */
template <int K, bool kPad>
__device__ void convolve_bwd(const Client &a, int32_t pad, int32_t first, int32_t n)
{
    for (int l = a.steps - 1; l > 0; l--) {
        const Pooled y = pooled_of(a, l, first);
        next_dw<K, kPad>(a, pad, l, n, y);
        next_dx<K>(a, pad, l, n, y);
    }
    first_dw<K, kPad>(a, pad, n, pooled_of(a, 0, first));
}

/* ---- a step of training ---- */

/* The part up to the pooled features of the whole batch; the first images are on their way. */
template <int K, bool kPad>
__device__ void features_fwd(const Client &a, int32_t pad, const int32_t *row, int32_t used)
{
    const int32_t last = (used - 1) / a.chunk * a.chunk;
    for (int32_t first = 0; first < used; first += a.chunk) {
        const int32_t n = min(a.chunk, used - first);
        normalise(a, n);
        /* Backward begins with what is left here, then takes the images before. */
        const int32_t next = first < last ? first + a.chunk : first - a.chunk;
        if (next >= 0) fetch(a, row, next, min(a.chunk, used - next));
        convolve<K, kPad>(a, pad, a.steps, first, n);
    }
}

template <int K, bool kPad>
__device__ void features_bwd(const Client &a, int32_t pad, int32_t cur)
{
    /* Numbers of rows are read again, not kept in registers. */
    const Rows *const r = shared_rows(a);
    for (int32_t first = (r->used[cur] - 1) / a.chunk * a.chunk; first >= 0; first -= a.chunk) {
        const bool last = first + a.chunk >= r->used[cur];
        const int32_t n = min(a.chunk, r->used[cur] - first);
        if (!last) {
            normalise(a, n);
            if (first > 0) fetch(a, r->row[cur], first - a.chunk, a.chunk);
        }
        if (first == 0) fetch(a, r->row[1 - cur], 0, min(a.chunk, r->used[1 - cur]));
        if (!last) convolve<K, kPad>(a, pad, a.steps - 1, first, n);
        convolve_bwd<K, kPad>(a, pad, first, n);
    }
}

/* The two layers, there and back; the gradient of the features. */
__device__ void layers(const Client &a, int32_t cur, int32_t used, const Rule &rule,
                       const float *start)
{
    float *const hidden = shared(a.scratch), *const logits = hidden + a.hidden * kLd;
    hidden_fwd(a, used);
    __syncthreads();
    classes_fwd(a);
    __syncthreads();
    classify(a, cur);
    __syncthreads();
    linear_bwd(hidden, 1, kLd, a.hidden, logits, a.classes, shared(a.fc2_w), shared(a.fc2_b), rule,
               start + a.at_fc2_w, start + a.at_fc2_b, used);
    __syncthreads();
    linear_bwd(shared(a.x), a.features, 1, a.features, hidden, a.hidden, shared(a.fc1_w),
               shared(a.fc1_b), rule, start + a.at_fc1_w, start + a.at_fc1_b, used);
    __syncthreads();
}

template <int K>
__device__ void update_convolutions(const Client &a, const Rule &rule, const float *start)
{
    for (int l = 0; l < a.steps; l++) {
        const Step &s = a.step[l];
        const float *const grad = shared(s.grad);
        for (int32_t e = thread(); e < s.size; e += kThreads) {
            const int32_t place = rule.mu != 0.0f ? weight_place<K>(s, l == 0, e) : 0;
            update(shared(s.weight)[e], grad[e], rule, start + s.at_weight + place);
        }
        for (int32_t e = thread(); e < s.out_c; e += kThreads)
            update(shared(s.bias)[e], grad[s.size + e], rule, start + s.at_bias + e);
    }
}

/* Not kept in registers from step to step. */
__device__ __forceinline__ const float *start_of(const Client &a)
{
    return a.start + (int64_t)blockIdx.x * a.start_stride;
}

__device__ __forceinline__ int32_t steps_of(const Client &a)
{
    return (int32_t)min((int64_t)a.client_steps[blockIdx.x], a.max_steps);
}

/* The first warp lets the row numbers of a step come. */
__device__ __forceinline__ void fetch_rows(const Client &a, int32_t step)
{
    const int32_t lane = thread();
    int32_t *const to = &shared_rows(a)->next[lane];
    if (step < steps_of(a) && lane < a.batch)
        __pipeline_memcpy_async(
            to, a.row_numbers + ((int64_t)blockIdx.x * a.max_steps + step) * a.batch + lane, 4);
    else
        *to = -1;
    __pipeline_commit(); /* what is not committed is not waited for */
}

/* And their labels. */
__device__ __forceinline__ void fetch_labels(const Client &a, int32_t at)
{
    Rows *const r = shared_rows(a);
    const int32_t lane = thread(), row = r->row[at][lane];
    if (row >= 0) __pipeline_memcpy_async(&r->label[lane], a.labels + row, 4);
    __pipeline_commit();
}

/* Row numbers that have come become those of a step. */
__device__ __forceinline__ void note_rows(const Client &a, int32_t at)
{
    __pipeline_wait_prior(0);
    Rows *const r = shared_rows(a);
    const int32_t row = r->next[thread()];
    const bool image = row >= 0 && row < a.count;
    const uint32_t there = __ballot_sync(0xffffffffu, image);
    r->row[at][thread()] = image ? row : -1;
    if (thread() == 0) {
        r->used[at] = 32 - __clz((int)there);
        r->images[at] = __popc(there);
    }
}

template <int K, bool kPad>
__global__ void __launch_bounds__(kThreads, 1)
    client_cnn_kernel(const __grid_constant__ Client a, const int32_t pad)
{
    const int64_t g = blockIdx.x;
    const int32_t tid = thread();
    Rows *const r = shared_rows(a);
    for_all_values<K>(a, [&](float &to, int64_t at) { to = start_of(a)[at]; });
    if (tid < 32) {
        fetch_rows(a, 0);
        note_rows(a, 0);
    }
    if (tid == 0) r->sum = 0.0, r->losses = 0, r->steps = steps_of(a);
    __syncthreads();
    fetch(a, r->row[0], 0, min(a.chunk, r->used[0]));
    for (int32_t t = 0; t < r->steps; t++) {
        const int32_t cur = t % 2, used = r->used[cur];
        if (tid < 32) {
            fetch_rows(a, t + 1);
            fetch_labels(a, cur);
        }
        for (int32_t e = a.grad + tid; e < a.grad_end; e += kThreads) *shared(e) = 0.0f;
        if (used > 0) features_fwd<K, kPad>(a, kPad ? pad : 0, r->row[cur], used);
        if (tid < 32) note_rows(a, 1 - cur);
        __syncthreads();
        if (used == 0) {
            fetch(a, r->row[1 - cur], 0, min(a.chunk, r->used[1 - cur]));
            continue;
        }
        const Rule rule = {a.lr[g * a.lr_stride + t], a.weight_decay, a.mu};
        layers(a, cur, r->used[cur], rule, start_of(a));
        features_bwd<K, kPad>(a, kPad ? pad : 0, cur);
        update_convolutions<K>(a, rule, start_of(a));
        if (tid == 0) {
            double sum = 0.0;
            for (int i = 0; i < kRows; i++) sum += (double)r->loss[i];
            const bool counts = t >= a.loss_from[g];
            r->sum += counts ? sum : 0.0 * sum; /* NaN stays */
            r->losses += counts ? r->images[cur] : 0;
        }
        __syncthreads();
    }
    __pipeline_wait_prior(0);

    const double loss = r->losses > 0 ? r->sum / (double)r->losses : r->sum;
    bool bad = !isfinite(loss);
    float *const values = a.values + g * a.values_stride;
    for (int64_t i = tid; i < a.n; i += kThreads) values[i] = start_of(a)[i];
    __syncthreads();
    for_all_values<K>(a, [&](float &from, int64_t at) {
        values[at] = from;
        bad = bad || !isfinite(from);
    });
    bad = __syncthreads_or(bad);
    if (tid == 0) {
        a.loss[g] = (float)loss;
        a.status[g] = bad ? HN_CLIENT_NONFINITE : HN_CLIENT_DONE;
    }
}

/* ---- launcher ---- */

Step step_of(const hn_client_cnn_args *a, const hn_client_cnn_plan &p, int64_t l)
{
    const hn_client_cnn_step s = hn_client_cnn_step_of(&a->net, l);
    Step to = {};
    to.in_h = (int32_t)s.in_h, to.in_w = (int32_t)s.in_w, to.in_c = (int32_t)s.in_c;
    to.h = (int32_t)s.h, to.w = (int32_t)s.w, to.out_c = (int32_t)s.out_c;
    to.cells = to.h * to.w, to.quads = to.out_c / 4;
    to.size = (int32_t)(s.out_c * a->net.kernel * a->net.kernel * s.in_c);
    to.weight = (int32_t)p.conv_w[l], to.bias = (int32_t)p.conv_b[l];
    to.grad = (int32_t)p.grad[l], to.map = (int32_t)p.map[l];
    to.choice = (int32_t)p.choice[l], to.alive = (int32_t)p.alive[l];
    to.by_cells = hn_divisor_of(to.cells), to.by_w = hn_divisor_of(to.w);
    to.at_weight = a->at.conv_w[l], to.at_bias = a->at.conv_b[l];
    return to;
}

void set_places(Client &c, const hn_client_cnn_plan &p)
{
    c.chunk = (int32_t)p.chunk;
    c.fc1_w = (int32_t)p.fc1_w, c.fc1_b = (int32_t)p.fc1_b;
    c.fc2_w = (int32_t)p.fc2_w, c.fc2_b = (int32_t)p.fc2_b;
    c.x = (int32_t)p.features, c.grad = (int32_t)p.grad[0], c.grad_end = (int32_t)p.grad_end;
    c.scratch = (int32_t)p.scratch, c.scratch_end = (int32_t)p.scratch_end;
    c.rows = (int32_t)p.rows, c.bytes = (int32_t)p.bytes, c.pixels = (int32_t)p.pixels;
}

void set_net(Client &c, const hn_client_cnn_args *a)
{
    const hn_client_cnn_net &net = a->net;
    c.steps = (int32_t)net.steps, c.features = (int32_t)hn_client_cnn_features(&net);
    c.hidden = (int32_t)net.hidden, c.classes = (int32_t)net.classes;
    c.batch = (int32_t)a->batch, c.image_channels = (int32_t)net.channels;
    c.image_pixels = (int32_t)(net.height * net.width);
    c.image_bytes = c.image_pixels * c.image_channels;
    c.words = c.image_bytes % 4 == 0 && (uintptr_t)a->images % 4 == 0;
    c.by_pixels = hn_divisor_of(c.image_pixels);
    for (int k = 0; k < c.image_channels; k++) {
        const double std = a->std[k] != 0.0f ? (double)a->std[k] : 1.0;
        c.factor[k] = (float)(1.0 / (255.0 * std));
        c.shift[k] = (float)(-(double)a->mean[k] / std);
    }
}

Client client_of(const hn_client_cnn_args *a, const hn_client_cnn_plan &p)
{
    Client c = {};
    for (int64_t l = 0; l < a->net.steps; l++) c.step[l] = step_of(a, p, l);
    set_net(c, a);
    set_places(c, p);
    c.at_fc1_w = a->at.fc1_w, c.at_fc1_b = a->at.fc1_b;
    c.at_fc2_w = a->at.fc2_w, c.at_fc2_b = a->at.fc2_b;
    c.mu = a->mu, c.weight_decay = a->weight_decay;
    c.start = a->start, c.values = a->values;
    c.images = a->images, c.labels = a->labels, c.row_numbers = a->rows;
    c.client_steps = a->client_steps, c.loss_from = a->loss_from, c.lr = a->lr;
    c.loss = a->loss, c.status = a->status;
    c.count = a->count, c.n = a->n, c.max_steps = a->steps;
    c.start_stride = a->start_stride, c.values_stride = a->values_stride;
    c.lr_stride = a->lr_stride;
    return c;
}

} // namespace

hn_status hn_client_cnn_cuda(const hn_client_cnn_args *a, hn_stream stream)
{
    HN_TRY(hn_client_cnn_check(a));
    int device = 0, limit = 0;
    HN_TRY(HN_CUDA(cudaGetDevice(&device)));
    HN_TRY(
        HN_CUDA(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)));
    HN_TRY(hn_client_cnn_fits(&a->net, a->batch, (size_t)limit));
    const hn_client_cnn_plan plan = hn_client_cnn_plan_of(&a->net, a->batch, (size_t)limit);
    const auto kernel = a->net.kernel == 5 ? client_cnn_kernel<5, false>
                        : a->net.pad > 0   ? client_cnn_kernel<3, true>
                                           : client_cnn_kernel<3, false>;
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        (int)plan.n_bytes)));
    kernel<<<(unsigned)a->clients, kThreads, plan.n_bytes, stream>>>(client_of(a, plan),
                                                                     (int32_t)a->net.pad);
    return HN_CUDA_LAUNCHED("client_cnn");
}
