/* What an adaptor computes, recorded. */
#include <inttypes.h>
#include <string.h>

#include "kernels/hyperflow/support_context.h"
#include "kernels/loss/proto_ce.h"
#include "runtime/base/label.h"
#include "runtime/base/rng.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/adaptor_impl.h"

int64_t hn_adaptor_body_rows(const hn_adaptor_job *j)
{
    return j->o.backbone ? j->o.support + j->o.queries : j->o.support;
}

static int64_t times_of(const hn_adaptor_job *j)
{
    return j->o.steps * hn_integrator_of(j->o.integrator)->stages;
}

/* ---- tensors ---- */

static hn_status declare(const hn_job *job, hn_params *p)
{
    const hn_adaptor_job *j = (const hn_adaptor_job *)job;
    return j->o.backbone ? hn_vision_declare(&j->backbone, p) : HN_OK;
}

static hn_status state(hn_program *p, const char *name, hn_type type, hn_tensor **out)
{
    return hn_program_tensor(p, HN_MEM_STATE, name, &type, out);
}

/* A network that is frozen, beside the engine's own. */
static hn_status frozen(hn_program *p, hn_dtype dtype, const char *prefix, hn_params *params)
{
    const hn_params_options o = {.dtype = dtype, .fuse = HN_FUSE_NEVER, .prefix = prefix};
    return hn_params_create(params, p, &o);
}

static hn_status encoder_tensors(hn_adaptor_job *j, hn_program *p)
{
    const int64_t images = j->o.episodes * j->o.support;
    if (j->o.encoder == NULL) return HN_OK;
    HN_TRY(hn_params_new(NULL, &j->encoder_params));
    HN_TRY(hn_vision_declare(&j->encoder, j->encoder_params));
    HN_TRY(frozen(p, j->o.dtype, "encoder:", j->encoder_params));
    return hn_vision_tables_new(&j->encoder, p, images, &j->encoder_tables);
}

static hn_status flow_tensors(hn_adaptor_job *j, hn_program *p)
{
    const hn_drift_config *c = &j->drift;
    const int64_t rows = j->o.episodes * c->tokens, times = times_of(j);
    const hn_type z = {.dtype = HN_F32, .ndim = 2, .dim = {rows, c->token_width}};
    const hn_type theta0 = {.dtype = HN_F32, .ndim = 2, .dim = {c->tokens, c->token_width}};
    const hn_type sinusoids = {.dtype = HN_F32, .ndim = 2, .dim = {times, c->time}};
    HN_TRY(state(p, "theta_0", theta0, &j->theta0));
    HN_TRY(state(p, "sigma", hn_type_1d(HN_F32, c->tokens), &j->sigma));
    HN_TRY(state(p, "z(0)", z, &j->start));
    if (j->o.steps == 0) return HN_OK;
    HN_TRY(hn_params_new(NULL, &j->drift_params));
    HN_TRY(hn_drift_declare(c, j->drift_params));
    HN_TRY(frozen(p, j->o.dtype, NULL, j->drift_params));
    HN_TRY(hn_drift_tables_new(c, p, j->o.dtype, &j->rows, &j->drift_tables));
    HN_TRY(state(p, "times", sinusoids, &j->sinusoids));
    HN_TRY(state(p, "step length", hn_type_1d(HN_F32, rows), &j->length));
    if (j->o.dtype == HN_F32) return HN_OK;
    return state(p, "z(0), rounded", hn_type_2d(j->o.dtype, rows, c->token_width),
                 &j->rounded_start);
}

static hn_status tables(hn_job *job, hn_program *p)
{
    hn_adaptor_job *j = (hn_adaptor_job *)job;
    const hn_images *s = j->o.images;
    HN_TRY(encoder_tensors(j, p));
    HN_TRY(flow_tensors(j, p));
    if (j->o.backbone)
        HN_TRY(hn_vision_tables_new(&j->backbone, p, j->o.episodes * hn_adaptor_body_rows(j),
                                    &j->backbone_tables));
    if (s == NULL) return HN_OK;
    const hn_type type = {.dtype = HN_U8, .ndim = 4, .dim = {s->count, s->h, s->w, s->c}};
    return state(p, "images", type, &j->images);
}

static hn_status fill(const hn_job *job)
{
    const hn_adaptor_job *j = (const hn_adaptor_job *)job;
    const hn_images *s = j->o.images;
    if (j->o.steps > 0) HN_TRY(hn_drift_tables_fill(&j->drift, &j->drift_tables));
    if (j->o.encoder) HN_TRY(hn_vision_tables_fill(&j->encoder, &j->encoder_tables));
    if (j->o.backbone) HN_TRY(hn_vision_tables_fill(&j->backbone, &j->backbone_tables));
    if (s == NULL) return HN_OK;
    return hn_tensor_write(j->images, 0, s->pixel, (size_t)(s->count * s->h * s->w * s->c));
}

static void release(hn_job *job)
{
    hn_adaptor_job *j = (hn_adaptor_job *)job;
    hn_params_free(j->drift_params);
    hn_params_free(j->encoder_params);
    j->drift_params = j->encoder_params = NULL;
}

/* ---- vision networks ---- */

/* Images as evaluation sees them (few_shot_job.c), of the size that the network reads. */
static hn_status features_of(const hn_adaptor_job *j, hn_graph *g, const hn_vision_build *b,
                             const char *name, hn_tensor *index, hn_tensor **features)
{
    const hn_vision_config *v = b->config;
    hn_attr attr = {.prep = {.resized = true,
                             .height = v->image,
                             .width = v->image,
                             .channels = v->channels,
                             .to = j->o.dtype,
                             .centre = 1,
                             .key = hn_hash_name("image_prep")}};
    for (int64_t k = 0; k < v->channels; k++) {
        attr.prep.mean[k] = v->mean[k];
        attr.prep.std[k] = v->std[k];
    }
    hn_tensor *const in[] = {j->images, index, NULL};
    hn_tensor *out[HN_MAX_OUT];
    HN_TRY(hn_emit(g, HN_OP_IMAGE_PREP, name, in, &attr, out));
    return hn_vision_features(b, g, out[0], features);
}

/* Matrix products, convolutions and attention of nodes first .. end-1. */
static double products(const hn_graph *g, int64_t first, int64_t end)
{
    double sum = 0;
    for (int64_t i = first; i < end; i++) {
        const hn_node *n = hn_graph_node(g, i);
        const double rows = (double)hn_type_rows(&n->in[0]->type);
        if (n->op == HN_OP_LINEAR || n->op == HN_OP_CONV2D)
            sum += 2 * (double)hn_type_rows(&n->out[0]->type) *
                   (double)hn_type_elements(&n->in[1]->type);
        else if (n->op == HN_OP_ATTENTION)
            sum += 4 * rows * (double)n->attr.attention.longest *
                   (double)hn_type_cols(&n->in[0]->type);
    }
    return sum;
}

/* The support images' features, f32 [episodes support, features]. */
static hn_status encode(hn_adaptor_job *j, hn_graph *g, hn_tensor *const *field,
                        hn_tensor **features)
{
    const hn_vision_build b = {.config = &j->encoder,
                               .params = j->encoder_params,
                               .tables = &j->encoder_tables,
                               .frozen_norm = true,
                               .attention = j->o.attention};
    if (j->features >= 0) {
        *features = field[j->features];
        return HN_OK;
    }
    const int64_t first = hn_graph_nodes(g);
    HN_TRY(features_of(j, g, &b, "encoder.images", field[j->support_image], features));
    j->cost.encoder = products(g, first, hn_graph_nodes(g));
    return HN_OK;
}

/* ---- integration ---- */

/* What the steps of an integration share. */
typedef struct {
    const hn_adaptor_job *j;
    hn_graph *g;
    hn_drift_build build;
    hn_drift_task task;
    hn_tensor *times; /* [1, steps stages width] */
} flow;

static hn_status begin_flow(const hn_adaptor_job *j, hn_graph *g, hn_tensor *features,
                            hn_tensor *const *field, flow *f)
{
    hn_tensor *const in[] = {features, field[HN_ADAPTOR_LABEL]};
    hn_tensor *out[HN_MAX_OUT], *times;
    const hn_attr attr = {.support_context = {.episodes = j->o.episodes, .to = j->o.dtype}};
    const int64_t row[] = {1, times_of(j) * j->drift.width};
    *f = (flow){.j = j,
                .g = g,
                .build = {.config = &j->drift,
                          .params = j->drift_params,
                          .tables = &j->drift_tables,
                          .attention = j->o.attention}};
    HN_TRY(hn_emit(g, HN_OP_SUPPORT_CONTEXT, "drift.support.context", in, &attr, out));
    HN_TRY(hn_drift_task_of(&f->build, g, out[0], field[HN_ADAPTOR_OFFSETS], &f->task));
    HN_TRY(hn_drift_times(&f->build, g, j->sinusoids, &times));
    return hn_view_shape(g, times, 2, row, &f->times);
}

/* *y = z + weight h slope; *input: the same as the network reads it, NULL: not wanted. */
static hn_status move(const flow *f, hn_tensor *z, double weight, hn_tensor *slope, hn_tensor **y,
                      hn_tensor **input)
{
    const bool rounds = f->j->o.dtype != HN_F32;
    hn_tensor *const in[] = {z, slope, f->j->length};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {
        .add_scaled = {.alpha = (float)weight, .want_rounded = rounds && input != NULL}};
    HN_TRY(hn_emit(f->g, HN_OP_ADD_SCALED, "drift.step", in, &attr, out));
    *y = out[0];
    if (input != NULL) *input = rounds ? out[1] : out[0];
    return HN_OK;
}

/* Step `step` of integrate.h: *z, and *input, which the next step reads. */
static hn_status one_step(const flow *f, int64_t step, hn_tensor **z, hn_tensor **input)
{
    const hn_integrator_table *t = hn_integrator_of(f->j->o.integrator);
    const int64_t w = f->j->drift.width;
    hn_tensor *sum = *z, *at = *input, *time, *slope, *point;
    for (int i = 0; i < t->stages; i++) {
        const bool last = i + 1 == t->stages;
        HN_TRY(hn_view_columns(f->g, f->times, (step * t->stages + i) * w, w, &time));
        HN_TRY(hn_drift_slope(&f->build, f->g, &f->task, at, time, &slope));
        if (t->stage[i].b != 0)
            HN_TRY(move(f, sum, t->stage[i].b, slope, &sum, last ? input : NULL));
        if (!last) HN_TRY(move(f, *z, t->stage[i + 1].a, slope, &point, &at));
    }
    *z = sum;
    return HN_OK;
}

static hn_status integrate(hn_adaptor_job *j, hn_graph *g, hn_tensor *features,
                           hn_tensor *const *field, hn_tensor **z)
{
    flow f;
    hn_tensor *input = j->o.dtype == HN_F32 ? j->start : j->rounded_start;
    *z = j->start;
    if (j->o.steps == 0) return HN_OK;
    HN_TRY(begin_flow(j, g, features, field, &f));
    for (int64_t m = 0; m < j->o.steps; m++) HN_TRY(one_step(&f, m, z, &input));
    j->cost.drift = hn_drift_task_flops(&j->drift, &j->rows) +
                    (double)times_of(j) * hn_drift_slope_flops(&j->drift, &j->rows);
    return HN_OK;
}

/* theta_0 + sigma z. */
static hn_status theta_of(hn_adaptor_job *j, hn_graph *g, hn_tensor *z)
{
    hn_tensor *const in[] = {j->theta0, z, j->sigma};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.add_scaled = {.alpha = 1}};
    HN_TRY(hn_emit(g, HN_OP_ADD_SCALED, "theta", in, &attr, out));
    j->theta = out[0];
    hn_graph_keep(j->theta);
    return HN_OK;
}

static hn_status classify(hn_adaptor_job *j, const hn_job_pass *pass, hn_graph *g,
                          const hn_job_sums *sums)
{
    const hn_vision_build b = {.config = &j->backbone,
                               .params = pass->params,
                               .tables = &j->backbone_tables,
                               .frozen_norm = true,
                               .attention = j->o.attention};
    const int64_t first = hn_graph_nodes(g);
    hn_tensor *features, *out[HN_MAX_OUT];
    HN_TRY(hn_theta_store(j->o.theta, pass->params, g, j->theta));
    HN_TRY(features_of(j, g, &b, "images", pass->in[j->image], &features));
    j->cost.backbone = products(g, first, hn_graph_nodes(g));
    hn_tensor *const in[] = {features, pass->in[j->image + 1], sums->loss, sums->count, sums->hits};
    const hn_attr attr = {.proto_ce = {.support = j->o.support,
                                       .ways = j->o.ways,
                                       .scale = j->o.scale,
                                       .offset = j->o.offset,
                                       .want_prediction = true}};
    HN_TRY(hn_emit(g, HN_OP_PROTO_CE, "loss", in, &attr, out));
    j->prediction = out[4]; /* loss, count, hits, gradient, prediction */
    hn_graph_keep(j->prediction);
    return HN_OK;
}

static hn_status adapt(hn_job *job, const hn_job_pass *pass, hn_graph *g, const hn_job_sums *sums)
{
    hn_adaptor_job *j = (hn_adaptor_job *)job;
    hn_tensor *features = NULL, *z;
    j->cost = (hn_adaptor_cost){0};
    if (j->o.steps > 0) HN_TRY(encode(j, g, pass->in, &features));
    HN_TRY(integrate(j, g, features, pass->in, &z));
    HN_TRY(theta_of(j, g, z));
    return j->o.backbone ? classify(j, pass, g, sums) : HN_OK;
}

/* ---- fields ---- */

static void empty(const hn_job *job, void *const *field)
{
    const hn_adaptor_job *j = (const hn_adaptor_job *)job;
    int32_t *const offsets = field[HN_ADAPTOR_OFFSETS];
    for (int k = 0; k < job->n_fields; k++) {
        const hn_field *f = &job->field[k];
        const bool image = k == j->support_image || k == j->image;
        int32_t *const v = field[k];
        if (k == j->features) memset(v, 0, hn_type_bytes(&f->type));
        for (int64_t i = 0; k != j->features && i < f->type.dim[0]; i++)
            v[i] = image ? -1 : HN_LABEL_IGNORED;
    }
    for (int64_t i = 0; i <= 2 * j->o.episodes; i++) offsets[i] = (int32_t)(i / 2 * j->o.support);
}

static int add_field(hn_job *job, const char *name, hn_type type)
{
    job->field[job->n_fields] = (hn_field){name, type};
    return job->n_fields++;
}

static void add_fields(hn_adaptor_job *j)
{
    hn_job *job = &j->job;
    const int64_t support = j->o.episodes * j->o.support;
    const int64_t rows = j->o.episodes * hn_adaptor_body_rows(j);
    const hn_type features = {.dtype = HN_F32, .ndim = 2, .dim = {support, j->drift.features}};
    add_field(job, "support.label", hn_type_1d(HN_I32, support));
    add_field(job, "support.offsets", hn_type_1d(HN_I32, 2 * j->o.episodes + 1));
    j->features = j->support_image = j->image = -1;
    if (j->o.encoder)
        j->support_image = add_field(job, "support.image", hn_type_1d(HN_I32, support));
    else
        j->features = add_field(job, "support.features", features);
    if (j->o.backbone == NULL) return;
    j->image = add_field(job, "image", hn_type_1d(HN_I32, rows));
    add_field(job, "label", hn_type_1d(HN_I32, rows));
}

/* ---- what fits together ---- */

static hn_status check_network(const hn_adaptor_options *o, const hn_vision_config *c,
                               const char *what)
{
    if (o->images == NULL) return HN_FAIL(HN_ERR_ARG, "adaptor: %s without images", what);
    if (o->images->c == c->channels) return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE, "adaptor: images of %d channels, the %s reads %" PRId64,
                   o->images->c, what, c->channels);
}

static hn_status check_encoder(const hn_adaptor_options *o)
{
    if (o->encoder == NULL) return HN_OK;
    HN_TRY(check_network(o, o->encoder, "encoder"));
    if (hn_vision_width(o->encoder) == o->drift->features) return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE,
                   "adaptor: the encoder makes %" PRId64 " features, the drift network reads "
                   "%" PRId64,
                   hn_vision_width(o->encoder), o->drift->features);
}

static hn_status check_backbone(const hn_adaptor_options *o)
{
    if (o->backbone == NULL) return HN_OK;
    HN_TRY(check_network(o, o->backbone, "backbone"));
    if (o->theta == NULL || o->theta->tokens != o->drift->tokens ||
        o->theta->width != o->drift->token_width)
        return HN_FAIL(HN_ERR_SHAPE,
                       "adaptor: the backbone's biases are %" PRId64 " tokens of %" PRId64
                       ", those of the drift network %" PRId64 " of %" PRId64,
                       o->theta ? o->theta->tokens : 0, o->theta ? o->theta->width : 0,
                       o->drift->tokens, o->drift->token_width);
    if (o->queries < 1 || o->ways < 1 || o->ways > HN_PROTO_WAYS)
        return HN_FAIL(HN_ERR_SHAPE, "adaptor: %" PRId64 " queries, %" PRId64 " ways (1 to %d)",
                       o->queries, o->ways, HN_PROTO_WAYS);
    return HN_OK;
}

static hn_status check(const hn_adaptor_options *o)
{
    enum { MOST_STEPS = 10000 };
    HN_TRY(hn_drift_config_check(o->drift, "adaptor"));
    if (hn_integrator_of(o->integrator) == NULL || o->steps < 0 || o->steps > MOST_STEPS)
        return HN_FAIL(HN_ERR_ARG, "adaptor: %" PRId64 " steps (to %d) of integrator %d", o->steps,
                       MOST_STEPS, (int)o->integrator);
    if (o->episodes < 1 || o->support < 1 || o->support > HN_SUPPORT_ROWS)
        return HN_FAIL(HN_ERR_SHAPE,
                       "adaptor: %" PRId64 " episodes of %" PRId64 " support rows (1 to %d)",
                       o->episodes, o->support, HN_SUPPORT_ROWS);
    HN_TRY(check_encoder(o));
    return check_backbone(o);
}

hn_status hn_adaptor_job_init(hn_adaptor_job *j)
{
    const hn_adaptor_options *o = &j->o;
    HN_TRY(check(o));
    j->drift = *o->drift;
    if (o->encoder) j->encoder = *o->encoder;
    if (o->backbone) j->backbone = *o->backbone;
    j->encoder.classes = j->backbone.classes = 0;
    j->rows = (hn_drift_rows){.tasks = o->episodes, .support = o->support, .points = 1};
    j->job = (hn_job){.rows = o->episodes * hn_adaptor_body_rows(j),
                      .hits = o->backbone != NULL,
                      .declare = declare,
                      .tables = tables,
                      .fill = fill,
                      .loss = adapt,
                      .empty = empty,
                      .release = release};
    add_fields(j);
    return HN_OK;
}
