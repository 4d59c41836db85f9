/* drift_config.h - the sizes of a drift network (drift.h), and their JSON.
 *
 * {"model_type": "hone-drift", "version": 1, "tokens": 24, "token_width": 192, "features": 512,
 *  "width": 256, "blocks": 4, "heads": 4, "intermediate": 1024, "queries": 16, "time": 128,
 *  "norm_eps": 1e-06}
 *
 * Every key has to be there, and no other: a network of other sizes is another network.
 * Errors HN_ERR_FORMAT (a key that is missing, unknown, or no such number), HN_ERR_UNSUPPORTED
 *        (another model_type, a newer version), HN_ERR_SHAPE (sizes that do not fit together), with
 *        file and key. */
#ifndef HN_DRIFT_CONFIG_H
#define HN_DRIFT_CONFIG_H
#include <jansson.h>
#include <stdint.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_DRIFT_VERSION = 1 };

typedef struct {
    int64_t tokens, token_width; /* theta: so many tokens of so many numbers */
    int64_t features;            /* numbers of an image that the task encoder makes */
    int64_t width, blocks, heads, intermediate;
    int64_t queries; /* task tokens of a support set */
    int64_t time;    /* numbers of a time: half sines, half cosines */
    double norm_eps;
} hn_drift_config;

/* For theta of these sizes and features of an encoder: width 256, 4 blocks, 4 heads, 1024 in the
 * middle of the MLP, 16 queries, 128 numbers of a time. */
hn_drift_config hn_drift_config_default(int64_t tokens, int64_t token_width, int64_t features);

/* Whether the sizes fit together. where: for the text. */
HN_NODISCARD hn_status hn_drift_config_check(const hn_drift_config *c, const char *where);
HN_NODISCARD hn_status hn_drift_config_read(const json_t *config, const char *where,
                                            hn_drift_config *out);
json_t *hn_drift_config_json(const hn_drift_config *c); /* new; NULL: no memory */

#ifdef __cplusplus
}
#endif
#endif
