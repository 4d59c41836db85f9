/* cuda_conv3d_mma.h - boxes of voxels in shared memory for the tensor cores: 3 x 3 x 3 taps with
 * stride and dilation 1, bf16, few channels (for .cu files of this folder only).
 *
 * 16 bytes hold 8 channels of a voxel, the box's lines behind each other, so that a row of ldmatrix
 * is a voxel and a tap is another address: nothing is laid out as patches. */
#ifndef HN_CUDA_CONV3D_MMA_H
#define HN_CUDA_CONV3D_MMA_H
#include "kernels/conv/cuda_conv3d.h"
#include "runtime/base/cuda_mma.h"
#include "runtime/base/cuda_vec.h"

enum {
    HN_BOX_D = 4, /* of a result */
    HN_BOX_H = 4,
    HN_BOX_W = 32,
    HN_BOX_LINES = HN_BOX_D * HN_BOX_H,
    HN_BOX_VOXELS = HN_BOX_LINES * HN_BOX_W,
    HN_BOX_SEEN_H = HN_BOX_H + 2,
    HN_BOX_SEEN_W = HN_BOX_W + 2,
    HN_BOX_SEEN = (HN_BOX_D + 2) * HN_BOX_SEEN_H * HN_BOX_SEEN_W, /* voxels */
    HN_BOX_CHANNELS = 8,
    HN_BOX_TAPS = 27,
    HN_BOX_PAIRS = (HN_BOX_TAPS + 1) / 2 /* of taps, which a product takes */
};

/* Boxes of a result of volumes. */
struct hn_conv3d_boxes {
    int32_t d, h, w, count; /* along each axis; of all volumes */
};

static inline hn_conv3d_boxes hn_conv3d_boxes_of(const hn_conv3d_view_ *v, int64_t volumes)
{
    const int64_t d = (v->axis[0].result + HN_BOX_D - 1) / HN_BOX_D;
    const int64_t h = (v->axis[1].result + HN_BOX_H - 1) / HN_BOX_H;
    const int64_t w = (v->axis[2].result + HN_BOX_W - 1) / HN_BOX_W;
    return {(int32_t)d, (int32_t)h, (int32_t)w, (int32_t)(volumes * d * h * w)};
}

/* Whether boxes see what a view does: three taps side by side, sides that 32 bits count. */
static inline bool hn_conv3d_boxes_fit(const hn_conv3d_view_ *v)
{
    bool fits = v->dtype == HN_BF16 && hn_vectors_fit(v->p, v->ld, v->dtype);
    for (const hn_conv3d_axis_ &a : v->axis)
        fits = fits && a.taps == 3 && a.times == 1 && a.over == 1 &&
               (a.step == 1 || a.step == -1) && a.first > -(1 << 20) && a.first < 1 << 20 &&
               a.source <= 1 << 20 && a.result <= 1 << 20;
    return fits;
}

struct hn_conv3d_box {
    int volume, d, h, w; /* its first voxel */
};

static __device__ __forceinline__ hn_conv3d_box hn_conv3d_box_of(const hn_conv3d_boxes &b, int at)
{
    const int line = at / b.w, plane = line / b.h, volume = plane / b.d;
    return {volume, (plane - volume * b.d) * HN_BOX_D, (line - plane * b.h) * HN_BOX_H,
            (at - line * b.w) * HN_BOX_W};
}

/* Volumes that boxes are copied out of. */
struct hn_conv3d_source {
    const __nv_bfloat16 *p;
    int64_t ld, end; /* end: elements, one behind the last channel of the last voxel */
    int32_t d, h, w, channels;
    int32_t begin; /* along each axis, from a box's first voxel to what it copies first */
};

/* What boxes of a view's result see. */
static inline hn_conv3d_source hn_conv3d_source_of(const hn_conv3d_view_ *v, int64_t volumes)
{
    const hn_conv3d_axis_ *const a = v->axis;
    hn_conv3d_source s = {};
    s.p = static_cast<const __nv_bfloat16 *>(v->p), s.ld = v->ld;
    s.end = (volumes * a[0].source * a[1].source * a[2].source - 1) * v->ld + v->channels;
    s.d = (int32_t)a[0].source, s.h = (int32_t)a[1].source, s.w = (int32_t)a[2].source;
    s.channels = (int32_t)v->channels;
    s.begin = (int32_t)(a[0].step > 0 ? a[0].first : a[0].first + 2 * a[0].step);
    return s;
}

/* Bits of the first n of 8 channels. */
static __device__ __forceinline__ uint4 hn_conv3d_mask(int n)
{
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        word[i] = n >= 2 * i + 2 ? 0xffffffffu : n == 2 * i + 1 ? 0x0000ffffu : 0u;
    return make_uint4(word[0], word[1], word[2], word[3]);
}

/* Channels c .. c + 7 of a voxel: those of the mask, zeros for the others. */
static __device__ __forceinline__ uint4 hn_conv3d_channels(const hn_conv3d_source &s, int64_t voxel,
                                                           int c, const uint4 &mask)
{
    const int64_t at = voxel * s.ld + c;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (at + HN_BOX_CHANNELS <= s.end) {
        v = *reinterpret_cast<const uint4 *>(s.p + at);
    } else { /* the last voxel's memory may end behind its channels */
        __nv_bfloat16 value[HN_BOX_CHANNELS];
#pragma unroll
        for (int e = 0; e < HN_BOX_CHANNELS; e++)
            value[e] = at + e < s.end ? s.p[at + e] : hn_round<__nv_bfloat16>(0.0f);
        memcpy(&v, value, sizeof v);
    }
    return make_uint4(v.x & mask.x, v.y & mask.y, v.z & mask.z, v.w & mask.w);
}

/* to[kD kH kW] = channels c .. c + 7 of the voxels from the box's place on; zeros outside. */
template <int kD, int kH, int kW, int kThreads>
static __device__ __forceinline__ void hn_conv3d_copy_box(const hn_conv3d_source &s,
                                                          const hn_conv3d_box &b, int c,
                                                          const uint4 &mask, uint4 *to)
{
#pragma unroll 2
    for (int at = threadIdx.x; at < kD * kH * kW; at += kThreads) {
        const int line = at / kW, plane = line / kH;
        const int i = b.d + s.begin + plane, j = b.h + s.begin + line - plane * kH;
        const int k = b.w + s.begin + at - line * kW;
        const bool there = i >= 0 && i < s.d && j >= 0 && j < s.h && k >= 0 && k < s.w;
        const int64_t voxel = (((int64_t)b.volume * s.d + i) * s.h + j) * s.w + k;
        to[at] = there ? hn_conv3d_channels(s, voxel, c, mask) : make_uint4(0, 0, 0, 0);
    }
}

/* Where a tap of the first voxel lies among those that a box sees. */
__host__ __device__ constexpr int hn_conv3d_place(int tap)
{
    return (tap / 9 * HN_BOX_SEEN_H + tap / 3 % 3) * HN_BOX_SEEN_W + tap % 3;
}

/* Bytes from the first tap of a pair to the second one, for the lanes that name its voxels: three
 * distances there are, and none behind the last tap, which is taken twice. */
struct hn_conv3d_second {
    uint32_t next, line, plane;
};

static __device__ __forceinline__ hn_conv3d_second hn_conv3d_second_of(bool second)
{
    constexpr int kLine = hn_conv3d_place(3) - hn_conv3d_place(2);
    constexpr int kPlane = hn_conv3d_place(9) - hn_conv3d_place(8);
    return {second ? 16u : 0u, second ? kLine * 16u : 0u, second ? kPlane * 16u : 0u};
}

/* Bytes from a voxel's place to a pair of taps. */
static __device__ __forceinline__ uint32_t hn_conv3d_pair(int pair, const hn_conv3d_second &to)
{
    const int tap = 2 * pair;
    const uint32_t other = tap + 1 == HN_BOX_TAPS ? 0
                           : tap % 3 < 2          ? to.next
                           : tap % 9 < 8          ? to.line
                                                  : to.plane;
    return (uint32_t)hn_conv3d_place(tap) * 16 + other;
}

#endif
