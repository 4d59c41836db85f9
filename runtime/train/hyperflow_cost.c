#include "runtime/train/hyperflow_cost.h"

static hn_status plan_adaptor(const hn_hyperflow *r, const hn_hf_bench *b,
                              const hn_drift_config *drift, const hn_images *few, bool classifies,
                              hn_adaptor **out)
{
    const hn_adaptor_options o = {.device = r->device,
                                  .executor = hn_executor_of(r->c->executor),
                                  .drift = drift,
                                  .integrator = hn_hf_integrator(r->c),
                                  .steps = r->c->integration_steps,
                                  .episodes = 1,
                                  .support = b->sizes.support,
                                  .encoder = &r->encoder.vision,
                                  .backbone = classifies ? &r->model.vision : NULL,
                                  .theta = &r->theta,
                                  .queries = classifies ? b->sizes.query : 0,
                                  .ways = classifies ? b->sizes.way : 0,
                                  .scale = (float)r->c->scale,
                                  .offset = (float)r->c->offset,
                                  .images = few,
                                  .dtype = r->model.dtype,
                                  .workspace = HN_ADAPTOR_WORKSPACE};
    return hn_adaptor_new(&o, out);
}

hn_status hn_hf_planned_open(const hn_hyperflow *r, const hn_hf_bench *b,
                             const hn_drift_config *drift, hn_hf_planned *out)
{
    *out = (hn_hf_planned){.few = *hn_image_set_view(b->domain->images)};
    const int64_t rows = b->sizes.support + b->sizes.query;
    if (out->few.count > rows) out->few.count = rows;
    HN_TRY(plan_adaptor(r, b, drift, &out->few, false, &out->adaptor));
    HN_TRY(plan_adaptor(r, b, drift, &out->few, true, &out->whole));
    hn_few_shot_tune_options o = hn_hf_tune_options(r, b, HN_TUNE_FULL);
    o.at_once = 1;
    o.shrink = false; /* what it would take is the answer, whether the device has it or not */
    o.queries = 0;
    o.images = &out->few;
    return hn_few_shot_tuner_new(&o, &out->full);
}

void hn_hf_planned_free(hn_hf_planned *p)
{
    hn_adaptor_free(p->adaptor);
    hn_adaptor_free(p->whole);
    hn_few_shot_tuner_free(p->full);
    *p = (hn_hf_planned){.adaptor = NULL};
}

static uint64_t bytes_of(const hn_adaptor *a)
{
    hn_plan_sizes s = {0};
    hn_plan_sizes_of(hn_engine_program(hn_adaptor_engine(a)), &s);
    return s.total_bytes;
}

hn_hf_cost hn_hf_cost_of(const hn_hyperflow *r, const hn_hf_bench *b, const hn_hf_planned *p)
{
    const hn_adaptor_cost f = hn_adaptor_flops(p->whole);
    const double image = f.backbone / (double)(b->sizes.support + b->sizes.query);
    /* a step: support images twice, forward and twice as much backward */
    const double full = (double)(r->c->tune_steps * 2 * b->sizes.support) * 3 * image;
    return (hn_hf_cost){.adapt_bytes = bytes_of(p->adaptor),
                        .whole_bytes = bytes_of(p->whole),
                        .full_bytes = hn_few_shot_tuner_bytes(p->full),
                        .encoder_flops = f.encoder,
                        .drift_flops = f.drift,
                        .classify_flops = f.backbone,
                        .full_flops = full};
}
