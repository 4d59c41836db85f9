/* Layers with magnitudes (DoRA): what they keep, and what they record. The product runs as that of
 * any layer with a low-rank pair, fused with others and bordered where it may be, but without its
 * bias; behind it stands one operation that scales its columns:
 *
 *   z = x W^T + scale x' A^T B^T     norm = || W + scale B A || by row     y = m / norm z + bias
 *
 * The norms follow from weights alone, so a program in which these stay makes them once. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "runtime/adapt/params_impl.h"
#include "runtime/base/alloc.h"
#include "runtime/graph/tensor.h"

bool hn_params_have_magnitudes(const hn_params *p)
{
    for (int64_t i = 0; i < p->n_linear; i++)
        if (p->linear[i]->m != NULL) return true;
    return false;
}

/* They want a frozen matrix, whose rows are summed up once. */
hn_status hn_magnitude_declare(hn_params *p, hn_linear_layer *l)
{
    char name[512];
    const hn_param m = {.ndim = 1,
                        .dim = {l->out},
                        .trained = true,
                        .decay = true,
                        .adapter = true,
                        .wide = true,
                        .init = HN_INIT_ZERO};
    const char *why = l->kh > 0                ? "a convolution"
                      : l->lowrank.materialise ? "an update that is added to the weight"
                      : l->weight->trained     ? "a weight that is trained as a whole"
                      : l->sparse.br > 0       ? "a weight that is trained in blocks"
                                               : NULL;
    if (why != NULL)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: DoRA's magnitudes for %s", l->module, why);
    snprintf(name, sizeof name, "%s.lora_magnitude_vector", l->module);
    return hn_param_add(p, &m, name, &l->m);
}

static hn_status vector(hn_program *program, const char *what, const hn_linear_layer *l,
                        hn_tensor **out)
{
    char name[640];
    const hn_type type = hn_type_1d(HN_F32, l->out);
    snprintf(name, sizeof name, "%s:%s", what, l->weight->name);
    return hn_program_tensor(program, HN_MEM_STATE, name, &type, out);
}

hn_status hn_magnitude_create(hn_params *p, hn_program *program, const hn_params_options *o)
{
    for (int64_t i = 0; i < p->n_linear; i++) {
        hn_linear_layer *l = p->linear[i];
        if (l->m == NULL) continue;
        if (hn_program_replicas(program) > 1)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: DoRA's magnitudes in a program with replicas",
                           l->module);
        HN_TRY(vector(program, "squares", l, &l->squares));
        if (o->settled) HN_TRY(vector(program, "norm", l, &l->norm));
    }
    return HN_OK;
}

/* ---- values ---- */

/* Of W [out, in]. */
static void sum_up(const hn_linear_layer *l, const float *w, float *squares, float *roots)
{
#pragma omp parallel for schedule(static) if (l->out * l->in > 1 << 16)
    for (int64_t o = 0; o < l->out; o++) {
        double sum = 0;
        for (int64_t k = 0; k < l->in; k++)
            sum += (double)w[o * l->in + k] * (double)w[o * l->in + k];
        squares[o] = (float)sum;
        roots[o] = sqrtf(squares[o]);
    }
}

static hn_status measure(const hn_linear_layer *l)
{
    float *w = hn_malloc((size_t)(l->out * l->in) * sizeof *w);
    float *squares = hn_malloc((size_t)(2 * l->out) * sizeof *squares);
    hn_status st = HN_OK;
    if (w == NULL || squares == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "%" PRId64 " values of %s", l->out * l->in, l->weight->name);
        goto done;
    }
    HN_TRY_GOTO(st, hn_tensor_get(l->weight->value, w), done); /* in the order of storage */
    sum_up(l, w, squares, squares + l->out);
    HN_TRY_GOTO(st, hn_tensor_set(l->squares, squares), done);
    st = hn_param_set(l->m, squares + l->out);

done:
    hn_free(w);
    hn_free(squares);
    return st;
}

hn_status hn_params_measure(const hn_params *p)
{
    for (int64_t i = 0; i < p->n_linear; i++)
        if (p->linear[i]->m != NULL) HN_TRY(measure(p->linear[i]));
    return HN_OK;
}

/* ---- recording ---- */

static hn_status make_norm(const hn_linear_layer *l, hn_graph *g, hn_tensor **out)
{
    hn_tensor *const in[] = {l->weight->value, l->a->value, l->b->value, l->squares};
    const hn_attr attr = {.linear = {.alpha = l->lowrank.scale}};
    return hn_emit(g, HN_OP_LOWRANK_NORM, l->module, in, &attr, out);
}

hn_status hn_magnitude_record(const hn_linear_layer *l, hn_graph *g, hn_tensor *z, hn_tensor **y)
{
    hn_tensor *norm = l->norm, *out[HN_MAX_OUT];
    if (norm == NULL) HN_TRY(make_norm(l, g, &norm));
    hn_tensor *const in[] = {z, l->m->value, norm, l->bias ? l->bias->value : NULL};
    HN_TRY(hn_emit(g, HN_OP_MAGNITUDE, l->module, in, NULL, out));
    *y = out[0];
    return HN_OK;
}

hn_status hn_params_settle(const hn_params *p, hn_graph *g)
{
    for (int64_t i = 0; i < p->n_linear; i++) {
        const hn_linear_layer *l = p->linear[i];
        hn_tensor *both[] = {NULL, l->norm};
        if (l->norm == NULL) continue;
        HN_TRY(make_norm(l, g, &both[0]));
        HN_TRY(hn_emit(g, HN_OP_STORE, l->module, both, NULL, NULL));
    }
    return HN_OK;
}
