/* Values of episodes on their way: from the model to replicas, from tuning to evaluation, and to
 * the host as knots. */
#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/convert.h"
#include "runtime/graph/tensor.h"
#include "runtime/train/few_shot_tune_impl.h"

static hn_program *program_of(const hn_engine *e) { return hn_engine_program(e); }

/* Numbers of a replica's masters. */
static size_t numbers(const hn_few_shot_values *v) { return v->bytes / sizeof(float); }

/* ---- opening ---- */

static hn_status host(hn_few_shot_tuner *t, size_t bytes, void *out)
{
    void *p = NULL;
    if (bytes > 0) HN_TRY(hn_device_alloc_host(hn_few_shot_device(t), bytes, &p));
    if (p) memset(p, 0, bytes);
    memcpy(out, &p, sizeof p);
    return HN_OK;
}

static hn_status take_memory(hn_few_shot_tuner *t)
{
    hn_few_shot_values *v = &t->values;
    const size_t n = (size_t)t->o.at_once, knots = (size_t)hn_few_shot_tuner_knots(t);
    HN_TRY(host(t, v->bytes, &v->base));
    HN_TRY(host(t, v->work_bytes, &v->work_base));
    if (t->theta.count == 0) return HN_OK;
    HN_TRY(host(t, n * v->bytes, &v->start));
    HN_TRY(host(t, n * v->work_bytes, &v->work_start));
    HN_TRY(host(t, knots * n * v->bytes, &v->knot));
    v->place = hn_calloc((size_t)t->theta.count, sizeof *v->place);
    v->out = hn_calloc((knots + 1) * (size_t)t->theta.count, sizeof *v->out);
    t->theta0 = hn_calloc((size_t)t->theta.count, sizeof *t->theta0);
    if (v->place && v->out && t->theta0) return HN_OK;
    return HN_FAIL(HN_ERR_MEMORY, "no memory for knots of %" PRId64 " numbers", t->theta.count);
}

/* Where theta's numbers lie among the masters; working copies lie alike. */
static void find_places(hn_few_shot_tuner *t, const hn_engine *e)
{
    size_t bytes;
    const char *const begin = hn_program_replica(program_of(e), HN_MEM_TRAINED, 0, &bytes);
    int64_t at = 0;
    for (int64_t i = 0; i < t->theta.n_parts; i++) {
        const hn_theta_part *part = &t->theta.part[i];
        const hn_param *q = hn_params_find(hn_engine_params(e), part->name);
        const int64_t first = ((const char *)q->master->data - begin) / (int64_t)sizeof(float);
        for (int64_t k = 0; k < part->n; k++) t->values.place[at++] = first + part->first + k;
    }
}

hn_status hn_few_shot_values_open(hn_few_shot_tuner *t)
{
    hn_few_shot_values *v = &t->values;
    const hn_engine *e = t->tune ? t->tune : t->eval;
    size_t bytes, work;
    const void *from = hn_program_replica(program_of(e), HN_MEM_TRAINED, 0, &v->bytes);
    const void *copies = hn_program_replica(program_of(e), HN_MEM_WORK, 0, &v->work_bytes);
    if (t->tune && t->eval) {
        (void)hn_program_replica(program_of(t->eval), HN_MEM_TRAINED, 0, &bytes);
        (void)hn_program_replica(program_of(t->eval), HN_MEM_WORK, 0, &work);
        if (bytes != v->bytes || work != v->work_bytes)
            return HN_FAIL(HN_ERR_UNSUPPORTED,
                           "trained values lie otherwise in tuning (%zu bytes) than in evaluation "
                           "(%zu bytes)",
                           v->bytes + v->work_bytes, bytes + work);
    }
    HN_TRY(take_memory(t));
    if (v->bytes > 0) HN_TRY(hn_device_read(hn_few_shot_device(t), v->base, from, v->bytes));
    if (v->work_bytes > 0)
        HN_TRY(hn_device_read(hn_few_shot_device(t), v->work_base, copies, v->work_bytes));
    if (t->theta.count == 0) return HN_OK;
    find_places(t, e);
    for (int64_t i = 0; i < t->theta.count; i++) t->theta0[i] = v->base[v->place[i]];
    return HN_OK;
}

void hn_few_shot_values_free(hn_few_shot_tuner *t)
{
    hn_few_shot_values *v = &t->values;
    void *const memory[] = {v->base, v->work_base, v->start, v->work_start, v->knot};
    if (t->tune || t->eval) {
        hn_device *d = hn_few_shot_device(t);
        (void)!hn_device_wait(d); /* nothing may be on its way */
        for (size_t k = 0; k < sizeof memory / sizeof *memory; k++)
            if (memory[k]) hn_device_release_host(d, memory[k]);
    }
    hn_free(v->place);
    hn_free(v->out);
    hn_free(t->theta0);
    *v = (hn_few_shot_values){0};
}

/* ---- a group ---- */

static bool begins_elsewhere(const hn_few_shot_tuner *t, int64_t n)
{
    for (int64_t g = 0; g < n; g++)
        if (t->slot[g].task->theta != NULL) return true;
    return false;
}

/* Replicas one by one, each with its theta. */
static hn_status send_starts(hn_few_shot_tuner *t, hn_engine *e, int64_t n)
{
    hn_few_shot_values *v = &t->values;
    const size_t each = numbers(v), all = (size_t)t->o.at_once * v->bytes;
    size_t bytes;
    for (int64_t g = 0; g < t->o.at_once; g++) {
        float *const to = v->start + (size_t)g * each;
        const float *const theta = g < n ? t->slot[g].task->theta : NULL;
        memcpy(to, v->base, v->bytes);
        for (int64_t i = 0; theta && i < t->theta.count; i++) to[v->place[i]] = theta[i];
    }
    void *to = hn_program_replica(program_of(e), HN_MEM_TRAINED, 0, &bytes);
    HN_TRY(hn_device_send(hn_few_shot_device(t), to, v->start, all));
    if (v->work_bytes == 0) return hn_device_wait(hn_few_shot_device(t));
    const size_t copies = v->work_bytes / sizeof *v->work_start;
    for (int64_t g = 0; g < t->o.at_once; g++)
        hn_from_f32(v->start + (size_t)g * each, (int64_t)(each < copies ? each : copies),
                    v->work_start, HN_BF16, g * (int64_t)copies);
    to = hn_program_replica(program_of(e), HN_MEM_WORK, 0, &bytes);
    HN_TRY(hn_device_send(hn_few_shot_device(t), to, v->work_start,
                          (size_t)t->o.at_once * v->work_bytes));
    return hn_device_wait(hn_few_shot_device(t)); /* the memory is free again */
}

hn_status hn_few_shot_values_start(hn_few_shot_tuner *t, hn_engine *e, int64_t n)
{
    hn_few_shot_values *v = &t->values;
    hn_device *d = hn_few_shot_device(t);
    size_t bytes;
    void *masters = hn_program_replica(program_of(e), HN_MEM_TRAINED, 0, &bytes);
    void *copies = hn_program_replica(program_of(e), HN_MEM_WORK, 0, &bytes);
    if (v->bytes > 0) HN_TRY(hn_device_send(d, masters, v->base, v->bytes));
    if (v->work_bytes > 0) HN_TRY(hn_device_send(d, copies, v->work_base, v->work_bytes));
    HN_TRY(hn_engine_restart(e, t->o.seed)); /* the others get the same */
    return begins_elsewhere(t, n) ? send_starts(t, e, n) : HN_OK;
}

hn_status hn_few_shot_values_knot(hn_few_shot_tuner *t, int64_t k)
{
    hn_few_shot_values *v = &t->values;
    const size_t all = (size_t)t->o.at_once * numbers(v);
    size_t bytes;
    const void *from = hn_program_replica(program_of(t->tune), HN_MEM_TRAINED, 0, &bytes);
    return hn_device_fetch(hn_few_shot_device(t), v->knot + (size_t)k * all, from,
                           all * sizeof(float));
}

hn_status hn_few_shot_values_pass(hn_few_shot_tuner *t)
{
    static const hn_mem mems[] = {HN_MEM_TRAINED, HN_MEM_WORK};
    for (int k = 0; k < 2; k++) {
        size_t bytes;
        const void *from = hn_program_replica(program_of(t->tune), mems[k], 0, &bytes);
        void *to = hn_program_replica(program_of(t->eval), mems[k], 0, &bytes);
        if (bytes > 0)
            HN_TRY(hn_device_copy(hn_few_shot_device(t), to, from, (size_t)t->o.at_once * bytes));
    }
    return HN_OK;
}

const float *hn_few_shot_values_knots(hn_few_shot_tuner *t, int64_t g)
{
    const hn_few_shot_values *v = &t->values;
    const int64_t knots = hn_few_shot_tuner_knots(t), n = t->theta.count;
    for (int64_t k = 0; k < knots; k++) {
        const float *const from = v->knot + (size_t)(k * t->o.at_once + g) * numbers(v);
        for (int64_t i = 0; i < n; i++) v->out[k * n + i] = from[v->place[i]] - t->theta0[i];
    }
    return knots > 0 ? v->out : NULL;
}
