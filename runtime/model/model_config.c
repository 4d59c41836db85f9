/* The configuration files of a classifier that is written. */
#include <inttypes.h>
#include <stdio.h>

#include "runtime/model/model.h"

static bool holds(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return v != NULL && !json_is_null(v);
}

/* Steals the value; true: it could not be set. */
static bool set(json_t *o, const char *key, json_t *v)
{
    return json_object_set_new(o, key, v) != 0;
}

static json_t *integer(int64_t v) { return json_integer((json_int_t)v); }

/* ---- classes ---- */

static bool set_label_names(json_t *o, int64_t n, char *const *names)
{
    json_t *list = json_array();
    bool bad = false;
    for (int64_t i = 0; i < n; i++) bad |= json_array_append_new(list, json_string(names[i])) != 0;
    return set(o, "label_names", list) || bad;
}

/* Hugging Face counts its classes by id2label. names NULL: LABEL_0, LABEL_1, .. */
static bool set_id2label(json_t *o, int64_t n, char *const *names)
{
    json_t *id2label = json_object(), *label2id = json_object();
    bool bad = false;
    for (int64_t i = 0; i < n; i++) {
        char id[32], label[48];
        snprintf(id, sizeof id, "%" PRId64, i);
        snprintf(label, sizeof label, "LABEL_%" PRId64, i);
        bad |= set(id2label, id, json_string(names ? names[i] : label));
        bad |= set(label2id, names ? names[i] : label, integer(i));
    }
    bad |= set(o, "id2label", id2label);
    bad |= set(o, "label2id", label2id);
    return bad || (holds(o, "num_labels") && set(o, "num_labels", integer(n)));
}

/* ---- sizes ---- */

static bool set_timm(json_t *o, const hn_vision_config *c)
{
    json_t *args = json_object_get(o, "model_args");
    json_t *pixels = json_object_get(o, "pretrained_cfg");
    bool bad = set(o, "num_classes", integer(c->classes));
    if (holds(args, "num_classes")) bad |= set(args, "num_classes", integer(c->classes));
    if (holds(args, "img_size")) bad |= set(args, "img_size", integer(c->image));
    if (holds(args, "in_chans")) bad |= set(args, "in_chans", integer(c->channels));
    if (!json_is_object(pixels)) {
        bad |= set(o, "pretrained_cfg", json_object());
        pixels = json_object_get(o, "pretrained_cfg");
    }
    bad |= set(pixels, "input_size",
               json_pack("[I, I, I]", (json_int_t)c->channels, (json_int_t)c->image,
                         (json_int_t)c->image));
    bad |= set(pixels, "mean", hn_vision_pixels_json(c->mean, c->channels));
    bad |= set(pixels, "std", hn_vision_pixels_json(c->std, c->channels));
    return bad || (holds(pixels, "num_classes") && set(pixels, "num_classes", integer(c->classes)));
}

static bool set_hugging_face(json_t *o, const hn_vision_config *c)
{
    bool bad = set(o, "num_channels", integer(c->channels));
    return bad || (c->family == HN_VISION_VIT && set(o, "image_size", integer(c->image)));
}

hn_status hn_model_config(const hn_model *m, int64_t n, char *const *names, json_t **out)
{
    const hn_vision_config *c = &m->vision;
    const bool timm = c->names != HN_NAMES_HUGGING_FACE;
    if (m->kind != HN_MODEL_CLASSIFIER || (n != 0 && n != c->classes))
        return HN_FAIL(HN_ERR_ARG, "model %s: no classifier of %" PRId64 " classes", m->path, n);
    json_t *o = m->named ? hn_vision_config_json(c) : json_deep_copy(m->config_json);
    bool bad = timm ? set_timm(o, c) : set_hugging_face(o, c);
    if (timm && n > 0) bad |= set_label_names(o, n, names);
    if (timm && n == 0 && m->fresh_head) json_object_del(o, "label_names");
    if (!timm && (n > 0 || m->fresh_head)) bad |= set_id2label(o, c->classes, n > 0 ? names : NULL);
    if (bad) {
        json_decref(o);
        return HN_FAIL(HN_ERR_MEMORY, "%s: no memory for config.json, or a name is not UTF-8",
                       m->path);
    }
    *out = o;
    return HN_OK;
}

/* In the form that is there: a number, the shorter edge, or both. */
static json_t *size_like(const json_t *old, int64_t side)
{
    if (json_is_integer(old)) return integer(side);
    if (holds(old, "shortest_edge")) return json_pack("{s:I}", "shortest_edge", (json_int_t)side);
    return json_pack("{s:I, s:I}", "height", (json_int_t)side, "width", (json_int_t)side);
}

hn_status hn_model_preprocessor(const hn_model *m, const json_t *old, json_t **out)
{
    const hn_vision_config *c = &m->vision;
    *out = NULL;
    if (m->kind != HN_MODEL_CLASSIFIER || c->names != HN_NAMES_HUGGING_FACE) return HN_OK;
    json_t *o = old ? json_deep_copy(old)
                    : json_pack("{s:s, s:b, s:b, s:b, s:f, s:i}", "image_processor_type",
                                "ViTImageProcessor", "do_normalize", 1, "do_rescale", 1,
                                "do_resize", 1, "rescale_factor", 1.0 / 255, "resample", 2);
    bool bad = set(o, "size", size_like(json_object_get(o, "size"), c->image));
    bad |= set(o, "image_mean", hn_vision_pixels_json(c->mean, c->channels));
    bad |= set(o, "image_std", hn_vision_pixels_json(c->std, c->channels));
    if (bad) {
        json_decref(o);
        return HN_FAIL(HN_ERR_MEMORY, "%s: no memory for preprocessor_config.json", m->path);
    }
    *out = o;
    return HN_OK;
}
