/* export: all that a device needs, as one file (hyperflow_carried.h). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/hyperflow_carried.h"
#include "runtime/train/hyperflow_drift.h"
#include "runtime/train/hyperflow_values.h"

typedef struct {
    hn_hyperflow *r;
    hn_hf_network network;
    hn_values backbone, encoder;
    hn_st_entry *entry;
    char **name; /* [n] those of entries with a prefix */
    int64_t n, n_names;
    char *text[5]; /* of backbone, of encoder; scale, offset, shorter_side */
} packing;

static void packing_free(packing *k)
{
    for (int64_t i = 0; i < k->n_names; i++) hn_free(k->name[i]);
    for (int i = 0; i < 5; i++) hn_free(k->text[i]);
    hn_free(k->name);
    hn_free(k->entry);
    hn_values_free(&k->backbone);
    hn_values_free(&k->encoder);
    hn_hf_network_free(&k->network);
}

static hn_status add_values(packing *k, const char *prefix, const hn_values *v)
{
    for (int64_t i = 0; i < v->n; i++) {
        const hn_value *x = &v->item[i];
        char *name = hn_asprintf("%s.%s", prefix, x->name);
        if (name == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for names");
        k->name[k->n_names++] = name;
        hn_st_entry *e = &k->entry[k->n++];
        *e = (hn_st_entry){.name = name, .dtype = HN_ST_F32, .ndim = x->ndim, .data = x->v};
        for (int d = 0; d < x->ndim; d++) e->dim[d] = x->dim[d];
    }
    return HN_OK;
}

static void add_network(packing *k)
{
    for (int64_t i = 0; i < hn_st_count(k->network.file); i++) {
        const hn_st_tensor *t = hn_st_at(k->network.file, i);
        hn_st_entry *e = &k->entry[k->n++];
        *e = (hn_st_entry){.name = t->name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data};
        for (int d = 0; d < t->ndim; d++) e->dim[d] = t->dim[d];
    }
}

static hn_status gather(packing *k)
{
    const hn_hyperflow *r = k->r;
    const uint64_t seed = (uint64_t)r->c->seed;
    HN_TRY(hn_hf_values(&r->model, seed, &k->backbone));
    HN_TRY(hn_hf_values(&r->encoder, seed, &k->encoder));
    const size_t named = (size_t)(k->backbone.n + k->encoder.n);
    k->name = hn_calloc(named + 1, sizeof *k->name);
    k->entry = hn_calloc(named + (size_t)hn_st_count(k->network.file), sizeof *k->entry);
    if (k->name == NULL || k->entry == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "table of %zu tensors", named);
    HN_TRY(add_values(k, "backbone", &k->backbone));
    HN_TRY(add_values(k, "encoder", &k->encoder));
    add_network(k);
    return HN_OK;
}

static hn_status describe(packing *k)
{
    const hn_hyperflow *r = k->r;
    k->text[2] = hn_asprintf("%.9g", r->c->scale);
    k->text[3] = hn_asprintf("%.9g", r->c->offset);
    k->text[4] = hn_asprintf("%" PRId64, r->shorter_side);
    if (k->text[2] == NULL || k->text[3] == NULL || k->text[4] == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "no memory for metadata");
    HN_TRY(hn_hf_network_text(&r->model, &k->text[0]));
    return hn_hf_network_text(&r->encoder, &k->text[1]);
}

static hn_status write_file(packing *k)
{
    const hn_hyperflow *r = k->r;
    uint64_t bytes = 0;
    const char *const metadata[][2] = {
        {"format", "pt"},
        {"program", "hone-hyperflow"},
        {"adapted", r->c->adapted},
        {"backbone", r->base_digest},
        {"backbone.config", k->text[0]},
        {"drift", k->network.digest},
        {"drift.backbone", k->network.facts.backbone},
        {"drift.config", hn_st_metadata(k->network.file, "drift.config")},
        {"drift.encoder", k->network.facts.encoder},
        {"drift.layout", k->network.facts.layout},
        {"dtype", r->model.dtype == HN_BF16 ? "bf16" : "f32"},
        {"encoder", r->encoder_digest},
        {"encoder.config", k->text[1]},
        {"offset", k->text[3]},
        {"scale", k->text[2]},
        {"shorter_side", k->text[4]}};
    HN_TRY(hn_st_save(r->c->to, k->entry, k->n, metadata, sizeof metadata / sizeof *metadata,
                      &bytes, NULL));
    fprintf(r->to, "%s: %" PRId64 " tensors, %.1f MiB\n", r->c->to, k->n, (double)bytes / 0x1p20);
    return HN_OK;
}

static hn_status export(packing *k)
{
    hn_hyperflow *r = k->r;
    if (hn_is_folder(r->c->to) || hn_is_file(r->c->to))
        return HN_FAIL(HN_ERR_ARG, "--to %s: is there already", r->c->to);
    HN_TRY(hn_hf_network_open(r, &k->network));
    HN_TRY(gather(k));
    HN_TRY(describe(k));
    return write_file(k);
}

hn_status hn_hyperflow_export(const hn_verb_call *c)
{
    hn_hyperflow r;
    packing k = {.r = &r};
    hn_status st = hn_hyperflow_open(c, false, &r);
    if (st == HN_OK) st = hn_hyperflow_folder_read(&r, false);
    if (st == HN_OK) st = export(&k);
    packing_free(&k);
    hn_hyperflow_close(&r);
    return st;
}
