/* Accuracies of all tasks so far. The engine makes features; heads are applied here, in fp64 sums
 * on their fp32 values, so one engine serves heads of all widths.
 *
 * What the network of task j makes of the images of task i stays, where records are isolated: only
 * what is new is computed, and each network's logits of its own images once more, to see that they
 * have not changed. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/clock.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/pearl_impl.h"

enum { BATCH = 128 };

typedef struct hn_pearl_eval {
    hn_classifier_job job;
    hn_engine *engine;
    hn_image_view *view; /* [tasks] held-out images */
    int n_views;
    float **logits;   /* [tasks (network), tasks (images)]: [images, classes]; NULL: not yet */
    bool *known;      /* [tasks, tasks] which of them were made, on rank 0 */
    float **features; /* [tasks]: of the reference, for prototypes */
    int tasks;
    float *some;    /* features of a batch */
    uint8_t *pixel; /* and its images */
} evaluation;

void hn_pearl_eval_close(struct hn_pearl_eval *e)
{
    if (e == NULL) return;
    for (int i = 0; e->logits && i < e->tasks * e->tasks; i++) hn_free(e->logits[i]);
    for (int i = 0; e->features && i < e->tasks; i++) hn_free(e->features[i]);
    for (int i = 0; e->view && i < e->n_views; i++) hn_image_view_free(&e->view[i]);
    hn_free(e->logits);
    hn_free(e->known);
    hn_free(e->features);
    hn_free(e->view);
    hn_free(e->some);
    hn_free(e->pixel);
    hn_engine_free(e->engine);
    hn_free(e);
}

static hn_status take_memory(const hn_pearl *r, evaluation *e)
{
    const hn_vision_config *v = &r->model.vision;
    const size_t t = (size_t)r->tasks;
    e->tasks = r->tasks;
    e->logits = hn_calloc(t * t, sizeof *e->logits);
    e->known = hn_calloc(t * t, sizeof *e->known);
    e->features = hn_calloc(t, sizeof *e->features);
    e->view = hn_calloc(t, sizeof *e->view);
    e->pixel = hn_malloc((size_t)(BATCH * v->image * v->image * v->channels));
    e->some = hn_malloc((size_t)(BATCH * r->width) * sizeof *e->some);
    if (!e->logits || !e->known || !e->features || !e->view || !e->pixel || !e->some)
        return HN_FAIL(HN_ERR_MEMORY, "no memory to evaluate %d tasks", r->tasks);
    for (; e->n_views < r->tasks; e->n_views++)
        HN_TRY(hn_task_view_make(r->stream, r->eval, e->n_views, e->n_views + 1, HN_LABELS_TASK,
                                 &e->view[e->n_views]));
    return HN_OK;
}

static hn_status open_engine(hn_pearl *r, evaluation *e)
{
    const hn_classifier_options co = {
        .config = &r->model.vision, .dtype = r->model.dtype, .probe_images = BATCH};
    hn_classifier_job_init(&e->job, &co);
    const hn_engine_options o = {.device = r->device,
                                 .executor = hn_executor_of(r->c->executor),
                                 .job = &e->job.job,
                                 .dtype = r->model.dtype};
    HN_TRY(hn_engine_new(&o, &e->engine));
    return hn_engine_allocate(e->engine);
}

static hn_status open(hn_pearl *r)
{
    if (r->evaluation != NULL) return HN_OK;
    evaluation *e = r->evaluation = hn_calloc(1, sizeof *e);
    if (e == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to evaluate");
    HN_TRY(take_memory(r, e));
    return open_engine(r, e);
}

/* ---- features ---- */

static hn_status load(hn_pearl *r, const hn_values *body)
{
    const hn_params *p = hn_engine_params(r->evaluation->engine);
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (hn_pearl_find(r, q->name)->role != HN_ROLE_HEAD) HN_TRY(hn_values_write(body, q));
    }
    return HN_OK;
}

/* The engine becomes the network of a task, from 1. (Prototypes are of the reference itself.) */
static hn_status become(hn_pearl *r, int64_t task)
{
    hn_values body = {0};
    hn_status st = hn_pearl_network(r, task, &body);
    if (st == HN_OK) st = load(r, &body);
    hn_values_free(&body);
    return st;
}

static hn_status run_batch(hn_pearl *r, const hn_image_set *set, const hn_image_view *view,
                           int64_t first, float *features)
{
    evaluation *e = r->evaluation;
    const hn_images *s = hn_image_set_view(set);
    const size_t bytes = (size_t)(s->h * s->w * s->c);
    const int64_t n = view->n - first < BATCH ? view->n - first : BATCH;
    const hn_tensor *out = NULL;
    for (int64_t i = 0; i < n; i++)
        memcpy(e->pixel + (size_t)i * bytes, s->pixel + (size_t)view->index[first + i] * bytes,
               bytes);
    HN_TRY(hn_classifier_outputs(&e->job, e->engine, e->pixel, n, NULL, &out));
    HN_TRY(hn_tensor_get(out, e->some));
    memcpy(features, e->some, (size_t)(n * r->width) * sizeof *features);
    return HN_OK;
}

/* Features of the images of a view, [n, width] in fresh memory. Ranks have a range of whole batches
 * each: the bits of one rank. Errors: HN_ERR_STOPPED, on all ranks: a signal has come to one */
static hn_status features_of(hn_pearl *r, const hn_image_set *set, const hn_image_view *view,
                             float **out)
{
    const int64_t ranks = hn_team_size(r->team), batches = (view->n + BATCH - 1) / BATCH,
                  own = (batches + ranks - 1) / ranks * BATCH, first = r->team->ranks.rank * own;
    hn_team_looks looks = {0};
    bool asked = false;
    float *all = hn_calloc((size_t)(ranks * own * r->width), sizeof *all);
    hn_status st = all ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "features of %" PRId64 " images", view->n);
    for (int64_t at = first; st == HN_OK && at < first + own; at += BATCH) {
        hn_team_at(r->team, HN_HUB_AT_EVALUATE, at / BATCH);
        st = hn_team_asked(r->team, &looks, &asked);
        if (st == HN_OK && asked) st = HN_FAIL(HN_ERR_STOPPED, "asked to stop in an evaluation");
        if (st == HN_OK && at < view->n) /* else others have one more */
            st = run_batch(r, set, view, at, all + at * r->width);
    }
    if (st == HN_OK && r->team->hub != NULL)
        st = hn_hub_gather(r->team->hub, all + first * r->width,
                           (size_t)(own * r->width) * sizeof *all, all);
    if (st == HN_OK)
        *out = all;
    else
        hn_free(all);
    return st;
}

/* head: weight [classes, width], then the bias */
static void apply_head(const float *head, int64_t classes, int64_t width, const float *features,
                       int64_t images, float *logits)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < images; i++)
        for (int64_t k = 0; k < classes; k++) {
            double sum = (double)head[classes * width + k];
            for (int64_t j = 0; j < width; j++)
                sum += (double)head[k * width + j] * (double)features[i * width + j];
            logits[i * classes + k] = (float)sum;
        }
}

/* Logits of task `network` (from 0) for images of which these are its features. */
static hn_status logits_of(hn_pearl *r, int network, const float *features, int64_t images,
                           float **out)
{
    const int64_t classes = hn_pearl_classes(r, network);
    float *head = NULL, *logits = hn_malloc((size_t)(images * classes) * sizeof *logits);
    if (logits == NULL) return HN_FAIL(HN_ERR_MEMORY, "logits of %" PRId64 " images", images);
    const hn_status st = hn_pearl_head(r, network, &head);
    if (st == HN_OK) apply_head(head, classes, r->width, features, images, logits);
    hn_free(head);
    if (st != HN_OK) {
        hn_free(logits);
        return st;
    }
    hn_free(*out);
    *out = logits;
    return HN_OK;
}

/* ---- prototypes ---- */

typedef struct {
    double *sum, *square; /* [classes, width] */
    int64_t *count;       /* [classes] */
    int64_t width;
} moments;

static void add_moments(const moments *m, int64_t class, const float *features)
{
    m->count[class]++;
    for (int64_t j = 0; j < m->width; j++) {
        const double f = (double)features[j];
        m->sum[class * m->width + j] += f;
        m->square[class * m->width + j] += f * f;
    }
}

/* Mean of each class; variance within classes, over all of them. */
static hn_status settle(const moments *m, int64_t classes, hn_pearl_record *k)
{
    k->mean = hn_calloc((size_t)(classes * m->width), sizeof *k->mean);
    k->variance = hn_calloc((size_t)m->width, sizeof *k->variance);
    if (!k->mean || !k->variance) return HN_FAIL(HN_ERR_MEMORY, "prototypes");
    for (int64_t j = 0; j < m->width; j++) {
        double within = 0;
        for (int64_t c = 0; c < classes; c++) {
            const int64_t at = c * m->width + j;
            const double n = m->count[c] > 0 ? (double)m->count[c] : 1, mean = m->sum[at] / n;
            k->mean[at] = (float)mean;
            within += m->square[at] - n * mean * mean;
        }
        k->variance[j] = (float)(within > 0 ? within / (double)k->images : 0);
    }
    return HN_OK;
}

hn_status hn_pearl_prototypes(hn_pearl *r, int task)
{
    const int64_t classes = hn_pearl_classes(r, task);
    const size_t n = (size_t)(classes * r->width);
    hn_pearl_record *k = &r->record[task];
    hn_image_view view = {0};
    moments m = {.width = r->width};
    float *features = NULL;
    HN_TRY(open(r));
    HN_TRY(load(r, &r->reference));
    hn_status st = hn_task_view_make(r->stream, r->train, task, task + 1, HN_LABELS_TASK, &view);
    m.sum = hn_calloc(n, sizeof *m.sum);
    m.square = hn_calloc(n, sizeof *m.square);
    m.count = hn_calloc((size_t)classes, sizeof *m.count);
    if (st == HN_OK && (!m.sum || !m.square || !m.count))
        st = HN_FAIL(HN_ERR_MEMORY, "prototypes of %" PRId64 " classes", classes);
    if (st == HN_OK) st = features_of(r, r->train, &view, &features);
    for (int64_t i = 0; st == HN_OK && i < view.n; i++)
        add_moments(&m, view.label[i], features + i * r->width);
    k->images = view.n;
    if (st == HN_OK) st = settle(&m, classes, k);
    hn_free(m.sum);
    hn_free(m.square);
    hn_free(m.count);
    hn_free(features);
    hn_image_view_free(&view);
    return st;
}

/* Features of the held-out images of tasks that have none yet, as the reference sees them. */
static hn_status reference_features(hn_pearl *r, int task)
{
    evaluation *e = r->evaluation;
    bool ready = false;
    for (int t = 0; t <= task; t++) {
        if (e->features[t] != NULL) continue;
        if (!ready) HN_TRY(load(r, &r->reference));
        ready = true;
        HN_TRY(features_of(r, r->eval, &e->view[t], &e->features[t]));
    }
    return HN_OK;
}

/* ---- logits of all networks ---- */

static hn_status digest_of(const hn_pearl *r, int task, char hex[HN_SHA256_HEX])
{
    const evaluation *e = r->evaluation;
    const int64_t n = e->view[task].n * hn_pearl_classes(r, task);
    return hn_sha256(e->logits[task * e->tasks + task], (size_t)n * sizeof(float), hex);
}

/* Isolated networks stay as they are: of each what is not known yet, and its own task once more. */
static bool is_fixed(const hn_pearl *r) { return r->isolated && r->norm != HN_NORM_SHARED; }

/* What networks first .. last (from 0), which have one body, make of the images of a task. */
static hn_status run_images(hn_pearl *r, int first, int last, int images)
{
    evaluation *e = r->evaluation;
    const hn_image_view *view = &e->view[images];
    float *features = NULL;
    hn_status st = features_of(r, r->eval, view, &features);
    for (int t = first; st == HN_OK && t <= last; t++) {
        e->known[t * e->tasks + images] = true;
        if (hn_pearl_leads(r))
            st = logits_of(r, t, features, view->n, &e->logits[t * e->tasks + images]);
    }
    hn_free(features);
    return st;
}

static hn_status run_networks(hn_pearl *r, int task)
{
    const evaluation *e = r->evaluation;
    const bool all = r->n_choosers > 0; /* they look at all networks */
    for (int t = 0; t <= task; t++) {
        if (r->isolated || t == 0) HN_TRY(become(r, t + 1));
        for (int i = 0; i <= task; i++) {
            if (!r->isolated && t == 0) HN_TRY(run_images(r, 0, task, i));
            if (!r->isolated) continue;
            const bool known = is_fixed(r) && e->known[t * e->tasks + i];
            if (i == t || (all && !known)) HN_TRY(run_images(r, t, t, i));
        }
    }
    return HN_OK;
}

/* What the record of a task has for the bits of its logits; NULL: nothing that could be compared,
 * as on another machine. */
static const char *recorded_digest(const hn_pearl *r, int task)
{
    const json_t *record = r->record[task].json, *list = json_object_get(record, "logits_sha256");
    const char *machine = json_string_value(json_object_get(record, "device"));
    if (!is_fixed(r) || r->only_compares || machine == NULL) return NULL;
    if (strcmp(machine, hn_pearl_machine(r)) != 0) {
        hn_warn(&r->log, "task %d was learned on another device (%s): its logits are not compared",
                task + 1, machine);
        return NULL;
    }
    return json_string_value(json_array_get(list, (size_t)task));
}

/* Forgetting is impossible where nothing is changed: a difference is a mistake of ours. */
static hn_status check_digests(const hn_pearl *r, int task, json_t *digests)
{
    char hex[HN_SHA256_HEX];
    for (int t = 0; t <= task; t++) {
        HN_TRY(digest_of(r, t, hex));
        const char *old = recorded_digest(r, t);
        if (old != NULL && strcmp(hex, old) != 0)
            return HN_FAIL(HN_ERR_NUMERIC,
                           "task %d: its logits after task %d are not those it had when it was "
                           "learned (SHA-256 %s, then %s)",
                           t + 1, task + 1, hex, old);
        if (json_array_append_new(digests, json_string(hex)) != 0)
            return HN_FAIL(HN_ERR_MEMORY, "no memory for digests");
    }
    return HN_OK;
}

/* ---- accuracies ---- */

static hn_status task_accuracies(hn_pearl *r, int task)
{
    const evaluation *e = r->evaluation;
    for (int t = 0; t <= task; t++) {
        const hn_image_view *v = &e->view[t];
        const int64_t n = hn_pearl_classes(r, t);
        const float *z = e->logits[t * e->tasks + t];
        int64_t hits = 0;
        for (int64_t i = 0; i < v->n; i++) hits += hn_choose_class(z + i * n, n) == v->label[i];
        HN_TRY(hn_cl_put(r->accuracy, task + 1, t + 1, (double)hits / (double)v->n));
    }
    return HN_OK;
}

/* Variance within classes, over all tasks so far. */
static void shared_variance(const hn_pearl *r, int task, double *variance)
{
    int64_t images = 0;
    for (int t = 0; t <= task; t++) images += r->record[t].images;
    for (int64_t j = 0; j < r->width; j++) {
        variance[j] = 0;
        for (int t = 0; t <= task; t++)
            variance[j] += (double)r->record[t].variance[j] * (double)r->record[t].images;
        variance[j] /= (double)images;
    }
}

/* Arrays over the tasks so far. */
typedef struct {
    const float **logits, **mean;
    int64_t *classes;
    double *variance;
} choice;

static int chosen_task(const hn_pearl *r, hn_chooser c, const choice *w, int task, int images,
                       int64_t image)
{
    const evaluation *e = r->evaluation;
    for (int t = 0; t <= task; t++)
        w->logits[t] = e->logits[t * e->tasks + images] + image * w->classes[t];
    if (c != HN_CHOOSE_PROTOTYPE) return hn_choose_task(c, w->logits, w->classes, task + 1);
    const float *f = e->features[images] + image * r->width;
    return hn_choose_nearest(f, w->mean, w->classes, task + 1, w->variance, r->width);
}

/* Right where the class that the chosen task's network names is the image's: with repeated classes
 * another task may know it, too. */
static hn_status chosen_accuracies(hn_pearl *r, int k, int task, const choice *w)
{
    const evaluation *e = r->evaluation;
    for (int i = 0; i <= task; i++) {
        const int32_t *own, *named;
        (void)hn_task_stream_classes(r->stream, i, &own);
        int64_t hits = 0;
        for (int64_t at = 0; at < e->view[i].n; at++) {
            const int t = chosen_task(r, r->chooser[k], w, task, i, at);
            (void)hn_task_stream_classes(r->stream, t, &named);
            hits +=
                named[hn_choose_class(w->logits[t], w->classes[t])] == own[e->view[i].label[at]];
        }
        HN_TRY(hn_cl_put(r->chosen[k], task + 1, i + 1, (double)hits / (double)e->view[i].n));
    }
    return HN_OK;
}

static bool has_prototypes(const hn_pearl *r)
{
    for (int i = 0; i < r->n_choosers; i++)
        if (r->chooser[i] == HN_CHOOSE_PROTOTYPE) return true;
    return false;
}

static hn_status choose_tasks(hn_pearl *r, int task)
{
    const size_t n = (size_t)task + 1;
    choice w = {.logits = hn_calloc(n, sizeof *w.logits),
                .mean = hn_calloc(n, sizeof *w.mean),
                .classes = hn_calloc(n, sizeof *w.classes),
                .variance = hn_calloc((size_t)r->width, sizeof *w.variance)};
    hn_status st = w.logits && w.mean && w.classes && w.variance
                       ? HN_OK
                       : HN_FAIL(HN_ERR_MEMORY, "no memory to choose among %zu tasks", n);
    for (size_t t = 0; st == HN_OK && t < n; t++) {
        w.mean[t] = r->record[t].mean;
        w.classes[t] = hn_pearl_classes(r, (int)t);
    }
    if (st == HN_OK && has_prototypes(r)) shared_variance(r, task, w.variance);
    for (int k = 0; k < r->n_choosers && st == HN_OK; k++) st = chosen_accuracies(r, k, task, &w);
    hn_free(w.logits);
    hn_free(w.mean);
    hn_free(w.classes);
    hn_free(w.variance);
    return st;
}

hn_status hn_pearl_evaluate(hn_pearl *r, int task, json_t **digests)
{
    const int64_t begun = hn_clock_ns();
    HN_TRY(open(r));
    HN_TRY(run_networks(r, task));
    if (has_prototypes(r)) HN_TRY(reference_features(r, task));
    hn_team_at(r->team, HN_HUB_AT_SAVE, -1);
    if (!hn_pearl_leads(r)) return HN_OK; /* accuracies are for the record */
    *digests = json_array();
    if (*digests == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for digests");
    HN_TRY(check_digests(r, task, *digests));
    HN_TRY(task_accuracies(r, task));
    HN_TRY(choose_tasks(r, task));
    r->record[task].eval_s = (double)(hn_clock_ns() - begun) * 1e-9;
    return HN_OK;
}
