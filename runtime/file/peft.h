/* peft.h - LoRA adapters as folders of the PEFT library.
 *
 *   y = W x + scale * B (A (dropout(x)))      scale = alpha / r, or alpha / sqrt(r) with rslora
 *   y = m / || W + scale * B A || (W x + scale * B (A (x)))     with dora: a norm for each output
 *
 * Folder     adapter_config.json and adapter_model.safetensors with the tensors
 *            base_model.model.<module>.lora_A.weight [r, in] and .lora_B.weight [out, r]; those of
 *            a convolution are [r, in, kh, kw] and [out, r, 1, 1]. With use_dora a linear layer
 *            has .lora_magnitude_vector [out], too. A module of modules_to_save is
 *            there whole: base_model.model.<module>.weight and .bias.
 * Honoured   r, lora_alpha, lora_dropout, use_rslora, use_dora, target_modules (list of suffixes or
 * one regular expression), exclude_modules, layers_to_transform, layers_pattern, rank_pattern,
 * alpha_pattern, fan_in_fan_out, modules_to_save. Refused    by a line that names the key:
 * everything else that would change the result (bias, replicated layers, PiSSA-like initialisation,
 * ...) and every key that is not known and is set to something. Matching   as PEFT does it:
 * exclusions first; a string must match the whole module path; a list entry matches a path that
 * equals it or ends with "." and it; with layers_to_transform the first number of the path (or the
 * one behind layers_pattern) must be listed, unless the entry is the whole path. Keys of
 * rank_pattern and alpha_pattern are expressions for the path or its end after a dot; the first one
 * that matches wins. Expressions are PCRE2's, with a limit on backtracking. Source conventions.md
 * part 6.
 */
#ifndef HN_PEFT_H
#define HN_PEFT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char **items;
    int64_t n;
} hn_names;

/* Which modules: either a list of suffixes or one expression; both empty: none. */
typedef struct {
    hn_names list;
    char *regex;
} hn_peft_selector;

typedef struct {
    char *key; /* expression for the path or its end after a dot */
    double value;
} hn_peft_override;

typedef struct {
    hn_peft_override *items;
    int64_t n;
} hn_peft_pattern;

/* A zeroed struct with r, alpha and targets filled in is a valid plain LoRA. All pointers are
 * owned: hn_peft_config_clear frees them. */
typedef struct {
    char *base_model, *revision, *task_type; /* NULL: null in the file */
    int64_t r;
    double alpha, dropout;
    bool rslora, dora, fan_in_fan_out;
    hn_peft_selector targets, exclude;
    int64_t *layers; /* layers_to_transform */
    int64_t n_layers;
    hn_names layers_pattern;
    hn_peft_pattern ranks, alphas;
    hn_names saved; /* modules_to_save: trained and written whole; matched as the list of targets */
} hn_peft_config;

/* Reads adapter_config.json from memory; `where` names it in errors. */
HN_NODISCARD hn_status hn_peft_config_parse(const char *text, size_t size, const char *where,
                                            hn_peft_config *out);
void hn_peft_config_clear(hn_peft_config *c); /* leaves it zeroed */
HN_NODISCARD hn_status hn_names_add(hn_names *names, const char *item);
void hn_names_clear(hn_names *names);

/* Does the adapter apply to this module? Errors: HN_ERR_FORMAT for an expression that does not
 * compile or backtracks beyond the limit; HN_ERR_MEMORY. */
HN_NODISCARD hn_status hn_peft_matches(const hn_peft_config *c, const char *module, bool *out);
/* Rank and scale of a module that matches. */
HN_NODISCARD hn_status hn_peft_rank(const hn_peft_config *c, const char *module, int64_t *r,
                                    double *scale);

/* Is the module one of modules_to_save? */
bool hn_peft_saves(const hn_peft_config *c, const char *module);

typedef struct {
    char *module;       /* path without "base_model.model." */
    int64_t r, in, out; /* of a convolution: in = kh kw channels */
    int64_t kh, kw;     /* 0: a linear layer */
    float *a;           /* [r, in] */
    float *b;           /* [out, r] */
    float *m;           /* [out]; NULL: the adapter is none with dora */
    double scale;
} hn_peft_module;

enum { HN_PEFT_DIMS = 4 };

/* Of a module that is saved whole. */
typedef struct {
    char *name; /* "fc.weight": path without "base_model.model." */
    int ndim;
    int64_t dim[HN_PEFT_DIMS];
    float *value;
} hn_peft_tensor;

typedef struct {
    hn_peft_config config;
    hn_peft_module *modules; /* in byte order of the path */
    int64_t n;
    hn_peft_tensor *saved; /* in byte order of the name */
    int64_t n_saved;
} hn_peft_adapter;

/* Reads a folder. Every tensor must belong to a module that the config matches, in pairs, with
 * that module's rank, or to one that it saves: PEFT would leave the others out without a word. */
HN_NODISCARD hn_status hn_peft_load(const char *dir, hn_peft_adapter *out);
void hn_peft_clear(hn_peft_adapter *a); /* leaves it zeroed */
const hn_peft_module *hn_peft_find(const hn_peft_adapter *a, const char *module);
const hn_peft_tensor *hn_peft_saved(const hn_peft_adapter *a, const char *name);

/* Writes the smallest correct folder, atomically. An older adapter at `dir` is replaced and its
 * README.md kept; a folder with any other content is refused (HN_ERR_IO).
 * dtype    HN_F32 or HN_BF16, of all tensors
 * Errors   HN_ERR_ARG when a module does not match the config or has another rank or scale than
 *          the config gives it (nobody could load that); HN_ERR_NUMERIC for NaN or infinity */
HN_NODISCARD hn_status hn_peft_save(const char *dir, const hn_peft_adapter *a, hn_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
