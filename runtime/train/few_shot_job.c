#include "runtime/train/few_shot_job.h"

#include <inttypes.h>

#include "kernels/loss/proto_ce.h"
#include "runtime/base/label.h"
#include "runtime/base/rng.h"
#include "runtime/graph/tensor.h"

enum { INDEX, LABEL };

static const hn_few_shot_job *few_shot(const hn_job *j) { return (const hn_few_shot_job *)j; }

static bool tunes(const hn_few_shot_job *f) { return f->o.queries == 0; }

/* Rows of an episode: in a micro-batch, and through the body. */
static int64_t field_rows(const hn_few_shot_job_options *o) { return o->support + o->queries; }
static int64_t body_rows(const hn_few_shot_job_options *o)
{
    return o->queries == 0 ? 2 * o->support : o->support + o->queries;
}

static hn_status declare(const hn_job *j, hn_params *p)
{
    return hn_vision_declare(&few_shot(j)->body, p);
}

static hn_status tables(hn_job *j, hn_program *p)
{
    hn_few_shot_job *f = (hn_few_shot_job *)j;
    const hn_images *s = f->o.images;
    const hn_type type = {.dtype = HN_U8, .ndim = 4, .dim = {s->count, s->h, s->w, s->c}};
    HN_TRY(hn_vision_tables_new(&f->body, p, f->o.replicas * body_rows(&f->o), &f->tables));
    return hn_program_tensor(p, HN_MEM_STATE, "images", &type, &f->images);
}

static hn_status fill(const hn_job *j)
{
    const hn_few_shot_job *f = few_shot(j);
    const hn_images *s = f->o.images;
    HN_TRY(hn_vision_tables_fill(&f->body, &f->tables));
    return hn_tensor_write(f->images, 0, s->pixel, (size_t)(s->count * s->h * s->w * s->c));
}

/* Clean images and, behind those of each episode, their augmented views; labels for both. */
static hn_status prepare_pairs(const hn_few_shot_job *f, hn_graph *g, hn_tensor *const *field,
                               hn_tensor **images, hn_tensor **labels)
{
    const hn_vision_config *v = &f->body;
    hn_attr attr = {.few_shot = {.height = v->image,
                                 .width = v->image,
                                 .channels = v->channels,
                                 .to = f->o.dtype,
                                 .augment = hn_graph_training(g) ? f->o.augment : 0,
                                 .key = hn_hash_name("few_shot_prep")}};
    for (int64_t k = 0; k < v->channels; k++) {
        attr.few_shot.mean[k] = v->mean[k];
        attr.few_shot.std[k] = v->std[k];
    }
    hn_tensor *const in[] = {f->images, field[INDEX], field[LABEL]};
    hn_tensor *out[HN_MAX_OUT];
    HN_TRY(hn_emit(g, HN_OP_FEW_SHOT_PREP, "images", in, &attr, out));
    *images = out[0];
    *labels = out[1];
    return HN_OK;
}

static hn_status prepare_clean(const hn_few_shot_job *f, hn_graph *g, hn_tensor *const *field,
                               hn_tensor **images)
{
    const hn_vision_config *v = &f->body;
    hn_attr attr = {.prep = {.resized = true,
                             .height = v->image,
                             .width = v->image,
                             .channels = v->channels,
                             .to = f->o.dtype,
                             .centre = 1,
                             .key = hn_hash_name("image_prep")}};
    for (int64_t k = 0; k < v->channels; k++) {
        attr.prep.mean[k] = v->mean[k];
        attr.prep.std[k] = v->std[k];
    }
    hn_tensor *const in[] = {f->images, field[INDEX], NULL};
    hn_tensor *out[HN_MAX_OUT];
    HN_TRY(hn_emit(g, HN_OP_IMAGE_PREP, "images", in, &attr, out));
    *images = out[0];
    return HN_OK;
}

static hn_status loss(hn_job *j, const hn_job_pass *pass, hn_graph *g, const hn_job_sums *sums)
{
    hn_few_shot_job *f = (hn_few_shot_job *)j;
    const bool train = hn_graph_training(g);
    const hn_vision_build b = {.config = &f->body,
                               .params = pass->params,
                               .tables = &f->tables,
                               .frozen_norm = true,
                               .attention = f->o.attention,
                               .recompute = pass->recompute};
    hn_tensor *images, *features, *labels = pass->in[LABEL], *out[HN_MAX_OUT];
    if (tunes(f))
        HN_TRY(prepare_pairs(f, g, pass->in, &images, &labels));
    else if (train)
        return HN_FAIL(HN_ERR_ARG, "episodes with queries are evaluated, not trained on");
    else
        HN_TRY(prepare_clean(f, g, pass->in, &images));
    HN_TRY(hn_vision_features(&b, g, images, &features));
    hn_tensor *const in[] = {features, labels, sums->loss, sums->count, sums->hits};
    const hn_attr attr = {.proto_ce = {.support = f->o.support,
                                       .ways = f->o.ways,
                                       .scale = f->o.scale,
                                       .offset = f->o.offset,
                                       .want_prediction = !tunes(f)}};
    HN_TRY(hn_emit(g, HN_OP_PROTO_CE, "loss", in, &attr, out));
    if (tunes(f)) return HN_OK;
    f->features = features;
    f->prediction = out[4]; /* loss, count, hits, gradient, prediction */
    hn_graph_keep(f->features);
    hn_graph_keep(f->prediction);
    return HN_OK;
}

static void empty(const hn_job *j, void *const *field)
{
    int32_t *const index = field[INDEX], *const label = field[LABEL];
    for (int64_t i = 0; i < j->rows; i++) {
        index[i] = -1;
        label[i] = HN_LABEL_IGNORED;
    }
}

hn_status hn_few_shot_job_init(hn_few_shot_job *j, const hn_few_shot_job_options *o)
{
    const hn_type ids = hn_type_1d(HN_I32, o->replicas * field_rows(o));
    if (o->replicas < 1 || o->support < 1 || o->queries < 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%" PRId64 " episodes of %" PRId64 " support and %" PRId64 " query images",
                       o->replicas, o->support, o->queries);
    if (o->ways < 1 || o->ways > HN_PROTO_WAYS)
        return HN_FAIL(HN_ERR_SHAPE, "%" PRId64 " ways, must be 1 to %d", o->ways, HN_PROTO_WAYS);
    if (o->images->c != o->config->channels)
        return HN_FAIL(HN_ERR_SHAPE, "%s: images of %d channels, the model reads %" PRId64,
                       o->config->architecture, o->images->c, o->config->channels);
    *j = (hn_few_shot_job){.job = {.rows = ids.dim[0],
                                   .layers = hn_vision_layers(o->config),
                                   .hits = true,
                                   .n_fields = 2,
                                   .field = {[INDEX] = {"image", ids}, [LABEL] = {"label", ids}},
                                   .declare = declare,
                                   .tables = tables,
                                   .fill = fill,
                                   .loss = loss,
                                   .empty = empty},
                           .o = *o,
                           .body = *o->config};
    j->body.classes = 0;
    return HN_OK;
}

hn_few_shot_batch hn_few_shot_batch_of(const hn_engine_input *in)
{
    return (hn_few_shot_batch){in->field[INDEX], in->field[LABEL]};
}
