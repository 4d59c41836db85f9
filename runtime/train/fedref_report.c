/* What a run leaves for people and for tables: CSV files, result.json, the picture. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/save.h"
#include "runtime/train/fedref_impl.h"
#include "runtime/train/plot.h"

#define COLUMN(name) #name, offsetof(hn_fedref_round, name)

/* clang-format off */
/* score_name: what the score is called; second: what stands beside it. */
#define COLUMNS(score_name, second) {                                                             \
    {COLUMN(round), false},       {COLUMN(asked), false},                                         \
    {COLUMN(dropped), false},     {COLUMN(late), false},                                          \
    {COLUMN(used), false},        {COLUMN(rejected), false},                                      \
    {score_name, offsetof(hn_fedref_round, score), false},                                        \
    {COLUMN(second), false},                                                                      \
    {COLUMN(client_loss), false}, {COLUMN(bytes_down), false},                                    \
    {COLUMN(bytes_up), false},    {COLUMN(changed), false},                                       \
    {COLUMN(corrected), false},   {COLUMN(lambda2), false},                                       \
    {COLUMN(update_norm), false}, {COLUMN(correction_norm), false},                               \
    {COLUMN(client_s), true},     {COLUMN(server_ms), true},                                      \
    {COLUMN(eval_s), true}}
/* clang-format on */

const hn_fedref_column *hn_fedref_columns(bool volumes)
{
    static const hn_fedref_column of_images[HN_FEDREF_COLUMNS] = COLUMNS("accuracy", loss),
                                  of_volumes[HN_FEDREF_COLUMNS] = COLUMNS("dice", hd95);
    return volumes ? of_volumes : of_images;
}

/* ---- text files ---- */

typedef struct {
    FILE *f;
    char *text;
    size_t size;
} text_file;

static hn_status text_open(text_file *t)
{
    *t = (text_file){0};
    t->f = open_memstream(&t->text, &t->size);
    return t->f ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a table");
}

static hn_status text_save(text_file *t, const hn_fedref *r, const char *name)
{
    char *path = hn_asprintf("%s/%s", r->out, name);
    const bool closed = fclose(t->f) == 0;
    const hn_status st = path && closed ? hn_save_text(path, t->text)
                                        : HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", name);
    hn_free(path);
    free(t->text);
    return st;
}

/* Nothing where there is no number; counts in full. */
static void print_cell(FILE *f, double v)
{
    if (!isfinite(v)) return;
    if (v == floor(v) && fabs(v) < 0x1p53)
        fprintf(f, "%" PRId64, (int64_t)v);
    else
        fprintf(f, "%.9g", v);
}

static void print_row(FILE *f, const hn_fedref *r, int64_t i)
{
    const hn_fedref_column *column = hn_fedref_columns(r->about->volumes);
    for (int k = 0; k < HN_FEDREF_COLUMNS; k++) {
        if (k > 0) fputc(',', f);
        print_cell(f, hn_fedref_cell(&r->round[i], &column[k]));
    }
    fputc('\n', f);
}

static hn_status save_rounds(const hn_fedref *r)
{
    const hn_fedref_column *column = hn_fedref_columns(r->about->volumes);
    text_file t;
    HN_TRY(text_open(&t));
    for (int k = 0; k < HN_FEDREF_COLUMNS; k++) fprintf(t.f, "%s%s", k ? "," : "", column[k].name);
    fputc('\n', t.f);
    for (int64_t i = 0; i < r->done; i++) print_row(t.f, r, i);
    return text_save(&t, r, "rounds.csv");
}

hn_status hn_fedref_append(const hn_fedref *r)
{
    char *path = hn_asprintf("%s/rounds.csv", r->out);
    FILE *f = path ? fopen(path, "a") : NULL;
    if (f != NULL) print_row(f, r, r->done - 1);
    const bool good = f != NULL && !ferror(f);
    const bool written = (f == NULL || fclose(f) == 0) && good;
    const int why = errno;
    hn_free(path);
    return written ? HN_OK
                   : HN_FAIL(hn_write_status(why), "cannot write %s/rounds.csv: %s", r->out,
                             strerror(why));
}

static hn_status save_clients(const hn_fedref *r)
{
    const hn_fedref_subject *about = r->about;
    const int64_t clients = r->partition.clients;
    text_file t;
    hn_client_samples *s = hn_calloc((size_t)clients, sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " clients", clients);
    hn_status st = hn_partition_count(&r->partition, about->label, about->n_labels, s);
    if (st == HN_OK) st = text_open(&t);
    if (st == HN_OK) {
        const char *kind = about->volumes ? "site" : "class";
        fprintf(t.f,
                "client,samples,%s,top_%s,top_samples,asked,used,rejected,dropped,late,bytes_down,"
                "bytes_up,seconds\n",
                about->kind, kind);
        for (int64_t k = 0; k < clients; k++) {
            const double *cell = (const double *)&r->tally[k];
            fprintf(t.f, "%" PRId64 ",%" PRId64 ",%d,%d,%" PRId64, k, s[k].samples,
                    (int)s[k].classes, (int)s[k].top, s[k].top_n);
            for (int i = 0; i < HN_FEDREF_TALLIES; i++) {
                fputc(',', t.f);
                print_cell(t.f, cell[i]);
            }
            fputc('\n', t.f);
        }
        st = text_save(&t, r, "clients.csv");
    }
    hn_free(s);
    return st;
}

/* Reasons are quoted, with quotes in them doubled. */
static hn_status save_refusals(const hn_fedref *r)
{
    text_file t;
    HN_TRY(text_open(&t));
    fprintf(t.f, "round,client,reason\n");
    for (int64_t i = 0; i < r->n_refusals; i++) {
        const hn_fedref_refusal *f = &r->refusal[i];
        fprintf(t.f, "%" PRId64 ",%" PRId64 ",\"", f->round, f->client);
        for (const char *c = f->reason; *c; c++) {
            if (*c == '"') fputc('"', t.f);
            fputc(*c, t.f);
        }
        fprintf(t.f, "\"\n");
    }
    return text_save(&t, r, "rejected.csv");
}

/* ---- the cell ---- */

void hn_fedref_summarize(const hn_fedref *r, hn_fedref_summary *out)
{
    hn_fedref_summary s = {
        .best = NAN, .last = NAN, .last_loss = NAN, .last_hd95 = NAN, .forgetting = NAN};
    for (int64_t i = 0; i < r->done; i++) {
        const hn_fedref_round *row = &r->round[i];
        s.bytes_up += row->bytes_up;
        s.bytes_down += row->bytes_down;
        s.client_s += row->client_s;
        s.server_ms += row->server_ms;
        if (isnan(row->score)) continue;
        s.last = row->score;
        s.last_loss = row->loss;
        s.last_hd95 = row->hd95;
        if (!(s.best >= s.last)) s.best = s.last, s.best_round = i + 1;
        if (r->c->target > 0 && s.target_round == 0 && s.last >= r->c->target) {
            s.target_round = i + 1;
            s.target_bytes = s.bytes_up + s.bytes_down;
        }
    }
    if (!isnan(s.best)) s.forgetting = s.best - s.last; /* 0 where the last one is the best */
    int64_t classes = 0;
    for (int64_t k = 0; k < hn_fedref_classes(r); k++) {
        if (isnan(r->class_best[k])) continue;
        s.class_forgetting += r->class_best[k] - r->class_last[k];
        classes++;
    }
    s.class_forgetting = classes > 0 ? s.class_forgetting / (double)classes : NAN;
    s.rejected = r->n_refusals;
    *out = s;
}

static void set(json_t *o, const char *key, json_t *value, bool *ok)
{
    *ok = json_object_set_new(o, key, value) == 0 && *ok;
}

static json_t *real(double v) { return isfinite(v) ? json_real(v) : json_null(); }
static json_t *whole(double v) { return json_integer((json_int_t)v); }

const char *hn_fedref_class(const hn_fedref_subject *s, int64_t k, char text[HN_FEDREF_CLASS])
{
    snprintf(text, HN_FEDREF_CLASS, "%" PRId64, k);
    return k < s->n_class_names ? s->class_name[k] : text;
}

static json_t *classes_json(const hn_fedref *r, bool *ok)
{
    char text[HN_FEDREF_CLASS];
    json_t *all = json_array();
    for (int64_t k = 0; k < hn_fedref_classes(r); k++) {
        json_t *o = json_object();
        set(o, "class", json_string(hn_fedref_class(r->about, k, text)), ok);
        set(o, "best", real(r->class_best[k]), ok);
        set(o, "last", real(r->class_last[k]), ok);
        set(o, "forgetting", real(r->class_best[k] - r->class_last[k]), ok);
        *ok = json_array_append_new(all, o) == 0 && *ok;
    }
    return all;
}

static void add_setting(const hn_fedref *r, json_t *o, bool *ok)
{
    const hn_fedref_config *c = r->c;
    set(o, "program", json_string("hone-fedref"), ok);
    set(o, "method", json_string(c->method), ok);
    set(o, "model", json_string(c->fed.model), ok);
    set(o, "data", json_string(c->fed.data), ok);
    set(o, "partition", json_string(c->partition), ok);
    if (hn_fedref_reason(c, "alpha") == NULL) set(o, "alpha", json_real(c->alpha), ok);
    set(o, "clients", whole((double)r->partition.clients), ok);
    set(o, "per_round", whole((double)r->schedule.per_round), ok);
    set(o, "rounds", whole((double)c->rounds), ok);
    set(o, "epochs", whole((double)c->fed.epochs), ok);
    set(o, "batch_size", whole((double)c->fed.batch_size), ok);
    set(o, "lr", json_real(c->fed.lr), ok);
    set(o, "mu", json_real(c->fed.mu), ok);
    set(o, "lambda1", json_real(r->method.lambda1), ok);
    set(o, "lambda2", json_real(r->method.lambda2), ok);
    set(o, "p", whole((double)r->method.p), ok);
    set(o, "payload", json_string(c->fed.payload), ok);
    set(o, "encoding", json_string(c->fed.encoding), ok);
    set(o, "payload_values", whole((double)r->layout.n), ok);
    set(o, "message_bytes_up", whole((double)hn_fedref_bytes_up(r)), ok);
    set(o, "message_bytes_down", whole((double)hn_fedref_bytes_down(r)), ok);
    if (r->ids.n > 0) set(o, "message_bytes_ids", whole((double)r->ids.n), ok);
    set(o, "seed", whole((double)c->fed.seed), ok);
    set(o, "settings", json_string(r->settings), ok);
    set(o, "device", json_string(hn_device_text(r->about->device)), ok);
}

static hn_status save_cell(const hn_fedref *r)
{
    hn_fedref_summary s;
    bool ok = true;
    json_t *o = json_object();
    char *path = hn_asprintf("%s/result.json", r->out);
    const bool volumes = r->about->volumes;
    hn_fedref_summarize(r, &s);
    add_setting(r, o, &ok);
    set(o, "rounds_done", whole((double)r->done), &ok);
    set(o, volumes ? "best_dice" : "best_accuracy", real(s.best), &ok);
    set(o, "best_round", whole((double)s.best_round), &ok);
    set(o, volumes ? "last_dice" : "last_accuracy", real(s.last), &ok);
    set(o, volumes ? "last_hd95_mm" : "last_loss", real(volumes ? s.last_hd95 : s.last_loss), &ok);
    set(o, "forgetting", real(s.forgetting), &ok);
    set(o, "class_forgetting", real(s.class_forgetting), &ok);
    set(o, "target", r->c->target > 0 ? json_real(r->c->target) : json_null(), &ok);
    set(o, "rounds_to_target", s.target_round ? whole((double)s.target_round) : json_null(), &ok);
    set(o, "bytes_to_target", s.target_round ? whole(s.target_bytes) : json_null(), &ok);
    set(o, "bytes_up", whole(s.bytes_up), &ok);
    set(o, "bytes_down", whole(s.bytes_down), &ok);
    set(o, "rejected", whole((double)s.rejected), &ok);
    set(o, "client_seconds", json_real(s.client_s), &ok);
    set(o, "server_ms", json_real(s.server_ms), &ok);
    set(o, "per_class", classes_json(r, &ok), &ok);
    hn_status st = ok && path ? hn_json_save(path, o, false)
                              : HN_FAIL(HN_ERR_MEMORY, "no memory for result.json");
    hn_free(path);
    json_decref(o);
    return st;
}

/* ---- the picture ---- */

static hn_status save_script(const hn_fedref *r)
{
    const bool volumes = r->about->volumes;
    const char *second = volumes ? "HD95, mm" : "loss";
    text_file t;
    HN_TRY(text_open(&t));
    fprintf(t.f, "$rounds << EOD\n");
    for (int64_t i = 0; i < r->done; i++)
        if (!isnan(r->round[i].score))
            fprintf(t.f, "%" PRId64 " %.6g %.6g\n", i + 1, 100 * r->round[i].score,
                    volumes ? r->round[i].hd95 : r->round[i].loss);
    fprintf(t.f, "EOD\nset terminal pngcairo size 900,520 font 'sans,11' background rgb 'white'\n"
                 "set output '");
    hn_plot_text(t.f, r->out);
    fprintf(t.f, "/curve.png'\nset title '%s, ", r->c->method);
    hn_plot_text(t.f, r->c->fed.model);
    fprintf(t.f,
            ", %" PRId64 " of %" PRId64 " clients a round' noenhanced\n"
            "set xlabel 'round'\nset ylabel '%s, %%'\n"
            "set y2label '%s'\nset ytics nomirror\nset y2tics\nset y2range [0:*]\n"
            "set border lc rgb '#555555'\nset grid lc rgb '#dddddd'\nset key bottom right\n",
            r->schedule.per_round, r->partition.clients, r->about->title, second);
    if (r->c->target > 0)
        fprintf(t.f, "set arrow from graph 0, first %g to graph 1, first %g nohead dt 2\n",
                100 * r->c->target, 100 * r->c->target);
    fprintf(t.f,
            "plot $rounds using 1:2 with lines lw 2 lc rgb '#2171b5' title '%s', "
            "'' using 1:3 axes x1y2 with lines lw 1 lc rgb '#cb6d51' title '%s'\n",
            r->about->title, second);
    return text_save(&t, r, "curve.gnuplot");
}

static hn_status save_picture(const hn_fedref *r)
{
    bool drawn;
    HN_TRY(save_script(r));
    char *path = hn_asprintf("%s/curve.gnuplot", r->out);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to draw");
    const hn_status st = hn_plot_run(path, &drawn);
    hn_free(path);
    return st;
}

hn_status hn_fedref_write_results(const hn_fedref *r, bool draw)
{
    HN_TRY(save_rounds(r));
    HN_TRY(save_clients(r));
    HN_TRY(save_refusals(r));
    HN_TRY(save_cell(r));
    return draw && r->done > 0 ? save_picture(r) : HN_OK;
}

/* ---- for people ---- */

void hn_fedref_print_rounds(const hn_fedref *r, FILE *to)
{
    const bool volumes = r->about->volumes;
    const int64_t step = r->done > 40 ? (r->done + 39) / 40 : 1;
    fprintf(to, "%6s %9s %9s %6s %9s %12s %12s %10s %10s\n", "round", r->about->title,
            volumes ? "HD95, mm" : "loss", "used", "rejected", "bytes down", "bytes up", "client s",
            "server ms");
    for (int64_t i = 0; i < r->done; i++) {
        const hn_fedref_round *row = &r->round[i];
        if ((i + 1) % step != 0 && i + 1 != r->done) continue;
        fprintf(to, "%6" PRId64 " %8.2f%% %9.4f %6.0f %9.0f %12.0f %12.0f %10.2f %10.2f\n", i + 1,
                100 * row->score, volumes ? row->hd95 : row->loss, row->used, row->rejected,
                row->bytes_down, row->bytes_up, row->client_s, row->server_ms);
    }
    for (int64_t i = 0; i < r->n_refusals; i++)
        fprintf(to, "rejected: round %" PRId64 ", client %" PRId64 ": %s\n", r->refusal[i].round,
                r->refusal[i].client, r->refusal[i].reason);
}

void hn_fedref_print_result(const hn_fedref *r, FILE *to)
{
    hn_fedref_summary s;
    char up[HN_SHORT_TEXT], down[HN_SHORT_TEXT];
    hn_fedref_summarize(r, &s);
    hn_short_number(s.bytes_up, up);
    hn_short_number(s.bytes_down, down);
    fprintf(to, "result:  %s/result.json (%s ", r->out, r->about->title);
    if (isnan(s.last))
        fprintf(to, "not measured yet");
    else
        fprintf(to, "%.2f %%, best %.2f %% in round %" PRId64, 100 * s.last, 100 * s.best,
                s.best_round);
    fprintf(to, "; %sB up, %sB down)\n", up, down);
    if (r->c->target > 0 && s.target_round > 0)
        fprintf(to, "target:  %.2f %% in round %" PRId64 ", after %.0f bytes\n", 100 * r->c->target,
                s.target_round, s.target_bytes);
    else if (r->c->target > 0)
        fprintf(to, "target:  %.2f %% was not reached\n", 100 * r->c->target);
}
