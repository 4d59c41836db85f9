#include "runtime/model/llama_config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/alloc.h"
#include "runtime/base/json.h"

/* What a configuration class assumes when a key is absent (conventions.md part 2). */
typedef struct {
    const char *model_type, *class_name;
    int64_t vocab, hidden, intermediate, layers, heads, kv_heads, positions;
    int64_t head_dim; /* 0: hidden / heads */
    int64_t window;
} family_defaults;

static const family_defaults families[] = {
    [HN_FAMILY_LLAMA] = {"llama", "LlamaForCausalLM", 32000, 4096, 11008, 32, 32, 0, 2048, 0, 0},
    [HN_FAMILY_MISTRAL] = {"mistral", "MistralForCausalLM", 32000, 4096, 14336, 32, 32, 8, 131072,
                           0, 4096},
    [HN_FAMILY_QWEN2] = {"qwen2", "Qwen2ForCausalLM", 151936, 4096, 22016, 32, 32, 32, 32768, 0,
                         4096},
    [HN_FAMILY_QWEN3] = {"qwen3", "Qwen3ForCausalLM", 151936, 4096, 22016, 32, 32, 32, 32768, 128,
                         4096},
};
enum { N_FAMILIES = sizeof families / sizeof *families, MAX_DIM = 1 << 24, MAX_LAYERS = 4096 };

/* Keys that we read, or that do not change what a forward pass computes. */
static const char *const known_keys[] = {"architectures",
                                         "model_type",
                                         "vocab_size",
                                         "hidden_size",
                                         "intermediate_size",
                                         "num_hidden_layers",
                                         "num_attention_heads",
                                         "num_key_value_heads",
                                         "head_dim",
                                         "hidden_act",
                                         "max_position_embeddings",
                                         "rms_norm_eps",
                                         "rope_theta",
                                         "rope_scaling",
                                         "rope_parameters",
                                         "partial_rotary_factor",
                                         "attention_bias",
                                         "mlp_bias",
                                         "tie_word_embeddings",
                                         "attention_dropout",
                                         "sliding_window",
                                         "use_sliding_window",
                                         "max_window_layers",
                                         "layer_types",
                                         "bos_token_id",
                                         "eos_token_id",
                                         "pad_token_id",
                                         "torch_dtype",
                                         "dtype",
                                         "initializer_range",
                                         "transformers_version",
                                         "_name_or_path",
                                         "use_cache",
                                         "pretraining_tp",
                                         "quantization_config",
                                         "id2label",
                                         "label2id",
                                         "num_labels",
                                         "problem_type",
                                         "return_dict",
                                         "output_attentions",
                                         "output_hidden_states",
                                         "_attn_implementation",
                                         "_attn_implementation_autoset",
                                         "auto_map",
                                         "unk_token_id",
                                         "chunk_size_feed_forward",
                                         "is_decoder",
                                         "is_encoder_decoder",
                                         "finetuning_task",
                                         "tokenizer_class",
                                         "use_mrope",
                                         "unsloth_version",
                                         "unsloth_fixed"};

static hn_status find_family(const json_t *j, const char *where, hn_family *out)
{
    const char *type, *class_name = NULL;
    HN_TRY(hn_json_get_text(j, "model_type", where, true, &type));
    for (int i = 0; i < N_FAMILIES; i++) {
        if (strcmp(type, families[i].model_type) != 0) continue;
        const json_t *list = json_object_get(j, "architectures");
        if (json_is_array(list) && json_array_size(list) > 0)
            class_name = json_string_value(json_array_get(list, 0));
        if (class_name != NULL && strcmp(class_name, families[i].class_name) != 0)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: architecture %s of model_type %s; only %s",
                           where, class_name, type, families[i].class_name);
        *out = (hn_family)i;
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_UNSUPPORTED,
                   "%s: model_type '%s' is not one of llama, mistral, qwen2, qwen3", where, type);
}

/* What would change the mathematics and is not done. */
static hn_status refuse(const json_t *j, const char *where)
{
    const char *act = "silu";
    double dropout = 0;
    const json_t *quant = json_object_get(j, "quantization_config");
    if (quant != NULL && !json_is_null(quant))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: quantization_config: quantised weights", where);
    HN_TRY(hn_json_get_text(j, "hidden_act", where, false, &act));
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: hidden_act '%s', only silu", where, act);
    HN_TRY(hn_json_get_f64(j, "attention_dropout", where, false, &dropout));
    if (dropout != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: attention_dropout %g, only 0", where, dropout);
    return HN_OK;
}

static hn_status read_sizes(const json_t *j, const char *where, hn_llama_config *c)
{
    const family_defaults *d = &families[c->family];
    c->vocab = d->vocab;
    c->hidden = d->hidden;
    c->intermediate = d->intermediate;
    c->layers = d->layers;
    c->heads = d->heads;
    c->max_positions = d->positions;
    c->rms_eps = 1e-6;
    c->init_range = 0.02;
    HN_TRY(hn_json_get_i64(j, "vocab_size", where, 1, MAX_DIM, false, &c->vocab));
    HN_TRY(hn_json_get_i64(j, "hidden_size", where, 1, MAX_DIM, false, &c->hidden));
    HN_TRY(hn_json_get_i64(j, "intermediate_size", where, 1, MAX_DIM, false, &c->intermediate));
    HN_TRY(hn_json_get_i64(j, "num_hidden_layers", where, 1, MAX_LAYERS, false, &c->layers));
    HN_TRY(hn_json_get_i64(j, "num_attention_heads", where, 1, MAX_DIM, false, &c->heads));
    c->kv_heads = d->kv_heads ? d->kv_heads : c->heads;
    HN_TRY(hn_json_get_i64(j, "num_key_value_heads", where, 1, MAX_DIM, false, &c->kv_heads));
    HN_TRY(hn_json_get_i64(j, "max_position_embeddings", where, 1, INT32_MAX, false,
                           &c->max_positions));
    HN_TRY(hn_json_get_f64(j, "rms_norm_eps", where, false, &c->rms_eps));
    HN_TRY(hn_json_get_f64(j, "initializer_range", where, false, &c->init_range));
    c->head_dim = d->head_dim ? d->head_dim : c->hidden / c->heads;
    HN_TRY(hn_json_get_i64(j, "head_dim", where, 2, MAX_DIM, false, &c->head_dim));
    if (c->heads % c->kv_heads != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: num_attention_heads %" PRId64
                       " is no multiple of num_key_value_heads %" PRId64,
                       where, c->heads, c->kv_heads);
    if (json_object_get(j, "head_dim") == NULL && d->head_dim == 0 && c->hidden % c->heads != 0)
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: hidden_size %" PRId64 " is no multiple of num_attention_heads %" PRId64,
                       where, c->hidden, c->heads);
    if (c->head_dim < 2 || c->head_dim % 2 != 0 || !(c->rms_eps > 0) || !(c->init_range >= 0))
        return HN_FAIL(HN_ERR_SHAPE,
                       "%s: head_dim %" PRId64 " must be even, rms_norm_eps %g positive", where,
                       c->head_dim, c->rms_eps);
    return HN_OK;
}

static hn_status read_flags(const json_t *j, const char *where, hn_llama_config *c)
{
    bool attention_bias = false;
    HN_TRY(hn_json_get_bool(j, "attention_bias", where, false, &attention_bias));
    HN_TRY(hn_json_get_bool(j, "tie_word_embeddings", where, false, &c->tied));
    if (c->family == HN_FAMILY_LLAMA)
        HN_TRY(hn_json_get_bool(j, "mlp_bias", where, false, &c->mlp_bias));
    c->qk_norm = c->family == HN_FAMILY_QWEN3;
    switch (c->family) {
    case HN_FAMILY_LLAMA:
    case HN_FAMILY_QWEN3: c->qkv_bias = c->o_bias = attention_bias; break;
    case HN_FAMILY_QWEN2: c->qkv_bias = true; break; /* always, and o never: no key says it */
    case HN_FAMILY_MISTRAL: break;
    }
    return HN_OK;
}

static void set_full(hn_llama_config *c, int64_t layer)
{
    c->full_layers[layer / 64] |= (uint64_t)1 << (layer % 64);
}

/* layer_types names every layer; else qwen2 and qwen3 use the window from max_window_layers on. */
static hn_status read_window_layers(const json_t *j, const char *where, hn_llama_config *c)
{
    const json_t *types = json_object_get(j, "layer_types");
    int64_t first = 28;
    if (c->window == 0 || c->family == HN_FAMILY_LLAMA || c->family == HN_FAMILY_MISTRAL)
        return HN_OK;
    HN_TRY(hn_json_get_i64(j, "max_window_layers", where, 0, MAX_LAYERS, false, &first));
    c->full_layers = hn_calloc((size_t)(c->layers + 63) / 64, sizeof *c->full_layers);
    if (c->full_layers == NULL) return HN_FAIL(HN_ERR_MEMORY, "%s: table of layers", where);
    if (types == NULL || json_is_null(types)) {
        for (int64_t i = 0; i < c->layers && i < first; i++) set_full(c, i);
        return HN_OK;
    }
    if ((int64_t)json_array_size(types) != c->layers)
        return HN_FAIL(HN_ERR_FORMAT, "%s: layer_types must name %" PRId64 " layers", where,
                       c->layers);
    for (int64_t i = 0; i < c->layers; i++) {
        const char *t = json_string_value(json_array_get(types, (size_t)i));
        if (t != NULL && strcmp(t, "full_attention") == 0)
            set_full(c, i);
        else if (t == NULL || strcmp(t, "sliding_attention") != 0)
            return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: layer_types[%" PRId64 "] is '%s'", where, i,
                           t ? t : "not a string");
    }
    return HN_OK;
}

static hn_status read_window(const json_t *j, const char *where, hn_llama_config *c)
{
    if (c->family == HN_FAMILY_LLAMA) return HN_OK;
    const json_t *value = json_object_get(j, "sliding_window");
    bool used = c->family == HN_FAMILY_MISTRAL;
    HN_TRY(hn_json_get_bool(j, "use_sliding_window", where, false, &used));
    if (!used || json_is_null(value)) return HN_OK;
    c->window = families[c->family].window;
    HN_TRY(hn_json_get_i64(j, "sliding_window", where, 1, INT32_MAX, false, &c->window));
    return read_window_layers(j, where, c);
}

static hn_status read_dtype(const json_t *j, const char *where, hn_llama_config *c)
{
    const char *name = NULL;
    HN_TRY(hn_json_get_text(j, "torch_dtype", where, false, &name));
    HN_TRY(hn_json_get_text(j, "dtype", where, false, &name));
    if (name == NULL) return HN_OK;
    static const struct {
        const char *name;
        hn_dtype dtype;
    } names[] = {{"float32", HN_F32}, {"float16", HN_F16}, {"bfloat16", HN_BF16}};
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i].name) != 0) continue;
        c->file_dtype = names[i].dtype;
        c->says_dtype = true;
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: dtype '%s', only float32, float16, bfloat16", where,
                   name);
}

hn_status hn_llama_config_eos(const json_t *j, const char *where, hn_llama_config *c)
{
    const json_t *eos = json_object_get(j, "eos_token_id");
    if (eos == NULL || json_is_null(eos)) return HN_OK;
    const size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
    if (n > HN_MAX_EOS)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: %zu end-of-sequence tokens, at most %d", where, n,
                       HN_MAX_EOS);
    int32_t id[HN_MAX_EOS];
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_is_array(eos) ? json_array_get(eos, i) : eos;
        const json_int_t value = json_is_integer(v) ? json_integer_value(v) : -1;
        if (value < 0 || value >= c->vocab)
            return HN_FAIL(HN_ERR_FORMAT, "%s: eos_token_id is not a token below %" PRId64, where,
                           c->vocab);
        id[i] = (int32_t)value;
    }
    memcpy(c->eos, id, n * sizeof *id);
    c->n_eos = (int)n;
    return HN_OK;
}

static hn_status read_all(const json_t *j, const char *where, hn_llama_config *c)
{
    int64_t bos = -1;
    HN_TRY(find_family(j, where, &c->family));
    c->class_name = families[c->family].class_name;
    HN_TRY(refuse(j, where));
    HN_TRY(read_sizes(j, where, c));
    HN_TRY(read_flags(j, where, c));
    HN_TRY(read_window(j, where, c));
    HN_TRY(read_dtype(j, where, c));
    HN_TRY(hn_json_get_i64(j, "bos_token_id", where, -1, INT32_MAX, false, &bos));
    c->bos = (int32_t)bos;
    HN_TRY(hn_llama_config_eos(j, where, c));
    return hn_rope_config_read(j, where, c);
}

hn_status hn_llama_config_read(const json_t *config, const char *where, const hn_log *log,
                               hn_llama_config *out)
{
    hn_llama_config c = {.file_dtype = HN_F32};
    const hn_status st = read_all(config, where, &c);
    if (st != HN_OK) {
        hn_llama_config_free(&c);
        return st;
    }
    hn_json_warn_unknown(config, known_keys, sizeof known_keys / sizeof *known_keys, where, log);
    *out = c;
    return HN_OK;
}

void hn_llama_config_free(hn_llama_config *c)
{
    if (c == NULL) return;
    hn_free(c->full_layers);
    hn_free(c->rope_factors);
    *c = (hn_llama_config){0};
}

int64_t hn_llama_window(const hn_llama_config *c, int64_t layer)
{
    if (c->full_layers && (c->full_layers[layer / 64] >> (layer % 64) & 1)) return 0;
    return c->window;
}
