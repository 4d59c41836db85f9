/* train: the encoder where it is to be trained, features of the training domains, and the drift
 * network on them and the trajectories (drift_train.h). */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/drift_train.h"
#include "runtime/train/hyperflow_drift.h"
#include "runtime/train/signals.h"

typedef struct {
    hn_hyperflow *r;
    hn_trajectories file;
    hn_drift_data data;
    hn_drift_facts facts;
    float *feature; /* of all images of the training domains, one domain behind the other */
    int64_t rows;
    int64_t *first_row, *n_images; /* [n_train] */
    int64_t *train, *held_out;     /* numbers of tasks */
    int64_t n_train, n_held_out;
    char *yaml, *out;
    char digest[HN_SHA256_HEX]; /* of what is learned from */
} teacher;

static void teacher_free(teacher *t)
{
    hn_drift_data_free(&t->data);
    hn_trajectories_close(&t->file);
    hn_drift_facts_free(&t->facts);
    hn_free(t->feature);
    hn_free(t->first_row);
    hn_free(t->n_images);
    hn_free(t->train);
    hn_free(t->held_out);
    hn_free(t->yaml);
    hn_free(t->out);
}

/* ---- what is learned from ---- */

static hn_status open_file(teacher *t)
{
    const hn_hyperflow *r = t->r;
    char *path = NULL;
    HN_TRY(hn_hyperflow_path(r, "trajectories.bin", &path));
    hn_status st =
        hn_is_file(path)
            ? hn_trajectories_open(path, &t->file)
            : HN_FAIL(HN_ERR_ARG, "%s: not there: hone-hyperflow generate makes it", path);
    const hn_trajectory_head *h = &t->file.head;
    if (st == HN_OK &&
        (strcmp(h->layout, r->theta.digest) != 0 || strcmp(h->backbone, r->base_digest) != 0))
        st = HN_FAIL(HN_ERR_ARG, "%s: trajectories of another backbone or other biases", path);
    if (st == HN_OK && t->file.n < h->records)
        st = HN_FAIL(HN_ERR_ARG,
                     "%s: %" PRId64 " of %" PRId64
                     " trajectories: go on with hone-hyperflow generate --resume auto",
                     path, t->file.n, h->records);
    hn_free(path);
    return st;
}

static hn_status read_features(teacher *t)
{
    hn_hyperflow *r = t->r;
    const int64_t width = hn_vision_width(&r->encoder.vision);
    t->first_row = hn_calloc((size_t)r->n_train, sizeof *t->first_row);
    t->n_images = hn_calloc((size_t)r->n_train, sizeof *t->n_images);
    if (t->first_row == NULL || t->n_images == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " domains", r->n_train);
    for (int64_t i = 0; i < r->n_train; i++) {
        t->first_row[i] = t->rows;
        t->n_images[i] = hn_image_set_view(r->domain[i].images)->count;
        t->rows += t->n_images[i];
    }
    t->feature = hn_malloc((size_t)(t->rows * width) * sizeof *t->feature);
    if (t->feature == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "features of %" PRId64 " images", t->rows);
    for (int64_t i = 0; i < r->n_train; i++)
        HN_TRY(
            hn_hyperflow_features_of_all(r, &r->domain[i], t->feature + t->first_row[i] * width));
    return HN_OK;
}

/* On a CPU they take minutes. */
static hn_status wait_for_features(teacher *t)
{
    hn_hyperflow *r = t->r;
    hn_signals_watch();
    hn_status st = read_features(t);
    if (st == HN_ERR_STOPPED) { /* on all ranks */
        r->stopped = true;
        st = HN_OK;
    }
    if (st == HN_OK) st = hn_hyperflow_ask(r, 0); /* or they are forgotten */
    hn_signals_release();
    if (st == HN_OK && r->stopped && hn_hyperflow_leads(r))
        fprintf(r->to, "stopped at the features; the same command goes on\n");
    return st;
}

static hn_status make_facts(teacher *t)
{
    const hn_hyperflow *r = t->r;
    t->facts.config = hn_hf_drift_config(r);
    memcpy(t->facts.layout, r->theta.digest, HN_SHA256_HEX);
    memcpy(t->facts.backbone, r->base_digest, HN_SHA256_HEX);
    memcpy(t->facts.encoder, r->encoder_digest, HN_SHA256_HEX);
    t->facts.sigma = hn_malloc((size_t)r->theta.tokens * sizeof *t->facts.sigma);
    if (t->facts.sigma == NULL) return HN_FAIL(HN_ERR_MEMORY, "sigma");
    return hn_hf_sigma(r, &t->file, t->facts.sigma);
}

static hn_status choose_tasks(teacher *t)
{
    const int64_t n = t->data.tasks;
    t->train = hn_calloc((size_t)n, sizeof *t->train);
    t->held_out = hn_calloc((size_t)n, sizeof *t->held_out);
    if (t->train == NULL || t->held_out == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " tasks", n);
    for (int64_t i = 0; i < n; i++)
        if (hn_hf_held_out(i))
            t->held_out[t->n_held_out++] = i;
        else
            t->train[t->n_train++] = i;
    return HN_OK;
}

static hn_status digest_data(teacher *t)
{
    const hn_hyperflow *r = t->r;
    char content[HN_SHA256_HEX];
    HN_TRY(hn_trajectories_digest(&t->file, content));
    char *identity = json_dumps(json_object_get(r->index, "identity"), JSON_SORT_KEYS);
    char *all = identity ? hn_asprintf("%s\n%s\n%s", identity, r->encoder_digest, content) : NULL;
    const hn_status st = all ? hn_sha256(all, strlen(all), t->digest)
                             : HN_FAIL(HN_ERR_MEMORY, "no memory for a digest");
    hn_free(all);
    free(identity);
    return st;
}

/* ---- what its folder says besides ---- */

/* Of train's options, those that mean something. */
static hn_status write_yaml(teacher *t)
{
    size_t n, kept = 0;
    const hn_option *row = hn_hyperflow_train_rows(&n);
    hn_option *some = hn_calloc(n, sizeof *some);
    if (some == NULL) return HN_FAIL(HN_ERR_MEMORY, "options of train");
    for (size_t i = 0; i < n; i++)
        if (row[i].name == NULL || hn_hyperflow_reason(t->r->c, row[i].name) == NULL)
            some[kept++] = row[i];
    const hn_status st = hn_options_yaml(some, kept, t->r->c, &t->yaml);
    hn_free(some);
    return st;
}

static hn_status save_encoder(const teacher *t, const char *path)
{
    const hn_hyperflow_config *c = t->r->c;
    const bool trained = hn_hf_encoder_is_trained(c);
    json_t *o =
        json_pack("{s:s, s:s, s:I, s:s}", "path", trained ? "" : c->encoder, "weights",
                  trained ? "" : c->encoder_weights, "image",
                  (json_int_t)(trained ? 0 : c->encoder_image), "digest", t->r->encoder_digest);
    const hn_status st =
        o ? hn_json_save(path, o, false) : HN_FAIL(HN_ERR_MEMORY, "no memory for encoder.json");
    json_decref(o);
    return st;
}

/* A network that is there keeps its encoder, wherever that lies by now. */
static hn_status check_encoder(const teacher *t, const char *path)
{
    json_t *o = NULL;
    const char *digest = NULL;
    if (!hn_is_file(path)) return HN_OK;
    HN_TRY(hn_json_load(path, &o));
    hn_status st = hn_json_get_text(o, "digest", path, true, &digest);
    if (st == HN_OK && strcmp(digest, t->r->encoder_digest) != 0)
        st = HN_FAIL(HN_ERR_ARG,
                     "%s: a network on another encoder: %s, now %s; --drift NAME is a new one",
                     path, digest, t->r->encoder_digest);
    json_decref(o);
    return st;
}

static hn_status keep_encoder(const teacher *t)
{
    char *path = hn_asprintf("%s/encoder.json", t->out);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    hn_status st = check_encoder(t, path);
    if (st == HN_OK) st = save_encoder(t, path);
    hn_free(path);
    return st;
}

/* ---- training ---- */

static hn_curve_kind curve_of(const char *name)
{
    int k = 0;
    while (k < HN_CURVE_COUNT - 1 && strcmp(hn_curve_name((hn_curve_kind)k), name) != 0) k++;
    return (hn_curve_kind)k;
}

static hn_drift_train_options options_of(const teacher *t)
{
    const hn_hyperflow *r = t->r;
    const hn_hyperflow_config *c = r->c;
    return (hn_drift_train_options){.team = r->call->team,
                                    .device = r->device,
                                    .executor = hn_executor_of(c->executor),
                                    .facts = &t->facts,
                                    .data = &t->data,
                                    .features = t->feature,
                                    .feature_rows = t->rows,
                                    .train = t->train,
                                    .n_train = t->n_train,
                                    .held_out = t->held_out,
                                    .n_held_out = t->n_held_out,
                                    .data_digest = t->digest,
                                    .curve = curve_of(c->curve),
                                    .tasks = c->drift_batch,
                                    .points = c->times,
                                    .noise = (float)c->jitter,
                                    .schedule = {.kind = HN_SCHEDULE_COSINE,
                                                 .lr = c->drift_lr,
                                                 .warmup = c->warmup,
                                                 .steps = c->iterations},
                                    .weight_decay = c->drift_decay,
                                    .average = c->ema,
                                    .dtype = r->model.dtype,
                                    .seed = (uint64_t)c->seed,
                                    .out = t->out,
                                    .yaml = t->yaml,
                                    .resume = true,
                                    .resume_any = strcmp(c->resume_device, "any") == 0,
                                    .stop_after = c->stop_after,
                                    .log_every = c->log_every,
                                    .eval_every = c->save_every,
                                    .save_every = c->save_every,
                                    .keep = 1,
                                    .log = &r->log,
                                    .progress = stderr};
}

static void say(const teacher *t, const hn_drift_train_report *p)
{
    const hn_hyperflow *r = t->r;
    if (!p->finished) {
        fprintf(r->to, "stopped behind step %" PRId64 " of %" PRId64 "; the same command goes on\n",
                p->step, r->c->iterations);
        return;
    }
    /* what an earlier call has measured is in metrics.csv */
    fprintf(r->to, "drift network: %s/drift.safetensors", t->out);
    if (!isnan(p->loss)) fprintf(r->to, ", loss %.4f", p->loss);
    if (!isnan(p->held_out)) fprintf(r->to, ", of held-out tasks %.4f", p->held_out);
    if (!isnan(p->held_out) && !isnan(p->first)) fprintf(r->to, " (at first %.4f)", p->first);
    const bool named = strcmp(r->c->drift, "drift") != 0;
    fprintf(r->to, "\neval:          hone-hyperflow eval --run %s%s%s --methods hyperflow\n",
            r->out, named ? " --drift " : "", named ? r->c->drift : "");
}

static hn_status run(teacher *t)
{
    hn_drift_train_report report;
    HN_TRY(write_yaml(t));
    HN_TRY(hn_hyperflow_path(t->r, t->r->c->drift, &t->out));
    if (hn_hyperflow_leads(t->r)) HN_TRY(hn_make_dirs(t->out));
    if (hn_hyperflow_leads(t->r)) HN_TRY(keep_encoder(t));
    const hn_drift_train_options o = options_of(t);
    HN_TRY(hn_drift_train(&o, &report));
    if (hn_hyperflow_leads(t->r)) say(t, &report);
    return HN_OK;
}

/* Each rank has read them, or made them. */
static hn_status same_features(const teacher *t)
{
    const hn_hyperflow *r = t->r;
    const int64_t n = t->rows * hn_vision_width(&r->encoder.vision);
    char digest[HN_SHA256_HEX];
    if (hn_hyperflow_ranks(r) == 1) return HN_OK;
    HN_TRY(hn_sha256(t->feature, (size_t)n * sizeof *t->feature, digest));
    return hn_team_same(r->call->team, "features", digest);
}

static hn_status learn(teacher *t)
{
    hn_hyperflow *r = t->r;
    HN_TRY(open_file(t));
    HN_TRY(wait_for_features(t));
    if (r->stopped) return HN_OK;
    HN_TRY(hn_drift_data_make(&t->file, t->first_row, t->n_images, r->n_train, &t->data));
    HN_TRY(make_facts(t));
    HN_TRY(choose_tasks(t));
    HN_TRY(digest_data(t));
    HN_TRY(same_features(t));
    return run(t);
}

static hn_status train_encoder(hn_hyperflow *r)
{
    hn_signals_watch();
    hn_status st = hn_hyperflow_encoder(r);
    if (st == HN_OK) st = hn_hyperflow_ask(r, 0); /* or they are forgotten */
    hn_signals_release();
    if (st == HN_OK && r->stopped && hn_hyperflow_leads(r))
        fprintf(r->to, "stopped at the encoder; the same command goes on\n");
    return st;
}

hn_status hn_hyperflow_train(const hn_verb_call *c)
{
    hn_hyperflow r;
    hn_status st = hn_hyperflow_open_ranks(c, true, &r);
    if (st == HN_OK) st = hn_hyperflow_folder_read(&r, true);
    if (st == HN_OK) st = train_encoder(&r);
    if (st == HN_OK && !r.stopped) {
        teacher t = {.r = &r};
        st = learn(&t);
        teacher_free(&t);
    }
    hn_team_devices_close(c->team, st);
    hn_hyperflow_close(&r);
    return st;
}
