/* vision_config.h - what a vision model is: by the name of an architecture, or from a config.json.
 *
 * Names       resnet18, resnet34, resnet50                      ImageNet stem (torchvision, timm)
 *             resnet18-cifar, resnet34-cifar                    3x3 stem, no max-pool
 *             resnet20, resnet32, resnet44, resnet56            CIFAR, option-A shortcuts (He et
 *                                                               al., 2016, section 4.2)
 *             separable-cifar                                   MobileNet-v1's widths on 32 x 32
 *             vit_{tiny,small,base}_patch16_224                 timm
 *             vit-tiny-cifar                                    patches of 4 on 32 x 32
 *             mnist-cnn, mnist-cnn-small, femnist-cnn,          two, three convolutions and an MLP
 *             cinic-cnn
 * config.json model_type "vit" or "resnet" (Hugging Face), or timm's "architecture" with one of the
 *             names above. A value that would change the result and is not implemented is refused
 *             by name; keys that mean nothing to us are listed in one warning.
 * Errors      HN_ERR_FORMAT, HN_ERR_UNSUPPORTED, HN_ERR_SHAPE naming file and key.
 */
#ifndef HN_VISION_CONFIG_H
#define HN_VISION_CONFIG_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/log.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    HN_VISION_RESNET,
    HN_VISION_SEPARABLE, /* depthwise 3x3 and pointwise 1x1 convolutions in turn */
    HN_VISION_VIT,
    HN_VISION_CNN
} hn_vision_family;

/* How files name the parameters of a family. */
typedef enum {
    HN_NAMES_TIMM,  /* and torchvision: layer1.0.conv1, blocks.0.attn.qkv */
    HN_NAMES_CIFAR, /* pytorch_resnet_cifar10: layer1.0.shortcut.0, linear */
    HN_NAMES_HUGGING_FACE
} hn_vision_names;

enum { HN_VISION_STAGES = 4, HN_VISION_STEPS = 16, HN_VISION_CHANNELS = 4, HN_VISION_NAME = 64 };

typedef struct {
    bool bottleneck;       /* 1x1, 3x3, 1x1 to four times the width; else two of 3x3 */
    bool imagenet_stem;    /* 7x7 by 2, max-pool 3x3 by 2; else 3x3 */
    bool option_a;         /* shortcuts without parameters; else a 1x1 convolution and its norm */
    bool stride_first;     /* bottleneck: the first 1x1 moves by the stride; else the 3x3 */
    bool downsample_first; /* the first stage moves by 2, too */
    int64_t stem;          /* channels */
    int64_t stages, depth[HN_VISION_STAGES];
    int64_t width[HN_VISION_STAGES]; /* channels behind a block of the stage */
} hn_resnet_sizes;

typedef struct {
    int64_t stem, stem_stride;
    int64_t steps, width[HN_VISION_STEPS], stride[HN_VISION_STEPS];
} hn_separable_sizes;

typedef struct {
    int64_t patch, hidden, layers, heads, intermediate;
    double ln_eps, init_range;
    bool qkv_bias;
} hn_vit_sizes;

/* Convolutions, each with relu and a max-pool of 2, then a hidden layer with relu. */
typedef struct {
    int64_t kernel, pad, steps, width[HN_VISION_STAGES], hidden;
} hn_cnn_sizes;

typedef struct {
    hn_vision_family family;
    hn_vision_names names;
    char architecture[HN_VISION_NAME];
    int64_t image, channels;
    int64_t classes;                                         /* 0: no head */
    float mean[HN_VISION_CHANNELS], std[HN_VISION_CHANNELS]; /* of pixels in 0..1 */
    double bn_eps, bn_momentum;
    hn_resnet_sizes resnet; /* that of the family counts */
    hn_separable_sizes separable;
    hn_vit_sizes vit;
    hn_cnn_sizes cnn;
} hn_vision_config;

/* Replaces what the name or file says; 0: as it is. */
typedef struct {
    int64_t image, channels, classes;
} hn_vision_override;

/* override: may be NULL. */
HN_NODISCARD hn_status hn_vision_config_named(const char *name, const hn_vision_override *override,
                                              hn_vision_config *out);
/* where: path for error texts. */
HN_NODISCARD hn_status hn_vision_config_read(const json_t *config, const char *where,
                                             const hn_log *log, const hn_vision_override *override,
                                             hn_vision_config *out);
/* What preprocessor_config.json of Hugging Face says about pixels: image_mean and image_std, and
 * the size where config.json has none. Images are resized as hn_image_resize_crop says, whatever
 * its resampling and crop_pct are. Errors: HN_ERR_UNSUPPORTED: what would change the pixels' values
 * otherwise, by name; HN_ERR_FORMAT */
HN_NODISCARD hn_status hn_vision_preprocessor_read(const json_t *j, const char *where,
                                                   hn_vision_config *c);
/* Other sizes than before; where: for the text. */
HN_NODISCARD hn_status hn_vision_config_override(hn_vision_config *c, const hn_vision_override *o,
                                                 const char *where);
/* Of an architecture by name: a config.json that hn_vision_config_read takes for the same, with
 * timm's keys. NULL: no memory. */
json_t *hn_vision_config_json(const hn_vision_config *c);
/* mean or std as a list, with as many digits as a float needs to come back. NULL: no memory. */
json_t *hn_vision_pixels_json(const float *v, int64_t n);
/* Whether the sizes fit together; for configurations made by hand. `where` is for the text. */
HN_NODISCARD hn_status hn_vision_config_check(const hn_vision_config *c, const char *where);

#ifdef __cplusplus
}
#endif
#endif
