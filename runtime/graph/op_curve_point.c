/* z, dz = curve_point(knots, unit, index, weights, inv_sigma); knots [n, K + 1, D] fp16, index and
 * weights one a row, inv_sigma one a token; z and dz are [rows * tokens, D / tokens], dz f32. The
 * mathematics is in kernels/hyperflow/curve_point.h */
#include "kernels/hyperflow/curve_point.h"
#include "runtime/graph/op_util.h"

enum { KNOTS, UNIT, INDEX, WEIGHTS, INV_SIGMA }; /* inputs */
enum { Z, DZ };                                  /* outputs */

static hn_curve_point_args args_of(const hn_node *n, const hn_rng_state *state)
{
    const hn_type *knots = &n->in[KNOTS]->type;
    const hn_tensor *z = n->out[Z], *dz = n->out[DZ];
    const int64_t tokens = hn_type_elements(&n->in[INV_SIGMA]->type);
    return (hn_curve_point_args){
        .knot = n->in[KNOTS]->data,
        .unit = n->in[UNIT]->data,
        .index = n->in[INDEX]->data,
        .weights = n->in[WEIGHTS]->data,
        .inv_sigma = n->in[INV_SIGMA]->data,
        .state = state,
        .z = z->data,
        .dz = dz ? dz->data : NULL,
        .n = knots->dim[0],
        .knots = knots->dim[1],
        .tokens = tokens,
        .width = hn_type_cols(knots) / tokens,
        .rows = hn_type_elements(&n->in[INDEX]->type),
        .ld_knots = hn_type_ld(knots),
        .ld_weights = hn_type_ld(&n->in[WEIGHTS]->type),
        .ld_z = hn_type_ld(&z->type),
        .ld_dz = dz ? hn_type_ld(&dz->type) : 0,
        .op_hash = n->attr.curve_point.key,
        .noise = n->attr.curve_point.noise,
        .dtype = n->attr.curve_point.to,
    };
}

static bool is_f32(const hn_type *t, int64_t n)
{
    return t->dtype == HN_F32 && hn_type_elements(t) == n;
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *knots = &n->in[KNOTS]->type, *weights = &n->in[WEIGHTS]->type;
    const hn_type *index = &n->in[INDEX]->type, *inv_sigma = &n->in[INV_SIGMA]->type;
    const int64_t tokens = hn_type_elements(inv_sigma), rows = hn_type_elements(index);
    const hn_dtype to = n->attr.curve_point.to;
    if (knots->dtype != HN_F16 || knots->ndim != 3 || !is_f32(&n->in[UNIT]->type, knots->dim[0]))
        return HN_FAIL(HN_ERR_SHAPE, "knots fp16 [n, K + 1, D], unit f32 [n]");
    if (!is_f32(inv_sigma, tokens) || hn_type_cols(knots) % tokens != 0)
        return HN_FAIL(HN_ERR_SHAPE, "inv_sigma f32, one a token, of which D is made");
    if (index->dtype != HN_I32 || weights->dtype != HN_F32 || weights->ndim != 2 ||
        weights->dim[0] != rows || weights->dim[1] != 2 * knots->dim[1])
        return HN_FAIL(HN_ERR_SHAPE, "index i32 [rows], weights f32 [rows, 2 (K + 1)]");
    if (to != HN_F32 && to != HN_BF16)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "z is f32 or bf16, not %s", hn_dtype_name(to));
    if (n->attr.curve_point.noise > 0.0f) HN_TRY(hn_check_random_rows(n->in[KNOTS]));
    out[Z] = hn_type_2d(to, rows * tokens, hn_type_cols(knots) / tokens);
    if (n->attr.curve_point.want_dz)
        out[DZ] = hn_type_2d(HN_F32, rows * tokens, hn_type_cols(knots) / tokens);
    return HN_OK;
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    hn_rng_state state;
    const hn_curve_point_args a = args_of(n, hn_rng_state_of(x, &state));
    return x->twin ? hn_curve_point_cpu(&a) : hn_curve_point_fast(&a);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    hn_rng_state state;
    const hn_curve_point_args a = args_of(n, hn_rng_state_of(x, &state));
    return hn_curve_point_cuda(&a, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F16, 3, {3, 4, 10}}, {HN_F32, 1, {3}}, {HN_I32, 1, {5}}, {HN_F32, 2, {5, 8}, 9},
            {HN_F32, 1, {2}}},
     .attr.curve_point = {.noise = 0.05f, .key = 7, .to = HN_F32, .want_dz = true}},
    {.in = {{HN_F16, 3, {4, 11, 96}}, {HN_F32, 1, {4}}, {HN_I32, 1, {6}}, {HN_F32, 2, {6, 22}},
            {HN_F32, 1, {3}}},
     .attr.curve_point = {.noise = 0.5f, .key = 8, .to = HN_BF16, .want_dz = true}},
    {.in = {{HN_F16, 3, {2, 2, 1200}}, {HN_F32, 1, {2}}, {HN_I32, 1, {3}}, {HN_F32, 2, {3, 4}},
            {HN_F32, 1, {1}}},
     .attr.curve_point = {.to = HN_F32}},
    {.in = {{0}}},
};
/* clang-format on */

static bool fill(const hn_node *n, int k, void *data)
{
    if (k != INDEX) return false;
    const int64_t curves = n->in[KNOTS]->type.dim[0];
    for (int64_t r = 0; r < hn_type_elements(&n->in[INDEX]->type); r++)
        ((int32_t *)data)[r] = r % 4 == 1 ? -1 : (int32_t)(r * 3 % curves);
    return true;
}

const hn_op_def hn_op_curve_point = {
    .name = "curve_point",
    .n_in = 5,
    .n_out = 2,
    .infer = infer,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
