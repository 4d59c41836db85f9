/* A thread has eight neighbouring numbers of a row where all operands allow 16-byte accesses, else
 * one, and walks the knots four at a time, so that their loads go out together. A block's threads
 * share a row, whose weights lie in shared memory. */
#include "kernels/hyperflow/curve_point.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 128;
constexpr int kAhead = 4; /* knots whose loads go out together */

template <class T>
struct Operands {
    const __half *knot;
    const float *unit, *weights, *inv_sigma;
    const int32_t *index;
    const hn_rng_state *state; /* device memory, read by the kernel */
    T *z;
    float *dz;
    int64_t n, knots, width, tokens, rows;
    int64_t ld_knots, ld_weights, ld_z, ld_dz;
    int64_t blocks; /* of a row */
    uint64_t op_hash;
    float noise;
};

__device__ __forceinline__ float unit_of(uint32_t v) { return (float)v * 0x1p-32f + 0x1p-33f; }

/* The four normal numbers of columns 4 * block .. 4 * block + 3. */
__device__ __forceinline__ void normals(const hn_rng &rng, uint64_t row, uint32_t block,
                                        float (&to)[4])
{
    uint32_t v[4];
    hn_rng_block(rng, row, block, v);
#pragma unroll
    for (int pair = 0; pair < 4; pair += 2) {
        const float length = sqrtf(-2.0f * logf(unit_of(v[pair])));
        float sine, cosine;
        sincospif(2.0f * unit_of(v[pair + 1]), &sine, &cosine);
        to[pair] = length * cosine;
        to[pair + 1] = length * sine;
    }
}

/* point += noise * normal of numbers d .. d + kWidth of row r. */
template <class T, int kWidth>
__device__ __forceinline__ void add_noise(const Operands<T> &a, int64_t r, int64_t d,
                                          float (&point)[kWidth])
{
    const hn_rng rng = hn_rng_make(a.state->seed, a.state->step, a.op_hash);
    const uint64_t row = (uint64_t)(a.state->row_offset + r);
    float four[4];
    if constexpr (kWidth == 1) {
        normals(rng, row, (uint32_t)(d / 4), four);
        point[0] += a.noise * (d % 4 == 0   ? four[0]
                               : d % 4 == 1 ? four[1]
                               : d % 4 == 2 ? four[2]
                                            : four[3]);
    } else {
#pragma unroll
        for (int b = 0; b < kWidth / 4; b++) {
            normals(rng, row, (uint32_t)(d / 4 + b), four);
#pragma unroll
            for (int k = 0; k < 4; k++) point[4 * b + k] += a.noise * four[k];
        }
    }
}

/* Numbers d .. d + kWidth of row r, which lie in one token. */
template <class T, int kWidth>
__device__ __forceinline__ void store(const Operands<T> &a, int64_t r, int64_t d,
                                      const float (&point)[kWidth], const float (&tangent)[kWidth])
{
    const int64_t token = d / a.width, row = r * a.tokens + token, col = d - token * a.width;
    hn_store_whole<kWidth>(a.z + row * a.ld_z + col, point);
    if (a.dz != nullptr) hn_store_whole<kWidth>(a.dz + row * a.ld_dz + col, tangent);
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kThreads) point_kernel(const Operands<T> a)
{
    __shared__ float2 weight[HN_CURVE_POINT_KNOTS + kAhead]; /* zeros behind the last knot */
    const int64_t r = blockIdx.x / a.blocks, part = blockIdx.x - r * a.blocks;
    const int64_t curve = a.index[r], numbers = a.tokens * a.width;
    const float *const w = a.weights + r * a.ld_weights;
    for (int k = (int)threadIdx.x; k < (int)a.knots + kAhead; k += kThreads)
        weight[k] = k < a.knots ? float2{w[k], w[a.knots + k]} : float2{0.0f, 0.0f};
    __syncthreads();
    const int64_t d = (part * kThreads + threadIdx.x) * kWidth;
    if (d >= numbers) return;
    float point[kWidth] = {}, tangent[kWidth] = {};
    if (curve < 0 || curve >= a.n) { /* padding; or none of the trajectories */
#pragma unroll
        for (int j = 0; j < kWidth; j++) point[j] = tangent[j] = curve < 0 ? 0.0f : NAN;
        store<T, kWidth>(a, r, d, point, tangent);
        return;
    }
    const __half *const knot = a.knot + curve * a.knots * a.ld_knots + d;
#pragma unroll 1
    for (int k = 0; k < (int)a.knots; k += kAhead) {
        float v[kAhead][kWidth];
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            const float2 of = weight[k + i];
#pragma unroll
            for (int j = 0; j < kWidth; j++) v[i][j] = 0.0f;
            if (of.x != 0.0f || of.y != 0.0f)
                hn_load_whole<kWidth>(knot + (k + i) * a.ld_knots, v[i]);
        }
#pragma unroll
        for (int i = 0; i < kAhead; i++) {
            const float2 of = weight[k + i];
#pragma unroll
            for (int j = 0; j < kWidth; j++) {
                point[j] += of.x * v[i][j];
                tangent[j] += of.y * v[i][j];
            }
        }
    }
    const float unit = a.unit[curve] * a.inv_sigma[d / a.width];
#pragma unroll
    for (int j = 0; j < kWidth; j++) {
        point[j] *= unit;
        tangent[j] *= unit;
    }
    if (a.noise > 0.0f) add_noise<T, kWidth>(a, r, d, point);
    store<T, kWidth>(a, r, d, point, tangent);
}

template <class T>
void launch(const hn_curve_point_args *a, cudaStream_t stream)
{
    const bool packs = a->width % HN_VEC == 0 && hn_vectors_fit(a->knot, a->ld_knots, HN_F16) &&
                       hn_vectors_fit(a->z, a->ld_z, a->dtype) &&
                       hn_vectors_fit(a->dz, a->ld_dz, HN_F32);
    const int64_t threads = a->tokens * a->width / (packs ? HN_VEC : 1);
    const int64_t blocks = (threads + kThreads - 1) / kThreads;
    const Operands<T> o = {(const __half *)(const void *)a->knot,
                           a->unit,
                           a->weights,
                           a->inv_sigma,
                           a->index,
                           a->state,
                           (T *)a->z,
                           a->dz,
                           a->n,
                           a->knots,
                           a->width,
                           a->tokens,
                           a->rows,
                           a->ld_knots,
                           a->ld_weights,
                           a->ld_z,
                           a->ld_dz,
                           blocks,
                           a->op_hash,
                           a->noise};
    const unsigned grid = hn_grid(a->rows * blocks, 1, INT32_MAX);
    if (packs)
        point_kernel<T, HN_VEC><<<grid, kThreads, 0, stream>>>(o);
    else
        point_kernel<T, 1><<<grid, kThreads, 0, stream>>>(o);
}

} // namespace

hn_status hn_curve_point_cuda(const hn_curve_point_args *a, hn_stream stream)
{
    HN_TRY(hn_curve_point_check(a));
    HN_CUDA_REAL(a->dtype, T, launch<T>(a, stream));
    return HN_CUDA_LAUNCHED("curve_point");
}
