/* Few channels in bf16, 3 x 3 x 3 taps with stride and dilation 1, on the tensor cores
 * (cuda_conv3d_mma.h): forward, and the gradient of x. 16 voxels are the rows of A, two taps of 8
 * channels its columns. A block makes 8 channels of boxes of the result; their filters lie in
 * shared memory in the order in which lanes hold B. */
#include "kernels/conv/cuda_conv3d_mma.h"

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kChannels = HN_BOX_CHANNELS, kPairs = HN_BOX_PAIRS;
constexpr int kMostBlocks = 132 * 4; /* of an H200; blocks load the filters once, and loop */
constexpr int kChunkWords = kPairs * 32 * 2; /* of the filters of 8 channels: 3.5 KiB */
constexpr int64_t kMostSeen = 48, kMostMade = 32;
constexpr int64_t kLeastProduct = 16; /* of channels seen and made: below that sums are as fast */
constexpr int kLines = HN_BOX_LINES / kWarps; /* of a warp */
static_assert(kWarps % HN_BOX_H == 0, "a warp's lines are the same rows of other planes");
/* Shared memory from a warp's line to its next one. */
constexpr uint32_t kNextLine = kWarps / HN_BOX_H * HN_BOX_SEEN_H * HN_BOX_SEEN_W * 16;

struct Task {
    hn_conv3d_source x;
    hn_conv3d_boxes boxes;
    int32_t d, h, w, out; /* of the result */
    const __nv_bfloat16 *filter, *add;
    int64_t w_o, w_tap, w_c, ld_add, ld_y;
    bool turned; /* what is seen first is the last tap */
    const void *bias;
    bool bias_is_bf16;
    __nv_bfloat16 *y;
};

__device__ __forceinline__ float filter_at(const Task &a, int o, int tap, int c)
{
    if (tap >= HN_BOX_TAPS || o >= a.out || c >= a.x.channels) return 0.0f;
    const int64_t at = a.turned ? HN_BOX_TAPS - 1 - tap : tap;
    return hn_f32(a.filter[o * a.w_o + at * a.w_tap + c * a.w_c]);
}

/* [chunk][pair][lane][2]: pair of bf16 j of a lane is row (of B) 2 (lane % 4) + 8 j: j is the tap.
 */
__device__ __forceinline__ void load_filters(const Task &a, int first, int chunks, uint32_t *to)
{
    for (int at = threadIdx.x; at < chunks * kChunkWords; at += kThreads) {
        const int lane = at / 2 % 32, pair = at / 64 % kPairs, chunk = at / kChunkWords;
        const int tap = 2 * pair + at % 2, c = chunk * kChannels + lane % 4 * 2;
        const int o = first + lane / 4;
        to[at] = hn_pack_bf16_(filter_at(a, o, tap, c), filter_at(a, o, tap, c + 1));
    }
}

/* Channels o and o + 1 of a voxel. add and y may be the same memory: an element is read and then
 * written by one thread. */
__device__ __forceinline__ void finish(const Task &a, int64_t voxel, int o, float low, float high)
{
    const float value[2] = {low, high};
#pragma unroll
    for (int e = 0; e < 2; e++) {
        if (o + e >= a.out) continue;
        float v = value[e];
        if (a.bias != nullptr)
            v += a.bias_is_bf16 ? hn_f32(static_cast<const __nv_bfloat16 *>(a.bias)[o + e])
                                : static_cast<const float *>(a.bias)[o + e];
        if (a.add != nullptr) v += hn_f32(a.add[voxel * a.ld_add + o + e]);
        a.y[voxel * a.ld_y + o + e] = hn_round<__nv_bfloat16>(v);
    }
}

__global__ void __launch_bounds__(kThreads, 2) mma_kernel(const Task a)
{
    extern __shared__ uint4 shared[];
    uint4 *const seen = shared;
    uint32_t *const filter = reinterpret_cast<uint32_t *>(shared + HN_BOX_SEEN);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int chunks = (a.x.channels + kChannels - 1) / kChannels;
    const int first = (int)blockIdx.y * kChannels;
    /* The row that this lane names to ldmatrix: of voxels 0 .. 7 or (every second 8 lanes) 8 .. 15
     * of a line, through the first tap of a pair or (lanes from 16 on) the second one. */
    const int voxel = lane % 8 + lane / 8 % 2 * 8;
    const hn_conv3d_second to = hn_conv3d_second_of(lane >= 16);
    const int place = (warp / HN_BOX_H * HN_BOX_SEEN_H + warp % HN_BOX_H) * HN_BOX_SEEN_W;
    const uint32_t from = hn_shared_address_(seen) + (uint32_t)(place + voxel) * 16;
    load_filters(a, first, chunks, filter);
    for (int number = (int)blockIdx.x; number < a.boxes.count; number += (int)gridDim.x) {
        const hn_conv3d_box box = hn_conv3d_box_of(a.boxes, number);
        float sum[kLines][2][4] = {};
        for (int chunk = 0; chunk < chunks; chunk++) {
            const int c = chunk * kChannels;
            __syncthreads(); /* what was there has been read; and the filters are there */
            hn_conv3d_copy_box<HN_BOX_D + 2, HN_BOX_SEEN_H, HN_BOX_SEEN_W, kThreads>(
                a.x, box, c, hn_conv3d_mask(a.x.channels - c), seen);
            __syncthreads();
            const uint2 *const b = reinterpret_cast<const uint2 *>(filter + chunk * kChunkWords);
#pragma unroll
            for (int pair = 0; pair < kPairs; pair++) {
                const uint2 f = b[pair * 32 + lane];
#pragma unroll
                for (int line = 0; line < kLines; line++)
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        uint32_t x[4];
                        hn_ldmatrix_(x, from + line * kNextLine + half * 256 +
                                            hn_conv3d_pair(pair, to));
                        hn_mma_(sum[line][half], x, f.x, f.y);
                    }
            }
        }
        const int o = first + lane % 4 * 2;
#pragma unroll
        for (int line = 0; line < kLines; line++) {
            const int at = warp + line * kWarps;
            const int i = box.d + at / HN_BOX_H, j = box.h + at % HN_BOX_H;
#pragma unroll
            for (int part = 0; part < 4; part++) { /* 8 voxels */
                const int k = box.w + part * 8 + lane / 4;
                if (i >= a.d || j >= a.h || k >= a.w) continue;
                const float *const v = &sum[line][part / 2][part % 2 * 2];
                finish(a, (((int64_t)box.volume * a.d + i) * a.h + j) * a.w + k, o, v[0], v[1]);
            }
        }
    }
}

} // namespace

bool hn_conv3d_mma_fits(const hn_conv3d_task *t)
{
    const hn_conv3d_view_ *const v = &t->view;
    return v->channels <= kMostSeen && t->channels <= kMostMade &&
           v->channels * t->channels >= kLeastProduct && hn_conv3d_boxes_fit(v);
}

hn_status hn_conv3d_mma(const hn_conv3d_task *t, hn_stream stream)
{
    const hn_conv3d_view_ *const v = &t->view;
    const int64_t chunks = (v->channels + kChannels - 1) / kChannels;
    const int64_t out_chunks = (t->channels + kChannels - 1) / kChannels;
    Task a = {};
    a.x = hn_conv3d_source_of(v, t->volumes);
    a.boxes = hn_conv3d_boxes_of(v, t->volumes);
    a.d = (int32_t)v->axis[0].result, a.h = (int32_t)v->axis[1].result;
    a.w = (int32_t)v->axis[2].result, a.out = (int32_t)t->channels;
    a.filter = static_cast<const __nv_bfloat16 *>(t->w);
    a.w_o = t->w_o, a.w_tap = t->w_tap, a.w_c = t->w_c, a.turned = v->axis[0].step < 0;
    a.bias = t->bias, a.bias_is_bf16 = t->bias_dtype == HN_BF16;
    a.add = static_cast<const __nv_bfloat16 *>(t->add), a.ld_add = t->ld_add;
    a.y = static_cast<__nv_bfloat16 *>(t->to), a.ld_y = t->ld_to;
    const size_t bytes = HN_BOX_SEEN * 16 + (size_t)chunks * kChunkWords * 4; /* 41 KiB at most */
    const dim3 grid(hn_grid(a.boxes.count, 1, kMostBlocks), (unsigned)out_chunks);
    mma_kernel<<<grid, kThreads, bytes, stream>>>(a);
    return HN_CUDA_LAUNCHED("conv3d: few channels, tensor cores");
}
