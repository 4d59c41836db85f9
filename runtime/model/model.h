/* model.h - a decoder from disk: configuration, weights, digest.
 *
 * --model DIR loads a Hugging Face folder; --model config.json starts from random weights that the
 * seed decides. */
#ifndef HN_MODEL_H
#define HN_MODEL_H
#include <stdbool.h>

#include "runtime/adapt/params.h"
#include "runtime/file/model_dir.h"
#include "runtime/model/llama_config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    char *path; /* as given */
    hn_llama_config config;
    hn_model_dir *dir;   /* NULL: random weights */
    json_t *config_json; /* borrowed from dir, or owned */
    hn_dtype dtype;      /* to compute in */
    bool checked_digest;
    char digest[HN_SHA256_HEX]; /* of the tensor tree; of config and seed for random weights */
} hn_model;

/* dtype    "auto", "f32" or "bf16": auto computes bf16 files in bf16, f32 and f16 files in f32 and
 *          refuses other types by name
 * Errors   those of the folder and the configuration */
HN_NODISCARD hn_status hn_model_open(const char *path, const char *dtype, const hn_log *log,
                                     hn_model *out);
void hn_model_close(hn_model *m); /* accepts an empty one */

/* Every parameter of the model is in the files with its shape and a float type; an untied copy of
 * a tied head equals the embedding. What the files hold besides is named in a warning. */
HN_NODISCARD hn_status hn_model_check(const hn_model *m, const hn_params *p, const hn_log *log);

/* Fills the base parameters from the files, or from the seed, and adapters from the seed. */
HN_NODISCARD hn_status hn_model_load(const hn_model *m, const hn_params *p, uint64_t seed);

/* Computed once: reads every byte of the weights. */
HN_NODISCARD hn_status hn_model_digest(hn_model *m, uint64_t seed, const char **hex);

#ifdef __cplusplus
}
#endif
#endif
