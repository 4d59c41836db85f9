/* Recording of convolutions. */
#include <string.h>

#include "runtime/adapt/params.h"

static const hn_linear_layer *find_conv(const hn_params *p, const char *module)
{
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        if (l->kh > 0 && strcmp(l->module, module) == 0) return l;
    }
    return NULL;
}

hn_status hn_params_conv_fwd(const hn_params *p, hn_graph *g, const char *module, int64_t stride,
                             int64_t pad, hn_tensor *x, hn_tensor **y)
{
    const hn_linear_layer *l = find_conv(p, module);
    if (l == NULL) return HN_FAIL(HN_ERR_ARG, "%s: no such convolution", module);
    if (l->a != NULL)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: low-rank update of a convolution", module);
    hn_tensor *in[] = {x, l->weight->value, l->bias ? l->bias->value : NULL}, *out[HN_MAX_OUT];
    const hn_attr attr = {.conv = {.kh = l->kh,
                                   .kw = l->kw,
                                   .stride = stride,
                                   .pad = pad,
                                   .dilation = 1,
                                   .groups = l->groups}};
    HN_TRY(hn_emit(g, HN_OP_CONV2D, module, in, &attr, out));
    *y = out[0];
    return HN_OK;
}
