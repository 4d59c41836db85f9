/* episodes_impl.h - private to episodes*.c: the classes of a domain with their images. */
#ifndef HN_EPISODES_IMPL_H
#define HN_EPISODES_IMPL_H
#include "runtime/data/episodes.h"

#ifdef __cplusplus
extern "C" {
#endif

struct hn_episode_source {
    const hn_image_set *images;
    char *name;
    int32_t n;        /* classes */
    int32_t *classes; /* [n] of the set, rising */
    int64_t *first;   /* [n + 1] */
    int32_t *image;   /* [first[n]] of classes[k]: first[k] .. first[k + 1], rising */

    int32_t n_groups;     /* that have a class here; 0: no groups */
    char **group_name;    /* [n_groups] */
    int32_t *group_first; /* [n_groups + 1] */
    int32_t *group_class; /* [n] places in classes[] */
    char digest[HN_SHA256_HEX];
};

static inline int64_t hn_source_images_of(const hn_episode_source *s, int32_t k)
{
    return s->first[k + 1] - s->first[k];
}

#ifdef __cplusplus
}
#endif
#endif
