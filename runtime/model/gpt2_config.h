/* gpt2_config.h - config.json of GPT-2 (Hugging Face) and of minGPT.
 *
 * A file with block_size is minGPT's: its Linear weights are [out, in] and its head is its own.
 * That of Hugging Face has model_type "gpt2": weights are [in, out], and the head is the embedding
 * unless tie_word_embeddings says otherwise. Dropout of the configuration is that of a training
 * run: it is not part of the model here, and a warning says so. A value that would change the
 * result and is not implemented is refused by name; keys that mean nothing to us are listed in one
 * warning. */
#ifndef HN_GPT2_CONFIG_H
#define HN_GPT2_CONFIG_H
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/log.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    bool mingpt; /* names and orders of its files */
    bool bare;   /* names begin with "h.0." instead of "transformer.h.0.": the caller looks */
    int64_t vocab, hidden, intermediate, layers, heads, positions;
    double ln_eps, init_range;
    int activation;       /* hn_activation_kind */
    bool tied;            /* the head is the embedding */
    bool scaled;          /* attention by 1/sqrt(head_dim) */
    bool scaled_by_layer; /* and by 1/(number of the layer + 1) */
    hn_dtype file_dtype;  /* what the file says its weights are; F32 when it does not say */
    bool says_dtype;
    int32_t bos, eos; /* -1: none */
} hn_gpt2_config;

/* where: path for error texts.
 * Errors: HN_ERR_FORMAT, HN_ERR_UNSUPPORTED, HN_ERR_SHAPE naming file and key. */
HN_NODISCARD hn_status hn_gpt2_config_read(const json_t *config, const char *where,
                                           const hn_log *log, hn_gpt2_config *out);

#ifdef __cplusplus
}
#endif
#endif
