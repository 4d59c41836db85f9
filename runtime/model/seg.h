/* seg.h - networks that segment volumes: parameter list and forward pass, one face for all
 * families.
 *
 *   unet3d    encoders and decoders of group norm, convolution and relu, joined level by level
 *             (unet3d.c)
 *   meshnet   convolutions with dilation, all at full size (meshnet.c)
 *
 *   logits [n, d, h, w, classes] = logits(volumes [n, d, h, w, channels])
 *
 * Names are those of the files: pytorch-3dunet's encoders.0.basic_module.SingleConv1.conv.weight,
 * decoders, final_conv; convN of MeshNet. Initial values are uniform in +-1/sqrt(fan in), biases,
 * too, as PyTorch's layers begin by themselves.
 */
#ifndef HN_SEG_H
#define HN_SEG_H
#include "runtime/adapt/params.h"
#include "runtime/model/seg_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Declares every parameter. */
HN_NODISCARD hn_status hn_seg_declare(const hn_seg_config *c, hn_params *params);

typedef struct {
    const hn_seg_config *config;
    const hn_params *params;
    int64_t recompute; /* so many blocks, the first ones, run again in backward instead of keeping
                        * what they made */
} hn_seg_build;

/* Blocks: what `recompute` counts. */
int64_t hn_seg_layers(const hn_seg_config *c);
/* The shortest side that a volume may have. */
int64_t hn_seg_least_side(const hn_seg_config *c);

/* volumes of the parameters' dtype, with any sides from hn_seg_least_side.
 * Errors: HN_ERR_SHAPE, HN_ERR_ARG and those of hn_emit */
HN_NODISCARD hn_status hn_seg_logits(const hn_seg_build *b, hn_graph *g, hn_tensor *volumes,
                                     hn_tensor **logits);

/* Module name of what makes the logits. */
const char *hn_seg_head(const hn_seg_config *c, char *name, size_t size);

#ifdef __cplusplus
}
#endif
#endif
