#include "runtime/train/cl_metrics.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>

#include "runtime/base/alloc.h"
#include "runtime/base/check.h"
#include "runtime/base/save.h"

enum { MAX_TASKS = 10000 };

struct hn_cl {
    int64_t tasks;
    double *a; /* [tasks + 1, tasks] */
};

/* ---- the matrix ---- */

hn_status hn_cl_new(int64_t tasks, hn_cl **out)
{
    if (tasks < 1 || tasks > MAX_TASKS)
        return HN_FAIL(HN_ERR_SHAPE, "accuracy matrix: %" PRId64 " tasks, 1 to %d are allowed",
                       tasks, MAX_TASKS);
    const size_t cells = (size_t)(tasks + 1) * (size_t)tasks;
    hn_cl *c = hn_calloc(1, sizeof *c);
    if (c != NULL) c->a = hn_calloc(cells, sizeof *c->a);
    if (c == NULL || c->a == NULL) {
        hn_cl_free(c);
        return HN_FAIL(HN_ERR_MEMORY, "accuracy matrix: no memory for %" PRId64 " tasks", tasks);
    }
    c->tasks = tasks;
    for (size_t i = 0; i < cells; i++) c->a[i] = NAN;
    *out = c;
    return HN_OK;
}

void hn_cl_free(hn_cl *c)
{
    if (c == NULL) return;
    hn_free(c->a);
    hn_free(c);
}

int64_t hn_cl_tasks(const hn_cl *c) { return c->tasks; }

hn_status hn_cl_put(hn_cl *c, int64_t after, int64_t task, double accuracy)
{
    HN_TRY(hn_check_pointer("accuracy matrix", "matrix", c));
    if (after < 0 || after > c->tasks || task < 1 || task > c->tasks)
        return HN_FAIL(HN_ERR_ARG,
                       "accuracy matrix: there is no place for task %" PRId64 " after task %" PRId64
                       " of %" PRId64,
                       task, after, c->tasks);
    if (!(accuracy >= 0.0 && accuracy <= 1.0))
        return HN_FAIL(HN_ERR_ARG, "accuracy matrix: %g is not a share from 0 to 1", accuracy);
    c->a[after * c->tasks + task - 1] = accuracy;
    return HN_OK;
}

double hn_cl_accuracy(const hn_cl *c, int64_t after, int64_t task)
{
    if (after < 0 || after > c->tasks || task < 1 || task > c->tasks) return NAN;
    return c->a[after * c->tasks + task - 1];
}

int64_t hn_cl_last(const hn_cl *c)
{
    for (int64_t t = c->tasks; t > 0; t--)
        for (int64_t i = 1; i <= t; i++)
            if (!isnan(hn_cl_accuracy(c, t, i))) return t;
    return 0;
}

/* ---- metrics ---- */

double hn_cl_forgetting(const hn_cl *c, int64_t after, int64_t task)
{
    if (task >= after) return NAN;
    return hn_cl_accuracy(c, task, task) - hn_cl_accuracy(c, after, task);
}

double hn_cl_bwt(const hn_cl *c, int64_t after, int64_t task)
{
    if (task >= after) return NAN;
    return hn_cl_accuracy(c, after, task) - hn_cl_accuracy(c, task, task);
}

double hn_cl_forward_transfer(const hn_cl *c, int64_t task)
{
    if (task < 2) return NAN;
    return hn_cl_accuracy(c, task - 1, task) - hn_cl_accuracy(c, 0, task);
}

static double average_accuracy(const hn_cl *c, int64_t t)
{
    double sum = 0.0;
    for (int64_t i = 1; i <= t; i++) sum += hn_cl_accuracy(c, t, i);
    return sum / (double)t;
}

/* Of task i before task t, from when it was learned. */
static double best_before(const hn_cl *c, int64_t t, int64_t i)
{
    double best = hn_cl_accuracy(c, i, i);
    for (int64_t j = i + 1; j < t; j++) {
        const double a = hn_cl_accuracy(c, j, i);
        if (isnan(a)) return NAN;
        if (a > best) best = a;
    }
    return best;
}

hn_status hn_cl_summarize(const hn_cl *c, int64_t after, hn_cl_summary *out)
{
    HN_TRY(hn_check_pointer("accuracy matrix", "matrix", c));
    if (after < 1 || after > c->tasks)
        return HN_FAIL(HN_ERR_ARG, "accuracy matrix: no metrics after task %" PRId64 " of %" PRId64,
                       after, c->tasks);
    hn_cl_summary s = {.average_accuracy = average_accuracy(c, after)};
    for (int64_t t = 1; t <= after; t++) s.average_incremental_accuracy += average_accuracy(c, t);
    s.average_incremental_accuracy /= (double)after;
    for (int64_t i = 1; i < after; i++) {
        s.stream_forgetting += hn_cl_forgetting(c, after, i);
        s.max_forgetting += best_before(c, after, i) - hn_cl_accuracy(c, after, i);
    }
    if (after > 1) {
        s.stream_forgetting /= (double)(after - 1);
        s.max_forgetting /= (double)(after - 1);
    }
    s.stream_bwt = 0.0 - s.stream_forgetting; /* 0, not -0 */
    const int64_t known = after < c->tasks ? after + 1 : after;
    for (int64_t i = 2; i <= known; i++) s.stream_forward_transfer += hn_cl_forward_transfer(c, i);
    if (known > 1) s.stream_forward_transfer /= (double)(known - 1);
    *out = s;
    return HN_OK;
}

/* ---- names ---- */

/* Metrics of the stream, in the order of the files. */
static const char *const stream_names[] = {"AverageAccuracy",  "AverageIncrementalAccuracy",
                                           "StreamForgetting", "StreamBWT",
                                           "MaxForgetting",    "StreamForwardTransfer"};
enum { STREAM_METRICS = sizeof stream_names / sizeof *stream_names };

static void stream_values(const hn_cl_summary *s, double values[STREAM_METRICS])
{
    const double all[] = {s->average_accuracy,  s->average_incremental_accuracy,
                          s->stream_forgetting, s->stream_bwt,
                          s->max_forgetting,    s->stream_forward_transfer};
    for (int i = 0; i < STREAM_METRICS; i++) values[i] = all[i];
}

/* Metrics of a task. */
static const char *const task_names[] = {"Top1_Acc_Exp", "ExperienceForgetting", "ExperienceBWT",
                                         "ExperienceForwardTransfer"};
enum { TASK_METRICS = sizeof task_names / sizeof *task_names };

static double task_value(const hn_cl *c, int metric, int64_t after, int64_t task)
{
    switch (metric) {
    case 0: return hn_cl_accuracy(c, after, task);
    case 1: return hn_cl_forgetting(c, after, task);
    case 2: return hn_cl_bwt(c, after, task);
    default: return task <= after + 1 ? hn_cl_forward_transfer(c, task) : NAN;
    }
}

/* ---- CSV ---- */

static hn_status write_text(hn_saver *f, const char *text, int n)
{
    return hn_saver_write(f, text, (size_t)n);
}

/* Ends the file that a writer has filled, or takes it back. */
static hn_status end_file(hn_saver *f, hn_status st)
{
    if (st == HN_OK) return hn_saver_commit(f, NULL, NULL);
    hn_saver_abort(f);
    return st;
}

static hn_status write_matrix(const hn_cl *c, hn_saver *f)
{
    char text[64];
    HN_TRY(write_text(f, text, snprintf(text, sizeof text, "after_task")));
    for (int64_t i = 1; i <= c->tasks; i++)
        HN_TRY(write_text(f, text, snprintf(text, sizeof text, ",task_%" PRId64, i)));
    for (int64_t t = 0; t <= c->tasks; t++) {
        bool any = false;
        for (int64_t i = 1; i <= c->tasks; i++) any = any || !isnan(hn_cl_accuracy(c, t, i));
        if (!any) continue;
        HN_TRY(write_text(f, text, snprintf(text, sizeof text, "\n%" PRId64, t)));
        for (int64_t i = 1; i <= c->tasks; i++) {
            const double a = hn_cl_accuracy(c, t, i);
            HN_TRY(write_text(f, text,
                              isnan(a) ? snprintf(text, sizeof text, ",")
                                       : snprintf(text, sizeof text, ",%.9g", a)));
        }
    }
    return hn_saver_write(f, "\n", 1);
}

hn_status hn_cl_save_accuracy_csv(const hn_cl *c, const char *path)
{
    HN_TRY(hn_check_pointer("accuracy matrix", "matrix", c));
    hn_saver *f = NULL;
    HN_TRY(hn_saver_open(path, &f));
    return end_file(f, write_matrix(c, f));
}

static hn_status write_metrics(const hn_cl *c, hn_saver *f)
{
    char text[128];
    HN_TRY(write_text(f, text, snprintf(text, sizeof text, "after_task,metric,task,value\n")));
    const int64_t last = hn_cl_last(c);
    for (int64_t t = 1; t <= last; t++) {
        hn_cl_summary s;
        double values[STREAM_METRICS];
        HN_TRY(hn_cl_summarize(c, t, &s));
        stream_values(&s, values);
        for (int k = 0; k < STREAM_METRICS; k++)
            if (!isnan(values[k]))
                HN_TRY(write_text(f, text,
                                  snprintf(text, sizeof text, "%" PRId64 ",%s,,%.9g\n", t,
                                           stream_names[k], values[k])));
        for (int k = 0; k < TASK_METRICS; k++)
            for (int64_t i = 1; i <= c->tasks; i++) {
                const double v = task_value(c, k, t, i);
                if (isnan(v)) continue;
                HN_TRY(write_text(f, text,
                                  snprintf(text, sizeof text, "%" PRId64 ",%s,%" PRId64 ",%.9g\n",
                                           t, task_names[k], i, v)));
            }
    }
    return HN_OK;
}

hn_status hn_cl_save_metrics_csv(const hn_cl *c, const char *path)
{
    HN_TRY(hn_check_pointer("accuracy matrix", "matrix", c));
    hn_saver *f = NULL;
    HN_TRY(hn_saver_open(path, &f));
    return end_file(f, write_metrics(c, f));
}

/* ---- JSON ---- */

static json_t *number(double v) { return isnan(v) ? json_null() : json_real(v); }

/* Jansson's "new" functions take NULL as a failed value and answer -1: *ok gathers that. */
static void append(json_t *array, json_t *value, bool *ok)
{
    *ok = json_array_append_new(array, value) == 0 && *ok;
}

static void set(json_t *object, const char *key, json_t *value, bool *ok)
{
    *ok = json_object_set_new(object, key, value) == 0 && *ok;
}

static json_t *metrics_json(const hn_cl *c, int64_t after, bool *ok)
{
    json_t *metrics = json_object();
    hn_cl_summary s;
    double values[STREAM_METRICS];
    if (after < 1 || hn_cl_summarize(c, after, &s) != HN_OK) return metrics;
    stream_values(&s, values);
    for (int k = 0; k < STREAM_METRICS; k++) set(metrics, stream_names[k], number(values[k]), ok);
    for (int k = 0; k < TASK_METRICS; k++) {
        json_t *row = json_array();
        for (int64_t i = 1; i <= c->tasks; i++) append(row, number(task_value(c, k, after, i)), ok);
        set(metrics, task_names[k], row, ok);
    }
    return metrics;
}

static json_t *matrix_json(const hn_cl *c, bool *ok)
{
    json_t *matrix = json_array();
    for (int64_t t = 0; t <= c->tasks; t++) {
        json_t *row = json_array();
        for (int64_t i = 1; i <= c->tasks; i++) append(row, number(hn_cl_accuracy(c, t, i)), ok);
        append(matrix, row, ok);
    }
    return matrix;
}

hn_status hn_cl_save_json(const hn_cl *c, const json_t *about, const char *path)
{
    HN_TRY(hn_check_pointer("accuracy matrix", "matrix", c));
    if (about != NULL && !json_is_object(about))
        return HN_FAIL(HN_ERR_ARG, "%s: what the cell is about is not an object", path);
    bool ok = true;
    const int64_t after = hn_cl_last(c);
    json_t *cell = json_object();
    set(cell, "cell", about != NULL ? json_deep_copy(about) : json_object(), &ok);
    set(cell, "tasks", json_integer(c->tasks), &ok);
    set(cell, "after_task", json_integer(after), &ok);
    set(cell, "metrics", metrics_json(c, after, &ok), &ok);
    set(cell, "accuracy", matrix_json(c, &ok), &ok);
    const hn_status st = ok ? hn_json_save(path, cell, false)
                            : HN_FAIL(HN_ERR_MEMORY, "%s: out of memory while writing JSON", path);
    json_decref(cell);
    return st;
}

static hn_status read_row(const json_t *row, int64_t after, const char *where, hn_cl *c)
{
    if (!json_is_array(row) || (int64_t)json_array_size(row) != c->tasks)
        return HN_FAIL(HN_ERR_FORMAT, "%s: row %" PRId64 " of 'accuracy' has not %" PRId64 " cells",
                       where, after, c->tasks);
    for (int64_t i = 1; i <= c->tasks; i++) {
        const json_t *v = json_array_get(row, (size_t)(i - 1));
        if (json_is_null(v)) continue;
        const double a = json_is_number(v) ? json_number_value(v) : NAN;
        if (!(a >= 0.0 && a <= 1.0))
            return HN_FAIL(HN_ERR_FORMAT,
                           "%s: 'accuracy' of task %" PRId64 " after task %" PRId64
                           " is not a share from 0 to 1",
                           where, i, after);
        HN_TRY(hn_cl_put(c, after, i, a));
    }
    return HN_OK;
}

hn_status hn_cl_from_json(const json_t *object, const char *where, hn_cl **out)
{
    int64_t tasks = 0;
    HN_TRY(hn_json_get_i64(object, "tasks", where, 1, MAX_TASKS, true, &tasks));
    const json_t *matrix = json_object_get(object, "accuracy");
    if (!json_is_array(matrix) || (int64_t)json_array_size(matrix) != tasks + 1)
        return HN_FAIL(HN_ERR_FORMAT, "%s: 'accuracy' has not %" PRId64 " rows", where, tasks + 1);
    hn_cl *c = NULL;
    hn_status st = hn_cl_new(tasks, &c);
    for (int64_t t = 0; t <= tasks && st == HN_OK; t++)
        st = read_row(json_array_get(matrix, (size_t)t), t, where, c);
    if (st != HN_OK) {
        hn_cl_free(c);
        return st;
    }
    *out = c;
    return HN_OK;
}
