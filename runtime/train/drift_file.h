/* drift_file.h - a trained drift network as one safetensors file.
 *
 * Tensors     drift.* in f32, and "sigma" [tokens]
 * Metadata    "drift.config" (drift_config.h); "drift.layout", "drift.backbone", "drift.encoder":
 *             digests of which number of theta is which bias, of the weights that the network is
 *             for, and of the encoder whose features it was trained on
 * Files are hostile: all of it is checked. */
#ifndef HN_DRIFT_FILE_H
#define HN_DRIFT_FILE_H
#include "runtime/base/save.h"
#include "runtime/file/safetensors.h"
#include "runtime/model/drift.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    hn_drift_config config;
    char layout[HN_SHA256_HEX], backbone[HN_SHA256_HEX], encoder[HN_SHA256_HEX];
    float *sigma; /* [config.tokens] */
} hn_drift_facts;

void hn_drift_facts_free(hn_drift_facts *f); /* what hn_drift_facts_read has made; or empty */

/* averages: the moving averages of the parameters (hn_param.average), else their values.
 * Errors: HN_ERR_ARG: averages that are not kept; those of hn_st_save */
HN_NODISCARD hn_status hn_drift_file_save(const char *path, const hn_params *p, bool averages,
                                          const hn_drift_facts *f);

/* Of a file whose tensors may have others beside them. Zero *out before the first use. Sizes of
 * *out are those of the file's tensors: memory may be taken by them.
 * Errors  HN_ERR_FORMAT, those of hn_drift_config_read and hn_params_fit, with the file's name */
HN_NODISCARD hn_status hn_drift_facts_read(const hn_st_file *file, hn_drift_facts *out);
/* Fills the parameters of a drift network of that configuration.
 * Errors  HN_ERR_FORMAT: a tensor that is missing, of another shape or not finite, by name */
HN_NODISCARD hn_status hn_drift_file_load(const hn_st_file *file, const hn_params *p);

#ifdef __cplusplus
}
#endif
#endif
