#include "runtime/train/drift_job.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "kernels/hyperflow/curve_point.h"
#include "runtime/base/alloc.h"
#include "runtime/base/label.h"
#include "runtime/base/rng.h"
#include "runtime/graph/tensor.h"

enum { ROW, LABEL, OFFSETS, TRAJECTORY, WEIGHTS, SINUSOIDS, N_FIELDS };

static const hn_drift_job *drift(const hn_job *j) { return (const hn_drift_job *)j; }

static int64_t numbers_of(const hn_drift_job *j)
{
    return j->o.config->tokens * j->o.config->token_width;
}

static hn_status declare(const hn_job *j, hn_params *p)
{
    return hn_drift_declare(drift(j)->o.config, p);
}

static hn_status tables(hn_job *job, hn_program *p)
{
    hn_drift_job *j = (hn_drift_job *)job;
    const hn_drift_config *c = j->o.config;
    const hn_drift_data *d = j->o.data;
    const hn_type knots = {.dtype = HN_F16, .ndim = 3, .dim = {d->n, d->knots, numbers_of(j)}};
    const hn_type unit = hn_type_1d(HN_F32, d->n), inv_sigma = hn_type_1d(HN_F32, c->tokens);
    const hn_type features = hn_type_2d(HN_F32, j->o.feature_rows, c->features);
    HN_TRY(hn_drift_tables_new(c, p, j->o.dtype, &j->o.rows, &j->tables));
    HN_TRY(hn_program_tensor(p, HN_MEM_STATE, "knots", &knots, &j->knots));
    HN_TRY(hn_program_tensor(p, HN_MEM_STATE, "units", &unit, &j->unit));
    HN_TRY(hn_program_tensor(p, HN_MEM_STATE, "inverse sigma", &inv_sigma, &j->inv_sigma));
    return hn_program_tensor(p, HN_MEM_STATE, "features", &features, &j->features);
}

static hn_status fill(const hn_job *job)
{
    const hn_drift_job *j = drift(job);
    const hn_drift_data *d = j->o.data;
    const size_t bytes = (size_t)(d->knots * numbers_of(j)) * sizeof(hn_f16);
    const int64_t tokens = j->o.config->tokens;
    HN_TRY(hn_drift_tables_fill(j->o.config, &j->tables));
    for (int64_t i = 0; i < d->n; i++)
        HN_TRY(hn_tensor_write(j->knots, (size_t)i * bytes, d->knot[i], bytes));
    HN_TRY(hn_tensor_write(j->unit, 0, d->unit, (size_t)d->n * sizeof *d->unit));
    HN_TRY(hn_tensor_set(j->features, j->o.features));
    float *inverse = hn_malloc((size_t)tokens * sizeof *inverse);
    if (inverse == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " numbers", tokens);
    for (int64_t i = 0; i < tokens; i++) inverse[i] = 1 / j->o.sigma[i];
    const hn_status st = hn_tensor_set(j->inv_sigma, inverse);
    hn_free(inverse);
    return st;
}

/* ---- the step ---- */

/* z and z' of all points. */
static hn_status points(const hn_drift_job *j, const hn_job_pass *pass, hn_graph *g, hn_tensor **z,
                        hn_tensor **dz)
{
    hn_tensor *const in[] = {j->knots, j->unit, pass->in[TRAJECTORY], pass->in[WEIGHTS],
                             j->inv_sigma};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.curve_point = {.noise = hn_graph_training(g) ? j->o.noise : 0,
                                          .to = j->o.dtype,
                                          .key = hn_hash_name("drift.points"),
                                          .want_dz = true}};
    HN_TRY(hn_emit(g, HN_OP_CURVE_POINT, "drift.points", in, &attr, out));
    *z = out[0];
    *dz = out[1];
    return HN_OK;
}

static hn_status context(const hn_drift_job *j, const hn_job_pass *pass, hn_graph *g, hn_tensor **u)
{
    hn_tensor *const gather[] = {j->features, pass->in[ROW]};
    hn_tensor *out[HN_MAX_OUT];
    const hn_attr attr = {.support_context = {.episodes = j->o.rows.tasks, .to = j->o.dtype}};
    HN_TRY(hn_emit(g, HN_OP_EMBEDDING, "drift.support.features", gather, NULL, out));
    hn_tensor *const in[] = {out[0], pass->in[LABEL]};
    HN_TRY(hn_emit(g, HN_OP_SUPPORT_CONTEXT, "drift.support.context", in, &attr, out));
    *u = out[0];
    return HN_OK;
}

static hn_status loss(hn_job *job, const hn_job_pass *pass, hn_graph *g, const hn_job_sums *sums)
{
    const hn_drift_job *j = drift(job);
    const hn_drift_build b = {.config = j->o.config,
                              .params = pass->params,
                              .tables = &j->tables,
                              .attention = j->o.attention};
    hn_tensor *z, *dz, *u, *time, *slope, *out[HN_MAX_OUT];
    hn_drift_task task;
    HN_TRY(points(j, pass, g, &z, &dz));
    HN_TRY(context(j, pass, g, &u));
    HN_TRY(hn_drift_task_of(&b, g, u, pass->in[OFFSETS], &task));
    HN_TRY(hn_drift_times(&b, g, pass->in[SINUSOIDS], &time));
    HN_TRY(hn_drift_slope(&b, g, &task, z, time, &slope));
    hn_tensor *const in[] = {slope, dz, pass->in[TRAJECTORY], sums->loss, sums->count};
    const hn_attr attr = {
        .regression = {.group_rows = j->o.config->tokens, .want_dy = hn_graph_training(g)}};
    return hn_emit(g, HN_OP_REGRESSION, "loss", in, &attr, out);
}

/* ---- micro-batches ---- */

static void empty(const hn_job *job, void *const *field)
{
    const hn_drift_rows *r = &drift(job)->o.rows;
    int32_t *const label = field[LABEL], *const offsets = field[OFFSETS];
    int32_t *const trajectory = field[TRAJECTORY];
    for (int k = 0; k < N_FIELDS; k++) memset(field[k], 0, hn_type_bytes(&job->field[k].type));
    for (int64_t i = 0; i < r->tasks * r->support; i++) label[i] = HN_LABEL_IGNORED;
    for (int64_t i = 0; i <= 2 * r->tasks; i++) offsets[i] = (int32_t)(i / 2 * r->support);
    for (int64_t i = 0; i < r->tasks * r->points; i++) trajectory[i] = HN_LABEL_IGNORED;
}

hn_drift_batch hn_drift_batch_empty(const hn_drift_job *j, const hn_engine_input *in)
{
    empty(&j->job, in->field);
    return (hn_drift_batch){.job = j,
                            .row = in->field[ROW],
                            .label = in->field[LABEL],
                            .offsets = in->field[OFFSETS],
                            .trajectory = in->field[TRAJECTORY],
                            .weights = in->field[WEIGHTS],
                            .sinusoids = in->field[SINUSOIDS]};
}

void hn_drift_put_task(const hn_drift_batch *b, int64_t i, int64_t task)
{
    const hn_drift_data *d = b->job->o.data;
    const size_t bytes = (size_t)d->support * sizeof *b->row;
    memcpy(b->row + i * d->support, d->row + task * d->support, bytes);
    memcpy(b->label + i * d->support, d->label + task * d->support, bytes);
    b->offsets[2 * i + 1] = (int32_t)(i * d->support + d->images[task]);
}

hn_status hn_drift_put_point(const hn_drift_batch *b, int64_t i, int64_t k, int64_t trajectory,
                             const hn_curve *curve, double t)
{
    const hn_drift_job *j = b->job;
    const int64_t at = i * j->o.rows.points + k;
    HN_TRY(hn_curve_row(curve, t, b->weights + at * 2 * j->o.data->knots));
    hn_drift_time_row(j->o.config, t, b->sinusoids + at * j->o.config->time);
    b->trajectory[at] = (int32_t)trajectory;
    return HN_OK;
}

/* ---- */

static hn_status check(const hn_drift_job_options *o)
{
    const hn_drift_data *d = o->data;
    if (d->n < 1 || d->n > INT32_MAX || d->tasks < 1 || o->feature_rows < 1 || d->knots < 2 ||
        d->knots > HN_CURVE_POINT_KNOTS)
        return HN_FAIL(HN_ERR_SHAPE,
                       "drift job: %" PRId64 " trajectories of %" PRId64 " knots, %" PRId64
                       " tasks, %" PRId64 " rows of features",
                       d->n, d->knots, d->tasks, o->feature_rows);
    if (o->rows.support != d->support)
        return HN_FAIL(HN_ERR_SHAPE, "drift job: %" PRId64 " support rows, the data have %" PRId64,
                       o->rows.support, d->support);
    for (int64_t i = 0; i < d->tasks * d->support; i++)
        if (d->row[i] < 0 || d->row[i] >= o->feature_rows)
            return HN_FAIL(HN_ERR_ARG, "drift job: row %d of %" PRId64 " rows of features",
                           (int)d->row[i], o->feature_rows);
    for (int64_t i = 0; i < o->config->tokens; i++)
        if (!(o->sigma[i] > 0) || !isfinite(1 / o->sigma[i]))
            return HN_FAIL(HN_ERR_ARG, "drift job: sigma of token %" PRId64 " is %g", i,
                           (double)o->sigma[i]);
    if (!(o->noise >= 0)) return HN_FAIL(HN_ERR_ARG, "drift job: noise %g", (double)o->noise);
    return HN_OK;
}

hn_status hn_drift_job_init(hn_drift_job *j, const hn_drift_job_options *o)
{
    const int64_t rows = o->rows.tasks * o->rows.support, n = o->rows.tasks * o->rows.points;
    HN_TRY(check(o));
    const hn_type weights = {.dtype = HN_F32, .ndim = 2, .dim = {n, 2 * o->data->knots}};
    const hn_type sinusoids = {.dtype = HN_F32, .ndim = 2, .dim = {n, o->config->time}};
    *j = (hn_drift_job){.job = {.rows = n,
                                .n_fields = N_FIELDS,
                                .field = {[ROW] = {"support.row", hn_type_1d(HN_I32, rows)},
                                          [LABEL] = {"support.label", hn_type_1d(HN_I32, rows)},
                                          [OFFSETS] = {"support.offsets",
                                                       hn_type_1d(HN_I32, 2 * o->rows.tasks + 1)},
                                          [TRAJECTORY] = {"trajectory", hn_type_1d(HN_I32, n)},
                                          [WEIGHTS] = {"curve", weights},
                                          [SINUSOIDS] = {"time", sinusoids}},
                                .declare = declare,
                                .tables = tables,
                                .fill = fill,
                                .loss = loss,
                                .empty = empty},
                        .o = *o};
    return HN_OK;
}
