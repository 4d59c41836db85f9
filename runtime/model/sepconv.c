/* Separable nets: each step filters the channels apart (3x3), then mixes them (1x1), with batch
 * norm and relu behind both (Howard et al., "MobileNets", 2017). Names are those of pytorch-cifar.
 */
#include <inttypes.h>
#include <stdio.h>

#include "runtime/model/vision_impl.h"

/* A step's two halves. */
typedef struct {
    char conv[HN_MODULE_NAME], bn[HN_MODULE_NAME];
    hn_vision_conv shape;
} half;

static half half_of(const hn_vision_config *c, int64_t step, int which)
{
    const hn_separable_sizes *s = &c->separable;
    const int64_t in = step > 0 ? s->width[step - 1] : s->stem;
    half h = {.shape = which == 1 ? (hn_vision_conv){in, in, 3, s->stride[step], 1, in}
                                  : (hn_vision_conv){in, s->width[step], 1, 1, 0, 1}};
    snprintf(h.conv, sizeof h.conv, "layers.%" PRId64 ".conv%d", step, which);
    snprintf(h.bn, sizeof h.bn, "layers.%" PRId64 ".bn%d", step, which);
    return h;
}

static half stem_of(const hn_vision_config *c)
{
    const hn_separable_sizes *s = &c->separable;
    return (half){"conv1", "bn1", {c->channels, s->stem, 3, s->stem_stride, 1, 1}};
}

static hn_status declare_half(hn_params *p, const half *h)
{
    HN_TRY(hn_vision_declare_conv(p, h->conv, &h->shape, false, HN_START_UNIFORM));
    return hn_vision_declare_bn(p, h->bn, h->shape.out);
}

hn_status hn_sepconv_declare(const hn_vision_config *c, hn_params *p)
{
    const half stem = stem_of(c);
    HN_TRY(declare_half(p, &stem));
    for (int64_t i = 0; i < c->separable.steps; i++)
        for (int which = 1; which <= 2; which++) {
            const half h = half_of(c, i, which);
            HN_TRY(declare_half(p, &h));
        }
    return HN_OK;
}

static hn_status record_half(const hn_vision_pass *v, const half *h, hn_tensor **x)
{
    hn_tensor *y;
    HN_TRY(hn_vision_conv_fwd(v, h->conv, &h->shape, *x, &y));
    return hn_vision_bn_fwd(v, h->bn, y, NULL, true, x);
}

hn_status hn_sepconv_features(hn_vision_pass *v, hn_tensor *x, hn_tensor **features)
{
    const half stem = stem_of(v->c);
    HN_TRY(record_half(v, &stem, &x));
    hn_vision_block_made(v, x);
    for (int64_t i = 0; i < v->c->separable.steps; i++) {
        hn_vision_block_begin(v);
        for (int which = 1; which <= 2; which++) {
            const half h = half_of(v->c, i, which);
            HN_TRY(record_half(v, &h, &x));
        }
        hn_vision_block_end(v);
        hn_vision_block_made(v, x);
    }
    return hn_vision_mean_fwd(v, x, features);
}
