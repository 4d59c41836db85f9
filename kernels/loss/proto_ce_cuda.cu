/* A block of 16 warps is an episode: prototypes, a thread an element; queries, a warp a row;
 * gradients of the prototypes, a thread four of one column; support rows, a warp a row. Classes go
 * by slots, in the order in which the support brings them. */
#include <float.h>

#include "kernels/loss/proto_ce.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_math.h"

namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kWays = HN_PROTO_WAYS;
constexpr int kPack = 4;              /* slots a thread gathers at a time */
constexpr size_t kShared = 40 * 1024; /* with the fixed arrays, 5.5 KiB, below 48 KiB */
constexpr float kEps = (float)HN_PROTO_EPS;

/* What a block keeps besides its fixed arrays, in floats. */
struct Layout {
    int64_t v, dv;        /* [ways, width] prototypes / [norm], and their gradients */
    int64_t g, used;      /* [queries, stride] g / [x], [queries] 1 / [x] or 0: not counted */
    int64_t stride, size; /* of a row of g, ways in packs; of all */
};

Layout layout_of(const hn_proto_ce_args *a)
{
    Layout l = {};
    const int64_t vectors = (a->ways * a->width + kPack - 1) / kPack * kPack;
    l.stride = (a->ways + kPack - 1) / kPack * kPack;
    l.dv = vectors; /* behind v */
    l.g = 2 * vectors;
    l.used = l.g + a->queries * l.stride;
    l.size = (l.used + a->queries + 15) / 16 * 16;
    return l;
}

bool fits(const Layout &l) { return (size_t)l.size * sizeof(float) <= kShared; }

template <class T>
struct ProtoCe {
    const T *features;
    const int32_t *labels;
    float *loss, *count, *hits;
    T *dfeatures;
    int32_t *prediction;
    float *logits, *scratch;
    int support, queries, width, ways;
    int64_t ld_features, ld_dfeatures, ld_logits, count_stride;
    float scale, offset;
    hn_divisor by_width;
    Layout at;
};

/* The classes of the episode. */
struct Slots {
    int first[kWays], rows[kWays]; /* of a class: its first support row and how many */
    int slot_of[kWays];            /* -1: no support */
    int class_of[kWays];           /* of a slot, as what follows */
    float norm[kWays];             /* of the prototype */
};

__device__ __forceinline__ float at_least(float norm) { return fmaxf(norm, kEps); }

/* How many slots there are. Integer minima and sums: their order is no matter. */
template <class T>
__device__ __forceinline__ int find_slots(const ProtoCe<T> &a, const int32_t *labels, Slots &s)
{
    const int c = (int)threadIdx.x;
    if (c < kWays) {
        s.first[c] = INT32_MAX;
        s.rows[c] = 0;
        s.slot_of[c] = -1;
    }
    __syncthreads();
    for (int j = c; j < a.support; j += kThreads) {
        const int32_t y = labels[j];
        if (y < 0 || y >= a.ways) continue;
        atomicMin(&s.first[y], j);
        atomicAdd(&s.rows[y], 1);
    }
    __syncthreads();
    const bool there = c < kWays && s.first[c] != INT32_MAX;
    if (there) {
        int slot = 0;
        for (int b = 0; b < a.ways; b++) slot += s.first[b] < s.first[c];
        s.slot_of[c] = slot;
        s.class_of[slot] = c;
    }
    return __syncthreads_count(there);
}

/* v = prototypes / [prototype]. */
template <class T>
__device__ __forceinline__ void make_prototypes(const ProtoCe<T> &a, const T *x,
                                                const int32_t *labels, Slots &s, int n, float *v)
{
    for (int e = (int)threadIdx.x; e < n * a.width; e += kThreads) {
        const int slot = (int)hn_divide((uint32_t)e, a.by_width), k = e - slot * a.width;
        const int c = s.class_of[slot];
        float sum = 0.0f;
#pragma unroll 4
        for (int j = 0; j < a.support; j++)
            sum += labels[j] == c ? hn_f32(x[j * a.ld_features + k]) : 0.0f;
        v[e] = sum / (float)s.rows[c];
    }
    __syncthreads();
    const int lane = (int)threadIdx.x % kWarp;
    for (int slot = (int)threadIdx.x / kWarp; slot < n; slot += kWarps) {
        float *const p = v + slot * a.width;
        float squares = 0.0f;
        for (int k = lane; k < a.width; k += kWarp) squares += p[k] * p[k];
        const float norm = sqrtf(hn_warp_sum(squares));
        const float factor = 1.0f / at_least(norm);
        for (int k = lane; k < a.width; k += kWarp) p[k] *= factor;
        if (lane == 0) s.norm[slot] = norm;
    }
    __syncthreads();
}

/* The largest logit and its slot; of equals the first. */
struct Best {
    float z;
    int at;
};

__device__ __forceinline__ Best better(Best a, Best b)
{
    return b.z > a.z || (b.z == a.z && b.at < a.at) ? b : a;
}

__device__ __forceinline__ Best warp_best(Best a)
{
    for (int d = kWarp / 2; d > 0; d /= 2)
        a = better(a,
                   {__shfl_xor_sync(0xffffffffu, a.z, d), __shfl_xor_sync(0xffffffffu, a.at, d)});
    return a;
}

__device__ __forceinline__ float no_nan(float z) { return isnan(z) ? -INFINITY : z; }

/* Products of a query with the vectors of all slots, into to[slot]; returns its |x|. */
template <class T>
__device__ __forceinline__ float dots(const T *x, const float *v, int width, int n, float *to)
{
    const int lane = (int)threadIdx.x % kWarp;
    float squares = 0.0f;
    for (int b = 0; b == 0 || b < n; b += kPack) {
        float sum[kPack] = {};
        squares = 0.0f;
        for (int k = lane; k < width; k += kWarp) {
            const float f = hn_f32(x[k]);
            squares += f * f;
#pragma unroll
            for (int i = 0; i < kPack; i++)
                if (b + i < n) sum[i] += f * v[(b + i) * width + k];
        }
#pragma unroll
        for (int i = 0; i < kPack; i++) {
            const float dot = hn_warp_sum(sum[i]);
            if (lane == 0 && b + i < n) to[b + i] = dot;
        }
    }
    __syncwarp();
    return sqrtf(hn_warp_sum(squares));
}

/* Of the rows of a warp. */
struct Sums {
    double loss;
    int count, hits;
};

/* One query row by a warp. mine: kWays floats of the warp; g: its row for the prototypes. */
template <class T>
__device__ __forceinline__ void query(const ProtoCe<T> &a, const T *x, T *dx, int32_t label,
                                      int64_t at, const Slots &s, int n, const float *v,
                                      float *mine, float *g, float *used, Sums &sums)
{
    const int lane = (int)threadIdx.x % kWarp, high = lane + kWarp;
    const bool padding = label == HN_LABEL_IGNORED;
    const int own = label >= 0 && label < a.ways ? s.slot_of[label] : -1;
    const float norm = dots(x, v, a.width, n, mine), factor = 1.0f / at_least(norm);
    const float cos0 = lane < n ? mine[lane] * factor : 0.0f;
    const float cos1 = high < n ? mine[high] * factor : 0.0f;
    const float z0 = lane < n ? a.scale * (cos0 + a.offset) : -INFINITY;
    const float z1 = high < n ? a.scale * (cos1 + a.offset) : -INFINITY;
    const Best best = warp_best(better({no_nan(z0), lane}, {no_nan(z1), high}));
    const bool known = best.z > -INFINITY; /* some logit is no NaN */
    __syncwarp();
    mine[lane] = z0;
    mine[high] = z1;
    __syncwarp();
    if (a.prediction != nullptr && lane == 0)
        a.prediction[at] = padding || !known ? -1 : s.class_of[best.at];
    if (a.logits != nullptr)
        for (int c = lane; c < a.ways; c += kWarp)
            a.logits[at * a.ld_logits + c] = padding            ? 0.0f
                                             : s.slot_of[c] < 0 ? -FLT_MAX
                                                                : mine[s.slot_of[c]];
    const float power0 = lane < n ? expf(z0 - best.z) : 0.0f;
    const float power1 = high < n ? expf(z1 - best.z) : 0.0f;
    const float sum = hn_warp_sum(power0 + power1);
    const bool counted = own >= 0; /* the same for the warp */
    if (counted && lane == 0) {
        sums.loss += (double)(best.z - mine[own]) + (double)logf(sum);
        sums.count++;
        sums.hits += known && best.at == own;
    }
    if (a.dfeatures == nullptr) return;

    const float g0 =
        counted && lane < n ? a.scale * (power0 / sum - (lane == own ? 1.0f : 0.0f)) : 0.0f;
    const float g1 =
        counted && high < n ? a.scale * (power1 / sum - (high == own ? 1.0f : 0.0f)) : 0.0f;
    const float along = norm < kEps ? 0.0f : hn_warp_sum(g0 * cos0 + g1 * cos1) * factor;
    __syncwarp();
    mine[lane] = g0;
    mine[high] = g1;
    __syncwarp();
    if (lane < a.at.stride) g[lane] = g0 * factor;
    if (high < a.at.stride) g[high] = g1 * factor;
    if (lane == 0) *used = counted ? factor : 0.0f;
    for (int k = lane; k < a.width; k += kWarp) {
        float d = 0.0f;
        if (counted) {
            d = -along * hn_f32(x[k]);
            for (int c = 0; c < n; c++) d += mine[c] * v[c * a.width + k];
        }
        dx[k] = hn_round<T>(d * factor);
    }
}

/* dv[slot] = sum over the queries x of g, then the gradient of a support row of the slot. */
template <class T>
__device__ __forceinline__ void prototype_gradients(const ProtoCe<T> &a, const T *x, const Slots &s,
                                                    int n, const float *v, const float *g,
                                                    const float *used, float *dv)
{
    const int packs = (n + kPack - 1) / kPack, stride = (int)a.at.stride;
    for (int e = (int)threadIdx.x; e < packs * a.width; e += kThreads) {
        const int pack = (int)hn_divide((uint32_t)e, a.by_width), k = e - pack * a.width;
        float sum[kPack] = {};
#pragma unroll 4
        for (int i = 0; i < a.queries; i++) {
            const float f = used[i] != 0.0f ? hn_f32(x[i * a.ld_features + k]) : 0.0f;
            const float4 w =
                *reinterpret_cast<const float4 *>(g + (int64_t)i * stride + pack * kPack);
            sum[0] += w.x * f;
            sum[1] += w.y * f;
            sum[2] += w.z * f;
            sum[3] += w.w * f;
        }
#pragma unroll
        for (int c = 0; c < kPack; c++)
            if (pack * kPack + c < n) dv[(pack * kPack + c) * a.width + k] = sum[c];
    }
    __syncthreads();
    const int lane = (int)threadIdx.x % kWarp;
    for (int slot = (int)threadIdx.x / kWarp; slot < n; slot += kWarps) {
        const float *const u = v + slot * a.width;
        float *const d = dv + slot * a.width;
        float sum = 0.0f;
        for (int k = lane; k < a.width; k += kWarp) sum += d[k] * u[k];
        const float along = s.norm[slot] < kEps ? 0.0f : hn_warp_sum(sum);
        const float factor = 1.0f / (at_least(s.norm[slot]) * (float)s.rows[s.class_of[slot]]);
        for (int k = lane; k < a.width; k += kWarp) d[k] = (d[k] - along * u[k]) * factor;
    }
    __syncthreads();
}

/* Of the warps, in order. */
template <class T>
__device__ __forceinline__ void add_sums(const ProtoCe<T> &a, int64_t r, const Sums *sums)
{
    Sums all = sums[0];
    for (int w = 1; w < kWarps; w++) {
        all.loss += sums[w].loss;
        all.count += sums[w].count;
        all.hits += sums[w].hits;
    }
    if (a.loss != nullptr) a.loss[r] = (float)((double)a.loss[r] + all.loss);
    if (a.count != nullptr) a.count[r * a.count_stride] += (float)all.count;
    if (a.hits != nullptr) a.hits[r] += (float)all.hits;
}

/* Two blocks a multiprocessor: 264 episodes at once on an H200. */
template <class T, bool kInShared>
__global__ void __launch_bounds__(kThreads, 2) proto_ce_kernel(const __grid_constant__ ProtoCe<T> a)
{
    extern __shared__ float4 shared[]; /* in 16 bytes: packs of g are read at once */
    __shared__ Slots slots;
    __shared__ float mine[kWarps][kWays];
    __shared__ Sums sums[kWarps];
    const int64_t r = blockIdx.x, row = r * (a.support + a.queries);
    float *const work = kInShared ? reinterpret_cast<float *>(shared) : a.scratch + r * a.at.size;
    float *const v = work, *const dv = work + a.at.dv;
    float *const g = work + a.at.g, *const used = work + a.at.used;
    const T *const x = a.features + row * a.ld_features;
    const T *const queries = x + a.support * a.ld_features;
    T *const dx = a.dfeatures + (a.dfeatures != nullptr ? row * a.ld_dfeatures : 0);
    const int32_t *const labels = a.labels + row;

    const int n = find_slots(a, labels, slots);
    make_prototypes(a, x, labels, slots, n, v);

    const int warp = (int)threadIdx.x / kWarp, lane = (int)threadIdx.x % kWarp;
    if (lane == 0) sums[warp] = {0.0, 0, 0};
    for (int i = warp; i < a.queries; i += kWarps) {
        query(a, queries + i * a.ld_features, dx + (a.support + i) * a.ld_dfeatures,
              labels[a.support + i], r * a.queries + i, slots, n, v, mine[warp],
              g + i * a.at.stride, used + i, sums[warp]);
        __syncwarp();
    }
    __syncthreads();
    if (threadIdx.x == 0) add_sums(a, r, sums);
    if (a.dfeatures == nullptr) return;

    prototype_gradients(a, queries, slots, n, v, g, used, dv);
    for (int j = warp; j < a.support; j += kWarps) {
        const int32_t y = labels[j];
        const int slot = y >= 0 && y < a.ways ? slots.slot_of[y] : -1;
        for (int k = lane; k < a.width; k += kWarp)
            dx[j * a.ld_dfeatures + k] = hn_round<T>(slot < 0 ? 0.0f : dv[slot * a.width + k]);
    }
}

template <class T>
void launch(const hn_proto_ce_args *a, void *scratch, cudaStream_t stream)
{
    const int64_t replicas = hn_replica_count(a->replicas);
    const ProtoCe<T> op = {(const T *)a->features,
                           a->labels,
                           a->loss_sum,
                           a->count,
                           a->hits,
                           (T *)a->dfeatures,
                           a->prediction,
                           a->logits,
                           (float *)scratch,
                           (int)a->support,
                           (int)a->queries,
                           (int)a->width,
                           (int)a->ways,
                           a->ld_features,
                           a->ld_dfeatures,
                           a->ld_logits,
                           replicas > 1 ? a->count_stride : 1,
                           a->scale,
                           a->offset,
                           hn_divisor_of(a->width),
                           layout_of(a)};
    if (fits(op.at))
        proto_ce_kernel<T, true>
            <<<(unsigned)replicas, kThreads, (size_t)op.at.size * sizeof(float), stream>>>(op);
    else
        proto_ce_kernel<T, false><<<(unsigned)replicas, kThreads, 0, stream>>>(op);
}

} // namespace

size_t hn_proto_ce_cuda_scratch(const hn_proto_ce_args *a)
{
    const Layout l = layout_of(a);
    return fits(l) ? 0 : (size_t)(hn_replica_count(a->replicas) * l.size) * sizeof(float);
}

hn_status hn_proto_ce_cuda(const hn_proto_ce_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_proto_ce_check(a));
    if (!fits(layout_of(a))) HN_TRY(hn_check_pointer("proto_ce", "scratch", scratch));
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, scratch, stream));
    return HN_CUDA_LAUNCHED("proto_ce");
}
