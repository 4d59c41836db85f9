/* Features of all images of a domain by the encoder: made once, kept as a file. */
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/label.h"
#include "runtime/file/folder.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/few_shot_job.h"
#include "runtime/train/hyperflow_impl.h"
#include "runtime/train/signals.h"

enum { BATCH = 128 };

/* ---- the file ---- */

static hn_status load(const hn_hyperflow *r, const hn_hf_domain *d, const char *path, int64_t width,
                      float *out, bool *there)
{
    hn_st_file *f = NULL;
    *there = false;
    if (!hn_is_file(path)) return HN_OK;
    HN_TRY(hn_st_open(path, &f));
    const int64_t count = hn_image_set_view(d->images)->count;
    const char *encoder = hn_st_metadata(f, "encoder"), *images = hn_st_metadata(f, "images");
    const hn_st_tensor *t = hn_st_find(f, "features");
    hn_status st = HN_OK;
    /* Of another encoder or other images: made anew. */
    if (encoder && images && strcmp(encoder, r->encoder_digest) == 0 &&
        strcmp(images, hn_image_set_digest(d->images)) == 0) {
        if (t == NULL || t->ndim != 2 || t->dim[0] != count || t->dim[1] != width)
            st = HN_FAIL(HN_ERR_FORMAT, "%s: no features [%" PRId64 ", %" PRId64 "]", path, count,
                         width);
        else
            st = hn_st_convert(t, HN_F32, out);
        *there = st == HN_OK;
    }
    hn_st_close(f);
    return st;
}

static hn_status save(const hn_hyperflow *r, const hn_hf_domain *d, const char *path, int64_t width,
                      const float *feature)
{
    const char *const metadata[][2] = {{"format", "pt"},
                                       {"encoder", r->encoder_digest},
                                       {"images", hn_image_set_digest(d->images)}};
    const hn_st_entry entry = {.name = "features",
                               .dtype = HN_ST_F32,
                               .ndim = 2,
                               .dim = {hn_image_set_view(d->images)->count, width},
                               .data = feature};
    return hn_st_save(path, &entry, 1, metadata, 3, NULL, NULL);
}

/* ---- making them ---- */

typedef struct {
    hn_few_shot_job job;
    hn_engine *engine;
    void *row; /* of one batch, as the device has it */
} maker;

static hn_status open(const hn_hyperflow *r, const hn_images *images, maker *m)
{
    const hn_few_shot_job_options jo = {.config = &r->encoder.vision,
                                        .images = images,
                                        .replicas = 1,
                                        .support = BATCH - 1,
                                        .queries = 1,
                                        .ways = 2,
                                        .scale = 10,
                                        .dtype = r->encoder.dtype};
    HN_TRY(hn_few_shot_job_init(&m->job, &jo));
    const hn_engine_options o = {.device = r->device,
                                 .executor = hn_executor_of(r->c->executor),
                                 .job = &m->job.job,
                                 .dtype = r->encoder.dtype,
                                 .eval = true,
                                 .seed = (uint64_t)r->c->seed,
                                 .stop = hn_signals_caught};
    HN_TRY(hn_engine_new(&o, &m->engine));
    HN_TRY(hn_engine_allocate(m->engine));
    return hn_model_load(&r->encoder, hn_engine_params(m->engine), (uint64_t)r->c->seed);
}

static hn_status one_batch(maker *m, int64_t first, int64_t count, int64_t width, float *out)
{
    hn_engine_input in;
    const int64_t n = count - first < BATCH ? count - first : BATCH;
    HN_TRY(hn_engine_batch(m->engine, &in));
    const hn_few_shot_batch b = hn_few_shot_batch_of(&in);
    for (int64_t i = 0; i < BATCH; i++) {
        b.index[i] = i < n ? (int32_t)(first + i) : -1;
        b.label[i] = HN_LABEL_IGNORED;
    }
    HN_TRY(hn_engine_eval_begin(m->engine));
    HN_TRY(hn_engine_eval_batch(m->engine));
    float *all = m->row;
    HN_TRY(hn_tensor_get(m->job.features, all));
    memcpy(out + first * width, all, (size_t)(n * width) * sizeof *out);
    return HN_OK;
}

static hn_status make(const hn_hyperflow *r, const hn_hf_domain *d, int64_t width, float *out)
{
    const hn_images *v = hn_image_set_view(d->images);
    maker m = {.row = hn_malloc((size_t)(BATCH * width) * sizeof(float))};
    hn_status st = m.row ? open(r, v, &m) : HN_FAIL(HN_ERR_MEMORY, "features of %s", d->name);
    hn_progress p; /* that of the stage waits */
    hn_hyperflow_progress(r, &p, "features, image", NULL, 0, v->count);
    for (int64_t at = 0; at < v->count && st == HN_OK; at += BATCH) {
        hn_hyperflow_at(r, HN_HUB_AT_LOAD, at);
        st = hn_signals_caught() ? HN_FAIL(HN_ERR_STOPPED, "features of %s: asked to stop", d->name)
                                 : one_batch(&m, at, v->count, width, out);
        hn_progress_update(&p, at + BATCH < v->count ? at + BATCH : v->count, 0, d->name);
    }
    hn_progress_end(&p);
    hn_engine_free(m.engine);
    hn_free(m.row);
    return st;
}

static hn_status load_or_make(const hn_hyperflow *r, const hn_hf_domain *d, const char *path,
                              int64_t width, float *out)
{
    bool there;
    HN_TRY(load(r, d, path, width, out, &there));
    if (there) return HN_OK;
    HN_TRY(make(r, d, width, out));
    return save(r, d, path, width, out);
}

hn_status hn_hyperflow_features(const hn_hyperflow *r, const hn_hf_domain *d, float *out)
{
    char *dir = NULL;
    HN_TRY(hn_hyperflow_path(r, "features", &dir));
    char *path = hn_asprintf("%s/%s.safetensors", dir, d->name);
    hn_status st = path ? hn_make_dirs(dir) : HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    if (st == HN_OK) st = load_or_make(r, d, path, hn_vision_width(&r->encoder.vision), out);
    hn_free(path);
    hn_free(dir);
    return st;
}

/* st of this rank's features: a stop of one is one of all, who wait for each other here. */
static hn_status all_have(const hn_hyperflow *r, const hn_hf_domain *d, hn_status st)
{
    double stopped = st == HN_ERR_STOPPED;
    if (st != HN_OK && st != HN_ERR_STOPPED) return st;
    HN_TRY(hn_hyperflow_total(r, &stopped, 1));
    return stopped > 0 ? HN_FAIL(HN_ERR_STOPPED, "features of %s: asked to stop", d->name) : HN_OK;
}

hn_status hn_hyperflow_features_of_all(const hn_hyperflow *r, const hn_hf_domain *d, float *out)
{
    const bool leads = hn_hyperflow_leads(r);
    HN_TRY(all_have(r, d, leads ? hn_hyperflow_features(r, d, out) : HN_OK));
    return all_have(r, d, leads ? HN_OK : hn_hyperflow_features(r, d, out));
}
