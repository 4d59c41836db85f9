/* A convolution as a graph of cuDNN's, of one operation. Bias, relu and `add` are not in it: an
 * engine that takes them in is compiled at run time, which took 2.4 to 13 seconds a shape where a
 * ready one took 1 to 10 milliseconds (cuDNN 9.19, ResNet's shapes, two busy cores). dw in fp32
 * from operands in bf16 it does not know. */
#ifdef HONE_CUDNN
#include <string.h>

#include "kernels/conv/cuda_conv2d_cudnn.h"

namespace {

using desc = hn_cudnn_desc;

struct Builder {
    hn_cudnn_graph g;
    hn_conv2d_cudnn_entry *e;
    hn_conv2d_shape s;
    int64_t out_h, out_w;
};

desc supplied(Builder *b, int64_t id, hn_dims dim, hn_dims stride)
{
    const cudnnDataType_t type = b->e->key.dtype == HN_F32 ? CUDNN_DATA_FLOAT : CUDNN_DATA_BFLOAT16;
    return hn_cudnn_tensor(&b->g, id, type, dim, stride, HN_CUDNN_REAL, nullptr);
}

/* Channels last; dims are written n, c, h, w all the same. */
desc image(Builder *b, int64_t id, int64_t channels, int64_t h, int64_t w, int64_t ld)
{
    const hn_dims dim = {b->s.n, channels, h, w}, stride = {h * w * ld, 1, w * ld, ld};
    return supplied(b, id, dim, stride);
}

desc filter(Builder *b)
{
    const int64_t c = b->s.in / b->s.groups, ld = b->e->key.ld_w;
    const hn_dims dim = {b->s.out, c, b->s.kh, b->s.kw}, stride = {ld, 1, b->s.kw * c, c};
    return supplied(b, HN_CONV2D_W, dim, stride);
}

void describe(Builder *b)
{
    const hn_conv2d_cudnn_key *const key = &b->e->key;
    const desc x = image(b, HN_CONV2D_X, b->s.in, b->s.h, b->s.w, key->ld_x);
    const desc y = image(b, HN_CONV2D_Y, b->s.out, b->out_h, b->out_w, key->ld_y);
    const hn_cudnn_window window = {b->s.stride, b->s.pad, b->s.dilation};
    (void)hn_cudnn_convolution(&b->g, (hn_cudnn_conv)key->pass, window, x, filter(b), y);
}

/* In both dtypes: what adds up in an order left to chance or in less than fp32, and transforms,
 * whose rounding is not that of sums of products. In f32 also what rounds to TF32 first. (In bf16
 * an engine without tensor cores may be offered first: it would turn the images over, and compute
 * on the other cores.) */
const cudnnBackendNumericalNote_t kRefused[] = {
    CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
    CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
    CUDNN_NUMERICAL_NOTE_FFT,
    CUDNN_NUMERICAL_NOTE_WINOGRAD,
    CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4,
    CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6,
    CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13,
    CUDNN_NUMERICAL_NOTE_TENSOR_CORE,
    CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
};
constexpr int kOnlyInF32 = 2; /* the last ones */

} // namespace

hn_status hn_conv2d_cudnn_make(const hn_conv2d_cudnn *c, hn_conv2d_cudnn_entry *e)
{
    const hn_conv2d_cudnn_key *const k = &e->key;
    constexpr int all = sizeof kRefused / sizeof *kRefused;
    const bool f32 = k->dtype == HN_F32;
    const hn_cudnn_rules rules = {kRefused, f32 ? all : all - kOnlyInF32, !f32};
    Builder b;
    memset(&b, 0, sizeof b);
    b.g.lib = c->lib;
    b.g.next_id = HN_CONV2D_FIRST_VIRTUAL;
    b.e = e;
    b.s = {k->n,  k->h,      k->w,   k->in,       k->out,   k->kh,
           k->kw, k->stride, k->pad, k->dilation, k->groups};
    b.out_h = hn_conv2d_out_h(&b.s), b.out_w = hn_conv2d_out_w(&b.s);
    describe(&b);
    return hn_cudnn_compile(&b.g, &rules, &e->plan, &e->workspace);
}
#endif
