#define _POSIX_C_SOURCE 200809L
#include "runtime/file/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"
#include "runtime/base/mapfile.h"
#include "runtime/base/save.h"
#include "runtime/file/folder.h"

enum { MAX_COLUMNS = 64, MAX_NAME = 100, MAX_LINE = MAX_COLUMNS * (MAX_NAME + 40) };

typedef struct {
    char *path;
    int fd;
    off_t size; /* where the next line goes */
} line_file;

struct hn_metrics {
    line_file csv, jsonl;
    int n;
    char *columns[MAX_COLUMNS];
    char line[MAX_LINE];
};

static void line_file_close(line_file *f)
{
    if (f->fd >= 0) close(f->fd);
    hn_free(f->path);
}

void hn_metrics_close(hn_metrics *m)
{
    if (m == NULL) return;
    for (int i = 0; i < m->n; i++) hn_free(m->columns[i]);
    line_file_close(&m->csv);
    line_file_close(&m->jsonl);
    hn_free(m);
}

/* ---- resuming ---- */

/* A column by its name and its number, "step" being 0; name NULL: none. */
typedef struct {
    const char *name;
    int at;
} column;

/* The step of a line; -1 when it is not a row. *has: whether it has a value in column c */
typedef int64_t row_reader(const char *line, size_t n, const column *c, bool *has);

static bool csv_has(const char *line, size_t n, const column *c)
{
    int at = 0;
    for (size_t i = 0; i < n; i++) {
        if (line[i] != ',') continue;
        if (++at == c->at) return i + 1 < n && line[i + 1] != ',';
    }
    return false;
}

static int64_t csv_row(const char *line, size_t n, const column *c, bool *has)
{
    char digits[20];
    const size_t k = n < sizeof digits - 1 ? n : sizeof digits - 1;
    memcpy(digits, line, k);
    digits[k] = '\0';
    char *end;
    const long long step = strtoll(digits, &end, 10);
    *has = c->name != NULL && csv_has(line, n, c);
    return end != digits && (*end == ',' || (*end == '\0' && k == n)) ? (int64_t)step : -1;
}

static int64_t jsonl_row(const char *line, size_t n, const column *c, bool *has)
{
    json_t *o = NULL;
    int64_t step = -1;
    if (hn_json_parse(line, n, "metrics.jsonl", &o) != HN_OK) return -1;
    if (hn_json_get_i64(o, "step", "metrics.jsonl", 0, INT64_MAX, true, &step) != HN_OK) step = -1;
    *has = c->name != NULL && json_object_get(o, c->name) != NULL;
    json_decref(o);
    return step;
}

/* Rewrites the file with its header (may be "") and the rows up to `last`, of which those with a
 * value in column `anew` go. */
static hn_status rewrite(const char *path, const char *header, int64_t last, const column *anew,
                         row_reader *row)
{
    hn_mapfile map = {0};
    hn_saver *s = NULL;
    hn_status st;
    HN_TRY(hn_mapfile_open(path, &map));
    const char *p = (const char *)map.data;
    const size_t head = strlen(header);
    if (map.size < head || (head > 0 && memcmp(p, header, head) != 0)) {
        st =
            HN_FAIL(HN_ERR_FORMAT, "%s: its columns are not those of this run: move it away", path);
        goto done;
    }
    HN_TRY_GOTO(st, hn_saver_open(path, &s), done);
    HN_TRY_GOTO(st, hn_saver_write(s, header, head), done);
    const char *end = p + map.size;
    for (p += head; p < end;) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        if (newline == NULL) break; /* cut short */
        bool again = false;
        const int64_t step = row(p, (size_t)(newline - p), anew, &again);
        if (step >= 0 && step <= last && !(step == last && again))
            HN_TRY_GOTO(st, hn_saver_write(s, p, (size_t)(newline - p) + 1), done);
        p = newline + 1;
    }
    st = hn_saver_commit(s, NULL, NULL);
    s = NULL;

done:
    hn_saver_abort(s);
    hn_mapfile_close(&map);
    return st;
}

static hn_status open_lines(line_file *f, const char *dir, const char *name, const char *header,
                            int64_t resume_step, const column *anew, row_reader *row)
{
    f->path = hn_asprintf("%s/%s", dir, name);
    if (f->path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s/%s", dir, name);
    if (resume_step >= 0 && hn_is_file(f->path))
        HN_TRY(rewrite(f->path, header, resume_step, anew, row));
    else
        HN_TRY(hn_save_text(f->path, header));
    f->fd = open(f->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    struct stat info;
    if (f->fd < 0 || fstat(f->fd, &info) != 0)
        return HN_FAIL(hn_write_status(errno), "open %s: %s", f->path, strerror(errno));
    f->size = info.st_size;
    return HN_OK;
}

/* ---- opening ---- */

static hn_status check_column(const hn_metrics *m, const char *name)
{
    const size_t n = strlen(name);
    bool ok = n >= 1 && n <= MAX_NAME && strcmp(name, "step") != 0;
    for (const char *p = name; *p; p++)
        if (*p <= ' ' || *p > '~' || *p == ',' || *p == '"' || *p == '\\') ok = false;
    for (int i = 0; i < m->n; i++)
        if (strcmp(m->columns[i], name) == 0) ok = false;
    return ok ? HN_OK : HN_FAIL(HN_ERR_ARG, "'%.200s' cannot be a column of metrics", name);
}

static hn_status open_files(hn_metrics *m, const char *dir, const char *const *columns, int n,
                            int64_t resume_step, const char *anew)
{
    column again = {.name = anew};
    if (n < 0 || n > MAX_COLUMNS)
        return HN_FAIL(HN_ERR_ARG, "%d columns of metrics, at most %d", n, MAX_COLUMNS);
    size_t used = (size_t)snprintf(m->line, sizeof m->line, "step");
    for (int i = 0; i < n; i++) {
        HN_TRY(check_column(m, columns[i]));
        m->columns[i] = hn_strdup(columns[i]);
        if (m->columns[i] == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for metrics");
        m->n++;
        if (anew != NULL && strcmp(anew, columns[i]) == 0) again.at = m->n;
        used += (size_t)snprintf(m->line + used, sizeof m->line - used, ",%s", columns[i]);
    }
    snprintf(m->line + used, sizeof m->line - used, "\n");
    if (anew != NULL && again.at == 0)
        return HN_FAIL(HN_ERR_ARG, "metric '%.200s' is not a column", anew);
    HN_TRY(hn_make_dirs(dir));
    HN_TRY(open_lines(&m->csv, dir, "metrics.csv", m->line, resume_step, &again, csv_row));
    return open_lines(&m->jsonl, dir, "metrics.jsonl", "", resume_step, &again, jsonl_row);
}

hn_status hn_metrics_open(const char *dir, const char *const *columns, int n, int64_t resume_step,
                          const char *anew, hn_metrics **out)
{
    hn_metrics *m = hn_calloc(1, sizeof *m);
    if (m == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for metrics in %s", dir);
    m->csv.fd = m->jsonl.fd = -1;
    const hn_status st = open_files(m, dir, columns, n, resume_step, anew);
    if (st == HN_OK)
        *out = m;
    else
        hn_metrics_close(m);
    return st;
}

/* ---- rows ---- */

static size_t put_value(char *to, size_t room, double v, bool json)
{
    if (json && !isfinite(v)) return (size_t)snprintf(to, room, "null");
    if (isnan(v)) return (size_t)snprintf(to, room, "nan"); /* printf might say -nan */
    if (v == floor(v) && fabs(v) < 0x1p53) return (size_t)snprintf(to, room, "%.0f", v);
    return (size_t)snprintf(to, room, "%.9g", v);
}

static hn_status append(line_file *f, const char *line, size_t n)
{
    for (size_t done = 0; done < n;) {
        const ssize_t k = write(f->fd, line + done, n - done);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            const int why = errno;
            const int ignored = ftruncate(f->fd, f->size); /* no half lines */
            (void)ignored;
            return HN_FAIL(hn_write_status(why), "write %s: %s", f->path, strerror(why));
        }
        done += (size_t)k;
    }
    f->size += (off_t)n;
    return HN_OK;
}

hn_status hn_metrics_row(hn_metrics *m, int64_t step, const hn_metric *values, int n)
{
    const hn_metric *of_column[MAX_COLUMNS] = {0};
    for (int i = 0; i < n; i++) {
        int k = 0;
        while (k < m->n && strcmp(m->columns[k], values[i].column) != 0) k++;
        if (k == m->n || of_column[k] != NULL)
            return HN_FAIL(HN_ERR_ARG, "metric '%.200s' is %s", values[i].column,
                           k == m->n ? "not a column" : "given twice");
        of_column[k] = &values[i];
    }
    char *line = m->line;
    size_t used = (size_t)snprintf(line, MAX_LINE, "%" PRId64, step);
    for (int k = 0; k < m->n; k++) {
        line[used++] = ',';
        if (of_column[k] != NULL)
            used += put_value(line + used, MAX_LINE - used, of_column[k]->value, false);
    }
    line[used++] = '\n';
    HN_TRY(append(&m->csv, line, used));
    used = (size_t)snprintf(line, MAX_LINE, "{\"step\": %" PRId64, step);
    for (int k = 0; k < m->n; k++) {
        if (of_column[k] == NULL) continue;
        used += (size_t)snprintf(line + used, MAX_LINE - used, ", \"%s\": ", m->columns[k]);
        used += put_value(line + used, MAX_LINE - used, of_column[k]->value, true);
    }
    used += (size_t)snprintf(line + used, MAX_LINE - used, "}\n");
    return append(&m->jsonl, line, used);
}
