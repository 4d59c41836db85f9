/* loss, count, hits, dlogits, prediction = seg_loss(logits, labels, loss, count, hits?); the
 * mathematics is in kernels/loss/seg_loss.h. loss, count and hits are added to in place; dlogits is
 * made here, in forward. */
#include "kernels/loss/seg_loss.h"
#include "runtime/graph/op_util.h"

enum { LOGITS, LABELS, LOSS_IN, COUNT_IN, HITS_IN }; /* inputs */
enum { LOSS, COUNT, HITS, DLOGITS, PREDICTION };     /* outputs; the first three are inputs */

static void *data_of(const hn_tensor *t) { return t ? t->data : NULL; }

static hn_seg_loss_args args_of(const hn_node *n)
{
    const hn_type *logits = &n->in[LOGITS]->type;
    const hn_tensor *d = n->out[DLOGITS];
    return (hn_seg_loss_args){
        .logits = n->in[LOGITS]->data,
        .labels = n->in[LABELS]->data,
        .loss_sum = n->in[LOSS_IN]->data,
        .count = n->in[COUNT_IN]->data,
        .hits = data_of(n->in[HITS_IN]),
        .dlogits = data_of(d),
        .prediction = data_of(n->out[PREDICTION]),
        .images = logits->dim[0],
        .voxels = hn_type_rows(logits) / logits->dim[0],
        .classes = hn_type_cols(logits),
        .ld_logits = hn_type_ld(logits),
        .ld_dlogits = d ? hn_type_ld(&d->type) : 0,
        .terms = {.w_dice = n->attr.seg_loss.w_dice,
                  .w_focal = n->attr.seg_loss.w_focal,
                  .w_cross = n->attr.seg_loss.w_cross,
                  .smooth = n->attr.seg_loss.smooth,
                  .alpha = n->attr.seg_loss.alpha,
                  .gamma = n->attr.seg_loss.gamma},
        .dtype = logits->dtype,
    };
}

static bool is_f32_scalar(const hn_type *t)
{
    return t->dtype == HN_F32 && hn_type_elements(t) == 1;
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *logits = &n->in[LOGITS]->type, *labels = &n->in[LABELS]->type;
    if (!hn_is_real(logits) || labels->dtype != HN_I32)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "logits f32 or bf16, labels i32");
    if (logits->ndim < 2 || labels->ndim != 1 || labels->dim[0] != hn_type_rows(logits))
        return HN_FAIL(HN_ERR_SHAPE, "logits [images, ..., classes], labels [images voxels]");
    if (!is_f32_scalar(&n->in[LOSS_IN]->type) || !is_f32_scalar(&n->in[COUNT_IN]->type) ||
        (n->in[HITS_IN] && !is_f32_scalar(&n->in[HITS_IN]->type)))
        return HN_FAIL(HN_ERR_SHAPE, "loss, count and hits are f32 [1]");
    if (hn_type_cols(logits) < 2 || hn_type_cols(logits) > HN_SEG_CLASSES)
        return HN_FAIL(HN_ERR_SHAPE, "%lld classes, must be 2 to %d",
                       (long long)hn_type_cols(logits), HN_SEG_CLASSES);
    if (n->attr.seg_loss.want_dlogits || (hn_graph_training(n->graph) && n->in[LOGITS]->needs_grad))
        out[DLOGITS] = hn_type_fresh(logits);
    if (n->attr.seg_loss.want_prediction)
        out[PREDICTION] = hn_type_1d(HN_I32, hn_type_rows(logits));
    return HN_OK;
}

static hn_status grad(hn_graph *g, const hn_node *n, hn_tensor *const *dout, hn_tensor **din)
{
    (void)g;
    (void)dout;
    if (n->in[LOGITS]->needs_grad) din[LOGITS] = n->out[DLOGITS];
    return HN_OK;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_seg_loss_args a = args_of(n);
    return device == HN_DEVICE_CUDA ? hn_seg_loss_cuda_scratch(&a) : hn_seg_loss_fast_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_seg_loss_args a = args_of(n);
    return x->twin ? hn_seg_loss_cpu(&a) : hn_seg_loss_fast(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_seg_loss_args a = args_of(n);
    return hn_seg_loss_cuda(&a, x->scratch, x->stream);
}

/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_F32, 5, {2, 2, 3, 2, 4}}, {HN_I32, 1, {24}}, {HN_F32, 1, {1}}, {HN_F32, 1, {1}},
            {HN_F32, 1, {1}}},
     .attr = {.seg_loss = {.w_dice = 1, .w_focal = 0.5f, .smooth = 1e-5f, .alpha = 0.25f,
                           .gamma = 2, .want_prediction = true}}},
    {.in = {{HN_F32, 2, {1, 5}, 8}, {HN_I32, 1, {1}}, {HN_F32, 1, {1}}, {HN_F32, 1, {1}}},
     .attr = {.seg_loss = {.w_dice = 0.7f, .w_cross = 1, .smooth = 1, .want_dlogits = true}}},
    {.in = {{HN_BF16, 4, {2, 40, 50, 3}, 8}, {HN_I32, 1, {4000}}, {HN_F32, 1, {1}},
            {HN_F32, 1, {1}}, {HN_F32, 1, {1}}},
     .attr = {.seg_loss = {.w_dice = 1, .w_focal = 1, .smooth = 1e-5f, .alpha = 0.1f,
                           .gamma = 4.5f, .want_dlogits = true}}},
    {.in = {{HN_BF16, 3, {1, 300, 16}}, {HN_I32, 1, {300}}, {HN_F32, 1, {1}}, {HN_F32, 1, {1}}},
     .attr = {.seg_loss = {.w_cross = 1, .smooth = 1, .want_dlogits = true,
                           .want_prediction = true}}},
    {.in = {{0}}},
};
/* clang-format on */

static bool fill(const hn_node *n, int k, void *data)
{
    if (k != LABELS) return false;
    const hn_seg_loss_args a = args_of(n);
    for (int64_t i = 0; i < a.images * a.voxels; i++)
        ((int32_t *)data)[i] = i % 5 == 3 ? HN_LABEL_IGNORED : (int32_t)(i * 7 / 3 % a.classes);
    return true;
}

const hn_op_def hn_op_seg_loss = {
    .name = "seg_loss",
    .n_in = 5,
    .n_out = 5,
    .optional = HN_BIT(HITS_IN),
    .alias = {1 + LOSS_IN, 1 + COUNT_IN, 1 + HITS_IN},
    .saved_out = HN_BIT(DLOGITS) | HN_BIT(PREDICTION),
    .loss = true,
    .infer = infer,
    .grad = grad,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
