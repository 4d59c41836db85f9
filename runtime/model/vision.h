/* vision.h - vision models: parameter list and forward pass, one face for all families.
 *
 *   resnet     stem, blocks y = relu(f(x) + shortcut(x)), mean over the image     (resnet.c)
 *   separable  stem, pairs of depthwise and pointwise convolutions, mean          (sepconv.c)
 *   vit        patches, class token, positions, pre-norm blocks, the class token  (vit.c)
 *   cnn        convolutions with relu and max-pool, a hidden layer                (cnn.c)
 *
 *   features [n, d] = features(images [n, image, image, channels])
 *   logits [n, classes] = features W^T + b
 *
 * Names are those of the files (vision_config.h). Convolutions, batch norms and linear layers are
 * declared through runtime/adapt, so that methods reach all of them. Only forward is written here.
 *
 * Initial values have PyTorch's distributions, and numbers of their own. Convolutions of residual
 * nets are normal by fan out (those of the CIFAR names, linear layer included, by fan in); all
 * other convolutions and linear layers uniform in +-1/sqrt(fan in) with their biases. Vision
 * transformers are normal with deviation 0.02, biases 0: timm and Hugging Face cut that off at +-2,
 * which is 100 deviations and happens never. */
#ifndef HN_VISION_H
#define HN_VISION_H
#include "runtime/adapt/params.h"
#include "runtime/model/vision_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Declares every parameter and running value. */
HN_NODISCARD hn_status hn_vision_declare(const hn_vision_config *c, hn_params *params);

/* Tensors shared by all graphs of a program that take as many images at a time. */
typedef struct {
    int64_t images;
    hn_tensor *offsets; /* vit: i32 [images + 1], where the tokens of each image begin; else NULL */
} hn_vision_tables;

/* Finds the tables of that many images, or makes them. */
HN_NODISCARD hn_status hn_vision_tables_new(const hn_vision_config *c, hn_program *p,
                                            int64_t images, hn_vision_tables *out);
/* After hn_plan_allocate. */
HN_NODISCARD hn_status hn_vision_tables_fill(const hn_vision_config *c, const hn_vision_tables *t);

typedef struct {
    const hn_vision_config *config;
    const hn_params *params;
    const hn_vision_tables *tables; /* vit; else NULL will do */
    bool frozen_norm;  /* batch norm by the running values, which stay; without it only graphs that
                        * do  not train have it so */
    int64_t recompute; /* so many blocks, the first ones, run again in backward instead of keeping
                        * what they made */
    hn_attention_impl attention; /* whose kernels (vit) */
    hn_tensor **blocks; /* NULL, or [hn_vision_layers + 1]: receives what the stem and each block
                         * made, which is kept to the end of the graph. vit: rows are tokens; of the
                         * last block only the class tokens are made */
} hn_vision_build;

/* Blocks: what `recompute` counts. */
int64_t hn_vision_layers(const hn_vision_config *c);
/* Width of the features. */
int64_t hn_vision_width(const hn_vision_config *c);

/* The biases of a block of a vision transformer, in the order in which they are used. */
typedef enum {
    HN_VIT_NORM1,
    HN_VIT_QUERY,
    HN_VIT_KEY,
    HN_VIT_VALUE,
    HN_VIT_PROJ,
    HN_VIT_NORM2,
    HN_VIT_FC1,
    HN_VIT_FC2,
    HN_VIT_BIASES
} hn_vit_bias;

enum { HN_VIT_BIAS_NAME = 160 };

/* Where one of them lies: elements first .. first+n-1 of the vector of that name. */
typedef struct {
    char name[HN_VIT_BIAS_NAME];
    int64_t first, n;
} hn_vit_bias_place;

/* Errors  HN_ERR_ARG: no vision transformer, no such block; HN_ERR_UNSUPPORTED: q, k and v have no
 *         biases */
HN_NODISCARD hn_status hn_vision_vit_bias(const hn_vision_config *c, int64_t layer, hn_vit_bias b,
                                          hn_vit_bias_place *out);

/* Whether images of a batch see each other in training, unless frozen_norm. */
bool hn_vision_has_batch_norm(const hn_vision_config *c);

/* images [n, image, image, channels] of the parameters' dtype.
 * Errors: HN_ERR_SHAPE, HN_ERR_ARG and those of hn_emit */
HN_NODISCARD hn_status hn_vision_features(const hn_vision_build *b, hn_graph *g, hn_tensor *images,
                                          hn_tensor **features);
HN_NODISCARD hn_status hn_vision_logits(const hn_vision_build *b, hn_graph *g, hn_tensor *features,
                                        hn_tensor **logits);

/* Module name of the head, "fc"; also where `classes` is 0 and there is none. */
const char *hn_vision_head(const hn_vision_config *c);

#ifdef __cplusplus
}
#endif
#endif
