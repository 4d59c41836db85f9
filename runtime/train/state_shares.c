#include "runtime/train/state_shares.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/base/save.h"
#include "runtime/file/safetensors.h"
#include "runtime/train/state_impl.h"

enum { SHARE_VERSION = 1 };

static const char SHARE[] = "hone.share";

static char *share_path(const char *dir, int64_t rank)
{
    return hn_asprintf("%s/optimizer-%" PRId64 ".safetensors", dir, rank);
}

/* "<parameter>", "<parameter>.m", "<parameter>.v" */
static const char *name_of(const hn_param *q, hn_kept what, char *text, size_t size)
{
    static const char *const suffix[HN_KEPT_COUNT] = {"", ".m", ".v"};
    snprintf(text, size, "%s%s", q->name, suffix[what]);
    return text;
}

static int moments_of(const hn_split *s) { return s->moment[1] ? 2 : s->moment[0] ? 1 : 0; }

/* ---- writing ---- */

json_t *hn_shares_manifest(const hn_params *p, const hn_run_identity *id)
{
    char hex[HN_SHA256_HEX];
    const hn_split *s = hn_params_split(p);
    if (s == NULL) return NULL;
    char *text = hn_asprintf("%s\n%s\n%s\n%s\n%s", id->method, id->base_digest, id->data_digest,
                             id->tokenizer_digest, id->settings);
    const hn_status st = text ? hn_sha256(text, strlen(text), hex) : HN_ERR_MEMORY;
    hn_free(text);
    return st == HN_OK ? json_pack("{s:i, s:i, s:s}", "ranks", s->ranks, "moments", moments_of(s),
                                   "run", hex)
                       : NULL;
}

/* A part of a parameter on its way to a file; it is read when its turn has come. */
typedef struct {
    const hn_param *q;
    hn_kept what;
    int64_t first, n;
} part;

typedef struct {
    hn_st_entry *entry;
    part *part;
    int64_t n;
    hn_arena names;
    json_t *first; /* by parameter */
} table;

static void table_free(table *t)
{
    hn_free(t->entry);
    hn_free(t->part);
    hn_arena_free(&t->names);
    json_decref(t->first);
}

static hn_status fetch(const void *from, const void **data, void **copy)
{
    const part *p = from;
    float *dense = hn_malloc((size_t)p->n * sizeof *dense);
    if (dense == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", p->q->name);
    *data = *copy = dense;
    return hn_param_get_kept(p->q, p->what, p->first, p->n, dense);
}

static hn_status add_parts(table *t, const hn_param *q)
{
    char text[640];
    part p = {.q = q};
    hn_param_kept(q, &p.first, &p.n);
    if (p.n == 0) return HN_OK;
    for (int k = 0; k <= moments_of(q->split); k++) {
        p.what = (hn_kept)k;
        const char *name = hn_arena_text(&t->names, "%s", name_of(q, p.what, text, sizeof text));
        if (name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a tensor's name");
        t->part[t->n] = p;
        t->entry[t->n] = (hn_st_entry){.name = name,
                                       .dtype = HN_ST_F32,
                                       .ndim = 1,
                                       .dim = {p.n},
                                       .fetch = fetch,
                                       .source = &t->part[t->n]};
        t->n++;
    }
    return json_object_set_new(t->first, q->name, json_integer((json_int_t)p.first)) == 0
               ? HN_OK
               : HN_FAIL(HN_ERR_MEMORY, "no memory for the parts of %s", q->name);
}

static hn_status make_table(const hn_params *p, table *t)
{
    const size_t room = (size_t)(HN_KEPT_COUNT * hn_params_count(p));
    *t = (table){.entry = hn_calloc(room, sizeof *t->entry),
                 .part = hn_calloc(room, sizeof *t->part),
                 .first = json_object()};
    if (t->entry == NULL || t->part == NULL || t->first == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "table of %zu tensors", room);
    for (int64_t i = 0; i < hn_params_count(p); i++)
        if (hn_params_at(p, i)->split) HN_TRY(add_parts(t, hn_params_at(p, i)));
    return HN_OK;
}

static char *share_text(const hn_params *p, const hn_run_identity *id, int64_t step, json_t *first)
{
    json_t *j = hn_shares_manifest(p, id);
    char *text = NULL;
    if (j != NULL &&
        json_object_update_new(j, json_pack("{s:i, s:i, s:I, s:O}", "format_version", SHARE_VERSION,
                                            "rank", hn_params_split(p)->rank, "step",
                                            (json_int_t)step, "first", first)) == 0)
        text = json_dumps(j, JSON_SORT_KEYS | JSON_COMPACT);
    json_decref(j);
    return text;
}

/* What a rank has written. */
typedef struct {
    uint64_t n_bytes;
    char hex[HN_SHA256_HEX];
} card;

static hn_status write_share(const char *dir, const hn_params *p, const hn_run_identity *id,
                             int64_t step, card *out)
{
    table t = {0};
    char *path = share_path(dir, hn_params_split(p)->rank), *text = NULL;
    hn_status st = path ? make_table(p, &t) : HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
    if (st == HN_OK) text = share_text(p, id, step, t.first);
    if (st == HN_OK && text == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", path);
    const char *const metadata[][2] = {{"format", "pt"}, {SHARE, text}};
    if (st == HN_OK) st = hn_st_save(path, t.entry, t.n, metadata, 2, &out->n_bytes, out->hex);
    free(text);
    hn_free(path);
    table_free(&t);
    return st;
}

/* Rank 0's text on all; *text is new on the others. */
static hn_status share_folder(hn_hub *hub, const char *mine, char **text)
{
    int64_t n = mine ? (int64_t)strlen(mine) + 1 : 0;
    HN_TRY(hn_hub_share(hub, &n, sizeof n, 0));
    *text = hn_calloc((size_t)n, 1);
    if (*text == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " bytes of text", n);
    if (mine != NULL) memcpy(*text, mine, (size_t)n);
    return hn_hub_share(hub, *text, (size_t)n, 0);
}

/* c: of rank 0, else NULL */
static hn_status write_shares(hn_ckpt *c, const hn_params *p, const hn_run_identity *id,
                              const hn_run_state *s, hn_hub *hub)
{
    char *dir = NULL;
    card mine = {0}, *all = hn_calloc((size_t)hn_hub_size(hub), sizeof *all);
    hn_status st = all ? share_folder(hub, c ? hn_ckpt_folder(c) : NULL, &dir)
                       : HN_FAIL(HN_ERR_MEMORY, "no memory for %d ranks", hn_hub_size(hub));
    if (st == HN_OK) st = write_share(dir, p, id, s->step, &mine);
    if (st == HN_OK && c != NULL) st = hn_state_write(c, p, id, s);
    if (st == HN_OK) st = hn_hub_gather(hub, &mine, sizeof mine, all);
    for (int r = 0; c != NULL && st == HN_OK && r < hn_hub_size(hub); r++) {
        char name[64];
        snprintf(name, sizeof name, "optimizer-%d.safetensors", r);
        st = hn_ckpt_has(c, name, all[r].n_bytes, all[r].hex);
    }
    hn_free(dir);
    hn_free(all);
    return st;
}

hn_status hn_state_save_shares(const char *out_dir, const hn_params *p, const hn_run_identity *id,
                               const hn_run_state *s, hn_hub *hub)
{
    hn_ckpt *c = NULL;
    if (hn_hub_rank(hub) == 0) HN_TRY(hn_ckpt_begin(out_dir, s->step, &c));
    const hn_status st = write_shares(c, p, id, s, hub);
    if (st == HN_OK) return c ? hn_ckpt_commit(c) : HN_OK;
    hn_ckpt_abort(c);
    return st;
}

/* ---- reading ---- */

typedef struct {
    hn_st_file *file;
    json_t *share; /* its metadata */
} reader;

struct hn_shares {
    int64_t ranks, moments;
    reader *of; /* [ranks] */
};

void hn_shares_close(hn_shares *s)
{
    if (s == NULL) return;
    for (int64_t r = 0; s->of && r < s->ranks; r++) {
        hn_st_close(s->of[r].file);
        json_decref(s->of[r].share);
    }
    hn_free(s->of);
    hn_free(s);
}

/* Of the manifest of delta.safetensors. */
typedef struct {
    int64_t ranks, moments, step;
    const char *run;
} wanted;

static hn_status read_wanted(const json_t *manifest, const char *where, wanted *out)
{
    const json_t *shares = json_object_get(manifest, "shares");
    const json_t *training = json_object_get(manifest, "training");
    HN_TRY(hn_json_get_i64(shares, "ranks", where, 2, HN_HUB_MAX_RANKS, true, &out->ranks));
    HN_TRY(hn_json_get_i64(shares, "moments", where, 0, 2, true, &out->moments));
    HN_TRY(hn_json_get_text(shares, "run", where, true, &out->run));
    return hn_json_get_i64(training, "steps", where, 0, INT64_MAX, true, &out->step);
}

/* Whether a file is share `rank` of what is wanted. */
static hn_status check_share(const reader *of, int64_t rank, const wanted *w)
{
    const char *where = hn_st_where(of->file), *run;
    int64_t version, ranks, its_rank, moments, step;
    HN_TRY(hn_json_get_i64(of->share, "format_version", where, 1, SHARE_VERSION, true, &version));
    HN_TRY(hn_json_get_i64(of->share, "ranks", where, 1, INT32_MAX, true, &ranks));
    HN_TRY(hn_json_get_i64(of->share, "rank", where, 0, INT32_MAX, true, &its_rank));
    HN_TRY(hn_json_get_i64(of->share, "moments", where, 0, 2, true, &moments));
    HN_TRY(hn_json_get_i64(of->share, "step", where, 0, INT64_MAX, true, &step));
    HN_TRY(hn_json_get_text(of->share, "run", where, true, &run));
    if (ranks != w->ranks || its_rank != rank)
        return HN_FAIL(HN_ERR_FORMAT,
                       "%s: it is share %" PRId64 " of %" PRId64 ", here belongs share %" PRId64
                       " of %" PRId64,
                       where, its_rank, ranks, rank, w->ranks);
    if (step != w->step)
        return HN_FAIL(HN_ERR_FORMAT, "%s: a share of step %" PRId64 ", the others are of %" PRId64,
                       where, step, w->step);
    if (moments != w->moments || strcmp(run, w->run) != 0)
        return HN_FAIL(HN_ERR_FORMAT, "%s: a share of another run", where);
    return HN_OK;
}

static hn_status open_share(const char *dir, int64_t rank, const wanted *w, reader *out)
{
    char *path = share_path(dir, rank);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", dir);
    hn_status st = hn_st_open(path, &out->file);
    hn_free(path);
    HN_TRY(st);
    const char *where = hn_st_where(out->file), *text = hn_st_metadata(out->file, SHARE);
    if (text == NULL) return HN_FAIL(HN_ERR_FORMAT, "%s: no %s in its metadata", where, SHARE);
    HN_TRY(hn_json_parse(text, strlen(text), where, &out->share));
    return check_share(out, rank, w);
}

/* A run of values in one file: *t NULL when it has none of the parameter. */
static hn_status find_part(const reader *of, const hn_param *q, hn_kept what, int64_t *first,
                           const hn_st_tensor **t)
{
    char name[640];
    const char *where = hn_st_where(of->file);
    const json_t *place = json_object_get(of->share, "first");
    *t = hn_st_find(of->file, name_of(q, what, name, sizeof name));
    *first = 0;
    if (*t == NULL) return HN_OK;
    if ((*t)->dtype != HN_ST_F32 || (*t)->ndim != 1)
        return HN_FAIL(HN_ERR_SHAPE, "%s: tensor %s has another shape or type", where, name);
    return hn_json_get_i64(place, q->name, where, 0, hn_param_values(q), true, first);
}

/* Every value lies in one share, in the order of ranks. */
static hn_status check_parts(const hn_shares *s, const hn_param *q, hn_kept what, int64_t *n_parts)
{
    int64_t next = 0, first;
    char name[640];
    name_of(q, what, name, sizeof name);
    for (int64_t r = 0; r < s->ranks; r++) {
        const hn_st_tensor *t;
        HN_TRY(find_part(&s->of[r], q, what, &first, &t));
        if (t == NULL) continue;
        if (first != next || t->dim[0] > hn_param_values(q) - first)
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: values %" PRId64 "..%" PRId64 " of %s, those from %" PRId64
                           " on belong here, up to %" PRId64,
                           hn_st_where(s->of[r].file), first, first + t->dim[0] - 1, name, next,
                           hn_param_values(q) - 1);
        next += t->dim[0];
        n_parts[r]++;
    }
    if (next == hn_param_values(q)) return HN_OK;
    return HN_FAIL(HN_ERR_FORMAT,
                   "%s and the shares before it: values from %" PRId64 " on of %s are missing",
                   hn_st_where(s->of[s->ranks - 1].file), next, name);
}

static hn_status check_all(const hn_shares *s, const hn_params *p, int64_t *n_parts)
{
    for (int64_t i = 0; i < hn_params_count(p); i++)
        for (int k = 0; k <= s->moments && hn_params_at(p, i)->trained; k++)
            HN_TRY(check_parts(s, hn_params_at(p, i), (hn_kept)k, n_parts));
    for (int64_t r = 0; r < s->ranks; r++)
        if (n_parts[r] != hn_st_count(s->of[r].file))
            return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " tensors, the run trains %" PRId64,
                           hn_st_where(s->of[r].file), hn_st_count(s->of[r].file), n_parts[r]);
    return HN_OK;
}

static hn_status open_all(const char *dir, const hn_params *p, const wanted *w, hn_shares *s)
{
    int64_t *n_parts = hn_calloc((size_t)w->ranks, sizeof *n_parts);
    hn_status st = HN_OK;
    *s = (hn_shares){.moments = w->moments, .of = hn_calloc((size_t)w->ranks, sizeof *s->of)};
    if (n_parts == NULL || s->of == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " shares", w->ranks);
    else
        s->ranks = w->ranks;
    for (int64_t r = 0; r < w->ranks && st == HN_OK; r++) st = open_share(dir, r, w, &s->of[r]);
    if (st == HN_OK) st = check_all(s, p, n_parts);
    hn_free(n_parts);
    return st;
}

static hn_status open_shares(const char *dir, const json_t *manifest, const char *where,
                             const hn_params *p, hn_shares **out)
{
    wanted w;
    if (json_object_get(manifest, "shares") == NULL) return HN_OK;
    HN_TRY(read_wanted(manifest, where, &w));
    hn_shares *s = hn_calloc(1, sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for shares", sizeof *s);
    const hn_status st = open_all(dir, p, &w, s);
    if (st != HN_OK)
        hn_shares_close(s);
    else
        *out = s;
    return st;
}

hn_status hn_shares_open(const char *dir, const hn_params *p, hn_shares **out)
{
    hn_st_file *f = NULL;
    json_t *manifest = NULL;
    hn_status st = HN_OK;
    *out = NULL;
    char *path = hn_asprintf("%s/delta.safetensors", dir);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", dir);
    HN_TRY_GOTO(st, hn_st_open(path, &f), done);
    const char *text = hn_st_metadata(f, "delta.manifest");
    if (text != NULL) HN_TRY_GOTO(st, hn_json_parse(text, strlen(text), path, &manifest), done);
    if (manifest != NULL) st = open_shares(dir, manifest, path, p, out);

done:
    json_decref(manifest);
    hn_st_close(f);
    hn_free(path);
    return st;
}

hn_status hn_shares_read(const hn_shares *s, const hn_param *q, hn_kept what, int64_t first,
                         int64_t n, float *stored)
{
    if (what > (hn_kept)s->moments)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %" PRId64 " moments of %s", hn_st_where(s->of[0].file),
                       s->moments, q->name);
    for (int64_t r = 0; r < s->ranks; r++) {
        const hn_st_tensor *t;
        int64_t at;
        HN_TRY(find_part(&s->of[r], q, what, &at, &t));
        if (t == NULL) continue;
        const int64_t from = first > at ? first : at, end_t = at + t->dim[0];
        const int64_t end = first + n < end_t ? first + n : end_t;
        if (from < end) /* perhaps unaligned */
            memcpy(stored + (from - first), (const char *)t->data + (size_t)(from - at) * 4,
                   (size_t)(end - from) * sizeof *stored);
    }
    return HN_OK;
}

hn_status hn_shares_value(const hn_shares *s, const hn_param *q, float *filed)
{
    const int64_t n = hn_param_values(q);
    if (q->order == HN_ORDER_SAME) return hn_shares_read(s, q, HN_KEPT_MASTER, 0, n, filed);
    float *stored = hn_malloc((size_t)n * sizeof *stored);
    if (stored == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to read %s", q->name);
    const hn_status st = hn_shares_read(s, q, HN_KEPT_MASTER, 0, n, stored);
    if (st == HN_OK) hn_param_to_file(q, stored, filed);
    hn_free(stored);
    return st;
}
