/* The part of a session that reads images: sets, classes, the job of a classifier. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/image_feed.h"
#include "runtime/train/lora_hook.h"
#include "runtime/train/session_impl.h"

enum { PROBE_IMAGES = 4, SMALL_IMAGE = 64 };

void hn_images_close(hn_image_session *t)
{
    hn_image_loader_free(t->train_loader);
    hn_image_loader_free(t->eval_loader);
    hn_image_set_free(t->train);
    hn_image_set_free(t->eval);
    hn_names_clear(&t->classes);
}

/* ---- classes ---- */

static bool is(const char *option, const char *value)
{
    return option != NULL && strcmp(option, value) == 0;
}

/* Another number of classes than the model's, or a head that is asked for. */
static hn_status make_head(hn_session *s, int64_t classes, bool asked)
{
    const hn_vision_override o = {.classes = classes};
    const int64_t have = s->model.vision.classes;
    if (s->peft == &s->adapter.config)
        return HN_FAIL(HN_ERR_SHAPE,
                       "--adapter %s: is for %" PRId64 " classes, %" PRId64 " are wanted",
                       s->run->adapter, have, classes);
    if (is(s->run->new_head, "off") && s->model.dir != NULL)
        return HN_FAIL(HN_ERR_SHAPE,
                       "--new-head off: model %s has %" PRId64 " classes, %" PRId64 " are wanted",
                       s->run->model, have, classes);
    HN_TRY(hn_model_override(&s->model, &o, asked));
    if (s->model.dir == NULL)
        hn_info(&s->log, "head: %" PRId64 " classes", classes);
    else
        hn_info(&s->log,
                "head: a new one for %" PRId64 " classes, from the seed, in place of that for "
                "%" PRId64 " in the files",
                classes, have);
    return HN_OK;
}

/* A head of random values is always trained. */
hn_status hn_session_classes(hn_session *s, int64_t classes)
{
    const bool asked = is(s->run->new_head, "on");
    if (s->model.dir == NULL && s->run->new_head != NULL && !is(s->run->new_head, "auto"))
        return HN_FAIL(
            HN_ERR_ARG,
            "--new-head %s: in place of that in the files, but model %s has random weights",
            s->run->new_head, s->run->model);
    if (classes != s->model.vision.classes || asked) HN_TRY(make_head(s, classes, asked));
    const bool random = s->model.fresh_head || s->model.dir == NULL;
    return random && s->peft == &s->fresh ? hn_lora_save_head(&s->model, "--targets", &s->fresh)
                                          : HN_OK;
}

/* Whether class i is called by nothing but its number. */
static bool is_number(const hn_images *v, int32_t i)
{
    char number[16];
    snprintf(number, sizeof number, "%d", (int)i);
    return strcmp(v->class_name[i], number) == 0;
}

/* Names that differ may be a matter of spelling, or another order: somebody should know. */
static void compare_names(const hn_session *s, const hn_images *v)
{
    for (int32_t i = 0; i < v->n_classes; i++) {
        const char *known = hn_model_class(&s->model, i);
        if (known == NULL || is_number(v, i) || strcmp(known, v->class_name[i]) == 0) continue;
        hn_warn(&s->log, "class %d is '%s' in the data, '%s' in the model", (int)i,
                v->class_name[i], known);
        return;
    }
}

/* Training: the head is that of the data. */
static hn_status take_classes(hn_session *s, const hn_images *v)
{
    bool numbers = true;
    if (v->n_classes < 2)
        return HN_FAIL(HN_ERR_ARG, "%s: images of one class, which there is nothing to learn from",
                       s->run->data);
    for (int32_t i = 0; i < v->n_classes; i++) numbers &= is_number(v, i);
    for (int32_t i = 0; !numbers && i < v->n_classes; i++)
        HN_TRY(hn_names_add(&s->images.classes, v->class_name[i]));
    return hn_session_classes(s, v->n_classes);
}

/* Data without names have as many classes as their largest label asks for: fewer than the model's
 * will do to evaluate. */
static hn_status check_classes(const hn_session *s, const hn_images *v)
{
    const int64_t have = s->model.vision.classes;
    const bool fits = v->n_classes < have && is_number(v, v->n_classes - 1);
    if (v->n_classes != have && !fits)
        return HN_FAIL(HN_ERR_SHAPE, "%s: the data have %d classes, the %s %" PRId64, s->run->data,
                       (int)v->n_classes,
                       s->adapter.n_saved > 0 ? "adapter's head has" : "model has", have);
    compare_names(s, v);
    return HN_OK;
}

/* ---- data ---- */

/* Means and deviations of the training images in place of the model's. */
static hn_status measure_pixels(hn_session *s)
{
    hn_vision_config *v = &s->model.vision;
    hn_image_stats t;
    if (!is(s->run->mean_std, "data")) return HN_OK;
    if (s->peft != NULL)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "--mean-std data: an adapter does not hold them");
    hn_image_set_stats(s->images.train, NULL, 0, &t);
    for (int64_t k = 0; k < v->channels; k++) {
        v->mean[k] = (float)(t.mean[k] / 255);
        v->std[k] = (float)(t.sd[k] / 255);
        if (!(v->std[k] > 0))
            return HN_FAIL(HN_ERR_ARG, "--mean-std data: channel %" PRId64 " of %s never changes",
                           k, hn_image_set_name(s->images.train));
    }
    return HN_OK;
}

static void tell_pixels(const hn_session *s)
{
    const hn_vision_config *v = &s->model.vision;
    char text[160] = "";
    size_t n = 0;
    for (int64_t k = 0; k < v->channels && n < sizeof text; k++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%.4g (%.4g)", k ? ", " : "",
                              (double)v->mean[k], (double)v->std[k]);
    hn_info(&s->log, "pixels: in 0..1, less mean, by deviation: %s", text);
}

static hn_status open_loader(hn_session *s, const hn_image_set *set, bool once,
                             hn_image_loader **out)
{
    const hn_image_loader_options o = {.batch = s->run->batch_size,
                                       .seed = (uint64_t)s->run->seed,
                                       .shuffle = !once,
                                       .once = once,
                                       .epoch_end = HN_EPOCH_JOIN,
                                       .resident_bytes = (int64_t)(s->run->resident * 0x1p30)};
    hn_image_set_report(set, &s->log);
    HN_TRY(hn_image_loader_open(set, NULL, &o, out));
    if (!hn_image_loader_resident(*out))
        hn_info(&s->log, "  pixels come with every batch: %.2f GiB are more than --resident %g",
                (double)hn_image_set_bytes(set) / 0x1p30, s->run->resident);
    return HN_OK;
}

static hn_status open_sets(hn_session *s, bool held_out_only)
{
    const hn_run_config *c = s->run;
    const hn_vision_config *v = &s->model.vision;
    hn_image_session *t = &s->images;
    hn_image_options o = {.data = c->data,
                          .eval_data = hn_text_or_null(c->eval_data),
                          .eval_split = c->eval_split,
                          .coarse = c->coarse,
                          .image_size = v->image,
                          .channels = (int)v->channels};
    HN_TRY(hn_image_kind_parse(c->data_kind, &o.kind));
    if (v->channels != 1 && v->channels != 3)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "model %s reads %" PRId64 " channels, images have 1 or 3", s->run->model,
                       v->channels);
    if (!held_out_only) return hn_image_sets_open(&o, &t->train, &t->eval);
    const bool split = o.eval_data || o.eval_split > 0;
    return split ? hn_image_sets_open(&o, NULL, &t->eval) : hn_image_sets_open(&o, &t->eval, NULL);
}

hn_status hn_images_open(hn_session *s, bool held_out_only)
{
    hn_image_session *t = &s->images;
    HN_TRY(open_sets(s, held_out_only));
    const hn_images *v = hn_image_set_view(t->train ? t->train : t->eval);
    if (t->train != NULL) {
        HN_TRY(take_classes(s, v));
        HN_TRY(measure_pixels(s));
        HN_TRY(open_loader(s, t->train, false, &t->train_loader));
    }
    HN_TRY(check_classes(s, v));
    tell_pixels(s);
    return t->eval ? open_loader(s, t->eval, true, &t->eval_loader) : HN_OK;
}

/* ---- the job ---- */

/* What --augment means for these images. Grey ones are left alone unless somebody asks: a digit's
 * mirror image is no digit. */
static hn_augment augment_of(const hn_session *s)
{
    const hn_vision_config *v = &s->model.vision;
    const char *how = s->run->augment;
    if (is(how, "auto"))
        how = v->channels == 1          ? "none"
              : v->image <= SMALL_IMAGE ? "crop-flip"
                                        : "resized-crop-flip";
    if (is(how, "crop-flip")) return (hn_augment){.pad = s->run->pad, .flip = 0.5f};
    if (is(how, "resized-crop-flip")) /* torchvision's RandomResizedCrop */
        return (hn_augment){
            .resized = true, .flip = 0.5f, .scale = {0.08f, 1}, .ratio = {3.0f / 4, 4.0f / 3}};
    return (hn_augment){0};
}

static hn_status check_augment(const hn_session *s, const hn_augment *a)
{
    const bool crops = a->flip > 0 && !a->resized;
    if (!crops && hn_options_given(s->given, "pad"))
        return HN_FAIL(HN_ERR_ARG, "--pad: of --augment crop-flip, here it is %s",
                       a->resized ? "resized-crop-flip" : "none");
    return HN_OK;
}

static void tell_augment(const hn_session *s, const hn_augment *a)
{
    if (a->flip == 0)
        hn_info(&s->log, "augmentation: none");
    else if (a->resized)
        hn_info(&s->log,
                "augmentation: a random box of %g to %g of the image, resized; mirrored "
                "every second time",
                (double)a->scale[0], (double)a->scale[1]);
    else
        hn_info(&s->log,
                "augmentation: random crop with %" PRId64 " pixels around; mirrored every second "
                "time",
                a->pad);
}

/* An adapter holds no running statistics: with LoRA they stay as they are. */
static hn_status settle_norm(const hn_session *s, bool *frozen)
{
    const char *how = s->run->frozen_norm;
    const bool given = !is(how, "auto"), adapter = s->peft != NULL;
    const bool norms = hn_vision_has_batch_norm(&s->model.vision);
    if (given && !norms)
        return HN_FAIL(HN_ERR_ARG, "--frozen-norm %s: %s has no batch norm", how,
                       s->model.vision.architecture);
    if (is(how, "off") && adapter)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "--frozen-norm off: an adapter does not hold the running statistics");
    *frozen = norms && (given ? is(how, "on") : adapter);
    if (norms)
        hn_info(&s->log, "batch norm: by %s",
                *frozen ? "the running statistics, which stay (--frozen-norm)"
                        : "the statistics of each micro-batch");
    return HN_OK;
}

static const hn_images *view_of(const hn_image_set *s) { return s ? hn_image_set_view(s) : NULL; }

static bool streams(const hn_image_loader *l) { return l != NULL && !hn_image_loader_resident(l); }

static hn_status make_feeds(hn_session *s)
{
    const hn_image_session *t = &s->images;
    if (t->train_loader) HN_TRY(hn_image_feed_new(t->train_loader, &t->job, &s->train));
    if (t->eval_loader) HN_TRY(hn_image_feed_new(t->eval_loader, &t->job, &s->eval));
    return HN_OK;
}

hn_status hn_images_job(hn_session *s, bool probe, bool dry)
{
    hn_image_session *t = &s->images;
    const hn_run_config *c = s->run;
    const hn_vision_config *v = &s->model.vision;
    const bool trains = dry || t->train != NULL;
    if (v->classes == 0)
        return HN_FAIL(HN_ERR_ARG, "model %s has no head; its classes come from data to train on",
                       c->model);
    t->blank = (hn_images){.count = 1, .h = v->image, .w = v->image, .c = (int)v->channels};
    hn_classifier_options o = {.config = v,
                               .batch = trains || t->eval ? c->batch_size : 0,
                               .train = dry ? &t->blank : view_of(t->train),
                               .eval = view_of(t->eval),
                               .stream_train = dry || streams(t->train_loader),
                               .stream_eval = streams(t->eval_loader),
                               .dtype = s->model.dtype,
                               .attention =
                                   c->attention ? hn_attention_of(c->attention) : HN_ATTENTION_AUTO,
                               .probe_images = !probe            ? 0
                                               : t->probe_images ? t->probe_images
                                                                 : PROBE_IMAGES};
    if (trains) {
        o.augment = augment_of(s);
        o.smoothing = (float)c->label_smoothing;
        HN_TRY(check_augment(s, &o.augment));
        HN_TRY(settle_norm(s, &o.frozen_norm));
        if (!dry) tell_augment(s, &o.augment);
    }
    hn_classifier_job_init(&t->job, &o);
    s->job = &t->job.job;
    return make_feeds(s);
}

hn_status hn_images_probe(hn_session *s, float **out, int64_t *n)
{
    const hn_image_session *t = &s->images;
    const hn_vision_config *v = &s->model.vision;
    const int64_t images = t->job.o.probe_images, pixels = v->image * v->image * v->channels;
    const hn_rng r = hn_rng_make(1, 0, hn_hash_name("export probe"));
    uint8_t *pixel = hn_malloc((size_t)(images * pixels));
    float *logits = hn_malloc((size_t)(images * v->classes) * sizeof *logits);
    hn_status st = HN_OK;
    if (pixel == NULL || logits == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for images to compare");
        goto done;
    }
    for (int64_t i = 0; i < images * pixels; i++)
        pixel[i] = (uint8_t)hn_rng_below(r, (uint64_t)(i / pixels), (uint32_t)(i % pixels), 256);
    const hn_tensor *t_logits = NULL;
    HN_TRY_GOTO(st, hn_classifier_outputs(&t->job, s->engine, pixel, images, &t_logits, NULL),
                done);
    HN_TRY_GOTO(st, hn_tensor_get(t_logits, logits), done);
    *out = logits;
    *n = images * v->classes;
    logits = NULL;

done:
    hn_free(logits);
    hn_free(pixel);
    return st;
}
