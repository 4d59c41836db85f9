/* How the weights of linear layers are stored.
 *
 * plain      one tensor a parameter
 * fused      layers that read the same input are one product, so their weights are one tensor:
 *
 *              W = | Wq |   A = | Aq |   Bd = | Bq      |      y = x W^T + (scale x A^T) Bd^T
 *                  | Wk |       | Ak |        |    Bk   |
 *                  | Wv |       | Av |        |       Bv|
 *
 *            This is exact: s of one part meets zeros in the rows of the others.
 * bordered   W with the low-rank pair around it, so that one product makes base and update
 *            (kernels/lora/lowrank_linear.h):
 *
 *              | W  Bd |   out rows
 *              | A  -  |   rank rows, the corner is not used
 *
 * Parameters are views of these tensors, under their own names; nobody outside sees a difference.
 */
#include <stdio.h>
#include <string.h>

#include "runtime/adapt/params_impl.h"

/* Columns of a border at most: they are reserved behind every row of x and dy as well, and a bf16
 * product takes 64 at a time. */
enum { MAX_BORDER = 64, BORDER_STEP = 8 };

/* Rows of a bordered matrix begin a multiple of so many elements apart, as those of activations
 * that meet it do (graph/tails.c): 128 bytes of bf16. Products take the border's own columns only.
 */
enum { BORDER_PITCH = 64 };

/* ---- decisions ---- */

static bool is_frozen(const hn_linear_layer *l)
{
    return !l->weight->trained && (l->bias == NULL || !(l->bias->trained || l->bias->given));
}

hn_fuse_rule hn_fuse_rule_of(hn_dtype dtype, bool gpu)
{
    if (dtype == HN_F32) return HN_FUSE_NEVER;
    return gpu ? HN_FUSE_ALWAYS : HN_FUSE_WIDE;
}

/* The zeros of Bd cost rank products a value of y and of ds, beside `in` of the base. On the CPU
 * that is time: babyllama (128 wide, rank 48 for q, k and v) lost 5 % of a step by it. */
enum { CPU_IN_PER_RANK = 32 };

/* One product for all parts wants one kind of weight, one scale, and one input: dropout gives each
 * layer a mask of its own. */
static bool may_fuse(const hn_group *g, const hn_program *program, const hn_params_options *o)
{
    float scale = 0;
    if (g->n < 2 || hn_program_replicas(program) > 1) return false;
    if (o->fuse == HN_FUSE_NEVER) return false;
    if (o->fuse == HN_FUSE_WIDE && g->rank * CPU_IN_PER_RANK > g->in) return false;
    for (int k = 0; k < g->n; k++) {
        const hn_linear_layer *l = g->part[k];
        if (!is_frozen(l) || (l->bias == NULL) != (g->part[0]->bias == NULL)) return false;
        if (hn_layer_materialised(l)) return false;
        if (l->bias != NULL && (l->m == NULL) != (g->part[0]->m == NULL)) return false;
        if (l->a == NULL) continue;
        if (o->gradients && l->lowrank.dropout > 0) return false;
        if (scale != 0 && l->lowrank.scale != scale) return false;
        scale = l->lowrank.scale;
    }
    return true;
}

/* Whole 16-byte steps in bf16, so that both products keep their alignment. */
static bool may_border(const hn_group *g, const hn_program *program, const hn_params_options *o)
{
    if (!o->border || hn_program_replicas(program) > 1 || !is_frozen(g->part[0])) return false;
    if (hn_layer_materialised(g->part[0])) return false; /* of one layer: fused groups have none */
    return g->rank > 0 && g->rank <= MAX_BORDER && g->rank % BORDER_STEP == 0 &&
           g->in % BORDER_STEP == 0 && g->out % BORDER_STEP == 0;
}

/* ---- tensors ---- */

/* The pitch of every parameter matrix, in elements, so that all classes have one layout. */
static hn_type matrix(hn_dtype dtype, int64_t rows, int64_t cols)
{
    return (hn_type){.dtype = dtype, .ndim = 2, .dim = {rows, cols}, .pitch = (cols + 7) / 8 * 8};
}

typedef struct {
    char text[640];
} name;

static name named(const char *prefix, const char *module, const char *suffix)
{
    name n;
    snprintf(n.text, sizeof n.text, "%s%s%s", prefix, module, suffix);
    return n;
}

/* W, A and Bd of a bordered group, as views of one tensor. */
static hn_status place_bordered(hn_params *p, hn_group *g, hn_program *program, hn_dtype dtype)
{
    const int64_t layer = g->part[0]->weight->layer;
    hn_tensor *all;
    hn_type type = matrix(dtype, g->out + g->rank, g->in + g->rank);
    type.pitch = (type.pitch + BORDER_PITCH - 1) / BORDER_PITCH * BORDER_PITCH;
    HN_TRY(hn_shared_tensor(p, program, layer, named("bordered:", g->name, "").text, &type, &all));
    HN_TRY(hn_program_view(program, named("block:", g->name, ".weight").text, all, 0, g->out, 0,
                           g->in, &g->w));
    HN_TRY(hn_program_view(program, named("block:", g->name, ".lora_A").text, all, g->out, g->rank,
                           0, g->in, &g->a));
    return hn_program_view(program, named("block:", g->name, ".lora_B").text, all, 0, g->out, g->in,
                           g->rank, &g->b);
}

/* W and Bd; A follows with the trained values. */
static hn_status place_fused(hn_params *p, hn_group *g, hn_program *program, hn_dtype dtype)
{
    const int64_t layer = g->part[0]->weight->layer;
    const hn_type w = matrix(dtype, g->out, g->in), b = matrix(dtype, g->out, g->rank);
    HN_TRY(
        hn_shared_tensor(p, program, layer, named("block:", g->name, ".weight").text, &w, &g->w));
    if (g->rank == 0) return HN_OK;
    return hn_program_tensor(program, HN_MEM_WEIGHT, named("block:", g->name, ".lora_B").text, &b,
                             &g->b);
}

/* The parameters as views of W, bias, A (when it is there) and Bd. */
static hn_status make_views(hn_group *g, hn_program *program)
{
    int64_t row = 0, r = 0;
    for (int k = 0; k < g->n; k++) {
        hn_linear_layer *l = g->part[k];
        HN_TRY(hn_program_view(program, l->weight->name, g->w, row, l->out, 0, l->in,
                               &l->weight->value));
        if (l->bias && g->bias)
            HN_TRY(hn_program_view(program, l->bias->name, g->bias, 0, 1, row, l->out,
                                   &l->bias->value));
        if (l->a != NULL) {
            const name a = named("value:", l->a->name, ""), b = named("value:", l->b->name, "");
            const int64_t rank = l->lowrank.rank;
            if (g->a != NULL)
                HN_TRY(hn_program_view(program, a.text, g->a, r, rank, 0, l->in, &l->a->value));
            HN_TRY(hn_program_view(program, b.text, g->b, row, l->out, r, rank, &l->b->value));
            r += rank;
        }
        row += l->out;
    }
    return HN_OK;
}

static hn_status place(hn_params *p, hn_group *g, hn_program *program, const hn_params_options *o)
{
    if (g->bordered)
        HN_TRY(place_bordered(p, g, program, o->dtype));
    else
        HN_TRY(place_fused(p, g, program, o->dtype));
    if (g->fused && g->part[0]->bias != NULL) {
        const hn_type bias = hn_type_1d(o->dtype, g->out);
        HN_TRY(hn_shared_tensor(p, program, g->part[0]->weight->layer,
                                named("block:", g->name, ".bias").text, &bias, &g->bias));
    }
    return make_views(g, program);
}

static void measure(hn_group *g)
{
    g->in = g->part[0]->in;
    g->out = g->rank = 0;
    for (int k = 0; k < g->n; k++) {
        g->out += g->part[k]->out;
        g->rank += g->part[k]->lowrank.rank;
    }
}

hn_status hn_storage_place(hn_params *p, hn_program *program, const hn_params_options *o)
{
    for (int64_t i = 0; i < p->n_group; i++) {
        hn_group *g = p->group[i];
        measure(g);
        g->fused = may_fuse(g, program, o);
        if (!g->fused) continue;
        g->bordered = may_border(g, program, o);
        HN_TRY(place(p, g, program, o));
        for (int k = 0; k < g->n; k++)
            if (g->part[k]->a != NULL) g->part[k]->a->stack = g;
    }
    for (int64_t i = 0; i < p->n_linear; i++) {
        hn_linear_layer *l = p->linear[i];
        hn_group one = {.part = {l}, .n = 1, .name = l->module};
        measure(&one);
        one.bordered = l->kh == 0 && l->weight->value == NULL && may_border(&one, program, o);
        if (one.bordered) HN_TRY(place(p, &one, program, o));
    }
    return HN_OK;
}

hn_status hn_storage_stack(const hn_group *g, hn_program *program, hn_mem mem, const char *prefix,
                           hn_dtype dtype, hn_tensor **stack, hn_tensor **views)
{
    const hn_type type = matrix(dtype, g->rank, g->in);
    int64_t r = 0;
    HN_TRY(hn_program_tensor(program, mem, named(prefix, g->name, ".lora_A.weight").text, &type,
                             stack));
    for (int k = 0; k < g->n; k++) {
        const hn_linear_layer *l = g->part[k];
        views[k] = NULL;
        if (l->a == NULL) continue;
        HN_TRY(hn_program_view(program, named(prefix, l->a->name, "").text, *stack, r,
                               l->lowrank.rank, 0, l->in, &views[k]));
        r += l->lowrank.rank;
    }
    return HN_OK;
}
