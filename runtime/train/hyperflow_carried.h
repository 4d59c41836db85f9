/* hyperflow_carried.h - the one file that export writes and apply reads; for the files
 * hyperflow_*.c only.
 *
 * Tensors     backbone.*, encoder.* (without heads), drift.*, sigma; fp32
 * Metadata    backbone.config, encoder.config: {"config", "preprocessor"}, as config.json and
 *             preprocessor_config.json have it (null where there is none); drift.config,
 *             drift.layout, drift.backbone, drift.encoder (drift_file.h); backbone, encoder, drift:
 *             digests, the first two those that the drift network is of; adapted, dtype, scale,
 *             offset; shorter_side: what images of folders are resized to before their centre is
 *             cut, 0 or no entry: they are not
 *
 * Files are hostile: all of it is checked. */
#ifndef HN_HYPERFLOW_CARRIED_H
#define HN_HYPERFLOW_CARRIED_H
#include "runtime/train/hyperflow_drift.h"
#include "runtime/train/pearl_values.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A network's configuration as that text; hn_free it. */
HN_NODISCARD hn_status hn_hf_network_text(const hn_model *m, char **out);

typedef struct {
    hn_st_file *file;
    const char *base, *encoder, *drift; /* digests */
    double scale, offset;
} hn_hf_carried;

/* Opens the file. r gets what a run's verbs have: configurations of backbone and encoder, dtype,
 * theta (r->model and r->encoder have no files: their values are loaded by the next function); n
 * gets the facts of the drift network, whose file is the same.
 * Errors  HN_ERR_FORMAT naming the file and what is missing or wrong; a tensor whose shape is not
 *         that of its configuration, by name (params_fit.h), before memory is taken by either */
HN_NODISCARD hn_status hn_hf_carried_open(hn_hyperflow *r, const char *path, hn_hf_network *n,
                                          hn_hf_carried *out);
void hn_hf_carried_close(hn_hf_carried *c); /* accepts an empty one; behind hn_hf_network_free */
/* prefix: "backbone." or "encoder.". Errors  HN_ERR_FORMAT: a tensor that is missing, of another
 * size or not finite, by name */
HN_NODISCARD hn_status hn_hf_carried_load(const hn_hf_carried *c, const char *prefix,
                                          const hn_params *p);
/* Adds the backbone's vectors that theta is in; theta0 [D]: theta of them. */
HN_NODISCARD hn_status hn_hf_carried_biases(const hn_hf_carried *c, const hn_theta *t,
                                            hn_values *vectors, float *theta0);

#ifdef __cplusplus
}
#endif
#endif
