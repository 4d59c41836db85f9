/* f32: one block a row, which it walks twice, in place. bf16: a thread keeps 64 logits of the row
 * in registers, a block 32768, and a cluster of up to 8 blocks a row of up to 262144 columns, so
 * that it is read once and written once; wider rows (and GPUs without clusters) read it twice. */
#include "kernels/loss/cuda_linear_ce_rows.h"

#include <cooperative_groups.h>
#include <float.h>

#include "runtime/base/cuda_math.h"

namespace {

namespace cg = cooperative_groups;

using Rows = hn_linear_ce_rows;

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

/* ---- f32 ---- */

/* z of a logit t; the same instructions in both walks over the row. */
__device__ __forceinline__ float cap(float t, float softcap)
{
    return softcap > 0.0f ? softcap * tanhf(t / softcap) : t;
}

/* Largest z of the row and sum of exp(z - largest): first a running pair a thread. */
__device__ void softmax_sums(const float *t, const Rows &r, float *most, float *sum)
{
    float m = -INFINITY, s = 0.0f;
    for (int64_t n = threadIdx.x; n < r.vocab; n += kThreads) {
        const float z = cap(t[n], r.softcap);
        if (z > m) {
            s = s * expf(m - z) + 1.0f; /* the first time 0 * exp(-inf) */
            m = z;
        } else if (z != -INFINITY) { /* which adds nothing, and m may be -inf still */
            s += expf(z - m);        /* NaN for a NaN: it stays in the sum */
        }
    }
    *most = hn_block_max<kThreads>(m);
    /* a thread without columns has s = 0 and exp(-inf) */
    *sum = hn_block_sum<kThreads>(s * expf(m - *most));
}

/* dt of one logit. */
__device__ __forceinline__ float gradient(float t, bool target, float most, float scale,
                                          float softcap)
{
    const float z = cap(t, softcap);
    const float dz = expf(z - most) * scale - (target ? 1.0f : 0.0f);
    if (!(softcap > 0.0f)) return dz;
    const float u = z / softcap;
    return dz * (1.0f - u * u);
}

/* Block b: row b of the chunk. */
__global__ void __launch_bounds__(kThreads) linear_ce_f32_kernel(const Rows r)
{
    const int64_t row = blockIdx.x;
    float *const t = static_cast<float *>(r.logits) + row * r.ld;
    if (r.first + row >= *r.trained) { /* the same for the whole block */
        for (int64_t n = threadIdx.x; r.gradient && n < r.vocab; n += kThreads) t[n] = 0.0f;
        return;
    }
    const int64_t place = r.list[r.first + row], label = r.labels[place];
    float most, sum;
    softmax_sums(t, r, &most, &sum);
    const float scale = 1.0f / sum;
    if (threadIdx.x == 0) {
        const bool known = label >= 0 && label < r.vocab;
        const double target = known ? (double)cap(t[label], r.softcap) : (double)NAN;
        const double loss = (double)most - target + log((double)sum);
        r.loss[place] = loss;
        if (r.row_loss != nullptr) r.row_loss[place] = (float)loss;
    }
    if (!r.gradient) return;
    __syncthreads(); /* thread 0 has read the target */
    for (int64_t n = threadIdx.x; n < r.vocab; n += kThreads)
        t[n] = gradient(t[n], n == label, most, scale, r.softcap);
}

/* ---- bf16 ---- */

constexpr int kVecs = 8;                 /* of 16 bytes a thread: 64 logits in 32 registers */
constexpr int64_t kSpan = 64 * kThreads; /* columns of a block: 32768 */
constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLeast = -1e30f; /* below any finite maximum, far from overflow when doubled */
constexpr uint32_t kMinusInf2 = 0xff80ff80u;

/* A sum of exponentials: s * exp(r), r being the largest z in it. */
struct Sum {
    float r, s;
};

/* Pairs of logits, four a vector. */
struct Piece {
    uint32_t w[kVecs][4];
};

__device__ __forceinline__ float lo(uint32_t w) { return __uint_as_float(w << 16); }
__device__ __forceinline__ float hi(uint32_t w) { return __uint_as_float(w & 0xffff0000u); }

/* 2^x to 2 units in the last place; what would be denormal is 0. */
__device__ __forceinline__ float power2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* tanh(t / softcap) to 2e-7 (absolute), from t and 2 log2(e) / softcap. */
__device__ __forceinline__ float squash(float t, float slope)
{
    return 1.0f - __fdividef(2.0f, 1.0f + power2(t * slope));
}

struct Capping {
    float softcap, slope;
};

/* z of a logit. -inf is what stands behind the row's end: it must stay. */
template <bool kCap>
__device__ __forceinline__ float capped(float t, const Capping &c)
{
    if constexpr (!kCap) return t;
    return t == -INFINITY ? t : c.softcap * squash(t, c.slope);
}

__device__ __forceinline__ Sum merge(Sum a, Sum b)
{
    const float r = fmaxf(a.r, b.r);
    return {r, a.s * power2((a.r - r) * kLog2E) + b.s * power2((b.r - r) * kLog2E)};
}

__device__ __forceinline__ Sum warp_merge(Sum a)
{
    const float r = hn_warp_max(a.r);
    return {r, hn_warp_sum(a.s * power2((a.r - r) * kLog2E))};
}

__device__ __forceinline__ uint32_t max2(uint32_t a, uint32_t b)
{
    __nv_bfloat162 x, y;
    memcpy(&x, &a, sizeof x), memcpy(&y, &b, sizeof y);
    x = __hmax2(x, y); /* the other one where one is NaN, which its power will show */
    memcpy(&a, &x, sizeof a);
    return a;
}

/* Vector k: logits 8 k kStride + 0 .. 7 from t on; -inf where the row, `left` long, has ended. All
 * loads stand before the first use. */
template <int kStride>
__device__ __forceinline__ void load(const __nv_bfloat16 *t, int left, Piece &p)
{
#pragma unroll
    for (int k = 0; k < kVecs; k++) {
        const int n = 8 * k * kStride;
        uint4 v = make_uint4(kMinusInf2, kMinusInf2, kMinusInf2, kMinusInf2);
        if (n < left) v = *reinterpret_cast<const uint4 *>(t + n); /* rows are padded to 8 */
        p.w[k][0] = v.x, p.w[k][1] = v.y, p.w[k][2] = v.z, p.w[k][3] = v.w;
    }
    if (left % 8 == 0) return; /* the same for the whole row */
#pragma unroll
    for (int k = 0; k < kVecs; k++) {
        const int rest = left - 8 * k * kStride;
        if (rest <= 0 || rest >= 8) continue;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (2 * i >= rest) p.w[k][i] = kMinusInf2;
            if (2 * i + 1 == rest) p.w[k][i] = (p.w[k][i] & 0xffffu) | (kMinusInf2 & 0xffff0000u);
        }
    }
}

/* Changes no value, but the compiler cannot know: else it keeps what it unpacked for the sum until
 * the gradient is made, twice the registers (56 to 130 bytes of them spilled). */
__device__ __forceinline__ void keep_packed(Piece &p)
{
    const uint32_t zero = gridDim.y - 1;
#pragma unroll
    for (int k = 0; k < kVecs; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) p.w[k][i] ^= zero;
}

template <bool kCap>
__device__ __forceinline__ Sum sum_of(const Piece &p, const Capping &c)
{
    uint32_t most = kMinusInf2;
#pragma unroll
    for (int k = 0; k < kVecs; k++)
        most = max2(most, max2(max2(p.w[k][0], p.w[k][1]), max2(p.w[k][2], p.w[k][3])));
    /* the largest z belongs to the largest t */
    const float r = fmaxf(capped<kCap>(fmaxf(lo(most), hi(most)), c), kLeast);
    float even = 0.0f, odd = 0.0f;
#pragma unroll
    for (int k = 0; k < kVecs; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            even += power2((capped<kCap>(lo(p.w[k][i]), c) - r) * kLog2E);
            odd += power2((capped<kCap>(hi(p.w[k][i]), c) - r) * kLog2E);
        }
    return {r, even + odd};
}

/* What the softcap's slope leaves of a gradient. */
template <bool kCap>
__device__ __forceinline__ float slope_of(float t, const Capping &c)
{
    if constexpr (!kCap) return 1.0f;
    const float u = squash(t, c.slope);
    return 1.0f - u * u;
}

/* dt of a logit that is not the target; `total` is log2 of the row's sum. */
template <bool kCap>
__device__ __forceinline__ float gradient_of(float t, float total, const Capping &c)
{
    const float p = power2(fmaf(capped<kCap>(t, c), kLog2E, -total));
    return kCap ? p * slope_of<kCap>(t, c) : p;
}

template <int kStride, bool kCap>
__device__ __forceinline__ void store_gradient(const Piece &p, __nv_bfloat16 *t, int left,
                                               float total, const Capping &c)
{
#pragma unroll
    for (int k = 0; k < kVecs; k++) {
        const int n = 8 * k * kStride;
        uint32_t to[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const __nv_bfloat162 d =
                __floats2bfloat162_rn(gradient_of<kCap>(lo(p.w[k][i]), total, c),
                                      gradient_of<kCap>(hi(p.w[k][i]), total, c));
            memcpy(&to[i], &d, sizeof d);
        }
        if (n < left) *reinterpret_cast<uint4 *>(t + n) = make_uint4(to[0], to[1], to[2], to[3]);
    }
}

/* Of a cluster, every warp's sum in every block; nothing to do on GPUs that cannot get here. */
template <int kCluster>
__device__ __forceinline__ void share(Sum a, int rank, Sum *partial)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if constexpr (kCluster == 1) {
        if (lane == 0) partial[warp] = a;
        __syncthreads();
    } else {
#if __CUDA_ARCH__ >= 900
        const cg::cluster_group cluster = cg::this_cluster();
        cluster.barrier_wait(); /* all blocks have begun: their memory is there */
        if (lane < kCluster) cluster.map_shared_rank(partial, lane)[rank * kWarps + warp] = a;
        cluster.sync();
#endif
    }
}

template <int kCluster>
__device__ __forceinline__ void say_begun()
{
#if __CUDA_ARCH__ >= 900
    /* relaxed: nothing has been written that the others wait for */
    if constexpr (kCluster > 1) asm volatile("barrier.cluster.arrive.relaxed.aligned;");
#endif
}

/* The row's sum, the same in every thread of its blocks. */
template <int kCluster>
__device__ __forceinline__ Sum row_sum(const Sum *partial)
{
    const int lane = threadIdx.x % 32;
    Sum sum = {kLeast, 0.0f};
#pragma unroll
    for (int i = 0; i < kCluster * kWarps; i += 32)
        if (i + lane < kCluster * kWarps) sum = merge(sum, partial[i + lane]);
    return warp_merge(sum);
}

/* Loss of a row, and dt of its target over what store_gradient put there; label -1: unknown. The
 * last of all, when the row has left the registers: the logarithm takes many. */
template <bool kCap>
__device__ __forceinline__ void finish(const Rows &r, __nv_bfloat16 *t, int64_t place,
                                       int64_t label, float target, Sum sum, const Capping &c)
{
    const float z = capped<kCap>(target, c);
    if (r.gradient && label >= 0) {
        const float dz = power2((z - sum.r) * kLog2E - log2f(sum.s)) - 1.0f;
        t[label] = __float2bfloat16_rn(dz * slope_of<kCap>(target, c));
    }
    const double loss = (double)sum.r - (double)z + log((double)sum.s);
    r.loss[place] = loss;
    if (r.row_loss != nullptr) r.row_loss[place] = (float)loss;
}

/* kCluster blocks a row of the chunk. kOnce: the row fits into their registers. Two blocks a
 * multiprocessor, so that one loads while the other computes. */
template <int kCluster, bool kOnce, bool kCap>
__global__ void __launch_bounds__(kThreads, 2) linear_ce_bf16_kernel(const Rows r)
{
    constexpr int kStride = kCluster * kThreads; /* vectors from one of a thread to its next */
    constexpr int64_t kStep = kCluster * kSpan;
    __shared__ Sum partial[kCluster * kWarps];
    const int64_t row = blockIdx.x / kCluster;
    const int rank = (int)(blockIdx.x % kCluster), me = rank * kThreads + (int)threadIdx.x;
    const int64_t begin = 8 * (int64_t)me;
    __nv_bfloat16 *const t = static_cast<__nv_bfloat16 *>(r.logits) + row * r.ld;
    const Capping c = {r.softcap, 2.0f * kLog2E / r.softcap}; /* unused without a softcap */
    Piece p;
    load<kStride>(t + begin, (int)(r.vocab - begin), p);
    const int64_t place = r.list[r.first + row]; /* anything behind the last trained row */
    if (r.first + row >= *r.trained) {           /* the same for the whole cluster */
        for (int64_t n = begin; r.gradient && n < r.vocab; n += 8 * kStride)
            *reinterpret_cast<uint4 *>(t + n) = make_uint4(0, 0, 0, 0);
        return;
    }
    say_begun<kCluster>();
    const int64_t label = r.labels[place];
    Sum sum = sum_of<kCap>(p, c);
    if constexpr (!kOnce)
        for (int64_t first = begin + kStep; first < r.vocab; first += kStep) {
            load<kStride>(t + first, (int)(r.vocab - first), p);
            sum = merge(sum, sum_of<kCap>(p, c));
        }
    else
        keep_packed(p);
    /* The thread that has the target's vector reads and later writes the target: no one else
     * touches it. An unknown label is nobody's column: the row's first thread says NaN. */
    const bool known = label >= 0 && label < r.vocab;
    const bool mine = known ? label / 8 % kStride == me : me == 0;
    const float target = mine && known ? __bfloat162float(t[label]) : NAN;

    share<kCluster>(warp_merge(sum), rank, partial);
    sum = row_sum<kCluster>(partial);
    const float total = fmaf(sum.r, kLog2E, log2f(sum.s));
    if (r.gradient) {
        if constexpr (kOnce)
            store_gradient<kStride, kCap>(p, t + begin, (int)(r.vocab - begin), total, c);
        else
            for (int64_t first = begin; first < r.vocab; first += kStep) {
                load<kStride>(t + first, (int)(r.vocab - first), p);
                store_gradient<kStride, kCap>(p, t + first, (int)(r.vocab - first), total, c);
            }
    }
    if (mine) finish<kCap>(r, t, place, known ? label : -1, target, sum, c);
}

/* ---- launching ---- */

template <int kCluster, bool kOnce, bool kCap>
hn_status launch(const Rows *r, hn_stream stream)
{
    cudaLaunchAttribute shape = {};
    shape.id = cudaLaunchAttributeClusterDimension;
    shape.val.clusterDim.x = kCluster, shape.val.clusterDim.y = shape.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(r->n * kCluster));
    config.blockDim = dim3(kThreads);
    config.stream = stream;
    config.attrs = &shape, config.numAttrs = kCluster > 1 ? 1 : 0;
    return HN_CUDA(cudaLaunchKernelEx(&config, linear_ce_bf16_kernel<kCluster, kOnce, kCap>, *r));
}

template <bool kCap>
hn_status launch_width(const Rows *r, bool clusters, hn_stream stream)
{
    if (r->vocab <= kSpan) return launch<1, true, kCap>(r, stream);
    if (clusters && r->vocab <= 2 * kSpan) return launch<2, true, kCap>(r, stream);
    if (clusters && r->vocab <= 4 * kSpan) return launch<4, true, kCap>(r, stream);
    if (clusters && r->vocab <= 8 * kSpan) return launch<8, true, kCap>(r, stream);
    return launch<1, false, kCap>(r, stream);
}

} // namespace

hn_status hn_linear_ce_rows_run(const hn_linear_ce_rows *r, hn_stream stream)
{
    if (r->dtype == HN_F32) {
        linear_ce_f32_kernel<<<(unsigned)r->n, kThreads, 0, stream>>>(*r);
        return HN_CUDA_LAUNCHED("linear_ce: rows");
    }
    int device = 0, clusters = 0;
    HN_TRY(HN_CUDA(cudaGetDevice(&device)));
    HN_TRY(HN_CUDA(cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device)));
    return r->softcap > 0.0f ? launch_width<true>(r, clusters != 0, stream)
                             : launch_width<false>(r, clusters != 0, stream);
}
