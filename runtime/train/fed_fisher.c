#include "runtime/train/fed_fisher.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"

struct hn_fed_fisher {
    hn_fed_sim_options o;
    bool streams;
    hn_classifier_job job;
    hn_engine *engine;
    float *zero; /* of the largest parameter */
};

void hn_fed_fisher_free(hn_fed_fisher *f)
{
    if (f == NULL) return;
    hn_engine_free(f->engine);
    hn_free(f->zero);
    hn_free(f);
}

static hn_status open_engine(hn_fed_fisher *f)
{
    const hn_classifier_options co = {.config = &f->o.model->vision,
                                      .batch = 1,
                                      .train = f->o.images,
                                      .stream_train = f->streams,
                                      .frozen_norm = true,
                                      .dtype = f->o.model->dtype};
    hn_classifier_job_init(&f->job, &co);
    const hn_engine_options o = {.device = f->o.device,
                                 .executor = f->o.executor,
                                 .job = &f->job.job,
                                 .adapt = f->o.adapt,
                                 .dtype = f->o.model->dtype,
                                 .train = true,
                                 .optimizer = {.kind = HN_OPTIMIZER_SGD},
                                 .anchor = {.fisher = true},
                                 .seed = f->o.seed};
    HN_TRY(hn_engine_new(&o, &f->engine));
    HN_TRY(hn_engine_allocate(f->engine));
    return hn_model_load(f->o.model, hn_engine_params(f->engine), f->o.seed);
}

static hn_status make_zero(hn_fed_fisher *f)
{
    const hn_params *p = hn_engine_params(f->engine);
    int64_t most = 1;
    for (int64_t i = 0; i < hn_params_count(p); i++)
        if (hn_param_values(hn_params_at(p, i)) > most) most = hn_param_values(hn_params_at(p, i));
    f->zero = hn_calloc((size_t)most, sizeof *f->zero);
    return f->zero ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of a Fisher", most);
}

hn_status hn_fed_fisher_new(const hn_fed_sim_options *o, hn_fed_fisher **out)
{
    if (o->local.support != NULL)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "a Fisher diagonal of blocks (--payload sparse)");
    hn_fed_fisher *f = hn_calloc(1, sizeof *f);
    if (f == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a Fisher", sizeof *f);
    f->o = *o;
    f->streams = hn_fed_streams(o, o->images);
    hn_status st = open_engine(f);
    if (st == HN_OK) st = make_zero(f);
    if (st != HN_OK)
        hn_fed_fisher_free(f);
    else
        *out = f;
    return st;
}

/* The trained parameters, in order; read: what has been gathered, over `images`; else cleared. */
static hn_status each(hn_fed_fisher *f, bool read, int64_t images, float *h)
{
    const hn_params *p = hn_engine_params(f->engine);
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        const int64_t n = hn_param_values(q);
        if (!q->trained) continue;
        if (!read) {
            HN_TRY(hn_engine_anchor_set(f->engine, q, NULL, f->zero));
            continue;
        }
        HN_TRY(hn_engine_anchor_get(f->engine, q, NULL, h));
        for (int64_t k = 0; k < n; k++) h[k] /= (float)images;
        h += n;
    }
    return HN_OK;
}

hn_status hn_fed_fisher_of(hn_fed_fisher *f, const hn_fed_task *t, const float *value, float *h)
{
    const hn_fed_local one = {.batch = 1};
    const int64_t most = f->o.local.fisher_images, images = t->n < most ? t->n : most;
    HN_TRY(hn_fed_values_set(&f->o.local, hn_engine_params(f->engine), value));
    HN_TRY(each(f, false, 0, NULL));
    for (int64_t i = 0; i < images; i++) {
        hn_engine_input in;
        int32_t image;
        (void)hn_fed_rows(&one, t, i, &image);
        HN_TRY(hn_engine_begin(f->engine, 0));
        HN_TRY(hn_engine_batch(f->engine, &in));
        const hn_classifier_batch b = hn_classifier_batch_of(&f->job, &in);
        hn_fed_put_rows(f->o.images, f->streams, &image, 0, 1, &b);
        HN_TRY(hn_engine_micro(f->engine, 0));
        HN_TRY(hn_engine_square(f->engine));
    }
    return each(f, true, images, h);
}
