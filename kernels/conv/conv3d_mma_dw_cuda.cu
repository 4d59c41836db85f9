/* Few channels in bf16, gradient of w of a kernel of 3 x 3 x 3 with stride and dilation 1, on the
 * tensor cores (cuda_conv3d_mma.h). As ldmatrix turns them, 8 voxels with 8 channels are 8 columns
 * of A: a block makes 27 taps of 8 channels by 8 rows of dw for boxes of y; a warp takes lines of
 * 32 voxels and holds all of those sums. A second kernel adds the sums of all blocks in order. */
#include "kernels/conv/cuda_conv3d_mma.h"
#include "runtime/base/check.h"

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kChannels = HN_BOX_CHANNELS, kPairs = HN_BOX_PAIRS;
constexpr int kSums = kPairs * 2 * kChannels * kChannels; /* of a block: [tap][channel][row] */
constexpr int kMostBlocks = 132 * 2;                      /* of an H200 */
constexpr int kSlices = kThreads / 32;         /* of the blocks, that are added side by side */
constexpr int64_t kMostIn = 64, kMostOut = 32; /* beyond that, products are faster */
static_assert(kSums % 32 == 0 && kSums * 4 <= HN_BOX_SEEN * 16, "sums lie where voxels were");
static_assert(HN_BOX_LINES % kWarps == 0, "all warps have as many lines");

struct Task {
    hn_conv3d_source x, dy;
    hn_conv3d_boxes boxes;
    float *sums; /* [blocks][chunks of in][chunks of out][kSums] */
};

__global__ void __launch_bounds__(kThreads, 2) mma_dw_kernel(const Task a)
{
    __shared__ __align__(16) uint4 seen[HN_BOX_SEEN];   /* 19 KiB */
    __shared__ __align__(16) uint4 made[HN_BOX_VOXELS]; /* 8 KiB */
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int c = (int)blockIdx.y * kChannels, o = (int)blockIdx.z * kChannels;
    const uint4 mask_x = hn_conv3d_mask(a.x.channels - c);
    const uint4 mask_dy = hn_conv3d_mask(a.dy.channels - o);
    const uint32_t seen_at = hn_shared_address_(seen), made_at = hn_shared_address_(made);
    /* The row that this lane names to ldmatrix: of voxels 0 .. 7 (lanes below 16) or 8 .. 15 of a
     * line, through the first tap of a pair or (every second 8 lanes) the second one. */
    const int voxel = lane % 8 + lane / 16 * 8;
    const hn_conv3d_second to = hn_conv3d_second_of(lane / 8 % 2 != 0);
    float sum[kPairs][4] = {};
    for (int number = (int)blockIdx.x; number < a.boxes.count; number += (int)gridDim.x) {
        const hn_conv3d_box box = hn_conv3d_box_of(a.boxes, number);
        __syncthreads(); /* the box before has been read */
        hn_conv3d_copy_box<HN_BOX_D + 2, HN_BOX_SEEN_H, HN_BOX_SEEN_W, kThreads>(a.x, box, c,
                                                                                 mask_x, seen);
        hn_conv3d_copy_box<HN_BOX_D, HN_BOX_H, HN_BOX_W, kThreads>(a.dy, box, o, mask_dy, made);
        __syncthreads();
        for (int line = warp; line < HN_BOX_LINES; line += kWarps) {
            uint32_t b[4]; /* two B tiles: voxels 0 .. 15 and 16 .. 31 */
            hn_ldmatrix_trans_(b, made_at + (uint32_t)(line * HN_BOX_W + lane) * 16);
            const int place = (line / HN_BOX_H * HN_BOX_SEEN_H + line % HN_BOX_H) * HN_BOX_SEEN_W;
            const uint32_t from = seen_at + (uint32_t)(place + voxel) * 16;
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int pair = 0; pair < kPairs; pair++) {
                    uint32_t x[4];
                    hn_ldmatrix_trans_(x, from + half * 256 + hn_conv3d_pair(pair, to));
                    hn_mma_(sum[pair], x, b[2 * half], b[2 * half + 1]);
                }
        }
    }
    /* Warps add up in the place of the voxels, one behind the other. */
    float *const total = reinterpret_cast<float *>(seen);
    for (int turn = 0; turn < kWarps; turn++) {
        __syncthreads();
        if (warp != turn) continue;
#pragma unroll
        for (int pair = 0; pair < kPairs; pair++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float *const to =
                    &total[(pair * 16 + lane / 4 + e / 2 * 8) * kChannels + lane % 4 * 2 + e % 2];
                *to = turn > 0 ? *to + sum[pair][e] : sum[pair][e];
            }
    }
    __syncthreads();
    const int64_t block = ((int64_t)blockIdx.x * gridDim.y + blockIdx.y) * gridDim.z + blockIdx.z;
    for (int e = threadIdx.x; e < kSums; e += kThreads) a.sums[block * kSums + e] = total[e];
}

/* dw += the sums of all blocks of boxes: 32 of them a block, and a warp of it a slice of those
 * blocks. */
__global__ void __launch_bounds__(kThreads)
    mma_dw_sum_kernel(const float *sums, int blocks, int64_t each, int out_chunks, float *dw,
                      int64_t ld_dw, int in, int out)
{
    __shared__ float slice_sum[kSlices][32];
    const int lane = threadIdx.x % 32, slice = threadIdx.x / 32;
    const int64_t at = (int64_t)blockIdx.x * 32 + lane; /* each is a multiple of 32 */
    const int share = (blocks + kSlices - 1) / kSlices;
    const int end = (slice + 1) * share < blocks ? (slice + 1) * share : blocks;
    float sum = 0.0f;
#pragma unroll 8
    for (int p = slice * share; p < end; p++) sum += sums[p * each + at];
    slice_sum[slice][lane] = sum;
    __syncthreads();
    const int chunk = (int)(at / kSums), e = (int)(at % kSums);
    const int tap = e / (kChannels * kChannels);
    const int c = chunk / out_chunks * kChannels + e / kChannels % kChannels;
    const int o = chunk % out_chunks * kChannels + e % kChannels;
    if (slice > 0 || tap >= HN_BOX_TAPS || c >= in || o >= out) return;
    for (int s = 1; s < kSlices; s++) sum += slice_sum[s][lane];
    dw[o * ld_dw + (int64_t)tap * in + c] += sum;
}

/* ---- launcher ---- */

struct Layout {
    hn_conv3d_view_ view;
    hn_conv3d_boxes boxes;
    int64_t in_chunks, out_chunks, blocks;
    int64_t each; /* floats of a block of boxes */
};

Layout layout_of(const hn_conv3d_shape *s, const void *x, int64_t ld_x)
{
    Layout l = {};
    l.view = hn_conv3d_view_x_(s, x, HN_BF16, ld_x);
    l.boxes = hn_conv3d_boxes_of(&l.view, s->n);
    l.in_chunks = (s->in + kChannels - 1) / kChannels;
    l.out_chunks = (s->out + kChannels - 1) / kChannels;
    const int64_t fill = kMostBlocks / (l.in_chunks * l.out_chunks);
    l.blocks = fill < 1 ? 1 : fill < l.boxes.count ? fill : l.boxes.count;
    l.each = l.in_chunks * l.out_chunks * kSums;
    return l;
}

/* The voxels of boxes themselves. */
hn_conv3d_source made_of(const hn_conv3d_dw_args *a, const Layout &l)
{
    hn_conv3d_source s = {};
    s.p = static_cast<const __nv_bfloat16 *>(a->dy), s.ld = a->ld_dy;
    s.end = (hn_conv3d_voxels_out(&a->shape) - 1) * a->ld_dy + a->shape.out;
    s.d = (int32_t)l.view.axis[0].result, s.h = (int32_t)l.view.axis[1].result;
    s.w = (int32_t)l.view.axis[2].result, s.channels = (int32_t)a->shape.out;
    return s;
}

} // namespace

bool hn_conv3d_mma_dw_fits(const hn_conv3d_dw_args *a)
{
    const hn_conv3d_shape *const s = &a->shape;
    const hn_conv3d_view_ v = hn_conv3d_view_x_(s, a->x, a->dtype, a->ld_x);
    return s->in <= kMostIn && s->out <= kMostOut && hn_conv3d_boxes_fit(&v) &&
           hn_vectors_fit(a->dy, a->ld_dy, a->dtype);
}

size_t hn_conv3d_mma_dw_scratch(const hn_conv3d_shape *s)
{
    const Layout l = layout_of(s, nullptr, 0);
    return (size_t)(l.blocks * l.each) * sizeof(float);
}

hn_status hn_conv3d_mma_dw(const hn_conv3d_dw_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_check_pointer("conv3d_dw", "scratch", scratch));
    const hn_conv3d_shape *const s = &a->shape;
    const Layout l = layout_of(s, a->x, a->ld_x);
    float *const sums = static_cast<float *>(scratch);
    const Task t = {hn_conv3d_source_of(&l.view, s->n), made_of(a, l), l.boxes, sums};
    const dim3 grid((unsigned)l.blocks, (unsigned)l.in_chunks, (unsigned)l.out_chunks);
    mma_dw_kernel<<<grid, kThreads, 0, stream>>>(t);
    mma_dw_sum_kernel<<<(unsigned)(l.each / 32), kThreads, 0, stream>>>(
        sums, (int)l.blocks, l.each, (int)l.out_chunks, a->dw, a->ld_dw, (int)s->in, (int)s->out);
    return HN_CUDA_LAUNCHED("conv3d_dw: few channels, tensor cores");
}
