/* A task's network out of the reference and its record. */
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
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
