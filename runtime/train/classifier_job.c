#include "runtime/train/classifier_job.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/label.h"
#include "runtime/base/rng.h"
#include "runtime/graph/tensor.h"

enum { INDEX, LABEL, PIXEL };

static const hn_classifier_job *classifier(const hn_job *j) { return (const hn_classifier_job *)j; }

/* Of either set: they are of one size. */
static const hn_images *shape_of(const hn_classifier_options *o)
{
    return o->train ? o->train : o->eval;
}

static hn_type pixels_type(const hn_images *s, int64_t n)
{
    return (hn_type){.dtype = HN_U8, .ndim = 4, .dim = {n, s->h, s->w, s->c}};
}

static hn_status declare(const hn_job *j, hn_params *p)
{
    return hn_vision_declare(classifier(j)->o.config, p);
}

static hn_status resident(hn_program *p, const char *name, const hn_images *s, hn_tensor **out)
{
    const hn_type type = pixels_type(s, s->count);
    return hn_program_tensor(p, HN_MEM_STATE, name, &type, out);
}

/* The same network again, frozen. */
static hn_status make_teacher(hn_classifier_job *c, hn_program *p)
{
    const hn_params_options o = {.dtype = c->o.dtype, .fuse = HN_FUSE_NEVER, .prefix = "teacher:"};
    if (!(c->o.distill.weight > 0))
        return HN_FAIL(HN_ERR_ARG, "distillation of weight %g", (double)c->o.distill.weight);
    HN_TRY(hn_params_new(NULL, &c->teacher));
    HN_TRY(hn_vision_declare(c->o.config, c->teacher));
    return hn_params_create(c->teacher, p, &o);
}

static void release(hn_job *j)
{
    hn_classifier_job *c = (hn_classifier_job *)j;
    hn_params_free(c->teacher);
    c->teacher = NULL;
}

static hn_status tables(hn_job *j, hn_program *p)
{
    hn_classifier_job *c = (hn_classifier_job *)j;
    const hn_classifier_options *o = &c->o;
    const hn_vision_config *v = o->config;
    c->train = c->eval = NULL;
    if (o->batch > 0) HN_TRY(hn_vision_tables_new(v, p, o->batch, &c->tables));
    if (o->train && !o->stream_train) HN_TRY(resident(p, "images", o->train, &c->train));
    if (o->eval && !o->stream_eval) HN_TRY(resident(p, "held-out images", o->eval, &c->eval));
    if (o->distill.weight != 0) HN_TRY(make_teacher(c, p));
    if (o->probe_images == 0) return HN_OK;
    const hn_type probe = {
        .dtype = HN_U8, .ndim = 4, .dim = {o->probe_images, v->image, v->image, v->channels}};
    const hn_type ids = hn_type_1d(HN_I32, o->probe_images);
    HN_TRY(hn_vision_tables_new(v, p, o->probe_images, &c->probe.tables));
    HN_TRY(hn_program_tensor(p, HN_MEM_INPUT, "logits.index", &ids, &c->probe.index));
    return hn_program_tensor(p, HN_MEM_INPUT, "logits.images", &probe, &c->probe.pixels);
}

static hn_status upload(hn_tensor *t, const hn_images *s)
{
    return t ? hn_tensor_write(t, 0, s->pixel, (size_t)(s->count * s->h * s->w * s->c)) : HN_OK;
}

static hn_status fill(const hn_job *j)
{
    const hn_classifier_job *c = classifier(j);
    if (c->o.batch > 0) HN_TRY(hn_vision_tables_fill(c->o.config, &c->tables));
    if (c->o.probe_images > 0) HN_TRY(hn_vision_tables_fill(c->o.config, &c->probe.tables));
    HN_TRY(upload(c->train, c->o.train));
    return upload(c->eval, c->o.eval);
}

/* Normalised images of a micro-batch; in training, augmented ones. */
static hn_status prepare(const hn_classifier_job *c, hn_graph *g, hn_tensor *pixels,
                         hn_tensor *index, bool train, hn_tensor **images)
{
    const hn_vision_config *v = c->o.config;
    const hn_augment *a = &c->o.augment;
    hn_tensor *const in[] = {pixels, index, NULL};
    hn_tensor *out[HN_MAX_OUT];
    hn_attr attr = {.prep = {.resized = train && a->resized,
                             .height = v->image,
                             .width = v->image,
                             .channels = v->channels,
                             .to = c->o.dtype,
                             .pad = train ? a->pad : 0,
                             .train = train,
                             .flip = train ? a->flip : 0,
                             .scale = {a->scale[0], a->scale[1]},
                             .ratio = {a->ratio[0], a->ratio[1]},
                             .key = hn_hash_name("image_prep")}};
    if (pixels->type.dim[3] != v->channels)
        return HN_FAIL(HN_ERR_SHAPE, "%s: images of %" PRId64 " channels, the model reads %" PRId64,
                       v->architecture, pixels->type.dim[3], v->channels);
    for (int64_t k = 0; k < v->channels; k++) {
        attr.prep.mean[k] = v->mean[k];
        attr.prep.std[k] = v->std[k];
    }
    HN_TRY(hn_emit(g, HN_OP_IMAGE_PREP, "images", in, &attr, out));
    *images = out[0];
    return HN_OK;
}

static hn_status outputs_of(const hn_classifier_job *c, const hn_job_pass *pass,
                            const hn_vision_tables *tables, hn_graph *g, hn_tensor *images,
                            hn_tensor **features, hn_tensor **logits)
{
    const hn_vision_build b = {.config = c->o.config,
                               .params = pass->params,
                               .tables = tables,
                               .frozen_norm = c->o.frozen_norm,
                               .attention = c->o.attention,
                               .recompute = pass->recompute};
    HN_TRY(hn_vision_features(&b, g, images, features));
    return hn_vision_logits(&b, g, *features, logits);
}

/* Adds the distillation of the student's logits to the loss. */
static hn_status distill(const hn_classifier_job *c, const hn_job_pass *pass, hn_graph *g,
                         hn_tensor *images, hn_tensor *logits, hn_tensor *loss)
{
    const hn_teaching *t = &c->o.distill;
    const hn_vision_build b = {.config = c->o.config,
                               .params = c->teacher,
                               .tables = &c->tables,
                               .frozen_norm = true,
                               .attention = c->o.attention};
    hn_tensor *features, *taught, *out[HN_MAX_OUT];
    HN_TRY(hn_vision_features(&b, g, images, &features));
    HN_TRY(hn_vision_logits(&b, g, features, &taught));
    hn_tensor *const in[] = {logits, taught, loss, pass->in[LABEL]};
    const hn_attr attr = {.distill = {.first_class = t->first_class,
                                      .n_classes = t->n_classes,
                                      .temperature = t->temperature,
                                      .weight = t->weight}};
    return hn_emit(g, HN_OP_DISTILL, "distill", in, &attr, out);
}

enum { PREDICTION = 5 }; /* output of class_ce */

static hn_status loss(hn_job *j, const hn_job_pass *pass, hn_graph *g, const hn_job_sums *sums)
{
    hn_classifier_job *c = (hn_classifier_job *)j;
    const bool train = hn_graph_training(g), predict = !train && c->o.predictions;
    hn_tensor *const *field = pass->in, *images = NULL, *features, *logits, *out[HN_MAX_OUT];
    hn_tensor *const whole = train ? c->train : c->eval;
    HN_TRY(prepare(c, g, whole ? whole : field[PIXEL], field[INDEX], train, &images));
    HN_TRY(outputs_of(c, pass, &c->tables, g, images, &features, &logits));
    if (train && c->teacher) HN_TRY(distill(c, pass, g, images, logits, sums->loss));
    hn_tensor *const in[] = {logits, field[LABEL], sums->loss, sums->count, sums->hits};
    const hn_attr attr = {.class_ce = {.smoothing = train ? c->o.smoothing : 0,
                                       .first_class = c->o.first_class,
                                       .n_classes = c->o.n_classes,
                                       .want_dlogits = train,
                                       .want_prediction = predict}};
    HN_TRY(hn_emit(g, HN_OP_CLASS_CE, "loss", in, &attr, out));
    if (!predict) return HN_OK;
    c->prediction = out[PREDICTION];
    hn_graph_keep(c->prediction);
    return HN_OK;
}

static hn_status probe(hn_job *j, const hn_job_pass *pass, hn_graph *g)
{
    hn_classifier_job *c = (hn_classifier_job *)j;
    hn_tensor *images = NULL;
    HN_TRY(prepare(c, g, c->probe.pixels, c->probe.index, false, &images));
    HN_TRY(outputs_of(c, pass, &c->probe.tables, g, images, &c->probe.features, &c->probe.logits));
    hn_graph_keep(c->probe.features);
    hn_graph_keep(c->probe.logits);
    return HN_OK;
}

static void empty(const hn_job *j, void *const *field)
{
    int32_t *const index = field[INDEX], *const label = field[LABEL];
    for (int64_t i = 0; i < j->rows; i++) {
        index[i] = -1;
        label[i] = HN_LABEL_IGNORED;
    }
    if (j->n_fields > PIXEL) memset(field[PIXEL], 0, hn_type_bytes(&j->field[PIXEL].type));
}

void hn_classifier_job_init(hn_classifier_job *j, const hn_classifier_options *o)
{
    const bool streams = (o->train && o->stream_train) || (o->eval && o->stream_eval);
    const hn_type ids = hn_type_1d(HN_I32, o->batch);
    *j = (hn_classifier_job){.job = {.rows = o->batch,
                                     .layers = hn_vision_layers(o->config),
                                     .hits = true,
                                     .n_fields = streams ? PIXEL + 1 : PIXEL,
                                     .field = {[INDEX] = {"image", ids}, [LABEL] = {"label", ids}},
                                     .declare = declare,
                                     .tables = tables,
                                     .fill = fill,
                                     .loss = loss,
                                     .probe = o->probe_images > 0 ? probe : NULL,
                                     .empty = empty,
                                     .release = release},
                             .o = *o};
    if (streams) j->job.field[PIXEL] = (hn_field){"pixels", pixels_type(shape_of(o), o->batch)};
}

hn_params *hn_classifier_teacher(const hn_classifier_job *j) { return j->teacher; }

hn_classifier_batch hn_classifier_batch_of(const hn_classifier_job *j, const hn_engine_input *in)
{
    return (hn_classifier_batch){in->field[INDEX], in->field[LABEL],
                                 j->job.n_fields > PIXEL ? in->field[PIXEL] : NULL};
}

hn_status hn_classifier_outputs(const hn_classifier_job *j, hn_engine *e, const uint8_t *pixels,
                                int64_t n, const hn_tensor **logits, const hn_tensor **features)
{
    const int64_t most = j->o.probe_images;
    if (n < 1 || n > most)
        return HN_FAIL(HN_ERR_ARG, "%" PRId64 " images, the probe takes 1 to %" PRId64, n, most);
    int32_t *index = hn_malloc((size_t)most * sizeof *index);
    if (index == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " numbers of images", most);
    for (int64_t i = 0; i < most; i++) index[i] = i < n ? (int32_t)i : -1;
    hn_status st = hn_tensor_write(j->probe.index, 0, index, (size_t)most * sizeof *index);
    hn_free(index);
    HN_TRY(st);
    const hn_type *t = &j->probe.pixels->type;
    HN_TRY(hn_tensor_write(j->probe.pixels, 0, pixels, (size_t)(hn_type_elements(t) / most * n)));
    HN_TRY(hn_engine_probe(e));
    if (logits) *logits = j->probe.logits;
    if (features) *features = j->probe.features;
    return HN_OK;
}
