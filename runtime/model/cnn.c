/* Small convolutional nets: convolution, relu and max-pool in turn, then a hidden layer. */
#include <inttypes.h>
#include <stdio.h>

#include "kernels/activation/activation.h"
#include "runtime/model/vision_impl.h"

static const char FC1[] = "fc1";

static hn_vision_conv step_of(const hn_vision_config *c, int64_t i)
{
    const hn_cnn_sizes *s = &c->cnn;
    return (hn_vision_conv){
        i > 0 ? s->width[i - 1] : c->channels, s->width[i], s->kernel, 1, s->pad, 1};
}

/* Height and width behind the last pool. */
static int64_t last_size(const hn_vision_config *c)
{
    int64_t size = c->image;
    for (int64_t i = 0; i < c->cnn.steps; i++)
        size = (size + 2 * c->cnn.pad - c->cnn.kernel + 1) / 2;
    return size;
}

static const char *conv_name(int64_t i, char *name, size_t size)
{
    snprintf(name, size, "conv%" PRId64, i + 1);
    return name;
}

hn_status hn_cnn_declare(const hn_vision_config *c, hn_params *p)
{
    const hn_cnn_sizes *s = &c->cnn;
    const int64_t pixels = last_size(c) * last_size(c);
    char name[HN_MODULE_NAME];
    for (int64_t i = 0; i < s->steps; i++) {
        const hn_vision_conv step = step_of(c, i);
        HN_TRY(hn_vision_declare_conv(p, conv_name(i, name, sizeof name), &step, true,
                                      HN_START_UNIFORM));
    }
    HN_TRY(hn_vision_declare_linear(p, FC1, pixels * s->width[s->steps - 1], s->hidden,
                                    HN_START_UNIFORM));
    return hn_params_file_flattened(p, FC1, pixels);
}

/* relu behind the pool gives the same values and gradients as before it. */
static hn_status record_step(const hn_vision_pass *v, int64_t i, hn_tensor **x)
{
    const hn_vision_conv step = step_of(v->c, i);
    char name[HN_MODULE_NAME];
    conv_name(i, name, sizeof name);
    HN_TRY(hn_vision_conv_fwd(v, name, &step, *x, x));
    return hn_vision_max_fwd(v, name, 2, 2, 0, true, *x, x);
}

hn_status hn_cnn_features(hn_vision_pass *v, hn_tensor *x, hn_tensor **features)
{
    hn_vision_block_made(v, x);
    for (int64_t i = 0; i < v->c->cnn.steps; i++) {
        hn_vision_block_begin(v);
        HN_TRY(record_step(v, i, &x));
        hn_vision_block_end(v);
        hn_vision_block_made(v, x);
    }
    const int64_t rows[] = {x->type.dim[0], x->type.dim[1] * x->type.dim[2] * x->type.dim[3]};
    HN_TRY(hn_view_shape(v->g, x, 2, rows, &x));
    HN_TRY(hn_params_linear_fwd(v->b->params, v->g, FC1, x, &x));
    return hn_vision_act_fwd(v, FC1, HN_ACT_RELU, x, features);
}
