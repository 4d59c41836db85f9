/* dx = upsample_bwd(dy), attr.upsample the sides of dx; the mathematics is in
 * kernels/vision/upsample.h */
#include "kernels/vision/upsample.h"
#include "runtime/graph/op_util.h"

enum { DY }; /* inputs */
enum { DX }; /* outputs */

static hn_upsample_shape shape_of(const hn_node *n)
{
    const hn_type *dy = &n->in[DY]->type;
    return (hn_upsample_shape){.n = dy->dim[0],
                               .d = n->attr.upsample.d,
                               .h = n->attr.upsample.h,
                               .w = n->attr.upsample.w,
                               .c = dy->dim[4],
                               .out_d = dy->dim[1],
                               .out_h = dy->dim[2],
                               .out_w = dy->dim[3]};
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *dy = &n->in[DY]->type;
    if (!hn_is_volume(dy)) return HN_FAIL(HN_ERR_SHAPE, "dy [n, d, h, w, c], f32 or bf16");
    const hn_upsample_shape s = shape_of(n);
    HN_TRY(hn_upsample_check_shape("upsample_bwd", &s));
    out[DX] = hn_type_volume(dy->dtype, s.n, s.d, s.h, s.w, s.c);
    return HN_OK;
}

static hn_upsample_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *dx = n->out[DX];
    return (hn_upsample_bwd_args){
        .s = shape_of(n),
        .dy = dy->data,
        .dx = dx->data,
        .ld_dy = hn_type_ld(&dy->type),
        .ld_dx = hn_type_ld(&dx->type),
        .dtype = dy->type.dtype,
    };
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_upsample_bwd_args a = args_of(n);
    return x->twin ? hn_upsample_bwd_cpu(&a) : hn_upsample_bwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_upsample_bwd_args a = args_of(n);
    return hn_upsample_bwd_cuda(&a, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 5, {2, 2, 4, 4, 3}}}, .attr = {.upsample = {.d = 1, .h = 2, .w = 2}}},
    {.in = {{HN_BF16, 5, {1, 3, 5, 4, 16}, 24}}, .attr = {.upsample = {.d = 1, .h = 2, .w = 2}}},
    {.in = {{HN_BF16, 5, {1, 3, 5, 4, 9}}}, .attr = {.upsample = {.d = 3, .h = 2, .w = 3}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_upsample_bwd = {
    .name = "upsample_bwd",
    .n_in = 1,
    .n_out = 1,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
