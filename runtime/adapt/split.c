/* Masters and moments of which every rank keeps a share (hn_split). */
#include <inttypes.h>
#include <stdio.h>

#include "kernels/reduce/sum_squares.h"
#include "runtime/adapt/params_impl.h"
#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"

const hn_split *hn_params_split(const hn_params *p)
{
    return p->split.ranks > 0 ? &p->split : NULL;
}

/* ---- recording ---- */

static hn_status check(const hn_params *p, const hn_program *program, const hn_params_options *o)
{
    const char *why = NULL, *name = "";
    if (hn_params_in_blocks(p)) why = "blocks of weights are trained";
    if (hn_program_replicas(program) > 1) why = "there are replicas";
    if (o->average) why = "averages of values are kept";
    if (o->ranks > 1) why = "ranks share the base";
    if (!o->gradients) why = "nothing is trained";
    for (int64_t i = 0; i < p->n && why == NULL; i++) {
        const hn_param *q = p->param[i];
        name = q->name;
        if (q->given) why = ": it is given";
        if (q->trained && (q->adapter || q->value != NULL)) why = ": it is part of an adapter";
    }
    if (why == NULL && (o->split_rank < 0 || o->split_rank >= o->split_ranks))
        return HN_FAIL(HN_ERR_ARG, "rank %d of %d that share optimizer state", o->split_rank,
                       o->split_ranks);
    return why ? HN_FAIL(HN_ERR_UNSUPPORTED, "optimizer state that ranks share (ZeRO): %s%s", name,
                         why)
               : HN_OK;
}

hn_status hn_split_open(hn_params *p, const hn_program *program, const hn_params_options *o)
{
    if (o->split_ranks <= 1) return HN_OK;
    HN_TRY(check(p, program, o));
    p->split = (hn_split){.ranks = o->split_ranks, .rank = o->split_rank};
    for (int64_t i = 0; i < p->n; i++)
        if (p->param[i]->trained) p->param[i]->split = &p->split;
    return HN_OK;
}

static hn_status vector(hn_program *program, hn_mem mem, const char *what, hn_dtype dtype,
                        int64_t n, hn_tensor **out)
{
    char name[64];
    const hn_type type = hn_type_1d(dtype, n);
    snprintf(name, sizeof name, "%s of %s", what, hn_mem_name(mem));
    return hn_program_tensor(program, mem, name, &type, out);
}

/* Up to where the last share ends. */
static hn_status fill_up(hn_program *program, hn_mem mem, hn_dtype dtype, int64_t n)
{
    hn_tensor *rest;
    return n > 0 ? vector(program, mem, "padding", dtype, n, &rest) : HN_OK;
}

hn_status hn_split_close(hn_params *p, hn_program *program, const hn_params_options *o)
{
    hn_split *s = &p->split;
    if (s->ranks == 0) return HN_OK;
    const int64_t values = p->flat.n, blocks = hn_sum_squares_blocks(values);
    s->n = (blocks + s->ranks - 1) / s->ranks * HN_SUM_BLOCK;
    s->first = s->rank * s->n;
    p->flat.n = p->flat.n_dense = s->ranks * s->n;
    const int64_t rest = p->flat.n - values;
    HN_TRY(fill_up(program, HN_MEM_GRAD, HN_F32, rest));
    HN_TRY(p->flat.work ? fill_up(program, HN_MEM_WORK, o->dtype, rest)
                        : fill_up(program, HN_MEM_TRAINED, HN_F32, rest));
    if (p->flat.work) HN_TRY(vector(program, HN_MEM_TRAINED, "share", HN_F32, s->n, &s->master));
    if (o->moments > 0)
        HN_TRY(vector(program, HN_MEM_MOMENT1, "share", HN_F32, s->n, &s->moment[0]));
    if (o->moments > 1)
        HN_TRY(vector(program, HN_MEM_MOMENT2, "share", HN_F32, s->n, &s->moment[1]));
    for (int64_t i = 0; i < p->n; i++)
        if (p->param[i]->split)
            p->param[i]->at = (int64_t)(p->param[i]->grad->offset / sizeof(float));
    return HN_OK;
}

/* ---- values ---- */

hn_status hn_split_check_whole(const hn_param *p)
{
    if (p->split == NULL || p->split->master == NULL) return HN_OK;
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: its fp32 values are shared by %d ranks", p->name,
                   p->split->ranks);
}

/* Of value i (rows without padding), or the end of all: its element, from the parameter's first. */
static int64_t element_of(const hn_param *q, int64_t i)
{
    const hn_type *t = &q->grad->type;
    return i / hn_type_cols(t) * hn_type_ld(t) + i % hn_type_cols(t);
}

/* How many values lie in front of an element. */
static int64_t values_before(const hn_param *q, int64_t element)
{
    const hn_type *t = &q->grad->type;
    const int64_t rows = hn_type_rows(t), cols = hn_type_cols(t), ld = hn_type_ld(t);
    if (element <= 0) return 0;
    if (element >= rows * ld) return rows * cols;
    return element / ld * cols + (element % ld < cols ? element % ld : cols);
}

void hn_param_kept(const hn_param *q, int64_t *first, int64_t *n)
{
    const hn_split *s = q->split;
    *first = values_before(q, s->first - q->at);
    *n = values_before(q, s->first + s->n - q->at) - *first;
}

/* A run of elements that holds values first .. first + n - 1. */
typedef struct {
    const hn_tensor *t;
    size_t offset;       /* bytes, of the first one in t */
    int64_t begin, span; /* elements, from the parameter's first */
} run;

static hn_status run_of(const hn_param *q, hn_kept what, int64_t first, int64_t n, run *r)
{
    const hn_split *s = q->split;
    const hn_tensor *share = what == HN_KEPT_MASTER ? s->master : s->moment[what - HN_KEPT_MOMENT1];
    r->begin = element_of(q, first);
    r->span = element_of(q, first + n - 1) + 1 - r->begin;
    r->t = share ? share : what == HN_KEPT_MASTER ? q->master : NULL;
    r->offset = (size_t)(share ? q->at + r->begin - s->first : r->begin) * sizeof(float);
    return r->t ? HN_OK : HN_FAIL(HN_ERR_ARG, "%s: there is no such moment of it", q->name);
}

/* Values to and from a run. */
static void unpad(const hn_param *q, const run *r, int64_t first, int64_t n, const float *from,
                  float *dense)
{
    for (int64_t i = 0; i < n; i++) dense[i] = from[element_of(q, first + i) - r->begin];
}

static void pad(const hn_param *q, const run *r, int64_t first, int64_t n, const float *dense,
                float *to)
{
    for (int64_t i = 0; i < n; i++) to[element_of(q, first + i) - r->begin] = dense[i];
}

hn_status hn_param_get_kept(const hn_param *q, hn_kept what, int64_t first, int64_t n, float *dense)
{
    int64_t own_first, own_n;
    run r;
    hn_param_kept(q, &own_first, &own_n);
    if (first < own_first || n < 0 || first + n > own_first + own_n)
        return HN_FAIL(HN_ERR_ARG, "%s: values %" PRId64 "..%" PRId64 " are another rank's",
                       q->name, first, first + n - 1);
    if (n == 0) return HN_OK;
    HN_TRY(run_of(q, what, first, n, &r));
    if (r.span == n) return hn_tensor_read(r.t, r.offset, dense, (size_t)n * sizeof *dense);
    float *padded = hn_malloc((size_t)r.span * sizeof *padded);
    if (padded == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of %s", n, q->name);
    const hn_status st = hn_tensor_read(r.t, r.offset, padded, (size_t)r.span * sizeof *padded);
    if (st == HN_OK) unpad(q, &r, first, n, padded, dense);
    hn_free(padded);
    return st;
}

/* What lies between rows is zero, and stays so. */
hn_status hn_param_set_kept(const hn_param *q, hn_kept what, int64_t first, int64_t n,
                            const float *dense)
{
    int64_t own_first, own_n;
    run r;
    hn_param_kept(q, &own_first, &own_n);
    if (first < own_first) {
        dense += own_first - first;
        n -= own_first - first;
        first = own_first;
    }
    if (n > own_first + own_n - first) n = own_first + own_n - first;
    if (n <= 0) return HN_OK;
    HN_TRY(run_of(q, what, first, n, &r));
    if (r.span == n) return hn_tensor_write(r.t, r.offset, dense, (size_t)n * sizeof *dense);
    float *padded = hn_calloc((size_t)r.span, sizeof *padded);
    if (padded == NULL) return HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of %s", n, q->name);
    pad(q, &r, first, n, dense, padded);
    const hn_status st = hn_tensor_write(r.t, r.offset, padded, (size_t)r.span * sizeof *padded);
    hn_free(padded);
    return st;
}
