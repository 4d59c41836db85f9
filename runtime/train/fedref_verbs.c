/* The verbs of hone-fedref. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/fedref_impl.h"
#include "runtime/train/signals.h"

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

/* ---- train ---- */

static void start_progress(hn_fedref *r)
{
    hn_progress_config config = hn_progress_detect(stderr);
    config.every = r->c->rounds > 50 ? 10 : 1;
    config.step = "round";
    if (r->json) config.to = NULL;
    hn_progress_start(&r->progress, &config, r->done, r->c->rounds);
}

static void say_round(hn_fedref *r)
{
    const hn_fedref_round *row = &r->round[r->done - 1];
    const hn_fedref_column *column = hn_fedref_columns(r->about->volumes);
    char detail[160];
    snprintf(detail, sizeof detail, "%s %.2f %%  client loss %.4f  used %.0f/%.0f", r->about->title,
             100 * row->score, row->client_loss, row->used, row->asked);
    hn_progress_update(&r->progress, r->done, 0, detail);
    if (!r->json) return;
    fputc('{', r->to);
    for (int k = 0; k < HN_FEDREF_COLUMNS; k++) {
        const double v = hn_fedref_cell(row, &column[k]);
        fprintf(r->to, "%s\"%s\": ", k ? ", " : "", column[k].name);
        if (isfinite(v))
            fprintf(r->to, "%.9g", v);
        else
            fprintf(r->to, "null");
    }
    fprintf(r->to, "}\n");
    fflush(r->to);
}

static bool must_stop(const hn_fedref *r)
{
    const int64_t stop = r->c->stop_after;
    return hn_fedref_signal(r) != 0 || (stop > 0 && r->done >= stop);
}

/* The round that an earlier call has left unmeasured. */
static hn_status catch_up(hn_fedref *r)
{
    HN_TRY(hn_fedref_measure_first(r));
    if (r->unmeasured) return HN_OK;
    say_round(r);
    HN_TRY(hn_fedref_save(r));
    return hn_fedref_write_results(r, false); /* its line is there, without the figures */
}

static hn_status run_rounds(hn_fedref *r)
{
    if (r->unmeasured) HN_TRY(catch_up(r));
    while (r->done < r->c->rounds && !must_stop(r)) {
        const hn_status st = hn_fedref_run_round(r);
        if (st == HN_ERR_STOPPED) break;
        HN_TRY(st);
        if (r->unmeasured) break;
        say_round(r);
        if (r->done % r->c->save_every == 0) HN_TRY(hn_fedref_save(r));
        HN_TRY(hn_fedref_append(r));
    }
    r->stopped = r->done < r->c->rounds || r->unmeasured;
    return hn_fedref_save(r);
}

static hn_status say_json(const hn_fedref *r)
{
    hn_fedref_summary s;
    hn_fedref_summarize(r, &s);
    json_t *o = json_pack("{s:s++, s:I}", "result", r->out, "/", "result.json", "rounds_done",
                          (json_int_t)r->done);
    bool good = o != NULL;
    if (isfinite(s.last))
        good = json_object_set_new(o, r->about->score, json_real(s.last)) == 0 && good;
    char *line = good ? json_dumps(o, JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    if (line == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the last line");
    fprintf(r->to, "%s\n", line);
    free(line);
    return HN_OK;
}

static void say_end(const hn_fedref *r)
{
    const int number = hn_fedref_signal(r);
    if (r->stopped)
        fprintf(
            r->to,
            "stopped by %s behind round %" PRId64 " of %" PRId64
            "%s; continue with: hone-fedref train --config %s/run.yaml --out %s --resume auto\n",
            number ? hn_signals_name(number) : "--stop-after", r->done, r->c->rounds,
            r->unmeasured ? ", which is not measured" : "", r->out, r->out);
    hn_fedref_print_result(r, r->to);
    fprintf(r->to, "table:   hone-fedref report --run %s\n", r->out);
    fprintf(r->to, "export:  hone-fedref export --run %s --to DIR\n", r->out);
}

/* What counts is written behind a round that failed, too; its error is the one that is told. */
static hn_status write_after(const hn_fedref *r, hn_status st)
{
    char *why = hn_strdup(hn_last_text());
    if (hn_fedref_write_results(r, true) != HN_OK && why != NULL) {
        hn_warn(&r->log, "%s", hn_last_text());
        st = HN_FAIL(st, "%s", why);
    }
    hn_free(why);
    return st;
}

static hn_status train(hn_fedref *r)
{
    HN_TRY(hn_fedref_write_results(r, false));
    start_progress(r);
    hn_status st = run_rounds(r);
    hn_progress_end(&r->progress);
    if (st != HN_OK) return write_after(r, st);
    HN_TRY(hn_fedref_write_results(r, true));
    if (r->json) return say_json(r);
    say_end(r);
    return HN_OK;
}

/* Rank 0, or the only one. */
static hn_status lead(hn_fedref *r)
{
    HN_TRY(hn_fedref_folder_open(r));
    HN_TRY(hn_fedref_team_plans(r));
    hn_signals_watch();
    hn_status st = train(r);
    if (st == HN_OK && r->team != NULL) st = hn_fed_ranks_end(r->team);
    hn_signals_release();
    return st;
}

static hn_status serve(hn_fedref *r)
{
    HN_TRY(hn_fedref_team_plans(r));
    hn_signals_watch();
    const hn_status st = hn_fed_ranks_serve(r->team, hn_signals_caught);
    hn_signals_release();
    return st;
}

hn_status hn_fedref_train(const hn_verb_call *c)
{
    hn_fedref r;
    HN_TRY(hn_team_join(c->team));
    hn_team_at(c->team, HN_HUB_AT_LOAD, -1);
    hn_status st = hn_fedref_open(c, hn_team_size(c->team), &r);
    if (st == HN_OK) st = hn_fedref_team_open(&r);
    if (st == HN_OK) st = hn_fedref_leads(&r) ? lead(&r) : serve(&r);
    hn_team_leave(c->team, st); /* before what may take a while */
    hn_fedref_close(&r);
    return st;
}

/* ---- check ---- */

enum { MOST_CLIENTS = 24 }; /* that the table shows */

static hn_status print_clients(const hn_fedref *r, FILE *to)
{
    const hn_fedref_subject *about = r->about;
    const int64_t n = r->partition.clients;
    hn_client_samples *s = hn_calloc((size_t)n, sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " clients", n);
    const hn_status st = hn_partition_count(&r->partition, about->label, about->n_labels, s);
    fprintf(to, "%7s %8s %8s %9s  %s\n", "client", about->sample, about->kind, "steps",
            about->volumes ? "most of site" : "most of class");
    for (int64_t k = 0; st == HN_OK && k < n && k < MOST_CLIENTS; k++)
        fprintf(to, "%7" PRId64 " %8" PRId64 " %8d %9" PRId64 "  %s (%" PRId64 ")\n", k,
                s[k].samples, (int)s[k].classes,
                hn_fed_steps(&about->local, s[k].samples, r->c->fed.epochs),
                about->label_name[s[k].top], s[k].top_n);
    if (n > MOST_CLIENTS) fprintf(to, "    ... and %" PRId64 " more\n", n - MOST_CLIENTS);
    hn_free(s);
    return st;
}

static int64_t dense_values(const hn_fedref *r)
{
    const hn_params *p = hn_engine_params(r->about->engine);
    int64_t n = 0;
    for (int64_t i = 0; i < hn_params_count(p); i++)
        if (!hn_params_at(p, i)->adapter) n += hn_param_values(hn_params_at(p, i));
    return n;
}

static void print_payload(const hn_fedref *r, FILE *to)
{
    const int64_t up = hn_fedref_bytes_up(r), down = hn_fedref_bytes_down(r),
                  dense = dense_values(r);
    fprintf(to,
            "payload: %" PRId64 " values of the model's %" PRId64
            " (%.2f %%); a client sends %s%" PRId64 " bytes and receives %" PRId64 "\n",
            r->layout.n, dense, 100 * (double)r->layout.n / (double)dense,
            is(r->c->fed.encoding, "topk") ? "at most " : "", up, down);
    fprintf(to,
            "a round: %" PRId64 " of %" PRId64 " clients, %" PRId64 " bytes up, %" PRId64 " down\n",
            r->schedule.per_round, r->partition.clients, up * r->schedule.per_round,
            down * r->schedule.per_round);
    if (r->ids.n > 0)
        fprintf(to,
                "blocks:  %" PRId64 " in %" PRId64
                " matrices, %zu bytes of ids that each client receives once\n",
                r->about->support->blocks, r->about->support->count, r->ids.n);
}

static void print_memory(const hn_fedref *r, FILE *to)
{
    hn_plan_sizes client = {0}, eval = {0};
    const double value = sizeof(float), mib = 0x1p20;
    const bool keeps = !is(r->c->fed.encoding, "f32") && r->c->fed.feedback;
    const int64_t each = r->schedule.per_round, residuals = r->partition.clients + each;
    const hn_fedref_subject *about = r->about;
    const bool one = about->engine == about->sim_engine;
    if (about->sim_engine) hn_plan_sizes_of(hn_engine_program(about->sim_engine), &client);
    if (!one) hn_plan_sizes_of(hn_engine_program(about->engine), &eval);
    fprintf(to, "memory: the clients' engine %.1f MiB",
            (double)client.total_bytes * (double)(1 + about->n_lanes) / mib);
    if (about->stage > 0) fprintf(to, ", results of a group %.1f MiB", (double)about->stage / mib);
    if (!one) fprintf(to, ", the evaluation's %.1f MiB", (double)eval.total_bytes / mib);
    fprintf(to, " on the device\n");
    fprintf(to, "        server %.1f MiB, updates of a round %.1f MiB, residuals %.1f MiB\n",
            (double)hn_fed_server_bytes(&r->layout, &r->method) / mib,
            value * (double)(r->layout.n * (each + 2)) / mib,
            keeps ? value * (double)(r->layout.values * residuals) / mib : 0);
}

/* "ranks: 4, which share the 100 clients of a round and its measurement; each has ..." */
static void print_ranks(const hn_fedref *r, FILE *to)
{
    if (r->ranks > 1)
        fprintf(to,
                "ranks: %" PRId64 ", which share the %" PRId64
                " clients of a round and its measurement; each has the engines, rank 0 the rest\n",
                r->ranks, r->schedule.per_round);
}

hn_status hn_fedref_check(const hn_verb_call *c)
{
    hn_fedref r;
    int ranks;
    HN_TRY(hn_team_plan(&c->team->request, &ranks));
    hn_status st = hn_fedref_open(c, ranks, &r);
    if (st == HN_OK) st = print_clients(&r, c->to);
    if (st == HN_OK) {
        print_payload(&r, c->to);
        print_memory(&r, c->to);
        print_ranks(&r, c->to);
    }
    hn_fedref_close(&r);
    return st;
}

/* ---- verbs on a run that is there ---- */

static hn_status open_run(const hn_verb_call *c, bool write, hn_fedref *r)
{
    HN_TRY(hn_fedref_open(c, 0, r));
    HN_TRY(hn_fedref_folder_read(r, write));
    return r->about->set(r->about, hn_fed_server_result(r->server));
}

static hn_status print_scores(hn_fedref *r, FILE *to)
{
    HN_TRY(hn_fedref_measure(r, r->done));
    const double now = r->about->print(r->about, r->done, r->record, to);
    const double then = r->done > 0 ? r->round[r->done - 1].score : NAN;
    if (!isnan(then))
        fprintf(to, "when it was recorded: %.4f %%%s\n", 100 * then,
                then == now ? ", the same" : "");
    return HN_OK;
}

hn_status hn_fedref_eval(const hn_verb_call *c)
{
    hn_fedref r;
    hn_status st = open_run(c, false, &r);
    if (st == HN_OK) st = print_scores(&r, c->to);
    hn_fedref_close(&r);
    return st;
}

hn_status hn_fedref_export(const hn_verb_call *c)
{
    const hn_fedref_config *config = c->config;
    const char *to = config->to;
    const bool adapter = is(config->kind, "peft");
    hn_fedref r;
    if (hn_is_folder(to)) return HN_FAIL(HN_ERR_ARG, "--to %s: is there already", to);
    hn_status st = open_run(c, false, &r);
    if (st == HN_OK && adapter && !is(r.c->fed.payload, "lora"))
        st = HN_FAIL(HN_ERR_ARG, "--kind peft: a run with --payload %s has no pairs",
                     r.c->fed.payload);
    if (st == HN_OK) st = adapter ? hn_fedref_write_adapter(&r, to) : hn_fedref_write_model(&r, to);
    if (st == HN_OK)
        fprintf(c->to, "the model behind round %" PRId64 "%s: %s\n", r.done,
                adapter ? " as an adapter" : "", to);
    hn_fedref_close(&r);
    return st;
}

hn_status hn_fedref_report(const hn_verb_call *c)
{
    hn_fedref r;
    hn_status st = open_run(c, true, &r);
    if (st == HN_OK) st = hn_fedref_write_results(&r, true);
    if (st == HN_OK) {
        hn_fedref_print_rounds(&r, c->to);
        hn_fedref_print_result(&r, c->to);
    }
    hn_fedref_close(&r);
    return st;
}

static void print_layout(const hn_fedref *r, FILE *to)
{
    fprintf(to, "%-44s %-8s %10s  %s\n", "tensor", "role", "values", "shape");
    for (int64_t i = 0; i < r->layout.count; i++) {
        const hn_fed_tensor *t = &r->layout.tensor[i];
        fprintf(to, "%-44s %-8s %10" PRId64 "  [", t->name, hn_fed_role_name(t->role), t->n);
        for (int k = 0; k < t->ndim; k++) fprintf(to, "%s%" PRId64, k ? ", " : "", t->dim[k]);
        fprintf(to, "]\n");
    }
}

hn_status hn_fedref_info(const hn_verb_call *c)
{
    hn_fedref r;
    char hex[HN_SHA256_HEX];
    hn_status st = open_run(c, false, &r);
    if (st == HN_OK) st = hn_fed_layout_digest(&r.layout, hex);
    if (st == HN_OK) {
        print_layout(&r, c->to);
        fprintf(c->to, "layout:  SHA-256 %s\n", hex);
        print_payload(&r, c->to);
        fprintf(c->to, "server:  %s behind round %" PRId64 " of %" PRId64, r.c->method, r.done,
                r.c->rounds);
        if (hn_fed_method_uses(r.method.method) & HN_FED_USES_REFERENCE)
            fprintf(c->to, ", p %" PRId64 ", lambda1 %g, lambda2 %g in the next round", r.method.p,
                    r.method.lambda1, hn_fed_server_lambda2(&r.method, r.done + 1));
        fprintf(c->to, "\n");
    }
    hn_fedref_close(&r);
    return st;
}
