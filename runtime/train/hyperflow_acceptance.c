/* Whether what a run has measured is what is expected of it: four rows a method, yes or no. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/train/hyperflow_results.h"

static const double LEAST_SHARE = 0.8; /* of the fall of the support loss by tuning */

enum { LOSS = 1, INSIDE, OUTSIDE, COST };

static const char *const what_of[] = {
    [LOSS] = "support loss of training tasks falls within 20 % of tuning's fall",
    [INSIDE] = "in the domains of training not below direct transfer",
    [OUTSIDE] = "out of them above direct transfer, mean over domains",
    [COST] = "memory and operations of an episode are measured, as shares of full fine-tuning",
};

typedef struct {
    json_t *list;
    bool ok; /* memory was there */
} rows;

typedef enum { NO, YES, UNKNOWN } verdict;

/* A row; its further figures are set in what it returns. */
static json_t *add(rows *w, int number, const char *method, verdict v, const char *text)
{
    json_t *o =
        json_pack("{s:i, s:s, s:s, s:o, s:s}", "number", number, "what", what_of[number], "method",
                  method, "holds", v == UNKNOWN ? json_null() : json_boolean(v), "text", text);
    w->ok = json_array_append_new(w->list, o) == 0 && w->ok;
    return o;
}

static void figure(rows *w, json_t *row, const char *key, double value)
{
    w->ok = json_object_set_new(row, key, json_real(value)) == 0 && w->ok;
}

static bool integrates(const char *method) { return strncmp(method, "hyperflow", 9) == 0; }

/* ---- 1 ---- */

static void loss_row(rows *w, const json_t *descent)
{
    char text[128];
    const char *method = json_string_value(json_object_get(descent, "method"));
    const double drop = json_number_value(json_object_get(descent, "drop")),
                 tuning = json_number_value(json_object_get(descent, "tuning_drop"));
    if (method == NULL) method = "hyperflow";
    if (!(tuning > 0)) {
        add(w, LOSS, method, UNKNOWN, "tuning itself does not lower it");
        return;
    }
    snprintf(text, sizeof text, "falls by %.4f, by tuning %.4f: %.1f %% of it, %" PRId64 " tasks",
             drop, tuning, 100 * drop / tuning,
             (int64_t)json_integer_value(json_object_get(descent, "episodes")));
    figure(w, add(w, LOSS, method, drop >= LEAST_SHARE * tuning ? YES : NO, text), "share",
           drop / tuning);
}

/* ---- 2 and 3 ---- */

static hn_status domain_rows(const hn_hf_results *s, const char *method, rows *w)
{
    char text[256];
    hn_hf_summary m;
    HN_TRY(hn_hf_summarize(s, method, true, &m));
    if (m.domains > 0) {
        const hn_few_shot_mean *d = &m.worst->difference;
        snprintf(text, sizeof text, "lowest of %" PRId64 ": %.100s %+.2f +- %.2f %%", m.domains,
                 m.worst->domain, 100 * d->mean, 100 * d->ci95);
        json_t *row = add(w, INSIDE, method, d->mean + d->ci95 >= 0 ? YES : NO, text);
        figure(w, row, "difference", d->mean);
        figure(w, row, "ci95", d->ci95);
    }
    HN_TRY(hn_hf_summarize(s, method, false, &m));
    if (m.domains > 0) {
        const hn_few_shot_mean *d = &m.difference;
        snprintf(text, sizeof text, "%+.2f +- %.2f %% over %" PRId64 ", paired", 100 * d->mean,
                 100 * d->ci95, m.domains);
        const bool above = d->mean > 0 && hn_few_shot_differs(d);
        json_t *row = add(w, OUTSIDE, method, above ? YES : NO, text);
        figure(w, row, "difference", d->mean);
        figure(w, row, "ci95", d->ci95);
    }
    return HN_OK;
}

/* ---- 4 ---- */

/* Of the domain where adaptation takes the largest share of fine-tuning's memory. */
static const hn_hf_result *dearest(const hn_hf_results *s, const char *method, double *bytes,
                                   double *most)
{
    const hn_hf_result *found = NULL;
    for (int64_t i = 0; i < s->n; i++) {
        const hn_hf_result *c = &s->cell[i];
        const json_t *cost = json_object_get(c->json, "cost");
        const double a = json_number_value(json_object_get(cost, "adapt_bytes")),
                     b = json_number_value(json_object_get(cost, "full_bytes"));
        if (strcmp(c->method, method) != 0 || !(a > 0 && b > 0)) continue;
        if (found != NULL && a * *most <= *bytes * b) continue;
        found = c;
        *bytes = a, *most = b;
    }
    return found;
}

static void cost_row(const hn_hf_results *s, const char *method, rows *w)
{
    char text[256];
    double bytes = 0, most = 0;
    const hn_hf_result *c = dearest(s, method, &bytes, &most);
    if (c == NULL) return;
    const json_t *cost = json_object_get(c->json, "cost");
    const double flops = json_number_value(json_object_get(cost, "adapt_flops")),
                 all = json_number_value(json_object_get(cost, "full_flops"));
    snprintf(text, sizeof text,
             "%.1f of %.1f MiB (%.2f %%), %.3f of %.3f GFLOP (%.4f %%), on %.100s", bytes / 0x1p20,
             most / 0x1p20, 100 * bytes / most, 1e-9 * flops, 1e-9 * all,
             all > 0 ? 100 * flops / all : 0, c->domain);
    json_t *row = add(w, COST, method, flops > 0 && all > 0 ? YES : UNKNOWN, text);
    figure(w, row, "adapt_bytes", bytes);
    figure(w, row, "full_bytes", most);
    figure(w, row, "adapt_flops", flops);
    figure(w, row, "full_flops", all);
}

/* ---- all ---- */

/* What no cell speaks of is said too. */
static void missing_rows(rows *w)
{
    bool there[COST + 1] = {false};
    size_t i;
    json_t *row;
    json_array_foreach(w->list, i, row) there[json_integer_value(json_object_get(row, "number"))] =
        true;
    for (int number = LOSS; number <= COST; number++)
        if (!there[number]) add(w, number, "-", UNKNOWN, "not measured");
}

hn_status hn_hf_acceptance(const hn_hf_results *s, json_t **out)
{
    rows w = {.list = json_array(), .ok = true};
    hn_status st = HN_OK;
    for (int64_t i = 0; i < s->n_descents; i++) loss_row(&w, s->descent[i]);
    for (int64_t i = 0; i < s->n_methods && st == HN_OK; i++) {
        if (!integrates(s->method[i])) continue;
        st = domain_rows(s, s->method[i], &w);
        cost_row(s, s->method[i], &w);
    }
    missing_rows(&w);
    if (st == HN_OK && !w.ok) st = HN_FAIL(HN_ERR_MEMORY, "no memory for result.json");
    if (st == HN_OK)
        *out = w.list;
    else
        json_decref(w.list);
    return st;
}

void hn_hf_acceptance_print(const json_t *list, FILE *to)
{
    size_t i;
    const json_t *row;
    fprintf(to, "Acceptance\n");
    for (int number = LOSS; number <= COST; number++) {
        fprintf(to, "%d %s\n", number, what_of[number]);
        json_array_foreach(list, i, row)
        {
            if (json_integer_value(json_object_get(row, "number")) != number) continue;
            const json_t *holds = json_object_get(row, "holds");
            fprintf(to, "  %-22s %-4s %s\n", json_string_value(json_object_get(row, "method")),
                    json_is_null(holds) ? "?" : (json_is_true(holds) ? "yes" : "no"),
                    json_string_value(json_object_get(row, "text")));
        }
    }
}
