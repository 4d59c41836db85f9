/* fedref_subject.h - what a run of hone-fedref is about: a classifier and images, or a segmenter
 * and regions of volumes; for fedref_*.c only.
 *
 * Server, messages, schedule, folder and tables know values, samples that are parted among clients,
 * and a score in [0, 1] of held-out data; they reach the rest through this. */
#ifndef HN_FEDREF_SUBJECT_H
#define HN_FEDREF_SUBJECT_H
#include <stdio.h>

#include "runtime/train/fed_ranks.h"
#include "runtime/train/fedref.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of held-out data. */
typedef struct {
    double score;              /* images: accuracy; volumes: mean Dice of the classes but 0 */
    double loss;               /* images; NaN: volumes */
    double hd95;               /* volumes: mm, mean of the classes but 0; NaN: images */
    const double *class_score; /* [classes] the subject's, until the next call; NaN: it has none */
} hn_fedref_scores;

typedef struct hn_fedref_subject hn_fedref_subject;
struct hn_fedref_subject {
    bool volumes;
    const char *score; /* what it is called in files: "accuracy", "dice" */
    const char *title; /* and for people: "accuracy", "mean Dice" */
    /* Samples that are parted among clients: images of a class, or patches of a site. */
    int64_t samples;
    const char *sample, *kind; /* "images", "classes"; "patches", "sites" */
    const int32_t *label;      /* [samples] class or site */
    int32_t n_labels;
    const char *const *label_name; /* [n_labels] */
    bool grouped;                  /* the labels are the groups of --partition group */
    /* What is measured class by class. */
    int64_t classes, n_class_names;
    const char *const *class_name; /* [n_class_names], the first of them; the others by number */
    int64_t parts;                 /* of a measurement */
    size_t part_bytes;             /* of the record of a part */
    /* What a continuation compares. */
    const char *base_digest, *train_digest, *eval_digest;
    hn_device *device;
    hn_fed_local local; /* what clients do; fisher_images may be set before simulate */
    uint64_t seed;
    const hn_peft_config *peft; /* NULL: no low-rank pairs */
    hn_engine *engine;          /* of one replica, whose values are measured */
    hn_fed_sim *sim;            /* NULL: nothing is trained */
    hn_fed_shares shares;       /* how ranks share its tasks */
    hn_engine *sim_engine;      /* of the simulation, perhaps the same; NULL: it has none */
    size_t stage;               /* bytes on the device that the simulation may take in a round */
    hn_engine **lane;           /* [n_lanes] its further engines, of --lanes */
    int64_t n_lanes;
    const hn_fed_support *support; /* blocks that travel; NULL: none do */

    /* each: clients of a round, which so many ranks share. Sets sim, sim_engine and shares. */
    hn_status (*simulate)(hn_fedref_subject *s, int64_t each, int64_t ranks);
    hn_status (*layout)(const hn_fedref_subject *s, hn_fed_layout *out);
    /* The values that travel, out of the engine and into it. */
    hn_status (*get)(const hn_fedref_subject *s, float *value);
    hn_status (*set)(hn_fedref_subject *s, const float *value);
    int (*stop)(void); /* asked within a long part of a measurement, as in hn_segmenter_blend */
    /* Of the engine's values as they are, in parts that ranks share: a record of each. */
    hn_status (*measure)(hn_fedref_subject *s, int64_t part, void *record);
    /* Of the records of all parts. */
    void (*summarize)(hn_fedref_subject *s, const void *record, hn_fedref_scores *out);
    /* The same for people, class by class; gives the score. */
    double (*print)(hn_fedref_subject *s, int64_t round, const void *record, FILE *to);
    /* What stands beside the weights in the folder of a whole model. */
    hn_status (*write_settings)(const hn_fedref_subject *s, const char *dir);
    void (*free)(hn_fedref_subject *s);
};

HN_NODISCARD hn_status hn_fedref_images_open(const hn_fedref_config *c, const hn_log *log,
                                             hn_fedref_subject **out);
/* trains: false: `simulate` is never called, and there is memory to measure with alone. */
HN_NODISCARD hn_status hn_fedref_volumes_open(const hn_fedref_config *c, bool trains,
                                              const hn_log *log, hn_fedref_subject **out);

/* What class k is called: its number, in `text`, where it has no name. */
enum { HN_FEDREF_CLASS = 24 };
const char *hn_fedref_class(const hn_fedref_subject *s, int64_t k, char text[HN_FEDREF_CLASS]);

#ifdef __cplusplus
}
#endif
#endif
