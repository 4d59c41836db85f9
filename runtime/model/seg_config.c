#include "runtime/model/seg_config.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "kernels/activation/activation.h"
#include "kernels/loss/seg_loss.h"

enum { MAX_WIDTH = 4096, MAX_KERNEL = 15, MAX_DILATION = 1024 };

static bool within(int64_t v, int64_t least, int64_t most) { return v >= least && v <= most; }

static hn_status check_unet3d(const hn_seg_config *c, const char *where)
{
    const hn_unet3d_sizes *const u = &c->unet3d;
    if (!within(u->levels, 2, HN_SEG_LEVELS))
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " levels, must be 2 to %d", where, u->levels,
                       HN_SEG_LEVELS);
    if (!within(u->groups, 1, MAX_WIDTH) || !(u->eps > 0))
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " groups, eps %g", where, u->groups, u->eps);
    for (int64_t i = 0; i < u->levels; i++) {
        const int64_t w = u->width[i], below = i > 0 ? u->width[i - 1] : c->channels;
        const int64_t joined = i > 0 ? w + below : below, half = w / 2 > below ? w / 2 : below;
        if (!within(w, 2, MAX_WIDTH))
            return HN_FAIL(HN_ERR_SHAPE,
                           "%s: %" PRId64 " channels on level %" PRId64 ", must be 2 to %d", where,
                           w, i, MAX_WIDTH);
        const int64_t normed[] = {w, joined, half};
        for (int k = 0; k < 3; k++)
            if (normed[k] >= u->groups && normed[k] % u->groups != 0)
                return HN_FAIL(HN_ERR_SHAPE,
                               "%s: %" PRId64 " channels on level %" PRId64
                               " do not split into %" PRId64 " groups",
                               where, normed[k], i, u->groups);
    }
    return HN_OK;
}

static hn_status check_meshnet(const hn_seg_config *c, const char *where)
{
    const hn_meshnet_sizes *const m = &c->meshnet;
    if (!within(m->layers, 1, HN_SEG_LAYERS))
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " convolutions, must be 1 to %d", where,
                       m->layers, HN_SEG_LAYERS);
    for (int64_t i = 0; i < m->layers; i++)
        if (!within(m->kernel[i], 1, MAX_KERNEL) || m->kernel[i] % 2 == 0 ||
            !within(m->dilation[i], 1, MAX_DILATION) || !within(m->width[i], 1, MAX_WIDTH))
            return HN_FAIL(HN_ERR_SHAPE,
                           "%s: conv%" PRId64 ": kernel %" PRId64 " (odd, to %d), dilation %" PRId64
                           " (to %d), %" PRId64 " channels (to %d)",
                           where, i, m->kernel[i], MAX_KERNEL, m->dilation[i], MAX_DILATION,
                           m->width[i], MAX_WIDTH);
    if (m->width[m->layers - 1] != c->classes)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: the last convolution makes %" PRId64 " of %" PRId64 " classes", where,
                       m->width[m->layers - 1], c->classes);
    if (m->activation == HN_ACT_RELU || m->activation == HN_ACT_ELU) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: activation %s, must be relu or elu", where,
                   hn_activation_name(m->activation));
}

hn_status hn_seg_config_check(const hn_seg_config *c, const char *where)
{
    if (!within(c->channels, 1, MAX_WIDTH))
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " channels, must be 1 to %d", where,
                       c->channels, MAX_WIDTH);
    if (!within(c->classes, 2, HN_SEG_CLASSES))
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " classes, must be 2 to %d", where, c->classes,
                       HN_SEG_CLASSES);
    return c->family == HN_SEG_UNET3D ? check_unet3d(c, where) : check_meshnet(c, where);
}

static void set_meshnet(hn_seg_config *c, int64_t width, int activation)
{
    static const int64_t dilation[] = {1, 2, 4, 8, 16, 8, 4, 2, 1, 1};
    hn_meshnet_sizes *const m = &c->meshnet;
    c->family = HN_SEG_MESHNET;
    m->layers = 10;
    m->activation = activation;
    for (int64_t i = 0; i < m->layers; i++) {
        m->kernel[i] = i < 9 ? 3 : 1;
        m->dilation[i] = dilation[i];
        m->width[i] = i < 9 ? width : c->classes;
    }
}

static const char unet[] = "unet3d-fets", mesh5[] = "meshnet5", mesh20[] = "meshnet20";

bool hn_seg_config_has(const char *name)
{
    return strcmp(name, unet) == 0 || strcmp(name, mesh5) == 0 || strcmp(name, mesh20) == 0;
}

hn_status hn_seg_config_named(const char *name, int64_t channels, int64_t classes,
                              hn_seg_config *out)
{
    hn_seg_config c = {.channels = channels ? channels : 1, .classes = classes ? classes : 3};
    snprintf(c.architecture, sizeof c.architecture, "%s", name);
    if (strcmp(name, unet) == 0) {
        c.family = HN_SEG_UNET3D;
        c.classes = classes ? classes : 4;
        c.unet3d =
            (hn_unet3d_sizes){.levels = 4, .width = {4, 8, 16, 32}, .groups = 4, .eps = 1e-5};
    } else if (strcmp(name, mesh5) == 0) {
        set_meshnet(&c, 5, HN_ACT_RELU);
    } else if (strcmp(name, mesh20) == 0) {
        set_meshnet(&c, 20, HN_ACT_ELU);
    } else {
        return HN_FAIL(HN_ERR_UNSUPPORTED, "there is no architecture %s (%s, %s, %s)", name, unet,
                       mesh5, mesh20);
    }
    HN_TRY(hn_seg_config_check(&c, name));
    *out = c;
    return HN_OK;
}

static hn_status read_whole(const json_t *entry, const char *key, const char *where, int64_t *out)
{
    const json_t *v = json_object_get(entry, key);
    if (!json_is_integer(v))
        return HN_FAIL(HN_ERR_FORMAT, "%s: a layer without a whole number \"%s\"", where, key);
    *out = json_integer_value(v);
    return HN_OK;
}

static hn_status read_layer(const json_t *entry, const char *where, hn_meshnet_sizes *m)
{
    char name[32];
    const int64_t i = m->layers;
    snprintf(name, sizeof name, "conv%" PRId64, i);
    const char *layer = json_string_value(json_object_get(entry, "layer"));
    if (layer == NULL || strcmp(layer, name) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: layer \"%s\" where %s belongs", where,
                       layer ? layer : "", name);
    if (i == HN_SEG_LAYERS)
        return HN_FAIL(HN_ERR_SHAPE, "%s: more than %d convolutions", where, HN_SEG_LAYERS);
    HN_TRY(read_whole(entry, "kernel", where, &m->kernel[i]));
    HN_TRY(read_whole(entry, "dilation", where, &m->dilation[i]));
    HN_TRY(read_whole(entry, "out", where, &m->width[i]));
    m->layers++;
    return HN_OK;
}

/* One kind for the whole network, behind every convolution but the last. */
static hn_status read_activation(const char *name, const char *where, int64_t behind,
                                 hn_meshnet_sizes *m)
{
    const int kind = strcmp(name, "relu") == 0  ? HN_ACT_RELU
                     : strcmp(name, "elu") == 0 ? HN_ACT_ELU
                                                : HN_ACT_COUNT;
    if (kind == HN_ACT_COUNT)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: activation \"%s\", must be relu or elu", where,
                       name);
    if (behind != m->layers || (behind > 1 && kind != m->activation))
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: \"%s\" behind convolution %" PRId64
                       ": one activation of one kind belongs behind each but the last",
                       where, name, m->layers);
    m->activation = kind;
    return HN_OK;
}

hn_status hn_seg_config_arch(const json_t *arch, const char *where, int64_t channels,
                             hn_seg_config *out)
{
    hn_seg_config c = {.family = HN_SEG_MESHNET, .architecture = "meshnet", .channels = channels};
    hn_meshnet_sizes *const m = &c.meshnet;
    int64_t activations = 0;
    if (!json_is_array(arch)) return HN_FAIL(HN_ERR_FORMAT, "%s: not a list of layers", where);
    for (size_t i = 0; i < json_array_size(arch); i++) {
        const json_t *entry = json_array_get(arch, i);
        const char *name = json_string_value(json_object_get(entry, "activation"));
        HN_TRY(name ? read_activation(name, where, ++activations, m) : read_layer(entry, where, m));
    }
    if (m->layers == 0 || activations != m->layers - 1)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: %" PRId64 " convolutions and %" PRId64
                       " activations: one belongs behind each but the last",
                       where, m->layers, activations);
    c.classes = m->width[m->layers - 1];
    HN_TRY(hn_seg_config_check(&c, where));
    *out = c;
    return HN_OK;
}
