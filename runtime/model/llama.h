/* llama.h - decoders of the llama family: parameter list and forward pass.
 *
 *   x   = embed[token]
 *   for each layer:  x += o( attention( rope(q(n)), rope(k(n)), v(n) ) )   n = rmsnorm(x)
 *                    x += down( silu(gate(n)) * up(n) )                    n = rmsnorm(x)
 *   loss = cross-entropy( head( rmsnorm(x) ), labels )
 *
 * Names are those of Hugging Face files (conventions.md part 3). Only forward is written here;
 * gradients, memory and methods are the engine's. */
#ifndef HN_LLAMA_H
#define HN_LLAMA_H
#include "runtime/adapt/params.h"
#include "runtime/model/llama_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Declares every parameter, in file order. */
HN_NODISCARD hn_status hn_llama_declare(const hn_llama_config *c, hn_params *params);

/* Tensors shared by all graphs of a program. */
typedef struct {
    hn_tensor *cos, *sin; /* [positions, rotary_dim / 2] */
    int64_t positions;
} hn_llama_tables;

HN_NODISCARD hn_status hn_llama_tables_new(const hn_llama_config *c, hn_program *p,
                                           int64_t positions, hn_llama_tables *out);
/* After hn_plan_allocate. */
HN_NODISCARD hn_status hn_llama_tables_fill(const hn_llama_config *c, const hn_llama_tables *t);

/* One row of the batch is one token. */
typedef struct {
    hn_tensor *tokens, *positions; /* i32 [rows] */
    hn_tensor *offsets;            /* i32 [max_sequences + 1]; not used in decode */
    hn_tensor *cache_position;     /* i32 [1]: cache row of the first token; NULL without a cache */
} hn_llama_input;

/* Key/value cache of one layer, for generation: [1, capacity, kv_heads * head_dim] each. */
typedef struct {
    hn_tensor *k, *v;
} hn_llama_cache;

typedef struct {
    const hn_llama_config *config;
    const hn_params *params;
    const hn_llama_tables *tables;
    hn_llama_cache *cache;       /* one a layer; NULL: none is written */
    bool decode;                 /* attend over the cache; else over the batch itself */
    int64_t recompute;           /* so many layers, the first ones, run again in backward instead of
                                  * keeping what they made; those behind them are done with by then */
    hn_attention_impl attention; /* whose kernels; attention over a cache runs on our own */
    int64_t longest;             /* no sequence of a batch has more rows; 0: not known */
    bool even;                   /* every sequence may be taken to have so many (attention.h) */
    int64_t loss_chunk_rows;     /* rows of logits alive at a time; 0: linear_ce's own choice */
} hn_llama_build;

/* Hidden states behind the final norm, [rows, hidden]. With a cache the last layer may be all that
 * is wanted: give hidden NULL to record only what fills the cache. */
HN_NODISCARD hn_status hn_llama_hidden(const hn_llama_build *b, hn_graph *g,
                                       const hn_llama_input *in, hn_tensor **hidden);
/* logits = head(hidden), [rows, vocab]. */
HN_NODISCARD hn_status hn_llama_logits(const hn_llama_build *b, hn_graph *g, hn_tensor *hidden,
                                       hn_tensor **logits);
/* Adds the summed loss and the number of trained tokens to loss [1] and count [1] (fp32).
 * row_loss: NULL, or receives the loss of each row [rows]. */
HN_NODISCARD hn_status hn_llama_loss(const hn_llama_build *b, hn_graph *g, hn_tensor *hidden,
                                     hn_tensor *labels, hn_tensor *loss, hn_tensor *count,
                                     hn_tensor **row_loss);

/* Name of the head's weight: the embedding's when they are tied. */
const char *hn_llama_head(const hn_llama_config *c);

#ifdef __cplusplus
}
#endif
#endif
