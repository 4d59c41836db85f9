/* decoder.h - one face for all families of decoders: llama.h and gpt2.h.
 *
 * What the families have in common is in hn_decoder; what only one of them has, in its own part.
 * Inputs, tables and caches are those of llama.h. */
#ifndef HN_DECODER_H
#define HN_DECODER_H
#include "runtime/model/gpt2.h"
#include "runtime/model/llama.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { HN_DECODER_LLAMA, HN_DECODER_GPT2 } hn_decoder_family;

typedef struct {
    hn_decoder_family family;
    hn_llama_config llama; /* that of the family counts */
    hn_gpt2_config gpt2;
    const char *class_name; /* "LlamaForCausalLM" */
    int64_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, max_positions;
    int64_t window; /* sliding window in tokens; 0: full attention everywhere */
    double init_range;
    bool tied;           /* the head is the embedding */
    hn_dtype file_dtype; /* what the file says its weights are; F32 when it does not say */
    bool says_dtype;
    int32_t eos[HN_MAX_EOS];
    int n_eos;
} hn_decoder;

/* Whether a config.json is that of a decoder that we know: by model_type; minGPT's has none. */
bool hn_decoder_knows(const json_t *config);

/* where: path for error texts. generation: generation_config.json, whose end-of-sequence tokens
 * win; NULL: there is none. Errors: those of the families' readers. */
HN_NODISCARD hn_status hn_decoder_read(const json_t *config, const json_t *generation,
                                       const char *where, const hn_log *log, hn_decoder *out);
void hn_decoder_free(hn_decoder *d); /* accepts an empty one */

/* Names of the weights in the files. */
const char *hn_decoder_head(const hn_decoder *d);
const char *hn_decoder_embedding(const hn_decoder *d);

/* Declares every parameter, in file order. */
HN_NODISCARD hn_status hn_decoder_declare(const hn_decoder *d, hn_params *params);

/* As hn_llama_tables_new and _fill; a family without such tables leaves them empty. */
HN_NODISCARD hn_status hn_decoder_tables_new(const hn_decoder *d, hn_program *p, int64_t positions,
                                             hn_llama_tables *out);
HN_NODISCARD hn_status hn_decoder_tables_fill(const hn_decoder *d, const hn_llama_tables *t);

/* Fields as in hn_llama_build. */
typedef struct {
    const hn_decoder *decoder;
    const hn_params *params;
    const hn_llama_tables *tables;
    hn_llama_cache *cache;
    bool decode;
    int64_t recompute;
    hn_attention_impl attention;
    int64_t longest;
    bool even;
    int64_t loss_chunk_rows;
} hn_decoder_build;

/* As hn_llama_hidden, hn_llama_logits, hn_llama_loss. */
HN_NODISCARD hn_status hn_decoder_hidden(const hn_decoder_build *b, hn_graph *g,
                                         const hn_llama_input *in, hn_tensor **hidden);
HN_NODISCARD hn_status hn_decoder_logits_of(const hn_decoder_build *b, hn_graph *g,
                                            hn_tensor *hidden, hn_tensor **logits);
HN_NODISCARD hn_status hn_decoder_loss(const hn_decoder_build *b, hn_graph *g, hn_tensor *hidden,
                                       hn_tensor *labels, hn_tensor *loss, hn_tensor *count);

#ifdef __cplusplus
}
#endif
#endif
