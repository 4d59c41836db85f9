/* dx, dgain, y = add_rmsnorm_bwd(sum, gain, rstd, dy, dsum?, dgain?), dgain in place; y, forward's
 * output, is there with attr.norm.want_y. The mathematics is in kernels/norm/add_rmsnorm.h */
#include "kernels/norm/add_rmsnorm.h"
#include "runtime/graph/op_util.h"

enum { SUM, GAIN, RSTD, DY, DSUM, DGAIN_IN }; /* inputs */
enum { DX, DGAIN, Y };                        /* outputs; DGAIN is DGAIN_IN */
enum { FWD_SUM, FWD_Y };                      /* of add_rmsnorm */

static void ask_again(hn_attr *attr) { attr->norm.want_y = true; }

static hn_add_rmsnorm_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *sum = n->in[SUM], *gain = n->in[GAIN], *dy = n->in[DY], *dsum = n->in[DSUM];
    const hn_tensor *dgain = n->in[DGAIN_IN], *dx = n->out[DX], *y = n->out[Y];
    return (hn_add_rmsnorm_bwd_args){
        .sum = sum->data,
        .gain = gain->data,
        .rstd = n->in[RSTD]->data,
        .dy = dy->data,
        .dsum = dsum ? dsum->data : NULL,
        .dx = dx->data,
        .dgain = dgain ? dgain->data : NULL,
        .rows = hn_type_rows(&sum->type),
        .heads = n->attr.norm.heads,
        .cols = gain->type.dim[0],
        .ld_sum = hn_type_ld(&sum->type),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_dsum = dsum ? hn_type_ld(&dsum->type) : 0,
        .ld_dx = hn_type_ld(&dx->type),
        .replicas = dgain ? hn_replicas_of(dgain) : hn_replicas_of(gain),
        .gain_stride = hn_replica_stride(gain),
        .dgain_stride = dgain ? hn_replica_stride(dgain) : 0,
        .dtype = sum->type.dtype,
        .gain_dtype = gain->type.dtype,
        .gain_offset = n->attr.norm.gain_offset,
        .y = y ? y->data : NULL,
        .ld_y = y ? hn_type_ld(&y->type) : 0,
    };
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *sum = &n->in[SUM]->type, *gain = &n->in[GAIN]->type;
    const int64_t heads = n->attr.norm.heads > 1 ? n->attr.norm.heads : 1;
    if (!hn_is_matrix(sum, sum) || !hn_is_real(gain) || gain->ndim != 1 ||
        hn_type_cols(sum) != heads * gain->dim[0])
        return HN_FAIL(HN_ERR_SHAPE, "sum [rows, heads * cols] and gain [cols], f32 or bf16");
    out[DX] = hn_type_2d(sum->dtype, hn_type_rows(sum), hn_type_cols(sum));
    if (n->attr.norm.want_y) out[Y] = out[DX];
    if (!hn_type_same(&n->in[DY]->type, &out[DX]) ||
        (n->in[DSUM] && !hn_type_same(&n->in[DSUM]->type, &out[DX])))
        return HN_FAIL(HN_ERR_SHAPE, "dy and dsum are not shaped like sum");
    if (n->in[RSTD]->type.dtype != HN_F32 ||
        hn_type_elements(&n->in[RSTD]->type) != hn_type_rows(sum) * heads)
        return HN_FAIL(HN_ERR_SHAPE, "rstd f32 [rows * heads]");
    if (n->in[DGAIN_IN] && (n->in[DGAIN_IN]->type.dtype != HN_F32 ||
                            hn_type_elements(&n->in[DGAIN_IN]->type) != gain->dim[0]))
        return HN_FAIL(HN_ERR_SHAPE, "dgain f32 [cols]");
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_add_rmsnorm_bwd_args a = args_of(n);
    if (n->in[DGAIN_IN] == NULL) return 0;
    return device == HN_DEVICE_CUDA ? hn_add_rmsnorm_bwd_cuda_scratch(&a)
                                    : hn_add_rmsnorm_bwd_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_add_rmsnorm_bwd_args a = args_of(n);
    return x->twin ? hn_add_rmsnorm_bwd_cpu(&a) : hn_add_rmsnorm_bwd_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_add_rmsnorm_bwd_args a = args_of(n);
    return hn_add_rmsnorm_bwd_cuda(&a, x->scratch, x->stream);
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {3, 6}},
            {HN_F32, 1, {6}},
            {HN_F32, 1, {3}},
            {HN_F32, 2, {3, 6}, 8},
            {HN_F32, 2, {3, 6}},
            {HN_F32, 1, {6}}}},
    {.in = {{HN_BF16, 2, {70, 600}},
            {HN_F32, 1, {200}},
            {HN_F32, 1, {210}},
            {HN_BF16, 2, {70, 600}},
            {.ndim = 0},
            {HN_F32, 1, {200}}},
     .attr = {.norm = {.gain_offset = 1.0f, .heads = 3}}},
    {.in = {{HN_BF16, 2, {5, 9}}, {HN_BF16, 1, {9}}, {HN_F32, 1, {5}}, {HN_BF16, 2, {5, 9}}}},
    {.in = {{HN_F32, 2, {3, 6}},
            {HN_F32, 1, {6}},
            {HN_F32, 1, {3}},
            {HN_F32, 2, {3, 6}, 8},
            {HN_F32, 2, {3, 6}},
            {HN_F32, 1, {6}}},
     .attr = {.norm = {.want_y = true}}},
    {.in = {{HN_BF16, 2, {5, 600}}, {HN_BF16, 1, {600}}, {HN_F32, 1, {5}}, {HN_BF16, 2, {5, 600}}},
     .attr = {.norm = {.want_y = true}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_add_rmsnorm_bwd = {
    .name = "add_rmsnorm_bwd",
    .n_in = 6,
    .n_out = 3,
    .optional = HN_BIT(DSUM) | HN_BIT(DGAIN_IN),
    .alias = {0, 1 + DGAIN_IN},
    .reuse = HN_REUSE(DX, DY) | HN_REUSE(DX, DSUM) | HN_REUSE(Y, DY) | HN_REUSE(Y, SUM),
    .again = {0, 0, 1 + FWD_Y},
    .ask_again = ask_again,
    .replicas = true,
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
};
