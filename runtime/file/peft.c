/* Adapter folders: reading them whole, writing them whole. */
#define _POSIX_C_SOURCE 200809L
#include "runtime/file/peft.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/base/mapfile.h"
#include "runtime/file/folder.h"
#include "runtime/file/peft_impl.h"
#include "runtime/file/safetensors.h"

static const char PREFIX[] = HN_PEFT_PREFIX, END_A[] = ".lora_A.weight", END_B[] = ".lora_B.weight";
static const char END_M[] = ".lora_magnitude_vector";
static const char CONFIG[] = HN_PEFT_CONFIG, TENSORS[] = HN_PEFT_TENSORS;

void hn_peft_clear(hn_peft_adapter *a)
{
    for (int64_t i = 0; i < a->n; i++) {
        hn_free(a->modules[i].module);
        hn_free(a->modules[i].a);
        hn_free(a->modules[i].b);
        hn_free(a->modules[i].m);
    }
    for (int64_t i = 0; i < a->n_saved; i++) {
        hn_free(a->saved[i].name);
        hn_free(a->saved[i].value);
    }
    hn_free(a->modules);
    hn_free(a->saved);
    hn_peft_config_clear(&a->config);
    *a = (hn_peft_adapter){0};
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const hn_peft_module *)a)->module, ((const hn_peft_module *)b)->module);
}

const hn_peft_module *hn_peft_find(const hn_peft_adapter *a, const char *module)
{
    /* the key is only read */
    const hn_peft_module key = {.module = (char *)(size_t)module};
    if (a->n == 0) return NULL;
    return bsearch(&key, a->modules, (size_t)a->n, sizeof *a->modules, by_path);
}

const hn_peft_tensor *hn_peft_saved(const hn_peft_adapter *a, const char *name)
{
    for (int64_t i = 0; i < a->n_saved; i++)
        if (strcmp(a->saved[i].name, name) == 0) return &a->saved[i];
    return NULL;
}

/* ---- reading ---- */

/* Length of the module path when the name is "<PREFIX><module><end>", else 0. */
static size_t module_length(const char *name, const char *end)
{
    const size_t n = strlen(name), p = sizeof PREFIX - 1, e = strlen(end);
    if (n <= p + e || strncmp(name, PREFIX, p) != 0 || strcmp(name + n - e, end) != 0) return 0;
    return n - p - e;
}

static hn_status read_values(const hn_st_tensor *t, const char *where, float **out)
{
    *out = hn_malloc((size_t)hn_st_elements(t) * sizeof(float));
    if (*out == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for tensor '%.200s' of %s", t->name, where);
    return hn_st_convert(t, HN_F32, *out);
}

/* A matrix, or the kernel of a convolution as one: its first dimension, and all others. */
static hn_status read_matrix(const hn_st_tensor *t, const char *where, int64_t dim[2], float **out)
{
    bool fits = t->ndim == 2 || t->ndim == HN_PEFT_DIMS;
    for (int i = 0; fits && i < t->ndim; i++) fits = t->dim[i] >= 1;
    if (!fits)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: tensor '%.200s' is neither a matrix nor the kernel of a convolution "
                       "(%d dimensions)",
                       where, t->name, t->ndim);
    dim[0] = t->dim[0];
    dim[1] = hn_st_elements(t) / t->dim[0];
    return read_values(t, where, out);
}

/* Both of a linear layer, or both of a convolution, whose B is one of 1 x 1. */
static hn_status check_kinds(const hn_st_tensor *a, const hn_st_tensor *b, const char *where,
                             hn_peft_module *m)
{
    const bool conv = a->ndim == HN_PEFT_DIMS;
    if (a->ndim != b->ndim || (conv && (b->dim[2] != 1 || b->dim[3] != 1)))
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: module '%.200s': A has %d dimensions, B %d; those of a convolution's B "
                       "end with 1, 1",
                       where, m->module, a->ndim, b->ndim);
    m->kh = conv ? a->dim[2] : 0;
    m->kw = conv ? a->dim[3] : 0;
    return HN_OK;
}

/* The magnitudes of a module, which has them with DoRA alone; m owns them. */
static hn_status read_magnitudes(const hn_st_file *f, const hn_peft_config *c, hn_peft_module *m)
{
    const char *where = hn_st_where(f);
    if (!c->dora) return HN_OK;
    char *name = hn_asprintf("%s%s%s", PREFIX, m->module, END_M);
    if (name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
    const hn_st_tensor *t = hn_st_find(f, name);
    hn_free(name);
    if (m->kh > 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: module '%.200s' is a convolution: DoRA is supported on linear layers",
                       where, m->module);
    if (t == NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: module '%.200s' has no %s, though use_dora is set",
                       where, m->module, END_M + 1);
    if (t->ndim != 1 || t->dim[0] != m->out)
        return HN_FAIL(HN_ERR_SHAPE, "%s: tensor '%.200s' is not [%" PRId64 "]", where, t->name,
                       m->out);
    return read_values(t, where, &m->m);
}

/* A and B of one module, given A; m owns what is allocated even after an error. */
static hn_status read_module(const hn_st_file *f, const hn_peft_config *c, const hn_st_tensor *a,
                             hn_peft_module *m)
{
    const char *where = hn_st_where(f);
    int64_t a_dim[2], b_dim[2], r;
    bool matches;
    m->module = hn_strndup(a->name + sizeof PREFIX - 1, module_length(a->name, END_A));
    char *b_name = m->module ? hn_asprintf("%s%s%s", PREFIX, m->module, END_B) : NULL;
    if (b_name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
    const hn_st_tensor *b = hn_st_find(f, b_name);
    hn_free(b_name);
    if (b == NULL)
        return HN_FAIL(HN_ERR_FORMAT, "%s: tensor '%.200s' has no lora_B beside it", where,
                       a->name);
    HN_TRY(hn_peft_matches(c, m->module, &matches));
    if (!matches)
        return HN_FAIL(HN_ERR_FORMAT, "%s: module '%.200s' is not one that %s adapts", where,
                       m->module, CONFIG);
    HN_TRY(hn_peft_rank(c, m->module, &r, &m->scale));
    HN_TRY(read_matrix(a, where, a_dim, &m->a));
    HN_TRY(read_matrix(b, where, b_dim, &m->b));
    HN_TRY(check_kinds(a, b, where, m));
    if (a_dim[0] != r || b_dim[1] != r)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: module '%.200s': A [%" PRId64 ", %" PRId64 "] and B [%" PRId64
                       ", %" PRId64 "], but %s gives it rank %" PRId64,
                       where, m->module, a_dim[0], a_dim[1], b_dim[0], b_dim[1], CONFIG, r);
    m->r = r;
    m->in = a_dim[1];
    m->out = b_dim[0];
    return read_magnitudes(f, c, m);
}

/* Whether a tensor belongs to a module that is saved whole. */
static hn_status is_saved(const hn_peft_config *c, const hn_st_tensor *t, bool *out)
{
    const size_t weight = module_length(t->name, ".weight"), bias = module_length(t->name, ".bias");
    const size_t n = weight ? weight : bias;
    *out = false;
    if (n == 0 || c->saved.n == 0) return HN_OK;
    char *module = hn_strndup(t->name + sizeof PREFIX - 1, n);
    if (module == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for '%.200s'", t->name);
    *out = hn_peft_saves(c, module);
    hn_free(module);
    return HN_OK;
}

/* to owns what is allocated even after an error. */
static hn_status read_saved(const hn_st_tensor *t, const char *where, hn_peft_tensor *to)
{
    if (t->ndim < 1 || t->ndim > HN_PEFT_DIMS || hn_st_elements(t) < 1)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: tensor '%.200s' has %d dimensions, 1 to %d", where,
                       t->name, t->ndim, HN_PEFT_DIMS);
    to->ndim = t->ndim;
    for (int i = 0; i < t->ndim; i++) to->dim[i] = t->dim[i];
    to->name = hn_strdup(t->name + sizeof PREFIX - 1);
    if (to->name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
    return read_values(t, where, &to->value);
}

/* A tensor that is not the A of a module: its B or its magnitudes, or none of them. */
static hn_status check_other(const hn_st_file *f, const hn_peft_config *c, const hn_st_tensor *t)
{
    const size_t b = module_length(t->name, END_B), m = module_length(t->name, END_M);
    const size_t n = b ? b : m;
    if (m > 0 && !c->dora)
        return HN_FAIL(HN_ERR_FORMAT, "%s: tensor '%.200s' belongs to DoRA, but %s has no use_dora",
                       hn_st_where(f), t->name, CONFIG);
    if (n == 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: tensor '%.200s' is not %s<module>%s, %s or %s: only LoRA and DoRA on "
                       "linear layers, LoRA on convolutions, and modules_to_save are supported",
                       hn_st_where(f), t->name, PREFIX, END_A, END_B, END_M);
    char *a_name = hn_asprintf("%.*s%s", (int)(sizeof PREFIX - 1 + n), t->name, END_A);
    if (a_name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", hn_st_where(f));
    const bool paired = hn_st_find(f, a_name) != NULL;
    hn_free(a_name);
    if (paired) return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT, "%s: tensor '%.200s' has no lora_A beside it", hn_st_where(f),
                   t->name);
}

static hn_status read_tensors(const char *path, hn_peft_adapter *a)
{
    hn_st_file *f = NULL;
    hn_status st;
    HN_TRY(hn_st_open(path, &f));
    const int64_t n = hn_st_count(f);
    if (n == 0) {
        st = HN_FAIL(HN_ERR_FORMAT, "%s: no tensors", path);
        goto done;
    }
    a->modules = hn_calloc((size_t)n, sizeof *a->modules);
    a->saved = hn_calloc((size_t)n, sizeof *a->saved);
    if (a->modules == NULL || a->saved == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " tensors of %s", n, path);
        goto done;
    }
    for (int64_t i = 0; i < n; i++) {
        const hn_st_tensor *t = hn_st_at(f, i);
        bool saved;
        HN_TRY_GOTO(st, is_saved(&a->config, t, &saved), done);
        if (saved)
            st = read_saved(t, path, &a->saved[a->n_saved++]);
        else if (module_length(t->name, END_A) > 0)
            st = read_module(f, &a->config, t, &a->modules[a->n++]);
        else
            st = check_other(f, &a->config, t);
        if (st != HN_OK) goto done;
    }
    qsort(a->modules, (size_t)a->n, sizeof *a->modules, by_path);

done:
    hn_st_close(f);
    return st;
}

static hn_status load_config(const char *path, hn_peft_config *out)
{
    hn_mapfile map = {0};
    HN_TRY(hn_mapfile_open(path, &map));
    const hn_status st = hn_peft_config_parse((const char *)map.data, map.size, path, out);
    hn_mapfile_close(&map);
    return st;
}

hn_status hn_peft_load(const char *dir, hn_peft_adapter *out)
{
    hn_status st = HN_OK;
    hn_peft_adapter a = {0};
    char *config = hn_asprintf("%s/%s", dir, CONFIG);
    char *tensors = hn_asprintf("%s/%s", dir, TENSORS);
    char *pickle = hn_asprintf("%s/adapter_model.bin", dir);
    if (config == NULL || tensors == NULL || pickle == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", dir);
        goto done;
    }
    HN_TRY_GOTO(st, load_config(config, &a.config), done);
    if (!hn_is_file(tensors) && hn_is_file(pickle)) {
        st = HN_FAIL(HN_ERR_UNSUPPORTED,
                     "%s is a pickle, which can run code: load it with PEFT and save it again with "
                     "save_pretrained(..., safe_serialization=True)",
                     pickle);
        goto done;
    }
    HN_TRY_GOTO(st, read_tensors(tensors, &a), done);
    *out = a;
    a = (hn_peft_adapter){0};

done:
    hn_peft_clear(&a);
    hn_free(pickle);
    hn_free(tensors);
    hn_free(config);
    return st;
}

/* ---- writing ---- */

/* A whole number is written as one: older tools want an integer. */
static json_t *number(double v)
{
    return v == floor(v) && fabs(v) < 1e15 ? json_integer((json_int_t)v) : json_real(v);
}

json_t *hn_peft_text_json(const char *s) { return s ? json_string(s) : json_null(); }

static json_t *list_of(const hn_names *names)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < names->n; i++)
        if (json_array_append_new(list, json_string(names->items[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

json_t *hn_peft_selector_json(const hn_peft_selector *s)
{
    return s->regex ? json_string(s->regex) : list_of(&s->list);
}

static json_t *pattern(const hn_peft_pattern *p)
{
    json_t *o = json_object();
    for (int64_t i = 0; i < p->n; i++)
        if (json_object_set_new(o, p->items[i].key, number(p->items[i].value)) != 0) {
            json_decref(o);
            return NULL;
        }
    return o;
}

static json_t *layers(const hn_peft_config *c)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < c->n_layers; i++)
        if (json_array_append_new(list, json_integer(c->layers[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

/* Only what is needed: an older PEFT stops at a key that it does not know. Keys in byte order, but
 * not those of the patterns: there the first match wins. */
static json_t *config_json(const hn_peft_config *c)
{
    json_t *o = json_object();
    int bad = 0;
    if (c->alphas.n > 0) bad |= json_object_set_new(o, "alpha_pattern", pattern(&c->alphas));
    bad |= json_object_set_new(o, "base_model_name_or_path", hn_peft_text_json(c->base_model));
    bad |= json_object_set_new(o, "bias", json_string("none"));
    if (c->exclude.regex != NULL || c->exclude.list.n > 0)
        bad |= json_object_set_new(o, "exclude_modules", hn_peft_selector_json(&c->exclude));
    bad |= json_object_set_new(o, "fan_in_fan_out", json_boolean(c->fan_in_fan_out));
    bad |= json_object_set_new(o, "inference_mode", json_true());
    bad |= json_object_set_new(o, "init_lora_weights", json_true());
    if (c->layers_pattern.n > 0)
        bad |= json_object_set_new(o, "layers_pattern", list_of(&c->layers_pattern));
    if (c->n_layers > 0) bad |= json_object_set_new(o, "layers_to_transform", layers(c));
    bad |= json_object_set_new(o, "lora_alpha", number(c->alpha));
    bad |= json_object_set_new(o, "lora_dropout", json_real(c->dropout));
    bad |= json_object_set_new(o, "modules_to_save",
                               c->saved.n > 0 ? list_of(&c->saved) : json_null());
    bad |= json_object_set_new(o, "peft_type", json_string("LORA"));
    bad |= json_object_set_new(o, "r", json_integer(c->r));
    if (c->ranks.n > 0) bad |= json_object_set_new(o, "rank_pattern", pattern(&c->ranks));
    bad |= json_object_set_new(o, "revision", hn_peft_text_json(c->revision));
    bad |= json_object_set_new(o, "target_modules", hn_peft_selector_json(&c->targets));
    bad |= json_object_set_new(o, "task_type", hn_peft_text_json(c->task_type));
    if (c->dora) bad |= json_object_set_new(o, "use_dora", json_true());
    if (c->rslora) bad |= json_object_set_new(o, "use_rslora", json_true());
    if (bad == 0) return o;
    json_decref(o);
    return NULL;
}

static hn_status check_finite(const char *module, const float *v, int64_t n, const char *which)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return HN_FAIL(HN_ERR_NUMERIC, "module '%.200s': element %" PRId64 " of %s is %g",
                           module, i, which, (double)v[i]);
    return HN_OK;
}

/* What a reader would make of the config must be what the module is. */
static hn_status check_module(const hn_peft_config *c, const hn_peft_module *m)
{
    bool matches;
    int64_t r;
    double scale;
    if (m->r < 1 || m->in < 1 || m->out < 1 || m->a == NULL || m->b == NULL)
        return HN_FAIL(HN_ERR_ARG, "module '%.200s' has no A and B", m->module);
    HN_TRY(hn_peft_matches(c, m->module, &matches));
    if (!matches)
        return HN_FAIL(HN_ERR_ARG, "module '%.200s' is not among the targets of the adapter",
                       m->module);
    if ((m->m != NULL) != c->dora)
        return HN_FAIL(HN_ERR_ARG, "module '%.200s' has %s magnitudes, its config says %s",
                       m->module, m->m ? "trained" : "no", c->dora ? "DoRA" : "LoRA");
    HN_TRY(hn_peft_rank(c, m->module, &r, &scale));
    if (r != m->r || fabs(scale - m->scale) > 1e-12 * fabs(scale))
        return HN_FAIL(HN_ERR_ARG,
                       "module '%.200s': rank %" PRId64 ", scale %.17g; its config says %" PRId64
                       ", %.17g",
                       m->module, m->r, m->scale, r, scale);
    HN_TRY(check_finite(m->module, m->a, m->r * m->in, "A"));
    if (m->m != NULL) HN_TRY(check_finite(m->module, m->m, m->out, "the magnitudes"));
    return check_finite(m->module, m->b, m->out * m->r, "B");
}

static hn_status check_saved(const hn_peft_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++) n *= t->dim[i];
    return check_finite(t->name, t->value, n, "it");
}

/* Data in the type of the file: v itself, or a copy that *copy owns. */
static hn_status in_dtype(const float *v, int64_t n, hn_dtype dtype, hn_bf16 **copy,
                          const void **out)
{
    *out = v;
    if (dtype == HN_F32) return HN_OK;
    *copy = hn_malloc((size_t)n * sizeof **copy);
    if (*copy == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " elements", n);
    for (int64_t i = 0; i < n; i++) (*copy)[i] = hn_bf16_from_f32(v[i]);
    *out = *copy;
    return HN_OK;
}

typedef struct {
    hn_st_entry *entries;
    char **names;
    hn_bf16 **copies;
    int64_t n; /* two or three a module, then what is saved whole */
} tensor_list;

static void tensor_list_free(tensor_list *l)
{
    for (int64_t i = 0; i < l->n; i++) {
        if (l->names != NULL) hn_free(l->names[i]);
        if (l->copies != NULL) hn_free(l->copies[i]);
    }
    hn_free(l->names);
    hn_free(l->copies);
    hn_free(l->entries);
}

static hn_status add_tensor(tensor_list *l, int64_t i, const hn_peft_module *m, bool is_a,
                            hn_dtype dtype)
{
    l->names[i] = hn_asprintf("%s%s%s", PREFIX, m->module, is_a ? END_A : END_B);
    if (l->names[i] == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write '%s'", m->module);
    hn_st_entry *e = &l->entries[i];
    const bool conv = m->kh > 0;
    *e = (hn_st_entry){
        .name = l->names[i], .dtype = hn_st_dtype_of(dtype), .ndim = conv ? HN_PEFT_DIMS : 2};
    e->dim[0] = is_a ? m->r : m->out;
    e->dim[1] = is_a ? m->in : m->r;
    if (conv && is_a) e->dim[1] /= m->kh * m->kw;
    if (conv) e->dim[2] = is_a ? m->kh : 1;
    if (conv) e->dim[3] = is_a ? m->kw : 1;
    return in_dtype(is_a ? m->a : m->b, is_a ? m->r * m->in : m->out * m->r, dtype, &l->copies[i],
                    &e->data);
}

static hn_status add_magnitudes(tensor_list *l, int64_t i, const hn_peft_module *m, hn_dtype dtype)
{
    l->names[i] = hn_asprintf("%s%s%s", PREFIX, m->module, END_M);
    if (l->names[i] == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write '%s'", m->module);
    l->entries[i] = (hn_st_entry){
        .name = l->names[i], .dtype = hn_st_dtype_of(dtype), .ndim = 1, .dim = {m->out}};
    return in_dtype(m->m, m->out, dtype, &l->copies[i], &l->entries[i].data);
}

static hn_status add_saved(tensor_list *l, int64_t i, const hn_peft_tensor *t, hn_dtype dtype)
{
    int64_t n = 1;
    l->names[i] = hn_asprintf("%s%s", PREFIX, t->name);
    if (l->names[i] == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write '%s'", t->name);
    hn_st_entry *e = &l->entries[i];
    *e = (hn_st_entry){.name = l->names[i], .dtype = hn_st_dtype_of(dtype), .ndim = t->ndim};
    for (int k = 0; k < t->ndim; k++) n *= e->dim[k] = t->dim[k];
    return in_dtype(t->value, n, dtype, &l->copies[i], &e->data);
}

static hn_status write_tensors(const char *path, const hn_peft_adapter *a, hn_dtype dtype)
{
    static const char *const pt[][2] = {{"format", "pt"}};
    hn_status st = HN_OK;
    const int64_t each = a->config.dora ? 3 : 2, pairs = each * a->n;
    tensor_list l = {.n = pairs + a->n_saved};
    const size_t n = (size_t)l.n;
    l.entries = hn_calloc(n, sizeof *l.entries);
    l.names = hn_calloc(n, sizeof *l.names);
    l.copies = hn_calloc(n, sizeof *l.copies);
    if (l.entries == NULL || l.names == NULL || l.copies == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", path);
        goto done;
    }
    for (int64_t i = 0; i < a->n; i++) {
        const hn_peft_module *m = &a->modules[i];
        HN_TRY_GOTO(st, add_tensor(&l, each * i, m, true, dtype), done);
        HN_TRY_GOTO(st, add_tensor(&l, each * i + 1, m, false, dtype), done);
        if (m->m != NULL) HN_TRY_GOTO(st, add_magnitudes(&l, each * i + 2, m, dtype), done);
    }
    for (int64_t i = pairs; i < l.n; i++)
        HN_TRY_GOTO(st, add_saved(&l, i, &a->saved[i - pairs], dtype), done);
    st = hn_st_save(path, l.entries, l.n, pt, 1, NULL, NULL);

done:
    tensor_list_free(&l);
    return st;
}

static hn_status write_folder(const char *dir, const hn_peft_adapter *a, hn_dtype dtype)
{
    hn_status st = HN_OK;
    char *config = hn_asprintf("%s/%s", dir, CONFIG);
    char *tensors = hn_asprintf("%s/%s", dir, TENSORS);
    json_t *o = config_json(&a->config);
    if (config == NULL || tensors == NULL || o == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s (are its names UTF-8?)", dir);
        goto done;
    }
    HN_TRY_GOTO(st, write_tensors(tensors, a, dtype), done);
    st = hn_json_save(config, o, false);

done:
    json_decref(o);
    hn_free(tensors);
    hn_free(config);
    return st;
}

/* README.md as a second link, so that a kill loses nothing. */
hn_status hn_peft_adopt_old(const char *old, const char *new)
{
    char **names = NULL;
    int64_t n = 0;
    hn_status st = HN_OK;
    if (!hn_is_folder(old)) return HN_OK;
    HN_TRY(hn_folder_names(old, &names, &n));
    for (int64_t i = 0; i < n && st == HN_OK; i++) {
        if (strcmp(names[i], CONFIG) == 0 || strcmp(names[i], TENSORS) == 0) continue;
        if (strcmp(names[i], "README.md") != 0) {
            st = HN_FAIL(HN_ERR_IO, "%s already holds '%s': choose a new or empty folder", old,
                         names[i]);
            break;
        }
        char *from = hn_asprintf("%s/%s", old, names[i]), *to = hn_asprintf("%s/%s", new, names[i]);
        if (from == NULL || to == NULL)
            st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", old);
        else if (link(from, to) != 0)
            st = hn_copy_file(from, to);
        hn_free(from);
        hn_free(to);
    }
    hn_folder_names_free(names, n);
    return st;
}

hn_status hn_peft_save(const char *dir, const hn_peft_adapter *a, hn_dtype dtype)
{
    if (dtype != HN_F32 && dtype != HN_BF16)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: an adapter is written in f32 or bf16, not %s", dir,
                       hn_dtype_name(dtype));
    if (a->n == 0) return HN_FAIL(HN_ERR_ARG, "%s: an adapter without modules", dir);
    for (int64_t i = 0; i < a->n; i++) HN_TRY(check_module(&a->config, &a->modules[i]));
    for (int64_t i = 0; i < a->n_saved; i++) HN_TRY(check_saved(&a->saved[i]));
    hn_folder *folder = NULL;
    HN_TRY(hn_folder_begin(dir, &folder));
    hn_status st;
    HN_TRY_GOTO(st, hn_peft_adopt_old(hn_folder_path(folder), hn_folder_temporary(folder)), done);
    HN_TRY_GOTO(st, write_folder(hn_folder_temporary(folder), a, dtype), done);
    st = hn_folder_commit(folder, true);
    folder = NULL;

done:
    hn_folder_abort(folder);
    return st;
}
