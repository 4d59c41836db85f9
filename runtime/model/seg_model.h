/* seg_model.h - a network for volumes from disk or by name: configuration, weights, digest.
 *
 *   folder        segmenter.json and model.safetensors, as hn_seg_model_save writes them
 *   *.arch.json   a MeshNet (seg_config.h)
 *   name          one of seg_config.h's, even where a folder without segmenter.json has it, too
 *
 * The last two start from random weights that the seed decides, or from a file of weights that is
 * named besides.
 *
 * segmenter.json   {"format": 1, "architecture": "unet3d-fets", "channels": 1, "classes": 4}; of a
 *                  MeshNet by its layers: {"format": 1, "channels": 1, "layers": [as *.arch.json]}
 */
#ifndef HN_SEG_MODEL_H
#define HN_SEG_MODEL_H
#include <stdbool.h>

#include "runtime/file/safetensors.h"
#include "runtime/model/seg.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HN_SEG_NAMES "unet3d-fets, meshnet5, meshnet20" /* for help and error texts */

/* Whether `path` is what is listed above, by its name or, of a folder, by the file in it; or only
 * looks like a name, which hn_seg_model_open then refuses with the list of them. */
bool hn_seg_model_is(const char *path);

typedef struct {
    const char *path;    /* see above */
    const char *weights; /* safetensors file for a *.arch.json or a name; NULL: random weights */
    int64_t classes;     /* 0: as the name says; of a name only */
    int64_t channels;    /* that volumes have; 0: as the network has it */
} hn_seg_model_options;

/* Zero before the first use. */
typedef struct {
    hn_seg_config config;
    hn_st_file *weights; /* NULL: random */
} hn_seg_model;

/* Every parameter is in the weights with its shape and a float type.
 * channels  a name and a *.arch.json read as many as are asked for (0: one); a folder has its own
 * Errors    HN_ERR_ARG: weights beside a folder, classes beside what has its own; HN_ERR_FORMAT,
 *           HN_ERR_SHAPE naming a tensor, or a folder of other channels; those of files and
 *           configurations */
HN_NODISCARD hn_status hn_seg_model_open(const hn_seg_model_options *o, hn_seg_model *out);
void hn_seg_model_close(hn_seg_model *m); /* accepts an empty one */

/* Fills the parameters from the weights, or from the seed. */
HN_NODISCARD hn_status hn_seg_model_load(const hn_seg_model *m, const hn_params *p, uint64_t seed);
/* Of configuration and weights; of configuration and seed where these are random. */
HN_NODISCARD hn_status hn_seg_model_digest(const hn_seg_model *m, uint64_t seed,
                                           char hex[HN_SHA256_HEX]);
/* Writes segmenter.json into a folder. */
HN_NODISCARD hn_status hn_seg_model_save(const hn_seg_config *c, const char *dir);

#ifdef __cplusplus
}
#endif
#endif
