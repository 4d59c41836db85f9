#include "runtime/data/episodes.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/label.h"
#include "runtime/base/rng.h"
#include "runtime/data/data_util.h"
#include "runtime/data/episodes_impl.h"

/* Meta-Dataset's numbers. */
enum { META_WAY_MIN = 5, META_WAY_MAX = 50, META_SUPPORT = 500, META_QUERY = 10, META_SHARE = 100 };
enum { CDFSL_WAY = 5, CDFSL_QUERY = 15 };
#define MAX_NUMBER INT64_C(0xffffffff) /* of the counter of rng.h */

struct hn_episode_sampler {
    const hn_episode_source *source;
    hn_episode_options o; /* settled: ranges and limits as they are drawn from */
    hn_episode_sizes sizes;
    uint64_t stream;
    int32_t *group; /* [n_usable] groups that are drawn from */
    int32_t n_usable;
    char *text;
    char digest[HN_SHA256_HEX];
};

/* ---- an episode ---- */

hn_status hn_episode_make(int64_t max_way, int64_t max_support, int64_t max_query, hn_episode *out)
{
    const int64_t n[] = {max_support, max_support, max_query,
                         max_query,   max_way,     max_support + max_query};
    if (max_way < 0 || max_support < 0 || max_query < 0 || max_way > INT32_MAX ||
        max_support > INT32_MAX || max_query > INT32_MAX)
        return HN_FAIL(HN_ERR_ARG,
                       "an episode of %" PRId64 " ways, %" PRId64 " support and %" PRId64
                       " query images",
                       max_way, max_support, max_query);
    hn_episode e = {.max_way = (int32_t)max_way,
                    .max_support = (int32_t)max_support,
                    .max_query = (int32_t)max_query};
    int32_t **array[] = {&e.support,     &e.support_label, &e.query,
                         &e.query_label, &e.classes,       &e.drawn};
    hn_status st = HN_OK;
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        *array[i] = hn_malloc((size_t)(n[i] ? n[i] : 1) * sizeof **array[i]);
        if (*array[i] == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for an episode");
    }
    if (st != HN_OK) {
        hn_episode_free(&e);
        return st;
    }
    hn_episode_pad(&e);
    *out = e;
    return HN_OK;
}

void hn_episode_free(hn_episode *e)
{
    if (e == NULL) return;
    hn_free(e->support);
    hn_free(e->support_label);
    hn_free(e->query);
    hn_free(e->query_label);
    hn_free(e->classes);
    hn_free(e->drawn);
    *e = (hn_episode){0};
}

void hn_episode_pad(hn_episode *e)
{
    for (int32_t i = e->n_support; i < e->max_support; i++)
        e->support[i] = -1, e->support_label[i] = HN_LABEL_IGNORED;
    for (int32_t i = e->n_query; i < e->max_query; i++)
        e->query[i] = -1, e->query_label[i] = HN_LABEL_IGNORED;
    for (int32_t k = e->way; k < e->max_way; k++) e->classes[k] = -1;
}

/* ---- Meta-Dataset's formulas ---- */

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

int64_t hn_meta_query(const int64_t *images, int64_t way, int64_t most)
{
    for (int64_t c = 0; c < way; c++) most = least(most, images[c] / 2);
    return most;
}

int64_t hn_meta_support(const int64_t *images, int64_t way, int64_t query, double beta,
                        int64_t most)
{
    int64_t sum = 0;
    for (int64_t c = 0; c < way; c++) {
        const int64_t share = least(META_SHARE, images[c] - query);
        /* the sum may be rounded up to share + 1 where beta is next to 1 */
        sum += least((int64_t)floor(beta * (double)share + 1), share);
    }
    return least(sum, most);
}

void hn_meta_shots(const int64_t *images, const double *log_weight, int64_t way, int64_t query,
                   int64_t support, int64_t *shots)
{
    double sum = 0;
    for (int64_t c = 0; c < way; c++) sum += (double)images[c] * exp(log_weight[c]);
    for (int64_t c = 0; c < way; c++) {
        const double share = (double)images[c] * exp(log_weight[c]) / sum;
        const int64_t wanted = (int64_t)floor(share * (double)(support - way)) + 1;
        shots[c] = least(wanted, images[c] - query);
    }
}

/* ---- options ---- */

const char *hn_episode_rule_name(hn_episode_rule r)
{
    static const char *const names[] = {
#define X(id, name) name,
        HN_EPISODE_RULE_LIST(X)
#undef X
    };
    return (unsigned)r < HN_EPISODE_RULE_COUNT ? names[r] : "?";
}

static int64_t limit(int64_t value, int64_t most) { return most > 0 ? least(value, most) : value; }

/* Ways, shots and queries of the rules fixed and cdfsl. */
static hn_status settle_fixed(const hn_episode_source *s, hn_episode_options *o)
{
    if (o->way_max == 0) o->way_max = o->way_min;
    if (o->shot_max == 0) o->shot_max = o->shot_min;
    if (o->way_min < 2 || o->way_max < o->way_min || o->shot_min < 1 || o->shot_max < o->shot_min ||
        o->query < 1 || o->shot_max > INT32_MAX || o->query > INT32_MAX)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: episodes of %" PRId64 "..%" PRId64 " ways, %" PRId64 "..%" PRId64
                       " shots and %" PRId64 " queries a class: at least 2 ways, 1 shot and 1 "
                       "query, and ranges that rise",
                       s->name, o->way_min, o->way_max, o->shot_min, o->shot_max, o->query);
    if (o->way_max > s->n)
        return HN_FAIL(HN_ERR_ARG, "%s: %" PRId64 "-way episodes, but it has %d classes", s->name,
                       o->way_max, (int)s->n);
    o->way_max = limit(o->way_max, o->max_way);
    if (o->way_max < o->way_min)
        return HN_FAIL(HN_ERR_ARG, "%s: %" PRId64 "-way episodes do not fit into %" PRId64 " ways",
                       s->name, o->way_min, o->max_way);
    if (o->max_support > 0 && o->max_support / o->way_max < o->shot_min)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: %" PRId64 " ways of %" PRId64 " shot(s) do not fit into %" PRId64
                       " support images",
                       s->name, o->way_max, o->shot_min, o->max_support);
    if (o->max_query > 0 && o->max_query / o->way_max < o->query)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: %" PRId64 " ways of %" PRId64 " queries do not fit into %" PRId64
                       " query images",
                       s->name, o->way_max, o->query, o->max_query);
    if (o->max_support > 0) o->shot_max = least(o->shot_max, o->max_support / o->way_min);
    for (int32_t k = 0; k < s->n; k++)
        if (hn_source_images_of(s, k) < o->shot_max + o->query)
            return HN_FAIL(HN_ERR_ARG,
                           "%s: class '%s' has %" PRId64 " image(s), fewer than %" PRId64
                           " for the support and %" PRId64 " as queries",
                           s->name, hn_image_set_view(s->images)->class_name[s->classes[k]],
                           hn_source_images_of(s, k), o->shot_max, o->query);
    return HN_OK;
}

static int32_t group_size(const hn_episode_source *s, int32_t g)
{
    return s->group_first[g + 1] - s->group_first[g];
}

static hn_status settle_meta(const hn_episode_source *s, hn_episode_options *o, int32_t *group,
                             int32_t *n_usable)
{
    int64_t most = s->n_groups > 0 ? 0 : s->n;
    for (int32_t g = 0; g < s->n_groups; g++) {
        if (group_size(s, g) < META_WAY_MIN) continue;
        group[(*n_usable)++] = g;
        if (group_size(s, g) > most) most = group_size(s, g);
    }
    if (most < META_WAY_MIN)
        return HN_FAIL(
            HN_ERR_ARG, "%s: Meta-Dataset's episodes have %d ways at least; it has %d classes%s",
            s->name, META_WAY_MIN, (int)s->n, s->n_groups > 0 ? ", and no group of as many" : "");
    for (int32_t k = 0; k < s->n; k++)
        if (hn_source_images_of(s, k) < 2)
            return HN_FAIL(HN_ERR_ARG, "%s: class '%s' has a single image: 2 at least", s->name,
                           hn_image_set_view(s->images)->class_name[s->classes[k]]);
    o->way_min = META_WAY_MIN;
    o->way_max = limit(limit(limit(META_WAY_MAX, o->max_way), o->max_support), o->max_query);
    if (o->way_max < META_WAY_MIN)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: Meta-Dataset's episodes of %d ways do not fit into the limits: %" PRId64
                       " ways, %" PRId64 " support and %" PRId64 " query images (0: none)",
                       s->name, META_WAY_MIN, o->max_way, o->max_support, o->max_query);
    o->way_max = least(o->way_max, most);
    o->query = META_QUERY;
    o->max_support = limit(META_SUPPORT, o->max_support);
    return HN_OK;
}

static hn_status check_unread(const hn_episode_source *s, const hn_episode_options *o)
{
    const bool fixed = o->rule == HN_EPISODE_FIXED, meta = o->rule == HN_EPISODE_META;
    if ((unsigned)o->rule >= HN_EPISODE_RULE_COUNT)
        return HN_FAIL(HN_ERR_ARG, "rule %d of episodes", (int)o->rule);
    if (o->max_way < 0 || o->max_support < 0 || o->max_query < 0)
        return HN_FAIL(HN_ERR_ARG, "%s: a limit of an episode is below 0", s->name);
    if ((!fixed && (o->way_min != 0 || o->way_max != 0 || o->query != 0)) ||
        (meta && (o->shot_min != 0 || o->shot_max != 0)))
        return HN_FAIL(HN_ERR_ARG,
                       "%s: ways and queries are those of the rule '%s'%s: they cannot be given",
                       s->name, hn_episode_rule_name(o->rule), meta ? ", and so are shots" : "");
    if (o->rule == HN_EPISODE_CDFSL && o->shot_max != 0 && o->shot_max != o->shot_min)
        return HN_FAIL(HN_ERR_ARG, "%s: CDFSL's episodes have one number of shots", s->name);
    if (s->n == 1)
        return HN_FAIL(HN_ERR_ARG, "%s: one class only ('%s'): nothing to tell apart", s->name,
                       hn_image_set_view(s->images)->class_name[s->classes[0]]);
    return HN_OK;
}

/* ---- the largest episode ---- */

static int64_t meta_query_of(const hn_episode_options *o, int64_t way)
{
    return o->max_query > 0 ? least(o->query, o->max_query / way) : o->query;
}

static int falling(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* What the classes can contribute to the support, where each gives one query at least. */
static hn_status meta_sizes(hn_episode_sampler *p)
{
    const hn_episode_source *s = p->source;
    int64_t *share = hn_malloc((size_t)s->n * sizeof *share), sum = 0;
    if (share == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %d classes", (int)s->n);
    for (int32_t k = 0; k < s->n; k++) share[k] = least(META_SHARE, hn_source_images_of(s, k) - 1);
    qsort(share, (size_t)s->n, sizeof *share, falling);
    for (int64_t k = 0; k < p->o.way_max; k++) sum += share[k];
    hn_free(share);
    p->sizes.support = least(sum, p->o.max_support);
    for (int64_t way = p->o.way_min; way <= p->o.way_max; way++) {
        const int64_t query = way * meta_query_of(&p->o, way);
        if (query > p->sizes.query) p->sizes.query = query;
    }
    return HN_OK;
}

static int64_t fixed_shot_max(const hn_episode_options *o, int64_t way)
{
    return o->max_support > 0 ? least(o->shot_max, o->max_support / way) : o->shot_max;
}

static hn_status settle_sizes(hn_episode_sampler *p)
{
    p->sizes.way = p->o.way_max;
    if (p->o.rule == HN_EPISODE_META) return meta_sizes(p);
    for (int64_t way = p->o.way_min; way <= p->o.way_max; way++) {
        const int64_t support = way * fixed_shot_max(&p->o, way);
        if (support > p->sizes.support) p->sizes.support = support;
    }
    p->sizes.query = p->o.way_max * p->o.query;
    if (p->sizes.support > INT32_MAX || p->sizes.query > INT32_MAX)
        return HN_FAIL(HN_ERR_ARG, "%s: an episode of %" PRId64 " and %" PRId64 " images",
                       p->source->name, p->sizes.support, p->sizes.query);
    return HN_OK;
}

/* ---- what a run record keeps ---- */

/* "5" or "5..20" */
static const char *range(char *text, size_t n, int64_t from, int64_t to)
{
    if (from == to)
        snprintf(text, n, "%" PRId64, from);
    else
        snprintf(text, n, "%" PRId64 "..%" PRId64, from, to);
    return text;
}

/* given: the options as they came; their limits are named where they change what is drawn */
static hn_status describe(hn_episode_sampler *p, const hn_episode_options *given)
{
    const hn_episode_options *o = &p->o;
    const bool limited = given->max_way > 0 || given->max_support > 0 || given->max_query > 0;
    char ways[48], shots[48], limits[128] = "";
    range(ways, sizeof ways, o->way_min, o->way_max);
    range(shots, sizeof shots, o->shot_min, o->shot_max);
    if (limited)
        snprintf(limits, sizeof limits,
                 ", limited to %" PRId64 " ways, %" PRId64 " support and %" PRId64 " query images",
                 p->sizes.way, p->sizes.support, p->sizes.query);
    if (o->rule == HN_EPISODE_META)
        p->text =
            hn_asprintf("%s: Meta-Dataset's episodes, %s-way%s%s, seed %" PRIu64, p->source->name,
                        ways, p->n_usable > 0 ? " out of one group" : "", limits, o->seed);
    else
        p->text = hn_asprintf("%s: %s%s-way %s-shot, %" PRId64 " queries a class%s, seed %" PRIu64,
                              p->source->name, o->rule == HN_EPISODE_CDFSL ? "CDFSL, " : "", ways,
                              shots, o->query, limits, o->seed);
    char *all = hn_asprintf(
        "hone episodes 1\n%s\nmeta %d seed %" PRIu64 " way %" PRId64 " %" PRId64 " shot %" PRId64
        " %" PRId64 " query %" PRId64 " most %" PRId64 " %" PRId64 "\n",
        p->source->digest, o->rule == HN_EPISODE_META, o->seed, o->way_min, o->way_max, o->shot_min,
        o->shot_max, o->query, o->max_support, o->max_query);
    hn_status st = HN_OK;
    if (p->text == NULL || all == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for a text");
    else
        st = hn_sha256(all, strlen(all), p->digest);
    hn_free(all);
    return st;
}

/* ---- samplers ---- */

hn_status hn_episode_sampler_make(const hn_episode_source *source, const hn_episode_options *o,
                                  hn_episode_sampler **out)
{
    hn_status st = HN_OK;
    HN_TRY(check_unread(source, o));
    hn_episode_sampler *p = hn_calloc(1, sizeof *p);
    if (p != NULL) p->group = hn_malloc(((size_t)source->n_groups + 1) * sizeof *p->group);
    if (p == NULL || p->group == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for a sampler of episodes");
        goto done;
    }
    p->source = source;
    p->o = *o;
    p->stream = hn_hash_name("data.episodes") ^ hn_hash_name(source->name);
    if (o->rule == HN_EPISODE_CDFSL) {
        p->o.way_min = CDFSL_WAY;
        p->o.query = CDFSL_QUERY;
    }
    HN_TRY_GOTO(st,
                o->rule == HN_EPISODE_META ? settle_meta(source, &p->o, p->group, &p->n_usable)
                                           : settle_fixed(source, &p->o),
                done);
    HN_TRY_GOTO(st, settle_sizes(p), done);
    HN_TRY_GOTO(st, describe(p, o), done);
    *out = p;
    p = NULL;

done:
    hn_episode_sampler_free(p);
    return st;
}

void hn_episode_sampler_free(hn_episode_sampler *s)
{
    if (s == NULL) return;
    hn_free(s->group);
    hn_free(s->text);
    hn_free(s);
}

hn_episode_sizes hn_episode_sampler_sizes(const hn_episode_sampler *s) { return s->sizes; }
const char *hn_episode_sampler_text(const hn_episode_sampler *s) { return s->text; }
const char *hn_episode_sampler_digest(const hn_episode_sampler *s) { return s->digest; }

/* ---- drawing ---- */

/* Rows of the counter; the images of label k are row OF_IMAGES + k. */
enum { OF_WAY, OF_SHOT, OF_GROUP, OF_CLASSES, OF_BETA, OF_WEIGHTS, OF_IMAGES = 16 };

static int64_t between(hn_rng rng, uint64_t row, int64_t from, int64_t to)
{
    return from + (int64_t)hn_rng_below(rng, row, 0, (uint64_t)(to - from + 1));
}

/* In [0, 1), a multiple of 2^-53. */
static double unit(hn_rng rng, uint64_t row, uint32_t block)
{
    uint32_t w[4];
    hn_rng_block(rng, row, block, w);
    return (double)((uint64_t)w[0] << 21 | w[1] >> 11) * 0x1p-53;
}

/* k different numbers below n, every list with the same probability: Bentley and Floyd, "A sample
 * of brilliance", CACM 30(9), 1987, algorithm P. */
static void choose(hn_rng rng, uint64_t row, int64_t n, int32_t k, int32_t *out)
{
    for (int32_t m = 0; m < k; m++) {
        const int32_t last = (int32_t)(n - k + m);
        const int32_t t = (int32_t)hn_rng_below(rng, row, (uint32_t)m, (uint64_t)last + 1);
        int32_t at = 0;
        while (at < m && out[at] != t) at++;
        const bool taken = at < m;
        const int32_t to = taken ? at + 1 : 0; /* behind it, or in front of all */
        memmove(out + to + 1, out + to, (size_t)(m - to) * sizeof *out);
        out[to] = taken ? last : t;
    }
}

/* Images of class k (a place in the source) as the next label's. */
static void add_class(const hn_episode_sampler *p, hn_rng rng, int32_t k, int64_t shots,
                      int64_t queries, hn_episode *e)
{
    const hn_episode_source *s = p->source;
    const int32_t *image = s->image + s->first[k], label = e->way++;
    choose(rng, OF_IMAGES + (uint64_t)label, hn_source_images_of(s, k), (int32_t)(shots + queries),
           e->drawn);
    for (int64_t i = 0; i < shots; i++, e->n_support++) {
        e->support[e->n_support] = image[e->drawn[i]];
        e->support_label[e->n_support] = label;
    }
    for (int64_t i = 0; i < queries; i++, e->n_query++) {
        e->query[e->n_query] = image[e->drawn[shots + i]];
        e->query_label[e->n_query] = label;
    }
}

static void draw_fixed(const hn_episode_sampler *p, hn_rng rng, hn_episode *e)
{
    const hn_episode_options *o = &p->o;
    const int64_t way = between(rng, OF_WAY, o->way_min, o->way_max);
    const int64_t shots = between(rng, OF_SHOT, o->shot_min, fixed_shot_max(o, way));
    choose(rng, OF_CLASSES, p->source->n, (int32_t)way, e->classes);
    for (int64_t k = 0; k < way; k++) add_class(p, rng, e->classes[k], shots, o->query, e);
}

/* The classes of an episode, by their places in the source. */
static int64_t meta_classes(const hn_episode_sampler *p, hn_rng rng, int32_t *class)
{
    const hn_episode_source *s = p->source;
    const int32_t *from = NULL;
    int64_t n = s->n;
    if (p->n_usable > 0) {
        const int32_t g = p->group[between(rng, OF_GROUP, 0, p->n_usable - 1)];
        from = s->group_class + s->group_first[g];
        n = group_size(s, g);
    }
    const int64_t way = between(rng, OF_WAY, p->o.way_min, least(p->o.way_max, n));
    choose(rng, OF_CLASSES, n, (int32_t)way, class);
    for (int64_t k = 0; from != NULL && k < way; k++) class[k] = from[class[k]];
    return way;
}

static void draw_meta(const hn_episode_sampler *p, hn_rng rng, hn_episode *e)
{
    static const double half = -0.6931471805599453, twice = 0.6931471805599453; /* ln 0.5, ln 2 */
    int64_t images[META_WAY_MAX], shots[META_WAY_MAX];
    double log_weight[META_WAY_MAX];
    const int64_t way = meta_classes(p, rng, e->classes);
    for (int64_t k = 0; k < way; k++) {
        images[k] = hn_source_images_of(p->source, e->classes[k]);
        log_weight[k] = half + (twice - half) * unit(rng, OF_WEIGHTS, (uint32_t)k);
    }
    const int64_t query = hn_meta_query(images, way, meta_query_of(&p->o, way));
    const double beta = unit(rng, OF_BETA, 0);
    const int64_t support = hn_meta_support(images, way, query, beta, p->o.max_support);
    hn_meta_shots(images, log_weight, way, query, support, shots);
    for (int64_t k = 0; k < way; k++) add_class(p, rng, e->classes[k], shots[k], query, e);
}

hn_status hn_episode_draw(const hn_episode_sampler *s, int64_t number, hn_episode *out)
{
    if (number < 0 || number > MAX_NUMBER)
        return HN_FAIL(HN_ERR_ARG, "%s: episode %" PRId64 ": 0..%" PRId64, s->source->name, number,
                       MAX_NUMBER);
    if (out->max_way < s->sizes.way || out->max_support < s->sizes.support ||
        out->max_query < s->sizes.query)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: an episode has up to %" PRId64 " ways, %" PRId64 " support and %" PRId64
                       " query images; there is room for %d, %d and %d",
                       s->source->name, s->sizes.way, s->sizes.support, s->sizes.query,
                       (int)out->max_way, (int)out->max_support, (int)out->max_query);
    const hn_rng rng = hn_rng_make(s->o.seed, (uint64_t)number, s->stream);
    out->number = number;
    out->way = out->n_support = out->n_query = 0;
    if (s->o.rule == HN_EPISODE_META)
        draw_meta(s, rng, out);
    else
        draw_fixed(s, rng, out);
    for (int32_t k = 0; k < out->way; k++) out->classes[k] = s->source->classes[out->classes[k]];
    hn_episode_pad(out);
    return HN_OK;
}

void hn_episode_sampler_report(const hn_episode_sampler *s, const hn_log *log)
{
    const hn_episode_source *d = s->source;
    int64_t low = INT64_MAX, high = 0;
    for (int32_t k = 0; k < d->n; k++) {
        const int64_t n = hn_source_images_of(d, k);
        low = least(low, n);
        if (n > high) high = n;
    }
    hn_info(log, "%s", s->text);
    hn_info(log,
            "  %d classes of %" PRId64 "..%" PRId64 " images, up to %" PRId64
            " support and %" PRId64 " query images an episode",
            (int)d->n, low, high, s->sizes.support, s->sizes.query);
    if (s->n_usable == 0) return;
    int32_t out = 0;
    for (int32_t g = 0; g < d->n_groups; g++)
        if (group_size(d, g) < META_WAY_MIN) out += group_size(d, g);
    hn_info(log, "  %d groups", (int)s->n_usable);
    if (out == 0) return;
    hn_warn(log, "%s: %d of its %d classes are in no episode: a group has %d at least", d->name,
            (int)out, (int)d->n, META_WAY_MIN);
    for (int32_t g = 0; g < d->n_groups; g++)
        if (group_size(d, g) < META_WAY_MIN)
            hn_warn(log, "  group '%s' has %d class(es), fewer than %d: it is left out",
                    d->group_name[g], (int)group_size(d, g), META_WAY_MIN);
}
