/* Delta packs that hone-sparse reads: --adapter, to go on with or to use, and --mask. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/file/folder.h"
#include "runtime/train/sparse_export.h"
#include "runtime/train/sparse_run.h"
#include "runtime/train/state.h"

const hn_pack_matrix *hn_sparse_run_packed(const hn_sparse_run *r, const char *weight)
{
    for (int64_t i = 0; i < r->pack.n; i++)
        if (!r->pack.matrix[i].set && strcmp(r->pack.matrix[i].name, weight) == 0)
            return &r->pack.matrix[i];
    return NULL;
}

/* ---- --adapter ---- */

static hn_status add_module(hn_names *names, const char *weight)
{
    char module[512];
    const size_t n = strlen(weight), end = strlen(".weight");
    if (n <= end || n - end >= sizeof module || strcmp(weight + n - end, ".weight") != 0)
        return HN_FAIL(HN_ERR_FORMAT, "a delta pack of '%.80s', which is no weight", weight);
    memcpy(module, weight, n - end);
    module[n - end] = '\0';
    return hn_names_add(names, module);
}

/* A head that was trained whole: with its shape, for the number of classes. */
static hn_status add_head(hn_session *s, const hn_st_file *f, const char *head)
{
    const hn_st_tensor *t = hn_st_find(f, head);
    hn_peft_adapter *a = &s->adapter;
    if (t == NULL || t->ndim > HN_PEFT_DIMS)
        return HN_FAIL(HN_ERR_FORMAT, "%s: no tensor %s", hn_st_where(f), head);
    a->saved = hn_calloc(1, sizeof *a->saved);
    if (a->saved == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", head);
    a->n_saved = 1;
    a->saved->name = hn_strdup(head);
    a->saved->ndim = t->ndim;
    for (int i = 0; i < t->ndim; i++) a->saved->dim[i] = t->dim[i];
    if (a->saved->name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", head);
    return add_module(&a->config.saved, head);
}

static hn_status read_pair(const json_t *row, const char *where, hn_peft_config *c)
{
    const char *scale = NULL;
    HN_TRY(hn_json_get_i64(row, "rank", where, 1, 65536, true, &c->r));
    HN_TRY(hn_json_get_text(row, "scale", where, true, &scale));
    c->alpha = strtod(scale, NULL) * (double)c->r;
    return HN_OK;
}

/* What the rows of the manifest say about the modules; values come later. */
static hn_status read_config(hn_session *s, const json_t *manifest, const hn_st_file *f)
{
    const json_t *rows = json_object_get(manifest, "tensors");
    hn_peft_config *c = &s->adapter.config;
    char name[HN_MODEL_HEAD];
    const char *head =
        hn_session_has_images(s) ? hn_model_head(&s->model, name, sizeof name) : NULL;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const char *base, *encoding;
        HN_TRY(hn_json_get_text(row, "base_name", hn_st_where(f), true, &base));
        HN_TRY(hn_json_get_text(row, "encoding", hn_st_where(f), true, &encoding));
        if (strcmp(encoding, "dense") == 0) {
            if (head && strcmp(base, head) == 0) HN_TRY(add_head(s, f, head));
            continue;
        }
        if (strcmp(encoding, "lowrank") == 0)
            HN_TRY(read_pair(row, hn_st_where(f), c));
        else if (strcmp(encoding, "block") == 0 || strcmp(encoding, "sparse-add") == 0)
            HN_TRY(add_module(&c->targets.list, base));
    }
    return HN_OK;
}

hn_status hn_sparse_open_adapter(hn_session *s, bool training, bool *taken)
{
    const char *dir = s->run->adapter;
    hn_st_file *f = NULL;
    json_t *manifest = NULL;
    char *file = hn_asprintf("%s/delta.safetensors", dir);
    char *complete = hn_asprintf("%s/COMPLETE", dir);
    hn_status st = HN_OK;
    (void)training;
    if (file == NULL || complete == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for the path %s", dir);
        goto done;
    }
    if (hn_is_file(complete)) goto done; /* a checkpoint: refused by name */
    if (!hn_is_file(file)) {
        st = HN_FAIL(HN_ERR_IO,
                     "--adapter %s: no delta.safetensors there; %s reads delta packs, PEFT's "
                     "adapters are hone-lora's",
                     dir, s->method->program);
        goto done;
    }
    hn_sparse_run *r;
    HN_TRY_GOTO(st, hn_sparse_run_new(s, &r), done);
    HN_TRY_GOTO(st, hn_sparse_read_pack(file, &r->pack, &manifest), done);
    HN_TRY_GOTO(st, hn_st_open(file, &f), done);
    HN_TRY_GOTO(st, read_config(s, manifest, f), done);
    r->loaded = true;
    r->rank = s->adapter.config.r;
    s->peft = &s->adapter.config;
    *taken = true;

done:
    json_decref(manifest);
    hn_st_close(f);
    hn_free(file);
    hn_free(complete);
    return st;
}

hn_status hn_sparse_load_adapter(hn_session *s, const hn_params *p)
{
    const hn_sparse_run *r = s->extra;
    const char *digest;
    if (r == NULL || !r->loaded) return HN_OK;
    HN_TRY(hn_model_digest(&s->model, (uint64_t)s->run->seed, &digest));
    return hn_state_load_delta(s->run->adapter, p, digest);
}

/* ---- --mask ---- */

hn_status hn_sparse_open_mask(hn_sparse_run *r)
{
    const char *path = r->c->mask, *have, *digest;
    json_t *manifest = NULL;
    HN_TRY(hn_sparse_read_pack(path, &r->pack, &manifest));
    hn_status st =
        hn_json_get_text(json_object_get(manifest, "base"), "tree_digest", path, true, &have);
    if (st == HN_OK) st = hn_model_digest(&r->s->model, (uint64_t)r->s->run->seed, &digest);
    if (st == HN_OK && strcmp(have, digest) != 0)
        st = HN_FAIL(HN_ERR_ARG, "--mask %s: of another model: digest %.16s, this one has %.16s",
                     path, have, digest);
    if (st == HN_OK && r->pack.n == 0) st = HN_FAIL(HN_ERR_ARG, "--mask %s: has no blocks", path);
    json_decref(manifest);
    return st;
}

hn_status hn_sparse_check_mask(hn_sparse_run *r)
{
    const char *path = r->c->mask;
    int64_t blocks = 0, masked = 0;
    for (int64_t i = 0; i < r->pack.n; i++) masked += !r->pack.matrix[i].set;
    for (int64_t i = 0; i < r->n; i++) {
        hn_select_matrix *m = &r->matrix[i];
        const hn_pack_matrix *p = hn_sparse_run_packed(r, m->name);
        if (p == NULL)
            return HN_FAIL(HN_ERR_ARG, "--mask %s: has no %s, which --targets names", path,
                           m->name);
        if (p->out != m->out || p->in != m->in || p->br != m->shape.br || p->bc != m->shape.bc)
            return HN_FAIL(HN_ERR_SHAPE,
                           "--mask %s: %s [%" PRId64 ", %" PRId64 "] in blocks of %" PRId64
                           " x %" PRId64 ", this run has [%" PRId64 ", %" PRId64 "] in %" PRId64
                           " x %" PRId64,
                           path, m->name, p->out, p->in, p->br, p->bc, m->out, m->in, m->shape.br,
                           m->shape.bc);
        if (p->n > m->most) m->most = p->n;
        if (p->n < m->least) m->least = p->n;
        blocks += p->n;
    }
    if (masked > r->n)
        return HN_FAIL(HN_ERR_ARG, "--mask %s: has %" PRId64 " matrices, --targets names %" PRId64,
                       path, masked, r->n);
    if (blocks > r->k)
        return HN_FAIL(HN_ERR_ARG,
                       "--mask %s: has %" PRId64 " blocks, --budget %s allows %" PRId64
                       "; --budget blocks:%" PRId64 " would hold them",
                       path, blocks, r->c->knobs.budget, r->k, blocks);
    return HN_OK;
}

hn_status hn_sparse_mask_support(const hn_sparse_run *r, hn_support *out)
{
    hn_support p = {.list = hn_calloc((size_t)r->n, sizeof *p.list), .n = r->n};
    hn_status st = p.list ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " lists", r->n);
    for (int64_t i = 0; st == HN_OK && i < r->n; i++) {
        const hn_pack_matrix *m = hn_sparse_run_packed(r, r->matrix[i].name);
        hn_support_list *l = &p.list[i];
        l->id = hn_malloc((size_t)m->n * sizeof *l->id + 1);
        l->from = hn_malloc((size_t)m->n * sizeof *l->from + 1);
        if (l->id == NULL || l->from == NULL) {
            st = HN_FAIL(HN_ERR_MEMORY, "a list of %" PRId64 " blocks", m->n);
            break;
        }
        for (int64_t b = 0; b < m->n; b++) {
            l->id[b] = m->id[b];
            l->from[b] = (int32_t)(-1 - b);
        }
        l->n = m->n;
        p.blocks += m->n;
    }
    if (st == HN_OK)
        *out = p;
    else
        hn_support_free(&p);
    return st;
}

/* ---- how much a loaded pack takes ---- */

hn_status hn_sparse_pack_budget(hn_sparse_run *r)
{
    hn_budget_rule *rule = &r->rules.budget;
    double values = 0;
    rule->budget = (hn_budget){.kind = HN_BUDGET_VALUES};
    for (int64_t i = 0; i < r->n; i++) {
        const hn_pack_matrix *p = hn_sparse_run_packed(r, r->matrix[i].name);
        values += (double)(p->n * p->br * p->bc);
        rule->each |= p->br * p->bc != r->pack.matrix[0].br * r->pack.matrix[0].bc;
    }
    rule->budget.amount = values;
    HN_TRY(hn_select_budget(r->matrix, r->n, rule, &r->k));
    r->k = 0;
    for (int64_t i = 0; i < r->n; i++) {
        hn_select_matrix *m = &r->matrix[i];
        const int64_t n = hn_sparse_run_packed(r, m->name)->n;
        m->share = n;
        if (rule->each) m->least = m->most = n;
        if (n > m->most) m->most = n;
        if (n < m->least) m->least = n;
        r->k += n;
    }
    return HN_OK;
}
