/* seg_config.h - what a network for segmentation of volumes is: by name, or from the description
 * that lies beside a MeshNet's weights.
 *
 * unet3d-fets  the 3-D U-Net of FedRef's FeTS2022 experiment: pytorch-3dunet's UNet3D with f_maps
 *              [4, 8, 16, 32], layer order "gcr", 4 groups; four classes
 * meshnet5     brainchop's models for grey and white matter: nine convolutions of 5 channels with
 *              dilations 1 2 4 8 16 8 4 2 1, relu, and one of 1 x 1 x 1; three classes
 * meshnet20    the same of 20 channels, with elu
 *              All three read volumes of one channel, unless others are asked for.
 * *.arch.json  a list in the order of the network: {"layer": "conv0", "kernel": 3, "dilation": 2,
 *              "out": 5} for a convolution with zeros around ("same"), {"activation": "relu" or
 *              "elu"} behind every one but the last. Layers are called conv0, conv1, ...
 * Errors       HN_ERR_FORMAT, HN_ERR_UNSUPPORTED, HN_ERR_SHAPE, with name or file and place.
 */
#ifndef HN_SEG_CONFIG_H
#define HN_SEG_CONFIG_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_SEG_UNET3D, HN_SEG_MESHNET } hn_seg_family;

enum { HN_SEG_LEVELS = 6, HN_SEG_LAYERS = 24, HN_SEG_NAME = 64 };

typedef struct {
    int64_t levels,
        width[HN_SEG_LEVELS]; /* channels behind the encoder of a level, doubling or not */
    int64_t groups;           /* of group norm; 1 where there are fewer channels */
    double eps;
} hn_unet3d_sizes;

typedef struct {
    int64_t layers, kernel[HN_SEG_LAYERS], dilation[HN_SEG_LAYERS], width[HN_SEG_LAYERS];
    int activation; /* hn_activation_kind */
} hn_meshnet_sizes;

typedef struct {
    hn_seg_family family;
    char architecture[HN_SEG_NAME];
    int64_t channels, classes;
    hn_unet3d_sizes unet3d; /* that of the family counts */
    hn_meshnet_sizes meshnet;
} hn_seg_config;

/* Whether hn_seg_config_named knows the name. */
bool hn_seg_config_has(const char *name);
/* channels, classes: 0: as the name says. */
HN_NODISCARD hn_status hn_seg_config_named(const char *name, int64_t channels, int64_t classes,
                                           hn_seg_config *out);
/* Of *.arch.json; where: path for error texts. channels: what the first convolution reads. */
HN_NODISCARD hn_status hn_seg_config_arch(const json_t *arch, const char *where, int64_t channels,
                                          hn_seg_config *out);
/* Whether the sizes fit together; for configurations made by hand. `where` is for the text. */
HN_NODISCARD hn_status hn_seg_config_check(const hn_seg_config *c, const char *where);

#ifdef __cplusplus
}
#endif
#endif
