/* Any bytes as a configuration: the JSON reader and those who read its values. */
#include <cstdint>
#include <cstdlib>

#include "runtime/base/json.h"
#include "runtime/file/peft.h"

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

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = reinterpret_cast<const char *>(data);
    json_t *value = nullptr;
    if (hn_json_parse(text, size, "fuzz", &value) != HN_OK) return 0;
    /* The reader of a model's config.json (runtime/model) is called here with `value` as well. */
    json_decref(value);
    fuzz_peft(text, size);
    return 0;
}
