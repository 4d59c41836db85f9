/* y, y_labels = few_shot_prep(images, index, labels?); the mathematics is in
 * kernels/vision/few_shot_prep.h. y_labels is absent without labels. */
#include "kernels/vision/few_shot_prep.h"

#include <string.h>

#include "runtime/graph/op_util.h"

enum { IMAGES, INDEX, LABELS }; /* inputs */
enum { Y, Y_LABELS };           /* outputs */

static hn_few_shot_prep_args args_of(const hn_node *n, const hn_rng_state *state)
{
    const hn_type *images = &n->in[IMAGES]->type, *y = &n->out[Y]->type;
    const hn_tensor *labels = n->in[LABELS], *y_labels = n->out[Y_LABELS];
    const int64_t replicas = hn_program_replicas(n->in[IMAGES]->program);
    hn_few_shot_prep_args a = {
        .images = n->in[IMAGES]->data,
        .index = n->in[INDEX]->data,
        .labels = labels ? labels->data : NULL,
        .y = n->out[Y]->data,
        .y_labels = y_labels ? y_labels->data : NULL,
        .state = state,
        .key = n->attr.few_shot.key,
        .replicas = replicas,
        .state_stride = sizeof(hn_step_block),
        .support = n->in[INDEX]->type.dim[0] / replicas,
        .count = images->dim[0],
        .height = images->dim[1],
        .width = images->dim[2],
        .channels = images->dim[3],
        .ld_images = hn_type_ld(images),
        .out_height = y->dim[1],
        .out_width = y->dim[2],
        .out_channels = y->dim[3],
        .ld_y = hn_type_ld(y),
        .augment = n->attr.few_shot.augment,
        .dtype = y->dtype,
    };
    memcpy(a.mean, n->attr.few_shot.mean, sizeof a.mean);
    memcpy(a.std, n->attr.few_shot.std, sizeof a.std);
    return a;
}

static hn_status infer(const hn_node *n, hn_type *out)
{
    const hn_type *images = &n->in[IMAGES]->type, *index = &n->in[INDEX]->type;
    const hn_type *labels = n->in[LABELS] ? &n->in[LABELS]->type : NULL;
    const hn_dtype to = n->attr.few_shot.to;
    const int64_t height = n->attr.few_shot.height, width = n->attr.few_shot.width;
    const int64_t channels = n->attr.few_shot.channels;
    if (images->dtype != HN_U8 || index->dtype != HN_I32 || (labels && labels->dtype != HN_I32) ||
        (to != HN_F32 && to != HN_BF16))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "images u8, index and labels i32, to f32 or bf16");
    if (images->ndim != 4 || index->ndim != 1 ||
        (labels && (labels->ndim != 1 || labels->dim[0] != index->dim[0])))
        return HN_FAIL(HN_ERR_SHAPE, "images [count, h, w, c], index and labels [n]");
    if (images->dim[3] > HN_IMAGE_CHANNELS || channels < images->dim[3] || height < 1 || width < 1)
        return HN_FAIL(HN_ERR_SHAPE, "images of at most 4 channels become [h, w, c] with no fewer");
    if (index->dim[0] % hn_program_replicas(n->in[IMAGES]->program) != 0)
        return HN_FAIL(HN_ERR_SHAPE, "the rows are no equal groups, one a replica");
    out[Y] = (hn_type){.dtype = to,
                       .ndim = 4,
                       .dim = {2 * index->dim[0], height, width, channels},
                       .pitch = hn_type_2d(to, 1, channels).pitch};
    if (labels) out[Y_LABELS] = hn_type_1d(HN_I32, 2 * index->dim[0]);
    return HN_OK;
}

/* The head of the step blocks, one a replica. */
static const hn_rng_state *states_of(const hn_exec *x)
{
    return (const hn_rng_state *)(const void *)x->step;
}

static size_t scratch(const hn_node *n, hn_device_kind device)
{
    const hn_few_shot_prep_args a = args_of(n, NULL);
    return device == HN_DEVICE_CUDA ? hn_few_shot_prep_cuda_scratch(&a)
                                    : hn_few_shot_prep_cpu_scratch(&a);
}

static hn_status run_cpu(const hn_node *n, hn_exec *x)
{
    const hn_few_shot_prep_args a = args_of(n, states_of(x));
    return hn_few_shot_prep_cpu(&a, x->scratch);
}

static hn_status run_cuda(const hn_node *n, hn_exec *x)
{
    const hn_few_shot_prep_args a = args_of(n, states_of(x));
    return hn_few_shot_prep_cuda(&a, x->scratch, x->stream);
}

/* Larger and smaller than the images, channels in packs and one by one, several blocks. */
/* clang-format off */
static const hn_op_sample samples[] = {
    {.in = {{HN_U8, 4, {5, 8, 8, 3}}, {HN_I32, 1, {7}}, {HN_I32, 1, {7}}},
     .attr.few_shot = {.height = 19, .width = 19, .channels = 4, .augment = 1,
                       .mean = {0.5f, 0.4f, 0.3f}, .std = {0.2f, 0.25f, 0.3f}, .key = 79}},
    {.in = {{HN_U8, 4, {3, 20, 17, 1}}, {HN_I32, 1, {4}}},
     .attr.few_shot = {.height = 9, .width = 11, .channels = 1, .augment = 0.9f, .mean = {0.1f},
                       .key = 80}},
    {.in = {{HN_U8, 4, {4, 20, 17, 3}, 4}, {HN_I32, 1, {6}}, {HN_I32, 1, {6}}},
     .attr.few_shot = {.height = 37, .width = 31, .channels = 8, .to = HN_BF16, .augment = 1,
                       .mean = {0.5f, 0.4f, 0.3f}, .std = {0.2f, 0.25f, 0.3f}, .key = 81}},
    {.in = {{0}}},
};
/* clang-format on */

static bool fill(const hn_node *n, int k, void *data)
{
    const hn_type *t = &n->in[k]->type;
    const int64_t elements = hn_type_rows(t) * hn_type_ld(t), count = n->in[IMAGES]->type.dim[0];
    for (int64_t i = 0; i < elements; i++)
        if (k == IMAGES)
            ((uint8_t *)data)[i] = (uint8_t)(i * 2654435761u >> 8);
        else if (k == INDEX)
            ((int32_t *)data)[i] = i % 4 == 2 ? -1 : (int32_t)(i * 3 % count);
        else
            ((int32_t *)data)[i] = (int32_t)(i * 5 % 7);
    return true;
}

const hn_op_def hn_op_few_shot_prep = {
    .name = "few_shot_prep",
    .n_in = 3,
    .n_out = 2,
    .optional = HN_BIT(LABELS),
    .infer = infer,
    .scratch = scratch,
    .run_cpu = run_cpu,
    .run_cuda = run_cuda,
    .samples = samples,
    .fill = fill,
};
