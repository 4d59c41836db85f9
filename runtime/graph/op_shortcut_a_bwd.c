/* dx = shortcut_a_bwd(dy), attr.shortcut with the channels, h and w of dx; the mathematics is in
 * kernels/conv/shortcut_a.h */
#include "kernels/conv/shortcut_a.h"
#include "runtime/graph/op_util.h"

enum { DY }; /* inputs */
enum { DX }; /* outputs */

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *dy = &n->in[DY]->type;
    const int64_t stride = n->attr.shortcut.stride, ci = n->attr.shortcut.channels;
    const int64_t h = n->attr.shortcut.h, w = n->attr.shortcut.w;
    if (!hn_is_image(dy)) return HN_FAIL(HN_ERR_SHAPE, "dy [n, out_h, out_w, c], f32 or bf16");
    if (stride < 1 || ci < 1 || h < 1 || w < 1 || dy->dim[1] != hn_shortcut_a_out(h, stride) ||
        dy->dim[2] != hn_shortcut_a_out(w, stride))
        return HN_FAIL(HN_ERR_SHAPE, "dy is not what the image and stride give");
    out[DX] = hn_type_image(dy->dtype, dy->dim[0], h, w, ci);
    return HN_OK;
}

static hn_shortcut_a_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *dx = n->out[DX];
    return (hn_shortcut_a_bwd_args){
        .s = {.n = dx->type.dim[0],
              .h = dx->type.dim[1],
              .w = dx->type.dim[2],
              .ci = dx->type.dim[3],
              .co = dy->type.dim[3],
              .stride = n->attr.shortcut.stride,
              .dtype = dx->type.dtype},
        .dy = dy->data,
        .dx = dx->data,
        .ld_dy = hn_type_ld(&dy->type),
        .ld_dx = hn_type_ld(&dx->type),
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_shortcut_a_bwd_args a = args_of(n);
    return x->twin ? hn_shortcut_a_bwd_cpu(&a) : hn_shortcut_a_bwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_shortcut_a_bwd_args a = args_of(n);
    return hn_shortcut_a_bwd_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 4, {2, 2, 2, 7}, 8}},
     .attr = {.shortcut = {.stride = 2, .channels = 3, .h = 3, .w = 4}}},
    {.in = {{HN_BF16, 4, {2, 2, 3, 32}}},
     .attr = {.shortcut = {.stride = 2, .channels = 16, .h = 4, .w = 5}}},
    {.in = {{HN_BF16, 4, {2, 3, 2, 24}}},
     .attr = {.shortcut = {.stride = 3, .channels = 12, .h = 7, .w = 5}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_shortcut_a_bwd = {
    .name = "shortcut_a_bwd",
    .n_in = 1,
    .n_out = 1,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
