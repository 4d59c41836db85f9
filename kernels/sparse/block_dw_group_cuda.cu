/* Squares of 16 and 32 on the tensor cores. A block by itself would read two narrow strips of
 * columns for little work. Neighbours in the span share rows and, if many, columns of blocks; so a
 * thread block takes a group of neighbours over one run of tokens, finds the strips of dy and x
 * that any of them needs, copies each strip once to shared memory, several steps ahead, and its
 * warps multiply the strips of their own blocks. */
#include "kernels/sparse/cuda_block_dw.h"
#include "runtime/base/cuda_mma.h"

namespace {

constexpr int kTokens = 16; /* of a step: the depth of one mma */
constexpr int kWarps = 16, kThreads = 32 * kWarps;
constexpr int kStageMemory = 208 * 1024;
constexpr int kMostStages = 8;

/* kEach blocks of a warp: 48 or 64 sums a lane. Two steps fit into shared memory even if no two
 * blocks of a group share a strip. */
template <int kSide_>
struct Group {
    static constexpr int kSide = kSide_;
    static constexpr int kEach = kSide == 16 ? 6 : 2, kBlocks = kWarps * kEach;
    static constexpr int kStrips = 2 * kBlocks; /* at most */
    static constexpr int kM = kSide / 16, kN = kSide / 8;
    static constexpr int kPieces = kSide / 8; /* of 16 bytes, of a strip's row */
    static constexpr int kRowBytes = 16 * kPieces, kStripBytes = kTokens * kRowBytes;
    static_assert(2 * kStrips * kStripBytes <= kStageMemory, "two steps");
    static_assert(kBlocks % 32 == 0 && kStrips <= kThreads,
                  "a thread a key, a side of whole warps");
};

/* Where piece c of row r of a strip lies: 8 neighbouring rows of a piece are in different banks. */
template <class G>
__device__ __forceinline__ uint32_t place(int r, int c)
{
    return (uint32_t)(r * G::kRowBytes + (c ^ (r * G::kPieces / 8 & (G::kPieces - 1))) * 16);
}

struct Job {
    const __nv_bfloat16 *dy, *x;
    int64_t ld_dy, ld_x, across; /* blocks in a row of the matrix */
    const hn_sparse_span *span;
    const int32_t *block;
    float *part;
    HnRuns_ runs;
};

/* The strips of a group. Keys are rows of blocks (the first kBlocks) and columns of blocks. */
template <class G>
struct Strips {
    const __nv_bfloat16 *from[G::kStrips]; /* first element, at token 0; dy's stand first */
    int key[G::kStrips];
    int at[G::kStrips];              /* the strip of the first block with that key */
    uint32_t first[G::kStrips / 32]; /* which keys are the first of their kind, a bit each */
};

/* Finds the strips of n blocks. Gives how many of dy there are, and of both; the thread of a key
 * gets its strip. All threads take part. */
template <class G>
__device__ __forceinline__ int find_strips(const Job &job, const int32_t *id, int n, Strips<G> *s,
                                           int *of_dy, int *of_both)
{
    const int t = (int)threadIdx.x, b = t % G::kBlocks, side = t - b;
    const bool is_key = t < G::kStrips && b < n;
    if (is_key) {
        const int64_t i = id[b];
        s->key[t] = (int)(side == 0 ? i / job.across : i % job.across);
    }
    __syncthreads();
    int first = b;
    if (is_key) {
        const int key = s->key[t];
#pragma unroll 8
        for (int other = 0; other < n; other++)
            if (s->key[side + other] == key && other < first) first = other;
    }
    const bool leads = is_key && first == b;
    const uint32_t leaders = __ballot_sync(0xffffffffu, leads);
    if (t < G::kStrips && t % 32 == 0) s->first[t / 32] = leaders;
    __syncthreads();
    int before = __popc(leaders & ((1u << t % 32) - 1)), dy = 0, both = 0;
#pragma unroll
    for (int w = 0; w < G::kStrips / 32; w++) {
        const int count = __popc(s->first[w]);
        if (w < t / 32) before += count;
        if (w < G::kBlocks / 32) dy += count;
        both += count;
    }
    if (leads) {
        s->at[t] = before;
        s->from[before] = (side == 0 ? job.dy : job.x) + (int64_t)s->key[t] * G::kSide;
    }
    __syncthreads();
    *of_dy = dy, *of_both = both;
    return is_key ? s->at[side + first] : 0;
}

/* Starts copying a step: its tokens of every strip, zeros behind the last token. A warp copies 512
 * bytes of a strip at a time. */
template <class G>
__device__ __forceinline__ void copy_step(const Job &job, const Strips<G> &s, int of_dy,
                                          int of_both, int step, uint32_t stage)
{
    constexpr int kRows = 32 / G::kPieces;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    const int row = lane / G::kPieces, piece = lane % G::kPieces;
#pragma unroll
    for (int n = 0; n < kTokens / kRows; n++) {
        const int r = row + n * kRows;
        const int64_t t = (int64_t)step * kTokens + r;
        const int64_t in_dy = t * job.ld_dy + piece * 8, in_x = t * job.ld_x + piece * 8;
        const uint32_t to = stage + place<G>(r, piece);
#pragma unroll 1
        for (int k = warp; k < of_both; k += kWarps)
            hn_copy16_(to + (uint32_t)(k * G::kStripBytes), s.from[k] + (k < of_dy ? in_dy : in_x),
                       t < job.runs.tokens);
    }
}

/* Until the oldest of stages - 1 steps under way is there. */
__device__ __forceinline__ void wait_step(int stages)
{
    switch (stages) {
    case 2: hn_copy_wait_<0>(); break;
    case 3: hn_copy_wait_<1>(); break;
    case 4: hn_copy_wait_<2>(); break;
    case 5: hn_copy_wait_<3>(); break;
    case 6: hn_copy_wait_<4>(); break;
    case 7: hn_copy_wait_<5>(); break;
    default: hn_copy_wait_<6>(); break;
    }
}
static_assert(kMostStages == 8, "wait_step's last case");

/* c += the product of a step for one block; `strips`: dy's, and x's in the upper half. */
template <class G>
__device__ __forceinline__ void multiply(float (*c)[G::kN][4], uint32_t stage, uint32_t strips)
{
    const int lane = (int)threadIdx.x % 32;
    const uint32_t dy = stage + (strips & 0xffffu) * G::kStripBytes;
    const uint32_t x = stage + (strips >> 16) * G::kStripBytes;
    uint32_t a[G::kM][4], b[G::kM][4];
#pragma unroll
    for (int i = 0; i < G::kM; i++)
        hn_ldmatrix_trans_(a[i], dy + place<G>(lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
#pragma unroll
    for (int j = 0; j < G::kM; j++)
        hn_ldmatrix_trans_(b[j], x + place<G>(lane % 16, 2 * j + lane / 16));
#pragma unroll
    for (int i = 0; i < G::kM; i++)
#pragma unroll
        for (int j = 0; j < G::kM; j++) {
            hn_mma_(c[i][2 * j], a[i], b[j][0], b[j][1]);
            hn_mma_(c[i][2 * j + 1], a[i], b[j][2], b[j][3]);
        }
}

template <class G>
__device__ __forceinline__ void store(const float (*c)[G::kN][4], float *to)
{
    const int row = (int)threadIdx.x % 32 / 4, col = (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < G::kM; i++)
#pragma unroll
        for (int j = 0; j < G::kN; j++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                *reinterpret_cast<float2 *>(to + (row + 16 * i + 8 * e) * G::kSide + col + 8 * j) =
                    make_float2(c[i][j][2 * e], c[i][j][2 * e + 1]);
}

template <class G>
__global__ void __launch_bounds__(kThreads, 1) block_dw_group_kernel(const Job job)
{
    extern __shared__ __align__(128) char shared[];
    __shared__ Strips<G> strips;
    __shared__ int strip_of[G::kStrips];
    constexpr int kValues = G::kSide * G::kSide;
    const int warp = (int)threadIdx.x / 32;
    const uint32_t memory = hn_shared_address_(shared);
    const int blocks = hn_path_blocks_(job.span, job.runs);
    const int groups = (int)hn_items_(job.runs, blocks), runs = hn_runs_(job.runs, groups);

#pragma unroll 1
    for (int w = (int)blockIdx.x; w < groups * runs; w += (int)gridDim.x) {
        /* Neighbours have the same tokens: groups read the same strips of x. */
        const int run = w / groups, group = w % groups;
        const int first = (int)hn_part_(blocks, group, groups);
        const int n = (int)hn_part_(blocks, group + 1LL, groups) - first;
        int of_dy, of_both;
        const int mine = find_strips<G>(job, job.block + job.span->first_block + first, n, &strips,
                                        &of_dy, &of_both);
        if ((int)threadIdx.x < G::kStrips) strip_of[threadIdx.x] = mine;
        __syncthreads();
        uint32_t at[G::kEach]; /* strips of this warp's blocks: dy's, and x's in the upper half */
#pragma unroll
        for (int k = 0; k < G::kEach; k++) {
            const int b = warp + k * kWarps;
            at[k] = (uint32_t)(strip_of[b] | strip_of[G::kBlocks + b] << 16);
        }

        const uint32_t stage_bytes = (uint32_t)(of_both * G::kStripBytes);
        const int fit = (int)((uint32_t)kStageMemory / stage_bytes);
        const int stages = fit < kMostStages ? fit : kMostStages;
        const int steps = (int)hn_ceil_div_(job.runs.tokens, kTokens);
        const int begin = (int)hn_part_(steps, run, runs);
        const int count = (int)hn_part_(steps, run + 1LL, runs) - begin;
        float c[G::kEach][G::kM][G::kN][4] = {};
#pragma unroll 1
        for (int i = 0; i < stages - 1; i++) {
            if (i < count)
                copy_step<G>(job, strips, of_dy, of_both, begin + i,
                             memory + (uint32_t)i * stage_bytes);
            hn_copy_commit_();
        }
        int stage = 0;
#pragma unroll 1
        for (int i = 0; i < count; i++) {
            const int before = stage > 0 ? stage - 1 : stages - 1;
            wait_step(stages);
            __syncthreads(); /* step i is there; nobody reads the step before any more */
            if (i + stages - 1 < count)
                copy_step<G>(job, strips, of_dy, of_both, begin + i + stages - 1,
                             memory + (uint32_t)before * stage_bytes);
            hn_copy_commit_(); /* an empty group at the end keeps the count */
            const uint32_t from = memory + (uint32_t)stage * stage_bytes;
#pragma unroll
            for (int k = 0; k < G::kEach; k++)
                if (warp + k * kWarps < n) multiply<G>(c[k], from, at[k]);
            stage = stage + 1 < stages ? stage + 1 : 0;
        }
        float *const to = job.part + ((int64_t)run * blocks + first) * kValues;
#pragma unroll
        for (int k = 0; k < G::kEach; k++)
            if (warp + k * kWarps < n) store<G>(c[k], to + (int64_t)(warp + k * kWarps) * kValues);
        __syncthreads(); /* the next group's strips come here */
    }
}

template <class G>
HnRuns_ runs_of(const hn_block_dw_args *a, int64_t most)
{
    return {a->rows, a->capacity, most, kTokens, 128, kHnSms_, 1, G::kBlocks};
}

template <class G>
hn_status launch(const hn_block_dw_args *a, int64_t most, float *part, hn_stream stream)
{
    const HnRuns_ runs = runs_of<G>(a, most);
    const Job job = {static_cast<const __nv_bfloat16 *>(a->dy),
                     static_cast<const __nv_bfloat16 *>(a->x),
                     a->ld_dy,
                     a->ld_x,
                     a->in / G::kSide,
                     a->span,
                     a->block,
                     part,
                     runs};
    const int64_t works = hn_items_(runs, most) * hn_runs_(runs, 1);
    HN_TRY(HN_CUDA(cudaFuncSetAttribute(
        block_dw_group_kernel<G>, cudaFuncAttributeMaxDynamicSharedMemorySize, kStageMemory)));
    block_dw_group_kernel<G><<<hn_grid(works, 1, kHnSms_), kThreads, kStageMemory, stream>>>(job);
    HN_TRY(HN_CUDA_LAUNCHED("block_dw_group"));
    return hn_block_dw_add_(a, runs, part, stream);
}

} // namespace

bool hn_block_dw_group_takes_(const hn_block_dw_args *a)
{
    const int64_t pieces = 16 / (int64_t)sizeof(__nv_bfloat16);
    return a->dtype == HN_BF16 && a->shape.br == a->shape.bc &&
           (a->shape.br == 16 || a->shape.br == 32) && a->ld_dy % pieces == 0 &&
           a->ld_x % pieces == 0;
}

size_t hn_block_dw_group_scratch_(const hn_block_dw_args *a, int64_t most)
{
    return hn_runs_bytes_(
        a->shape.br == 16 ? runs_of<Group<16>>(a, most) : runs_of<Group<32>>(a, most), a);
}

int hn_block_dw_group_shared_(const hn_block_dw_args *a)
{
    (void)a;
    return kStageMemory + (int)sizeof(Strips<Group<16>>) + Group<16>::kStrips * (int)sizeof(int);
}

hn_status hn_block_dw_group_(const hn_block_dw_args *a, int64_t most, void *scratch,
                             hn_stream stream)
{
    float *const part = static_cast<float *>(scratch);
    return a->shape.br == 16 ? launch<Group<16>>(a, most, part, stream)
                             : launch<Group<32>>(a, most, part, stream);
}
