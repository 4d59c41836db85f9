/* Few channels in bf16, gradient of w of a kernel of 3 x 3 x 3 with stride and dilation 1, on the
 * tensor cores. 16 bytes of shared memory hold 8 channels of a voxel: as ldmatrix turns them, 8
 * voxels are 8 columns of A, and a tap is another address: nothing is laid out as patches. A block
 * makes 27 taps of 8 channels by 8 rows of dw for boxes of y; a warp takes lines of 32 voxels and
 * holds all of those sums. A second kernel adds the sums of all blocks in order. */
#include "kernels/conv/cuda_conv3d.h"
#include "runtime/base/check.h"
#include "runtime/base/cuda_mma.h"
#include "runtime/base/cuda_vec.h"

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kD = 4, kH = 4, kW = 32; /* of a box of y */
constexpr int kSeenH = kH + 2, kSeenW = kW + 2;
constexpr int kMade = kD * kH * kW, kSeen = (kD + 2) * kSeenH * kSeenW; /* voxels: 8 and 19 KiB */
constexpr int kChannels = 8;
constexpr int kTaps = 27, kPairs = (kTaps + 1) / 2;       /* a pair of taps is the 16 rows of A */
constexpr int kSums = kPairs * 2 * kChannels * kChannels; /* of a block: [tap][channel][row] */
constexpr int kMostBlocks = 132 * 2;                      /* of an H200 */
constexpr int kSlices = kThreads / 32;         /* of the blocks, that are added side by side */
constexpr int64_t kMostIn = 64, kMostOut = 32; /* beyond that, products are faster */
constexpr int64_t kMostSide = 1 << 20;
static_assert(kSums % 32 == 0 && kSums * 4 <= kSeen * 16, "sums lie where voxels were");
static_assert(kD * kH % kWarps == 0 && kMade % kThreads == 0, "all warps have as many lines");

struct Task {
    const __nv_bfloat16 *x, *dy;
    int64_t ld_x, ld_dy, x_end, dy_end; /* *_end: one behind the last channel of the last voxel */
    int32_t d, h, w, made_d, made_h, made_w, pad, in, out;
    int32_t boxes_d, boxes_h, boxes_w, boxes;
    float *sums; /* [blocks][chunks of in][chunks of out][kSums] */
};

/* Bits of the first n of 8 channels. */
__device__ __forceinline__ uint4 mask_of(int n)
{
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        word[i] = n >= 2 * i + 2 ? 0xffffffffu : n == 2 * i + 1 ? 0x0000ffffu : 0u;
    return make_uint4(word[0], word[1], word[2], word[3]);
}

/* Up to 8 channels from element `at` on: those of the mask, zeros for the others. */
__device__ __forceinline__ uint4 load_channels(const __nv_bfloat16 *p, int64_t at, int64_t end,
                                               const uint4 &mask)
{
    uint4 v = make_uint4(0, 0, 0, 0);
    if (at + kChannels <= end) {
        v = *reinterpret_cast<const uint4 *>(p + at);
    } else { /* the last voxel's memory may end behind its channels */
        __nv_bfloat16 value[kChannels];
#pragma unroll
        for (int e = 0; e < kChannels; e++)
            value[e] = at + e < end ? p[at + e] : hn_round<__nv_bfloat16>(0.0f);
        memcpy(&v, value, sizeof v);
    }
    return make_uint4(v.x & mask.x, v.y & mask.y, v.z & mask.z, v.w & mask.w);
}

/* Where a tap of the voxel at the box's begin lies among those that the box sees. */
__host__ __device__ constexpr int place_of(int tap)
{
    return (tap / 9 * kSeenH + tap / 3 % 3) * kSeenW + tap % 3;
}

/* From the first tap of a pair to the second one. */
constexpr int kNext = 1, kLine = place_of(3) - place_of(2), kPlane = place_of(9) - place_of(8);

struct Box {
    int volume, d, h, w; /* its first voxel of y */
};

__device__ __forceinline__ Box box_of(const Task &a, int number)
{
    const int line = number / a.boxes_w, plane = line / a.boxes_h, volume = plane / a.boxes_d;
    return {volume, (plane - volume * a.boxes_d) * kD, (line - plane * a.boxes_h) * kH,
            (number - line * a.boxes_w) * kW};
}

/* What the box sees, and its dy; zeros outside of the volumes. */
__device__ __forceinline__ void load_box(const Task &a, const Box &b, const uint4 &mask_x,
                                         const uint4 &mask_dy, uint4 *seen, uint4 *made)
{
    const int c = (int)blockIdx.y * kChannels, o = (int)blockIdx.z * kChannels;
#pragma unroll 3
    for (int at = threadIdx.x; at < kSeen; at += kThreads) {
        const int line = at / kSeenW, plane = line / kSeenH;
        const int i = b.d - a.pad + plane, j = b.h - a.pad + line - plane * kSeenH;
        const int k = b.w - a.pad + at - line * kSeenW;
        const bool there = i >= 0 && i < a.d && j >= 0 && j < a.h && k >= 0 && k < a.w;
        const int64_t voxel = (((int64_t)b.volume * a.d + i) * a.h + j) * a.w + k;
        seen[at] = there ? load_channels(a.x, voxel * a.ld_x + c, a.x_end, mask_x)
                         : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int at = threadIdx.x; at < kMade; at += kThreads) {
        const int i = b.d + at / kW / kH, j = b.h + at / kW % kH, k = b.w + at % kW;
        const bool there = i < a.made_d && j < a.made_h && k < a.made_w;
        const int64_t voxel = (((int64_t)b.volume * a.made_d + i) * a.made_h + j) * a.made_w + k;
        made[at] = there ? load_channels(a.dy, voxel * a.ld_dy + o, a.dy_end, mask_dy)
                         : make_uint4(0, 0, 0, 0);
    }
}

__global__ void __launch_bounds__(kThreads, 2) mma_dw_kernel(const Task a)
{
    __shared__ __align__(16) uint4 seen[kSeen];
    __shared__ __align__(16) uint4 made[kMade];
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const uint4 mask_x = mask_of(a.in - (int)blockIdx.y * kChannels);
    const uint4 mask_dy = mask_of(a.out - (int)blockIdx.z * kChannels);
    const uint32_t seen_at = hn_shared_address_(seen), made_at = hn_shared_address_(made);
    /* The row that this lane names to ldmatrix: of voxels 0 .. 7 (lanes below 16) or 8 .. 15 of a
     * line, through the first tap of a pair or (every second 8 lanes) the second one. */
    const int voxel = lane % 8 + lane / 16 * 8;
    const bool second = lane / 8 % 2 != 0;
    const uint32_t to_next = second ? kNext * 16 : 0, to_line = second ? kLine * 16 : 0;
    const uint32_t to_plane = second ? kPlane * 16 : 0;
    float sum[kPairs][4] = {};
    for (int number = (int)blockIdx.x; number < a.boxes; number += (int)gridDim.x) {
        __syncthreads(); /* the box before has been read */
        load_box(a, box_of(a, number), mask_x, mask_dy, seen, made);
        __syncthreads();
        for (int line = warp; line < kD * kH; line += kWarps) {
            uint32_t b[4]; /* two B tiles: voxels 0 .. 15 and 16 .. 31 */
            hn_ldmatrix_trans_(b, made_at + (uint32_t)(line * kW + lane) * 16);
            const uint32_t from =
                seen_at + (uint32_t)((line / kH * kSeenH + line % kH) * kSeenW + voxel) * 16;
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int pair = 0; pair < kPairs; pair++) {
                    const int first = 2 * pair; /* behind the last tap is nobody's: that again */
                    const int far = first + 1 < kTaps ? place_of(first + 1) - place_of(first) : 0;
                    const uint32_t other = far == kNext    ? to_next
                                           : far == kLine  ? to_line
                                           : far == kPlane ? to_plane
                                                           : 0;
                    uint32_t x[4];
                    hn_ldmatrix_trans_(x, from + (half * 16 + place_of(first)) * 16 + other);
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
    if (slice > 0 || tap >= kTaps || c >= in || o >= out) return;
    for (int s = 1; s < kSlices; s++) sum += slice_sum[s][lane];
    dw[o * ld_dw + (int64_t)tap * in + c] += sum;
}

/* ---- launcher ---- */

struct Layout {
    int64_t boxes[3], count;
    int64_t in_chunks, out_chunks, blocks;
    int64_t each; /* floats of a block of boxes */
};

Layout layout_of(const hn_conv3d_shape *s)
{
    const hn_conv3d_view_ v = hn_conv3d_view_x_(s, nullptr, HN_BF16, 0);
    const int64_t side[3] = {kD, kH, kW};
    Layout l = {};
    l.count = s->n;
    for (int a = 0; a < 3; a++) {
        l.boxes[a] = (v.axis[a].result + side[a] - 1) / side[a];
        l.count *= l.boxes[a];
    }
    l.in_chunks = (s->in + kChannels - 1) / kChannels;
    l.out_chunks = (s->out + kChannels - 1) / kChannels;
    const int64_t fill = kMostBlocks / (l.in_chunks * l.out_chunks);
    l.blocks = fill < 1 ? 1 : fill < l.count ? fill : l.count;
    l.each = l.in_chunks * l.out_chunks * kSums;
    return l;
}

Task task_of(const hn_conv3d_dw_args *a, const Layout &l, float *sums)
{
    const hn_conv3d_shape *const s = &a->shape;
    const hn_conv3d_view_ v = hn_conv3d_view_x_(s, a->x, a->dtype, a->ld_x);
    Task t = {};
    t.x = static_cast<const __nv_bfloat16 *>(a->x), t.ld_x = a->ld_x;
    t.dy = static_cast<const __nv_bfloat16 *>(a->dy), t.ld_dy = a->ld_dy;
    t.x_end = (hn_conv3d_voxels_in(s) - 1) * a->ld_x + s->in;
    t.dy_end = (hn_conv3d_voxels_out(s) - 1) * a->ld_dy + s->out;
    t.d = (int32_t)s->d, t.h = (int32_t)s->h, t.w = (int32_t)s->w, t.pad = (int32_t)s->pad;
    t.made_d = (int32_t)v.axis[0].result, t.made_h = (int32_t)v.axis[1].result;
    t.made_w = (int32_t)v.axis[2].result;
    t.in = (int32_t)s->in, t.out = (int32_t)s->out;
    t.boxes_d = (int32_t)l.boxes[0], t.boxes_h = (int32_t)l.boxes[1];
    t.boxes_w = (int32_t)l.boxes[2], t.boxes = (int32_t)l.count;
    t.sums = sums;
    return t;
}

} // namespace

bool hn_conv3d_mma_dw_fits(const hn_conv3d_dw_args *a)
{
    const hn_conv3d_shape *const s = &a->shape;
    const bool kernel =
        s->kd == 3 && s->kh == 3 && s->kw == 3 && s->stride == 1 && s->dilation == 1;
    const bool sides =
        s->d <= kMostSide && s->h <= kMostSide && s->w <= kMostSide && s->pad <= kMostSide;
    return a->dtype == HN_BF16 && kernel && sides && s->in <= kMostIn && s->out <= kMostOut &&
           hn_vectors_fit(a->x, a->ld_x, a->dtype) && hn_vectors_fit(a->dy, a->ld_dy, a->dtype);
}

size_t hn_conv3d_mma_dw_scratch(const hn_conv3d_shape *s)
{
    const Layout l = layout_of(s);
    return (size_t)(l.blocks * l.each) * sizeof(float);
}

hn_status hn_conv3d_mma_dw(const hn_conv3d_dw_args *a, void *scratch, hn_stream stream)
{
    HN_TRY(hn_check_pointer("conv3d_dw", "scratch", scratch));
    const hn_conv3d_shape *const s = &a->shape;
    const Layout l = layout_of(s);
    float *const sums = static_cast<float *>(scratch);
    const dim3 grid((unsigned)l.blocks, (unsigned)l.in_chunks, (unsigned)l.out_chunks);
    mma_dw_kernel<<<grid, kThreads, 0, stream>>>(task_of(a, l, sums));
    mma_dw_sum_kernel<<<(unsigned)(l.each / 32), kThreads, 0, stream>>>(
        sums, (int)l.blocks, l.each, (int)l.out_chunks, a->dw, a->ld_dw, (int)s->in, (int)s->out);
    return HN_CUDA_LAUNCHED("conv3d_dw: few channels, tensor cores");
}
