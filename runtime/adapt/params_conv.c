/* Recording of convolutions. A low-rank update is a convolution with A, to as many channels as the
 * rank, and a product with B for each pixel:  y = conv(x, W) + bias + scale B conv(x', A).
 * Materialised, and always in groups:  y = conv(x, W + scale B A) + bias. */
#include <string.h>

#include "runtime/adapt/params_impl.h"

static const hn_linear_layer *find_conv(const hn_params *p, const char *module)
{
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        if (l->kh > 0 && strcmp(l->module, module) == 0) return l;
    }
    return NULL;
}

/* Images as a matrix with a pixel a row. */
static hn_status pixels(hn_graph *g, hn_tensor *images, hn_tensor **rows)
{
    const int64_t dim[] = {hn_type_rows(&images->type), hn_type_cols(&images->type)};
    return hn_view_shape(g, images, 2, dim, rows);
}

/* x' = dropout(x) in training, else x. */
static hn_status drop(const hn_linear_layer *l, hn_graph *g, hn_tensor **x)
{
    const hn_attr attr = {.dropout = {.p = l->lowrank.dropout, .key = l->key}};
    const hn_type type = (*x)->type;
    hn_tensor *rows, *out[HN_MAX_OUT];
    if (!hn_graph_training(g) || !(attr.dropout.p > 0)) return HN_OK;
    HN_TRY(pixels(g, *x, &rows));
    HN_TRY(hn_emit(g, HN_OP_DROPOUT, l->module, &rows, &attr, out));
    return hn_view_shape(g, out[0], type.ndim, type.dim, x);
}

/* *y becomes *y + scale B conv(x', A). */
static hn_status add_lowrank(const hn_linear_layer *l, hn_graph *g, const hn_attr *conv,
                             hn_tensor *x, hn_tensor **y)
{
    const hn_type type = (*y)->type;
    const hn_attr attr = {.linear = {.alpha = l->lowrank.scale}};
    hn_tensor *rows, *out[HN_MAX_OUT];
    HN_TRY(drop(l, g, &x));
    hn_tensor *in_a[] = {x, l->a->value, NULL};
    HN_TRY(hn_emit(g, HN_OP_CONV2D, l->module, in_a, conv, out));
    HN_TRY(pixels(g, *y, &rows));
    hn_tensor *in_b[] = {out[0], l->b->value, NULL, rows};
    HN_TRY(pixels(g, out[0], &in_b[0]));
    HN_TRY(hn_emit(g, HN_OP_LINEAR, l->module, in_b, &attr, out));
    return hn_view_shape(g, out[0], type.ndim, type.dim, y);
}

hn_status hn_params_conv_fwd(const hn_params *p, hn_graph *g, const char *module, int64_t stride,
                             int64_t pad, hn_tensor *x, hn_tensor **y)
{
    const hn_linear_layer *l = find_conv(p, module);
    if (l == NULL || l->kd > 0) return HN_FAIL(HN_ERR_ARG, "%s: no such convolution", module);
    hn_tensor *in[] = {x, NULL, l->bias ? l->bias->value : NULL}, *out[HN_MAX_OUT];
    const hn_attr attr = {.conv = {.kh = l->kh,
                                   .kw = l->kw,
                                   .stride = stride,
                                   .pad = pad,
                                   .dilation = 1,
                                   .groups = l->groups}};
    HN_TRY(hn_layer_weight(l, g, &in[1]));
    HN_TRY(hn_emit(g, HN_OP_CONV2D, module, in, &attr, out));
    if (l->a != NULL && !hn_layer_materialised(l)) HN_TRY(add_lowrank(l, g, &attr, x, &out[0]));
    *y = out[0];
    return HN_OK;
}

hn_status hn_params_conv3d_fwd(const hn_params *p, hn_graph *g, const char *module, int64_t stride,
                               int64_t pad, int64_t dilation, hn_tensor *x, hn_tensor **y)
{
    const hn_linear_layer *l = find_conv(p, module);
    if (l == NULL || l->kd == 0)
        return HN_FAIL(HN_ERR_ARG, "%s: no such convolution of volumes", module);
    hn_tensor *in[] = {x, NULL, l->bias ? l->bias->value : NULL}, *out[HN_MAX_OUT];
    const hn_attr attr = {.conv3d = {.kd = l->kd,
                                     .kh = l->kh,
                                     .kw = l->kw,
                                     .stride = stride,
                                     .pad = pad,
                                     .dilation = dilation}};
    HN_TRY(hn_layer_weight(l, g, &in[1]));
    HN_TRY(hn_emit(g, HN_OP_CONV3D, module, in, &attr, out));
    *y = out[0];
    return HN_OK;
}
