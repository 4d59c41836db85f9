/* hyperflow_drift.h - the network that train has made, out of its folder: drift.safetensors
 * (drift_file.h) and encoder.json (path, "" for <run>/encoder, weights, image, digest); for the
 * files hyperflow_*.c only. */
#ifndef HN_HYPERFLOW_DRIFT_H
#define HN_HYPERFLOW_DRIFT_H
#include "runtime/train/adaptor.h"
#include "runtime/train/drift_file.h"
#include "runtime/train/hyperflow_eval.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    hn_st_file *file;
    hn_drift_facts facts;
    char digest[HN_SHA256_HEX];
} hn_hf_network;

/* Of --drift; r->encoder is opened with it. Errors: HN_ERR_ARG where it is not there yet, or is of
 * another backbone, layout or encoder; HN_ERR_FORMAT */
HN_NODISCARD hn_status hn_hf_network_open(hn_hyperflow *r, hn_hf_network *out);
void hn_hf_network_free(hn_hf_network *n); /* accepts an empty one */

/* By train's options, for the encoder that is open. */
hn_drift_config hn_hf_drift_config(const hn_hyperflow *r);
hn_integrator hn_hf_integrator(const hn_hyperflow_config *c);

#ifdef __cplusplus
}
#endif
#endif
