#include "runtime/train/adaptor.h"

#include <inttypes.h>
#include <string.h>

#include "kernels/loss/proto_ce.h"
#include "runtime/base/alloc.h"
#include "runtime/base/label.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/adaptor_impl.h"

struct hn_adaptor {
    hn_adaptor_job job;
    hn_adapt adapt; /* of the backbone */
    hn_engine *engine;
};

static hn_status make_engine(hn_adaptor *a)
{
    const hn_adaptor_options *o = &a->job.o;
    HN_TRY(hn_adaptor_job_init(&a->job));
    if (o->backbone) a->adapt = hn_theta_given(o->theta);
    const hn_engine_options e = {.device = o->device,
                                 .executor = o->executor,
                                 .job = &a->job.job,
                                 .adapt = o->backbone ? &a->adapt : NULL,
                                 .dtype = o->dtype,
                                 .eval = true,
                                 .replicas = o->backbone ? o->episodes : 1,
                                 .memory = o->memory,
                                 .workspace = o->workspace,
                                 .stop = o->stop};
    return hn_engine_new(&e, &a->engine);
}

hn_status hn_adaptor_new(const hn_adaptor_options *o, hn_adaptor **out)
{
    hn_adaptor *a = hn_calloc(1, sizeof *a);
    if (a == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for an adaptor", sizeof *a);
    a->job.o = *o;
    const hn_status st = make_engine(a);
    if (st != HN_OK)
        hn_adaptor_free(a);
    else
        *out = a;
    return st;
}

void hn_adaptor_free(hn_adaptor *a)
{
    if (a == NULL) return;
    hn_engine_free(a->engine);
    hn_free(a);
}

char *hn_adaptor_plan_text(const hn_adaptor *a) { return hn_engine_plan_text(a->engine); }
hn_params *hn_adaptor_drift(const hn_adaptor *a) { return a->job.drift_params; }
hn_params *hn_adaptor_encoder(const hn_adaptor *a) { return a->job.encoder_params; }
hn_engine *hn_adaptor_engine(const hn_adaptor *a) { return a->engine; }
hn_adaptor_cost hn_adaptor_flops(const hn_adaptor *a) { return a->job.cost; }

hn_params *hn_adaptor_backbone(const hn_adaptor *a)
{
    return a->job.o.backbone ? hn_engine_params(a->engine) : NULL;
}

hn_status hn_adaptor_allocate(hn_adaptor *a)
{
    HN_TRY(hn_engine_allocate(a->engine));
    return hn_adaptor_set_stop(a, 1);
}

hn_status hn_adaptor_set_theta(hn_adaptor *a, const float *theta0, const float *sigma)
{
    HN_TRY(hn_tensor_set(a->job.theta0, theta0));
    return hn_tensor_set(a->job.sigma, sigma);
}

/* The length of a step in every row, and the sinusoids of all times, into host memory. */
static void times_to(const hn_adaptor_job *j, double stop, float *length, float *sinusoids)
{
    const hn_integrator_table *t = hn_integrator_of(j->o.integrator);
    const double h = stop / (double)j->o.steps;
    for (int64_t i = 0; i < j->o.episodes * j->drift.tokens; i++) length[i] = (float)h;
    for (int64_t m = 0; m < j->o.steps; m++)
        for (int i = 0; i < t->stages; i++, sinusoids += j->drift.time)
            hn_drift_time_row(&j->drift, stop * (double)m / (double)j->o.steps + h * t->stage[i].c,
                              sinusoids);
}

hn_status hn_adaptor_set_stop(hn_adaptor *a, double stop)
{
    const hn_adaptor_job *j = &a->job;
    if (!(stop >= 0 && stop <= 1)) return HN_FAIL(HN_ERR_ARG, "stop time %g, must be 0 to 1", stop);
    if (j->o.steps == 0) return HN_OK;
    const int64_t rows = hn_type_elements(&j->length->type);
    float *v = hn_malloc((size_t)(rows + hn_type_elements(&j->sinusoids->type)) * sizeof *v);
    if (v == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the times of an integration");
    times_to(j, stop, v, v + rows);
    hn_status st = hn_tensor_set(j->length, v);
    if (st == HN_OK) st = hn_tensor_set(j->sinusoids, v + rows);
    hn_free(v);
    return st;
}

/* ---- a run ---- */

hn_status hn_adaptor_batch_of(hn_adaptor *a, hn_adaptor_batch *out)
{
    const hn_adaptor_job *j = &a->job;
    hn_engine_input in;
    HN_TRY(hn_engine_batch(a->engine, &in));
    j->job.empty(&j->job, in.field);
    *out = (hn_adaptor_batch){.support_label = in.field[HN_ADAPTOR_LABEL],
                              .offsets = in.field[HN_ADAPTOR_OFFSETS]};
    if (j->features >= 0) out->features = in.field[j->features];
    if (j->support_image >= 0) out->support_image = in.field[j->support_image];
    if (j->image >= 0) out->image = in.field[j->image];
    if (j->image >= 0) out->label = in.field[j->image + 1];
    return HN_OK;
}

static hn_status check_task(const hn_adaptor_job *j, int64_t e, const hn_adaptor_task *t)
{
    const bool backbone = j->o.backbone != NULL;
    const int64_t queries = backbone ? j->o.queries : 0;
    if (e < 0 || e >= j->o.episodes || t->n_support < 0 || t->n_support > j->o.support ||
        t->n_query < 0 || t->n_query > queries)
        return HN_FAIL(HN_ERR_ARG,
                       "adaptor: task %" PRId64 " of %" PRId64 ": %" PRId64
                       " support images (to %" PRId64 ") and %" PRId64 " queries (to %" PRId64 ")",
                       e, j->o.episodes, t->n_support, j->o.support, t->n_query, queries);
    if ((j->features >= 0 && j->o.steps > 0 && t->features == NULL) ||
        ((j->support_image >= 0 || backbone) && t->support == NULL) ||
        (t->n_query > 0 && t->query == NULL) || t->support_label == NULL)
        return HN_FAIL(HN_ERR_ARG, "adaptor: task %" PRId64 " without images, labels or features",
                       e);
    return HN_OK;
}

/* Support and queries, one behind the other with padding between, for the backbone. */
static void put_images(const hn_adaptor_job *j, const hn_adaptor_batch *b, int64_t e,
                       const hn_adaptor_task *t)
{
    int32_t *const image = b->image + e * hn_adaptor_body_rows(j);
    int32_t *const label = b->label + e * hn_adaptor_body_rows(j);
    memcpy(image, t->support, (size_t)t->n_support * sizeof *image);
    memcpy(label, t->support_label, (size_t)t->n_support * sizeof *label);
    for (int64_t i = 0; i < t->n_query; i++) {
        image[j->o.support + i] = t->query[i];
        label[j->o.support + i] = t->query_label ? t->query_label[i] : HN_PROTO_UNLABELLED;
    }
}

hn_status hn_adaptor_put(const hn_adaptor *a, const hn_adaptor_batch *b, int64_t e,
                         const hn_adaptor_task *t)
{
    const hn_adaptor_job *j = &a->job;
    HN_TRY(check_task(j, e, t));
    const int64_t row = e * j->o.support, width = j->drift.features;
    const size_t bytes = (size_t)t->n_support * sizeof(int32_t);
    memcpy(b->support_label + row, t->support_label, bytes);
    b->offsets[2 * e + 1] = (int32_t)(row + t->n_support);
    if (b->features && t->features)
        memcpy(b->features + row * width, t->features,
               (size_t)(t->n_support * width) * sizeof *t->features);
    if (b->support_image) memcpy(b->support_image + row, t->support, bytes);
    if (b->image) put_images(j, b, e, t);
    return HN_OK;
}

hn_status hn_adaptor_run(hn_adaptor *a)
{
    if (a->job.o.backbone) HN_TRY(hn_engine_eval_begin(a->engine));
    return hn_engine_eval_batch(a->engine);
}

hn_status hn_adaptor_theta(hn_adaptor *a, float *theta)
{
    return hn_tensor_get(a->job.theta, theta);
}

static hn_status need_backbone(const hn_adaptor *a)
{
    return a->job.o.backbone ? HN_OK : HN_FAIL(HN_ERR_ARG, "an adaptor without a backbone");
}

hn_status hn_adaptor_sums(hn_adaptor *a, hn_eval_sums *out)
{
    HN_TRY(need_backbone(a));
    return hn_engine_eval_sums(a->engine, out);
}

hn_status hn_adaptor_predictions(hn_adaptor *a, int32_t *out)
{
    HN_TRY(need_backbone(a));
    const hn_tensor *t = a->job.prediction;
    return hn_tensor_read(t, 0, out, hn_type_bytes(&t->type));
}
