/* What a run has come to: CSV files, result.json, and lines and tables to look at. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/train/pearl_impl.h"
#include "runtime/train/rank_table.h"

static hn_status no_memory(void) { return HN_FAIL(HN_ERR_MEMORY, "no memory for the report"); }

/* ---- files ---- */

static hn_status in_out(const hn_pearl *r, const char *name, char **path)
{
    *path = hn_asprintf("%s/%s", r->out, name);
    return *path ? HN_OK : no_memory();
}

static hn_status save_matrix(const hn_pearl *r, const hn_cl *c, const char *name)
{
    char *path = NULL;
    HN_TRY(in_out(r, name, &path));
    const hn_status st = hn_cl_save_accuracy_csv(c, path);
    hn_free(path);
    return st;
}

static bool has_ranks(const hn_pearl *r)
{
    for (int t = 0; t < r->done; t++)
        if (r->record[t].rank != NULL) return true;
    return false;
}

static hn_status save_ranks(const hn_pearl *r)
{
    if (!has_ranks(r)) return HN_OK;
    char *path = NULL;
    int64_t n = 0;
    hn_rank_row *row = hn_calloc((size_t)(r->done * r->n_layers), sizeof *row);
    if (row == NULL) return no_memory();
    for (int t = 0; t < r->done; t++)
        for (int64_t i = 0; r->record[t].rank != NULL && i < r->n_layers; i++)
            row[n++] = (hn_rank_row){.task = t + 1,
                                     .layer = r->layer[i].module,
                                     .m = r->layer[i].m,
                                     .n = r->layer[i].n,
                                     .choice = r->record[t].rank[i].choice,
                                     .near = r->record[t].rank[i].near};
    hn_status st = in_out(r, "ranks.csv", &path);
    if (st == HN_OK) st = hn_rank_save_csv(path, row, n);
    hn_free(path);
    hn_free(row);
    return st;
}

/* ---- the cell ---- */

static void set(json_t *o, const char *key, json_t *value, bool *ok)
{
    *ok = json_object_set_new(o, key, value) == 0 && *ok;
}

static json_t *real(double v) { return isfinite(v) ? json_real(v) : json_null(); }

/* |Delta|_F / |W_ref|_F over all layers. */
static double distance_of(const hn_pearl *r, int task)
{
    const hn_pearl_rank *k = r->record[task].rank;
    double moved = 0, size = 0;
    for (int64_t i = 0; k != NULL && i < r->n_layers; i++) {
        const double w = k[i].near.reference;
        moved += isfinite(k[i].near.distance) ? pow(k[i].near.distance * w, 2) : 0;
        size += w * w;
    }
    return k != NULL && size > 0 ? sqrt(moved / size) : NAN;
}

static double mean_rank(const hn_pearl *r, int task)
{
    const hn_pearl_rank *k = r->record[task].rank;
    double sum = 0;
    for (int64_t i = 0; k != NULL && i < r->n_layers; i++) sum += (double)k[i].choice.rank;
    return k != NULL ? sum / (double)r->n_layers : NAN;
}

static json_t *task_json(const hn_pearl *r, int task, bool *ok)
{
    const hn_pearl_record *k = &r->record[task];
    const json_t *count = json_object_get(k->json, "parameters");
    json_t *o = json_object();
    set(o, "task", json_integer(task + 1), ok);
    set(o, "base", json_integer(k->base), ok);
    set(o, "distance", real(distance_of(r, task)), ok);
    set(o, "mean_rank", real(mean_rank(r, task)), ok);
    set(o, "parameters", json_deep_copy(count), ok);
    set(o, "images", json_integer(k->task_images), ok);
    set(o, "steps", json_integer(k->steps), ok);
    set(o, "probe_s", json_real(k->probe_s), ok);
    set(o, "ranks_s", json_real(k->rank_s), ok);
    set(o, "train_s", json_real(k->train_s), ok);
    set(o, "evaluate_s", json_real(k->eval_s), ok);
    return o;
}

static int64_t added_in_all(const hn_pearl *r)
{
    int64_t sum = 0;
    for (int t = 0; t < r->tasks; t++) {
        const json_t *o = json_object_get(r->record[t].json, "parameters");
        sum += json_integer_value(json_object_get(o, "total"));
    }
    return sum;
}

static json_t *chooser_json(const hn_pearl *r, int k, bool *ok)
{
    hn_cl_summary s;
    json_t *o = json_object(), *rows = json_array();
    if (hn_cl_summarize(r->chosen[k], r->done, &s) != HN_OK) return o;
    set(o, "AverageAccuracy", real(s.average_accuracy), ok);
    set(o, "AverageIncrementalAccuracy", real(s.average_incremental_accuracy), ok);
    set(o, "StreamForgetting", real(s.stream_forgetting), ok);
    for (int t = 0; t < r->done; t++) {
        const json_t *chosen = json_object_get(r->record[t].json, "class_incremental");
        json_t *row = json_deep_copy(json_object_get(chosen, hn_chooser_name(r->chooser[k])));
        *ok = json_array_append_new(rows, row ? row : json_null()) == 0 && *ok;
    }
    set(o, "accuracy", rows, ok);
    return o;
}

/* Those of its options that mean something. */
static void add_strategy(const hn_pearl *r, json_t *o, bool *ok)
{
    static const char *const refs[] = {"first", "pretrained", "previous", "nearest"};
    const hn_pearl_config *c = r->c;
    const struct {
        const char *option, *key;
        json_t *value;
    } rows[] = {{"ref", "ref", json_string(refs[r->ref])},
                {"layers", "layers", json_string(c->layers.joined)},
                {"norm", "norm", json_string(c->norm)},
                {"rank", "rank", json_integer((json_int_t)c->rank)},
                {"rank-rule", "rank_rule", json_string(c->rank_rule)},
                {"energy", "energy", json_real(c->energy)},
                {"eps", "eps", json_real(c->eps)},
                {"floor", "floor", json_integer((json_int_t)c->floor)},
                {"budget", "budget", json_integer((json_int_t)c->budget)},
                {"allocator", "allocator", json_string(c->allocator)},
                {"init", "init", json_string(c->init)},
                {"truncate", "truncate", json_boolean(c->truncate)},
                {"probe-epochs", "probe_epochs", json_real(hn_pearl_probe_epochs(r))},
                {"lwf-weight", "lwf_weight", json_real(c->lwf_weight)},
                {"ewc-weight", "ewc_weight", json_real(c->ewc_weight)}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (hn_pearl_reason(c, rows[i].option) == NULL)
            set(o, rows[i].key, rows[i].value, ok);
        else
            json_decref(rows[i].value);
    }
}

static json_t *about(const hn_pearl *r, bool *ok)
{
    const hn_pearl_config *c = r->c;
    json_t *o = json_object(), *tasks = json_array(), *chosen = json_object();
    set(o, "program", json_string("hone-pearl"), ok);
    set(o, "strategy", json_string(c->strategy), ok);
    set(o, "model", json_string(c->model), ok);
    set(o, "weights", json_string(c->weights), ok);
    set(o, "dtype", json_string(hn_dtype_name(r->model.dtype)), ok);
    set(o, "data", json_string(c->data), ok);
    set(o, "stream", json_string(hn_task_stream_text(r->stream)), ok);
    set(o, "seed", json_integer((json_int_t)c->seed), ok);
    set(o, "epochs", json_real(c->epochs), ok);
    set(o, "batch_size", json_integer((json_int_t)c->batch_size), ok);
    set(o, "lr", json_real(c->lr), ok);
    set(o, "optimizer", json_string(c->optimizer), ok);
    add_strategy(r, o, ok);
    set(o, "settings", json_string(r->settings), ok);
    set(o, "device", json_string(hn_device_text(r->device)), ok);
    set(o, "body_parameters", json_integer((json_int_t)hn_pearl_body_values(r)), ok);
    set(o, "added_parameters", json_integer((json_int_t)added_in_all(r)), ok);
    for (int t = 0; t < r->done; t++)
        if (r->record[t].json) *ok = json_array_append_new(tasks, task_json(r, t, ok)) == 0 && *ok;
    set(o, "per_task", tasks, ok);
    for (int i = 0; i < r->n_choosers; i++)
        set(chosen, hn_chooser_name(r->chooser[i]), chooser_json(r, i, ok), ok);
    set(o, "class_incremental", chosen, ok);
    return o;
}

static hn_status save_cell(const hn_pearl *r)
{
    char *path = NULL;
    bool ok = true;
    json_t *o = about(r, &ok);
    hn_status st = ok ? in_out(r, "result.json", &path) : no_memory();
    if (st == HN_OK) st = hn_cl_save_json(r->accuracy, o, path);
    hn_free(path);
    json_decref(o);
    return st;
}

hn_status hn_pearl_report_write(const hn_pearl *r)
{
    char name[64], *path = NULL;
    HN_TRY(save_matrix(r, r->accuracy, "accuracy.csv"));
    for (int i = 0; i < r->n_choosers; i++) {
        snprintf(name, sizeof name, "classil-%s.csv", hn_chooser_name(r->chooser[i]));
        HN_TRY(save_matrix(r, r->chosen[i], name));
    }
    HN_TRY(in_out(r, "metrics.csv", &path));
    const hn_status st = hn_cl_save_metrics_csv(r->accuracy, path);
    hn_free(path);
    HN_TRY(st);
    HN_TRY(save_ranks(r));
    return save_cell(r);
}

/* ---- lines ---- */

static void say_row(const hn_pearl *r, const char *what, const hn_cl *c, int after)
{
    char line[1024];
    size_t at = 0;
    line[0] = '\0';
    for (int i = 1; i <= after && at + 8 < sizeof line; i++)
        at += (size_t)snprintf(line + at, sizeof line - at, " %5.1f",
                               100 * hn_cl_accuracy(c, after, i));
    hn_cl_summary s;
    if (hn_cl_summarize(c, after, &s) != HN_OK) return;
    hn_info(&r->log, "  %-12s mean %5.1f %% :%s", what, 100 * s.average_accuracy, line);
}

void hn_pearl_say_task(const hn_pearl *r, int task)
{
    hn_pearl_count n;
    char ranks[96] = "";
    hn_pearl_count_of(r, task, &n);
    if (r->record[task].rank != NULL)
        snprintf(ranks, sizeof ranks, "distance %.4g, mean rank %.2f, ", distance_of(r, task),
                 mean_rank(r, task));
    hn_info(&r->log,
            "task %d/%d: %s%" PRId64 " parameters added (%" PRId64 " low-rank, %" PRId64
            " dense, %" PRId64 " norms and statistics, %" PRId64 " head), %.1f s",
            task + 1, r->tasks, ranks, n.total, n.low_rank, n.dense, n.norm + n.running, n.head,
            r->record[task].probe_s + r->record[task].train_s);
    say_row(r, "task known", r->accuracy, task + 1);
    for (int i = 0; i < r->n_choosers; i++)
        say_row(r, hn_chooser_name(r->chooser[i]), r->chosen[i], task + 1);
}

/* ---- tables ---- */

/* A shade for a rank out of the most there are. */
static const char *shade(int64_t rank, int64_t most)
{
    static const char *const shades[] = {" ", "\u2591", "\u2592", "\u2593", "\u2588"};
    if (rank == 0 || most == 0) return shades[0];
    const int64_t i = 1 + 4 * rank / (most + 1);
    return shades[i > 4 ? 4 : i];
}

/* Layers down, tasks across: the rank in each cell, "d" behind one that is dense. */
void hn_pearl_heat_map(const hn_pearl *r, FILE *to)
{
    int64_t most = 0;
    if (!has_ranks(r)) return;
    for (int t = 0; t < r->done; t++)
        for (int64_t i = 0; r->record[t].rank && i < r->n_layers; i++)
            if (r->record[t].rank[i].choice.rank > most) most = r->record[t].rank[i].choice.rank;
    fprintf(to, "\nranks of layers (down) and tasks (across); d: kept dense\n%-40s", "");
    for (int t = 0; t < r->done; t++) fprintf(to, " %6d", t + 1);
    fputc('\n', to);
    for (int64_t i = 0; i < r->n_layers; i++) {
        fprintf(to, "%-40.40s", r->layer[i].module);
        for (int t = 0; t < r->done; t++) {
            const hn_pearl_rank *k = r->record[t].rank;
            if (k == NULL)
                fprintf(to, " %6s", "-");
            else
                fprintf(to, " %s%4" PRId64 "%s", shade(k[i].choice.rank, most), k[i].choice.rank,
                        k[i].choice.dense ? "d" : " ");
        }
        fputc('\n', to);
    }
}

static void print_matrix(FILE *to, const char *title, const hn_cl *c)
{
    fprintf(to, "\n%s: accuracy in %% on each task (across) after each task (down)\n%6s", title,
            "");
    for (int i = 1; i <= hn_cl_tasks(c); i++) fprintf(to, " %6d", i);
    fputc('\n', to);
    for (int t = 1; t <= hn_cl_last(c); t++) {
        if (isnan(hn_cl_accuracy(c, t, 1))) continue;
        fprintf(to, "%6d", t);
        for (int i = 1; i <= t; i++) fprintf(to, " %6.2f", 100 * hn_cl_accuracy(c, t, i));
        fputc('\n', to);
    }
}

void hn_pearl_print_tables(const hn_pearl *r, FILE *to)
{
    print_matrix(to, "task known", r->accuracy);
    for (int i = 0; i < r->n_choosers; i++)
        print_matrix(to, hn_chooser_name(r->chooser[i]), r->chosen[i]);
    fprintf(to, "\n%5s %10s %10s %12s %10s %8s %8s\n", "task", "distance", "mean rank",
            "parameters", "low-rank", "probe s", "train s");
    for (int t = 0; t < r->done; t++) {
        const hn_pearl_record *k = &r->record[t];
        const json_t *n = json_object_get(k->json, "parameters");
        if (k->json == NULL) continue;
        fprintf(to, "%5d %10.4g %10.2f %12" PRId64 " %10" PRId64 " %8.1f %8.1f\n", t + 1,
                distance_of(r, t), mean_rank(r, t),
                (int64_t)json_integer_value(json_object_get(n, "total")),
                (int64_t)json_integer_value(json_object_get(n, "low_rank")), k->probe_s,
                k->train_s);
    }
    hn_pearl_heat_map(r, to);
}
