/* The verbs of hone-pearl. */
#define _POSIX_C_SOURCE 200809L
#include "runtime/train/pearl.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/pearl_impl.h"
#include "runtime/train/signals.h"

/* ---- train ---- */

static hn_status check_epochs(const hn_pearl *r)
{
    if (r->strategy != HN_PEARL_PEARL) return HN_OK;
    const double probe = hn_pearl_probe_epochs(r);
    if (probe < r->c->epochs) return HN_OK;
    return HN_FAIL(HN_ERR_ARG,
                   "--epochs %g: the probe takes %g of them and leaves nothing for the factors; "
                   "--probe-epochs says how many",
                   r->c->epochs, probe);
}

/* The reference of a network that was trained before: what the run begins with. */
static hn_status take_reference(hn_pearl *r)
{
    if (r->strategy > HN_PEARL_HEAD || hn_pearl_first_is_reference(r) || r->done > 0) return HN_OK;
    HN_TRY(hn_values_overlay(&r->reference, &r->initial));
    return hn_pearl_reference_write(r);
}

static hn_status say_stopped(const hn_pearl *r)
{
    const int number = hn_signals_caught();
    const bool limit = r->c->stop_after_steps > 0 && r->steps_here >= r->c->stop_after_steps;
    const char *by = number  ? hn_signals_name(number)
                     : limit ? "--stop-after-steps"
                             : "a signal to another rank";
    if (r->json)
        fprintf(r->to, "{\"stopped\": \"%s\", \"tasks_done\": %d, \"out\": \"%s\"}\n", by, r->done,
                r->out);
    else
        fprintf(r->to,
                "stopped by %s in task %d of %d; continue with: hone-pearl train --config "
                "%s/run.yaml --out %s --resume auto\n",
                by, r->done + 1, r->tasks, r->out, r->out);
    return HN_OK;
}

/* Where the result is, how to look at it, how to take a network out. */
static hn_status say_result(const hn_pearl *r)
{
    hn_cl_summary s;
    HN_TRY(hn_cl_summarize(r->accuracy, r->done, &s));
    if (r->json) {
        fprintf(r->to, "{\"result\": \"%s/result.json\", \"tasks_done\": %d, \"accuracy\": %.6f}\n",
                r->out, r->done, s.average_accuracy);
        return HN_OK;
    }
    if (isatty(fileno(r->to))) hn_pearl_heat_map(r, r->to);
    if (r->done < r->tasks)
        fprintf(r->to,
                "stopped after task %d of %d; continue with: hone-pearl train --config "
                "%s/run.yaml --out %s --resume auto\n",
                r->done, r->tasks, r->out, r->out);
    fprintf(r->to, "result:  %s/result.json (average accuracy %.2f %%", r->out,
            100 * s.average_accuracy);
    if (isfinite(s.stream_forgetting))
        fprintf(r->to, ", forgetting %.2f %%", 100 * s.stream_forgetting);
    fprintf(r->to, ")\n");
    fprintf(r->to, "tables:  hone-pearl report --run %s\n", r->out);
    if (r->strategy <= HN_PEARL_LORA)
        fprintf(r->to, "picture: python3 scripts/tables/rank_map.py %s/ranks.csv %s/rank-map\n",
                r->out, r->out);
    fprintf(r->to, "export:  hone-pearl export --run %s --task %d --to DIR\n", r->out, r->done);
    return HN_OK;
}

static bool needs_prototypes(const hn_pearl *r)
{
    for (int i = 0; i < r->n_choosers; i++)
        if (r->chooser[i] == HN_CHOOSE_PROTOTYPE) return true;
    return false;
}

static hn_status count_images(hn_pearl *r, int first, int end)
{
    hn_image_view view = {0};
    HN_TRY(hn_task_view_make(r->stream, r->train, first, end, HN_LABELS_STREAM, &view));
    r->record[end - 1].task_images = view.n;
    hn_image_view_free(&view);
    return HN_OK;
}

/* A task, or all of them at once, up to its record. A signal in what is measured of it, which
 * leaves no record, is a stop like one in a step: its phases are on disk, and a run that goes on
 * measures again. Not where it is r->stopped already. */
static hn_status learn_and_record(hn_pearl *r, int first, int end)
{
    json_t *digests = NULL;
    HN_TRY(count_images(r, first, end));
    HN_TRY(hn_pearl_learn(r, first, end));
    if (r->stopped) return HN_OK;
    r->learned = end;
    hn_team_at(r->team, HN_HUB_AT_SAVE, -1);
    if (first == 0 && r->strategy <= HN_PEARL_HEAD && hn_pearl_first_is_reference(r))
        HN_TRY(hn_pearl_reference_write(r));
    if (needs_prototypes(r)) HN_TRY(hn_pearl_prototypes(r, end - 1));
    hn_status st = hn_pearl_evaluate(r, end - 1, &digests);
    if (st == HN_OK) st = hn_pearl_record_write(r, end - 1, digests);
    json_decref(digests);
    return st;
}

static hn_status run_round(hn_pearl *r, int first, int end)
{
    const hn_status st = learn_and_record(r, first, end);
    if (st == HN_ERR_STOPPED) { /* on all ranks */
        hn_info(&r->log, "task %d: %s; a run that goes on begins with it", end, hn_last_text());
        r->stopped = true;
        return HN_OK;
    }
    HN_TRY(st);
    if (r->stopped) return HN_OK;
    if (!hn_pearl_leads(r)) return HN_OK;
    hn_pearl_say_task(r, end - 1);
    return hn_pearl_report_write(r);
}

static hn_status run_rounds(hn_pearl *r)
{
    const int64_t stop = r->c->stop_after;
    const int last = stop > 0 && stop < r->tasks ? (int)stop : r->tasks;
    const bool joint = r->strategy == HN_PEARL_JOINT;
    while (r->done < last && !r->stopped)
        HN_TRY(run_round(r, r->done, joint ? r->tasks : r->done + 1));
    hn_team_at(r->team, HN_HUB_AT_END, -1);
    if (!hn_pearl_leads(r)) return HN_OK; /* and waits, as the run closes */
    if (r->stopped) return say_stopped(r);
    if (r->done == r->tasks) HN_TRY(hn_remove_tree(r->working));
    HN_TRY(hn_pearl_report_write(r));
    return say_result(r);
}

/* As one of the ranks, or alone. */
static hn_status train(hn_pearl *r)
{
    HN_TRY(hn_team_join(r->team));
    HN_TRY(hn_pearl_same_course(r));
    HN_TRY(hn_pearl_open(r));
    HN_TRY(check_epochs(r));
    HN_TRY(hn_pearl_folder_open(r));
    HN_TRY(hn_pearl_initial(r));
    HN_TRY(take_reference(r));
    hn_signals_watch();
    const hn_status st = run_rounds(r);
    hn_signals_release();
    return st;
}

hn_status hn_pearl_train(const hn_verb_call *c)
{
    hn_pearl r = hn_pearl_begin(c);
    const hn_status st = train(&r);
    hn_team_devices_close(r.team, st);
    hn_pearl_close(&r);
    return st;
}

/* ---- check ---- */

static void print_layers(const hn_pearl *r, FILE *to)
{
    int64_t sum = 0;
    fprintf(to, "%-40s %7s %7s %6s %9s\n", "adapted layer", "rows", "cols", "cap", "per rank");
    for (int64_t i = 0; i < r->n_layers; i++) {
        const hn_pearl_layer *l = &r->layer[i];
        int64_t cap = hn_rank_break_even(l->m, l->n);
        if (l->dense_from > 0 && l->dense_from < cap) cap = l->dense_from;
        fprintf(to, "%-40s %7" PRId64 " %7" PRId64 " %6" PRId64 " %9" PRId64 "\n", l->module, l->m,
                l->n, cap, l->m + l->n);
        sum += l->m + l->n;
    }
    fprintf(to,
            "%" PRId64 " layers, %" PRId64 " parameters per unit rank; from the cap on a layer is "
            "kept dense. Body: %" PRId64 " values\n",
            r->n_layers, sum, hn_pearl_body_values(r));
}

/* The largest phase is one that trains everything that is ever trained. */
static hn_status print_memory(hn_pearl *r, FILE *to)
{
    int widest = 0;
    size_t bytes = 0;
    const bool joint = r->strategy == HN_PEARL_JOINT;
    for (int t = 1; t < r->tasks; t++)
        if (hn_pearl_classes(r, t) > hn_pearl_classes(r, widest)) widest = t;
    const bool whole = r->strategy > HN_PEARL_HEAD || hn_pearl_first_is_reference(r);
    const bool probes = r->strategy == HN_PEARL_PEARL || r->strategy == HN_PEARL_LORA;
    const hn_phase p = {.kind = whole    ? HN_PHASE_DENSE
                                : probes ? HN_PHASE_PROBE
                                         : HN_PHASE_HEAD,
                        .first = joint ? 0 : widest,
                        .end = joint ? r->tasks : widest + 1,
                        .labels = joint ? HN_LABELS_STREAM : HN_LABELS_TASK,
                        .classes = joint ? hn_task_stream_seen(r->stream, r->tasks)
                                         : hn_pearl_classes(r, widest)};
    HN_TRY(hn_phase_bytes(r, &p, &bytes));
    fprintf(to, "largest phase (%s): %.1f MiB\n", hn_phase_name(p.kind), (double)bytes / 0x1p20);
    return HN_OK;
}

/* "a step: 2 GPUs x 3 micro-batches of 8 images: 48 images" */
static void print_step(const hn_pearl *r, int ranks, FILE *to)
{
    const hn_pearl_config *c = r->c;
    fputs("a step: ", to);
    if (ranks > 1) fprintf(to, "%d %s x ", ranks, strcmp(c->device, "cpu") == 0 ? "ranks" : "GPUs");
    fprintf(to, "%" PRId64 " micro-batch%s of %" PRId64 " images: %" PRId64 " images%s\n",
            c->accumulation, c->accumulation == 1 ? "" : "es", c->batch_size,
            ranks * c->accumulation * c->batch_size,
            ranks > 1 ? "; each has the memory below, and what sums over them take" : "");
}

hn_status hn_pearl_check(const hn_verb_call *c)
{
    hn_pearl r = hn_pearl_begin(c);
    int ranks = 1;
    hn_status st = hn_team_plan(&c->team->request, &ranks);
    if (st == HN_OK) st = hn_pearl_open(&r);
    if (st == HN_OK) st = check_epochs(&r);
    if (st == HN_OK) print_layers(&r, c->to);
    if (st == HN_OK) print_step(&r, ranks, c->to);
    if (st == HN_OK) st = print_memory(&r, c->to);
    hn_pearl_close(&r);
    return st;
}

/* ---- verbs on a run that is there ---- */

static hn_status open_run(const hn_verb_call *c, hn_pearl *r)
{
    *r = hn_pearl_begin(c);
    HN_TRY(hn_pearl_open(r));
    HN_TRY(hn_pearl_folder_read(r));
    if (r->done == 0) return HN_FAIL(HN_ERR_ARG, "--run %s: no task has been learned", r->c->run);
    return HN_OK;
}

static hn_status compare(const hn_pearl *r, const json_t *digests, const double *before, FILE *to)
{
    const json_t *then = json_object_get(r->record[r->done - 1].json, "logits_sha256");
    int same = 0;
    for (int t = 0; t < r->done; t++) {
        const double now = hn_cl_accuracy(r->accuracy, r->done, t + 1);
        const bool bits =
            json_equal(json_array_get(digests, (size_t)t), json_array_get(then, (size_t)t));
        same += bits;
        fprintf(to, "task %d: accuracy %.2f %%, when it was recorded %.2f %%%s\n", t + 1, 100 * now,
                100 * before[t], bits ? ", the same logits bit for bit" : ", other bits");
    }
    fprintf(to, "%d of %d tasks have the logits of the run\n", same, r->done);
    return HN_OK;
}

hn_status hn_pearl_eval(const hn_verb_call *c)
{
    hn_pearl r;
    json_t *digests = NULL;
    double *before = NULL;
    hn_status st = open_run(c, &r);
    if (st == HN_OK && (before = hn_calloc((size_t)r.done, sizeof *before)) == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "accuracies of %d tasks", r.done);
    for (int t = 0; st == HN_OK && t < r.done; t++)
        before[t] = hn_cl_accuracy(r.accuracy, r.done, t + 1);
    r.only_compares = true;
    if (st == HN_OK) st = hn_pearl_evaluate(&r, r.done - 1, &digests);
    if (st == HN_OK) st = compare(&r, digests, before, c->to);
    json_decref(digests);
    hn_free(before);
    hn_pearl_close(&r);
    return st;
}

static hn_status class_names(const hn_pearl *r, int task, const char ***out)
{
    const int32_t *classes;
    const int32_t n = hn_task_stream_classes(r->stream, task, &classes);
    const char **name = hn_calloc((size_t)n, sizeof *name);
    if (name == NULL) return HN_FAIL(HN_ERR_MEMORY, "names of %d classes", (int)n);
    for (int32_t i = 0; i < n; i++) name[i] = hn_image_set_view(r->train)->class_name[classes[i]];
    *out = name;
    return HN_OK;
}

/* The task's columns of its head, under the model's names. */
static hn_status head_values(const hn_pearl *r, int task, hn_values *out)
{
    char name[HN_VISION_NAME + 64];
    const char *module = hn_vision_head(&r->model.vision);
    const int64_t classes = hn_pearl_classes(r, task), shape[] = {classes, r->width};
    float *head = NULL;
    hn_value *v = NULL;
    HN_TRY(hn_pearl_head(r, task, &head));
    snprintf(name, sizeof name, "%s.weight", module);
    hn_status st = hn_values_add(out, name, 2, shape, &v);
    if (st == HN_OK) memcpy(v->v, head, (size_t)v->n * sizeof *head);
    snprintf(name, sizeof name, "%s.bias", module);
    if (st == HN_OK) st = hn_values_add(out, name, 1, shape, &v);
    if (st == HN_OK) memcpy(v->v, head + classes * r->width, (size_t)v->n * sizeof *head);
    hn_free(head);
    return st;
}

/* Of a folder that says how images are prepared, the file that says it. */
static hn_status copy_preprocessor(const hn_pearl *r, const char *dir)
{
    static const char file[] = "preprocessor_config.json";
    if (!r->model.whole || r->c->image_size > 0) return HN_OK;
    char *from = hn_asprintf("%s/%s", r->c->model, file), *to = hn_asprintf("%s/%s", dir, file);
    hn_status st = from && to ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", dir);
    if (st == HN_OK && hn_is_file(from)) st = hn_copy_file(from, to);
    hn_free(from);
    hn_free(to);
    return st;
}

static hn_status export_task(const hn_pearl *r, int task, const char *dir)
{
    char hex[HN_SHA256_HEX];
    const char **name = NULL;
    hn_values body = {0}, head = {0};
    hn_status st = hn_pearl_network(r, task + 1, &body);
    if (st == HN_OK) st = head_values(r, task, &head);
    if (st == HN_OK) st = class_names(r, task, &name);
    if (st == HN_OK)
        st = hn_pearl_model_write(r, dir, &body, &head, name, hn_pearl_classes(r, task), hex);
    if (st == HN_OK) st = copy_preprocessor(r, dir);
    hn_values_free(&body);
    hn_values_free(&head);
    hn_free(name);
    return st;
}

hn_status hn_pearl_export(const hn_verb_call *c)
{
    const hn_pearl_config *config = c->config;
    const int64_t task = config->task;
    hn_pearl r;
    hn_folder *folder = NULL;
    if (hn_is_folder(config->to))
        return HN_FAIL(HN_ERR_ARG, "--to %s: is there already", config->to);
    hn_status st = open_run(c, &r);
    if (st == HN_OK && task > r.done)
        st = HN_FAIL(HN_ERR_ARG, "--task %" PRId64 ": the run has learned %d", task, r.done);
    if (st == HN_OK) st = hn_folder_begin(config->to, &folder);
    if (st == HN_OK) st = export_task(&r, (int)task - 1, hn_folder_temporary(folder));
    if (st == HN_OK) {
        st = hn_folder_commit(folder, false);
        folder = NULL;
    }
    hn_folder_abort(folder);
    if (st == HN_OK) fprintf(c->to, "task %" PRId64 " as a model: %s\n", task, config->to);
    hn_pearl_close(&r);
    return st;
}

hn_status hn_pearl_report(const hn_verb_call *c)
{
    hn_pearl r;
    hn_status st = open_run(c, &r);
    if (st == HN_OK) st = hn_pearl_report_write(&r);
    if (st == HN_OK) hn_pearl_print_tables(&r, c->to);
    hn_pearl_close(&r);
    return st;
}
