/* A task's network out of the reference and its record, and as a model's folder. */
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/pearl_impl.h"

static hn_pearl_role role_of(const hn_pearl *r, const char *name)
{
    const hn_pearl_param *p = hn_pearl_find(r, name);
    return p ? p->role : HN_ROLE_LAYER;
}

static hn_status add_pair(const hn_pearl_layer *l, const hn_values *delta, hn_values *body)
{
    const hn_value *a = hn_values_find(delta, l->a), *b = hn_values_find(delta, l->b);
    hn_value *w = hn_values_find(body, l->weight);
    if (a == NULL && b == NULL) return HN_OK;
    const bool fits = a && b && w && a->n == a->dim[0] * l->n && b->n == a->dim[0] * l->m;
    if (!fits) return HN_FAIL(HN_ERR_SHAPE, "%s: a pair that does not fit the layer", l->module);
    hn_values_add_product(w->v, b->v, a->v, l->m, l->n, a->dim[0]);
    return HN_OK;
}

hn_status hn_pearl_merge(const hn_pearl *r, const hn_values *delta, hn_values *body)
{
    for (int64_t i = 0; i < delta->n; i++) {
        const hn_pearl_param *p = hn_pearl_find(r, delta->item[i].name);
        if (p && p->role != HN_ROLE_HEAD) HN_TRY(hn_values_put(body, &delta->item[i]));
    }
    for (int64_t i = 0; i < r->n_layers; i++) HN_TRY(add_pair(&r->layer[i], delta, body));
    return HN_OK;
}

/* Task after task, from the one that has the reference under it. */
static hn_status chain(const hn_pearl *r, int64_t task, hn_values *out)
{
    if (task == 0) return hn_values_overlay(out, &r->reference);
    const hn_pearl_record *k = &r->record[task - 1];
    HN_TRY(chain(r, k->base, out));
    return hn_pearl_merge(r, &k->delta, out);
}

/* With norms that all tasks share, those of the newest are everybody's. */
static hn_status share_norms(const hn_pearl *r, hn_values *out)
{
    if (r->norm != HN_NORM_SHARED || r->learned == 0) return HN_OK;
    const hn_values *newest = &r->record[r->learned - 1].delta;
    for (int64_t i = 0; i < newest->n; i++) {
        const hn_pearl_role role = role_of(r, newest->item[i].name);
        if (role == HN_ROLE_NORM || role == HN_ROLE_RUNNING)
            HN_TRY(hn_values_put(out, &newest->item[i]));
    }
    return HN_OK;
}

hn_status hn_pearl_network(const hn_pearl *r, int64_t task, hn_values *out)
{
    if (r->strategy > HN_PEARL_HEAD) /* whole networks; of one body the newest */
        return hn_pearl_merge(r, &r->record[r->isolated ? task - 1 : r->learned - 1].delta, out);
    HN_TRY(chain(r, task, out));
    return share_norms(r, out);
}

/* ---- heads ---- */

hn_status hn_pearl_head(const hn_pearl *r, int task, float **out)
{
    char name[HN_VISION_NAME + 64];
    const bool grown = r->strategy == HN_PEARL_JOINT || r->strategy == HN_PEARL_LWF;
    const hn_values *delta = &r->record[grown ? r->learned - 1 : task].delta;
    const char *module = hn_vision_head(&r->model.vision);
    snprintf(name, sizeof name, "%s.weight", module);
    const hn_value *w = hn_values_find(delta, name);
    snprintf(name, sizeof name, "%s.bias", module);
    const hn_value *b = hn_values_find(delta, name);
    const int32_t *classes;
    const int32_t n = hn_task_stream_classes(r->stream, task, &classes);
    const int64_t d = r->width, rows = grown ? hn_task_stream_seen(r->stream, r->learned) : n;
    if (w == NULL || b == NULL || w->n != rows * d || b->n != rows)
        return HN_FAIL(HN_ERR_FORMAT, "the record of task %d has no head of %" PRId64 " classes",
                       task + 1, rows);
    float *head = hn_malloc((size_t)n * (size_t)(d + 1) * sizeof *head);
    if (head == NULL) return HN_FAIL(HN_ERR_MEMORY, "head of task %d", task + 1);
    for (int32_t i = 0; i < n; i++) {
        const int32_t row = grown ? hn_task_stream_place(r->stream, classes[i]) : i;
        memcpy(head + i * d, w->v + row * d, (size_t)d * sizeof *head);
        head[n * d + i] = b->v[row];
    }
    *out = head;
    return HN_OK;
}

/* ---- a network as a model's folder ---- */

static json_t *label_names(const char *const *name, int64_t n, bool by_name)
{
    json_t *o = json_object();
    char number[24];
    for (int64_t i = 0; i < n; i++) {
        snprintf(number, sizeof number, "%" PRId64, i);
        if (by_name)
            json_object_set_new(o, name[i], json_integer(i));
        else
            json_object_set_new(o, number, json_string(name[i]));
    }
    return o;
}

/* timm's form, or that of the Hugging Face folder the run began with. */
static json_t *config_json(const hn_pearl *r, const hn_vision_config *c,
                           const char *const *class_name)
{
    if (json_object_get(r->model.config_json, "architecture")) return hn_vision_config_json(c);
    json_t *o = json_deep_copy(r->model.config_json);
    if (o == NULL) return NULL;
    json_object_del(o, "num_labels");
    json_object_set_new(o, "image_size", json_integer(c->image));
    json_object_set_new(o, "id2label", label_names(class_name, c->classes, false));
    json_object_set_new(o, "label2id", label_names(class_name, c->classes, true));
    return o;
}

hn_status hn_pearl_model_write(const hn_pearl *r, const char *dir, const hn_values *body,
                               const hn_values *head, const char *const *class_name,
                               int64_t classes, char hex[HN_SHA256_HEX])
{
    static const char *const metadata[][2] = {{"format", "pt"}};
    hn_values all = {0};
    hn_vision_config c = r->model.vision;
    c.classes = classes;
    json_t *config = config_json(r, &c, class_name);
    char *weights = hn_asprintf("%s/model.safetensors", dir),
         *sizes = hn_asprintf("%s/config.json", dir);
    hn_status st =
        config && weights && sizes ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
    if (st == HN_OK) st = hn_values_overlay(&all, body);
    if (st == HN_OK && head) st = hn_values_overlay(&all, head);
    if (st == HN_OK) st = hn_values_save(weights, &all, metadata, 1, hex);
    if (st == HN_OK) st = hn_json_save(sizes, config, false);
    hn_values_free(&all);
    json_decref(config);
    hn_free(weights);
    hn_free(sizes);
    return st;
}

hn_status hn_pearl_reference_write(hn_pearl *r)
{
    char hex[HN_SHA256_HEX];
    hn_folder *folder = NULL;
    if (!hn_pearl_leads(r)) return HN_OK;
    char *dir = hn_asprintf("%s/reference", r->out);
    if (dir == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to write the reference");
    hn_status st = hn_folder_begin(dir, &folder);
    hn_free(dir);
    HN_TRY(st);
    st = hn_pearl_model_write(r, hn_folder_temporary(folder), &r->reference, NULL, NULL, 0, hex);
    if (st != HN_OK) {
        hn_folder_abort(folder);
        return st;
    }
    HN_TRY(hn_folder_commit(folder, true));
    json_object_set_new(r->index, "reference", json_string(hex));
    return hn_pearl_index_save(r);
}

/* ---- what it costs ---- */

void hn_pearl_count_of(const hn_pearl *r, int task, hn_pearl_count *out)
{
    const hn_values *delta = &r->record[task].delta;
    const int64_t classes = r->strategy == HN_PEARL_JOINT ? hn_task_stream_seen(r->stream, r->tasks)
                                                          : hn_pearl_classes(r, task);
    *out = (hn_pearl_count){.head = classes * (r->width + 1)};
    for (int64_t i = 0; r->isolated && i < delta->n; i++) {
        const hn_pearl_param *p = hn_pearl_find(r, delta->item[i].name);
        const int64_t n = delta->item[i].n;
        if (p == NULL)
            out->low_rank += n;
        else if (p->role == HN_ROLE_NORM)
            out->norm += n;
        else if (p->role == HN_ROLE_RUNNING)
            out->running += n;
        else if (p->role != HN_ROLE_HEAD)
            out->dense += n;
    }
    out->total = out->low_rank + out->dense + out->head + out->norm + out->running;
}

int64_t hn_pearl_body_values(const hn_pearl *r)
{
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_params; i++)
        if (r->param[i].role != HN_ROLE_HEAD) n += r->param[i].n;
    return n;
}
