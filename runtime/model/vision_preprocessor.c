/* preprocessor_config.json: how pixels become a model's input (Hugging Face's image processors). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/json.h"
#include "runtime/model/vision_config.h"

/* What decides about shapes and filters is ours (hn_image_resize_crop); what does not touch pixels
 * is nobody's business. */
static const char *const known_keys[] = {"image_mean",
                                         "image_std",
                                         "do_normalize",
                                         "do_rescale",
                                         "rescale_factor",
                                         "size",
                                         "do_resize",
                                         "resample",
                                         "crop_pct",
                                         "crop_size",
                                         "do_center_crop",
                                         "image_processor_type",
                                         "processor_class",
                                         "data_format",
                                         "feature_extractor_type",
                                         "input_data_format",
                                         "do_convert_rgb",
                                         "return_tensors",
                                         "device",
                                         "disable_grouping",
                                         "default_to_square"};

static hn_status check_keys(const json_t *j, const char *where)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(size_t)j, key, value)
    {
        bool known = json_is_null(value) || json_is_false(value);
        for (size_t i = 0; !known && i < sizeof known_keys / sizeof *known_keys; i++)
            known = strcmp(key, known_keys[i]) == 0;
        if (!known)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: key '%.80s' is set, and is not known", where,
                           key);
    }
    return HN_OK;
}

static hn_status read_values(const json_t *j, const char *key, const char *where, int64_t n,
                             bool positive, float *out)
{
    const json_t *list = json_object_get(j, key);
    if (list == NULL || json_is_null(list)) return HN_OK;
    if ((int64_t)json_array_size(list) != n)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s must have %d numbers, as many as channels", where,
                       key, (int)n);
    for (int64_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        const double x = json_number_value(v);
        if (!json_is_number(v) || !isfinite(x) || (positive && !(x > 0)))
            return HN_FAIL(HN_ERR_FORMAT, "%s: %s[%d] is no %snumber", where, key, (int)i,
                           positive ? "positive " : "");
        out[i] = (float)x;
    }
    return HN_OK;
}

/* Pixels are divided by 255, always. */
static hn_status check_scale(const json_t *j, const char *where)
{
    bool rescale = true;
    double factor = 1.0 / 255;
    HN_TRY(hn_json_get_bool(j, "do_rescale", where, false, &rescale));
    HN_TRY(hn_json_get_f64(j, "rescale_factor", where, false, &factor));
    if (rescale && fabs(factor * 255 - 1) < 1e-6) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: do_rescale %s, rescale_factor %g; only 1/255", where,
                   rescale ? "true" : "false", factor);
}

/* A number, {"height", "width"} or {"shortest_edge"}. */
static hn_status read_size(const json_t *j, const char *where, hn_vision_config *c)
{
    static const char *const keys[] = {"height", "width", "shortest_edge"};
    const json_t *size = json_object_get(j, "size");
    int64_t side = 0;
    if (json_is_integer(size)) side = json_integer_value(size);
    for (int i = 0; i < 3 && json_is_object(size); i++) {
        const json_t *v = json_object_get(size, keys[i]);
        if (v == NULL) continue;
        if (!json_is_integer(v) || (side > 0 && json_integer_value(v) != side))
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: size is not that of a square", where);
        side = json_integer_value(v);
    }
    if (size == NULL || json_is_null(size)) return HN_OK;
    if (side <= 0) return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: size names no side of a square", where);
    if (c->family == HN_VISION_VIT) return HN_OK; /* its positions know the size */
    const hn_vision_override o = {.image = side};
    return hn_vision_config_override(c, &o, where);
}

hn_status hn_vision_preprocessor_read(const json_t *j, const char *where, hn_vision_config *c)
{
    bool normalize = true;
    if (!json_is_object(j)) return HN_FAIL(HN_ERR_FORMAT, "%s: not a JSON object", where);
    HN_TRY(check_keys(j, where));
    HN_TRY(check_scale(j, where));
    HN_TRY(read_size(j, where, c));
    HN_TRY(hn_json_get_bool(j, "do_normalize", where, false, &normalize));
    for (int64_t k = 0; !normalize && k < c->channels; k++) {
        c->mean[k] = 0;
        c->std[k] = 1;
    }
    if (!normalize) return HN_OK;
    HN_TRY(read_values(j, "image_mean", where, c->channels, false, c->mean));
    return read_values(j, "image_std", where, c->channels, true, c->std);
}
