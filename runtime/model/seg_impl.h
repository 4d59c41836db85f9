/* seg_impl.h - what the families of segmenting networks share; for runtime/model only. */
#ifndef HN_SEG_IMPL_H
#define HN_SEG_IMPL_H
#include "runtime/model/seg.h"

enum { HN_SEG_MODULE = 128 };

/* What a forward pass carries along. */
typedef struct {
    const hn_seg_build *b;
    const hn_seg_config *c;
    hn_graph *g;
    int64_t begun; /* blocks */
} hn_seg_pass;

/* A convolution with a cube for a kernel. */
HN_NODISCARD hn_status hn_seg_declare_conv(hn_params *p, const char *module, int64_t in,
                                           int64_t out, int64_t kernel, bool bias);
HN_NODISCARD hn_status hn_seg_declare_norm(hn_params *p, const char *module, int64_t channels);

/* With zeros around, so that y is as large as x. */
HN_NODISCARD hn_status hn_seg_conv_fwd(const hn_seg_pass *v, const char *module, int64_t kernel,
                                       int64_t dilation, hn_tensor *x, hn_tensor **y);
HN_NODISCARD hn_status hn_seg_norm_fwd(const hn_seg_pass *v, const char *module, int64_t groups,
                                       double eps, hn_tensor *x, hn_tensor **y);
HN_NODISCARD hn_status hn_seg_act_fwd(const hn_seg_pass *v, const char *name, int kind,
                                      hn_tensor *x, hn_tensor **y);

/* Around each block. */
void hn_seg_block_begin(hn_seg_pass *v);
void hn_seg_block_end(hn_seg_pass *v);

/* The families. */
HN_NODISCARD hn_status hn_unet3d_declare(const hn_seg_config *c, hn_params *p);
HN_NODISCARD hn_status hn_unet3d_logits(hn_seg_pass *v, hn_tensor *x, hn_tensor **logits);
HN_NODISCARD hn_status hn_meshnet_declare(const hn_seg_config *c, hn_params *p);
HN_NODISCARD hn_status hn_meshnet_logits(hn_seg_pass *v, hn_tensor *x, hn_tensor **logits);
#endif
