/* A block has one token, up to 4 query heads of one kv head, up to 128 columns of the values and a
 * share of the visible keys, which it takes 64 at a time: scores (a warp for each key), weights (a
 * warp for each head), values (a thread for each column). With several shares a second kernel
 * combines them in order. */
#include <math.h>

#include "kernels/attention/attention_decode.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_math.h"

namespace {

constexpr int kThreads = 128; /* 4 warps */
constexpr int kWarps = kThreads / 32;
constexpr int kHeads = 4;      /* query heads of a block, one for each warp */
constexpr int kKeys = 64;      /* keys at a time: two for each lane */
constexpr int kCols = 128;     /* value columns of a block */
constexpr int kLeast = 256;    /* keys that are worth a block */
constexpr int kMostParts = 64; /* shares of one token's keys */

/* The shares depend on shapes only; how many keys are in one depends on the position. */
__host__ __device__ int64_t parts_of(const hn_attention_decode_args &a)
{
    int64_t keys = a.capacity;
    if (a.window > 0 && a.window < keys) keys = a.window;
    const int64_t parts = (keys + kLeast - 1) / kLeast;
    return parts < kMostParts ? parts : kMostParts;
}

/* The keys first <= j < last that a token sees, `per` of them in each of `used` shares. */
struct Keys {
    int64_t first, last, per;
    int used;
};

__device__ __forceinline__ Keys keys_of(const hn_attention_decode_args &a, int64_t row)
{
    Keys k;
    k.last = (int64_t)a.positions[row / a.tokens] + row % a.tokens + 1;
    if (k.last > a.capacity) k.last = a.capacity; /* a broken promise stays in its cache */
    if (k.last < 0) k.last = 0;
    k.first = a.window > 0 && k.last > a.window ? k.last - a.window : 0;
    const int64_t n = k.last - k.first, parts = parts_of(a);
    k.per = ((n + parts - 1) / parts + kKeys - 1) / kKeys * kKeys;
    if (k.per < kLeast) k.per = kLeast;
    k.used = (int)((n + k.per - 1) / k.per);
    return k;
}

/* What a share leaves in scratch: the outputs relative to its largest score, the score, the sum. */
__host__ __device__ int64_t part_floats(const hn_attention_decode_args &a)
{
    return a.value_dim + 2;
}

__device__ __forceinline__ float *part_of(const hn_attention_decode_args &a, float *scratch,
                                          int64_t row, int64_t head, int64_t part)
{
    return scratch + ((row * a.heads + head) * parts_of(a) + part) * part_floats(a);
}

struct Shared {
    float p[kHeads][kKeys]; /* scores, then weights */
    float shrink[kHeads], most[kHeads], sum[kHeads];
    float o[kHeads][kThreads]; /* at the end: outputs of the groups of threads */
};

/* Scores of keys j0 .. j0 + keys of one kv head; k: row j0 of the batch entry's cache. */
template <class T>
__device__ void score_keys(const hn_attention_decode_args &a, Shared &s, const T *q, int heads,
                           const T *k, int keys)
{
    const int lane = threadIdx.x % 32;
    for (int j = threadIdx.x / 32; j < keys; j += kWarps) {
        float t[kHeads] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int64_t c = lane; c < a.head_dim; c += 32) {
            const float x = hn_f32(k[j * a.ld_k + c]);
#pragma unroll
            for (int h = 0; h < kHeads; h++)
                if (h < heads) t[h] += x * hn_f32(q[h * a.head_dim + c]);
        }
#pragma unroll
        for (int h = 0; h < kHeads; h++) {
            if (h >= heads) continue; /* the same for all lanes */
            float score = a.scale * hn_warp_sum(t[h]);
            if (a.softcap > 0.0f) score = a.softcap * tanhf(score / a.softcap);
            if (lane == 0) s.p[h][j] = score;
        }
    }
}

/* Scores become weights relative to the head's new maximum; a warp for each head. */
__device__ void weigh_keys(Shared &s, int heads, int keys, float &most, float &sum)
{
    const int h = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (h >= heads) return;
    const float t0 = lane < keys ? s.p[h][lane] : -INFINITY;
    const float t1 = lane + 32 < keys ? s.p[h][lane + 32] : -INFINITY;
    const float now = fmaxf(most, hn_warp_max(fmaxf(t0, t1)));
    const float base = now == -INFINITY ? 0.0f : now;
    const float p0 = lane < keys ? expf(t0 - base) : 0.0f;
    const float p1 = lane + 32 < keys ? expf(t1 - base) : 0.0f;
    const float shrink = expf(most - base);
    s.p[h][lane] = p0;
    s.p[h][lane + 32] = p1;
    if (lane == 0) s.shrink[h] = shrink;
    sum = sum * shrink + hn_warp_sum(p0 + p1);
    most = now;
}

/* Grid: token, then share, then columns of 128, then up to 4 heads. */
template <class T>
__global__ void __launch_bounds__(kThreads)
    attention_decode(const hn_attention_decode_args a, float *scratch)
{
    __shared__ Shared s;
    const int64_t parts = parts_of(a), rows = a.batch * a.tokens, group = a.heads / a.kv_heads;
    const int64_t col_blocks = (a.value_dim + kCols - 1) / kCols;
    int64_t item = blockIdx.x;
    const int64_t row = item % rows;
    item /= rows;
    const int64_t part = item % parts;
    item /= parts;
    const int64_t col0 = item % col_blocks * kCols;
    item /= col_blocks;
    const int64_t head_blocks = (group + kHeads - 1) / kHeads, g = item / head_blocks;
    const int64_t in_group = item % head_blocks * kHeads, head0 = g * group + in_group;
    const int heads = (int)(group - in_group < kHeads ? group - in_group : kHeads);

    const Keys keys = keys_of(a, row);
    if (part >= keys.used && part > 0) return; /* share 0 also serves a token that sees nothing */
    const int64_t begin = keys.first + part * keys.per;
    const int64_t end = begin + keys.per < keys.last ? begin + keys.per : keys.last;
    const int64_t cache_row = row / a.tokens * a.capacity;
    const T *q = (const T *)a.q + row * a.ld_q + head0 * a.head_dim;
    const T *k = (const T *)a.k_cache + cache_row * a.ld_k + g * a.head_dim;
    const T *v = (const T *)a.v_cache + cache_row * a.ld_v + g * a.value_dim + col0;

    /* Threads side by side have columns side by side; with few columns there are several groups
     * of threads, which share the keys out. */
    const int cols = (int)(a.value_dim - col0 < kCols ? a.value_dim - col0 : kCols);
    const int width = cols > 64 ? 128 : cols > 32 ? 64 : 32, groups = kThreads / width;
    const int col = threadIdx.x % width, own = threadIdx.x / width;
    float o[kHeads] = {0.0f, 0.0f, 0.0f, 0.0f};
    float most = -INFINITY, sum = 0.0f; /* of the warp's head */
    for (int64_t j0 = begin; j0 < end; j0 += kKeys) {
        const int n = (int)(end - j0 < kKeys ? end - j0 : kKeys);
        score_keys(a, s, q, heads, k + j0 * a.ld_k, n);
        __syncthreads();
        weigh_keys(s, heads, n, most, sum);
        __syncthreads();
#pragma unroll
        for (int h = 0; h < kHeads; h++)
            if (h < heads) o[h] *= s.shrink[h];
        if (col < cols) {
#pragma unroll 4
            for (int j = own; j < n; j += groups) {
                const float x = hn_f32(v[(j0 + j) * a.ld_v + col]);
#pragma unroll
                for (int h = 0; h < kHeads; h++)
                    if (h < heads) o[h] += s.p[h][j] * x;
            }
        }
        __syncthreads(); /* the next round writes p */
    }

    if (threadIdx.x % 32 == 0) {
        s.most[threadIdx.x / 32] = most;
        s.sum[threadIdx.x / 32] = sum;
    }
#pragma unroll
    for (int h = 0; h < kHeads; h++) s.o[h][threadIdx.x] = o[h];
    __syncthreads();
    if (own > 0 || col >= cols) return;
    for (int h = 0; h < heads; h++) {
        float total = 0.0f;
        for (int w = 0; w < groups; w++) total += s.o[h][w * width + col];
        if (parts > 1) {
            float *to = part_of(a, scratch, row, head0 + h, part);
            to[col0 + col] = total;
            if (col0 == 0 && col == 0) {
                to[a.value_dim] = s.most[h];
                to[a.value_dim + 1] = s.sum[h];
            }
        } else {
            ((T *)a.o)[row * a.ld_o + (head0 + h) * a.value_dim + col0 + col] =
                hn_round<T>(begin < end ? total / s.sum[h] : 0.0f);
        }
    }
}

/* Grid: token, then head. */
template <class T>
__global__ void __launch_bounds__(kThreads)
    attention_decode_combine(const hn_attention_decode_args a, float *scratch)
{
    const int64_t rows = a.batch * a.tokens, row = blockIdx.x % rows, head = blockIdx.x / rows;
    const int used = keys_of(a, row).used;
    float most = -INFINITY, sum = 0.0f;
    for (int w = 0; w < used; w++)
        most = fmaxf(most, part_of(a, scratch, row, head, w)[a.value_dim]);
    const float base = most == -INFINITY ? 0.0f : most;
    for (int w = 0; w < used; w++) {
        const float *part = part_of(a, scratch, row, head, w);
        sum += part[a.value_dim + 1] * expf(part[a.value_dim] - base);
    }
    for (int64_t c = threadIdx.x; c < a.value_dim; c += kThreads) {
        float o = 0.0f;
        for (int w = 0; w < used; w++) {
            const float *part = part_of(a, scratch, row, head, w);
            o += part[c] * expf(part[a.value_dim] - base);
        }
        ((T *)a.o)[row * a.ld_o + head * a.value_dim + c] = hn_round<T>(used > 0 ? o / sum : 0.0f);
    }
}

hn_attention_decode_args with_value_dim(const hn_attention_decode_args *a)
{
    hn_attention_decode_args b = *a;
    if (b.value_dim == 0) b.value_dim = b.head_dim;
    return b;
}

} // namespace

size_t hn_attention_decode_cuda_scratch(const hn_attention_decode_args *a)
{
    const hn_attention_decode_args b = with_value_dim(a);
    const int64_t parts = parts_of(b);
    if (parts <= 1) return 0;
    return (size_t)(b.batch * b.tokens * b.heads * parts * part_floats(b)) * sizeof(float);
}

hn_status hn_attention_decode_cuda(const hn_attention_decode_args *a, void *scratch,
                                   hn_stream stream)
{
    HN_TRY(hn_attention_decode_check(a));
    const hn_attention_decode_args b = with_value_dim(a);
    const int64_t parts = parts_of(b), rows = b.batch * b.tokens;
    if (parts > 1) HN_TRY(hn_check_pointer("attention_decode", "scratch", scratch));
    const int64_t group = b.heads / b.kv_heads;
    const int64_t blocks = rows * parts * ((b.value_dim + kCols - 1) / kCols) * b.kv_heads *
                           ((group + kHeads - 1) / kHeads);
    if (blocks > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE, "attention_decode: %lld blocks of work are too many for CUDA",
                       (long long)blocks);
    float *partial = (float *)scratch;
    HN_CUDA_REAL(b.dtype, T,
                 attention_decode<T><<<(unsigned)blocks, kThreads, 0, stream>>>(b, partial));
    HN_TRY(HN_CUDA_LAUNCHED("attention_decode"));
    if (parts <= 1) return HN_OK;
    HN_CUDA_REAL(b.dtype, T,
                 attention_decode_combine<T>
                 <<<(unsigned)(rows * b.heads), kThreads, 0, stream>>>(b, partial));
    return HN_CUDA_LAUNCHED("attention_decode_combine");
}
