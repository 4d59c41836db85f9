#define _POSIX_C_SOURCE 200809L
#include "runtime/train/sparse_map.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/save.h"
#include "runtime/train/plot.h"

/* ---- rows and columns ---- */

enum { NAME = 256 };

typedef struct {
    char layer[NAME], type[NAME];
    int64_t row, column; /* in the picture */
} cell;

/* "model.layers.3.mlp.up_proj.weight": layer "3", `whole` "model.layers.3", type "mlp.up_proj";
 * without a number the layer is "-" and the type the whole name. */
static void split_name(const char *name, bool whole, cell *c)
{
    const char *at = name;
    const size_t n = strlen(name), tail = strlen(".weight");
    const int end = (int)(n > tail && strcmp(name + n - tail, ".weight") == 0 ? n - tail : n);
    snprintf(c->layer, NAME, "-");
    snprintf(c->type, NAME, "%.*s", end < NAME ? end : NAME - 1, name);
    for (; *at; at++) {
        const char *digit = at;
        if (at != name && at[-1] != '.') continue;
        while (isdigit((unsigned char)*digit)) digit++;
        if (digit == at || *digit != '.') continue;
        const char *const from = whole ? name : at;
        snprintf(c->layer, NAME, "%.*s", (int)(digit - from), from);
        snprintf(c->type, NAME, "%.*s", (int)(name + end - digit - 1), digit + 1);
        return;
    }
}

/* Numbers say which layer it is, unless some of them begin anew: "layer1.0.conv1",
 * "layer2.0.conv1". */
static void name_cells(const hn_sparse *s, int64_t n, cell *c)
{
    bool twice = false;
    for (int64_t i = 0; i < n; i++) {
        split_name(hn_sparse_at(s, i)->name, false, &c[i]);
        for (int64_t k = 0; k < i && !twice; k++)
            twice = strcmp(c[k].layer, c[i].layer) == 0 && strcmp(c[k].type, c[i].type) == 0;
    }
    for (int64_t i = 0; i < n && twice; i++) split_name(hn_sparse_at(s, i)->name, true, &c[i]);
}

/* Rows and columns in the order in which they come first; returns how many there are of each. */
static void place_cells(cell *c, int64_t n, int64_t *rows, int64_t *columns)
{
    *rows = *columns = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t k = 0;
        while (k < i && strcmp(c[k].layer, c[i].layer) != 0) k++;
        c[i].row = k < i ? c[k].row : (*rows)++;
        for (k = 0; k < i && strcmp(c[k].type, c[i].type) != 0;) k++;
        c[i].column = k < i ? c[k].column : (*columns)++;
    }
}

static int64_t chosen(const hn_sparse *s, int64_t i)
{
    return hn_sparse_count(s, HN_BLOCKS_TRAINED, i);
}

static double percent(const hn_sparse *s, int64_t i)
{
    return 100 * (double)chosen(s, i) / (double)hn_sparse_at(s, i)->blocks;
}

/* ---- files ---- */

static hn_status save_stream(FILE *f, char **text, const char *out, const char *name)
{
    char *path = hn_asprintf("%s/%s", out, name);
    const bool closed = fclose(f) == 0;
    const hn_status st = path && closed ? hn_save_text(path, *text)
                                        : HN_FAIL(HN_ERR_MEMORY, "no memory to write %s", name);
    hn_free(path);
    free(*text);
    return st;
}

static hn_status open_stream(FILE **f, char **text, size_t *size)
{
    *f = open_memstream(text, size);
    return *f ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the picture of the blocks");
}

static hn_status write_table(const hn_sparse *s, const cell *c, const char *out)
{
    FILE *f;
    char *text;
    size_t size;
    HN_TRY(open_stream(&f, &text, &size));
    fprintf(f, "layer,type,out,in,blocks,chosen,density\n");
    for (int64_t i = 0; i < hn_sparse_matrices(s); i++) {
        const hn_sparse_matrix *m = hn_sparse_at(s, i);
        fprintf(f, "%s,%s,%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 ",%.9g\n", c[i].layer,
                c[i].type, m->out, m->in, m->blocks, chosen(s, i), percent(s, i) / 100);
    }
    return save_stream(f, &text, out, "support.csv");
}

static void write_tics(FILE *f, const char *axis, const cell *c, int64_t n, bool rows)
{
    int64_t next = 0;
    fprintf(f, "set %stics (", axis);
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = rows ? c[i].row : c[i].column;
        if (at != next) continue; /* it has its name */
        fprintf(f, "%s'%s' %" PRId64, next ? ", " : "", rows ? c[i].layer : c[i].type, at);
        next++;
    }
    fprintf(f, ")%s noenhanced\n", rows ? "" : " rotate by 35 right");
}

static hn_status write_script(const hn_sparse *s, const cell *c, int64_t rows, int64_t columns,
                              const char *out)
{
    FILE *f;
    char *text;
    size_t size;
    const int64_t n = hn_sparse_matrices(s);
    double most = 0;
    HN_TRY(open_stream(&f, &text, &size));
    fprintf(f, "$density << EOD\n");
    for (int64_t i = 0; i < n; i++)
        if (percent(s, i) > most) most = percent(s, i);
    for (int64_t i = 0; i < n; i++) /* light figures on dark cells */
        fprintf(f, "%" PRId64 " %" PRId64 " %.4g %d\n", c[i].column, c[i].row, percent(s, i),
                percent(s, i) > 0.55 * most ? 0xffffff : 0x222222);
    fprintf(f, "EOD\nset terminal pngcairo size %d,%d font 'sans,11' background rgb 'white'\n",
            (int)(260 + 62 * columns), (int)(220 + 24 * rows));
    fprintf(f, "set output '");
    hn_plot_text(f, out);
    fprintf(f,
            "/support.png'\nset title 'trained part of each matrix, %%'\nset ylabel 'layer'\n"
            "set lmargin 18\nset border 3 lc rgb '#555555'\nset tics nomirror scale 0\nunset key\n"
            "set palette defined (0 '#f7fbff', 0.25 '#c6dbef', 0.5 '#6baed6', 0.75 '#2171b5', "
            "1 '#08306b')\nset cbrange [0:*]\nset style fill solid 1 border lc rgb 'white'\n");
    write_tics(f, "x", c, n, false);
    write_tics(f, "y", c, n, true);
    fprintf(f, "set xrange [-0.5:%g]\nset yrange [%g:-0.5]\n", (double)columns - 0.5,
            (double)rows - 0.5);
    fprintf(f, "plot $density using 1:2:($1-0.5):($1+0.5):($2-0.5):($2+0.5):3 with boxxyerror lc "
               "palette, '' using 1:2:(sprintf('%%.3g', $3)):4 with labels font ',9' tc rgb "
               "variable\n");
    return save_stream(f, &text, out, "support.gnuplot");
}

static hn_status draw(const char *out, bool *drawn)
{
    char *path = hn_asprintf("%s/support.gnuplot", out);
    if (path == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory to draw");
    const hn_status st = hn_plot_run(path, drawn);
    hn_free(path);
    return st;
}

hn_status hn_sparse_map(const hn_sparse *s, const char *out, bool *drawn)
{
    const int64_t n = hn_sparse_matrices(s);
    int64_t rows, columns;
    cell *c = hn_calloc((size_t)n, sizeof *c);
    if (c == NULL) return HN_FAIL(HN_ERR_MEMORY, "table of %" PRId64 " matrices", n);
    name_cells(s, n, c);
    place_cells(c, n, &rows, &columns);
    hn_status st = write_table(s, c, out);
    if (st == HN_OK) st = write_script(s, c, rows, columns, out);
    if (st == HN_OK) st = draw(out, drawn);
    hn_free(c);
    return st;
}
