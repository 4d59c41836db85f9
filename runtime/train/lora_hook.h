/* lora_hook.h - the LoRA method: a PEFT configuration decides which linear layers and convolutions
 * get a low-rank pair, and which modules are trained whole (modules_to_save).
 *
 *   y = W x + scale * B (A (dropout(x)))     scale = alpha / r, or alpha / sqrt(r) (rsLoRA)
 *
 * With DoRA what that makes of x is scaled to trained magnitudes (kernels/lora/magnitude.h):
 *
 *   y = m / || W + scale * B A || (W x + scale * B (A (dropout(x))))      a norm for each output
 *
 * Dropout acts on the update alone, as with LoRA; PEFT, in training, drops values in front of the
 * part (m / norm - 1) W x, too.
 *
 * Source: Hu et al., LoRA, ICLR 2022, equation 3; Kalajdzievski, rsLoRA, 2023; Liu et al., DoRA,
 * ICML 2024, equation 5. */
#ifndef HN_LORA_HOOK_H
#define HN_LORA_HOOK_H
#include "runtime/adapt/params.h"
#include "runtime/file/peft.h"
#include "runtime/model/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The hook for a configuration, which must outlive it. */
hn_adapt hn_lora_hook(const hn_peft_config *c);

/* Every name must be that of a module of the model or the end of one behind a dot.
 * Errors: HN_ERR_ARG naming the option and the names there are; HN_ERR_MEMORY */
HN_NODISCARD hn_status hn_lora_check_names(const hn_params *p, const hn_names *names,
                                           const char *option);

/* Whether PEFT could hold what the configuration asks for, and layers can do it.
 * Errors: HN_ERR_UNSUPPORTED: a pair for a convolution in groups, which PEFT forms otherwise; DoRA
 * for a convolution */
HN_NODISCARD hn_status hn_lora_check_layers(const hn_params *p, const hn_peft_config *c);

/* "all-linear": every linear layer and convolution but the head, the first layer of a classifier
 * (stem, patch embedding) and convolutions in groups, as the shortest ends of their names that no
 * other module has: "c_attn", "attn.proj" where "patch_embed.proj" is another. */
HN_NODISCARD hn_status hn_lora_every_layer(const hn_model *m, hn_names *out);

/* The head of a classifier is trained whole. option: names the targets in errors
 * Errors  HN_ERR_ARG: it is a target, too */
HN_NODISCARD hn_status hn_lora_save_head(const hn_model *m, const char *option, hn_peft_config *c);

/* Copies an adapter's values into the low-rank pairs and the modules that it saves whole. Every
 * pair must be in the adapter and every module of the adapter in the model, with the same shapes.
 * Errors: HN_ERR_SHAPE, HN_ERR_FORMAT naming the module */
HN_NODISCARD hn_status hn_lora_set(const hn_params *p, const hn_peft_adapter *a, const char *where);

/* Collects the pairs of a model. out->config is a borrowed copy of *c: free with hn_lora_release.
 */
HN_NODISCARD hn_status hn_lora_get(const hn_params *p, const hn_peft_config *c,
                                   hn_peft_adapter *out);
void hn_lora_release(hn_peft_adapter *a); /* accepts an empty one */

#ifdef __cplusplus
}
#endif
#endif
