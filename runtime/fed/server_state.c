/* What a server keeps between rounds, as two files of a checkpoint. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/fed/server_impl.h"
#include "runtime/file/safetensors.h"

static const char TENSORS[] = "fed_server.safetensors", RECORD[] = "fed_server.json";
enum { FORMAT = 1, NAME = 24 };

/* A vector of the state under its name in the file; mean_loss is fp64 of one element. */
typedef struct {
    char name[NAME];
    void *data;
    hn_st_dtype dtype;
    int64_t n;
} part;
enum { MAX_PARTS = 2 + HN_FED_STATES + HN_FED_MAX_P };

/* Everything that the next round reads. Aggregates are listed by their places in the ring. */
static int list_parts(hn_fed_server *s, part list[MAX_PARTS])
{
    int n = 0;
    list[n++] = (part){"global", s->global, HN_ST_F32, s->l->n};
    list[n++] = (part){"mean_loss", &s->mean_loss, HN_ST_F64, 1};
    for (int i = 0; i < hn_fed_states(s->o.method); i++) {
        list[n] = (part){.data = s->state[i], .dtype = HN_ST_F32, .n = s->l->n};
        snprintf(list[n++].name, NAME, "state.%d", i);
    }
    for (int i = 0; i < hn_fed_ring(&s->o); i++) {
        list[n] = (part){.data = s->ring[i], .dtype = HN_ST_F32, .n = s->l->n};
        snprintf(list[n++].name, NAME, "aggregate.%d", i);
    }
    return n;
}

static hn_status save_tensors(hn_fed_server *s, const char *path)
{
    part list[MAX_PARTS];
    hn_st_entry entry[MAX_PARTS] = {{0}};
    const int n = list_parts(s, list);
    for (int i = 0; i < n; i++)
        entry[i] = (hn_st_entry){.name = list[i].name,
                                 .dtype = list[i].dtype,
                                 .ndim = 1,
                                 .dim = {list[i].n},
                                 .data = list[i].data};
    return hn_st_save(path, entry, n, NULL, 0, NULL, NULL);
}

static hn_status save_record(const hn_fed_server *s, const char *path)
{
    char digest[HN_SHA256_HEX];
    HN_TRY(hn_fed_layout_digest(s->l, digest));
    json_t *options = json_object();
    json_t *record = json_pack("{s:i, s:I, s:I, s:s, s:I, s:I, s:O}", "format", FORMAT, "round",
                               (json_int_t)s->round, "aggregates", (json_int_t)s->aggregates,
                               "layout", digest, "tensors", (json_int_t)s->l->count, "elements",
                               (json_int_t)s->l->n, "options", options);
    hn_status st = record != NULL ? hn_fed_options_write(&s->o, options)
                                  : HN_FAIL(HN_ERR_MEMORY, "no memory for %s", path);
    if (st == HN_OK) st = hn_json_save(path, record, false);
    json_decref(record);
    json_decref(options);
    return st;
}

hn_status hn_fed_server_save(const hn_fed_server *s, hn_ckpt *c)
{
    const char *tensors = NULL, *record = NULL;
    if (s->open != 0)
        return HN_FAIL(HN_ERR_ARG, "a server is saved between rounds, not in round %" PRId64,
                       s->open);
    HN_TRY(hn_ckpt_path(c, TENSORS, &tensors));
    HN_TRY(hn_ckpt_path(c, RECORD, &record));
    HN_TRY(save_tensors((hn_fed_server *)s, tensors)); /* read only */
    return save_record(s, record);
}

/* ---- back ---- */

static hn_status load_part(const hn_st_file *f, const part *to)
{
    const hn_st_tensor *t = hn_st_find(f, to->name);
    if (t == NULL || t->dtype != to->dtype || t->ndim != 1 || t->dim[0] != to->n)
        return HN_FAIL(HN_ERR_FORMAT, "%s: no tensor %s of %" PRId64 " %s", hn_st_where(f),
                       to->name, to->n, hn_st_dtype_name(to->dtype));
    memcpy(to->data, t->data, t->n_bytes);
    return HN_OK;
}

static hn_status load_tensors(hn_fed_server *s, const char *path)
{
    part list[MAX_PARTS];
    hn_st_file *f = NULL;
    HN_TRY(hn_st_open(path, &f));
    hn_status st = HN_OK;
    const int n = list_parts(s, list);
    for (int i = 0; i < n && st == HN_OK; i++) {
        st = load_part(f, &list[i]);
        if (st == HN_OK && list[i].dtype == HN_ST_F32)
            st = hn_fed_layout_check(s->l, list[i].data, path);
    }
    if (st == HN_OK && hn_st_count(f) != n)
        st =
            HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " tensors, expected %d", path, hn_st_count(f), n);
    if (st == HN_OK && !isfinite(s->mean_loss))
        st = HN_FAIL(HN_ERR_FORMAT, "%s: mean_loss is %g", path, s->mean_loss);
    hn_st_close(f);
    return st;
}

static hn_status read_record(hn_fed_server *s, const json_t *record, const char *path)
{
    char digest[HN_SHA256_HEX];
    const char *saved = NULL;
    int64_t format = 0;
    HN_TRY(hn_json_get_i64(record, "format", path, FORMAT, FORMAT, true, &format));
    HN_TRY(hn_json_get_i64(record, "round", path, 0, INT64_MAX, true, &s->round));
    HN_TRY(hn_json_get_i64(record, "aggregates", path, 0, s->round, true, &s->aggregates));
    HN_TRY(hn_json_get_text(record, "layout", path, true, &saved));
    HN_TRY(hn_fed_options_same(&s->o, json_object_get(record, "options"), path));
    HN_TRY(hn_fed_layout_digest(s->l, digest));
    if (strcmp(saved, digest) != 0) {
        int64_t tensors = 0, elements = 0;
        HN_TRY(hn_json_get_i64(record, "tensors", path, 0, INT64_MAX, true, &tensors));
        HN_TRY(hn_json_get_i64(record, "elements", path, 0, INT64_MAX, true, &elements));
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: saved with another layout, %" PRId64 " tensors of %" PRId64
                       " elements, not %" PRId64 " of %" PRId64,
                       path, tensors, elements, s->l->count, s->l->n);
    }
    return HN_OK;
}

static hn_status load_record(hn_fed_server *s, const char *path)
{
    json_t *record = NULL;
    HN_TRY(hn_json_load(path, &record));
    const hn_status st = read_record(s, record, path);
    json_decref(record);
    return st;
}

hn_status hn_fed_server_load(const hn_fed_layout *l, const hn_fed_server_options *o,
                             const char *dir, hn_fed_server **out)
{
    hn_status st = HN_OK;
    hn_fed_server *s = NULL;
    float *start = hn_calloc((size_t)l->n, sizeof *start);
    char *tensors = hn_asprintf("%s/%s", dir, TENSORS);
    char *record = hn_asprintf("%s/%s", dir, RECORD);
    if (start == NULL || tensors == NULL || record == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory to load %s", dir);
        goto done;
    }
    HN_TRY_GOTO(st, hn_ckpt_verify(dir), done);
    HN_TRY_GOTO(st, hn_fed_server_new(l, o, start, &s), done);
    HN_TRY_GOTO(st, load_record(s, record), done);
    HN_TRY_GOTO(st, load_tensors(s, tensors), done);
    *out = s;
    s = NULL;

done:
    hn_fed_server_free(s);
    hn_free(start);
    hn_free(tensors);
    hn_free(record);
    return st;
}
