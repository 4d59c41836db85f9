/* vision_impl.h - what the families of vision models share; for runtime/model only. */
#ifndef HN_VISION_IMPL_H
#define HN_VISION_IMPL_H
#include "runtime/model/vision.h"

enum { HN_MODULE_NAME = 128 };

/* A convolution of square images without groups, or depthwise (groups = in). */
typedef struct {
    int64_t in, out, kernel, stride, pad, groups;
} hn_vision_conv;

/* What a forward pass carries along. */
typedef struct {
    const hn_vision_build *b;
    const hn_vision_config *c;
    hn_graph *g;
    int64_t begun; /* blocks */
    int64_t made;  /* entries of b->blocks */
} hn_vision_pass;

/* How weights begin; biases begin as they do, or with 0. */
typedef enum {
    HN_START_FAN_OUT, /* normal, kaiming by fan out; bias 0 */
    HN_START_FAN_IN,  /* normal, kaiming by fan in; bias as HN_START_UNIFORM */
    HN_START_UNIFORM, /* +-1/sqrt(fan in), the bias, too: PyTorch's layers by themselves */
} hn_vision_start;

HN_NODISCARD hn_status hn_vision_declare_conv(hn_params *p, const char *module,
                                              const hn_vision_conv *s, bool bias,
                                              hn_vision_start start);
HN_NODISCARD hn_status hn_vision_declare_linear(hn_params *p, const char *module, int64_t in,
                                                int64_t out, hn_vision_start start);
/* weight, bias, running_mean, running_var. */
HN_NODISCARD hn_status hn_vision_declare_bn(hn_params *p, const char *module, int64_t channels);
HN_NODISCARD hn_status hn_vision_declare_ln(hn_params *p, const char *module, int64_t cols);

HN_NODISCARD hn_status hn_vision_conv_fwd(const hn_vision_pass *v, const char *module,
                                          const hn_vision_conv *s, hn_tensor *x, hn_tensor **y);
/* y = bn(x) + res, then max(0, .) where `relu`. res: NULL: none. */
HN_NODISCARD hn_status hn_vision_bn_fwd(const hn_vision_pass *v, const char *module, hn_tensor *x,
                                        hn_tensor *res, bool relu, hn_tensor **y);
/* y = layer norm(x + res); *sum becomes x + res. res NULL: y = layer norm(x). */
HN_NODISCARD hn_status hn_vision_ln_fwd(const hn_vision_pass *v, const char *module, double eps,
                                        hn_tensor *x, hn_tensor *res, hn_tensor **sum,
                                        hn_tensor **y);
HN_NODISCARD hn_status hn_vision_act_fwd(const hn_vision_pass *v, const char *name, int kind,
                                         hn_tensor *x, hn_tensor **y);
/* Maxima over size x size pixels; then relu, if it is wanted. */
HN_NODISCARD hn_status hn_vision_max_fwd(const hn_vision_pass *v, const char *name, int64_t size,
                                         int64_t stride, int64_t pad, bool relu, hn_tensor *x,
                                         hn_tensor **y);
/* The mean over each image, [n, channels]. */
HN_NODISCARD hn_status hn_vision_mean_fwd(const hn_vision_pass *v, hn_tensor *x, hn_tensor **y);

/* Around each block, the stem not among them. */
void hn_vision_block_begin(hn_vision_pass *v);
void hn_vision_block_end(hn_vision_pass *v);
/* x: what the stem or the next block has made. */
void hn_vision_block_made(hn_vision_pass *v, hn_tensor *x);

/* The families. */
HN_NODISCARD hn_status hn_resnet_declare(const hn_vision_config *c, hn_params *p);
HN_NODISCARD hn_status hn_resnet_features(hn_vision_pass *v, hn_tensor *x, hn_tensor **features);
HN_NODISCARD hn_status hn_sepconv_declare(const hn_vision_config *c, hn_params *p);
HN_NODISCARD hn_status hn_sepconv_features(hn_vision_pass *v, hn_tensor *x, hn_tensor **features);
HN_NODISCARD hn_status hn_vit_declare(const hn_vision_config *c, hn_params *p);
HN_NODISCARD hn_status hn_vit_features(hn_vision_pass *v, hn_tensor *x, hn_tensor **features);
HN_NODISCARD hn_status hn_cnn_declare(const hn_vision_config *c, hn_params *p);
HN_NODISCARD hn_status hn_cnn_features(hn_vision_pass *v, hn_tensor *x, hn_tensor **features);
#endif
