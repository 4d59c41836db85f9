/* What all simulations of clients share: the order of a client's images, and which values travel.
 */
#include "runtime/train/fed_sim.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "runtime/base/label.h"
#include "runtime/base/rng.h"
#include "runtime/base/step_block.h"
#include "runtime/data/row_order.h"

/* SplitMix64's finaliser: neighbours have nothing in common. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t hn_fed_task_seed(uint64_t seed, int64_t round, int64_t client)
{
    const uint64_t golden = 0x9e3779b97f4a7c15u;
    const uint64_t z = mix(seed + golden * ((uint64_t)round + 1));
    return mix(z + golden * ((uint64_t)client + 1));
}

static int64_t batches(int64_t rows, int64_t batch) { return rows / batch + (rows % batch != 0); }

int64_t hn_fed_steps(const hn_fed_local *l, int64_t n, int64_t epochs)
{
    return l->join ? batches(n * epochs, l->batch) : batches(n, l->batch) * epochs;
}

int64_t hn_fed_epoch_steps(const hn_fed_local *l, int64_t n) { return batches(n, l->batch); }

int64_t hn_fed_rows(const hn_fed_local *l, const hn_fed_task *t, int64_t step, int32_t *image)
{
    const hn_row_order order = hn_row_order_make(t->seed, hn_hash_name("client"), t->n);
    const int64_t each = hn_fed_epoch_steps(l, t->n);
    int64_t rows = 0;
    for (int64_t i = 0; i < l->batch; i++) {
        const int64_t at = l->join ? step * l->batch + i : step % each * l->batch + i;
        const int64_t epoch = l->join ? at / t->n : step / each;
        const int64_t in_epoch = l->join ? at % t->n : at;
        image[i] = in_epoch < t->n ? t->index[hn_row_order_at(&order, epoch, in_epoch)] : -1;
        rows += image[i] >= 0;
    }
    return rows;
}

/* ---- images and tasks ---- */

hn_status hn_fed_check_images(const hn_fed_sim_options *o, const hn_images *set)
{
    const hn_vision_config *v = &o->model->vision;
    if (o->model->kind != HN_MODEL_CLASSIFIER)
        return HN_FAIL(HN_ERR_ARG, "%s: a decoder; clients train image classifiers",
                       o->model->path);
    if (o->local.batch < 1)
        return HN_FAIL(HN_ERR_ARG, "batches of %" PRId64 " images", o->local.batch);
    if (set->n_classes > v->classes)
        return HN_FAIL(HN_ERR_SHAPE, "%s: %" PRId64 " classes, the data have %d", v->architecture,
                       v->classes, (int)set->n_classes);
    return HN_OK;
}

hn_status hn_fed_check_padding(const hn_fed_sim_options *o)
{
    const hn_vision_config *v = &o->model->vision;
    if (o->local.join || o->local.frozen_norm || !hn_vision_has_batch_norm(v)) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "%s: epochs that end with padding, which batch norm would count as images",
                   v->architecture);
}

hn_status hn_fed_check_dense(const hn_fed_local *l, const char *simulation)
{
    if (l->support == NULL) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "clients as %s: no blocks of weights (--payload sparse); clients one by one",
                   simulation);
}

hn_status hn_fed_check_task(const hn_fed_sim_options *o, const hn_fed_task *t)
{
    if (t->n < 1 || t->steps < 1)
        return HN_FAIL(HN_ERR_ARG, "client %" PRId64 ": %" PRId64 " images, %" PRId64 " steps",
                       t->client, t->n, t->steps);
    for (int64_t i = 0; i < t->n; i++)
        if (t->index[i] < 0 || t->index[i] >= o->images->count)
            return HN_FAIL(HN_ERR_ARG, "client %" PRId64 ": image %d of %" PRId64, t->client,
                           (int)t->index[i], o->images->count);
    return HN_OK;
}

bool hn_fed_streams(const hn_fed_sim_options *o, const hn_images *s)
{
    const bool gpu = hn_device_kind_of(o->device) == HN_DEVICE_CUDA;
    return !(gpu && (double)(s->count * s->h * s->w * s->c) <= o->resident * 0x1p30);
}

void hn_fed_put_rows(const hn_images *s, bool streams, const int32_t *image, int64_t first,
                     int64_t rows, const hn_classifier_batch *out)
{
    const size_t bytes = (size_t)(s->h * s->w * s->c);
    for (int64_t i = 0; i < rows; i++) {
        const int64_t at = first + i;
        const bool there = image[i] >= 0;
        out->index[at] = !there ? -1 : streams ? (int32_t)at : image[i];
        out->label[at] = there ? s->label[image[i]] : HN_LABEL_IGNORED;
        if (!streams) continue;
        if (there)
            memcpy(out->pixel + (size_t)at * bytes, s->pixel + (size_t)image[i] * bytes, bytes);
        else
            memset(out->pixel + (size_t)at * bytes, 0, bytes);
    }
}

/* ---- results ---- */

int64_t hn_fed_together(const hn_fed_sim_options *o, int64_t n_values)
{
    const int64_t fit = HN_FED_TOGETHER / ((int64_t)sizeof(float) * n_values);
    const int64_t n = o->together > 0 ? o->together : fit > 0 ? fit : 1;
    return n < o->at_once ? n : o->at_once;
}

hn_status hn_fed_hand_over(const hn_fed_sim *s, int64_t first, int64_t n, const hn_fed_trained *t,
                           hn_fed_take take, void *context)
{
    if (s->prepare != NULL) {
#pragma omp parallel for schedule(dynamic) if (n > 1)
        for (int64_t i = 0; i < n; i++) s->prepare(context, first + i, &t[i]);
    }
    for (int64_t i = 0; i < n; i++) HN_TRY(take(context, first + i, &t[i]));
    return HN_OK;
}

/* ---- loss ---- */

hn_fed_loss hn_fed_loss_begin(const hn_fed_local *l, const hn_fed_task *t)
{
    const int64_t epoch = hn_fed_epoch_steps(l, t->n);
    return (hn_fed_loss){.from = t->steps > epoch ? t->steps - epoch : 0};
}

void hn_fed_loss_add(hn_fed_loss *l, const hn_step_report *r)
{
    const bool counts = l->taken++ >= l->from;
    if (r->tokens == 0) return;
    if (r->skipped == HN_STEP_NONFINITE || !isfinite(r->loss_sum)) l->sum = NAN; /* and stays it */
    if (!counts) return;
    l->sum += r->loss_sum;
    l->images += r->tokens;
}

float hn_fed_loss_mean(const hn_fed_loss *l)
{
    return l->images > 0 ? (float)(l->sum / (double)l->images) : NAN;
}

/* ---- values ---- */

bool hn_fed_travels(const hn_fed_local *l, const hn_param *q)
{
    return q->trained || (q->buffer && !l->frozen_norm);
}

int64_t hn_fed_values_count(const hn_fed_local *l, const hn_params *p)
{
    int64_t n = 0;
    for (int64_t i = 0; i < hn_params_count(p); i++)
        if (hn_fed_travels(l, hn_params_at(p, i))) n += hn_param_values(hn_params_at(p, i));
    return n;
}

hn_status hn_fed_values_layout(const hn_fed_local *l, const hn_params *p, hn_fed_layout *out)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        const hn_fed_role role = q->buffer ? HN_FED_BUFFER : HN_FED_VALUE;
        if (hn_fed_travels(l, q))
            HN_TRY(hn_fed_layout_add(out, q->name, q->file_ndim, q->file_dim, role));
    }
    return HN_OK;
}

hn_status hn_fed_values_get(const hn_fed_local *l, const hn_params *p, float *value)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (!hn_fed_travels(l, q)) continue;
        HN_TRY(hn_param_get(q, value));
        value += hn_param_values(q);
    }
    return HN_OK;
}

hn_status hn_fed_values_set(const hn_fed_local *l, const hn_params *p, const float *value)
{
    for (int64_t i = 0; i < hn_params_count(p); i++) {
        const hn_param *q = hn_params_at(p, i);
        if (!hn_fed_travels(l, q)) continue;
        HN_TRY(hn_param_set(q, value));
        value += hn_param_values(q);
    }
    return HN_OK;
}
