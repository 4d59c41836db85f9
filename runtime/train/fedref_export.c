/* The global model as files: whole, as any trainer of hone reads it, or its low-rank pairs. */
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/fedref_impl.h"
#include "runtime/train/lora_hook.h"
#include "runtime/train/pearl_values.h"

static const hn_params *params_of(const hn_fedref *r) { return hn_engine_params(r->about->engine); }

/* W + scale B A, in the order of files. */
static hn_status add_pair(const hn_linear_layer *l, hn_value *w)
{
    hn_values pair = {0};
    hn_status st = hn_values_read(&pair, l->a);
    if (st == HN_OK) st = hn_values_read(&pair, l->b);
    if (st == HN_OK) {
        hn_value *a = hn_values_find(&pair, l->a->name), *b = hn_values_find(&pair, l->b->name);
        for (int64_t i = 0; i < b->n; i++) b->v[i] *= l->lowrank.scale;
        hn_values_add_product(w->v, b->v, a->v, w->dim[0], hn_value_cols(w), a->dim[0]);
    }
    hn_values_free(&pair);
    return st;
}

static hn_status collect(const hn_params *p, hn_values *all)
{
    for (int64_t i = 0; i < hn_params_count(p); i++)
        if (!hn_params_at(p, i)->adapter) HN_TRY(hn_values_read(all, hn_params_at(p, i)));
    for (int64_t i = 0; i < hn_params_linears(p); i++) {
        const hn_linear_layer *l = hn_params_linear_at(p, i);
        if (l->a != NULL) HN_TRY(add_pair(l, hn_values_find(all, l->weight->name)));
    }
    return HN_OK;
}

static hn_status write_weights(const hn_fedref *r, const char *dir)
{
    static const char *const metadata[][2] = {{"format", "pt"}};
    char hex[HN_SHA256_HEX];
    hn_values all = {0};
    char *path = hn_asprintf("%s/model.safetensors", dir);
    hn_status st = path ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
    if (st == HN_OK) st = collect(params_of(r), &all);
    if (st == HN_OK) st = hn_values_save(path, &all, metadata, 1, hex);
    hn_values_free(&all);
    hn_free(path);
    return st;
}

hn_status hn_fedref_write_model(const hn_fedref *r, const char *dir)
{
    hn_folder *folder = NULL;
    HN_TRY(hn_folder_begin(dir, &folder));
    const char *t = hn_folder_temporary(folder);
    hn_status st = write_weights(r, t);
    if (st == HN_OK) st = r->about->write_settings(r->about, t);
    if (st != HN_OK) {
        hn_folder_abort(folder);
        return st;
    }
    return hn_folder_commit(folder, false);
}

hn_status hn_fedref_write_adapter(const hn_fedref *r, const char *dir)
{
    hn_peft_adapter a = {0};
    HN_TRY(hn_lora_get(params_of(r), r->about->peft, &a));
    const hn_status st = hn_peft_save(dir, &a, HN_F32);
    hn_lora_release(&a);
    return st;
}
