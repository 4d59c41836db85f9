/* generator.h - a decoder that writes text: prefill, then one token at a time over a cache.
 *
 * Two graphs over the same parameters and cache: `prefill` reads all prompt tokens but the last in
 * one pass (padded to a power of two), `decode` takes one token to the logits of the next. */
#ifndef HN_GENERATOR_H
#define HN_GENERATOR_H
#include "runtime/graph/run.h"
#include "runtime/model/decoder.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    hn_device *device; /* must outlive the generator; NULL: the CPU */
    hn_executor executor;
    const hn_decoder *decoder; /* must outlive the generator */
    const hn_adapt *adapt;     /* NULL: no adapter */
    hn_dtype dtype;
    int64_t max_prompt; /* tokens, at least 1 */
    int64_t max_tokens; /* prompt and new ones together */
} hn_generator_options;

typedef struct hn_generator hn_generator;

/* Records and plans; hn_generator_allocate takes the memory, then parameters can be loaded.
 * Errors: HN_ERR_SHAPE when max_tokens is above the model's positions */
HN_NODISCARD hn_status hn_generator_new(const hn_generator_options *o, hn_generator **out);
HN_NODISCARD hn_status hn_generator_allocate(hn_generator *g);
void hn_generator_free(hn_generator *g); /* accepts NULL */
/* Whose values are filled in before the first prompt and stay. */
hn_params *hn_generator_params(const hn_generator *g);

/* Starts a new text: reads the prompt (1 .. max_prompt tokens).
 * logits   [vocab], of the token behind the prompt; in the generator's memory, as fp32 */
HN_NODISCARD hn_status hn_generator_prompt(hn_generator *g, const int32_t *id, int64_t n,
                                           const float **logits);
/* Appends one token. Errors: HN_ERR_ARG when the cache is full. */
HN_NODISCARD hn_status hn_generator_next(hn_generator *g, int32_t id, const float **logits);

#ifdef __cplusplus
}
#endif
#endif
