/* A block has one token, up to 4 query heads of one kv head and a share of the visible keys. Rows
 * of 16-byte pieces: a team of 8, 16 or 32 lanes has a key, 8 columns a lane, and goes through its
 * keys by itself (scores, running softmax, values), several keys under way at a time; the teams'
 * results meet at the end. Other rows: 64 keys at a time, scores (a warp for each key), weights (a
 * warp for each head), values (a thread for each of up to 128 columns). With several shares a
 * second kernel combines them in order. */
#include <math.h>

#include "kernels/attention/attention_decode.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 128; /* 4 warps */
constexpr int kWarps = kThreads / 32;
constexpr int kHeads = 4;        /* query heads of a block, one for each warp */
constexpr int kKeys = 64;        /* keys at a time: two for each lane */
constexpr int kCols = 128;       /* value columns of a block */
constexpr uint32_t kLeast = 128; /* keys that are worth a block: of 64 columns, 32 KiB in bf16 */
constexpr int kMostParts = 48;   /* shares of one token's keys: times 8 kv heads 384 blocks, 3 for
                                  * each multiprocessor of an H200 at a time */
constexpr int kCombineThreads = 256;
static_assert(kMostParts <= 64, "the combining warp gives a lane two shares");

/* Keys of a team under way: 64 bytes of keys and 64 of values a lane. */
template <class T>
constexpr int kUnder = 8 / (int)sizeof(T);

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
    const uint32_t tokens = (uint32_t)a.tokens, entry = (uint32_t)row / tokens;
    Keys k;
    k.last = (int64_t)a.positions[entry] + ((uint32_t)row - entry * tokens) + 1;
    if (k.last > a.capacity) k.last = a.capacity; /* a broken promise stays in its cache */
    if (k.last < 0) k.last = 0;
    k.first = a.window > 0 && k.last > a.window ? k.last - a.window : 0;
    const uint32_t n = (uint32_t)(k.last - k.first), parts = (uint32_t)parts_of(a);
    uint32_t per = ((n + parts - 1) / parts + kKeys - 1) / kKeys * kKeys;
    if (per < kLeast) per = kLeast;
    k.per = per;
    k.used = (int)((n + per - 1) / per);
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

/* What a block has. */
struct Work {
    int64_t row, part, group, head0, col0; /* group: the kv head; col0: of the values */
    int heads;
    int64_t begin, end; /* keys; begin < end unless the token sees nothing */
    bool idle;
};

/* Grid: token, then share, then `piece` columns of the values, then up to 4 heads. Numbers of
 * blocks are below 2^31, and short divisions take a third of the time of long ones. */
__device__ __forceinline__ Work work_of(const hn_attention_decode_args &a, int64_t piece)
{
    const uint32_t rows = (uint32_t)(a.batch * a.tokens), parts = (uint32_t)parts_of(a);
    const uint32_t group = (uint32_t)a.heads / (uint32_t)a.kv_heads;
    const uint32_t head_blocks = (group + kHeads - 1) / kHeads;
    const uint32_t pieces = (uint32_t)((a.value_dim + piece - 1) / piece);
    uint32_t item = blockIdx.x;
    Work w;
    w.row = item % rows;
    item /= rows;
    w.part = item % parts;
    item /= parts;
    w.col0 = item % pieces * piece;
    item /= pieces;
    w.group = item / head_blocks;
    const uint32_t in_group = item % head_blocks * kHeads;
    w.head0 = w.group * group + in_group;
    w.heads = (int)(group - in_group < kHeads ? group - in_group : kHeads);
    const Keys keys = keys_of(a, w.row);
    w.idle = w.part >= keys.used && w.part > 0; /* share 0 also serves a token that sees nothing */
    w.begin = keys.first + w.part * keys.per;
    w.end = w.begin + keys.per < keys.last ? w.begin + keys.per : keys.last;
    return w;
}

/* One output of the block's share: `total` is relative to `most`, `sum` that of the weights. */
template <class T>
__device__ __forceinline__ void store_output(const hn_attention_decode_args &a, float *scratch,
                                             const Work &w, int h, int64_t col, float total,
                                             float most, float sum)
{
    if (parts_of(a) > 1) {
        float *const to = part_of(a, scratch, w.row, w.head0 + h, w.part);
        to[col] = total;
        if (col > 0) return;
        to[a.value_dim] = most;
        to[a.value_dim + 1] = sum;
    } else {
        ((T *)a.o)[w.row * a.ld_o + (w.head0 + h) * a.value_dim + col] =
            hn_round<T>(w.begin < w.end ? total / sum : 0.0f);
    }
}

__device__ __forceinline__ float capped(float score, float softcap)
{
    return softcap * tanhf(score / softcap);
}

/* ---- rows of 16-byte pieces ---- */

/* A lane's columns of a team's results, of each head. */
struct Running {
    float o[kHeads][HN_VEC], most[kHeads], sum[kHeads];
};

/* kKeysNow keys more: their scores, -inf for those that are not there, and their values. */
template <int kKeysNow, class T>
__device__ __forceinline__ void take_keys(Running &r, const float (&score)[kKeysNow][kHeads],
                                          const hn_pack<T> (&value)[kKeysNow])
{
    float p[kKeysNow][kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; h++) {
        float now = r.most[h];
#pragma unroll
        for (int u = 0; u < kKeysNow; u++) now = fmaxf(now, score[u][h]);
        const float base = now == -INFINITY ? 0.0f : now;
        const float shrink = expf(r.most[h] - base);
        r.sum[h] *= shrink;
#pragma unroll
        for (int c = 0; c < HN_VEC; c++) r.o[h][c] *= shrink;
#pragma unroll
        for (int u = 0; u < kKeysNow; u++) {
            p[u][h] = expf(score[u][h] - base);
            r.sum[h] += p[u][h];
        }
        r.most[h] = now;
    }
#pragma unroll
    for (int u = 0; u < kKeysNow; u++) {
        float v[HN_VEC];
        hn_unpack(value[u], v);
#pragma unroll
        for (int h = 0; h < kHeads; h++)
#pragma unroll
            for (int c = 0; c < HN_VEC; c++) r.o[h][c] += p[u][h] * v[c];
    }
}

template <int kTeam>
struct Meeting {
    static constexpr int kTeams = kThreads / kTeam;
    float o[kTeams][kHeads][kTeam * HN_VEC]; /* 16 KiB */
    float most[kTeams][kHeads], sum[kTeams][kHeads], weight[kTeams][kHeads];
};

/* The teams' results, in order, become those of the block. */
template <class T, int kTeam>
__device__ __forceinline__ void meet(const hn_attention_decode_args &a, float *scratch,
                                     const Work &w, const Running &r, Meeting<kTeam> &s)
{
    constexpr int kTeams = Meeting<kTeam>::kTeams;
    const int lane = (int)threadIdx.x % kTeam, team = (int)threadIdx.x / kTeam;
#pragma unroll
    for (int h = 0; h < kHeads; h++) {
#pragma unroll
        for (int c = 0; c < HN_VEC; c++) s.o[team][h][lane * HN_VEC + c] = r.o[h][c];
        if (lane == 0) s.most[team][h] = r.most[h], s.sum[team][h] = r.sum[h];
    }
    __syncthreads();
    if (threadIdx.x < kTeams * kHeads) {
        const int t = (int)threadIdx.x / kHeads, h = (int)threadIdx.x % kHeads;
        float most = -INFINITY;
        for (int k = 0; k < kTeams; k++) most = fmaxf(most, s.most[k][h]);
        s.weight[t][h] = most == -INFINITY ? 0.0f : expf(s.most[t][h] - most);
    }
    __syncthreads();
    for (int h = 0; h < w.heads; h++) {
        float most = -INFINITY, sum = 0.0f;
        for (int k = 0; k < kTeams; k++) {
            most = fmaxf(most, s.most[k][h]);
            sum += s.weight[k][h] * s.sum[k][h];
        }
        for (int col = (int)threadIdx.x; col < a.value_dim; col += kThreads) {
            float total = 0.0f;
            for (int k = 0; k < kTeams; k++) total += s.weight[k][h] * s.o[k][h][col];
            store_output<T>(a, scratch, w, h, col, total, most, sum);
        }
    }
}

/* Heads of a block that are not there have queries of zeros and are left out at the end. */
template <class T, int kTeam>
__global__ void __launch_bounds__(kThreads)
    attention_decode_teams(const hn_attention_decode_args a, float *scratch)
{
    __shared__ Meeting<kTeam> s;
    constexpr int kTeams = kThreads / kTeam, kKeysNow = kUnder<T>;
    const Work w = work_of(a, kTeam * HN_VEC);
    if (w.idle) return;
    const int64_t col = (int64_t)(threadIdx.x % kTeam) * HN_VEC, team = threadIdx.x / kTeam;
    const bool in_key = col < a.head_dim, in_value = col < a.value_dim;
    const int64_t cache_row = w.row / a.tokens * a.capacity;
    const T *const q = (const T *)a.q + w.row * a.ld_q + w.head0 * a.head_dim + col;
    const T *const k = (const T *)a.k_cache + cache_row * a.ld_k + w.group * a.head_dim + col;
    const T *const v = (const T *)a.v_cache + cache_row * a.ld_v + w.group * a.value_dim + col;

    float query[kHeads][HN_VEC];
    Running r;
#pragma unroll
    for (int h = 0; h < kHeads; h++) {
        hn_pack<T> p = {};
        if (in_key && h < w.heads) p = hn_load_pack(q + h * a.head_dim);
        hn_unpack(p, query[h]);
        r.most[h] = -INFINITY, r.sum[h] = 0.0f;
#pragma unroll
        for (int c = 0; c < HN_VEC; c++) r.o[h][c] = 0.0f;
    }
    for (int64_t j0 = w.begin; j0 < w.end; j0 += kTeams * kKeysNow) { /* the same in every thread */
        hn_pack<T> key[kKeysNow] = {}, value[kKeysNow] = {};
#pragma unroll
        for (int u = 0; u < kKeysNow; u++) {
            const int64_t j = j0 + u * kTeams + team;
            if (j < w.end && in_key) key[u] = hn_load_pack(k + j * a.ld_k);
            if (j < w.end && in_value) value[u] = hn_load_pack(v + j * a.ld_v);
        }
        float score[kKeysNow][kHeads];
#pragma unroll
        for (int u = 0; u < kKeysNow; u++) {
            float x[HN_VEC];
            hn_unpack(key[u], x);
#pragma unroll
            for (int h = 0; h < kHeads; h++) {
                float dot = 0.0f;
#pragma unroll
                for (int c = 0; c < HN_VEC; c++) dot += query[h][c] * x[c];
#pragma unroll
                for (int d = kTeam / 2; d > 0; d /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, d);
                score[u][h] = a.scale * dot;
            }
        }
        if (a.softcap > 0.0f) { /* one branch for all of them */
#pragma unroll
            for (int u = 0; u < kKeysNow; u++)
#pragma unroll
                for (int h = 0; h < kHeads; h++) score[u][h] = capped(score[u][h], a.softcap);
        }
#pragma unroll
        for (int u = 0; u < kKeysNow; u++)
#pragma unroll
            for (int h = 0; h < kHeads; h++)
                if (j0 + u * kTeams + team >= w.end) score[u][h] = -INFINITY;
        take_keys(r, score, value);
    }
    meet<T>(a, scratch, w, r, s);
}

/* ---- any rows ---- */

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
            if (a.softcap > 0.0f) score = capped(score, a.softcap);
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

template <class T>
__global__ void __launch_bounds__(kThreads)
    attention_decode_rows(const hn_attention_decode_args a, float *scratch)
{
    __shared__ Shared s;
    const Work work = work_of(a, kCols);
    if (work.idle) return;
    const int64_t begin = work.begin, end = work.end, col0 = work.col0;
    const int heads = work.heads;
    const int64_t cache_row = work.row / a.tokens * a.capacity;
    const T *q = (const T *)a.q + work.row * a.ld_q + work.head0 * a.head_dim;
    const T *k = (const T *)a.k_cache + cache_row * a.ld_k + work.group * a.head_dim;
    const T *v = (const T *)a.v_cache + cache_row * a.ld_v + work.group * a.value_dim + col0;

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
        store_output<T>(a, scratch, work, h, col0 + col, total, s.most[h], s.sum[h]);
    }
}

/* ---- shares of the keys ---- */

/* Grid: token, then head. A lane of the first warp weighs two shares; threads side by side have
 * columns side by side, and with few columns there are several slices of the shares. */
template <class T>
__global__ void __launch_bounds__(kCombineThreads)
    attention_decode_combine(const hn_attention_decode_args a, float *scratch)
{
    __shared__ float weight[kMostParts], total, of_slice[kCombineThreads];
    const int64_t rows = a.batch * a.tokens, row = blockIdx.x % rows, head = blockIdx.x / rows;
    const int used = keys_of(a, row).used, tid = (int)threadIdx.x;
    const float *const part = part_of(a, scratch, row, head, 0);
    if (tid < 32) {
        float most[2], sum[2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const int w = tid + 32 * k;
            most[k] = w < used ? part[w * part_floats(a) + a.value_dim] : -INFINITY;
            sum[k] = w < used ? part[w * part_floats(a) + a.value_dim + 1] : 0.0f;
        }
        const float all = hn_warp_max(fmaxf(most[0], most[1]));
        const float base = all == -INFINITY ? 0.0f : all;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const float by = expf(most[k] - base);
            if (tid + 32 * k < used) weight[tid + 32 * k] = by;
            sum[k] *= by;
        }
        const float both = hn_warp_sum(sum[0] + sum[1]);
        if (tid == 0) total = both;
    }
    __syncthreads();
    const int width = a.value_dim <= 64 ? 64 : a.value_dim <= 128 ? 128 : 256;
    const int slices = kCombineThreads / width, slice = tid / width;
    for (int64_t c0 = 0; c0 < a.value_dim; c0 += width) { /* the same in every thread */
        const int64_t c = c0 + tid % width;
        float o = 0.0f;
        if (c < a.value_dim) {
#pragma unroll 8
            for (int w = slice; w < used; w += slices)
                o += weight[w] * part[w * part_floats(a) + c];
        }
        of_slice[tid] = o;
        __syncthreads();
        if (slice == 0 && c < a.value_dim) {
            for (int k = 1; k < slices; k++) o += of_slice[k * width + tid];
            ((T *)a.o)[row * a.ld_o + head * a.value_dim + c] =
                hn_round<T>(used > 0 ? o / total : 0.0f);
        }
        __syncthreads(); /* the next columns write of_slice */
    }
}

hn_attention_decode_args with_value_dim(const hn_attention_decode_args *a)
{
    hn_attention_decode_args b = *a;
    if (b.value_dim == 0) b.value_dim = b.head_dim;
    return b;
}

/* Lanes of a team, 0 where rows are not made of 16-byte pieces or too long. */
int team_of(const hn_attention_decode_args &a)
{
    const int64_t most = a.head_dim > a.value_dim ? a.head_dim : a.value_dim;
    const bool fit = a.head_dim % HN_VEC == 0 && a.value_dim % HN_VEC == 0 &&
                     hn_vectors_fit(a.q, a.ld_q, a.dtype) &&
                     hn_vectors_fit(a.k_cache, a.ld_k, a.dtype) &&
                     hn_vectors_fit(a.v_cache, a.ld_v, a.dtype);
    if (!fit || most > 32 * HN_VEC) return 0;
    return most <= 8 * HN_VEC ? 8 : most <= 16 * HN_VEC ? 16 : 32;
}

template <class T>
void launch(const hn_attention_decode_args &a, int team, unsigned blocks, float *scratch,
            cudaStream_t stream)
{
    switch (team) {
    case 8: attention_decode_teams<T, 8><<<blocks, kThreads, 0, stream>>>(a, scratch); break;
    case 16: attention_decode_teams<T, 16><<<blocks, kThreads, 0, stream>>>(a, scratch); break;
    case 32: attention_decode_teams<T, 32><<<blocks, kThreads, 0, stream>>>(a, scratch); break;
    default: attention_decode_rows<T><<<blocks, kThreads, 0, stream>>>(a, scratch); break;
    }
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
    const int team = team_of(b);
    const int64_t pieces = team ? 1 : (b.value_dim + kCols - 1) / kCols;
    const int64_t blocks = rows * parts * pieces * b.kv_heads * ((group + kHeads - 1) / kHeads);
    if (blocks > INT32_MAX)
        return HN_FAIL(HN_ERR_SHAPE, "attention_decode: %lld blocks of work are too many for CUDA",
                       (long long)blocks);
    float *partial = (float *)scratch;
    HN_CUDA_REAL(b.dtype, T, launch<T>(b, team, (unsigned)blocks, partial, stream));
    HN_TRY(HN_CUDA_LAUNCHED("attention_decode"));
    if (parts <= 1) return HN_OK;
    HN_CUDA_REAL(b.dtype, T,
                 attention_decode_combine<T>
                 <<<(unsigned)(rows * b.heads), kCombineThreads, 0, stream>>>(b, partial));
    return HN_CUDA_LAUNCHED("attention_decode_combine");
}
