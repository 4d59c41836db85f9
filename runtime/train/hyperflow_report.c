/* What all cells of a run say together: a table, result.json, pictures. */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/file/folder.h"
#include "runtime/train/hyperflow_eval.h"
#include "runtime/train/hyperflow_results.h"
#include "runtime/train/plot.h"

static bool is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static void results_free(hn_hf_results *s)
{
    for (int64_t i = 0; i < s->n; i++) {
        json_decref(s->cell[i].json);
        hn_free(s->cell[i].accuracy);
    }
    for (int64_t i = 0; i < s->n_descents; i++) json_decref(s->descent[i]);
    hn_free(s->cell);
    hn_free(s->method);
    hn_free(s->domain);
    hn_free(s->descent);
    *s = (hn_hf_results){0};
}

/* ---- reading ---- */

static hn_status accuracies(const char *path, hn_hf_result *c)
{
    const json_t *list = json_object_get(c->json, "accuracy");
    c->n = (int64_t)json_array_size(list);
    c->accuracy = hn_malloc(((size_t)c->n + 1) * sizeof *c->accuracy);
    if (c->accuracy == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: %" PRId64 " episodes", path, c->n);
    for (int64_t i = 0; i < c->n; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        const double a = json_number_value(v);
        if (!json_is_number(v) || !(a >= 0 && a <= 1))
            return HN_FAIL(HN_ERR_FORMAT, "%s: accuracy of episode %" PRId64, path, i);
        c->accuracy[i] = a;
    }
    return hn_few_shot_mean_of(c->accuracy, c->n, &c->mean);
}

static hn_status fill_cell(const char *path, hn_hf_result *c)
{
    int64_t version;
    HN_TRY(hn_json_get_i64(c->json, "format", path, 1, HN_HYPERFLOW_FORMAT, true, &version));
    HN_TRY(hn_json_get_text(c->json, "method", path, true, &c->method));
    HN_TRY(hn_json_get_text(c->json, "domain", path, true, &c->domain));
    HN_TRY(hn_json_get_text(c->json, "sampler_digest", path, true, &c->digest));
    HN_TRY(hn_json_get_bool(c->json, "in_domain", path, true, &c->in_domain));
    c->chosen = NAN;
    HN_TRY(hn_json_get_f64(c->json, "lr", path, false, &c->chosen));
    HN_TRY(hn_json_get_f64(c->json, "stop", path, false, &c->chosen));
    return accuracies(path, c);
}

static hn_status add_cell(hn_hf_results *s, const char *path, json_t *json)
{
    if (hn_grow(&s->cell, &s->cap, s->n, sizeof *s->cell) != HN_OK) {
        json_decref(json);
        return HN_ERR_MEMORY;
    }
    s->cell[s->n] = (hn_hf_result){.json = json};
    return fill_cell(path, &s->cell[s->n++]);
}

static hn_status add_file(hn_hf_results *s, const char *dir, const char *name)
{
    const size_t n = strlen(name);
    json_t *json = NULL;
    if (n < 6 || !is(name + n - 5, ".json")) return HN_OK;
    char *path = hn_asprintf("%s/%s", dir, name);
    hn_status st = path ? hn_json_load(path, &json) : HN_FAIL(HN_ERR_MEMORY, "no memory");
    if (st == HN_OK && strncmp(name, "descent", 7) == 0)
        s->descent[s->n_descents++] = json;
    else if (st == HN_OK)
        st = add_cell(s, path, json);
    hn_free(path);
    return st;
}

static const char *const usual[] = {"direct", "head", "bias",      "ln",
                                    "lora",   "full", "hyperflow", "hyperflow-global"};
enum { N_USUAL = sizeof usual / sizeof *usual };

static int method_rank(const char *m)
{
    int i = 0;
    while (i < N_USUAL && !is(usual[i], m)) i++;
    return i;
}

static int by_method(const void *a, const void *b)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    const int d = method_rank(x) - method_rank(y);
    return d ? d : strcmp(x, y);
}

const hn_hf_result *hn_hf_result_of(const hn_hf_results *s, const char *method, const char *domain)
{
    for (int64_t i = 0; i < s->n; i++)
        if (is(s->cell[i].method, method) && is(s->cell[i].domain, domain)) return &s->cell[i];
    return NULL;
}

static bool among(const char *const *list, int64_t n, const char *name)
{
    for (int64_t i = 0; i < n; i++)
        if (is(list[i], name)) return true;
    return false;
}

static hn_status sort_cells(hn_hf_results *s)
{
    s->method = hn_calloc((size_t)s->n + 1, sizeof *s->method);
    s->domain = hn_calloc((size_t)s->n + 1, sizeof *s->domain);
    if (s->method == NULL || s->domain == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " cells", s->n);
    for (int side = 0; side < 2; side++) /* domains of training first */
        for (int64_t i = 0; i < s->n; i++) {
            const hn_hf_result *c = &s->cell[i];
            if (c->in_domain == (side == 0) && !among(s->domain, s->n_domains, c->domain))
                s->domain[s->n_domains++] = c->domain;
            if (!among(s->method, s->n_methods, c->method)) s->method[s->n_methods++] = c->method;
        }
    qsort(s->method, (size_t)s->n_methods, sizeof *s->method, by_method);
    return HN_OK;
}

/* Only of the same episodes. */
static hn_status compare(hn_hf_results *s)
{
    for (int64_t i = 0; i < s->n; i++) {
        hn_hf_result *c = &s->cell[i];
        const hn_hf_result *d = hn_hf_result_of(s, "direct", c->domain);
        if (d == NULL || d == c || d->n != c->n || !is(d->digest, c->digest)) continue;
        HN_TRY(hn_few_shot_difference(c->accuracy, d->accuracy, c->n, &c->difference));
    }
    return HN_OK;
}

static hn_status read_names(const hn_hyperflow *r, char **dir, char ***names, int64_t *n)
{
    HN_TRY(hn_hyperflow_path(r, "cells", dir));
    if (!hn_is_folder(*dir)) return HN_OK;
    return hn_folder_names(*dir, names, n);
}

static hn_status read_results(const hn_hyperflow *r, hn_hf_results *s)
{
    char *dir = NULL, **names = NULL;
    int64_t n = 0;
    hn_status st = read_names(r, &dir, &names, &n);
    s->descent = hn_calloc((size_t)n + 1, sizeof(json_t *));
    if (st == HN_OK && s->descent == NULL) st = HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " cells", n);
    for (int64_t i = 0; i < n && st == HN_OK; i++) st = add_file(s, dir, names[i]);
    hn_folder_names_free(names, n);
    hn_free(dir);
    if (st == HN_OK) st = sort_cells(s);
    return st == HN_OK ? compare(s) : st;
}

/* ---- over domains ---- */

static bool ends_lower(const hn_hf_result *a, const hn_hf_result *b)
{
    return a->difference.mean + a->difference.ci95 < b->difference.mean + b->difference.ci95;
}

hn_status hn_hf_summarize(const hn_hf_results *s, const char *method, bool in_domain,
                          hn_hf_summary *out)
{
    hn_hf_summary m = {0};
    hn_status st = HN_OK;
    hn_few_shot_mean *each = hn_malloc(((size_t)s->n_domains + 1) * sizeof *each);
    if (each == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " domains", s->n_domains);
    for (int64_t k = 0; k < s->n_domains; k++) {
        const hn_hf_result *c = hn_hf_result_of(s, method, s->domain[k]);
        if (c == NULL || c->in_domain != in_domain) continue;
        if (c->difference.n < 2) continue; /* of one episode there is no interval */
        each[m.domains++] = c->difference;
        m.mean += c->mean.mean;
        if (m.worst == NULL || ends_lower(c, m.worst)) m.worst = c;
    }
    if (m.domains > 0) {
        m.mean /= (double)m.domains;
        st = hn_few_shot_over_domains(each, m.domains, &m.difference);
    }
    hn_free(each);
    if (st == HN_OK) *out = m;
    return st;
}

/* ---- result.json ---- */

static void set(json_t *o, const char *key, json_t *value, bool *ok)
{
    *ok = json_object_set_new(o, key, value) == 0 && *ok;
}

static json_t *cell_json(const hn_hf_result *c, bool *ok)
{
    json_t *o = json_object();
    set(o, "method", json_string(c->method), ok);
    set(o, "domain", json_string(c->domain), ok);
    set(o, "in_domain", json_boolean(c->in_domain), ok);
    set(o, "episodes", json_integer(c->n), ok);
    set(o, "mean", json_real(c->mean.mean), ok);
    set(o, "ci95", json_real(c->mean.ci95), ok);
    if (!isnan(c->chosen)) set(o, "chosen", json_real(c->chosen), ok);
    if (c->difference.n > 0) {
        set(o, "difference", json_real(c->difference.mean), ok);
        set(o, "difference_ci95", json_real(c->difference.ci95), ok);
    }
    return o;
}

static hn_status add_summary(const hn_hf_results *s, const char *method, bool in_domain,
                             json_t *list, bool *ok)
{
    hn_hf_summary m;
    HN_TRY(hn_hf_summarize(s, method, in_domain, &m));
    if (m.domains == 0) return HN_OK;
    json_t *o = json_object();
    set(o, "method", json_string(method), ok);
    set(o, "in_domain", json_boolean(in_domain), ok);
    set(o, "domains", json_integer(m.domains), ok);
    set(o, "mean", json_real(m.mean), ok);
    set(o, "difference", json_real(m.difference.mean), ok);
    set(o, "difference_ci95", json_real(m.difference.ci95), ok);
    *ok = json_array_append_new(list, o) == 0 && *ok;
    return HN_OK;
}

static hn_status make_json(const hn_hyperflow *r, const hn_hf_results *s, json_t *acceptance,
                           json_t *o)
{
    bool ok = true;
    json_t *cells = json_array(), *descent = json_array(), *summary = json_array();
    set(o, "program", json_string("hone-hyperflow"), &ok);
    set(o, "settings", json_string(r->settings), &ok);
    set(o, "cells", cells, &ok);
    set(o, "summary", summary, &ok);
    set(o, "descent", descent, &ok);
    ok = json_object_set(o, "acceptance", acceptance) == 0 && ok;
    for (int64_t i = 0; i < s->n; i++)
        ok = json_array_append_new(cells, cell_json(&s->cell[i], &ok)) == 0 && ok;
    for (int64_t i = 0; i < s->n_descents; i++)
        ok = json_array_append(descent, s->descent[i]) == 0 && ok;
    for (int64_t i = 0; i < s->n_methods; i++)
        for (int side = 0; side < 2; side++)
            HN_TRY(add_summary(s, s->method[i], side == 0, summary, &ok));
    return ok ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for result.json");
}

static hn_status save_json(const hn_hyperflow *r, const hn_hf_results *s, json_t *acceptance)
{
    char *path = NULL;
    HN_TRY(hn_hyperflow_path(r, "result.json", &path));
    json_t *o = json_object();
    hn_status st = make_json(r, s, acceptance, o);
    if (st == HN_OK) st = hn_json_save(path, o, false);
    json_decref(o);
    hn_free(path);
    return st;
}

/* ---- pictures ---- */

typedef struct {
    FILE *f;
    char *text;
    size_t size;
} text_file;

static hn_status text_open(text_file *t)
{
    *t = (text_file){0};
    t->f = open_memstream(&t->text, &t->size);
    return t->f ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a picture");
}

static hn_status draw(text_file *t, const hn_hyperflow *r, const char *name)
{
    bool drawn;
    char *path = NULL;
    const bool closed = fclose(t->f) == 0;
    hn_status st = closed ? hn_hyperflow_path(r, name, &path)
                          : HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", name);
    if (st == HN_OK) st = hn_save_text(path, t->text);
    if (st == HN_OK) st = hn_plot_run(path, &drawn);
    hn_free(path);
    free(t->text);
    return st;
}

static void begin_picture(FILE *f, const hn_hyperflow *r, const char *png, int width)
{
    fprintf(f,
            "set terminal pngcairo size %d,520 font 'sans,11' background rgb 'white'\n"
            "set output '",
            width);
    hn_plot_text(f, r->out);
    fprintf(f, "/%s'\nset border lc rgb '#555555'\nset grid ytics lc rgb '#dddddd'\n", png);
}

static const char *const colours[] = {"#9e9e9e", "#c9a227", "#2171b5", "#6baed6",
                                      "#7b6ca8", "#31a354", "#cb4b16", "#e8985e"};
enum { N_COLOURS = sizeof colours / sizeof *colours };

/* A word of a data block: there is no way to write a " in it. */
static void data_text(FILE *f, const char *text)
{
    fputc('"', f);
    for (const char *c = text; *c; c++) fputc(*c == '"' ? '\'' : *c, f);
    fputc('"', f);
}

static hn_status draw_accuracy(const hn_hyperflow *r, const hn_hf_results *s)
{
    text_file t;
    HN_TRY(text_open(&t));
    fprintf(t.f, "$cells << EOD\n");
    for (int64_t k = 0; k < s->n_domains; k++) {
        data_text(t.f, s->domain[k]);
        for (int64_t i = 0; i < s->n_methods; i++) {
            const hn_hf_result *c = hn_hf_result_of(s, s->method[i], s->domain[k]);
            if (c == NULL)
                fprintf(t.f, " ? ?");
            else
                fprintf(t.f, " %.6g %.6g", 100 * c->mean.mean, 100 * c->mean.ci95);
        }
        fprintf(t.f, "\n");
    }
    fprintf(t.f, "EOD\n");
    begin_picture(t.f, r, "accuracy.png", 360 + 28 * (int)(s->n_domains * (s->n_methods + 2)));
    fprintf(t.f, "set datafile missing '?'\nset style data histogram\n"
                 "set style histogram errorbars gap 2 lw 1\nset style fill solid 0.9 noborder\n"
                 "set errorbars 0.4 lc rgb '#444444'\nset ylabel 'accuracy, %%'\nset key outside "
                 "right noenhanced\n"
                 "set xtics rotate by -25 noenhanced nomirror\nset ytics nomirror\nplot ");
    for (int64_t i = 0; i < s->n_methods; i++) {
        fprintf(t.f, "%s%s using %d:%d%s lc rgb '%s' title '", i ? ", " : "", i ? "''" : "$cells",
                (int)(2 * i + 2), (int)(2 * i + 3), i ? "" : ":xtic(1)", colours[i % N_COLOURS]);
        hn_plot_text(t.f, s->method[i]);
        fprintf(t.f, "'");
    }
    fprintf(t.f, "\n");
    return draw(&t, r, "accuracy.gnuplot");
}

static void points(FILE *f, const json_t *of, const char *x, const char *y)
{
    const json_t *xs = json_object_get(of, x), *ys = json_object_get(of, y);
    for (size_t i = 0; i < json_array_size(xs) && i < json_array_size(ys); i++)
        fprintf(f, "%.6g %.6g\n", json_number_value(json_array_get(xs, i)),
                json_number_value(json_array_get(ys, i)));
}

static hn_status draw_descent(const hn_hyperflow *r, const hn_hf_results *s)
{
    text_file t;
    if (s->n_descents == 0) return HN_OK;
    HN_TRY(text_open(&t));
    fprintf(t.f, "$tuning << EOD\n");
    points(t.f, s->descent[0], "tuning_times", "tuning_losses");
    fprintf(t.f, "EOD\n");
    for (int64_t i = 0; i < s->n_descents; i++) {
        fprintf(t.f, "$d%d << EOD\n", (int)i);
        points(t.f, s->descent[i], "times", "losses");
        fprintf(t.f, "EOD\n");
    }
    begin_picture(t.f, r, "descent.png", 820);
    fprintf(t.f, "set xlabel 'time (1: all steps of tuning)'\n"
                 "set ylabel 'loss on the support images'\nset key bottom left\n"
                 "set key noenhanced\nplot $tuning with linespoints lw 2 pt 6 lc rgb '#2171b5' "
                 "title 'tuning'");
    for (int64_t i = 0; i < s->n_descents; i++) {
        const char *label = json_string_value(json_object_get(s->descent[i], "method"));
        fprintf(t.f, ", $d%d with linespoints lw 2 pt 7 lc rgb '%s' title '", (int)i,
                colours[(6 + i) % N_COLOURS]);
        hn_plot_text(t.f, label ? label : "integration");
        fprintf(t.f, "'");
    }
    fprintf(t.f, "\n");
    return draw(&t, r, "descent.gnuplot");
}

/* ---- for people ---- */

static void print_head(const hn_hf_results *s, FILE *to)
{
    fprintf(to, "%-24s", "");
    for (int64_t k = 0; k < s->n_domains; k++) fprintf(to, " %16.16s", s->domain[k]);
    fprintf(to, "\n");
}

static void print_table(const hn_hf_results *s, FILE *to)
{
    print_head(s, to);
    for (int64_t i = 0; i < s->n_methods; i++) {
        fprintf(to, "%-24.24s", s->method[i]);
        for (int64_t k = 0; k < s->n_domains; k++) {
            const hn_hf_result *c = hn_hf_result_of(s, s->method[i], s->domain[k]);
            if (c == NULL)
                fprintf(to, " %16s", "");
            else
                fprintf(to, "   %6.2f +- %4.2f", 100 * c->mean.mean, 100 * c->mean.ci95);
        }
        fprintf(to, "\n");
    }
}

static hn_status print_summary(const hn_hf_results *s, FILE *to)
{
    for (int side = 0; side < 2; side++)
        for (int64_t i = 0; i < s->n_methods; i++) {
            hn_hf_summary m;
            HN_TRY(hn_hf_summarize(s, s->method[i], side == 0, &m));
            if (m.domains == 0) continue;
            fprintf(to, "%-9s %-24s %6.2f %% over %" PRId64 "; to direct %+5.2f +- %.2f (paired)\n",
                    side == 0 ? "in" : "out", s->method[i], 100 * m.mean, m.domains,
                    100 * m.difference.mean, 100 * m.difference.ci95);
        }
    return HN_OK;
}

static void print_descents(const hn_hf_results *s, FILE *to)
{
    for (int64_t i = 0; i < s->n_descents; i++) {
        const json_t *d = s->descent[i];
        const char *label = json_string_value(json_object_get(d, "method"));
        fprintf(to,
                "%s: support loss falls by %.4f, by tuning %.4f: %.1f %% of it "
                "(training tasks, %" PRId64 ")\n",
                label ? label : "descent", json_number_value(json_object_get(d, "drop")),
                json_number_value(json_object_get(d, "tuning_drop")),
                100 * json_number_value(json_object_get(d, "share")),
                (int64_t)json_integer_value(json_object_get(d, "episodes")));
    }
}

static hn_status print_results(const hn_hyperflow *r, const hn_hf_results *s,
                               const json_t *acceptance)
{
    print_table(s, r->to);
    HN_TRY(print_summary(s, r->to));
    print_descents(s, r->to);
    hn_hf_acceptance_print(acceptance, r->to);
    fprintf(r->to, "result: %s/result.json\n", r->out);
    return HN_OK;
}

hn_status hn_hyperflow_write_results(const hn_hyperflow *r)
{
    hn_hf_results s = {0};
    json_t *acceptance = NULL;
    hn_status st = read_results(r, &s);
    if (st == HN_OK) st = hn_hf_acceptance(&s, &acceptance);
    if (st == HN_OK) st = save_json(r, &s, acceptance);
    if (st == HN_OK && s.n > 0) st = draw_accuracy(r, &s);
    if (st == HN_OK) st = draw_descent(r, &s);
    if (st == HN_OK) st = print_results(r, &s, acceptance);
    json_decref(acceptance);
    results_free(&s);
    return st;
}

hn_status hn_hyperflow_report(const hn_verb_call *c)
{
    hn_hyperflow r;
    hn_status st = hn_hyperflow_open(c, false, &r);
    if (st == HN_OK) st = hn_hyperflow_folder_read(&r, true);
    if (st == HN_OK) st = hn_hyperflow_write_results(&r);
    hn_hyperflow_close(&r);
    return st;
}
