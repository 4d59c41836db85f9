#include "runtime/file/shira.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/file/folder.h"
#include "runtime/file/peft_impl.h"
#include "runtime/file/safetensors.h"

static const char PREFIX[] = HN_PEFT_PREFIX, END_WEIGHT[] = ".shira_weight",
                  END_INDICES[] = ".shira_indices";

static void module_free(hn_shira_module *m)
{
    hn_free(m->module);
    hn_free(m->at);
    hn_free(m->value);
    *m = (hn_shira_module){0};
}

void hn_shira_clear(hn_shira_adapter *a)
{
    for (int64_t i = 0; i < a->n; i++) module_free(&a->modules[i]);
    hn_free(a->modules);
    hn_peft_config_clear(&a->config);
    *a = (hn_shira_adapter){0};
}

/* ---- from blocks ---- */

static bool fits(int64_t out, int64_t in, int64_t br, int64_t bc)
{
    return out >= 1 && in >= 1 && out <= INT32_MAX && in <= INT32_MAX && br >= 1 && bc >= 1 &&
           out % br == 0 && in % bc == 0;
}

/* Blocks first..last-1 lie in one row of blocks: their values row by row of the matrix. */
static void add_strip(hn_shira_module *m, int64_t br, int64_t bc, const int32_t *id, int64_t first,
                      int64_t last, const float *delta)
{
    const int64_t across = m->in / bc, row = id[first] / across * br;
    for (int64_t r = 0; r < br; r++)
        for (int64_t i = first; i < last; i++)
            for (int64_t c = 0; c < bc; c++) {
                const float v = delta[(i * br + r) * bc + c];
                if (v == 0) continue;
                m->at[m->n] = (row + r) * m->in + id[i] % across * bc + c;
                m->value[m->n++] = v;
            }
}

static hn_status check_blocks(const hn_shira_module *m, int64_t br, int64_t bc, const int32_t *id,
                              int64_t n, const float *delta)
{
    if (!fits(m->out, m->in, br, bc))
        return HN_FAIL(HN_ERR_ARG,
                       "module '%.200s': blocks of %" PRId64 " x %" PRId64 " in [%" PRId64
                       ", %" PRId64 "]",
                       m->module, br, bc, m->out, m->in);
    const int64_t blocks = (m->out / br) * (m->in / bc);
    for (int64_t i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= blocks || (i > 0 && id[i] <= id[i - 1]))
            return HN_FAIL(HN_ERR_ARG,
                           "module '%.200s': block %d is out of order or beyond %" PRId64,
                           m->module, (int)id[i], blocks);
    for (int64_t i = 0; i < n * br * bc; i++)
        if (!isfinite(delta[i]))
            return HN_FAIL(HN_ERR_NUMERIC, "module '%.200s': value %" PRId64 " is %g", m->module, i,
                           (double)delta[i]);
    return HN_OK;
}

hn_status hn_shira_add(hn_shira_adapter *a, const char *module, int64_t out, int64_t in, int64_t br,
                       int64_t bc, const int32_t *id, int64_t n, const float *delta)
{
    hn_shira_module m = {.out = out, .in = in, .module = hn_strdup(module)};
    hn_status st = HN_OK;
    if (m.module == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for '%.200s'", module);
    HN_TRY_GOTO(st, check_blocks(&m, br, bc, id, n, delta), done);
    HN_TRY_GOTO(st, hn_grow(&a->modules, &a->cap, a->n, sizeof *a->modules), done);
    m.at = hn_malloc((size_t)(n * br * bc) * sizeof *m.at);
    m.value = hn_malloc((size_t)(n * br * bc) * sizeof *m.value);
    if (m.at == NULL || m.value == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for '%.200s'", module);
        goto done;
    }
    for (int64_t first = 0, last; first < n; first = last) {
        const int64_t across = in / bc;
        for (last = first + 1; last < n && id[last] / across == id[first] / across;) last++;
        add_strip(&m, br, bc, id, first, last, delta);
    }
    a->modules[a->n++] = m;
    m = (hn_shira_module){0};

done:
    module_free(&m);
    return st;
}

/* ---- writing ---- */

hn_status hn_shira_slots(const hn_shira_adapter *a, int64_t *r, int64_t *slots, int64_t *used)
{
    int64_t rank = 1, sides = 0, n = 0;
    for (int64_t i = 0; i < a->n; i++) {
        const hn_shira_module *m = &a->modules[i];
        const int64_t side = m->in + m->out, need = (m->n + side - 1) / side;
        if (need > rank) rank = need;
        sides += side;
        n += m->n;
    }
    for (int64_t i = 0; i < a->n; i++) {
        const hn_shira_module *m = &a->modules[i];
        if (rank > m->in * m->out / (m->in + m->out))
            return HN_FAIL(HN_ERR_UNSUPPORTED,
                           "module '%.200s' [%" PRId64 ", %" PRId64 "] has no room for the r = "
                           "%" PRId64 " that SHiRA needs: export merged weights or our own pack",
                           m->module, m->out, m->in, rank);
    }
    *r = rank;
    *slots = rank * sides;
    *used = n;
    return HN_OK;
}

/* What a reader would make of it must be what it is. */
static hn_status check_adapter(const hn_shira_adapter *a, const char *dir, int64_t *r)
{
    int64_t slots, used;
    if (a->n == 0) return HN_FAIL(HN_ERR_ARG, "%s: an adapter without modules", dir);
    HN_TRY(hn_shira_slots(a, r, &slots, &used));
    if (slots / 2 > used)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: SHiRA has one r for all modules, here %" PRId64 ": %" PRId64
                       " slots for %" PRId64 " values, more than twice as many: export merged "
                       "weights or our own pack",
                       dir, *r, slots, used);
    for (int64_t i = 0; i < a->n; i++) {
        const char *module = a->modules[i].module;
        bool matches;
        HN_TRY(hn_peft_matches(&a->config, module, &matches));
        if (!matches)
            return HN_FAIL(HN_ERR_ARG, "module '%.200s' is not among the targets of the adapter",
                           module);
    }
    return HN_OK;
}

/* Only what is needed; keys in byte order. */
static json_t *config_json(const hn_peft_config *c, int64_t r)
{
    return json_pack(
        "{s:o, s:b, s:b, s:b, s:s, s:n, s:s, s:I, s:n, s:o, s:o, s:o}", "base_model_name_or_path",
        hn_peft_text_json(c->base_model), "fan_in_fan_out", 0, "inference_mode", 1, "init_weights",
        1, "mask_type", "random", "modules_to_save", "peft_type", "SHIRA", "r", (json_int_t)r,
        "random_seed", "revision", hn_peft_text_json(c->revision), "target_modules",
        hn_peft_selector_json(&c->targets), "task_type", hn_peft_text_json(c->task_type));
}

typedef struct {
    hn_st_entry *entry;
    char **name;
    void **own;
    int64_t n;
} tensors;

static void tensors_free(tensors *t)
{
    for (int64_t i = 0; t->name != NULL && t->own != NULL && i < t->n; i++) {
        hn_free(t->name[i]);
        hn_free(t->own[i]);
    }
    hn_free(t->entry);
    hn_free(t->name);
    hn_free(t->own);
}

/* The values and n - m->n zeros at the first positions that are not in use, merged by position.
 * weight [n] of dtype, index [2, n]. */
static void fill_slots(const hn_shira_module *m, int64_t n, hn_dtype dtype, void *weight,
                       int32_t *index)
{
    int64_t pad = n - m->n, used = 0;
    for (int64_t i = 0, at = 0; i < n; i++, at++) {
        const bool taken = used < m->n && (m->at[used] == at || pad == 0);
        if (taken)
            at = m->at[used];
        else
            pad--;
        hn_set_f32(weight, dtype, i, taken ? m->value[used++] : 0.0f);
        index[i] = (int32_t)(at / m->in);
        index[n + i] = (int32_t)(at % m->in);
    }
}

static hn_status add_module(tensors *t, const hn_shira_module *m, int64_t r, hn_dtype dtype)
{
    const int64_t n = r * (m->in + m->out), k = t->n;
    t->n += 2;
    t->name[k] = hn_asprintf("%s%s%s", PREFIX, m->module, END_WEIGHT);
    t->name[k + 1] = hn_asprintf("%s%s%s", PREFIX, m->module, END_INDICES);
    t->own[k] = hn_malloc((size_t)n * hn_dtype_size(dtype));
    t->own[k + 1] = hn_malloc(2 * (size_t)n * sizeof(int32_t));
    if (!t->name[k] || !t->name[k + 1] || !t->own[k] || !t->own[k + 1])
        return HN_FAIL(HN_ERR_MEMORY, "no memory to write '%.200s'", m->module);
    fill_slots(m, n, dtype, t->own[k], t->own[k + 1]);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(hn_get_f32(t->own[k], dtype, i)))
            return HN_FAIL(HN_ERR_NUMERIC, "module '%.200s': a value does not fit into %s",
                           m->module, hn_dtype_name(dtype));
    t->entry[k] = (hn_st_entry){.name = t->name[k],
                                .dtype = hn_st_dtype_of(dtype),
                                .ndim = 1,
                                .dim = {n},
                                .data = t->own[k]};
    t->entry[k + 1] = (hn_st_entry){.name = t->name[k + 1],
                                    .dtype = HN_ST_I32,
                                    .ndim = 2,
                                    .dim = {2, n},
                                    .data = t->own[k + 1]};
    return HN_OK;
}

static hn_status write_tensors(const char *path, const hn_shira_adapter *a, int64_t r,
                               hn_dtype dtype)
{
    static const char *const pt[][2] = {{"format", "pt"}};
    hn_status st = HN_OK;
    const size_t n = 2 * (size_t)a->n;
    tensors t = {.entry = hn_calloc(n, sizeof *t.entry),
                 .name = hn_calloc(n, sizeof *t.name),
                 .own = hn_calloc(n, sizeof *t.own)};
    if (t.entry == NULL || t.name == NULL || t.own == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", path);
    for (int64_t i = 0; i < a->n && st == HN_OK; i++) st = add_module(&t, &a->modules[i], r, dtype);
    if (st == HN_OK) st = hn_st_save(path, t.entry, t.n, pt, 1, NULL, NULL);
    tensors_free(&t);
    return st;
}

static hn_status write_folder(const char *dir, const hn_shira_adapter *a, int64_t r, hn_dtype dtype)
{
    hn_status st = HN_OK;
    char *config = hn_asprintf("%s/%s", dir, HN_PEFT_CONFIG);
    char *path = hn_asprintf("%s/%s", dir, HN_PEFT_TENSORS);
    json_t *o = config_json(&a->config, r);
    if (config == NULL || path == NULL || o == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s (are its names UTF-8?)", dir);
        goto done;
    }
    HN_TRY_GOTO(st, write_tensors(path, a, r, dtype), done);
    st = hn_json_save(config, o, false);

done:
    json_decref(o);
    hn_free(path);
    hn_free(config);
    return st;
}

hn_status hn_shira_save(const char *dir, const hn_shira_adapter *a, hn_dtype dtype)
{
    int64_t r;
    if (dtype != HN_F32 && dtype != HN_BF16)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: an adapter is written in f32 or bf16, not %s", dir,
                       hn_dtype_name(dtype));
    HN_TRY(check_adapter(a, dir, &r));
    hn_folder *folder = NULL;
    HN_TRY(hn_folder_begin(dir, &folder));
    hn_status st;
    HN_TRY_GOTO(st, hn_peft_adopt_old(hn_folder_path(folder), hn_folder_temporary(folder)), done);
    HN_TRY_GOTO(st, write_folder(hn_folder_temporary(folder), a, r, dtype), done);
    st = hn_folder_commit(folder, true);
    folder = NULL;

done:
    hn_folder_abort(folder);
    return st;
}

/* ---- reading ---- */

static hn_status check_keys(json_t *o, const char *where)
{
    static const char *const known[] = {"peft_type",      "r",
                                        "mask_type",      "random_seed",
                                        "target_modules", "init_weights",
                                        "task_type",      "base_model_name_or_path",
                                        "revision",       "inference_mode",
                                        "auto_mapping",   "peft_version"};
    for (void *at = json_object_iter(o); at != NULL; at = json_object_iter_next(o, at)) {
        const char *key = json_object_iter_key(at);
        bool is_known = hn_peft_is_off(json_object_iter_value(at));
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            if (strcmp(known[i], key) == 0) is_known = true;
        if (!is_known)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: key '%.200s' is set, and that is not supported",
                           where, key);
    }
    return HN_OK;
}

static hn_status check_value(const json_t *o, const char *key, const char *where, bool required,
                             const char *want)
{
    const char *text = want;
    HN_TRY(hn_json_get_text(o, key, where, required, &text));
    if (strcmp(text, want) == 0) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: key '%s' is '%.40s', supported is '%s'", where, key,
                   text, want);
}

/* c owns what is allocated even after an error. */
static hn_status read_config(json_t *o, const char *where, hn_peft_config *c)
{
    if (!json_is_object(o)) return HN_FAIL(HN_ERR_FORMAT, "%s: not a JSON object", where);
    c->r = 32; /* PEFT's default */
    HN_TRY(check_value(o, "peft_type", where, true, "SHIRA"));
    HN_TRY(check_value(o, "mask_type", where, false, "random"));
    HN_TRY(check_keys(o, where));
    HN_TRY(hn_json_get_i64(o, "r", where, 1, INT32_MAX, false, &c->r));
    HN_TRY(hn_peft_copy_text(o, "base_model_name_or_path", where, &c->base_model));
    HN_TRY(hn_peft_copy_text(o, "revision", where, &c->revision));
    HN_TRY(hn_peft_copy_text(o, "task_type", where, &c->task_type));
    HN_TRY(hn_peft_read_selector(o, "target_modules", where, &c->targets));
    if (c->targets.regex == NULL && c->targets.list.n == 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: key 'target_modules' is missing or empty", where);
    return HN_OK;
}

typedef struct {
    int64_t at;
    float value;
} slot;

static int by_position(const void *a, const void *b)
{
    const int64_t x = ((const slot *)a)->at, y = ((const slot *)b)->at;
    return x < y ? -1 : x > y;
}

/* Slots by position; HN_ERR_FORMAT for a position beyond the matrix or there twice. */
static hn_status read_slots(const hn_shira_module *m, const char *where, const int32_t *index,
                            const float *value, int64_t n, slot *to)
{
    for (int64_t i = 0; i < n; i++) {
        const int32_t row = index[i], col = index[n + i];
        if (row < 0 || row >= m->out || col < 0 || col >= m->in)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: module '%.200s': position (%d, %d) in [%" PRId64 ", %" PRId64 "]",
                           where, m->module, (int)row, (int)col, m->out, m->in);
        if (!isfinite(value[i]))
            return HN_FAIL(HN_ERR_NUMERIC, "%s: module '%.200s': value %" PRId64 " is %g", where,
                           m->module, i, (double)value[i]);
        to[i] = (slot){row * m->in + col, value[i]};
    }
    qsort(to, (size_t)n, sizeof *to, by_position);
    for (int64_t i = 1; i < n; i++)
        if (to[i].at == to[i - 1].at)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: module '%.200s': position (%" PRId64 ", %" PRId64 ") twice", where,
                           m->module, to[i].at / m->in, to[i].at % m->in);
    return HN_OK;
}

/* m->out, m->in and the names are there; m owns what is allocated even after an error. */
static hn_status read_values(const hn_st_tensor *weight, const hn_st_tensor *indices,
                             const char *where, hn_shira_module *m)
{
    const int64_t n = weight->dim[0];
    hn_status st = HN_OK;
    int32_t *index = hn_malloc(2 * (size_t)n * sizeof *index);
    float *value = hn_malloc((size_t)n * sizeof *value);
    slot *slots = hn_malloc((size_t)n * sizeof *slots);
    m->at = hn_malloc((size_t)n * sizeof *m->at);
    m->value = hn_malloc((size_t)n * sizeof *m->value);
    if (!index || !value || !slots || !m->at || !m->value) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to read '%.200s' of %s", m->module, where);
        goto done;
    }
    HN_TRY_GOTO(st, hn_st_convert(weight, HN_F32, value), done);
    HN_TRY_GOTO(st, hn_st_convert(indices, HN_I32, index), done);
    HN_TRY_GOTO(st, read_slots(m, where, index, value, n, slots), done);
    for (int64_t i = 0; i < n; i++) {
        if (slots[i].value == 0) continue;
        m->at[m->n] = slots[i].at;
        m->value[m->n++] = slots[i].value;
    }

done:
    hn_free(index);
    hn_free(value);
    hn_free(slots);
    return st;
}

typedef struct {
    const hn_st_file *f;
    const hn_peft_config *config;
    hn_shira_shape *shape;
    void *user;
} reader;

static hn_status read_module(const reader *r, const hn_st_tensor *weight, hn_shira_module *m)
{
    const char *where = hn_st_where(r->f);
    const size_t n = strlen(weight->name) - (sizeof PREFIX - 1) - (sizeof END_WEIGHT - 1);
    bool matches;
    m->module = hn_strndup(weight->name + sizeof PREFIX - 1, n);
    char *name = m->module ? hn_asprintf("%s%s%s", PREFIX, m->module, END_INDICES) : NULL;
    if (name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
    const hn_st_tensor *indices = hn_st_find(r->f, name);
    hn_free(name);
    HN_TRY(hn_peft_matches(r->config, m->module, &matches));
    if (!matches)
        return HN_FAIL(HN_ERR_FORMAT, "%s: module '%.200s' is not one that %s adapts", where,
                       m->module, HN_PEFT_CONFIG);
    if (!r->shape(r->user, m->module, &m->out, &m->in))
        return HN_FAIL(HN_ERR_SHAPE, "%s: the model has no linear layer '%.200s'", where,
                       m->module);
    const int64_t slots = r->config->r * (m->in + m->out);
    if (indices == NULL || weight->ndim != 1 || indices->ndim != 2 || indices->dim[0] != 2 ||
        weight->dim[0] != slots || indices->dim[1] != slots)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: module '%.200s': shira_weight and shira_indices are not [%" PRId64
                       "] and [2, %" PRId64 "], r (in + out) of %" PRId64 " and [%" PRId64
                       ", %" PRId64 "]",
                       where, m->module, slots, slots, r->config->r, m->out, m->in);
    return read_values(weight, indices, where, m);
}

static bool ends_with(const char *name, const char *end)
{
    const size_t n = strlen(name), e = strlen(end), p = sizeof PREFIX - 1;
    return n > p + e && strncmp(name, PREFIX, p) == 0 && strcmp(name + n - e, end) == 0;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const hn_shira_module *)a)->module, ((const hn_shira_module *)b)->module);
}

static hn_status read_tensors(const reader *r, hn_shira_adapter *a)
{
    const int64_t n = hn_st_count(r->f);
    const char *where = hn_st_where(r->f);
    a->modules = hn_calloc((size_t)n, sizeof *a->modules);
    if (a->modules == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", where);
    a->cap = n;
    for (int64_t i = 0; i < n; i++) {
        const hn_st_tensor *t = hn_st_at(r->f, i);
        if (ends_with(t->name, END_WEIGHT))
            HN_TRY(read_module(r, t, &a->modules[a->n++]));
        else if (!ends_with(t->name, END_INDICES))
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: tensor '%.200s' is not %s<module>%s or %s",
                           where, t->name, PREFIX, END_WEIGHT, END_INDICES);
    }
    if (a->n == 0 || n != 2 * a->n)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " tensors of %" PRId64 " modules", where, n,
                       a->n);
    qsort(a->modules, (size_t)a->n, sizeof *a->modules, by_path);
    return HN_OK;
}

hn_status hn_shira_load(const char *dir, hn_shira_shape *module_shape, void *user,
                        hn_shira_adapter *out)
{
    hn_status st = HN_OK;
    hn_shira_adapter a = {0};
    hn_st_file *f = NULL;
    json_t *o = NULL;
    char *config = hn_asprintf("%s/%s", dir, HN_PEFT_CONFIG);
    char *path = hn_asprintf("%s/%s", dir, HN_PEFT_TENSORS);
    if (config == NULL || path == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", dir);
        goto done;
    }
    HN_TRY_GOTO(st, hn_json_load(config, &o), done);
    HN_TRY_GOTO(st, read_config(o, config, &a.config), done);
    HN_TRY_GOTO(st, hn_st_open(path, &f), done);
    const reader r = {f, &a.config, module_shape, user};
    HN_TRY_GOTO(st, read_tensors(&r, &a), done);
    *out = a;
    a = (hn_shira_adapter){0};

done:
    hn_shira_clear(&a);
    json_decref(o);
    hn_st_close(f);
    hn_free(path);
    hn_free(config);
    return st;
}
