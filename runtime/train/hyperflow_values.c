#include "runtime/train/hyperflow_values.h"

#include <inttypes.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/train/classifier_job.h"

/* An engine without a graph, on the CPU and in fp32. */
static hn_status open(const hn_model *m, uint64_t seed, hn_classifier_job *job, hn_engine **out)
{
    const hn_classifier_options co = {.config = &m->vision, .dtype = HN_F32};
    hn_classifier_job_init(job, &co);
    const hn_engine_options o = {
        .executor = HN_EXECUTOR_CPU, .job = &job->job, .dtype = HN_F32, .seed = seed};
    HN_TRY(hn_engine_new(&o, out));
    HN_TRY(hn_engine_allocate(*out));
    return hn_model_load(m, hn_engine_params(*out), seed);
}

hn_status hn_hf_values(const hn_model *m, uint64_t seed, hn_values *out)
{
    hn_classifier_job job;
    hn_engine *e = NULL;
    const char *head = hn_vision_head(&m->vision);
    const size_t length = strlen(head);
    hn_status st = open(m, seed, &job, &e);
    for (int64_t i = 0; st == HN_OK && i < hn_params_count(hn_engine_params(e)); i++) {
        const hn_param *q = hn_params_at(hn_engine_params(e), i);
        if (strncmp(q->name, head, length) != 0 || q->name[length] != '.')
            st = hn_values_read(out, q);
    }
    hn_engine_free(e);
    return st;
}

static hn_status read_theta(const hn_hyperflow *r, float *theta)
{
    hn_classifier_job job;
    hn_engine *e = NULL;
    hn_status st = open(&r->model, (uint64_t)r->c->seed, &job, &e);
    if (st == HN_OK) st = hn_theta_get(&r->theta, hn_engine_params(e), 0, theta);
    hn_engine_free(e);
    return st;
}

hn_status hn_hf_theta0(const hn_hyperflow *r, float **out)
{
    *out = hn_malloc((size_t)r->theta.count * sizeof **out);
    if (*out == NULL) return HN_FAIL(HN_ERR_MEMORY, "biases of the backbone");
    const hn_status st = read_theta(r, *out);
    if (st != HN_OK) {
        hn_free(*out);
        *out = NULL;
    }
    return st;
}

/* A vector of the model that theta is a part of, as the theta says. */
static hn_status put_part(const hn_theta *t, int64_t part, const float *theta,
                          const hn_values *model, hn_values *out)
{
    const hn_theta_part *p = &t->part[part];
    hn_value *v = hn_values_find(out, p->name);
    if (v == NULL) {
        const hn_value *whole = hn_values_find(model, p->name);
        if (whole == NULL) return HN_FAIL(HN_ERR_ARG, "the backbone has no %s", p->name);
        HN_TRY(hn_values_put(out, whole));
        v = hn_values_find(out, p->name);
    }
    if (p->first < 0 || p->first + p->n > v->n)
        return HN_FAIL(HN_ERR_SHAPE, "%s has %" PRId64 " values", p->name, v->n);
    memcpy(v->v + p->first, theta, (size_t)p->n * sizeof *theta);
    return HN_OK;
}

hn_status hn_hf_biases(const hn_theta *t, const float *theta, const hn_values *model,
                       hn_values *out)
{
    for (int64_t i = 0; i < t->n_parts; i++) {
        HN_TRY(put_part(t, i, theta, model, out));
        theta += t->part[i].n;
    }
    return HN_OK;
}
