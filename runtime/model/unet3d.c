/* 3-D U-Net (Cicek et al., 2016) as pytorch-3dunet has it: a block is twice group norm, convolution
 * without bias, relu. Encoders below the first begin with maxima over cubes of 2; a decoder reads
 * what its level's encoder made beside what lies below, made larger. */
#include <inttypes.h>
#include <stdio.h>

#include "kernels/activation/activation.h"
#include "runtime/model/seg_impl.h"

static const char FINAL[] = "final_conv";

/* Group norm, convolution, relu. */
typedef struct {
    char module[HN_SEG_MODULE];
    int64_t in, out;
} step;

/* The two steps of a block. */
typedef struct {
    step first, second;
} block;

static block block_of(const char *side, int64_t i, int64_t in, int64_t middle, int64_t out)
{
    block b = {.first = {.in = in, .out = middle}, .second = {.in = middle, .out = out}};
    snprintf(b.first.module, sizeof b.first.module, "%s.%" PRId64 ".basic_module.SingleConv1", side,
             i);
    snprintf(b.second.module, sizeof b.second.module, "%s.%" PRId64 ".basic_module.SingleConv2",
             side, i);
    return b;
}

static block encoder_of(const hn_seg_config *c, int64_t i)
{
    const int64_t in = i > 0 ? c->unet3d.width[i - 1] : c->channels, out = c->unet3d.width[i];
    return block_of("encoders", i, in, out / 2 > in ? out / 2 : in, out);
}

/* Decoder 0 is the lowest: it makes level levels - 2. */
static block decoder_of(const hn_seg_config *c, int64_t i)
{
    const int64_t level = c->unet3d.levels - 2 - i, out = c->unet3d.width[level];
    return block_of("decoders", i, c->unet3d.width[level + 1] + out, out, out);
}

static int64_t groups_of(const hn_seg_config *c, int64_t channels)
{
    return channels < c->unet3d.groups ? 1 : c->unet3d.groups;
}

static const char *part_of(const step *s, const char *part, char *name, size_t size)
{
    snprintf(name, size, "%s.%s", s->module, part);
    return name;
}

/* ---- declaring ---- */

static hn_status declare_step(hn_params *p, const step *s)
{
    char name[HN_SEG_MODULE + 16];
    HN_TRY(hn_seg_declare_norm(p, part_of(s, "groupnorm", name, sizeof name), s->in));
    return hn_seg_declare_conv(p, part_of(s, "conv", name, sizeof name), s->in, s->out, 3, false);
}

static hn_status declare_block(hn_params *p, const block *b)
{
    HN_TRY(declare_step(p, &b->first));
    return declare_step(p, &b->second);
}

hn_status hn_unet3d_declare(const hn_seg_config *c, hn_params *p)
{
    for (int64_t i = 0; i < c->unet3d.levels; i++) {
        const block b = encoder_of(c, i);
        HN_TRY(declare_block(p, &b));
    }
    for (int64_t i = 0; i < c->unet3d.levels - 1; i++) {
        const block b = decoder_of(c, i);
        HN_TRY(declare_block(p, &b));
    }
    return hn_seg_declare_conv(p, FINAL, c->unet3d.width[0], c->classes, 1, true);
}

/* ---- recording ---- */

static hn_status record_step(const hn_seg_pass *v, const step *s, hn_tensor **x)
{
    char name[HN_SEG_MODULE + 16];
    part_of(s, "groupnorm", name, sizeof name);
    HN_TRY(hn_seg_norm_fwd(v, name, groups_of(v->c, s->in), v->c->unet3d.eps, *x, x));
    part_of(s, "conv", name, sizeof name);
    HN_TRY(hn_seg_conv_fwd(v, name, 3, 1, *x, x));
    return hn_seg_act_fwd(v, s->module, HN_ACT_RELU, *x, x);
}

static hn_status record_block(hn_seg_pass *v, const block *b, hn_tensor **x)
{
    HN_TRY(record_step(v, &b->first, x));
    return record_step(v, &b->second, x);
}

static hn_status record_encoder(hn_seg_pass *v, int64_t i, hn_tensor **x)
{
    const block b = encoder_of(v->c, i);
    const hn_attr attr = {.pool3d = {.size = 2}};
    hn_tensor *out[HN_MAX_OUT];
    if (i > 0) {
        HN_TRY(hn_emit(v->g, HN_OP_POOL3D, b.first.module, x, &attr, out));
        *x = out[0];
    }
    return record_block(v, &b, x);
}

static hn_status record_decoder(hn_seg_pass *v, int64_t i, hn_tensor *skip, hn_tensor **x)
{
    const block b = decoder_of(v->c, i);
    hn_tensor *const in[] = {*x, skip};
    hn_tensor *out[HN_MAX_OUT];
    HN_TRY(hn_emit(v->g, HN_OP_UPSAMPLE, b.first.module, in, NULL, out));
    *x = out[0];
    return record_block(v, &b, x);
}

hn_status hn_unet3d_logits(hn_seg_pass *v, hn_tensor *x, hn_tensor **logits)
{
    const int64_t levels = v->c->unet3d.levels;
    hn_tensor *made[HN_SEG_LEVELS];
    for (int64_t i = 0; i < levels; i++) {
        hn_seg_block_begin(v);
        HN_TRY(record_encoder(v, i, &x));
        hn_seg_block_end(v);
        made[i] = x;
    }
    for (int64_t i = 0; i < levels - 1; i++) {
        hn_seg_block_begin(v);
        HN_TRY(record_decoder(v, i, made[levels - 2 - i], &x));
        hn_seg_block_end(v);
    }
    return hn_seg_conv_fwd(v, FINAL, 1, 1, x, logits);
}
