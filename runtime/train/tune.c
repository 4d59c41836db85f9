#define _POSIX_C_SOURCE 200809L
#include "runtime/train/tune.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/progress.h"
#include "runtime/file/folder.h"
#include "runtime/train/gemm_cache.h"
#include "runtime/train/option_kinds.h"
#include "runtime/train/verbs.h"

/* ---- the file ---- */

static bool on_gpu(const hn_device *d) { return hn_device_gemm(d) != NULL; }

static hn_status path_of(const hn_device *d, const char *option, char **path)
{
    const hn_gemm_cuda *g = hn_device_gemm(d);
    return hn_gemm_cache_path(option, hn_gemm_cuda_gpu(g), hn_gemm_cuda_version(g), path);
}

static hn_status load(const hn_device *d, const char *path, json_t **plans, char **whose)
{
    const hn_gemm_cuda *g = hn_device_gemm(d);
    return hn_gemm_cache_load(path, hn_gemm_cuda_gpu(g), hn_gemm_cuda_version(g), plans, whose);
}

/* Of a file that is there. */
static hn_status offer(hn_device *d, const char *path, const hn_log *log)
{
    hn_gemm_cuda *g = hn_device_gemm(d);
    json_t *plans;
    char *whose;
    HN_TRY(load(d, path, &plans, &whose));
    hn_status st = HN_OK;
    if (plans != NULL) {
        st = hn_gemm_cuda_offer(g, plans, path);
        if (st == HN_OK)
            hn_info(log, "matrix products: %zu plans in %s", json_array_size(plans), path);
    } else {
        hn_warn(log,
                "%s is for %s, here is cuBLASLt %" PRId64
                " on %s: products run with the library's first choices",
                path, whose, hn_gemm_cuda_version(g), hn_gemm_cuda_gpu(g));
    }
    json_decref(plans);
    hn_free(whose);
    return st;
}

hn_status hn_tune_use(hn_device *d, const char *option, const hn_log *log)
{
    const bool automatic = strcmp(option, "auto") == 0, off = strcmp(option, "off") == 0;
    char *path;
    if (!on_gpu(d)) {
        if (!automatic && !off) hn_warn(log, "--plans %s has no effect on the CPU", option);
        return HN_OK;
    }
    HN_TRY(path_of(d, option, &path));
    hn_status st = HN_OK;
    if (path != NULL && (!automatic || hn_is_file(path))) st = offer(d, path, log);
    hn_free(path);
    return st;
}

void hn_tune_tell(const hn_device *d, const hn_log *log)
{
    int64_t plans, offered;
    if (!on_gpu(d)) return;
    hn_gemm_cuda_count(hn_device_gemm(d), &plans, &offered);
    hn_info(log,
            "matrix products: %" PRId64 " of %" PRId64 " as tuned, %" PRId64
            " with the library's first choice%s",
            offered, plans, plans - offered,
            offered < plans ? "; the verb tune finds the fastest" : "");
}

/* What the file holds now; *older NULL without a file. */
static hn_status load_older(const hn_device *d, const char *path, json_t **older)
{
    char *whose = NULL;
    *older = NULL;
    if (!hn_is_file(path)) return HN_OK;
    HN_TRY(load(d, path, older, &whose));
    if (*older != NULL) return HN_OK;
    const hn_status st =
        HN_FAIL(HN_ERR_ARG, "--plans %s is for %s; choose another file", path, whose);
    hn_free(whose);
    return st;
}

hn_status hn_tune_path(const hn_device *d, const char *option, char **path)
{
    json_t *older;
    HN_TRY(path_of(d, option, path));
    if (*path == NULL)
        return HN_FAIL(HN_ERR_ARG, "--plans %s: no file to write to%s", option,
                       strcmp(option, "auto") == 0 ? ", neither XDG_CACHE_HOME nor HOME is set"
                                                   : "");
    const hn_status st = load_older(d, *path, &older);
    json_decref(older);
    if (st == HN_OK) return HN_OK;
    hn_free(*path);
    *path = NULL;
    return st;
}

hn_status hn_tune_save(const hn_device *d, const char *path)
{
    const hn_gemm_cuda *g = hn_device_gemm(d);
    json_t *older = NULL, *plans = NULL;
    HN_TRY(load_older(d, path, &older));
    hn_status st = hn_gemm_cuda_plans(g, &plans);
    if (st == HN_OK)
        st = hn_gemm_cache_save(path, hn_gemm_cuda_gpu(g), hn_gemm_cuda_version(g), older, plans);
    json_decref(older);
    json_decref(plans);
    return st;
}

/* ---- the search ---- */

static double time_of(const hn_gemm_cuda_tuned *t) { return t->best_us * (double)t->calls; }

static int by_time(const void *a, const void *b)
{
    const double x = time_of(a), y = time_of(b);
    return (x < y) - (x > y);
}

static void print_row(FILE *to, const hn_gemm_cuda_tuned *t)
{
    char kind[64], sms[32] = "";
    if (t->sms > 0) snprintf(sms, sizeof sms, " %" PRId64 " SMs", t->sms);
    snprintf(kind, sizeof kind, "%s%s%s %c%c%s%s%s", hn_dtype_name(t->dtype),
             t->c_dtype == t->dtype ? "" : ">",
             t->c_dtype == t->dtype ? "" : hn_dtype_name(t->c_dtype), t->trans_a ? 't' : 'n',
             t->trans_b ? 't' : 'n', t->adds ? " add" : "", t->bias ? " bias" : "", sms);
    fprintf(to, "%7" PRId64 " %7" PRId64 " %7" PRId64 " %5" PRId64 " %5" PRId64 "  %-20s", t->m,
            t->n, t->k, t->batch, t->calls, kind);
    if (t->tried == 0) {
        fprintf(to, " no algorithm in the library\n");
        return;
    }
    const double flops = 2.0 * (double)t->m * (double)t->n * (double)t->k * (double)t->batch;
    fprintf(to, " %9.1f %9.1f %6.1f%% %8.1f %6d\n", t->first_us, t->best_us,
            100 * (t->first_us / t->best_us - 1), 1e-6 * flops / t->best_us, t->tried);
}

/* Longest share of a step first. */
static void print_table(FILE *to, hn_gemm_cuda_tuned *t, int64_t n)
{
    double first = 0, best = 0;
    int64_t changed = 0;
    qsort(t, (size_t)n, sizeof *t, by_time);
    fprintf(to, "%7s %7s %7s %5s %5s  %-20s %9s %9s %7s %8s %6s\n", "m", "n", "k", "batch", "calls",
            "product", "first us", "best us", "gain", "TFLOP/s", "tried");
    for (int64_t i = 0; i < n; i++) {
        print_row(to, &t[i]);
        first += 1e-3 * t[i].first_us * (double)t[i].calls;
        best += 1e-3 * time_of(&t[i]);
        changed += t[i].best_us < t[i].first_us;
    }
    fprintf(to,
            "%" PRId64 " of %" PRId64 " products are faster with another algorithm; these "
            "calls together: %.3f ms before, %.3f ms now\n",
            changed, n, first, best);
}

static hn_status search(hn_device *d, int64_t n, hn_gemm_cuda_tuned *t)
{
    hn_progress_config config = hn_progress_detect(stderr);
    hn_progress progress;
    hn_status st = HN_OK;
    config.step = "product";
    hn_progress_start(&progress, &config, 0, n);
    for (int64_t i = 0; i < n && st == HN_OK; i++) {
        st = hn_gemm_cuda_tune(hn_device_gemm(d), i, hn_device_stream(d), &t[i]);
        if (st == HN_OK) hn_progress_update(&progress, i + 1, 0, NULL);
    }
    hn_progress_end(&progress);
    return st;
}

hn_status hn_tune_search(hn_device *d, FILE *table)
{
    int64_t n, offered;
    hn_gemm_cuda_count(hn_device_gemm(d), &n, &offered);
    hn_gemm_cuda_tuned *t = hn_calloc((size_t)n + 1, sizeof *t);
    if (t == NULL) return HN_FAIL(HN_ERR_MEMORY, "results of %" PRId64 " searches", n);
    const hn_status st = search(d, n, t);
    if (st == HN_OK) print_table(table, t, n);
    hn_free(t);
    return st;
}

/* ---- the verb ---- */

hn_status hn_verb_tune(hn_session *s, FILE *to)
{
    char *path;
    HN_TRY(hn_check_run_options(s));
    HN_TRY(hn_session_device(s, false));
    if (!on_gpu(s->device))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "tune measures the matrix products of a GPU, this is %s",
                       hn_device_text(s->device));
    HN_TRY(hn_tune_path(s->device, s->run->plans, &path));
    hn_status st = hn_session_model(s, true);
    if (st == HN_OK && s->run->classes > 0) st = hn_session_classes(s, s->run->classes);
    /* a run of the step's graphs on an empty batch tells which products there are */
    if (st == HN_OK) st = hn_session_engine(s, HN_EXECUTOR_NODES);
    if (st == HN_OK) st = hn_engine_allocate(s->engine);
    hn_engine_free(s->engine); /* makes room for operands */
    s->engine = NULL;
    if (st == HN_OK) st = hn_tune_search(s->device, to);
    if (st == HN_OK) st = hn_tune_save(s->device, path);
    if (st == HN_OK)
        fprintf(to, "%s: used by every train on this GPU%s\n", path,
                strcmp(s->run->plans, "auto") == 0 ? "" : " that gets it as --plans");
    hn_free(path);
    return st;
}
