/* peft_impl.h - what the kinds of PEFT adapters share: LoRA (peft.c) and SHiRA (shira.c). */
#ifndef HN_PEFT_IMPL_H
#define HN_PEFT_IMPL_H
#include <jansson.h>

#include "runtime/file/peft.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HN_PEFT_PREFIX  "base_model.model."
#define HN_PEFT_CONFIG  "adapter_config.json"
#define HN_PEFT_TENSORS "adapter_model.safetensors"

/* null, false, "", [] or {}: a key that is not set. */
bool hn_peft_is_off(const json_t *v);
/* A list of names or an expression, which must compile. Errors: HN_ERR_FORMAT, HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_peft_read_selector(const json_t *o, const char *key, const char *where,
                                             hn_peft_selector *out);
/* *out is new, or stays where the key is absent. */
HN_NODISCARD hn_status hn_peft_copy_text(const json_t *o, const char *key, const char *where,
                                         char **out);
json_t *hn_peft_selector_json(const hn_peft_selector *s);
json_t *hn_peft_text_json(const char *s); /* NULL: null */

/* An older adapter at `old` may be replaced; its README.md moves along to `new`.
 * Errors: HN_ERR_IO: anything else is there */
HN_NODISCARD hn_status hn_peft_adopt_old(const char *old, const char *new_folder);

#ifdef __cplusplus
}
#endif
#endif
