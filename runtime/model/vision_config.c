#include "runtime/model/vision_config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/json.h"

enum { MAX_DIM = 1 << 20, MAX_LAYERS = 4096, MAX_IMAGE = 1 << 14 };

/* ---- architectures by name ---- */

/* clang-format off */
#define IMAGENET .channels = 3, .mean = {0.485f, 0.456f, 0.406f}, .std = {0.229f, 0.224f, 0.225f}
#define CIFAR10  .channels = 3, .mean = {0.4914f, 0.4822f, 0.4465f}, .std = {0.2470f, 0.2435f, 0.2616f}
#define HALF     .channels = 3, .mean = {0.5f, 0.5f, 0.5f}, .std = {0.5f, 0.5f, 0.5f}
#define MNIST    .channels = 1, .mean = {0.1307f}, .std = {0.3081f}
#define BN       .bn_eps = 1e-5, .bn_momentum = 0.1 /* PyTorch's */

#define RESNET(architecture_, image_, classes_, pixels, bottleneck_, imagenet, factor, ...)         \
    {.family = HN_VISION_RESNET, .architecture = architecture_, .image = image_, pixels, BN,        \
     .classes = classes_,                                                                           \
     .resnet = {.bottleneck = bottleneck_, .imagenet_stem = imagenet, .stem = 64, .stages = 4,      \
                .depth = __VA_ARGS__,                                                               \
                .width = {64 * factor, 128 * factor, 256 * factor, 512 * factor}}}
/* He et al., 2016, section 4.2: 6 n + 2 layers; trained by others with ImageNet's pixels. */
#define RESNET_A(architecture_, n)                                                                  \
    {.family = HN_VISION_RESNET, .names = HN_NAMES_CIFAR, .architecture = architecture_,            \
     .image = 32, .classes = 10, IMAGENET, BN,                                                      \
     .resnet = {.option_a = true, .stem = 16, .stages = 3, .depth = {n, n, n},                      \
                .width = {16, 32, 64}}}
#define VIT(architecture_, image_, classes_, pixels, patch_, hidden_, heads_)                       \
    {.family = HN_VISION_VIT, .architecture = architecture_, .image = image_, .classes = classes_,  \
     pixels,                                                                                        \
     .vit = {.patch = patch_, .hidden = hidden_, .layers = 12, .heads = heads_,                     \
             .intermediate = 4 * hidden_, .ln_eps = 1e-6, .init_range = 0.02, .qkv_bias = true}}

static const hn_vision_config presets[] = {
    RESNET("resnet18", 224, 1000, IMAGENET, false, true, 1, {2, 2, 2, 2}),
    RESNET("resnet34", 224, 1000, IMAGENET, false, true, 1, {3, 4, 6, 3}),
    RESNET("resnet50", 224, 1000, IMAGENET, true, true, 4, {3, 4, 6, 3}),
    RESNET("resnet18-cifar", 32, 10, CIFAR10, false, false, 1, {2, 2, 2, 2}),
    RESNET("resnet34-cifar", 32, 10, CIFAR10, false, false, 1, {3, 4, 6, 3}),
    RESNET_A("resnet20", 3),
    RESNET_A("resnet32", 5),
    RESNET_A("resnet44", 7),
    RESNET_A("resnet56", 9),
    /* Howard et al., 2017, table 1, with a first stride of 1: as pytorch-cifar has it. */
    {.family = HN_VISION_SEPARABLE, .architecture = "separable-cifar", .image = 32, .classes = 10,
     CIFAR10, BN,
     .separable = {.stem = 32, .stem_stride = 1, .steps = 13,
                   .width = {64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024},
                   .stride = {1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1}}},
    VIT("vit_tiny_patch16_224", 224, 1000, HALF, 16, 192, 3),
    VIT("vit_small_patch16_224", 224, 1000, HALF, 16, 384, 6),
    VIT("vit_base_patch16_224", 224, 1000, HALF, 16, 768, 12),
    VIT("vit-tiny-cifar", 32, 10, CIFAR10, 4, 192, 3),
    {.family = HN_VISION_CNN, .architecture = "mnist-cnn", .image = 28, .classes = 10, MNIST,
     .cnn = {.kernel = 5, .steps = 2, .width = {32, 64}, .hidden = 1024}},
    {.family = HN_VISION_CNN, .architecture = "mnist-cnn-small", .image = 28, .classes = 10, MNIST,
     .cnn = {.kernel = 3, .steps = 2, .width = {8, 16}, .hidden = 64}},
    /* mnist-cnn for LEAF's FEMNIST (Caldas et al., 2018): digits and letters, by writer. */
    {.family = HN_VISION_CNN, .architecture = "femnist-cnn", .image = 28, .classes = 62, MNIST,
     .cnn = {.kernel = 5, .steps = 2, .width = {32, 64}, .hidden = 1024}},
    {.family = HN_VISION_CNN, .architecture = "cinic-cnn", .image = 32, .classes = 10, CIFAR10,
     .cnn = {.kernel = 3, .pad = 1, .steps = 3, .width = {32, 64, 128}, .hidden = 256}},
};
/* clang-format on */
enum { N_PRESETS = sizeof presets / sizeof *presets };

/* A tag behind a dot ("vit_tiny_patch16_224.augreg_in21k") names weights, not an architecture. */
static const hn_vision_config *find_preset(const char *name)
{
    const size_t n = strcspn(name, ".");
    for (int i = 0; i < N_PRESETS; i++)
        if (strlen(presets[i].architecture) == n && strncmp(presets[i].architecture, name, n) == 0)
            return &presets[i];
    return NULL;
}

static hn_status unknown(const char *where, const char *name)
{
    char list[512] = "";
    size_t at = 0;
    for (int i = 0; i < N_PRESETS && at < sizeof list; i++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "",
                               presets[i].architecture);
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s%sarchitecture '%s' is not one of %s", where ? where : "",
                   where ? ": " : "", name, list);
}

/* Other channels than the pixels are known for take the means over those. */
static void set_channels(hn_vision_config *c, int64_t channels)
{
    float mean = 0, std = 0;
    if (channels == c->channels || channels > HN_VISION_CHANNELS) {
        c->channels = channels;
        return;
    }
    for (int64_t k = 0; k < c->channels; k++) {
        mean += c->mean[k] / (float)c->channels;
        std += c->std[k] / (float)c->channels;
    }
    for (int64_t k = 0; k < channels; k++) {
        c->mean[k] = mean;
        c->std[k] = std;
    }
    c->channels = channels;
}

static hn_status finish(hn_vision_config *c, const char *where, const hn_vision_override *o)
{
    if (o != NULL && o->image) c->image = o->image;
    if (o != NULL && o->channels) set_channels(c, o->channels);
    if (o != NULL && o->classes) c->classes = o->classes;
    return hn_vision_config_check(c, where);
}

hn_status hn_vision_config_named(const char *name, const hn_vision_override *override,
                                 hn_vision_config *out)
{
    const hn_vision_config *preset = find_preset(name);
    if (preset == NULL) return unknown(NULL, name);
    hn_vision_config c = *preset;
    HN_TRY(finish(&c, name, override));
    *out = c;
    return HN_OK;
}

/* ---- checks ---- */

static bool in_range(int64_t v, int64_t most) { return v >= 1 && v <= most; }

static hn_status check_resnet(const hn_vision_config *c, const char *where)
{
    const hn_resnet_sizes *r = &c->resnet;
    int64_t in = r->stem;
    if (!in_range(r->stages, HN_VISION_STAGES) || !in_range(r->stem, MAX_DIM))
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " stages behind a stem of %" PRId64 " channels",
                       where, r->stages, r->stem);
    for (int64_t s = 0; s < r->stages; s++) {
        const int64_t out = r->width[s];
        if (!in_range(r->depth[s], MAX_LAYERS) || !in_range(out, MAX_DIM) ||
            (r->bottleneck && out % 4 != 0))
            return HN_FAIL(HN_ERR_SHAPE,
                           "%s: stage %" PRId64 " of %" PRId64 " blocks, %" PRId64 " channels",
                           where, s, r->depth[s], out);
        if (r->option_a && (r->bottleneck || out < in || (out - in) % 2 != 0))
            return HN_FAIL(HN_ERR_SHAPE,
                           "%s: option-A shortcuts from %" PRId64 " to %" PRId64 " channels", where,
                           in, out);
        in = out;
    }
    return HN_OK;
}

static hn_status check_separable(const hn_vision_config *c, const char *where)
{
    const hn_separable_sizes *s = &c->separable;
    bool ok = in_range(s->stem, MAX_DIM) && in_range(s->stem_stride, 4) &&
              in_range(s->steps, HN_VISION_STEPS);
    for (int64_t i = 0; ok && i < s->steps; i++)
        ok = in_range(s->width[i], MAX_DIM) && in_range(s->stride[i], 4);
    return ok ? HN_OK : HN_FAIL(HN_ERR_SHAPE, "%s: widths or strides of a separable net", where);
}

static hn_status check_vit(const hn_vision_config *c, const char *where)
{
    const hn_vit_sizes *v = &c->vit;
    if (!in_range(v->patch, MAX_IMAGE) || c->image % v->patch != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: images of %" PRId64 " pixels do not fall into patches of %" PRId64,
                       where, c->image, v->patch);
    if (!in_range(v->hidden, MAX_DIM) || !in_range(v->heads, MAX_DIM) || v->hidden % v->heads != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " heads in a width of %" PRId64, where,
                       v->heads, v->hidden);
    if (!in_range(v->layers, MAX_LAYERS) || !in_range(v->intermediate, MAX_DIM) || !(v->ln_eps > 0))
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " layers, mlp %" PRId64 ", layer-norm eps %g",
                       where, v->layers, v->intermediate, v->ln_eps);
    return HN_OK;
}

static hn_status check_cnn(const hn_vision_config *c, const char *where)
{
    const hn_cnn_sizes *s = &c->cnn;
    int64_t size = c->image;
    bool ok = in_range(s->kernel, MAX_IMAGE) && s->pad >= 0 && s->pad < s->kernel &&
              in_range(s->steps, HN_VISION_STAGES) && in_range(s->hidden, MAX_DIM);
    for (int64_t i = 0; ok && i < s->steps; i++) {
        size = (size + 2 * s->pad - s->kernel + 1) / 2;
        ok = size >= 1 && in_range(s->width[i], MAX_DIM);
    }
    return ok ? HN_OK
              : HN_FAIL(HN_ERR_SHAPE,
                        "%s: images of %" PRId64 " pixels are too small, or a size is 0", where,
                        c->image);
}

hn_status hn_vision_config_check(const hn_vision_config *c, const char *where)
{
    if (!in_range(c->image, MAX_IMAGE))
        return HN_FAIL(HN_ERR_SHAPE, "%s: images of %" PRId64 " pixels", where, c->image);
    if (!in_range(c->channels, HN_VISION_CHANNELS))
        return HN_FAIL(HN_ERR_SHAPE, "%s: images of %" PRId64 " channels, 1 to %d", where,
                       c->channels, HN_VISION_CHANNELS);
    if (c->classes < 0 || c->classes > MAX_DIM)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " classes", where, c->classes);
    if ((c->family == HN_VISION_RESNET || c->family == HN_VISION_SEPARABLE) &&
        (!(c->bn_eps > 0) || !(c->bn_momentum >= 0 && c->bn_momentum <= 1)))
        return HN_FAIL(HN_ERR_SHAPE, "%s: batch-norm eps %g, momentum %g", where, c->bn_eps,
                       c->bn_momentum);
    switch (c->family) {
    case HN_VISION_RESNET: return check_resnet(c, where);
    case HN_VISION_SEPARABLE: return check_separable(c, where);
    case HN_VISION_VIT: return check_vit(c, where);
    case HN_VISION_CNN: return check_cnn(c, where);
    }
    return HN_FAIL(HN_ERR_ARG, "%s: there is no family %d", where, (int)c->family);
}

/* ---- config.json ---- */

/* Keys that we read, or that do not change what a forward pass computes. */
static const char *const known_keys[] = {"architectures",
                                         "architecture",
                                         "model_type",
                                         "num_labels",
                                         "id2label",
                                         "label2id",
                                         "problem_type",
                                         "torch_dtype",
                                         "dtype",
                                         "transformers_version",
                                         "_name_or_path",
                                         "return_dict",
                                         "output_attentions",
                                         "output_hidden_states",
                                         "_attn_implementation",
                                         "_attn_implementation_autoset",
                                         "initializer_range",
                                         "num_channels",
                                         "hidden_act",
                                         "hidden_size",
                                         "num_hidden_layers",
                                         "num_attention_heads",
                                         "intermediate_size",
                                         "hidden_dropout_prob",
                                         "attention_probs_dropout_prob",
                                         "layer_norm_eps",
                                         "image_size",
                                         "patch_size",
                                         "qkv_bias",
                                         "encoder_stride",     /* of masked-image models */
                                         "pooler_act",         /* the classifier does not */
                                         "pooler_output_size", /* use the pooler */
                                         "embedding_size",
                                         "hidden_sizes",
                                         "depths",
                                         "layer_type",
                                         "downsample_in_first_stage",
                                         "downsample_in_bottleneck",
                                         "out_features", /* of backbones */
                                         "out_indices",
                                         "stage_names",
                                         "num_classes",
                                         "label_names",
                                         "num_features",
                                         "global_pool",
                                         "pretrained_cfg",
                                         "model_args"};

/* num_labels, or as many as id2label names, or the class's default, 2. */
static hn_status read_labels(const json_t *j, const char *where, hn_vision_config *c)
{
    const json_t *names = json_object_get(j, "id2label");
    c->classes = json_is_object(names) ? (int64_t)json_object_size(names) : 2;
    return hn_json_get_i64(j, "num_labels", where, 0, MAX_DIM, false, &c->classes);
}

static hn_status only_text(const json_t *j, const char *key, const char *where, const char *want)
{
    const char *got = want;
    HN_TRY(hn_json_get_text(j, key, where, false, &got));
    if (strcmp(got, want) == 0) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %s '%s', only %s", where, key, got, want);
}

static hn_status only_zero(const json_t *j, const char *key, const char *where)
{
    double got = 0;
    HN_TRY(hn_json_get_f64(j, key, where, false, &got));
    if (got == 0) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %s %g, only 0", where, key, got);
}

/* A number, or a pair of equal ones. */
static hn_status read_side(const json_t *j, const char *key, const char *where, int64_t *out)
{
    const json_t *v = json_object_get(j, key);
    if (!json_is_array(v)) return hn_json_get_i64(j, key, where, 1, MAX_IMAGE, false, out);
    const json_t *a = json_array_get(v, 0), *b = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_integer(a) || !json_is_integer(b))
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s is neither a number nor a pair", where, key);
    if (json_integer_value(a) != json_integer_value(b))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %s is not square", where, key);
    *out = json_integer_value(a);
    return HN_OK;
}

static hn_status read_vit(const json_t *j, const char *where, hn_vision_config *c)
{
    hn_vision_config d = {.family = HN_VISION_VIT, .architecture = "vit", .image = 224, HALF};
    hn_vit_sizes *v = &d.vit;
    *v = (hn_vit_sizes){16, 768, 12, 12, 3072, 1e-12, 0.02, true};
    HN_TRY(only_text(j, "hidden_act", where, "gelu"));
    HN_TRY(only_zero(j, "hidden_dropout_prob", where));
    HN_TRY(only_zero(j, "attention_probs_dropout_prob", where));
    HN_TRY(read_side(j, "image_size", where, &d.image));
    HN_TRY(read_side(j, "patch_size", where, &v->patch));
    HN_TRY(hn_json_get_i64(j, "hidden_size", where, 1, MAX_DIM, false, &v->hidden));
    HN_TRY(hn_json_get_i64(j, "num_hidden_layers", where, 1, MAX_LAYERS, false, &v->layers));
    HN_TRY(hn_json_get_i64(j, "num_attention_heads", where, 1, MAX_DIM, false, &v->heads));
    HN_TRY(hn_json_get_i64(j, "intermediate_size", where, 1, MAX_DIM, false, &v->intermediate));
    HN_TRY(hn_json_get_f64(j, "layer_norm_eps", where, false, &v->ln_eps));
    HN_TRY(hn_json_get_f64(j, "initializer_range", where, false, &v->init_range));
    HN_TRY(hn_json_get_bool(j, "qkv_bias", where, false, &v->qkv_bias));
    *c = d;
    return HN_OK;
}

/* A list of as many numbers as there are stages. */
static hn_status read_stages(const json_t *j, const char *key, const char *where, int64_t *stages,
                             int64_t *out)
{
    const json_t *list = json_object_get(j, key);
    if (list == NULL || json_is_null(list)) {
        if (*stages == HN_VISION_STAGES) return HN_OK;
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s is missing", where, key);
    }
    const size_t n = json_array_size(list);
    if (n < 1 || n > HN_VISION_STAGES || (*stages > 0 && (int64_t)n != *stages))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %s names %zu stages, at most %d", where, key, n,
                       HN_VISION_STAGES);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        out[i] = json_is_integer(v) ? json_integer_value(v) : 0;
        if (!in_range(out[i], MAX_DIM))
            return HN_FAIL(HN_ERR_FORMAT, "%s: %s[%zu] is no number from 1 to %d", where, key, i,
                           MAX_DIM);
    }
    *stages = (int64_t)n;
    return HN_OK;
}

static hn_status read_resnet(const json_t *j, const char *where, hn_vision_config *c)
{
    const char *type = "bottleneck";
    hn_vision_config d =
        RESNET("resnet", 224, 2, IMAGENET, true, true, 4, {3, 4, 6, 3}); /* the class's defaults */
    hn_resnet_sizes *r = &d.resnet;
    HN_TRY(only_text(j, "hidden_act", where, "relu"));
    HN_TRY(hn_json_get_text(j, "layer_type", where, false, &type));
    if (strcmp(type, "bottleneck") != 0 && strcmp(type, "basic") != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: layer_type '%s', only basic and bottleneck", where,
                       type);
    r->bottleneck = type[1] == 'o';
    const bool has_both = json_is_array(json_object_get(j, "depths")) &&
                          json_is_array(json_object_get(j, "hidden_sizes"));
    if (has_both) r->stages = 0;
    HN_TRY(read_stages(j, "depths", where, &r->stages, r->depth));
    HN_TRY(read_stages(j, "hidden_sizes", where, &r->stages, r->width));
    HN_TRY(hn_json_get_i64(j, "embedding_size", where, 1, MAX_DIM, false, &r->stem));
    HN_TRY(hn_json_get_bool(j, "downsample_in_first_stage", where, false, &r->downsample_first));
    HN_TRY(hn_json_get_bool(j, "downsample_in_bottleneck", where, false, &r->stride_first));
    *c = d;
    return HN_OK;
}

static hn_status read_channels(const json_t *j, const char *key, const char *where,
                               hn_vision_config *c)
{
    int64_t channels = c->channels;
    HN_TRY(hn_json_get_i64(j, key, where, 1, HN_VISION_CHANNELS, false, &channels));
    set_channels(c, channels);
    return HN_OK;
}

static hn_status read_hugging_face(const json_t *j, const char *where, hn_vision_config *c)
{
    const char *type;
    HN_TRY(hn_json_get_text(j, "model_type", where, true, &type));
    if (strcmp(type, "vit") == 0)
        HN_TRY(read_vit(j, where, c));
    else if (strcmp(type, "resnet") == 0)
        HN_TRY(read_resnet(j, where, c));
    else
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: model_type '%s' is not one of vit, resnet", where,
                       type);
    c->names = HN_NAMES_HUGGING_FACE;
    HN_TRY(read_channels(j, "num_channels", where, c));
    return read_labels(j, where, c);
}

static hn_status read_pixels(const json_t *j, const char *key, const char *where, int64_t n,
                             float *out)
{
    const json_t *list = json_object_get(j, key);
    if (list == NULL || json_is_null(list)) return HN_OK;
    if ((int64_t)json_array_size(list) != n)
        return HN_FAIL(HN_ERR_FORMAT, "%s: pretrained_cfg.%s must have %" PRId64 " numbers", where,
                       key, n);
    for (int64_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        if (!json_is_number(v))
            return HN_FAIL(HN_ERR_FORMAT, "%s: pretrained_cfg.%s has no numbers", where, key);
        out[i] = (float)json_number_value(v);
    }
    return HN_OK;
}

/* input_size [c, h, w], mean, std, num_classes. */
static hn_status read_pretrained(const json_t *j, const char *where, hn_vision_config *c)
{
    const json_t *size = json_object_get(j, "input_size");
    if (j == NULL || json_is_null(j)) return HN_OK;
    if (json_is_array(size)) {
        const int64_t channels = json_integer_value(json_array_get(size, 0));
        const int64_t h = json_integer_value(json_array_get(size, 1));
        if (json_array_size(size) != 3 || h != json_integer_value(json_array_get(size, 2)))
            return HN_FAIL(HN_ERR_UNSUPPORTED,
                           "%s: pretrained_cfg.input_size must be [channels, n, n]", where);
        if (!in_range(channels, HN_VISION_CHANNELS))
            return HN_FAIL(HN_ERR_UNSUPPORTED,
                           "%s: pretrained_cfg.input_size has %" PRId64 " channels", where,
                           channels);
        set_channels(c, channels);
        c->image = h;
    }
    HN_TRY(read_pixels(j, "mean", where, c->channels, c->mean));
    HN_TRY(read_pixels(j, "std", where, c->channels, c->std));
    return hn_json_get_i64(j, "num_classes", where, 0, MAX_DIM, false, &c->classes);
}

static hn_status read_model_args(const json_t *j, const char *where, hn_vision_config *c)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(size_t)j, key, value)
    {
        if (strcmp(key, "img_size") == 0)
            HN_TRY(read_side(j, key, where, &c->image));
        else if (strcmp(key, "in_chans") == 0)
            HN_TRY(read_channels(j, key, where, c));
        else if (strcmp(key, "num_classes") == 0)
            HN_TRY(hn_json_get_i64(j, key, where, 0, MAX_DIM, true, &c->classes));
        else
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: model_args.%s", where, key);
    }
    return HN_OK;
}

static hn_status read_timm(const json_t *j, const char *where, hn_vision_config *c)
{
    const char *name;
    HN_TRY(hn_json_get_text(j, "architecture", where, true, &name));
    const hn_vision_config *preset = find_preset(name);
    if (preset == NULL) return unknown(where, name);
    *c = *preset;
    HN_TRY(only_text(j, "global_pool", where, c->family == HN_VISION_VIT ? "token" : "avg"));
    HN_TRY(read_pretrained(json_object_get(j, "pretrained_cfg"), where, c));
    HN_TRY(hn_json_get_i64(j, "num_classes", where, 0, MAX_DIM, false, &c->classes));
    return read_model_args(json_object_get(j, "model_args"), where, c);
}

hn_status hn_vision_config_read(const json_t *config, const char *where, const hn_log *log,
                                const hn_vision_override *override, hn_vision_config *out)
{
    hn_vision_config c;
    if (json_object_get(config, "architecture") != NULL)
        HN_TRY(read_timm(config, where, &c));
    else
        HN_TRY(read_hugging_face(config, where, &c));
    HN_TRY(finish(&c, where, override));
    hn_json_warn_unknown(config, known_keys, sizeof known_keys / sizeof *known_keys, where, log);
    *out = c;
    return HN_OK;
}

hn_status hn_vision_config_override(hn_vision_config *c, const hn_vision_override *o,
                                    const char *where)
{
    hn_vision_config changed = *c;
    HN_TRY(finish(&changed, where, o));
    *c = changed;
    return HN_OK;
}

json_t *hn_vision_pixels_json(const float *v, int64_t n)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) {
        char text[32];
        snprintf(text, sizeof text, "%.9g", (double)v[i]);
        json_array_append_new(list, json_real(strtod(text, NULL)));
    }
    return list;
}

json_t *hn_vision_config_json(const hn_vision_config *c)
{
    const json_int_t side = (json_int_t)c->image;
    return json_pack("{s:s, s:I, s:s, s:{s:[I,I,I], s:o, s:o}}", "architecture", c->architecture,
                     "num_classes", (json_int_t)c->classes, "global_pool",
                     c->family == HN_VISION_VIT ? "token" : "avg", "pretrained_cfg", "input_size",
                     (json_int_t)c->channels, side, side, "mean",
                     hn_vision_pixels_json(c->mean, c->channels), "std",
                     hn_vision_pixels_json(c->std, c->channels));
}
