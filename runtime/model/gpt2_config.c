#include "runtime/model/gpt2_config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kernels/activation/activation.h"
#include "runtime/base/json.h"

enum { MAX_DIM = 1 << 24, MAX_LAYERS = 4096 };

/* Keys that we read, or that do not change what a forward pass computes. */
static const char *const known_keys[] = {"architectures",
                                         "model_type",
                                         "vocab_size",
                                         "n_embd",
                                         "n_layer",
                                         "n_head",
                                         "n_positions",
                                         "n_ctx",
                                         "n_inner",
                                         "block_size",
                                         "activation_function",
                                         "layer_norm_epsilon",
                                         "initializer_range",
                                         "scale_attn_weights",
                                         "scale_attn_by_inverse_layer_idx",
                                         "reorder_and_upcast_attn",
                                         "tie_word_embeddings",
                                         "add_cross_attention",
                                         "quantization_config",
                                         "resid_pdrop",
                                         "embd_pdrop",
                                         "attn_pdrop",
                                         "bos_token_id",
                                         "eos_token_id",
                                         "pad_token_id",
                                         "torch_dtype",
                                         "dtype",
                                         "transformers_version",
                                         "_name_or_path",
                                         "use_cache",
                                         "summary_type",
                                         "summary_use_proj",
                                         "summary_activation",
                                         "summary_proj_to_labels",
                                         "summary_first_dropout",
                                         "task_specific_params",
                                         "id2label",
                                         "label2id",
                                         "return_dict",
                                         "output_attentions",
                                         "output_hidden_states",
                                         "gradient_checkpointing",
                                         "_num_labels",
                                         "_attn_implementation",
                                         "_attn_implementation_autoset"};

static void warn_dropout(const json_t *j, const char *where, const hn_log *log)
{
    static const char *const keys[] = {"resid_pdrop", "embd_pdrop", "attn_pdrop"};
    for (int i = 0; i < 3; i++) {
        const json_t *v = json_object_get(j, keys[i]);
        if (json_is_number(v) && json_number_value(v) != 0) {
            hn_warn(log, "%s: %s %g: training goes without this dropout", where, keys[i],
                    json_number_value(v));
            return;
        }
    }
}

static hn_status refuse(const json_t *j, const char *where)
{
    bool cross = false;
    const json_t *quant = json_object_get(j, "quantization_config");
    if (quant != NULL && !json_is_null(quant))
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: quantization_config: quantised weights", where);
    HN_TRY(hn_json_get_bool(j, "add_cross_attention", where, false, &cross));
    return cross ? HN_FAIL(HN_ERR_UNSUPPORTED, "%s: add_cross_attention", where) : HN_OK;
}

static hn_status read_activation(const json_t *j, const char *where, hn_gpt2_config *c)
{
    static const struct {
        const char *name;
        hn_activation_kind kind;
    } names[] = {{"gelu_new", HN_ACT_GELU_TANH},
                 {"gelu_pytorch_tanh", HN_ACT_GELU_TANH},
                 {"gelu", HN_ACT_GELU},
                 {"relu", HN_ACT_RELU},
                 {"silu", HN_ACT_SILU},
                 {"swish", HN_ACT_SILU},
                 {"quick_gelu", HN_ACT_QUICK_GELU}};
    const char *name = "gelu_new";
    HN_TRY(hn_json_get_text(j, "activation_function", where, false, &name));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i].name) != 0) continue;
        c->activation = names[i].kind;
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: activation_function '%s'", where, name);
}

static hn_status read_dtype(const json_t *j, const char *where, hn_gpt2_config *c)
{
    static const struct {
        const char *name;
        hn_dtype dtype;
    } names[] = {{"float32", HN_F32}, {"float16", HN_F16}, {"bfloat16", HN_BF16}};
    const char *name = NULL;
    HN_TRY(hn_json_get_text(j, "torch_dtype", where, false, &name));
    HN_TRY(hn_json_get_text(j, "dtype", where, false, &name));
    if (name == NULL) return HN_OK;
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i].name) != 0) continue;
        c->file_dtype = names[i].dtype;
        c->says_dtype = true;
        return HN_OK;
    }
    return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: dtype '%s', only float32, float16, bfloat16", where,
                   name);
}

static hn_status read_sizes(const json_t *j, const char *where, hn_gpt2_config *c)
{
    HN_TRY(hn_json_get_i64(j, "vocab_size", where, 1, MAX_DIM, false, &c->vocab));
    HN_TRY(hn_json_get_i64(j, "n_embd", where, 1, MAX_DIM, false, &c->hidden));
    HN_TRY(hn_json_get_i64(j, "n_layer", where, 1, MAX_LAYERS, false, &c->layers));
    HN_TRY(hn_json_get_i64(j, "n_head", where, 1, MAX_DIM, false, &c->heads));
    HN_TRY(hn_json_get_i64(j, c->mingpt ? "block_size" : "n_positions", where, 1, MAX_DIM, false,
                           &c->positions));
    c->intermediate = 4 * c->hidden;
    HN_TRY(hn_json_get_i64(j, "n_inner", where, 1, MAX_DIM, false, &c->intermediate));
    HN_TRY(hn_json_get_f64(j, "layer_norm_epsilon", where, false, &c->ln_eps));
    HN_TRY(hn_json_get_f64(j, "initializer_range", where, false, &c->init_range));
    if (c->hidden % c->heads != 0)
        return HN_FAIL(HN_ERR_SHAPE, "%s: n_embd %" PRId64 " is no multiple of n_head %" PRId64,
                       where, c->hidden, c->heads);
    if (!(c->ln_eps > 0) || !(c->init_range >= 0))
        return HN_FAIL(HN_ERR_SHAPE, "%s: layer_norm_epsilon %g must be positive", where,
                       c->ln_eps);
    return HN_OK;
}

static hn_status read_tokens(const json_t *j, const char *where, hn_gpt2_config *c)
{
    int64_t bos = -1, eos = -1;
    HN_TRY(hn_json_get_i64(j, "bos_token_id", where, -1, INT32_MAX, false, &bos));
    HN_TRY(hn_json_get_i64(j, "eos_token_id", where, -1, INT32_MAX, false, &eos));
    c->bos = (int32_t)bos;
    c->eos = (int32_t)eos;
    return HN_OK;
}

hn_status hn_gpt2_config_read(const json_t *j, const char *where, const hn_log *log,
                              hn_gpt2_config *out)
{
    /* The class's defaults. */
    hn_gpt2_config c = {.vocab = 50257,
                        .hidden = 768,
                        .layers = 12,
                        .heads = 12,
                        .positions = 1024,
                        .ln_eps = 1e-5,
                        .init_range = 0.02,
                        .scaled = true,
                        .file_dtype = HN_F32};
    const char *type = "gpt2";
    c.mingpt = json_object_get(j, "block_size") != NULL;
    c.tied = !c.mingpt;
    HN_TRY(hn_json_get_text(j, "model_type", where, !c.mingpt, &type));
    if (!c.mingpt && strcmp(type, "gpt2") != 0)
        return HN_FAIL(HN_ERR_UNSUPPORTED, "%s: model_type '%s' is not gpt2", where, type);
    HN_TRY(refuse(j, where));
    HN_TRY(read_sizes(j, where, &c));
    HN_TRY(read_activation(j, where, &c));
    HN_TRY(hn_json_get_bool(j, "tie_word_embeddings", where, false, &c.tied));
    HN_TRY(hn_json_get_bool(j, "scale_attn_weights", where, false, &c.scaled));
    HN_TRY(
        hn_json_get_bool(j, "scale_attn_by_inverse_layer_idx", where, false, &c.scaled_by_layer));
    HN_TRY(read_dtype(j, where, &c));
    HN_TRY(read_tokens(j, where, &c));
    warn_dropout(j, where, log);
    hn_json_warn_unknown(j, known_keys, sizeof known_keys / sizeof *known_keys, where, log);
    *out = c;
    return HN_OK;
}
