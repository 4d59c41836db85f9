#include "runtime/train/theta.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/rng.h"
#include "runtime/graph/tensor.h"

/* ---- which numbers ---- */

static bool belongs(hn_theta_set set, hn_vit_bias b)
{
    if (set == HN_THETA_QV) return b == HN_VIT_QUERY || b == HN_VIT_VALUE;
    return b != HN_VIT_KEY;
}

static hn_status add_block(const hn_vision_config *c, hn_theta_set set, int64_t layer, hn_theta *t)
{
    for (int b = 0; b < HN_VIT_BIASES; b++) {
        hn_theta_part *part = &t->part[t->n_parts];
        if (!belongs(set, (hn_vit_bias)b)) continue;
        HN_TRY(hn_vision_vit_bias(c, layer, (hn_vit_bias)b, part));
        if (part->n % t->width != 0)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %" PRId64 " numbers, no multiple of %" PRId64,
                           part->name, part->n, t->width);
        t->n_parts++;
        t->count += part->n;
    }
    return HN_OK;
}

static hn_status set_digest(hn_theta *t)
{
    const size_t size = (size_t)t->n_parts * (HN_VIT_BIAS_NAME + 64) + 64;
    char *text = hn_malloc(size);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a digest");
    size_t at = (size_t)snprintf(text, size, "tokens of %" PRId64 "\n", t->width);
    for (int64_t i = 0; i < t->n_parts; i++)
        at += (size_t)snprintf(text + at, size - at, "%s %" PRId64 " %" PRId64 "\n",
                               t->part[i].name, t->part[i].first, t->part[i].n);
    const hn_status st = hn_sha256(text, at, t->digest);
    hn_free(text);
    return st;
}

hn_status hn_theta_make(const hn_vision_config *c, hn_theta_set set, hn_theta *out)
{
    hn_theta t = {.width = hn_vision_width(c)};
    if (c->family != HN_VISION_VIT)
        return HN_FAIL(HN_ERR_ARG, "%s: no vision transformer", c->architecture);
    t.part = hn_calloc((size_t)(c->vit.layers * HN_VIT_BIASES), sizeof *t.part);
    hn_status st = t.part ? HN_OK : HN_FAIL(HN_ERR_MEMORY, "no memory for the list of biases");
    for (int64_t l = 0; st == HN_OK && l < c->vit.layers; l++) st = add_block(c, set, l, &t);
    t.tokens = t.count / t.width;
    if (st == HN_OK) st = set_digest(&t);
    if (st != HN_OK)
        hn_theta_free(&t);
    else
        *out = t;
    return st;
}

void hn_theta_free(hn_theta *t)
{
    hn_free(t->part);
    *t = (hn_theta){0};
}

/* ---- hooks ---- */

static bool has(const hn_theta *t, const char *name)
{
    for (int64_t i = 0; i < t->n_parts; i++)
        if (strcmp(t->part[i].name, name) == 0) return true;
    return false;
}

static hn_adapt_kind full_kind(const void *context, const char *name)
{
    return has(context, name) ? HN_ADAPT_FULL : HN_ADAPT_FROZEN;
}

static hn_adapt_kind given_kind(const void *context, const char *name)
{
    return has(context, name) ? HN_ADAPT_GIVEN : HN_ADAPT_FROZEN;
}

/* What no part covers: of q | k | v, k. */
static void still(const void *context, const char *module, int64_t out, int64_t *first, int64_t *n)
{
    const hn_theta *t = context;
    char name[HN_VIT_BIAS_NAME];
    int64_t covered = 0, end = 0;
    snprintf(name, sizeof name, "%s.bias", module);
    for (int64_t i = 0; i < t->n_parts; i++) { /* parts of a vector are in its order */
        const hn_theta_part *part = &t->part[i];
        if (strcmp(part->name, name) != 0) continue;
        if (part->first == end) end += part->n;
        covered += part->n;
    }
    *first = end < out ? end : 0;
    *n = out - covered;
}

hn_adapt hn_theta_trained(const hn_theta *t)
{
    return (hn_adapt){.parameter = full_kind, .still = still, .context = t};
}

hn_adapt hn_theta_given(const hn_theta *t)
{
    return (hn_adapt){.parameter = given_kind, .context = t};
}

/* ---- out of parameters and into them ---- */

static hn_status vector_of(const hn_params *p, const hn_theta_part *part, hn_param **out)
{
    *out = hn_params_find(p, part->name);
    if (*out != NULL && (*out)->ndim == 1 && part->first + part->n <= (*out)->dim[0]) return HN_OK;
    return HN_FAIL(HN_ERR_ARG, "%s: no such vector", part->name);
}

hn_status hn_theta_get(const hn_theta *t, const hn_params *p, int64_t g, float *theta)
{
    for (int64_t i = 0; i < t->n_parts; i++) {
        const hn_theta_part *part = &t->part[i];
        hn_param *q;
        HN_TRY(vector_of(p, part, &q));
        float *all = hn_malloc((size_t)q->dim[0] * sizeof *all);
        if (all == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %s", part->name);
        const hn_status st = hn_param_get_replica(q, g, all);
        if (st == HN_OK) memcpy(theta, all + part->first, (size_t)part->n * sizeof *theta);
        hn_free(all);
        HN_TRY(st);
        theta += part->n;
    }
    return HN_OK;
}

/* Elements first .. first+n-1 of a vector's replica. */
static hn_status put(const hn_tensor *vector, int64_t g, const hn_theta_part *part,
                     const float *from)
{
    hn_tensor one = hn_tensor_replica(vector, g);
    one.type.dim[0] = part->n;
    one.data = (char *)one.data + (size_t)part->first * hn_dtype_size(one.type.dtype);
    return hn_tensor_set(&one, from);
}

hn_status hn_theta_set_replica(const hn_theta *t, const hn_params *p, int64_t g, const float *theta)
{
    for (int64_t i = 0; i < t->n_parts; i++) {
        const hn_theta_part *part = &t->part[i];
        hn_param *q;
        HN_TRY(vector_of(p, part, &q));
        if (q->master != NULL && q->master != q->value) HN_TRY(put(q->master, g, part, theta));
        HN_TRY(put(q->value, g, part, theta));
        theta += part->n;
    }
    return HN_OK;
}

/* ---- in a graph ---- */

/* Graphs of a program share the views. */
static hn_status view_of(hn_program *program, const hn_theta_part *part, hn_tensor *vector,
                         hn_tensor **out)
{
    char name[HN_VIT_BIAS_NAME + 64];
    snprintf(name, sizeof name, "theta:%" PRId64 ":%s", part->first, vector->name);
    *out = hn_program_find(program, name);
    if (*out != NULL) return HN_OK;
    return hn_program_view(program, name, vector, 0, 1, part->first, part->n, out);
}

hn_status hn_theta_store(const hn_theta *t, const hn_params *p, hn_graph *g, hn_tensor *theta)
{
    const int64_t dim[] = {hn_type_rows(&theta->type) / t->tokens, t->count};
    hn_tensor *rows, *from, *to;
    HN_TRY(hn_view_shape(g, theta, 2, dim, &rows));
    for (int64_t i = 0, at = 0; i < t->n_parts; i++) {
        const hn_theta_part *part = &t->part[i];
        hn_param *q;
        HN_TRY(vector_of(p, part, &q));
        if (!q->given) return HN_FAIL(HN_ERR_ARG, "%s is not given", part->name);
        HN_TRY(view_of(theta->program, part, q->value, &to));
        HN_TRY(hn_view_columns(g, rows, at, part->n, &from));
        hn_tensor *const in[] = {from, to};
        HN_TRY(hn_emit(g, HN_OP_STORE, part->name, in, NULL, NULL));
        at += part->n;
    }
    return HN_OK;
}

const hn_theta_part *hn_theta_not_finite(const hn_theta *t, const float *theta)
{
    for (int64_t k = 0; k < t->n_parts; k++)
        for (int64_t i = 0; i < t->part[k].n; i++)
            if (!isfinite(*theta++)) return &t->part[k];
    return NULL;
}

/* ---- noise ---- */

/* Box and Muller, from two words of the same counter block. */
static double normal(hn_rng r, int64_t row, int64_t col)
{
    uint32_t w[4];
    hn_rng_block(r, (uint64_t)row, (uint32_t)col, w);
    const double u = ((double)w[0] + 1.0) * 0x1p-32, v = (double)w[1] * 0x1p-32;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

void hn_theta_add_noise(const hn_theta *t, uint64_t seed, float scale, const float *sigma,
                        float *theta)
{
    const hn_rng r = hn_rng_make(seed, 0, hn_hash_name("theta noise"));
    for (int64_t i = 0; i < t->tokens; i++)
        for (int64_t j = 0; j < t->width; j++)
            theta[i * t->width + j] +=
                (float)((double)scale * (sigma ? (double)sigma[i] : 1.0) * normal(r, i, j));
}
