/* A convolution as a graph of cuDNN's: the convolution itself and, where an engine knows the
 * combination, what is done to its sums before they are rounded and stored. What comes first is
 * preferred: fused before apart, dw in fp32 before bf16. */
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

cudnnDataType_t type_of(hn_dtype t) { return t == HN_F32 ? CUDNN_DATA_FLOAT : CUDNN_DATA_BFLOAT16; }

desc supplied(Builder *b, int64_t id, hn_dtype t, hn_dims dim, hn_dims stride)
{
    b->e->id[b->e->n++] = id;
    return hn_cudnn_tensor(&b->g, id, type_of(t), dim, stride, HN_CUDNN_REAL, nullptr);
}

/* Channels last; dims are written n, c, h, w all the same. */
desc image(Builder *b, int64_t id, int64_t channels, int64_t h, int64_t w, int64_t ld)
{
    const hn_dims dim = {b->s.n, channels, h, w}, stride = {h * w * ld, 1, w * ld, ld};
    return supplied(b, id, (hn_dtype)b->e->key.dtype, dim, stride);
}

desc input(Builder *b, int64_t id, int64_t ld) { return image(b, id, b->s.in, b->s.h, b->s.w, ld); }

desc output(Builder *b)
{
    return image(b, HN_CONV2D_Y, b->s.out, b->out_h, b->out_w, b->e->key.ld_y);
}

desc filter(Builder *b, hn_dtype t, int64_t ld)
{
    const int64_t c = b->s.in / b->s.groups;
    const hn_dims dim = {b->s.out, c, b->s.kh, b->s.kw}, stride = {ld, 1, b->s.kw * c, c};
    return supplied(b, HN_CONV2D_W, t, dim, stride);
}

/* Sums in fp32 that exist only inside the kernel. */
desc sums(Builder *b, int64_t channels, int64_t h, int64_t w)
{
    const hn_dims dim = {b->s.n, channels, h, w},
                  stride = {h * w * channels, 1, w * channels, channels};
    return hn_cudnn_tensor(&b->g, b->g.next_id++, CUDNN_DATA_FLOAT, dim, stride, HN_CUDNN_VIRTUAL,
                           nullptr);
}

desc math(Builder *b, cudnnPointwiseMode_t mode, desc x, desc y, desc to)
{
    return hn_cudnn_pointwise(&b->g, mode, CUDNN_DATA_FLOAT, 0, x, y, nullptr, to);
}

desc convolve(Builder *b, hn_cudnn_conv kind, desc x, desc w, desc y)
{
    const hn_cudnn_window window = {b->s.stride, b->s.pad, b->s.dilation};
    return hn_cudnn_convolution(&b->g, kind, window, x, w, y);
}

/* ---- the three graphs ---- */

void describe_fwd(Builder *b)
{
    const hn_conv2d_cudnn_key *const key = &b->e->key;
    const desc x = input(b, HN_CONV2D_X, key->ld_x);
    const desc w = filter(b, (hn_dtype)key->dtype, key->ld_w), y = output(b);
    const bool bias = key->bias != 0 && b->e->fused, relu = key->relu != 0 && b->e->fused;
    desc t = bias || relu ? sums(b, b->s.out, b->out_h, b->out_w) : y;
    t = convolve(b, HN_CUDNN_CONV_FWD, x, w, t);
    if (bias) {
        const hn_dims dim = {1, b->s.out, 1, 1}, stride = {b->s.out, 1, b->s.out, b->s.out};
        const desc to = relu ? sums(b, b->s.out, b->out_h, b->out_w) : y;
        const desc added = supplied(b, HN_CONV2D_BIAS, (hn_dtype)(key->bias - 1), dim, stride);
        t = math(b, CUDNN_POINTWISE_ADD, t, added, to);
    }
    if (relu) (void)math(b, CUDNN_POINTWISE_RELU_FWD, t, nullptr, y);
}

void describe_dx(Builder *b)
{
    const hn_conv2d_cudnn_key *const key = &b->e->key;
    const bool add = key->ld_add != 0 && b->e->fused;
    const bool apart = key->ld_add != 0 && !add; /* into the scratch, without gaps */
    const desc w = filter(b, (hn_dtype)key->dtype, key->ld_w), dy = output(b);
    const desc dx = input(b, HN_CONV2D_X, apart ? b->s.in : key->ld_x);
    const desc t =
        convolve(b, HN_CUDNN_CONV_DX, add ? sums(b, b->s.in, b->s.h, b->s.w) : dx, w, dy);
    if (add) (void)math(b, CUDNN_POINTWISE_ADD, t, input(b, HN_CONV2D_ADD, key->ld_add), dx);
}

void describe_dw(Builder *b)
{
    const desc x = input(b, HN_CONV2D_X, b->e->key.ld_x), dy = output(b);
    (void)convolve(b, HN_CUDNN_CONV_DW, x, filter(b, b->e->dw_dtype, hn_conv2d_taps(&b->s)), dy);
}

/* ---- */

/* In both dtypes: what adds up in an order left to chance or in less than fp32, and transforms,
 * whose rounding is not that of sums of products. In f32 also what rounds to TF32 first. */
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

hn_status compile(const hn_conv2d_cudnn *c, hn_conv2d_cudnn_entry *e)
{
    const hn_conv2d_cudnn_key *const k = &e->key;
    constexpr int all = sizeof kRefused / sizeof *kRefused;
    const hn_cudnn_rules rules = {kRefused, k->dtype == HN_F32 ? all : all - kOnlyInF32};
    Builder b;
    memset(&b, 0, sizeof b);
    b.g.lib = c->lib;
    b.g.next_id = HN_CONV2D_FIRST_VIRTUAL;
    b.e = e;
    b.s = {k->n,  k->h,      k->w,   k->in,       k->out,   k->kh,
           k->kw, k->stride, k->pad, k->dilation, k->groups};
    b.out_h = hn_conv2d_out_h(&b.s), b.out_w = hn_conv2d_out_w(&b.s);
    e->n = 0;
    switch (k->pass) {
    case HN_CUDNN_CONV_FWD: describe_fwd(&b); break;
    case HN_CUDNN_CONV_DX: describe_dx(&b); break;
    default: describe_dw(&b); break;
    }
    return hn_cudnn_compile(&b.g, &rules, &e->plan, &e->workspace);
}

} // namespace

hn_status hn_conv2d_cudnn_make(const hn_conv2d_cudnn *c, hn_conv2d_cudnn_entry *e)
{
    const hn_conv2d_cudnn_key *const k = &e->key;
    const bool epilogue = k->bias != 0 || k->relu != 0 || k->ld_add != 0;
    const bool wide = k->pass == HN_CUDNN_CONV_DW && k->dtype != HN_F32;
    e->fused = epilogue;
    e->dw_dtype = wide ? HN_F32 : (hn_dtype)k->dtype;
    hn_status st = compile(c, e);
    if (st != HN_ERR_UNSUPPORTED || (!epilogue && !wide)) return st;
    e->fused = false;
    e->dw_dtype = (hn_dtype)k->dtype;
    return compile(c, e);
}
#endif
