/* Any bytes as a configuration: the JSON reader and those who read its values. */
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "runtime/base/json.h"
#include "runtime/file/peft.h"
#include "runtime/model/llama_config.h"

static void fuzz_peft(const char *text, size_t size)
{
    static const char *const modules[] = {"model.layers.0.self_attn.q_proj",
                                          "transformer.h.11.attn.c_attn", "lm_head", ""};
    hn_peft_config c = {};
    if (hn_peft_config_parse(text, size, "fuzz", &c) != HN_OK) return;
    for (const char *module : modules) {
        bool matches = false;
        int64_t r = 0;
        double scale = 0;
        if (hn_peft_matches(&c, module, &matches) == HN_OK &&
            hn_peft_rank(&c, module, &r, &scale) == HN_OK && (r < 1 || !(scale >= 0)))
            std::abort();
    }
    hn_peft_config_clear(&c);
}

/* What is accepted must be usable: sizes that fit together and tables that can be computed. */
static void fuzz_model(const json_t *value)
{
    hn_llama_config c = {};
    if (hn_llama_config_read(value, "fuzz", nullptr, &c) != HN_OK) return;
    if (c.heads < 1 || c.heads % c.kv_heads != 0 || c.n_eos > HN_MAX_EOS) std::abort();
    for (int64_t i = 0; i < c.layers; i++)
        if (hn_llama_window(&c, i) < 0) std::abort();
    if (c.rope.rotary_dim <= 256) {
        std::vector<float> cos((size_t)(4 * c.rope.rotary_dim)), sin(cos.size());
        const int64_t half = c.rope.rotary_dim / 2;
        if (hn_rope_table(&c.rope, 4, 4, half, cos.data(), sin.data()) != HN_OK) std::abort();
    }
    hn_llama_config_free(&c);
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = reinterpret_cast<const char *>(data);
    json_t *value = nullptr;
    if (hn_json_parse(text, size, "fuzz", &value) != HN_OK) return 0;
    fuzz_model(value);
    json_decref(value);
    fuzz_peft(text, size);
    return 0;
}
