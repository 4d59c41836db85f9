/* hone-bench: times every CUDA operation of bench.def, one JSON line a shape, or compares two files
 * of such lines. */
#define _POSIX_C_SOURCE 200809L
#include <regex.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "runtime/base/options.h"
#include "runtime/base/progress.h"

#define HN_BENCH(name) extern const hn_bench_def hn_bench_##name;
#include "bench/bench.def"
#undef HN_BENCH

static const hn_bench_def *const defs[] = {
#define HN_BENCH(name) &hn_bench_##name,
#include "bench/bench.def"
#undef HN_BENCH
};
enum { N_DEFS = sizeof defs / sizeof *defs };

typedef struct {
    const char *filter, *out, *compare, *results, *device, *commit;
    int64_t batches;
    double seconds, threshold;
    bool list;
} config;

#define FIELD(f) HN_OPT(config, f)

/* clang-format off */
static const hn_option options[] = {
    {"filter",    FIELD(filter),    "",      0, 0, NULL, "only what matches this extended regular expression somewhere in 'name dtype axis=value ...' (--list prints them)"},
    {"list",      FIELD(list),      "off",   0, 0, NULL, "print what would be timed, and end"},
    {"batches",   FIELD(batches),   "50",    3, 1000, NULL, "at least so many batches of calls are timed"},
    {"seconds",   FIELD(seconds),   "0.3",   0, 60, NULL, "and at least so long"},
    {"out",       FIELD(out),       "",      0, 0, NULL, "write the JSON lines there as well"},
    {"compare",   FIELD(compare),   "",      0, 0, NULL, "earlier results (JSON lines) to set this run beside; ends with 1 when something is slower"},
    {"threshold", FIELD(threshold), "5",     0, 1000, NULL, "slower: p50 by more than so many percent, and the ranges p20..p80 do not meet"},
    {"results",   FIELD(results),   "",      0, 0, NULL, "with --compare: times nothing, compares this file instead"},
    {"device",    FIELD(device),    "cuda",  0, 0, NULL, "cuda or cuda:N"},
    {"commit",    FIELD(commit),    "",      0, 0, NULL, "what the results say they were made from; otherwise what git says"},
};
/* clang-format on */
enum { N_OPTIONS = sizeof options / sizeof *options };

/* ---- what is timed ---- */

typedef struct {
    const hn_bench_def *def;
    const int64_t *shape;
} job;

enum { MAX_JOBS = 512 };

static void key_of(const job *j, char key[HN_BENCH_KEY])
{
    hn_bench_result r;
    hn_bench_describe(j->def, j->shape, &r);
    hn_bench_key(&r, key);
}

static hn_status choose(const char *filter, job *jobs, int *n)
{
    regex_t pattern;
    char key[HN_BENCH_KEY], why[128];
    const int error = regcomp(&pattern, filter, REG_EXTENDED | REG_NOSUB);
    if (error != 0) {
        regerror(error, &pattern, why, sizeof why);
        return HN_FAIL(HN_ERR_ARG, "--filter '%s': %s", filter, why);
    }
    for (int d = 0; d < N_DEFS; d++)
        for (int s = 0; s < defs[d]->n_shapes && *n < MAX_JOBS; s++) {
            const job j = {defs[d], defs[d]->shapes[s]};
            key_of(&j, key);
            if (filter[0] == '\0' || regexec(&pattern, key, 0, NULL, 0) == 0) jobs[(*n)++] = j;
        }
    regfree(&pattern);
    if (*n == 0)
        return HN_FAIL(HN_ERR_ARG, "--filter '%s' matches nothing; --list prints what there is",
                       filter);
    return HN_OK;
}

/* ---- a run ---- */

typedef struct {
    const config *c;
    hn_bench *b;
    hn_bench_results results;
    FILE *out; /* NULL: standard output only */
    hn_progress progress;
    double copy_gb_s, gemm_tflop_s[2]; /* ceilings; bf16, f32; 0: not timed */
    char commit[HN_BENCH_TEXT];
    int failed;
} run;

/* The commit of the tree that the program lies in: build folders are inside it. */
static void find_commit(run *r)
{
    char self[1024], command[1200];
    snprintf(r->commit, sizeof r->commit, "%s", r->c->commit[0] ? r->c->commit : "unknown");
    if (r->c->commit[0] != '\0') return;
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return;
    self[n] = '\0';
    char *slash = strrchr(self, '/');
    if (slash == NULL || strchr(self, '\'') != NULL) return;
    *slash = '\0';
    snprintf(command, sizeof command,
             "git -C '%s' describe --always --dirty --abbrev=12 2>/dev/null", self);
    FILE *git = popen(command, "r");
    if (git == NULL) return;
    char line[HN_BENCH_TEXT];
    if (fgets(line, sizeof line, git) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0] != '\0') snprintf(r->commit, sizeof r->commit, "%s", line);
    }
    pclose(git);
}

static hn_status report(run *r, hn_bench_result *result)
{
    snprintf(result->gpu, sizeof result->gpu, "%s", hn_device_text(hn_bench_device(r->b)));
    snprintf(result->commit, sizeof result->commit, "%s", r->commit);
    HN_TRY(hn_bench_result_write(result, stdout));
    if (r->out != NULL) HN_TRY(hn_bench_result_write(result, r->out));
    return hn_bench_results_add(&r->results, result);
}

static hn_status ceiling(run *r, const hn_bench_def *d, double *rate)
{
    hn_bench_result result;
    HN_TRY(hn_bench_time(r->b, d, d->shapes[0], &result));
    *rate = d->flops ? result.tflop_s : result.gb_s;
    return report(r, &result);
}

static hn_status ceilings(run *r, const job *jobs, int n)
{
    bool copy = false, gemm[2] = {false, false};
    for (int i = 0; i < n; i++) {
        const hn_bench_def *d = jobs[i].def;
        if (d->flops == NULL)
            copy = true;
        else
            gemm[d->dtype == HN_F32] = true;
    }
    if (copy) HN_TRY(ceiling(r, &hn_bench_copy, &r->copy_gb_s));
    if (gemm[0]) HN_TRY(ceiling(r, &hn_bench_gemm_bf16, &r->gemm_tflop_s[0]));
    if (gemm[1]) HN_TRY(ceiling(r, &hn_bench_gemm_f32, &r->gemm_tflop_s[1]));
    return HN_OK;
}

/* An operation that fails is named, and the others are still timed. */
static hn_status time_job(run *r, const job *j)
{
    hn_bench_result result;
    char key[HN_BENCH_KEY], text[HN_BENCH_KEY + 600];
    const hn_status st = hn_bench_time(r->b, j->def, j->shape, &result);
    if (st != HN_OK) {
        key_of(j, key);
        snprintf(text, sizeof text, "hone-bench: %s: %s", key, hn_last_error());
        if (r->progress.config.to != NULL)
            hn_progress_say(&r->progress, text);
        else
            fprintf(stderr, "%s\n", text);
        r->failed++;
        return HN_OK;
    }
    const double gemm = r->gemm_tflop_s[j->def->dtype == HN_F32];
    if (j->def->flops == NULL)
        result.of_copy = r->copy_gb_s > 0 ? result.gb_s / r->copy_gb_s : 0;
    else
        result.of_gemm = gemm > 0 ? result.tflop_s / gemm : 0;
    return report(r, &result);
}

static hn_status run_jobs(run *r, const job *jobs, int n)
{
    char key[HN_BENCH_KEY];
    const hn_bench_settings settings = {r->c->device, r->c->batches, r->c->seconds};
    HN_TRY(hn_bench_open(&settings, &r->b));
    find_commit(r);
    HN_TRY(ceilings(r, jobs, n));
    hn_progress_config bar = hn_progress_detect(stderr);
    bar.step = "entry";
    if (!bar.is_tty || isatty(STDOUT_FILENO)) bar.to = NULL; /* the lines say it already */
    hn_progress_start(&r->progress, &bar, 0, n);
    for (int i = 0; i < n; i++) {
        key_of(&jobs[i], key);
        HN_TRY(time_job(r, &jobs[i]));
        hn_progress_update(&r->progress, i + 1, 0, key);
    }
    hn_progress_end(&r->progress);
    return HN_OK;
}

/* ---- the program ---- */

/* Returns the exit code. */
static int compare(const config *c, const hn_bench_results *old, const hn_bench_results *now)
{
    int64_t matched = 0;
    const int64_t slower = hn_bench_compare(old, now, c->threshold, stderr, &matched);
    if (matched == 0) {
        fprintf(stderr, "hone-bench: %s has none of these results\n", c->compare);
        return 2;
    }
    return slower > 0;
}

static int refuse(hn_status st)
{
    fprintf(stderr, "hone-bench: %s\n", hn_last_error());
    return st == HN_ERR_MEMORY ? 1 : 2;
}

static int time_all(const config *c, const job *jobs, int n, const hn_bench_results *old)
{
    run r = {.c = c};
    int code = 1;
    if (c->out[0] != '\0' && (r.out = fopen(c->out, "w")) == NULL) {
        fprintf(stderr, "hone-bench: --out %s cannot be written\n", c->out);
        return 2;
    }
    const hn_status st = run_jobs(&r, jobs, n);
    const int closed = r.out != NULL ? fclose(r.out) : 0;
    if (st != HN_OK)
        fprintf(stderr, "hone-bench: %s\n", hn_last_error());
    else if (closed != 0)
        fprintf(stderr, "hone-bench: writing %s failed\n", c->out);
    else
        code = old->n > 0 ? compare(c, old, &r.results) : 0;
    if (r.failed > 0) fprintf(stderr, "hone-bench: %d of %d failed\n", r.failed, n);
    hn_bench_results_free(&r.results);
    hn_bench_close(r.b);
    return code == 0 && r.failed > 0 ? 1 : code;
}

static int bench(const config *c)
{
    static job jobs[MAX_JOBS];
    hn_bench_results old = {0}, now = {0};
    char key[HN_BENCH_KEY];
    int n = 0, code = 0;
    hn_status st = choose(c->filter, jobs, &n);
    if (st != HN_OK) return refuse(st);
    if (c->list) {
        for (int i = 0; i < n; i++) {
            key_of(&jobs[i], key);
            puts(key);
        }
        return 0;
    }
    if (c->results[0] != '\0' && c->compare[0] == '\0') {
        fprintf(stderr, "hone-bench: --results needs --compare\n");
        return 2;
    }
    if (c->results[0] != '\0' && (c->filter[0] != '\0' || c->out[0] != '\0')) {
        fprintf(stderr, "hone-bench: --results times nothing: no --filter, no --out\n");
        return 2;
    }
    if (c->compare[0] != '\0') st = hn_bench_results_read(c->compare, &old);
    if (st == HN_OK && c->results[0] != '\0') st = hn_bench_results_read(c->results, &now);
    if (st != HN_OK)
        code = refuse(st);
    else
        code = now.n > 0 ? compare(c, &old, &now) : time_all(c, jobs, n, &old);
    hn_bench_results_free(&old);
    hn_bench_results_free(&now);
    return code;
}

int main(int argc, char **argv)
{
    config c = {0};
    hn_options_store *store = NULL;
    const hn_status st = hn_options_parse(options, N_OPTIONS, argc, argv, &c, &store);
    int code = 0;
    if (st != HN_OK) {
        code = refuse(st);
    } else if (hn_options_help_wanted(store)) {
        puts("hone-bench: times the CUDA operations of hone; one JSON line a result\n");
        hn_options_help(options, N_OPTIONS, stdout);
    } else {
        code = bench(&c);
    }
    hn_options_free(store);
    return code;
}
