/* The encoder of support images: a network with weights, or one that is trained here on the classes
 * of the training domains, as hone-fedref's only client would: SGD with momentum, which begins anew
 * with every epoch, so that an epoch's end is all of the state.
 *
 * A file of its weights says in its metadata, `training`, by which options they were made. A run
 * has one encoder of its own: another one, or other options while it is trained, is refused. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/data/image_decode.h"
#include "runtime/file/folder.h"
#include "runtime/train/fed_client.h"
#include "runtime/train/hyperflow_impl.h"
#include "runtime/train/pearl_values.h"
#include "runtime/train/run_settings.h"

static const char *or_null(const char *text) { return text && text[0] ? text : NULL; }

/* ---- the images it is trained on ---- */

typedef struct {
    uint8_t *pixel;
    int32_t *label, *class_of; /* class_of [classes of the domain at hand]; -1: none */
    int64_t count;
    int32_t classes;
} gathered;

static void gathered_free(gathered *g)
{
    hn_free(g->pixel);
    hn_free(g->label);
    hn_free(g->class_of);
}

/* Its training classes become those behind the ones that are there. */
static hn_status gather_classes(const hn_hf_domain *d, gathered *g)
{
    const int32_t *classes, n = hn_episode_source_classes(d->source[HN_HF_TRAIN], &classes);
    const size_t all = (size_t)hn_image_set_view(d->images)->n_classes;
    hn_free(g->class_of);
    g->class_of = hn_malloc(all * sizeof *g->class_of);
    if (g->class_of == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu classes", all);
    for (size_t i = 0; i < all; i++) g->class_of[i] = -1;
    for (int32_t i = 0; i < n; i++) g->class_of[classes[i]] = g->classes++;
    return HN_OK;
}

static hn_status gather_domain(const hn_hf_domain *d, int64_t side, gathered *g)
{
    const hn_images *v = hn_image_set_view(d->images);
    const size_t from = (size_t)(v->h * v->w) * (size_t)v->c, to = (size_t)(side * side * v->c);
    HN_TRY(gather_classes(d, g));
    for (int64_t i = 0; i < v->count; i++) {
        if (g->class_of[v->label[i]] < 0) continue;
        HN_TRY(hn_image_resize_crop(v->pixel + (size_t)i * from, v->h, v->w, v->c, side, side,
                                    g->pixel + (size_t)g->count * to));
        g->label[g->count++] = g->class_of[v->label[i]];
    }
    return HN_OK;
}

static hn_status gather(const hn_hyperflow *r, int64_t side, hn_image_set **out)
{
    const int c = hn_image_set_view(r->domain[0].images)->c;
    size_t most = 0;
    for (int64_t i = 0; i < r->n_train; i++)
        most += (size_t)hn_image_set_view(r->domain[i].images)->count;
    gathered g = {.pixel = hn_malloc(most * (size_t)(side * side * c)),
                  .label = hn_malloc(most * sizeof *g.label)};
    hn_status st =
        g.pixel && g.label ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%zu images for the encoder", most);
    for (int64_t i = 0; i < r->n_train && st == HN_OK; i++)
        st = gather_domain(&r->domain[i], side, &g);
    if (st == HN_OK) {
        const hn_images v = {.count = g.count,
                             .h = side,
                             .w = side,
                             .c = c,
                             .pixel = g.pixel,
                             .label = g.label,
                             .n_classes = g.classes};
        st = hn_image_set_make(&v, "training classes", out);
    }
    gathered_free(&g);
    return st;
}

/* ---- the options that it is trained by ---- */

/* Besides those of the run; a line each. */
static hn_status training_of(const hn_hyperflow_config *c, char **out)
{
    *out = hn_asprintf("encoder: %s\nencoder-image: %" PRId64 "\nencoder-epochs: %" PRId64
                       "\nencoder-batch: %" PRId64 "\nencoder-lr: %.15g",
                       c->encoder, c->encoder_image, c->encoder_epochs, c->encoder_batch,
                       c->encoder_lr);
    return *out ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the options of the encoder");
}

static hn_status same_training(const hn_st_file *f, const char *training)
{
    const char *then = hn_st_metadata(f, "training");
    if (then == NULL)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: does not say by which options it was trained; another run trains one",
                       hn_st_where(f));
    return hn_run_settings_same(hn_st_where(f), then, training);
}

/* The encoder that is there is the one that was asked for. */
static hn_status check_trained(const hn_hyperflow *r, const char *dir)
{
    hn_st_file *f = NULL;
    char *training = NULL, *path = hn_asprintf("%s/model.safetensors", dir);
    hn_status st = path ? training_of(r->c, &training) : HN_FAIL(HN_ERR_MEMORY, "a path");
    if (st == HN_OK) st = hn_st_open(path, &f);
    if (st == HN_OK) st = same_training(f, training);
    hn_st_close(f);
    hn_free(training);
    hn_free(path);
    return st;
}

/* ---- its state: values behind an epoch ---- */

typedef struct {
    hn_hyperflow *r;
    hn_device *device; /* whose engines train alone; NULL: that of r, where there is one rank */
    hn_model model;
    hn_image_set *set;
    hn_fed_client *client;
    int32_t *index;
    float *value;
    int64_t n, done;
    char *state;    /* folder of the checkpoints */
    char *training; /* options */
} encoder_run;

static hn_status save_epoch(const encoder_run *e)
{
    hn_ckpt *c = NULL;
    const char *path;
    const hn_st_entry entry = {
        .name = "values", .dtype = HN_ST_F32, .ndim = 1, .dim = {e->n}, .data = e->value};
    const char *const metadata[][2] = {{"format", "pt"}, {"training", e->training}};
    HN_TRY(hn_fed_client_get(e->client, e->value));
    HN_TRY(hn_ckpt_begin(e->state, e->done, &c));
    hn_status st = hn_ckpt_path(c, "values.safetensors", &path);
    if (st == HN_OK) st = hn_st_save(path, &entry, 1, metadata, 2, NULL, NULL);
    if (st != HN_OK) {
        hn_ckpt_abort(c);
        return st;
    }
    HN_TRY(hn_ckpt_commit(c));
    return hn_ckpt_prune(e->state, 1, NULL);
}

static hn_status take_values(const encoder_run *e, const hn_st_file *f)
{
    const hn_st_tensor *t = hn_st_find(f, "values");
    HN_TRY(same_training(f, e->training));
    if (t == NULL || hn_st_elements(t) != e->n)
        return HN_FAIL(HN_ERR_FORMAT, "%s: not the values of this encoder", hn_st_where(f));
    return hn_st_convert(t, HN_F32, e->value);
}

static hn_status read_values(const encoder_run *e, const char *path)
{
    hn_st_file *f = NULL;
    HN_TRY(hn_st_open(path, &f));
    const hn_status st = take_values(e, f);
    hn_st_close(f);
    return st;
}

static hn_status read_epoch(encoder_run *e)
{
    char *dir = NULL;
    int64_t done = 0;
    HN_TRY(hn_ckpt_newest(e->state, &e->r->log, &dir, &done));
    if (dir == NULL) return HN_OK;
    char *path = hn_asprintf("%s/values.safetensors", dir);
    hn_status st = path ? read_values(e, path) : HN_FAIL(HN_ERR_MEMORY, "no memory for a path");
    if (st == HN_OK) st = hn_fed_client_set(e->client, e->value);
    if (st == HN_OK) e->done = done;
    hn_free(path);
    hn_free(dir);
    return st;
}

/* ---- training ---- */

static hn_adapt_kind every_parameter(const void *context, const char *name)
{
    (void)context, (void)name;
    return HN_ADAPT_FULL;
}

static const hn_adapt everything = {.parameter = every_parameter};

static hn_status open_run(encoder_run *e)
{
    const hn_hyperflow *r = e->r;
    const hn_fed_sim_options o = {
        .device = e->device ? e->device : r->device,
        .executor = hn_executor_of(r->c->executor),
        .model = &e->model,
        .adapt = &everything,
        .images = hn_image_set_view(e->set),
        .resident = 16,
        .local = {.batch = r->c->encoder_batch,
                  .optimizer = {.kind = HN_OPTIMIZER_SGD, .momentum = 0.9, .weight_decay = 5e-4},
                  .augment = {.pad = e->model.vision.image / 8, .flip = 0.5f},
                  .join = true},
        .seed = (uint64_t)r->c->seed};
    const int64_t count = o.images->count;
    HN_TRY(hn_fed_client_new(&o, NULL, &e->client));
    e->n = hn_fed_client_values(e->client);
    e->value = hn_malloc((size_t)e->n * sizeof *e->value);
    e->index = hn_malloc((size_t)count * sizeof *e->index);
    if (e->value == NULL || e->index == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "state of an encoder of %" PRId64 " values", e->n);
    for (int64_t i = 0; i < count; i++) e->index[i] = (int32_t)i;
    HN_TRY(hn_hyperflow_path(r, "encoder-state", &e->state));
    HN_TRY(hn_make_dirs(e->state));
    return read_epoch(e);
}

static hn_status epoch(encoder_run *e, float *loss)
{
    const hn_hyperflow_config *c = e->r->c;
    const hn_images *v = hn_image_set_view(e->set);
    const int64_t steps = v->count / c->encoder_batch;
    const double at = (double)e->done / (double)c->encoder_epochs, pi = 3.14159265358979323846;
    const hn_fed_task t = {.index = e->index,
                           .n = v->count,
                           .steps = steps > 0 ? steps : 1,
                           .lr = 0.5 * c->encoder_lr * (1 + cos(pi * at)),
                           .seed = hn_fed_task_seed((uint64_t)c->seed, e->done, 0)};
    hn_fed_trained out;
    HN_TRY(hn_fed_client_train(e->client, &t, &out));
    *loss = out.loss;
    if (!isfinite(out.loss))
        return HN_FAIL(HN_ERR_NUMERIC,
                       "the encoder's loss is not finite in epoch %" PRId64
                       ": lower --encoder-lr %g",
                       e->done + 1, c->encoder_lr);
    e->done++;
    return HN_OK;
}

static hn_status train_epochs(encoder_run *e)
{
    hn_hyperflow *r = e->r;
    const int64_t epochs = r->c->encoder_epochs;
    hn_hyperflow_progress(r, &r->progress, "encoder epoch", "images", e->done, epochs);
    hn_status st = HN_OK;
    for (int64_t here = 0; e->done < epochs && st == HN_OK && !r->stopped; here++) {
        float loss = 0;
        char detail[48];
        hn_hyperflow_at(r, HN_HUB_AT_LOAD, e->done);
        st = epoch(e, &loss);
        if (st == HN_OK) st = save_epoch(e);
        snprintf(detail, sizeof detail, "loss %.4f", (double)loss);
        if (st == HN_OK)
            hn_progress_update(&r->progress, e->done, (here + 1) * hn_image_set_view(e->set)->count,
                               detail);
        r->stopped = hn_hyperflow_must_stop(r, 0);
    }
    hn_progress_end(&r->progress);
    return st;
}

/* ---- the folder that comes of it ---- */

static hn_status write_json(const json_t *o, const char *dir, const char *name)
{
    char *path = hn_asprintf("%s/%s", dir, name);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
    const hn_status st = hn_json_save(path, o, false);
    hn_free(path);
    return st;
}

static hn_status write_settings(const hn_model *m, const char *dir)
{
    json_t *config = NULL, *preprocessor = NULL;
    hn_status st = hn_model_config(m, 0, NULL, &config);
    if (st == HN_OK) st = write_json(config, dir, "config.json");
    if (st == HN_OK) st = hn_model_preprocessor(m, NULL, &preprocessor);
    if (st == HN_OK && preprocessor != NULL)
        st = write_json(preprocessor, dir, "preprocessor_config.json");
    json_decref(config);
    json_decref(preprocessor);
    return st;
}

static hn_status write_weights(const encoder_run *e, const char *dir)
{
    const hn_params *p = hn_engine_params(hn_fed_client_engine(e->client));
    const char *const metadata[][2] = {{"format", "pt"}, {"training", e->training}};
    char hex[HN_SHA256_HEX];
    hn_values all = {0};
    char *path = hn_asprintf("%s/model.safetensors", dir);
    hn_status st = path ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
    for (int64_t i = 0; st == HN_OK && i < hn_params_count(p); i++)
        st = hn_values_read(&all, hn_params_at(p, i));
    if (st == HN_OK) st = hn_values_save(path, &all, metadata, 2, hex);
    hn_values_free(&all);
    hn_free(path);
    return st;
}

static hn_status write_model(const encoder_run *e, const char *dir)
{
    hn_folder *folder = NULL;
    HN_TRY(hn_folder_begin(dir, &folder));
    const char *t = hn_folder_temporary(folder);
    hn_status st = write_weights(e, t);
    if (st == HN_OK) st = write_settings(&e->model, t);
    if (st != HN_OK) {
        hn_folder_abort(folder);
        return st;
    }
    HN_TRY(hn_folder_commit(folder, false));
    return hn_remove_tree(e->state);
}

static hn_status open_named(const hn_hyperflow *r, const hn_hf_encoder *from, hn_model *m)
{
    const char *path = from->path;
    const hn_model_options o = {
        .path = path, .weights = or_null(from->weights), .dtype = r->c->dtype};
    HN_TRY(hn_model_open_as(&o, &r->log, m));
    if (m->kind != HN_MODEL_CLASSIFIER)
        return HN_FAIL(HN_ERR_ARG, "--encoder %s: a decoder; it reads images", path);
    const bool fresh = m->dir == NULL; /* it may have any number of channels */
    const hn_vision_override sizes = {.image = from->image,
                                      .channels = fresh ? r->model.vision.channels : 0};
    HN_TRY(hn_model_override(m, &sizes, false));
    if (m->vision.channels != r->model.vision.channels)
        return HN_FAIL(HN_ERR_ARG,
                       "--encoder %s: reads %" PRId64 " channels, the backbone %" PRId64, path,
                       m->vision.channels, r->model.vision.channels);
    return HN_OK;
}

static hn_status train_encoder(encoder_run *e, const char *dir)
{
    const hn_hyperflow *r = e->r;
    const hn_hf_encoder fresh = {.path = r->c->encoder, .image = r->c->encoder_image};
    HN_TRY(training_of(r->c, &e->training));
    HN_TRY(open_named(r, &fresh, &e->model));
    HN_TRY(gather(r, e->model.vision.image, &e->set));
    const hn_images *v = hn_image_set_view(e->set);
    const hn_vision_override o = {.classes = v->n_classes};
    HN_TRY(hn_model_override(&e->model, &o, true));
    const bool alone = hn_hyperflow_ranks(r) == 1;
    hn_info(&r->log, "encoder %s: trained on %" PRId64 " images of %d classes%s", r->c->encoder,
            v->count, (int)v->n_classes, alone ? "" : ", by rank 0 alone; the others wait");
    if (!alone) HN_TRY(hn_device_open(hn_team_device(r->call->team, r->c->device), &e->device));
    HN_TRY(open_run(e));
    HN_TRY(train_epochs(e));
    return e->done < r->c->encoder_epochs ? HN_OK : write_model(e, dir);
}

static hn_status make_encoder(hn_hyperflow *r, const char *dir)
{
    encoder_run e = {.r = r};
    const hn_status st = train_encoder(&e, dir);
    hn_fed_client_free(e.client);
    hn_device_close(e.device);
    hn_image_set_free(e.set);
    hn_model_close(&e.model);
    hn_free(e.index);
    hn_free(e.value);
    hn_free(e.state);
    hn_free(e.training);
    return st;
}

bool hn_hf_encoder_is_trained(const hn_hyperflow_config *c)
{
    return !hn_is_folder(c->encoder) && or_null(c->encoder_weights) == NULL;
}

hn_status hn_hyperflow_encoder_open(hn_hyperflow *r, const hn_hf_encoder *from)
{
    char *dir = NULL;
    hn_hf_encoder e = *from;
    if (or_null(e.path) == NULL) {
        HN_TRY(hn_hyperflow_path(r, "encoder", &dir));
        e = (hn_hf_encoder){.path = dir};
    }
    const hn_status st = open_named(r, &e, &r->encoder);
    hn_free(dir);
    HN_TRY(st);
    return hn_model_digest(&r->encoder, (uint64_t)r->c->seed, &r->encoder_digest);
}

hn_status hn_hyperflow_encoder(hn_hyperflow *r)
{
    const hn_hyperflow_config *c = r->c;
    const bool trained = hn_hf_encoder_is_trained(c);
    const hn_hf_encoder given = {.path = trained ? "" : c->encoder,
                                 .weights = c->encoder_weights,
                                 .image = c->encoder_image};
    char *dir = NULL;
    HN_TRY(hn_hyperflow_path(r, "encoder", &dir));
    hn_status st = HN_OK;
    if (trained && hn_hyperflow_leads(r))
        st = hn_is_folder(dir) ? check_trained(r, dir) : make_encoder(r, dir);
    hn_free(dir);
    HN_TRY(st);
    HN_TRY(hn_hyperflow_ask(r, 0));
    if (r->stopped) return HN_OK;
    HN_TRY(hn_hyperflow_encoder_open(r, &given));
    return hn_team_same(r->call->team, "encoder", r->encoder_digest);
}
