/* gpt2.h - GPT-2 and minGPT: parameter list and forward pass (Radford et al., 2019).
 *
 *   x   = wte[token] + wpe[position]
 *   for each layer:  x += c_proj( attention( q(n), k(n), v(n) ) )   n = layer norm(x)
 *                    x += c_proj( gelu( c_fc(n) ) )                 n = layer norm(x)
 *   logits = head( layer norm(x) )
 *
 * q, k and v are columns of one product (c_attn). Inputs and caches are those of llama.h. Positions
 * must lie below the configuration's. Initial values: normal, those of both c_proj smaller by
 * sqrt(2 layers); biases 0. */
#ifndef HN_GPT2_H
#define HN_GPT2_H
#include "runtime/adapt/params.h"
#include "runtime/model/gpt2_config.h"
#include "runtime/model/llama.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Declares every parameter. */
HN_NODISCARD hn_status hn_gpt2_declare(const hn_gpt2_config *c, hn_params *params);

/* Fields as in hn_llama_build. */
typedef struct {
    const hn_gpt2_config *config;
    const hn_params *params;
    hn_llama_cache *cache;
    bool decode;
    int64_t recompute;
    hn_attention_impl attention;
    int64_t longest;
    bool even;
    int64_t loss_chunk_rows;
} hn_gpt2_build;

/* As hn_llama_hidden, hn_llama_logits, hn_llama_loss. */
HN_NODISCARD hn_status hn_gpt2_hidden(const hn_gpt2_build *b, hn_graph *g, const hn_llama_input *in,
                                      hn_tensor **hidden);
HN_NODISCARD hn_status hn_gpt2_logits(const hn_gpt2_build *b, hn_graph *g, hn_tensor *hidden,
                                      hn_tensor **logits);
HN_NODISCARD hn_status hn_gpt2_loss(const hn_gpt2_build *b, hn_graph *g, hn_tensor *hidden,
                                    hn_tensor *labels, hn_tensor *loss, hn_tensor *count,
                                    hn_tensor **row_loss);

/* Name of the head's weight: the embedding's when they are tied. */
const char *hn_gpt2_head(const hn_gpt2_config *c);
const char *hn_gpt2_embedding(const hn_gpt2_config *c);

#ifdef __cplusplus
}
#endif
#endif
