/* The classes of a domain, the images of each, and the groups of the classes. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "runtime/data/data_util.h"
#include "runtime/data/episodes_impl.h"

void hn_episode_source_free(hn_episode_source *s)
{
    if (s == NULL) return;
    for (int32_t g = 0; s->group_name != NULL && g < s->n_groups; g++) hn_free(s->group_name[g]);
    hn_free(s->group_name);
    hn_free(s->group_first);
    hn_free(s->group_class);
    hn_free(s->classes);
    hn_free(s->first);
    hn_free(s->image);
    hn_free(s->name);
    hn_free(s);
}

/* place[c]: of class c among the source's, which rise; -1: not one of them. */
static hn_status place_classes(const hn_image_set *set, const char *name, const int32_t *classes,
                               int32_t n, const int64_t *count, int32_t *place)
{
    const hn_images *v = hn_image_set_view(set);
    for (int32_t c = 0; c < v->n_classes; c++) place[c] = classes == NULL && count[c] > 0 ? 0 : -1;
    for (int32_t i = 0; classes != NULL && i < n; i++) {
        const int32_t c = classes[i];
        if (c < 0 || c >= v->n_classes)
            return HN_FAIL(HN_ERR_ARG, "%s: class %d is not in %s, which has %d", name, (int)c,
                           hn_image_set_name(set), (int)v->n_classes);
        if (place[c] >= 0)
            return HN_FAIL(HN_ERR_ARG, "%s: class '%s' is named twice", name, v->class_name[c]);
        if (count[c] == 0)
            return HN_FAIL(HN_ERR_ARG, "%s: class '%s' has no image", name, v->class_name[c]);
        place[c] = 0;
    }
    int32_t k = 0;
    for (int32_t c = 0; c < v->n_classes; c++)
        if (place[c] >= 0) place[c] = k++;
    return k > 0 ? HN_OK : HN_FAIL(HN_ERR_ARG, "%s: not a single class", name);
}

static hn_status list_images(const int32_t *place, const int64_t *count, hn_episode_source *s)
{
    const hn_images *v = hn_image_set_view(s->images);
    int64_t total = 0;
    for (int32_t c = 0; c < v->n_classes; c++)
        if (place[c] >= 0) s->n++, total += count[c];
    s->classes = hn_malloc((size_t)s->n * sizeof *s->classes);
    s->first = hn_calloc((size_t)s->n + 1, sizeof *s->first);
    s->image = hn_malloc((size_t)total * sizeof *s->image);
    if (s->classes == NULL || s->first == NULL || s->image == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%s: no memory for %" PRId64 " images", s->name, total);
    for (int32_t c = 0; c < v->n_classes; c++)
        if (place[c] >= 0) {
            s->classes[place[c]] = c;
            s->first[place[c] + 1] = s->first[place[c]] + count[c];
        }
    /* first[k] runs to the end of class k while it is filled, and is put back after */
    for (int64_t i = 0; i < v->count; i++) {
        const int32_t k = place[v->label[i]];
        if (k >= 0) s->image[s->first[k]++] = (int32_t)i;
    }
    memmove(s->first + 1, s->first, (size_t)s->n * sizeof *s->first);
    s->first[0] = 0;
    return HN_OK;
}

/* Groups without a class of the source are dropped; the others keep their order. */
static hn_status list_groups(const hn_class_groups *g, hn_episode_source *s)
{
    if (g == NULL) return HN_OK;
    if (g->n_classes != hn_image_set_view(s->images)->n_classes)
        return HN_FAIL(HN_ERR_ARG, "%s: groups of %d classes for the %d of %s", s->name,
                       (int)g->n_classes, (int)hn_image_set_view(s->images)->n_classes,
                       hn_image_set_name(s->images));
    s->group_name = hn_calloc((size_t)g->n, sizeof *s->group_name);
    s->group_first = hn_calloc((size_t)g->n + 1, sizeof *s->group_first);
    s->group_class = hn_malloc((size_t)s->n * sizeof *s->group_class);
    if (s->group_name == NULL || s->group_first == NULL || s->group_class == NULL)
        return HN_FAIL(HN_ERR_MEMORY, "%s: no memory for groups", s->name);
    int32_t at = 0;
    for (int32_t k = 0; k < g->n; k++) {
        const int32_t from = at;
        for (int32_t i = 0; i < s->n; i++)
            if (g->of_class[s->classes[i]] == k) s->group_class[at++] = i;
        if (at == from) continue;
        s->group_name[s->n_groups] = hn_strdup(g->name[k]);
        if (s->group_name[s->n_groups] == NULL)
            return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
        s->group_first[++s->n_groups] = at;
    }
    return HN_OK;
}

/* Of "<name>\n<digest of the images>\n<class> <group>\n..." */
static hn_status digest(hn_episode_source *s)
{
    const size_t room = strlen(s->name) + HN_SHA256_HEX + 64 + (size_t)s->n * 32;
    char *text = hn_malloc(room);
    int32_t *group = hn_malloc((size_t)s->n * sizeof *group);
    hn_status st = HN_OK;
    if (text == NULL || group == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "no memory for a digest");
    } else {
        for (int32_t i = 0; i < s->n; i++) group[i] = -1;
        for (int32_t g = 0; g < s->n_groups; g++)
            for (int32_t i = s->group_first[g]; i < s->group_first[g + 1]; i++)
                group[s->group_class[i]] = g;
        size_t n = (size_t)snprintf(text, room, "hone episode source 1\n%s\n%s\n", s->name,
                                    hn_image_set_digest(s->images));
        for (int32_t i = 0; i < s->n; i++)
            n += (size_t)snprintf(text + n, room - n, "%d %d\n", (int)s->classes[i], (int)group[i]);
        st = hn_sha256(text, n, s->digest);
    }
    hn_free(group);
    hn_free(text);
    return st;
}

hn_status hn_episode_source_make(const hn_image_set *images, const char *name,
                                 const int32_t *classes, int32_t n, const hn_class_groups *groups,
                                 hn_episode_source **out)
{
    const size_t n_classes = (size_t)hn_image_set_view(images)->n_classes;
    hn_status st = HN_OK;
    hn_episode_source *s = hn_calloc(1, sizeof *s);
    int64_t *count = hn_malloc(n_classes * sizeof *count);
    int32_t *place = hn_malloc(n_classes * sizeof *place);
    if (s != NULL) s->name = hn_strdup(name);
    if (s == NULL || s->name == NULL || count == NULL || place == NULL) {
        st = HN_FAIL(HN_ERR_MEMORY, "%s: no memory for %zu classes", name, n_classes);
        goto done;
    }
    s->images = images;
    hn_image_set_histogram(images, count);
    HN_TRY_GOTO(st, place_classes(images, name, classes, n, count, place), done);
    HN_TRY_GOTO(st, list_images(place, count, s), done);
    HN_TRY_GOTO(st, list_groups(groups, s), done);
    HN_TRY_GOTO(st, digest(s), done);
    *out = s;
    s = NULL;

done:
    hn_episode_source_free(s);
    hn_free(count);
    hn_free(place);
    return st;
}

hn_status hn_episode_source_of_part(const hn_image_set *images, const char *name,
                                    const hn_class_split *split, hn_part part,
                                    const hn_class_groups *groups, hn_episode_source **out)
{
    if ((unsigned)part >= HN_PART_COUNT || split->n[part] == 0)
        return HN_FAIL(HN_ERR_ARG, "%s: the split has no class for '%s'", name, hn_part_name(part));
    char *full = hn_asprintf("%s/%s", name, hn_part_name(part));
    if (full == NULL) return HN_FAIL(HN_ERR_MEMORY, "no memory for a name");
    const hn_status st =
        hn_episode_source_make(images, full, split->classes[part], split->n[part], groups, out);
    hn_free(full);
    return st;
}

const char *hn_episode_source_name(const hn_episode_source *s) { return s->name; }
const char *hn_episode_source_digest(const hn_episode_source *s) { return s->digest; }

int32_t hn_episode_source_classes(const hn_episode_source *s, const int32_t **classes)
{
    *classes = s->classes;
    return s->n;
}
