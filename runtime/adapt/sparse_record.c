/* Tensors of the pool, and what graphs record about blocks. */
#include "runtime/adapt/sparse.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "kernels/sparse/sparse_adamw.h"
#include "runtime/adapt/sparse_impl.h"
#include "runtime/base/alloc.h"

enum { CEILING = 4 }; /* shares that a matrix may have, where nothing else is said */

/* ---- how large everything may get ---- */

static double total_values(const hn_sparse *s)
{
    double n = 0;
    for (int64_t i = 0; i < s->n; i++) n += (double)s->entry[i].m.out * (double)s->entry[i].m.in;
    return n;
}

static int64_t smallest_block(const hn_sparse *s)
{
    int64_t least = s->entry[0].m.values;
    for (int64_t i = 1; i < s->n; i++)
        if (s->entry[i].m.values < least) least = s->entry[i].m.values;
    return least;
}

static bool one_size(const hn_sparse *s)
{
    for (int64_t i = 1; i < s->n; i++)
        if (s->entry[i].m.values != s->entry[0].m.values) return false;
    return true;
}

static hn_status size_pool(hn_sparse *s)
{
    const hn_sparse_options *o = &s->o;
    const double all = total_values(s);
    const int64_t least = smallest_block(s);
    double values = (double)o->values;
    if ((o->values > 0) == (o->density > 0) || o->values < 0 || !(o->density >= 0))
        return HN_FAIL(HN_ERR_ARG,
                       "a budget of blocks is a number of values (%" PRId64
                       ") or a density (%g), one of them above 0",
                       o->values, o->density);
    if (o->density > 0) values = floor(o->density * all / (double)least) * (double)least;
    if (values > INT32_MAX)
        return HN_FAIL(HN_ERR_ARG, "a budget of %.0f values, at most 2^31 - 1", values);
    if (values > all || values < (double)least)
        return HN_FAIL(HN_ERR_ARG,
                       "a budget of %.0f values: blocks have %" PRId64
                       " or more, all matrices together %.0f",
                       values, least, all);
    s->pool[HN_BLOCKS_TRAINED].values = (int64_t)values;
    s->pool[HN_BLOCKS_TRAINED].blocks = (int64_t)values / least;
    return HN_OK;
}

static int64_t at_most(double blocks, int64_t limit)
{
    if (blocks >= (double)limit) return limit;
    return blocks < 1 ? 1 : (int64_t)ceil(blocks);
}

static void size_matrices(hn_sparse *s)
{
    const double all = total_values(s), pool = (double)s->pool[HN_BLOCKS_TRAINED].values;
    const double ceiling = s->o.ceiling > 0 ? s->o.ceiling : CEILING;
    for (int64_t i = 0; i < s->n; i++) {
        hn_sparse_matrix *m = &s->entry[i].m;
        m->share = pool * ((double)m->blocks / all);
        const int64_t room = s->pool[HN_BLOCKS_TRAINED].values / m->values;
        m->capacity = at_most(ceiling * m->share, m->blocks);
        if (m->capacity > room) m->capacity = room > 0 ? room : 1;
        if (s->o.candidates > 0)
            m->kept = at_most(ceiling * m->share * s->o.candidates / 2, m->blocks);
    }
}

static hn_status size_watched(hn_sparse *s)
{
    hn_block_pool *watched = &s->pool[HN_BLOCKS_WATCHED];
    const double all = total_values(s);
    double values = (double)s->pool[HN_BLOCKS_TRAINED].values * s->o.candidates;
    if (!(s->o.candidates >= 0))
        return HN_FAIL(HN_ERR_ARG, "%g times the budget as candidates", s->o.candidates);
    if (s->o.candidates == 0 || s->o.stages == HN_STAGES_SCORES) return HN_OK;
    if (values > all) values = all;
    watched->values = (int64_t)values;
    watched->blocks = watched->values / smallest_block(s);
    if (watched->blocks < 1 || watched->values > INT32_MAX)
        return HN_FAIL(HN_ERR_ARG, "%g times the budget as candidates: %.0f values",
                       s->o.candidates, values);
    return HN_OK;
}

/* ---- tensors ---- */

static hn_status tensor(hn_sparse *s, hn_mem mem, const char *first, const char *second,
                        hn_dtype dtype, int64_t n, hn_tensor **out)
{
    char name[640];
    const hn_type type = hn_type_1d(dtype, n);
    snprintf(name, sizeof name, "%s%s", first, second);
    return hn_program_tensor(s->program, mem, name, &type, out);
}

static hn_status state(hn_sparse *s, const char *first, const char *second, hn_dtype dtype,
                       int64_t n, hn_tensor **out)
{
    return tensor(s, HN_MEM_STATE, first, second, dtype, n, out);
}

/* Lists of a pool, on the device and as the host knows them. */
static hn_status create_lists(hn_sparse *s, hn_block_pool *p, const char *name)
{
    p->tile_first = hn_calloc((size_t)s->n, sizeof(hn_tensor *));
    p->span = hn_calloc((size_t)s->n, sizeof *p->span);
    p->id = hn_calloc((size_t)p->blocks, sizeof *p->id);
    p->order = hn_calloc((size_t)p->blocks, sizeof *p->order);
    if (p->tile_first == NULL || p->span == NULL || p->id == NULL || p->order == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "lists of %" PRId64 " blocks", p->blocks);
    HN_TRY(state(s, name, "spans", HN_U8, s->n * (int64_t)sizeof *p->span, &p->spans));
    HN_TRY(state(s, name, "block", HN_I32, p->blocks, &p->block));
    for (int64_t i = 0; i < s->n; i++) {
        const hn_sparse_matrix *m = &s->entry[i].m;
        char tiles[64];
        snprintf(tiles, sizeof tiles, "%stiles:", name);
        if (hn_block_tiled(m->shape))
            HN_TRY(state(s, tiles, m->name, HN_I32, hn_sparse_tiles(m->out, m->in) + 1,
                         &p->tile_first[i]));
    }
    return HN_OK;
}

static hn_status create_trained(hn_sparse *s)
{
    hn_block_pool *p = &s->pool[HN_BLOCKS_TRAINED];
    static const char *const name[] = {"sparse.", "delta"};
    static const struct {
        hn_sparse_part part;
        hn_mem mem;
        const char *prefix;
    } flat[] = {{HN_SPARSE_DELTA, HN_MEM_TRAINED, ""},
                {HN_SPARSE_GRAD, HN_MEM_GRAD, "grad:"},
                {HN_SPARSE_MOMENT1, HN_MEM_MOMENT1, "m:"},
                {HN_SPARSE_MOMENT2, HN_MEM_MOMENT2, "v:"}};
    for (size_t k = 0; k < sizeof flat / sizeof *flat; k++) {
        char text[64];
        snprintf(text, sizeof text, "%s%s", flat[k].prefix, name[0]);
        HN_TRY(tensor(s, flat[k].mem, text, name[1], HN_F32, p->values, &p->part[flat[k].part]));
    }
    p->grad = p->part[HN_SPARSE_GRAD];
    HN_TRY(state(s, name[0], "frozen", s->entry[0].m.w->type.dtype, p->values,
                 &p->part[HN_SPARSE_FROZEN]));
    HN_TRY(state(s, name[0], "age", HN_U8, 2 * p->blocks, &s->age));
    if (!one_size(s)) HN_TRY(state(s, name[0], "sizes", HN_I32, s->n, &s->sizes));
    const hn_type table = {.dtype = HN_F32, .ndim = 2, .dim = {HN_SPARSE_AGES, 2}};
    HN_TRY(
        hn_program_tensor(s->program, HN_MEM_STATE, "sparse.corrections", &table, &s->corrections));
    return create_lists(s, p, name[0]);
}

/* Candidates by their scores. */
static hn_status create_scores(hn_sparse *s)
{
    for (int64_t i = 0; i < s->n; i++) {
        hn_sparse_entry *e = &s->entry[i];
        HN_TRY(state(s, "scores.ids:", e->m.name, HN_I32, e->m.kept, &e->ids));
        HN_TRY(state(s, "scores.sums:", e->m.name, HN_F32, e->m.kept, &e->acc));
    }
    return HN_OK;
}

/* Sums of gradients. */
static hn_status create_watched(hn_sparse *s)
{
    hn_block_pool *p = &s->pool[HN_BLOCKS_WATCHED], *trained = &s->pool[HN_BLOCKS_TRAINED];
    if (!s->o.once)
        HN_TRY(state(s, "sparse.", "sum", HN_F32, trained->values, &trained->part[HN_SPARSE_SUM]));
    HN_TRY(state(s, "watched.", "grad", HN_F32, p->values, &p->grad));
    HN_TRY(state(s, "watched.", "sum", HN_F32, p->values, &p->part[HN_SPARSE_WATCHED_SUM]));
    if (s->o.squares)
        HN_TRY(
            state(s, "watched.", "square", HN_F32, p->values, &p->part[HN_SPARSE_WATCHED_SQUARE]));
    return create_lists(s, p, "watched.");
}

/* Groups in the order of the matrices, as many to each as fit the buffer; all groups share it. */
static hn_status create_buffers(hn_sparse *s)
{
    const int64_t room = (int64_t)(s->o.select_memory / sizeof(float));
    int64_t used = 0, most = 0;
    s->n_groups = 1;
    if (s->o.select_memory == 0) return HN_OK;
    for (int64_t i = 0; i < s->n; i++) {
        const hn_sparse_matrix *m = &s->entry[i].m;
        const int64_t n = (m->out * m->in + 63) / 64 * 64;
        if (n > room)
            return HN_FAIL(HN_ERR_ARG, "%zu bytes for dense gradients: %s needs %" PRId64,
                           s->o.select_memory, m->name, n * (int64_t)sizeof(float));
        if (used + n > room) {
            s->n_groups++;
            used = 0;
        }
        used += n;
        if (used > most) most = used;
        s->entry[i].group = s->n_groups - 1;
    }
    if (s->n_groups > HN_SPARSE_GROUPS)
        return HN_FAIL(HN_ERR_ARG,
                       "%zu bytes for dense gradients: the matrices would take turns in %" PRId64
                       " groups, at most %d",
                       s->o.select_memory, s->n_groups, HN_SPARSE_GROUPS);
    HN_TRY(state(s, "scores.", "dense", HN_F32, most, &s->dense));
    used = 0;
    for (int64_t i = 0; i < s->n; i++) {
        hn_sparse_entry *e = &s->entry[i];
        char name[640];
        const int64_t n = e->m.out * e->m.in;
        if (i > 0 && e->group != s->entry[i - 1].group) used = 0;
        snprintf(name, sizeof name, "dense:%s", e->m.name);
        HN_TRY(hn_program_view(s->program, name, s->dense, 0, 1, used, n, &e->dense));
        used += (n + 63) / 64 * 64;
    }
    return HN_OK;
}

/* Behind all else that is persistent. */
static hn_status create_selection(hn_sparse *s)
{
    if (s->o.candidates == 0) return HN_OK;
    if (s->o.stages != HN_STAGES_SUMS) HN_TRY(create_scores(s));
    if (s->o.stages != HN_STAGES_SCORES) HN_TRY(create_watched(s));
    return s->o.stages != HN_STAGES_SUMS ? create_buffers(s) : HN_OK;
}

static hn_status record_grad(const hn_block_rule *r, hn_graph *g, const char *name, hn_op_id op,
                             const hn_attr *attr, hn_tensor *dy, hn_tensor *x);

static hn_status set_up(hn_sparse *s, const hn_sparse_weight *weight)
{
    for (int64_t i = 0; i < s->n; i++) {
        hn_sparse_entry *e = &s->entry[i];
        const hn_sparse_weight *from = &weight[i];
        const int64_t out = from->w->type.dim[0], in = from->w->type.dim[1];
        HN_TRY(hn_block_shape_check(from->name, from->shape, out, in));
        *e = (hn_sparse_entry){.rule = {record_grad}, .sparse = s, .index = i};
        e->m = (hn_sparse_matrix){.name = from->name,
                                  .w = from->w,
                                  .shape = from->shape,
                                  .out = out,
                                  .in = in,
                                  .blocks = hn_block_total(from->shape, out, in),
                                  .values = hn_block_values(from->shape)};
    }
    HN_TRY(size_pool(s));
    size_matrices(s);
    HN_TRY(size_watched(s));
    HN_TRY(create_trained(s));
    HN_TRY(create_selection(s));
    for (int64_t i = 0; i < s->n; i++) {
        hn_tensor *w = s->entry[i].m.w;
        w->blocks = &s->entry[i].rule;
        w->needs_grad = true;
        if (w->base) w->base->needs_grad = true; /* what the layers of a group read */
    }
    return HN_OK;
}

hn_status hn_sparse_new(hn_program *program, const hn_sparse_weight *weight, int64_t n,
                        const hn_sparse_options *o, hn_sparse **out)
{
    if (hn_program_replicas(program) > 1)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "blocks of weights in a program with replicas");
    hn_sparse *s = hn_calloc(1, sizeof *s);
    if (s == NULL) return HN_FAIL(HN_ERR_MEMORY, "%zu bytes for blocks", sizeof *s);
    *s = (hn_sparse){.program = program, .o = *o, .n = n};
    s->entry = hn_calloc((size_t)n, sizeof *s->entry);
    const hn_status st = s->entry ? set_up(s, weight)
                                  : HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " matrices", n);
    if (st != HN_OK)
        hn_sparse_free(s);
    else
        *out = s;
    return st;
}

void hn_sparse_free(hn_sparse *s)
{
    if (s == NULL) return;
    for (int k = 0; k < HN_BLOCKS_COUNT; k++) {
        hn_free(s->pool[k].tile_first);
        hn_free(s->pool[k].span);
        hn_free(s->pool[k].id);
        hn_free(s->pool[k].order);
    }
    for (int64_t i = 0; s->entry && i < s->n; i++) {
        hn_free(s->entry[i].kept.id);
        hn_free(s->entry[i].kept.base);
    }
    hn_free(s->entry);
    hn_free(s);
}

/* ---- gradients ---- */

void hn_sparse_record(hn_sparse *s, hn_gather what, int64_t group, hn_tensor *count)
{
    s->gather = what;
    s->group = group;
    s->count = count;
}

int64_t hn_sparse_groups(const hn_sparse *s) { return s->n_groups; }
bool hn_sparse_watches(const hn_sparse *s) { return s->pool[HN_BLOCKS_WATCHED].values > 0; }

static hn_attr attr_of(const hn_sparse_entry *e, hn_block_set set, float alpha)
{
    const int64_t most = set == HN_BLOCKS_TRAINED ? e->m.capacity : e->m.kept;
    const int64_t room = e->sparse->pool[set].blocks;
    return (hn_attr){.sparse = {.index = e->index,
                                .br = e->m.shape.br,
                                .bc = e->m.shape.bc,
                                .capacity = most < room ? most : room,
                                .alpha = alpha}};
}

/* Blocks of a pool, out of dy and x alone. */
static hn_status emit_blocks(const hn_sparse_entry *e, hn_block_set set, hn_graph *g, float alpha,
                             hn_tensor *dy, hn_tensor *x)
{
    const hn_block_pool *p = &e->sparse->pool[set];
    const hn_attr attr = attr_of(e, set, alpha);
    hn_tensor *const in[] = {dy, x, p->spans, p->block, p->tile_first[e->index], p->grad};
    return hn_emit(g, HN_OP_BLOCK_DW, e->m.name, in, &attr, NULL);
}

/* Blocks of a pool, out of the dense gradient. */
static hn_status emit_gather(const hn_sparse_entry *e, hn_block_set set, hn_graph *g,
                             hn_tensor *dense)
{
    const hn_block_pool *p = &e->sparse->pool[set];
    const hn_attr attr = attr_of(e, set, 1);
    hn_tensor *const in[] = {dense, p->spans, p->block, p->grad};
    return hn_emit(g, HN_OP_BLOCK_GATHER, e->m.name, in, &attr, NULL);
}

static hn_status emit_scores(const hn_sparse_entry *e, hn_graph *g, hn_tensor *dense)
{
    const hn_sparse *s = e->sparse;
    const hn_type type = hn_type_1d(HN_F32, e->m.blocks);
    const hn_attr attr = {
        .block_score = {.br = e->m.shape.br, .bc = e->m.shape.bc, .kind = (int)s->o.score}};
    hn_tensor *f;
    HN_TRY(hn_graph_tensor(g, e->m.name, &type, &f));
    hn_tensor *const score[] = {dense, s->count, f};
    HN_TRY(hn_emit(g, HN_OP_BLOCK_SCORE, e->m.name, score, &attr, NULL));
    hn_tensor *const merge[] = {f, e->ids, e->acc};
    return hn_emit(g, HN_OP_SCORE_MERGE, e->m.name, merge, NULL, NULL);
}

/* The dense gradient of one matrix, which lives no longer than what reads it. */
static hn_status emit_dense(const hn_sparse_entry *e, hn_graph *g, const char *name, hn_op_id op,
                            const hn_attr *attr, hn_tensor *dy, hn_tensor *x, hn_tensor **dense)
{
    const hn_type type = hn_type_2d(HN_F32, e->m.out, e->m.in);
    HN_TRY(hn_graph_tensor(g, e->m.name, &type, dense));
    HN_TRY(hn_emit(g, HN_OP_ZERO, e->m.name, dense, NULL, NULL));
    hn_tensor *const in[] = {dy, x, *dense};
    return hn_emit(g, op, name, in, attr, NULL);
}

static hn_status dense_view(const hn_sparse_entry *e, hn_graph *g, hn_tensor **dense)
{
    const int64_t dim[] = {e->m.out, e->m.in};
    return hn_view_shape(g, e->dense, 2, dim, dense);
}

static hn_status record_grad(const hn_block_rule *r, hn_graph *g, const char *name, hn_op_id op,
                             const hn_attr *attr, hn_tensor *dy, hn_tensor *x)
{
    hn_sparse_entry *e = (hn_sparse_entry *)(size_t)r;
    const hn_sparse *s = e->sparse;
    const bool scored = s->gather == HN_GATHER_SCORES && e->group == s->group;
    const bool watched = s->gather == HN_GATHER_WINDOW;
    hn_tensor *dense;
    if (scored && e->dense != NULL) { /* the rest follows the last micro-batch */
        HN_TRY(dense_view(e, g, &dense));
        hn_tensor *const in[] = {dy, x, dense};
        return hn_emit(g, op, name, in, attr, NULL);
    }
    if (!scored && op == HN_OP_LINEAR_DW) {
        HN_TRY(emit_blocks(e, HN_BLOCKS_TRAINED, g, attr->linear.alpha, dy, x));
        return watched ? emit_blocks(e, HN_BLOCKS_WATCHED, g, attr->linear.alpha, dy, x) : HN_OK;
    }
    if (scored && e->recorded == g)
        return HN_FAIL(HN_ERR_UNSUPPORTED,
                       "%s: scores of a weight that is used twice want memory for dense gradients",
                       e->m.name);
    e->recorded = g;
    HN_TRY(emit_dense(e, g, name, op, attr, dy, x, &dense));
    HN_TRY(emit_gather(e, HN_BLOCKS_TRAINED, g, dense));
    if (watched) HN_TRY(emit_gather(e, HN_BLOCKS_WATCHED, g, dense));
    return scored ? emit_scores(e, g, dense) : HN_OK;
}

/* Sums of a pool's gradients; zero: nobody else reads them. */
static hn_status emit_sums(hn_graph *g, hn_tensor *grad, bool zero, hn_tensor *sum,
                           hn_tensor *square)
{
    hn_tensor *const in[] = {grad, sum, square};
    const hn_attr attr = {.window_add = {.zero = zero}};
    return hn_emit(g, HN_OP_WINDOW_ADD, sum->name, in, &attr, NULL);
}

hn_status hn_sparse_record_gathered(hn_sparse *s, hn_graph *g, hn_gather what, int64_t group,
                                    hn_tensor **gathered)
{
    *gathered = what == HN_GATHER_WINDOW ? s->pool[HN_BLOCKS_WATCHED].grad : s->dense;
    for (int64_t i = 0; i < s->n && what == HN_GATHER_SCORES; i++) {
        const hn_sparse_entry *e = &s->entry[i];
        hn_tensor *dense;
        if (e->dense == NULL || e->group != group) continue;
        HN_TRY(dense_view(e, g, &dense));
        HN_TRY(emit_gather(e, HN_BLOCKS_TRAINED, g, dense));
    }
    return HN_OK;
}

hn_status hn_sparse_record_end(hn_sparse *s, hn_graph *g, hn_gather what, int64_t group)
{
    const hn_block_pool *trained = &s->pool[HN_BLOCKS_TRAINED],
                        *watched = &s->pool[HN_BLOCKS_WATCHED];
    if (what == HN_GATHER_WINDOW) {
        if (!s->o.once)
            HN_TRY(emit_sums(g, trained->grad, false, trained->part[HN_SPARSE_SUM], NULL));
        return emit_sums(g, watched->grad, true, watched->part[HN_SPARSE_WATCHED_SUM],
                         watched->part[HN_SPARSE_WATCHED_SQUARE]);
    }
    for (int64_t i = 0; i < s->n; i++) {
        const hn_sparse_entry *e = &s->entry[i];
        hn_tensor *dense;
        if (e->dense == NULL || e->group != group) continue;
        HN_TRY(dense_view(e, g, &dense));
        HN_TRY(emit_scores(e, g, dense));
        HN_TRY(hn_emit(g, HN_OP_ZERO, e->m.name, &dense, NULL, NULL));
    }
    return HN_OK;
}

hn_status hn_sparse_record_update(hn_sparse *s, hn_graph *g, const hn_attr *adamw)
{
    const hn_block_pool *p = &s->pool[HN_BLOCKS_TRAINED];
    const hn_attr attr = {.sparse_adamw = {.beta1 = adamw->adamw.beta1,
                                           .beta2 = adamw->adamw.beta2,
                                           .eps = adamw->adamw.eps,
                                           .weight_decay = adamw->adamw.weight_decay,
                                           .lr_scale = adamw->adamw.lr_scale,
                                           .block_values = s->sizes ? 0 : s->entry[0].m.values}};
    hn_tensor *const update[] = {p->part[HN_SPARSE_DELTA],
                                 p->grad,
                                 p->part[HN_SPARSE_MOMENT1],
                                 p->part[HN_SPARSE_MOMENT2],
                                 s->age,
                                 p->spans,
                                 s->corrections,
                                 s->sizes};
    HN_TRY(hn_emit(g, HN_OP_SPARSE_ADAMW, "blocks", update, &attr, NULL));
    for (int64_t i = 0; i < s->n; i++) {
        const hn_sparse_entry *e = &s->entry[i];
        const hn_attr store = attr_of(e, HN_BLOCKS_TRAINED, 1);
        hn_tensor *const in[] = {e->m.w, p->spans, p->block, p->part[HN_SPARSE_DELTA],
                                 p->part[HN_SPARSE_FROZEN]};
        HN_TRY(hn_emit(g, HN_OP_BLOCK_STORE, e->m.name, in, &store, NULL));
    }
    return HN_OK;
}
