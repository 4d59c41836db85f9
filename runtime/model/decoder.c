#include "runtime/model/decoder.h"

#include <string.h>

bool hn_decoder_knows(const json_t *config)
{
    static const char *const types[] = {"llama", "mistral", "qwen2", "qwen3", "gpt2"};
    const char *type = json_string_value(json_object_get(config, "model_type"));
    if (json_object_get(config, "block_size") != NULL) return true;
    for (size_t i = 0; type != NULL && i < sizeof types / sizeof *types; i++)
        if (strcmp(type, types[i]) == 0) return true;
    return false;
}

static bool is_gpt2(const json_t *config)
{
    const char *type = json_string_value(json_object_get(config, "model_type"));
    return json_object_get(config, "block_size") != NULL ||
           (type != NULL && strcmp(type, "gpt2") == 0);
}

static void take_llama(hn_decoder *d)
{
    const hn_llama_config *c = &d->llama;
    d->class_name = c->class_name;
    d->vocab = c->vocab;
    d->hidden = c->hidden;
    d->intermediate = c->intermediate;
    d->layers = c->layers;
    d->heads = c->heads;
    d->kv_heads = c->kv_heads;
    d->head_dim = c->head_dim;
    d->max_positions = c->max_positions;
    d->window = c->window;
    d->init_range = c->init_range;
    d->tied = c->tied;
    d->file_dtype = c->file_dtype;
    d->says_dtype = c->says_dtype;
    memcpy(d->eos, c->eos, sizeof d->eos);
    d->n_eos = c->n_eos;
}

static void take_gpt2(hn_decoder *d)
{
    const hn_gpt2_config *c = &d->gpt2;
    d->class_name = c->mingpt ? "minGPT" : "GPT2LMHeadModel";
    d->vocab = c->vocab;
    d->hidden = c->hidden;
    d->intermediate = c->intermediate;
    d->layers = c->layers;
    d->heads = d->kv_heads = c->heads;
    d->head_dim = c->hidden / c->heads;
    d->max_positions = c->positions;
    d->init_range = c->init_range;
    d->tied = c->tied;
    d->file_dtype = c->file_dtype;
    d->says_dtype = c->says_dtype;
    d->eos[0] = c->eos;
    d->n_eos = c->eos >= 0;
}

hn_status hn_decoder_read(const json_t *config, const json_t *generation, const char *where,
                          const hn_log *log, hn_decoder *out)
{
    hn_decoder d = {.family = is_gpt2(config) ? HN_DECODER_GPT2 : HN_DECODER_LLAMA};
    if (d.family == HN_DECODER_GPT2) {
        HN_TRY(hn_gpt2_config_read(config, where, log, &d.gpt2));
        take_gpt2(&d);
    } else {
        HN_TRY(hn_llama_config_read(config, where, log, &d.llama));
        take_llama(&d);
    }
    if (generation != NULL) {
        hn_llama_config ends = {.n_eos = d.n_eos};
        memcpy(ends.eos, d.eos, sizeof ends.eos);
        const hn_status st = hn_llama_config_eos(generation, "generation_config.json", &ends);
        if (st != HN_OK) {
            hn_decoder_free(&d);
            return st;
        }
        memcpy(d.eos, ends.eos, sizeof d.eos);
        d.n_eos = ends.n_eos;
    }
    *out = d;
    return HN_OK;
}

void hn_decoder_free(hn_decoder *d)
{
    hn_llama_config_free(&d->llama);
    *d = (hn_decoder){0};
}

const char *hn_decoder_head(const hn_decoder *d)
{
    return d->family == HN_DECODER_GPT2 ? hn_gpt2_head(&d->gpt2) : hn_llama_head(&d->llama);
}

const char *hn_decoder_embedding(const hn_decoder *d)
{
    return d->family == HN_DECODER_GPT2 ? hn_gpt2_embedding(&d->gpt2) : "model.embed_tokens.weight";
}

hn_status hn_decoder_declare(const hn_decoder *d, hn_params *params)
{
    return d->family == HN_DECODER_GPT2 ? hn_gpt2_declare(&d->gpt2, params)
                                        : hn_llama_declare(&d->llama, params);
}

hn_status hn_decoder_tables_new(const hn_decoder *d, hn_program *p, int64_t positions,
                                hn_llama_tables *out)
{
    *out = (hn_llama_tables){0};
    return d->family == HN_DECODER_GPT2 ? HN_OK : hn_llama_tables_new(&d->llama, p, positions, out);
}

hn_status hn_decoder_tables_fill(const hn_decoder *d, const hn_llama_tables *t)
{
    return d->family == HN_DECODER_GPT2 ? HN_OK : hn_llama_tables_fill(&d->llama, t);
}

static hn_llama_build llama(const hn_decoder_build *b)
{
    return (hn_llama_build){.config = &b->decoder->llama,
                            .params = b->params,
                            .tables = b->tables,
                            .cache = b->cache,
                            .decode = b->decode,
                            .recompute = b->recompute,
                            .attention = b->attention,
                            .longest = b->longest,
                            .even = b->even,
                            .loss_chunk_rows = b->loss_chunk_rows};
}

static hn_gpt2_build gpt2(const hn_decoder_build *b)
{
    return (hn_gpt2_build){.config = &b->decoder->gpt2,
                           .params = b->params,
                           .cache = b->cache,
                           .decode = b->decode,
                           .recompute = b->recompute,
                           .attention = b->attention,
                           .longest = b->longest,
                           .even = b->even,
                           .loss_chunk_rows = b->loss_chunk_rows};
}

hn_status hn_decoder_hidden(const hn_decoder_build *b, hn_graph *g, const hn_llama_input *in,
                            hn_tensor **hidden)
{
    const hn_llama_build l = llama(b);
    const hn_gpt2_build p = gpt2(b);
    return b->decoder->family == HN_DECODER_GPT2 ? hn_gpt2_hidden(&p, g, in, hidden)
                                                 : hn_llama_hidden(&l, g, in, hidden);
}

hn_status hn_decoder_logits_of(const hn_decoder_build *b, hn_graph *g, hn_tensor *hidden,
                               hn_tensor **logits)
{
    const hn_llama_build l = llama(b);
    const hn_gpt2_build p = gpt2(b);
    return b->decoder->family == HN_DECODER_GPT2 ? hn_gpt2_logits(&p, g, hidden, logits)
                                                 : hn_llama_logits(&l, g, hidden, logits);
}

hn_status hn_decoder_loss(const hn_decoder_build *b, hn_graph *g, hn_tensor *hidden,
                          hn_tensor *labels, hn_tensor *loss, hn_tensor *count)
{
    const hn_llama_build l = llama(b);
    const hn_gpt2_build p = gpt2(b);
    return b->decoder->family == HN_DECODER_GPT2
               ? hn_gpt2_loss(&p, g, hidden, labels, loss, count, NULL)
               : hn_llama_loss(&l, g, hidden, labels, loss, count, NULL);
}
