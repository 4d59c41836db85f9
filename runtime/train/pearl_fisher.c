/* The Fisher information that holds a body where it is: online elastic weight consolidation
 * (Schwarz et al., 2018), F = decay F + mean over images of (d log p(y | x) / d theta)^2, labels of
 * the data for y (the empirical Fisher), one image at a time and batch norm by its running values.
 * Ranks have every image of their number among them, and their sums are added up. */
#include <inttypes.h>

#include "runtime/base/alloc.h"
#include "runtime/train/image_feed.h"
#include "runtime/train/pearl_impl.h"

typedef struct {
    hn_vision_config config;
    hn_image_view view;
    hn_image_loader *loader;
    hn_classifier_job job;
    hn_engine *engine;
    hn_feed *feed;
    int64_t images;
} fisher;

static hn_adapt_kind everything(const void *context, const char *name)
{
    (void)context, (void)name;
    return HN_ADAPT_FULL;
}

static hn_status open_fisher(hn_pearl *r, int task, fisher *f)
{
    static const hn_adapt all = {.parameter = everything};
    HN_TRY(hn_pearl_sizes(r, hn_pearl_classes(r, task), &f->config));
    HN_TRY(hn_task_view_make(r->stream, r->train, task, task + 1, HN_LABELS_TASK, &f->view));
    const hn_image_loader_options lo = {
        .batch = 1, .seed = hn_pearl_seed(r, task, 0), .world = 1, .shuffle = true};
    HN_TRY(hn_image_loader_open(r->train, &f->view, &lo, &f->loader));
    const hn_classifier_options co = {.config = &f->config,
                                      .batch = 1,
                                      .train = hn_image_set_view(r->train),
                                      .stream_train = true,
                                      .frozen_norm = true,
                                      .dtype = r->model.dtype};
    hn_classifier_job_init(&f->job, &co);
    const hn_engine_options o = {.device = r->device,
                                 .executor = hn_executor_of(r->c->executor),
                                 .job = &f->job.job,
                                 .adapt = &all,
                                 .dtype = r->model.dtype,
                                 .train = true,
                                 .alone = true,
                                 .optimizer = {.kind = HN_OPTIMIZER_SGD},
                                 .anchor = {.weight = 1, .fisher = true},
                                 .seed = (uint64_t)r->c->seed};
    HN_TRY(hn_engine_new(&o, &f->engine));
    HN_TRY(hn_engine_allocate(f->engine));
    HN_TRY(hn_image_feed_new(f->loader, &f->job, &f->feed));
    f->images = f->view.n < r->c->ewc_images ? f->view.n : r->c->ewc_images;
    return HN_OK;
}

static hn_status gather(const hn_team *team, fisher *f)
{
    hn_team_looks looks = {0};
    bool asked = false;
    for (int64_t first = 0; first < f->images; first += hn_team_size(team)) {
        const int64_t i = first + team->ranks.rank;
        hn_engine_input in;
        int64_t units = 0;
        hn_team_at(team, HN_HUB_AT_EVALUATE, i);
        HN_TRY(hn_team_asked(team, &looks, &asked));
        if (asked) return HN_FAIL(HN_ERR_STOPPED, "asked to stop in the Fisher information");
        if (i >= f->images) break; /* others have one more */
        HN_TRY(hn_engine_begin(f->engine, 0));
        HN_TRY(hn_engine_batch(f->engine, &in));
        HN_TRY(f->feed->fill(f->feed, i, &in, &units));
        HN_TRY(hn_engine_micro(f->engine, 0));
        HN_TRY(hn_engine_square(f->engine));
    }
    return HN_OK;
}

static hn_status sum_over_ranks(hn_hub *hub, hn_value *v)
{
    double *sum = hn_malloc((size_t)v->n * sizeof *sum);
    if (sum == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " sums of %s", v->n, v->name);
    for (int64_t j = 0; j < v->n; j++) sum[j] = (double)v->v[j];
    const hn_status st = hn_hub_sum_f64(hub, sum, v->n);
    for (int64_t j = 0; j < v->n; j++) v->v[j] = (float)sum[j];
    hn_free(sum);
    return st;
}

/* *out gets decay * before + the mean of what was gathered. */
static hn_status add_up(const hn_pearl *r, const fisher *f, const hn_values *before, hn_values *out)
{
    const hn_params *p = hn_engine_params(f->engine);
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        hn_value *to = NULL;
        if (!q->trained || hn_pearl_find(r, q->name)->role == HN_ROLE_HEAD) continue;
        HN_TRY(hn_values_add(out, q->name, q->file_ndim, q->file_dim, &to));
        HN_TRY(hn_engine_anchor_get(f->engine, q, NULL, to->v));
        if (r->team->hub != NULL) HN_TRY(sum_over_ranks(r->team->hub, to));
        const hn_value *old = before ? hn_values_find(before, q->name) : NULL;
        for (int64_t j = 0; j < to->n; j++) {
            const double mean = (double)to->v[j] / (double)f->images;
            to->v[j] = (float)(mean + (old ? r->c->ewc_decay * (double)old->v[j] : 0));
        }
    }
    return HN_OK;
}

hn_status hn_pearl_fisher(hn_pearl *r, int task, const hn_values *network, const hn_values *before,
                          hn_values *out)
{
    fisher f = {0};
    hn_status st = open_fisher(r, task, &f);
    const hn_params *p = st == HN_OK ? hn_engine_params(f.engine) : NULL;
    for (int64_t i = 0; st == HN_OK && i < hn_params_count(p); i++)
        st = hn_values_write(network, hn_params_at(p, i));
    if (st == HN_OK) st = gather(r->team, &f);
    if (st == HN_OK) st = add_up(r, &f, before, out);
    hn_feed_free(f.feed);
    hn_engine_free(f.engine);
    hn_image_loader_free(f.loader);
    hn_image_view_free(&f.view);
    return st;
}
