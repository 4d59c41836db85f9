/* Squares of 16 to 128 (256: four of 128) on the tensor cores: a thread block multiplies the
 * columns of dy and x that one block of the matrix needs over one run of tokens. Both operands lie
 * token by token, so that their tiles go to shared memory as they are and ldmatrix transposes
 * them; copies run several steps ahead, as memory bounds nearly all of it. */
#include "kernels/sparse/cuda_block_dw.h"
#include "runtime/base/cuda_mma.h"

namespace {

/* Blocks of kSide: warps down and across its rows and columns; of small ones, warps that share out
 * the tokens of a step instead (kDeep). 128: 96 KB of shared memory, 2 thread blocks a
 * multiprocessor; 64: 64 KB, 3; 32 and 16: 32 KB, 5 and 6. */
template <int kSide_>
struct Tile {
    static constexpr int kSide = kSide_;
    static constexpr int kDeep = kSide <= 32 ? 4 : 1;
    static constexpr int kDown = kSide <= 32 ? 1 : 2, kAcross = kSide <= 32 ? 1 : kSide / 32;
    static constexpr int kThreads = 32 * kDeep * kDown * kAcross;
    static constexpr int kM = kSide / kDown, kN = kSide / kAcross;             /* of a warp */
    static constexpr int kTokens = kSide == 128 ? 32 : kSide == 16 ? 128 : 64; /* of a step */
    static constexpr int kStages = kSide == 128 ? 6 : 4;
    static constexpr int kPerSm = kSide == 128 ? 2 : kSide == 64 ? 3 : kSide == 32 ? 5 : 6;
    static constexpr int kRowBytes = kSide * (int)sizeof(__nv_bfloat16);
    static constexpr int kOperandBytes = kTokens * kRowBytes, kStageBytes = 2 * kOperandBytes;
    static constexpr int kSharedBytes = kStages * kStageBytes;
    static_assert(kDeep * kSide * kSide * (int)sizeof(float) <= kSharedBytes || kDeep == 1,
                  "the sums of all warps fit into what held the tiles");
};

/* Where piece c (16 bytes) of row r lies: 8 neighbouring rows of a piece are in different banks. */
template <class T>
__device__ __forceinline__ int place(int r, int c)
{
    constexpr int kPieces = T::kRowBytes / 16, kSwaps = kPieces < 8 ? kPieces : 8;
    return r * T::kRowBytes + (c ^ (r * kSwaps / 8 & (kSwaps - 1))) * 16;
}

/* One block of the matrix and one run. */
struct Part {
    const __nv_bfloat16 *dy, *x; /* its first column, the run's first token */
    int64_t ld_dy, ld_x;
    int tokens; /* from there to the last of all */
};

template <class T>
struct Copier {
    static constexpr int kPieces = T::kRowBytes / 16;         /* of a row of one operand */
    static constexpr int kRows = T::kThreads / (2 * kPieces); /* copied at once */
    static_assert(T::kThreads % (2 * kPieces) == 0 && kRows % 8 == 0, "the places repeat");
    const __nv_bfloat16 *from; /* this thread's piece of its next row */
    int64_t down;              /* kRows rows */
    uint32_t to;
    int left; /* tokens from that row to the last of all */

    __device__ __forceinline__ Copier(const Part &p, uint32_t shared)
    {
        const int c = (int)threadIdx.x % (2 * kPieces), row = (int)threadIdx.x / (2 * kPieces);
        const bool of_x = c >= kPieces;
        const int64_t ld = of_x ? p.ld_x : p.ld_dy;
        from = (of_x ? p.x + (c - kPieces) * 8 : p.dy + c * 8) + row * ld;
        down = kRows * ld;
        to = shared + (of_x ? T::kOperandBytes : 0) +
             (uint32_t)place<T>(row, of_x ? c - kPieces : c);
        left = p.tokens - row;
    }
    /* Starts copying the next step; tokens behind the last become zeros, and are not read. */
    __device__ __forceinline__ void step(int stage)
    {
        const uint32_t at = to + (uint32_t)stage * T::kStageBytes;
#pragma unroll
        for (int n = 0; n < T::kTokens / kRows; n++) {
            hn_copy16_(at + n * kRows * T::kRowBytes, from, n * kRows < left);
            from += down;
        }
        left -= T::kTokens;
    }
};

/* c += the warp's part of the product of a step. */
template <class T>
__device__ __forceinline__ void multiply(float (*c)[T::kN / 8][4], uint32_t stage, int m, int n,
                                         int deep)
{
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < T::kTokens; k += 16 * T::kDeep) {
        uint32_t a[T::kM / 16][4], b[T::kN / 16][4];
        const int token = k + 16 * deep;
#pragma unroll
        for (int i = 0; i < T::kM / 16; i++)
            hn_ldmatrix_trans_(a[i], stage + place<T>(token + lane % 8 + lane / 16 * 8,
                                                      m / 8 + 2 * i + lane / 8 % 2));
#pragma unroll
        for (int j = 0; j < T::kN / 16; j++)
            hn_ldmatrix_trans_(b[j], stage + T::kOperandBytes +
                                         place<T>(token + lane % 16, n / 8 + 2 * j + lane / 16));
#pragma unroll
        for (int i = 0; i < T::kM / 16; i++)
#pragma unroll
            for (int j = 0; j < T::kN / 16; j++) {
                hn_mma_(c[i][2 * j], a[i], b[j][0], b[j][1]);
                hn_mma_(c[i][2 * j + 1], a[i], b[j][2], b[j][3]);
            }
    }
}

/* to = the sums of a block; rows of `to` lie ld values apart. */
template <class T>
__device__ __forceinline__ void store(const float (*c)[T::kN / 8][4], int m, int n, float *to,
                                      int ld)
{
    const int row = m + (int)threadIdx.x % 32 / 4, col = n + (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < T::kM / 16; i++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float2 *const p = reinterpret_cast<float2 *>(to + (row + 16 * i + 8 * e) * ld + col);
#pragma unroll
            for (int j = 0; j < T::kN / 8; j++)
                p[4 * j] = make_float2(c[i][j][2 * e], c[i][j][2 * e + 1]);
        }
}

/* The warps' sums over their tokens, added up in the order of the warps. */
template <class T>
__device__ __forceinline__ void store_deep(const float (*c)[T::kN / 8][4], float *shared, int deep,
                                           float *to)
{
    constexpr int kValues = T::kSide * T::kSide;
    store<T>(c, 0, 0, shared + deep * kValues, T::kSide);
    __syncthreads();
    for (int v = (int)threadIdx.x; v < kValues; v += T::kThreads) {
        float sum = shared[v];
#pragma unroll
        for (int d = 1; d < T::kDeep; d++) sum += shared[d * kValues + v];
        to[v] = sum;
    }
}

/* What the kernel needs to know of the operation. */
struct Job {
    const __nv_bfloat16 *dy, *x;
    int64_t ld_dy, ld_x, in, capacity;
    int side, quarters; /* of the shape; 4 of a block of 256, or 1 */
    const hn_sparse_span *span;
    const int32_t *block;
    float *part;
    HnRuns_ runs;
};

template <class T>
__global__ void __launch_bounds__(T::kThreads, T::kPerSm) block_dw_mma_kernel(const Job job)
{
    extern __shared__ __align__(128) char shared[];
    const int warp = (int)threadIdx.x / 32, deep = T::kDeep > 1 ? warp : 0;
    const int m = T::kDeep > 1 ? 0 : warp / T::kAcross * T::kM;
    const int n = T::kDeep > 1 ? 0 : warp % T::kAcross * T::kN;
    const uint32_t stages = hn_shared_address_(shared);
    const int64_t values = (int64_t)job.side * job.side;
    const int64_t blocks = hn_span_blocks_(job.span, job.capacity), items = blocks * job.quarters;
    const int64_t runs = hn_runs_(job.runs, items);
    const int64_t steps = hn_ceil_div_(job.runs.tokens, T::kTokens), across = job.in / job.side;

#pragma unroll 1
    for (int64_t w = blockIdx.x; w < items * runs; w += gridDim.x) {
        /* Neighbours have the same tokens: blocks in one strip read the same memory. */
        const int64_t run = w / items, b = w % items / job.quarters;
        const int quarter = (int)(w % items % job.quarters);
        const int64_t id = job.block[job.span->first_block + b];
        const int down = quarter / 2 * T::kSide, right = quarter % 2 * T::kSide;
        const int64_t begin = run * steps / runs;
        const int count = (int)((run + 1) * steps / runs - begin);
        const int64_t first = begin * T::kTokens;
        const Part p = {
            job.dy + first * job.ld_dy + id / across * job.side + down,
            job.x + first * job.ld_x + id % across * job.side + right,
            job.ld_dy,
            job.ld_x,
            (int)(job.runs.tokens - first),
        };
        Copier<T> copier(p, stages);
        float c[T::kM / 16][T::kN / 8][4] = {};
#pragma unroll 1
        for (int i = 0; i < T::kStages - 1; i++) {
            if (i < count) copier.step(i);
            hn_copy_commit_();
        }
        int stage = 0;
#pragma unroll 1
        for (int i = 0; i < count; i++) {
            const int before = stage > 0 ? stage - 1 : T::kStages - 1;
            hn_copy_wait_<T::kStages - 2>();
            __syncthreads(); /* step i is there; nobody reads the step before any more */
            if (i + T::kStages - 1 < count) copier.step(before);
            hn_copy_commit_(); /* an empty group at the end keeps the count */
            multiply<T>(c, stages + (uint32_t)stage * T::kStageBytes, m, n, deep);
            stage = stage + 1 < T::kStages ? stage + 1 : 0;
        }
        float *const to = job.part + (run * blocks + b) * values + down * job.side + right;
        __syncthreads(); /* all products are done: shared memory is free */
        if constexpr (T::kDeep > 1) {
            store_deep<T>(c, reinterpret_cast<float *>(shared), deep, to);
            __syncthreads();
        } else {
            store<T>(c, m, n, to, job.side);
        }
    }
}

int side_of(const hn_block_dw_args *a) { return a->shape.br == 256 ? 128 : (int)a->shape.br; }

template <class T>
HnRuns_ runs_of(const hn_block_dw_args *a)
{
    /* One thread block of 128 a multiprocessor keeps enough copies under way, and halves the sums
     * that runs leave. */
    return {a->rows,
            T::kTokens,
            4 * T::kTokens,
            kHnSms_ * (T::kSide == 128 ? 1 : T::kPerSm),
            a->shape.br == 256 ? 4 : 1,
            1};
}

template <class T>
hn_status launch(const hn_block_dw_args *a, float *part, hn_stream stream)
{
    const HnRuns_ runs = runs_of<T>(a);
    const Job job = {static_cast<const __nv_bfloat16 *>(a->dy),
                     static_cast<const __nv_bfloat16 *>(a->x),
                     a->ld_dy,
                     a->ld_x,
                     a->in,
                     a->capacity,
                     (int)a->shape.br,
                     (int)runs.items_a_block,
                     a->span,
                     a->block,
                     part,
                     runs};
    const int64_t most = a->capacity * runs.items_a_block * hn_runs_(runs, 1);
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(
        block_dw_mma_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes)));
    block_dw_mma_kernel<T>
        <<<hn_grid(most, 1, kHnSms_ * T::kPerSm), T::kThreads, T::kSharedBytes, stream>>>(job);
    HN_TRY(HN_CUDA_LAUNCHED("block_dw_mma"));
    return hn_block_dw_add_(a, runs, part, stream);
}

} // namespace

bool hn_block_dw_mma_takes_(const hn_block_dw_args *a)
{
    const int64_t pieces = 16 / (int64_t)sizeof(__nv_bfloat16);
    return a->dtype == HN_BF16 && a->shape.br == a->shape.bc && a->shape.br >= 16 &&
           a->ld_dy % pieces == 0 && a->ld_x % pieces == 0;
}

#define HN_FOR_SIDE(a, T, ...) \
    switch (side_of(a)) {      \
    case 16: {                 \
        using T = Tile<16>;    \
        __VA_ARGS__;           \
    }                          \
    case 32: {                 \
        using T = Tile<32>;    \
        __VA_ARGS__;           \
    }                          \
    case 64: {                 \
        using T = Tile<64>;    \
        __VA_ARGS__;           \
    }                          \
    default: {                 \
        using T = Tile<128>;   \
        __VA_ARGS__;           \
    }                          \
    }

size_t hn_block_dw_mma_scratch_(const hn_block_dw_args *a)
{
    HN_FOR_SIDE(a, T, return hn_runs_bytes_(runs_of<T>(a), a));
}

hn_status hn_block_dw_mma_(const hn_block_dw_args *a, void *scratch, hn_stream stream)
{
    HN_FOR_SIDE(a, T, return launch<T>(a, static_cast<float *>(scratch), stream));
}
