/* Squares of 64 and 128 (256: four of 128) on the tensor cores: a thread block multiplies the
 * columns of dy and x that one block of the matrix needs over one run of tokens. Both operands lie
 * token by token, so that their tiles go to shared memory as they are and ldmatrix transposes
 * them; copies run several steps ahead, as memory bounds nearly all of it.
 *
 * The same product serves tiles of the matrix with many squares of 1 or 4 (block_dw_tile_cuda.cu):
 * what it gives stays in shared memory, and only the values that are wanted leave it. */
#include "kernels/sparse/cuda_block_dw.h"
#include "runtime/base/cuda_mma.h"

namespace {

/* Blocks of kSide: warps down and across its rows and columns, and kDeep such teams that share out
 * the tokens of a step. 128: 192 KB of shared memory, 160 KB of them under way, and 16 warps that
 * hide each other's reads; 64: 64 KB, 3 thread blocks a multiprocessor. */
template <int kSide_>
struct Tile {
    static constexpr int kSide = kSide_;
    static constexpr int kDown = 2, kAcross = kSide / 32, kDeep = kSide == 128 ? 2 : 1;
    static constexpr int kTeam = kDown * kAcross, kThreads = 32 * kDeep * kTeam;
    static constexpr int kM = kSide / kDown, kN = kSide / kAcross; /* of a warp */
    static constexpr int kSums = kM / 16 * (kN / 8);               /* of a warp: of 16 x 8 each */
    static constexpr int kTokens = 64, kStages = kSide == 128 ? 6 : 4; /* tokens of a step */
    static constexpr int kPerSm = kSide == 128 ? 1 : 3;
    static constexpr int kRowBytes = kSide * (int)sizeof(__nv_bfloat16);
    static constexpr int kOperandBytes = kTokens * kRowBytes, kStageBytes = 2 * kOperandBytes;
    static constexpr int kSharedBytes = kStages * kStageBytes;
    static_assert(kDeep * kSide * kSide * (int)sizeof(float) <= kSharedBytes || kDeep == 1,
                  "the sums of all teams fit into what held the tiles");
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
    int tokens;          /* from there to the last of all */
    int dy_cols, x_cols; /* the same */
    int steps;           /* of the run */
};

template <class T>
struct Copier {
    static constexpr int kPieces = T::kRowBytes / 16;         /* of a row of one operand */
    static constexpr int kRows = T::kThreads / (2 * kPieces); /* copied at once */
    static_assert(T::kThreads % (2 * kPieces) == 0 && kRows % 8 == 0, "the places repeat");
    const __nv_bfloat16 *from; /* this thread's piece of its next row */
    int64_t down;              /* kRows rows */
    uint32_t to;
    int left; /* tokens from that row to the last of all; none of columns behind the last */

    __device__ __forceinline__ Copier(const Part &p, uint32_t shared)
    {
        const int c = (int)threadIdx.x % (2 * kPieces), row = (int)threadIdx.x / (2 * kPieces);
        const bool of_x = c >= kPieces;
        const int64_t ld = of_x ? p.ld_x : p.ld_dy;
        from = (of_x ? p.x + (c - kPieces) * 8 : p.dy + c * 8) + row * ld;
        down = kRows * ld;
        to = shared + (of_x ? T::kOperandBytes : 0) +
             (uint32_t)place<T>(row, of_x ? c - kPieces : c);
        const int piece = of_x ? c - kPieces : c;
        left = piece * 8 < (of_x ? p.x_cols : p.dy_cols) ? p.tokens - row : 0;
    }
    /* Starts copying the next step; tokens and columns behind the last become zeros, and are not
     * read. */
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

/* What a warp has of a product of all teams. */
template <class T>
struct Warp {
    int deep, in_team, m, n; /* m, n: its first row and column */

    __device__ __forceinline__ Warp()
    {
        deep = (int)threadIdx.x / 32 / T::kTeam, in_team = (int)threadIdx.x / 32 % T::kTeam;
        m = in_team / T::kAcross * T::kM, n = in_team % T::kAcross * T::kN;
    }
};

/* c += the warp's part of the product of a run. Shared memory is free behind it. */
template <class T>
__device__ __forceinline__ void multiply_run(float (*c)[T::kN / 8][4], const Part &p,
                                             uint32_t stages, const Warp<T> &warp)
{
    Copier<T> copier(p, stages);
#pragma unroll 1
    for (int i = 0; i < T::kStages - 1; i++) {
        if (i < p.steps) copier.step(i);
        hn_copy_commit_();
    }
    int stage = 0;
#pragma unroll 1
    for (int i = 0; i < p.steps; i++) {
        const int before = stage > 0 ? stage - 1 : T::kStages - 1;
        hn_copy_wait_<T::kStages - 2>();
        __syncthreads(); /* step i is there; nobody reads the step before any more */
        if (i + T::kStages - 1 < p.steps) copier.step(before);
        hn_copy_commit_(); /* an empty group at the end keeps the count */
        multiply<T>(c, stages + (uint32_t)stage * T::kStageBytes, warp.m, warp.n, warp.deep);
        stage = stage + 1 < T::kStages ? stage + 1 : 0;
    }
    __syncthreads(); /* all products are done */
}

/* Sum i, j of a warp's, to rows that lie ld values apart. */
__device__ __forceinline__ void store(const float4 &c, int i, int j, float *to, int ld)
{
    const int row = 16 * i + (int)threadIdx.x % 32 / 4, col = 8 * j + (int)threadIdx.x % 4 * 2;
    *reinterpret_cast<float2 *>(to + row * ld + col) = make_float2(c.x, c.y);
    *reinterpret_cast<float2 *>(to + (row + 8) * ld + col) = make_float2(c.z, c.w);
}

/* The warp's part of a block. Teams put theirs side by side, in the order of registers, and share
 * out the sums of both. */
template <class T>
__device__ __forceinline__ void store_all(const float (*c)[T::kN / 8][4], float4 *shared, int deep,
                                          int in_team, float *to, int ld)
{
    constexpr int kJ = T::kN / 8, kLanes = 32 * T::kSums, kAll = kLanes * T::kTeam;
    float4 *const mine = shared + in_team * kLanes + (int)threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < T::kSums; n++) {
        const float *const v = c[n / kJ][n % kJ];
        const float4 sum = make_float4(v[0], v[1], v[2], v[3]);
        if (T::kDeep > 1)
            mine[deep * kAll + n * 32] = sum;
        else
            store(sum, n / kJ, n % kJ, to, ld);
    }
    if (T::kDeep == 1) return;
    __syncthreads();
#pragma unroll 4
    for (int n = deep; n < T::kSums; n += T::kDeep) {
        float4 sum = mine[n * 32];
#pragma unroll
        for (int d = 1; d < T::kDeep; d++) {
            const float4 v = mine[d * kAll + n * 32];
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        store(sum, n / kJ, n % kJ, to, ld);
    }
    __syncthreads(); /* the next block's tiles come here */
}

/* What the kernel needs to know of the operation. */
struct Job {
    const __nv_bfloat16 *dy, *x;
    int64_t ld_dy, ld_x, in;
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
    const Warp<T> warp;
    const uint32_t stages = hn_shared_address_(shared);
    const int64_t values = (int64_t)job.side * job.side;
    const int64_t blocks = hn_path_blocks_(job.span, job.runs), items = blocks * job.quarters;
    const int64_t runs = hn_runs_(job.runs, items);
    const int64_t steps = hn_ceil_div_(job.runs.tokens, T::kTokens), across = job.in / job.side;

#pragma unroll 1
    for (int64_t w = blockIdx.x; w < items * runs; w += gridDim.x) {
        /* Neighbours have the same tokens: blocks in one strip read the same memory. */
        const int64_t run = w / items, b = w % items / job.quarters;
        const int quarter = (int)(w % items % job.quarters);
        const int64_t id = job.block[job.span->first_block + b];
        const int down = quarter / 2 * T::kSide, right = quarter % 2 * T::kSide;
        const int64_t begin = hn_part_(steps, run, runs);
        const int count = (int)(hn_part_(steps, run + 1, runs) - begin);
        const int64_t first = begin * T::kTokens;
        const Part p = {job.dy + first * job.ld_dy + id / across * job.side + down,
                        job.x + first * job.ld_x + id % across * job.side + right,
                        job.ld_dy,
                        job.ld_x,
                        (int)(job.runs.tokens - first),
                        T::kSide,
                        T::kSide,
                        count};
        float c[T::kM / 16][T::kN / 8][4] = {};
        multiply_run<T>(c, p, stages, warp);
        float *const to = job.part + (run * blocks + b) * values +
                          (int64_t)(down + warp.m) * job.side + right + warp.n;
        store_all<T>(c, reinterpret_cast<float4 *>(shared), warp.deep, warp.in_team, to, job.side);
    }
}

/* ---- tiles of the matrix ---- */

using Whole = Tile<HN_SPARSE_TILE>;
constexpr int kSumRow = HN_SPARSE_TILE + 8; /* 4 rows of two sums a lane are in different banks */
constexpr int kTeamSums = HN_SPARSE_TILE * kSumRow;
static_assert(Whole::kDeep * kTeamSums * (int)sizeof(float) <= Whole::kSharedBytes,
              "the sums of all teams fit into what held the tiles");

struct TileJob {
    const __nv_bfloat16 *dy, *x;
    int64_t ld_dy, ld_x, out, in;
    const hn_sparse_span *span;
    const int32_t *block, *tile_first;
    float *grad;
    float alpha;
    HnChosen_ chosen;
    HnRuns_ runs;
};

/* Puts a warp's sums where they lie in the tile, and those of all teams there, too. */
__device__ __forceinline__ void store_tile(const float (*c)[Whole::kN / 8][4], float *sums,
                                           const Warp<Whole> &warp)
{
    float *const to = sums + warp.deep * kTeamSums + warp.m * kSumRow + warp.n;
#pragma unroll
    for (int i = 0; i < Whole::kM / 16; i++)
#pragma unroll
        for (int j = 0; j < Whole::kN / 8; j++) {
            const float *const v = c[i][j];
            store(make_float4(v[0], v[1], v[2], v[3]), i, j, to, kSumRow);
        }
    __syncthreads();
}

__device__ __forceinline__ float sum_of_teams(const float *sums, int row, int col)
{
    float sum = 0.0f;
#pragma unroll
    for (int d = 0; d < Whole::kDeep; d++) sum += sums[d * kTeamSums + row * kSumRow + col];
    return sum;
}

/* Of blocks of kSide. */
template <int kSide>
__global__ void __launch_bounds__(Whole::kThreads, Whole::kPerSm)
    block_dw_product_kernel(const TileJob job, const hn_divisor by_across)
{
    extern __shared__ __align__(128) char shared[];
    constexpr int kValues = kSide * kSide, kTile = HN_SPARSE_TILE;
    float *const sums = reinterpret_cast<float *>(shared);
    const uint32_t stages = hn_shared_address_(shared);
    const Warp<Whole> warp;
    const int tiles = job.chosen.choice->tiles;
    const int64_t values = (int64_t)job.chosen.choice->tile_blocks * kValues;
    const int runs = hn_product_runs_(job.runs, tiles, values, job.chosen.room);
    const int64_t steps = hn_ceil_div_(job.runs.tokens, Whole::kTokens);
    const int tiles_across = (int)hn_ceil_div_(job.in, kTile);

#pragma unroll 1
    for (int64_t w = blockIdx.x; w < (int64_t)tiles * runs; w += gridDim.x) {
        /* Neighbours have the same tokens: tiles in one strip read the same memory. */
        const int run = (int)(w / tiles), k = (int)(w % tiles), tile = job.chosen.tile[k];
        const int row = tile / tiles_across * kTile, col = tile % tiles_across * kTile;
        const int64_t begin = hn_part_(steps, run, runs), first = begin * Whole::kTokens;
        const Part p = {job.dy + first * job.ld_dy + row,
                        job.x + first * job.ld_x + col,
                        job.ld_dy,
                        job.ld_x,
                        (int)(job.runs.tokens - first),
                        (int)job.out - row,
                        (int)job.in - col,
                        (int)(hn_part_(steps, run + 1LL, runs) - begin)};
        {
            float c[Whole::kM / 16][Whole::kN / 8][4] = {};
            multiply_run<Whole>(c, p, stages, warp);
            store_tile(c, sums, warp);
        }
        const int from = job.tile_first[tile], before = job.chosen.first[k];
        const int n = (job.chosen.first[k + 1] - before) * kValues; /* at most a tile's */
        const int32_t *const id = job.block + job.span->first_block + from;
        float *const grad = job.grad + job.span->first_value + (int64_t)from * kValues;
        float *const part = job.chosen.tile_part + run * values + (int64_t)before * kValues;
        const int across = (int)(job.in / kSide);
#pragma unroll 2
        for (int v = (int)threadIdx.x; v < n; v += Whole::kThreads) {
            const int i = id[v / kValues], down = (int)hn_divide((uint32_t)i, by_across);
            const float sum = sum_of_teams(sums, down * kSide - row + v % kValues / kSide,
                                           (i - down * across) * kSide - col + v % kSide);
            if (runs == 1)
                grad[v] += job.alpha * sum;
            else
                part[v] = sum;
        }
        __syncthreads(); /* the next tile's tokens come here */
    }
}

int side_of(const hn_block_dw_args *a) { return a->shape.br == 256 ? 128 : (int)a->shape.br; }

template <class T>
HnRuns_ runs_of(const hn_block_dw_args *a, int64_t most)
{
    const int64_t items = a->shape.br == 256 ? 4 : 1; /* of a block */
    return {a->rows, a->capacity, most, T::kTokens, 256, kHnSms_ * T::kPerSm, items, 1};
}

template <class T>
hn_status launch(const hn_block_dw_args *a, int64_t most, float *part, hn_stream stream)
{
    const HnRuns_ runs = runs_of<T>(a, most);
    const Job job = {static_cast<const __nv_bfloat16 *>(a->dy),
                     static_cast<const __nv_bfloat16 *>(a->x),
                     a->ld_dy,
                     a->ld_x,
                     a->in,
                     (int)a->shape.br,
                     (int)runs.items_a_block,
                     a->span,
                     a->block,
                     part,
                     runs};
    const int64_t works = most * runs.items_a_block * hn_runs_(runs, 1);
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(
        block_dw_mma_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes)));
    block_dw_mma_kernel<T>
        <<<hn_grid(works, 1, kHnSms_ * T::kPerSm), T::kThreads, T::kSharedBytes, stream>>>(job);
    HN_TRY(HN_CUDA_LAUNCHED("block_dw_mma"));
    return hn_block_dw_add_(a, runs, part, stream);
}

} // namespace

bool hn_block_dw_mma_takes_(const hn_block_dw_args *a)
{
    const int64_t pieces = 16 / (int64_t)sizeof(__nv_bfloat16);
    return a->dtype == HN_BF16 && a->shape.br == a->shape.bc && a->shape.br >= 64 &&
           a->ld_dy % pieces == 0 && a->ld_x % pieces == 0;
}

size_t hn_block_dw_mma_scratch_(const hn_block_dw_args *a, int64_t most)
{
    return hn_runs_bytes_(
        side_of(a) == 64 ? runs_of<Tile<64>>(a, most) : runs_of<Tile<128>>(a, most), a);
}

int hn_block_dw_mma_shared_(const hn_block_dw_args *a)
{
    return side_of(a) == 64 ? Tile<64>::kSharedBytes : Tile<128>::kSharedBytes;
}

hn_status hn_block_dw_mma_(const hn_block_dw_args *a, int64_t most, void *scratch, hn_stream stream)
{
    float *const part = static_cast<float *>(scratch);
    return side_of(a) == 64 ? launch<Tile<64>>(a, most, part, stream)
                            : launch<Tile<128>>(a, most, part, stream);
}

bool hn_block_dw_product_takes_(const hn_block_dw_args *a)
{
    const int64_t pieces = 16 / (int64_t)sizeof(__nv_bfloat16);
    return a->dtype == HN_BF16 && a->shape.br == a->shape.bc &&
           (a->shape.br == 1 || a->shape.br == 4) && a->out % pieces == 0 && a->in % pieces == 0 &&
           a->ld_dy % pieces == 0 && a->ld_x % pieces == 0;
}

HnRuns_ hn_block_dw_product_runs_(const hn_block_dw_args *a, int64_t most)
{
    return {a->rows, a->capacity, most, Whole::kTokens, 256, kHnSms_ * Whole::kPerSm, 1, 1};
}

int hn_block_dw_product_shared_() { return Whole::kSharedBytes; }

template <int kSide>
static hn_status launch_product(const hn_block_dw_args *a, const TileJob &job, hn_stream stream)
{
    const int64_t works = job.runs.most * hn_runs_(job.runs, 1);
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(block_dw_product_kernel<kSide>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        Whole::kSharedBytes)));
    block_dw_product_kernel<kSide>
        <<<hn_grid(works, 1, job.runs.slots), Whole::kThreads, Whole::kSharedBytes, stream>>>(
            job, hn_divisor_of(a->in / kSide));
    return HN_CUDA_LAUNCHED("block_dw_product");
}

hn_status hn_block_dw_product_(const hn_block_dw_args *a, int64_t most, const HnChosen_ &to,
                               hn_stream stream)
{
    TileJob job = {};
    job.dy = static_cast<const __nv_bfloat16 *>(a->dy), job.ld_dy = a->ld_dy, job.out = a->out;
    job.x = static_cast<const __nv_bfloat16 *>(a->x), job.ld_x = a->ld_x, job.in = a->in;
    job.span = a->span, job.block = a->block, job.tile_first = a->tile_first;
    job.grad = a->grad, job.alpha = hn_alpha_(a->alpha);
    job.chosen = to, job.runs = hn_block_dw_product_runs_(a, most);
    return a->shape.br == 1 ? launch_product<1>(a, job, stream) : launch_product<4>(a, job, stream);
}
