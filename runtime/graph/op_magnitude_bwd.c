/* dz, dm = magnitude_bwd(dy, z, m, norm, dm?), dm in place; the mathematics is in
 * kernels/lora/magnitude.h */
#include "kernels/lora/magnitude.h"
#include "runtime/graph/op_util.h"

enum { DY, Z, M, NORM, DM }; /* inputs */
enum { DZ };                 /* outputs, and DM behind it */

static bool is_vector(const hn_tensor *t, int64_t cols)
{
    return t == NULL || (t->type.dtype == HN_F32 && hn_type_elements(&t->type) == cols);
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *dy = &n->in[DY]->type, *z = &n->in[Z]->type;
    const int64_t cols = hn_type_cols(z);
    if (!hn_is_matrix(z, z) || !hn_type_same(dy, z))
        return HN_FAIL(HN_ERR_SHAPE, "dy and z of one type, f32 or bf16");
    if (!is_vector(n->in[M], cols) || !is_vector(n->in[NORM], cols) || !is_vector(n->in[DM], cols))
        return HN_FAIL(HN_ERR_SHAPE, "m, norm and dm f32 [cols]");
    out[DZ] = hn_type_fresh(z);
    return HN_OK;
}

static hn_magnitude_bwd_args args_of(const hn_node *n)
{
    const hn_tensor *dy = n->in[DY], *z = n->in[Z], *dm = n->in[DM], *dz = n->out[DZ];
    return (hn_magnitude_bwd_args){
        .dy = dy->data,
        .z = z->data,
        .m = n->in[M]->data,
        .norm = n->in[NORM]->data,
        .dz = dz->data,
        .dm = dm ? dm->data : NULL,
        .rows = hn_type_rows(&z->type),
        .cols = hn_type_cols(&z->type),
        .ld_dy = hn_type_ld(&dy->type),
        .ld_z = hn_type_ld(&z->type),
        .ld_dz = hn_type_ld(&dz->type),
        .dtype = z->type.dtype,
    };
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_magnitude_bwd_args a = args_of(n);
    return device == HN_DEVICE_CUDA && n->in[DM] ? hn_magnitude_bwd_cuda_scratch(&a) : 0;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_magnitude_bwd_args a = args_of(n);
    return x->twin ? hn_magnitude_bwd_cpu(&a) : hn_magnitude_bwd_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_magnitude_bwd_args a = args_of(n);
    return hn_magnitude_bwd_cuda(&a, x->scratch, x->stream);
}

static bool fill(const hn_node *n, int k, void *data)
{
    if (k != NORM) return false;
    for (int64_t o = 0; o < hn_type_elements(&n->in[NORM]->type); o++)
        ((float *)data)[o] = o == 2 ? 0.0f : 0.5f + 0.125f * (float)(o % 9);
    return true;
}

static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 2, {130, 70}, 72},
            {HN_F32, 2, {130, 70}},
            {HN_F32, 1, {70}},
            {HN_F32, 1, {70}},
            {HN_F32, 1, {70}}}},
    {.in = {{HN_BF16, 2, {300, 72}},
            {HN_BF16, 2, {300, 72}},
            {HN_F32, 1, {72}},
            {HN_F32, 1, {72}},
            {HN_F32, 1, {72}}}},
    {.in = {{HN_BF16, 2, {9, 17}}, {HN_BF16, 2, {9, 17}}, {HN_F32, 1, {17}}, {HN_F32, 1, {17}}}},
    {.in = {{0}}},
};

const hn_op_def hn_op_magnitude_bwd = {
    .name = "magnitude_bwd",
    .n_in = 5,
    .n_out = 2,
    .optional = HN_BIT(DM),
    .alias = {0, 1 + DM},
    .reuse = HN_REUSE(DZ, DY) | HN_REUSE(DZ, Z),
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
