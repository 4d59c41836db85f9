/* One pass over the used part of the pool, 4 values a thread where alignment allows, in the
 * arithmetic of adamw's kernel. A thread makes the factors of an age once for all its values that
 * follow each other with this age. Blocks of one value grow older in the same pass, larger ones,
 * whose values several threads update, in a second one over the blocks. */
#include "kernels/optim/cuda_adamw.h"
#include "kernels/sparse/sparse_adamw.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_math.h"

namespace {

constexpr int kThreads = 256;
constexpr int kVec = 4;              /* with 8, registers for half as many threads */
constexpr int kPerSm = 4;            /* blocks on a multiprocessor */
constexpr int64_t kMaxBlocks = 4096; /* then a thread takes several spans */

struct Pool {
    float *delta, *grad, *m, *v;
    uint16_t *age;
    const hn_sparse_span *spans;
    const int32_t *sizes; /* nullptr: block_values for all */
    const float2 *corrections;
    const hn_step_block *step;
    int64_t values; /* that may be read; the used ones come first */
    int32_t matrices, block_values;
    hn_divisor by; /* block_values */
    hn_optim::AdamWRates rates;
};

__device__ __forceinline__ int32_t size_of(const Pool &a, int32_t matrix)
{
    return a.sizes != nullptr ? a.sizes[matrix] : a.block_values;
}

/* Values, or blocks, up to the end of the last span. */
__device__ __forceinline__ int64_t used_values(const Pool &a)
{
    const hn_sparse_span last = a.spans[a.matrices - 1];
    return last.first_value + (int64_t)last.count * size_of(a, a.matrices - 1);
}

__device__ __forceinline__ int64_t used_blocks(const Pool &a)
{
    const hn_sparse_span last = a.spans[a.matrices - 1];
    return (int64_t)last.first_block + last.count;
}

__device__ __forceinline__ uint16_t next_age(uint16_t age)
{
    return age < HN_SPARSE_AGES - 1 ? age + 1 : age;
}

/* A block of the pool: its number, and the value behind its last one. */
struct Block {
    int64_t number, end;
};

__device__ __forceinline__ Block block_at(const Pool &a, int64_t value)
{
    if (a.sizes == nullptr) { /* spans without holes: as if there were one */
        const int64_t number = hn_divide((uint32_t)value, a.by);
        return {number, (number + 1) * a.block_values};
    }
    int32_t low = 0, high = a.matrices - 1; /* the last span that does not begin behind value */
    while (low < high) {
        const int32_t middle = (low + high + 1) / 2;
        if (a.spans[middle].first_value <= value)
            low = middle;
        else
            high = middle - 1;
    }
    const hn_sparse_span s = a.spans[low];
    const uint32_t size = (uint32_t)a.sizes[low], b = (uint32_t)(value - s.first_value) / size;
    return {(int64_t)s.first_block + b, s.first_value + (int64_t)(b + 1) * size};
}

/* v = p[0 .. n) with n at most kWidth, zeros behind, in one access where n is kVec; p[0 .. n) = v.
 */
template <class Word, int kWidth, class T>
__device__ __forceinline__ void load(const T *p, int64_t n, T (&v)[kWidth])
{
    if constexpr (kWidth == kVec) {
        if (n >= kVec) {
            const Word word = *reinterpret_cast<const Word *>(p);
            memcpy(v, &word, sizeof v);
            return;
        }
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++) v[k] = k < n ? p[k] : T();
}

template <class Word, int kWidth, class T>
__device__ __forceinline__ void store(T *p, int64_t n, const T (&v)[kWidth])
{
    if constexpr (kWidth == kVec) {
        if (n >= kVec) {
            Word word;
            memcpy(&word, v, sizeof v);
            *reinterpret_cast<Word *>(p) = word;
            return;
        }
    }
#pragma unroll
    for (int k = 0; k < kWidth; k++)
        if (k < n) p[k] = v[k];
}

/* Ages of the n values at .. at + n, of blocks of several values. */
template <int kWidth>
__device__ __forceinline__ void ages_of(const Pool &a, int64_t at, int64_t n,
                                        uint16_t (&age)[kWidth])
{
    Block b = {0, at};
    uint16_t own = 0;
#pragma unroll
    for (int k = 0; k < kWidth; k++) {
        if (k < n && at + k >= b.end) {
            b = block_at(a, at + k);
            own = a.age[b.number];
        }
        age[k] = own;
    }
}

template <int kWidth, bool kSingle>
__global__ void __launch_bounds__(kThreads, kPerSm) sparse_adamw_kernel(const Pool a)
{
    const int64_t used = used_values(a);
    const bool moves = a.step->grad_scale != 0.0f && a.step->frozen == 0;
    const float zero[kWidth] = {};
    hn_optim::AdamWFactors f = {};
    int known = -1; /* the age that f is for */
    for (int64_t i = ((int64_t)blockIdx.x * kThreads + threadIdx.x) * kWidth; i < a.values;
         i += (int64_t)gridDim.x * kThreads * kWidth) {
        /* Before anything is known of the spans: the loads need not wait for it. */
        const int64_t room = a.values - i, n = used - i;
        float delta[kWidth], grad[kWidth], m[kWidth], v[kWidth];
        uint16_t age[kWidth];
        if (kSingle) load<uint2>(a.age + i, room, age);
        load<float4>(a.delta + i, room, delta);
        load<float4>(a.grad + i, room, grad);
        load<float4>(a.m + i, room, m);
        load<float4>(a.v + i, room, v);
        if (n <= 0) break;
        if (moves) {
            if (!kSingle) ages_of(a, i, n, age);
#pragma unroll
            for (int k = 0; k < kWidth; k++) {
                if (age[k] != known && k < n) {
                    known = age[k];
                    const float2 c = a.corrections[next_age(age[k])];
                    f = hn_optim::adamw_factors(a.rates, a.step, c.x, c.y);
                }
                hn_optim::adamw_value(a.rates, f, grad[k], delta[k], m[k], v[k]);
            }
            store<float4>(a.delta + i, n, delta);
            store<float4>(a.m + i, n, m);
            store<float4>(a.v + i, n, v);
#pragma unroll
            for (int k = 0; k < kWidth; k++) age[k] = next_age(age[k]);
            if (kSingle) store<uint2>(a.age + i, n, age);
        }
        store<float4>(a.grad + i, n, zero);
    }
}

__global__ void __launch_bounds__(kThreads) grow_older_kernel(const Pool a)
{
    const int64_t used = used_blocks(a);
    if (a.step->grad_scale == 0.0f || a.step->frozen != 0) return;
    for (int64_t b = (int64_t)blockIdx.x * kThreads + threadIdx.x; b < used;
         b += (int64_t)gridDim.x * kThreads)
        a.age[b] = next_age(a.age[b]);
}

bool fits(const void *p, uintptr_t word) { return (uintptr_t)p % word == 0; }

template <int kWidth>
void launch(const Pool &a, const hn_sparse_adamw_args *args, cudaStream_t stream)
{
    const unsigned grid = hn_grid((args->values + kWidth - 1) / kWidth, kThreads, kMaxBlocks);
    if (a.block_values == 1) {
        sparse_adamw_kernel<kWidth, true><<<grid, kThreads, 0, stream>>>(a);
        return;
    }
    sparse_adamw_kernel<kWidth, false><<<grid, kThreads, 0, stream>>>(a);
    grow_older_kernel<<<hn_grid(args->blocks, kThreads, kMaxBlocks), kThreads, 0, stream>>>(a);
}

} // namespace

hn_status hn_sparse_adamw_cuda(const hn_sparse_adamw_args *a, hn_stream stream)
{
    HN_TRY(hn_sparse_adamw_check(a));
    const bool single = a->block_values == 1; /* then a value has an age */
    const int64_t values = single && a->blocks < a->values ? a->blocks : a->values;
    const Pool pool = {a->delta,
                       a->grad,
                       a->m,
                       a->v,
                       a->age,
                       a->spans,
                       a->sizes,
                       reinterpret_cast<const float2 *>(a->corrections),
                       a->step,
                       values,
                       (int32_t)a->matrices,
                       (int32_t)a->block_values,
                       hn_divisor_of(a->block_values > 0 ? a->block_values : 1),
                       {a->beta1, a->beta2, a->eps, a->weight_decay, a->lr_scale}};
    if (fits(a->delta, 16) && fits(a->grad, 16) && fits(a->m, 16) && fits(a->v, 16) &&
        fits(a->age, 8))
        launch<kVec>(pool, a, stream);
    else
        launch<1>(pool, a, stream);
    return HN_CUDA_LAUNCHED("sparse_adamw");
}
