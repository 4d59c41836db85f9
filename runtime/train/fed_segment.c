#include "runtime/train/fed_segment.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"

typedef struct {
    hn_fed_sim sim;
    hn_fed_segment_options o;
    int64_t samples;
    hn_segmenter_job job;
    hn_engine *engine;
    int32_t *sample; /* [batch] of the micro-batch that is made */
    float *value;    /* [n_values] */
} segment_sim;

/* ---- samples ---- */

int64_t hn_fed_segment_samples(const hn_patches *p, int64_t per_region)
{
    return hn_patches_regions(p)->count * per_region;
}

void hn_fed_segment_sites(const hn_patches *p, int64_t per_region, int32_t *group)
{
    const int64_t n = hn_fed_segment_samples(p, per_region);
    for (int64_t i = 0; i < n; i++) group[i] = hn_patches_regions(p)->region[i / per_region].site;
}

/* ---- a client's work ---- */

static hn_status put_batch(segment_sim *s, const hn_fed_task *t, int64_t step)
{
    hn_engine_input in;
    const int64_t voxels = hn_patches_voxels(s->o.train);
    const int64_t values = hn_patches_values(s->o.train);
    (void)hn_fed_rows(&s->o.local, t, step, s->sample);
    HN_TRY(hn_engine_batch(s->engine, &in));
    const hn_segmenter_batch b = hn_segmenter_batch_of(&in);
    for (int64_t i = 0; i < s->o.local.batch; i++) {
        float *const value = b.value + i * values;
        int32_t *const label = b.label + i * voxels;
        if (s->sample[i] < 0)
            hn_patches_padding(s->o.train, value, label);
        else
            HN_TRY(hn_patches_draw(s->o.train, s->sample[i] / s->o.per_region,
                                   hn_fed_task_seed(t->seed, step, i), value, label, NULL));
    }
    return HN_OK;
}

static hn_status check_task(const segment_sim *s, const hn_fed_task *t)
{
    if (t->n < 1 || t->steps < 1)
        return HN_FAIL(HN_ERR_ARG, "client %" PRId64 ": %" PRId64 " samples, %" PRId64 " steps",
                       t->client, t->n, t->steps);
    for (int64_t i = 0; i < t->n; i++)
        if (t->index[i] < 0 || t->index[i] >= s->samples)
            return HN_FAIL(HN_ERR_ARG, "client %" PRId64 ": sample %d of %" PRId64, t->client,
                           (int)t->index[i], s->samples);
    return HN_OK;
}

/* Reports are taken a few steps late: the host makes patches while the device computes. */
static hn_status train(segment_sim *s, const hn_fed_task *t, void *context, hn_fed_trained *out)
{
    const int64_t begun = hn_clock_ns();
    HN_TRY(check_task(s, t));
    hn_fed_loss loss = hn_fed_loss_begin(&s->o.local, t);
    HN_TRY(hn_engine_restart(s->engine, t->seed));
    for (int64_t step = 0; loss.taken < t->steps;) {
        if (step < t->steps) {
            HN_TRY(put_batch(s, t, step));
            HN_TRY(hn_engine_step(s->engine, step++, t->lr, NULL));
        }
        bool there = false;
        hn_step_report r;
        const bool wait = step == t->steps || step - loss.taken >= HN_ENGINE_AHEAD;
        HN_TRY(hn_engine_report(s->engine, wait, &there, &r));
        if (there) hn_fed_loss_add(&loss, &r);
        HN_TRY(hn_fed_moved(&s->sim, context));
    }
    *out = (hn_fed_trained){.loss = hn_fed_loss_mean(&loss),
                            .seconds = (double)(hn_clock_ns() - begun) * 1e-9};
    return HN_OK;
}

static hn_status run_round(hn_fed_sim *sim, const float *global, const hn_fed_task *task, int64_t n,
                           hn_fed_take take, void *context)
{
    segment_sim *s = (segment_sim *)sim;
    const hn_params *p = hn_engine_params(s->engine);
    if (!s->o.trains) return HN_FAIL(HN_ERR_ARG, "a round of a simulation that only measures");
    for (int64_t i = 0; i < n; i++) {
        hn_fed_trained t;
        HN_TRY(hn_fed_values_set(&s->o.local, p, global));
        HN_TRY(train(s, &task[i], context, &t));
        HN_TRY(hn_fed_values_get(&s->o.local, p, s->value));
        t.value = s->value;
        HN_TRY(hn_fed_hand_over(sim, i, 1, &t, take, context));
    }
    return HN_OK;
}

/* ---- opening ---- */

static void release(hn_fed_sim *sim)
{
    segment_sim *s = (segment_sim *)sim;
    hn_engine_free(s->engine);
    hn_free(s->sample);
    hn_free(s->value);
    hn_free(s);
}

static hn_status check_channels(const hn_seg_config *c, int64_t channels)
{
    if (channels == c->channels) return HN_OK;
    return HN_FAIL(HN_ERR_SHAPE, "volumes of %" PRId64 " channel(s) for %s, which reads %" PRId64,
                   channels, c->architecture, c->channels);
}

static hn_status check(const hn_fed_segment_options *o)
{
    HN_TRY(check_channels(o->config, hn_patches_channels(o->train)));
    const hn_fed_local *l = &o->local;
    if (l->batch < 1 || o->per_region < 1 ||
        o->per_region > INT32_MAX / hn_patches_regions(o->train)->count)
        return HN_FAIL(HN_ERR_ARG, "batches of %" PRId64 " patches, %" PRId64 " of a region",
                       l->batch, o->per_region);
    if (l->augment.pad != 0 || l->augment.flip > 0 || l->augment.resized || l->smoothing != 0 ||
        l->frozen_norm)
        return HN_FAIL(HN_ERR_ARG, "augmentation, smoothing and batch norm of images in the "
                                   "training of a segmenter");
    HN_TRY(hn_fed_check_dense(l, "segmenters"));
    if (l->fisher_images > 0)
        return HN_FAIL(HN_ERR_ARG, "a Fisher diagonal beside the training of a segmenter");
    return HN_OK;
}

static hn_status open_engine(segment_sim *s)
{
    const hn_fed_segment_options *o = &s->o;
    hn_segmenter_options job = {
        .config = o->config, .batch = o->local.batch, .terms = o->terms, .dtype = o->dtype};
    memcpy(job.patch, hn_patches_settings(o->train)->size, sizeof job.patch);
    memcpy(job.window, o->window, sizeof job.window);
    hn_segmenter_job_init(&s->job, &job);
    const hn_engine_options e = {.device = o->device,
                                 .executor = o->executor,
                                 .job = &s->job.job,
                                 .adapt = o->adapt,
                                 .dtype = o->dtype,
                                 .train = o->trains,
                                 .recompute = HN_RECOMPUTE_AUTO,
                                 .optimizer = o->local.optimizer,
                                 .anchor = {.weight = o->trains ? o->local.mu : 0},
                                 .seed = o->seed};
    HN_TRY(hn_engine_new(&e, &s->engine));
    HN_TRY(hn_engine_allocate(s->engine));
    const hn_params *p = hn_engine_params(s->engine);
    for (int64_t i = 0; i < hn_params_count(p); i++)
        HN_TRY(hn_param_init(hn_params_at(p, i), o->seed));
    s->sim.n_values = hn_fed_values_count(&s->o.local, p);
    return HN_OK;
}

hn_status hn_fed_segment_new(const hn_fed_segment_options *o, hn_fed_sim **out)
{
    HN_TRY(check(o));
    segment_sim *s = hn_calloc(1, sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for a simulation", sizeof *s);
    *s = (segment_sim){.sim = {.round = run_round, .free = release},
                       .o = *o,
                       .samples = hn_fed_segment_samples(o->train, o->per_region)};
    hn_status st = open_engine(s);
    if (st == HN_OK) {
        s->sample = hn_malloc((size_t)o->local.batch * sizeof *s->sample);
        s->value = hn_malloc((size_t)s->sim.n_values * sizeof *s->value);
        if (s->sample == NULL || s->value == NULL)
            st = HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of a client", s->sim.n_values);
    }
    if (st == HN_OK)
        *out = &s->sim;
    else
        release(&s->sim);
    return st;
}

hn_engine *hn_fed_segment_engine(const hn_fed_sim *s) { return ((const segment_sim *)s)->engine; }

/* ---- evaluation ---- */

/* A region cut out of its volume. */
typedef struct {
    float *value;
    uint8_t *want, *got;
} piece;

static void piece_free(piece *p)
{
    hn_free(p->value);
    hn_free(p->want);
    hn_free(p->got);
}

static hn_status cut(const hn_volume *v, const hn_region *r, piece *out)
{
    const size_t n = (size_t)(r->size[0] * r->size[1] * r->size[2]);
    const size_t line = (size_t)r->size[2], channels = (size_t)v->channels;
    *out = (piece){hn_malloc(n * channels * sizeof(float)), hn_malloc(n), hn_malloc(n)};
    if (out->value == NULL || out->want == NULL || out->got == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for a region of %zu voxels", n);
    for (int64_t x = 0; x < r->size[0]; x++)
        for (int64_t y = 0; y < r->size[1]; y++) {
            const size_t to = (size_t)(x * r->size[1] + y) * line;
            const int64_t from =
                ((r->at[0] + x) * v->size[1] + r->at[1] + y) * v->size[2] + r->at[2];
            memcpy(out->want + to, v->label + from, line);
            const float *value = v->value + from * v->channels;
            for (size_t z = 0; z < line * channels; z++)
                out->value[to * channels + z] =
                    r->scale[z % channels] * value[z] + r->shift[z % channels];
        }
    return HN_OK;
}

static hn_status score_region(segment_sim *s, const hn_volume *v, const hn_region *r,
                              const hn_segmenter_blend *how, int classes, hn_seg_score *score)
{
    piece p = {0};
    hn_status st = cut(v, r, &p);
    if (st == HN_OK) st = hn_segmenter_volume(&s->job, s->engine, p.value, r->size, how, p.got);
    if (st == HN_OK) st = hn_seg_metrics(p.got, p.want, r->size, v->info.voxel_mm, classes, score);
    piece_free(&p);
    return st;
}

static void summarize(const hn_seg_score *sum, int classes, int64_t regions,
                      hn_fed_segment_scores *out)
{
    *out = (hn_fed_segment_scores){0};
    for (int c = 0; c < classes; c++) {
        const int64_t all = sum[c].got + sum[c].want;
        out->dice[c] = all > 0 ? 2 * (double)sum[c].both / (double)all : 1;
        out->hd95[c] = c > 0 ? sum[c].hd95 / (double)regions : NAN;
        out->voxels += sum[c].want;
        if (c == 0) continue;
        out->mean_dice += out->dice[c] / (classes - 1);
        out->mean_hd95 += out->hd95[c] / (classes - 1);
    }
}

hn_status hn_fed_segment_measure(hn_fed_sim *sim, const hn_volumes *v, const hn_regions *r,
                                 const hn_segmenter_blend *how, int64_t i, hn_seg_score *score)
{
    segment_sim *s = (segment_sim *)sim;
    const int classes = (int)s->o.config->classes;
    if (!v->labelled || v->n_classes > classes)
        return HN_FAIL(HN_ERR_ARG, "volumes with %d classes for a network of %d", (int)v->n_classes,
                       classes);
    HN_TRY(check_channels(s->o.config, v->channels));
    if (i < 0 || i >= r->count)
        return HN_FAIL(HN_ERR_ARG, "region %" PRId64 " of %" PRId64 " to evaluate", i, r->count);
    const hn_region *p = &r->region[i];
    return score_region(s, &v->volume[p->volume], p, how, classes, score);
}

static void add(hn_seg_score *sum, const hn_seg_score *score, int classes)
{
    for (int c = 0; c < classes; c++) {
        sum[c].got += score[c].got;
        sum[c].want += score[c].want;
        sum[c].both += score[c].both;
        if (c > 0) sum[c].hd95 += score[c].hd95;
    }
}

void hn_fed_segment_score(const hn_fed_sim *sim, const hn_regions *r, const hn_seg_score *score,
                          hn_fed_segment_scores *out)
{
    const int classes = (int)((const segment_sim *)sim)->o.config->classes;
    hn_seg_score sum[HN_SEG_CLASSES] = {0};
    for (int64_t i = 0; i < r->count; i++) add(sum, score + i * classes, classes);
    summarize(sum, classes, r->count, out);
}

hn_status hn_fed_segment_evaluate(hn_fed_sim *sim, const hn_volumes *v, const hn_regions *r,
                                  const hn_segmenter_blend *how, hn_fed_segment_scores *out)
{
    const int classes = (int)((const segment_sim *)sim)->o.config->classes;
    hn_seg_score sum[HN_SEG_CLASSES] = {0};
    if (r->count < 1) return HN_FAIL(HN_ERR_ARG, "no region to evaluate");
    for (int64_t i = 0; i < r->count; i++) {
        hn_seg_score score[HN_SEG_CLASSES];
        HN_TRY(hn_fed_segment_measure(sim, v, r, how, i, score));
        add(sum, score, classes);
    }
    summarize(sum, classes, r->count, out);
    return HN_OK;
}
