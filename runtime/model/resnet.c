/* Residual networks (He et al., 2016). */
#include <inttypes.h>
#include <stdio.h>

#include "runtime/model/vision_impl.h"

enum { CONVS = 3, SHORTCUT = CONVS }; /* of a block */

/* One block: what it convolves, and the way around it. */
typedef struct {
    int64_t stage, index, n; /* n convolutions */
    hn_vision_conv conv[CONVS + 1];
    bool changes; /* the shape: the shortcut is not x itself */
} block;

/* Module names of a convolution and its batch norm. */
typedef struct {
    char conv[HN_MODULE_NAME], bn[HN_MODULE_NAME];
} names;

static block block_of(const hn_vision_config *c, int64_t stage, int64_t index, int64_t in)
{
    const hn_resnet_sizes *r = &c->resnet;
    const bool moves = index == 0 && (stage > 0 || r->downsample_first);
    const int64_t out = r->width[stage], stride = moves ? 2 : 1;
    block b = {.stage = stage, .index = index, .n = r->bottleneck ? 3 : 2};
    b.changes = stride != 1 || in != out;
    b.conv[SHORTCUT] = (hn_vision_conv){in, out, 1, stride, 0, 1};
    if (r->bottleneck) {
        const int64_t mid = out / 4, first = r->stride_first ? stride : 1;
        b.conv[0] = (hn_vision_conv){in, mid, 1, first, 0, 1};
        b.conv[1] = (hn_vision_conv){mid, mid, 3, stride / first, 1, 1};
        b.conv[2] = (hn_vision_conv){mid, out, 1, 1, 0, 1};
    } else {
        b.conv[0] = (hn_vision_conv){in, out, 3, stride, 1, 1};
        b.conv[1] = (hn_vision_conv){out, out, 3, 1, 1, 1};
    }
    return b;
}

static hn_vision_conv stem_of(const hn_vision_config *c)
{
    const hn_resnet_sizes *r = &c->resnet;
    return r->imagenet_stem ? (hn_vision_conv){c->channels, r->stem, 7, 2, 3, 1}
                            : (hn_vision_conv){c->channels, r->stem, 3, 1, 1, 1};
}

/* k: number of the convolution in its block, or SHORTCUT. */
static names names_of(const hn_vision_config *c, const block *b, int64_t k)
{
    names n;
    char at[96];
    if (c->names == HN_NAMES_HUGGING_FACE) {
        const int length = snprintf(
            at, sizeof at, "resnet.encoder.stages.%" PRId64 ".layers.%" PRId64, b->stage, b->index);
        if (k == SHORTCUT)
            snprintf(at + length, sizeof at - (size_t)length, ".shortcut");
        else
            snprintf(at + length, sizeof at - (size_t)length, ".layer.%" PRId64, k);
        snprintf(n.conv, sizeof n.conv, "%s.convolution", at);
        snprintf(n.bn, sizeof n.bn, "%s.normalization", at);
        return n;
    }
    snprintf(at, sizeof at, "layer%" PRId64 ".%" PRId64, b->stage + 1, b->index);
    if (k == SHORTCUT) {
        const char *shortcut = c->names == HN_NAMES_CIFAR ? "shortcut" : "downsample";
        snprintf(n.conv, sizeof n.conv, "%s.%s.0", at, shortcut);
        snprintf(n.bn, sizeof n.bn, "%s.%s.1", at, shortcut);
    } else {
        snprintf(n.conv, sizeof n.conv, "%s.conv%" PRId64, at, k + 1);
        snprintf(n.bn, sizeof n.bn, "%s.bn%" PRId64, at, k + 1);
    }
    return n;
}

static names stem_names(const hn_vision_config *c)
{
    return c->names == HN_NAMES_HUGGING_FACE ? (names){"resnet.embedder.embedder.convolution",
                                                       "resnet.embedder.embedder.normalization"}
                                             : (names){"conv1", "bn1"};
}

/* ---- declaring ---- */

static hn_status declare_pair(const hn_vision_config *c, hn_params *p, const names *n,
                              const hn_vision_conv *s)
{
    HN_TRY(hn_vision_declare_conv(p, n->conv, s, false,
                                  c->names == HN_NAMES_CIFAR ? HN_START_FAN_IN : HN_START_FAN_OUT));
    return hn_vision_declare_bn(p, n->bn, s->out);
}

static hn_status declare_block(const hn_vision_config *c, hn_params *p, const block *b)
{
    for (int64_t k = 0; k < b->n; k++) {
        const names n = names_of(c, b, k);
        HN_TRY(declare_pair(c, p, &n, &b->conv[k]));
    }
    if (!b->changes || c->resnet.option_a) return HN_OK;
    const names n = names_of(c, b, SHORTCUT);
    return declare_pair(c, p, &n, &b->conv[SHORTCUT]);
}

hn_status hn_resnet_declare(const hn_vision_config *c, hn_params *p)
{
    const hn_resnet_sizes *r = &c->resnet;
    const names n = stem_names(c);
    const hn_vision_conv stem = stem_of(c);
    int64_t in = r->stem;
    HN_TRY(declare_pair(c, p, &n, &stem));
    for (int64_t s = 0; s < r->stages; s++)
        for (int64_t i = 0; i < r->depth[s]; i++) {
            const block b = block_of(c, s, i, in);
            HN_TRY(declare_block(c, p, &b));
            in = r->width[s];
        }
    return HN_OK;
}

/* ---- recording ---- */

static hn_status pair(const hn_vision_pass *v, const names *n, const hn_vision_conv *s,
                      hn_tensor *x, hn_tensor *res, bool relu, hn_tensor **y)
{
    hn_tensor *t;
    HN_TRY(hn_vision_conv_fwd(v, n->conv, s, x, &t));
    return hn_vision_bn_fwd(v, n->bn, t, res, relu, y);
}

static hn_status shortcut(const hn_vision_pass *v, const block *b, hn_tensor *x, hn_tensor **y)
{
    const names n = names_of(v->c, b, SHORTCUT);
    const hn_vision_conv *s = &b->conv[SHORTCUT];
    *y = x;
    if (!b->changes) return HN_OK;
    if (!v->c->resnet.option_a) return pair(v, &n, s, x, NULL, false, y);
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.shortcut = {.stride = s->stride, .channels = s->out}};
    HN_TRY(hn_emit(v->g, HN_OP_SHORTCUT_A, n.conv, &x, &attr, out));
    *y = out[0];
    return HN_OK;
}

static hn_status record_block(hn_vision_pass *v, const block *b, hn_tensor **x)
{
    hn_tensor *res, *y = *x;
    hn_vision_block_begin(v);
    HN_TRY(shortcut(v, b, *x, &res));
    for (int64_t k = 0; k < b->n; k++) {
        const names n = names_of(v->c, b, k);
        HN_TRY(pair(v, &n, &b->conv[k], y, k + 1 == b->n ? res : NULL, true, &y));
    }
    hn_vision_block_end(v);
    hn_vision_block_made(v, y);
    *x = y;
    return HN_OK;
}

hn_status hn_resnet_features(hn_vision_pass *v, hn_tensor *x, hn_tensor **features)
{
    const hn_resnet_sizes *r = &v->c->resnet;
    const names n = stem_names(v->c);
    const hn_vision_conv stem = stem_of(v->c);
    int64_t in = r->stem;
    HN_TRY(pair(v, &n, &stem, x, NULL, true, &x));
    if (r->imagenet_stem) HN_TRY(hn_vision_max_fwd(v, "maxpool", 3, 2, 1, false, x, &x));
    hn_vision_block_made(v, x);
    for (int64_t s = 0; s < r->stages; s++)
        for (int64_t i = 0; i < r->depth[s]; i++) {
            const block b = block_of(v->c, s, i, in);
            HN_TRY(record_block(v, &b, &x));
            in = r->width[s];
        }
    return hn_vision_mean_fwd(v, x, features);
}
