/* llama_config.h - config.json of the llama family: llama, mistral, qwen2, qwen3.
 *
 * Both dialects of Hugging Face Transformers are read: rope_theta + rope_scaling (version 4) and
 * rope_parameters (version 5), torch_dtype and dtype. Defaults are those of the configuration
 * classes (conventions.md part 2). A value that would change the mathematics and is not
 * implemented is refused by name: another activation, quantised weights, attention dropout. */
#ifndef HN_LLAMA_CONFIG_H
#define HN_LLAMA_CONFIG_H
#include <jansson.h>

#include "kernels/embed/rope_table.h"
#include "runtime/base/dtype.h"
#include "runtime/base/log.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_FAMILY_LLAMA, HN_FAMILY_MISTRAL, HN_FAMILY_QWEN2, HN_FAMILY_QWEN3 } hn_family;
enum { HN_MAX_EOS = 8 };

typedef struct {
    hn_family family;
    const char *class_name; /* "LlamaForCausalLM" */
    int64_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, max_positions;
    double rms_eps, init_range;
    bool qkv_bias, o_bias, mlp_bias, qk_norm, tied;
    int64_t window;        /* sliding window in tokens; 0: full attention everywhere */
    uint64_t *full_layers; /* NULL: all layers alike; else a bit a layer that has no window */
    hn_rope_spec rope;
    double *rope_factors; /* longrope: short, then long factors; owned */
    hn_dtype file_dtype;  /* what the file says its weights are; F32 when it does not say */
    bool says_dtype;
    int32_t bos, eos[HN_MAX_EOS]; /* -1: none */
    int n_eos;
} hn_llama_config;

/* where: path for error texts. Keys that mean nothing to us are listed in one warning.
 * Errors: HN_ERR_FORMAT, HN_ERR_UNSUPPORTED, HN_ERR_SHAPE naming file and key. */
HN_NODISCARD hn_status hn_llama_config_read(const json_t *config, const char *where,
                                            const hn_log *log, hn_llama_config *out);
void hn_llama_config_free(hn_llama_config *c);

/* Replaces the end-of-sequence tokens by those of `eos_token_id` (a number or a list), if it has
 * them: generation_config.json wins over config.json. */
HN_NODISCARD hn_status hn_llama_config_eos(const json_t *config, const char *where,
                                           hn_llama_config *c);

/* Fills c->rope; head_dim and max_positions are set already (rope_config.c). */
HN_NODISCARD hn_status hn_rope_config_read(const json_t *config, const char *where,
                                           hn_llama_config *c);

/* Window of one layer: 0 is full attention. */
int64_t hn_llama_window(const hn_llama_config *c, int64_t layer);

#ifdef __cplusplus
}
#endif
#endif
