#define _POSIX_C_SOURCE 200809L
#include "bench/bench_result.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/base/save.h"

void hn_bench_key(const hn_bench_result *r, char key[HN_BENCH_KEY])
{
    int n = snprintf(key, HN_BENCH_KEY, "%s %s", r->bench, r->dtype);
    for (int i = 0; i < r->n_axes && n > 0 && n < HN_BENCH_KEY; i++)
        n += snprintf(key + n, (size_t)(HN_BENCH_KEY - n), " %s=%" PRId64, r->axis[i], r->size[i]);
}

/* ---- writing ---- */

/* Numbers as they are read: four digits behind the point are below what can be measured. */
static void set_number(json_t *o, const char *key, double v)
{
    char text[64];
    snprintf(text, sizeof text, "%.4f", v);
    (void)json_object_set_new(o, key, json_real(strtod(text, NULL)));
}

static json_t *as_json(const hn_bench_result *r)
{
    json_t *o = json_object(), *axes = json_object();
    if (o == NULL || axes == NULL) {
        json_decref(o);
        json_decref(axes);
        return NULL;
    }
    (void)json_object_set_new(o, "bench", json_string(r->bench));
    (void)json_object_set_new(o, "dtype", json_string(r->dtype));
    for (int i = 0; i < r->n_axes; i++)
        (void)json_object_set_new(axes, r->axis[i], json_integer(r->size[i]));
    (void)json_object_set_new(o, "axes", axes);
    set_number(o, "us_p20", r->us_p20);
    set_number(o, "us_p50", r->us_p50);
    set_number(o, "us_p80", r->us_p80);
    if (r->gb_s > 0) set_number(o, "gb_s", r->gb_s);
    if (r->tflop_s > 0) set_number(o, "tflop_s", r->tflop_s);
    if (r->of_copy > 0) set_number(o, "of_copy", r->of_copy);
    if (r->of_gemm > 0) set_number(o, "of_gemm", r->of_gemm);
    (void)json_object_set_new(o, "batches", json_integer(r->batches));
    (void)json_object_set_new(o, "calls", json_integer(r->calls));
    (void)json_object_set_new(o, "sets", json_integer(r->sets));
    (void)json_object_set_new(o, "gpu", json_string(r->gpu));
    (void)json_object_set_new(o, "commit", json_string(r->commit));
    return o;
}

hn_status hn_bench_result_write(const hn_bench_result *r, FILE *to)
{
    json_t *o = as_json(r);
    char *text = o ? json_dumps(o, JSON_REAL_PRECISION(10)) : NULL;
    json_decref(o);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for the result of %s", r->bench);
    const bool written = fprintf(to, "%s\n", text) >= 0 && fflush(to) == 0;
    free(text); /* jansson's */
    return written ? HN_OK
                   : HN_FAIL(hn_write_status(errno), "result of %s: %s", r->bench, strerror(errno));
}

/* ---- reading ---- */

hn_status hn_bench_results_add(hn_bench_results *list, const hn_bench_result *r)
{
    HN_TRY(hn_grow(&list->at, &list->cap, list->n, sizeof *list->at));
    list->at[list->n++] = *r;
    return HN_OK;
}

void hn_bench_results_free(hn_bench_results *list)
{
    hn_free(list->at);
    *list = (hn_bench_results){0};
}

static const hn_bench_result *find(const hn_bench_results *list, const char *key)
{
    char other[HN_BENCH_KEY];
    for (int64_t i = 0; i < list->n; i++) {
        hn_bench_key(&list->at[i], other);
        if (strcmp(key, other) == 0) return &list->at[i];
    }
    return NULL;
}

static hn_status get_text(const json_t *o, const char *key, const char *where, bool required,
                          char *out, size_t size)
{
    const char *text = "";
    HN_TRY(hn_json_get_text(o, key, where, required, &text));
    if (strlen(text) >= size)
        return HN_FAIL(HN_ERR_FORMAT, "%s: %s has %zu characters, at most %zu", where, key,
                       strlen(text), size - 1);
    memcpy(out, text, strlen(text) + 1);
    return HN_OK;
}

static hn_status get_axes(const json_t *o, const char *where, hn_bench_result *r)
{
    json_t *axes = json_object_get(o, "axes"), *value;
    const char *name;
    if (!json_is_object(axes)) return HN_FAIL(HN_ERR_FORMAT, "%s: axes is no object", where);
    json_object_foreach(axes, name, value)
    {
        if (r->n_axes == HN_BENCH_AXES || strlen(name) >= sizeof r->axis[0] ||
            !json_is_integer(value))
            return HN_FAIL(HN_ERR_FORMAT, "%s: axis '%.40s': at most %d axes, each an integer",
                           where, name, HN_BENCH_AXES);
        memcpy(r->axis[r->n_axes], name, strlen(name) + 1);
        r->size[r->n_axes++] = json_integer_value(value);
    }
    return HN_OK;
}

static hn_status from_json(const json_t *o, const char *where, hn_bench_result *r)
{
    *r = (hn_bench_result){0};
    if (!json_is_object(o)) return HN_FAIL(HN_ERR_FORMAT, "%s: no JSON object", where);
    HN_TRY(get_text(o, "bench", where, true, r->bench, sizeof r->bench));
    HN_TRY(get_text(o, "dtype", where, true, r->dtype, sizeof r->dtype));
    HN_TRY(get_text(o, "gpu", where, false, r->gpu, sizeof r->gpu));
    HN_TRY(get_text(o, "commit", where, false, r->commit, sizeof r->commit));
    HN_TRY(get_axes(o, where, r));
    HN_TRY(hn_json_get_f64(o, "us_p20", where, true, &r->us_p20));
    HN_TRY(hn_json_get_f64(o, "us_p50", where, true, &r->us_p50));
    HN_TRY(hn_json_get_f64(o, "us_p80", where, true, &r->us_p80));
    if (!(r->us_p20 > 0) || !(r->us_p20 <= r->us_p50) || !(r->us_p50 <= r->us_p80))
        return HN_FAIL(HN_ERR_FORMAT, "%s: times %g, %g, %g: wanted 0 < p20 <= p50 <= p80", where,
                       r->us_p20, r->us_p50, r->us_p80);
    return HN_OK;
}

static hn_status read_line(const char *text, size_t size, const char *where, hn_bench_results *list)
{
    json_t *o = NULL;
    hn_bench_result r;
    char key[HN_BENCH_KEY];
    HN_TRY(hn_json_parse(text, size, where, &o));
    const hn_status st = from_json(o, where, &r);
    json_decref(o);
    if (st != HN_OK) return st;
    hn_bench_key(&r, key);
    if (find(list, key) != NULL) return HN_FAIL(HN_ERR_FORMAT, "%s: %s is there twice", where, key);
    return hn_bench_results_add(list, &r);
}

hn_status hn_bench_results_read(const char *path, hn_bench_results *out)
{
    hn_status st = HN_OK;
    hn_bench_results list = {0};
    char *line = NULL, where[512];
    size_t cap = 0;
    FILE *f = fopen(path, "r");
    if (f == NULL) return HN_FAIL(HN_ERR_IO, "open %s: %s", path, strerror(errno));
    int64_t number = 0;
    for (ssize_t n; st == HN_OK && (n = getline(&line, &cap, f)) >= 0;) {
        snprintf(where, sizeof where, "%s:%" PRId64, path, ++number);
        if (strspn(line, " \t\r\n") < (size_t)n) st = read_line(line, (size_t)n, where, &list);
    }
    if (st == HN_OK && ferror(f)) st = HN_FAIL(HN_ERR_IO, "read %s: %s", path, strerror(errno));
    if (st == HN_OK && list.n == 0) st = HN_FAIL(HN_ERR_FORMAT, "%s holds no result", path);
    if (st == HN_OK) {
        *out = list;
        list = (hn_bench_results){0};
    }
    free(line); /* getline's */
    fclose(f);
    hn_bench_results_free(&list);
    return st;
}

/* ---- comparing ---- */

static int verdict(const hn_bench_result *old, const hn_bench_result *now, double threshold)
{
    const double factor = 1 + threshold / 100;
    if (now->us_p50 > old->us_p50 * factor && now->us_p20 > old->us_p80) return 1;
    if (old->us_p50 > now->us_p50 * factor && old->us_p20 > now->us_p80) return -1;
    return 0;
}

int64_t hn_bench_compare(const hn_bench_results *old, const hn_bench_results *now, double threshold,
                         FILE *to, int64_t *matched)
{
    char key[HN_BENCH_KEY];
    int64_t slower = 0, both = 0;
    fprintf(to, "%-68s %12s %12s %8s\n", "", "old us", "new us", "old/new");
    for (int64_t i = 0; i < now->n; i++) {
        const hn_bench_result *n = &now->at[i];
        hn_bench_key(n, key);
        const hn_bench_result *o = find(old, key);
        if (o == NULL) {
            fprintf(to, "%-68s %12s %12.2f %8s\n", key, "-", n->us_p50, "new");
            continue;
        }
        const int v = verdict(o, n, threshold);
        both++;
        slower += v > 0;
        fprintf(to, "%-68s %12.2f %12.2f %8.3f%s\n", key, o->us_p50, n->us_p50,
                o->us_p50 / n->us_p50,
                v > 0   ? "  SLOWER"
                : v < 0 ? "  faster"
                        : "");
    }
    if (old->n > 0 && now->n > 0 && strcmp(old->at[0].gpu, now->at[0].gpu) != 0)
        fprintf(to, "the results come from different machines: %s; %s\n", old->at[0].gpu,
                now->at[0].gpu);
    if (both < old->n) fprintf(to, "%" PRId64 " old results are not in the new\n", old->n - both);
    fprintf(to, "%" PRId64 " compared, %" PRId64 " slower by more than %g %%\n", both, slower,
            threshold);
    if (matched != NULL) *matched = both;
    return slower;
}
