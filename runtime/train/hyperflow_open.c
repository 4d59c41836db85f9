/* What all verbs begin with: options, backbone, machine, domains. */
#include <inttypes.h>
#include <omp.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/hyperflow_impl.h"
#include "runtime/train/signals.h"

static const char *or_null(const char *text) { return text && text[0] ? text : NULL; }

void hn_hyperflow_close(hn_hyperflow *r)
{
    hn_progress_end(&r->progress);
    hn_hyperflow_domains_free(r);
    json_decref(r->index);
    hn_outdir_unlock(r->lock);
    hn_free(r->out);
    hn_free(r->settings);
    hn_theta_free(&r->theta);
    hn_model_close(&r->encoder);
    hn_model_close(&r->model);
    hn_device_close(r->device);
    *r = (hn_hyperflow){0};
}

/* Of both protocols' own images: CDFSL resizes them to 1.15 sides, Meta-Dataset to 146 of 128, and
 * both cut the centre. */
static int64_t shorter_side_of(const char *protocol, int64_t side)
{
    if (strcmp(protocol, "cdfsl") == 0) return side * 115 / 100;
    return strcmp(protocol, "meta-dataset") == 0 ? (side * 146 + 64) / 128 : 0;
}

static hn_status open_model(hn_hyperflow *r)
{
    const hn_hyperflow_config *c = r->c;
    const hn_model_options o = {
        .path = c->model, .weights = or_null(c->weights), .dtype = c->dtype};
    HN_TRY(hn_model_open_as(&o, &r->log, &r->model));
    if (r->model.kind != HN_MODEL_CLASSIFIER || r->model.vision.family != HN_VISION_VIT)
        return HN_FAIL(HN_ERR_ARG, "--model %s: the biases of a vision transformer are adapted",
                       c->model);
    if (!r->model.vision.vit.qkv_bias)
        return HN_FAIL(HN_ERR_ARG, "--model %s: its attention has no biases", c->model);
    const hn_vision_override sizes = {.image = c->image_size};
    HN_TRY(hn_model_override(&r->model, &sizes, false));
    r->shorter_side = shorter_side_of(c->protocol, r->model.vision.image);
    if (r->shorter_side > 0)
        hn_info(&r->log,
                "--protocol %s: the shorter side of a folder's images becomes %" PRId64
                " pixels, and the centre of %" PRId64 " is cut",
                c->protocol, r->shorter_side, r->model.vision.image);
    return hn_model_digest(&r->model, (uint64_t)c->seed, &r->base_digest);
}

/* Every parameter of the backbone is where it is to be read from. */
static hn_status check_files(const hn_hyperflow *r)
{
    hn_params *p = NULL;
    HN_TRY(hn_params_new(NULL, &p));
    hn_status st = hn_vision_declare(&r->model.vision, p);
    if (st == HN_OK) st = hn_model_check(&r->model, p, &r->log);
    hn_params_free(p);
    return st;
}

hn_status hn_hyperflow_machine(hn_hyperflow *r)
{
    if (r->c->threads > 0) omp_set_num_threads((int)r->c->threads);
    HN_TRY(hn_device_open(hn_team_device(r->call->team, r->c->device), &r->device));
    hn_info(&r->log, "device: %s", hn_device_text(r->device));
    const bool gpu = hn_device_kind_of(r->device) == HN_DEVICE_CUDA;
    r->at_once = r->c->at_once > 0 ? r->c->at_once : gpu ? 32 : 4;
    return HN_OK;
}

static hn_hyperflow begin(const hn_verb_call *call)
{
    return (hn_hyperflow){.c = call->config, .call = call, .log = call->log, .to = call->to};
}

static hn_status open_run(const hn_verb_call *call, bool domains, hn_hyperflow *r)
{
    HN_TRY(hn_hyperflow_check_options(call));
    HN_TRY(hn_hyperflow_numbers(r->c->rates, "rates", 1e-9, 1, r->rate, &r->n_rates));
    HN_TRY(open_model(r));
    HN_TRY(check_files(r));
    HN_TRY(hn_theta_make(&r->model.vision,
                         strcmp(r->c->adapted, "qv") == 0 ? HN_THETA_QV : HN_THETA_BIASES,
                         &r->theta));
    if (domains) HN_TRY(hn_hyperflow_domains(r));
    return hn_hyperflow_machine(r);
}

hn_status hn_hyperflow_open(const hn_verb_call *call, bool domains, hn_hyperflow *r)
{
    *r = begin(call);
    HN_TRY(hn_hyperflow_one_gpu(call->config));
    return open_run(call, domains, r);
}

hn_status hn_hyperflow_open_ranks(const hn_verb_call *call, bool sums, hn_hyperflow *r)
{
    *r = begin(call);
    HN_TRY(hn_team_join(call->team));
    hn_team_at(call->team, HN_HUB_AT_LOAD, -1);
    HN_TRY(open_run(call, true, r));
    return sums ? hn_team_devices(call->team, r->device) : hn_team_places(call->team, r->device);
}

bool hn_hyperflow_must_stop(const hn_hyperflow *r, int64_t done_here)
{
    return hn_signals_caught() != 0 || (r->c->stop_after > 0 && done_here >= r->c->stop_after);
}

void hn_hyperflow_progress(const hn_hyperflow *r, hn_progress *p, const char *step,
                           const char *unit, int64_t done, int64_t total)
{
    hn_progress_config config = hn_progress_detect(stderr);
    if (!hn_hyperflow_leads(r)) config.to = NULL;
    config.step = step;
    config.unit = unit;
    config.every = total > 20 ? total / 20 : 1;
    config.every_s = 10;
    hn_progress_start(p, &config, done, total);
}
