#include "runtime/data/class_split.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/mapfile.h"
#include "runtime/base/rng.h"
#include "runtime/data/data_util.h"

/* ---- groups ---- */

void hn_class_groups_free(hn_class_groups *g)
{
    if (g == NULL) return;
    for (int32_t i = 0; g->name != NULL && i < g->n; i++) hn_free(g->name[i]);
    hn_free(g->name);
    hn_free(g->of_class);
    *g = (hn_class_groups){0};
}

/* Class c is of the group of this name, which is new if no class before is of it. */
static hn_status put_in_group(hn_class_groups *g, int32_t c, const char *name, size_t n)
{
    int32_t k = g->n - 1; /* most often that of the class before */
    while (k >= 0 && !(strncmp(g->name[k], name, n) == 0 && g->name[k][n] == '\0')) k--;
    if (k < 0) {
        enum { MOST = 4096 };
        k = g->n;
        if (k == MOST) return HN_FAIL(HN_ERR_ARG, "more than %d groups of classes", MOST);
        g->name[k] = hn_strndup(name, n);
        if (g->name[k] == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
        g->n++;
    }
    g->of_class[c] = k;
    return HN_OK;
}

static hn_status group_by_superclass(const hn_image_set *s, const int32_t *super,
                                     const char *const *super_name, hn_class_groups *g)
{
    const hn_images *v = hn_image_set_view(s);
    for (int32_t c = 0; c < v->n_classes; c++) {
        if (super[c] < 0)
            return HN_FAIL(HN_ERR_ARG, "%s: class '%s' %s: it has no superclass",
                           hn_image_set_name(s), v->class_name[c],
                           super[c] == HN_SUPERCLASS_MIXED ? "has images of several superclasses"
                                                           : "has no image");
        HN_TRY(put_in_group(g, c, super_name[super[c]], strlen(super_name[super[c]])));
    }
    return HN_OK;
}

static hn_status group_by_name(const hn_image_set *s, hn_class_groups *g)
{
    const hn_images *v = hn_image_set_view(s);
    for (int32_t c = 0; c < v->n_classes; c++) {
        const char *slash = strchr(v->class_name[c], '/');
        if (slash == NULL || slash == v->class_name[c])
            return HN_FAIL(HN_ERR_ARG,
                           "%s: class '%s' is in no group: groups are the superclasses of "
                           "CIFAR-100, or what stands before the / in the name of a class",
                           hn_image_set_name(s), v->class_name[c]);
        HN_TRY(put_in_group(g, c, v->class_name[c], (size_t)(slash - v->class_name[c])));
    }
    return HN_OK;
}

hn_status hn_class_groups_make(const hn_image_set *s, hn_class_groups *out)
{
    const int32_t n = hn_image_set_view(s)->n_classes, *super = NULL;
    const char *const *super_name = NULL;
    hn_class_groups g = {.n_classes = n};
    g.name = hn_calloc((size_t)n, sizeof *g.name);
    g.of_class = hn_calloc((size_t)n, sizeof *g.of_class);
    hn_status st = HN_OK;
    if (g.name == NULL || g.of_class == NULL)
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for groups of %d classes", (int)n);
    else if (hn_image_set_superclasses(s, &super, &super_name) > 0)
        st = group_by_superclass(s, super, super_name, &g);
    else
        st = group_by_name(s, &g);
    if (st == HN_OK)
        *out = g;
    else
        hn_class_groups_free(&g);
    return st;
}

/* ---- rules ---- */

static const char *const part_names[] = {"train", "valid", "test"};

const char *hn_part_name(hn_part p) { return (unsigned)p < HN_PART_COUNT ? part_names[p] : "?"; }

const char *hn_class_split_rule_name(hn_class_split_rule r)
{
    static const char *const names[] = {
#define X(id, name) name,
        HN_CLASS_SPLIT_LIST(X)
#undef X
    };
    return (unsigned)r < HN_CLASS_SPLIT_COUNT ? names[r] : "?";
}

static hn_status split_by_counts(const hn_image_set *s, const hn_class_split_options *o,
                                 int8_t *part)
{
    const int64_t n = hn_image_set_view(s)->n_classes;
    const int64_t train = o->count[HN_PART_TRAIN], valid = o->count[HN_PART_VALID];
    const int64_t test = o->count[HN_PART_TEST];
    if (train < 1 || valid < 0 || test < 0 || train > n || valid > n || test > n ||
        train + valid + test > n)
        return HN_FAIL(HN_ERR_ARG,
                       "%s has %" PRId64 " classes, which cannot be split into %" PRId64
                       " for training (1 at least), %" PRId64 " for validation and %" PRId64
                       " for testing",
                       hn_image_set_name(s), n, train, valid, test);
    int32_t *order = hn_malloc((size_t)n * sizeof *order);
    if (order == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %" PRId64 " classes", n);
    const hn_rng rng = hn_rng_make(o->seed, 0, hn_hash_name("data.class_split"));
    for (int64_t i = 0; i < n; i++) { /* Fisher and Yates, from the inside out */
        const int64_t k = (int64_t)hn_rng_below(rng, (uint64_t)i, 0, (uint64_t)i + 1);
        order[i] = order[k];
        order[k] = (int32_t)i;
    }
    for (int64_t i = 0; i < train + valid + test; i++)
        part[order[i]] = i < train           ? HN_PART_TRAIN
                         : i < train + valid ? HN_PART_VALID
                                             : HN_PART_TEST;
    hn_free(order);
    return HN_OK;
}

/* "train <name>" without its end of line. */
static hn_status read_line(const hn_image_set *s, const char *line, const char *path,
                           int64_t number, int8_t *part)
{
    for (int p = 0; p < HN_PART_COUNT; p++) {
        const size_t n = strlen(part_names[p]);
        if (strncmp(line, part_names[p], n) != 0 || line[n] != ' ') continue;
        const char *name = line + n + 1;
        const int32_t c = hn_image_set_class(s, name);
        if (c < 0)
            return HN_FAIL(HN_ERR_ARG, "%s:%" PRId64 ": class '%s' is not in %s", path, number,
                           name, hn_image_set_name(s));
        if (part[c] >= 0)
            return HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": class '%s' is in a line before: %s",
                           path, number, name, part_names[part[c]]);
        part[c] = (int8_t)p;
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_FORMAT,
                   "%s:%" PRId64 ": '%.60s': a line is 'train', 'valid' or 'test', a blank and the "
                   "name of a class",
                   path, number, line);
}

static hn_status split_by_file(const hn_image_set *s, const char *path, int8_t *part)
{
    hn_mapfile m = {0};
    hn_status st = HN_OK;
    HN_TRY(hn_mapfile_open(path, &m));
    const char *at = m.data ? (const char *)m.data : "", *end = at + m.size;
    for (int64_t number = 1; st == HN_OK && at < end; number++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (stop == NULL) stop = end;
        size_t n = (size_t)(stop - at);
        if (n > 0 && at[n - 1] == '\r') n--;
        if (memchr(at, '\0', n) != NULL) {
            st = HN_FAIL(HN_ERR_FORMAT, "%s:%" PRId64 ": a zero byte: not a text", path, number);
        } else if (n > 0 && *at != '#') {
            char *line = hn_strndup(at, n);
            st = line ? read_line(s, line, path, number, part)
                      : HN_FAIL(HN_ERR_MEMORY, "no memory for a line");
            hn_free(line);
        }
        at = stop + 1;
    }
    hn_mapfile_close(&m);
    return st;
}

/* The group that text[0 .. n) names; by number where no name fits. */
static hn_status find_group(const hn_image_set *s, const hn_class_groups *g, const char *text,
                            size_t n, int32_t *out)
{
    char number[16];
    while (n > 0 && *text == ' ') text++, n--;
    while (n > 0 && text[n - 1] == ' ') n--;
    for (int pass = 0; pass < 2; pass++)
        for (int32_t k = 0; k < g->n; k++) {
            if (pass == 1) snprintf(number, sizeof number, "%d", (int)k);
            const char *name = pass == 0 ? g->name[k] : number;
            if (strncmp(name, text, n) == 0 && name[n] == '\0') {
                *out = k;
                return HN_OK;
            }
        }
    return HN_FAIL(HN_ERR_ARG, "%s has no group '%.*s': %d groups, '%s' to '%s'",
                   hn_image_set_name(s), (int)n, text, (int)g->n, g->name[0], g->name[g->n - 1]);
}

static hn_status split_by_groups(const hn_image_set *s, const hn_class_split_options *o,
                                 int8_t *part)
{
    hn_class_groups g = {0};
    hn_status st = HN_OK;
    HN_TRY(hn_class_groups_make(s, &g));
    int8_t *of = hn_calloc((size_t)g.n, sizeof *of); /* HN_PART_TRAIN is 0 */
    if (of == NULL) st = HN_FAIL(HN_ERR_MEMORY, "no memory for groups");
    for (int p = HN_PART_VALID; p <= HN_PART_TEST; p++)
        for (const char *at = p == HN_PART_VALID ? o->valid : o->test; at != NULL && st == HN_OK;) {
            const size_t n = strcspn(at, ",");
            int32_t k = 0;
            st = find_group(s, &g, at, n, &k);
            if (st == HN_OK && of[k] != HN_PART_TRAIN)
                st = HN_FAIL(HN_ERR_ARG, "group '%s' is named twice", g.name[k]);
            if (st == HN_OK) of[k] = (int8_t)p;
            at = at[n] == ',' ? at + n + 1 : NULL;
        }
    for (int32_t c = 0; st == HN_OK && c < g.n_classes; c++) part[c] = of[g.of_class[c]];
    hn_free(of);
    hn_class_groups_free(&g);
    return st;
}

static hn_status split_by_parts(const hn_image_set *s, int8_t *part)
{
    const hn_images *v = hn_image_set_view(s);
    if (v->n_parts != 2 && v->n_parts != 3)
        return HN_FAIL(HN_ERR_ARG,
                       "%s: %d data set(s): parts are data sets joined by +, train+test or "
                       "train+valid+test",
                       hn_image_set_name(s), v->n_parts);
    for (int k = 0; k < v->n_parts; k++)
        for (int32_t c = v->part_class[k]; c < v->part_class[k + 1]; c++)
            part[c] = (int8_t)(k == v->n_parts - 1 ? HN_PART_TEST : k);
    return HN_OK;
}

/* ---- the split ---- */

static hn_status check_options(const hn_class_split_options *o)
{
    const bool counts = o->count[0] != 0 || o->count[1] != 0 || o->count[2] != 0;
    const bool lists = o->valid != NULL || o->test != NULL;
    const hn_class_split_rule r = o->rule;
    if ((unsigned)r >= HN_CLASS_SPLIT_COUNT)
        return HN_FAIL(HN_ERR_ARG, "rule %d of a class split", (int)r);
    if ((counts && r != HN_CLASS_SPLIT_COUNTS) || (lists && r != HN_CLASS_SPLIT_GROUPS) ||
        (o->file != NULL) != (r == HN_CLASS_SPLIT_FILE) || (!lists && r == HN_CLASS_SPLIT_GROUPS))
        return HN_FAIL(HN_ERR_ARG,
                       "class split by '%s': counts go with 'counts', a file with 'file', lists of "
                       "groups (one at least) with 'groups'",
                       hn_class_split_rule_name(r));
    return HN_OK;
}

static hn_status fill(const hn_image_set *s, const hn_class_split_options *o, int8_t *part)
{
    const int32_t n = hn_image_set_view(s)->n_classes;
    switch (o->rule) {
    case HN_CLASS_SPLIT_COUNTS: return split_by_counts(s, o, part);
    case HN_CLASS_SPLIT_FILE: return split_by_file(s, o->file, part);
    case HN_CLASS_SPLIT_GROUPS: return split_by_groups(s, o, part);
    case HN_CLASS_SPLIT_PARTS: return split_by_parts(s, part);
    default: memset(part, HN_PART_TEST, (size_t)n); return HN_OK;
    }
}

/* Lists of classes, and the digest: "<name>\0<part>\0" of class after class. */
static hn_status settle(const hn_image_set *s, const hn_class_split_options *o, hn_class_split *c)
{
    const hn_images *v = hn_image_set_view(s);
    static const char head[] = "hone class split 1";
    size_t bytes = sizeof head;
    for (int32_t i = 0; i < v->n_classes; i++) {
        if (c->part[i] >= 0) c->n[c->part[i]]++;
        bytes += strlen(v->class_name[i]) + 2;
    }
    if (o->rule != HN_CLASS_SPLIT_ALL && c->n[HN_PART_TRAIN] == 0)
        return HN_FAIL(HN_ERR_ARG, "%s: the class split by %s leaves no class for training",
                       hn_image_set_name(s), hn_class_split_rule_name(o->rule));
    for (int p = 0; p < HN_PART_COUNT; p++) {
        if (c->n[p] == 0) continue;
        c->classes[p] = hn_malloc((size_t)c->n[p] * sizeof *c->classes[p]);
        if (c->classes[p] == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for classes");
        for (int32_t i = 0, k = 0; i < v->n_classes; i++)
            if (c->part[i] == p) c->classes[p][k++] = i;
    }
    char *text = hn_malloc(bytes);
    if (text == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a digest");
    size_t at = sizeof head;
    memcpy(text, head, sizeof head);
    for (int32_t i = 0; i < v->n_classes; i++) {
        const size_t n = strlen(v->class_name[i]) + 1;
        memcpy(text + at, v->class_name[i], n);
        at += n;
        text[at++] = (char)c->part[i];
    }
    const hn_status st = hn_sha256(text, at, c->digest);
    hn_free(text);
    return st;
}

hn_status hn_class_split_make(const hn_image_set *s, const hn_class_split_options *o,
                              hn_class_split *out)
{
    hn_class_split c = {.n_classes = hn_image_set_view(s)->n_classes};
    hn_status st = HN_OK;
    HN_TRY(check_options(o));
    c.part = hn_malloc((size_t)c.n_classes);
    if (c.part == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for %d classes", c.n_classes);
    memset(c.part, -1, (size_t)c.n_classes);
    HN_TRY_GOTO(st, fill(s, o, c.part), done);
    HN_TRY_GOTO(st, settle(s, o, &c), done);
    *out = c;
    c = (hn_class_split){0};

done:
    hn_class_split_free(&c);
    return st;
}

void hn_class_split_free(hn_class_split *c)
{
    if (c == NULL) return;
    hn_free(c->part);
    for (int p = 0; p < HN_PART_COUNT; p++) hn_free(c->classes[p]);
    *c = (hn_class_split){0};
}

void hn_class_split_report(const hn_class_split *c, const hn_image_set *s, const hn_log *log)
{
    enum { SHOWN = 5 };
    const hn_images *v = hn_image_set_view(s);
    const int32_t used = c->n[HN_PART_TRAIN] + c->n[HN_PART_VALID] + c->n[HN_PART_TEST];
    hn_info(log, "classes: %d for training, %d for validation, %d for testing, %d not used",
            (int)c->n[HN_PART_TRAIN], (int)c->n[HN_PART_VALID], (int)c->n[HN_PART_TEST],
            (int)(c->n_classes - used));
    for (int p = 0; p < HN_PART_COUNT; p++) {
        char list[256] = "";
        size_t at = 0;
        int32_t shown = 0;
        for (; shown < c->n[p] && shown < SHOWN; shown++) {
            const int m = snprintf(list + at, sizeof list - at, "%s%s", shown ? ", " : "",
                                   v->class_name[c->classes[p][shown]]);
            if (m < 0 || (size_t)m >= sizeof list - at) {
                list[at] = '\0'; /* a long name: up to the one before */
                break;
            }
            at += (size_t)m;
        }
        if (c->n[p] > 0)
            hn_info(log, "  %s: %s%s", part_names[p], list, shown < c->n[p] ? ", ..." : "");
    }
}
