#include "runtime/graph/profile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/graph/op.h"

typedef struct {
    const char *op;
    char shape[112];
    int64_t calls;
    double ms;
} line;

struct hn_profile {
    line *lines;
    int64_t n, room;
};

hn_status hn_profile_new(hn_profile **out)
{
    *out = hn_calloc(1, sizeof **out);
    return *out ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for a profile");
}

void hn_profile_free(hn_profile *p)
{
    if (p != NULL) hn_free(p->lines);
    hn_free(p);
}

/* " [16384, 2048 +48]": columns reserved behind the row (pitch) behind the plus */
static size_t write_type(char *text, size_t size, const char *before, const hn_type *t)
{
    const int64_t gap = hn_type_ld(t) - hn_type_cols(t);
    char plus[32] = "";
    if (gap > 0 && t->ndim == 2) snprintf(plus, sizeof plus, " +%" PRId64, gap);
    const int n = snprintf(text, size, "%s[%" PRId64 ", %" PRId64 "%s]", before, hn_type_rows(t),
                           hn_type_cols(t), plus);
    return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

/* The first two inputs and the first output say enough to tell two products apart. */
static void shape_of(const hn_node *n, char *text, size_t size)
{
    const hn_op_def *def = hn_op(n->op);
    size_t at = 0;
    text[0] = '\0';
    for (int k = 0, said = 0; k < def->n_in && said < 2; k++)
        if (n->in[k] && ++said)
            at += write_type(text + at, size - at, said > 1 ? " " : "", &n->in[k]->type);
    for (int k = 0; k < def->n_out; k++)
        if (n->out[k]) {
            write_type(text + at, size - at, " -> ", &n->out[k]->type);
            return;
        }
}

static line *find(hn_profile *p, const char *op, const char *shape)
{
    for (int64_t i = 0; i < p->n; i++)
        if (strcmp(p->lines[i].op, op) == 0 && strcmp(p->lines[i].shape, shape) == 0)
            return &p->lines[i];
    if (p->n == p->room) {
        const int64_t room = p->room ? 2 * p->room : 64;
        line *more = hn_realloc(p->lines, (size_t)room * sizeof *more);
        if (more == NULL) return NULL;
        p->lines = more;
        p->room = room;
    }
    line *l = &p->lines[p->n++];
    *l = (line){.op = op};
    snprintf(l->shape, sizeof l->shape, "%s", shape);
    return l;
}

hn_status hn_profile_add(hn_profile *p, const hn_graph *g, const double *ms)
{
    for (int64_t i = 0; i < hn_graph_nodes(g); i++) {
        const hn_node *n = hn_graph_node(g, i);
        char shape[sizeof p->lines->shape];
        shape_of(n, shape, sizeof shape);
        line *l = find(p, hn_op(n->op)->name, shape);
        if (l == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a line of the profile");
        l->calls++;
        l->ms += ms[i];
    }
    return HN_OK;
}

static int by_time(const void *a, const void *b)
{
    const double x = ((const line *)a)->ms, y = ((const line *)b)->ms;
    return (x < y) - (x > y);
}

char *hn_profile_text(const hn_profile *p, int64_t runs)
{
    const size_t size = 256 + (size_t)p->n * 256;
    char *text = hn_malloc(size);
    line *sorted = hn_malloc((size_t)(p->n + 1) * sizeof *sorted);
    double all = 0.0, part = 0.0;
    if (text == NULL || sorted == NULL) {
        hn_free(text);
        hn_free(sorted);
        return NULL;
    }
    memcpy(sorted, p->lines, (size_t)p->n * sizeof *sorted);
    qsort(sorted, (size_t)p->n, sizeof *sorted, by_time);
    for (int64_t i = 0; i < p->n; i++) all += sorted[i].ms;
    size_t at = (size_t)snprintf(text, size,
                                 "| operation | first operands -> result | calls | us each | ms a "
                                 "step | share, running |\n|---|---|---:|---:|---:|---:|\n");
    for (int64_t i = 0; i < p->n; i++) {
        const line *l = &sorted[i];
        part += l->ms;
        at += (size_t)snprintf(text + at, size - at,
                               "| %s | %s | %" PRId64 " | %.1f | %.2f | %.1f %% |\n", l->op,
                               l->shape, l->calls / runs, 1e3 * l->ms / (double)l->calls,
                               l->ms / (double)runs, 100.0 * part / all);
    }
    snprintf(text + at, size - at, "| all | | | | %.2f | |\n", all / (double)runs);
    hn_free(sorted);
    return text;
}
